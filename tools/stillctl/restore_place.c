/* tools/stillctl/restore_place.c - a set's data back into the live mount, through the mount, so that nothing of what the
 * kernel and stillfs know of it becomes wrong. See restore.h.
 * Order: nobody may enter (each mountpoint 0700 of root), nothing is open, the state as it is becomes a set, files are
 * made equal (only blocks that differ are written), others removed, and at the very end the mountpoints get their owner
 * and mode back. A restore that died leaves them closed: no server starts on half of it. Run again it goes on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/reflink.h"
#include "base/xattrs.h"
#include "ctl.h"
#include "restore.h"

#define BLOCK (1u << 20)
#define DEPTH_MAX 72

static int fail_at(const char *path)
{
	int e = errno;

	(void)ctl_fail(path, ": cannot be made as in the set");
	return ctl_fail("  ", strerror(e));
}

/* ---- files ---- */

static int same_content(int in, int out)
{
	static char a[BLOCK], b[BLOCK];
	off_t at = 0;
	ssize_t n, m;

	for (; (n = pread(in, a, BLOCK, at)) > 0; at += n) {
		m = pread(out, b, (size_t)n, at);
		if (m < 0)
			return -1;
		if ((m != n || memcmp(a, b, (size_t)n) != 0) && pwrite(out, a, (size_t)n, at) != n)
			return -1;
	}
	return n < 0 || ftruncate(out, at) < 0 || fsync(out) < 0 ? -1 : 0;
}

static int same_attrs(int in, int out, const struct stat *st)
{
	const struct timespec t[2] = { st->st_atim, st->st_mtim };

	int r = fchown(out, st->st_uid, st->st_gid) < 0 || fchmod(out, st->st_mode & 07777) < 0 ? -errno : xattrs_same(in, out);

	if (r == 0 && futimens(out, t) == 0)
		return 0;
	if (r < 0)
		errno = -r;
	return -1;
}

