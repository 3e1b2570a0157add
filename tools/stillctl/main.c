/* tools/stillctl/main.c - the operator's hand: a thin client over the control files of one stillfs.
 * Owns nothing, knows nothing but file names; what it prints is what the files say. One thread; blocks as
 * the files do (snapshot and wait until the consistency point is fixed, events for ever).
 * Exit codes: 0 done; 1 refused or failed, with the sentence of last_error on stderr; 2 wrong usage; but for check. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"
#include "version.h"

char ctl_dir[PATH_MAX - 300];
bool ctl_json, ctl_color;

static const struct command commands[] = {
	{ "status", "", "what this stillfs is doing", cmd_status, 0, 0, false },
	{ "snapshot", "[NAME] [class=C] [description=TEXT] [tag=K:V]... [pin] [nowait]",
	  "take a set; returns when its consistency point is fixed", cmd_snapshot, 0, 64, false },
	{ "list", "[--all]", "all sets; --all: and what else the provider has", cmd_list, 0, 1, false },
	{ "show", "NAME", "everything about one set", cmd_show, 1, 1, false },
	{ "gate", "[open | close [timeout=SECONDS]]", "show, open or close the gate", cmd_gate, 0, 2, false },
	{ "abort", "", "end the running snapshot and undo it", cmd_abort, 0, 0, false },
	{ "events", "[--follow]", "what happened, as JSON lines", cmd_events, 0, 1, false },
	{ "rescan", "[lineage=ID]", "make the catalog complete from the provider's own records", cmd_rescan, 0, 1, false },
	{ "restore", "NAME --to DIR [--verify] [--copy] | NAME --in-place [--verify] | "
	  "NAME [--az ZONE] [--type T] [--iops N] [--throughput N] [--kms-key KEY] [--init-rate N] "
	  "[--attach DEVICE [--mount DIR] [--read-all] [--delete-on-termination]]",
	  "give a set's data back: into a directory, into the mount, or as volumes", cmd_restore, 1, 32, false },
	{ "copy", "NAME --to-region REGION [--kms-key KEY] [--no-wait]", "copy a set into another region", cmd_copy, 3, 8, false },
	{ "delete", "[--force] NAME | --orphan ID", "delete a set; --force: in spite of the floor; or an orphan", cmd_delete, 1, 2, false },
	{ "pin", "NAME", "keep a set whatever the retention says", cmd_pin, 1, 1, false },
	{ "unpin", "NAME", "no longer", cmd_unpin, 1, 1, false },
	{ "retention", "[KEY=VALUE | -KEY]... | -", "show or change the retention policy", cmd_retention, 0, 64, false },
	{ "prune", "[apply [PLANID] | adopt | log]", "show what the policy keeps and deletes, or carry it out", cmd_prune, 0, 2,
	  false },
	{ "check", "[--max-age TIME] [--max-verified-age TIME]", "is the newest set young enough: exit code for monitoring",
	  cmd_check, 0, 64, true },
	{ "wait", "NAME", "wait until the consistency point of a set is fixed", cmd_wait, 1, 1, false },
	{ "verify", "NAME | --cancel [NAME]", "start a server on a copy of a set and check it", cmd_verify, 1, 2, false },
	{ "doctor", "", "look at all a snapshot needs: database, hooks, paths, provider", cmd_doctor, 0, 0, false },
	{ "fence", "[show | check | on [hard] | off [force] | retire]", "keep every client of the database from writing, until off",
	  cmd_fence, 0, 2, false },
	{ "upgrade", "", "have the installed binary go on with the mounts, without unmounting", cmd_upgrade, 0, 0, false },
	{ "provider-test", "SCRIPT BACKING [KEY=VALUE]...", "does an executable keep the contract of provider=exec?",
	  cmd_provider_test, 2, 64, true },
	{ "cutover", "--from A --to B [--check] [--hook PROGRAM] [OPTION]... | status | resume [--skip-hook] | abort | "
	  "resolve --writable A|B | reopen --server A --force",
	  "have the clients of one database server go to its replica", cmd_cutover, 1, 64, true },
	{ NULL, NULL, NULL, NULL, 0, 0, false },
};

/* Its name and arguments, broken before what may be left out and between forms. */
static void put_usage(FILE *out, const struct command *c)
{
	int column = fprintf(out, "  %s", c->name);

	for (const char *a = c->args; *a;) {
		size_t n = 1;

		while (a[n] && !(a[n] == ' ' && (a[n + 1] == '[' || a[n + 1] == '|')))
			n++;
		if (column + 1 + (int)n > 78)
			column = fprintf(out, "\n     ") - 1;
		column += fprintf(out, " %.*s", (int)n, a);
		a += n + (a[n] == ' ');
	}
	fputs("\n", out);
}

static void help(FILE *out)
{
	fputs("Usage: stillctl [-n NAME | --dir DIR] [--json] COMMAND [ARGUMENT]...\n"
	      "Operate a stillfs through its control files.\n\n"
	      "  -n NAME      the stillfs of this name; may be left out when there is only one\n"
	      "  --dir DIR    the control tree, instead of /run/stillfs/NAME\n"
	      "  --provider P instead of a stillfs that runs: the catalog that this provider has (ebs)\n"
	      "  --region R   with --provider: in this region\n"
	      "  --lineage ID with --provider: the sets of this lineage alone\n"
	      "  --json       machine-readable output, for status, snapshot, list, show,\n"
	      "               retention, prune, check\n"
	      "  --help       this text\n"
	      "  --version    name and version\n\n"
	      "Commands:\n",
	      out);
	for (const struct command *c = commands; c->name; c++) {
		put_usage(out, c);
		fprintf(out, "        %s\n", c->help);
	}
	fputs("\nSee stillctl(8).\n", out);
}

