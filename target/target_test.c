// SPDX-License-Identifier: MIT
// libvmkd against a kernel in a thread: first everything that can be wrong with that, then what must work.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target/peer_test.h"
#include "vmkd/vmkd.h"
#include "wire/kddata.h"
#include "wire/le.h"

#define GUARD_MS 20000 // a hang guard, nothing is judged by it

struct session {
	struct peer *peer;
	struct vmkd_target *target;
	uint64_t base;
};

static void must(struct vmkd_error *error)
{
	if (error)
		fail_msg("%s", error->message);
}

static void must_fail(struct vmkd_error *error, enum vmkd_error_code code)
{
	if (!error)
		fail_msg("expected error %d, got none", (int)code);
	if (error->code != code)
		fail_msg("expected error %d, got %d: %s", (int)code, (int)error->code, error->message);
	assert_non_null(strchr(error->message, ' '));
	assert_null(strchr(error->message, '\n'));
	vmkd_error_destroy(error);
}

static struct session open_session(const struct peer_options *options, uint32_t request_ms)
{
	struct vmkd_open_options open = { .request_timeout_ms = request_ms, .resend_ms = 300 };
	struct session session = { .base = peer_base(options->is_x86) };
	int fd;

	session.peer = peer_start(options, &fd);
	must(vmkd_target_open_fd(fd, "peer", &open, &session.target));
	return session;
}

static void close_session(struct session *session)
{
	vmkd_target_close(session->target);
	peer_stop(session->peer);
}

// The next event that is news.
static struct vmkd_event next(struct session *session)
{
	struct vmkd_event event;

	do {
		must(vmkd_target_wait(session->target, GUARD_MS, &event));
		assert_int_not_equal(event.kind, VMKD_EVENT_NONE);
	} while (event.is_repeated);
	return event;
}

static struct session open_stopped(const struct peer_options *options, uint32_t request_ms)
{
	struct session session = open_session(options, request_ms);
	struct vmkd_event event = next(&session);

	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	return session;
}

// ---- what can be wrong ---------------------------------------------------------------------------------------------------------

static void silent_target_gives_a_timeout(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_SILENT, .is_stopped = true }, 150);
	uint8_t byte;

	(void)state;
	must_fail(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base, &byte, 1, NULL), VMKD_E_TIMEOUT);
	must_fail(vmkd_target_go(session.target, VMKD_CONTINUE_HANDLED), VMKD_E_TIMEOUT);
	close_session(&session);
}

static void deaf_target_gives_nothing_but_a_state(void **state)
{
	struct session session = open_session(&(struct peer_options){ .fault = PEER_DEAF }, 100);
	struct vmkd_event event;
	uint8_t byte;

	(void)state;
	must(vmkd_target_wait(session.target, 50, &event));
	assert_int_equal(event.kind, VMKD_EVENT_NONE);
	assert_int_equal(vmkd_target_state(session.target), VMKD_STATE_UNKNOWN);
	must_fail(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base, &byte, 1, NULL), VMKD_E_STATE);
	close_session(&session);
}

static void wrong_api_number_is_named(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_WRONG_API, .is_stopped = true }, 200);
	struct vmkd_version version;

	(void)state;
	must_fail(vmkd_target_version(session.target, &version), VMKD_E_PROTOCOL);
	close_session(&session);
}

static void absurd_counts_are_cut(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_COUNT, .is_stopped = true }, 1000);
	struct {
		uint8_t bytes[8];
		uint8_t guard[64];
	} buffer;
	size_t done;

	(void)state;
	memset(&buffer, 0x55, sizeof(buffer));
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2000, buffer.bytes, sizeof(buffer.bytes), &done));
	assert_int_equal(done, sizeof(buffer.bytes));
	for (size_t i = 0; i < sizeof(buffer.guard); i++)
		assert_int_equal(buffer.guard[i], 0x55);
	close_session(&session);
}

static void short_context_is_refused(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_SHORT_CONTEXT, .is_stopped = true }, 1000);
	struct vmkd_register reg;
	struct vmkd_value value;

	(void)state;
	assert_true(vmkd_register_find(VMKD_ARCH_X64, "rax", &reg));
	must_fail(vmkd_target_register_get(session.target, &reg, &value), VMKD_E_PROTOCOL);
	close_session(&session);
}

static void reset_in_a_request_is_survived(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_RESET_ONCE, .is_stopped = true }, 5000);
	uint8_t bytes[16];

	(void)state;
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2000, bytes, sizeof(bytes), NULL));
	assert_int_equal(bytes[1], peer_byte(session.peer, 0x2001));
	close_session(&session);
}

static void reboot_in_a_request_is_told(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_REBOOT_ONCE, .is_stopped = true }, 5000);
	uint8_t byte;

	(void)state;
	must_fail(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2000, &byte, 1, NULL), VMKD_E_RESTARTED);
	assert_int_equal(next(&session).kind, VMKD_EVENT_RESTARTED);
	struct vmkd_event event = next(&session);
	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	assert_int_equal(event.pc, session.base);
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2000, &byte, 1, NULL));
	close_session(&session);
}

