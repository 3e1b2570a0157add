/* fs/main.c - the program: command line, keeper, daemon, shutdown.
 * Three roles in one file: the command (returns when the mount and the control tree answer), the keeper
 * (keeper.c), and the daemon's main thread below.
 * Errors: the sentence on stderr, exit code 1; 2 for a wrong command line. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/core.h"
#include "fs/crash.h"
#include "fs/ctl.h"
#include "fs/keeper.h"
#include "fs/mount_check.h"
#include "fs/opts.h"
#include "fs/recover.h"
#include "fs/upgrade.h"
#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define START_LIMIT_S 60
#define STOP_TRIES 20 /* x 100 ms */
#define MANY_FILES (1u << 20)

struct start {
	struct opts opts;
	struct shm_head *shm;
	struct tables tables;
	unsigned n;
	struct door_pair pairs[DOOR_MAX_PAIRS];
	int log_fd;
};

/* ---- the daemon ---- */

/* As far as we may: to the caller's hard limit without CAP_SYS_RESOURCE. */
static void raise_limit(__rlimit_resource_t what, rlim_t to)
{
	struct rlimit r = { to, to };

	if (setrlimit(what, &r) < 0 && getrlimit(what, &r) == 0) {
		r.rlim_cur = r.rlim_max;
		(void)setrlimit(what, &r);
	}
}

