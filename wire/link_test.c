// SPDX-License-Identifier: MIT
// Two ends of a KDCOM link in virtual time, and a wire between them on which things go wrong. Every transfer has the right bytes or ends in a clean error;
// no request is executed twice; nobody waits for ever.
//
//   wire-link                             the tests
//   wire-link rates [FAULTS]              what becomes of conversations, as a table; of headers, too, which KDCOM does not protect
//   wire-link one PAIR KINDS RATE SEED    one conversation of the tests again
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/fake_ours.h"
#include "wire/fake_stock.h"

#define STOPS 4u
#define REQUESTS 6u // between two stops
#define PRINTS 2u   // before each stop
#define HANG_MS 3600000u

enum pair { OURS_OURS, OURS_STOCK, OURS_STOCK_ANY, STOCK_OURS, STOCK_STOCK, PAIR_COUNT };
static const char *const pair_names[PAIR_COUNT] = { "ours-ours", "ours-stock", "ours-any", "stock-ours", "stock-stock" };
static const char *const pair_texts[PAIR_COUNT] = {
	"our debugger, our target", "our debugger, stock target", "our debugger, stock target that takes any packet for an ACK",
	"stock debugger, our target", "stock debugger, stock target",
};

// From good to bad. LOST_PRINT: everything else is right; no packet is missed as easily, since nobody waits for a print.
enum outcome { RIGHT, CLEAN_ERROR, LOST_PRINT, WRONG, HANG, OUTCOME_COUNT };

// A frame that is missing or damaged, or comes twice, is repaired by kdcom alone. One that stops in its header takes the next one's bytes for the rest of
// it; then a write's fate may be unknown, which is a clean error.
#define FAULTS_SILENT (FAULT_BIT(FAULT_DROP) | FAULT_BIT(FAULT_BODY) | FAULT_BIT(FAULT_DOUBLE) | FAULT_BIT(FAULT_DELAY))

struct setting {
	enum pair pair;
	uint32_t kinds, per_mille, seed;
	bool has_one_fault;           // besides
	bool is_to_target;            // on which of the two wires
	uint32_t frame, at;           // see struct fake_wire
	enum fake_fault fault;
};

static struct world {
	uint64_t now;
	enum pair pair;
	struct fake_wire to_target, to_debugger;
	struct fake_kernel kernel;
	struct fake_user user;
	struct fake_debugger debugger;
	struct fake_target target;
} w;

static bool is_our_debugger(void)
{
	return w.pair == OURS_OURS || w.pair == OURS_STOCK || w.pair == OURS_STOCK_ANY;
}

static bool is_our_target(void)
{
	return w.pair == OURS_OURS || w.pair == STOCK_OURS;
}

static void start(const struct setting *s)
{
	w.now = 1000;
	w.pair = s->pair;
	fake_wire_init(&w.to_target, 2 * s->seed, s->per_mille, s->kinds);
	fake_wire_init(&w.to_debugger, 2 * s->seed + 1, s->per_mille, s->kinds);
	if (s->has_one_fault) {
		struct fake_wire *wire = s->is_to_target ? &w.to_target : &w.to_debugger;
		wire->aimed_frame = s->frame;
		wire->aimed_fault = s->fault;
		wire->aimed_at = s->at;
	}
	fake_kernel_init(&w.kernel, STOPS, PRINTS);
	fake_user_init(&w.user, s->seed, STOPS, PRINTS, REQUESTS);
	// Most listen for a boot first, some ask at once.
	uint64_t first_reset = s->seed % 4 ? w.now + FAKE_ATTACH_MS : w.now;
	if (is_our_debugger())
		fake_debugger_init(&w.debugger, &w.to_debugger, &w.to_target, &w.user, first_reset);
	else
		fake_stock_debugger_start(&w.to_debugger, &w.to_target, &w.user, first_reset);
	if (is_our_target())
		fake_target_init(&w.target, &w.to_target, &w.to_debugger, &w.kernel);
	else
		fake_stock_target_start(&w.to_target, &w.to_debugger, &w.kernel, s->pair == OURS_STOCK_ANY);
}

