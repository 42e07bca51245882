// SPDX-License-Identifier: MIT
#include "serve/breakpoints.h"

#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"

// Offsets in a manipulate packet (KD reference, sections 4.1 and 4.4).
#define AT_STATUS 0x08u
#define AT_ADDRESS 0x10u        // WriteBreakPoint
#define AT_WRITTEN_HANDLE 0x18u // its answer
#define AT_RESTORE_HANDLE 0x10u // RestoreBreakPoint
#define AT_COUNT 0x10u          // Ex
#define EX_WRITE_SIZE 16u       // {address u64, handle u32, gap}
#define EX_WRITE_HANDLE 8u
#define EX_RESTORE_SIZE 4u

// A number that the kernel gives to no breakpoint: restoring it fails there.
#define NO_HANDLE 0u

// ---- Places and handles -----------------------------------------------------------------------------------

static bool is_place(uint32_t n)
{
	return n - 1 < BREAKPOINTS_PLACES;
}

static bool has(const struct breakpoints *b, const struct breakpoints_client *c, uint32_t handle)
{
	return c->generations[handle - 1] == b->places[handle - 1].generation;
}

static void give(struct breakpoints *b, struct breakpoints_client *c, uint32_t handle)
{
	b->places[handle - 1].use = BREAKPOINTS_USED;
	if (has(b, c, handle))
		return;
	c->generations[handle - 1] = b->places[handle - 1].generation;
	b->places[handle - 1].users++;
}

static void drop(struct breakpoints *b, struct breakpoints_client *c, uint32_t handle)
{
	c->generations[handle - 1] = 0;
	b->places[handle - 1].users--;
}

static bool stands_at(const struct breakpoints *b, uint32_t handle, uint64_t address)
{
	enum breakpoints_use use = b->places[handle - 1].use;

	return (use == BREAKPOINTS_USED || use == BREAKPOINTS_ORPHAN) && b->places[handle - 1].address == address;
}

// What stood there is gone, and every handle that meant it is dead.
static void empty(struct breakpoints *b, uint32_t handle, enum breakpoints_use use)
{
	b->places[handle - 1].use = use;
	b->places[handle - 1].generation++;
	b->places[handle - 1].users = 0;
}

// The kernel has set a breakpoint there; c NULL: for a client that has left.
static void was_set(struct breakpoints *b, struct breakpoints_client *c, uint64_t address, uint32_t handle)
{
	if (!stands_at(b, handle, address))
		empty(b, handle, BREAKPOINTS_ORPHAN);
	b->places[handle - 1].address = address;
	b->places[handle - 1].set_at = ++b->sets;
	if (c)
		give(b, c, handle);
}

// The kernel has refused to set one: perhaps because it has one there, another client's. -> this client's handle of it, 0 = it was refused.
static uint32_t was_refused(struct breakpoints *b, struct breakpoints_client *c, uint64_t address)
{
	uint32_t newest = 0;

	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++)
		if (stands_at(b, handle, address) && (!newest || b->places[handle - 1].set_at > b->places[newest - 1].set_at))
			newest = handle;
	if (!c || !newest || has(b, c, newest))
		return 0;
	give(b, c, newest);
	return newest;
}

// ---- Life ---------------------------------------------------------------------------------------------------

static void empty_all(struct breakpoints *b, enum breakpoints_use use)
{
	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++)
		empty(b, handle, use);
}

void breakpoints_init(struct breakpoints *b)
{
	memset(b, 0, sizeof(*b));
	empty_all(b, BREAKPOINTS_UNKNOWN);
}

void breakpoints_booted(struct breakpoints *b)
{
	empty_all(b, BREAKPOINTS_FREE);
}

void breakpoints_forget(struct breakpoints *b)
{
	empty_all(b, BREAKPOINTS_UNKNOWN);
}

void breakpoints_client_init(struct breakpoints_client *c)
{
	memset(c, 0, sizeof(*c));
}

