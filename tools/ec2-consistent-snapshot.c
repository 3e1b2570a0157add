/* tools/ec2-consistent-snapshot.c - the command line of the classic tool: the same options, the same output (ids of
 * snapshots, one a line). Over a mount of ours the set is taken through the control tree; filesystems that are no stillfs are
 * the program stillfs-classic's (ec2_alone.c). See ec2-consistent-snapshot(8).
 * Values that are secret are overwritten in the argument list before anything else is done. One thread; blocks as the control
 * file `snapshot` does. Exit codes: 0 done; 1 refused or failed; 2 wrong usage. */
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ec2_alone.h"
#include "stillctl/ctl.h"
#include "version.h"

#define MANY 40

char ctl_dir[PATH_MAX - 300];
bool ctl_json, ctl_color;

enum opt {
	O_KEY = 256, O_SECRET, O_SECRET_FILE, O_ROLE, O_REGION, O_DESCRIPTION, O_TAG, O_FREEZE, O_NO_FREEZE, O_MYSQL, O_MONGO, O_STOP,
	O_PERCONA, O_ACCOUNT, O_PASSWORD, O_STATUS_FILE, O_LIMIT, O_FREEZE_LIMIT, O_TRIES,
	O_PRE, O_POST, O_VERSION, O_SIGNATURE, O_ENDPOINT,
};

static const struct option options[] = {
	{ "help", 0, NULL, 'h' }, { "debug", 0, NULL, 'd' }, { "quiet", 0, NULL, 'q' }, { "noaction", 0, NULL, 'n' },
	{ "version", 0, NULL, O_VERSION },
	{ "aws-access-key-id", 1, NULL, O_KEY }, { "aws-secret-access-key", 1, NULL, O_SECRET },
	{ "aws-access-key-id-file", 1, NULL, O_SECRET_FILE }, { "aws-secret-access-key-file", 1, NULL, O_SECRET_FILE },
	{ "aws-credentials-file", 1, NULL, O_SECRET_FILE }, { "use-iam-role", 0, NULL, O_ROLE },
	{ "region", 1, NULL, O_REGION }, { "signature-version", 1, NULL, O_SIGNATURE }, { "ec2-endpoint", 1, NULL, O_ENDPOINT },
	{ "description", 1, NULL, O_DESCRIPTION }, { "tag", 1, NULL, O_TAG },
	{ "freeze-filesystem", 1, NULL, O_FREEZE }, { "xfs-filesystem", 1, NULL, O_FREEZE },
	{ "no-freeze-filesystem", 1, NULL, O_NO_FREEZE },
	{ "mongo", 0, NULL, O_MONGO }, { "mongo-host", 1, NULL, O_ACCOUNT }, { "mongo-port", 1, NULL, O_ACCOUNT },
	{ "mongo-username", 1, NULL, O_ACCOUNT }, { "mongo-password", 1, NULL, O_PASSWORD }, { "mongo-stop", 0, NULL, O_STOP },
	{ "mongo-init", 1, NULL, O_ACCOUNT },
	{ "mysql", 0, NULL, O_MYSQL }, { "mysql-defaults-file", 1, NULL, O_ACCOUNT }, { "mysql-host", 1, NULL, O_ACCOUNT },
	{ "mysql-socket", 1, NULL, O_ACCOUNT }, { "mysql-username", 1, NULL, O_ACCOUNT }, { "mysql-password", 1, NULL, O_PASSWORD },
	{ "mysql-master-status-file", 1, NULL, O_STATUS_FILE }, { "mysql-stop", 0, NULL, O_STOP }, { "percona", 0, NULL, O_PERCONA },
	{ "snapshot-timeout", 1, NULL, O_FREEZE_LIMIT }, { "lock-timeout", 1, NULL, O_LIMIT },
	{ "lock-tries", 1, NULL, O_TRIES }, { "lock-sleep", 1, NULL, O_LIMIT },
	{ "pre-freeze-command", 1, NULL, O_PRE }, { "post-thaw-command", 1, NULL, O_POST },
	{ NULL, 0, NULL, 0 },
};

