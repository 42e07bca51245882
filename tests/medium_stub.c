// SPDX-License-Identifier: MIT
// One Windows program that plays the tools install.cmd calls, for tests/test_medium.py under Wine: which one, its file name says.
//
// The folder in VMKD_STUB holds state.txt (lines KEY=VALUE, all that these tools know of the machine) and calls.txt (one line a call).
// VMKD_STUB_FAIL=N makes the N-th call fail without doing anything. The tools speak a language that nobody knows, with quotes, ampersands and
// braces where a careless script breaks; only what is the same in every language of Windows is as there: registry data, GUIDs, columns, exit status.
//
// Keys: bcd/{GUID}/ELEMENT, bcd.current, svc/NAME, reg/KEY/VALUE=TYPE DATA, cert/STORE/SHA1, owner/SUM and acl/SUM (SUM: of the file's content,
// since names move), attr/PATH (beside the archive bit), and the settings build, bitlocker, picky, guid-first.
#include <windows.h>
#include <wincrypt.h>
#include <ctype.h>
#include <fcntl.h>
#include <io.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINES_MAX = 400, LINE_MAX_LEN = 512, NO_SERVICE = 1060, NOT_STARTED = 1062, BAD_SYNTAX = 1639, DENIED = 5, NOT_FOUND = 2 };

#define BOOTMGR "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
#define HKLM_BCD "HKLM\\BCD00000000\\Objects\\"

struct state {
    char line[LINES_MAX][LINE_MAX_LEN]; // KEY=VALUE
    unsigned count;
    char path[MAX_PATH];
    bool is_changed;
};
static struct state state;

_Noreturn static void broken(const char *why)
{
    fprintf(stderr, "STUB BROKEN: %s\n", why);
    exit(99);
}

// Replaces a file at once, so that a test which is cut short reads the old state or the new one.
static void state_save(void)
{
    if (!state.is_changed)
        return;
    char new_path[MAX_PATH + 8];
    snprintf(new_path, sizeof new_path, "%s.new", state.path);
    FILE *f = fopen(new_path, "wb");
    if (!f)
        broken("state.txt cannot be written");
    for (unsigned i = 0; i < state.count; i++)
        fprintf(f, "%s\n", state.line[i]);
    if (fclose(f) || !MoveFileExA(new_path, state.path, MOVEFILE_REPLACE_EXISTING))
        broken("state.txt cannot be replaced");
}

static void state_load(void)
{
    const char *folder = getenv("VMKD_STUB");
    if (!folder)
        broken("VMKD_STUB is not set");
    snprintf(state.path, sizeof state.path, "%s\\state.txt", folder);
    FILE *f = fopen(state.path, "rb");
    if (!f)
        broken("no state.txt");
    while (state.count < LINES_MAX && fgets(state.line[state.count], LINE_MAX_LEN, f)) {
        state.line[state.count][strcspn(state.line[state.count], "\r\n")] = 0;
        state.count += state.line[state.count][0] != 0;
    }
    fclose(f);
}

static char *state_find(const char *key)
{
    size_t len = strlen(key);
    for (unsigned i = 0; i < state.count; i++)
        if (!_strnicmp(state.line[i], key, len) && state.line[i][len] == '=')
            return state.line[i];
    return NULL;
}

static const char *state_get(const char *key)
{
    char *line = state_find(key);
    return line ? strchr(line, '=') + 1 : NULL;
}

static void state_drop(char *line)
{
    memmove(line, state.line[--state.count], LINE_MAX_LEN);
    state.is_changed = true;
}

static void state_remove(const char *key)
{
    char *line = state_find(key);
    if (line)
        state_drop(line);
}

// All keys that begin so; how many there were.
static unsigned state_remove_all(const char *prefix)
{
    unsigned before = state.count;
    for (unsigned i = 0; i < state.count;)
        if (_strnicmp(state.line[i], prefix, strlen(prefix)))
            i++;
        else
            state_drop(state.line[i]);
    return before - state.count;
}

static void state_set(const char *key, const char *value)
{
    char *line = state_find(key);
    if (!line) {
        if (state.count == LINES_MAX)
            broken("state too large");
        line = state.line[state.count++];
    }
    snprintf(line, LINE_MAX_LEN, "%s=%s", key, value);
    state.is_changed = true;
}

static const char *join(const char *a, const char *b, const char *c)
{
    static char text[4][LINE_MAX_LEN];
    static unsigned next;
    char *at = text[next++ % 4];
    snprintf(at, LINE_MAX_LEN, "%s%s%s", a, b, c);
    return at;
}

