// SPDX-License-Identifier: MIT
// kduart.dll: a KD transport over COM1 as stock kernels have it, the yardstick vmkd is measured against. It is written
// from the KD reference alone and shares no code with vmkd, so that an error in one does not hide in the other.
// Runs at HIGH_LEVEL, all other CPUs frozen (the poll: they run); one caller at a time. Never touches pageable memory.
#define HAL_NO_TRANSPORT
#include "testkernel/hal.h"

#define EXPORT    __declspec(dllexport)
#define NT_IMPORT __declspec(dllimport)

NT_IMPORT extern uint8_t KdDebuggerNotPresent;

// KD reference 1.1, 1.3, 2.6
enum {
    DATA_LEADER = '0',
    CONTROL_LEADER = 'i',
    BREAK_IN = 'b',
    TRAILER = 0xAA,
    MAX_BODY = 4000,
    TYPE_STATE_CHANGE32 = 1,
    TYPE_DEBUG_IO = 3,
    TYPE_ACKNOWLEDGE = 4,
    TYPE_RESEND = 5,
    TYPE_RESET = 6,
    TYPE_STATE_CHANGE64 = 7,
    TYPE_POLL_BREAKIN = 8,
    TYPE_TRACE_IO = 9,
    TYPE_FILE_IO = 11,
    DATA_LEADER_WORD = 0x30303030,
    CONTROL_LEADER_WORD = 0x69696969,
    SYNC_ID = 0x800,
    SHARED_KD_ENABLED = 0x2D4, // KUSER_SHARED_DATA, KD reference 1.9
    SHARED_KD_PRESENT = 2,
};
#define INITIAL_ID 0x80800000u

// Outcomes of KdReceivePacket, KD reference 2.4; NTSTATUS values of Microsoft's headers.
enum { RECEIVED = 0, TIMED_OUT = 1, RESEND = 2 };
enum { SUCCESS = 0, NOT_FOUND = (int)0xC0000225 };

// 16550 registers
enum {
    COM1 = 0x3F8,
    DATA = 0,
    DIVISOR_LOW = 0,
    DIVISOR_HIGH = 1,
    INTERRUPTS = 1,
    FIFO = 2,
    LINE = 3,
    MODEM = 4,
    STATUS = 5
};
enum { STATUS_READY = 0x01, STATUS_EMPTY = 0x20 };

// Polls of the status register before a byte counts as missing (KD reference 1.9). On a machine where one poll
// costs an exit to user space that would be 5 s instead of 0.2 s, so the time stamp counter ends it as well.
enum { BYTE_POLLS = 1024 * 200 };
#define BYTE_CYCLES 1000000000ull

static uint32_t next_id = INITIAL_ID | SYNC_ID;
static uint32_t expected_id = INITIAL_ID;

// ------------------------------------------------------------------------------------------------------ the port --

static void port_out(unsigned reg, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"((uint16_t)(COM1 + reg)));
}

static uint8_t port_in(unsigned reg)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"((uint16_t)(COM1 + reg)));
    return value;
}

