// SPDX-License-Identifier: MIT
#include "vmm/virtualkd_rpc.h"

#include <string.h>

#include "wire/le.h"

// ---- Layout (VirtualKD reference, sections 2.3 to 2.5 and 4.2) ------------------------------------

#define REQUEST_HEAD 8u // length, capacity; not counted in the length
#define REPLY_HEAD 4u   // length
#define SIGNATURE_SIZE 8u
#define REQUEST_MIN 9u // signature and command
#define REQUEST_MAX (VKD_BUFFER_SIZE - REQUEST_HEAD)
#define VERSION_LEN 13u
#define TEST_LEN 521u
#define RECEIVE_LEN 31u
#define SEND_LEN 39u // and the packet
#define TEST_BYTES 512u
#define TEST_KEY 0x55u
#define PREFIX 0x11u // of the buffer: head, signature, command

static const uint8_t signature[SIGNATURE_SIZE] = { '~', 'k', 'd', 'V', 'M', 'v', 'A', ' ' };
// "handled", and the reply's own signature
static const uint8_t reply_start[] = { '1', ' ', '+', '+', 'k', 'd', 'V', 'M', 'v', 'A', ' ' };
#define HANDLED_LEN 2u
#define RECEIVE_FIXED 35u // behind reply_start: letter, two buffers, context, code, three lengths, globals
#define REPLY_MAX (REPLY_HEAD + sizeof(reply_start) + RECEIVE_FIXED + RECORD_BODY_MAX)
_Static_assert(sizeof(reply_start) + RECEIVE_FIXED == 46, "section 2.5");
_Static_assert(REPLY_MAX > REPLY_HEAD + sizeof(reply_start) + TEST_BYTES, "the largest one");

// ---- Guest memory -------------------------------------------------------------------------------

// The host address of `at`, and how many bytes of its page follow. NULL: not RAM.
static uint8_t *piece(const struct gpa_map *map, uint64_t at, uint32_t *ret_len)
{
	uint64_t in_page = at % AREA_PAGE_SIZE;
	uint8_t *page = gpa_map_page(map, (gpa_t){ at - in_page });
	*ret_len = (uint32_t)(AREA_PAGE_SIZE - in_page);
	return page ? page + in_page : NULL;
}

static bool is_ram(const struct gpa_map *map, uint64_t at, uint32_t len)
{
	if (at > UINT64_MAX - len)
		return false;
	for (uint32_t done = 0, n; done < len; done += n) {
		if (!piece(map, at + done, &n))
			return false;
	}
	return true;
}

static bool copy_in(const struct gpa_map *map, uint64_t at, uint8_t *to, uint32_t len)
{
	if (!is_ram(map, at, len))
		return false;
	for (uint32_t done = 0, n; done < len; done += n) {
		const uint8_t *from = piece(map, at + done, &n);
		memcpy(to + done, from, n < len - done ? n : len - done);
	}
	__asm__ volatile("" ::: "memory"); // what is judged is the copy: it is not read again in its place
	return true;
}

static bool copy_out(const struct gpa_map *map, uint64_t at, const uint8_t *from, uint32_t len)
{
	if (!is_ram(map, at, len))
		return false;
	for (uint32_t done = 0, n; done < len; done += n) {
		uint8_t *to = piece(map, at + done, &n);
		memcpy(to, from + done, n < len - done ? n : len - done);
	}
	return true;
}

// ---- Finding a request --------------------------------------------------------------------------

static bool is_length_possible(uint8_t command, uint32_t len)
{
	switch (command) {
	case VKD_VERSION: return len == VERSION_LEN;
	case VKD_TEST: return len == TEST_LEN;
	case VKD_RECEIVE: return len == RECEIVE_LEN;
	case VKD_SEND: return len >= SEND_LEN && len <= REQUEST_MAX;
	default: return false;
	}
}

// The first bytes of a request, length not judged.
static bool read_prefix(const struct gpa_map *map, uint64_t at, uint8_t ret[PREFIX])
{
	return copy_in(map, at, ret, PREFIX) && !memcmp(ret + REQUEST_HEAD, signature, sizeof(signature));
}

// Somewhere else than where the guest has said, only what is a request beyond doubt counts.
static bool is_request(const struct gpa_map *map, uint64_t at)
{
	uint8_t prefix[PREFIX];
	return read_prefix(map, at, prefix) && get_le32(prefix + 4) == VKD_BUFFER_SIZE &&
	       is_length_possible(prefix[PREFIX - 1], get_le32(prefix));
}

