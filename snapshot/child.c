/* snapshot/child.c - see child.h. The child uses async-signal-safe calls only (fork of a process with
 * threads).
 * Owns:      the children that were left behind, under left_lock. */
#include "snapshot/child.h"
#include "base/await.h"
#include "base/statdev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEFT_MAX 64

static pthread_mutex_t left_lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t left[LEFT_MAX];
static unsigned n_left;

/* How many have not ended yet. */
static unsigned reap(void)
{
	unsigned n;

	(void)pthread_mutex_lock(&left_lock);
	for (unsigned i = 0; i < n_left;)
		if (waitpid(left[i], NULL, WNOHANG) != 0)
			left[i] = left[--n_left];
		else
			i++;
	n = n_left;
	(void)pthread_mutex_unlock(&left_lock);
	return n;
}

void child_reap(void)
{
	(void)reap();
}

/* Wait for the child, or leave it behind. Of more than LEFT_MAX at once nobody collects the last ones before our own end. */
static int see(pid_t pid, uint64_t deadline_ns, const _Atomic int *stop)
{
	bool ended = false;
	int r = await_child(pid, deadline_ns, stop, &ended);

	if (ended)
		return r;
	(void)kill(pid, SIGKILL);
	(void)pthread_mutex_lock(&left_lock);
	if (n_left < LEFT_MAX)
		left[n_left++] = pid;
	(void)pthread_mutex_unlock(&left_lock);
	return r;
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
	pid_t pid;
	int r;

	if (reap() == LEFT_MAX)
		return snap_error_set(err, -EAGAIN, "sync: %d earlier syncs still hang; look at the backing's device",
				      LEFT_MAX);
	pid = fork();
	if (pid < 0)
		return snap_error_set(err, -errno, "sync: fork: %s", strerror(errno));
	if (pid == 0)
		_exit(sync_all(d, mounts) & 255);
	r = see(pid, deadline_ns, abort_flag);
	if (r == 0)
		return 0;
	return snap_error_set(err, r, "sync of the %s: %s", what, r == -ETIMEDOUT ? "not done in time" :
								   r == -ECANCELED ? "aborted" : strerror(-r));
}

/* ---- where a path leads ---- */

static int look_all(char *const *paths, uint64_t *devs, size_t n)
{
	char *slash;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	(void)close_range(0, ~0u, 0); /* /dev/fuse, the database's socket */
	for (size_t i = 0; i < n; i++) {
		if (statdev(paths[i], &devs[i], NULL) == 0)
			continue;
		slash = strrchr(paths[i], '/'); /* a base name: its directory counts */
		if (slash)
			*slash = '\0'; /* of this process's copy */
		if (statdev(paths[i], &devs[i], NULL) < 0)
			devs[i] = 0;
	}
	return 0;
}

int child_devs(char *const *paths, uint64_t *devs, size_t n, uint64_t deadline_ns, struct snap_error *err)
{
	size_t size = n * sizeof(*devs);
	uint64_t *shared;
	pid_t pid;
	int r;

	if (!n)
		return 0;
	if (reap() == LEFT_MAX)
		return snap_error_set(err, -EAGAIN, "look at the server's paths: %d earlier looks still hang; look at the backing's device",
				      LEFT_MAX);
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return snap_error_set(err, -errno, "look at the server's paths: %s", strerror(errno));
	pid = fork();
	if (pid == 0)
		_exit(look_all(paths, shared, n));
	r = pid < 0 ? -errno : see(pid, deadline_ns, NULL);
	if (r == 0)
		memcpy(devs, shared, size);
	else
		snap_error_set(err, r, "look at the server's paths: %s", r == -ETIMEDOUT ? "no answer in time" : strerror(-r));
	(void)munmap(shared, size);
	return r;
}
