// SPDX-License-Identifier: MIT
// The link to a stock target: its byte stream (util/endpoint.h), opened again and again, around the talk (serve/serial_talk.h).
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/guest_link.h"
#include "serve/serial_talk.h"
#include "util/endpoint.h"

// As of the other links. The early pace is for a target that is just starting; one that hangs up at once, unheard, does not get it again.
#define RETRY_MS 20u
#define RETRY_LATER_MS 250u
#define RETRY_EARLY_COUNT 100u
#define CONNECT_MS 5000u // for one address of a TCP host that does not answer
#define INPUT_SIZE 16384u

struct link_serial {
	struct guest_link base;
	struct endpoint at;
	struct addrinfo *addresses; // TCP
	const struct addrinfo *address; // to be tried next
	struct loop_source source;
	struct loop_timer retry; // connect, or give up an attempt
	struct loop_timer timer; // the talk's; at once: what an op has left to be said
	unsigned retries;
	int fd;
	bool is_connecting;
	bool is_absent, is_held, is_stats_asked;
	size_t input_at, input_len; // read and not fed: the output is full
	uint8_t input[INPUT_SIZE];
	struct serial_talk talk;
};

static uint64_t now_ms(void)
{
	return loop_now_ns() / 1000000u;
}

static bool is_socket(const struct link_serial *l)
{
	return l->at.kind != ENDPOINT_SERIAL;
}

// ---- Connections ---------------------------------------------------------------------------------------------

static void set_remark(struct link_serial *l, const char *text)
{
	snprintf(l->base.remark, sizeof(l->base.remark), "%s", text);
}

static void retry_later(struct link_serial *l)
{
	if (!l->is_absent)
		loop_timer_arm(l->base.loop, &l->retry, l->retries++ < RETRY_EARLY_COUNT ? RETRY_MS : RETRY_LATER_MS);
}

static void hang_up(struct link_serial *l)
{
	loop_remove(l->base.loop, &l->source);
	loop_timer_cancel(l->base.loop, &l->timer);
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	l->is_connecting = false;
	l->input_at = l->input_len = 0;
}

static void disconnect(struct link_serial *l, const char *why)
{
	bool was_up = l->base.is_up;

	hang_up(l);
	if (l->talk.has_spoken)
		l->retries = 0;
	serial_talk_stop(&l->talk);
	l->base.is_up = false;
	l->base.pid = 0;
	set_remark(l, why);
	retry_later(l);
	if (was_up)
		l->base.events->down(l->base.arg);
}

// What a serial line takes for the largest frame and its ACK, on top of the target's own time.
static uint32_t ack_patience_ms(const struct link_serial *l)
{
	uint64_t bits = (KDCOM_FRAME_MAX + KDCOM_HEAD) * 10ull; // 8 bits, a start and a stop

	return KDCOM_DEBUGGER_RETRY_MS + (is_socket(l) ? 0 : (uint32_t)(bits * 1000u / l->at.baud));
}

static void turn(struct link_serial *l);

static void connected(struct link_serial *l)
{
	pid_t pid = 0;

	l->is_connecting = false;
	loop_timer_cancel(l->base.loop, &l->retry);
	set_remark(l, "nothing was heard from the target yet: is its kernel booted with debugging on, on this line?");
	if (l->at.kind == ENDPOINT_UNIX && sock_peer(l->fd, &pid, &l->base.owner))
		l->base.pid = (int)pid;
	l->base.is_up = true;
	l->base.events->up(l->base.arg);
	serial_talk_start(&l->talk, now_ms(), ack_patience_ms(l));
	turn(l);
}

static void not_connected(struct link_serial *l, int code)
{
	char text[ERROR_TEXT_MAX];

	snprintf(text, sizeof(text), "cannot connect to the target: %s", strerror(code));
	disconnect(l, text);
}

// ---- Bytes ---------------------------------------------------------------------------------------------------------

// What can never be written is dropped: the end of the stream shows when it is read.
static void flush(struct link_serial *l)
{
	const uint8_t *bytes;
	ssize_t done;
	size_t len;

	for (;;) {
		kdcom_output(&l->talk.kdcom, &bytes, &len);
		if (!len || l->fd < 0)
			return;
		done = is_socket(l) ? send(l->fd, bytes, len, MSG_NOSIGNAL) : write(l->fd, bytes, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done == 0 || (done < 0 && errno == EAGAIN))
			return;
		kdcom_output_consume(&l->talk.kdcom, done > 0 ? (size_t)done : len);
	}
}

