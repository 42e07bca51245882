// SPDX-License-Identifier: MIT
// Any bytes as a domain's XML. What can be enabled reads as enabled, and disabled is what it was, byte for byte as libxml2 prints it; what
// says that it is enabled can be disabled, and is not enabled afterwards.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "domain/edit.h"
#include "domain/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const doorbell[] = { "-chardev", "socket,id=vmkd-debugcon,path=/a,,b&<", "-device", "isa-debugcon,chardev=vmkd-debugcon", NULL };
static const struct domain_wish wishes[] = {
	{ .link = DOMAIN_LINK_HOOK, .name = "w", .runtime_dir = "/run/'\"&<", .library = "/lib/libvmkd-vmm.so" },
	{ .link = DOMAIN_LINK_HOOK, .name = "w", .runtime_dir = "/run/vmkd", .library = "/l", .private_ram = true },
	{ .link = DOMAIN_LINK_DEBUGCON, .name = "w", .runtime_dir = "/run/vmkd", .arguments = doorbell },
};

static void must(bool is_so)
{
	if (!is_so)
		abort();
}

static bool is_done(struct error *error)
{
	bool done = !error;

	error_free(error);
	return done;
}

static enum domain_link link_in(const char *text, size_t len)
{
	struct domain_info info;

	must(is_done(domain_read(text, len, &info)));
	return info.link;
}

// As libxml2 prints it, if that is what it prints of its own text, too: it escapes nothing in the name of a namespace. NULL else.
static char *settled(const char *text, size_t len)
{
	char *texts[2] = { NULL, NULL };

	for (int i = 0; i < 2; i++) {
		xmlDocPtr doc = NULL;

		if (!is_done(tree_parse(i ? texts[0] : text, i ? strlen(texts[0]) : len, "domain", &doc)))
			break;
		must(is_done(tree_print(doc, &texts[i])));
		xmlFreeDoc(doc);
	}
	if (texts[1] && strcmp(texts[0], texts[1]) == 0) {
		free(texts[1]);
		return texts[0];
	}
	free(texts[0]);
	free(texts[1]);
	return NULL;
}

static char *without_link(const char *text, size_t len)
{
	char *ret = NULL;
	unsigned left;

	if (!is_done(domain_disable(text, len, &ret, &left)))
		return NULL;
	must(link_in(ret, strlen(ret)) == DOMAIN_LINK_NONE);
	return ret;
}

static void go_there_and_back(const char *before, const struct domain_wish *wish)
{
	char *enabled = NULL, *after;

	if (!is_done(domain_enable(before, strlen(before), wish, &enabled)))
		return;
	must(link_in(enabled, strlen(enabled)) == wish->link);
	after = without_link(enabled, strlen(enabled));
	must(after && strcmp(before, after) == 0);
	free(enabled);
	free(after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = settled((const char *)data, size), *plain;
	struct domain_info info;

	if (text && is_done(domain_read(text, strlen(text), &info)) && info.link != DOMAIN_LINK_NONE) {
		plain = without_link(text, strlen(text));
		must(plain);
		free(text);
		text = settled(plain, strlen(plain));
		free(plain);
	}
	for (size_t i = 0; text && i < sizeof(wishes) / sizeof(wishes[0]); i++)
		go_there_and_back(text, &wishes[i]);
	free(text);
	return 0;
}
