// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/transport.h"

static uint32_t ask(struct transport *t, uint32_t fn)
{
	const struct machine *m = t->machine;
	if (fn == CALL_REGISTER) {
		uint64_t gpa = t->area.gpa[0].v;
		return m->port_call(t->ctx, fn, (uint32_t)gpa, (uint32_t)(gpa >> 32), AREA_VERSION);
	}
	return m->port_call(t->ctx, fn, t->area.call_seq, 0, 0);
}

uint32_t portcall_call(struct transport *t, uint32_t fn)
{
	uint32_t eax = ask(t, fn);
	return (eax & RESULT_TAG_MASK) == RESULT_TAG ? eax & ~RESULT_TAG_MASK : CODE_SILENT;
}
