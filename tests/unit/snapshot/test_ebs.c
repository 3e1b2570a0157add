/* tests/unit/snapshot/test_ebs.c - the provider ebs against a scripted EC2: what is asked beforehand and refused, the one
 * request, answers that are wrong, partial or lost, completion, removal, listing, the record in tags. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ID "00112233445566778899aabbccddeeff"
#define A "vol-0aaaaaaaaaaaaaaaa"
#define B "vol-0bbbbbbbbbbbbbbbb"
#define MAP(dev, vol) "<item><deviceName>" dev "</deviceName><ebs><volumeId>" vol "</volumeId><status>attached</status></ebs></item>"
#define INSTANCE(maps) "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-0123456789abcdef0" \
		       "</instanceId><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping>" maps \
		       "</blockDeviceMapping></item></instancesSet></item></reservationSet></DescribeInstancesResponse>"
#define ROOT MAP("/dev/xvda", "vol-0dddddddddddddddd")
#define VOL(vol, more) "<item><volumeId>" vol "</volumeId><volumeType>gp3</volumeType>" more "</item>"
#define VOLUMES(v) "<DescribeVolumesResponse><volumeSet>" v "</volumeSet></DescribeVolumesResponse>"
#define SNAP(id, vol, state, percent) "<item><snapshotId>" id "</snapshotId><volumeId>" vol "</volumeId><status>" state \
				      "</status><progress>" percent "</progress><volumeSize>10</volumeSize></item>"
#define SNAPS(s) "<DescribeSnapshotsResponse><snapshotSet>" s "</snapshotSet></DescribeSnapshotsResponse>"
#define ERR(code) "<Response><Errors><Error><Code>" code "</Code><Message>m</Message></Error></Errors></Response>"
#define DRY { .status = 412, .body = ERR("DryRunOperation"), .expect = "&DryRun=true" }
#define ONE { .body = INSTANCE(ROOT MAP("/dev/sdf", A)), .expect = "Action=DescribeInstances&" },       \
	    { .body = VOLUMES(VOL(A, "")), .expect = "Action=DescribeVolumes&Version=2016-11-15&VolumeId.1=" A }, \
	    { .body = SNAPS(""), .expect = "Owner.1=self&MaxResults=1000&Filter.1.Name=volume-id&Filter.1.Value.1=" A }, DRY
#define MADE "<CreateSnapshotResponse><snapshotId>snap-1</snapshotId><volumeId>" A "</volumeId><status>pending</status>" \
	     "<volumeSize>10</volumeSize></CreateSnapshotResponse>"
#define DELETED "<DeleteSnapshotResponse><return>true</return></DeleteSnapshotResponse>"

static struct {
	struct conf *conf;
	struct door door;
	struct hs *s;
	void *p;
	struct prov_run run;
	struct snap_error err;
	bool cancel;
	int unplaced; /* pairs that found no room in the tags */
	char dir[128];
} at;

static bool cancelled(const struct prov_run *r)
{
	return at.cancel;
}

static int setup(void **state)
{
	log_quiet();
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	(void)setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
	(void)setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
	(void)setenv("AWS_CONFIG_FILE", "/nonexistent", 1);
	(void)setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent", 1);
	at.conf = conf_new(ebs_keys, NULL);
	at.door = (struct door){ .name = "orders", .n_pairs = 1, .conf = at.conf };
	at.door.pairs[0].backing = at.door.pairs[0].mountpoint = "/data";
	return 0;
}

static int teardown(void **state)
{
	if (at.run.ref)
		prov_ebs.finish(at.p, &at.run);
	if (at.p)
		prov_ebs.close(at.p);
	conf_free(at.conf);
	scratch_remove(at.dir);
	return 0;
}

static void give(const char *key, const char *value)
{
	assert_int_equal(conf_set(at.conf, "test", key, value, NULL), 0);
}

static void begin(const struct hs_step *steps, size_t n, const char *volumes)
{
	at.s = hs_start(false, steps, n);
	give("ebs.endpoint", hs_url(at.s));
	give("ebs.region", "eu-west-1");
	give("ebs.instance", "i-0123456789abcdef0");
	if (*volumes)
		give("ebs.volumes", volumes);
	at.p = prov_ebs.open(&at.door, &at.err);
	if (!at.p)
		fail_msg("%s", at.err.msg);
	at.run = (struct prov_run){ .name = "nightly", .set_id = ID, .lineage = ID, .door = &at.door, .cancelled = cancelled,
				    .class = "daily", .description = "", .tags = "team:db\n", .position = "" };
}

