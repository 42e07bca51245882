// SPDX-License-Identifier: MIT
#include "vmm/virtualkd.h"

#include <string.h>

#include "wire/kdapi.h"

// Where the stand-in's pages are as the calls see them: beyond what any processor can address.
#define STAND_IN_GPA (1ull << 60)

void virtualkd_init(struct virtualkd *k)
{
	memset(k, 0, sizeof(*k));
	for (uint32_t i = 0; i < AREA_PAGES; i++)
		k->page[i] = k->memory[i];
	k->range = (struct gpa_range){ .gpa = STAND_IN_GPA, .size = sizeof(k->memory), .host = k->memory[0] };
}

// ---- The stand-in: what kdvmkd.dll does ---------------------------------------------------------

static struct area_head *head_of(struct virtualkd *k)
{
	return (struct area_head *)k->memory[0];
}

// -> true, as the page counts are what they are.
static bool lay_out(struct virtualkd *k, uint32_t arch)
{
	struct area_head *h = head_of(k);
	memset(k->memory, 0, sizeof(k->memory));
	k->nonce++;
	for (uint32_t i = 0; i < AREA_PAGES; i++) {
		const struct page_head p = { .nonce = k->nonce, .index = i };
		memcpy(k->memory[i], &p, sizeof(p));
		h->page_gpa[i] = STAND_IN_GPA + (uint64_t)i * AREA_PAGE_SIZE;
	}
	h->magic = AREA_MAGIC;
	h->version = AREA_VERSION;
	h->page_count = AREA_PAGES;
	h->arch = arch;
	h->tx_pages = AREA_TX_PAGES;
	h->rx_pages = AREA_RX_PAGES;
	h->tx_done_seq = k->tx_seq;
	k->has_question = k->is_droppable_wait = false;
	k->parked_want = 0;
	return !ring_init(&k->tx, &k->page[1], AREA_TX_PAGES, 0) && !ring_init(&k->rx, &k->page[1 + AREA_TX_PAGES], AREA_RX_PAGES, 0);
}

static bool is_registered(const struct call *c)
{
	return c->area.is_registered && c->dialect == LINK_DIALECT_VIRTUALKD && !c->ending;
}

// Take over the machine's view of both rings after a call.
static void sync(struct virtualkd *k)
{
	const struct area_head *h = head_of(k);
	if (ring_set_tail(&k->tx, h->tx_tail) || ring_set_head(&k->rx, h->rx_head))
		return; // both words are our own machine's: they can be
}

static enum virtualkd_next refuse(struct call *c, const struct gpa_map *map, const struct virtualkd_rpc *rpc)
{
	c->stats.refused++;
	(void)vkd_refuse(map, &rpc->request); // not written: the guest knows that its request has failed, too
	return VIRTUALKD_DONE;
}

static uint32_t make_call(struct virtualkd *k, struct call *c, const struct virtualkd_exit *x, struct call_args *args, uint32_t flags,
                          uint32_t want, uint64_t now_ms)
{
	const struct gpa_map map = { .ranges = &k->range, .count = 1 };
	struct area_head *h = head_of(k);
	h->call_fn = args->fn;
	h->call_flags = flags;
	h->call_want = want;
	h->call_seq = args->seq = k->call_seq;
	args->vcpu = x->vcpu;
	args->has_regs = true;
	args->cr0 = x->cr0, args->cr3 = x->cr3, args->cr4 = x->cr4, args->efer = x->efer;
	args->dialect = LINK_DIALECT_VIRTUALKD;
	c->stats.port_calls--; // the request was counted as one, however many calls it takes
	return call_begin(c, &map, args, now_ms);
}

static uint32_t make_simple_call(struct virtualkd *k, struct call *c, const struct virtualkd_exit *x, uint32_t fn, uint64_t now_ms)
{
	struct call_args args = { .fn = fn };
	k->call_seq++;
	return make_call(k, c, x, &args, 0, 0, now_ms);
}

// -> false: another vCPU of this guest has a call open, so it cannot be a guest that starts.
static bool register_guest(struct virtualkd *k, struct call *c, const struct virtualkd_exit *x, uint32_t version, uint64_t now_ms)
{
	struct call_args args = { .fn = CALL_REGISTER, .head = { STAND_IN_GPA }, .version = AREA_VERSION, .dialect_version = version };
	if (c->state != CALL_ST_IDLE)
		return false;
	k->call_seq++;
	return lay_out(k, x->arch) && make_call(k, c, x, &args, 0, 0, now_ms) == CODE_OK;
}

static bool is_packet(const struct vkd_request *r)
{
	return r->kd_type != KD_PACKET_STATE_CHANGE32 && kd_header_size(r->kd_type) && r->first.length == kd_header_size(r->kd_type);
}

static bool is_droppable(const struct vkd_request *r)
{
	return kd_is_droppable(r->kd_type, r->body, r->first.length);
}

