/* tests/unit/snapshot/test_ebs_failures.c - each call of the provider ebs x each way a call fails: what it says, that it
 * ends in its time, and that nothing is left unaccounted. What a failed creation does is test_ebs.c's, but for what EC2 does
 * not know yet when it is to be deleted. Also what keeps a set from being removed, and whose wish ends a call. */
#include "tests/unit/snapshot/http_server.h"
#include "tests/unit/snapshot/unit.h"
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID "00112233445566778899aabbccddeeff"
#define A "vol-0aaaaaaaaaaaaaaaa"
#define B "vol-0bbbbbbbbbbbbbbbb"
#define ERR(code) "<Response><Errors><Error><Code>" code "</Code><Message>m</Message></Error></Errors></Response>"
#define SNAPS(s) "<DescribeSnapshotsResponse><snapshotSet>" s "</snapshotSet></DescribeSnapshotsResponse>"
#define TAGGED(snap, vol, set, attempt, n) "<item><snapshotId>" snap "</snapshotId><volumeId>" vol "</volumeId><status>pending</status>" \
	"<volumeSize>10</volumeSize><tagSet><item><key>stillfs:set</key><value>" set "</value></item><item><key>stillfs:members</key><value>" n \
	"</value></item><item><key>stillfs:id</key><value>" ID "</value></item><item><key>stillfs:attempt</key><value>" attempt \
	"</value></item></tagSet></item>"
#define NO_LOCK "<DescribeLockedSnapshotsResponse><snapshotSet/></DescribeLockedSnapshotsResponse>"
#define NO_IMAGE "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>"
#define NO_VOLUME "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"
#define DELETED "<DeleteSnapshotResponse><return>true</return></DeleteSnapshotResponse>"
#define LOCK(snap, state) "<DescribeLockedSnapshotsResponse><snapshotSet><item><snapshotId>" snap "</snapshotId><lockState>" state \
		"</lockState><lockExpiresOn>2030-01-01T00:00:00.000Z</lockExpiresOn></item></snapshotSet></DescribeLockedSnapshotsResponse>"
#define IMAGE(snap) "<DescribeImagesResponse><imagesSet><item><imageId>ami-1</imageId><blockDeviceMapping><item><virtualName>ephemeral0" \
		"</virtualName></item><item><ebs><snapshotId>" snap "</snapshotId></ebs></item></blockDeviceMapping></item></imagesSet></DescribeImagesResponse>"
#define VOLUME(snap, status) "<DescribeVolumesResponse><volumeSet><item><volumeId>vol-9</volumeId><snapshotId>" snap "</snapshotId><status>" status \
		"</status></item></volumeSet></DescribeVolumesResponse>"
#define DENIED { .status = 403, .body = ERR("UnauthorizedOperation") }
#define ONE_OF(n) { .body = SNAPS(TAGGED("snap-1", A, "nightly", ID, n)) }
#define BOTH { .body = SNAPS(TAGGED("snap-1", A, "nightly", ID, "2") TAGGED("snap-2", B, "nightly", ID, "2")) }
#define SHORT_MS 250u /* a call's time, in which a failure is found on an idle machine; longer when it was too short */
#define LONG_MS 16000u
#define LATE_MS 8000u /* more than its time; less than a try takes that forgets its deadline */
#define GRACE_NS (300 * NS_PER_MS)

/* How the call fails, for good. */
static const struct fault {
	const char *name;
	struct hs_step step;
	int code; /* 0: any, the call was repeated until its deadline */
} faults[] = {
	{ "timeout", { .kind = HS_STALL }, 0 },
	{ "cut connection", { .kind = HS_LOST, .forever = true }, 0 },
	{ "500", { .status = 500, .body = "<html>oops", .forever = true }, 0 },
	{ "503", { .status = 503, .body = ERR("ServiceUnavailable"), .forever = true }, 0 },
	{ "throttled", { .status = 503, .body = ERR("RequestLimitExceeded"), .forever = true }, -EAGAIN },
	{ "half an XML", { .kind = HS_TORN, .body = "<DescribeVolumesResponse><volumeSet>", .forever = true }, 0 },
	{ "permission denied", { .status = 403, .body = ERR("UnauthorizedOperation"), .forever = true }, -EACCES },
};
#define N_FAULTS (sizeof(faults) / sizeof(faults[0]))

