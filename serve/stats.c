// SPDX-License-Identifier: MIT
#include "serve/stats.h"

void stats_add_number(cJSON *json, const char *name, uint64_t value)
{
	cJSON_AddNumberToObject(json, name, (double)value);
}

// How the broker waits (util/loop.h): in a burst by looking, else asleep.
void stats_add_loop(cJSON *json, const struct loop *loop)
{
	stats_add_number(json, "sleeps", loop->sleeps);
	stats_add_number(json, "polls", loop->looks);
	stats_add_number(json, "polls_rewarded", loop->rewarded);
}

void stats_add_link(cJSON *json, const struct link_stats *stats)
{
	stats_add_number(json, "port_calls", stats->port_calls);
	stats_add_number(json, "doorbells", stats->doorbells);
	stats_add_number(json, "packets_out", stats->packets_out);
	stats_add_number(json, "packets_in", stats->packets_in);
	stats_add_number(json, "bytes_out", stats->bytes_out);
	stats_add_number(json, "bytes_in", stats->bytes_in);
	stats_add_number(json, "retries", stats->retries);
	stats_add_number(json, "registrations", stats->registrations);
	stats_add_number(json, "dropped_deliver", stats->dropped_deliver);
	stats_add_number(json, "refused", stats->refused);
	stats_add_number(json, "refused_cpl", stats->refused_cpl);
	stats_add_number(json, "refused_version", stats->refused_version);
}

void stats_add_answers(cJSON *json, const struct answers_counters *c)
{
	cJSON *asked;

	stats_add_number(json, "answers_from_ram", c->answered);
	stats_add_number(json, "bytes_from_ram", c->answered_bytes);
	stats_add_number(json, "answers_repeated", c->repeated);
	stats_add_number(json, "ram_checked", c->checked);
	stats_add_number(json, "ram_checked_bytes", c->checked_bytes);
	stats_add_number(json, "ram_differences", c->differences);
	asked = cJSON_AddObjectToObject(json, "asked_guest");
	for (int i = ANSWERS_HERE + 1; i < ANSWERS_REASON_COUNT; i++)
		stats_add_number(asked, answers_reason_name(i), c->asked[i]);
}

void stats_add_session(cJSON *json, const struct session_counters *c)
{
	stats_add_number(json, "boots", c->boots);
	stats_add_number(json, "prints", c->prints);
	stats_add_number(json, "prints_dropped", c->prints_dropped);
	stats_add_number(json, "events_continued", c->continued);
	stats_add_number(json, "files_refused", c->files_refused);
	stats_add_number(json, "requests", c->client_packets);
	stats_add_number(json, "requests_refused", c->requests_refused);
	stats_add_number(json, "requests_repeated", c->requests_repeated);
	stats_add_number(json, "replies_dropped", c->replies_dropped);
	stats_add_number(json, "guest_packets_refused", c->guest_refused);
}
