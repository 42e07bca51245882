// SPDX-License-Identifier: MIT
// RAM, registers and reads from the input. A read must give what page by page walks and reads give, with and without a cache, mapped and
// remote; a page that is found must be aligned and hold its address.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/walk.h"

#define PAGE 4096u
#define LOW_PAGES 8u
#define HIGH_PAGES 4u
#define HIGH 0x40000000u // where a 1 GiB page may point to
#define RAM_BYTES ((LOW_PAGES + HIGH_PAGES) * PAGE)
#define READ_MAX (5u * PAGE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *host;
static struct ram mapped, remote;

static void must(bool is_so)
{
	if (!is_so)
		abort();
}

static void make_ram(void)
{
	struct link_memory m = { .generation = 1, .pid = (uint32_t)getpid(), .piece_count = 2, .file_count = 1 };
	const size_t len = offsetof(struct link_memory, pieces) + 2 * sizeof(m.pieces[0]);
	int fd = memfd_create("vmkd-walk_fuzz", MFD_CLOEXEC);

	must(fd >= 0 && !ftruncate(fd, RAM_BYTES));
	host = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(host != MAP_FAILED);
	m.pieces[0] = (struct link_memory_piece){ .gpa = 0, .size = LOW_PAGES * PAGE };
	m.pieces[1] = (struct link_memory_piece){ .gpa = HIGH, .size = HIGH_PAGES * PAGE, .at = LOW_PAGES * PAGE };
	must(ram_take(&mapped, &m, len, &fd, 1) == RAM_OK);
	m.file_count = 0;
	for (unsigned i = 0; i < 2; i++) {
		m.pieces[i].at += (uintptr_t)host;
		m.pieces[i].file = LINK_MEMORY_REMOTE;
	}
	must(ram_take(&remote, &m, len, NULL, 0) == RAM_OK);
}

// The plain way: one page, one walk.
static size_t read_plainly(const struct walk_regs *regs, uint64_t va, uint8_t *ret, size_t len, int *ret_why)
{
	struct walk_page page;
	size_t done = 0, n, got;

	for (*ret_why = WALK_OK; done < len; done += got) {
		uint64_t at = va + done;

		*ret_why = at < va ? WALK_E_ADDRESS : walk_find(&mapped, regs, at, &page);
		if (*ret_why)
			break;
		must(page.size >= PAGE && !(page.size & (page.size - 1)) && !((page.va | page.gpa) % page.size) && at - page.va < page.size);
		must(page.gpa < 1ull << 52);
		n = PAGE - at % PAGE < len - done ? PAGE - at % PAGE : len - done;
		got = ram_read(&mapped, page.gpa + (at - page.va), ret + done, n);
		if (got < n) {
			*ret_why = WALK_E_TABLE;
			return done + got;
		}
	}
	return done;
}

static void expect_reads(const struct walk_regs *regs, struct walk_cache caches[2], uint64_t va, size_t len)
{
	static uint8_t plain[READ_MAX], got[READ_MAX];
	int plain_why;
	size_t n = read_plainly(regs, va, plain, len, &plain_why);

	for (int i = 0; i < 3; i++) {
		enum walk_outcome why = WALK_OK;

		must(walk_read(i < 2 ? &mapped : &remote, regs, i ? &caches[i - 1] : NULL, va, got, len, &why) == n && !memcmp(plain, got, n));
		must((int)why == plain_why);
	}
}

// The registers' bits that matter, from one byte; each input is tried in its mode, and hardly any is lost to an impossible one.
static struct walk_regs make_regs(uint8_t bits, uint64_t cr3)
{
	struct walk_regs regs = { .cr0 = 0x11, .cr3 = cr3 };

	regs.cr0 |= bits & 1 ? 0x80000000u : 0;
	regs.cr4 = (bits & 2 ? 0x20u : 0) | (bits & 4 ? 0x1000u : 0) | (bits & 8 ? 0x10u : 0);
	regs.efer = (bits & 16 ? 0x500u : 0) | (bits & 32 ? 0x800u : 0) | (bits & 64 ? 0x100u : 0);
	return regs;
}

// Input: registers' bits, CR3, a count of reads, the reads { va, length in units of 5 bytes }, then RAM, of which the rest is 0.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct walk_cache caches[2];
	struct walk_regs regs;
	uint64_t va;
	unsigned reads;

	if (!host)
		make_ram();
	if (size < 10)
		return 0;
	memcpy(&va, data + 1, 8);
	regs = make_regs(data[0], va);
	reads = data[9] % 8;
	data += 10;
	size -= 10;
	if (size < reads * 10u)
		return 0;
	memset(host, 0, RAM_BYTES);
	memcpy(host, data + reads * 10u, size - reads * 10u < RAM_BYTES ? size - reads * 10u : RAM_BYTES);
	walk_cache_clear(&caches[0]);
	walk_cache_clear(&caches[1]);
	for (; reads; reads--, data += 10) {
		size_t len = (data[8] | (size_t)data[9] << 8) * 5 % READ_MAX;

		memcpy(&va, data, 8);
		expect_reads(&regs, caches, va, len);
	}
	return 0;
}
