// SPDX-License-Identifier: MIT
// The take-over with a scripted machine and host (fakehost.h) and made-up images (fakekernel.h): every refusal and every failure at every
// step leaves everything as it was and is told; then that it works.
#include "guest/driver/fakekernel.h"
#include "guest/driver/takeover.h"
#include "guest/kdvmkd/fakehost.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define EVENTS_MAX 8u

// NT as the take-over sees it.
static struct nt {
	struct fakehost host;
	struct machine machine;
	struct takeover takeover;
	struct takeover_facts facts;

	// Failures
	uint32_t calls, fail_at; // of what may fail; 0: none
	bool has_no_block, has_no_pool;
	uint32_t vain_holds;     // the next so many
	bool is_alias_elsewhere, is_alias_missing[FINDER_FUNCTIONS];
	bool is_changed_in_time; // by somebody else, before the processors are held
	bool is_deaf;            // the kernel does not call through its table
	uint32_t list_growth;    // modules that are loaded between two questions
	int32_t list_status;
	uint32_t stop_sleeps;    // after so many, the kernel reports a stop
	uint32_t foreign_sleeps; // after so many, somebody who redirected after us puts back

	// Books
	uint32_t blocks, pools, aliases, sleeps;
	uint32_t presence_changes;
	bool is_present, is_kept, is_restored;
	void *somewhere[FINDER_FUNCTIONS];
	enum event events[EVENTS_MAX];
	int32_t statuses[EVENTS_MAX];
	uint32_t event_count;
	char printed[512];
} nt;

static int our_functions[FINDER_FUNCTIONS]; // never called: the test calls takeover_send and takeover_receive
static int foreign_function;

static void **entry(uint32_t function)
{
	return fakekernel_entry(function == FINDER_SEND ? FAKE_ENTRY_SEND : FAKE_ENTRY_RECEIVE);
}

static bool is_to_fail(void)
{
	return ++nt.calls == nt.fail_at;
}

static void facts(void *ctx, struct takeover_facts *ret)
{
	assert_ptr_equal(ctx, &nt);
	*ret = nt.facts;
}

// The one block is where the scripted host looks for it: the area in its first memory, the transport in its second.
static void *allocate(void *ctx, enum takeover_memory kind, size_t bytes)
{
	(void)ctx; // checked once
	bool is_block = bytes == AREA_PAGES * AREA_PAGE_SIZE + sizeof(struct transport);
	if (is_to_fail() || (kind == TAKEOVER_BLOCK ? nt.has_no_block : nt.has_no_pool))
		return NULL;
	if (kind == TAKEOVER_BLOCK)
		nt.blocks++;
	else
		nt.pools++;
	if (!is_block)
		return memset(malloc(bytes), 0xA5, bytes);
	assert_true(bytes <= sizeof(nt.host.memory));
	return memset(nt.host.memory, 0xA5, bytes);
}

// Whoever gets the memory next must not inherit a nonce.
static void assert_no_area(const void *memory)
{
	for (uint32_t i = 0; i < AREA_PAGES; i++)
		assert_true(((const struct page_head *)memory)[i * (AREA_PAGE_SIZE / sizeof(struct page_head))].nonce == 0);
}

static void release(void *ctx, enum takeover_memory kind, void *memory)
{
	(void)ctx; // as above
	if (kind == TAKEOVER_BLOCK)
		nt.blocks--;
	else
		nt.pools--;
	if (memory != nt.host.memory) {
		free(memory);
		return;
	}
	assert_no_area(memory);
	memset(memory, 0xDD, AREA_PAGES * AREA_PAGE_SIZE + sizeof(struct transport));
}

static int32_t modules(void *ctx, void *buffer, uint32_t bytes, uint32_t *ret_bytes)
{
	(void)ctx; // as above
	if (is_to_fail())
		return STATUS_INSUFFICIENT_RESOURCES;
	if (nt.list_status)
		return nt.list_status;
	*ret_bytes = fakekernel.list_bytes;
	if (bytes && nt.list_growth) {
		nt.list_growth--;
		fakekernel.list_bytes += 100 * sizeof(struct nt_module);
		*ret_bytes = fakekernel.list_bytes;
	}
	if (bytes < *ret_bytes)
		return STATUS_INFO_LENGTH_MISMATCH;
	memcpy(buffer, fakekernel.list, sizeof(fakekernel.list));
	return STATUS_SUCCESS;
}

