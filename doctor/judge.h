// SPDX-License-Identifier: MIT
// The doctor's judgement: facts in, lines out. No I/O.
#ifndef DOCTOR_JUDGE_H
#define DOCTOR_JUDGE_H

#include <stddef.h>

#include "doctor/facts.h"

#define DOCTOR_LINES_MAX 24u
#define DOCTOR_LINE_TEXT_MAX 640u
// A guest that runs calls about once a second (docs/portcall.md); one that did not for so long does not.
#define DOCTOR_SILENCE_MS 10000u

enum doctor_state { DOCTOR_PASSED, DOCTOR_FAILED, DOCTOR_UNKNOWN };

struct doctor_line {
	const char *id, *title; // a word for programs, and for people
	enum doctor_state state;
	char text[DOCTOR_LINE_TEXT_MAX]; // what was found
	char todo[DOCTOR_LINE_TEXT_MAX]; // what to do about it; never "" when it failed, "" when it passed
};

// How it stands between guest and host.
enum doctor_situation {
	SITUATION_UNKNOWN,       // nobody could say
	SITUATION_NO_VM,         // none of that name
	SITUATION_NO_LIBRARY,    // the hook's library is not in the VMM, or does not follow its VM
	SITUATION_SKEW,          // guest module, library or broker of another version
	SITUATION_NEVER_CALLED,  // the guest has not made one call
	SITUATION_HOST_LATE,     // it calls, and nobody serves it
	SITUATION_STOPPED,       // it called once, and does not any more
	SITUATION_TALKING,
};

// As `--json` says it: "unknown", "no VM", ...
const char *doctor_situation_name(enum doctor_situation situation);
enum doctor_situation doctor_find_situation(const struct doctor_vm *vm);

// "passed", "FAILED", "unknown".
const char *doctor_state_name(enum doctor_state state);

// Fill `ret` in the order in which they are shown, in texts without control characters, whatever a broker or a VM has said. -> how many lines.
size_t doctor_judge(const struct doctor_facts *facts, struct doctor_line ret[DOCTOR_LINES_MAX]);

#endif
