/* snapshot/mongodb.c - the coordinator of MongoDB: its connections, preflight, position.
 * Owns:      three direct connections to one mongod, kept between snapshots.
 * Called by: the engine on its database thread; sever from any.
 * Blocks:    by the client's own timeouts: sever only marks, and a call in progress ends by them.
 * Errors:    -errno with the sentence; never the URI, which has the password. */
#include "snapshot/mongodb_int.h"
#include "base/clock.h"
#include "snapshot/child.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVER_NO_REPLICATION 76
#define SERVER_NOT_INITIALIZED 94

#define LOOK_MS 10000u /* for the path, which may lie below our own mount */
#define ROLES "clusterMonitor and hostManager"

int mg_command(struct mg *m, enum mg_conn k, const bson_t *cmd, bson_t *reply, const char *what, int *code,
	       struct snap_error *err)
{
	return mgl_command(m->c[k], cmd, reply, what, ROLES, code, err);
}

int mg_simple(struct mg *m, enum mg_conn k, const char *name, bson_t *reply, const char *what, int *code,
	      struct snap_error *err)
{
	return mgl_simple(m->c[k], name, reply, what, ROLES, code, err);
}

/* ---- connections ---- */

void mg_disconnect(struct mg *m)
{
	for (int k = 0; k < MG_CONNS; k++) {
		if (m->c[k])
			mongoc_client_destroy(m->c[k]);
		m->c[k] = NULL;
	}
}

static int connect_all(struct mg *m, struct snap_error *err)
{
	int64_t answer = MGL_ANSWER_MS + (int64_t)conf_num(m->d->conf, "db.lock_timeout");
	mongoc_uri_t *uri = NULL;
	int r = mgl_uri("db.mongodb_uri_file", conf_str(m->d->conf, "db.mongodb_uri_file"), &uri, err);

	for (int k = 0; r == 0 && k < MG_CONNS; k++) {
		if (k == MG_MAIN + 1) /* the answer of those comes when the gate is open */
			answer += (int64_t)conf_num(m->d->conf, "gate_timeout");
		m->c[k] = mgl_client(uri, answer);
		if (!m->c[k])
			r = snap_error_set(err, -EINVAL, "db.mongodb_uri_file: the client library refuses its URI");
	}
	if (uri)
		mongoc_uri_destroy(uri);
	return r;
}

/* Open and authenticated, all of them. */
static int ping_all(struct mg *m, struct snap_error *err)
{
	bson_t reply;
	int r = 0;

	for (int k = 0; r == 0 && k < MG_CONNS; k++) {
		r = mg_simple(m, (enum mg_conn)k, "ping", &reply, "connect to MongoDB", NULL, err);
		bson_destroy(&reply);
	}
	return r;
}

int mg_connect(struct mg *m, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	int r = 0;

	if (m->c[MG_MAIN] && ping_all(m, &ignored) == 0)
		return 0;
	mg_disconnect(m);
	r = connect_all(m, err);
	if (r == 0)
		r = ping_all(m, err);
	if (r < 0)
		mg_disconnect(m);
	return r;
}

/* ---- preflight ---- */

/* {getParameter: 1, watchdogPeriodSeconds: 1}: the server ends itself when its storage hangs for that long. */
static int check_watchdog(struct mg *m, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	uint64_t hold = conf_num(m->d->conf, "gate_timeout");
	bson_t cmd = BSON_INITIALIZER, reply;
	int64_t period = -1;

	(void)BSON_APPEND_INT32(&cmd, "getParameter", 1);
	(void)BSON_APPEND_INT32(&cmd, "watchdogPeriodSeconds", 1);
	if (mg_command(m, MG_MAIN, &cmd, &reply, "read watchdogPeriodSeconds", NULL, &ignored) == 0)
		period = mgl_number(&reply, "watchdogPeriodSeconds", -1);
	bson_destroy(&cmd);
	bson_destroy(&reply);
	if (period <= 0 || hold < (uint64_t)period * 1000)
		return 0;
	return snap_error_set(err, -EINVAL, "mongod's watchdog ends it when its storage hangs for %lld s: gate_timeout must be less",
			      (long long)period);
}

static int check_paths(struct mg *m, struct snap_error *err)
{
	char *path;
	bson_t reply;
	uint64_t dev = 0;
	bool on = false;
	int r = mg_simple(m, MG_MAIN, "getCmdLineOpts", &reply, "read mongod's paths", NULL, err);

	path = strdup(r == 0 && *mgl_text(&reply, "parsed.storage.dbPath") ? mgl_text(&reply, "parsed.storage.dbPath") : "/data/db");
	if (!path && r == 0)
		r = snap_error_set(err, -ENOMEM, "read mongod's paths: out of memory");
	if (r == 0)
		r = child_devs(&path, &dev, 1, clock_boot_ns() + LOOK_MS * NS_PER_MS, err);
	for (unsigned i = 0; i < m->d->n_pairs; i++)
		on = on || m->d->pairs[i].mount_dev == dev;
	if (r == 0 && !on)
		r = snap_error_set(err, -EXDEV, "mongod writes outside the mount: dbPath %.200s; a snapshot would lack that", path);
	free(path);
	bson_destroy(&reply);
	return r;
}

static int identify(struct mg *m, struct snap_error *err)
{
	bson_t info, h;
	int r = mg_simple(m, MG_MAIN, "buildInfo", &info, "read MongoDB's version", NULL, err);

	if (r == 0) {
		r = mgl_hello(m->c[MG_MAIN], &h, err);
		if (r == 0 && strcmp(mgl_text(&h, "msg"), "isdbgrid") == 0)
			r = snap_error_set(err, -EINVAL, "db.mongodb_uri_file: that is a mongos; name the mongod whose files are here");
		(void)pthread_mutex_lock(&m->lock);
		(void)snprintf(m->text, sizeof(m->text), "%.40s %s", mgl_text(&info, "version"), mgl_role(&h));
		(void)pthread_mutex_unlock(&m->lock);
		bson_destroy(&h);
	}
	bson_destroy(&info);
	return r;
}

