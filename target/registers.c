// SPDX-License-Identifier: MIT
// Registers by name, on contexts and special registers as bytes. Where a register lies, wire/kdregs.h says; this adds the parts
// (eax, al), the flags, and debuggers' other names.
#include <string.h>
#include <strings.h>

#include "target/error.h"
#include "target/target.h"
#include "wire/le.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

// ---- names ---------------------------------------------------------------------------------------------------------------------

// Other names for whole registers. What a kernel debugger means by dr0 … dr7 are the kernel's own, not those of the context.
static const struct {
	const char *name, *is;
} ALIASES[] = {
	{ "eflags", "efl" }, { "dr0", "kdr0" }, { "dr1", "kdr1" }, { "dr2", "kdr2" }, { "dr3", "kdr3" }, { "dr6", "kdr6" }, { "dr7", "kdr7" },
};

// Bits of eflags.
static const struct {
	const char *name;
	uint8_t shift, bits;
} FLAGS[] = { { "cf", 0, 1 },	{ "pf", 2, 1 },	 { "af", 4, 1 },  { "zf", 6, 1 },    { "sf", 7, 1 },	{ "tf", 8, 1 },	 { "if", 9, 1 },
	      { "df", 10, 1 },	{ "of", 11, 1 }, { "iopl", 12, 2 }, { "nt", 14, 1 }, { "rf", 16, 1 },	{ "vm", 17, 1 }, { "ac", 18, 1 },
	      { "vif", 19, 1 }, { "vip", 20, 1 } };

// Parts of the registers that have had them since the 8086: whole register by mode, part, its place.
static const struct {
	const char *name, *x64, *x86;
	uint8_t shift, bits;
} PARTS[] = {
	{ "eax", "rax", NULL, 0, 32 }, { "ax", "rax", "eax", 0, 16 },  { "al", "rax", "eax", 0, 8 },  { "ah", "rax", "eax", 8, 8 },
	{ "ebx", "rbx", NULL, 0, 32 }, { "bx", "rbx", "ebx", 0, 16 },  { "bl", "rbx", "ebx", 0, 8 },  { "bh", "rbx", "ebx", 8, 8 },
	{ "ecx", "rcx", NULL, 0, 32 }, { "cx", "rcx", "ecx", 0, 16 },  { "cl", "rcx", "ecx", 0, 8 },  { "ch", "rcx", "ecx", 8, 8 },
	{ "edx", "rdx", NULL, 0, 32 }, { "dx", "rdx", "edx", 0, 16 },  { "dl", "rdx", "edx", 0, 8 },  { "dh", "rdx", "edx", 8, 8 },
	{ "esi", "rsi", NULL, 0, 32 }, { "si", "rsi", "esi", 0, 16 },  { "sil", "rsi", NULL, 0, 8 },  { "edi", "rdi", NULL, 0, 32 },
	{ "di", "rdi", "edi", 0, 16 }, { "dil", "rdi", NULL, 0, 8 },   { "ebp", "rbp", NULL, 0, 32 }, { "bp", "rbp", "ebp", 0, 16 },
	{ "bpl", "rbp", NULL, 0, 8 },  { "esp", "rsp", NULL, 0, 32 },  { "sp", "rsp", "esp", 0, 16 }, { "spl", "rsp", NULL, 0, 8 },
	{ "eip", "rip", NULL, 0, 32 }, { "ip", "rip", "eip", 0, 16 },  { "fl", "efl", "efl", 0, 16 },
	{ "r8d", "r8", NULL, 0, 32 },  { "r8w", "r8", NULL, 0, 16 },   { "r8b", "r8", NULL, 0, 8 },   { "r9d", "r9", NULL, 0, 32 },
	{ "r9w", "r9", NULL, 0, 16 },  { "r9b", "r9", NULL, 0, 8 },    { "r10d", "r10", NULL, 0, 32 }, { "r10w", "r10", NULL, 0, 16 },
	{ "r10b", "r10", NULL, 0, 8 }, { "r11d", "r11", NULL, 0, 32 }, { "r11w", "r11", NULL, 0, 16 }, { "r11b", "r11", NULL, 0, 8 },
	{ "r12d", "r12", NULL, 0, 32 }, { "r12w", "r12", NULL, 0, 16 }, { "r12b", "r12", NULL, 0, 8 }, { "r13d", "r13", NULL, 0, 32 },
	{ "r13w", "r13", NULL, 0, 16 }, { "r13b", "r13", NULL, 0, 8 }, { "r14d", "r14", NULL, 0, 32 }, { "r14w", "r14", NULL, 0, 16 },
	{ "r14b", "r14", NULL, 0, 8 }, { "r15d", "r15", NULL, 0, 32 }, { "r15w", "r15", NULL, 0, 16 }, { "r15b", "r15", NULL, 0, 8 },
};

