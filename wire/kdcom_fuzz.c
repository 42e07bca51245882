// SPDX-License-Identifier: MIT
// Framing under a hostile peer, an arbitrary owner and arbitrary time. The input is a program:
//   first byte   bit 0 role, bit 1: compare with a second machine that gets every byte alone
//   op < 0x80    the next op + 1 bytes come from the peer
//   0x80 n       n * 16 ms pass          0x81 n      n * 40 bytes of output are written
//   0x82 t l f   send type t, l * 16 bytes, flags f
//   0x83 t       expect type t           0x84 RESET  0x85 break-in  0x86 cancel  0x87 restart
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
	struct kdcom k;
	uint64_t now;
	bool is_bytewise;
	bool is_pair;
	// What it has written: a stream of whole frames, whatever happens.
	uint8_t frame[KDCOM_FRAME_MAX];
	size_t frame_len;
	uint64_t written_hash, event_hash;
};

static void mix(uint64_t *hash, uint64_t value)
{
	*hash = (*hash ^ value) * 0x100000001B3u;
}

// ---- Output --------------------------------------------------------------------------------------

static size_t frame_size(const uint8_t *f, size_t len)
{
	if (f[0] == KDCOM_BREAKIN_BYTE)
		return 1;
	if (len < KDCOM_HEAD)
		return KDCOM_HEAD;
	return get_le32(f) == KDCOM_DATA_LEADER ? KDCOM_HEAD + get_le16(f + 6) + 1u : KDCOM_HEAD;
}

static void check_frame(const struct machine *m)
{
	const uint8_t *f = m->frame;
	if (m->frame_len == 1)
		return;
	uint32_t id = get_le32(f + 8), len = get_le16(f + 6), sum = 0;
	if (get_le32(f) == KDCOM_CONTROL_LEADER) {
		assert(get_le16(f + 4) >= KDCOM_ACK && get_le16(f + 4) <= KDCOM_RESET && len == 0);
		return;
	}
	assert(get_le32(f) == KDCOM_DATA_LEADER && len <= KDCOM_BODY_MAX);
	assert((id & ~(KDCOM_ID_SYNC | 1u)) == KDCOM_ID_INITIAL);
	for (uint32_t i = 0; i < len; i++)
		sum += f[KDCOM_HEAD + i];
	assert(sum == get_le32(f + 12) && f[KDCOM_HEAD + len] == KDCOM_TRAILER);
}

static void write_out(struct machine *m, size_t most)
{
	const uint8_t *out;
	size_t len;
	kdcom_output(&m->k, &out, &len);
	assert(len <= KDCOM_OUTPUT_SIZE);
	if (len > most)
		len = most;
	for (size_t i = 0; i < len; i++) {
		m->frame[m->frame_len++] = out[i];
		mix(&m->written_hash, out[i]);
		if (m->frame_len == frame_size(m->frame, m->frame_len)) {
			check_frame(m);
			m->frame_len = 0;
		}
	}
	kdcom_output_consume(&m->k, len);
}

// ---- Events --------------------------------------------------------------------------------------

static void check_state(const struct machine *m)
{
	const struct kdcom *k = &m->k;
	assert((k->next_id & ~(KDCOM_ID_SYNC | 1u)) == KDCOM_ID_INITIAL);
	assert((k->expected_id & ~1u) == KDCOM_ID_INITIAL);
	assert(k->out_frame_end <= k->out_len && k->out_len <= KDCOM_OUTPUT_SIZE);
	assert(!k->is_sending || k->tx_len > KDCOM_HEAD);
	// Something that waits has a time to wait for.
	assert(!k->is_sending || kdcom_deadline(k) != KDCOM_NO_DEADLINE);
}

static void on_event(struct machine *m, const struct kdcom_event *ev, bool was_sending)
{
	mix(&m->event_hash, (uint64_t)ev->kind | (uint64_t)ev->type << 8 | (uint64_t)ev->body_len << 24 |
	                            (uint64_t)ev->is_sync << 40 | (uint64_t)ev->is_lost << 41 | (uint64_t)ev->is_answer << 42 |
	                            (uint64_t)ev->is_assumed << 43);
	bool is_target = m->k.role == KDCOM_TARGET;
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		assert(ev->body == m->k.rx_body && ev->body_len <= KDCOM_BODY_MAX);
		for (size_t i = 0; i < ev->body_len; i++)
			mix(&m->event_hash, ev->body[i]);
		assert(!is_target || (ev->type == m->k.want && !was_sending && ev->body_len >= kd_header_size(ev->type)));
		break;
	case KDCOM_EV_SENT:
	case KDCOM_EV_GIVEN_UP: assert(was_sending && !kdcom_is_sending(&m->k)); break;
	case KDCOM_EV_RESET: assert(is_target ? kdcom_is_sending(&m->k) == was_sending : !kdcom_is_sending(&m->k)); break;
	case KDCOM_EV_BREAKIN: assert(is_target); break;
	case KDCOM_EV_RESEND_REQUEST: assert(is_target && !was_sending); break;
	case KDCOM_EV_BLOCKED: break;
	case KDCOM_EV_NONE: break;
	}
}

