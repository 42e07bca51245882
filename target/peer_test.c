// SPDX-License-Identifier: MIT
#include "target/peer_test.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire/kdapi.h"
#include "wire/kdcom.h"
#include "wire/kddata.h"
#include "wire/kdregs.h"
#include "wire/le.h"

#define BREAKPOINTS 32u
#define PROCESSORS 2u

struct peer {
	struct peer_options options;
	int fd;
	pthread_t thread;
	pthread_mutex_t lock;
	struct kdcom kdcom;
	uint64_t base; // as on the wire: sign-extended for x86
	uint32_t machine;
	uint8_t memory[PEER_SIZE];
	uint8_t context[KD_CONTEXT_SIZE_MAX];
	bool is_running, is_context_sent, is_over, has_misbehaved;
	uint16_t processor;
	uint32_t pc; // offset in the code
	uint32_t code;  // of the stop
	uint64_t dr[PROCESSORS][4], dr6, dr7[PROCESSORS]; // dr6: of the one that runs
	uint32_t control_writes;
	bool was_armed;
	uint32_t written; // bytes sent, for PEER_CUT
	uint32_t reads;
	struct {
		bool is_used;
		uint64_t address;
		uint8_t original;
	} breakpoints[BREAKPOINTS];
};

uint64_t peer_base(bool is_x86)
{
	return is_x86 ? 0x80400000ull : 0xFFFFF80000400000ull;
}

static uint8_t *at(struct peer *peer, uint64_t address, uint32_t *ret_room)
{
	uint64_t offset = address - peer->base;

	if (offset >= PEER_SIZE || (offset >= PEER_HOLE_AT && offset < PEER_HOLE_AT + 0x1000u))
		return NULL;
	*ret_room = (uint32_t)((offset < PEER_HOLE_AT ? PEER_HOLE_AT : PEER_SIZE) - offset);
	return peer->memory + offset;
}

// ---- sending -------------------------------------------------------------------------------------------------------------------

static void flush(struct peer *peer)
{
	const uint8_t *bytes;
	size_t len;

	kdcom_output(&peer->kdcom, &bytes, &len);
	if (len == 0)
		return;
	if (peer->options.fault == PEER_CUT && peer->written + len > peer->options.cut_after) {
		len = peer->options.cut_after - peer->written;
		peer->is_over = true;
	}
	ssize_t done = len > 0 ? send(peer->fd, bytes, len, MSG_NOSIGNAL) : 0;
	if (done < 0) {
		peer->is_over = true;
		return;
	}
	peer->written += (uint32_t)done;
	kdcom_output_consume(&peer->kdcom, (size_t)done);
	if (peer->options.fault == PEER_GARBAGE && !peer->is_over)
		(void)!send(peer->fd, "\x69\x69\x30\x30\x30nonsense\xAA", 13, MSG_NOSIGNAL);
}

static void send_packet(struct peer *peer, uint16_t type, const void *header, uint32_t header_len, const void *data, uint32_t len)
{
	if (kdcom_is_sending(&peer->kdcom))
		kdcom_cancel(&peer->kdcom);
	if (kdcom_send(&peer->kdcom, type, header, header_len, data, len, 0) != KDCOM_OK)
		peer->is_over = true;
}

static void send_stop(struct peer *peer)
{
	struct kd_state_change change = { .state = KD_STATE_EXCEPTION, .processor_level = 6, .processor = peer->processor,
					  .processor_count = PROCESSORS, .thread = peer->base + 0x500, .pc = peer->base + peer->pc };
	uint8_t header[KD_STATE_CHANGE_SIZE];
	static const uint8_t trace[4] = { 1, 0, 0, 0 };

	if (peer->options.fault == PEER_PROCESSORS) {
		change.processor = 9;
		change.processor_count = 4000000000u;
	}
	change.u.exception.code = peer->code;
	change.u.exception.address = change.pc;
	change.u.exception.first_chance = 1;
	change.report.dr6 = peer->options.fault == PEER_LOSES_DR6 ? 0 : peer->dr6;
	change.report.dr7 = peer->dr7[peer->processor];
	change.report.instruction_count = KD_INSTRUCTION_BYTES;
	change.report.flags = KD_REPORT_HAS_SEGMENTS | KD_REPORT_STANDARD_CS;
	change.report.seg_cs = peer->options.is_x86 ? 8 : 0x10;
	memcpy(change.report.instructions, peer->memory + peer->pc, KD_INSTRUCTION_BYTES);
	if (kd_state_change_encode(&change, peer->machine, header, sizeof(header)) != KD_OK)
		abort();
	send_packet(peer, KD_PACKET_STATE_CHANGE, header, sizeof(header), trace, sizeof(trace));
	kdcom_expect(&peer->kdcom, KD_PACKET_MANIPULATE);
	peer->is_context_sent = false;
}

