// SPDX-License-Identifier: MIT
#include "trace/player.h"

#include <stdlib.h>
#include <string.h>

#include "wire/le.h"

enum item_kind { ITEM_EVENT, ITEM_ANSWER };

// One thing that the target said.
struct item {
	enum item_kind kind;
	enum player_event_kind event;
	uint64_t time_ns;
	const uint8_t *request; // ANSWER
	const uint8_t *body;    // of the event, or of the reply
	uint16_t request_len, body_len;
};

// What one endpoint waits for, while the file is read.
struct open_request {
	const uint8_t *body; // NULL = nothing is open
	uint16_t len;
};

struct player {
	struct item *items;
	size_t count, room;
	size_t next;    // the item that comes next
	size_t stop;    // of the stop that the player is at
	size_t cursor;  // what was answered behind the last change at this stop
	bool is_at_stop;
};

// While the file is read.
struct loading {
	struct player *player;
	struct pcapng_reader reader;
	bool has_guest, has_talk;
	uint32_t first; // without a guest: the endpoint that the events are of
	bool is_running; // the target was let go, and has not stopped since
	bool is_full;    // memory
	struct item last_stop; // body NULL = none
	const uint8_t *last_frame; // from the target at the events' endpoint
	size_t last_frame_len;
	struct open_request open[PCAPNG_INTERFACES_MAX];
};

// ---- Reading the file --------------------------------------------------------------------------------------

static void add(struct loading *l, const struct item *item)
{
	struct player *p = l->player;

	if (p->count == p->room) {
		size_t room = p->room ? 2 * p->room : 256;
		struct item *items = realloc(p->items, room * sizeof(*items));
		if (!items) {
			l->is_full = true;
			return;
		}
		p->items = items;
		p->room = room;
	}
	p->items[p->count++] = *item;
}

static void add_event(struct loading *l, enum player_event_kind event, const struct pcapng_packet *packet, const struct trace_frame *f)
{
	const struct item item = { .kind = ITEM_EVENT, .event = event, .time_ns = packet->time_ns, .body = f->body, .body_len = (uint16_t)f->body_len };

	add(l, &item);
}

static bool is_guest(const struct loading *l, uint32_t interface)
{
	return strcmp(l->reader.interfaces[interface].name, TRACE_GUEST) == 0;
}

static bool has_events(const struct loading *l, uint32_t interface)
{
	return l->has_guest ? is_guest(l, interface) : interface == l->first;
}

// The same stop said again: after a RESET, or because it was asked for.
static bool is_same_stop(const struct loading *l, const struct trace_frame *f)
{
	return !l->is_running && l->last_stop.body && l->last_stop.body_len == f->body_len && memcmp(l->last_stop.body, f->body, f->body_len) == 0;
}

static void take_stop(struct loading *l, const struct pcapng_packet *packet, const struct trace_frame *f)
{
	if (f->body_len < KD_STATE_CHANGE_SIZE || is_same_stop(l, f))
		return;
	add_event(l, PLAYER_STOP, packet, f);
	l->last_stop = (struct item){ .body = f->body, .body_len = (uint16_t)f->body_len };
	l->is_running = false;
}

static void take_debug_io(struct loading *l, const struct pcapng_packet *packet, const struct trace_frame *f)
{
	struct kd_debug_io io;

	if (kd_debug_io_decode(f->body, f->body_len, &io) == KD_OK)
		add_event(l, io.api == KD_DEBUG_IO_PROMPT ? PLAYER_PROMPT : PLAYER_PRINT, packet, f);
}

static void take_reply(struct loading *l, uint32_t interface, const struct trace_frame *f)
{
	struct open_request *open = &l->open[interface];

	if (!open->body || l->is_running || f->body_len < KD_MANIPULATE_SIZE || get_le32(open->body) != get_le32(f->body))
		return;
	const struct item item = { .kind = ITEM_ANSWER, .request = open->body, .request_len = open->len, .body = f->body,
				   .body_len = (uint16_t)f->body_len };
	add(l, &item);
	open->body = NULL;
}

static void take_request(struct loading *l, uint32_t interface, const struct trace_frame *f)
{
	if (f->type != KD_PACKET_MANIPULATE || f->body_len < KD_MANIPULATE_SIZE)
		return;
	l->open[interface] = (struct open_request){ f->body, (uint16_t)f->body_len };
	if (!kd_api_resumes(get_le32(f->body)) || !has_events(l, interface))
		return;
	l->is_running = true;
	l->last_frame = NULL; // what comes now is news, whatever it looks like
}

// A frame that was not acknowledged in time comes again as it was.
static bool is_repetition(struct loading *l, const struct pcapng_packet *packet)
{
	bool is_same = l->last_frame && l->last_frame_len == packet->len && memcmp(l->last_frame, packet->data, packet->len) == 0;

	l->last_frame = packet->data;
	l->last_frame_len = packet->len;
	return is_same;
}

