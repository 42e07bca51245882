// SPDX-License-Identifier: MIT
// Pages, mappings, copies that cannot fault, and the pool.
#include "testkernel/core/text.h"
#include "testkernel/hal/state.h"

struct paging hal_paging;
struct lock hal_memory_lock;

static uint8_t pool_used[POOL_PAGES / 8];
static uint64_t physical_end; // 2 ^ the CPU's physical address width

void lock_take(struct lock *lock)
{
    bool were_on = hal_interrupts_off();
    while (__atomic_exchange_n(&lock->held, 1, __ATOMIC_ACQUIRE))
        hal_pause();
    lock->were_on = were_on;
}

void lock_drop(struct lock *lock)
{
    bool were_on = lock->were_on;
    __atomic_store_n(&lock->held, 0, __ATOMIC_RELEASE);
    hal_interrupts_restore(were_on);
}

void memory_init(void)
{
    uint32_t regs[4];
    unsigned width = 36;
    hal_paging = (struct paging){ hal_handoff->root, &hal_handoff->pages, false };
    hal_cpuid(0x80000000u, 0, regs);
    uint32_t last_leaf = regs[0];
    if (last_leaf >= 0x80000001u) {
        hal_cpuid(0x80000001u, 0, regs);
        hal_paging.has_nx = regs[3] & 1u << 20;
    }
    if (last_leaf >= 0x80000008u) {
        hal_cpuid(0x80000008u, 0, regs);
        width = regs[0] & 0xFF;
    }
    physical_end = 1ull << (width < 32 || width > 52 ? 36 : width);
}

// ---------------------------------------------------------------------------------------------------- mappings --

int hal_translate(hal_va_t va, hal_pa_t *ret_pa, unsigned *ret_flags)
{
    return paging_translate(&hal_paging, va, ret_pa, ret_flags);
}