/* Does a stillfs answer in `dir`? */
static int check_dir(void)
{
	int fd = ctl_open("version", O_RDONLY);

	if (fd >= 0) {
		(void)close(fd);
		return 0;
	}
	if (errno == ENOTCONN)
		fprintf(stderr, "stillctl: the stillfs of %s has died: umount %s and its mountpoint, then mount again\n", ctl_dir,
			ctl_dir);
	else
		fprintf(stderr, "stillctl: no stillfs answers in %s: %s; ls %s shows those that run\n", ctl_dir, strerror(errno),
			CTL_RUN_DIR);
	return 1;
}

/* The only one of CTL_RUN_DIR; an empty directory is none. */
static int find_dir(void)
{
	static char path[PATH_MAX];
	DIR *d = opendir(CTL_RUN_DIR);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		(void)snprintf(path, sizeof(path), "%s/%s/version", CTL_RUN_DIR, e->d_name);
		if (e->d_name[0] == '.' || (access(path, F_OK) < 0 && errno == ENOENT))
			continue;
		if (n++ == 0)
			(void)snprintf(ctl_dir, sizeof(ctl_dir), "%s/%s", CTL_RUN_DIR, e->d_name);
	}
	if (d)
		(void)closedir(d);
	if (n == 1)
		return 0;
	return ctl_fail(n ? "several run here; choose one with -n NAME: ls " : "none runs here: nothing in ", CTL_RUN_DIR);
}

int ctl_find(void)
{
	return (!*ctl_dir && find_dir() != 0) || check_dir() != 0;
}

/* Take --provider P and its kin out of the arguments, wherever they are. */
static int take_remote(int *argc, char **argv, struct ctl_remote *r)
{
	const struct {
		const char *name, **value;
	} o[] = { { "--provider", &r->provider }, { "--region", &r->region }, { "--lineage", &r->lineage } };
	int out = 1;

	for (int i = 1; i < *argc; i++) {
		size_t k = 0;

		while (k < 3 && strcmp(argv[i], o[k].name) != 0)
			k++;
		if (k == 3) {
			argv[out++] = argv[i];
			continue;
		}
		if (i + 1 == *argc || !argv[i + 1][0] || strpbrk(argv[i + 1], ",=\\"))
			return ctl_fail("a value is missing after, or is none for ", argv[i]), 2;
		*o[k].value = argv[++i];
	}
	argv[*argc = out] = NULL;
	if (!r->provider && (r->region || r->lineage))
		return ctl_fail("--region and --lineage need --provider", ""), 2;
	return 0;
}

static int run_remote(const struct ctl_remote *r, const struct command *c, int argc, char **argv)
{
	int code;

	if (c->run == cmd_check)
		return check_remote(r, c, argc, argv);
	if (c->alone)
		return ctl_fail("--provider is not for ", c->name), 2;
	code = ctl_run_remote(r, c, argc, argv);
	return code < 0 ? 1 : code;
}

int main(int argc, char **argv)
{
	struct ctl_remote remote = { NULL, NULL, NULL };
	int i = 1;

	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	ctl_color = isatty(1) && !getenv("NO_COLOR");
	if (take_remote(&argc, argv, &remote) != 0)
		return 2;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			help(stdout);
			return 0;
		} else if (strcmp(argv[i], "--version") == 0) {
			printf("stillctl %s\n", STILLFS_VERSION);
			return 0;
		} else if (strcmp(argv[i], "--json") == 0) {
			ctl_json = true;
		} else if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
			(void)snprintf(ctl_dir, sizeof(ctl_dir), "%s/%.200s", CTL_RUN_DIR, argv[++i]);
		} else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
			(void)snprintf(ctl_dir, sizeof(ctl_dir), "%s", argv[++i]);
		} else if (strcmp(argv[i], "-n") == 0 || strcmp(argv[i], "--dir") == 0) {
			(void)ctl_fail("a value is missing after ", argv[i]);
			return 2;
		} else {
			(void)ctl_fail("unknown option; see --help: ", argv[i]);
			return 2;
		}
	}
	for (const struct command *c = commands; i < argc && c->name; c++) {
		if (strcmp(argv[i], c->name) != 0)
			continue;
		if (argc - i - 1 < c->min || argc - i - 1 > c->max) {
			fprintf(stderr, "stillctl: usage: stillctl %s%s%s\n", c->name, *c->args ? " " : "", c->args);
			return 2;
		}
		if (remote.provider)
			return run_remote(&remote, c, argc - i - 1, argv + i + 1);
		if (!c->alone && ctl_find() != 0)
			return 1;
		return c->run(argc - i - 1, argv + i + 1);
	}
	if (i < argc)
		(void)ctl_fail("unknown command; see --help: ", argv[i]);
	else
		help(stderr);
	return 2;
}
