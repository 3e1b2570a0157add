/* snapshot/catalog.c - see catalog.h. */
#include "snapshot/catalog.h"
#include "base/cleanup.h"
#include "base/fault.h"
#include "base/hex.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct catalog {
	char dir[PATH_MAX - 64]; /* state_dir/sets */
	int dirfd;
	char lineage[33];
	struct set **sets; /* sorted by seq */
	struct set **names; /* n_names (a power of two) lists by the name's hash, also of those being deleted */
	size_t n, cap, n_names;
	uint64_t next_seq;
	unsigned bad;
	bool aside; /* files *.bad lie there */
};

int catalog_random_id(char out[33])
{
	unsigned char raw[16];

	if (RAND_bytes(raw, sizeof(raw)) != 1)
		return -EIO;
	hex_put(out, raw, sizeof(raw));
	return 0;
}

int catalog_put_file(int dir, const char *name, const char *text)
{
	char tmp[128];
	size_t len = strlen(text), done = 0;
	int fd, r = 0;

	(void)snprintf(tmp, sizeof(tmp), ".%.100s.tmp", name);
	fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	while (r == 0 && done < len) {
		ssize_t n = write(fd, text + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno != EINTR)
			r = -errno;
	}
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (close(fd) < 0 && r == 0)
		r = -errno;
	FAULT("catalog.written");
	if (r == 0 && renameat(dir, tmp, dir, name) < 0)
		r = -errno;
	FAULT("catalog.renamed");
	if (r < 0)
		(void)unlinkat(dir, tmp, 0);
	else if (fsync(dir) < 0)
		r = -errno;
	return r;
}

static char *read_whole(int dir, const char *name)
{
	cleanup_fd int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	char *text;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (16 << 20))
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	n = read(fd, text, (size_t)st.st_size);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

static int load_lineage(struct catalog *c, int state, struct snap_error *err)
{
	cleanup_free char *text = read_whole(state, "lineage");
	char line[64];
	int r;

	if (text && strspn(text, "0123456789abcdef") == 32) {
		memcpy(c->lineage, text, 32);
		return 0;
	}
	if (text)
		return snap_error_set(err, -EINVAL, "state_dir: the file lineage holds no lineage id; restore it, or "
						    "remove it to begin a new lineage");
	r = catalog_random_id(c->lineage);
	(void)snprintf(line, sizeof(line), "%s\n", c->lineage);
	if (r == 0)
		r = catalog_put_file(state, "lineage", line);
	return r < 0 ? snap_error_set(err, r, "write lineage into state_dir: %s", strerror(-r)) : 0;
}

/* The list that sets of this name are on (FNV-1a). */
static struct set **name_list(const struct catalog *c, const char *name)
{
	uint64_t h = 0xcbf29ce484222325;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001b3;
	return &c->names[(h ^ h >> 32) & (c->n_names - 1)];
}

static void put_name(struct catalog *c, struct set *s)
{
	struct set **list = name_list(c, s->name);

	s->same_hash = *list;
	*list = s;
}

/* As many lists as there is room for sets, so that they stay short. */
static int grow_names(struct catalog *c, size_t n)
{
	struct set **p = calloc(n, sizeof(*p));

	if (!p)
		return -ENOMEM;
	free(c->names);
	c->names = p;
	c->n_names = n;
	for (size_t i = 0; i < c->n; i++)
		put_name(c, c->sets[i]);
	return 0;
}

/* Where in the order `seq` is, or belongs. */
static size_t place(const struct catalog *c, uint64_t seq)
{
	size_t lo = 0, hi = c->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c->sets[mid]->seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int insert(struct catalog *c, struct set *s)
{
	size_t i;

	if (c->n == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 64;
		struct set **p = realloc(c->sets, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		c->sets = p;
		if (grow_names(c, cap) < 0)
			return -ENOMEM;
		c->cap = cap;
	}
	i = place(c, s->seq);
	memmove(c->sets + i + 1, c->sets + i, (c->n - i) * sizeof(*c->sets));
	c->sets[i] = s;
	c->n++;
	put_name(c, s);
	if (s->seq >= c->next_seq)
		c->next_seq = s->seq + 1;
	return 0;
}

static int load_one(struct catalog *c, const char *name)
{
	cleanup_free char *text = read_whole(c->dirfd, name);
	char expect[64], bad[300];
	struct set *s = NULL;
	int r = text ? set_from_json(text, &s) : -EINVAL;

	if (r == 0) {
		(void)snprintf(expect, sizeof(expect), "%s.json", s->id);
		if (strcmp(expect, name) != 0)
			r = -EINVAL; /* a copy under another name would be deleted with its twin's data */
	}
	if (r == 0 && (catalog_by_seq(c, s->seq) || (s->state != SET_DELETING && catalog_find(c, s->name))))
		r = -EINVAL;
	if (r == 0)
		r = insert(c, s);
	if (r == 0)
		return 0;
	set_free(s);
	if (r == -ENOMEM)
		return r;
	(void)snprintf(bad, sizeof(bad), "%.250s.bad", name);
	log_error("catalog: %s/%s is no record of a set; kept aside as %s", c->dir, name, bad);
	(void)renameat(c->dirfd, name, c->dirfd, bad);
	c->bad++;
	c->aside = true;
	return 0;
}

static int load_all(struct catalog *c, struct snap_error *err)
{
	DIR *d = fdopendir(dup(c->dirfd));
	struct dirent *e;
	int r = 0;

	if (!d)
		return snap_error_set(err, -errno, "read %s: %s", c->dir, strerror(errno));
	while (r == 0 && (e = readdir(d))) {
		size_t len = strlen(e->d_name);

		if (len > 5 && e->d_name[0] == '.' && strcmp(e->d_name + len - 4, ".tmp") == 0)
			(void)unlinkat(c->dirfd, e->d_name, 0); /* of a write that did not finish */
		else if (len > 5 && strcmp(e->d_name + len - 5, ".json") == 0)
			r = load_one(c, e->d_name);
		else if (len > 4 && strcmp(e->d_name + len - 4, ".bad") == 0)
			c->aside = true;
	}
	(void)closedir(d);
	return r < 0 ? snap_error_set(err, r, "read %s: out of memory", c->dir) : 0;
}

struct catalog *catalog_open(const char *state_dir, struct snap_error *err)
{
	cleanup_fd int state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct catalog *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c || state < 0) {
		snap_error_set(err, c ? -errno : -ENOMEM, "open state_dir %s: %s", state_dir, strerror(errno));
		free(c);
		return NULL;
	}
	c->next_seq = 1;
	c->dirfd = -1;
	(void)snprintf(c->dir, sizeof(c->dir), "%s/sets", state_dir);
	if (mkdirat(state, "sets", 0700) < 0 && errno != EEXIST)
		r = snap_error_set(err, -errno, "create %s: %s", c->dir, strerror(errno));
	if (r == 0)
		c->dirfd = openat(state, "sets", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r == 0 && c->dirfd < 0)
		r = snap_error_set(err, -errno, "open %s: %s", c->dir, strerror(errno));
	if (r == 0)
		r = load_lineage(c, state, err);
	if (r == 0)
		r = load_all(c, err);
	return r < 0 ? catalog_free(c) : c;
}

struct catalog *catalog_free(struct catalog *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < c->n; i++)
		set_free(c->sets[i]);
	free(c->sets);
	free(c->names);
	if (c->dirfd >= 0)
		(void)close(c->dirfd);
	free(c);
	return NULL;
}

