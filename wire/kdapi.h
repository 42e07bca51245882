// SPDX-License-Identifier: MIT
// What is inside KD packets: decode and encode of every DBGKD structure, for 64-bit and 32-bit targets.
// Facts: KD reference, sections 1.3, 1.9, 3, 4, 5.
//
// Rules: pure functions, no allocation, no libc; any IRQL. Input is hostile: a decode function looks at `len` bytes at most, refuses what
// is too short or cannot be, and leaves *ret alone then. Decoded structures hold host integers; `data` points into the
// input and lives as long as it does. An encode function writes exactly the structure's fixed size (gaps become zero) and
// returns KD_OK or KD_E_SPACE; message data follows behind by the caller's hand (kdcom_send takes both parts).
// Addresses of 32-bit targets are sign-extended to 64 bits, as on the wire.
#ifndef WIRE_KDAPI_H
#define WIRE_KDAPI_H

#include "wire/compiler.h"

enum kd_outcome {
	KD_OK = 0,
	KD_E_SHORT = 1,   // fewer bytes than the structure has
	KD_E_RANGE = 2,   // a length or count inside cannot be
	KD_E_UNKNOWN = 3, // an API number or state that selects the layout is not known
	KD_E_SPACE = 4,   // encode: the buffer is too small
};

// PE machine numbers, as in DBGKD_GET_VERSION64 (the same values as ARCH_* of wire/portcall.h).
#define KD_MACHINE_X64 0x8664u
#define KD_MACHINE_X86 0x014Cu

// ---- Packets ---------------------------------------------------------------------------------
#define KD_BODY_MAX 4000u                        // PACKET_MAX_SIZE
#define KD_MANIPULATE_SIZE 56u
#define KD_STATE_CHANGE_SIZE 240u
#define KD_DEBUG_IO_SIZE 16u
#define KD_FILE_IO_SIZE 64u
#define KD_TRACE_IO_SIZE 64u
#define KD_CONTROL_REQUEST_SIZE 12u
#define KD_DATA_MAX (KD_BODY_MAX - KD_MANIPULATE_SIZE) // 3944: most that one read or write can carry
#define KD_FILE_DATA_MAX (KD_BODY_MAX - KD_FILE_IO_SIZE)

// X(value, name, message header size)
#define KD_PACKET_LIST(X) \
	X(1, KD_PACKET_STATE_CHANGE32, 0x68) \
	X(2, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE) \
	X(3, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_SIZE) \
	X(7, KD_PACKET_STATE_CHANGE, KD_STATE_CHANGE_SIZE) \
	X(9, KD_PACKET_TRACE_IO, KD_TRACE_IO_SIZE) \
	X(10, KD_PACKET_CONTROL_REQUEST, KD_CONTROL_REQUEST_SIZE) \
	X(11, KD_PACKET_FILE_IO, KD_FILE_IO_SIZE)
enum kd_packet {
#define X(value, name, header) name = (value),
	KD_PACKET_LIST(X)
#undef X
};

// Bytes of message header at the start of a body of this packet type: a fact of the wire, which has no length of its own
// for it. 0 = unknown type. Inline, so that ring.c and kdcom.c need nothing of kdapi.c.
static inline uint32_t kd_header_size(uint32_t packet_type)
{
	switch (packet_type) {
#define X(value, name, header) case value: return (header);
	KD_PACKET_LIST(X)
#undef X
	default: return 0;
	}
}

// May the target drop this packet when nobody listens? Looks at the type and the first 4 bytes of the message header
// (KD reference, section 1.9): prints, module load and unload, the first packet of a file exchange, traces.
bool kd_is_droppable(uint32_t packet_type, const uint8_t *header, size_t header_len);

const char *kd_packet_name(uint32_t packet_type); // "unknown" for others

// ---- State change (packet type 7) ----------------------------------------------------------------
#define KD_STATE_LIST(X) \
	X(0x3030, KD_STATE_EXCEPTION) \
	X(0x3031, KD_STATE_LOAD_SYMBOLS) \
	X(0x3032, KD_STATE_COMMAND_STRING)
enum kd_state {
#define X(value, name) name = (value),
	KD_STATE_LIST(X)
#undef X
};
#define KD_STATE_ALTERNATE 0x10000u // bit in NewState: another partition reports

#define KD_EXCEPTION_PARAMETERS 15u
#define KD_INSTRUCTION_BYTES 16u

