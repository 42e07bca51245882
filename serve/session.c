// SPDX-License-Identifier: MIT
#include "serve/session.h"

#include <stdlib.h>
#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"

// DBGKD_ANY_WAIT_STATE_CHANGE (KD reference, sections 3.1 and 3.3): the few fields that decide what happens without a client.
#define STATE_OFFSET_NEW_STATE 0x00u
#define STATE_OFFSET_PROCESSOR 0x06u
#define STATE_OFFSET_BASE 0x28u
#define STATE_OFFSET_UNLOAD 0x40u
// DBGKD_MANIPULATE_STATE64 (KD reference, section 4.1).
#define MANIPULATE_OFFSET_PROCESSOR 0x06u
#define MANIPULATE_OFFSET_STATUS 0x08u
#define MANIPULATE_OFFSET_UNION 0x10u
// In the union: memory.actual_bytes, and DBGKD_CONTINUE.ContinueStatus.
#define MANIPULATE_OFFSET_ACTUAL 0x1Cu
// DBGKD_FILE_IO (KD reference, section 5).
#define FILE_OFFSET_STATUS 0x04u
// DBGKD_CONTROL_REQUEST: the answer.
#define CONTROL_OFFSET_ANSWER 0x08u

void session_init(struct session *s, const struct session_ops *ops, void *arg)
{
	memset(s, 0, sizeof(*s));
	s->ops = ops;
	s->arg = arg;
	s->queue_end = &s->queue;
	buf_init(&s->history, SESSION_HISTORY_MAX);
}

// ---- What waits for the client ------------------------------------------------------------------------

static struct session_item *queue_unlink(struct session *s, struct session_item **at)
{
	struct session_item *item = *at;

	*at = item->next;
	if (!item->next)
		s->queue_end = at;
	s->queue_len -= item->body_len;
	return item;
}

static void queue_drop(struct session *s, enum session_item_kind kind)
{
	struct session_item **at = &s->queue;

	while (*at) {
		if ((*at)->kind == kind)
			free(queue_unlink(s, at));
		else
			at = &(*at)->next;
	}
}

static void queue_clear(struct session *s)
{
	while (s->queue)
		free(queue_unlink(s, &s->queue));
}

void session_deinit(struct session *s)
{
	queue_clear(s);
	buf_deinit(&s->history);
}

// Drop the oldest prints until `len` more bytes fit. Everything else in the queue is bounded by its nature: one of a kind.
static void queue_make_room(struct session *s, uint32_t len)
{
	struct session_item **at = &s->queue;

	while (*at && s->queue_len + len > SESSION_QUEUE_MAX) {
		if ((*at)->kind == ITEM_PRINT) {
			free(queue_unlink(s, at));
			s->counters.prints_dropped++;
		} else {
			at = &(*at)->next;
		}
	}
}

static void queue_put(struct session *s, enum session_item_kind kind, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	struct session_item *item;

	if (kind != ITEM_PRINT)
		queue_drop(s, kind); // a newer one replaces it
	queue_make_room(s, body_len);
	item = malloc(sizeof(*item) + body_len);
	if (!item) {
		s->counters.prints_dropped += kind == ITEM_PRINT;
		return;
	}
	*item = (struct session_item){ .kind = kind, .kd_type = kd_type, .body_len = body_len };
	if (body_len)
		memcpy(item->body, body, body_len);
	*s->queue_end = item;
	s->queue_end = &item->next;
	s->queue_len += body_len;
}

// ---- The kinds of packets ---------------------------------------------------------------------------------

// Which type of packet answers this one of the guest; 0 = none, it goes on by itself.
static uint16_t type_that_answers(uint16_t kd_type, const uint8_t *body)
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
	return s->current.kd_type ? type_that_answers(s->current.kd_type, s->current.body) : 0;
}

static bool is_load_event(const struct session_packet *p)
{
	return p->kd_type == KD_PACKET_STATE_CHANGE &&
	       (get_le32(p->body + STATE_OFFSET_NEW_STATE) & 0xFFFFu) == KD_STATE_LOAD_SYMBOLS;
}

