/* snapshot/ebs_tool/copy.c - a set's snapshots copied into another region, with their tags, so that the set is listed and
 * restored there. Called by main.c. Blocks until AWS has copied everything, unless --no-wait.
 * The request goes to the other region; for encrypted snapshots it carries a request that was signed for this one. */
#include "snapshot/ebs_tool/tool.h"
#include "snapshot/ebs/key.h"
#include "snapshot/ebs/sigv4.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPY_PAUSE_MS 15000u

struct copying {
	struct tool *from, to;
	struct conf *conf;
	const char *region, *kms;
	bool no_wait;
};

static int read_args(int argc, char **argv, struct copying *c, struct snap_error *err)
{
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--no-wait") == 0)
			c->no_wait = true;
		else if (strcmp(argv[i], "--to-region") == 0 && i + 1 < argc)
			c->region = argv[++i];
		else if (strcmp(argv[i], "--kms-key") == 0 && i + 1 < argc)
			c->kms = argv[++i];
		else
			return snap_error_set(err, -EINVAL, "copy: unknown argument %.100s, or its value is missing; see stillctl(8)", argv[i]);
	}
	if (!c->region || !*c->region || strspn(c->region, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(c->region))
		return snap_error_set(err, -EINVAL, "copy: --to-region REGION is needed");
	return 0;
}

/* "https://ec2.SOURCE/?Action=CopySnapshot&...&X-Amz-Signature=...": proves that the source may be read. */
static int presign(struct copying *c, const char *snap, struct vbuf *out, struct snap_error *err)
{
	const struct aws_key *key = creds_held(c->from->e->creds);
	const struct sigv4_key k = { key->id, key->secret, c->from->e->region, "ec2" };
	const char *url = c->from->e->url, *sig;
	char date[SIGV4_DATE_MAX], auth[SIGV4_AUTH_MAX], host[256], scope[300];
	struct http_header h = { "host", host };
	struct vbuf q = VBUF_INIT;
	int r = ec2_host(url, host, sizeof(host));

	if (r < 0)
		return snap_error_set(err, r, "endpoint %.100s: expected https://HOST[:PORT]", url);
	sigv4_date(clock_utc().tv_sec + ec2_skew(c->from->e->ec2), date);
	(void)snprintf(scope, sizeof(scope), "%.128s/%.8s/%.60s/ec2/aws4_request", key->id, date, c->from->e->region);
	vbuf_puts(&q, "Action=CopySnapshot"); /* canonical: sorted by name */
	ec2_arg(&q, c->region, "DestinationRegion");
	ec2_arg(&q, c->from->e->region, "SourceRegion");
	ec2_arg(&q, snap, "SourceSnapshotId");
	vbuf_puts(&q, "&Version=2016-11-15&X-Amz-Algorithm=AWS4-HMAC-SHA256");
	ec2_arg(&q, scope, "X-Amz-Credential");
	ec2_arg(&q, date, "X-Amz-Date");
	ec2_arg(&q, "3600", "X-Amz-Expires");
	if (key->token[0])
		ec2_arg(&q, key->token, "X-Amz-Security-Token");
	ec2_arg(&q, "host", "X-Amz-SignedHeaders");
	r = vbuf_error(&q) ? -ENOMEM : sigv4_sign(&k, date, "GET", "/", vbuf_text(&q), &h, 1, "", 0, auth);
	sig = r == 0 ? strstr(auth, "Signature=") : NULL;
	if (sig)
		vbuf_printf(out, "%s%s?%s&X-Amz-Signature=%.64s", url, url[strlen(url) - 1] == '/' ? "" : "/", vbuf_text(&q), sig + 10);
	if (q.data)
		explicit_bzero(q.data, q.len);
	vbuf_free(&q);
	return sig ? vbuf_error(out) : snap_error_set(err, r ? r : -EIO, "copy: the request cannot be signed");
}

static void put_tag(struct vbuf *form, unsigned *n, const char *key, const char *value)
{
	++*n;
	ec2_arg(form, key, "TagSpecification.1.Tag.%u.Key", *n);
	ec2_arg(form, value, "TagSpecification.1.Tag.%u.Value", *n);
}

/* The tags of the set; a member's own number comes from its place. */
static void put_tags(struct vbuf *form, const struct copying *c, const struct members *ms, unsigned i)
{
	char text[160];
	unsigned n = 0;

	ec2_arg(form, "snapshot", "TagSpecification.1.ResourceType");
	for (unsigned k = 0; k < ms->n_tags; k++)
		if (strcmp(ms->ours[k][0], "stillfs:member") != 0 && strcmp(ms->ours[k][0], "stillfs:copied-from") != 0 &&
		    strcmp(ms->ours[k][0], "stillfs:volume") != 0 && n < 47)
			put_tag(form, &n, ms->ours[k][0], ms->ours[k][1]);
	(void)snprintf(text, sizeof(text), "%u of %u", i + 1, ms->n);
	put_tag(form, &n, "stillfs:member", text);
	(void)snprintf(text, sizeof(text), "%.60s %s", c->from->e->region, ms->m[i].snap);
	put_tag(form, &n, "stillfs:copied-from", text);
	put_tag(form, &n, "stillfs:volume", ms->m[i].was);
}

