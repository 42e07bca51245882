// SPDX-License-Identifier: MIT
// The guest's half: what it waits on, whose request it is given, and what the clients are told of it.
#include "serve/session.h"

#include <stdlib.h>
#include <string.h>

#include "serve/session_private.h"
#include "serve/session_rights.h"
#include "wire/le.h"

void session_init(struct session *s, const struct session_ops *ops, void *arg)
{
	memset(s, 0, sizeof(*s));
	s->ops = ops;
	s->arg = arg;
	s->pending_end = &s->pending;
	breakpoints_init(&s->breakpoints);
	buf_init(&s->history, SESSION_HISTORY_MAX);
}

static void client_free(struct session_client *c)
{
	struct session_client **at = &c->session->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->session->client_count--;
	client_clear(c);
	free(c);
}

void session_deinit(struct session *s)
{
	while (s->clients)
		client_free(s->clients); // have left; their requests could not be executed
	buf_deinit(&s->history);
}

// ---- The kinds of packets ---------------------------------------------------------------------------------

uint16_t session_type_that_answers(uint16_t kd_type, const uint8_t *body)
{
	switch (kd_type) {
	case KD_PACKET_STATE_CHANGE:
	case KD_PACKET_STATE_CHANGE32:
		return KD_PACKET_MANIPULATE;
	case KD_PACKET_DEBUG_IO:
		return get_le32(body) == KD_DEBUG_IO_PROMPT ? KD_PACKET_DEBUG_IO : 0;
	case KD_PACKET_FILE_IO:
	case KD_PACKET_CONTROL_REQUEST:
		return kd_type;
	default:
		return 0;
	}
}

static uint16_t current_want(const struct session *s)
{
	return s->current.kd_type ? session_type_that_answers(s->current.kd_type, s->current.body) : 0;
}

bool session_is_load_event(uint16_t kd_type, const uint8_t *body)
{
	return kd_type == KD_PACKET_STATE_CHANGE && (get_le32(body + STATE_OFFSET_NEW_STATE) & 0xFFFFu) == KD_STATE_LOAD_SYMBOLS;
}

static bool is_at_load_event(const struct session *s)
{
	return session_is_load_event(s->current.kd_type, s->current.body);
}

// The kernel says that it reboots, or hibernates (KD reference, section 3.3).
static bool is_farewell(const struct session *s)
{
	uint64_t base;

	if (!is_at_load_event(s) || !s->current.body[STATE_OFFSET_UNLOAD])
		return false;
	base = get_le64(s->current.body + STATE_OFFSET_BASE);
	return base == KD_BASE_REBOOT || base == KD_BASE_HIBERNATE;
}

bool session_has_current(const struct session *s)
{
	return s->current.kd_type && !s->is_current_answered;
}

static void packet_set(struct session_packet *p, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	p->kd_type = kd_type;
	p->hdr_len = hdr_len;
	p->body_len = body_len;
	memcpy(p->body, body, body_len);
}

static void packet_forget(struct session_packet *p)
{
	p->kd_type = 0;
}

static bool is_breakpoint_api(uint32_t api)
{
	return api == KD_API_WRITE_BREAKPOINT || api == KD_API_RESTORE_BREAKPOINT || api == KD_API_WRITE_BREAKPOINT_EX ||
	       api == KD_API_RESTORE_BREAKPOINT_EX;
}

enum session_state session_state(const struct session *s)
{
	if (!s->is_registered)
		return SESSION_NO_GUEST;
	switch (current_want(s)) {
	case KD_PACKET_MANIPULATE:
		return SESSION_STOPPED;
	case KD_PACKET_DEBUG_IO:
		return SESSION_PROMPT;
	case KD_PACKET_FILE_IO:
	case KD_PACKET_CONTROL_REQUEST:
		return SESSION_FILE;
	default:
		return SESSION_RUNNING;
	}
}

// ---- Requests that wait for their turn ------------------------------------------------------------------------