const char *catalog_lineage(const struct catalog *c)
{
	return c->lineage;
}

unsigned catalog_bad(const struct catalog *c)
{
	return c->bad;
}

bool catalog_aside(const struct catalog *c)
{
	return c->aside;
}

size_t catalog_count(const struct catalog *c)
{
	return c->n;
}

struct set *catalog_at(const struct catalog *c, size_t i)
{
	return i < c->n ? c->sets[i] : NULL;
}

struct set *catalog_by_seq(const struct catalog *c, uint64_t seq)
{
	size_t i = place(c, seq);

	return i < c->n && c->sets[i]->seq == seq ? c->sets[i] : NULL;
}

struct set *catalog_by_id(const struct catalog *c, const char *id)
{
	for (size_t i = 0; i < c->n; i++)
		if (strcmp(c->sets[i]->id, id) == 0)
			return c->sets[i];
	return NULL;
}

struct set *catalog_find(const struct catalog *c, const char *name)
{
	struct set *s = c->n_names ? *name_list(c, name) : NULL;

	while (s && (s->state == SET_DELETING || strcmp(s->name, name) != 0))
		s = s->same_hash;
	return s;
}

int catalog_add(struct catalog *c, struct set *s)
{
	int r = catalog_random_id(s->id);

	if (r < 0)
		return r;
	s->seq = c->next_seq;
	memcpy(s->lineage, c->lineage, sizeof(s->lineage));
	return insert(c, s);
}

int catalog_import(struct catalog *c, struct set *s)
{
	s->seq = c->next_seq;
	return insert(c, s);
}

int catalog_adopt(struct catalog *c, const char *lineage, struct snap_error *err)
{
	cleanup_fd int state = openat(c->dirfd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char line[64];
	int r;

	if (strcmp(lineage, c->lineage) == 0)
		return 0;
	(void)snprintf(line, sizeof(line), "%.32s\n", lineage);
	r = state < 0 ? -errno : catalog_put_file(state, "lineage", line);
	if (r < 0)
		return snap_error_set(err, r, "write lineage into state_dir: %s", strerror(-r));
	memcpy(c->lineage, line, 32);
	return 0;
}

void catalog_drop(struct catalog *c, struct set *s)
{
	struct set **p = name_list(c, s->name);
	size_t i = place(c, s->seq);

	while (*p != s)
		p = &(*p)->same_hash;
	*p = s->same_hash;
	memmove(c->sets + i, c->sets + i + 1, (c->n - i - 1) * sizeof(*c->sets));
	c->n--;
	set_free(s);
}

int catalog_write(const struct catalog *c, const char *id, const char *text, struct snap_error *err)
{
	char name[64];
	int r;

	(void)snprintf(name, sizeof(name), "%s.json", id);
	r = catalog_put_file(c->dirfd, name, text);
	return r < 0 ? snap_error_set(err, r, "write %s/%s: %s", c->dir, name, strerror(-r)) : 0;
}

int catalog_unlink(const struct catalog *c, const char *id, struct snap_error *err)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "%s.json", id);
	if (unlinkat(c->dirfd, name, 0) < 0 && errno != ENOENT)
		return snap_error_set(err, -errno, "remove %s/%s: %s", c->dir, name, strerror(errno));
	FAULT("catalog.unlinked");
	return fsync(c->dirfd) < 0 ? snap_error_set(err, -errno, "sync %s: %s", c->dir, strerror(errno)) : 0;
}

int catalog_probe(const struct catalog *c, struct snap_error *err)
{
	char text[4096];
	int r;

	memset(text, ' ', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	r = catalog_put_file(c->dirfd, "probe", text);
	(void)unlinkat(c->dirfd, "probe", 0);
	return r < 0 ? snap_error_set(err, r, "the catalog %s cannot be written: %s; make room or mend it, then take "
					      "the snapshot again", c->dir, strerror(-r)) : 0;
}
