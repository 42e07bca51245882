// SPDX-License-Identifier: MIT
#include "vmm/call.h"

#include <string.h>

// Messages owed to the broker, sent in this order.
enum {
	OWE_GONE = 1u << 0,
	OWE_REGISTERED = 1u << 1,
	OWE_OTHER_VERSION = 1u << 2,
	OWE_BREAKIN_TAKEN = 1u << 3,
	OWE_STATS = 1u << 4,
	OWE_WAIT = 1u << 5,
	SHOWN_PACKET = 1u << 6, // never owed; only in call.shown
};

void call_init(struct call *c, uint64_t now_ms)
{
	memset(c, 0, sizeof(*c));
	c->broker_gone_ms = now_ms;
}

// ---- Answers ------------------------------------------------------------------------------------

static bool is_open(const struct call *c)
{
	return c->state == CALL_ST_COLLECTING || c->state == CALL_ST_WAITING;
}

static bool is_wait(const struct call *c)
{
	return c->fn == CALL_EXCHANGE && c->flags & CALL_F_WAIT;
}

static void untake(struct call *c)
{
	if (c->has_out)
		c->area.tx.tail = c->out_tail;
	c->has_out = false;
}

static void forget_wait(struct call *c)
{
	c->owed &= ~(uint32_t)OWE_WAIT;
	c->is_told = c->is_parked = c->is_resend_due = false;
}

static void owe_gone(struct call *c, uint32_t gone)
{
	if (!c->is_known)
		return;
	c->owed |= OWE_GONE;
	c->gone_code = gone;
}

void call_cut(struct call *c, uint32_t gone)
{
	if (is_open(c)) {
		c->state = CALL_ST_ANSWERED;
		c->code = CODE_REREGISTER;
	}
	c->ending = 0;
	c->has_out = c->has_last = c->is_stopped = false;
	forget_wait(c);
	if (!c->area.is_registered)
		return;
	area_forget(&c->area);
	c->owed &= ~(uint32_t)OWE_REGISTERED;
	owe_gone(c, gone);
}

// Write `code` as the answer to call `seq`. -> the code that the guest gets.
static uint32_t conclude(struct call *c, uint32_t code, uint32_t seq)
{
	untake(c);
	c->area.tx.head = c->area.tx.tail; // the guest may withdraw what was not collected: its head is read anew with each call
	c->seq = seq;
	if (area_write_reply(&c->area, c->has_broker ? HOST_F_LISTENER : 0, code, seq)) {
		call_cut(c, LINK_GONE_AREA);
		return CODE_REREGISTER;
	}
	c->reply_seq = c->last_seq = seq;
	c->last_fn = c->fn;
	c->last_code = code;
	c->has_last = true;
	return code;
}

// The registration is over and the guest has to begin again.
static uint32_t conclude_guest_error(struct call *c, uint32_t seq)
{
	c->stats.refused++;
	(void)conclude(c, CODE_REREGISTER, seq); // if the page is lost, EAX still says it
	call_cut(c, LINK_GONE_GUEST_ERROR);
	return CODE_REREGISTER;
}

static uint32_t conclude_travelled(struct call *c, uint32_t seq)
{
	(void)area_write_code(&c->area, CODE_REREGISTER, seq);
	call_cut(c, LINK_GONE_RESET);
	return CODE_REREGISTER;
}

static void answer(struct call *c, uint32_t code)
{
	c->code = conclude(c, code, c->seq);
	c->state = CALL_ST_ANSWERED;
}

static void answer_guest_error(struct call *c)
{
	c->code = conclude_guest_error(c, c->seq);
	c->state = CALL_ST_ANSWERED;
}

bool call_is_answered(const struct call *c)
{
	return c->state == CALL_ST_ANSWERED;
}

uint32_t call_answer(struct call *c)
{
	c->state = CALL_ST_IDLE;
	return c->code;
}

// ---- Registration -------------------------------------------------------------------------------

static uint32_t refuse_registration(struct call *c, const struct gpa_map *map, const struct call_args *args, int err)
{
	c->stats.refused++;
	uint32_t code = CODE_REFUSED;
	if (err == AREA_E_VERSION) {
		c->stats.refused_version++;
		c->refused_version = args->version ? args->version : area_stated_version(map, args->head);
		c->owed |= OWE_OTHER_VERSION;
		code = CODE_VERSION;
	}
	(void)area_write_refusal(map, args->head, code); // a head that may not be written learns it from EAX
	return code;
}

