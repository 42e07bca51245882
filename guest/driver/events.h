// SPDX-License-Identifier: MIT
// Everything that vmkd.sys tells its user, once: the texts of the event log's message table are made from this list (events.mc.in), and the
// lines that the host is told are these as well.
//
// EVENTS(X) calls X(name, severity, number, status, text) for each: severity as the message compiler names it; status is what starting the driver fails with.
// A text is a sentence or two: what is so, and what to do. No quotes and no percent signs in it.
#ifndef GUEST_DRIVER_EVENTS_H
#define GUEST_DRIVER_EVENTS_H

#define EVENTS(X) \
	X(STARTED, Informational, 0x1, STATUS_SUCCESS, "The kernel talks to its debugger through vmkd now.") \
	X(STOPPED, Informational, 0x2, STATUS_SUCCESS, "The kernel talks to its debugger through its former transport again.") \
	X(NO_HOST, Error, 0x10, STATUS_PORT_DISCONNECTED, "Nobody on the host answers: start the VM with vmkd run, or bring vmkd into it with " \
	  "vmkd attach or vmkd serve, then start this driver again.") \
	X(NO_MEMORY, Error, 0x11, STATUS_NO_MEMORY, "There is no contiguous memory for the shared area. Restart Windows, or try when less memory " \
	  "is in use.") \
	X(NO_RESOURCES, Error, 0x12, STATUS_INSUFFICIENT_RESOURCES, "There is no pool memory for the list of modules. Try when less memory is in use.") \
	X(NO_KERNEL, Error, 0x13, STATUS_NOT_FOUND, "The kernel was not found in the list of loaded modules.") \
	X(NO_TRANSPORT, Error, 0x14, STATUS_NOT_FOUND, "No loaded module is what the kernel sends its debugger packets to: another tool may have " \
	  "redirected them.") \
	X(NO_EXPORT, Error, 0x15, STATUS_PROCEDURE_NOT_FOUND, "The transport module of the kernel does not export both KdSendPacket and " \
	  "KdReceivePacket.") \
	X(NO_ALIAS, Error, 0x16, STATUS_ACCESS_VIOLATION, "The import table of the kernel could not be mapped for writing.") \
	X(HVCI, Error, 0x20, STATUS_NOT_SUPPORTED, "Memory integrity (HVCI) is on: it does not let the import table of the kernel be changed. Turn it " \
	  "off, or boot with kdvmkd.dll.") \
	X(NO_DEBUG, Error, 0x21, STATUS_NOT_SUPPORTED, "Windows was not booted for debugging: boot with debugging on (bcdedit /debug on, or /DEBUG in " \
	  "boot.ini).") \
	X(GUARDED, Error, 0x22, STATUS_NOT_SUPPORTED, "No debugger is present, so this 64-bit Windows may guard itself and end with bug check 109 minutes after " \
	  "this driver or a debugger has changed it. Boot with a debugger connected, or set the value Force in this service's Parameters key to 1.") \
	X(PROCESSORS, Error, 0x23, STATUS_NOT_SUPPORTED, "There are more than 64 processors.") \
	X(NOT_CALLED, Error, 0x24, STATUS_NOT_SUPPORTED, "The kernel does not call its transport through its import table, so everything was put back. " \
	  "Boot with kdvmkd.dll instead.") \
	X(OURS, Error, 0x25, STATUS_NOT_SUPPORTED, "Windows was booted with kdvmkd.dll, so this driver is not needed.") \
	X(BUSY, Error, 0x26, STATUS_IO_TIMEOUT, "The processors could not be held at the same time: one of them was busy for seconds. Try again.") \
	X(WAITING, Warning, 0x30, STATUS_SUCCESS, "Stopping waits: another driver has redirected the transport after this one and has to put it back first.")

#endif
