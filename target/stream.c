// SPDX-License-Identifier: MIT
#include "target/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "target/error.h"

#define INPUT_SIZE 16384u // several frames; more only means fewer reads

struct stream {
	int fd;
	int wake_fd;    // eventfd: stream_wake, stream_mark_pending
	int epoll_fd;   // what owners poll: fd and wake_fd
	bool is_socket; // send with MSG_NOSIGNAL
	bool is_closed;
	int os_error;
	bool is_marked; // stream_mark_pending
	atomic_bool is_woken;
	size_t input_at, input_len; // bytes of input not yet fed
	uint8_t input[INPUT_SIZE];
	struct kdcom kdcom;
};

uint64_t stream_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// ---- life ----------------------------------------------------------------------------------------------------------------------

static bool watch(int epoll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool open_descriptors(struct stream *stream)
{
	stream->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	stream->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return stream->wake_fd >= 0 && stream->epoll_fd >= 0 && watch(stream->epoll_fd, stream->fd) &&
	       watch(stream->epoll_fd, stream->wake_fd) && fcntl(stream->fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0;
}

static void close_descriptors(struct stream *stream)
{
	if (stream->wake_fd >= 0)
		close(stream->wake_fd);
	if (stream->epoll_fd >= 0)
		close(stream->epoll_fd);
}

struct vmkd_error *stream_create(int fd, uint32_t resend_ms, struct stream **ret)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	int type;
	socklen_t len = sizeof(type);

	if (!stream)
		return error_no_memory();
	stream->fd = fd;
	if (!open_descriptors(stream)) {
		struct vmkd_error *error = error_os(errno, "cannot watch the connection");
		close_descriptors(stream);
		free(stream);
		return error;
	}
	stream->is_socket = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0;
	kdcom_init(&stream->kdcom, KDCOM_DEBUGGER);
	stream->kdcom.limits.retry_ms = resend_ms;
	*ret = stream;
	return NULL;
}

void stream_destroy(struct stream *stream)
{
	if (!stream)
		return;
	close_descriptors(stream);
	close(stream->fd);
	free(stream);
}

struct kdcom *stream_kdcom(struct stream *stream)
{
	return &stream->kdcom;
}

// ---- bytes ---------------------------------------------------------------------------------------------------------------------

static void mark_closed(struct stream *stream, int os_error)
{
	if (stream->is_closed)
		return;
	stream->is_closed = true;
	stream->os_error = os_error;
}

void stream_flush(struct stream *stream)
{
	const uint8_t *bytes;
	size_t len;

	for (;;) {
		kdcom_output(&stream->kdcom, &bytes, &len);
		if (len == 0)
			return;
		ssize_t done = stream->is_socket ? send(stream->fd, bytes, len, MSG_NOSIGNAL) : write(stream->fd, bytes, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done == 0 || (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)))
			return;
		// What can never be written is dropped, not fatal: the ended connection may still hold input to read.
		kdcom_output_consume(&stream->kdcom, done > 0 ? (size_t)done : len);
	}
}

// Reads what is there. -> false: nothing came.
static bool read_more(struct stream *stream)
{
	for (;;) {
		ssize_t count = read(stream->fd, stream->input, sizeof(stream->input));
		if (count > 0) {
			stream->input_at = 0;
			stream->input_len = (size_t)count;
			return true;
		}
		if (count < 0 && errno == EINTR)
			continue;
		if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
			mark_closed(stream, count == 0 ? 0 : errno);
		return false;
	}
}

// A RESET that does not answer ours was queued in a channel that buffers: so is what came with it (KD reference, section 1.5).
static void discard_input(struct stream *stream)
{
	stream->input_at = stream->input_len = 0;
	for (int i = 0; i < 64 && read_more(stream); i++)
		stream->input_at = stream->input_len = 0;
}

// ---- events --------------------------------------------------------------------------------------------------------------------

static bool translate(struct stream *stream, const struct kdcom_event *event, struct stream_event *ret)
{
	switch (event->kind) {
	case KDCOM_EV_PACKET:
		*ret = (struct stream_event){ .kind = STREAM_PACKET, .packet = *event };
		return true;
	case KDCOM_EV_SENT:
		*ret = (struct stream_event){ .kind = STREAM_SENT };
		return true;
	case KDCOM_EV_RESET:
		if (!event->is_answer)
			discard_input(stream);
		*ret = (struct stream_event){ .kind = STREAM_RESET };
		return true;
	case KDCOM_EV_GIVEN_UP:
		*ret = (struct stream_event){ .kind = STREAM_GIVEN_UP };
		return true;
	case KDCOM_EV_NONE:
	case KDCOM_EV_BREAKIN:
	case KDCOM_EV_RESEND_REQUEST:
	case KDCOM_EV_BLOCKED:
		return false;
	}
	return false;
}

// Feeds what was read. -> true: an event came.
static bool feed(struct stream *stream, struct stream_event *ret)
{
	struct kdcom_event event;
	size_t used;

	do {
		kdcom_feed(&stream->kdcom, stream->input + stream->input_at, stream->input_len - stream->input_at, &used, &event);
		stream->input_at += used;
		if (translate(stream, &event, ret))
			return true;
	} while (event.kind != KDCOM_EV_NONE && event.kind != KDCOM_EV_BLOCKED);
	return false;
}

