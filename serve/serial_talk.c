// SPDX-License-Identifier: MIT
#include "serve/serial_talk.h"

#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"

#define NEVER UINT64_MAX
// DBGKD_ANY_WAIT_STATE_CHANGE (KD reference, section 3.1).
#define STATE_OFFSET_NEW_STATE 0x00u

void serial_talk_init(struct serial_talk *t, const struct guest_link_events *events, void *arg)
{
	memset(t, 0, sizeof(*t));
	t->events = events;
	t->arg = arg;
	t->guest.dialect = LINK_DIALECT_KDCOM;
	kdcom_init(&t->kdcom, KDCOM_DEBUGGER);
}

// ---- Packets to the session --------------------------------------------------------------------------------

static void give(struct serial_talk *t, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, uint16_t waits_for)
{
	struct link_head head = {
		.type = LINK_PACKET,
		.flags = waits_for ? LINK_F_WAITS : 0,
		.body_len = body_len,
		.seq = ++t->seq,
		.kd_type = kd_type,
		.hdr_len = hdr_len,
		.want = waits_for,
		.vcpu = UINT32_MAX,
	};

	t->events->packet(t->arg, &head, body);
}

static void give_wait(struct serial_talk *t)
{
	struct link_head head = { .type = LINK_WAIT, .want = t->want, .vcpu = UINT32_MAX };

	t->events->waits(t->arg, &head);
}

static void registered(struct serial_talk *t, uint32_t arch)
{
	t->guest.arch = arch;
	t->stats.registrations++;
	t->events->registered(t->arg, &t->guest);
}

// ---- Resynchronising -----------------------------------------------------------------------------------------

static void resynchronise(struct serial_talk *t, uint64_t from_ms)
{
	t->is_reset_due = true;
	t->resets = 0;
	t->reset_at = from_ms;
}

// What is under way may or may not arrive.
static void doubt(struct serial_talk *t)
{
	if (t->ask == SERIAL_ASK_NONE)
		return;
	t->ask = SERIAL_ASK_DOUBT;
	t->reply_at = t->now_ms + SERIAL_TALK_REPLY_MS;
}

static void send_reset(struct serial_talk *t)
{
	if (t->resets >= SERIAL_TALK_RESETS_MAX) {
		t->reset_at = NEVER;
		return;
	}
	if (t->ask != SERIAL_ASK_ACKED) // its reply may come all the same, and nothing is written
		doubt(t);
	if (kdcom_send_reset(&t->kdcom) != KDCOM_OK)
		t->stats.retries++; // the target reads nothing: as one that it did not answer
	t->reset_at = t->now_ms + (SERIAL_TALK_RESET_MS << t->resets++);
	t->reset_sent = t->now_ms;
	t->listen_until = t->now_ms + SERIAL_TALK_ANSWER_MS;
}

static void synchronised(struct serial_talk *t)
{
	t->is_reset_due = false;
}

// ---- The request -----------------------------------------------------------------------------------------------

static bool is_manipulate(const struct serial_talk *t)
{
	return t->asked.kd_type == KD_PACKET_MANIPULATE;
}

// Asking twice is the same as asking once.
static bool is_repeatable(uint32_t api)
{
	switch (api) {
	case KD_API_READ_VIRTUAL:
	case KD_API_READ_PHYSICAL:
	case KD_API_READ_CONTROL_SPACE:
	case KD_API_READ_MSR:
	case KD_API_GET_CONTEXT:
	case KD_API_GET_CONTEXT_EX:
	case KD_API_GET_VERSION:
	case KD_API_GET_INTERNAL_BREAKPOINT:
	case KD_API_QUERY_SPECIAL_CALLS:
	case KD_API_SEARCH_MEMORY:
	case KD_API_QUERY_MEMORY:
	case KD_API_CHECK_LOW_MEMORY: return true;
	default: return false; // ports and buses have registers that change by being read
	}
}

static bool is_repeatable_now(const struct serial_talk *t)
{
	return !t->was_written || (is_manipulate(t) && is_repeatable(get_le32(t->asked.body)) && t->redone <= SERIAL_TALK_REDO_MAX);
}