static void pass_time(struct machine *m, uint32_t ms)
{
	struct kdcom_event ev;
	bool was_sending = kdcom_is_sending(&m->k);
	m->now += ms;
	kdcom_timer(&m->k, m->now, &ev);
	if (ev.kind != KDCOM_EV_NONE)
		on_event(m, &ev, was_sending);
	uint64_t deadline = kdcom_deadline(&m->k);
	assert(deadline > m->now || deadline == 0);
}

// Returns the bytes taken: all, or up to where output is full.
static size_t feed(struct machine *m, const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev;
	size_t total = 0;
	do {
		size_t used;
		bool was_sending = kdcom_is_sending(&m->k);
		kdcom_feed(&m->k, bytes + total, len - total, &used, &ev);
		total += used;
		assert(total <= len);
		assert(ev.kind != KDCOM_EV_NONE || total == len);
		if (ev.kind != KDCOM_EV_NONE)
			on_event(m, &ev, was_sending);
	} while (ev.kind != KDCOM_EV_NONE && ev.kind != KDCOM_EV_BLOCKED);
	return total;
}

static void hear(struct machine *m, const uint8_t *bytes, size_t len)
{
	// Both of a pair write at the same moments, since an unwritten copy of a packet is the repetition that a RESEND asks for.
	if (m->is_pair)
		write_out(m, KDCOM_OUTPUT_SIZE);
	if (!m->is_bytewise) {
		(void)feed(m, bytes, len); // a peer that is blocked loses the rest, as when its connection ends
		return;
	}
	for (size_t i = 0; i < len; i++)
		(void)feed(m, bytes + i, 1); // while it is blocked the bytes are lost, like the rest above
}

// ---- The program ---------------------------------------------------------------------------------
struct program {
	const uint8_t *at, *end;
};

static uint8_t next(struct program *p)
{
	return p->at < p->end ? *p->at++ : 0;
}

static void send(struct machine *m, uint8_t type, uint8_t len, uint8_t flags)
{
	static uint8_t body[255 * 16];
	memset(body, type, sizeof(body));
	bool was_sending = kdcom_is_sending(&m->k);
	int r = kdcom_send(&m->k, type, body, len * 16u, body, flags & 15u, flags & 3u);
	assert((r == KDCOM_E_BUSY) == (was_sending && r != KDCOM_E_SIZE));
	assert(kdcom_is_sending(&m->k) == (was_sending || r == KDCOM_OK));
}

static void step(struct machine *m, struct program *p)
{
	uint8_t op = next(p), type, len;
	switch (op) {
	case 0x80: pass_time(m, next(p) * 16u); break;
	case 0x81: write_out(m, next(p) * 40u); break;
	case 0x82:
		type = next(p);
		len = next(p);
		send(m, type, len, next(p));
		break;
	case 0x83: kdcom_expect(&m->k, next(p)); break;
	case 0x84: (void)kdcom_send_reset(&m->k); break;   // a full output refuses both,
	case 0x85: (void)kdcom_send_breakin(&m->k); break; // and nothing happens
	case 0x86: kdcom_cancel(&m->k); break;
	case 0x87: kdcom_restart(&m->k); break;
	default: {
		size_t n = (op & 0x7Fu) + 1u, left = (size_t)(p->end - p->at);
		if (n > left)
			n = left;
		hear(m, p->at, n);
		p->at += n;
	}
	}
	check_state(m);
}

static void run(struct machine *m, const uint8_t *data, size_t size, bool is_bytewise, bool is_pair)
{
	struct program p = { data + 1, data + size };
	memset(m, 0, sizeof(*m));
	kdcom_init(&m->k, data[0] & 1 ? KDCOM_DEBUGGER : KDCOM_TARGET);
	m->is_bytewise = is_bytewise;
	m->is_pair = is_pair;
	while (p.at < p.end)
		step(m, &p);
	write_out(m, KDCOM_OUTPUT_SIZE);
	assert(m->frame_len == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct machine a, b;
	if (size < 2)
		return 0;
	bool is_pair = (data[0] & 2) != 0;
	run(&a, data, size, false, is_pair);
	if (!is_pair)
		return 0;
	run(&b, data, size, true, true);
	assert(a.event_hash == b.event_hash && a.written_hash == b.written_hash);
	assert(memcmp(&a.k.counters, &b.k.counters, sizeof(a.k.counters)) == 0);
	return 0;
}
