// SPDX-License-Identifier: MIT
// KDCOM on a Unix stream socket with as little of the client's own as there can be: one blocking write and one blocking read for each request, as the
// echo below it has. The same code measures vmkd's socket and the serial yardstick's.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "benchmarks/kdbench.h"
#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"

enum {
	FIRST_PATIENCE_MS = 300, // a stopped target answers a RESET at once
	BREAKIN_AGAIN_MS = 3000,
	STATE_PC = 24, // ProgramCounter of a state change
};

struct peer {
	int fd;
	bool acks_at_once;
	uint64_t pc; // where the target stands
	size_t at, len;
	uint8_t in[65536];
	struct kdcom kdcom;
};
static struct peer peer; // too large for a stack

static uint64_t now_ms(void)
{
	return now_ns() / 1000000u;
}

static void flush(void)
{
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&peer.kdcom, &bytes, &len);
	if (len == 0)
		return;
	write_all(peer.fd, bytes, len);
	kdcom_output_consume(&peer.kdcom, len);
}

// Reads more. The socket's timeout is for a UART that loses bytes: then kdcom says the last frame again. -> false: nothing came.
static bool read_more(void)
{
	struct kdcom_event event;
	ssize_t n = read(peer.fd, peer.in, sizeof peer.in);

	if (n == 0)
		die("the target's connection ended");
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		die("reading from the target: %s", strerror(errno));
	peer.at = 0;
	peer.len = n > 0 ? (size_t)n : 0;
	if (n < 0)
		kdcom_timer(&peer.kdcom, now_ms(), &event);
	return n > 0;
}

// The next event that matters: PACKET, SENT, RESET; NONE when nothing came for `patience_ms`.
static enum kdcom_event_kind next_event(struct kdcom_event *event, uint64_t patience_ms)
{
	uint64_t end = 0;

	for (;;) {
		size_t used;
		do {
			kdcom_feed(&peer.kdcom, peer.in + peer.at, peer.len - peer.at, &used, event);
			peer.at += used;
			if (event->kind == KDCOM_EV_PACKET && peer.acks_at_once)
				flush();
			if (event->kind == KDCOM_EV_PACKET || event->kind == KDCOM_EV_SENT || event->kind == KDCOM_EV_RESET)
				return event->kind;
		} while (event->kind != KDCOM_EV_NONE && event->kind != KDCOM_EV_BLOCKED);
		flush();
		if (read_more())
			continue;
		if (end == 0)
			end = now_ms() + patience_ms;
		else if (now_ms() >= end)
			return KDCOM_EV_NONE;
	}
}

static void set_patience(unsigned ms)
{
	struct timeval t = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
	if (setsockopt(peer.fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t))
		die("SO_RCVTIMEO: %s", strerror(errno));
}

static void send_packet(const struct kd_manipulate *m, const void *data, uint32_t data_len, uint32_t flags)
{
	uint8_t header[KD_MANIPULATE_SIZE];

	if (kd_manipulate_encode(m, KD_MACHINE_X64, header, sizeof header) != KD_OK ||
	    kdcom_send(&peer.kdcom, KD_PACKET_MANIPULATE, header, sizeof header, data, data_len, flags) != KDCOM_OK)
		die("a request cannot be sent");
	flush();
}

// Until a packet of this type comes; others are acknowledged and forgotten.
static void await_packet(uint16_t type, struct kdcom_event *ret)
{
	for (;;) {
		switch (next_event(ret, GUARD_MS)) {
		case KDCOM_EV_PACKET:
			if (ret->type == type)
				return;
			break;
		case KDCOM_EV_RESET:
			if (ret->is_lost)
				die("the target started anew in the middle of a request");
			break;
		case KDCOM_EV_SENT:
			break;
		default:
			die("no answer within %d s", GUARD_MS / 1000);
		}
	}
}

// The answer to a memory request; reply->data points into the client's buffer.
static void await_reply(const struct kd_manipulate *request, struct kd_manipulate *reply)
{
	struct kdcom_event event;

	do
		await_packet(KD_PACKET_MANIPULATE, &event);
	while (kd_manipulate_decode(event.body, event.body_len, KD_MACHINE_X64, reply) != KD_OK || reply->api != request->api ||
	       reply->u.memory.address != request->u.memory.address);
	if (reply->status || reply->u.memory.actual_bytes != request->u.memory.count)
		die("%" PRIu32 " bytes at %" PRIx64 ": status %" PRIx32 ", %" PRIu32 " bytes done", request->u.memory.count, request->u.memory.address,
		    reply->status, reply->u.memory.actual_bytes);
}