static const struct {
	const char *action;
	struct hs_step step;
} calls[] = {
	{ "DescribeInstances", { .body = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-0123456789abcdef0"
					 "</instanceId><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/sdf"
					 "</deviceName><ebs><volumeId>" A "</volumeId><status>attached</status></ebs></item></blockDeviceMapping>"
					 "</item></instancesSet></item></reservationSet></DescribeInstancesResponse>" } },
	{ "DescribeVolumes", { .body = "<DescribeVolumesResponse><volumeSet><item><volumeId>" A "</volumeId><volumeType>gp3</volumeType>"
				       "</item></volumeSet></DescribeVolumesResponse>" } },
	{ "DescribeSnapshots", { .body = SNAPS("") } },
	{ "CreateSnapshot", { .status = 412, .body = ERR("DryRunOperation") } }, /* asked beforehand, dry */
};
#define N_CALLS 4u
#define ASKED calls[0].step, calls[1].step, calls[2].step, calls[3].step

static struct {
	struct conf *conf;
	struct door door;
	struct hs *s;
	void *p;
	struct prov_run run;
	struct snap_error err;
	unsigned enough; /* the run is asked to stop a moment after so many requests; 0: never */
	uint64_t enough_ns;
} at;

static bool cancelled(const struct prov_run *r)
{
	if (at.enough && !at.enough_ns && hs_count(at.s) >= at.enough)
		at.enough_ns = clock_boot_ns();
	return at.enough_ns && clock_boot_ns() > at.enough_ns + GRACE_NS;
}

/* instance: "" as by default, the metadata service tells it; it is played by steps, too. */
static void begin_on(const char *instance, const struct hs_step *steps, size_t n)
{
	memset(&at, 0, sizeof(at));
	at.conf = conf_new(ebs_keys, NULL);
	at.s = hs_start(false, steps, n);
	assert_int_equal(conf_set(at.conf, "test", "ebs.endpoint", hs_url(at.s), NULL), 0);
	assert_int_equal(conf_set(at.conf, "test", "ebs.region", "eu-west-1", NULL), 0);
	assert_int_equal(conf_set(at.conf, "test", "ebs.instance", instance, NULL), 0);
	(void)setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", hs_url(at.s), 1);
	assert_int_equal(conf_set(at.conf, "test", "ebs.volumes", A, NULL), 0);
	at.door = (struct door){ .name = "orders", .n_pairs = 1, .conf = at.conf };
	at.door.pairs[0].backing = at.door.pairs[0].mountpoint = "/data";
	at.p = prov_ebs.open(&at.door, &at.err);
	assert_non_null(at.p);
	at.run = (struct prov_run){ .name = "nightly", .set_id = ID, .lineage = ID, .door = &at.door, .cancelled = cancelled,
				    .class = "daily", .description = "", .tags = "", .position = "" };
}

static void begin(const struct hs_step *steps, size_t n)
{
	begin_on("i-0123456789abcdef0", steps, n);
}

static void stop(bool unplayed)
{
	prov_ebs.finish(at.p, &at.run);
	prov_ebs.close(at.p);
	hs_stop(at.s, unplayed);
	conf_free(at.conf);
}

static void end(void)
{
	stop(true);
}

static void end_played(void) /* every step */
{
	stop(false);
}

static int setup(void **state)
{
	log_quiet();
	(void)setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE", 1);
	(void)setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
	(void)setenv("AWS_CONFIG_FILE", "/nonexistent", 1);
	(void)setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent", 1);
	return 0;
}

static void ok(int r)
{
	if (r < 0)
		fail_msg("%d: %s", r, at.err.msg);
}

