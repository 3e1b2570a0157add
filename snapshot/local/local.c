/* snapshot/local/local.c - the provider of reflink clones on the backing's own filesystem.
 * Owns:      local_dir/NAME (id, data/, manifest.sha256, complete), local_dir/.partial-ID, .trash-ID.
 * Called by: the engine, through prov_local, on its provider thread.
 * Blocks:    trigger while FICLONE writes its sources' dirty pages.
 * Errors:    -errno with the sentence. */
#include "snapshot/local/local_int.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/xattrs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

/* What a clone costs, measured on XFS over a loop device (tests/bench/clone), with a reserve of three. */
#define MS_PER_FILE 0.15
#define MS_PER_EXTENT 0.03
#define COPY_BYTES_PER_MS 100000.0
#define SPACE_RESERVE (32ull << 20)

/* ---- life ---- */

static void local_close(void *p)
{
	struct local *l = p;

	for (unsigned i = 0; i < DOOR_MAX_PAIRS; i++)
		free(l->dir[i]);
	free(l);
}

static void *local_open(const struct door *d, struct snap_error *err)
{
	struct local *l = calloc(1, sizeof(*l));
	const char *t = conf_str(d->conf, "local_dir");
	unsigned given = 0;
	int r = l ? 0 : -ENOMEM;

	for (; r == 0 && *t && given < DOOR_MAX_PAIRS; given++) {
		size_t len = strcspn(t, "\n");

		l->dir[given] = strndup(t, len);
		if (!l->dir[given] || *t != '/')
			r = snap_error_set(err, -EINVAL, "local_dir=%.*s: expected an absolute path", (int)len, t);
		t += len + (t[len] == '\n');
	}
	if (r == 0 && given > 1 && given != d->n_pairs)
		r = snap_error_set(err, -EINVAL, "local_dir: give one, or one for each of the %u pairs", d->n_pairs);
	for (unsigned i = given; r == 0 && i < d->n_pairs; i++)
		if (given ? !(l->dir[i] = strdup(l->dir[0])) :
			    asprintf(&l->dir[i], "%s.snapshots", d->pairs[i].backing) < 0)
			r = -ENOMEM;
	if (r == 0) {
		l->door = d;
		l->n_dirs = d->n_pairs;
		l->copy = conf_bool(d->conf, "local_copy");
		return l;
	}
	snap_error_set(err, r, "provider local: out of memory");
	if (l)
		local_close(l);
	return NULL;
}

/* ---- places ---- */

static int check_place(struct local *l, unsigned i, int *out, struct snap_error *err)
{
	const struct door_pair *p = &l->door->pairs[i];
	const char *dir = l->dir[i], *slash = strrchr(dir, '/');
	cleanup_free char *real = realpath(dir, NULL);
	bool missing = !real && errno == ENOENT;
	struct stat st;
	size_t n;
	int fd;

	/* decided before anything is made: its parent's place is its own */
	if (missing) {
		cleanup_free char *parent = slash > dir ? strndup(dir, (size_t)(slash - dir)) : strdup("/");

		real = parent ? realpath(parent, NULL) : NULL;
	}
	if (!real || stat(real, &st) < 0)
		return snap_error_set(err, -errno, "local_dir %s: %s; create its parent first, on the filesystem of %s",
				      dir, strerror(errno), p->backing);
	for (unsigned k = 0; k < l->door->n_pairs; k++) {
		const char *b = l->door->pairs[k].backing;

		n = strlen(b);
		if (strncmp(real, b, n) == 0 && (!real[n] || real[n] == '/'))
			return snap_error_set(err, -EINVAL, "local_dir %s lies below the backing %s and would clone itself; "
							    "choose a directory beside it on the same filesystem",
					      dir, b);
	}
	if (st.st_dev != p->backing_dev)
		return snap_error_set(err, -EXDEV, "local_dir %s is not on the filesystem of %s: clones cannot leave it; "
						   "choose a directory beside the backing", dir, p->backing);
	if (missing && mkdir(dir, 0700) < 0)
		return snap_error_set(err, -errno, "create local_dir %s: %s", dir, strerror(errno));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return snap_error_set(err, -errno, "open local_dir %s: %s", dir, strerror(errno));
	*out = fd;
	return 0;
}

