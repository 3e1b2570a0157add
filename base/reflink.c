/* base/reflink.c - see reflink.h. */
#include "base/reflink.h"
#include "base/cleanup.h"
#include "base/xattrs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define DEPTH_MAX 72
#define SLICE (64u << 20)
#define BLOCK (1u << 20)

struct first_name {
	struct first_name *next;
	ino_t ino;
	char rel[];
};

struct walk {
	struct reflink *r;
	const char *what;
	int root; /* of the copy */
	dev_t dev;
	struct first_name *names; /* of files with several */
	struct snap_error *err;
};

static int failed(const struct walk *w, int code, const char *rel)
{
	if (code == -ECANCELED)
		return snap_error_set(w->err, code, "copy %s: stopped", w->what);
	if (code == -EOPNOTSUPP || code == -EXDEV)
		return snap_error_set(w->err, code, "copy %s/%s: blocks cannot be shared with that place (another "
						    "filesystem, or one without reflink)", w->what, rel);
	return snap_error_set(w->err, code, "copy %s/%s: %s", w->what, rel, strerror(-code));
}

/* Owner before mode (a change of owner clears set-id bits), times last. */
static int copy_attrs(int in, int out, const struct stat *st)
{
	const struct timespec t[2] = { st->st_atim, st->st_mtim };
	int r;

	if (fchown(out, st->st_uid, st->st_gid) < 0 || fchmod(out, st->st_mode & 07777) < 0)
		return -errno;
	r = xattrs_add(in, out);
	return r < 0 ? r : futimens(out, t) < 0 ? -errno : 0;
}

/* Between kinds of filesystems. */
static ssize_t copy_block(int in, int out, off_t at, size_t want)
{
	size_t len = want < BLOCK ? want : BLOCK;
	cleanup_free char *buf = malloc(len);
	ssize_t n = buf ? pread(in, buf, len, at) : -1;

	return n <= 0 ? n : pwrite(out, buf, (size_t)n, at);
}

static int copy_bytes(struct walk *w, int in, int out, off_t size)
{
	off_t at = 0, end;

	if (ftruncate(out, size) < 0)
		return -errno;
	while (at < size) {
		at = lseek(in, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno; /* a hole to the end */
		end = lseek(in, at, SEEK_HOLE);
		if (end < 0)
			return -errno;
		while (at < end) {
			loff_t a = at, b = at;
			size_t want = end - at > SLICE ? SLICE : (size_t)(end - at);
			ssize_t n = copy_file_range(in, &a, out, &b, want, 0);

			if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL))
				n = copy_block(in, out, at, want);
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
			at += n;
			if (w->r->stop && w->r->stop(w->r->arg, w->r))
				return -ECANCELED;
		}
	}
	return 0;
}

