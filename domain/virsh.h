// SPDX-License-Identifier: MIT
// Questions to libvirt, put by the program virsh: it knows every way to every libvirtd, and what it is told stands in its own manual.
//
// Rules: one thread at a time; blocks until virsh has ended.
#ifndef DOMAIN_VIRSH_H
#define DOMAIN_VIRSH_H

#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

#define VIRSH_WORDS_MAX 8u

// Run `virsh --connect URI WORDS...`; uri NULL: virsh's own choice. words: NULL-terminated, at most VIRSH_WORDS_MAX. -> NULL and its output in *ret,
// NUL-terminated, to be freed with free (ret NULL: nobody wants it). Errors: virsh is not there, or what it said when it failed.
ERROR_MUST_CHECK struct error *virsh_ask(const char *uri, const char *const words[], char **ret);

// Define a domain from its XML, which nobody else gets to see: no file, no command line.
ERROR_MUST_CHECK struct error *virsh_define(const char *uri, const char *xml);

// A line "KEY: VALUE" of `virsh dominfo`, say. -> it is there and has this value
bool virsh_line_is(const char *output, const char *key, const char *value);

#endif
