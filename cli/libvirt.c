// SPDX-License-Identifier: MIT
// vmkd libvirt: the link in a libvirt domain, and out of it again.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/qemu_args.h"
#include "domain/checks.h"
#include "domain/edit.h"
#include "domain/host.h"
#include "domain/virsh.h"
#include "serve/vmdir.h"
#include "util/installed.h"
#include "util/rundir.h"

#define LIBRARY "libvmkd-vmm.so"
#define SYSTEM_FOLDER "/run/vmkd"
#define LONGEST_FILE "/debugcon.sock"
#define APPARMOR "/etc/apparmor.d"

enum verb { VERB_ENABLE, VERB_DISABLE, VERB_STATUS };

struct libvirt {
	enum verb verb;
	const char *domain, *link, *connect, *name;
	bool is_dry_run, private_ram, is_forced;
	char uri[256];
	bool is_session;
	bool is_running, is_persistent, is_saved;
	char *xml;                   // the domain's next start; without its secrets unless it is going to be defined
	struct domain_info info;     // of xml
	enum domain_link wished;
	char runtime_dir[RUNDIR_PATH_MAX];
	char *library;               // hook
	char **arguments;            // debugcon
	struct host_facts facts;
	unsigned failed;
};

// ---- What was asked for -------------------------------------------------------------------------------------

static const char **value_of(const char *word, struct libvirt *l)
{
	return strcmp(word, "--link") == 0 ? &l->link : strcmp(word, "--connect") == 0 ? &l->connect : strcmp(word, "--name") == 0 ? &l->name : NULL;
}

static bool *flag_of(const char *word, struct libvirt *l)
{
	return strcmp(word, "--dry-run") == 0 ? &l->is_dry_run : strcmp(word, "--private-ram") == 0 ? &l->private_ram :
	       strcmp(word, "--force") == 0 ? &l->is_forced : NULL;
}

static int parse_verb(const char *word, struct libvirt *l)
{
	static const char *const verbs[] = { "enable", "disable", "status" };

	for (unsigned i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(word, verbs[i]) == 0) {
			l->verb = (enum verb)i;
			return 0;
		}
	}
	return cli_usage("libvirt", "expected enable, disable or status, got %s", word);
}

static int check_options(const struct libvirt *l)
{
	if (l->link && strcmp(l->link, "hook") != 0 && strcmp(l->link, "debugcon") != 0)
		return cli_usage("libvirt", "--link %s: expected hook or debugcon", l->link);
	if (l->verb == VERB_DISABLE && (l->link || l->name))
		return cli_usage("libvirt", "--link and --name are not for disable, which takes out what is there");
	if (l->verb != VERB_ENABLE && (l->private_ram || l->is_forced))
		return cli_usage("libvirt", "--private-ram and --force are for enable only");
	if (l->verb == VERB_STATUS && l->is_dry_run)
		return cli_usage("libvirt", "status changes nothing; --dry-run is for enable and disable");
	return l->domain ? 0 : cli_usage("libvirt", "the domain's name is missing");
}

static int parse(int argc, char **argv, struct libvirt *l)
{
	int status = argc > 1 ? parse_verb(argv[1], l) : cli_usage("libvirt", "expected enable, disable or status");

	for (int i = 2; i < argc && !status; i++) {
		const char **value = value_of(argv[i], l);
		bool *flag = flag_of(argv[i], l);

		if (flag)
			*flag = true;
		else if (value && i + 1 < argc)
			*value = argv[++i];
		else if (value || argv[i][0] == '-')
			status = cli_usage("libvirt", value ? "%s needs a value" : "unknown option %s", argv[i]);
		else if (l->domain)
			status = cli_usage("libvirt", "one domain expected, got %s and %s", l->domain, argv[i]);
		else
			l->domain = argv[i];
	}
	return status ? status : check_options(l);
}

// ---- What libvirt says --------------------------------------------------------------------------------------

