// SPDX-License-Identifier: MIT
#include "target/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target/error.h"
#include "target/stop.h"
#include "target/stream.h"
#include "trace/player.h"
#include "util/cleanup.h"

#define REPLAY_NAME_MAX 300u
#define REPLAY_FILE_MAX ((off_t)1 << 31) // it is held in memory
#define REPLAY_TEXT_MAX (KD_BODY_MAX + 1u)

struct replay {
	struct backend base;
	struct backend_owner owner;
	char name[REPLAY_NAME_MAX];
	struct player *player;
	uint8_t *file;
	int fd;                // readable while there is something to tell
	enum vmkd_state state;
	uint32_t machine;      // 0 = unknown
	uint16_t processor;    // of the stop
	char text[REPLAY_TEXT_MAX]; // of the last event
	uint8_t reply[KD_BODY_MAX];
};

static struct replay *of(struct backend *backend)
{
	return (struct replay *)backend;
}

static const struct replay *of_const(const struct backend *backend)
{
	return (const struct replay *)backend;
}

// ---- state -----------------------------------------------------------------------------------------------------------------------

static void replay_destroy(struct backend *backend)
{
	struct replay *r = of(backend);

	player_destroy(r->player);
	free(r->file);
	if (r->fd >= 0)
		close(r->fd);
	free(r);
}

static enum vmkd_state replay_state(const struct backend *backend)
{
	return of_const(backend)->state;
}

static int replay_poll_fd(const struct backend *backend)
{
	return of_const(backend)->fd;
}

static int replay_poll_timeout(const struct backend *backend)
{
	(void)backend;
	return -1; // the descriptor says it
}

static uint32_t replay_machine(const struct backend *backend)
{
	return of_const(backend)->machine;
}

// It stops where it stopped.
static void replay_break_in(struct backend *backend)
{
	(void)backend;
}

static bool replay_is_quiet(const struct backend *backend)
{
	return of_const(backend)->state == VMKD_STATE_STOPPED;
}

static struct vmkd_error *the_end(const struct replay *r)
{
	return vmkd_error_create(VMKD_E_GONE, "%s: the trace ends here", r->name);
}

static struct vmkd_error *check_stopped(const struct replay *r)
{
	if (r->state == VMKD_STATE_STOPPED)
		return NULL;
	if (r->state == VMKD_STATE_GONE)
		return the_end(r);
	return vmkd_error_create(VMKD_E_STATE, "expected a stopped target, but %s is between two stops: g goes to the next one", r->name);
}

// ---- events ----------------------------------------------------------------------------------------------------------------------

static void set_state(struct replay *r, enum vmkd_state state)
{
	bool has_more = state != VMKD_STATE_STOPPED && state != VMKD_STATE_PROMPT;
	eventfd_t value = 1;

	r->state = state;
	if ((has_more ? eventfd_write(r->fd, value) : eventfd_read(r->fd, &value)) < 0) {
		// It was so already.
	}
}

static void keep_text(struct replay *r, struct vmkd_event *event, const uint8_t *text, size_t len)
{
	if (len)
		memcpy(r->text, text, len);
	r->text[len] = '\0';
	event->text = r->text;
	event->text_len = len;
	event->file_data = "";
}

// -> false: it cannot be understood.
static bool take_stop(struct replay *r, const struct player_event *from, struct vmkd_event *ret)
{
	struct kd_state_change change;
	uint32_t guess = kd_guess_machine(from->body, from->body_len);
	const uint8_t *text;

	if (guess)
		r->machine = guess;
	if (kd_state_change_decode(from->body, from->body_len, r->machine ? r->machine : KD_MACHINE_X64, &change) != KD_OK)
		return false;
	set_state(r, VMKD_STATE_STOPPED);
	r->processor = change.processor;
	r->owner.stopped(r->owner.closure, &change, false);
	size_t len = stop_event(&change, r->machine, ret, &text);
	keep_text(r, ret, text, len);
	return true;
}

