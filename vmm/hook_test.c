// SPDX-License-Identifier: MIT
// libvmkd-vmm.so under a real /dev/kvm: this program is the VMM (it starts itself again with the library preloaded), a
// few instructions of long mode are the guest, and the test plays the broker on the socket. Exit status 77: no KVM here.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/test_broker.h"
#include "vmm/tiny_vm.h"
#include "wire/kdapi.h"

#define SKIPPED 77
// ---- Tests --------------------------------------------------------------------------------------

static const uint8_t print_header[KD_DEBUG_IO_SIZE] = { 0x30, 0x32 };
static const uint8_t request[KD_MANIPULATE_SIZE + 8] = { 0x30, 0x31, 0, 0, 1, 2, 3, 4 };

static void send_print(const char *text)
{
	uint8_t body[KD_DEBUG_IO_SIZE + 64];
	memcpy(body, print_header, sizeof(print_header));
	memcpy(body + sizeof(print_header), text, strlen(text));
	fake_guest_send(&m.guest, KD_PACKET_DEBUG_IO, KD_DEBUG_IO_SIZE, body,
	                (uint32_t)(sizeof(print_header) + strlen(text)));
}

static void send_state_change(void)
{
	static const uint8_t body[KD_STATE_CHANGE_SIZE] = { 0x30, 0x30 };
	fake_guest_send(&m.guest, KD_PACKET_STATE_CHANGE, KD_STATE_CHANGE_SIZE, body, sizeof(body));
}

// Bring the guest into a wait that broker b knows of. The vCPU is in it when this returns.
static void start_wait(struct broker *b)
{
	send_state_change();
	load_call(CALL_EXCHANGE, CALL_F_WAIT, KD_PACKET_MANIPULATE);
	cpu_start(&m.cpu[0]);
	if (b) {
		while (broker_read(b) != LINK_PACKET)
			assert_int_not_equal(b->head.type, 0);
		assert_int_equal(b->head.kd_type, KD_PACKET_STATE_CHANGE);
		assert_true(b->head.flags & LINK_F_WAITS);
	}
}

static void assert_request_taken(void)
{
	struct ring_packet packet;
	uint8_t body[RECORD_BODY_MAX];
	assert_int_equal(fake_guest_take(&m.guest, &packet, body), (int)sizeof(request));
	assert_memory_equal(body, request, sizeof(request));
	assert_int_equal(packet.kd_type, KD_PACKET_MANIPULATE);
}

// Kick the vCPU until the call that it is in, or is about to make, has been answered RETRY. A kick that
// comes before the call ends that KVM_RUN only, and the next one goes into the wait.
static void kick_out(void)
{
	do {
		kick(&m.cpu[0]);
		assert_int_equal(cpu_end(&m.cpu[0]), RUN_KICKED); // a lost kick hangs here
		cpu_start(&m.cpu[0]);
	} while (cpu_is_away(&m.cpu[0], 50));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_RETRY);
}

static void end_broker(struct broker *b)
{
	broker_close(b);
	wait_until_free();
}

static int leave_area(void **state)
{
	(void)state;
	load_call(CALL_UNREGISTER, 0, 0);
	(void)cpu_run(&m.cpu[0]); // OK, or REREGISTER where the test ended the registration
	return 0;
}

static void other_commands_are_left_to_the_vmm(void **state)
{
	(void)state;
	load_block(CALL_POLL, 0, 0, 0);
	m.cpu[0].block->ecx = 0x0A; // VMware's GETVERSION
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_LEFT_TO_VMM);
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), 0xFFFFFFFF);
	load_block(CALL_POLL, 0, 0, 0);
	m.cpu[0].block->eax = 0x12345678;
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_LEFT_TO_VMM);
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
}

static void user_mode_is_left_to_the_vmm_and_counted(void **state)
{
	(void)state;
	struct broker b;
	register_area();
	broker_attach(&b);
	struct link_stats before = broker_stats(&b);
	set_cpl(&m.cpu[0], 3);
	load_call(CALL_POLL, 0, 0);
	enum run_end end = cpu_run(&m.cpu[0]);
	set_cpl(&m.cpu[0], 0);
	assert_int_not_equal(end, RUN_DONE); // answered
	if (end != RUN_LEFT_TO_VMM) {
		end_broker(&b);
		print_message("this KVM does not let user mode at a port (end %d)\n", end);
		skip();
	}
	struct link_stats after = broker_stats(&b);
	assert_int_equal(after.refused_cpl, before.refused_cpl + 1);
	assert_int_equal(after.port_calls, before.port_calls);
	end_broker(&b);
}

