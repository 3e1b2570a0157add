/* snapshot/verify/sandbox.c - a process in mount, network, PID, IPC, UTS and user namespaces of its own: clones at the
 * original paths, the host's programs read-only, no interface, nothing live. Its init dies with the caller, and everything
 * inside dies with its init. See verify_int.h. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define DATA_MAX (4ull << 30) /* bytes of private memory */

static char new_root[PATH_MAX];

/* In the sandbox's init and server: the last words go to the verifier's log, by the inherited stderr. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "sandbox: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(errno));
	_exit(SANDBOX_FAILED);
}

static void put(const char *path, const char *text)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("write %s", path);
}

/* Where `path` is in the new root. */
static const char *in_root(const char *path)
{
	static char buf[2][2 * PATH_MAX];
	static unsigned turn;
	char *b = buf[turn++ % 2];

	(void)snprintf(b, sizeof(buf[0]), "%s%s", new_root, path);
	return b;
}

static void make_dirs(const char *path)
{
	char p[PATH_MAX];

	(void)snprintf(p, sizeof(p), "%s", path);
	for (char *s = p + 1; *s; s++)
		if (*s == '/') {
			*s = '\0';
			(void)mkdir(in_root(p), 0755);
			*s = '/';
		}
	if (mkdir(in_root(p), 0755) < 0 && errno != EEXIST)
		die("make %s", p);
}

static void bind(const char *from, const char *to, unsigned long flags)
{
	if (mount(from, in_root(to), NULL, MS_BIND, NULL) < 0 ||
	    mount(NULL, in_root(to), NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | flags, NULL) < 0)
		die("bind %s at %s", from, to);
}

static void bind_programs(const struct vspec *s)
{
	static const char *const dirs[] = { "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt" };
	static const char *const parts[] = { "/bin", "/sbin", "/libexec", "/lib", "/lib64", "/share" };
	static char from[PATH_MAX], target[PATH_MAX], prefix[PATH_MAX];
	bool covered = false;
	struct stat st;
	char *slash;

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		ssize_t n;

		(void)snprintf(from, sizeof(from), "%s%s", strcmp(s->root, "/") == 0 ? "" : s->root, dirs[i]);
		covered |= strncmp(s->server, dirs[i], strlen(dirs[i])) == 0 && s->server[strlen(dirs[i])] == '/';
		if (lstat(from, &st) < 0) {
			/* a root of unpacked packages has only what /bin, /lib ... lead to elsewhere */
			(void)snprintf(target, sizeof(target), "usr%s", dirs[i]);
			(void)snprintf(from, sizeof(from), "%s/usr%s", strcmp(s->root, "/") == 0 ? "" : s->root, dirs[i]);
			if (stat(from, &st) == 0 && symlink(target, in_root(dirs[i])) < 0)
				die("link %s", dirs[i]);
			continue;
		}
		if (S_ISLNK(st.st_mode)) {
			n = readlink(from, target, sizeof(target) - 1);
			target[n > 0 ? n : 0] = '\0';
			if (symlink(target, in_root(dirs[i])) < 0)
				die("link %s", dirs[i]);
		} else if (S_ISDIR(st.st_mode)) {
			make_dirs(dirs[i]);
			bind(from, dirs[i], MS_RDONLY | MS_NODEV);
		}
	}
	if (covered)
		return;
	/* a server installed elsewhere: PREFIX/bin/mysqld. Not all of PREFIX: its data may lie there too */
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		(void)snprintf(prefix, sizeof(prefix), "%s", s->server);
		for (int k = 0; k < 2 && (slash = strrchr(prefix, '/')); k++)
			*slash = '\0';
		if (!*prefix)
			return;
		(void)strncat(prefix, parts[i], sizeof(prefix) - strlen(prefix) - 1);
		(void)snprintf(from, sizeof(from), "%s%.*s", strcmp(s->root, "/") == 0 ? "" : s->root, PATH_MAX / 2, prefix);
		if (stat(from, &st) < 0 || !S_ISDIR(st.st_mode))
			continue;
		make_dirs(prefix);
		bind(from, prefix, MS_RDONLY | MS_NODEV);
	}
}

