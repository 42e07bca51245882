// SPDX-License-Identifier: MIT
// Framing: what the conversations do not show. Bytes in pieces, output that nobody reads, sizes, deadlines.
#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"
#include "wire/selftest.h"

static struct kdcom k;
static uint8_t bytes[KDCOM_BODY_MAX + 1], frame[KDCOM_FRAME_MAX];

// A frame whose body is all zero, so its checksum is.
static size_t zero_frame(uint16_t type, uint32_t id, uint16_t body_len)
{
	wire_zero(frame, sizeof(frame));
	put_le32(frame, KDCOM_DATA_LEADER);
	put_le16(frame + 4, type);
	put_le16(frame + 6, body_len);
	put_le32(frame + 8, id);
	frame[KDCOM_HEAD + body_len] = KDCOM_TRAILER;
	return KDCOM_HEAD + (size_t)body_len + 1;
}

static size_t output_len(void)
{
	const uint8_t *out;
	size_t len;
	kdcom_output(&k, &out, &len);
	return len;
}

static enum kdcom_event_kind feed(const uint8_t *from, size_t len, size_t *ret_used)
{
	struct kdcom_event ev;
	kdcom_feed(&k, from, len, ret_used, &ev);
	return ev.kind;
}

static void test_pieces(struct selftest *t)
{
	selftest_begin(t, "framing: a packet in two pieces, cut anywhere");
	for (size_t cut = 0; cut < 73; cut++) {
		size_t used;
		kdcom_init(&k, KDCOM_TARGET);
		kdcom_expect(&k, KD_PACKET_MANIPULATE);
		CHECK(t, zero_frame(KD_PACKET_MANIPULATE, KDCOM_ID_INITIAL, 56) == 73);
		CHECK(t, feed(frame, cut, &used) == KDCOM_EV_NONE && used == cut);
		CHECK(t, output_len() == 0);
		CHECK(t, feed(frame + cut, 73 - cut, &used) == KDCOM_EV_PACKET && used == 73 - cut);
		CHECK(t, output_len() == KDCOM_HEAD);
		CHECK(t, feed(frame, 0, &used) == KDCOM_EV_NONE && used == 0);
	}
	selftest_end(t);
}

static void test_send_sizes(struct selftest *t)
{
	selftest_begin(t, "framing: what cannot be sent");
	kdcom_init(&k, KDCOM_DEBUGGER);
	CHECK(t, kdcom_send(&k, 2, bytes, 56, bytes, 3945, 0) == KDCOM_E_SIZE);
	CHECK(t, kdcom_send(&k, 2, bytes, 4001, NULL, 0, 0) == KDCOM_E_SIZE);
	CHECK(t, kdcom_send(&k, 2, bytes, UINT32_MAX, bytes, 57, 0) == KDCOM_E_SIZE);
	CHECK(t, kdcom_send(&k, 2, bytes, 56, bytes, UINT32_MAX - 55, 0) == KDCOM_E_SIZE);
	CHECK(t, output_len() == 0 && !kdcom_is_sending(&k));
	CHECK(t, kdcom_send(&k, 2, bytes, 56, bytes, 3944, 0) == KDCOM_OK);
	CHECK(t, output_len() == KDCOM_FRAME_MAX && kdcom_is_sending(&k));
	CHECK(t, kdcom_send(&k, 2, bytes, 56, NULL, 0, 0) == KDCOM_E_BUSY);
	selftest_end(t);
}

static void test_checksum(struct selftest *t)
{
	selftest_begin(t, "framing: the checksum is the sum of all bytes, whatever the length");
	for (uint32_t i = 0; i < KDCOM_BODY_MAX; i++)
		bytes[i] = (uint8_t)(i % 251 ? i : 255);
	for (uint32_t len = 0; len <= KDCOM_BODY_MAX; len += len < 200 || len >= 3990 ? 1 : 79) {
		const uint8_t *out;
		size_t out_len;
		uint32_t sum = 0;
		for (uint32_t i = 0; i < len; i++)
			sum += bytes[i];
		kdcom_init(&k, KDCOM_TARGET);
		CHECK(t, kdcom_send(&k, 2, bytes, len, NULL, 0, 0) == KDCOM_OK);
		kdcom_output(&k, &out, &out_len);
		CHECK(t, out_len == KDCOM_HEAD + (size_t)len + 1 && get_le32(out + 12) == sum);
	}
	wire_zero(bytes, sizeof(bytes));
	selftest_end(t);
}

