// SPDX-License-Identifier: MIT
// The link without anything injected: a doorbell (isa-debugcon on a Unix socket), the guest's RAM as a shared file, and QMP for the map and
// for resets. The guest's calls run through the same machine as under the hook (vmm/call.h).
//
//   QEMU's sockets   debugcon.sock  bytes of the guest: rings and hellos
//                    monitor.sock   QMP, for this broker alone
//   on connecting    QMP: query-memdev -> find and map the file; info mtree -f -> where things are; then look for a module
//                    that was there before us
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/doorbell.h"
#include "serve/guest_link.h"
#include "serve/guest_ram.h"
#include "serve/pause.h"
#include "serve/qmp.h"
#include "serve/vmdir.h"
#include "util/rundir.h"
#include "util/sock.h"
#include "vmm/call.h"

#define RETRY_MS 20u // until QEMU has made its sockets; a failing connect costs next to nothing
#define RETRY_LATER_MS 250u
#define RETRY_EARLY_COUNT 100u
// A late host's search: pages per turn of the loop (some milliseconds), and how often candidates are looked at. A live module counts its
// polls at every clock tick, 64 times a second or more.
#define SCAN_PAGES 8192u
#define CANDIDATES_MAX 8u
#define CANDIDATE_MS 50u

#define NO_VCPU 0xFFFFFFFFu

struct link_debugcon {
	struct guest_link base;
	char bell_path[RUNDIR_PATH_MAX], monitor_path[RUNDIR_PATH_MAX];
	char ram_id[64];
	bool finds_ram; // ram_id was not told: the one backend that is shared

	struct loop_timer retry;
	unsigned retries;
	struct loop_source source; // the doorbell's socket
	int fd;
	struct doorbell doorbell;
	struct qmp *qmp;
	bool is_qmp_closed;
	struct pause pause;

	struct guest_ram ram;
	uint32_t memory_generation;
	bool is_map_asked;      // a map is on its way
	bool is_hello_waiting;  // for that map
	gpa_t hello;

	uint64_t scan_offset;        // in the RAM's file
	struct gpa_range scan_range; // being looked at; size 0 = none
	struct area_cursor scan_cursor;
	struct loop_timer scan;
	struct area_candidate candidates[CANDIDATES_MAX];
	unsigned candidate_count;
	struct loop_timer watch; // of the candidates

	struct loop_timer owed;  // something happened inside an op: tell it from the loop
	bool is_stats_asked;
	bool is_held;
	bool is_connected; // to both sockets
	bool is_absent;    // ops.set_present(false): nobody is told anything
	struct call call;
};

// For outcomes that change nothing here; the comment at the call says why.
static void let_be(uint32_t outcome)
{
	(void)outcome;
}

static uint64_t now_ms(void)
{
	return loop_now_ns() / 1000000u;
}

static void set_remark(struct link_debugcon *d, struct error *error)
{
	snprintf(d->base.remark, sizeof(d->base.remark), "%.*s", (int)sizeof(d->base.remark) - 1, error->text);
	error_free(error);
}

// ---- Driving the calls --------------------------------------------------------------------------------------

static void give_message(struct link_debugcon *d, const struct call_message *message)
{
	const struct guest_link_events *ev = d->base.events;
	struct link_guest guest;

	if (!d->base.is_up)
		return;
	switch (message->head.type) {
	case LINK_REGISTERED:
		memcpy(&guest, message->body, sizeof(guest));
		d->base.refused_version = 0;
		ev->registered(d->base.arg, &guest);
		break;
	case LINK_UNREGISTERED:
		ev->gone(d->base.arg, message->head.code);
		break;
	case LINK_PACKET:
		ev->packet(d->base.arg, &message->head, message->body);
		break;
	case LINK_WAIT:
		ev->waits(d->base.arg, &message->head);
		break;
	case LINK_OTHER_VERSION:
		d->base.refused_version = message->head.code;
		ev->refused(d->base.arg);
		break;
	case LINK_BREAKIN_TAKEN:
		ev->breakin_taken(d->base.arg);
		break;
	default:
		break;
	}
}