static int same_file(int src, int dst, const char *name, const struct stat *st)
{
	cleanup_fd int in = openat(src, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_fd int out = in < 0 ? -1 : openat(dst, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	return out < 0 || same_content(in, out) < 0 || same_attrs(in, out, st) < 0 ? -1 : 0;
}

static int same_link(int src, int dst, const char *name, const struct stat *st)
{
	const struct timespec t[2] = { st->st_atim, st->st_mtim };
	char target[PATH_MAX];
	ssize_t n = readlinkat(src, name, target, sizeof(target) - 1);

	if (n < 0 || (unlinkat(dst, name, 0) < 0 && errno != ENOENT))
		return -1;
	target[n] = '\0';
	return symlinkat(target, dst, name) < 0 || fchownat(dst, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
			       utimensat(dst, name, t, AT_SYMLINK_NOFOLLOW) < 0 ?
		       -1 :
		       0;
}

/* Close it (NULL: nothing), with errno kept; returns r. */
static int end_dir(DIR *d, int r)
{
	int e = errno;

	if (d)
		(void)closedir(d);
	errno = e;
	return r;
}

/* A directory that was removed reads as one that is empty. */
static bool is_gone(int dir)
{
	struct stat st;

	if (fstat(dir, &st) == 0 && st.st_nlink)
		return false;
	errno = ESTALE;
	return true;
}

/* Names that the set has not: only where that is certain. */
static int remove_others(int src, int dst)
{
	int fd = openat(dst, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct snap_error err = { 0 };
	struct dirent *e;
	struct stat st;

	while (d && r == 0 && (errno = 0, e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    fstatat(src, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		if (errno != ENOENT || is_gone(src))
			r = fail_at(e->d_name);
		else if (reflink_remove(dst, e->d_name, &err) < 0)
			r = ctl_fail(err.msg, "");
	}
	if (d && r == 0 && errno)
		r = -1;
	return end_dir(d, d ? r : -1);
}

static int same_dir(int src, int dst, int depth);

static int same_entry(int src, int dst, const char *name, int depth)
{
	struct stat st, now;
	struct snap_error err = { 0 };

	if (fstatat(src, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	/* another kind of thing, or a file with other names that must not change with this one */
	if (fstatat(dst, name, &now, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return -1;
	} else if (((now.st_mode & S_IFMT) != (st.st_mode & S_IFMT) || (S_ISREG(now.st_mode) && now.st_nlink > 1)) &&
		   reflink_remove(dst, name, &err) < 0) {
		return ctl_fail(err.msg, "");
	}
	if (S_ISLNK(st.st_mode))
		return same_link(src, dst, name, &st);
	if (S_ISREG(st.st_mode))
		return same_file(src, dst, name, &st);
	if (S_ISDIR(st.st_mode)) {
		cleanup_fd int a = openat(src, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		cleanup_fd int b = -1;
		int r;

		if (a < 0 || (mkdirat(dst, name, 0700) < 0 && errno != EEXIST))
			return -1;
		b = openat(dst, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		r = b < 0 ? -1 : same_dir(a, b, depth + 1);
		return r != 0 ? r : same_attrs(a, b, &st);
	}
	return 0;
}

/* 0; -1: errno; 1: it has been said. */
static int same_dir(int src, int dst, int depth)
{
	int fd = depth > DEPTH_MAX ? -1 : openat(src, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (depth > DEPTH_MAX)
		errno = ELOOP;
	r = d ? remove_others(src, dst) : -1;
	while (r == 0 && (errno = 0, e = readdir(d))) {
		/* the position belongs to the clone, and the mount takes no file of that name */
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    (depth == 1 && strcmp(e->d_name, ".stillfs-position") == 0))
			continue;
		r = same_entry(src, dst, e->d_name, depth);
		if (r < 0)
			r = fail_at(e->d_name);
	}
	if (d && r == 0 && (errno || is_gone(src)))
		r = -1;
	return end_dir(d, r);
}

/* ---- the mount ---- */

struct place {
	char *mountpoint;
	int src, dst; /* src is the set's */
};

/* Is anything open in the mount but our own directories? What was just closed takes a moment to be gone. */
static bool in_use(unsigned own)
{
	const struct timespec pause = { .tv_nsec = 50000000 };

	for (int i = 0; i < 20; i++) {
		cleanup_free char *status = ctl_slurp("status");
		const char *at = status ? strstr(status, "\nopen_files ") : NULL;

		if (at && strtoul(at + 12, NULL, 10) == own)
			return false;
		(void)nanosleep(&pause, NULL);
	}
	return true;
}

/* Parts and mounts are matched by number, so they must be of the same pairs in the same order. The one mountpoint of a single
 * pair may have moved. */
static int check_pairs(const struct restore *r, const struct place *p, unsigned n)
{
	cleanup_free char *text = NULL;
	bool same = n == r->n;
	size_t len = 0;
	FILE *f;

	for (unsigned i = 0; n > 1 && same && i < n; i++)
		same = strcmp(p[i].mountpoint, r->part[i].mountpoint) == 0;
	if (same)
		return 0;
	f = open_memstream(&text, &len);
	if (f) {
		fprintf(f, "the set is of ");
		for (unsigned i = 0; i < r->n; i++)
			fprintf(f, "%s%s", i ? ", " : "", r->part[i].mountpoint);
		fprintf(f, ", and the mount of ");
		for (unsigned i = 0; i < n; i++)
			fprintf(f, "%s%s", i ? ", " : "", p[i].mountpoint);
		(void)fclose(f);
	}
	return ctl_fail(text ? text : strerror(ENOMEM),
			"; nothing was changed: start stillfs with the set's pairs in their order, or restore it with --to");
}

static int find_places(const struct restore *r, struct place *p, unsigned *n)
{
	cleanup_free char *status = ctl_slurp("status");
	char *at[DOOR_MAX_PAIRS];

	*n = restore_mountpoints(status, at);
	for (unsigned i = 0; i < *n; i++)
		p[i] = (struct place){ .mountpoint = at[i], .src = r->part[i].src, .dst = -1 };
	if (*n == 0)
		return ctl_fail("status names no mountpoint", "");
	if (check_pairs(r, p, *n) != 0)
		return 1;
	for (unsigned i = 0; i < *n; i++) {
		p[i].dst = open(p[i].mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (p[i].dst < 0)
			return ctl_fail("cannot open ", p[i].mountpoint);
	}
	return 0;
}

/* A set that failed keeps nothing: it need not stay, and pinned it would for ever. Its sentence has been said. */
static int not_kept(const char *name)
{
	char rel[128], path[PATH_MAX];
	cleanup_free char *state = NULL;

	(void)snprintf(rel, sizeof(rel), "snapshots/%s/state", name);
	state = ctl_slurp(rel);
	(void)snprintf(rel, sizeof(rel), "snapshots/%s/pin", name);
	(void)snprintf(path, sizeof(path), "%s/snapshots/%s", ctl_dir, name);
	if (state && strcmp(state, "failed\n") == 0 && (ctl_write(rel, "no\n") != 0 || rmdir(path) < 0))
		(void)ctl_fail("this failed set is left: ", name);
	return ctl_fail("the state as it is could not be kept as a set; nothing was restored (with db=mysql and the database "
			"down: db.when_down=crash-consistent)", "");
}

/* Each root of the kept set gets its owner and mode from before the closing. */
static int open_roots(const char *name, const struct stat *was, unsigned n)
{
	static struct restore kept;
	int ret = restore_find(name, &kept);

	if (ret == 0 && kept.n != n)
		ret = ctl_fail("the kept set has not the mount's pairs: ", name);
	for (unsigned i = 0; ret == 0 && i < n; i++) {
		int fd = kept.part[i].src;

		if (fchown(fd, was[i].st_uid, was[i].st_gid) < 0 || fchmod(fd, was[i].st_mode & 07777) < 0)
			ret = fail_at(kept.part[i].path);
	}
	restore_release(&kept);
	return ret;
}

/* The state as it is, pinned, before anything changes. */
static int keep_state(const struct restore *r, const struct stat *was, unsigned n)
{
	char name[64], when[32], text[320], rel[128];
	cleanup_free char *waited = NULL;
	struct timespec now;
	struct tm tm;

	/* to the millisecond: one that failed a moment ago may still be on its way out */
	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &tm);
	(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%S", &tm);
	(void)snprintf(name, sizeof(name), "before-restore-%s.%03ldZ", when, now.tv_nsec / 1000000);
	(void)snprintf(text, sizeof(text), "%s description=\"before the restore of %.100s\" pin\n", name, r->name);
	if (ctl_write("snapshot", text) != 0)
		return not_kept(name);
	(void)snprintf(rel, sizeof(rel), "snapshots/%s/state", name);
	for (;;) {
		const struct timespec pause = { .tv_nsec = 100000000 };

		free(waited);
		waited = ctl_slurp(rel);
		if (!waited || strcmp(waited, "failed\n") == 0)
			return not_kept(name);
		if (strcmp(waited, "complete\n") == 0)
			break;
		(void)nanosleep(&pause, NULL);
	}
	if (open_roots(name, was, n) != 0)
		return ctl_fail("the kept set's directories are not as they were; nothing was restored", "");
	printf("kept the state as it was as set %s, pinned\n", name);
	return 0;
}

/* Into closed mounts. */
static int make_equal(struct place *p, unsigned n)
{
	struct stat st;

	for (unsigned i = 0; i < n; i++) {
		int r = same_dir(p[i].src, p[i].dst, 1);

		if (r != 0)
			return r < 0 ? fail_at(p[i].mountpoint) : 1;
	}
	for (unsigned i = 0; i < n; i++)
		if (fsync(p[i].dst) < 0 || fstat(p[i].src, &st) < 0 || same_attrs(p[i].src, p[i].dst, &st) < 0)
			return fail_at(p[i].mountpoint);
	return 0;
}

int restore_in_place(const struct restore *r)
{
	struct place p[DOOR_MAX_PAIRS];
	struct stat was[DOOR_MAX_PAIRS];
	unsigned n = 0, closed = 0;
	int ret = find_places(r, p, &n);

	for (; ret == 0 && closed < n; closed++)
		if (fstat(p[closed].dst, &was[closed]) < 0 || fchmod(p[closed].dst, 0700) < 0 || fchown(p[closed].dst, 0, 0) < 0)
			ret = fail_at(p[closed].mountpoint);
	if (ret == 0 && in_use(n))
		ret = ctl_fail("files are open in the mount: stop the database (and whoever else uses it) first", "");
	if (ret == 0)
		ret = keep_state(r, was, n);
	if (ret == 0 && in_use(n))
		ret = ctl_fail("files were opened in the mount meanwhile; nothing was restored", "");
	if (ret == 0 && restore_is_there(r) != 0)
		ret = ctl_fail("nothing was restored", "");
	if (ret != 0) { /* nothing has changed but the doors */
		for (unsigned i = 0; i < closed; i++)
			if (fchown(p[i].dst, was[i].st_uid, was[i].st_gid) < 0 || fchmod(p[i].dst, was[i].st_mode & 07777) < 0)
				(void)fail_at(p[i].mountpoint);
	} else {
		ret = make_equal(p, n);
		if (ret != 0)
			(void)ctl_fail("the mount is half restored and stays closed (0700 root): run the same command again", "");
	}
	for (unsigned i = 0; i < n; i++) {
		free(p[i].mountpoint);
		if (p[i].dst >= 0)
			(void)close(p[i].dst);
	}
	return ret;
}
