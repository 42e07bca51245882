// SPDX-License-Identifier: MIT
#include "testkernel/core/text.h"

// String instructions, not loops: the compiler would turn a loop in memset into a call of memset, and an interpreted
// CPU runs one instruction per element anyway.
#if defined(__x86_64__)
typedef uint64_t word_t;
#define REP_MOVS_WORD "rep movsq"
#define REP_STOS_WORD "rep stosq"
#else
typedef uint32_t word_t;
#define REP_MOVS_WORD "rep movsl"
#define REP_STOS_WORD "rep stosl"
#endif

void *memcpy(void *to, const void *from, size_t len)
{
    void *d = to;
    size_t words = len / sizeof(word_t);
    size_t rest = len % sizeof(word_t);
    __asm__ volatile(REP_MOVS_WORD : "+D"(d), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(rest) : : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t len)
{
    if ((uintptr_t)to - (uintptr_t)from >= len)
        return memcpy(to, from, len);
    uint8_t *d = (uint8_t *)to + len - 1;
    const uint8_t *s = (const uint8_t *)from + len - 1;
    if (len)
        __asm__ volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
    return to;
}

void *memset(void *to, int byte, size_t len)
{
    void *d = to;
    word_t word = (word_t)-1 / 255 * (uint8_t)byte;
    size_t words = len / sizeof(word_t);
    size_t rest = len % sizeof(word_t);
    __asm__ volatile(REP_STOS_WORD : "+D"(d), "+c"(words) : "a"(word) : "memory");
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(rest) : "a"(word) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < len; i++) {
        if (x[i] != y[i])
            return x[i] - y[i];
    }
    return 0;
}

size_t strlen(const char *text)
{
    const char *end = text;
    while (*end)
        end++;
    return (size_t)(end - text);
}

int strncmp(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (a[i] != b[i] || !a[i])
            return (uint8_t)a[i] - (uint8_t)b[i];
    }
    return 0;
}

int strcmp(const char *a, const char *b)
{
    return strncmp(a, b, SIZE_MAX);
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool text_equal_nocase(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b)) {
        a++;
        b++;
    }
    return lower(*a) == lower(*b);
}

void text_copy(char *to, size_t size, const char *from)
{
    size_t i = 0;
    for (; i + 1 < size && from[i]; i++)
        to[i] = from[i];
    to[i] = 0;
}

// ----------------------------------------------------------------------------------------------------- formats --

struct sink {
    char *buf;
    size_t size;
    size_t len;
};

static void put(struct sink *sink, char c)
{
    if (sink->len + 1 < sink->size)
        sink->buf[sink->len] = c;
    sink->len++;
}

// 64 by 32 bit without a library call on x86. The quotient's high half first, then DIV of remainder:low.
static uint64_t divide(uint64_t value, uint32_t by, uint32_t *ret_rest)
{
#if defined(__x86_64__)
    *ret_rest = (uint32_t)(value % by);
    return value / by;
#else
    uint32_t high = (uint32_t)(value >> 32), low = (uint32_t)value;
    uint32_t quotient_high = high / by, rest = high % by, quotient_low;
    __asm__("divl %4" : "=a"(quotient_low), "=d"(rest) : "0"(low), "1"(rest), "r"(by));
    *ret_rest = rest;
    return (uint64_t)quotient_high << 32 | quotient_low;
#endif
}

struct number_format {
    uint32_t base;
    unsigned width;
    bool zero_fill, upper, negative;
};

static void put_number(struct sink *sink, uint64_t value, const struct number_format *f)
{
    char digits[24];
    unsigned count = 0;
    do {
        uint32_t digit;
        value = divide(value, f->base, &digit);
        digits[count++] = (char)(digit < 10 ? '0' + digit : (f->upper ? 'A' : 'a') + digit - 10);
    } while (value);
    unsigned total = count + f->negative;
    if (!f->zero_fill)
        for (unsigned i = total; i < f->width; i++)
            put(sink, ' ');
    if (f->negative)
        put(sink, '-');
    if (f->zero_fill)
        for (unsigned i = total; i < f->width; i++)
            put(sink, '0');
    while (count)
        put(sink, digits[--count]);
}

static void put_text(struct sink *sink, const char *text, unsigned width)
{
    if (!text)
        text = "(null)";
    unsigned len = 0;
    for (; text[len]; len++)
        put(sink, text[len]);
    for (; len < width; len++)
        put(sink, ' ');
}

