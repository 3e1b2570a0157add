/* tools/stillctl/cmd_fence.c - the control file `fence`: write a command, wait until it is carried out, say what came of it.
 * See ctl.h. The daemon carries it out between two snapshots. Exit code 1 when the fence is not what was asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

#define LONGEST_S 150 /* above the daemon's own limit */

/* The line that begins with word; NULL: none. */
static const char *line_of(const char *text, const char *word)
{
	for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, word, strlen(word)) == 0)
			return p;
	return NULL;
}

static bool is(const char *text, const char *state)
{
	return strcspn(text, "\n") == strlen(state) && strncmp(text, state, strlen(state)) == 0;
}

/* Carried out: 0 as asked for, 1 not, -1 not yet. */
static int outcome(const char *command, const char *text)
{
	bool error = line_of(text, "error ") != NULL;

	if (strcmp(command, "check") == 0)
		return !line_of(text, "check ") ? -1 : line_of(text, "check ok\n") ? 0 : 1;
	if (strcmp(command, "retire") == 0)
		return line_of(text, "retired yes\n") ? 0 : error ? 1 : -1;
	if (strcmp(command, "on hard") == 0)
		return is(text, "on hard") ? 0 : is(text, "off") || error ? 1 : -1;
	if (strcmp(command, "on") == 0)
		return is(text, "on") ? 0 : is(text, "off") || (is(text, "on half") && error) ? 1 : -1;
	return is(text, "off") ? 0 : error ? 1 : -1;
}

static int carry_out(const char *command)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	time_t end = time(NULL) + LONGEST_S;
	const char *error;
	char *text = NULL;
	char line[48];
	int r = -1;

	(void)snprintf(line, sizeof(line), "%s\n", command);
	if (ctl_write("fence", line) != 0)
		return 1;
	while (r < 0 && time(NULL) < end) {
		(void)nanosleep(&pause, NULL);
		free(text);
		text = ctl_slurp("fence");
		if (!text)
			return ctl_fail("cannot read the control file ", "fence");
		r = outcome(command, text);
	}
	error = line_of(text, "error ");
	if (r < 0)
		ctl_fail("not done within two minutes, and still going on: read later: ", "fence");
	else if (strcmp(command, "check") == 0)
		fputs(line_of(text, "check "), stdout);
	else if (r > 0 && error)
		fprintf(stderr, "stillctl: %.*s\n", (int)strcspn(error + 6, "\n"), error + 6);
	else
		fputs(text, stdout);
	free(text);
	return r == 0 ? 0 : 1;
}

int cmd_fence(int argc, char **argv)
{
	static const char *const commands[] = { "on", "on hard", "off", "off force", "check", "retire", NULL };
	char command[32];

	if (argc == 0 || (argc == 1 && strcmp(argv[0], "show") == 0))
		return ctl_print("fence");
	(void)snprintf(command, sizeof(command), "%s%s%s", argv[0], argc == 2 ? " " : "", argc == 2 ? argv[1] : "");
	for (int i = 0; commands[i]; i++)
		if (strcmp(commands[i], command) == 0)
			return carry_out(command);
	return ctl_fail("fence: expected show, check, on, on hard, off, off force or retire, not ", command), 2;
}
