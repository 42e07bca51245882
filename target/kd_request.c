// SPDX-License-Identifier: MIT
// Requests: one packet out, its reply in, and what may come between them. KD reference, section 1.8.
#include <inttypes.h>

#include "target/error.h"
#include "target/kd.h"

static struct vmkd_error *timeout_error(const struct kd *kd, const char *what)
{
	return vmkd_error_create(VMKD_E_TIMEOUT,
				 "no answer to %s within %" PRIu32 " ms: the target may hang, or its connection is stuck; try again, or .resync",
				 what, kd->request_timeout_ms);
}

static struct vmkd_error *restarted_error(const char *what)
{
	return vmkd_error_create(VMKD_E_RESTARTED, "the target was resynchronised or restarted during %s; it did not complete", what);
}

// Waits for the answer to a RESET that is on its way, and for the state change that a stopped target sends behind it. A target that
// runs answers nothing. -> NULL also when the time is over: the caller looks at is_reset_due.
static struct vmkd_error *await_reset(struct kd *kd, uint64_t deadline)
{
	uint32_t stops = kd->stop_count;
	struct stream_event event;

	while (kd->is_reset_due || kd->stop_count == stops) {
		kd_turn(kd, deadline, &event);
		if (event.kind == STREAM_CLOSED)
			return kd_gone_error(kd, event.os_error);
		if (event.kind == STREAM_NONE)
			return NULL;
		if (event.kind == STREAM_RESET)
			stops = kd->stop_count;
		struct vmkd_error *error = kd_check_stopped(kd);
		if (error)
			return error;
	}
	kd->needs_resync = false;
	return NULL;
}

static struct vmkd_error *resynchronise(struct kd *kd, uint64_t deadline)
{
	kd->needs_resync = true;
	if (!kd_send_reset(kd))
		return timeout_error(kd, "a resynchronisation (nothing can be written)");
	struct vmkd_error *error = await_reset(kd, deadline);
	return !error && kd->needs_resync ? timeout_error(kd, "a resynchronisation") : error;
}

// Stopped, ids agreed: a request may go out.
static struct vmkd_error *prepare(struct kd *kd, uint64_t deadline)
{
	struct vmkd_error *error = kd_check_stopped(kd);

	// The answer to the RESET of the start may still be under way. A target that ran swallowed it, so this is not for long.
	if (!error && kd->is_reset_due) {
		uint64_t soon = kd->reset_at + KD_FIRST_ANSWER_MS;
		error = await_reset(kd, soon < deadline ? soon : deadline);
		kd->is_reset_due = false;
	}
	if (error || (!kd->needs_resync && kdcom_is_in_step(stream_kdcom(kd->stream))))
		return error;
	return resynchronise(kd, deadline);
}

// ---- one attempt ---------------------------------------------------------------------------------------------------------------

// A late reply to an earlier request of the same kind must not be taken for this one's.
static bool is_reply_to(const struct kd_manipulate *request, const struct kd_manipulate *reply)
{
	if (reply->api != request->api)
		return false;
	if (kd_api_layout(request->api) == KD_LAYOUT_MEMORY)
		return reply->u.memory.address == request->u.memory.address;
	return true;
}

enum attempt { ATTEMPT_DONE, ATTEMPT_LOST, ATTEMPT_FAILED };

struct mismatch {
	uint32_t count;
	uint32_t api;
};

static bool take_reply(struct kd *kd, const struct kd_manipulate *request, const struct kdcom_event *packet, struct mismatch *mismatch,
		       struct kd_manipulate *ret)
{
	struct kd_manipulate reply;
	uint32_t machine = kd->machine ? kd->machine : KD_MACHINE_X64;