static uint32_t highest(const struct gpa_map *map)
{
	uint64_t last = 0;
	for (uint32_t i = 0; i < map->count; i++) {
		uint64_t end = map->ranges[i].gpa + map->ranges[i].size;
		last = end && end - 1 > last ? end - 1 : last;
	}
	return (uint32_t)(last >> 32);
}

// A guest of more RAM than this is not searched to its end: one look costs as much as a look through the memory slots, in the guest's own time.
#define HIGH_MAX 1024u // 4 TiB

static int found(uint64_t at, uint32_t *high, gpa_t *ret)
{
	*high = (uint32_t)(at >> 32);
	*ret = (gpa_t){ at };
	return VKD_OK;
}

int vkd_find(const struct gpa_map *map, uint32_t low, uint64_t wide, uint32_t *high, gpa_t *ret)
{
	uint8_t prefix[PREFIX];
	uint64_t known = (uint64_t)*high << 32 | low;
	if (wide >> 32 && (uint32_t)wide == low && is_request(map, wide))
		return found(wide, high, ret);
	if (*high && is_request(map, known))
		return found(known, high, ret);
	if (read_prefix(map, low, prefix))
		return found(low, high, ret);
	uint32_t last = highest(map);
	for (uint64_t i = 1; i <= last && i <= HIGH_MAX; i++) {
		if (is_request(map, i << 32 | low))
			return found(i << 32 | low, high, ret);
	}
	return VKD_E_NONE;
}

// ---- Reading it ---------------------------------------------------------------------------------

static struct vkd_buffer get_buffer(const uint8_t *b)
{
	return (struct vkd_buffer){ .length = get_le16(b), .max_length = get_le16(b + 2) };
}

static void read_receive(const uint8_t *b, struct vkd_request *ret)
{
	ret->kd_type = get_le32(b);
	ret->globals = get_le32(b + 4);
	ret->first = get_buffer(b + 8);
	ret->second = get_buffer(b + 12);
	memcpy(ret->context, b + 16, VKD_CONTEXT_SIZE);
}

// Everything but the packet itself. -> false: lengths that do not agree, or a packet that KD does not have.
static bool read_send(const uint8_t *b, uint32_t len, struct vkd_request *ret)
{
	ret->first = get_buffer(b);
	ret->second = get_buffer(b + 4);
	memcpy(ret->context, b + 8, VKD_CONTEXT_SIZE);
	ret->kd_type = get_le32(b + 14);
	uint32_t first_len = get_le32(b + 18), second_len = get_le32(b + 22);
	ret->globals = get_le32(b + 26);
	ret->body_len = (uint32_t)ret->first.length + ret->second.length;
	return first_len == ret->first.length && second_len == ret->second.length && len == SEND_LEN + ret->body_len &&
	       ret->body_len <= RECORD_BODY_MAX;
}

static int read_body(const struct gpa_map *map, uint32_t len, struct vkd_request *ret)
{
	uint8_t fixed[SEND_LEN - REQUEST_MIN];
	uint64_t at = ret->at.v + PREFIX;
	uint32_t fixed_len = len - REQUEST_MIN;
	if (ret->command == VKD_TEST)
		return VKD_OK; // its bytes say nothing
	if (fixed_len > sizeof(fixed))
		fixed_len = sizeof(fixed);
	if (!copy_in(map, at, fixed, fixed_len))
		return VKD_E_NONE;
	if (ret->command == VKD_VERSION)
		ret->version = get_le32(fixed);
	else if (ret->command == VKD_RECEIVE)
		read_receive(fixed, ret);
	else if (!read_send(fixed, len, ret))
		return VKD_E_REFUSED;
	else if (!copy_in(map, at + sizeof(fixed), ret->body, ret->body_len))
		return VKD_E_NONE;
	return VKD_OK;
}

int vkd_read(const struct gpa_map *map, gpa_t at, struct vkd_request *ret)
{
	uint8_t prefix[PREFIX];
	if (!read_prefix(map, at.v, prefix))
		return VKD_E_NONE;
	uint32_t len = get_le32(prefix), capacity = get_le32(prefix + 4);
	if (len < REQUEST_MIN || len > REQUEST_MAX || capacity < REQUEST_HEAD + len)
		return VKD_E_NONE;
	ret->at = at;
	ret->capacity = capacity < VKD_BUFFER_SIZE ? capacity : VKD_BUFFER_SIZE;
	ret->command = prefix[PREFIX - 1];
	ret->body_len = 0;
	return is_length_possible(prefix[PREFIX - 1], len) ? read_body(map, len, ret) : VKD_E_REFUSED;
}

