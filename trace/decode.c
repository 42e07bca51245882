// SPDX-License-Identifier: MIT
#include "trace/decode.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"

struct out {
	void (*field)(void *arg, const struct trace_field *field);
	void *arg;
};

// ---- One field ---------------------------------------------------------------------------------------------

static void number(const struct out *o, const char *name, uint64_t value)
{
	const struct trace_field f = { .name = name, .kind = TRACE_FIELD_NUMBER, .value = value };
	o->field(o->arg, &f);
}

static void hex(const struct out *o, const char *name, uint8_t digits, uint64_t value)
{
	const struct trace_field f = { .name = name, .kind = TRACE_FIELD_HEX, .digits = digits, .value = value };
	o->field(o->arg, &f);
}

static void named(const struct out *o, const char *name, uint8_t digits, uint64_t value, const char *word)
{
	const struct trace_field f = { .name = name, .kind = TRACE_FIELD_HEX, .digits = digits, .value = value, .word = word };
	o->field(o->arg, &f);
}

static void word(const struct out *o, const char *name, const char *text)
{
	const struct trace_field f = { .name = name, .kind = TRACE_FIELD_WORD, .word = text };
	o->field(o->arg, &f);
}

static void some(const struct out *o, enum trace_field_kind kind, const char *name, const uint8_t *bytes, size_t len)
{
	const struct trace_field f = { .name = name, .kind = kind, .bytes = bytes, .len = len };
	if (len)
		o->field(o->arg, &f);
}

static void address(const struct out *o, uint64_t value)
{
	hex(o, "kd.address", 16, value);
}

// ---- Names -------------------------------------------------------------------------------------------------

static const char *behind(const char *name, const char *prefix)
{
	size_t len = strlen(prefix);
	return strncmp(name, prefix, len) == 0 ? name + len : name;
}

static const char *packet_word(uint16_t type)
{
	switch (type) {
	case KDCOM_ACK: return "ACK";
	case KDCOM_RESEND: return "RESEND";
	case KDCOM_RESET: return "RESET";
	default: return behind(kd_packet_name(type), "KD_PACKET_");
	}
}

// The number that most bodies begin with.
static const char *api_word(uint16_t type, uint32_t api)
{
	switch (type) {
	case KD_PACKET_STATE_CHANGE32:
	case KD_PACKET_STATE_CHANGE: return behind(kd_state_name(api & ~KD_STATE_ALTERNATE), "KD_STATE_");
	case KD_PACKET_MANIPULATE: return behind(kd_api_name(api), "KD_API_");
	case KD_PACKET_DEBUG_IO:
		return api == KD_DEBUG_IO_PRINT ? "PRINT" : api == KD_DEBUG_IO_PROMPT ? "PROMPT" : "unknown";
	case KD_PACKET_TRACE_IO: return api == KD_TRACE_IO_PRINT ? "TRACE" : "unknown";
	case KD_PACKET_CONTROL_REQUEST:
		return api == KD_CONTROL_REQUEST_HARDWARE_BP ? "REQUEST_HARDWARE_BP" :
		       api == KD_CONTROL_RELEASE_HARDWARE_BP ? "RELEASE_HARDWARE_BP" : "unknown";
	case KD_PACKET_FILE_IO: break;
	default: return "unknown";
	}
	switch (api) {
	case KD_FILE_IO_CREATE: return "CREATE";
	case KD_FILE_IO_READ: return "READ";
	case KD_FILE_IO_WRITE: return "WRITE";
	case KD_FILE_IO_CLOSE: return "CLOSE";
	default: return "unknown";
	}
}

static const char *outcome_word(int outcome)
{
	switch (outcome) {
	case KD_E_SHORT: return "short";
	case KD_E_RANGE: return "range";
	case KD_E_UNKNOWN: return "unknown";
	default: return "refused";
	}
}

const char *trace_title(const uint8_t *bytes, size_t len)
{
	struct trace_frame f;

	trace_frame_read(bytes, len, &f);
	switch (f.kind) {
	case TRACE_NOTHING: return "-";
	case TRACE_BREAKIN: return "break-in";
	case TRACE_JUNK: return "no frame";
	case TRACE_CONTROL: return packet_word(f.type);
	case TRACE_DATA: break;
	}
	return f.body_len >= 4 && kd_header_size(f.type) ? api_word(f.type, get_le32(f.body)) : packet_word(f.type);
}

