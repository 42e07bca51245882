// SPDX-License-Identifier: MIT
// A KD transport that speaks VirtualKD's protocol, VirtualBox leg, as the modules of that family do it. Written from the VirtualKD reference alone; it shares no
// code with vmm/, so that an error in one does not hide in the other. No module of VirtualKD's own was at hand: this is what their guests are tried with.
//
// Like theirs it takes its buffer for contiguous physical memory, so the kernel is booted with contiguous=1.
// Runs at HIGH_LEVEL, all other CPUs frozen (the poll: they run); one caller at a time. Never touches pageable memory.
#define HAL_NO_TRANSPORT
#include "testkernel/hal.h"
#include "testkernel/virtualkd/variant.h"

#define EXPORT    __declspec(dllexport)
#define NT_IMPORT __declspec(dllimport)

NT_IMPORT extern uint8_t KdDebuggerNotPresent;
NT_IMPORT uint64_t HAL_STDCALL MmGetPhysicalAddress(const void *va);

enum {
    BUFFER_SIZE = 0x20400, // section 2.2
    PROBE_PORT = 0x5658,
    CALL_PORT = 0x5659,
    TYPE_POLL = 8,
    SHARED_KD_ENABLED = 0x2D4, // KUSER_SHARED_DATA
    CONTEXT_SIZE = 6,
    TEST_BYTES = 512,
};
#define VMWARE_MAGIC   0x564D5868u
#define VMWARE_OPEN    0x0000001Eu
#define VMWARE_CLOSE   0x0006001Eu
#define VMWARE_RPCI    0xC9435052u
#define VMWARE_OPENED  0x00010000u
#define VBOX_MAGIC     0x584F4256u
#define NO_CHANNEL     0xFFFFFFFFu

enum { GLOBAL_ABSENT = 1, GLOBAL_RETRY = 2, GLOBAL_HAS_BYTE = 4 };
enum { RECEIVED = 0, TIMED_OUT = 1, RESEND = 2 };
enum { SUCCESS = 0, NOT_FOUND = (int)0xC0000225, BAD_VERSION = (int)0xC0000059 };

static uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(16))); // and not page aligned: nobody promises that
static uint32_t used;   // of a request or reply, from the beginning of the buffer
static bool has_host;
static uint64_t where;  // the module that asks once: the buffer's physical address

// ------------------------------------------------------------------------------------------------------- the ports --

static void out_registers(uint16_t port, uint32_t *ebx, uint32_t *ecx, uint32_t edx)
{
    uint32_t a = VMWARE_MAGIC, si = 0, di = 0;
    (void)port; // the lower half of edx
    __asm__ volatile("outl %%eax, %%dx" : "+a"(a), "+b"(*ebx), "+c"(*ecx), "+d"(edx), "+S"(si), "+D"(di) : : "memory");
}

static uint32_t in_magic(void)
{
    uint32_t a = VMWARE_MAGIC;
    __asm__ volatile("inl %%dx, %%eax" : "+a"(a) : "d"(PROBE_PORT) : "memory");
    return a;
}

// Section 2.1. The register is as wide as the CPU's; what goes out are its lower 32 bits.
static void out_address(uint64_t pa)
{
    uintptr_t a = (uintptr_t)(variant.has_wide_address ? pa : (uint32_t)pa);
    __asm__ volatile("outl %%eax, %%dx" : : "a"(a), "d"(CALL_PORT) : "memory");
}

// Section 1.1: VMware first, VirtualBox second, and the close of what was never opened.
static bool probe(void)
{
    uint32_t ebx = VMWARE_RPCI, ecx = VMWARE_OPEN;
    out_registers(PROBE_PORT, &ebx, &ecx, PROBE_PORT);
    if (ecx & VMWARE_OPENED)
        return false; // that leg is not written here
    bool is_found = in_magic() == VBOX_MAGIC;
    ecx = VMWARE_CLOSE;
    out_registers((uint16_t)NO_CHANNEL, &ebx, &ecx, NO_CHANNEL);
    return is_found;
}

