/* snapshot/classic/guard.c - see guard.h.
 * Owns:      a child process: the freezer of base/fsfreeze.h and, as its guard, the first thread, which watches the clock and
 *            the socket to the program.
 * Called by: main.c.
 * Threads:   in the child these two.
 * Blocks:    the child's first thread never for longer than a tick while something is frozen.
 *
 * The end of the program shows as the end of the socket, because the program never touches what is frozen and so cannot be stuck
 * there as it dies. */
#include "snapshot/classic/guard.h"
#include "base/clock.h"
#include "base/fsfreeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 10
#define SOCK_FD 100 /* in the child; the filesystems come after it, and nothing before it stays open */

struct ask {
	uint64_t deadline_ns; /* 0: thaw */
};

struct answer {
	int code;
	unsigned which; /* filesystem that failed */
};

struct guard {
	unsigned n;
	const int *fd;
	const char *const *name;
	int sock;
	pid_t pid;
	bool asked; /* a freeze was asked for and no thaw since */
};

/* ---- the child ---- */

static struct fsfreeze in;

static void *freezer(void *arg)
{
	fsfreeze_all(&in);
	return NULL;
}

static void say(int sock, int code, unsigned which)
{
	const struct answer a = { code, which };

	(void)send(sock, &a, sizeof(a), MSG_NOSIGNAL); /* nobody there: then nobody needs it */
}

/* From the request to the thaw. False: the program is gone. */
static bool one_freeze(int sock, uint64_t deadline_ns)
{
	bool answered = false, alive = true, late = false, early = false;
	struct pollfd p = { .fd = sock, .events = POLLIN };
	struct ask ask;
	pthread_t t;
	int code = 0;

	fsfreeze_begin(&in);
	if (pthread_create(&t, NULL, freezer, NULL) != 0) {
		say(sock, -EAGAIN, 0);
		return true;
	}
	for (;;) {
		unsigned which = 0;

		if (!answered && fsfreeze_ended(&in)) {
			code = fsfreeze_outcome(&in, &which, NULL);
			if (code < 0)
				(void)fsfreeze_thaw(&in); /* those before it */
			say(sock, code, which);
			answered = true;
			if (code < 0)
				break;
		}
		if (poll(&p, 1, TICK_MS / (answered ? 1 : 10)) > 0) {
			alive = recv(sock, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask);
			early = fsfreeze_thaw(&in);
			break;
		}
		if (clock_boot_ns() >= deadline_ns) {
			(void)fsfreeze_thaw(&in);
			late = true;
			break;
		}
	}
	(void)pthread_join(t, NULL);
	if (!alive)
		return false;
	if (!answered && late)
		say(sock, -ETIMEDOUT, 0); /* the freeze itself took too long */
	else if (answered && code == 0) {
		if (late) /* the program asks for the thaw in its own time */
			alive = recv(sock, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask);
		say(sock, late || early ? -ETIMEDOUT : 0, 0);
	}
	return alive;
}

static void protect(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!write(fd, "-1000", 5);
		(void)close(fd);
	}
	(void)setsid(); /* out of the terminal's and the job's reach */
	(void)chdir("/");
	(void)prctl(PR_SET_NAME, "freeze-guard");
	(void)mlockall(MCL_CURRENT | MCL_FUTURE); /* its code may lie on what is frozen */
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN);
	(void)signal(SIGQUIT, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
}

/* Keep nothing of the program's but what is needed: its end must be the end of its socket and of its output. */
static void keep_only(struct guard *g, int sock)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (unsigned i = 0; i < g->n; i++)
		in.fd[in.n++] = fcntl(g->fd[i], F_DUPFD_CLOEXEC, SOCK_FD + 1);
	(void)fcntl(sock, F_DUPFD_CLOEXEC, SOCK_FD);
	if (null >= 0)
		for (int i = 0; i < 3; i++)
			(void)dup2(null, i);
	(void)syscall(SYS_close_range, 3, SOCK_FD - 1, 0);
}