static void bad_addresses_are_refused(void **state)
{
	(void)state;
	static const uint64_t bad[] = { 0, 1, 0x5000, RAM_SIZE, 0xFFFFFFFFFFFFF000, UINT64_MAX, 0xFEC00000 };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		load_block(CALL_REGISTER, (uint32_t)bad[i], (uint32_t)(bad[i] >> 32), AREA_VERSION);
		assert_code(CODE_REFUSED);
	}
	load_block(CALL_REGISTER, 0, 0, 2u << 16);
	assert_code(CODE_VERSION);
	load_block(99, 0, 0, 0);
	assert_code(CODE_REREGISTER);
}

static void without_broker_calls_say_nobody(void **state)
{
	(void)state;
	register_area();
	send_print("kept");
	load_call(CALL_EXCHANGE, 0, 0);
	assert_code(CODE_NOBODY);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_NOBODY);
	assert_int_equal(m.guest.head->tx_tail, 0);
}

static void packets_and_waits_reach_the_broker(void **state)
{
	(void)state;
	struct broker b;
	struct link_hello hello = broker_attach(&b);
	assert_int_equal(hello.version, LINK_VERSION);
	assert_int_equal(hello.pid, getpid());
	assert_string_equal(hello.name, "hooktest");
	register_area();
	assert_int_equal(broker_read(&b), LINK_REGISTERED);
	send_print("hello");
	start_wait(NULL);
	assert_int_equal(broker_read(&b), LINK_PACKET);
	assert_int_equal(b.head.kd_type, KD_PACKET_DEBUG_IO);
	assert_memory_equal(b.body + KD_DEBUG_IO_SIZE, "hello", 5);
	assert_false(b.head.flags & LINK_F_WAITS);
	assert_int_equal(broker_read(&b), LINK_PACKET);
	assert_int_equal(b.head.flags, LINK_F_WAITS);
	assert_int_equal(b.head.want, KD_PACKET_MANIPULATE);
	assert_int_equal(b.head.cr3, TABLES);
	assert_int_equal(b.head.vcpu, 0);
	assert_true(cpu_is_away(&m.cpu[0], 30));
	broker_deliver(&b, LINK_F_RESUMES, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_OK);
	assert_request_taken();
	end_broker(&b);
}

static void a_break_in_reaches_the_running_guest(void **state)
{
	(void)state;
	struct broker b;
	register_area();
	broker_attach(&b);
	(void)broker_stats(&b);
	broker_send(&b, (struct link_head){ .type = LINK_BREAKIN }, NULL);
	(void)broker_stats(&b);
	assert_true(m.guest.head->attention & ATTENTION_BREAKIN);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_BREAKIN);
	assert_int_equal(broker_read(&b), LINK_BREAKIN_TAKEN);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_OK);
	end_broker(&b);
}

static void a_kick_ends_the_wait_and_nothing_is_lost(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	start_wait(&b);
	for (int i = 0; i < 20; i++) {
		kick_out();
		// A packet that comes while the guest is out of its wait stays in the socket.
		if (i == 19)
			broker_deliver(&b, 0, request, sizeof(request));
		cpu_start(&m.cpu[0]);
	}
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_OK);
	assert_request_taken();
	struct link_stats s = broker_stats(&b);
	assert_true(s.retries >= 20);
	assert_int_equal(s.dropped_deliver, 0);
	end_broker(&b);
}

static void a_kick_before_the_wait_is_not_lost(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	for (int i = 0; i < 40; i++) {
		load_call(CALL_EXCHANGE, CALL_F_WAIT, KD_PACKET_MANIPULATE);
		cpu_start(&m.cpu[0]);
		for (int spin = (i * 37) % 4000; spin > 0; spin--)
			__asm__ volatile("pause");
		kick_out();
	}
	end_broker(&b);
}

static void a_second_broker_is_refused(void **state)
{
	(void)state;
	struct broker b, second = { 0 };
	broker_attach(&b);
	second.fd = broker_connect();
	assert_int_equal(broker_read(&second), 0);
	close(second.fd);
	(void)broker_stats(&b);
	end_broker(&b);
}

static void bad_messages_close_the_connection(void **state)
{
	(void)state;
	static const struct link_head bad[] = {
		{ .type = 77 }, { .type = LINK_HELLO }, { .type = LINK_ATTACH, .seq = LINK_VERSION },
		{ .type = LINK_STATS_GET, .reserved = 1 }, { .type = LINK_DELIVER, .hdr_len = 8 },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct broker b;
		broker_attach(&b);
		broker_send(&b, bad[i], NULL);
		assert_int_equal(broker_read(&b), 0);
		end_broker(&b);
	}
	struct broker b;
	broker_attach(&b);
	static uint8_t long_one[sizeof(struct link_head) + LINK_BODY_MAX + 100];
	assert_int_equal(send(b.fd, long_one, sizeof(long_one), 0), (ssize_t)sizeof(long_one));
	assert_int_equal(broker_read(&b), 0);
	end_broker(&b);
}