static bool take_print(struct replay *r, const struct player_event *from, struct vmkd_event *ret)
{
	struct kd_debug_io io;
	const uint8_t *text;

	if (kd_debug_io_decode(from->body, from->body_len, &io) != KD_OK)
		return false;
	size_t len = stop_print_event(&io, ret, &text);
	keep_text(r, ret, text, len);
	set_state(r, from->kind == PLAYER_PROMPT ? VMKD_STATE_PROMPT : VMKD_STATE_RUNNING);
	return true;
}

static void take_restart(struct replay *r, struct vmkd_event *ret)
{
	*ret = (struct vmkd_event){ .kind = VMKD_EVENT_RESTARTED };
	set_state(r, VMKD_STATE_RUNNING);
	ret->lost_breakpoints = r->owner.restarted(r->owner.closure);
	keep_text(r, ret, NULL, 0);
}

// The next one that can be understood. -> false: there is none.
static bool next_event(struct replay *r, struct vmkd_event *ret)
{
	struct player_event from;
	bool is_done = false;

	while (!is_done) {
		player_next(r->player, &from);
		switch (from.kind) {
		case PLAYER_END: return false;
		case PLAYER_STOP:
			is_done = take_stop(r, &from, ret);
			if (!is_done)
				player_resume(r->player);
			break;
		case PLAYER_PRINT:
		case PLAYER_PROMPT: is_done = take_print(r, &from, ret); break;
		case PLAYER_RESTART:
			take_restart(r, ret);
			is_done = true;
			break;
		}
	}
	return true;
}

static void sleep_until(uint64_t deadline)
{
	uint64_t now = stream_now();

	if (deadline > now)
		(void)poll(NULL, 0, deadline - now > 1000 ? 1000 : (int)(deadline - now));
}

static struct vmkd_error *replay_wait(struct backend *backend, uint64_t deadline, struct vmkd_event *ret)
{
	struct replay *r = of(backend);

	*ret = (struct vmkd_event){ .kind = VMKD_EVENT_NONE, .text = "" };
	if (r->state == VMKD_STATE_GONE)
		return the_end(r);
	if (r->state == VMKD_STATE_STOPPED || r->state == VMKD_STATE_PROMPT) {
		sleep_until(deadline); // a signal ends it
		return NULL;
	}
	if (next_event(r, ret))
		return NULL;
	set_state(r, VMKD_STATE_GONE);
	return the_end(r);
}

static void replay_forget_stops(struct backend *backend)
{
	(void)backend; // each one is told when it happens
}

// What was answered then is what was answered.
static struct vmkd_error *replay_answer_prompt(struct backend *backend, const char *text, size_t len)
{
	struct replay *r = of(backend);

	(void)text;
	(void)len;
	if (r->state != VMKD_STATE_PROMPT)
		return vmkd_error_create(VMKD_E_STATE, "the target has not asked anything");
	set_state(r, VMKD_STATE_RUNNING);
	return NULL;
}

static struct vmkd_error *replay_resume(struct backend *backend, uint32_t status, bool trace, uint64_t dr7)
{
	struct replay *r = of(backend);
	struct vmkd_error *error = check_stopped(r);

	(void)status;
	(void)trace;
	(void)dr7;
	if (error)
		return error;
	player_resume(r->player);
	set_state(r, VMKD_STATE_RUNNING);
	return NULL;
}

static struct vmkd_error *replay_resume_reboot(struct backend *backend)
{
	return replay_resume(backend, KD_CONTINUE_HANDLED, false, 0);
}

// ---- requests --------------------------------------------------------------------------------------------------------------------

// *ret_answer: how much of it was recorded; *ret points into r->reply.
static struct vmkd_error *ask(struct replay *r, const struct kd_manipulate *request, const void *data, uint32_t data_len,
			      struct kd_manipulate *ret, enum player_answer *ret_answer)
{
	uint8_t body[KD_BODY_MAX];
	uint32_t len;
	struct vmkd_error *error = check_stopped(r);

