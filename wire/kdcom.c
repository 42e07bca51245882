// SPDX-License-Identifier: MIT
#include "wire/kdcom.h"

#include "wire/kdapi.h"
#include "wire/le.h"

// ---- Output --------------------------------------------------------------------------------------

static uint32_t room(const struct kdcom *k)
{
	return KDCOM_OUTPUT_SIZE - k->out_len;
}

static void show_out(const struct kdcom *k, const uint8_t *bytes, uint32_t len)
{
	if (!k->observer)
		return;
	const struct kdcom_seen seen = { .is_out = true, .head = bytes, .head_len = len, .rest = bytes + len };
	k->observer->seen(k->observer->arg, &seen);
}

// rest_len bytes of the body, its trailer included.
static void show_in(const struct kdcom *k, uint32_t head_len, uint32_t rest_len, enum kdcom_damage damage)
{
	if (!k->observer)
		return;
	const struct kdcom_seen seen = { .damage = damage, .head = k->rx_head, .head_len = head_len, .rest = k->rx_body, .rest_len = rest_len };
	k->observer->seen(k->observer->arg, &seen);
}

static void put_head(uint8_t *head, uint32_t leader, uint16_t type, uint16_t len, uint32_t id, uint32_t checksum)
{
	put_le32(head, leader);
	put_le16(head + 4, type);
	put_le16(head + 6, len);
	put_le32(head + 8, id);
	put_le32(head + 12, checksum);
}

// Every caller has made sure of the room, except the ones that may go without: nothing that is
// controlled by the peer's bytes alone can make this fail, see KDCOM_CONTROL_ROOM.
static void put_control(struct kdcom *k, enum kdcom_control type, uint32_t id)
{
	if (room(k) < KDCOM_HEAD)
		return;
	put_head(k->out + k->out_len, KDCOM_CONTROL_LEADER, (uint16_t)type, 0, id, 0);
	show_out(k, k->out + k->out_len, KDCOM_HEAD);
	k->out_len += KDCOM_HEAD;
	if (type == KDCOM_ACK)
		k->counters.acks_out++;
	else if (type == KDCOM_RESEND)
		k->counters.resends_out++;
	else
		k->counters.resets_out++;
}

// Write the packet in flight (again). Without room the next timeout tries it once more.
static void put_frame(struct kdcom *k)
{
	k->is_retry_armed = false;
	if (room(k) < k->tx_len + KDCOM_CONTROL_ROOM)
		return;
	put_le32(k->tx_frame + 8, k->next_id);
	wire_copy(k->out + k->out_len, k->tx_frame, k->tx_len);
	show_out(k, k->tx_frame, k->tx_len);
	k->out_len += k->tx_len;
	k->out_frame_end = k->out_len;
}

// A copy that was not written yet is the repetition that somebody asks for.
static void repeat_frame(struct kdcom *k)
{
	if (k->out_frame_end) {
		k->is_retry_armed = false;
		return;
	}
	k->counters.retransmissions++;
	put_frame(k);
}

void kdcom_output(const struct kdcom *k, const uint8_t **ret_bytes, size_t *ret_len)
{
	*ret_bytes = k->out;
	*ret_len = k->out_len;
}

void kdcom_output_consume(struct kdcom *k, size_t len)
{
	uint32_t n = len < k->out_len ? (uint32_t)len : k->out_len;
	wire_copy(k->out, k->out + n, k->out_len - n);
	k->out_len -= n;
	k->out_frame_end = k->out_frame_end > n ? k->out_frame_end - n : 0;
}

// ---- Sending -------------------------------------------------------------------------------------

// Every byte of a bulk read passes here on both ends; one by one they were most of what a packet of 4000 bytes cost.
#if defined(__SSE2__) && __STDC_HOSTED__ // a guest at HIGH_LEVEL has no vector registers to spare
#define CHECKSUM_BLOCK 16u

typedef char vector_t __attribute__((vector_size(16), aligned(1), may_alias));
typedef long long sums_t __attribute__((vector_size(16)));

static uint32_t sum_blocks(const uint8_t *bytes, uint32_t count)
{
	const vector_t zero = { 0 };
	sums_t sums = { 0 }; // one for each half of a block
	for (uint32_t i = 0; i < count; i++, bytes += CHECKSUM_BLOCK)
		sums += __builtin_ia32_psadbw128(*(const vector_t *)bytes, zero);
	return (uint32_t)(sums[0] + sums[1]);
}
#else
#define CHECKSUM_BLOCK 1u

