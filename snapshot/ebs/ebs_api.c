/* snapshot/ebs/ebs_api.c - the calls of EC2's API that the provider makes, with keys and endpoint.
 * Called by: ebs.c, ebs_check.c. Blocks up to api.deadline_ns. Errors: -errno with the sentence. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY_LIFE_S 300u /* of keys, at the start: longer than any hold and what leads to it */

static bool stopped(void *arg)
{
	const struct prov_run *r = arg;

	return r->cancelled(r);
}

static void *stop_arg(const struct api *a)
{
	return (void *)(uintptr_t)a->stop;
}

int api_connect(struct api *a, bool instance, struct snap_error *err)
{
	struct ebs *e = a->e;
	const char *given = conf_str(e->door->conf, "ebs.instance");
	int r;

	r = creds_region(e->creds, a->deadline_ns, &e->region, err);
	if (r == 0 && !e->url[0])
		r = creds_endpoint(e->creds, "ec2", a->deadline_ns, e->url, sizeof(e->url), err);
	if (r == 0 && instance && !e->instance[0]) {
		if (*given)
			(void)snprintf(e->instance, sizeof(e->instance), "%s", given);
		else
			r = creds_metadata(e->creds, "meta-data/instance-id", a->deadline_ns, e->instance, sizeof(e->instance), err);
	}
	if (r < 0) {
		e->instance[0] = '\0';
		return snap_error_set(err, r, "no id of this instance from the metadata service: set ebs.instance");
	}
	return creds_get(e->creds, KEY_LIFE_S, a->deadline_ns, a->stop ? stopped : NULL, stop_arg(a), err) ? 0 : err->code;
}

static int prepare(struct api *a, struct ec2_peer *p, struct ec2_call *call, struct snap_error *err)
{
	struct ebs *e = a->e;

	*p = (struct ec2_peer){ .url = e->url, .region = e->region, .service = "ec2", .version = "2016-11-15",
				.ca_file = creds_ca_file(e->creds) };
	p->key = a->held ? creds_held(e->creds) :
			   creds_get(e->creds, KEY_LIFE_S, a->deadline_ns, a->stop ? stopped : NULL, stop_arg(a), err);
	if (!p->key)
		return snap_error_set(err, -EACCES, "%s: no keys", call->action);
	call->deadline_ns = a->deadline_ns;
	call->stop = a->stop ? stopped : NULL;
	call->stop_arg = stop_arg(a);
	return 0;
}

/* Keys that were taken back before their time: once more with new ones. */
static bool renewed(struct api *a, const struct ec2_call *call)
{
	if (a->held || strncmp(call->code, "ExpiredToken", 12) != 0)
		return false;
	creds_forget(a->e->creds);
	return true;
}

/* What was asked, before what came of it. */
static int failed(const char *action, int r, const struct snap_error *why, struct snap_error *err)
{
	if (strncmp(why->msg, action, strlen(action)) == 0)
		return snap_error_set(err, r, "%s", why->msg);
	return snap_error_set(err, r, "%s: %s", action, why->msg);
}

int api_call(struct api *a, const char *action, const struct vbuf *form, bool once, struct xml **out,
	     struct snap_error *err)
{
	int r = 0;

	for (int i = 0; i < 2; i++) {
		struct ec2_call call = { .action = action, .form = form, .once = once };
		struct snap_error why = { 0 };
		struct ec2_peer p;

		*out = NULL;
		a->fate = EC2_REFUSED;
		r = prepare(a, &p, &call, err);
		if (r < 0)
			return r;
		r = ec2_send(a->e->ec2, &p, &call, out, &why);
		a->fate = call.fate;
		memcpy(a->code, call.code, sizeof(a->code));
		if (r == 0)
			return 0;
		if (i || once || !renewed(a, &call))
			return failed(action, r, &why, err);
	}
	return r;
}

