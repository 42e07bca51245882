// SPDX-License-Identifier: MIT
// VirtualKD's ports under a real /dev/kvm, as vmm/hook_test.c: which exits are ours, and that waits, kicks and lost memory are dealt with. Exit status 77: no KVM here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/test_broker.h"
#include "vmm/tiny_vm.h"
#include "vmm/virtualkd_rpc.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define SKIPPED 77
#define BUFFER 0x100123u // in RAM, in a page of nobody else's
#define VMWARE_CLOSE 0x0006001Eu

// ---- The guest ----------------------------------------------------------------------------------

static void load(uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	*m.cpu[0].block = (struct block){ .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx, .result = 0xDEADBEEF };
}

static void load_probe(void)
{
	load(VKD_PROBE_MAGIC, VKD_PROBE_EBX, VKD_PROBE_ECX, VKD_PROBE_PORT);
}

static enum run_end out(void)
{
	set_out(&m.cpu[0]);
	return cpu_run(&m.cpu[0]);
}

static enum run_end in(struct cpu *c)
{
	set_cpl(c, 0);
	return cpu_run(c);
}

// The instruction was the VMM's, which the guest does not notice but by what it reads.
static void assert_left_to_vmm(struct cpu *c, enum run_end end)
{
	assert_int_equal(end, RUN_LEFT_TO_VMM);
	assert_int_equal(cpu_run(c), RUN_DONE);
}

static uint8_t *place_at(uint8_t *to, uint8_t command, uint32_t len)
{
	put_le32(to, len);
	put_le32(to + 4, VKD_BUFFER_SIZE);
	memcpy(to + 8, "~kdVMvA ", 8);
	memset(to + 0x10, 0, len - 8);
	to[0x10] = command;
	return to;
}

static uint8_t *place(uint8_t command, uint32_t len)
{
	return place_at(m.ram + BUFFER, command, len);
}

static void load_rpc(uint32_t gpa)
{
	load(gpa, 0, 0, VKD_RPC_PORT);
}

static void assert_version_said(void)
{
	uint8_t *b = place('v', 13);
	put_le32(b + 0x11, 0x07E80003);
	load_rpc(BUFFER);
	assert_int_equal(out(), RUN_DONE);
	assert_int_equal(get_le32(b), 15);
	assert_int_equal(get_le32(b + 0x0F), 0x07E80003);
}

static void place_receive(uint8_t *b)
{
	b = place_at(b, 'r', 31);
	put_le32(b + 0x11, KD_PACKET_MANIPULATE);
	put_le32(b + 0x15, VKD_GLOBALS_PRESENT);
	put_le16(b + 0x1B, KD_MANIPULATE_SIZE);
	put_le16(b + 0x1F, 0x1000);
}

static uint32_t receive_code(void)
{
	assert_int_equal(m.ram[BUFFER + 0x0F], 'r');
	return get_le32(m.ram + BUFFER + 0x1E);
}

// The module is gone: by the reset that the hook sees.
static int forget(void **state)
{
	(void)state;
	struct kvm_sregs s;
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x60000010;
	s.cr4 = s.efer = s.cr3 = 0;
	s.cs = (struct kvm_segment){ .base = 0xFFFF0000, .selector = 0xF000, .limit = 0xFFFF, .type = 11, .present = 1, .s = 1 };
	(void)ioctl(m.cpu[0].fd, KVM_SET_SREGS, &s); // a KVM without real mode may refuse; the VMM meant a reset
	set_cpl(&m.cpu[0], 0);
	return 0;
}

// ---- Whose exits they are ---------------------------------------------------------------------------

static void other_programs_are_left_to_the_vmm(void **state)
{
	(void)state;
	static const struct { uint32_t eax, ebx, ecx; } others[] = {
		{ VKD_PROBE_MAGIC, VKD_PROBE_EBX, 0x0A }, { VKD_PROBE_MAGIC, 0x49435052, VKD_PROBE_ECX }, { VKD_PROBE_MAGIC, VKD_PROBE_EBX, 0x0001001E },
		{ 0x12345678, VKD_PROBE_EBX, VKD_PROBE_ECX },
	};
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		load(others[i].eax, others[i].ebx, others[i].ecx, VKD_PROBE_PORT);
		assert_left_to_vmm(&m.cpu[0], out());
		load_probe();
		assert_left_to_vmm(&m.cpu[0], in(&m.cpu[0]));
		assert_int_equal(result(), 0xFFFFFFFF);
	}
	load(VKD_PROBE_MAGIC, 0, VMWARE_CLOSE, VKD_STRAY_PORT);
	assert_left_to_vmm(&m.cpu[0], out());
}