static void pend(struct session_client *c, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	struct session *s = c->session;

	packet_set(&c->pending, kd_type, hdr_len, body, body_len);
	c->is_pending_wanted = true;
	c->next_pending = NULL;
	*s->pending_end = c;
	s->pending_end = &c->next_pending;
}

static void pending_unlink(struct session *s, struct session_client **at)
{
	struct session_client *c = *at;

	*at = c->next_pending;
	if (!c->next_pending)
		s->pending_end = at;
}

// Its turn is over.
static void pending_end(struct session_client *c)
{
	packet_forget(&c->pending);
	if (c->is_gone)
		client_free(c);
	else
		client_pump(c);
}

// SwitchProcessor brings another report of the same stop: until then the old one is the best there is.
static bool ends_stop(uint16_t kd_type, const uint8_t *body)
{
	uint32_t api = get_le32(body);

	return kd_type != KD_PACKET_MANIPULATE || (kd_api_resumes(api) && api != KD_API_SWITCH_PROCESSOR);
}

static void pending_fail(struct session_client *c)
{
	const struct session_packet *p = &c->pending;

	if (ends_stop(p->kd_type, p->body))
		c->believes = 0;
	else if (c->is_pending_wanted)
		client_give_failure(c, p->body, KD_STATUS_UNSUCCESSFUL);
	pending_end(c);
}

// The guest does not wait for any other type any more. want 0: for none.
static void pending_keep(struct session *s, uint16_t want)
{
	struct session_client **at = &s->pending;

	while (*at) {
		struct session_client *c = *at;

		if (c->pending.kd_type == want) {
			at = &c->next_pending;
		} else {
			pending_unlink(s, at);
			pending_fail(c);
		}
	}
}

// ---- To the guest ---------------------------------------------------------------------------------------

static void current_forget(struct session *s)
{
	s->is_current_answered = s->is_announced = s->is_wait_doubtful = false;
	packet_forget(&s->current);
	if (s->controller) // nobody else is asked any
		client_drop_questions(s->controller);
	pending_keep(s, 0);
}

// Hand `p` to the guest, which waits for its type. by: whose request it is, NULL = the broker's own, or of a client that has left.
static void deliver(struct session *s, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, struct session_client *by,
		    bool is_wanted)
{
	uint32_t api = get_le32(body);
	bool resumes = kd_type != KD_PACKET_MANIPULATE || kd_api_resumes(api);

	s->guest_want = 0;
	s->ops->guest_deliver(s->arg, kd_type, hdr_len, body, body_len, resumes);
	if (kd_type == KD_PACKET_MANIPULATE && api == KD_API_REBOOT)
		s->reboot_by = by;
	if (ends_stop(kd_type, body)) {
		packet_forget(&s->asked);
		current_forget(s);
		return;
	}
	packet_set(&s->asked, kd_type, hdr_len, body, body_len);
	s->asked_by = by;
	s->is_asked_wanted = is_wanted;
	s->is_asked_own = false;
	s->asked_tries = 0;
}

// A request that the guest, waiting for one, need not be woken for.
static bool find_answer(struct session *s, uint16_t kd_type, const uint8_t *body, uint32_t body_len, const uint8_t **ret, uint32_t *ret_len)
{
	return kd_type == KD_PACKET_MANIPULATE && s->ops->answer && s->ops->answer(s->arg, body, body_len, ret, ret_len);
}

static void deliver_of(struct session_client *c, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool is_wanted)
{
	if (ends_stop(kd_type, body))
		c->believes = 0;
	deliver(c->session, kd_type, hdr_len, body, body_len, c->is_gone ? NULL : c, is_wanted);
}

