/* fs/keeper.c - see keeper.h.
 * Owns:      the daemon's process; through CLONE_FILES one descriptor table with it, so that /dev/fuse
 *            and the backings' descriptors do not vanish with the daemon.
 * Threads:   this loop, and the freeze guard's two.
 * Blocks:    in the loop only. After start it allocates nothing and opens no file.
 * Errors:    exit code 0: the daemon ended as asked; 1: it failed to start; 3: it died. */
#include "fs/keeper.h"
#include "fs/freeze.h"
#include "fs/upgrade.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/statdev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57 /* Linux 5.6 */
#endif

#define UMOUNT_TRIES 100 /* x 50 ms: users of a dead mount see ENOTCONN and leave */

struct shm_head *keeper_shm(void)
{
	int fd = memfd_create("stillfs-head", MFD_CLOEXEC);
	struct shm_head *s = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(*s)) == 0)
		s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s == MAP_FAILED) {
		if (fd >= 0)
			(void)close(fd);
		return NULL;
	}
	s->map_fd[SHM_MAP_HEAD] = fd;
	s->magic = SHM_MAGIC;
	s->version = SHM_VERSION;
	return s;
}

static bool again; /* for the daemon, which gets a copy: an earlier one has died */

static void *daemon_thread(void *arg)
{
	const struct keeper_conf *k = arg;

	return (void *)(intptr_t)k->daemon(k->arg, again);
}

/* The child of a raw clone has a stale thread id in the C library, so everything runs in a real thread
 * and this one only waits. */
static int daemon_child(const struct keeper_conf *k, pid_t keeper)
{
	void *result = (void *)(intptr_t)1;
	pthread_t t;

	(void)prctl(PR_SET_NAME, "stillfs", 0, 0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != keeper) /* it has died before that was said */
		return 1;
	if (pthread_create(&t, NULL, daemon_thread, (void *)(uintptr_t)k) == 0)
		(void)pthread_join(t, &result);
	return (int)(intptr_t)result;
}

/* Only a build with AddressSanitizer has it. It runs by itself at exit(3), which a child of a raw clone does
 * not come to. */
extern void __lsan_do_leak_check(void) __attribute__((weak));

static pid_t start_daemon(const struct keeper_conf *k)
{
	pid_t keeper = getpid(), pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	int result;

	if (pid == 0) {
		result = daemon_child(k, keeper);
		if (result == 0 && !again && __lsan_do_leak_check)
			__lsan_do_leak_check();
		_exit(result);
	}
	return pid;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0) {
		/* in a container without the right: the default score stays */
	}
	(void)close(fd);
}

static void harden(void)
{
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	(void)mlockall(MCL_CURRENT);
	if (chdir("/") < 0) {
		/* impossible, and harmless: nothing of ours uses relative paths */
	}
}

static void describe_death(struct shm_head *shm, int status)
{
	char when[CLOCK_ISO_MAX];

	if (WIFSIGNALED(status))
		(void)snprintf(shm->last_death, sizeof(shm->last_death), "%s killed by signal %d (%s)",
			       clock_iso(clock_utc(), when), WTERMSIG(status),
			       strsignal(WTERMSIG(status)));
	else
		(void)snprintf(shm->last_death, sizeof(shm->last_death), "%s exited with code %d",
			       clock_iso(clock_utc(), when), WEXITSTATUS(status));
}

/* Close what the dead daemon had open (it is in our table too), all but what thaws and logs. The last
 * close of /dev/fuse ends each connection, that of the database's socket ends its lock. */
static void close_all_but(const struct keeper_conf *k)
{
	int keep[DOOR_MAX_PAIRS + 2], n = 0, from = 3;

	for (unsigned i = 0; i < k->n; i++)
		keep[n++] = k->backing_fds[i];
	if (k->log_fd > 2)
		keep[n++] = k->log_fd;
	for (int i = 0; i < n; i++) /* sort: few */
		for (int j = i + 1; j < n; j++)
			if (keep[j] < keep[i]) {
				int t = keep[i];

				keep[i] = keep[j];
				keep[j] = t;
			}
	for (int i = 0; i < n; i++) {
		if (keep[i] > from)
			(void)close_range((unsigned)from, (unsigned)keep[i] - 1, 0);
		if (keep[i] >= from)
			from = keep[i] + 1;
	}
	(void)close_range((unsigned)from, ~0u, 0);
}

/* Is what is mounted there by now what a daemon of ours has mounted? */
static bool is_ours(const struct keeper_conf *k, unsigned i)
{
	uint64_t id, ours = i ? k->shm->mnt[i - 1].mount_id : k->shm->ctl.mount_id;

	return k->mounts[i] && ours && statdev_mount(k->mounts[i], &id) == 0 && id == ours;
}

/* Unmount what the daemon left. Never lazily: a mount that is in use stays, dead, and is named. */
static void unmount_left(const struct keeper_conf *k)
{
	const struct timespec pause = { .tv_nsec = 50000000 };

	for (unsigned i = 0; i <= k->n; i++) {
		int r = -1;

		if (!is_ours(k, i))
			continue;
		for (int t = 0; t < UMOUNT_TRIES && r < 0; t++) {
			/* force: also aborts the connection, so that nobody waits for a reply */
			r = umount2(k->mounts[i], MNT_FORCE);
			if (r < 0 && errno != EBUSY)
				break;
			if (r < 0)
				(void)nanosleep(&pause, NULL);
		}
		if (r < 0 && errno == EBUSY)
			log_error("%s is still mounted and in use: stop its users, then umount it",
				  k->mounts[i]);
	}
}

