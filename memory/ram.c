// SPDX-License-Identifier: MIT
#include "memory/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define PAGE 4096u
#define LINE 64u // of a cache

void ram_init(struct ram *ram)
{
	*ram = (struct ram){ 0 };
}

void ram_deinit(struct ram *ram)
{
	for (uint32_t i = 0; i < ram->file_count; i++)
		munmap((void *)ram->files[i].host, ram->files[i].size);
	if (ram->is_guarded && ram->process_fd >= 0)
		close(ram->process_fd);
	ram_init(ram);
}

static bool head_is_valid(const struct link_memory *m, size_t len, uint32_t fd_count)
{
	if (len < offsetof(struct link_memory, pieces))
		return false;
	if (m->piece_count > LINK_MEMORY_PIECES_MAX || len != offsetof(struct link_memory, pieces) + m->piece_count * sizeof(m->pieces[0]))
		return false;
	return m->file_count <= LINK_MEMORY_FILES_MAX && m->file_count == fd_count && m->is_cut <= 1 && m->is_permitted <= 1;
}

// Whole pages that end within 64 bits, here and there.
static bool is_range(uint64_t gpa, uint64_t at, uint64_t size)
{
	uint64_t end;

	return size && !((gpa | at | size) % PAGE) && !__builtin_add_overflow(gpa, size, &end) && !__builtin_add_overflow(at, size, &end);
}

static bool pieces_are_valid(const struct link_memory *m)
{
	uint64_t end = 0; // of the piece before

	for (uint32_t i = 0; i < m->piece_count; i++) {
		const struct link_memory_piece *p = &m->pieces[i];
		bool is_remote = p->file == LINK_MEMORY_REMOTE;

		if (p->reserved || !is_range(p->gpa, p->at, p->size) || p->gpa < end)
			return false;
		if (is_remote ? !m->pid || m->pid > INT_MAX : p->file >= m->file_count)
			return false;
		end = p->gpa + p->size;
	}
	return true;
}

static int map_files(struct ram *ram, const int *fds, uint32_t count)
{
	for (; ram->file_count < count; ram->file_count++) {
		struct stat st;
		void *host;

		if (fstat(fds[ram->file_count], &st) < 0)
			return RAM_E_MAP;
		host = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fds[ram->file_count], 0);
		if (host == MAP_FAILED)
			return RAM_E_MAP;
		ram->files[ram->file_count] = (struct ram_file){ .host = host, .size = (uint64_t)st.st_size };
	}
	return RAM_OK;
}

// Everything but the files' ends is known to be valid.
static int place_pieces(struct ram *ram, const struct link_memory *m)
{
	for (; ram->piece_count < m->piece_count; ram->piece_count++) {
		const struct link_memory_piece *p = &m->pieces[ram->piece_count];
		struct ram_piece *piece = &ram->pieces[ram->piece_count];

		*piece = (struct ram_piece){ .gpa = p->gpa, .size = p->size };
		if (p->file == LINK_MEMORY_REMOTE) {
			piece->remote = p->at;
			continue;
		}
		if (p->at + p->size > ram->files[p->file].size)
			return RAM_E_MESSAGE;
		piece->host = ram->files[p->file].host + p->at;
	}
	return RAM_OK;
}

int ram_take(struct ram *ram, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	struct ram fresh;
	int rc, saved_errno;

	if (!head_is_valid(m, len, fd_count) || !pieces_are_valid(m))
		return RAM_E_MESSAGE;
	fresh = (struct ram){ .pid = (pid_t)m->pid, .generation = m->generation };
	rc = map_files(&fresh, fds, fd_count);
	if (!rc)
		rc = place_pieces(&fresh, m);
	saved_errno = errno;
	ram_deinit(rc ? &fresh : ram);
	errno = saved_errno;
	if (!rc)
		*ram = fresh;
	return rc;
}

void ram_guard(struct ram *ram, uid_t owner)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", (int)ram->pid);
	ram->process_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	ram->owner = owner;
	ram->is_guarded = true;
}

// The folder is this process's and no later one's. Files in it belong to root while the process has, or may still know, what its user may not see
// (proc(5), "dumpable"), and are gone when it is.
static bool is_owners(const struct ram *ram)
{
	struct stat st;

	return !ram->is_guarded || (ram->process_fd >= 0 && fstatat(ram->process_fd, "status", &st, 0) == 0 && st.st_uid == ram->owner);
}

static const struct ram_piece *piece_at(const struct ram *ram, uint64_t gpa)
{
	uint32_t low = 0, high = ram->piece_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		const struct ram_piece *p = &ram->pieces[middle];

		if (gpa < p->gpa)
			high = middle;
		else if (gpa - p->gpa >= p->size)
			low = middle + 1;
		else
			return p;
	}
	return NULL;
}