static void what_is_no_request_is_left_to_the_vmm(void **state)
{
	(void)state;
	static const uint32_t bad[] = { 0, 0x5000, RAM_SIZE - 4, RAM_SIZE, 0xFEC00000, 0xFFFFFFFF };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		load_rpc(bad[i]);
		assert_left_to_vmm(&m.cpu[0], out());
	}
	(void)place('v', 13);
	load_rpc(BUFFER);
	assert_left_to_vmm(&m.cpu[0], in(&m.cpu[0])); // an IN there asks something else
	assert_int_equal(get_le32(m.ram + BUFFER), 13);
}

static void the_probe_is_answered_once(void **state)
{
	(void)state;
	load_probe();
	assert_int_equal(out(), RUN_DONE);
	assert_int_equal(result(), VKD_PROBE_MAGIC); // no register has changed
	assert_int_equal(in(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), VKD_PROBE_ANSWER);
	assert_left_to_vmm(&m.cpu[0], in(&m.cpu[0]));
	// The channel that was never opened is closed, once.
	load(VKD_PROBE_MAGIC, 0, VMWARE_CLOSE, VKD_STRAY_PORT);
	assert_int_equal(out(), RUN_DONE);
	assert_left_to_vmm(&m.cpu[0], out());
}

static void the_answer_is_for_the_vcpu_that_asked(void **state)
{
	(void)state;
	load_probe();
	assert_int_equal(out(), RUN_DONE);
	assert_left_to_vmm(&m.cpu[1], in(&m.cpu[1]));
	assert_int_equal(in(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), VKD_PROBE_ANSWER);
	load_probe();
	assert_int_equal(out(), RUN_DONE);
	load(0, 0, 0, VKD_PROBE_PORT); // something else was put out meanwhile
	assert_left_to_vmm(&m.cpu[0], out());
	load_probe();
	assert_left_to_vmm(&m.cpu[0], in(&m.cpu[0]));
}

static void our_own_call_is_not_taken_for_the_answer(void **state)
{
	(void)state;
	load_probe();
	assert_int_equal(out(), RUN_DONE);
	load_block(CALL_POLL, 0, 0, 0);
	assert_int_equal(in(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_REREGISTER);
	load_probe();
	assert_left_to_vmm(&m.cpu[0], in(&m.cpu[0]));
}

static void user_mode_gets_no_answer(void **state)
{
	(void)state;
	set_cpl(&m.cpu[0], 3);
	struct kvm_regs r = { .rip = OUT_CODE, .rflags = 0x3002 };
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_SET_REGS, &r), 0);
	uint8_t *b = place('v', 13);
	load_rpc(BUFFER);
	enum run_end end = cpu_run(&m.cpu[0]);
	set_cpl(&m.cpu[0], 0);
	assert_int_not_equal(end, RUN_DONE);
	assert_int_equal(get_le32(b), 13);
	if (end != RUN_LEFT_TO_VMM) {
		print_message("this KVM does not let user mode at a port (end %d)\n", end);
		skip();
	}
}

// ---- A guest ------------------------------------------------------------------------------------

static const uint8_t request[KD_MANIPULATE_SIZE + 8] = { 0x46, 0x31, 0, 0, 1, 2, 3, 4 };

// The vCPU is in its 'r', and the broker knows.
static void start_wait(struct broker *b, uint32_t gpa)
{
	load_rpc(gpa);
	set_out(&m.cpu[0]);
	cpu_start(&m.cpu[0]);
	while (broker_read(b) != LINK_WAIT)
		assert_int_not_equal(b->head.type, 0);
	assert_int_equal(b->head.want, KD_PACKET_MANIPULATE);
	assert_int_equal(b->head.cr3, TABLES);
	assert_true(cpu_is_away(&m.cpu[0], 30));
}

