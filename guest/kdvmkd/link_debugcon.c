// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

bool debugcon_is_there(struct transport *t)
{
	return t->machine->port_read(t->ctx, DEBUGCON_PORT) == DEBUGCON_READBACK;
}

bool debugcon_is_bell_read(const struct transport *t)
{
	// Partner: the host's release of ring_seen when it has read the byte.
	return order_load_acquire(&area_head(&t->area)->ring_seen) == t->ring_seq;
}

static bool is_answered(const struct transport *t)
{
	// Partner: the host's release of reply_seq, the last word of its answer.
	return order_load_acquire(&area_head(&t->area)->reply_seq) == t->area.call_seq;
}

static uint32_t answer(const struct transport *t)
{
	uint32_t code = order_load(&area_head(&t->area)->reply_code);
	// Something in the host's place that is no host: the code of a call that went wrong.
	return (code & RESULT_TAG_MASK) == RESULT_TAG ? code & ~RESULT_TAG_MASK : CODE_REFUSED;
}

// Spin until `is_done`. -> false: `cycles` have passed.
static bool spin_until(struct transport *t, bool (*is_done)(const struct transport *), uint64_t cycles)
{
	uint64_t start = t->machine->cycles(t->ctx);
	for (uint32_t i = 0; i < SPIN_MAX; i++) {
		if (is_done(t))
			return true;
		if (t->machine->cycles(t->ctx) - start > cycles)
			return false;
		t->machine->pause(t->ctx);
	}
	return false;
}

uint32_t debugcon_late_answer(struct transport *t)
{
	return is_answered(t) ? answer(t) : CODE_SILENT;
}

uint32_t debugcon_hello(struct transport *t)
{
	if (t->hello_count >= HELLO_BUDGET)
		return CODE_SILENT;
	t->hello_count++;
	uint64_t gpa = t->area.gpa[0].v;
	uint8_t sum = 0;
	t->machine->port_write(t->ctx, DEBUGCON_PORT, DOORBELL_HELLO);
	for (uint32_t i = 0; i < 8; i++) {
		uint8_t byte = (uint8_t)(gpa >> (8 * i));
		sum = (uint8_t)(sum + byte);
		t->machine->port_write(t->ctx, DEBUGCON_PORT, byte);
	}
	t->machine->port_write(t->ctx, DEBUGCON_PORT, sum);
	return spin_until(t, is_answered, HELLO_CYCLES) ? answer(t) : CODE_SILENT;
}

static bool is_answered_or_bell_read(const struct transport *t)
{
	return is_answered(t) || debugcon_is_bell_read(t);
}

static bool is_answered_or_called(const struct transport *t)
{
	return is_answered(t) || (order_load(&area_head(&t->area)->attention) & ATTENTION_CALL);
}

// -> true: somebody will read the byte, or has.
static bool ring(struct transport *t)
{
	if (t->rung_seq == t->area.call_seq)
		return true;
	bool is_read = debugcon_is_bell_read(t);
	t->rung_seq = t->area.call_seq; // a byte that is still unread announces this call as well
	if (!is_read)
		return false;
	t->ring_seq++;
	// Partner: the host reads ring_seq after it has read the byte.
	order_store_release(&area_head(&t->area)->ring_seq, t->ring_seq);
	t->machine->port_write(t->ctx, DEBUGCON_PORT, DOORBELL_RING);
	return true;
}

// A wait is endless, but the kernel gets its turns, and a host that came anew makes itself heard by ATTENTION_CALL.
static uint32_t wait_slice(struct transport *t)
{
	area_count_poll(&t->area);
	(void)spin_until(t, is_answered_or_called, WAIT_SLICE_CYCLES);
	return is_answered(t) ? answer(t) : CODE_SILENT;
}

// A host that takes one print after the other, because its debugger is slow, is there and is waited for. Not once more when that was in vain.
static uint32_t wait_for_reply(struct transport *t)
{
	uint32_t turns = t->is_nobody ? 1 : REPLY_TURNS_MAX;
	const uint32_t *taken = &area_head(&t->area)->tx_tail;
	for (uint32_t i = 0; i < turns; i++) {
		uint32_t before = order_load(taken);
		if (spin_until(t, is_answered, REPLY_CYCLES))
			return answer(t);
		if (order_load(taken) == before)
			break;
	}
	return CODE_SILENT;
}

// Under TCG, what a CPU writes through a translation that it has had since the beginning of a migration is not sent (seen with QEMU 7.2: the
// first look at the dirty map clears it without making the CPUs look again). A kernel that runs changes CR3 all the time; one that is stopped in the
// debugger never does, and would arrive with its memory of some seconds ago.
static void reload_translations(struct transport *t)
{
	uint64_t now = t->machine->cycles(t->ctx);
	if (now - t->reload_cycles < RELOAD_CYCLES)
		return;
	t->reload_cycles = now;
	t->machine->reload_translations(t->ctx);
}

uint32_t debugcon_call(struct transport *t, bool is_wait)
{
	reload_translations(t);
	bool is_first = t->rung_seq != t->area.call_seq;
	bool is_heard = ring(t);
	if (is_wait)
		return wait_slice(t);
	if (is_answered(t))
		return answer(t);
	// An earlier byte that nobody has read yet, or a call that was given up already: look, do not wait.
	if (!is_heard || (!is_first && !debugcon_is_bell_read(t)))
		return CODE_SILENT;
	if (!spin_until(t, is_answered_or_bell_read, RING_CYCLES))
		return CODE_SILENT;
	return wait_for_reply(t);
}
