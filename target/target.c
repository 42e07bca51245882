// SPDX-License-Identifier: MIT
// Opening and closing, what a target is, and its events.
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/error.h"
#include "target/ram.h"
#include "target/replay.h"
#include "target/stream.h"
#include "target/target.h"
#include "target/url.h"
#include "util/cleanup.h"
#include "wire/le.h"

_Static_assert(VMKD_BREAKPOINTS_MAX == BPTABLE_MAX, "the public number of breakpoints is the table's");
_Static_assert(VMKD_EXCEPTION_PARAMETERS_MAX == KD_EXCEPTION_PARAMETERS, "the public number of parameters is the wire's");

#define CONNECT_TIMEOUT_MS 5000u
#define REQUEST_TIMEOUT_MS 10000u
#define PROCESSORS_MAX 65536u  // the wire's processor number has 16 bits
#define KDBG_LIST_MAX 16u      // data blocks looked at for the one with the tag

void target_log(const struct vmkd_target *target, enum vmkd_log_level level, const char *format, ...)
{
	char text[512];
	va_list ap;

	if (!target->options.log)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	target->options.log(target->options.log_closure, level, text);
}

struct vmkd_error *target_check_entry(const struct vmkd_target *target, bool exists, const char *entry)
{
	if (exists)
		return NULL;
	return vmkd_error_create(VMKD_E_UNSUPPORTED, "a %s cannot do this (%s)", target->backend->ops->kind, entry);
}

bool target_is_x86(const struct vmkd_target *target)
{
	return target->backend->ops->machine(target->backend) == KD_MACHINE_X86;
}

uint64_t target_address_in(const struct vmkd_target *target, uint64_t address)
{
	return target_is_x86(target) ? kd_sign_extend32((uint32_t)address) : address;
}

uint64_t target_address_out(const struct vmkd_target *target, uint64_t address)
{
	return target_is_x86(target) ? (uint32_t)address : address;
}

// ---- what the backend reports --------------------------------------------------------------------------------------------------

static void on_stopped(void *closure, const struct kd_state_change *change, bool is_repeated)
{
	struct vmkd_target *target = closure;
	uint32_t count = change->processor_count;

	if (count == 0 || count > PROCESSORS_MAX || change->processor >= count) {
		target_log(target, VMKD_LOG_WARNING, "processor %u of %" PRIu32 " cannot be", change->processor, count);
		count = count == 0 || count > PROCESSORS_MAX ? (uint32_t)change->processor + 1 : PROCESSORS_MAX;
	}
	target->processor_count = count;
	// A repeated report is built from the same stop: what this side did since (moved past an int3) is still true.
	if (is_repeated && target->has_stop)
		return;
	target->stop = *change;
	target->stop.data = NULL;
	target->stop.data_len = 0;
	target->has_stop = true;
	target->is_pc_changed = false;
	target->has_synthetic = false;
	target->stop_serial++;
	target_registers_forget(target);
	target_run_stopped(target, change);
}

static uint32_t on_restarted(void *closure)
{
	struct vmkd_target *target = closure;

	target->has_stop = false;
	target->has_synthetic = false;
	target->has_version = false;
	target->has_kdbg = false;
	target->run = TARGET_RUN_NONE;
	target->stepping = target->may_be_late = target->debug_given = 0;
	target->debug_without = target->debug_processors = 0;
	target->is_leftover = false;
	target_registers_forget(target);
	// The kernel that gave up and started over still has them: clear its table before anything runs on.
	target->needs_sweep = true;
	return bptable_forget_kernel(&target->breakpoints);
}

static void on_turned(void *closure)
{
	struct vmkd_target *target = closure;
	target_ram_turned(target->ram);
}

static void on_log(void *closure, enum vmkd_log_level level, const char *text)
{
	target_log(closure, level, "%s", text);
}

// ---- life ----------------------------------------------------------------------------------------------------------------------

static void set_defaults(struct vmkd_open_options *options)
{
	if (options->connect_timeout_ms == 0)
		options->connect_timeout_ms = CONNECT_TIMEOUT_MS;
	if (options->request_timeout_ms == 0)
		options->request_timeout_ms = REQUEST_TIMEOUT_MS;
	if (options->resend_ms == 0)
		options->resend_ms = KDCOM_DEBUGGER_RETRY_MS;
}

// With `path` a trace, else the stream `fd`.
static struct vmkd_error *open_backend(int fd, const char *path, const char *name, const struct vmkd_open_options *options, struct vmkd_target **ret)
{
	struct vmkd_target *target = calloc(1, sizeof(*target));