// Exception codes a debugger must know (KD reference, section 3.2).
#define KD_STATUS_BREAKPOINT 0x80000003u
#define KD_STATUS_SINGLE_STEP 0x80000004u
#define KD_STATUS_WAKE_DEBUGGER 0x80000007u // the stop after SwitchProcessor
#define KD_STATUS_ACCESS_VIOLATION 0xC0000005u
#define KD_STATUS_ASSERTION 0xC0000420u

struct kd_exception {
	uint32_t code;
	uint32_t flags; // 1 = cannot be continued
	uint64_t record;
	uint64_t address;
	uint32_t parameter_count; // at most KD_EXCEPTION_PARAMETERS
	uint64_t parameters[KD_EXCEPTION_PARAMETERS];
	uint32_t first_chance; // 1 first, 0 second
};

// Values of kd_load_symbols.base in unload notices that mean something else.
#define KD_BASE_REBOOT UINT64_MAX
#define KD_BASE_HIBERNATE (UINT64_MAX - 1)

struct kd_load_symbols {
	uint32_t name_len; // bytes of the name in `data` with its NUL, at most data_len; 0 = no name
	uint64_t base;
	uint64_t process_id;
	uint32_t checksum;
	uint32_t image_size;
	uint8_t is_unload; // 0, 1
};

struct kd_command_string {
	uint32_t flags; // data: name NUL command NUL
};

#define KD_REPORT_HAS_SEGMENTS 1u // the seg_ fields are valid
#define KD_REPORT_STANDARD_CS 2u  // seg_cs is the normal kernel code selector

struct kd_control_report {
	uint64_t dr6, dr7;
	uint32_t eflags;
	uint16_t instruction_count; // valid bytes of instructions, at most KD_INSTRUCTION_BYTES
	uint16_t flags;             // KD_REPORT_*
	uint8_t instructions[KD_INSTRUCTION_BYTES];
	uint16_t seg_cs, seg_ds, seg_es, seg_fs;
};

struct kd_state_change {
	uint32_t state; // enum kd_state, without KD_STATE_ALTERNATE
	uint32_t is_alternate; // 0, 1
	uint16_t processor_level;
	uint16_t processor;
	uint32_t processor_count;
	uint64_t thread;
	uint64_t pc;
	union {
		struct kd_exception exception;
		struct kd_load_symbols load_symbols;
		struct kd_command_string command_string;
	} u;
	struct kd_control_report report;
	const uint8_t *data; // decode: behind the 240 bytes. encode ignores both
	uint32_t data_len;
};

// machine: KD_MACHINE_X64 or _X86, it selects the control report. While it is not known (before the first GetVersion), x64 is a safe
// guess for everything but the report; kd_guess_machine tells better.
// -> KD_OK, KD_E_SHORT, KD_E_RANGE (parameter_count, instruction_count, name_len), KD_E_UNKNOWN (state, machine).
WIRE_MUST_CHECK int kd_state_change_decode(const uint8_t *body, size_t len, uint32_t machine, struct kd_state_change *ret);
WIRE_MUST_CHECK int kd_state_change_encode(const struct kd_state_change *s, uint32_t machine, uint8_t *header, size_t size);

// The machine that a state change most likely comes from, by its control report (the field order differs; kernel code selector 0x10 or
// 0x08, instruction count at most 16) and by addresses beyond 32 bits. 0 = cannot tell.
uint32_t kd_guess_machine(const uint8_t *body, size_t len);

// "KD_STATE_EXCEPTION"; "unknown" for others.
const char *kd_state_name(uint32_t state);

// ---- Manipulate (packet type 2) ------------------------------------------------------------------
// What the 40 bytes of union hold.
enum kd_layout {
	KD_LAYOUT_RAW, // not known: 40 bytes as they are
	KD_LAYOUT_NONE,
	KD_LAYOUT_MEMORY,
	KD_LAYOUT_CONTEXT,
	KD_LAYOUT_CONTEXT_EX,
	KD_LAYOUT_BREAKPOINT,
	KD_LAYOUT_RESTORE_BREAKPOINT,
	KD_LAYOUT_BREAKPOINT_EX,
	KD_LAYOUT_CONTINUE,
	KD_LAYOUT_CONTINUE2,
	KD_LAYOUT_IO,
	KD_LAYOUT_IO_EXTENDED,
	KD_LAYOUT_MSR,
	KD_LAYOUT_QUERY_CALLS,
	KD_LAYOUT_SPECIAL_CALL,
	KD_LAYOUT_SET_INTERNAL,
	KD_LAYOUT_GET_INTERNAL,
	KD_LAYOUT_VERSION,
	KD_LAYOUT_SEARCH,
	KD_LAYOUT_BUS,
	KD_LAYOUT_FILL,
	KD_LAYOUT_QUERY_MEMORY,
	KD_LAYOUT_PARTITION,
	KD_LAYOUT_CUSTOM_BREAKPOINT,
};