// A packet that nobody answers.
static bool is_print(const struct vkd_request *r)
{
	return is_droppable(r) && (r->kd_type == KD_PACKET_DEBUG_IO || r->kd_type == KD_PACKET_TRACE_IO);
}

// -> false: there is no room.
static bool put_packet(struct virtualkd *k, const struct vkd_request *r)
{
	const struct ring_packet p = {
		.kd_type = (uint16_t)r->kd_type, .hdr_len = r->first.length, .data_len = r->second.length, .seq = k->tx_seq + 1,
	};
	uint32_t start = k->tx.head;
	sync(k);
	if (ring_put(&k->tx, &p, r->body, r->body + r->first.length))
		return false;
	k->tx_seq++;
	order_store_release(&head_of(k)->tx_head, k->tx.head); // pairs with the machine's read in the next call
	k->has_question = r->kd_type != KD_PACKET_MANIPULATE && !is_print(r);
	k->question_start = start;
	return true;
}

// The kernel will say its state again: what nobody has taken yet, nobody shall see twice.
static void withdraw_question(struct virtualkd *k)
{
	sync(k);
	uint32_t len = (k->tx.head + k->tx.wrap - k->question_start) % k->tx.wrap;
	if (k->has_question && len <= ring_used(&k->tx)) {
		k->tx.head = k->question_start;
		order_store_release(&head_of(k)->tx_head, k->tx.head); // pairs with the machine's read in the next call
	}
	k->has_question = false;
}

// ---- 's' ----------------------------------------------------------------------------------------

static enum virtualkd_next answer_send(const struct gpa_map *map, const struct virtualkd_rpc *rpc, uint32_t globals)
{
	(void)vkd_reply_send(map, &rpc->request, globals); // not written: the guest knows that its request has failed
	return globals & VKD_GLOBAL_RETRY ? VIRTUALKD_REST : VIRTUALKD_DONE;
}

static enum virtualkd_next end_send(struct virtualkd *k, const struct gpa_map *map, struct virtualkd_rpc *rpc, uint32_t code)
{
	const struct vkd_request *r = &rpc->request;
	rpc->is_put = rpc->is_put || put_packet(k, r);
	// What is in the ring stays there for a broker that comes later.
	if (is_droppable(r) && (!rpc->is_put || code == CODE_NOBODY))
		return answer_send(map, rpc, VKD_GLOBALS_DROPPED);
	return answer_send(map, rpc, rpc->is_put ? VKD_GLOBALS_PRESENT : VKD_GLOBALS_AGAIN);
}

static enum virtualkd_next begin_send(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                      struct virtualkd_rpc *rpc, uint64_t now_ms)
{
	const struct vkd_request *r = &rpc->request;
	k->parked_want = 0;
	if (!is_packet(r))
		return refuse(c, map, rpc);
	if (r->kd_type != KD_PACKET_MANIPULATE)
		k->is_droppable_wait = is_droppable(r);
	if (is_droppable(r) && !c->has_broker)
		return answer_send(map, rpc, VKD_GLOBALS_DROPPED);
	rpc->is_put = put_packet(k, r);
	// A question or a reply goes with the wait that follows; a print is read at once, and a full ring has to be.
	if (rpc->is_put && !is_print(r))
		return answer_send(map, rpc, VKD_GLOBALS_PRESENT);
	uint32_t code = make_simple_call(k, c, x, CALL_EXCHANGE, now_ms);
	return code == CALL_PENDING ? VIRTUALKD_CALL : end_send(k, map, rpc, code);
}

// ---- 'r' ----------------------------------------------------------------------------------------

// Without a broker the guest believes what it believed.
static uint32_t globals_now(const struct call *c, const struct vkd_request *r)
{
	return c->has_broker ? VKD_GLOBALS_PRESENT : r->globals & ~VKD_GLOBAL_RETRY;
}

static enum virtualkd_next answer_receive(const struct call *c, const struct gpa_map *map, const struct virtualkd_rpc *rpc, uint32_t code)
{
	(void)vkd_reply_code(map, &rpc->request, code, globals_now(c, &rpc->request)); // not written: to the guest that is a 2
	return VIRTUALKD_DONE;
}

static enum virtualkd_next end_poll(const struct call *c, const struct gpa_map *map, const struct virtualkd_rpc *rpc, uint32_t code)
{
	return answer_receive(c, map, rpc, code == CODE_BREAKIN ? VKD_RECEIVED : VKD_TIMED_OUT);
}

// While a guest waits, or will wait again in a moment, its other processors stand still: one that polls all the same changes nothing.
static enum virtualkd_next begin_poll(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                      const struct virtualkd_rpc *rpc, uint64_t now_ms)
{
	bool is_busy = c->state != CALL_ST_IDLE || c->is_parked;
	bool has_work = area_attention(&c->area) & ATTENTION_BREAKIN || ring_used(&k->tx);
	if (!c->has_broker || is_busy || !has_work)
		return answer_receive(c, map, rpc, VKD_TIMED_OUT);
	uint32_t code = make_simple_call(k, c, x, CALL_POLL, now_ms);
	return code == CALL_PENDING ? VIRTUALKD_CALL : end_poll(c, map, rpc, code);
}

