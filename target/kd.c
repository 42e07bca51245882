// SPDX-License-Identifier: MIT
// The conversation: what each packet means for the state, and the events made of it.
#include "target/kd.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target/error.h"
#include "target/stop.h"
#include "wire/le.h"

// How what a broker prints to a debugger that it turns away begins.
static const char *const REFUSALS[] = { "vmkd: no more debuggers", "vmkd: the guest module" };

void kd_log(const struct kd *kd, enum vmkd_log_level level, const char *format, ...)
{
	char text[KD_LOG_MAX];
	va_list ap;

	if (!kd->owner.log)
		return;
	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	kd->owner.log(kd->owner.closure, level, text);
}

// ---- errors --------------------------------------------------------------------------------------------------------------------

// The refusal in the last print; NULL = none.
static const char *find_refusal(const struct kd *kd)
{
	const char *refusal = NULL;

	for (size_t i = 0; !refusal && i < sizeof(REFUSALS) / sizeof(REFUSALS[0]); i++)
		refusal = strstr(kd->print_tail, REFUSALS[i]);
	return refusal;
}

struct vmkd_error *kd_gone_error(const struct kd *kd, int os_error)
{
	const char *refusal = find_refusal(kd);

	if (refusal) {
		refusal += strlen("vmkd: ");
		return vmkd_error_create(VMKD_E_REFUSED, "%s: refused: %.*s", kd->name, (int)strcspn(refusal, "\r\n"), refusal);
	}
	if (os_error != 0)
		return vmkd_error_create(VMKD_E_GONE, "%s: the connection broke: %s", kd->name, strerror(os_error));
	return vmkd_error_create(VMKD_E_GONE, "%s: the other end closed the connection (has the VM ended?)", kd->name);
}

struct vmkd_error *kd_check_stopped(const struct kd *kd)
{
	switch (kd->state) {
	case VMKD_STATE_STOPPED:
		return NULL;
	case VMKD_STATE_UNKNOWN:
		return vmkd_error_create(VMKD_E_STATE,
					 "expected a stopped target, but %s has said nothing yet: break in (Ctrl-C, or -b); if that does not "
					 "help, is its kernel booted with debugging on, and on this line?",
					 kd->name);
	case VMKD_STATE_RUNNING:
		return vmkd_error_create(VMKD_E_STATE, "expected a stopped target, but it is running: break in first (Ctrl-C, or -b)");
	case VMKD_STATE_PROMPT:
		return vmkd_error_create(VMKD_E_STATE, "the target waits for the answer to its prompt: answer that first");
	case VMKD_STATE_FILE:
		return vmkd_error_create(VMKD_E_STATE, "the target waits for the answer to its file request: answer that first");
	case VMKD_STATE_GONE:
		break;
	}
	return kd_gone_error(kd, 0);
}

// ---- the queue of events -------------------------------------------------------------------------------------------------------

// Takes the event at *at out of the queue and frees it.
static void unlink_at(struct kd *kd, struct kd_queued **at)
{
	struct kd_queued *victim = *at;

	*at = victim->next;
	if (kd->last == &victim->next)
		kd->last = at;
	free(victim);
	kd->queued_count--;
}

static void unlink_oldest_print(struct kd *kd)
{
	struct kd_queued **at = &kd->first;

	while (*at && (*at)->event.kind != VMKD_EVENT_PRINT)
		at = &(*at)->next;
	if (!*at)
		return;
	unlink_at(kd, at);
	if (kd->dropped_prints++ == 0)
		kd_log(kd, VMKD_LOG_WARNING, "more than %u events were not fetched: old prints are dropped", KD_EVENTS_MAX);
}

void kd_forget_stops(struct kd *kd)
{
	for (struct kd_queued **at = &kd->first; *at;) {
		enum vmkd_event_kind kind = (*at)->event.kind;
		bool is_stop = kind == VMKD_EVENT_EXCEPTION || kind == VMKD_EVENT_MODULE || kind == VMKD_EVENT_COMMAND ||
			       kind == VMKD_EVENT_SHUTDOWN;
		if (is_stop)
			unlink_at(kd, at);
		else
			at = &(*at)->next;
	}
}

