/* tools/stillctl/restore_set.c - find a set of provider local, and hold it while it is being restored. See restore.h.
 * The clone of each pair lies in LOCAL_DIR/NAME/data of its own local_dir; in the first pair's data there is a link to those
 * of other local_dirs. Each set directory is locked before anything else: its removal begins with any of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "ctl.h"
#include "restore.h"

unsigned restore_mountpoints(const char *lines, char *out[DOOR_MAX_PAIRS])
{
	unsigned n = 0;

	for (const char *l = lines; l && *l && n < DOOR_MAX_PAIRS; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, "mountpoint ", 11) == 0 && (out[n] = strndup(l + 11, strcspn(l + 11, "\n"))))
			n++;
	return n;
}

static int refuse(const char *path, const char *why)
{
	char text[PATH_MAX + 256];

	(void)snprintf(text, sizeof(text), "%s: %s", path, why);
	return ctl_fail(text, "");
}

/* ---- the record ---- */

/* A set's control file of one line; NULL: there is none. */
static char *one_line(const char *name, const char *file)
{
	char rel[256];
	char *text;

	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/%s", name, file);
	text = ctl_slurp(rel);
	if (text)
		text[strcspn(text, "\n")] = '\0';
	return text;
}

/* The pairs that it was taken of; a record that names none is of pairs as they are now. */
static int read_pairs(struct restore *r)
{
	char rel[256], *at[DOOR_MAX_PAIRS] = { NULL };
	cleanup_free char *lines = NULL, *status = NULL;

	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s/server", r->name);
	lines = ctl_slurp(rel);
	r->n = restore_mountpoints(lines, at);
	if (r->n == 0 && (status = ctl_slurp("status")))
		r->n = restore_mountpoints(status, at);
	for (unsigned i = 0; i < r->n; i++) {
		const char *slash = strrchr(at[i], '/');

		r->part[i].mountpoint = at[i];
		if (r->n > 1) /* as snapshot/local names it */
			(void)snprintf(r->part[i].name, sizeof(r->part[i].name), "%u-%.250s", i, slash ? slash + 1 : "");
	}
	return r->n ? 0 : ctl_fail("neither the set nor status names a mountpoint: ", r->name);
}

/* ---- its directories ---- */

/* Still what its path leads to? A removal renames it first. */
static bool is_at(int fd, const char *path)
{
	struct stat at, now;

	return fstat(fd, &now) == 0 && now.st_nlink && stat(path, &at) == 0 && at.st_dev == now.st_dev && at.st_ino == now.st_ino;
}

static int hold_dir(const char *dir, const char *id, int *hold)
{
	cleanup_fd int fd = -1;
	char found[33] = "";

	*hold = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*hold < 0)
		return refuse(dir, strerror(errno));
	if (flock(*hold, LOCK_SH | LOCK_NB) < 0)
		return refuse(dir, errno == EWOULDBLOCK ? "the set's data cannot be held: it is being removed" : strerror(errno));
	if (!is_at(*hold, dir))
		return refuse(dir, "the set's data cannot be held: it was removed just now");
	fd = openat(*hold, "id", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || read(fd, found, 32) != 32 || strcmp(found, id) != 0)
		return refuse(dir, "it is not the set's directory (its file id differs); nothing was restored");
	return 0;
}

static char *link_at(int dir, const char *name)
{
	char *target = calloc(1, PATH_MAX);

	if (target && readlinkat(dir, name, target, PATH_MAX - 1) >= 0)
		return target;
	free(target);
	return NULL;
}

/* Where the set's directory lies that a link to this part leads to, malloc'ed; NULL: it leads to none of its name. */
static char *follow(const struct restore *r, const struct restore_part *p, const char *target)
{
	cleanup_free char *end = NULL;
	size_t n = strlen(target), m;

	if (asprintf(&end, "/%s/data/%s", r->name, p->name) < 0)
		return end = NULL;
	m = strlen(end);
	return target[0] == '/' && n > m && strcmp(target + n - m, end) == 0 ?
		       strndup(target, n - strlen("/data/") - strlen(p->name)) :
		       NULL;
}

