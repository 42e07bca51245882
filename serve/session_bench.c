// SPDX-License-Identifier: MIT
#include "serve/session_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MAX 65536u

struct session s;
struct bench_client clients[BENCH_CLIENTS];
uint8_t last_body[SESSION_BODY_MAX];
uint32_t last_len, guest_seq, ram_knows, own_questions;
static char log_text[LOG_MAX];

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t len = strlen(log_text);
	va_list ap;

	va_start(ap, format);
	vsnprintf(log_text + len, sizeof(log_text) - len, format, ap);
	va_end(ap);
}

static void note_client(const struct bench_client *b)
{
	if (b != clients)
		note("%c:", (int)('a' + (b - clients) % 26));
}

static void keep(const uint8_t *body, uint32_t len)
{
	memcpy(last_body, body, len);
	last_len = len;
}

static void op_deliver(void *arg, uint16_t type, uint16_t hdr_len, const uint8_t *body, uint32_t len, bool resumes)
{
	assert_ptr_equal(arg, &s);
	assert_int_equal(hdr_len, kd_header_size(type));
	note("deliver(%u %04x)%s ", type, get_le32(body), resumes ? "+" : "");
	keep(body, len);
}

static void op_breakin(void *arg)
{
	(void)arg;
	note("breakin ");
}

static void op_cancel_breakin(void *arg)
{
	(void)arg;
	note("cancel ");
}

static void op_resend(void *arg)
{
	(void)arg;
	note("resend ");
}

static bool op_answer(void *arg, const uint8_t *body, uint32_t len, const uint8_t **ret, uint32_t *ret_len)
{
	static const uint8_t reply[] = "\x30\x31\0\0the very bytes that RAM has, and nothing of the request";

	(void)arg;
	assert_true(len >= KD_MANIPULATE_SIZE);
	if (!ram_knows)
		return false; // as everywhere else in these tests
	note("look(%04x) ", get_le32(body));
	*ret = reply;
	*ret_len = sizeof(reply);
	return get_le32(body) == ram_knows;
}

static uint32_t op_own_request(void *arg, uint8_t *body)
{
	(void)arg;
	if (!own_questions)
		return 0;
	own_questions--;
	memset(body, 0, KD_MANIPULATE_SIZE);
	put_le32(body, KD_API_READ_VIRTUAL);
	note("own(%04x) ", KD_API_READ_VIRTUAL);
	return KD_MANIPULATE_SIZE;
}

static void op_own_reply(void *arg, const uint8_t *body, uint32_t len)
{
	(void)arg;
	(void)body;
	note("had(%u) ", len);
}

static void op_send(void *closure, uint16_t type, const uint8_t *body, uint32_t len, bool is_droppable)
{
	struct bench_client *b = closure;

	assert_non_null(b->c);
	assert_false(b->is_flying); // one packet at a time is all that KDCOM can do
	b->is_flying = true;
	note_client(b);
	note("send(%u %04x%s) ", type, get_le32(body), is_droppable ? " droppable" : "");
	keep(body, len);
}

static void op_expect(void *closure, uint16_t type)
{
	assert_non_null(((struct bench_client *)closure)->c);
	note_client(closure);
	note("expect(%u) ", type);
}

static void op_restart(void *closure)
{
	struct bench_client *b = closure;

	assert_non_null(b->c);
	assert_false(b->is_flying);
	note_client(b);
	note("restart ");
}

static void op_forget(void *closure)
{
	struct bench_client *b = closure;

	assert_non_null(b->c);
	b->is_flying = false;
	note_client(b);
	note("forget ");
}

static const struct session_ops ops = {
	.guest_deliver = op_deliver,
	.guest_breakin = op_breakin,
	.guest_breakin_cancel = op_cancel_breakin,
	.guest_resend = op_resend,
	.answer = op_answer,
	.own_request = op_own_request,
	.own_reply = op_own_reply,
	.client_send = op_send,
	.client_expect = op_expect,
	.client_restart = op_restart,
	.client_cancel = op_forget,
};

void did(const char *expected)
{
	size_t len = strlen(log_text);

	if (len)
		log_text[len - 1] = 0;
	assert_string_equal(log_text, expected);
	log_text[0] = 0;
}

void did_whatever(void)
{
	log_text[0] = 0;
}

int bench_setup(void **state)
{
	(void)state;
	session_init(&s, &ops, &s);
	memset(clients, 0, sizeof(clients));
	log_text[0] = 0;
	guest_seq = ram_knows = own_questions = 0;
	return 0;
}

