/* snapshot/fence/mongodb_check.c - see mongodb.h: the connection, which member of which set it leads to, and whether that one
 * can be fenced.
 * Blocks:    by the client's time-outs: 1.5 s to connect, 1.5 s for each answer.
 * Errors:    -errno with the sentence; never the URI, which has the password. */
#include "snapshot/fence/mongodb.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define OPTION "db.mongodb_uri_file"

/* ---- the connection ---- */

int mgf_client(struct mgf *s, int64_t answer_ms, mongoc_client_t **out, struct snap_error *err)
{
	mongoc_uri_t *uri = NULL;
	int r = mgl_uri(OPTION, conf_str(s->conf, OPTION), &uri, err);

	if (r < 0)
		return r;
	*out = mgl_client(uri, answer_ms);
	mongoc_uri_destroy(uri);
	return *out ? 0 : snap_error_set(err, -EINVAL, OPTION ": the client library refuses its URI");
}

int mgf_ready(struct mgf *s, struct snap_error *err)
{
	if (atomic_load(&s->severed))
		return snap_error_set(err, -ECANCELED, "fence: MongoDB took too long: given up, and tried again later");
	return s->c ? 0 : mgf_client(s, MGL_ANSWER_MS, &s->c, err);
}

int mgf_broken(struct mgf *s, int r)
{
	if (r >= 0)
		return r;
	if (s->c)
		mongoc_client_destroy(s->c);
	s->c = NULL;
	s->frozen_ns = 0; /* it may have been restarted meanwhile */
	s->id[0] = '\0';
	return r;
}

int mgf_hello(struct mgf *s, bson_t *h, struct snap_error *err)
{
	char process[sizeof(s->process)] = "";
	bson_iter_t i;
	int r = mgf_ready(s, err);

	if (r < 0) {
		bson_init(h);
		return r;
	}
	r = mgf_broken(s, mgl_hello(s->c, h, err));
	if (r == 0 && mgl_find(h, "topologyVersion.processId", &i) && BSON_ITER_HOLDS_OID(&i))
		bson_oid_to_string(bson_iter_oid(&i), process);
	if (r == 0 && strcmp(process, s->process) != 0) {
		s->frozen_ns = 0;
		memcpy(s->process, process, sizeof(process));
	}
	return r;
}

/* ---- who is it? ---- */

bool mgf_primary(const bson_t *h)
{
	return mgl_true(h, "isWritablePrimary") || mgl_true(h, "ismaster");
}

int mgf_kind(const bson_t *h, struct snap_error *err)
{
	if (strcmp(mgl_text(h, "msg"), "isdbgrid") == 0)
		return snap_error_set(err, -EINVAL, "fence: " OPTION " leads to a mongos, which has no data: name the mongod whose files are here");
	if (mgl_true(h, "arbiterOnly"))
		return snap_error_set(err, -EOPNOTSUPP, "fence: %.200s is an arbiter, which has no data: nothing is written there", mgl_text(h, "me"));
	if (*mgl_text(h, "setName"))
		return 0;
	if (mgl_true(h, "isreplicaset"))
		return snap_error_set(err, -EAGAIN, "fence: this mongod has no configuration of its replica set: it is starting, was taken out of the "
						    "set, or rs.initiate() is due");
	return snap_error_set(err, -EOPNOTSUPP, "fence: this mongod runs standalone, and nothing in MongoDB keeps a standalone from being written: "
						"make it a member of a set (replication.replSetName), or stop it, then on hard");
}

/* The set's own id and the number of the member: names and addresses may be changed, and many sets are called rs0. */
int mgf_identify(struct mgf *s, const bson_t *h, struct snap_error *err)
{
	const char *set = mgl_text(h, "setName"), *me = mgl_text(h, "me");
	char set_id[25];
	int64_t id = -1;
	int r;

	if (*s->id && strcmp(s->set, set) == 0 && strcmp(s->host, me) == 0)
		return 0;
	s->id[0] = '\0';
	r = mgf_ready(s, err);
	if (r == 0)
		r = mgf_broken(s, mgs_read(s->c, "fence", s->member, &s->n, set_id, err));
	if (r < 0)
		return r;
	for (size_t i = 0; i < s->n; i++) {
		s->member[i].self = s->member[i].self || strcmp(s->member[i].host, me) == 0;
		id = s->member[i].self ? s->member[i].id : id;
	}
	(void)snprintf(s->set, sizeof(s->set), "%s", set);
	(void)snprintf(s->host, sizeof(s->host), "%s", me);
	(void)snprintf(s->id, sizeof(s->id), "mongodb %.127s %s %lld", set, set_id, (long long)id);
	return 0;
}

int mgf_same_server(struct mgf *s, const bson_t *h, const char *record, struct snap_error *err)
{
	char there[512];
	int r = mgf_identify(s, h, err);

	if (r < 0 || !fence_record_get(record, "server", there, sizeof(there)) || strcmp(s->id, there) == 0)
		return r;
	return snap_error_set(err, -EXDEV, "fence: the connection leads to %s (%s), and the record is of %.200s: nothing was changed", s->id, s->host,
			      there);
}

/* ---- can it be done? ---- */

/* A primary that steps down where nobody else can be elected comes back, and a set that has no other has no primary at all. */
static int check_others(const struct mgf *s, bool primary, struct snap_error *err)
{
	unsigned able = 0, there = 0;

	for (size_t i = 0; i < s->n; i++) {
		const struct mgs_member *m = &s->member[i];
		bool other = !m->self && mgs_electable(m);

		able += other;
		there += other && m->healthy;
	}
	if (!able)
		return snap_error_set(err, -EOPNOTSUPP, "fence: no other member of the set %s can be elected (priority 0, arbiters): a step down would "
							"come back to %s; give another one a priority (rs.reconfig), or stop this one, then on hard",
				      s->set, s->host);
	if (primary && !there)
		return snap_error_set(err, -EAGAIN, "fence: none of the members of the set %s that could be elected is healthy (rs.status()): %s would not "
						    "step down", s->set, s->host);
	return 0;
}

int mgf_check(struct mgf *s, const bson_t *h, struct snap_error *err)
{
	static const char *const actions[] = { "replSetGetConfig", "replSetGetStatus", "replSetStateChange", NULL };
	int r = mgf_kind(h, err);

	if (r == 0)
		r = mgf_ready(s, err);
	if (r == 0)
		r = mgf_broken(s, mgl_actions(s->c, actions, "clusterManager", err));
	if (r < 0)
		return r;
	s->id[0] = '\0'; /* the members as they are now */
	r = mgf_identify(s, h, err);
	return r < 0 ? r : check_others(s, mgf_primary(h), err);
}
