// SPDX-License-Identifier: MIT
#include "attach/slots.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/mtree.h"

#define PAGE 4096u
#define GPA_MAX (UINT64_C(1) << 52) // the architecture's limit of physical addresses
#define HOST_MAX (UINT64_C(1) << 57)

static bool is_writable_ram(const struct mtree_range *r)
{
	return mtree_is_type(r, "ram") || mtree_is_type(r, "nv-ram");
}

// Whole pages only, as QEMU gives them to KVM. -> false: numbers that cannot be. *ret->size may be 0: nothing is left.
static bool slot_of(const struct mtree_range *r, uint64_t previous_end, struct late_slot *ret)
{
	uint64_t start = (r->first + PAGE - 1) / PAGE * PAGE, end = (r->last + 1) / PAGE * PAGE;

	if (r->last < r->first || r->last >= GPA_MAX || r->first < previous_end)
		return false;
	*ret = (struct late_slot){ .gpa = start, .size = end > start ? end - start : 0, .flags = is_writable_ram(r) ? 0 : LATE_READONLY };
	return true;
}

struct error *slots_parse(const char *text, size_t len, struct late_slot ret[static LATE_SLOTS_MAX], uint32_t *ret_count)
{
	struct mtree_range range;
	struct late_slot slot;
	struct mtree tree;
	uint64_t end = 0;
	uint32_t count = 0;

	if (!mtree_open(&tree, text, len))
		return error_create(EPROTO, "QEMU's answer to \"info mtree -f\" has no view of the address space \"memory\"");
	while (mtree_next(&tree, &range)) {
		if (!range.is_in_kvm)
			continue;
		if (!slot_of(&range, end, &slot))
			return error_create(EPROTO, "QEMU's answer to \"info mtree -f\" has a range %#" PRIx64 "-%#" PRIx64 " that cannot be", range.first, range.last);
		end = range.last + 1;
		if (!slot.size)
			continue;
		if (count == LATE_SLOTS_MAX)
			return error_create(E2BIG, "the VM has more than %u slots of memory", LATE_SLOTS_MAX);
		ret[count++] = slot;
	}
	if (!count)
		return error_create(EPROTO, "QEMU's answer to \"info mtree -f\" marks nothing as KVM's; expected QEMU 4.2 or later with a VM of KVM");
	*ret_count = count;
	return NULL;
}

bool slots_parse_host(const char *text, uint64_t gpa, uint64_t *ret)
{
	static const char head[] = "Host virtual address for 0x", tail[] = " is 0x";
	const char *at = strncmp(text, head, sizeof(head) - 1) == 0 ? text + sizeof(head) - 1 : "", *found = NULL;
	char *end;

	if (strtoull(at, &end, 16) != gpa || *end != ' ')
		return false;
	for (at = strstr(end, tail); at; at = strstr(at + 1, tail)) // a region's name may have it, too
		found = at + sizeof(tail) - 1;
	if (!found)
		return false;
	errno = 0;
	unsigned long long host = strtoull(found, &end, 16);
	if (errno || end == found || (*end && *end != '\r' && *end != '\n') || !host || host % PAGE || host >= HOST_MAX)
		return false;
	*ret = host;
	return true;
}

static struct error *ask_host(struct hmp *m, struct late_slot *s)
{
	char line[64], *answer;
	struct error *error;
	bool is_known;

	snprintf(line, sizeof(line), "gpa2hva 0x%" PRIx64, s->gpa);
	error = hmp_ask(m, line, &answer);
	if (error)
		return error;
	is_known = slots_parse_host(answer, s->gpa, &s->host);
	if (!is_known)
		error = error_create(EAGAIN, "QEMU's answer to \"%s\" is no address: %.100s", line, answer);
	free(answer);
	return error;
}

static struct error *check_host(const struct target *t, const struct late_slot *s)
{
	if (s->flags & LATE_READONLY || target_is_writable(t, s->host, s->size))
		return NULL;
	return error_create(EINVAL, "the monitor says that the VM's memory at %#" PRIx64 " is at %#" PRIx64 " in process %d, which has none there: it is another VM's monitor", s->gpa, s->host, (int)t->pid);
}

struct error *slots_ask(struct hmp *m, struct target *t, struct late_slot ret[static LATE_SLOTS_MAX], uint32_t *ret_count)
{
	char *text;
	uint32_t count = 0;
	struct error *error = hmp_ask(m, "info mtree -f", &text);

	if (error)
		return error;
	error = slots_parse(text, strlen(text), ret, &count);
	free(text);
	for (uint32_t i = 0; !error && i < count; i++)
		error = ask_host(m, &ret[i]);
	if (!error)
		error = target_refresh(t);
	for (uint32_t i = 0; !error && i < count; i++)
		error = check_host(t, &ret[i]);
	if (!error)
		*ret_count = count;
	return error;
}

// "* CPU #0: thread_id=1415"
struct error *slots_check_monitor(struct hmp *m, const struct target *t)
{
	static const char key[] = "thread_id=";
	unsigned count = 0;
	char *text;
	struct error *error = hmp_ask(m, "info cpus", &text);

	if (error)
		return error;
	for (const char *at = strstr(text, key); !error && at; at = strstr(at + 1, key), count++)
		if (!target_has_thread(t, atoi(at + sizeof(key) - 1)))
			error = error_create(EINVAL, "the monitor is that of another VM: its vCPU's thread %d is not one of process %d (or that process is in another pid namespace)",
					     atoi(at + sizeof(key) - 1), (int)t->pid);
	if (!error && !count)
		error = error_create(EPROTO, "QEMU's answer to \"info cpus\" names no thread: %.100s", text);
	free(text);
	return error;
}
