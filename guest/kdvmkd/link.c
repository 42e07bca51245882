// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

void link_lose(struct transport *t)
{
	t->link = LINK_NONE;
	t->asked = LINK_NONE;
	t->is_open = false;
	t->silent_count = 0;
}

// ---- Registration -------------------------------------------------------------------------------

static bool accept_registration(struct transport *t, enum link_kind kind)
{
	t->link = kind;
	t->hello_count = 0;
	t->quiet_seconds = 0;
	if (area_sync(&t->area)) {
		link_lose(t); // a host whose first words cannot be
		t->quiet_seconds = REFUSED_SECONDS;
		return false;
	}
	t->features = order_load(&area_head(&t->area)->host_features) & AREA_FEATURES;
	t->area.rx.is_summed = t->features & AREA_FEATURE_RX_SUM;
	t->is_nobody = false;
	transport_set_present(t, true);
	return true;
}

static bool finish_registration(struct transport *t, enum link_kind kind, uint32_t code)
{
	link_lose(t);
	area_touch_head(&t->area);
	if (code == CODE_OK)
		return accept_registration(t, kind);
	if (code == CODE_SILENT) {
		if (kind == LINK_DEBUGCON)
			t->asked = kind; // the answer may still come
		return false;
	}
	t->hello_count = 0; // somebody reads
	t->quiet_seconds = code == CODE_VERSION ? VERSION_SECONDS : code == CODE_RETRY ? 0 : REFUSED_SECONDS;
	return false;
}

static void prepare(struct transport *t)
{
	struct area_head *h = area_head(&t->area);
	link_lose(t);
	t->is_asleep = false;
	area_prepare(&t->area, t->machine, t->ctx);
	h->call_flags = 0;
	h->call_want = 0;
	// A doorbell that the old host never read does not count with the new one.
	t->ring_seq = order_load(&h->ring_seen);
	t->rung_seq = t->area.call_seq;
	order_store_release(&h->ring_seq, t->ring_seq);
	order_store_release(&h->call_fn, CALL_REGISTER);
}

bool link_register(struct transport *t)
{
	prepare(t);
	uint32_t code = portcall_call(t, CALL_REGISTER);
	for (uint32_t i = 0; code == CODE_RETRY && i < RETRY_MAX; i++)
		code = portcall_call(t, CALL_REGISTER);
	if (code != CODE_SILENT)
		return finish_registration(t, LINK_PORTCALL, code);
	if (!debugcon_is_there(t))
		return false;
	code = debugcon_hello(t);
	return finish_registration(t, LINK_DEBUGCON, code);
}

bool link_probe(struct transport *t)
{
	if (!transport_second(t))
		return false;
	if (t->quiet_seconds) {
		t->quiet_seconds--;
		return false;
	}
	return link_register(t);
}

bool link_find(struct transport *t)
{
	return t->is_asleep ? link_register(t) : link_probe(t);
}

bool link_ready(struct transport *t)
{
	if (t->link == LINK_NONE && t->asked == LINK_DEBUGCON) {
		uint32_t code = debugcon_late_answer(t);
		if (code != CODE_SILENT)
			(void)finish_registration(t, LINK_DEBUGCON, code); // t->link tells
	}
	if (t->link == LINK_NONE)
		return false;
	return area_is_current(&t->area, t->machine, t->ctx) || link_register(t);
}

// ---- Calls --------------------------------------------------------------------------------------

static void write_control_regs(struct transport *t)
{
	struct area_head *h = area_head(&t->area);
	struct control_regs regs;
	t->machine->control_regs(t->ctx, &regs);
	h->cr0 = regs.cr0;
	h->cr3 = regs.cr3;
	h->cr4 = regs.cr4;
	h->efer = regs.efer;
}

static void number_call(struct transport *t)
{
	struct area_head *h = area_head(&t->area);
	t->area.call_seq++;
	if (t->area.call_seq == order_load(&h->reply_seq))
		t->area.call_seq++; // an old answer is none to this call
	order_store_release(&h->call_seq, t->area.call_seq); // partner: the host's acquire when it is rung
}