/* The daemon is gone or silent with something frozen: see that the thaw happens before anything else. */
static void wait_thawed(struct shm_head *shm)
{
	const struct timespec pause = { .tv_nsec = 5000000 };

	freeze_daemon_gone(shm);
	while (!freeze_idle())
		(void)nanosleep(&pause, NULL);
}

/* ---- take-over ---- */

#define YOUNG_MS 1000u /* a daemon that dies sooner may be killed by what its successor finds, too */
#define YOUNG_MAX 5u /* in a row: given up */
#define BACK_OFF_MS 100u /* times the young deaths before this one */

/* Is one more daemon to be tried? Waits a little longer before each. life_ns: of the dead one, which may have been so slow
 * in starting that it was old before it served. */
static bool may_restart(const struct shm_head *shm, uint64_t life_ns)
{
	static unsigned young;
	struct timespec pause;

	if (shm->takeover != SHM_TAKEOVER_YES || shm->ready != SHM_SERVING || shm->ending)
		return false;
	young = life_ns < YOUNG_MS * NS_PER_MS || atomic_load(&shm->serving_pid) != atomic_load(&shm->daemon_pid) ? young + 1 : 0;
	if (young >= YOUNG_MAX) {
		log_error("%u daemons in a row died within %u ms or before they served: given up", young, YOUNG_MS);
		return false;
	}
	pause = (struct timespec){ .tv_nsec = young > 1 ? (young - 1) * BACK_OFF_MS * 1000000l : 0 };
	(void)nanosleep(&pause, NULL);
	return true;
}

/* What every daemon finds open; its successor closes the rest. */
static void note_descriptors(struct shm_head *shm)
{
	for (int fd = 0; fd < (int)sizeof(shm->base_fds) * 8; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			shm->base_fds[fd / 64] |= 1ull << (fd % 64);
}

/* Until the daemon has ended, and all its threads with it. Returns the wait status. */
static int wait_daemon(const struct keeper_conf *k, pid_t pid, const sigset_t *set)
{
	const struct timespec tick = { .tv_nsec = 200000000 };
	uint64_t since = clock_boot_ns();
	siginfo_t si;
	int status = 0, sig;

	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got == pid)
			return status;
		if (got < 0 && errno == ECHILD) /* somebody else has taken its status: that it has ended is certain */
			return W_EXITCODE(atomic_load(&k->shm->ready) == SHM_STOPPED ? 0 : 1, 0);
		sig = sigtimedwait(set, &si, &tick);
		if (atomic_load(&k->shm->serving_pid) == (int32_t)pid)
			upgrade_done(k->shm);
		if (upgrade_wanted(k->shm) || upgrade_overdue(k->shm, since))
			(void)kill(pid, SIGKILL);
		if (sig == SIGTERM || sig == SIGINT || sig == SIGHUP)
			(void)kill(pid, sig == SIGHUP ? SIGHUP : SIGTERM);
	}
}

/* Start a daemon and see it to its end. -1: it could not be started. */
static int one_daemon(const struct keeper_conf *k, const sigset_t *set)
{
	static bool guarded;
	pid_t pid = start_daemon(k);
	int r;

	if (pid < 0) {
		log_error("start the daemon: %s", strerror(errno));
		return -1;
	}
	atomic_store(&k->shm->daemon_pid, (int32_t)pid);
	/* after the first: leak checkers look for all threads that they know of in the child, too */
	r = guarded ? 0 : freeze_start(k->shm, k->backing_fds, k->n);
	guarded = true;
	if (r < 0)
		log_error("start the freeze guard: %s; freezing will be refused", strerror(-r));
	return wait_daemon(k, pid, set);
}

int keeper_run(const struct keeper_conf *k)
{
	uint64_t born;
	sigset_t set;
	int status, r;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGUSR1); /* the daemon's: see upgrade.h */
	(void)sigaddset(&set, SIGPIPE); /* the log's reader may have gone: no death of ours */
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	atomic_store(&k->shm->keeper_pid, (int32_t)getpid());
	write_file("/proc/self/oom_score_adj", "-1000"); /* before: the daemon inherits it */
	harden();
	r = k->tables(k->arg);
	if (r < 0) {
		log_error("map the tables: %s", strerror(-r));
		return 1;
	}
	/* not the tables, which are huge, and which it does not touch; but the guard's threads */
	(void)mlockall(MCL_FUTURE | MCL_ONFAULT);
	again = k->heir;
	if (again)
		freeze_daemon_new(k->shm);
	else
		note_descriptors(k->shm);
	for (;;) {
		born = clock_boot_ns();
		status = one_daemon(k, &set);
		if (status < 0 && !again)
			return 1;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			return 0;
		if (WIFEXITED(status) && atomic_load(&k->shm->ready) == SHM_FAILED)
			return 1;
		wait_thawed(k->shm);
		if (upgrade_go(k->shm)) {
			again = true;
			freeze_daemon_new(k->shm);
			continue;
		}
		describe_death(k->shm, status);
		log_error("the daemon died: %s", k->shm->last_death);
		upgrade_back(k->shm, k->shm->fail_msg[0] ? k->shm->fail_msg : k->shm->last_death);
		if (!may_restart(k->shm, clock_boot_ns() - born))
			break;
		again = true;
		atomic_fetch_add(&k->shm->restarts, 1);
		freeze_daemon_new(k->shm);
	}
	close_all_but(k);
	unmount_left(k);
	return 3;
}
