// SPDX-License-Identifier: MIT
// The KDCOM backend's table: each entry fills one request and reads one reply.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/error.h"
#include "target/kd.h"

static struct kd *of(struct backend *backend)
{
	return (struct kd *)backend;
}

static const struct kd *of_const(const struct backend *backend)
{
	return (const struct kd *)backend;
}

// ---- state ---------------------------------------------------------------------------------------------------------------------

static void kd_destroy(struct backend *backend)
{
	struct kd *kd = of(backend);

	kd_events_clear(kd);
	stream_destroy(kd->stream);
	free(kd);
}

static enum vmkd_state kd_state(const struct backend *backend)
{
	return of_const(backend)->state;
}

static int kd_poll_fd(const struct backend *backend)
{
	return stream_poll_fd(of_const(backend)->stream);
}

static int kd_poll_timeout(const struct backend *backend)
{
	return stream_poll_timeout(of_const(backend)->stream);
}

static uint32_t kd_machine(const struct backend *backend)
{
	return of_const(backend)->machine;
}

static void kd_break_in(struct backend *backend)
{
	stream_wake(of(backend)->stream);
}

static struct vmkd_error *kd_resync(struct backend *backend)
{
	struct kd *kd = of(backend);

	if (kd->state == VMKD_STATE_GONE)
		return kd_gone_error(kd, 0);
	if (!kd_send_reset(kd))
		return vmkd_error_create(VMKD_E_TIMEOUT, "%s takes no bytes: its other end does not read", kd->name);
	return NULL;
}

static struct vmkd_error *kd_start_over(struct backend *backend)
{
	struct kd *kd = of(backend);

	if (kd->state == VMKD_STATE_GONE)
		return kd_gone_error(kd, 0);
	kd_forget_stops(kd);
	kd_restarted(kd);
	kd->state = VMKD_STATE_UNKNOWN;
	kd->has_spoken = false; // its first packet is not one more restart
	kd->break_in_from = stream_now() + KD_FIRST_ANSWER_MS;
	return kd_resync(backend);
}

static bool kd_is_quiet(const struct backend *backend)
{
	const struct kd *kd = of_const(backend);

	return kd->state == VMKD_STATE_STOPPED && !kd->is_reset_due && !kd->needs_resync && stream_is_quiet(kd->stream);
}

// ---- events --------------------------------------------------------------------------------------------------------------------

static bool pop(struct kd *kd, struct vmkd_event *ret)
{
	struct kd_queued *queued = kd->first;

	if (!queued)
		return false;
	kd->first = queued->next;
	if (!kd->first)
		kd->last = &kd->first;
	kd->queued_count--;
	free(kd->current);
	kd->current = queued;
	*ret = queued->event;
	return true;
}

static struct vmkd_error *kd_wait(struct backend *backend, uint64_t deadline, struct vmkd_event *ret)
{
	struct kd *kd = of(backend);
	struct stream_event event = { .kind = STREAM_PACKET };
	struct vmkd_error *error = NULL;

	while (kd->queued_count == 0 && !kd->late_error && event.kind != STREAM_NONE && event.kind != STREAM_SIGNAL &&
	       event.kind != STREAM_CLOSED)
		kd_turn(kd, deadline, &event);
	if (!pop(kd, ret)) {
		*ret = (struct vmkd_event){ .kind = VMKD_EVENT_NONE, .text = "" };
		error = kd->late_error;
		kd->late_error = NULL;
		if (!error && event.kind == STREAM_CLOSED)
			error = kd_gone_error(kd, event.os_error);
	}
	if (kd->queued_count > 0 || stream_has_input(kd->stream))
		stream_mark_pending(kd->stream);
	return error;
}

static void kd_forget_stops_op(struct backend *backend)
{
	kd_forget_stops(of(backend));
}