// ------------------------------------------------------------------------------------------------ requests, replies --

static void put_byte(uint32_t value)
{
    buffer[used++] = (uint8_t)value;
}

static void put_word(uint32_t value)
{
    for (unsigned i = 0; i < 4; i++, value >>= 8)
        put_byte(value);
}

static uint32_t get_word(uint32_t at)
{
    return buffer[at] | (uint32_t)buffer[at + 1] << 8 | (uint32_t)buffer[at + 2] << 16 | (uint32_t)buffer[at + 3] << 24;
}

static void put_bytes(const void *bytes, unsigned length)
{
    const uint8_t *from = bytes;
    for (unsigned i = 0; i < length; i++)
        put_byte(from[i]);
}

static void begin(char command)
{
    used = 8;
    put_bytes("~kdVMvA ", 8);
    put_byte((uint8_t)command);
}

static void put_buffer(const struct kd_string *s)
{
    put_word(s ? s->length | (uint32_t)s->maximum_length << 16 : 0);
}

static void put_context(const struct kd_context *context)
{
    static const uint8_t none[CONTEXT_SIZE];
    put_bytes(context ? (const void *)context : none, CONTEXT_SIZE);
}

static uint32_t globals(void)
{
    uint8_t enabled = *(volatile uint8_t *)(uintptr_t)(HAL_SHARED_DATA + SHARED_KD_ENABLED);
    return (uint32_t)enabled << 8 | GLOBAL_HAS_BYTE | (KdDebuggerNotPresent ? GLOBAL_ABSENT : 0);
}

static void take_globals(uint32_t word)
{
    uint8_t byte = (uint8_t)(word >> 8);
    KdDebuggerNotPresent = word & GLOBAL_ABSENT;
    if (word & GLOBAL_HAS_BYTE)
        *(volatile uint8_t *)(uintptr_t)(HAL_SHARED_DATA + SHARED_KD_ENABLED) = variant.takes_whole_buffers ? byte : byte != 0;
}

// Return: true: the reply has at least `least` bytes behind its length, and the right beginning.
static bool call(uint32_t least)
{
    static const char start[] = "1 ++kdVMvA ";
    uint32_t length = used - 8;
    used = 0;
    put_word(length);
    put_word(BUFFER_SIZE);
    out_address(variant.probes ? MmGetPhysicalAddress(buffer) : where);
    if (get_word(0) < least)
        return false;
    for (unsigned i = 0; i < sizeof start - 1; i++) {
        if (buffer[4 + i] != (uint8_t)start[i])
            return false;
    }
    return true;
}

// -------------------------------------------------------------------------------------------------- initialisation --

static bool is_version_right(void)
{
    begin('v');
    put_word(variant.version);
    if (!call(15) || get_word(0) != 15)
        return false;
    uint32_t host = get_word(15);
    return host == variant.version || (variant.accepts_newer && host > variant.version);
}

static bool is_connection_right(void)
{
    begin('t');
    for (unsigned i = 0; i < TEST_BYTES; i++)
        put_byte(i);
    if (!call(523) || get_word(0) != 523)
        return false;
    for (unsigned i = 0; i < TEST_BYTES; i++) {
        if (buffer[15 + i] != (uint8_t)(i ^ 0x55))
            return false;
    }
    return true;
}

static int find_host(void)
{
    where = MmGetPhysicalAddress(buffer);
    has_host = !variant.probes || probe();
    if (!has_host)
        return NOT_FOUND;
    if (!is_version_right())
        return BAD_VERSION;
    for (unsigned i = 0; i < variant.tests; i++) {
        if (!is_connection_right())
            return NOT_FOUND;
    }
    return SUCCESS;
}

// ------------------------------------------------------------------------------------------------ receiving, sending --