/* Open and hold the clone in the set's directory dir. */
static int hold_part(const struct restore *r, struct restore_part *p, const char *dir)
{
	cleanup_fd int data = -1;

	if (hold_dir(dir, r->id, &p->hold) != 0)
		return 1;
	data = openat(p->hold, "data", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	p->src = data < 0 ? -1 : openat(data, *p->name ? p->name : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	p->place = realpath(dir, NULL);
	if (p->src < 0 || !p->place)
		return refuse(p->path, strerror(errno));
	*strrchr(p->place, '/') = '\0';
	return 0;
}

static int find_part(const struct restore *r, struct restore_part *p)
{
	cleanup_fd int data = openat(r->hold, "data", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free char *target = NULL, *dir = NULL;

	if (asprintf(&p->path, "%s/data%s%s", r->dir, *p->name ? "/" : "", p->name) < 0)
		p->path = NULL;
	if (!p->path || data < 0)
		return refuse(r->dir, strerror(p->path ? errno : ENOMEM));
	target = link_at(data, *p->name ? p->name : ".");
	if (!target && errno != EINVAL) /* EINVAL: it is no link */
		return refuse(p->path, errno == ENOENT ? "the set has no clone of this pair" : strerror(errno));
	if (!target)
		return hold_part(r, p, r->dir);
	dir = follow(r, p, target);
	return dir ? hold_part(r, p, dir) :
		     refuse(p->path, "this link leads to no set directory of this name; nothing was restored");
}

int restore_find(const char *name, struct restore *r)
{
	cleanup_free char *state = NULL, *id = NULL;
	char rel[256];
	int control;

	memset(r, 0, sizeof(*r));
	r->name = name;
	r->hold = -1;
	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++)
		r->part[i].src = r->part[i].hold = -1;
	state = one_line(name, "state");
	id = one_line(name, "id");
	if (!state || !id)
		return ctl_fail("no such set: ", name);
	if (strcmp(state, "complete") != 0)
		return ctl_fail("only complete sets can be restored; this one is ", state);
	(void)snprintf(r->id, sizeof(r->id), "%s", id);
	(void)snprintf(rel, sizeof(rel), "snapshots/%.100s", name);
	control = ctl_open(rel, O_RDONLY | O_DIRECTORY);
	r->dir = link_at(control, "data");
	if (control >= 0)
		(void)close(control);
	if (!r->dir || !strrchr(r->dir, '/'))
		return ctl_fail("the set has no data on this host: ", name);
	*strrchr(r->dir, '/') = '\0'; /* of data */
	if (read_pairs(r) != 0 || hold_dir(r->dir, r->id, &r->hold) != 0)
		return 1;
	for (unsigned i = 0; i < r->n; i++)
		if (find_part(r, &r->part[i]) != 0)
			return 1;
	return 0;
}

int restore_is_there(const struct restore *r)
{
	struct stat st;

	for (unsigned i = 0; i < r->n; i++)
		if (fstat(r->part[i].src, &st) < 0 || st.st_nlink == 0)
			return refuse(r->part[i].path, "the set's data was removed meanwhile");
	return 0;
}

void restore_release(struct restore *r)
{
	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++) {
		struct restore_part *p = &r->part[i];

		free(p->mountpoint);
		free(p->path);
		free(p->place);
		p->mountpoint = p->path = p->place = NULL;
		if (p->src >= 0)
			(void)close(p->src);
		if (p->hold >= 0)
			(void)close(p->hold);
		p->src = p->hold = -1;
	}
	if (r->hold >= 0)
		(void)close(r->hold);
	r->hold = -1;
	free(r->dir);
	r->dir = NULL;
	r->n = 0;
}
