// SPDX-License-Identifier: MIT
// The host as an adversary: it answers what it likes and writes where it likes in the area, at each call. The module must neither
// crash nor loop, its own positions must stay possible, and with an honest host it must work again.
//
// Input: byte 0 chooses the ways in; then one step after the other, each (step, tampering count), and the
// tamperings are read when the step makes a call: (answer, where, what).
#define TESTTOOLS_FUZZ
#include "guest/kdvmkd/testtools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const uint8_t *input;
static size_t input_len;
static uint32_t tamperings; // that the current step may still use

static uint32_t next(uint32_t bytes)
{
	uint32_t value = 0;
	for (; bytes && input_len; bytes--, input_len--)
		value = value << 8 | *input++;
	return value;
}

static void script_next(struct fakehost *h)
{
	static const uint32_t answers[] = { FAKE_NATURAL, CODE_OK, CODE_RETRY, CODE_TIMEOUT, CODE_RESEND, CODE_REREGISTER, CODE_NOBODY,
	                                    CODE_VERSION, CODE_REFUSED, CODE_BREAKIN, 9, FAKE_NO_TAG };
	fake_script(h, answers[next(1) % (sizeof(answers) / sizeof(answers[0]))]);
}

static void tamper(struct fakehost *h, struct area_head *head, uint32_t fn)
{
	uint32_t done = head->tx_done_seq;
	if (!tamperings || !input_len)
		return;
	tamperings--;
	script_next(h);
	uint32_t where = next(2);
	uint32_t what = next(4);
	if (where & 0x8000) { // a word of the host's half, or the attention word
		uint32_t *words = (uint32_t *)((uint8_t *)head + offsetof(struct area_head, tx_tail));
		words[(where & 0x7FFF) % 17] = what;
	} else { // any 4 bytes of the pages
		uint8_t *pages = h->memory[h->where][0];
		memcpy(pages + (where * 4u) % (sizeof(h->memory[0]) - 4), &what, sizeof(what));
	}
	if (fn == CALL_REGISTER)
		head->tx_done_seq = done; // a host that lies to itself here takes no packets, and has itself to blame
}

static void step(uint32_t which)
{
	switch (which) {
	case 0: transport_start(enter()); break;
	case 1: transport_phase1(enter()); break;
	case 2: transport_sleep(enter()); break;
	case 3: transport_wake(enter()); break;
	case 4: transport_suspect(enter()); break;
	case 5: send_print((uint16_t)next(2)); break;
	case 6: send_load(); break;
	case 7: send_exception(); break;
	case 8: send_reply((uint16_t)next(2)); break;
	case 9: (void)receive(); break; // whatever it says
	case 10: (void)poll(); break;   // as above
	case 11: fake_move(&bench.h); break;
	case 12: pass_second(); break;
	case 13: bench.h.has_broker = !bench.h.has_broker; break;
	case 14: fake_forget(&bench.h); break;
	default: bench.h.is_deaf = !bench.h.is_deaf; break;
	}
}

static void assert_possible(const struct ring *r)
{
	assert_true(r->head < r->wrap && r->tail < r->wrap);
	assert_true(r->head % RECORD_ALIGN == 0 && r->tail % RECORD_ALIGN == 0);
	assert_true(ring_used(r) <= r->capacity);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	input = data;
	input_len = len;
	uint32_t ways = next(1);
	setup(ways & 1, ways & 2);
	bench.h.cycles_per_look = 1000000; // spins end soon
	bench.h.tamper = tamper;
	(void)enter(); // starts the rings
	while (input_len) {
		uint32_t which = next(1);
		tamperings = which >> 4;
		step(which % 16);
		assert_possible(&bench.t.area.tx);
		assert_possible(&bench.t.area.rx);
		assert_true(bench.t.is_free == 1);
		uint32_t calls = bench.h.calls;
		assert_true(calls < 4 * RETRY_MAX);
		bench.h.calls = 0;
	}
	if (!bench.h.has_hook && !bench.h.has_debugcon)
		return 0;
	bench.h.is_deaf = false;
	bench.h.queue_count = 0;
	for (uint32_t i = 0; i < FAKE_MEMORIES; i++) // a host that is new looks at the heads it finds
		((struct area_head *)bench.h.memory[i][0])->attention |= ATTENTION_CALL;
	assert_works();
	return 0;
}
