// SPDX-License-Identifier: MIT
// The counters of a broker's parts, by the names that `vmkd stats --json` gives them. Each function adds its numbers to the object `json`; none
// fails: without memory a number is missing.
#ifndef SERVE_STATS_H
#define SERVE_STATS_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "serve/answers.h"
#include "serve/session.h"
#include "util/loop.h"
#include "wire/link.h"

// One number; JSON carries 53 bits of it.
void stats_add_number(cJSON *json, const char *name, uint64_t value);

void stats_add_loop(cJSON *json, const struct loop *loop); // sleeps, polls, ...
void stats_add_link(cJSON *json, const struct link_stats *stats);
void stats_add_session(cJSON *json, const struct session_counters *c);
void stats_add_answers(cJSON *json, const struct answers_counters *c); // with the object "asked_guest": by reason

#endif
