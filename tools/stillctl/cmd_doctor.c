/* tools/stillctl/cmd_doctor.c - have the daemon look at all that a snapshot needs, and show every finding. See ctl.h.
 * The daemon looks between two snapshots, so this waits for a running one. Exit code 1 when something is bad. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define LONGEST_S 120

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
		bool is_bad = strncmp(line, "bad ", 4) == 0;

		bad += is_bad;
		if (ctl_color)
			printf("\033[%dm%.4s\033[0m%s\n", is_bad ? 31 : 32, line, strlen(line) > 4 ? line + 4 : "");
		else
			puts(line);
	}
	free(text);
	return bad ? 1 : 0;
}