static bool has_reply(const struct serial_talk *t)
{
	return !t->asked_resumes && is_manipulate(t) && kd_api_has_reply(get_le32(t->asked.body));
}

// The request is over without an answer. waits_for: what the target waits for now, 0 = unknown.
static void fail_request(struct serial_talk *t, uint16_t waits_for)
{
	struct kd_manipulate m;
	uint8_t reply[KD_MANIPULATE_SIZE];

	t->ask = SERIAL_ASK_NONE;
	if (!waits_for)
		t->want = 0;
	if (has_reply(t) && kd_manipulate_decode(t->asked.body, t->asked.body_len, KD_MACHINE_X64, &m) == KD_OK) {
		m.status = KD_STATUS_UNSUCCESSFUL;
		if (kd_api_layout(m.api) == KD_LAYOUT_MEMORY)
			m.u.memory.actual_bytes = 0;
		if (kd_api_layout(m.api) == KD_LAYOUT_CONTEXT_EX)
			m.u.context_ex.copied = 0;
		if (kd_manipulate_encode(&m, KD_MACHINE_X64, reply, sizeof(reply)) == KD_OK) {
			give(t, KD_PACKET_MANIPULATE, sizeof(reply), reply, sizeof(reply), waits_for);
			return;
		}
	}
	if (waits_for)
		give_wait(t);
}

static void write_request(struct serial_talk *t)
{
	uint32_t flags = t->asked_resumes ? KDCOM_SEND_CONTINUE : 0;

	if (kdcom_send(&t->kdcom, t->asked.kd_type, t->asked.body, t->asked.body_len, NULL, 0, flags) != KDCOM_OK)
		return; // busy, or the target reads nothing: again in the next turn
	t->was_written = true;
	t->ask = SERIAL_ASK_IN_FLIGHT;
	t->stats.packets_in++;
	t->stats.bytes_in += t->asked.body_len;
}

// The target waits, in step, for a packet of the request's type.
static void resolve(struct serial_talk *t)
{
	if (t->ask == SERIAL_ASK_IN_FLIGHT)
		return; // it is repeated until it is acknowledged
	t->redone += t->was_written;
	if (is_repeatable_now(t))
		t->ask = SERIAL_ASK_DUE;
	else
		fail_request(t, t->want);
}

static void request_acknowledged(struct serial_talk *t)
{
	if (t->ask != SERIAL_ASK_IN_FLIGHT)
		return;
	if (has_reply(t)) {
		t->ask = SERIAL_ASK_ACKED;
		t->reply_at = t->now_ms + SERIAL_TALK_REPLY_MS;
		return;
	}
	t->ask = SERIAL_ASK_NONE;
	if (t->asked_resumes)
		return;
	t->want = KD_PACKET_MANIPULATE;
	give_wait(t);
}

// ---- What the target says ----------------------------------------------------------------------------------------

static uint16_t type_that_answers(uint16_t kd_type, const uint8_t *body)
{
	switch (kd_type) {
	case KD_PACKET_STATE_CHANGE:
	case KD_PACKET_STATE_CHANGE32: return KD_PACKET_MANIPULATE;
	case KD_PACKET_DEBUG_IO: return get_le32(body) == KD_DEBUG_IO_PROMPT ? KD_PACKET_DEBUG_IO : 0;
	case KD_PACKET_FILE_IO:
	case KD_PACKET_CONTROL_REQUEST: return kd_type;
	default: return 0;
	}
}

static bool is_notice(const struct serial_packet *p)
{
	return p->kd_type == KD_PACKET_STATE_CHANGE && (get_le32(p->body + STATE_OFFSET_NEW_STATE) & 0xFFFFu) == KD_STATE_LOAD_SYMBOLS;
}

static bool is_same_report(const struct serial_talk *t, const struct kdcom_event *ev)
{
	return t->want && t->is_told && t->report.kd_type == ev->type && t->report.body_len == ev->body_len &&
	       memcmp(t->report.body, ev->body, ev->body_len) == 0;
}