static void limits(void)
{
	(void)umask(0);
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	(void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

/* So that quotas and reserved blocks bind callers as they do without us. Before any other thread. */
static void drop_sys_resource(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d) < 0)
		return;
	d[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	d[0].permitted &= ~(1u << CAP_SYS_RESOURCE);
	(void)syscall(SYS_capset, &h, d);
}

struct parts {
	struct core *core;
	struct ctl *ctl;
	struct engine *engine;
	struct door door;
	struct door_ops ops;
	int *held;
	size_t n_held;
};

/* The door's fs argument is the core; events and reports go to the control tree. One daemon, one tree. */
static struct ctl *door_ctl;

static void door_event(void *fs, const char *type, const char *members)
{
	ctl_event(door_ctl, type, members);
}

static void door_report(void *fs, const char *file, const struct snap_error *err)
{
	ctl_report(door_ctl, file, err);
}

/* Repair what the dead daemon left, and close what it had open. Before this daemon opens anything. */
static int *recover(struct start *s, size_t *n_held)
{
	uint64_t devs[DOOR_MAX_PAIRS];

	for (unsigned i = 0; i < s->n; i++)
		devs[i] = s->pairs[i].backing_dev;
	recover_tables(&s->tables);
	return recover_descriptors(&s->tables, s->shm->gate_state == GATE_CLOSED, devs, s->n, n_held);
}

static int start_parts(struct start *s, struct parts *p, bool again, struct snap_error *err)
{
	const struct conf *conf = s->opts.conf;
	struct ctl_deps deps = { .name = conf_str(conf, "name"),
				 .control_dir = conf_str(conf, "control_dir"),
				 .conf = conf, .shm = s->shm, .pairs = s->pairs, .n_pairs = s->n };
	int sealed;

	p->core = core_new(conf, &s->tables, s->pairs, s->n, again, err);
	if (!p->core)
		return err->code;
	core_inherit_held(p->core, p->held, p->n_held);
	deps.core = p->core;
	deps.tables = &s->tables;
	deps.again = again;
	p->ctl = door_ctl = ctl_new(&deps, err);
	if (!p->ctl)
		return err->code;
	sealed = engine_sealed(conf, err); /* nobody may write, not even between the mounting and the engine's start */
	if (sealed < 0)
		return sealed;
	if (sealed)
		core_seal(p->core);
	if (core_mount(p->core, err) < 0)
		return err->code;
	core_door_ops(p->core, &p->ops, &p->door.fs);
	p->ops.event = door_event;
	p->ops.report = door_report;
	p->door.ops = &p->ops;
	p->door.name = deps.name;
	p->door.conf = conf;
	p->door.n_pairs = s->n;
	memcpy(p->door.pairs, s->pairs, sizeof(p->door.pairs));
	p->engine = engine_new(&p->door, err);
	if (!p->engine || engine_start(p->engine, err) < 0)
		return err->code;
	if (again)
		core_end_engines_hold(p->core);
	return ctl_start(p->ctl, p->engine, err);
}

static void stop_parts(struct parts *p)
{
	struct snap_error ignored = { 0 };
	bool stuck = false;

	if (p->engine)
		stuck = engine_stop(p->engine, 5000) < 0;
	if (p->ctl)
		ctl_stop(p->ctl);
	if (p->engine && !stuck)
		engine_free(p->engine);
	if (p->core && core_umount(p->core, &ignored) == 0 && !stuck) /* a thread of the engine may use it still */
		core_free(p->core);
	if (p->ctl && !stuck)
		ctl_free(p->ctl);
}

/* SIGTERM: open the gate, try to unmount; a mount that is in use goes on being served, and its users are
 * named. Never a lazy unmount below a running database. */
static bool try_stop(struct start *s, struct parts *p)
{
	const struct timespec pause = { .tv_nsec = 100000000 };
	struct snap_error err = { 0 };
	char users[300];

	engine_unwind(p->engine);
	/* a moment of patience: the gate has just let somebody go who is about to close */
	for (int i = 0; i < STOP_TRIES; i++) {
		snap_error_clear(&err);
		if (core_umount(p->core, &err) == 0)
			return true;
		(void)nanosleep(&pause, NULL);
	}
	for (unsigned i = 0; i < s->n; i++) {
		struct snap_error busy = { 0 };

		check_users(s->pairs[i].mount_dev, users, sizeof(users));
		if (!*users)
			continue;
		snap_error_set(&busy, -EBUSY, "stop: %s is in use by %s; it goes on being served: stop these "
					      "first, then stop stillfs again", s->pairs[i].mountpoint, users);
		log_warn("%s", busy.msg);
		ctl_report(p->ctl, "SIGTERM", &busy);
		return false;
	}
	log_warn("%s", err.msg);
	ctl_report(p->ctl, "SIGTERM", &err);
	return false;
}

static void serve(struct start *s, struct parts *p, int sigfd)
{
	struct pollfd fds[2] = { { .fd = sigfd, .events = POLLIN },
				 { .fd = core_end_fd(p->core), .events = POLLIN } };
	struct signalfd_siginfo si;

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents) {
			log_info("every mount has been unmounted from outside: stopping");
			return;
		}
		if (fds[0].revents && read(sigfd, &si, sizeof(si)) == sizeof(si) &&
		    si.ssi_signo != SIGHUP && try_stop(s, p))
			return;
	}
}

static int daemon_main(void *arg, bool again)
{
	struct start *s = arg;
	struct parts p = { 0 };
	struct snap_error err = { 0 };
	sigset_t set;
	int sigfd;

	if (again)
		p.held = recover(s, &p.n_held);
	limits();
	drop_sys_resource();
	crash_setup();
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	(void)sigdelset(&set, SIGPIPE);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	if (sigfd < 0 || start_parts(s, &p, again, &err) < 0) {
		snap_error_set(&err, -errno, "start: %s", strerror(errno));
		if (again) {
			/* the mounts and those who wait are the next one's */
			log_error("%s", err.msg);
			memcpy(s->shm->fail_msg, err.msg, sizeof(err.msg));
			return 1;
		}
		s->shm->fail_code = err.code;
		memcpy(s->shm->fail_msg, err.msg, sizeof(err.msg));
		log_error("%s", err.msg);
		stop_parts(&p);
		atomic_store(&s->shm->ready, SHM_FAILED);
		return 1;
	}
	if (s->n)
		log_info("%sserving %s on %s, control tree %s", again ? "taken over: " : "", s->pairs[0].backing,
			 s->pairs[0].mountpoint, conf_str(s->opts.conf, "control_dir"));
	else
		log_info("serving the catalog alone, control tree %s", conf_str(s->opts.conf, "control_dir"));
	FAULT("recover.start");
	atomic_store(&s->shm->ready, SHM_SERVING);
	atomic_store(&s->shm->serving_pid, (int32_t)getpid());
	if (upgrade_running(s->shm)) /* the keeper waits for this */
		(void)kill(s->shm->keeper_pid, SIGUSR1);
	serve(s, &p, sigfd);
	s->shm->ending = 1;
	stop_parts(&p);
	atomic_store(&s->shm->ready, SHM_STOPPED);
	return 0;
}