static const void *kernel(void *ctx)
{
	(void)ctx; // as above
	return fakekernel_inside();
}

static void *volatile *map(void *ctx, void *volatile *at)
{
	(void)ctx; // as above
	uint32_t which = at == (void *volatile *)entry(FINDER_RECEIVE);
	if (is_to_fail() || nt.is_alias_missing[which])
		return NULL;
	nt.aliases++;
	return nt.is_alias_elsewhere ? (void *volatile *)&nt.somewhere[which] : at;
}

static void unmap(void *ctx, void *volatile *alias)
{
	(void)ctx; // as above
	assert_non_null(alias);
	nt.aliases--;
}

static bool hold(void *ctx, void (*deed)(void *arg), void *arg)
{
	(void)ctx; // as above
	if (is_to_fail())
		return false;
	if (nt.vain_holds) {
		nt.vain_holds--;
		return false;
	}
	if (nt.is_changed_in_time)
		*entry(FINDER_SEND) = &foreign_function;
	deed(arg);
	return true;
}

// Through the table, wherever that leads now.
static void send_stop(void)
{
	uint8_t body[KD_STATE_CHANGE_SIZE] = { KD_STATE_EXCEPTION & 0xFF, KD_STATE_EXCEPTION >> 8 };
	struct nt_string hdr = { .Length = sizeof(body), .Buffer = (void *)body };
	if (*entry(FINDER_SEND) == &our_functions[FINDER_SEND])
		takeover_send(&nt.takeover, KD_PACKET_STATE_CHANGE, &hdr, NULL);
}

// Time passes: the clock ticks and the kernel polls, through its table.
static void sleep_ms(void *ctx, uint32_t ms)
{
	(void)ctx; // as above
	nt.sleeps++;
	nt.host.interrupt_time += ms * 10000ull;
	if (nt.stop_sleeps && --nt.stop_sleeps == 0)
		send_stop();
	if (nt.foreign_sleeps && --nt.foreign_sleeps == 0)
		*entry(FINDER_SEND) = &our_functions[FINDER_SEND];
	if (!nt.is_deaf && *entry(FINDER_RECEIVE) == &our_functions[FINDER_RECEIVE])
		(void)takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL); // no break-in is what a tick finds
}

static void keep_presence(void *ctx)
{
	(void)ctx; // as above
	nt.is_kept = true;
}

static void set_presence(void *ctx, bool is_present)
{
	(void)ctx; // as above
	assert_true(nt.is_kept);
	nt.presence_changes++;
	nt.is_present = is_present;
}

static void restore_presence(void *ctx)
{
	(void)ctx; // as above
	assert_true(nt.is_kept);
	nt.is_restored = true;
}

static void log_event(void *ctx, enum event event, int32_t status)
{
	(void)ctx; // as above
	assert_true(nt.event_count < EVENTS_MAX);
	nt.events[nt.event_count] = event;
	nt.statuses[nt.event_count++] = status;
}

static void print(void *ctx, const char *text)
{
	(void)ctx; // as above
	assert_true(strlen(text) < sizeof(nt.printed));
	strcpy(nt.printed, text);
}

static void set_present(void *ctx, bool is_present)
{
	assert_ptr_equal(ctx, &nt.host);
	takeover_set_presence(&nt.takeover, is_present);
}

static const struct takeover_system fake_system = {
	.facts = facts, .allocate = allocate, .release = release, .modules = modules, .kernel = kernel, .is_mapped = fakekernel_is_mapped,
	.map = map, .unmap = unmap, .hold = hold, .sleep = sleep_ms, .keep_presence = keep_presence, .set_presence = set_presence,
	.restore_presence = restore_presence, .log = log_event, .print = print,
	.function = { &our_functions[FINDER_SEND], &our_functions[FINDER_RECEIVE] },
};

