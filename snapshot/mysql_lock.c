/* snapshot/mysql_lock.c - taking and releasing the lock of MariaDB and MySQL.
 * Owns:      whether it is held. Called by: the engine on its database thread.
 * Blocks:    lock up to lock_wait_timeout of the session, for each of its statements; with db.lock_patience short tries
 *            and pauses before that.
 * Errors:    -EAGAIN not got in time; nothing is held then. -ENOLCK the lock was lost before unlock. */
#include "snapshot/mysql_int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#define PAUSE_MAX_MS 250u

/* What makes nobody wait, but another backup: the first of MariaDB's stages, and the engines' logs. my_position flushes
 * these again under the lock, for what is committed until then: so little that it is quick. */
static int get_ready(struct my *m, struct snap_error *err)
{
	int r = 0;

	if (m->method == MY_BACKUP) {
		r = my_exec(m, "BACKUP STAGE START", "lock the database", err);
		m->locked = r == 0;
	}
	return r < 0 || m->method == MY_INSTANCE ? r : my_flush_logs(m, err);
}

static uint64_t until(uint32_t patience_ms)
{
	return patience_ms ? clock_boot_ns() + patience_ms * NS_PER_MS : 0;
}

/* DDL is kept out first: FTWRL alone lets go on what it has begun, and file operations of it are not replayed as
 * others are. */
static int lock_tables(struct my *m, uint32_t patience_ms, bool *given_up, struct snap_error *err)
{
	int r = 0;

	if (!m->mariadb && m->version >= 80000) {
		r = my_exec(m, "LOCK INSTANCE FOR BACKUP", "lock the database", err);
		m->instance_locked = r == 0;
	}
	if (r == 0 && m->method == MY_FTWRL) {
		/* one that timed out waiting for tables in use goes on holding everybody's writes back (tried on 9.7) */
		m->locked = true;
		r = my_ask(m, "FLUSH TABLES WITH READ LOCK", "lock the database", until(patience_ms), given_up, err);
	}
	return r;
}

/* One try, for so long; 0: as long as the server waits. Nothing is held when it failed. */
static int try_once(struct my *m, uint32_t patience_ms, bool *given_up, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r;

	*given_up = false;
	r = get_ready(m, err);
	m->told.began_ns = clock_boot_ns();
	/* the server passes through the stages between, in order */
	if (r == 0 && m->method == MY_BACKUP)
		r = my_ask(m, "BACKUP STAGE BLOCK_COMMIT", "lock the database", until(patience_ms), given_up, err);
	else if (r == 0)
		r = lock_tables(m, patience_ms, given_up, err);
	/* nothing may stay blocked behind a half-taken lock */
	if (r < 0 && my_unlock(m, 0, &why) < 0 && *given_up) {
		*given_up = false;
		snap_error_clear(err);
		r = snap_error_set(err, -ECONNRESET, "lock the database: the connection was lost as a try was given up");
	}
	return r;
}

/* The application runs, and nothing is held. */
static int rest(struct my *m, uint32_t ms, struct snap_error *err)
{
	const struct timespec tick = { .tv_nsec = 4 * NS_PER_MS };
	uint64_t end = clock_boot_ns() + ms * NS_PER_MS;

	while (clock_boot_ns() < end && !atomic_load(&m->severed))
		(void)nanosleep(&tick, NULL);
	return atomic_load(&m->severed) ? snap_error_set(err, -ECONNABORTED, "lock the database: given up") : 0;
}

/* Short tries, while there is time for them; the last one waits as long as the server does. */
static int try_patiently(struct my *m, uint32_t max_ms, struct snap_error *err)
{
	uint32_t patience = (uint32_t)conf_num(m->d->conf, "db.lock_patience"), pause = patience * 2;
	uint64_t last = conf_num(m->d->conf, "db.lock_timeout"), end = clock_boot_ns(), held;
	bool given_up;
	int r;

	if (max_ms > last)
		end += (max_ms - last < COORD_TRIES_MS ? max_ms - last : COORD_TRIES_MS) * NS_PER_MS;
	for (;;) {
		bool patient = clock_boot_ns() < end && my_patience_ready(m);

		r = try_once(m, patient ? patience : 0, &given_up, err);
		if (!given_up)
			return r;
		held = clock_boot_ns() - m->told.began_ns;
		m->told.given_up++;
		m->told.longest_ns = held > m->told.longest_ns ? held : m->told.longest_ns;
		snap_error_clear(err);
		r = rest(m, pause, err);
		if (r < 0)
			return r;
		pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
	}
}

int my_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	struct my *m = self;
	char sql[96];
	int r;

	m->told = (struct coord_lock){ .began_ns = clock_boot_ns() };
	if (m->method == MY_NONE || m->down)
		return 0;
	(void)snprintf(sql, sizeof(sql), "SET SESSION wait_timeout=%u", (lock_ms + 999) / 1000);
	r = my_exec(m, sql, "lock the database", err);
	if (r == 0 && m->policy != MY_IGNORE)
		r = my_blockers(m, false, err); /* one that began since prepare */
	return r < 0 ? r : try_patiently(m, max_ms, err);
}

void my_lock_told(void *self, struct coord_lock *out)
{
	*out = ((const struct my *)self)->told;
}

int my_unlock(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct snap_error why = { 0 };
	struct my *m = self;
	int r = 0;

	/* first the lock that only DDL waits for, and it waits for the other one still: after the other everybody whom it
	 * held runs at once, and our thread is one of many */
	if (m->instance_locked)
		r = my_exec(m, "UNLOCK INSTANCE", "unlock the database", &why);
	if (r == 0 && m->locked)
		r = my_exec(m, m->method == MY_BACKUP ? "BACKUP STAGE END" : "UNLOCK TABLES", "unlock the database", &why);
	m->locked = m->instance_locked = false;
	if (r == 0)
		return 0;
	/* a dead connection, or a stage that was not ours any more: the server has let go by itself */
	snap_error_set(err, -ENOLCK, "unlock the database: the lock was lost before (%s); the position may not belong "
				     "to the image", m->c ? mysql_error(m->c) : "connection cut");
	my_disconnect(m);
	return -ENOLCK;
}
