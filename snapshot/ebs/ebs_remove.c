/* snapshot/ebs/ebs_remove.c - what goes: snapshots of a failed run (discard), and of a set (remove). See provider.h.
 * Called by: the engine, through prov_ebs, on its provider thread. Blocks: up to the call's deadline.
 * Errors:    -errno with the sentence. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 8000u /* how long discard looks for what EC2 does not show yet */
#define CALLS_MS 42000u /* and the last calls after it */

/* ---- of a failed run ---- */

static bool among(const struct snaps *s, const char *id)
{
	unsigned i = 0;

	while (i < s->n && strcmp(s->v[i].id, id) != 0)
		i++;
	return i < s->n;
}

/* All that have not gone yet, also when one cannot be deleted. young: a part of EC2 may not know yet what another part has
 * made, and one that is not found is none that has gone. 0; -EAGAIN some are not known yet. */
static int delete_all(struct api *a, const struct snaps *s, bool young, struct snaps *gone, struct snap_error *err)
{
	const char *unknown = NULL;
	int r = 0, one;

	for (unsigned i = 0; i < s->n; i++) {
		if (among(gone, s->v[i].id))
			continue;
		one = api_delete(a, s->v[i].id, err);
		if (one == 0 && a->not_found && young)
			unknown = s->v[i].id;
		else if (one == 0 && gone->n < SNAPS_MAX)
			gone->v[gone->n++] = s->v[i];
		r = r ? r : one;
	}
	return r < 0 || !unknown ? r : -EAGAIN;
}

/* Delete those whose ids are known. */
static int delete_known(struct api *a, struct erun *er, uint64_t until_ns, struct snaps *gone, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 500000000 };
	int r;

	for (;;) {
		r = delete_all(a, &er->snaps, clock_boot_ns() - er->fixed_ns < NEW_S * NS_PER_S, gone, err);
		if (r != -EAGAIN || err->code || clock_boot_ns() >= until_ns)
			break;
		(void)nanosleep(&pause, NULL);
	}
	return r < 0 ? snap_error_set(err, r, "%u of its %u snapshots are not known to EC2 yet, and may still show up", er->snaps.n - gone->n,
				      er->snaps.n) : 0;
}

/* After a lost answer: delete what carries the attempt's mark, until all that there can be has gone. */
static int delete_late(struct api *a, struct erun *er, uint64_t until_ns, struct snaps *gone, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 500000000 };
	struct snaps *found = calloc(1, sizeof(*found));
	int r = found ? 0 : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	while (!err->code && gone->n < er->vols.n && clock_boot_ns() < until_ns) {
		r = api_find(a, "stillfs:attempt", er->attempt, found, err);
		if (r == 0)
			r = delete_all(a, found, true, gone, err);
		if (gone->n < er->vols.n)
			(void)nanosleep(&pause, NULL);
	}
	free(found);
	if (err->code)
		return snap_error_set(err, r, "delete what the lost request made: %s", strerror(-r));
	return gone->n >= er->vols.n ? 0 : snap_error_set(err, -EAGAIN, "what the lost request made may still show up");
}

/* They cannot be deleted now, or here: let nobody take them for good. Where that is not allowed either, the catalog alone knows. */
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

int ebs_discard_within(void *self, struct prov_run *r, uint32_t look_ms, struct snap_error *err)
{
	uint64_t until = clock_boot_ns() + look_ms * NS_PER_MS;
	struct api a = { .e = self, .deadline_ns = until + CALLS_MS * NS_PER_MS };
	struct snaps *gone = calloc(1, sizeof(*gone));
	struct erun *er = r->ref;
	int ret = gone ? 0 : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	if (ret == 0 && er && er->sent)
		ret = er->sure ? delete_known(&a, er, until, gone, err) : delete_late(&a, er, until, gone, err);
	if (ret < 0 && er && er->sent)
		mark_failed(&a, er);
	free(gone);
	ebs_finish(self, r);
	return ret;
}

int ebs_discard(void *self, struct prov_run *r, struct snap_error *err)
{
	return ebs_discard_within(self, r, LOOK_MS, err);
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