void breakpoints_client_left(struct breakpoints *b, struct breakpoints_client *c)
{
	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++) {
		if (!has(b, c, handle))
			continue;
		drop(b, c, handle);
		if (!b->places[handle - 1].users)
			b->places[handle - 1].use = BREAKPOINTS_ORPHAN;
	}
}

uint32_t breakpoints_next_orphan(struct breakpoints *b)
{
	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++) {
		if (b->places[handle - 1].use != BREAKPOINTS_ORPHAN)
			continue;
		empty(b, handle, BREAKPOINTS_FREE);
		return handle;
	}
	return 0;
}

// ---- Requests -------------------------------------------------------------------------------------------------

static enum breakpoints_verdict answer(uint8_t *body, uint32_t status)
{
	put_le32(body + AT_STATUS, status);
	return BREAKPOINTS_ANSWER;
}

enum restore {
	RESTORE_PASS,   // the kernel's to say
	RESTORE_SHARED, // others use the place: only this client's handle goes
	RESTORE_NONE,   // no such handle
};

// Nothing changes yet: what passes is taken out when the kernel has answered.
static enum restore judge_restore(const struct breakpoints *b, const struct breakpoints_client *c, uint32_t handle)
{
	if (!is_place(handle))
		return RESTORE_NONE;
	if (b->places[handle - 1].use == BREAKPOINTS_UNKNOWN)
		return RESTORE_PASS;
	if (!has(b, c, handle))
		return RESTORE_NONE;
	return b->places[handle - 1].users > 1 ? RESTORE_SHARED : RESTORE_PASS;
}

static enum breakpoints_verdict ask_restore(struct breakpoints *b, struct breakpoints_client *c, uint8_t *body)
{
	uint32_t handle = get_le32(body + AT_RESTORE_HANDLE);

	switch (judge_restore(b, c, handle)) {
	case RESTORE_PASS:
		return BREAKPOINTS_PASS;
	case RESTORE_SHARED:
		drop(b, c, handle);
		return answer(body, KD_STATUS_SUCCESS);
	default:
		return answer(body, KD_STATUS_UNSUCCESSFUL);
	}
}

// -> the elements of an Ex form that are really there.
static uint32_t ex_count(const uint8_t *body, uint32_t body_len, uint32_t size)
{
	uint32_t count = get_le32(body + AT_COUNT), there = (body_len - KD_MANIPULATE_SIZE) / size;

	return count < there ? count : there;
}

// Handles that are none fail in the kernel, as they should, while the others are taken out.
static enum breakpoints_verdict ask_restore_ex(const struct breakpoints *b, const struct breakpoints_client *c, uint8_t *body, uint32_t body_len)
{
	uint32_t count = ex_count(body, body_len, EX_RESTORE_SIZE);
	uint8_t *at = body + KD_MANIPULATE_SIZE;

	for (uint32_t i = 0; i < count; i++)
		if (judge_restore(b, c, get_le32(at + i * EX_RESTORE_SIZE)) == RESTORE_SHARED)
			return answer(body, KD_STATUS_UNSUCCESSFUL);
	for (uint32_t i = 0; i < count; i++, at += EX_RESTORE_SIZE)
		if (judge_restore(b, c, get_le32(at)) == RESTORE_NONE)
			put_le32(at, NO_HANDLE);
	return BREAKPOINTS_PASS;
}

static enum breakpoints_verdict ask_write_ex(uint8_t *body, uint32_t body_len)
{
	uint32_t count = ex_count(body, body_len, EX_WRITE_SIZE);
	const uint8_t *at = body + KD_MANIPULATE_SIZE;

	for (uint32_t i = 0; i < count; i++, at += EX_WRITE_SIZE)
		if (get_le32(at + EX_WRITE_HANDLE))
			return answer(body, KD_STATUS_UNSUCCESSFUL);
	return BREAKPOINTS_PASS;
}

