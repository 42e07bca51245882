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

// -> the place that a handle of this client means, 0 = none.
static uint32_t place_of(const struct breakpoints *b, const struct breakpoints_client *c, uint32_t handle)
{
	uint32_t place;

	if (!is_place(handle))
		return 0;
	place = c->handles[handle - 1].place;
	return place && c->handles[handle - 1].generation == b->places[place - 1].generation ? place : 0;
}

// -> this client's handle of a place, 0 = it has none.
static uint32_t handle_of(const struct breakpoints *b, const struct breakpoints_client *c, uint32_t place)
{
	for (uint32_t handle = 1; handle <= BREAKPOINTS_PLACES; handle++)
		if (place_of(b, c, handle) == place)
			return handle;
	return 0;
}

// One more user of a place. The kernel's own number, if this client does not use it for another place; some number is always left, since each
// living handle means a place of its own.
static uint32_t give_handle(struct breakpoints *b, struct breakpoints_client *c, uint32_t place)
{
	uint32_t handle = place_of(b, c, place) ? 1 : place;

	while (place_of(b, c, handle))
		handle++;
	c->handles[handle - 1].place = place;
	c->handles[handle - 1].generation = b->places[place - 1].generation;
	b->places[place - 1].users++;
	return handle;
}

// What stood there is gone, and every handle that meant it is dead.
static void empty(struct breakpoints *b, uint32_t place, enum breakpoints_use use)
{
	b->places[place - 1].use = use;
	b->places[place - 1].generation++;
	b->places[place - 1].users = 0;
}

static void drop_handle(struct breakpoints *b, struct breakpoints_client *c, uint32_t handle)
{
	uint32_t place = place_of(b, c, handle);

	c->handles[handle - 1].place = 0;
	b->places[place - 1].users--;
}

// The kernel has set a breakpoint there. -> the client's handle of it, 0 = the client has left.
static uint32_t was_set(struct breakpoints *b, struct breakpoints_client *c, uint64_t address, uint32_t place)
{
	enum breakpoints_use use = b->places[place - 1].use;
	uint32_t handle;

	if ((use != BREAKPOINTS_USED && use != BREAKPOINTS_ORPHAN) || b->places[place - 1].address != address)
		empty(b, place, BREAKPOINTS_ORPHAN);
	b->places[place - 1].address = address;
	if (!c)
		return 0;
	b->places[place - 1].use = BREAKPOINTS_USED;
	handle = handle_of(b, c, place);
	return handle ? handle : give_handle(b, c, place);
}

// The kernel has refused to set one: perhaps because it has one there, another client's. -> this client's handle of it, 0 = it was refused.
static uint32_t was_refused(struct breakpoints *b, struct breakpoints_client *c, uint64_t address)
{
	for (uint32_t place = 1; c && place <= BREAKPOINTS_PLACES; place++) {
		enum breakpoints_use use = b->places[place - 1].use;

		if ((use != BREAKPOINTS_USED && use != BREAKPOINTS_ORPHAN) || b->places[place - 1].address != address || handle_of(b, c, place))
			continue;
		b->places[place - 1].use = BREAKPOINTS_USED;
		return give_handle(b, c, place);
	}
	return 0;
}

// ---- Life ---------------------------------------------------------------------------------------------------

static void empty_all(struct breakpoints *b, enum breakpoints_use use)
{
	for (uint32_t place = 1; place <= BREAKPOINTS_PLACES; place++)
		empty(b, place, use);
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
		uint32_t place = place_of(b, c, handle);

		if (!place)
			continue;
		drop_handle(b, c, handle);
		if (!b->places[place - 1].users)
			b->places[place - 1].use = BREAKPOINTS_ORPHAN;
	}
}