static long build(void)
{
    const char *value = state_get("build");
    return value ? strtol(value, NULL, 10) : 0;
}

// ---- bcdedit ------------------------------------------------------------------------------------------------------

struct element {
    const char *name, *id;
    long since; // the first build that knows the name
};
static const struct element elements[] = {
    { "description", "12000004", 0 }, { "debug", "260000a0", 0 }, { "dbgtransport", "22000013", 0 }, { "testsigning", "16000049", 0 },
    { "nointegritychecks", "16000048", 0 }, { "bootmenupolicy", "250000c2", 9200 }, { "recoveryenabled", "16000009", 7600 },
    { "debugtype", "15000011", 0 }, { "busparams", "12000019", 7600 }, { "timeout", "25000004", 0 }, { "default", "23000003", 0 },
    { "displayorder", "24000001", 0 },
};

// The eight digits behind a name, or NULL: unknown to this build.
static const char *element_id(const char *name)
{
    if (!strncmp(name, "custom:", 7) && strlen(name) == 15)
        return name + 7;
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
        if (!strcmp(name, elements[i].name))
            return build() >= elements[i].since ? elements[i].id : NULL;
    return NULL;
}

static const char *integer_bytes(unsigned long value)
{
    static char text[17];
    snprintf(text, sizeof text, "%02lx%02lx%02lx%02lx00000000", value & 0xFF, value >> 8 & 0xFF, value >> 16 & 0xFF, value >> 24 & 0xFF);
    return text;
}

// What the registry holds for a value given on the command line; NULL when bcdedit would not take it. The digit of the format decides.
static const char *element_value(const char *id, const char *text)
{
    static const char *const yes[] = { "on", "yes", "true", "1" }, *const no[] = { "off", "no", "false", "0" };
    if (id[1] == '2')
        return *text || !state_get("picky") ? text : NULL;
    for (int i = 0; id[1] == '6' && i < 4; i++)
        if (!_stricmp(text, yes[i]) || !_stricmp(text, no[i]))
            return _stricmp(text, no[i]) ? "01" : "00";
    if (id[1] != '5')
        return NULL;
    if (!_stricmp(text, "legacy") || !_stricmp(text, "serial"))
        return integer_bytes(0);
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    return *text && !*end ? integer_bytes(value) : NULL;
}

// The GUID that an identifier stands for, or NULL: no such object.
static const char *object_id(const char *id)
{
    if (!_stricmp(id, "{bootmgr}"))
        id = BOOTMGR;
    else if (!_stricmp(id, "{current}"))
        id = state_get("bcd.current");
    else if (!_stricmp(id, "{default}"))
        id = state_get("bcd/" BOOTMGR "/23000003");
    return id && state_find(join("bcd/", id, "/type")) ? id : NULL;
}

static void print_object(const char *id)
{
    size_t prefix = strlen(join("bcd/", id, "/"));
    printf("\r\nZblorp \"Kwik\" & {a-b-c-d-e} %%PATH%%\r\n----------------------\r\n");
    printf("quuxid (a-b-c-d-e)      %s\r\n", id);
    for (unsigned i = 0; i < state.count; i++)
        if (!_strnicmp(state.line[i], join("bcd/", id, "/"), prefix) && strncmp(state.line[i] + prefix, "type", 4))
            printf("%.3s%%zwq%.4s!           %s\r\n", state.line[i] + prefix, state.line[i] + prefix + 4, strchr(state.line[i], '=') + 1);
}

static int bcd_enum(const char *what)
{
    if (_stricmp(what, "osloader")) {
        const char *id = object_id(what);
        if (id)
            print_object(id);
        return id ? 0 : 1;
    }
    for (unsigned i = 0; i < state.count; i++) {
        char *end = strstr(state.line[i], "/type=10200003");
        if (!strncmp(state.line[i], "bcd/", 4) && end) {
            char id[64];
            snprintf(id, sizeof id, "%.*s", (int)(end - state.line[i] - 4), state.line[i] + 4);
            print_object(id);
        }
    }
    return 0;
}

static void displayorder_without(const char *id, char *ret, size_t size)
{
    const char *order = state_get("bcd/" BOOTMGR "/24000001");
    char copy[LINE_MAX_LEN];
    snprintf(copy, sizeof copy, "%s", order ? order : "");
    *ret = 0;
    for (char *item = strtok(copy, " "); item; item = strtok(NULL, " "))
        if (_stricmp(item, id))
            snprintf(ret + strlen(ret), size - strlen(ret), "%s%s", *ret ? " " : "", item);
}

