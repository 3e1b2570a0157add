/* snapshot/fence/side_mongodb.c - the fence of the MongoDB that db.mongodb_uri_file leads to: a member of a replica set takes
 * writes while it is the primary and only then, so it steps down if it is, and is kept from standing for election (replSetFreeze)
 * for as long as the fence is up. Such a freeze ends by itself, and with the process: verify renews it.
 * Owns:      a connection of its own; one more while it steps down, whose answer takes longer.
 * Called by: fence/keep_work.c, see side.h.
 * Record:    "server mongodb SET SET_ID MEMBER", "was primary|secondary", "done yes".
 * Blocks:    by the time-outs of its connections: sever only marks, and a call in progress ends by them.
 * Errors:    as fence.h; -EOPNOTSUPP of verify: it runs standalone, and cannot be fenced. */
#include "snapshot/fence/mongodb.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CATCH_UP_S 5 /* the primary takes no writes while it waits for a secondary */
#define CATCH_UP_AGAIN_S 1 /* in a look: it has to end within that, and comes by again */
#define REFREEZE_S 60 /* at the latest; somebody may have said rs.freeze(0) */
#define POLL_MS 50

/* ---- life ---- */

static void *side_open(const struct conf *c, struct snap_error *err)
{
	struct mgf *s = calloc(1, sizeof(*s));

	if (!s) {
		snap_error_set(err, -ENOMEM, "fence: out of memory");
		return NULL;
	}
	mgl_begin();
	s->conf = c;
	return s;
}

static void side_close(void *self)
{
	struct mgf *s = self;

	if (s)
		(void)mgf_broken(s, -ESHUTDOWN);
	free(s);
}

static void side_sever(void *self)
{
	struct mgf *s = self;

	atomic_store(&s->severed, true);
}

/* The end of a call: what was wrong may be the URI file, so it is read anew. */
static int ended(struct mgf *s, int r)
{
	return r == -ESTALE ? r : mgf_broken(s, r);
}

/* ---- freeze ---- */

static int32_t freeze_s(const struct mgf *s)
{
	return (int32_t)(conf_num(s->conf, "fence.mongodb_freeze") / 1000);
}

/* -ESTALE: it is the primary, or about to be. */
static int freeze(struct mgf *s, int32_t for_s, int *code, struct snap_error *err)
{
	struct snap_error why = { 0 };
	uint64_t now = clock_boot_ns();
	int r = mgf_ready(s, err);

	*code = 0;
	if (r < 0)
		return r;
	r = mgs_freeze(s->c, s->host, for_s, code, &why);
	if (r == 0) {
		s->frozen_ns = for_s ? now : 0;
		return 0;
	}
	if (!*code)
		(void)mgf_broken(s, r);
	return snap_error_set(err, *code == MGS_NOT_SECONDARY ? -ESTALE : r, "fence: %s", why.msg);
}

static bool is_due(const struct mgf *s)
{
	uint64_t every = (uint64_t)freeze_s(s) / 4;

	return !s->frozen_ns || clock_boot_ns() >= s->frozen_ns + (every < REFREEZE_S ? every : REFREEZE_S) * NS_PER_S;
}

/* ---- step down ---- */

static bool given_up(const struct fence_opts *o)
{
	return o->cancelled && o->cancelled(o->arg);
}

static int ask_primary(struct mgf *s, bool *primary, struct snap_error *err)
{
	bson_t h;
	int r = mgf_hello(s, &h, err);

	*primary = r == 0 && mgf_primary(&h);
	bson_destroy(&h);
	return r;
}

/* Whatever was answered, who is the primary now? wait_s: a step down whose answer was lost may still be on its way. */
static int wait_stepped(struct mgf *s, const struct fence_opts *o, uint32_t wait_s, bool *primary, struct snap_error *err)
{
	const struct timespec pause = { 0, POLL_MS * 1000000L };
	uint64_t end = clock_boot_ns() + wait_s * NS_PER_S;
	int r = ask_primary(s, primary, err);

	while (r == 0 && *primary && clock_boot_ns() < end && !given_up(o)) {
		(void)nanosleep(&pause, NULL);
		r = ask_primary(s, primary, err);
	}
	return r;
}

/* *refused: the server answered, and is the primary still: nothing was changed. */
static int step_down(struct mgf *s, const struct fence_opts *o, int32_t catch_up_s, bool *refused, struct snap_error *err)
{
	struct snap_error why = { 0 };
	mongoc_client_t *c = NULL;
	bool primary = true;
	int code = 0, r = mgf_client(s, MGL_ANSWER_MS + catch_up_s * 1000, &c, err);

	*refused = r < 0;
	if (r < 0)
		return r;
	r = mgs_step_down(c, freeze_s(s), catch_up_s, &code, &why);
	mongoc_client_destroy(c);
	FAULT("fence.mongodb_stepped");
	*refused = r < 0 && code;
	r = wait_stepped(s, o, r < 0 && !code ? (uint32_t)catch_up_s : 0, &primary, err);
	if (r < 0 || !primary) {
		*refused = false;
		return r;
	}
	if (given_up(o))
		return snap_error_set(err, -ECANCELED, "fence: given up before %s stepped down", s->host);
	return snap_error_set(err, why.code ? why.code : -EAGAIN, "fence: %s is the primary still: %.300s", s->host,
			      why.code ? why.msg : "it was elected again at once");
}

/* ---- on ---- */

static int side_check(void *self, struct fence_opts *o, struct vbuf *found, struct snap_error *err)
{
	struct mgf *s = self;
	bson_t h;
	int r;

	atomic_store(&s->severed, false);
	r = mgf_hello(s, &h, err);
	if (r == 0)
		r = mgf_check(s, &h, err);
	bson_destroy(&h);
	return ended(s, r);
}

