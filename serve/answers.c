// SPDX-License-Identifier: MIT
#include "serve/answers.h"

#include <string.h>

#include "wire/le.h"

// DBGKD_MANIPULATE_STATE64 (KD reference, section 4.1) and the unions used here (section 4.4).
#define OFFSET_PROCESSOR 0x06u
#define OFFSET_STATUS 0x08u
#define OFFSET_UNION 0x10u
#define OFFSET_ADDRESS 0x10u // memory, search
#define OFFSET_COUNT 0x18u   // memory
#define OFFSET_ACTUAL 0x1Cu  // memory
#define OFFSET_SEARCH_LEN 0x18u
#define OFFSET_PATTERN_LEN 0x20u

void answers_init(struct answers *a, enum answers_mode mode, const struct ram *ram)
{
	memset(a, 0, sizeof(*a));
	a->mode = mode;
	a->ram = ram;
}

const char *answers_reason_name(enum answers_reason reason)
{
	switch (reason) {
#define X(name, word) case ANSWERS_##name: return #word;
		ANSWERS_REASON_LIST(X)
#undef X
	default:
		return "here";
	}
}

// ---- From RAM -------------------------------------------------------------------------------------------

static enum answers_reason reason_of(enum walk_outcome why)
{
	return why == WALK_E_TABLE ? ANSWERS_NOT_RAM : ANSWERS_ABSENT;
}

// Neither long mode nor PAE: physical addresses end at 4 GiB, whatever RAM there is beyond.
static bool is_narrow(const struct answers *a)
{
	enum walk_mode mode = walk_mode(&a->regs);

	return mode == WALK_MODE_FLAT || mode == WALK_MODE_32;
}

static enum answers_reason read_physical(struct answers *a, uint64_t address, uint8_t *to, uint32_t len)
{
	if (address + len < len || (is_narrow(a) && address + len > 1ull << 32))
		return ANSWERS_NOT_RAM;
	return ram_read(a->ram, address, to, len) == len ? ANSWERS_HERE : ANSWERS_NOT_RAM;
}

static enum answers_reason read_virtual(struct answers *a, uint64_t address, uint8_t *to, uint32_t len)
{
	enum walk_outcome why = WALK_OK;

	if (walk_read(a->ram, &a->regs, &a->cache, address, to, len, &why) == len)
		return ANSWERS_HERE;
	return reason_of(why);
}

// The request's header with what a success changes in it (KD reference, section 4.4: counts beyond the packet's room are clipped).
static enum answers_reason make_read(struct answers *a, const uint8_t *body, uint32_t body_len, bool is_physical, uint32_t *ret_len)
{
	uint64_t address = get_le64(body + OFFSET_ADDRESS);
	uint32_t count = get_le32(body + OFFSET_COUNT), len = count < KD_DATA_MAX ? count : KD_DATA_MAX;
	enum answers_reason reason;

	// Uncached and write-combined accesses are meant for devices.
	if (!len || body_len != KD_MANIPULATE_SIZE || (is_physical && get_le32(body + OFFSET_ACTUAL) > KD_CACHE_CACHED))
		return ANSWERS_FORM;
	reason = is_physical ? read_physical(a, address, a->reply + KD_MANIPULATE_SIZE, len)
			     : read_virtual(a, address, a->reply + KD_MANIPULATE_SIZE, len);
	if (reason)
		return reason;
	memcpy(a->reply, body, KD_MANIPULATE_SIZE);
	put_le32(a->reply + OFFSET_STATUS, KD_STATUS_SUCCESS);
	put_le32(a->reply + OFFSET_ACTUAL, len);
	*ret_len = KD_MANIPULATE_SIZE + len;
	return ANSWERS_HERE;
}