static void displayorder_add_last(const char *id)
{
    char rest[LINE_MAX_LEN];
    displayorder_without(id, rest, sizeof rest);
    state_set("bcd/" BOOTMGR "/24000001", join(rest, *rest ? " " : "", id));
}

static int bcd_copy(const char *from, const char *name)
{
    const char *source = object_id(from);
    if (!source)
        return 1;
    char id[64];
    snprintf(id, sizeof id, "{5eb1d000-%04x-11ef-8abc-%012lx}", state.count, (unsigned long)GetTickCount());
    unsigned count = state.count;
    size_t prefix = strlen(join("bcd/", source, "/"));
    for (unsigned i = 0; i < count; i++)
        if (!_strnicmp(state.line[i], join("bcd/", source, "/"), prefix)) {
            char element[64];
            snprintf(element, sizeof element, "/%.*s", (int)strcspn(state.line[i] + prefix, "="), state.line[i] + prefix);
            state_set(join("bcd/", id, element), strchr(state.line[i], '=') + 1);
        }
    state_set(join("bcd/", id, "/12000004"), name);
    displayorder_add_last(id);
    printf(state_get("guid-first") ? "%s \"grop\" & 100%% fnord!\r\n" : "Grop \"vnik\" & 100%% -a-b-c-d- %s, fnord (x)!\r\n", id);
    return 0;
}

static int bcd_set(const char *object, const char *name, const char *text)
{
    const char *id = object_id(object), *element = element_id(name), *value = element ? element_value(element, text) : NULL;
    if (!id || !value)
        return 1;
    state_set(join("bcd/", id, join("/", element, "")), value);
    return 0;
}

static int bcd_delete(const char *object)
{
    const char *found = object_id(object);
    if (!found)
        return 1;
    char id[64], rest[LINE_MAX_LEN];
    snprintf(id, sizeof id, "%s", found);
    state_remove_all(join("bcd/", id, "/"));
    displayorder_without(id, rest, sizeof rest);
    state_set("bcd/" BOOTMGR "/24000001", rest);
    return 0;
}

static int play_bcdedit(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (!_stricmp(verb, "/enum") && (argc == 3 || (argc == 4 && !_stricmp(argv[3], "/v"))))
        return bcd_enum(argv[2]);
    if (!_stricmp(verb, "/copy") && argc == 5 && !_stricmp(argv[3], "/d"))
        return bcd_copy(argv[2], argv[4]);
    if (!_stricmp(verb, "/set") && argc == 5)
        return bcd_set(argv[2], argv[3], argv[4]);
    if (!_stricmp(verb, "/delete") && argc == 4 && !_stricmp(argv[3], "/cleanup"))
        return bcd_delete(argv[2]);
    if (!_stricmp(verb, "/deletevalue") && argc == 4 && object_id(argv[2]) && element_id(argv[3])) {
        state_remove(join("bcd/", object_id(argv[2]), join("/", element_id(argv[3]), "")));
        return 0;
    }
    if (!_stricmp(verb, "/displayorder") && argc == 4 && !_stricmp(argv[3], "/addlast") && object_id(argv[2])) {
        displayorder_add_last(argv[2]);
        return 0;
    }
    if (!_stricmp(verb, "/default") && argc == 3 && object_id(argv[2])) {
        state_set("bcd/" BOOTMGR "/23000003", object_id(argv[2]));
        return 0;
    }
    if (!_stricmp(verb, "/timeout") && argc == 3)
        return bcd_set("{bootmgr}", "timeout", argv[2]);
    return 1;
}

// ---- reg ----------------------------------------------------------------------------------------------------------

static void print_value(const char *name, const char *type, const char *data)
{
    // XP separates by tabs, later ones by blanks.
    printf(build() < 6000 ? "\r\n! REG.EXE VERSION 3.0\r\n\r\nHKxx\\frob\r\n    %s\t%s\t%s\r\n\r\n" : "\r\nHKxx\\frob\r\n    %s    %s    %s\r\n\r\n", name,
           type, data);
}

