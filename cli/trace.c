// SPDX-License-Identifier: MIT
// vmkd trace: records what passes through a broker, and shows what was recorded.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "serve/vmdir.h"
#include "trace/decode.h"
#include "util/ask.h"
#include "util/buf.h"
#include "util/cleanup.h"

#define PART_MAX 65536u
#define SHOWN_MAX 65536u // a shown packet: 4000 bytes of it, escaped at worst
#define END_MS 3000      // a broker that does not end the file within this time is stopped, or hung

// ---- A pcapng stream, piece by piece -----------------------------------------------------------------------

struct trace {
	const char *name;
	struct buf in; // the start of a block that is not whole yet
	struct pcapng_reader reader;
	uint64_t packets, dropped; // told with packets
	void (*packet)(struct trace *trace, const struct pcapng_packet *packet); // NULL = only count
	struct trace_decoder decoder;
	uint64_t start_ns;
	bool as_json;
	uint32_t shown;
};

static struct trace *trace_create(const char *name)
{
	struct trace *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->name = name;
	buf_init(&t->in, PCAPNG_BLOCK_MAX + PART_MAX);
	pcapng_reader_init(&t->reader);
	trace_decoder_init(&t->decoder);
	return t;
}

static void trace_destroy(struct trace *t)
{
	if (t)
		buf_deinit(&t->in);
	free(t);
}

static void take_packet(struct trace *t, const struct pcapng_packet *packet)
{
	t->packets++;
	t->dropped += packet->drop_count;
	if (t->packet)
		t->packet(t, packet);
}

static struct error *bad_file(const struct trace *t)
{
	return error_create(EPROTO, "%s: expected a pcapng file; at byte %" PRIu64 ": %s", t->name, t->reader.offset, t->reader.problem);
}

static struct error *take_bytes(struct trace *t, const uint8_t *bytes, size_t len)
{
	struct pcapng_packet packet;
	size_t used;

	if (!buf_put(&t->in, bytes, len))
		return error_create(ENOMEM, "out of memory");
	for (;;) {
		switch (pcapng_read(&t->reader, buf_data(&t->in), t->in.len, &used, &packet)) {
		case PCAPNG_PACKET: take_packet(t, &packet); break;
		case PCAPNG_OTHER: break;
		case PCAPNG_MORE: return NULL;
		case PCAPNG_BAD: return bad_file(t);
		}
		buf_consume(&t->in, used);
	}
}

// ---- Recording ---------------------------------------------------------------------------------------------

static struct error *write_all(int fd, const char *name, const uint8_t *bytes, size_t len)
{
	while (len) {
		ssize_t done = write(fd, bytes, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return error_create(errno, "cannot write %s: %s; what it has so far can be read", name, strerror(errno));
		bytes += done;
		len -= (size_t)done;
	}
	return NULL;
}

// What there is, once. *ret_is_end: the broker has ended the file.
static struct error *copy_part(int from, int to, struct trace *t, bool *ret_is_end)
{
	static uint8_t part[PART_MAX];
	ssize_t len = recv(from, part, sizeof(part), MSG_DONTWAIT);
	struct error *error;

	if (len < 0 && (errno == EAGAIN || errno == EINTR))
		return NULL;
	*ret_is_end = len <= 0;
	if (len <= 0)
		return NULL;
	error = write_all(to, t->name, part, (size_t)len);
	return error ? error : take_bytes(t, part, (size_t)len);
}

// Until the broker ends, or a signal comes: then the broker is told, and gives what is left and its sums.
static struct error *copy_stream(int from, int to, int signals, struct trace *t)
{
	struct pollfd fds[2] = { { .fd = from, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	bool is_end = false, is_ending = false;
	struct error *error = NULL;