// Answers let the target run: what follows is news.
static struct vmkd_error *send_answer(struct kd *kd, uint16_t type, const uint8_t *header, uint32_t header_len, const void *data,
				      uint32_t len)
{
	int outcome = kdcom_send(stream_kdcom(kd->stream), type, header, header_len, data, len, KDCOM_SEND_CONTINUE);

	if (outcome != KDCOM_OK)
		return vmkd_error_create(VMKD_E_TIMEOUT, "the answer cannot be sent: the connection takes nothing (%d)", outcome);
	stream_flush(kd->stream);
	kd->state = VMKD_STATE_RUNNING;
	return NULL;
}

static struct vmkd_error *kd_answer_prompt(struct backend *backend, const char *text, size_t len)
{
	struct kd *kd = of(backend);
	uint8_t header[KD_DEBUG_IO_SIZE];

	if (kd->state != VMKD_STATE_PROMPT)
		return vmkd_error_create(VMKD_E_STATE, "the target has not asked anything");
	if (len > KD_BODY_MAX - KD_DEBUG_IO_SIZE)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected an answer of at most %u bytes, got %zu", KD_BODY_MAX - KD_DEBUG_IO_SIZE, len);
	struct kd_debug_io io = { .api = KD_DEBUG_IO_PROMPT, .read_length = (uint32_t)len };
	if (kd_debug_io_encode(&io, header, sizeof(header)) != KD_OK)
		return vmkd_error_create(VMKD_E_PROTOCOL, "the answer cannot be encoded");
	return send_answer(kd, KD_PACKET_DEBUG_IO, header, sizeof(header), text, (uint32_t)len);
}

static struct vmkd_error *kd_answer_file(struct backend *backend, uint32_t status, uint64_t handle, uint64_t size, const void *data,
					 size_t length)
{
	struct kd *kd = of(backend);
	uint8_t header[KD_FILE_IO_SIZE];
	struct kd_file_io answer = kd->file;
	bool is_read = answer.api == KD_FILE_IO_READ;

	if (kd->state != VMKD_STATE_FILE)
		return vmkd_error_create(VMKD_E_STATE, "the target has not asked for a file");
	if (is_read && length > KD_FILE_DATA_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u bytes of file data, got %zu", KD_FILE_DATA_MAX, length);
	answer.status = status;
	if (answer.api == KD_FILE_IO_CREATE) {
		answer.u.create.handle = handle;
		answer.u.create.length = size;
	} else if (answer.api != KD_FILE_IO_CLOSE) {
		answer.u.transfer.length = (uint32_t)length;
	}
	if (kd_file_io_encode(&answer, header, sizeof(header)) != KD_OK)
		return vmkd_error_create(VMKD_E_PROTOCOL, "the answer cannot be encoded");
	return send_answer(kd, KD_PACKET_FILE_IO, header, sizeof(header), data, is_read ? (uint32_t)length : 0);
}

// ---- requests ------------------------------------------------------------------------------------------------------------------

// After GetVersion the machine is certain, and the stop can be read for what it is.
static void learn_machine(struct kd *kd, uint32_t machine)
{
	struct kd_state_change change;
	bool was_wrong = kd->machine != machine;

	kd->machine = machine;
	kd->is_machine_certain = true;
	if (was_wrong && kd->stop_len > 0 &&
	    kd_state_change_decode(kd->stop_body, kd->stop_len, machine, &change) == KD_OK && kd->owner.stopped)
		kd->owner.stopped(kd->owner.closure, &change, true);
}

static struct vmkd_error *kd_version(struct backend *backend, struct kd_version *ret)
{
	struct kd *kd = of(backend);
	struct kd_manipulate request = { .api = KD_API_GET_VERSION }, reply;
	struct vmkd_error *error = kd_request(kd, &request, NULL, 0, true, &reply);

	if (error)
		return error;
	if (kd_is_failure(reply.status))
		return error_status("GetVersion", reply.status);
	uint16_t machine = reply.u.version.machine;
	if (machine != KD_MACHINE_X64 && machine != KD_MACHINE_X86)
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "expected a machine 8664 (x64) or 14c (x86), the target says %x", machine);
	learn_machine(kd, machine);
	*ret = reply.u.version;
	return NULL;
}

