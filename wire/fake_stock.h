// SPDX-License-Identifier: MIT
// For tests: plain models of a stock target and a stock debugger, written from the KD reference (sections 1.7 and 1.8) without wire/kdcom. They are blocking
// code, as the originals are, and therefore run on stacks of their own. One of each at a time.
#ifndef WIRE_FAKE_STOCK_H
#define WIRE_FAKE_STOCK_H

#include "wire/fake_ends.h"
#include "wire/fake_wire.h"

// is_any_ack: any data packet counts as the ACK of its own (rule 5 in ReactOS' form); else only one with the expected id.
void fake_stock_target_start(struct fake_wire *in, struct fake_wire *out, struct fake_kernel *kernel, bool is_any_ack);
bool fake_stock_target_turn(uint64_t now_ms);  // -> true: it had something to do
uint64_t fake_stock_target_deadline(void);     // when to call it at the latest

// first_reset_ms: when it stops listening for a target that starts, and asks.
void fake_stock_debugger_start(struct fake_wire *in, struct fake_wire *out, struct fake_user *user, uint64_t first_reset_ms);
bool fake_stock_debugger_turn(uint64_t now_ms); // -> true: it had something to do
uint64_t fake_stock_debugger_deadline(void);    // when to call it at the latest

#endif