	if (packet->type != KD_PACKET_MANIPULATE)
		return false;
	if (kd_manipulate_decode(packet->body, packet->body_len, machine, &reply) != KD_OK || !is_reply_to(request, &reply)) {
		mismatch->count++;
		mismatch->api = packet->body_len >= 4 ? (uint32_t)packet->body[0] | (uint32_t)packet->body[1] << 8 : 0;
		kd_log(kd, VMKD_LOG_WARNING, "a reply of %u bytes to something else (API %" PRIx32 ") was dropped", packet->body_len,
		       mismatch->api);
		return false;
	}
	*ret = reply;
	return true;
}

static struct vmkd_error *no_reply_error(struct kd *kd, const struct kd_manipulate *request, const struct mismatch *mismatch)
{
	kdcom_cancel(stream_kdcom(kd->stream));
	kd->needs_resync = true;
	if (mismatch->count == 0)
		return timeout_error(kd, kd_api_name(request->api));
	return vmkd_error_create(VMKD_E_PROTOCOL, "expected a reply to API %" PRIx32 ", got %" PRIu32 " to others (last: API %" PRIx32 ")",
				 request->api, mismatch->count, mismatch->api);
}

static enum attempt await_reply(struct kd *kd, const struct kd_manipulate *request, uint64_t deadline, struct kd_manipulate *ret,
				struct vmkd_error **ret_error)
{
	uint32_t lost = kd->lost_count, restarts = kd->restart_count;
	struct mismatch mismatch = { 0 };
	struct stream_event event;

	for (;;) {
		kd_turn(kd, deadline, &event);
		if (kd->restart_count != restarts) {
			*ret_error = restarted_error(kd_api_name(request->api));
			return ATTEMPT_FAILED;
		}
		if (event.kind == STREAM_PACKET && take_reply(kd, request, &event.packet, &mismatch, ret))
			return ATTEMPT_DONE;
		if (event.kind == STREAM_CLOSED) {
			*ret_error = kd_gone_error(kd, event.os_error);
			return ATTEMPT_FAILED;
		}
		if (event.kind == STREAM_NONE) {
			*ret_error = no_reply_error(kd, request, &mismatch);
			return ATTEMPT_FAILED;
		}
		if (kd->lost_count != lost)
			return ATTEMPT_LOST;
		if (kd->state != VMKD_STATE_STOPPED) {
			*ret_error = restarted_error(kd_api_name(request->api));
			return ATTEMPT_FAILED;
		}
	}
}

static struct vmkd_error *send_packet(struct kd *kd, struct kd_manipulate *request, const void *data, uint32_t data_len, uint32_t flags)
{
	uint8_t header[KD_MANIPULATE_SIZE];
	uint32_t machine = kd->machine ? kd->machine : KD_MACHINE_X64;

	if (kd_manipulate_encode(request, machine, header, sizeof(header)) != KD_OK)
		return vmkd_error_create(VMKD_E_PROTOCOL, "%s cannot be encoded for this machine", kd_api_name(request->api));
	int outcome = kdcom_send(stream_kdcom(kd->stream), KD_PACKET_MANIPULATE, header, sizeof(header), data, data_len, flags);
	if (outcome == KDCOM_OK) {
		kd_log(kd, VMKD_LOG_DEBUG, "request: %s, %" PRIu32 " bytes of data", kd_api_name(request->api), data_len);
		return NULL;
	}
	kd->needs_resync = true;
	return vmkd_error_create(VMKD_E_TIMEOUT, "%s cannot be sent: the connection takes nothing (%d)", kd_api_name(request->api), outcome);
}

// ---- requests ------------------------------------------------------------------------------------------------------------------

