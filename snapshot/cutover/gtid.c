/* snapshot/cutover/gtid.c - see gtid.h. A set is a sorted array of runs; runs of one source neither overlap nor touch.
 * Called by: the steps of a cut-over, and its preflight. */
#include "snapshot/cutover/gtid.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UUID_LEN 36u
#define TAG_MAX 32u
#define NUMBER_MAX (UINT64_C(0x7fffffffffffffff) - 1) /* MySQL's GNO_END; MariaDB's are no larger in practice */
#define RUNS_MAX 1000000u
#define BLANK " \t\r\n\v\f"

/* source: "uuid" or "uuid:tag", lower case; MariaDB "domain-server", padded, so that it sorts as numbers */
struct run {
	char source[UUID_LEN + 1 + TAG_MAX + 1];
	uint64_t first, last; /* 1 <= first <= last <= NUMBER_MAX */
};

struct gtid_set {
	enum gtid_kind kind;
	size_t n, cap;
	struct run *run;
};

struct gtid_set *gtid_free(struct gtid_set *s)
{
	if (s)
		free(s->run);
	free(s);
	return NULL;
}

bool gtid_empty(const struct gtid_set *s)
{
	return s->n == 0;
}

/* ---- runs ---- */

static int put(struct gtid_set *s, const char *source, uint64_t first, uint64_t last)
{
	if (s->n == RUNS_MAX)
		return -E2BIG;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 16;
		struct run *more = realloc(s->run, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		s->run = more;
		s->cap = cap;
	}
	(void)snprintf(s->run[s->n].source, sizeof(s->run[s->n].source), "%s", source);
	s->run[s->n].first = first;
	s->run[s->n++].last = last;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct run *x = a, *y = b;
	int c = strcmp(x->source, y->source);

	return c ? c : x->first < y->first ? -1 : x->first > y->first;
}

static void normalise(struct gtid_set *s)
{
	size_t n = 0;

	if (s->n)
		qsort(s->run, s->n, sizeof(s->run[0]), by_place);
	for (size_t i = 0; i < s->n; i++) {
		struct run *before = n ? &s->run[n - 1] : NULL;

		if (before && strcmp(before->source, s->run[i].source) == 0 && s->run[i].first <= before->last + 1)
			before->last = s->run[i].last > before->last ? s->run[i].last : before->last;
		else
			s->run[n++] = s->run[i];
	}
	s->n = n;
}

static struct gtid_set *finish(struct gtid_set *s, int r, struct snap_error *err)
{
	if (r == 0)
		return s;
	snap_error_set(err, r, r == -E2BIG ? "gtid set: more than a million runs" : "gtid set: out of memory");
	return gtid_free(s);
}

/* ---- text ---- */

static const char *skip(const char *p)
{
	return p + strspn(p, BLANK);
}

/* Digits up to max: where they end, NULL: there are none, or too many. */
static const char *number(const char *p, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return NULL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (v > (max - (uint64_t)(*p - '0')) / 10)
			return NULL;
		v = v * 10 + (uint64_t)(*p - '0');
	}
	*out = v;
	return p;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static const char *uuid(const char *p, char out[UUID_LEN + 1])
{
	for (unsigned i = 0; i < UUID_LEN; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		out[i] = lower(p[i]);
		if (!out[i] || (dash ? out[i] != '-' : !strchr("0123456789abcdef", out[i])))
			return NULL;
	}
	out[UUID_LEN] = '\0';
	return p + UUID_LEN;
}

/* A letter or _, then up to 31 of those and digits. */
static const char *tag(const char *p, char out[TAG_MAX + 1])
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz_0123456789";
	unsigned n = 0;

	while (*p && strchr(letters, lower(*p)) && n < TAG_MAX)
		out[n++] = lower(*p++);
	out[n] = '\0';
	return n == 0 || (*p && strchr(letters, lower(*p))) ? NULL : p;
}

/* FIRST[-LAST], with what is blank around it. -EINVAL */
static int interval(struct gtid_set *s, const char *source, const char **at)
{
	uint64_t first, last;
	const char *p = number(*at, NUMBER_MAX, &first);

	if (!p)
		return -EINVAL;
	last = first;
	p = skip(p);
	if (*p == '-')
		p = number(skip(p + 1), NUMBER_MAX, &last);
	if (!p || first == 0 || last < first)
		return -EINVAL;
	*at = skip(p);
	return put(s, source, first, last);
}

/* UUID, then intervals and tags; a tag is for the intervals up to the next one. */
static int mysql_item(struct gtid_set *s, const char **at)
{
	char source[UUID_LEN + 1 + TAG_MAX + 1], id[UUID_LEN + 1], name[TAG_MAX + 1];
	const char *p = uuid(*at, id), *next;
	bool due = true; /* an interval must follow */
	int r = p ? 0 : -EINVAL;

	(void)snprintf(source, sizeof(source), "%s", p ? id : "");
	p = p ? skip(p) : NULL;
	if (p && *p != ':')
		return -EINVAL;
	while (r == 0 && *p == ':') {
		p = skip(p + 1);
		if (*p >= '0' && *p <= '9') {
			r = interval(s, source, &p);
			due = false;
			continue;
		}
		next = due && strlen(source) > UUID_LEN ? NULL : tag(p, name); /* not two in a row */
		if (!next)
			return -EINVAL;
		(void)snprintf(source, sizeof(source), "%s:%s", id, name);
		p = skip(next);
		due = true;
	}
	*at = p;
	return r < 0 ? r : due ? -EINVAL : 0;
}

