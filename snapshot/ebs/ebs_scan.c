/* snapshot/ebs/ebs_scan.c - the record of sets from the tags of their snapshots: what ebs_tags.c wrote, read back.
 * A set is complete when as many of its snapshots are `completed` as the tag stillfs:members says, and none is marked
 * as failed. Called by ebs.c on the provider's thread. Errors: -errno with the sentence. */
#include "snapshot/ebs/ebs_int.h"
#include "snapshot/set.h"
#include "base/clock.h"
#include "base/hex.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SETS_MAX 20000u
#define PIECES_MAX 32u
#define WHOLE_S 120 /* a set that is younger may not be described whole */

struct found {
	struct set *s;
	unsigned members, seen, completed, errors;
	bool marked_failed;
	uint64_t gib, gib_done;
	char why[160];
};

struct scan {
	struct found *v;
	size_t n, cap;
	const char *region;
};

static int to_time(const char *text, struct timespec *out)
{
	struct tm tm = { 0 };
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	*out = (struct timespec){ 0 };
	if (!end)
		return -EINVAL;
	out->tv_sec = timegm(&tm);
	if (*end == '.') {
		long ns = 0, unit = 100000000;

		for (end++; *end >= '0' && *end <= '9' && unit; end++, unit /= 10)
			ns += (*end - '0') * unit;
		out->tv_nsec = ns;
	}
	return 0;
}

/* Pieces 0, 1, 2 ... joined, ";" back to newlines; or what is kept beside the digest. */
static int read_position(const struct xml_elem *e, struct set *s)
{
	struct vbuf b = VBUF_INIT;
	char key[40], value[300];
	int r;

	for (unsigned i = 0; i < PIECES_MAX; i++) {
		(void)snprintf(key, sizeof(key), "stillfs:position.%u", i);
		api_tag(e, key, value, sizeof(value));
		if (!*value)
			break;
		vbuf_puts(&b, value);
	}
	if (!b.len) {
		api_tag(e, "stillfs:position", value, sizeof(value));
		if (*value)
			vbuf_printf(&b, "position %s", value);
	}
	if (b.len)
		vbuf_puts(&b, "\n");
	for (size_t i = 0; i < b.len; i++)
		b.data[i] = b.data[i] == ';' ? '\n' : b.data[i];
	r = vbuf_error(&b);
	if (r == 0)
		r = set_text(&s->position, vbuf_text(&b));
	if (strstr(s->position, "server mariadb") || strstr(s->position, "server mysql"))
		(void)snprintf(s->db, sizeof(s->db), "mysql");
	vbuf_free(&b);
	return r;
}

/* The user's own: all that are neither ours nor AWS's, nor the name we gave. */
static int read_tags(const struct xml_elem *e, struct set *s)
{
	const struct xml_elem *i = xml_find(e, "tagSet/item");
	char key[140], value[300], ours[200], own[300];
	struct vbuf b = VBUF_INIT;
	int r;

	api_tag(e, "stillfs:name", own, sizeof(own));
	(void)snprintf(ours, sizeof(ours), "stillfs %.64s %.64s", own, s->name);
	for (; i; i = xml_next(i)) {
		(void)xml_text(i, "key", key, sizeof(key));
		(void)xml_text(i, "value", value, sizeof(value));
		if (!*key || strncmp(key, "stillfs:", 8) == 0 || strncmp(key, "aws:", 4) == 0 ||
		    (strcmp(key, "Name") == 0 && strcmp(value, ours) == 0) || strpbrk(key, "\n:") || strchr(value, '\n'))
			continue;
		vbuf_printf(&b, "%s:%s\n", key, value);
	}
	r = vbuf_error(&b);
	if (r == 0)
		r = set_text(&s->tags, vbuf_text(&b));
	vbuf_free(&b);
	return r;
}