static void keep_report(struct serial_talk *t, const struct kdcom_event *ev)
{
	t->report.kd_type = ev->type;
	t->report.hdr_len = (uint16_t)kd_header_size(ev->type);
	t->report.body_len = ev->body_len;
	memcpy(t->report.body, ev->body, ev->body_len);
	t->want = type_that_answers(ev->type, ev->body);
	t->is_told = false;
}

// A stop is what a break-in wants, but a module notice is none: whoever asked lets it go on and still wants to stop.
static void breakin_meets_report(struct serial_talk *t)
{
	if (!is_notice(&t->report))
		t->wants_breakin = false;
}

// Before the report, or the session would not know whose it is.
static void tell_arch(struct serial_talk *t)
{
	uint32_t machine = t->report.kd_type == KD_PACKET_STATE_CHANGE ? kd_guess_machine(t->report.body, t->report.body_len) : 0;

	if (machine && t->guest.arch != machine)
		registered(t, machine);
}

static void tell_report(struct serial_talk *t, bool waits)
{
	tell_arch(t);
	t->is_told = true;
	give(t, t->report.kd_type, t->report.hdr_len, t->report.body, t->report.body_len, waits ? t->want : 0);
}

// A report ends the open request when that let the target run, or when the target waits for something else by now.
static bool ends_request(const struct serial_talk *t)
{
	return t->want != t->asked.kd_type || (t->asked_resumes && t->was_written);
}

// In step.
static void meet_report(struct serial_talk *t, bool is_same)
{
	bool is_asked = t->ask != SERIAL_ASK_NONE;
	uint16_t want = t->want;

	if (is_asked && ends_request(t)) {
		fail_request(t, 0);
		t->want = want;
		is_asked = is_same = false;
	}
	// What lets the target run and was never written: this is the stop it was for, and the session knows it.
	if (!is_same && !(is_asked && t->asked_resumes))
		tell_report(t, !is_asked);
	else
		t->is_told = true;
	if (is_asked)
		resolve(t);
}

static void take_report(struct serial_talk *t, const struct kdcom_event *ev)
{
	bool is_same = is_same_report(t, ev);

	keep_report(t, ev);
	breakin_meets_report(t);
	if (kdcom_is_in_step(&t->kdcom)) {
		synchronised(t);
		meet_report(t, is_same);
	} else {
		t->is_told = is_same;
		resynchronise(t, t->reset_sent + SERIAL_TALK_AGAIN_MS);
	}
}

// Two requests of one kind may both be answered when the first one was asked again (KD reference, section 1.8).
static bool is_reply(const struct serial_talk *t, const struct kdcom_event *ev)
{
	const uint8_t *asked = t->asked.body;

	if (t->ask == SERIAL_ASK_NONE || !has_reply(t) || get_le32(asked) != get_le32(ev->body))
		return false;
	return kd_api_layout(get_le32(asked)) != KD_LAYOUT_MEMORY || get_le64(asked + 0x10) == get_le64(ev->body + 0x10);
}

static void take_reply(struct serial_talk *t, const struct kdcom_event *ev)
{
	if (!is_reply(t, ev) || !t->was_written) {
		t->stats.refused++;
		return;
	}
	t->ask = SERIAL_ASK_NONE;
	t->want = KD_PACKET_MANIPULATE;
	t->is_told = true;
	give(t, ev->type, KD_MANIPULATE_SIZE, ev->body, ev->body_len, KD_PACKET_MANIPULATE);
}

// It runs, and answers its timer: a break-in byte that it has not seen by now was swallowed.
static void take_print(struct serial_talk *t, const struct kdcom_event *ev)
{
	if (t->wants_breakin && t->breakins >= SERIAL_TALK_BREAKINS_MAX) {
		t->breakins = 1;
		t->breakin_at = t->now_ms + SERIAL_TALK_BREAKIN_MS;
	}
	give(t, ev->type, (uint16_t)kd_header_size(ev->type), ev->body, ev->body_len, 0);
}

