// SPDX-License-Identifier: MIT
// vmkd.sys begins here: NT's half of the take-over (takeover.h), and the two functions that the kernel calls once it is redirected.
#include "guest/driver/hold.h"
#include "guest/driver/takeover.h"
#include "guest/kdvmkd/ntkernel.h"

#define PATH_MAX_UNITS 300u // of a service's registry path and what is appended; longer ones have no Force
#define DPC_END_MS 50u      // a DPC's last instructions
#define MS_100NS 10000

int32_t NTAPI DriverEntry(struct nt_driver_object *driver_object, struct nt_unicode_string *registry_path);

// All of it is initialised data, as in kdvmkd.dll: no section is ever without bytes in its file.
#define STATE __attribute__((section(".data")))

static STATE struct driver {
	struct nt_driver_object *object;
	struct nt_unicode_string *registry_path; // while DriverEntry runs
	struct ntkernel kernel;
	ke_flush_queued_dpcs_fn flush_dpcs; // NULL: not exported
	struct ntkernel_presence presence;  // as it was
	struct machine machine;
	struct takeover takeover;
	// Holding. One at a time; nothing here needs memory that might be missing when everything is to be put back.
	struct hold hold;
	uintptr_t processors;
	struct nt_kdpc starter;
	struct nt_kdpc dpc[HOLD_PROCESSORS_MAX];
} driver = { .object = NULL };

// ---- Memory ------------------------------------------------------------------------------------------

static void *allocate(void *ctx, enum takeover_memory kind, size_t bytes)
{
	(void)ctx; // one driver
	return kind == TAKEOVER_BLOCK ? MmAllocateContiguousMemory(bytes, -1) : ExAllocatePoolWithTag(NONPAGED_POOL, bytes, POOL_TAG);
}

static void release(void *ctx, enum takeover_memory kind, void *memory)
{
	(void)ctx; // one driver
	if (kind == TAKEOVER_BLOCK)
		MmFreeContiguousMemory(memory);
	else
		ExFreePoolWithTag(memory, POOL_TAG);
}

static void *volatile *map(void *ctx, void *volatile *entry)
{
	(void)ctx; // one driver
	int64_t physical = MmGetPhysicalAddress((void *)(uintptr_t)entry);
	return physical ? MmMapIoSpace(physical, sizeof(*entry), MM_CACHED) : NULL;
}

static void unmap(void *ctx, void *volatile *alias)
{
	(void)ctx; // one driver
	MmUnmapIoSpace((void *)(uintptr_t)alias, sizeof(*alias));
}

// ---- Facts ---------------------------------------------------------------------------------------------

static int32_t modules(void *ctx, void *buffer, uint32_t bytes, uint32_t *ret_bytes)
{
	(void)ctx; // one driver
	return ZwQuerySystemInformation(SYSTEM_MODULE_INFORMATION, buffer, bytes, ret_bytes);
}

static const void *kernel_address(void *ctx)
{
	(void)ctx; // one driver
	return (const void *)(uintptr_t)&KdDebuggerEnabled;
}

static void *kernel_export(const char *name)
{
	struct peimage kernel;
	return peimage_find(kernel_address(NULL), ntkernel_is_mapped, &kernel) ? peimage_export(&kernel, name) : NULL;
}

static bool has_hvci(void)
{
	struct nt_code_integrity info = { .Length = sizeof(info) };
	uint32_t bytes;
	// Kernels that do not know the question do not have it either.
	return ZwQuerySystemInformation(SYSTEM_CODE_INTEGRITY_INFORMATION, &info, sizeof(info), &bytes) >= 0 &&
	       (info.CodeIntegrityOptions & CODE_INTEGRITY_HVCI_KMCI_ENABLED);
}

static bool has_groups(void)
{
	ke_query_active_group_count_fn count = (ke_query_active_group_count_fn)(uintptr_t)kernel_export("KeQueryActiveGroupCount");
	return count && count() > 1;
}

static void append_text(struct nt_unicode_string *path, const char *text)
{
	for (; *text && path->Length < path->MaximumLength; text++) {
		path->Buffer[path->Length / sizeof(uint16_t)] = (uint8_t)*text;
		path->Length = (uint16_t)(path->Length + sizeof(uint16_t));
	}
}

