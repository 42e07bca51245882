// SPDX-License-Identifier: MIT
// A KD transport that attacks its host: bad registrations, heads, page lists, indexes and records, calls in the wrong order, floods; by the
// port call and by debugcon, whichever is there. It is what a guest that has been taken over could do. Afterwards it logs a
// verdict on port 0xE9 and is a transport without a link.
//
// The verdict fails when the host wrote into pages that were never the module's, or answered what no host may answer. Whether the
// VMM and the broker survived, and counted, is for the test that boots it.
//
// Rules: the attacks run in KdDebuggerInitialize1 and, a few at a time, in the break-in poll (on other CPUs at the
// same time, if there are some). The sequence is the same in every run.
#include "wire/order.h"
#include "wire/portcall.h"

#define EXPORT __attribute__((dllexport, used))
#define IMPORT __attribute__((dllimport))
#define DATA __attribute__((section(".data")))

#define LOG_PORT 0xE9u
#define GUARD 0xC3u
#define TX_PAGES 4u
#define RX_PAGES 2u
#define PAGES (1u + TX_PAGES + RX_PAGES)
#define ROUNDS 400u       // of each attack
#define POLL_ROUNDS 2000u // attacks made from polls, in all
#define CODES 9u          // enum call_code

IMPORT extern volatile uint8_t KdDebuggerNotPresent;
IMPORT int64_t MmGetPhysicalAddress(void *address);

// Every second page is the area's; the ones between are never named to the host as ours.
static DATA uint8_t memory[(2 * PAGES + 1) * AREA_PAGE_SIZE] __attribute__((aligned(AREA_PAGE_SIZE))) = { GUARD };
static DATA struct state {
	uint64_t random;
	uint32_t answers[CODES];
	uint32_t calls, silent, impossible, doorbells;
	uint32_t is_in_poll, poll_rounds;
	uint32_t has_port, has_debugcon;
} s = { .random = 0x9E3779B97F4A7C15ull };

void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);

// The compiler may ask for these two.
void *memset(void *to, int value, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(value) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t len)
{
	void *start = to;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
	return start;
}

// ---- Instructions -------------------------------------------------------------------------------

static void write_port(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %%al, %%dx" : : "a"(value), "d"(port) : "memory");
}

static uint8_t read_port(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %%dx, %%al" : "=a"(value) : "d"(port) : "memory");
	return value;
}

static uint32_t port_call(uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi)
{
	uint32_t eax = PORTCALL_MAGIC, ecx = fn << 16 | PORTCALL_COMMAND, edx = PORTCALL_PORT;
	__asm__ volatile("inl %%dx, %%eax" : "+a"(eax), "+b"(ebx), "+c"(ecx), "+d"(edx), "+S"(esi), "+D"(edi) : : "memory", "cc");
	return eax;
}

// xorshift64
static uint64_t draw(void)
{
	s.random ^= s.random << 13;
	s.random ^= s.random >> 7;
	s.random ^= s.random << 17;
	return s.random;
}

static uint32_t below(uint32_t limit)
{
	return (uint32_t)(draw() >> 32) % limit;
}

// ---- Log ----------------------------------------------------------------------------------------

static void log_text(const char *text)
{
	while (*text)
		write_port(LOG_PORT, (uint8_t)*text++);
}

static void log_number(const char *name, uint32_t value)
{
	char digits[11];
	uint32_t at = sizeof(digits) - 1;
	digits[at] = 0;
	do
		digits[--at] = (char)('0' + value % 10);
	while (value /= 10);
	log_text(name);
	log_text(&digits[at]);
}

// ---- The area -----------------------------------------------------------------------------------

static uint8_t *page(uint32_t index)
{
	return &memory[(2 * index + 1) * AREA_PAGE_SIZE];
}

static struct area_head *head(void)
{
	return (struct area_head *)page(0);
}

static uint64_t physical(const void *address)
{
	return (uint64_t)MmGetPhysicalAddress((void *)(uintptr_t)address);
}

