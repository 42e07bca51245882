// SPDX-License-Identifier: MIT
// Golden vectors: whole frames as hex text in, their contents as text out, and back to the same bytes. Through the framing of both roles
// and the codecs of kdapi. The frames: KD reference, section 10.
#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/le.h"
#include "wire/selftest.h"

struct vector {
	const char *name;
	const char *frame;   // hex
	uint32_t machine;
	bool is_from_target; // a data frame: who sends it
	const char *text;
};

static const struct vector vectors[] = {
#include "wire/selftest_vectors.inc"
};

// ---- Contents as text ----------------------------------------------------------------------------

static void field(struct text *x, const char *name, uint64_t value)
{
	text_add(x, " ");
	text_add(x, name);
	text_add(x, "=");
	text_add_hex(x, value);
}

static void data_field(struct text *x, const uint8_t *data, uint32_t len)
{
	text_add(x, " data=");
	for (uint32_t i = 0; i < len && i < 96; i++) {
		text_add_hex(x, data[i] >> 4);
		text_add_hex(x, data[i] & 15);
	}
}

static void describe_report(struct text *x, const struct kd_control_report *r)
{
	field(x, "dr6", r->dr6);
	field(x, "dr7", r->dr7);
	field(x, "efl", r->eflags);
	field(x, "flags", r->flags);
	text_add(x, " code");
	data_field(x, r->instructions, r->instruction_count);
	field(x, "cs", r->seg_cs);
	field(x, "ds", r->seg_ds);
	field(x, "es", r->seg_es);
	field(x, "fs", r->seg_fs);
}

static void describe_exception(struct text *x, const struct kd_exception *e)
{
	field(x, "code", e->code);
	field(x, "flags", e->flags);
	field(x, "record", e->record);
	field(x, "address", e->address);
	field(x, "first", e->first_chance);
	field(x, "parameters", e->parameter_count);
	for (uint32_t i = 0; i < e->parameter_count; i++)
		field(x, "p", e->parameters[i]);
}

static void describe_load(struct text *x, const struct kd_load_symbols *l)
{
	field(x, "name_len", l->name_len);
	field(x, "base", l->base);
	field(x, "pid", l->process_id);
	field(x, "checksum", l->checksum);
	field(x, "size", l->image_size);
	field(x, "unload", l->is_unload);
}

static int describe_state_change(struct text *x, const struct vector *v, const uint8_t *body, size_t len, uint8_t *again)
{
	struct kd_state_change s;
	int r = kd_state_change_decode(body, len, v->machine, &s);
	if (r != KD_OK)
		return r;
	text_add(x, kd_state_name(s.state));
	field(x, "level", s.processor_level);
	field(x, "cpu", s.processor);
	field(x, "cpus", s.processor_count);
	field(x, "thread", s.thread);
	field(x, "pc", s.pc);
	if (s.state == KD_STATE_EXCEPTION)
		describe_exception(x, &s.u.exception);
	else if (s.state == KD_STATE_LOAD_SYMBOLS)
		describe_load(x, &s.u.load_symbols);
	else
		field(x, "flags", s.u.command_string.flags);
	describe_report(x, &s.report);
	data_field(x, s.data, s.data_len);
	return kd_state_change_encode(&s, v->machine, again, KD_STATE_CHANGE_SIZE);
}

static void describe_version(struct text *x, const struct kd_version *v)
{
	field(x, "major", v->major);
	field(x, "minor", v->minor);
	field(x, "protocol", v->protocol);
	field(x, "secondary", v->secondary);
	field(x, "flags", v->flags);
	field(x, "machine", v->machine);
	field(x, "packets", v->max_packet_type);
	field(x, "states", v->max_state_change);
	field(x, "apis", v->max_manipulate);
	field(x, "base", v->kern_base);
	field(x, "modules", v->loaded_module_list);
	field(x, "kdbg", v->debugger_data_list);
}

