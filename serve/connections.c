// SPDX-License-Identifier: MIT
#include "serve/connections.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/client.h"
#include "serve/stats.h"

#define LIST_TEXT_MAX 1024u

struct connection {
	struct connections *all;
	struct connection *next;
	uint32_t id; // for people, from 1, never used twice
	struct client *client;
	struct session_client *session;
	bool is_touched; // something was said to it since it was written to last
	bool is_behind;  // the guest is held back for it
	bool is_stalled; // ... which does not read
	struct loop_timer stall;
	uint32_t endpoint; // in the tap
	struct kdcom_observer observer;
};

// ---- Holding the guest back ---------------------------------------------------------------------------------

static bool is_behind(const struct connection *c)
{
	return !c->is_stalled && session_backlog(c->session) > (c->is_behind ? SESSION_QUEUE_RESUME : SESSION_QUEUE_FULL);
}

static void balance_one(struct connection *c)
{
	bool was_behind = c->is_behind;

	c->is_behind = is_behind(c);
	if (c->is_behind == was_behind)
		return;
	if (c->is_behind)
		loop_timer_arm(c->all->loop, &c->stall, CONNECTIONS_STALL_MS);
	else
		loop_timer_cancel(c->all->loop, &c->stall);
}

static void balance(struct connections *cs)
{
	bool is_held = false;

	for (struct connection *c = cs->first; c; c = c->next) {
		balance_one(c);
		is_held |= c->is_behind;
	}
	if (is_held == cs->is_held)
		return;
	cs->is_held = is_held;
	cs->events->hold(cs->arg, is_held);
}

static void on_stall(struct loop_timer *timer)
{
	struct connection *c = timer->arg;

	c->is_stalled = true;
	balance(c->all);
}

// ---- Writing --------------------------------------------------------------------------------------------------

static struct connection *find_touched(const struct connections *cs)
{
	struct connection *c = cs->first;

	while (c && !c->is_touched)
		c = c->next;
	return c;
}

// What one of them is told may end in something for another. The one whose batch this is writes by itself when it is through.
static void write_all(struct connections *cs)
{
	struct connection *c;

	if (cs->is_flushing)
		return;
	cs->is_flushing = true;
	while ((c = find_touched(cs)) != NULL) {
		c->is_touched = false;
		client_flush(c->client);
	}
	cs->is_flushing = false;
}

void connections_flush(struct connections *cs)
{
	balance(cs);
	write_all(cs);
}

void connection_send(void *connection, uint16_t kd_type, const uint8_t *body, uint32_t body_len, bool is_droppable)
{
	struct connection *c = connection;

	c->is_touched = true;
	client_send(c->client, kd_type, body, body_len, is_droppable);
}

void connection_expect(void *connection, uint16_t kd_type)
{
	struct connection *c = connection;

	client_expect(c->client, kd_type);
}

void connection_restart(void *connection)
{
	struct connection *c = connection;

	c->is_touched = true;
	client_restart(c->client);
}

void connection_cancel(void *connection)
{
	struct connection *c = connection;

	client_cancel(c->client);
}

// ---- Who looks on -----------------------------------------------------------------------------------------------

static void on_seen(void *arg, const struct kdcom_seen *seen)
{
	struct connection *c = arg;

	tap_frame(c->all->tap, c->endpoint, seen->is_out ? TRACE_FROM_TARGET : TRACE_TO_TARGET, seen->damage, seen->head, seen->head_len, seen->rest,
		  seen->rest_len);
}

static void observe(struct connection *c)
{
	if (tap_is_on(c->all->tap))
		client_observe(c->client, &c->observer);
}

void connections_observe(struct connections *cs)
{
	for (struct connection *c = cs->first; c; c = c->next)
		observe(c);
}

static void make_endpoint(struct connection *c)
{
	char name[32];

	snprintf(name, sizeof(name), "client %u", c->id);
	c->observer = (struct kdcom_observer){ on_seen, c };
	c->endpoint = tap_endpoint(c->all->tap, name, client_name(c->client));
	observe(c);
}

// ---- What a client says -----------------------------------------------------------------------------------------

static void from_packet(void *arg, uint16_t kd_type, const uint8_t *body, uint32_t body_len)
{
	struct connection *c = arg;

	session_client_packet(c->session, kd_type, body, body_len);
}

static void from_sent(void *arg)
{
	struct connection *c = arg;

	c->is_stalled = false;
	if (c->is_behind)
		loop_timer_arm(c->all->loop, &c->stall, CONNECTIONS_STALL_MS);
	session_client_sent(c->session);
}

static void from_given_up(void *arg)
{
	struct connection *c = arg;

	session_client_given_up(c->session);
}

static void from_reset(void *arg)
{
	struct connection *c = arg;

	session_client_reset(c->session);
}

static void from_resend(void *arg)
{
	struct connection *c = arg;

	session_client_resend(c->session);
}

