// SPDX-License-Identifier: MIT
// Recorded sessions of a real NT-style kernel (wire/testdata): every packet of either direction is accepted by the role that
// has to understand it, wherever the stream is cut; every body decodes, and encodes to the same bytes.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"
#include "wire/selftest.h"

#define STREAM_MAX (256u * 1024u)
#define CLIENTS_MAX 4u

// What must come out of a session, counted by another program (the reference's own parser).
struct session {
	const char *path;
	uint32_t machine;
	unsigned clients;
	unsigned state_changes, replies, prints; // of the target
	unsigned requests, breakins, resets;     // of the debugger
	unsigned repeated;                       // copies of the first packet before anybody listens
};
static const struct session sessions[] = {
	{ "wire/testdata/x64-attached.txt", KD_MACHINE_X64, 1, 34, 5, 132, 38, 1, 1, 0 },
	{ "wire/testdata/x64-boot.txt", KD_MACHINE_X64, 2, 4, 149, 0, 151, 2, 2, 100 },
	{ "wire/testdata/i386-boot.txt", KD_MACHINE_X86, 2, 4, 145, 0, 147, 2, 2, 100 },
};

struct stream {
	size_t len;
	uint8_t bytes[STREAM_MAX];
};
static struct stream from_target[CLIENTS_MAX], from_debugger, unheard;

static void append(struct stream *s, const char *hex)
{
	s->len += hex_bytes(hex, s->bytes + s->len, STREAM_MAX - s->len);
	assert_true(s->len < STREAM_MAX);
}

static char *line_upper(char *line)
{
	for (char *p = line + 1; *p; p++)
		if (*p >= 'a' && *p <= 'f')
			*p = (char)(*p - 'a' + 'A');
	return line;
}

// Returns the number of clients.
static unsigned load(const char *path)
{
	char *line = NULL;
	size_t size = 0;
	unsigned clients = 0;
	FILE *f = fopen(path, "r");
	if (!f)
		fail_msg("%s: run this from the root of the tree", path);
	memset(from_target, 0, sizeof(from_target));
	from_debugger.len = unheard.len = 0;
	while (getline(&line, &size, f) > 0) {
		line_upper(line);
		if (line[0] == 'C')
			assert_in_range(++clients, 1, CLIENTS_MAX);
		else if (line[0] == 'T')
			append(&from_target[clients - 1], line + 1);
		else if (line[0] == 'D')
			append(&from_debugger, line + 1);
		else if (line[0] == 'N')
			append(&unheard, line + 1);
	}
	free(line);
	fclose(f);
	return clients;
}

// ---- Bodies --------------------------------------------------------------------------------------

static int decode_encode(uint16_t type, const uint8_t *body, size_t len, uint32_t machine, uint8_t *to)
{
	struct kd_state_change s;
	struct kd_manipulate m;
	struct kd_debug_io d;
	int r = KD_E_UNKNOWN;
	switch (type) {
	case KD_PACKET_STATE_CHANGE:
		r = kd_state_change_decode(body, len, machine, &s);
		return r != KD_OK ? r : kd_state_change_encode(&s, machine, to, KD_STATE_CHANGE_SIZE);
	case KD_PACKET_MANIPULATE:
		r = kd_manipulate_decode(body, len, machine, &m);
		return r != KD_OK ? r : kd_manipulate_encode(&m, machine, to, KD_MANIPULATE_SIZE);
	case KD_PACKET_DEBUG_IO:
		r = kd_debug_io_decode(body, len, &d);
		return r != KD_OK ? r : kd_debug_io_encode(&d, to, KD_DEBUG_IO_SIZE);
	default: return r;
	}
}

// Which bytes of this header are fields: of a header with every bit set (but for what selects the layout, and
// counts that are bounded), those that an encoder writes.
static void field_mask(uint16_t type, const uint8_t *body, uint32_t machine, uint8_t *mask)
{
	uint8_t ones[KD_STATE_CHANGE_SIZE + 16];
	uint32_t size = kd_header_size(type);
	memset(ones, 0xFF, sizeof(ones));
	memcpy(ones, body, 4);
	if (type == KD_PACKET_STATE_CHANGE) {
		put_le32(ones + 0x38, 0x0F);
		put_le16(ones + (machine == KD_MACHINE_X64 ? 0xD4 : 0xC8), 0x10);
		if (get_le32(body) == KD_STATE_LOAD_SYMBOLS)
			put_le32(ones + 0x20, 1);
	}
	if (type == KD_PACKET_DEBUG_IO)
		put_le32(ones + 8, 1);
	assert_int_equal(decode_encode(type, ones, size + 16, machine, mask), KD_OK);
	// Bounded counts are fields too.
	for (uint32_t i = 0; i < size; i++)
		mask[i] = mask[i] || ones[i] != 0xFF ? 0xFF : 0;
}

