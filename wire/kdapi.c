// SPDX-License-Identifier: MIT
#include "wire/kdapi.h"

#include "wire/le.h"
#include "wire/portcall.h"

_Static_assert(KD_MACHINE_X64 == ARCH_X64 && KD_MACHINE_X86 == ARCH_X86, "one set of machine numbers");
_Static_assert(KD_BODY_MAX == RECORD_BODY_MAX, "a record carries any packet");

// ---- One description of each structure serves both directions ------------------------------------
// `out` set: encode, the values go there. Else decode from `in`. Offsets are relative to the structure.
struct codec {
	uint8_t *out;
	const uint8_t *in;
};

static void u8(const struct codec *c, size_t at, uint8_t *v)
{
	if (c->out)
		c->out[at] = *v;
	else
		*v = c->in[at];
}

static void u16(const struct codec *c, size_t at, uint16_t *v)
{
	if (c->out)
		put_le16(c->out + at, *v);
	else
		*v = get_le16(c->in + at);
}

static void u32(const struct codec *c, size_t at, uint32_t *v)
{
	if (c->out)
		put_le32(c->out + at, *v);
	else
		*v = get_le32(c->in + at);
}

static void u64(const struct codec *c, size_t at, uint64_t *v)
{
	if (c->out)
		put_le64(c->out + at, *v);
	else
		*v = get_le64(c->in + at);
}

// A field of 32 bits on the wire that is an integer of 64 in memory.
static void u32_wide(const struct codec *c, size_t at, uint64_t *v)
{
	uint32_t half = (uint32_t)*v;
	u32(c, at, &half);
	if (!c->out)
		*v = half;
}

// The same for an address of a 32-bit target.
static void address32(const struct codec *c, size_t at, uint64_t *v)
{
	uint32_t half = (uint32_t)*v;
	u32(c, at, &half);
	if (!c->out)
		*v = kd_sign_extend32(half);
}

static void bytes(const struct codec *c, size_t at, uint8_t *v, size_t len)
{
	if (c->out)
		wire_copy(c->out + at, v, len);
	else
		wire_copy(v, c->in + at, len);
}

static struct codec part(const struct codec *c, size_t at)
{
	struct codec p = { c->out ? c->out + at : NULL, c->out ? NULL : c->in + at };
	return p;
}

static struct codec reader(const uint8_t *from)
{
	return (struct codec){ .in = from };
}

// An encoder writes the whole structure: what no field covers is zero.
static struct codec writer(uint8_t *to, size_t len)
{
	wire_zero(to, len);
	return (struct codec){ .out = to };
}

static bool machine_is_known(uint32_t machine)
{
	return machine == KD_MACHINE_X64 || machine == KD_MACHINE_X86;
}

// ---- Packets -------------------------------------------------------------------------------------

const char *kd_packet_name(uint32_t packet_type)
{
	switch (packet_type) {
#define X(value, name, header) case value: return #name;
	KD_PACKET_LIST(X)
#undef X
	default: return "unknown";
	}
}

bool kd_is_droppable(uint32_t packet_type, const uint8_t *header, size_t header_len)
{
	if (header_len < 4)
		return false;
	uint32_t api = get_le32(header);
	switch (packet_type) {
	case KD_PACKET_DEBUG_IO: return api == KD_DEBUG_IO_PRINT;
	case KD_PACKET_STATE_CHANGE32:
	case KD_PACKET_STATE_CHANGE: return api == KD_STATE_LOAD_SYMBOLS;
	case KD_PACKET_FILE_IO: return api == KD_FILE_IO_CREATE;
	case KD_PACKET_TRACE_IO: return api == KD_TRACE_IO_PRINT;
	default: return false;
	}
}

// ---- State change --------------------------------------------------------------------------------
#define STATE_UNION 0x20u
#define STATE_REPORT 0xC0u

const char *kd_state_name(uint32_t state)
{
	switch (state) {
#define X(value, name) case value: return #name;
	KD_STATE_LIST(X)
#undef X
	default: return "unknown";
	}
}

