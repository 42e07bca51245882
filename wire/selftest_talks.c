// SPDX-License-Identifier: MIT
// Conversations: what a debugger and a target say to each other, as scripts of two columns. Each script is played once
// for either role under test: the lines of that column are then expectations, those of the other are input.
//
//   data TYPE ID API     a data packet with this first word in its body; `size N` sets another body length
//   ack ID, resend, reset, break, bytes HEX
//        and what happens to it on its way: lost, damaged, cut (in the body), cuthead, trailer (is wrong), twice
//   =EVENT               the next event that this column's machine reports
//   .send TYPE API [continue|droppable] [size N], .expect TYPE, .reset, .break, .cancel, .restart
//   .ids NEXT EXPECTED   .stopped: as just after a state change with id 0 was acknowledged
//   .clock MS            time goes on; .mute N MS: so N times, and what is said meanwhile is lost
//   ?step, ?nostep       the ids are (not) known to agree
//   #COUNTER N           its counter of this name
// An id is 0 or 1, with S in front when the SYNC bit is set. A title "#" is played for both roles, "#T" and "#D" for one only, where our
// other role would not do what the script's does.
#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"
#include "wire/selftest.h"

struct row {
	const char *debugger;
	const char *target;
};

static const struct row rows[] = {
#include "wire/selftest_talks.inc"
};
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

#define EVENT_MAX 16u
#define SCRIPT_FRAME_MAX (KDCOM_FRAME_MAX + 16u)

struct play {
	struct selftest *t;
	struct kdcom k;
	uint64_t now;
	struct text events[EVENT_MAX];
	size_t event_count, event_seen;
	uint8_t frame[SCRIPT_FRAME_MAX];
};
static struct play play;

// ---- Words ---------------------------------------------------------------------------------------

// The next word of *s into `word`; false at the end.
static bool next_word(const char **s, char word[32])
{
	size_t n = 0;
	while (**s == ' ')
		(*s)++;
	while (**s && **s != ' ' && n < 31)
		word[n++] = *(*s)++;
	word[n] = 0;
	return n > 0;
}

static uint32_t number(const char *s, uint32_t base)
{
	uint32_t v = 0;
	for (; *s; s++)
		v = v * base + (uint32_t)(*s <= '9' ? *s - '0' : *s - 'A' + 10);
	return v;
}

static uint32_t next_number(const char **s, uint32_t base)
{
	char word[32];
	return next_word(s, word) ? number(word, base) : 0;
}

static uint32_t next_id(const char **s)
{
	char word[32];
	(void)next_word(s, word); // an absent id reads as 0
	uint32_t sync = word[0] == 'S' ? KDCOM_ID_SYNC : 0;
	return KDCOM_ID_INITIAL | sync | number(word + (sync != 0), 10);
}

static bool has_word(const char *s, const char *wanted)
{
	char word[32];
	while (next_word(&s, word))
		if (same_text(word, wanted))
			return true;
	return false;
}

// The number behind a word of the rest of a line, or `otherwise`.
static uint32_t option(const char *s, const char *wanted, uint32_t otherwise)
{
	char word[32];
	while (next_word(&s, word))
		if (same_text(word, wanted))
			return next_number(&s, 10);
	return otherwise;
}

// ---- Frames --------------------------------------------------------------------------------------

// A body that has bytes of every meaning in it, the break-in byte and leaders too.
static uint32_t make_body(uint8_t *body, uint32_t api, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		body[i] = i % 7 == 5 ? KDCOM_BREAKIN_BYTE : i % 7 == 6 ? KDCOM_TRAILER : i % 7 < 3 ? 0x30 : (uint8_t)i;
	if (len >= 4)
		put_le32(body, api);
	return len;
}

static size_t make_control(uint8_t *f, uint16_t type, uint32_t id)
{
	put_le32(f, KDCOM_CONTROL_LEADER);
	put_le16(f + 4, type);
	put_le16(f + 6, 0);
	put_le32(f + 8, id);
	put_le32(f + 12, 0);
	return KDCOM_HEAD;
}

static size_t make_data(uint8_t *f, const char *s)
{
	uint32_t type = next_number(&s, 10), id = next_id(&s), api = next_number(&s, 16);
	uint32_t len = make_body(f + KDCOM_HEAD, api, option(s, "size", kd_header_size(type)));
	uint32_t sum = 0;
	for (uint32_t i = 0; i < len; i++)
		sum += f[KDCOM_HEAD + i];
	put_le32(f, KDCOM_DATA_LEADER);
	put_le16(f + 4, (uint16_t)type);
	put_le16(f + 6, (uint16_t)len);
	put_le32(f + 8, id);
	put_le32(f + 12, sum);
	f[KDCOM_HEAD + len] = KDCOM_TRAILER;
	return KDCOM_HEAD + len + 1;
}

