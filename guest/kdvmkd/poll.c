// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

static uint32_t take_attention(struct transport *t)
{
	struct area_head *h = area_head(&t->area);
	// Almost every poll ends with this read; the locked exchange is for when there is something to take.
	return order_load(&h->attention) ? order_take(&h->attention) : 0; // partner: the host's order_set_bits
}

// No link: find one about once a second, or at once when a host asks for it.
static bool find_link(struct transport *t, uint32_t attention)
{
	if (attention & ATTENTION_CALL) {
		t->hello_count = 0;
		return link_register(t);
	}
	return link_probe(t);
}

// A doorbell that the old host took with it would stay unread for ever: say hello to the new one.
static void greet_new_host(struct transport *t, uint32_t attention)
{
	if (!(attention & ATTENTION_CALL) || t->link != LINK_DEBUGCON)
		return;
	if (t->is_open || !debugcon_is_bell_read(t)) {
		t->hello_count = 0;
		(void)link_register(t); // without success the next poll has no link
	}
}

// The first print after a calm is collected at the next tick. While more follow, a call for each tick would be one for a few lines on a
// slow machine: they wait for a calm, for the ring to be half full, or for the second to be over.
static bool is_collection_due(struct transport *t)
{
	bool is_due = t->is_print_due || t->machine->interrupt_time(t->ctx) - t->print_time >= PRINT_CALM_100NS;
	t->is_print_due = false;
	return is_due;
}

static bool is_call_due(struct transport *t, uint32_t attention)
{
	bool is_print_poll = t->is_print_poll;
	t->is_print_poll = false;
	if (transport_second(t) || attention)
		return true;
	if (t->is_nobody && t->link == LINK_DEBUGCON) // each vain call costs time there
		return t->is_open && debugcon_late_answer(t) != CODE_SILENT;
	if (!t->is_phase1)
		return true;
	// A call for each print would be one exit a line: the tick collects them.
	return !is_print_poll && !t->is_nobody && ring_used(&t->area.tx) != 0 && is_collection_due(t);
}

static bool poll(struct transport *t)
{
	area_count_poll(&t->area);
	if (t->is_breakin_late) {
		t->is_breakin_late = false;
		return true;
	}
	uint32_t attention = take_attention(t);
	if (!link_ready(t) && !find_link(t, attention))
		return false;
	greet_new_host(t, attention);
	if (t->link == LINK_NONE || !is_call_due(t, attention))
		return false;
	return link_call(t, CALL_POLL, 0, 0) == CODE_BREAKIN;
}

bool transport_poll(struct transport *t)
{
	if (!transport_enter(t))
		return false;
	bool is_breakin = poll(t);
	transport_leave(t);
	return is_breakin;
}