// The guest that makes this call waits for its answer, about a second at most, unless it runs into a wait of its own.
static bool is_held_back(const struct link_debugcon *d)
{
	return d->is_held && d->call.state == CALL_ST_COLLECTING && call_patience(&d->call) == CALL_WAITS_NOT;
}

// -> false: nothing to do.
static bool drive_once(struct link_debugcon *d)
{
	struct call_message message;

	switch (call_step(&d->call, now_ms(), &message)) {
	case CALL_SEND:
		// Sent first: what the session answers at once must find the wait open.
		call_sent(&d->call);
		give_message(d, &message);
		return true;
	case CALL_ANSWER:
		let_be(call_answer(&d->call)); // the guest reads it from its head
		return true;
	default:
		return false;
	}
}

// A guest that waits may be paused; one that was given something must run.
static void note_wait(struct link_debugcon *d)
{
	pause_note(&d->pause, call_is_awaited(&d->call));
}

// Without a broker a droppable wait ends by itself.
static void watch_deadline(struct link_debugcon *d)
{
	uint64_t deadline = call_deadline(&d->call), now = now_ms();

	if (deadline != UINT64_MAX && !d->owed.is_armed)
		loop_timer_arm(d->base.loop, &d->owed, deadline > now ? deadline - now : 0);
}

static void drive(struct link_debugcon *d)
{
	while (!is_held_back(d) && drive_once(d))
		;
	// What has been taken shows the guest that somebody is there, and it waits on.
	if (is_held_back(d))
		let_be((uint32_t)area_write_taken(&d->call.area)); // lost: the answer finds it as well
	note_wait(d);
	watch_deadline(d);
}

// Inside an op: the answer is in the guest's head already; what else there is to say must wait for the loop.
static void settle_in_op(struct link_debugcon *d)
{
	if (call_is_answered(&d->call))
		let_be(call_answer(&d->call)); // as above
	note_wait(d);
	if (d->call.owed || !d->call.area.is_registered)
		loop_timer_arm(d->base.loop, &d->owed, 0);
}

// Up while it is connected and wants to be. From the loop alone.
static void update_presence(struct link_debugcon *d);

static void on_owed(struct loop_timer *timer)
{
	struct link_debugcon *d = timer->arg;

	update_presence(d);
	drive(d);
	if (!d->is_stats_asked)
		return;
	d->is_stats_asked = false;
	d->base.stats = d->call.stats;
	d->base.stats.doorbells = d->doorbell.rings + d->doorbell.hellos;
	d->base.messages_refused = d->doorbell.refused;
	d->base.events->stats(d->base.arg);
}

static void begin(struct link_debugcon *d, const struct call_args *args)
{
	// A call that is still open is one that the guest has given up: this is its next.
	if (d->call.state != CALL_ST_IDLE) {
		call_kick(&d->call);
		drive(d);
	}
	let_be(call_begin(&d->call, &d->ram.gpa, args, now_ms())); // pending or answered: drive finds out
	drive(d);
}

// ---- The doorbell -------------------------------------------------------------------------------------------

static void ask_map(struct link_debugcon *d);

static void candidates_forget(struct link_debugcon *d)
{
	d->candidate_count = 0;
	loop_timer_cancel(d->base.loop, &d->watch);
}

static void register_area(struct link_debugcon *d, gpa_t head)
{
	struct call_args args = { .fn = CALL_REGISTER, .head = head, .vcpu = NO_VCPU };

	begin(d, &args);
	if (d->call.area.is_registered)
		candidates_forget(d);
}

// The map may have changed since it was read (firmware moves shadows around), so a hello is judged by a fresh one. The RESETs
// that came before the hello come before it here, too.
static void take_hello(struct link_debugcon *d, gpa_t head)
{
	if (d->qmp)
		qmp_drain(d->qmp);
	d->hello = head;
	d->is_hello_waiting = true;
	ask_map(d);
}

// Somebody rings whom we do not know: a module that an earlier broker had registered. It is told to register again; who it is, the search
// has found or will find.
static void take_unknown_ring(struct link_debugcon *d)
{
	for (unsigned i = 0; i < d->candidate_count; i++)
		let_be((uint32_t)area_write_refusal(&d->ram.gpa, d->candidates[i].head, CODE_REREGISTER)); // judged again there
}