#define PLAY(volumes, ...)                                     \
	static const struct hs_step steps[] = { __VA_ARGS__ }; \
	begin(steps, sizeof(steps) / sizeof(steps[0]), volumes)

static int preflight(void)
{
	snap_error_clear(&at.err);
	return prov_ebs.preflight(at.p, &at.run, 10000, 5000, &at.err);
}

static int trigger(uint32_t ms)
{
	snap_error_clear(&at.err);
	at.run.position = "binlog_file b.000001\ngtid 0-1-2\n";
	return prov_ebs.trigger(at.p, &at.run, ms, &at.err);
}

static int discard(void)
{
	snap_error_clear(&at.err);
	return prov_ebs.discard(at.p, &at.run, &at.err);
}

static void ok(int r)
{
	if (r < 0)
		fail_msg("%d: %s", r, at.err.msg);
}

/* ---- what goes well ---- */

static void one_volume_is_one_request_on_the_warm_connection_and_is_followed(void **state)
{
	struct prov_progress p = { 0 };
	const char *req;
	PLAY(A, ONE, { .body = MADE, .expect = "Action=CreateSnapshot&Version=2016-11-15&VolumeId=" A "&" },
	     { .body = SNAPS(""), .expect = "Filter.1.Name=tag%3Astillfs%3Aattempt" }, { .status = 500 },
	     { .body = SNAPS(SNAP("snap-1", A, "pending", "41%")) }, { .body = SNAPS(SNAP("snap-1", A, "completed", "100%")) });

	ok(preflight());
	ok(trigger(5000));
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(hs_connection(at.s, i), 0);
	req = hs_request(at.s, 4);
	assert_null(strstr(req, "DryRun"));
	assert_says(req, "Description=stillfs+orders+nightly&");
	assert_says(req, "TagSpecification.1.ResourceType=snapshot&TagSpecification.1.Tag.1.Key=team&TagSpecification.1.Tag.1.Value=db&");
	assert_says(req, "Key=stillfs%3Aid&");
	assert_says(req, "Value=" ID);
	assert_says(req, "Key=stillfs%3Aposition.0&");
	assert_says(req, "Value=binlog_file+b.000001%3Bgtid+0-1-2");
	for (int i = 0; i < 400 && !p.complete; i++) {
		ok(prov_ebs.poll(at.p, &at.run, 50, &p, &at.err));
		if (hs_count(at.s) == 8)
			assert_int_equal(p.percent, 41);
	}
	assert_true(p.complete);
	assert_int_equal(p.percent, 100);
	assert_int_equal(p.volumes, 1);
	assert_int_equal(p.size_b, 10ull << 30);
	assert_string_equal(p.detail, "snap-1");
	prov_ebs.finish(at.p, &at.run);
	assert_null(at.run.ref);
	hs_stop(at.s, false);
}

#define TWO { .body = INSTANCE(ROOT MAP("/dev/sdf", A) MAP("/dev/sdg", "vol-0eeeeeeeeeeeeeeee") MAP("/dev/sdh", B)) }, \
	    { .body = VOLUMES(VOL(B, "") VOL(A, "")) }, { .body = SNAPS("") }, DRY

#define ITEM(id, vol) "<item><snapshotId>" id "</snapshotId><volumeId>" vol "</volumeId><state>pending</state></item>"

static void several_volumes_are_one_request_with_the_others_excluded(void **state)
{
	PLAY(A ":" B, TWO,
	     { .body = "<CreateSnapshotsResponse><snapshotSet>" ITEM("snap-2", B) ITEM("snap-1", A) "</snapshotSet></CreateSnapshotsResponse>",
	       .expect = "Action=CreateSnapshots&Version=2016-11-15&InstanceSpecification.InstanceId=i-0123456789abcdef0&"
			 "InstanceSpecification.ExcludeBootVolume=true&"
			 "InstanceSpecification.ExcludeDataVolumeId.1=vol-0eeeeeeeeeeeeeeee&Description=" });

	ok(preflight());
	ok(trigger(5000));
	assert_null(strstr(hs_request(at.s, 4), "ExcludeDataVolumeId.2"));
	hs_stop(at.s, false);
}