static void read_memory(uint64_t address, void *ret, uint32_t len)
{
	struct kd_manipulate m = { .api = KD_API_READ_VIRTUAL, .u.memory = { .address = address, .count = len } }, reply;

	send_packet(&m, NULL, 0, 0);
	await_reply(&m, &reply);
	if (reply.data_len != len)
		die("%" PRIu32 " bytes were asked for, %" PRIu32 " came", len, reply.data_len);
	memcpy(ret, reply.data, len);
}

static void write_word(uint64_t address, uint64_t word)
{
	struct kd_manipulate m = { .api = KD_API_WRITE_VIRTUAL, .u.memory = { .address = address, .count = sizeof word } }, reply;

	send_packet(&m, &word, sizeof word, 0);
	await_reply(&m, &reply);
}

// A break instruction that is part of the code would stop the target again: the debugger moves it past it. x64 alone.
static void step_over_break(void)
{
	enum { CONTEXT_LEN = 0x4D0, CONTEXT_RIP = 0xF8, INT3 = 0xCC };
	struct kd_manipulate m = { .api = KD_API_GET_CONTEXT };
	uint8_t code, context[CONTEXT_LEN];
	struct kdcom_event event;

	read_memory(peer.pc, &code, 1);
	if (code != INT3)
		return;
	send_packet(&m, NULL, 0, 0);
	await_packet(KD_PACKET_MANIPULATE, &event);
	if (kd_manipulate_decode(event.body, event.body_len, KD_MACHINE_X64, &m) != KD_OK || m.data_len < CONTEXT_LEN)
		die("no CONTEXT of an x64 processor came");
	memcpy(context, m.data, CONTEXT_LEN);
	put_le64(context + CONTEXT_RIP, peer.pc + 1);
	m = (struct kd_manipulate){ .api = KD_API_SET_CONTEXT };
	send_packet(&m, context, CONTEXT_LEN, 0);
	await_packet(KD_PACKET_MANIPULATE, &event);
}

// Lets the target run; returns when it has taken the request.
static void resume(void)
{
	struct kd_manipulate m = { .api = KD_API_CONTINUE2, .u.continue2 = { .status = KD_CONTINUE_HANDLED, .dr7 = 0x400 } };
	struct kdcom_event event;

	step_over_break();
	send_packet(&m, NULL, 0, KDCOM_SEND_CONTINUE);
	while (kdcom_is_sending(&peer.kdcom) && next_event(&event, GUARD_MS) != KDCOM_EV_SENT)
		if (event.kind == KDCOM_EV_NONE)
			die("the target does not take a Continue");
}

// Waits for a state change. -> false: none came for `patience_ms`.
static bool await_state(uint64_t patience_ms, uint32_t *ret_state)
{
	struct kdcom_event event;
	enum kdcom_event_kind kind;

	do
		kind = next_event(&event, patience_ms);
	while (kind != KDCOM_EV_NONE && !(kind == KDCOM_EV_PACKET && event.type == KD_PACKET_STATE_CHANGE));
	if (kind == KDCOM_EV_NONE)
		return false;
	*ret_state = get_le32(event.body);
	peer.pc = get_le64(event.body + STATE_PC);
	flush();
	return true;
}

static void ask_to_stop(void)
{
	if (kdcom_send_breakin(&peer.kdcom) != KDCOM_OK)
		die("no break-in can be sent");
	flush();
}

static void resynchronise(void)
{
	if (kdcom_send_reset(&peer.kdcom) != KDCOM_OK)
		die("no RESET can be sent");
	flush();
}

// Connects and stops the target, past module notices.
static void attach(const char *socket)
{
	uint64_t give_up = now_ms() + GUARD_MS, patience = FIRST_PATIENCE_MS;
	uint32_t state = 0;

	peer.fd = connect_unix(socket);
	set_patience(FIRST_PATIENCE_MS);
	kdcom_init(&peer.kdcom, KDCOM_DEBUGGER);
	resynchronise();
	while (state != KD_STATE_EXCEPTION || !kdcom_is_in_step(&peer.kdcom)) {
		if (now_ms() > give_up)
			die("the target does not stop within %d s", GUARD_MS / 1000);
		if (!await_state(patience, &state)) {
			ask_to_stop();
			patience = BREAKIN_AGAIN_MS;
			state = 0;
		} else if (!kdcom_is_in_step(&peer.kdcom)) {
			resynchronise();
		} else if (state != KD_STATE_EXCEPTION) {
			resume();
		}
	}
	set_patience(1000);
}

