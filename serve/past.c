// SPDX-License-Identifier: MIT
#include "serve/past.h"

void past_registered(struct past *p, const struct link_guest *guest)
{
	if (p->is_known)
		return; // the same kernel, at other pages
	p->is_known = true;
	if (guest->dialect == LINK_DIALECT_VMKD && guest->state & GUEST_PHASE1)
		print_buffer_start(&p->buffer);
}

void past_gone(struct past *p, enum link_gone reason)
{
	if (reason != LINK_GONE_RESET && reason != LINK_GONE_SHUTDOWN)
		return;
	p->is_known = false;
	p->buffer.step = PRINT_BUFFER_IDLE;
}

uint32_t past_request(const struct past *p, uint8_t *body)
{
	return print_buffer_request(&p->buffer, body);
}

void past_reply(struct past *p, struct session *s, const uint8_t *body, uint32_t body_len)
{
	size_t len;

	print_buffer_reply(&p->buffer, body, body_len);
	if (!print_buffer_is_done(&p->buffer))
		return;
	const uint8_t *text = print_buffer_text(&p->buffer, &len);
	struct print_buffer_fit fit = print_buffer_fit(text, len, buf_data(&s->history), s->history.len);
	session_history_complete(s, fit.old_len, text, len, fit.new_len);
	p->buffer.step = PRINT_BUFFER_IDLE;
}
