// SPDX-License-Identifier: MIT
// A hostile target at the end of a stock line, through real KDCOM framing: the bytes of the input decide what it sends, what the session asks, and how
// time passes. Besides memory errors it looks for broken promises: a request written more often than it may be, one that never ends, packets out of
// order, timers that stand still.
#include <stdlib.h>
#include <string.h>

#include "serve/serial_talk.h"
#include "wire/kdapi.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	struct serial_talk talk;
	uint64_t now;
	uint32_t seq;
	uint16_t waits_for;
	uint64_t written;   // packets before the open request
	unsigned may_write; // how often it may be written
	uint32_t id;        // of the target's next packet
};

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void check_writes(const struct world *w)
{
	require(w->talk.stats.packets_in - w->written <= w->may_write);
}

static void on_registered(void *arg, const struct link_guest *guest)
{
	struct world *w = arg;

	require(guest->dialect == LINK_DIALECT_KDCOM && (guest->arch == 0 || guest->arch == ARCH_X64 || guest->arch == ARCH_X86));
	w->waits_for = 0;
}

static void on_gone(void *arg, enum link_gone reason)
{
	struct world *w = arg;

	require(reason == LINK_GONE_RESET);
	w->seq = 0;
	w->waits_for = 0;
}

static void on_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	struct world *w = arg;

	(void)body;
	require(head->seq == ++w->seq && head->type == LINK_PACKET && head->body_len <= LINK_BODY_MAX);
	require(head->hdr_len && head->hdr_len == kd_header_size(head->kd_type) && head->hdr_len <= head->body_len);
	w->waits_for = head->flags & LINK_F_WAITS ? head->want : 0;
}

static void on_waits(void *arg, const struct link_head *head)
{
	struct world *w = arg;

	require(head->want != 0);
	w->waits_for = head->want;
}

static const struct guest_link_events events = { .registered = on_registered, .gone = on_gone, .packet = on_packet, .waits = on_waits };

static bool is_read(uint32_t api)
{
	return api == KD_API_READ_VIRTUAL || api == KD_API_GET_VERSION || api == KD_API_GET_CONTEXT;
}

// What the session asks: legal, or (is_wild) what it never would.
static void ask(struct world *w, uint8_t choice, bool is_wild)
{
	static const uint16_t apis[] = { KD_API_READ_VIRTUAL, KD_API_WRITE_VIRTUAL, KD_API_GET_VERSION, KD_API_WRITE_BREAKPOINT, KD_API_CONTINUE2,
					 KD_API_SWITCH_PROCESSOR, KD_API_SET_SPECIAL_CALL, KD_API_GET_CONTEXT };
	uint32_t api = apis[choice % 8];
	uint16_t type = is_wild ? choice : w->waits_for;
	uint8_t body[KD_FILE_IO_SIZE] = { 0 };
	bool is_open = w->talk.ask != SERIAL_ASK_NONE;

	if (!type || (!is_wild && is_open))
		return;
	put_le32(body, api);
	if (!is_open && type == w->talk.want) {
		w->written = w->talk.stats.packets_in;
		w->may_write = type == KD_PACKET_MANIPULATE && is_read(api) ? 1 + SERIAL_TALK_REDO_MAX : 1;
	}
	serial_talk_deliver(&w->talk, type, (uint16_t)kd_header_size(type), body, type == KD_PACKET_MANIPULATE ? KD_MANIPULATE_SIZE : kd_header_size(type),
			    type != KD_PACKET_MANIPULATE || kd_api_resumes(api));
	check_writes(w);
}

static void feed(struct world *w, const uint8_t *bytes, size_t len)
{
	size_t used = serial_talk_feed(&w->talk, bytes, len, w->now);

	require(used <= len);
	serial_talk_timer(&w->talk, w->now);
	check_writes(w);
}

