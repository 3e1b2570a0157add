/* snapshot/ebs_tool/undo.c - what was done, and how it is undone in reverse order; where there is a journal, also after the
 * death of this process. See tool.h. */
#include "snapshot/ebs_tool/tool.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEPS_MAX 160u
struct undo {
	int journal;
	bool stuck; /* a volume could not be detached: waiting for it is of no use */
	unsigned n;
	struct {
		enum undo_kind kind;
		char what[512];
	} step[STEPS_MAX];
};

struct undo *undo_new(int journal)
{
	struct undo *u = calloc(1, sizeof(*u));

	if (u)
		u->journal = journal;
	return u;
}

int undo_intend(struct undo *u, const char *word, const char *what, struct snap_error *err)
{
	if (u->journal < 0 || (dprintf(u->journal, "%s %s\n", word, what) > 0 && fsync(u->journal) == 0))
		return 0;
	return snap_error_set(err, -errno, "write the journal: %s", strerror(errno));
}

void undo_note(struct undo *u, enum undo_kind kind, const char *what)
{
	struct snap_error err = { 0 };

	if (kind == UNDO_VOLUME && undo_intend(u, "volume", what, &err) < 0)
		tool_say("%s; its mark finds it", err.msg);
	if (u->n == STEPS_MAX)
		return; /* 40 volumes and 8 pairs make fewer */
	u->step[u->n].kind = kind;
	(void)snprintf(u->step[u->n++].what, sizeof(u->step[0].what), "%.500s", what);
}

static int simple(struct api *a, const char *action, const char *volume, const char *instance, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	struct xml *x;
	int r;

	ec2_arg(&form, volume, "VolumeId");
	if (instance)
		ec2_arg(&form, instance, "InstanceId");
	r = api_call(a, action, &form, false, &x, err);
	xml_free(x);
	vbuf_free(&form);
	return r;
}

int undo_volume_detach(struct api *a, const char *volume, const char *instance, struct snap_error *err)
{
	return simple(a, "DetachVolume", volume, instance, err);
}

int undo_volume_delete(struct api *a, const char *volume, bool wait, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r = 0;

	for (int i = 0; i < 60; i++) { /* a detachment takes a moment */
		snap_error_clear(&why);
		r = simple(a, "DeleteVolume", volume, NULL, &why);
		if (r == 0 || strcmp(a->code, "InvalidVolume.NotFound") == 0)
			return 0;
		if (!wait || (strcmp(a->code, "VolumeInUse") != 0 && strcmp(a->code, "IncorrectState") != 0))
			break;
		(void)usleep(1000000);
	}
	return snap_error_set(err, r, "%s", why.msg);
}

int undo_layer(enum undo_kind kind, const char *what, struct snap_error *err)
{
	if (kind == UNDO_MOUNT)
		return tool_exec((const char *[]){ "umount", what, NULL }, err);
	if (kind == UNDO_VG)
		return tool_exec((const char *[]){ "vgchange", "-an", what, NULL }, err);
	if (kind == UNDO_PV)
		return tool_exec((const char *[]){ "lvmdevices", "--deldev", what, NULL }, err);
	return tool_exec((const char *[]){ "mdadm", "--stop", what, NULL }, err);
}

/* The last step. */
static int undo_one(struct undo *u, struct tool *t)
{
	const char *what = u->step[--u->n].what;
	struct api a = { .e = t->e, .deadline_ns = clock_boot_ns() + 120 * NS_PER_S };
	struct snap_error err = { 0 };
	int r = 0;

	switch (u->step[u->n].kind) {
	case UNDO_MOUNT:
	case UNDO_VG:
	case UNDO_PV:
	case UNDO_MD:
		r = undo_layer(u->step[u->n].kind, what, &err);
		break;
	case UNDO_ATTACHMENT:
		r = undo_volume_detach(&a, what, t->e->instance, &err);
		u->stuck |= r < 0;
		break;
	case UNDO_VOLUME:
		r = undo_volume_delete(&a, what, !u->stuck, &err);
		break;
	}
	if (r < 0)
		tool_say("undo: %s stays: %s", what, err.msg);
	else
		tool_say("undone: %s", what);
	return r < 0 ? -EBUSY : 0;
}

int undo_local(struct undo *u, struct tool *t)
{
	int r = 0;

	while (u->n && u->step[u->n - 1].kind != UNDO_ATTACHMENT && u->step[u->n - 1].kind != UNDO_VOLUME)
		if (undo_one(u, t) < 0)
			r = -EBUSY;
	return r;
}

int undo_all(struct undo *u, struct tool *t, bool keep)
{
	int r = 0;

	while (!keep && u->n)
		if (undo_one(u, t) < 0)
			r = -EBUSY;
	free(u);
	return r;
}
