/* snapshot/fence/side_group.c - the fences of several databases under one mount as one: all are up, or none is.
 * Owns:      its parts, one side for each database of the configuration that can be fenced (registry.c).
 * Called by: fence/keep_work.c, see side.h.
 * Record:    the lines of each part behind "mongodb." or "mysql.", and "done yes" when all of them are up.
 * Blocks:    as the parts do, one after the other.
 * Errors:    the first part's that fails; -ESTALE before any other, since that can be mended. */
#include "snapshot/fence/side.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS 2

struct part {
	const char *name;
	const struct fence_side *side;
	void *self;
};

struct group {
	struct part p[PARTS];
	unsigned n;
};

/* One on or off: what the parts tell goes on to the caller. */
struct call {
	struct group *g;
	const struct fence_opts *o;
	struct vbuf sub[PARTS]; /* the record of each */
	bool done;
	unsigned at;
};

/* ---- life ---- */

static void group_close(void *self)
{
	struct group *g = self;

	for (unsigned i = 0; g && i < g->n; i++)
		g->p[i].side->close(g->p[i].self);
	free(g);
}

static void *group_open(const struct conf *c, struct snap_error *err)
{
	struct group *g = calloc(1, sizeof(*g));

	if (!g) {
		snap_error_set(err, -ENOMEM, "fence: out of memory");
		return NULL;
	}
	for (; g->n < PARTS; g->n++) {
		struct part *p = &g->p[g->n];

		p->side = fence_side_nth(c, g->n, &p->name);
		if (!p->side)
			break;
		p->self = p->side->open(c, err);
		if (!p->self) {
			group_close(g);
			return NULL;
		}
	}
	return g;
}

static void group_sever(void *self)
{
	struct group *g = self;

	for (unsigned i = 0; i < g->n; i++)
		g->p[i].side->sever(g->p[i].self);
}

/* ---- records ---- */

static void split(const char *record, const char *name, struct vbuf *out)
{
	size_t n = strlen(name), len;

	for (const char *p = record; *p; p += len + (p[len] != '\0')) {
		len = strcspn(p, "\n");
		if (strncmp(p, name, n) == 0 && p[n] == '.')
			vbuf_printf(out, "%.*s\n", (int)(len - n - 1), p + n + 1);
	}
}

/* lines: of the part c->at, in place of what is there; NULL: as they all are. */
static void join(const struct call *c, const char *lines, struct vbuf *out)
{
	bool done = c->done; /* one that is being put up again is not, and the whole with it */

	for (unsigned i = 0; i < c->g->n; i++) {
		const char *from = lines && i == c->at ? lines : vbuf_text(&c->sub[i]);
		size_t len;

		done = done && fence_record_state(from) == FENCE_ON;
		for (const char *p = from; *p; p += len + (p[len] != '\0')) {
			len = strcspn(p, "\n");
			vbuf_printf(out, "%s.%.*s\n", c->g->p[i].name, (int)len, p);
		}
	}
	if (done)
		vbuf_puts(out, "done yes\n");
}

/* -EXDEV: a record that is of none of them, or lacks one that is up. */
static int begin(struct call *c, struct group *g, const struct fence_opts *o, const char *record, struct snap_error *err)
{
	*c = (struct call){ .g = g, .o = o, .done = fence_record_state(record) == FENCE_ON };
	for (unsigned i = 0; i < g->n; i++) {
		split(record, g->p[i].name, &c->sub[i]);
		if (vbuf_error(&c->sub[i]) < 0)
			return snap_error_set(err, -ENOMEM, "fence: record: out of memory");
		if (c->done && !c->sub[i].len)
			return snap_error_set(err, -EXDEV, "fence: the record in state_dir has nothing of %s: start with db= as it was when the fence was "
							   "put up, and take it down first", g->p[i].name);
	}
	return 0;
}

static void end(struct call *c, struct vbuf *record)
{
	if (record) {
		vbuf_free(record);
		join(c, NULL, record);
	}
	for (unsigned i = 0; i < c->g->n; i++)
		vbuf_free(&c->sub[i]);
}

/* ---- what a part tells ---- */

static int tell_record(void *arg, const char *lines, struct snap_error *err)
{
	const struct call *c = arg;
	struct vbuf all = VBUF_INIT;
	int r;

	join(c, lines, &all);
	r = vbuf_error(&all);
	r = r < 0 ? snap_error_set(err, r, "fence: record: out of memory") : c->o->record(c->o->arg, vbuf_text(&all), err);
	vbuf_free(&all);
	return r;
}

static void tell_ended(void *arg, const struct fence_session *s)
{
	const struct call *c = arg;

	if (c->o->ended)
		c->o->ended(c->o->arg, s);
}

static void tell_note(void *arg, const char *sentence)
{
	const struct call *c = arg;

	if (c->o->note)
		c->o->note(c->o->arg, sentence);
}

static bool tell_cancelled(void *arg)
{
	const struct call *c = arg;

	return c->o->cancelled && c->o->cancelled(c->o->arg);
}

static struct fence_opts opts(struct call *c)
{
	return (struct fence_opts){ .max_ms = c->o->max_ms, .record = tell_record, .ended = tell_ended, .note = tell_note,
				    .cancelled = tell_cancelled, .arg = c };
}

