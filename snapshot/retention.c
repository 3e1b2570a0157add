/* snapshot/retention.c - what a policy says of a list of sets. See retention.h.
 * Called by: prune.c. Threads: any. Blocks: never. No I/O, no clock. Errors: -ENOMEM.
 *
 * Nothing here deletes: a set without a reason to stay is merely not kept. Every rule only adds reasons, so one rule
 * more, or a greater number, never costs a set (but for the first keep_* rule of a class, which ends its emptiness). */
#include "snapshot/retention.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct judge {
	const struct ret_policy *p;
	const struct zone *z;
	const struct ret_set *sets;
	struct ret_result *out;
	int64_t now, ref; /* ages count from ref, the newest complete set's time */
	bool has_ref;
};

/* By class, then the newest first. */
static int by_class_and_age(const void *a, const void *b, void *arg)
{
	const struct ret_set *sets = arg, *x = &sets[*(const size_t *)a], *y = &sets[*(const size_t *)b];
	int r = strcmp(x->class, y->class);

	if (r)
		return r;
	if (x->created != y->created)
		return x->created > y->created ? -1 : 1;
	return x->seq > y->seq ? -1 : x->seq < y->seq;
}

static bool newer(const struct ret_set *a, const struct ret_set *b)
{
	return a->created != b->created ? a->created > b->created : a->seq > b->seq;
}

/* Neither the newest nor what ages count from may be a set from the future, unless there is no other. */
static void mark_newest(struct judge *j, size_t n)
{
	const struct ret_set *s = j->sets;
	size_t newest = n, taken = n, verified = n;

	for (size_t i = 0; i < n; i++) {
		bool past = s[i].created <= j->now;

		if (!s[i].complete)
			continue;
		if (newest == n || (past && s[newest].created > j->now) ||
		    (past == (s[newest].created <= j->now) && newer(&s[i], &s[newest])))
			newest = i;
		if (taken == n || s[i].seq > s[taken].seq)
			taken = i;
		if (s[i].verified && (verified == n || newer(&s[i], &s[verified])))
			verified = i;
	}
	if (newest == n)
		return;
	j->has_ref = true;
	j->ref = s[newest].created < j->now ? s[newest].created : j->now;
	j->out[newest].why |= RET_BY_NEWEST;
	j->out[taken].why |= RET_BY_NEWEST; /* the last one taken, while the clock was wrong */
	if (verified < n)
		j->out[verified].why |= RET_BY_VERIFIED;
}

static bool applies(const struct ret_rule *r, const char *class)
{
	return *r->class ? strcmp(r->class, class) == 0 : strcmp(class, "manual") != 0;
}

static bool has_tag(const char *tags, const char *want)
{
	size_t len = strlen(want);
	bool pair = strchr(want, ':') != NULL;

	for (const char *p = tags; *p;) {
		size_t l = strcspn(p, "\n");

		if (l >= len && strncmp(p, want, len) == 0 && (pair ? l == len : p[len] == ':'))
			return true;
		p += l + (p[l] == '\n');
	}
	return false;
}

/* The period a set lies in, as one number. */
static int64_t bucket(const struct judge *j, enum ret_key key, int64_t t)
{
	struct zone_time c;

	zone_local(j->z, t, &c);
	switch (key) {
	case RET_HOURLY: /* an hour that a clock set back repeats is another hour */
		return (t + zone_offset(j->z, t)) / 3600 * 100000 + zone_offset(j->z, t);
	case RET_DAILY:
		return c.days;
	case RET_WEEKLY:
		return (c.days + 3) / 7 - (c.days + 3 < 0); /* 1970-01-01 was a Thursday */
	case RET_MONTHLY:
		return c.year * 12 + c.month;
	case RET_YEARLY:
	case RET_LAST:
	case RET_WITHIN:
	case RET_TAG:
	case RET_MAX_AGE:
	case RET_MIN_KEEP:
	case RET_FAILED_AGE:
	case RET_ORPHAN_AGE:
	case RET_KEYS:
		break;
	}
	return c.year;
}

/* Where a rule has got to within a class. */
struct walk {
	uint64_t count;
	int64_t last[2]; /* a clock set back over midnight returns to a day that was left */
	unsigned seen;
};

