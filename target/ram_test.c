// SPDX-License-Identifier: MIT
// Reading past the packets: a broker of the test's own hands out guest RAM, and a kernel in a thread answers what RAM cannot. Their bytes differ, so
// each test sees which way a byte came. Refusals and interruptions first.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target/peer_test.h"
#include "target/ram.h"
#include "target/target.h"
#include "wire/link.h"
#include "wire/stop_page.h"

#define GUARD_MS 20000 // a hang guard, nothing is judged by it
#define MIB 0x100000u
#define RAM_SIZE (8u * MIB)
#define TABLES_AT 0x10000u
#define KERNEL_AT 0x100000u // where the kernel's pages are
#define BIG_AT (4u * MIB)   // two large pages, at BIG in virtual memory
#define BIG 0xFFFFF88000000000ull
#define BIG_SIZE (4u * MIB)
#define ABSENT_AT 0x3000u  // a page of the kernel that the tables do not have, and the kernel does
#define MIRROR_FROM 0x2000u // below, RAM is what the kernel says; above, every bit is the other way round
#define PRESENT 3u
#define LARGE 0x80u

struct broker {
	int fd; // our end of ram.sock
	int page_fd, ram_fd;
	struct stop_page *page;
	uint8_t *ram;
	uint32_t generation;
};

struct session {
	struct broker broker;
	struct peer *peer;
	struct vmkd_target *target;
	uint64_t base;
};

static void must(struct vmkd_error *error)
{
	if (error)
		fail_msg("%s", error->message);
}

// ---- the broker ----------------------------------------------------------------------------------------------------------------

static int make_file(size_t size, unsigned seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void *map_file(int fd, size_t size)
{
	void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(bytes, MAP_FAILED);
	return bytes;
}

static void put_entry(uint8_t *ram, uint64_t table, unsigned index, uint64_t entry)
{
	memcpy(ram + table + index * 8u, &entry, sizeof(entry));
}

// Four levels; for x86 the same three lower ones as PAE has them.
static void put_tables(uint8_t *ram, uint64_t base, bool is_x86)
{
	uint64_t pml4 = TABLES_AT, pdpt = TABLES_AT + 0x1000, pd = TABLES_AT + 0x2000, pt = TABLES_AT + 0x3000;
	uint64_t va = is_x86 ? (uint32_t)base : base;

	put_entry(ram, pml4, va >> 39 & 511, pdpt | PRESENT);
	put_entry(ram, pdpt, va >> 30 & (is_x86 ? 3 : 511), pd | (is_x86 ? 1 : PRESENT));
	put_entry(ram, pd, va >> 21 & 511, pt | PRESENT);
	for (uint64_t at = 0; at < PEER_SIZE; at += 0x1000)
		if (at != ABSENT_AT && at != PEER_HOLE_AT)
			put_entry(ram, pt, (va + at) >> 12 & 511, (KERNEL_AT + at) | PRESENT);
	if (is_x86)
		return;
	put_entry(ram, pml4, BIG >> 39 & 511, (pdpt + 0x4000) | PRESENT);
	put_entry(ram, pdpt + 0x4000, BIG >> 30 & 511, (pd + 0x4000) | PRESENT);
	for (uint64_t i = 0; i < BIG_SIZE / (2 * MIB); i++)
		put_entry(ram, pd + 0x4000, (unsigned)i, (BIG_AT + i * 2 * MIB) | PRESENT | LARGE);
}

static void put_registers(struct stop_page *page, bool is_x86)
{
	page->cr0 = 0x80000011;
	page->cr3 = is_x86 ? TABLES_AT + 0x1000 : TABLES_AT | 0x7; // with a PCID
	page->cr4 = 0x20;
	page->efer = is_x86 ? 0 : 0x500;
}

static struct broker make_broker(int fd, uint64_t base, bool is_x86)
{
	struct broker b = { .fd = fd, .page_fd = make_file(STOP_PAGE_SIZE, F_SEAL_SHRINK), .ram_fd = make_file(RAM_SIZE, 0), .generation = 1 };

	b.page = map_file(b.page_fd, STOP_PAGE_SIZE);
	b.ram = map_file(b.ram_fd, RAM_SIZE);
	*b.page = (struct stop_page){ .owner = 4711, .magic = STOP_PAGE_MAGIC, .version = STOP_PAGE_VERSION, .memory_generation = 1, .epoch = 7 };
	put_registers(b.page, is_x86);
	put_tables(b.ram, base, is_x86);
	for (uint32_t i = 0; i < BIG_SIZE; i += 4)
		memcpy(b.ram + BIG_AT + i, &(uint32_t){ i * 2654435761u }, 4);
	return b;
}

static void end_broker(struct broker *b)
{
	if (b->fd >= 0)
		close(b->fd);
	close(b->page_fd);
	close(b->ram_fd);
	munmap(b->page, STOP_PAGE_SIZE);
	munmap(b->ram, RAM_SIZE);
}

// A message that can be spoilt before it is sent.
struct parcel {
	struct {
		struct link_head head;
		struct link_memory memory;
		uint8_t more[64];
	} bytes;
	size_t len;
	int fds[16];
	uint32_t fd_count;
};

static struct parcel make_parcel(const struct broker *b)
{
	struct parcel p = { .fds = { b->page_fd, b->ram_fd }, .fd_count = 2 };
	uint32_t body = offsetof(struct link_memory, pieces) + sizeof(struct link_memory_piece);

	p.bytes.head = (struct link_head){ .type = LINK_MEMORY, .body_len = body };
	p.bytes.memory = (struct link_memory){ .generation = b->generation, .pid = (uint32_t)getpid(), .piece_count = 1, .file_count = 1 };
	p.bytes.memory.pieces[0] = (struct link_memory_piece){ .gpa = 0, .size = RAM_SIZE };
	p.len = sizeof(p.bytes.head) + body;
	return p;
}

static void send_parcel(const struct broker *b, struct parcel *p)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof(p->fds))];
	} control = { 0 };
	struct iovec part = { .iov_base = &p->bytes, .iov_len = p->len };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };

	if (p->fd_count > 0) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(p->fd_count * sizeof(int));
		control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(p->fd_count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.head), p->fds, p->fd_count * sizeof(int));
	}
	assert_int_equal(sendmsg(b->fd, &header, MSG_NOSIGNAL), (ssize_t)p->len);
}

