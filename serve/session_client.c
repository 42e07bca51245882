// SPDX-License-Identifier: MIT
// What waits for one client.
#include <stdlib.h>
#include <string.h>

#include "serve/session_private.h"
#include "wire/le.h"

// A kernel cuts a print at 512 bytes (KD reference, section 5.1), so clients need not take more.
#define PRINT_MAX 512u

// ---- The queue ----------------------------------------------------------------------------------------------

static struct session_item *queue_unlink(struct session_client *c, struct session_item **at)
{
	struct session_item *item = *at;

	*at = item->next;
	if (!item->next)
		c->queue_end = at;
	c->queue_len -= item->body_len;
	return item;
}

static bool is_question(const struct session_item *item)
{
	return item->kind == ITEM_STOP && item->kd_type != KD_PACKET_STATE_CHANGE && item->kd_type != KD_PACKET_STATE_CHANGE32;
}

static bool is_load(const struct session_item *item)
{
	return item->kind == ITEM_STOP && session_is_load_event(item->kd_type, item->body);
}

static bool is_other_stop(const struct session_item *item)
{
	return item->kind == ITEM_STOP && !is_load(item);
}

static bool is_stop(const struct session_item *item)
{
	return item->kind == ITEM_STOP;
}

static bool is_print(const struct session_item *item)
{
	return item->kind == ITEM_PRINT;
}

static bool is_notice(const struct session_item *item)
{
	return item->kind == ITEM_NOTICE;
}

static bool is_restart(const struct session_item *item)
{
	return item->kind == ITEM_RESTART;
}

static void queue_drop(struct session_client *c, bool (*is_meant)(const struct session_item *item))
{
	struct session_item **at = &c->queue;

	while (*at) {
		if (is_meant(*at))
			free(queue_unlink(c, at));
		else
			at = &(*at)->next;
	}
}

// Drop the oldest of these until `len` more bytes fit. -> how many were dropped.
static uint64_t queue_shrink(struct session_client *c, uint32_t len, bool (*is_meant)(const struct session_item *item))
{
	struct session_item **at = &c->queue;
	uint64_t dropped = 0;

	while (*at && c->queue_len + len > SESSION_QUEUE_MAX) {
		if (is_meant(*at)) {
			free(queue_unlink(c, at));
			dropped++;
		} else {
			at = &(*at)->next;
		}
	}
	return dropped;
}

// What else is in the queue is bounded by its nature: one of a kind.
static void queue_make_room(struct session_client *c, uint32_t len)
{
	struct session_counters *counters = &c->session->counters;

	counters->prints_dropped += queue_shrink(c, len, is_print);
	counters->events_dropped += queue_shrink(c, len, is_load);
}

static struct session_item *item_create(enum session_item_kind kind, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	struct session_item *item = malloc(sizeof(*item) + body_len);

	if (!item)
		return NULL;
	*item = (struct session_item){ .kind = kind, .kd_type = kd_type, .body_len = body_len };
	if (body_len)
		memcpy(item->body, body, body_len);
	return item;
}

static struct session_item *queue_put(struct session_client *c, enum session_item_kind kind, uint16_t kd_type, const uint8_t *body,
				      uint32_t body_len)
{
	struct session_item *item;

	queue_make_room(c, body_len);
	item = item_create(kind, kd_type, body, body_len);
	if (!item) {
		c->session->counters.prints_dropped += kind == ITEM_PRINT;
		return NULL;
	}
	*c->queue_end = item;
	c->queue_end = &item->next;
	c->queue_len += body_len;
	return item;
}

void client_clear(struct session_client *c)
{
	while (c->queue)
		free(queue_unlink(c, &c->queue));
	free(c->reply);
	c->reply = NULL;
}

// ---- Sending ------------------------------------------------------------------------------------------------

static void update_expected(struct session_client *c)
{
	uint16_t want = 0;

	if (c->is_gone)
		return;
	if (c->is_notice_open)
		want = KD_PACKET_MANIPULATE;
	else if (!c->pending.kd_type)
		want = c->believes;
	if (want == c->expected)
		return;
	c->expected = want;
	c->session->ops->client_expect(c->closure, want);
}

static void send_packet(struct session_client *c, enum session_item_kind kind, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	c->is_in_flight = true;
	c->in_flight_kind = kind;
	// The rest is repeated until the client hears it, as a kernel does.
	c->session->ops->client_send(c->closure, kd_type, body, body_len, kd_is_droppable(kd_type, body, body_len));
}

static void send_stop(struct session_client *c, uint32_t stop, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	c->told = stop;
	c->believes = session_type_that_answers(kd_type, body);
	c->is_refusal_told = false;
	send_packet(c, ITEM_STOP, kd_type, body, body_len);
}