static int copy_one(struct copying *c, const struct members *ms, unsigned i, char id[32], struct snap_error *err)
{
	struct api a = tool_api(&c->to, 120000);
	struct vbuf form = VBUF_INIT, url = VBUF_INIT;
	struct xml *x = NULL;
	int r = api_connect(&a, false, err);

	if (r == 0 && ms->m[i].encrypted)
		r = presign(c, ms->m[i].snap, &url, err);
	ec2_arg(&form, c->from->e->region, "SourceRegion");
	ec2_arg(&form, ms->m[i].snap, "SourceSnapshotId");
	ec2_arg(&form, ms->set->description, "Description");
	if (c->kms)
		ec2_arg(&form, c->kms, "KmsKeyId");
	if (c->kms || ms->m[i].encrypted)
		ec2_arg(&form, "true", "Encrypted");
	if (url.len)
		ec2_arg(&form, vbuf_text(&url), "PresignedUrl");
	put_tags(&form, c, ms, i);
	if (r == 0)
		r = api_call(&a, "CopySnapshot", &form, true, &x, err); /* no token: never repeated */
	if (r == 0)
		(void)xml_text(xml_root(x), "snapshotId", id, 32);
	xml_free(x);
	if (url.data)
		explicit_bzero(url.data, url.len);
	if (form.data)
		explicit_bzero(form.data, form.len);
	vbuf_free(&url);
	vbuf_free(&form);
	return r;
}

/* Until all copies are complete. */
static int follow(struct copying *c, unsigned n, struct snap_error *err)
{
	struct snaps *s = calloc(1, sizeof(*s));
	int r = s ? 0 : snap_error_set(err, -ENOMEM, "out of memory");
	unsigned done = 0, percent;

	while (r == 0 && done < n && !tool_stop) {
		struct api a = tool_api(&c->to, 60000);

		r = api_find(&a, "stillfs:id", c->from->id, s, err);
		done = percent = 0;
		for (unsigned i = 0; r == 0 && i < s->n; i++) {
			done += strcmp(s->v[i].state, "completed") == 0;
			percent += strcmp(s->v[i].state, "completed") == 0 ? 100 : s->v[i].percent;
			if (strcmp(s->v[i].state, "error") == 0)
				r = snap_error_set(err, -EIO, "copy %s in %s failed: %.200s", s->v[i].id, c->region,
						   s->v[i].message[0] ? s->v[i].message : "AWS gives no reason; with encrypted snapshots it is the KMS key");
		}
		if (r == 0 && done < n) {
			tool_say("copying: %u of %u done, %u %%", done, n, s->n ? percent / s->n : 0);
			tool_sleep_ms(COPY_PAUSE_MS);
		}
	}
	free(s);
	if (r == 0 && tool_stop)
		return snap_error_set(err, -EINTR, "interrupted; AWS goes on copying");
	return r;
}

static int there_already(struct copying *c, struct snap_error *err)
{
	struct api a = tool_api(&c->to, 60000);
	struct snaps *s = calloc(1, sizeof(*s));
	int r = s ? api_connect(&a, false, err) : snap_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = api_find(&a, "stillfs:id", c->from->id, s, err);
	if (r == 0 && s->n)
		r = snap_error_set(err, -EEXIST, "copy: %s has %u snapshots of this set already (%s ...)", c->region, s->n, s->v[0].id);
	free(s);
	return r;
}

static int open_other(struct copying *c, struct snap_error *err)
{
	struct tool *t = c->from;
	int r;

	c->to = *t;
	c->to.conf = t->conf;
	/* the provider has read its options: the same configuration, with another region */
	r = conf_set(t->conf, "--to-region", "ebs.region", c->region, err);
	if (r == 0)
		c->to.e = prov_ebs.open(&t->door, err);
	return r == 0 && !c->to.e ? err->code : r;
}

int tool_copy(struct tool *t, int argc, char **argv, struct snap_error *err)
{
	struct members *ms = calloc(1, sizeof(*ms));
	struct copying c = { .from = t };
	char id[VOLS_MAX][32];
	unsigned n = 0;
	int r = ms ? read_args(argc, argv, &c, err) : snap_error_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = tool_members(t, ms, err);
	if (r == 0 && strcmp(t->e->region, c.region) == 0)
		r = snap_error_set(err, -EINVAL, "copy: the set is in %s already", c.region);
	if (r == 0)
		r = open_other(&c, err);
	if (r == 0)
		r = there_already(&c, err);
	for (unsigned i = 0; r == 0 && i < ms->n; i++) {
		r = copy_one(&c, ms, i, id[i], err);
		n += r == 0;
		if (r == 0)
			(void)printf("snapshot %s %s\n", ms->m[i].snap, id[i]);
	}
	(void)fflush(stdout);
	if (r == 0 && !c.no_wait)
		r = follow(&c, ms->n, err);
	else if (r < 0 && n) {
		struct api a = { .e = c.to.e, .deadline_ns = clock_boot_ns() + 120 * NS_PER_S };
		struct snap_error why = { 0 };

		/* only what was made here */
		for (unsigned i = 0; i < n; i++)
			if (api_delete(&a, id[i], &why) < 0)
				tool_say("stillctl: copy %s in %s stays: %s", id[i], c.region, why.msg);
	}
	if (c.to.e)
		prov_ebs.close(c.to.e);
	if (ms)
		set_free(ms->set);
	free(ms);
	return r;
}
