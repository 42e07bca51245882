// SPDX-License-Identifier: MIT
#include "serve/broker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "serve/answers.h"
#include "serve/connections.h"
#include "serve/ctl.h"
#include "serve/guest_link.h"
#include "serve/past.h"
#include "serve/pause.h"
#include "serve/ram_sock.h"
#include "serve/session.h"
#include "serve/stats.h"
#include "serve/status.h"
#include "serve/tap.h"
#include "util/rundir.h"
#include "util/sock.h"

// Only for the deadline to be seen: everything that happens ends a turn at once.
#define LINGER_TURN_MS 100
#define VERSION_TEXT_MAX 160u
#define DIFFERENCE_TEXT_MAX 160u
#define CHECK_TEXT_MAX (DIFFERENCE_TEXT_MAX + 128u)
#define DIFFERENCES_TOLD_MAX 20u

struct listener {
	struct broker *broker;
	struct loop_source source;
	int fd;
};

struct broker {
	struct loop *loop;
	char name[RUNDIR_NAME_MAX + 1];
	uint32_t told_version; // the refused_version that the user has been told, 0 = none
	bool was_up;
	int vm_pid;
	char ram_id[64]; // debugcon: as its link was created with
	bool is_stock;   // behind link_serial
	bool is_absent;  // --absent
	bool is_present; // for the guest
	void (*on_up)(void *arg, int vm_pid);
	void *on_up_arg;
	time_t started;

	struct guest_link *link;
	struct link_guest guest; // as registered last
	enum link_gone gone;     // why it is not any more; 0 = it is, or none ever was
	enum status_nested nested; // at its last stop
	struct tap *tap;
	uint32_t guest_endpoint; // in the tap
	struct connections connections;
	struct loop_timer session_timer;
	struct ctl *ctl;
	struct listener kd, tcp;
	char kd_path[RUNDIR_PATH_MAX];
	struct ram ram;
	const char *ram_remark; // why the guest's RAM cannot be read, NULL = it can
	struct answers answers;
	struct ram_sock *ram_sock; // NULL = cannot be offered
	char ram_sock_remark[160]; // why not
	struct answers_difference first_difference; // that --check-ram has found; api 0 = none
	unsigned differences_told;
	struct session session;
	struct past past;
};

// ---- Is the guest asleep? -----------------------------------------------------------------------------
// Between these two no vCPU executes and RAM stands still.

// In a wait again, with the registers in `head`: before anybody is told what it brought.
static void guest_sleeps(struct broker *b, const struct link_head *head)
{
	const struct walk_regs regs = { .cr0 = head->cr0, .cr3 = head->cr3, .cr4 = head->cr4, .efer = head->efer };

	answers_sleep(&b->answers, &regs, head->flags & LINK_F_NESTED);
	b->nested = status_nested_of(head);
	// It knows no nested registers; and what it lets debuggers read is in no trace.
	if (head->flags & LINK_F_NESTED || tap_is_on(b->tap))
		ram_sock_wakes(b->ram_sock);
	else
		ram_sock_sleeps(b->ram_sock, &regs, head->vcpu);
}

// It runs, or may at any moment: before anything is handed to it.
static void guest_wakes(struct broker *b)
{
	answers_wake(&b->answers);
	ram_sock_wakes(b->ram_sock);
}

// ---- The session's way out ----------------------------------------------------------------------------

static void to_guest_deliver(void *arg, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len, bool resumes)
{
	struct broker *b = arg;

	if (kd_type == KD_PACKET_MANIPULATE)
		answers_asked(&b->answers, body, body_len);
	guest_wakes(b);
	tap_packet(b->tap, b->guest_endpoint, TRACE_TO_TARGET, kd_type, body, body_len);
	b->link->ops->deliver(b->link, kd_type, hdr_len, body, body_len, resumes);
}

static void to_guest_breakin(void *arg)
{
	struct broker *b = arg;

	tap_breakin(b->tap, b->guest_endpoint);
	b->link->ops->breakin(b->link);
}

static void to_guest_breakin_cancel(void *arg)
{
	struct broker *b = arg;

	tap_note(b->tap, b->guest_endpoint, "the break-in is taken back");
	b->link->ops->breakin_cancel(b->link);
}