static void send_map(const struct broker *b)
{
	struct parcel p = make_parcel(b);
	send_parcel(b, &p);
}

// The VMM's private memory: this process stands for it.
static void send_remote(const struct broker *b, pid_t pid)
{
	struct parcel p = make_parcel(b);

	p.bytes.memory.file_count = 0;
	p.bytes.memory.pid = (uint32_t)pid;
	p.bytes.memory.pieces[0].file = LINK_MEMORY_REMOTE;
	p.bytes.memory.pieces[0].at = (uintptr_t)b->ram;
	p.fd_count = 1;
	send_parcel(b, &p);
}

// ---- sessions ------------------------------------------------------------------------------------------------------------------

static struct session open_session(bool is_x86)
{
	struct peer_options options = { .is_stopped = true, .is_x86 = is_x86 };
	struct vmkd_open_options open = { .request_timeout_ms = GUARD_MS, .resend_ms = 300 };
	struct session s = { .base = peer_base(is_x86) };
	struct vmkd_event event;
	int fd, pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	s.peer = peer_start(&options, &fd);
	s.broker = make_broker(pair[0], s.base, is_x86);
	for (uint32_t i = 0; i < PEER_SIZE; i++)
		s.broker.ram[KERNEL_AT + i] = (uint8_t)(peer_byte(s.peer, i) ^ (i < MIRROR_FROM ? 0 : 0xFF));
	must(vmkd_target_open_fd(fd, "peer", &open, &s.target));
	s.target->ram = target_ram_create(pair[1], s.target);
	assert_non_null(s.target->ram);
	must(vmkd_target_wait(s.target, GUARD_MS, &event));
	assert_int_equal(event.kind, VMKD_EVENT_EXCEPTION);
	return s;
}

static void close_session(struct session *s)
{
	vmkd_target_close(s->target);
	peer_stop(s->peer);
	end_broker(&s->broker);
}

static struct session open_mapped(bool is_x86)
{
	struct session s = open_session(is_x86);
	struct vmkd_version version;

	send_map(&s.broker);
	must(vmkd_target_version(s.target, &version)); // until the target has answered, it may have something to say
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_MAPPED);
	return s;
}

// Another stop, as a broker shows it.
static void next_epoch(struct session *s)
{
	s->broker.page->epoch += 2;
}

enum way { FROM_KERNEL, FROM_RAM };