static struct {
	bool debug, quiet, noaction, mysql, percona, mongo, keys, shown, accounts, stop, limits, status_file;
	const char *region, *description, *tags, *pre, *post;
	unsigned descriptions, n_tags, n_fs, n_volumes;
	const char *fs[MANY], *volume[MANY];
} o;

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	va_list ap;

	if (o.quiet)
		return;
	va_start(ap, fmt);
	(void)fputs("ec2-consistent-snapshot: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
}

static int fail(const char *fmt, const char *a)
{
	(void)fputs("ec2-consistent-snapshot: ", stderr);
	(void)fprintf(stderr, "%s%s\n", fmt, a);
	return 1;
}

static void help(void)
{
	puts("Usage: ec2-consistent-snapshot [OPTION]... [VOLUMEID]...\n"
	     "Take EBS snapshots of a database's volumes, through the stillfs that is mounted there or without one.\n");
	for (const struct option *p = options; p->name; p++)
		printf("  --%s%s\n", p->name, p->has_arg ? " VALUE" : "");
	puts("\nSee ec2-consistent-snapshot(8).");
}

/* ---- the command line ---- */

/* No time to be frozen for, and no try at the lock, are none: nothing could be taken, or without a lock. */
static int take_number(int c, const char *arg)
{
	static const char *const digits[] = { "0123456789.", "0123456789" };
	char *end;
	double v = strtod(arg, &end);
	bool number = *arg && strspn(arg, digits[c == O_TRIES]) == strlen(arg) && !*end && v <= 3600;

	o.limits = true;
	if (c == O_TRIES && (!number || v < 1))
		return fail("--lock-tries: expected a whole number from 1 to 3600: ", arg);
	if (c == O_FREEZE_LIMIT && (!number || v < 0.001))
		return fail("--snapshot-timeout: expected seconds, more than 0 and up to 3600: ", arg);
	return number ? 0 : fail("--lock-timeout, --lock-sleep: expected seconds, up to 3600: ", arg);
}

static int take(int c, char *arg)
{
	switch (c) {
	case 'd': o.debug = true; return 0;
	case 'q': o.quiet = true; return 0;
	case 'n': o.noaction = true; return 0;
	case O_KEY:
	case O_SECRET:
	case O_PASSWORD:
		o.keys |= c != O_PASSWORD;
		o.shown |= c == O_SECRET || c == O_PASSWORD;
		o.accounts |= c == O_PASSWORD;
		memset(arg, 'x', strlen(arg)); /* ps shows it no more */
		return 0;
	case O_SECRET_FILE: o.keys = true; return 0;
	case O_REGION: o.region = arg; return 0;
	case O_DESCRIPTION:
		o.description = o.descriptions++ ? o.description : arg;
		return 0;
	case O_TAG: o.tags = o.n_tags++ ? o.tags : arg; return 0;
	case O_FREEZE:
	case O_NO_FREEZE:
		if (o.n_fs == MANY)
			return fail("too many filesystems: ", arg);
		o.fs[o.n_fs++] = arg;
		return 0;
	case O_MYSQL: o.mysql = true; return 0;
	case O_PERCONA: o.mysql = o.percona = true; return 0;
	case O_MONGO: o.mongo = true; return 0;
	case O_STOP: o.stop = true; return 0;
	case O_ACCOUNT: o.accounts = true; return 0;
	case O_STATUS_FILE: o.status_file = true; return 0;
	case O_LIMIT:
	case O_FREEZE_LIMIT:
	case O_TRIES: return take_number(c, arg);
	case O_PRE: o.pre = arg; return 0;
	case O_POST: o.post = arg; return 0;
	default: return 0;
	}
}

static int keep(int c, int index)
{
	static const char *const shorts[][2] = { { "d", "debug" }, { "q", "quiet" }, { "n", "noaction" } };
	const char *name = NULL;

	for (int i = 0; i < 3; i++)
		if (c == shorts[i][0][0])
			name = shorts[i][1];
	if (!name)
		name = c == O_FREEZE ? "freeze-filesystem" : options[index].name;
	return alone_keep(name, optarg) == 0 ? 0 : fail("too many options, or too long: ", name);
}

