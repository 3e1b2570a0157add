/* snapshot/cutover/hook.c - hook.cutover: the operator's program, run once B takes writes, which has clients go there: a
 * virtual address, a name, a proxy. See tool.h.
 * Owns:      one process in a group of its own; killed with the group at its deadline (--hook-timeout).
 * Called by: ops.c. Blocks: up to the deadline. May be run again after a failure or a crash of ours: it has to bear that.
 * Errors:    its last line, and how it ended. */
#include "snapshot/cutover/tool.h"
#include "snapshot/program.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int hook_check(const char *path, struct snap_error *err)
{
	struct stat st;

	if (!*path)
		return 0;
	if (*path != '/' || stat(path, &st) < 0)
		return snap_error_set(err, *path != '/' ? -EINVAL : -errno, "hook %s: %s", path,
				      *path != '/' ? "an absolute path is expected" : strerror(errno));
	if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
		return snap_error_set(err, -EACCES, "hook %s is no executable file: chmod +x it", path);
	if (st.st_uid != geteuid() || st.st_mode & 022)
		return snap_error_set(err, -EPERM, "hook %s can be written by others than the user who runs it: chown it and chmod go-w it", path);
	return 0;
}

struct words {
	char last[2048];
	size_t len;
};

static int hear(void *arg, bool errs, const char *text, size_t n)
{
	struct words *w = arg;

	(void)!write(STDERR_FILENO, text, n);
	program_keep_end(w->last, sizeof(w->last), &w->len, text, n);
	return 0;
}

static int start(struct cut *c, struct program *p)
{
	char id[40], from[400], to[400], from_name[600], to_name[600];
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", hook[] = "STILLFS_HOOK=cutover";
	char *argv[] = { c->o.hook, (char *)(uintptr_t)"cutover", NULL };
	char *env[] = { path, hook, id, from, to, from_name, to_name, NULL };

	(void)snprintf(id, sizeof(id), "STILLFS_CUTOVER=%u", cutlog_id(c->log));
	(void)snprintf(from, sizeof(from), "STILLFS_FROM=%s", c->a.host);
	(void)snprintf(to, sizeof(to), "STILLFS_TO=%s", c->b.host);
	(void)snprintf(from_name, sizeof(from_name), "STILLFS_FROM_NAME=%s", c->a.given);
	(void)snprintf(to_name, sizeof(to_name), "STILLFS_TO_NAME=%s", c->b.given);
	p->path = c->o.hook;
	p->argv = argv;
	p->env = env;
	return program_run(p);
}

int hook_run(struct cut *c, struct snap_error *err)
{
	struct words w = { .len = 0 };
	struct program p = { .in = -1, .one_pipe = true, .said = hear, .arg = &w,
			     .deadline_ns = clock_boot_ns() + c->o.hook_ms * NS_PER_MS };
	int r = hook_check(c->o.hook, err);
	const char *last;

	if (r < 0 || !*c->o.hook)
		return r;
	r = start(c, &p);
	if (!p.ran)
		return snap_error_set(err, r, "hook: run %s: %s", c->o.hook, strerror(-r));
	if (r == -ETIMEDOUT)
		return snap_error_set(err, r, "hook: %s had not ended after %u ms and was killed", c->o.hook, c->o.hook_ms);
	if (r < 0)
		return snap_error_set(err, r, "hook: %s: %s", c->o.hook, strerror(-r));
	last = program_last_line(w.last);
	if (WIFSIGNALED(p.status))
		return snap_error_set(err, -EIO, "hook: %s was ended by signal %d", c->o.hook, WTERMSIG(p.status));
	if (WEXITSTATUS(p.status) != 0)
		return snap_error_set(err, -EIO, "hook: %s ended with code %d%s%.200s", c->o.hook, WEXITSTATUS(p.status), *last ? ": " : "", last);
	return 0;
}