static void take_turn(struct session_client *c)
{
	struct session *s = c->session;
	struct session_packet *p = &c->pending;
	bool is_wanted = c->is_pending_wanted;
	const uint8_t *reply = p->body;
	uint32_t reply_len = p->body_len;

	if (is_wanted && find_answer(s, p->kd_type, p->body, p->body_len, &reply, &reply_len)) {
		client_give_reply(c, reply, reply_len);
	} else if (p->kd_type == KD_PACKET_MANIPULATE &&
		   breakpoints_ask(&s->breakpoints, &c->breakpoints, p->body, p->body_len) == BREAKPOINTS_ANSWER) {
		if (is_wanted)
			client_give_reply(c, p->body, p->body_len);
	} else {
		deliver_of(c, p->kd_type, p->hdr_len, p->body, p->body_len, is_wanted);
	}
	pending_end(c);
}

static bool may_take_turn(const struct session *s, uint16_t kd_type)
{
	return s->guest_want == kd_type && !s->asked.kd_type && !s->own.kd_type;
}

static void deliver_pending(struct session *s)
{
	while (s->pending && may_take_turn(s, s->pending->pending.kd_type)) {
		struct session_client *c = s->pending;

		pending_unlink(s, &s->pending);
		take_turn(c);
	}
}

// ---- What the broker does by itself -------------------------------------------------------------------------------

static void restore_orphan(struct session *s)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };
	uint32_t handle = current_want(s) == KD_PACKET_MANIPULATE ? breakpoints_next_orphan(&s->breakpoints) : 0;

	if (!handle)
		return;
	put_le32(body, KD_API_RESTORE_BREAKPOINT);
	put_le16(body + MANIPULATE_OFFSET_PROCESSOR, get_le16(s->current.body + STATE_OFFSET_PROCESSOR));
	put_le32(body + MANIPULATE_OFFSET_UNION, handle);
	deliver(s, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), NULL, false);
}

static void continue_alone(struct session *s)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, KD_API_CONTINUE);
	put_le16(body + MANIPULATE_OFFSET_PROCESSOR, get_le16(s->current.body + STATE_OFFSET_PROCESSOR));
	put_le32(body + MANIPULATE_OFFSET_UNION, KD_CONTINUE_HANDLED);
	s->counters.continued++;
	deliver(s, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), NULL, false);
}

// .kdfiles: a create gets "no such file", which makes the kernel load its own; the rest can only be left over from a client that
// went away in the middle.
static void refuse_file_alone(struct session *s)
{
	bool is_create = get_le32(s->current.body) == KD_FILE_IO_CREATE;
	uint8_t body[KD_FILE_IO_SIZE];

	memcpy(body, s->current.body, sizeof(body));
	put_le32(body + FILE_OFFSET_STATUS, is_create ? KD_STATUS_NO_SUCH_FILE : KD_STATUS_UNSUCCESSFUL);
	memset(body + FILE_OFFSET_STATUS + 4, 0, sizeof(body) - FILE_OFFSET_STATUS - 4);
	s->counters.files_refused++;
	deliver(s, KD_PACKET_FILE_IO, sizeof(body), body, sizeof(body), NULL, false);
}

static void refuse_control_alone(struct session *s)
{
	uint8_t body[KD_CONTROL_REQUEST_SIZE];

	memcpy(body, s->current.body, sizeof(body));
	put_le32(body + CONTROL_OFFSET_ANSWER, 0);
	deliver(s, KD_PACKET_CONTROL_REQUEST, sizeof(body), body, sizeof(body), NULL, false);
}

// Without a controller that listens: what must not stop a kernel is answered here; exceptions and prompts wait for a debugger.
static void attend_alone(struct session *s)
{
	if ((s->controller && !s->controller->is_deaf) || s->pending || s->asked.kd_type || !s->guest_want)
		return;
	if (is_at_load_event(s))
		continue_alone(s);
	else if (s->current.kd_type == KD_PACKET_FILE_IO)
		refuse_file_alone(s);
	else if (s->current.kd_type == KD_PACKET_CONTROL_REQUEST)
		refuse_control_alone(s);
}

// ---- The broker's own questions -----------------------------------------------------------------------------------

static void announce(struct session *s)
{
	s->is_announced = true;
	for (struct session_client *c = s->clients; c; c = c->next)
		if (c == s->controller || (c->told != s->stop && c->shown != s->stop)) // who observes and knows this report is not told it again
			client_give_current(c);
}