static uint32_t sum_blocks(const uint8_t *bytes, uint32_t count)
{
	uint32_t sum = 0;
	while (count--)
		sum += *bytes++;
	return sum;
}
#endif

static uint32_t checksum(const uint8_t *body, uint32_t len)
{
	uint32_t blocks = len / CHECKSUM_BLOCK, sum = sum_blocks(body, blocks);
	for (uint32_t i = blocks * CHECKSUM_BLOCK; i < len; i++)
		sum += body[i];
	return sum;
}

int kdcom_send(struct kdcom *k, uint16_t type, const void *hdr, uint32_t hdr_len, const void *data, uint32_t data_len,
               uint32_t flags)
{
	uint64_t body_len = (uint64_t)hdr_len + data_len;
	if (body_len > KDCOM_BODY_MAX)
		return KDCOM_E_SIZE;
	if (k->is_sending)
		return KDCOM_E_BUSY;
	uint32_t len = (uint32_t)body_len;
	if (room(k) < KDCOM_HEAD + len + 1u + KDCOM_CONTROL_ROOM)
		return KDCOM_E_FULL;
	uint8_t *body = k->tx_frame + KDCOM_HEAD;
	wire_copy(body, hdr, hdr_len);
	wire_copy(body + hdr_len, data, data_len);
	put_head(k->tx_frame, KDCOM_DATA_LEADER, type, (uint16_t)len, k->next_id, checksum(body, len));
	body[len] = KDCOM_TRAILER;
	k->tx_len = KDCOM_HEAD + len + 1u;
	k->tx_flags = flags;
	k->tx_timeouts = 0;
	k->is_sending = true;
	put_frame(k);
	return KDCOM_OK;
}

bool kdcom_is_sending(const struct kdcom *k)
{
	return k->is_sending;
}

// A copy of which nothing was written is not sent: under the id of a RESET it would be taken for the packet that follows.
static void withdraw_frame(struct kdcom *k)
{
	uint32_t end = k->out_frame_end;
	if (end < k->tx_len)
		return; // there is none, or its start is on its way
	wire_copy(k->out + end - k->tx_len, k->out + end, k->out_len - end);
	k->out_len -= k->tx_len;
	k->out_frame_end = 0;
}

void kdcom_cancel(struct kdcom *k)
{
	if (k->is_sending)
		withdraw_frame(k);
	k->is_sending = false;
}

// The packet in flight has arrived: by its ACK, or because what the peer sends proves it.
static void finish_sending(struct kdcom *k)
{
	k->next_id = (k->next_id ^ 1u) & ~KDCOM_ID_SYNC;
	k->is_sending = false;
	k->has_sync = false; // something was exchanged: the same SYNC frame now is a new start
	k->counters.packets_out++;
}

void kdcom_expect(struct kdcom *k, uint16_t type)
{
	k->want = type;
}

int kdcom_send_breakin(struct kdcom *k)
{
	if (!room(k))
		return KDCOM_E_FULL;
	k->out[k->out_len] = KDCOM_BREAKIN_BYTE;
	show_out(k, k->out + k->out_len, 1);
	k->out_len++;
	k->counters.breakins++;
	return KDCOM_OK;
}

static void ids_after_reset(struct kdcom *k)
{
	k->next_id = KDCOM_ID_INITIAL;
	k->expected_id = KDCOM_ID_INITIAL;
	k->has_sync = false;
}

int kdcom_send_reset(struct kdcom *k)
{
	if (room(k) < KDCOM_HEAD)
		return KDCOM_E_FULL;
	k->is_sending = false;
	ids_after_reset(k);
	k->is_expected_known = false;
	k->is_in_step = false;
	if (k->resets_due < UINT8_MAX)
		k->resets_due++;
	k->is_reset_armed = false;
	put_control(k, KDCOM_RESET, 0);
	return KDCOM_OK;
}

bool kdcom_is_in_step(const struct kdcom *k)
{
	return k->is_in_step;
}

// ---- Start ---------------------------------------------------------------------------------------

void kdcom_restart(struct kdcom *k)
{
	k->is_sending = false;
	ids_after_reset(k);
	if (k->role == KDCOM_TARGET)
		k->next_id |= KDCOM_ID_SYNC;
	k->want = 0;
	k->is_expected_known = false;
	k->is_in_step = false;
	k->resets_due = 0;
	k->held.kind = KDCOM_EV_NONE;
}