// Addresses of 32-bit targets are sign-extended on the wire (KD reference, section 4.1).
static uint64_t extend(const struct answers *a, uint64_t address)
{
	enum walk_mode mode = walk_mode(&a->regs);

	return mode == WALK_MODE_4 || mode == WALK_MODE_5 ? address : (uint64_t)(int64_t)(int32_t)(uint32_t)address;
}

// Look for the pattern in [address, address + len), every byte before its place being readable.
static enum answers_reason find(struct answers *a, uint64_t address, uint64_t len, const uint8_t *pattern, uint32_t pattern_len,
				uint64_t *ret)
{
	uint64_t left = len < ANSWERS_SEARCH_MAX ? len : ANSWERS_SEARCH_MAX;
	size_t kept = 0; // bytes at the start of the chunk that were read before: the pattern may begin in them

	while (left) {
		size_t want = left < ANSWERS_CHUNK ? left : ANSWERS_CHUNK;
		enum walk_outcome why = WALK_OK;
		size_t got = walk_read(a->ram, &a->regs, &a->cache, address, a->chunk + kept, want, &why), all = kept + got;
		const uint8_t *hit = memmem(a->chunk, all, pattern, pattern_len);

		if (hit) {
			*ret = address - kept + (uint64_t)(hit - a->chunk);
			return ANSWERS_HERE;
		}
		if (got < want)
			return reason_of(why);
		address += got;
		left -= got;
		kept = all < pattern_len ? all : pattern_len - 1;
		memmove(a->chunk, a->chunk + all - kept, kept);
	}
	return len > ANSWERS_SEARCH_MAX ? ANSWERS_TOO_LONG : ANSWERS_NOT_FOUND;
}

static enum answers_reason make_search(struct answers *a, const uint8_t *body, uint32_t body_len, uint32_t *ret_len)
{
	uint64_t address = get_le64(body + OFFSET_ADDRESS), len = get_le64(body + OFFSET_SEARCH_LEN), found = 0;
	uint32_t pattern_len = get_le32(body + OFFSET_PATTERN_LEN);
	enum answers_reason reason;

	if (!pattern_len || pattern_len != body_len - KD_MANIPULATE_SIZE || len < pattern_len || address + len < len)
		return ANSWERS_FORM;
	reason = find(a, address, len, body + KD_MANIPULATE_SIZE, pattern_len, &found);
	if (reason)
		return reason;
	memcpy(a->reply, body, KD_MANIPULATE_SIZE);
	put_le32(a->reply + OFFSET_STATUS, KD_STATUS_SUCCESS);
	put_le64(a->reply + OFFSET_ADDRESS, extend(a, found));
	*ret_len = KD_MANIPULATE_SIZE;
	return ANSWERS_HERE;
}

// ---- From what the guest has said -----------------------------------------------------------------------

static enum answers_reason make_version(struct answers *a, const uint8_t *body, uint32_t body_len, uint32_t *ret_len)
{
	if (body_len != KD_MANIPULATE_SIZE)
		return ANSWERS_FORM;
	if (!a->has_version)
		return ANSWERS_FIRST;
	memcpy(a->reply, body, OFFSET_UNION);
	put_le32(a->reply + OFFSET_STATUS, KD_STATUS_SUCCESS);
	memcpy(a->reply + OFFSET_UNION, a->version, sizeof(a->version));
	*ret_len = KD_MANIPULATE_SIZE;
	return ANSWERS_HERE;
}

static struct answers_context *find_context(struct answers *a, const uint8_t *body)
{
	for (unsigned i = 0; i < a->context_count; i++) {
		struct answers_context *c = &a->contexts[i];

		if (c->api == get_le32(body) && c->processor == get_le16(body + OFFSET_PROCESSOR) &&
		    memcmp(c->asked, body + OFFSET_UNION, sizeof(c->asked)) == 0)
			return c;
	}
	return NULL;
}

static enum answers_reason make_context(struct answers *a, const uint8_t *body, uint32_t body_len, uint32_t *ret_len)
{
	const struct answers_context *c = find_context(a, body);

