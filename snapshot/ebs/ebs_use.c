/* snapshot/ebs/ebs_use.c - what keeps a snapshot from being deleted: a lock, an image (AMI), a volume that is being made
 * of it. AWS refuses the first two; of the third its documents say nothing, so it is not tried.
 * Asked before a set goes (use_check), and of many sets at once when somebody reads a plan (ebs_holds).
 * Called by: ebs_remove.c and the engine, on the provider's thread. Blocks: for describing calls, up to the deadline.
 * Errors:    -EBUSY with what it is; else it cannot be known now. A question that this host may not ask is passed over
 *            and said once; the answer to DeleteSnapshot tells then. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNASKED_S 3600u /* so long a question is not repeated that was not allowed */

#define WHY 200u
#define ASK_IDS 200u /* values that a filter takes */
#define ASK_SETS 50u /* in one question for their snapshots */
#define MEMBERS_MAX 8192u /* snapshots of one ebs_holds */

/* A snapshot and, where many sets are asked about, whose it is. */
struct member {
	char id[32];
	unsigned set;
};

struct found {
	const struct member *m;
	unsigned n;
	char (*why)[WHY]; /* of each set; "": nothing */
	bool one; /* set: what is found first is enough */
};

/* What holds this snapshot, unless something else holds its set: the reason's place, or NULL. */
static char *place(const struct found *f, const char *snapshot)
{
	for (unsigned i = 0; i < f->n; i++)
		if (strcmp(f->m[i].id, snapshot) == 0)
			return f->why[f->m[i].set][0] ? NULL : f->why[f->m[i].set];
	return NULL;
}

static int read_locks(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	char id[32], state[32], until[40], *why;

	for (; i; i = xml_next(i)) {
		(void)xml_text(i, "snapshotId", id, sizeof(id));
		(void)xml_text(i, "lockState", state, sizeof(state));
		(void)xml_text(i, "lockExpiresOn", until, sizeof(until));
		why = place(arg, id);
		if (why && state[0] && strcmp(state, "expired") != 0)
			(void)snprintf(why, WHY, "snapshot %s is locked (%s%s%s)", id, state, until[0] ? ", until " : "", until);
	}
	return 0;
}

static int read_images(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "imagesSet/item"), *b;
	char image[32], id[32], *why;

	for (; i; i = xml_next(i)) {
		(void)xml_text(i, "imageId", image, sizeof(image));
		for (b = xml_find(i, "blockDeviceMapping/item"); b; b = xml_next(b)) {
			(void)xml_text(b, "ebs/snapshotId", id, sizeof(id));
			why = place(arg, id);
			if (why)
				(void)snprintf(why, WHY, "snapshot %s is in use by the image %s; deregister that first", id, image);
		}
	}
	return 0;
}

static int read_volumes(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "volumeSet/item");
	char volume[32], id[32], status[16], *why;

	for (; i; i = xml_next(i)) {
		(void)xml_text(i, "volumeId", volume, sizeof(volume));
		(void)xml_text(i, "snapshotId", id, sizeof(id));
		(void)xml_text(i, "status", status, sizeof(status));
		why = place(arg, id);
		if (why && strcmp(status, "creating") == 0)
			(void)snprintf(why, WHY, "snapshot %s is being restored: volume %s is being made of it", id, volume);
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
	for (unsigned i = 0; i < f->n; i++)
		ec2_arg(&form, f->m[i].id, "%s%u", u->arg, i + 1);
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

/* All that may be asked, of up to ASK_IDS snapshots. *all: every question was answered. */
static int ask_all(struct api *a, struct found *f, bool *all, struct snap_error *err)
{
	int r = 0;

	for (unsigned n = 0; r == 0 && n < USES && !(f->one && f->why[0][0]); n++) {
		if (clock_boot_ns() >= a->e->unasked_ns[n])
			r = ask(a, n, f, err);
		*all = *all && clock_boot_ns() >= a->e->unasked_ns[n];
	}
	return r;
}

int use_check(struct api *a, const struct snaps *s, struct snap_error *err)
{
	struct member *m = calloc(s->n ? s->n : 1, sizeof(*m));
	char why[1][WHY] = { "" };
	bool all = true;
	int r = m ? 0 : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	for (unsigned i = 0; r == 0 && i < s->n; i++)
		memcpy(m[i].id, s->v[i].id, sizeof(m[i].id));
	for (unsigned i = 0; r == 0 && !why[0][0] && i < s->n; i += ASK_IDS) {
		struct found f = { .m = m + i, .n = s->n - i < ASK_IDS ? s->n - i : ASK_IDS, .why = why, .one = true };

		r = ask_all(a, &f, &all, err);
	}
	free(m);
	return r < 0 || !why[0][0] ? r : snap_error_set(err, -EBUSY, "%s", why[0]);
}

/* ---- of many sets ---- */

struct collect {
	const char (*ids)[33]; /* of the sets */
	size_t n;
	struct member *m;
	unsigned n_m;
};

static int read_members(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct collect *c = arg;
	char id[40];

	for (; i; i = xml_next(i)) {
		unsigned k = 0;

		api_tag(i, "stillfs:id", id, sizeof(id));
		while (k < c->n && strcmp(c->ids[k], id) != 0)
			k++;
		if (k == c->n)
			continue;
		if (c->n_m == MEMBERS_MAX)
			return snap_error_set(err, -E2BIG, "more than %u snapshots", MEMBERS_MAX);
		c->m[c->n_m].set = k;
		(void)xml_text(i, "snapshotId", c->m[c->n_m++].id, sizeof(c->m->id));
	}
	return 0;
}

static int collect(struct api *a, struct collect *c, struct snap_error *err)
{
	int r = 0;

	for (size_t from = 0; r == 0 && from < c->n; from += ASK_SETS) {
		struct vbuf form = VBUF_INIT;

		ec2_arg(&form, "self", "Owner.1");
		ec2_arg(&form, "tag:stillfs:id", "Filter.1.Name");
		for (size_t i = from; i < c->n && i < from + ASK_SETS; i++)
			ec2_arg(&form, c->ids[i], "Filter.1.Value.%zu", i - from + 1);
		r = api_pages(a, "DescribeSnapshots", &form, read_members, c, err);
		vbuf_free(&form);
	}
	return r;
}

int ebs_holds(void *self, const struct prov_run *r, const char (*ids)[33], size_t n,
	      void (*fn)(void *arg, size_t i, const char *why), void *arg, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .stop = r, .deadline_ns = clock_boot_ns() + (uint64_t)max_ms * NS_PER_MS };
	struct collect c = { .ids = ids, .n = n, .m = calloc(MEMBERS_MAX, sizeof(*c.m)) };
	char(*why)[WHY] = calloc(n + 1, sizeof(*why));
	bool all = true;
	int ret = c.m && why ? api_connect(&a, false, err) : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	if (ret == 0)
		ret = collect(&a, &c, err);
	for (unsigned i = 0; ret == 0 && i < c.n_m; i += ASK_IDS) {
		struct found f = { .m = c.m + i, .n = c.n_m - i < ASK_IDS ? c.n_m - i : ASK_IDS, .why = why };

		ret = ask_all(&a, &f, &all, err);
	}
	for (size_t i = 0; ret == 0 && i < n; i++)
		if (why[i][0] || all)
			fn(arg, i, why[i]);
	free(c.m);
	free(why);
	return ret;
}