static bool open_parameters(const struct nt_unicode_string *service, void **ret_key)
{
	static const char below[] = "\\Parameters";
	uint16_t units[PATH_MAX_UNITS];
	struct nt_unicode_string path = { .Length = service->Length, .MaximumLength = sizeof(units), .Buffer = units };
	struct nt_object_attributes attributes = {
		.Length = sizeof(attributes), .ObjectName = &path, .Attributes = OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE,
	};
	if (service->Length > sizeof(units) - 2 * sizeof(below))
		return false;
	wire_copy(units, service->Buffer, service->Length);
	append_text(&path, below);
	return ZwOpenKey(ret_key, KEY_READ, &attributes) >= 0;
}

static bool is_forced(const struct nt_unicode_string *service)
{
	uint16_t units[] = { 'F', 'o', 'r', 'c', 'e' };
	struct nt_unicode_string name = { .Length = sizeof(units), .MaximumLength = sizeof(units), .Buffer = units };
	struct nt_key_value value = { .Type = 0 };
	uint32_t bytes;
	void *key;
	if (!open_parameters(service, &key))
		return false;
	int32_t status = ZwQueryValueKey(key, &name, KEY_VALUE_PARTIAL_INFORMATION, &value, sizeof(value), &bytes);
	(void)ZwClose(key); // it was open
	return status >= 0 && value.Type == REG_DWORD && value.DataLength == 4 && value.Data[0] == 1;
}

static void facts(void *ctx, struct takeover_facts *ret)
{
	struct driver *d = ctx;
	*ret = (struct takeover_facts){
		.is_debugged = ntkernel_is_debugged(), .is_absent = KdDebuggerNotPresent, .is_guarded = sizeof(void *) == 8,
		.is_forced = is_forced(d->registry_path), .has_hvci = has_hvci(), .has_groups = has_groups(),
	};
}

// ---- Processors ------------------------------------------------------------------------------------------

static void sleep_ms(void *ctx, uint32_t ms)
{
	(void)ctx; // one driver
	int64_t interval = -(int64_t)ms * MS_100NS;
	(void)KeDelayExecutionThread(KERNEL_MODE, false, &interval); // not alertable: it ends with the time only
}

static void interrupts(void *ctx, bool is_on)
{
	(void)ctx; // instructions need none
	if (is_on)
		__asm__ volatile("sti" : : : "memory", "cc");
	else
		__asm__ volatile("cli" : : : "memory", "cc");
}

static void NTAPI hold_routine(struct nt_kdpc *dpc, void *context, void *argument1, void *argument2)
{
	(void)dpc; // all are the same
	(void)argument1;
	(void)argument2;
	struct driver *d = context;
	struct hold_cpu cpu = { .interrupts = interrupts, .pause = d->machine.pause, .cycles = d->machine.cycles };
	hold_enter(&d->hold, &cpu, NULL);
}

// Queued from DISPATCH_LEVEL: the DPC of this processor would otherwise run at once, and keep the others' from being queued.
static void NTAPI start_routine(struct nt_kdpc *dpc, void *context, void *argument1, void *argument2)
{
	(void)dpc; // one
	(void)argument1;
	(void)argument2;
	struct driver *d = context;
	for (uint32_t i = 0; i < HOLD_PROCESSORS_MAX; i++) {
		if (i < 8 * sizeof(d->processors) && d->processors >> i & 1)
			(void)KeInsertQueueDpc(&d->dpc[i], NULL, NULL); // none is queued: the last hold is over
	}
}

static uint32_t prepare_dpcs(struct driver *d)
{
	uint32_t count = 0;
	d->processors = KeQueryActiveProcessors();
	for (uint32_t i = 0; i < 8 * sizeof(d->processors); i++) {
		if (!(d->processors >> i & 1))
			continue;
		count++;
		KeInitializeDpc(&d->dpc[i], hold_routine, d);
		KeSetTargetProcessorDpc(&d->dpc[i], (int8_t)i);
		KeSetImportanceDpc(&d->dpc[i], DPC_HIGH_IMPORTANCE);
	}
	KeInitializeDpc(&d->starter, start_routine, d);
	return count;
}

// The last instructions of a DPC come after it has left the hold; the driver's code must outlive them.
static void wait_for_dpcs(struct driver *d)
{
	if (d->flush_dpcs)
		d->flush_dpcs();
	else
		sleep_ms(d, DPC_END_MS);
}

static bool hold(void *ctx, void (*deed)(void *arg), void *arg)
{
	struct driver *d = ctx;
	hold_init(&d->hold, prepare_dpcs(d), deed, arg);
	(void)KeInsertQueueDpc(&d->starter, NULL, NULL); // not queued: as above
	while (hold_state(&d->hold) == HOLD_PENDING)
		sleep_ms(d, 1);
	wait_for_dpcs(d);
	return hold_state(&d->hold) == HOLD_DONE;
}