static void to_guest_resend(void *arg)
{
	struct broker *b = arg;

	guest_wakes(b);
	tap_control(b->tap, b->guest_endpoint, TRACE_TO_TARGET, KDCOM_RESEND);
	b->link->ops->resend(b->link);
}

static bool answer_from_ram(void *arg, const uint8_t *body, uint32_t body_len, const uint8_t **ret, uint32_t *ret_len)
{
	struct broker *b = arg;

	if (b->link->ops->has_left && b->link->ops->has_left(b->link))
		return false;
	return answers_make(&b->answers, body, body_len, ret, ret_len);
}

static uint32_t own_request(void *arg, uint8_t *body)
{
	struct broker *b = arg;

	return past_request(&b->past, body);
}

static void own_reply(void *arg, const uint8_t *body, uint32_t body_len)
{
	struct broker *b = arg;

	past_reply(&b->past, &b->session, body, body_len);
}

static const struct session_ops session_ops = {
	.own_request = own_request,
	.own_reply = own_reply,
	.guest_deliver = to_guest_deliver,
	.guest_breakin = to_guest_breakin,
	.guest_breakin_cancel = to_guest_breakin_cancel,
	.guest_resend = to_guest_resend,
	.answer = answer_from_ram,
	.client_send = connection_send,
	.client_expect = connection_expect,
	.client_restart = connection_restart,
	.client_cancel = connection_cancel,
};

static void arm_session_timer(struct broker *b)
{
	uint64_t deadline = session_deadline(&b->session), now;

	if (deadline == UINT64_MAX) {
		loop_timer_cancel(b->loop, &b->session_timer);
		return;
	}
	now = loop_now_ns() / 1000000u;
	loop_timer_arm(b->loop, &b->session_timer, deadline > now ? deadline - now : 0);
}

// After an event that did not come from a client: what it made the session say is written.
static void after_event(struct broker *b)
{
	arm_session_timer(b);
	connections_flush(&b->connections);
}

static void on_session_timer(struct loop_timer *timer)
{
	struct broker *b = timer->arg;

	session_timer(&b->session, loop_now_ns() / 1000000u);
	after_event(b);
}

// ---- The guest's link ---------------------------------------------------------------------------------

static void link_up(void *arg)
{
	struct broker *b = arg;

	if (b->link->pid)
		b->vm_pid = b->link->pid;
	if (!b->was_up && b->on_up)
		b->on_up(b->on_up_arg, b->link->pid);
	b->was_up = true;
}

static void note_gone(struct broker *b, enum link_gone reason)
{
	static const char *const notes[] = { [LINK_GONE_RESET] = TRACE_NOTE_GONE ": a reset", [LINK_GONE_SHUTDOWN] = TRACE_NOTE_GONE ": the machine is off",
					     [LINK_GONE_BYE] = TRACE_NOTE_GONE ": it said so", [LINK_GONE_AREA] = TRACE_NOTE_GONE ": its pages are not there any more",
					     [LINK_GONE_GUEST_ERROR] = TRACE_NOTE_GONE ": it broke the contract of the rings" };
	bool is_known = reason < sizeof(notes) / sizeof(notes[0]) && notes[reason];

	tap_note(b->tap, b->guest_endpoint, is_known ? notes[reason] : TRACE_NOTE_GONE);
}

static void link_gone(void *arg, enum link_gone reason)
{
	struct broker *b = arg;

	note_gone(b, reason);
	if (b->session.is_registered)
		b->gone = reason;
	b->nested = STATUS_NESTED_UNKNOWN;
	guest_wakes(b);
	answers_forget_boot(&b->answers);
	session_guest_gone(&b->session, reason);
	past_gone(&b->past, reason);
	after_event(b);
}

// The VMM has ended or let go of us: for the clients that is a machine switched off.
static void link_down(void *arg)
{
	link_gone(arg, LINK_GONE_SHUTDOWN);
}

static void link_registered(void *arg, const struct link_guest *guest)
{
	struct broker *b = arg;

	b->guest = *guest;
	b->gone = 0;
	tap_note(b->tap, b->guest_endpoint, TRACE_NOTE_REGISTERED);
	guest_wakes(b);
	answers_forget_boot(&b->answers);
	past_registered(&b->past, guest);
	if (guest->dialect == LINK_DIALECT_VMKD && guest->state & GUEST_PHASE1)
		session_guest_joined(&b->session);
	else
		session_guest_registered(&b->session);
	after_event(b);
}