static uint32_t begin_register(struct call *c, const struct gpa_map *map, const struct call_args *args)
{
	struct area_words words;
	// Whatever was registered before, the guest does not use it any more.
	bool was_registered = c->area.is_registered;
	area_forget(&c->area);
	c->has_last = c->is_stopped = c->has_out = false;
	forget_wait(c);
	c->owed &= ~(uint32_t)OWE_REGISTERED;

	int err = args->version && args->version >> 16 != AREA_VERSION_MAJOR ? AREA_E_VERSION : AREA_OK;
	if (!err)
		err = area_register(&c->area, map, args->head);
	if (!err && args->version && args->version != c->area.version)
		err = AREA_E_HEAD;
	if (!err)
		err = area_read_words(&c->area, &words);
	if (err) {
		area_forget(&c->area);
		if (was_registered)
			owe_gone(c, LINK_GONE_GUEST_ERROR);
		return refuse_registration(c, map, args, err);
	}
	c->stats.registrations++;
	c->refused_version = 0;
	c->dialect = args->dialect;
	c->dialect_version = args->dialect_version;
	c->owed |= OWE_REGISTERED;
	if (c->is_breakin_pending)
		(void)area_attention_set(&c->area, ATTENTION_BREAKIN); // lost: conclude finds it as well
	c->fn = CALL_REGISTER;
	return conclude(c, CODE_OK, words.call_seq);
}

// ---- Beginning a call ---------------------------------------------------------------------------

static bool is_well_formed(const struct call_args *args, const struct area_words *w)
{
	if (args->seq != w->call_seq || args->fn != w->call_fn)
		return false;
	if (args->fn == CALL_POLL || args->fn == CALL_UNREGISTER)
		return true;
	if (args->fn != CALL_EXCHANGE || w->call_flags & ~(uint32_t)(CALL_F_WAIT | CALL_F_DROPPABLE))
		return false;
	// KD packet types are small numbers (KD reference, section 1.3).
	return !(w->call_flags & CALL_F_WAIT) || (w->call_want >= 1 && w->call_want <= 15);
}

// The guest's memory shows host words that the host did not write last: a snapshot was restored, or what the
// host wrote was lost in a migration. Then nothing of the rings can be believed.
static bool has_travelled(const struct call *c, const struct area_words *w)
{
	return w->tx_tail != c->area.tx.tail || w->rx_head != c->area.rx.head || w->reply_seq != c->reply_seq;
}

bool call_look(struct call *c)
{
	struct area_words w;
	if (!c->area.is_registered || c->ending)
		return false;
	if (area_read_words(&c->area, &w)) {
		call_cut(c, LINK_GONE_RESET); // nobody but a loaded snapshot writes there meanwhile
		return true;
	}
	if (!has_travelled(c, &w))
		return false;
	// Should the guest be in a call, this is its answer; if not, its next call is found out by call_begin.
	(void)area_write_code(&c->area, CODE_REREGISTER, w.call_seq);
	if (is_open(c)) {
		c->state = CALL_ST_ANSWERED;
		c->code = CODE_REREGISTER;
	}
	c->has_out = c->has_last = c->is_stopped = false;
	forget_wait(c);
	owe_gone(c, LINK_GONE_RESET); // what is kept of the area is for finding this guest's calls
	return true;
}

static void take_control_regs(struct call *c, const struct call_args *args, const struct area_words *w)
{
	c->cr0 = c->cr3 = c->cr4 = c->efer = 0;
	if (args->has_regs) {
		c->cr0 = args->cr0, c->cr3 = args->cr3, c->cr4 = args->cr4, c->efer = args->efer;
	} else if (c->area.features & AREA_FEATURE_CONTROL_REGS) {
		c->cr0 = w->cr0, c->cr3 = w->cr3, c->cr4 = w->cr4, c->efer = w->efer;
	}
}

static void take_breakin(struct call *c)
{
	c->is_breakin_pending = false;
	(void)area_attention_clear(&c->area, ATTENTION_BREAKIN); // lost: the next write finds it as well
	c->owed |= OWE_BREAKIN_TAKEN;
}