static uint32_t machine_of(enum vmkd_arch arch)
{
	return arch == VMKD_ARCH_X64 ? KD_MACHINE_X64 : arch == VMKD_ARCH_X86 ? KD_MACHINE_X86 : 0;
}

static enum vmkd_register_group group_of(const struct kd_register *reg, bool is_special)
{
	if (is_special)
		return strncmp(reg->name, "kdr", 3) == 0 ? VMKD_REGISTERS_DEBUG : VMKD_REGISTERS_CONTROL;
	if (reg->group == KD_CONTEXT_CONTROL || reg->group == KD_CONTEXT_INTEGER || reg->group == KD_CONTEXT_SEGMENTS)
		return VMKD_REGISTERS_GENERAL;
	return reg->group == KD_CONTEXT_DEBUG ? VMKD_REGISTERS_DEBUG : VMKD_REGISTERS_VECTOR;
}

static struct vmkd_register describe(const struct kd_register *reg, bool is_special)
{
	return (struct vmkd_register){ .name = reg->name,
				       .group = group_of(reg, is_special),
				       .size = reg->size,
				       .stored_size = reg->size,
				       .is_special = is_special,
				       .offset = reg->offset };
}

static bool find_whole(enum vmkd_arch arch, const char *name, struct vmkd_register *ret)
{
	size_t count;
	const struct kd_register *table = kd_special_registers(machine_of(arch), &count);
	const struct kd_register *reg = kd_register_find(table, count, name);

	if (reg) {
		*ret = describe(reg, true);
		return true;
	}
	table = kd_context_registers(machine_of(arch), &count);
	reg = kd_register_find(table, count, name);
	if (reg)
		*ret = describe(reg, false);
	return reg != NULL;
}

static bool part_at(enum vmkd_arch arch, size_t index, struct vmkd_register *ret)
{
	const char *whole = arch == VMKD_ARCH_X64 ? PARTS[index].x64 : PARTS[index].x86;
	struct vmkd_register reg;

	if (!whole || !find_whole(arch, whole, &reg))
		return false;
	reg.name = PARTS[index].name;
	reg.group = VMKD_REGISTERS_PART;
	reg.size = PARTS[index].bits / 8;
	reg.shift = PARTS[index].shift;
	reg.bits = PARTS[index].bits;
	*ret = reg;
	return true;
}

static bool flag_at(enum vmkd_arch arch, size_t index, struct vmkd_register *ret)
{
	struct vmkd_register reg;

	if (!find_whole(arch, "efl", &reg))
		return false;
	reg.name = FLAGS[index].name;
	reg.group = VMKD_REGISTERS_FLAG;
	reg.size = 1;
	reg.shift = FLAGS[index].shift;
	reg.bits = FLAGS[index].bits;
	*ret = reg;
	return true;
}

bool vmkd_register_find(enum vmkd_arch arch, const char *name, struct vmkd_register *ret)
{
	for (size_t i = 0; i < COUNT(ALIASES); i++)
		if (strcasecmp(name, ALIASES[i].name) == 0) {
			if (!find_whole(arch, ALIASES[i].is, ret))
				return false;
			ret->name = ALIASES[i].name;
			return true;
		}
	if (find_whole(arch, name, ret))
		return true;
	for (size_t i = 0; i < COUNT(PARTS); i++)
		if (strcasecmp(name, PARTS[i].name) == 0)
			return part_at(arch, i, ret);
	for (size_t i = 0; i < COUNT(FLAGS); i++)
		if (strcasecmp(name, FLAGS[i].name) == 0)
			return flag_at(arch, i, ret);
	return false;
}