	if (!target)
		return error_no_memory();
	if (options)
		target->options = *options;
	set_defaults(&target->options);
	snprintf(target->name, sizeof(target->name), "%s", name);
	bptable_init(&target->breakpoints);
	target->needs_sweep = true;
	struct backend_owner owner = { .closure = target, .stopped = on_stopped, .restarted = on_restarted, .turned = on_turned, .log = on_log };
	struct vmkd_error *error = path ? replay_create(path, target->name, &owner, &target->backend) :
					  kd_create(fd, target->name, &target->options, &owner, &target->backend);
	if (error) {
		free(target);
		return error;
	}
	*ret = target;
	return NULL;
}

struct vmkd_error *vmkd_target_open_fd(int fd, const char *name, const struct vmkd_open_options *options, struct vmkd_target **ret)
{
	return open_backend(fd, NULL, name, options, ret);
}

struct vmkd_error *vmkd_target_open(const char *url_text, const struct vmkd_open_options *options, struct vmkd_target **ret)
{
	struct vmkd_open_options defaults = { 0 };
	struct url url;
	int fd CLEANUP_CLOSE = -1;

	if (options)
		defaults = *options;
	set_defaults(&defaults);
	struct vmkd_error *error = url_parse(url_text, &url);
	if (!error && url.is_trace)
		return open_backend(-1, url.at.path, url_text, &defaults, ret);
	if (!error)
		error = url_connect(&url, defaults.connect_timeout_ms, &fd);
	if (!error)
		error = vmkd_target_open_fd(fd, url_text, &defaults, ret);
	if (error)
		return error;
	(void)cleanup_take_fd(&fd); // the target's now
	if (url.is_vm)
		snprintf((*ret)->vm_name, sizeof((*ret)->vm_name), "%s", url_text + strlen("vm:"));
	if (url.is_vm && !defaults.no_ram)
		(*ret)->ram = target_ram_connect(url.ram_path, *ret);
	return NULL;
}

void vmkd_target_close(struct vmkd_target *target)
{
	if (!target)
		return;
	target_ram_destroy(target->ram);
	target->backend->ops->destroy(target->backend);
	free(target);
}

// Stops a running target in order to take the breakpoints out; what it says meanwhile is not for anybody any more.
static struct vmkd_error *stop_for_detach(struct vmkd_target *target)
{
	uint64_t deadline = stream_now() + target->options.request_timeout_ms;
	struct vmkd_event event;

	vmkd_target_break_in(target);
	while (stream_now() < deadline) {
		struct vmkd_error *error = vmkd_target_wait(target, (int)(deadline - stream_now()), &event);
		if (error)
			return error;
		if (vmkd_target_state(target) == VMKD_STATE_STOPPED)
			return NULL;
	}
	return vmkd_error_create(VMKD_E_TIMEOUT, "the target does not break in, so breakpoints of this session stay in its kernel");
}

struct vmkd_error *vmkd_target_detach(struct vmkd_target *target, bool resume)
{
	enum vmkd_state state = vmkd_target_state(target);
	struct vmkd_error *error = NULL;

	if (target->backend->ops->is_recorded)
		return NULL;
	if (state == VMKD_STATE_PROMPT || state == VMKD_STATE_FILE)
		return vmkd_error_create(VMKD_E_STATE, "the target waits for an answer: answer it before leaving");
	if (state == VMKD_STATE_RUNNING) {
		if (!bptable_is_any_written(&target->breakpoints))
			return NULL;
		error = target_check_control(target, "a stop was asked for");
		if (error) { // the broker takes them out when this debugger has left
			vmkd_error_destroy(error);
			return NULL;
		}
		error = stop_for_detach(target);
		resume = true;
	} else if (state != VMKD_STATE_STOPPED) {
		return NULL; // nothing of ours is there
	}
	if (!error)
		error = target_breakpoints_withdraw(target);
	if (!error && resume)
		error = target_resume_plain(target);
	return error;
}

enum vmkd_state vmkd_target_state(const struct vmkd_target *target)
{
	enum vmkd_state state = target->backend->ops->state(target->backend);

	// Between a step that is this side's own business and what follows it, the target counts as running.
	if (state == VMKD_STATE_STOPPED && target->run == TARGET_RUN_STEP_OVER)
		return VMKD_STATE_RUNNING;
	if (state == VMKD_STATE_RUNNING && target->revert_until > stream_now())
		return VMKD_STATE_UNKNOWN; // that it runs was said of the time before
	return state;
}

const char *vmkd_target_name(const struct vmkd_target *target)
{
	return target->name;
}