// Copies the event and its two buffers, each with a NUL behind it. Out of memory drops the event: nothing better can be done, and the
// state is right all the same.
static void push(struct kd *kd, const struct vmkd_event *event, const void *text, size_t text_len, const void *data, size_t data_len)
{
	if (kd->queued_count >= KD_EVENTS_MAX)
		unlink_oldest_print(kd);
	struct kd_queued *queued = malloc(sizeof(*queued) + text_len + data_len + 2);
	if (!queued || kd->queued_count >= KD_EVENTS_MAX) {
		free(queued);
		kd_log(kd, VMKD_LOG_WARNING, "an event was dropped: out of memory, or nobody fetches them");
		return;
	}
	char *bytes = (char *)(queued + 1);
	if (text_len > 0)
		memcpy(bytes, text, text_len);
	bytes[text_len] = '\0';
	if (data_len > 0)
		memcpy(bytes + text_len + 1, data, data_len);
	bytes[text_len + 1 + data_len] = '\0';
	queued->next = NULL;
	queued->event = *event;
	queued->event.text = bytes;
	queued->event.text_len = text_len;
	queued->event.file_data = bytes + text_len + 1;
	queued->event.file_data_len = data_len;
	*kd->last = queued;
	kd->last = &queued->next;
	kd->queued_count++;
}

void kd_events_clear(struct kd *kd)
{
	while (kd->first) {
		struct kd_queued *next = kd->first->next;
		free(kd->first);
		kd->first = next;
	}
	kd->last = &kd->first;
	kd->queued_count = 0;
	free(kd->current);
	kd->current = NULL;
	vmkd_error_destroy(kd->late_error);
	kd->late_error = NULL;
}

// ---- state changes -------------------------------------------------------------------------------------------------------------

static void push_stop(struct kd *kd, const struct kd_state_change *change, bool is_repeated)
{
	struct vmkd_event event;
	const uint8_t *text;
	size_t text_len = stop_event(change, kd->machine, &event, &text);

	event.is_repeated = is_repeated;
	push(kd, &event, text, text_len, NULL, 0);
}

static void take_state_change(struct kd *kd, const uint8_t *body, size_t len)
{
	struct kd_state_change change;

	if (!kd->is_machine_certain) {
		uint32_t guess = kd_guess_machine(body, len);
		if (guess != 0)
			kd->machine = guess;
	}
	uint32_t machine = kd->machine ? kd->machine : KD_MACHINE_X64;
	int outcome = kd_state_change_decode(body, len, machine, &change);
	if (outcome != KD_OK) {
		kd_log(kd, VMKD_LOG_WARNING, "a state change of %zu bytes cannot be understood (%d); it is ignored", len, outcome);
		return;
	}
	// The same stop again: what was known about it stays true.
	bool is_repeated = kd->state == VMKD_STATE_STOPPED && !kd->is_switching && len == kd->stop_len &&
			   memcmp(body, kd->stop_body, len < KD_STATE_CHANGE_SIZE ? len : KD_STATE_CHANGE_SIZE) == 0;
	memcpy(kd->stop_body, body, len);
	kd->stop_len = len;
	kd->state = VMKD_STATE_STOPPED;
	kd->is_switching = false;
	kd->is_resuming = false;
	// A module notice is no answer to a break-in: whoever asked for one lets it go on and still wants to stop.
	if (change.state != KD_STATE_LOAD_SYMBOLS)
		kd->is_break_in_wanted = false;
	kd->is_at_notice = change.state == KD_STATE_LOAD_SYMBOLS;
	kd->stop_count++;
	kd_log(kd, VMKD_LOG_DEBUG, "stopped: %s%s, processor %u of %" PRIu32 ", pc %" PRIx64, kd_state_name(change.state),
	       is_repeated ? " (again)" : "", change.processor, change.processor_count, change.pc);
	if (kd->owner.stopped)
		kd->owner.stopped(kd->owner.closure, &change, is_repeated);
	push_stop(kd, &change, is_repeated);
}

// ---- prints, prompts, files ----------------------------------------------------------------------------------------------------

static void take_debug_io(struct kd *kd, const uint8_t *body, size_t len, bool is_first)
{
	struct kd_debug_io io;

	if (kd_debug_io_decode(body, len, &io) != KD_OK) {
		kd_log(kd, VMKD_LOG_WARNING, "a print of %zu bytes cannot be understood; it is ignored", len);
		return;
	}
	struct vmkd_event event;
	const uint8_t *text;
	size_t text_len = stop_print_event(&io, &event, &text);
	if (event.kind == VMKD_EVENT_PROMPT) {
		kd->state = VMKD_STATE_PROMPT;
	} else {
		// A broker may say something of its own while the kernel is stopped.
		if (kd->state != VMKD_STATE_STOPPED)
			kd->state = VMKD_STATE_RUNNING;
		snprintf(kd->print_tail, sizeof(kd->print_tail), "%.*s", (int)(text_len < KD_PRINT_TAIL ? text_len : KD_PRINT_TAIL - 1),
			 (const char *)text);
		kd->is_refusal_held = is_first && find_refusal(kd) == kd->print_tail;
	}
	if (!kd->is_refusal_held)
		push(kd, &event, text, text_len, NULL, 0);
}