// ---- State changes -----------------------------------------------------------------------------------------

static void show_exception(const struct out *o, const struct kd_exception *e)
{
	hex(o, "kd.exception.code", 8, e->code);
	hex(o, "kd.exception.flags", 8, e->flags);
	hex(o, "kd.exception.record", 16, e->record);
	hex(o, "kd.exception.address", 16, e->address);
	number(o, "kd.exception.parameter_count", e->parameter_count);
	for (uint32_t i = 0; i < e->parameter_count; i++)
		hex(o, "kd.exception.parameter", 16, e->parameters[i]);
	number(o, "kd.exception.first_chance", e->first_chance);
}

static void show_load(const struct out *o, const struct kd_load_symbols *l, const uint8_t *data)
{
	number(o, "kd.load.name_len", l->name_len);
	hex(o, "kd.load.base", 16, l->base);
	hex(o, "kd.load.process_id", 16, l->process_id);
	hex(o, "kd.load.checksum", 8, l->checksum);
	hex(o, "kd.load.image_size", 8, l->image_size);
	number(o, "kd.load.is_unload", l->is_unload);
	some(o, TRACE_FIELD_TEXT, "kd.load.path", data, strnlen((const char *)data, l->name_len));
}

// data: name NUL command NUL.
static void show_command(const struct out *o, const struct kd_state_change *s)
{
	size_t name_len = strnlen((const char *)s->data, s->data_len);
	size_t rest = s->data_len - name_len;

	hex(o, "kd.command.flags", 8, s->u.command_string.flags);
	some(o, TRACE_FIELD_TEXT, "kd.command.name", s->data, name_len);
	if (rest > 1)
		some(o, TRACE_FIELD_TEXT, "kd.command.text", s->data + name_len + 1, strnlen((const char *)s->data + name_len + 1, rest - 1));
}

static void show_report(const struct out *o, const struct kd_control_report *r)
{
	hex(o, "kd.report.dr6", 16, r->dr6);
	hex(o, "kd.report.dr7", 16, r->dr7);
	hex(o, "kd.report.eflags", 8, r->eflags);
	number(o, "kd.report.instruction_count", r->instruction_count);
	hex(o, "kd.report.flags", 4, r->flags);
	some(o, TRACE_FIELD_BYTES, "kd.report.instructions", r->instructions, r->instruction_count);
	hex(o, "kd.report.cs", 4, r->seg_cs);
	hex(o, "kd.report.ds", 4, r->seg_ds);
	hex(o, "kd.report.es", 4, r->seg_es);
	hex(o, "kd.report.fs", 4, r->seg_fs);
}

static int show_state_change(const struct out *o, const struct trace_frame *f, uint32_t machine)
{
	struct kd_state_change s;
	int outcome = kd_state_change_decode(f->body, f->body_len, machine, &s);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.state", 8, s.state, api_word(f->type, s.state));
	number(o, "kd.is_alternate", s.is_alternate);
	number(o, "kd.processor_level", s.processor_level);
	number(o, "kd.processor", s.processor);
	number(o, "kd.processor_count", s.processor_count);
	hex(o, "kd.thread", 16, s.thread);
	hex(o, "kd.pc", 16, s.pc);
	if (s.state == KD_STATE_EXCEPTION)
		show_exception(o, &s.u.exception);
	else if (s.state == KD_STATE_LOAD_SYMBOLS)
		show_load(o, &s.u.load_symbols, s.data);
	else
		show_command(o, &s);
	show_report(o, &s.report);
	some(o, TRACE_FIELD_BYTES, "kd.data", s.data, s.data_len);
	return KD_OK;
}

// ---- Manipulate --------------------------------------------------------------------------------------------