// The call is sound; where does it go first?
static uint32_t open_call(struct call *c, bool is_repeated)
{
	if (!is_repeated)
		forget_wait(c);
	bool is_resend = c->is_resend_due;
	c->is_parked = c->is_resend_due = false;
	if (!is_wait(c))
		c->is_stopped = false;
	// The break-in bit was taken without a poll that said so: the guest is stopping because of it.
	if (is_wait(c) && c->is_breakin_pending && !(area_attention(&c->area) & ATTENTION_BREAKIN))
		take_breakin(c);
	if (is_resend) {
		forget_wait(c);
		return conclude(c, CODE_RESEND, c->seq);
	}
	if (!c->has_broker && !is_wait(c) && c->fn != CALL_UNREGISTER)
		return conclude(c, CODE_NOBODY, c->seq);
	c->state = is_wait(c) && (c->is_told || !c->has_broker) ? CALL_ST_WAITING : CALL_ST_COLLECTING;
	return CALL_PENDING;
}

uint32_t call_begin(struct call *c, const struct gpa_map *map, const struct call_args *args, uint64_t now_ms)
{
	c->stats.port_calls++;
	c->stats.last_call_ms = now_ms;
	if (c->state != CALL_ST_IDLE) {
		c->stats.refused++;
		return CODE_REFUSED;
	}
	if (c->ending)
		call_cut(c, c->ending);
	if (args->fn == CALL_REGISTER)
		return begin_register(c, map, args);
	if (!c->area.is_registered || args->dialect != c->dialect) // or another module has registered since
		return CODE_REREGISTER;
	struct area_words w;
	if (area_read_words(&c->area, &w)) {
		call_cut(c, LINK_GONE_AREA);
		return CODE_REREGISTER;
	}
	bool is_repeated = c->is_parked && args->fn == c->fn && args->seq == c->seq && w.call_flags == c->flags &&
	                   w.call_want == c->want;
	bool was_answered = c->has_last && c->last_code != CODE_RETRY && args->seq == c->last_seq &&
	                    args->fn == c->last_fn;
	c->fn = args->fn;
	if (has_travelled(c, &w))
		return conclude_travelled(c, w.call_seq);
	if (!is_well_formed(args, &w)) {
		c->stats.refused++;
		forget_wait(c);
		return conclude(c, CODE_REFUSED, w.call_seq);
	}
	if (was_answered)
		return conclude(c, c->last_code, args->seq);
	if (ring_set_head(&c->area.tx, w.tx_head) || ring_set_tail(&c->area.rx, w.rx_tail))
		return conclude_guest_error(c, w.call_seq);
	c->seq = args->seq;
	c->flags = args->fn == CALL_EXCHANGE ? w.call_flags : 0;
	c->want = w.call_want;
	c->vcpu = args->vcpu;
	take_control_regs(c, args, &w);
	return open_call(c, is_repeated);
}

int call_args_from_head(struct call *c, struct call_args *ret)
{
	struct area_words w;
	int err = area_read_words(&c->area, &w);
	if (!err)
		err = area_ring_seen(&c->area, w.ring_seq);
	if (err)
		return err;
	*ret = (struct call_args){
		.fn = w.call_fn, .head = { c->area.page_gpa[0] }, .seq = w.call_seq, .vcpu = 0xFFFFFFFF,
	};
	return AREA_OK;
}

// ---- Collecting ---------------------------------------------------------------------------------

// Take the next packet that the broker has not had yet. -> false: there is none.
static bool take_packet(struct call *c)
{
	for (;;) {
		uint32_t tail = c->area.tx.tail;
		int err = ring_take(&c->area.tx, &c->out, c->out_body);
		if (err == RING_E_EMPTY)
			return false;
		if (err) {
			if (is_open(c))
				answer_guest_error(c);
			else
				call_cut(c, LINK_GONE_GUEST_ERROR);
			return false;
		}
		// Sent again after a registration that this host did not need.
		if (c->area.tx_done_seq && (int32_t)(c->out.seq - c->area.tx_done_seq) <= 0)
			continue;
		c->out_tail = tail;
		c->has_out = true;
		return true;
	}
}

static void describe_wait(const struct call *c, struct link_head *head)
{
	head->want = (uint16_t)c->want;
	head->vcpu = c->vcpu;
	head->cr0 = c->cr0, head->cr3 = c->cr3, head->cr4 = c->cr4, head->efer = c->efer;
	if (c->flags & CALL_F_DROPPABLE)
		head->flags |= LINK_F_DROPPABLE;
}

