// SPDX-License-Identifier: MIT
// trace:FILE through libvmkd's own functions: what cannot be opened, what a recording cannot do, and what it can. What the player answers is
// trace/player_test.c's.
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "trace/record.h"
#include "vmkd/vmkd.h"
#include "wire/kdapi.h"

#define BASE 0xFFFFF80000400000u

static uint8_t file[64 * 1024];
static size_t file_len;
static uint32_t next_id;
static char url[64], *path = url + 6;
static struct vmkd_target *target;

// ---- A recording --------------------------------------------------------------------------------------------

static void put_body(enum trace_direction direction, uint16_t type, const uint8_t *body, size_t len)
{
	uint8_t frame[KDCOM_FRAME_MAX];
	struct pcapng_packet packet = { .flags = trace_flags_of(direction, KDCOM_WHOLE), .data = frame };

	packet.len = (uint32_t)trace_frame_make(type, 0x80800000 | (next_id++ & 1), body, len, frame);
	file_len += pcapng_put_packet(file + file_len, sizeof(file) - file_len, &packet);
}

static void talk(struct kd_manipulate m, uint32_t status, const void *data, size_t len)
{
	uint8_t body[KD_BODY_MAX];

	assert_int_equal(kd_manipulate_encode(&m, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	put_body(TRACE_TO_TARGET, KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE);
	m.status = status;
	if (kd_api_layout(m.api) == KD_LAYOUT_MEMORY)
		m.u.memory.actual_bytes = (uint32_t)len;
	if (m.api == KD_API_GET_VERSION)
		m.u.version = (struct kd_version){ .protocol = 6, .flags = KD_VERSION_PTR64, .machine = KD_MACHINE_X64, .kern_base = BASE };
	assert_int_equal(kd_manipulate_encode(&m, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	memcpy(body + KD_MANIPULATE_SIZE, data, len);
	put_body(TRACE_FROM_TARGET, KD_PACKET_MANIPULATE, body, KD_MANIPULATE_SIZE + len);
}

static void stop(uint32_t code, uint64_t pc)
{
	const struct kd_state_change change = { .state = KD_STATE_EXCEPTION, .processor_count = 1, .thread = BASE + 0x9000, .pc = pc, .u.exception.code = code,
						.report = { .instruction_count = 1, .seg_cs = 0x10 } };
	uint8_t body[KD_STATE_CHANGE_SIZE];

	assert_int_equal(kd_state_change_encode(&change, KD_MACHINE_X64, body, sizeof(body)), KD_OK);
	put_body(TRACE_FROM_TARGET, KD_PACKET_STATE_CHANGE, body, sizeof(body));
}

static void say(uint32_t api, const char *text)
{
	const struct kd_debug_io io = { .api = api, .length = (uint32_t)strlen(text), .read_length = 8 };
	uint8_t body[256];

	assert_int_equal(kd_debug_io_encode(&io, body, sizeof(body)), KD_OK);
	memcpy(body + KD_DEBUG_IO_SIZE, text, strlen(text));
	put_body(TRACE_FROM_TARGET, KD_PACKET_DEBUG_IO, body, KD_DEBUG_IO_SIZE + strlen(text));
}

static void go(void)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0x3C, 0x31 };

	put_body(TRACE_TO_TARGET, KD_PACKET_MANIPULATE, body, sizeof(body));
}

static void write_file(void)
{
	int fd;

	strcpy(url, "trace:/tmp/vmkd-replay-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, file, file_len), file_len);
	close(fd);
}

static int setup(void **state)
{
	(void)state;
	file_len = pcapng_put_section(file, sizeof(file), "test");
	file_len += pcapng_put_interface(file + file_len, sizeof(file) - file_len, TRACE_GUEST, "");
	say(KD_DEBUG_IO_PRINT, "hello");
	stop(KD_STATUS_BREAKPOINT, BASE + 0x10);
	talk((struct kd_manipulate){ .api = KD_API_GET_VERSION }, 0, "", 0);
	talk((struct kd_manipulate){ .api = KD_API_READ_VIRTUAL, .u.memory = { .address = BASE, .count = 8 } }, 0, "12345678", 8);
	talk((struct kd_manipulate){ .api = KD_API_READ_VIRTUAL, .u.memory = { .address = 0x1000, .count = 4 } }, KD_STATUS_UNSUCCESSFUL, "", 0);
	go();
	say(KD_DEBUG_IO_PROMPT, "well?");
	stop(KD_STATUS_SINGLE_STEP, BASE + 0x11);
	write_file();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vmkd_target_close(target);
	target = NULL;
	unlink(path);
	return 0;
}

static void must_fail(struct vmkd_error *error, enum vmkd_error_code code, const char *words)
{
	assert_non_null(error);
	if (error->code != code || !strstr(error->message, words))
		fail_msg("code %d instead of %d, or no '%s': %s", error->code, code, words, error->message);
	vmkd_error_destroy(error);
}

static struct vmkd_event wait_for(enum vmkd_event_kind kind)
{
	struct vmkd_event event;

	assert_null(vmkd_target_wait(target, 1000, &event));
	assert_int_equal(event.kind, kind);
	return event;
}

static void open_at_stop(void)
{
	assert_null(vmkd_target_open(url, NULL, &target));
	assert_string_equal(wait_for(VMKD_EVENT_PRINT).text, "hello");
	assert_int_equal(wait_for(VMKD_EVENT_EXCEPTION).pc, BASE + 0x10);
}

static bool is_readable(void)
{
	struct pollfd fd = { .fd = vmkd_target_fd(target), .events = POLLIN };

	return poll(&fd, 1, 0) == 1;
}

// ---- Tests ------------------------------------------------------------------------------------------------------

static void test_no_trace(void **state)
{
	(void)state;
	char longer[400] = "trace:";

	memset(longer + 6, 'x', sizeof(longer) - 7);
	must_fail(vmkd_target_open("trace:", NULL, &target), VMKD_E_ARGUMENT, "trace:FILE");
	must_fail(vmkd_target_open(longer, NULL, &target), VMKD_E_ARGUMENT, "trace:FILE");
	must_fail(vmkd_target_open("trace:/nowhere/at/all", NULL, &target), VMKD_E_OS, "/nowhere/at/all");
	must_fail(vmkd_target_open("trace:/dev", NULL, &target), VMKD_E_PROTOCOL, "in a file");
	assert_int_equal(truncate(path, 10), 0);
	must_fail(vmkd_target_open(url, NULL, &target), VMKD_E_PROTOCOL, "pcapng");
	assert_null(target);
}

static void test_what_it_cannot(void **state)
{
	(void)state;
	uint8_t bytes[16];
	uint64_t value;
	uint32_t id;
	size_t done;

	open_at_stop();
	must_fail(vmkd_target_write(target, VMKD_VIRTUAL, BASE, bytes, 4, NULL), VMKD_E_UNSUPPORTED, "a trace cannot");
	must_fail(vmkd_breakpoint_set(target, BASE, false, &id), VMKD_E_UNSUPPORTED, "a trace cannot");
	must_fail(vmkd_target_reboot(target), VMKD_E_UNSUPPORTED, "a trace cannot");
	must_fail(vmkd_target_resync(target), VMKD_E_UNSUPPORTED, "a trace cannot");
	must_fail(vmkd_target_msr_read(target, 0x10, &value), VMKD_E_TARGET, "not in the trace");
	must_fail(vmkd_target_read(target, VMKD_VIRTUAL, BASE + 4, bytes, 16, &done), VMKD_E_FAULT, "not in the trace");
	assert_int_equal(done, 4);
	assert_memory_equal(bytes, "5678", 4);
	must_fail(vmkd_target_read(target, VMKD_PHYSICAL, 0, bytes, 4, NULL), VMKD_E_FAULT, "physical memory at 0 is not in the trace");
	must_fail(vmkd_target_read(target, VMKD_VIRTUAL, 0x1000, bytes, 4, NULL), VMKD_E_FAULT, "not mapped"); // that was the target's answer
	must_fail(vmkd_target_answer_prompt(target, "y", 1), VMKD_E_STATE, "not asked");
}

// Also what a program that polls sees.
static void test_way(void **state)
{
	(void)state;
	struct vmkd_version version;
	struct vmkd_event event;
	uint8_t bytes[8];

	open_at_stop();
	assert_false(is_readable());
	assert_int_equal(vmkd_target_state(target), VMKD_STATE_STOPPED);
	assert_int_equal(wait_for(VMKD_EVENT_NONE).kind, VMKD_EVENT_NONE); // stays there
	assert_null(vmkd_target_version(target, &version));
	assert_int_equal(version.kernel_base, BASE);
	assert_null(vmkd_target_read(target, VMKD_VIRTUAL, BASE, bytes, 8, NULL));
	assert_memory_equal(bytes, "12345678", 8);
	vmkd_target_break_in(target);
	assert_null(vmkd_target_step(target));
	assert_true(is_readable());
	must_fail(vmkd_target_go(target, VMKD_CONTINUE_HANDLED), VMKD_E_STATE, "running");
	assert_string_equal(wait_for(VMKD_EVENT_PROMPT).text, "well?");
	assert_false(is_readable());
	assert_null(vmkd_target_answer_prompt(target, "y", 1));
	event = wait_for(VMKD_EVENT_EXCEPTION);
	assert_int_equal(event.pc, BASE + 0x11);
	assert_int_equal(event.reason, VMKD_STOP_STEP);
	must_fail(vmkd_target_read(target, VMKD_VIRTUAL, BASE, bytes, 8, NULL), VMKD_E_FAULT, "not in the trace");
	assert_null(vmkd_target_go(target, VMKD_CONTINUE_HANDLED));
	must_fail(vmkd_target_wait(target, -1, &event), VMKD_E_GONE, "the trace ends here");
	assert_int_equal(vmkd_target_state(target), VMKD_STATE_GONE);
	must_fail(vmkd_target_wait(target, 0, &event), VMKD_E_GONE, "the trace ends here");
	assert_null(vmkd_target_detach(target, true));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { T(test_no_trace), T(test_what_it_cannot), T(test_way) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
