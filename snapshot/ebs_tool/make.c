/* snapshot/ebs_tool/make.c - volumes made from a set's snapshots and attached to this instance. See tool.h. */
#include "snapshot/ebs_tool/tool.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOLUME_MS 600000u
#define UNSEEN_MS 60000u /* a new volume may not be described at once */
#define ATTACH_MS 300000u
#define DEVICE_MS 60000u

/* ---- this instance ---- */

struct instance {
	char *zone;
	struct vbuf *used;
};

static int read_instance(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "reservationSet/item/instancesSet/item"), *b;
	const struct instance *out = arg;
	char name[64];

	if (!i || xml_text(i, "placement/availabilityZone", out->zone, 32) < 0)
		return snap_error_set(err, -ENOENT, "this instance is not known in this region; check --region and ebs.instance");
	for (b = xml_find(i, "blockDeviceMapping/item"); b; b = xml_next(b))
		if (xml_text(b, "deviceName", name, sizeof(name)) == 0)
			vbuf_printf(out->used, "%s ", name);
	return vbuf_error(out->used);
}

int make_find_zone(struct tool *t, const struct wish *w, char zone[32], struct vbuf *used, struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
	struct instance found = { zone, used };
	struct vbuf form = VBUF_INIT;
	int r;

	if (w->az && !w->attach) {
		(void)snprintf(zone, 32, "%s", w->az);
		return 0;
	}
	r = api_connect(&a, true, err);
	if (r < 0)
		return w->attach ? r : snap_error_set(err, r, "no zone: give --az ZONE");
	ec2_arg(&form, t->e->instance, "InstanceId.1");
	r = api_pages(&a, "DescribeInstances", &form, read_instance, &found, err);
	vbuf_free(&form);
	if (r == 0 && w->az && strcmp(w->az, zone) != 0)
		r = snap_error_set(err, -EINVAL, "--az %.30s: this instance is in %s, and volumes attach within their zone only", w->az, zone);
	return r;
}

/* ---- volumes ---- */

static int create_volume(struct tool *t, const struct wish *w, struct members *ms, unsigned i, const char *zone, const char *token,
			 bool *refused, struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
	struct vbuf form = VBUF_INIT;
	struct xml *x;
	char text[200];
	int r;

	ec2_arg(&form, ms->m[i].snap, "SnapshotId");
	ec2_arg(&form, zone, "AvailabilityZone");
	ec2_arg(&form, w->type ? w->type : "gp3", "VolumeType");
	(void)snprintf(text, sizeof(text), "%.20s-%u", token, i);
	ec2_arg(&form, text, "ClientToken"); /* so that it may be repeated */
	if (w->iops) {
		(void)snprintf(text, sizeof(text), "%u", w->iops);
		ec2_arg(&form, text, "Iops");
	}
	if (w->throughput) {
		(void)snprintf(text, sizeof(text), "%u", w->throughput);
		ec2_arg(&form, text, "Throughput");
	}
	if (w->init_rate) {
		(void)snprintf(text, sizeof(text), "%u", w->init_rate);
		ec2_arg(&form, text, "VolumeInitializationRate");
	}
	if (w->kms) {
		ec2_arg(&form, "true", "Encrypted");
		ec2_arg(&form, w->kms, "KmsKeyId");
	}
	ec2_arg(&form, "volume", "TagSpecification.1.ResourceType");
	(void)snprintf(text, sizeof(text), "%s %.100s %u of %u", w->mark ? "verify" : "restored", ms->set->name, i + 1, ms->n);
	ec2_arg(&form, "Name", "TagSpecification.1.Tag.1.Key");
	ec2_arg(&form, text, "TagSpecification.1.Tag.1.Value");
	ec2_arg(&form, "stillfs:restored-from", "TagSpecification.1.Tag.2.Key");
	ec2_arg(&form, t->id, "TagSpecification.1.Tag.2.Value");
	if (w->mark) {
		ec2_arg(&form, "stillfs:verification", "TagSpecification.1.Tag.3.Key");
		ec2_arg(&form, w->mark, "TagSpecification.1.Tag.3.Value");
	}
	r = api_connect(&a, false, err);
	*refused = r < 0;
	if (r == 0) {
		r = api_call(&a, "CreateVolume", &form, false, &x, err);
		*refused = r < 0 && a.fate == EC2_REFUSED;
	}
	vbuf_free(&form);
	if (r < 0)
		return r;
	(void)xml_text(xml_root(x), "volumeId", ms->m[i].volume, sizeof(ms->m[i].volume));
	xml_free(x);
	return discover_is_id(ms->m[i].volume, "vol-") ? 0 : snap_error_set(err, -EBADMSG, "CreateVolume: an answer without a volume id");
}

struct states {
	const struct members *ms;
	char state[VOLS_MAX][20], attached[VOLS_MAX][20];
};

static int read_states(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *e = xml_find(root, "volumeSet/item");
	struct states *s = arg;
	char id[24];

	for (; e; e = xml_next(e)) {
		(void)xml_text(e, "volumeId", id, sizeof(id));
		for (unsigned i = 0; i < s->ms->n; i++)
			if (strcmp(id, s->ms->m[i].volume) == 0) {
				(void)xml_text(e, "status", s->state[i], sizeof(s->state[i]));
				(void)xml_text(e, "attachmentSet/item/status", s->attached[i], sizeof(s->attached[i]));
			}
	}
	return 0;
}

