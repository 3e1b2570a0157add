/* snapshot/local/scan.c - every clone below local_dir, whoever took it: what prov_ops.scan tells of it.
 * Called by: the engine on its provider thread. Blocks: for a few small files of each clone; ends at max_ms.
 * Errors:    -errno with the sentence.
 *
 * A clone's directory says little: its id, whether it is complete, and in the clone's root the position file, which names
 * the lineage. A class, tags or a description are in the record alone; so this is for listings, and no catalog. */
#include "snapshot/local/local_int.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "snapshot/set.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define POSITION_NAME ".stillfs-position"
#define POSITION_MAX 65536u

/* The position file of the clone in setdir/data, or of the first of its pairs'. malloc'ed; NULL: there is none. */
static char *read_position(int setdir)
{
	cleanup_fd int data = openat(setdir, "data", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_fd int fd = data < 0 ? -1 : openat(data, POSITION_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char *text = NULL;
	ssize_t n;

	if (data >= 0 && fd < 0) {
		DIR *d = fdopendir(dup(data));
		struct dirent *e;

		while (d && fd < 0 && (e = readdir(d))) {
			char path[sizeof(e->d_name) + sizeof(POSITION_NAME) + 1];

			(void)snprintf(path, sizeof(path), "%s/%s", e->d_name, POSITION_NAME);
			if (strncmp(e->d_name, "0-", 2) == 0)
				fd = openat(data, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		}
		if (d)
			(void)closedir(d);
	}
	if (fd >= 0)
		text = malloc(POSITION_MAX);
	n = text ? read(fd, text, POSITION_MAX - 1) : -1;
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	return text;
}

/* Lines set, id and lineage come first; the rest is the position. */
static int take_position(struct set *s, const char *text)
{
	char lineage[33];

	while (strncmp(text, "set ", 4) == 0 || strncmp(text, "id ", 3) == 0 || strncmp(text, "lineage ", 8) == 0) {
		if (sscanf(text, "lineage %32[0-9a-f]", lineage) == 1 && strlen(lineage) == 32)
			(void)snprintf(s->lineage, sizeof(s->lineage), "%s", lineage);
		text += strcspn(text, "\n");
		text += *text == '\n';
	}
	return set_text(&s->position, text);
}

/* What preflight wrote beside the id: whose it is, also of one that never got a position file. */
static void read_origin(int setdir, struct set *s)
{
	cleanup_fd int fd = openat(setdir, "origin", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char text[160], lineage[33], origin[33];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return;
	text[n] = '\0';
	if (sscanf(text, "lineage %32[0-9a-f]\norigin %32[0-9a-f]", lineage, origin) != 2 || strlen(lineage) != 32)
		return;
	if (!*s->lineage)
		(void)snprintf(s->lineage, sizeof(s->lineage), "%s", lineage);
	if (strcmp(s->lineage, lineage) == 0)
		(void)snprintf(s->origin, sizeof(s->origin), "%s", origin);
}

/* A set of what the directory `name` is; NULL: it is none of ours. -ENOMEM in *r. */
static struct set *read_clone(int base, const char *name, int *r)
{
	cleanup_fd int dir = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_free char *position = NULL;
	struct stat st;
	struct set *s;
	char id[33];

	if (dir < 0 || local_read_id(dir, id) < 0 || fstatat(dir, "id", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return NULL;
	if (name[0] == '.' && strcmp(strrchr(name, '-') + 1, id) != 0)
		return NULL; /* it would not be found by its id */
	s = set_new();
	position = read_position(dir);
	if (!s || (position && take_position(s, position) < 0)) {
		set_free(s);
		*r = -ENOMEM;
		return NULL;
	}
	read_origin(dir, s);
	(void)snprintf(s->name, sizeof(s->name), "%.64s", name);
	memcpy(s->id, id, sizeof(s->id));
	(void)snprintf(s->class, sizeof(s->class), "-");
	(void)snprintf(s->provider, sizeof(s->provider), "local");
	s->created = st.st_mtim;
	s->volumes = 1;
	s->state = name[0] != '.' && faccessat(dir, "complete", F_OK, 0) == 0 ? SET_COMPLETE : SET_FAILED;
	return s;
}

/* Names of sets, and what a set is called while it is made or removed. */
static bool is_candidate(const char *name)
{
	return name[0] != '.' || strncmp(name, ".partial-", 9) == 0 || strncmp(name, ".trash-", 7) == 0;
}

struct told {
	const char *lineage;
	int (*fn)(void *arg, struct set *s);
	void *arg;
	uint64_t end;
	int earlier[DOOR_MAX_PAIRS]; /* the directories that were read before this one */
	unsigned n_earlier;
};

/* Has an earlier pair's local_dir it, too? Then it is told of already: the first one holds the set. */
static bool told(const struct told *t, const char *name)
{
	for (unsigned k = 0; k < t->n_earlier; k++)
		if (faccessat(t->earlier[k], name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return true;
	return false;
}

static int scan_base(const struct local *l, unsigned i, struct told *t, struct snap_error *err)
{
	int base = local_open_base(l, i), r = 0;
	DIR *d = base >= 0 ? fdopendir(base) : NULL;
	struct dirent *e;

	if (!d && errno == ENOENT)
		return 0; /* nothing was taken yet */
	if (!d)
		return snap_error_set(err, -errno, "read local_dir %s: %s", l->dir[i], strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		struct set *s = is_candidate(e->d_name) && !told(t, e->d_name) ? read_clone(base, e->d_name, &r) : NULL;

		if (s && *t->lineage && strcmp(s->lineage, t->lineage) != 0)
			set_free(s);
		else if (s && (r = t->fn(t->arg, s)) < 0)
			set_free(s);
		if (r == 0 && clock_boot_ns() > t->end)
			r = snap_error_set(err, -ETIMEDOUT, "read local_dir %s: not done in time", l->dir[i]);
	}
	t->earlier[t->n_earlier] = fcntl(base, F_DUPFD_CLOEXEC, 0);
	if (t->earlier[t->n_earlier] >= 0)
		t->n_earlier++;
	else if (r == 0)
		r = -errno;
	(void)closedir(d);
	return r < 0 ? snap_error_set(err, r, "read local_dir %s: %s", l->dir[i], strerror(-r)) : 0;
}

int local_scan(void *self, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg, uint32_t max_ms,
	       struct snap_error *err)
{
	const struct local *l = self;
	struct told t = { .lineage = lineage, .fn = fn, .arg = arg, .end = clock_boot_ns() + max_ms * NS_PER_MS };
	int r = 0;

	for (unsigned i = 0; r == 0 && i < l->n_dirs; i++)
		r = local_own_base(l, i) ? scan_base(l, i, &t, err) : 0;
	while (t.n_earlier)
		(void)close(t.earlier[--t.n_earlier]);
	return r;
}
