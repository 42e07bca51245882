// SPDX-License-Identifier: MIT
#include "serve/tap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "util/buf.h"

// Of the buffer, kept free of packets for the blocks that come with endpoints: some hundred of them.
#define TAP_RESERVE (64u * 1024u)
#define BLOCK_SMALL 512u // an interface or statistics
#define BLOCK_PACKET_MAX (KDCOM_FRAME_MAX + PCAPNG_COMMENT_MAX + 128u)
#define NO_INTERFACE UINT32_MAX

_Static_assert(2 * PCAPNG_NAME_MAX + 64 < BLOCK_SMALL, "an interface fits");

struct endpoint {
	bool is_used;
	uint32_t ids; // bit 0, 1: low bit of the next id of either direction
	char name[PCAPNG_NAME_MAX], description[PCAPNG_NAME_MAX];
};

// What one reader has of one endpoint.
struct slot {
	uint32_t interface; // NO_INTERFACE = not described yet
	uint64_t received, dropped;
	uint64_t untold; // of the dropped: since the last packet that it got
};

struct reader {
	struct tap *tap;
	struct reader *next;
	struct loop_source source;
	int fd;
	bool is_ending; // it has its statistics; closed when they are written
	uint32_t interface_count;
	struct buf out;
	struct slot slots[TAP_ENDPOINTS_MAX];
};

struct tap {
	struct loop *loop;
	struct reader *readers;
	unsigned reader_count;
	struct endpoint endpoints[TAP_ENDPOINTS_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// ---- One reader's buffer -----------------------------------------------------------------------------------

static void reader_destroy(struct reader *r)
{
	struct reader **at = &r->tap->readers;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	r->tap->reader_count--;
	loop_remove(r->tap->loop, &r->source);
	close(r->fd);
	buf_deinit(&r->out);
	free(r);
}

// -> false: the reader is gone.
static bool flush(struct reader *r)
{
	ssize_t done = r->out.len ? send(r->fd, buf_data(&r->out), r->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	if (done > 0)
		buf_consume(&r->out, (size_t)done);
	if ((done < 0 && errno != EAGAIN && errno != EINTR) || (r->is_ending && !r->out.len)) {
		reader_destroy(r);
		return false;
	}
	// Behind its end a stream is readable for ever.
	loop_change(r->tap->loop, &r->source, (r->is_ending ? 0 : EPOLLIN) | (r->out.len ? EPOLLOUT : 0));
	return true;
}

static bool put_section(struct reader *r)
{
	uint8_t *to = buf_reserve(&r->out, BLOCK_SMALL);

	if (!to)
		return false;
	buf_commit(&r->out, pcapng_put_section(to, BLOCK_SMALL, TRACE_APPLICATION));
	return true;
}

// -> false: no room.
static bool describe(struct reader *r, uint32_t number)
{
	const struct endpoint *e = &r->tap->endpoints[number];
	struct slot *slot = &r->slots[number];
	uint8_t *to;

	if (slot->interface != NO_INTERFACE)
		return true;
	to = r->interface_count < PCAPNG_INTERFACES_MAX ? buf_reserve(&r->out, BLOCK_SMALL) : NULL;
	if (!to)
		return false;
	buf_commit(&r->out, pcapng_put_interface(to, BLOCK_SMALL, e->name, e->description));
	slot->interface = r->interface_count++;
	return true;
}

// The endpoint's sums. What cannot be written is counted where there will be room again, at the guest.
static void put_sums(struct reader *r, uint32_t number)
{
	struct slot *slot = &r->slots[number], *guest = &r->slots[0];
	uint8_t *to = slot->interface != NO_INTERFACE ? buf_reserve(&r->out, BLOCK_SMALL) : NULL;

	if (to) {
		buf_commit(&r->out, pcapng_put_statistics(to, BLOCK_SMALL, slot->interface, now_ns(), slot->received, slot->dropped));
	} else if (slot != guest) {
		guest->received += slot->dropped;
		guest->dropped += slot->dropped;
		guest->untold += slot->untold;
	}
	*slot = (struct slot){ .interface = NO_INTERFACE };
}

static void put_packet(struct reader *r, uint32_t number, struct pcapng_packet *packet)
{
	struct slot *slot = &r->slots[number];
	uint8_t *to = NULL;

	slot->received++;
	if (!r->is_ending && r->out.len + TAP_RESERVE + BLOCK_PACKET_MAX <= r->out.max && describe(r, number))
		to = buf_reserve(&r->out, BLOCK_PACKET_MAX);
	if (!to) {
		slot->dropped++;
		slot->untold++;
		return;
	}
	packet->interface = slot->interface;
	packet->drop_count = slot->untold;
	slot->untold = 0;
	buf_commit(&r->out, pcapng_put_packet(to, BLOCK_PACKET_MAX, packet));
	loop_change(r->tap->loop, &r->source, EPOLLIN | EPOLLOUT);
}

static void end(struct reader *r)
{
	if (r->is_ending)
		return;
	for (uint32_t i = TAP_ENDPOINTS_MAX; i-- > 0;) // the guest last: it has what the others could not say
		if (r->tap->endpoints[i].is_used)
			put_sums(r, i);
	r->is_ending = true;
}

static void on_socket(struct loop_source *source, uint32_t events)
{
	struct reader *r = source->arg;
	uint8_t away[256]; // nothing is expected but the end

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !r->is_ending) {
		ssize_t len = recv(r->fd, away, sizeof(away), MSG_DONTWAIT);
		if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR))
			end(r);
	}
	(void)flush(r);
}