static int describe(struct tool *t, struct states *s, struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
	struct vbuf form = VBUF_INIT;
	int r;

	memset(s->state, 0, sizeof(s->state));
	memset(s->attached, 0, sizeof(s->attached));
	ec2_arg(&form, "volume-id", "Filter.1.Name");
	for (unsigned i = 0; i < s->ms->n; i++)
		ec2_arg(&form, s->ms->m[i].volume, "Filter.1.Value.%u", i + 1);
	r = api_pages(&a, "DescribeVolumes", &form, read_states, s, err);
	vbuf_free(&form);
	return r;
}

/* Until all are `want`. An encrypted volume whose key may not be used is made, and then goes away. */
static int wait_volumes(struct tool *t, const struct members *ms, bool attached, const char *want, uint32_t max_ms, struct snap_error *err)
{
	struct states s = { .ms = ms };
	bool seen[VOLS_MAX] = { false };
	uint64_t start = clock_boot_ns(), said = 0;
	unsigned done = 0;
	int r = 0;

	while (r == 0 && done < ms->n && !tool_stop) {
		uint64_t ms_now = (clock_boot_ns() - start) / NS_PER_MS;

		r = describe(t, &s, err);
		done = 0;
		for (unsigned i = 0; r == 0 && i < ms->n; i++) {
			const char *st = s.state[i];

			done += strcmp(attached ? s.attached[i] : st, want) == 0;
			if (strcmp(st, "error") == 0 || strncmp(st, "delet", 5) == 0 || (!*st && (seen[i] || ms_now > UNSEEN_MS)))
				r = snap_error_set(err, -EIO, "volume %s of %s %s; AWS does so when the KMS key of an encrypted snapshot may not be "
								"used: allow kms:CreateGrant, kms:Decrypt and kms:GenerateDataKeyWithoutPlaintext on it",
						   ms->m[i].volume, ms->m[i].snap, *st ? "failed" : "has gone again");
			seen[i] |= *st != 0;
		}
		if (r == 0 && done < ms->n && ms_now > max_ms)
			r = snap_error_set(err, -ETIMEDOUT, "%u of %u volumes are not %s after %u s", ms->n - done, ms->n, want, max_ms / 1000);
		if (r == 0 && done < ms->n) {
			if (ms_now >= said) {
				tool_say("%u of %u volumes %s", done, ms->n, want);
				said = ms_now + 5000;
			}
			tool_sleep_ms(1000);
		}
	}
	return r == 0 && tool_stop ? snap_error_set(err, -EINTR, "interrupted") : r;
}

static int attach(struct tool *t, const struct wish *w, struct members *ms, unsigned i, struct undo *u, struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
	struct vbuf form = VBUF_INIT, mod = VBUF_INIT;
	struct xml *x;
	int r;

	ec2_arg(&form, ms->m[i].volume, "VolumeId");
	ec2_arg(&form, t->e->instance, "InstanceId");
	ec2_arg(&form, ms->m[i].device, "Device");
	r = undo_intend(u, "attach", ms->m[i].volume, err);
	if (r == 0) {
		r = api_call(&a, "AttachVolume", &form, true, &x, err);
		xml_free(x);
	}
	vbuf_free(&form);
	if (r == 0 || a.fate == EC2_UNKNOWN)
		undo_note(u, UNDO_ATTACHMENT, ms->m[i].volume);
	if (r == 0 && w->delete_on_termination) {
		ec2_arg(&mod, t->e->instance, "InstanceId");
		ec2_arg(&mod, ms->m[i].device, "BlockDeviceMapping.1.DeviceName");
		ec2_arg(&mod, "true", "BlockDeviceMapping.1.Ebs.DeleteOnTermination");
		r = api_call(&a, "ModifyInstanceAttribute", &mod, false, &x, err);
		xml_free(x);
		vbuf_free(&mod);
	}
	return r;
}

int make_volumes(struct tool *t, const struct wish *w, struct members *ms, const char *zone, struct undo *u, struct snap_error *err)
{
	char token[33], number[12];
	bool refused = false;
	int r = 0;

	for (unsigned i = 0; i < 8; i++)
		(void)snprintf(token + 4 * i, 5, "%04x", (unsigned)(clock_boot_ns() >> (i * 8)) & 0xffff);
	for (unsigned i = 0; r == 0 && i < ms->n; i++) {
		(void)snprintf(number, sizeof(number), "%u", i);
		r = undo_intend(u, "create", number, err);
		r = r < 0 ? r : create_volume(t, w, ms, i, zone, token, &refused, err);
		if (refused)
			(void)undo_intend(u, "refused", number, err); /* without it, it is looked for */
		if (ms->m[i].volume[0])
			undo_note(u, UNDO_VOLUME, ms->m[i].volume);
		if (r == 0)
			tool_say("volume %s from %s, %u GiB, in %s", ms->m[i].volume, ms->m[i].snap, ms->m[i].size_gib, zone);
	}
	if (r == 0)
		r = wait_volumes(t, ms, false, "available", VOLUME_MS, err);
	for (unsigned i = 0; r == 0 && w->attach && i < ms->n; i++)
		r = attach(t, w, ms, i, u, err);
	if (r == 0 && w->attach)
		r = wait_volumes(t, ms, true, "attached", ATTACH_MS, err);
	for (unsigned i = 0; r == 0 && w->attach && i < ms->n; i++)
		r = assemble_wait_device(&ms->m[i], DEVICE_MS, err);
	return r;
}