static void xfer_exception(const struct codec *c, struct kd_exception *e)
{
	u32(c, 0x00, &e->code);
	u32(c, 0x04, &e->flags);
	u64(c, 0x08, &e->record);
	u64(c, 0x10, &e->address);
	u32(c, 0x18, &e->parameter_count);
	for (size_t i = 0; i < KD_EXCEPTION_PARAMETERS; i++)
		u64(c, 0x20 + 8 * i, &e->parameters[i]);
	u32(c, 0x98, &e->first_chance);
}

static void xfer_load_symbols(const struct codec *c, struct kd_load_symbols *l)
{
	u32(c, 0x00, &l->name_len);
	u64(c, 0x08, &l->base);
	u64(c, 0x10, &l->process_id);
	u32(c, 0x18, &l->checksum);
	u32(c, 0x1C, &l->image_size);
	u8(c, 0x20, &l->is_unload);
}

static void xfer_report64(const struct codec *c, struct kd_control_report *r)
{
	u64(c, 0x00, &r->dr6);
	u64(c, 0x08, &r->dr7);
	u32(c, 0x10, &r->eflags);
	u16(c, 0x14, &r->instruction_count);
	u16(c, 0x16, &r->flags);
	bytes(c, 0x18, r->instructions, KD_INSTRUCTION_BYTES);
	u16(c, 0x28, &r->seg_cs);
	u16(c, 0x2A, &r->seg_ds);
	u16(c, 0x2C, &r->seg_es);
	u16(c, 0x2E, &r->seg_fs);
}

static void xfer_report32(const struct codec *c, struct kd_control_report *r)
{
	u32_wide(c, 0x00, &r->dr6);
	u32_wide(c, 0x04, &r->dr7);
	u16(c, 0x08, &r->instruction_count);
	u16(c, 0x0A, &r->flags);
	bytes(c, 0x0C, r->instructions, KD_INSTRUCTION_BYTES);
	u16(c, 0x1C, &r->seg_cs);
	u16(c, 0x1E, &r->seg_ds);
	u16(c, 0x20, &r->seg_es);
	u16(c, 0x22, &r->seg_fs);
	u32(c, 0x24, &r->eflags);
}

static void xfer_state_change(const struct codec *c, uint32_t machine, struct kd_state_change *s)
{
	uint32_t new_state = s->state | (s->is_alternate ? KD_STATE_ALTERNATE : 0);
	u32(c, 0x00, &new_state);
	s->state = new_state & ~KD_STATE_ALTERNATE;
	s->is_alternate = (new_state & KD_STATE_ALTERNATE) != 0;
	u16(c, 0x04, &s->processor_level);
	u16(c, 0x06, &s->processor);
	u32(c, 0x08, &s->processor_count);
	u64(c, 0x10, &s->thread);
	u64(c, 0x18, &s->pc);
	struct codec u = part(c, STATE_UNION);
	if (s->state == KD_STATE_EXCEPTION)
		xfer_exception(&u, &s->u.exception);
	else if (s->state == KD_STATE_LOAD_SYMBOLS)
		xfer_load_symbols(&u, &s->u.load_symbols);
	else
		u32(&u, 0x00, &s->u.command_string.flags);
	struct codec report = part(c, STATE_REPORT);
	if (machine == KD_MACHINE_X64)
		xfer_report64(&report, &s->report);
	else
		xfer_report32(&report, &s->report);
}

// The counts that bound something else. Everything else in the packet is just a number.
static int check_state_change(const struct kd_state_change *s, size_t data_len)
{
	if (s->report.instruction_count > KD_INSTRUCTION_BYTES)
		return KD_E_RANGE;
	switch (s->state) {
	case KD_STATE_EXCEPTION:
		return s->u.exception.parameter_count > KD_EXCEPTION_PARAMETERS ? KD_E_RANGE : KD_OK;
	case KD_STATE_LOAD_SYMBOLS: return s->u.load_symbols.name_len > data_len ? KD_E_RANGE : KD_OK;
	case KD_STATE_COMMAND_STRING: return KD_OK;
	default: return KD_E_UNKNOWN;
	}
}