static void take_event(struct loading *l, const struct pcapng_packet *packet, const struct trace_frame *f)
{
	if (is_repetition(l, packet))
		return;
	if (f->id & KDCOM_ID_SYNC && l->player->count)
		add_event(l, PLAYER_RESTART, packet, &(struct trace_frame){ .body = f->body });
	if (f->type == KD_PACKET_STATE_CHANGE)
		take_stop(l, packet, f);
	else if (f->type == KD_PACKET_DEBUG_IO)
		take_debug_io(l, packet, f);
}

// A kernel that was there before the trace began has not come.
static void take_note(struct loading *l, const struct pcapng_packet *packet)
{
	static const char text[] = TRACE_NOTE_REGISTERED;
	bool is_registered = packet->comment_len >= sizeof(text) - 1 && memcmp(packet->comment, text, sizeof(text) - 1) == 0;

	if (!is_registered || !is_guest(l, packet->interface) || !l->player->count)
		return;
	add_event(l, PLAYER_RESTART, packet, &(struct trace_frame){ .body = packet->data });
	l->is_running = true;
	l->last_stop.body = NULL;
}

static void take_packet(struct loading *l, const struct pcapng_packet *packet)
{
	enum trace_direction direction = trace_direction_of(packet->flags);
	struct trace_frame f;

	trace_frame_read(packet->data, packet->len, &f);
	if (f.kind == TRACE_NOTHING)
		take_note(l, packet);
	if (f.kind != TRACE_DATA || f.damage != KDCOM_WHOLE)
		return;
	if (direction == TRACE_TO_TARGET)
		take_request(l, packet->interface, &f);
	else if (direction == TRACE_FROM_TARGET && f.type == KD_PACKET_MANIPULATE)
		take_reply(l, packet->interface, &f);
	else if (direction == TRACE_FROM_TARGET && has_events(l, packet->interface))
		take_event(l, packet, &f);
}

// Whose events there are. Nobody's: `first` stays as it is.
static void find_target(struct loading *l, const struct pcapng_packet *packet)
{
	struct trace_frame f;

	trace_frame_read(packet->data, packet->len, &f);
	if (f.kind != TRACE_DATA || f.damage != KDCOM_WHOLE || trace_direction_of(packet->flags) != TRACE_FROM_TARGET)
		return;
	l->has_guest |= is_guest(l, packet->interface);
	bool is_talk = f.type == KD_PACKET_MANIPULATE; // a target that was asked something is worth more than one that only spoke
	if (l->first == UINT32_MAX || (is_talk && !l->has_talk))
		l->first = packet->interface;
	l->has_talk |= is_talk;
}

static enum player_outcome each_packet(struct loading *l, const uint8_t *file, size_t len,
				       void (*take)(struct loading *l, const struct pcapng_packet *packet), const char **ret_problem)
{
	struct pcapng_packet packet;
	size_t used;

	pcapng_reader_init(&l->reader);
	for (;; file += used, len -= used) {
		switch (pcapng_read(&l->reader, file, len, &used, &packet)) {
		case PCAPNG_PACKET:
			if (l->reader.interfaces[packet.interface].linktype == PCAPNG_LINKTYPE_USER0)
				take(l, &packet);
			break;
		case PCAPNG_OTHER: break;
		case PCAPNG_MORE:
			if (l->reader.has_section)
				return PLAYER_OK;
			*ret_problem = "it is empty, or no pcapng file";
			return PLAYER_BAD_FILE;
		case PCAPNG_BAD: *ret_problem = l->reader.problem; return PLAYER_BAD_FILE;
		}
	}
}

static enum player_outcome load(struct loading *l, const uint8_t *file, size_t len, const char **ret_problem)
{
	l->first = UINT32_MAX;
	enum player_outcome outcome = each_packet(l, file, len, find_target, ret_problem);
	if (outcome != PLAYER_OK)
		return outcome;
	if (l->first == UINT32_MAX)
		return PLAYER_NO_TARGET;
	outcome = each_packet(l, file, len, take_packet, ret_problem);
	return l->is_full ? PLAYER_NO_MEMORY : outcome;
}

enum player_outcome player_create(const uint8_t *file, size_t len, struct player **ret, const char **ret_problem)
{
	struct loading *l = calloc(1, sizeof(*l));
	struct player *p = calloc(1, sizeof(*p));
	enum player_outcome outcome = PLAYER_NO_MEMORY;

	if (l && p) {
		l->player = p;
		outcome = load(l, file, len, ret_problem);
	}
	free(l);
	if (outcome == PLAYER_OK)
		*ret = p;
	else
		player_destroy(p);
	return outcome;
}

