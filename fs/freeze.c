/* fs/freeze.c - the freeze guard (see freeze.h).
 * Owns:      what is frozen; two threads of the keeper, freezer and guard of base/fsfreeze.h: the guard thaws at the
 *            deadline, at three missed heartbeats, when the daemon is gone, or when asked.
 * Called by: keeper.c; asked through shm->freeze by the daemon (core_door.c).
 * Threads:   its own two.
 * Blocks:    the freezer in FIFREEZE; the guard never for long. Touches no file but one of /sys, allocates
 *            nothing.
 * Errors:    -errno in shm->freeze.result. Somebody else's freeze (EBUSY) is never thawed. */
#include "fs/freeze.h"
#include "base/clock.h"
#include "base/fsfreeze.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

static struct {
	struct shm_head *shm;
	struct fsfreeze all;
	unsigned pair[DOOR_MAX_PAIRS]; /* the first one on that filesystem, for messages */
	_Atomic uint32_t job; /* the want that the freezer works on */
	_Atomic uint32_t finished; /* the last want that the freezer has ended */
	bool runs; /* the guard */
} fz;

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
		fsfreeze_all(&fz.all);
		atomic_store(&fz.finished, want);
		shm_wake(&fz.finished);
	}
	return NULL;
}

static void thaw_all(void)
{
	(void)fsfreeze_thaw(&fz.all);
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
	bool asked = atomic_load(&fz.shm->freeze.want) != want; /* before: who says that the daemon is gone asks as well, after it */

	if (atomic_load(&fz.shm->daemon_gone))
		return "daemon gone";
	if (asked)
		return "asked";
	if (now >= atomic_load(&fz.shm->freeze.deadline_ns))
		return "deadline";
	if (now > beat && now - beat > FREEZE_SILENCE_MS * NS_PER_MS)
		return "daemon silent";
	return NULL;
}

/* One freeze, from the request to the thaw. Returns whether it was thawed before being asked. */
static bool guard_freeze(uint32_t want)
{
	const char *why = NULL;
	bool answered = false;

	fsfreeze_begin(&fz.all);
	atomic_store(&fz.job, want);
	shm_wake(&fz.job);
	while (!(why = must_thaw(want))) {
		if (!answered && atomic_load(&fz.finished) == want) {
			uint64_t mask;
			unsigned which = 0;
			int32_t result = fsfreeze_outcome(&fz.all, &which, &mask);

			if (result < 0) {
				atomic_store(&fz.shm->freeze.sysfail, fz.pair[which]);
				thaw_all(); /* those that were frozen before the refusal */
			} else {
				atomic_store(&fz.shm->freeze.state, (uint32_t)mask);
			}
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
	thaw_all();
	if (!answered)
		answer(want, -ETIMEDOUT);
	if (strcmp(why, "asked") != 0) /* after it: the log may be on the frozen filesystem, or a pipe that nobody reads */
		log_error("freeze guard: thawing the backing: %s", why);
	return strcmp(why, "asked") != 0;
}

static void *guard(void *arg)
{
	uint32_t seen = atomic_load(&fz.shm->freeze.done); /* asked for before this thread ran: not lost */
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
		for (k = 0; k < fz.all.n && devs[k] != st.st_dev; k++)
			;
		if (k < fz.all.n)
			continue; /* a second freeze of the same filesystem would be refused */
		devs[fz.all.n] = st.st_dev;
		fz.pair[fz.all.n] = i;
		fz.all.fd[fz.all.n++] = fds[i];
	}
	r = pthread_create(&t, NULL, freezer, NULL);
	if (r == 0)
		r = pthread_create(&t, NULL, guard, NULL);
	fz.runs = r == 0;
	return -r;
}

void freeze_daemon_gone(struct shm_head *shm)
{
	uint32_t want = atomic_load(&shm->freeze.want);

	atomic_store(&shm->daemon_gone, 1);
	/* the dead one's thaw, which it can ask for no more: so that a freeze which the guard has not begun yet is none */
	if (want & 1)
		atomic_store(&shm->freeze.want, want + 1);
	shm_wake(&shm->freeze.want);
}

void freeze_daemon_new(struct shm_head *shm)
{
	atomic_store(&shm->heartbeat_ns, clock_boot_ns());
	atomic_store(&shm->daemon_gone, 0);
}

bool freeze_idle(void)
{
	if (fz.runs && atomic_load(&fz.shm->freeze.done) != atomic_load(&fz.shm->freeze.want))
		return false; /* the guard has not seen it yet */
	return fsfreeze_idle(&fz.all) && atomic_load(&fz.job) == atomic_load(&fz.finished);
}
