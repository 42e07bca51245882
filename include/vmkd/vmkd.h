// SPDX-License-Identifier: MIT
// libvmkd: use a Windows kernel as a debugger does. Open a target by URL, wait for what it reports, and while it is stopped
// read and write its memory and registers, set breakpoints, step it and let it go on.
//
//     errors        struct vmkd_error, vmkd_error_create, vmkd_error_destroy
//     a target      vmkd_target_open, _close, _detach, _state, _fd, _version
//     what it says  vmkd_target_wait, struct vmkd_event, vmkd_target_answer_prompt, _answer_file
//     run control   vmkd_target_break_in, _go, _step, _reboot, _crash
//     processors    vmkd_target_processor_count, _processor, _switch_processor
//     registers     vmkd_register_find, vmkd_target_register_get/_set, _context_get/_set, _control_read/_write, _msr_read/_write
//     memory        vmkd_target_read, _write, _search, _fill, _memory_way
//     breakpoints   vmkd_breakpoint_set, _set_with, _remove, _enable, _count, _at
//     modules       vmkd_modules_read, vmkd_modules_*
//     snapshots     vmkd_snapshot_take, _revert, _delete, vmkd_snapshots_read
//
// Rules
// - Threads: a target and everything read from it belong to one thread at a time. The one exception is vmkd_target_break_in,
//   which any thread and any signal handler may call while another thread is inside a call on the same target. Different
//   targets are independent: the library has no global state. It starts no threads and installs no signal handlers; writing to a
//   broken connection raises no SIGPIPE.
// - Blocking: each call states it. A request to the target ends with an answer, or with VMKD_E_TIMEOUT after
//   vmkd_open_options.request_timeout_ms; no call waits for ever unless its contract says so and the caller asked for it.
// - Addresses are 64-bit. Those of a 32-bit target may be given sign-extended or not; they are reported as the plain 32-bit
//   value. Ranges are (address, length).
// - Results: functions that may fail return struct vmkd_error *, NULL = success. Results come in the last parameters, `ret...`,
//   which are untouched on failure (exceptions are stated: partial reads and writes report how far they got).
// - Strings returned are UTF-8, NUL-terminated, with control characters of the target's text left in place; lengths are given
//   where NULs may be inside.
#ifndef VMKD_VMKD_H
#define VMKD_VMKD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef VMKD_API
#define VMKD_API __attribute__((visibility("default")))
#endif
#define VMKD_MUST_CHECK __attribute__((warn_unused_result))

// ---- errors --------------------------------------------------------------------------------------------------------------------

enum vmkd_error_code {
	VMKD_E_NO_MEMORY = 1,
	VMKD_E_ARGUMENT,    // the caller's: bad URL, unknown register, impossible range
	VMKD_E_CONNECT,     // the other end cannot be reached
	VMKD_E_GONE,        // the connection has ended; nothing but vmkd_target_close helps
	VMKD_E_REFUSED,     // the broker has as many debuggers as it can have, or its guest module is of another version
	VMKD_E_TIMEOUT,     // no answer in time; the target may still be running, or nothing listens there
	VMKD_E_STATE,       // not in this state: the target runs, or waits for a prompt's answer
	VMKD_E_FAULT,       // the target cannot access this address; error->address is the first byte that failed
	VMKD_E_TARGET,      // the target answered with a failure status
	VMKD_E_PROTOCOL,    // what came is not a possible answer
	VMKD_E_RESTARTED,   // the target rebooted or was resynchronised in the middle; the operation did not complete
	VMKD_E_UNSUPPORTED, // this kind of target cannot do it
	VMKD_E_OS,          // a system call of this host failed; error->os_error
	VMKD_E_NOT_FOUND,   // search without a hit, no such breakpoint
	VMKD_E_GUARDED,     // it would work, and the target's kernel would die of it: vmkd_breakpoint_set
};

// What went wrong: one line that says what was expected, what came and, where something helps, what to try. Owned by the caller.
struct vmkd_error {
	enum vmkd_error_code code;
	int os_error;      // errno of VMKD_E_OS and VMKD_E_CONNECT, else 0
	bool has_address;  // `address` means something
	uint64_t address;  // in the target
	uint32_t status;   // NTSTATUS of VMKD_E_TARGET and VMKD_E_FAULT, else 0
	const char *message;
};