static void second_debugger_is_told_why(void **state)
{
	struct session session = open_session(&(struct peer_options){ .fault = PEER_REFUSES }, 1000);
	struct vmkd_event event = { .kind = VMKD_EVENT_NONE };
	struct vmkd_error *error;

	(void)state;
	do {
		error = vmkd_target_wait(session.target, GUARD_MS, &event);
		assert_int_not_equal(event.kind, VMKD_EVENT_PRINT); // the error says it; nobody must read it twice
	} while (!error && event.kind != VMKD_EVENT_NONE);
	assert_non_null(error);
	assert_non_null(strstr(error->message, "pid 4711"));
	must_fail(error, VMKD_E_REFUSED);
	close_session(&session);
}

static void words_of_a_refusal_are_a_print_when_none_follows(void **state)
{
	struct session session = open_session(&(struct peer_options){ .fault = PEER_TALKS_SO }, 1000);

	(void)state;
	vmkd_target_break_in(session.target);
	struct vmkd_event event = next(&session);
	assert_int_equal(event.kind, VMKD_EVENT_PRINT);
	assert_non_null(strstr(event.text, "pid 4711"));
	while (event.kind == VMKD_EVENT_PRINT) // said again after our RESET
		event = next(&session);
	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	close_session(&session);
}

static void garbage_between_packets_is_skipped(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_GARBAGE, .is_stopped = true }, 5000);
	uint8_t bytes[5000];

	(void)state;
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x1000, bytes, sizeof(bytes), NULL));
	assert_int_equal(bytes[0x1001], peer_byte(session.peer, 0x2001));
	close_session(&session);
}

static void impossible_processors_are_bounded(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .fault = PEER_PROCESSORS, .is_stopped = true }, 1000);

	(void)state;
	assert_int_equal(vmkd_target_processor(session.target), 9);
	assert_int_equal(vmkd_target_processor_count(session.target), 10);
	close_session(&session);
}

// Wherever the connection ends, the end is an error and nothing hangs.
static void connection_cut_at_any_byte(void **state)
{
	(void)state;
	for (uint32_t cut = 0; cut < 2200; cut += 13) {
		struct session session = open_session(&(struct peer_options){ .fault = PEER_CUT, .is_stopped = true, .cut_after = cut }, 2000);
		struct vmkd_error *error = NULL;
		struct vmkd_event event;
		struct vmkd_register reg;
		struct vmkd_value value;
		uint8_t bytes[256];

		for (int i = 0; !error && i < 100; i++) {
			error = vmkd_target_wait(session.target, 10, &event);
			if (!error && vmkd_target_state(session.target) == VMKD_STATE_STOPPED)
				error = vmkd_target_read(session.target, VMKD_VIRTUAL, session.base, bytes, sizeof(bytes), NULL);
			if (!error && vmkd_register_find(VMKD_ARCH_X64, "rip", &reg) &&
			    vmkd_target_state(session.target) == VMKD_STATE_STOPPED)
				error = vmkd_target_register_get(session.target, &reg, &value);
		}
		must_fail(error, VMKD_E_GONE);
		assert_int_equal(vmkd_target_state(session.target), VMKD_STATE_GONE);
		must(vmkd_target_detach(session.target, true)); // nothing to leave in order any more
		close_session(&session);
	}
}

// ---- module lists --------------------------------------------------------------------------------------------------------------

#define ENTRY_SIZE 0x100u
#define ENTRIES_AT 0x3000u
#define NAMES_AT 0x5000u

static void put_pointer(uint8_t *memory, uint32_t offset, uint64_t value)
{
	put_le64(memory + offset, value);
}

// An entry at ENTRIES_AT + index * ENTRY_SIZE, with the name "mN.sys".
static void put_entry(uint8_t *memory, uint64_t base, uint32_t index, uint64_t flink)
{
	uint32_t entry = ENTRIES_AT + index * ENTRY_SIZE, name = NAMES_AT + index * 0x20;
	char text[16];

	snprintf(text, sizeof(text), "m%u.sys", index);
	memset(memory + entry, 0, ENTRY_SIZE);
	for (uint32_t i = 0; i <= strlen(text); i++)
		put_le16(memory + name + 2 * i, (uint16_t)text[i]);
	put_pointer(memory, entry, flink);
	put_pointer(memory, entry + 0x30, base + index * 0x10000ull);
	put_le32(memory + entry + 0x40, 0x8000);
	for (uint32_t at = 0x48; at <= 0x58; at += 0x10) {
		put_le16(memory + entry + at, (uint16_t)(2 * strlen(text)));
		put_le16(memory + entry + at + 2, (uint16_t)(2 * strlen(text) + 2));
		put_pointer(memory, entry + at + 8, base + name);
	}
}

static uint64_t entry_address(uint64_t base, uint32_t index)
{
	return base + ENTRIES_AT + index * ENTRY_SIZE;
}

static void list_good(uint8_t *memory, uint64_t base)
{
	put_pointer(memory, PEER_LIST_AT, entry_address(base, 0));
	put_entry(memory, base, 0, entry_address(base, 1));
	put_entry(memory, base, 1, entry_address(base, 2));
	put_entry(memory, base, 2, base + PEER_LIST_AT);
}

