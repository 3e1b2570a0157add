/* snapshot/child.c - see child.h. The child uses async-signal-safe calls only (fork of a process with
 * threads). Called from the engine's thread. */
#include "snapshot/child.h"
#include "base/await.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEFT_MAX 64

static pid_t left[LEFT_MAX];
static unsigned n_left;

void child_reap(void)
{
	for (unsigned i = 0; i < n_left;)
		if (waitpid(left[i], NULL, WNOHANG) != 0)
			left[i] = left[--n_left];
		else
			i++;
}

/* Close all but the backings: the child must hold neither /dev/fuse (its end would go unnoticed) nor the
 * database's socket (its lock would outlive us). */
static void close_others(const struct door *d)
{
	int keep[DOOR_MAX_PAIRS];
	unsigned n = d->n_pairs, from = 0;

	for (unsigned i = 0; i < n; i++) {
		unsigned k = i;

		for (; k > 0 && keep[k - 1] > d->pairs[i].backing_fd; k--)
			keep[k] = keep[k - 1];
		keep[k] = d->pairs[i].backing_fd;
	}
	for (unsigned i = 0; i < n; i++) {
		if (keep[i] > (int)from)
			(void)close_range(from, (unsigned)keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	(void)close_range(from, ~0u, 0);
}

static int sync_all(const struct door *d, bool mounts)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	close_others(d);
	for (unsigned i = 0; mounts && i < d->n_pairs; i++) {
		int fd = open(d->pairs[i].mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0 || syncfs(fd) < 0)
			return errno;
		(void)close(fd); /* held no longer: it would keep the mount busy */
	}
	for (unsigned i = 0; i < d->n_pairs; i++)
		if (syncfs(d->pairs[i].backing_fd) < 0)
			return errno;
	return 0;
}

int child_sync(const struct door *d, bool mounts, uint64_t deadline_ns, const _Atomic int *abort_flag,
	       struct snap_error *err)
{
	const char *what = mounts ? "mount and backing" : "backing";
	bool ended = false;
	pid_t pid;
	int r;

	child_reap();
	if (n_left == LEFT_MAX)
		return snap_error_set(err, -EAGAIN, "sync: %d earlier syncs still hang; look at the backing's device",
				      LEFT_MAX);
	pid = fork();
	if (pid < 0)
		return snap_error_set(err, -errno, "sync: fork: %s", strerror(errno));
	if (pid == 0)
		_exit(sync_all(d, mounts) & 255);
	r = await_child(pid, deadline_ns, abort_flag, &ended);
	if (ended)
		return r == 0 ? 0 : snap_error_set(err, r, "sync of the %s: %s", what, strerror(-r));
	(void)kill(pid, SIGKILL);
	left[n_left++] = pid;
	return snap_error_set(err, r, "sync of the %s: %s", what, r == -ETIMEDOUT ? "not done in time" : "aborted");
}