static void take_ring(struct link_debugcon *d)
{
	struct call_args args;

	if (call_args_from_head(&d->call, &args) != AREA_OK) {
		// A snapshot was loaded, perhaps: QEMU has said RESUME before the guest could ring.
		if (d->qmp)
			qmp_drain(d->qmp);
		if (d->call.area.is_registered) {
			call_cut(&d->call, LINK_GONE_AREA);
			drive(d);
		}
		take_unknown_ring(d);
		return;
	}
	// The byte of a call that was seen with an earlier byte.
	if (d->call.state != CALL_ST_IDLE && args.seq == d->call.seq && args.fn == d->call.fn)
		return;
	begin(d, &args);
}

static void on_bytes(struct link_debugcon *d, const uint8_t *bytes, size_t len)
{
	while (len) {
		enum doorbell_event ev;
		size_t used;
		gpa_t head;

		ev = doorbell_feed(&d->doorbell, bytes, len, &used, &head);
		bytes += used;
		len -= used;
		if (ev == DOORBELL_EV_RING)
			take_ring(d);
		else if (ev == DOORBELL_EV_HELLO)
			take_hello(d, head);
	}
}

static void disconnect(struct link_debugcon *d);

static void on_bell(struct loop_source *source, uint32_t events)
{
	struct link_debugcon *d = source->arg;
	uint8_t bytes[512];
	ssize_t len = recv(d->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	(void)events;
	if (len > 0)
		on_bytes(d, bytes, (size_t)len);
	else if (len == 0 || (errno != EAGAIN && errno != EINTR))
		disconnect(d);
}

// ---- RAM ----------------------------------------------------------------------------------------------------

// The registers that come with a wait are what the module wrote into its head, and nobody has checked them. A guest that writes wrong
// ones gets wrong answers about itself and harms nobody: they only choose which of its own RAM is read.
static void tell_memory(struct link_debugcon *d)
{
	struct link_memory memory;
	size_t len = guest_ram_describe(&d->ram, &memory);

	memory.generation = ++d->memory_generation;
	memory.pid = (uint32_t)d->base.pid;
	d->base.events->memory(d->base.arg, &memory, len, &d->ram.read_fd, memory.file_count);
}

static void take_map(void *arg, const cJSON *answer)
{
	struct link_debugcon *d = arg;
	const char *text = cJSON_GetStringValue(answer);
	bool is_new = false;
	struct error *error;

	d->is_map_asked = false;
	if (d->ram.fd < 0)
		return;
	error = text ? guest_ram_set_map(&d->ram, text, strlen(text), d->ram_id, &is_new)
		     : error_create(EPROTO, "QEMU does not answer `info mtree -f`");
	if (error)
		set_remark(d, error);
	else
		d->base.remark[0] = 0;
	if (is_new && d->base.is_up)
		tell_memory(d);
	if (!d->scan.is_armed && d->ram.gpa.count && d->scan_offset == 0)
		loop_timer_arm(d->base.loop, &d->scan, 0);
	if (d->is_hello_waiting && d->ram.gpa.count) {
		d->is_hello_waiting = false;
		register_area(d, d->hello);
	}
}

static void ask_map(struct link_debugcon *d)
{
	if (!d->qmp || d->is_map_asked || d->ram.fd < 0)
		return;
	d->is_map_asked = qmp_execute(d->qmp, "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info mtree -f\"}}",
				      take_map, d);
}

static uint64_t backend_size(const cJSON *list, const char *id)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, list) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "id"));
		double size = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(item, "size"));

		if (name && strcmp(name, id) == 0 && size >= AREA_PAGE_SIZE && size < 1e15)
			return (uint64_t)size;
	}
	return 0;
}

// The only backend with share=on. -> false: there is none, or more than one.
static bool find_shared(const cJSON *list, char *ret, size_t size)
{
	const cJSON *item;
	unsigned count = 0;

	cJSON_ArrayForEach(item, list) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "id"));

		if (!name || strlen(name) >= size || !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "share")))
			continue;
		strcpy(ret, name);
		count++;
	}
	return count == 1;
}