static int check_arguments(void)
{
	if (!o.n_fs && !o.n_volumes)
		return fail("neither volume ids nor a filesystem: what shall be snapshotted?", ""), 2;
	if (o.percona && o.status_file)
		return fail("--percona and --mysql-master-status-file exclude each other: its lock gives no position", ""), 2;
	if (o.n_tags > 1 && o.n_volumes != o.n_tags)
		return fail("--tag: give it once, or once for each volume id", ""), 2;
	if (o.descriptions > 1 && o.n_volumes != o.descriptions)
		return fail("--description: give it once, or once for each volume id", ""), 2;
	return 0;
}

static int read_arguments(int argc, char **argv)
{
	int c, index = 0;

	while ((c = getopt_long(argc, argv, "h?dqn", options, &index)) != -1) {
		if (c == '?' && strcmp(argv[optind - 1], "-?") != 0)
			return 2;
		if (c == 'h' || c == '?' || c == O_VERSION) {
			if (c != O_VERSION)
				help();
			else
				puts("ec2-consistent-snapshot of stillfs " STILLFS_VERSION);
			exit(0);
		}
		if (keep(c, index) || take(c, optarg) != 0)
			return 2;
	}
	for (; optind < argc; optind++) {
		if (strncmp(argv[optind], "vol-", 4) != 0 || o.n_volumes == MANY)
			return fail("not a volume id, or too many: ", argv[optind]), 2;
		o.volume[o.n_volumes++] = argv[optind];
		(void)alone_keep("volume", argv[optind]);
	}
	return check_arguments();
}

/* ---- the mount ---- */