/* ---- the calls ---- */

/* All findings, also of those behind one that cannot be fenced. */
static int group_check(void *self, struct fence_opts *o, struct vbuf *found, struct snap_error *err)
{
	struct group *g = self;
	int first = 0;

	for (unsigned i = 0; i < g->n; i++) {
		struct snap_error why = { 0 };
		struct vbuf lines = VBUF_INIT;
		int r = g->p[i].side->check(g->p[i].self, o, &lines, &why);

		if (r < 0 && !lines.len)
			vbuf_printf(&lines, "%s\n", why.msg);
		vbuf_puts(found, vbuf_text(&lines));
		vbuf_free(&lines);
		if (r < 0 && first == 0)
			first = snap_error_set(err, r, "%s", why.msg);
	}
	return first;
}

/* Those that stand are let be: putting the one up again ends no sessions at the other. */
static int part_on(struct call *c, unsigned i, struct snap_error *err)
{
	const struct part *p = &c->g->p[i];
	struct snap_error ignored = { 0 };
	struct fence_opts o = opts(c);

	c->at = i;
	if (c->sub[i].len && p->side->verify(p->self, vbuf_text(&c->sub[i]), &ignored) == 0)
		return 0;
	return p->side->on(p->self, &o, &c->sub[i], err);
}

/* One was refused and has changed nothing: the others come down again. */
static void take_back(struct call *c)
{
	struct fence_opts o = opts(c);

	for (unsigned i = c->g->n; i-- > 0;) {
		struct snap_error why = { 0 };

		c->at = i;
		if (c->g->p[i].side->off(c->g->p[i].self, &o, &c->sub[i], &why) < 0 && c->o->note)
			c->o->note(c->o->arg, why.msg); /* it stays in the record, and is tried again with the whole */
	}
}

/* Whatever came of each: one that fails does not keep those behind it from being put up again. */
static int parts_on(struct call *c, bool fresh, struct snap_error *err)
{
	int first = 0;

	for (unsigned i = 0; i < c->g->n && !(fresh && first < 0); i++) {
		struct snap_error why = { 0 };
		int r = part_on(c, i, &why);

		if (r < 0 && first == 0)
			first = snap_error_set(err, r, "%s", why.msg);
		if (r < 0 && fresh && !c->sub[i].len)
			take_back(c);
	}
	return first;
}

static int group_on(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	bool fresh = !record->len;
	struct group *g = self;
	struct vbuf found = VBUF_INIT;
	struct fence_opts quiet = *o; /* what the parts have to say they say again */
	struct call c;
	int r;

	quiet.note = NULL;
	r = fresh ? group_check(g, &quiet, &found, err) : 0;
	vbuf_free(&found);
	if (r < 0)
		return r;
	r = begin(&c, g, o, vbuf_text(record), err);
	if (r < 0) {
		end(&c, NULL);
		return r;
	}
	r = parts_on(&c, fresh, err);
	c.done = c.done || r == 0;
	if (r == 0)
		r = tell_record(&c, NULL, err);
	end(&c, record);
	return r;
}

static int group_off(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	struct group *g = self;
	struct call c;
	int first;

	if (!record->len)
		return 0;
	first = begin(&c, g, o, vbuf_text(record), err);
	for (unsigned i = g->n; first != -EXDEV && i-- > 0;) {
		struct snap_error why = { 0 };
		struct fence_opts each = opts(&c);
		int r;

		c.at = i;
		r = g->p[i].side->off(g->p[i].self, &each, &c.sub[i], &why);
		if (r < 0 && first == 0)
			first = snap_error_set(err, r, "%s", why.msg);
	}
	c.done = c.done && first == -EXDEV;
	end(&c, first == -EXDEV ? NULL : record);
	return first;
}

static int group_verify(void *self, const char *record, struct snap_error *err)
{
	struct group *g = self;
	struct call c;
	int first = begin(&c, g, &(struct fence_opts){ 0 }, record, err);

	if (first == 0 && !c.done)
		first = snap_error_set(err, -ESTALE, "fence: it is %s", *record ? "only half up" : "off");
	for (unsigned i = 0; c.done && first != -EXDEV && i < g->n; i++) {
		struct snap_error why = { 0 };
		int r = g->p[i].side->verify(g->p[i].self, vbuf_text(&c.sub[i]), &why);

		if (r < 0 && (first == 0 || (r == -ESTALE && first != -ESTALE))) {
			snap_error_clear(err);
			first = snap_error_set(err, r, "%s", why.msg);
		}
	}
	end(&c, NULL);
	return first;
}

static void group_counts(void *self, long long *refused, long long *denied)
{
	struct group *g = self;

	*refused = *denied = -1;
	for (unsigned i = 0; i < g->n; i++) {
		long long r, d;

		g->p[i].side->counts(g->p[i].self, &r, &d);
		if (r >= 0)
			*refused = *refused < 0 ? r : *refused + r;
		if (d >= 0)
			*denied = *denied < 0 ? d : *denied + d;
	}
}

const struct fence_side fence_side_group = {
	.open = group_open,
	.close = group_close,
	.sever = group_sever,
	.check = group_check,
	.on = group_on,
	.off = group_off,
	.verify = group_verify,
	.counts = group_counts,
};