static void take_backends(void *arg, const cJSON *answer)
{
	struct link_debugcon *d = arg;
	uint64_t size;
	struct error *error;

	if (d->finds_ram && !find_shared(answer, d->ram_id, sizeof(d->ram_id))) {
		set_remark(d, error_create(ENOENT, "QEMU has not one memory backend that is shared; expected memory-backend-memfd or -file with share=on"));
		return;
	}
	size = backend_size(answer, d->ram_id);
	error = size ? guest_ram_open(&d->ram, d->base.pid, d->base.owner, size)
				   : error_create(ENOENT, "QEMU has no memory backend '%s'", d->ram_id);

	if (error)
		set_remark(d, error);
	else
		ask_map(d);
}

// The VM was paused, for a snapshot to be loaded perhaps: that alone brings no RESET. A module that is in a wait there says nothing by
// itself, so it is searched for unless the area is the registered one.
static void look_after_pause(struct link_debugcon *d)
{
	if (call_look(&d->call))
		drive(d);
	if (d->call.area.is_registered)
		return;
	candidates_forget(d);
	d->scan_offset = 0;
	d->scan_range.size = 0;
	loop_timer_arm(d->base.loop, &d->scan, 0);
}

static void look_in_pause(void *arg)
{
	struct link_debugcon *d = arg;

	if (call_look(&d->call))
		drive(d);
}

static void on_qmp_event(void *arg, const char *name)
{
	struct link_debugcon *d = arg;
	bool is_reset = strcmp(name, "RESET") == 0;

	pause_event(&d->pause, name);
	if (strcmp(name, "RESUME") == 0)
		look_after_pause(d);
	if (!is_reset && strcmp(name, "SHUTDOWN") != 0)
		return;
	candidates_forget(d);
	d->is_hello_waiting = false;
	call_end(&d->call, is_reset ? LINK_GONE_RESET : LINK_GONE_SHUTDOWN);
	drive(d);
	if (is_reset)
		ask_map(d);
}

static void on_qmp_closed(void *arg)
{
	struct link_debugcon *d = arg;

	d->is_qmp_closed = true;
	loop_timer_arm(d->base.loop, &d->retry, 0); // not from inside its own callback
}

static const struct qmp_events qmp_events = { .event = on_qmp_event, .closed = on_qmp_closed };

// ---- A module that was there before us --------------------------------------------------------------------

static void add_candidate(struct link_debugcon *d, const struct area_candidate *candidate)
{
	if (d->candidate_count == CANDIDATES_MAX)
		return;
	d->candidates[d->candidate_count++] = *candidate;
	if (!d->watch.is_armed)
		loop_timer_arm(d->base.loop, &d->watch, CANDIDATE_MS);
}

static void on_scan(struct loop_timer *timer)
{
	struct link_debugcon *d = timer->arg;
	struct area_candidate candidate;

	if (d->call.area.is_registered || d->ram.fd < 0)
		return;
	if (!d->scan_range.size) {
		d->scan_cursor = (struct area_cursor){ 0 };
		if (!guest_ram_next_data(&d->ram, &d->scan_offset, &d->scan_range))
			return; // the end: whoever comes now says hello
	}
	switch (area_scan(&(struct gpa_map){ &d->scan_range, 1 }, &d->scan_cursor, SCAN_PAGES, &candidate)) {
	case AREA_OK:
		add_candidate(d, &candidate);
		break;
	case AREA_E_NONE:
		d->scan_range.size = 0;
		break;
	default:
		break;
	}
	loop_timer_arm(d->base.loop, timer, 0);
}

// A live module is asked for a call; it answers with a hello, or with a ring that take_unknown_ring turns into one.
static void on_watch(struct loop_timer *timer)
{
	struct link_debugcon *d = timer->arg;

	if (d->call.area.is_registered)
		return;
	for (unsigned i = 0; i < d->candidate_count; i++)
		let_be((uint32_t)area_candidate_call(&d->candidates[i])); // not alive now: perhaps the VM is paused; it is asked again
	loop_timer_arm(d->base.loop, timer, CANDIDATE_MS);
}

