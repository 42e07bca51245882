// SPDX-License-Identifier: MIT
#include "serve/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/sock.h"
#include "wire/kdapi.h"
#include "wire/le.h"

// Holds four of the largest frames: one read takes all that a debugger sends in a row.
#define CLIENT_IN_SIZE 16384u
// In a burst so much stays in the socket before it is taken out: some 40 requests.
#define CLIENT_PEEKED_MAX 4096u
// How long an ACK may wait for the answer it wants to travel with. Far below any debugger's ACK time-out (100 ms is the
// shortest known: KD reference, section 1.9), far above a round trip to the guest.
#define CLIENT_ACK_HOLD_MS 3u
// A RESET so soon after the last one, with nothing in between, is not a new wish but the debugger's answer to our answer, which it
// took for a RESET of ours.
#define CLIENT_BOUNCE_MS 200u
#define CLIENT_FAREWELL_MS 1000u

struct client {
	struct loop *loop;
	const struct client_events *events;
	void *arg;
	struct loop_source source;
	struct loop_timer timer; // kdcom's deadline
	uint64_t timer_at;       // as armed last, in now_ms
	struct loop_timer hold;  // an ACK that waits for its answer
	int fd;
	bool is_hung_up; // events.left is due or was called
	bool is_broken;  // a write failed for good: the loop's next turn hangs up
	bool is_in_batch;
	bool may_hold;   // nothing but control packets was put out since the last write
	bool is_after_reset; // nothing came since the last RESET
	uint64_t reset_ms;   // when that was
	size_t in_start, in_len; // bytes read and not fed
	bool can_peek;
	bool is_burst;           // the last request found by polling did not have to wait for the guest
	size_t peeked_len;       // bytes read and still in the socket
	char name[CLIENT_NAME_MAX];
	struct kdcom kdcom;
	uint8_t in[CLIENT_IN_SIZE];
};

static uint64_t now_ms(void)
{
	return loop_now_ns() / 1000000u;
}

// ---- Writing ------------------------------------------------------------------------------------------