static void lay_out(void)
{
	uint64_t nonce = draw() | 1;
	for (uint32_t i = 0; i < PAGES; i++) {
		struct page_head *p = (struct page_head *)page(i);
		wire_zero(p, AREA_PAGE_SIZE);
		p->nonce = nonce;
		p->index = i;
		if (i)
			head()->page_gpa[i] = physical(p);
	}
	struct area_head *h = head();
	h->magic = AREA_MAGIC;
	h->version = AREA_VERSION;
	h->page_count = PAGES;
	h->features = (uint32_t)draw();
	h->arch = ARCH_X64;
	h->tx_pages = TX_PAGES;
	h->rx_pages = RX_PAGES;
	h->page_gpa[0] = physical(h);
	h->call_seq = (uint32_t)draw();
}

static void note(uint32_t eax)
{
	s.calls++;
	if ((eax & RESULT_TAG_MASK) != RESULT_TAG)
		s.silent++;
	else if ((eax & ~RESULT_TAG_MASK) >= CODES)
		s.impossible++;
	else
		s.answers[eax & ~RESULT_TAG_MASK]++;
}

// Through debugcon the host looks when it comes to it. Half of the attacks give it the time to; the other half change the
// area while it looks.
static void linger(void)
{
	for (uint32_t i = below(2) ? 20000 : 0; i > 0; i--) {
		if (order_load(&head()->ring_seen) == head()->ring_seq)
			return;
		__asm__ volatile("pause" : : : "memory");
	}
}

static void ring(uint8_t byte)
{
	write_port(DEBUGCON_PORT, byte);
	s.doorbells++;
}

static void say_hello(uint64_t gpa, uint8_t error)
{
	uint8_t sum = error;
	ring(DOORBELL_HELLO);
	for (uint32_t i = 0; i < 8; i++) {
		uint8_t byte = (uint8_t)(gpa >> (8 * i));
		sum = (uint8_t)(sum + byte);
		ring(byte);
	}
	ring(sum);
}

static void register_at(uint64_t gpa, uint32_t version)
{
	head()->call_fn = CALL_REGISTER;
	if (s.has_port)
		note(port_call(CALL_REGISTER, (uint32_t)gpa, (uint32_t)(gpa >> 32), version));
	if (s.has_debugcon) {
		head()->ring_seq = order_load(&head()->ring_seen) + 1; // no byte announces it: linger its whole time
		say_hello(gpa, 0);
		linger();
	}
}

static void call(uint32_t fn, uint32_t flags, uint32_t want)
{
	struct area_head *h = head();
	h->call_fn = fn;
	h->call_flags = flags;
	h->call_want = want;
	h->call_seq++;
	if (s.has_port)
		note(port_call(fn, h->call_seq, 0, 0));
	if (s.has_debugcon) {
		h->ring_seq++;
		ring(DOORBELL_RING);
		linger();
	}
}

// No call that would wait: a host that keeps its promise would keep this CPU.
static void call_something(void)
{
	switch (below(5)) {
	case 0: call(CALL_POLL, (uint32_t)draw(), (uint32_t)draw()); break;
	case 1: call(CALL_EXCHANGE, 0, 0); break;
	case 2: call(CALL_EXCHANGE, CALL_F_WAIT, 16 + below(1000)); break; // waits for a type that does not exist
	case 3: call(CALL_EXCHANGE, (uint32_t)draw() | 4, 2); break;       // flags that do not exist
	default: call(6 + below(60000), 0, 0); break;
	}
}

// ---- Attacks ------------------------------------------------------------------------------------

static void attack_addresses(void)
{
	static const uint64_t chosen[] = {
		0, 1, 0xFFF, 0x1000, 0xA0000, 0xC0000, 0xF0000, 0xFFFFF000, 0xFEC00000, 0xFEE00000, 0x100000000,
		0x7FFFFFFFFFFFF000, 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF,
	};
	for (uint32_t i = 0; i < sizeof(chosen) / sizeof(chosen[0]); i++)
		register_at(chosen[i], AREA_VERSION);
	for (uint32_t i = 0; i < ROUNDS; i++)
		register_at(draw() >> below(64), (uint32_t)draw());
	for (uint32_t i = 0; i < ROUNDS; i++)
		register_at(physical(page(0)) + below(3 * AREA_PAGE_SIZE), AREA_VERSION);
}

