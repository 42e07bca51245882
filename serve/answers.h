// SPDX-License-Identifier: MIT
// What the broker can say for a guest that sleeps in its wait: a request of a debugger in, the reply that the guest would have given out,
// or "the guest must". Sans I/O.
//
//   ReadVirtualMemory, ReadPhysicalMemory, SearchMemory   from RAM, with the waiting vCPU's page tables
//   GetVersion                                            the guest's own answer, from then on until its next boot
//   GetContext, GetContextEx                              the guest's own answer to the same request in the same stop, as long as it was given nothing
//                                                         that could change a context. So the first one of a stop reaches the guest: NT accepts
//                                                         SetContext only after it (KD reference, section 4.4)
//
// The guest is the authority. What does not translate, is not RAM, may have side effects, would be partial or a failure, or is not of the one
// form that every debugger sends, is the guest's to answer. A reply given here is byte for byte the guest's: the request's header with status and
// union updated, then the data (KD reference, section 4.1).
//
// Rules: one thread. Requests, replies and RAM are hostile. The work of one request is bounded by ANSWERS_SEARCH_MAX bytes. The struct is
// large: not for the stack.
#ifndef SERVE_ANSWERS_H
#define SERVE_ANSWERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/walk.h"
#include "wire/kdapi.h"

// A search looks at so much of its range and leaves the rest to the guest. Origin: 0.12 ms of the broker, as long as a thousand reads of the largest size.
#define ANSWERS_SEARCH_MAX (1u << 20)
#define ANSWERS_CHUNK 16384u // of a search
// One CONTEXT of a debugger's stop each: enough for every processor that Windows puts into one group.
#define ANSWERS_CONTEXTS 64u
#define ANSWERS_CONTEXT_MAX 2048u // bytes of its data
// CHECK: the pages that a read may touch, with the one before and the one behind.
#define ANSWERS_AROUND_PAGES 4u
#define ANSWERS_PAGE 4096u

enum answers_mode {
	ANSWERS_ON,
	ANSWERS_OFF,   // --no-ram
	ANSWERS_CHECK, // --check-ram: the guest answers everything, and RAM is held against it
};

// Why the guest was asked. X(name, words for `vmkd stats`)
#define ANSWERS_REASON_LIST(X) \
	X(KIND, kind)           /* not a request that is answered here */ \
	X(FORM, form)           /* lengths, flags or data that a debugger does not send */ \
	X(AWAKE, awake)         /* it does not sleep */ \
	X(NESTED, nested)       /* it runs a guest of its own */ \
	X(MODE, mode)           /* the processor's registers are unknown, or cannot be */ \
	X(ABSENT, absent)       /* a page that is not present */ \
	X(NOT_RAM, not_ram)     /* a device, ROM, or no map of its memory */ \
	X(TOO_LONG, too_long)   /* a search of more than ANSWERS_SEARCH_MAX that did not end before */ \
	X(NOT_FOUND, not_found) /* a search: how a failure is worded is the guest's affair */ \
	X(FIRST, first)         /* GetVersion, GetContext: not heard yet */
enum answers_reason {
	ANSWERS_HERE = 0, // it was not
#define X(name, word) ANSWERS_##name,
	ANSWERS_REASON_LIST(X)
#undef X
	ANSWERS_REASON_COUNT,
};

struct answers_counters {
	uint64_t answered, answered_bytes; // from RAM; bytes of data
	uint64_t repeated;                 // GetVersion and contexts from what the guest had said
	uint64_t asked[ANSWERS_REASON_COUNT]; // left to the guest, by reason
	// CHECK: replies compared; bytes of data in which the readings before and after agreed; of those, the ones that the guest names otherwise (a
	// reply of another length or status counts as one).
	uint64_t checked, checked_bytes, differences;
};

// CHECK: where the guest's answer and RAM part.
struct answers_difference {
	uint32_t api;
	uint64_t address;    // of the byte, as the request names it; for other requests its place in the reply
	uint32_t ram, guest; // the byte; or is_form: bytes of the reply
	bool is_form;        // the whole reply is of another length or status
	uint32_t status;     // is_form: of the guest's
};

struct answers_context {
	uint32_t api; // 0 = empty
	uint16_t processor;
	uint32_t data_len;
	uint8_t asked[KD_UNION_SIZE], answered[KD_UNION_SIZE];
	uint8_t data[ANSWERS_CONTEXT_MAX];
};

struct answers {
	enum answers_mode mode;
	const struct ram *ram; // borrowed
	struct answers_counters counters;

	// the stop
	bool is_asleep, is_nested;
	struct walk_regs regs;
	struct walk_cache cache;

	// what the guest has said
	bool has_version;
	uint8_t version[KD_UNION_SIZE];
	struct answers_context contexts[ANSWERS_CONTEXTS];
	unsigned context_count, context_next; // in use; the next to give up when all are

	// what it was asked last and has not answered
	uint32_t asked_len; // 0 = nothing
	uint8_t asked[KD_BODY_MAX];
	uint32_t before_len; // CHECK: the reply as RAM has it before the guest is asked; 0 = it has none
	uint8_t before[KD_BODY_MAX];
	uint8_t around_before[ANSWERS_AROUND_PAGES][ANSWERS_PAGE], around_after[ANSWERS_AROUND_PAGES][ANSWERS_PAGE];
	struct answers_difference difference; // the last one

	uint8_t reply[KD_BODY_MAX];
	uint8_t chunk[ANSWERS_CHUNK + KD_DATA_MAX];
};

// The guest is awake, nothing is known. ram: borrowed, the caller tells of changes (answers_forget_map).
void answers_init(struct answers *a, enum answers_mode mode, const struct ram *ram);

// ---- What happens to the guest ------------------------------------------------------------------------------

// It has come to a wait; regs: of the waiting vCPU, all 0 = unknown. To be called before the packet that the wait rides on is looked at.
void answers_sleep(struct answers *a, const struct walk_regs *regs, bool is_nested);
// It may run: before anything is handed to it.
void answers_wake(struct answers *a);
// *ram has changed.
void answers_forget_map(struct answers *a);
// Another kernel, or none: what was heard is void.
void answers_forget_boot(struct answers *a);

// The guest is given this request: body_len bytes of a manipulate packet. While it still sleeps.
void answers_asked(struct answers *a, const uint8_t *body, uint32_t body_len);
// It has sent a manipulate packet, its answer. CHECK: that is compared with what RAM says before and after. Bytes that changed meanwhile are left out,
// and so are their page and the ones beside it: they are the stack and the buffers that the guest answers with, which look alike whenever it
// waits and otherwise while it answers. -> the first difference found in it, valid until the next call; NULL = none, or not CHECK.
const struct answers_difference *answers_replied(struct answers *a, const uint8_t *body, uint32_t body_len);
// It has sent a state change: another stop, or the same told anew.
void answers_stopped(struct answers *a);

// ---- Answering ------------------------------------------------------------------------------------------------

// The reply to a request of a debugger while the guest waits for one. body: body_len bytes, at least KD_MANIPULATE_SIZE.
// -> true: *ret is the body of the reply, *ret_len bytes, valid until the next call of this or of answers_asked. false: the guest must be asked.
bool answers_make(struct answers *a, const uint8_t *body, uint32_t body_len, const uint8_t **ret, uint32_t *ret_len);

// "kind", "not_ram", ...; for stats.
const char *answers_reason_name(enum answers_reason reason);

#endif
