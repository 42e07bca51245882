// SPDX-License-Identifier: MIT
#include "wire/fake_ours.h"

#include <string.h>

static bool flush(struct kdcom *k, struct fake_wire *w, uint64_t now_ms)
{
	const uint8_t *out;
	size_t len;
	kdcom_output(k, &out, &len);
	fake_wire_write(w, now_ms, out, len);
	kdcom_output_consume(k, len);
	return len > 0;
}

// ---- The debugger ------------------------------------------------------------------------------------------

void fake_debugger_init(struct fake_debugger *d, struct fake_wire *in, struct fake_wire *out, struct fake_user *user,
			uint64_t first_reset_ms)
{
	memset(d, 0, sizeof(*d));
	kdcom_init(&d->kdcom, KDCOM_DEBUGGER);
	d->in = in;
	d->out = out;
	d->user = user;
	d->is_attaching = true;
	d->again_at = first_reset_ms;
}

static void debugger_reset(struct fake_debugger *d, uint64_t now_ms)
{
	if (!d->is_attaching && ++d->resyncs > FAKE_RESYNC_MAX)
		fake_user_give_up(d->user, "too many new starts");
	fake_user_lost(d->user);
	d->is_attaching = true;
	fake_user_starts_anew(d->user);
	d->again_at = now_ms + FAKE_ATTACH_MS;
	if (kdcom_send_reset(&d->kdcom) != KDCOM_OK)
		fake_user_wrong(d->user, "no room for a RESET");
}

static void debugger_send(struct fake_debugger *d, const uint8_t *body, uint32_t len, uint32_t flags)
{
	if (kdcom_send(&d->kdcom, KD_PACKET_MANIPULATE, body, len, NULL, 0, flags) != KDCOM_OK)
		fake_user_wrong(d->user, "the debugger cannot send");
}

static void debugger_continue(struct fake_debugger *d)
{
	uint8_t body[KDCOM_BODY_MAX];
	d->user->is_stopped = false;
	debugger_send(d, body, fake_continue(body), KDCOM_SEND_CONTINUE);
}

static void debugger_on_stop(struct fake_debugger *d, const struct kdcom_event *ev, uint64_t now_ms)
{
	bool was_continued = !d->user->is_stopped && !d->is_attaching;
	bool is_new = fake_user_on_stop(d->user, ev->body, ev->body_len);
	if (!kdcom_is_in_step(&d->kdcom)) {
		debugger_reset(d, now_ms);
		return;
	}
	d->is_attaching = false;
	d->attempts = 0;
	d->again_at = now_ms + FAKE_QUIET_MS;
	// The stop that was continued, once more: the Continue never arrived.
	if (!is_new && was_continued && !kdcom_is_sending(&d->kdcom))
		debugger_continue(d);
}

static void debugger_on_packet(struct fake_debugger *d, const struct kdcom_event *ev, uint64_t now_ms)
{
	if (ev->is_sync)
		fake_user_starts_anew(d->user);
	if (ev->is_lost)
		fake_user_lost(d->user);
	if (ev->type == KD_PACKET_STATE_CHANGE)
		debugger_on_stop(d, ev, now_ms);
	else if (ev->type == KD_PACKET_DEBUG_IO)
		fake_user_on_print(d->user, ev->body, ev->body_len);
	else if (ev->type == KD_PACKET_MANIPULATE)
		(void)fake_user_on_reply(d->user, ev->body, ev->body_len); // the answer to an earlier one says nothing
}

static void debugger_on_event(struct fake_debugger *d, const struct kdcom_event *ev, uint64_t now_ms)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		debugger_on_packet(d, ev, now_ms);
		break;
	case KDCOM_EV_RESET: // its state change follows
		fake_user_starts_anew(d->user);
		if (ev->is_lost)
			fake_user_lost(d->user);
		d->is_attaching = true;
		d->again_at = now_ms + FAKE_ATTACH_MS;
		break;
	case KDCOM_EV_GIVEN_UP:
		debugger_reset(d, now_ms);
		break;
	case KDCOM_EV_SENT:
		d->again_at = now_ms + (d->user->is_asking ? FAKE_ANSWER_MS : FAKE_QUIET_MS);
		break;
	default:
		break;
	}
}

// The next request, or the Continue.
static void debugger_next(struct fake_debugger *d, uint64_t now_ms)
{
	struct fake_user *u = d->user;
	const uint8_t *request;
	if (d->is_attaching || !u->is_stopped || u->is_asking || kdcom_is_sending(&d->kdcom))
		return;
	uint32_t len = fake_user_next(u, &request);
	if (len)
		debugger_send(d, request, len, 0);
	else
		debugger_continue(d);
	d->again_at = now_ms + FAKE_QUIET_MS;
}

static void debugger_on_silence(struct fake_debugger *d, uint64_t now_ms)
{
	struct fake_user *u = d->user;
	if (now_ms < d->again_at || fake_user_is_done(u) || (kdcom_is_sending(&d->kdcom) && !d->is_attaching))
		return;
	if (++d->attempts > FAKE_ATTACH_MAX)
		fake_user_give_up(u, "the target does not answer");
	// A running target does not hear a RESET, a stopped one may not hear a break-in.
	if (d->attempts % 2 == 0 || (!d->is_attaching && !u->is_asking)) {
		if (kdcom_send_breakin(&d->kdcom) != KDCOM_OK)
			fake_user_wrong(u, "no room for a break-in");
		d->again_at = now_ms + FAKE_ATTACH_MS;
		d->is_attaching |= !u->is_asking;
		return;
	}
	debugger_reset(d, now_ms);
}