// Makes an error, for callbacks and for programs that want one grammar for all that may fail. format: as printf, one line; what is
// longer than 1023 bytes is cut. Never NULL: when memory is out, the result is a constant object that says so. Any thread.
VMKD_API struct vmkd_error *vmkd_error_create(enum vmkd_error_code code, const char *format, ...)
	__attribute__((format(printf, 2, 3))) VMKD_MUST_CHECK;

// Frees an error. NULL is fine. Any thread.
VMKD_API void vmkd_error_destroy(struct vmkd_error *error);

// ---- a target ------------------------------------------------------------------------------------------------------------------

struct vmkd_target;

enum vmkd_log_level {
	VMKD_LOG_WARNING = 1, // odd but survived: a damaged packet, a refused count
	VMKD_LOG_DEBUG = 2,   // every packet
};

struct vmkd_open_options {
	uint32_t connect_timeout_ms; // 0 = 5000
	uint32_t request_timeout_ms; // longest wait for the answer to one packet; 0 = 10000
	uint32_t resend_ms;          // repeat an unacknowledged packet after this time; 0 = 1500 (longer than a target's own interval)
	// Deliver VMKD_EVENT_FILE to the caller, who must answer each with vmkd_target_answer_file. Otherwise the library
	// itself tells the target that there is no such file.
	bool wants_files;
	// The kernel's breakpoint table may hold breakpoints of a debugger that died. By default they are removed at the first stop.
	bool keep_foreign_breakpoints;
	// vm:NAME only: read memory by requests to the target alone, never from the VM's RAM (see vmkd_target_read).
	bool no_ram;
	// Called in the calling thread, inside calls on the target; must not call the library. `text` is one line without newline.
	void (*log)(void *closure, enum vmkd_log_level level, const char *text);
	void *log_closure;
};

// Connects to a target:
//   vm:NAME                       a VM that `vmkd run` or `vmkd serve` serves under this name; the one kind whose RAM may be read directly
//   unix:PATH                     KDCOM on a Unix stream socket
//   tcp:HOST:PORT                 KDCOM on TCP; [ADDR]:PORT for IPv6
//   serial:DEVICE[,baud=N]        KDCOM on a serial device (default 115200, 8 data bits, no parity, no flow control)
//   trace:FILE                    what `vmkd trace` has recorded, as a target: what was not asked then is refused (docs/trace.md)
// Nothing is sent but a RESET, which makes a stopped target report its state at once; a running target goes on running.
// url: copied. options: copied, NULL = defaults. Blocks up to connect_timeout_ms for the connection, not for the target.
// Return NULL and *ret (close it with vmkd_target_close); ARGUMENT, CONNECT, OS, NO_MEMORY.
VMKD_API struct vmkd_error *vmkd_target_open(const char *url, const struct vmkd_open_options *options,
					     struct vmkd_target **ret) VMKD_MUST_CHECK;

// Like open, on a stream that the caller connected: fd is a KDCOM byte stream (socket, pipe pair end, tty) and belongs to the target
// from a successful call on. name: what messages call it.
VMKD_API struct vmkd_error *vmkd_target_open_fd(int fd, const char *name, const struct vmkd_open_options *options,
						struct vmkd_target **ret) VMKD_MUST_CHECK;

// Ends the session as it is: nothing is sent. Breakpoints stay in the kernel, a stopped target stays stopped. Call
// vmkd_target_detach first to leave the target in order. NULL is fine.
VMKD_API void vmkd_target_close(struct vmkd_target *target);

// Leaves the target in order, for vmkd_target_close to follow. A stopped target: removes every breakpoint of this session from the
// kernel's table and, if `resume`, lets the target run. A running target that has breakpoints set is broken in for that first,
// and always resumed. Blocks, at most a few request_timeout_ms.
// Return NULL; STATE (a prompt waits for its answer), TIMEOUT, GONE, PROTOCOL.
VMKD_API struct vmkd_error *vmkd_target_detach(struct vmkd_target *target, bool resume) VMKD_MUST_CHECK;

enum vmkd_state {
	VMKD_STATE_UNKNOWN, // nothing was heard yet: running, off, or nobody there
	VMKD_STATE_RUNNING,
	VMKD_STATE_STOPPED, // answers requests; must be resumed
	VMKD_STATE_PROMPT,  // waits for vmkd_target_answer_prompt
	VMKD_STATE_FILE,    // waits for vmkd_target_answer_file
	VMKD_STATE_GONE,    // the connection has ended
};
// Never blocks.
VMKD_API enum vmkd_state vmkd_target_state(const struct vmkd_target *target);