static bool collect_next(struct call *c, struct call_message *ret)
{
	if (!c->has_out && !take_packet(c))
		return false;
	*ret = (struct call_message){
		.head = {
			.type = LINK_PACKET, .seq = c->out.seq, .kd_type = c->out.kd_type, .hdr_len = c->out.hdr_len,
			.body_len = c->out.hdr_len + c->out.data_len,
		},
		.body = c->out_body,
	};
	if (c->state == CALL_ST_COLLECTING && is_wait(c) && ring_used(&c->area.tx) == 0) {
		ret->head.flags = LINK_F_WAITS;
		describe_wait(c, &ret->head);
	}
	c->shown = SHOWN_PACKET | (ret->head.flags & LINK_F_WAITS ? OWE_WAIT : 0u);
	return true;
}

static void finish_collecting(struct call *c)
{
	if (is_wait(c)) {
		c->state = CALL_ST_WAITING;
		if (c->has_broker)
			c->owed |= OWE_WAIT;
	} else if (c->fn == CALL_UNREGISTER) {
		answer(c, CODE_OK);
		call_cut(c, LINK_GONE_BYE);
	} else if (c->fn == CALL_POLL && c->is_breakin_pending) {
		take_breakin(c);
		answer(c, CODE_BREAKIN);
	} else {
		answer(c, CODE_OK);
	}
}

static void enter_wait(struct call *c)
{
	c->is_told = c->is_stopped = true;
	c->state = CALL_ST_WAITING;
	if (area_write_taken(&c->area)) {
		c->code = CODE_REREGISTER;
		c->state = CALL_ST_ANSWERED;
		call_cut(c, LINK_GONE_AREA);
	}
}

// ---- Messages to the broker ---------------------------------------------------------------------

#define GUEST_STATES_KNOWN (GUEST_PHASE1 | GUEST_NOT_PRESENT | GUEST_BOOTED_ALONE) // the guest's word: no other bits are passed on

static struct link_guest guest_of(const struct call *c)
{
	struct area_words w;
	if (c->dialect != LINK_DIALECT_VMKD) // the area is the stand-in's, in this process
		return (struct link_guest){ .dialect = c->dialect, .version = c->dialect_version, .arch = c->area.arch };
	bool has_words = area_read_words(&c->area, &w) == AREA_OK; // a page that changed hands: its registration ends with the next call
	return (struct link_guest){
		.state = has_words ? w.guest_state & GUEST_STATES_KNOWN : 0,
		.version = c->area.version, .features = c->area.features, .arch = c->area.arch,
		.page_count = c->area.page_count, .module_base = c->area.module_base,
		.head_gpa = c->area.page_gpa[0],
	};
}

static bool next_owed(struct call *c, struct call_message *ret)
{
	if (!c->owed)
		return false;
	*ret = (struct call_message){ 0 };
	c->shown = c->owed & -c->owed;
	switch (c->shown) {
	case OWE_GONE:
		ret->head = (struct link_head){ .type = LINK_UNREGISTERED, .code = c->gone_code };
		break;
	case OWE_REGISTERED:
		c->guest_body = guest_of(c);
		ret->head = (struct link_head){ .type = LINK_REGISTERED, .body_len = sizeof(c->guest_body) };
		ret->body = (const uint8_t *)&c->guest_body;
		break;
	case OWE_OTHER_VERSION:
		ret->head = (struct link_head){ .type = LINK_OTHER_VERSION, .code = c->refused_version };
		break;
	case OWE_BREAKIN_TAKEN:
		ret->head = (struct link_head){ .type = LINK_BREAKIN_TAKEN };
		break;
	case OWE_STATS:
		c->stats_body = c->stats;
		ret->head = (struct link_head){ .type = LINK_STATS, .body_len = sizeof(c->stats_body) };
		ret->body = (const uint8_t *)&c->stats_body;
		break;
	default:
		ret->head = (struct link_head){ .type = LINK_WAIT };
		describe_wait(c, &ret->head);
	}
	return true;
}

static void packet_sent(struct call *c)
{
	c->has_out = false;
	c->area.tx_done_seq = c->out.seq;
	c->stats.packets_out++;
	c->stats.bytes_out += (uint64_t)c->out.hdr_len + c->out.data_len;
}

