// SPDX-License-Identifier: MIT
// Hostile requests against hostile RAM: the input writes page tables and data, chooses the processor's mode, and lets a debugger and a
// guest say what they like. Besides memory errors it looks for broken promises: a reply too large, bytes that are not the ones a plain walk
// finds, a search that names what is not there, an answer for a guest that does not sleep.
#include <stdlib.h>
#include <string.h>

#include "serve/answers.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LOW_SIZE 0x10000u
#define HIGH_GPA 0x40000000u
#define HIGH_SIZE 0x2000u
#define STEPS_MAX 64

static uint8_t low[LOW_SIZE] __attribute__((aligned(4096))), high[HIGH_SIZE] __attribute__((aligned(4096)));
static struct ram ram;
static struct answers a;

struct input {
	const uint8_t *at;
	size_t left;
};

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void take(struct input *in, void *to, size_t len)
{
	size_t count = len < in->left ? len : in->left;

	memset(to, 0, len);
	memcpy(to, in->at, count);
	in->at += count;
	in->left -= count;
}

static uint8_t take_u8(struct input *in)
{
	uint8_t value;

	take(in, &value, 1);
	return value;
}

static uint64_t take_u64(struct input *in)
{
	uint8_t bytes[8];

	take(in, bytes, sizeof(bytes));
	return get_le64(bytes);
}

static struct walk_regs take_regs(struct input *in)
{
	static const struct walk_regs modes[] = {
		{ .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x20, .efer = 0xD00 },
		{ .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x1020, .efer = 0xD00 },
		{ .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x20 },
		{ .cr0 = 0x80000011, .cr3 = 0x1000, .cr4 = 0x10 },
		{ .cr0 = 0x11 },
		{ 0 },
	};
	uint8_t which = take_u8(in) % 8;

	if (which < sizeof(modes) / sizeof(modes[0]))
		return modes[which];
	return (struct walk_regs){ take_u64(in), take_u64(in), take_u64(in), take_u64(in) };
}

static void poke(struct input *in)
{
	uint32_t at = (uint32_t)take_u64(in) % (LOW_SIZE - 7);

	put_le64(low + at, take_u64(in));
}

static void setup_machine(struct input *in, enum answers_mode mode)
{
	struct walk_regs regs = take_regs(in);

	memset(low, take_u8(in), sizeof(low));
	memset(high, take_u8(in), sizeof(high));
	for (unsigned count = take_u8(in) % 32; count; count--)
		poke(in);
	ram_init(&ram);
	ram.piece_count = 3;
	ram.pieces[0] = (struct ram_piece){ .gpa = 0, .size = LOW_SIZE / 2, .host = low };
	ram.pieces[1] = (struct ram_piece){ .gpa = LOW_SIZE / 2 + 0x1000, .size = LOW_SIZE / 2 - 0x1000, .host = low + LOW_SIZE / 2 + 0x1000 };
	ram.pieces[2] = (struct ram_piece){ .gpa = HIGH_GPA, .size = HIGH_SIZE, .host = high };
	answers_init(&a, mode, &ram);
	answers_sleep(&a, &regs, take_u8(in) % 8 == 7);
}

static uint32_t make_request(struct input *in, uint8_t *body)
{
	static const uint32_t apis[] = { KD_API_READ_VIRTUAL, KD_API_READ_PHYSICAL, KD_API_SEARCH_MEMORY, KD_API_GET_VERSION,
					 KD_API_GET_CONTEXT, KD_API_GET_CONTEXT_EX, KD_API_SET_CONTEXT, KD_API_CONTINUE2 };
	uint8_t kind = take_u8(in);
	uint32_t len = KD_MANIPULATE_SIZE;

	memset(body, 0, KD_BODY_MAX);
	take(in, body + 4, KD_MANIPULATE_SIZE - 4 < in->left ? KD_MANIPULATE_SIZE - 4 : in->left);
	put_le32(body, apis[kind % 8]);
	if (kind & 8)
		put_le64(body + 0x10, get_le64(body + 0x10) % (2 * LOW_SIZE));
	if (kind & 16)
		put_le64(body + 0x18, get_le64(body + 0x18) % 5000);
	if (kind & 32) {
		uint32_t extra = kind & 64 ? take_u8(in) % 8u : (uint32_t)take_u64(in) % (KD_DATA_MAX + 1);

		take(in, body + len, extra);
		put_le32(body + 0x20, extra);
		len += extra;
	}
	return len;
}