// The kernel says that it reboots, or hibernates (KD reference, section 3.3).
static bool is_farewell(const struct session_packet *p)
{
	uint64_t base;

	if (!is_load_event(p) || !p->body[STATE_OFFSET_UNLOAD])
		return false;
	base = get_le64(p->body + STATE_OFFSET_BASE);
	return base == KD_BASE_REBOOT || base == KD_BASE_HIBERNATE;
}

static void packet_set(struct session_packet *p, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	p->kd_type = kd_type;
	p->hdr_len = hdr_len;
	p->body_len = body_len;
	memcpy(p->body, body, body_len);
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

// ---- To the client ----------------------------------------------------------------------------------------

static void update_expected(struct session *s)
{
	uint16_t want = 0;

	if (!s->has_client)
		return;
	if (s->is_notice_open)
		want = KD_PACKET_MANIPULATE;
	else if (s->is_current_told && !s->pending.kd_type)
		want = current_want(s);
	if (want == s->expected)
		return;
	s->expected = want;
	s->ops->client_expect(s->arg, want);
}

static void client_send(struct session *s, enum session_item_kind kind, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	s->is_in_flight = true;
	s->in_flight_kind = kind;
	// The rest is repeated until the client hears it, as a kernel does.
	s->ops->client_send(s->arg, kd_type, body, body_len, kd_is_droppable(kd_type, body, body_len));
}

static void send_item(struct session *s, const struct session_item *item)
{
	switch (item->kind) {
	case ITEM_RESTART:
		s->ops->client_restart(s->arg);
		s->expected = 0; // the restart has forgotten what was expected: say it again, though it be the same
		break;
	case ITEM_CURRENT:
		if (!s->current.kd_type)
			break;
		s->is_current_told = true;
		client_send(s, ITEM_CURRENT, s->current.kd_type, s->current.body, s->current.body_len);
		break;
	case ITEM_NOTICE:
		s->is_notice_open = true;
		s->is_notice_timed = false;
		client_send(s, ITEM_NOTICE, item->kd_type, item->body, item->body_len);
		break;
	default:
		client_send(s, item->kind, item->kd_type, item->body, item->body_len);
	}
}

static void pump(struct session *s)
{
	while (s->has_client && s->queue && !s->is_in_flight && !s->is_notice_open) {
		struct session_item *item = queue_unlink(s, &s->queue);

		send_item(s, item);
		free(item);
	}
	update_expected(s);
}

// Straight on where nothing waits before it: that is the request path, and it copies nothing.
static void client_give(struct session *s, enum session_item_kind kind, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	if (!s->has_client)
		return;
	if (!s->queue && !s->is_in_flight && !s->is_notice_open) {
		client_send(s, kind, kd_type, body, body_len);
		return;
	}
	queue_put(s, kind, kd_type, body, body_len);
	pump(s);
}

static void client_give_current(struct session *s)
{
	s->is_current_told = false;
	s->is_greeting_due = false;
	if (!s->has_client)
		return;
	queue_put(s, ITEM_CURRENT, 0, NULL, 0);
	pump(s);
}

// The answer to a request that the guest cannot answer any more. -> false: this one has none.
static bool make_failure(const uint8_t *request, uint8_t reply[KD_MANIPULATE_SIZE])
{
	uint32_t api = get_le32(request);

	if (!kd_api_has_reply(api))
		return false;
	memcpy(reply, request, KD_MANIPULATE_SIZE);
	put_le32(reply + MANIPULATE_OFFSET_STATUS, KD_STATUS_UNSUCCESSFUL);
	if (kd_api_layout(api) == KD_LAYOUT_MEMORY)
		put_le32(reply + MANIPULATE_OFFSET_ACTUAL, 0);
	return true;
}

static void client_give_failure(struct session *s, const uint8_t *request)
{
	uint8_t reply[KD_MANIPULATE_SIZE];

	if (make_failure(request, reply))
		client_give(s, ITEM_REPLY, KD_PACKET_MANIPULATE, reply, sizeof(reply));
}

// The guest was reset without a word: what a kernel says before it reboots (KD reference, sections 1.11 and 3.3).
static void client_give_notice(struct session *s)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };

	put_le32(body + STATE_OFFSET_NEW_STATE, KD_STATE_LOAD_SYMBOLS);
	put_le16(body + 4, 6);  // ProcessorLevel, a plausible family
	put_le32(body + 8, 1);  // NumberProcessors
	put_le64(body + STATE_OFFSET_BASE, KD_BASE_REBOOT);
	body[STATE_OFFSET_UNLOAD] = 1;
	queue_put(s, ITEM_NOTICE, KD_PACKET_STATE_CHANGE, body, sizeof(body));
}

