// SPDX-License-Identifier: MIT
// Hostile debuggers and a hostile guest on one session, through real KDCOM framing: the bytes of the input decide who does what.
// Besides memory errors it looks for broken promises: two packets in flight, memory without bound, a request given twice at once, a word to a client that
// has left, a request that waits though the guest does, or for a stop that is over.
#include <stdlib.h>
#include <string.h>

#include "serve/session_private.h"
#include "wire/kdcom.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLIENTS 4u

struct world;

struct debugger {
	struct world *world;
	struct session_client *client; // NULL = not there
	struct kdcom kdcom;
};

struct world {
	struct session session;
	struct debugger debuggers[CLIENTS];
	uint64_t now;
	uint32_t seq;
	unsigned outstanding; // requests the guest was given and has not answered or come back from
	unsigned own_questions;
	bool is_own_asked;
};

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void op_deliver(void *arg, uint16_t type, uint16_t hdr_len, const uint8_t *body, uint32_t len, bool resumes)
{
	struct world *w = arg;

	(void)resumes;
	(void)body;
	require(hdr_len && hdr_len == kd_header_size(type) && hdr_len <= len && len <= SESSION_BODY_MAX);
	require(w->outstanding == 0); // the guest waits before it is given anything
	w->outstanding++;
}

static void op_nothing(void *arg)
{
	(void)arg;
}

// RAM knows some: never while the guest has a question, or is away.
static bool op_answer(void *arg, const uint8_t *body, uint32_t len, const uint8_t **ret, uint32_t *ret_len)
{
	static uint8_t reply[SESSION_BODY_MAX];
	struct world *w = arg;

	require(len >= KD_MANIPULATE_SIZE && len <= SESSION_BODY_MAX);
	require(w->outstanding == 0);
	if (body[KD_MANIPULATE_SIZE - 1] & 1)
		return false;
	memcpy(reply, body, len);
	*ret = reply;
	*ret_len = body[KD_MANIPULATE_SIZE - 1] & 2 ? SESSION_BODY_MAX : len;
	return true;
}

static uint32_t op_own_request(void *arg, uint8_t *body)
{
	struct world *w = arg;

	require(!w->is_own_asked);
	if (!w->own_questions)
		return 0;
	w->own_questions--;
	w->is_own_asked = true;
	memset(body, (int)w->own_questions, KD_MANIPULATE_SIZE);
	put_le32(body, w->own_questions % 3 ? KD_API_READ_VIRTUAL : KD_API_GET_VERSION);
	return KD_MANIPULATE_SIZE + w->own_questions % 2;
}

static void op_own_reply(void *arg, const uint8_t *body, uint32_t len)
{
	struct world *w = arg;

	require(w->is_own_asked);
	require(len == 0 || len >= KD_MANIPULATE_SIZE);
	w->is_own_asked = false;
	session_history_complete(&w->session, len / 3, body, len, len / 2);
}

static void op_send(void *closure, uint16_t type, const uint8_t *body, uint32_t len, bool is_droppable)
{
	struct debugger *d = closure;
	uint32_t hdr_len = kd_header_size(type);

	require(d->client != NULL);
	require(!kdcom_is_sending(&d->kdcom));
	require(hdr_len && hdr_len <= len);
	if (kdcom_send(&d->kdcom, type, body, hdr_len, body + hdr_len, len - hdr_len, is_droppable ? KDCOM_SEND_DROPPABLE : 0))
		abort(); // output is emptied after every step
}

static void op_expect(void *closure, uint16_t type)
{
	struct debugger *d = closure;

	require(d->client != NULL);
	kdcom_expect(&d->kdcom, type);
}

static void op_restart(void *closure)
{
	struct debugger *d = closure;

	require(d->client != NULL);
	kdcom_restart(&d->kdcom);
}

static void op_cancel(void *closure)
{
	struct debugger *d = closure;

	require(d->client != NULL);
	kdcom_cancel(&d->kdcom);
}

static const struct session_ops ops = {
	.guest_deliver = op_deliver,
	.guest_breakin = op_nothing,
	.guest_breakin_cancel = op_nothing,
	.guest_resend = op_nothing,
	.answer = op_answer,
	.own_request = op_own_request,
	.own_reply = op_own_reply,
	.client_send = op_send,
	.client_expect = op_expect,
	.client_restart = op_restart,
	.client_cancel = op_cancel,
};