static void show_version(const struct out *o, const struct kd_version *v)
{
	hex(o, "kd.version.major", 4, v->major);
	number(o, "kd.version.minor", v->minor);
	number(o, "kd.version.protocol", v->protocol);
	number(o, "kd.version.secondary", v->secondary);
	hex(o, "kd.version.flags", 4, v->flags);
	hex(o, "kd.version.machine", 4, v->machine);
	number(o, "kd.version.max_packet_type", v->max_packet_type);
	number(o, "kd.version.max_state_change", v->max_state_change);
	number(o, "kd.version.max_manipulate", v->max_manipulate);
	number(o, "kd.version.simulation", v->simulation);
	hex(o, "kd.version.unused", 4, v->unused);
	hex(o, "kd.version.kern_base", 16, v->kern_base);
	hex(o, "kd.version.loaded_module_list", 16, v->loaded_module_list);
	hex(o, "kd.version.debugger_data_list", 16, v->debugger_data_list);
}

static void show_continue2(const struct out *o, const struct kd_continue2 *c)
{
	hex(o, "kd.continue_status", 8, c->status);
	number(o, "kd.trace", c->trace);
	hex(o, "kd.dr7", 16, c->dr7);
	hex(o, "kd.symbol_start", 16, c->symbol_start);
	hex(o, "kd.symbol_end", 16, c->symbol_end);
}

static void show_io_extended(const struct out *o, const struct kd_io_extended *io)
{
	number(o, "kd.size", io->size);
	number(o, "kd.interface_type", io->interface_type);
	number(o, "kd.bus", io->bus);
	number(o, "kd.address_space", io->address_space);
	address(o, io->address);
	hex(o, "kd.value", 8, io->value);
}

static void show_get_internal(const struct out *o, const struct kd_get_internal *g)
{
	address(o, g->address);
	hex(o, "kd.flags", 8, g->flags);
	number(o, "kd.calls", g->calls);
	number(o, "kd.max_calls", g->max_calls);
	number(o, "kd.min_instructions", g->min_instructions);
	number(o, "kd.max_instructions", g->max_instructions);
	number(o, "kd.total_instructions", g->total_instructions);
}

static void show_bus(const struct out *o, const struct kd_bus *b)
{
	number(o, "kd.bus_type", b->type);
	number(o, "kd.bus", b->bus);
	number(o, "kd.slot", b->slot);
	number(o, "kd.offset", b->offset);
	number(o, "kd.length", b->length);
}

static void show_custom_breakpoint(const struct out *o, const struct kd_custom_breakpoint *b)
{
	address(o, b->address);
	hex(o, "kd.instruction", 16, b->instruction);
	number(o, "kd.handle", b->handle);
	number(o, "kd.instruction_size", b->instruction_size);
	number(o, "kd.alignment", b->alignment);
}