// A kernel that can be taken over, and a host.
static void build(void)
{
	memset(&nt, 0, sizeof(nt));
	fakekernel_build();
	fake_init(&nt.host);
	nt.host.has_hook = true;
	nt.machine = fake_machine;
	nt.machine.set_present = set_present;
	nt.facts = (struct takeover_facts){ .is_debugged = true, .is_guarded = true };
	takeover_init(&nt.takeover, &fake_system, &nt, &nt.machine, &nt.host);
}

static void assert_untouched(void)
{
	assert_ptr_equal(*entry(FINDER_SEND), fakekernel_function(FAKE_TRANSPORT, 2));
	assert_ptr_equal(*entry(FINDER_RECEIVE), fakekernel_function(FAKE_TRANSPORT, 1));
	assert_int_equal(nt.blocks, 0);
	assert_int_equal(nt.pools, 0);
	assert_int_equal(nt.aliases, 0);
	assert_int_equal(nt.is_restored, nt.is_kept);
	assert_false(nt.host.is_registered);
	assert_int_equal(nt.host.protocol_errors, 0);
	assert_false(nt.takeover.is_redirected);
}

static bool is_told(const char *text)
{
	const struct fake_packet *last = &nt.host.got[(nt.host.got_count - 1) % FAKE_GOT_MAX];
	if (!nt.host.got_count)
		return false;
	assert_int_equal(last->kd_type, KD_PACKET_DEBUG_IO);
	assert_int_equal(last->hdr_len, KD_DEBUG_IO_SIZE);
	assert_int_equal(last->body[8] | last->body[9] << 8, last->len - last->hdr_len);
	assert_memory_equal(last->body + last->hdr_len, "vmkd.sys: ", 10);
	assert_int_equal(last->body[last->len - 1], '\n');
	return memmem(last->body, last->len, text, strlen(text)) != NULL;
}

static void assert_fails(enum event event)
{
	char status[16];
	snprintf(status, sizeof(status), "0x%08X", (uint32_t)takeover_status(event));
	bool has_host = nt.host.has_hook || nt.host.has_debugcon;
	assert_int_equal(takeover_start(&nt.takeover), takeover_status(event));
	assert_int_equal(nt.event_count, 1);
	assert_int_equal(nt.events[0], event);
	assert_int_equal(nt.statuses[0], takeover_status(event));
	assert_int_equal(is_told(takeover_text(event)), has_host);
	assert_int_equal(is_told(status), has_host);
}

// ---- Refusals ----------------------------------------------------------------------------------------------

static void facts_that_forbid_it(void **state)
{
	(void)state; // none
	static const struct {
		struct takeover_facts facts;
		enum event event;
	} cases[] = {
		{ { .is_debugged = false }, EVENT_NO_DEBUG },
		{ { .is_debugged = true, .has_hvci = true }, EVENT_HVCI },
		{ { .is_debugged = true, .is_guarded = true, .is_absent = true }, EVENT_GUARDED },
		{ { .is_debugged = true, .has_groups = true }, EVENT_PROCESSORS },
		{ { .is_debugged = true, .has_hvci = true, .is_forced = true }, EVENT_HVCI },
		{ { .is_debugged = false, .is_forced = true }, EVENT_NO_DEBUG },
		{ { .is_debugged = true, .has_groups = true, .is_forced = true }, EVENT_PROCESSORS },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		build();
		nt.facts = cases[i].facts;
		assert_fails(cases[i].event);
		assert_untouched();
		assert_false(nt.is_kept);
	}
}

static void nobody_answers(void **state)
{
	(void)state; // none
	build();
	nt.host.has_hook = false;
	assert_fails(EVENT_NO_HOST);
	assert_untouched();
	assert_int_equal(takeover_status(EVENT_NO_HOST), (int32_t)0xC0000037);
	assert_int_equal(nt.sleeps, TAKEOVER_REGISTER_TURNS - 1);
	for (uint32_t code = CODE_RETRY; code <= CODE_BREAKIN; code++) { // somebody who cannot
		build();
		for (uint32_t i = 0; i < 40; i++)
			fake_script(&nt.host, code);
		if (code == CODE_RETRY)
			continue; // goes on until there is another answer
		assert_int_equal(takeover_start(&nt.takeover), STATUS_PORT_DISCONNECTED);
		assert_untouched();
	}
}

