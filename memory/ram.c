// SPDX-License-Identifier: MIT
#include "memory/ram.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define PAGE_MASK 4095u

void ram_init(struct ram *ram)
{
	*ram = (struct ram){ 0 };
}

void ram_deinit(struct ram *ram)
{
	for (uint32_t i = 0; i < ram->file_count; i++)
		munmap((void *)ram->files[i].host, ram->files[i].size);
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

	return size && !((gpa | at | size) & PAGE_MASK) && !__builtin_add_overflow(gpa, size, &end) && !__builtin_add_overflow(at, size, &end);
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

// What process_vm_readv is to copy, one behind the other into `to`.
struct batch {
	uint8_t *to;
	size_t len; // bytes of all
	uint32_t count;
	struct iovec parts[RAM_SPANS_MAX];
};

// -> everything could be read; *done grows by what could.
static bool batch_read(const struct ram *ram, struct batch *batch, size_t *done)
{
	struct iovec *parts = batch->parts;
	size_t at = 0;

	while (at < batch->len) {
		struct iovec to = { .iov_base = batch->to + at, .iov_len = batch->len - at };
		ssize_t n = process_vm_readv(ram->pid, &to, 1, parts, batch->parts + batch->count - parts, 0);

		if (n <= 0)
			break;
		at += (size_t)n;
		// A short answer ends where a page could not be read, or because there is a limit to one call: the next one tells.
		for (; parts < batch->parts + batch->count && (size_t)n >= parts->iov_len; parts++)
			n -= (ssize_t)parts->iov_len;
		if (n) {
			parts->iov_base = (uint8_t *)parts->iov_base + n;
			parts->iov_len -= (size_t)n;
		}
	}
	*done += at;
	at = batch->len - at;
	batch->len = batch->count = 0;
	return !at;
}

static void batch_add(struct batch *batch, uint8_t *to, uint64_t from, size_t len)
{
	if (!batch->count)
		batch->to = to;
	batch->parts[batch->count++] = (struct iovec){ .iov_base = (void *)(uintptr_t)from, .iov_len = len };
	batch->len += len;
}

// One span of ram_read_spans: copies what is mapped, puts off what is remote. -> nothing is missing so far
static bool span_read(const struct ram *ram, struct batch *batch, struct ram_span span, uint8_t *to, size_t *done)
{
	while (span.len) {
		const struct ram_piece *p = piece_at(ram, span.gpa);
		uint64_t offset, rest;
		size_t n;

		if (!p)
			return false;
		offset = span.gpa - p->gpa;
		rest = p->size - offset;
		n = span.len < rest ? span.len : (size_t)rest;
		if ((p->host || batch->count == RAM_SPANS_MAX) && batch->count && !batch_read(ram, batch, done))
			return false;
		if (p->host) {
			memcpy(to + *done, p->host + offset, n);
			*done += n;
		} else {
			batch_add(batch, to + *done + batch->len, p->remote + offset, n);
		}
		span.gpa += n;
		span.len -= n;
	}
	return true;
}

size_t ram_read_spans(const struct ram *ram, const struct ram_span *spans, uint32_t count, void *ret)
{
	struct batch batch;
	size_t done = 0;

	batch.len = batch.count = 0;
	for (uint32_t i = 0; i < count; i++)
		if (!span_read(ram, &batch, spans[i], ret, &done))
			break;
	if (batch.count)
		(void)batch_read(ram, &batch, &done); // `done` says how far
	return done;
}

size_t ram_read(const struct ram *ram, uint64_t gpa, void *ret, size_t len)
{
	return ram_read_spans(ram, &(struct ram_span){ .gpa = gpa, .len = len }, 1, ret);
}

const uint8_t *ram_at(const struct ram *ram, uint64_t gpa, size_t len)
{
	const struct ram_piece *p = piece_at(ram, gpa);

	if (!p || !p->host || p->size - (gpa - p->gpa) < len)
		return NULL;
	return p->host + (gpa - p->gpa);
}

bool ram_is_mapped(const struct ram *ram)
{
	for (uint32_t i = 0; i < ram->piece_count; i++)
		if (!ram->pieces[i].host)
			return false;
	return ram->piece_count;
}