// The bytes of a line that is said; 0 for a line that is none.
static size_t make_frame(uint8_t *f, const char *s)
{
	char word[32];
	(void)next_word(&s, word); // an empty line makes no frame
	if (same_text(word, "data"))
		return make_data(f, s);
	if (same_text(word, "ack"))
		return make_control(f, KDCOM_ACK, next_id(&s));
	if (same_text(word, "resend"))
		return make_control(f, KDCOM_RESEND, 0);
	if (same_text(word, "reset"))
		return make_control(f, KDCOM_RESET, 0);
	if (same_text(word, "bytes"))
		return hex_bytes(s, f, SCRIPT_FRAME_MAX);
	if (same_text(word, "break")) {
		f[0] = KDCOM_BREAKIN_BYTE;
		return 1;
	}
	return 0;
}

// ---- The machine under test ----------------------------------------------------------------------

static void note_event(const struct kdcom_event *ev)
{
	struct text *x = &play.events[play.event_count % EVENT_MAX];
	play.event_count++;
	text_clear(x);
	text_add(x, kdcom_event_name(ev->kind));
	if (ev->kind == KDCOM_EV_PACKET) {
		text_add(x, " ");
		text_add_dec(x, ev->type);
		text_add(x, " ");
		text_add_hex(x, ev->body_len >= 4 ? get_le32(ev->body) : 0);
	}
	text_add(x, ev->is_sync ? " sync" : "");
	text_add(x, ev->is_answer ? " answer" : "");
	text_add(x, ev->is_lost ? " lost" : "");
	text_add(x, ev->is_assumed ? " assumed" : "");
}

static void tell_time(void)
{
	struct kdcom_event ev;
	kdcom_timer(&play.k, play.now, &ev);
	if (ev.kind != KDCOM_EV_NONE)
		note_event(&ev);
}

// As an owner does: after a RESET, a target discards what else is buffered.
static void hear(const uint8_t *bytes, size_t len)
{
	struct kdcom_event ev;
	do {
		size_t used;
		kdcom_feed(&play.k, bytes, len, &used, &ev);
		bytes += used;
		len -= used;
		if (ev.kind != KDCOM_EV_NONE)
			note_event(&ev);
		if (ev.kind == KDCOM_EV_RESET && play.k.role == KDCOM_TARGET)
			len = 0;
	} while (ev.kind != KDCOM_EV_NONE);
	tell_time();
}

// The other column says something.
static void play_input(const char *s)
{
	size_t len = make_frame(play.frame, s);
	if (!len || has_word(s, "lost"))
		return;
	if (has_word(s, "damaged"))
		play.frame[len - 2] ^= 0x10;
	if (has_word(s, "trailer"))
		play.frame[len - 1] = 0;
	if (has_word(s, "cut"))
		len = KDCOM_HEAD + 4;
	if (has_word(s, "cuthead"))
		len = 10;
	if (has_word(s, "twice")) {
		static uint8_t both[2 * SCRIPT_FRAME_MAX];
		wire_copy(both, play.frame, len);
		wire_copy(both + len, play.frame, len);
		hear(both, 2 * len);
		return;
	}
	hear(play.frame, len);
}

// The column under test is expected to say something.
static bool play_output(const char *s)
{
	const uint8_t *out;
	size_t out_len, len = make_frame(play.frame, s);
	kdcom_output(&play.k, &out, &out_len);
	if (out_len < len || !same_bytes(out, play.frame, len))
		return false;
	kdcom_output_consume(&play.k, len);
	return true;
}

static bool play_event(const char *s)
{
	return play.event_seen < play.event_count && same_text(play.events[play.event_seen++ % EVENT_MAX].bytes, s);
}

static bool play_counter(const char *s)
{
	static const struct {
		const char *name;
		const uint32_t *value;
	} counters[] = {
#define X(field) { #field, &play.k.counters.field }
		X(duplicates), X(unwanted), X(stray_acks), X(stray_resends), X(bad_size), X(bad_trailer), X(bad_checksum),
		X(bad_control), X(truncated), X(noise), X(implied_acks), X(given_up), X(resets_in), X(resets_out),
		X(acks_in), X(acks_out), X(resends_in), X(resends_out),
		X(retransmissions), X(packets_in), X(packets_out), X(breakins), X(timeouts),
#undef X
	};
	char word[32];
	(void)next_word(&s, word); // an empty name matches none
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		if (same_text(word, counters[i].name))
			return *counters[i].value == next_number(&s, 10);
	return false;
}

static bool do_send(const char *s)
{
	uint32_t type = next_number(&s, 10), api = next_number(&s, 16);
	uint32_t len = make_body(play.frame, api, option(s, "size", kd_header_size(type)));
	uint32_t flags = has_word(s, "continue") ? KDCOM_SEND_CONTINUE : has_word(s, "droppable") ? KDCOM_SEND_DROPPABLE : 0;
	return kdcom_send(&play.k, (uint16_t)type, play.frame, len, NULL, 0, flags) == KDCOM_OK;
}

