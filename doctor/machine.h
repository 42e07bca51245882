// SPDX-License-Identifier: MIT
// What this machine and its installation are like.
#ifndef DOCTOR_MACHINE_H
#define DOCTOR_MACHINE_H

#include <stddef.h>

#include "doctor/facts.h"

// Look at everything in struct doctor_host. Takes up to some seconds where a symbol server does not answer; starts QEMU's --version, and nothing else.
void machine_look(struct doctor_host *ret);

// The version that `program` prints for --version, 0.0 if it prints none within some seconds. Not started, and 0.0: a file that neither root nor this user owns, or that
// others may write: it could be anybody's, and the doctor may run as root.
struct doctor_version machine_ask_version(const char *program);
// The same of an open file (O_PATH will do), which is what is looked at and started, whatever stands under its name by then. It stays open.
struct doctor_version machine_ask_version_of(int program);

// The first version in what QEMU prints: "QEMU emulator version 7.2.22 (Debian ...)". 0.0: there is none.
struct doctor_version machine_parse_version(const char *text);

// The first of `path` (as _NT_SYMBOL_PATH: parts behind ';', srv*FOLDER*URL, cache*FOLDER, FOLDER or URL) that symbols come from: its last URL, else its last folder.
// -> false: there is none, or it does not fit.
bool machine_parse_symbol_path(const char *path, char *ret, size_t size);

// "https://HOST[:PORT]/..." -> host and port ("443" or "80" if it has none). False: no such URL, or it does not fit.
bool machine_parse_url(const char *url, char *ret_host, size_t host_size, char *ret_port, size_t port_size);

#endif