// ---- the processor -------------------------------------------------------------------------------------------------------------

// As NT: 16 bytes at pc are copied, and what lies there leaves the table (KD reference, section 3.2).
static void stop(struct peer *peer, uint32_t code)
{
	for (uint32_t i = 0; i < BREAKPOINTS && peer->options.fault != PEER_KEEPS_BREAKPOINTS; i++) {
		uint32_t room;
		if (!peer->breakpoints[i].is_used || peer->breakpoints[i].address - (peer->base + peer->pc) >= KD_INSTRUCTION_BYTES)
			continue;
		*at(peer, peer->breakpoints[i].address, &room) = peer->breakpoints[i].original;
		peer->breakpoints[i].is_used = false;
	}
	peer->is_running = false;
	peer->code = code;
	send_stop(peer);
}

// As the processor compares: the armed registers whose range holds `offset`, for an access as DR7 has it.
static uint64_t debug_hits(const struct peer *peer, uint32_t offset, bool is_execution)
{
	uint64_t dr7 = peer->dr7[peer->processor], hits = 0, mask = peer->options.is_x86 ? UINT32_MAX : UINT64_MAX;
	uint64_t address = (peer->base + offset) & mask;

	for (uint32_t n = 0; n < 4; n++) {
		uint32_t bits = (uint32_t)(dr7 >> (16 + 4 * n)) & 0xF, len = bits >> 2 == 2 ? 8 : (bits >> 2) + 1;
		bool is_kind = is_execution ? (bits & 3) == 0 : (bits & 1) != 0;
		if (dr7 >> (2 * n) & 3 && is_kind && address - (peer->dr[peer->processor][n] & mask) < len)
			hits |= 1u << n;
	}
	return hits;
}

// DR6 keeps what it has until somebody clears it.
static bool note_hits(struct peer *peer, uint64_t hits)
{
	peer->dr6 |= hits;
	return hits != 0;
}

// One instruction. -> true: it wrote what a debug register watches.
static bool step(struct peer *peer)
{
	bool writes = peer->memory[peer->pc] == PEER_WRITES;

	peer->pc = (peer->pc + 1) % PEER_CODE_LEN;
	if (writes)
		peer->memory[PEER_DATA_AT]++;
	return writes && note_hits(peer, debug_hits(peer, PEER_DATA_AT, false));
}

// In front of the instruction: without a debugger that sees to it, the same one stops again and again.
static bool stops_in_front(struct peer *peer)
{
	if (note_hits(peer, debug_hits(peer, peer->pc, true)))
		stop(peer, KD_STATUS_SINGLE_STEP);
	else if (peer->memory[peer->pc] == 0xCC)
		stop(peer, KD_STATUS_BREAKPOINT);
	return !peer->is_running;
}

// Runs until a break instruction, at most once round.
static void run(struct peer *peer)
{
	for (uint32_t i = 0; i < PEER_CODE_LEN && !stops_in_front(peer); i++) {
		if (step(peer)) {
			stop(peer, KD_STATUS_SINGLE_STEP);
			return;
		}
	}
}

static void go_on(struct peer *peer, bool trace)
{
	kdcom_expect(&peer->kdcom, 0);
	peer->is_running = true;
	if (!trace) {
		run(peer);
		return;
	}
	if (stops_in_front(peer))
		return;
	(void)step(peer); // it stops in any case
	peer->dr6 |= 0x4000;
	stop(peer, KD_STATUS_SINGLE_STEP);
}

// ---- requests ------------------------------------------------------------------------------------------------------------------

