// SPDX-License-Identifier: MIT
#include "setup/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "vmkd setup 1"
#define NUMBER_MAX 99u // of a .saved file

static const char *const kinds[] = { "bcd", "boot.ini", "system" };

// ---- Writing -------------------------------------------------------------------------------------------------

void journal_head(uint64_t boot_offset, uint64_t windows_offset, char ret[static JOURNAL_LINE_MAX])
{
	snprintf(ret, JOURNAL_LINE_MAX, HEAD "\r\nvolume b %" PRIu64 "\r\nvolume w %" PRIu64 "\r\n", boot_offset, windows_offset);
}

void journal_step_line(const struct journal_step *s, char ret[static JOURNAL_LINE_MAX])
{
	switch (s->op) {
	case JOURNAL_RENAME: snprintf(ret, JOURNAL_LINE_MAX, "rename %c %s %s\r\n", s->volume, s->name, s->path); break;
	case JOURNAL_CREATE: snprintf(ret, JOURNAL_LINE_MAX, "create %c %" PRIu64 " %016" PRIx64 " %s\r\n", s->volume, s->after.size, s->after.sum, s->path); break;
	case JOURNAL_REPLACE:
		snprintf(ret, JOURNAL_LINE_MAX, "replace %s %c %u %" PRIu64 " %016" PRIx64 " %s\r\n", kinds[s->kind], s->volume, s->number, s->before.size, s->before.sum, s->path);
		break;
	}
}

void journal_wrote_line(const struct journal_step *s, char ret[static JOURNAL_LINE_MAX])
{
	snprintf(ret, JOURNAL_LINE_MAX, "wrote %u %" PRIu64 " %016" PRIx64 "\r\n", s->number, s->after.size, s->after.sum);
}

// ---- Reading -------------------------------------------------------------------------------------------------

// Ours are ASCII. Anything else would go to the terminal of whoever undoes it, as root.
static bool is_printable(const char *line)
{
	for (; *line; line++)
		if (*line < ' ' || *line > '~')
			return false;
	return true;
}

// Takes a word and the blank behind it from *at. -> false: there is none, or it is too long for `ret`.
static bool take_word(const char **at, char *ret, size_t size)
{
	size_t len = strcspn(*at, " ");

	if (len == 0 || len >= size)
		return false;
	memcpy(ret, *at, len);
	ret[len] = 0;
	*at += len + ((*at)[len] == ' ');
	return true;
}

static bool take_number(const char **at, int base, uint64_t *ret)
{
	char word[24], *end;

	if (!take_word(at, word, sizeof(word)) || !strchr("0123456789abcdef", word[0]))
		return false;
	errno = 0;
	*ret = strtoull(word, &end, base);
	return !*end && !errno;
}

static bool take_volume(const char **at, char *ret)
{
	char word[4];

	*ret = 0;
	if (take_word(at, word, sizeof(word)) && !word[1])
		*ret = word[0];
	return *ret == 'b' || *ret == 'w';
}

static bool take_content(const char **at, struct content *ret)
{
	return take_number(at, 10, &ret->size) && take_number(at, 16, &ret->sum);
}

static bool take_rest(const char **at, char ret[static FILES_PATH_MAX])
{
	size_t len = strlen(*at);

	if (len == 0 || len >= FILES_PATH_MAX)
		return false;
	memcpy(ret, *at, len + 1);
	*at += len;
	return true;
}

static bool take_kind(const char **at, enum journal_kind *ret)
{
	char word[16];

	if (!take_word(at, word, sizeof(word)))
		return false;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(word, kinds[i]) == 0) {
			*ret = (enum journal_kind)i;
			return true;
		}
	return false;
}

static bool take_saved(const char **at, unsigned *ret)
{
	uint64_t number;

	if (!take_number(at, 10, &number) || number > NUMBER_MAX)
		return false;
	*ret = (unsigned)number;
	return true;
}

static bool read_step(const char *word, const char *at, struct journal_step *s)
{
	if (strcmp(word, "rename") == 0) {
		s->op = JOURNAL_RENAME;
		return take_volume(&at, &s->volume) && take_word(&at, s->name, sizeof(s->name)) && !strchr(s->name, '/') && take_rest(&at, s->path);
	}
	if (strcmp(word, "create") == 0) {
		s->op = JOURNAL_CREATE;
		return take_volume(&at, &s->volume) && take_content(&at, &s->after) && take_rest(&at, s->path);
	}
	s->op = JOURNAL_REPLACE;
	return strcmp(word, "replace") == 0 && take_kind(&at, &s->kind) && take_volume(&at, &s->volume) && take_saved(&at, &s->number) && take_content(&at, &s->before) &&
	       take_rest(&at, s->path);
}

static bool read_wrote(const char *at, struct journal *j)
{
	unsigned number;
	struct content after;

	if (!take_saved(&at, &number) || !take_content(&at, &after) || *at)
		return false;
	for (unsigned i = 0; i < j->step_count; i++)
		if (j->steps[i].op == JOURNAL_REPLACE && j->steps[i].number == number) {
			j->steps[i].is_written = true;
			j->steps[i].after = after;
			return true;
		}
	return false;
}

static bool read_volume(const char *at, struct journal *j)
{
	char letter;

	return take_volume(&at, &letter) && take_number(&at, 10, letter == 'b' ? &j->boot_offset : &j->windows_offset) && !*at;
}

static bool read_line(const char *line, struct journal *j)
{
	char word[16];
	const char *at = line;

	if (!take_word(&at, word, sizeof(word)))
		return false;
	if (strcmp(word, "volume") == 0)
		return read_volume(at, j);
	if (strcmp(word, "wrote") == 0)
		return read_wrote(at, j);
	if (strcmp(word, "entry") == 0)
		return take_word(&at, j->guid, sizeof(j->guid)) && take_word(&at, j->former, sizeof(j->former)) && !*at && bcd_is_guid(j->guid) && bcd_is_guid(j->former);
	if (strcmp(word, "done") == 0)
		return j->is_done = !*at;
	return j->step_count < JOURNAL_STEP_MAX && read_step(word, at, &j->steps[j->step_count]) && ++j->step_count;
}

struct error *journal_parse(const struct bytes *text, struct journal *ret)
{
	struct journal j = { 0 };
	char line[JOURNAL_LINE_MAX];
	unsigned number = 0;

	for (size_t at = 0; at < text->len; number++) {
		const uint8_t *start = text->data + at, *end = memchr(start, '\n', text->len - at);
		if (!end)
			break;
		size_t len = (size_t)(end - start);
		at += len + 1;
		if (len && start[len - 1] == '\r')
			len--;
		bool is_good = len < sizeof(line) && !memchr(start, 0, len);
		memcpy(line, start, is_good ? len : 0);
		line[is_good ? len : 0] = 0;
		if (!is_good || !is_printable(line) || (number == 0 ? strcmp(line, HEAD) != 0 : !read_line(line, &j)))
			return error_create(EINVAL, "line %u of the journal makes no sense", number + 1);
	}
	if (number == 0)
		return error_create(EINVAL, "the journal has not even a first line");
	*ret = j;
	return NULL;
}