/* "WORD TIME SENTENCE" of tags_verified. */
static int read_verified(const struct xml_elem *e, struct set *s)
{
	char text[300], word[16] = "", when[40] = "";
	int n = 0;

	api_tag(e, "stillfs:verified", text, sizeof(text));
	if (sscanf(text, "%15s %39s %n", word, when, &n) != 2 || !n || to_time(when, &s->verified_at) < 0)
		return 0;
	s->verified = strcmp(word, "yes") == 0 ? VERIFIED_YES : strcmp(word, "failed") == 0 ? VERIFIED_FAILED : VERIFIED_NO;
	return set_text(&s->verified_note, text + n);
}

/* A set from its first snapshot. NULL with *r 0: not a record of ours. */
static struct set *read_set(const struct xml_elem *e, int *r)
{
	struct set *s = set_new();
	char text[300], lock[32] = "", hold[32] = "";

	*r = s ? 0 : -ENOMEM;
	if (!s)
		return NULL;
	api_tag(e, "stillfs:id", s->id, sizeof(s->id));
	api_tag(e, "stillfs:lineage", s->lineage, sizeof(s->lineage));
	api_tag(e, "stillfs:set", s->name, sizeof(s->name));
	api_tag(e, "stillfs:origin", s->origin, sizeof(s->origin));
	api_tag(e, "stillfs:class", s->class, sizeof(s->class));
	api_tag(e, "stillfs:created", text, sizeof(text));
	if (!hex_is(s->id, 32) || !hex_is(s->lineage, 32) || !set_name_ok(s->name) || to_time(text, &s->created) < 0) {
		set_free(s);
		return NULL;
	}
	if (!set_name_ok(s->class))
		(void)snprintf(s->class, sizeof(s->class), "manual");
	s->ended = s->created;
	(void)snprintf(s->provider, sizeof(s->provider), "ebs");
	(void)snprintf(s->db, sizeof(s->db), "none");
	api_tag(e, "stillfs:pin", text, sizeof(text));
	s->pin = strcmp(text, "yes") == 0;
	api_tag(e, "stillfs:times", text, sizeof(text));
	if (sscanf(text, "lock_ms %31s hold_ms %31s", lock, hold) == 2) {
		s->lock_ms = *lock == '-' ? -1 : strtod(lock, NULL);
		s->hold_ms = *hold == '-' ? -1 : strtod(hold, NULL);
	}
	*r = read_verified(e, s);
	(void)xml_text(e, "description", text, sizeof(text));
	if (*r == 0)
		*r = set_text(&s->description, text);
	if (*r == 0)
		*r = read_tags(e, s);
	if (*r == 0)
		*r = read_position(e, s);
	vbuf_puts(&s->log, "from the tags of its snapshots\n");
	if (*r == 0)
		return s;
	set_free(s);
	return NULL;
}

static struct found *find(struct scan *c, const struct xml_elem *e, const char *id, int *r)
{
	char num[300];
	size_t k = 0;

	while (k < c->n && strcmp(c->v[k].s->id, id) != 0)
		k++;
	if (k < c->n)
		return &c->v[k];
	if (c->n == c->cap) {
		struct found *more = c->n < SETS_MAX ? realloc(c->v, (c->cap + 256) * sizeof(*more)) : NULL;

		if (!more) {
			*r = -ENOMEM;
			return NULL;
		}
		c->v = more;
		c->cap += 256;
	}
	c->v[c->n] = (struct found){ .s = read_set(e, r) };
	if (!c->v[c->n].s)
		return NULL;
	api_tag(e, "stillfs:members", num, sizeof(num));
	c->v[c->n].members = (unsigned)strtoul(num, NULL, 10);
	return &c->v[c->n++];
}

