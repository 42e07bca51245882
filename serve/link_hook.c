// SPDX-License-Identifier: MIT
// The link to libvmkd-vmm.so: a SEQPACKET socket that the library listens on (wire/link.h).
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "serve/guest_link.h"
#include "serve/last_words.h"
#include "util/rundir.h"
#include "util/sock.h"

// The library's socket appears when the VMM creates its VM; looking for it costs one failing connect.
#define RETRY_MS 20u
#define RETRY_LATER_MS 250u // after the first 2 seconds
#define RETRY_EARLY_COUNT 100u
// At most one DELIVER is outstanding and the other messages are flags, so more than a few in the queue is a library that has stopped reading.
#define OUT_MAX 16u

struct out_message {
	struct out_message *next;
	size_t len;
	uint8_t bytes[];
};

struct link_hook {
	struct guest_link base;
	char path[RUNDIR_PATH_MAX];
	struct loop_source source;
	struct loop_timer retry;
	unsigned retries;
	int fd;
	bool has_hello;
	uint32_t deliver_seq;
	struct out_message *out, **out_end;
	unsigned out_count;
	bool is_held;
	bool is_absent; // ops.set_present(false)
	bool is_asleep; // the guest waits, and nothing was sent since that could wake it: nothing is to be expected
	int in_fds[LINK_MEMORY_FILES_MAX]; // that came with the message in `in`
	uint32_t in_fd_count;
	struct last_words last_words;
	uint8_t in[sizeof(struct link_head) + LINK_BODY_MAX + 1] __attribute__((aligned(8)));
};

static void out_clear(struct link_hook *h)
{
	while (h->out) {
		struct out_message *message = h->out;

		h->out = message->next;
		free(message);
	}
	h->out_end = &h->out;
	h->out_count = 0;
}

static void retry_later(struct link_hook *h)
{
	if (!h->is_absent)
		loop_timer_arm(h->base.loop, &h->retry, h->retries++ < RETRY_EARLY_COUNT ? RETRY_MS : RETRY_LATER_MS);
}

static void tell_no_memory(struct link_hook *h)
{
	const struct link_memory nothing = { .pid = (uint32_t)h->base.pid };

	h->base.events->memory(h->base.arg, &nothing, offsetof(struct link_memory, pieces), NULL, 0);
}

static void give_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	struct link_hook *h = arg;

	h->base.events->packet(h->base.arg, head, body);
}

// The socket's end comes before the process is seen as ended: the kernel closes files first.
#define DEATH_MS 200

// Does the end of the connection mean the end of the VMM? If not, the guest lives on and tells the rest itself to our next connection.
static bool is_vmm_dead(const struct link_hook *h)
{
	struct pollfd end = { .events = POLLIN };
	pid_t pid;
	uid_t uid;
	bool is_dead;

	if (!sock_peer(h->fd, &pid, &uid) || pid <= 0)
		return false;
	end.fd = pidfd_open(pid, 0);
	if (end.fd < 0)
		return errno == ESRCH;
	is_dead = poll(&end, 1, DEATH_MS) > 0;
	close(end.fd);
	return is_dead;
}

static void collect_last_words(struct link_hook *h)
{
	if (h->last_words.has_guest && is_vmm_dead(h))
		last_words_collect(&h->last_words, give_packet, h);
}

static void disconnect(struct link_hook *h)
{
	bool was_up = h->base.is_up;

	loop_remove(h->base.loop, &h->source);
	if (h->fd >= 0)
		close(h->fd);
	h->fd = -1;
	h->has_hello = false;
	last_words_gone(&h->last_words);
	ram_files_drop(&h->last_words.files);
	h->base.is_up = false;
	out_clear(h);
	retry_later(h);
	if (!was_up)
		return;
	tell_no_memory(h);
	h->base.events->down(h->base.arg);
}

// The other end broke the contract, or is another version: say so once in `list`, and do not hammer it.
static void refuse(struct link_hook *h, const char *why)
{
	h->base.messages_refused++;
	snprintf(h->base.remark, sizeof(h->base.remark), "%s", why);
	h->retries = RETRY_EARLY_COUNT;
	disconnect(h);
}

// ---- Sending ------------------------------------------------------------------------------------------

// Held back, even the end waits: edge-triggered, it is told once, and again with the change to EPOLLIN.
static uint32_t wanted_events(const struct link_hook *h)
{
	return (h->is_held ? (uint32_t)EPOLLET : (uint32_t)EPOLLIN) | (h->out ? (uint32_t)EPOLLOUT : 0u);
}