// Have the next one ready, or tell the clients what they have been waiting for.
static void own_next(struct session *s)
{
	uint32_t len = 0;

	packet_forget(&s->own);
	if (s->ops->own_request && current_want(s) == KD_PACKET_MANIPULATE)
		len = s->ops->own_request(s->arg, s->own.body);
	if (len >= KD_MANIPULATE_SIZE && len <= SESSION_BODY_MAX && session_right_for(get_le32(s->own.body)) == RIGHT_READ) {
		s->own.kd_type = KD_PACKET_MANIPULATE;
		s->own.hdr_len = KD_MANIPULATE_SIZE;
		s->own.body_len = len;
	} else {
		announce(s);
	}
}

static void own_answered(struct session *s, const uint8_t *body, uint32_t body_len)
{
	s->ops->own_reply(s->arg, body, body_len);
	own_next(s);
}

static void own_ask(struct session *s)
{
	const uint8_t *reply;
	uint32_t reply_len;

	while (s->own.kd_type && s->guest_want == KD_PACKET_MANIPULATE && !s->asked.kd_type) {
		if (find_answer(s, s->own.kd_type, s->own.body, s->own.body_len, &reply, &reply_len)) {
			own_answered(s, reply, reply_len);
			continue;
		}
		deliver(s, s->own.kd_type, s->own.hdr_len, s->own.body, s->own.body_len, NULL, false);
		s->is_asked_own = true;
	}
}

// The stop in which it was to be asked is over.
static void own_forget(struct session *s)
{
	if (!s->own.kd_type)
		return;
	packet_forget(&s->own);
	s->ops->own_reply(s->arg, NULL, 0);
}

void session_settle(struct session *s)
{
	if (!s->guest_want)
		return;
	if (s->guest_want != current_want(s)) {
		// It waits on something this broker has not seen (it was started meanwhile): have it said again, once.
		if (!s->is_resend_sent) {
			s->is_resend_sent = true;
			s->guest_want = 0;
			s->ops->guest_resend(s->arg);
		}
		return;
	}
	own_ask(s);
	if (s->guest_want && !s->asked.kd_type)
		restore_orphan(s);
	deliver_pending(s);
	attend_alone(s);
}

// ---- From the guest --------------------------------------------------------------------------------------

// The reply to `asked`. body NULL: there will be none.
static void asked_answered(struct session *s, const uint8_t *body, uint32_t body_len)
{
	uint8_t changed[SESSION_BODY_MAX];
	struct session_client *c = s->asked_by;

	if (body && is_breakpoint_api(get_le32(body))) {
		memcpy(changed, body, body_len);
		breakpoints_answer(&s->breakpoints, c ? &c->breakpoints : NULL, s->asked.body, s->asked.body_len, changed, body_len);
		body = changed;
	}
	packet_forget(&s->asked);
	if (s->is_asked_own)
		own_answered(s, body, body_len);
	else if (!c || !s->is_asked_wanted)
		s->counters.replies_dropped++;
	else if (body)
		client_give_reply(c, body, body_len);
	else
		client_give_failure(c, s->asked.body, KD_STATUS_UNSUCCESSFUL);
}

// The guest waits again although a request that has an answer was not answered: it never took it. Give it again.
static bool repeat_request(struct session *s)
{
	struct session_packet *p = &s->asked;

	if (!p->kd_type || !kd_api_has_reply(get_le32(p->body)) || s->guest_want != p->kd_type)
		return false;
	if (s->asked_tries++ < SESSION_REDELIVER_MAX) {
		s->counters.requests_repeated++;
		s->guest_want = 0;
		s->ops->guest_deliver(s->arg, p->kd_type, p->hdr_len, p->body, p->body_len, false);
		return true;
	}
	asked_answered(s, NULL, 0);
	return false;
}

static bool knows_loss(const struct session *s, const struct session_client *c)
{
	return (s->farewell && c->told == s->farewell) || s->reboot_by == c;
}