// X(value, name, layout, has a reply packet). 0 in the last column: the ACK is the only confirmation, or a client must not
// count on more (KD reference, section 4.2). CHECK_LOW_MEMORY, PAGE_IN: the status alone answers.
#define KD_API_LIST(X) \
	X(0x3130, KD_API_READ_VIRTUAL, KD_LAYOUT_MEMORY, 1) \
	X(0x3131, KD_API_WRITE_VIRTUAL, KD_LAYOUT_MEMORY, 1) \
	X(0x3132, KD_API_GET_CONTEXT, KD_LAYOUT_CONTEXT, 1) \
	X(0x3133, KD_API_SET_CONTEXT, KD_LAYOUT_CONTEXT, 1) \
	X(0x3134, KD_API_WRITE_BREAKPOINT, KD_LAYOUT_BREAKPOINT, 1) \
	X(0x3135, KD_API_RESTORE_BREAKPOINT, KD_LAYOUT_RESTORE_BREAKPOINT, 1) \
	X(0x3136, KD_API_CONTINUE, KD_LAYOUT_CONTINUE, 0) \
	X(0x3137, KD_API_READ_CONTROL_SPACE, KD_LAYOUT_MEMORY, 1) \
	X(0x3138, KD_API_WRITE_CONTROL_SPACE, KD_LAYOUT_MEMORY, 1) \
	X(0x3139, KD_API_READ_IO, KD_LAYOUT_IO, 1) \
	X(0x313A, KD_API_WRITE_IO, KD_LAYOUT_IO, 1) \
	X(0x313B, KD_API_REBOOT, KD_LAYOUT_NONE, 0) \
	X(0x313C, KD_API_CONTINUE2, KD_LAYOUT_CONTINUE2, 0) \
	X(0x313D, KD_API_READ_PHYSICAL, KD_LAYOUT_MEMORY, 1) \
	X(0x313E, KD_API_WRITE_PHYSICAL, KD_LAYOUT_MEMORY, 1) \
	X(0x313F, KD_API_QUERY_SPECIAL_CALLS, KD_LAYOUT_QUERY_CALLS, 1) \
	X(0x3140, KD_API_SET_SPECIAL_CALL, KD_LAYOUT_SPECIAL_CALL, 0) \
	X(0x3141, KD_API_CLEAR_SPECIAL_CALLS, KD_LAYOUT_NONE, 0) \
	X(0x3142, KD_API_SET_INTERNAL_BREAKPOINT, KD_LAYOUT_SET_INTERNAL, 0) \
	X(0x3143, KD_API_GET_INTERNAL_BREAKPOINT, KD_LAYOUT_GET_INTERNAL, 1) \
	X(0x3144, KD_API_READ_IO_EXTENDED, KD_LAYOUT_IO_EXTENDED, 1) \
	X(0x3145, KD_API_WRITE_IO_EXTENDED, KD_LAYOUT_IO_EXTENDED, 1) \
	X(0x3146, KD_API_GET_VERSION, KD_LAYOUT_VERSION, 1) \
	X(0x3147, KD_API_WRITE_BREAKPOINT_EX, KD_LAYOUT_BREAKPOINT_EX, 1) \
	X(0x3148, KD_API_RESTORE_BREAKPOINT_EX, KD_LAYOUT_BREAKPOINT_EX, 1) \
	X(0x3149, KD_API_CAUSE_BUGCHECK, KD_LAYOUT_NONE, 0) \
	X(0x3150, KD_API_SWITCH_PROCESSOR, KD_LAYOUT_NONE, 0) \
	X(0x3151, KD_API_PAGE_IN, KD_LAYOUT_NONE, 1) \
	X(0x3152, KD_API_READ_MSR, KD_LAYOUT_MSR, 1) \
	X(0x3153, KD_API_WRITE_MSR, KD_LAYOUT_MSR, 1) \
	X(0x3154, KD_API_OLD_VLM1, KD_LAYOUT_NONE, 1) \
	X(0x3155, KD_API_OLD_VLM2, KD_LAYOUT_NONE, 1) \
	X(0x3156, KD_API_SEARCH_MEMORY, KD_LAYOUT_SEARCH, 1) \
	X(0x3157, KD_API_GET_BUS_DATA, KD_LAYOUT_BUS, 1) \
	X(0x3158, KD_API_SET_BUS_DATA, KD_LAYOUT_BUS, 1) \
	X(0x3159, KD_API_CHECK_LOW_MEMORY, KD_LAYOUT_NONE, 1) \
	X(0x315A, KD_API_CLEAR_ALL_INTERNAL_BREAKPOINTS, KD_LAYOUT_NONE, 0) \
	X(0x315B, KD_API_FILL_MEMORY, KD_LAYOUT_FILL, 1) \
	X(0x315C, KD_API_QUERY_MEMORY, KD_LAYOUT_QUERY_MEMORY, 1) \
	X(0x315D, KD_API_SWITCH_PARTITION, KD_LAYOUT_PARTITION, 1) \
	X(0x315E, KD_API_WRITE_CUSTOM_BREAKPOINT, KD_LAYOUT_CUSTOM_BREAKPOINT, 1) \
	X(0x315F, KD_API_GET_CONTEXT_EX, KD_LAYOUT_CONTEXT_EX, 1) \
	X(0x3160, KD_API_SET_CONTEXT_EX, KD_LAYOUT_CONTEXT_EX, 1)