// ---- Connections --------------------------------------------------------------------------------------------

static void retry_later(struct link_debugcon *d)
{
	loop_timer_arm(d->base.loop, &d->retry, d->retries++ < RETRY_EARLY_COUNT ? RETRY_MS : RETRY_LATER_MS);
}

// The VMM is gone, its memory is not: we hold a mapping of it. What the guest printed last is still in its ring.
static void collect_last_words(struct link_debugcon *d)
{
	d->is_held = false;
	call_end(&d->call, LINK_GONE_SHUTDOWN);
	drive(d);
}

static void tell_down(struct link_debugcon *d)
{
	struct link_memory nothing = { .generation = ++d->memory_generation, .pid = (uint32_t)d->base.pid };

	d->base.is_up = false;
	d->memory_generation = 0;
	d->base.events->memory(d->base.arg, &nothing, offsetof(struct link_memory, pieces), NULL, 0);
	d->base.events->down(d->base.arg);
}

static void tell_up(struct link_debugcon *d)
{
	d->base.is_up = true;
	d->base.events->up(d->base.arg);
	if (d->ram.gpa.count)
		tell_memory(d);
}

static void update_presence(struct link_debugcon *d)
{
	bool is_up = d->is_connected && !d->is_absent;

	if (is_up && !d->base.is_up)
		tell_up(d);
	else if (!is_up && d->base.is_up)
		tell_down(d);
}

static void disconnect(struct link_debugcon *d)
{
	if (d->base.is_up)
		collect_last_words(d);
	loop_remove(d->base.loop, &d->source);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	pause_disconnected(&d->pause);
	qmp_destroy(d->qmp);
	d->qmp = NULL;
	d->is_qmp_closed = d->is_map_asked = d->is_hello_waiting = false;
	candidates_forget(d);
	loop_timer_cancel(d->base.loop, &d->scan);
	d->scan_offset = 0;
	d->scan_range.size = 0;
	doorbell_reset(&d->doorbell);
	call_cut(&d->call, LINK_GONE_SHUTDOWN);
	if (d->call.state != CALL_ST_IDLE)
		let_be(call_answer(&d->call)); // as above
	d->call.owed = 0; // `down` says it all
	d->call.is_known = false;
	guest_ram_close(&d->ram);
	d->is_connected = false;
	retry_later(d);
	update_presence(d);
}

static struct error *connect_bell(struct link_debugcon *d)
{
	struct error *error = sock_connect_unix(d->bell_path, SOCK_STREAM, SOCK_NONBLOCK, &d->fd);

	if (!error)
		error = loop_add(d->base.loop, &d->source, d->fd, EPOLLIN, on_bell, d);
	return error;
}

static void on_retry(struct loop_timer *timer)
{
	struct link_debugcon *d = timer->arg;
	struct error *error = NULL;

	if (d->is_qmp_closed) {
		disconnect(d);
		return;
	}
	// QMP first: a hello is worth nothing without it.
	if (!d->qmp)
		error = qmp_create(d->base.loop, d->monitor_path, &qmp_events, d, &d->qmp);
	if (!error && d->fd < 0)
		error = connect_bell(d);
	if (error) {
		error_free(error); // not there yet, or gone for good: whoever follows the VM's process decides
		retry_later(d);
		return;
	}
	d->is_connected = true;
	d->retries = 0;
	d->base.pid = qmp_pid(d->qmp, &d->base.owner);
	update_presence(d);
	pause_connected(&d->pause, d->qmp);
	(void)qmp_execute(d->qmp, "{\"execute\":\"query-memdev\"}", take_backends, d); // not sent: the connection is ending
}

// ---- Ops ----------------------------------------------------------------------------------------------------

static void debugcon_deliver(struct guest_link *link, uint16_t kd_type, uint16_t hdr_len, const uint8_t *body, uint32_t body_len,
			     bool resumes)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	(void)resumes; // nobody else watches anything here
	(void)call_deliver(&d->call, kd_type, hdr_len, body, body_len); // refusals are counted there
	settle_in_op(d);
}

