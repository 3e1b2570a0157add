/* fs/freeze.c - the freeze guard (see freeze.h).
 * Owns:      what is frozen; two threads of the keeper: the freezer sits in FIFREEZE, which cannot be
 *            interrupted; the guard thaws at the deadline, at three missed heartbeats, when the daemon
 *            is gone, or when asked.
 * Called by: keeper.c; asked through shm->freeze by the daemon (core.c).
 * Threads:   its own two; state per filesystem is one atomic word that the freezer alone moves to
 *            OURS or FAILED and the guard alone moves back to IDLE.
 * Blocks:    the freezer in FIFREEZE; the guard never for long. Touches no file, allocates nothing.
 * Errors:    -errno in shm->freeze.result. Somebody else's freeze (EBUSY) is never thawed.
 *
 * A FITHAW during a pending FIFREEZE fails (EINVAL) and the freeze still completes. So the guard does
 * not give up: it repeats until the FIFREEZE call has returned and a thaw has succeeded. */
#include "fs/freeze.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum fz { FZ_IDLE, FZ_PENDING, FZ_OURS, FZ_FAILED };

static struct {
	struct shm_head *shm;
	unsigned n;
	int fd[DOOR_MAX_PAIRS];
	unsigned pair[DOOR_MAX_PAIRS]; /* the first one on that filesystem, for messages */
	_Atomic uint32_t state[DOOR_MAX_PAIRS]; /* enum fz */
	_Atomic int32_t error[DOOR_MAX_PAIRS];
	_Atomic uint32_t job; /* the want that the freezer works on */
	_Atomic uint32_t finished; /* the last want that the freezer has ended */
} fz;

/* Freeze all; stop at the first refusal. What was frozen until then the guard thaws. */
static void *freezer(void *arg)
{
	uint32_t want;

	(void)pthread_setname_np(pthread_self(), "freezer");
	for (;;) {
		want = atomic_load(&fz.job);
		if (want == atomic_load(&fz.finished)) {
			shm_wait(&fz.job, want, 1000);
			continue;
		}
		for (unsigned i = 0; i < fz.n; i++) {
			atomic_store(&fz.state[i], FZ_PENDING);
			if (ioctl(fz.fd[i], FIFREEZE, 0) == 0) {
				atomic_store(&fz.state[i], FZ_OURS);
				continue;
			}
			atomic_store(&fz.error[i], -errno);
			atomic_store(&fz.state[i], FZ_FAILED);
			break;
		}
		atomic_store(&fz.finished, want);
		shm_wake(&fz.finished);
	}
	return NULL;
}

/* One try to thaw all that is ours. True when nothing is. */
static bool thaw_once(void)
{
	bool clean = true;

	for (unsigned i = 0; i < fz.n; i++) {
		uint32_t s = atomic_load(&fz.state[i]);

		if (s == FZ_FAILED)
			atomic_store(&fz.state[i], FZ_IDLE);
		/* EINVAL: an administrator thawed it by hand */
		else if (s == FZ_OURS && (ioctl(fz.fd[i], FITHAW, 0) == 0 || errno == EINVAL))
			atomic_store(&fz.state[i], FZ_IDLE);
		else if (s != FZ_IDLE)
			clean = false;
	}
	return clean;
}

static void thaw_all(void)
{
	const struct timespec pause = { .tv_nsec = 10000000 };

	while (!thaw_once() || atomic_load(&fz.job) != atomic_load(&fz.finished))
		(void)nanosleep(&pause, NULL);
	atomic_store(&fz.shm->freeze.state, 0);
}

static void answer(uint32_t want, int32_t result)
{
	atomic_store(&fz.shm->freeze.result, result);
	atomic_store(&fz.shm->freeze.done, want);
	shm_wake(&fz.shm->freeze.done);
}