static void list_circle(uint8_t *memory, uint64_t base)
{
	list_good(memory, base);
	put_entry(memory, base, 2, entry_address(base, 1));
}

static void list_unmapped(uint8_t *memory, uint64_t base)
{
	list_good(memory, base);
	put_entry(memory, base, 1, base + PEER_HOLE_AT);
}

static void list_null(uint8_t *memory, uint64_t base)
{
	list_good(memory, base);
	put_entry(memory, base, 0, 0);
}

static void list_names(uint8_t *memory, uint64_t base)
{
	list_good(memory, base);
	put_le16(memory + ENTRIES_AT + 0x58, 0xFFFE); // an absurd length
	put_le16(memory + ENTRIES_AT + 0x5A, 0xFFFE);
	put_pointer(memory, ENTRIES_AT + ENTRY_SIZE + 0x60, base + PEER_HOLE_AT); // not there
	put_le16(memory + NAMES_AT + 2 * 0x20, 0x1B); // escapes are no names
}

static void list_head_unmapped(uint8_t *memory, uint64_t base)
{
	list_good(memory, base);
	put_pointer(memory, PEER_LIST_AT, base + PEER_HOLE_AT + 0x800);
}

static struct vmkd_modules *read_list(void (*prepare)(uint8_t *, uint64_t), struct session *ret)
{
	struct vmkd_modules *modules;

	*ret = open_stopped(&(struct peer_options){ .is_stopped = true, .prepare = prepare }, 5000);
	must(vmkd_modules_read(ret->target, &modules));
	return modules;
}

static void check_list(void (*prepare)(uint8_t *, uint64_t), size_t count, const char *problem)
{
	struct session session;
	struct vmkd_modules *modules = read_list(prepare, &session);

	assert_int_equal(vmkd_modules_count(modules), count);
	if (problem) {
		assert_non_null(vmkd_modules_problem(modules));
		assert_non_null(strstr(vmkd_modules_problem(modules), problem));
	} else {
		assert_null(vmkd_modules_problem(modules));
	}
	vmkd_modules_destroy(modules);
	close_session(&session);
}

static void hostile_module_lists(void **state)
{
	(void)state;
	check_list(list_circle, 3, "circle");
	check_list(list_unmapped, 2, "breaks off");
	check_list(list_null, 1, "null");
	check_list(list_head_unmapped, 0, "breaks off");
}

static void hostile_module_names(void **state)
{
	struct session session;
	struct vmkd_modules *modules = read_list(list_names, &session);

	(void)state;
	assert_int_equal(vmkd_modules_count(modules), 3);
	assert_non_null(vmkd_modules_problem(modules));
	assert_string_equal(vmkd_modules_at(modules, 1)->name, "");
	for (size_t i = 0; i < 3; i++)
		for (const char *c = vmkd_modules_at(modules, i)->name; *c; c++)
			assert_true((unsigned char)*c >= 0x20);
	vmkd_modules_destroy(modules);
	close_session(&session);
}

static void module_list(void **state)
{
	struct session session;
	struct vmkd_modules *modules = read_list(list_good, &session);

	(void)state;
	assert_null(vmkd_modules_problem(modules));
	assert_int_equal(vmkd_modules_count(modules), 3);
	assert_string_equal(vmkd_modules_at(modules, 0)->short_name, "nt");
	assert_string_equal(vmkd_modules_at(modules, 2)->name, "m2.sys");
	assert_ptr_equal(vmkd_modules_find_name(modules, "M1"), vmkd_modules_at(modules, 1));
	assert_ptr_equal(vmkd_modules_find_address(modules, session.base + 0x27FFF), vmkd_modules_at(modules, 2));
	assert_null(vmkd_modules_find_address(modules, session.base + 0x28000));
	assert_null(vmkd_modules_find_name(modules, "m9"));
	assert_null(vmkd_modules_at(modules, 3));
	vmkd_modules_destroy(modules);
	close_session(&session);
}

// ---- memory --------------------------------------------------------------------------------------------------------------------

static void reads_tell_the_first_byte_that_fails(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	static uint8_t bytes[0x5000];
	size_t done;

	(void)state;
	struct vmkd_error *error = vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2005, bytes, sizeof(bytes), &done);
	assert_non_null(error);
	assert_true(error->has_address);
	assert_int_equal(error->address, session.base + PEER_HOLE_AT);
	must_fail(error, VMKD_E_FAULT);
	assert_int_equal(done, PEER_HOLE_AT - 0x2005);
	for (uint32_t i = 0; i < done; i++)
		assert_int_equal(bytes[i], peer_byte(session.peer, 0x2005 + i));
	must_fail(vmkd_target_read(session.target, VMKD_VIRTUAL, UINT64_MAX - 3, bytes, 5, &done), VMKD_E_ARGUMENT);
	assert_int_equal(done, 0);
	close_session(&session);
}