// Layouts of up to four fields stand here, the longer ones above.
static void show_union(const struct out *o, const struct kd_manipulate *m)
{
	switch (kd_api_layout(m->api)) {
	case KD_LAYOUT_RAW: some(o, TRACE_FIELD_BYTES, "kd.raw", m->u.raw, KD_UNION_SIZE); break;
	case KD_LAYOUT_NONE: break;
	case KD_LAYOUT_MEMORY:
		address(o, m->u.memory.address);
		number(o, "kd.count", m->u.memory.count);
		number(o, "kd.actual_bytes", m->u.memory.actual_bytes);
		break;
	case KD_LAYOUT_CONTEXT: hex(o, "kd.context_flags", 8, m->u.context_flags); break;
	case KD_LAYOUT_CONTEXT_EX:
		number(o, "kd.offset", m->u.context_ex.offset);
		number(o, "kd.count", m->u.context_ex.count);
		number(o, "kd.copied", m->u.context_ex.copied);
		break;
	case KD_LAYOUT_BREAKPOINT:
		address(o, m->u.breakpoint.address);
		number(o, "kd.handle", m->u.breakpoint.handle);
		break;
	case KD_LAYOUT_RESTORE_BREAKPOINT: number(o, "kd.handle", m->u.restore_handle); break;
	case KD_LAYOUT_BREAKPOINT_EX:
		number(o, "kd.count", m->u.breakpoint_ex.count);
		hex(o, "kd.continue_status", 8, m->u.breakpoint_ex.continue_status);
		break;
	case KD_LAYOUT_CONTINUE: hex(o, "kd.continue_status", 8, m->u.continue_status); break;
	case KD_LAYOUT_CONTINUE2: show_continue2(o, &m->u.continue2); break;
	case KD_LAYOUT_IO:
		address(o, m->u.io.address);
		number(o, "kd.size", m->u.io.size);
		hex(o, "kd.value", 8, m->u.io.value);
		break;
	case KD_LAYOUT_IO_EXTENDED: show_io_extended(o, &m->u.io_extended); break;
	case KD_LAYOUT_MSR:
		hex(o, "kd.msr", 8, m->u.msr.msr);
		hex(o, "kd.msr_value", 16, m->u.msr.value);
		break;
	case KD_LAYOUT_QUERY_CALLS: number(o, "kd.count", m->u.special_call_count); break;
	case KD_LAYOUT_SPECIAL_CALL: address(o, m->u.special_call); break;
	case KD_LAYOUT_SET_INTERNAL:
		address(o, m->u.set_internal.address);
		hex(o, "kd.flags", 8, m->u.set_internal.flags);
		break;
	case KD_LAYOUT_GET_INTERNAL: show_get_internal(o, &m->u.get_internal); break;
	case KD_LAYOUT_VERSION: show_version(o, &m->u.version); break;
	case KD_LAYOUT_SEARCH:
		address(o, m->u.search.address);
		number(o, "kd.length", m->u.search.length);
		number(o, "kd.pattern_len", m->u.search.pattern_len);
		break;
	case KD_LAYOUT_BUS: show_bus(o, &m->u.bus); break;
	case KD_LAYOUT_FILL:
		address(o, m->u.fill.address);
		number(o, "kd.length", m->u.fill.length);
		hex(o, "kd.flags", 4, m->u.fill.flags);
		number(o, "kd.pattern_len", m->u.fill.pattern_len);
		break;
	case KD_LAYOUT_QUERY_MEMORY:
		address(o, m->u.query_memory.address);
		hex(o, "kd.reserved", 16, m->u.query_memory.reserved);
		number(o, "kd.space", m->u.query_memory.space);
		hex(o, "kd.flags", 8, m->u.query_memory.flags);
		break;
	case KD_LAYOUT_PARTITION: number(o, "kd.partition", m->u.partition); break;
	case KD_LAYOUT_CUSTOM_BREAKPOINT: show_custom_breakpoint(o, &m->u.custom_breakpoint); break;
	}
}

static int show_manipulate(const struct out *o, const struct trace_frame *f, uint32_t machine)
{
	struct kd_manipulate m;
	int outcome = kd_manipulate_decode(f->body, f->body_len, machine, &m);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.api", 8, m.api, api_word(f->type, m.api));
	number(o, "kd.processor_level", m.processor_level);
	number(o, "kd.processor", m.processor);
	hex(o, "kd.status", 8, m.status);
	show_union(o, &m);
	some(o, TRACE_FIELD_BYTES, "kd.data", m.data, m.data_len);
	return KD_OK;
}

// ---- The others --------------------------------------------------------------------------------------------

static int show_debug_io(const struct out *o, const struct trace_frame *f)
{
	struct kd_debug_io d;
	int outcome = kd_debug_io_decode(f->body, f->body_len, &d);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.api", 8, d.api, api_word(f->type, d.api));
	number(o, "kd.processor_level", d.processor_level);
	number(o, "kd.processor", d.processor);
	number(o, "kd.length", d.length);
	number(o, "kd.read_length", d.read_length);
	some(o, TRACE_FIELD_TEXT, "kd.text", d.data, d.data_len);
	return KD_OK;
}

static void show_create(const struct out *o, const struct kd_file_io *io)
{
	hex(o, "kd.file.desired_access", 8, io->u.create.desired_access);
	hex(o, "kd.file.attributes", 8, io->u.create.attributes);
	hex(o, "kd.file.share_access", 8, io->u.create.share_access);
	number(o, "kd.file.disposition", io->u.create.disposition);
	hex(o, "kd.file.options", 8, io->u.create.options);
	hex(o, "kd.file.handle", 16, io->u.create.handle);
	number(o, "kd.file.length", io->u.create.length);
	some(o, TRACE_FIELD_UTF16, "kd.file.name", io->data, io->data_len);
}