static void a_deliver_that_nobody_waits_for_is_dropped(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(broker_stats(&b).dropped_deliver, 1);
	end_broker(&b);
}

static void a_killed_broker_and_a_new_one(void **state)
{
	(void)state;
	register_area();
	pid_t pid = broker_spawn();
	start_wait(NULL);
	assert_true(cpu_is_away(&m.cpu[0], 30));
	broker_kill(pid);
	assert_true(cpu_is_away(&m.cpu[0], 30)); // the wait goes on
	wait_until_free();
	struct broker b;
	struct link_hello hello = broker_attach(&b);
	assert_int_equal(hello.is_registered, 1);
	assert_int_equal(hello.is_waiting, 1);
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_RESEND);
	start_wait(&b);
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_request_taken();
	end_broker(&b);
}

static void a_droppable_wait_ends_without_a_broker(void **state)
{
	(void)state;
	register_area();
	pid_t pid = broker_spawn();
	load_call(CALL_EXCHANGE, CALL_F_WAIT | CALL_F_DROPPABLE, KD_PACKET_MANIPULATE);
	cpu_start(&m.cpu[0]);
	assert_true(cpu_is_away(&m.cpu[0], 30));
	broker_kill(pid);
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_NOBODY);
}

// A stopped broker: the socket fills; a running guest is answered, a waiting one waits and can be kicked.
static void a_stopped_broker_stops_nobody(void **state)
{
	(void)state;
	register_area();
	pid_t pid = broker_spawn();
	kill(pid, SIGSTOP);
	uint32_t code = CODE_OK;
	for (int i = 0; i < 20000 && code == CODE_OK; i++) {
		send_print("flood");
		load_call(CALL_EXCHANGE, 0, 0);
		assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
		code = result() & ~RESULT_TAG_MASK;
	}
	assert_int_equal(code, CODE_NOBODY);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_NOBODY);
	start_wait(NULL);
	assert_true(cpu_is_away(&m.cpu[0], 60));
	kick_out();
	cpu_start(&m.cpu[0]);
	assert_true(cpu_is_away(&m.cpu[0], 30));
	broker_kill(pid); // stopped as it is
	wait_until_free();
	struct broker b;
	struct link_hello hello = broker_attach(&b);
	assert_int_equal(hello.is_waiting, 0); // nobody had heard of this wait: the packets come now
	while (broker_read(&b) != LINK_PACKET || !(b.head.flags & LINK_F_WAITS))
		assert_int_not_equal(b.head.type, 0);
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_request_taken();
	end_broker(&b);
}

static void lost_memory_ends_the_registration(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	layout_area(m.extra, EXTRA_GPA, 0);
	load_register();
	assert_code(CODE_OK);
	assert_int_equal(broker_read(&b), LINK_REGISTERED);
	// In a wait, which the loss ends; what stands in the ring is collected first.
	start_wait(&b);
	send_print("last words");
	assert_int_equal(set_slot(1, 0, 0, NULL), 0);
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_REREGISTER);
	assert_int_equal(broker_read(&b), LINK_PACKET);
	assert_memory_equal(b.body + KD_DEBUG_IO_SIZE, "last words", 10);
	assert_int_equal(broker_read(&b), LINK_UNREGISTERED);
	assert_int_equal(b.head.code, LINK_GONE_AREA);
	uint8_t before[AREA_PAGE_SIZE];
	memcpy(before, m.extra, sizeof(before));
	broker_send(&b, (struct link_head){ .type = LINK_BREAKIN }, NULL);
	(void)broker_stats(&b);
	assert_memory_equal(before, m.extra, sizeof(before)); // not even attention
	broker_send(&b, (struct link_head){ .type = LINK_BREAKIN_CANCEL }, NULL);
	load_register();
	assert_code(CODE_REFUSED); // no memory there now
	assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
	load_register();
	assert_code(CODE_OK);
	// Dirty logging changes the slot's flags and nothing else.
	struct kvm_userspace_memory_region r = {
		.slot = 1, .flags = KVM_MEM_LOG_DIRTY_PAGES, .guest_phys_addr = EXTRA_GPA,
		.memory_size = EXTRA_SIZE, .userspace_addr = (uintptr_t)m.extra,
	};
	assert_int_equal(ioctl(m.vm_fd, KVM_SET_USER_MEMORY_REGION, &r), 0);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_OK);
	end_broker(&b);
}

// ---- Where the RAM is ------------------------------------------------------------------------------

static void deliver_and_end(struct broker *b)
{
	broker_deliver(b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_OK);
	assert_request_taken();
}