int bench_teardown(void **state)
{
	(void)state;
	for (unsigned n = 0; n < BENCH_CLIENTS; n++)
		if (clients[n].c)
			client_leaves(n);
	session_deinit(&s);
	return 0;
}

// ---- The guest ----------------------------------------------------------------------------------------------

void boot(void)
{
	guest_seq = 0;
	session_guest_registered(&s);
}

void boot_and_stop(void)
{
	boot();
	guest_stops();
	did_whatever();
}

void guest_packet(uint16_t type, const uint8_t *body, uint32_t len, uint16_t waits)
{
	session_guest_packet(&s, ++guest_seq, type, (uint16_t)kd_header_size(type), body, len, waits);
}

static void guest_reports(uint32_t new_state, bool unload, uint64_t base, uint64_t pc, uint16_t waits)
{
	uint8_t body[KD_STATE_CHANGE_SIZE + 4] = { 0 };

	put_le32(body, new_state);
	put_le16(body + 6, 1); // processor
	put_le64(body + 0x18, pc);
	put_le64(body + 0x28, base);
	body[0x40] = unload;
	guest_packet(KD_PACKET_STATE_CHANGE, body, sizeof(body), waits);
}

void guest_state(uint32_t new_state, bool unload, uint64_t base, uint16_t waits)
{
	guest_reports(new_state, unload, base, 0, waits);
}

void guest_stops_at(uint64_t pc)
{
	guest_reports(KD_STATE_EXCEPTION, false, 0, pc, KD_PACKET_MANIPULATE);
}

void guest_stops(void)
{
	guest_stops_at(0);
}

void guest_loads_at(uint64_t base)
{
	guest_state(KD_STATE_LOAD_SYMBOLS, false, base, KD_PACKET_MANIPULATE);
}

void guest_loads(void)
{
	guest_loads_at(0xFFFFF80000000000u);
}

void guest_prints(const char *text)
{
	uint8_t body[SESSION_BODY_MAX] = { 0 };
	uint32_t len = (uint32_t)strlen(text);

	assert_true(len <= sizeof(body) - KD_DEBUG_IO_SIZE);
	put_le32(body, KD_DEBUG_IO_PRINT);
	put_le32(body + 8, len);
	memcpy(body + KD_DEBUG_IO_SIZE, text, len);
	guest_packet(KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + len, 0);
}

void guest_asks(uint16_t type, uint32_t api)
{
	uint8_t body[KD_FILE_IO_SIZE + 8] = { 0 };

	put_le32(body, api);
	guest_packet(type, body, kd_header_size(type) + 8, type);
}

void guest_replies(uint32_t api)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, api);
	guest_packet(KD_PACKET_MANIPULATE, body, sizeof(body), KD_PACKET_MANIPULATE);
}

// ---- The clients --------------------------------------------------------------------------------------------

void client_appears(unsigned n)
{
	assert_true(n < BENCH_CLIENTS && !clients[n].c);
	clients[n].is_flying = false;
	clients[n].c = session_client_came(&s, &clients[n]);
	assert_non_null(clients[n].c);
}

void client_comes(unsigned n)
{
	client_appears(n);
	session_client_reset(clients[n].c);
}

void client_leaves(unsigned n)
{
	struct session_client *c = clients[n].c;

	clients[n].c = NULL; // from now on nothing may be said to it
	session_client_left(c);
}

void client_asks(unsigned n, uint32_t api)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 };

	put_le32(body, api);
	session_client_packet(clients[n].c, KD_PACKET_MANIPULATE, body, sizeof(body));
}

void client_acks(unsigned n)
{
	assert_true(clients[n].is_flying);
	clients[n].is_flying = false;
	session_client_sent(clients[n].c);
}

// ---- In short -------------------------------------------------------------------------------------------------

uint32_t last_status(void)
{
	return get_le32(last_body + MANIPULATE_OFFSET_STATUS);
}

void assert_last_text(const char *text)
{
	assert_int_equal(last_len, KD_DEBUG_IO_SIZE + strlen(text));
	assert_memory_equal(last_body + KD_DEBUG_IO_SIZE, text, strlen(text));
}

void stopped_with(unsigned count)
{
	boot_and_stop();
	for (unsigned n = 0; n < count; n++) {
		client_comes(n);
		client_acks(n);
	}
	did_whatever();
}

// a has let the guest run, b sits at the stop.
void running_with_b_at_stop(void)
{
	stopped_with(2);
	client_asks(A, KD_API_CONTINUE2);
	did("deliver(2 313c)+ expect(0)");
}

// Everybody waits for the next stop.
void running_with(unsigned count)
{
	boot();
	for (unsigned n = 0; n < count; n++)
		client_comes(n);
	did("");
}