static _Noreturn void child(struct guard *g, int sock)
{
	struct ask ask;

	protect();
	keep_only(g, sock);
	sock = SOCK_FD;
	while (recv(sock, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask)) {
		if (!ask.deadline_ns)
			say(sock, 0, 0); /* nothing is frozen */
		else if (!one_freeze(sock, ask.deadline_ns))
			break;
	}
	_exit(0);
}

/* ---- the program ---- */

struct guard *guard_start(unsigned n, const int *fd, const char *const *name, struct snap_error *err)
{
	struct guard *g = calloc(1, sizeof(*g));
	int pair[2];

	if (!g || n > GUARD_MAX || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(g);
		snap_error_set(err, -ENOMEM, "start the guard of the freeze: %s", strerror(errno ? errno : ENOMEM));
		return NULL;
	}
	*g = (struct guard){ .n = n, .fd = fd, .name = name, .sock = pair[0] };
	g->pid = fork();
	if (g->pid == 0) {
		(void)close(pair[0]);
		child(g, pair[1]);
	}
	(void)close(pair[1]);
	if (g->pid > 0)
		return g;
	(void)close(pair[0]);
	free(g);
	snap_error_set(err, -EAGAIN, "start the guard of the freeze: %s", strerror(errno));
	return NULL;
}

/* The guard has died: what it froze is ours to thaw. A FIFREEZE that it was in ends before it can be reaped. */
static void thaw_here(struct guard *g)
{
	while (g->pid > 0 && waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	g->pid = 0;
	for (unsigned i = 0; i < g->n; i++)
		(void)ioctl(g->fd[i], FITHAW, 0);
}

static int ask(struct guard *g, uint64_t deadline_ns, struct answer *a)
{
	const struct ask q = { deadline_ns };
	ssize_t n = g->pid > 0 ? send(g->sock, &q, sizeof(q), MSG_NOSIGNAL) : -1;

	while (n > 0 && (n = recv(g->sock, a, sizeof(*a), 0)) < 0 && errno == EINTR)
		n = 1; /* a signal; the answer comes */
	return n == (ssize_t)sizeof(*a) ? 0 : -EPIPE;
}

int guard_freeze(struct guard *g, uint64_t deadline_ns, struct snap_error *err)
{
	struct answer a = { 0 };

	if (!g->n)
		return 0;
	g->asked = true;
	if (ask(g, deadline_ns, &a) < 0) {
		thaw_here(g);
		g->asked = false;
		return snap_error_set(err, -EPIPE, "freeze: the guard process was killed; nothing is frozen, try again");
	}
	if (a.code == 0)
		return 0;
	g->asked = false;
	if (a.code == -EBUSY)
		return snap_error_set(err, a.code, "freeze %s: somebody else has frozen it, and that is not ours to thaw: fsfreeze -u",
				      g->name[a.which]);
	if (a.code == -ETIMEDOUT)
		return snap_error_set(err, a.code, "freeze: it took too long; nothing is frozen any more, try again with less load");
	return snap_error_set(err, a.code, "freeze %s: %s", g->name[a.which],
			      a.code == -EOPNOTSUPP ? "this filesystem cannot be frozen; use --no-freeze-filesystem" : strerror(-a.code));
}

int guard_thaw(struct guard *g, struct snap_error *err)
{
	struct answer a = { 0 };

	if (!g->n || !g->asked)
		return 0;
	g->asked = false;
	if (ask(g, 0, &a) < 0) {
		thaw_here(g);
		return snap_error_set(err, -ETIMEDOUT, "the guard process was killed while the filesystems were frozen, so nobody knows whether "
						       "they still were");
	}
	return a.code == 0 ? 0 : snap_error_set(err, a.code, "the filesystems were thawed before the snapshot's answer, at their deadline or "
							     "by somebody; see --snapshot-timeout");
}

struct guard *guard_end(struct guard *g)
{
	struct snap_error ignored = { 0 };

	if (!g)
		return NULL;
	(void)guard_thaw(g, &ignored);
	(void)close(g->sock);
	while (g->pid > 0 && waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	free(g);
	return NULL;
}
