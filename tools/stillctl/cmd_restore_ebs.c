/* tools/stillctl/cmd_restore_ebs.c - sets of provider ebs: volumes made of them, and copies in other regions. The work is
 * done by the program stillfs-ebs, which gets the set's id and the options of this stillfs. See ctl.h. */
#include <errno.h>
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define ARGS_MAX 64

static int set_id(const char *name, char id[40])
{
	char *text = ctl_slurp("list.json"), *save = NULL;

	id[0] = '\0';
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && !*id; line = strtok_r(NULL, "\n", &save)) {
		struct json_object *o = json_tokener_parse(line), *v;

		if (o && json_object_object_get_ex(o, "name", &v) && strcmp(json_object_get_string(v), name) == 0 &&
		    json_object_object_get_ex(o, "id", &v))
			(void)snprintf(id, 40, "%s", json_object_get_string(v));
		json_object_put(o);
	}
	free(text);
	return *id ? 0 : ctl_fail("no such set: ", name);
}

/* "ebs.region us-east-1" lines of `config` as -o ebs.region=us-east-1. */
static unsigned add_options(const char **args, unsigned n)
{
	char *text = ctl_slurp("config"), *save = NULL, *item;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line && n + 4 < ARGS_MAX; line = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(line, ' ');

		if (strncmp(line, "ebs.", 4) != 0 || !space || !space[1] || strncmp(line, "ebs.volumes ", 12) == 0)
			continue;
		*space = '=';
		item = strdup(line); /* as long as the process */
		if (!item)
			break;
		args[n++] = "-o";
		args[n++] = item;
	}
	free(text);
	return n;
}

int ctl_ebs(const char *command, int argc, char **argv)
{
	const char *args[ARGS_MAX + 64] = { NULL };
	char path[PATH_MAX], id[40], *provider = ctl_key("status", "provider");
	unsigned n = 0;
	bool ebs = provider && strcmp(provider, "ebs") == 0;

	free(provider);
	if (!ebs)
		return ctl_fail(command, ": only sets of provider ebs");
	if (ctl_check_name(argv[0]) || set_id(argv[0], id) != 0)
		return 1;
	if (ctl_program("stillfs-ebs", path, sizeof(path)) != 0)
		return 1;
	args[n++] = path;
	args[n++] = command;
	n = add_options(args, n);
	args[n++] = "--id";
	args[n++] = id;
	for (int i = 1; i < argc; i++)
		args[n++] = argv[i];
	(void)fflush(stdout);
	(void)execv(path, (char **)(uintptr_t)args);
	return ctl_fail("cannot start stillfs-ebs: ", strerror(errno));
}

int cmd_restore_ebs(int argc, char **argv)
{
	return ctl_ebs("restore", argc, argv);
}

int cmd_copy(int argc, char **argv)
{
	return ctl_ebs("copy", argc, argv);
}