static void writes_of_any_length(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	static uint8_t bytes[0x3000];
	uint64_t found;
	size_t done;

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 13 + 5);
	must(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + 0x2801, bytes, sizeof(bytes), &done));
	assert_int_equal(done, sizeof(bytes));
	assert_int_equal(peer_byte(session.peer, 0x2801 + 0x2FFF), bytes[0x2FFF]);
	must_fail(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + PEER_HOLE_AT - 0x10, bytes, 0x20, &done), VMKD_E_FAULT);
	assert_int_equal(done, 0x10);
	must(vmkd_target_fill(session.target, VMKD_VIRTUAL, session.base + 0x4000, 0x1003, "abc", 3, &done));
	assert_int_equal(done, 0x1003);
	assert_int_equal(peer_byte(session.peer, 0x5001), 'c'); // 0x1001 % 3 == 2
	must(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + 0x4FFE, "needle", 6, NULL));
	must(vmkd_target_search(session.target, session.base + 0x2000, 0x6000, "needle", 6, &found));
	assert_int_equal(found, session.base + 0x4FFE);
	must(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + 0x7100, "behind the hole", 15, NULL));
	must(vmkd_target_search(session.target, session.base + 0x2000, 0x6000, "behind the", 10, &found));
	assert_int_equal(found, session.base + 0x7100);
	must_fail(vmkd_target_search(session.target, session.base + 0x2000, 0x6000, "nowhere", 7, &found), VMKD_E_NOT_FOUND);
	close_session(&session);
}

// ---- registers -----------------------------------------------------------------------------------------------------------------

static void check_register(struct session *session, enum vmkd_arch arch, const char *name, uint64_t value, const char *whole, uint64_t expected)
{
	struct vmkd_register reg;
	struct vmkd_value got;

	assert_true(vmkd_register_find(arch, name, &reg));
	must(vmkd_target_register_set(session->target, &reg, (struct vmkd_value){ .low = value }));
	must(vmkd_target_register_get(session->target, &reg, &got));
	assert_int_equal(got.low, value);
	assert_true(vmkd_register_find(arch, whole, &reg));
	must(vmkd_target_register_get(session->target, &reg, &got));
	assert_int_equal(got.low, expected);
}

static void registers_and_their_parts(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	struct vmkd_register reg;

	(void)state;
	check_register(&session, VMKD_ARCH_X64, "rax", 0x1122334455667788, "rax", 0x1122334455667788);
	check_register(&session, VMKD_ARCH_X64, "ah", 0xEE, "rax", 0x112233445566EE88);
	check_register(&session, VMKD_ARCH_X64, "eax", 5, "rax", 0x1122334400000005);
	check_register(&session, VMKD_ARCH_X64, "r9w", 0xFFFF, "r9", 0xFFFF);
	check_register(&session, VMKD_ARCH_X64, "zf", 1, "efl", 0x40);
	check_register(&session, VMKD_ARCH_X64, "iopl", 3, "eflags", 0x3040);
	assert_true(vmkd_register_find(VMKD_ARCH_X64, "AL", &reg));
	must_fail(vmkd_target_register_set(session.target, &reg, (struct vmkd_value){ .low = 0x100 }), VMKD_E_ARGUMENT);
	assert_true(vmkd_register_find(VMKD_ARCH_X64, "xmm3", &reg));
	must(vmkd_target_register_set(session.target, &reg, (struct vmkd_value){ .low = 1, .high = 2 }));
	assert_true(vmkd_register_find(VMKD_ARCH_X64, "cr0", &reg));
	struct vmkd_value value;
	must(vmkd_target_register_get(session.target, &reg, &value));
	assert_int_equal(value.low, 0x80010031);
	assert_false(vmkd_register_find(VMKD_ARCH_X64, "rxx", &reg));
	assert_false(vmkd_register_find(VMKD_ARCH_X86, "rax", &reg));
	assert_false(vmkd_register_find(VMKD_ARCH_UNKNOWN, "eax", &reg));
	close_session(&session);
}

static void every_listed_register_is_found(void **state)
{
	(void)state;
	for (enum vmkd_arch arch = VMKD_ARCH_X64; arch <= VMKD_ARCH_X86; arch++) {
		struct vmkd_register reg, same;
		size_t count = 0;
		for (; vmkd_register_at(arch, count, &reg); count++) {
			assert_true(vmkd_register_find(arch, reg.name, &same));
			assert_string_equal(reg.name, same.name);
		}
		assert_true(count > 60);
	}
}

static void x86_addresses_are_plain(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .is_x86 = true }, 5000);
	struct vmkd_version version;
	struct vmkd_event stop;
	uint8_t byte;

	(void)state;
	must(vmkd_target_version(session.target, &version));
	assert_int_equal(version.arch, VMKD_ARCH_X86);
	assert_int_equal(version.kernel_base, session.base);
	assert_true(vmkd_target_last_stop(session.target, &stop));
	assert_int_equal(stop.pc, session.base + PEER_INT3_AT);
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x2001, &byte, 1, NULL));
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, 0xFFFFFFFF00000000ull | (session.base + 0x2001), &byte, 1, NULL));
	assert_int_equal(byte, peer_byte(session.peer, 0x2001));
	check_register(&session, VMKD_ARCH_X86, "eax", 0x11223344, "eax", 0x11223344);
	check_register(&session, VMKD_ARCH_X86, "bl", 0x99, "ebx", 0x99);
	close_session(&session);
}

// ---- run control ---------------------------------------------------------------------------------------------------------------