static void a_wait_a_kick_and_a_packet(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	assert_version_said();
	assert_int_equal(broker_read(&b), LINK_REGISTERED);
	struct link_guest guest;
	memcpy(&guest, b.body, sizeof(guest));
	assert_int_equal(guest.dialect, LINK_DIALECT_VIRTUALKD);
	assert_int_equal(guest.arch, ARCH_X64);
	place_receive(m.ram + BUFFER);
	start_wait(&b, BUFFER);
	do { // a kick that comes before the request ends that KVM_RUN only
		kick(&m.cpu[0]);
		assert_int_equal(cpu_end(&m.cpu[0]), RUN_KICKED); // a lost kick hangs here
		cpu_start(&m.cpu[0]);
	} while (cpu_is_away(&m.cpu[0], 50));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(receive_code(), VKD_TIMED_OUT); // the guest asks again
	place_receive(m.ram + BUFFER);
	set_out(&m.cpu[0]);
	cpu_start(&m.cpu[0]);
	assert_true(cpu_is_away(&m.cpu[0], 30));
	broker_deliver(&b, LINK_F_RESUMES, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(receive_code(), VKD_RECEIVED);
	assert_memory_equal(m.ram + BUFFER + 0x32, request, sizeof(request));
	assert_int_equal(broker_stats(&b).dropped_deliver, 0);
	broker_close(&b);
	wait_until_free();
}

// The same instructions in a code segment of 32 bits, as near as a guest of 32 bits can be had here.
static void a_guest_of_32_bits_is_told_as_one(void **state)
{
	(void)state;
	struct broker b;
	struct kvm_sregs s;
	broker_attach(&b);
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_GET_SREGS, &s), 0);
	s.cs.l = 0;
	s.cs.db = 1;
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_SET_SREGS, &s), 0);
	uint8_t *v = place('v', 13);
	load_rpc(BUFFER);
	enum run_end end = out();
	set_cpl(&m.cpu[0], 0);
	if (end == RUN_DONE && get_le32(v) == 15) {
		assert_int_equal(broker_read(&b), LINK_REGISTERED);
		struct link_guest guest;
		memcpy(&guest, b.body, sizeof(guest));
		assert_int_equal(guest.arch, ARCH_X86);
	}
	broker_close(&b);
	wait_until_free();
	if (end != RUN_DONE) {
		print_message("this KVM runs no code of 32 bits (end %d)\n", end);
		skip();
	}
	assert_int_equal(get_le32(v), 15);
}

// The slot that holds the buffer goes away while the guest waits: nothing is written into what was its memory.
static void memory_that_goes_away(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	assert_version_said();
	place_receive(m.extra + 0x123);
	start_wait(&b, EXTRA_GPA + 0x123);
	assert_int_equal(set_slot(1, 0, 0, NULL), 0);
	uint8_t before[128];
	memcpy(before, m.extra + 0x123, sizeof(before));
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_memory_equal(m.extra + 0x123, before, sizeof(before));
	assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
	broker_close(&b);
	wait_until_free();
}

static void a_reset_ends_the_registration(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	assert_version_said();
	assert_int_equal(broker_read(&b), LINK_REGISTERED);
	(void)forget(NULL);
	assert_int_equal(broker_read(&b), LINK_UNREGISTERED);
	assert_int_equal(b.head.code, LINK_GONE_RESET);
	broker_close(&b);
	wait_until_free();
}

// ---- Start --------------------------------------------------------------------------------------

static int clean_up(void **state)
{
	(void)state;
	machine_end();
	return 0;
}

static int set_up(void **state)
{
	(void)state;
	snprintf(broker_socket_path, sizeof(broker_socket_path), "%s/vkdtest/vmm.sock", getenv("VMKD_RUNTIME_DIR"));
	machine_create(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	return 0;
}

int main(int argc, char **argv)
{
	(void)argc;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		return SKIPPED;
	}
	close(kvm);
	if (!getenv("LD_PRELOAD"))
		return run_preloaded(argv, "vkdtest");
	alarm(120); // a hang guard, not an assertion
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_programs_are_left_to_the_vmm), cmocka_unit_test(what_is_no_request_is_left_to_the_vmm),
		cmocka_unit_test(the_probe_is_answered_once), cmocka_unit_test(the_answer_is_for_the_vcpu_that_asked),
		cmocka_unit_test(our_own_call_is_not_taken_for_the_answer), cmocka_unit_test(user_mode_gets_no_answer),
		cmocka_unit_test_teardown(a_guest_of_32_bits_is_told_as_one, forget), cmocka_unit_test_teardown(a_wait_a_kick_and_a_packet, forget), cmocka_unit_test_teardown(memory_that_goes_away, forget),
		cmocka_unit_test(a_reset_ends_the_registration),
	};
	return cmocka_run_group_tests_name("virtualkd_hook", tests, set_up, clean_up) ? 1 : 0;
}