/* ---- the command ---- */

static void start_log(const struct start *s)
{
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	int level = LOG_LEVEL_INFO;

	for (int i = 0; i < 4; i++)
		if (strcmp(conf_str(s->opts.conf, "log_level"), levels[i]) == 0)
			level = i;
	log_setup(s->log_fd, (enum log_level)level);
#ifdef STILLFS_FAULT_POINTS
	fault_setup();
#endif
}

static int prepare(struct start *s, struct snap_error *err)
{
	const struct conf *conf = s->opts.conf;
	int r;

	if (geteuid() != 0)
		return snap_error_set(err, -EPERM, "stillfs must be started by root");
	s->n = s->opts.n_pairs;
	r = s->n ? check_pairs(s->opts.backing, s->opts.mountpoint, s->n, s->pairs, err) : 0;
	if (r == 0)
		r = check_dirs(conf, s->pairs, s->n, err);
	if (r == 0)
		r = check_mkdirs(conf_str(conf, "state_dir"), 0700, err);
	if (r == 0) {
		r = check_lock(conf_str(conf, "state_dir"), conf_str(conf, "name"), err);
		r = r < 0 ? r : 0; /* the descriptor stays open as long as we live */
	}
	if (r == 0)
		r = check_writers(s->pairs, s->n, err);
	if (r < 0)
		return r;
	s->log_fd = 2;
	if (*conf_str(conf, "log_file")) {
		s->log_fd = open(conf_str(conf, "log_file"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		if (s->log_fd < 0)
			return snap_error_set(err, -errno, "open log_file %s: %s", conf_str(conf, "log_file"),
					      strerror(errno));
	}
	start_log(s);
	s->shm = keeper_shm();
	if (!s->shm)
		return snap_error_set(err, -errno, "shared memory: %s", strerror(errno));
	r = upgrade_note(s->shm, &s->opts, s->pairs, s->n, s->log_fd);
	return r < 0 ? snap_error_set(err, r, "look at this program's own file: %s", strerror(-r)) : 0;
}

static int map_tables(void *arg)
{
	struct start *s = arg;

	return tables_new(&s->tables, s->shm, s->opts.conf);
}

static int run_keeper(struct start *s, bool heir)
{
	struct keeper_conf k = { .shm = s->shm, .daemon = daemon_main, .arg = s, .n = s->n,
				 .log_fd = s->log_fd, .tables = map_tables, .heir = heir };

	/* before the first daemon, which has it from here: the descriptor table is this process's, too, and full of the callers' files */
	raise_limit(RLIMIT_NOFILE, MANY_FILES);
	k.mounts[0] = conf_str(s->opts.conf, "control_dir");
	for (unsigned i = 0; i < s->n; i++) {
		k.backing_fds[i] = s->pairs[i].backing_fd;
		k.mounts[i + 1] = s->pairs[i].mountpoint;
	}
	return keeper_run(&k);
}

/* Detach from the terminal and the caller's directory; the log goes to log_file, or nowhere. */
static void detach(const struct start *s)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)setsid();
	if (null >= 0) {
		(void)dup2(null, 0);
		(void)dup2(null, 1);
		/* a log on stderr would keep the caller's pipe open for ever */
		(void)dup2(s->log_fd > 2 ? s->log_fd : null, 2);
	}
	if (chdir("/") < 0) {
		/* the keeper does it again */
	}
}