static void reply(struct peer *peer, struct kd_manipulate *m, const void *data, uint32_t len)
{
	uint8_t header[KD_MANIPULATE_SIZE];

	if (peer->options.fault == PEER_SILENT)
		return;
	if (peer->options.fault == PEER_WRONG_API)
		m->api = m->api == KD_API_READ_VIRTUAL ? KD_API_WRITE_VIRTUAL : KD_API_READ_VIRTUAL;
	if (kd_manipulate_encode(m, peer->machine, header, sizeof(header)) != KD_OK)
		abort();
	send_packet(peer, KD_PACKET_MANIPULATE, header, sizeof(header), data, len);
}

static bool misbehave(struct peer *peer)
{
	if (peer->has_misbehaved || (peer->options.fault != PEER_RESET_ONCE && peer->options.fault != PEER_REBOOT_ONCE))
		return false;
	peer->has_misbehaved = true;
	if (peer->options.fault == PEER_REBOOT_ONCE) {
		kdcom_restart(&peer->kdcom);
		memset(peer->breakpoints, 0, sizeof(peer->breakpoints));
		peer->pc = 0;
		peer->code = KD_STATUS_BREAKPOINT;
	} else if (kdcom_send_reset(&peer->kdcom) != KDCOM_OK) {
		peer->is_over = true;
	}
	send_stop(peer);
	return true;
}

static void on_read(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t room = 0, want = m->u.memory.count < KD_DATA_MAX ? m->u.memory.count : KD_DATA_MAX;
	uint8_t *from = at(peer, m->u.memory.address, &room);
	uint32_t done = want < room ? want : room;

	peer->reads++;
	if (misbehave(peer))
		return;
	m->status = done == m->u.memory.count ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL;
	m->u.memory.actual_bytes = peer->options.fault == PEER_COUNT ? 0x7FFFFFFF : done;
	if (peer->options.fault == PEER_COUNT) { // and more bytes than asked for, too
		static const uint8_t many[KD_DATA_MAX];
		reply(peer, m, many, sizeof(many));
		return;
	}
	reply(peer, m, from, done);
}

static void on_write(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t room = 0;
	uint8_t *to = at(peer, m->u.memory.address, &room);
	uint32_t done = m->data_len < room ? m->data_len : room;

	if (done > 0)
		memcpy(to, m->data, done);
	m->u.memory.actual_bytes = done;
	m->status = done == m->data_len ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL;
	reply(peer, m, NULL, 0);
}

static uint32_t pc_offset(const struct peer *peer)
{
	return peer->options.is_x86 ? 0xB8 : 0xF8;
}

static void on_get_context(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t size = kd_context_size(peer->machine);
	uint64_t pc = peer->base + peer->pc + (m->processor == peer->processor ? 0 : 0x80);

	if (m->processor >= PROCESSORS) {
		m->status = KD_STATUS_UNSUCCESSFUL;
		reply(peer, m, NULL, 0);
		return;
	}
	if (peer->options.is_x86)
		put_le32(peer->context + pc_offset(peer), (uint32_t)pc);
	else
		put_le64(peer->context + pc_offset(peer), pc);
	peer->is_context_sent = true;
	reply(peer, m, peer->context, peer->options.fault == PEER_SHORT_CONTEXT ? 16 : size);
}

static void on_set_context(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t size = kd_context_size(peer->machine);

	m->status = peer->is_context_sent && m->data_len == size ? KD_STATUS_SUCCESS : KD_STATUS_UNSUCCESSFUL;
	if (m->status == KD_STATUS_SUCCESS) {
		memcpy(peer->context, m->data, size);
		if (m->processor == peer->processor)
			peer->pc = (get_le32(peer->context + pc_offset(peer)) - (uint32_t)peer->base) % PEER_CODE_LEN;
	}
	reply(peer, m, NULL, 0);
}

