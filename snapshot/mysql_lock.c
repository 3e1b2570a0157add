/* snapshot/mysql_lock.c - taking and releasing the lock of MariaDB and MySQL.
 * Owns:      whether it is held. Called by: the engine on its database thread.
 * Blocks:    lock up to lock_wait_timeout of the session, for each of its statements.
 * Errors:    -EAGAIN not got in time; nothing is held then. -ENOLCK the lock was lost before unlock. */
#include "snapshot/mysql_int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>

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

/* DDL is kept out first: FTWRL alone lets go on what it has begun, and file operations of it are not replayed as
 * others are. */
static int lock_tables(struct my *m, struct snap_error *err)
{
	int r = 0;

	if (!m->mariadb && m->version >= 80000) {
		r = my_exec(m, "LOCK INSTANCE FOR BACKUP", "lock the database", err);
		m->instance_locked = r == 0;
	}
	if (r == 0 && m->method == MY_FTWRL) {
		/* one that timed out waiting for tables in use goes on holding everybody's writes back (tried on 9.7) */
		m->locked = true;
		r = my_exec(m, "FLUSH TABLES WITH READ LOCK", "lock the database", err);
	}
	return r;
}

int my_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	struct my *m = self;
	char sql[96];
	int r;

	m->lock_began = clock_boot_ns();
	if (m->method == MY_NONE || m->down)
		return 0;
	(void)snprintf(sql, sizeof(sql), "SET SESSION wait_timeout=%u", (lock_ms + 999) / 1000);
	r = my_exec(m, sql, "lock the database", err);
	if (r == 0 && m->policy != MY_IGNORE)
		r = my_blockers(m, false, err); /* one that began since prepare */
	if (r < 0)
		return r;
	r = get_ready(m, err);
	m->lock_began = clock_boot_ns();
	/* the server passes through the stages between, in order */
	if (r == 0)
		r = m->method == MY_BACKUP ? my_exec(m, "BACKUP STAGE BLOCK_COMMIT", "lock the database", err) : lock_tables(m, err);
	if (r < 0)
		(void)my_unlock(m, max_ms, &ignored); /* nothing may stay blocked behind a half-taken lock */
	return r;
}

uint64_t my_lock_began(void *self)
{
	return ((const struct my *)self)->lock_began;
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
