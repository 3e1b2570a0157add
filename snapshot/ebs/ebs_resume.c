/* snapshot/ebs/ebs_resume.c - a set whose process has gone: its snapshots are found by the set's id in their tags. EC2 has
 * gone on with them meanwhile, so all there is to do is to know them again.
 * Called by: the engine on the provider's thread. Blocks up to max_ms. Errors: -EAGAIN while EC2 does not answer or does
 * not show all of them; else it is certain that the set is not what its record says. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct again {
	const struct prov_run *r;
	struct erun *er;
	unsigned members; /* as the tags say; 0: none was seen */
	struct snap_error bad; /* what EC2 described is not the set */
};

static int check_tags(struct again *g, const struct xml_elem *i, struct snap_error *err)
{
	struct erun *er = g->er;
	char text[300];

	api_tag(i, "stillfs:set", text, sizeof(text));
	if (strcmp(text, g->r->name) != 0)
		return snap_error_set(err, -ESTALE, "its snapshots are marked as set %.60s", text);
	api_tag(i, "stillfs:attempt", text, sizeof(text));
	if (strlen(text) != 32 || (er->snaps.n && strcmp(er->attempt, text) != 0))
		return snap_error_set(err, -EIO, "its snapshots are of more than one request");
	memcpy(er->attempt, text, sizeof(er->attempt));
	api_tag(i, "stillfs:members", text, sizeof(text));
	if (er->snaps.n && g->members != strtoul(text, NULL, 10))
		return snap_error_set(err, -EIO, "its snapshots disagree about their number");
	g->members = (unsigned)strtoul(text, NULL, 10);
	return 0;
}

static int add_again(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct again *g = arg;
	struct snaps *s = &g->er->snaps;
	int r;

	for (; i; i = xml_next(i)) {
		r = check_tags(g, i, &g->bad);
		if (r < 0)
			return r;
		if (s->n == SNAPS_MAX)
			return snap_error_set(&g->bad, -E2BIG, "more than %d snapshots carry its id", SNAPS_MAX);
		api_read_snap(i, &s->v[s->n]);
		for (unsigned k = 0; k < s->n; k++)
			if (strcmp(s->v[k].volume, s->v[s->n].volume) == 0)
				return snap_error_set(&g->bad, -EIO, "it has two snapshots of volume %s", s->v[k].volume);
		s->n++;
	}
	return 0;
}

/* Are these all? -EAGAIN while more may show up. */
static int count(struct again *g, struct snap_error *err)
{
	struct erun *er = g->er;
	uint64_t now = clock_boot_ns();

	if (er->snaps.n && er->snaps.n == g->members)
		return 0;
	if (er->snaps.n && er->snaps.n > g->members)
		return snap_error_set(err, -EIO, "it has %u snapshots, and their tags say %u", er->snaps.n, g->members);
	if (!er->asked_ns)
		er->asked_ns = now;
	if (now - er->asked_ns < NEW_S * NS_PER_S)
		return snap_error_set(err, -EAGAIN, "EC2 describes %u snapshots of it, of %s; more may show up", er->snaps.n,
				      er->snaps.n ? "several" : "one at least");
	return snap_error_set(err, -ENOENT, er->snaps.n ? "some of its snapshots have gone" : "its snapshots have gone");
}

int ebs_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .stop = r, .deadline_ns = clock_boot_ns() + max_ms * NS_PER_MS };
	struct snap_error why = { 0 };
	struct again g = { .r = r };
	struct vbuf form = VBUF_INIT;
	int ret;

	if (!r->ref)
		r->ref = calloc(1, sizeof(*g.er));
	if (!r->ref)
		return snap_error_set(err, -EAGAIN, "provider ebs: out of memory");
	g.er = r->ref;
	g.er->snaps.n = 0;
	ret = api_connect(&a, false, &why);
	if (ret == 0) {
		ec2_arg(&form, "self", "Owner.1");
		ec2_arg(&form, "tag:stillfs:id", "Filter.1.Name");
		ec2_arg(&form, r->set_id, "Filter.1.Value.1");
		ret = api_pages(&a, "DescribeSnapshots", &form, add_again, &g, &why);
		vbuf_free(&form);
	}
	if (g.bad.code)
		return snap_error_set(err, g.bad.code, "%s", g.bad.msg);
	if (ret < 0)
		return snap_error_set(err, -EAGAIN, "%s", why.msg);
	ret = count(&g, err);
	if (ret < 0)
		return ret;
	g.er->sent = g.er->sure = true;
	g.er->fixed_ns = clock_boot_ns();
	g.er->pause_ms = 1000;
	g.er->next_poll_ns = 0;
	g.er->progress.volumes = g.er->snaps.n;
	return 0;
}