static void describe_difference(const struct answers_difference *d, char *ret, size_t size)
{
	if (d->is_form)
		snprintf(ret, size, "%s: the guest answers %u bytes and status 0x%08X, RAM has %u bytes", kd_api_name(d->api), d->guest,
			 d->status, d->ram);
	else
		snprintf(ret, size, "%s at 0x%" PRIX64 ": the guest says %02X, RAM has %02X", kd_api_name(d->api), d->address, d->guest,
			 d->ram);
}

static void tell_difference(struct broker *b, const struct answers_difference *d)
{
	char text[DIFFERENCE_TEXT_MAX];

	if (!b->first_difference.api)
		b->first_difference = *d;
	if (b->differences_told++ >= DIFFERENCES_TOLD_MAX)
		return;
	describe_difference(d, text, sizeof(text));
	fprintf(stderr, "vmkd: %s: --check-ram: %s%s\n", b->name, text,
		b->differences_told == DIFFERENCES_TOLD_MAX ? "; more are only counted (vmkd stats)" : "");
}

// What the packet means for the answers to come.
static void hear_packet(struct broker *b, const struct link_head *head, const uint8_t *body)
{
	const struct answers_difference *difference = NULL;

	if (head->kd_type == KD_PACKET_MANIPULATE)
		difference = answers_replied(&b->answers, body, head->body_len);
	else if (head->kd_type == KD_PACKET_STATE_CHANGE || head->kd_type == KD_PACKET_STATE_CHANGE32)
		answers_stopped(&b->answers);
	if (difference)
		tell_difference(b, difference);
}

static void link_packet(void *arg, const struct link_head *head, const uint8_t *body)
{
	struct broker *b = arg;

	if (head->seq == 1) // a kernel numbers its packets from 1
		answers_forget_boot(&b->answers);
	if (head->flags & LINK_F_WAITS)
		guest_sleeps(b, head);
	else
		guest_wakes(b);
	tap_packet(b->tap, b->guest_endpoint, TRACE_FROM_TARGET, head->kd_type, body, head->body_len);
	hear_packet(b, head, body);
	session_guest_packet(&b->session, head->seq, head->kd_type, head->hdr_len, body, head->body_len,
			     head->flags & LINK_F_WAITS ? head->want : 0);
	after_event(b);
}

static void link_waits(void *arg, const struct link_head *head)
{
	struct broker *b = arg;

	guest_sleeps(b, head);
	session_guest_waits(&b->session, head->want);
	after_event(b);
}

static void link_breakin_taken(void *arg)
{
	struct broker *b = arg;

	session_guest_breakin_taken(&b->session);
}

static void link_stats_came(void *arg)
{
	struct broker *b = arg;

	ctl_stats_ready(b->ctl);
}

static void describe_version(const struct broker *b, char *ret, size_t size)
{
	uint32_t theirs = b->link->refused_version;

	snprintf(ret, size, "the guest module speaks version %u.%u, this vmkd %u.%u: install this vmkd's kdvmkd.dll in the guest",
		 theirs >> 16, theirs & 0xFFFFu, AREA_VERSION_MAJOR, AREA_VERSION_MINOR);
}

// The module tries again and again; the user is told once.
static void link_refused(void *arg)
{
	struct broker *b = arg;
	char text[VERSION_TEXT_MAX], line[VERSION_TEXT_MAX + 8];

	if (b->told_version == b->link->refused_version)
		return;
	b->told_version = b->link->refused_version;
	describe_version(b, text, sizeof(text));
	fprintf(stderr, "vmkd: %s: %s\n", b->name, text);
	snprintf(line, sizeof(line), "vmkd: %s\n", text);
	session_tell_all(&b->session, line); // who came before that module waits in vain
	after_event(b);
}

// Private RAM of the VMM is read across processes, and that may be forbidden. Memory of a device (a video card's) is always private: what matters is
// whether anything can be read.
static bool ram_is_readable(const struct ram *ram)
{
	bool found = !ram->piece_count;
	uint8_t byte;

	for (uint32_t i = 0; i < ram->piece_count && !found; i++)
		found = ram_read(ram, ram->pieces[i].gpa, &byte, 1) == 1;
	return found;
}