static struct vmkd_event go(struct session *session)
{
	must(vmkd_target_go(session->target, VMKD_CONTINUE_HANDLED));
	return next(session);
}

static void break_in_and_resume(void **state)
{
	struct session session = open_session(&(struct peer_options){ .is_stopped = false }, 5000);

	(void)state;
	vmkd_target_break_in(session.target);
	struct vmkd_event event = next(&session);
	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	assert_int_equal(event.reason, VMKD_STOP_BREAK_IN);
	assert_int_equal(event.pc, session.base + PEER_INT3_AT);
	// The break instruction is passed, and met again after one round.
	event = go(&session);
	assert_int_equal(event.reason, VMKD_STOP_INT3);
	assert_int_equal(event.pc, session.base + PEER_INT3_AT);
	must(vmkd_target_detach(session.target, true));
	close_session(&session);
}

static void step_moves_past_int3_without_running(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);

	(void)state;
	for (uint32_t i = 1; i < 4; i++) {
		must(vmkd_target_step(session.target));
		struct vmkd_event event = next(&session);
		assert_int_equal(event.reason, VMKD_STOP_STEP);
		assert_int_equal(event.pc, session.base + PEER_INT3_AT + i);
	}
	close_session(&session);
}

// Breakpoints near one another, at the current instruction, in the stop's code window: each is hit each round, in order, whatever the
// kernel drops at each stop.
static void breakpoints_are_hit_every_round(void **state)
{
	static const uint32_t OFFSETS[] = { 0x41, 0x42, 0x48, 0x60, 0x90, 0x91 };
	enum { COUNT = sizeof(OFFSETS) / sizeof(OFFSETS[0]) };

	(void)state;
	for (int keeps = 0; keeps < 2; keeps++) {
		struct session session =
			open_stopped(&(struct peer_options){ .is_stopped = true, .fault = keeps ? PEER_KEEPS_BREAKPOINTS : PEER_OK }, 5000);
		uint32_t ids[COUNT];
		uint8_t byte;
		for (int i = 0; i < COUNT; i++)
			must(vmkd_breakpoint_set(session.target, session.base + OFFSETS[i], false, &ids[i]));
		for (int round = 0; round < 3; round++) {
			for (int i = 0; i < COUNT; i++) {
				struct vmkd_event event = go(&session);
				assert_int_equal(event.pc, session.base + OFFSETS[i]);
				assert_int_equal(event.reason, VMKD_STOP_BREAKPOINT);
				assert_int_equal(event.breakpoint, ids[i]);
				must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + OFFSETS[i], &byte, 1, NULL));
				assert_int_equal(byte, 0x90);
			}
			struct vmkd_event event = go(&session);
			assert_int_equal(event.reason, VMKD_STOP_INT3);
		}
		must(vmkd_target_detach(session.target, false));
		assert_int_equal(peer_breakpoints(session.peer), 0);
		close_session(&session);
	}
}

static void breakpoint_refusals(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t id;

	(void)state;
	must_fail(vmkd_breakpoint_set(session.target, session.base + PEER_HOLE_AT, false, &id), VMKD_E_FAULT);
	assert_int_equal(vmkd_breakpoint_count(session.target), 0);
	for (uint32_t i = 0; i < VMKD_BREAKPOINTS_MAX; i++)
		must(vmkd_breakpoint_set(session.target, session.base + 0x80 + i, false, &id));
	must_fail(vmkd_breakpoint_set(session.target, session.base + 0x80, false, &id), VMKD_E_ARGUMENT);
	must_fail(vmkd_breakpoint_set(session.target, session.base + 0xF0, false, &id), VMKD_E_ARGUMENT);
	must_fail(vmkd_breakpoint_remove(session.target, 40), VMKD_E_NOT_FOUND);
	must(vmkd_breakpoint_remove(session.target, 7));
	must_fail(vmkd_breakpoint_enable(session.target, 7, true), VMKD_E_NOT_FOUND);
	must(vmkd_breakpoint_enable(session.target, 8, false));
	assert_int_equal(peer_breakpoints(session.peer), 30);
	assert_int_equal(peer_byte(session.peer, 0x88), 0x90);
	close_session(&session);
}

// ---- processor breakpoints -----------------------------------------------------------------------------------------------------

static uint32_t watch(struct session *session, enum vmkd_breakpoint_kind kind, uint32_t size, uint64_t address, bool is_one_shot)
{
	const struct vmkd_breakpoint_options options = { .kind = kind, .size = size, .is_one_shot = is_one_shot };
	uint32_t id = 99;

	must(vmkd_breakpoint_set_with(session->target, address, &options, &id));
	return id;
}

static void expect_hit(struct session *session, struct vmkd_event event, uint32_t id, uint32_t offset)
{
	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	assert_int_equal(event.reason, VMKD_STOP_BREAKPOINT);
	assert_int_equal(event.breakpoint, id);
	assert_int_equal(event.pc, session->base + offset);
}