static void a_host_that_comes_late_counts(void **state)
{
	(void)state; // none
	build();
	fake_script(&nt.host, FAKE_NO_TAG);
	fake_script(&nt.host, FAKE_NO_TAG);
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	takeover_stop(&nt.takeover);
	assert_untouched();
}

// It has not heard of the end, and may write at any time where it finds its nonce: nowhere (assert_no_area).
static void a_host_that_falls_silent_finds_no_area(void **state)
{
	(void)state; // none
	for (uint32_t is_over_debugcon = 0; is_over_debugcon < 2; is_over_debugcon++) {
		build();
		nt.host.has_hook = !is_over_debugcon;
		nt.host.has_debugcon = is_over_debugcon;
		assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
		nt.host.has_hook = nt.host.has_debugcon = false;
		takeover_stop(&nt.takeover);
		assert_int_equal(nt.blocks, 0);
		assert_true(nt.host.is_registered); // as far as it knows
	}
}

static void no_memory(void **state)
{
	(void)state; // none
	build();
	nt.has_no_block = true;
	assert_fails(EVENT_NO_MEMORY); // told through other memory
	assert_untouched();
	build();
	nt.has_no_pool = true;
	assert_fails(EVENT_NO_RESOURCES);
	assert_untouched();
	build();
	nt.has_no_block = nt.has_no_pool = true;
	assert_int_equal(takeover_start(&nt.takeover), STATUS_INSUFFICIENT_RESOURCES);
	assert_untouched();
	assert_int_equal(nt.events[0], EVENT_NO_RESOURCES);
	build(); // only what comes first is there
	nt.has_no_block = true;
	nt.fail_at = 5; // modules, pool, modules, block, pool
	assert_int_equal(takeover_start(&nt.takeover), STATUS_NO_MEMORY);
	assert_untouched();
	assert_int_equal(nt.host.calls, 0);
}

static void lists_that_cannot_be_had(void **state)
{
	(void)state; // none
	build();
	nt.list_status = STATUS_NOT_SUPPORTED;
	assert_fails(EVENT_NO_KERNEL);
	assert_untouched();
	build();
	nt.list_growth = TAKEOVER_LIST_TURNS; // never enough room
	assert_fails(EVENT_NO_RESOURCES);
	assert_untouched();
	build();
	fakekernel.list_bytes = TAKEOVER_LIST_MAX + 1;
	assert_fails(EVENT_NO_RESOURCES);
	assert_untouched();
	build();
	nt.list_growth = TAKEOVER_LIST_TURNS - 1;
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	takeover_stop(&nt.takeover);
	assert_untouched();
}

static void what_is_not_found(void **state)
{
	(void)state; // none
	build();
	fakekernel_list()->Modules[1].ImageBase = NULL;
	assert_fails(EVENT_NO_KERNEL);
	assert_untouched();
	build();
	fakekernel_list()->NumberOfModules = 0x40000000; // a count beyond the buffer is cut; what is in it counts
	fakekernel_list()->Modules[1].ImageBase = NULL;
	assert_fails(EVENT_NO_KERNEL);
	assert_untouched();
	build();
	fakekernel_list()->NumberOfModules = 3;
	assert_fails(EVENT_NO_TRANSPORT);
	assert_untouched();
	build();
	fakekernel_put16(FAKE_TRANSPORT, FAKE_EXPORTS + 0x200 + 32, 0x4444);
	assert_fails(EVENT_NO_EXPORT);
	assert_untouched();
	assert_int_equal(takeover_status(EVENT_NO_KERNEL), (int32_t)0xC0000225);
	assert_int_equal(takeover_status(EVENT_NO_TRANSPORT), (int32_t)0xC0000225);
	assert_int_equal(takeover_status(EVENT_NO_EXPORT), (int32_t)0xC000007A);
}