bool fake_debugger_turn(struct fake_debugger *d, uint64_t now_ms)
{
	struct kdcom_event ev;
	bool has_moved = false;
	do {
		size_t len, used;
		const uint8_t *bytes = fake_wire_peek(d->in, &len);
		kdcom_feed(&d->kdcom, bytes, len, &used, &ev);
		fake_wire_take(d->in, used);
		has_moved |= used > 0;
		debugger_on_event(d, &ev, now_ms);
	} while (ev.kind != KDCOM_EV_NONE && ev.kind != KDCOM_EV_BLOCKED);
	kdcom_timer(&d->kdcom, now_ms, &ev);
	debugger_on_event(d, &ev, now_ms);
	debugger_on_silence(d, now_ms);
	debugger_next(d, now_ms);
	kdcom_timer(&d->kdcom, now_ms, &ev); // starts the timer of what was sent just now
	return flush(&d->kdcom, d->out, now_ms) || has_moved;
}

uint64_t fake_debugger_deadline(const struct fake_debugger *d)
{
	uint64_t kdcom = kdcom_deadline(&d->kdcom);
	return kdcom < d->again_at ? kdcom : d->again_at;
}

// ---- The target --------------------------------------------------------------------------------------------

// A break-in while it is stopped: the stop is told again, but only after a silence in which the debugger would have repeated a
// request. Earlier, the state change could cross the request, which would be taken for its ACK (KD reference, section 1.7, rule 5).
#define TELL_AGAIN_MS 5000u

void fake_target_init(struct fake_target *t, struct fake_wire *in, struct fake_wire *out, struct fake_kernel *kernel)
{
	memset(t, 0, sizeof(*t));
	kdcom_init(&t->kdcom, KDCOM_TARGET);
	t->in = in;
	t->out = out;
	t->kernel = kernel;
}

static void target_send(struct fake_target *t, uint16_t type, const uint8_t *body, uint32_t len)
{
	uint32_t flags = kd_is_droppable(type, body, len) ? KDCOM_SEND_DROPPABLE : 0;
	if (kdcom_send(&t->kdcom, type, body, len, NULL, 0, flags) != KDCOM_OK)
		t->failures++;
}

static void target_tell_stop(struct fake_target *t)
{
	uint8_t body[KD_STATE_CHANGE_SIZE];
	t->has_breakin = false;
	t->phase = TARGET_TELLS;
	fake_kernel_stop(t->kernel, body);
	target_send(t, KD_PACKET_STATE_CHANGE, body, sizeof(body));
}

static void target_next(struct fake_target *t)
{
	uint8_t body[KDCOM_BODY_MAX];
	if (t->phase != TARGET_RUNS || kdcom_is_sending(&t->kdcom) || fake_kernel_is_over(t->kernel))
		return;
	kdcom_expect(&t->kdcom, 0);
	if (fake_kernel_has_print(t->kernel))
		target_send(t, KD_PACKET_DEBUG_IO, body, fake_kernel_print(t->kernel, body));
	else
		target_tell_stop(t);
}

static void target_execute(struct fake_target *t, const struct kdcom_event *ev)
{
	uint8_t reply[KDCOM_BODY_MAX];
	uint32_t len = fake_kernel_execute(t->kernel, ev->body, ev->body_len, reply);
	t->phase = len ? TARGET_ANSWERS : TARGET_RUNS;
	if (len)
		target_send(t, KD_PACKET_MANIPULATE, reply, len);
	else
		kdcom_expect(&t->kdcom, 0);
}

static void target_on_event(struct fake_target *t, const struct kdcom_event *ev)
{
	bool is_idle = t->phase == TARGET_WAITS && !kdcom_is_sending(&t->kdcom);
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		target_execute(t, ev);
		break;
	case KDCOM_EV_SENT:
		if (t->phase == TARGET_RUNS)
			break;
		t->phase = TARGET_WAITS;
		kdcom_expect(&t->kdcom, KD_PACKET_MANIPULATE);
		break;
	case KDCOM_EV_BREAKIN:
		t->has_breakin = is_idle;
		break;
	case KDCOM_EV_RESET: // a reply is for the time before; the state change goes instead
		if (t->phase == TARGET_ANSWERS)
			kdcom_cancel(&t->kdcom);
		if (t->phase == TARGET_ANSWERS || is_idle)
			target_tell_stop(t);
		break;
	case KDCOM_EV_RESEND_REQUEST:
		if (is_idle)
			target_tell_stop(t);
		break;
	default:
		break;
	}
}

bool fake_target_turn(struct fake_target *t, uint64_t now_ms)
{
	struct kdcom_event ev;
	bool has_moved = false;
	do {
		size_t len, used;
		const uint8_t *bytes = fake_wire_peek(t->in, &len);
		kdcom_feed(&t->kdcom, bytes, len, &used, &ev);
		fake_wire_take(t->in, ev.kind == KDCOM_EV_RESET ? len : used); // RESETs that are buffered behind one ask for the same
		has_moved |= used > 0;
		target_on_event(t, &ev);
	} while (ev.kind != KDCOM_EV_NONE && ev.kind != KDCOM_EV_BLOCKED);
	if (has_moved)
		t->quiet_until = now_ms + TELL_AGAIN_MS;
	kdcom_timer(&t->kdcom, now_ms, &ev);
	target_on_event(t, &ev);
	if (t->has_breakin && now_ms >= t->quiet_until && t->phase == TARGET_WAITS && !kdcom_is_sending(&t->kdcom))
		target_tell_stop(t);
	target_next(t);
	kdcom_timer(&t->kdcom, now_ms, &ev);
	return flush(&t->kdcom, t->out, now_ms) || has_moved;
}

uint64_t fake_target_deadline(const struct fake_target *t)
{
	uint64_t kdcom = kdcom_deadline(&t->kdcom);
	return t->has_breakin && t->quiet_until < kdcom ? t->quiet_until : kdcom;
}
