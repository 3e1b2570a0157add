/* snapshot/ebs/ebs_use.c - what keeps a snapshot from being deleted: a lock, an image (AMI), a volume that is being made
 * of it. AWS refuses the first two; of the third its documents say nothing, so it is not tried.
 * Called by: ebs_remove.c on the provider's thread. Blocks: for three describing calls, up to api.deadline_ns.
 * Errors:    -EBUSY with what it is; else it cannot be known now. A question that this host may not ask is passed over
 *            and said once; the answer to DeleteSnapshot tells then. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define UNASKED_S 3600u /* so long a question is not repeated that was not allowed */

struct found {
	const struct snaps *s;
	char why[200]; /* "": nothing */
};

static bool is_one(const struct found *f, const char *snapshot)
{
	for (unsigned i = 0; i < f->s->n; i++)
		if (strcmp(f->s->v[i].id, snapshot) == 0)
			return true;
	return false;
}

static int read_locks(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	char id[32], state[32], until[40];
	struct found *f = arg;

	for (; i && !f->why[0]; i = xml_next(i)) {
		(void)xml_text(i, "snapshotId", id, sizeof(id));
		(void)xml_text(i, "lockState", state, sizeof(state));
		(void)xml_text(i, "lockExpiresOn", until, sizeof(until));
		if (is_one(f, id) && state[0] && strcmp(state, "expired") != 0)
			(void)snprintf(f->why, sizeof(f->why), "snapshot %s is locked (%s%s%s)", id, state, until[0] ? ", until " : "", until);
	}
	return 0;
}

static int read_images(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "imagesSet/item"), *b;
	struct found *f = arg;
	char image[32], id[32];

	for (; i && !f->why[0]; i = xml_next(i)) {
		(void)xml_text(i, "imageId", image, sizeof(image));
		for (b = xml_find(i, "blockDeviceMapping/item"); b && !f->why[0]; b = xml_next(b)) {
			(void)xml_text(b, "ebs/snapshotId", id, sizeof(id));
			if (is_one(f, id))
				(void)snprintf(f->why, sizeof(f->why), "snapshot %s is in use by the image %s; deregister that first", id, image);
		}
	}
	return 0;
}

static int read_volumes(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "volumeSet/item");
	char volume[32], id[32], status[16];
	struct found *f = arg;

	for (; i && !f->why[0]; i = xml_next(i)) {
		(void)xml_text(i, "volumeId", volume, sizeof(volume));
		(void)xml_text(i, "snapshotId", id, sizeof(id));
		(void)xml_text(i, "status", status, sizeof(status));
		if (is_one(f, id) && strcmp(status, "creating") == 0)
			(void)snprintf(f->why, sizeof(f->why), "snapshot %s is being restored: volume %s is being made of it", id, volume);
	}
	return 0;
}

static const struct use {
	const char *action, *what;
	const char *arg; /* of the snapshots' ids, without the number */
	const char *more[2][2]; /* name and value */
	int (*read)(void *arg, const struct xml_elem *root, struct snap_error *err);
} uses[USES] = {
	{ "DescribeLockedSnapshots", "locked", "SnapshotId.", { { NULL } }, read_locks },
	{ "DescribeImages", "in use by an image", "Filter.1.Value.",
	  { { "Filter.1.Name", "block-device-mapping.snapshot-id" }, { "Owner.1", "self" } }, read_images },
	{ "DescribeVolumes", "being restored", "Filter.1.Value.",
	  { { "Filter.1.Name", "snapshot-id" }, { NULL } }, read_volumes },
};

/* Not allowed, or the service does not know the question. */
static bool cannot_ask(const struct api *a)
{
	return strcmp(a->code, "UnauthorizedOperation") == 0 || strncmp(a->code, "AccessDenied", 12) == 0 ||
	       strcmp(a->code, "InvalidAction") == 0 || strcmp(a->code, "UnsupportedOperation") == 0;
}

static int ask(struct api *a, unsigned n, struct found *f, struct snap_error *err)
{
	const struct use *u = &uses[n];
	struct vbuf form = VBUF_INIT;
	struct snap_error why = { 0 };
	int r;

	for (unsigned i = 0; i < 2 && u->more[i][0]; i++)
		ec2_arg(&form, u->more[i][1], "%s", u->more[i][0]);
	for (unsigned i = 0; i < f->s->n; i++)
		ec2_arg(&form, f->s->v[i].id, "%s%u", u->arg, i + 1);
	r = api_pages(a, u->action, &form, u->read, f, &why);
	vbuf_free(&form);
	if (r == 0 || strcmp(a->code, "InvalidSnapshot.NotFound") == 0) /* one has gone meanwhile; its deletion will say so */
		return 0;
	if (!cannot_ask(a))
		return snap_error_set(err, r, "%s", why.msg);
	a->e->unasked_ns[n] = clock_boot_ns() + UNASKED_S * NS_PER_S;
	if (!(a->e->said >> n & 1))
		log_warn("provider ebs: this host may not ask whether a snapshot is %s (%s, policy prune of docs/aws.md); the answer to its "
			 "deletion tells: %.200s", u->what, u->action, why.msg);
	a->e->said |= 1u << n;
	return 0;
}

int use_check(struct api *a, const struct snaps *s, struct snap_error *err)
{
	struct found f = { .s = s };
	int r;

	for (unsigned n = 0; n < USES; n++) {
		if (clock_boot_ns() < a->e->unasked_ns[n])
			continue;
		r = ask(a, n, &f, err);
		if (r < 0)
			return r;
		if (f.why[0])
			return snap_error_set(err, -EBUSY, "%s", f.why);
	}
	return 0;
}