// The link is that module's: it is not taken away for a message, which the kernel prints.
static void our_own_transport_is_left_alone(void **state)
{
	(void)state; // none
	static const struct takeover_facts facts_of[] = {
		{ .is_debugged = true },
		{ .is_debugged = true, .has_hvci = true },
		{ .is_debugged = true, .is_guarded = true, .is_absent = true },
		{ .is_debugged = false, .has_groups = true },
	};
	for (size_t i = 0; i < sizeof(facts_of) / sizeof(facts_of[0]); i++) {
		build();
		nt.facts = facts_of[i];
		strcpy((char *)&fakekernel.memory[FAKE_TRANSPORT * FAKE_PAGE + FAKE_EXPORTS + 0x200], "KdVmkdIdentity");
		assert_int_equal(takeover_start(&nt.takeover), STATUS_NOT_SUPPORTED);
		assert_int_equal(nt.events[0], EVENT_OURS);
		assert_int_equal(nt.host.calls, 0);
		assert_non_null(strstr(nt.printed, takeover_text(EVENT_OURS)));
		assert_untouched();
	}
}

static void aliases_that_are_none(void **state)
{
	(void)state; // none
	for (uint32_t i = 0; i < FINDER_FUNCTIONS; i++) {
		build();
		nt.is_alias_missing[i] = true;
		assert_fails(EVENT_NO_ALIAS);
		assert_untouched();
	}
	build();
	nt.is_alias_elsewhere = true;
	assert_fails(EVENT_NO_ALIAS);
	assert_untouched();
	assert_null(nt.somewhere[0]);
	assert_int_equal(takeover_status(EVENT_NO_ALIAS), (int32_t)0xC0000005);
}

static void processors_that_cannot_be_held(void **state)
{
	(void)state; // none
	build();
	nt.vain_holds = 1;
	assert_fails(EVENT_BUSY);
	assert_untouched();
	assert_false(nt.is_kept);
}

static void entries_that_have_changed(void **state)
{
	(void)state; // none
	build();
	nt.is_changed_in_time = true;
	assert_fails(EVENT_NO_TRANSPORT);
	assert_ptr_equal(*entry(FINDER_SEND), &foreign_function); // not ours to change
	assert_ptr_equal(*entry(FINDER_RECEIVE), fakekernel_function(FAKE_TRANSPORT, 1));
	assert_int_equal(nt.blocks + nt.aliases, 0);
	assert_false(nt.is_kept);
}

static void a_kernel_that_does_not_call(void **state)
{
	(void)state; // none
	build();
	nt.is_deaf = true;
	assert_fails(EVENT_NOT_CALLED);
	assert_untouched();
	assert_true(nt.is_restored);
	assert_true(nt.sleeps >= TAKEOVER_PROOF_TURNS);
}

// Whatever fails, at whichever call: told once, nothing left, and the entries are as they were.
static void each_call_fails_once(void **state)
{
	(void)state; // none
	uint32_t failures = 0;
	for (uint32_t at = 1;; at++) {
		build();
		nt.fail_at = at;
		int32_t status = takeover_start(&nt.takeover);
		assert_int_equal(nt.event_count, 1);
		if (status == STATUS_SUCCESS && nt.calls < at)
			break;
		assert_int_not_equal(status, STATUS_SUCCESS);
		assert_true(is_told(takeover_text(nt.events[0])));
		assert_untouched();
		failures++;
	}
	assert_int_equal(failures, 7); // list twice, its memory, block, two aliases, hold
	takeover_stop(&nt.takeover);
	assert_untouched();
}

// ---- It works ------------------------------------------------------------------------------------------------

static void assert_redirected(void)
{
	assert_ptr_equal(*entry(FINDER_SEND), &our_functions[FINDER_SEND]);
	assert_ptr_equal(*entry(FINDER_RECEIVE), &our_functions[FINDER_RECEIVE]);
	assert_true(nt.host.is_registered);
}

static void send_print(const char *text)
{
	uint32_t hdr[4] = { KD_DEBUG_IO_PRINT, 0, (uint32_t)strlen(text), 0 };
	struct nt_string h = { .Length = sizeof(hdr), .MaximumLength = 0xFFFF, .Buffer = hdr };
	struct nt_string d = { .Length = (uint16_t)strlen(text), .MaximumLength = 0, .Buffer = (void *)(uintptr_t)text };
	takeover_send(&nt.takeover, KD_PACKET_DEBUG_IO, &h, &d);
}