static void from_breakin(void *arg)
{
	struct connection *c = arg;

	session_client_breakin(c->session);
}

static bool is_reply_near(void *arg)
{
	struct connection *c = arg;

	return session_awaits_reply(c->session);
}

static void turn(void *arg)
{
	struct connection *c = arg;

	c->is_touched = false; // it writes next
	c->all->events->turn(c->all->arg);
	connections_flush(c->all);
}

static void sums_add(struct client_sums *sums, const struct kdcom_counters *counters)
{
#define X(name) sums->name += counters->name;
	CLIENT_COUNTER_LIST(X)
#undef X
}

static void release(struct connection *c)
{
	client_destroy(c->client);
	free(c);
}

static void reap(struct loop_timer *timer)
{
	struct connections *cs = timer->arg;

	while (cs->leaving) {
		struct connection *c = cs->leaving;

		cs->leaving = c->next;
		release(c);
	}
}

// Out of the list and of the session; its memory and its socket live on.
static void take_out(struct connection *c)
{
	struct connections *cs = c->all;
	struct connection **at = &cs->first;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (cs->end == &c->next)
		cs->end = at;
	cs->count--;
	loop_timer_cancel(cs->loop, &c->stall);
	sums_add(&cs->sums, client_counters(c->client));
	session_client_left(c->session);
	client_observe(c->client, NULL);
	tap_endpoint_gone(cs->tap, c->endpoint);
}

static void has_left(void *arg)
{
	struct connection *c = arg;
	struct connections *cs = c->all;

	take_out(c);
	c->next = cs->leaving;
	cs->leaving = c;
	loop_timer_arm(cs->loop, &cs->reaper, 0);
	cs->events->turn(cs->arg);
	connections_flush(cs);
}

static const struct client_events client_events = {
	.packet = from_packet,
	.sent = from_sent,
	.given_up = from_given_up,
	.reset = from_reset,
	.resend = from_resend,
	.breakin = from_breakin,
	.is_reply_near = is_reply_near,
	.turn = turn,
	.left = has_left,
};

// ---- Coming -------------------------------------------------------------------------------------------------------

// -> false: no memory, or no descriptors; nothing is left behind.
static bool start(struct connection *c, int fd)
{
	struct error *error = client_create(c->all->loop, fd, &client_events, c, &c->client);

	if (!error) {
		make_endpoint(c);
		c->session = session_client_came(c->all->session, c);
		if (c->session)
			return true;
		tap_endpoint_gone(c->all->tap, c->endpoint);
		client_destroy(c->client);
		error = error_create(0, "out of memory for one more debugger");
	}
	error_report("vmkd", error);
	return false;
}

void connections_add(struct connections *cs, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));
	int one = 1;

	if (!c) {
		close(fd);
		return;
	}
	// KD is a conversation of small packets. Fails on a Unix socket, where nothing is held back anyway.
	(void)!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->all = cs;
	c->id = cs->last_id + 1;
	c->stall = (struct loop_timer){ .fn = on_stall, .arg = c };
	if (!start(c, fd)) {
		free(c);
		return;
	}
	cs->last_id = c->id;
	*cs->end = c;
	cs->end = &c->next;
	cs->count++;
	cs->sums.connections++;
	c->is_touched = true;
	cs->events->turn(cs->arg);
	connections_flush(cs);
}

void connections_turn_away(struct connections *cs, int fd, const char *text)
{
	cs->sums.turned_away++;
	client_turn_away(cs->loop, fd, text);
}

void connections_notice_ends(struct connections *cs)
{
	for (struct connection *c = cs->first, *next; c; c = next) {
		next = c->next; // no event of one client takes out another
		client_notice_end(c->client);
	}
}

bool connections_are_owed(const struct connections *cs)
{
	for (const struct connection *c = cs->first; c; c = c->next)
		if (session_owes_client(c->session))
			return true;
	return false;
}

void connections_init(struct connections *cs, struct loop *loop, struct session *session, struct tap *tap, const struct connections_events *events,
		      void *arg)
{
	*cs = (struct connections){ .loop = loop, .session = session, .tap = tap, .events = events, .arg = arg };
	cs->end = &cs->first;
	cs->reaper = (struct loop_timer){ .fn = reap, .arg = cs };
}

void connections_deinit(struct connections *cs)
{
	while (cs->first) {
		struct connection *c = cs->first;

		take_out(c);
		release(c);
	}
	loop_timer_cancel(cs->loop, &cs->reaper);
	reap(&cs->reaper);
}

// ---- Who is who -----------------------------------------------------------------------------------------------------

static bool is_controller(const struct connection *c)
{
	return session_controller(c->all->session) == c->session;
}

