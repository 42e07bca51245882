// SPDX-License-Identifier: MIT
// Where our own files are: the library for the VMM, the modules for the guest.
//
// The build folder and an installed tree look the same from the program that runs: what it needs lies beside it (build/), or in ../lib/vmkd and ../share/vmkd
// (make install, whatever the prefix). Nothing is compiled in, so a tree may be moved.
#ifndef UTIL_INSTALLED_H
#define UTIL_INSTALLED_H

#include "util/error.h"

// The absolute path of `file`, as it is called in the build folder ("libvmkd-vmm.so", "guest/x64/kdvmkd.dll"). -> NULL and *ret, to be freed; an error that says where it was looked for.
ERROR_MUST_CHECK struct error *installed_find(const char *file, char **ret);

#endif