// ---- To the guest ---------------------------------------------------------------------------------------

static void packet_forget(struct session_packet *p)
{
	p->kd_type = 0;
}

// SwitchProcessor brings another report of the same stop: until then the old one is the best there is.
static bool ends_stop(uint16_t kd_type, const uint8_t *body)
{
	uint32_t api = get_le32(body);

	return kd_type != KD_PACKET_MANIPULATE || (kd_api_resumes(api) && api != KD_API_SWITCH_PROCESSOR);
}

// What a client that resynchronises is told.
static bool has_current_to_tell(const struct session *s)
{
	return s->current.kd_type && !s->is_current_answered;
}

static void current_forget(struct session *s)
{
	s->is_current_answered = false;
	packet_forget(&s->current);
	s->is_current_told = false;
	queue_drop(s, ITEM_CURRENT);
}

// Hand `p` to the guest, which waits for its type. owner: the client's generation, 0 = the broker itself.
static void deliver(struct session *s, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, uint32_t owner)
{
	uint32_t api = get_le32(body);
	bool resumes = kd_type != KD_PACKET_MANIPULATE || kd_api_resumes(api);

	s->guest_want = 0;
	s->ops->guest_deliver(s->arg, kd_type, hdr_len, body, body_len, resumes);
	if (kd_type == KD_PACKET_MANIPULATE && api == KD_API_REBOOT)
		s->is_lost_announced = true;
	if (ends_stop(kd_type, body)) {
		current_forget(s);
		packet_forget(&s->asked);
	} else if (body != s->asked.body) {
		packet_set(&s->asked, kd_type, hdr_len, body, body_len);
		s->asked_owner = owner;
		s->asked_tries = 0;
	}
}

// A request of the present client that the guest, waiting for one, need not be woken for.
static bool answer(struct session *s, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	const uint8_t *reply;
	uint32_t reply_len;

	if (kd_type != KD_PACKET_MANIPULATE || !s->ops->answer || !s->ops->answer(s->arg, body, body_len, &reply, &reply_len))
		return false;
	client_give(s, ITEM_REPLY, KD_PACKET_MANIPULATE, reply, reply_len);
	return true;
}

static void deliver_pending(struct session *s)
{
	struct session_packet *p = &s->pending;

	if (!p->kd_type || s->guest_want != p->kd_type || s->asked.kd_type)
		return;
	if (s->pending_owner != s->client || !answer(s, p->kd_type, p->body, p->body_len))
		deliver(s, p->kd_type, p->hdr_len, p->body, p->body_len, s->pending_owner);
	packet_forget(p);
	update_expected(s);
}

static void continue_alone(struct session *s)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, KD_API_CONTINUE);
	put_le16(body + MANIPULATE_OFFSET_PROCESSOR, get_le16(s->current.body + STATE_OFFSET_PROCESSOR));
	put_le32(body + MANIPULATE_OFFSET_UNION, KD_CONTINUE_HANDLED);
	s->counters.continued++;
	deliver(s, KD_PACKET_MANIPULATE, sizeof(body), body, sizeof(body), 0);
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
	deliver(s, KD_PACKET_FILE_IO, sizeof(body), body, sizeof(body), 0);
}

static void refuse_control_alone(struct session *s)
{
	uint8_t body[KD_CONTROL_REQUEST_SIZE];

	memcpy(body, s->current.body, sizeof(body));
	put_le32(body + CONTROL_OFFSET_ANSWER, 0);
	deliver(s, KD_PACKET_CONTROL_REQUEST, sizeof(body), body, sizeof(body), 0);
}

