// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/fakehost.h"

#include <string.h>

static uint64_t gpa_of(const struct fakehost *h, uint32_t memory, uint32_t page)
{
	// Above 4 GiB and never contiguous.
	return 0x123456000ull + h->gpa_offset + memory * 0x10000000ull + (uint64_t)page * 3 * AREA_PAGE_SIZE;
}

static uint8_t *resolve(struct fakehost *h, uint64_t gpa)
{
	for (uint32_t m = 0; m < FAKE_MEMORIES; m++) {
		for (uint32_t p = 0; p < AREA_PAGES; p++) {
			if (gpa_of(h, m, p) == gpa)
				return h->memory[m][p];
		}
	}
	return NULL;
}

struct area_head *fake_head(struct fakehost *h)
{
	return (struct area_head *)h->memory[h->where][0];
}

static bool owns(const struct fakehost *h, uint32_t page)
{
	struct page_head head;
	memcpy(&head, h->page[page], sizeof(head));
	return head.nonce == h->nonce && head.index == page;
}

// ---- The host's half of a call --------------------------------------------------------------------

static uint32_t do_register(struct fakehost *h, uint64_t gpa)
{
	struct area_head *head = (struct area_head *)resolve(h, gpa);
	h->is_registered = false;
	if (!head || head->magic != AREA_MAGIC || !head->page.nonce || head->page_count != AREA_PAGES) {
		h->protocol_errors++;
		return CODE_REFUSED;
	}
	if (head->page.nonce == h->nonce)
		h->protocol_errors++; // never twice the same
	h->nonce = head->page.nonce;
	for (uint32_t i = 0; i < AREA_PAGES; i++) {
		h->page[i] = resolve(h, head->page_gpa[i]);
		if (!h->page[i] || !owns(h, i)) {
			h->protocol_errors++;
			return CODE_REFUSED;
		}
	}
	if (ring_init(&h->tx, &h->page[1], head->tx_pages, head->tx_base) || ring_set_head(&h->tx, head->tx_head) ||
	    ring_init(&h->rx, &h->page[1 + head->tx_pages], head->rx_pages, head->rx_tail)) {
		h->protocol_errors++;
		return CODE_REFUSED;
	}
	h->tx_done_seq = head->tx_done_seq;
	h->rx_seq = head->rx_done_seq;
	h->is_registered = true;
	return CODE_OK;
}

// -> false: what the guest has put into the ring cannot be.
static bool collect(struct fakehost *h, struct area_head *head)
{
	struct ring_packet p;
	static uint8_t body[RECORD_BODY_MAX];
	int err = ring_set_head(&h->tx, head->tx_head);
	if (err) {
		h->protocol_errors++;
		return false;
	}
	while ((err = ring_take(&h->tx, &p, body)) == RING_OK) {
		if ((int32_t)(p.seq - h->tx_done_seq) <= 0)
			continue;
		h->tx_done_seq = p.seq;
		struct fake_packet *got = &h->got[h->got_count++ % FAKE_GOT_MAX];
		*got = (struct fake_packet){ .kd_type = p.kd_type, .hdr_len = p.hdr_len, .seq = p.seq,
		                             .len = p.hdr_len + p.data_len };
		memcpy(got->body, body, got->len);
	}
	if (err == RING_E_RECORD)
		h->protocol_errors++;
	return err != RING_E_RECORD;
}

static uint32_t wait(struct fakehost *h, struct area_head *head)
{
	if (!h->has_broker)
		return head->call_flags & CALL_F_DROPPABLE ? CODE_NOBODY : CODE_TIMEOUT;
	if (!h->queue_count)
		return CODE_TIMEOUT;
	struct fake_packet *q = &h->queue[0];
	struct ring_packet p = { .kd_type = q->kd_type, .hdr_len = q->hdr_len, .data_len = q->len - q->hdr_len, .seq = ++h->rx_seq };
	h->rx.is_summed = head->features & AREA_FEATURE_RX_SUM;
	if (ring_set_tail(&h->rx, head->rx_tail) || ring_put(&h->rx, &p, q->body, q->body + q->hdr_len))
		return CODE_REFUSED;
	memmove(&h->queue[0], &h->queue[1], sizeof(h->queue[0]) * --h->queue_count);
	return CODE_OK;
}

