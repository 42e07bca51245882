// SPDX-License-Identifier: MIT
// Memory of any length on requests of at most KD_DATA_MAX bytes.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "target/error.h"
#include "target/ram.h"
#include "target/target.h"

#define PAGE 0x1000u
#define WINDOW_SIZE 0x10000u // searched at a time

static const char *space_name(enum vmkd_space space)
{
	return space == VMKD_PHYSICAL ? "physical " : "";
}

static struct vmkd_error *check_range(uint64_t address, uint64_t len, uint64_t last)
{
	if (len == 0 || len - 1 <= last - address)
		return NULL;
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected a range that ends at %" PRIx64 " at most, got %" PRIx64 " and %" PRIx64 " bytes", last,
				 address, len);
}

static struct vmkd_error *fault(enum vmkd_space space, uint64_t address, uint32_t status, const char *verb)
{
	return error_fault(address, status, "cannot %s %smemory at %" PRIx64 " (status %08" PRIx32 "): %s", verb, space_name(space), address,
			   status, space == VMKD_PHYSICAL ? "is there RAM?" : "it is not mapped, or paged out");
}

// Learns the machine (for addresses), checks the range, and makes *address the plain form. A NULL entry of the table is named.
static struct vmkd_error *prepare(struct vmkd_target *target, enum vmkd_space space, uint64_t *address, uint64_t len)
{
	struct vmkd_error *error = target_learn(target);

	if (error)
		return error;
	uint64_t last = space == VMKD_VIRTUAL && target_is_x86(target) ? UINT32_MAX : UINT64_MAX;
	*address &= last;
	return check_range(*address, len, last);
}

static uint64_t wire_address(const struct vmkd_target *target, enum vmkd_space space, uint64_t address)
{
	return space == VMKD_VIRTUAL ? target_address_in(target, address) : address;
}

static uint32_t chunk_of(size_t left)
{
	return left < KD_DATA_MAX ? (uint32_t)left : KD_DATA_MAX;
}

// Zero bytes done need not mean that the first byte fails: some targets give all or nothing for a request. So a chunk that fails is asked
// for again up to its page's end before it counts.
static struct vmkd_error *read_chunk(struct vmkd_target *target, enum vmkd_space space, uint64_t address, uint8_t *buffer, uint32_t len,
				     uint32_t *ret_done, uint32_t *ret_status)
{
	struct backend *backend = target->backend;
	uint64_t at = wire_address(target, space, address);
	struct vmkd_error *error = backend->ops->read(backend, space, at, buffer, len, ret_done, ret_status);
	uint32_t in_page = PAGE - (uint32_t)(address % PAGE);

	if (error || *ret_done > 0 || in_page >= len)
		return error;
	return backend->ops->read(backend, space, at, buffer, in_page, ret_done, ret_status);
}

static struct vmkd_error *read_all(struct vmkd_target *target, enum vmkd_space space, uint64_t address, uint8_t *buffer, size_t len,
				   size_t *done)
{
	while (*done < len) {
		uint32_t got, status;
		// Again after each packet: what RAM did not have may have been one page, and a guest that was asked sleeps anew.
		*done += target_ram_read(target->ram, space, address + *done, buffer + *done, len - *done);
		if (*done == len)
			break;
		struct vmkd_error *error = read_chunk(target, space, address + *done, buffer + *done, chunk_of(len - *done), &got, &status);
		if (error)
			return error;
		if (got == 0)
			return fault(space, address + *done, status, "read");
		*done += got;
	}
	return NULL;
}

struct vmkd_error *vmkd_target_read(struct vmkd_target *target, enum vmkd_space space, uint64_t address, void *buffer, size_t len,
				    size_t *ret_done)
{
	size_t done = 0;
	struct vmkd_error *error = TARGET_CAN(target, read);

	if (!error)
		error = prepare(target, space, &address, len);
	if (!error)
		error = read_all(target, space, address, buffer, len, &done);
	if (done > 0 && space == VMKD_VIRTUAL)
		target_breakpoints_hide(target, address, buffer, done);
	if (ret_done)
		*ret_done = done;
	return error;
}

enum vmkd_memory_way vmkd_target_memory_way(struct vmkd_target *target)
{
	return target_ram_way(target->ram);
}

static struct vmkd_error *write_all(struct vmkd_target *target, enum vmkd_space space, uint64_t address, const uint8_t *data, size_t len,
				    size_t *done)
{
	struct backend *backend = target->backend;

	while (*done < len) {
		uint32_t chunk = chunk_of(len - *done), put, status;
		uint32_t in_page = PAGE - (uint32_t)((address + *done) % PAGE);
		// A write that fails half-way may not tell how far it came, so none crosses a page.
		if (chunk > in_page)
			chunk = in_page;
		struct vmkd_error *error = backend->ops->write(backend, space, wire_address(target, space, address + *done), data + *done,
							       chunk, &put, &status);
		if (error)
			return error;
		*done += put;
		if (put < chunk && (kd_is_failure(status) || put == 0))
			return fault(space, address + *done, status, "write");
	}
	return NULL;
}

struct vmkd_error *vmkd_target_write(struct vmkd_target *target, enum vmkd_space space, uint64_t address, const void *data, size_t len,
				     size_t *ret_done)
{
	size_t done = 0;
	struct vmkd_error *error = TARGET_CAN(target, write);

	if (!error)
		error = prepare(target, space, &address, len);
	if (!error && space == VMKD_VIRTUAL)
		error = target_breakpoints_clear_range(target, address, len);
	if (!error)
		error = write_all(target, space, address, data, len, &done);
	if (ret_done)
		*ret_done = done;
	return error;
}