static void assert_both_slots(const struct broker *b)
{
	const struct link_memory *l = &b->memory;
	assert_int_equal(l->piece_count, 2);
	assert_int_equal(l->file_count, 1);
	assert_int_equal(l->is_cut, 0);
	assert_true(l->pieces[0].gpa == 0 && l->pieces[0].size == RAM_SIZE && l->pieces[0].at == RAM_FILE_OFFSET && l->pieces[0].file == 0);
	assert_true(l->pieces[1].gpa == EXTRA_GPA && l->pieces[1].size == EXTRA_SIZE && l->pieces[1].at == (uintptr_t)m.extra &&
	            l->pieces[1].file == LINK_MEMORY_REMOTE);
}

static void assert_only_ram(const struct broker *b)
{
	assert_int_equal(b->memory.piece_count, 1);
	assert_true(b->memory.pieces[0].gpa == 0 && b->memory.pieces[0].size == RAM_SIZE && b->memory.pieces[0].file == 0);
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;
	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void the_broker_learns_where_ram_is_before_the_first_wait(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	(void)broker_stats(&b);
	assert_int_equal(b.memory_count, 0); // nobody needs it while the guest runs
	unsigned before = open_descriptors();
	start_wait(&b);
	assert_int_equal(open_descriptors(), before + 1); // the test's own: the library keeps none
	assert_int_equal(b.memory_count, 1);
	assert_both_slots(&b);
	uint8_t seen[AREA_PAGE_SIZE];
	assert_int_equal(pread(b.memory_fds[0], seen, sizeof(seen), RAM_FILE_OFFSET + CODE), sizeof(seen));
	assert_memory_equal(seen, m.ram + CODE, sizeof(seen));
	assert_int_equal(fcntl(b.memory_fds[0], F_GETFL) & O_ACCMODE, O_RDONLY);
	// This program is the broker, too: the same user. With Yama it depends on who may trace whom.
	if (access("/proc/sys/kernel/yama/ptrace_scope", F_OK))
		assert_int_equal(b.memory.is_permitted, 1);
	deliver_and_end(&b);
	start_wait(&b);
	assert_int_equal(b.memory_count, 1); // nothing has changed
	deliver_and_end(&b);
	end_broker(&b);
	broker_attach(&b);
	start_wait(&b);
	assert_int_equal(b.memory_count, 1); // the next broker knows nothing yet
	assert_both_slots(&b);
	deliver_and_end(&b);
	end_broker(&b);
}

static void a_wait_without_a_packet_tells_it_too(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	load_call(CALL_EXCHANGE, CALL_F_WAIT, KD_PACKET_MANIPULATE);
	cpu_start(&m.cpu[0]);
	while (broker_read(&b) != LINK_WAIT)
		assert_int_not_equal(b.head.type, 0);
	assert_int_equal(b.memory_count, 1);
	assert_both_slots(&b);
	deliver_and_end(&b);
	end_broker(&b);
}

static void changed_slots_are_told_before_the_next_wait(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	start_wait(&b);
	deliver_and_end(&b);
	assert_int_equal(set_slot(1, 0, 0, NULL), 0);
	(void)broker_stats(&b);
	assert_int_equal(b.memory_count, 1);
	start_wait(&b);
	assert_int_equal(b.memory_count, 2);
	assert_only_ram(&b);
	assert_int_equal(b.memory.is_permitted, 0); // nothing is to be read in this process
	deliver_and_end(&b);
	assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
	start_wait(&b);
	assert_int_equal(b.memory_count, 3);
	assert_both_slots(&b);
	deliver_and_end(&b);
	end_broker(&b);
}

static void log_dirty_pages(uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .flags = flags, .guest_phys_addr = EXTRA_GPA, .memory_size = EXTRA_SIZE, .userspace_addr = (uintptr_t)m.extra,
	};
	assert_int_equal(ioctl(m.vm_fd, KVM_SET_USER_MEMORY_REGION, &r), 0);
}

static void changes_during_a_wait_are_told_at_once(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	start_wait(&b);
	unsigned before = open_descriptors();
	for (int i = 0; i < 3; i++) {
		if (i == 2)
			kick_out(); // the VMM has the vCPU: the guest still is in its wait
		assert_int_equal(set_slot(1, 0, 0, NULL), 0);
		broker_read_memory(&b);
		assert_int_equal(b.memory.piece_count, 0); // withdrawn before it went
		assert_int_equal(b.memory.file_count, 0);
		broker_read_memory(&b);
		assert_only_ram(&b);
		assert_int_equal(set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra), 0);
		broker_read_memory(&b); // more of it withdraws nothing
		assert_both_slots(&b);
	}
	uint32_t told = b.memory_count;
	log_dirty_pages(KVM_MEM_LOG_DIRTY_PAGES); // moves nothing
	log_dirty_pages(0);
	assert_int_equal(open_descriptors(), before);
	cpu_start(&m.cpu[0]);
	deliver_and_end(&b);
	(void)broker_stats(&b);
	assert_int_equal(b.memory_count, told);
	end_broker(&b);
}

