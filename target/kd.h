// SPDX-License-Identifier: MIT
// The KDCOM backend in three parts: kd.c keeps the state of the conversation and turns packets into events, kd_request.c makes requests and
// run control out of it, kd_ops.c is the table of backend.h on top. This header is for these three alone.
//
//            open                state change, prompt, file request                close, cut
//   UNKNOWN ------> (RESET sent) ---------------------------> STOPPED, PROMPT, FILE ---------> GONE
//      |                 print, …                                |   ^
//      +------------------------------> RUNNING <----------------+   |
//                                          |      Continue ACKed     |
//                                          +-------------------------+
//                                               state change, …
#ifndef TARGET_KD_H
#define TARGET_KD_H

#include "target/backend.h"
#include "target/stream.h"

#define KD_EVENTS_MAX 4096u          // events nobody has fetched; then the oldest print goes
#define KD_NAME_MAX 300u
#define KD_LOG_MAX 512u
#define KD_PRINT_TAIL 200u           // of the last print, to tell why a broker hung up
#define KD_FIRST_ANSWER_MS 700u      // a stopped target answers a RESET in a few milliseconds; a slow one in tens
#define KD_REDO_MAX 3u               // requests repeated after a resynchronisation

struct kd_queued {
	struct kd_queued *next;
	struct vmkd_event event; // text and file_data point behind this struct
};

struct kd {
	struct backend base;
	struct backend_owner owner;
	struct stream *stream;
	char name[KD_NAME_MAX];
	uint32_t request_timeout_ms;
	bool wants_files;

	enum vmkd_state state;
	uint32_t machine;         // 0 = unknown; guessed from the first stop, told by GetVersion
	bool is_machine_certain;
	bool has_spoken;          // any packet came: a SYNC id is then a restart
	bool is_break_in_wanted;  // to be sent as soon as the target is not stopped
	bool is_at_notice;        // the last stop was a module notice: a break-in asked for now comes after it
	bool is_reset_due;        // a RESET of ours is not answered: its answer voids what is in flight then
	uint64_t reset_at;        // when it was sent
	uint64_t break_in_from;   // not before: a stopped target gets this long to answer the RESET of the start, or the byte would
				  // stay in its line and stop it once more
	bool needs_resync;        // a request went unanswered: ids and replies are in doubt
	bool is_switching;        // the next state change is news, although the target is stopped
	bool is_resuming;         // a packet that lets the target run is in flight
	uint32_t lost_count;      // packets in flight that a resynchronisation dropped
	uint32_t restart_count;
	uint32_t stop_count;      // state changes seen, repeated ones included

	size_t stop_len;          // the last state change as it came, to decode again when the machine is known
	uint8_t stop_body[KD_BODY_MAX];

	struct kd_queued *first, **last; // events to fetch
	uint32_t queued_count;
	uint32_t dropped_prints;
	struct kd_queued *current; // what vmkd_event.text points into
	struct kd_file_io file;    // the request that waits for its answer
	bool has_late_error;
	struct vmkd_error *late_error; // to be returned by the next wait

	char print_tail[KD_PRINT_TAIL]; // the last print
	bool is_refusal_held; // that is how a broker turns a debugger away: the error will say it. Shown when anything comes behind it
};

__attribute__((format(printf, 3, 4))) void kd_log(const struct kd *kd, enum vmkd_log_level level, const char *format, ...);

// One turn: the next event of the stream, after its effect on the state. A packet of type 2 is left to the caller, all others are dealt with.
// is_waiting_for_request: the target is stopped and answers, so being woken is not a wish to break in.
void kd_turn(struct kd *kd, uint64_t deadline, struct stream_event *ret);

// Another kernel talks, or will: what was known of the last one is void.
void kd_restarted(struct kd *kd);

// Sends a RESET; what is in flight is forgotten. -> false: nothing can be written.
bool kd_send_reset(struct kd *kd);

// Forgets the queued events of stops.
void kd_forget_stops(struct kd *kd);

// Forgets fetched events, queued ones and a late error.
void kd_events_clear(struct kd *kd);

// Why the connection ended, for a user.
struct vmkd_error *kd_gone_error(const struct kd *kd, int os_error);

// Not stopped: what is it, and what to try. NULL when it is stopped.
struct vmkd_error *kd_check_stopped(const struct kd *kd);

// kd_request.c
// Sends a request and waits for its reply; redoes it after a resynchronisation if `is_repeatable`. *ret and its data are valid until
// the next call. The status is for the caller to look at. Return NULL; STATE, TIMEOUT, GONE, RESTARTED, PROTOCOL.
struct vmkd_error *kd_request(struct kd *kd, struct kd_manipulate *request, const void *data, uint32_t data_len, bool is_repeatable,
			      struct kd_manipulate *ret);
// Sends a request that has no reply and lets the target run.
struct vmkd_error *kd_send_resuming(struct kd *kd, struct kd_manipulate *request, bool is_switch);
// The table's parts that live there.
struct vmkd_error *kd_switch_processor(struct backend *backend, uint16_t processor);

#endif