void call_sent(struct call *c)
{
	uint32_t shown = c->shown;
	c->shown = 0;
	c->owed &= ~shown;
	if (shown & SHOWN_PACKET && c->has_out)
		packet_sent(c);
	if (shown & OWE_WAIT && is_open(c))
		enter_wait(c);
	if (shown & (OWE_GONE | OWE_REGISTERED))
		c->is_known = shown & OWE_REGISTERED;
}

// ---- The machine --------------------------------------------------------------------------------

uint64_t call_deadline(const struct call *c)
{
	bool has_one = c->state == CALL_ST_WAITING && !c->has_broker && c->flags & CALL_F_DROPPABLE;
	return has_one ? c->broker_gone_ms + CALL_GRACE_MS : UINT64_MAX;
}

// -> true: *ret is for the broker; false: the registration has ended.
static bool step_ending(struct call *c, struct call_message *ret)
{
	if (c->has_broker && collect_next(c, ret))
		return true;
	call_cut(c, c->ending); // harmless when a bad record has done it already
	return false;
}

enum call_next call_step(struct call *c, uint64_t now_ms, struct call_message *ret)
{
	for (;;) {
		if (c->has_broker && next_owed(c, ret))
			return CALL_SEND;
		if (c->ending) {
			if (step_ending(c, ret))
				return CALL_SEND;
		} else if (c->state == CALL_ST_ANSWERED) {
			return CALL_ANSWER;
		} else if (c->state == CALL_ST_COLLECTING) {
			if (c->has_broker && collect_next(c, ret))
				return CALL_SEND;
			if (c->state == CALL_ST_COLLECTING)
				finish_collecting(c);
		} else if (c->state == CALL_ST_WAITING) {
			if (now_ms < call_deadline(c))
				return CALL_SLEEP;
			answer(c, CODE_NOBODY);
		} else if (!c->owed || !c->has_broker) {
			return CALL_IDLE;
		}
	}
}

void call_kick(struct call *c)
{
	if (!is_open(c))
		return;
	bool is_told = c->is_told;
	c->owed &= ~(uint32_t)OWE_WAIT;
	c->stats.retries++;
	answer(c, CODE_RETRY);
	c->is_parked = is_told && c->area.is_registered;
}

enum call_patience call_patience(const struct call *c)
{
	if (!is_wait(c))
		return CALL_WAITS_NOT;
	return c->flags & CALL_F_DROPPABLE ? CALL_WAITS_SOME : CALL_WAITS_ON;
}

void call_stall(struct call *c)
{
	if (!is_open(c))
		return;
	c->owed &= ~(uint32_t)OWE_WAIT;
	if (c->fn == CALL_UNREGISTER) {
		answer(c, CODE_OK);
		call_cut(c, LINK_GONE_BYE);
	} else {
		answer(c, CODE_NOBODY);
	}
}

bool call_is_awaited(const struct call *c)
{
	return c->is_told && (c->is_parked || c->state == CALL_ST_WAITING);
}

bool call_is_stopped(const struct call *c)
{
	return c->is_stopped;
}

void call_end(struct call *c, uint32_t gone)
{
	struct area_words w;
	if (!c->area.is_registered || c->ending)
		return;
	untake(c);
	if (!c->has_broker || area_read_words(&c->area, &w) || ring_set_head(&c->area.tx, w.tx_head)) {
		call_cut(c, gone);
		return;
	}
	if (is_open(c)) {
		c->state = CALL_ST_ANSWERED;
		c->code = CODE_REREGISTER;
	}
	forget_wait(c);
	c->is_stopped = c->has_last = false;
	c->ending = gone;
}

// ---- The broker ---------------------------------------------------------------------------------

void call_hello(struct call *c, uint32_t pid, const char *name, struct link_hello *ret)
{
	*ret = (struct link_hello){
		.version = LINK_VERSION, .pid = pid, .is_registered = c->area.is_registered,
		.is_waiting = call_is_awaited(c), .refused_version = c->refused_version,
		.port_calls = c->stats.port_calls, .last_call_ms = c->stats.last_call_ms,
	};
	if (c->area.is_registered)
		ret->guest = guest_of(c);
	c->is_known = c->area.is_registered; // what changes between this and the ATTACH is owed
	c->owed = 0;
	for (size_t i = 0; i < sizeof(ret->name) - 1 && name[i]; i++)
		ret->name[i] = name[i];
}

