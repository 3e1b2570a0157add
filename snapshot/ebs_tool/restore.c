/* snapshot/ebs_tool/restore.c - volumes from a set's snapshots; where asked, attached to this instance and mounted.
 * Called by main.c. Blocks for minutes, with progress on stderr. Errors: -errno with the sentence; then everything that
 * was made here is taken away again, and nothing else.
 * stdout: "volume SNAPSHOT VOLUME [DEVICE]" and "path MOUNTPOINT PATH" lines. */
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

struct wish {
	const char *az, *type, *attach, *mount, *kms;
	uint32_t iops, throughput, init_rate;
	bool read_all, delete_on_termination;
};

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

/* ---- this instance ---- */

static int read_zone(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "reservationSet/item/instancesSet/item");

	return i && xml_text(i, "placement/availabilityZone", arg, 32) == 0 ? 0 :
	       snap_error_set(err, -ENOENT, "this instance is not known in this region; check --region and ebs.instance");
}

static int find_zone(struct tool *t, const struct wish *w, char zone[32], struct snap_error *err)
{
	struct api a = tool_api(t, 60000);
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
	r = api_pages(&a, "DescribeInstances", &form, read_zone, zone, err);
	vbuf_free(&form);
	if (r == 0 && w->az && strcmp(w->az, zone) != 0)
		r = snap_error_set(err, -EINVAL, "--az %.30s: this instance is in %s, and volumes attach within their zone only", w->az, zone);
	return r;
}

/* ---- volumes ---- */

static int create_volume(struct tool *t, const struct wish *w, struct members *ms, unsigned i, const char *zone, const char *token,
			 struct snap_error *err)
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
	(void)snprintf(text, sizeof(text), "restored %.100s %u of %u", ms->set->name, i + 1, ms->n);
	ec2_arg(&form, "Name", "TagSpecification.1.Tag.1.Key");
	ec2_arg(&form, text, "TagSpecification.1.Tag.1.Value");
	ec2_arg(&form, "stillfs:restored-from", "TagSpecification.1.Tag.2.Key");
	ec2_arg(&form, t->id, "TagSpecification.1.Tag.2.Value");
	r = api_connect(&a, false, err);
	if (r == 0)
		r = api_call(&a, "CreateVolume", &form, false, &x, err);
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
	r = api_call(&a, "AttachVolume", &form, true, &x, err);
	xml_free(x);
	vbuf_free(&form);
	if (r == 0 || a.fate == EC2_UNKNOWN)
		undo_attachment(u, ms->m[i].volume);
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

static int make_all(struct tool *t, const struct wish *w, struct members *ms, const char *zone, struct undo *u, struct snap_error *err)
{
	char token[33];
	int r = 0;

	for (unsigned i = 0; i < 8; i++)
		(void)snprintf(token + 4 * i, 5, "%04x", (unsigned)(clock_boot_ns() >> (i * 8)) & 0xffff);
	for (unsigned i = 0; r == 0 && i < ms->n; i++) {
		r = create_volume(t, w, ms, i, zone, token, err);
		if (ms->m[i].volume[0])
			undo_volume(u, ms->m[i].volume);
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
	if (r == 0 && w->mount)
		r = assemble_mount(u, ms, w->mount, err);
	if (r == 0 && w->read_all)
		r = assemble_read_all(ms, err);
	return r;
}

/* What is known to fail later is refused before anything is made. */
static int check(const struct wish *w, const struct members *ms, struct snap_error *err)
{
	struct place p;
	int r = 0;

	for (unsigned i = 0; r == 0 && w->mount && i < ms->n_pairs; i++) {
		r = place_read(ms->pair[i], ms, &p, err);
		if (r == 0 && *p.crypt)
			r = snap_error_set(err, -EOPNOTSUPP, "%s lies on %s: that is opened with its own key; restore without --mount, then open "
							     "and mount it by hand", p.mountpoint, p.crypt);
	}
	return r;
}

int tool_restore(struct tool *t, int argc, char **argv, struct snap_error *err)
{
	struct members *ms = calloc(1, sizeof(*ms));
	struct undo *u = undo_new();
	struct wish w = { 0 };
	char zone[32] = "";
	int r = ms && u ? read_wish(argc, argv, &w, err) : snap_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = tool_members(t, ms, err);
	if (r == 0)
		r = name_devices(&w, ms, err);
	if (r == 0)
		r = check(&w, ms, err);
	if (r == 0)
		r = find_zone(t, &w, zone, err);
	if (r == 0)
		r = make_all(t, &w, ms, zone, u, err);
	for (unsigned i = 0; r == 0 && i < ms->n; i++)
		(void)printf("volume %s %s%s%s\n", ms->m[i].snap, ms->m[i].volume, w.attach ? " " : "", w.attach ? ms->m[i].path : "");
	if (r == 0)
		say_next(ms, &w);
	if (u)
		undo_all(u, t, r == 0);
	if (ms)
		set_free(ms->set);
	free(ms);
	return r;
}
