// SPDX-License-Identifier: MIT
// Four clients, a kernel that drops entries and may answer anything, and a model: who set what and believes it to be there. A client's requests never take out
// what another one needs, and what nobody needs is taken out in the end.
#include <stdlib.h>
#include <string.h>

#include "serve/breakpoints.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define CLIENTS 4u
#define ADDRESSES 40u // more than places
#define BODY_MAX 256u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	struct breakpoints b;
	struct breakpoints_client clients[CLIENTS];
	uint64_t kernel[BREAKPOINTS_PLACES]; // addresses from 1, 0 = free
};

static uint32_t kernel_add(struct world *w, uint64_t address)
{
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++)
		if (w->kernel[i] == address)
			return 0;
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++) {
		if (w->kernel[i])
			continue;
		w->kernel[i] = address;
		return i + 1;
	}
	return 0;
}

static uint32_t kernel_restore(struct world *w, uint32_t handle)
{
	if (handle - 1 >= BREAKPOINTS_PLACES || !w->kernel[handle - 1])
		return KD_STATUS_UNSUCCESSFUL;
	w->kernel[handle - 1] = 0;
	return KD_STATUS_SUCCESS;
}

static void check_users(const struct world *w)
{
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++) {
		uint32_t users = 0;

		for (uint32_t c = 0; c < CLIENTS; c++)
			users += w->clients[c].generations[i] == w->b.places[i].generation;
		if (users != w->b.places[i].users || (users != 0) != (w->b.places[i].use == BREAKPOINTS_USED))
			abort();
	}
}

static void set(struct world *w, uint32_t who, uint64_t address)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 }, asked[KD_MANIPULATE_SIZE];
	uint32_t handle;

	put_le32(body, KD_API_WRITE_BREAKPOINT);
	put_le64(body + 0x10, address);
	if (breakpoints_ask(&w->b, &w->clients[who], body, sizeof(body)) != BREAKPOINTS_PASS)
		abort(); // only the kernel knows
	memcpy(asked, body, sizeof(asked));
	handle = kernel_add(w, address);
	put_le32(body + 0x18, handle);
	put_le32(body + 8, handle ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL);
	breakpoints_answer(&w->b, &w->clients[who], asked, sizeof(asked), body, sizeof(body));
	if (kd_is_failure(get_le32(body + 8)))
		return;
	handle = get_le32(body + 0x18);
	if (handle - 1 >= BREAKPOINTS_PLACES || w->kernel[handle - 1] != address)
		abort(); // it was told of a breakpoint that is not there
}

static void restore(struct world *w, uint32_t who, uint32_t handle)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 }, asked[KD_MANIPULATE_SIZE];
	uint64_t before = handle - 1 < BREAKPOINTS_PLACES ? w->kernel[handle - 1] : 0;
	bool is_needed = false;

	// Another's, by the table that was there before this request.
	for (uint32_t c = 0; before && c < CLIENTS; c++)
		is_needed |= c != who && w->clients[c].generations[handle - 1] == w->b.places[handle - 1].generation && w->b.places[handle - 1].address == before;
	put_le32(body, KD_API_RESTORE_BREAKPOINT);
	put_le32(body + 0x10, handle);
	if (breakpoints_ask(&w->b, &w->clients[who], body, sizeof(body)) == BREAKPOINTS_PASS) {
		memcpy(asked, body, sizeof(asked));
		put_le32(body + 8, kernel_restore(w, get_le32(body + 0x10)));
		breakpoints_answer(&w->b, &w->clients[who], asked, sizeof(asked), body, sizeof(body));
	}
	if (is_needed && w->kernel[handle - 1] != before)
		abort();
}

static void take_out_orphans(struct world *w)
{
	uint32_t handle;

	while ((handle = breakpoints_next_orphan(&w->b)) != 0)
		(void)kernel_restore(w, handle);
}

static void leave(struct world *w, uint32_t who)
{
	breakpoints_client_left(&w->b, &w->clients[who]);
	breakpoints_client_init(&w->clients[who]);
}

// Anything, answered by anything.
static void talk_nonsense(struct world *w, uint32_t who, const uint8_t *data, size_t size)
{
	static const uint32_t apis[] = { KD_API_WRITE_BREAKPOINT, KD_API_RESTORE_BREAKPOINT, KD_API_WRITE_BREAKPOINT_EX, KD_API_RESTORE_BREAKPOINT_EX };
	uint8_t body[BODY_MAX] = { 0 }, asked[BODY_MAX];
	uint32_t len = size > 1 ? data[1] : 0;

	if (size < 2)
		return;
	memcpy(body, data + 2, size - 2 < sizeof(body) ? size - 2 : sizeof(body));
	put_le32(body, apis[data[0] % 4]);
	if (breakpoints_ask(&w->b, &w->clients[who], body, len) == BREAKPOINTS_ANSWER)
		return;
	memcpy(asked, body, sizeof(asked));
	for (uint32_t i = 4; i < len && i + 3 < size; i++)
		body[i] ^= data[i + 3];
	breakpoints_answer(&w->b, data[0] & 0x80 ? NULL : &w->clients[who], asked, len, body, len);
}

static void step(struct world *w, const uint8_t *data, size_t size, bool *is_hostile)
{
	uint32_t who = data[0] % CLIENTS;

	switch (data[0] / CLIENTS % 8) {
	case 0: case 1: case 2:
		set(w, who, 1 + data[1] % ADDRESSES);
		break;
	case 3: case 4:
		restore(w, who, data[1] % (BREAKPOINTS_PLACES + 3));
		break;
	case 5:
		w->kernel[data[1] % BREAKPOINTS_PLACES] = 0; // at a stop near it
		break;
	case 6:
		if (data[1] & 1)
			leave(w, who);
		else
			take_out_orphans(w);
		break;
	default:
		if (!(data[1] & 1)) {
			breakpoints_forget(&w->b);
			break;
		}
		*is_hostile = true;
		talk_nonsense(w, who, data + 2, size - 2);
		break;
	}
}

// With an honest kernel: when all have left, nothing of theirs stands any more.
static void check_end(struct world *w)
{
	for (uint32_t who = 0; who < CLIENTS; who++)
		leave(w, who);
	take_out_orphans(w);
	for (uint32_t i = 0; i < BREAKPOINTS_PLACES; i++)
		if (w->kernel[i] && w->b.places[i].use != BREAKPOINTS_UNKNOWN)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world w;
	bool is_hostile = false;

	memset(&w, 0, sizeof(w));
	breakpoints_init(&w.b);
	if (size && data[0] & 1)
		breakpoints_booted(&w.b);
	for (size_t at = 1; at + 2 <= size && !is_hostile; at += 2) {
		step(&w, data + at, size - at, &is_hostile);
		check_users(&w);
	}
	if (!is_hostile)
		check_end(&w);
	return 0;
}
