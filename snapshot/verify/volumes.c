/* snapshot/verify/volumes.c - the data of a set of provider ebs, for one verification: volumes of its own made from the set's
 * snapshots, attached to this instance and mounted in a mount namespace of this process; and all of it taken away again.
 * Owns:      DIR/ID (mountpoints, the server's /tmp), DIR/ID.journal. The mounts end with the process.
 * Called by: helper.c. While the server runs, neither keys nor a connection are held.
 * Errors:    -errno with the sentence. */
#include "snapshot/verify/volumes_int.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/reflink.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define FREE_MS 10000u /* a killed server's files are closed by then */

static struct {
	struct tool t;
	struct members *ms;
	struct undo *u;
	struct snaps snaps; /* of the set, for its tag */
	int journal;
	unsigned percent; /* for what is said meanwhile */
} v = { .journal = -1 };

static void say(const char *text)
{
	verify_log("%s", text);
	if (v.percent)
		verify_progress(v.percent, "%s", text);
}

static int open_tool(const struct vspec *s, struct snap_error *err)
{
	if (v.t.e)
		return 0;
	if (!v.t.conf) {
		v.t.conf = conf_new(ebs_keys, err);
		for (unsigned i = 0; v.t.conf && i < s->n_ebs && !err->code; i++) {
			char key[40] = "", *value = strchr(s->ebs[i], ' ');

			(void)snprintf(key, sizeof(key), "%.*s", value ? (int)(value - s->ebs[i]) : 0, s->ebs[i]);
			(void)conf_set(v.t.conf, "ebs", key, value ? value + 1 : "", err);
		}
		if (!v.t.conf || err->code)
			return err->code;
	}
	v.t.door.conf = v.t.conf;
	v.t.door.name = "stillfs";
	v.t.run.cancelled = tool_cancelled;
	v.t.id = s->id;
	v.t.e = prov_ebs.open(&v.t.door, err);
	return v.t.e ? 0 : err->code;
}

static void close_tool(void)
{
	if (v.t.e)
		prov_ebs.close(v.t.e);
	v.t.e = NULL;
}

static void remove_work(const struct vspec *s)
{
	cleanup_fd int dir = open(s->volumes, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct snap_error err = { 0 };

	if (dir >= 0 && reflink_remove(dir, s->id, &err) < 0)
		verify_log("%s", err.msg);
}

int volumes_begin(const struct vspec *s, struct snap_error *err)
{
	struct stat st;
	int r = left_open(s, &v.journal, err);

	tool_listener = say;
	if (r < 0 || (!s->clean && fstat(v.journal, &st) == 0 && st.st_size == 0))
		return r;
	r = open_tool(s, err);
	r = r < 0 ? r : left_sweep(s, &v.t, v.journal, true, err);
	if (r == 0 && s->clean)
		remove_work(s);
	if (r == 0 && !s->clean) { /* the journal is gone: a new one */
		(void)close(v.journal);
		r = left_open(s, &v.journal, err);
	}
	return r;
}

/* ---- bring ---- */

/* Names that neither the instance's mapping nor this kernel has. */
static int name_devices(struct members *ms, const char *used, struct snap_error *err)
{
	static const char letters[] = "fghijklmnopqrstuvwxyz"; /* AWS recommends f to p */
	char name[12], xen[12], word[12];
	unsigned k = 0;

	for (const char *c = letters; *c && k < ms->n; c++) {
		(void)snprintf(name, sizeof(name), "/dev/sd%c", *c);
		(void)snprintf(xen, sizeof(xen), "/dev/xvd%c", *c);
		(void)snprintf(word, sizeof(word), "d%c ", *c); /* of sdf, xvdf */
		if (!strstr(used, word) && access(name, F_OK) < 0 && access(xen, F_OK) < 0)
			(void)snprintf(ms->m[k++].device, sizeof(ms->m[0].device), "%s", name);
	}
	return k == ms->n ? 0 : snap_error_set(err, -ENOSPC, "%u volumes are to be attached, and only %u of this instance's device names are "
							      "free", ms->n, k);
}

/* What is known to fail later is refused before anything is made. */
static int check_pairs(const struct vspec *s, const struct members *ms, struct snap_error *err)
{
	struct place p;
	int r = 0;

	if (ms->n_pairs != s->n_pairs)
		return snap_error_set(err, -EOPNOTSUPP, "the set has %u directories, and its tags say where %u of them are; restore it and start a "
							"server on it", s->n_pairs, ms->n_pairs);
	for (unsigned i = 0; r == 0 && i < ms->n_pairs; i++) {
		r = place_read(ms->pair[i], ms, &p, err);
		if (r == 0 && *p.crypt)
			r = snap_error_set(err, -EOPNOTSUPP, "%s lies on %s: that is opened with its own key; restore it and start a server on it",
					   p.mountpoint, p.crypt);
	}
	return r;
}

static int own_mounts(struct snap_error *err)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return snap_error_set(err, -errno, "make a mount namespace: %s", strerror(errno));
	return 0;
}