static void volumes_are_found_below_the_backing(void **state)
{
	char path[140], cmd[900];
	PLAY("", ONE);

	(void)snprintf(path, sizeof(path), "%s", at.dir);
	(void)snprintf(cmd, sizeof(cmd), "mkdir -p %s/dev/block %s/devices/xvdf && ln -s %s/devices/xvdf %s/dev/block/202:80", path, path, path, path);
	assert_int_equal(system(cmd), 0);
	ebs_sysfs = path;
	at.door.pairs[0].backing_dev = 202ull << 8 | 80;
	ok(preflight());
	ebs_sysfs = "/sys";
	hs_stop(at.s, false);
}

/* ---- what is refused beforehand ---- */

static char *ago(char *buf, size_t cap, int seconds)
{
	time_t t = time(NULL) - seconds;
	char when[40];
	struct tm tm;

	(void)gmtime_r(&t, &tm);
	(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
	(void)snprintf(buf, cap, SNAPS("<item><snapshotId>snap-9</snapshotId><volumeId>" A "</volumeId><status>completed</status><startTime>%s"
				       "</startTime></item>"), when);
	return buf;
}

static void what_cannot_work_is_refused_before_anything_is_held(void **state)
{
	char young[600], old[600];
#define P SNAP("snap-p", A, "pending", "1%")
	const struct {
		struct hs_step s[4];
		size_t n;
		int code;
		const char *says;
	} t[] = {
		{ { { .body = INSTANCE(MAP("/dev/xvda", A)) } }, 1, -EINVAL, A " is the instance's root volume" },
		{ { { .body = INSTANCE(ROOT) } }, 1, -ENODEV, "volume " A " is not attached to this instance, i-0123456789abcdef0" },
		{ { { .body = "<DescribeInstancesResponse/>" } }, 1, -ENOENT, "is not known in eu-west-1" },
		{ { { .status = 400, .body = ERR("InvalidInstanceID.NotFound") } }, 1, -ENOENT, "check ebs.instance and the region" },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES("") } }, 2, -ENOENT, "is not described" },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES(VOL(A, "<multiAttachEnabled>true</multiAttachEnabled>")) } },
		  2, -EOPNOTSUPP, "several instances" },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES(VOL(A, "")) }, { .body = ago(young, sizeof(young), 4) } },
		  3, -EAGAIN, "AWS takes one in 15 s; try again in " },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES(VOL(A, "")) }, { .body = SNAPS(P P P P P) } },
		  3, -EAGAIN, "has 5 snapshots that are still pending" },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES("<item><volumeId>" A "</volumeId><volumeType>st1</volumeType></item>") },
		    { .body = SNAPS(P) } }, 3, -EAGAIN, "takes no more than 1" },
		{ { { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES(VOL(A, "")) }, { .body = ago(old, sizeof(old), 60) },
		    { .status = 403, .body = ERR("UnauthorizedOperation") } }, 4, -EACCES, "CreateSnapshot: AWS answered UnauthorizedOperation: m; allow" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		begin(t[i].s, t[i].n, i ? "" : A);
		if (preflight() != t[i].code || !strstr(at.err.msg, t[i].says))
			fail_msg("row %zu: %d: %s", i, at.err.code, at.err.msg);
		ok(discard());
		assert_int_equal(hs_count(at.s), t[i].n); /* nothing was made, nothing is asked */
		prov_ebs.close(at.p);
		at.p = NULL;
		hs_stop(at.s, false);
	}
}

static void options_that_are_none_are_refused_at_the_start(void **state)
{
	give("ebs.instance", "me");
	assert_null(prov_ebs.open(&at.door, &at.err));
	assert_says(at.err.msg, "ebs.instance=me: expected an id like");
	snap_error_clear(&at.err);
	give("ebs.instance", "");
	give("ebs.volumes", "vol-1 snap-2");
	assert_null(prov_ebs.open(&at.door, &at.err));
	assert_int_equal(at.err.code, -EINVAL);
}