static void check_bytes(struct session *s, const uint8_t *bytes, uint32_t at, size_t len, enum way way)
{
	for (size_t i = 0; i < len; i++) {
		uint32_t offset = at + (uint32_t)i;
		uint8_t flip = way == FROM_RAM && offset >= MIRROR_FROM ? 0xFF : 0;
		if (bytes[i] != (peer_byte(s->peer, offset) ^ flip))
			fail_msg("the byte at %x is %02x, which is not from where it was expected", offset, bytes[i]);
	}
}

static void check_read(struct session *s, uint32_t at, size_t len, enum way way)
{
	uint8_t bytes[PEER_SIZE];
	size_t done = 0;

	memset(bytes, 0x55, sizeof(bytes));
	must(vmkd_target_read(s->target, VMKD_VIRTUAL, s->base + at, bytes, len, &done));
	assert_int_equal(done, len);
	check_bytes(s, bytes, at, len, way);
	assert_true(len == sizeof(bytes) || bytes[len] == 0x55);
}

static void check_fault(struct vmkd_error *error, uint64_t address, size_t done, size_t expected)
{
	if (!error)
		fail_msg("expected a fault at %llx", (unsigned long long)address);
	if (error->code != VMKD_E_FAULT || error->address != address)
		fail_msg("expected a fault at %llx, got: %s", (unsigned long long)address, error->message);
	assert_int_equal(done, expected);
	vmkd_error_destroy(error);
}

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

// ---- what can be wrong with a message ------------------------------------------------------------------------------------------

static void no_descriptors(struct parcel *p)
{
	p->fd_count = 0;
}

static void no_files(struct parcel *p)
{
	p->fd_count = 1;
}

static void a_file_too_many(struct parcel *p)
{
	p->fds[p->fd_count++] = p->fds[1];
}

static void ten_descriptors(struct parcel *p)
{
	p->bytes.memory.file_count = LINK_MEMORY_FILES_MAX;
	p->fd_count = 10;
	for (uint32_t i = 2; i < 10; i++)
		p->fds[i] = p->fds[1];
}

static void sixteen_descriptors(struct parcel *p)
{
	p->fd_count = 16;
	for (uint32_t i = 2; i < 16; i++)
		p->fds[i] = p->fds[1];
}

static void page_is_no_file(struct parcel *p)
{
	p->fds[0] = STDIN_FILENO;
}

static void page_is_ram(struct parcel *p)
{
	p->fds[0] = p->fds[1];
}

static void other_type(struct parcel *p)
{
	p->bytes.head.type = LINK_STATS;
}

static void body_too_long(struct parcel *p)
{
	p->bytes.head.body_len += 32;
}

static void body_too_short(struct parcel *p)
{
	p->bytes.head.body_len -= 32;
}

static void message_is_short(struct parcel *p)
{
	p->len = sizeof(struct link_head) - 1;
}

static void head_alone(struct parcel *p)
{
	p->len = sizeof(struct link_head);
	p->bytes.head.body_len = 0;
}

static void message_is_longer_than_any(struct parcel *p)
{
	p->len = sizeof(p->bytes);
	p->bytes.head.body_len = sizeof(p->bytes.memory); // all that fits is valid
	p->bytes.memory.piece_count = LINK_MEMORY_PIECES_MAX;
	for (uint32_t i = 0; i < LINK_MEMORY_PIECES_MAX; i++)
		p->bytes.memory.pieces[i] = (struct link_memory_piece){ .gpa = i * 0x10000u, .size = 0x10000, .at = i * 0x10000u };
}

static void piece_behind_the_file(struct parcel *p)
{
	p->bytes.memory.pieces[0].at = 0x1000;
}

static void piece_of_another_file(struct parcel *p)
{
	p->bytes.memory.pieces[0].file = 1;
}

static void check_refused(void (*spoil)(struct parcel *), void (*spoil_page)(struct stop_page *), bool is_second)
{
	unsigned before = open_descriptors();
	struct session s = open_session(false);
	struct parcel p = make_parcel(&s.broker);

	if (is_second) { // what came before goes, too
		send_map(&s.broker);
		check_read(&s, 0x2000, 0x100, FROM_RAM);
		p.bytes.memory.generation = ++s.broker.generation;
		s.broker.page->memory_generation = s.broker.generation;
	}
	if (spoil)
		spoil(&p);
	if (spoil_page)
		spoil_page(s.broker.page);
	send_parcel(&s.broker, &p);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	// It hung up, and what comes behind is not looked at.
	assert_int_equal(send(s.broker.fd, "x", 1, MSG_NOSIGNAL), -1);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	close_session(&s);
	assert_int_equal(open_descriptors(), before);
}

