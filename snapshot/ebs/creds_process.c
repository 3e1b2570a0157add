/* snapshot/ebs/creds_process.c - credential_process: a program that prints keys. No shell: the command is split at
 * blanks, with quotes and backslashes as in one. Killed at the deadline. What it says on stderr is not kept: it may hold
 * secrets. */
#include "snapshot/ebs/creds_int.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#define ARGS_MAX 64
#define OUTPUT_MAX 65536u
#define LONGEST_MS 20000u

extern char **environ;

/* Cut text, which is changed, into words. -EINVAL: a quote is not closed; -E2BIG. */
static int split(char *text, char *argv[ARGS_MAX + 1])
{
	char *in = text, *out = text;
	int n = 0;

	for (;;) {
		char quote = 0;

		in += strspn(in, " \t");
		if (!*in)
			break;
		if (n == ARGS_MAX)
			return -E2BIG;
		argv[n++] = out;
		for (; *in && (quote || (*in != ' ' && *in != '\t')); in++) {
			if (quote ? *in == quote : *in == '"' || *in == '\'')
				quote = quote ? 0 : *in;
			else if (*in == '\\' && quote != '\'' && in[1])
				*out++ = *++in;
			else
				*out++ = *in;
		}
		if (quote)
			return -EINVAL;
		in += *in != '\0';
		*out++ = '\0';
	}
	argv[n] = NULL;
	return n ? 0 : -EINVAL;
}

static int start(char *const argv[], int out, pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none;
	int r;

	(void)sigemptyset(&none);
	(void)posix_spawn_file_actions_init(&fa);
	(void)posix_spawnattr_init(&at);
	(void)posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	(void)posix_spawn_file_actions_adddup2(&fa, out, 1);
	(void)posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	(void)posix_spawn_file_actions_addclosefrom_np(&fa, 3);
	(void)posix_spawnattr_setsigmask(&at, &none);
	(void)posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
	r = posix_spawnp(pid, argv[0], &fa, &at, argv, environ);
	(void)posix_spawn_file_actions_destroy(&fa);
	(void)posix_spawnattr_destroy(&at);
	return -r;
}

/* Its output until its end. */
static int collect(struct creds *c, int fd, char *buf, uint64_t end_ns)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t len = 0;
	ssize_t n;

	for (;;) {
		if (c->stop && c->stop(c->stop_arg))
			return -ECANCELED;
		if (clock_boot_ns() >= end_ns)
			return -ETIMEDOUT;
		if (poll(&p, 1, 20) <= 0)
			continue;
		n = read(fd, buf + len, OUTPUT_MAX - 1 - len);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		len += n > 0 ? (size_t)n : 0;
		if (len == OUTPUT_MAX - 1)
			return -EFBIG;
	}
}

/* 0: it ended well. Killed at end_ns, or at once when `kill_it`. */
static int reap(pid_t pid, uint64_t end_ns, bool kill_it)
{
	const struct timespec tick = { .tv_nsec = 5000000 };
	bool killed = false;
	int status;
	pid_t got;

	for (;;) {
		if (!killed && (kill_it || clock_boot_ns() >= end_ns))
			killed = kill(pid, SIGKILL) == 0;
		got = waitpid(pid, &status, WNOHANG);
		if (got == pid)
			return killed ? -ETIMEDOUT : WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EACCES;
		if (got < 0 && errno != EINTR)
			return 0; /* somebody else has collected it */
		(void)nanosleep(&tick, NULL);
	}
}

int creds_process(struct creds *c, const char *command, struct aws_key *out, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + LONGEST_MS * NS_PER_MS;
	cleanup_free char *text = strdup(command);
	char *argv[ARGS_MAX + 1], *buf = calloc(1, OUTPUT_MAX);
	int fds[2] = { -1, -1 }, r, w;
	pid_t pid = -1;

	end = end < c->deadline_ns ? end : c->deadline_ns;
	r = text && buf ? split(text, argv) : -ENOMEM;
	if (r == 0 && pipe2(fds, O_CLOEXEC) < 0)
		r = -errno;
	if (r == 0)
		r = start(argv, fds[1], &pid);
	if (fds[1] >= 0)
		(void)close(fds[1]);
	if (r == 0) {
		r = collect(c, fds[0], buf, end);
		w = reap(pid, end, r < 0);
		r = r < 0 ? r : w;
	}
	if (fds[0] >= 0)
		(void)close(fds[0]);
	if (r == 0)
		r = creds_json(buf, "credential_process", out, err);
	else /* the command line itself may hold a secret: only its first word is named */
		snap_error_set(err, r, "credential_process %.*s: %s", (int)strcspn(command, " \t"), command,
			       r == -EACCES ? "it failed" : strerror(-r));
	if (buf)
		explicit_bzero(buf, OUTPUT_MAX);
	free(buf);
	return r;
}
