/* fs/upgrade.c - see upgrade.h.
 * Owns:      shm->upgrade, but for its `state` = WANTED, which is the daemon's.
 * Order:     WANTED (daemon) -> CHECKING (keeper) -> RUNNING: the old daemon is ended, whoever is the keeper now starts
 *            a daemon -> DONE or FAILED. exec(2) gives the keeper a descriptor table of its own: so there is no daemon
 *            while it happens, and each daemon shares the table with the keeper that started it.
 * Blocks:    the trial, TRIAL_MS and a second at the most.
 * Errors:    FAILED with the sentence in shm->upgrade.msg; the old binary goes on. */
#include "fs/upgrade.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "version.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define TRIAL_MS 5000u
#define COME_UP_MS 20000u /* longer than a take-over waits for the backing (core.c) */

/* So that a binary says of itself, without being run, which tables it has; and a test can make one with others. */
static const struct {
	char mark[16];
	volatile uint32_t version;
} build = { "stillfs-tables=", SHM_VERSION };
static const char *const volatile own_version = STILLFS_VERSION;

/* ---- the daemon's side ---- */

bool upgrade_running(struct shm_head *shm)
{
	uint32_t s = atomic_load(&shm->upgrade.state);

	return s == SHM_UPGRADE_WANTED || s == SHM_UPGRADE_CHECKING || s == SHM_UPGRADE_RUNNING;
}

int upgrade_ask(struct shm_head *shm)
{
	uint32_t s = atomic_load(&shm->upgrade.state);

	if (upgrade_running(shm) || !atomic_compare_exchange_strong(&shm->upgrade.state, &s, SHM_UPGRADE_WANTED))
		return -EBUSY;
	FAULT("upgrade.wanted");
	return kill(shm->keeper_pid, SIGUSR1) < 0 ? -errno : 0; /* it looks by itself, too, but later */
}

void upgrade_render(struct shm_head *shm, struct vbuf *out)
{
	const struct shm_upgrade *u = &shm->upgrade;

	switch ((enum shm_upgrade_state)atomic_load(&u->state)) {
	case SHM_UPGRADE_NONE:
		vbuf_puts(out, "none\n");
		break;
	case SHM_UPGRADE_WANTED:
	case SHM_UPGRADE_CHECKING:
	case SHM_UPGRADE_RUNNING:
		vbuf_puts(out, "running\n");
		break;
	case SHM_UPGRADE_DONE:
		vbuf_printf(out, "done %s from %s to %s\n", u->when, u->from, u->to);
		break;
	case SHM_UPGRADE_FAILED:
		vbuf_printf(out, "failed %s %s\n", u->when, u->msg);
		break;
	}
}

/* ---- the keeper's side ---- */

static bool mine; /* this binary is the old one of the running upgrade */

static void ended(struct shm_head *shm, enum shm_upgrade_state state)
{
	char when[CLOCK_ISO_MAX];

	memcpy(shm->upgrade.when, clock_iso(clock_utc(), when), sizeof(when));
	atomic_store(&shm->upgrade.state, (uint32_t)state);
}

static void failed(struct shm_head *shm, const char *why)
{
	(void)snprintf(shm->upgrade.msg, sizeof(shm->upgrade.msg), "upgrade: %.200s: %.200s; %s goes on",
		       shm->upgrade.binary, why, shm->upgrade.from);
	log_error("%s", shm->upgrade.msg);
	ended(shm, SHM_UPGRADE_FAILED);
}

int upgrade_note(struct shm_head *shm, const struct opts *o, const struct door_pair *pairs, unsigned n,
		 int log_fd)
{
	struct shm_upgrade *u = &shm->upgrade;
	struct vbuf b = VBUF_INIT;
	ssize_t len = readlink("/proc/self/exe", u->binary, sizeof(u->binary) - 1);
	const char *t;

	if (len < 0)
		return -errno;
	u->binary[len] = '\0';
	u->exe_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	u->log_fd = log_fd;
	u->n_pairs = n;
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(u->pair[i].backing, sizeof(u->pair[i].backing), "%s", pairs[i].backing);
		(void)snprintf(u->pair[i].mountpoint, sizeof(u->pair[i].mountpoint), "%s", pairs[i].mountpoint);
		u->pair[i].backing_fd = pairs[i].backing_fd;
		u->pair[i].backing_dev = pairs[i].backing_dev;
	}
	(void)snprintf(u->from, sizeof(u->from), "%s", own_version);
	conf_render(o->conf, &b);
	t = vbuf_text(&b);
	/* only what somebody has set: new defaults are the new binary's */
	for (size_t at = 0, l; *t; t += l + (t[l] == '\n')) {
		char key[64];

		l = strcspn(t, "\n");
		(void)snprintf(key, sizeof(key), "%.*s", (int)strcspn(t, " \n"), t);
		if (!conf_is_set(o->conf, key))
			continue;
		if (at + l + 2 > sizeof(u->conf)) {
			u->conf_too_long = 1;
			break;
		}
		memcpy(u->conf + at, t, l);
		u->conf[at + l] = '\n';
		at += l + 1;
	}
	vbuf_free(&b);
	return u->exe_fd < 0 ? -errno : 0;
}

