/* tools/stillctl/cmd_cutover.c - clients from one database server to another. The work is done by the program
 * stillfs-cutover, which gets the arguments as they are; it needs no stillfs that runs. See ctl.h. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define ARGS_MAX 66

int cmd_cutover(int argc, char **argv)
{
	const char *args[ARGS_MAX + 2] = { NULL };
	char path[PATH_MAX];

	if (ctl_program("stillfs-cutover", path, sizeof(path)) != 0)
		return 1;
	args[0] = path;
	for (int i = 0; i < argc && i < ARGS_MAX; i++)
		args[i + 1] = argv[i];
	(void)fflush(stdout);
	(void)execv(path, (char **)(uintptr_t)args);
	return ctl_fail("cannot start stillfs-cutover: ", strerror(errno));
}
