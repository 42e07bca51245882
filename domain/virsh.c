// SPDX-License-Identifier: MIT
#include "domain/virsh.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/cleanup.h"

#define OUTPUT_MAX (16u << 20) // libvirt's own messages end there
#define READ_BYTES 65536u
#define COMPLAINT_MAX 600u
#define NOT_FOUND 127 // as a shell says it
#define FIXED_WORDS 4u // virsh, -q, --connect, URI

// In the child. Its words are read here, so they are English ones.
__attribute__((noreturn)) static void become_virsh(const char *uri, const char *const words[], int out, int complaints)
{
	const char *argv[FIXED_WORDS + VIRSH_WORDS_MAX + 1] = { "virsh", "-q" };
	size_t count = 2;
	int nothing = open("/dev/null", O_RDONLY);

	if (uri) {
		argv[count++] = "--connect";
		argv[count++] = uri;
	}
	for (size_t i = 0; words[i] && i < VIRSH_WORDS_MAX; i++)
		argv[count++] = words[i];
	setenv("LC_ALL", "C", 1);
	if (nothing >= 0 && dup2(nothing, 0) >= 0 && dup2(out, 1) >= 0 && dup2(complaints, 2) >= 0)
		execvp(argv[0], (char *const *)argv); // which leaves the words as they are
	_exit(NOT_FOUND);
}

// Until the end. -> NULL and *ret, NUL-terminated.
static struct error *read_all(int fd, char **ret)
{
	char *text = NULL;
	size_t len = 0;

	for (;;) {
		char *more = len > OUTPUT_MAX ? NULL : realloc(text, len + READ_BYTES + 1);
		ssize_t n;

		if (!more) {
			free(text);
			return error_create(EFBIG, "virsh says more than %u bytes", OUTPUT_MAX);
		}
		text = more;
		n = read(fd, text + len, READ_BYTES);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = 0;
	*ret = text;
	return NULL;
}

// "error: failed to get domain 'x'" and what follows, as one line.
static struct error *complain(int fd, int status)
{
	char text[COMPLAINT_MAX] = "";
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	const char *at = text;

	text[len > 0 ? len : 0] = 0;
	if (strncmp(at, "error: ", strlen("error: ")) == 0)
		at += strlen("error: ");
	return error_create(EIO, "virsh: %s", *at && *at != '\n' ? at : WIFSIGNALED(status) ? "it was killed" : "it failed and says nothing");
}

struct error *virsh_ask(const char *uri, const char *const words[], char **ret)
{
	int complaints CLEANUP_CLOSE = memfd_create("complaints", MFD_CLOEXEC), from CLEANUP_CLOSE = -1, pipe_fds[2], status = 0;
	struct error *error = NULL;
	char *text = NULL;
	pid_t pid;

	if (complaints < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_create(errno, "cannot make a pipe: %s", strerror(errno));
	from = pipe_fds[0];
	pid = fork();
	if (pid == 0)
		become_virsh(uri, words, pipe_fds[1], complaints);
	close(pipe_fds[1]);
	if (pid < 0)
		return error_create(errno, "cannot fork: %s", strerror(errno));
	error = read_all(from, &text);
	close(cleanup_take_fd(&from)); // if it says too much, it has nobody to say it to
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!error && WIFEXITED(status) && WEXITSTATUS(status) == NOT_FOUND)
		error = error_create(ENOENT, "virsh: not found in PATH; install it (Debian: apt install libvirt-clients)");
	else if (!error && status != 0)
		error = complain(complaints, status);
	if (!error && ret)
		*ret = text;
	else
		free(text);
	return error;
}

struct error *virsh_define(const char *uri, const char *xml)
{
	int fd CLEANUP_CLOSE = memfd_create("domain", 0); // inherited
	size_t len = strlen(xml), done = 0;
	char path[40];
	const char *const words[] = { "define", path, NULL };

	while (fd >= 0 && done < len) {
		ssize_t n = write(fd, xml + done, len - done);

		if (n <= 0)
			return error_create(errno, "cannot keep the domain's XML in memory: %s", strerror(errno));
		done += (size_t)n;
	}
	if (fd < 0)
		return error_create(errno, "cannot make a file in memory: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return virsh_ask(uri, words, NULL);
}

bool virsh_line_is(const char *output, const char *key, const char *value)
{
	size_t key_len = strlen(key), value_len = strlen(value);

	for (const char *at = output; *at; at += strcspn(at, "\n"), at += *at == '\n') {
		const char *found = at + key_len + 1;

		if (strncmp(at, key, key_len) != 0 || at[key_len] != ':')
			continue;
		found += strspn(found, " ");
		if (strncmp(found, value, value_len) == 0 && (found[value_len] == '\n' || !found[value_len]))
			return true;
	}
	return false;
}