int vmkd_target_fd(const struct vmkd_target *target)
{
	return target->backend->ops->poll_fd(target->backend);
}

int vmkd_target_poll_timeout(const struct vmkd_target *target)
{
	return target->has_synthetic ? 0 : target->backend->ops->poll_timeout(target->backend);
}

uint32_t vmkd_target_processor_count(const struct vmkd_target *target)
{
	return target->processor_count;
}

uint32_t vmkd_target_processor(const struct vmkd_target *target)
{
	return target->stop.processor;
}

void vmkd_target_break_in(struct vmkd_target *target)
{
	target->was_break_in_asked = true;
	target->backend->ops->break_in(target->backend);
}

struct vmkd_error *vmkd_target_resync(struct vmkd_target *target)
{
	struct vmkd_error *error = TARGET_CAN(target, resync);
	return error ? error : target->backend->ops->resync(target->backend);
}

struct vmkd_error *vmkd_target_switch_processor(struct vmkd_target *target, uint32_t processor)
{
	struct vmkd_error *error = TARGET_CAN(target, switch_processor);

	if (!error)
		error = target_learn(target);
	if (error)
		return error;
	if (processor >= target->processor_count)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a processor from 0 to %x, got %x", target->processor_count - 1, processor);
	target->is_switching = true;
	error = target->backend->ops->switch_processor(target->backend, (uint16_t)processor);
	target->is_switching = false;
	return error;
}

// ---- events --------------------------------------------------------------------------------------------------------------------

static bool is_stop(const struct vmkd_event *event)
{
	return event->kind == VMKD_EVENT_EXCEPTION || event->kind == VMKD_EVENT_MODULE || event->kind == VMKD_EVENT_COMMAND ||
	       event->kind == VMKD_EVENT_SHUTDOWN;
}

static void finish_event(struct vmkd_target *target, struct vmkd_event *event)
{
	if (!is_stop(event))
		return;
	if (event->kind == VMKD_EVENT_EXCEPTION) {
		event->reason = target->reason;
		event->breakpoint = target->reason_breakpoint;
	}
	target->last_stop = *event;
	target->last_stop.text = "";
	target->last_stop.text_len = 0;
	target->last_stop.file_data = NULL;
}

struct vmkd_error *vmkd_target_wait(struct vmkd_target *target, int timeout_ms, struct vmkd_event *ret)
{
	uint64_t deadline = timeout_ms < 0 ? STREAM_FOREVER : timeout_ms == 0 ? 0 : stream_now() + (uint64_t)timeout_ms;
	struct vmkd_event event;
	bool is_hidden = false;

	if (target->has_synthetic) {
		target->has_synthetic = false;
		*ret = target->synthetic;
		finish_event(target, ret);
		ret->reason = VMKD_STOP_STEP;
		target->last_stop.reason = VMKD_STOP_STEP;
		return NULL;
	}
	do {
		struct vmkd_error *error = target->backend->ops->wait(target->backend, deadline, &event);
		if (!error)
			error = target_revert_hidden(target, &event, &is_hidden);
		if (!error && !is_hidden)
			error = target_run_hidden(target, &event, &is_hidden);
		if (error)
			return error;
	} while (is_hidden);
	finish_event(target, &event);
	*ret = event;
	return NULL;
}

bool vmkd_target_last_stop(const struct vmkd_target *target, struct vmkd_event *ret)
{
	if (!target->has_stop || vmkd_target_state(target) != VMKD_STATE_STOPPED)
		return false;
	*ret = target->last_stop;
	return true;
}

struct vmkd_error *vmkd_target_answer_prompt(struct vmkd_target *target, const char *text, size_t len)
{
	struct vmkd_error *error = TARGET_CAN(target, answer_prompt);
	return error ? error : target->backend->ops->answer_prompt(target->backend, text, len);
}

struct vmkd_error *vmkd_target_answer_file(struct vmkd_target *target, uint32_t status, uint64_t handle, uint64_t size, const void *data,
					   size_t length)
{
	struct vmkd_error *error = TARGET_CAN(target, answer_file);
	return error ? error : target->backend->ops->answer_file(target->backend, status, handle, size, data, length);
}

// ---- what the kernel says of itself --------------------------------------------------------------------------------------------

static enum vmkd_arch arch_of(uint32_t machine)
{
	return machine == KD_MACHINE_X64 ? VMKD_ARCH_X64 : machine == KD_MACHINE_X86 ? VMKD_ARCH_X86 : VMKD_ARCH_UNKNOWN;
}

