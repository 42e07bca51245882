// SPDX-License-Identifier: MIT
// boot.ini and the journal. What is added to a boot.ini can be taken out again; what a journal says leads to no name with a slash and no empty path.
#include <stdlib.h>
#include <string.h>

#include "setup/bootini.h"
#include "setup/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void try_bootini(const struct bytes *text, bool make_default)
{
	struct bytes with = { 0 }, without = { 0 };
	struct error *error = bootini_add(text, make_default, &with);

	if (!error)
		error = bootini_remove(&with, &without);
	if (!error) {
		// The line before ours got an end if it had none.
		size_t end = without.len - text->len;
		if (without.len < text->len || (end != 0 && end != 2) || memcmp(without.data, text->data, text->len) != 0)
			abort();
	}
	error_free(error);
	bytes_deinit(&with);
	bytes_deinit(&without);
}

static void try_journal(const struct bytes *text)
{
	static struct journal journal;
	char line[JOURNAL_LINE_MAX];
	struct error *error = journal_parse(text, &journal);

	for (unsigned i = 0; !error && i < journal.step_count; i++) {
		const struct journal_step *s = &journal.steps[i];
		if (!s->path[0] || strchr(s->name, '/') || (s->volume != 'b' && s->volume != 'w'))
			abort();
		journal_step_line(s, line);
	}
	error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct bytes text = { malloc(len + 1), len };

	memcpy(text.data, data, len);
	try_bootini(&text, false);
	try_bootini(&text, true);
	try_journal(&text);
	bytes_deinit(&text);
	return 0;
}