static int mg_preflight(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct mg *m = self;
	bool is;
	int r;

	atomic_store(&m->severed, false);
	r = mg_connect(m, err);
	if (r == 0)
		r = identify(m, err);
	if (r == 0)
		r = check_paths(m, err);
	if (r == 0)
		r = check_watchdog(m, err);
	if (r == 0 && m->fsync)
		r = mgl_actions(m->c[MG_MAIN], (const char *const[]){ "fsync", "unlock", NULL }, "hostManager", err);
	if (r == 0 && m->fsync)
		r = mg_is_locked(m, MG_SPARE, &is, err);
	return r;
}

/* ---- position ---- */

/* {ts: Timestamp(T, I), t: term}, or a timestamp alone. */
static void put_optime(struct vbuf *out, const char *key, const bson_t *status, const char *path)
{
	char ts[80];
	bson_iter_t i;
	uint32_t t, n;

	(void)snprintf(ts, sizeof(ts), "%s.ts", path);
	if (!mgl_find(status, ts, &i) && !mgl_find(status, path, &i))
		return;
	if (!BSON_ITER_HOLDS_TIMESTAMP(&i))
		return;
	bson_iter_timestamp(&i, &t, &n);
	vbuf_printf(out, "%s %u:%u\n", key, t, n);
}

static int put_optimes(struct mg *m, const bson_t *h, struct vbuf *out, struct snap_error *err)
{
	struct snap_error why = { 0 };
	bson_t status;
	int code = 0, r = mg_simple(m, MG_MAIN, "replSetGetStatus", &status, "read the optimes", &code, &why);

	put_optime(out, "mongodb_last_write", h, "lastWrite.opTime");
	if (r == 0) {
		put_optime(out, "mongodb_applied", &status, "optimes.appliedOpTime");
		put_optime(out, "mongodb_durable", &status, "optimes.durableOpTime");
		put_optime(out, "mongodb_committed", &status, "optimes.lastCommittedOpTime");
	} else if (code == SERVER_NO_REPLICATION || code == SERVER_NOT_INITIALIZED) {
		r = 0; /* no replica set, no optimes */
	}
	bson_destroy(&status);
	return r < 0 ? snap_error_set(err, r, "%s", why.msg) : 0;
}

static int mg_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct mg *m = self;
	bson_t h;
	int r = mgl_hello(m->c[MG_MAIN], &h, err);

	if (r == 0) {
		vbuf_printf(out, "mongodb %s\nmongodb_role %s\nmongodb_lock %s\n", m->text, mgl_role(&h),
			    m->fsync ? "fsync" : "none");
		if (*mgl_text(&h, "setName")) {
			vbuf_puts(out, "mongodb_set ");
			vbuf_line(out, mgl_text(&h, "setName"));
			vbuf_puts(out, "\nmongodb_member ");
			vbuf_line(out, mgl_text(&h, "me"));
			vbuf_puts(out, "\n");
		}
		if (m->fsync)
			r = put_optimes(m, &h, out, err);
		else
			vbuf_puts(out, "mongodb_position unknown until verified\n");
	}
	bson_destroy(&h);
	return r < 0 ? r : vbuf_error(out);
}

/* ---- life ---- */

/* Nothing is changed before the lock. But one of an earlier run that may still come would be counted together with ours, and
 * outlive it. */
static int mg_prepare(void *self, const char *set, uint32_t max_ms, struct snap_error *err)
{
	return mg_recover(self, max_ms, err);
}

static int mg_finish(void *self, int result, uint32_t max_ms, struct snap_error *err)
{
	return mg_recover(self, max_ms, err);
}

static void mg_sever(void *self)
{
	struct mg *m = self;

	atomic_store(&m->severed, true);
}

static void mg_status(void *self, struct vbuf *out)
{
	struct mg *m = self;

	(void)pthread_mutex_lock(&m->lock);
	vbuf_printf(out, "mongodb_server %s\n", m->text[0] ? m->text : "not contacted yet");
	(void)pthread_mutex_unlock(&m->lock);
}

static void *mg_open(const struct door *d, struct snap_error *err)
{
	struct mg *m;

	if (!*conf_str(d->conf, "db.mongodb_uri_file")) {
		snap_error_set(err, -EINVAL, "db=mongodb needs db.mongodb_uri_file, a file with the URI of the mongod");
		return NULL;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		snap_error_set(err, -ENOMEM, "mongodb: out of memory");
		return NULL;
	}
	mgl_begin();
	m->d = d;
	m->fsync = strcmp(conf_str(d->conf, "db.mongodb_lock"), "yes") == 0;
	(void)pthread_mutex_init(&m->lock, NULL);
	return m;
}

static void mg_close(void *self)
{
	struct snap_error ignored = { 0 };
	struct mg *m = self;

	(void)mg_unlock(m, MGL_ANSWER_MS, &ignored); /* it would outlive us; the journal has it, should this fail */
	mg_disconnect(m);
	(void)pthread_mutex_destroy(&m->lock);
	free(m);
}

const struct coord_ops coord_mongodb = {
	.name = "mongodb",
	.open = mg_open,
	.close = mg_close,
	.preflight = mg_preflight,
	.lock = mg_lock,
	.position = mg_position,
	.unlock = mg_unlock,
	.sever = mg_sever,
	.status = mg_status,
	.prepare = mg_prepare,
	.finish = mg_finish,
	.recover = mg_recover,
};
