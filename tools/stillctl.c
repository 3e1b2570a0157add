/* tools/stillctl.c - the operator's hand: a thin client over the control files of one stillfs.
 * Owns nothing, knows nothing but file names; what it prints is what the files say. One thread; blocks as
 * the files do (snapshot and wait until the consistency point is fixed, events for ever).
 * Exit codes: 0 done; 1 refused or failed, with the sentence of last_error on stderr; 2 wrong usage. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "version.h"

#define RUN_DIR "/run/stillfs"
#define COMMAND_MAX 8192 /* bytes that a control file takes at once */

static char dir[PATH_MAX - 300]; /* of the control tree */
static bool json, color;

struct command {
	const char *name, *args, *help;
	int (*run)(int argc, char **argv);
	int min, max; /* arguments */
};

static int fail(const char *fmt, const char *a)
{
	fputs("stillctl: ", stderr);
	fprintf(stderr, "%s%s\n", fmt, a);
	return 1;
}

/* ---- files ---- */

static int open_file(const char *rel, int flags)
{
	char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, rel);
	return open(path, flags | O_CLOEXEC);
}

/* The whole file, malloc'ed; NULL: errno. */
static char *slurp(const char *rel)
{
	int fd = open_file(rel, O_RDONLY);
	size_t len = 0, cap = 4096;
	char *buf = fd < 0 ? NULL : malloc(cap);
	ssize_t n;

	while (buf && (n = read(fd, buf + len, cap - len - 1)) != 0) {
		if (n < 0) {
			int e = errno;

			free(buf);
			(void)close(fd);
			errno = e;
			return NULL;
		}
		len += (size_t)n;
		if (cap - len < 2048) {
			char *more = realloc(buf, cap *= 2);

			if (!more)
				free(buf);
			buf = more;
		}
	}
	if (buf)
		buf[len] = '\0';
	if (fd >= 0)
		(void)close(fd);
	return buf;
}

/* Say why an operation was refused: the sentence of last_error if it is about this, or the errno alone. */
static int refused(const char *what, int error)
{
	char *text = slurp("last_error"), want[64];
	const char *msg = text ? strstr(text, "message ") : NULL, *name = strerrorname_np(error);

	(void)snprintf(want, sizeof(want), "errno %s\n", name ? name : "?");
	if (msg && strstr(text, want))
		fprintf(stderr, "stillctl: %.*s\n", (int)strcspn(msg + 8, "\n"), msg + 8);
	else
		fprintf(stderr, "stillctl: %s: %s\n", what, strerror(error));
	free(text);
	return 1;
}

static int command_write(const char *rel, const char *text)
{
	int fd = open_file(rel, O_WRONLY);
	size_t len = strlen(text);
	int e;

	if (fd < 0) {
		if (errno == EACCES || errno == EPERM)
			return fail("permission denied: run as root or in the group control_gid", "");
		fprintf(stderr, "stillctl: cannot open the control file %s: %s\n", rel, strerror(errno));
		return 1;
	}
	e = write(fd, text, len) == (ssize_t)len ? 0 : errno;
	(void)close(fd);
	return e ? refused(rel, e) : 0;
}

static int print_file(const char *rel)
{
	char *text = slurp(rel);

	if (!text) {
		fprintf(stderr, "stillctl: %s: %s\n", rel, strerror(errno));
		return 1;
	}
	fputs(text, stdout);
	free(text);
	return 0;
}

/* "key value" lines as one JSON object; a key that comes twice becomes an array. */
static int print_flat_json(const char *rel)
{
	char *text = slurp(rel), *save = NULL;
	struct json_object *o, *old;

	if (!text) {
		fprintf(stderr, "stillctl: %s: %s\n", rel, strerror(errno));
		return 1;
	}
	o = json_object_new_object();
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(line, ' ');
		struct json_object *v = json_object_new_string(space ? space + 1 : "");

		if (space)
			*space = '\0';
		if (!json_object_object_get_ex(o, line, &old)) {
			json_object_object_add(o, line, v);
		} else if (json_object_is_type(old, json_type_array)) {
			json_object_array_add(old, v);
		} else {
			struct json_object *a = json_object_new_array();

			json_object_array_add(a, json_object_get(old));
			json_object_array_add(a, v);
			json_object_object_add(o, line, a);
		}
	}
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	free(text);
	return 0;
}

