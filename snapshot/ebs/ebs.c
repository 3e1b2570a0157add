/* snapshot/ebs/ebs.c - the provider of EBS snapshots, as provider.h wants it.
 * Owns:      keys, the connection to EC2, the run's knowledge of what it made.
 * Called by: the engine, through prov_ebs, on its provider thread.
 * Blocks:    every call up to its deadline; between the closing and the opening of the gate there is one request, on a
 *            connection that preflight has made, with keys that preflight has found.
 * Errors:    -errno with the sentence.
 *
 * The point in time is the request's acceptance, somewhere between its sending and its answer; the gate is closed from
 * before to after. A creation is sent once. When its answer is lost, the attempt's unique tag is looked for while the
 * gate is still closed: snapshots that show up then were begun within the hold. Otherwise the set fails, and discard
 * deletes whatever carries the tag. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LOOK_RESERVE_MS 1500u /* of trigger's time, to look for a lost answer's snapshots */
#define LOOK_FROM_MS 4000u /* only when trigger has at least so long */
#define LOOK_MAX_MS 5000u
#define LOOK_PAUSE_MS 250u
#define LOOK_SPARE_MS 150u /* for the answer's way back to the engine, which waits no longer */
#define POLL_FIRST_MS 1000u
#define POLL_MAX_MS 15000u
#define POLL_FAILED_MAX_MS 60000u
#define POLL_CALL_MS 20000u

const char *ebs_sysfs = "/sys";

/* ---- life ---- */

static void ebs_close(void *p)
{
	struct ebs *e = p;

	creds_free(e->creds);
	ec2_free(e->ec2);
	free(e);
}

static void *ebs_open(const struct door *d, struct snap_error *err)
{
	const struct conf *c = d->conf;
	const struct creds_opts o = { .profile = conf_str(c, "ebs.profile"), .region = conf_str(c, "ebs.region"),
				      .endpoint = conf_str(c, "ebs.endpoint"), .fips = conf_bool(c, "ebs.fips"),
				      .dualstack = conf_bool(c, "ebs.dualstack"), .imds_v1 = conf_bool(c, "ebs.old_metadata") };
	struct ebs *e = calloc(1, sizeof(*e));
	struct vols v = { 0 };
	int r = e ? 0 : -ENOMEM;

#ifdef STILLFS_TEST_PROVIDERS
	if (getenv("STILLFS_TEST_SYSFS"))
		ebs_sysfs = getenv("STILLFS_TEST_SYSFS");
#endif
	if (r == 0)
		r = discover_named(conf_str(c, "ebs.volumes"), 1, &v, err);
	if (r == 0)
		r = describe_check(conf_str(c, "ebs.description"), err);
	if (r == 0 && *conf_str(c, "ebs.instance") && !discover_is_id(conf_str(c, "ebs.instance"), "i-"))
		r = snap_error_set(err, -EINVAL, "ebs.instance=%.60s: expected an id like i-0123456789abcdef0",
				   conf_str(c, "ebs.instance"));
	if (r == 0) {
		e->door = d;
		e->creds = creds_new(&o, err);
		e->ec2 = e->creds ? ec2_new(err) : NULL;
		if (e->ec2)
			return e;
		r = -ENOMEM;
	}
	snap_error_set(err, r, "provider ebs: out of memory");
	if (e)
		ebs_close(e);
	return NULL;
}

/* ---- preflight and trigger ---- */

static int make_attempt(struct erun *er)
{
	unsigned char rnd[16];

	if (getrandom(rnd, sizeof(rnd), 0) != (ssize_t)sizeof(rnd))
		return -EIO;
	hex_put(er->attempt, rnd, sizeof(rnd));
	return 0;
}

static int ebs_preflight(void *self, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .stop = r, .deadline_ns = clock_boot_ns() + max_ms * NS_PER_MS };
	struct erun *er = calloc(1, sizeof(*er));

	if (!er || make_attempt(er) < 0) {
		free(er);
		return snap_error_set(err, -ENOMEM, "provider ebs: out of memory");
	}
	r->ref = er;
	return check_all(&a, r, er, hold_ms, err);
}

static int ebs_warm(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .stop = r, .deadline_ns = clock_boot_ns() + max_ms * NS_PER_MS };

	return check_allowed(&a, r, r->ref, err);
}