static void spoil_head(void)
{
	uint32_t words = 1 + below(3);
	while (words--) {
		uint32_t offset = below(2) ? below(AREA_PAGE_SIZE / 4) * 4 : below(0x240 / 4) * 4;
		*(volatile uint32_t *)(page(0) + offset) = (uint32_t)draw() >> below(32);
	}
}

static void attack_heads(void)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		lay_out();
		spoil_head();
		register_at(physical(page(0)), head()->version);
		call_something();
	}
}

static void attack_page_lists(void)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		lay_out();
		uint64_t *entry = &head()->page_gpa[1 + below(PAGES - 1)];
		switch (below(5)) {
		case 0: *entry = head()->page_gpa[below(PAGES)]; break;
		case 1: *entry = physical(page(below(PAGES))) + AREA_PAGE_SIZE; break; // a page between: not ours
		case 2: *entry = draw(); break;
		case 3: *entry |= 1u << below(12); break;
		default: *entry = 0xC0000 + 0x1000ull * below(64); break; // ROM
		}
		register_at(physical(page(0)), AREA_VERSION);
		call_something();
	}
}

static void attack_positions(void)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		lay_out();
		register_at(physical(page(0)), AREA_VERSION);
		volatile uint32_t *word = below(2) ? &head()->tx_head : &head()->rx_tail;
		*word = (uint32_t)draw() >> below(32);
		call_something();
		call(CALL_EXCHANGE, 0, 0);
	}
}

static void attack_records(void)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		lay_out();
		register_at(physical(page(0)), AREA_VERSION);
		for (uint32_t turn = 0; turn < 3; turn++) {
			uint32_t *record = (uint32_t *)(page(1) + AREA_PAGE_HEAD + head()->tx_tail % 2048);
			for (uint32_t w = 0; w < 6; w++)
				record[w] = below(3) ? (uint32_t)draw() >> below(32) : 0;
			if (below(2)) { // almost a debug print
				record[0] = 48;
				record[1] = 3;
				record[3] = 16;
				record[4] = below(16);
			}
			head()->tx_head += RECORD_ALIGN * (1 + below(600));
			call(CALL_EXCHANGE, 0, 0);
		}
	}
}

static void attack_nonces(void)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		lay_out();
		register_at(physical(page(0)), AREA_VERSION);
		((struct page_head *)page(below(PAGES)))->nonce ^= 1ull << below(64);
		call_something();
		call(CALL_UNREGISTER, 0, 0);
		call(CALL_POLL, 0, 0);
	}
}

static void flood(void)
{
	lay_out();
	register_at(physical(page(0)), AREA_VERSION);
	for (uint32_t i = 0; i < 10 * ROUNDS; i++) {
		if (s.has_port)
			note(port_call(below(8) == 7 ? (uint32_t)draw() & 0xFFFF : CALL_POLL, (uint32_t)draw(), (uint32_t)draw(), (uint32_t)draw()));
		if (s.has_debugcon)
			ring((uint8_t)draw());
	}
	if (s.has_debugcon) {
		for (uint32_t i = 0; i < ROUNDS; i++)
			say_hello(draw(), (uint8_t)draw());
	}
}

static uint32_t count_spoiled_guards(void)
{
	uint32_t spoiled = 0;
	for (uint32_t i = 0; i < 2 * PAGES + 1; i += 2) {
		for (uint32_t at = 0; at < AREA_PAGE_SIZE; at++)
			spoiled += memory[i * AREA_PAGE_SIZE + at] != GUARD;
	}
	return spoiled;
}