static void test_output_full(struct selftest *t)
{
	selftest_begin(t, "framing: output is full");
	kdcom_init(&k, KDCOM_DEBUGGER);
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t ack[16] = { 0x69, 0x69, 0x69, 0x69, 4 };
		size_t used;
		put_le32(ack + 8, KDCOM_ID_INITIAL | i);
		CHECK(t, kdcom_send(&k, 2, bytes, 4000, NULL, 0, 0) == KDCOM_OK);
		CHECK(t, feed(ack, 16, &used) == KDCOM_EV_SENT);
	}
	CHECK(t, kdcom_send(&k, 2, bytes, 4000, NULL, 0, 0) == KDCOM_E_FULL);
	CHECK(t, !kdcom_is_sending(&k));
	for (unsigned i = 0; i < 32; i++)
		CHECK(t, kdcom_send_reset(&k) == KDCOM_OK);
	CHECK(t, kdcom_send_reset(&k) == KDCOM_E_FULL);
	CHECK(t, kdcom_send_breakin(&k) == KDCOM_E_FULL);
	CHECK(t, output_len() == KDCOM_OUTPUT_SIZE);
	kdcom_output_consume(&k, 1);
	CHECK(t, kdcom_send_breakin(&k) == KDCOM_OK);
	kdcom_output_consume(&k, SIZE_MAX);
	CHECK(t, output_len() == 0);
	selftest_end(t);
}

static void fill_output(uint32_t len)
{
	while (len && kdcom_send_breakin(&k) == KDCOM_OK)
		len--;
}

static void test_output_exact(struct selftest *t)
{
	static const uint8_t reset[16] = { 0x69, 0x69, 0x69, 0x69, 6 };
	uint32_t need = KDCOM_FRAME_MAX + KDCOM_CONTROL_ROOM;
	size_t used;
	selftest_begin(t, "framing: output has just enough room, and one byte less");
	for (uint32_t less = 0; less < 2; less++) {
		kdcom_init(&k, KDCOM_DEBUGGER);
		fill_output(KDCOM_OUTPUT_SIZE - need + less);
		CHECK(t, kdcom_send(&k, 2, bytes, 4000, NULL, 0, 0) == (less ? KDCOM_E_FULL : KDCOM_OK));
		// The same for a repetition, which waits for room.
		kdcom_init(&k, KDCOM_TARGET);
		CHECK(t, kdcom_send(&k, 7, bytes, 4000, NULL, 0, 0) == KDCOM_OK);
		fill_output(KDCOM_OUTPUT_SIZE - KDCOM_FRAME_MAX - KDCOM_HEAD - need + less);
		CHECK(t, feed(reset, 16, &used) == KDCOM_EV_RESET);
		CHECK(t, output_len() == KDCOM_OUTPUT_SIZE - (less ? need - 1 : KDCOM_CONTROL_ROOM));
	}
	selftest_end(t);
}

static void test_many_resets(struct selftest *t)
{
	static const uint8_t reset[16] = { 0x69, 0x69, 0x69, 0x69, 6 };
	struct kdcom_event ev;
	size_t used;
	selftest_begin(t, "framing: more RESETs without an answer than can be counted");
	kdcom_init(&k, KDCOM_DEBUGGER);
	for (unsigned i = 0; i < 300; i++) {
		CHECK(t, kdcom_send_reset(&k) == KDCOM_OK);
		kdcom_output_consume(&k, KDCOM_HEAD);
	}
	for (unsigned i = 0; i < 256; i++) {
		kdcom_feed(&k, reset, 16, &used, &ev);
		CHECK(t, ev.kind == KDCOM_EV_RESET && ev.is_answer == (i < 255));
	}
	selftest_end(t);
}