// The URL it was opened with. Valid until close.
VMKD_API const char *vmkd_target_name(const struct vmkd_target *target);

// A descriptor to poll for POLLIN: readable when vmkd_target_wait(…, 0, …) has something to do. Valid until close; only poll it.
VMKD_API int vmkd_target_fd(const struct vmkd_target *target);

// Milliseconds after which vmkd_target_wait wants to be called even when the descriptor is silent (repeats of an unacknowledged
// packet); -1 = no need.
VMKD_API int vmkd_target_poll_timeout(const struct vmkd_target *target);

enum vmkd_arch { VMKD_ARCH_UNKNOWN, VMKD_ARCH_X64, VMKD_ARCH_X86 };

// What the target says of itself (GetVersion and the KDBG block).
struct vmkd_version {
	enum vmkd_arch arch;
	uint16_t machine;         // IMAGE_FILE_MACHINE_*: 0x8664, 0x014C
	uint16_t major;           // high byte: system type, 0 = NT; low byte 0x0F free, 0x0C checked build
	uint16_t build;           // 2600, 7601, 19041, …
	uint16_t flags;           // 1 multiprocessor kernel, 2 debugger data, 4 64-bit pointers
	uint8_t protocol;         // 6
	uint8_t secondary;
	uint32_t processor_count;
	uint64_t kernel_base;
	uint64_t module_list;     // PsLoadedModuleList, 0 = unknown
	uint64_t debugger_list;   // DebuggerDataList, 0 = none
	uint64_t kdbg;            // address of KDDEBUGGER_DATA64, 0 = none found
	uint32_t kdbg_size;
};
// Needs a stopped target. Blocks for requests the first time after a (re)start, then answers from memory.
// Return NULL; STATE, TIMEOUT, GONE, RESTARTED, PROTOCOL, TARGET.
VMKD_API struct vmkd_error *vmkd_target_version(struct vmkd_target *target, struct vmkd_version *ret) VMKD_MUST_CHECK;

// Copies the kernel's KDDEBUGGER_DATA64 as far as it and `size` go (its layout: KDDEBUGGER_DATA64 of wdbgexts.h).
// Needs a stopped target. Return NULL and the bytes copied; UNSUPPORTED when the kernel gives none; else as version.
VMKD_API struct vmkd_error *vmkd_target_kdbg_read(struct vmkd_target *target, void *buffer, size_t size,
						  size_t *ret_size) VMKD_MUST_CHECK;

// ---- what the target says ------------------------------------------------------------------------------------------------------

enum vmkd_event_kind {
	VMKD_EVENT_NONE = 0,  // the time is over
	VMKD_EVENT_EXCEPTION, // stopped: break-in, breakpoint, step, or an exception of the kernel
	VMKD_EVENT_MODULE,    // stopped: a module was loaded or unloaded; modules are not known to be listed yet
	VMKD_EVENT_COMMAND,   // stopped: the kernel hands the debugger a command (DbgCommandString)
	VMKD_EVENT_SHUTDOWN,  // stopped: the kernel is about to reboot, power off or hibernate
	VMKD_EVENT_PRINT,     // DbgPrint text; the target runs on
	VMKD_EVENT_PROMPT,    // DbgPrompt: answer with vmkd_target_answer_prompt
	VMKD_EVENT_FILE,      // file request (.kdfiles): answer with vmkd_target_answer_file. Only with wants_files
	VMKD_EVENT_RESTARTED, // a new kernel talks (or the old one gave up and started over): contexts and modules known so far are
			      // void, breakpoints are no longer in the kernel. The event that told so follows
};

// Why VMKD_EVENT_EXCEPTION, as far as the library can tell.
enum vmkd_stop_reason {
	VMKD_STOP_EXCEPTION = 0,
	VMKD_STOP_BREAK_IN,   // a break instruction, after this session asked for a break-in
	VMKD_STOP_BREAKPOINT, // `breakpoint` is ours, of either kind
	VMKD_STOP_STEP,       // vmkd_target_step is done
	VMKD_STOP_SWITCHED,   // another processor became the current one
	VMKD_STOP_INT3,       // a break instruction in the code, not ours
};

