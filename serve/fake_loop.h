// SPDX-License-Identifier: MIT
// For tests: util/loop.h in virtual time. Linked instead of util/loop.c: descriptors are real and asked by poll, time goes only where the test says.
#ifndef SERVE_FAKE_LOOP_H
#define SERVE_FAKE_LOOP_H

#include "util/loop.h"

// Nothing is watched, no timer runs, and it is now_ms.
void fake_loop_start(uint64_t now_ms);
void fake_loop_set_time(uint64_t now_ms);
// Every callback that is due. -> true: there was one.
bool fake_loop_turn(void);
uint64_t fake_loop_deadline_ms(void); // of the earliest timer, UINT64_MAX = none

#endif
