// SPDX-License-Identifier: MIT
// Where the running kernel calls its KD transport: the two entries of its import address table, found by address and by exports. Names of
// files are never looked at: kernels get renamed (/KERNEL=, checked builds), and any transport is listed as kdcom.dll.
//
// The kernel's import descriptors and names lie in a part that is thrown away after the boot; what stays is the table of addresses
// itself (PE directory 12). A transport is the module whose KdSendPacket and KdReceivePacket stand there. A kernel whose header has
// no such directory is searched in its initialised data, what is read-only first.
//
// Rules: PASSIVE_LEVEL. Reads only modules into which the kernel's table points, none of which is ever unloaded; everything read from an
// image is bounded, and a page is asked for before it is read.
#ifndef GUEST_DRIVER_FINDER_H
#define GUEST_DRIVER_FINDER_H

#include "guest/driver/nt_driver.h"
#include "guest/kdvmkd/peimage.h"

enum finder_code {
	FINDER_OK = 0,
	FINDER_E_KERNEL,    // no image around that address, or it is not in the list
	FINDER_E_TRANSPORT, // no module's exports stand in the kernel's table, or one of them stands there more than once
	FINDER_E_EXPORT,    // a module is entered there with one of the two and does not export the other
	FINDER_E_OURS,      // the transport is vmkd's own module
};

enum finder_function { FINDER_SEND, FINDER_RECEIVE, FINDER_FUNCTIONS };

struct finding {
	const void *kernel;
	const void *transport;
	// KdSendPacket's and KdReceivePacket's places in the kernel's table, aligned, and what stood there.
	void *volatile *entry[FINDER_FUNCTIONS];
	void *function[FINDER_FUNCTIONS];
};

// inside_kernel: any address in the kernel's image. list: `NumberOfModules` entries are there. -> enum finder_code.
int finder_find(const void *inside_kernel, const struct nt_module_list *list, peimage_is_mapped is_mapped, struct finding *ret);

#endif
