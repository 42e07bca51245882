// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

// Register anew and have the kernel send its state again: what it sent last is withdrawn, or the debugger would see it twice.
static uint32_t start_over(struct transport *t)
{
	send_withdraw_question(t);
	if (t->link == LINK_NONE && !link_register(t))
		return RECEIVE_TIMEOUT; // and RESEND once there is a link
	return RECEIVE_RESEND;
}

static bool fits(const struct receive_buffer *b, uint32_t want, const struct ring_packet *p)
{
	uint32_t len = p->hdr_len + p->data_len;
	return p->kd_type == want && len >= b->hdr_size && len - b->hdr_size <= b->data_size;
}

static void hand_over(const struct transport *t, const struct ring_packet *p, struct receive_buffer *b)
{
	uint32_t len = p->hdr_len + p->data_len;
	wire_copy(b->hdr, t->body, b->hdr_size);
	b->data_len = (uint16_t)(len - b->hdr_size);
	if (b->data_len)
		wire_copy(b->data, t->body + b->hdr_size, b->data_len);
}

// The packets in the receive ring, until one is what the kernel waits for.
static uint32_t take(struct transport *t, uint32_t want, struct receive_buffer *b)
{
	for (;;) {
		struct ring_packet packet;
		int err = area_take(&t->area, &packet, t->body);
		if (err == RING_E_RECORD) {
			link_lose(t);
			return start_over(t);
		}
		if (err)
			return RECEIVE_TIMEOUT;
		if (fits(b, want, &packet)) {
			hand_over(t, &packet, b);
			t->has_question = false;
			return RECEIVE_OK;
		}
		area_count_refused(&t->area);
	}
}

// A host that came anew and found the head in memory asks to be called. Under debugcon the doorbell may be
// lost with the old host, so this is a registration by hello.
static bool is_called_anew(struct transport *t)
{
	struct area_head *h = area_head(&t->area);
	if (t->link == LINK_PORTCALL || !(order_load(&h->attention) & ATTENTION_CALL))
		return false;
	uint32_t bits = order_take(&h->attention); // partner: the host's order_set_bits
	if (bits & ~ATTENTION_CALL)
		order_set_bits(&h->attention, bits & ~ATTENTION_CALL);
	t->hello_count = 0;
	link_lose(t);
	return true;
}

static uint32_t wait_without_link(struct transport *t)
{
	if (is_called_anew(t) || link_find(t)) {
		send_withdraw_question(t);
		return t->link != LINK_NONE || link_register(t) ? RECEIVE_RESEND : RECEIVE_TIMEOUT;
	}
	t->machine->pause(t->ctx);
	return RECEIVE_TIMEOUT;
}

static uint32_t wait_for(struct transport *t, uint32_t want, struct receive_buffer *b)
{
	uint32_t flags = CALL_F_WAIT | (t->is_droppable_wait ? CALL_F_DROPPABLE : 0);
	uint32_t code = link_call(t, CALL_EXCHANGE, flags, want);
	switch (code) {
	case CODE_OK:
		return take(t, want, b);
	case CODE_RESEND:
		return RECEIVE_RESEND;
	case CODE_REREGISTER:
		return start_over(t);
	case CODE_NOBODY:
		return t->is_droppable_wait ? RECEIVE_RESEND : RECEIVE_TIMEOUT;
	case CODE_SILENT:
		return is_called_anew(t) ? start_over(t) : RECEIVE_TIMEOUT;
	default:
		return RECEIVE_TIMEOUT;
	}
}

static uint32_t receive(struct transport *t, uint32_t want, struct receive_buffer *b)
{
	area_count_poll(&t->area);
	bool was_linked = t->link != LINK_NONE;
	if (!link_ready(t))
		return wait_without_link(t);
	if (!was_linked)
		return start_over(t); // the answer to an earlier hello has come meanwhile
	return wait_for(t, want, b);
}

uint32_t transport_receive(struct transport *t, uint32_t want, struct receive_buffer *buffer)
{
	if (!transport_enter(t))
		transport_enter_by_force(t);
	uint32_t code = receive(t, want, buffer);
	transport_leave(t);
	return code;
}