enum kd_api {
#define X(value, name, layout, has_reply) name = (value),
	KD_API_LIST(X)
#undef X
};

// Status values that matter to a client or a stub.
#define KD_STATUS_SUCCESS 0u
#define KD_STATUS_UNSUCCESSFUL 0xC0000001u
#define KD_STATUS_INVALID_PARAMETER 0xC000000Du
#define KD_STATUS_NO_SUCH_DEVICE 0xC000000Eu // a faulting MSR
#define KD_STATUS_NO_SUCH_FILE 0xC000000Fu   // .kdfiles: no replacement
#define KD_STATUS_ACCESS_DENIED 0xC0000022u  // the broker's: another debugger has control
#define KD_STATUS_NOT_FOUND 0xC0000225u
#define KD_CONTINUE_HANDLED 0x00010002u     // DBG_CONTINUE
#define KD_CONTINUE_NOT_HANDLED 0x80010001u // DBG_EXCEPTION_NOT_HANDLED
static inline bool kd_is_failure(uint32_t status) { return status >> 31 != 0; }

// memory.actual_bytes of a request for physical memory.
enum kd_cache { KD_CACHE_DEFAULT = 0, KD_CACHE_CACHED = 1, KD_CACHE_UNCACHED = 2, KD_CACHE_WRITE_COMBINED = 3 };

// kd_version.flags
#define KD_VERSION_MP 1u
#define KD_VERSION_DATA 2u  // debugger_data_list is valid
#define KD_VERSION_PTR64 4u
#define KD_VERSION_HSS 0x10u
#define KD_VERSION_PARTITIONS 0x20u

#define KD_VERSION_SIZE 40u
struct kd_version {
	uint16_t major; // low byte 0x0F free, 0x0C checked build
	uint16_t minor; // build number
	uint8_t protocol; // 6
	uint8_t secondary; // amd64: 2 = current CONTEXT
	uint16_t flags; // KD_VERSION_*
	uint16_t machine;
	uint8_t max_packet_type, max_state_change, max_manipulate, simulation;
	uint16_t unused;
	uint64_t kern_base;
	uint64_t loaded_module_list; // address of the list head
	uint64_t debugger_data_list; // address of a list head; see wire/kddata.h
};