	if (body_len != KD_MANIPULATE_SIZE)
		return ANSWERS_FORM;
	if (!c)
		return ANSWERS_FIRST;
	memcpy(a->reply, body, OFFSET_UNION);
	put_le32(a->reply + OFFSET_STATUS, KD_STATUS_SUCCESS);
	memcpy(a->reply + OFFSET_UNION, c->answered, sizeof(c->answered));
	memcpy(a->reply + KD_MANIPULATE_SIZE, c->data, c->data_len);
	*ret_len = KD_MANIPULATE_SIZE + c->data_len;
	return ANSWERS_HERE;
}

static void forget_contexts(struct answers *a)
{
	a->context_count = a->context_next = 0;
}

static void keep_context(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	struct answers_context *c = find_context(a, a->asked);

	if (body_len - KD_MANIPULATE_SIZE > sizeof(c->data))
		return;
	if (!c && a->context_count < ANSWERS_CONTEXTS)
		c = &a->contexts[a->context_count++];
	if (!c)
		c = &a->contexts[a->context_next++ % ANSWERS_CONTEXTS];
	c->api = get_le32(a->asked);
	c->processor = get_le16(a->asked + OFFSET_PROCESSOR);
	c->data_len = body_len - KD_MANIPULATE_SIZE;
	memcpy(c->asked, a->asked + OFFSET_UNION, sizeof(c->asked));
	memcpy(c->answered, body + OFFSET_UNION, sizeof(c->answered));
	memcpy(c->data, body + KD_MANIPULATE_SIZE, c->data_len);
}

// ---- Which way a request goes ---------------------------------------------------------------------------

static bool is_kind(uint32_t api)
{
	switch (api) {
	case KD_API_READ_VIRTUAL:
	case KD_API_READ_PHYSICAL:
	case KD_API_SEARCH_MEMORY:
	case KD_API_GET_VERSION:
	case KD_API_GET_CONTEXT:
	case KD_API_GET_CONTEXT_EX:
		return true;
	default:
		return false;
	}
}

static bool is_from_ram(uint32_t api)
{
	return api == KD_API_READ_VIRTUAL || api == KD_API_READ_PHYSICAL || api == KD_API_SEARCH_MEMORY;
}

static bool is_read(uint32_t api)
{
	return api == KD_API_READ_VIRTUAL || api == KD_API_READ_PHYSICAL;
}

// Can what the guest does for this request change what it says of a processor's context? SetContext does; on i386 so does WriteControlSpace, and
// a write to the memory where the kernel keeps it. What is not known to leave it alone may.
static bool leaves_contexts(uint32_t api)
{
	switch (api) {
	case KD_API_READ_CONTROL_SPACE:
	case KD_API_READ_MSR:
	case KD_API_QUERY_MEMORY:
	case KD_API_WRITE_BREAKPOINT:
	case KD_API_RESTORE_BREAKPOINT:
		return true;
	default:
		return is_kind(api);
	}
}

static enum answers_reason make_from_ram(struct answers *a, const uint8_t *body, uint32_t body_len, uint32_t *ret_len)
{
	if (a->is_nested)
		return ANSWERS_NESTED;
	if (walk_mode(&a->regs) == WALK_MODE_NONE)
		return ANSWERS_MODE;
	if (get_le32(body) == KD_API_SEARCH_MEMORY)
		return make_search(a, body, body_len, ret_len);
	return make_read(a, body, body_len, get_le32(body) == KD_API_READ_PHYSICAL, ret_len);
}

static enum answers_reason make(struct answers *a, const uint8_t *body, uint32_t body_len, uint32_t *ret_len)
{
	uint32_t api = get_le32(body);

	if (body_len < KD_MANIPULATE_SIZE || body_len > KD_BODY_MAX || !is_kind(api))
		return ANSWERS_KIND;
	if (!a->is_asleep)
		return ANSWERS_AWAKE;
	if (is_from_ram(api))
		return make_from_ram(a, body, body_len, ret_len);
	if (api == KD_API_GET_VERSION)
		return make_version(a, body, body_len, ret_len);
	return make_context(a, body, body_len, ret_len);
}