#define VMKD_EXCEPTION_PARAMETERS_MAX 15

struct vmkd_event {
	enum vmkd_event_kind kind;
	uint16_t processor;        // all but NONE, RESTARTED
	uint64_t thread;           // stops: KTHREAD
	uint64_t pc;               // stops
	// The target said the same again after a resynchronisation: nothing new happened.
	bool is_repeated;
	// EXCEPTION
	enum vmkd_stop_reason reason;
	uint32_t breakpoint;       // id, reason BREAKPOINT
	uint32_t exception_code;   // NTSTATUS
	uint32_t exception_flags;  // 1 = cannot be continued
	uint64_t exception_address;
	uint32_t parameter_count;
	uint64_t parameters[VMKD_EXCEPTION_PARAMETERS_MAX];
	bool is_first_chance;
	// MODULE, SHUTDOWN
	bool is_unload;
	uint64_t module_base;      // SHUTDOWN: 0xFFFFFFFFFFFFFFFF reboot, …FE hibernate
	uint32_t module_size;
	uint32_t module_checksum;
	uint64_t module_process;
	// PRINT, PROMPT: text. MODULE: path. COMMAND: the command. FILE: the name. Never NULL; valid until the next call on the target.
	const char *text;
	size_t text_len;
	// PROMPT: the longest answer the target takes, in bytes
	uint32_t prompt_max;
	// FILE
	uint32_t file_api;         // 0x3430 create, 0x3431 read, 0x3432 write, 0x3433 close
	uint64_t file_handle, file_offset;
	uint32_t file_length;      // read: bytes wanted
	const void *file_data;     // write; valid like text
	size_t file_data_len;
	// RESTARTED: breakpoints of this session that went with the old kernel (they are set again at the next resume)
	uint32_t lost_breakpoints;
};

// Waits for the next event. timeout_ms: -1 = for ever (vmkd_target_break_in does not end it by itself, the stop that follows does);
// 0 = only what has come already. Needed also while nothing is expected: packets of the target are acknowledged here.
// Return NULL and an event (NONE: time is over, or a signal came); GONE, REFUSED (the connection ended; the message says
// how), NO_MEMORY. Garbage on the line is logged and survived.
VMKD_API struct vmkd_error *vmkd_target_wait(struct vmkd_target *target, int timeout_ms, struct vmkd_event *ret) VMKD_MUST_CHECK;

// Answers the prompt (state PROMPT); longer text is cut to prompt_max. The target runs on.
// Return NULL; STATE, ARGUMENT (longer than one packet), TIMEOUT, GONE.
VMKD_API struct vmkd_error *vmkd_target_answer_prompt(struct vmkd_target *target, const char *text, size_t len) VMKD_MUST_CHECK;

// Answers a file request (state FILE). status: NTSTATUS, 0xC000000F = no such file. handle, size: for create. data: for read, at most
// 3936 bytes; length: bytes written, for write.
VMKD_API struct vmkd_error *vmkd_target_answer_file(struct vmkd_target *target, uint32_t status, uint64_t handle, uint64_t size,
						    const void *data, size_t length) VMKD_MUST_CHECK;

// ---- run control ---------------------------------------------------------------------------------------------------------------

// Asks a running target to stop. Never blocks; any thread, async-signal-safe. The byte goes out in the next (or current)
// vmkd_target_wait; the stop comes as an event. Without effect when the target is stopped by then.
VMKD_API void vmkd_target_break_in(struct vmkd_target *target);

enum vmkd_continue {
	VMKD_CONTINUE_HANDLED,     // the exception is dealt with
	VMKD_CONTINUE_NOT_HANDLED, // let the kernel's handlers have it
};

// Lets the stopped target run. Enabled breakpoints are (re)written first; one at the current instruction is stepped over (by
// vmkd_target_wait, invisibly); the program counter is moved past a break instruction that is part of the code.
// Blocks for the requests, not for the next stop. Return NULL; STATE, TIMEOUT, GONE, RESTARTED, TARGET (a breakpoint
// cannot be set: the target is still stopped).
VMKD_API struct vmkd_error *vmkd_target_go(struct vmkd_target *target, enum vmkd_continue how) VMKD_MUST_CHECK;