	if (error)
		return error;
	if (kd_manipulate_encode(request, KD_MACHINE_X64, body, sizeof(body)) != KD_OK || data_len > KD_DATA_MAX)
		return vmkd_error_create(VMKD_E_ARGUMENT, "%s: the request cannot be encoded", kd_api_name(request->api));
	if (data_len)
		memcpy(body + KD_MANIPULATE_SIZE, data, data_len);
	*ret_answer = player_request(r->player, body, KD_MANIPULATE_SIZE + data_len, r->reply, &len);
	if (*ret_answer == PLAYER_IMPOSSIBLE || kd_manipulate_decode(r->reply, len, KD_MACHINE_X64, ret) != KD_OK)
		return vmkd_error_create(VMKD_E_PROTOCOL, "%s: the trace's answer cannot be understood", kd_api_name(request->api));
	return NULL;
}

// For everything but memory: what was not asked then is an error.
static struct vmkd_error *ask_whole(struct replay *r, const struct kd_manipulate *request, const void *data, uint32_t data_len, const char *what,
				    struct kd_manipulate *ret)
{
	enum player_answer answer;
	struct vmkd_error *error = ask(r, request, data, data_len, ret, &answer);

	if (!error && answer == PLAYER_NOT_RECORDED)
		return vmkd_error_create(VMKD_E_TARGET, "%s: not in the trace, nobody asked for it at this stop", what);
	if (!error && kd_is_failure(ret->status))
		return error_status(what, ret->status);
	return error;
}

static struct vmkd_error *replay_version(struct backend *backend, struct kd_version *ret)
{
	struct replay *r = of(backend);
	struct kd_manipulate request = { .api = KD_API_GET_VERSION }, reply;
	struct vmkd_error *error = ask_whole(r, &request, NULL, 0, "GetVersion", &reply);

	if (error)
		return error;
	uint16_t machine = reply.u.version.machine;
	if (machine != KD_MACHINE_X64 && machine != KD_MACHINE_X86)
		return vmkd_error_create(VMKD_E_UNSUPPORTED, "expected a machine 8664 (x64) or 14c (x86), the trace says %x", machine);
	r->machine = machine;
	*ret = reply.u.version;
	return NULL;
}

static struct vmkd_error *replay_read(struct backend *backend, enum vmkd_space space, uint64_t address, void *buffer, uint32_t len,
				      uint32_t *ret_done, uint32_t *ret_status)
{
	struct replay *r = of(backend);
	const struct kd_manipulate request = { .api = space == VMKD_PHYSICAL ? KD_API_READ_PHYSICAL : KD_API_READ_VIRTUAL,
					       .processor = r->processor, .u.memory = { .address = address, .count = len } };
	struct kd_manipulate reply;
	enum player_answer answer;
	struct vmkd_error *error = ask(r, &request, NULL, 0, &reply, &answer);

	if (error)
		return error;
	if (answer == PLAYER_NOT_RECORDED)
		return error_fault(address, reply.status, "%smemory at %" PRIx64 " is not in the trace: nobody read it at this stop",
				   space == VMKD_PHYSICAL ? "physical " : "", address);
	uint32_t done = kd_manipulate_data_len(&reply);
	if (done > len)
		done = len;
	memcpy(buffer, reply.data, done);
	*ret_done = done;
	*ret_status = reply.status;
	return NULL;
}

static struct vmkd_error *replay_context_get(struct backend *backend, uint16_t processor, void *buffer, size_t size, size_t *ret_size)
{
	struct kd_manipulate request = { .api = KD_API_GET_CONTEXT, .processor = processor }, reply;
	struct vmkd_error *error = ask_whole(of(backend), &request, NULL, 0, "the registers of this processor", &reply);

	if (error)
		return error;
	if (reply.data_len < size)
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected a context of %zu bytes, the trace has %" PRIu32, size, reply.data_len);
	memcpy(buffer, reply.data, size);
	*ret_size = size;
	return NULL;
}