static void describe_union(struct text *x, const struct kd_manipulate *m)
{
	switch (kd_api_layout(m->api)) {
	case KD_LAYOUT_MEMORY:
		field(x, "address", m->u.memory.address);
		field(x, "count", m->u.memory.count);
		field(x, "actual", m->u.memory.actual_bytes);
		break;
	case KD_LAYOUT_BREAKPOINT:
		field(x, "address", m->u.breakpoint.address);
		field(x, "handle", m->u.breakpoint.handle);
		break;
	case KD_LAYOUT_CONTINUE: field(x, "status", m->u.continue_status); break;
	case KD_LAYOUT_CONTINUE2:
		field(x, "status", m->u.continue2.status);
		field(x, "trace", m->u.continue2.trace);
		field(x, "dr7", m->u.continue2.dr7);
		field(x, "start", m->u.continue2.symbol_start);
		field(x, "end", m->u.continue2.symbol_end);
		break;
	case KD_LAYOUT_MSR:
		field(x, "msr", m->u.msr.msr);
		field(x, "value", m->u.msr.value);
		break;
	case KD_LAYOUT_VERSION: describe_version(x, &m->u.version); break;
	case KD_LAYOUT_NONE: break;
	default: text_add(x, " another layout"); break;
	}
}

static int describe_manipulate(struct text *x, const struct vector *v, const uint8_t *body, size_t len, uint8_t *again)
{
	struct kd_manipulate m;
	int r = kd_manipulate_decode(body, len, v->machine, &m);
	if (r != KD_OK)
		return r;
	text_add(x, kd_api_name(m.api));
	field(x, "cpu", m.processor);
	field(x, "status", m.status);
	describe_union(x, &m);
	data_field(x, m.data, m.data_len);
	return kd_manipulate_encode(&m, v->machine, again, KD_MANIPULATE_SIZE);
}

static int describe_debug_io(struct text *x, const uint8_t *body, size_t len, uint8_t *again)
{
	struct kd_debug_io d;
	int r = kd_debug_io_decode(body, len, &d);
	if (r != KD_OK)
		return r;
	text_add(x, d.api == KD_DEBUG_IO_PRINT ? "print" : "prompt");
	field(x, "level", d.processor_level);
	field(x, "cpu", d.processor);
	field(x, "length", d.length);
	field(x, "read", d.read_length);
	data_field(x, d.data, d.data_len);
	return kd_debug_io_encode(&d, again, KD_DEBUG_IO_SIZE);
}

static int describe_file_io(struct text *x, const uint8_t *body, size_t len, uint8_t *again)
{
	struct kd_file_io f;
	int r = kd_file_io_decode(body, len, &f);
	if (r != KD_OK)
		return r;
	text_add(x, f.api == KD_FILE_IO_CREATE ? "create" : "another file call");
	field(x, "status", f.status);
	field(x, "access", f.u.create.desired_access);
	field(x, "attributes", f.u.create.attributes);
	field(x, "share", f.u.create.share_access);
	field(x, "disposition", f.u.create.disposition);
	field(x, "options", f.u.create.options);
	field(x, "handle", f.u.create.handle);
	field(x, "length", f.u.create.length);
	data_field(x, f.data, f.data_len);
	return kd_file_io_encode(&f, again, KD_FILE_IO_SIZE);
}

// `again` receives the message header, encoded from what was decoded.
static int describe_body(struct text *x, const struct vector *v, uint32_t type, const uint8_t *body, size_t len, uint8_t *again)
{
	switch (type) {
	case KD_PACKET_STATE_CHANGE: return describe_state_change(x, v, body, len, again);
	case KD_PACKET_MANIPULATE: return describe_manipulate(x, v, body, len, again);
	case KD_PACKET_DEBUG_IO: return describe_debug_io(x, body, len, again);
	case KD_PACKET_FILE_IO: return describe_file_io(x, body, len, again);
	default: return KD_E_UNKNOWN;
	}
}