static int make_mark(char mark[33], struct snap_error *err)
{
	unsigned char rnd[16];

	if (getrandom(rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return snap_error_set(err, -EIO, "no random numbers");
	hex_put(mark, rnd, sizeof(rnd));
	return 0;
}

/* Each pair's directory at work/pI. */
static int mount_all(struct vspec *s, struct snap_error *err)
{
	static char where[TOOL_PAIRS][700];
	static char dir[PATH_MAX], to[PATH_MAX];
	int r;

	(void)snprintf(dir, sizeof(dir), "%.*s/m", PATH_MAX - 8, s->work[0]);
	r = assemble_mount(v.u, v.ms, dir, where, err);
	for (unsigned i = 0; r == 0 && i < s->n_pairs; i++) {
		(void)snprintf(to, sizeof(to), "%.*s/p%u", PATH_MAX - 16, s->work[i], i);
		if ((mkdir(to, 0700) < 0 && errno != EEXIST) || mount(where[i], to, NULL, MS_BIND, NULL) < 0)
			return snap_error_set(err, errno == ENOENT ? -EBADMSG : -errno, "%s is not on the set's volumes: %s", s->mountpoint[i],
					      strerror(errno));
		undo_note(v.u, UNDO_MOUNT, to);
		r = verify_settle(s, i, err);
	}
	return r == -ENOENT ? -EBADMSG : r;
}

int volumes_bring(struct vspec *s, struct snap_error *err)
{
	struct wish w = { .attach = "/dev/sd" };
	struct vbuf used = VBUF_INIT;
	char mark[33], zone[32] = "";
	int r = open_tool(s, err);

	v.percent = 2;
	v.ms = calloc(1, sizeof(*v.ms));
	v.u = undo_new(v.journal);
	if (r == 0 && (!v.ms || !v.u))
		r = snap_error_set(err, -ENOMEM, "out of memory");
	r = r < 0 ? r : tool_members(&v.t, v.ms, err);
	for (unsigned i = 0; r == 0 && i < v.ms->n; i++, v.snaps.n++)
		(void)snprintf(v.snaps.v[i].id, sizeof(v.snaps.v[0].id), "%s", v.ms->m[i].snap);
	r = r < 0 ? r : check_pairs(s, v.ms, err);
	r = r < 0 ? r : make_find_zone(&v.t, &w, zone, &used, err);
	r = r < 0 ? r : name_devices(v.ms, vbuf_text(&used), err);
	vbuf_free(&used);
	r = r < 0 ? r : own_mounts(err);
	r = r < 0 ? r : make_mark(mark, err);
	r = r < 0 ? r : left_begin(v.journal, mark, v.t.e->region, err);
	w.mark = mark;
	v.percent = 10;
	r = r < 0 ? r : make_volumes(&v.t, &w, v.ms, zone, v.u, err);
	v.percent = 40;
	r = r < 0 ? r : mount_all(s, err);
	close_tool();
	v.percent = 0;
	return r;
}

unsigned volumes_count(void)
{
	return v.ms ? v.ms->n : 0;
}

/* ---- the result, and away ---- */

void volumes_record(const struct vspec *s, const char *word, const char *text)
{
	char when[CLOCK_ISO_MAX], value[600];
	struct snap_error err = { 0 };
	struct api a;
	int r;

	if (!v.snaps.n)
		return;
	r = open_tool(s, &err);
	a = (struct api){ .e = v.t.e, .deadline_ns = clock_boot_ns() + 30 * NS_PER_S };
	(void)snprintf(value, sizeof(value), "%s %s %.500s", word, clock_iso(clock_utc(), when), text);
	r = r < 0 ? r : api_connect(&a, false, &err);
	r = r < 0 ? r : tags_verified(&a, &v.snaps, value, &err);
	if (r < 0)
		verify_log("the result is in this host's catalog and not in the set's tags: %s", err.msg);
}

/* A device that somebody has open stays attached for longer. */
static void wait_free(void)
{
	uint64_t end = clock_boot_ns() + FREE_MS * NS_PER_MS;

	for (unsigned i = 0; v.ms && i < v.ms->n; i++)
		while (v.ms->m[i].path[0] && clock_boot_ns() < end) {
			cleanup_fd int fd = open(v.ms->m[i].path, O_RDONLY | O_EXCL | O_CLOEXEC);

			if (fd >= 0 || errno != EBUSY)
				break;
			(void)usleep(50000);
		}
}

int volumes_end(const struct vspec *s, struct snap_error *err)
{
	struct api a;
	int r = open_tool(s, err);

	if (r < 0)
		return r;
	a = (struct api){ .e = v.t.e, .deadline_ns = clock_boot_ns() + 60 * NS_PER_S };
	if (v.u) {
		struct snap_error why = { 0 };

		r = undo_local(v.u, &v.t);
		wait_free();
		(void)api_connect(&a, true, &why); /* whose instance id the undoing needs; it says itself what fails */
		r = undo_all(v.u, &v.t, false) < 0 ? -EBUSY : r;
		v.u = NULL;
	}
	remove_work(s);
	r = left_sweep(s, &v.t, v.journal, r < 0, err);
	close_tool();
	return r;
}