/* ---- commands ---- */

static int cmd_status(int argc, char **argv)
{
	return json ? print_flat_json("status") : print_file("status");
}

/* Put words that contain blanks back into the quotes that the shell has taken. */
static bool add_word(char *out, size_t cap, const char *w)
{
	const char *eq = strchr(w, '=');
	size_t n = strlen(out);

	if (n + 2 * strlen(w) + 8 > cap) /* each character may need a backslash */
		return false;
	if (!strpbrk(w, " \t\"") || !eq) {
		(void)snprintf(out + n, cap - n, "%s%s", n ? " " : "", w);
		return true;
	}
	n += (size_t)snprintf(out + n, cap - n, "%s%.*s=\"", n ? " " : "", (int)(eq - w), w);
	for (const char *p = eq + 1; *p && n + 4 < cap; p++) {
		if (*p == '"' || *p == '\\')
			out[n++] = '\\';
		out[n++] = *p;
	}
	(void)snprintf(out + n, cap - n, "\"");
	return true;
}

static int cmd_snapshot(int argc, char **argv)
{
	static char text[3 * COMMAND_MAX];

	for (int i = 0; i < argc; i++)
		if (!add_word(text, sizeof(text) - 2, argv[i]) || strlen(text) >= COMMAND_MAX)
			return fail("the request is longer than a control file takes, 8192 bytes: ", "shorten it");
	(void)strcat(text, "\n");
	if (command_write("snapshot", text) != 0)
		return 1;
	return json ? print_flat_json("snapshot") : print_file("snapshot");
}

/* The table, with the state in colour on a terminal. */
static int cmd_list(int argc, char **argv)
{
	static const struct {
		const char *word, *code;
	} states[] = { { " complete ", "\033[32m" }, { " failed ", "\033[31m" }, { " pending ", "\033[33m" },
		       { " running ", "\033[33m" } };
	char *text, *save = NULL;

	if (json)
		return print_file("list.json");
	text = slurp("list");
	if (!text)
		return fail("cannot read the control file list", "");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *hit = NULL;
		size_t k = 0;

		for (; color && !hit && k < sizeof(states) / sizeof(states[0]); k++)
			hit = strstr(line, states[k].word);
		if (!hit) {
			puts(line);
			continue;
		}
		k--;
		printf("%.*s%s%.*s\033[0m%s\n", (int)(hit - line), line, states[k].code,
		       (int)strlen(states[k].word), hit, hit + strlen(states[k].word));
	}
	free(text);
	return 0;
}

static int check_name(const char *name)
{
	if (!*name || strchr(name, '/') || name[0] == '.')
		return fail("not a set's name: ", name);
	return 0;
}

static int show_json(const char *name)
{
	char *text = slurp("list.json"), *save = NULL;
	bool found = false;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !found;
	     line = strtok_r(NULL, "\n", &save)) {
		struct json_object *o = json_tokener_parse(line), *v;

		found = o && json_object_object_get_ex(o, "name", &v) &&
			strcmp(json_object_get_string(v), name) == 0;
		if (found)
			puts(line);
		json_object_put(o);
	}
	free(text);
	return found ? 0 : fail("no such set: ", name);
}