static void on_write_breakpoint(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t free_place = BREAKPOINTS, room;
	uint8_t *byte = at(peer, m->u.breakpoint.address, &room);

	for (uint32_t i = BREAKPOINTS; i > 0; i--) {
		if (!peer->breakpoints[i - 1].is_used)
			free_place = i - 1;
		else if (peer->breakpoints[i - 1].address == m->u.breakpoint.address)
			byte = NULL;
	}
	m->u.breakpoint.handle = 0;
	m->status = KD_STATUS_UNSUCCESSFUL;
	if (byte && free_place < BREAKPOINTS) {
		peer->breakpoints[free_place].is_used = true;
		peer->breakpoints[free_place].address = m->u.breakpoint.address;
		peer->breakpoints[free_place].original = *byte;
		*byte = 0xCC;
		m->u.breakpoint.handle = free_place + 1;
		m->status = KD_STATUS_SUCCESS;
	}
	reply(peer, m, NULL, 0);
}

static void on_restore_breakpoint(struct peer *peer, struct kd_manipulate *m)
{
	uint32_t index = m->u.restore_handle - 1, room;

	m->status = KD_STATUS_UNSUCCESSFUL;
	if (index < BREAKPOINTS && peer->breakpoints[index].is_used) {
		*at(peer, peer->breakpoints[index].address, &room) = peer->breakpoints[index].original;
		peer->breakpoints[index].is_used = false;
		m->status = KD_STATUS_SUCCESS;
	}
	reply(peer, m, NULL, 0);
}

static void on_version(struct peer *peer, struct kd_manipulate *m)
{
	m->u.version = (struct kd_version){ .major = 0x0F,
					    .minor = 7601,
					    .protocol = 6,
					    .secondary = 2,
					    .flags = KD_VERSION_MP | KD_VERSION_DATA | (peer->options.is_x86 ? 0 : KD_VERSION_PTR64),
					    .machine = (uint16_t)peer->machine,
					    .kern_base = peer->base,
					    .loaded_module_list = peer->base + PEER_LIST_AT,
					    .debugger_data_list = peer->base + PEER_KDBG_AT };
	reply(peer, m, NULL, 0);
}

// DR0 to DR3, DR6, DR7 in KSPECIAL_REGISTERS (KD reference, section 6.4).
static void on_control_space(struct peer *peer, struct kd_manipulate *m)
{
	uint8_t special[KD_SPECIAL_SIZE_X64] = { 0 };
	bool is_write = m->api == KD_API_WRITE_CONTROL_SPACE;
	uint32_t size = peer->options.is_x86 ? KD_SPECIAL_SIZE_X86 : KD_SPECIAL_SIZE_X64, width = peer->options.is_x86 ? 4 : 8;
	uint32_t first = peer->options.is_x86 ? 0x10 : 0x20;

	if (m->processor >= PROCESSORS || (is_write && m->data_len != size)) {
		m->status = KD_STATUS_UNSUCCESSFUL;
		reply(peer, m, NULL, 0);
		return;
	}
	put_le32(special, 0x80010031); // cr0
	for (uint32_t i = 0; i < 6; i++) {
		uint64_t *value = i < 4 ? &peer->dr[m->processor][i] : i == 4 ? &peer->dr6 : &peer->dr7[m->processor];
		if (is_write)
			memcpy(value, m->data + first + i * width, width);
		memcpy(special + first + i * width, value, width);
	}
	peer->control_writes += is_write;
	peer->was_armed |= peer->dr7[0] & 0xFF;
	m->u.memory.actual_bytes = size;
	reply(peer, m, special, size);
}

// NT gives Dr7 to every processor, and clears their Dr6 (KD reference, section 4.4).
static void on_continue2(struct peer *peer, const struct kd_manipulate *m)
{
	bool is_handled = !kd_is_failure(m->u.continue2.status);

	for (uint32_t i = 0; i < PROCESSORS && is_handled; i++)
		peer->dr7[i] = m->u.continue2.dr7;
	if (is_handled)
		peer->dr6 = 0;
	if (peer->options.fault == PEER_LATE && peer->was_armed && !(peer->dr7[0] & 0xFF)) {
		peer->was_armed = false;
		peer->processor = 1;
		stop(peer, KD_STATUS_SINGLE_STEP);
		return;
	}
	go_on(peer, m->u.continue2.trace != 0 && is_handled);
}