static bool has_output(const struct link_serial *l)
{
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&l->talk.kdcom, &bytes, &len);
	return len > 0;
}

// What a target that runs says may wait for a client that is behind. One that was given something is heard in any case.
static bool wants_input(const struct link_serial *l)
{
	return l->input_at == l->input_len && (!l->is_held || serial_talk_is_asking(&l->talk));
}

// Not read from, even the end waits: edge-triggered, it is told once, and again with the change to EPOLLIN.
static void watch(struct link_serial *l)
{
	uint64_t deadline = serial_talk_deadline(&l->talk), now = now_ms();

	if (l->fd < 0 || l->is_connecting)
		return;
	loop_change(l->base.loop, &l->source, (wants_input(l) ? (uint32_t)EPOLLIN : (uint32_t)EPOLLET) | (has_output(l) ? (uint32_t)EPOLLOUT : 0u));
	if (l->is_stats_asked)
		deadline = 0;
	if (deadline == UINT64_MAX)
		loop_timer_cancel(l->base.loop, &l->timer);
	else
		loop_timer_arm(l->base.loop, &l->timer, deadline > now ? deadline - now : 0);
}

static void feed(struct link_serial *l)
{
	bool had_spoken = l->talk.has_spoken;

	l->input_at += serial_talk_feed(&l->talk, l->input + l->input_at, l->input_len - l->input_at, now_ms());
	if (!had_spoken && l->talk.has_spoken)
		set_remark(l, "");
}

// After anything that happened.
static void turn(struct link_serial *l)
{
	serial_talk_timer(&l->talk, now_ms());
	flush(l);
	// There is room for answers again, perhaps.
	if (l->input_at < l->input_len) {
		feed(l);
		flush(l);
	}
	watch(l);
}

// -> true: something came.
static bool receive(struct link_serial *l)
{
	ssize_t len = read(l->fd, l->input, sizeof(l->input));

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (len <= 0) {
		disconnect(l, "the target's end of the line is closed; it is opened again as soon as it can be");
		return true;
	}
	l->input_at = 0;
	l->input_len = (size_t)len;
	feed(l);
	turn(l);
	return true;
}

static void on_connecting(struct link_serial *l)
{
	int code = endpoint_finish(l->fd);

	if (code)
		not_connected(l, code);
	else
		connected(l);
}

