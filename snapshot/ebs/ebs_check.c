/* snapshot/ebs/ebs_check.c - the provider's preflight: which volumes, are they this instance's, may they be snapshotted now,
 * and is the request allowed. Called by ebs.c with nothing held; a handful of API calls. Errors: -errno, the sentence. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BETWEEN_S 15 /* AWS: one snapshot of a volume in that time */
#define PENDING_MAX 5u /* of a volume; 1 of st1 and sc1 */

static int find_volumes(struct ebs *e, struct vols *out, struct snap_error *err)
{
	const struct door *d = e->door;
	int r = discover_named(conf_str(d->conf, "ebs.volumes"), d->n_pairs, out, err);

	for (unsigned i = 0; r == 0 && !*conf_str(d->conf, "ebs.volumes") && i < d->n_pairs; i++)
		r = discover_dev(ebs_sysfs, d->pairs[i].backing_dev, d->pairs[i].backing, i, out, err);
	return r;
}

/* ---- the instance and what is attached to it ---- */

struct attached {
	struct erun *er;
	bool seen; /* the instance */
	bool ours[VOLS_MAX];
};

static int one_mapping(struct attached *t, const struct xml_elem *m, const char *root, struct snap_error *err)
{
	char dev[64], id[24], status[16];
	struct vols *v = &t->er->vols;
	bool is_root;
	unsigned i = 0;

	if (xml_text(m, "ebs/volumeId", id, sizeof(id)) < 0)
		return 0; /* not EBS */
	(void)xml_text(m, "deviceName", dev, sizeof(dev));
	(void)xml_text(m, "ebs/status", status, sizeof(status));
	is_root = strcmp(dev, root) == 0;
	while (i < v->n && !(v->v[i].id[0] ? strcmp(v->v[i].id, id) == 0 : discover_same_xen(dev, v->v[i].dev)))
		i++;
	if (i < v->n) {
		(void)snprintf(v->v[i].id, sizeof(v->v[i].id), "%s", id);
		t->ours[i] = true;
		if (is_root)
			return snap_error_set(err, -EINVAL, "%s is the instance's root volume: put the database's directory on a volume "
							    "of its own", id);
		if (strcmp(status, "attaching") == 0 || strcmp(status, "detaching") == 0 || strcmp(status, "detached") == 0)
			return snap_error_set(err, -EBUSY, "volume %s is %s, not attached; wait for it", id, status);
		return 0;
	}
	if (is_root)
		return 0; /* excluded by ExcludeBootVolume, and may not be named */
	if (t->er->n_exclude == VOLS_MAX)
		return snap_error_set(err, -E2BIG, "more than %d other volumes are attached: EC2 cannot exclude so many", VOLS_MAX);
	(void)snprintf(t->er->exclude[t->er->n_exclude++], 24, "%s", id);
	return 0;
}

static int read_instance(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "reservationSet/item/instancesSet/item"), *m;
	struct attached *t = arg;
	char name[64];
	int r = 0;

	if (!i)
		return 0;
	t->seen = true;
	(void)xml_text(i, "rootDeviceName", name, sizeof(name));
	for (m = xml_find(i, "blockDeviceMapping/item"); r == 0 && m; m = xml_next(m))
		r = one_mapping(t, m, name, err);
	return r;
}

static int check_instance(struct api *a, struct erun *er, struct snap_error *err)
{
	struct attached t = { .er = er };
	struct vbuf form = VBUF_INIT;
	int r;

	er->n_exclude = 0;
	ec2_arg(&form, a->e->instance, "InstanceId.1");
	r = api_pages(a, "DescribeInstances", &form, read_instance, &t, err);
	vbuf_free(&form);
	if (r == 0 && !t.seen)
		r = snap_error_set(err, -ENOENT, "instance %s is not known in %s; check ebs.instance and ebs.region", a->e->instance,
				   a->e->region);
	for (unsigned i = 0; r == 0 && i < er->vols.n; i++)
		if (!t.ours[i])
			r = snap_error_set(err, -ENODEV, "volume %s is not attached to this instance, %s",
					   er->vols.v[i].id[0] ? er->vols.v[i].id : er->vols.v[i].dev, a->e->instance);
	return r;
}

/* ---- the volumes ---- */

struct kinds {
	struct erun *er;
	bool slow[VOLS_MAX]; /* st1, sc1 */
	bool seen[VOLS_MAX];
};

static unsigned which(const struct vols *v, const char *id)
{
	unsigned i = 0;

	while (i < v->n && strcmp(v->v[i].id, id) != 0)
		i++;
	return i;
}

static int read_volumes(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *v = xml_find(root, "volumeSet/item");
	struct kinds *k = arg;
	char id[24], text[32];

	for (; v; v = xml_next(v)) {
		unsigned i;

		(void)xml_text(v, "volumeId", id, sizeof(id));
		i = which(&k->er->vols, id);
		if (i == k->er->vols.n)
			continue;
		k->seen[i] = true;
		if (xml_text(v, "volumeType", text, sizeof(text)) == 0)
			k->slow[i] = strcmp(text, "st1") == 0 || strcmp(text, "sc1") == 0;
		if (xml_text(v, "multiAttachEnabled", text, sizeof(text)) == 0 && strcmp(text, "true") == 0)
			return snap_error_set(err, -EOPNOTSUPP, "volume %s can be attached to several instances (multi-attach): others "
								"may write to it past this gate", id);
	}
	return 0;
}