static void *swap_slots(void *arg)
{
	const bool *is_over = arg;
	while (!__atomic_load_n(is_over, __ATOMIC_ACQUIRE)) {
		if (set_slot(1, 0, 0, NULL) || set_slot(1, EXTRA_GPA, EXTRA_SIZE, m.extra))
			return arg;
		sched_yield();
	}
	return NULL;
}

// Slots come and go while the guest waits and runs. However the two meet, the broker ends up with the truth.
static void slots_that_keep_changing_are_followed(void **state)
{
	(void)state;
	struct broker b;
	pthread_t thread;
	bool is_over = false;
	void *failed;
	broker_attach(&b);
	register_area();
	assert_int_equal(pthread_create(&thread, NULL, swap_slots, &is_over), 0);
	for (int i = 0; i < 100; i++) {
		start_wait(&b);
		assert_true(b.memory_count > 0);
		deliver_and_end(&b);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
	pthread_join(thread, &failed);
	assert_null(failed);
	start_wait(&b);
	assert_both_slots(&b);
	deliver_and_end(&b);
	end_broker(&b);
	for (int fd = 0; fd < 1024; fd++) { // a second descriptor of the RAM's file is one that the library has kept
		struct stat st;
		char path[64], name[64];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t len = readlink(path, name, sizeof(name) - 1);
		name[len > 0 ? len : 0] = 0;
		if (!fstat(fd, &st) && strstr(name, "memfd:ram"))
			assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	}
}

// What the hook asks of KVM at every exit: nothing, as long as no module is registered.
static void registers_are_asked_for_only_while_a_module_is_there(void **state)
{
	(void)state;
	const struct kvm_run *run = m.cpu[0].run;
	load_block(CALL_POLL, 0, 0, 0);
	m.cpu[0].block->ecx = 0; // not for us
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_LEFT_TO_VMM);
	assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
	assert_int_equal(run->kvm_valid_regs, 0);
	register_area();
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_NOBODY);
	int sync = ioctl(m.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
	if (sync > 0 && sync & KVM_SYNC_X86_REGS && sync & KVM_SYNC_X86_SREGS)
		assert_int_equal(run->kvm_valid_regs, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS);
	load_call(CALL_UNREGISTER, 0, 0);
	assert_code(CODE_OK);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_REREGISTER);
	assert_int_equal(run->kvm_valid_regs, 0);
}

static void set_reset_state(void)
{
	struct kvm_sregs s;
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_GET_SREGS, &s), 0);
	s.cr0 = 0x60000010;
	s.cr4 = s.efer = s.cr3 = 0;
	s.cs = (struct kvm_segment){
		.base = 0xFFFF0000, .selector = 0xF000, .limit = 0xFFFF, .type = 11, .present = 1, .s = 1,
	};
	(void)ioctl(m.cpu[0].fd, KVM_SET_SREGS, &s); // a KVM without real mode may refuse; the VMM meant a reset
	set_cpl(&m.cpu[0], 0);
}

static void a_reset_ends_the_registration(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	(void)broker_stats(&b); // LINK_ATTACH has been read: there is somebody to collect for
	register_area();
	send_print("dying");
	set_reset_state();
	while (broker_read(&b) != LINK_PACKET)
		assert_int_not_equal(b.head.type, 0);
	assert_memory_equal(b.body + KD_DEBUG_IO_SIZE, "dying", 5);
	assert_int_equal(broker_read(&b), LINK_UNREGISTERED);
	assert_int_equal(b.head.code, LINK_GONE_RESET);
	load_call(CALL_POLL, 0, 0);
	assert_code(CODE_REREGISTER);
	end_broker(&b);
}

static void a_triple_fault_leaves_the_last_words(void **state)
{
	(void)state;
	struct broker b;
	struct kvm_regs r = { .rip = CRASH, .rflags = 2 };
	broker_attach(&b);
	(void)broker_stats(&b); // LINK_ATTACH has been read: there is somebody to collect for
	register_area();
	send_print("fatal");
	assert_int_equal(ioctl(m.cpu[0].fd, KVM_SET_REGS, &r), 0);
	enum run_end end = cpu_run(&m.cpu[0]);
	set_cpl(&m.cpu[0], 0);
	if (end != RUN_SHUTDOWN) {
		end_broker(&b);
		print_message("this KVM reports a triple fault as %d\n", end);
		skip();
	}
	while (broker_read(&b) != LINK_PACKET)
		assert_int_not_equal(b.head.type, 0);
	assert_memory_equal(b.body + KD_DEBUG_IO_SIZE, "fatal", 5);
	assert_int_equal(broker_read(&b), LINK_UNREGISTERED);
	assert_int_equal(b.head.code, LINK_GONE_SHUTDOWN);
	end_broker(&b);
}

