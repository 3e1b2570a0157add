/* snapshot/program.c - see program.h. Owns: one process at a time for each caller, and its pipes.
 * Called by: hooks.c, exec_provider/script.c, cutover/hook.c. */
#include "snapshot/program.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 2

static int spawn(const struct program *p, int out, int errs, pid_t *pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	(void)sigemptyset(&none);
	(void)sigfillset(&all);
	(void)posix_spawn_file_actions_init(&files);
	if (p->in < 0)
		(void)posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	else
		(void)posix_spawn_file_actions_adddup2(&files, p->in, 0);
	(void)posix_spawn_file_actions_adddup2(&files, out, 1);
	(void)posix_spawn_file_actions_adddup2(&files, errs, 2);
	(void)posix_spawn_file_actions_addclosefrom_np(&files, 3); /* /dev/fuse, the database's socket */
	(void)posix_spawnattr_init(&attr);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	(void)posix_spawnattr_setpgroup(&attr, 0);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setsigdefault(&attr, &all);
	r = posix_spawn(pid, p->path, &files, &attr, p->argv, p->env);
	(void)posix_spawnattr_destroy(&attr);
	(void)posix_spawn_file_actions_destroy(&files);
	return -r;
}

/* What is there now. */
static int take(const struct program *p, int fd, bool errs)
{
	char more[4096];
	ssize_t n;
	int r = 0;

	while (fd >= 0 && r == 0 && (n = read(fd, more, sizeof(more))) > 0)
		r = p->said(p->arg, errs, more, (size_t)n);
	return r;
}

static int await(struct program *p, pid_t pid, int out, int errs)
{
	struct pollfd f[2] = { { .fd = out, .events = POLLIN }, { .fd = errs, .events = POLLIN } };
	uint64_t killed = 0;
	int r = 0, said;

	for (;;) {
		pid_t got = waitpid(pid, &p->status, WNOHANG); /* before its last words are taken */

		said = take(p, out, false);
		said = said ? said : take(p, errs, true);
		if (got == pid) {
			if (p->alone)
				(void)kill(-pid, SIGKILL);
			return r ? r : said;
		}
		if (got < 0 && errno != EINTR)
			return -errno;
		r = r ? r : said;
		r = r || !p->why ? r : p->why(p->arg);
		r = r || clock_boot_ns() < p->deadline_ns ? r : -ETIMEDOUT;
		if (r && !killed) {
			(void)kill(-pid, SIGKILL);
			killed = clock_boot_ns();
		}
		if (killed && clock_boot_ns() >= killed + NS_PER_S)
			return r;
		(void)poll(f, 2, TICK_MS);
		for (int i = 0; i < 2; i++)
			if (f[i].revents & POLLHUP)
				f[i].fd = -1;
	}
}

/* Our end does not block; the program's does, as it would at a terminal. */
static int make_pipe(int p[2])
{
	int r = pipe2(p, O_CLOEXEC) < 0 ? -errno : 0;

	if (r == 0)
		(void)fcntl(p[0], F_SETFL, O_NONBLOCK);
	return r;
}

static void shut(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

int program_run(struct program *p)
{
	int out[2] = { -1, -1 }, errs[2] = { -1, -1 }, r = make_pipe(out);
	pid_t pid = -1;

	p->ran = false;
	p->status = 0;
	if (r == 0 && !p->one_pipe)
		r = make_pipe(errs);
	if (r == 0)
		r = spawn(p, out[1], p->one_pipe ? out[1] : errs[1], &pid);
	shut(out[1]);
	shut(errs[1]);
	if (r == 0) {
		p->ran = true;
		r = await(p, pid, out[0], errs[0]);
	}
	shut(out[0]);
	shut(errs[0]);
	return r;
}

void program_keep_end(char *text, size_t cap, size_t *len, const char *more, size_t n)
{
	size_t take = n < cap - 1 ? n : cap - 1, keep = *len + take < cap ? *len : cap - 1 - take;

	memmove(text, text + *len - keep, keep);
	memcpy(text + keep, more + n - take, take);
	for (size_t i = keep; i < keep + take; i++)
		if (!text[i])
			text[i] = ' '; /* or it would end there */
	*len = keep + take;
	text[*len] = '\0';
}

const char *program_last_line(char *text)
{
	size_t len = strlen(text);
	char *nl;

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	nl = strrchr(text, '\n');
	return nl ? nl + 1 : text;
}