/* False: it had so little time that a call before it was cut off: again, with more. */
static bool check(const char *action, const struct fault *f, int r, uint64_t began, uint32_t had_ms)
{
	uint64_t ms = (clock_boot_ns() - began) / NS_PER_MS;

	if (r < 0 && !strstr(at.err.msg, action) && had_ms < LONG_MS)
		return false;
	if (r >= 0 || (f->code && r != f->code) || !strstr(at.err.msg, action))
		fail_msg("%s, %s: %d: %s", action, f->name, r, at.err.msg);
	if (ms > had_ms + LATE_MS)
		fail_msg("%s, %s: %llu ms, where it had %u", action, f->name, (unsigned long long)ms, had_ms);
	return true;
}

/* Is call k's failure f found? False: there was too little time for those before it. */
static bool fails_before_the_hold(unsigned k, const struct fault *f, uint32_t max_ms)
{
	struct hs_step steps[N_CALLS + 1];
	uint64_t began;
	unsigned asked;
	bool found;
	int r;

	for (unsigned i = 0; i < k; i++)
		steps[i] = calls[i].step;
	steps[k] = f->step;
	begin(steps, k + 1);
	began = clock_boot_ns();
	r = prov_ebs.preflight(at.p, &at.run, 10000, max_ms, &at.err);
	found = check(calls[k].action, f, r, began, max_ms);
	asked = hs_count(at.s);
	for (unsigned i = 0; k < 3 && i < asked; i++)
		assert_null(strstr(hs_request(at.s, i), "Action=CreateSnapshot"));
	for (unsigned i = 0; i < asked; i++)
		assert_true(!strstr(hs_request(at.s, i), "Action=CreateSnapshot") || strstr(hs_request(at.s, i), "DryRun=true"));
	snap_error_clear(&at.err);
	assert_int_equal(prov_ebs.discard(at.p, &at.run, &at.err), 0);
	assert_int_equal(hs_count(at.s), asked); /* nothing was made, and it knows */
	end();
	return found;
}

static void before_the_hold_every_failure_ends_in_time_and_leaves_nothing(void **state)
{
	for (unsigned k = 0; k < N_CALLS; k++)
		for (size_t f = 0; f < N_FAULTS; f++)
			for (uint32_t ms = SHORT_MS; !fails_before_the_hold(k, &faults[f], ms); ms *= 8)
				;
}

/* ---- whose wish to stop ---- */

static bool ended;

static bool of_a_call_that_has_ended(const struct prov_run *r)
{
	return ended;
}

static void told(void *arg, size_t i, const char *why)
{
}

static void the_metadata_service_is_asked_for_nobody_but_the_call_that_runs(void **state)
{
	static const char ids[1][33] = { ID };
	const struct hs_step steps[] = { { .body = SNAPS(""), .expect = "Filter.1.Name=tag%3Astillfs%3Aid" },
					 { .body = "TOKEN", .expect = "PUT /latest/api/token" },
					 { .body = "i-0123456789abcdef0", .expect = "GET /latest/meta-data/instance-id" }, ASKED };
	struct prov_run *look = calloc(1, sizeof(*look));

	begin_on("", steps, 7);
	assert_non_null(look);
	look->cancelled = of_a_call_that_has_ended;
	ok(prov_ebs.holds(at.p, look, ids, 1, told, NULL, LONG_MS, &at.err)); /* what finds the keys */
	ended = true;
	free(look); /* who asks it yet is seen by ASan, or gives the run up */
	ok(prov_ebs.preflight(at.p, &at.run, 10000, LONG_MS, &at.err));
	assert_says(hs_request(at.s, 2), "x-aws-ec2-metadata-token: TOKEN");
	end_played();
}

/* ---- what EC2 does not know yet ---- */

#define MADE { .body = "<CreateSnapshotResponse><snapshotId>snap-1</snapshotId><volumeId>" A "</volumeId><status>pending</status>" 		       "</CreateSnapshotResponse>" }
#define SHOWN { .body = SNAPS(TAGGED("snap-1", A, "nightly", ID, "1")), .expect = "Filter.1.Name=tag%3Astillfs%3Aattempt" }
#define NOT_FOUND { .status = 400, .body = ERR("InvalidSnapshot.NotFound"), .expect = "SnapshotId=snap-1" }
#define IS_DELETED { .body = DELETED, .expect = "SnapshotId=snap-1" }