int kd_state_change_decode(const uint8_t *body, size_t len, uint32_t machine, struct kd_state_change *ret)
{
	if (!machine_is_known(machine))
		return KD_E_UNKNOWN;
	if (len < KD_STATE_CHANGE_SIZE)
		return KD_E_SHORT;
	if (len > KD_BODY_MAX)
		return KD_E_RANGE;
	struct kd_state_change s;
	wire_zero(&s, sizeof(s));
	struct codec c = reader(body);
	xfer_state_change(&c, machine, &s);
	int r = check_state_change(&s, len - KD_STATE_CHANGE_SIZE);
	if (r != KD_OK)
		return r;
	s.data = body + KD_STATE_CHANGE_SIZE;
	s.data_len = (uint32_t)(len - KD_STATE_CHANGE_SIZE);
	wire_copy(ret, &s, sizeof(s));
	return KD_OK;
}

int kd_state_change_encode(const struct kd_state_change *s, uint32_t machine, uint8_t *header, size_t size)
{
	if (!machine_is_known(machine))
		return KD_E_UNKNOWN;
	if (size < KD_STATE_CHANGE_SIZE)
		return KD_E_SPACE;
	int r = check_state_change(s, KD_BODY_MAX - KD_STATE_CHANGE_SIZE);
	if (r != KD_OK)
		return r;
	struct kd_state_change copy;
	wire_copy(&copy, s, sizeof(copy));
	struct codec c = writer(header, KD_STATE_CHANGE_SIZE);
	xfer_state_change(&c, machine, &copy);
	return KD_OK;
}

// A kernel address of a 32-bit target: sign-extended, or zero-filled by kernels built with gcc.
static bool looks_32bit(uint64_t address)
{
	return address == kd_sign_extend32((uint32_t)address) || address <= UINT32_MAX;
}

uint32_t kd_guess_machine(const uint8_t *body, size_t len)
{
	if (len < KD_STATE_CHANGE_SIZE)
		return 0;
	uint64_t thread = get_le64(body + 0x10);
	uint64_t pc = get_le64(body + 0x18);
	if (!looks_32bit(thread) || !looks_32bit(pc))
		return KD_MACHINE_X64;
	// The KTHREAD of a 64-bit kernel never lies in the top 2 GiB or below 4 GiB, so a thread that looks 32-bit is.
	if (thread)
		return KD_MACHINE_X86;
	const uint8_t *report = body + STATE_REPORT;
	if (get_le16(report + 0x14) <= KD_INSTRUCTION_BYTES && get_le16(report + 0x28) == 0x10)
		return KD_MACHINE_X64;
	if (get_le16(report + 0x08) <= KD_INSTRUCTION_BYTES && get_le16(report + 0x1C) == 0x08)
		return KD_MACHINE_X86;
	return 0;
}

// ---- Manipulate ----------------------------------------------------------------------------------
#define MANIPULATE_UNION 0x10u

enum kd_layout kd_api_layout(uint32_t api)
{
	switch (api) {
#define X(value, name, layout, has_reply) case value: return layout;
	KD_API_LIST(X)
#undef X
	default: return KD_LAYOUT_RAW;
	}
}

bool kd_api_is_known(uint32_t api)
{
	return kd_api_layout(api) != KD_LAYOUT_RAW;
}

bool kd_api_has_reply(uint32_t api)
{
	switch (api) {
#define X(value, name, layout, has_reply) case value: return (has_reply) != 0;
	KD_API_LIST(X)
#undef X
	default: return true;
	}
}

bool kd_api_resumes(uint32_t api)
{
	switch (api) {
	case KD_API_CONTINUE:
	case KD_API_CONTINUE2:
	case KD_API_REBOOT:
	case KD_API_CAUSE_BUGCHECK:
	case KD_API_SWITCH_PROCESSOR: return true;
	default: return false;
	}
}

const char *kd_api_name(uint32_t api)
{
	switch (api) {
#define X(value, name, layout, has_reply) case value: return #name;
	KD_API_LIST(X)
#undef X
	default: return "unknown";
	}
}

static void xfer_memory(const struct codec *c, struct kd_memory *m)
{
	u64(c, 0x00, &m->address);
	u32(c, 0x08, &m->count);
	u32(c, 0x0C, &m->actual_bytes);
}