static void send_item(struct session_client *c, const struct session_item *item)
{
	switch (item->kind) {
	case ITEM_RESTART:
		c->session->ops->client_restart(c->closure);
		c->expected = 0; // the restart has forgotten what was expected: say it again, though it be the same
		break;
	case ITEM_STOP:
		send_stop(c, item->stop, item->kd_type, item->body, item->body_len);
		break;
	case ITEM_NOTICE:
		c->is_notice_open = true;
		c->is_notice_timed = false;
		send_packet(c, ITEM_NOTICE, item->kd_type, item->body, item->body_len);
		break;
	default:
		send_packet(c, item->kind, item->kd_type, item->body, item->body_len);
	}
}

static bool is_queue_held(const struct session_client *c)
{
	return c->is_gone || c->is_in_flight || c->is_notice_open || c->is_greeting_due || c->believes;
}

void client_pump(struct session_client *c)
{
	if (c->reply && !c->is_in_flight) {
		struct session_item *reply = c->reply;

		c->reply = NULL;
		send_item(c, reply);
		free(reply);
	}
	while (c->queue && !is_queue_held(c)) {
		struct session_item *item = queue_unlink(c, &c->queue);

		send_item(c, item);
		free(item);
	}
	update_expected(c);
}

// Nothing waits before it: that is the way of almost everything, and it copies nothing.
static bool can_send(const struct session_client *c)
{
	return !c->queue && !c->reply && !is_queue_held(c);
}

// stop: of the prompt that it is the text of; 0 = a print.
static void give_words(struct session_client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len, uint32_t stop)
{
	struct session_item *item;

	if (c->is_gone)
		return;
	if (can_send(c)) {
		send_packet(c, ITEM_PRINT, kd_type, body, body_len);
		return;
	}
	item = queue_put(c, ITEM_PRINT, kd_type, body, body_len);
	if (item)
		item->stop = stop;
	client_pump(c);
}

void client_give_print(struct session_client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	give_words(c, kd_type, body, body_len, 0);
}

void client_give_reply(struct session_client *c, const uint8_t *body, uint32_t body_len)
{
	if (!c->is_in_flight) {
		send_packet(c, ITEM_REPLY, KD_PACKET_MANIPULATE, body, body_len);
		return;
	}
	free(c->reply); // of a client that asks before it has heard
	c->reply = item_create(ITEM_REPLY, KD_PACKET_MANIPULATE, body, body_len);
}

// -> false: this one has no reply.
static bool make_failure(const uint8_t *request, uint32_t status, uint8_t reply[KD_MANIPULATE_SIZE])
{
	uint32_t api = get_le32(request);

	if (!kd_api_has_reply(api))
		return false;
	memcpy(reply, request, KD_MANIPULATE_SIZE);
	put_le32(reply + MANIPULATE_OFFSET_STATUS, status);
	if (kd_api_layout(api) == KD_LAYOUT_MEMORY)
		put_le32(reply + MANIPULATE_OFFSET_ACTUAL, 0);
	return true;
}

void client_give_failure(struct session_client *c, const uint8_t *request, uint32_t status)
{
	uint8_t reply[KD_MANIPULATE_SIZE];

	if (make_failure(request, status, reply))
		client_give_reply(c, reply, sizeof(reply));
}

// ---- Stops ----------------------------------------------------------------------------------------------------

static bool waits_in_queue(const struct session_client *c, enum session_item_kind kind, uint32_t stop)
{
	for (const struct session_item *item = c->queue; item; item = item->next)
		if (item->kind == kind && item->stop == stop)
			return true;
	return false;
}

// To an observer a prompt is text. body: a whole DBGKD_DEBUG_IO header at least.
static void give_prompt_as_print(struct session_client *c, const struct session_packet *p)
{
	uint8_t body[SESSION_BODY_MAX];
	uint32_t text_len = p->body_len - KD_DEBUG_IO_SIZE;

	memcpy(body, p->body, p->body_len);
	put_le32(body, KD_DEBUG_IO_PRINT);
	if (get_le32(body + DEBUG_IO_OFFSET_LENGTH) > text_len)
		put_le32(body + DEBUG_IO_OFFSET_LENGTH, text_len);
	give_words(c, p->kd_type, body, p->body_len, c->session->stop);
	c->shown = c->session->stop; // not `told`: it may sit at another one, and has no answer to this
}

static void give_stop(struct session_client *c)
{
	const struct session *s = c->session;
	const struct session_packet *p = &s->current;
	struct session_item *item;

	if (can_send(c)) {
		send_stop(c, s->stop, p->kd_type, p->body, p->body_len);
	} else {
		if (!session_is_load_event(p->kd_type, p->body))
			queue_drop(c, is_other_stop); // of those the latest is enough
		item = queue_put(c, ITEM_STOP, p->kd_type, p->body, p->body_len);
		if (item)
			item->stop = s->stop;
	}
	client_pump(c);
}