static void take_bytes(void *to, uint32_t at, uint32_t length)
{
    uint8_t *bytes = to;
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = buffer[at + i];
}

// Section 4.4. Return: bytes of the reply that this string has taken.
static uint32_t take_string(struct kd_string *s, uint32_t word, uint32_t at, uint32_t size)
{
    if (!s)
        return 0;
    s->length = (uint16_t)word;
    if (variant.takes_whole_buffers)
        s->maximum_length = (uint16_t)(word >> 16);
    if (!s->buffer || s->maximum_length < size)
        return 0;
    take_bytes(s->buffer, at, size);
    return size;
}

static uint32_t take_reply(struct kd_string *header, struct kd_string *data, uint32_t *data_length, struct kd_context *context)
{
    uint32_t first = get_word(0x26), second = get_word(0x2A);
    if (get_word(0) != 46 + first + second || buffer[0x0F] != 'r')
        return RESEND;
    if (context)
        take_bytes(context, 0x18, CONTEXT_SIZE);
    if (data_length)
        *data_length = get_word(0x22);
    if (variant.has_receive_globals)
        take_globals(get_word(0x2E));
    uint32_t taken = take_string(header, get_word(0x10), 0x32, first);
    taken += take_string(data, get_word(0x14), 0x32 + first, second);
    return variant.takes_whole_buffers && taken != first + second ? RESEND : get_word(0x1E);
}

EXPORT uint32_t HAL_STDCALL KdReceivePacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                            uint32_t *data_length, struct kd_context *context);

EXPORT uint32_t HAL_STDCALL KdReceivePacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                            uint32_t *data_length, struct kd_context *context)
{
    if (!has_host)
        return type == TYPE_POLL ? TIMED_OUT : RESEND;
    begin('r');
    put_word(type);
    put_word(globals());
    put_buffer(header);
    put_buffer(data);
    put_context(context);
    return call(46) ? take_reply(header, data, data_length, context) : RESEND;
}

// Return: true: once more.
static bool send_once(uint32_t type, const struct kd_string *header, const struct kd_string *data, struct kd_context *context)
{
    uint32_t second = data ? data->length : 0;
    begin('s');
    put_buffer(header);
    put_buffer(data);
    put_context(context);
    put_word(type);
    put_word(header->length);
    put_word(second);
    put_word(globals());
    put_bytes(header->buffer, header->length);
    if (second)
        put_bytes(data->buffer, second);
    if (!call(22) || get_word(0) != 22 || buffer[0x0F] != 's')
        return false;
    take_bytes(context, 0x10, CONTEXT_SIZE);
    uint32_t word = get_word(0x16);
    take_globals(word);
    return word & GLOBAL_RETRY;
}

EXPORT void HAL_STDCALL KdSendPacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                     struct kd_context *context);

EXPORT void HAL_STDCALL KdSendPacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                     struct kd_context *context)
{
    while (has_host && send_once(type, header, data, context))
        ;
}

// ----------------------------------------------------------------------------------------------------- the rest --

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize0(const void *loader_block);
EXPORT int32_t HAL_STDCALL KdDebuggerInitialize1(const void *loader_block);
EXPORT int32_t HAL_STDCALL KdSave(uint8_t sleep_transition);
EXPORT int32_t HAL_STDCALL KdRestore(uint8_t sleep_transition);
EXPORT int32_t HAL_STDCALL KdD0Transition(void);
EXPORT int32_t HAL_STDCALL KdD3Transition(void);

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize0(const void *loader_block)
{
    (void)loader_block;
    int status = find_host();
    return variant.succeeds_anyway && has_host ? SUCCESS : status;
}

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize1(const void *loader_block)
{
    (void)loader_block;
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdSave(uint8_t sleep_transition)
{
    (void)sleep_transition;
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdRestore(uint8_t sleep_transition)
{
    (void)sleep_transition;
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdD0Transition(void)
{
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdD3Transition(void)
{
    return SUCCESS;
}