static uint64_t cycles(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static int port_open(void)
{
    enum {
        DIVISOR_LATCH = 0x80,
        EIGHT_N_1 = 0x03,
        FIFO_ON_CLEARED = 0x07,
        DTR_RTS = 0x03,
        BAUD_115200 = 1,
        ABSENT = 0xFF
    };
    if (port_in(STATUS) == ABSENT)
        return NOT_FOUND;
    port_out(INTERRUPTS, 0);
    port_out(LINE, DIVISOR_LATCH | EIGHT_N_1);
    port_out(DIVISOR_LOW, BAUD_115200);
    port_out(DIVISOR_HIGH, 0);
    port_out(LINE, EIGHT_N_1);
    port_out(FIFO, FIFO_ON_CLEARED);
    port_out(MODEM, DTR_RTS);
    return SUCCESS;
}

static void put_byte(uint8_t byte)
{
    while (!(port_in(STATUS) & STATUS_EMPTY))
        __asm__ volatile("pause");
    port_out(DATA, byte);
}

static bool get_byte(uint8_t *ret)
{
    uint64_t start = cycles();
    for (uint32_t polls = 0; polls < BYTE_POLLS; polls++) {
        if (port_in(STATUS) & STATUS_READY) {
            *ret = port_in(DATA);
            return true;
        }
        if (polls % 64 == 63 && cycles() - start > BYTE_CYCLES)
            return false;
    }
    return false;
}

// -------------------------------------------------------------------------------------------------------- frames --

struct packet {
    uint16_t type, length;
    uint32_t id, checksum;
};

static void put_word(uint32_t value, unsigned bytes)
{
    for (; bytes; bytes--, value >>= 8)
        put_byte((uint8_t)value);
}

static bool get_word(uint32_t *ret, unsigned bytes)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t byte;
        if (!get_byte(&byte))
            return false;
        value |= (uint32_t)byte << 8 * i;
    }
    *ret = value;
    return true;
}

static void put_packet(uint32_t leader, const struct packet *packet)
{
    put_word(leader, 4);
    put_word(packet->type, 2);
    put_word(packet->length, 2);
    put_word(packet->id, 4);
    put_word(packet->checksum, 4);
}

static void put_control(uint16_t type, uint32_t id)
{
    struct packet packet = { type, 0, id, 0 };
    put_packet(CONTROL_LEADER_WORD, &packet);
}

static uint32_t sum(const struct kd_string *text)
{
    const uint8_t *bytes = text->buffer;
    uint32_t total = 0;
    for (unsigned i = 0; i < text->length; i++)
        total += bytes[i];
    return total;
}

static void put_string(const struct kd_string *text)
{
    const uint8_t *bytes = text->buffer;
    for (unsigned i = 0; i < text->length; i++)
        put_byte(bytes[i]);
}

// Reads length bytes and adds them to *checksum.
static bool get_bytes(uint8_t *to, unsigned length, uint32_t *checksum)
{
    for (unsigned i = 0; i < length; i++) {
        if (!get_byte(&to[i]))
            return false;
        *checksum += to[i];
    }
    return true;
}

static void mark_debugger(bool is_present)
{
    volatile uint8_t *shared = (volatile uint8_t *)(uintptr_t)(HAL_SHARED_DATA + SHARED_KD_ENABLED);
    KdDebuggerNotPresent = !is_present;
    *shared = (uint8_t)(is_present ? *shared | SHARED_KD_PRESENT : *shared & ~SHARED_KD_PRESENT);
}

// ----------------------------------------------------------------------------------------------------- receiving --

// KD reference 1.7, step 1: four equal leader bytes. Return: the leader byte; or 0, and then *ret_outcome.
static uint8_t find_leader(struct kd_context *context, uint32_t *ret_outcome)
{
    uint8_t leader = 0;
    bool was_broken_in = false;
    for (unsigned count = 0; count < 4;) {
        uint8_t byte;
        if (!get_byte(&byte)) {
            if (was_broken_in)
                context->control_c_pending = true;
            *ret_outcome = was_broken_in ? RESEND : TIMED_OUT;
            return 0;
        }
        bool is_leader = byte == DATA_LEADER || byte == CONTROL_LEADER;
        count = !is_leader ? 0 : byte == leader ? count + 1 : 1;
        leader = is_leader ? byte : 0;
        if (byte == BREAK_IN)
            was_broken_in = true;
    }
    if (was_broken_in)
        context->control_c_pending = true;
    mark_debugger(true);
    return leader;
}

enum verdict { DONE, AGAIN }; // DONE: *ret_outcome is KdReceivePacket's result; AGAIN: look for the next leader

static void acknowledged(void)
{
    next_id = (next_id ^ 1) & ~(uint32_t)SYNC_ID;
}

