/* base/fsfreeze.c - see fsfreeze.h.
 *
 * Most of a freeze's time is not writing out but the kernel's RCU: freeze_super() takes three per-CPU semaphores, each after a
 * grace period of 10 to 20 ms, and writers stand still from the first one on. Expedited grace periods take well under one. The
 * kernel has a switch for them, for everybody, so it is on for the length of FIFREEZE alone. The lock on it keeps two of us from
 * taking each other's 1 for what was there before. Where it cannot be written (containers) or rcu_normal forbids it, freezes
 * take their 50 ms. */
#include "base/fsfreeze.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_MS 10

/* Opened each time: the keeper's descriptors are the daemon's, too, and a new daemon closes those it does not know. */
static void hurry(struct fsfreeze *z)
{
	int fd = open("/sys/kernel/rcu_expedited", O_RDWR | O_CLOEXEC);
	char was = '1';

	if (fd > 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && pread(fd, &was, 1, 0) == 1 && was == '0' && pwrite(fd, "1", 1, 0) == 1)
		atomic_store(&z->hurry, fd);
	else if (fd >= 0)
		(void)close(fd);
}

static void no_hurry(struct fsfreeze *z)
{
	int fd = atomic_exchange(&z->hurry, 0);

	if (fd) {
		(void)!pwrite(fd, "0", 1, 0);
		(void)close(fd); /* and with it the lock */
	}
}

void fsfreeze_begin(struct fsfreeze *z)
{
	for (unsigned i = 0; i < z->n; i++)
		atomic_store(&z->state[i], FSFREEZE_IDLE);
	atomic_store(&z->busy, 1);
}

void fsfreeze_all(struct fsfreeze *z)
{
	hurry(z);
	for (unsigned i = 0; i < z->n; i++) {
		atomic_store(&z->state[i], FSFREEZE_PENDING);
		if (ioctl(z->fd[i], FIFREEZE, 0) < 0) {
			atomic_store(&z->error[i], -errno);
			atomic_store(&z->state[i], FSFREEZE_FAILED);
			break;
		}
		atomic_store(&z->state[i], FSFREEZE_OURS);
	}
	no_hurry(z);
	atomic_store(&z->busy, 0);
}

bool fsfreeze_ended(const struct fsfreeze *z)
{
	return !atomic_load(&z->busy);
}

int fsfreeze_outcome(const struct fsfreeze *z, unsigned *which, uint64_t *frozen)
{
	int r = 0;

	if (frozen)
		*frozen = 0;
	for (unsigned i = 0; i < z->n; i++) {
		uint32_t s = atomic_load(&z->state[i]);

		if (frozen && s == FSFREEZE_OURS)
			*frozen |= 1ull << i;
		if (s == FSFREEZE_FAILED) {
			*which = i;
			r = atomic_load(&z->error[i]);
		}
	}
	return r;
}

/* One try. True: nothing is left. */
static bool thaw_once(struct fsfreeze *z, bool *early)
{
	bool clean = fsfreeze_ended(z); /* first: afterwards no state gets worse */

	for (unsigned i = 0; i < z->n; i++) {
		uint32_t s = atomic_load(&z->state[i]);

		if (s != FSFREEZE_OURS) {
			clean &= s != FSFREEZE_PENDING;
		} else if (ioctl(z->fd[i], FITHAW, 0) == 0) {
			atomic_store(&z->state[i], FSFREEZE_IDLE);
		} else if (errno == EINVAL) { /* an administrator thawed it by hand */
			*early = true;
			atomic_store(&z->state[i], FSFREEZE_IDLE);
		} else {
			clean = false;
		}
	}
	return clean;
}

bool fsfreeze_thaw(struct fsfreeze *z)
{
	const struct timespec pause = { .tv_nsec = PAUSE_MS * NS_PER_MS };
	bool early = false;

	while (!thaw_once(z, &early)) {
		no_hurry(z); /* a FIFREEZE that hangs does not keep it on */
		(void)nanosleep(&pause, NULL);
	}
	return early;
}

bool fsfreeze_idle(const struct fsfreeze *z)
{
	bool idle = fsfreeze_ended(z);

	for (unsigned i = 0; i < z->n; i++) {
		uint32_t s = atomic_load(&z->state[i]);

		idle &= s == FSFREEZE_IDLE || s == FSFREEZE_FAILED;
	}
	return idle;
}