// The kernel that the clients knew is gone.
static void boot_lost(struct session *s)
{
	if (!s->has_boot)
		return;
	if (s->asked.kd_type && s->asked_by && s->is_asked_wanted)
		client_give_failure(s->asked_by, s->asked.body, KD_STATUS_UNSUCCESSFUL);
	packet_forget(&s->asked);
	own_forget(s);
	current_forget(s);
	breakpoints_forget(&s->breakpoints);
	for (struct session_client *c = s->clients; c; c = c->next)
		client_give_loss(c, knows_loss(s, c));
	s->has_boot = false;
	s->farewell = 0;
	s->reboot_by = NULL;
	s->last_seq = 0;
}

// Its wait is over or interrupted, and what comes next will tell whether it still is where it was.
static void doubt_wait(struct session *s)
{
	s->guest_want = 0;
	s->is_wait_doubtful = s->current.kd_type != 0;
	s->is_doubt_timed = false;
}

void session_guest_registered(struct session *s)
{
	s->is_registered = true;
	s->is_resend_sent = false;
	doubt_wait(s);
	if (!s->has_boot) {
		s->has_boot = true;
		s->counters.boots++;
	}
	if (s->is_breakin_kept || s->breakins_sent) {
		s->is_breakin_kept = false;
		s->breakins_sent = 1;
		s->ops->guest_breakin(s->arg);
	}
}

void session_guest_joined(struct session *s)
{
	s->may_begin_anew = true;
	session_guest_registered(s);
}

void session_guest_gone(struct session *s, enum link_gone reason)
{
	s->is_registered = s->may_begin_anew = false;
	doubt_wait(s);
	if (s->breakins_sent)
		s->is_breakin_kept = s->breakin_by != NULL;
	s->breakins_sent = 0;
	// The other reasons end the registration of a kernel that lives on and will register again.
	if (reason == LINK_GONE_RESET || reason == LINK_GONE_SHUTDOWN)
		boot_lost(s);
}

static void history_put(struct session *s, const uint8_t *body, uint32_t body_len)
{
	struct kd_debug_io io;

	if (kd_debug_io_decode(body, body_len, &io) != KD_OK)
		return;
	if (s->history.len + io.data_len > SESSION_HISTORY_MAX)
		buf_consume(&s->history, s->history.len + io.data_len - SESSION_HISTORY_MAX);
	if (!buf_put(&s->history, io.data, io.data_len))
		buf_clear(&s->history); // no memory: no history, and nothing else suffers
}

void session_history_complete(struct session *s, size_t old_len, const uint8_t *text, size_t len, size_t new_len)
{
	struct buf whole;

	for (struct session_client *c = s->clients; c; c = c->next)
		client_give_history(c, text, new_len < len ? new_len : len);
	if (len > SESSION_HISTORY_MAX) {
		text += len - SESSION_HISTORY_MAX;
		len = SESSION_HISTORY_MAX;
	}
	old_len = old_len < s->history.len ? old_len : s->history.len;
	size_t kept = old_len < SESSION_HISTORY_MAX - len ? old_len : SESSION_HISTORY_MAX - len;
	buf_init(&whole, SESSION_HISTORY_MAX);
	if ((!kept || buf_put(&whole, buf_data(&s->history) + old_len - kept, kept)) && (!len || buf_put(&whole, text, len))) {
		buf_deinit(&s->history);
		s->history = whole;
	} else {
		buf_deinit(&whole); // no memory: what is there stays
	}
}

void session_tell_all(struct session *s, const char *text)
{
	for (struct session_client *c = s->clients; c; c = c->next)
		session_tell(c, text);
}

static void take_print(struct session *s, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	if (kd_type == KD_PACKET_DEBUG_IO) {
		s->counters.prints++;
		history_put(s, body, body_len);
	}
	for (struct session_client *c = s->clients; c; c = c->next)
		client_give_print(c, kd_type, body, body_len);
}