/* Why the freeze must end now, or NULL. */
static const char *must_thaw(uint32_t want)
{
	uint64_t now = clock_boot_ns(), beat = atomic_load(&fz.shm->heartbeat_ns);

	if (atomic_load(&fz.shm->freeze.want) != want)
		return "asked";
	if (now >= atomic_load(&fz.shm->freeze.deadline_ns))
		return "deadline";
	if (atomic_load(&fz.shm->daemon_gone))
		return "daemon gone";
	if (now > beat && now - beat > FREEZE_SILENCE_MS * NS_PER_MS)
		return "daemon silent";
	return NULL;
}

/* One freeze, from the request to the thaw. Returns whether it was thawed before being asked. */
static bool guard_freeze(uint32_t want)
{
	const char *why = NULL;
	bool answered = false;

	atomic_store(&fz.job, want);
	shm_wake(&fz.job);
	while (!(why = must_thaw(want))) {
		if (!answered && atomic_load(&fz.finished) == want) {
			uint32_t mask = 0;
			int32_t result = 0;

			for (unsigned i = 0; i < fz.n; i++) {
				mask |= atomic_load(&fz.state[i]) == FZ_OURS ? 1u << i : 0;
				if (atomic_load(&fz.state[i]) == FZ_FAILED) {
					result = atomic_load(&fz.error[i]);
					atomic_store(&fz.shm->freeze.sysfail, fz.pair[i]);
				}
			}
			if (result < 0)
				thaw_all(); /* those that were frozen before the refusal */
			else
				atomic_store(&fz.shm->freeze.state, mask);
			answer(want, result);
			answered = true;
			if (result < 0)
				return false;
		}
		if (answered)
			shm_wait(&fz.shm->freeze.want, want, 10);
		else
			shm_wait(&fz.finished, want - 2, 10);
	}
	if (strcmp(why, "asked") != 0)
		log_error("freeze guard: thawing the backing: %s", why);
	thaw_all();
	if (!answered)
		answer(want, -ETIMEDOUT);
	return strcmp(why, "asked") != 0;
}

static void *guard(void *arg)
{
	uint32_t seen = atomic_load(&fz.shm->freeze.want);
	bool early = false;

	(void)pthread_setname_np(pthread_self(), "freeze-guard");
	for (;;) {
		uint32_t want = atomic_load(&fz.shm->freeze.want);

		if (want == seen) {
			shm_wait(&fz.shm->freeze.want, seen, 1000);
			continue;
		}
		seen = want;
		if (want & 1) {
			early = guard_freeze(want);
		} else {
			answer(want, early ? -ETIMEDOUT : 0);
			early = false;
		}
	}
	return NULL;
}

int freeze_start(struct shm_head *shm, const int *fds, unsigned n)
{
	dev_t devs[DOOR_MAX_PAIRS];
	struct stat st;
	pthread_t t;
	int r;

	fz.shm = shm;
	for (unsigned i = 0, k; i < n; i++) {
		if (fstat(fds[i], &st) < 0)
			return -errno;
		for (k = 0; k < fz.n && devs[k] != st.st_dev; k++)
			;
		if (k < fz.n)
			continue; /* a second freeze of the same filesystem would be refused */
		devs[fz.n] = st.st_dev;
		fz.pair[fz.n] = i;
		fz.fd[fz.n++] = fds[i];
	}
	r = pthread_create(&t, NULL, freezer, NULL);
	if (r == 0)
		r = pthread_create(&t, NULL, guard, NULL);
	return -r;
}

void freeze_daemon_gone(struct shm_head *shm)
{
	atomic_store(&shm->daemon_gone, 1);
	shm_wake(&shm->freeze.want);
}

void freeze_daemon_new(struct shm_head *shm)
{
	uint32_t want = atomic_load(&shm->freeze.want);

	/* the dead one's thaw, which it can ask for no more */
	if (want & 1)
		atomic_store(&shm->freeze.want, want + 1);
	shm_wake(&shm->freeze.want);
	atomic_store(&shm->heartbeat_ns, clock_boot_ns());
	atomic_store(&shm->daemon_gone, 0);
}

bool freeze_idle(void)
{
	for (unsigned i = 0; i < fz.n; i++)
		if (atomic_load(&fz.state[i]) != FZ_IDLE)
			return false;
	return atomic_load(&fz.job) == atomic_load(&fz.finished);
}
