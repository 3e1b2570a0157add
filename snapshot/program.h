/* snapshot/program.h - an operator's executable, started apart from this daemon, and awaited: hooks and the scripts of
 * provider exec. Threads: any. Blocks: program_run up to its deadline, and a second more while what is killed ends. */
#ifndef STILLFS_SNAPSHOT_PROGRAM_H
#define STILLFS_SNAPSHOT_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One call. It runs with these arguments and this environment only, in a process group of its own, with the usual signals
 * and no descriptor of ours but in. */
struct program {
	const char *path;
	char *const *argv, *const *env;
	int in; /* its stdin; -1: /dev/null */
	bool one_pipe; /* stderr goes where stdout does, in its order */
	bool alone; /* whom it leaves behind in its group is killed, too */
	uint64_t deadline_ns; /* CLOCK_BOOTTIME: killed then, with its group: -ETIMEDOUT */
	int (*why)(void *arg); /* or NULL: not 0: killed, and the result */
	int (*said)(void *arg, bool errs, const char *text, size_t n); /* what it wrote; not 0: killed, and the result */
	void *arg;
	/* filled: */
	bool ran; /* else it could not be started */
	int status; /* as of waitpid, when 0 came back */
};

/* 0: it has ended, p->status says how. Else -errno: not started, or killed; one in an uninterruptible call is left to itself
 * after a second. */
int program_run(struct program *p);
/* For program.said: to the end of text (cap bytes, *len of them used), and what is too much cuts off the beginning. */
void program_keep_end(char *text, size_t cap, size_t *len, const char *more, size_t n);
/* The last line of what it said, "" when nothing; cuts white space off the end of text, and points into it. */
const char *program_last_line(char *text);

#endif