/* Are these exactly one snapshot of each of our volumes, and none has failed? */
static int exactly_ours(const struct erun *er, const struct snaps *s, struct snap_error *err)
{
	for (unsigned i = 0; i < er->vols.n; i++) {
		unsigned found = 0;

		for (unsigned k = 0; k < s->n; k++) {
			if (strcmp(s->v[k].volume, er->vols.v[i].id) != 0)
				continue;
			found++;
			if (!s->v[k].id[0] || strcmp(s->v[k].state, "error") == 0)
				return snap_error_set(err, -EIO, "the snapshot of %s failed at once: %.100s", er->vols.v[i].id,
						      s->v[k].message);
		}
		if (found != 1)
			return snap_error_set(err, -EIO, "EC2 made %u snapshots of volume %s, where one was asked for; what was made is "
							 "deleted", found, er->vols.v[i].id);
	}
	if (s->n != er->vols.n)
		return snap_error_set(err, -EIO, "EC2 made %u snapshots, of %u volumes; volumes were attached meanwhile? what was made is "
						 "deleted", s->n, er->vols.n);
	return 0;
}

static void read_created(const struct xml *x, const struct erun *er, struct snaps *out)
{
	const struct xml_elem *root = xml_root(x), *i = er->vols.n == 1 ? root : xml_find(root, "snapshotSet/item");

	out->n = 0;
	for (; i && out->n < SNAPS_MAX; i = er->vols.n == 1 ? NULL : xml_next(i))
		api_read_snap(i, &out->v[out->n++]);
}

/* The answer was lost. While the gate is closed, look for what the request made. */
static int look_for(struct api *a, const struct prov_run *r, struct erun *er, uint64_t end_ns, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = LOOK_PAUSE_MS * NS_PER_MS };
	struct snap_error why = { 0 };
	uint64_t most = clock_boot_ns() + LOOK_MAX_MS * NS_PER_MS;

	end_ns -= LOOK_SPARE_MS * NS_PER_MS;
	a->deadline_ns = end_ns < most ? end_ns : most;
	while (!r->cancelled(r) && clock_boot_ns() + LOOK_PAUSE_MS * NS_PER_MS < a->deadline_ns) {
		snap_error_clear(&why);
		if (api_find(a, "stillfs:attempt", er->attempt, &er->snaps, &why) == 0 && er->snaps.n &&
		    exactly_ours(er, &er->snaps, &why) == 0) {
			er->sure = true;
			log_warn("snapshot %s: the answer to %s was lost, but its snapshots were found while writes were held", r->name,
				 create_action(er));
			return 0;
		}
		if (why.code == -EACCES)
			break;
		(void)nanosleep(&pause, NULL);
	}
	return snap_error_set(err, -EIO, "no answer to %s, so nobody knows when its snapshots were begun; they are looked for and "
					 "deleted", create_action(er));
}

static int ebs_trigger(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	struct api a = { .e = self, .stop = r, .held = true };
	struct snap_error why = { 0 };
	struct vbuf form = VBUF_INIT;
	struct erun *er = r->ref;
	struct xml *x = NULL;
	int ret = create_form(self, r, er, false, &form, err);

	if (ret > 0)
		(void)snprintf(er->progress.note, sizeof(er->progress.note), "where %d of the %u directories lie is not in the tags, which have no "
			       "room: a restore on another host mounts the others alone, and there is no verification", ret,
			       a.e->door->n_pairs);
	if (ret >= 0) {
		a.deadline_ns = max_ms >= LOOK_FROM_MS ? end - LOOK_RESERVE_MS * NS_PER_MS : end;
		er->sent = true;
		ret = api_call(&a, create_action(er), &form, true, &x, &why);
		er->sent = a.fate != EC2_REFUSED;
		if (ret == 0) {
			read_created(x, er, &er->snaps);
			er->sure = er->snaps.n >= er->vols.n; /* else more may have been made than it names */
			ret = exactly_ours(er, &er->snaps, err);
		} else if (ret != -ECANCELED && a.fate == EC2_UNKNOWN) {
			ret = look_for(&a, r, er, end, err);
		} else {
			snap_error_set(err, ret, "%s", why.msg);
		}
	}
	xml_free(x);
	vbuf_free(&form);
	er->fixed_ns = clock_boot_ns();
	er->pause_ms = POLL_FIRST_MS;
	er->next_poll_ns = er->fixed_ns + er->pause_ms * NS_PER_MS;
	return ret;
}

/* ---- completion ---- */

