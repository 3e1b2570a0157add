/* snapshot/mongodb_lock.c - MongoDB's fsync lock: counted by the server, and alive after the connection that took it.
 * So it is released exactly as often as it was taken, by a connection that stood before, and the journal tells the
 * next process that one is still ours. The answer to the release can come only when the gate is open: the server
 * ends by deleting a file.
 * Deadlines: the server gives up the lock first (db.lock_timeout), then the socket (MGL_ANSWER_MS later), then the engine. A
 *            request whose answer is lost may still be granted, until the server, which answers again, has had that long.
 * Owns:      at most one lock; the journal "mongodb", from before it is asked for until it is known to be gone.
 * Called by: the engine on its database thread. Blocks: by the client's timeouts, set in mongodb.c.
 * Errors:    -EAGAIN not got in time; -EBUSY somebody else's; -ENOLCK it was not ours any more. */
#include "snapshot/mongodb_int.h"

#include "base/clock.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <time.h>

#define SERVER_LOCK_TIMEOUT 24
#define SERVER_MAX_TIME 50
#define SERVER_ILLEGAL_OPERATION 20
#define CLEAR_MARGIN_MS 1000u /* a server that has just been woken up may not have read the request yet */
#define LOOK_PAUSE_MS 100u

int mg_is_locked(struct mg *m, enum mg_conn k, bool *is, struct snap_error *err)
{
	bson_t reply;
	bson_iter_t i;
	int r = mg_simple(m, k, "currentOp", &reply, "ask whether MongoDB is locked", NULL, err);

	*is = r == 0 && bson_iter_init_find(&i, &reply, "fsyncLock") && bson_iter_as_bool(&i);
	bson_destroy(&reply);
	return r;
}

/* One fsyncUnlock. -ENOLCK: the server was not locked. -ECONNRESET: nobody knows. */
static int unlock_once(struct mg *m, enum mg_conn k, int64_t *left, struct snap_error *err)
{
	bson_t reply;
	int code = 0, r = mg_simple(m, k, "fsyncUnlock", &reply, "unlock MongoDB", &code, err);

	*left = mgl_number(&reply, "lockCount", 0);
	bson_destroy(&reply);
	return r < 0 && code == SERVER_ILLEGAL_OPERATION ? -ENOLCK : r;
}

/* What the journal speaks of: release it, or see that it is not there and does not come any more. Looks until then, at the most
 * for wait_ms. 0: it is gone; -EAGAIN it may still come. */
static int look_for_lock(struct mg *m, uint32_t wait_ms, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = LOOK_PAUSE_MS * 1000000 };
	uint64_t need = (conf_num(m->d->conf, "db.lock_timeout") + CLEAR_MARGIN_MS) * NS_PER_MS;
	uint64_t end = clock_boot_ns() + wait_ms * NS_PER_MS;
	int64_t left;
	bool is;
	int r;

	m->locked = false;
	mg_disconnect(m);
	r = mg_connect(m, err);
	while (r == 0 && (r = mg_is_locked(m, MG_MAIN, &is, err)) == 0 && !is) {
		uint64_t now = clock_boot_ns();

		m->clear_ns = m->clear_ns ? m->clear_ns : now;
		if (m->answered || now - m->clear_ns >= need)
			break;
		if (now >= end || atomic_load(&m->severed))
			r = snap_error_set(err, -EAGAIN, "MongoDB: an fsync lock whose answer was lost may still come; it is looked for again");
		else
			(void)nanosleep(&pause, NULL);
	}
	if (r == 0 && is) {
		r = unlock_once(m, MG_UNLOCK, &left, err);
		r = r == -ENOLCK ? 0 : r;
	}
	return r < 0 ? r : journal_drop(m->d->conf, "mongodb", err);
}