// qemu:///system and qemu:///session, or the same through a socket that was named (qemu+unix:///system?socket=...): QEMU runs on this machine.
static struct error *check_uri(const char *uri, bool *ret_is_session)
{
	static const char *const heads[] = { "qemu:///", "qemu+unix:///" };
	const char *at = NULL;
	bool is_session;
	size_t len;

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]) && !at; i++)
		if (strncmp(uri, heads[i], strlen(heads[i])) == 0)
			at = uri + strlen(heads[i]);
	len = at ? strcspn(at, "?") : 0;
	is_session = len == strlen("session") && strncmp(at, "session", len) == 0;
	if (!is_session && !(len == strlen("system") && strncmp(at, "system", len) == 0))
		return error_create(ENOTSUP, "%s: expected a libvirtd of this machine, qemu:///system or qemu:///session; for another machine's run vmkd there",
				    uri);
	*ret_is_session = is_session;
	return NULL;
}

// An alias or nothing at all becomes a URI by virsh; with one of another machine nothing shall be connected to.
static struct error *ask_uri(struct libvirt *l)
{
	static const char *const words[] = { "uri", NULL };
	char *text = NULL;
	struct error *error = l->connect && strstr(l->connect, "://") ? check_uri(l->connect, &l->is_session) : NULL;

	if (!error)
		error = virsh_ask(l->connect, words, &text);
	if (error)
		return error;
	text[strcspn(text, "\n")] = 0;
	error = check_uri(text, &l->is_session);
	if (!error && (size_t)snprintf(l->uri, sizeof(l->uri), "%s", text) >= sizeof(l->uri))
		error = error_create(ENAMETOOLONG, "%s: the URI is too long", text);
	free(text);
	return error;
}

static struct error *ask_state(struct libvirt *l)
{
	const char *const words[] = { "dominfo", "--domain", l->domain, NULL };
	char *text = NULL;
	struct error *error = virsh_ask(l->uri, words, &text);

	if (error)
		return error;
	l->is_running = !virsh_line_is(text, "State", "shut off") && !virsh_line_is(text, "State", "crashed");
	l->is_persistent = virsh_line_is(text, "Persistent", "yes");
	l->is_saved = virsh_line_is(text, "Managed save", "yes");
	free(text);
	return NULL;
}

// What has to be written back must have its passwords; what is only shown must not.
static struct error *ask_xml(struct libvirt *l)
{
	const char *const shown[] = { "dumpxml", "--inactive", "--domain", l->domain, NULL };
	const char *const whole[] = { "dumpxml", "--inactive", "--security-info", "--domain", l->domain, NULL };
	bool is_written = l->verb != VERB_STATUS && !l->is_dry_run;
	struct error *error = virsh_ask(l->uri, is_written ? whole : shown, &l->xml);

	return error ? error : domain_read(l->xml, strlen(l->xml), &l->info);
}

// The link of the running QEMU. Unknown is none: it has ended meanwhile.
static enum domain_link ask_live_link(const struct libvirt *l)
{
	const char *const words[] = { "dumpxml", "--domain", l->domain, NULL };
	struct domain_info info = { 0 };
	char *text = NULL;
	struct error *error = virsh_ask(l->uri, words, &text);

	if (!error)
		error = domain_read(text, strlen(text), &info);
	error_free(error);
	free(text);
	return info.link;
}

static struct error *ask(struct libvirt *l)
{
	struct error *error = ask_uri(l);

	if (!error)
		error = ask_state(l);
	return error ? error : ask_xml(l);
}

static struct error *check_changeable(const struct libvirt *l)
{
	if (!l->is_persistent)
		return error_create(ENOTSUP, "the domain %s is transient: there is no definition to change; `virsh define` one", l->domain);
	if (l->is_saved)
		return error_create(EBUSY, "the domain %s has a saved state, which would start as it was saved: start it and shut it off, or `virsh "
					   "managedsave-remove %s`", l->domain, l->domain);
	return NULL;
}

// ---- The wish -----------------------------------------------------------------------------------------------

