// SPDX-License-Identifier: MIT
// peseal FILE: writes the PE checksum into an image, which lld-link 14 leaves 0. Debuggers are told it with every module,
// so the test kernel shall have one. Part of the build only.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PE_AT = 0x3C, CHECKSUM_AT = 24 + 64, MIN_SIZE = 1024, MAX_SIZE = 8 << 20 };

_Noreturn static void give_up(const char *path, const char *why)
{
    fprintf(stderr, "peseal: %s: %s\n", path, why);
    exit(1);
}

// The sum of all 16-bit words with the carry added back, plus the file's length (PE format specification).
static uint32_t checksum(const uint8_t *file, size_t size)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i += 2) {
        sum += file[i] | (i + 1 < size ? (uint32_t)file[i + 1] << 8 : 0);
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    return sum + (uint32_t)size;
}

static uint32_t get32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int main(int argc, char **argv)
{
    static uint8_t file[MAX_SIZE];
    if (argc != 2)
        give_up("usage", "peseal FILE");
    FILE *stream = fopen(argv[1], "r+b");
    if (!stream)
        give_up(argv[1], "cannot be opened for writing");
    size_t size = fread(file, 1, sizeof file, stream);
    uint32_t pe = get32(file + PE_AT);
    if (size < MIN_SIZE || size == sizeof file || pe > size - MIN_SIZE / 2 || memcmp(file + pe, "PE\0", 4))
        give_up(argv[1], "not a PE image below 8 MiB");
    uint8_t *field = file + pe + CHECKSUM_AT;
    memset(field, 0, 4);
    uint32_t sum = checksum(file, size);
    for (unsigned i = 0; i < 4; i++)
        field[i] = (uint8_t)(sum >> 8 * i);
    if (fseek(stream, (long)(pe + CHECKSUM_AT), SEEK_SET) || fwrite(field, 4, 1, stream) != 1 || fclose(stream))
        give_up(argv[1], "cannot be written");
    return 0;
}