// Runs one instruction of the current processor; the others run meanwhile. The stop comes as an event (reason STEP, or anything
// that came first). A break instruction in the code is only moved past. Return as vmkd_target_go.
VMKD_API struct vmkd_error *vmkd_target_step(struct vmkd_target *target) VMKD_MUST_CHECK;

// Restarts the machine at once, and: bug check 0xE2. The target runs afterwards. Return NULL; STATE, TIMEOUT, GONE.
VMKD_API struct vmkd_error *vmkd_target_reboot(struct vmkd_target *target) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_crash(struct vmkd_target *target) VMKD_MUST_CHECK;

// Starts the connection over: RESET, then the target reports its state again if it is stopped (event with is_repeated).
// Never blocks. Return NULL; GONE.
VMKD_API struct vmkd_error *vmkd_target_resync(struct vmkd_target *target) VMKD_MUST_CHECK;

// ---- processors ----------------------------------------------------------------------------------------------------------------

// As the last stop told; 0 before the first. Never block.
VMKD_API uint32_t vmkd_target_processor_count(const struct vmkd_target *target);
VMKD_API uint32_t vmkd_target_processor(const struct vmkd_target *target);

// Makes another processor the current one: the one that steps, and whose address space virtual addresses mean.
// Needs a stopped target; blocks until the target has reported the switch. Return NULL; STATE, ARGUMENT (no such
// processor), TIMEOUT, GONE, RESTARTED.
VMKD_API struct vmkd_error *vmkd_target_switch_processor(struct vmkd_target *target, uint32_t processor) VMKD_MUST_CHECK;

// The last stop as the target reported it (kept until the target is resumed). Return false when it is not stopped.
VMKD_API bool vmkd_target_last_stop(const struct vmkd_target *target, struct vmkd_event *ret);

// ---- registers -----------------------------------------------------------------------------------------------------------------

enum vmkd_register_group {
	VMKD_REGISTERS_GENERAL,  // rax … r15, rip, eflags, segments
	VMKD_REGISTERS_PART,     // eax, ax, al, …: part of a general one
	VMKD_REGISTERS_FLAG,     // cf, zf, iopl, …: bits of eflags
	VMKD_REGISTERS_DEBUG,    // dr0 … dr7 (the kernel's, from the special registers)
	VMKD_REGISTERS_CONTROL,  // cr0 … cr8, gdtr, idtr, tr, … (special registers)
	VMKD_REGISTERS_VECTOR,   // xmm0 …, st0 …, mxcsr, fpcw …
};

// One register of an architecture.
struct vmkd_register {
	const char *name;    // lower case; constant data of the library
	enum vmkd_register_group group;
	uint8_t size;        // bytes of the value: 1, 2, 4, 8, 10, 16
	uint8_t shift, bits; // where the value lies in the stored integer; bits = 0: all of it
	uint8_t stored_size; // bytes of the stored integer
	bool is_special;     // offset is into the special registers instead of the context
	uint16_t offset;
};

struct vmkd_value {
	uint64_t low;  // the value; bytes 0..7 of a larger one
	uint64_t high; // bytes 8..15
};

// Looks a name up (any case). Return false = unknown name or architecture. Never blocks.
VMKD_API bool vmkd_register_find(enum vmkd_arch arch, const char *name, struct vmkd_register *ret);
// The registers of an architecture, for lists and completion; index from 0. Return false = no more.
VMKD_API bool vmkd_register_at(enum vmkd_arch arch, size_t index, struct vmkd_register *ret);

// One register of the current processor. Needs a stopped target; the first access after a stop blocks for a request, a set always.
// Setting a part leaves the rest of the register as it is (as WinDbg does, and unlike the processor for 32-bit parts).
// Return NULL; ARGUMENT (not of this architecture; does not fit), STATE, TIMEOUT, GONE, RESTARTED, TARGET, PROTOCOL.
VMKD_API struct vmkd_error *vmkd_target_register_get(struct vmkd_target *target, const struct vmkd_register *reg,
						     struct vmkd_value *ret) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_register_set(struct vmkd_target *target, const struct vmkd_register *reg,
						     struct vmkd_value value) VMKD_MUST_CHECK;