void player_destroy(struct player *p)
{
	if (p)
		free(p->items);
	free(p);
}

// ---- Playing -----------------------------------------------------------------------------------------------

void player_next(struct player *p, struct player_event *ret)
{
	*ret = (struct player_event){ .kind = PLAYER_END };
	if (p->is_at_stop)
		p->next = p->stop;
	while (p->next < p->count && p->items[p->next].kind == ITEM_ANSWER)
		p->next++;
	if (p->next == p->count)
		return;
	const struct item *item = &p->items[p->next];
	*ret = (struct player_event){ .kind = item->event, .time_ns = item->time_ns, .body = item->body, .body_len = item->body_len };
	p->is_at_stop = item->event == PLAYER_STOP;
	if (p->is_at_stop) {
		p->cursor = p->stop == p->next && p->cursor ? p->cursor : p->next + 1;
		p->stop = p->next;
	}
	p->next++;
}

void player_resume(struct player *p)
{
	p->is_at_stop = false;
	p->cursor = 0;
}

// ---- Answers -----------------------------------------------------------------------------------------------

// Behind the last item that belongs to the present stop: the next stop, or another kernel.
static size_t stop_end(const struct player *p)
{
	size_t at = p->stop + 1;

	while (at < p->count && (p->items[at].kind == ITEM_ANSWER || (p->items[at].event != PLAYER_STOP && p->items[at].event != PLAYER_RESTART)))
		at++;
	return at;
}

// What only looks. Everything else may change what is answered afterwards.
static bool is_read(uint32_t api)
{
	switch (api) {
	case KD_API_READ_VIRTUAL:
	case KD_API_READ_PHYSICAL:
	case KD_API_READ_CONTROL_SPACE:
	case KD_API_GET_CONTEXT:
	case KD_API_GET_CONTEXT_EX:
	case KD_API_GET_VERSION:
	case KD_API_READ_MSR:
	case KD_API_READ_IO:
	case KD_API_READ_IO_EXTENDED:
	case KD_API_SEARCH_MEMORY:
	case KD_API_GET_BUS_DATA:
	case KD_API_QUERY_MEMORY:
	case KD_API_QUERY_SPECIAL_CALLS:
	case KD_API_GET_INTERNAL_BREAKPOINT: return true;
	default: return false;
	}
}

// The part of a request that says what is wanted: fields that nobody sets, and gaps, hold anything.
static bool essence(const uint8_t *body, size_t len, uint8_t ret[KD_MANIPULATE_SIZE])
{
	struct kd_manipulate m;

	if (kd_manipulate_decode(body, len, KD_MACHINE_X64, &m) != KD_OK)
		return false;
	m.processor_level = 0;
	m.status = 0;
	if (kd_api_layout(m.api) == KD_LAYOUT_MEMORY && m.api != KD_API_READ_PHYSICAL && m.api != KD_API_WRITE_PHYSICAL)
		m.u.memory.actual_bytes = 0;
	if (m.api == KD_API_GET_CONTEXT || m.api == KD_API_SET_CONTEXT)
		m.u.context_flags = 0;
	if (m.api == KD_API_GET_VERSION) {
		m.processor = 0;
		wire_zero(&m.u, sizeof(m.u));
	}
	return kd_manipulate_encode(&m, KD_MACHINE_X64, ret, KD_MANIPULATE_SIZE) == KD_OK;
}

static bool is_same_request(const struct item *item, const uint8_t *wanted, const uint8_t *request, size_t len)
{
	uint8_t had[KD_MANIPULATE_SIZE];

	return item->kind == ITEM_ANSWER && item->request_len == len && essence(item->request, item->request_len, had) &&
	       memcmp(had, wanted, sizeof(had)) == 0 &&
	       memcmp(item->request + KD_MANIPULATE_SIZE, request + KD_MANIPULATE_SIZE, len - KD_MANIPULATE_SIZE) == 0;
}

// The first one in [from, to), else -1.
static const struct item *find_same(const struct player *p, size_t from, size_t to, const uint8_t *request, size_t len)
{
	uint8_t wanted[KD_MANIPULATE_SIZE];

	if (!essence(request, len, wanted))
		return NULL;
	for (size_t i = from; i < to; i++)
		if (is_same_request(&p->items[i], wanted, request, len))
			return &p->items[i];
	return NULL;
}

// The boot that the present stop is of.
static const struct item *find_version(const struct player *p, const uint8_t *request, size_t len)
{
	size_t from = p->stop, to = p->stop;

	while (from > 0 && !(p->items[from].kind == ITEM_EVENT && p->items[from].event == PLAYER_RESTART))
		from--;
	while (to < p->count && !(p->items[to].kind == ITEM_EVENT && p->items[to].event == PLAYER_RESTART))
		to++;
	return find_same(p, from, to, request, len);
}