static const char *link_name(enum domain_link link)
{
	return link == DOMAIN_LINK_HOOK ? "hook" : link == DOMAIN_LINK_DEBUGCON ? "debugcon" : "none";
}

static enum domain_link choose_link(const struct libvirt *l)
{
	if (l->link)
		return strcmp(l->link, "hook") == 0 ? DOMAIN_LINK_HOOK : DOMAIN_LINK_DEBUGCON;
	if (l->info.link != DOMAIN_LINK_NONE)
		return l->info.link;
	return strcmp(l->info.type, "kvm") == 0 ? DOMAIN_LINK_HOOK : DOMAIN_LINK_DEBUGCON;
}

static struct error *choose_name(struct libvirt *l)
{
	struct error *error;

	if (!l->name)
		l->name = l->info.link_name[0] ? l->info.link_name : l->info.name;
	error = rundir_check_name(l->name);
	return error ? error_prefix(error, "--name NAME is needed to debug the domain") : NULL;
}

// A link that is there stays where it is looked for, unless the environment says otherwise.
static struct error *choose_folder(struct libvirt *l)
{
	const char *own = getenv("VMKD_RUNTIME_DIR");
	char path[DOMAIN_TEXT_MAX];
	size_t len;

	if (!(own && own[0]) && !l->info.runtime_dir[0] && l->is_session)
		return rundir_base(l->runtime_dir);
	snprintf(path, sizeof(path), "%s", own && own[0] ? own : l->info.runtime_dir[0] ? l->info.runtime_dir : SYSTEM_FOLDER);
	for (len = strlen(path); len > 1 && path[len - 1] == '/';)
		path[--len] = 0;
	if (path[0] != '/' || len + 1 + strlen(l->name) + strlen(LONGEST_FILE) >= RUNDIR_PATH_MAX)
		return error_create(EINVAL, "VMKD_RUNTIME_DIR=%s: expected an absolute path, with the VM's name and a socket's shorter than %u characters", path,
				    RUNDIR_PATH_MAX);
	memcpy(l->runtime_dir, path, len + 1);
	return NULL;
}

static struct error *make_arguments(struct libvirt *l)
{
	char bell[2 * RUNDIR_PATH_MAX], monitor[2 * RUNDIR_PATH_MAX];

	snprintf(bell, sizeof(bell), "%s/%s" VMDIR_BELL_BESIDE, l->runtime_dir, l->name);
	snprintf(monitor, sizeof(monitor), "%s/%s" VMDIR_MONITOR_BESIDE, l->runtime_dir, l->name);
	return qemu_doorbell_args(bell, monitor, &l->arguments);
}

static struct error *make_wish(struct libvirt *l)
{
	struct error *error = choose_name(l);

	l->wished = choose_link(l);
	if (!error)
		error = choose_folder(l);
	if (error)
		return error;
	if (l->wished == DOMAIN_LINK_DEBUGCON)
		return make_arguments(l);
	if (l->verb == VERB_STATUS && l->info.library[0])
		l->library = strdup(l->info.library);
	return l->library ? NULL : installed_find(LIBRARY, &l->library);
}

// ---- What stands in the way ---------------------------------------------------------------------------------

static void tell(void *arg, enum check_state state, const char *text)
{
	static const char *const words[] = { "passed ", "FAILED ", "unknown" };
	struct libvirt *l = arg;

	l->failed += state == CHECK_FAILED;
	if (l->verb == VERB_STATUS)
		printf("%s  %s\n", words[state], text);
	else if (state != CHECK_PASSED)
		fprintf(stderr, "%s  %s\n", words[state], text);
}

static struct error *judge(struct libvirt *l)
{
	static const char *const words[] = { "capabilities", NULL };
	struct host_facts *f = &l->facts;
	char *text = NULL;
	struct error *error = virsh_ask(l->uri, words, &text);