static void link_memory(void *arg, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	struct broker *b = arg;

	b->ram_remark = NULL;
	if (ram_take(&b->ram, m, len, fds, fd_count) != RAM_OK) {
		ram_deinit(&b->ram); // what was true before is not any more
		ram_init(&b->ram);
		b->ram_remark = "no answers from RAM: what the VMM's side tells of it cannot be, or cannot be mapped";
	}
	// Root's broker, or a privileged one: who listens for it may have given his place to another program.
	if (b->link->owner != geteuid())
		ram_guard(&b->ram, b->link->owner);
	if (!b->ram_remark && !ram_is_readable(&b->ram))
		b->ram_remark = "no answers from RAM: it is private to QEMU's process, which this broker may not read; "
				"give the VM RAM of type memory-backend-memfd,share=on, or run both as one user";
	answers_forget_map(&b->answers);
	ram_sock_memory(b->ram_sock, m, len, fds, fd_count);
}

static const struct guest_link_events link_events = {
	.up = link_up,
	.down = link_down,
	.registered = link_registered,
	.gone = link_gone,
	.packet = link_packet,
	.waits = link_waits,
	.breakin_taken = link_breakin_taken,
	.stats = link_stats_came,
	.refused = link_refused,
	.memory = link_memory,
};

// ---- The clients ----------------------------------------------------------------------------------------

static void clients_hold(void *arg, bool is_held)
{
	struct broker *b = arg;

	b->link->ops->hold(b->link, is_held);
}

static void update_presence(struct broker *b)
{
	bool is_present = !b->is_absent || b->connections.count > 0;

	if (is_present == b->is_present)
		return;
	b->is_present = is_present;
	b->link->ops->set_present(b->link, is_present);
}

static void clients_turn(void *arg)
{
	update_presence(arg);
	arm_session_timer(arg);
}

static const struct connections_events connections_events = { .hold = clients_hold, .turn = clients_turn };

// -> false: it may stay. Nothing else turns a debugger away.
static bool turn_away(struct broker *b, int fd)
{
	char text[VERSION_TEXT_MAX + 8], why[VERSION_TEXT_MAX];

	if (b->link->refused_version) // with a module that cannot be talked to a debugger would wait for ever
		describe_version(b, why, sizeof(why));
	else if (b->session.client_count >= SESSION_CLIENTS_MAX)
		snprintf(why, sizeof(why), "no more debuggers: %s has %u, as many as it can have; detach one", b->name, SESSION_CLIENTS_MAX);
	else
		return false;
	snprintf(text, sizeof(text), "vmkd: %s\n", why);
	connections_turn_away(&b->connections, fd, text);
	return true;
}

static void on_connection(struct loop_source *source, uint32_t events)
{
	struct listener *l = source->arg;
	struct broker *b = l->broker;
	int fd = sock_accept(l->fd);

	(void)events;
	if (fd < 0)
		return;
	if (!sock_peer_is_allowed(fd)) {
		close(fd);
		return;
	}
	connections_notice_ends(&b->connections);
	if (!turn_away(b, fd))
		connections_add(&b->connections, fd);
	update_presence(b);
}

// ---- What the control socket tells ------------------------------------------------------------------------

static const char *state_name(const struct broker *b)
{
	if (!b->is_present)
		return "no client (--absent)";
	if (!b->link->is_up)
		return b->is_stock ? "no target" : "no VMM";
	switch (session_state(&b->session)) {
	case SESSION_NO_GUEST:
		return "no guest module";
	case SESSION_RUNNING:
		return "running";
	default:
		return session_controller(&b->session) ? "broken in" : "waiting for a debugger";
	}
}

static void add_remark(cJSON *remarks, const char *text)
{
	cJSON_AddItemToArray(remarks, cJSON_CreateString(text));
}

