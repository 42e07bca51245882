// SPDX-License-Identifier: MIT
#include "wire/fake_wire.h"

#include <stdlib.h>
#include <string.h>

#include "wire/le.h"

#define DELAY_MS_MAX 400u // less than either end waits for an ACK: see overtakers_max

void fake_wire_init(struct fake_wire *w, uint32_t seed, uint32_t per_mille, uint32_t kinds)
{
	memset(w, 0, offsetof(struct fake_wire, bytes));
	w->dice.state = seed * 2654435761u | 1u;
	w->per_mille = per_mille;
	w->kinds = kinds;
	w->overtakers_max = 2;
	for (int i = 0; i < 4; i++)
		(void)dice_roll(&w->dice, 2); // the first rolls of near seeds are alike
}

static void deliver(struct fake_wire *w, const uint8_t *bytes, size_t len)
{
	if (w->read == w->written)
		w->read = w->written = 0;
	if (w->written + len > FAKE_WIRE_SIZE)
		abort(); // nobody reads any more: the test's error
	memcpy(w->bytes + w->written, bytes, len);
	w->written += len;
}

static void release(struct fake_wire *w)
{
	size_t len = w->held_len;
	w->held_len = 0;
	deliver(w, w->held, len);
}

static void pass(struct fake_wire *w, const uint8_t *bytes, size_t len)
{
	deliver(w, bytes, len);
	if (w->held_len && --w->held_frames == 0)
		release(w);
}

static void hold(struct fake_wire *w, uint64_t now_ms)
{
	memcpy(w->held, w->frame, w->frame_len);
	w->held_len = w->frame_len;
	w->held_frames = 1 + dice_roll(&w->dice, w->overtakers_max);
	w->held_until = now_ms + 1 + dice_roll(&w->dice, DELAY_MS_MAX);
}

// Another value of the byte: any change of a single byte shows in the sum.
static void change(struct fake_wire *w, size_t at)
{
	w->frame[at] ^= (uint8_t)(1u + dice_roll(&w->dice, 255));
	pass(w, w->frame, w->frame_len);
}

static uint32_t pick(struct fake_wire *w, uint32_t from, size_t to)
{
	return from + dice_roll(&w->dice, (uint32_t)to - from);
}

// at: where, 0 = anywhere.
static void fail(struct fake_wire *w, uint64_t now_ms, enum fake_fault fault, uint32_t at)
{
	size_t len = w->frame_len;
	w->faults[fault]++;
	switch (fault) {
	case FAULT_BODY:
		if (len > KDCOM_HEAD)
			change(w, at ? at : pick(w, KDCOM_HEAD, len));
		break;
	case FAULT_DOUBLE:
		pass(w, w->frame, len);
		pass(w, w->frame, len);
		break;
	case FAULT_DELAY:
		if (w->held_len)
			pass(w, w->frame, len);
		else
			hold(w, now_ms);
		break;
	case FAULT_CUT:
		if (at || len > KDCOM_HEAD)
			pass(w, w->frame, at ? at : pick(w, KDCOM_HEAD, len));
		break;
	case FAULT_HEADER:
		change(w, at ? at - 1 : pick(w, 0, len < KDCOM_HEAD ? len : KDCOM_HEAD));
		break;
	default:
		break;
	}
}

static enum fake_fault any_fault(struct fake_wire *w)
{
	enum fake_fault fault;
	do
		fault = (enum fake_fault)dice_roll(&w->dice, FAULT_COUNT);
	while (!(w->kinds & FAULT_BIT(fault)));
	return fault;
}

static void pass_frame(struct fake_wire *w, uint64_t now_ms)
{
	w->frames++;
	if (w->frames == w->aimed_frame) {
		w->aimed_len = (uint32_t)w->frame_len;
		fail(w, now_ms, w->aimed_fault, w->aimed_at);
	} else if (w->kinds && dice_roll(&w->dice, 1000) < w->per_mille && w->frame_len > 1) {
		fail(w, now_ms, any_fault(w), 0);
	} else {
		pass(w, w->frame, w->frame_len);
	}
}

static size_t frame_size(const uint8_t *frame, size_t len)
{
	if (frame[0] == KDCOM_BREAKIN_BYTE)
		return 1;
	if (len < KDCOM_HEAD)
		return KDCOM_HEAD;
	return frame[0] == 0x69 ? KDCOM_HEAD : KDCOM_HEAD + get_le16(frame + 6) + 1u;
}

void fake_wire_write(struct fake_wire *w, uint64_t now_ms, const uint8_t *bytes, size_t len)
{
	while (len--) {
		w->frame[w->frame_len++] = *bytes++;
		if (w->frame_len == frame_size(w->frame, w->frame_len)) {
			pass_frame(w, now_ms);
			w->frame_len = 0;
		}
	}
}

const uint8_t *fake_wire_peek(const struct fake_wire *w, size_t *ret_len)
{
	*ret_len = w->written - w->read;
	return w->bytes + w->read;
}

void fake_wire_take(struct fake_wire *w, size_t len)
{
	w->read += len;
}

bool fake_wire_timer(struct fake_wire *w, uint64_t now_ms)
{
	if (!w->held_len || now_ms < w->held_until)
		return false;
	release(w);
	return true;
}

uint64_t fake_wire_deadline(const struct fake_wire *w)
{
	return w->held_len ? w->held_until : UINT64_MAX;
}

unsigned fake_wire_faults(const struct fake_wire *w)
{
	unsigned sum = 0;
	for (size_t i = 0; i < FAULT_COUNT; i++)
		sum += w->faults[i];
	return sum;
}

const char *fake_fault_name(enum fake_fault fault)
{
	static const char *const names[FAULT_COUNT] = { "drop", "body", "double", "delay", "cut", "header" };
	return names[fault];
}
