/* snapshot/local/tree.c - see tree.h. */
#include "snapshot/local/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct walk {
	struct tree *t;
	const char *what;
	dev_t dev;
	bool (*stop)(const void *arg);
	const void *stop_arg;
	struct snap_error *err;
};

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->v[i].rel);
	free(t->v);
	*t = (struct tree){ 0 };
}

static int add(struct tree *t, const char *rel, const struct stat *st)
{
	if (t->n == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 256;
		struct tree_entry *v = realloc(t->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		t->v = v;
		t->cap = cap;
	}
	t->v[t->n] = (struct tree_entry){ .rel = strdup(rel), .st = *st, .link_to = SIZE_MAX };
	if (!t->v[t->n].rel)
		return -ENOMEM;
	t->n++;
	return 0;
}

/* Other names of a file are rare: a linear look back, among those with several names only. */
static void find_first_name(struct tree *t)
{
	struct tree_entry *last = &t->v[t->n - 1];

	for (size_t i = 0; i + 1 < t->n; i++)
		if (t->v[i].st.st_nlink > 1 && S_ISREG(t->v[i].st.st_mode) &&
		    t->v[i].st.st_ino == last->st.st_ino) {
			last->link_to = i;
			return;
		}
}

static int walk_dir(struct walk *w, int fd, const char *rel, int depth)
{
	char path[4096];
	struct dirent *e;
	struct stat st;
	int r = 0, sub;
	DIR *d = fdopendir(fd); /* takes fd */

	if (!d) {
		(void)close(fd);
		return snap_error_set(w->err, -ENOMEM, "read %s/%s: out of memory", w->what, rel);
	}
	while (r == 0 && (errno = 0, e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (w->stop && w->stop(w->stop_arg))
			r = snap_error_set(w->err, -ECANCELED, "read %s: stopped", w->what);
		else if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = errno == ENOENT ? 1 : -errno; /* gone meanwhile: as if it had never been */
		if (r == 1) {
			r = 0;
			continue;
		}
		if (r == 0 && (size_t)snprintf(path, sizeof(path), "%s%s%s", rel, *rel ? "/" : "", e->d_name) >=
				      sizeof(path))
			r = -ENAMETOOLONG;
		if (r == 0 && st.st_dev != w->dev)
			r = snap_error_set(w->err, -EXDEV, "%s/%s: another filesystem is mounted there, which a clone "
							   "cannot contain; give it a pair of its own or unmount it",
					   w->what, path);
		if (r == 0)
			r = add(w->t, path, &st);
		if (r < 0)
			break;
		if (S_ISREG(st.st_mode)) {
			if (st.st_nlink > 1)
				find_first_name(w->t);
			if (w->t->v[w->t->n - 1].link_to == SIZE_MAX) {
				w->t->bytes += (uint64_t)st.st_size;
				w->t->files++;
			}
		} else if (S_ISDIR(st.st_mode)) {
			if (depth >= TREE_DEPTH)
				r = snap_error_set(w->err, -ELOOP, "%s/%s: more than %d directories deep", w->what, path,
						   TREE_DEPTH);
			sub = r < 0 ? -1 : openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (sub >= 0)
				r = walk_dir(w, sub, path, depth + 1);
			else if (r == 0 && errno != ENOENT)
				r = -errno;
		}
	}
	if (r == 0 && errno)
		r = -errno;
	(void)closedir(d);
	return r < 0 ? snap_error_set(w->err, r, "read %s/%s: %s", w->what, rel, strerror(-r)) : 0;
}

int tree_read(int rootfd, const char *what, struct tree *t, bool (*stop)(const void *arg), const void *stop_arg,
	      struct snap_error *err)
{
	struct walk w = { .t = t, .what = what, .stop = stop, .stop_arg = stop_arg, .err = err };
	struct stat st;
	int fd = openat(rootfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0 || add(t, "", &st) < 0) {
		int r = -errno;

		if (fd >= 0)
			(void)close(fd);
		return snap_error_set(err, r, "read %s: %s", what, strerror(-r));
	}
	w.dev = st.st_dev;
	return walk_dir(&w, fd, "", 1);
}

static int remove_at(int dirfd_, const char *name, int depth)
{
	struct dirent *e;
	DIR *d;
	int fd, r = 0;

	if (unlinkat(dirfd_, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth > TREE_DEPTH + 8)
		return -ELOOP;
	fd = openat(dirfd_, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	d = fdopendir(fd);
	if (!d) {
		(void)close(fd);
		return -ENOMEM;
	}
	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_at(dirfd(d), e->d_name, depth + 1);
	(void)closedir(d);
	if (r == 0 && unlinkat(dirfd_, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int tree_remove(int dirfd_, const char *name, struct snap_error *err)
{
	int r = remove_at(dirfd_, name, 0);

	return r < 0 ? snap_error_set(err, r, "remove %s: %s", name, strerror(-r)) : 0;
}