static void argument(const struct shm_head *shm, char out[32])
{
	(void)snprintf(out, 32, UPGRADE_ARG "%d", shm->map_fd[SHM_MAP_HEAD]);
}

/* Descriptors survive an exec from here on, until the new binary says otherwise. */
static void pass_on(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;

	errno = d ? 0 : errno;
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
			(void)fcntl(atoi(e->d_name), F_SETFD, 0);
	if (!d || errno) /* no descriptor to spare for the list */
		for (int fd = 0; fd < (int)TABLES_FDS; fd++)
			(void)fcntl(fd, F_SETFD, 0);
	if (d)
		(void)closedir(d);
}

/* One descriptor for trial and exec: a package that is installed between the two would be another binary. The keeper's own, while
 * an upgrade is on; a new daemon would close it. */
static int candidate = -1;

static void let_go(void)
{
	if (candidate >= 0)
		(void)close(candidate);
	candidate = -1;
}

/* In a child: run the new binary's trial, what it says into fd. */
static void run_trial(const struct shm_head *shm, int fd)
{
	char arg[32], *argv[] = { (char *)(uintptr_t) "stillfs", arg, (char *)(uintptr_t)UPGRADE_TRIAL, NULL };

	(void)dup2(fd, 1);
	(void)dup2(fd, 2);
	for (unsigned i = 0; i < SHM_MAPS; i++)
		(void)fcntl(shm->map_fd[i], F_SETFD, 0);
	(void)fcntl(candidate, F_SETFD, 0); /* a script's interpreter opens it by its number */
	argument(shm, arg);
	(void)fexecve(candidate, argv, environ);
	dprintf(2, "stillfs: start it: %s", strerror(errno));
	_exit(1);
}

static bool collect(pid_t pid, uint64_t deadline_ns, int *status)
{
	const struct timespec tick = { .tv_nsec = 2000000 };
	pid_t got;

	while ((got = waitpid(pid, status, WNOHANG)) == 0 && clock_boot_ns() < deadline_ns)
		(void)nanosleep(&tick, NULL);
	return got == pid;
}

/* Collect what it says and its exit code. 0: it can; the text is its version. */
static int see_trial(pid_t pid, int fd, char *text, size_t cap)
{
	uint64_t give_up = clock_boot_ns() + TRIAL_MS * NS_PER_MS;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	size_t n = 0;
	ssize_t got = 1;
	int status = 0;

	while (got > 0 && n + 1 < cap && poll(&p, 1, (int)clock_left_ms(give_up)) > 0) {
		got = read(fd, text + n, cap - n - 1);
		n += got > 0 ? (size_t)got : 0;
	}
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (got > 0 || !collect(pid, give_up, &status)) { /* it says nothing, or too much, or is silent, and does not end */
		(void)kill(pid, SIGKILL);
		(void)snprintf(text, cap, "its trial did not end within %u ms", TRIAL_MS);
		(void)collect(pid, clock_boot_ns() + NS_PER_S, &status); /* one that sits in the kernel is left */
		return -EPROTO;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && *text)
		return 0;
	if (WIFSIGNALED(status))
		(void)snprintf(text, cap, "its trial was killed by signal %d", WTERMSIG(status));
	else if (!*text || WEXITSTATUS(status) == 2)
		(void)snprintf(text, cap, "its trial ended with code %d: it does not know how to take over",
			       WEXITSTATUS(status));
	return -EPROTO;
}

bool upgrade_wanted(struct shm_head *shm)
{
	char text[SNAP_ERROR_MAX] = "";
	const char *why = text;
	int p[2], r;
	pid_t pid;

	if (atomic_load(&shm->upgrade.state) != SHM_UPGRADE_WANTED)
		return false;
	atomic_store(&shm->upgrade.state, SHM_UPGRADE_CHECKING);
	shm->fail_msg[0] = '\0';
	(void)snprintf(shm->upgrade.from, sizeof(shm->upgrade.from), "%s", own_version);
	if (shm->upgrade.conf_too_long || pipe2(p, O_CLOEXEC) < 0) {
		failed(shm, shm->upgrade.conf_too_long ? "the configuration is too long to be handed over" : strerror(errno));
		return false;
	}
	candidate = open(shm->upgrade.binary, O_RDONLY | O_CLOEXEC);
	if (candidate < 0)
		(void)snprintf(text, sizeof(text), "start it: %s", strerror(errno));
	pid = candidate < 0 ? 0 : fork();
	if (candidate >= 0 && pid == 0)
		run_trial(shm, p[1]);
	(void)close(p[1]);
	r = candidate < 0 ? -ENOENT : pid < 0 ? -errno : see_trial(pid, p[0], text, sizeof(text));
	(void)close(p[0]);
	if (pid < 0)
		why = strerror(-r);
	else if (strncmp(text, "stillfs: ", 9) == 0)
		why = text + 9;
	if (r == 0 && atomic_load(&shm->gate_state) != 0) {
		r = -EBUSY;
		why = "the gate was closed meanwhile";
	}
	if (r < 0) {
		let_go();
		failed(shm, why);
		return false;
	}
	(void)snprintf(shm->upgrade.to, sizeof(shm->upgrade.to), "%.*s", (int)sizeof(shm->upgrade.to) - 1, text);
	mine = true;
	atomic_store(&shm->upgrade.state, SHM_UPGRADE_RUNNING);
	log_info("upgrade: from %s to %s", shm->upgrade.from, shm->upgrade.to);
	return true;
}

