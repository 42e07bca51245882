// SPDX-License-Identifier: MIT
#include "trace/pcapng.h"

#include <string.h>

#include "wire/le.h"

enum block_type {
	BLOCK_INTERFACE = 1,
	BLOCK_STATISTICS = 5,
	BLOCK_PACKET = 6,
	BLOCK_SECTION = 0x0A0D0D0A, // reads the same in both byte orders
};

#define BYTE_ORDER 0x1A2B3C4Du
#define BLOCK_LEAST 12u // type, length, length again
#define SECTION_FIXED 16u
#define INTERFACE_FIXED 8u
#define PACKET_FIXED 20u
#define STATISTICS_FIXED 12u

// The options used here; numbers mean different things in different blocks.
enum option {
	OPTION_END = 0,
	OPTION_COMMENT = 1,
	OPTION_APPLICATION = 4,   // of a section
	OPTION_NAME = 2,          // of an interface
	OPTION_DESCRIPTION = 3,
	OPTION_RESOLUTION = 9,
	OPTION_TIME_OFFSET = 14,
	OPTION_FLAGS = 2,         // of a packet
	OPTION_DROP_COUNT = 4,
	OPTION_RECEIVED = 4,      // of statistics
	OPTION_DROPPED = 5,
};

#define NS_PER_S 1000000000u
#define RESOLUTION_NS 9u
#define RESOLUTION_DEFAULT 6u // without if_tsresol: microseconds
#define RESOLUTION_BINARY 0x80u

// ---- Writing -----------------------------------------------------------------------------------------------

struct writer {
	uint8_t *to;
	size_t size, at;
	bool is_full;
};

static void put(struct writer *w, const void *bytes, size_t len)
{
	if (w->is_full || len > w->size - w->at) {
		w->is_full = true;
		return;
	}
	wire_copy(w->to + w->at, bytes, len);
	w->at += len;
}

static void put16(struct writer *w, uint16_t v)
{
	uint8_t bytes[2];
	put_le16(bytes, v);
	put(w, bytes, sizeof(bytes));
}

static void put32(struct writer *w, uint32_t v)
{
	uint8_t bytes[4];
	put_le32(bytes, v);
	put(w, bytes, sizeof(bytes));
}

static void put64(struct writer *w, uint64_t v)
{
	uint8_t bytes[8];
	put_le64(bytes, v);
	put(w, bytes, sizeof(bytes));
}

// A time is two halves, the high one first, in either byte order.
static void put_time(struct writer *w, uint64_t time_ns)
{
	put32(w, (uint32_t)(time_ns >> 32));
	put32(w, (uint32_t)time_ns);
}

static void put_padded(struct writer *w, const void *bytes, size_t len)
{
	static const uint8_t zero[4];

	put(w, bytes, len);
	put(w, zero, -len & 3u);
}

static void put_option(struct writer *w, enum option option, const void *bytes, size_t len)
{
	put16(w, (uint16_t)option);
	put16(w, (uint16_t)len);
	put_padded(w, bytes, len);
}

static void put_option64(struct writer *w, enum option option, uint64_t value)
{
	put16(w, (uint16_t)option);
	put16(w, 8);
	put64(w, value);
}

static void put_text(struct writer *w, enum option option, const char *text)
{
	size_t len = strnlen(text, PCAPNG_NAME_MAX - 1);

	if (len)
		put_option(w, option, text, len);
}

static struct writer block_begin(uint8_t *to, size_t size, enum block_type type)
{
	struct writer w = { .to = to, .size = size };

	put32(&w, type);
	put32(&w, 0); // block_end knows
	return w;
}

static size_t block_end(struct writer *w)
{
	put32(w, OPTION_END);
	put32(w, (uint32_t)(w->at + 4));
	if (w->is_full)
		return 0;
	put_le32(w->to + 4, (uint32_t)w->at);
	return w->at;
}

