// SPDX-License-Identifier: MIT
#include "guest/driver/takeover.h"
#include "wire/order.h"

#define BLOCK_SIZE (AREA_PAGES * AREA_PAGE_SIZE + sizeof(struct transport))
#define LINE_MAX 400u // bytes of a line to the host; a DbgPrint has 512 at most

// ---- Events ----------------------------------------------------------------------------------------

#define SEVERITY_Informational 1u
#define SEVERITY_Warning 2u
#define SEVERITY_Error 3u
#define FACILITY 0x56u // as events.mc.in says

static const struct {
	uint32_t number;
	int32_t status;
	const char *text;
} events[] = {
#define EVENT_LINE(name, severity, number_, status_, text_) \
	[EVENT_##name] = { .number = SEVERITY_##severity << 30 | FACILITY << 16 | (number_), .status = status_, .text = text_ },
	EVENTS(EVENT_LINE)
#undef EVENT_LINE
};

int32_t takeover_status(enum event event)
{
	return events[event].status;
}

const char *takeover_text(enum event event)
{
	return events[event].text;
}

uint32_t takeover_number(enum event event)
{
	return events[event].number;
}

// ---- Look --------------------------------------------------------------------------------------------

static enum event judge(const struct takeover_facts *f)
{
	if (f->has_hvci)
		return EVENT_HVCI;
	if (!f->is_debugged)
		return EVENT_NO_DEBUG;
	if (f->is_guarded && f->is_absent && !f->is_forced)
		return EVENT_GUARDED;
	return f->has_groups ? EVENT_PROCESSORS : EVENT_NONE;
}

static enum event event_of(int finder_code)
{
	switch (finder_code) {
	case FINDER_OK:
		return EVENT_NONE;
	case FINDER_E_KERNEL:
		return EVENT_NO_KERNEL;
	case FINDER_E_EXPORT:
		return EVENT_NO_EXPORT;
	case FINDER_E_OURS:
		return EVENT_OURS;
	default:
		return EVENT_NO_TRANSPORT;
	}
}

// The count is the kernel's word, but the buffer is ours.
static void bound_list(struct nt_module_list *list, uint32_t bytes)
{
	size_t room = bytes < sizeof(*list) ? 0 : (bytes - sizeof(*list)) / sizeof(struct nt_module);
	if (bytes < sizeof(*list) || list->NumberOfModules > room)
		list->NumberOfModules = (uint32_t)room;
}

// -> EVENT_NONE: *ret_list is the caller's to release.
static enum event read_list(struct takeover *t, struct nt_module_list **ret_list)
{
	uint32_t need = 0;
	int32_t status = t->system->modules(t->ctx, NULL, 0, &need);
	for (uint32_t i = 0; i < TAKEOVER_LIST_TURNS && status == STATUS_INFO_LENGTH_MISMATCH && need <= TAKEOVER_LIST_MAX; i++) {
		uint32_t bytes = need + 8 * sizeof(struct nt_module); // some more may be loaded meanwhile
		struct nt_module_list *list = t->system->allocate(t->ctx, TAKEOVER_POOL, bytes);
		if (!list)
			return EVENT_NO_RESOURCES;
		wire_zero(list, bytes);
		status = t->system->modules(t->ctx, list, bytes, &need);
		if (status == STATUS_SUCCESS) {
			bound_list(list, bytes);
			*ret_list = list;
			return EVENT_NONE;
		}
		t->system->release(t->ctx, TAKEOVER_POOL, list);
	}
	return status == STATUS_INFO_LENGTH_MISMATCH ? EVENT_NO_RESOURCES : EVENT_NO_KERNEL;
}

static enum event find(struct takeover *t)
{
	struct nt_module_list *list;
	enum event event = read_list(t, &list);
	if (event)
		return event;
	event = event_of(finder_find(t->system->kernel(t->ctx), list, t->system->is_mapped, &t->found));
	t->system->release(t->ctx, TAKEOVER_POOL, list);
	return event;
}

// Whose the transport is comes first: where it is vmkd's own module, no other refusal may be told over the link that it has.
static enum event look(struct takeover *t, struct takeover_facts *ret)
{
	t->system->facts(t->ctx, ret);
	enum event found = find(t), forbidden = judge(ret);
	return forbidden && found != EVENT_OURS ? forbidden : found;
}

// ---- Prepare -------------------------------------------------------------------------------------------

static struct transport *bind(struct takeover *t)
{
	transport_bind(t->transport, t->machine, t->machine_ctx, t->block);
	return t->transport;
}

// Contiguous memory or, only to tell the host that there is none, whatever there is. -> false: not even that.
static bool allocate_block(struct takeover *t)
{
	t->block_kind = TAKEOVER_BLOCK;
	t->block = t->system->allocate(t->ctx, TAKEOVER_BLOCK, BLOCK_SIZE);
	if (!t->block) {
		t->block_kind = TAKEOVER_POOL;
		t->block = t->system->allocate(t->ctx, TAKEOVER_POOL, BLOCK_SIZE);
	}
	if (!t->block)
		return false;
	wire_zero(t->block, BLOCK_SIZE);
	t->transport = (struct transport *)((uint8_t *)t->block + AREA_PAGES * AREA_PAGE_SIZE);
	t->transport->is_free = 1;
	return true;
}

static bool is_linked(const struct takeover *t)
{
	return t->block && t->transport->link != LINK_NONE;
}

static void find_host(struct takeover *t, const struct takeover_facts *facts)
{
	transport_join(bind(t), facts->is_absent);
	for (uint32_t i = 0; i < TAKEOVER_REGISTER_TURNS && !is_linked(t); i++) {
		if (i)
			t->system->sleep(t->ctx, TAKEOVER_REGISTER_MS);
		transport_start(bind(t));
	}
}

static enum event prepare(struct takeover *t, const struct takeover_facts *facts)
{
	if (!allocate_block(t))
		return EVENT_NO_MEMORY;
	find_host(t, facts);
	if (t->block_kind != TAKEOVER_BLOCK)
		return EVENT_NO_MEMORY;
	return is_linked(t) ? EVENT_NONE : EVENT_NO_HOST;
}

// ---- Redirect --------------------------------------------------------------------------------------------

static void unmap(struct takeover *t)
{
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		if (t->alias[i])
			t->system->unmap(t->ctx, t->alias[i]);
		t->alias[i] = NULL;
	}
}

