// SPDX-License-Identifier: MIT
#include "trace/record.h"

#include "wire/le.h"

static uint32_t sum(const uint8_t *bytes, size_t len)
{
	uint32_t sum = 0;

	while (len--)
		sum += *bytes++;
	return sum;
}

static bool is_leader(uint32_t word)
{
	return word == KDCOM_DATA_LEADER || word == KDCOM_CONTROL_LEADER;
}

// Behind its head.
static void read_body(struct trace_frame *f, const uint8_t *bytes, size_t len)
{
	f->body = bytes;
	f->body_len = len < f->said_len ? (uint32_t)len : f->said_len;
	if (f->said_len > KDCOM_BODY_MAX)
		f->damage = KDCOM_BAD_SIZE;
	else if (len <= f->said_len)
		f->damage = KDCOM_TRUNCATED;
	else if (bytes[f->said_len] != KDCOM_TRAILER)
		f->damage = KDCOM_BAD_TRAILER;
	else if (sum(bytes, f->said_len) != f->checksum)
		f->damage = KDCOM_BAD_CHECKSUM;
}

void trace_frame_read(const uint8_t *bytes, size_t len, struct trace_frame *ret)
{
	struct trace_frame f = { .kind = TRACE_JUNK, .body = bytes };

	if (len == 0) {
		f.kind = TRACE_NOTHING;
	} else if (bytes[0] == KDCOM_BREAKIN_BYTE && len == 1) {
		f.kind = TRACE_BREAKIN;
	} else if (len >= 4 && is_leader(get_le32(bytes))) {
		f.kind = get_le32(bytes) == KDCOM_DATA_LEADER ? TRACE_DATA : TRACE_CONTROL;
		if (len < KDCOM_HEAD) {
			f.damage = KDCOM_TRUNCATED;
		} else {
			f.type = get_le16(bytes + 4);
			f.said_len = get_le16(bytes + 6);
			f.id = get_le32(bytes + 8);
			f.checksum = get_le32(bytes + 12);
			if (f.kind == TRACE_DATA)
				read_body(&f, bytes + KDCOM_HEAD, len - KDCOM_HEAD);
		}
	}
	*ret = f;
}

static void put_head(uint8_t *to, uint32_t leader, uint16_t type, uint16_t len, uint32_t id, uint32_t checksum)
{
	put_le32(to, leader);
	put_le16(to + 4, type);
	put_le16(to + 6, len);
	put_le32(to + 8, id);
	put_le32(to + 12, checksum);
}

size_t trace_frame_make(uint16_t type, uint32_t id, const uint8_t *body, size_t body_len, uint8_t *to)
{
	if (body_len > KDCOM_BODY_MAX)
		return 0;
	put_head(to, KDCOM_DATA_LEADER, type, (uint16_t)body_len, id, sum(body, body_len));
	wire_copy(to + KDCOM_HEAD, body, body_len);
	to[KDCOM_HEAD + body_len] = KDCOM_TRAILER;
	return KDCOM_HEAD + body_len + 1;
}

size_t trace_frame_make_control(enum kdcom_control type, uint32_t id, uint8_t *to)
{
	put_head(to, KDCOM_CONTROL_LEADER, (uint16_t)type, 0, id, 0);
	return KDCOM_HEAD;
}

enum trace_direction trace_direction_of(uint32_t epb_flags)
{
	switch (epb_flags & PCAPNG_DIRECTION_MASK) {
	case PCAPNG_INBOUND: return TRACE_FROM_TARGET;
	case PCAPNG_OUTBOUND: return TRACE_TO_TARGET;
	default: return TRACE_UNKNOWN;
	}
}

uint32_t trace_flags_of(enum trace_direction direction, enum kdcom_damage damage)
{
	static const uint32_t ways[] = { [TRACE_FROM_TARGET] = PCAPNG_INBOUND, [TRACE_TO_TARGET] = PCAPNG_OUTBOUND };
	static const uint32_t errors[] = { [KDCOM_BAD_SIZE] = PCAPNG_ERROR_TOO_LONG, [KDCOM_BAD_TRAILER] = PCAPNG_ERROR_SYMBOL,
					   [KDCOM_BAD_CHECKSUM] = PCAPNG_ERROR_CRC, [KDCOM_TRUNCATED] = PCAPNG_ERROR_TOO_SHORT };

	return ways[direction] | errors[damage];
}

const char *trace_damage_name(enum kdcom_damage damage)
{
	switch (damage) {
	case KDCOM_WHOLE: return "";
	case KDCOM_BAD_SIZE: return "size";
	case KDCOM_BAD_TRAILER: return "trailer";
	case KDCOM_BAD_CHECKSUM: return "checksum";
	case KDCOM_TRUNCATED: return "truncated";
	}
	return "";
}
