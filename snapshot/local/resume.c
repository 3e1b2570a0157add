/* snapshot/local/resume.c - a clone whose process has gone: is it whole, and where does completion go on?
 * Owns:      the marks `cloned` and `synced` in a set's directory, between the consistency point and `complete`.
 * Called by: local.c on the provider's thread.
 * Blocks:    while the clone's tree is read.
 * Errors:    -errno with the sentence.
 *
 * `cloned` holds the set's id and the kernel's boot id: all files, owners and times are there, perhaps in this kernel's
 * memory alone. `synced` holds the set's id: they are on the disk. Without either nobody knows what is missing. */
#include "snapshot/local/local_int.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MARK_MAX 80
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* The first line of a small file; "" when there is none. */
static void read_line(int dir, const char *name, char buf[MARK_MAX])
{
	cleanup_fd int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, MARK_MAX - 1);

	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static void mark_text(const struct prov_run *r, enum lstage reached, char buf[MARK_MAX])
{
	char boot[MARK_MAX];

	read_line(AT_FDCWD, BOOT_ID, boot);
	if (reached == ST_CLONED)
		(void)snprintf(buf, MARK_MAX, "%.32s %.40s", r->set_id, boot);
	else
		(void)snprintf(buf, MARK_MAX, "%.32s", r->set_id);
}

static const char *mark_name(enum lstage reached)
{
	return reached == ST_CLONED ? "cloned" : "synced";
}

static int open_set(const struct local *l, unsigned i, const char *name)
{
	cleanup_fd int base = local_open_base(l, i);

	return base < 0 ? -1 : openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

int resume_mark(struct lrun *lr, enum lstage reached, struct snap_error *err)
{
	cleanup_fd int set = open_set(lr->l, 0, lr->r->name);
	char text[MARK_MAX];
	int r = set < 0 ? -errno : 0;

	mark_text(lr->r, reached, text);
	if (r == 0)
		r = local_write_small(set, mark_name(reached), text);
	if (r == 0 && fsync(set) < 0)
		r = -errno;
	return r < 0 ? snap_error_set(err, r, "write %s/%s/%s: %s", lr->l->dir[0], lr->r->name, mark_name(reached), strerror(-r)) :
		       0;
}

void resume_unmark(int setdir)
{
	(void)unlinkat(setdir, mark_name(ST_CLONED), 0); /* `complete` says more */
	(void)unlinkat(setdir, mark_name(ST_SYNCED), 0);
}

static bool marked(int set, const struct prov_run *r, enum lstage reached)
{
	char want[MARK_MAX], have[MARK_MAX];

	mark_text(r, reached, want);
	read_line(set, mark_name(reached), have);
	return strcmp(want, have) == 0;
}

/* How far the process came. */
static int find_stage(const struct local *l, const struct prov_run *r, enum lstage *out, struct snap_error *err)
{
	cleanup_fd int set = open_set(l, 0, r->name);
	char line[MARK_MAX], id[33] = "";
	int code;

	if (set < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
		return snap_error_set(err, -EAGAIN, "open %s/%s: %s", l->dir[0], r->name, strerror(errno));
	code = set < 0 ? -errno : local_read_id(set, id);
	if (code < 0 || strcmp(id, r->set_id) != 0)
		return snap_error_set(err, -ENODATA, "there is no clone of it in %s/%s; the attributes of its files were not set yet, or "
						     "local_dir was changed", l->dir[0], r->name);
	read_line(set, "complete", line);
	if (strcmp(line, r->set_id) == 0)
		*out = ST_DONE;
	else if (marked(set, r, ST_SYNCED))
		*out = ST_DIGEST;
	else if (marked(set, r, ST_CLONED))
		*out = ST_SYNC;
	else
		return snap_error_set(err, -ENODATA, "the clone in %s/%s was not on the disk yet when the host stopped, or the attributes "
						     "of its files were not set", l->dir[0], r->name);
	return 0;
}

static bool stop_asked(const void *arg)
{
	const struct prov_run *r = arg;

	return r->cancelled(r);
}

static int open_pair(struct lrun *lr, unsigned i, struct snap_error *err)
{
	cleanup_fd int set = open_set(lr->l, i, lr->r->name);
	struct lpair *p = &lr->p[i];
	char id[33] = "";
	int r = set < 0 ? -errno : local_read_id(set, id);

	local_sub(lr, i, p->sub, sizeof(p->sub));
	if (r == 0 && strcmp(id, lr->r->set_id) != 0)
		r = -ESTALE;
	if (r == 0 && (p->dst = openat(set, p->sub, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
		r = -errno;
	if (r == 0)
		r = local_link(lr, i); /* whoever gave the set its name may have left this one out */
	if (r < 0)
		return snap_error_set(err, -ENODATA, "%s/%s/%s: %s", lr->l->dir[i], lr->r->name, p->sub, strerror(-r));
	return tree_read(p->dst, "the clone", &p->tree, stop_asked, lr->r, err);
}

int local_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	struct local *l = self;
	struct lrun *lr;
	enum lstage stage = ST_DONE;
	int ret;

	local_finish(self, r); /* of an earlier try */
	ret = find_stage(l, r, &stage, err);
	if (ret < 0)
		return ret;
	lr = local_run_new(l, r);
	if (!lr)
		return snap_error_set(err, -EAGAIN, "provider local: out of memory");
	lr->stage = stage;
	for (unsigned i = 0; ret == 0 && i < lr->n; i++)
		ret = open_pair(lr, i, err);
	if (ret < 0 && r->cancelled(r))
		return -EAGAIN;
	return ret;
}

int local_leave(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	struct lrun *lr = r->ref;
	int ret = 0;

	while (ret == 0 && lr->stage <= ST_CLONED) { /* short ones; what follows has its mark */
		ret = local_stage(lr, 0, err);
		lr->stage++;
	}
	local_finish(self, r);
	return ret < 0 ? snap_error_set(err, ret, "leave the clone for the next start: %s", strerror(-ret)) : 0;
}
