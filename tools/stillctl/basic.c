/* tools/stillctl/basic.c - the commands that are little more than one control file. See ctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define LOOK_TICKS 300 /* tenths of a second, above what the daemon gives the provider */

int cmd_status(int argc, char **argv)
{
	return ctl_json ? ctl_print_json("status") : ctl_print("status");
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

int cmd_snapshot(int argc, char **argv)
{
	static char text[3 * CTL_COMMAND_MAX];

	for (int i = 0; i < argc; i++)
		if (!add_word(text, sizeof(text) - 2, argv[i]) || strlen(text) >= CTL_COMMAND_MAX)
			return ctl_fail("the request is longer than a control file takes, 8192 bytes: ", "shorten it");
	(void)strcat(text, "\n");
	if (ctl_write("snapshot", text) != 0)
		return 1;
	return ctl_json ? ctl_print_json("snapshot") : ctl_print("snapshot");
}

/* Reading list.all asks for a look at the provider: wait for what it finds. */
static int look_around(void)
{
	const struct timespec tick = { .tv_nsec = 100000000 };
	char *looked, *text = ctl_slurp("list.all"), *failed;

	free(text);
	for (int i = 0; (looked = ctl_key("status", "list_all_looked")) && strncmp(looked, "looking", 7) == 0 && i < LOOK_TICKS; i++) {
		free(looked);
		(void)nanosleep(&tick, NULL);
	}
	failed = looked ? strstr(looked, "failed: ") : NULL;
	if (failed)
		(void)ctl_fail("only what the catalog has: ", failed + 8);
	free(looked);
	return failed ? 1 : 0;
}

/* The table, with the state in colour on a terminal. */
int cmd_list(int argc, char **argv)
{
	static const struct {
		const char *word, *code;
	} states[] = { { " complete ", "\033[32m" }, { " failed ", "\033[31m" }, { " pending ", "\033[33m" },
		       { " running ", "\033[33m" } };
	const char *file = argc ? "list.all" : "list";
	char *text, *save = NULL;

	if (argc && strcmp(argv[0], "--all") != 0)
		return ctl_fail("usage: stillctl list [--all]", ""), 2;
	if (argc && look_around() != 0)
		return 1;
	if (ctl_json)
		return ctl_print(argc ? "list.all.json" : "list.json");
	text = ctl_slurp(file);
	if (!text)
		return ctl_fail("cannot read the control file ", file);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *hit = NULL;
		size_t k = 0;

		for (; ctl_color && !hit && k < sizeof(states) / sizeof(states[0]); k++)
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

static int show_json(const char *name)
{
	char *text = ctl_slurp("list.json"), *save = NULL;
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
	return found ? 0 : ctl_fail("no such set: ", name);
}

int cmd_show(int argc, char **argv)
{
	static const char *const files[] = { "id", "state", "progress", "created", "description", "tags",
					     "pin", "position", "lock_ms", "hold_ms", "volumes", "size",
					     "verified", "last_error", "log" };
	static char link[PATH_MAX], path[PATH_MAX];
	char rel[256];
	ssize_t n;

	if (ctl_check_name(argv[0]))
		return 1;
	if (ctl_json)
		return show_json(argv[0]);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/id", argv[0]);
	if (faccessat(AT_FDCWD, (snprintf(path, sizeof(path), "%s/%s", ctl_dir, rel), path), F_OK, 0) < 0)
		return ctl_fail("no such set: ", argv[0]);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		char *text, *save = NULL;

		(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/%s", argv[0], files[i]);
		text = ctl_slurp(rel);
		for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		     line = strtok_r(NULL, "\n", &save))
			printf("%-12s %s\n", files[i], line);
		free(text);
	}
	(void)snprintf(path, sizeof(path), "%s/snapshots/%.100s/data", ctl_dir, argv[0]);
	n = readlink(path, link, sizeof(link) - 1);
	if (n > 0)
		printf("%-12s %.*s\n", "data", (int)n, link);
	return 0;
}

int cmd_gate(int argc, char **argv)
{
	char text[256];

	if (argc == 0)
		return ctl_print("gate");
	(void)snprintf(text, sizeof(text), "%.100s%s%.100s\n", argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	return ctl_write("gate", text);
}

int cmd_abort(int argc, char **argv)
{
	return ctl_write("abort", "1\n");
}

int cmd_events(int argc, char **argv)
{
	bool follow = argc == 1 && (strcmp(argv[0], "-f") == 0 || strcmp(argv[0], "--follow") == 0);
	static char buf[65536];
	ssize_t n;
	int fd;

	if (argc == 1 && !follow)
		return ctl_fail("unknown argument ", argv[0]), 2;
	fd = ctl_open("events", O_RDONLY | (follow ? 0 : O_NONBLOCK));
	if (fd < 0)
		return ctl_fail("cannot open the control file ", "events");
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		(void)fwrite(buf, 1, (size_t)n, stdout);
		if (fflush(stdout) != 0)
			break;
	}
	n = n < 0 && errno != EAGAIN ? errno : 0;
	(void)close(fd);
	return n ? ctl_fail("read events: ", strerror((int)n)) : 0;
}

int cmd_wait(int argc, char **argv)
{
	char rel[256], *text;

	if (ctl_check_name(argv[0]))
		return 1;
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/wait", argv[0]);
	text = ctl_slurp(rel);
	if (!text) {
		int e = errno;

		if (e == ENOENT)
			return ctl_fail("no such set: ", argv[0]);
		(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/last_error", argv[0]);
		text = ctl_slurp(rel);
		fprintf(stderr, "stillctl: %s: %s", argv[0], text ? text : strerror(e));
		free(text);
		return 1;
	}
	fputs(text, stdout);
	free(text);
	return 0;
}