void kdcom_init(struct kdcom *k, enum kdcom_role role)
{
	wire_zero(k, sizeof(*k));
	k->role = role;
	k->limits.retry_ms = role == KDCOM_TARGET ? KDCOM_TARGET_RETRY_MS : KDCOM_DEBUGGER_RETRY_MS;
	k->limits.retry_limit = KDCOM_RETRY_LIMIT;
	k->limits.byte_ms = KDCOM_BYTE_MS;
	kdcom_restart(k);
}

// ---- Control packets -----------------------------------------------------------------------------

static void on_ack(struct kdcom *k, uint32_t id, struct kdcom_event *ev)
{
	k->counters.acks_in++;
	if (!k->is_sending || id != (k->next_id & ~KDCOM_ID_SYNC)) {
		k->counters.stray_acks++;
		return;
	}
	finish_sending(k);
	ev->kind = KDCOM_EV_SENT;
}

static void on_resend(struct kdcom *k, struct kdcom_event *ev)
{
	k->counters.resends_in++;
	if (k->is_sending)
		repeat_frame(k);
	else if (k->role == KDCOM_TARGET)
		ev->kind = KDCOM_EV_RESEND_REQUEST;
	else
		k->counters.stray_resends++;
}

static void on_reset(struct kdcom *k, struct kdcom_event *ev)
{
	k->counters.resets_in++;
	ids_after_reset(k);
	k->is_expected_known = true;
	k->is_in_step = true;
	ev->kind = KDCOM_EV_RESET;
	ev->is_answer = k->resets_due > 0;
	if (ev->is_answer) {
		k->resets_due--;
	} else {
		put_control(k, KDCOM_RESET, 0);
		// A target answers every RESET, this answer too: that is not to be answered again.
		k->resets_due = k->role == KDCOM_DEBUGGER;
		k->is_reset_armed = false;
	}
	if (!k->is_sending)
		return;
	if (k->role == KDCOM_TARGET) {
		// A copy that is still in the output carries the old id, so it does not count.
		k->counters.retransmissions++;
		put_frame(k);
	} else {
		k->is_sending = false;
		ev->is_lost = true;
	}
}

static void on_control(struct kdcom *k, struct kdcom_event *ev)
{
	switch (get_le16(k->rx_head + 4)) {
	case KDCOM_ACK: on_ack(k, get_le32(k->rx_head + 8), ev); break;
	case KDCOM_RESEND: on_resend(k, ev); break;
	case KDCOM_RESET: on_reset(k, ev); break;
	default: k->counters.bad_control++; break;
	}
}

// ---- Data packets --------------------------------------------------------------------------------

static struct kdcom_event packet_event(struct kdcom *k)
{
	k->counters.packets_in++;
	return (struct kdcom_event){ .kind = KDCOM_EV_PACKET, .type = get_le16(k->rx_head + 4),
	                             .body_len = get_le16(k->rx_head + 6), .body = k->rx_body };
}

static void drop_duplicate(struct kdcom *k, uint32_t id)
{
	put_control(k, KDCOM_ACK, id);
	k->counters.duplicates++;
}

// KD reference, section 1.7, rule 5 in VirtualKD's form: only the packet we expect next proves that ours arrived. It is
// asked for again rather than taken, because nobody waits for it before the owner knows that its own was sent.
static void on_data_while_sending(struct kdcom *k, uint32_t id, struct kdcom_event *ev)
{
	if (id != k->expected_id) {
		drop_duplicate(k, id);
		return;
	}
	put_control(k, KDCOM_RESEND, 0);
	k->counters.implied_acks++;
	finish_sending(k);
	ev->kind = KDCOM_EV_SENT;
}

static void target_on_data(struct kdcom *k, uint32_t id, struct kdcom_event *ev)
{
	if (k->is_sending) {
		on_data_while_sending(k, id, ev);
		return;
	}
	if (id != k->expected_id) {
		drop_duplicate(k, id);
		return;
	}
	if (!k->want) {
		k->counters.unwanted++;
		return;
	}
	put_control(k, KDCOM_ACK, id);
	if (get_le16(k->rx_head + 4) != k->want) {
		k->counters.unwanted++;
		return;
	}
	k->expected_id ^= 1u;
	*ev = packet_event(k);
}

// FNV-1a: tells a repeated SYNC frame from another one of the same length. Not a defence, a peer may lie about its own start.
static uint64_t hash(const uint8_t *bytes, uint32_t len)
{
	uint64_t h = 0xCBF29CE484222325u;
	for (uint32_t i = 0; i < len; i++)
		h = (h ^ bytes[i]) * 0x100000001B3u;
	return h;
}