size_t pcapng_put_section(uint8_t *to, size_t size, const char *application)
{
	struct writer w = block_begin(to, size, BLOCK_SECTION);

	put32(&w, BYTE_ORDER);
	put16(&w, 1); // version 1.0
	put16(&w, 0);
	put64(&w, UINT64_MAX); // its length is not known
	put_text(&w, OPTION_APPLICATION, application);
	return block_end(&w);
}

size_t pcapng_put_interface(uint8_t *to, size_t size, const char *name, const char *description)
{
	const uint8_t resolution = RESOLUTION_NS;
	struct writer w = block_begin(to, size, BLOCK_INTERFACE);

	put16(&w, PCAPNG_LINKTYPE_USER0);
	put16(&w, 0);
	put32(&w, 0); // packets are never cut
	put_text(&w, OPTION_NAME, name);
	put_text(&w, OPTION_DESCRIPTION, description);
	put_option(&w, OPTION_RESOLUTION, &resolution, 1);
	return block_end(&w);
}

size_t pcapng_put_packet(uint8_t *to, size_t size, const struct pcapng_packet *packet)
{
	uint32_t comment_len = packet->comment_len < PCAPNG_COMMENT_MAX ? packet->comment_len : PCAPNG_COMMENT_MAX;
	struct writer w = block_begin(to, size, BLOCK_PACKET);
	uint8_t flags[4];

	put32(&w, packet->interface);
	put_time(&w, packet->time_ns);
	put32(&w, packet->len);
	put32(&w, packet->len);
	put_padded(&w, packet->data, packet->len);
	put_le32(flags, packet->flags);
	if (packet->flags)
		put_option(&w, OPTION_FLAGS, flags, sizeof(flags));
	if (packet->drop_count)
		put_option64(&w, OPTION_DROP_COUNT, packet->drop_count);
	if (comment_len)
		put_option(&w, OPTION_COMMENT, packet->comment, comment_len);
	return block_end(&w);
}

size_t pcapng_put_statistics(uint8_t *to, size_t size, uint32_t interface, uint64_t time_ns, uint64_t received, uint64_t dropped)
{
	struct writer w = block_begin(to, size, BLOCK_STATISTICS);

	put32(&w, interface);
	put_time(&w, time_ns);
	put_option64(&w, OPTION_RECEIVED, received);
	put_option64(&w, OPTION_DROPPED, dropped);
	return block_end(&w);
}

// ---- Reading -----------------------------------------------------------------------------------------------

static uint16_t get16(const struct pcapng_reader *r, const uint8_t *p)
{
	return r->is_swapped ? (uint16_t)(p[0] << 8 | p[1]) : get_le16(p);
}

static uint32_t get32(const struct pcapng_reader *r, const uint8_t *p)
{
	uint32_t v = get_le32(p);
	return r->is_swapped ? __builtin_bswap32(v) : v;
}

static uint64_t get64(const struct pcapng_reader *r, const uint8_t *p)
{
	uint64_t v = get_le64(p);
	return r->is_swapped ? __builtin_bswap64(v) : v;
}

// The option at *at, and *at moves behind it. -> false: that was the last one, or it does not fit.
static bool next_option(const struct pcapng_reader *r, const uint8_t **at, const uint8_t *end, uint16_t *ret_code, uint16_t *ret_len,
			const uint8_t **ret_value)
{
	if (end - *at < 4)
		return false;
	uint16_t code = get16(r, *at), len = get16(r, *at + 2);
	size_t padded = ((size_t)len + 3u) & ~(size_t)3u;
	if (code == OPTION_END || (size_t)(end - *at) - 4 < padded)
		return false;
	*ret_code = code;
	*ret_len = len;
	*ret_value = *at + 4;
	*at += 4 + padded;
	return true;
}