static void damaged_messages_are_refused(void **state)
{
	void (*const SPOIL[])(struct parcel *) = {
		no_descriptors, no_files, a_file_too_many, ten_descriptors, sixteen_descriptors, page_is_no_file, page_is_ram,
		other_type, body_too_long, body_too_short, message_is_short, head_alone, message_is_longer_than_any, piece_behind_the_file,
		piece_of_another_file,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(SPOIL) / sizeof(SPOIL[0]); i++) {
		check_refused(SPOIL[i], NULL, false);
		check_refused(SPOIL[i], NULL, true);
	}
}

static void other_magic(struct stop_page *page)
{
	page->magic++;
}

static void other_version(struct stop_page *page)
{
	page->version++;
}

static void pages_of_another_kind_are_refused(void **state)
{
	(void)state;
	check_refused(NULL, other_magic, false);
	check_refused(NULL, other_version, false);
	check_refused(NULL, other_version, true);
}

static void check_page_refused(size_t size, unsigned seals)
{
	struct session s = open_session(false);
	struct parcel p = make_parcel(&s.broker);

	p.fds[0] = make_file(size, seals);
	assert_int_equal(pwrite(p.fds[0], s.broker.page, sizeof(*s.broker.page), 0), (ssize_t)sizeof(*s.broker.page));
	send_parcel(&s.broker, &p);
	close(p.fds[0]);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	close_session(&s);
}

static void a_page_that_is_or_may_become_too_short_is_refused(void **state)
{
	(void)state;
	check_page_refused(sizeof(struct stop_page), F_SEAL_SHRINK);
	check_page_refused(STOP_PAGE_SIZE, F_SEAL_GROW);
}

static void a_broker_that_hangs_up_is_done_without(void **state)
{
	struct session s = open_session(false);

	(void)state;
	close(s.broker.fd);
	s.broker.fd = -1;
	check_read(&s, 0x2000, 0x3000, FROM_KERNEL);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	close_session(&s);
}

static void a_message_that_is_late_is_waited_for_by_nobody(void **state)
{
	struct session s = open_session(false);

	(void)state;
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	send_map(&s.broker);
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	close_session(&s);
}

// ---- when RAM may not be read --------------------------------------------------------------------------------------------------

static void a_guest_that_does_not_sleep_is_asked(void **state)
{
	struct session s = open_mapped(false);

	(void)state;
	s.broker.page->epoch = 8;
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	s.broker.page->epoch = 9; // as after the answer
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	close_session(&s);
}

// The guest was reset and stopped again, and the target has not said so yet: its packet comes first.
static void another_stop_than_the_known_one_is_met_by_packets(void **state)
{
	struct session s = open_mapped(false);

	(void)state;
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	next_epoch(&s);
	uint32_t reads = peer_reads(s.peer);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_int_equal(peer_reads(s.peer), reads + 1);
	check_read(&s, 0x2000, 0x100, FROM_RAM); // the kernel has answered: that is the stop it is in
	assert_int_equal(peer_reads(s.peer), reads + 1);
	close_session(&s);
}

static void what_the_target_said_is_heard_first(void **state)
{
	struct session s = open_mapped(false);
	struct vmkd_event event;

	(void)state;
	do
		must(vmkd_target_wait(s.target, 0, &event));
	while (event.kind != VMKD_EVENT_NONE);
	peer_make_noise(s.peer);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	close_session(&s);
}

static void a_dead_broker_keeps_no_page(void **state)
{
	struct session s = open_mapped(false);

	(void)state;
	s.broker.page->owner |= STOP_PAGE_OWNER_DIED;
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	s.broker.page->owner = 0;
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	close_session(&s);
}

static void a_running_target_is_not_read(void **state)
{
	struct session s = open_mapped(false);
	uint8_t byte;

	(void)state;
	// The peer stops at once again, in another epoch; until that is heard there is nothing to read.
	must(vmkd_target_go(s.target, VMKD_CONTINUE_HANDLED));
	if (vmkd_target_state(s.target) == VMKD_STATE_RUNNING) {
		struct vmkd_error *error = vmkd_target_read(s.target, VMKD_VIRTUAL, s.base, &byte, 1, NULL);
		assert_non_null(error);
		assert_int_equal(error->code, VMKD_E_STATE);
		vmkd_error_destroy(error);
		assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	}
	close_session(&s);
}