// 4-byte packing: the 64-bit fields of the amd64 form are not aligned.
static void xfer_continue2(const struct codec *c, uint32_t machine, struct kd_continue2 *m)
{
	u32(c, 0x00, &m->status);
	u32(c, 0x04, &m->trace);
	if (machine == KD_MACHINE_X64) {
		u64(c, 0x08, &m->dr7);
		u64(c, 0x10, &m->symbol_start);
		u64(c, 0x18, &m->symbol_end);
	} else {
		u32_wide(c, 0x08, &m->dr7);
		address32(c, 0x0C, &m->symbol_start);
		address32(c, 0x10, &m->symbol_end);
	}
}

static void xfer_io_extended(const struct codec *c, struct kd_io_extended *m)
{
	u32(c, 0x00, &m->size);
	u32(c, 0x04, &m->interface_type);
	u32(c, 0x08, &m->bus);
	u32(c, 0x0C, &m->address_space);
	u64(c, 0x10, &m->address);
	u32(c, 0x18, &m->value);
}

static void xfer_msr(const struct codec *c, struct kd_msr *m)
{
	uint32_t low = (uint32_t)m->value, high = (uint32_t)(m->value >> 32);
	u32(c, 0x00, &m->msr);
	u32(c, 0x04, &low);
	u32(c, 0x08, &high);
	m->value = (uint64_t)high << 32 | low;
}

static void xfer_get_internal(const struct codec *c, struct kd_get_internal *m)
{
	u64(c, 0x00, &m->address);
	u32(c, 0x08, &m->flags);
	u32(c, 0x0C, &m->calls);
	u32(c, 0x10, &m->max_calls);
	u32(c, 0x14, &m->min_instructions);
	u32(c, 0x18, &m->max_instructions);
	u32(c, 0x1C, &m->total_instructions);
}

static void xfer_version(const struct codec *c, struct kd_version *v)
{
	u16(c, 0x00, &v->major);
	u16(c, 0x02, &v->minor);
	u8(c, 0x04, &v->protocol);
	u8(c, 0x05, &v->secondary);
	u16(c, 0x06, &v->flags);
	u16(c, 0x08, &v->machine);
	u8(c, 0x0A, &v->max_packet_type);
	u8(c, 0x0B, &v->max_state_change);
	u8(c, 0x0C, &v->max_manipulate);
	u8(c, 0x0D, &v->simulation);
	u16(c, 0x0E, &v->unused);
	u64(c, 0x10, &v->kern_base);
	u64(c, 0x18, &v->loaded_module_list);
	u64(c, 0x20, &v->debugger_data_list);
}

static void xfer_bus(const struct codec *c, struct kd_bus *m)
{
	u32(c, 0x00, &m->type);
	u32(c, 0x04, &m->bus);
	u32(c, 0x08, &m->slot);
	u32(c, 0x0C, &m->offset);
	u32(c, 0x10, &m->length);
}

static void xfer_query_memory(const struct codec *c, struct kd_query_memory *m)
{
	u64(c, 0x00, &m->address);
	u64(c, 0x08, &m->reserved);
	u32(c, 0x10, &m->space);
	u32(c, 0x14, &m->flags);
}

static void xfer_custom_breakpoint(const struct codec *c, struct kd_custom_breakpoint *m)
{
	u64(c, 0x00, &m->address);
	u64(c, 0x08, &m->instruction);
	u32(c, 0x10, &m->handle);
	u8(c, 0x14, &m->instruction_size);
	u8(c, 0x15, &m->alignment);
}