static void leave(void)
{
	resume();
	close(peer.fd);
}

// ---- reads ---------------------------------------------------------------------------------------------------------

static uint64_t measure_reads(uint64_t address, unsigned long rounds)
{
	uint32_t word;
	uint64_t start = now_ns();

	for (unsigned long i = 0; i < rounds; i++)
		read_memory(address + 4 * (i % 512), &word, sizeof word);
	return (now_ns() - start) / rounds;
}

static uint64_t measure_bulk(uint64_t address, size_t len)
{
	static uint8_t buffer[CHUNK];
	uint64_t start = now_ns();

	for (size_t at = 0; at < len; at += CHUNK)
		read_memory(address + at, buffer, (uint32_t)(len - at < CHUNK ? len - at : CHUNK));
	return now_ns() - start;
}

// What the test kernel has measured of itself (struct tk_bench of testkernel/nt/nt_data.h).
struct mailbox {
	uint64_t tsc_hz;
	uint64_t reads, read_ticks;
	uint64_t stops, stop_ticks;
};

enum {
	MAILBOX_HZ = 16,
	MAILBOX_COUNTS = 32,
	MAILBOX_APIS = 0x3161 - 0x3130,
	MAILBOX_TICKS = MAILBOX_COUNTS + 8 * MAILBOX_APIS,
	MAILBOX_STOPS = MAILBOX_TICKS + 8 * MAILBOX_APIS,
	MAILBOX_SIZE = MAILBOX_STOPS + 16,
};

static struct mailbox read_mailbox(uint64_t address)
{
	uint8_t raw[MAILBOX_SIZE];

	read_memory(address, raw, sizeof raw);
	if (get_le64(raw) != 0x48434E45424B54ull)
		die("no TkBench at %" PRIx64, address);
	return (struct mailbox){ .tsc_hz = get_le64(raw + MAILBOX_HZ), .reads = get_le64(raw + MAILBOX_COUNTS), .read_ticks = get_le64(raw + MAILBOX_TICKS),
				 .stops = get_le64(raw + MAILBOX_STOPS), .stop_ticks = get_le64(raw + MAILBOX_STOPS + 8) };
}

static uint64_t mean_ns(uint64_t ticks, uint64_t count, uint64_t hz)
{
	if (hz == 0 || count == 0)
		die("the kernel has measured nothing (%" PRIu64 " events, TSC %" PRIu64 " Hz): is it booted with scenario=bench?", count, hz);
	return (uint64_t)((double)ticks / (double)count / (double)hz * 1e9);
}

static void one_run(const struct packets_plan *plan, struct echo *echo, struct echo *forward)
{
	struct mailbox before = { 0 }, after;

	say("echo", echo_measure(echo, plan->rounds));
	say("forward", echo_measure(forward, plan->rounds));
	if (plan->mailbox)
		before = read_mailbox(plan->mailbox);
	peer.acks_at_once = false;
	say("read4", measure_reads(plan->address, plan->rounds));
	peer.acks_at_once = true;
	say("read4ack", measure_reads(plan->address, plan->rounds));
	peer.acks_at_once = false;
	if (!plan->mailbox)
		return;
	after = read_mailbox(plan->mailbox);
	if (after.reads - before.reads >= plan->rounds) // else somebody else answered
		say("guest4", mean_ns(after.read_ticks - before.read_ticks, after.reads - before.reads, after.tsc_hz));
}

static void run_bulk(const struct packets_plan *plan, struct echo *chunk)
{
	char name[40];

	for (unsigned i = 0; i < plan->size_count; i++) {
		unsigned long requests = (plan->sizes[i] + CHUNK - 1) / CHUNK;
		unsigned long rounds = requests < 2000 ? requests : 2000;
		snprintf(name, sizeof name, "echo_%zu", plan->sizes[i]);
		say(name, echo_measure(chunk, rounds) * requests);
		snprintf(name, sizeof name, "bulk_%zu", plan->sizes[i]);
		say(name, measure_bulk(plan->address, plan->sizes[i]));
	}
}