static uint32_t answer_naturally(struct fakehost *h, uint32_t fn, uint64_t gpa)
{
	struct area_head *head = fake_head(h);
	if (fn == CALL_REGISTER)
		return do_register(h, gpa);
	if (!h->is_registered)
		return CODE_REREGISTER;
	if (!owns(h, 0)) {
		h->lost_pages++;
		h->is_registered = false;
		return CODE_REREGISTER;
	}
	head = (struct area_head *)h->page[0];
	if (fn == CALL_UNREGISTER) {
		h->is_registered = false;
		return CODE_OK;
	}
	if (fn != CALL_POLL && fn != CALL_EXCHANGE) {
		h->protocol_errors++;
		return CODE_REFUSED;
	}
	if (!h->has_broker && !(head->call_flags & CALL_F_WAIT))
		return CODE_NOBODY;
	if (h->has_broker && !collect(h, head)) {
		h->is_registered = false;
		return CODE_REREGISTER;
	}
	if (fn == CALL_EXCHANGE && (head->call_flags & CALL_F_WAIT))
		return wait(h, head);
	if (fn == CALL_POLL && h->is_breakin) {
		h->is_breakin = false;
		return CODE_BREAKIN;
	}
	return CODE_OK;
}

static void write_reply(struct fakehost *h, struct area_head *head, uint32_t code)
{
	if (h->is_registered && owns(h, 0)) {
		head->tx_tail = h->tx.tail;
		head->rx_head = h->rx.head;
		head->tx_done_seq = h->tx_done_seq;
		head->host_features = head->features & AREA_FEATURES;
		head->host_flags = h->has_broker ? HOST_F_LISTENER : 0;
	}
	head->host_version = AREA_VERSION;
	head->reply_code = RESULT_TAG | (code & ~RESULT_TAG_MASK);
	order_store_release(&head->reply_seq, head->call_seq); // partner: the guest's acquire; one thread here
}

static uint32_t handle(struct fakehost *h, uint32_t fn, uint64_t gpa)
{
	uint32_t scripted = h->script_at < h->script_count ? h->script[h->script_at++] : FAKE_NATURAL;
	struct area_head *head = fake_head(h);
	h->calls++;
	if (fn < 5)
		h->calls_of[fn]++;
	h->last_seq = head->call_seq;
	h->last_flags = head->call_flags;
	h->last_want = head->call_want;
	if (head->call_fn != fn)
		h->protocol_errors++;
	if (scripted == FAKE_NO_TAG)
		return 0xFFFFFFFFu;
	uint32_t code = scripted == FAKE_NATURAL ? answer_naturally(h, fn, gpa) : scripted;
	write_reply(h, head, code);
	if (h->tamper)
		h->tamper(h, head, fn);
	return RESULT_TAG | (code & ~RESULT_TAG_MASK);
}

// ---- struct machine --------------------------------------------------------------------------------

static uint32_t port_call(void *ctx, uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi)
{
	struct fakehost *h = ctx;
	if (!h->has_hook)
		return 0xFFFFFFFFu;
	if (fn == CALL_REGISTER && edi != AREA_VERSION)
		h->protocol_errors++;
	if (fn != CALL_REGISTER && ebx != fake_head(h)->call_seq)
		h->protocol_errors++;
	return handle(h, fn, (uint64_t)esi << 32 | ebx);
}

static uint8_t port_read(void *ctx, uint16_t port)
{
	struct fakehost *h = ctx;
	return port == DEBUGCON_PORT && h->has_debugcon ? DEBUGCON_READBACK : 0xFF;
}

static void read_bell(struct fakehost *h)
{
	struct area_head *head = fake_head(h);
	head->ring_seen = head->ring_seq;
	if (!h->is_slow)
		(void)handle(h, head->call_fn, gpa_of(h, h->where, 0)); // the answer is in the head
}

static void read_hello(struct fakehost *h)
{
	uint64_t gpa = 0;
	uint8_t sum = 0;
	for (uint32_t i = 0; i < 8; i++) {
		gpa |= (uint64_t)h->partial[1 + i] << (8 * i);
		sum = (uint8_t)(sum + h->partial[1 + i]);
	}
	h->hellos++;
	if (sum != h->partial[9] || fake_head(h)->call_fn != CALL_REGISTER) {
		h->protocol_errors++;
		return;
	}
	if (!h->is_slow && !h->is_deaf)
		(void)handle(h, CALL_REGISTER, gpa); // the answer is in the head
}

static void port_write(void *ctx, uint16_t port, uint8_t value)
{
	struct fakehost *h = ctx;
	h->bytes++;
	if (port != DEBUGCON_PORT || !h->has_debugcon) {
		h->protocol_errors++;
		return;
	}
	if (h->partial_len == 0 && value == DOORBELL_RING) {
		h->rings++;
		if (fake_head(h)->ring_seen + 1 != fake_head(h)->ring_seq)
			h->protocol_errors++; // more than one byte under way
		if (!h->is_deaf)
			read_bell(h);
		return;
	}
	if (h->partial_len == 0 && value != DOORBELL_HELLO) {
		h->protocol_errors++;
		return;
	}
	h->partial[h->partial_len++] = value;
	if (h->partial_len == DOORBELL_HELLO_LEN) {
		h->partial_len = 0;
		read_hello(h);
	}
}

