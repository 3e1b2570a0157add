/* tools/stillctl/cmd_doctor.c - have the daemon look at all that a snapshot needs, and show every finding. See ctl.h.
 * The daemon looks between two snapshots, so this waits for a running one. Exit code 1 when something is bad. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define LONGEST_S 120

/* "WORD TEXT", the word in its colour: bad red, note yellow, ok green. */
static void show(const char *line)
{
	size_t n = strcspn(line, " ");

	if (ctl_color)
		printf("\033[%dm%.*s\033[0m%s\n", line[0] == 'b' ? 31 : line[0] == 'n' ? 33 : 32, (int)n, line, line + n);
	else
		puts(line);
}

/* What the kernel offers, as `status` has it. A snapshot needs none of it, so nothing here is bad. */
static int show_kernel(void)
{
	static const char *const keys[] = { "transport", "takeover", "shared_mmap" };
	char *text = ctl_slurp("status"), *save = NULL, out[512];

	if (!text)
		return ctl_fail("cannot read the control file ", "status");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
			size_t n = strlen(keys[i]);

			if (strncmp(line, keys[i], n) != 0 || line[n] != ' ')
				continue;
			(void)snprintf(out, sizeof(out), "%s kernel: %s", strncmp(line + n, " no: ", 5) == 0 ? "note" : "ok", line);
			show(out);
		}
	}
	free(text);
	return 0;
}

int cmd_doctor(int argc, char **argv)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	time_t end = time(NULL) + LONGEST_S;
	char *text = NULL, *save = NULL;
	int bad = 0;

	if (ctl_write("doctor", "run\n") != 0)
		return 1;
	do {
		(void)nanosleep(&pause, NULL);
		free(text);
		text = ctl_slurp("doctor");
	} while (text && strcmp(text, "running\n") == 0 && time(NULL) < end);
	if (!text)
		return ctl_fail("cannot read the control file ", "doctor");
	if (strcmp(text, "running\n") == 0) {
		free(text);
		return ctl_fail("the daemon has not looked within two minutes: is a snapshot running? read later: ", "doctor");
	}
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bad += strncmp(line, "bad ", 4) == 0;
		show(line);
	}
	free(text);
	return show_kernel() != 0 || bad ? 1 : 0;
}
