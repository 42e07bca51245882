// SPDX-License-Identifier: MIT
// What the answer to {"cmd":"status"} says of the link, the guest and its RAM: facts for programs, `vmkd doctor` above all; what a reader of `vmkd list` needs of
// them stands in its remarks. Each function adds its members to the object `json`; none fails: without memory a member is missing.
//
//   abi, link_version                 "1.0", 4: what this broker speaks
//   refused_version, library_version  "2.0", 5: what a guest module, and the library in the VMM, spoke that was refused; absent = none was
//   calls_before                      that the guest had made when this broker met it (hook)
//   arch, dialect, booted_alone, guest_version, gone   gone: why no module is registered any more
//   ram                               {"mode":"on|off|check","way":"file|process|none","nested":bool}; nested: of the last stop, absent before it and where the link cannot tell (debugcon)
#ifndef SERVE_STATUS_H
#define SERVE_STATUS_H

#include <cjson/cJSON.h>

#include "memory/ram.h"
#include "serve/answers.h"
#include "serve/guest_link.h"

enum status_nested { STATUS_NESTED_UNKNOWN, STATUS_NESTED_NO, STATUS_NESTED_YES };

// What a wait tells of its processor: a link that does not know which one it is does not know this either.
enum status_nested status_nested_of(const struct link_head *wait);

// Of the link: the versions on both sides, and calls_before.
void status_add_link(cJSON *json, const struct guest_link *link);
// A guest that is registered.
void status_add_guest(cJSON *json, const struct link_guest *guest);
// One that was, and has gone for that reason.
void status_add_gone(cJSON *json, enum link_gone reason);
// is_readable: something was read in `ram`, or nothing is known against it.
void status_add_ram(cJSON *json, const struct ram *ram, enum answers_mode mode, bool is_readable, enum status_nested nested);

#endif