// Step 4.
static enum verdict on_control(const struct packet *packet, uint32_t wanted, uint32_t *ret_outcome)
{
    switch (packet->type) {
    case TYPE_ACKNOWLEDGE:
        if (wanted != TYPE_ACKNOWLEDGE || packet->id != (next_id & ~(uint32_t)SYNC_ID))
            return AGAIN;
        acknowledged();
        *ret_outcome = RECEIVED;
        return DONE;
    case TYPE_RESET:
        next_id = expected_id = INITIAL_ID;
        put_control(TYPE_RESET, 0);
        *ret_outcome = RESEND;
        return DONE;
    default:
        return AGAIN;
    }
}

// Step 5, with the id tested first: a data packet while an acknowledgement is awaited counts as one only when it is the
// next request, otherwise our reply to the last one could be lost for good.
static enum verdict on_data_instead_of_ack(const struct packet *packet, uint32_t *ret_outcome)
{
    if (packet->id != expected_id) {
        put_control(TYPE_ACKNOWLEDGE, packet->id);
        return AGAIN;
    }
    put_control(TYPE_RESEND, 0);
    acknowledged();
    *ret_outcome = RECEIVED;
    return DONE;
}

struct sink {
    uint32_t wanted;
    struct kd_string *header, *data;
    uint32_t *data_length;
};

// Step 7: header, data, trailer, checksum.
static bool get_body(const struct packet *packet, struct sink *sink)
{
    uint32_t checksum = 0;
    uint8_t trailer;
    sink->header->length = sink->header->maximum_length;
    sink->data->length = (uint16_t)(packet->length - sink->header->length);
    return get_bytes(sink->header->buffer, sink->header->length, &checksum) &&
           get_bytes(sink->data->buffer, sink->data->length, &checksum) && get_byte(&trailer) && trailer == TRAILER &&
           checksum == packet->checksum;
}

// Steps 6 to 9.
static enum verdict on_data(const struct packet *packet, struct sink *sink)
{
    bool fits = packet->length <= MAX_BODY && packet->length >= sink->header->maximum_length &&
                packet->length - sink->header->maximum_length <= sink->data->maximum_length;
    if (!fits || !get_body(packet, sink)) {
        put_control(TYPE_RESEND, 0);
        return AGAIN;
    }
    put_control(TYPE_ACKNOWLEDGE, packet->id);
    if (packet->id != expected_id || packet->type != sink->wanted)
        return AGAIN;
    expected_id ^= 1;
    *sink->data_length = sink->data->length;
    return DONE;
}

// Steps 2 and 3: the rest of the packet header. A RESEND is not read to its end; the next leader scan skips the rest.
static bool get_header(uint8_t leader, struct packet *packet)
{
    uint32_t type, length;
    if (!get_word(&type, 2))
        return false;
    packet->type = (uint16_t)type;
    if (leader == CONTROL_LEADER && type == TYPE_RESEND)
        return true;
    if (!get_word(&length, 2))
        return false;
    packet->length = (uint16_t)length;
    return get_word(&packet->id, 4) && get_word(&packet->checksum, 4);
}

static uint32_t receive(struct sink *sink, struct kd_context *context)
{
    for (;;) {
        uint32_t outcome = RECEIVED;
        struct packet packet;
        uint8_t leader = find_leader(context, &outcome);
        if (!leader)
            return outcome;
        if (!get_header(leader, &packet))
            return TIMED_OUT;
        if (leader == CONTROL_LEADER && packet.type == TYPE_RESEND)
            return RESEND;
        enum verdict verdict;
        if (leader == CONTROL_LEADER)
            verdict = on_control(&packet, sink->wanted, &outcome);
        else if (sink->wanted == TYPE_ACKNOWLEDGE)
            verdict = on_data_instead_of_ack(&packet, &outcome);
        else
            verdict = on_data(&packet, sink);
        if (verdict == DONE)
            return outcome;
    }
}

static uint32_t poll_break_in(void)
{
    bool is_waiting = port_in(STATUS) & STATUS_READY;
    return is_waiting && port_in(DATA) == BREAK_IN ? RECEIVED : TIMED_OUT;
}

