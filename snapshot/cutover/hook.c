/* snapshot/cutover/hook.c - hook.cutover: the operator's program, run once B takes writes, which has clients go there: a
 * virtual address, a name, a proxy. See tool.h.
 * Owns:      one process in a group of its own; killed with the group at its deadline (--hook-timeout).
 * Called by: ops.c. Blocks: up to the deadline. May be run again after a failure or a crash of ours: it has to bear that.
 * Errors:    its last line, and how it ended. */
#include "snapshot/cutover/tool.h"
#include "snapshot/program.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

static int await(pid_t pid, int out, uint32_t max_ms, char *said, size_t cap, int *status)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	struct pollfd p = { .fd = out, .events = POLLIN };
	char more[512];
	bool killed = false;
	size_t len = 0;
	ssize_t n;

	for (;;) {
		pid_t got = waitpid(pid, status, WNOHANG);

		while ((n = read(out, more, sizeof(more))) > 0) { /* its last words count */
			(void)!write(STDERR_FILENO, more, (size_t)n);
			if (len + (size_t)n >= cap)
				len = 0;
			memcpy(said + len, more, (size_t)n < cap ? (size_t)n : 0);
			len += (size_t)n < cap ? (size_t)n : 0;
			said[len] = '\0';
		}
		if (got == pid)
			return killed ? -ETIMEDOUT : 0;
		if (clock_boot_ns() >= end + (killed ? NS_PER_S : 0)) {
			if (killed)
				return -ETIMEDOUT; /* in an uninterruptible call: left to itself */
			(void)kill(-pid, SIGKILL);
			killed = true;
		}
		(void)poll(&p, 1, 5);
		if (p.revents & POLLHUP)
			p.fd = -1;
	}
}

static int start(struct cut *c, int out, pid_t *pid)
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
	return program_spawn(c->o.hook, argv, env, -1, out, out, pid);
}

int hook_run(struct cut *c, struct snap_error *err)
{
	char said[2048] = "";
	const char *last;
	int out[2], status = 0, r = hook_check(c->o.hook, err);
	pid_t pid = -1;

	if (r < 0 || !*c->o.hook)
		return r;
	if (pipe2(out, O_CLOEXEC | O_NONBLOCK) < 0)
		return snap_error_set(err, -errno, "hook: pipe: %s", strerror(errno));
	r = start(c, out[1], &pid);
	(void)close(out[1]);
	if (r < 0)
		snap_error_set(err, r, "hook: run %s: %s", c->o.hook, strerror(-r));
	else
		r = await(pid, out[0], c->o.hook_ms, said, sizeof(said), &status);
	(void)close(out[0]);
	if (r == -ETIMEDOUT)
		return snap_error_set(err, r, "hook: %s had not ended after %u ms and was killed", c->o.hook, c->o.hook_ms);
	if (r < 0)
		return r;
	last = program_last_line(said);
	if (WIFSIGNALED(status))
		return snap_error_set(err, -EIO, "hook: %s was ended by signal %d", c->o.hook, WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return snap_error_set(err, -EIO, "hook: %s ended with code %d%s%.200s", c->o.hook, WEXITSTATUS(status), *last ? ": " : "", last);
	return 0;
}