static int wait_ready(struct start *s, pid_t keeper)
{
	const struct timespec tick = { .tv_nsec = 5000000 };
	uint64_t give_up = clock_boot_ns() + START_LIMIT_S * NS_PER_S;
	int status;

	for (;;) {
		uint32_t ready = atomic_load(&s->shm->ready);

		if (ready == SHM_SERVING || ready == SHM_STOPPED)
			return 0;
		if (ready == SHM_FAILED) {
			fprintf(stderr, "stillfs: %s\n", s->shm->fail_msg);
			(void)waitpid(keeper, &status, 0); /* a new try must not find this one still ending */
			return 1;
		}
		if (waitpid(keeper, &status, WNOHANG) == keeper) {
			fprintf(stderr, "stillfs: the daemon ended before it served; see the log\n");
			return 1;
		}
		if (clock_boot_ns() > give_up) {
			(void)kill(keeper, SIGTERM);
			fprintf(stderr, "stillfs: not ready within %d s; stopped\n", START_LIMIT_S);
			return 1;
		}
		(void)nanosleep(&tick, NULL);
	}
}

/* This process was the keeper of another binary a moment ago; or is only to say whether it could be (upgrade.h). */
static int inherit(struct start *s, int fd, bool trial)
{
	struct snap_error err = { 0 };
	int r;

	(void)prctl(PR_SET_NAME, "stillfs", 0, 0, 0); /* an exec by descriptor leaves its number */
	r = upgrade_inherit(fd, &s->shm, &s->opts, s->pairs, &s->n, &err);

	if (r == 0 && trial) /* the keeper does it when its memory is locked */
		r = map_tables(s);
	if (r < 0)
		snap_error_set(&err, r, "map the tables: %s", r == -EPROTO ? "theirs are of another size" : strerror(-r));
	if (trial && r == 0)
		printf("%s\n", STILLFS_VERSION);
	else if (trial)
		fprintf(stderr, "stillfs: %s\n", err.msg);
	if (trial)
		return r < 0;
	(void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	if (r < 0) {
		if (s->shm)
			upgrade_back(s->shm, err.msg);
		return 1;
	}
	s->log_fd = s->shm->upgrade.log_fd;
	start_log(s);
	return run_keeper(s, true);
}

int main(int argc, char **argv)
{
	static struct start s;
	struct snap_error err = { 0 };
	pid_t keeper;

	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	if (argc == 2 && strcmp(argv[1], "--verify-set") == 0)
		return engine_helper();
	if (argc >= 2 && strncmp(argv[1], UPGRADE_ARG, strlen(UPGRADE_ARG)) == 0)
		return inherit(&s, atoi(argv[1] + strlen(UPGRADE_ARG)), argc > 2 && strcmp(argv[2], UPGRADE_TRIAL) == 0);
	if (opts_parse(&s.opts, argc, argv, NULL, &err) < 0) {
		fprintf(stderr, "stillfs: %s\n", err.msg);
		return 2;
	}
	if (s.opts.action == OPTS_HELP)
		opts_help(stdout);
	else if (s.opts.action == OPTS_VERSION)
		printf("stillfs %s\n", STILLFS_VERSION);
	else if (s.opts.action == OPTS_LIST)
		opts_list(stdout);
	if (s.opts.action != OPTS_RUN)
		return 0;
	/* The caller's descriptors would live as long as the mount: a script's lock, a pipe's end. */
	(void)close_range(3, ~0u, 0);
	raise_limit(RLIMIT_FSIZE, RLIM_INFINITY); /* the callers' own are the kernel's to keep; ours would bind them all */
	if (prepare(&s, &err) < 0) {
		fprintf(stderr, "stillfs: %s\n", err.msg);
		return 1;
	}
	if (s.opts.foreground)
		return run_keeper(&s, false);
	keeper = fork();
	if (keeper < 0) {
		fprintf(stderr, "stillfs: fork: %s\n", strerror(errno));
		return 1;
	}
	if (keeper == 0) {
		detach(&s);
		_exit(run_keeper(&s, false));
	}
	return wait_ready(&s, keeper);
}
