// SPDX-License-Identifier: MIT
// libFuzzer: a hostile guest with VirtualKD's module. The input is a program of guest, broker and VMM moves over some RAM. After each of them: nothing of that
// RAM has changed outside the buffer that the request in question told, and no call stays open that nobody drives.
#include <stdlib.h>
#include <string.h>

#include "vmm/virtualkd.h"
#include "wire/kdapi.h"
#include "wire/le.h"

#define RAM_GPA 0x7F000u
#define PAGES 12u
#define HOLE 9u // this page is none
#define P (RAM_GPA + 0xFC3u)
#define FOUR_GIB 0x100000000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(AREA_PAGE_SIZE) uint8_t ram[PAGES * AREA_PAGE_SIZE], before[PAGES * AREA_PAGE_SIZE];
static struct call call;
static struct virtualkd virtualkd;
static struct virtualkd_rpc open_rpc;
static bool is_open;

struct input {
	const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= in->at < in->end ? (uint64_t)*in->at++ << (8 * i) : 0;
	return v;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

// Two pieces with a hole between them; the second lies above 4 GiB as well.
static struct gpa_map the_map(void)
{
	static const struct gpa_range ranges[] = {
		{ RAM_GPA, HOLE * AREA_PAGE_SIZE, ram },
		{ RAM_GPA + (HOLE + 1) * AREA_PAGE_SIZE, (PAGES - HOLE - 1) * AREA_PAGE_SIZE, ram + (HOLE + 1) * AREA_PAGE_SIZE },
		{ 2 * FOUR_GIB + RAM_GPA, PAGES * AREA_PAGE_SIZE, ram },
	};
	return (struct gpa_map){ ranges, 3 };
}

// What has changed lies within the buffer of r, which may be NULL.
static void check_writes(const struct vkd_request *r)
{
	uint64_t start = r ? (uint32_t)r->at.v - RAM_GPA : 0, end = r ? start + r->capacity : 0;
	must(!r || r->capacity <= VKD_BUFFER_SIZE);
	must(start <= sizeof(ram) && !memcmp(ram, before, start));
	must(end >= sizeof(ram) || !memcmp(ram + end, before + end, sizeof(ram) - end));
}

static void place(struct input *in)
{
	static const char commands[] = "vtrs";
	static const uint8_t types[] = { 2, 3, 7, 8, 9, 11 };
	uint8_t *b = ram + (P - RAM_GPA);
	uint8_t command = (uint8_t)commands[take(in, 1) % 4];
	uint32_t type = types[take(in, 1) % sizeof(types)], header = kd_header_size(type), more = (uint32_t)take(in, 1);
	static const uint32_t lens[] = { 13, 521, 31 };
	put_le32(b, command == 's' ? 39 + header + more : command == 'v' ? lens[0] : command == 't' ? lens[1] : lens[2]);
	put_le32(b + 4, VKD_BUFFER_SIZE);
	memcpy(b + 8, "~kdVMvA ", 8);
	b[0x10] = command;
	if (command == 's') {
		put_le32(b + 0x11, header);
		put_le32(b + 0x15, more);
		put_le32(b + 0x1F, type);
		put_le32(b + 0x23, header);
		put_le32(b + 0x27, more);
		put_le32(b + 0x2F, (uint32_t)take(in, 2));
	} else if (command == 'r') {
		put_le32(b + 0x11, type);
		put_le32(b + 0x19, type == VKD_TYPE_POLL ? 0 : header << 16);
		put_le32(b + 0x1D, type == VKD_TYPE_POLL ? 0 : 0x10000000);
	}
}

static void poke(struct input *in, uint32_t from, uint32_t range)
{
	uint32_t offset = (from + (uint32_t)take(in, 2) % range) % (sizeof(ram) - 8);
	uint32_t len = 1 + take(in, 1) % 8;
	while (len--)
		ram[offset++] = (uint8_t)take(in, 1);
}

static void close_open(uint32_t code)
{
	const struct gpa_map map = the_map();
	is_open = false;
	must(virtualkd_end(&virtualkd, &call, &map, &open_rpc, code) != VIRTUALKD_CALL);
	check_writes(&open_rpc.request);
}

static void out(struct input *in, bool is_wild)
{
	const struct gpa_map map = the_map();
	struct virtualkd_exit x = { .value = P, .rax = P, .arch = ARCH_X64 };
	static struct virtualkd_rpc rpc;
	if (is_wild) {
		x.value = (uint32_t)take(in, 4);
		x.rax = take(in, 8);
	}
	memset(&rpc, 0xA5, sizeof(rpc));
	enum virtualkd_next next = virtualkd_begin(&virtualkd, &call, &map, &x, &rpc, 1000);
	check_writes(next == VIRTUALKD_DONE || next == VIRTUALKD_REST ? &rpc.request : NULL);
	if (next != VIRTUALKD_CALL)
		return;
	must(!is_open); // one call at a time
	open_rpc = rpc;
	is_open = true;
}

// A machine that says "send" for ever would hang a vCPU.
static void run(bool is_taking)
{
	struct call_message message;
	for (int i = 0; i < 5000; i++) {
		switch (call_step(&call, 10000, &message)) {
		case CALL_SEND:
			must(message.head.body_len <= LINK_BODY_MAX && (message.body || !message.head.body_len));
			if (!is_taking)
				return;
			call_sent(&call);
			break;
		case CALL_ANSWER:
			must(is_open);
			close_open(call_answer(&call));
			break;
		case CALL_SLEEP:
			must(is_open);
			return;
		default:
			return;
		}
	}
	abort();
}

static void deliver(struct input *in)
{
	static const uint8_t body[RECORD_BODY_MAX];
	uint32_t len = (uint32_t)take(in, 2) % (RECORD_BODY_MAX + 1);
	uint16_t type = (uint16_t)(take(in, 1) % 12), header = (uint16_t)kd_header_size(type);
	if (header <= len)
		(void)call_deliver(&call, type, header, body, len); // dropping is fine
}

static void move(struct input *in)
{
	struct link_hello hello;
	switch (take(in, 1) % 16) {
	case 0: case 1: place(in); break;
	case 2: poke(in, P - RAM_GPA, 64); break;
	case 3: poke(in, 0, sizeof(ram)); break;
	case 4: case 5: out(in, false); return;
	case 6: out(in, true); return;
	case 7: case 8: run(true); return;
	case 9: run(false); return;
	case 10: deliver(in); break;
	case 11: call_kick(&call); break;
	case 12: call_hello(&call, 1, "fuzz", &hello); call_broker_came(&call); break;
	case 13: call_broker_gone(&call, 5000); break;
	case 14: call_end(&call, LINK_GONE_RESET); break;
	default:
		if (take(in, 1) % 2)
			call_stall(&call);
		else
			call_breakin(&call);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	memset(ram, 0, sizeof(ram));
	call_init(&call, 0);
	virtualkd_init(&virtualkd);
	is_open = false;
	for (int i = 0; i < 200 && in.at < in.end; i++) {
		memcpy(before, ram, sizeof(ram));
		move(&in);
	}
	return 0;
}
