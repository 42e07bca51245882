// SPDX-License-Identifier: MIT
#include "serve/print_buffer.h"

#include <string.h>

#include "wire/kdapi.h"
#include "wire/le.h"

void print_buffer_start(struct print_buffer *p)
{
	memset(p, 0, offsetof(struct print_buffer, bytes));
	p->step = PRINT_BUFFER_VERSION;
}

bool print_buffer_is_done(const struct print_buffer *p)
{
	return p->step == PRINT_BUFFER_DONE;
}

static uint32_t pointer_size(const struct print_buffer *p)
{
	return p->machine == KD_MACHINE_X64 ? 8 : 4;
}

static void finish(struct print_buffer *p)
{
	if (p->step != PRINT_BUFFER_TEXT)
		p->len = 0; // the bytes are something else
	p->step = PRINT_BUFFER_DONE;
}

static void go_read(struct print_buffer *p, enum print_buffer_step step, uint64_t address, uint32_t count)
{
	p->step = step;
	p->address = address;
	p->count = count;
	if (address == 0)
		finish(p);
}

uint32_t print_buffer_request(const struct print_buffer *p, uint8_t body[KD_MANIPULATE_SIZE])
{
	struct kd_manipulate m = { .api = KD_API_GET_VERSION };

	if (p->step == PRINT_BUFFER_IDLE || p->step == PRINT_BUFFER_DONE)
		return 0;
	if (p->step != PRINT_BUFFER_VERSION)
		m = (struct kd_manipulate){ .api = KD_API_READ_VIRTUAL, .u.memory = { .address = p->address, .count = p->count } };
	// The machine matters to Continue2 alone.
	return kd_manipulate_encode(&m, KD_MACHINE_X64, body, KD_MANIPULATE_SIZE) == KD_OK ? KD_MANIPULATE_SIZE : 0;
}

// ---- The way to the ring ------------------------------------------------------------------------------

static void take_version(struct print_buffer *p, const struct kd_version *v)
{
	bool is_known = v->machine == KD_MACHINE_X64 || v->machine == KD_MACHINE_X86;

	p->machine = v->machine;
	if (!is_known || !(v->flags & KD_VERSION_DATA)) {
		finish(p);
		return;
	}
	p->list = v->machine == KD_MACHINE_X86 ? kd_sign_extend32((uint32_t)v->debugger_data_list) : v->debugger_data_list;
	go_read(p, PRINT_BUFFER_LIST, p->list, pointer_size(p));
}

static uint64_t pointer_of(const struct print_buffer *p, const uint8_t *bytes)
{
	return p->machine == KD_MACHINE_X64 ? get_le64(bytes) : kd_sign_extend32(get_le32(bytes));
}

static void go_block(struct print_buffer *p, uint64_t address)
{
	bool is_over = address == p->list || ++p->blocks > PRINT_BUFFER_BLOCKS_MAX;
	go_read(p, PRINT_BUFFER_HEADER, is_over ? 0 : address, KD_DATA_HEADER_SIZE);
}

static void take_header(struct print_buffer *p, const uint8_t *data)
{
	struct kd_data_header header;

	if (kd_data_header_decode(data, KD_DATA_HEADER_SIZE, p->machine, &header) != KD_OK) {
		finish(p);
	} else if (header.tag != KD_DATA_TAG) {
		go_block(p, header.flink);
	} else {
		uint32_t count = header.size < PRINT_BUFFER_BLOCK_MAX ? header.size : PRINT_BUFFER_BLOCK_MAX;
		go_read(p, PRINT_BUFFER_BLOCK, count > KD_DATA_HEADER_SIZE ? p->address : 0, count);
	}
}

// 0 = this kernel does not tell.
static uint64_t field(const struct print_buffer *p, const uint8_t *block, enum kd_data_field name)
{
	uint64_t value = 0;
	return kd_data_get_address(block, p->count, name, p->machine, &value) == KD_OK ? value : 0;
}

// Since Server 2003 the ring can be made larger: two variables tell where it is then. Before, it is where the block says.
static void take_block(struct print_buffer *p, const uint8_t *block)
{
	uint64_t start_at = field(p, block, KD_DATA_KdPrintCircularBufferPtr);
	uint64_t end = field(p, block, KD_DATA_KdPrintCircularBufferEnd);

	p->start = field(p, block, KD_DATA_KdPrintCircularBuffer);
	p->size = end - p->start;
	p->size_at = field(p, block, KD_DATA_KdPrintBufferSize);
	p->write_at = field(p, block, KD_DATA_KdPrintWritePointer);
	p->rollover_at = field(p, block, KD_DATA_KdPrintRolloverCount);
	if (!p->write_at || !p->rollover_at)
		finish(p);
	else if (start_at && p->size_at)
		go_read(p, PRINT_BUFFER_START, start_at, pointer_size(p));
	else
		go_read(p, PRINT_BUFFER_WRITE, p->start && end > p->start ? p->write_at : 0, pointer_size(p));
}

static void take_start(struct print_buffer *p, const uint8_t *data)
{
	p->start = pointer_of(p, data);
	go_read(p, PRINT_BUFFER_SIZE, p->start ? p->size_at : 0, 4);
}