struct directive {
    struct number_format number;
    unsigned longs;
};

static const char *parse_directive(const char *at, struct directive *ret)
{
    *ret = (struct directive){ .number.base = 10 };
    if (*at == '0') {
        ret->number.zero_fill = true;
        at++;
    }
    if (*at == '-')
        at++;
    while (*at >= '0' && *at <= '9')
        ret->number.width = ret->number.width * 10 + (unsigned)(*at++ - '0');
    for (; *at == 'l'; at++)
        ret->longs++;
    if (*at == 'z') {
        ret->longs = sizeof(size_t) == 8 ? 2 : 0;
        at++;
    }
    return at;
}

// A single `l` is no use in this tree: long has 4 bytes in a PE and 8 in the x64 stub. sizeof decides.
static bool is_wide(const struct directive *d)
{
    return d->longs >= 2 || (d->longs == 1 && sizeof(long) == 8);
}

size_t text_vformat(char *buf, size_t size, const char *format, va_list args)
{
    struct sink sink = { buf, size, 0 };
    for (; *format; format++) {
        if (*format != '%') {
            put(&sink, *format);
            continue;
        }
        struct directive d;
        format = parse_directive(format + 1, &d);
        uint64_t value = 0;
        switch (*format) {
        case 's':
            put_text(&sink, va_arg(args, const char *), d.number.width);
            break;
        case 'c':
            put(&sink, (char)va_arg(args, int));
            break;
        case 'p':
            d.number = (struct number_format){ .base = 16, .width = 2 * sizeof(void *), .zero_fill = true };
            put_number(&sink, (uintptr_t)va_arg(args, void *), &d.number);
            break;
        case 'd':
            value = is_wide(&d) ? va_arg(args, uint64_t) : (uint64_t)(int64_t)va_arg(args, int);
            d.number.negative = (int64_t)value < 0;
            put_number(&sink, d.number.negative ? 0 - value : value, &d.number);
            break;
        case 'u':
        case 'x':
        case 'X':
            value = is_wide(&d) ? va_arg(args, uint64_t) : va_arg(args, unsigned);
            d.number.base = *format == 'u' ? 10 : 16;
            d.number.upper = *format == 'X';
            put_number(&sink, value, &d.number);
            break;
        case 0:
            format--;
            break;
        default:
            put(&sink, *format);
        }
    }
    if (size)
        buf[sink.len < size ? sink.len : size - 1] = 0;
    return sink.len;
}

void text_vlog(const char *format, va_list args)
{
    char line[256];
    size_t len = text_vformat(line, sizeof line, format, args);
    if (len >= sizeof line)
        len = sizeof line - 1;
    const char *at = line;
    __asm__ volatile("rep outsb" : "+S"(at), "+c"(len) : "d"(0xE9) : "memory");
}

void text_log(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_vlog(format, args);
    va_end(args);
}

// ----------------------------------------------------------------------------------------------------- options --

bool text_next_word(const char **line, const char **ret_word, size_t *ret_len)
{
    const char *at = *line;
    while (*at == ' ')
        at++;
    const char *word = at;
    while (*at && *at != ' ')
        at++;
    *line = at;
    *ret_word = word;
    *ret_len = (size_t)(at - word);
    return at != word;
}

int text_option(const char *line, const char *key, unsigned index, char *buf, size_t size)
{
    size_t key_len = strlen(key), len;
    const char *word;
    while (text_next_word(&line, &word, &len)) {
        bool is_key = len >= key_len && !strncmp(word, key, key_len) && (len == key_len || word[key_len] == '=');
        if (!is_key || index--)
            continue;
        size_t skip = len == key_len ? len : key_len + 1;
        if (len - skip >= size)
            return 2;
        memcpy(buf, word + skip, len - skip);
        buf[len - skip] = 0;
        return 0;
    }
    return 1;
}

int text_number(const char *text, uint64_t *ret)
{
    bool is_hex = text[0] == '0' && lower(text[1]) == 'x';
    uint64_t value = 0;
    if (is_hex)
        text += 2;
    if (!*text)
        return 1;
    for (; *text; text++) {
        char c = lower(*text);
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                                                : 99;
        if (digit >= (is_hex ? 16u : 10u))
            return 1;
        value = (is_hex ? value << 4 : (value << 3) + (value << 1)) + digit;
    }
    *ret = value;
    return 0;
}