uint32_t breakpoints_next_orphan(struct breakpoints *b)
{
	for (uint32_t place = 1; place <= BREAKPOINTS_PLACES; place++) {
		if (b->places[place - 1].use != BREAKPOINTS_ORPHAN)
			continue;
		empty(b, place, BREAKPOINTS_FREE);
		return place;
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
	RESTORE_PASS,   // the kernel's to say; the handle is as it knows it
	RESTORE_SHARED, // others use the place: only this client's handle goes
	RESTORE_NONE,   // no such handle
};

// Nothing changes yet: what passes is taken out when the kernel has answered.
static enum restore judge_restore(const struct breakpoints *b, const struct breakpoints_client *c, uint32_t handle, uint32_t *ret_place)
{
	uint32_t place = place_of(b, c, handle);

	if (place && b->places[place - 1].users > 1)
		return RESTORE_SHARED;
	if (!place && is_place(handle) && b->places[handle - 1].use == BREAKPOINTS_UNKNOWN)
		place = handle;
	if (!place)
		return RESTORE_NONE;
	*ret_place = place;
	return RESTORE_PASS;
}

static enum breakpoints_verdict ask_restore(struct breakpoints *b, struct breakpoints_client *c, uint8_t *body)
{
	uint32_t handle = get_le32(body + AT_RESTORE_HANDLE), place;

	switch (judge_restore(b, c, handle, &place)) {
	case RESTORE_PASS:
		put_le32(body + AT_RESTORE_HANDLE, place);
		return BREAKPOINTS_PASS;
	case RESTORE_SHARED:
		drop_handle(b, c, handle);
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

static enum breakpoints_verdict ask_restore_ex(const struct breakpoints *b, const struct breakpoints_client *c, uint8_t *body, uint32_t body_len)
{
	uint32_t count = ex_count(body, body_len, EX_RESTORE_SIZE), place;
	uint8_t *at = body + KD_MANIPULATE_SIZE;

	for (uint32_t i = 0; i < count; i++)
		if (judge_restore(b, c, get_le32(at + i * EX_RESTORE_SIZE), &place) == RESTORE_SHARED)
			return answer(body, KD_STATUS_UNSUCCESSFUL);
	for (uint32_t i = 0; i < count; i++, at += EX_RESTORE_SIZE)
		put_le32(at, judge_restore(b, c, get_le32(at), &place) == RESTORE_PASS ? place : NO_HANDLE);
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

// What the kernel did with one address. place: its handle, 0 = it refused. -> the client's handle, 0 = refused.
static uint32_t hear_written(struct breakpoints *b, struct breakpoints_client *c, uint64_t address, uint32_t place)
{
	if (!place)
		return was_refused(b, c, address);
	return is_place(place) ? was_set(b, c, address, place) : place;
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

// Whether the kernel knew it or not: it has nothing there any more. -> the client's handle of it, 0 = it had none.
static uint32_t hear_restored(struct breakpoints *b, const struct breakpoints_client *c, uint32_t place)
{
	uint32_t handle;

	if (!is_place(place))
		return 0;
	handle = c ? handle_of(b, c, place) : 0;
	empty(b, place, BREAKPOINTS_FREE);
	return handle;
}

// The reply repeats the request's union: with the handle that the client knows. Of an unknown place that is the kernel's.
static void answer_restore(struct breakpoints *b, const struct breakpoints_client *c, const uint8_t *request, uint8_t *body)
{
	uint32_t handle = hear_restored(b, c, get_le32(request + AT_RESTORE_HANDLE));

	if (handle)
		put_le32(body + AT_RESTORE_HANDLE, handle);
}

static void answer_restore_ex(struct breakpoints *b, const struct breakpoints_client *c, const uint8_t *request, uint32_t request_len, uint8_t *body,
			      uint32_t body_len)
{
	uint32_t count = ex_count(request, request_len, EX_RESTORE_SIZE), there = ex_count(body, body_len, EX_RESTORE_SIZE);

	for (uint32_t i = 0, at = KD_MANIPULATE_SIZE; i < count; i++, at += EX_RESTORE_SIZE) {
		uint32_t handle = hear_restored(b, c, get_le32(request + at));

		if (handle && i < there && get_le32(body + at))
			put_le32(body + at, handle);
	}
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
		answer_restore(b, c, request, body);
		break;
	case KD_API_RESTORE_BREAKPOINT_EX:
		answer_restore_ex(b, c, request, request_len, body, body_len);
		break;
	default:
		break;
	}
}
