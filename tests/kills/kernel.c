// SPDX-License-Identifier: MIT
#include "tests/kills/kernel.h"

#include <string.h>
#include <ucontext.h>

#include "guest/kdvmkd/transport.h"
#include "wire/le.h"

#define STACK_SIZE (256u * 1024u)
#define AT_STOP_NUMBER 0x10u
#define AT_WRITE_NUMBER 0x10u

static struct {
	uint8_t pages[AREA_PAGES][AREA_PAGE_SIZE] __attribute__((aligned(AREA_PAGE_SIZE)));
	struct transport transport;
	ucontext_t self, caller;
	uint8_t stack[STACK_SIZE];
	struct kernel_call call;
	uint32_t eax;
	uint64_t now_ms;
	bool is_idle; // it waits for time to pass
	bool is_present;
	uint32_t prints;
	struct kernel_record record;
} g;

static void wrong(const char *what)
{
	if (!g.record.wrong)
		g.record.wrong = what;
}

static void sleep_here(void)
{
	swapcontext(&g.self, &g.caller);
}

static void idle(void)
{
	g.is_idle = true;
	sleep_here();
	g.is_idle = false;
}

// ---- The machine under the module ----------------------------------------------------------------------------

static uint32_t port_call(void *ctx, uint32_t fn, uint32_t ebx, uint32_t esi, uint32_t edi)
{
	(void)ctx; // there is one
	g.call = (struct kernel_call){ .is_open = true, .fn = fn, .ebx = ebx, .esi = esi, .edi = edi };
	while (g.call.is_open)
		sleep_here();
	return g.eax;
}

static uint8_t port_read(void *ctx, uint16_t port)
{
	(void)ctx; // no debugcon
	(void)port;
	return 0xFF;
}

static void port_write(void *ctx, uint16_t port, uint8_t value)
{
	(void)ctx; // nobody listens
	(void)port;
	(void)value;
	wrong("a byte for a debugcon that is not there");
}

static void pause_cpu(void *ctx)
{
	(void)ctx; // time passes outside
	idle();
}

static uint64_t cycles(void *ctx)
{
	(void)ctx; // 3 GHz
	return g.now_ms * 3000000u;
}

static uint64_t interrupt_time(void *ctx)
{
	(void)ctx; // 100 ns
	return g.now_ms * 10000u;
}

static gpa_t physical(void *ctx, const void *page)
{
	(void)ctx; // RAM is the pages alone
	return (gpa_t){ KERNEL_GPA + (uint64_t)((const uint8_t *)page - g.pages[0]) };
}

static void control_regs(void *ctx, struct control_regs *ret)
{
	(void)ctx; // always the same
	*ret = (struct control_regs){ .cr0 = 0x80050033, .cr3 = 0x1aa000, .cr4 = 0x6f8, .efer = 0xd01 };
}

static void set_present(void *ctx, bool is_present)
{
	(void)ctx; // there is one kernel
	g.is_present = is_present;
}

static uint64_t module_base(void *ctx)
{
	(void)ctx; // any
	return 0xFFFFF80012340000ull;
}

static const struct machine machine = {
	.port_call = port_call, .port_read = port_read, .port_write = port_write, .pause = pause_cpu, .cycles = cycles,
	.interrupt_time = interrupt_time, .physical = physical, .control_regs = control_regs, .set_present = set_present, .module_base = module_base,
};

static struct transport *enter(void)
{
	transport_bind(&g.transport, &machine, NULL, g.pages[0]);
	return &g.transport;
}

// ---- The kernel ------------------------------------------------------------------------------------------------

static void send(uint32_t type, const uint8_t *hdr, uint32_t hdr_len, const void *data, uint32_t data_len)
{
	const struct send_packet p = { .kd_type = type, .hdr = hdr, .hdr_len = (uint16_t)hdr_len, .data = data_len ? data : NULL,
				       .data_len = (uint16_t)data_len };
	transport_send(enter(), &p);
}

static uint32_t receive(uint32_t type, uint8_t *body, uint32_t hdr_len, uint32_t *ret_len)
{
	struct receive_buffer b = { .hdr = body, .hdr_size = (uint16_t)hdr_len, .data = body + hdr_len, .data_size = (uint16_t)(KD_BODY_MAX - hdr_len) };
	uint32_t code = transport_receive(enter(), type, &b);
	*ret_len = hdr_len + b.data_len;
	return code;
}

static void make_print(uint8_t *hdr, uint32_t api)
{
	memset(hdr, 0, KD_DEBUG_IO_SIZE);
	put_le32(hdr, api);
	put_le32(hdr + 8, 4);
}

static void print(void)
{
	uint8_t hdr[KD_DEBUG_IO_SIZE], number[4];
	make_print(hdr, KD_DEBUG_IO_PRINT);
	put_le32(number, g.prints++);
	send(KD_PACKET_DEBUG_IO, hdr, sizeof(hdr), number, sizeof(number));
	(void)transport_poll(enter()); // as after each print; a break-in here is the wait's below
}