static bool in_new_bucket(struct walk *w, int64_t b)
{
	for (unsigned i = 0; i < w->seen; i++)
		if (w->last[i] == b)
			return false;
	w->last[1] = w->last[0];
	w->last[0] = b;
	w->seen = w->seen < 2 ? w->seen + 1 : 2;
	return true;
}

/* Does the rule keep this complete set, one older than those before it? */
static bool keeps(const struct judge *j, const struct ret_rule *r, struct walk *w, const struct ret_set *s)
{
	switch (r->key) {
	case RET_LAST:
	case RET_MIN_KEEP:
		return w->count++ < r->n;
	case RET_HOURLY:
	case RET_DAILY:
	case RET_WEEKLY:
	case RET_MONTHLY:
	case RET_YEARLY:
		return w->count < r->n && in_new_bucket(w, bucket(j, r->key, s->created)) && ++w->count;
	case RET_WITHIN:
	case RET_MAX_AGE:
		return j->ref - s->created <= (int64_t)r->n;
	case RET_TAG:
		return has_tag(s->tags, r->tag);
	case RET_FAILED_AGE:
	case RET_ORPHAN_AGE:
	case RET_KEYS:
		break;
	}
	return false;
}

static void apply_rule(struct judge *j, unsigned i, const size_t *index, size_t n)
{
	const struct ret_rule *r = &j->p->rule[i];
	struct walk w = { 0 };

	for (size_t k = 0; k < n; k++) {
		const struct ret_set *s = &j->sets[index[k]];
		struct ret_result *o = &j->out[index[k]];
		bool keep = false;

		if (s->created > j->now)
			continue;
		if (s->complete)
			keep = keeps(j, r, &w, s);
		else if (s->failed && r->key == RET_FAILED_AGE)
			keep = !j->has_ref || j->ref - s->created <= (int64_t)r->n;
		if (!keep)
			continue;
		o->rules |= 1ull << i;
		o->floor |= r->key == RET_MIN_KEEP;
	}
}

/* The sets of one class, the newest first. */
static void judge_class(struct judge *j, const size_t *index, size_t n)
{
	const char *class = j->sets[index[0]].class;
	bool any = false, failed = false;

	for (unsigned i = 0; i < j->p->n; i++) {
		if (!applies(&j->p->rule[i], class))
			continue;
		any |= j->p->rule[i].key <= RET_TAG;
		failed |= j->p->rule[i].key == RET_FAILED_AGE;
		apply_rule(j, i, index, n);
	}
	for (size_t k = 0; k < n; k++) {
		const struct ret_set *s = &j->sets[index[k]];
		struct ret_result *o = &j->out[index[k]];

		o->why |= (s->pin ? RET_BY_PIN : 0u) | (s->held ? RET_BY_HELD : 0u) | (any ? 0u : RET_BY_NO_RULE);
		if (!s->complete && !s->failed)
			o->why |= RET_BY_RUNNING;
		if (s->created > j->now)
			o->why |= RET_BY_FUTURE;
		if (s->failed && !failed)
			o->why |= RET_BY_FAILED;
		o->keep = o->why || o->rules;
		o->floor |= (o->why & (RET_BY_NEWEST | RET_BY_VERIFIED)) != 0;
	}
}

int ret_judge(const struct ret_policy *p, const struct zone *z, const struct ret_set *sets, size_t n, int64_t now,
	      struct ret_result *out)
{
	struct judge j = { .p = p, .z = z, .sets = sets, .out = out, .now = now };
	size_t *index = calloc(n + 1, sizeof(*index));
	union {
		const void *in;
		void *out;
	} arg = { .in = sets };

	if (!index)
		return -ENOMEM;
	memset(out, 0, n * sizeof(*out));
	for (size_t i = 0; i < n; i++)
		index[i] = i;
	qsort_r(index, n, sizeof(*index), by_class_and_age, arg.out);
	mark_newest(&j, n);
	for (size_t i = 0, k; i < n; i = k) {
		for (k = i + 1; k < n && strcmp(sets[index[k]].class, sets[index[i]].class) == 0;)
			k++;
		judge_class(&j, index + i, k - i);
	}
	free(index);
	return 0;
}