static enum virtualkd_next hand_over(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_rpc *rpc)
{
	uint8_t body[RECORD_BODY_MAX];
	struct ring_packet p;
	k->has_question = false;
	if (ring_take(&k->rx, &p, body)) // our own machine has just put it there
		return answer_receive(c, map, rpc, VKD_TIMED_OUT);
	order_store_release(&head_of(k)->rx_tail, k->rx.tail); // pairs with the machine's read in the next call
	uint32_t len = p.hdr_len + p.data_len;
	if (!vkd_has_room(&rpc->request, len)) {
		c->stats.dropped_deliver++;
		return answer_receive(c, map, rpc, VKD_RESEND);
	}
	(void)vkd_reply_packet(map, &rpc->request, VKD_GLOBALS_PRESENT, body, len); // not written: to the guest that is a 2
	return VIRTUALKD_DONE;
}

static enum virtualkd_next end_receive(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_rpc *rpc,
                                       uint32_t code)
{
	switch (code) {
	case CODE_OK:
		return hand_over(k, c, map, rpc);
	case CODE_RESEND:
	case CODE_REREGISTER:
	case CODE_NOBODY:
		withdraw_question(k);
		return answer_receive(c, map, rpc, VKD_RESEND);
	case CODE_RETRY:
		k->parked_want = rpc->request.kd_type;
		return answer_receive(c, map, rpc, VKD_TIMED_OUT);
	default:
		return answer_receive(c, map, rpc, VKD_TIMED_OUT);
	}
}

static enum virtualkd_next begin_receive(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                         struct virtualkd_rpc *rpc, uint64_t now_ms)
{
	uint32_t want = rpc->request.kd_type;
	struct call_args args = { .fn = CALL_EXCHANGE };
	if (want < 1 || want > 15) // KD packet types are small numbers (KD reference, section 1.3)
		return refuse(c, map, rpc);
	if (want != k->parked_want) // a wait that goes on is the same call
		k->call_seq++;
	k->parked_want = 0;
	uint32_t code = make_call(k, c, x, &args, CALL_F_WAIT | (k->is_droppable_wait ? CALL_F_DROPPABLE : 0), want, now_ms);
	return code == CALL_PENDING ? VIRTUALKD_CALL : end_receive(k, c, map, rpc, code);
}

// ---- Any request --------------------------------------------------------------------------------

enum virtualkd_next virtualkd_end(struct virtualkd *k, struct call *c, const struct gpa_map *map, struct virtualkd_rpc *rpc, uint32_t code)
{
	sync(k);
	if (rpc->request.command == VKD_SEND)
		return end_send(k, map, rpc, code);
	if (rpc->request.kd_type == VKD_TYPE_POLL)
		return end_poll(c, map, rpc, code);
	return end_receive(k, c, map, rpc, code);
}

static enum virtualkd_next answer_version(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                          const struct virtualkd_rpc *rpc, uint64_t now_ms)
{
	uint32_t version = rpc->request.version;
	if (!register_guest(k, c, x, version, now_ms))
		return refuse(c, map, rpc);
	(void)vkd_reply_version(map, &rpc->request, version); // its own satisfies every generation (section 4.8)
	return VIRTUALKD_DONE;
}

enum virtualkd_next virtualkd_begin(struct virtualkd *k, struct call *c, const struct gpa_map *map, const struct virtualkd_exit *x,
                                    struct virtualkd_rpc *rpc, uint64_t now_ms)
{
	gpa_t at;
	rpc->is_put = false;
	if (vkd_find(map, x->value, x->rax, &k->high, &at))
		return VIRTUALKD_NOT_OURS;
	int outcome = vkd_read(map, at, &rpc->request);
	if (outcome == VKD_E_NONE)
		return VIRTUALKD_NOT_OURS;
	c->stats.port_calls++;
	c->stats.last_call_ms = now_ms;
	if (outcome == VKD_E_REFUSED)
		return refuse(c, map, rpc);
	if (rpc->request.command == VKD_VERSION)
		return answer_version(k, c, map, x, rpc, now_ms);
	if (rpc->request.command == VKD_TEST) {
		(void)vkd_reply_test(map, &rpc->request); // not written: the guest knows that its request has failed
		return VIRTUALKD_DONE;
	}
	bool is_others = c->area.is_registered && c->dialect != LINK_DIALECT_VIRTUALKD && !c->ending;
	if (is_others || (!is_registered(c) && !register_guest(k, c, x, 0, now_ms)))
		return refuse(c, map, rpc);
	if (rpc->request.command == VKD_SEND)
		return begin_send(k, c, map, x, rpc, now_ms);
	if (rpc->request.kd_type == VKD_TYPE_POLL)
		return begin_poll(k, c, map, x, rpc, now_ms);
	return begin_receive(k, c, map, x, rpc, now_ms);
}
