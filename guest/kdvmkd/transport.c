// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

void transport_bind(struct transport *t, const struct machine *machine, void *ctx, uint8_t *memory)
{
	t->machine = machine;
	t->ctx = ctx;
	area_bind(&t->area, memory);
}

bool transport_enter(struct transport *t)
{
	return order_take(&t->is_free) == 1; // partner: the release in transport_leave
}

void transport_enter_by_force(struct transport *t)
{
	uint64_t start = t->machine->cycles(t->ctx);
	for (uint32_t i = 0; i < SPIN_MAX; i++) {
		if (transport_enter(t))
			return;
		if (t->machine->cycles(t->ctx) - start > STEAL_CYCLES)
			break;
		t->machine->pause(t->ctx);
	}
	// Whoever was inside is the interrupted code below us or a CPU that is frozen for good.
	area_count_refused(&t->area);
	(void)link_register(t); // without success this entry goes on without a link
}

void transport_leave(struct transport *t)
{
	order_store_release(&t->is_free, 1); // partner: order_take in transport_enter
}

void transport_set_present(struct transport *t, bool is_present)
{
	area_set_state(&t->area, GUEST_NOT_PRESENT, !is_present);
	t->machine->set_present(t->ctx, is_present);
}

bool transport_second(struct transport *t)
{
	uint64_t time = t->machine->interrupt_time(t->ctx);
	uint64_t cycles = t->machine->cycles(t->ctx);
	uint64_t time_passed = time - t->second_time;
	uint64_t cycles_passed = cycles - t->second_cycles;
	bool is_second = time_passed >= SECOND_100NS || cycles_passed >= SECOND_CYCLES_MAX ||
	                 (time_passed == 0 && cycles_passed >= SECOND_CYCLES);
	if (!is_second)
		return false;
	t->second_time = time;
	t->second_cycles = cycles;
	if (!t->is_phase1 && ++t->boot_seconds >= PHASE1_SECONDS)
		t->is_phase1 = true; // for our polls only: the host is told GUEST_PHASE1 when the kernel says so
	return true;
}

void transport_second_begins(struct transport *t)
{
	t->second_time = t->machine->interrupt_time(t->ctx);
	t->second_cycles = t->machine->cycles(t->ctx);
}

void transport_start(struct transport *t)
{
	if (!transport_enter(t))
		return;
	t->quiet_seconds = 0;
	t->hello_count = 0;
	(void)transport_second(t); // the first probe is now; the next one a second later
	if (!link_ready(t) && !link_register(t))
		transport_set_present(t, false);
	transport_leave(t);
}

// KdDebuggerNotPresent alone does not tell: a registration clears it, also where no broker stands behind the link, until the first packet
// that nobody takes sets it again.
static bool has_listener(struct transport *t)
{
	if (!link_ready(t) && !link_register(t)) // no link is no failure
		return false;
	return !t->is_nobody && order_load(&area_head(&t->area)->host_flags) & HOST_F_LISTENER;
}

void transport_phase1(struct transport *t)
{
	if (!transport_enter(t))
		return;
	bool is_first = !(t->area.guest_state & GUEST_PHASE1);
	t->is_phase1 = true;
	area_set_state(&t->area, GUEST_PHASE1, true);
	bool is_alone = !has_listener(t);
	if (is_first && is_alone)
		area_set_state(&t->area, GUEST_BOOTED_ALONE, true); // never taken back: the kernel has made up its mind
	transport_leave(t);
}

void transport_join(struct transport *t, bool is_alone)
{
	if (!transport_enter(t))
		return;
	t->is_phase1 = true;
	area_set_state(&t->area, GUEST_PHASE1, true);
	area_set_state(&t->area, GUEST_BOOTED_ALONE, is_alone);
	transport_leave(t);
}

void transport_flush(struct transport *t)
{
	if (!transport_enter(t))
		return;
	if (link_ready(t) && ring_used(&t->area.tx))
		(void)link_call(t, CALL_EXCHANGE, 0, 0); // what is not collected now is when the link ends, or never
	transport_leave(t);
}

void transport_sleep(struct transport *t)
{
	if (!transport_enter(t))
		return;
	if (link_ready(t))
		(void)link_call(t, CALL_UNREGISTER, 0, 0); // whoever does not answer has no registration to end
	link_lose(t);
	area_retire(&t->area);
	t->quiet_seconds = SLEEP_SECONDS; // for polls
	t->is_asleep = true;
	transport_leave(t);
}

void transport_wake(struct transport *t)
{
	if (!transport_enter(t))
		return;
	t->quiet_seconds = 0;
	t->hello_count = 0;
	if (!link_register(t))
		transport_set_present(t, false);
	transport_leave(t);
}

void transport_suspect(struct transport *t)
{
	if (!transport_enter(t))
		return;
	t->second_time = 0;
	t->second_cycles = t->machine->cycles(t->ctx) - SECOND_CYCLES_MAX;
	transport_leave(t);
}