static int show_file_io(const struct out *o, const struct trace_frame *f)
{
	struct kd_file_io io;
	int outcome = kd_file_io_decode(f->body, f->body_len, &io);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.api", 8, io.api, api_word(f->type, io.api));
	hex(o, "kd.status", 8, io.status);
	if (io.api == KD_FILE_IO_CREATE) {
		show_create(o, &io);
		return KD_OK;
	}
	if (io.api == KD_FILE_IO_CLOSE) {
		hex(o, "kd.file.handle", 16, io.u.close_handle);
	} else {
		hex(o, "kd.file.handle", 16, io.u.transfer.handle);
		hex(o, "kd.file.offset", 16, io.u.transfer.offset);
		number(o, "kd.file.length", io.u.transfer.length);
	}
	some(o, TRACE_FIELD_BYTES, "kd.data", io.data, io.data_len);
	return KD_OK;
}

static int show_trace_io(const struct out *o, const struct trace_frame *f)
{
	struct kd_trace_io t;
	int outcome = kd_trace_io_decode(f->body, f->body_len, &t);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.api", 8, t.api, api_word(f->type, t.api));
	number(o, "kd.processor_level", t.processor_level);
	number(o, "kd.processor", t.processor);
	number(o, "kd.length", t.length);
	some(o, TRACE_FIELD_BYTES, "kd.data", t.data, t.data_len);
	return KD_OK;
}

static int show_control_request(const struct out *o, const struct trace_frame *f)
{
	struct kd_control_request c;
	int outcome = kd_control_request_decode(f->body, f->body_len, &c);

	if (outcome != KD_OK)
		return outcome;
	named(o, "kd.api", 8, c.api, api_word(f->type, c.api));
	number(o, "kd.control.number", c.number);
	number(o, "kd.control.answer", c.answer);
	return KD_OK;
}

static int show_body(const struct out *o, const struct trace_frame *f, uint32_t machine)
{
	switch (f->type) {
	case KD_PACKET_STATE_CHANGE: return show_state_change(o, f, machine);
	case KD_PACKET_MANIPULATE: return show_manipulate(o, f, machine);
	case KD_PACKET_DEBUG_IO: return show_debug_io(o, f);
	case KD_PACKET_FILE_IO: return show_file_io(o, f);
	case KD_PACKET_TRACE_IO: return show_trace_io(o, f);
	case KD_PACKET_CONTROL_REQUEST: return show_control_request(o, f);
	default: return KD_E_UNKNOWN;
	}
}

// ---- Packets -----------------------------------------------------------------------------------------------

void trace_decoder_init(struct trace_decoder *d)
{
	d->machine = KD_MACHINE_X64;
}

// A stop tells it well, GetVersion for certain.
static void learn_machine(struct trace_decoder *d, const struct trace_frame *f, enum trace_direction direction)
{
	struct kd_manipulate m;
	uint32_t machine = 0;

	if (f->type == KD_PACKET_STATE_CHANGE)
		machine = kd_guess_machine(f->body, f->body_len);
	else if (f->type == KD_PACKET_MANIPULATE && direction != TRACE_TO_TARGET &&
		 kd_manipulate_decode(f->body, f->body_len, d->machine, &m) == KD_OK && m.api == KD_API_GET_VERSION)
		machine = m.u.version.machine;
	if (machine == KD_MACHINE_X64 || machine == KD_MACHINE_X86)
		d->machine = machine;
}

static void show_data(struct trace_decoder *d, const struct out *o, const struct trace_frame *f, enum trace_direction direction)
{
	number(o, "kd.len", f->said_len);
	hex(o, "kd.checksum", 8, f->checksum);
	if (f->damage != KDCOM_WHOLE) {
		some(o, TRACE_FIELD_BYTES, "kd.data", f->body, f->body_len);
		return;
	}
	learn_machine(d, f, direction);
	int outcome = show_body(o, f, d->machine);
	if (outcome == KD_OK)
		return;
	word(o, "kd.malformed", outcome_word(outcome));
	some(o, TRACE_FIELD_BYTES, "kd.data", f->body, f->body_len);
}

