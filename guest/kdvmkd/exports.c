// SPDX-License-Identifier: MIT
// The exported functions (KD reference, section 2.1): NT's names and types in, the transport's out. The kernel imports them
// from "KDCOM.dll" by name, undecorated on both architectures (exports-*.def).
#include "guest/kdvmkd/ntkernel.h"
#include "guest/kdvmkd/packets.h"

#define EXPORT __attribute__((used))

// For people and for tools that look at a memory image.
extern const char KdVmkdIdentity[];
EXPORT const char KdVmkdIdentity[] = "vmkd KD transport, port-call ABI 1.0";

// All of the module's state is initialised data: no section of this image is ever without bytes in its file, so no loader has to know
// how to provide them.
#define STATE __attribute__((section(".data")))
static STATE struct transport state = { .is_free = 1 };
static STATE struct ntkernel kernel = { .is_searched = false };
static STATE uint8_t area_memory[AREA_PAGES * AREA_PAGE_SIZE] __attribute__((aligned(AREA_PAGE_SIZE))) = { 0 };

static struct transport *transport(void)
{
	transport_bind(&state, ntkernel_machine(), &kernel, area_memory);
	return &state;
}

int32_t NTAPI KdD0Transition(void);
int32_t NTAPI KdD3Transition(void);
int32_t NTAPI KdDebuggerInitialize0(void *loader_block);
int32_t NTAPI KdDebuggerInitialize1(void *loader_block);
int32_t NTAPI KdInitialize(int32_t phase, void *loader_block, void *context);
int32_t NTAPI KdPower(uintptr_t state, void *context);
uint32_t NTAPI KdReceivePacket(uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len,
                               struct nt_kd_context *context);
int32_t NTAPI KdRestore(uint8_t is_sleep_transition);
int32_t NTAPI KdSave(uint8_t is_sleep_transition);
void NTAPI KdSendPacket(uint32_t type, struct nt_string *hdr, struct nt_string *data, struct nt_kd_context *context);
int32_t NTAPI KdSetHiberRange(void *map);
int32_t NTAPI DllEntry(void *module, uint32_t reason, void *reserved);

// No loader calls this one at boot; one that loads the module later gets TRUE.
int32_t NTAPI DllEntry(void *module, uint32_t reason, void *reserved)
{
	(void)module;   // nothing to
	(void)reason;   // set up
	(void)reserved; // here
	return 1;
}

EXPORT int32_t NTAPI KdDebuggerInitialize0(void *loader_block)
{
	(void)loader_block; // the link is found, not configured
	ntkernel_init(&kernel);
	transport_start(transport());
	return STATUS_SUCCESS; // also without a link: newer kernels do not survive a failure
}

EXPORT int32_t NTAPI KdDebuggerInitialize1(void *loader_block)
{
	(void)loader_block; // as above
	transport_phase1(transport());
	return STATUS_SUCCESS;
}

// Windows 10 and later, in place of the two above. The third argument and phases beyond 1 are inferred.
EXPORT int32_t NTAPI KdInitialize(int32_t phase, void *loader_block, void *context)
{
	(void)context; // nothing of it is needed
	return phase == 0 ? KdDebuggerInitialize0(loader_block) : KdDebuggerInitialize1(loader_block);
}

EXPORT int32_t NTAPI KdD0Transition(void)
{
	transport_wake(transport());
	return STATUS_SUCCESS;
}

EXPORT int32_t NTAPI KdD3Transition(void)
{
	transport_sleep(transport());
	return STATUS_SUCCESS;
}

// FALSE: at every entry to and exit from the debugger; nothing to do. TRUE: around sleep and hibernation.
EXPORT int32_t NTAPI KdSave(uint8_t is_sleep_transition)
{
	if (is_sleep_transition)
		transport_sleep(transport());
	return STATUS_SUCCESS;
}

EXPORT int32_t NTAPI KdRestore(uint8_t is_sleep_transition)
{
	if (is_sleep_transition)
		transport_wake(transport());
	return STATUS_SUCCESS;
}

// Arguments inferred, meaning unknown: so nothing is concluded from them but that the link deserves a look.
EXPORT int32_t NTAPI KdPower(uintptr_t power_state, void *context)
{
	(void)power_state; // see above
	(void)context;
	transport_suspect(transport());
	return STATUS_NOT_SUPPORTED;
}

// The module's pages are ordinary data of a boot image, which hibernation saves anyway.
EXPORT int32_t NTAPI KdSetHiberRange(void *map)
{
	(void)map; // see above
	return STATUS_NOT_SUPPORTED;
}

EXPORT void NTAPI KdSendPacket(uint32_t type, struct nt_string *hdr, struct nt_string *data, struct nt_kd_context *context)
{
	(void)context; // retries are the host's business, and no break-in is met while sending
	packets_send(transport(), type, hdr, data);
}

EXPORT uint32_t NTAPI KdReceivePacket(uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len,
                                      struct nt_kd_context *context)
{
	(void)context; // as above
	return packets_receive(transport(), type, hdr, data, data_len);
}