bool upgrade_go(struct shm_head *shm)
{
	char arg[32], *argv[] = { (char *)(uintptr_t) "stillfs", arg, NULL };

	if (!mine || atomic_load(&shm->upgrade.state) != SHM_UPGRADE_RUNNING)
		return false;
	mine = false;
	argument(shm, arg);
	pass_on();
	(void)fexecve(candidate, argv, environ);
	failed(shm, strerror(errno));
	let_go();
	return true;
}

bool upgrade_overdue(struct shm_head *shm, uint64_t since_ns)
{
	return !mine && atomic_load(&shm->upgrade.state) == SHM_UPGRADE_RUNNING &&
	       clock_boot_ns() - since_ns > COME_UP_MS * NS_PER_MS;
}

void upgrade_done(struct shm_head *shm)
{
	int fd;

	if (mine || atomic_load(&shm->upgrade.state) != SHM_UPGRADE_RUNNING)
		return;
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) { /* under the number that every daemon finds open */
		(void)dup3(fd, shm->upgrade.exe_fd, O_CLOEXEC);
		(void)close(fd);
	}
	log_info("upgraded from %s to %s", shm->upgrade.from, shm->upgrade.to);
	ended(shm, SHM_UPGRADE_DONE);
}

void upgrade_back(struct shm_head *shm, const char *why)
{
	char arg[32], *argv[] = { (char *)(uintptr_t) "stillfs", arg, NULL };

	if (atomic_load(&shm->upgrade.state) != SHM_UPGRADE_RUNNING)
		return;
	failed(shm, why);
	argument(shm, arg);
	pass_on();
	(void)fexecve(shm->upgrade.exe_fd, argv, environ);
	log_error("upgrade: go back to the old binary: %s", strerror(errno));
}

/* ---- the new binary ---- */

static int read_conf(struct opts *o, const char *t, struct snap_error *err)
{
	int r = 0;

	o->conf = conf_new(opts_table, err);
	for (size_t l; o->conf && r == 0 && *t; t += l + (t[l] == '\n')) {
		char key[64], *value;
		size_t k = strcspn(t, " \n");

		l = strcspn(t, "\n");
		(void)snprintf(key, sizeof(key), "%.*s", (int)k, t);
		value = strndup(t + k + (t[k] == ' '), l - k - (t[k] == ' '));
		r = value ? conf_set(o->conf, "the running daemon's configuration", key, value, err) :
			    snap_error_set(err, -ENOMEM, "out of memory");
		free(value);
	}
	return o->conf ? r : err->code;
}

int upgrade_inherit(int fd, struct shm_head **shm, struct opts *o, struct door_pair *pairs, unsigned *n,
		    struct snap_error *err)
{
	struct shm_head *s;
	struct stat st;
	uint32_t id[2];

	if (pread(fd, id, sizeof(id), 0) != sizeof(id) || id[0] != SHM_MAGIC || fstat(fd, &st) < 0)
		return snap_error_set(err, -EPROTO, "this is not the memory of a running stillfs");
	if (id[1] != build.version || st.st_size != (off_t)sizeof(*s))
		return snap_error_set(err, -EPROTO, "its tables have version %u, the running daemon's %u: unmount and mount again",
				      build.version, id[1]);
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (s == MAP_FAILED)
		return snap_error_set(err, -errno, "map the head: %s", strerror(errno));
	*shm = s;
	*n = s->upgrade.n_pairs;
	for (unsigned i = 0; i < *n; i++)
		pairs[i] = (struct door_pair){ .backing = s->upgrade.pair[i].backing,
					       .mountpoint = s->upgrade.pair[i].mountpoint,
					       .backing_fd = s->upgrade.pair[i].backing_fd,
					       .backing_dev = s->upgrade.pair[i].backing_dev,
					       .mount_dev = s->mnt[i].mount_dev };
	return read_conf(o, s->upgrade.conf, err);
}