static void take_size(struct print_buffer *p, const uint8_t *data)
{
	p->size = get_le32(data);
	go_read(p, PRINT_BUFFER_WRITE, p->size ? p->write_at : 0, pointer_size(p));
}

static void take_write(struct print_buffer *p, const uint8_t *data)
{
	p->write = pointer_of(p, data) - p->start; // below the start: it wraps, and is beyond the size
	go_read(p, PRINT_BUFFER_ROLLOVER, p->write <= p->size ? p->rollover_at : 0, 4);
}

// ---- The text -------------------------------------------------------------------------------------------

// The ring's last bytes, in order: up to its end, then from its start.
static void go_text(struct print_buffer *p)
{
	if (p->left == 0) {
		p->left = p->second_count;
		p->second_count = 0;
		p->address = p->start;
	}
	p->step = PRINT_BUFFER_TEXT;
	p->count = p->left < KD_DATA_MAX ? (uint32_t)p->left : KD_DATA_MAX;
	if (p->count == 0)
		finish(p);
}

static void take_rollover(struct print_buffer *p, const uint8_t *data)
{
	bool has_wrapped = get_le32(data) != 0;
	uint64_t written = has_wrapped ? p->size : p->write;
	uint64_t total = written < PRINT_BUFFER_MAX ? written : PRINT_BUFFER_MAX;

	p->is_cut = has_wrapped || total < written;
	p->second_count = total < p->write ? total : p->write;
	p->left = total - p->second_count; // of the part behind the write pointer
	p->address = p->start + p->size - p->left;
	if (p->left == 0) { // nothing behind it: only what ends at the write pointer
		p->left = p->second_count;
		p->second_count = 0;
		p->address = p->start + p->write - p->left;
	}
	p->len = 0;
	go_text(p);
}

static void take_text(struct print_buffer *p, const uint8_t *data, uint32_t len)
{
	memcpy(p->bytes + p->len, data, len);
	p->len += len;
	p->address += len;
	p->left -= len;
	if (len < p->count)
		finish(p);
	else
		go_text(p);
}

static void take_data(struct print_buffer *p, const uint8_t *data, uint32_t len)
{
	switch (p->step) {
	case PRINT_BUFFER_LIST: go_block(p, pointer_of(p, data)); break;
	case PRINT_BUFFER_HEADER: take_header(p, data); break;
	case PRINT_BUFFER_BLOCK: take_block(p, data); break;
	case PRINT_BUFFER_START: take_start(p, data); break;
	case PRINT_BUFFER_SIZE: take_size(p, data); break;
	case PRINT_BUFFER_WRITE: take_write(p, data); break;
	case PRINT_BUFFER_ROLLOVER: take_rollover(p, data); break;
	case PRINT_BUFFER_TEXT: take_text(p, data, len); break;
	default: finish(p); break;
	}
}

void print_buffer_reply(struct print_buffer *p, const uint8_t *body, uint32_t len)
{
	struct kd_manipulate reply;
	bool is_version = p->step == PRINT_BUFFER_VERSION;

	if (p->step == PRINT_BUFFER_IDLE || p->step == PRINT_BUFFER_DONE)
		return;
	if (len == 0 || kd_manipulate_decode(body, len, KD_MACHINE_X64, &reply) != KD_OK || kd_is_failure(reply.status) ||
	    reply.api != (is_version ? KD_API_GET_VERSION : KD_API_READ_VIRTUAL)) {
		finish(p);
	} else if (is_version) {
		take_version(p, &reply.u.version);
	} else {
		uint32_t got = kd_manipulate_data_len(&reply);
		got = got < p->count ? got : p->count;
		// Half of a pointer is none; half of a text is one.
		if (got < p->count && p->step != PRINT_BUFFER_TEXT)
			finish(p);
		else
			take_data(p, reply.data, got);
	}
}

const uint8_t *print_buffer_text(const struct print_buffer *p, size_t *ret_len)
{
	const uint8_t *newline = p->is_cut ? memchr(p->bytes, '\n', p->len) : NULL;
	size_t skip = newline ? (size_t)(newline - p->bytes) + 1 : 0;

	*ret_len = p->len - skip;
	return p->bytes + skip;
}

// ---- Fitting it to what was heard -------------------------------------------------------------------------

static bool is_line_start(const uint8_t *text, size_t at)
{
	return at == 0 || text[at - 1] == '\n';
}

// The longest common end that begins with a line in both.
static size_t common_end(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
	size_t most = a_len < b_len ? a_len : b_len, same = 0, found = 0;

	while (same < most && a[a_len - same - 1] == b[b_len - same - 1]) {
		same++;
		if (is_line_start(a, a_len - same) && is_line_start(b, b_len - same))
			found = same;
	}
	return found;
}

struct print_buffer_fit print_buffer_fit(const uint8_t *text, size_t len, const uint8_t *heard, size_t heard_len)
{
	size_t same = common_end(text, len, heard, heard_len);
	size_t rest = heard_len - same, unheard = len - same;
	// What was heard before the common end is in the text, or else older than it.
	bool is_inside = rest > 0 && unheard > 0 && memmem(text, unheard, heard, rest);

	return (struct print_buffer_fit){ .old_len = is_inside ? 0 : rest, .new_len = unheard };
}