int api_pages(struct api *a, const char *action, const struct vbuf *form,
	      int (*fn)(void *arg, const struct xml_elem *root, struct snap_error *err), void *arg, struct snap_error *err)
{
	struct ec2_call call = { .action = action, .form = form };
	struct snap_error why = { 0 };
	struct ec2_peer p;
	int r = prepare(a, &p, &call, err);

	if (r < 0)
		return r;
	r = ec2_pages(a->e->ec2, &p, &call, fn, arg, &why);
	memcpy(a->code, call.code, sizeof(a->code));
	(void)renewed(a, &call); /* this one has failed; the next finds new keys */
	if (r == 0)
		return 0;
	/* else fn's own sentence */
	return call.fate != EC2_DONE ? failed(action, r, &why, err) : snap_error_set(err, r, "%s", why.msg);
}

/* ---- snapshots ---- */

void api_read_snap(const struct xml_elem *e, struct snap *out)
{
	char num[16];

	*out = (struct snap){ 0 };
	(void)xml_text(e, "snapshotId", out->id, sizeof(out->id));
	(void)xml_text(e, "volumeId", out->volume, sizeof(out->volume));
	/* one volume and descriptions say status, several volumes say state */
	if (xml_text(e, "status", out->state, sizeof(out->state)) < 0)
		(void)xml_text(e, "state", out->state, sizeof(out->state));
	if (xml_text(e, "statusMessage", out->message, sizeof(out->message)) < 0)
		out->message[0] = '\0';
	(void)xml_text(e, "progress", num, sizeof(num));
	out->percent = (unsigned)strtoul(num, NULL, 10);
	if (out->percent > 100)
		out->percent = 100;
	(void)xml_text(e, "volumeSize", num, sizeof(num));
	out->size_gib = (unsigned)strtoul(num, NULL, 10);
}

static int add_snaps(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct snaps *out = arg;

	for (; i; i = xml_next(i)) {
		if (out->n == SNAPS_MAX)
			return snap_error_set(err, -E2BIG, "more than %d snapshots carry one mark", SNAPS_MAX);
		api_read_snap(i, &out->v[out->n++]);
	}
	return 0;
}

int api_find(struct api *a, const char *key, const char *value, struct snaps *out, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	char name[64];
	int r;

	out->n = 0;
	(void)snprintf(name, sizeof(name), "tag:%s", key);
	ec2_arg(&form, "self", "Owner.1");
	ec2_arg(&form, name, "Filter.1.Name");
	ec2_arg(&form, value, "Filter.1.Value.1");
	r = api_pages(a, "DescribeSnapshots", &form, add_snaps, out, err);
	vbuf_free(&form);
	return r;
}

int api_delete(struct api *a, const char *snapshot, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	struct snap_error why = { 0 };
	struct xml *x;
	int r;

	ec2_arg(&form, snapshot, "SnapshotId");
	r = api_call(a, "DeleteSnapshot", &form, false, &x, &why);
	xml_free(x);
	vbuf_free(&form);
	a->not_found = r == -ENOENT && strcmp(a->code, "InvalidSnapshot.NotFound") == 0;
	if (a->not_found)
		return 0;
	if (r == -EACCES && strcmp(a->code, "UnauthorizedOperation") == 0)
		return snap_error_set(err, r, "%s: this host may take snapshots and not delete them; whoever has the policy prune of "
					      "docs/aws.md may: stillctl prune apply --provider ebs --region %.30s --lineage ID", snapshot,
				      a->e->region);
	return r < 0 ? snap_error_set(err, r, "%s: %.400s", snapshot, why.msg) : 0;
}

int api_tag_all(struct api *a, const struct snaps *s, unsigned from, unsigned to, const char *key, const char *value,
		struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	struct xml *x;
	int r;

	for (unsigned i = from; i < to; i++)
		ec2_arg(&form, s->v[i].id, "ResourceId.%u", i - from + 1);
	ec2_arg(&form, key, "Tag.1.Key");
	ec2_arg(&form, value, "Tag.1.Value");
	r = api_call(a, "CreateTags", &form, false, &x, err); /* repeating it changes nothing */
	xml_free(x);
	vbuf_free(&form);
	return r;
}

void api_tag(const struct xml_elem *e, const char *key, char *buf, size_t cap)
{
	const struct xml_elem *i = xml_find(e, "tagSet/item");
	char name[130];

	for (; i; i = xml_next(i))
		if (xml_text(i, "key", name, sizeof(name)) == 0 && strcmp(name, key) == 0) {
			(void)xml_text(i, "value", buf, cap);
			return;
		}
	buf[0] = '\0';
}
