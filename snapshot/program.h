/* snapshot/program.h - an operator's executable, started apart from this daemon: hooks and the scripts of provider exec.
 * Threads: any. Blocks: as posix_spawn(3) does. */
#ifndef STILLFS_SNAPSHOT_PROGRAM_H
#define STILLFS_SNAPSHOT_PROGRAM_H

#include <sys/types.h>

/* Run path with these arguments and this environment only, in a process group of its own (kill(-pid) ends whom it
 * starts, too), with the usual signals and no descriptor of ours but in (-1: /dev/null), out and errs. 0 or -errno. */
int program_spawn(const char *path, char *const argv[], char *const env[], int in, int out, int errs, pid_t *pid);
/* The last line of what it said, "" when nothing; cuts white space off the end of text, and points into it. */
const char *program_last_line(char *text);

#endif
