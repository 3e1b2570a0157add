/* tools/ec2_alone.c - see ec2_alone.h. The options go through a file in memory, as NAME NUL VALUE NUL: no argument list and
 * no environment shows the secrets among them.
 * Called by: ec2-consistent-snapshot.c. Blocks: no. Errors: said on stderr. */
#include "ec2_alone.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stillctl/ctl.h"

static char text[60000];
static size_t len;

int alone_keep(const char *name, const char *value)
{
	size_t n = strlen(name) + 1, v = strlen(value ? value : "") + 1;

	if (len + n + v > sizeof(text))
		return -1;
	memcpy(text + len, name, n);
	memcpy(text + len + n, value ? value : "", v);
	len += n + v;
	return 0;
}

int alone_run(void)
{
	char path[PATH_MAX], number[16];
	const char *args[3] = { path, number, NULL };
	int fd;

	if (ctl_program("stillfs-classic", path, sizeof(path)) != 0)
		return 1;
	fd = memfd_create("options", 0); /* the program closes it */
	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		return ctl_fail("no memory for the options: ", strerror(errno));
	explicit_bzero(text, sizeof(text));
	(void)snprintf(number, sizeof(number), "%d", fd);
	(void)execv(path, (char **)(uintptr_t)args);
	return ctl_fail("cannot start stillfs-classic: ", strerror(errno));
}

int alone_would(void)
{
	static const char *const steps[][2] = {
		{ "mysql-stop", "stop the MySQL server" }, { "mongo-stop", "stop mongod" }, { "mysql", "lock MySQL" }, { "percona", "lock MySQL" },
		{ "mongo", "lock MongoDB" }, { "mysql-master-status-file", "write the position to" }, { "pre-freeze-command", "run" },
		{ "freeze-filesystem", "freeze" }, { "volume", "snapshot" }, { "description", "  with the description" },
		{ "tag", "  with the tags" }, { "no-freeze-filesystem", "  find the volumes of" }, { "post-thaw-command", "run after the thaw" },
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		for (const char *p = text; p < text + len; p += strlen(p) + 1) {
			const char *name = p;

			p += strlen(p) + 1;
			if (strcmp(name, steps[i][0]) == 0)
				(void)fprintf(stderr, "ec2-consistent-snapshot: would %s%s%s\n", steps[i][1], *p ? " " : "", p);
		}
	return 0;
}