// Layouts of two or three fields stand here, the longer ones above.
static void xfer_union(const struct codec *c, uint32_t machine, struct kd_manipulate *m)
{
	switch (kd_api_layout(m->api)) {
	case KD_LAYOUT_RAW: bytes(c, 0, m->u.raw, KD_UNION_SIZE); break;
	case KD_LAYOUT_NONE: break;
	case KD_LAYOUT_MEMORY: xfer_memory(c, &m->u.memory); break;
	case KD_LAYOUT_CONTEXT: u32(c, 0x00, &m->u.context_flags); break;
	case KD_LAYOUT_CONTEXT_EX:
		u32(c, 0x00, &m->u.context_ex.offset);
		u32(c, 0x04, &m->u.context_ex.count);
		u32(c, 0x08, &m->u.context_ex.copied);
		break;
	case KD_LAYOUT_BREAKPOINT:
		u64(c, 0x00, &m->u.breakpoint.address);
		u32(c, 0x08, &m->u.breakpoint.handle);
		break;
	case KD_LAYOUT_RESTORE_BREAKPOINT: u32(c, 0x00, &m->u.restore_handle); break;
	case KD_LAYOUT_BREAKPOINT_EX:
		u32(c, 0x00, &m->u.breakpoint_ex.count);
		u32(c, 0x04, &m->u.breakpoint_ex.continue_status);
		break;
	case KD_LAYOUT_CONTINUE: u32(c, 0x00, &m->u.continue_status); break;
	case KD_LAYOUT_CONTINUE2: xfer_continue2(c, machine, &m->u.continue2); break;
	case KD_LAYOUT_IO:
		u64(c, 0x00, &m->u.io.address);
		u32(c, 0x08, &m->u.io.size);
		u32(c, 0x0C, &m->u.io.value);
		break;
	case KD_LAYOUT_IO_EXTENDED: xfer_io_extended(c, &m->u.io_extended); break;
	case KD_LAYOUT_MSR: xfer_msr(c, &m->u.msr); break;
	case KD_LAYOUT_QUERY_CALLS: u32(c, 0x00, &m->u.special_call_count); break;
	case KD_LAYOUT_SPECIAL_CALL: u64(c, 0x00, &m->u.special_call); break;
	case KD_LAYOUT_SET_INTERNAL:
		u64(c, 0x00, &m->u.set_internal.address);
		u32(c, 0x08, &m->u.set_internal.flags);
		break;
	case KD_LAYOUT_GET_INTERNAL: xfer_get_internal(c, &m->u.get_internal); break;
	case KD_LAYOUT_VERSION: xfer_version(c, &m->u.version); break;
	case KD_LAYOUT_SEARCH:
		u64(c, 0x00, &m->u.search.address);
		u64(c, 0x08, &m->u.search.length);
		u32(c, 0x10, &m->u.search.pattern_len);
		break;
	case KD_LAYOUT_BUS: xfer_bus(c, &m->u.bus); break;
	case KD_LAYOUT_FILL:
		u64(c, 0x00, &m->u.fill.address);
		u32(c, 0x08, &m->u.fill.length);
		u16(c, 0x0C, &m->u.fill.flags);
		u16(c, 0x0E, &m->u.fill.pattern_len);
		break;
	case KD_LAYOUT_QUERY_MEMORY: xfer_query_memory(c, &m->u.query_memory); break;
	case KD_LAYOUT_PARTITION: u32(c, 0x00, &m->u.partition); break;
	case KD_LAYOUT_CUSTOM_BREAKPOINT: xfer_custom_breakpoint(c, &m->u.custom_breakpoint); break;
	}
}

static void xfer_manipulate(const struct codec *c, uint32_t machine, struct kd_manipulate *m)
{
	u32(c, 0x00, &m->api);
	u16(c, 0x04, &m->processor_level);
	u16(c, 0x06, &m->processor);
	u32(c, 0x08, &m->status);
	struct codec u = part(c, MANIPULATE_UNION);
	xfer_union(&u, machine, m);
}

int kd_manipulate_decode(const uint8_t *body, size_t len, uint32_t machine, struct kd_manipulate *ret)
{
	if (!machine_is_known(machine))
		return KD_E_UNKNOWN;
	if (len < KD_MANIPULATE_SIZE)
		return KD_E_SHORT;
	if (len > KD_BODY_MAX)
		return KD_E_RANGE;
	wire_zero(ret, sizeof(*ret));
	struct codec c = reader(body);
	xfer_manipulate(&c, machine, ret);
	ret->data = body + KD_MANIPULATE_SIZE;
	ret->data_len = (uint32_t)(len - KD_MANIPULATE_SIZE);
	return KD_OK;
}

int kd_manipulate_encode(const struct kd_manipulate *m, uint32_t machine, uint8_t *header, size_t size)
{
	if (!machine_is_known(machine))
		return KD_E_UNKNOWN;
	if (size < KD_MANIPULATE_SIZE)
		return KD_E_SPACE;
	struct kd_manipulate copy;
	wire_copy(&copy, m, sizeof(copy));
	struct codec c = writer(header, KD_MANIPULATE_SIZE);
	xfer_manipulate(&c, machine, &copy);
	return KD_OK;
}