// Why the guest answers what RAM could, or NULL.
static const char *ram_remark(const struct broker *b)
{
	if (b->is_stock)
		return NULL; // nobody expects any
	if (b->answers.mode == ANSWERS_OFF)
		return "--no-ram: every answer is the guest's own";
	if (b->ram_remark)
		return b->ram_remark;
	if (!b->session.is_registered)
		return NULL;
	if (!b->ram.piece_count && !b->link->remark[0])
		return "no answers from RAM: it is not known where it is";
	if (b->answers.is_asleep && b->answers.is_nested)
		return "no answers from RAM: the stopped processor runs a guest of its own (virtualization-based security, Hyper-V)";
	if (b->answers.is_asleep && walk_mode(&b->answers.regs) == WALK_MODE_NONE)
		return "no answers from RAM: the stopped processor's registers are not known";
	return NULL;
}

static void describe_check(const struct broker *b, char *ret, size_t size)
{
	const struct answers_counters *c = &b->answers.counters;
	char text[DIFFERENCE_TEXT_MAX] = "";

	if (b->first_difference.api)
		describe_difference(&b->first_difference, text, sizeof(text));
	snprintf(ret, size, "--check-ram: %" PRIu64 " bytes of RAM compared with the guest's answers, %" PRIu64 " differ%s%s",
		 c->checked_bytes, c->differences, text[0] ? "; the first: " : "", text);
}

static void add_remarks(struct broker *b, cJSON *remarks)
{
	char text[VERSION_TEXT_MAX], check[CHECK_TEXT_MAX];

	if (b->link->remark[0])
		add_remark(remarks, b->link->remark);
	if (b->link->pause && pause_is_in_force(b->link->pause))
		add_remark(remarks, "paused by vmkd (--pause-when-silent); it runs again as soon as the guest is asked for something");
	if (tap_is_on(b->tap))
		add_remark(remarks, "every packet is being recorded (vmkd trace)");
	if (b->ram_sock_remark[0])
		add_remark(remarks, b->ram_sock_remark);
	if (b->link->refused_version) {
		describe_version(b, text, sizeof(text));
		add_remark(remarks, text);
	}
	if (ram_remark(b))
		add_remark(remarks, ram_remark(b));
	if (b->answers.mode == ANSWERS_CHECK) {
		describe_check(b, check, sizeof(check));
		add_remark(remarks, check);
	}
}

static void ctl_status(void *arg, cJSON *ret)
{
	struct broker *b = arg;

	cJSON_AddStringToObject(ret, "name", b->name);
	cJSON_AddNumberToObject(ret, "pid", b->vm_pid);
	cJSON_AddNumberToObject(ret, "broker_pid", getpid());
	cJSON_AddStringToObject(ret, "link", b->link->ops->name);
	cJSON_AddStringToObject(ret, "state", state_name(b));
	status_add_link(ret, b->link);
	if (b->session.is_registered)
		status_add_guest(ret, &b->guest);
	status_add_gone(ret, b->gone);
	if (!b->is_stock)
		status_add_ram(ret, &b->ram, b->answers.mode, !b->ram_remark, b->nested);
	connections_add_status(&b->connections, ret);
	add_remarks(b, cJSON_AddArrayToObject(ret, "remarks"));
}

static void ctl_stats(void *arg, cJSON *ret)
{
	struct broker *b = arg;

	cJSON_AddStringToObject(ret, "name", b->name);
	cJSON_AddStringToObject(ret, "link", b->link->ops->name);
	stats_add_number(ret, "seconds", (uint64_t)(time(NULL) - b->started));
	stats_add_link(ret, &b->link->stats);
	if (b->link->stats.last_call_ms)
		stats_add_number(ret, "ms_since_call", loop_now_ns() / 1000000u - b->link->stats.last_call_ms);
	stats_add_number(ret, "link_messages_refused", b->link->messages_refused);
	stats_add_number(ret, "pauses", b->link->pause ? b->link->pause->pauses : 0);
	stats_add_number(ret, "pauses_undone", b->link->pause ? b->link->pause->undone : 0);
	stats_add_session(ret, &b->session.counters);
	stats_add_loop(ret, b->loop);
	stats_add_answers(ret, &b->answers.counters);
	connections_add_stats(&b->connections, ret);
}

static bool ctl_refresh_stats(void *arg)
{
	struct broker *b = arg;

	if (!b->link->is_up)
		return false;
	b->link->ops->ask_stats(b->link);
	return true;
}

static void ctl_control(void *arg, const struct ctl_request *request, int asker_pid, cJSON *ret)
{
	struct broker *b = arg;

	connections_control(&b->connections, request, asker_pid, ret);
}

