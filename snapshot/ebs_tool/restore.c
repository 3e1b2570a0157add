/* snapshot/ebs_tool/restore.c - volumes from a set's snapshots; where asked, attached to this instance and mounted.
 * Called by main.c. Blocks for minutes, with progress on stderr. Errors: -errno with the sentence; then everything that
 * was made here is taken away again, and nothing else.
 * stdout: "volume SNAPSHOT VOLUME [DEVICE]" and "path MOUNTPOINT PATH" lines. */
#include "snapshot/ebs_tool/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_wish(int argc, char **argv, struct wish *w, struct snap_error *err)
{
	for (int i = 0; i < argc && !err->code; i++) {
		const char *v = i + 1 < argc ? argv[i + 1] : "";
		bool used = true;

		if (strcmp(argv[i], "--az") == 0)
			w->az = v;
		else if (strcmp(argv[i], "--type") == 0)
			w->type = v;
		else if (strcmp(argv[i], "--attach") == 0)
			w->attach = v;
		else if (strcmp(argv[i], "--mount") == 0)
			w->mount = v;
		else if (strcmp(argv[i], "--kms-key") == 0)
			w->kms = v;
		else if (strcmp(argv[i], "--iops") == 0)
			w->iops = tool_number(argv[i], v, 1, 256000, err);
		else if (strcmp(argv[i], "--throughput") == 0)
			w->throughput = tool_number(argv[i], v, 1, 10000, err);
		else if (strcmp(argv[i], "--init-rate") == 0)
			w->init_rate = tool_number(argv[i], v, 100, 300, err);
		else
			used = false;
		if (used && !*v)
			return snap_error_set(err, -EINVAL, "restore: a value is missing after %s", argv[i]);
		i += used;
		if (!used && strcmp(argv[i], "--read-all") == 0)
			w->read_all = true;
		else if (!used && strcmp(argv[i], "--delete-on-termination") == 0)
			w->delete_on_termination = true;
		else if (!used)
			return snap_error_set(err, -EINVAL, "restore: unknown argument %.100s; see stillctl(8)", argv[i]);
	}
	if (!err->code && (w->mount || w->read_all || w->delete_on_termination) && !w->attach)
		return snap_error_set(err, -EINVAL, "restore: --mount, --read-all and --delete-on-termination need --attach DEVICE");
	if (!err->code && w->mount && w->mount[0] != '/')
		return snap_error_set(err, -EINVAL, "restore: --mount %.200s: expected an absolute path", w->mount);
	if (!err->code && w->attach && (strncmp(w->attach, "/dev/", 5) != 0 || strlen(w->attach) < 8 || strlen(w->attach) > 12))
		return snap_error_set(err, -EINVAL, "restore: --attach %.60s: expected a name like /dev/sdg", w->attach);
	return err->code;
}

/* The letters of the volumes follow each other. */
static int name_devices(const struct wish *w, struct members *ms, struct snap_error *err)
{
	for (unsigned i = 0; w->attach && i < ms->n; i++) {
		size_t n = strlen(w->attach);
		int c = w->attach[n - 1] + (int)i;

		if (w->attach[n - 1] < 'a' || c > 'z')
			return snap_error_set(err, -EINVAL, "restore: --attach %s: %u volumes need names that end with letters up to z", w->attach,
					      ms->n);
		(void)snprintf(ms->m[i].device, sizeof(ms->m[i].device), "%.*s%c", (int)n - 1, w->attach, c);
	}
	return 0;
}

/* ---- what to do next ---- */

static void say_next(const struct members *ms, const struct wish *w)
{
	const char *p = ms->set->position;

	if (w->attach && !w->delete_on_termination)
		tool_say("the volumes stay when the instance ends (DeleteOnTermination false); --delete-on-termination changes that");
	if (w->attach && !w->init_rate && !w->read_all)
		tool_say("blocks come from S3 when they are read first, so the first reads are slow; --init-rate N has AWS fetch them, "
			 "--read-all reads everything once");
	if (!strstr(p, "server "))
		return;
	tool_say("before the server starts there: stop it from being the original:");
	tool_say("  - remove auto.cnf from the data directory (MySQL), or two servers have one server_uuid");
	tool_say("  - give it a server_id of its own, and skip-replica-start (MariaDB: skip-slave-start)");
	tool_say("  - its my.cnf must name the restored paths; the files belong to the user id they had");
	tool_say("the set's position is in .stillfs-position there, and here:");
	tool_say("%s", p);
}

/* The places of what is to be mounted. What is known to fail later is refused before anything is made. */
static int check(const struct wish *w, const struct members *ms, struct place *place, struct snap_error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && w->mount && i < ms->n_pairs; i++) {
		const struct place *p = &place[i];

		r = place_read(ms->pair[i], ms, &place[i], err);
		if (r == 0 && *p->crypt)
			r = snap_error_set(err, -EOPNOTSUPP, "%s lies on %s: that is opened with its own key; restore without --mount, then open "
							     "and mount it by hand", p->mountpoint, p->crypt);
	}
	return r;
}

int tool_restore(struct tool *t, int argc, char **argv, struct snap_error *err)
{
	static char where[TOOL_PAIRS][700]; /* one thread */
	static struct place place[TOOL_PAIRS];
	struct members *ms = calloc(1, sizeof(*ms));
	struct undo *u = undo_new(-1);
	struct vbuf used = VBUF_INIT;
	struct wish w = { 0 };
	char zone[32] = "";
	int r = ms && u ? read_wish(argc, argv, &w, err) : snap_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = tool_members(t, ms, err);
	if (r == 0)
		r = name_devices(&w, ms, err);
	if (r == 0)
		r = check(&w, ms, place, err);
	if (r == 0)
		r = make_find_zone(t, &w, zone, &used, err);
	if (r == 0)
		r = make_volumes(t, &w, ms, zone, u, err);
	if (r == 0 && w.mount)
		r = assemble_mount(u, ms, w.mount, where, err);
	if (r == 0 && w.mount && ms->of_pairs > ms->n_pairs)
		tool_say("the set has %u directories, and its tags say where %u of them are: the others are not named above; they lie on these "
			 "volumes, too: look there, and mount by hand what is not mounted", ms->of_pairs, ms->n_pairs);
	for (unsigned i = 0; r == 0 && w.mount && i < ms->n_pairs; i++)
		(void)printf("path %s %s\n", place[i].mountpoint, where[i]);
	if (r == 0 && w.read_all)
		r = assemble_read_all(ms, err);
	for (unsigned i = 0; r == 0 && i < ms->n; i++)
		(void)printf("volume %s %s%s%s\n", ms->m[i].snap, ms->m[i].volume, w.attach ? " " : "", w.attach ? ms->m[i].path : "");
	if (r == 0)
		say_next(ms, &w);
	if (u)
		(void)undo_all(u, t, r == 0);
	vbuf_free(&used);
	if (ms)
		set_free(ms->set);
	free(ms);
	return r;
}