int local_open_base(const struct local *l, unsigned i)
{
	return open(l->dir[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Does pair i share its local_dir with an earlier one? Then its clone lies in that one's set directory. */
bool local_own_base(const struct local *l, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (strcmp(l->dir[i], l->dir[k]) == 0)
			return false;
	return true;
}

void local_partial_name(char buf[64], const char *id)
{
	(void)snprintf(buf, 64, ".partial-%.32s", id);
}

int local_write_small(int dir, const char *name, const char *text)
{
	cleanup_fd int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t len = strlen(text);

	if (fd < 0)
		return -errno;
	if (write(fd, text, len) != (ssize_t)len)
		return errno ? -errno : -ENOSPC;
	return fsync(fd) < 0 ? -errno : 0;
}

int local_read_id(int setdir, char id[33])
{
	cleanup_fd int fd = openat(setdir, "id", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, id, 32);

	if (n < 0)
		return -errno;
	id[n] = '\0';
	return hex_is(id, 32) ? 0 : -EINVAL;
}

/* ---- preflight ---- */

static size_t count_extents(int dir, const struct tree_entry *e)
{
	cleanup_fd int fd = openat(dir, e->rel, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
	struct fiemap m = { .fm_length = ~0ull };

	return fd >= 0 && ioctl(fd, FS_IOC_FIEMAP, &m) == 0 ? m.fm_mapped_extents : 1;
}

static int estimate(struct lrun *lr, uint32_t hold_ms, struct snap_error *err)
{
	double ms = 0;
	size_t files = 0, extents = 0;
	uint64_t bytes = 0;
	struct statvfs v;

	for (unsigned i = 0; i < lr->n; i++) {
		struct lpair *p = &lr->p[i];

		files += p->tree.files;
		bytes += p->tree.bytes;
		if (p->copy) {
			ms += (double)p->tree.bytes / COPY_BYTES_PER_MS;
			continue;
		}
		for (size_t k = 0; k < p->tree.n; k++)
			if (S_ISREG(p->tree.v[k].st.st_mode) && p->tree.v[k].st.st_size)
				extents += count_extents(p->src, &p->tree.v[k]);
		if (fstatvfs(p->dst, &v) == 0 &&
		    ((uint64_t)v.f_bavail * v.f_frsize < SPACE_RESERVE + p->tree.n * 1024 ||
		     (v.f_files && v.f_favail < p->tree.n)))
			return snap_error_set(err, -ENOSPC, "local_dir %s: %llu MiB and %llu inodes are free, too few for a "
							    "clone of %zu files; delete old sets",
					      lr->l->dir[i],
					      (unsigned long long)((uint64_t)v.f_bavail * v.f_frsize >> 20),
					      (unsigned long long)v.f_favail, p->tree.n);
	}
	ms += (double)files * MS_PER_FILE + (double)extents * MS_PER_EXTENT;
	if (ms > hold_ms / 2.0)
		return snap_error_set(err, -EFBIG, "cloning %zu files with %zu extents (%llu MiB) would hold writes for about "
						   "%.1f s, more than half of gate_timeout (%.1f s); raise gate_timeout, or use a "
						   "provider of block snapshots",
				      files, extents, (unsigned long long)(bytes >> 20), ms / 1000, hold_ms / 1000.0);
	return 0;
}

void local_sub(const struct lrun *lr, unsigned i, char *buf, size_t cap)
{
	const char *at = lr->r->door->pairs[i].mountpoint, *slash = strrchr(at, '/');

	if (lr->n == 1)
		(void)snprintf(buf, cap, "data");
	else
		(void)snprintf(buf, cap, "data/%u-%s", i, slash ? slash + 1 : at);
}

struct lrun *local_run_new(struct local *l, struct prov_run *r)
{
	struct lrun *lr = calloc(1, sizeof(*lr));

	if (!lr)
		return NULL;
	r->ref = lr;
	lr->l = l;
	lr->r = r;
	lr->n = r->door->n_pairs;
	lr->fd = -1;
	for (unsigned i = 0; i < lr->n; i++) {
		lr->p[i].src = r->door->pairs[i].backing_fd;
		lr->p[i].dst = -1;
	}
	return lr;
}

/* base/.partial-ID and below it the place of pair i's clone. */
static int make_place(struct lrun *lr, unsigned i, struct snap_error *err)
{
	const struct door_pair *dp = &lr->r->door->pairs[i];
	struct lpair *p = &lr->p[i];
	char part[64], origin[128];
	int base = -1, set = -1, r;

	r = check_place(lr->l, i, &base, err);
	if (r < 0)
		return r;
	r = clone_probe(base);
	p->copy = r == -EOPNOTSUPP && lr->l->copy;
	if (r == -EOPNOTSUPP && !p->copy)
		r = snap_error_set(err, r, "%s: its filesystem cannot clone files (reflink); use XFS or btrfs, or allow "
					   "byte copies with local_copy=yes", dp->backing);
	else if (r < 0 && r != -EOPNOTSUPP)
		snap_error_set(err, r, "local_dir %s: %s", lr->l->dir[i], strerror(-r));
	else
		r = 0;
	local_partial_name(part, lr->r->set_id);
	local_sub(lr, i, p->sub, sizeof(p->sub));
	if (r == 0 && mkdirat(base, part, 0700) < 0 && errno != EEXIST)
		r = -errno;
	if (r == 0 && (set = openat(base, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		r = -errno;
	if (r == 0)
		r = xattrs_disinherit(set);
	if (r == 0)
		r = local_write_small(set, "id", lr->r->set_id);
	if (r == 0) { /* for whoever finds it without a record */
		(void)snprintf(origin, sizeof(origin), "lineage %.32s\norigin %.32s\n", lr->r->lineage, lr->r->origin ? lr->r->origin : "");
		r = local_write_small(set, "origin", origin);
	}
	if (r == 0 && mkdirat(set, "data", 0700) < 0 && errno != EEXIST)
		r = -errno;
	if (r == 0 && lr->n > 1 && mkdirat(set, p->sub, 0700) < 0)
		r = -errno;
	if (r == 0 && (p->dst = openat(set, p->sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		r = -errno;
	if (set >= 0)
		(void)close(set);
	(void)close(base);
	return r < 0 ? snap_error_set(err, r, "prepare %s/%s: %s", lr->l->dir[i], part, strerror(-r)) : 0;
}

static bool stop_asked(const void *arg)
{
	const struct prov_run *r = arg;

	return r->cancelled(r);
}

static int local_preflight(void *self, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms,
			   struct snap_error *err)
{
	struct local *l = self;
	struct lrun *lr = local_run_new(l, r);
	int ret = 0;

	if (!lr)
		return snap_error_set(err, -ENOMEM, "provider local: out of memory");
	for (unsigned i = 0; ret == 0 && i < lr->n; i++) {
		ret = make_place(lr, i, err);
		if (ret == 0)
			ret = tree_read(lr->p[i].src, r->door->pairs[i].backing, &lr->p[i].tree,
					stop_asked, r, err);
	}
	for (unsigned i = 0; ret == 0 && i < lr->n; i++) {
		cleanup_fd int base = local_open_base(l, i);

		if (faccessat(base, r->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			ret = snap_error_set(err, -EEXIST, "%s/%s exists already and belongs to no set; move it away",
					     l->dir[i], r->name);
	}
	if (ret == 0)
		ret = estimate(lr, hold_ms, err);
	return ret < 0 ? ret : clone_prepare(lr, err);
}

static int local_trigger(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	return clone_all(r->ref, err);
}

/* ---- completion ---- */

static void idle_io(bool on)
{
	/* IOPRIO_WHO_PROCESS of this thread; class idle = 3, none = 0 */
	(void)syscall(SYS_ioprio_set, 1, 0, on ? 3 << 13 : 0);
}

int local_link(struct lrun *lr, unsigned i)
{
	cleanup_free char *target = NULL, *name = NULL;
	cleanup_fd int first = local_open_base(lr->l, 0);

	if (strcmp(lr->l->dir[i], lr->l->dir[0]) == 0)
		return 0;
	if (asprintf(&target, "%s/%s/%s", lr->l->dir[i], lr->r->name, lr->p[i].sub) < 0 ||
	    asprintf(&name, "%s/%s", lr->r->name, lr->p[i].sub) < 0)
		return -ENOMEM;
	return first < 0 || (symlinkat(target, first, name) < 0 && errno != EEXIST) ? -errno : 0;
}

/* Give the set its name; link the clones of other bases, which several pairs may share. */
static int stage_rename(struct lrun *lr, struct snap_error *err)
{
	char part[64];
	int r = 0;

	local_partial_name(part, lr->r->set_id);
	for (unsigned i = 0; r == 0 && i < lr->n; i++) {
		cleanup_fd int base = local_own_base(lr->l, i) ? local_open_base(lr->l, i) : -1;

		if (local_own_base(lr->l, i) &&
		    (base < 0 || renameat2(base, part, base, lr->r->name, RENAME_NOREPLACE) < 0 || fsync(base) < 0))
			r = -errno;
		if (r == 0)
			r = local_link(lr, i);
	}
	return r < 0 ? snap_error_set(err, r, "rename the clone to %s/%s: %s", lr->l->dir[0], lr->r->name,
				      strerror(-r)) : 0;
}

static int stage_sync(struct lrun *lr, struct snap_error *err)
{
	for (unsigned i = 0; i < lr->n; i++)
		if (syncfs(lr->p[i].dst) < 0)
			return snap_error_set(err, -errno, "sync %s: %s", lr->l->dir[i], strerror(errno));
	return 0;
}

static int stage_mark(struct lrun *lr, struct snap_error *err)
{
	cleanup_fd int base = local_open_base(lr->l, 0);
	cleanup_fd int set = base < 0 ? -1 : openat(base, lr->r->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = set < 0 ? -errno : local_write_small(set, "manifest.sha256", vbuf_text(&lr->manifest));

	if (r == 0)
		r = local_write_small(set, "complete", lr->r->set_id);
	if (r == 0 && (fsync(set) < 0 || fsync(base) < 0))
		r = -errno;
	if (r == 0)
		resume_unmark(set);
	return r < 0 ? snap_error_set(err, r, "write the manifest of %s: %s", lr->r->name, strerror(-r)) : 0;
}

int local_stage(struct lrun *lr, uint32_t max_ms, struct snap_error *err)
{
	switch (lr->stage) {
	case ST_RENAME:
		return stage_rename(lr, err);
	case ST_TIDY:
		return clone_tidy(lr, err);
	case ST_CLONED:
	case ST_SYNCED:
		return resume_mark(lr, lr->stage, err);
	case ST_SYNC:
		return stage_sync(lr, err);
	case ST_DIGEST:
		return digest_some(lr, max_ms, err);
	case ST_MARK:
		return stage_mark(lr, err);
	case ST_DONE:
		break;
	}
	return 0;
}

static int local_poll(void *self, struct prov_run *r, uint32_t max_ms, struct prov_progress *out,
		      struct snap_error *err)
{
	static const char *const names[] = { "naming", "attributes", "sync", "sync", "digest", "digest", "manifest", "" };
	struct lrun *lr = r->ref;
	int ret;

	idle_io(lr->stage == ST_DIGEST);
	ret = local_stage(lr, max_ms, err);
	idle_io(false);
	if (ret < 0)
		return ret;
	if (ret == 0 && lr->stage != ST_DONE)
		lr->stage++;
	*out = (struct prov_progress){ .volumes = lr->n, .complete = lr->stage == ST_DONE };
	lr->files_all = 0;
	for (unsigned i = 0; i < lr->n; i++) {
		out->size_b += lr->p[i].tree.bytes;
		lr->files_all += lr->p[i].tree.files;
	}
	out->percent = out->complete ? 100 :
		       out->size_b   ? (unsigned)(lr->bytes_done * 99 / out->size_b) :
				       0;
	if (out->percent > 99 && !out->complete)
		out->percent = 99;
	(void)snprintf(out->detail, sizeof(out->detail), "%s: %zu of %zu files", names[lr->stage], lr->files_done,
		       lr->files_all);
	return 0;
}

void local_finish(void *self, struct prov_run *r)
{
	struct lrun *lr = r->ref;

	if (!lr)
		return;
	for (unsigned i = 0; i < lr->n; i++) {
		tree_free(&lr->p[i].tree);
		if (lr->p[i].dst >= 0)
			(void)close(lr->p[i].dst);
	}
	if (lr->fd >= 0)
		(void)close(lr->fd);
	EVP_MD_CTX_free(lr->md);
	vbuf_free(&lr->manifest);
	free(lr);
	r->ref = NULL;
}

/* ---- what is there ---- */

static int local_list(void *self, int (*fn)(void *arg, const char *name, const char *set_id, bool complete),
		      void *arg, uint32_t max_ms, struct snap_error *err)
{
	struct local *l = self;
	int base = local_open_base(l, 0);
	struct dirent *e;
	char id[33];
	DIR *d;

	if (base < 0)
		return errno == ENOENT ? 0 : snap_error_set(err, -errno, "open local_dir %s: %s", l->dir[0],
							     strerror(errno));
	d = fdopendir(base);
	if (!d) {
		(void)close(base);
		return snap_error_set(err, -ENOMEM, "read local_dir %s: out of memory", l->dir[0]);
	}
	while ((e = readdir(d))) {
		cleanup_fd int set = openat(base, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (set < 0 || local_read_id(set, id) < 0)
			continue;
		if (fn(arg, e->d_name, id, e->d_name[0] != '.' && faccessat(set, "complete", F_OK, 0) == 0))
			break;
	}
	(void)closedir(d);
	return 0;
}

static int local_data_path(void *self, const char *name, char *buf, size_t cap)
{
	const struct local *l = self;

	if ((size_t)snprintf(buf, cap, "%s/%s/data", l->dir[0], name) >= cap)
		return -ENAMETOOLONG;
	return access(buf, F_OK) < 0 ? -errno : 0;
}

const struct prov_ops prov_local = {
	.name = "local",
	.features = PROV_LIVE_FS | PROV_REMOVE_APART | PROV_SCAN_LISTS,
	.open = local_open,
	.close = local_close,
	.preflight = local_preflight,
	.trigger = local_trigger,
	.poll = local_poll,
	.resume = local_resume,
	.discard = local_discard,
	.finish = local_finish,
	.remove = local_remove,
	.list = local_list,
	.scan = local_scan,
	.leave = local_leave,
	.data_path = local_data_path,
};