static void check_body(uint16_t type, const uint8_t *body, size_t len, uint32_t machine)
{
	uint8_t again[KD_STATE_CHANGE_SIZE], mask[KD_STATE_CHANGE_SIZE];
	assert_int_equal(decode_encode(type, body, len, machine, again), KD_OK);
	field_mask(type, body, machine, mask);
	for (uint32_t i = 0; i < kd_header_size(type); i++)
		assert_int_equal(again[i], body[i] & mask[i]);
	if (type == KD_PACKET_STATE_CHANGE)
		assert_int_equal(kd_guess_machine(body, len), machine);
}

// ---- Streams -------------------------------------------------------------------------------------

struct tally {
	unsigned by_type[16], breakins, resets;
};

static struct kdcom k;

static void count(const struct kdcom_event *ev, uint32_t machine, struct tally *tally)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		assert_in_range(ev->type, 1, 15);
		tally->by_type[ev->type]++;
		check_body(ev->type, ev->body, ev->body_len, machine);
		break;
	case KDCOM_EV_BREAKIN: tally->breakins++; break;
	case KDCOM_EV_RESET: tally->resets++; break;
	case KDCOM_EV_NONE: break;
	default: fail_msg("unexpected event: %s", kdcom_event_name(ev->kind));
	}
}

static void feed(const uint8_t *bytes, size_t len, uint32_t machine, struct tally *tally)
{
	struct kdcom_event ev;
	do {
		size_t used;
		kdcom_feed(&k, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		count(&ev, machine, tally);
		kdcom_output_consume(&k, KDCOM_OUTPUT_SIZE);
	} while (ev.kind != KDCOM_EV_NONE);
}

static void feed_in_pieces(const struct stream *s, uint32_t machine, struct dice *d, struct tally *tally)
{
	for (size_t at = 0; at < s->len;) {
		size_t most = dice_roll(d, 4) ? 20 : 3000;
		size_t n = 1 + dice_roll(d, (uint32_t)most);
		if (n > s->len - at)
			n = s->len - at;
		feed(s->bytes + at, n, machine, tally);
		at += n;
	}
	// Nothing was refused, nothing was skipped.
	const struct kdcom_counters *c = &k.counters;
	assert_int_equal(c->bad_size | c->bad_trailer | c->bad_checksum | c->bad_control | c->truncated | c->noise, 0);
	assert_int_equal(c->unwanted | c->resends_out | c->blocked, 0);
	assert_int_equal(k.rx_state, KDCOM_RX_LEADER);
}

static void replay(const struct session *s, uint32_t seed)
{
	struct dice d = { seed };
	struct tally target = { 0 }, debugger = { 0 };
	unsigned acks = 0;
	for (unsigned i = 0; i < s->clients; i++) {
		kdcom_init(&k, KDCOM_DEBUGGER);
		feed_in_pieces(&from_target[i], s->machine, &d, &target);
		assert_int_equal(k.counters.duplicates, 0);
		acks += k.counters.acks_in;
	}
	assert_int_equal(target.by_type[KD_PACKET_STATE_CHANGE], s->state_changes);
	assert_int_equal(target.by_type[KD_PACKET_MANIPULATE], s->replies);
	assert_int_equal(target.by_type[KD_PACKET_DEBUG_IO], s->prints);
	assert_int_equal(target.resets, s->resets);
	assert_int_equal(acks, s->requests);

	kdcom_init(&k, KDCOM_TARGET);
	kdcom_expect(&k, KD_PACKET_MANIPULATE);
	feed_in_pieces(&from_debugger, s->machine, &d, &debugger);
	assert_int_equal(k.counters.duplicates, 0);
	assert_int_equal(debugger.by_type[KD_PACKET_MANIPULATE], s->requests);
	assert_int_equal(debugger.breakins, s->breakins);
	assert_int_equal(debugger.resets, s->resets);
	assert_int_equal(k.counters.acks_in, s->state_changes + s->replies + s->prints);
}

static void test_sessions(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(sessions) / sizeof(sessions[0]); i++) {
		assert_int_equal(load(sessions[i].path), sessions[i].clients);
		for (uint32_t seed = 1; seed <= 20; seed++)
			replay(&sessions[i], seed);
	}
}

