/* tools/stillctl/cmd_rescan.c - ask for a rescan and wait for what came of it. See ctl.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"

#define TICK_MS 100

int ctl_rescan_wait(bool show)
{
	const struct timespec tick = { .tv_nsec = TICK_MS * 1000000 };
	const char *msg;
	char *text;

	for (;;) {
		text = ctl_slurp("rescan");
		if (!text)
			return ctl_fail("cannot read the control file ", "rescan");
		if (strncmp(text, "state running", 13) != 0)
			break;
		free(text);
		(void)nanosleep(&tick, NULL);
	}
	if (strncmp(text, "state failed", 12) == 0) {
		msg = strstr(text, "message ");
		fprintf(stderr, "stillctl: %.*s\n", msg ? (int)strcspn(msg + 8, "\n") : 6, msg ? msg + 8 : "failed");
		free(text);
		return 1;
	}
	if (show)
		fputs(text, stdout);
	free(text);
	return 0;
}

int cmd_rescan(int argc, char **argv)
{
	char text[256];

	(void)snprintf(text, sizeof(text), "%.200s\n", argc ? argv[0] : "");
	if (ctl_write("rescan", text) != 0)
		return 1;
	return ctl_rescan_wait(true);
}