static int save(const struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	int r = vbuf_error(record);

	r = r < 0 ? snap_error_set(err, r, "fence: record: out of memory") : o->record(o->arg, vbuf_text(record), err);
	FAULT("fence.recorded");
	return r;
}

static void tell_stepped(const struct mgf *s, const struct fence_opts *o)
{
	char text[500];

	(void)snprintf(text, sizeof(text), "fence: %s was the primary of the set %s and stepped down; off lets it be elected again, and does not make it "
					   "the primary", s->host, s->set);
	if (o->note)
		o->note(o->arg, text);
}

/* It is the member that the record is of. *untouched: nothing was changed when it fails. */
static int put_up(struct mgf *s, const struct fence_opts *o, bool primary, struct vbuf *record, bool *untouched, struct snap_error *err)
{
	bool again = fence_record_state(vbuf_text(record)) == FENCE_ON;
	int code = 0, r;

	fence_record_add(record, "server", s->id);
	fence_record_add(record, "was", primary ? "primary" : "secondary");
	*untouched = true;
	r = save(o, record, err);
	if (r == 0 && given_up(o))
		r = snap_error_set(err, -ECANCELED, "fence: given up before anything was changed");
	if (r == 0 && primary)
		r = step_down(s, o, again ? CATCH_UP_AGAIN_S : CATCH_UP_S, untouched, err);
	if (r < 0)
		return r;
	r = freeze(s, freeze_s(s), &code, err);
	*untouched = r < 0 && code && !primary;
	FAULT("fence.mongodb_frozen");
	if (r == 0)
		r = ask_primary(s, &primary, err);
	if (r == 0 && primary)
		r = snap_error_set(err, -ESTALE, "fence: %s was elected at this very moment", s->host);
	if (r < 0)
		return r;
	fence_record_add(record, "done", "yes");
	return save(o, record, err);
}

static int side_on(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	bool fresh = !record->len, primary, untouched = true;
	struct mgf *s = self;
	bson_t h;
	int r;

	atomic_store(&s->severed, false);
	r = mgf_hello(s, &h, err);
	if (r == 0)
		r = fresh ? mgf_check(s, &h, err) : mgf_kind(&h, err);
	if (r == 0)
		r = mgf_same_server(s, &h, vbuf_text(record), err);
	primary = mgf_primary(&h);
	bson_destroy(&h);
	if (r == 0)
		r = put_up(s, o, primary, record, &untouched, err);
	if (r == 0 && primary)
		tell_stepped(s, o);
	if (r < 0 && fresh && untouched)
		vbuf_free(record);
	return ended(s, r);
}

/* ---- looked after ---- */

/* The look is also what renews: a freeze that ends, and one that a restarted server has forgotten, before anybody could elect it. */
static int side_verify(void *self, const char *record, struct snap_error *err)
{
	struct mgf *s = self;
	bson_t h;
	int code, r;

	if (fence_record_state(record) != FENCE_ON)
		return snap_error_set(err, -ESTALE, "fence: it is %s", *record ? "only half up" : "off");
	atomic_store(&s->severed, false);
	r = mgf_hello(s, &h, err);
	if (r == 0)
		r = mgf_kind(&h, err);
	if (r == 0)
		r = mgf_same_server(s, &h, record, err);
	if (r == 0 && mgf_primary(&h))
		r = snap_error_set(err, -ESTALE, "fence: it is not as it was put up: %s is the primary", s->host);
	bson_destroy(&h);
	if (r == 0 && is_due(s))
		r = freeze(s, freeze_s(s), &code, err);
	return ended(s, r);
}

/* ---- off ---- */

/* The member that was fenced, and no primary: the freeze is all there is to take back. */
static int thaw(struct mgf *s, struct snap_error *err)
{
	struct snap_error why = { 0 };
	bool primary = false;
	int code, r = freeze(s, 0, &code, &why);

	FAULT("fence.mongodb_thawed");
	if (r == -ESTALE && ask_primary(s, &primary, err) == 0 && primary)
		return 0;
	return r < 0 ? snap_error_set(err, r == -ESTALE ? -EAGAIN : r, "%s", why.msg) : 0;
}

static int side_off(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	struct mgf *s = self;
	struct snap_error why = { 0 };
	bson_t h;
	int r, kind;

	if (!record->len)
		return 0;
	atomic_store(&s->severed, false);
	r = mgf_hello(s, &h, err);
	kind = r == 0 ? mgf_kind(&h, &why) : 0;
	if (kind == -EINVAL) {
		r = snap_error_set(err, kind, "%s", why.msg);
	} else if (kind < 0) { /* no member of a set, or not yet again: it is another process than the one that was frozen */
		if (o->note)
			o->note(o->arg, why.msg);
	} else if (r == 0) {
		r = mgf_same_server(s, &h, vbuf_text(record), err);
		if (r == 0 && !mgf_primary(&h)) /* a primary is not frozen */
			r = thaw(s, err);
	}
	bson_destroy(&h);
	if (r == 0)
		vbuf_free(record);
	return ended(s, r);
}

static void side_counts(void *self, long long *refused, long long *denied)
{
	*refused = *denied = -1; /* a secondary does not count what it refuses */
}

const struct fence_side fence_side_mongodb = {
	.open = side_open,
	.close = side_close,
	.sever = side_sever,
	.check = side_check,
	.on = side_on,
	.off = side_off,
	.verify = side_verify,
	.counts = side_counts,
};