static struct vmkd_error *memory_request(struct kd *kd, uint32_t api, uint16_t processor, uint64_t address, const void *data, uint32_t len,
					 bool is_write, struct kd_manipulate *ret)
{
	struct kd_manipulate request = { .api = api, .processor = processor, .u.memory = { .address = address, .count = len } };

	return kd_request(kd, &request, is_write ? data : NULL, is_write ? len : 0, true, ret);
}

static uint16_t current_processor(const struct kd *kd)
{
	return kd->stop_len >= 8 ? (uint16_t)(kd->stop_body[6] | kd->stop_body[7] << 8) : 0;
}

static struct vmkd_error *kd_read(struct backend *backend, enum vmkd_space space, uint64_t address, void *buffer, uint32_t len,
				  uint32_t *ret_done, uint32_t *ret_status)
{
	struct kd *kd = of(backend);
	struct kd_manipulate reply;
	uint32_t api = space == VMKD_PHYSICAL ? KD_API_READ_PHYSICAL : KD_API_READ_VIRTUAL;
	struct vmkd_error *error = memory_request(kd, api, current_processor(kd), address, NULL, len, false, &reply);

	if (error)
		return error;
	uint32_t done = kd_manipulate_data_len(&reply);
	if (done > len) {
		kd_log(kd, VMKD_LOG_WARNING, "asked for %" PRIu32 " bytes, the target says %" PRIu32 ": the rest is ignored", len, done);
		done = len;
	}
	memcpy(buffer, reply.data, done);
	*ret_done = done;
	*ret_status = reply.status;
	return NULL;
}

static struct vmkd_error *kd_write(struct backend *backend, enum vmkd_space space, uint64_t address, const void *data, uint32_t len,
				   uint32_t *ret_done, uint32_t *ret_status)
{
	struct kd *kd = of(backend);
	struct kd_manipulate reply;
	uint32_t api = space == VMKD_PHYSICAL ? KD_API_WRITE_PHYSICAL : KD_API_WRITE_VIRTUAL;
	struct vmkd_error *error = memory_request(kd, api, current_processor(kd), address, data, len, true, &reply);

	if (!error && reply.status == KD_STATUS_ACCESS_DENIED)
		error = error_status("a write", reply.status);
	if (error)
		return error;
	*ret_done = reply.u.memory.actual_bytes <= len ? reply.u.memory.actual_bytes : len;
	*ret_status = reply.status;
	return NULL;
}

static struct vmkd_error *kd_search(struct backend *backend, uint64_t address, uint64_t len, const void *pattern, uint32_t pattern_len,
				    uint64_t *ret)
{
	struct kd_manipulate request = { .api = KD_API_SEARCH_MEMORY, .processor = current_processor(of(backend)),
					 .u.search = { .address = address, .length = len, .pattern_len = pattern_len } };
	struct kd_manipulate reply;
	struct vmkd_error *error = kd_request(of(backend), &request, pattern, pattern_len, true, &reply);

	if (error)
		return error;
	if (reply.status == KD_STATUS_NOT_FOUND)
		return vmkd_error_create(VMKD_E_NOT_FOUND, "the pattern is not there");
	if (kd_is_failure(reply.status))
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "the target does not search (status %08" PRIx32 ")", reply.status);
	if (reply.u.search.address < address || reply.u.search.address - address >= len)
		return vmkd_error_create(VMKD_E_PROTOCOL, "searched from %" PRIx64 " for %" PRIx64 " bytes, found at %" PRIx64, address, len,
					 reply.u.search.address);
	*ret = reply.u.search.address;
	return NULL;
}