	while (!is_end && !error) {
		int ready = poll(fds, 2, is_ending ? END_MS : -1);
		if (ready == 0)
			return error_create(ETIMEDOUT, "the broker does not end the trace (is it stopped?); %s lacks what it still had", t->name);
		if (fds[1].revents && !is_ending) {
			is_ending = true;
			fds[1].fd = -1;
			shutdown(from, SHUT_WR);
		}
		if (ready > 0 && fds[0].revents)
			error = copy_part(from, to, t, &is_end);
	}
	return error;
}

static uint64_t sum_dropped(const struct trace *t)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < t->reader.interface_count; i++)
		sum += t->reader.interfaces[i].has_statistics ? t->reader.interfaces[i].dropped : 0;
	return sum > t->dropped ? sum : t->dropped;
}

static void say_counts(const struct trace *t)
{
	uint64_t dropped = sum_dropped(t);

	fprintf(stderr, "vmkd trace: %" PRIu64 " packets of %" PRIu32 " endpoints in %s", t->packets, t->reader.interface_count, t->name);
	if (dropped)
		fprintf(stderr, "; %" PRIu64 " more came too fast and are not in it", dropped);
	fputc('\n', stderr);
}

static struct error *open_output(const char *path, bool is_forced, int *ret)
{
	if (strcmp(path, "-") == 0) {
		if (isatty(STDOUT_FILENO))
			return error_create(EINVAL, "a trace is no text for a terminal: name a file, or pipe it");
		*ret = dup(STDOUT_FILENO);
	} else {
		*ret = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (is_forced ? O_TRUNC : O_EXCL), 0600);
	}
	if (*ret >= 0)
		return NULL;
	if (errno == EEXIST)
		return error_create(EEXIST, "%s is there already; --force writes over it", path);
	return error_create(errno, "cannot open %s: %s", path, strerror(errno));
}

static struct error *find_vm(const char *name)
{
	char folder[RUNDIR_PATH_MAX];
	struct error *error = rundir_path(name, NULL, folder);
	int pid;

	if (error || vmdir_broker_pid(name))
		return error;
	if (vmdir_vm_is_alive(name, &pid))
		return error_create(ENOENT, "nobody serves the VM %s (pid %d): start a broker with `vmkd serve %s`", name, pid, name);
	return error_create(ENOENT, "there is no VM named %s; `vmkd list` shows those there are", name);
}

static struct error *ask_for_trace(const char *name, int *ret_fd)
{
	cJSON *answer = NULL;
	struct error *error = find_vm(name);

	if (!error)
		error = ask_broker(name, ask_command("trace"), &answer, ret_fd);
	cJSON_Delete(answer);
	return error;
}

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); // a pipe nobody reads is an error of write
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static struct error *record(const char *vm, const char *path, bool is_forced)
{
	bool is_stdout = strcmp(path, "-") == 0;
	struct trace *t = trace_create(is_stdout ? "the pipe" : path);
	int from CLEANUP_CLOSE = -1, to CLEANUP_CLOSE = -1, signals CLEANUP_CLOSE = watch_signals();
	struct error *error = t ? ask_for_trace(vm, &from) : error_create(ENOMEM, "out of memory");

	if (!error)
		error = open_output(path, is_forced, &to);
	if (!error && !is_stdout)
		fprintf(stderr, "vmkd trace: recording %s to %s; Ctrl-C ends it\n", vm, path);
	if (!error)
		error = copy_stream(from, to, signals, t);
	if (!error && !t->reader.has_section)
		error = error_create(EPROTO, "the broker of %s sent no trace (do eight others read one already?)", vm);
	if (t && t->reader.has_section) {
		// Without the part of a packet at its end. What else stands in a file that is our standard output is not ours to cut.
		if (!is_stdout && ftruncate(to, (off_t)t->reader.offset) < 0) {
			// A pipe: whoever reads that sees how far it goes.
		}
		say_counts(t);
	}
	trace_destroy(t);
	return error;
}

// ---- Showing -----------------------------------------------------------------------------------------------

struct line {
	size_t len;
	char text[SHOWN_MAX];
};

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
	va_list ap;
	int len;

	va_start(ap, format);
	len = vsnprintf(line->text + line->len, sizeof(line->text) - line->len, format, ap);
	va_end(ap);
	if (len > 0)
		line->len += (size_t)len < sizeof(line->text) - line->len ? (size_t)len : sizeof(line->text) - line->len - 1;
}