static void handle(struct debugger *d, const struct kdcom_event *ev)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		if (ev->is_lost)
			session_client_sent(d->client);
		session_client_packet(d->client, ev->type, ev->body, ev->body_len);
		break;
	case KDCOM_EV_SENT:
		session_client_sent(d->client);
		break;
	case KDCOM_EV_GIVEN_UP:
		session_client_given_up(d->client);
		break;
	case KDCOM_EV_RESET:
		session_client_reset(d->client);
		break;
	case KDCOM_EV_RESEND_REQUEST:
		session_client_resend(d->client);
		break;
	case KDCOM_EV_BREAKIN:
		session_client_breakin(d->client);
		break;
	default:
		break;
	}
}

static void empty_outputs(struct world *w)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		const uint8_t *bytes;
		size_t len;

		kdcom_output(&w->debuggers[i].kdcom, &bytes, &len);
		kdcom_output_consume(&w->debuggers[i].kdcom, len);
	}
}

static void client_bytes(struct debugger *d, const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev;
	size_t used;

	if (!d->client)
		return;
	do {
		kdcom_feed(&d->kdcom, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		handle(d, &ev);
		empty_outputs(d->world);
	} while (ev.kind != KDCOM_EV_NONE);
}

// A well-framed packet, so that the fuzzer need not find checksums.
static void client_frame(struct debugger *d, uint16_t type, const uint8_t *body, uint32_t len)
{
	static struct kdcom debugger;
	uint32_t hdr_len = kd_header_size(type);
	const uint8_t *bytes;
	size_t count;

	if (!hdr_len || len < hdr_len)
		return;
	kdcom_init(&debugger, KDCOM_DEBUGGER);
	debugger.next_id = d->kdcom.expected_id;
	if (kdcom_send(&debugger, type, body, hdr_len, body + hdr_len, len - hdr_len, 0) != KDCOM_OK)
		abort();
	kdcom_output(&debugger, &bytes, &count);
	client_bytes(d, bytes, count);
}

static void client_ack(struct debugger *d)
{
	uint8_t frame[KDCOM_HEAD] = { 0x69, 0x69, 0x69, 0x69, KDCOM_ACK };
	uint32_t id = d->kdcom.next_id & ~KDCOM_ID_SYNC;

	memcpy(frame + 8, &id, 4);
	client_bytes(d, frame, sizeof(frame));
}

// What it asks has an API number that exists, and is of what it was told to ask.
static void client_request(struct debugger *d, uint8_t how, uint8_t *body, uint32_t len)
{
	uint16_t type = d->kdcom.want ? d->kdcom.want : KD_PACKET_MANIPULATE;

	if (type == KD_PACKET_MANIPULATE)
		put_le32(body, KD_API_READ_VIRTUAL + how % 0x31u);
	client_frame(d, type, body, kd_header_size(type) + len % 64);
}

static void guest_packet(struct world *w, uint16_t type, const uint8_t *body, uint32_t len, uint16_t waits)
{
	if (waits)
		w->outstanding = 0;
	session_guest_packet(&w->session, ++w->seq, type, (uint16_t)kd_header_size(type), body, len, waits);
}

// The answer to what it was asked, or a report, as a kernel would send them.
static void guest_does(struct world *w, uint8_t how, uint8_t *body, uint32_t len)
{
	const struct session *s = &w->session;

	if (s->asked.kd_type) {
		put_le32(body, get_le32(s->asked.body));
		guest_packet(w, KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE + len % 16, KD_PACKET_MANIPULATE);
	} else if (how & 1) {
		put_le32(body, how & 2 ? KD_STATE_LOAD_SYMBOLS : KD_STATE_EXCEPTION);
		guest_packet(w, KD_PACKET_STATE_CHANGE, body, KD_STATE_CHANGE_SIZE + len % 16, KD_PACKET_MANIPULATE);
	} else {
		put_le32(body, how & 2 ? KD_DEBUG_IO_PRINT : KD_DEBUG_IO_PROMPT);
		guest_packet(w, KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + len % 64, how & 2 ? 0 : KD_PACKET_DEBUG_IO);
	}
}

static void turn(struct world *w, uint32_t ms)
{
	w->now += ms;
	session_timer(&w->session, w->now);
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct debugger *d = &w->debuggers[i];
		struct kdcom_event ev;

		if (!d->client)
			continue;
		kdcom_timer(&d->kdcom, w->now, &ev);
		handle(d, &ev);
	}
	empty_outputs(w);
}