// ---- What the kernel is told -------------------------------------------------------------------------------

static void keep_presence(void *ctx)
{
	struct driver *d = ctx;
	ntkernel_read_presence(&d->presence);
}

static void restore_presence(void *ctx)
{
	struct driver *d = ctx;
	ntkernel_write_presence(&d->kernel, &d->presence);
}

static void set_presence(void *ctx, bool is_present)
{
	struct driver *d = ctx;
	struct ntkernel_presence presence = { .is_absent = !is_present, .is_shared = is_present };
	ntkernel_write_presence(&d->kernel, &presence);
}

static void set_present(void *ctx, bool is_present)
{
	struct driver *d = ctx;
	takeover_set_presence(&d->takeover, is_present);
}

// ---- The event log -------------------------------------------------------------------------------------------

#define STATUS_UNITS 11u // 0xC0000037 and an end

static void write_status(uint16_t units[STATUS_UNITS], int32_t status)
{
	units[0] = '0';
	units[1] = 'x';
	for (uint32_t i = 0; i < 8; i++)
		units[2 + i] = (uint8_t)"0123456789ABCDEF"[(uint32_t)status >> (28 - 4 * i) & 15];
	units[STATUS_UNITS - 1] = 0;
}

static void log_event(void *ctx, enum event event, int32_t status)
{
	struct driver *d = ctx;
	uint8_t bytes = sizeof(struct nt_error_log_packet) + STATUS_UNITS * sizeof(uint16_t) + 2;
	struct nt_error_log_packet *packet = IoAllocateErrorLogEntry(d->object, bytes);
	if (!packet)
		return; // the log has no room: the status tells all the same
	wire_zero(packet, bytes);
	packet->NumberOfStrings = 1;
	packet->StringOffset = sizeof(*packet);
	packet->ErrorCode = takeover_number(event);
	packet->FinalStatus = status;
	write_status((uint16_t *)(packet + 1), status);
	IoWriteErrorLogEntry(packet);
}

static void print(void *ctx, const char *text)
{
	(void)ctx; // one driver
	dbg_print_ex_fn print_ex = (dbg_print_ex_fn)(uintptr_t)kernel_export("DbgPrintEx");
	dbg_print_fn plain = (dbg_print_fn)(uintptr_t)kernel_export("DbgPrint");
	if (print_ex)
		(void)print_ex(DPFLTR_IHVDRIVER_ID, DPFLTR_ERROR_LEVEL, text); // nobody waits for a line
	else if (plain)
		(void)plain(text); // as above
}

// ---- The kernel's calls ----------------------------------------------------------------------------------------

static void NTAPI driver_send(uint32_t type, struct nt_string *hdr, struct nt_string *data, struct nt_kd_context *context)
{
	(void)context; // as in exports.c
	takeover_send(&driver.takeover, type, hdr, data);
}

static uint32_t NTAPI driver_receive(uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len,
                                     struct nt_kd_context *context)
{
	(void)context; // as in exports.c
	return takeover_receive(&driver.takeover, type, hdr, data, data_len);
}

static const struct takeover_system this_system = {
	.facts = facts,
	.allocate = allocate,
	.release = release,
	.modules = modules,
	.kernel = kernel_address,
	.is_mapped = ntkernel_is_mapped,
	.map = map,
	.unmap = unmap,
	.hold = hold,
	.sleep = sleep_ms,
	.keep_presence = keep_presence,
	.set_presence = set_presence,
	.restore_presence = restore_presence,
	.log = log_event,
	.print = print,
	.function = { (void *)driver_send, (void *)driver_receive },
};

// ---- Start and stop ----------------------------------------------------------------------------------------------

static void NTAPI unload(struct nt_driver_object *driver_object)
{
	(void)driver_object; // one
	takeover_stop(&driver.takeover);
}

int32_t NTAPI DriverEntry(struct nt_driver_object *driver_object, struct nt_unicode_string *registry_path)
{
	driver.object = driver_object;
	driver.registry_path = registry_path;
	ntkernel_init(&driver.kernel);
	driver.flush_dpcs = (ke_flush_queued_dpcs_fn)(uintptr_t)kernel_export("KeFlushQueuedDpcs");
	driver.machine = *ntkernel_machine();
	driver.machine.set_present = set_present;
	takeover_init(&driver.takeover, &this_system, &driver, &driver.machine, &driver);
	int32_t status = takeover_start(&driver.takeover);
	driver.registry_path = NULL;
	if (status == STATUS_SUCCESS)
		driver_object->DriverUnload = unload;
	return status;
}
