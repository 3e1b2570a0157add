/* snapshot/verify/left.c - the journal of what a verification makes at AWS, and the removal of all of it: by the process that
 * made it, or by a later one after its death. What is removed carries this verification's own mark as a tag, or is named in
 * its journal; nothing else is touched.
 * Owns:      DIR/ID.journal: "mark HEX", "region R", then the lines of undo.c. Its lock (flock) is held by who works on it.
 * Called by: volumes.c. Blocks for the calls, and while a detachment takes. Errors: -errno with the sentence. */
#include "snapshot/verify/volumes_int.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SWEEP_MS 120000u
#define FOUND_MAX (2u * VOLS_MAX)
#define LAYERS_MAX 64u

struct left {
	char mark[33], region[40];
	unsigned creates, refused, volumes;
	char volume[VOLS_MAX][24];
	time_t last; /* line */
};

struct found {
	unsigned n;
	struct {
		char id[24], instance[24]; /* "": not attached */
	} v[FOUND_MAX];
};

static void journal_path(const struct vspec *s, char path[PATH_MAX])
{
	(void)snprintf(path, PATH_MAX, "%.*s/%s.journal", PATH_MAX - 64, s->volumes, s->id);
}

int left_open(const struct vspec *s, int *fd, struct snap_error *err)
{
	char path[PATH_MAX];
	struct stat a, b;

	journal_path(s, path);
	if (mkdir(s->volumes, 0700) < 0 && errno != EEXIST)
		return snap_error_set(err, -errno, "make %s: %s", s->volumes, strerror(errno));
	for (;;) {
		*fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (*fd < 0)
			return snap_error_set(err, -errno, "%s: %s", path, strerror(errno));
		if (flock(*fd, LOCK_EX | LOCK_NB) < 0) {
			(void)close(*fd);
			*fd = -1;
			return snap_error_set(err, -EBUSY, "an earlier verification of this set is still removing its volumes");
		}
		if (fstat(*fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino)
			return 0;
		(void)close(*fd); /* its last holder has removed it meanwhile */
	}
}

int left_begin(int fd, const char *mark, const char *region, struct snap_error *err)
{
	if (dprintf(fd, "mark %s\nregion %s\n", mark, region) > 0 && fsync(fd) == 0)
		return 0;
	return snap_error_set(err, -errno, "write the journal: %s", strerror(errno));
}

/* Layers that a dead process left active keep their volumes. They go if they are there. */
static void drop_layer(const char *kind, const char *name)
{
	enum undo_kind layer = strcmp(kind, "pv") == 0 ? UNDO_PV : strcmp(kind, "vg") == 0 ? UNDO_VG : UNDO_MD;
	struct snap_error err = { 0 };
	char path[120];

	(void)snprintf(path, sizeof(path), "%s%.90s", *name == '/' ? "" : "/dev/", name);
	if (layer != UNDO_PV && access(path, F_OK) < 0)
		return;
	if (undo_layer(layer, name, &err) < 0)
		tool_say("%s stays active: %s", name, err.msg);
}

static void read_journal(int fd, struct left *out, bool layers)
{
	cleanup_fd int copy = dup(fd);
	FILE *f = copy < 0 || lseek(copy, 0, SEEK_SET) < 0 ? NULL : fdopen(copy, "r");
	static char layer[LAYERS_MAX][2][120]; /* kind, name */
	char word[16], what[120];
	unsigned n = 0;
	struct stat st;

	memset(out, 0, sizeof(*out));
	out->last = fstat(fd, &st) == 0 ? st.st_mtime : 0;
	if (!f)
		return;
	copy = -1; /* f's */
	while (fscanf(f, "%15s %119[^\n]", word, what) == 2) {
		if (strcmp(word, "mark") == 0)
			(void)snprintf(out->mark, sizeof(out->mark), "%.32s", what);
		else if (strcmp(word, "region") == 0)
			(void)snprintf(out->region, sizeof(out->region), "%.39s", what);
		else if (strcmp(word, "create") == 0)
			out->creates++;
		else if (strcmp(word, "refused") == 0)
			out->refused++;
		else if (strcmp(word, "volume") == 0 && out->volumes < VOLS_MAX)
			(void)snprintf(out->volume[out->volumes++], sizeof(out->volume[0]), "%.23s", what);
		else if (n < LAYERS_MAX && (strcmp(word, "vg") == 0 || strcmp(word, "pv") == 0 || strcmp(word, "md") == 0)) {
			(void)snprintf(layer[n][0], sizeof(layer[0][0]), "%s", word);
			(void)snprintf(layer[n++][1], sizeof(layer[0][1]), "%s", what);
		}
	}
	(void)fclose(f);
	while (layers && n--)
		drop_layer(layer[n][0], layer[n][1]);
}

static int add_found(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "volumeSet/item");
	struct found *out = arg;
	char state[20];

	for (; i && out->n < FOUND_MAX; i = xml_next(i)) {
		(void)xml_text(i, "status", state, sizeof(state));
		(void)xml_text(i, "volumeId", out->v[out->n].id, sizeof(out->v[0].id));
		if (xml_text(i, "attachmentSet/item/instanceId", out->v[out->n].instance, sizeof(out->v[0].instance)) < 0)
			out->v[out->n].instance[0] = '\0';
		out->n += strncmp(state, "delet", 5) != 0;
	}
	return 0;
}