static int cmd_show(int argc, char **argv)
{
	static const char *const files[] = { "id", "state", "progress", "created", "description", "tags",
					     "pin", "position", "lock_ms", "hold_ms", "volumes", "size",
					     "verified", "last_error", "log" };
	static char link[PATH_MAX], path[PATH_MAX];
	char rel[256];
	ssize_t n;

	if (check_name(argv[0]))
		return 1;
	if (json)
		return show_json(argv[0]);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/id", argv[0]);
	if (faccessat(AT_FDCWD, (snprintf(path, sizeof(path), "%s/%s", dir, rel), path), F_OK, 0) < 0)
		return fail("no such set: ", argv[0]);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		char *text, *save = NULL;

		(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/%s", argv[0], files[i]);
		text = slurp(rel);
		for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		     line = strtok_r(NULL, "\n", &save))
			printf("%-12s %s\n", files[i], line);
		free(text);
	}
	(void)snprintf(path, sizeof(path), "%s/snapshots/%.100s/data", dir, argv[0]);
	n = readlink(path, link, sizeof(link) - 1);
	if (n > 0)
		printf("%-12s %.*s\n", "data", (int)n, link);
	return 0;
}

static int cmd_gate(int argc, char **argv)
{
	char text[256];

	if (argc == 0)
		return print_file("gate");
	(void)snprintf(text, sizeof(text), "%.100s%s%.100s\n", argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	return command_write("gate", text);
}

static int cmd_abort(int argc, char **argv)
{
	return command_write("abort", "1\n");
}

static int cmd_events(int argc, char **argv)
{
	bool follow = argc == 1 && (strcmp(argv[0], "-f") == 0 || strcmp(argv[0], "--follow") == 0);
	static char buf[65536];
	ssize_t n;
	int fd;

	if (argc == 1 && !follow)
		return fail("unknown argument ", argv[0]), 2;
	fd = open_file("events", O_RDONLY | (follow ? 0 : O_NONBLOCK));
	if (fd < 0)
		return fail("cannot open the control file ", "events");
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		(void)fwrite(buf, 1, (size_t)n, stdout);
		if (fflush(stdout) != 0)
			break;
	}
	n = n < 0 && errno != EAGAIN ? errno : 0;
	(void)close(fd);
	return n ? fail("read events: ", strerror((int)n)) : 0;
}

static int cmd_delete(int argc, char **argv)
{
	char path[PATH_MAX];

	if (check_name(argv[0]))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/snapshots/%.200s", dir, argv[0]);
	if (rmdir(path) == 0)
		return 0;
	if (errno == EACCES)
		return fail("permission denied: run as root or in the group control_gid", "");
	if (errno == ENOENT)
		return fail("no such set: ", argv[0]);
	return refused(argv[0], errno);
}

static int cmd_wait(int argc, char **argv)
{
	char rel[256], *text;

	if (check_name(argv[0]))
		return 1;
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/wait", argv[0]);
	text = slurp(rel);
	if (!text) {
		int e = errno;

		if (e == ENOENT)
			return fail("no such set: ", argv[0]);
		(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/last_error", argv[0]);
		text = slurp(rel);
		fprintf(stderr, "stillctl: %s: %s", argv[0], text ? text : strerror(e));
		free(text);
		return 1;
	}
	fputs(text, stdout);
	free(text);
	return 0;
}

static const struct command commands[] = {
	{ "status", "", "what this stillfs is doing", cmd_status, 0, 0 },
	{ "snapshot", "[NAME] [class=C] [description=TEXT] [tag=K:V]... [pin] [nowait]",
	  "take a set; returns when its consistency point is fixed", cmd_snapshot, 0, 64 },
	{ "list", "", "all sets", cmd_list, 0, 0 },
	{ "show", "NAME", "everything about one set", cmd_show, 1, 1 },
	{ "gate", "[open | close [timeout=SECONDS]]", "show, open or close the gate", cmd_gate, 0, 2 },
	{ "abort", "", "end the running snapshot and undo it", cmd_abort, 0, 0 },
	{ "events", "[--follow]", "what happened, as JSON lines", cmd_events, 0, 1 },
	{ "delete", "NAME", "delete a set", cmd_delete, 1, 1 },
	{ "wait", "NAME", "wait until the consistency point of a set is fixed", cmd_wait, 1, 1 },
	{ NULL, NULL, NULL, NULL, 0, 0 },
};

static void help(FILE *out)
{
	fputs("Usage: stillctl [-n NAME | --dir DIR] [--json] COMMAND [ARGUMENT]...\n"
	      "Operate a stillfs through its control files.\n\n"
	      "  -n NAME      the stillfs of this name; may be left out when there is only one\n"
	      "  --dir DIR    the control tree, instead of /run/stillfs/NAME\n"
	      "  --json       machine-readable output, for status, snapshot, list, show\n"
	      "  --help       this text\n"
	      "  --version    name and version\n\n"
	      "Commands:\n",
	      out);
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "  %s%s%s\n        %s\n", c->name, *c->args ? " " : "", c->args, c->help);
	fputs("\nSee stillctl(8).\n", out);
}

