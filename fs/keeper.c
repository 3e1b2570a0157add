/* fs/keeper.c - see keeper.h.
 * Owns:      the daemon's process; through CLONE_FILES one descriptor table with it, so that /dev/fuse
 *            and the backings' descriptors do not vanish with the daemon.
 * Threads:   this loop, and the freeze guard's two.
 * Blocks:    in the loop only. After start it allocates nothing and opens no file.
 * Errors:    exit code 0: the daemon ended as asked; 1: it failed to start; 3: it died. */
#include "fs/keeper.h"
#include "fs/freeze.h"
#include "base/clock.h"
#include "base/log.h"

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
	if (fd >= 0)
		(void)close(fd);
	if (s == MAP_FAILED)
		return NULL;
	s->magic = SHM_MAGIC;
	s->version = SHM_VERSION;
	return s;
}

static void *daemon_thread(void *arg)
{
	const struct keeper_conf *k = arg;

	return (void *)(intptr_t)k->daemon(k->arg);
}

/* The child of a raw clone has a stale thread id in the C library, so everything runs in a real thread
 * and this one only waits. */
static int daemon_child(const struct keeper_conf *k)
{
	void *result = (void *)(intptr_t)1;
	pthread_t t;

	(void)prctl(PR_SET_NAME, "stillfs", 0, 0, 0);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (pthread_create(&t, NULL, daemon_thread, (void *)(uintptr_t)k) == 0)
		(void)pthread_join(t, &result);
	return (int)(intptr_t)result;
}

/* Only a build with AddressSanitizer has it. It runs by itself at exit(3), which a child of a raw clone does
 * not come to. */
extern void __lsan_do_leak_check(void) __attribute__((weak));

static pid_t start_daemon(const struct keeper_conf *k)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	int result;

	if (pid == 0) {
		result = daemon_child(k);
		if (result == 0 && __lsan_do_leak_check)
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
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
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

/* Unmount what the daemon left. Never lazily: a mount that is in use stays, dead, and is named. */
static void unmount_left(const struct keeper_conf *k)
{
	const struct timespec pause = { .tv_nsec = 50000000 };

	for (unsigned i = 0; i <= k->n; i++) {
		int r = -1;

		if (!k->mounts[i])
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

int keeper_run(const struct keeper_conf *k)
{
	const struct timespec tick = { .tv_nsec = 200000000 };
	siginfo_t si;
	sigset_t set;
	pid_t pid;
	int status = 0, sig, r;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	atomic_store(&k->shm->keeper_pid, (int32_t)getpid());
	write_file("/proc/self/oom_score_adj", "-1000"); /* before: the daemon inherits it */
	pid = start_daemon(k);
	if (pid < 0) {
		log_error("start the daemon: %s", strerror(errno));
		return 1;
	}
	atomic_store(&k->shm->daemon_pid, (int32_t)pid);
	r = freeze_start(k->shm, k->backing_fds, k->n);
	if (r < 0)
		log_error("start the freeze guard: %s; freezing will be refused", strerror(-r));
	harden();
	for (;;) {
		sig = sigtimedwait(&set, &si, &tick);
		if (sig == SIGTERM || sig == SIGINT || sig == SIGHUP)
			(void)kill(pid, sig == SIGHUP ? SIGHUP : SIGTERM);
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && atomic_load(&k->shm->ready) == SHM_FAILED)
		return 1;
	describe_death(k->shm, status);
	log_error("the daemon died: %s", k->shm->last_death);
	wait_thawed(k->shm);
	close_all_but(k);
	unmount_left(k);
	return 3;
}