// A copy goes to where the broker's page is, so that the copy itself changes what must stand still, at a moment that is certain.
static uint8_t *buffer_over_page(const struct broker *b, size_t before, size_t len)
{
	uint8_t *bytes = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(bytes, MAP_FAILED);
	assert_ptr_not_equal(mmap(bytes + before, STOP_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, b->page_fd, 0), MAP_FAILED);
	return bytes;
}

static void wake_guest(struct stop_page *page)
{
	page->epoch++;
}

static void let_guest_sleep_anew(struct stop_page *page)
{
	page->epoch += 2;
}

static void kill_broker(struct stop_page *page)
{
	page->owner |= STOP_PAGE_OWNER_DIED;
}

static void what_moves_during_a_copy_spoils_it(void **state)
{
	void (*const MOVES[])(struct stop_page *) = { wake_guest, let_guest_sleep_anew, kill_broker };

	(void)state;
	for (size_t i = 0; i < sizeof(MOVES) / sizeof(MOVES[0]); i++) {
		struct session s = open_mapped(false);
		uint8_t *bytes = buffer_over_page(&s.broker, 0, STOP_PAGE_SIZE);
		struct stop_page moved = *s.broker.page;
		MOVES[i](&moved);
		memcpy(s.broker.ram + KERNEL_AT + 0x4000, &moved, sizeof(moved));
		uint32_t reads = peer_reads(s.peer);
		must(vmkd_target_read(s.target, VMKD_VIRTUAL, s.base + 0x4000, bytes, sizeof(moved), NULL));
		check_bytes(&s, bytes, 0x4000, sizeof(moved), FROM_KERNEL);
		assert_int_equal(peer_reads(s.peer), reads + 1);
		munmap(bytes, STOP_PAGE_SIZE);
		close_session(&s);
	}
}

// The guest wakes up in the third MiB; the kernel does not have this memory. What came before is told and true.
static void an_interrupted_read_tells_how_far_it_came(void **state)
{
	struct session s = open_mapped(false);
	size_t done = 0, at = 2 * MIB + 0x5000;
	uint8_t *bytes = buffer_over_page(&s.broker, at, BIG_SIZE);
	struct stop_page moved = *s.broker.page;

	(void)state;
	wake_guest(&moved);
	memcpy(s.broker.ram + BIG_AT + at, &moved, sizeof(moved));
	struct vmkd_error *error = vmkd_target_read(s.target, VMKD_VIRTUAL, BIG, bytes, BIG_SIZE, &done);
	check_fault(error, BIG + done, done, done);
	assert_true(done >= MIB && done <= at);
	assert_memory_equal(bytes, s.broker.ram + BIG_AT, done);
	munmap(bytes, BIG_SIZE);
	close_session(&s);
}

// ---- what RAM cannot answer ----------------------------------------------------------------------------------------------------

static void an_absent_page_is_asked_for_and_the_rest_is_not(void **state)
{
	struct session s = open_mapped(false);
	uint8_t bytes[PEER_HOLE_AT];
	size_t done;
	uint32_t reads = 0;

	(void)state;
	check_read(&s, 0, 1, FROM_RAM);
	reads = peer_reads(s.peer);
	must(vmkd_target_read(s.target, VMKD_VIRTUAL, s.base, bytes, sizeof(bytes), &done));
	assert_int_equal(done, sizeof(bytes));
	check_bytes(&s, bytes, 0, ABSENT_AT, FROM_RAM);
	check_bytes(&s, bytes + ABSENT_AT, ABSENT_AT, 0x1000, FROM_KERNEL);
	check_bytes(&s, bytes + 0x5000, 0x5000, 0x1000, FROM_RAM);
	assert_int_equal(peer_reads(s.peer), reads + 2); // 3944 bytes, and what the page has left
	close_session(&s);
}

static void a_hole_is_the_same_fault(void **state)
{
	struct session s = open_mapped(false);
	uint8_t bytes[PEER_SIZE];
	size_t done = 0;

	(void)state;
	struct vmkd_error *error = vmkd_target_read(s.target, VMKD_VIRTUAL, s.base + 0x5123, bytes, 0x2000, &done);
	check_fault(error, s.base + PEER_HOLE_AT, done, PEER_HOLE_AT - 0x5123);
	check_bytes(&s, bytes, 0x5123, done, FROM_RAM);
	error = vmkd_target_read(s.target, VMKD_VIRTUAL, s.base + PEER_HOLE_AT + 5, bytes, 1, &done);
	check_fault(error, s.base + PEER_HOLE_AT + 5, done, 0);
	error = vmkd_target_read(s.target, VMKD_PHYSICAL, RAM_SIZE - 3, bytes, 16, &done);
	check_fault(error, RAM_SIZE, done, 3);
	close_session(&s);
}

