// SPDX-License-Identifier: MIT
#include "domain/tree.h"

#include <errno.h>
#include <libxml/parser.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define X(text) ((const xmlChar *)(text))

// ---- Text and tree ------------------------------------------------------------------------------------------

static struct error *bad_xml(void)
{
	const xmlError *last = xmlGetLastError();
	const char *message = last && last->message ? last->message : "it cannot be read";

	return error_create(EINVAL, "libvirt's XML is none: line %d: %.*s", last ? last->line : 0, (int)strcspn(message, "\n"), message);
}

static struct error *check_root(xmlDocPtr doc, const char *name)
{
	xmlNodePtr root = xmlDocGetRootElement(doc);

	if (doc->intSubset || doc->extSubset)
		return error_create(EINVAL, "the XML has a DTD; libvirt writes none, so this is not what it wrote");
	if (doc->encoding && xmlStrcasecmp(doc->encoding, X("UTF-8")) != 0)
		return error_create(EINVAL, "the XML is in %.40s; libvirt writes UTF-8", (const char *)doc->encoding);
	if (!root || root->ns || !xmlStrEqual(root->name, X(name)))
		return error_create(EINVAL, "expected <%s> as the root of the XML, got <%.60s>", name, root ? (const char *)root->name : "");
	return NULL;
}

struct error *tree_parse(const char *text, size_t len, const char *root, xmlDocPtr *ret)
{
	struct error *error;
	xmlDocPtr doc;

	if (len > TREE_BYTES_MAX)
		return error_create(EFBIG, "the XML has %zu bytes; expected at most %u", len, TREE_BYTES_MAX);
	doc = xmlReadMemory(text, (int)len, root, NULL, XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	if (!doc)
		return bad_xml();
	error = check_root(doc, root);
	if (error)
		xmlFreeDoc(doc);
	else
		*ret = doc;
	return error;
}

struct error *tree_print(xmlDocPtr doc, char **ret)
{
	xmlChar *text = NULL;
	char *copy;
	int len = 0;

	xmlDocDumpMemory(doc, &text, &len);
	copy = text ? strdup((const char *)text) : NULL;
	xmlFree(text);
	if (!copy)
		return error_create(ENOMEM, "out of memory");
	*ret = copy;
	return NULL;
}

// ---- Looking ------------------------------------------------------------------------------------------------

static bool is_named(xmlNodePtr node, const char *ns, const char *name)
{
	if (node->type != XML_ELEMENT_NODE || !xmlStrEqual(node->name, X(name)))
		return false;
	return ns ? node->ns && xmlStrEqual(node->ns->href, X(ns)) : !node->ns;
}

static xmlNodePtr first_named(xmlNodePtr node, const char *ns, const char *name)
{
	while (node && !is_named(node, ns, name))
		node = node->next;
	return node;
}

xmlNodePtr tree_child(xmlNodePtr parent, const char *ns, const char *name)
{
	return parent ? first_named(parent->children, ns, name) : NULL;
}

xmlNodePtr tree_next(xmlNodePtr element, const char *ns, const char *name)
{
	return first_named(element->next, ns, name);
}

xmlNodePtr tree_at(xmlNodePtr parent, const char *path)
{
	char name[64];

	while (parent && *path) {
		size_t len = strcspn(path, "/");

		if (len >= sizeof(name))
			return NULL;
		memcpy(name, path, len);
		name[len] = 0;
		parent = tree_child(parent, NULL, name);
		path += len + (path[len] == '/');
	}
	return parent;
}

unsigned tree_count(xmlNodePtr parent, const char *ns, const char *name)
{
	unsigned count = 0;

	for (xmlNodePtr at = tree_child(parent, ns, name); at; at = tree_next(at, ns, name))
		count++;
	return count;
}

xmlChar *tree_attribute(xmlNodePtr element, const char *name)
{
	return element ? xmlGetNoNsProp(element, X(name)) : NULL;
}

bool tree_attribute_is(xmlNodePtr element, const char *name, const char *value)
{
	xmlChar *text = tree_attribute(element, name);
	bool is_so = text && xmlStrEqual(text, X(value));

	xmlFree(text);
	return is_so;
}

bool tree_set(xmlNodePtr element, const char *name, const char *value)
{
	return xmlSetProp(element, X(name), X(value)) != NULL;
}

// ---- Changing -----------------------------------------------------------------------------------------------

static bool is_blank(xmlNodePtr node)
{
	return node && node->type == XML_TEXT_NODE && xmlIsBlankNode(node);
}

// In  W E T  a new child goes between E and T with a copy of W before it: T is what stands before the parent's end.
static xmlNodePtr insert_indented(xmlNodePtr element, xmlNodePtr sibling)
{
	xmlNodePtr white = xmlDocCopyNode(sibling->prev, sibling->doc, 1);

	if (!white)
		return NULL;
	xmlAddNextSibling(sibling, element);
	xmlAddPrevSibling(element, white);
	return element;
}

static xmlNodePtr place(xmlNodePtr parent, xmlNodePtr element)
{
	xmlNodePtr last = parent->last, sibling = is_blank(last) ? last->prev : NULL, placed;

	if (sibling && sibling->type != XML_TEXT_NODE && is_blank(sibling->prev))
		placed = insert_indented(element, sibling);
	else
		placed = xmlAddChild(parent, element);
	if (!placed)
		xmlFreeNode(element);
	return placed;
}

xmlNodePtr tree_insert(xmlNodePtr parent, xmlNsPtr ns, const char *name)
{
	xmlNodePtr element = xmlNewDocNode(parent->doc, ns, X(name), NULL);

	return element ? place(parent, element) : NULL;
}

xmlNodePtr tree_insert_with_ns(xmlNodePtr parent, const char *prefix, const char *href, const char *name)
{
	xmlNodePtr element = xmlNewDocNode(parent->doc, NULL, X(name), NULL);
	xmlNsPtr ns = element ? xmlNewNs(element, X(href), X(prefix)) : NULL;

	if (element && !ns) {
		xmlFreeNode(element);
		return NULL;
	}
	if (element)
		xmlSetNs(element, ns);
	return element ? place(parent, element) : NULL;
}

void tree_remove(xmlNodePtr element)
{
	xmlNodePtr white = element->prev;

	if (is_blank(white) && is_blank(element->next)) {
		xmlUnlinkNode(white);
		xmlFreeNode(white);
	}
	xmlUnlinkNode(element);
	xmlFreeNode(element);
}

bool tree_is_empty(xmlNodePtr element)
{
	for (xmlNodePtr at = element->children; at; at = at->next)
		if (!is_blank(at))
			return false;
	return true;
}