// Without a client that listens: what must not stop a kernel is answered here; exceptions and prompts wait for a debugger.
static void attend_alone(struct session *s)
{
	if ((s->has_client && !s->is_deaf) || s->pending.kd_type || s->asked.kd_type || !s->guest_want || s->guest_want != current_want(s))
		return;
	if (is_load_event(&s->current))
		continue_alone(s);
	else if (s->current.kd_type == KD_PACKET_FILE_IO)
		refuse_file_alone(s);
	else if (s->current.kd_type == KD_PACKET_CONTROL_REQUEST)
		refuse_control_alone(s);
}

// The guest waits: give it what there is for it.
static void settle(struct session *s)
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
	deliver_pending(s);
	attend_alone(s);
}

// ---- From the guest --------------------------------------------------------------------------------------

// The guest waits again although a request that has an answer was not answered: it never took it. Give it again.
static bool repeat_request(struct session *s)
{
	struct session_packet *p = &s->asked;

	if (!p->kd_type || !kd_api_has_reply(get_le32(p->body)) || s->guest_want != p->kd_type)
		return false;
	if (s->asked_tries++ < SESSION_REDELIVER_MAX) {
		s->counters.requests_repeated++;
		deliver(s, p->kd_type, p->hdr_len, p->body, p->body_len, s->asked_owner);
		return true;
	}
	if (s->asked_owner == s->client)
		client_give_failure(s, p->body);
	return false;
}

static void boot_lost(struct session *s)
{
	bool is_asking = s->has_client && s->asked.kd_type && s->asked_owner == s->client;

	if (!s->has_boot)
		return;
	if (is_asking)
		client_give_failure(s, s->asked.body);
	if (s->has_client && s->pending.kd_type == KD_PACKET_MANIPULATE && s->pending_owner == s->client)
		client_give_failure(s, s->pending.body);
	packet_forget(&s->asked);
	packet_forget(&s->pending);
	current_forget(s);
	if (s->has_client) {
		if (!s->is_lost_announced)
			client_give_notice(s);
		queue_put(s, ITEM_RESTART, 0, NULL, 0);
	}
	s->has_boot = false;
	s->is_lost_announced = false;
	s->last_seq = 0;
	pump(s);
}

void session_guest_registered(struct session *s)
{
	s->is_registered = true;
	s->guest_want = 0;
	s->is_resend_sent = false;
	if (!s->has_boot) {
		s->has_boot = true;
		s->counters.boots++;
	}
	if (s->is_breakin_kept || s->is_breakin_sent) {
		s->is_breakin_kept = false;
		s->is_breakin_sent = true;
		s->ops->guest_breakin(s->arg);
	}
}

