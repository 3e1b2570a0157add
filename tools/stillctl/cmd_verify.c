/* tools/stillctl/cmd_verify.c - have a set verified and follow it. See ctl.h. Ctrl-C ends the following, not the
 * verification. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define BAR 30

static void show(const char *line)
{
	unsigned percent = 0;
	int n = 0, full;

	if (!isatty(2))
		return;
	if (sscanf(line, "running %u %n", &percent, &n) != 1)
		n = 0;
	full = (int)(percent * BAR / 100);
	fprintf(stderr, "\r\033[K[%.*s%*s] %3u%% %.40s", full, "##############################", BAR - full, "", percent,
		n ? line + n : "waits for another one");
}

static void clear(void)
{
	if (isatty(2))
		fputs("\r\033[K", stderr);
}

int ctl_verify(const char *name)
{
	const struct timespec pause = { .tv_nsec = 200000000 };
	char rel[256], text[128], *line;
	int fd, e = 0;

	(void)snprintf(text, sizeof(text), "%.100s\n", name);
	fd = ctl_open("verify", O_WRONLY);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		e = errno;
	if (fd >= 0)
		(void)close(fd);
	if (e && e != EBUSY) /* EBUSY: it is under way already */
		return e == EACCES ? ctl_fail("permission denied: run as root or in the group control_gid", "") :
				     ctl_refused("verify", e);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/verified", name);
	while ((line = ctl_slurp(rel))) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "running", 7) != 0 && strcmp(line, "queued") != 0)
			break;
		show(line);
		free(line);
		(void)nanosleep(&pause, NULL);
	}
	clear();
	if (!line)
		return ctl_fail("no such set: ", name);
	e = strncmp(line, "yes ", 4) == 0 || strncmp(line, "files ", 6) == 0 ? 0 : 1;
	fprintf(e ? stderr : stdout, "%s%s: %s\n", e ? "stillctl: " : "", name, line);
	if (e)
		fprintf(stderr, "stillctl: snapshots/%s/verify.log has the details\n", name);
	free(line);
	return e;
}

int cmd_verify(int argc, char **argv)
{
	char text[128];

	if (strcmp(argv[0], "--cancel") == 0) {
		(void)snprintf(text, sizeof(text), "cancel %.100s\n", argc > 1 ? argv[1] : "");
		return ctl_write("verify", text);
	}
	if (argc > 1)
		return ctl_fail("unknown argument ", argv[1]), 2;
	return ctl_check_name(argv[0]) ? 1 : ctl_verify(argv[0]);
}