static void come(struct debugger *d)
{
	if (d->client)
		return;
	kdcom_init(&d->kdcom, KDCOM_TARGET);
	d->client = session_client_came(&d->world->session, d);
	require(d->client || d->world->session.client_count == SESSION_CLIENTS_MAX);
}

static void leave(struct debugger *d)
{
	struct session_client *c = d->client;

	d->client = NULL;
	if (c)
		session_client_left(c);
}

static void control(struct debugger *d, uint8_t how)
{
	struct session *s = &d->world->session;

	if (how & 1)
		session_control_give(s, how & 2 ? d->client : NULL);
	else if (d->client)
		require(session_control_take(d->client, how & 2) == SESSION_CONTROL_HELD || session_controller(s) == d->client);
}

static void step(struct world *w, uint8_t what, uint8_t how, const uint8_t *bytes, uint32_t len)
{
	static const uint16_t types[] = { 1, 2, 3, 7, 9, 10, 11, 99 }, waits[] = { 0, 2, 3, 11 };
	struct debugger *d = &w->debuggers[what >> 5 & (CLIENTS - 1)];
	uint8_t body[KD_STATE_CHANGE_SIZE + 256] = { 0 };
	uint16_t type = types[how & 7];

	memcpy(body, bytes, len);
	switch (what & 31) {
	case 0: client_bytes(d, bytes, len); break;
	case 1: client_frame(d, type, body, kd_header_size(type) + len % 64); break;
	case 2: client_ack(d); break;
	case 3: guest_packet(w, type, body, kd_header_size(type) + len % 16, waits[how >> 3 & 3]); break;
	case 4: guest_packet(w, type, bytes, len, waits[how >> 3 & 3]); break;
	case 5: w->outstanding = 0; session_guest_waits(&w->session, waits[1 + how % 3]); break;
	case 6: w->outstanding = 0; session_guest_gone(&w->session, 1 + how % 5); break;
	case 7: session_guest_registered(&w->session); break;
	case 8: session_guest_breakin_taken(&w->session); break;
	case 9: leave(d); break;
	case 10: come(d); break;
	case 11: turn(w, how * 16u); break;
	case 12: w->seq = how & 1 ? 0 : w->seq / 2; break;
	case 13: control(d, how); break;
	case 14: w->own_questions = how & 7; break;
	case 15: client_bytes(d, (const uint8_t *)"iiii\6\0\0\0\0\0\0\0\0\0\0\0", KDCOM_HEAD); break;
	case 16: session_tell_all(&w->session, "a line\n"); break;
	case 17: case 18: case 19: case 20: guest_does(w, how, body, len); break;
	default: client_request(d, how, body, len); break;
	}
	empty_outputs(w);
	turn(w, 0);
}

static void check(const struct world *w)
{
	const struct session *s = &w->session;
	unsigned count = 0;

	for (const struct session_client *c = s->clients; c; c = c->next) {
		require(c->queue_len <= SESSION_QUEUE_MAX + 4 * SESSION_BODY_MAX);
		require(c->is_gone <= (c->pending.kd_type != 0));
		// Neither one's request waits while the guest does, nor longer than there is a stop.
		require(!c->pending.kd_type || s->asked.kd_type || s->own.kd_type || s->guest_want != c->pending.kd_type);
		require(!c->pending.kd_type || s->current.kd_type);
		count++;
	}
	require(count == s->client_count && count <= SESSION_CLIENTS_MAX);
	require(!s->controller || !s->controller->is_gone);
	require(s->history.len <= SESSION_HISTORY_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		return 0;
	session_init(&w->session, &ops, w);
	for (unsigned i = 0; i < CLIENTS; i++)
		w->debuggers[i].world = w;
	while (size >= 3) {
		uint32_t len = data[2];

		if (len > size - 3)
			len = (uint32_t)(size - 3);
		step(w, data[0], data[1], data + 3, len);
		data += 3 + len;
		size -= 3 + len;
		check(w);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		leave(&w->debuggers[i]);
	session_deinit(&w->session);
	free(w);
	return 0;
}