void trace_decode(struct trace_decoder *d, const uint8_t *bytes, size_t len, enum trace_direction direction,
		  void (*field)(void *arg, const struct trace_field *field), void *arg)
{
	const struct out o = { field, arg };
	struct trace_frame f;

	trace_frame_read(bytes, len, &f);
	if (f.kind == TRACE_BREAKIN)
		number(&o, "kd.breakin", 1);
	if (f.kind == TRACE_JUNK)
		some(&o, TRACE_FIELD_BYTES, "kd.data", bytes, len);
	if (f.damage != KDCOM_WHOLE)
		word(&o, "kd.damage", trace_damage_name(f.damage));
	if ((f.kind != TRACE_CONTROL && f.kind != TRACE_DATA) || len < KDCOM_HEAD)
		return;
	named(&o, "kd.type", 4, f.type, packet_word(f.type));
	hex(&o, "kd.id", 8, f.id);
	if (f.kind == TRACE_DATA)
		show_data(d, &o, &f, direction);
}

// ---- Text --------------------------------------------------------------------------------------------------

static size_t put_piece(char *to, size_t size, size_t at, const char *piece)
{
	size_t len = strlen(piece);

	if (len >= size - at)
		return 0;
	memcpy(to + at, piece, len + 1);
	return len;
}

static void escape_one(uint32_t c, bool is_wide, char ret[8])
{
	if (c == '\n' || c == '\r' || c == '\t')
		snprintf(ret, 8, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
	else if (c == '\\')
		strcpy(ret, "\\\\");
	else if (c >= 0x20 && c < 0x7F)
		snprintf(ret, 8, "%c", (char)c);
	else
		snprintf(ret, 8, is_wide ? "\\u%04X" : "\\x%02X", (unsigned)c & 0xFFFFu);
}

static size_t escape(const uint8_t *bytes, size_t len, unsigned width, char *to, size_t size)
{
	size_t at = 0, done = 1;
	char piece[8];

	if (size)
		to[0] = '\0';
	for (size_t i = 0; size && done && i + width <= len; i += width) {
		escape_one(width == 1 ? bytes[i] : get_le16(bytes + i), width > 1, piece);
		done = put_piece(to, size, at, piece);
		at += done;
	}
	return at;
}

size_t trace_escape(const uint8_t *bytes, size_t len, char *to, size_t size)
{
	return escape(bytes, len, 1, to, size);
}

size_t trace_escape_utf16(const uint8_t *bytes, size_t len, char *to, size_t size)
{
	return escape(bytes, len, 2, to, size);
}

static void bytes_text(const struct trace_field *f, char *to, size_t size)
{
	size_t shown = f->len < TRACE_BYTES_SHOWN ? f->len : TRACE_BYTES_SHOWN, at = 0;

	for (size_t i = 0; i < shown && size - at > 2; i++)
		at += (size_t)snprintf(to + at, size - at, "%02x", f->bytes[i]);
	if (shown < f->len)
		snprintf(to + at, size - at, "... (%zu bytes)", f->len);
}

static void quoted(const struct trace_field *f, char *to, size_t size)
{
	size_t at = 1;

	if (size < 3)
		return;
	to[0] = '"';
	at += f->kind == TRACE_FIELD_UTF16 ? trace_escape_utf16(f->bytes, f->len, to + 1, size - 2) :
					     trace_escape(f->bytes, f->len, to + 1, size - 2);
	strcpy(to + at, "\"");
}

void trace_field_text(const struct trace_field *f, char *to, size_t size)
{
	if (!size)
		return;
	to[0] = '\0';
	switch (f->kind) {
	case TRACE_FIELD_NUMBER: snprintf(to, size, "%" PRIu64, f->value); break;
	case TRACE_FIELD_HEX:
		if (f->word)
			snprintf(to, size, "%s", f->word);
		else
			snprintf(to, size, "%0*" PRIx64, f->digits, f->value);
		break;
	case TRACE_FIELD_TEXT:
	case TRACE_FIELD_UTF16: quoted(f, to, size); break;
	case TRACE_FIELD_WORD: snprintf(to, size, "%s", f->word); break;
	case TRACE_FIELD_BYTES: bytes_text(f, to, size); break;
	}
}