static struct vmkd_error *replay_control_read(struct backend *backend, uint16_t processor, uint64_t index, void *buffer, uint32_t size,
					      uint32_t *ret_size)
{
	const struct kd_manipulate request = { .api = KD_API_READ_CONTROL_SPACE, .processor = processor,
					       .u.memory = { .address = index, .count = size } };
	struct kd_manipulate reply;
	struct vmkd_error *error = ask_whole(of(backend), &request, NULL, 0, "this part of the control space", &reply);

	if (error)
		return error;
	uint32_t done = kd_manipulate_data_len(&reply);
	if (done > size)
		done = size;
	memcpy(buffer, reply.data, done);
	*ret_size = done;
	return NULL;
}

static struct vmkd_error *replay_msr_read(struct backend *backend, uint32_t msr, uint64_t *ret)
{
	struct kd_manipulate request = { .api = KD_API_READ_MSR, .processor = of(backend)->processor, .u.msr = { .msr = msr } }, reply;
	struct vmkd_error *error = ask_whole(of(backend), &request, NULL, 0, "this model-specific register", &reply);

	if (!error)
		*ret = reply.u.msr.value;
	return error;
}

static const struct backend_ops REPLAY_OPS = {
	.kind = "trace",
	.is_recorded = true,
	.destroy = replay_destroy,
	.state = replay_state,
	.poll_fd = replay_poll_fd,
	.poll_timeout = replay_poll_timeout,
	.machine = replay_machine,
	.break_in = replay_break_in,
	.is_quiet = replay_is_quiet,
	.wait = replay_wait,
	.forget_stops = replay_forget_stops,
	.answer_prompt = replay_answer_prompt,
	.version = replay_version,
	.read = replay_read,
	.context_get = replay_context_get,
	.control_read = replay_control_read,
	.msr_read = replay_msr_read,
	.resume = replay_resume,
	.resume_reboot = replay_resume_reboot,
};

// ---- life ------------------------------------------------------------------------------------------------------------------------

static struct vmkd_error *read_file(const char *path, uint8_t **ret, size_t *ret_len)
{
	int fd CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC);
	struct stat stat;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &stat) < 0)
		return error_os(errno, "cannot open the trace %s", path);
	if (!S_ISREG(stat.st_mode) || stat.st_size > REPLAY_FILE_MAX)
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected a trace of at most 2 GiB in a file: %s", path);
	uint8_t *file = malloc((size_t)stat.st_size + 1);
	if (!file)
		return error_no_memory();
	for (ssize_t part = 1; part > 0 && len < (size_t)stat.st_size; len += part > 0 ? (size_t)part : 0)
		part = read(fd, file + len, (size_t)stat.st_size - len);
	*ret = file;
	*ret_len = len;
	return NULL;
}

static struct vmkd_error *load(struct replay *r, const char *path)
{
	const char *problem = "";
	size_t len = 0;
	struct vmkd_error *error = read_file(path, &r->file, &len);

	if (error)
		return error;
	switch (player_create(r->file, len, &r->player, &problem)) {
	case PLAYER_OK: break;
	case PLAYER_NO_MEMORY: return error_no_memory();
	case PLAYER_BAD_FILE: return vmkd_error_create(VMKD_E_PROTOCOL, "expected a trace of vmkd (pcapng): %s: %s", path, problem);
	case PLAYER_NO_TARGET:
		return vmkd_error_create(VMKD_E_PROTOCOL, "%s has nothing that a target said: expected a trace of vmkd with packets in it", path);
	}
	r->fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	return r->fd < 0 ? error_os(errno, "cannot create an eventfd") : NULL;
}

struct vmkd_error *replay_create(const char *path, const char *name, const struct backend_owner *owner, struct backend **ret)
{
	struct replay *r = calloc(1, sizeof(*r));

	if (!r)
		return error_no_memory();
	r->base.ops = &REPLAY_OPS;
	r->owner = *owner;
	r->fd = -1;
	r->state = VMKD_STATE_UNKNOWN;
	snprintf(r->name, sizeof(r->name), "%s", name);
	struct vmkd_error *error = load(r, path);
	if (error)
		replay_destroy(&r->base);
	else
		*ret = &r->base;
	return error;
}
