/* snapshot/mongodb_set.c - see mongodb_set.h. */
#include "snapshot/mongodb_set.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct list {
	struct mgs_member *member;
	size_t n;
};

struct mgs_member *mgs_find(struct mgs_member *member, size_t n, const char *host)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(member[i].host, host) == 0)
			return &member[i];
	return NULL;
}

bool mgs_electable(const struct mgs_member *who)
{
	return who->priority > 0 && !who->arbiter;
}

/* ---- documents ---- */

static double real_of(const bson_t *b, const char *key, double def)
{
	bson_iter_t i;

	return mgl_find(b, key, &i) && BSON_ITER_HOLDS_NUMBER(&i) ? bson_iter_as_double(&i) : def;
}

static int64_t date_of(const bson_t *b, const char *key)
{
	bson_iter_t i;

	return mgl_find(b, key, &i) && BSON_ITER_HOLDS_DATE_TIME(&i) ? bson_iter_date_time(&i) : 0;
}

static void take_config(struct list *l, const bson_t *m)
{
	struct mgs_member *who;

	if (l->n == MGS_MEMBERS || !*mgl_text(m, "host"))
		return;
	who = &l->member[l->n++];
	*who = (struct mgs_member){ .id = mgl_number(m, "_id", -1) };
	(void)snprintf(who->host, sizeof(who->host), "%s", mgl_text(m, "host"));
	who->priority = real_of(m, "priority", 1);
	who->votes = mgl_number(m, "votes", 1);
	who->arbiter = mgl_true(m, "arbiterOnly");
	who->hidden = mgl_true(m, "hidden");
	who->delay_s = mgl_number(m, "secondaryDelaySecs", mgl_number(m, "slaveDelay", 0));
}

static void take_status(struct list *l, const bson_t *m)
{
	struct mgs_member *who = mgs_find(l->member, l->n, mgl_text(m, "name"));
	const char *state = mgl_text(m, "stateStr");

	if (!who)
		return;
	who->self = mgl_true(m, "self");
	who->primary = strcmp(state, "PRIMARY") == 0;
	who->secondary = strcmp(state, "SECONDARY") == 0;
	who->healthy = mgl_number(m, "health", 0) == 1 && (who->primary || who->secondary || who->arbiter);
	who->optime_ms = date_of(m, "optimeDate");
}

/* Each document of the array at `path`. */
static void each(struct list *l, const bson_t *reply, const char *path, void (*take)(struct list *, const bson_t *))
{
	bson_iter_t i, a;
	const uint8_t *data;
	uint32_t len;
	bson_t doc;

	if (!mgl_find(reply, path, &i) || !BSON_ITER_HOLDS_ARRAY(&i) || !bson_iter_recurse(&i, &a))
		return;
	while (bson_iter_next(&a)) {
		if (!BSON_ITER_HOLDS_DOCUMENT(&a))
			continue;
		bson_iter_document(&a, &len, &data);
		if (bson_init_static(&doc, data, len))
			take(l, &doc);
	}
}

int mgs_read(mongoc_client_t *c, const char *side, struct mgs_member *member, size_t *n, char set_id[25], struct snap_error *err)
{
	struct list l = { .member = member };
	char what[80];
	bson_iter_t i;
	bson_t reply;
	int r;

	(void)snprintf(set_id, 25, "-");
	(void)snprintf(what, sizeof(what), "%.20s: read the set's configuration", side);
	r = mgl_simple(c, "replSetGetConfig", &reply, what, MGS_ROLES, NULL, err);
	if (r == 0) {
		each(&l, &reply, "config.members", take_config);
		if (mgl_find(&reply, "config.settings.replicaSetId", &i) && BSON_ITER_HOLDS_OID(&i))
			bson_oid_to_string(bson_iter_oid(&i), set_id);
	}
	bson_destroy(&reply);
	*n = l.n;
	if (r < 0)
		return r;
	(void)snprintf(what, sizeof(what), "%.20s: read the set's state", side);
	r = mgl_simple(c, "replSetGetStatus", &reply, what, MGS_ROLES, NULL, err);
	if (r == 0)
		each(&l, &reply, "members", take_status);
	bson_destroy(&reply);
	return r;
}

/* ---- commands ---- */

int mgs_freeze(mongoc_client_t *c, const char *host, int32_t s, int *code, struct snap_error *err)
{
	bson_t cmd = BSON_INITIALIZER, reply;
	char what[300];
	int r;

	(void)snprintf(what, sizeof(what), "%s: replSetFreeze", host);
	(void)BSON_APPEND_INT32(&cmd, "replSetFreeze", s);
	r = mgl_command(c, &cmd, &reply, what, MGS_ROLES, code, err);
	bson_destroy(&cmd);
	bson_destroy(&reply);
	return r;
}

int mgs_step_down(mongoc_client_t *c, int32_t for_s, int32_t catch_up_s, int *code, struct snap_error *err)
{
	bson_t cmd = BSON_INITIALIZER, reply;
	int r;

	(void)BSON_APPEND_INT32(&cmd, "replSetStepDown", for_s);
	(void)BSON_APPEND_INT32(&cmd, "secondaryCatchUpPeriodSecs", catch_up_s);
	r = mgl_command(c, &cmd, &reply, "replSetStepDown", MGS_ROLES, code, err);
	bson_destroy(&cmd);
	bson_destroy(&reply);
	return r;
}