static void add_field(void *arg, const struct trace_field *field)
{
	static const char *const in_title[] = { "kd.type", "kd.api", "kd.state", "kd.len", "kd.checksum", "kd.breakin" };
	char text[KDCOM_FRAME_MAX * 4];

	for (size_t i = 0; i < sizeof(in_title) / sizeof(in_title[0]); i++)
		if (strcmp(field->name, in_title[i]) == 0)
			return;
	trace_field_text(field, text, sizeof(text));
	add(arg, " %s=%s", field->name + strlen("kd."), text);
}

static const char *arrow(enum trace_direction direction)
{
	return direction == TRACE_FROM_TARGET ? ">" : direction == TRACE_TO_TARGET ? "<" : "?";
}

static void show_line(struct trace *t, const struct pcapng_packet *p)
{
	static struct line line;
	const struct pcapng_interface *endpoint = &t->reader.interfaces[p->interface];
	enum trace_direction direction = trace_direction_of(p->flags);
	uint64_t us = (p->time_ns - t->start_ns) / 1000u;
	char comment[256];

	line.len = 0;
	add(&line, "%5" PRIu64 ".%06" PRIu64 " %-9s %s %s", us / 1000000u, us % 1000000u, endpoint->name, arrow(direction),
	    trace_title(p->data, p->len));
	trace_decode(&t->decoder, p->data, p->len, direction, add_field, &line);
	if (p->comment_len) {
		trace_escape((const uint8_t *)p->comment, p->comment_len, comment, sizeof(comment));
		add(&line, " (%s)", comment);
	}
	if (p->drop_count)
		printf("      %" PRIu64 " packets of %s are missing here\n", p->drop_count, endpoint->name);
	puts(line.text);
}