// ---- Readers -----------------------------------------------------------------------------------------------

bool tap_add_reader(struct tap *tap, int fd)
{
	struct reader *r = tap->reader_count < TAP_READERS_MAX ? calloc(1, sizeof(*r)) : NULL;
	struct error *error;

	if (!r) {
		close(fd);
		return false;
	}
	*r = (struct reader){ .tap = tap, .next = tap->readers, .fd = fd, .source.fd = -1 };
	buf_init(&r->out, TAP_BUFFER_MAX);
	for (uint32_t i = 0; i < TAP_ENDPOINTS_MAX; i++)
		r->slots[i].interface = NO_INTERFACE;
	tap->readers = r;
	tap->reader_count++;
	error = loop_add(tap->loop, &r->source, fd, EPOLLIN, on_socket, r);
	if (error || !put_section(r)) {
		error_free(error);
		reader_destroy(r);
		return false;
	}
	for (uint32_t i = 0; i < TAP_ENDPOINTS_MAX; i++)
		if (tap->endpoints[i].is_used)
			(void)describe(r, i); // an empty buffer has room
	return flush(r);
}

bool tap_is_on(const struct tap *tap)
{
	return tap && tap->readers;
}

unsigned tap_reader_count(const struct tap *tap)
{
	return tap->reader_count;
}

struct error *tap_create(struct loop *loop, struct tap **ret)
{
	struct tap *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return error_create(ENOMEM, "out of memory");
	tap->loop = loop;
	*ret = tap;
	return NULL;
}

void tap_destroy(struct tap *tap)
{
	if (!tap)
		return;
	while (tap->readers) {
		struct reader *r = tap->readers;
		end(r);
		if (flush(r))
			reader_destroy(r);
	}
	free(tap);
}

// ---- Endpoints ---------------------------------------------------------------------------------------------

uint32_t tap_endpoint(struct tap *tap, const char *name, const char *description)
{
	for (uint32_t i = 0; i < TAP_ENDPOINTS_MAX; i++) {
		struct endpoint *e = &tap->endpoints[i];
		if (e->is_used)
			continue;
		*e = (struct endpoint){ .is_used = true };
		snprintf(e->name, sizeof(e->name), "%s", name);
		snprintf(e->description, sizeof(e->description), "%s", description);
		return i;
	}
	return TAP_NO_ENDPOINT;
}

void tap_endpoint_gone(struct tap *tap, uint32_t endpoint)
{
	if (endpoint == TAP_NO_ENDPOINT)
		return;
	for (struct reader *r = tap->readers; r; r = r->next) {
		if (!r->is_ending)
			put_sums(r, endpoint);
		loop_change(tap->loop, &r->source, (r->is_ending ? 0 : EPOLLIN) | EPOLLOUT);
	}
	tap->endpoints[endpoint].is_used = false;
}

