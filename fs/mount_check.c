/* fs/mount_check.c - see mount_check.h. */
#include "fs/mount_check.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define LOCK_TRIES 60 /* x 50 ms */

static bool has_control(const char *s)
{
	while (*s && (unsigned char)*s >= 0x20 && *s != 0x7f)
		s++;
	return *s;
}

/* Is path the same as dir, or below it? Both resolved. */
static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return strcmp(dir, "/") == 0 || (strncmp(path, dir, n) == 0 && (!path[n] || path[n] == '/'));
}

static char *resolve_dir(const char *what, const char *path, struct snap_error *err)
{
	struct stat st;
	char *real = realpath(path, NULL);

	if (!real || stat(real, &st) < 0) {
		if (errno == ENOTCONN)
			snap_error_set(err, -ENOTCONN, "%s %s: a dead mount is there; run `umount %s` first",
				       what, path, path);
		else
			snap_error_set(err, -errno, "%s %s: %s%s", what, path, strerror(errno),
				       errno == ENOENT ? "; create the directory first" : "");
	} else if (!S_ISDIR(st.st_mode)) {
		snap_error_set(err, -ENOTDIR, "%s %s: not a directory", what, path);
	} else if (has_control(real)) {
		snap_error_set(err, -EINVAL, "%s %s: its path has a control character, which control files could not "
					     "show; rename it", what, real);
	} else {
		return real;
	}
	free(real);
	return NULL;
}

/* ---- other mounts ---- */

/* mountinfo writes a blank, a tab, a newline and a backslash as three octal digits. In place. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

static bool is_dead(const char *mountpoint)
{
	cleanup_fd int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 && errno == ENOTCONN;
}

/* What one mount that exists, `src` on `mp`, means for a new pair. */
static int check_mount(const struct door_pair *p, const char *mp, const char *type, const char *src,
		       struct snap_error *err)
{
	const char *what = NULL, *b = p->backing, *m = p->mountpoint;

	if (strcmp(type, "fuse.stillfs") != 0) {
		if (strcmp(mp, b) != 0 && is_below(mp, b))
			return snap_error_set(err, -EINVAL, "BACKING %s: another filesystem is mounted inside it, on %s, which no "
							    "set would contain; unmount it, or mount it elsewhere and give it a "
							    "pair of its own", b, mp);
		return 0;
	}
	if (strcmp(mp, m) == 0)
		return is_dead(mp) ? snap_error_set(err, -ENOTCONN, "MOUNTPOINT %s: a dead mount is there; run `umount %s` "
								    "first", m, m) :
				     snap_error_set(err, -EBUSY, "MOUNTPOINT %s: a stillfs is mounted there already", m);
	if (is_below(m, mp))
		what = "MOUNTPOINT lies inside";
	else if (is_below(b, mp))
		what = "BACKING lies inside";
	else if (is_below(b, src) || is_below(src, b))
		what = "BACKING is served by";
	if (!what)
		return 0;
	return snap_error_set(err, -EBUSY, "%s on %s: %s the stillfs that is mounted on %s; one directory has one gate: "
					   "unmount that one, or use other directories", b, m, what, mp);
}

static int check_mounts(const struct door_pair *p, unsigned n, struct snap_error *err)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	static char mp[PATH_MAX], src[PATH_MAX]; /* one thread, at start */
	cleanup_free char *line = NULL;
	char type[64], *dash;
	size_t cap = 0;
	int r = 0;

	while (f && r == 0 && getline(&line, &cap, f) > 0) {
		dash = strstr(line, " - ");
		if (!dash || sscanf(line, "%*s %*s %*s %*s %4095s", mp) != 1 ||
		    sscanf(dash + 3, "%63s %4095s", type, src) != 2)
			continue;
		unescape(mp);
		unescape(src);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = check_mount(&p[i], mp, type, src, err);
	}
	if (f)
		(void)fclose(f);
	return r;
}

static int check_nesting(const struct door_pair *p, unsigned n, struct snap_error *err)
{
	for (unsigned i = 0; i < n; i++) {
		bool over = strcmp(p[i].backing, p[i].mountpoint) == 0;

		if (!over && (is_below(p[i].mountpoint, p[i].backing) || is_below(p[i].backing, p[i].mountpoint)))
			return snap_error_set(err, -EINVAL, "%s and %s: one lies in the other; use two separate "
							    "directories, or the same one twice",
					      p[i].backing, p[i].mountpoint);
		for (unsigned k = 0; k < i; k++) {
			const char *a = p[i].backing, *b = p[k].backing;
			const char *c = p[i].mountpoint, *d = p[k].mountpoint;

			if (is_below(a, b) || is_below(b, a) || is_below(c, d) || is_below(d, c) ||
			    is_below(c, b) || is_below(d, a))
				return snap_error_set(err, -EINVAL, "pairs %s:%s and %s:%s overlap", b, d, a, c);
		}
	}
	return 0;
}