// Follows DebuggerDataList to the block with the tag. A list that cannot be read is no error: some kernels have none.
static struct vmkd_error *find_kdbg(struct vmkd_target *target, uint64_t head)
{
	uint8_t bytes[KD_DATA_HEADER_SIZE];
	struct kd_data_header header;
	uint64_t at = head;
	struct vmkd_error *error = NULL;

	for (uint32_t i = 0; i <= KDBG_LIST_MAX && !error; i++) {
		// The head is two pointers alone, and may be the last thing on its page.
		size_t size = i == 0 ? (target_is_x86(target) ? 8 : 16) : sizeof(bytes);
		memset(bytes, 0, sizeof(bytes));
		error = vmkd_target_read(target, VMKD_VIRTUAL, at, bytes, size, NULL);
		if (error || kd_data_header_decode(bytes, sizeof(bytes), target->version.machine, &header) != KD_OK)
			break;
		if (i > 0 && header.tag == KD_DATA_TAG) {
			target->version.kdbg = target_address_out(target, at);
			target->version.kdbg_size = header.size;
			return NULL;
		}
		at = header.flink;
		if (target_address_out(target, at) == target_address_out(target, head))
			break;
	}
	if (error && error->code == VMKD_E_FAULT) {
		target_log(target, VMKD_LOG_WARNING, "the list of debugger data: %s", error->message);
		vmkd_error_destroy(error);
		error = NULL;
	}
	return error;
}

static struct vmkd_error *read_kdbg(struct vmkd_target *target)
{
	uint32_t size = target->version.kdbg_size < KD_DATA_SIZE_MAX ? target->version.kdbg_size : KD_DATA_SIZE_MAX;
	size_t done = 0;
	uint64_t list;

	if (target->version.kdbg == 0)
		return NULL;
	struct vmkd_error *error = vmkd_target_read(target, VMKD_VIRTUAL, target->version.kdbg, target->kdbg, size, &done);
	if (error && error->code != VMKD_E_FAULT)
		return error;
	vmkd_error_destroy(error);
	target->has_kdbg = true;
	target->kdbg_len = (uint32_t)done;
	if (target->version.module_list == 0 &&
	    kd_data_get_address(target->kdbg, target->kdbg_len, KD_DATA_PsLoadedModuleList, target->version.machine, &list) == KD_OK)
		target->version.module_list = target_address_out(target, list);
	return NULL;
}

static void take_version(struct vmkd_target *target, const struct kd_version *version)
{
	target->version = (struct vmkd_version){
		.arch = arch_of(version->machine),
		.machine = version->machine,
		.major = version->major,
		.build = version->minor,
		.flags = version->flags,
		.protocol = version->protocol,
		.secondary = version->secondary,
		.kernel_base = target_address_out(target, version->kern_base),
		.module_list = target_address_out(target, version->loaded_module_list),
		.debugger_list = version->flags & KD_VERSION_DATA ? target_address_out(target, version->debugger_data_list) : 0,
	};
}

struct vmkd_error *target_learn(struct vmkd_target *target)
{
	struct kd_version version;
	struct vmkd_error *error = NULL;

	if (target->has_version) {
		if (target->backend->ops->state(target->backend) == VMKD_STATE_STOPPED)
			return NULL;
		error = TARGET_CAN(target, version);
		return error ? error : target->backend->ops->version(target->backend, &version); // says what the state is
	}
	error = TARGET_CAN(target, version);
	if (!error)
		error = target->backend->ops->version(target->backend, &version);
	if (error)
		return error;
	take_version(target, &version);
	target->has_version = true; // what follows reads memory, which learns
	if (target->version.debugger_list != 0)
		error = find_kdbg(target, target->version.debugger_list);
	if (!error)
		error = read_kdbg(target);
	if (error)
		target->has_version = false;
	return error;
}

struct vmkd_error *vmkd_target_version(struct vmkd_target *target, struct vmkd_version *ret)
{
	struct vmkd_error *error = target_learn(target);

	if (error)
		return error;
	*ret = target->version;
	ret->processor_count = target->processor_count;
	return NULL;
}

struct vmkd_error *vmkd_target_kdbg_read(struct vmkd_target *target, void *buffer, size_t size, size_t *ret_size)
{
	struct vmkd_error *error = target_learn(target);

	if (!error && !target->has_kdbg)
		error = vmkd_error_create(VMKD_E_UNSUPPORTED, "this kernel gives debuggers no data block");
	if (error)
		return error;
	*ret_size = size < target->kdbg_len ? size : target->kdbg_len;
	memcpy(buffer, target->kdbg, *ret_size);
	return NULL;
}