// A kernel that nobody listens to says the same thing again and again: handed out once.
static void test_repetitions(void **state)
{
	(void)state;
	for (size_t i = 1; i < sizeof(sessions) / sizeof(sessions[0]); i++) {
		struct tally tally = { 0 };
		struct dice d = { 1 };
		assert_int_equal(load(sessions[i].path), sessions[i].clients);
		kdcom_init(&k, KDCOM_DEBUGGER);
		feed_in_pieces(&unheard, sessions[i].machine, &d, &tally);
		assert_true(tally.by_type[KD_PACKET_DEBUG_IO] > 0);
		assert_int_equal(tally.by_type[KD_PACKET_DEBUG_IO] + k.counters.duplicates, sessions[i].repeated);
		assert_true(k.counters.duplicates > sessions[i].repeated / 2);
	}
}

// Feed one stream to a debugger that takes every id (the recorded target did not hear its RESENDs). Returns the packets; the sum
// of the last one's bytes goes to *ret_last.
static unsigned count_packets(const uint8_t *bytes, size_t len, uint32_t *ret_last)
{
	struct kdcom_event ev;
	unsigned packets = 0;
	kdcom_init(&k, KDCOM_DEBUGGER);
	do {
		size_t used;
		kdcom_feed(&k, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		k.is_expected_known = false;
		kdcom_output_consume(&k, KDCOM_OUTPUT_SIZE);
		if (ev.kind != KDCOM_EV_PACKET)
			continue;
		packets++;
		*ret_last = 0;
		for (size_t i = 0; i < ev.body_len; i++)
			*ret_last += ev.body[i];
	} while (ev.kind != KDCOM_EV_NONE);
	return packets;
}

// A byte lost anywhere costs what lies in the frame that its header then promises, at most 4000 bytes; then the stream is found again.
static void test_lost_bytes(void **state)
{
	(void)state;
	static uint8_t tail[STREAM_MAX];
	struct dice d = { 7 };
	uint32_t last, expected_last;
	assert_int_equal(load(sessions[0].path), 1);
	const struct stream *s = &from_target[0];
	assert_int_equal(count_packets(s->bytes, s->len, &expected_last), 34 + 5 + 132);
	for (unsigned i = 0; i < 300; i++) {
		size_t at = dice_roll(&d, (uint32_t)s->len - 2 * KDCOM_FRAME_MAX);
		memcpy(tail, s->bytes, at);
		memcpy(tail + at, s->bytes + at + 1, s->len - at - 1);
		unsigned packets = count_packets(tail, s->len - 1, &last);
		assert_in_range(packets, 34 + 5 + 132 - KDCOM_FRAME_MAX / 100, 34 + 5 + 132);
		assert_int_equal(last, expected_last);
	}
}

// ---- Somebody who looks on ---------------------------------------------------------------------------------

static struct stream seen_in, seen_out;
static enum kdcom_damage seen_damage;
static unsigned seen_count;

static void see(void *arg, const struct kdcom_seen *seen)
{
	struct stream *s = seen->is_out ? &seen_out : &seen_in;

	assert_ptr_equal(arg, &seen_in);
	assert_true(s->len + seen->head_len + seen->rest_len < STREAM_MAX);
	memcpy(s->bytes + s->len, seen->head, seen->head_len);
	memcpy(s->bytes + s->len + seen->head_len, seen->rest, seen->rest_len);
	s->len += seen->head_len + seen->rest_len;
	if (!seen->is_out)
		seen_damage = seen->damage;
	seen_count++;
}

static const struct kdcom_observer onlooker = { see, &seen_in };

static void look_on(enum kdcom_role role)
{
	kdcom_init(&k, role);
	k.observer = &onlooker;
	seen_in.len = seen_out.len = 0;
	seen_count = 0;
}

// What it sees of a session is the session, byte for byte, however it was cut.
static void test_observer(void **state)
{
	(void)state;
	struct tally tally = { 0 };
	struct dice d = { 3 };

	assert_int_equal(load(sessions[0].path), 1);
	look_on(KDCOM_DEBUGGER);
	feed_in_pieces(&from_target[0], KD_MACHINE_X64, &d, &tally);
	assert_int_equal(seen_in.len, from_target[0].len);
	assert_memory_equal(seen_in.bytes, from_target[0].bytes, seen_in.len);
	assert_int_equal(seen_out.len, KDCOM_HEAD * (tally.by_type[2] + tally.by_type[3] + tally.by_type[7] + tally.resets)); // all answered
	look_on(KDCOM_TARGET);
	kdcom_expect(&k, KD_PACKET_MANIPULATE);
	feed_in_pieces(&from_debugger, KD_MACHINE_X64, &d, &tally);
	assert_int_equal(seen_in.len, from_debugger.len);
	assert_memory_equal(seen_in.bytes, from_debugger.bytes, seen_in.len);
}

static void feed_some_bytes(const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev;

	do {
		size_t used;
		kdcom_feed(&k, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
	} while (ev.kind != KDCOM_EV_NONE);
}

// A whole frame of a request, damaged in one way; every byte that came is shown, and nothing else.
static void must_see(uint8_t *frame, size_t len, enum kdcom_damage damage)
{
	struct kdcom_event ev;

	look_on(KDCOM_TARGET);
	feed_some_bytes(frame, len);
	kdcom_timer(&k, 0, &ev);
	kdcom_timer(&k, KDCOM_BYTE_MS, &ev);
	assert_true(seen_count >= 1);
	assert_int_equal(seen_in.len, len);
	assert_memory_equal(seen_in.bytes, frame, len);
	const uint8_t *out;
	size_t out_len;
	kdcom_output(&k, &out, &out_len);
	assert_int_equal(seen_out.len, out_len);
	assert_memory_equal(seen_out.bytes, out, out_len);
	assert_int_equal(seen_damage, damage);
}

static void test_observer_of_damage(void **state)
{
	(void)state;
	uint8_t frame[KDCOM_HEAD + KD_MANIPULATE_SIZE + 1] = { 0x30, 0x30, 0x30, 0x30, 2, 0, KD_MANIPULATE_SIZE, 0, 0, 0, 0x80, 0x80, 0x77 };
	uint8_t *body = frame + KDCOM_HEAD;

	body[0] = 0x46;
	body[1] = 0x31;
	body[KD_MANIPULATE_SIZE] = KDCOM_TRAILER;
	must_see(frame, sizeof(frame), KDCOM_WHOLE); // nobody waits for it, so there is no answer
	for (size_t len = 5; len < sizeof(frame); len++)
		must_see(frame, len, KDCOM_TRUNCATED);
	body[7]++;
	must_see(frame, sizeof(frame), KDCOM_BAD_CHECKSUM);
	body[KD_MANIPULATE_SIZE]++;
	must_see(frame, sizeof(frame), KDCOM_BAD_TRAILER);
	put_le16(frame + 6, KDCOM_BODY_MAX + 1);
	must_see(frame, KDCOM_HEAD, KDCOM_BAD_SIZE);
	must_see((uint8_t[]){ KDCOM_BREAKIN_BYTE }, 1, KDCOM_WHOLE);
	assert_int_equal(seen_count, 1);
}

// What goes out: packets, repetitions, break-in bytes, each as often as it is put there.
static void test_observer_of_output(void **state)
{
	(void)state;
	const uint8_t *out;
	size_t len;
	struct kdcom_event ev;

	look_on(KDCOM_DEBUGGER);
	assert_int_equal(kdcom_send_breakin(&k), KDCOM_OK);
	assert_int_equal(kdcom_send_reset(&k), KDCOM_OK);
	assert_int_equal(kdcom_send(&k, KD_PACKET_MANIPULATE, "0123", 4, "4567", 4, 0), KDCOM_OK);
	kdcom_output(&k, &out, &len);
	assert_int_equal(seen_out.len, len);
	assert_memory_equal(seen_out.bytes, out, len);
	assert_int_equal(seen_count, 3);
	kdcom_output_consume(&k, len);
	kdcom_timer(&k, 0, &ev);
	kdcom_timer(&k, KDCOM_DEBUGGER_RETRY_MS, &ev);
	assert_int_equal(seen_count, 4);
	assert_int_equal(seen_out.len, 1 + KDCOM_HEAD + 2 * (KDCOM_HEAD + 8 + 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sessions),
		cmocka_unit_test(test_repetitions),
		cmocka_unit_test(test_lost_bytes),
		cmocka_unit_test(test_observer),
		cmocka_unit_test(test_observer_of_damage),
		cmocka_unit_test(test_observer_of_output),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
