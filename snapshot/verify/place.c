/* snapshot/verify/place.c - where a set's clones lie, and where the clone of the clone goes. Used by the verifying process,
 * and by the daemon to remove what a killed one left. See verify_int.h. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"
#include "base/reflink.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *verify_value(const char *lines, const char *key)
{
	size_t n = strlen(key);

	for (const char *l = lines; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, key, n) == 0 && l[n] == ' ')
			return strndup(l + n + 1, strcspn(l + n + 1, "\n"));
	return NULL;
}

static void cut(char *path, int components)
{
	char *slash;

	while (components-- > 0 && (slash = strrchr(path, '/')) && slash > path)
		*slash = '\0';
}

/* In data of a set with several pairs: the entry that begins with "I-". */
static int find_pair(const char *data, unsigned i, char out[PATH_MAX])
{
	DIR *d = opendir(data);
	struct dirent *e;
	char *end;
	int r = -ENOENT;

	while (d && r < 0 && (e = readdir(d)))
		if (strtoul(e->d_name, &end, 10) == i && end > e->d_name && *end == '-')
			r = (size_t)snprintf(out, PATH_MAX, "%s/%s", data, e->d_name) < PATH_MAX ? 0 : -ENAMETOOLONG;
	if (d)
		(void)closedir(d);
	return r;
}

int verify_find_places(struct vspec *s, struct snap_error *err)
{
	char path[PATH_MAX];

	(void)snprintf(s->dir, sizeof(s->dir), "%s", s->data);
	cut(s->dir, 1);
	for (unsigned i = 0; i < s->n_pairs; i++) {
		if (s->n_pairs > 1 && find_pair(s->data, i, path) < 0)
			return snap_error_set(err, -ENOENT, "%s has no clone of %s", s->data, s->mountpoint[i]);
		if (!realpath(s->n_pairs > 1 ? path : s->data, s->src[i]))
			return snap_error_set(err, -errno, "%s: %s", s->data, strerror(errno));
		(void)snprintf(path, sizeof(path), "%s", s->src[i]);
		cut(path, s->n_pairs > 1 ? 3 : 2);
		if ((size_t)snprintf(s->work[i], PATH_MAX, "%.*s/.verify-%s", PATH_MAX - 64, path, s->id) >= PATH_MAX)
			return -ENAMETOOLONG;
	}
	return 0;
}

int verify_remove_places(const struct vspec *s, struct snap_error *err)
{
	char base[PATH_MAX], name[64];
	int r = 0;

	(void)snprintf(name, sizeof(name), ".verify-%s", s->id);
	for (unsigned i = 0; i < s->n_pairs; i++) {
		cleanup_fd int fd = -1;
		int got;

		(void)snprintf(base, sizeof(base), "%s", s->work[i]);
		cut(base, 1);
		fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		got = fd < 0 ? -errno : reflink_remove(fd, name, err);
		r = r < 0 ? r : got;
	}
	return r;
}