// ---- Packets -----------------------------------------------------------------------------------------------

static void record(struct tap *tap, uint32_t endpoint, struct pcapng_packet *packet)
{
	packet->time_ns = now_ns();
	for (struct reader *r = tap->readers; r; r = r->next)
		put_packet(r, endpoint, packet);
}

static bool is_wanted(const struct tap *tap, uint32_t endpoint)
{
	return tap_is_on(tap) && endpoint != TAP_NO_ENDPOINT;
}

static void record_bytes(struct tap *tap, uint32_t endpoint, uint32_t flags, const uint8_t *bytes, size_t len)
{
	struct pcapng_packet packet = { .flags = flags, .data = bytes, .len = (uint32_t)len };

	record(tap, endpoint, &packet);
}

void tap_frame(struct tap *tap, uint32_t endpoint, enum trace_direction direction, enum kdcom_damage damage, const uint8_t *head, size_t head_len,
	       const uint8_t *rest, size_t rest_len)
{
	uint8_t frame[KDCOM_FRAME_MAX];

	if (!is_wanted(tap, endpoint) || head_len > sizeof(frame) || rest_len > sizeof(frame) - head_len)
		return;
	memcpy(frame, head, head_len);
	if (rest_len)
		memcpy(frame + head_len, rest, rest_len);
	record_bytes(tap, endpoint, trace_flags_of(direction, damage), frame, head_len + rest_len);
}

static size_t make_frame(struct endpoint *e, enum trace_direction direction, uint16_t kd_type, const uint8_t *body, size_t body_len, uint8_t *to)
{
	uint32_t bit = direction == TRACE_TO_TARGET ? 2u : 1u;
	size_t len = trace_frame_make(kd_type, KDCOM_ID_INITIAL | ((e->ids & bit) != 0), body, body_len, to);

	e->ids ^= bit;
	return len;
}

void tap_packet(struct tap *tap, uint32_t endpoint, enum trace_direction direction, uint16_t kd_type, const uint8_t *body, size_t body_len)
{
	uint8_t frame[KDCOM_FRAME_MAX];

	if (!is_wanted(tap, endpoint))
		return;
	size_t len = make_frame(&tap->endpoints[endpoint], direction, kd_type, body, body_len, frame);
	if (len)
		record_bytes(tap, endpoint, trace_flags_of(direction, KDCOM_WHOLE), frame, len);
}

void tap_packet_before(struct tap *tap, uint32_t endpoint, enum trace_direction direction, uint16_t kd_type, const uint8_t *body, size_t body_len)
{
	static const char note[] = "of before the recording";
	uint8_t frame[KDCOM_FRAME_MAX];
	struct pcapng_packet packet = { .time_ns = now_ns(), .flags = trace_flags_of(direction, KDCOM_WHOLE), .data = frame, .comment = note,
					.comment_len = sizeof(note) - 1 };

	if (!is_wanted(tap, endpoint))
		return;
	packet.len = (uint32_t)make_frame(&tap->endpoints[endpoint], direction, kd_type, body, body_len, frame);
	if (packet.len)
		put_packet(tap->readers, endpoint, &packet);
}

void tap_control(struct tap *tap, uint32_t endpoint, enum trace_direction direction, enum kdcom_control type)
{
	uint8_t frame[KDCOM_HEAD];

	if (is_wanted(tap, endpoint))
		record_bytes(tap, endpoint, trace_flags_of(direction, KDCOM_WHOLE), frame, trace_frame_make_control(type, 0, frame));
}

void tap_breakin(struct tap *tap, uint32_t endpoint)
{
	static const uint8_t byte = KDCOM_BREAKIN_BYTE;

	if (is_wanted(tap, endpoint))
		record_bytes(tap, endpoint, trace_flags_of(TRACE_TO_TARGET, KDCOM_WHOLE), &byte, 1);
}

void tap_note(struct tap *tap, uint32_t endpoint, const char *text)
{
	struct pcapng_packet packet = { .comment = text, .comment_len = (uint32_t)strlen(text) };

	if (is_wanted(tap, endpoint))
		record(tap, endpoint, &packet);
}
