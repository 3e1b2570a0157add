/* snapshot/verify/manifest.c - a clone's files against manifest.sha256. See verify_int.h. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"
#include "base/hex.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK (1u << 20)

/* What the manifest names. Of a file with several names it has the first, so others are known by their inode. */
struct list {
	char **v;
	struct stat *several; /* files with more than one name */
	size_t n, cap, n_several;
};

static int add(struct list *l, const char *text, const struct stat *st)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 256;
		char **v = realloc(l->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	if (st->st_nlink > 1) {
		struct stat *s = realloc(l->several, (l->n_several + 1) * sizeof(*s));

		if (!s)
			return -ENOMEM;
		l->several = s;
		l->several[l->n_several++] = *st;
	}
	l->v[l->n] = strdup(text);
	return l->v[l->n] ? (l->n++, 0) : -ENOMEM;
}

static bool is_other_name(const struct list *l, const struct stat *st)
{
	for (size_t i = 0; st->st_nlink > 1 && i < l->n_several; i++)
		if (l->several[i].st_ino == st->st_ino && l->several[i].st_dev == st->st_dev)
			return true;
	return false;
}

static void list_free(struct list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	free(l->several);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "HASH  NAME" or, with GNU's escapes, "\HASH  NAME". In place; false: not such a line. */
static bool parse_line(char *line, char **hash, char **name)
{
	bool escaped = *line == '\\';
	char *to;

	*hash = line + escaped;
	if (strspn(*hash, "0123456789abcdef") != 64 || strncmp(*hash + 64, "  ", 2) != 0)
		return false;
	(*hash)[64] = '\0';
	*name = *hash + 66;
	to = *name;
	for (const char *p = *name; escaped && *p; p++)
		*to++ = *p == '\\' && p[1] ? (*++p == 'n' ? '\n' : *p) : *p;
	if (escaped)
		*to = '\0';
	return **name;
}

static int digest(int fd, char hex[65])
{
	static unsigned char buf[CHUNK];
	unsigned char sum[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	unsigned len = 0;
	ssize_t n = 1;
	int r = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;

	while (r == 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
		if (EVP_DigestUpdate(md, buf, (size_t)n) != 1)
			r = -EIO;
		(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* the page cache belongs to the database */
	}
	if (n < 0)
		r = -errno;
	if (r == 0 && EVP_DigestFinal_ex(md, sum, &len) != 1)
		r = -EIO;
	EVP_MD_CTX_free(md);
	hex_put(hex, sum, len);
	return r;
}

static int check_file(int dir, const char *name, const char *hash, struct stat *st, struct snap_error *err)
{
	cleanup_fd int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	char hex[65] = "";
	int r;

	if (fd < 0 || fstat(fd, st) < 0)
		return snap_error_set(err, -errno, "%s is in the manifest and %s", name,
				      errno == ENOENT ? "missing" : strerror(errno));
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	r = digest(fd, hex);
	if (r < 0)
		return snap_error_set(err, r, "read %s: %s", name, strerror(-r));
	return strcmp(hex, hash) == 0 ? 0 : snap_error_set(err, -EBADMSG, "%s has changed since the set was taken: its "
									  "SHA-256 is not that of the manifest", name);
}

/* Every regular file below rel must be in the (sorted) list. follow: links here lead to other pairs' clones. */
static int no_others(int dir, const char *rel, const struct list *known, int depth, bool follow,
		     struct snap_error *err)
{
	int fd = openat(dir, rel, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 || depth > 70 ? NULL : fdopendir(fd);
	char path[PATH_MAX], *key = path;
	struct dirent *e;
	struct stat st;

	if (!d)
		return snap_error_set(err, -errno, "read %s: %s", rel, strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if ((size_t)snprintf(path, sizeof(path), "%s/%s", rel, e->d_name) >= sizeof(path) ||
		    fstatat(dirfd(d), e->d_name, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
			r = snap_error_set(err, -EIO, "look at %s/%s: %s", rel, e->d_name, strerror(errno));
		else if (S_ISDIR(st.st_mode))
			r = no_others(dir, path, known, depth + 1, false, err);
		else if (S_ISREG(st.st_mode) && !bsearch(&key, known->v, known->n, sizeof(*known->v), by_name) &&
			 !is_other_name(known, &st))
			r = snap_error_set(err, -EBADMSG, "%s is not in the manifest: it was added to the set", path);
	}
	(void)closedir(d);
	return r;
}

int manifest_check(const struct vspec *s, size_t *files, struct snap_error *err)
{
	cleanup_fd int dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_fd int fd = dir < 0 ? -1 : openat(dir, "manifest.sha256", O_RDONLY | O_CLOEXEC);
	cleanup_free char *line = NULL;
	struct list known = { 0 };
	size_t cap = 0;
	struct stat st = { 0 }, file;
	off_t at = 0;
	ssize_t n;
	FILE *f;
	int r = 0;

	f = fd < 0 || fstat(fd, &st) < 0 ? NULL : fdopen(fd, "re");
	if (!f)
		return snap_error_set(err, -errno, "%s/manifest.sha256: %s", s->dir, strerror(errno));
	fd = -1; /* f's */
	while (r == 0 && (n = getline(&line, &cap, f)) > 0) {
		char *hash = line, *name = line;

		at += n;
		line[strcspn(line, "\n")] = '\0';
		if (!parse_line(line, &hash, &name))
			r = snap_error_set(err, -EBADMSG, "%s/manifest.sha256: a line is no digest and name", s->dir);
		if (r == 0)
			r = check_file(dir, name, hash, &file, err);
		if (r == 0)
			r = add(&known, name, &file);
		verify_progress(st.st_size ? (unsigned)(at * 40 / st.st_size) : 40, "manifest: %zu files", known.n);
	}
	(void)fclose(f);
	if (r == 0) {
		if (known.n)
			qsort(known.v, known.n, sizeof(*known.v), by_name);
		r = no_others(dir, "data", &known, 0, s->n_pairs > 1, err);
	}
	*files = known.n;
	list_free(&known);
	return r < 0 ? snap_error_set(err, r, "check the manifest: %s", strerror(-r)) : 0;
}