static int describe_own(struct api *a, struct erun *er, struct snaps *now, struct snap_error *err)
{
	return api_find(a, "stillfs:attempt", er->attempt, now, err);
}

/* What the snapshots have come to. 0, or why the set has failed. */
static int judge(struct erun *er, const struct snaps *now, struct snap_error *err)
{
	struct prov_progress *p = &er->progress;
	uint64_t done = 0, all = 0;
	bool complete = true, young = clock_boot_ns() - er->fixed_ns < NEW_S * NS_PER_S;

	for (unsigned i = 0; i < er->snaps.n; i++) {
		const struct snap *s = NULL;

		for (unsigned k = 0; k < now->n; k++)
			if (strcmp(now->v[k].id, er->snaps.v[i].id) == 0)
				s = &now->v[k];
		if (!s && !young)
			return snap_error_set(err, -EIO, "snapshot %s of volume %s has gone", er->snaps.v[i].id, er->snaps.v[i].volume);
		if (s && strcmp(s->state, "error") == 0)
			return snap_error_set(err, -EIO, "snapshot %s of volume %s failed: %.120s", s->id, s->volume,
					      s->message[0] ? s->message : "AWS gives no reason");
		complete &= s && strcmp(s->state, "completed") == 0;
		all += s ? s->size_gib : 0;
		done += s ? (uint64_t)s->size_gib * (strcmp(s->state, "completed") == 0 ? 100 : s->percent) : 0;
	}
	p->complete = complete;
	p->percent = complete ? 100 : all ? (unsigned)(done / all) : 0;
	if (p->percent > 99 && !complete)
		p->percent = 99;
	p->size_b = all << 30;
	p->volumes = er->snaps.n;
	p->detail[0] = '\0';
	for (unsigned i = 0; i < er->snaps.n && strlen(p->detail) < 200; i++)
		(void)snprintf(p->detail + strlen(p->detail), sizeof(p->detail) - strlen(p->detail), "%s%s", i ? " " : "",
			       er->snaps.v[i].id);
	return 0;
}

static void wait_slice(const struct prov_run *r, uint64_t until_ns)
{
	const struct timespec tick = { .tv_nsec = 10000000 };

	while (clock_boot_ns() < until_ns && !r->cancelled(r))
		(void)nanosleep(&tick, NULL);
}

/* What is only known now, into the tags. Nothing depends on it. */
static void add_tags(struct api *a, const struct prov_run *r, struct erun *er)
{
	struct snap_error why = { 0 };
	char *note = er->progress.note;
	size_t n = strlen(note);

	if (er->tagged || !r->timed)
		return;
	er->tagged = true;
	if (tags_later(a, r, er, &why) < 0)
		(void)snprintf(note + n, sizeof(er->progress.note) - n, "%stimes are not in the tags: %.220s", n ? "; " : "", why.msg);
}

static int ebs_poll(void *self, struct prov_run *r, uint32_t max_ms, struct prov_progress *out, struct snap_error *err)
{
	struct api a = { .e = self, .stop = r, .deadline_ns = clock_boot_ns() + POLL_CALL_MS * NS_PER_MS };
	uint64_t slice = clock_boot_ns() + max_ms * NS_PER_MS;
	struct erun *er = r->ref;
	struct snap_error why = { 0 };
	struct snaps *now;
	int ret = 0;

	wait_slice(r, er->next_poll_ns < slice ? er->next_poll_ns : slice);
	if (clock_boot_ns() >= er->next_poll_ns && !r->cancelled(r)) {
		now = calloc(1, sizeof(*now));
		if (!now)
			return snap_error_set(err, -ENOMEM, "provider ebs: out of memory");
		ret = describe_own(&a, er, now, &why);
		if (ret < 0 && r->cancelled(r)) {
			ret = 0; /* the slice was ended: as if it had not been asked */
		} else if (ret == 0) {
			add_tags(&a, r, er);
			ret = judge(er, now, err);
			er->pause_ms = er->pause_ms * 3 / 2 < POLL_MAX_MS ? er->pause_ms * 3 / 2 : POLL_MAX_MS;
		} else {
			/* what AWS makes goes on without us: no failure of asking is a failure of the set */
			ret = 0;
			er->pause_ms = er->pause_ms * 2 < POLL_FAILED_MAX_MS ? er->pause_ms * 2 : POLL_FAILED_MAX_MS;
			(void)snprintf(er->progress.detail, sizeof(er->progress.detail), "progress unknown: %.230s", why.msg);
		}
		er->next_poll_ns = clock_boot_ns() + er->pause_ms * NS_PER_MS;
		free(now);
	}
	er->progress.volumes = er->snaps.n;
	*out = er->progress;
	er->progress.note[0] = '\0';
	return ret;
}