void hal_flush(hal_va_t va)
{
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

int hal_map(hal_va_t va, hal_pa_t pa, unsigned flags)
{
    lock_take(&hal_memory_lock);
    int result = paging_map(&hal_paging, va, pa, flags);
    lock_drop(&hal_memory_lock);
    hal_flush(va);
    return result;
}

int hal_map_large(hal_va_t va, hal_pa_t pa, unsigned flags)
{
    lock_take(&hal_memory_lock);
    int result = paging_map_large(&hal_paging, va, pa, flags);
    lock_drop(&hal_memory_lock);
    hal_flush(va);
    return result;
}

int hal_unmap(hal_va_t va)
{
    lock_take(&hal_memory_lock);
    uint64_t *entry = paging_entry(&hal_paging, va);
    if (entry)
        *entry = 0;
    lock_drop(&hal_memory_lock);
    hal_flush(va);
    return entry ? 0 : 1;
}

int hal_protect(hal_va_t va, unsigned flags)
{
    lock_take(&hal_memory_lock);
    uint64_t *entry = paging_entry(&hal_paging, va);
    if (entry)
        *entry = (*entry & PTE_ADDRESS) | paging_bits(&hal_paging, flags);
    lock_drop(&hal_memory_lock);
    hal_flush(va);
    return entry ? 0 : 1;
}

// ---------------------------------------------------------------------------------------------- physical access --

void *hal_direct(hal_pa_t pa)
{
    return pa < hal_handoff->direct_len ? (void *)(HAL_DIRECT_MAP + (uintptr_t)pa) : NULL;
}

bool hal_pa_is_ram(hal_pa_t pa, uint64_t len)
{
    for (unsigned i = 0; i < hal_boot->range_count; i++) {
        const struct hal_range *r = &hal_boot->ranges[i];
        if (r->type == 1 && pa >= r->start && pa - r->start <= r->len && len <= r->len - (pa - r->start))
            return true;
    }
    return false;
}

// Devices see the width that the caller meant; everything else may go by string instructions.
static void copy_once(void *to, const void *from, size_t len)
{
    bool is_aligned = !(((uintptr_t)to | (uintptr_t)from) & (len - 1));
    if (len == 1)
        *(volatile uint8_t *)to = *(const volatile uint8_t *)from;
    else if (len == 2 && is_aligned)
        *(volatile uint16_t *)to = *(const volatile uint16_t *)from;
    else if (len == 4 && is_aligned)
        *(volatile uint32_t *)to = *(const volatile uint32_t *)from;
    else if (len == 8 && is_aligned && HAL_X64)
        *(volatile uint64_t *)to = *(const volatile uint64_t *)from;
    else
        memcpy(to, from, len);
}

// Within one page. Beyond the direct map through this CPU's window page; saving what stood there makes it safe
// against an NMI that comes in between and uses the window too.
static void access_page(hal_pa_t pa, void *buf, size_t len, bool is_write)
{
    bool were_on = hal_interrupts_off();
    uint8_t *at = hal_direct(pa);
    hal_va_t window = WINDOW_BASE + hal_cpu_index() * (hal_va_t)HAL_PAGE_SIZE;
    uint64_t *slot = NULL, saved = 0;
    if (!at) {
        slot = paging_slot(&hal_paging, window);
        saved = *slot;
        *slot = (pa & PTE_ADDRESS) | paging_bits(&hal_paging, HAL_MAP_WRITE | HAL_MAP_NOCACHE);
        hal_flush(window);
        at = (uint8_t *)window + (pa & (HAL_PAGE_SIZE - 1));
    }
    if (is_write)
        copy_once(at, buf, len);
    else
        copy_once(buf, at, len);
    if (slot) {
        *slot = saved;
        hal_flush(window);
    }
    hal_interrupts_restore(were_on);
}

static size_t left_in_page(uint64_t address, size_t len)
{
    size_t left = HAL_PAGE_SIZE - (size_t)(address & (HAL_PAGE_SIZE - 1));
    return left < len ? left : len;
}

static int access_physical(hal_pa_t pa, uint8_t *buf, size_t len, bool is_write)
{
    if (pa >= physical_end || len > physical_end - pa)
        return 1;
    while (len) {
        size_t part = left_in_page(pa, len);
        access_page(pa, buf, part, is_write);
        pa += part;
        buf += part;
        len -= part;
    }
    return 0;
}

int hal_phys_read(hal_pa_t pa, void *buf, size_t len)
{
    return access_physical(pa, buf, len, false);
}

int hal_phys_write(hal_pa_t pa, const void *buf, size_t len)
{
    return access_physical(pa, (uint8_t *)(uintptr_t)buf, len, true); // only read when is_write
}

static int access_virtual(hal_va_t va, uint8_t *buf, size_t len, bool is_write, size_t *ret_done)
{
    size_t done = 0;
    while (done < len) {
        size_t part = left_in_page(va + done, len - done);
        hal_pa_t pa;
        bool wraps = va + done < va;
        if (wraps || hal_translate(va + done, &pa, NULL) || !hal_pa_is_ram(pa, part) ||
            access_physical(pa, buf + done, part, is_write))
            break;
        done += part;
    }
    *ret_done = done;
    return done == len ? 0 : 1;
}

int hal_copy_from(void *buf, hal_va_t va, size_t len, size_t *ret_done)
{
    return access_virtual(va, buf, len, false, ret_done);
}

int hal_copy_to(hal_va_t va, const void *buf, size_t len, size_t *ret_done)
{
    return access_virtual(va, (uint8_t *)(uintptr_t)buf, len, true, ret_done); // only read when is_write
}

// -------------------------------------------------------------------------------------------------- allocation --

hal_pa_t hal_page_alloc(void)
{
    lock_take(&hal_memory_lock);
    hal_pa_t pa = pages_alloc(&hal_handoff->pages);
    lock_drop(&hal_memory_lock);
    return pa;
}

void hal_page_free(hal_pa_t pa)
{
    lock_take(&hal_memory_lock);
    pages_free(&hal_handoff->pages, pa);
    lock_drop(&hal_memory_lock);
}

hal_pa_t hal_block_alloc(uint64_t len)
{
    lock_take(&hal_memory_lock);
    hal_pa_t pa = pages_take_block(&hal_handoff->pages, len);
    lock_drop(&hal_memory_lock);
    return pa;
}

static bool is_used(unsigned page)
{
    return pool_used[page / 8] & 1u << page % 8;
}

static void mark(unsigned first, unsigned count, bool used)
{
    for (unsigned page = first; page < first + count; page++) {
        uint8_t bit = (uint8_t)(1u << page % 8);
        pool_used[page / 8] = (uint8_t)(used ? pool_used[page / 8] | bit : pool_used[page / 8] & ~bit);
    }
}

// First fit. POOL_PAGES when there is no run of that length.
static unsigned find_run(unsigned count)
{
    unsigned run = 0;
    for (unsigned page = 0; page < POOL_PAGES; page++) {
        run = is_used(page) ? 0 : run + 1;
        if (run == count)
            return page + 1 - count;
    }
    return POOL_PAGES;
}

static hal_va_t pool_address(unsigned page)
{
    return POOL_BASE + page * (hal_va_t)HAL_PAGE_SIZE;
}

static void unmap_run(unsigned first, unsigned count)
{
    for (unsigned page = first; page < first + count; page++) {
        uint64_t *entry = paging_entry(&hal_paging, pool_address(page));
        if (!entry)
            continue;
        pages_free(&hal_handoff->pages, *entry & PTE_ADDRESS);
        *entry = 0;
        hal_flush(pool_address(page));
    }
}

static void *pool_take(unsigned count, unsigned guard)
{
    lock_take(&hal_memory_lock);
    unsigned first = find_run(count + guard);
    bool is_mapped = first < POOL_PAGES;
    for (unsigned i = 0; is_mapped && i < count; i++) {
        hal_pa_t pa = pages_alloc(&hal_handoff->pages);
        is_mapped = pa && !paging_map(&hal_paging, pool_address(first + i), pa, HAL_MAP_WRITE);
    }
    if (is_mapped)
        mark(first, count + guard, true);
    else if (first < POOL_PAGES)
        unmap_run(first, count);
    lock_drop(&hal_memory_lock);
    return is_mapped ? (void *)pool_address(first) : NULL;
}

void *hal_pool_alloc(size_t len)
{
    size_t count = (len + HAL_PAGE_SIZE - 1) / HAL_PAGE_SIZE;
    if (!count || count >= POOL_PAGES)
        return NULL;
    void *memory = pool_take((unsigned)count, 1);
    if (memory)
        memset(memory, 0, count * HAL_PAGE_SIZE);
    return memory;
}

void hal_pool_free(void *memory, size_t len)
{
    unsigned first = (unsigned)(((hal_va_t)memory - POOL_BASE) / HAL_PAGE_SIZE);
    unsigned count = (unsigned)((len + HAL_PAGE_SIZE - 1) / HAL_PAGE_SIZE);
    lock_take(&hal_memory_lock);
    unmap_run(first, count);
    lock_drop(&hal_memory_lock);
    hal_flush_all(); // before anyone can get the addresses again
    lock_take(&hal_memory_lock);
    mark(first, count + 1, false);
    lock_drop(&hal_memory_lock);
}

void *memory_stack(void)
{
    // Not zeroed: it costs time on an interpreted CPU. The unmapped page behind the previous run guards its lower end.
    uint8_t *stack = pool_take(STACK_SIZE / HAL_PAGE_SIZE, 1);
    return stack ? stack + STACK_SIZE : NULL;
}