static uint32_t receive(uint8_t hdr[KD_MANIPULATE_SIZE])
{
	static uint8_t data[4096];
	uint32_t data_len = 0;
	struct nt_string h = { .MaximumLength = KD_MANIPULATE_SIZE, .Buffer = hdr };
	struct nt_string d = { .MaximumLength = sizeof(data), .Buffer = data };
	uint32_t code = takeover_receive(&nt.takeover, KD_PACKET_MANIPULATE, &h, &d, &data_len);
	if (code == RECEIVE_OK) {
		assert_int_equal(h.Length, KD_MANIPULATE_SIZE);
		assert_int_equal(d.Length, data_len);
	}
	return code;
}

static void assert_serves(void)
{
	uint8_t request[KD_MANIPULATE_SIZE + 10] = { 0x30, 0x31 }, hdr[KD_MANIPULATE_SIZE];
	send_print("hello");
	(void)takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL); // the one after a print
	nt.host.interrupt_time += PRINT_CALM_100NS;
	(void)takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL); // collects
	const struct fake_packet *last = &nt.host.got[(nt.host.got_count - 1) % FAKE_GOT_MAX];
	assert_memory_equal(last->body + last->hdr_len, "hello", 5);
	fake_queue(&nt.host, KD_PACKET_MANIPULATE, KD_MANIPULATE_SIZE, request, sizeof(request));
	assert_int_equal(receive(hdr), RECEIVE_OK);
	assert_memory_equal(hdr, request, sizeof(hdr));
	nt.host.is_breakin = true;
	nt.host.interrupt_time += SECOND_100NS;
	assert_int_equal(takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL), RECEIVE_OK);
}

static void taken_over_and_given_back(void **state)
{
	(void)state; // none
	build();
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	assert_int_equal(nt.events[0], EVENT_STARTED);
	assert_redirected();
	assert_true(nt.is_kept);
	assert_true(nt.is_present);
	assert_false(fake_head(&nt.host)->guest_state & GUEST_BOOTED_ALONE);
	assert_true(fake_head(&nt.host)->guest_state & GUEST_PHASE1);
	assert_serves();
	takeover_stop(&nt.takeover);
	assert_int_equal(nt.events[1], EVENT_STOPPED);
	assert_int_equal(nt.event_count, 2);
	assert_true(nt.is_restored);
	assert_untouched();
}

// What the transport tells the kernel before the exchange is not true yet: the old one is still there.
static void presence_is_not_told_too_early(void **state)
{
	(void)state; // none
	build();
	nt.vain_holds = 1;
	(void)takeover_start(&nt.takeover); // fails, and is looked at
	assert_int_equal(nt.presence_changes, 0);
	build();
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	nt.host.has_hook = false; // the link is lost: told now
	nt.host.interrupt_time += SECOND_100NS;
	send_print("nobody");
	for (uint32_t i = 0; i < 4; i++) {
		nt.host.interrupt_time += SECOND_100NS;
		(void)takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL); // looks for a link
		send_print("nobody");
	}
	assert_false(nt.is_present);
	takeover_stop(&nt.takeover);
	assert_true(nt.is_restored);
	assert_int_equal(nt.blocks + nt.aliases, 0);
}

static void forced_and_without_a_guard(void **state)
{
	(void)state; // none
	for (uint32_t i = 0; i < 2; i++) {
		build();
		nt.facts = (struct takeover_facts){ .is_debugged = true, .is_absent = true, .is_guarded = i == 0, .is_forced = i == 0 };
		assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
		assert_true(fake_head(&nt.host)->guest_state & GUEST_BOOTED_ALONE);
		takeover_stop(&nt.takeover);
		assert_untouched();
	}
}

static void stopping_waits_for_who_came_after(void **state)
{
	(void)state; // none
	build();
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	*entry(FINDER_SEND) = &foreign_function;
	nt.foreign_sleeps = 3 * TAKEOVER_WAIT_TOLD;
	takeover_stop(&nt.takeover);
	assert_int_equal(nt.foreign_sleeps, 0);
	assert_int_equal(nt.event_count, 3); // started, waits (once), stopped
	assert_int_equal(nt.events[1], EVENT_WAITING);
	assert_untouched();
	build();
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	nt.vain_holds = 2 * TAKEOVER_WAIT_TOLD; // processors that are busy: another text
	takeover_stop(&nt.takeover);
	assert_int_equal(nt.event_count, 2);
	assert_untouched();
}