static void take_boot(struct serial_talk *t)
{
	t->ask = SERIAL_ASK_NONE;
	t->want = 0;
	t->report.kd_type = 0;
	t->seq = 0;
	t->wants_breakin = false; // asked for again, if it still is, when the guest is registered
	t->listen_until = 0;
	synchronised(t);
	t->events->gone(t->arg, LINK_GONE_RESET);
	registered(t, 0);
}

static void take_packet(struct serial_talk *t, const struct kdcom_event *ev)
{
	uint32_t hdr_len = kd_header_size(ev->type);

	t->stats.packets_out++;
	t->stats.bytes_out += ev->body_len;
	if (ev->is_sync && t->has_spoken)
		take_boot(t);
	t->has_spoken = true;
	if (ev->is_lost)
		doubt(t);
	if (!hdr_len || ev->body_len < hdr_len)
		t->stats.refused++;
	else if (ev->type == KD_PACKET_MANIPULATE)
		take_reply(t, ev);
	else if (type_that_answers(ev->type, ev->body))
		take_report(t, ev);
	else
		take_print(t, ev);
}

static void take_event(struct serial_talk *t, const struct kdcom_event *ev)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		take_packet(t, ev);
		break;
	case KDCOM_EV_SENT:
		request_acknowledged(t);
		break;
	case KDCOM_EV_RESET: // the target's report follows
		synchronised(t);
		doubt(t);
		break;
	case KDCOM_EV_GIVEN_UP:
		doubt(t);
		resynchronise(t, t->now_ms);
		break;
	default:
		break;
	}
}

// ---- Driving it ------------------------------------------------------------------------------------------------------

size_t serial_talk_feed(struct serial_talk *t, const uint8_t *bytes, size_t len, uint64_t now_ms)
{
	struct kdcom_event ev = { .kind = KDCOM_EV_PACKET };
	size_t done = 0, used;

	t->now_ms = now_ms;
	while (t->is_open && ev.kind != KDCOM_EV_NONE && ev.kind != KDCOM_EV_BLOCKED) {
		kdcom_feed(&t->kdcom, bytes + done, len - done, &used, &ev);
		done += used;
		take_event(t, &ev);
	}
	return done;
}

// It is not at a stop as far as is known, and its line is free for the byte.
static bool may_break_in(const struct serial_talk *t)
{
	return t->wants_breakin && !t->want && t->ask == SERIAL_ASK_NONE;
}

static uint64_t breakin_due(const struct serial_talk *t)
{
	return t->breakin_at > t->listen_until ? t->breakin_at : t->listen_until;
}

static void break_in(struct serial_talk *t)
{
	// It has not stopped for the first one: perhaps because it has been stopped all the time, and the packet that should let it run was lost.
	if (t->breakins && !(t->is_reset_due && t->reset_at != NEVER)) {
		resynchronise(t, t->now_ms);
		send_reset(t);
		t->breakin_at = t->listen_until;
		return;
	}
	if (t->breakins >= SERIAL_TALK_BREAKINS_MAX || kdcom_send_breakin(&t->kdcom) != KDCOM_OK) {
		t->breakin_at = NEVER;
		return;
	}
	t->breakin_at = t->now_ms + (SERIAL_TALK_BREAKIN_MS << t->breakins++);
}

static bool awaits_reply(const struct serial_talk *t)
{
	return (t->ask == SERIAL_ASK_ACKED || t->ask == SERIAL_ASK_DOUBT) && !t->is_reset_due;
}

static void miss_reply(struct serial_talk *t)
{
	if (t->ask == SERIAL_ASK_DOUBT && t->redone++ >= SERIAL_TALK_REDO_MAX) // RESETs are answered, and no report follows
		fail_request(t, 0);
	else
		resynchronise(t, t->now_ms);
}

// It answers neither the request nor a RESET.
static bool is_hopeless(const struct serial_talk *t)
{
	return t->is_reset_due && t->reset_at == NEVER && (t->ask == SERIAL_ASK_DOUBT || t->ask == SERIAL_ASK_ACKED);
}