// Each entry, seen both ways, is `function`: what is written to the alias is what the kernel reads.
static bool stands(const struct takeover *t, void *const function[FINDER_FUNCTIONS])
{
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		if (*t->alias[i] != function[i] || *t->found.entry[i] != function[i])
			return false;
	}
	return true;
}

static enum event map(struct takeover *t)
{
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		t->alias[i] = t->system->map(t->ctx, t->found.entry[i]);
		if (!t->alias[i])
			return EVENT_NO_ALIAS;
	}
	return stands(t, t->found.function) ? EVENT_NONE : EVENT_NO_ALIAS;
}

static void write_entries(struct takeover *t, void *const function[FINDER_FUNCTIONS])
{
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++)
		*t->alias[i] = function[i]; // aligned: no processor ever sees half of it
}

// Both with all processors held.
static void redirect(void *arg)
{
	struct takeover *t = arg;
	t->is_exchanged = stands(t, t->found.function);
	if (!t->is_exchanged)
		return;
	t->system->keep_presence(t->ctx);
	write_entries(t, t->system->function);
	t->is_redirected = true;
	t->system->set_presence(t->ctx, t->is_present);
}

static void put_back(void *arg)
{
	struct takeover *t = arg;
	t->is_exchanged = !(t->waits_for_stop && t->owes_stop) && stands(t, t->system->function);
	if (!t->is_exchanged)
		return;
	write_entries(t, t->found.function);
	t->is_redirected = false;
	t->system->restore_presence(t->ctx);
}

static void give_back(struct takeover *t)
{
	uint32_t stop_turns = 0, vain_turns = 0;
	for (;;) {
		t->waits_for_stop = stop_turns < TAKEOVER_STOP_TURNS;
		bool was_held = t->system->hold(t->ctx, put_back, t);
		if (was_held && t->is_exchanged)
			return;
		if (t->waits_for_stop && t->owes_stop) {
			stop_turns++;
			t->system->sleep(t->ctx, TAKEOVER_STOP_MS);
			continue;
		}
		if (was_held && ++vain_turns == TAKEOVER_WAIT_TOLD) // a busy processor is nobody's redirection
			t->system->log(t->ctx, EVENT_WAITING, STATUS_SUCCESS);
		t->system->sleep(t->ctx, TAKEOVER_WAIT_MS);
	}
}

static bool is_called(struct takeover *t)
{
	for (uint32_t i = 0; i < TAKEOVER_PROOF_TURNS; i++) {
		if (order_load(&t->receives))
			return true;
		t->system->sleep(t->ctx, TAKEOVER_PROOF_MS);
	}
	return order_load(&t->receives);
}

