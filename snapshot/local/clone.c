/* snapshot/local/clone.c - FICLONE of whole trees, in parallel.
 * Owns:      threads for the time of one call. Called by: local.c on the provider's thread.
 * Blocks:    FICLONE writes dirty pages of its source first; cannot be interrupted within a file, is asked to
 *            stop between files.
 * Errors:    the first failure names its file. */
#include "snapshot/local/local_int.h"
#include "base/cleanup.h"
#include "base/xattrs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#define CLONE_THREADS 4

int clone_probe(int dirfd)
{
	cleanup_fd int a = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	cleanup_fd int b = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (a < 0 || b < 0 || write(a, "probe", 5) != 5)
		return -errno;
	if (ioctl(b, FICLONE, a) == 0)
		return 0;
	return errno == EINVAL || errno == ENOTTY || errno == EXDEV ? -EOPNOTSUPP : -errno;
}

/* ---- before the hold ---- */

int clone_prepare(struct lrun *lr, struct snap_error *err)
{
	for (unsigned i = 0; i < lr->n; i++) {
		struct lpair *p = &lr->p[i];

		for (size_t k = 1; k < p->tree.n; k++) {
			const struct tree_entry *e = &p->tree.v[k];
			int fd = 0;

			if (lr->r->cancelled(lr->r))
				return snap_error_set(err, -ECANCELED, "prepare the clone: stopped");
			if (S_ISDIR(e->st.st_mode))
				fd = mkdirat(p->dst, e->rel, 0700);
			else if (S_ISREG(e->st.st_mode) && e->st.st_nlink == 1)
				fd = openat(p->dst, e->rel, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
			if (fd < 0)
				return snap_error_set(err, -errno, "prepare the clone of %s/%s: %s",
						      lr->r->door->pairs[i].backing, e->rel, strerror(errno));
			if (fd > 0)
				(void)close(fd);
		}
	}
	return 0;
}

/* ---- in the hold ---- */

struct pool {
	struct lrun *lr;
	struct lpair *p;
	const char *backing;
	atomic_size_t next;
	_Atomic int failed; /* the first error */
	pthread_mutex_t lock;
	struct snap_error err;
};

/* Only with local_copy=yes: every byte, holes kept. */
static int copy_bytes(int in, int out, off_t size)
{
	off_t at = 0, end;

	if (ftruncate(out, size) < 0)
		return -1;
	while (at < size) {
		at = lseek(in, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -1; /* a hole to the end */
		end = lseek(in, at, SEEK_HOLE);
		if (end < 0)
			return -1;
		while (at < end) {
			loff_t a = at, b = at;
			ssize_t n = copy_file_range(in, &a, out, &b, (size_t)(end - at), 0);

			if (n <= 0)
				return n < 0 ? -1 : (errno = EIO, -1);
			at += n;
		}
	}
	return 0;
}

static int one_file(const struct lpair *p, const struct tree_entry *e)
{
	cleanup_fd int in = openat(p->src, e->rel, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	cleanup_fd int out = -1;

	if (in < 0)
		return -errno;
	out = openat(p->dst, e->rel, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (out < 0 && errno == EISDIR && tree_remove(p->dst, e->rel, NULL) == 0) /* prepared as a directory */
		out = openat(p->dst, e->rel, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (out < 0)
		return -errno;
	if (p->copy ? copy_bytes(in, out, e->st.st_size) < 0 : ioctl(out, FICLONE, in) < 0)
		return -errno;
	return xattrs_add(in, out);
}

static void fail(struct pool *w, int r, const char *rel)
{
	(void)pthread_mutex_lock(&w->lock);
	if (!w->err.code)
		snap_error_set(&w->err, r, "clone %s/%s: %s", w->backing, rel,
			       r == -ECANCELED ? "stopped" : strerror(-r));
	(void)pthread_mutex_unlock(&w->lock);
	atomic_store(&w->failed, r);
}

static void *clone_run(void *arg)
{
	struct pool *w = arg;

	for (;;) {
		size_t i = atomic_fetch_add(&w->next, 1);
		const struct tree_entry *e;
		int r;

		if (i >= w->p->tree.n || atomic_load(&w->failed))
			return NULL;
		e = &w->p->tree.v[i];
		if (!S_ISREG(e->st.st_mode) || e->link_to != SIZE_MAX)
			continue;
		r = w->lr->r->cancelled(w->lr->r) ? -ECANCELED : one_file(w->p, e);
		if (r < 0)
			fail(w, r, e->rel);
	}
}

/* What is not a regular file, before the files: directories that are new, links, fifos. Sockets and
 * device nodes are left out: a server makes its socket anew. -EEXIST. */
static int one_other(const struct lpair *p, const struct tree_entry *e)
{
	char target[4096];
	ssize_t n;

	if (S_ISDIR(e->st.st_mode))
		return mkdirat(p->dst, e->rel, 0700) < 0 ? -errno : 0;
	if (S_ISFIFO(e->st.st_mode))
		return mkfifoat(p->dst, e->rel, 0600) < 0 ? -errno : 0;
	if (!S_ISLNK(e->st.st_mode))
		return 0;
	n = readlinkat(p->src, e->rel, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	return symlinkat(target, p->dst, e->rel) < 0 ? -errno : 0;
}

/* A name prepared as one kind may be another by now (file removed, directory of that name made). */
static int one_other_again(const struct lpair *p, const struct tree_entry *e)
{
	int r = one_other(p, e);
	struct stat st;

	if (r != -EEXIST)
		return r;
	if (S_ISDIR(e->st.st_mode) && fstatat(p->dst, e->rel, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISDIR(st.st_mode))
		return 0; /* as prepared */
	r = tree_remove(p->dst, e->rel, NULL);
	return r < 0 ? r : one_other(p, e);
}

static int clone_files(struct lrun *lr, struct lpair *p, const char *backing, struct snap_error *err)
{
	struct pool w = { .lr = lr, .p = p, .backing = backing };
	pthread_t t[CLONE_THREADS];
	int n = 0;

	(void)pthread_mutex_init(&w.lock, NULL);
	while (n < CLONE_THREADS - 1 && pthread_create(&t[n], NULL, clone_run, &w) == 0)
		n++;
	(void)clone_run(&w); /* this thread too: also when no other could be made */
	while (n > 0)
		(void)pthread_join(t[--n], NULL);
	(void)pthread_mutex_destroy(&w.lock);
	return w.err.code ? snap_error_set(err, w.err.code, "%s", w.err.msg) : 0;
}

/* A directory's own, and its ACLs: when nothing is made in it any more, as a default ACL would be handed down. */
static int dir_xattrs(const struct lpair *p, const char *rel)
{
	cleanup_fd int in = openat(p->src, rel, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_fd int out = -1;

	if (in < 0)
		return -errno;
	if (flistxattr(in, NULL, 0) == 0) /* nearly all: writes are held meanwhile */
		return 0;
	out = openat(p->dst, rel, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return out < 0 ? -errno : xattrs_add(in, out);
}

static int all_dir_xattrs(struct lpair *p, const char *backing, struct snap_error *err)
{
	int r = 0;

	for (size_t k = 0; r == 0 && k < p->tree.n; k++) {
		const struct tree_entry *e = &p->tree.v[k];

		if (S_ISDIR(e->st.st_mode) && (r = dir_xattrs(p, *e->rel ? e->rel : ".")) < 0)
			snap_error_set(err, r, "clone the attributes of %s/%s: %s", backing, e->rel, strerror(-r));
	}
	return r;
}

static bool stop_asked(const void *arg)
{
	const struct prov_run *r = arg;

	return r->cancelled(r);
}

static int clone_pair(struct lrun *lr, unsigned i, struct snap_error *err)
{
	const char *backing = lr->r->door->pairs[i].backing;
	struct lpair *p = &lr->p[i];
	int r;

	/* the tree as it is now: nothing changes any more */
	tree_free(&p->tree);
	r = tree_read(p->src, backing, &p->tree, stop_asked, lr->r, err);
	for (size_t k = 1; r == 0 && k < p->tree.n; k++) {
		if (S_ISREG(p->tree.v[k].st.st_mode))
			continue;
		r = one_other_again(p, &p->tree.v[k]);
		if (r < 0)
			snap_error_set(err, r, "clone %s/%s: %s", backing, p->tree.v[k].rel, strerror(-r));
	}
	if (r == 0)
		r = clone_files(lr, p, backing, err);
	for (size_t k = 1; r == 0 && k < p->tree.n; k++) {
		const struct tree_entry *e = &p->tree.v[k];

		if (e->link_to == SIZE_MAX)
			continue;
		(void)tree_remove(p->dst, e->rel, NULL);
		if (linkat(p->dst, p->tree.v[e->link_to].rel, p->dst, e->rel, 0) < 0)
			r = snap_error_set(err, -errno, "clone %s/%s: %s", backing, e->rel, strerror(errno));
	}
	return r < 0 ? r : all_dir_xattrs(p, backing, err);
}

int clone_all(struct lrun *lr, struct snap_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < lr->n; i++)
		r = clone_pair(lr, i, err);
	return r;
}

/* ---- after the hold ---- */

static int by_rel(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int remove_vanished(struct lrun *lr, struct lpair *p, struct snap_error *err)
{
	struct tree now = { 0 };
	const char **names = calloc(p->tree.n + 1, sizeof(*names));
	int r = names ? tree_read(p->dst, "the clone", &now, NULL, NULL, err) : -ENOMEM;

	for (size_t k = 0; names && k < p->tree.n; k++)
		names[k] = p->tree.v[k].rel;
	if (names)
		qsort(names, p->tree.n, sizeof(*names), by_rel);
	for (size_t k = now.n; r == 0 && k-- > 1;) { /* children before parents */
		const char *rel = now.v[k].rel;

		if (bsearch(&rel, names, p->tree.n, sizeof(*names), by_rel))
			continue;
		if (unlinkat(p->dst, rel, S_ISDIR(now.v[k].st.st_mode) ? AT_REMOVEDIR : 0) < 0)
			r = -errno;
	}
	tree_free(&now);
	free(names);
	return r < 0 ? snap_error_set(err, r, "tidy the clone: %s", strerror(-r)) : 0;
}

int clone_tidy(struct lrun *lr, struct snap_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < lr->n; i++) {
		struct lpair *p = &lr->p[i];

		r = remove_vanished(lr, p, err);
		/* children before parents, so that a directory's times survive */
		for (size_t k = p->tree.n; r == 0 && k-- > 0;) {
			const struct tree_entry *e = &p->tree.v[k];
			const struct timespec t[2] = { e->st.st_atim, e->st.st_mtim };
			const char *rel = *e->rel ? e->rel : ".";

			if (!S_ISREG(e->st.st_mode) && !S_ISDIR(e->st.st_mode) && !S_ISLNK(e->st.st_mode) &&
			    !S_ISFIFO(e->st.st_mode))
				continue;
			if (fchownat(p->dst, rel, e->st.st_uid, e->st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
			    (!S_ISLNK(e->st.st_mode) && fchmodat(p->dst, rel, e->st.st_mode & 07777, 0) < 0) ||
			    utimensat(p->dst, rel, t, AT_SYMLINK_NOFOLLOW) < 0)
				r = snap_error_set(err, -errno, "set attributes in the clone of %s/%s: %s",
						   lr->r->door->pairs[i].backing, e->rel, strerror(errno));
		}
	}
	return r;
}