uint32_t kd_manipulate_data_len(const struct kd_manipulate *m)
{
	uint32_t said = m->data_len;
	switch (kd_api_layout(m->api)) {
	case KD_LAYOUT_MEMORY: said = m->u.memory.actual_bytes; break;
	case KD_LAYOUT_CONTEXT_EX: said = m->u.context_ex.copied; break;
	case KD_LAYOUT_BUS: said = m->u.bus.length; break;
	default: break;
	}
	return said < m->data_len ? said : m->data_len;
}

int kd_version_decode(const uint8_t *from, size_t len, struct kd_version *ret)
{
	if (len < KD_VERSION_SIZE)
		return KD_E_SHORT;
	struct codec c = reader(from);
	xfer_version(&c, ret);
	return KD_OK;
}

int kd_version_encode(const struct kd_version *v, uint8_t *to, size_t size)
{
	if (size < KD_VERSION_SIZE)
		return KD_E_SPACE;
	struct kd_version copy = *v;
	struct codec c = writer(to, KD_VERSION_SIZE);
	xfer_version(&c, &copy);
	return KD_OK;
}

// ---- Debug I/O -----------------------------------------------------------------------------------

static void xfer_debug_io(const struct codec *c, struct kd_debug_io *d)
{
	u32(c, 0x00, &d->api);
	u16(c, 0x04, &d->processor_level);
	u16(c, 0x06, &d->processor);
	u32(c, 0x08, &d->length);
	u32(c, 0x0C, &d->read_length);
}

int kd_debug_io_decode(const uint8_t *body, size_t len, struct kd_debug_io *ret)
{
	if (len < KD_DEBUG_IO_SIZE)
		return KD_E_SHORT;
	if (len > KD_BODY_MAX)
		return KD_E_RANGE;
	uint32_t api = get_le32(body);
	if (api != KD_DEBUG_IO_PRINT && api != KD_DEBUG_IO_PROMPT)
		return KD_E_UNKNOWN;
	// An answer to a prompt repeats the prompt's length without its text, so only a print can be checked.
	uint32_t data_len = (uint32_t)(len - KD_DEBUG_IO_SIZE), length = get_le32(body + 8);
	if (api == KD_DEBUG_IO_PRINT && length > data_len)
		return KD_E_RANGE;
	wire_zero(ret, sizeof(*ret));
	struct codec c = reader(body);
	xfer_debug_io(&c, ret);
	ret->data = body + KD_DEBUG_IO_SIZE;
	ret->data_len = api == KD_DEBUG_IO_PRINT ? length : data_len;
	return KD_OK;
}

int kd_debug_io_encode(const struct kd_debug_io *d, uint8_t *header, size_t size)
{
	if (size < KD_DEBUG_IO_SIZE)
		return KD_E_SPACE;
	struct kd_debug_io copy = *d;
	struct codec c = writer(header, KD_DEBUG_IO_SIZE);
	xfer_debug_io(&c, &copy);
	return KD_OK;
}

// ---- File I/O ------------------------------------------------------------------------------------
#define FILE_UNION 0x08u

static bool file_api_is_known(uint32_t api)
{
	return api >= KD_FILE_IO_CREATE && api <= KD_FILE_IO_CLOSE;
}

static void xfer_file_create(const struct codec *c, struct kd_file_create *f)
{
	u32(c, 0x00, &f->desired_access);
	u32(c, 0x04, &f->attributes);
	u32(c, 0x08, &f->share_access);
	u32(c, 0x0C, &f->disposition);
	u32(c, 0x10, &f->options);
	u64(c, 0x18, &f->handle);
	u64(c, 0x20, &f->length);
}

static void xfer_file_io(const struct codec *c, struct kd_file_io *f)
{
	u32(c, 0x00, &f->api);
	u32(c, 0x04, &f->status);
	struct codec u = part(c, FILE_UNION);
	if (f->api == KD_FILE_IO_CREATE) {
		xfer_file_create(&u, &f->u.create);
	} else if (f->api == KD_FILE_IO_CLOSE) {
		u64(&u, 0x00, &f->u.close_handle);
	} else {
		u64(&u, 0x00, &f->u.transfer.handle);
		u64(&u, 0x08, &f->u.transfer.offset);
		u32(&u, 0x10, &f->u.transfer.length);
	}
}