static void take_reply(struct session *s, const uint8_t *body, uint32_t body_len)
{
	if (s->asked.kd_type && get_le32(body) == get_le32(s->asked.body))
		asked_answered(s, body, body_len);
	else
		s->counters.replies_dropped++;
}

// A break-in that meets a kernel stopped for another reason has done its work; module loads go on by themselves.
static void breakin_meets_stop(struct session *s)
{
	if (!s->breakins_sent || s->current.kd_type != KD_PACKET_STATE_CHANGE || is_at_load_event(s))
		return;
	s->breakins_sent = 0;
	s->ops->guest_breakin_cancel(s->arg);
}

// `current` is another report, which need not mean another stop.
static void current_set(struct session *s, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	bool is_same = s->current.kd_type == kd_type && s->current.body_len == body_len && memcmp(s->current.body, body, body_len) == 0;

	// One that sits at the report before this one sees it in its place.
	if (s->controller && s->current.kd_type && s->controller->told == s->stop)
		s->controller->believes = 0;
	if (!is_same && !++s->stop)
		s->stop = 1;
	packet_set(&s->current, kd_type, hdr_len, body, body_len);
	s->is_current_answered = false;
}

// Another kind of report came in place of the reply, if there is one.
static void asked_is_lost(struct session *s)
{
	if (s->asked.kd_type && s->is_asked_own)
		own_forget(s);
	else if (s->asked.kd_type && kd_api_has_reply(get_le32(s->asked.body)))
		asked_answered(s, NULL, 0);
	packet_forget(&s->asked);
}

static void take_stop(struct session *s, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	// The guest repeats its report because it lost a request, or came back to its wait before it was given one: the client waits for the answer, or
	// has gone on, and knows the report.
	bool is_repetition = s->current.kd_type == kd_type &&
			     (s->is_current_answered || (s->asked.kd_type && kd_api_has_reply(get_le32(s->asked.body))));

	s->is_resend_sent = false;
	s->is_wait_doubtful = false;
	if (is_repetition) {
		breakin_meets_stop(s);
		return;
	}
	current_set(s, kd_type, hdr_len, body, body_len);
	s->farewell = is_farewell(s) ? s->stop : 0;
	s->reboot_by = NULL;
	breakin_meets_stop(s);
	asked_is_lost(s);
	pending_keep(s, current_want(s));
	if (current_want(s) != KD_PACKET_MANIPULATE)
		own_forget(s);
	if (!s->own.kd_type)
		own_next(s);
}

// Packets are numbered from 1 since the kernel started, or since the module came into it.
static void take_seq(struct session *s, uint32_t seq)
{
	bool has_joined = s->may_begin_anew && seq == 1;
	s->may_begin_anew = false;
	if (has_joined) {
		s->last_seq = seq;
		return;
	}
	if (s->last_seq && (int32_t)(seq - s->last_seq) <= 0) {
		boot_lost(s);
		s->counters.reverts += seq != 1;
		s->has_boot = seq != 1;
		session_guest_registered(s);
	}
	if (seq == 1)
		breakpoints_booted(&s->breakpoints);
	s->last_seq = seq;
}

void session_guest_packet(struct session *s, uint32_t seq, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body,
			  uint32_t body_len, uint16_t waits_for)
{
	s->counters.guest_packets++;
	s->counters.guest_bytes += body_len;
	if (!hdr_len || hdr_len != kd_header_size(kd_type) || body_len < hdr_len || body_len > SESSION_BODY_MAX) {
		s->counters.guest_refused++;
		return;
	}
	take_seq(s, seq);
	if (kd_type == KD_PACKET_MANIPULATE)
		take_reply(s, body, body_len);
	else if (session_type_that_answers(kd_type, body))
		take_stop(s, kd_type, hdr_len, body, body_len);
	else
		take_print(s, kd_type, body, body_len);
	if (waits_for)
		session_guest_waits(s, waits_for);
}