void bench_packets(const struct packets_plan *plan)
{
	struct echo echo, forward, chunk;

	echo_start(0, REQUEST_LEN, REPLY_LEN, &echo);
	echo_start(1, REQUEST_LEN, REPLY_LEN, &forward);
	echo_start(0, REQUEST_LEN, CHUNK_REPLY_LEN, &chunk);
	attach(plan->socket);
	(void)measure_reads(plan->address, 10);
	for (unsigned long run = 0; run < plan->runs; run++)
		one_run(plan, &echo, &forward);
	for (unsigned long run = 0; run < plan->runs; run++)
		run_bulk(plan, &chunk);
	leave();
	echo_end(&chunk);
	echo_end(&forward);
	echo_end(&echo);
}

// ---- prints --------------------------------------------------------------------------------------------------------

struct printed {
	uint64_t lines, disordered, last; // numbers of lines
	uint64_t first_ns, last_ns;
	bool is_done;
};

// "TK: flood NUMBER xxxx", several lines in one packet or one.
static void take_line(struct printed *p, const char *line, size_t len)
{
	static const char flood[] = "TK: flood ";
	size_t at = sizeof flood - 1;
	uint64_t value = 0;

	if (len <= at || memcmp(line, flood, at))
		return;
	if (!memcmp(line + at, "done", len - at < 4 ? len - at : 4)) {
		p->is_done = true;
		return;
	}
	for (; at < len && line[at] >= '0' && line[at] <= '9'; at++)
		value = value * 10 + (uint64_t)(line[at] - '0');
	p->disordered += value <= p->last;
	p->last = value;
	p->lines++;
}

static void take_print(struct printed *p, const struct kdcom_event *event)
{
	enum { IO_HEADER = 16 };
	const char *text = (const char *)event->body + IO_HEADER, *end = (const char *)event->body + event->body_len;
	uint64_t had = p->lines;

	if (event->body_len < IO_HEADER)
		return;
	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		const char *stop = newline ? newline + 1 : end;
		take_line(p, text, (size_t)(stop - text));
		text = stop;
	}
	if (p->lines == had)
		return;
	p->last_ns = now_ns();
	if (had == 0)
		p->first_ns = p->last_ns;
}

// Asks the kernel for lines (struct tk_flood of testkernel/nt/nt_data.h; its first word is how many are wanted) and reads them.
static void one_flood(uint64_t mailbox, uint32_t lines)
{
	struct printed p = { 0 };
	struct kdcom_event event;

	write_word(mailbox, lines);
	resume();
	while (!p.is_done) {
		enum kdcom_event_kind kind = next_event(&event, GUARD_MS / 4);
		if (kind == KDCOM_EV_NONE)
			break; // the end is lost, which shows
		if (kind == KDCOM_EV_PACKET && event.type == KD_PACKET_DEBUG_IO)
			take_print(&p, &event);
	}
	if (p.lines < 2)
		die("%" PRIu64 " lines came: is the kernel booted with scenario=flood?", p.lines);
	say("lines", p.lines);
	say("lost", lines > p.lines ? lines - p.lines : 0);
	say("disordered", p.disordered);
	say("prints", (p.last_ns - p.first_ns) / (p.lines - 1));
}

void bench_prints(const char *socket, uint64_t mailbox, unsigned long runs, uint32_t lines)
{
	uint32_t state;

	attach(socket);
	for (unsigned long run = 0; run < runs; run++) {
		one_flood(mailbox, lines);
		ask_to_stop();
		if (!await_state(GUARD_MS, &state))
			die("the target does not stop within %d s", GUARD_MS / 1000);
	}
	leave();
}

// ---- break-ins ------------------------------------------------------------------------------------------------------

static void sleep_some(unsigned long hz)
{
	// Anywhere between two ticks, and long enough after the last stop for everything to have settled.
	uint64_t ns = 50000000u + next_random() % (2000000000u / hz);
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
	nanosleep(&t, NULL);
}

void bench_breakins(const char *socket, uint64_t mailbox, unsigned long rounds, unsigned long hz)
{
	uint32_t state;

	attach(socket);
	struct mailbox before = read_mailbox(mailbox);
	for (unsigned long i = 0; i < rounds; i++) {
		resume();
		sleep_some(hz);
		uint64_t start = now_ns();
		ask_to_stop();
		if (!await_state(GUARD_MS, &state))
			die("the target does not stop within %d s", GUARD_MS / 1000);
		say("breakin", now_ns() - start);
	}
	struct mailbox after = read_mailbox(mailbox);
	say("entry", mean_ns(after.stop_ticks - before.stop_ticks, after.stops - before.stops, after.tsc_hz));
	leave();
}
