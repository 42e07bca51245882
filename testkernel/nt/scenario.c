// SPDX-License-Identifier: MIT
#include "testkernel/nt/scenario.h"

#include "testkernel/nt/nt_data.h"

#define SELECTED_MAX 16u

static const struct scenario *const tables[] = {scenarios_talk, scenarios_modules, scenarios_faults, scenarios_run,
                                                scenarios_transport, scenarios_driver};

struct selected {
    const struct scenario *scenario;
    uint64_t arg;
};

static struct selected selected[SELECTED_MAX];
static unsigned selected_count;
static unsigned passed, failed;
static void (*watch_hook)(void);

static const struct scenario *find(const char *name, size_t len)
{
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
        for (const struct scenario *s = tables[t]; s->name != NULL; s++) {
            if (strlen(s->name) == len && strncmp(s->name, name, len) == 0)
                return s;
        }
    }
    return NULL;
}

_Noreturn static void refuse(const char *name)
{
    hal_log("TK: unknown scenario '%s'; there are:\n", name);
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
        for (const struct scenario *s = tables[t]; s->name != NULL; s++)
            hal_log("  %s: %s\n", s->name, s->help);
    }
    hal_exit(HAL_VERDICT_USAGE);
}

static size_t word_length(const char *text, char end)
{
    size_t len = 0;

    while (text[len] != 0 && text[len] != end)
        len++;
    return len;
}

static uint64_t parse_number(const char *digits, size_t len)
{
    uint64_t value = 0;

    for (size_t i = 0; i < len && digits[i] >= '0' && digits[i] <= '9'; i++)
        value = value * 10 + (uint64_t)(digits[i] - '0');
    return value;
}

// One element of the list: NAME or NAME=NUMBER. Cuts the text at its end.
static void select(char *item)
{
    size_t name_len = word_length(item, '=');
    const struct scenario *s = find(item, name_len);

    if (s == NULL || selected_count == SELECTED_MAX)
        refuse(item);
    const char *digits = item + name_len + (item[name_len] == '=');
    selected[selected_count++] = (struct selected){s, parse_number(digits, strlen(digits))};
}

static void select_list(char *list)
{
    while (*list != 0) {
        size_t len = word_length(list, ',');
        bool is_last = list[len] == 0;
        list[len] = 0;
        if (len > 0)
            select(list);
        list += len + !is_last;
    }
}

void scenario_init(void)
{
    char list[256];
    int rc;

    for (unsigned i = 0; (rc = hal_option("scenario", i, list, sizeof(list))) == 0; i++)
        select_list(list);
    if (rc == 2)
        refuse("(a list of more than 255 characters)");
}

void scenario_run_early(void)
{
    for (unsigned i = 0; i < selected_count; i++) {
        if (selected[i].scenario->early != NULL)
            selected[i].scenario->early(selected[i].arg);
    }
}

void scenario_run_middle(void)
{
    for (unsigned i = 0; i < selected_count; i++) {
        if (selected[i].scenario->middle != NULL)
            selected[i].scenario->middle(selected[i].arg);
    }
}

void scenario_run(void)
{
    bool ends = false;

    for (unsigned i = 0; i < selected_count; i++) {
        hal_log("TK: scenario %s\n", selected[i].scenario->name);
        if (selected[i].scenario->run != NULL)
            selected[i].scenario->run(selected[i].arg);
        ends |= selected[i].scenario->ends;
    }
    if (ends)
        scenario_end();
}

void scenario_pass(const char *reason)
{
    hal_log("TK: passed: %s\n", reason);
    passed++;
}

void scenario_fail(const char *reason)
{
    hal_log("TK: failed: %s\n", reason);
    failed++;
}

_Noreturn void scenario_end(void)
{
    hal_log("TK: verdict %s: %u passed, %u failed\n", failed == 0 ? "passed" : "failed", passed, failed);
    hal_exit(failed == 0 ? HAL_VERDICT_PASS : HAL_VERDICT_FAIL);
}

void scenario_wait_ticks(unsigned ticks)
{
    volatile const uint64_t *now = &KeTickCount;
    uint64_t start = *now;

    while (*now - start < ticks)
        hal_halt();
}

void scenario_set_watch(void (*watch)(void))
{
    watch_hook = watch;
}

_Noreturn void scenario_idle(void)
{
    unsigned second = (unsigned)hal_option_number("hz", 64);

    for (;;) {
        scenario_wait_ticks(second);
        if (watch_hook != NULL)
            watch_hook();
    }
}