// True: this very frame was the last thing that came. Remembers it else.
static bool is_same_sync(struct kdcom *k, uint32_t id)
{
	uint16_t type = get_le16(k->rx_head + 4), len = get_le16(k->rx_head + 6);
	uint64_t h = hash(k->rx_body, len);
	if (k->has_sync && k->sync_id == id && k->sync_type == type && k->sync_len == len && k->sync_hash == h)
		return true;
	k->has_sync = true;
	k->sync_id = id;
	k->sync_type = type;
	k->sync_len = len;
	k->sync_hash = h;
	return false;
}

// The owner hears of its own packet first, then of the one that proves it.
static void hold_behind_sent(struct kdcom *k, struct kdcom_event *ev, bool is_assumed)
{
	k->held = *ev;
	*ev = (struct kdcom_event){ .kind = KDCOM_EV_SENT, .is_assumed = is_assumed };
}

static void debugger_on_sync(struct kdcom *k, uint32_t id, struct kdcom_event *ev)
{
	uint32_t plain = id & ~KDCOM_ID_SYNC;
	put_control(k, KDCOM_ACK, plain);
	if (is_same_sync(k, id)) {
		k->counters.duplicates++;
		return;
	}
	k->expected_id = plain ^ 1u;
	k->next_id = KDCOM_ID_INITIAL;
	k->is_expected_known = true;
	k->is_in_step = true;
	*ev = packet_event(k);
	ev->is_sync = true;
	if (!k->is_sending)
		return;
	k->is_sending = false;
	if (k->tx_flags & KDCOM_SEND_CONTINUE) {
		k->counters.packets_out++;
		k->counters.implied_acks++;
		hold_behind_sent(k, ev, true);
	} else {
		ev->is_lost = true;
	}
}

static void debugger_on_data(struct kdcom *k, uint32_t id, struct kdcom_event *ev)
{
	bool is_id = (id & ~(KDCOM_ID_SYNC | 1u)) == KDCOM_ID_INITIAL;
	if (is_id && id & KDCOM_ID_SYNC) {
		debugger_on_sync(k, id, ev);
		return;
	}
	if (!is_id || (k->is_expected_known && id != k->expected_id)) {
		drop_duplicate(k, id);
		return;
	}
	put_control(k, KDCOM_ACK, id);
	k->has_sync = false;
	k->is_expected_known = true;
	k->expected_id = id ^ 1u;
	*ev = packet_event(k);
	bool is_continue = (k->tx_flags & KDCOM_SEND_CONTINUE) != 0;
	if (k->is_sending && (ev->type == KD_PACKET_MANIPULATE || is_continue)) {
		k->counters.implied_acks++;
		finish_sending(k);
		hold_behind_sent(k, ev, is_continue);
	}
}

static void on_data(struct kdcom *k, struct kdcom_event *ev)
{
	uint32_t len = get_le16(k->rx_head + 6);
	bool is_whole = checksum(k->rx_body, len) == get_le32(k->rx_head + 12);
	show_in(k, KDCOM_HEAD, len + 1, is_whole ? KDCOM_WHOLE : KDCOM_BAD_CHECKSUM);
	if (!is_whole) {
		k->counters.bad_checksum++;
		put_control(k, KDCOM_RESEND, 0);
		return;
	}
	uint32_t id = get_le32(k->rx_head + 8);
	if (k->role == KDCOM_TARGET)
		target_on_data(k, id, ev);
	else
		debugger_on_data(k, id, ev);
}

// ---- Receiving -----------------------------------------------------------------------------------
// A damaged frame is dropped as a whole: bytes once taken as its body are not searched for leaders,
// because a debugger that reads memory may well read frames.

static void scan_for_leader(struct kdcom *k)
{
	k->rx_state = KDCOM_RX_LEADER;
	k->rx_count = 0;
}