bool vmkd_register_at(enum vmkd_arch arch, size_t index, struct vmkd_register *ret)
{
	size_t count;
	const struct kd_register *table = kd_context_registers(machine_of(arch), &count);

	if (index < count) {
		*ret = describe(&table[index], false);
		return true;
	}
	index -= count;
	table = kd_special_registers(machine_of(arch), &count);
	if (index < count) {
		*ret = describe(&table[index], true);
		return true;
	}
	index -= count;
	// Parts that this machine does not have leave gaps: count them out.
	for (size_t i = 0; i < COUNT(PARTS); i++)
		if (part_at(arch, i, ret) && index-- == 0)
			return true;
	return index < COUNT(FLAGS) && flag_at(arch, index, ret);
}

// ---- contexts ------------------------------------------------------------------------------------------------------------------

void target_registers_forget(struct vmkd_target *target)
{
	target->context.is_valid = false;
	target->special.is_valid = false;
}

static struct vmkd_error *check_processor(const struct vmkd_target *target, uint32_t processor)
{
	if (processor < target->processor_count)
		return NULL;
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected a processor from 0 to %x, got %x",
				 target->processor_count ? target->processor_count - 1 : 0, processor);
}

static struct vmkd_error *load_context(struct vmkd_target *target, uint32_t processor, struct target_context *context)
{
	uint8_t bytes[KD_CONTEXT_SIZE_MAX];
	size_t len;
	struct vmkd_error *error = target_learn(target);

	if (!error)
		error = check_processor(target, processor);
	if (!error)
		error = TARGET_CAN(target, context_get);
	if (!error)
		error = target->backend->ops->context_get(target->backend, (uint16_t)processor, bytes,
							  kd_context_size(target->version.machine), &len);
	if (error)
		return error;
	context->is_valid = true;
	context->processor = (uint16_t)processor;
	context->len = len;
	memcpy(context->bytes, bytes, len);
	return NULL;
}

static struct vmkd_error *need_context(struct vmkd_target *target)
{
	uint16_t processor = target->stop.processor;

	if (target->context.is_valid && target->context.processor == processor)
		return NULL;
	return load_context(target, processor, &target->context);
}

static uint64_t special_index(const struct vmkd_target *target)
{
	return target_is_x86(target) ? KD_PROCESSOR_STATE_SPECIAL_X86 : KD_CONTROL_SPACE_SPECIAL;
}

static struct vmkd_error *need_special(struct vmkd_target *target)
{
	struct target_context *special = &target->special;
	size_t len;

	struct vmkd_error *error = target_learn(target);
	if (error || (special->is_valid && special->processor == target->stop.processor))
		return error;
	size_t size = target_is_x86(target) ? KD_SPECIAL_SIZE_X86 : KD_SPECIAL_SIZE_X64_MAX;
	error = vmkd_target_control_read(target, target->stop.processor, special_index(target), special->bytes, size, &len);
	if (error)
		return error;
	special->is_valid = true;
	special->processor = target->stop.processor;
	special->len = len;
	return NULL;
}

struct vmkd_error *vmkd_target_context_get(struct vmkd_target *target, uint32_t processor, void *buffer, size_t size, size_t *ret_size)
{
	struct target_context context;
	struct vmkd_error *error = load_context(target, processor, &context);

	if (error)
		return error;
	if (size < context.len)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a buffer of %zu bytes for a context, got %zu", context.len, size);
	memcpy(buffer, context.bytes, context.len);
	*ret_size = context.len;
	if (processor == target->stop.processor)
		target->context = context;
	return NULL;
}

struct vmkd_error *vmkd_target_context_set(struct vmkd_target *target, uint32_t processor, const void *context, size_t size)
{
	struct target_context before;
	// NT takes a context only after it has given one in the same stop, so ask for it first (KD reference, section 4.4).
	struct vmkd_error *error = load_context(target, processor, &before);

	if (!error)
		error = TARGET_CAN(target, context_set);
	if (!error && size != before.len)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected a context of %zu bytes, got %zu", before.len, size);
	if (!error)
		error = target->backend->ops->context_set(target->backend, (uint16_t)processor, context, size);
	if (error)
		return error;
	if (processor == target->stop.processor) {
		target->context = before;
		memcpy(target->context.bytes, context, size);
		target->is_pc_changed = true;
	}
	return NULL;
}