static enum event exchange(struct takeover *t)
{
	enum event event = map(t);
	if (event)
		return event;
	if (!t->system->hold(t->ctx, redirect, t))
		return EVENT_BUSY;
	if (!t->is_exchanged)
		return EVENT_NO_TRANSPORT; // somebody else redirected it a moment ago
	if (is_called(t))
		return EVENT_NONE;
	give_back(t);
	return EVENT_NOT_CALLED;
}

// ---- Tell ------------------------------------------------------------------------------------------------

struct line {
	char text[LINE_MAX + 1]; // with an end
	uint16_t len;
};

static void append(struct line *l, const char *text)
{
	for (; *text && l->len < LINE_MAX; text++)
		l->text[l->len++] = *text;
}

static void append_hex(struct line *l, uint32_t value)
{
	char digits[9] = { 0 };
	for (uint32_t i = 0; i < 8; i++)
		digits[i] = "0123456789ABCDEF"[value >> (28 - 4 * i) & 15];
	append(l, digits);
}

static void put32(uint8_t *to, uint32_t value)
{
	for (uint32_t i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> 8 * i);
}

// As if the kernel had printed it (KD reference, section 5.1): so it is in the history and on every client's screen.
static void send_line(struct takeover *t, const struct line *line)
{
	uint8_t hdr[KD_DEBUG_IO_SIZE] = { 0 };
	put32(hdr, KD_DEBUG_IO_PRINT);
	put32(hdr + 8, line->len);
	struct send_packet packet = { .kd_type = KD_PACKET_DEBUG_IO, .hdr = hdr, .hdr_len = sizeof(hdr), .data = line->text, .data_len = line->len };
	transport_send(bind(t), &packet);
	transport_flush(bind(t));
}

static void tell_host(struct takeover *t, enum event event)
{
	struct line line = { .text = { 0 } };
	append(&line, "vmkd.sys: not started. ");
	append(&line, takeover_text(event));
	append(&line, " (status 0x");
	append_hex(&line, (uint32_t)takeover_status(event));
	append(&line, ")\n");
	if (is_linked(t))
		send_line(t, &line);
	else if (event == EVENT_OURS) // the link is the kernel's own
		t->system->print(t->ctx, line.text);
}

// ---- The whole -------------------------------------------------------------------------------------------

static void leave(struct takeover *t)
{
	unmap(t);
	if (!t->block)
		return;
	transport_sleep(bind(t)); // the host forgets the area
	t->system->release(t->ctx, t->block_kind, t->block);
	t->block = NULL;
}

void takeover_init(struct takeover *t, const struct takeover_system *system, void *ctx, const struct machine *machine, void *machine_ctx)
{
	t->system = system;
	t->ctx = ctx;
	t->machine = machine;
	t->machine_ctx = machine_ctx;
}

static enum event start(struct takeover *t)
{
	struct takeover_facts facts;
	enum event event = look(t, &facts);
	if (event == EVENT_OURS)
		return event; // the area that the host knows is that module's
	enum event prepared = prepare(t, &facts);
	if (event || prepared)
		return event ? event : prepared;
	return exchange(t);
}

int32_t takeover_start(struct takeover *t)
{
	enum event event = start(t);
	if (event) {
		tell_host(t, event);
		leave(t);
	}
	event = event ? event : EVENT_STARTED;
	t->system->log(t->ctx, event, takeover_status(event));
	return takeover_status(event);
}

void takeover_stop(struct takeover *t)
{
	give_back(t);
	leave(t);
	t->system->log(t->ctx, EVENT_STOPPED, STATUS_SUCCESS);
}

void takeover_set_presence(struct takeover *t, bool is_present)
{
	t->is_present = is_present;
	if (t->is_redirected)
		t->system->set_presence(t->ctx, is_present);
}

void takeover_send(struct takeover *t, uint32_t type, const struct nt_string *hdr, const struct nt_string *data)
{
	if (type == KD_PACKET_STATE_CHANGE || type == KD_PACKET_STATE_CHANGE32)
		t->owes_stop = false;
	packets_send(bind(t), type, hdr, data);
}

uint32_t takeover_receive(struct takeover *t, uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len)
{
	t->receives++;
	uint32_t code = packets_receive(bind(t), type, hdr, data, data_len);
	if (type == KD_POLL_BREAKIN && code == RECEIVE_OK)
		t->owes_stop = true;
	return code;
}