/* Does a stillfs answer in `dir`? */
static int check_dir(void)
{
	int fd = open_file("version", O_RDONLY);

	if (fd >= 0) {
		(void)close(fd);
		return 0;
	}
	if (errno == ENOTCONN)
		fprintf(stderr, "stillctl: the stillfs of %s has died: umount %s and its mountpoint, then mount again\n", dir,
			dir);
	else
		fprintf(stderr, "stillctl: no stillfs answers in %s: %s; ls %s shows those that run\n", dir, strerror(errno),
			RUN_DIR);
	return 1;
}

/* The only one of RUN_DIR; an empty directory is none. */
static int find_dir(void)
{
	static char path[PATH_MAX];
	DIR *d = opendir(RUN_DIR);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		(void)snprintf(path, sizeof(path), "%s/%s/version", RUN_DIR, e->d_name);
		if (e->d_name[0] == '.' || (access(path, F_OK) < 0 && errno == ENOENT))
			continue;
		if (n++ == 0)
			(void)snprintf(dir, sizeof(dir), "%s/%s", RUN_DIR, e->d_name);
	}
	if (d)
		(void)closedir(d);
	if (n == 1)
		return 0;
	return fail(n ? "several run here; choose one with -n NAME: ls " : "none runs here: nothing in ", RUN_DIR);
}

int main(int argc, char **argv)
{
	int i = 1;

	(void)signal(SIGPIPE, SIG_DFL);
	color = isatty(1) && !getenv("NO_COLOR");
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			help(stdout);
			return 0;
		} else if (strcmp(argv[i], "--version") == 0) {
			printf("stillctl %s\n", STILLFS_VERSION);
			return 0;
		} else if (strcmp(argv[i], "--json") == 0) {
			json = true;
		} else if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) {
			(void)snprintf(dir, sizeof(dir), "%s/%.200s", RUN_DIR, argv[++i]);
		} else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
			(void)snprintf(dir, sizeof(dir), "%s", argv[++i]);
		} else if (strcmp(argv[i], "-n") == 0 || strcmp(argv[i], "--dir") == 0) {
			(void)fail("a value is missing after ", argv[i]);
			return 2;
		} else {
			(void)fail("unknown option; see --help: ", argv[i]);
			return 2;
		}
	}
	for (const struct command *c = commands; i < argc && c->name; c++) {
		if (strcmp(argv[i], c->name) != 0)
			continue;
		if (argc - i - 1 < c->min || argc - i - 1 > c->max) {
			fprintf(stderr, "stillctl: usage: stillctl %s %s\n", c->name, c->args);
			return 2;
		}
		if ((!*dir && find_dir() != 0) || check_dir() != 0)
			return 1;
		return c->run(argc - i - 1, argv + i + 1);
	}
	if (i < argc)
		(void)fail("unknown command; see --help: ", argv[i]);
	else
		help(stderr);
	return 2;
}