enum breakpoints_verdict breakpoints_ask(struct breakpoints *b, struct breakpoints_client *c, uint8_t *body, uint32_t body_len)
{
	if (body_len < KD_MANIPULATE_SIZE)
		return BREAKPOINTS_PASS;
	switch (get_le32(body)) {
	case KD_API_RESTORE_BREAKPOINT:
		return ask_restore(b, c, body);
	case KD_API_RESTORE_BREAKPOINT_EX:
		return ask_restore_ex(b, c, body, body_len);
	case KD_API_WRITE_BREAKPOINT_EX:
		return ask_write_ex(body, body_len);
	default:
		return BREAKPOINTS_PASS;
	}
}

// ---- Replies ----------------------------------------------------------------------------------------------------

// What the kernel did with one address. handle: its answer, 0 = it refused. -> what the client is given, 0 = refused.
static uint32_t hear_written(struct breakpoints *b, struct breakpoints_client *c, uint64_t address, uint32_t handle)
{
	if (!handle)
		return was_refused(b, c, address);
	if (is_place(handle))
		was_set(b, c, address, handle);
	return handle;
}

static void answer_write(struct breakpoints *b, struct breakpoints_client *c, const uint8_t *request, uint8_t *body)
{
	bool is_refused = kd_is_failure(get_le32(body + AT_STATUS));
	uint32_t handle = hear_written(b, c, get_le64(request + AT_ADDRESS), is_refused ? 0 : get_le32(body + AT_WRITTEN_HANDLE));

	if (!handle)
		return;
	put_le32(body + AT_STATUS, KD_STATUS_SUCCESS);
	put_le32(body + AT_WRITTEN_HANDLE, handle);
}

static void answer_write_ex(struct breakpoints *b, struct breakpoints_client *c, const uint8_t *request, uint32_t request_len, uint8_t *body, uint32_t body_len)
{
	uint32_t count = ex_count(request, request_len, EX_WRITE_SIZE), there = ex_count(body, body_len, EX_WRITE_SIZE), done = 0;

	count = count < there ? count : there;
	for (uint32_t i = 0, at = KD_MANIPULATE_SIZE; i < count; i++, at += EX_WRITE_SIZE) {
		uint32_t handle = hear_written(b, c, get_le64(request + at), get_le32(body + at + EX_WRITE_HANDLE));

		put_le32(body + at + EX_WRITE_HANDLE, handle);
		done += handle != 0;
	}
	if (count && done == get_le32(request + AT_COUNT))
		put_le32(body + AT_STATUS, KD_STATUS_SUCCESS);
}

// Whether the kernel knew it or not: it has nothing there any more.
static void hear_restored(struct breakpoints *b, uint32_t handle)
{
	if (is_place(handle))
		empty(b, handle, BREAKPOINTS_FREE);
}

void breakpoints_answer(struct breakpoints *b, struct breakpoints_client *c, const uint8_t *request, uint32_t request_len, uint8_t *body, uint32_t body_len)
{
	if (request_len < KD_MANIPULATE_SIZE || body_len < KD_MANIPULATE_SIZE || get_le32(request) != get_le32(body))
		return;
	switch (get_le32(request)) {
	case KD_API_WRITE_BREAKPOINT:
		answer_write(b, c, request, body);
		break;
	case KD_API_WRITE_BREAKPOINT_EX:
		answer_write_ex(b, c, request, request_len, body, body_len);
		break;
	case KD_API_RESTORE_BREAKPOINT:
		hear_restored(b, get_le32(request + AT_RESTORE_HANDLE));
		break;
	case KD_API_RESTORE_BREAKPOINT_EX:
		for (uint32_t i = 0, count = ex_count(request, request_len, EX_RESTORE_SIZE); i < count; i++)
			hear_restored(b, get_le32(request + KD_MANIPULATE_SIZE + i * EX_RESTORE_SIZE));
		break;
	default:
		break;
	}
}