static void on_switch(struct peer *peer, struct kd_manipulate *m)
{
	if (peer->options.fault == PEER_OBSERVED) {
		m->status = KD_STATUS_ACCESS_DENIED;
		reply(peer, m, NULL, 0);
		return;
	}
	if (m->processor < PROCESSORS && m->processor != peer->processor) {
		peer->processor = m->processor;
		peer->code = KD_STATUS_WAKE_DEBUGGER;
	}
	stop(peer, peer->code);
}

static void on_request(struct peer *peer, const struct kdcom_event *packet)
{
	struct kd_manipulate m;

	if (packet->type != KD_PACKET_MANIPULATE ||
	    kd_manipulate_decode(packet->body, packet->body_len, peer->machine, &m) != KD_OK)
		return;
	switch (m.api) {
	case KD_API_READ_VIRTUAL: on_read(peer, &m); break;
	case KD_API_WRITE_VIRTUAL: on_write(peer, &m); break;
	case KD_API_GET_CONTEXT: on_get_context(peer, &m); break;
	case KD_API_SET_CONTEXT: on_set_context(peer, &m); break;
	case KD_API_WRITE_BREAKPOINT: on_write_breakpoint(peer, &m); break;
	case KD_API_RESTORE_BREAKPOINT: on_restore_breakpoint(peer, &m); break;
	case KD_API_GET_VERSION: on_version(peer, &m); break;
	case KD_API_READ_CONTROL_SPACE:
	case KD_API_WRITE_CONTROL_SPACE: on_control_space(peer, &m); break;
	case KD_API_SWITCH_PROCESSOR: on_switch(peer, &m); break;
	case KD_API_CONTINUE2: on_continue2(peer, &m); break;
	case KD_API_CONTINUE: go_on(peer, false); break;
	case KD_API_REBOOT:
	case KD_API_CAUSE_BUGCHECK: go_on(peer, false); break;
	default:
		m.status = KD_STATUS_UNSUCCESSFUL;
		reply(peer, &m, NULL, 0);
		break;
	}
}

// ---- the thread ----------------------------------------------------------------------------------------------------------------

static void refuse(struct peer *peer)
{
	static const char text[] = "vmkd: no more debuggers: this target has 64 (pid 4711 is one)\n";
	struct kd_debug_io io = { .api = KD_DEBUG_IO_PRINT, .length = sizeof(text) - 1 };
	uint8_t header[KD_DEBUG_IO_SIZE];

	if (kd_debug_io_encode(&io, header, sizeof(header)) != KD_OK)
		abort();
	send_packet(peer, KD_PACKET_DEBUG_IO, header, sizeof(header), text, sizeof(text) - 1);
	flush(peer);
	peer->is_over = peer->options.fault == PEER_REFUSES;
}