static struct vmkd_error *kd_context_get(struct backend *backend, uint16_t processor, void *buffer, size_t size, size_t *ret_size)
{
	struct kd_manipulate request = { .api = KD_API_GET_CONTEXT, .processor = processor }, reply;
	struct vmkd_error *error = kd_request(of(backend), &request, NULL, 0, true, &reply);

	if (error)
		return error;
	if (kd_is_failure(reply.status))
		return error_status("GetContext", reply.status);
	if (reply.data_len < size)
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected a context of %zu bytes, got %" PRIu32, size, reply.data_len);
	memcpy(buffer, reply.data, size);
	*ret_size = size;
	return NULL;
}

static struct vmkd_error *check(struct vmkd_error *error, const char *what, const struct kd_manipulate *reply)
{
	if (!error && kd_is_failure(reply->status))
		return error_status(what, reply->status);
	return error;
}

static struct vmkd_error *kd_context_set(struct backend *backend, uint16_t processor, const void *context, size_t size)
{
	struct kd_manipulate request = { .api = KD_API_SET_CONTEXT, .processor = processor }, reply;

	return check(kd_request(of(backend), &request, context, (uint32_t)size, true, &reply), "SetContext", &reply);
}

static struct vmkd_error *kd_control_read(struct backend *backend, uint16_t processor, uint64_t index, void *buffer, uint32_t size,
					  uint32_t *ret_size)
{
	struct kd_manipulate reply;
	struct vmkd_error *error =
		check(memory_request(of(backend), KD_API_READ_CONTROL_SPACE, processor, index, NULL, size, false, &reply),
		      "ReadControlSpace", &reply);

	if (error)
		return error;
	// Some kernels report the whole object's size, however few bytes were asked for (KD reference, section 4.4).
	uint32_t done = kd_manipulate_data_len(&reply);
	if (done > size)
		done = size;
	memcpy(buffer, reply.data, done);
	*ret_size = done;
	return NULL;
}

static struct vmkd_error *kd_control_write(struct backend *backend, uint16_t processor, uint64_t index, const void *data, uint32_t size)
{
	struct kd_manipulate reply;

	return check(memory_request(of(backend), KD_API_WRITE_CONTROL_SPACE, processor, index, data, size, true, &reply),
		     "WriteControlSpace", &reply);
}

static struct vmkd_error *kd_msr_read(struct backend *backend, uint32_t msr, uint64_t *ret)
{
	struct kd_manipulate request = { .api = KD_API_READ_MSR, .processor = current_processor(of(backend)), .u.msr = { .msr = msr } };
	struct kd_manipulate reply;
	struct vmkd_error *error = check(kd_request(of(backend), &request, NULL, 0, true, &reply), "ReadMachineSpecificRegister", &reply);

	if (!error)
		*ret = reply.u.msr.value;
	return error;
}

static struct vmkd_error *kd_msr_write(struct backend *backend, uint32_t msr, uint64_t value)
{
	struct kd_manipulate request = { .api = KD_API_WRITE_MSR, .processor = current_processor(of(backend)),
					 .u.msr = { .msr = msr, .value = value } };
	struct kd_manipulate reply;

	return check(kd_request(of(backend), &request, NULL, 0, true, &reply), "WriteMachineSpecificRegister", &reply);
}

// Not repeatable: a repetition of one that was executed fails, and the handle would be lost.
static struct vmkd_error *kd_breakpoint_write(struct backend *backend, uint64_t address, uint32_t *ret_handle)
{
	struct kd_manipulate request = { .api = KD_API_WRITE_BREAKPOINT, .u.breakpoint = { .address = address } }, reply;
	struct vmkd_error *error = check(kd_request(of(backend), &request, NULL, 0, false, &reply), "WriteBreakPoint", &reply);

	if (error)
		return error;
	if (reply.u.breakpoint.handle == 0)
		return error_status("WriteBreakPoint (no handle)", reply.status);
	*ret_handle = reply.u.breakpoint.handle;
	return NULL;
}