/* A set whose point is fixed (or, with `lost`, whose request had no answer), and that fails then. */
static int take_and_discard(const struct hs_step *steps, size_t n, bool lost, uint64_t age_s)
{
	begin(steps, n);
	ok(prov_ebs.preflight(at.p, &at.run, 10000, LONG_MS, &at.err));
	assert_int_equal(prov_ebs.trigger(at.p, &at.run, lost ? 600 : LONG_MS, &at.err), lost ? -EIO : 0);
	snap_error_clear(&at.err);
	((struct erun *)at.run.ref)->fixed_ns -= age_s * NS_PER_S;
	return prov_ebs.discard(at.p, &at.run, &at.err);
}

static void an_id_that_ec2_does_not_know_yet_is_not_taken_for_deleted(void **state)
{
	const struct hs_step steps[] = { ASKED, MADE, NOT_FOUND, NOT_FOUND, IS_DELETED };

	ok(take_and_discard(steps, 8, false, 0));
	end_played();
}

static void what_ec2_does_not_know_for_long_is_left_to_a_later_look(void **state)
{
	const struct hs_step steps[] = { ASKED, MADE, { .status = 400, .body = ERR("InvalidSnapshot.NotFound"), .forever = true } };

	assert_int_equal(take_and_discard(steps, 6, false, 0), -EAGAIN);
	assert_says(at.err.msg, "1 of its 1 snapshots are not known to EC2 yet, and may still show up");
	end_played();
}

static void what_is_not_found_when_it_is_old_has_gone(void **state)
{
	const struct hs_step steps[] = { ASKED, MADE, NOT_FOUND };

	ok(take_and_discard(steps, 6, false, NEW_S));
	end_played();
}

static void what_a_lost_request_made_is_deleted_also_where_ec2_shows_it_and_does_not_know_it(void **state)
{
	const struct hs_step steps[] = { ASKED, { .kind = HS_LOST }, { .body = SNAPS("") }, { .body = SNAPS("") }, SHOWN, NOT_FOUND, SHOWN,
					 IS_DELETED };

	ok(take_and_discard(steps, 11, true, 0));
	end_played();
}

/* ---- a set that is pending, or goes ---- */

static void no_failure_of_asking_fails_a_set_that_is_pending(void **state)
{
	for (size_t f = 0; f < N_FAULTS; f++) {
		struct hs_step steps[] = { { .body = SNAPS(TAGGED("snap-1", A, "nightly", ID, "1")) }, faults[f].step };
		struct prov_progress p = { 0 };

		begin(steps, 2);
		assert_int_equal(prov_ebs.resume(at.p, &at.run, LONG_MS, &at.err), 0);
		at.enough = 2; /* ends the repetition: the slice is over, the set is not */
		while (!cancelled(&at.run))
			assert_int_equal(prov_ebs.poll(at.p, &at.run, 50, &p, &at.err), 0);
		assert_false(p.complete);
		end();
	}
}

static bool fails_to_remove(unsigned k, const struct fault *f, uint32_t max_ms)
{
	static const char *const actions[] = { "DescribeSnapshots", "DescribeLockedSnapshots", "DescribeImages", "DescribeVolumes", "snap-1: " };
	struct hs_step steps[5] = { ONE_OF("1"), { .body = NO_LOCK }, { .body = NO_IMAGE }, { .body = NO_VOLUME } };
	uint64_t began;
	bool found;
	int r;

	steps[k] = f->step;
	begin(steps, k + 1);
	began = clock_boot_ns();
	r = prov_ebs.remove(at.p, "nightly", ID, max_ms, &at.err);
	found = check(actions[k], f, r, began, max_ms);
	end();
	return found;
}