// Bytes of `address` that this answer has, and where; 0 = none. Control space is not bytes: only what begins where it was asked for.
static uint32_t covered(const struct item *item, const struct kd_manipulate *wanted, uint64_t address, const uint8_t **ret)
{
	struct kd_manipulate m;

	if (item->kind != ITEM_ANSWER || get_le32(item->request) != wanted->api)
		return 0;
	if (kd_manipulate_decode(item->request, item->request_len, KD_MACHINE_X64, &m) != KD_OK)
		return 0;
	uint64_t start = m.u.memory.address;
	bool is_control = wanted->api == KD_API_READ_CONTROL_SPACE;
	if (is_control && (start != address || m.processor != wanted->processor))
		return 0;
	if (kd_manipulate_decode(item->body, item->body_len, KD_MACHINE_X64, &m) != KD_OK)
		return 0;
	uint32_t len = kd_manipulate_data_len(&m);
	if (address - start >= len)
		return 0;
	*ret = m.data + (address - start);
	return len - (uint32_t)(address - start);
}

// The bytes at `address`, as they were behind the cursor if somebody looked there, else before it.
static uint32_t find_bytes(const struct player *p, size_t end, const struct kd_manipulate *wanted, uint64_t address, const uint8_t **ret)
{
	uint32_t len = 0;

	for (size_t i = p->cursor; i < end && !len; i++)
		len = covered(&p->items[i], wanted, address, ret);
	for (size_t i = p->cursor; i > p->stop && !len; i--)
		len = covered(&p->items[i - 1], wanted, address, ret);
	return len;
}

static enum player_answer answer_memory(const struct player *p, const uint8_t *request, size_t len, uint8_t *reply, uint32_t *ret_len)
{
	size_t end = stop_end(p);
	struct kd_manipulate m;
	const uint8_t *bytes;
	uint32_t done = 0, part;

	if (kd_manipulate_decode(request, len, KD_MACHINE_X64, &m) != KD_OK)
		return PLAYER_IMPOSSIBLE;
	uint32_t want = m.u.memory.count < KD_DATA_MAX ? m.u.memory.count : KD_DATA_MAX;
	while (done < want && (part = find_bytes(p, end, &m, m.u.memory.address + done, &bytes)) > 0) {
		part = part < want - done ? part : want - done;
		memcpy(reply + KD_MANIPULATE_SIZE + done, bytes, part);
		done += part;
		if (m.api == KD_API_READ_CONTROL_SPACE)
			break;
	}
	m.u.memory.actual_bytes = done;
	m.status = done && (done == want || m.api == KD_API_READ_CONTROL_SPACE) ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL;
	if (kd_manipulate_encode(&m, KD_MACHINE_X64, reply, KD_MANIPULATE_SIZE) != KD_OK)
		return PLAYER_IMPOSSIBLE;
	*ret_len = KD_MANIPULATE_SIZE + done;
	return m.status == KD_STATUS_SUCCESS ? PLAYER_RECORDED : done ? PLAYER_IN_PART : PLAYER_NOT_RECORDED;
}

static enum player_answer answer_failure(const uint8_t *request, uint8_t *reply, uint32_t *ret_len)
{
	memcpy(reply, request, KD_MANIPULATE_SIZE);
	put_le32(reply + 8, KD_STATUS_UNSUCCESSFUL);
	*ret_len = KD_MANIPULATE_SIZE;
	return PLAYER_NOT_RECORDED;
}

static bool is_memory(uint32_t api)
{
	return api == KD_API_READ_VIRTUAL || api == KD_API_READ_PHYSICAL || api == KD_API_READ_CONTROL_SPACE;
}

enum player_answer player_request(struct player *p, const uint8_t *request, size_t len, uint8_t *reply, uint32_t *ret_len)
{
	if (!p->is_at_stop || len < KD_MANIPULATE_SIZE || len > KD_BODY_MAX)
		return PLAYER_IMPOSSIBLE;
	uint32_t api = get_le32(request);
	size_t end = stop_end(p);
	const struct item *item = find_same(p, p->cursor, end, request, len);
	if (!item)
		item = find_same(p, p->stop, p->cursor, request, len);
	if (!item && api == KD_API_GET_VERSION)
		item = find_version(p, request, len);
	if (!item)
		return is_memory(api) ? answer_memory(p, request, len, reply, ret_len) : answer_failure(request, reply, ret_len);
	if (!is_read(api))
		p->cursor = (size_t)(item - p->items) + 1;
	memcpy(reply, item->body, item->body_len);
	*ret_len = item->body_len;
	return PLAYER_RECORDED;
}
