// SPDX-License-Identifier: MIT
// boot.ini of XP and 2003: text in, text out.
//
// The line that boots by default is copied under our name with the debugger's options. NTLDR boots the first line whose path is the default's
// (docs/evidence.md, G8), so the copy stands behind the old line, or before it when it is to be the default; nothing else changes. Lines end in CR LF as Windows writes them.
#ifndef SETUP_BOOTINI_H
#define SETUP_BOOTINI_H

#include <stdbool.h>

#include "setup/bytes.h"
#include "util/error.h"

#define BOOTINI_SIZE_MAX 65536u

// The text with our line. -> EINVAL: no default, or no line for it; EEXIST: there is such a line.
ERROR_MUST_CHECK struct error *bootini_add(const struct bytes *text, bool make_default, struct bytes *ret);

// The text without our line; the same text when there is none.
ERROR_MUST_CHECK struct error *bootini_remove(const struct bytes *text, struct bytes *ret);

#endif