static void a_removal_that_fails_says_so_and_can_be_repeated(void **state)
{
	for (unsigned k = 0; k < 5; k++)
		for (size_t f = 0; f < N_FAULTS; f++) {
			if (k > 0 && k < 4 && faults[f].code == -EACCES)
				continue; /* passed over, see below */
			for (uint32_t ms = SHORT_MS; !fails_to_remove(k, &faults[f], ms); ms *= 8)
				;
		}
}

static void what_holds_a_snapshot_is_asked_before_anything_of_its_set_is_deleted(void **state)
{
	static const struct {
		struct hs_step steps[7];
		unsigned n;
		int code;
		const char *says;
	} t[] = {
		{ { BOTH, { .body = LOCK("snap-2", "governance") } }, 2, -EBUSY,
		  "snapshot snap-2 is locked (governance, until 2030-01-01T00:00:00.000Z); nothing of the set was deleted" },
		{ { BOTH, { .body = NO_LOCK }, { .body = IMAGE("snap-2") } }, 3, -EBUSY, "snapshot snap-2 is in use by the image ami-1" },
		{ { BOTH, { .body = NO_LOCK }, { .body = NO_IMAGE }, { .body = VOLUME("snap-1", "creating") } }, 4, -EBUSY,
		  "snapshot snap-1 is being restored: volume vol-9" },
		/* what is no reason: an old lock, somebody else's, a volume that is made */
		{ { ONE_OF("1"), { .body = LOCK("snap-1", "expired") }, { .body = IMAGE("snap-3") }, { .body = VOLUME("snap-1", "available") },
		    { .body = DELETED } }, 5, 0, "" },
		/* it cannot be known now: nothing is deleted */
		{ { ONE_OF("1"), { .status = 400, .body = ERR("InvalidParameterValue") } }, 2, -EINVAL, "DescribeLockedSnapshots: AWS answered Invalid" },
		/* not allowed to ask: DeleteSnapshot tells */
		{ { ONE_OF("1"), DENIED, DENIED, DENIED, { .status = 400, .body = ERR("InvalidSnapshot.InUse") } }, 5, -EBUSY,
		  "snap-1: DeleteSnapshot: AWS answered InvalidSnapshot.InUse" },
		{ { ONE_OF("1"), { .status = 400, .body = ERR("InvalidAction") }, DENIED, DENIED, { .status = 400, .body = ERR("SnapshotLocked.X") } }, 5,
		  -EBUSY, "snap-1: DeleteSnapshot: AWS answered SnapshotLocked.X" },
		/* a part has gone: no set any more, tried again */
		{ { ONE_OF("2"), { .body = LOCK("snap-1", "compliance") } }, 2, -EAGAIN, "other snapshots of the set nightly have gone" },
		{ { BOTH, DENIED, DENIED, DENIED, { .body = DELETED }, { .status = 400, .body = ERR("SnapshotLocked.X") } }, 6, -EAGAIN,
		  "snap-2: DeleteSnapshot: AWS answered SnapshotLocked.X" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		int r;

		begin(t[i].steps, t[i].n);
		r = prov_ebs.remove(at.p, "nightly", ID, LONG_MS, &at.err);
		if (r != t[i].code || !strstr(at.err.msg, t[i].says))
			fail_msg("row %zu: %d: %s", i, r, at.err.msg);
		end_played();
	}
}

static void a_question_that_is_not_allowed_is_not_asked_of_each_set(void **state)
{
	const struct hs_step steps[] = { ONE_OF("1"), DENIED, DENIED, DENIED, { .body = DELETED }, ONE_OF("1"),
					 { .body = DELETED, .expect = "Action=DeleteSnapshot&" } };

	begin(steps, 7);
	assert_int_equal(prov_ebs.remove(at.p, "nightly", ID, LONG_MS, &at.err), 0);
	assert_int_equal(prov_ebs.remove(at.p, "nightly", ID, LONG_MS, &at.err), 0);
	end_played();
}

static void what_cannot_be_asked_is_taken_up_later(void **state)
{
	for (size_t f = 0; f < N_FAULTS; f++) {
		begin(&faults[f].step, 1);
		assert_int_equal(prov_ebs.resume(at.p, &at.run, SHORT_MS, &at.err), -EAGAIN);
		assert_says(at.err.msg, "DescribeSnapshots");
		end();
	}
}

static void only_what_its_record_says_is_taken_up(void **state)
{
	static const struct {
		const char *body, *says;
		int code;
	} t[] = {
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "1")), "", 0 },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "2") TAGGED("snap-2", B, "nightly", ID, "2")), "", 0 },
		{ SNAPS(""), "describes 0 snapshots", -EAGAIN },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "2")), "describes 1 snapshots", -EAGAIN },
		{ SNAPS(TAGGED("snap-1", A, "other", ID, "1")), "marked as set other", -ESTALE },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "2") TAGGED("snap-2", B, "nightly", "ff112233445566778899aabbccddeeff", "2")),
		  "more than one request", -EIO },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "2") TAGGED("snap-2", A, "nightly", ID, "2")), "two snapshots of volume " A, -EIO },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "1") TAGGED("snap-2", B, "nightly", ID, "1")), "and their tags say 1", -EIO },
		{ SNAPS(TAGGED("snap-1", A, "nightly", ID, "1") TAGGED("snap-2", B, "nightly", ID, "2")), "disagree", -EIO },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const struct hs_step step = { .body = t[i].body, .expect = "Filter.1.Name=tag%3Astillfs%3Aid&Filter.1.Value.1=" ID };
		int r;

		begin(&step, 1);
		r = prov_ebs.resume(at.p, &at.run, LONG_MS, &at.err);
		if (r != t[i].code || !strstr(at.err.msg, t[i].says))
			fail_msg("row %zu: %d: %s", i, r, at.err.msg);
		end();
	}
}