void session_guest_waits(struct session *s, uint16_t kd_type)
{
	s->guest_want = kd_type;
	s->is_wait_doubtful = false;
	breakin_meets_stop(s); // asked for while it was on its way back to this wait
	if (repeat_request(s))
		return;
	packet_forget(&s->asked); // it was one without an answer
	session_settle(s);
}

void session_guest_breakin_taken(struct session *s)
{
	// One that was sent behind it is still to be taken back at the stop, or the guest stops once more after that.
	if (s->breakins_sent)
		s->breakins_sent--;
}

// ---- From a client --------------------------------------------------------------------------------------

// What only reads is executed for nobody else.
static void pending_withdraw_read(struct session_client *c)
{
	struct session_client **at = &c->session->pending;

	if (c->pending.kd_type != KD_PACKET_MANIPULATE || session_right_for(get_le32(c->pending.body)) != RIGHT_READ)
		return;
	while (*at != c)
		at = &(*at)->next_pending;
	pending_unlink(c->session, at);
	packet_forget(&c->pending);
}

void session_client_left(struct session_client *c)
{
	struct session *s = c->session;

	pending_withdraw_read(c);
	c->is_gone = true;
	c->is_pending_wanted = false;
	client_clear(c);
	breakpoints_client_left(&s->breakpoints, &c->breakpoints);
	if (s->asked_by == c)
		s->asked_by = NULL;
	if (s->reboot_by == c)
		s->reboot_by = NULL;
	if (s->breakin_by == c) {
		s->breakin_by = NULL;
		s->is_breakin_kept = false;
	}
	control_left(c);
	if (!c->pending.kd_type)
		client_free(c);
	session_settle(s);
}

static bool is_stopped(const struct session *s)
{
	return session_has_current(s) && current_want(s) == KD_PACKET_MANIPULATE;
}

static bool may_control(const struct session_client *c)
{
	const struct session *s = c->session;

	return !s->controller || s->controller == c;
}

// For an API that is answered so by nobody else.
static bool give_status(struct session_client *c, const uint8_t *request, uint32_t status)
{
	uint8_t reply[KD_MANIPULATE_SIZE];

	memcpy(reply, request, sizeof(reply));
	put_le32(reply + MANIPULATE_OFFSET_STATUS, status);
	client_give_reply(c, reply, sizeof(reply));
	return true;
}

// It gets a state change in place of a reply, if there is one to be had.
static bool give_report(struct session_client *c, bool is_again)
{
	struct session *s = c->session;

	c->believes = 0;
	if (is_again && s->is_announced && session_has_current(s))
		client_give_current(c);
	client_pump(c);
	return true;
}

// -> true: c may not have this of a guest, and was told so.
static bool refuse_request(struct session_client *c, const uint8_t *body)
{
	struct session *s = c->session;
	enum session_right right = session_right_for(get_le32(body));
	bool is_present = c->told == s->stop && is_stopped(s), is_denied = right != RIGHT_READ && !may_control(c);

	if (right == RIGHT_RESTORE && is_denied) {
		breakpoints_release(&s->breakpoints, &c->breakpoints, get_le32(body + MANIPULATE_OFFSET_UNION));
		return give_status(c, body, KD_STATUS_SUCCESS);
	}
	if (right == RIGHT_CONTINUE)
		return (is_denied || !is_present) && give_report(c, false);
	s->counters.denied += is_denied;
	if (right == RIGHT_SWITCH && is_denied)
		return give_status(c, body, KD_STATUS_ACCESS_DENIED);
	if (right == RIGHT_SWITCH || right == RIGHT_REPORT)
		return (is_denied || !is_present) && give_report(c, is_stopped(s));
	if (is_denied)
		client_give_failure(c, body, KD_STATUS_ACCESS_DENIED);
	else if (is_stopped(s) && (is_present || right != RIGHT_STOP))
		return false;
	else
		client_give_failure(c, body, KD_STATUS_UNSUCCESSFUL);
	return true;
}