static const uint8_t *ctl_history(void *arg, size_t *ret_len)
{
	struct broker *b = arg;

	*ret_len = b->session.history.len;
	return buf_data(&b->session.history);
}

// GetVersion is asked once for each boot, perhaps long ago; a recording without it is of little use as a target.
static void record_version(struct broker *b)
{
	const struct kd_manipulate request = { .api = KD_API_GET_VERSION };
	uint8_t body[KD_MANIPULATE_SIZE];
	const uint8_t *reply;
	uint32_t len;

	if (kd_manipulate_encode(&request, KD_MACHINE_X64, body, sizeof(body)) != KD_OK || !answers_make(&b->answers, body, sizeof(body), &reply, &len))
		return;
	tap_packet_before(b->tap, b->guest_endpoint, TRACE_TO_TARGET, KD_PACKET_MANIPULATE, body, sizeof(body));
	tap_packet_before(b->tap, b->guest_endpoint, TRACE_FROM_TARGET, KD_PACKET_MANIPULATE, reply, len);
}

// A recording that begins at a stop begins with it.
static void ctl_trace(void *arg, int fd)
{
	struct broker *b = arg;
	const struct session_packet *current = &b->session.current;

	if (!tap_add_reader(b->tap, fd))
		return;
	ram_sock_wakes(b->ram_sock);
	connections_observe(&b->connections);
	if (session_state(&b->session) < SESSION_STOPPED || !current->kd_type)
		return;
	tap_packet_before(b->tap, b->guest_endpoint, TRACE_FROM_TARGET, current->kd_type, current->body, current->body_len);
	record_version(b);
}

static const struct ctl_ops ctl_ops = {
	.status = ctl_status,
	.stats = ctl_stats,
	.refresh_stats = ctl_refresh_stats,
	.control = ctl_control,
	.history = ctl_history,
	.trace = ctl_trace,
};

// ---- Life -----------------------------------------------------------------------------------------------

static struct error *listener_start(struct broker *b, struct listener *l)
{
	l->broker = b;
	return loop_add(b->loop, &l->source, l->fd, EPOLLIN, on_connection, l);
}