// The connection goes on: it was a print like any other.
static void release_refusal(struct kd *kd)
{
	struct vmkd_event event = { .kind = VMKD_EVENT_PRINT };

	if (kd->is_refusal_held)
		push(kd, &event, kd->print_tail, strlen(kd->print_tail), NULL, 0);
	kd->is_refusal_held = false;
}

// UTF-16LE to UTF-8 for a name in a message: what is no plain character becomes '?'.
static size_t narrow(const uint8_t *utf16, size_t len, char *ret, size_t size)
{
	size_t count = 0;

	for (size_t i = 0; i + 1 < len && count + 1 < size; i += 2) {
		uint16_t c = get_le16(utf16 + i);
		if (c == 0)
			break;
		ret[count++] = c >= 0x20 && c < 0x7F ? (char)c : '?';
	}
	ret[count] = '\0';
	return count;
}

static void refuse_file(struct kd *kd, const struct kd_file_io *request)
{
	struct kd_file_io answer = *request;
	uint8_t header[KD_FILE_IO_SIZE];

	answer.status = KD_STATUS_NO_SUCH_FILE;
	if (kd_file_io_encode(&answer, header, sizeof(header)) != KD_OK ||
	    kdcom_send(stream_kdcom(kd->stream), KD_PACKET_FILE_IO, header, sizeof(header), NULL, 0, KDCOM_SEND_CONTINUE) != KDCOM_OK)
		kd_log(kd, VMKD_LOG_WARNING, "a file request could not be refused; the target will ask again");
	kd->state = VMKD_STATE_RUNNING;
}

static void take_file_io(struct kd *kd, const uint8_t *body, size_t len)
{
	struct vmkd_event event = { .kind = VMKD_EVENT_FILE };
	struct kd_file_io io;
	char name[512];
	size_t name_len = 0;

	if (kd_file_io_decode(body, len, &io) != KD_OK) {
		kd_log(kd, VMKD_LOG_WARNING, "a file request of %zu bytes cannot be understood; it is ignored", len);
		return;
	}
	if (io.api == KD_FILE_IO_CREATE)
		name_len = narrow(io.data, io.data_len, name, sizeof(name));
	kd_log(kd, VMKD_LOG_DEBUG, "file request %" PRIx32 " %s", io.api, name_len ? name : "");
	if (!kd->wants_files) {
		refuse_file(kd, &io);
		return;
	}
	event.file_api = io.api;
	if (io.api == KD_FILE_IO_CLOSE) {
		event.file_handle = io.u.close_handle;
	} else if (io.api != KD_FILE_IO_CREATE) {
		event.file_handle = io.u.transfer.handle;
		event.file_offset = io.u.transfer.offset;
		event.file_length = io.u.transfer.length;
	}
	kd->file = io;
	kd->file.data = NULL;
	kd->state = VMKD_STATE_FILE;
	bool has_data = io.api == KD_FILE_IO_WRITE;
	push(kd, &event, name, name_len, has_data ? io.data : NULL, has_data ? io.data_len : 0);
}

// The target asks for a debug register of its own (KD reference, section 5.4): not granted, this session may want any of them at any time.
static void take_control_request(struct kd *kd, const uint8_t *body, size_t len)
{
	struct kd_control_request request;
	uint8_t header[KD_CONTROL_REQUEST_SIZE];

	if (kd_control_request_decode(body, len, &request) != KD_OK)
		return;
	request.answer = request.api == KD_CONTROL_RELEASE_HARDWARE_BP;
	if (kd_control_request_encode(&request, header, sizeof(header)) == KD_OK &&
	    kdcom_send(stream_kdcom(kd->stream), KD_PACKET_CONTROL_REQUEST, header, sizeof(header), NULL, 0, KDCOM_SEND_CONTINUE) !=
		    KDCOM_OK)
		kd_log(kd, VMKD_LOG_WARNING, "a control request could not be answered; the target will ask again");
}

bool kd_send_reset(struct kd *kd)
{
	kdcom_cancel(stream_kdcom(kd->stream));
	kd->is_resuming = false;
	if (kdcom_send_reset(stream_kdcom(kd->stream)) != KDCOM_OK)
		return false;
	kd->is_reset_due = true;
	kd->reset_at = stream_now();
	stream_flush(kd->stream);
	return true;
}