static void a_set_that_is_taken_up_is_followed(void **state)
{
	struct prov_progress p = { 0 };
	const struct hs_step steps[] = {
		{ .body = SNAPS(TAGGED("snap-1", A, "nightly", ID, "1")) },
		{ .body = "<DescribeSnapshotsResponse><snapshotSet><item><snapshotId>snap-1</snapshotId><volumeId>" A "</volumeId><status>completed"
			  "</status><volumeSize>10</volumeSize></item></snapshotSet></DescribeSnapshotsResponse>",
		  .expect = "Filter.1.Name=tag%3Astillfs%3Aattempt&Filter.1.Value.1=" ID },
	};

	begin(steps, 2);
	assert_int_equal(prov_ebs.resume(at.p, &at.run, LONG_MS, &at.err), 0);
	for (uint64_t end_ns = clock_boot_ns() + LONG_MS * NS_PER_MS; !p.complete && clock_boot_ns() < end_ns;)
		assert_int_equal(prov_ebs.poll(at.p, &at.run, 1000, &p, &at.err), 0);
	assert_true(p.complete && p.volumes == 1);
	assert_string_equal(p.detail, "snap-1");
	end();
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	const struct CMUnitTest tests[] = {
		T(before_the_hold_every_failure_ends_in_time_and_leaves_nothing),
		T(the_metadata_service_is_asked_for_nobody_but_the_call_that_runs),
		T(an_id_that_ec2_does_not_know_yet_is_not_taken_for_deleted),
		T(what_ec2_does_not_know_for_long_is_left_to_a_later_look),
		T(what_is_not_found_when_it_is_old_has_gone),
		T(what_a_lost_request_made_is_deleted_also_where_ec2_shows_it_and_does_not_know_it),
		T(no_failure_of_asking_fails_a_set_that_is_pending),
		T(a_removal_that_fails_says_so_and_can_be_repeated),
		T(what_holds_a_snapshot_is_asked_before_anything_of_its_set_is_deleted),
		T(a_question_that_is_not_allowed_is_not_asked_of_each_set),
		T(what_cannot_be_asked_is_taken_up_later),
		T(only_what_its_record_says_is_taken_up),
		T(a_set_that_is_taken_up_is_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