static void volume_ids(const struct vols *v, const char *name, struct vbuf *form)
{
	for (unsigned i = 0; i < v->n; i++)
		ec2_arg(form, v->v[i].id, "%s.%u", name, i + 1);
}

static int check_volumes(struct api *a, struct kinds *k, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	int r;

	volume_ids(&k->er->vols, "VolumeId", &form);
	r = api_pages(a, "DescribeVolumes", &form, read_volumes, k, err);
	vbuf_free(&form);
	for (unsigned i = 0; r == 0 && i < k->er->vols.n; i++)
		if (!k->seen[i])
			r = snap_error_set(err, -ENOENT, "volume %s is not described by EC2", k->er->vols.v[i].id);
	return r;
}

/* ---- what was snapshotted lately ---- */

struct lately {
	struct erun *er;
	int64_t newest[VOLS_MAX];
	unsigned pending[VOLS_MAX];
};

static int read_lately(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *e = xml_find(root, "snapshotSet/item");
	struct lately *l = arg;

	for (; e; e = xml_next(e)) {
		char when[40], *end;
		struct tm tm = { 0 };
		struct snap s;
		unsigned i;

		api_read_snap(e, &s);
		i = which(&l->er->vols, s.volume);
		if (i == l->er->vols.n)
			continue;
		l->pending[i] += strcmp(s.state, "pending") == 0;
		if (xml_text(e, "startTime", when, sizeof(when)) == 0 && (end = strptime(when, "%Y-%m-%dT%H:%M:%S", &tm)) && *end) {
			int64_t t = timegm(&tm);

			if (t > l->newest[i])
				l->newest[i] = t;
		}
	}
	return 0;
}

static int check_lately(struct api *a, const struct kinds *k, struct snap_error *err)
{
	struct lately l = { .er = k->er };
	const struct vols *v = &k->er->vols;
	struct vbuf form = VBUF_INIT;
	int64_t now;
	int r;

	ec2_arg(&form, "self", "Owner.1");
	ec2_arg(&form, "1000", "MaxResults");
	ec2_arg(&form, "volume-id", "Filter.1.Name");
	volume_ids(v, "Filter.1.Value", &form);
	r = api_pages(a, "DescribeSnapshots", &form, read_lately, &l, err);
	vbuf_free(&form);
	now = clock_utc().tv_sec + ec2_skew(a->e->ec2); /* the server's */
	for (unsigned i = 0; r == 0 && i < v->n; i++) {
		unsigned max = k->slow[i] ? 1 : PENDING_MAX;

		if (now - l.newest[i] < BETWEEN_S && l.newest[i] <= now + 5)
			r = snap_error_set(err, -EAGAIN, "volume %s was snapshotted %lld s ago, and AWS takes one in %d s; try again in "
							 "%lld s", v->v[i].id, (long long)(now > l.newest[i] ? now - l.newest[i] : 0),
					   BETWEEN_S, (long long)(BETWEEN_S - (now - l.newest[i])));
		else if (l.pending[i] >= max)
			r = snap_error_set(err, -EAGAIN, "volume %s has %u snapshots that are still pending, and AWS takes no more than "
							 "%u; wait until one is complete", v->v[i].id, l.pending[i], max);
	}
	return r;
}

/* ---- the request ---- */

const char *create_action(const struct erun *er)
{
	return er->vols.n == 1 ? "CreateSnapshot" : "CreateSnapshots";
}

int create_form(struct ebs *e, const struct prov_run *r, const struct erun *er, bool dry, struct vbuf *form,
		struct snap_error *err)
{
	if (er->vols.n == 1) {
		ec2_arg(form, er->vols.v[0].id, "VolumeId");
	} else {
		ec2_arg(form, e->instance, "InstanceSpecification.InstanceId");
		ec2_arg(form, "true", "InstanceSpecification.ExcludeBootVolume");
		for (unsigned i = 0; i < er->n_exclude; i++)
			ec2_arg(form, er->exclude[i], "InstanceSpecification.ExcludeDataVolumeId.%u", i + 1);
	}
	if (dry)
		ec2_arg(form, "true", "DryRun");
	return tags_form(e->door, r, er, form, err);
}

/* Ask whether the very request would be allowed: the answer is an error in any case. */
int check_allowed(struct api *a, const struct prov_run *r, struct erun *er, struct snap_error *err)
{
	struct vbuf form = VBUF_INIT;
	struct snap_error why = { 0 };
	struct xml *x = NULL;
	int ret = create_form(a->e, r, er, true, &form, err);

	if (ret >= 0) {
		ret = api_call(a, create_action(er), &form, false, &x, &why);
		xml_free(x);
		if (ret == -EALREADY)
			ret = 0;
		else if (ret == 0) {
			er->sent = true; /* discard looks for what it made */
			ret = snap_error_set(err, -EPROTO, "%s: a dry run was carried out; this endpoint is not EC2's", create_action(er));
		} else
			ret = snap_error_set(err, ret, "%s", why.msg);
	}
	vbuf_free(&form);
	return ret;
}

int check_all(struct api *a, struct prov_run *r, struct erun *er, uint32_t hold_ms, struct snap_error *err)
{
	struct kinds k = { .er = er };
	int ret = find_volumes(a->e, &er->vols, err);

	if (ret == 0)
		ret = api_connect(a, true, err);
	if (ret == 0)
		ret = check_instance(a, er, err);
	if (ret == 0)
		ret = check_volumes(a, &k, err);
	if (ret == 0)
		ret = check_lately(a, &k, err);
	if (ret == 0)
		ret = check_allowed(a, r, er, err);
	return ret;
}