void client_give_current(struct session_client *c)
{
	const struct session *s = c->session;
	bool is_question = session_type_that_answers(s->current.kd_type, s->current.body) != KD_PACKET_MANIPULATE;

	if (c->is_gone || waits_in_queue(c, ITEM_STOP, s->stop))
		return;
	if (!is_question || c == s->controller)
		give_stop(c);
	else if (s->current.kd_type == KD_PACKET_DEBUG_IO && !waits_in_queue(c, ITEM_PRINT, s->stop))
		give_prompt_as_print(c, &s->current);
}

void client_drop_questions(struct session_client *c)
{
	queue_drop(c, is_question);
}

void client_goes_on(struct session_client *c)
{
	c->believes = 0;
	client_pump(c);
}

// ---- The end of a boot --------------------------------------------------------------------------------------------

// The guest was reset without a word: what a kernel says before it reboots (KD reference, sections 1.11 and 3.3).
static void put_notice(struct session_client *c)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };

	put_le32(body + STATE_OFFSET_NEW_STATE, KD_STATE_LOAD_SYMBOLS);
	put_le16(body + 4, 6);  // ProcessorLevel, a plausible family
	put_le32(body + 8, 1);  // NumberProcessors
	put_le64(body + STATE_OFFSET_BASE, KD_BASE_REBOOT);
	body[STATE_OFFSET_UNLOAD] = 1;
	queue_drop(c, is_notice);
	queue_put(c, ITEM_NOTICE, KD_PACKET_STATE_CHANGE, body, sizeof(body));
}

void client_give_loss(struct session_client *c, bool is_known)
{
	if (c->is_gone)
		return;
	c->believes = 0;
	queue_drop(c, is_stop);
	if (!is_known)
		put_notice(c);
	queue_drop(c, is_restart);
	queue_put(c, ITEM_RESTART, 0, NULL, 0);
	client_pump(c);
}

static void close_notice(struct session_client *c)
{
	c->is_notice_open = false;
	client_pump(c);
}

// The kernel that the client talks to is gone: only Continue makes sense to it.
void client_answer_for_the_dead(struct session_client *c, const uint8_t *body)
{
	if (kd_api_resumes(get_le32(body)))
		close_notice(c);
	else
		client_give_failure(c, body, KD_STATUS_UNSUCCESSFUL);
}

// ---- Text -----------------------------------------------------------------------------------------------------------

static void give_text(struct session_client *c, const uint8_t *text, size_t len)
{
	uint8_t body[SESSION_BODY_MAX];
	size_t max = sizeof(body) - KD_DEBUG_IO_SIZE;
	struct kd_debug_io io = { .api = KD_DEBUG_IO_PRINT, .length = (uint32_t)(len < max ? len : max) };

	if (kd_debug_io_encode(&io, body, sizeof(body)) != KD_OK)
		return; // a header that does not fit into a body: cannot be
	memcpy(body + KD_DEBUG_IO_SIZE, text, io.length);
	client_give_print(c, KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + io.length);
}

void session_tell(struct session_client *c, const char *text)
{
	give_text(c, (const uint8_t *)text, strlen(text));
}

// The lines, or as much of one as a print holds.
static size_t print_len(const uint8_t *text, size_t len)
{
	size_t n = len < PRINT_MAX ? len : PRINT_MAX;

	if (n == len)
		return n;
	while (n && text[n - 1] != '\n')
		n--;
	return n ? n : PRINT_MAX;
}

// Only whole lines, where there are any.
static void cut_front(const uint8_t **text, size_t *len)
{
	const uint8_t *start, *line;

	if (*len <= SESSION_HISTORY_TOLD)
		return;
	start = *text + *len - SESSION_HISTORY_TOLD;
	line = memchr(start - 1, '\n', SESSION_HISTORY_TOLD);
	start = line ? line + 1 : start;
	*len -= (size_t)(start - *text);
	*text = start;
}

void client_give_history(struct session_client *c, const uint8_t *text, size_t len)
{
	bool is_open_ended = len && text[len - 1] != '\n';

	if (!len || c->is_gone)
		return;
	cut_front(&text, &len);
	session_tell(c, "vmkd: what the guest printed before:\n");
	for (size_t n; len; text += n, len -= n) {
		n = print_len(text, len);
		give_text(c, text, n);
	}
	session_tell(c, is_open_ended ? "\nvmkd: and from now on:\n" : "vmkd: and from now on:\n");
}

// ---- Coming and going -------------------------------------------------------------------------------------------------