static void make_devices(void)
{
	static const char *const names[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom" };

	make_dirs("/dev");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		int fd = open(in_root(names[i]), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

		if (fd < 0)
			die("make %s", names[i]);
		(void)close(fd);
		if (mount(names[i], in_root(names[i]), NULL, MS_BIND, NULL) < 0)
			die("bind %s", names[i]);
	}
}

static void make_root(const struct vspec *s)
{
	static char path[PATH_MAX];
	struct stat st;

	(void)snprintf(new_root, sizeof(new_root), "%.*s/root", PATH_MAX - 8, s->work[0]);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("stillfs-verify", new_root, "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=755") < 0)
		die("make a root at %s", new_root);
	make_dirs("/proc");
	make_dirs("/run");
	make_dirs("/var/tmp");
	make_dirs("/tmp");
	(void)snprintf(path, sizeof(path), "%.*s/tmp", PATH_MAX - 8, s->work[0]);
	bind(path, "/tmp", MS_NODEV);
	bind_programs(s);
	/* what of the live directories the programs' directories would show */
	for (unsigned i = 0; i < s->n_hide; i++)
		if (stat(in_root(s->hide[i]), &st) == 0 && S_ISDIR(st.st_mode) &&
		    mount("hidden", in_root(s->hide[i]), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k") < 0)
			die("hide %s", s->hide[i]);
	make_devices();
	if (mount("proc", in_root("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		die("mount /proc");
	for (unsigned i = 0; i < s->n_pairs; i++) {
		(void)snprintf(path, sizeof(path), "%.*s/p%u", PATH_MAX - 16, s->work[i], i);
		make_dirs(s->mountpoint[i]);
		bind(path, s->mountpoint[i], MS_NODEV);
	}
	if (chdir(new_root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
	    chdir("/") < 0)
		die("enter %s", new_root);
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
		die("make the root read-only");
}

static void limit(int what, rlim_t max)
{
	struct rlimit l = { 0 };

	(void)getrlimit((__rlimit_resource_t)what, &l);
	if (l.rlim_max == RLIM_INFINITY || l.rlim_max > max)
		l.rlim_max = max;
	l.rlim_cur = l.rlim_max;
	if (setrlimit((__rlimit_resource_t)what, &l) < 0)
		die("set a resource limit");
}

/* The server: nobody but the owner of the files, in a user namespace that has no other. */
__attribute__((noreturn)) static void run_server(const struct vspec *s, char *const argv[], int ask, int go)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *env[] = { path, NULL };
	int out = open("/tmp/server.out", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	char c = 0;

	put("/proc/self/oom_score_adj", "1000"); /* the first to go when memory is short */
	(void)setpriority(PRIO_PROCESS, 0, 19);
	(void)syscall(SYS_ioprio_set, 1, 0, 3 << 13); /* this process, class idle */
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NOFILE, 65536);
	limit(RLIMIT_NPROC, 4096);
	limit(RLIMIT_DATA, DATA_MAX);
	if (out < 0 || unshare(CLONE_NEWUSER) < 0)
		die("make a user namespace");
	if (write(ask, &c, 1) != 1 || read(go, &c, 1) != 1)
		_exit(SANDBOX_FAILED + 1);
	if (setgroups(0, NULL) < 0 || setresgid(s->gid, s->gid, s->gid) < 0 || setresuid(s->uid, s->uid, s->uid) < 0)
		die("become user %u", (unsigned)s->uid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("give up privileges");
	(void)dup2(out, 1);
	(void)dup2(out, 2);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)execve(argv[0], argv, env); /* not ours: that may hold keys */
	die("start %s", argv[0]);
}

/* One user and one group exist in it: those of the files. */
static void map_ids(const struct vspec *s, pid_t pid)
{
	char path[64], text[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	(void)snprintf(text, sizeof(text), "%u %u 1", (unsigned)s->gid, (unsigned)s->gid);
	put(path, text);
	(void)snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	(void)snprintf(text, sizeof(text), "%u %u 1", (unsigned)s->uid, (unsigned)s->uid);
	put(path, text);
}

__attribute__((noreturn)) static void run_init(const struct vspec *s, char *const argv[], int alive)
{
	int ask[2], go[2], status = 0, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct pollfd p = { .fd = alive };
	pid_t server, got;
	char c = 0;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* the verifier never closes its end: a hang-up is its death, which came before it would have been told */
	if (read(alive, &c, 1) != 1 || poll(&p, 1, 0) != 0)
		_exit(SANDBOX_FAILED + 1);
	if (null < 0 || dup2(null, 1) < 0) /* the daemon's pipe is the verifier's alone */
		die("open /dev/null");
	(void)umask(0022); /* the server, another user, passes through the directories made here */
	if (sethostname("stillfs-verify", 14) < 0)
		die("set the host name");
	make_root(s);
	if (pipe2(ask, O_CLOEXEC) < 0 || pipe2(go, O_CLOEXEC) < 0 || (server = fork()) < 0)
		die("fork");
	if (server == 0)
		run_server(s, argv, ask[1], go[0]);
	(void)close(ask[1]);
	if (read(ask[0], &c, 1) != 1)
		_exit(SANDBOX_FAILED);
	map_ids(s, server);
	if (write(go[1], &c, 1) != 1)
		die("let the server go");
	while ((got = waitpid(-1, &status, 0)) != server)
		if (got < 0 && errno != EINTR)
			break;
	_exit(WIFEXITED(status) && WEXITSTATUS(status) >= SANDBOX_FAILED ? SANDBOX_FAILED : 1);
}

int sandbox_start(const struct vspec *s, char *const argv[], pid_t *pid, struct snap_error *err)
{
	int alive[2];
	long p;
	char c = 0;

	if (pipe2(alive, O_CLOEXEC) < 0)
		return snap_error_set(err, -errno, "start a sandbox: %s", strerror(errno));
	p = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, NULL,
		    NULL, NULL, NULL);
	if (p == 0) {
		(void)close(alive[1]);
		run_init(s, argv, alive[0]);
	}
	(void)close(alive[0]);
	if (p < 0) {
		int r = -errno;

		(void)close(alive[1]);
		return snap_error_set(err, r, "start a sandbox: %s; the kernel must have mount, network, PID and user "
					      "namespaces", strerror(-r));
	}
	if (write(alive[1], &c, 1) != 1) /* and stays open */
		p = -p;
	*pid = (pid_t)(p < 0 ? -p : p);
	return p < 0 ? snap_error_set(err, -EPIPE, "start a sandbox: it ended at once") : 0;
}