static void a_newer_map_is_fetched(void **state)
{
	struct session s = open_mapped(false);
	int old = s.broker.ram_fd;

	(void)state;
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	// The page is ahead of the message: there is no map for this epoch.
	s.broker.page->memory_generation = ++s.broker.generation;
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	// Other files, other bytes.
	s.broker.ram_fd = make_file(RAM_SIZE, 0);
	uint8_t *ram = map_file(s.broker.ram_fd, RAM_SIZE);
	memcpy(ram, s.broker.ram, RAM_SIZE);
	memset(s.broker.ram + KERNEL_AT, 0xEE, PEER_SIZE); // nothing comes from the old one any more
	munmap(s.broker.ram, RAM_SIZE);
	close(old);
	s.broker.ram = ram;
	send_map(&s.broker);
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_MAPPED);
	close_session(&s);
}

// ---- what must work ------------------------------------------------------------------------------------------------------------

static void any_range_comes_from_ram(void **state)
{
	struct session s = open_mapped(false);
	static const struct {
		uint32_t at;
		size_t len;
	} RANGES[] = { { 0, 0 }, { 0x2000, 1 }, { 0x2FFF, 1 }, { 0x2001, 0xFFF }, { 0x4FFF, 2 }, { 0x4321, 0x1CDF }, { 0x7000, 0x1000 }, { 0, ABSENT_AT } };

	(void)state;
	check_read(&s, 0x2000, 1, FROM_RAM); // learns what there is to learn
	uint32_t reads = peer_reads(s.peer);
	for (size_t i = 0; i < sizeof(RANGES) / sizeof(RANGES[0]); i++)
		check_read(&s, RANGES[i].at, RANGES[i].len, FROM_RAM);
	assert_int_equal(peer_reads(s.peer), reads);
	close_session(&s);
}

static void large_reads_come_whole(void **state)
{
	struct session s = open_mapped(false);
	uint8_t *bytes = malloc(BIG_SIZE);
	size_t done = 0;

	(void)state;
	assert_non_null(bytes);
	must(vmkd_target_read(s.target, VMKD_VIRTUAL, BIG + 0x1FFFF1, bytes, BIG_SIZE - 0x1FFFF1, &done));
	assert_int_equal(done, BIG_SIZE - 0x1FFFF1);
	assert_memory_equal(bytes, s.broker.ram + BIG_AT + 0x1FFFF1, done);
	must(vmkd_target_read(s.target, VMKD_PHYSICAL, BIG_AT + 5, bytes, BIG_SIZE - 5, &done));
	assert_memory_equal(bytes, s.broker.ram + BIG_AT + 5, BIG_SIZE - 5);
	free(bytes);
	close_session(&s);
}

static uint64_t find(struct session *s, uint64_t address, uint64_t len, const void *pattern, size_t pattern_len)
{
	uint64_t at = 0;
	struct vmkd_error *error = vmkd_target_search(s->target, address, len, pattern, pattern_len, &at);

	if (error && error->code != VMKD_E_NOT_FOUND)
		fail_msg("%s", error->message);
	vmkd_error_destroy(error);
	return at;
}

static void patterns_are_found_without_a_packet(void **state)
{
	struct session s = open_mapped(false);
	const uint8_t *big = s.broker.ram + BIG_AT;
	uint32_t reads = peer_reads(s.peer);

	(void)state;
	for (uint32_t at = 0xFFF0; at < 0x10010; at++) // wherever one stretch ends and the next begins
		assert_int_equal(find(&s, BIG, BIG_SIZE, big + at, 16), BIG + at);
	assert_int_equal(find(&s, BIG, BIG_SIZE, big + BIG_SIZE - 8, 8), BIG + BIG_SIZE - 8);
	assert_int_equal(find(&s, BIG + 1, 0x1000 - 1, big + 0x800, 5), BIG + 0x800);
	assert_int_equal(peer_reads(s.peer), reads);
	// Its last byte is outside: whether that counts is the kernel's affair, and this one leaves it to us.
	assert_int_equal(find(&s, BIG, 0x807, big + 0x800, 8), 0);
	assert_int_equal(find(&s, BIG, 0x1000, "\x01\x02\x03\x04\x05\x06\x07", 7), 0);
	s.broker.ram[KERNEL_AT + 0x2222] = 0x5A;
	s.broker.ram[KERNEL_AT + 0x2223] = 0xA5;
	assert_int_equal(find(&s, s.base + 0x2000, 0x1000, "\x5A\xA5", 2), s.base + 0x2222);
	memset(s.broker.ram + KERNEL_AT + 0x2000, 0, 0x1000);
	assert_int_equal(find(&s, s.base + 0x2000, 0x1000, "\xFE", 1), 0);
	close_session(&s);
}