// A new session on the same stream: nothing of the old one is left.
static void test_restart(struct selftest *t)
{
	static const uint8_t reset[16] = { 0x69, 0x69, 0x69, 0x69, 6 };
	struct kdcom_event ev;
	size_t used;
	selftest_begin(t, "framing: restart");
	kdcom_init(&k, KDCOM_TARGET);
	kdcom_expect(&k, KD_PACKET_MANIPULATE);
	CHECK(t, kdcom_send_reset(&k) == KDCOM_OK);
	CHECK(t, kdcom_send(&k, 7, bytes, 240, NULL, 0, 0) == KDCOM_OK);
	kdcom_restart(&k);
	CHECK(t, !kdcom_is_sending(&k) && k.want == 0 && k.next_id == (KDCOM_ID_INITIAL | KDCOM_ID_SYNC));
	CHECK(t, output_len() == 16 + 257); // what was said is said
	kdcom_feed(&k, reset, 16, &used, &ev);
	CHECK(t, ev.kind == KDCOM_EV_RESET && !ev.is_answer);

	kdcom_init(&k, KDCOM_DEBUGGER);
	CHECK(t, feed(frame, zero_frame(2, KDCOM_ID_INITIAL | KDCOM_ID_SYNC, 56), &used) == KDCOM_EV_PACKET);
	CHECK(t, kdcom_is_in_step(&k));
	CHECK(t, kdcom_send(&k, 2, bytes, 56, NULL, 0, 0) == KDCOM_OK);
	CHECK(t, feed(frame, zero_frame(2, KDCOM_ID_INITIAL | 1u, 56), &used) == KDCOM_EV_SENT); // and a packet behind it
	kdcom_restart(&k);
	CHECK(t, !kdcom_is_in_step(&k));
	CHECK(t, feed(frame, 0, &used) == KDCOM_EV_NONE);
	CHECK(t, feed(frame, zero_frame(2, KDCOM_ID_INITIAL | 1u, 56), &used) == KDCOM_EV_PACKET); // any id again
	selftest_end(t);
}

// Doubled packets make one ACK each. A peer that does not read them must be made to wait, and gets every ACK in the end.
static void test_blocked(struct selftest *t)
{
	unsigned consumed = 0;
	selftest_begin(t, "framing: a peer that sends and does not read");
	kdcom_init(&k, KDCOM_TARGET);
	fill_output(KDCOM_OUTPUT_SIZE % KDCOM_HEAD); // so that the last ACK meets exactly the room it needs
	size_t len = zero_frame(KD_PACKET_DEBUG_IO, KDCOM_ID_INITIAL | 1u, 16);
	unsigned count = 0;
	for (unsigned i = 0; i < 2000; i++) {
		size_t used, at = 0;
		while (feed(frame + at, len - at, &used) == KDCOM_EV_BLOCKED) {
			CHECK(t, output_len() <= KDCOM_OUTPUT_SIZE && output_len() + 32 > KDCOM_OUTPUT_SIZE);
			at += used;
			count++;
			consumed += (unsigned)(output_len() / KDCOM_HEAD);
			kdcom_output_consume(&k, output_len());
			fill_output(KDCOM_OUTPUT_SIZE % KDCOM_HEAD);
		}
	}
	consumed += (unsigned)(output_len() / KDCOM_HEAD);
	CHECK(t, count >= 3 && k.counters.blocked == count);
	CHECK(t, consumed == 2000 && k.counters.duplicates == 2000);
	selftest_end(t);
}

// RESETs and RESENDs make a target write its packet again: bounded, and not lost when there is room again.
static void test_storm(struct selftest *t)
{
	static const uint8_t reset[16] = { 0x69, 0x69, 0x69, 0x69, 6 }, resend[16] = { 0x69, 0x69, 0x69, 0x69, 5 };
	struct kdcom_event ev;
	size_t used;
	selftest_begin(t, "framing: a storm of RESET and RESEND");
	kdcom_init(&k, KDCOM_TARGET);
	CHECK(t, kdcom_send(&k, 7, bytes, 4000, NULL, 0, 0) == KDCOM_OK);
	for (unsigned i = 0; i < 1000; i++) {
		(void)feed(resend, 16, &used); // blocked sometimes: that is the point
		(void)feed(reset, 16, &used);
		CHECK(t, output_len() <= KDCOM_OUTPUT_SIZE && kdcom_is_sending(&k));
	}
	CHECK(t, k.counters.blocked > 0);
	kdcom_output_consume(&k, SIZE_MAX);
	kdcom_timer(&k, 10, &ev);
	kdcom_timer(&k, 10 + KDCOM_TARGET_RETRY_MS, &ev);
	CHECK(t, output_len() == KDCOM_FRAME_MAX);
	selftest_end(t);
}

