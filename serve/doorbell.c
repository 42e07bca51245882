// SPDX-License-Identifier: MIT
#include "serve/doorbell.h"

#include <string.h>

#include "wire/le.h"

void doorbell_reset(struct doorbell *d)
{
	d->count = 0;
}

static uint8_t sum_of(const uint8_t *bytes, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *bytes++);
	return sum;
}

// A whole hello is there. A wrong sum means that the 'H' was none (the stream began in its middle, or somebody else writes here): it is
// refused and the bytes behind it are looked at again, lest a real hello among them be lost.
static enum doorbell_event judge_hello(struct doorbell *d, gpa_t *ret_head)
{
	uint8_t rest[DOORBELL_HELLO_LEN - 1];
	enum doorbell_event found = DOORBELL_EV_NONE;
	size_t used;

	d->count = 0;
	if (sum_of(d->hello + 1, 8) == d->hello[DOORBELL_HELLO_LEN - 1]) {
		d->hellos++;
		ret_head->v = get_le64(d->hello + 1);
		return DOORBELL_EV_HELLO;
	}
	d->refused++;
	memcpy(rest, d->hello + 1, sizeof(rest));
	// Nine bytes cannot hold a whole hello; several rings among them are one: each says "look at the head".
	for (size_t at = 0; at < sizeof(rest); at += used)
		if (doorbell_feed(d, rest + at, sizeof(rest) - at, &used, ret_head) == DOORBELL_EV_RING)
			found = DOORBELL_EV_RING;
	return found;
}

static enum doorbell_event take_byte(struct doorbell *d, uint8_t byte, gpa_t *ret_head)
{
	if (d->count) {
		d->hello[d->count++] = byte;
		return d->count == DOORBELL_HELLO_LEN ? judge_hello(d, ret_head) : DOORBELL_EV_NONE;
	}
	switch (byte) {
	case DOORBELL_RING:
		d->rings++;
		return DOORBELL_EV_RING;
	case DOORBELL_HELLO:
		d->hello[0] = byte;
		d->count = 1;
		return DOORBELL_EV_NONE;
	default:
		d->refused++;
		return DOORBELL_EV_NONE;
	}
}

enum doorbell_event doorbell_feed(struct doorbell *d, const uint8_t *bytes, size_t len, size_t *ret_used, gpa_t *ret_head)
{
	for (size_t i = 0; i < len; i++) {
		enum doorbell_event ev = take_byte(d, bytes[i], ret_head);

		if (ev != DOORBELL_EV_NONE) {
			*ret_used = i + 1;
			return ev;
		}
	}
	*ret_used = len;
	return DOORBELL_EV_NONE;
}
