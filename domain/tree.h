// SPDX-License-Identifier: MIT
// libvirt's XML as a tree, edited so that it can be put back: what is inserted gets the white space that its neighbours have, and goes with it.
// A thin layer above libxml2; no I/O, no knowledge of domains.
//
// Rules: one thread per tree. Names are matched with their namespace; NULL is none.
#ifndef DOMAIN_TREE_H
#define DOMAIN_TREE_H

#include <libxml/tree.h>
#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

#define TREE_BYTES_MAX (4u << 20) // some hundred times a big domain's

// Read the text of one XML document. -> NULL and *ret, to be freed with xmlFreeDoc. Errors: too long, no XML, a DTD (entities can say anything
// about the rest), another encoding than UTF-8, or another root.
ERROR_MUST_CHECK struct error *tree_parse(const char *text, size_t len, const char *root, xmlDocPtr *ret);

// The document's text, NUL-terminated. -> NULL and *ret, to be freed with free.
ERROR_MUST_CHECK struct error *tree_print(xmlDocPtr doc, char **ret);

// The first child element of that name, and the next one behind `element`. -> NULL: there is none. A NULL parent has no children.
xmlNodePtr tree_child(xmlNodePtr parent, const char *ns, const char *name);
xmlNodePtr tree_next(xmlNodePtr element, const char *ns, const char *name);
// The child element behind the path, "devices/memory", without namespace.
xmlNodePtr tree_at(xmlNodePtr parent, const char *path);
unsigned tree_count(xmlNodePtr parent, const char *ns, const char *name);

// An attribute without namespace, to be freed with xmlFree. -> NULL: it is not there.
xmlChar *tree_attribute(xmlNodePtr element, const char *name);
bool tree_attribute_is(xmlNodePtr element, const char *name, const char *value);
// Set one. -> false: memory is out.
bool tree_set(xmlNodePtr element, const char *name, const char *value);

// A new last child element; `ns` may be the parent's own, or NULL. -> NULL: memory is out.
xmlNodePtr tree_insert(xmlNodePtr parent, xmlNsPtr ns, const char *name);
// The same, in a namespace that the element declares itself.
xmlNodePtr tree_insert_with_ns(xmlNodePtr parent, const char *prefix, const char *href, const char *name);

// Take out and free an element and the white space that tree_insert gave it.
void tree_remove(xmlNodePtr element);
// No child but white space.
bool tree_is_empty(xmlNodePtr element);

#endif