static void feed_leader(struct kdcom *k, uint8_t byte, struct kdcom_event *ev)
{
	if (byte == (uint8_t)KDCOM_DATA_LEADER || byte == (uint8_t)KDCOM_CONTROL_LEADER) {
		if (byte != k->rx_leader) {
			k->counters.noise += k->rx_count;
			k->rx_count = 0;
		}
		k->rx_leader = byte;
		k->rx_head[k->rx_count++] = byte;
		if (k->rx_count == 4) {
			k->rx_state = KDCOM_RX_HEAD;
			k->rx_len = 4;
		}
		return;
	}
	k->counters.noise += k->rx_count;
	k->rx_count = 0;
	if (byte == KDCOM_BREAKIN_BYTE && k->role == KDCOM_TARGET) {
		k->rx_head[0] = byte;
		show_in(k, 1, 0, KDCOM_WHOLE);
		k->counters.breakins++;
		ev->kind = KDCOM_EV_BREAKIN;
	} else {
		k->counters.noise++;
	}
}

static void on_head(struct kdcom *k, struct kdcom_event *ev)
{
	if (k->rx_leader == (uint8_t)KDCOM_CONTROL_LEADER) {
		scan_for_leader(k);
		show_in(k, KDCOM_HEAD, 0, KDCOM_WHOLE);
		on_control(k, ev);
		return;
	}
	uint32_t len = get_le16(k->rx_head + 6);
	// A debugger must acknowledge what it does not understand, or the target waits for ever.
	uint32_t least = k->role == KDCOM_TARGET ? kd_header_size(get_le16(k->rx_head + 4)) : 0;
	if (len > KDCOM_BODY_MAX || len < least) {
		k->counters.bad_size++;
		show_in(k, KDCOM_HEAD, 0, KDCOM_BAD_SIZE);
		put_control(k, KDCOM_RESEND, 0);
		scan_for_leader(k);
		return;
	}
	k->rx_len = 0;
	k->rx_state = len ? KDCOM_RX_BODY : KDCOM_RX_TRAILER;
}

static void on_trailer(struct kdcom *k, uint8_t byte, struct kdcom_event *ev)
{
	scan_for_leader(k);
	uint32_t len = get_le16(k->rx_head + 6);
	k->rx_body[len] = byte;
	if (byte == KDCOM_TRAILER) {
		on_data(k, ev);
		return;
	}
	show_in(k, KDCOM_HEAD, len + 1, KDCOM_BAD_TRAILER);
	k->counters.bad_trailer++;
	put_control(k, KDCOM_RESEND, 0);
}

// Copy towards a buffer that shall hold `want` bytes. Returns how many were taken.
static size_t fill(uint8_t *to, uint32_t *have, uint32_t want, const uint8_t *from, size_t len)
{
	size_t n = want - *have;
	if (n > len)
		n = len;
	wire_copy(to + *have, from, n);
	*have += (uint32_t)n;
	return n;
}

// Take at least one of `len` > 0 bytes.
static size_t feed_some(struct kdcom *k, const uint8_t *bytes, size_t len, struct kdcom_event *ev)
{
	size_t used = 1;
	switch (k->rx_state) {
	case KDCOM_RX_LEADER: feed_leader(k, bytes[0], ev); break;
	case KDCOM_RX_HEAD:
		used = fill(k->rx_head, &k->rx_len, KDCOM_HEAD, bytes, len);
		if (k->rx_len == KDCOM_HEAD)
			on_head(k, ev);
		break;
	case KDCOM_RX_BODY: {
		uint32_t body_len = get_le16(k->rx_head + 6);
		used = fill(k->rx_body, &k->rx_len, body_len, bytes, len);
		if (k->rx_len == body_len)
			k->rx_state = KDCOM_RX_TRAILER;
		break;
	}
	case KDCOM_RX_TRAILER: on_trailer(k, bytes[0], ev); break;
	}
	k->is_byte_armed = false;
	return used;
}

void kdcom_feed(struct kdcom *k, const uint8_t *bytes, size_t len, size_t *ret_used, struct kdcom_event *ret_event)
{
	struct kdcom_event ev = k->held;
	k->held.kind = KDCOM_EV_NONE;
	size_t used = 0;
	while (ev.kind == KDCOM_EV_NONE && used < len) {
		if (room(k) < KDCOM_CONTROL_ROOM) {
			k->counters.blocked++;
			ev.kind = KDCOM_EV_BLOCKED;
			break;
		}
		used += feed_some(k, bytes + used, len - used, &ev);
	}
	*ret_used = used;
	*ret_event = ev;
}

// ---- Time ----------------------------------------------------------------------------------------

// Start a timer that is not running. True: it was running and its time has come.
static bool is_due(bool *is_armed, uint64_t *at, uint64_t now_ms, uint32_t after_ms)
{
	if (!*is_armed) {
		*is_armed = true;
		*at = now_ms + after_ms;
		return false;
	}
	return now_ms >= *at;
}

