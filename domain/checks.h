// SPDX-License-Identifier: MIT
// What the host's facts mean for a link: one line for each thing that can stand in its way, with what an administrator must allow. No I/O.
#ifndef DOMAIN_CHECKS_H
#define DOMAIN_CHECKS_H

#include "domain/host.h"

enum check_state { CHECK_PASSED, CHECK_FAILED, CHECK_UNKNOWN };

#define CHECK_TEXT_MAX 2048u

// text: one line without its end; borrowed.
typedef void check_tell_fn(void *arg, enum check_state state, const char *text);

// Tell every line, in a fixed order. A line that does not apply to the link or to the kind of libvirtd is not told.
void checks_judge(const struct host_facts *f, check_tell_fn *tell, void *arg);

#endif