static void add_json_text(struct line *line, const char *text)
{
	// What the decoders leave is printable ASCII: quotes and backslashes are all there is to care for.
	add(line, "\"");
	for (const char *c = text; *c; c++)
		add(line, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
	add(line, "\"");
}

static void add_json_field(void *arg, const struct trace_field *f)
{
	struct line *line = arg;
	char text[KDCOM_FRAME_MAX * 4];

	add(line, "%s[\"%s\",", line->text[line->len - 1] == '[' ? "" : ",", f->name);
	if (f->kind == TRACE_FIELD_NUMBER || f->kind == TRACE_FIELD_HEX) {
		add(line, "%" PRIu64 "]", f->value);
		return;
	}
	if (f->kind == TRACE_FIELD_BYTES) {
		add(line, "\"");
		for (size_t i = 0; i < f->len && i < KDCOM_FRAME_MAX; i++)
			add(line, "%02x", f->bytes[i]);
		add(line, "\"]");
		return;
	}
	if (f->kind == TRACE_FIELD_WORD)
		snprintf(text, sizeof(text), "%s", f->word);
	else if (f->kind == TRACE_FIELD_TEXT)
		trace_escape(f->bytes, f->len, text, sizeof(text));
	else
		trace_escape_utf16(f->bytes, f->len, text, sizeof(text));
	add_json_text(line, text);
	add(line, "]");
}

static void show_json(struct trace *t, const struct pcapng_packet *p)
{
	static const char *const names[] = { "unknown", "from target", "to target" };
	static struct line line;
	enum trace_direction direction = trace_direction_of(p->flags);
	char comment[PCAPNG_COMMENT_MAX];

	trace_escape((const uint8_t *)p->comment, p->comment_len, comment, sizeof(comment));
	line.len = 0;
	add(&line, "{\"number\":%" PRIu64 ",\"time_ns\":%" PRIu64 ",\"endpoint\":", t->packets, p->time_ns);
	add_json_text(&line, t->reader.interfaces[p->interface].name);
	add(&line, ",\"direction\":\"%s\",\"dropped\":%" PRIu64 ",\"comment\":", names[direction], p->drop_count);
	add_json_text(&line, comment);
	add(&line, ",\"title\":\"%s\",\"fields\":[", trace_title(p->data, p->len));
	trace_decode(&t->decoder, p->data, p->len, direction, add_json_field, &line);
	add(&line, "]}");
	puts(line.text);
}

static void show_packet(struct trace *t, const struct pcapng_packet *p)
{
	const struct pcapng_interface *endpoint = &t->reader.interfaces[p->interface];

	if (endpoint->linktype != PCAPNG_LINKTYPE_USER0) {
		t->packets--; // not one of ours
		return;
	}
	if (!t->start_ns)
		t->start_ns = p->time_ns;
	if (t->as_json)
		show_json(t, p);
	else
		show_line(t, p);
}

static void show_endpoints(const struct trace *t)
{
	for (uint32_t i = 0; i < t->reader.interface_count; i++) {
		const struct pcapng_interface *e = &t->reader.interfaces[i];
		printf("      %s is %s", e->name, e->description[0] ? e->description : "nothing more known");
		if (e->has_statistics)
			printf(": %" PRIu64 " packets, %" PRIu64 " of them not recorded", e->received, e->dropped);
		putchar('\n');
	}
}

static struct error *show_stream(int fd, struct trace *t)
{
	static uint8_t part[PART_MAX];
	struct error *error = NULL;
	ssize_t len;

	while (!error && (len = read(fd, part, sizeof(part))) != 0) {
		if (len < 0)
			return error_create(errno, "cannot read %s: %s", t->name, strerror(errno));
		error = take_bytes(t, part, (size_t)len);
	}
	if (error)
		return error;
	if (!t->reader.has_section)
		return error_create(EPROTO, "%s is empty", t->name);
	if (!t->packets && t->reader.interface_count && t->reader.interfaces[0].linktype != PCAPNG_LINKTYPE_USER0)
		return error_create(EPROTO, "%s has packets of another kind (link type %u): expected a trace of vmkd (147)", t->name,
				    t->reader.interfaces[0].linktype);
	if (!t->as_json)
		show_endpoints(t);
	if (t->in.len)
		fprintf(stderr, "vmkd trace: %s ends in the middle of a packet\n", t->name);
	return NULL;
}

static struct error *show(const char *path, bool as_json)
{
	int fd CLEANUP_CLOSE = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
	struct trace *t = trace_create(path);
	struct error *error = NULL;

	if (!t)
		error = error_create(ENOMEM, "out of memory");
	else if (fd < 0)
		error = error_create(errno, "cannot open %s: %s", path, strerror(errno));
	if (!error) {
		t->packet = show_packet;
		t->as_json = as_json;
		error = show_stream(fd, t);
	}
	trace_destroy(t);
	if ((fflush(stdout) || ferror(stdout)) && !error) // before any error is told
		error = error_create(EIO, "cannot write what is shown");
	return error;
}

// ---- The command -------------------------------------------------------------------------------------------

int cli_trace(int argc, char **argv)
{
	const char *words[2] = { NULL, NULL };
	bool is_show = argc > 1 && strcmp(argv[1], "show") == 0;
	bool is_forced = false, as_json = false;
	int count = 0;

	for (int i = is_show ? 2 : 1; i < argc; i++) {
		if (is_show && strcmp(argv[i], "--json") == 0)
			as_json = true;
		else if (!is_show && strcmp(argv[i], "--force") == 0)
			is_forced = true;
		else if ((argv[i][0] == '-' && argv[i][1]) || count == (is_show ? 1 : 2))
			return cli_usage("trace", "unexpected argument %s", argv[i]);
		else
			words[count++] = argv[i];
	}
	if (count < (is_show ? 1 : 2))
		return cli_usage("trace", "%s is missing", is_show ? "the file" : count ? "the file to write" : "the VM's name");
	struct error *error = is_show ? show(words[0], as_json) : record(words[0], words[1], is_forced);
	return error ? error_report("vmkd trace", error) : 0;
}