// The match begins in RAM and ends in a page that only the kernel has; the one behind a hole is found, too.
static void patterns_that_leave_ram_are_found(void **state)
{
	struct session s = open_mapped(false);
	uint8_t pattern[8];

	(void)state;
	for (uint32_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(peer_byte(s.peer, ABSENT_AT - 4 + i) ^ (i < 4 ? 0xFF : 0));
	assert_int_equal(find(&s, s.base + 0x2000, 0x2000, pattern, sizeof(pattern)), s.base + ABSENT_AT - 4);
	memset(pattern, 0xAA, sizeof(pattern));
	memcpy(s.broker.ram + KERNEL_AT + 0x7123, pattern, sizeof(pattern));
	assert_int_equal(find(&s, s.base + 0x5000, 0x3000, pattern, sizeof(pattern)), s.base + 0x7123);
	close_session(&s);
}

static void each_stop_has_its_own_tables(void **state)
{
	struct session s = open_mapped(false);

	(void)state;
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	// Another process's tables, with nothing in them.
	s.broker.page->cr3 = 0x300000;
	next_epoch(&s);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	s.broker.page->cr3 = TABLES_AT;
	next_epoch(&s);
	check_read(&s, 0x2000, 0x100, FROM_RAM);
	close_session(&s);
}

static void addresses_of_32_bits_are_found(void **state)
{
	struct session s = open_mapped(true);
	uint8_t bytes[0x100];

	(void)state;
	check_read(&s, 0x2F80, 0x80, FROM_RAM);
	check_read(&s, 0x4F80, 0x100, FROM_RAM);
	must(vmkd_target_read(s.target, VMKD_VIRTUAL, 0xFFFFFFFF00000000ull | (s.base + 0x2345), bytes, sizeof(bytes), NULL));
	check_bytes(&s, bytes, 0x2345, sizeof(bytes), FROM_RAM);
	close_session(&s);
}

static void breakpoints_do_not_show(void **state)
{
	struct session s = open_mapped(false);
	uint32_t id, at = 0x2222;

	(void)state;
	must(vmkd_breakpoint_set(s.target, s.base + at, false, &id)); // its byte was read from RAM
	s.broker.ram[KERNEL_AT + at] = 0xCC; // as the kernel writes it
	uint8_t bytes[3];
	must(vmkd_target_read(s.target, VMKD_VIRTUAL, s.base + at - 1, bytes, sizeof(bytes), NULL));
	assert_int_equal(bytes[0], peer_byte(s.peer, at - 1) ^ 0xFF);
	assert_int_equal(bytes[1], (uint8_t)((at * 7 + (at >> 8)) ^ 0xFF));
	assert_int_equal(bytes[2], peer_byte(s.peer, at + 1) ^ 0xFF);
	close_session(&s);
}

static void private_memory_is_read_from_its_process(void **state)
{
	struct session s = open_session(false);

	(void)state;
	send_remote(&s.broker, getpid());
	check_read(&s, 0x2F80, 0x80, FROM_RAM);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PROCESS);
	check_read(&s, 0x4321, 0x1CDF, FROM_RAM);
	close_session(&s);
}

static void a_process_that_cannot_be_read_is_done_without(void **state)
{
	struct session s = open_session(false);
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	send_remote(&s.broker, pid);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_int_equal(vmkd_target_memory_way(s.target), VMKD_MEMORY_PACKETS);
	close_session(&s);
}

// ---- vm:NAME -------------------------------------------------------------------------------------------------------------------

