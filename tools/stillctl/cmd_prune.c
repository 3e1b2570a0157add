/* tools/stillctl/cmd_prune.c - retention, prune, pin and unpin, delete. See ctl.h. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define LOOK_TICKS 300 /* tenths of a second, above what the daemon gives the provider */

/* Each argument is a line: KEY=VALUE, "KEY VALUE" or -KEY. All or none. */
int cmd_retention(int argc, char **argv)
{
	static char text[CTL_COMMAND_MAX + 1];
	size_t n = 0;

	if (!argc)
		return ctl_json ? ctl_print_json("retention") : ctl_print("retention");
	if (argc == 1 && strcmp(argv[0], "-") == 0) {
		n = fread(text, 1, sizeof(text), stdin);
		if (ferror(stdin) || n == sizeof(text))
			return ctl_fail("standard input cannot be read, or is longer than a control file takes, 8192 bytes: ", "retention");
		text[n] = '\0';
		return ctl_write("retention", text) != 0 ? 1 : ctl_print("retention");
	}
	for (int i = 0; i < argc; i++) {
		const char *eq = strpbrk(argv[i], "= ");
		int len = snprintf(text + n, sizeof(text) - n, "%.*s%s%s\n", eq ? (int)(eq - argv[i]) : (int)strlen(argv[i]), argv[i],
				   eq ? " " : "", eq ? eq + 1 : "");

		if (len < 0 || (size_t)len >= sizeof(text) - n || memchr(argv[i], '\n', strlen(argv[i])))
			return ctl_fail("too long, or more than one line: ", argv[i]);
		n += (size_t)len;
	}
	return ctl_write("retention", text) != 0 ? 1 : ctl_print("retention");
}

/* ACTION NAME CLASS CREATED STATE WHY, two blanks between. */
static struct json_object *row_json(char *line)
{
	static const char *const keys[] = { "action", "name", "class", "created", "state", "why" };
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && *line; i++) {
		char *end = i + 1 < sizeof(keys) / sizeof(keys[0]) ? strstr(line, "  ") : NULL, *next = line + strlen(line);

		if (end) {
			next = end + strspn(end, " ");
			*end = '\0';
		}
		json_object_object_add(o, keys[i], json_object_new_string(line));
		line = next;
	}
	return o;
}

static int plan_json(char *text)
{
	struct json_object *o = json_object_new_object(), *rows = json_object_new_array();
	bool table = false;
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(line, ' ');

		if (table) {
			json_object_array_add(rows, row_json(line));
		} else if (strncmp(line, "ACTION ", 7) == 0) {
			table = true;
		} else if (space) {
			*space = '\0';
			json_object_object_add(o, line, json_object_new_string(space + 1));
		}
	}
	json_object_object_add(o, "sets", rows);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return 0;
}

static bool looking(const char *text)
{
	return strstr(text, "\norphans looking\n") || strstr(text, "\nholds looking\n");
}

/* Reading the plan has the provider asked what it has without a record, and what it holds: with what that finds. */
static char *plan_text(void)
{
	const struct timespec tick = { .tv_nsec = 100000000 };
	char *text = ctl_slurp("prune");

	for (int i = 0; text && looking(text) && i < LOOK_TICKS; i++) {
		free(text);
		(void)nanosleep(&tick, NULL);
		text = ctl_slurp("prune");
	}
	return text;
}

static int show_plan(void)
{
	char *text = plan_text(), *save = NULL;

	if (!text)
		return ctl_fail("cannot read the control file prune: ", strerror(errno));
	if (ctl_json) {
		plan_json(text);
		free(text);
		return 0;
	}
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *color = !ctl_color ? NULL : strncmp(line, "delete  ", 8) == 0 || strncmp(line, "removing  ", 10) == 0 ?
					    "\033[31m" : strncmp(line, "keep  ", 6) == 0 ? "\033[32m" : NULL;

		printf("%s%s%s\n", color ? color : "", line, color ? "\033[0m" : "");
	}
	free(text);
	return 0;
}

int cmd_prune(int argc, char **argv)
{
	char text[128];

	if (!argc)
		return show_plan();
	if (strcmp(argv[0], "log") == 0 && argc == 1)
		return ctl_print("prune.log");
	if (strcmp(argv[0], "apply") != 0 && (strcmp(argv[0], "adopt") != 0 || argc > 1))
		return ctl_fail("usage: stillctl prune [apply [PLANID] | adopt | log], not ", argv[0]), 2;
	(void)snprintf(text, sizeof(text), "%.8s%s%.60s\n", argv[0], argc > 1 ? " " : "", argc > 1 ? argv[1] : "");
	return ctl_write("prune", text);
}

static int set_pin(const char *name, const char *text)
{
	char rel[PATH_MAX];

	if (ctl_check_name(name))
		return 1;
	(void)snprintf(rel, sizeof(rel), "%s/snapshots/%.100s", ctl_dir, name);
	if (access(rel, F_OK) < 0 && errno == ENOENT)
		return ctl_fail("no such set: ", name);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/pin", name);
	return ctl_write(rel, text);
}

int cmd_pin(int argc, char **argv)
{
	return set_pin(argv[0], "yes\n");
}

int cmd_unpin(int argc, char **argv)
{
	return set_pin(argv[0], "no\n");
}

int cmd_delete(int argc, char **argv)
{
	bool force = strcmp(argv[0], "--force") == 0, orphan = strcmp(argv[0], "--orphan") == 0;
	const char *name = argv[argc - 1];
	char path[PATH_MAX], text[128];

	if (argc - 1 != (force || orphan ? 1 : 0))
		return ctl_fail("usage: stillctl delete [--force] NAME | delete --orphan ID", ""), 2;
	if (ctl_check_name(name))
		return 1;
	if (orphan)
		free(plan_text());
	if (force || orphan) {
		(void)snprintf(text, sizeof(text), "delete %.70s %s\n", name, force ? "force" : "orphan");
		return ctl_write("prune", text);
	}
	(void)snprintf(path, sizeof(path), "%s/snapshots/%.200s", ctl_dir, name);
	if (rmdir(path) == 0)
		return 0;
	if (errno == EACCES)
		return ctl_fail("permission denied: run as root or in the group control_gid", "");
	if (errno == ENOENT)
		return ctl_fail("no such set: ", name);
	return ctl_refused(name, errno);
}