/* ---- answers that are not what was asked for ---- */

static void a_partial_or_foreign_answer_fails_and_everything_made_is_deleted(void **state)
{
	static const struct {
		const char *items;
		unsigned deleted;
	} t[] = {
		{ ITEM("snap-1", A) ITEM("snap-2", B) ITEM("snap-3", "vol-0eeeeeeeeeeeeeeee"), 3 },
		{ ITEM("snap-1", A) ITEM("snap-2", A), 2 },
		{ ITEM("snap-1", A) "<item><snapshotId>snap-2</snapshotId><volumeId>" B "</volumeId><state>error</state></item>", 2 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		char made[1000], expect[64];
		struct hs_step s[] = { TWO, { .body = made }, { .body = DELETED, .forever = true, .expect = "Action=DeleteSnapshot&" } };

		(void)snprintf(made, sizeof(made), "<CreateSnapshotsResponse><snapshotSet>%s</snapshotSet></CreateSnapshotsResponse>", t[i].items);
		begin(s, 6, i ? "" : A ":" B);
		ok(preflight());
		assert_int_equal(trigger(3000), -EIO);
		ok(discard());
		assert_int_equal(hs_count(at.s), 5 + t[i].deleted);
		for (unsigned k = 0; k < t[i].deleted; k++) {
			(void)snprintf(expect, sizeof(expect), "SnapshotId=snap-%u", k + 1);
			assert_says(hs_request(at.s, 5 + k), expect);
		}
		prov_ebs.close(at.p);
		at.p = NULL;
		hs_stop(at.s, false);
	}
}

static void what_a_short_answer_does_not_name_is_looked_for_and_deleted(void **state)
{
	PLAY(A ":" B, TWO, { .body = "<CreateSnapshotsResponse><snapshotSet>" ITEM("snap-1", A) "</snapshotSet></CreateSnapshotsResponse>" },
	     { .body = SNAPS(SNAP("snap-1", A, "pending", "0%") SNAP("snap-2", B, "pending", "0%")), .expect = "Filter.1.Name=tag%3Astillfs%3Aattempt" },
	     { .body = DELETED, .expect = "SnapshotId=snap-1" }, { .body = DELETED, .expect = "SnapshotId=snap-2" });

	ok(preflight());
	assert_int_equal(trigger(3000), -EIO);
	assert_says(at.err.msg, "EC2 made 0 snapshots of volume " B);
	ok(discard());
	hs_stop(at.s, false);
}

static void a_connection_that_went_stale_is_made_again_before_the_hold(void **state)
{
	PLAY(A, { .body = INSTANCE(ROOT MAP("/dev/sdf", A)) }, { .body = VOLUMES(VOL(A, "")) }, { .body = SNAPS("") },
	     { .status = 412, .body = ERR("DryRunOperation"), .end = true }, DRY, { .body = MADE });

	ok(preflight());
	ok(prov_ebs.warm(at.p, &at.run, 5000, &at.err));
	ok(trigger(5000));
	assert_int_equal(hs_connection(at.s, 3), 0);
	assert_int_equal(hs_connection(at.s, 4), 1);
	assert_int_equal(hs_connection(at.s, 5), 1); /* the one in the hold found it ready */
	hs_stop(at.s, false);
}

static void a_refusal_makes_nothing_and_nothing_is_looked_for(void **state)
{
	PLAY(A, ONE, { .status = 503, .body = ERR("RequestLimitExceeded") });

	ok(preflight());
	assert_int_equal(trigger(5000), -EAGAIN);
	ok(discard());
	assert_int_equal(hs_count(at.s), 5);
	hs_stop(at.s, false);
}

static void a_lost_answer_is_no_loss_when_the_snapshot_shows_up_in_the_hold(void **state)
{
	PLAY(A, ONE, { .kind = HS_LOST }, { .body = SNAPS("") }, { .body = SNAPS(SNAP("snap-7", A, "pending", "0%")) },
	     { .body = DELETED, .expect = "SnapshotId=snap-7" });

	ok(preflight());
	ok(trigger(9000));
	assert_says(hs_request(at.s, 6), "Filter.1.Name=tag%3Astillfs%3Aattempt");
	ok(discard()); /* a later step failed: it is known by its id */
	hs_stop(at.s, false);
}

static void a_late_answer_is_looked_for_before_the_hold_ends(void **state)
{
	PLAY(A, ONE, { .kind = HS_STALL }, { .forever = true, .body = SNAPS(SNAP("snap-7", A, "pending", "0%")) });

	ok(preflight());
	ok(trigger(4000));
	hs_stop(at.s, false);
}

static void what_a_lost_request_made_too_late_is_deleted(void **state)
{
	static const struct hs_step lost[] = { { .kind = HS_LOST }, { .kind = HS_TORN, .body = MADE }, { .status = 500, .body = "<html>" },
					       { .body = "half" } };

	for (size_t i = 0; i < 4; i++) {
		struct hs_step s[] = { ONE, lost[i], { .body = SNAPS("") }, { .body = SNAPS("") }, { .body = SNAPS(SNAP("snap-8", A, "pending", "0%")) },
				       { .body = DELETED, .expect = "SnapshotId=snap-8" } };

		begin(s, 9, i ? "" : A);
		ok(preflight());
		at.cancel = false;
		assert_int_equal(trigger(600), -EIO); /* time for one look, or two */
		assert_says(at.err.msg, "no answer to CreateSnapshot, so nobody knows");
		at.cancel = true; /* as the engine does for a failed run: it must not end the clean-up */
		ok(discard());
		assert_null(at.run.ref);
		at.cancel = false;
		prov_ebs.close(at.p);
		at.p = NULL;
		hs_stop(at.s, false);
	}
}

static void a_failed_snapshot_fails_the_set_with_awss_reason(void **state)
{
	struct prov_progress p;
	int r = 0;
	PLAY(A, ONE, { .body = MADE },
	     { .body = SNAPS("<item><snapshotId>snap-1</snapshotId><volumeId>" A "</volumeId><status>error</status><statusMessage>no access to the "
			     "KMS key</statusMessage></item>") });

	ok(preflight());
	ok(trigger(5000));
	for (int i = 0; i < 100 && r == 0; i++)
		r = prov_ebs.poll(at.p, &at.run, 50, &p, &at.err);
	assert_int_equal(r, -EIO);
	assert_says(at.err.msg, "snapshot snap-1 of volume " A " failed: no access to the KMS key");
	hs_stop(at.s, false);
}

static void a_cancelled_run_does_not_wait_for_the_api(void **state)
{
	PLAY(A, { .kind = HS_STALL });

	at.cancel = true;
	assert_int_equal(preflight(), -ECANCELED);
	hs_stop(at.s, true);
}

/* ---- removal, listing ---- */

#define TAGGED(id, state, set, setid, n) "<item><snapshotId>" id "</snapshotId><volumeId>" A "</volumeId><status>" state "</status><tagSet>" \
		"<item><key>stillfs:set</key><value>" set "</value></item><item><key>stillfs:members</key><value>" n "</value></item>" \
		"<item><value>" setid "</value><key>stillfs:id</key></item></tagSet></item>"

#define NO_LOCK "<DescribeLockedSnapshotsResponse><snapshotSet/></DescribeLockedSnapshotsResponse>"
#define NO_IMAGE "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>"
#define NO_VOLUME "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"

static void remove_deletes_the_sets_snapshots_and_only_them(void **state)
{
	PLAY("", { .body = SNAPS(TAGGED("snap-1", "completed", "other", ID, "1")) },
	     { .body = SNAPS(TAGGED("snap-1", "completed", "one", ID, "2") TAGGED("snap-2", "pending", "one", ID, "2")), .expect = "Filter.1.Value.1=" ID },
	     { .body = NO_LOCK, .expect = "Action=DescribeLockedSnapshots&Version=2016-11-15&SnapshotId.1=snap-1&SnapshotId.2=snap-2" },
	     { .body = NO_IMAGE, .expect = "Filter.1.Name=block-device-mapping.snapshot-id&Owner.1=self&Filter.1.Value.1=snap-1&Filter.1.Value.2=snap-2" },
	     { .body = NO_VOLUME, .expect = "Filter.1.Name=snapshot-id&Filter.1.Value.1=snap-1&Filter.1.Value.2=snap-2" },
	     { .status = 400, .body = ERR("InvalidSnapshot.NotFound"), .expect = "SnapshotId=snap-1" }, { .body = DELETED, .expect = "SnapshotId=snap-2" },
	     { .body = SNAPS("") });

	assert_int_equal(prov_ebs.remove(at.p, "one", ID, 5000, &at.err), -ESTALE);
	snap_error_clear(&at.err);
	ok(prov_ebs.remove(at.p, "one", ID, 5000, &at.err));
	ok(prov_ebs.remove(at.p, "one", ID, 5000, &at.err));
	hs_stop(at.s, false);
}

static struct vbuf listed;

static int note(void *arg, const char *name, const char *id, bool complete)
{
	vbuf_printf(&listed, "%s %.2s %d;", name, id, complete);
	return 0;
}

static void list_gives_each_set_once_and_complete_only_with_all_members(void **state)
{
	PLAY("", { .body = SNAPS(TAGGED("snap-1", "completed", "one", ID, "2") TAGGED("snap-2", "pending", "one", ID, "2")
				 TAGGED("snap-3", "completed", "two", "ff112233445566778899aabbccddeeff", "1") TAGGED("snap-4", "completed", "bad", "x", "1")),
		   .expect = "Filter.1.Name=tag%3Astillfs%3Aname&Filter.1.Value.1=orders" });

	ok(prov_ebs.list(at.p, note, NULL, 5000, &at.err));
	assert_string_equal(vbuf_text(&listed), "one 00 0;two ff 1;");
	vbuf_free(&listed);
	hs_stop(at.s, false);
}

/* ---- tags ---- */

static unsigned tags_of(const struct erun *er, struct vbuf *form)
{
	unsigned n = 0;

	snap_error_clear(&at.err);
	vbuf_free(form);
	at.unplaced = tags_form(&at.door, &at.run, er, form, &at.err);
	ok(at.unplaced);
	for (const char *p = vbuf_text(form); (p = strstr(p, ".Key=")); p++)
		n++;
	return n;
}

static void the_record_fits_the_limits_of_tags(void **state)
{
	static struct erun er = { .attempt = "a", .vols = { .n = 1, .v = { { .id = A, .dev = "nvme1n1", .pairs = 1 } } } };
	struct vbuf form = VBUF_INIT, users = VBUF_INIT;
	static char gtid[8001], text[300];

	PLAY("", { .status = 500 });
	memset(gtid, 'a', sizeof(gtid) - 1);
	gtid[sizeof(gtid) - 1] = '\0';
	at.run.tags = "";
	gtid[1750] = '\0';
	at.run.position = gtid;
	assert_int_equal(tags_of(&er, &form), 13 + 7);
	assert_says(vbuf_text(&form), "stillfs%3Aposition.6");
	gtid[1750] = 'a';
	assert_int_equal(tags_of(&er, &form), 13 + 1);
	assert_says(vbuf_text(&form), "Value=in-snapshot+sha256%3A");
	/* a GTID set of 4 kB: file and offset are kept beside its digest */
	(void)snprintf(gtid + 4096, 100, "\nbinlog_file b.000007\nbinlog_pos 4711\n");
	assert_int_equal(tags_of(&er, &form), 13 + 1 + 1);
	assert_says(vbuf_text(&form), "%3Bbinlog_file+b.000007%3Bbinlog_pos+4711");
	assert_says(vbuf_text(&form), "Value=primary");
	for (int i = 1; i < 8; i++)
		at.door.pairs[i] = at.door.pairs[0];
	at.door.n_pairs = 8; /* all there can be, pinned: still 20 of ours */
	at.run.pin = true;
	assert_int_equal(tags_of(&er, &form), 20);
	assert_says(vbuf_text(&form), "stillfs%3Apair.5");
	assert_int_equal(at.unplaced, 2); /* and the last tag says of how many these are */
	assert_says(vbuf_text(&form), "%3Bof%3D8&");
	at.door.n_pairs = 6; /* these fit */
	(void)tags_of(&er, &form);
	assert_int_equal(at.unplaced, 0);
	assert_null(strstr(vbuf_text(&form), "%3Bof%3D"));
	at.door.n_pairs = 1;
	at.run.pin = false;
	for (int i = 0; i < 40; i++)
		vbuf_printf(&users, "k%d:v\n", i);
	at.run.tags = vbuf_text(&users);
	assert_true(tags_of(&er, &form) <= 45); /* what is added afterwards fits, too */
	assert_says(vbuf_text(&form), "Value=25+of+40+kept+sha256%3A");
	at.run.tags = "Name:mine\nempty\n";
	at.run.position = "";
	assert_int_equal(tags_of(&er, &form), 2 + 12);
	assert_null(strstr(vbuf_text(&form), "Value=stillfs+orders"));
	give("ebs.description", "mysql snapshot datadir for %s in %n %F__%H:%M 100%%");
	at.run.created.tv_sec = 1790000000;
	(void)setenv("TZ", "UTC0", 1);
	(void)tags_of(&er, &form);
	assert_says(vbuf_text(&form), "Description=mysql+snapshot+datadir+for+nightly+in+orders+2026-09-21__14%3A13+100%25&");
	assert_int_equal(describe_check("%h %c %x", &at.err), -EINVAL);
	assert_says(at.err.msg, "ebs.description: %x is unknown");
	memset(text, 'e', 254);
	memcpy(text + 254, "\xc3\xa9", 3);
	at.run.description = text;
	(void)tags_of(&er, &form);
	assert_says(vbuf_text(&form), "eee&TagSpec"); /* the half character is not there */
	memset(text, 'k', 140);
	memcpy(text + 140, ":v", 3);
	for (int i = 0; i < 2; i++) {
		snap_error_clear(&at.err);
		at.run.tags = i ? text : ":v\n";
		assert_int_equal(tags_form(&at.door, &at.run, &er, &form, &at.err), -EINVAL);
	}
	vbuf_free(&form);
	vbuf_free(&users);
	hs_stop(at.s, true);
}

static void the_servers_role_is_in_a_tag(void **state)
{
	static struct erun er = { .attempt = "a", .vols = { .n = 1, .v = { { .id = A, .dev = "nvme1n1", .pairs = 1 } } } };
	static const char *const t[][2] = { { "server mariadb\nbinlog_file b.1\nbinlog_pos 4\n", "Value=primary" },
					    { "binlog_file b.1\nsource_channel default\nsource_log_file s.1\n", "Value=replica" },
					    { "binlog_file b.1\nbinlog_pos 4\nrole replica\n", "Value=replica" },
					    { "mongodb 7.0\nmongodb_role secondary\n", "Value=secondary" } };
	struct vbuf form = VBUF_INIT;

	PLAY("", { .status = 500 });
	at.run.tags = "";
	for (size_t i = 0; i < 4; i++) {
		at.run.position = t[i][0];
		(void)tags_of(&er, &form);
		assert_says(vbuf_text(&form), "stillfs%3Arole");
		assert_says(vbuf_text(&form), t[i][1]);
	}
	at.run.position = "server mariadb\nposition unknown until verified\n";
	(void)tags_of(&er, &form);
	assert_null(strstr(vbuf_text(&form), "role"));
	vbuf_free(&form);
	hs_stop(at.s, true);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(one_volume_is_one_request_on_the_warm_connection_and_is_followed),
		T(several_volumes_are_one_request_with_the_others_excluded),
		T(volumes_are_found_below_the_backing),
		T(what_cannot_work_is_refused_before_anything_is_held),
		T(options_that_are_none_are_refused_at_the_start),
		T(a_partial_or_foreign_answer_fails_and_everything_made_is_deleted),
		T(what_a_short_answer_does_not_name_is_looked_for_and_deleted),
		T(a_connection_that_went_stale_is_made_again_before_the_hold),
		T(a_refusal_makes_nothing_and_nothing_is_looked_for),
		T(a_lost_answer_is_no_loss_when_the_snapshot_shows_up_in_the_hold),
		T(a_late_answer_is_looked_for_before_the_hold_ends),
		T(what_a_lost_request_made_too_late_is_deleted),
		T(a_failed_snapshot_fails_the_set_with_awss_reason),
		T(a_cancelled_run_does_not_wait_for_the_api),
		T(remove_deletes_the_sets_snapshots_and_only_them),
		T(list_gives_each_set_once_and_complete_only_with_all_members),
		T(the_record_fits_the_limits_of_tags),
		T(the_servers_role_is_in_a_tag),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