static int copy_file(struct walk *w, int src, int dst, const char *name, const struct stat *st)
{
	cleanup_fd int in = openat(src, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	cleanup_fd int out = in < 0 ? -1 : openat(dst, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = 0;

	if (out < 0)
		return -errno;
	if (ioctl(out, FICLONE, in) < 0)
		r = errno == EINVAL || errno == ENOTTY ? -EOPNOTSUPP : -errno;
	if ((r == -EOPNOTSUPP || r == -EXDEV) && w->r->copy)
		r = copy_bytes(w, in, out, st->st_size);
	w->r->files++;
	w->r->bytes += (uint64_t)st->st_size;
	return r < 0 ? r : copy_attrs(in, out, st);
}

__attribute__((noinline)) static int copy_link(int src, int dst, const char *name, const struct stat *st)
{
	const struct timespec t[2] = { st->st_atim, st->st_mtim };
	char target[PATH_MAX];
	ssize_t n = readlinkat(src, name, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	return symlinkat(target, dst, name) < 0 ||
			       fchownat(dst, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
			       utimensat(dst, name, t, AT_SYMLINK_NOFOLLOW) < 0 ?
		       -errno :
		       0;
}

static int copy_fifo(int dst, const char *name, const struct stat *st)
{
	const struct timespec t[2] = { st->st_atim, st->st_mtim };

	return mkfifoat(dst, name, 0600) < 0 || fchownat(dst, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
			       fchmodat(dst, name, st->st_mode & 07777, 0) < 0 || utimensat(dst, name, t, 0) < 0 ?
		       -errno :
		       0;
}

/* A further name of a file that has been copied. 1: it is the first. */
static int copy_name(struct walk *w, int dst, const char *name, const char *rel, const struct stat *st)
{
	struct first_name *f;
	size_t len = strlen(rel) + 1;

	for (f = w->names; f; f = f->next)
		if (f->ino == st->st_ino)
			return linkat(w->root, f->rel, dst, name, 0) < 0 ? -errno : 0;
	f = malloc(sizeof(*f) + len);
	if (!f)
		return -ENOMEM;
	f->ino = st->st_ino;
	memcpy(f->rel, rel, len);
	f->next = w->names;
	w->names = f;
	return 1;
}

static int copy_dir(struct walk *w, int src, int dst, const char *rel, int depth);

static int copy_entry(struct walk *w, int src, int dst, const char *name, const char *rel, int depth)
{
	struct stat st;
	int r;

	if (w->r->stop && w->r->stop(w->r->arg, w->r))
		return -ECANCELED;
	if (fstatat(src, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_dev != w->dev)
		return -EXDEV;
	if (S_ISDIR(st.st_mode)) {
		cleanup_fd int a = openat(src, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		cleanup_fd int b = -1;

		if (a < 0 || mkdirat(dst, name, 0700) < 0)
			return -errno;
		b = openat(dst, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		return b < 0 ? -errno : copy_dir(w, a, b, rel, depth + 1);
	}
	if (S_ISLNK(st.st_mode))
		return copy_link(src, dst, name, &st);
	if (S_ISFIFO(st.st_mode))
		return copy_fifo(dst, name, &st);
	if (!S_ISREG(st.st_mode))
		return 0;
	r = st.st_nlink > 1 ? copy_name(w, dst, name, rel, &st) : 1;
	return r == 1 ? copy_file(w, src, dst, name, &st) : r;
}

static int copy_dir(struct walk *w, int src, int dst, const char *rel, int depth)
{
	char path[PATH_MAX];
	struct dirent *e;
	struct stat st;
	int fd = depth > DEPTH_MAX ? -1 : openat(src, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d || fstat(src, &st) < 0)
		r = failed(w, depth > DEPTH_MAX ? -ELOOP : -errno, rel);
	if (!d && fd >= 0)
		(void)close(fd);
	while (r == 0 && (errno = 0, e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s%s%s", rel, *rel ? "/" : "", e->d_name) >= sizeof(path))
			r = -ENAMETOOLONG;
		else
			r = copy_entry(w, src, dst, e->d_name, path, depth);
		if (r < 0)
			r = failed(w, r, path);
	}
	if (r == 0 && errno)
		r = failed(w, -errno, rel);
	if (r == 0 && (r = copy_attrs(src, dst, &st)) < 0)
		r = failed(w, r, rel);
	if (d)
		(void)closedir(d);
	return r;
}

int reflink_tree(int src, int dst, const char *what, struct reflink *rl, struct snap_error *err)
{
	struct walk w = { .r = rl, .what = what, .root = dst, .err = err };
	struct first_name *f;
	struct stat st;
	int r;

	if (fstat(src, &st) < 0)
		return snap_error_set(err, -errno, "copy %s: %s", what, strerror(errno));
	w.dev = st.st_dev;
	r = xattrs_disinherit(dst);
	r = r < 0 ? failed(&w, r, "") : copy_dir(&w, src, dst, "", 1);
	while ((f = w.names)) {
		w.names = f->next;
		free(f);
	}
	return r;
}

static int remove_at(int dirfd_, const char *name, dev_t dev, int depth)
{
	struct dirent *e;
	struct stat st;
	DIR *d;
	int fd, r = 0;

	if (unlinkat(dirfd_, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	fd = depth > DEPTH_MAX + 8 ? -1 : openat(dirfd_, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : depth > DEPTH_MAX + 8 ? -ELOOP : -errno;
	if (fstat(fd, &st) < 0 || st.st_dev != dev || !(d = fdopendir(fd))) {
		r = st.st_dev != dev ? -EXDEV : -errno;
		(void)close(fd);
		return r;
	}
	while (r == 0 && (errno = 0, e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_at(dirfd(d), e->d_name, dev, depth + 1);
	if (r == 0 && errno)
		r = -errno;
	(void)closedir(d);
	if (r == 0 && unlinkat(dirfd_, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int reflink_remove(int dirfd_, const char *name, struct snap_error *err)
{
	struct stat st;
	int r = fstat(dirfd_, &st) < 0 ? -errno : remove_at(dirfd_, name, st.st_dev, 0);

	return r < 0 ? snap_error_set(err, r, "remove %s: %s", name, strerror(-r)) : 0;
}