// The whole CONTEXT of a processor, in Windows' layout: 0x4D0 bytes on x64, 0x2CC on x86. size: of the buffer; must not be less.
// Return NULL and the bytes; ARGUMENT (buffer too small, no such processor), else as register_get.
VMKD_API struct vmkd_error *vmkd_target_context_get(struct vmkd_target *target, uint32_t processor, void *buffer, size_t size,
						    size_t *ret_size) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_context_set(struct vmkd_target *target, uint32_t processor, const void *context,
						    size_t size) VMKD_MUST_CHECK;

// Control space of a processor. x64: index 0 KPCR address, 1 KPRCB address, 2 KSPECIAL_REGISTERS, 3 KTHREAD address. x86: byte offset
// into KPROCESSOR_STATE. size at most 3944. Return NULL and the bytes that came (never more than size); TARGET, else as above.
VMKD_API struct vmkd_error *vmkd_target_control_read(struct vmkd_target *target, uint32_t processor, uint64_t index, void *buffer,
						     size_t size, size_t *ret_size) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_control_write(struct vmkd_target *target, uint32_t processor, uint64_t index,
						      const void *data, size_t size) VMKD_MUST_CHECK;

// Model-specific registers of the current processor. Return NULL; TARGET (no such register), else as above.
VMKD_API struct vmkd_error *vmkd_target_msr_read(struct vmkd_target *target, uint32_t msr, uint64_t *ret) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_msr_write(struct vmkd_target *target, uint32_t msr, uint64_t value) VMKD_MUST_CHECK;

// ---- memory --------------------------------------------------------------------------------------------------------------------

enum vmkd_space {
	VMKD_VIRTUAL,  // in the current processor's address space; nothing is paged in
	VMKD_PHYSICAL,
};

// Read and write any length; one request per 3944 bytes. Breakpoints of this session do not show in virtual memory that is read, and
// stay in force where it is written (they are set again at the next resume). Needs a stopped target.
// Reading vm:NAME asks the target only for what is not in the VM's RAM, or for everything where RAM is out of reach: the result is the
// same, and vmkd_target_memory_way tells which it is. A target that goes on by itself in the middle (reset, ended) is noticed as by a request.
// RAM that the guest has never touched may be allocated by being read, as it would be by the guest.
// *ret_done (may be NULL): bytes read or written from the start of the range, set on success *and* on failure: up to the
// failing address everything is valid. Return NULL = all; FAULT (error->address: first byte that failed); ARGUMENT (the
// range wraps around), STATE, TIMEOUT, GONE, RESTARTED, PROTOCOL.
VMKD_API struct vmkd_error *vmkd_target_read(struct vmkd_target *target, enum vmkd_space space, uint64_t address, void *buffer,
					     size_t len, size_t *ret_done) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_target_write(struct vmkd_target *target, enum vmkd_space space, uint64_t address, const void *data,
					      size_t len, size_t *ret_done) VMKD_MUST_CHECK;

// How memory is read. For people and for benchmarks: no result depends on it.
enum vmkd_memory_way {
	VMKD_MEMORY_PACKETS, // requests to the target, 3944 bytes at most: not a vm:, no_ram, the broker's --no-ram, or no right to the VM's RAM
	VMKD_MEMORY_MAPPED,  // the VM's RAM is mapped into this process: its memory is a file or a memfd
	VMKD_MEMORY_PROCESS, // process_vm_readv from the VMM: its memory is private, and this process may read it
};

// The way that the next vmkd_target_read goes (where memory is RAM). PACKETS also while the target is not stopped. Never blocks.
VMKD_API enum vmkd_memory_way vmkd_target_memory_way(struct vmkd_target *target);

// Finds `pattern` in [address, address + len). What is in the VM's RAM is searched here; the kernel is asked for the rest; where it cannot,
// memory is read and searched here, skipping pages that cannot be read. pattern_len 1 .. 3944. Return NULL and the address; NOT_FOUND; else as read.
VMKD_API struct vmkd_error *vmkd_target_search(struct vmkd_target *target, uint64_t address, uint64_t len, const void *pattern,
					       size_t pattern_len, uint64_t *ret) VMKD_MUST_CHECK;

// Writes `pattern` again and again over [address, address + len). The kernel is asked; where it cannot, memory is written.
// Return as write.
VMKD_API struct vmkd_error *vmkd_target_fill(struct vmkd_target *target, enum vmkd_space space, uint64_t address, uint64_t len,
					     const void *pattern, size_t pattern_len, size_t *ret_done) VMKD_MUST_CHECK;

