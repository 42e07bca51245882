// SPDX-License-Identifier: MIT
#include "wire/kddata.h"

#include "wire/le.h"

int kd_data_header_decode(const uint8_t *bytes, size_t len, uint32_t machine, struct kd_data_header *ret)
{
	if (machine != KD_MACHINE_X64 && machine != KD_MACHINE_X86)
		return KD_E_UNKNOWN;
	if (len < KD_DATA_HEADER_SIZE)
		return KD_E_SHORT;
	if (machine == KD_MACHINE_X64) {
		ret->flink = get_le64(bytes);
		ret->blink = get_le64(bytes + 8);
	} else {
		ret->flink = kd_sign_extend32(get_le32(bytes));
		ret->blink = kd_sign_extend32(get_le32(bytes + 4));
	}
	ret->tag = get_le32(bytes + 0x10);
	ret->size = get_le32(bytes + 0x14);
	return KD_OK;
}

static const struct kd_data_info fields[] = {
#define X(offset, size, name, kind, since) { #name, (offset), (size), (kind), (since) },
	KD_DATA_LIST(X)
#undef X
};
#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

const struct kd_data_info *kd_data_fields(size_t *ret_count)
{
	*ret_count = FIELD_COUNT;
	return fields;
}

static const struct kd_data_info *field_at(uint32_t offset)
{
	for (size_t i = 0; i < FIELD_COUNT; i++)
		if (fields[i].offset == offset)
			return &fields[i];
	return NULL;
}

int kd_data_get(const uint8_t *block, size_t len, enum kd_data_field field, uint64_t *ret)
{
	const struct kd_data_info *f = field_at((uint32_t)field);
	if (!f)
		return KD_E_UNKNOWN;
	if (len < KD_DATA_HEADER_SIZE)
		return KD_E_SHORT;
	uint32_t size = get_le32(block + 0x14);
	uint32_t end = (uint32_t)f->offset + f->size;
	if (end > len || end > size)
		return KD_E_SHORT;
	const uint8_t *p = block + f->offset;
	*ret = f->size == 8 ? get_le64(p) : f->size == 4 ? get_le32(p) : get_le16(p);
	return KD_OK;
}

int kd_data_get_address(const uint8_t *block, size_t len, enum kd_data_field field, uint32_t machine, uint64_t *ret)
{
	uint64_t value;
	int r = kd_data_get(block, len, field, &value);
	if (r != KD_OK)
		return r;
	*ret = machine == KD_MACHINE_X86 ? kd_sign_extend32((uint32_t)value) : value;
	return KD_OK;
}

static struct kd_unicode unicode64(const uint8_t *p)
{
	return (struct kd_unicode){ .len = get_le16(p), .max_len = get_le16(p + 2), .buffer = get_le64(p + 8) };
}

static struct kd_unicode unicode32(const uint8_t *p)
{
	return (struct kd_unicode){ .len = get_le16(p), .max_len = get_le16(p + 2),
	                            .buffer = kd_sign_extend32(get_le32(p + 4)) };
}

static bool unicode_can_be(const struct kd_unicode *u)
{
	return u->len % 2 == 0 && u->len <= u->max_len;
}

static int decode64(const uint8_t *p, size_t len, struct kd_module *ret)
{
	if (len < KD_MODULE_SIZE_X64)
		return KD_E_SHORT;
	struct kd_unicode full = unicode64(p + 0x48), base = unicode64(p + 0x58);
	if (!unicode_can_be(&full) || !unicode_can_be(&base))
		return KD_E_RANGE;
	ret->flink = get_le64(p);
	ret->blink = get_le64(p + 8);
	ret->base = get_le64(p + 0x30);
	ret->entry_point = get_le64(p + 0x38);
	ret->image_size = get_le32(p + 0x40);
	ret->full_name = full;
	ret->base_name = base;
	ret->flags = get_le32(p + 0x68);
	ret->load_count = get_le16(p + 0x6C);
	ret->checksum = get_le32(p + 0x78);
	return KD_OK;
}

static int decode32(const uint8_t *p, size_t len, struct kd_module *ret)
{
	if (len < KD_MODULE_SIZE_X86)
		return KD_E_SHORT;
	struct kd_unicode full = unicode32(p + 0x24), base = unicode32(p + 0x2C);
	if (!unicode_can_be(&full) || !unicode_can_be(&base))
		return KD_E_RANGE;
	ret->flink = kd_sign_extend32(get_le32(p));
	ret->blink = kd_sign_extend32(get_le32(p + 4));
	ret->base = kd_sign_extend32(get_le32(p + 0x18));
	ret->entry_point = kd_sign_extend32(get_le32(p + 0x1C));
	ret->image_size = get_le32(p + 0x20);
	ret->full_name = full;
	ret->base_name = base;
	ret->flags = get_le32(p + 0x34);
	ret->load_count = get_le16(p + 0x38);
	ret->checksum = get_le32(p + 0x40);
	return KD_OK;
}

int kd_module_decode(const uint8_t *bytes, size_t len, uint32_t machine, struct kd_module *ret)
{
	if (machine == KD_MACHINE_X64)
		return decode64(bytes, len, ret);
	if (machine == KD_MACHINE_X86)
		return decode32(bytes, len, ret);
	return KD_E_UNKNOWN;
}
