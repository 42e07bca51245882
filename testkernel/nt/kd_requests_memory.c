// SPDX-License-Identifier: MIT
// Virtual and physical memory: read, write, search, fill, query.
//
// Everything a debugger names here may be nonsense. hal's copies never fault; what is left to do is to bound every
// length before it is used and to say truthfully how far a transfer came.
#include "testkernel/nt/kd.h"

#include "testkernel/nt/mappings.h"

#define FILL_VIRTUAL 1
#define FILL_PHYSICAL 2
#define QUERY_KERNEL 2
#define QUERY_ACCESS_ALL 7

static enum kd_outcome finish(struct kd_request *r, ntstatus_t status, uint32_t reply_len)
{
    r->m.ReturnStatus = status;
    r->data_len = reply_len;
    return KD_REPLY;
}

// A 32-bit kernel ignores the upper half: debuggers send sign-extended and plain addresses alike.
static hal_va_t to_va(uint64_t address)
{
    return (hal_va_t)address;
}

enum kd_outcome kd_read_virtual(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    uint32_t want = m->TransferCount < KD_DATA_MAX ? m->TransferCount : KD_DATA_MAX;
    size_t done;

    (void)hal_copy_from(r->data, to_va(m->TargetBaseAddress), want, &done); // done says it all
    nt_lie_virtual(to_va(m->TargetBaseAddress), r->data, done);
    m->ActualBytes = (uint32_t)done;
    return finish(r, done == want ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL,
                  (uint32_t)done);
}

enum kd_outcome kd_write_virtual(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    size_t done;
    int rc = hal_copy_to(to_va(m->TargetBaseAddress), r->data, r->data_len, &done);

    m->ActualBytes = (uint32_t)done;
    return finish(r, rc == 0 ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL, 0);
}

// Up to the end of the page, in the pieces that hal reads as single accesses: a device register may be meant.
static uint32_t physical_piece(uint64_t address, uint32_t left)
{
    uint32_t piece = HAL_PAGE_SIZE - (uint32_t)(address & (HAL_PAGE_SIZE - 1));

    return piece < left ? piece : left;
}

enum kd_outcome kd_read_physical(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    uint32_t want = m->TransferCount < KD_DATA_MAX ? m->TransferCount : KD_DATA_MAX;
    uint32_t done = 0;

    while (done < want) {
        uint32_t piece = physical_piece(m->TargetBaseAddress + done, want - done);
        if (m->TargetBaseAddress + done < done || hal_phys_read(m->TargetBaseAddress + done, r->data + done, piece))
            break;
        done += piece;
    }
    nt_lie_physical(m->TargetBaseAddress, r->data, done);
    m->ActualBytes = done;
    return finish(r, done == want ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL, done);
}

enum kd_outcome kd_write_physical(struct kd_request *r)
{
    struct kd_memory *m = &r->m.u.Memory;
    uint32_t done = 0;

    while (done < r->data_len) {
        uint32_t piece = physical_piece(m->TargetBaseAddress + done, r->data_len - done);
        if (m->TargetBaseAddress + done < done || hal_phys_write(m->TargetBaseAddress + done, r->data + done, piece))
            break;
        done += piece;
    }
    m->ActualBytes = done;
    return finish(r, done == r->data_len ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL, 0);
}

// Is the pattern at this address? Pieces keep the window small whatever the pattern's length.
static bool matches_at(hal_va_t va, const uint8_t *pattern, uint32_t len)
{
    uint8_t window[64];

    for (uint32_t done = 0; done < len;) {
        uint32_t piece = len - done < sizeof(window) ? len - done : sizeof(window);
        size_t copied;
        if (hal_copy_from(window, va + done, piece, &copied) != 0 || memcmp(window, pattern + done, piece) != 0)
            return false;
        done += piece;
    }
    return true;
}

// First byte equal to `byte` in [va, va + len), read page by page; pages that are absent are skipped.
static bool find_byte(hal_va_t va, uint64_t len, uint8_t byte, hal_va_t *ret)
{
    static uint8_t window[HAL_PAGE_SIZE];

    while (len > 0) {
        uint64_t piece = HAL_PAGE_SIZE - (va & (HAL_PAGE_SIZE - 1));
        size_t copied;
        piece = piece < len ? piece : len;
        (void)hal_copy_from(window, va, (size_t)piece, &copied); // an absent page has no bytes to look at
        for (size_t i = 0; i < copied; i++) {
            if (window[i] == byte) {
                *ret = va + i;
                return true;
            }
        }
        va += (hal_va_t)piece;
        len -= piece;
    }
    return false;
}

// The debugger waits silently, so a range that a person would not want to wait for is refused.
#define SEARCH_MAX (64ull << 20)

enum kd_outcome kd_search_memory(struct kd_request *r)
{
    struct kd_search *s = &r->m.u.Search;
    hal_va_t va = to_va(s->SearchAddress);
    uint64_t left = s->SearchLength;

    if (s->PatternLength == 0 || s->PatternLength > r->data_len || left < s->PatternLength || left > SEARCH_MAX ||
        s->SearchAddress + left < left)
        return finish(r, STATUS_INVALID_PARAMETER, 0);
    while (left >= s->PatternLength) {
        hal_va_t hit;
        if (!find_byte(va, left - s->PatternLength + 1, r->data[0], &hit))
            break;
        left -= hit - va;
        va = hit;
        if (matches_at(va, r->data, s->PatternLength)) {
            s->SearchAddress = nt_extend(va);
            return finish(r, STATUS_SUCCESS, 0);
        }
        va++;
        left--;
    }
    return finish(r, STATUS_NO_MORE_MATCHES, 0);
}

static bool fill_piece(const struct kd_fill *f, uint32_t at, const uint8_t *bytes, uint32_t len)
{
    size_t done;

    if (f->Flags == FILL_PHYSICAL)
        return hal_phys_write(f->Address + at, bytes, len) == 0;
    return hal_copy_to(to_va(f->Address) + at, bytes, len, &done) == 0;
}

enum kd_outcome kd_fill_memory(struct kd_request *r)
{
    struct kd_fill *f = &r->m.u.Fill;
    uint32_t done = 0;

    if (f->PatternLength == 0 || f->PatternLength > r->data_len ||
        (f->Flags != FILL_VIRTUAL && f->Flags != FILL_PHYSICAL) || f->Address + f->Length < f->Address)
        return finish(r, STATUS_INVALID_PARAMETER, 0);
    while (done < f->Length) {
        uint32_t piece = f->Length - done < f->PatternLength ? f->Length - done : f->PatternLength;
        if (!fill_piece(f, done, r->data, piece))
            break;
        done += piece;
    }
    ntstatus_t status = done == f->Length ? STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
    f->Length = done;
    return finish(r, status, 0);
}

enum kd_outcome kd_query_memory(struct kd_request *r)
{
    struct kd_query_memory *q = &r->m.u.QueryMemory;

    if (q->AddressSpace != 0)
        return finish(r, STATUS_INVALID_PARAMETER, 0);
    // NT answers by address alone, mapped or not (KD reference, section 4.4).
    bool is_kernel = to_va(q->Address) >> (sizeof(hal_va_t) * 8 - 1) != 0;
    q->Reserved = 0;
    q->AddressSpace = is_kernel ? QUERY_KERNEL : 0;
    q->Flags = QUERY_ACCESS_ALL;
    return finish(r, STATUS_SUCCESS, 0);
}