EXPORT uint32_t HAL_STDCALL KdReceivePacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                            uint32_t *data_length, struct kd_context *context);

EXPORT uint32_t HAL_STDCALL KdReceivePacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                            uint32_t *data_length, struct kd_context *context)
{
    if (type == TYPE_POLL_BREAKIN)
        return poll_break_in();
    struct sink sink = { type, header, data, data_length };
    return receive(&sink, context);
}

// ------------------------------------------------------------------------------------------------------- sending --

// KD reference 1.9: what may be lost when nobody listens, by packet type and the first word of the body.
static bool is_droppable(uint32_t type, const struct kd_string *header)
{
    const uint8_t *b = header->buffer;
    uint32_t number = header->length < 4 ? 0 : b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    switch (type) {
    case TYPE_DEBUG_IO:
        return number == 0x3230;
    case TYPE_STATE_CHANGE32:
    case TYPE_STATE_CHANGE64:
        return number == 0x3031;
    case TYPE_FILE_IO:
        return number == 0x3430;
    case TYPE_TRACE_IO:
        return number == 0x3330;
    default:
        return false;
    }
}

static void give_up(void)
{
    mark_debugger(false);
    next_id = INITIAL_ID | SYNC_ID;
    expected_id = INITIAL_ID;
}

static void put_data(uint32_t type, const struct kd_string *header, const struct kd_string *data)
{
    struct packet packet = { (uint16_t)type, header->length, next_id, sum(header) };
    if (data) {
        packet.length = (uint16_t)(packet.length + data->length);
        packet.checksum += sum(data);
    }
    put_packet(DATA_LEADER_WORD, &packet);
    put_string(header);
    if (data)
        put_string(data);
    put_byte(TRAILER);
}

EXPORT void HAL_STDCALL KdSendPacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                     struct kd_context *context);

EXPORT void HAL_STDCALL KdSendPacket(uint32_t type, struct kd_string *header, struct kd_string *data,
                                     struct kd_context *context)
{
    struct sink ack = { TYPE_ACKNOWLEDGE, NULL, NULL, NULL };
    uint32_t retries = context->retries;
    for (;;) {
        put_data(type, header, data);
        uint32_t outcome = receive(&ack, context);
        if (outcome == RECEIVED)
            return;
        if (outcome != TIMED_OUT)
            continue;
        if (retries)
            retries--;
        if (!retries && is_droppable(type, header)) {
            give_up();
            return;
        }
    }
}

// ----------------------------------------------------------------------------------------- initialisation, power --

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize0(const void *loader_block);
EXPORT int32_t HAL_STDCALL KdDebuggerInitialize1(const void *loader_block);
EXPORT int32_t HAL_STDCALL KdSave(uint8_t sleep_transition);
EXPORT int32_t HAL_STDCALL KdRestore(uint8_t sleep_transition);
EXPORT int32_t HAL_STDCALL KdD0Transition(void);
EXPORT int32_t HAL_STDCALL KdD3Transition(void);

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize0(const void *loader_block)
{
    (void)loader_block; // it names the port and the rate; this module knows COM1 at 115200 only
    int status = port_open();
    if (status != SUCCESS)
        return status;
    next_id = INITIAL_ID | SYNC_ID;
    expected_id = INITIAL_ID;
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdDebuggerInitialize1(const void *loader_block)
{
    (void)loader_block;
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdSave(uint8_t sleep_transition)
{
    (void)sleep_transition; // a UART has nothing to save
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdRestore(uint8_t sleep_transition)
{
    if (!sleep_transition)
        return SUCCESS;
    // The port lost its settings, and this module's memory may be older than what the debugger has seen since.
    next_id = INITIAL_ID | SYNC_ID;
    expected_id = INITIAL_ID;
    return port_open();
}

EXPORT int32_t HAL_STDCALL KdD0Transition(void)
{
    return SUCCESS;
}

EXPORT int32_t HAL_STDCALL KdD3Transition(void)
{
    return SUCCESS;
}
