// SPDX-License-Identifier: MIT
// The kernel's table of 32 breakpoints: a handle is an index plus one.
//
//   FREE --write, page present--> SET --restore--> FREE
//   FREE --write, page absent---> PENDING --page has come--> SET
//   SET --restore, page absent--> SUSPENDED --page has come--> FREE (the byte is put back first)
#include "testkernel/nt/kd.h"

enum breakpoint_state { FREE, PENDING, SET, SUSPENDED };

#define BREAKPOINT_MAX 32u
#define INT3 0xCCu

struct breakpoint {
    uintptr_t address;
    enum breakpoint_state state;
    uint8_t original;
};

static struct breakpoint table[BREAKPOINT_MAX];

static bool read_byte(uintptr_t va, uint8_t *ret)
{
    size_t done;

    return hal_copy_from(ret, va, 1, &done) == 0;
}

static bool write_byte(uintptr_t va, uint8_t byte)
{
    size_t done;

    return hal_copy_to(va, &byte, 1, &done) == 0;
}

static void insert(struct breakpoint *b)
{
    if (read_byte(b->address, &b->original) && write_byte(b->address, INT3))
        b->state = SET;
}

// Puts the original byte back; an absent page is dealt with when it comes back.
static void remove_from_memory(struct breakpoint *b)
{
    if (b->state != SET && b->state != SUSPENDED)
        b->state = FREE;
    else
        b->state = write_byte(b->address, b->original) ? FREE : SUSPENDED;
}

void kd_breakpoints_set_pending(void)
{
    for (unsigned i = 0; i < BREAKPOINT_MAX; i++) {
        if (table[i].state == PENDING)
            insert(&table[i]);
        else if (table[i].state == SUSPENDED)
            remove_from_memory(&table[i]);
    }
}

unsigned kd_breakpoints_delete_range(uintptr_t first, uintptr_t last)
{
    unsigned count = 0;

    for (unsigned i = 0; i < BREAKPOINT_MAX; i++) {
        if (table[i].state != FREE && table[i].address >= first && table[i].address <= last) {
            remove_from_memory(&table[i]);
            count++;
        }
    }
    return count;
}

// The slot for a new breakpoint, NULL when the table is full or the address has one already.
static struct breakpoint *slot_for(uintptr_t address)
{
    struct breakpoint *free_slot = NULL;

    for (unsigned i = BREAKPOINT_MAX; i-- > 0;) {
        if (table[i].state == FREE)
            free_slot = &table[i];
        else if (table[i].address == address)
            return NULL;
    }
    return free_slot;
}

enum kd_outcome kd_write_breakpoint(struct kd_request *r)
{
    struct breakpoint *b = slot_for((uintptr_t)r->m.u.WriteBreakPoint.Address);

    r->data_len = 0;
    r->m.u.WriteBreakPoint.Handle = 0;
    r->m.ReturnStatus = STATUS_UNSUCCESSFUL;
    if (b == NULL)
        return KD_REPLY;
    *b = (struct breakpoint){.address = (uintptr_t)r->m.u.WriteBreakPoint.Address, .state = PENDING};
    insert(b);
    r->m.u.WriteBreakPoint.Handle = (uint32_t)(b - table) + 1;
    r->m.ReturnStatus = STATUS_SUCCESS;
    return KD_REPLY;
}

enum kd_outcome kd_restore_breakpoint(struct kd_request *r)
{
    uint32_t index = r->m.u.RestoreBreakPointHandle - 1;

    r->data_len = 0;
    r->m.ReturnStatus = STATUS_UNSUCCESSFUL;
    if (index >= BREAKPOINT_MAX || table[index].state == FREE || table[index].state == SUSPENDED)
        return KD_REPLY;
    remove_from_memory(&table[index]);
    r->m.ReturnStatus = STATUS_SUCCESS;
    return KD_REPLY;
}

// Never implemented by ReactOS, and no debugger is known to need it. The stop goes on.
enum kd_outcome kd_refuse_breakpoint_ex(struct kd_request *r)
{
    r->data_len = 0;
    r->m.ReturnStatus = STATUS_UNSUCCESSFUL;
    return KD_REPLY;
}