// ---- One vector ----------------------------------------------------------------------------------

static uint8_t frame[KDCOM_FRAME_MAX];
static struct kdcom reader, writer;
static struct text said;

// A machine in which this frame is the next thing that happens.
static void prepare(const struct vector *v, uint32_t id)
{
	kdcom_init(&reader, v->is_from_target ? KDCOM_DEBUGGER : KDCOM_TARGET);
	reader.expected_id = id;
	kdcom_expect(&reader, get_le16(frame + 4));
	kdcom_init(&writer, v->is_from_target ? KDCOM_TARGET : KDCOM_DEBUGGER);
	writer.next_id = id;
}

static void check_data(struct selftest *t, const struct vector *v, size_t len)
{
	size_t used, out_len;
	const uint8_t *out;
	struct kdcom_event ev;
	uint8_t header[KD_STATE_CHANGE_SIZE];
	uint32_t type = get_le16(frame + 4), header_len = kd_header_size(type);
	prepare(v, get_le32(frame + 8));
	kdcom_feed(&reader, frame, len, &used, &ev);
	CHECK(t, ev.kind == KDCOM_EV_PACKET && used == len);
	CHECK(t, ev.type == type && ev.body_len + KDCOM_HEAD + 1 == len);
	if (t->has_failed)
		return;
	text_clear(&said);
	CHECK(t, describe_body(&said, v, type, ev.body, ev.body_len, header) == KD_OK);
	CHECK(t, same_text(said.bytes, v->text));
	if (t->has_failed)
		t->log(said.bytes);
	CHECK(t, kdcom_send(&writer, (uint16_t)type, header, header_len, ev.body + header_len, ev.body_len - header_len, 0) ==
	                 KDCOM_OK);
	kdcom_output(&writer, &out, &out_len);
	CHECK(t, out_len == len && same_bytes(out, frame, len));
}

// Control packets and the break-in byte: made by the function that sends them, understood by the other role.
static void check_control(struct selftest *t, const struct vector *v, size_t len)
{
	size_t used, out_len;
	const uint8_t *out;
	struct kdcom_event ev;
	kdcom_init(&writer, KDCOM_DEBUGGER);
	kdcom_init(&reader, KDCOM_TARGET);
	kdcom_expect(&reader, KD_PACKET_MANIPULATE);
	if (same_text(v->text, "reset"))
		CHECK(t, kdcom_send_reset(&writer) == KDCOM_OK);
	else if (same_text(v->text, "break-in"))
		CHECK(t, kdcom_send_breakin(&writer) == KDCOM_OK);
	else if (same_text(v->text, "sent")) { // ACK of 80800000: the answer to a packet with this id
		static const char packet[] = "30303030 0300 0000 00008080 00000000 AA";
		static uint8_t bytes[32];
		kdcom_feed(&writer, bytes, hex_bytes(packet, bytes, sizeof(bytes)), &used, &ev);
		CHECK(t, kdcom_send(&reader, 3, NULL, 0, NULL, 0, 0) == KDCOM_OK);
	} else { // RESEND: the answer to a wrong checksum
		static const char packet[] = "30303030 0300 0000 00008080 01000000 AA";
		static uint8_t bytes[32];
		kdcom_feed(&writer, bytes, hex_bytes(packet, bytes, sizeof(bytes)), &used, &ev);
	}
	kdcom_output(&writer, &out, &out_len);
	CHECK(t, out_len == len && same_bytes(out, frame, len));
	kdcom_feed(&reader, frame, len, &used, &ev);
	CHECK(t, used == len && same_text(kdcom_event_name(ev.kind), v->text));
}

void selftest_vectors(struct selftest *t)
{
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];
		selftest_begin(t, v->name);
		size_t len = hex_bytes(v->frame, frame, sizeof(frame));
		if (len > KDCOM_HEAD)
			check_data(t, v, len);
		else
			check_control(t, v, len);
		selftest_end(t);
	}
}