// A request at a stop. -> false: Continue.
static bool execute(uint8_t *body, uint32_t len)
{
	uint32_t number = get_le32(body + AT_WRITE_NUMBER);
	if (kd_api_resumes(get_le32(body)))
		return false;
	if (get_le32(body) == KD_API_WRITE_VIRTUAL && number < KERNEL_WRITES_MAX && len > KD_MANIPULATE_SIZE)
		g.record.executed[number]++;
	else
		wrong("a request that nobody has made");
	put_le32(body + 8, 0);
	send(KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE, NULL, 0);
	return true;
}

// NT's loop: report, receive until Continue, report again when asked to. A report that was dropped, nobody being there, counts as continued.
static void report(const uint8_t *state_change)
{
	static uint8_t body[KD_BODY_MAX];
	bool is_droppable = get_le32(state_change) == KD_STATE_LOAD_SYMBOLS;
	uint32_t len, code = RECEIVE_RESEND;
	while (code != RECEIVE_OK || execute(body, len)) {
		if (code == RECEIVE_RESEND)
			send(KD_PACKET_STATE_CHANGE, state_change, KD_STATE_CHANGE_SIZE, NULL, 0);
		if (is_droppable && !g.is_present)
			return;
		code = receive(KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE, &len);
	}
}

static void stop(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };
	put_le32(body, KD_STATE_EXCEPTION);
	put_le32(body + AT_STOP_NUMBER, g.record.stops_begun++);
	report(body);
	g.record.stops_continued++;
}

static void load(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { 0 };
	put_le32(body, KD_STATE_LOAD_SYMBOLS);
	put_le64(body + 0x28, 0xFFFFF80000000000u + g.record.loads * 0x10000u);
	g.record.loads++;
	report(body);
}

static void prompt(void)
{
	uint8_t hdr[KD_DEBUG_IO_SIZE], number[4];
	static uint8_t answer[KD_BODY_MAX];
	uint32_t len;
	make_print(hdr, KD_DEBUG_IO_PROMPT);
	put_le32(hdr + 12, 64);
	put_le32(number, g.record.prompts_answered);
	for (uint32_t code = RECEIVE_RESEND; code != RECEIVE_OK;) {
		if (code == RECEIVE_RESEND)
			send(KD_PACKET_DEBUG_IO, hdr, sizeof(hdr), number, sizeof(number));
		code = receive(KD_PACKET_DEBUG_IO, answer, KD_DEBUG_IO_SIZE, &len);
	}
	if (len != KD_DEBUG_IO_SIZE + 4 || get_le32(answer + KD_DEBUG_IO_SIZE) != g.record.prompts_answered)
		wrong("the answer to another prompt");
	g.record.prompts_answered++;
}

static void wait_for_breakin(void)
{
	while (!transport_poll(enter()))
		idle();
}

static void kernel_main(void)
{
	transport_start(enter());
	transport_phase1(enter());
	for (uint32_t round = 0; round < KERNEL_ROUNDS; round++) {
		for (uint32_t i = 0; i < KERNEL_PRINTS_A_ROUND; i++)
			print();
		transport_wake(enter()); // registers anew, with prints in the ring
		load();
		stop();
		prompt();
		wait_for_breakin();
		stop();
	}
	g.record.is_over = true;
	for (;;)
		sleep_here();
}

// ---- For the test -----------------------------------------------------------------------------------------------

void kernel_start(void)
{
	memset(&g, 0, sizeof(g));
	g.transport.is_free = 1;
	getcontext(&g.self);
	g.self.uc_stack.ss_sp = g.stack;
	g.self.uc_stack.ss_size = sizeof(g.stack);
	makecontext(&g.self, kernel_main, 0);
}

bool kernel_run(uint64_t now_ms)
{
	if (g.call.is_open || g.record.is_over || (g.is_idle && now_ms == g.now_ms))
		return false;
	g.now_ms = now_ms;
	swapcontext(&g.caller, &g.self);
	return true;
}

const struct kernel_call *kernel_call(void)
{
	return &g.call;
}

void kernel_answer(uint32_t eax)
{
	g.eax = eax;
	g.call.is_open = false;
}

const struct kernel_record *kernel_record(void)
{
	return &g.record;
}

uint8_t *kernel_ram(uint64_t *ret_size)
{
	*ret_size = sizeof(g.pages);
	return g.pages[0];
}

uint32_t kernel_stop_number(const uint8_t *body, uint32_t len)
{
	bool is_stop = len >= KD_STATE_CHANGE_SIZE && get_le32(body) == KD_STATE_EXCEPTION;
	return is_stop ? get_le32(body + AT_STOP_NUMBER) : UINT32_MAX;
}

uint32_t kernel_print_number(const uint8_t *body, uint32_t len)
{
	return len == KD_DEBUG_IO_SIZE + 4 ? get_le32(body + KD_DEBUG_IO_SIZE) : UINT32_MAX;
}

uint32_t kernel_make_write(uint32_t number, uint8_t *body)
{
	memset(body, 0, KD_MANIPULATE_SIZE + 8);
	put_le32(body, KD_API_WRITE_VIRTUAL);
	put_le32(body + AT_WRITE_NUMBER, number);
	put_le32(body + 0x18, 8);
	return KD_MANIPULATE_SIZE + 8;
}