// Puts the call into the head. The call that is there already, without a final answer, keeps its number.
static void write_call(struct transport *t, uint32_t fn, uint32_t flags, uint32_t want)
{
	struct area_head *h = area_head(&t->area);
	if (flags & CALL_F_WAIT)
		write_control_regs(t);
	if (t->is_open && t->open_fn == fn && t->open_flags == flags && t->open_want == want)
		return;
	if (t->is_open && t->open_fn == CALL_POLL && t->link == LINK_DEBUGCON && debugcon_late_answer(t) == CODE_BREAKIN)
		t->is_breakin_late = true; // the host has let go of it: it must not be lost
	t->is_open = true;
	t->open_fn = fn;
	t->open_flags = flags;
	t->open_want = want;
	h->tx_base = t->area.tx.tail; // a host that reads an old hello only now registers from here
	h->call_fn = fn;
	h->call_flags = flags;
	h->call_want = want;
	number_call(t);
}

static uint32_t call_once(struct transport *t, uint32_t fn, uint32_t flags)
{
	uint32_t code = t->link == LINK_PORTCALL ? portcall_call(t, fn) : debugcon_call(t, flags & CALL_F_WAIT);
	area_touch_head(&t->area);
	return code;
}

static uint32_t call_until_answered(struct transport *t, uint32_t fn, uint32_t flags)
{
	for (uint32_t i = 0; i < RETRY_MAX; i++) {
		uint32_t code = call_once(t, fn, flags);
		if (code != CODE_RETRY)
			return code;
		area_count_poll(&t->area);
		if (t->link == LINK_DEBUGCON)
			number_call(t); // there the number is what tells one answer from the next
	}
	return CODE_RETRY;
}

static void note_silence(struct transport *t, uint32_t flags)
{
	t->is_nobody = true;
	if (t->link == LINK_PORTCALL) {
		link_lose(t); // whatever answered before is no longer there: a moved machine, a VMM without the library
		return;
	}
	if ((flags & CALL_F_WAIT) && debugcon_is_bell_read(t)) {
		t->silent_count = 0; // the host waits for the debugger, as we do
		return;
	}
	if ((flags & CALL_F_WAIT) && !transport_second(t))
		return;
	if (++t->silent_count >= ((flags & CALL_F_WAIT) ? SILENT_WAIT_SECONDS : SILENT_CALLS_MAX))
		link_lose(t);
}

// True if the registration stands after this answer.
static bool note_answer(struct transport *t, uint32_t code)
{
	t->silent_count = 0;
	t->is_open = false;
	if (code == CODE_REREGISTER || code == CODE_REFUSED || code == CODE_VERSION || code > CODE_BREAKIN) {
		if (code != CODE_REREGISTER)
			area_count_refused(&t->area);
		link_lose(t);
		if (++t->refusal_count >= REFUSALS_MAX)
			area_discard(&t->area); // the host cannot digest what is in the ring: a torn record, say
		return false;
	}
	t->refusal_count = 0;
	t->is_nobody = code == CODE_NOBODY;
	if (area_sync(&t->area)) {
		link_lose(t);
		return false;
	}
	if (code != CODE_NOBODY)
		transport_set_present(t, true);
	return true;
}

uint32_t link_call(struct transport *t, uint32_t fn, uint32_t flags, uint32_t want)
{
	for (uint32_t turn = 0; turn < REGISTER_TURNS_MAX; turn++) {
		if (!link_ready(t))
			return CODE_SILENT;
		write_call(t, fn, flags, want);
		uint32_t code = call_until_answered(t, fn, flags);
		if (code == CODE_SILENT) {
			note_silence(t, flags);
			return CODE_SILENT;
		}
		if (code == CODE_RETRY)
			return CODE_TIMEOUT; // for the kernel; when it asks again, this same call continues
		if (note_answer(t, code))
			return code;
		if (fn == CALL_UNREGISTER || (flags & CALL_F_WAIT))
			return CODE_REREGISTER;
		if (!link_register(t))
			return CODE_SILENT;
	}
	return CODE_SILENT;
}