// What is said to a guest that is gone, or goes on by itself, or by somebody who may not.
static bool refuse(struct session_client *c, uint16_t kd_type, const uint8_t *body)
{
	struct session *s = c->session;

	if (kd_type == KD_PACKET_MANIPULATE)
		return refuse_request(c, body);
	if (c->told == s->stop && session_has_current(s) && may_control(c))
		return false;
	client_goes_on(c);
	return true;
}

static void accept(struct session_client *c, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	struct session *s = c->session;
	const uint8_t *reply;
	uint32_t reply_len;

	if (kd_type != KD_PACKET_MANIPULATE || session_right_for(get_le32(body)) != RIGHT_READ)
		control_take_free(c);
	if (s->pending || !may_take_turn(s, kd_type) || is_breakpoint_api(get_le32(body))) {
		s->is_current_answered |= ends_stop(kd_type, body);
		pend(c, kd_type, hdr_len, body, body_len);
		deliver_pending(s);
	} else if (find_answer(s, kd_type, body, body_len, &reply, &reply_len)) {
		client_give_reply(c, reply, reply_len);
	} else {
		deliver_of(c, kd_type, hdr_len, body, body_len, true);
	}
	client_pump(c);
}

void session_client_packet(struct session_client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	struct session *s = c->session;
	uint32_t hdr_len = kd_header_size(kd_type);

	s->counters.client_packets++;
	s->counters.client_bytes += body_len;
	c->is_deaf = false;
	if (!hdr_len || body_len < hdr_len || body_len > SESSION_BODY_MAX || c->pending.kd_type || kd_type != c->expected)
		s->counters.requests_refused++;
	else if (c->is_notice_open)
		client_answer_for_the_dead(c, body);
	else if (!refuse(c, kd_type, body))
		accept(c, kd_type, (uint16_t)hdr_len, body, body_len);
}

// It has registered anew and not come back to its wait, so it may be one that runs: of a snapshot, which was loaded while another time of
// this guest was stopped.
static bool may_have_left_its_wait(const struct session *s)
{
	return !s->guest_want && !s->asked.kd_type;
}

void session_client_breakin(struct session_client *c)
{
	struct session *s = c->session;

	s->counters.breakins++;
	c->is_deaf = false;
	if (!may_control(c)) {
		control_refuse_breakin(c);
		return;
	}
	control_take_free(c);
	if (!s->is_registered) {
		s->is_breakin_kept = true;
		s->breakin_by = c;
	} else if (!s->current.kd_type || is_at_load_event(s) || may_have_left_its_wait(s)) {
		s->breakins_sent++;
		s->breakin_by = c;
		s->ops->guest_breakin(s->arg);
	}
}

bool session_awaits_reply(const struct session_client *c)
{
	const struct session *s = c->session;

	return s->asked.kd_type && s->asked_by == c && s->is_asked_wanted && kd_api_has_reply(get_le32(s->asked.body));
}

// ---- Time --------------------------------------------------------------------------------------------------

static void doubt_timer(struct session *s, uint64_t now_ms)
{
	if (!s->is_wait_doubtful)
		return;
	if (!s->is_doubt_timed) {
		s->is_doubt_timed = true;
		s->doubt_until_ms = now_ms + SESSION_RETURN_MS;
	} else if (now_ms >= s->doubt_until_ms) {
		s->is_wait_doubtful = false;
		s->counters.reverts++;
		boot_lost(s);
		s->has_boot = s->is_registered;
	}
}

void session_timer(struct session *s, uint64_t now_ms)
{
	doubt_timer(s, now_ms);
	for (struct session_client *c = s->clients; c; c = c->next)
		client_timer(c, now_ms);
}

uint64_t session_deadline(const struct session *s)
{
	uint64_t first = !s->is_wait_doubtful ? UINT64_MAX : s->is_doubt_timed ? s->doubt_until_ms : 0;

	for (const struct session_client *c = s->clients; c; c = c->next) {
		uint64_t deadline = client_deadline(c);

		first = deadline < first ? deadline : first;
	}
	return first;
}