struct vmkd_error *kd_request(struct kd *kd, struct kd_manipulate *request, const void *data, uint32_t data_len, bool is_repeatable,
			      struct kd_manipulate *ret)
{
	for (uint32_t attempt = 0; attempt < KD_REDO_MAX; attempt++) {
		uint64_t deadline = stream_now() + kd->request_timeout_ms;
		struct vmkd_error *error = prepare(kd, deadline);
		if (!error)
			error = send_packet(kd, request, data, data_len, 0);
		if (error)
			return error;
		switch (await_reply(kd, request, deadline, ret, &error)) {
		case ATTEMPT_DONE:
			return NULL;
		case ATTEMPT_FAILED:
			return error;
		case ATTEMPT_LOST:
			kd->needs_resync = true;
			if (!is_repeatable)
				return restarted_error(kd_api_name(request->api));
			break;
		}
	}
	return restarted_error(kd_api_name(request->api));
}

// Until the packet is acknowledged or taken as such. -> false: it was lost on the way, the target is still stopped.
static struct vmkd_error *await_sent(struct kd *kd, const char *what, uint64_t deadline, bool *ret_is_lost)
{
	uint32_t lost = kd->lost_count;
	struct stream_event event;

	*ret_is_lost = false;
	while (kdcom_is_sending(stream_kdcom(kd->stream)) && kd->is_resuming) {
		kd_turn(kd, deadline, &event);
		if (event.kind == STREAM_CLOSED)
			return kd_gone_error(kd, event.os_error);
		if (event.kind == STREAM_NONE) {
			kdcom_cancel(stream_kdcom(kd->stream));
			kd->needs_resync = true;
			kd->is_resuming = false;
			return timeout_error(kd, what);
		}
		if (kd->lost_count != lost && kd->is_resuming) {
			*ret_is_lost = true;
			return NULL;
		}
	}
	return NULL;
}

struct vmkd_error *kd_send_resuming(struct kd *kd, struct kd_manipulate *request, bool is_switch)
{
	const char *what = kd_api_name(request->api);

	for (uint32_t attempt = 0; attempt < KD_REDO_MAX; attempt++) {
		uint64_t deadline = stream_now() + kd->request_timeout_ms;
		bool is_lost;
		struct vmkd_error *error = prepare(kd, deadline);
		if (!error)
			error = send_packet(kd, request, NULL, 0, KDCOM_SEND_CONTINUE);
		if (error)
			return error;
		kd->is_resuming = true;
		kd->is_switching = is_switch;
		error = await_sent(kd, what, deadline, &is_lost);
		kd->is_resuming = false;
		if (error || !is_lost)
			return error;
		kd->is_switching = false;
		kd->needs_resync = true;
	}
	return restarted_error(what);
}

// A kernel does not reply: it is a broker that says who has control.
static struct vmkd_error *switch_refusal(struct kd *kd, const struct kd_manipulate *request, const struct kdcom_event *packet)
{
	struct mismatch mismatch = { 0 };
	struct kd_manipulate reply;

	if (!take_reply(kd, request, packet, &mismatch, &reply))
		return NULL;
	kd->is_switching = false;
	kd->state = VMKD_STATE_STOPPED; // as it was when it was asked
	return error_status("a switch of processors", reply.status);
}

struct vmkd_error *kd_switch_processor(struct backend *backend, uint16_t processor)
{
	struct kd *kd = (struct kd *)backend;
	struct kd_manipulate request = { .api = KD_API_SWITCH_PROCESSOR, .processor = processor };
	uint32_t stops = kd->stop_count, restarts = kd->restart_count;
	uint64_t deadline = stream_now() + kd->request_timeout_ms;
	struct stream_event event;
	struct vmkd_error *error = kd_send_resuming(kd, &request, true);

	while (!error && kd->stop_count == stops) {
		kd_turn(kd, deadline, &event);
		if (event.kind == STREAM_CLOSED)
			error = kd_gone_error(kd, event.os_error);
		else if (event.kind == STREAM_NONE)
			error = timeout_error(kd, "a switch of processors");
		else if (kd->restart_count != restarts)
			error = restarted_error("a switch of processors");
		else if (event.kind == STREAM_PACKET)
			error = switch_refusal(kd, &request, &event.packet);
	}
	return error;
}
