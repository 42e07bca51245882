// SPDX-License-Identifier: MIT
// QEMU's monitor for people, asked by a program: over a QMP socket, or by virsh where libvirt has the socket.
//
// Rules: one question at a time, each blocking at most HMP_TIMEOUT_S. Answers are texts of QEMU's for people; who reads them checks them.
#ifndef ATTACH_HMP_H
#define ATTACH_HMP_H

#include "util/buf.h"
#include "util/error.h"

#define HMP_TIMEOUT_S 20 // a QEMU that ends a migration answers nobody for seconds

struct hmp {
	int fd;        // QMP; -1: virsh is asked
	struct buf in; // QMP: what was read of what comes next
	const char *domain, *connect; // of libvirt; connect NULL: its default
};

// Connect to the QMP socket `path`. -> NULL and *ret, or an error: nobody there, or somebody else has the monitor (QEMU serves one client at a time).
ERROR_MUST_CHECK struct error *hmp_open_qmp(const char *path, struct hmp *ret);
// The strings are borrowed. Nothing is asked yet.
void hmp_open_libvirt(const char *domain, const char *connect, struct hmp *ret);
void hmp_close(struct hmp *m);

// A line of the monitor for people. -> NULL and *ret, its answer, to be freed; or an error.
ERROR_MUST_CHECK struct error *hmp_ask(struct hmp *m, const char *line, char **ret);

#endif