static int read_page(void *arg, const struct xml_elem *root, struct snap_error *err)
{
	const struct xml_elem *i = xml_find(root, "snapshotSet/item");
	struct scan *c = arg;
	char text[300];

	for (; i; i = xml_next(i)) {
		struct found *f;
		struct snap s;
		int r = 0;

		api_tag(i, "stillfs:copied-from", text, sizeof(text));
		if (*text && strncmp(text, c->region, strlen(c->region)) == 0 && text[strlen(c->region)] == ' ')
			continue; /* a copy beside its original */
		api_tag(i, "stillfs:id", text, sizeof(text));
		f = find(c, i, text, &r);
		if (r < 0)
			return snap_error_set(err, r, "read the record from tags: %s", strerror(-r));
		if (!f)
			continue;
		api_read_snap(i, &s);
		api_tag(i, "stillfs:failed", text, sizeof(text));
		f->seen++;
		f->completed += strcmp(s.state, "completed") == 0;
		f->gib += s.size_gib;
		f->gib_done += (uint64_t)s.size_gib * (strcmp(s.state, "completed") == 0 ? 100 : s.percent);
		if (*text) {
			f->marked_failed = true;
			(void)snprintf(f->why, sizeof(f->why), "marked as failed: %.120s", text);
		}
		if (strcmp(s.state, "error") == 0) {
			f->errors++;
			(void)snprintf(f->why, sizeof(f->why), "snapshot %s failed: %.100s", s.id,
				       s.message[0] ? s.message : "AWS gives no reason");
		}
	}
	return 0;
}

/* What the members together say. */
static int judge(struct found *f)
{
	struct set *s = f->s;
	bool young = clock_utc().tv_sec - s->created.tv_sec < WHOLE_S;

	s->volumes = f->seen;
	s->size_b = f->gib << 30;
	s->progress = f->gib ? (unsigned)(f->gib_done / f->gib) : 0;
	if (!f->members || f->seen > f->members || (f->seen < f->members && !young))
		(void)snprintf(f->why, sizeof(f->why), "%u of its %u snapshots are there", f->seen, f->members);
	if (*f->why) {
		s->state = SET_FAILED;
		s->error_code = -EIO;
		return set_text(&s->error, f->why);
	}
	s->state = f->completed == f->members ? SET_COMPLETE : SET_PENDING;
	if (s->state == SET_PENDING && s->progress > 99)
		s->progress = 99;
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct timespec x = ((const struct found *)a)->s->created, y = ((const struct found *)b)->s->created;

	return x.tv_sec != y.tv_sec ? (x.tv_sec > y.tv_sec) - (x.tv_sec < y.tv_sec) : (x.tv_nsec > y.tv_nsec) - (x.tv_nsec < y.tv_nsec);
}

static unsigned filter(struct vbuf *form, unsigned n, const char *key, const char *value)
{
	char name[64];

	if (!*value)
		return n;
	(void)snprintf(name, sizeof(name), "tag:%s", key);
	ec2_arg(form, name, "Filter.%u.Name", n + 1);
	ec2_arg(form, value, "Filter.%u.Value.1", n + 1);
	return n + 1;
}

int scan_sets(struct api *a, const char *lineage, const char *name, const char *id, int (*fn)(void *arg, struct set *s),
	      void *arg, struct snap_error *err)
{
	struct scan c = { .region = a->e->region };
	struct vbuf form = VBUF_INIT;
	unsigned n = 0;
	int r;

	ec2_arg(&form, "self", "Owner.1");
	ec2_arg(&form, "1000", "MaxResults");
	n = filter(&form, n, "stillfs:lineage", lineage);
	n = filter(&form, n, "stillfs:name", name);
	n = filter(&form, n, "stillfs:id", id);
	if (!n) {
		ec2_arg(&form, "tag-key", "Filter.1.Name");
		ec2_arg(&form, "stillfs:id", "Filter.1.Value.1");
	}
	r = api_pages(a, "DescribeSnapshots", &form, read_page, &c, err);
	vbuf_free(&form);
	if (c.n)
		qsort(c.v, c.n, sizeof(*c.v), by_time);
	for (size_t i = 0; i < c.n; i++) {
		if (r == 0) {
			r = judge(&c.v[i]);
			r = r < 0 ? snap_error_set(err, r, "read the record from tags: %s", strerror(-r)) : fn(arg, c.v[i].s);
			c.v[i].s = r < 0 ? c.v[i].s : NULL;
		}
		set_free(c.v[i].s);
	}
	free(c.v);
	return r;
}
