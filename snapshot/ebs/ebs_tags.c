/* snapshot/ebs/ebs_tags.c - the record of a set in the tags of its snapshots, within EC2's limits: 50 tags, keys of 128
 * and values of 256 characters, a description of 255. At most 20 tags are ours. What does not fit is given by its digest
 * and stands in the snapshot itself (.stillfs-position). Pure, but for the host's name and the time. */
#include "snapshot/ebs/ebs_int.h"
#include "base/clock.h"
#include "base/hex.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OURS_MAX 20u
#define LATER_MAX 5u /* added afterwards: times, member, pin, failed, verified */
#define ALL_MAX 50u
#define VALUE_MAX 250u /* bytes: never more than 256 characters */

struct tagger {
	struct vbuf *form;
	unsigned n;
};

/* Bytes of text, at most max, that end with a whole character. */
static size_t cut(const char *text, size_t max)
{
	size_t n = strlen(text);

	if (n <= max)
		return n;
	for (n = max; n && ((unsigned char)text[n] & 0xc0) == 0x80;)
		n--;
	return n;
}

static void put(struct tagger *t, const char *key, const char *value, size_t len)
{
	char buf[260];

	(void)snprintf(buf, sizeof(buf), "%.*s", (int)(len < 256 ? len : 256), value);
	t->n++;
	ec2_arg(t->form, key, "TagSpecification.1.Tag.%u.Key", t->n);
	ec2_arg(t->form, buf, "TagSpecification.1.Tag.%u.Value", t->n);
}

static void put_text(struct tagger *t, const char *key, const char *value)
{
	put(t, key, value, cut(value, VALUE_MAX));
}

static int digest(const char *text, char out[65])
{
	unsigned char md[32];

	if (!EVP_Digest(text, strlen(text), md, NULL, EVP_sha256(), NULL))
		return -ENOMEM;
	hex_put(out, md, sizeof(md));
	return 0;
}

/* The user's "key:value" lines. */
static int put_users(struct tagger *t, const char *tags, bool *named, struct snap_error *err)
{
	unsigned all = 0, kept = 0;
	char key[160], hex[65], note[160];
	int r;

	for (const char *p = tags, *next; *p; p = next) {
		size_t len = strcspn(p, "\n"), k = strcspn(p, ":\n"), v = len > k ? len - k - 1 : 0;

		next = p + len + (p[len] == '\n');
		if (!len)
			continue;
		(void)snprintf(key, sizeof(key), "%.*s", (int)(k < 150 ? k : 150), p);
		if (!k || k > 128 || v > 256)
			return snap_error_set(err, -EINVAL, "tag %.40s...: EC2 takes keys of 1 to 128 and values of at most 256 bytes",
					      key);
		all++;
		if (kept == ALL_MAX - OURS_MAX - LATER_MAX)
			continue;
		kept++;
		*named |= strcmp(key, "Name") == 0;
		put(t, key, p + k + (len > k), v);
	}
	if (all == kept)
		return 0;
	r = digest(tags, hex);
	(void)snprintf(note, sizeof(note), "%u of %u kept sha256:%s", kept, all, hex);
	if (r == 0)
		put_text(t, "stillfs:tags", note);
	return r;
}

/* In pieces, or by its digest when `room` tags are too few. Lines are joined by ";". */
static int put_position(struct tagger *t, const char *position, unsigned room)
{
	char text[OURS_MAX * VALUE_MAX + 1], hex[65], key[40], value[VALUE_MAX + 8];
	size_t n = strlen(position), len;
	unsigned pieces = 0;
	int r;

	while (n && position[n - 1] == '\n')
		n--;
	if (!n)
		return 0;
	if (n < sizeof(text)) {
		for (size_t i = 0; i < n; i++)
			text[i] = position[i] == '\n' ? ';' : position[i];
		text[n] = '\0';
		for (const char *p = text; *p; p += cut(p, VALUE_MAX))
			pieces++;
		if (pieces <= room) {
			pieces = 0;
			for (const char *p = text; *p; p += len) {
				len = cut(p, VALUE_MAX);
				(void)snprintf(key, sizeof(key), "stillfs:position.%u", pieces++);
				put(t, key, p, len);
			}
			return 0;
		}
	}
	r = digest(position, hex);
	(void)snprintf(value, sizeof(value), "in-snapshot sha256:%s", hex);
	/* the short lines still help to find it: file and offset */
	for (const char *p = position; *p; p += len + (p[len] == '\n')) {
		len = strcspn(p, "\n");
		n = strlen(value);
		if (len && n + len + 1 <= VALUE_MAX)
			(void)snprintf(value + n, sizeof(value) - n, ";%.*s", (int)len, p);
	}
	if (r == 0)
		put_text(t, "stillfs:position", value);
	return r;
}

/* As many as `room` allows; the last one then ends with ";of=N", of how many. Returns how many are left out. */
static unsigned put_pairs(struct tagger *t, const struct door *d, const struct vols *vols, unsigned room)
{
	unsigned n = d->n_pairs < room ? d->n_pairs : room;
	char key[32], value[VALUE_MAX + 1], of[16] = "";

	for (unsigned i = 0; i < n; i++) {
		if (i + 1 == n && n < d->n_pairs)
			(void)snprintf(of, sizeof(of), ";of=%u", d->n_pairs);
		place_text(d, i, vols, value, sizeof(value) - strlen(of));
		(void)strncat(value, of, sizeof(value) - strlen(value) - 1);
		(void)snprintf(key, sizeof(key), "stillfs:pair.%u", i);
		put_text(t, key, value);
	}
	return d->n_pairs - n;
}