static bool turn(void)
{
	bool has_moved = is_our_debugger() ? fake_debugger_turn(&w.debugger, w.now) : fake_stock_debugger_turn(w.now);
	has_moved |= is_our_target() ? fake_target_turn(&w.target, w.now) : fake_stock_target_turn(w.now);
	has_moved |= fake_wire_timer(&w.to_target, w.now);
	return fake_wire_timer(&w.to_debugger, w.now) || has_moved;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

// Nothing moves any more: time goes on to the next thing that somebody waits for.
static void sleep_until_next(void)
{
	uint64_t next = is_our_debugger() ? fake_debugger_deadline(&w.debugger) : fake_stock_debugger_deadline();
	next = earlier(next, is_our_target() ? fake_target_deadline(&w.target) : fake_stock_target_deadline());
	next = earlier(next, earlier(fake_wire_deadline(&w.to_target), fake_wire_deadline(&w.to_debugger)));
	w.now = next > w.now ? next : w.now + 1;
}

static bool is_over(void)
{
	bool is_sending = is_our_debugger() && kdcom_is_sending(&w.debugger.kdcom);
	return w.user.wrong || w.user.error || (fake_user_is_done(&w.user) && !is_sending);
}

static bool has_unknown_write(void)
{
	return memchr(w.user.write_state, WRITE_UNKNOWN, sizeof(w.user.write_state)) != NULL;
}

static enum outcome run(const struct setting *s)
{
	start(s);
	while (!is_over()) {
		if (!turn())
			sleep_until_next();
		if (w.now > HANG_MS)
			return HANG;
	}
	fake_user_judge(&w.user, &w.kernel);
	if (w.user.wrong)
		return WRONG;
	if (w.user.has_lost_print)
		return LOST_PRINT;
	return w.user.error || has_unknown_write() ? CLEAN_ERROR : RIGHT;
}

static const char *explain(enum outcome outcome)
{
	if (outcome == HANG)
		return "they wait for each other";
	if (outcome == LOST_PRINT)
		return "a print is missing";
	if (w.user.wrong)
		return w.user.wrong;
	return w.user.error ? w.user.error : outcome == RIGHT ? "right" : "a write may or may not have been executed";
}

static unsigned faults_done(void)
{
	return fake_wire_faults(&w.to_target) + fake_wire_faults(&w.to_debugger);
}

__attribute__((noreturn)) static void fail_setting(const struct setting *s, enum outcome outcome)
{
	if (s->has_one_fault)
		fail_msg("%s, seed %u: %s at frame %u to the %s, byte %u: %s", pair_texts[s->pair], s->seed, fake_fault_name(s->fault), s->frame,
			 s->is_to_target ? "target" : "debugger", s->at, explain(outcome));
	fail_msg("%s: %s; again with: wire-link one %s 0x%x %u %u", pair_texts[s->pair], explain(outcome), pair_names[s->pair], s->kinds,
		 s->per_mille, s->seed);
	abort(); // fail_msg does not return
}

// ---- Campaigns ---------------------------------------------------------------------------------------------

struct tally {
	unsigned conversations, faults;
	unsigned of[OUTCOME_COUNT];
};

// Conversations until so many faults have happened. The first one that is worse than `worst` fails the test.
static struct tally campaign(enum pair pair, uint32_t kinds, unsigned faults, enum outcome worst)
{
	static const uint32_t rates[] = { 5, 10, 30, 60 };
	struct tally t = { 0 };
	for (uint32_t seed = 1; t.faults < faults; seed++) {
		const struct setting s = { .pair = pair, .kinds = kinds, .per_mille = rates[seed % 4], .seed = seed };
		enum outcome outcome = run(&s);
		if (outcome > worst)
			fail_setting(&s, outcome);
		t.conversations++;
		t.faults += faults_done();
		t.of[outcome]++;
	}
	return t;
}

static unsigned fault_goal(void)
{
	return getenv("VMKD_CHECK_LONG") ? 100000 : 10000;
}

// Each pair with every kind at once, and with those that are repaired without a word to the owner. All at once never more than so many: where a packet is
// delayed and its repetition is lost, one conversation in some 28000 meets an old packet whose id is valid again.
static void run_campaigns(enum pair pair, uint32_t kinds)
{
	struct tally all = campaign(pair, kinds, 10000, CLEAN_ERROR);
	(void)campaign(pair, kinds & ~FAULT_BIT(FAULT_DELAY), fault_goal(), CLEAN_ERROR); // which it has judged
	struct tally silent = campaign(pair, kinds & FAULTS_SILENT, fault_goal() / 4, RIGHT);
	print_message("%s: %u conversations, %u faults: %u right, %u clean errors; of those repaired in silence %u, %u: all right\n",
		      pair_texts[pair], all.conversations, all.faults, all.of[RIGHT], all.of[CLEAN_ERROR], silent.conversations, silent.faults);
}

static void without_faults_nothing_is_repeated(void **state)
{
	(void)state;
	for (enum pair pair = 0; pair < PAIR_COUNT; pair++) {
		for (uint32_t seed = 1; seed <= 200; seed++) {
			const struct setting s = { .pair = pair, .seed = seed };
			enum outcome outcome = run(&s);
			if (outcome != RIGHT || (w.user.prints_doubled && seed % 4))
				fail_setting(&s, outcome);
			assert_int_equal(w.kernel.requests, STOPS * REQUESTS);
			if (is_our_debugger())
				assert_int_equal(w.debugger.kdcom.counters.retransmissions + w.debugger.kdcom.counters.duplicates, 0);
			if (is_our_target() && seed % 4) // else a RESET meets a print in flight
				assert_int_equal(w.target.kdcom.counters.retransmissions + w.target.kdcom.counters.duplicates, 0);
		}
	}
}

static void our_debugger_and_our_target(void **state)
{
	(void)state;
	run_campaigns(OURS_OURS, FAULTS_REPAIRABLE);
}

static void our_debugger_and_a_stock_target(void **state)
{
	(void)state;
	run_campaigns(OURS_STOCK, FAULTS_REPAIRABLE);
}

// A target that takes any packet for an ACK loses its own when an old one comes again: the hole that section 1.7 of the reference describes in
// rule 5, and that no debugger can close. So nothing comes twice here, and no half of a frame meets the next one.
static void our_debugger_and_a_stock_target_that_takes_any_packet_for_an_ack(void **state)
{
	(void)state;
	run_campaigns(OURS_STOCK_ANY, FAULT_BIT(FAULT_DROP) | FAULT_BIT(FAULT_BODY));
}

static void a_stock_debugger_and_our_target(void **state)
{
	(void)state;
	run_campaigns(STOCK_OURS, FAULTS_REPAIRABLE);
}

// ---- One fault, everywhere -----------------------------------------------------------------------------------

// The positions of a frame that are worth a fault each: all of them, in the middle of long ones some.
static uint32_t next_position(uint32_t at, uint32_t len)
{
	return at >= 100 && at + 60 < len ? at + 53 : at + 1;
}

// One conversation for every frame of either direction and every position in it up to `last`.
static unsigned at_every_position(enum pair pair, enum fake_fault fault, uint32_t last, enum outcome worst)
{
	unsigned count = 0;
	for (uint32_t seed = 1; seed <= (getenv("VMKD_CHECK_LONG") ? 2u : 1u); seed++)
		for (int direction = 0; direction < 2; direction++)
			for (uint32_t frame = 1, len = 0; len || frame == 1; frame++) {
				uint32_t at = 1;
				do {
					const struct setting s = { .pair = pair, .seed = seed, .has_one_fault = true, .is_to_target = direction,
								   .frame = frame, .at = at, .fault = fault };
					enum outcome outcome = run(&s);
					if (outcome > worst)
						fail_setting(&s, outcome);
					len = (direction ? &w.to_target : &w.to_debugger)->aimed_len;
					count++;
					at = next_position(at, len);
				} while (at < len && at <= last);
			}
	return count;
}

static void cut_at_every_byte(void **state)
{
	(void)state;
	unsigned count = 0;
	for (enum pair pair = 0; pair < PAIR_COUNT; pair++)
		count += at_every_position(pair, FAULT_CUT, UINT32_MAX, CLEAN_ERROR);
	print_message("%u conversations\n", count);
	assert_true(count > 5000);
}

// Headers are not protected (KD reference, section 1.2): a print may be lost. But no byte is wrong, nothing is executed twice, nobody waits for ever.
static void any_byte_of_any_header_changed(void **state)
{
	(void)state;
	unsigned count = 0;
	for (enum pair pair = 0; pair < PAIR_COUNT; pair++)
		count += at_every_position(pair, FAULT_HEADER, KDCOM_HEAD, LOST_PRINT);
	print_message("%u conversations\n", count);
	assert_true(count > 5000);
}

// ---- Beside the tests ------------------------------------------------------------------------------------------

static int run_one(char **argv)
{
	struct setting s = { .kinds = (uint32_t)strtoul(argv[1], NULL, 0), .per_mille = (uint32_t)atoi(argv[2]), .seed = (uint32_t)atoi(argv[3]) };
	while (s.pair < PAIR_COUNT - 1 && strcmp(argv[0], pair_names[s.pair]))
		s.pair++;
	enum outcome outcome = run(&s);
	printf("%s, %u faults: %s\n", pair_texts[s.pair], faults_done(), explain(outcome));
	return outcome > CLEAN_ERROR;
}

static void print_rates(unsigned faults)
{
	printf("| ends | faults | conversations | right | clean error | print lost | wrong | hang |\n|---|---|--:|--:|--:|--:|--:|--:|\n");
	for (enum pair p = 0; p < PAIR_COUNT; p++)
		for (unsigned kind = 0; kind <= FAULT_COUNT; kind++) {
			uint32_t kinds = kind == FAULT_COUNT ? FAULTS_REPAIRABLE : FAULT_BIT(kind);
			struct tally t = campaign(p, kinds, faults, HANG);
			printf("| %s | %s: %u | %u | %.2f %% | %.2f %% | %.2f %% | %.2f %% | %.2f %% |\n", pair_texts[p],
			       kind == FAULT_COUNT ? "all but header" : fake_fault_name((enum fake_fault)kind), t.faults, t.conversations,
			       100.0 * t.of[RIGHT] / t.conversations, 100.0 * t.of[CLEAN_ERROR] / t.conversations,
			       100.0 * t.of[LOST_PRINT] / t.conversations, 100.0 * t.of[WRONG] / t.conversations, 100.0 * t.of[HANG] / t.conversations);
		}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_faults_nothing_is_repeated),
		cmocka_unit_test(our_debugger_and_our_target),
		cmocka_unit_test(our_debugger_and_a_stock_target),
		cmocka_unit_test(our_debugger_and_a_stock_target_that_takes_any_packet_for_an_ack),
		cmocka_unit_test(a_stock_debugger_and_our_target),
		cmocka_unit_test(cut_at_every_byte),
		cmocka_unit_test(any_byte_of_any_header_changed),
	};
	if (argc == 6 && !strcmp(argv[1], "one"))
		return run_one(argv + 2);
	if (argc > 1 && !strcmp(argv[1], "rates"))
		return print_rates(argc > 2 ? (unsigned)atoi(argv[2]) : 10000), 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
