// SPDX-License-Identifier: MIT
// A hostile debugger and a hostile guest on one session, through real KDCOM framing: the bytes of the input decide who does what.
// Besides memory errors it looks for broken promises: two packets in flight, memory without bound, a request given twice at once.
#include <stdlib.h>
#include <string.h>

#include "serve/session.h"
#include "wire/kdapi.h"
#include "wire/kdcom.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	struct session session;
	struct kdcom kdcom;
	uint64_t now;
	uint32_t seq;
	unsigned outstanding; // requests the guest was given and has not answered or come back from
};

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void op_deliver(void *arg, uint16_t type, uint16_t hdr_len, const uint8_t *body, uint32_t len, bool resumes)
{
	struct world *w = arg;

	(void)body;
	(void)resumes;
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

static void op_send(void *arg, uint16_t type, const uint8_t *body, uint32_t len, bool is_droppable)
{
	struct world *w = arg;
	uint32_t hdr_len = kd_header_size(type);

	require(!kdcom_is_sending(&w->kdcom));
	require(hdr_len && hdr_len <= len);
	if (kdcom_send(&w->kdcom, type, body, hdr_len, body + hdr_len, len - hdr_len, is_droppable ? KDCOM_SEND_DROPPABLE : 0))
		abort(); // output is emptied after every step
}

static void op_expect(void *arg, uint16_t type)
{
	kdcom_expect(&((struct world *)arg)->kdcom, type);
}

static void op_restart(void *arg)
{
	kdcom_restart(&((struct world *)arg)->kdcom);
}

static void op_cancel(void *arg)
{
	kdcom_cancel(&((struct world *)arg)->kdcom);
}

static const struct session_ops ops = {
	op_deliver, op_nothing, op_nothing, op_nothing, op_answer, op_send, op_expect, op_restart, op_cancel,
};

static void handle(struct world *w, const struct kdcom_event *ev)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		if (ev->is_lost)
			session_client_sent(&w->session);
		session_client_packet(&w->session, ev->type, ev->body, ev->body_len);
		break;
	case KDCOM_EV_SENT:
		session_client_sent(&w->session);
		break;
	case KDCOM_EV_GIVEN_UP:
		session_client_given_up(&w->session);
		break;
	case KDCOM_EV_RESET:
		session_client_reset(&w->session);
		break;
	case KDCOM_EV_RESEND_REQUEST:
		session_client_resend(&w->session);
		break;
	case KDCOM_EV_BREAKIN:
		session_client_breakin(&w->session);
		break;
	default:
		break;
	}
}

static void empty_output(struct world *w)
{
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&w->kdcom, &bytes, &len);
	kdcom_output_consume(&w->kdcom, len);
}

static void client_bytes(struct world *w, const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev;
	size_t used;

	if (!w->session.has_client)
		return;
	do {
		kdcom_feed(&w->kdcom, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		handle(w, &ev);
		empty_output(w);
	} while (ev.kind != KDCOM_EV_NONE);
}

// A well-framed packet, so that the fuzzer need not find checksums.
static void client_frame(struct world *w, uint16_t type, const uint8_t *body, uint32_t len)
{
	static struct kdcom debugger;
	uint32_t hdr_len = kd_header_size(type);
	const uint8_t *bytes;
	size_t count;

	if (!hdr_len || len < hdr_len)
		return;
	kdcom_init(&debugger, KDCOM_DEBUGGER);
	debugger.next_id = w->kdcom.expected_id;
	if (kdcom_send(&debugger, type, body, hdr_len, body + hdr_len, len - hdr_len, 0) != KDCOM_OK)
		abort();
	kdcom_output(&debugger, &bytes, &count);
	client_bytes(w, bytes, count);
}

static void client_ack(struct world *w)
{
	uint8_t frame[KDCOM_HEAD] = { 0x69, 0x69, 0x69, 0x69, KDCOM_ACK };
	uint32_t id = w->kdcom.next_id & ~KDCOM_ID_SYNC;

	memcpy(frame + 8, &id, 4);
	client_bytes(w, frame, sizeof(frame));
}

static void guest_packet(struct world *w, uint16_t type, const uint8_t *body, uint32_t len, uint16_t waits)
{
	if (waits)
		w->outstanding = 0;
	session_guest_packet(&w->session, ++w->seq, type, (uint16_t)kd_header_size(type), body, len, waits);
}

static void turn(struct world *w, uint32_t ms)
{
	struct kdcom_event ev;

	w->now += ms;
	session_timer(&w->session, w->now);
	kdcom_timer(&w->kdcom, w->now, &ev);
	handle(w, &ev);
	empty_output(w);
}

static void step(struct world *w, uint8_t what, uint8_t how, const uint8_t *bytes, uint32_t len)
{
	static const uint16_t types[] = { 1, 2, 3, 7, 9, 10, 11, 99 }, waits[] = { 0, 2, 3, 11 };
	uint8_t body[KD_STATE_CHANGE_SIZE + 256] = { 0 };
	uint16_t type = types[how & 7];

	memcpy(body, bytes, len);
	switch (what % 13) {
	case 0: client_bytes(w, bytes, len); break;
	case 1: client_frame(w, type, body, kd_header_size(type) + len % 64); break;
	case 2: client_ack(w); break;
	case 3: guest_packet(w, type, body, kd_header_size(type) + len % 16, waits[how >> 3 & 3]); break;
	case 4: guest_packet(w, type, bytes, len, waits[how >> 3 & 3]); break;
	case 5: w->outstanding = 0; session_guest_waits(&w->session, waits[1 + how % 3]); break;
	case 6: w->outstanding = 0; session_guest_gone(&w->session, 1 + how % 5); break;
	case 7: session_guest_registered(&w->session); break;
	case 8: session_guest_breakin_taken(&w->session); break;
	case 9:
		if (w->session.has_client)
			session_client_left(&w->session);
		break;
	case 10:
		if (!w->session.has_client) {
			kdcom_init(&w->kdcom, KDCOM_TARGET);
			session_client_came(&w->session);
		}
		break;
	case 11: turn(w, how * 16u); break;
	default: w->seq = how & 1 ? 0 : w->seq; break;
	}
	if (w->session.has_client)
		turn(w, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		return 0;
	kdcom_init(&w->kdcom, KDCOM_TARGET);
	session_init(&w->session, &ops, w);
	while (size >= 3) {
		uint32_t len = data[2];

		if (len > size - 3)
			len = (uint32_t)(size - 3);
		step(w, data[0], data[1], data + 3, len);
		data += 3 + len;
		size -= 3 + len;
		require(w->session.queue_len <= SESSION_QUEUE_MAX + 4 * SESSION_BODY_MAX);
		require(w->session.history.len <= SESSION_HISTORY_MAX);
	}
	session_deinit(&w->session);
	free(w);
	return 0;
}