// Names come from processes and files: they are printed, so what could move a cursor becomes '?'.
static void take_name(char ret[PCAPNG_NAME_MAX], const uint8_t *text, uint16_t len)
{
	size_t n = len < PCAPNG_NAME_MAX - 1 ? len : PCAPNG_NAME_MAX - 1;

	for (size_t i = 0; i < n; i++)
		ret[i] = text[i] >= 0x20 && text[i] < 0x7F ? (char)text[i] : '?';
	ret[n] = '\0';
}

static void read_interface_options(const struct pcapng_reader *r, const uint8_t *at, const uint8_t *end, struct pcapng_interface *interface)
{
	const uint8_t *value;
	uint16_t code, len;

	while (next_option(r, &at, end, &code, &len, &value)) {
		if (code == OPTION_NAME)
			take_name(interface->name, value, len);
		else if (code == OPTION_DESCRIPTION)
			take_name(interface->description, value, len);
		else if (code == OPTION_RESOLUTION && len == 1)
			interface->resolution = value[0];
		else if (code == OPTION_TIME_OFFSET && len == 8)
			interface->offset_s = (int64_t)get64(r, value);
	}
}

// Units of the interface's clock in nanoseconds; what does not fit is as late as can be.
static uint64_t to_ns(const struct pcapng_interface *interface, uint64_t units)
{
	uint32_t n = interface->resolution & (RESOLUTION_BINARY - 1u);
	unsigned __int128 ns = (unsigned __int128)units * NS_PER_S;

	if (interface->resolution & RESOLUTION_BINARY) {
		ns >>= n; // at most 127
	} else {
		for (uint32_t i = 0; i < n && ns; i++)
			ns /= 10;
	}
	ns += (unsigned __int128)((__int128)interface->offset_s * NS_PER_S); // wraps below zero: too early is cut as too late
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static enum pcapng_outcome bad(struct pcapng_reader *r, const char *problem)
{
	r->problem = problem;
	return PCAPNG_BAD;
}

static enum pcapng_outcome read_interface(struct pcapng_reader *r, const uint8_t *body, uint32_t len)
{
	if (len < INTERFACE_FIXED)
		return bad(r, "an interface block is too short");
	if (r->interface_count == PCAPNG_INTERFACES_MAX)
		return bad(r, "more than 1024 interfaces in one section");
	struct pcapng_interface *interface = &r->interfaces[r->interface_count++];
	*interface = (struct pcapng_interface){ .linktype = get16(r, body), .resolution = RESOLUTION_DEFAULT };
	read_interface_options(r, body + INTERFACE_FIXED, body + len, interface);
	return PCAPNG_OTHER;
}

static void read_packet_options(const struct pcapng_reader *r, const uint8_t *at, const uint8_t *end, struct pcapng_packet *packet)
{
	const uint8_t *value;
	uint16_t code, len;

	while (next_option(r, &at, end, &code, &len, &value)) {
		if (code == OPTION_FLAGS && len == 4)
			packet->flags = get32(r, value);
		else if (code == OPTION_DROP_COUNT && len == 8)
			packet->drop_count = get64(r, value);
		else if (code == OPTION_COMMENT && !packet->comment_len) {
			packet->comment = (const char *)value;
			packet->comment_len = len;
		}
	}
}

static enum pcapng_outcome read_packet(struct pcapng_reader *r, const uint8_t *body, uint32_t len, struct pcapng_packet *ret)
{
	if (len < PACKET_FIXED)
		return bad(r, "a packet block is too short");
	uint32_t captured = get32(r, body + 12);
	uint64_t padded = ((uint64_t)captured + 3u) & ~(uint64_t)3u;
	if (padded > len - PACKET_FIXED)
		return bad(r, "a packet is longer than its block");
	struct pcapng_packet packet = { .interface = get32(r, body), .data = body + PACKET_FIXED, .len = captured,
					.original_len = get32(r, body + 16) };
	if (packet.interface >= r->interface_count)
		return bad(r, "a packet of an interface that was not described");
	packet.time_ns = to_ns(&r->interfaces[packet.interface], (uint64_t)get32(r, body + 4) << 32 | get32(r, body + 8));
	read_packet_options(r, body + PACKET_FIXED + padded, body + len, &packet);
	*ret = packet;
	return PCAPNG_PACKET;
}

static enum pcapng_outcome read_statistics(struct pcapng_reader *r, const uint8_t *body, uint32_t len)
{
	if (len < STATISTICS_FIXED)
		return bad(r, "a statistics block is too short");
	uint32_t number = get32(r, body);
	if (number >= r->interface_count)
		return bad(r, "statistics of an interface that was not described");
	struct pcapng_interface *interface = &r->interfaces[number];
	const uint8_t *at = body + STATISTICS_FIXED, *value;
	uint16_t code, option_len;
	interface->has_statistics = true;
	while (next_option(r, &at, body + len, &code, &option_len, &value)) {
		if (code == OPTION_RECEIVED && option_len == 8)
			interface->received = get64(r, value);
		else if (code == OPTION_DROPPED && option_len == 8)
			interface->dropped = get64(r, value);
	}
	return PCAPNG_OTHER;
}

// A section decides the byte order of its own length field, too. Needs 12 bytes.
static enum pcapng_outcome open_section(struct pcapng_reader *r, const uint8_t *bytes)
{
	uint32_t order = get_le32(bytes + 8);

	if (order != BYTE_ORDER && order != __builtin_bswap32(BYTE_ORDER))
		return bad(r, "this is no pcapng file (byte order mark)");
	r->is_swapped = order != BYTE_ORDER;
	r->has_section = true;
	r->interface_count = 0;
	return PCAPNG_OTHER;
}

static enum pcapng_outcome read_block(struct pcapng_reader *r, uint32_t type, const uint8_t *body, uint32_t len, struct pcapng_packet *ret)
{
	switch (type) {
	case BLOCK_SECTION:
		if (len < SECTION_FIXED)
			return bad(r, "a section header is too short");
		return get16(r, body + 4) == 1 ? PCAPNG_OTHER : bad(r, "another major version of pcapng than 1");
	case BLOCK_INTERFACE: return read_interface(r, body, len);
	case BLOCK_PACKET: return read_packet(r, body, len, ret);
	case BLOCK_STATISTICS: return read_statistics(r, body, len);
	default: return PCAPNG_OTHER;
	}
}

void pcapng_reader_init(struct pcapng_reader *r)
{
	r->has_section = r->is_swapped = false;
	r->problem = "";
	r->offset = 0;
	r->interface_count = 0; // the others are written before they are read
}

enum pcapng_outcome pcapng_read(struct pcapng_reader *r, const uint8_t *bytes, size_t len, size_t *ret_used, struct pcapng_packet *ret)
{
	*ret_used = 0;
	if (len >= 4 && !r->has_section && get_le32(bytes) != BLOCK_SECTION)
		return bad(r, "this is no pcapng file");
	if (len < BLOCK_LEAST)
		return PCAPNG_MORE;
	if (get_le32(bytes) == BLOCK_SECTION && open_section(r, bytes) == PCAPNG_BAD)
		return PCAPNG_BAD;
	uint32_t block_len = get32(r, bytes + 4);
	if (block_len < BLOCK_LEAST || block_len % 4 || block_len > PCAPNG_BLOCK_MAX)
		return bad(r, "a block of an impossible length");
	if (len < block_len)
		return PCAPNG_MORE;
	if (get32(r, bytes + block_len - 4) != block_len)
		return bad(r, "the two lengths of a block differ");
	enum pcapng_outcome outcome = read_block(r, get32(r, bytes), bytes + 8, block_len - BLOCK_LEAST, ret);
	if (outcome == PCAPNG_BAD)
		return outcome;
	*ret_used = block_len;
	r->offset += block_len;
	return outcome;
}