// KD reference, section 1.7: a target keeps quiet about a header that stops, and asks again for a body.
static void on_byte_timeout(struct kdcom *k)
{
	bool is_data = k->rx_leader == (uint8_t)KDCOM_DATA_LEADER;
	bool has_head = k->rx_state != KDCOM_RX_HEAD;
	show_in(k, has_head ? KDCOM_HEAD : k->rx_len, has_head ? k->rx_len : 0, KDCOM_TRUNCATED);
	k->counters.truncated++;
	if (is_data && (k->rx_state != KDCOM_RX_HEAD || k->role == KDCOM_DEBUGGER))
		put_control(k, KDCOM_RESEND, 0);
	scan_for_leader(k);
}

static bool has_to_give_up(const struct kdcom *k)
{
	if (k->role == KDCOM_DEBUGGER && k->tx_flags & KDCOM_SEND_CONTINUE)
		return k->tx_timeouts > KDCOM_CONTINUE_LIMIT;
	if (k->role == KDCOM_TARGET && !(k->tx_flags & KDCOM_SEND_DROPPABLE))
		return false;
	return k->tx_timeouts >= k->limits.retry_limit;
}

static void give_up(struct kdcom *k, struct kdcom_event *ev)
{
	if (k->role == KDCOM_DEBUGGER && k->tx_flags & KDCOM_SEND_CONTINUE) {
		finish_sending(k);
		*ev = (struct kdcom_event){ .kind = KDCOM_EV_SENT, .is_assumed = true };
		return;
	}
	k->is_sending = false;
	k->counters.given_up++;
	ev->kind = KDCOM_EV_GIVEN_UP;
	if (k->role == KDCOM_TARGET) {
		ids_after_reset(k);
		k->next_id |= KDCOM_ID_SYNC;
	}
}

static void on_retry_timeout(struct kdcom *k, struct kdcom_event *ev)
{
	k->counters.timeouts++;
	if (k->tx_timeouts < UINT32_MAX)
		k->tx_timeouts++;
	if (has_to_give_up(k))
		give_up(k, ev);
	else
		repeat_frame(k);
}

void kdcom_timer(struct kdcom *k, uint64_t now_ms, struct kdcom_event *ret_event)
{
	*ret_event = (struct kdcom_event){ .kind = KDCOM_EV_NONE };
	if (k->rx_state != KDCOM_RX_LEADER && is_due(&k->is_byte_armed, &k->byte_at, now_ms, k->limits.byte_ms))
		on_byte_timeout(k);
	if (k->resets_due && is_due(&k->is_reset_armed, &k->reset_at, now_ms, KDCOM_RESET_FORGET_MS))
		k->resets_due = 0;
	if (!k->is_sending)
		return;
	if (is_due(&k->is_retry_armed, &k->retry_at, now_ms, k->limits.retry_ms)) {
		on_retry_timeout(k, ret_event);
		// What was repeated just now waits from now on.
		if (k->is_sending)
			(void)is_due(&k->is_retry_armed, &k->retry_at, now_ms, k->limits.retry_ms); // only starts it
	}
}

static uint64_t earlier(uint64_t deadline, bool is_armed, uint64_t at)
{
	if (!is_armed)
		return 0;
	return at < deadline ? at : deadline;
}

uint64_t kdcom_deadline(const struct kdcom *k)
{
	uint64_t deadline = KDCOM_NO_DEADLINE;
	if (k->rx_state != KDCOM_RX_LEADER)
		deadline = earlier(deadline, k->is_byte_armed, k->byte_at);
	if (k->resets_due)
		deadline = earlier(deadline, k->is_reset_armed, k->reset_at);
	if (k->is_sending)
		deadline = earlier(deadline, k->is_retry_armed, k->retry_at);
	return deadline;
}

const char *kdcom_event_name(enum kdcom_event_kind kind)
{
	switch (kind) {
	case KDCOM_EV_NONE: return "nothing";
	case KDCOM_EV_PACKET: return "packet";
	case KDCOM_EV_SENT: return "sent";
	case KDCOM_EV_BREAKIN: return "break-in";
	case KDCOM_EV_RESET: return "reset";
	case KDCOM_EV_RESEND_REQUEST: return "resend request";
	case KDCOM_EV_GIVEN_UP: return "given up";
	case KDCOM_EV_BLOCKED: return "blocked";
	}
	return "unknown";
}