static void a_stop_that_was_asked_for_is_reported_first(void **state)
{
	(void)state; // none
	for (uint32_t sleeps = 0; sleeps <= 3; sleeps += 3) { // 0: the kernel has dropped the break-in
		build();
		assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
		nt.host.is_breakin = true;
		nt.host.interrupt_time += SECOND_100NS;
		assert_int_equal(takeover_receive(&nt.takeover, KD_POLL_BREAKIN, NULL, NULL, NULL), RECEIVE_OK);
		nt.host.is_breakin = false;
		uint32_t before = nt.host.got_count;
		nt.sleeps = 0;
		nt.stop_sleeps = sleeps;
		takeover_stop(&nt.takeover);
		assert_int_equal(nt.sleeps, sleeps ? sleeps : TAKEOVER_STOP_TURNS);
		assert_int_equal(nt.host.got_count - before, sleeps ? 1 : 0);
		assert_int_equal(nt.event_count, 2); // started, stopped
		assert_untouched();
	}
}

static void a_thousand_times(void **state)
{
	(void)state; // none
	build();
	for (uint32_t i = 0; i < 1000; i++) {
		nt.event_count = 0;
		nt.is_kept = nt.is_restored = false;
		assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
		assert_redirected();
		assert_serves();
		takeover_stop(&nt.takeover);
		assert_untouched();
	}
}

static void over_debugcon(void **state)
{
	(void)state; // none
	build();
	nt.host.has_hook = false;
	nt.host.has_debugcon = true;
	assert_int_equal(takeover_start(&nt.takeover), STATUS_SUCCESS);
	assert_redirected();
	takeover_stop(&nt.takeover);
	assert_untouched();
	build();
	nt.host.has_hook = false;
	nt.host.has_debugcon = true;
	nt.facts.has_hvci = true;
	assert_fails(EVENT_HVCI);
	assert_untouched();
}

static void texts_fit_everywhere(void **state)
{
	(void)state; // none
	uint32_t count = 0;
	for (uint32_t e = EVENT_STARTED; e <= EVENT_WAITING; e++, count++) {
		const char *text = takeover_text(e);
		assert_true(strlen(text) > 10 && strlen(text) < 340);
		assert_null(strpbrk(text, "%\"@\n"));
		assert_true(takeover_number(e) >> 30 == (takeover_status(e) ? 3u : takeover_number(e) >> 30));
		for (uint32_t other = EVENT_STARTED; other < e; other++) {
			assert_int_not_equal(takeover_number(other), takeover_number(e));
			assert_string_not_equal(takeover_text(other), text);
		}
	}
	assert_true(count > 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(facts_that_forbid_it),
		cmocka_unit_test(nobody_answers),
		cmocka_unit_test(a_host_that_comes_late_counts),
		cmocka_unit_test(a_host_that_falls_silent_finds_no_area),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(lists_that_cannot_be_had),
		cmocka_unit_test(what_is_not_found),
		cmocka_unit_test(our_own_transport_is_left_alone),
		cmocka_unit_test(aliases_that_are_none),
		cmocka_unit_test(processors_that_cannot_be_held),
		cmocka_unit_test(entries_that_have_changed),
		cmocka_unit_test(a_kernel_that_does_not_call),
		cmocka_unit_test(each_call_fails_once),
		cmocka_unit_test(taken_over_and_given_back),
		cmocka_unit_test(presence_is_not_told_too_early),
		cmocka_unit_test(forced_and_without_a_guard),
		cmocka_unit_test(stopping_waits_for_who_came_after),
		cmocka_unit_test(a_stop_that_was_asked_for_is_reported_first),
		cmocka_unit_test(a_thousand_times),
		cmocka_unit_test(over_debugcon),
		cmocka_unit_test(texts_fit_everywhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