static void processor_breakpoint_refusals(void **state)
{
	(void)state;
	for (int is_x86 = 0; is_x86 < 2; is_x86++) {
		struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .is_x86 = is_x86, .foreign_dr7 = 1 }, 5000);
		struct vmkd_breakpoint_options options = { .kind = VMKD_BREAKPOINT_WRITE, .size = 3 };
		uint32_t id = 77;
		must_fail(vmkd_breakpoint_set_with(session.target, session.base, &options, &id), VMKD_E_ARGUMENT);
		options.size = 4;
		must_fail(vmkd_breakpoint_set_with(session.target, session.base + 2, &options, &id), VMKD_E_ARGUMENT);
		options.kind = VMKD_BREAKPOINT_EXECUTE;
		must_fail(vmkd_breakpoint_set_with(session.target, session.base, &options, &id), VMKD_E_ARGUMENT);
		options.kind = (enum vmkd_breakpoint_kind)9;
		must_fail(vmkd_breakpoint_set_with(session.target, session.base, &options, &id), VMKD_E_ARGUMENT);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x80 + i, false), i);
		options = (struct vmkd_breakpoint_options){ .kind = VMKD_BREAKPOINT_EXECUTE, .size = 1 };
		must_fail(vmkd_breakpoint_set_with(session.target, session.base + 0x80, &options, &id), VMKD_E_ARGUMENT); // it exists
		must_fail(vmkd_breakpoint_set_with(session.target, session.base + 0x90, &options, &id), VMKD_E_ARGUMENT); // the fourth is somebody else's
		assert_int_equal(id, 77);
		assert_int_equal(vmkd_breakpoint_count(session.target), 3);
		must(vmkd_breakpoint_enable(session.target, 1, false));
		must(vmkd_breakpoint_set_with(session.target, session.base + 0x90, &options, &id));
		must(vmkd_breakpoint_remove(session.target, id));
		must_fail(vmkd_breakpoint_remove(session.target, id), VMKD_E_NOT_FOUND);
		close_session(&session);
	}
}

// Each of them each round, and a code breakpoint among them; two in a row; one where the code breaks by itself comes first.
static void processor_breakpoints_are_hit_every_round(void **state)
{
	(void)state;
	for (int variant = 0; variant < 4; variant++) {
		enum peer_fault fault = variant & 2 ? PEER_LOSES_DR6 : PEER_OK;
		struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .is_x86 = variant & 1, .fault = fault }, 5000);
		uint32_t first = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x60, false);
		uint32_t second = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x61, false);
		uint32_t data = watch(&session, VMKD_BREAKPOINT_WRITE, 4, session.base + PEER_DATA_AT, false), code;
		must(vmkd_breakpoint_set(session.target, session.base + 0x90, false, &code));
		for (int round = 0; round < 3; round++) {
			expect_hit(&session, go(&session), first, 0x60);
			assert_int_equal(peer_byte(session.peer, 0x60), 0x90);
			expect_hit(&session, go(&session), second, 0x61);
			expect_hit(&session, go(&session), code, 0x90);
			expect_hit(&session, go(&session), data, PEER_WRITE_AT + 1);
			assert_int_equal(go(&session).reason, VMKD_STOP_INT3);
		}
		must(vmkd_target_detach(session.target, false));
		for (uint32_t processor = 0; processor < 2; processor++)
			assert_int_equal(peer_dr7(session.peer, processor), 0x400);
		close_session(&session);
	}
}

static void every_processor_gets_the_registers(void **state)
{
	(void)state;
	for (int is_x86 = 0; is_x86 < 2; is_x86++) {
		struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .is_x86 = is_x86 }, 5000);
		(void)watch(&session, VMKD_BREAKPOINT_WRITE, 2, session.base + PEER_DATA_AT, false);
		for (uint32_t processor = 0; processor < 2; processor++) {
			assert_int_equal(peer_dr(session.peer, processor, 0), session.base + PEER_DATA_AT);
			assert_int_equal(peer_dr7(session.peer, processor), 0x400 | 1 | 5u << 16);
		}
		uint32_t writes = peer_control_writes(session.peer);
		(void)go(&session);
		(void)go(&session);
		assert_int_equal(peer_control_writes(session.peer), writes); // nothing has changed
		close_session(&session);
	}
}

static void the_registers_of_others_stay(void **state)
{
	uint64_t foreign = 2u << 4 | 0xDu << 24; // the third, by its global bit
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .foreign_dr7 = foreign }, 5000);
	uint32_t id = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x60, false);

	(void)state;
	expect_hit(&session, go(&session), id, 0x60);
	assert_int_equal(peer_dr7(session.peer, 1), 0x400 | foreign | 1);
	must(vmkd_breakpoint_remove(session.target, id));
	assert_int_equal(go(&session).reason, VMKD_STOP_INT3);
	assert_int_equal(peer_dr7(session.peer, 0), 0x400 | foreign);
	close_session(&session);
}