// ---- breakpoints ---------------------------------------------------------------------------------------------------------------
// Code breakpoints are break instructions that the kernel writes for the debugger. Its table has 32 places, and it drops entries at a stop near
// them. Processor breakpoints are in the debug registers: four at a time, nothing is written into code. The library keeps the
// list; the kernel's table and the registers of every processor are brought in line with it at every resume. So these calls talk to
// the kernel only as far as they can say at once that it fails. A processor that the kernel starts later gets the registers at the next resume.

#define VMKD_BREAKPOINTS_MAX 32 // places in the kernel's table, and entries of both kinds together

enum vmkd_breakpoint_kind {
	VMKD_BREAKPOINT_CODE = 0,
	VMKD_BREAKPOINT_EXECUTE,    // processor: before the instruction at the address is executed
	VMKD_BREAKPOINT_WRITE,      // processor: behind the instruction that has written any of `size` bytes
	VMKD_BREAKPOINT_READ_WRITE, // processor: ... has read or written
};

struct vmkd_breakpoint {
	uint32_t id; // 0 .. ; free ids are used again, lowest first
	uint64_t address;
	bool is_enabled;
	bool is_one_shot; // removed by the stop it causes
	bool is_in_kernel; // the kernel has it in its table right now; processor breakpoints: it has a debug register
	uint64_t hits;
	enum vmkd_breakpoint_kind kind;
	uint32_t size; // bytes that are watched; 0 for CODE
};

struct vmkd_breakpoint_options {
	enum vmkd_breakpoint_kind kind;
	uint32_t size; // processor breakpoints: 1, 2, 4, on x64 8; 1 for EXECUTE. The address is a multiple of it. CODE: ignored
	bool is_one_shot;
	bool is_forced; // CODE: also where it is refused with GUARDED
};

// Needs a stopped target. one_shot: removed at its hit. Return NULL and the id; ARGUMENT (there is one at this address; table
// full), FAULT (the kernel refused the address), GUARDED, STATE, TIMEOUT, GONE, RESTARTED.
// GUARDED: a code breakpoint in the kernel's half of an x64 target that booted without any debugger. Its kernel checks its own code
// (PatchGuard) and dies of bug check 0x109 minutes later. Known of vm:NAME alone, whose broker is asked; others are taken to be fine.
VMKD_API struct vmkd_error *vmkd_breakpoint_set(struct vmkd_target *target, uint64_t address, bool one_shot,
						uint32_t *ret_id) VMKD_MUST_CHECK;
// The same, with a choice. options: NULL = a code breakpoint. ARGUMENT also: what no processor can watch; all debug registers are in use.
VMKD_API struct vmkd_error *vmkd_breakpoint_set_with(struct vmkd_target *target, uint64_t address, const struct vmkd_breakpoint_options *options,
						     uint32_t *ret_id) VMKD_MUST_CHECK;
// Need a stopped target only if the breakpoint is in the kernel. Return NULL; NOT_FOUND, ARGUMENT (all debug registers are in use), STATE,
// TIMEOUT, GONE, RESTARTED.
VMKD_API struct vmkd_error *vmkd_breakpoint_remove(struct vmkd_target *target, uint32_t id) VMKD_MUST_CHECK;
VMKD_API struct vmkd_error *vmkd_breakpoint_enable(struct vmkd_target *target, uint32_t id, bool enable) VMKD_MUST_CHECK;
// Never block. index: 0 .. count - 1, ascending ids. Return false = no such.
VMKD_API uint32_t vmkd_breakpoint_count(const struct vmkd_target *target);
VMKD_API bool vmkd_breakpoint_at(const struct vmkd_target *target, uint32_t index, struct vmkd_breakpoint *ret);

// ---- modules -------------------------------------------------------------------------------------------------------------------

struct vmkd_module {
	uint64_t base;
	uint64_t size;       // SizeOfImage
	uint64_t entry;      // the loader entry's address, for those who look further
	uint32_t checksum;
	const char *name;    // "ntoskrnl.exe"; as BaseDllName says
	const char *short_name; // without extension, "nt" for the kernel: what addresses are written with
	const char *path;    // FullDllName
};

struct vmkd_modules;

