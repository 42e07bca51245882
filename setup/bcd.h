// SPDX-License-Identifier: MIT
// The boot configuration (BCD), a registry hive: a copy of the entry that Windows boots by, changed for debugging, at the end of the boot menu.
//
// Nothing of the other entries is touched; default and timeout neither unless asked. An entry is a key Objects\{GUID} with one sub-key per element, named
// by eight hex digits. The elements are those of docs/guest.md, the same that install.cmd writes with bcdedit.
#ifndef SETUP_BCD_H
#define SETUP_BCD_H

#include <hivex.h>
#include <stdbool.h>

#include "setup/windows.h"
#include "util/error.h"

#define BCD_GUID_SIZE 39u // "{00000000-0000-0000-0000-000000000000}" with the NUL
#define BCD_NAME "vmkd debugging"

// Find the entry to copy: the default one if it starts Windows, else the only one of the menu that does. -> NULL and its GUID; ENOENT: none, or several.
ERROR_MUST_CHECK struct error *bcd_find_entry(hive_h *h, char ret_guid[static BCD_GUID_SIZE]);

// Write the copy of `from` as `guid`, and put it at the menu's end; make_default: it is booted when nobody chooses.
ERROR_MUST_CHECK struct error *bcd_add_entry(hive_h *h, const char *from, const char *guid, enum windows_generation generation, bool make_default);

// Take `guid` out again: entry, menu, and the default, which becomes `former` if it is `guid`. Nothing else, so that what Windows changed since stays.
ERROR_MUST_CHECK struct error *bcd_remove_entry(hive_h *h, const char *guid, const char *former);

// Is debugging on in this entry? Then it debugs through kdcom.dll, and would not start without it.
bool bcd_has_debugging(hive_h *h, const char *guid);

// The default entry. -> false: none is named.
bool bcd_default(hive_h *h, char ret_guid[static BCD_GUID_SIZE]);

// Is it the text of a GUID: braces, hex, and dashes where they belong?
bool bcd_is_guid(const char *text);

#endif