// HKLM\BCD00000000\Objects\{GUID}\Elements\ELEMENT: the BCD, as the registry shows it.
static int reg_query_bcd(const char *key, const char *value)
{
    const char *element = strstr(key, "\\Elements");
    if (!element || build() < 6000)
        return 1;
    char id[64];
    snprintf(id, sizeof id, "%.*s", (int)(element - key - (ptrdiff_t)strlen(HKLM_BCD)), key + strlen(HKLM_BCD));
    if (!strcmp(element, "\\Elements"))
        return object_id(id) ? 0 : 1;
    const char *data = state_get(join("bcd/", id, join("/", element + strlen("\\Elements\\"), "")));
    if (!data || !value || strcmp(value, "Element"))
        return 1;
    print_value(value, "REG_BINARY", data);
    return 0;
}

static int reg_query(const char *key, const char *value)
{
    if (!_strnicmp(key, HKLM_BCD, strlen(HKLM_BCD)))
        return reg_query_bcd(key, value);
    const char *prefix = join("reg/", key, "/");
    for (unsigned i = 0; i < state.count; i++) {
        const char *line = state.line[i], *name = line + strlen(prefix), *is = strchr(line, '=');
        if (_strnicmp(line, prefix, strlen(prefix)) || (value && (_strnicmp(name, value, strlen(value)) || name[strlen(value)] != '=')))
            continue;
        char type[32];
        snprintf(type, sizeof type, "%.*s", (int)strcspn(is + 1, " "), is + 1);
        print_value(value ? value : "frob", type, is + 1 + strcspn(is + 1, " ") + 1);
        return 0;
    }
    return 1;
}

static int reg_delete(const char *key)
{
    return state_remove_all(join("reg/", key, "/")) == 0;
}

static int play_reg(int argc, char **argv)
{
    if (argc == 3 && !_stricmp(argv[1], "query"))
        return reg_query(argv[2], NULL);
    if (argc == 5 && !_stricmp(argv[1], "query") && !_stricmp(argv[3], "/v"))
        return reg_query(argv[2], argv[4]);
    if (argc == 4 && !_stricmp(argv[1], "delete") && !_stricmp(argv[3], "/f"))
        return reg_delete(argv[2]);
    if (argc == 10 && !_stricmp(argv[1], "add") && !_stricmp(argv[3], "/v") && !_stricmp(argv[5], "/t") && !_stricmp(argv[7], "/d") &&
        !_stricmp(argv[9], "/f")) {
        state_set(join("reg/", argv[2], join("/", argv[4], "")), join(argv[6], " ", argv[8]));
        return 0;
    }
    return 1;
}

// ---- sc, certutil, manage-bde ---------------------------------------------------------------------------------------

// Options are NAME= and the value as an argument of its own.
static int sc_create(int argc, char **argv)
{
    char text[LINE_MAX_LEN] = "";
    for (int i = 3; i < argc; i += 2) {
        size_t len = strlen(argv[i]);
        if (i + 1 == argc || len < 2 || argv[i][len - 1] != '=')
            return BAD_SYNTAX;
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s ", argv[i], argv[i + 1]);
    }
    state_set(join("svc/", argv[2], ""), text);
    return 0;
}

static int play_sc(int argc, char **argv)
{
    if (argc < 3)
        return BAD_SYNTAX;
    const char *key = join("svc/", argv[2], "");
    bool exists = state_find(key);
    if (!_stricmp(argv[1], "create"))
        return exists ? 1073 : sc_create(argc, argv);
    if (!exists)
        return NO_SERVICE;
    if (!_stricmp(argv[1], "delete"))
        state_remove(key);
    else if (!_stricmp(argv[1], "query"))
        printf("\r\nFROB: %s\r\n        ZWQ                : 1  KERNEL_DRIVER\r\n        BLIP               : 1  STOPPED\r\n", argv[2]);
    else
        return !_stricmp(argv[1], "stop") ? NOT_STARTED : BAD_SYNTAX;
    return 0;
}

// The whole of a small file; its length, or 0 when it cannot be read.
static size_t slurp(const char *path, unsigned char *ret, size_t size)
{
    FILE *f = fopen(path, "rb");
    size_t len = f ? fread(ret, 1, size, f) : 0;
    if (f)
        fclose(f);
    return len;
}

static bool sha1_of(const char *path, char *ret)
{
    static unsigned char data[1 << 16];
    size_t len = slurp(path, data, sizeof data);
    HCRYPTPROV provider;
    HCRYPTHASH hash;
    unsigned char digest[20];
    DWORD digest_len = sizeof digest;
    if (!len || !CryptAcquireContextA(&provider, NULL, NULL, PROV_RSA_FULL, CRYPT_VERIFYCONTEXT) ||
        !CryptCreateHash(provider, CALG_SHA1, 0, 0, &hash) || !CryptHashData(hash, data, (DWORD)len, 0) ||
        !CryptGetHashParam(hash, HP_HASHVAL, digest, &digest_len, 0))
        return false;
    for (unsigned i = 0; i < digest_len; i++)
        sprintf(ret + 2 * i, "%02x", digest[i]);
    return true;
}

