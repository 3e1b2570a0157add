/* tools/stillctl/cmd_upgrade.c - have the installed binary go on with the mounts, and wait for what came of it. See
 * ctl.h. The control tree is silent while one daemon follows the other, so a read that waits is no sign of harm. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

#define LONGEST_S 60

int cmd_upgrade(int argc, char **argv)
{
	const struct timespec tick = { .tv_nsec = 20000000 };
	time_t end = time(NULL) + LONGEST_S;
	char *text = NULL, *save = NULL, *word, *when, *rest;
	int r;

	if (ctl_write("upgrade", "start\n") != 0)
		return 1;
	do {
		(void)nanosleep(&tick, NULL);
		free(text);
		text = ctl_slurp("upgrade");
	} while (text && strcmp(text, "running\n") == 0 && time(NULL) < end);
	if (!text)
		return ctl_fail("cannot read the control file ", "upgrade");
	word = strtok_r(text, " \n", &save);
	when = strtok_r(NULL, " \n", &save);
	rest = strtok_r(NULL, "\n", &save);
	r = word && strcmp(word, "done") == 0 ? 0 : 1;
	if (!when || !rest)
		(void)ctl_fail("the upgrade has not ended within a minute; read later: ", "upgrade");
	else if (r)
		(void)ctl_fail(rest, "");
	else
		printf("upgraded %s\n", rest);
	free(text);
	return r;
}