static void listener_stop(struct broker *b, struct listener *l)
{
	loop_remove(b->loop, &l->source);
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

static struct error *listen_kd(struct broker *b)
{
	struct error *error = rundir_path(b->name, "kd.sock", b->kd_path);

	if (!error)
		error = sock_listen_unix(b->kd_path, SOCK_STREAM, SOCK_NONBLOCK, &b->kd.fd);
	if (!error)
		error = listener_start(b, &b->kd);
	return error;
}

static struct error *listen_tcp(struct broker *b, const char *text)
{
	struct sock_address address;
	bool is_loopback = true;
	struct error *error = sock_parse_address(text, &address);

	if (error)
		return error_prefix(error, "--tcp");
	error = sock_listen_tcp(&address, SOCK_NONBLOCK, &b->tcp.fd, &is_loopback);
	if (!error)
		error = listener_start(b, &b->tcp);
	if (!error && !is_loopback)
		fprintf(stderr, "vmkd: warning: KDCOM has no authentication: anybody who reaches %s controls the guest's kernel\n", text);
	return error;
}

// Without it debuggers lose speed and nothing else.
static void start_ram_sock(struct broker *b, bool is_off)
{
	struct error *error = ram_sock_create(b->loop, b->name, is_off, &b->ram_sock);

	if (!error)
		return;
	snprintf(b->ram_sock_remark, sizeof(b->ram_sock_remark), "%.*s", (int)sizeof(b->ram_sock_remark) - 1, error->text);
	error_free(error);
}

static struct error *create_link(struct broker *b, const struct broker_options *o, struct guest_link **ret)
{
	struct error *error;

	snprintf(b->ram_id, sizeof(b->ram_id), "%s", o->ram_id ? o->ram_id : "");
	if (strcmp(o->link, "serial") == 0)
		error = link_serial_create(b->loop, o->from, &link_events, b, ret);
	else if (strcmp(o->link, "debugcon") == 0)
		error = link_debugcon_create(b->loop, b->name, b->ram_id, o->pause_ms, o->watchdog_fd, &link_events, b, ret);
	else
		error = link_hook_create(b->loop, b->name, &link_events, b, ret);
	if (!error && !b->is_present)
		(*ret)->ops->set_present(*ret, false);
	return error;
}

struct error *broker_follow(struct broker *b, const char *link, const char *ram_id, int vm_pid)
{
	struct broker_options o = { .link = link, .ram_id = ram_id, .watchdog_fd = -1 };
	struct guest_link *old = b->link, *now = NULL;
	struct error *error = NULL;

	if (strcmp(link, old->ops->name) != 0 || strcmp(ram_id, b->ram_id) != 0)
		error = create_link(b, &o, &now);
	if (error)
		return error;
	b->vm_pid = vm_pid;
	if (!now)
		return NULL;
	if (old->is_up)
		link_down(b);
	b->link = now;
	old->ops->destroy(old);
	return NULL;
}

int broker_vm_pid(const struct broker *b)
{
	return b->link->is_up ? b->link->pid : 0;
}

static struct error *start(struct broker *b, const struct broker_options *o)
{
	char path[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(b->name, "ctl.sock", path);

	if (!error && o->tcp)
		error = listen_tcp(b, o->tcp);
	if (!error)
		error = create_link(b, o, &b->link);
	if (!error)
		error = ctl_create(b->loop, path, &ctl_ops, b, &b->ctl);
	if (!error)
		start_ram_sock(b, o->no_ram || o->check_ram || b->is_stock);
	// Last: whoever can connect finds everything else in place.
	if (!error)
		error = listen_kd(b);
	return error;
}

struct error *broker_create(struct loop *loop, const struct broker_options *o, struct broker **ret)
{
	struct error *error = rundir_check_name(o->name);
	struct broker *b;

	if (error)
		return error;
	b = calloc(1, sizeof(*b));
	if (!b)
		return error_create(ENOMEM, "out of memory");
	b->loop = loop;
	strcpy(b->name, o->name);
	ram_init(&b->ram);
	answers_init(&b->answers, o->check_ram ? ANSWERS_CHECK : o->no_ram ? ANSWERS_OFF : ANSWERS_ON, &b->ram);
	b->vm_pid = o->vm_pid;
	b->is_stock = strcmp(o->link, "serial") == 0;
	b->is_absent = o->is_absent;
	b->is_present = !o->is_absent;
	b->on_up = o->on_up;
	b->on_up_arg = o->arg;
	b->started = time(NULL);
	b->kd.fd = b->tcp.fd = b->kd.source.fd = b->tcp.source.fd = -1;
	b->session_timer = (struct loop_timer){ .fn = on_session_timer, .arg = b };
	session_init(&b->session, &session_ops, b);
	error = tap_create(loop, &b->tap);
	connections_init(&b->connections, loop, &b->session, b->tap, &connections_events, b);
	if (!error) {
		b->guest_endpoint = tap_endpoint(b->tap, TRACE_GUEST, o->link);
		error = start(b, o);
	}
	if (error) {
		broker_destroy(b);
		return error;
	}
	*ret = b;
	return NULL;
}

struct error *broker_linger(struct broker *b)
{
	uint64_t until = loop_now_ns() + BROKER_LINGER_MS * 1000000ull;
	struct error *error = NULL;

	b->loop->is_stopped = false;
	while (!error && (b->link->is_up || connections_are_owed(&b->connections)) && loop_now_ns() < until)
		error = loop_turn(b->loop, LINGER_TURN_MS);
	return error;
}

void broker_destroy(struct broker *b)
{
	char check[CHECK_TEXT_MAX];

	if (!b)
		return;
	if (b->answers.mode == ANSWERS_CHECK && b->was_up) {
		describe_check(b, check, sizeof(check));
		fprintf(stderr, "vmkd: %s: %s\n", b->name, check);
	}
	if (b->kd.fd >= 0)
		unlink(b->kd_path);
	listener_stop(b, &b->kd);
	listener_stop(b, &b->tcp);
	connections_deinit(&b->connections);
	loop_timer_cancel(b->loop, &b->session_timer);
	ctl_destroy(b->ctl);
	if (b->link)
		b->link->ops->destroy(b->link);
	tap_destroy(b->tap);
	ram_sock_destroy(b->ram_sock);
	session_deinit(&b->session);
	ram_deinit(&b->ram);
	free(b);
}