struct kd_memory {
	uint64_t address;      // control space: index (amd64) or offset (i386)
	uint32_t count;        // bytes wanted
	uint32_t actual_bytes; // reply: bytes done. Physical request: enum kd_cache
};
struct kd_context_ex { uint32_t offset, count, copied; };
struct kd_breakpoint { uint64_t address; uint32_t handle; }; // handle 1 to 32, 0 = failed
struct kd_breakpoint_ex { uint32_t count, continue_status; };
struct kd_continue2 {
	uint32_t status;
	uint32_t trace;
	uint64_t dr7;
	uint64_t symbol_start, symbol_end; // 0, 0: plain go or step; start 1: leave the range alone
};
struct kd_io { uint64_t address; uint32_t size, value; };
struct kd_io_extended { uint32_t size, interface_type, bus, address_space; uint64_t address; uint32_t value; };
struct kd_msr { uint32_t msr; uint64_t value; };
struct kd_set_internal { uint64_t address; uint32_t flags; };
struct kd_get_internal { uint64_t address; uint32_t flags, calls, max_calls, min_instructions, max_instructions, total_instructions; };
struct kd_search { uint64_t address, length; uint32_t pattern_len; }; // reply: address = where it was found
struct kd_bus { uint32_t type, bus, slot, offset, length; };
enum kd_fill_flags { KD_FILL_VIRTUAL = 1, KD_FILL_PHYSICAL = 2 };
struct kd_fill { uint64_t address; uint32_t length; uint16_t flags, pattern_len; };
struct kd_query_memory { uint64_t address, reserved; uint32_t space, flags; };
struct kd_custom_breakpoint { uint64_t address, instruction; uint32_t handle; uint8_t instruction_size, alignment; };

#define KD_UNION_SIZE 40u
struct kd_manipulate {
	uint32_t api; // enum kd_api; kd_api_layout(api) tells the member of u
	uint16_t processor_level;
	uint16_t processor;
	uint32_t status; // reply: NTSTATUS; request: 0
	union {
		uint8_t raw[KD_UNION_SIZE];           // RAW
		struct kd_memory memory;              // MEMORY
		uint32_t context_flags;               // CONTEXT
		struct kd_context_ex context_ex;      // CONTEXT_EX
		struct kd_breakpoint breakpoint;      // BREAKPOINT
		uint32_t restore_handle;              // RESTORE_BREAKPOINT
		struct kd_breakpoint_ex breakpoint_ex; // BREAKPOINT_EX
		uint32_t continue_status;             // CONTINUE
		struct kd_continue2 continue2;        // CONTINUE2
		struct kd_io io;                      // IO
		struct kd_io_extended io_extended;    // IO_EXTENDED
		struct kd_msr msr;                    // MSR
		uint32_t special_call_count;          // QUERY_CALLS
		uint64_t special_call;                // SPECIAL_CALL
		struct kd_set_internal set_internal;  // SET_INTERNAL
		struct kd_get_internal get_internal;  // GET_INTERNAL
		struct kd_version version;            // VERSION
		struct kd_search search;              // SEARCH
		struct kd_bus bus;                    // BUS
		struct kd_fill fill;                  // FILL
		struct kd_query_memory query_memory;  // QUERY_MEMORY
		uint32_t partition;                   // PARTITION
		struct kd_custom_breakpoint custom_breakpoint; // CUSTOM_BREAKPOINT
	} u;
	const uint8_t *data; // decode: behind the 56 bytes. encode ignores both
	uint32_t data_len;
};

// machine matters to CONTINUE2 alone (field widths). An API number nobody knows is no error: its union stays raw.
// -> KD_OK, KD_E_SHORT, KD_E_RANGE (body beyond KD_BODY_MAX), KD_E_UNKNOWN (machine).
WIRE_MUST_CHECK int kd_manipulate_decode(const uint8_t *body, size_t len, uint32_t machine, struct kd_manipulate *ret);
WIRE_MUST_CHECK int kd_manipulate_encode(const struct kd_manipulate *m, uint32_t machine, uint8_t *header, size_t size);

// Bytes of data that a reply to a read really carries: never more than both actual_bytes (copied, for CONTEXT_EX; length, for BUS) and the
// packet's data. Other layouts: data_len. Look at it even when the status is a failure: reads may be partial.
uint32_t kd_manipulate_data_len(const struct kd_manipulate *m);

// What is known of an API number, for every number: the layout of its union (KD_LAYOUT_NONE or raw where it has none), whether it is one.
enum kd_layout kd_api_layout(uint32_t api);
bool kd_api_is_known(uint32_t api);
bool kd_api_has_reply(uint32_t api); // unknown numbers: true, a stub answers them with a failure
// This request lets the target run or start anew: Continue, Continue2, Reboot, CauseBugCheck; SwitchProcessor too, a
// new state change comes from another processor.
bool kd_api_resumes(uint32_t api);
const char *kd_api_name(uint32_t api); // "KD_API_READ_VIRTUAL"; "unknown" for others

// The union of GetVersion, 40 bytes. -> KD_OK, KD_E_SHORT.
WIRE_MUST_CHECK int kd_version_decode(const uint8_t *bytes, size_t len, struct kd_version *ret);
WIRE_MUST_CHECK int kd_version_encode(const struct kd_version *v, uint8_t *bytes, size_t size);