static int mariadb_item(struct gtid_set *s, const char **at)
{
	uint64_t domain, server, first, last;
	char source[32];
	const char *p = number(*at, UINT32_MAX, &domain);

	p = p && *p == '-' ? number(p + 1, UINT32_MAX, &server) : NULL;
	p = p && *p == '-' ? number(p + 1, NUMBER_MAX, &first) : NULL;
	if (!p)
		return -EINVAL;
	last = first;
	if (strncmp(p, "..", 2) == 0)
		p = number(p + 2, NUMBER_MAX, &last);
	else
		first = 1;
	if (!p || first == 0 || last < first)
		return -EINVAL;
	(void)snprintf(source, sizeof(source), "%010" PRIu64 "-%010" PRIu64, domain, server);
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->run[i].source, source) == 0)
			return -EINVAL; /* a server has one for each */
	*at = skip(p);
	return put(s, source, first, last);
}

struct gtid_set *gtid_parse(enum gtid_kind kind, const char *text, struct snap_error *err)
{
	struct gtid_set *s = calloc(1, sizeof(*s));
	const char *p = skip(text), *item = p;
	int r = s ? 0 : -ENOMEM;

	if (s)
		s->kind = kind;
	while (r == 0 && (*p || item != p)) { /* item != p: after a comma */
		item = p = skip(p);
		r = kind == GTID_MYSQL ? mysql_item(s, &p) : mariadb_item(s, &p);
		if (r < 0 || !*p)
			break;
		if (*p++ != ',')
			r = -EINVAL;
	}
	if (r == -EINVAL) {
		snap_error_set(err, r, "gtid set: \"%.60s\" is no %s", item,
			       kind == GTID_MYSQL ? "UUID[:TAG]:FIRST-LAST" : "DOMAIN-SERVER-SEQUENCE, or is there twice");
		return gtid_free(s);
	}
	if (r == 0)
		normalise(s);
	return finish(s, r, err);
}

void gtid_print(const struct gtid_set *s, struct vbuf *out)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct run *x = &s->run[i];
		bool more = i && strcmp(s->run[i - 1].source, x->source) == 0;
		uint64_t domain = 0, server = 0;

		if (s->kind == GTID_MYSQL) {
			vbuf_printf(out, "%s%s:%" PRIu64, more || !i ? "" : ",", more ? "" : x->source, x->first);
			if (x->last > x->first)
				vbuf_printf(out, "-%" PRIu64, x->last);
			continue;
		}
		(void)number(x->source, UINT32_MAX, &domain);
		(void)number(strchr(x->source, '-') + 1, UINT32_MAX, &server);
		vbuf_printf(out, "%s%" PRIu64 "-%" PRIu64 "-", i ? "," : "", domain, server);
		if (x->first > 1)
			vbuf_printf(out, "%" PRIu64 "..", x->first);
		vbuf_printf(out, "%" PRIu64, x->last);
	}
}

/* ---- sets ---- */

/* The first run that may reach into `first` of this source, or the place where it would be. */
static size_t find(const struct gtid_set *s, const char *source, uint64_t first)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int c = strcmp(s->run[mid].source, source);

		if (c < 0 || (c == 0 && s->run[mid].last < first))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool gtid_contains(const struct gtid_set *all, const struct gtid_set *part)
{
	for (size_t i = 0; i < part->n; i++) {
		const struct run *x = &part->run[i];
		size_t k = find(all, x->source, x->first);

		if (k == all->n || strcmp(all->run[k].source, x->source) != 0 || all->run[k].first > x->first ||
		    all->run[k].last < x->last)
			return false;
	}
	return true;
}

struct gtid_set *gtid_subtract(const struct gtid_set *a, const struct gtid_set *b, struct snap_error *err)
{
	struct gtid_set *s = calloc(1, sizeof(*s));
	int r = s ? 0 : -ENOMEM;

	if (s)
		s->kind = a->kind;
	for (size_t i = 0; r == 0 && i < a->n; i++) {
		const struct run *x = &a->run[i];
		uint64_t from = x->first;

		for (size_t k = find(b, x->source, from); r == 0 && k < b->n && strcmp(b->run[k].source, x->source) == 0 &&
							  b->run[k].first <= x->last; k++) {
			if (b->run[k].first > from)
				r = put(s, x->source, from, b->run[k].first - 1);
			from = b->run[k].last + 1;
		}
		if (r == 0 && from <= x->last)
			r = put(s, x->source, from, x->last);
	}
	return finish(s, r, err);
}

struct gtid_set *gtid_union(const struct gtid_set *a, const struct gtid_set *b, struct snap_error *err)
{
	struct gtid_set *s = calloc(1, sizeof(*s));
	int r = s ? 0 : -ENOMEM;

	if (s)
		s->kind = a->kind;
	for (size_t i = 0; r == 0 && i < a->n; i++)
		r = put(s, a->run[i].source, a->run[i].first, a->run[i].last);
	for (size_t i = 0; r == 0 && i < b->n; i++)
		r = put(s, b->run[i].source, b->run[i].first, b->run[i].last);
	if (r == 0)
		normalise(s);
	return finish(s, r, err);
}

void gtid_drop_before(struct gtid_set *missing, const struct gtid_set *pos, const struct gtid_set *source)
{
	size_t n = 0;

	for (size_t i = 0; i < missing->n; i++) {
		const struct run *x = &missing->run[i];
		bool before = false;

		for (size_t k = 0; k < pos->n; k++) {
			const struct run *p = &pos->run[k];
			struct gtid_set one = { .kind = GTID_MARIADB, .n = 1, .run = &pos->run[k] };

			/* ten digits of the domain, and the dash */
			before = before || (strncmp(p->source, x->source, 11) == 0 && strcmp(p->source, x->source) != 0 &&
					    x->last < p->last && gtid_contains(source, &one));
		}
		if (!before)
			missing->run[n++] = *x;
	}
	missing->n = n;
}
