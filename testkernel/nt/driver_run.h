// SPDX-License-Identifier: MIT
// Drivers that come and go while the kernel runs: `driver=FILE` of the command line, started and stopped as the service manager does it, and
// the books that show what it left behind.
//
// Options of the command line, besides driver=FILE:
//   drivername=NAME    the file name that the module list shows (default: FILE's)
//   service=NAME       the service's key under \Registry\Machine\System\CurrentControlSet\Services (default vmkd)
//   force=N            its key has Parameters\Force of that value; forcetype=N (default 4, a DWORD), forcelen=N (default 4, bytes)
//   ci=N               the code integrity options that the kernel reports; ci=none: it does not know the question (as XP)
//   fail=WHAT[:N]      WHAT is pool, contiguous, map, query, log or key: every call fails, or the N-th alone; repeatable
//   unlist=WHAT        kernel or transport is missing in the module list
//   listgrows=N        the module list is N entries longer at each question
//   unexport=NAME      the transport loses that export before the driver starts; repeatable
//   lacks=NAME         the kernel loses that export before the driver starts, as old kernels lack some; repeatable
//   groups=N           groups of processors that the kernel says it has (default 1)
//   noimports          the kernel's PE header has no import address table directory
//   latedpc=N          the second CPU has its interrupts off for N million cycles when the first DPC comes to it
//   bypass             the kernel does not call its transport through the import address table
//
// Rules: passive context of CPU 0, interrupts on.
#pragma once
#include "testkernel/nt/driver_nt.h"

// Loads the image, tells the debugger, calls DriverEntry. A driver that refuses is unloaded again.
// Return: DriverEntry's status; STATUS_NOT_FOUND with a failed judgement when there is no such image or one runs already.
ntstatus_t driver_start(void);
// Calls DriverUnload and unloads the image. STATUS_INVALID_DEVICE_REQUEST when the driver has no DriverUnload, or none is loaded.
ntstatus_t driver_stop(void);
// Judges what is left when no driver is loaded: memory, mappings, handles, log entries, DPCs, the transport's two entries in the kernel's
// import address table. Return: true when there is nothing, which is not judged; else the judgement was made and logged.
bool driver_check_leaks(const char *when);

// The two entries of the kernel's import address table, KdSendPacket's and KdReceivePacket's, one after the other, spins apart in between.
void driver_read_entries(unsigned spins, uintptr_t ret[2]);
// Makes KdSendPacket's lead elsewhere, in one store past the rights of its page.
void driver_write_send_entry(uintptr_t value);
// Whether they lead elsewhere than to the exports of the transport that the kernel was booted with.
bool driver_is_transport_redirected(void);

// ---- between the files of the driver's side ----

// The driver that runs, to be compared with what it hands back; NULL = none.
const struct nt_driver_object *driver_object(void);
// \Registry\...\Services\NAME
const char *driver_registry_path(void);
// Whether this call is to fail (fail=WHAT of the command line). Counts the calls.
bool driver_is_to_fail(const char *what);
// A failed judgement about the driver's behaviour; the first of its kind is enough, so it is said once per text.
void driver_accuse(const char *what);
// PASSIVE_LEVEL with interrupts on, else an accusation that names the function.
void driver_expect_passive(const char *function);

// What is still held. Each logs what it finds.
unsigned driver_memory_held(void);
unsigned driver_services_held(void);
unsigned driver_dpcs_held(void);
// Accuses whoever wrote to contiguous memory that was given back.
void driver_memory_check_freed(void);

// Interrupt of a CPU: runs what is queued for it, at DISPATCH_LEVEL with interrupts on. frame: what was interrupted.
void driver_dpc_interrupt(const struct hal_frame *frame);