/* {fsync: 1, lock: true}, once. left_ms: the server's limit. */
static int ask_lock(struct mg *m, int32_t left_ms, int *code, struct snap_error *err)
{
	bson_t cmd = BSON_INITIALIZER, reply;
	int r;

	(void)BSON_APPEND_INT32(&cmd, "fsync", 1);
	(void)BSON_APPEND_BOOL(&cmd, "lock", true);
	(void)BSON_APPEND_INT32(&cmd, "fsyncLockAcquisitionTimeoutMillis", left_ms);
	m->answered = false;
	m->clear_ns = 0;
	r = mg_command(m, MG_MAIN, &cmd, &reply, "lock MongoDB", code, err);
	bson_destroy(&cmd);
	m->locked = r == 0;
	m->answered = r == 0 || *code;
	m->shared = r == 0 && mgl_number(&reply, "lockCount", 1) > 1;
	bson_destroy(&reply);
	return r;
}

/* What db.lock_timeout leaves; what is above it in max_ms is for short tries, which this lock has not. */
static int32_t limit_ms(const struct mg *m, uint32_t max_ms, uint64_t began_ns)
{
	uint64_t own = conf_num(m->d->conf, "db.lock_timeout"), spent = (clock_boot_ns() - began_ns) / NS_PER_MS;

	own = own < max_ms ? own : max_ms;
	return own > spent ? (int32_t)(own - spent) : 1;
}

int mg_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	uint64_t began = clock_boot_ns();
	struct mg *m = self;
	bool is = false;
	int code = 0, r;

	if (!m->fsync)
		return 0;
	r = mg_is_locked(m, MG_MAIN, &is, err);
	if (r == 0 && is)
		r = snap_error_set(err, -EBUSY, "lock MongoDB: somebody else holds its fsync lock; db.fsyncUnlock() it first");
	if (r == 0)
		r = journal_put(m->d->conf, "mongodb", "locking\n", err);
	if (r < 0)
		return r;
	r = ask_lock(m, limit_ms(m, max_ms, began), &code, err);
	if (r < 0 && code) { /* the server says no: nothing is held */
		(void)journal_drop(m->d->conf, "mongodb", err);
		return code == SERVER_LOCK_TIMEOUT || code == SERVER_MAX_TIME ? -EAGAIN : r;
	}
	if (r < 0) { /* no answer: it may be locked, which ends now, or about to be: then finish has the journal */
		(void)look_for_lock(m, 0, &ignored);
		return r;
	}
	if (atomic_load(&m->severed)) {
		(void)mg_unlock(m, max_ms, err);
		return snap_error_set(err, -ECONNABORTED, "lock MongoDB: given up");
	}
	return 0;
}

int mg_unlock(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct snap_error why = { 0 };
	struct mg *m = self;
	bool is = false;
	int64_t left = 0;
	int r;

	if (!m->locked)
		return 0;
	m->locked = false;
	r = unlock_once(m, MG_UNLOCK, &left, &why);
	if (r < 0 && r != -ENOLCK && !m->shared && !atomic_load(&m->severed)) {
		/* its answer was lost, or it never arrived: with a lock that nobody shares that can be seen */
		snap_error_clear(&why);
		r = mg_is_locked(m, MG_SPARE, &is, &why);
		if (r == 0 && is)
			r = unlock_once(m, MG_SPARE, &left, &why);
	}
	if (r == 0)
		return journal_drop(m->d->conf, "mongodb", err);
	if (r == -ENOLCK)
		(void)journal_drop(m->d->conf, "mongodb", err);
	mg_disconnect(m);
	return snap_error_set(err, -ENOLCK, "unlock MongoDB: %s; the position may not belong to the image",
			      r == -ENOLCK ? "the lock was lost before" : why.msg);
}

int mg_recover(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	struct mg *m = self;
	int r = journal_get(m->d->conf, "mongodb", &text, err);

	if (r == 0 && text.len) {
		atomic_store(&m->severed, false); /* a run that was given up still has its end */
		r = look_for_lock(m, max_ms, err);
	}
	vbuf_free(&text);
	return r;
}