static int find_marked(struct api *a, const char *mark, struct found *out, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	int r;

	ec2_arg(&form, "tag:stillfs:verification", "Filter.1.Name");
	ec2_arg(&form, mark, "Filter.1.Value.1");
	r = api_pages(a, "DescribeVolumes", &form, add_found, out, err);
	vbuf_free(&form);
	return r;
}

/* Those that the description does not show yet, but whose ids are known. */
static void add_known(const struct left *l, struct found *out)
{
	for (unsigned i = 0; i < l->volumes; i++) {
		unsigned k = 0;

		while (k < out->n && strcmp(out->v[k].id, l->volume[i]) != 0)
			k++;
		if (k < out->n || out->n == FOUND_MAX)
			continue;
		memcpy(out->v[k].id, l->volume[i], sizeof(l->volume[i]));
		out->v[k].instance[0] = '\0';
		out->n++;
	}
}

static int remove_found(struct api *a, const struct found *f, struct snap_error *err)
{
	struct vbuf stay = VBUF_INIT;
	struct snap_error first = { 0 };
	int r = 0;

	for (unsigned i = 0; i < f->n; i++) {
		struct snap_error why = { 0 };
		int got = f->v[i].instance[0] ? undo_volume_detach(a, f->v[i].id, f->v[i].instance, &why) : 0;

		if (got == 0 || strcmp(a->code, "IncorrectState") == 0) { /* is being detached already */
			snap_error_clear(&why);
			got = undo_volume_delete(a, f->v[i].id, true, &why);
		}
		tool_say("%s: %s", f->v[i].id, got < 0 ? why.msg : "deleted");
		if (got < 0) {
			vbuf_printf(&stay, " %s", f->v[i].id);
			if (!first.code)
				first = why;
			r = -EAGAIN;
		}
	}
	if (r < 0)
		snap_error_set(err, r, "volumes%.300s, made for a verification, are left: %.400s", vbuf_text(&stay), first.msg);
	vbuf_free(&stay);
	return r;
}

static int unknown(const struct left *l, const char *why, struct snap_error *err)
{
	struct vbuf ids = VBUF_INIT;
	int r;

	for (unsigned i = 0; i < l->volumes; i++)
		vbuf_printf(&ids, " %s", l->volume[i]);
	r = snap_error_set(err, -EAGAIN, "volumes with the tag stillfs:verification %s in %s may be left:%.300s%s %.300s", l->mark, l->region,
			   vbuf_text(&ids), l->volumes ? ":" : "", why);
	vbuf_free(&ids);
	return r;
}

int left_sweep(const struct vspec *s, struct tool *t, int fd, bool after_death, struct snap_error *err)
{
	struct api a = { .e = t->e, .deadline_ns = clock_boot_ns() + SWEEP_MS * NS_PER_MS };
	struct snap_error why = { 0 };
	static struct found f; /* one thread */
	static struct left l;
	char path[PATH_MAX];
	int r;

	read_journal(fd, &l, after_death);
	if (l.creates) {
		r = api_connect(&a, false, &why);
		if (r == 0 && strcmp(l.region, t->e->region) != 0)
			r = snap_error_set(&why, -EXDEV, "this stillfs works in region %s now", t->e->region);
		f.n = 0;
		r = r < 0 ? r : find_marked(&a, l.mark, &f, &why);
		if (r < 0)
			return unknown(&l, why.msg, err);
		if (after_death)
			add_known(&l, &f);
		r = remove_found(&a, &f, err);
		if (r < 0)
			return r;
		if (l.creates > l.volumes + l.refused && clock_utc().tv_sec - l.last < LEFT_SURE_S)
			return unknown(&l, "an answer to CreateVolume was lost; looked for once more", err);
	}
	journal_path(s, path);
	return unlink(path) < 0 && errno != ENOENT ? snap_error_set(err, -errno, "remove %s: %s", path, strerror(errno)) : 0;
}