int check_pairs(char *const *backing, char *const *mountpoint, unsigned n, struct door_pair *pairs,
		struct snap_error *err)
{
	struct stat st;

	for (unsigned i = 0; i < n; i++) {
		char *b = resolve_dir("BACKING", backing[i], err);
		char *m = b ? resolve_dir("MOUNTPOINT", mountpoint[i], err) : NULL;
		int fd;

		if (!m) {
			free(b);
			return err->code;
		}
		fd = open(b, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st) < 0)
			return snap_error_set(err, -errno, "open BACKING %s: %s", b, strerror(errno));
		pairs[i] = (struct door_pair){ .backing = b, .mountpoint = m, .backing_fd = fd,
					       .backing_dev = st.st_dev };
	}
	return check_nesting(pairs, n, err) < 0 ? err->code : check_mounts(pairs, n, err);
}

int check_mkdirs(const char *path, unsigned mode, struct snap_error *err)
{
	char buf[PATH_MAX];

	if (strlen(path) >= sizeof(buf))
		return snap_error_set(err, -ENAMETOOLONG, "create %s: the path is too long", path);
	(void)strcpy(buf, path);
	for (char *p = buf + 1;; p++) {
		char c = *p;

		if (c != '/' && c)
			continue;
		*p = '\0';
		if (mkdir(buf, mode) < 0 && errno != EEXIST)
			return snap_error_set(err, -errno, "create %s: %s", buf, strerror(errno));
		*p = c;
		if (!c)
			return 0;
	}
}

/* The longest existing part of path, resolved. */
static void resolve_part(const char *path, char out[PATH_MAX])
{
	static char buf[PATH_MAX]; /* one thread, at start */

	(void)snprintf(buf, sizeof(buf), "%s", path);
	while (!realpath(buf, out)) {
		char *slash = strrchr(buf, '/');

		if (!slash || slash == buf) {
			(void)strcpy(out, "/");
			return;
		}
		*slash = '\0';
	}
}

int check_dirs(const struct conf *conf, const struct door_pair *pairs, unsigned n, struct snap_error *err)
{
	static const char *const keys[] = { "control_dir", "state_dir", "log_file" };
	static char real[PATH_MAX]; /* one thread, at start */
	struct stat st;

	for (size_t k = 0; k < 3; k++) {
		const char *path = conf_str(conf, keys[k]);

		if (!*path)
			continue;
		if (k < 2 && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
			return snap_error_set(err, -ENOTDIR, "%s %s: not a directory", keys[k], path);
		resolve_part(path, real);
		for (unsigned i = 0; i < n; i++) {
			if (is_below(real, pairs[i].backing) || is_below(real, pairs[i].mountpoint))
				return snap_error_set(err, -EINVAL, "%s %s lies below %s: choose a place outside",
						      keys[k], path,
						      is_below(real, pairs[i].backing) ? pairs[i].backing :
											 pairs[i].mountpoint);
			if (conf_bool(conf, "freeze") && stat(real, &st) == 0 &&
			    st.st_dev == pairs[i].backing_dev)
				return snap_error_set(err, -EINVAL, "freeze=yes: %s %s is on the filesystem of %s, "
								    "which will be frozen; choose another filesystem",
						      keys[k], path, pairs[i].backing);
		}
	}
	if (conf_bool(conf, "freeze") && strcmp(conf_str(conf, "provider"), "local") == 0)
		return snap_error_set(err, -EINVAL, "freeze=yes cannot be used with provider=local: its clones "
						    "would wait for the thaw; a held gate is enough for it");
	for (unsigned i = 0; conf_bool(conf, "freeze") && i < n; i++)
		if ((stat("/", &st) == 0 && st.st_dev == pairs[i].backing_dev) ||
		    (stat("/tmp", &st) == 0 && st.st_dev == pairs[i].backing_dev))
			return snap_error_set(err, -EINVAL, "freeze=yes: %s is on the filesystem of / or /tmp, which "
							    "must never be frozen",
					      pairs[i].backing);
	return 0;
}

int check_lock(const char *state_dir, const char *name, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	char path[PATH_MAX];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/lock", state_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return snap_error_set(err, -errno, "open %s: %s", path, strerror(errno));
	/* one that has just been unmounted takes a moment to end */
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		(void)nanosleep(&pause, NULL);
	}
	(void)close(fd);
	return snap_error_set(err, -EBUSY, "name %s: another stillfs of this name is running (%s is locked)", name,
			      path);
}