/* The control tree of the stillfs at fs, which its link `.stillfs` names. False: it is none. */
static bool tree_of(const char *fs, char *to, size_t cap)
{
	char link[PATH_MAX];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "%.4000s/.stillfs", fs);
	n = readlink(link, to, cap - 1);
	to[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* Is one of the filesystems a stillfs? */
static bool have_mount(void)
{
	char to[sizeof(ctl_dir)];

	for (unsigned i = 0; i < o.n_fs; i++)
		if (tree_of(o.fs[i], to, sizeof(to)))
			return true;
	return false;
}

static int find_mount(void)
{
	char to[sizeof(ctl_dir)];

	for (unsigned i = 0; i < o.n_fs; i++) {
		if (!tree_of(o.fs[i], to, sizeof(to)))
			return fail("no stillfs is mounted there, and another one of the filesystems is one; take them one after the other: ",
				    o.fs[i]);
		if (i && strcmp(to, ctl_dir) != 0)
			return fail("belongs to another stillfs than the first one: ", o.fs[i]);
		(void)snprintf(ctl_dir, sizeof(ctl_dir), "%s", to);
	}
	return 0;
}

static int check_mount(void)
{
	char *provider = ctl_key("status", "provider"), *db = ctl_key("status", "db"), *region = ctl_key("config", "ebs.region");
	int r = 0;

	if (o.n_tags > 1)
		r = fail("--tag for each volume is not possible on a stillfs: the snapshots of a set carry the same tags", "");
	else if (!provider || !db)
		r = fail("no stillfs answers in ", ctl_dir);
	else if (strcmp(provider, "ebs") != 0)
		r = fail("this stillfs takes no EBS snapshots; mount it with provider=ebs, it has provider=", provider);
	else if (o.mysql && !strstr(db, "mysql"))
		r = fail("--mysql: this stillfs locks no MySQL; mount it with db=mysql, it has db=", db);
	else if (o.mongo && !strstr(db, "mongodb"))
		r = fail("--mongo: this stillfs locks no MongoDB; mount it with db=mongodb, it has db=", db);
	else if (o.region && region && *region && strcmp(region, o.region) != 0)
		r = fail("--region is another one than the mount's: ", region);
	free(provider);
	free(db);
	free(region);
	return r;
}

/* What the mount decides, and the command line cannot. */
static void warn(void)
{
	if (o.keys)
		say("warning: keys on the command line are seen by everybody; they are hidden now, and not used: the mount has its own");
	if (o.accounts)
		say("warning: the database is spoken to as the mount's options db.* say");
	if (o.stop)
		say("warning: the server is not stopped: the mount locks it, or takes what a crash would leave");
	if (o.status_file)
		say("note: the position is in .stillfs-position in the snapshot, and in the set's `position`");
	if (o.descriptions > 1)
		say("warning: the snapshots of a set carry one description, the first");
	if (o.debug && o.limits)
		say("limits of time are the mount's: gate_timeout, db.lock_timeout, db.lock_tries");
}

/* ---- the set ---- */

static void quoted(char *out, size_t cap, const char *text)
{
	size_t n = strlen(out);

	for (; *text && n + 4 < cap; text++) {
		if (*text == '"' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text;
	}
	out[n] = '\0';
}

static void build(char *text, size_t cap, const char *name)
{
	char tags[2048], *save = NULL;

	(void)snprintf(text, cap, "%s class=classic description=\"", name);
	quoted(text, cap, o.description ? o.description : "ec2-consistent-snapshot");
	(void)strncat(text, "\"", cap - strlen(text) - 1);
	(void)snprintf(tags, sizeof(tags), "%s", o.tags ? o.tags : "");
	for (char *t = strtok_r(tags, ";", &save); t; t = strtok_r(NULL, ";", &save)) {
		if (strchr(t, '='))
			*strchr(t, '=') = ':';
		(void)strncat(text, " tag=\"", cap - strlen(text) - 1);
		quoted(text, cap, t);
		(void)strncat(text, "\"", cap - strlen(text) - 1);
	}
	(void)strncat(text, "\n", cap - strlen(text) - 1);
}

static int run_hook(const char *what, const char *command)
{
	int status = command ? system(command) : 0;

	if (status == 0)
		return 0;
	return fail(what, command);
}

/* "snapshot SNAPSHOT VOLUME" lines of stillfs-ebs: ids on stdout, as the old tool. Were the given volumes among them? */
static int print_ids(const char *name)
{
	char line[256], snap[64], volume[64], *args[] = { (char *)(uintptr_t)name };
	bool seen[MANY] = { false };
	int fd[2], status = 0, r = 0;
	pid_t pid;
	FILE *f;

	(void)fflush(stdout);
	if (pipe(fd) < 0 || (pid = fork()) < 0)
		return fail("cannot ask for the snapshots' ids of ", name);
	if (pid == 0) {
		(void)dup2(fd[1], 1);
		(void)close(fd[0]);
		(void)close(fd[1]);
		_exit(ctl_ebs("list", 1, args));
	}
	(void)close(fd[1]);
	f = fdopen(fd[0], "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "snapshot %63s %63s", snap, volume) == 2) {
			puts(snap);
			for (unsigned i = 0; i < o.n_volumes; i++)
				seen[i] |= strcmp(o.volume[i], volume) == 0;
		}
	if (f)
		(void)fclose(f);
	(void)waitpid(pid, &status, 0);
	r = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	for (unsigned i = 0; r == 0 && i < o.n_volumes; i++)
		if (!seen[i])
			r = fail("the set was taken, but the mount does not lie on this volume, so it is not in it: ", o.volume[i]);
	return r;
}

static int take_set(void)
{
	static char text[CTL_COMMAND_MAX];
	time_t now = time(NULL);
	char name[64], when[32];
	struct tm tm;
	int r;

	(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
	(void)snprintf(name, sizeof(name), "classic-%s-%d", when, (int)getpid());
	build(text, sizeof(text), name);
	if (o.noaction) {
		say("would write to %s/snapshot: %.*s", ctl_dir, (int)strlen(text) - 1, text);
		return 0;
	}
	if (o.debug)
		say("%s/snapshot: %.*s", ctl_dir, (int)strlen(text) - 1, text);
	r = run_hook("the command before the snapshot failed, nothing was taken: ", o.pre);
	if (r == 0)
		r = ctl_write("snapshot", text);
	if (o.pre || o.post)
		r = run_hook("the command after the snapshot failed: ", o.post) || r; /* also after a failure: it undoes the first */
	return r ? r : print_ids(name);
}

int main(int argc, char **argv)
{
	int r = read_arguments(argc, argv);

	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	if (r == 0 && !have_mount()) {
		if (o.shown)
			say("warning: secrets on the command line are seen by everybody until they are hidden; use a file or an instance's role");
		if (o.descriptions > 1)
			say("warning: the snapshots of one request carry one description, the first");
		return o.noaction ? alone_would() : alone_run();
	}
	if (r == 0)
		r = find_mount() || check_mount();
	if (r)
		return r;
	warn();
	return take_set();
}