static int play_certutil(int argc, char **argv)
{
    if (argc != 4 || strlen(argv[3]) < 4)
        return 1;
    char digest[41];
    if (!_stricmp(argv[1], "-addstore")) {
        if (!sha1_of(argv[3], digest))
            return 1;
        state_set(join("cert/", argv[2], join("/", digest, "")), "1");
        return 0;
    }
    const char *key = join("cert/", argv[2], join("/", argv[3], ""));
    if (!state_find(key))
        return (int)0x80090011;
    if (!_stricmp(argv[1], "-delstore"))
        state_remove(key);
    else if (_stricmp(argv[1], "-store"))
        return 1;
    return 0;
}

static int play_manage_bde(int argc, char **argv)
{
    if (argc != 4 || _stricmp(argv[1], "-status") || _stricmp(argv[3], "-p"))
        return (int)0x80070057;
    printf("Frob: protektid zwq on\r\n");
    return state_get("bitlocker") ? 0 : 1;
}

// ---- takeown, icacls ------------------------------------------------------------------------------------------------

// Which file it is, whatever its name: by its content.
static bool file_key(const char *what, const char *path, char *ret)
{
    static unsigned char data[1 << 20];
    size_t len = slurp(path, data, sizeof data);
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    snprintf(ret, 64, "%s/%08x", what, (unsigned)sum);
    return len != 0;
}

static void set_or_default(const char *key, const char *value, const char *ordinary)
{
    if (strcmp(value, ordinary))
        state_set(key, value);
    else
        state_remove(key);
}

static int play_takeown(int argc, char **argv)
{
    char key[64];
    if (argc != 4 || _stricmp(argv[1], "/f") || _stricmp(argv[3], "/a") || !file_key("owner", argv[2], key))
        return 1;
    set_or_default(key, "S-1-5-32-544", "TrustedInstaller");
    return 0;
}

static int icacls_restore(const char *folder, const char *path)
{
    unsigned char text[256] = { 0 };
    char name[64], acl[64], key[64];
    if (!slurp(path, text, sizeof text - 1) || sscanf((char *)text, "%63s %63s", name, acl) != 2)
        return NOT_FOUND;
    if (!file_key("acl", join(folder, "\\", name), key))
        return NOT_FOUND;
    set_or_default(key, acl, "stock");
    return 0;
}

static int play_icacls(int argc, char **argv)
{
    char owner[64], acl[64];
    if (argc != 4)
        return 87;
    if (!_stricmp(argv[2], "/restore"))
        return icacls_restore(argv[1], argv[3]);
    if (!file_key("owner", argv[1], owner) || !file_key("acl", argv[1], acl))
        return NOT_FOUND;
    if (!_stricmp(argv[2], "/save")) {
        FILE *f = fopen(argv[3], "wb");
        if (!f)
            return DENIED;
        const char *slash = strrchr(argv[1], '\\');
        fprintf(f, "%s %s\n", slash ? slash + 1 : argv[1], state_get(acl) ? state_get(acl) : "stock");
        return fclose(f) ? DENIED : 0;
    }
    if (!_stricmp(argv[2], "/grant")) { // to whom it does not belong it is denied
        if (!state_get(owner))
            return DENIED;
        state_set(acl, join("stock+", argv[3], ""));
        return 0;
    }
    if (_stricmp(argv[2], "/setowner"))
        return 87;
    bool is_installer = !_stricmp(argv[3], "*S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464");
    set_or_default(owner, is_installer ? "TrustedInstaller" : argv[3], "TrustedInstaller");
    return 0;
}

// ---- attrib, find, fc -------------------------------------------------------------------------------------------------

static int play_attrib(int argc, char **argv)
{
    const char *path = argv[argc - 1], *key = join("attr/", path, "");
    char set[8] = "A";
    if (GetFileAttributesA(path) == INVALID_FILE_ATTRIBUTES)
        return 1;
    if (state_get(key))
        snprintf(set, sizeof set, "%s", state_get(key));
    if (argc == 2) {
        printf("%c  %c%c%c     %s\r\n", strchr(set, 'A') ? 'A' : ' ', strchr(set, 'S') ? 'S' : ' ', strchr(set, 'H') ? 'H' : ' ',
               strchr(set, 'R') ? 'R' : ' ', path);
        return 0;
    }
    char now[8] = "";
    for (const char *letter = "ASHR"; *letter; letter++) {
        bool is_set = strchr(set, *letter);
        for (int i = 1; i < argc - 1; i++)
            if (toupper(argv[i][1]) == *letter)
                is_set = argv[i][0] == '+';
        if (is_set)
            strncat(now, letter, 1);
    }
    set_or_default(key, now, "A");
    return 0;
}