// The broker does not read when the guest dies, and does later: the guest's last words must not stay in its ring.
static void last_words_wait_for_a_slow_broker(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	(void)broker_stats(&b); // LINK_ATTACH has been read: before it, the first word would be answered NOBODY
	register_area();
	uint32_t code = CODE_OK, words = 0, read = 0;
	for (; words < 20000 && code == CODE_OK; words++) {
		send_print("flood");
		load_call(CALL_EXCHANGE, 0, 0);
		assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
		code = result() & ~RESULT_TAG_MASK;
	}
	assert_int_equal(code, CODE_NOBODY);
	set_reset_state();
	while (broker_read(&b) != LINK_UNREGISTERED) {
		assert_int_not_equal(b.head.type, 0);
		read += b.head.type == LINK_PACKET;
	}
	assert_int_equal(read, words);
	end_broker(&b);
}

static void a_call_during_a_wait_is_refused(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	register_area();
	start_wait(&b);
	// The second processor makes the same call; both store into one result word. On a slow machine it is asleep before it can,
	// and then makes a call of its own after the wait.
	cpu_start(&m.cpu[1]);
	if (!cpu_is_away(&m.cpu[1], 500)) {
		assert_int_equal(cpu_end(&m.cpu[1]), RUN_DONE);
		assert_int_equal(result(), RESULT_TAG | CODE_REFUSED);
		assert_true(cpu_is_away(&m.cpu[0], 20));
		broker_deliver(&b, 0, request, sizeof(request));
	} else {
		broker_deliver(&b, 0, request, sizeof(request));
		assert_int_equal(cpu_end(&m.cpu[1]), RUN_DONE);
	}
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	assert_int_equal(result(), RESULT_TAG | CODE_OK);
	end_broker(&b);
}

// A thread of the guest changes everything in the area while calls are made, as another processor could. What the calls
// answer is open; that the library survives and answers is not.
static void *spoil(void *arg)
{
	const bool *is_over = arg;
	uint64_t x = 88172645463325252ull;
	while (!__atomic_load_n(is_over, __ATOMIC_ACQUIRE)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		uint8_t *page = m.ram + (AREA_FIRST + 2 * (x % 7)) * AREA_PAGE_SIZE;
		uint32_t offset = (uint32_t)(x >> 8) % (x & 64 ? 0x100 : AREA_PAGE_SIZE);
		bool is_kind_of_call = offset >= offsetof(struct area_head, call_fn) && offset < offsetof(struct area_head, poll_count);
		if (!is_kind_of_call) // it must not become a wait that is kept
			__atomic_store_n(page + offset, (uint8_t)(x >> 40), __ATOMIC_RELAXED);
		for (int i = 0; i < 40; i++) // slowly, so that some areas are still good when they are looked at
			__asm__ volatile("pause");
	}
	return NULL;
}

static bool has_seen_both(const struct link_stats *before, const struct link_stats *after)
{
	return after->refused > before->refused && after->registrations > before->registrations;
}

