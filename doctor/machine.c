// SPDX-License-Identifier: MIT
#include "doctor/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/error.h"
#include "util/installed.h"
#include "util/rundir.h"

#define VERSION_MS 5000 // QEMU takes some 50 ms
#define CONNECT_MS 2000
#define MICROSOFT "https://msdl.microsoft.com/download/symbols"
#define CAP_SYS_PTRACE_BIT 19 // linux/capability.h

// ---- KVM, QEMU ----------------------------------------------------------------------------------------------

static void look_at_kvm(struct doctor_host *h)
{
	int fd CLEANUP_CLOSE = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	h->kvm_error = fd < 0 ? errno : 0;
	h->kvm_api = fd < 0 ? 0 : ioctl(fd, KVM_GET_API_VERSION, 0);
}

struct doctor_version machine_parse_version(const char *text)
{
	struct doctor_version v = { 0 };
	const char *word = strstr(text, "version ");

	if (!word || sscanf(word, "version %u.%u", &v.major, &v.minor) != 2)
		return (struct doctor_version){ 0 };
	return v;
}

static void be_version_child(int program, int out)
{
	char *const words[] = { (char[]){ "qemu" }, (char[]){ "--version" }, NULL };
	int null = open("/dev/null", O_RDWR);

	dup2(null, 0);
	dup2(out, 1);
	dup2(null, 2);
	unsetenv("LD_PRELOAD");
	fcntl(program, F_SETFD, 0); // a script is opened again by its shell
	fexecve(program, words, environ);
	_exit(127);
}

// What it prints first, up to its end or for so long.
static void read_some(int fd, char *ret, size_t size)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	size_t len = 0;

	while (len + 1 < size && poll(&ready, 1, VERSION_MS) > 0) {
		ssize_t got = read(fd, ret + len, size - 1 - len);

		if (got <= 0)
			break;
		len += (size_t)got;
	}
	ret[len] = 0;
}

static bool is_trusted(int program)
{
	struct stat st;

	return fstat(program, &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == 0 || st.st_uid == geteuid()) && !(st.st_mode & (S_IWGRP | S_IWOTH));
}

struct doctor_version machine_ask_version_of(int program)
{
	char text[512] = "";
	int ends[2];
	pid_t child;

	if (!is_trusted(program) || pipe2(ends, O_CLOEXEC))
		return (struct doctor_version){ 0 };
	child = fork();
	if (child == 0)
		be_version_child(program, ends[1]);
	close(ends[1]);
	if (child > 0) {
		read_some(ends[0], text, sizeof(text));
		kill(child, SIGKILL); // it has said what it has to say, or never will
		waitpid(child, NULL, 0);
	}
	close(ends[0]);
	return machine_parse_version(text);
}

struct doctor_version machine_ask_version(const char *program)
{
	int fd CLEANUP_CLOSE = open(program, O_PATH | O_CLOEXEC);

	return fd < 0 ? (struct doctor_version){ 0 } : machine_ask_version_of(fd);
}

static bool find_in_path(const char *name, char ret[FACTS_PATH_MAX])
{
	const char *path = getenv("PATH"), *end;

	for (; path && *path; path = *end ? end + 1 : end) {
		end = strchrnul(path, ':');
		if (snprintf(ret, FACTS_PATH_MAX, "%.*s/%s", (int)(end - path), path, name) < (int)FACTS_PATH_MAX && access(ret, X_OK) == 0)
			return true;
	}
	ret[0] = 0;
	return false;
}

static void look_at_qemu(struct doctor_host *h)
{
	static const char *const names[] = { "qemu-system-x86_64", "qemu-kvm", "kvm" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!find_in_path(names[i], h->qemu))
			continue;
		h->qemu_version = machine_ask_version(h->qemu);
		return;
	}
}

// ---- Our own files, rights ------------------------------------------------------------------------------------

static bool find_file(const char *file, char *ret, size_t size)
{
	char *path = NULL;
	struct error *error = installed_find(file, &path);
	bool is_there = !error;

	error_free(error);
	if (is_there && ret)
		snprintf(ret, size, "%s", path);
	free(path);
	return is_there;
}

static void look_at_files(struct doctor_host *h)
{
	char folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_base(folder);

	if (error)
		snprintf(h->folder_error, sizeof(h->folder_error), "%.*s", (int)sizeof(h->folder_error) - 1, error->text);
	else
		snprintf(h->folder, sizeof(h->folder), "%s", folder);
	error_free(error);
	find_file("libvmkd-vmm.so", h->library, sizeof(h->library));
	h->has_modules = find_file("guest/x64/kdvmkd.dll", NULL, 0) && find_file("guest/x86/kdvmkd.dll", NULL, 0);
}

static void look_at_rights(struct doctor_host *h)
{
	FILE *file = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
	unsigned long long caps = 0;
	char line[128];

	if (!file || fscanf(file, "%d", &h->ptrace_scope) != 1)
		h->ptrace_scope = -1;
	if (file)
		fclose(file);
	file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			h->is_tracer = caps >> CAP_SYS_PTRACE_BIT & 1;
	if (file)
		fclose(file);
}