struct session_client *session_client_came(struct session *s, void *closure)
{
	struct session_client *c, **at = &s->clients;

	if (s->client_count >= SESSION_CLIENTS_MAX)
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->session = s;
	c->closure = closure;
	c->queue_end = &c->queue;
	c->is_greeting_due = true; // so far everything waits
	breakpoints_client_init(&c->breakpoints);
	while (*at)
		at = &(*at)->next;
	*at = c;
	s->client_count++;
	if (s->history.len)
		client_give_history(c, buf_data(&s->history), s->history.len);
	control_take_free(c);
	if (s->is_announced && session_has_current(s))
		client_give_current(c);
	c->is_greeting_due = c->queue != NULL;
	return c;
}

static bool is_notice_sent(const struct session_client *c)
{
	return c->is_in_flight && c->in_flight_kind == ITEM_NOTICE;
}

// KDCOM repeats it under the new id. A notice, too: the client may have read it already, and what it says to it must not be taken for an answer to
// the stop behind it.
static bool keeps_flight(const struct session_client *c)
{
	return c->is_in_flight && (c->in_flight_kind == ITEM_PRINT || is_notice_sent(c) || (c->in_flight_kind == ITEM_STOP && c->believes));
}

void session_client_reset(struct session_client *c)
{
	struct session *s = c->session;
	bool is_kept = keeps_flight(c);

	if (s->asked_by == c)
		s->is_asked_wanted = false; // an answer that is still to come was for the time before
	c->is_pending_wanted = false;
	c->is_deaf = c->is_greeting_due = false;
	c->is_notice_open = is_notice_sent(c);
	free(c->reply);
	c->reply = NULL;
	queue_drop(c, is_notice);
	if (c->is_in_flight && !is_kept) {
		c->is_in_flight = false;
		s->ops->client_cancel(c->closure);
	}
	if (is_kept && c->in_flight_kind != ITEM_PRINT)
		return;
	c->believes = 0;
	if (s->is_announced && session_has_current(s))
		client_give_current(c);
	client_pump(c);
}

void session_client_resend(struct session_client *c)
{
	const struct session *s = c->session;

	if (!s->is_announced || !session_has_current(s) || session_awaits_reply(c) || c->pending.kd_type || c->is_notice_open)
		return;
	c->believes = 0;
	client_give_current(c);
	client_pump(c); // what waited behind the stop that it has forgotten
}

void session_client_sent(struct session_client *c)
{
	c->is_deaf = false;
	c->is_in_flight = false;
	client_pump(c);
}

void session_client_given_up(struct session_client *c)
{
	c->is_deaf = true;
	c->is_in_flight = false;
	c->is_notice_open = false;
	if (c->in_flight_kind == ITEM_STOP)
		c->believes = c->told = 0;
	session_settle(c->session);
	client_pump(c);
}

// ---- What is shown of it ----------------------------------------------------------------------------------------------

bool session_owes_client(const struct session_client *c)
{
	return !c->is_deaf && (c->is_in_flight || c->reply || (c->queue && !c->believes));
}

size_t session_backlog(const struct session_client *c)
{
	return c->believes ? 0 : c->queue_len;
}

bool session_is_at_stop(const struct session_client *c)
{
	return c->believes != 0;
}

// ---- Time ---------------------------------------------------------------------------------------------------------------

static void greeting_timer(struct session_client *c, uint64_t now_ms)
{
	if (!c->is_greeting_due)
		return;
	if (!c->is_greeting_timed) {
		c->is_greeting_timed = true;
		c->greeting_at_ms = now_ms + SESSION_GREETING_MS;
	} else if (now_ms >= c->greeting_at_ms) {
		c->is_greeting_due = false;
		client_pump(c);
	}
}

static bool is_notice_read(const struct session_client *c)
{
	return c->is_notice_open && !c->is_in_flight;
}

static void notice_timer(struct session_client *c, uint64_t now_ms)
{
	if (!is_notice_read(c))
		return;
	if (!c->is_notice_timed) {
		c->is_notice_timed = true;
		c->notice_until_ms = now_ms + SESSION_NOTICE_MS;
	} else if (now_ms >= c->notice_until_ms) {
		close_notice(c);
	}
}

void client_timer(struct session_client *c, uint64_t now_ms)
{
	greeting_timer(c, now_ms);
	notice_timer(c, now_ms);
}

uint64_t client_deadline(const struct session_client *c)
{
	uint64_t greeting = !c->is_greeting_due ? UINT64_MAX : c->is_greeting_timed ? c->greeting_at_ms : 0;
	uint64_t notice = !is_notice_read(c) ? UINT64_MAX : c->is_notice_timed ? c->notice_until_ms : 0;

	return greeting < notice ? greeting : notice;
}