static void handle(struct peer *peer, const struct kdcom_event *event)
{
	switch (event->kind) {
	case KDCOM_EV_PACKET:
		on_request(peer, event);
		break;
	case KDCOM_EV_BREAKIN:
		if (peer->is_running) {
			peer->pc = PEER_INT3_AT;
			stop(peer, KD_STATUS_BREAKPOINT);
		}
		break;
	case KDCOM_EV_RESET:
	case KDCOM_EV_RESEND_REQUEST:
		if (!peer->is_running && !kdcom_is_sending(&peer->kdcom))
			send_stop(peer);
		break;
	default:
		break;
	}
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void feed(struct peer *peer, const uint8_t *bytes, size_t len)
{
	struct kdcom_event event;
	size_t used;

	if (peer->options.fault == PEER_DEAF)
		return;
	do {
		kdcom_feed(&peer->kdcom, bytes, len, &used, &event);
		bytes += used;
		len -= used;
		handle(peer, &event);
		flush(peer);
	} while (event.kind != KDCOM_EV_NONE && event.kind != KDCOM_EV_BLOCKED && !peer->is_over);
}

static void *serve(void *closure)
{
	struct peer *peer = closure;
	uint8_t bytes[8192];
	struct kdcom_event event;

	while (!peer->is_over) {
		struct pollfd poll_fd = { .fd = peer->fd, .events = POLLIN };
		bool has_input = poll(&poll_fd, 1, 20) > 0;
		pthread_mutex_lock(&peer->lock);
		ssize_t len = has_input ? recv(peer->fd, bytes, sizeof(bytes), MSG_DONTWAIT) : -1;
		if (has_input && len <= 0)
			peer->is_over = true;
		else if (len > 0)
			feed(peer, bytes, (size_t)len);
		kdcom_timer(&peer->kdcom, now_ms(), &event);
		handle(peer, &event);
		if (!peer->is_over)
			flush(peer);
		pthread_mutex_unlock(&peer->lock);
	}
	shutdown(peer->fd, SHUT_RDWR);
	return NULL;
}

static void prepare_memory(struct peer *peer)
{
	memset(peer->memory, 0x90, PEER_CODE_LEN);
	peer->memory[PEER_INT3_AT] = 0xCC;
	peer->memory[PEER_WRITE_AT] = PEER_WRITES;
	for (uint32_t i = 0x2000; i < PEER_SIZE; i++)
		peer->memory[i] = (uint8_t)(i * 7 + (i >> 8));
	if (peer->options.prepare)
		peer->options.prepare(peer->memory, peer->base);
}

struct peer *peer_start(const struct peer_options *options, int *ret_fd)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	int fds[2];

	if (!peer || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		abort();
	peer->options = *options;
	peer->machine = options->is_x86 ? KD_MACHINE_X86 : KD_MACHINE_X64;
	peer->base = options->is_x86 ? kd_sign_extend32((uint32_t)peer_base(true)) : peer_base(false);
	peer->fd = fds[1];
	peer->is_running = true;
	for (uint32_t i = 0; i < PROCESSORS; i++)
		peer->dr7[i] = 0x400 | options->foreign_dr7;
	pthread_mutex_init(&peer->lock, NULL);
	kdcom_init(&peer->kdcom, KDCOM_TARGET);
	prepare_memory(peer);
	if (options->fault == PEER_REFUSES || options->fault == PEER_TALKS_SO) {
		refuse(peer);
	} else if (options->is_stopped) {
		peer->pc = PEER_INT3_AT;
		stop(peer, KD_STATUS_BREAKPOINT);
		flush(peer);
	}
	if (pthread_create(&peer->thread, NULL, serve, peer) != 0)
		abort();
	*ret_fd = fds[0];
	return peer;
}

void peer_stop(struct peer *peer)
{
	pthread_join(peer->thread, NULL);
	close(peer->fd);
	pthread_mutex_destroy(&peer->lock);
	free(peer);
}

uint32_t peer_breakpoints(struct peer *peer)
{
	uint32_t count = 0;

	pthread_mutex_lock(&peer->lock);
	for (uint32_t i = 0; i < BREAKPOINTS; i++)
		count += peer->breakpoints[i].is_used;
	pthread_mutex_unlock(&peer->lock);
	return count;
}

uint8_t peer_byte(struct peer *peer, uint32_t offset)
{
	pthread_mutex_lock(&peer->lock);
	uint8_t byte = peer->memory[offset];
	pthread_mutex_unlock(&peer->lock);
	return byte;
}

bool peer_is_running(struct peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	bool is_running = peer->is_running;
	pthread_mutex_unlock(&peer->lock);
	return is_running;
}

uint64_t peer_dr7(struct peer *peer, uint32_t processor)
{
	pthread_mutex_lock(&peer->lock);
	uint64_t dr7 = peer->dr7[processor];
	pthread_mutex_unlock(&peer->lock);
	return dr7;
}

uint64_t peer_dr(struct peer *peer, uint32_t processor, uint32_t n)
{
	pthread_mutex_lock(&peer->lock);
	uint64_t value = peer->dr[processor][n];
	pthread_mutex_unlock(&peer->lock);
	return value;
}

uint32_t peer_control_writes(struct peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	uint32_t count = peer->control_writes;
	pthread_mutex_unlock(&peer->lock);
	return count;
}

uint32_t peer_reads(struct peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	uint32_t reads = peer->reads;
	pthread_mutex_unlock(&peer->lock);
	return reads;
}

void peer_make_noise(struct peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	if (send(peer->fd, "noise", 5, MSG_NOSIGNAL) != 5)
		abort();
	pthread_mutex_unlock(&peer->lock);
}