static void debugcon_breakin(struct guest_link *link)
{
	call_breakin(&((struct link_debugcon *)link)->call);
}

static void debugcon_breakin_cancel(struct guest_link *link)
{
	call_breakin_cancel(&((struct link_debugcon *)link)->call);
}

static void debugcon_resend(struct guest_link *link)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	call_resend(&d->call);
	settle_in_op(d);
}

// A snapshot that is loaded while the VM is paused brings no event.
static bool debugcon_has_left(struct guest_link *link)
{
	struct link_debugcon *d = (struct link_debugcon *)link;
	bool has_left = call_look(&d->call);

	if (has_left)
		settle_in_op(d);
	return has_left;
}

static void debugcon_hold(struct guest_link *link, bool is_held)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	d->is_held = is_held;
	if (!is_held)
		loop_timer_arm(link->loop, &d->owed, 0);
}

// The guest is answered as the VMM side answers one when no broker is connected; what the loop has to say about it comes later.
static void debugcon_set_present(struct guest_link *link, bool is_present)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	if (d->is_absent == !is_present)
		return;
	d->is_absent = !is_present;
	if (is_present)
		call_broker_came(&d->call);
	else
		call_broker_gone(&d->call, now_ms());
	loop_timer_arm(link->loop, &d->owed, 0);
}

static void debugcon_ask_stats(struct guest_link *link)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	d->is_stats_asked = true;
	loop_timer_arm(link->loop, &d->owed, 0);
}

static void debugcon_destroy(struct guest_link *link)
{
	struct link_debugcon *d = (struct link_debugcon *)link;

	// A guest that lives on must not count on us: what may be dropped may be dropped.
	call_broker_gone(&d->call, now_ms());
	loop_timer_cancel(link->loop, &d->retry);
	loop_timer_cancel(link->loop, &d->scan);
	loop_timer_cancel(link->loop, &d->watch);
	loop_timer_cancel(link->loop, &d->owed);
	loop_remove(link->loop, &d->source);
	if (d->fd >= 0)
		close(d->fd);
	pause_deinit(&d->pause);
	qmp_destroy(d->qmp);
	guest_ram_close(&d->ram);
	free(d);
}

static const struct guest_link_ops debugcon_ops = {
	.name = "debugcon",
	.deliver = debugcon_deliver,
	.breakin = debugcon_breakin,
	.breakin_cancel = debugcon_breakin_cancel,
	.resend = debugcon_resend,
	.has_left = debugcon_has_left,
	.hold = debugcon_hold,
	.set_present = debugcon_set_present,
	.ask_stats = debugcon_ask_stats,
	.destroy = debugcon_destroy,
};

struct error *link_debugcon_create(struct loop *loop, const char *vm_name, const char *ram_id, uint32_t pause_ms, int watchdog_fd,
				   const struct guest_link_events *events, void *arg, struct guest_link **ret)
{
	struct link_debugcon *d = calloc(1, sizeof(*d));
	struct error *error;

	if (!d)
		return error_create(ENOMEM, "out of memory");
	d->base = (struct guest_link){ .ops = &debugcon_ops, .events = events, .arg = arg, .loop = loop };
	d->fd = d->source.fd = -1;
	d->retry = (struct loop_timer){ .fn = on_retry, .arg = d };
	d->scan = (struct loop_timer){ .fn = on_scan, .arg = d };
	d->watch = (struct loop_timer){ .fn = on_watch, .arg = d };
	d->owed = (struct loop_timer){ .fn = on_owed, .arg = d };
	snprintf(d->ram_id, sizeof(d->ram_id), "%s", ram_id);
	d->finds_ram = !ram_id[0];
	guest_ram_init(&d->ram);
	call_init(&d->call, now_ms());
	call_broker_came(&d->call);
	error = vmdir_debugcon_paths(vm_name, d->bell_path, d->monitor_path);
	if (!error)
		error = pause_init(&d->pause, loop, vm_name, pause_ms, watchdog_fd, look_in_pause, d);
	if (error) {
		free(d);
		return error;
	}
	d->base.pause = &d->pause;
	loop_timer_arm(loop, &d->retry, 0);
	*ret = &d->base;
	return NULL;
}
