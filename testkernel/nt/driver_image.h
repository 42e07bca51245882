// SPDX-License-Identifier: MIT
// What happens to loaded images in a running system, as a driver finds them: the kernel's own, the transport's, and the driver's.
//
// Rules: passive context. Headers were checked when the images were loaded. Writing goes past the rights of the pages.
#pragma once
#include "testkernel/nt/nt.h"

// The kernel's INIT section is gone after a boot of Windows, and with it the import descriptors, lookup tables and names. What is left of
// them here is garbage; the import address table and its entry in the header stay.
void driver_image_forget_imports(const struct hal_image *kernel);
// The header's entry for the import address table becomes empty.
void driver_image_hide_import_table(const struct hal_image *kernel);
// Renames an export. Return: false when there is none of that name.
bool driver_image_hide_export(const struct hal_image *image, const char *name);
// Unmaps the sections that a driver needs only until DriverEntry has returned.
void driver_image_discard(const struct hal_image *image);
