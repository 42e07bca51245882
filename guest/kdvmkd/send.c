// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

// What a packet asks of the link.
enum send_kind {
	SEND_PRINT,   // may wait in the ring, may be dropped
	SEND_ASK,     // may be dropped, and the kernel then does not wait for an answer: so it must be known at once
	SEND_REPLY,   // a manipulate reply: rides on the wait that follows
	SEND_MUST,    // the same, and the kernel sends it again after RECEIVE_RESEND
};

static uint32_t first_word(const struct send_packet *p)
{
	const uint8_t *b = p->hdr;
	if (p->hdr_len < 4)
		return 0;
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

// Which packets may be dropped: KD reference, section 1.9. (The form of kernels before Windows 2000, type 1, is not carried.)
static enum send_kind classify(const struct send_packet *p)
{
	uint32_t api = first_word(p);
	switch (p->kd_type) {
	case KD_PACKET_MANIPULATE:
		return SEND_REPLY;
	case KD_PACKET_DEBUG_IO:
		return api == KD_DEBUG_IO_PRINT ? SEND_PRINT : SEND_MUST;
	case KD_PACKET_TRACE_IO:
		return api == KD_TRACE_IO_PRINT ? SEND_PRINT : SEND_MUST;
	case KD_PACKET_STATE_CHANGE:
		return api == KD_STATE_LOAD_SYMBOLS ? SEND_ASK : SEND_MUST;
	case KD_PACKET_FILE_IO:
		return api == KD_FILE_IO_CREATE ? SEND_ASK : SEND_MUST;
	default:
		return SEND_MUST;
	}
}

static bool is_droppable(enum send_kind kind)
{
	return kind == SEND_PRINT || kind == SEND_ASK;
}

static void drop(struct transport *t)
{
	area_count_dropped(&t->area);
	transport_set_present(t, false);
}

// The processor that reports (KD reference, section 3.1), for whoever looks at the head.
static void note_processor(struct transport *t, const struct send_packet *p)
{
	const uint8_t *b = p->hdr;
	if (p->kd_type == KD_PACKET_STATE_CHANGE && p->hdr_len >= 8)
		area_head(&t->area)->processor = (uint32_t)b[6] | (uint32_t)b[7] << 8;
}

static uint32_t record_len(const struct send_packet *p)
{
	uint32_t len = RECORD_HEAD + (uint32_t)p->hdr_len + p->data_len;
	return (len + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1);
}

// -> true: the record fits now. A packet that must not be dropped gets its room in any case: where nobody collects the ring,
// what is in it has had its chance.
static bool make_room(struct transport *t, const struct send_packet *p, enum send_kind kind)
{
	uint32_t need = record_len(p), before;
	do {
		if (ring_free(&t->area.tx) >= need)
			return true;
		before = ring_free(&t->area.tx);
		(void)link_call(t, CALL_EXCHANGE, 0, 0); // the room tells
	} while (ring_free(&t->area.tx) > before);
	if (is_droppable(kind))
		return false;
	area_discard(&t->area);
	link_lose(t);
	(void)link_register(t); // if it fails, the wait that follows goes on trying
	return true;
}

// -> true: the packet is in the ring.
static bool put(struct transport *t, const struct send_packet *p, enum send_kind kind)
{
	if (!make_room(t, p, kind))
		return false;
	uint32_t start = t->area.tx.head;
	if (area_put(&t->area, (uint16_t)p->kd_type, p->hdr, p->hdr_len, p->data, p->data_len)) {
		area_count_refused(&t->area); // lengths that KD does not have: the caller's error
		return false;
	}
	t->has_question = kind == SEND_ASK || kind == SEND_MUST;
	t->question_start = start;
	return true;
}

void send_withdraw_question(struct transport *t)
{
	if (t->has_question)
		area_withdraw(&t->area, t->question_start);
	t->has_question = false;
}

static void note_print_time(struct transport *t)
{
	uint64_t now = t->machine->interrupt_time(t->ctx);
	t->is_print_due |= now - t->print_time >= PRINT_CALM_100NS;
	t->print_time = now;
}

static void send_print(struct transport *t, const struct send_packet *p)
{
	if (!put(t, p, SEND_PRINT)) {
		drop(t);
		return;
	}
	t->is_print_poll = true;
	note_print_time(t);
	if ((t->features & AREA_FEATURE_PRINT_BATCH) && ring_used(&t->area.tx) <= t->area.tx.capacity / 2)
		return;
	uint32_t code = link_call(t, CALL_EXCHANGE, 0, 0);
	if (code == CODE_NOBODY || code == CODE_SILENT)
		transport_set_present(t, false); // what is in the ring stays there for a broker that comes later
	else
		transport_second_begins(t); // this call was as good as a heartbeat
}

static void send_ask(struct transport *t, const struct send_packet *p)
{
	if (!put(t, p, SEND_ASK)) {
		drop(t);
		return;
	}
	uint32_t code = link_call(t, CALL_EXCHANGE, 0, 0);
	if (code == CODE_NOBODY || code == CODE_SILENT) {
		send_withdraw_question(t);
		drop(t);
	}
}

static void send(struct transport *t, const struct send_packet *p)
{
	enum send_kind kind = classify(p);
	if (kind != SEND_REPLY)
		t->is_droppable_wait = is_droppable(kind);
	note_processor(t, p);
	if (!link_ready(t) && !link_find(t) && is_droppable(kind)) {
		drop(t);
		return;
	}
	if (kind == SEND_PRINT)
		send_print(t, p);
	else if (kind == SEND_ASK)
		send_ask(t, p);
	else
		(void)put(t, p, kind); // it rides on the call of the wait that follows; a refusal is counted
}

void transport_send(struct transport *t, const struct send_packet *packet)
{
	if (!transport_enter(t)) {
		if (is_droppable(classify(packet))) {
			area_count_dropped(&t->area);
			return;
		}
		transport_enter_by_force(t);
	}
	send(t, packet);
	transport_leave(t);
}
