/* fs/mount_check.c - see mount_check.h. */
#include "fs/mount_check.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define LOCK_TRIES 60 /* x 50 ms */

static bool has_control(const char *s)
{
	while (*s && (unsigned char)*s >= 0x20 && *s != 0x7f)
		s++;
	return *s;
}

/* Is path the same as dir, or below it? Both resolved. */
bool check_is_below(const char *path, const char *dir)
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
		if (strcmp(mp, b) != 0 && check_is_below(mp, b))
			return snap_error_set(err, -EINVAL, "BACKING %s: another filesystem is mounted inside it, on %s, which no "
							    "set would contain; unmount it, or mount it elsewhere and give it a "
							    "pair of its own", b, mp);
		return 0;
	}
	if (strcmp(mp, m) == 0)
		return is_dead(mp) ? snap_error_set(err, -ENOTCONN, "MOUNTPOINT %s: a dead mount is there; run `umount %s` "
								    "first", m, m) :
				     snap_error_set(err, -EBUSY, "MOUNTPOINT %s: a stillfs is mounted there already", m);
	if (check_is_below(m, mp))
		what = "MOUNTPOINT lies inside";
	else if (check_is_below(b, mp))
		what = "BACKING lies inside";
	else if (check_is_below(b, src) || check_is_below(src, b))
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

		if (!over && (check_is_below(p[i].mountpoint, p[i].backing) || check_is_below(p[i].backing, p[i].mountpoint)))
			return snap_error_set(err, -EINVAL, "%s and %s: one lies in the other; use two separate "
							    "directories, or the same one twice",
					      p[i].backing, p[i].mountpoint);
		for (unsigned k = 0; k < i; k++) {
			const char *a = p[i].backing, *b = p[k].backing;
			const char *c = p[i].mountpoint, *d = p[k].mountpoint;

			if (check_is_below(a, b) || check_is_below(b, a) || check_is_below(c, d) || check_is_below(d, c) ||
			    check_is_below(c, b) || check_is_below(d, a))
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
			if (check_is_below(real, pairs[i].backing) || check_is_below(real, pairs[i].mountpoint))
				return snap_error_set(err, -EINVAL, "%s %s lies below %s: choose a place outside",
						      keys[k], path,
						      check_is_below(real, pairs[i].backing) ? pairs[i].backing :
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