// Each byte of a read by a walk of its own, without the cache.
static void require_bytes(const uint8_t *body, const uint8_t *reply, uint32_t len)
{
	uint64_t address = get_le64(body + 0x10);

	require(get_le32(reply + 0x1C) == len - KD_MANIPULATE_SIZE);
	for (uint32_t i = KD_MANIPULATE_SIZE; i < len; i += 1 + i % 61) {
		uint64_t at = address + i - KD_MANIPULATE_SIZE;
		struct walk_page page = { .va = at, .gpa = at };
		uint8_t byte;

		if (get_le32(body) == KD_API_READ_VIRTUAL)
			require(walk_find(&ram, &a.regs, at, &page) == WALK_OK);
		require(ram_read(&ram, page.gpa + (at - page.va), &byte, 1) == 1);
		require(byte == reply[i]);
	}
}

static void require_found(const uint8_t *body, const uint8_t *reply, uint32_t len)
{
	uint64_t from = get_le64(body + 0x10), found = get_le64(reply + 0x10), range = get_le64(body + 0x18);
	uint32_t pattern_len = get_le32(body + 0x20);
	uint8_t there[KD_DATA_MAX];

	require(len == KD_MANIPULATE_SIZE);
	if (walk_mode(&a.regs) != WALK_MODE_4 && walk_mode(&a.regs) != WALK_MODE_5) {
		from = (uint32_t)from;
		require((uint64_t)(int64_t)(int32_t)(uint32_t)found == found);
		found = (uint32_t)found;
	}
	require(found >= from && found - from <= range - pattern_len);
	require(walk_read(&ram, &a.regs, NULL, found, there, pattern_len, NULL) == pattern_len);
	require(memcmp(there, body + KD_MANIPULATE_SIZE, pattern_len) == 0);
}

static void require_reply(const uint8_t *body, const uint8_t *reply, uint32_t len)
{
	uint32_t api = get_le32(body);

	require(a.mode == ANSWERS_ON && a.is_asleep);
	require(len >= KD_MANIPULATE_SIZE && len <= KD_BODY_MAX);
	require(memcmp(reply, body, 8) == 0 && get_le32(reply + 8) == 0);
	if (api == KD_API_READ_VIRTUAL || api == KD_API_READ_PHYSICAL)
		require_bytes(body, reply, len);
	else if (api == KD_API_SEARCH_MEMORY)
		require_found(body, reply, len);
}

static void step(struct input *in)
{
	static uint8_t body[KD_BODY_MAX];
	uint8_t what = take_u8(in) % 10;
	struct walk_regs regs;
	const uint8_t *reply;
	uint32_t len, reply_len;

	if (what == 0) {
		regs = take_regs(in);
		answers_sleep(&a, &regs, false);
	} else if (what == 1) {
		answers_wake(&a);
		poke(in);
	} else if (what == 2) {
		take_u8(in) & 1 ? answers_stopped(&a) : answers_forget_boot(&a);
	} else {
		len = make_request(in, body);
		if (what >= 6 && answers_make(&a, body, len, &reply, &reply_len))
			require_reply(body, reply, reply_len);
		else if (what >= 4)
			answers_asked(&a, body, len);
		else
			answers_replied(&a, body, len);
	}
	require(a.context_count <= ANSWERS_CONTEXTS && a.counters.differences <= a.counters.checked_bytes + KD_BODY_MAX * a.counters.checked);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	enum answers_mode mode = take_u8(&in) % 4 == 3 ? ANSWERS_CHECK : ANSWERS_ON;

	setup_machine(&in, mode);
	for (int i = 0; i < STEPS_MAX && in.left; i++)
		step(&in);
	return 0;
}