static void write_output(struct client *c)
{
	const uint8_t *bytes;
	size_t len;
	ssize_t done;

	loop_timer_cancel(c->loop, &c->hold);
	c->may_hold = true;
	kdcom_output(&c->kdcom, &bytes, &len);
	if (!len || c->is_hung_up)
		return;
	done = send(c->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (done > 0)
		kdcom_output_consume(&c->kdcom, (size_t)done);
	c->is_broken = done < 0 && errno != EAGAIN && errno != EINTR;
	// While the client does not read, it is not read from: that bounds what it can make us hold.
	loop_change(c->loop, &c->source, done == (ssize_t)len ? EPOLLIN : EPOLLOUT);
}

// In a burst many packets share a deadline, whose unit is a millisecond.
static void arm_timer(struct client *c, uint64_t now)
{
	uint64_t deadline = kdcom_deadline(&c->kdcom);

	if (deadline == KDCOM_NO_DEADLINE)
		loop_timer_cancel(c->loop, &c->timer);
	else if (!c->timer.is_armed || deadline != c->timer_at)
		loop_timer_arm(c->loop, &c->timer, deadline > now ? deadline - now : 0);
	c->timer_at = deadline;
}

static void tell_time(struct client *c, uint64_t now)
{
	struct kdcom_event ev;

	kdcom_timer(&c->kdcom, now, &ev);
	if (ev.kind == KDCOM_EV_GIVEN_UP)
		c->events->given_up(c->arg);
	else if (ev.kind == KDCOM_EV_SENT)
		c->events->sent(c->arg);
}

static void end_batch(struct client *c)
{
	uint64_t now = now_ms();

	c->is_in_batch = true;
	tell_time(c, now);
	c->events->turn(c->arg);
	c->is_in_batch = false;
	if (c->may_hold && c->events->is_reply_near(c->arg)) {
		if (!c->hold.is_armed)
			loop_timer_arm(c->loop, &c->hold, CLIENT_ACK_HOLD_MS);
	} else {
		write_output(c);
	}
	arm_timer(c, now);
}

void client_flush(struct client *c)
{
	if (c->is_in_batch || c->is_hung_up)
		return;
	end_batch(c);
}

void client_send(struct client *c, uint16_t kd_type, const uint8_t *body, uint32_t body_len, bool is_droppable)
{
	uint32_t hdr_len = kd_header_size(kd_type);

	c->may_hold = false;
	// Full cannot be: output holds two frames, and one packet at a time is in flight. Should it be, the peer's RESEND, RESET or
	// time-out finds the packet in flight or the session's copy.
	if (kdcom_send(&c->kdcom, kd_type, body, hdr_len, body + hdr_len, body_len - hdr_len,
		       is_droppable ? KDCOM_SEND_DROPPABLE : 0) == KDCOM_OK)
		return;
	c->kdcom.counters.blocked++;
}

void client_expect(struct client *c, uint16_t kd_type)
{
	kdcom_expect(&c->kdcom, kd_type);
}

void client_restart(struct client *c)
{
	kdcom_restart(&c->kdcom);
}

void client_cancel(struct client *c)
{
	kdcom_cancel(&c->kdcom);
}

// ---- Reading ------------------------------------------------------------------------------------------

static void hang_up(struct client *c)
{
	if (c->is_hung_up)
		return;
	c->is_hung_up = true;
	loop_remove(c->loop, &c->source);
	loop_timer_cancel(c->loop, &c->timer);
	loop_timer_cancel(c->loop, &c->hold);
}

static bool is_reset_frame(const uint8_t *p)
{
	return get_le32(p) == KDCOM_CONTROL_LEADER && get_le16(p + 4) == KDCOM_RESET;
}

// More RESETs behind one ask for the same thing, be they queued up or bounced. Answering each of them makes both ends answer answers
// for ever (KD reference, section 1.5). Both ids are at their start, nothing having come since. What follows, a break-in for one, stands.
static void skip_resets(struct client *c)
{
	if (!c->is_after_reset || now_ms() - c->reset_ms > CLIENT_BOUNCE_MS)
		return;
	while (c->in_len >= KDCOM_HEAD && is_reset_frame(c->in + c->in_start)) {
		c->in_start += KDCOM_HEAD;
		c->in_len -= KDCOM_HEAD;
	}
}

static void handle(struct client *c, const struct kdcom_event *ev)
{
	switch (ev->kind) {
	case KDCOM_EV_PACKET:
		if (ev->is_lost)
			c->events->sent(c->arg);
		c->events->packet(c->arg, ev->type, ev->body, ev->body_len);
		break;
	case KDCOM_EV_SENT:
		c->events->sent(c->arg);
		break;
	case KDCOM_EV_BREAKIN:
		c->events->breakin(c->arg);
		break;
	case KDCOM_EV_RESET:
		c->is_after_reset = true;
		c->reset_ms = now_ms();
		skip_resets(c);
		c->may_hold = false;
		c->events->reset(c->arg);
		break;
	case KDCOM_EV_RESEND_REQUEST:
		c->events->resend(c->arg);
		break;
	default:
		break;
	}
}

static void feed(struct client *c)
{
	struct kdcom_event ev;
	size_t used;

	c->is_in_batch = true; // what the events make us say is written once, at the end
	skip_resets(c);
	do {
		c->is_after_reset &= !c->in_len;
		kdcom_feed(&c->kdcom, c->in + c->in_start, c->in_len, &used, &ev);
		c->in_start += used;
		c->in_len -= used;
		handle(c, &ev);
	} while (ev.kind != KDCOM_EV_NONE && ev.kind != KDCOM_EV_BLOCKED);
	if (!c->in_len)
		c->in_start = 0;
	c->is_in_batch = false;
}

// Taking bytes out of a Unix socket wakes a peer that sleeps in read(), since it may write again: two changes of the processor for nothing, and
// as many as a request costs at all. So in a burst its requests are looked at where they are (SO_PEEK_OFF) and taken out together.
static void take_out_peeked(struct client *c)
{
	uint8_t away[CLIENT_PEEKED_MAX];

	while (c->peeked_len) {
		size_t part = c->peeked_len < sizeof(away) ? c->peeked_len : sizeof(away);
		ssize_t len = recv(c->fd, away, part, MSG_DONTWAIT);

		c->is_broken |= len <= 0; // cannot be: they are there
		c->peeked_len -= len > 0 ? (size_t)len : c->peeked_len;
	}
}

// flags: MSG_PEEK or 0. -> false: nothing was there.
static bool take_input(struct client *c, int flags)
{
	ssize_t len = recv(c->fd, c->in, sizeof(c->in), MSG_DONTWAIT | flags);

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (len > 0 && flags)
		c->peeked_len += (size_t)len;
	c->is_broken |= len <= 0;
	c->in_len = len > 0 ? (size_t)len : 0;
	return true;
}

static void work(struct client *c)
{
	if (c->is_broken) {
		hang_up(c);
		c->events->left(c->arg);
		return;
	}
	feed(c);
	end_batch(c);
}

static void on_socket(struct loop_source *source, uint32_t events)
{
	struct client *c = source->arg;

	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		write_output(c);
	take_out_peeked(c);
	if (!c->in_len && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		(void)take_input(c, 0); // nothing, or the end, is seen to below
	work(c);
}

// While the guest has the client's request, it is the guest who speaks next.
static bool is_expected(struct loop_source *source)
{
	struct client *c = source->arg;

	return !c->in_len && !c->events->is_reply_near(c->arg);
}

static bool take(struct loop_source *source)
{
	struct client *c = source->arg;

	// With the guest asked, the loop sleeps next, and what was peeked at would have to be taken out for that: one call more than a read.
	if (!c->is_burst || c->peeked_len >= CLIENT_PEEKED_MAX)
		take_out_peeked(c);
	if (!take_input(c, c->can_peek && c->is_burst ? MSG_PEEK : 0))
		return false;
	work(c);
	c->is_burst = !c->is_hung_up && !c->events->is_reply_near(c->arg); // who has left is nobody's to ask about
	return true;
}

static void settle(struct loop_source *source)
{
	take_out_peeked(source->arg);
}

static const struct loop_polling polling = { .is_expected = is_expected, .take = take, .settle = settle };

static bool make_peekable(int fd)
{
	int domain = 0, offset = 0;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
	       setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) == 0;
}

void client_notice_end(struct client *c)
{
	struct pollfd state = { .fd = c->fd, .events = POLLRDHUP };

	// Bounded: a peer that is gone cannot write more than the socket holds.
	for (int i = 0; i < 64 && !c->is_hung_up && poll(&state, 1, 0) > 0; i++)
		on_socket(&c->source, EPOLLIN);
}

static void on_timer(struct loop_timer *timer)
{
	client_flush(timer->arg);
}

static void on_hold(struct loop_timer *timer)
{
	write_output(timer->arg);
}

// ---- Life -----------------------------------------------------------------------------------------------

struct error *client_create(struct loop *loop, int fd, const struct client_events *events, void *arg, struct client **ret)
{
	struct client *c = calloc(1, sizeof(*c));
	struct error *error = NULL;

	if (!c)
		error = error_create(ENOMEM, "out of memory");
	else
		error = loop_add(loop, &c->source, fd, EPOLLIN, on_socket, c);
	if (error) {
		close(fd);
		free(c);
		return error;
	}
	loop_poll(loop, &c->source, &polling);
	c->can_peek = make_peekable(fd);
	c->loop = loop;
	c->events = events;
	c->arg = arg;
	c->fd = fd;
	c->may_hold = true;
	c->timer = (struct loop_timer){ .fn = on_timer, .arg = c };
	c->hold = (struct loop_timer){ .fn = on_hold, .arg = c };
	sock_describe_peer(fd, c->name, sizeof(c->name));
	kdcom_init(&c->kdcom, KDCOM_TARGET);
	*ret = c;
	return NULL;
}

void client_destroy(struct client *c)
{
	if (!c)
		return;
	hang_up(c);
	close(c->fd);
	free(c);
}

const char *client_name(const struct client *c)
{
	return c->name;
}

int client_pid(const struct client *c)
{
	pid_t pid = 0;
	uid_t uid;

	return sock_peer(c->fd, &pid, &uid) ? pid : 0;
}

void client_observe(struct client *c, const struct kdcom_observer *observer)
{
	c->kdcom.observer = observer;
}

const struct kdcom_counters *client_counters(const struct client *c)
{
	return &c->kdcom.counters;
}

// ---- Turning one away -----------------------------------------------------------------------------------

struct farewell {
	struct loop *loop;
	struct loop_source source;
	struct loop_timer timer;
	int fd;
};

static void farewell_end(struct farewell *f)
{
	loop_remove(f->loop, &f->source);
	loop_timer_cancel(f->loop, &f->timer);
	close(f->fd);
	free(f);
}

static void farewell_timer(struct loop_timer *timer)
{
	farewell_end(timer->arg);
}

// Closing with unread input resets the connection and may destroy our line on its way, so the input is read away first.
static void farewell_socket(struct loop_source *source, uint32_t events)
{
	struct farewell *f = source->arg;
	char away[4096];
	ssize_t len = recv(f->fd, away, sizeof(away), MSG_DONTWAIT);

	(void)events;
	if (len == 0 || (len < 0 && errno != EAGAIN && errno != EINTR))
		farewell_end(f);
}

static void say(int fd, const char *text)
{
	uint8_t header[KD_DEBUG_IO_SIZE];
	struct kd_debug_io io = { .api = KD_DEBUG_IO_PRINT, .processor_level = 6, .length = (uint32_t)strlen(text) };
	struct kdcom *k = malloc(sizeof(*k));
	const uint8_t *bytes;
	size_t len;

	if (!k)
		return;
	kdcom_init(k, KDCOM_TARGET);
	if (kd_debug_io_encode(&io, header, sizeof(header)) == KD_OK &&
	    kdcom_send(k, KD_PACKET_DEBUG_IO, header, sizeof(header), text, io.length, KDCOM_SEND_DROPPABLE) == KDCOM_OK) {
		kdcom_output(k, &bytes, &len);
		if (send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
			// A new connection has room for one line; if not, hanging up says enough.
		}
	}
	free(k);
}

void client_turn_away(struct loop *loop, int fd, const char *text)
{
	struct farewell *f = calloc(1, sizeof(*f));
	struct error *error;

	say(fd, text);
	shutdown(fd, SHUT_WR);
	if (!f) {
		close(fd);
		return;
	}
	f->loop = loop;
	f->fd = fd;
	f->timer = (struct loop_timer){ .fn = farewell_timer, .arg = f };
	error = loop_add(loop, &f->source, fd, EPOLLIN, farewell_socket, f);
	if (error) {
		error_free(error);
		close(fd);
		free(f);
		return;
	}
	loop_timer_arm(loop, &f->timer, CLIENT_FAREWELL_MS);
}