static int listen_at(const char *folder, const char *name, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/x/%s", folder, name);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static bool was_called(int listener)
{
	int fd = accept(listener, NULL, NULL);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void check_vm(const char *url, bool no_ram, int ram, bool is_called)
{
	struct vmkd_open_options options = { .no_ram = no_ram };
	struct vmkd_target *target;

	must(vmkd_target_open(url, &options, &target));
	assert_int_equal(was_called(ram), is_called);
	vmkd_target_close(target);
}

static void only_a_vm_is_asked_for_its_ram(void **state)
{
	char folder[] = "/tmp/vmkd-ram-test-XXXXXX", path[64], url[80];

	(void)state;
	assert_non_null(mkdtemp(folder));
	setenv("VMKD_RUNTIME_DIR", folder, 1);
	snprintf(path, sizeof(path), "%s/x", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	int kd = listen_at(folder, "kd.sock", SOCK_STREAM), ram = listen_at(folder, "ram.sock", SOCK_SEQPACKET);
	snprintf(url, sizeof(url), "unix:%s/x/kd.sock", folder);
	check_vm("vm:x", false, ram, true);
	check_vm("vm:x", true, ram, false);
	check_vm(url, false, ram, false);
	close(ram);
	check_vm("vm:x", false, -1, false); // a broker without
	close(kd);
	snprintf(path, sizeof(path), "%s/x/kd.sock", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/x/ram.sock", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/x", folder);
	rmdir(path);
	rmdir(folder);
}

// It hangs up on a program that let many maps go by unread.
static void a_broker_that_lost_patience_is_called_again(void **state)
{
	char folder[] = "/tmp/vmkd-ram-test-XXXXXX", path[64];
	struct session s = open_mapped(false);

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/x", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	int listener = listen_at(folder, "ram.sock", SOCK_SEQPACKET);
	snprintf(path, sizeof(path), "%s/x/ram.sock", folder);
	target_ram_destroy(s.target->ram);
	s.target->ram = target_ram_connect(path, s.target);
	for (int i = 0; i < 3; i++) {
		close(s.broker.fd);
		s.broker.fd = accept(listener, NULL, NULL);
		assert_true(s.broker.fd >= 0);
		send_map(&s.broker);
		check_read(&s, 0x2000, 0x100, FROM_RAM);
		shutdown(s.broker.fd, SHUT_RDWR);
		s.broker.page->memory_generation = ++s.broker.generation;
		check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	}
	assert_true(was_called(listener)); // and hung up without a word: that was the last call
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	check_read(&s, 0x2000, 0x100, FROM_KERNEL);
	assert_false(was_called(listener));
	close(listener);
	unlink(path);
	snprintf(path, sizeof(path), "%s/x", folder);
	rmdir(path);
	rmdir(folder);
	close_session(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_messages_are_refused),
		cmocka_unit_test(pages_of_another_kind_are_refused),
		cmocka_unit_test(a_page_that_is_or_may_become_too_short_is_refused),
		cmocka_unit_test(a_broker_that_hangs_up_is_done_without),
		cmocka_unit_test(a_message_that_is_late_is_waited_for_by_nobody),
		cmocka_unit_test(a_guest_that_does_not_sleep_is_asked),
		cmocka_unit_test(another_stop_than_the_known_one_is_met_by_packets),
		cmocka_unit_test(what_the_target_said_is_heard_first),
		cmocka_unit_test(a_dead_broker_keeps_no_page),
		cmocka_unit_test(a_running_target_is_not_read),
		cmocka_unit_test(what_moves_during_a_copy_spoils_it),
		cmocka_unit_test(an_interrupted_read_tells_how_far_it_came),
		cmocka_unit_test(an_absent_page_is_asked_for_and_the_rest_is_not),
		cmocka_unit_test(a_hole_is_the_same_fault),
		cmocka_unit_test(a_newer_map_is_fetched),
		cmocka_unit_test(any_range_comes_from_ram),
		cmocka_unit_test(large_reads_come_whole),
		cmocka_unit_test(patterns_are_found_without_a_packet),
		cmocka_unit_test(patterns_that_leave_ram_are_found),
		cmocka_unit_test(each_stop_has_its_own_tables),
		cmocka_unit_test(addresses_of_32_bits_are_found),
		cmocka_unit_test(breakpoints_do_not_show),
		cmocka_unit_test(private_memory_is_read_from_its_process),
		cmocka_unit_test(a_process_that_cannot_be_read_is_done_without),
		cmocka_unit_test(only_a_vm_is_asked_for_its_ram),
		cmocka_unit_test(a_broker_that_lost_patience_is_called_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