static void processor_breakpoints_and_steps(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t id = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x60, false);
	uint32_t data = watch(&session, VMKD_BREAKPOINT_READ_WRITE, 1, session.base + PEER_DATA_AT, true);

	(void)state;
	expect_hit(&session, go(&session), id, 0x60);
	must(vmkd_target_step(session.target));
	assert_int_equal(next(&session).pc, session.base + 0x61);
	assert_int_equal(peer_dr7(session.peer, 0) & 1, 0);
	must(vmkd_target_go(session.target, VMKD_CONTINUE_NOT_HANDLED)); // which brings no DR7
	expect_hit(&session, next(&session), data, PEER_WRITE_AT + 1);
	assert_int_equal(peer_dr7(session.peer, 0) & 1, 1);
	assert_int_equal(vmkd_breakpoint_count(session.target), 1); // the other was for one time
	data = watch(&session, VMKD_BREAKPOINT_READ_WRITE, 1, session.base + PEER_DATA_AT, true);
	assert_int_equal(go(&session).reason, VMKD_STOP_INT3);
	expect_hit(&session, go(&session), id, 0x60);
	for (uint32_t i = 1; i < 4; i++) {
		must(vmkd_target_step(session.target));
		struct vmkd_event event = next(&session);
		assert_int_equal(event.reason, VMKD_STOP_STEP);
		assert_int_equal(event.pc, session.base + 0x60 + i);
	}
	// The handlers run, not the instruction; what was left out for the step is armed again all the same.
	must(vmkd_target_go(session.target, VMKD_CONTINUE_NOT_HANDLED));
	expect_hit(&session, next(&session), data, PEER_WRITE_AT + 1);
	assert_int_equal(vmkd_breakpoint_count(session.target), 1); // it was for one time
	assert_int_equal(go(&session).reason, VMKD_STOP_INT3);
	expect_hit(&session, go(&session), id, 0x60);
	must(vmkd_target_go(session.target, VMKD_CONTINUE_NOT_HANDLED));
	expect_hit(&session, next(&session), id, 0x60); // nothing has run
	close_session(&session);
}

static void a_disabled_processor_breakpoint_gives_its_register_back(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t ids[4];
	struct vmkd_breakpoint bp;

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		ids[i] = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x60 + i, false);
	must(vmkd_breakpoint_enable(session.target, ids[1], false));
	assert_true(vmkd_breakpoint_at(session.target, 1, &bp));
	assert_false(bp.is_in_kernel);
	assert_int_equal(bp.kind, VMKD_BREAKPOINT_EXECUTE);
	assert_int_equal(bp.size, 1);
	expect_hit(&session, go(&session), ids[0], 0x60);
	expect_hit(&session, go(&session), ids[2], 0x62);
	uint32_t fifth = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x70, false);
	must_fail(vmkd_breakpoint_enable(session.target, ids[1], true), VMKD_E_ARGUMENT);
	must(vmkd_breakpoint_remove(session.target, fifth));
	must(vmkd_breakpoint_enable(session.target, ids[1], true));
	expect_hit(&session, go(&session), ids[3], 0x63);
	assert_int_equal(go(&session).reason, VMKD_STOP_INT3);
	expect_hit(&session, go(&session), ids[0], 0x60);
	expect_hit(&session, go(&session), ids[1], 0x61);
	close_session(&session);
}

// Processor 1 had met it and waits to say so, when it is gone: nobody's stop. What the kernel drops for it is set again.
static void a_late_hit_of_what_is_gone_is_passed_over(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .fault = PEER_LATE }, 5000);
		uint32_t id = watch(&session, VMKD_BREAKPOINT_EXECUTE, 1, session.base + 0x60, how == 2), code;
		expect_hit(&session, go(&session), id, 0x60);
		if (how == 0)
			must(vmkd_breakpoint_remove(session.target, id));
		else if (how == 1)
			must(vmkd_breakpoint_enable(session.target, id, false));
		must(vmkd_breakpoint_set(session.target, session.base + 0x64, false, &code));
		struct vmkd_event event = go(&session);
		assert_int_equal(event.processor, 1);
		expect_hit(&session, event, code, 0x64);
		close_session(&session);
	}
}

static void one_shot_goes_with_its_hit(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t id;

	(void)state;
	must(vmkd_breakpoint_set(session.target, session.base + 0x70, true, &id));
	struct vmkd_event event = go(&session);
	assert_int_equal(event.pc, session.base + 0x70);
	assert_int_equal(vmkd_breakpoint_count(session.target), 0);
	event = go(&session);
	assert_int_equal(event.reason, VMKD_STOP_INT3);
	close_session(&session);
}

static void writing_over_a_breakpoint_keeps_both(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t id;
	uint8_t byte;

	(void)state;
	must(vmkd_breakpoint_set(session.target, session.base + 0x80, false, &id));
	assert_int_equal(peer_byte(session.peer, 0x80), 0xCC);
	must(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + 0x80, "\x91", 1, NULL));
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x80, &byte, 1, NULL));
	assert_int_equal(byte, 0x91);
	assert_int_equal(go(&session).breakpoint, id);
	must(vmkd_target_read(session.target, VMKD_VIRTUAL, session.base + 0x80, &byte, 1, NULL));
	assert_int_equal(byte, 0x91);
	close_session(&session);
}

static void go_returns_to_the_processor_that_stopped(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);

	(void)state;
	must(vmkd_target_switch_processor(session.target, 1));
	struct vmkd_event event = next(&session);
	assert_int_equal(event.reason, VMKD_STOP_SWITCHED);
	assert_int_equal(vmkd_target_processor(session.target), 1);
	must_fail(vmkd_target_switch_processor(session.target, 2), VMKD_E_ARGUMENT);
	event = go(&session);
	assert_int_equal(event.processor, 0);
	assert_int_equal(event.reason, VMKD_STOP_INT3);
	close_session(&session);
}

