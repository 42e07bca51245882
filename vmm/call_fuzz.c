// SPDX-License-Identifier: MIT
// libFuzzer: area and call with everything hostile. The input is a program of guest, broker and VMM moves over a RAM of 32 pages,
// every second of which the area may use; the pages between are never the guest module's, so nothing may ever be written there.
#include <stdlib.h>
#include <string.h>

#include "vmm/call.h"
#include "vmm/fake_guest.h"

#define RAM_GPA 0x7F000u
#define PAGES 32u
#define GUARD 0xC3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(AREA_PAGE_SIZE) uint8_t ram[PAGES * AREA_PAGE_SIZE];
static struct call call;
static struct fake_guest guest;

struct input {
	const uint8_t *at, *end;
};

static uint32_t take(struct input *in, unsigned bytes)
{
	uint32_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= in->at < in->end ? (uint32_t)*in->at++ << (8 * i) : 0;
	return v;
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

// Nothing may be written into pages that never carried the nonce.
static void check_guards(void)
{
	for (uint32_t page = 0; page < PAGES; page += 2) {
		for (uint32_t i = 0; i < AREA_PAGE_SIZE; i++)
			must(ram[page * AREA_PAGE_SIZE + i] == GUARD);
	}
}

static struct gpa_map the_map(void)
{
	// Two pieces with a hole of one page, so that a page list can point into nothing.
	static const struct gpa_range ranges[2] = {
		{ RAM_GPA, 15 * AREA_PAGE_SIZE, ram },
		{ RAM_GPA + 16 * AREA_PAGE_SIZE, 16 * AREA_PAGE_SIZE, ram + 16 * AREA_PAGE_SIZE },
	};
	return (struct gpa_map){ ranges, 2 };
}

static void lay_out(struct input *in)
{
	uint32_t tx = 2 + take(in, 1) % 2;
	fake_guest_init(&guest, ram, RAM_GPA, 1, tx, 2, 0x4B4B000000000000 | take(in, 1));
}

static void poke(struct input *in)
{
	uint32_t page = take(in, 1) % (PAGES / 2) * 2 + 1;
	uint32_t offset = take(in, 2) % (AREA_PAGE_SIZE - 8);
	uint32_t len = 1 + take(in, 1) % 8;
	while (len--)
		ram[page * AREA_PAGE_SIZE + offset++] = (uint8_t)take(in, 1);
}

static void put(struct input *in)
{
	static uint8_t body[RECORD_BODY_MAX];
	uint16_t kd_type = (uint16_t)(take(in, 1) % 12);
	struct ring_packet p = {
		.kd_type = kd_type, .hdr_len = (uint16_t)take(in, 2), .data_len = take(in, 2), .seq = ++guest.tx_seq,
	};
	if (!guest.head || ring_set_tail(&guest.tx, guest.head->tx_tail))
		return;
	if ((uint64_t)p.hdr_len + p.data_len <= sizeof(body) && !ring_put(&guest.tx, &p, body, body + p.hdr_len))
		guest.head->tx_head = guest.tx.head;
}

static void begin(struct input *in, bool is_wild)
{
	const struct gpa_map map = the_map();
	struct call_args args = { .vcpu = 0, .head = { RAM_GPA + AREA_PAGE_SIZE } };
	if (is_wild) {
		args.fn = take(in, 2);
		args.head.v = (uint64_t)take(in, 4) << 32 | take(in, 4);
		args.version = take(in, 4);
		args.seq = take(in, 4);
	} else {
		args.fn = take(in, 1) % 6;
		uint32_t flags = take(in, 1) % 4;
		uint32_t want = take(in, 1) % 12;
		args.seq = guest.head ? fake_guest_call(&guest, args.fn, flags, want) : 0;
	}
	must(call_begin(&call, &map, &args, 1000) <= CALL_PENDING);
}

// A machine that says "send" for ever would hang a vCPU.
static void run(bool is_taking)
{
	struct call_message message;
	for (int i = 0; i < 5000; i++) {
		switch (call_step(&call, 10000, &message)) {
		case CALL_SEND:
			must(message.head.body_len <= LINK_BODY_MAX && (message.body || !message.head.body_len));
			must(message.head.hdr_len <= message.head.body_len);
			if (!is_taking)
				return;
			call_sent(&call);
			break;
		case CALL_ANSWER:
			must(call_answer(&call) < CALL_PENDING);
			break;
		default:
			return;
		}
	}
	abort();
}

static void feed(struct input *in)
{
	uint8_t bytes[sizeof(struct link_head) + 256] = { 0 };
	size_t len = take(in, 2) % sizeof(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)take(in, 1);
	if (call_feed(&call, bytes, len) >= CALL_E_LINK)
		call_broker_gone(&call, 5000);
}

static void deliver(struct input *in)
{
	static uint8_t body[RECORD_BODY_MAX + 100];
	uint32_t len = take(in, 2);
	(void)call_deliver(&call, (uint16_t)(take(in, 1) % 12), (uint16_t)take(in, 1), body, len); // dropping is fine
}

static void scan(struct input *in)
{
	const struct gpa_map map = the_map();
	struct area_cursor cursor = { take(in, 1) % 4, take(in, 1) * AREA_PAGE_SIZE };
	struct area_candidate candidate;
	if (area_scan(&map, &cursor, take(in, 1), &candidate) == AREA_OK) {
		guest.head = guest.head ? guest.head : (struct area_head *)(ram + AREA_PAGE_SIZE);
		candidate.poll_count--;
		(void)area_candidate_call(&candidate);
		area_write_refusal(&map, candidate.head, CODE_REREGISTER);
	}
}

static void move(struct input *in)
{
	struct link_hello hello;
	switch (take(in, 1) % 18) {
	case 0: lay_out(in); break;
	case 1: case 2: poke(in); break;
	case 3: put(in); break;
	case 4: case 5: begin(in, false); break;
	case 6: begin(in, true); break;
	case 7: case 8: run(true); break;
	case 9: run(false); break;
	case 10: feed(in); break;
	case 11: deliver(in); break;
	case 12: call_kick(&call); break;
	case 13: call_hello(&call, 1, "fuzz", &hello); call_broker_came(&call); break;
	case 14: call_broker_gone(&call, 9000); break;
	case 15: call_end(&call, LINK_GONE_RESET); break;
	case 16: call_stall(&call); break;
	default: scan(in); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	memset(ram, 0, sizeof(ram));
	for (uint32_t page = 0; page < PAGES; page += 2)
		memset(ram + page * AREA_PAGE_SIZE, GUARD, AREA_PAGE_SIZE);
	memset(&guest, 0, sizeof(guest));
	call_init(&call, 0);
	lay_out(&in);
	for (int i = 0; i < 200 && in.at < in.end; i++)
		move(&in);
	check_guards();
	return 0;
}