// Past the caches, as libc copies what is too large for them: the destination's lines need not be read first. libc judges by one piece, and a
// large read of scattered pages is many small ones: 256 MiB in them at 0.65 of one memcpy instead of 0.55, in 2 MiB pages 0.9 instead of 0.7.
// next: where the next piece begins, or NULL; the processor's own prefetching ends with the page.
static void copy_past_caches(uint8_t *to, const uint8_t *from, size_t len, const uint8_t *next)
{
#ifdef __SSE2__
	size_t head = -(uintptr_t)to % LINE;

	if (head > len)
		head = len;
	memcpy(to, from, head);
	for (to += head, from += head, len -= head; len >= LINE; to += LINE, from += LINE, len -= LINE) {
		if (next && len <= PAGE)
			__builtin_prefetch(next + (PAGE - len));
		for (unsigned i = 0; i < LINE; i += sizeof(__m128i))
			_mm_stream_si128((__m128i *)(void *)(to + i), _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
	}
#else
	(void)next;
#endif
	memcpy(to, from, len);
}

// One ram_read_spans under way.
struct copying {
	const struct ram *ram;
	uint8_t *to;         // where the next byte goes
	bool is_bulk;
	const uint8_t *next; // where the next span is mapped, or NULL; for prefetching only
	// What process_vm_readv is to copy there.
	size_t len; // bytes of all parts
	uint32_t count;
	struct iovec parts[RAM_SPANS_MAX];
};

// -> everything could be read; either way nothing is put off any more
static bool read_parts(struct copying *c)
{
	struct iovec *parts = c->parts, *end = c->parts + c->count;
	size_t rest = c->len;

	c->len = c->count = 0;
	while (rest) {
		struct iovec to = { .iov_base = c->to, .iov_len = rest };
		ssize_t n = process_vm_readv(c->ram->pid, &to, 1, parts, (unsigned long)(end - parts), 0);

		if (n <= 0)
			break;
		c->to += n;
		rest -= (size_t)n;
		// A short answer ends where a page could not be read, or because there is a limit to one call: the next one tells.
		for (; parts < end && (size_t)n >= parts->iov_len; parts++)
			n -= (ssize_t)parts->iov_len;
		if (n) {
			parts->iov_base = (uint8_t *)parts->iov_base + n;
			parts->iov_len -= (size_t)n;
		}
	}
	return !rest;
}

// As read_parts. What was read is the owner's if the process was his before, and still is.
static bool copy_remote(struct copying *c)
{
	uint8_t *start = c->to;
	bool is_all = is_owners(c->ram) && read_parts(c);

	c->len = c->count = 0;
	if (c->to == start || is_owners(c->ram))
		return is_all;
	c->to = start;
	return false;
}

static void copy_mapped(struct copying *c, const uint8_t *from, size_t len)
{
	if (c->is_bulk)
		copy_past_caches(c->to, from, len, c->next);
	else
		memcpy(c->to, from, len);
	c->to += len;
}

// Copies what is mapped, puts off what is remote. -> nothing is missing so far
static bool copy_span(struct copying *c, struct ram_span span)
{
	while (span.len) {
		const struct ram_piece *p = piece_at(c->ram, span.gpa);
		uint64_t offset, rest;
		size_t n;

		if (!p)
			return false;
		offset = span.gpa - p->gpa;
		rest = p->size - offset;
		n = span.len < rest ? span.len : (size_t)rest;
		if ((p->host || c->count == RAM_SPANS_MAX) && c->count && !copy_remote(c))
			return false;
		if (p->host) {
			copy_mapped(c, p->host + offset, n);
		} else {
			c->parts[c->count++] = (struct iovec){ .iov_base = (void *)(uintptr_t)(p->remote + offset), .iov_len = n };
			c->len += n;
		}
		span.gpa += n;
		span.len -= n;
	}
	return true;
}

size_t ram_read_spans(const struct ram *ram, const struct ram_span *spans, uint32_t count, bool is_bulk, void *ret)
{
	struct copying c;

	c.ram = ram;
	c.to = ret;
	c.is_bulk = is_bulk;
	c.len = c.count = 0; // the parts need no clearing, which would cost more than a small read
	for (uint32_t i = 0; i < count; i++) {
		c.next = is_bulk && i + 1 < count ? ram_at(ram, spans[i + 1].gpa, 1) : NULL;
		if (!copy_span(&c, spans[i]))
			break;
	}
	if (c.count)
		(void)copy_remote(&c); // c.to says how far
#ifdef __SSE2__
	if (is_bulk)
		_mm_sfence();
#endif
	return (size_t)(c.to - (uint8_t *)ret);
}

size_t ram_read(const struct ram *ram, uint64_t gpa, void *ret, size_t len)
{
	return ram_read_spans(ram, &(struct ram_span){ .gpa = gpa, .len = len }, 1, len >= RAM_BULK_BYTES, ret);
}

const uint8_t *ram_at(const struct ram *ram, uint64_t gpa, size_t len)
{
	const struct ram_piece *p = piece_at(ram, gpa);

	if (!p || !p->host || p->size - (gpa - p->gpa) < len)
		return NULL;
	return p->host + (gpa - p->gpa);
}