static void switch_of_processors_may_be_refused(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true, .fault = PEER_OBSERVED }, 5000);
	struct vmkd_event event;

	(void)state;
	must_fail(vmkd_target_switch_processor(session.target, 1), VMKD_E_CONTROL);
	assert_int_equal(vmkd_target_processor(session.target), 0);
	event = go(&session); // still stopped, and in step
	assert_int_equal(event.reason, VMKD_STOP_INT3);
	close_session(&session);
}

static void detach_of_a_running_target_takes_breakpoints_out(void **state)
{
	struct session session = open_stopped(&(struct peer_options){ .is_stopped = true }, 5000);
	uint32_t id;

	(void)state;
	must(vmkd_breakpoint_set(session.target, session.base + PEER_INT3_AT, false, &id));
	must(vmkd_target_write(session.target, VMKD_VIRTUAL, session.base + PEER_INT3_AT, "\x90", 1, NULL));
	must(vmkd_breakpoint_set(session.target, session.base + 0x2000, false, &id)); // never reached
	must(vmkd_breakpoint_remove(session.target, 0));
	must(vmkd_target_go(session.target, VMKD_CONTINUE_HANDLED));
	assert_int_equal(peer_breakpoints(session.peer), 1);
	must(vmkd_target_detach(session.target, true));
	assert_int_equal(peer_breakpoints(session.peer), 0);
	assert_true(peer_is_running(session.peer));
	close_session(&session);
}

static void wrong_urls(void **state)
{
	static const char *const URLS[] = { "", "x", "vm:", "vm:../x", "vm:.x", "unix:", "tcp:", "tcp:host", "tcp:host:0", "tcp:host:70000",
					    "tcp::5000", "serial:", "serial:/dev/null,baud=", "serial:/dev/null,baud=x",
					    "serial:/dev/null,parity=e", "serial:/dev/null,baud=12345", "dump:x" };
	struct vmkd_target *target = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(URLS) / sizeof(URLS[0]); i++)
		must_fail(vmkd_target_open(URLS[i], NULL, &target), VMKD_E_ARGUMENT);
	must_fail(vmkd_target_open("unix:/nonexistent/kd.sock", NULL, &target), VMKD_E_CONNECT);
	must_fail(vmkd_target_open("serial:/dev/null", NULL, &target), VMKD_E_CONNECT);
	must_fail(vmkd_target_open("vm:no-such-vm", NULL, &target), VMKD_E_CONNECT);
	assert_null(target);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_urls),
		cmocka_unit_test(silent_target_gives_a_timeout),
		cmocka_unit_test(deaf_target_gives_nothing_but_a_state),
		cmocka_unit_test(wrong_api_number_is_named),
		cmocka_unit_test(absurd_counts_are_cut),
		cmocka_unit_test(short_context_is_refused),
		cmocka_unit_test(reset_in_a_request_is_survived),
		cmocka_unit_test(reboot_in_a_request_is_told),
		cmocka_unit_test(second_debugger_is_told_why),
		cmocka_unit_test(words_of_a_refusal_are_a_print_when_none_follows),
		cmocka_unit_test(garbage_between_packets_is_skipped),
		cmocka_unit_test(impossible_processors_are_bounded),
		cmocka_unit_test(connection_cut_at_any_byte),
		cmocka_unit_test(hostile_module_lists),
		cmocka_unit_test(hostile_module_names),
		cmocka_unit_test(module_list),
		cmocka_unit_test(reads_tell_the_first_byte_that_fails),
		cmocka_unit_test(writes_of_any_length),
		cmocka_unit_test(registers_and_their_parts),
		cmocka_unit_test(every_listed_register_is_found),
		cmocka_unit_test(x86_addresses_are_plain),
		cmocka_unit_test(break_in_and_resume),
		cmocka_unit_test(step_moves_past_int3_without_running),
		cmocka_unit_test(breakpoints_are_hit_every_round),
		cmocka_unit_test(breakpoint_refusals),
		cmocka_unit_test(processor_breakpoint_refusals),
		cmocka_unit_test(processor_breakpoints_are_hit_every_round),
		cmocka_unit_test(every_processor_gets_the_registers),
		cmocka_unit_test(the_registers_of_others_stay),
		cmocka_unit_test(processor_breakpoints_and_steps),
		cmocka_unit_test(a_disabled_processor_breakpoint_gives_its_register_back),
		cmocka_unit_test(a_late_hit_of_what_is_gone_is_passed_over),
		cmocka_unit_test(one_shot_goes_with_its_hit),
		cmocka_unit_test(writing_over_a_breakpoint_keeps_both),
		cmocka_unit_test(go_returns_to_the_processor_that_stopped),
		cmocka_unit_test(switch_of_processors_may_be_refused),
		cmocka_unit_test(detach_of_a_running_target_takes_breakpoints_out),
	};

	return cmocka_run_group_tests_name("target", tests, NULL, NULL);
}