// ---- Replies ------------------------------------------------------------------------------------

struct reply {
	uint32_t len; // all of it
	uint8_t bytes[REPLY_MAX];
};

static void put(struct reply *p, const void *bytes, uint32_t len)
{
	memcpy(p->bytes + p->len, bytes, len);
	p->len += len;
}

static void put_byte(struct reply *p, uint8_t value)
{
	p->bytes[p->len++] = value;
}

static void put_word(struct reply *p, uint32_t value)
{
	put_le32(p->bytes + p->len, value);
	p->len += 4;
}

static void put_buffer(struct reply *p, uint32_t length, uint16_t max_length)
{
	put_word(p, length | (uint32_t)max_length << 16);
}

static void begin(struct reply *p, uint32_t start_len)
{
	p->len = REPLY_HEAD;
	put(p, reply_start, start_len);
}

static bool end(const struct gpa_map *map, const struct vkd_request *r, struct reply *p)
{
	put_le32(p->bytes, p->len - REPLY_HEAD);
	return p->len <= r->capacity && copy_out(map, r->at.v, p->bytes, p->len);
}

bool vkd_refuse(const struct gpa_map *map, const struct vkd_request *r)
{
	struct reply p;
	begin(&p, HANDLED_LEN);
	return end(map, r, &p);
}

bool vkd_reply_version(const struct gpa_map *map, const struct vkd_request *r, uint32_t version)
{
	struct reply p;
	begin(&p, sizeof(reply_start));
	put_word(&p, version);
	return end(map, r, &p);
}

bool vkd_reply_test(const struct gpa_map *map, const struct vkd_request *r)
{
	struct reply p;
	begin(&p, sizeof(reply_start));
	for (uint32_t i = 0; i < TEST_BYTES; i++)
		put_byte(&p, (uint8_t)(i ^ TEST_KEY));
	return end(map, r, &p);
}

bool vkd_reply_send(const struct gpa_map *map, const struct vkd_request *r, uint32_t globals)
{
	struct reply p;
	begin(&p, sizeof(reply_start));
	put_byte(&p, VKD_SEND);
	put(&p, r->context, VKD_CONTEXT_SIZE);
	put_word(&p, globals);
	return end(map, r, &p);
}

static bool reply_receive(const struct gpa_map *map, const struct vkd_request *r, uint32_t code, uint32_t globals, const uint8_t *body,
                          uint32_t first_len, uint32_t second_len)
{
	struct reply p;
	begin(&p, sizeof(reply_start));
	put_byte(&p, VKD_RECEIVE);
	// The guest takes over both words of each buffer; another MaxLength would damage the kernel's string (section 4.4).
	put_buffer(&p, first_len, r->first.max_length);
	put_buffer(&p, second_len, r->second.max_length);
	put(&p, r->context, VKD_CONTEXT_SIZE);
	if (r->kd_type == VKD_TYPE_POLL && code == VKD_RECEIVED)
		p.bytes[p.len - 2] = 1; // BreakInRequested
	put_word(&p, code);
	put_word(&p, second_len);
	put_word(&p, first_len);
	put_word(&p, second_len);
	put_word(&p, globals);
	put(&p, body, first_len + second_len);
	return end(map, r, &p);
}

bool vkd_reply_code(const struct gpa_map *map, const struct vkd_request *r, uint32_t code, uint32_t globals)
{
	static const uint8_t nothing[1];
	return reply_receive(map, r, code, globals, nothing, 0, 0);
}

bool vkd_has_room(const struct vkd_request *r, uint32_t body_len)
{
	return body_len <= RECORD_BODY_MAX && body_len >= r->first.max_length &&
	       body_len - r->first.max_length <= r->second.max_length;
}

bool vkd_reply_packet(const struct gpa_map *map, const struct vkd_request *r, uint32_t globals, const uint8_t *body, uint32_t body_len)
{
	return reply_receive(map, r, VKD_RECEIVED, globals, body, r->first.max_length, body_len - r->first.max_length);
}