void session_guest_gone(struct session *s, enum link_gone reason)
{
	s->is_registered = false;
	s->guest_want = 0;
	if (s->is_breakin_sent)
		s->is_breakin_kept = s->has_client;
	s->is_breakin_sent = false;
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

void session_tell(struct session *s, const char *text)
{
	uint8_t body[SESSION_BODY_MAX];
	size_t len = strlen(text), max = sizeof(body) - KD_DEBUG_IO_SIZE;
	struct kd_debug_io io = { .api = KD_DEBUG_IO_PRINT, .length = (uint32_t)(len < max ? len : max) };

	if (kd_debug_io_encode(&io, body, sizeof(body)) != KD_OK)
		return; // a header that does not fit into a body: cannot be
	memcpy(body + KD_DEBUG_IO_SIZE, text, io.length);
	client_give(s, ITEM_PRINT, KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + io.length);
}

static void take_print(struct session *s, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	if (kd_type == KD_PACKET_DEBUG_IO) {
		s->counters.prints++;
		history_put(s, body, body_len);
	}
	client_give(s, ITEM_PRINT, kd_type, body, body_len);
}

static void take_reply(struct session *s, const uint8_t *body, uint32_t body_len)
{
	bool is_wanted = s->asked.kd_type && get_le32(body) == get_le32(s->asked.body);
	bool has_reader = s->has_client && s->asked_owner == s->client;

	if (is_wanted)
		packet_forget(&s->asked);
	if (is_wanted && has_reader)
		client_give(s, ITEM_REPLY, KD_PACKET_MANIPULATE, body, body_len);
	else
		s->counters.replies_dropped++;
}

// A break-in that meets a kernel stopped for another reason has done its work; module loads go on by themselves.
static void breakin_meets_stop(struct session *s)
{
	if (!s->is_breakin_sent || s->current.kd_type != KD_PACKET_STATE_CHANGE || is_load_event(&s->current))
		return;
	s->is_breakin_sent = false;
	s->ops->guest_breakin_cancel(s->arg);
}

static void take_stop(struct session *s, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	bool is_repetition = s->asked.kd_type && kd_api_has_reply(get_le32(s->asked.body)) && s->is_current_told &&
			     s->current.kd_type == kd_type;

	packet_set(&s->current, kd_type, hdr_len, body, body_len);
	s->is_resend_sent = false;
	s->is_current_answered = false;
	s->is_lost_announced = is_farewell(&s->current);
	breakin_meets_stop(s);
	// The guest repeats its report because it lost a request: the client waits for the answer and knows the report.
	if (is_repetition)
		return;
	packet_forget(&s->asked);
	client_give_current(s);
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
	// Packets are numbered from 1 since the kernel started: it was restarted and nobody said so.
	if (seq == 1 && s->last_seq > 1) {
		boot_lost(s);
		session_guest_registered(s);
	}
	s->last_seq = seq;
	if (kd_type == KD_PACKET_MANIPULATE)
		take_reply(s, body, body_len);
	else if (type_that_answers(kd_type, body))
		take_stop(s, kd_type, hdr_len, body, body_len);
	else
		take_print(s, kd_type, body, body_len);
	if (waits_for)
		session_guest_waits(s, waits_for);
}

void session_guest_waits(struct session *s, uint16_t kd_type)
{
	s->guest_want = kd_type;
	breakin_meets_stop(s); // asked for while it was on its way back to this wait
	if (repeat_request(s))
		return;
	packet_forget(&s->asked); // it was one without an answer
	settle(s);
}

void session_guest_breakin_taken(struct session *s)
{
	s->is_breakin_sent = false;
}

// ---- From the client --------------------------------------------------------------------------------------

void session_client_came(struct session *s)
{
	s->has_client = true;
	s->client++;
	s->expected = 0;
	s->is_current_told = false;
	s->is_deaf = false;
	s->is_greeting_due = true;
	s->is_greeting_timed = false;
}

void session_client_left(struct session *s)
{
	s->has_client = false;
	s->is_greeting_due = false;
	s->client++;
	queue_clear(s);
	s->is_in_flight = false;
	s->is_notice_open = false;
	s->is_breakin_kept = false;
	s->is_current_told = false;
	attend_alone(s);
}

static void close_notice(struct session *s)
{
	s->is_notice_open = false;
	pump(s);
}

// The kernel that the client talks to is gone: only Continue makes sense to it.
static void answer_for_the_dead(struct session *s, const uint8_t *body)
{
	uint8_t reply[KD_MANIPULATE_SIZE];

	if (kd_api_resumes(get_le32(body)))
		close_notice(s);
	else if (!s->is_in_flight && make_failure(body, reply))
		client_send(s, ITEM_REPLY, KD_PACKET_MANIPULATE, reply, sizeof(reply)); // past the queue: that is the new boot's
}

void session_client_packet(struct session *s, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	uint32_t hdr_len = kd_header_size(kd_type);

	s->counters.client_packets++;
	s->counters.client_bytes += body_len;
	if (!hdr_len || body_len < hdr_len || body_len > SESSION_BODY_MAX || s->pending.kd_type || kd_type != s->expected) {
		s->counters.requests_refused++;
	} else if (s->is_notice_open) {
		answer_for_the_dead(s, body);
	} else if (s->guest_want == kd_type && !s->asked.kd_type) {
		if (!answer(s, kd_type, body, body_len))
			deliver(s, kd_type, (uint16_t)hdr_len, body, body_len, s->client);
		update_expected(s);
	} else {
		packet_set(&s->pending, kd_type, (uint16_t)hdr_len, body, body_len);
		s->pending_owner = s->client;
		s->is_current_answered = ends_stop(kd_type, body);
		update_expected(s);
	}
}

void session_client_sent(struct session *s)
{
	s->is_deaf = false;
	s->is_in_flight = false;
	pump(s);
}

void session_client_given_up(struct session *s)
{
	s->is_deaf = true;
	s->is_in_flight = false;
	s->is_notice_open = false;
	attend_alone(s);
	pump(s);
}

void session_client_reset(struct session *s)
{
	bool keeps_flight = s->is_in_flight && (s->in_flight_kind == ITEM_PRINT ||
						(s->in_flight_kind == ITEM_CURRENT && s->is_current_told));

	s->client++; // an answer that is still to come was for the time before
	s->is_deaf = false;
	s->is_greeting_due = false;
	s->is_notice_open = false;
	queue_drop(s, ITEM_REPLY);
	queue_drop(s, ITEM_NOTICE);
	if (s->is_in_flight && !keeps_flight) {
		s->is_in_flight = false;
		s->ops->client_cancel(s->arg);
	}
	if (has_current_to_tell(s) && !(keeps_flight && s->in_flight_kind == ITEM_CURRENT))
		client_give_current(s);
	else
		pump(s);
}

void session_client_resend(struct session *s)
{
	if (has_current_to_tell(s) && !session_awaits_reply(s))
		client_give_current(s);
}

// It has registered anew and not come back to its wait, so it may be one that runs: of a snapshot, which was loaded while another time of
// this guest was stopped.
static bool may_have_left_its_wait(const struct session *s)
{
	return !s->guest_want && !s->asked.kd_type;
}

void session_client_breakin(struct session *s)
{
	s->counters.breakins++;
	s->is_deaf = false;
	if (!s->is_registered) {
		s->is_breakin_kept = true;
	} else if (!s->current.kd_type || is_load_event(&s->current) || may_have_left_its_wait(s)) {
		s->is_breakin_sent = true;
		s->ops->guest_breakin(s->arg);
	}
}

bool session_owes_client(const struct session *s)
{
	return s->has_client && !s->is_deaf && (s->queue || s->is_in_flight);
}

bool session_awaits_reply(const struct session *s)
{
	return s->has_client && s->asked.kd_type && s->asked_owner == s->client && kd_api_has_reply(get_le32(s->asked.body));
}

// ---- Time --------------------------------------------------------------------------------------------------

static void greeting_timer(struct session *s, uint64_t now_ms)
{
	if (!s->is_greeting_due)
		return;
	if (!s->is_greeting_timed) {
		s->is_greeting_timed = true;
		s->greeting_at_ms = now_ms + SESSION_GREETING_MS;
	} else if (now_ms >= s->greeting_at_ms) {
		s->is_greeting_due = false;
		if (has_current_to_tell(s))
			client_give_current(s);
	}
}

static bool is_notice_read(const struct session *s)
{
	return s->is_notice_open && !s->is_in_flight;
}

static void notice_timer(struct session *s, uint64_t now_ms)
{
	if (!is_notice_read(s))
		return;
	if (!s->is_notice_timed) {
		s->is_notice_timed = true;
		s->notice_until_ms = now_ms + SESSION_NOTICE_MS;
	} else if (now_ms >= s->notice_until_ms) {
		close_notice(s);
	}
}

void session_timer(struct session *s, uint64_t now_ms)
{
	greeting_timer(s, now_ms);
	notice_timer(s, now_ms);
}

uint64_t session_deadline(const struct session *s)
{
	uint64_t greeting = !s->is_greeting_due ? UINT64_MAX : s->is_greeting_timed ? s->greeting_at_ms : 0;
	uint64_t notice = !is_notice_read(s) ? UINT64_MAX : s->is_notice_timed ? s->notice_until_ms : 0;

	return greeting < notice ? greeting : notice;
}