static void log_verdict(void)
{
	uint32_t spoiled = count_spoiled_guards();
	bool is_found = s.has_port || s.has_debugcon;
	log_number("hostile: calls ", s.calls);
	log_number(", doorbells ", s.doorbells);
	log_number(", ok ", s.answers[CODE_OK]);
	log_number(", retry ", s.answers[CODE_RETRY]);
	log_number(", reregister ", s.answers[CODE_REREGISTER]);
	log_number(", nobody ", s.answers[CODE_NOBODY]);
	log_number(", version ", s.answers[CODE_VERSION]);
	log_number(", refused ", s.answers[CODE_REFUSED]);
	log_number(", silent ", s.silent);
	log_number(", impossible ", s.impossible);
	log_number(", spoiled bytes ", spoiled);
	bool passed = is_found && !s.impossible && !spoiled && (!s.has_port || (s.answers[CODE_REFUSED] && !s.silent));
	log_text(passed ? "\nhostile: verdict passed\n" : "\nhostile: verdict FAILED\n");
}

static void attack_all(void)
{
	for (uint32_t i = 0; i < 2 * PAGES + 1; i++)
		memset(&memory[i * AREA_PAGE_SIZE], i % 2 ? 0 : GUARD, AREA_PAGE_SIZE);
	s.has_port = (port_call(CALL_POLL, 0, 0, 0) & RESULT_TAG_MASK) == RESULT_TAG;
	s.has_debugcon = read_port(DEBUGCON_PORT) == DEBUGCON_READBACK;
	s.is_in_poll = 1; // the polls of other CPUs join in
	attack_addresses();
	attack_heads();
	attack_page_lists();
	attack_positions();
	attack_records();
	attack_nonces();
	flood();
	// Leave nothing registered behind, and nothing that a scan could take for an area.
	lay_out();
	register_at(physical(page(0)), AREA_VERSION);
	call(CALL_UNREGISTER, 0, 0);
	for (uint32_t i = 0; i < PAGES; i++)
		memset(page(i), 0, AREA_PAGE_SIZE);
	s.is_in_poll = 0;
	log_verdict();
}

// ---- The transport ------------------------------------------------------------------------------

int32_t KdD0Transition(void);
int32_t KdD3Transition(void);
int32_t KdDebuggerInitialize0(void *loader_block);
int32_t KdDebuggerInitialize1(void *loader_block);
uint32_t KdReceivePacket(uint32_t type, void *hdr, void *data, uint32_t *data_len, void *context);
int32_t KdRestore(uint8_t is_sleep_transition);
int32_t KdSave(uint8_t is_sleep_transition);
void KdSendPacket(uint32_t type, void *hdr, void *data, void *context);

EXPORT int32_t KdD0Transition(void)
{
	return 0;
}

EXPORT int32_t KdD3Transition(void)
{
	return 0;
}

EXPORT int32_t KdSave(uint8_t is_sleep_transition)
{
	(void)is_sleep_transition; // there is no link to save
	return 0;
}

EXPORT int32_t KdRestore(uint8_t is_sleep_transition)
{
	(void)is_sleep_transition; // there is no link to restore
	return 0;
}

EXPORT int32_t KdDebuggerInitialize0(void *loader_block)
{
	(void)loader_block; // nothing of it is needed
	KdDebuggerNotPresent = 1;
	return 0;
}

EXPORT int32_t KdDebuggerInitialize1(void *loader_block)
{
	(void)loader_block; // nothing of it is needed
	attack_all();
	KdDebuggerNotPresent = 1;
	return 0;
}

EXPORT void KdSendPacket(uint32_t type, void *hdr, void *data, void *context)
{
	(void)type, (void)hdr, (void)data, (void)context; // no link: dropped
	KdDebuggerNotPresent = 1;
}

EXPORT uint32_t KdReceivePacket(uint32_t type, void *hdr, void *data, uint32_t *data_len, void *context)
{
	(void)type, (void)hdr, (void)data, (void)data_len, (void)context; // no link: "no", or a time-out
	if (s.is_in_poll && s.poll_rounds < POLL_ROUNDS) {
		s.poll_rounds++;
		spoil_head();
		if (s.has_port)
			(void)port_call(below(8), (uint32_t)draw(), 0, AREA_VERSION); // counted by nobody: this CPU races with another
	}
	return 1;
}