/* ---- who uses what ---- */

struct finder {
	const struct door_pair *pairs; /* or NULL: any file of `dev` counts */
	unsigned n;
	uint64_t dev;
	char *buf;
	size_t cap, len;
	unsigned found;
	const char *where; /* the backing of the first that was found */
};

static void comm_of(const char *pid, char *comm, size_t cap)
{
	char path[64];
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	f = fopen(path, "re");
	comm[0] = '\0';
	if (f && fgets(comm, (int)cap, f))
		comm[strcspn(comm, "\n")] = '\0';
	if (f)
		(void)fclose(f);
}

static void found_one(struct finder *f, const char *pid, const char *file)
{
	char comm[32];
	int n;

	if (f->found++ >= 5)
		return;
	comm_of(pid, comm, sizeof(comm));
	n = snprintf(f->buf + f->len, f->cap - f->len, "%s%s(%s)%s%.100s", f->len ? ", " : "", comm, pid,
		     *file ? " " : "", file);
	if (n > 0)
		f->len += (size_t)n < f->cap - f->len ? (size_t)n : f->cap - f->len - 1;
}

static bool opened_for_writing(const char *pid, const char *fd)
{
	char path[64], line[128];
	unsigned flags = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (f)
		(void)fclose(f);
	return (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH);
}

/* A link of /proc/PID that stands for an open file: does it count? */
static void look_at(struct finder *f, const char *pid, const char *dir, const char *entry)
{
	char link[96], target[1024];
	struct statx st;
	dev_t dev;
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/%.20s/%s%s%.40s", pid, dir, *entry ? "/" : "", entry);
	/* without asking its filesystem: it may be one that does not answer */
	if (statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return;
	dev = makedev(st.stx_dev_major, st.stx_dev_minor);
	if (!f->pairs) {
		if (dev == f->dev)
			found_one(f, pid, "");
		return;
	}
	n = readlink(link, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = '\0';
	for (unsigned i = 0; i < f->n; i++)
		if (dev == f->pairs[i].backing_dev && is_below(target, f->pairs[i].backing) &&
		    (S_ISREG(st.stx_mode) && opened_for_writing(pid, entry))) {
			f->where = f->where ? f->where : f->pairs[i].backing;
			found_one(f, pid, target);
		}
}

static void each_process(struct finder *f)
{
	DIR *proc = opendir("/proc"), *fds;
	struct dirent *p, *e;
	char path[64];
	unsigned before;

	while (proc && (p = readdir(proc))) {
		if (p->d_name[0] < '0' || p->d_name[0] > '9' || atoi(p->d_name) == getpid())
			continue;
		before = f->found;
		(void)snprintf(path, sizeof(path), "/proc/%.20s/fd", p->d_name);
		fds = opendir(path);
		while (fds && (e = readdir(fds)) && f->found == before)
			if (e->d_name[0] != '.')
				look_at(f, p->d_name, "fd", e->d_name);
		if (fds)
			(void)closedir(fds);
		if (!f->pairs && f->found == before)
			look_at(f, p->d_name, "cwd", "");
		if (!f->pairs && f->found == before)
			look_at(f, p->d_name, "root", "");
	}
	if (proc)
		(void)closedir(proc);
}

int check_writers(const struct door_pair *pairs, unsigned n, struct snap_error *err)
{
	char names[400] = "";
	struct finder f = { .pairs = pairs, .n = n, .buf = names, .cap = sizeof(names) };

	each_process(&f);
	if (!f.found)
		return 0;
	return snap_error_set(err, -EBUSY, "%s is open for writing by %u process%s: %s; stop them, mount, start "
					   "them again",
			      f.where, f.found, f.found == 1 ? "" : "es", names);
}

void check_users(uint64_t dev, char *buf, size_t cap)
{
	struct finder f = { .dev = dev, .buf = buf, .cap = cap };

	buf[0] = '\0';
	each_process(&f);
}