static void on_stream(struct loop_source *source, uint32_t events)
{
	struct link_serial *l = source->arg;

	if (l->is_connecting) {
		on_connecting(l);
		return;
	}
	if (events & EPOLLOUT)
		turn(l);
	if (l->fd >= 0 && wants_input(l) && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		(void)receive(l);
}

static bool is_expected(struct loop_source *source)
{
	struct link_serial *l = source->arg;

	return !l->is_connecting && wants_input(l) && l->talk.ask != SERIAL_ASK_NONE;
}

static bool take(struct loop_source *source)
{
	return receive(source->arg);
}

static const struct loop_polling polling = { .is_expected = is_expected, .take = take };

// ---- Time ----------------------------------------------------------------------------------------------------------------

static void tell_stats(struct link_serial *l)
{
	const struct kdcom_counters *c = &l->talk.kdcom.counters;

	l->is_stats_asked = false;
	l->base.stats = l->talk.stats;
	l->base.stats.refused += c->bad_size + c->bad_trailer + c->bad_checksum + c->bad_control + c->truncated;
	l->base.stats.retries += c->retransmissions;
	l->base.events->stats(l->base.arg);
}

static void on_timer(struct loop_timer *timer)
{
	struct link_serial *l = timer->arg;

	if (l->is_stats_asked)
		tell_stats(l);
	turn(l);
}

static struct error *begin(struct link_serial *l)
{
	const struct addrinfo *address = l->address;
	bool is_pending = false;
	struct error *error = endpoint_begin(&l->at, address, &l->fd, &is_pending);

	if (address)
		l->address = address->ai_next ? address->ai_next : l->addresses;
	if (error)
		return error;
	l->is_connecting = is_pending;
	error = loop_add(l->base.loop, &l->source, l->fd, is_pending ? EPOLLOUT : EPOLLIN, on_stream, l);
	if (!error)
		loop_poll(l->base.loop, &l->source, &polling);
	return error;
}

static void on_retry(struct loop_timer *timer)
{
	struct link_serial *l = timer->arg;
	struct error *error;

	if (l->is_absent) {
		if (l->fd >= 0)
			disconnect(l, "");
		return;
	}
	if (l->is_connecting) {
		not_connected(l, ETIMEDOUT);
		return;
	}
	if (l->fd >= 0)
		return;
	error = begin(l);
	if (error) {
		disconnect(l, error->text); // not there yet, or gone: it is tried again
		error_free(error);
	} else if (l->is_connecting) {
		loop_timer_arm(l->base.loop, &l->retry, CONNECT_MS);
	} else {
		connected(l);
	}
}

// ---- Ops -----------------------------------------------------------------------------------------------------------------

// Inside an op: what can be written is written, all else is the loop's.
static void settle_in_op(struct link_serial *l)
{
	flush(l);
	watch(l);
}

static void serial_deliver(struct guest_link *link, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes)
{
	struct link_serial *l = (struct link_serial *)link;

	serial_talk_deliver(&l->talk, kd_type, hdr_len, body, body_len, resumes);
	settle_in_op(l);
}

static void serial_breakin(struct guest_link *link)
{
	struct link_serial *l = (struct link_serial *)link;

	serial_talk_breakin(&l->talk);
	settle_in_op(l);
}

static void serial_breakin_cancel(struct guest_link *link)
{
	serial_talk_breakin_cancel(&((struct link_serial *)link)->talk);
}

static void serial_resend(struct guest_link *link)
{
	struct link_serial *l = (struct link_serial *)link;

	serial_talk_resend(&l->talk);
	settle_in_op(l);
}

static void serial_hold(struct guest_link *link, bool is_held)
{
	struct link_serial *l = (struct link_serial *)link;

	l->is_held = is_held;
	watch(l);
}

// Without a client the line is closed: a stock target finds by itself that nobody acknowledges.
static void serial_set_present(struct guest_link *link, bool is_present)
{
	struct link_serial *l = (struct link_serial *)link;

	if (l->is_absent == !is_present)
		return;
	l->is_absent = !is_present;
	l->retries = 0;
	loop_timer_arm(link->loop, &l->retry, 0);
}

static void serial_ask_stats(struct guest_link *link)
{
	struct link_serial *l = (struct link_serial *)link;

	l->is_stats_asked = true;
	loop_timer_arm(link->loop, &l->timer, 0);
}

static void serial_destroy(struct guest_link *link)
{
	struct link_serial *l = (struct link_serial *)link;

	loop_timer_cancel(link->loop, &l->retry);
	hang_up(l);
	if (l->addresses)
		freeaddrinfo(l->addresses);
	free(l);
}

static const struct guest_link_ops serial_ops = {
	.name = "serial",
	.deliver = serial_deliver,
	.breakin = serial_breakin,
	.breakin_cancel = serial_breakin_cancel,
	.resend = serial_resend,
	.hold = serial_hold,
	.set_present = serial_set_present,
	.ask_stats = serial_ask_stats,
	.destroy = serial_destroy,
};

struct error *link_serial_create(struct loop *loop, const char *from, const struct guest_link_events *events, void *arg, struct guest_link **ret)
{
	struct link_serial *l = calloc(1, sizeof(*l));
	struct error *error;

	if (!l)
		return error_create(ENOMEM, "out of memory");
	l->base = (struct guest_link){ .ops = &serial_ops, .events = events, .arg = arg, .loop = loop };
	l->fd = l->source.fd = -1;
	l->retry = (struct loop_timer){ .fn = on_retry, .arg = l };
	l->timer = (struct loop_timer){ .fn = on_timer, .arg = l };
	serial_talk_init(&l->talk, events, arg);
	error = endpoint_parse(from, &l->at);
	if (!error)
		error = endpoint_resolve(&l->at, &l->addresses);
	if (error) {
		free(l);
		return error;
	}
	l->address = l->addresses;
	loop_timer_arm(loop, &l->retry, 0);
	*ret = &l->base;
	return NULL;
}