// ---- search --------------------------------------------------------------------------------------------------------------------

// A window that slides over memory: `kept` bytes of the stretch before, so that no match across two stretches is missed.
struct window {
	uint8_t *bytes;
	size_t size, kept;
	const uint8_t *pattern;
	size_t pattern_len;
};

// `got` bytes from `at` on have been read behind those kept. -> true: found, at *ret.
static bool search_stretch(struct window *window, uint64_t at, size_t got, uint64_t *ret)
{
	size_t total = window->kept + got;
	const uint8_t *hit = memmem(window->bytes, total, window->pattern, window->pattern_len);

	if (hit) {
		*ret = at - window->kept + (uint64_t)(hit - window->bytes);
		return true;
	}
	size_t tail = total < window->pattern_len ? total : window->pattern_len - 1;
	memmove(window->bytes, window->bytes + total - tail, tail);
	window->kept = tail;
	return false;
}

// What RAM alone tells of the range. -> true: found, at *ret; else no match begins in its first *ret_skip bytes
static bool search_ram(struct vmkd_target *target, struct window *window, uint64_t address, uint64_t len, uint64_t *ret, uint64_t *ret_skip)
{
	uint64_t done = 0;
	size_t want, got;

	do {
		want = window->size - window->kept;
		if (want > len - done)
			want = (size_t)(len - done);
		got = target_ram_read(target->ram, VMKD_VIRTUAL, address + done, window->bytes + window->kept, want);
		if (search_stretch(window, address + done, got, ret))
			return true;
		done += got;
	} while (got == want && done < len);
	*ret_skip = done - window->kept;
	return false;
}

static struct vmkd_error *not_found(void)
{
	return vmkd_error_create(VMKD_E_NOT_FOUND, "the pattern is not there");
}

static struct vmkd_error *search_window(struct vmkd_target *target, struct window *window, uint64_t address, uint64_t len, uint64_t *ret)
{
	for (uint64_t done = 0; done < len;) {
		size_t room = window->size - window->kept, got = 0;
		size_t want = len - done < room ? (size_t)(len - done) : room;
		struct vmkd_error *error =
			read_all(target, VMKD_VIRTUAL, address + done, window->bytes + window->kept, want, &got);
		if (error && error->code != VMKD_E_FAULT)
			return error;
		bool is_found = search_stretch(window, address + done, got, ret);
		done += got;
		if (error) { // a page that cannot be read: on behind it, and nothing matches across it
			vmkd_error_destroy(error);
			done += PAGE - (address + done) % PAGE;
			window->kept = 0;
		}
		if (is_found)
			return NULL;
	}
	return not_found();
}

// The kernel's own search, whose ideas of the range's end and of pages that cannot be read count; what it does not search is searched here.
static struct vmkd_error *search_kernel(struct vmkd_target *target, struct window *window, uint64_t address, uint64_t len, uint64_t *ret)
{
	struct backend *backend = target->backend;
	struct vmkd_error *error = NULL;

	window->kept = 0;
	if (!backend->ops->search)
		return search_window(target, window, address, len, ret);
	error = backend->ops->search(backend, target_address_in(target, address), len, window->pattern, (uint32_t)window->pattern_len, ret);
	if (!error)
		*ret = target_address_out(target, *ret);
	if (!error || error->code != VMKD_E_UNSUPPORTED)
		return error;
	vmkd_error_destroy(error);
	return search_window(target, window, address, len, ret);
}

struct vmkd_error *vmkd_target_search(struct vmkd_target *target, uint64_t address, uint64_t len, const void *pattern, size_t pattern_len,
				      uint64_t *ret)
{
	struct vmkd_error *error = TARGET_CAN(target, read);
	uint64_t skip;

	if (!error && (pattern_len == 0 || pattern_len > KD_DATA_MAX))
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected a pattern of 1 to %u bytes, got %zu", KD_DATA_MAX, pattern_len);
	if (!error)
		error = prepare(target, VMKD_VIRTUAL, &address, len);
	if (error)
		return error;
	struct window window = { .size = WINDOW_SIZE + pattern_len, .pattern = pattern, .pattern_len = pattern_len };
	window.bytes = malloc(window.size);
	if (!window.bytes)
		return error_no_memory();
	if (!search_ram(target, &window, address, len, ret, &skip)) {
		bool is_over = skip == len && len > 0;
		error = is_over ? not_found() : search_kernel(target, &window, address + skip, len - skip, ret);
	}
	free(window.bytes);
	return error;
}

// ---- fill ----------------------------------------------------------------------------------------------------------------------

struct vmkd_error *vmkd_target_fill(struct vmkd_target *target, enum vmkd_space space, uint64_t address, uint64_t len, const void *pattern,
				    size_t pattern_len, size_t *ret_done)
{
	const uint8_t *unit = pattern;
	uint8_t bytes[PAGE];
	size_t done = 0;
	struct vmkd_error *error = TARGET_CAN(target, write);

	if (!error && (pattern_len == 0 || pattern_len > KD_DATA_MAX))
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected a pattern of 1 to %u bytes, got %zu", KD_DATA_MAX, pattern_len);
	if (!error)
		error = prepare(target, space, &address, len);
	if (!error && space == VMKD_VIRTUAL)
		error = target_breakpoints_clear_range(target, address, len);
	while (!error && done < len) {
		size_t chunk = len - done < sizeof(bytes) ? (size_t)(len - done) : sizeof(bytes), put = 0;
		for (size_t i = 0; i < chunk; i++)
			bytes[i] = unit[(done + i) % pattern_len];
		error = write_all(target, space, address + done, bytes, chunk, &put);
		done += put;
	}
	if (ret_done)
		*ret_done = done;
	return error;
}