void serial_talk_timer(struct serial_talk *t, uint64_t now_ms)
{
	struct kdcom_event ev;

	t->now_ms = now_ms;
	if (!t->is_open)
		return;
	kdcom_timer(&t->kdcom, now_ms, &ev);
	take_event(t, &ev);
	if (awaits_reply(t) && now_ms >= t->reply_at)
		miss_reply(t);
	if (t->is_reset_due && now_ms >= t->reset_at)
		send_reset(t);
	if (is_hopeless(t))
		fail_request(t, 0);
	if (t->ask == SERIAL_ASK_DUE)
		write_request(t);
	if (may_break_in(t) && now_ms >= breakin_due(t))
		break_in(t);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t serial_talk_deadline(const struct serial_talk *t)
{
	uint64_t deadline = t->is_open ? kdcom_deadline(&t->kdcom) : NEVER;

	if (!t->is_open)
		return NEVER;
	if (awaits_reply(t))
		deadline = earlier(deadline, t->reply_at);
	if (t->is_reset_due)
		deadline = earlier(deadline, t->reset_at);
	if (may_break_in(t))
		deadline = earlier(deadline, breakin_due(t));
	// A request that is due waits for kdcom, or for room in its output: what makes either is a turn of its own.
	return deadline;
}

void serial_talk_start(struct serial_talk *t, uint64_t now_ms, uint32_t retry_ms)
{
	kdcom_init(&t->kdcom, KDCOM_DEBUGGER);
	t->kdcom.limits.retry_ms = retry_ms > KDCOM_DEBUGGER_RETRY_MS ? retry_ms : KDCOM_DEBUGGER_RETRY_MS;
	t->now_ms = now_ms;
	t->is_open = true;
	t->has_spoken = false;
	t->seq = 1; // nobody saw this kernel start: its breakpoints, for one, are not known
	t->want = 0;
	t->report.kd_type = 0;
	t->ask = SERIAL_ASK_NONE;
	t->wants_breakin = false;
	resynchronise(t, now_ms);
	send_reset(t);
	registered(t, 0);
}

void serial_talk_stop(struct serial_talk *t)
{
	t->is_open = false;
	t->ask = SERIAL_ASK_NONE;
}

// ---- Ops ---------------------------------------------------------------------------------------------------------------

void serial_talk_deliver(struct serial_talk *t, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes)
{
	if (!t->is_open || t->want != kd_type || t->ask != SERIAL_ASK_NONE || body_len > sizeof(t->asked.body)) {
		t->stats.dropped_deliver++;
		return;
	}
	t->asked.kd_type = kd_type;
	t->asked.hdr_len = hdr_len;
	t->asked.body_len = body_len;
	memcpy(t->asked.body, body, body_len);
	t->asked_resumes = resumes;
	t->was_written = false;
	t->redone = 0;
	t->ask = SERIAL_ASK_DUE;
	if (resumes) {
		if (t->wants_breakin && t->breakins) { // the last one met a module notice
			t->breakins = 0;
			t->breakin_at = t->now_ms + SERIAL_TALK_NOTICE_MS;
		}
		t->want = 0;
	}
	write_request(t);
}

void serial_talk_breakin(struct serial_talk *t)
{
	if (t->wants_breakin && t->breakins < SERIAL_TALK_BREAKINS_MAX)
		return; // the byte is on its way
	t->wants_breakin = true;
	t->breakins = 0;
	t->breakin_at = 0;
}

void serial_talk_breakin_cancel(struct serial_talk *t)
{
	t->wants_breakin = false;
}

void serial_talk_resend(struct serial_talk *t)
{
	t->want = 0;
	t->is_told = false;
	if (!t->is_reset_due)
		resynchronise(t, t->now_ms);
}

bool serial_talk_is_asking(const struct serial_talk *t)
{
	return t->want || t->ask != SERIAL_ASK_NONE || t->is_reset_due;
}
