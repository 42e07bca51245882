// SPDX-License-Identifier: MIT
// Who of the clients may change the machine.
#include "serve/session_private.h"

// c may be NULL: control is free.
static void set_controller(struct session *s, struct session_client *c)
{
	struct session_client *old = s->controller;

	if (old == c)
		return;
	s->controller = c;
	if (old)
		client_drop_questions(old);
	if (!c)
		return;
	c->asks = 0;
	c->is_refusal_told = false;
	// One that waits, though it knows this stop, or was not shown the question.
	if (s->is_announced && session_has_current(s) && !(c->believes && c->told == s->stop))
		client_give_current(c);
}

void control_take_free(struct session_client *c)
{
	if (!c->session->controller)
		set_controller(c->session, c);
}

static struct session_client *first_asker(const struct session *s)
{
	struct session_client *first = NULL;

	for (struct session_client *c = s->clients; c; c = c->next)
		if (!c->is_gone && c->asks && (!first || c->asks < first->asks))
			first = c;
	return first;
}

// To who asked first if nobody is named.
static void hand_over(struct session *s, struct session_client *to)
{
	if (!to)
		to = first_asker(s);
	if (to && to == s->controller)
		return;
	set_controller(s, to);
	if (to)
		session_tell(to, "vmkd: you have control of this VM now\n");
}

void control_left(struct session_client *c)
{
	c->asks = 0;
	if (c->session->controller == c)
		hand_over(c->session, NULL);
}

void control_refuse_breakin(struct session_client *c)
{
	if (c->is_refusal_told || c->believes)
		return;
	c->is_refusal_told = true; // a debugger sends the byte again and again
	session_tell(c, "vmkd: another debugger has control of this VM, so the break-in was not passed on; `vmkd control NAME take` asks for control\n");
}

struct session_client *session_controller(const struct session *s)
{
	return s->controller;
}

bool session_asks(const struct session_client *c)
{
	return c->asks != 0;
}

enum session_control session_control_take(struct session_client *c, bool is_forced)
{
	struct session *s = c->session;
	struct session_client *holder = s->controller;

	if (holder == c)
		return SESSION_CONTROL_TAKEN;
	if (holder && !holder->is_deaf && !is_forced) {
		if (!c->asks)
			c->asks = ++s->control_asked;
		session_tell(holder, "vmkd: another debugger asks for control of this VM; `vmkd control NAME give` hands it over\n");
		return SESSION_CONTROL_HELD;
	}
	set_controller(s, c);
	if (holder)
		session_tell(holder, "vmkd: another debugger has taken control of this VM; you observe\n");
	session_settle(s);
	return SESSION_CONTROL_TAKEN;
}

void session_control_give(struct session *s, struct session_client *to)
{
	hand_over(s, to);
	session_settle(s); // there may be nobody now to attend to the guest
}