// A repetition is not written behind a copy that waits to be written.
static void test_one_copy(struct selftest *t)
{
	static const uint8_t resend[16] = { 0x69, 0x69, 0x69, 0x69, 5 };
	struct kdcom_event ev;
	size_t used;
	selftest_begin(t, "framing: one copy in the output is enough");
	kdcom_init(&k, KDCOM_TARGET);
	CHECK(t, kdcom_send(&k, 7, bytes, 240, NULL, 0, 0) == KDCOM_OK);
	kdcom_timer(&k, 0, &ev);
	kdcom_timer(&k, 5000, &ev);
	(void)feed(resend, 16, &used);
	CHECK(t, output_len() == 257 && k.counters.retransmissions == 0);
	kdcom_timer(&k, 5001, &ev);
	CHECK(t, kdcom_deadline(&k) == 5001 + KDCOM_TARGET_RETRY_MS);
	kdcom_output_consume(&k, 256);
	(void)feed(resend, 16, &used);
	CHECK(t, output_len() == 1);
	kdcom_output_consume(&k, 1);
	(void)feed(resend, 16, &used);
	CHECK(t, output_len() == 257 && k.counters.retransmissions == 1);
	selftest_end(t);
}

static void test_deadline(struct selftest *t)
{
	struct kdcom_event ev;
	size_t used;
	selftest_begin(t, "framing: deadlines");
	kdcom_init(&k, KDCOM_TARGET);
	CHECK(t, kdcom_deadline(&k) == KDCOM_NO_DEADLINE);
	CHECK(t, kdcom_send(&k, 7, bytes, 240, NULL, 0, 0) == KDCOM_OK);
	CHECK(t, kdcom_deadline(&k) == 0);
	kdcom_timer(&k, 100, &ev);
	CHECK(t, kdcom_deadline(&k) == 100 + KDCOM_TARGET_RETRY_MS);
	CHECK(t, feed(frame, zero_frame(3, 0, 16) - 5, &used) == KDCOM_EV_NONE);
	CHECK(t, kdcom_deadline(&k) == 0);
	kdcom_timer(&k, 200, &ev);
	CHECK(t, kdcom_deadline(&k) == 200 + KDCOM_BYTE_MS);
	// Bytes that came while the process was stopped count, however late it is.
	(void)feed(frame, 1, &used);
	kdcom_timer(&k, 90000, &ev);
	CHECK(t, k.counters.truncated == 0);
	kdcom_timer(&k, 90000 + KDCOM_BYTE_MS, &ev);
	CHECK(t, k.counters.truncated == 1);
	kdcom_cancel(&k);
	CHECK(t, kdcom_deadline(&k) == KDCOM_NO_DEADLINE);
	CHECK(t, kdcom_send_reset(&k) == KDCOM_OK);
	kdcom_timer(&k, 100000, &ev);
	CHECK(t, kdcom_deadline(&k) == 100000 + KDCOM_RESET_FORGET_MS);
	kdcom_timer(&k, 100000 + KDCOM_RESET_FORGET_MS, &ev);
	CHECK(t, kdcom_deadline(&k) == KDCOM_NO_DEADLINE);
	selftest_end(t);
}

void selftest_framing(struct selftest *t)
{
	test_pieces(t);
	test_send_sizes(t);
	test_checksum(t);
	test_output_full(t);
	test_output_exact(t);
	test_many_resets(t);
	test_restart(t);
	test_blocked(t);
	test_storm(t);
	test_one_copy(t);
	test_deadline(t);
}