static bool take_wake(struct stream *stream)
{
	uint64_t count;

	// Every request passes here: no system call unless there is something to take.
	if (!stream->is_marked && !atomic_load(&stream->is_woken))
		return false;
	stream->is_marked = false;
	if (read(stream->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return false;
	return atomic_exchange(&stream->is_woken, false);
}

// What can be had without waiting. -> true: *ret is set.
static bool next_ready(struct stream *stream, struct stream_event *ret)
{
	struct kdcom_event event;

	if (take_wake(stream)) {
		*ret = (struct stream_event){ .kind = STREAM_WOKEN };
		return true;
	}
	if (feed(stream, ret))
		return true;
	kdcom_timer(&stream->kdcom, stream_now(), &event);
	return translate(stream, &event, ret);
}

static int ms_until(uint64_t deadline)
{
	uint64_t now = stream_now();

	if (deadline == STREAM_FOREVER)
		return -1;
	if (deadline <= now)
		return 0;
	return deadline - now > INT32_MAX ? INT32_MAX : (int)(deadline - now);
}

enum slept { SLEPT_OVER, SLEPT_INPUT, SLEPT_OTHER, SLEPT_SIGNAL };

static enum slept sleep_until(struct stream *stream, uint64_t deadline)
{
	uint64_t timer = kdcom_deadline(&stream->kdcom);
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&stream->kdcom, &bytes, &len);
	// Input that could not be fed (the peer reads nothing, so there is no room for its ACKs) waits for room, not for more input.
	short events = (short)((stream_has_input(stream) ? 0 : POLLIN) | (len > 0 ? POLLOUT : 0));
	struct pollfd fds[] = { { .fd = stream->fd, .events = events }, { .fd = stream->wake_fd, .events = POLLIN } };
	int count = poll(fds, 2, ms_until(timer < deadline ? timer : deadline));
	if (count < 0)
		return errno == EINTR ? SLEPT_SIGNAL : SLEPT_OTHER;
	if (count == 0)
		return SLEPT_OVER;
	// stream_wake sets its flag before it writes: what is written late must be taken, too, or poll would never sleep again.
	stream->is_marked = stream->is_marked || fds[1].revents != 0;
	return fds[0].revents & (POLLIN | POLLHUP | POLLERR) ? SLEPT_INPUT : SLEPT_OTHER;
}

// What there is after a sleep. -> true: *ret is set.
static bool after_sleep(struct stream *stream, enum slept slept, uint64_t deadline, struct stream_event *ret)
{
	switch (slept) {
	case SLEPT_INPUT:
		if (!stream_has_input(stream))
			(void)read_more(stream); // nothing, or the end, shows in the next turn
		return false;
	case SLEPT_SIGNAL:
		*ret = (struct stream_event){ .kind = STREAM_SIGNAL };
		return true;
	case SLEPT_OVER:
	case SLEPT_OTHER:
		break;
	}
	if (deadline == STREAM_FOREVER || stream_now() < deadline || slept == SLEPT_OTHER)
		return false;
	*ret = (struct stream_event){ .kind = STREAM_NONE };
	return true;
}

void stream_next(struct stream *stream, uint64_t deadline, struct stream_event *ret)
{
	for (;;) {
		bool is_ready = next_ready(stream, ret);
		stream_flush(stream);
		if (is_ready)
			return;
		if (stream->is_closed) {
			*ret = (struct stream_event){ .kind = STREAM_CLOSED, .os_error = stream->os_error };
			return;
		}
		if (after_sleep(stream, sleep_until(stream, deadline), deadline, ret))
			return;
	}
}

void stream_wake(struct stream *stream)
{
	uint64_t one = 1;
	int saved = errno;

	atomic_store(&stream->is_woken, true);
	// Full (2^64 - 1 wakes) means readable, which is all that is wanted.
	ssize_t ignored = write(stream->wake_fd, &one, sizeof(one));
	(void)ignored;
	errno = saved;
}

int stream_poll_fd(const struct stream *stream)
{
	return stream->epoll_fd;
}

void stream_mark_pending(struct stream *stream)
{
	uint64_t one = 1;

	stream->is_marked = true;
	ssize_t ignored = write(stream->wake_fd, &one, sizeof(one)); // as in stream_wake
	(void)ignored;
}

bool stream_has_input(const struct stream *stream)
{
	return stream->input_at < stream->input_len;
}

bool stream_is_quiet(const struct stream *stream)
{
	struct pollfd fd = { .fd = stream->fd, .events = POLLIN };

	return !stream_has_input(stream) && poll(&fd, 1, 0) == 0;
}

int stream_poll_timeout(const struct stream *stream)
{
	uint64_t deadline = kdcom_deadline(&stream->kdcom);
	return deadline == KDCOM_NO_DEADLINE ? -1 : ms_until(deadline);
}