// A whole packet with a right checksum.
static void feed_packet(struct world *w, uint16_t type, uint8_t how, const uint8_t *bytes, size_t len)
{
	static uint8_t frame[KDCOM_FRAME_MAX];
	uint32_t sum = 0, least = kd_header_size(type);
	size_t body_len = len > least ? len : least;

	memset(frame, 0, sizeof(frame));
	memcpy(frame + KDCOM_HEAD, bytes, len);
	for (size_t i = 0; i < body_len; i++)
		sum += frame[KDCOM_HEAD + i];
	if (how & 1)
		w->id ^= 1;
	put_le32(frame, KDCOM_DATA_LEADER);
	put_le16(frame + 4, type);
	put_le16(frame + 6, (uint16_t)body_len);
	put_le32(frame + 8, how & 2 ? KDCOM_ID_INITIAL | KDCOM_ID_SYNC : w->talk.kdcom.is_expected_known && !(how & 1) ? w->talk.kdcom.expected_id : w->id);
	put_le32(frame + 12, sum);
	frame[KDCOM_HEAD + body_len] = KDCOM_TRAILER;
	feed(w, frame, KDCOM_HEAD + body_len + 1);
}

static void feed_control(struct world *w, uint16_t type)
{
	uint8_t frame[KDCOM_HEAD] = { 0 };

	put_le32(frame, KDCOM_CONTROL_LEADER);
	put_le16(frame + 4, type);
	put_le32(frame + 8, w->talk.kdcom.next_id & ~KDCOM_ID_SYNC);
	feed(w, frame, sizeof(frame));
}

static void take_output(struct world *w)
{
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&w->talk.kdcom, &bytes, &len);
	kdcom_output_consume(&w->talk.kdcom, len);
}

// Time goes on until nothing is waited for, or for `ms`.
static void pass(struct world *w, uint64_t ms)
{
	uint64_t until = w->now + ms, deadline;

	for (unsigned turns = 0; turns < 2000; turns++) {
		for (unsigned same = 0; (deadline = serial_talk_deadline(&w->talk)) <= w->now; same++) {
			require(same < 8); // or a loop would spin
			serial_talk_timer(&w->talk, w->now);
			check_writes(w);
		}
		if (deadline > until)
			break;
		w->now = deadline;
	}
	if (w->now < until)
		w->now = until;
	serial_talk_timer(&w->talk, w->now);
	check_writes(w);
}

static void play(struct world *w, const uint8_t **at, const uint8_t *end)
{
	uint8_t op = *(*at)++, arg = *at < end ? *(*at)++ : 0;
	size_t len = (size_t)(end - *at) < arg ? (size_t)(end - *at) : arg;

	switch (op % 12) {
	case 0: feed(w, *at, len); *at += len; break;
	case 1: feed_packet(w, op / 12 % 13, 0, *at, len); *at += len; break;
	case 2: feed_packet(w, op / 12 % 13, len ? **at : 0, *at, len); *at += len; break; // any id
	case 3: feed_control(w, arg % 8); break;
	case 4: pass(w, arg * 97u); break;
	case 5: case 6: ask(w, arg, false); break;
	case 7: ask(w, arg, true); break;
	case 8: serial_talk_breakin(&w->talk); break;
	case 9: serial_talk_breakin_cancel(&w->talk); break;
	case 10: serial_talk_resend(&w->talk); break;
	default: take_output(w); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;
	const uint8_t *end = data + size;

	memset(&w, 0, sizeof(w));
	w.now = 1000;
	w.id = KDCOM_ID_INITIAL;
	serial_talk_init(&w.talk, &events, &w);
	w.seq = 1; // nobody saw it start
	serial_talk_start(&w.talk, w.now, 0);
	while (data < end)
		play(&w, &data, end);
	// A target that falls silent: every request comes to an end.
	for (int i = 0; i < 400 && w.talk.ask != SERIAL_ASK_NONE; i++) {
		take_output(&w);
		pass(&w, 1000);
	}
	require(w.talk.ask == SERIAL_ASK_NONE);
	serial_talk_stop(&w.talk);
	return 0;
}