	f->is_session = l->is_session;
	f->link = l->wished;
	snprintf(f->library, sizeof(f->library), "%s", l->library ? l->library : "");
	snprintf(f->runtime_dir, sizeof(f->runtime_dir), "%s", l->runtime_dir);
	if (!error)
		error = host_read_capabilities(f, text, strlen(text), &l->info);
	free(text);
	if (error)
		return error;
	host_look(f, APPARMOR);
	checks_judge(f, tell, l);
	return NULL;
}

// ---- enable, disable, status --------------------------------------------------------------------------------

static struct error *write_back(const struct libvirt *l, const char *xml)
{
	if (!l->is_dry_run)
		return virsh_define(l->uri, xml);
	fputs(xml, stdout);
	return NULL;
}

static const char *when(const struct libvirt *l)
{
	return l->is_running ? "when it is shut off and started again (a restart from inside the guest is not enough)" : "when it is started";
}

static struct error *enable(struct libvirt *l)
{
	struct domain_wish wish;
	struct error *error = make_wish(l);
	char *xml = NULL;

	if (error)
		return error;
	wish = (struct domain_wish){ .link = l->wished, .name = l->name, .runtime_dir = l->runtime_dir, .library = l->library, .private_ram = l->private_ram,
				     .arguments = (const char *const *)l->arguments };
	error = domain_enable(l->xml, strlen(l->xml), &wish, &xml);
	if (!error)
		error = judge(l);
	if (!error && l->failed && !l->is_forced && !l->is_dry_run)
		error = error_create(EPERM, "nothing was changed: see what FAILED above, then try again; --force writes the definition all the same");
	if (!error)
		error = write_back(l, xml);
	free(xml);
	if (!error && !l->is_dry_run)
		fprintf(stderr, "vmkd libvirt: %s has the link %s as %s %s; then: VMKD_RUNTIME_DIR=%s vmkd serve %s\n", l->domain, link_name(l->wished),
			l->name, when(l), l->runtime_dir, l->name);
	return error;
}

static struct error *disable(struct libvirt *l)
{
	char *xml = NULL;
	unsigned left = 0;
	struct error *error = domain_disable(l->xml, strlen(l->xml), &xml, &left);

	if (!error)
		error = write_back(l, xml);
	free(xml);
	if (error || l->is_dry_run)
		return error;
	fprintf(stderr, "vmkd libvirt: %s is without the link %s\n", l->domain, when(l));
	if (left)
		fprintf(stderr, "vmkd libvirt: %u of the things that had been added were changed since and are left as they are: `virsh edit %s`\n", left,
			l->domain);
	return NULL;
}

static void print_link(const struct libvirt *l)
{
	enum domain_link live = l->is_running ? ask_live_link(l) : DOMAIN_LINK_NONE;

	if (l->info.link == DOMAIN_LINK_NONE)
		printf("%s: no link", l->domain);
	else
		printf("%s: link %s as %s in %s", l->domain, link_name(l->info.link), l->info.link_name, l->info.runtime_dir);
	if (!l->is_running)
		printf("; shut off\n");
	else if (live == l->info.link)
		printf("; running like that\n");
	else
		printf("; running with the link %s until it is shut off\n", link_name(live));
}

// What stands in the way of the link that is there, or of the one that would be made.
static struct error *status(struct libvirt *l)
{
	struct error *error = make_wish(l);

	if (error)
		return error;
	print_link(l);
	return judge(l);
}

static struct error *run(struct libvirt *l)
{
	struct error *error = ask(l);

	if (!error && l->verb != VERB_STATUS)
		error = check_changeable(l);
	if (error)
		return error;
	return l->verb == VERB_ENABLE ? enable(l) : l->verb == VERB_DISABLE ? disable(l) : status(l);
}

int cli_libvirt(int argc, char **argv)
{
	struct libvirt l = { 0 };
	int code = parse(argc, argv, &l);
	struct error *error;

	if (code)
		return code;
	error = run(&l);
	free(l.xml);
	free(l.library);
	qemu_free_args(l.arguments);
	if (error)
		return error_report("vmkd libvirt", error);
	return l.verb == VERB_STATUS && l.failed;
}