static void pause_cpu(void *ctx)
{
	struct fakehost *h = ctx;
	h->cycles += 10 * h->cycles_per_look;
}

static void take_slowly(struct fakehost *h)
{
	if (!h->is_slow || !h->slow_takes || h->cycles - h->slow_cycles < REPLY_CYCLES / 2)
		return;
	h->slow_cycles = h->cycles;
	fake_head(h)->tx_tail += RECORD_ALIGN; // the answer brings the true one
	if (--h->slow_takes == 0)
		fake_answer_late(h);
}

static uint64_t read_cycles(void *ctx)
{
	struct fakehost *h = ctx;
	h->cycles += h->cycles_per_look;
	take_slowly(h);
	return h->cycles;
}

static uint64_t read_interrupt_time(void *ctx)
{
	return ((struct fakehost *)ctx)->interrupt_time;
}

static gpa_t physical(void *ctx, const void *page)
{
	struct fakehost *h = ctx;
	uint32_t index = (uint32_t)(((const uint8_t *)page - h->memory[h->where][0]) / AREA_PAGE_SIZE);
	return (gpa_t){ gpa_of(h, h->where, index) };
}

static void control_regs(void *ctx, struct control_regs *ret)
{
	(void)ctx; // always the same
	*ret = (struct control_regs){ .cr0 = 0x80050033, .cr3 = 0x1aa000, .cr4 = 0x6f8, .efer = 0xd01 };
}

static void reload_translations(void *ctx)
{
	struct fakehost *h = ctx;
	h->reloads++;
}

static void set_present(void *ctx, bool is_present)
{
	struct fakehost *h = ctx;
	if (h->is_present != is_present)
		h->present_changes++;
	h->is_present = is_present;
}

static uint64_t module_base(void *ctx)
{
	(void)ctx; // any
	return 0xFFFFF80012340000ull;
}

const struct machine fake_machine = {
	.port_call = port_call, .port_read = port_read, .port_write = port_write, .pause = pause_cpu, .cycles = read_cycles,
	.interrupt_time = read_interrupt_time, .physical = physical, .control_regs = control_regs,
	.reload_translations = reload_translations,
	.set_present = set_present, .module_base = module_base,
};

// ---- For the tests -----------------------------------------------------------------------------------

void fake_init(struct fakehost *h)
{
	memset(h, 0, sizeof(*h));
	h->has_broker = true;
	h->cycles = 1000;
	h->cycles_per_look = 1000;
	h->is_present = true;
}

struct transport *fake_enter(struct fakehost *h, struct transport *t)
{
	transport_bind(t, &fake_machine, h, h->memory[h->where][0]);
	return t;
}

void fake_move(struct fakehost *h)
{
	uint32_t to = !h->where;
	memcpy(h->memory[to], h->memory[h->where], sizeof(h->memory[0]));
	memset(h->memory[h->where], FAKE_OLD_PATTERN, sizeof(h->memory[0]));
	h->where = to;
}

bool fake_is_old_memory_untouched(const struct fakehost *h)
{
	const uint8_t *old = h->memory[!h->where][0];
	for (size_t i = 0; i < sizeof(h->memory[0]); i++) {
		if (old[i] != FAKE_OLD_PATTERN)
			return false;
	}
	return true;
}

void fake_script(struct fakehost *h, uint32_t code)
{
	if (h->script_at == h->script_count)
		h->script_at = h->script_count = 0;
	h->script[h->script_count++ % FAKE_SCRIPT_MAX] = code;
}

void fake_queue(struct fakehost *h, uint16_t kd_type, uint16_t hdr_len, const void *body, uint32_t len)
{
	struct fake_packet *q = &h->queue[h->queue_count++];
	*q = (struct fake_packet){ .kd_type = kd_type, .hdr_len = hdr_len, .len = len };
	memcpy(q->body, body, len);
}

void fake_forget(struct fakehost *h)
{
	h->is_registered = false;
}

void fake_answer_late(struct fakehost *h)
{
	h->is_deaf = h->is_slow = false;
	if (fake_head(h)->call_fn == CALL_REGISTER)
		(void)handle(h, CALL_REGISTER, gpa_of(h, h->where, 0)); // the answer is in the head
	else
		read_bell(h);
}
