/* snapshot/cutover/mongo_set.c - what a MongoDB replica set says of itself, and what of it forbids the change (mongo.h). */
#include "snapshot/cutover/mongo_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool mongo_cut_is_uri(const char *path)
{
	char head[10] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof(head) - 1);

	if (fd >= 0)
		(void)close(fd);
	return n > 7 && strncmp(head, "mongodb", 7) == 0 && (head[7] == ':' || head[7] == '+');
}

/* ---- connections ---- */

static int connect_one(const char *option, const char *path, int64_t answer_ms, mongoc_uri_t **uri, mongoc_client_t **c,
		       struct snap_error *err)
{
	int r = mgl_uri(option, path, uri, err);

	if (r < 0)
		return r;
	*c = mgl_client(*uri, answer_ms);
	return *c ? 0 : snap_error_set(err, -EINVAL, "%s %s: the client library refuses its URI", option, path);
}

/* The URI of --from with another member's address: account, TLS and all else stay. */
static mongoc_uri_t *uri_for(const mongoc_uri_t *from, const char *host)
{
	const char *text = mongoc_uri_get_string(from), *begin = strstr(text, "://"), *end, *at;
	size_t cap = strlen(text) + strlen(host) + 1;
	char *other = malloc(cap);
	mongoc_uri_t *uri = NULL;

	if (begin && other) {
		begin += 3;
		end = begin + strcspn(begin, "/?");
		at = memrchr(begin, '@', (size_t)(end - begin));
		begin = at ? at + 1 : begin;
		(void)snprintf(other, cap, "%.*s%s%s", (int)(begin - text), text, host, end);
		uri = mongoc_uri_new(other);
	}
	if (other)
		explicit_bzero(other, cap);
	free(other);
	return uri;
}

int mongo_set_reach(struct mongo_set *set, struct mgs_member *who, struct snap_error *err)
{
	mongoc_uri_t *uri;
	bson_t h;
	int r;

	if (who->c)
		return 0;
	uri = uri_for(set->from_uri, who->host);
	if (!uri)
		return snap_error_set(err, -EINVAL, "%s: no URI can be made for this member of the set", who->host);
	who->c = mgl_client(uri, MGL_ANSWER_MS);
	mongoc_uri_destroy(uri);
	if (!who->c)
		return snap_error_set(err, -EINVAL, "%s: the client library refuses this member's address", who->host);
	r = mgl_hello(who->c, &h, err);
	bson_destroy(&h);
	return r;
}

void mongo_set_close(struct mongo_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		if (set->member[i].c)
			mongoc_client_destroy(set->member[i].c);
	if (set->from)
		mongoc_client_destroy(set->from);
	if (set->to)
		mongoc_client_destroy(set->to);
	if (set->from_uri)
		mongoc_uri_destroy(set->from_uri);
	if (set->to_uri)
		mongoc_uri_destroy(set->to_uri);
	free(set->member);
	memset(set, 0, sizeof(*set));
}

/* ---- members ---- */

bool mongo_set_rival(const struct mongo_set *set, const struct mgs_member *who)
{
	return mgs_electable(who) && who->healthy && strcmp(who->host, set->from_host) != 0 &&
	       strcmp(who->host, set->to_host) != 0;
}

/* ---- the whole ---- */

/* hello of one side: of a set, and which member. */
static int who_is(mongoc_client_t *c, const char *side, char *set, size_t set_cap, char *host, size_t host_cap,
		  struct snap_error *err)
{
	struct snap_error why = { 0 };
	bson_t h;
	int r = mgl_hello(c, &h, &why);

	if (r < 0)
		snap_error_set(err, r, "--%s: %s", side, why.msg);
	else if (strcmp(mgl_text(&h, "msg"), "isdbgrid") == 0)
		r = snap_error_set(err, -EINVAL, "--%s is a mongos; name the mongod", side);
	else if (!*mgl_text(&h, "setName") || !*mgl_text(&h, "me"))
		r = snap_error_set(err, -EINVAL, "--%s belongs to no replica set: there is no primary to change", side);
	(void)snprintf(set, set_cap, "%s", r < 0 ? "" : mgl_text(&h, "setName"));
	(void)snprintf(host, host_cap, "%s", r < 0 ? "" : mgl_text(&h, "me"));
	bson_destroy(&h);
	return r;
}

int mongo_set_open(struct mongo_cut *m, struct mongo_set *set, struct snap_error *err)
{
	char other[sizeof(set->name)], set_id[25];
	int r;

	mgl_begin();
	set->member = calloc(MGS_MEMBERS, sizeof(*set->member));
	if (!set->member)
		return snap_error_set(err, -ENOMEM, "out of memory");
	/* the primary answers to replSetStepDown only after the catching up */
	r = connect_one("--from", m->from, MGL_ANSWER_MS + (int64_t)m->catch_up_s * 1000, &set->from_uri, &set->from, err);
	r = r < 0 ? r : connect_one("--to", m->to, MGL_ANSWER_MS, &set->to_uri, &set->to, err);
	r = r < 0 ? r : who_is(set->from, "from", set->name, sizeof(set->name), set->from_host, sizeof(set->from_host), err);
	r = r < 0 ? r : who_is(set->to, "to", other, sizeof(other), set->to_host, sizeof(set->to_host), err);
	if (r < 0)
		return r;
	(void)snprintf(m->from_host, sizeof(m->from_host), "%s", set->from_host);
	(void)snprintf(m->to_host, sizeof(m->to_host), "%s", set->to_host);
	if (strcmp(other, set->name) != 0)
		return snap_error_set(err, -EXDEV, "--from is of the set %.100s, --to of %.100s: only within a set", set->name, other);
	if (strcmp(set->from_host, set->to_host) == 0)
		return snap_error_set(err, -EINVAL, "--from and --to are the same member, %.200s", set->to_host);
	return mgs_read(set->from, "--from", set->member, &set->n, set_id, err);
}
