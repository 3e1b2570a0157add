/* snapshot/ebs/ebs_remove.c - what goes: snapshots of a failed run (discard), and of a set (remove). See provider.h.
 * Called by: the engine, through prov_ebs, on its provider thread. Blocks: up to the call's deadline.
 * Errors:    -errno with the sentence. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DISCARD_MS 50000u
#define QUIET_MS 8000u /* after a lost answer: nothing more has shown up for so long */

/* ---- of a failed run ---- */

static int delete_all(struct api *a, const struct snaps *s, struct snap_error *err)
{
	int r = 0, one;

	for (unsigned i = 0; i < s->n; i++) { /* all, also when one cannot be deleted */
		one = api_delete(a, s->v[i].id, err);
		r = r ? r : one;
	}
	return r;
}

/* After a lost answer: delete what carries the attempt's mark, until nothing more shows up. */
static int delete_late(struct api *a, struct erun *er, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 500000000 };
	struct snaps *found = calloc(1, sizeof(*found));
	uint64_t quiet = clock_boot_ns() + QUIET_MS * NS_PER_MS;
	int r = found ? 0 : -ENOMEM;
	bool all = false;

	while (r == 0 && !all && clock_boot_ns() < quiet) {
		r = api_find(a, "stillfs:attempt", er->attempt, found, err);
		if (r == 0 && found->n) {
			r = delete_all(a, found, err);
			/* deleted ones may be described for a moment: all there can be is gone */
			all = r == 0 && found->n >= er->vols.n;
		}
		if (!all)
			(void)nanosleep(&pause, NULL);
	}
	free(found);
	if (r < 0)
		return snap_error_set(err, r, "delete what the lost request made: %s", strerror(-r));
	return all ? 0 : snap_error_set(err, -EAGAIN, "what the lost request made may still show up; it is looked for again");
}

/* They cannot be deleted here: let nobody take them for good. Where that is not allowed either, the catalog alone knows. */
static void mark_failed(struct api *a, struct erun *er)
{
	struct snaps *s = calloc(1, sizeof(*s));
	struct snap_error why = { 0 };

	if (s && api_find(a, "stillfs:attempt", er->attempt, s, &why) == 0 && s->n)
		(void)api_tag_all(a, s, 0, s->n, "stillfs:failed", "the set failed; its point is not certain", &why);
	if (why.code < 0)
		log_warn("snapshots of the failed attempt %s are not marked as such: %s", er->attempt, why.msg);
	free(s);
}

int ebs_discard(void *self, struct prov_run *r, struct snap_error *err)
{
	struct api a = { .e = self, .deadline_ns = clock_boot_ns() + DISCARD_MS * NS_PER_MS };
	struct erun *er = r->ref;
	int ret = 0;

	if (er && er->sent)
		ret = er->sure ? delete_all(&a, &er->snaps, err) : delete_late(&a, er, err);
	if (ret == -EACCES)
		mark_failed(&a, er);
	ebs_finish(self, r);
	return ret;
}

/* ---- of a set ---- */

struct named {
	const char *name;
	unsigned members; /* as the tags say */
	struct snaps found;
};

static int check_names(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct named *n = arg;
	char text[300];

	for (; i; i = xml_next(i)) {
		api_tag(i, "stillfs:set", text, sizeof(text));
		if (strcmp(text, n->name) != 0)
			return snap_error_set(err, -ESTALE, "remove %s: its snapshots are marked as set %.60s; nothing was removed",
					      n->name, text);
		if (n->found.n == SNAPS_MAX)
			return snap_error_set(err, -E2BIG, "remove %s: too many snapshots", n->name);
		api_tag(i, "stillfs:members", text, sizeof(text));
		n->members = (unsigned)strtoul(text, NULL, 10);
		api_read_snap(i, &n->found.v[n->found.n++]);
	}
	return 0;
}

/* It cannot go now. A set again, when all of it is there; else what is left of it is tried again. */
static int held(const struct named *n, bool whole, const struct snap_error *why, struct snap_error *err)
{
	if (whole)
		return snap_error_set(err, -EBUSY, "%s; nothing of the set was deleted", why->msg);
	return snap_error_set(err, -EAGAIN, "%s; other snapshots of the set %s have gone", why->msg, n->name);
}

static int delete_set(struct api *a, const struct named *n, struct snap_error *err)
{
	bool whole = n->found.n >= n->members;
	struct snap_error why = { 0 };
	int r = use_check(a, &n->found, &why), one;

	if (r == -EBUSY)
		return held(n, whole, &why, err);
	if (r < 0)
		return snap_error_set(err, r, "%s", why.msg);
	for (unsigned i = 0; i < n->found.n; i++) {
		snap_error_clear(&why);
		one = api_delete(a, n->found.v[i].id, &why);
		if (i == 0 && (one == -EBUSY || one == -EPERM))
			return held(n, whole, &why, err);
		if (one == -EBUSY || one == -EPERM)
			one = held(n, false, &why, err);
		else if (one < 0)
			(void)snap_error_set(err, one, "%s", why.msg);
		r = r ? r : one; /* the others all the same */
	}
	return r;
}

int ebs_remove(void *self, const char *name, const char *set_id, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .deadline_ns = clock_boot_ns() + (uint64_t)max_ms * NS_PER_MS };
	struct named *n = calloc(1, sizeof(*n));
	struct vbuf form = VBUF_INIT;
	int r = n ? api_connect(&a, false, err) : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	if (r == 0) {
		n->name = name;
		ec2_arg(&form, "self", "Owner.1");
		ec2_arg(&form, "tag:stillfs:id", "Filter.1.Name");
		ec2_arg(&form, set_id, "Filter.1.Value.1");
		r = api_pages(&a, "DescribeSnapshots", &form, check_names, n, err);
		if (r == 0 && n->found.n)
			r = delete_set(&a, n, err);
	}
	vbuf_free(&form);
	free(n);
	return r;
}