bool answers_make(struct answers *a, const uint8_t *body, uint32_t body_len, const uint8_t **ret, uint32_t *ret_len)
{
	enum answers_reason reason;

	if (a->mode != ANSWERS_ON)
		return false;
	reason = make(a, body, body_len, ret_len);
	if (reason) {
		a->counters.asked[reason]++;
		return false;
	}
	if (is_from_ram(get_le32(body))) {
		a->counters.answered++;
		a->counters.answered_bytes += *ret_len - KD_MANIPULATE_SIZE;
	} else {
		a->counters.repeated++;
	}
	*ret = a->reply;
	return true;
}

// ---- What happens to the guest --------------------------------------------------------------------------

void answers_sleep(struct answers *a, const struct walk_regs *regs, bool is_nested)
{
	a->is_asleep = true;
	a->is_nested = is_nested;
	a->regs = *regs;
	walk_cache_clear(&a->cache);
}

void answers_wake(struct answers *a)
{
	a->is_asleep = false;
}

void answers_forget_map(struct answers *a)
{
	walk_cache_clear(&a->cache);
}

void answers_forget_boot(struct answers *a)
{
	a->is_asleep = false;
	a->has_version = false;
	a->asked_len = 0;
	forget_contexts(a);
}

void answers_stopped(struct answers *a)
{
	forget_contexts(a);
	a->asked_len = 0;
}

// The pages around the read that was asked for, as far as they are there.
static void look_around(struct answers *a, uint8_t to[ANSWERS_AROUND_PAGES][ANSWERS_PAGE])
{
	uint64_t page = (get_le64(a->asked + OFFSET_ADDRESS) & ~(uint64_t)(ANSWERS_PAGE - 1)) - ANSWERS_PAGE;
	bool is_physical = get_le32(a->asked) == KD_API_READ_PHYSICAL;

	memset(to, 0, ANSWERS_AROUND_PAGES * ANSWERS_PAGE);
	for (unsigned i = 0; i < ANSWERS_AROUND_PAGES; i++, page += ANSWERS_PAGE) {
		if (is_physical)
			ram_read(a->ram, page, to[i], ANSWERS_PAGE);
		else
			walk_read(a->ram, &a->regs, &a->cache, page, to[i], ANSWERS_PAGE, NULL);
	}
}

void answers_asked(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	enum answers_reason reason;

	a->asked_len = a->before_len = 0;
	if (a->mode == ANSWERS_OFF || body_len < KD_MANIPULATE_SIZE || body_len > KD_BODY_MAX)
		return;
	if (!leaves_contexts(get_le32(body)))
		forget_contexts(a);
	memcpy(a->asked, body, body_len);
	a->asked_len = body_len;
	if (a->mode != ANSWERS_CHECK)
		return;
	reason = make(a, body, body_len, &a->before_len);
	a->counters.asked[reason]++;
	if (reason)
		return;
	memcpy(a->before, a->reply, a->before_len);
	if (is_read(get_le32(body)))
		look_around(a, a->around_before);
}

static void keep_answer(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	uint32_t api = get_le32(body);

	if (get_le32(body + OFFSET_STATUS) != KD_STATUS_SUCCESS || a->asked_len != KD_MANIPULATE_SIZE)
		return;
	if (api == KD_API_GET_VERSION && body_len == KD_MANIPULATE_SIZE) {
		memcpy(a->version, body + OFFSET_UNION, sizeof(a->version));
		a->has_version = true;
	} else if (api == KD_API_GET_CONTEXT || api == KD_API_GET_CONTEXT_EX) {
		keep_context(a, body, body_len);
	}
}

// ---- --check-ram ----------------------------------------------------------------------------------------