// ---- turns ---------------------------------------------------------------------------------------------------------------------

void kd_restarted(struct kd *kd)
{
	struct vmkd_event event = { .kind = VMKD_EVENT_RESTARTED };

	kd->restart_count++;
	kd->state = VMKD_STATE_RUNNING;
	kd->is_machine_certain = false;
	kd->is_switching = false;
	kd->is_resuming = false;
	kd->stop_len = 0;
	if (kd->owner.restarted)
		event.lost_breakpoints = kd->owner.restarted(kd->owner.closure);
	push(kd, &event, NULL, 0, NULL, 0);
}

static void take_packet(struct kd *kd, const struct kdcom_event *packet)
{
	bool is_first = !kd->has_spoken;

	kd_log(kd, VMKD_LOG_DEBUG, "packet: %s, %u bytes%s%s", kd_packet_name(packet->type), packet->body_len,
	       packet->is_sync ? ", sync" : "", packet->is_lost ? ", ours was lost" : "");
	release_refusal(kd);
	if (packet->is_lost)
		kd->lost_count++;
	if (packet->is_sync && kd->has_spoken)
		kd_restarted(kd);
	kd->has_spoken = true;
	switch (packet->type) {
	case KD_PACKET_STATE_CHANGE:
		take_state_change(kd, packet->body, packet->body_len);
		break;
	case KD_PACKET_DEBUG_IO:
		take_debug_io(kd, packet->body, packet->body_len, is_first);
		break;
	case KD_PACKET_FILE_IO:
		take_file_io(kd, packet->body, packet->body_len);
		break;
	case KD_PACKET_CONTROL_REQUEST:
		take_control_request(kd, packet->body, packet->body_len);
		break;
	case KD_PACKET_STATE_CHANGE32:
		vmkd_error_destroy(kd->late_error);
		kd->late_error = vmkd_error_create(VMKD_E_UNSUPPORTED, "%s speaks the KD protocol of Windows NT 4; expected version 5 or later",
						   kd->name);
		break;
	default: // replies are the caller's; traces and what is unknown has been acknowledged, which is all it needs
		break;
	}
}

// Sends the break-in that was asked for, as soon as the target is not stopped. Return when to try again.
static uint64_t send_wanted_break_in(struct kd *kd)
{
	bool can_run = kd->state == VMKD_STATE_RUNNING || kd->state == VMKD_STATE_UNKNOWN;

	if (!kd->is_break_in_wanted || !can_run || kd->is_resuming)
		return STREAM_FOREVER;
	if (!kd->has_spoken && stream_now() < kd->break_in_from)
		return kd->break_in_from;
	if (kdcom_send_breakin(stream_kdcom(kd->stream)) == KDCOM_OK)
		kd->is_break_in_wanted = false;
	return STREAM_FOREVER;
}

static void next_event(struct kd *kd, uint64_t deadline, struct stream_event *ret)
{
	for (;;) {
		uint64_t again = send_wanted_break_in(kd);
		stream_next(kd->stream, again < deadline ? again : deadline, ret);
		if (ret->kind != STREAM_NONE || again >= deadline)
			return;
	}
}

void kd_turn(struct kd *kd, uint64_t deadline, struct stream_event *ret)
{
	next_event(kd, deadline, ret);
	if (kd->owner.turned)
		kd->owner.turned(kd->owner.closure);
	switch (ret->kind) {
	case STREAM_PACKET:
		take_packet(kd, &ret->packet);
		break;
	case STREAM_SENT:
		if (kd->is_resuming && kd->state == VMKD_STATE_STOPPED)
			kd->state = VMKD_STATE_RUNNING;
		kd->is_resuming = false;
		break;
	case STREAM_RESET:
		kd_log(kd, VMKD_LOG_DEBUG, "resynchronised");
		kd->is_reset_due = false;
		kd->lost_count++;
		break;
	case STREAM_GIVEN_UP:
		kd->lost_count++;
		kd->needs_resync = true;
		break;
	case STREAM_WOKEN:
		kd->is_break_in_wanted = kd->state != VMKD_STATE_STOPPED || kd->is_resuming || kd->is_at_notice;
		break;
	case STREAM_CLOSED:
		kd->state = VMKD_STATE_GONE;
		break;
	case STREAM_NONE:
	case STREAM_SIGNAL:
		break;
	}
}