void call_broker_came(struct call *c)
{
	c->has_broker = true;
	if (c->area.is_registered) {
		if (!c->is_known)
			c->owed |= OWE_REGISTERED;
		(void)area_attention_set(&c->area, ATTENTION_CALL); // lost: the next call finds it
	}
	if (call_is_awaited(c)) {
		call_resend(c);
	} else if (c->state == CALL_ST_WAITING) {
		c->state = CALL_ST_COLLECTING; // nobody has seen anything of this call
	}
}

void call_broker_gone(struct call *c, uint64_t now_ms)
{
	c->is_known = false;
	c->owed = c->shown = 0; // the next broker learns the state from LINK_HELLO
	if (!c->has_broker)
		return;
	c->has_broker = false;
	c->broker_gone_ms = now_ms;
	call_breakin_cancel(c);
	untake(c);
	if (c->ending)
		call_cut(c, c->ending);
	if (c->state == CALL_ST_COLLECTING && is_wait(c))
		c->state = CALL_ST_WAITING;
	else if (c->state == CALL_ST_COLLECTING && c->fn != CALL_UNREGISTER)
		answer(c, CODE_NOBODY);
	c->owed = 0; // what ending and cutting left
}

bool call_deliver(struct call *c, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len)
{
	if (c->state != CALL_ST_WAITING || !c->is_told || kd_type != c->want || body_len > RECORD_BODY_MAX ||
	    hdr_len > body_len) {
		c->stats.dropped_deliver++;
		return false;
	}
	if (call_look(c))
		return true;
	c->is_told = false;
	int err = area_put(&c->area, kd_type, hdr_len, body, body_len);
	if (err == AREA_E_HEAD) {
		answer_guest_error(c);
	} else if (err) {
		call_cut(c, LINK_GONE_AREA);
	} else {
		c->stats.packets_in++;
		c->stats.bytes_in += body_len;
		answer(c, CODE_OK);
	}
	return true;
}

void call_breakin(struct call *c)
{
	c->is_breakin_pending = true;
	(void)area_attention_set(&c->area, ATTENTION_BREAKIN); // nobody registered: set at the registration
}

void call_breakin_cancel(struct call *c)
{
	if (!c->is_breakin_pending)
		return;
	c->is_breakin_pending = false;
	(void)area_attention_clear(&c->area, ATTENTION_BREAKIN); // nobody registered: there is no bit
}

void call_resend(struct call *c)
{
	if (!call_is_awaited(c))
		return;
	if (c->is_parked) {
		c->is_resend_due = true;
		return;
	}
	if (call_look(c))
		return;
	c->is_told = false;
	answer(c, CODE_RESEND);
}

static int feed_head(struct call *c, const struct link_head *head, const uint8_t *body)
{
	switch (head->type) {
	case LINK_DELIVER:
		if (head->hdr_len > head->body_len)
			return CALL_E_LINK;
		if (!call_deliver(c, head->kd_type, head->hdr_len, body, head->body_len) || !(head->flags & LINK_F_RESUMES))
			return CALL_FED;
		c->is_stopped = false;
		return CALL_FED_RESUMES;
	case LINK_BREAKIN:
		call_breakin(c);
		return CALL_FED;
	case LINK_BREAKIN_CANCEL:
		call_breakin_cancel(c);
		return CALL_FED;
	case LINK_RESEND:
		call_resend(c);
		return CALL_FED;
	case LINK_STATS_GET:
		c->owed |= OWE_STATS;
		return CALL_FED;
	default:
		return CALL_E_LINK;
	}
}

int call_feed(struct call *c, const void *message, size_t len)
{
	struct link_head head;
	if (len < sizeof(head))
		return CALL_E_LINK;
	memcpy(&head, message, sizeof(head));
	if (head.body_len > LINK_BODY_MAX || head.body_len != len - sizeof(head) || head.reserved || head.reserved2)
		return CALL_E_LINK;
	if ((head.type == LINK_ATTACH) == c->has_broker) // first, and only then
		return CALL_E_LINK;
	if (head.type != LINK_ATTACH)
		return feed_head(c, &head, (const uint8_t *)message + sizeof(head));
	if (head.seq != LINK_VERSION)
		return CALL_E_LINK_VERSION;
	call_broker_came(c);
	return CALL_FED;
}