/* A "KEY VALUE" line of the position; its value's length in *len. NULL: there is none. */
static const char *line_of(const char *position, const char *key, size_t *len)
{
	size_t n = strlen(key);

	for (const char *p = position; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, n) == 0 && p[n] == ' ') {
			*len = strcspn(p + n + 1, "\n");
			return p + n + 1;
		}
	return NULL;
}

/* What the server was at the point, as its position tells: a replica has a source. Unknown: no tag. */
static void put_role(struct tagger *t, const char *position)
{
	size_t len;
	const char *role = line_of(position, "mongodb_role", &len);

	if (role)
		put(t, "stillfs:role", role, len < VALUE_MAX ? len : VALUE_MAX);
	else if (line_of(position, "source_log_file", &len) || line_of(position, "role", &len))
		put_text(t, "stillfs:role", "replica");
	else if (line_of(position, "binlog_file", &len))
		put_text(t, "stillfs:role", "primary");
}

int tags_form(const struct door *d, const struct prov_run *r, const struct erun *er, struct vbuf *form,
	      struct snap_error *err)
{
	char host[256] = "", when[CLOCK_ISO_MAX], text[300], text2[DESCRIPTION_MAX + 1];
	struct tagger t = { .form = form };
	bool named = false;
	unsigned users, unplaced;
	int ret;

	(void)gethostname(host, sizeof(host) - 1);
	(void)snprintf(text, sizeof(text), "stillfs %s %s", d->name, r->name);
	(void)snprintf(text2, sizeof(text2), "%.*s", (int)cut(r->description, DESCRIPTION_MAX), r->description);
	if (!*text2)
		describe_expand(conf_str(d->conf, "ebs.description"), d, r, text2, sizeof(text2));
	text2[cut(text2, DESCRIPTION_MAX)] = '\0';
	ec2_arg(form, *text2 ? text2 : text, "Description");
	ec2_arg(form, "snapshot", "TagSpecification.1.ResourceType");
	ret = put_users(&t, r->tags, &named, err);
	users = t.n;
	if (ret < 0)
		return snap_error_set(err, ret, "tags: %s", strerror(-ret));
	put_text(&t, "stillfs:format", "1");
	put_text(&t, "stillfs:set", r->name);
	put_text(&t, "stillfs:id", r->set_id);
	put_text(&t, "stillfs:attempt", er->attempt);
	put_text(&t, "stillfs:lineage", r->lineage);
	put_text(&t, "stillfs:name", d->name);
	if (r->origin && *r->origin)
		put_text(&t, "stillfs:origin", r->origin);
	put_text(&t, "stillfs:class", r->class);
	put_text(&t, "stillfs:host", host);
	put_text(&t, "stillfs:created", clock_iso(r->created, when));
	(void)snprintf(text2, sizeof(text2), "%u", er->vols.n);
	put_text(&t, "stillfs:members", text2);
	if (er->vols.n == 1)
		put_text(&t, "stillfs:member", "1 of 1");
	if (r->pin)
		put_text(&t, "stillfs:pin", "yes");
	put_role(&t, r->position);
	unplaced = put_pairs(&t, d, &er->vols, OURS_MAX - (t.n - users) - 1);
	if (!named && t.n - users + 1 < OURS_MAX)
		put_text(&t, "Name", text);
	if (t.n - users < OURS_MAX)
		ret = put_position(&t, r->position, OURS_MAX - (t.n - users));
	ret = ret < 0 ? ret : vbuf_error(form);
	return ret < 0 ? snap_error_set(err, ret, "tags: %s", strerror(-ret)) : (int)unplaced;
}

/* ---- afterwards ---- */

static int by_volume(const void *a, const void *b)
{
	return strcmp(((const struct snap *)a)->volume, ((const struct snap *)b)->volume);
}

static void times(const struct prov_run *r, char *buf, size_t cap)
{
	char lock[32] = "-";

	if (r->lock_ms >= 0)
		(void)snprintf(lock, sizeof(lock), "%.1f", r->lock_ms);
	(void)snprintf(buf, cap, "lock_ms %s hold_ms %.1f", lock, r->hold_ms);
}

int tags_later(struct api *a, const struct prov_run *r, struct erun *er, struct snap_error *err)
{
	char text[80];
	int ret;

	times(r, text, sizeof(text));
	qsort(er->snaps.v, er->snaps.n, sizeof(er->snaps.v[0]), by_volume);
	ret = api_tag_all(a, &er->snaps, 0, er->snaps.n, "stillfs:times", text, err);
	for (unsigned i = 0; ret == 0 && er->snaps.n > 1 && i < er->snaps.n; i++) {
		(void)snprintf(text, sizeof(text), "%u of %u", i + 1, er->snaps.n);
		ret = api_tag_all(a, &er->snaps, i, i + 1, "stillfs:member", text, err);
	}
	return ret;
}

int tags_verified(struct api *a, const struct snaps *s, const char *text, struct snap_error *err)
{
	char value[VALUE_MAX + 1];

	(void)snprintf(value, sizeof(value), "%.*s", (int)cut(text, VALUE_MAX), text);
	return api_tag_all(a, s, 0, s->n, "stillfs:verified", value, err);
}