static void set_ids(uint32_t next, uint32_t expected)
{
	play.k.next_id = next;
	play.k.expected_id = expected;
	play.k.is_expected_known = true;
	play.k.is_in_step = true;
}

static void do_stopped(void)
{
	if (play.k.role == KDCOM_DEBUGGER) {
		set_ids(KDCOM_ID_INITIAL, KDCOM_ID_INITIAL | 1u);
	} else {
		set_ids(KDCOM_ID_INITIAL | 1u, KDCOM_ID_INITIAL);
		kdcom_expect(&play.k, KD_PACKET_MANIPULATE);
	}
}

static void do_mute(const char *s)
{
	uint32_t times = next_number(&s, 10), ms = next_number(&s, 10);
	while (times--) {
		play.now += ms;
		tell_time();
		kdcom_output_consume(&play.k, KDCOM_OUTPUT_SIZE);
	}
}

// What the owner of the machine under test does. False: it failed, or is no such command.
static bool play_command(const char *s)
{
	char word[32];
	(void)next_word(&s, word); // an empty command matches none
	if (same_text(word, "send"))
		return do_send(s);
	if (same_text(word, "reset"))
		return kdcom_send_reset(&play.k) == KDCOM_OK;
	if (same_text(word, "break"))
		return kdcom_send_breakin(&play.k) == KDCOM_OK;
	if (same_text(word, "expect"))
		kdcom_expect(&play.k, (uint16_t)next_number(&s, 10));
	else if (same_text(word, "cancel"))
		kdcom_cancel(&play.k);
	else if (same_text(word, "restart"))
		kdcom_restart(&play.k);
	else if (same_text(word, "stopped"))
		do_stopped();
	else if (same_text(word, "clock"))
		play.now += next_number(&s, 10);
	else if (same_text(word, "mute"))
		do_mute(s);
	else if (same_text(word, "ids")) {
		uint32_t next = next_id(&s);
		set_ids(next, next_id(&s));
	} else
		return false;
	return true;
}

static bool play_own_line(const char *s)
{
	bool is_ok;
	switch (s[0]) {
	case 0: return true;
	case '=': return play_event(s + 1);
	case '#': return play_counter(s + 1);
	case '?': return kdcom_is_in_step(&play.k) == same_text(s, "?step");
	case '.':
		is_ok = play_command(s + 1);
		tell_time();
		return is_ok;
	default: return play_output(s);
	}
}

static bool is_wire_line(const char *s)
{
	return s[0] >= 'a' && s[0] <= 'z';
}

// One cell of the script.
static void play_line(const char *s, bool is_own)
{
	if (!is_own) {
		if (is_wire_line(s))
			play_input(s);
		return;
	}
	bool is_ok = play_own_line(s);
	if (!is_ok && !play.t->has_failed)
		play.t->log(s);
	CHECK(play.t, is_ok);
}

// Nothing is left over: no event that the script does not name, no byte.
static void check_end(void)
{
	const uint8_t *out;
	size_t out_len;
	kdcom_output(&play.k, &out, &out_len);
	if (play.event_seen != play.event_count && !play.t->has_failed)
		play.t->log(play.events[play.event_seen % EVENT_MAX].bytes);
	CHECK(play.t, play.event_seen == play.event_count);
	CHECK(play.t, out_len == 0);
}

// Play the rows behind a title until the next one. Returns their number.
static size_t play_rows(const struct row *row, const struct row *end, enum kdcom_role role)
{
	const struct row *first = row;
	kdcom_init(&play.k, role);
	play.now = 1000;
	play.event_count = play.event_seen = 0;
	for (; row < end && row->target; row++) {
		play_line(row->debugger, role == KDCOM_DEBUGGER);
		play_line(row->target, role == KDCOM_TARGET);
	}
	check_end();
	return (size_t)(row - first);
}

static void play_for(struct selftest *t, const struct row *title, enum kdcom_role role)
{
	static struct text name;
	text_clear(&name);
	text_add(&name, role == KDCOM_TARGET ? "talk (target): " : "talk (debugger): ");
	text_add(&name, title->debugger + 3);
	selftest_begin(t, name.bytes);
	play.t = t;
	CHECK(t, play_rows(title + 1, rows + ROW_COUNT, role) > 0);
	selftest_end(t);
}

void selftest_talks(struct selftest *t)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		const struct row *title = &rows[i];
		if (title->target)
			continue;
		if (title->debugger[1] != 'D')
			play_for(t, title, KDCOM_TARGET);
		if (title->debugger[1] != 'T')
			play_for(t, title, KDCOM_DEBUGGER);
	}
}