static void changes_during_calls_are_survived(void **state)
{
	(void)state;
	struct broker b;
	pthread_t thread;
	bool is_over = false;
	broker_attach(&b);
	struct link_stats before = broker_stats(&b);
	layout_area(m.ram, 0, AREA_FIRST);
	assert_int_equal(pthread_create(&thread, NULL, spoil, &is_over), 0);
	// How often the two meet is the scheduler's: at least 1000 rounds, and on until both outcomes have been seen (50000: a hang guard).
	struct link_stats after = before;
	for (int i = 0; i < 1000 || (i < 50000 && !has_seen_both(&before, &after)); i++) {
		layout_area(m.ram, 0, AREA_FIRST);
		load_register();
		assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
		for (uint32_t turn = 0; turn < 3; turn++) {
			const struct record_head print = {
				.len = 48, .kd_type = KD_PACKET_DEBUG_IO, .seq = turn + 1, .hdr_len = KD_DEBUG_IO_SIZE, .data_len = 8,
			};
			memcpy(m.guest.pages[1] + AREA_PAGE_HEAD + 48 * turn, &print, sizeof(print));
			m.guest.head->tx_head = 48 * (turn + 1);
			load_call(turn == 2 ? CALL_UNREGISTER : CALL_EXCHANGE, 0, 0);
			assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
			assert_int_equal(result() & RESULT_TAG_MASK, RESULT_TAG);
		}
		while (recv(b.fd, b.body, sizeof(b.body), MSG_DONTWAIT) > 0)
			;
		if (i % 1000 == 999)
			after = broker_stats(&b);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	after = broker_stats(&b);
	end_broker(&b);
	print_message("%d registered, %d refusals, %d packets\n", (int)(after.registrations - before.registrations),
	              (int)(after.refused - before.refused), (int)(after.packets_out - before.packets_out));
	assert_true(has_seen_both(&before, &after));
}

static bool is_counting(void)
{
	const volatile uint32_t *counter = (const volatile uint32_t *)(m.ram + COUNTER);
	uint32_t before = *counter;
	usleep(50000);
	return *counter != before;
}

static bool becomes(bool wanted)
{
	for (int i = 0; i < 200; i++) { // a hang guard
		if (is_counting() == wanted)
			return true;
	}
	return false;
}

// The other processor spins, as NT keeps it while the debugger has the machine.
static void the_other_cpu_sleeps_during_a_wait(void **state)
{
	(void)state;
	struct broker b;
	struct kvm_regs r = { .rip = SPIN, .rflags = 2 };
	broker_attach(&b);
	register_area();
	assert_int_equal(ioctl(m.cpu[1].fd, KVM_SET_REGS, &r), 0);
	m.cpu[1].is_running_on = true;
	cpu_start(&m.cpu[1]);
	assert_true(becomes(true));
	for (int i = 0; i < 3; i++) {
		start_wait(&b);
		assert_true(becomes(false));
		struct timespec before, after;
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
		usleep(300000);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
		int64_t used = (after.tv_sec - before.tv_sec) * 1000000000ll + (after.tv_nsec - before.tv_nsec);
		assert_true(used < 100000000); // a spin would use all of the 300 ms
		broker_deliver(&b, 0, request, sizeof(request));
		assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
		assert_request_taken();
		assert_true(becomes(true));
	}
	// A VMM that wants the sleeping processor gets it.
	start_wait(&b);
	assert_true(becomes(false));
	__atomic_store_n(&m.cpu[1].is_running_on, false, __ATOMIC_RELEASE);
	kick(&m.cpu[1]);
	assert_int_equal(cpu_end(&m.cpu[1]), RUN_KICKED);
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	set_cpl(&m.cpu[1], 0);
	end_broker(&b);
}

static void waiting_uses_no_cpu(void **state)
{
	(void)state;
	struct broker b;
	struct timespec before, after;
	broker_attach(&b);
	register_area();
	start_wait(&b);
	usleep(20000);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	usleep(300000);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	int64_t used = (after.tv_sec - before.tv_sec) * 1000000000ll + (after.tv_nsec - before.tv_nsec);
	assert_true(used < 100000000); // a spin would use all of the 300 ms
	broker_deliver(&b, 0, request, sizeof(request));
	assert_int_equal(cpu_end(&m.cpu[0]), RUN_DONE);
	end_broker(&b);
}

static void a_fork_leaves_the_link_to_the_parent(void **state)
{
	(void)state;
	struct broker b;
	broker_attach(&b);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		exit(0); // runs the library's destructor
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)broker_stats(&b);
	struct stat st;
	assert_int_equal(stat(broker_socket_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	end_broker(&b);
}

// The last test: a broker in a process of its own that begins to read only when this one, the VMM, is on its way out. It tells the process that
// waits for all of this whether every word has come, and a goodbye.
static int verdict_fds[2], go_fd = -1;

static void read_last_words(struct broker *b, const int go[2])
{
	uint32_t words = 0, read_words = 0;
	uint16_t type;
	close(go[1]);
	if (read(go[0], &words, sizeof(words)) != sizeof(words))
		_exit(1);
	(void)!read(go[0], &type, 1); // the end of the stream: the VMM exits
	usleep(100000);               // and finds nobody reading
	while ((type = broker_read(b)) == LINK_PACKET)
		read_words += b->head.type == LINK_PACKET;
	bool is_whole = read_words == words && type == LINK_UNREGISTERED && b->head.code == LINK_GONE_BYE && !broker_read(b);
	dprintf(STDERR_FILENO, "at the VMM's exit: %u of %u words, then message %u\n", read_words, words, type);
	(void)!write(verdict_fds[1], &is_whole, sizeof(is_whole));
	_exit(0);
}

static void the_last_words_before_the_exit_are_not_lost(void **state)
{
	(void)state;
	int go[2];
	struct broker b;
	uint32_t code = CODE_OK, words = 0;
	register_area();
	broker_hello(&b);
	broker_send(&b, (struct link_head){ .type = LINK_ATTACH, .seq = LINK_VERSION }, NULL);
	(void)broker_stats(&b); // it is attached
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		read_last_words(&b, go);
	close(b.fd);
	close(go[0]);
	for (; words < 20000 && code == CODE_OK; words++) {
		send_print("flood");
		load_call(CALL_EXCHANGE, 0, 0);
		assert_int_equal(cpu_run(&m.cpu[0]), RUN_DONE);
		code = result() & ~RESULT_TAG_MASK;
	}
	assert_int_equal(code, CODE_NOBODY); // the socket is full; the rest stays in the ring
	send_print("the very last");
	words++;
	assert_int_equal(write(go[1], &words, sizeof(words)), sizeof(words));
	go_fd = go[1]; // closed on the way out
}

// ---- Start --------------------------------------------------------------------------------------

static int clean_up(void **state)
{
	(void)state;
	machine_end();
	close(go_fd);
	return 0;
}

static int set_up(void **state)
{
	(void)state;
	snprintf(broker_socket_path, sizeof(broker_socket_path), "%s/hooktest/vmm.sock", getenv("VMKD_RUNTIME_DIR"));
	machine_create(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	return 0;
}

// All tests run in a VMM that has made itself a daemon before it created its VM (QEMU's -daemonize), which must change nothing.
// -> in the daemon: -1; in the process that waits for it: the exit status.
static int become_daemon(void)
{
	int status = 1;
	bool is_whole = false;
	if (pipe2(verdict_fds, O_CLOEXEC))
		return 1;
	pid_t pid = fork();
	if (pid == 0)
		return -1;
	close(verdict_fds[1]);
	waitpid(pid, &status, 0);
	if (read(verdict_fds[0], &is_whole, sizeof(is_whole)) != sizeof(is_whole) || !is_whole) {
		fprintf(stderr, "FAILED: words that were printed before the VMM's exit are lost\n");
		return 1;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
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
		return run_preloaded(argv, "hooktest");
	int status = become_daemon();
	if (status >= 0)
		return status;
	alarm(120); // a hang guard, not an assertion
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_commands_are_left_to_the_vmm),
		cmocka_unit_test(bad_addresses_are_refused),
		cmocka_unit_test_teardown(user_mode_is_left_to_the_vmm_and_counted, leave_area),
		cmocka_unit_test_teardown(without_broker_calls_say_nobody, leave_area),
		cmocka_unit_test_teardown(packets_and_waits_reach_the_broker, leave_area),
		cmocka_unit_test_teardown(a_break_in_reaches_the_running_guest, leave_area),
		cmocka_unit_test_teardown(a_kick_ends_the_wait_and_nothing_is_lost, leave_area),
		cmocka_unit_test_teardown(a_kick_before_the_wait_is_not_lost, leave_area),
		cmocka_unit_test(a_second_broker_is_refused),
		cmocka_unit_test(bad_messages_close_the_connection),
		cmocka_unit_test(a_deliver_that_nobody_waits_for_is_dropped),
		cmocka_unit_test_teardown(a_killed_broker_and_a_new_one, leave_area),
		cmocka_unit_test_teardown(a_droppable_wait_ends_without_a_broker, leave_area),
		cmocka_unit_test_teardown(a_stopped_broker_stops_nobody, leave_area),
		cmocka_unit_test_teardown(lost_memory_ends_the_registration, leave_area),
		cmocka_unit_test_teardown(the_broker_learns_where_ram_is_before_the_first_wait, leave_area),
		cmocka_unit_test_teardown(a_wait_without_a_packet_tells_it_too, leave_area),
		cmocka_unit_test_teardown(changed_slots_are_told_before_the_next_wait, leave_area),
		cmocka_unit_test_teardown(changes_during_a_wait_are_told_at_once, leave_area),
		cmocka_unit_test_teardown(slots_that_keep_changing_are_followed, leave_area),
		cmocka_unit_test_teardown(registers_are_asked_for_only_while_a_module_is_there, leave_area),
		cmocka_unit_test(a_reset_ends_the_registration),
		cmocka_unit_test_teardown(last_words_wait_for_a_slow_broker, leave_area),
		cmocka_unit_test_teardown(a_triple_fault_leaves_the_last_words, leave_area),
		cmocka_unit_test_teardown(a_call_during_a_wait_is_refused, leave_area),
		cmocka_unit_test_teardown(waiting_uses_no_cpu, leave_area),
		cmocka_unit_test_teardown(the_other_cpu_sleeps_during_a_wait, leave_area),
		cmocka_unit_test_teardown(changes_during_calls_are_survived, leave_area),
		cmocka_unit_test(a_fork_leaves_the_link_to_the_parent),
		cmocka_unit_test(the_last_words_before_the_exit_are_not_lost), // the last one: what it tests comes after main
	};
	return cmocka_run_group_tests_name("hook", tests, set_up, clean_up) ? 1 : 0;
}