// ---- single registers ----------------------------------------------------------------------------------------------------------

static struct vmkd_error *locate(struct vmkd_target *target, const struct vmkd_register *reg, struct target_context **ret)
{
	struct target_context *where = reg->is_special ? &target->special : &target->context;
	struct vmkd_error *error = reg->is_special ? need_special(target) : need_context(target);

	if (error)
		return error;
	if ((size_t)reg->offset + reg->stored_size > where->len)
		return vmkd_error_create(VMKD_E_ARGUMENT, "this kernel does not report %s", reg->name);
	*ret = where;
	return NULL;
}

static uint64_t load_le(const uint8_t *bytes, unsigned size)
{
	uint64_t value = 0;
	for (unsigned i = size; i > 0; i--)
		value = value << 8 | bytes[i - 1];
	return value;
}

static void store_le(uint8_t *bytes, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t mask_of(const struct vmkd_register *reg)
{
	unsigned bits = reg->bits ? reg->bits : reg->size >= 8 ? 64u : reg->size * 8u;
	return bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
}

struct vmkd_error *vmkd_target_register_get(struct vmkd_target *target, const struct vmkd_register *reg, struct vmkd_value *ret)
{
	struct target_context *where;
	struct vmkd_error *error = locate(target, reg, &where);

	if (error)
		return error;
	const uint8_t *bytes = where->bytes + reg->offset;
	unsigned low = reg->stored_size < 8 ? reg->stored_size : 8;
	ret->low = load_le(bytes, low) >> reg->shift & mask_of(reg);
	ret->high = load_le(bytes + low, reg->stored_size - low);
	return NULL;
}

static struct vmkd_error *check_fits(const struct vmkd_register *reg, struct vmkd_value value)
{
	unsigned high_bytes = reg->size > 8 ? reg->size - 8u : 0;

	if ((value.low & ~mask_of(reg)) == 0 && (high_bytes >= 8 || value.high >> (8 * high_bytes) == 0))
		return NULL;
	if (reg->bits && reg->bits < 8)
		return vmkd_error_create(VMKD_E_ARGUMENT, "expected a value of %u bits for %s, got %llx", reg->bits, reg->name,
					 (unsigned long long)value.low);
	return vmkd_error_create(VMKD_E_ARGUMENT, "expected a value of %u bytes for %s, got %llx", reg->size, reg->name,
				 (unsigned long long)value.low);
}

struct vmkd_error *vmkd_target_register_set(struct vmkd_target *target, const struct vmkd_register *reg, struct vmkd_value value)
{
	uint8_t bytes[KD_CONTEXT_SIZE_MAX];
	struct target_context *where;
	struct vmkd_error *error = locate(target, reg, &where);

	if (!error)
		error = check_fits(reg, value);
	if (error)
		return error;
	memcpy(bytes, where->bytes, where->len);
	uint8_t *at = bytes + reg->offset;
	unsigned low = reg->stored_size < 8 ? reg->stored_size : 8;
	uint64_t mask = mask_of(reg) << reg->shift;
	store_le(at, low, (load_le(at, low) & ~mask) | value.low << reg->shift);
	store_le(at + low, reg->stored_size - low, value.high);
	if (!reg->is_special)
		return vmkd_target_context_set(target, target->stop.processor, bytes, where->len);
	error = vmkd_target_control_write(target, target->stop.processor, special_index(target), bytes, where->len);
	if (error)
		return error;
	memcpy(where->bytes, bytes, where->len);
	if (strcmp(reg->name, "kdr7") == 0)
		target->stop.report.dr7 = value.low; // every processor gets it with the next Continue2
	return NULL;
}

static struct vmkd_register pc_register(const struct vmkd_target *target)
{
	struct vmkd_register reg = { .name = "" };

	(void)vmkd_register_find(target->version.arch, target_is_x86(target) ? "eip" : "rip", &reg); // both tables have theirs
	return reg;
}

struct vmkd_error *target_pc_get(struct vmkd_target *target, uint64_t *ret)
{
	struct vmkd_value value;

	if (!target->is_pc_changed) {
		*ret = target_address_out(target, target->stop.pc);
		return NULL;
	}
	struct vmkd_register reg = pc_register(target);
	struct vmkd_error *error = vmkd_target_register_get(target, &reg, &value);
	if (!error)
		*ret = value.low;
	return error;
}

struct vmkd_error *target_pc_set(struct vmkd_target *target, uint64_t pc)
{
	struct vmkd_error *error = target_learn(target);

	if (error)
		return error;
	struct vmkd_register reg = pc_register(target);
	return vmkd_target_register_set(target, &reg, (struct vmkd_value){ .low = pc });
}

static int put_special(const struct kd_register *table, size_t count, const char *name, uint8_t *bytes, size_t len, uint64_t value)
{
	const struct kd_register *reg = kd_register_find(table, count, name);
	return reg ? kd_register_put(reg, bytes, len, value) : KD_E_UNKNOWN;
}

struct vmkd_error *target_debug_registers_set(struct vmkd_target *target, uint32_t processor, const uint64_t values[4], uint32_t which,
					      uint64_t dr7)
{
	static const char *const NAMES[] = { "kdr0", "kdr1", "kdr2", "kdr3" };
	uint8_t bytes[KD_SPECIAL_SIZE_MAX];
	size_t len, count;
	struct vmkd_error *error = target_learn(target);

	if (error)
		return error;
	const struct kd_register *table = kd_special_registers(target->version.machine, &count);
	size_t size = target_is_x86(target) ? KD_SPECIAL_SIZE_X86 : KD_SPECIAL_SIZE_X64_MAX;
	error = vmkd_target_control_read(target, processor, special_index(target), bytes, size, &len);
	if (error)
		return error;
	int outcome = put_special(table, count, "kdr7", bytes, len, dr7);
	for (unsigned n = 0; n < 4 && outcome == KD_OK; n++)
		if (which >> n & 1)
			outcome = put_special(table, count, NAMES[n], bytes, len, values[n]);
	if (outcome != KD_OK)
		return vmkd_error_create(VMKD_E_PROTOCOL, "expected debug registers among the special registers, got %zu bytes of them", len);
	target->special.is_valid = false;
	return vmkd_target_control_write(target, processor, special_index(target), bytes, len);
}

// ---- control space, MSRs -------------------------------------------------------------------------------------------------------

struct vmkd_error *vmkd_target_control_read(struct vmkd_target *target, uint32_t processor, uint64_t index, void *buffer, size_t size,
					    size_t *ret_size)
{
	uint32_t done;
	struct vmkd_error *error = TARGET_CAN(target, control_read);

	if (!error)
		error = target_learn(target);
	if (!error)
		error = check_processor(target, processor);
	if (!error && size > KD_DATA_MAX)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u bytes of control space, got %zu", KD_DATA_MAX, size);
	if (!error)
		error = target->backend->ops->control_read(target->backend, (uint16_t)processor, index, buffer, (uint32_t)size, &done);
	if (!error)
		*ret_size = done;
	return error;
}

struct vmkd_error *vmkd_target_control_write(struct vmkd_target *target, uint32_t processor, uint64_t index, const void *data, size_t size)
{
	struct vmkd_error *error = TARGET_CAN(target, control_write);

	if (!error)
		error = target_learn(target);
	if (!error)
		error = check_processor(target, processor);
	if (!error && size > KD_DATA_MAX)
		error = vmkd_error_create(VMKD_E_ARGUMENT, "expected at most %u bytes of control space, got %zu", KD_DATA_MAX, size);
	if (!error)
		error = target->backend->ops->control_write(target->backend, (uint16_t)processor, index, data, (uint32_t)size);
	return error;
}

struct vmkd_error *vmkd_target_msr_read(struct vmkd_target *target, uint32_t msr, uint64_t *ret)
{
	struct vmkd_error *error = TARGET_CAN(target, msr_read);
	return error ? error : target->backend->ops->msr_read(target->backend, msr, ret);
}

struct vmkd_error *vmkd_target_msr_write(struct vmkd_target *target, uint32_t msr, uint64_t value)
{
	struct vmkd_error *error = TARGET_CAN(target, msr_write);
	return error ? error : target->backend->ops->msr_write(target->backend, msr, value);
}