static void watch(struct link_hook *h)
{
	loop_change(h->base.loop, &h->source, wanted_events(h));
}

// What is not read stays in the socket; when that is full, the library makes the vCPU wait a little (vmm/park.c).
static void hook_hold(struct guest_link *link, bool is_held)
{
	struct link_hook *h = (struct link_hook *)link;

	h->is_held = is_held;
	watch(h);
}

static void queue_message(struct link_hook *h, const struct link_head *head, const uint8_t *body)
{
	struct out_message *message = h->out_count < OUT_MAX ? malloc(sizeof(*message) + sizeof(*head) + head->body_len) : NULL;

	if (!message) {
		// Not disconnect(): we are inside an event. The reader meets the end of the stream on the loop's next turn.
		shutdown(h->fd, SHUT_RDWR);
		return;
	}
	message->next = NULL;
	message->len = sizeof(*head) + head->body_len;
	memcpy(message->bytes, head, sizeof(*head));
	if (head->body_len)
		memcpy(message->bytes + sizeof(*head), body, head->body_len);
	*h->out_end = message;
	h->out_end = &message->next;
	h->out_count++;
	watch(h);
}

// The common case is one system call and no copy. An error other than a full buffer shows again at the next read, which
// ends the connection from the loop: never from inside an event.
static void send_message(struct link_hook *h, const struct link_head *head, const uint8_t *body)
{
	struct iovec parts[2] = { { (void *)head, sizeof(*head) }, { (void *)body, head->body_len } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = head->body_len ? 2 : 1 };

	h->is_asleep = false;
	if (h->fd < 0)
		return;
	if (h->out || (sendmsg(h->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EAGAIN))
		queue_message(h, head, body);
}

static void flush_queue(struct link_hook *h)
{
	while (h->out) {
		struct out_message *message = h->out;

		if (send(h->fd, message->bytes, message->len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EAGAIN)
			return;
		h->out = message->next;
		if (!h->out)
			h->out_end = &h->out;
		h->out_count--;
		free(message);
	}
	watch(h);
}

static void send_plain(struct guest_link *link, enum link_type type)
{
	struct link_head head = { .type = (uint16_t)type };

	send_message((struct link_hook *)link, &head, NULL);
}

static void hook_deliver(struct guest_link *link, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len,
			 bool resumes)
{
	struct link_hook *h = (struct link_hook *)link;
	struct link_head head = {
		.type = LINK_DELIVER,
		.flags = resumes ? LINK_F_RESUMES : 0,
		.body_len = body_len,
		.seq = ++h->deliver_seq,
		.kd_type = kd_type,
		.hdr_len = hdr_len,
	};

	send_message(h, &head, body);
}

static void hook_breakin(struct guest_link *link)
{
	send_plain(link, LINK_BREAKIN);
}

static void hook_breakin_cancel(struct guest_link *link)
{
	send_plain(link, LINK_BREAKIN_CANCEL);
}

static void hook_resend(struct guest_link *link)
{
	send_plain(link, LINK_RESEND);
}

static void hook_ask_stats(struct guest_link *link)
{
	send_plain(link, LINK_STATS_GET);
}

// The VMM side tells the guest by itself that nobody is connected.
static void hook_set_present(struct guest_link *link, bool is_present)
{
	struct link_hook *h = (struct link_hook *)link;

	h->is_absent = !is_present;
	h->retries = 0;
	loop_timer_arm(link->loop, &h->retry, 0); // not from inside an op
}

// ---- Receiving ----------------------------------------------------------------------------------------

// Greetings differ in length from version to version; each begins with it.
static void refuse_version(struct link_hook *h, uint32_t theirs)
{
	char why[GUEST_LINK_REMARK_MAX];

	snprintf(why, sizeof(why), "the library in the VMM speaks link version %u, this vmkd %u: %s", theirs, LINK_VERSION,
		 theirs < LINK_VERSION ? "restart the VM with this vmkd's library" : "use the vmkd that came with it");
	h->base.library_version = theirs;
	refuse(h, why);
}

static void take_hello(struct link_hook *h, const struct link_head *head, const uint8_t *body)
{
	struct link_hello hello = { 0 };

	memcpy(&hello, body, head->body_len < sizeof(hello) ? head->body_len : sizeof(hello));
	if (hello.version && hello.version != LINK_VERSION) {
		refuse_version(h, hello.version);
		return;
	}
	if (h->has_hello || head->body_len != sizeof(hello)) {
		refuse(h, "the library in the VMM sent a damaged greeting");
		return;
	}
	h->has_hello = true;
	h->base.library_version = 0;
	h->base.calls_before = hello.port_calls;
	h->retries = 0;
	h->base.is_up = true;
	h->base.pid = (int)hello.pid;
	h->base.refused_version = hello.refused_version;
	h->base.remark[0] = 0;
	h->base.events->up(h->base.arg);
	if (hello.refused_version)
		h->base.events->refused(h->base.arg);
	if (hello.is_registered)
		last_words_registered(&h->last_words, &hello.guest);
	if (hello.is_registered)
		h->base.events->registered(h->base.arg, &hello.guest);
}

static bool packet_is_possible(const struct link_head *head)
{
	return head->hdr_len && head->hdr_len <= head->body_len;
}

static void take_memory(struct link_hook *h, uint32_t len)
{
	struct link_memory *m = (struct link_memory *)(h->in + sizeof(struct link_head));
	pid_t pid = 0;

	// Whose memory may be read across processes is the kernel's word: a broker of root's could read anybody's for a sender that says so.
	m->pid = sock_peer(h->fd, &pid, &h->base.owner) && pid > 0 ? (uint32_t)pid : 0;
	last_words_memory(&h->last_words, m, len, h->in_fds, h->in_fd_count);
	h->base.events->memory(h->base.arg, m, len, h->in_fds, h->in_fd_count);
}

static void take_message(struct link_hook *h, const struct link_head *head, const uint8_t *body)
{
	const struct guest_link_events *ev = h->base.events;
	struct link_guest guest;

	switch (head->type) {
	case LINK_REGISTERED:
		if (head->body_len != sizeof(guest))
			break;
		memcpy(&guest, body, sizeof(guest));
		h->base.refused_version = 0;
		last_words_registered(&h->last_words, &guest);
		ev->registered(h->base.arg, &guest);
		return;
	case LINK_UNREGISTERED:
		// The VMM exits, with its vCPUs stopped; what the socket had no room for is in the ring.
		if (head->code == LINK_GONE_BYE)
			last_words_collect(&h->last_words, give_packet, h);
		last_words_gone(&h->last_words);
		ev->gone(h->base.arg, head->code);
		return;
	case LINK_PACKET:
		if (!packet_is_possible(head))
			break;
		last_words_seen(&h->last_words, head->seq);
		ev->packet(h->base.arg, head, body);
		return;
	case LINK_WAIT:
		ev->waits(h->base.arg, head);
		return;
	case LINK_OTHER_VERSION:
		h->base.refused_version = head->code;
		ev->refused(h->base.arg);
		return;
	case LINK_BREAKIN_TAKEN:
		ev->breakin_taken(h->base.arg);
		return;
	case LINK_MEMORY:
		if (head->body_len < offsetof(struct link_memory, pieces) || head->body_len > sizeof(struct link_memory))
			break;
		take_memory(h, head->body_len);
		return;
	case LINK_STATS:
		if (head->body_len != sizeof(h->base.stats))
			break;
		memcpy(&h->base.stats, body, sizeof(h->base.stats));
		ev->stats(h->base.arg);
		return;
	default:
		break;
	}
	refuse(h, "the library in the VMM sent a message that cannot be");
}

static void close_fds(struct link_hook *h)
{
	while (h->in_fd_count)
		close(h->in_fds[--h->in_fd_count]);
}

// What is wrong with the message in h->in, or NULL.
static const char *find_fault(const struct link_hook *h, const struct link_head *head, size_t len, bool is_cut)
{
	if (head->body_len != len - sizeof(*head) || (head->type == LINK_HELLO) == h->has_hello)
		return "the library in the VMM sent a damaged message";
	if (is_cut || (h->in_fd_count && head->type != LINK_MEMORY))
		return "the library in the VMM sent descriptors that nobody asked for, or too many";
	return NULL;
}

static void judge_message(struct link_hook *h, size_t len, bool is_cut, struct link_head *ret_head)
{
	const char *fault;

	if (len < sizeof(*ret_head) || len > sizeof(h->in) - 1) {
		refuse(h, "the library in the VMM sent a message of impossible length");
		return;
	}
	memcpy(ret_head, h->in, sizeof(*ret_head));
	// Before the message is given on: what that makes us send is newer.
	h->is_asleep = ret_head->type == LINK_WAIT || (ret_head->type == LINK_PACKET && ret_head->flags & LINK_F_WAITS);
	fault = find_fault(h, ret_head, len, is_cut);
	if (fault)
		refuse(h, fault);
	else if (ret_head->type == LINK_HELLO)
		take_hello(h, ret_head, h->in + sizeof(*ret_head));
	else
		take_message(h, ret_head, h->in + sizeof(*ret_head));
}

enum received {
	RECEIVED_NOTHING,
	RECEIVED_ONE,
	RECEIVED_OF_MANY, // read again at once, more is likely there
};

static enum received receive_one(struct link_hook *h)
{
	struct link_head head = { 0 };
	bool is_cut = false;
	ssize_t len = sock_receive(h->fd, h->in, sizeof(h->in), h->in_fds, LINK_MEMORY_FILES_MAX, &h->in_fd_count, &is_cut);

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return RECEIVED_NOTHING;
	// It ended without having read all that we sent. The kernel says so once, before what it had sent itself.
	if (len < 0 && errno == ECONNRESET)
		return RECEIVED_ONE;
	if (len <= 0) {
		close_fds(h);
		collect_last_words(h);
		disconnect(h);
		return RECEIVED_ONE;
	}
	judge_message(h, (size_t)len, is_cut, &head);
	close_fds(h);
	// Only a print is likely to be followed by another message: after a wait the guest sleeps until it is answered.
	if (h->fd >= 0 && !h->is_held && head.type == LINK_PACKET && !(head.flags & LINK_F_WAITS))
		return RECEIVED_OF_MANY;
	return RECEIVED_ONE;
}

static void on_socket(struct loop_source *source, uint32_t events)
{
	struct link_hook *h = source->arg;

	if (events & EPOLLOUT)
		flush_queue(h);
	if (h->fd >= 0 && !h->is_held && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		for (int i = 0; i < 64 && receive_one(h) == RECEIVED_OF_MANY; i++)
			;
}

static bool is_expected(struct loop_source *source)
{
	return !((struct link_hook *)source->arg)->is_asleep;
}

static bool take(struct loop_source *source)
{
	return receive_one(source->arg) != RECEIVED_NOTHING;
}

static const struct loop_polling polling = { .is_expected = is_expected, .take = take };

// ---- Life -----------------------------------------------------------------------------------------------

static void try_connect(struct loop_timer *timer)
{
	struct link_hook *h = timer->arg;
	struct link_head attach = { .type = LINK_ATTACH, .seq = LINK_VERSION };
	struct error *error;

	if (h->is_absent && h->fd >= 0)
		disconnect(h);
	if (h->is_absent || h->fd >= 0)
		return;
	error = sock_connect_unix(h->path, SOCK_SEQPACKET, SOCK_NONBLOCK, &h->fd);
	if (!error)
		error = loop_add(h->base.loop, &h->source, h->fd, wanted_events(h), on_socket, h);
	if (!error)
		loop_poll(h->base.loop, &h->source, &polling);
	if (error) {
		if (h->fd >= 0)
			close(h->fd);
		h->fd = -1;
		error_free(error); // not there yet, or gone for good: whoever follows the VM's process decides
		retry_later(h);
		return;
	}
	send_message(h, &attach, NULL);
}

static void hook_destroy(struct guest_link *link)
{
	struct link_hook *h = (struct link_hook *)link;

	loop_timer_cancel(link->loop, &h->retry);
	loop_remove(link->loop, &h->source);
	if (h->fd >= 0)
		close(h->fd);
	out_clear(h);
	last_words_deinit(&h->last_words);
	free(h);
}

static const struct guest_link_ops hook_ops = {
	.name = "hook",
	.deliver = hook_deliver,
	.breakin = hook_breakin,
	.breakin_cancel = hook_breakin_cancel,
	.resend = hook_resend,
	.hold = hook_hold,
	.set_present = hook_set_present,
	.ask_stats = hook_ask_stats,
	.destroy = hook_destroy,
};

struct error *link_hook_create(struct loop *loop, const char *vm_name, const struct guest_link_events *events, void *arg,
			       struct guest_link **ret)
{
	struct link_hook *h = calloc(1, sizeof(*h));
	struct error *error;

	if (!h)
		return error_create(ENOMEM, "out of memory");
	h->base = (struct guest_link){ .ops = &hook_ops, .events = events, .arg = arg, .loop = loop };
	h->fd = h->source.fd = -1;
	h->out_end = &h->out;
	h->retry = (struct loop_timer){ .fn = try_connect, .arg = h };
	error = rundir_path(vm_name, "vmm.sock", h->path);
	if (error) {
		free(h);
		return error;
	}
	loop_timer_arm(loop, &h->retry, 0);
	*ret = &h->base;
	return NULL;
}