// Reads PsLoadedModuleList into a list that stays as it was at this moment. The target's list is not trusted: the walk ends at a loop,
// at an entry that cannot be read, at 2048 entries; names are cut at 512 characters.
// Needs a stopped target. Return NULL and *ret (free it with vmkd_modules_destroy), with vmkd_modules_problem telling what
// ended the walk early; UNSUPPORTED (the kernel names no list), else as vmkd_target_read.
VMKD_API struct vmkd_error *vmkd_modules_read(struct vmkd_target *target, struct vmkd_modules **ret) VMKD_MUST_CHECK;
VMKD_API void vmkd_modules_destroy(struct vmkd_modules *modules);
VMKD_API size_t vmkd_modules_count(const struct vmkd_modules *modules);
// NULL = no such. Valid until destroy.
VMKD_API const struct vmkd_module *vmkd_modules_at(const struct vmkd_modules *modules, size_t index);
// The module that holds an address; NULL = none.
VMKD_API const struct vmkd_module *vmkd_modules_find_address(const struct vmkd_modules *modules, uint64_t address);
// By short_name or name, any case; NULL = none.
VMKD_API const struct vmkd_module *vmkd_modules_find_name(const struct vmkd_modules *modules, const char *name);
// TimeDateStamp of the image at `base`, from its PE header (a symbol server's key together with the size). Needs a stopped
// target. Return NULL; NOT_FOUND (no PE image), else as vmkd_target_read: FAULT means that the header is paged out.
VMKD_API struct vmkd_error *vmkd_module_timestamp(struct vmkd_target *target, uint64_t base, uint32_t *ret) VMKD_MUST_CHECK;
// Why the list is incomplete; NULL = it is complete.
VMKD_API const char *vmkd_modules_problem(const struct vmkd_modules *modules);

// ---- snapshots -----------------------------------------------------------------------------------------------------------------
// Of a vm:NAME that `vmkd run` has started, by its QEMU: the whole machine, memory and disks, in its qcow2 disks. The VM pauses meanwhile.
// All of them block for QEMU's answers, at most timeout_ms (0 = 300000); one that came too late is still carried out. They need no certain state
// of the target, and whoever else uses the VM's QMP monitor has to let go of it first.
// Return besides what is named: UNSUPPORTED (not a vm:NAME), CONNECT (no such VM, or not of `vmkd run`), REFUSED (somebody else holds the
// monitor), TARGET (QEMU cannot: no qcow2 disk to put it into, a device that cannot be saved; the message says it), TIMEOUT, GONE,
// PROTOCOL, NO_MEMORY.

#define VMKD_SNAPSHOT_NAME_MAX 64 // with its NUL

struct vmkd_snapshot {
	char name[256];       // one that was given elsewhere may be longer and stranger than those taken here
	uint64_t taken_at;    // seconds since 1970
	uint64_t vm_clock_ms; // how long the VM had run then
	uint64_t size;        // bytes of its memory and devices
};

// name: 1 to 63 letters, digits, '.', '_' and '-', beginning with none of '.' and '-'. A snapshot of that name is replaced. Return NULL; ARGUMENT.
VMKD_API struct vmkd_error *vmkd_snapshot_take(struct vmkd_target *target, const char *name, uint32_t timeout_ms) VMKD_MUST_CHECK;

// Puts the VM back to the snapshot, under the same debugger: stopped where it was stopped then, running where it ran; a VM that is paused
// stays paused. For the target that is another kernel: the state is UNKNOWN at first, VMKD_EVENT_RESTARTED comes, then what it says:
// its stop, if it is stopped. Breakpoints of this session stay in its list and are set again at the next resume; what the
// snapshot has in its kernel's table is removed at the first stop (keep_foreign_breakpoints).
// Return NULL; NOT_FOUND (nothing has happened), ARGUMENT.
VMKD_API struct vmkd_error *vmkd_snapshot_revert(struct vmkd_target *target, const char *name, uint32_t timeout_ms) VMKD_MUST_CHECK;

// Return NULL; NOT_FOUND, ARGUMENT.
VMKD_API struct vmkd_error *vmkd_snapshot_delete(struct vmkd_target *target, const char *name, uint32_t timeout_ms) VMKD_MUST_CHECK;

// The snapshots there are, oldest first: up to `max` into buffer. *ret_count: how many there are, at most 1000.
VMKD_API struct vmkd_error *vmkd_snapshots_read(struct vmkd_target *target, struct vmkd_snapshot *buffer, size_t max,
						size_t *ret_count) VMKD_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