void ebs_finish(void *self, struct prov_run *r)
{
	free(r->ref);
	r->ref = NULL;
}

/* ---- listing ---- */

struct listed {
	char name[DOOR_NAME_MAX + 1], id[33];
	unsigned members, completed;
};

struct listing {
	struct listed *v;
	size_t n, cap;
};

static int add_listed(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct listing *l = arg;

	for (; i; i = xml_next(i)) {
		char id[300], num[300];
		struct snap s;
		size_t k = 0;

		api_tag(i, "stillfs:id", id, sizeof(id));
		api_tag(i, "stillfs:members", num, sizeof(num));
		api_read_snap(i, &s);
		if (strlen(id) != 32)
			continue;
		while (k < l->n && strcmp(l->v[k].id, id) != 0)
			k++;
		if (k == l->cap) {
			struct listed *more = realloc(l->v, (l->cap + 64) * sizeof(*more));

			if (!more)
				return snap_error_set(err, -ENOMEM, "list sets: out of memory");
			l->v = more;
			l->cap += 64;
		}
		if (k == l->n) {
			l->v[k] = (struct listed){ .members = (unsigned)strtoul(num, NULL, 10) };
			memcpy(l->v[k].id, id, 33);
			api_tag(i, "stillfs:set", num, sizeof(num));
			(void)snprintf(l->v[k].name, sizeof(l->v[k].name), "%.64s", num);
			l->n++;
		}
		l->v[k].completed += strcmp(s.state, "completed") == 0;
	}
	return 0;
}

static int ebs_list(void *self, int (*fn)(void *arg, const char *name, const char *set_id, bool complete), void *arg,
		    uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .deadline_ns = clock_boot_ns() + (uint64_t)max_ms * NS_PER_MS };
	struct listing l = { 0 };
	struct vbuf form = VBUF_INIT;
	int r = api_connect(&a, false, err);

	if (r == 0) {
		ec2_arg(&form, "self", "Owner.1");
		ec2_arg(&form, "1000", "MaxResults");
		ec2_arg(&form, "tag:stillfs:name", "Filter.1.Name");
		ec2_arg(&form, a.e->door->name, "Filter.1.Value.1");
		r = api_pages(&a, "DescribeSnapshots", &form, add_listed, &l, err);
	}
	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (fn(arg, l.v[i].name, l.v[i].id, l.v[i].members && l.v[i].completed == l.v[i].members))
			break;
	vbuf_free(&form);
	free(l.v);
	return r;
}

static int ebs_scan(void *self, const char *lineage, const char *name, int (*fn)(void *arg, struct set *s), void *arg,
		    uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .deadline_ns = clock_boot_ns() + (uint64_t)max_ms * NS_PER_MS };
	int r = api_connect(&a, false, err);

	return r < 0 ? r : scan_sets(&a, lineage, name, "", fn, arg, err);
}

static int ebs_note_pin(void *self, const char *set_id, bool pin, uint32_t max_ms, struct snap_error *err)
{
	struct api a = { .e = self, .deadline_ns = clock_boot_ns() + (uint64_t)max_ms * NS_PER_MS };
	struct snaps *s = calloc(1, sizeof(*s));
	int r = s ? api_connect(&a, false, err) : snap_error_set(err, -ENOMEM, "provider ebs: out of memory");

	if (r == 0)
		r = api_find(&a, "stillfs:id", set_id, s, err);
	if (r == 0 && s->n)
		r = api_tag_all(&a, s, 0, s->n, "stillfs:pin", pin ? "yes" : "no", err);
	free(s);
	return r;
}

const struct prov_ops prov_ebs = {
	.name = "ebs",
	.features = PROV_SYNC_FIRST | PROV_REMOTE | PROV_VOLUMES,
	.open = ebs_open,
	.close = ebs_close,
	.preflight = ebs_preflight,
	.warm = ebs_warm,
	.trigger = ebs_trigger,
	.poll = ebs_poll,
	.resume = ebs_resume,
	.discard = ebs_discard,
	.finish = ebs_finish,
	.remove = ebs_remove,
	.list = ebs_list,
	.scan = ebs_scan,
	.note_pin = ebs_note_pin,
	.holds = ebs_holds,
};