void connections_add_status(const struct connections *cs, cJSON *ret)
{
	cJSON *clients = cJSON_AddArrayToObject(ret, "clients");

	for (const struct connection *c = cs->first; c; c = c->next) {
		cJSON *entry = cJSON_CreateObject();

		cJSON_AddNumberToObject(entry, "id", c->id);
		cJSON_AddStringToObject(entry, "name", client_name(c->client));
		if (client_pid(c->client))
			cJSON_AddNumberToObject(entry, "pid", client_pid(c->client));
		cJSON_AddStringToObject(entry, "role", is_controller(c) ? "controller" : "observer");
		cJSON_AddBoolToObject(entry, "at_stop", session_is_at_stop(c->session));
		cJSON_AddBoolToObject(entry, "asks", session_asks(c->session));
		cJSON_AddItemToArray(clients, entry);
	}
}

void connections_add_stats(const struct connections *cs, cJSON *ret)
{
	cJSON *clients = cJSON_AddObjectToObject(ret, "clients");
	struct client_sums sums = cs->sums;

	for (const struct connection *c = cs->first; c; c = c->next)
		sums_add(&sums, client_counters(c->client));
	stats_add_number(clients, "connections", sums.connections);
	stats_add_number(clients, "turned_away", sums.turned_away);
#define X(name) stats_add_number(clients, #name, sums.name);
	CLIENT_COUNTER_LIST(X)
#undef X
}

// ---- Control -----------------------------------------------------------------------------------------------------------

enum candidates { BY_ID, BY_PID, BY_ROLE };

static bool is_meant(const struct connection *c, enum candidates how, uint32_t id, int pid)
{
	switch (how) {
	case BY_ID:
		return c->id == id;
	case BY_PID:
		return pid && client_pid(c->client) == pid;
	default:
		return !is_controller(c);
	}
}

// -> how many clients are meant; *ret: the last of them.
static unsigned find(const struct connections *cs, enum candidates how, uint32_t id, int pid, struct connection **ret)
{
	unsigned count = 0;

	for (struct connection *c = cs->first; c; c = c->next) {
		if (!is_meant(c, how, id, pid))
			continue;
		*ret = c;
		count++;
	}
	return count;
}

static void describe_all(const struct connections *cs, char *ret, size_t size)
{
	size_t len = 0;

	snprintf(ret, size, "nobody is attached");
	for (const struct connection *c = cs->first; c && len < size; c = c->next)
		len += (size_t)snprintf(ret + len, size - len, "%s%u (%s)", len ? ", " : "", c->id, client_name(c->client));
}

static void add_error(const struct connections *cs, const char *what, cJSON *ret)
{
	char who[LIST_TEXT_MAX], text[LIST_TEXT_MAX + 128];

	describe_all(cs, who, sizeof(who));
	snprintf(text, sizeof(text), "%s; there are: %s", what, who);
	cJSON_AddStringToObject(ret, "error", cs->first ? text : who);
}

// -> NULL and an error in ret: nobody, or more than one may be meant.
static struct connection *choose(const struct connections *cs, const struct ctl_request *request, int asker_pid, cJSON *ret)
{
	struct connection *c = NULL;
	char text[64];

	if (request->client) {
		if (find(cs, BY_ID, request->client, 0, &c))
			return c;
		snprintf(text, sizeof(text), "there is no client %u", request->client);
		add_error(cs, text, ret);
		return NULL;
	}
	if (find(cs, BY_PID, 0, asker_pid, &c) == 1 || find(cs, BY_ROLE, 0, 0, &c) == 1)
		return c;
	add_error(cs, "which client shall have control? Name it by its number", ret);
	return NULL;
}

static void take(struct connections *cs, const struct ctl_request *request, int asker_pid, cJSON *ret)
{
	struct connection *c = choose(cs, request, asker_pid, ret);

	if (!c)
		return;
	cJSON_AddNumberToObject(ret, "client", c->id);
	cJSON_AddStringToObject(ret, "result", session_control_take(c->session, request->is_forced) == SESSION_CONTROL_TAKEN ? "taken" : "held");
}

static void give(struct connections *cs, const struct ctl_request *request, cJSON *ret)
{
	struct connection *c = request->client ? choose(cs, request, 0, ret) : NULL;

	if (request->client && !c)
		return;
	session_control_give(cs->session, c ? c->session : NULL);
	cJSON_AddStringToObject(ret, "result", session_controller(cs->session) ? "given" : "free");
	for (c = cs->first; c; c = c->next)
		if (is_controller(c))
			cJSON_AddNumberToObject(ret, "client", c->id);
}

void connections_control(struct connections *cs, const struct ctl_request *request, int asker_pid, cJSON *ret)
{
	connections_notice_ends(cs); // who has gone must not be given control, nor keep it
	if (request->control == CTL_CONTROL_TAKE)
		take(cs, request, asker_pid, ret);
	else if (request->control == CTL_CONTROL_GIVE)
		give(cs, request, ret);
	connections_add_status(cs, ret);
	cs->events->turn(cs->arg);
	connections_flush(cs);
}