static void note_difference(struct answers *a, uint32_t at, uint32_t ram, uint32_t guest, bool *is_first)
{
	uint32_t api = get_le32(a->asked);
	bool is_data = at >= KD_MANIPULATE_SIZE && is_read(api);

	a->counters.differences++;
	if (!*is_first)
		return;
	*is_first = false;
	a->difference = (struct answers_difference){
		.api = api,
		.address = is_data ? get_le64(a->asked + OFFSET_ADDRESS) + at - KD_MANIPULATE_SIZE : at,
		.ram = ram,
		.guest = guest,
	};
}

// A kernel without SearchMemory says "unsuccessful" (KD reference, section 4.4): nothing to hold against it.
static bool is_not_offered(uint32_t api, uint32_t status)
{
	return api == KD_API_SEARCH_MEMORY && status == KD_STATUS_UNSUCCESSFUL;
}

// Which of the pages around are, or lie beside, memory that the guest answers with.
static void find_moving(struct answers *a, bool ret[ANSWERS_AROUND_PAGES])
{
	bool has_changed[ANSWERS_AROUND_PAGES + 2] = { false };

	look_around(a, a->around_after);
	for (unsigned i = 0; i < ANSWERS_AROUND_PAGES; i++)
		has_changed[i + 1] = memcmp(a->around_before[i], a->around_after[i], ANSWERS_PAGE) != 0;
	for (unsigned i = 0; i < ANSWERS_AROUND_PAGES; i++)
		ret[i] = has_changed[i] || has_changed[i + 1] || has_changed[i + 2];
}

static bool is_left_out(const struct answers *a, uint32_t at, const bool is_moving[ANSWERS_AROUND_PAGES])
{
	uint32_t offset = (get_le32(a->asked + OFFSET_ADDRESS) & (ANSWERS_PAGE - 1)) + at - KD_MANIPULATE_SIZE;

	if (a->before[at] != a->reply[at])
		return true;
	return at >= KD_MANIPULATE_SIZE && is_read(get_le32(a->asked)) && is_moving[1 + offset / ANSWERS_PAGE];
}

// `before` and `reply` are what RAM says before and after the guest answered, of equal length.
static bool compare(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	bool is_first = true, is_moving[ANSWERS_AROUND_PAGES] = { false };

	a->counters.checked++;
	if (body_len != a->before_len || get_le32(body + OFFSET_STATUS) != KD_STATUS_SUCCESS) {
		note_difference(a, 0, a->before_len, body_len, &is_first);
		a->difference.is_form = true;
		a->difference.status = get_le32(body + OFFSET_STATUS);
		return true;
	}
	if (is_read(get_le32(body)))
		find_moving(a, is_moving);
	for (uint32_t i = 0; i < body_len; i++) {
		if (is_left_out(a, i, is_moving))
			continue;
		a->counters.checked_bytes += i >= KD_MANIPULATE_SIZE;
		if (a->before[i] != body[i])
			note_difference(a, i, a->before[i], body[i], &is_first);
	}
	return !is_first;
}

static bool check(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	uint32_t after_len = 0;

	if (a->mode != ANSWERS_CHECK || !a->before_len || is_not_offered(get_le32(body), get_le32(body + OFFSET_STATUS)))
		return false;
	if (make(a, a->asked, a->asked_len, &after_len) || after_len != a->before_len)
		return false; // it changed under the guest's hands, or the guest runs on
	return compare(a, body, body_len);
}

const struct answers_difference *answers_replied(struct answers *a, const uint8_t *body, uint32_t body_len)
{
	bool differs;

	if (!a->asked_len || body_len < KD_MANIPULATE_SIZE || body_len > KD_BODY_MAX || get_le32(body) != get_le32(a->asked))
		return NULL;
	differs = check(a, body, body_len);
	keep_answer(a, body, body_len);
	a->asked_len = 0;
	return differs ? &a->difference : NULL;
}