// ---- Symbols ---------------------------------------------------------------------------------------------------

static bool is_url(const char *text)
{
	return strncmp(text, "https://", 8) == 0 || strncmp(text, "http://", 7) == 0;
}

// "srv", "symsrv", "cache" and the name of a DLL say how, not where.
static bool is_keyword(const char *word)
{
	size_t len = strlen(word);

	return strcasecmp(word, "srv") == 0 || strcasecmp(word, "symsrv") == 0 || strcasecmp(word, "cache") == 0 || (len > 4 && strcasecmp(word + len - 4, ".dll") == 0);
}

bool machine_parse_symbol_path(const char *path, char *ret, size_t size)
{
	char *copy = strdup(path), *rest = NULL;
	const char *found = NULL;

	for (char *word = copy ? strtok_r(copy, ";*", &rest) : NULL; word; word = strtok_r(NULL, ";*", &rest))
		if (!is_keyword(word) && (!found || is_url(word) || !is_url(found)))
			found = word;
	if (found && strlen(found) < size)
		strcpy(ret, found);
	else
		found = NULL;
	free(copy);
	return found;
}

bool machine_parse_url(const char *url, char *ret_host, size_t host_size, char *ret_port, size_t port_size)
{
	const char *host = is_url(url) ? strstr(url, "://") + 3 : NULL, *port = NULL;
	size_t host_len = host ? strcspn(host, ":/") : 0, port_len;

	if (!host_len || host_len >= host_size)
		return false;
	port = host[host_len] == ':' ? host + host_len + 1 : url[4] == 's' ? "443" : "80";
	port_len = strspn(port, "0123456789");
	if (!port_len || port_len >= port_size)
		return false;
	memcpy(ret_host, host, host_len);
	memcpy(ret_port, port, port_len);
	ret_host[host_len] = ret_port[port_len] = 0;
	return true;
}

// -> 0, or errno.
static int try_address(const struct addrinfo *a)
{
	int fd CLEANUP_CLOSE = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd ready = { .fd = fd, .events = POLLOUT };
	int failure = 0;
	socklen_t len = sizeof(failure);

	if (fd < 0)
		return errno;
	if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (poll(&ready, 1, CONNECT_MS) <= 0)
		return ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) ? errno : failure;
}

static void try_server(struct doctor_host *h, const char *host, const char *port)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL;
	int failure;

	setenv("RES_OPTIONS", "timeout:1 attempts:1", 0); // a name server that does not answer is waited for 10 s otherwise
	failure = getaddrinfo(host, port, &hints, &list);
	if (failure) {
		snprintf(h->symbols_error, sizeof(h->symbols_error), "%s", gai_strerror(failure));
		h->is_symbols_reached = FACT_NO;
		return;
	}
	failure = try_address(list);
	if (failure)
		snprintf(h->symbols_error, sizeof(h->symbols_error), "%s", strerror(failure));
	h->is_symbols_reached = failure ? FACT_NO : FACT_YES;
	freeaddrinfo(list);
}

// The variable, and not what it says: a password may be in that.
static const char *find_proxy(void)
{
	static const char *const names[] = { "https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (getenv(names[i]) && *getenv(names[i]))
			return names[i];
	return NULL;
}

static void look_for_symbols(struct doctor_host *h)
{
	const char *path = getenv("_NT_SYMBOL_PATH");
	char host[128], port[8];

	h->is_symbols_chosen = path && *path;
	if (!machine_parse_symbol_path(h->is_symbols_chosen ? path : MICROSOFT, h->symbols, sizeof(h->symbols))) {
		snprintf(h->symbols, sizeof(h->symbols), "_NT_SYMBOL_PATH");
		snprintf(h->symbols_error, sizeof(h->symbols_error), "it names no folder and no server");
		h->is_symbols_reached = FACT_NO;
	} else if (is_url(h->symbols) && find_proxy()) {
		snprintf(h->symbols_error, sizeof(h->symbols_error), "not tried, since there is a proxy ($%s)", find_proxy());
	} else if (machine_parse_url(h->symbols, host, sizeof(host), port, sizeof(port))) {
		try_server(h, host, port);
	} else {
		h->is_symbols_reached = access(h->symbols, R_OK | X_OK) ? FACT_NO : FACT_YES;
		snprintf(h->symbols_error, sizeof(h->symbols_error), "%s", strerror(errno));
	}
}

void machine_look(struct doctor_host *ret)
{
	struct utsname name;

	*ret = (struct doctor_host){ .kvm_error = ENOENT };
	if (uname(&name) == 0)
		snprintf(ret->machine, sizeof(ret->machine), "%.*s", (int)sizeof(ret->machine) - 1, name.machine);
	look_at_kvm(ret);
	look_at_qemu(ret);
	look_at_files(ret);
	look_at_rights(ret);
	look_for_symbols(ret);
}