int kd_file_io_decode(const uint8_t *body, size_t len, struct kd_file_io *ret)
{
	if (len < KD_FILE_IO_SIZE)
		return KD_E_SHORT;
	if (len > KD_BODY_MAX)
		return KD_E_RANGE;
	uint32_t api = get_le32(body);
	if (!file_api_is_known(api))
		return KD_E_UNKNOWN;
	if (api == KD_FILE_IO_CREATE && (len - KD_FILE_IO_SIZE) % 2)
		return KD_E_RANGE;
	wire_zero(ret, sizeof(*ret));
	struct codec c = reader(body);
	xfer_file_io(&c, ret);
	ret->data = body + KD_FILE_IO_SIZE;
	ret->data_len = (uint32_t)(len - KD_FILE_IO_SIZE);
	return KD_OK;
}

int kd_file_io_encode(const struct kd_file_io *f, uint8_t *header, size_t size)
{
	if (!file_api_is_known(f->api))
		return KD_E_UNKNOWN;
	if (size < KD_FILE_IO_SIZE)
		return KD_E_SPACE;
	struct kd_file_io copy;
	wire_copy(&copy, f, sizeof(copy));
	struct codec c = writer(header, KD_FILE_IO_SIZE);
	xfer_file_io(&c, &copy);
	return KD_OK;
}

// ---- Trace I/O -----------------------------------------------------------------------------------

static void xfer_trace_io(const struct codec *c, struct kd_trace_io *t)
{
	u32(c, 0x00, &t->api);
	u16(c, 0x04, &t->processor_level);
	u16(c, 0x06, &t->processor);
	u32(c, 0x08, &t->length);
}

int kd_trace_io_decode(const uint8_t *body, size_t len, struct kd_trace_io *ret)
{
	if (len < KD_TRACE_IO_SIZE)
		return KD_E_SHORT;
	if (len > KD_BODY_MAX)
		return KD_E_RANGE;
	if (get_le32(body) != KD_TRACE_IO_PRINT)
		return KD_E_UNKNOWN;
	if (get_le32(body + 8) > len - KD_TRACE_IO_SIZE)
		return KD_E_RANGE;
	wire_zero(ret, sizeof(*ret));
	struct codec c = reader(body);
	xfer_trace_io(&c, ret);
	ret->data = body + KD_TRACE_IO_SIZE;
	ret->data_len = (uint32_t)(len - KD_TRACE_IO_SIZE);
	return KD_OK;
}

int kd_trace_io_encode(const struct kd_trace_io *t, uint8_t *header, size_t size)
{
	if (size < KD_TRACE_IO_SIZE)
		return KD_E_SPACE;
	struct kd_trace_io copy = *t;
	struct codec c = writer(header, KD_TRACE_IO_SIZE);
	xfer_trace_io(&c, &copy);
	return KD_OK;
}

// ---- Control request -----------------------------------------------------------------------------

static void xfer_control_request(const struct codec *c, struct kd_control_request *r)
{
	u32(c, 0x00, &r->api);
	u32(c, 0x04, &r->number);
	u32(c, 0x08, &r->answer);
}

int kd_control_request_decode(const uint8_t *body, size_t len, struct kd_control_request *ret)
{
	if (len < KD_CONTROL_REQUEST_SIZE)
		return KD_E_SHORT;
	struct kd_control_request r;
	struct codec c = reader(body);
	xfer_control_request(&c, &r);
	if (r.api != KD_CONTROL_REQUEST_HARDWARE_BP && r.api != KD_CONTROL_RELEASE_HARDWARE_BP)
		return KD_E_UNKNOWN;
	*ret = r;
	return KD_OK;
}

int kd_control_request_encode(const struct kd_control_request *r, uint8_t *header, size_t size)
{
	if (size < KD_CONTROL_REQUEST_SIZE)
		return KD_E_SPACE;
	struct kd_control_request copy = *r;
	struct codec c = writer(header, KD_CONTROL_REQUEST_SIZE);
	xfer_control_request(&c, &copy);
	return KD_OK;
}