static struct vmkd_error *kd_breakpoint_restore(struct backend *backend, uint32_t handle)
{
	struct kd_manipulate request = { .api = KD_API_RESTORE_BREAKPOINT, .u.restore_handle = handle }, reply;

	return check(kd_request(of(backend), &request, NULL, 0, true, &reply), "RestoreBreakPoint", &reply);
}

static struct vmkd_error *kd_resume(struct backend *backend, uint32_t status, bool trace, uint64_t dr7)
{
	struct kd_manipulate request = { .api = KD_API_CONTINUE2, .processor = current_processor(of(backend)),
					 .u.continue2 = { .status = status, .trace = trace, .dr7 = dr7 } };

	return kd_send_resuming(of(backend), &request, false);
}

// Continue, not Continue2, whose layout depends on the architecture: a broker says this notice for a guest that is gone already and
// could not be asked.
static struct vmkd_error *kd_resume_reboot(struct backend *backend)
{
	struct kd_manipulate request = { .api = KD_API_CONTINUE, .processor = current_processor(of(backend)),
					 .u.continue_status = KD_CONTINUE_HANDLED };

	return kd_send_resuming(of(backend), &request, false);
}

static struct vmkd_error *kd_reboot(struct backend *backend)
{
	struct kd_manipulate request = { .api = KD_API_REBOOT };
	return kd_send_resuming(of(backend), &request, false);
}

static struct vmkd_error *kd_crash(struct backend *backend)
{
	struct kd_manipulate request = { .api = KD_API_CAUSE_BUGCHECK };
	return kd_send_resuming(of(backend), &request, false);
}

static const struct backend_ops KD_OPS = {
	.kind = "KDCOM stream",
	.destroy = kd_destroy,
	.state = kd_state,
	.poll_fd = kd_poll_fd,
	.poll_timeout = kd_poll_timeout,
	.machine = kd_machine,
	.break_in = kd_break_in,
	.resync = kd_resync,
	.start_over = kd_start_over,
	.is_quiet = kd_is_quiet,
	.wait = kd_wait,
	.forget_stops = kd_forget_stops_op,
	.answer_prompt = kd_answer_prompt,
	.answer_file = kd_answer_file,
	.version = kd_version,
	.read = kd_read,
	.write = kd_write,
	.search = kd_search,
	.context_get = kd_context_get,
	.context_set = kd_context_set,
	.control_read = kd_control_read,
	.control_write = kd_control_write,
	.msr_read = kd_msr_read,
	.msr_write = kd_msr_write,
	.breakpoint_write = kd_breakpoint_write,
	.breakpoint_restore = kd_breakpoint_restore,
	.resume = kd_resume,
	.resume_reboot = kd_resume_reboot,
	.switch_processor = kd_switch_processor,
	.reboot = kd_reboot,
	.crash = kd_crash,
};

struct vmkd_error *kd_create(int fd, const char *name, const struct vmkd_open_options *options, const struct backend_owner *owner,
			     struct backend **ret)
{
	struct kd *kd = calloc(1, sizeof(*kd));

	if (!kd)
		return error_no_memory();
	struct vmkd_error *error = stream_create(fd, options->resend_ms, &kd->stream);
	if (error) {
		free(kd);
		return error;
	}
	kd->base.ops = &KD_OPS;
	kd->owner = *owner;
	snprintf(kd->name, sizeof(kd->name), "%s", name);
	kd->request_timeout_ms = options->request_timeout_ms;
	kd->wants_files = options->wants_files;
	kd->state = VMKD_STATE_UNKNOWN;
	kd->last = &kd->first;
	kd->break_in_from = stream_now() + KD_FIRST_ANSWER_MS;
	// A stopped target answers with its state; a running one does not hear it.
	if (!kd_send_reset(kd))
		kd_log(kd, VMKD_LOG_WARNING, "the first RESET does not fit"); // cannot be: the output is empty
	*ret = &kd->base;
	return NULL;
}