// ---- Debug I/O (packet type 3) -------------------------------------------------------------------
#define KD_DEBUG_IO_LIST(X) \
	X(0x3230, KD_DEBUG_IO_PRINT) \
	X(0x3231, KD_DEBUG_IO_PROMPT)
enum kd_debug_io_api {
#define X(value, name) name = (value),
	KD_DEBUG_IO_LIST(X)
#undef X
};

struct kd_debug_io {
	uint32_t api; // enum kd_debug_io_api
	uint16_t processor_level;
	uint16_t processor;
	uint32_t length;      // print: of the text. Prompt and its answer: of the prompt
	uint32_t read_length; // prompt: what the target accepts at most. Answer: what it gets. Print: nothing (garbage)
	const uint8_t *data; // the text, no NUL; decode of a print cuts data_len to `length`. encode ignores both
	uint32_t data_len;
};
// -> KD_OK, KD_E_SHORT, KD_E_UNKNOWN (api), KD_E_RANGE (a print longer than its packet).
WIRE_MUST_CHECK int kd_debug_io_decode(const uint8_t *body, size_t len, struct kd_debug_io *ret);
WIRE_MUST_CHECK int kd_debug_io_encode(const struct kd_debug_io *d, uint8_t *header, size_t size);

// ---- File I/O (packet type 11) -------------------------------------------------------------------
#define KD_FILE_IO_LIST(X) \
	X(0x3430, KD_FILE_IO_CREATE) \
	X(0x3431, KD_FILE_IO_READ) \
	X(0x3432, KD_FILE_IO_WRITE) \
	X(0x3433, KD_FILE_IO_CLOSE)
enum kd_file_io_api {
#define X(value, name) name = (value),
	KD_FILE_IO_LIST(X)
#undef X
};

struct kd_file_create {
	uint32_t desired_access, attributes, share_access, disposition, options;
	uint64_t handle; // reply
	uint64_t length; // reply: file size
};
struct kd_file_transfer { uint64_t handle, offset; uint32_t length; }; // reply: length done
struct kd_file_io {
	uint32_t api; // enum kd_file_io_api
	uint32_t status; // reply
	union {
		struct kd_file_create create;
		struct kd_file_transfer transfer; // READ, WRITE
		uint64_t close_handle;
	} u;
	const uint8_t *data; // create request: name, UTF-16LE, perhaps with NUL; read reply, write request: bytes. encode ignores both
	uint32_t data_len;
};
// -> KD_OK, KD_E_SHORT, KD_E_UNKNOWN (api), KD_E_RANGE (create request or reply with an odd name length).
WIRE_MUST_CHECK int kd_file_io_decode(const uint8_t *body, size_t len, struct kd_file_io *ret);
WIRE_MUST_CHECK int kd_file_io_encode(const struct kd_file_io *f, uint8_t *header, size_t size);

// ---- Trace I/O (packet type 9) -------------------------------------------------------------------
#define KD_TRACE_IO_PRINT 0x3330u
struct kd_trace_io {
	uint32_t api; // KD_TRACE_IO_PRINT
	uint16_t processor_level;
	uint16_t processor;
	uint32_t length; // of the trace data, at most data_len
	const uint8_t *data; // encode ignores both
	uint32_t data_len;
};
// -> KD_OK, KD_E_SHORT, KD_E_UNKNOWN (api), KD_E_RANGE (length).
WIRE_MUST_CHECK int kd_trace_io_decode(const uint8_t *body, size_t len, struct kd_trace_io *ret);
WIRE_MUST_CHECK int kd_trace_io_encode(const struct kd_trace_io *t, uint8_t *header, size_t size);

// ---- Control request (packet type 10) ------------------------------------------------------------
enum kd_control_api { KD_CONTROL_REQUEST_HARDWARE_BP = 0x4300, KD_CONTROL_RELEASE_HARDWARE_BP = 0x4301 };
struct kd_control_request {
	uint32_t api;    // enum kd_control_api
	uint32_t number; // of the debug register
	uint32_t answer; // available or released
};
// -> KD_OK, KD_E_SHORT, KD_E_UNKNOWN (api).
WIRE_MUST_CHECK int kd_control_request_decode(const uint8_t *body, size_t len, struct kd_control_request *ret);
WIRE_MUST_CHECK int kd_control_request_encode(const struct kd_control_request *c, uint8_t *header, size_t size);

#endif