static bool contains(const char *line, const char *text, bool any_case)
{
    for (; *line; line++)
        if (any_case ? !_strnicmp(line, text, strlen(text)) : !strncmp(line, text, strlen(text)))
            return true;
    return !*text;
}

static int play_find(int argc, char **argv)
{
    bool inverted = false, numbered = false, any_case = false, found = false;
    const char *text = NULL;
    for (int i = 1; i < argc; i++) {
        inverted |= !_stricmp(argv[i], "/v");
        numbered |= !_stricmp(argv[i], "/n");
        any_case |= !_stricmp(argv[i], "/i");
        if (_stricmp(argv[i], "/v") && _stricmp(argv[i], "/n") && _stricmp(argv[i], "/i")) {
            if (text)
                return 2; // files as arguments are not played
            text = argv[i];
        }
    }
    if (!text)
        return 2;
    char line[LINE_MAX_LEN * 4];
    for (unsigned number = 1; fgets(line, sizeof line, stdin); number++) {
        line[strcspn(line, "\r\n")] = 0;
        // An empty string is found in no line: so "find /v """ gives all of them.
        if ((*text && contains(line, text, any_case)) == inverted)
            continue;
        found = true;
        if (numbered)
            printf("[%u]", number);
        printf("%s\r\n", line);
    }
    return !found;
}

static int play_fc(int argc, char **argv)
{
    static unsigned char a[1 << 20], b[1 << 20];
    if (argc != 4 || _stricmp(argv[1], "/b"))
        return -1;
    size_t a_len = slurp(argv[2], a, sizeof a), b_len = slurp(argv[3], b, sizeof b);
    if (!a_len || !b_len)
        return 2;
    return a_len != b_len || memcmp(a, b, a_len);
}

// ---- Which one ----------------------------------------------------------------------------------------------------

static const struct {
    const char *name;
    int (*play)(int argc, char **argv);
} tools[] = {
    { "bcdedit", play_bcdedit }, { "reg", play_reg }, { "sc", play_sc }, { "certutil", play_certutil }, { "manage-bde", play_manage_bde },
    { "takeown", play_takeown }, { "icacls", play_icacls }, { "attrib", play_attrib }, { "find", play_find }, { "fc", play_fc },
};

// Appends this call to calls.txt; its number.
static unsigned record(const char *name, int argc, char **argv)
{
    char path[MAX_PATH];
    snprintf(path, sizeof path, "%s\\calls.txt", getenv("VMKD_STUB"));
    FILE *f = fopen(path, "a+b");
    if (!f)
        broken("calls.txt cannot be written");
    unsigned number = 1;
    for (int c = fgetc(f); c != EOF; c = fgetc(f))
        number += c == '\n';
    fseek(f, 0, SEEK_END);
    fprintf(f, "%s", name);
    for (int i = 1; i < argc; i++)
        fprintf(f, " %s", *argv[i] ? argv[i] : "\"\"");
    fprintf(f, "\n");
    fclose(f);
    return number;
}

int main(int argc, char **argv)
{
    char path[MAX_PATH];
    if (!GetModuleFileNameA(NULL, path, sizeof path))
        broken("no name");
    char *name = strrchr(path, '\\') ? strrchr(path, '\\') + 1 : path;
    name[strcspn(name, ".")] = 0;
    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY); // binary: the line ends above are the ones that come out
    state_load();
    unsigned number = record(name, argc, argv);
    const char *fail = getenv("VMKD_STUB_FAIL");
    if (fail && strtoul(fail, NULL, 10) == number) {
        fprintf(stderr, "frob zwq!\n");
        return _stricmp(name, "fc") && _stricmp(name, "find") ? 1 : 2; // of those 1 means: different, not found
    }
    for (size_t i = 0; i < sizeof tools / sizeof *tools; i++)
        if (!_stricmp(name, tools[i].name)) {
            int status = tools[i].play(argc, argv);
            state_save();
            return status;
        }
    broken(name);
}
