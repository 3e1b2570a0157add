/* snapshot/mysql_block.c - what would make the lock, and everybody behind it, wait: found before the lock is asked
 * for, and dealt with as db.blockers says.
 * Called by: mysql_replica.c's prepare, and mysql_lock.c just before the lock. Database thread, gate open.
 * Blocks:    as long as db.blockers says; ends at sever.
 * Errors:    -EAGAIN with their names: first word, user, age; never a statement's text, which may hold secrets. */
#include "snapshot/mysql_int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POLL_MS 200

int my_parse_blockers(struct my *m, struct snap_error *err)
{
	const char *text = conf_str(m->d->conf, "db.blockers");
	char *end;
	double s;

	m->policy = MY_REFUSE;
	if (strcmp(text, "refuse") == 0)
		return 0;
	if (strcmp(text, "ignore") == 0) {
		m->policy = MY_IGNORE;
		return 0;
	}
	if (strncmp(text, "kill-queries", 12) == 0 && (text[12] == '\0' || (text[12] == ':' && text[13]))) {
		m->policy = MY_KILL;
		(void)snprintf(m->kill_user, sizeof(m->kill_user), "%s", text[12] ? text + 13 : "");
		return 0;
	}
	if (strncmp(text, "wait:", 5) == 0) {
		s = strtod(text + 5, &end);
		if (end != text + 5 && (*end == '\0' || strcmp(end, "s") == 0) && s >= 0 && s <= 600) {
			m->policy = MY_WAIT;
			m->wait_ms = (uint32_t)(s * 1000);
			return 0;
		}
	}
	return snap_error_set(err, -EINVAL, "db.blockers=%s: expected wait:SECONDS (at most 600), refuse, "
					    "kill-queries[:USER] or ignore", text);
}

/* One look at the server. */
struct found {
	unsigned n, killed;
	char names[300];
	size_t len;
};

/* Would a statement of this first word make the lock wait? */
static bool blocks(const struct my *m, const char *info)
{
	static const char *const ddl[] = { "ALTER", "OPTIMIZE", "REPAIR", "CREATE", "DROP", "RENAME", "TRUNCATE",
					   "ANALYZE", "LOAD", NULL };

	if (m->method == MY_BACKUP || m->method == MY_INSTANCE) {
		for (int i = 0; ddl[i]; i++)
			if (strncasecmp(info, ddl[i], strlen(ddl[i])) == 0)
				return true;
		return false;
	}
	/* MariaDB's FTWRL passes by running reads; MySQL's closes tables and waits for all */
	return !m->mariadb || strncasecmp(info, "SELECT", 6) != 0;
}

static int kill_one(struct my *m, const char *id, struct found *f, struct snap_error *err)
{
	bool killed;
	int r = my_kill_query(m, id, "end a statement that would block the lock", &killed, err);

	f->killed += killed;
	return r;
}

/* more: said of it besides. */
static int note(struct my *m, struct found *f, const char *id, const char *user, const char *age, const char *info,
		const char *more, bool may_kill, struct snap_error *err)
{
	bool kill = may_kill && m->policy == MY_KILL && *info && (!m->kill_user[0] || strcmp(m->kill_user, user) == 0);
	char word[16], line[192];
	int n;

	(void)snprintf(word, sizeof(word), "%.*s", (int)strcspn(info, " \t\n("), info);
	n = snprintf(line, sizeof(line), "%s by %.32s for %.12s s (id %.20s%s)", *word ? word : "an idle session with a lock",
		     user, age, id, more);
	if (f->n++ < 4 && f->len + (size_t)n + 3 < sizeof(f->names))
		f->len += (size_t)snprintf(f->names + f->len, sizeof(f->names) - f->len, "%s%s", f->len ? ", " : "", line);
	if (!strstr(vbuf_text(&m->blockers), id) && m->blockers.len < 2000) {
		vbuf_puts(&m->blockers, "blocker ");
		vbuf_line(&m->blockers, line); /* a client's words, and a line of the position's record */
		vbuf_puts(&m->blockers, kill ? ", killed\n" : "\n");
	}
	return kill ? kill_one(m, id, f, err) : 0;
}

/* A commit that waits for a semi-synchronous replica: every kind of lock waits for it, and nothing ends it but an
 * acknowledgement or the source's timeout. */
static bool awaits_ack(const char *state)
{
	return strncmp(state, "Waiting for semi-sync ACK", 25) == 0;
}

/* Long statements; those that wait for a replica sooner, as it mostly takes milliseconds. TIME counts turns of the
 * clock's second: 1 may be a moment, 2 is more than a second. */
static int look_at_statements(struct my *m, struct found *f, bool may_kill, struct snap_error *err)
{
	const char *table = !m->mariadb && m->version >= 80022 ? "performance_schema.processlist" :
								 "information_schema.PROCESSLIST";
	char sql[320];
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r;

	(void)snprintf(sql, sizeof(sql), "SELECT ID, USER, TIME, STATE, INFO FROM %s WHERE COMMAND IN ('Query', 'Execute') AND "
					 "(TIME >= %llu OR (TIME >= 2 AND STATE LIKE 'Waiting for semi-sync ACK%%')) AND "
					 "ID <> CONNECTION_ID()", table,
		       (unsigned long long)(conf_num(m->d->conf, "db.blocker_age") / 1000));
	r = my_query(m, sql, "look for long statements", &res, err);
	while (r == 0 && (row = mysql_fetch_row(res))) {
		const char *info = my_col(res, row, "INFO");
		bool ack = awaits_ack(my_col(res, row, "STATE"));

		/* an applier without a statement waits for work */
		if (ack || (blocks(m, info) && (*info || strcmp(my_col(res, row, "USER"), "system user") != 0)))
			r = note(m, f, my_col(res, row, "ID"), my_col(res, row, "USER"), my_col(res, row, "TIME"),
				 *info ? info : "a", ack ? ", waits for a replica's acknowledgement" : "", may_kill && !ack, err);
	}
	if (res)
		mysql_free_result(res);
	return r;
}

/* MySQL says who holds what: idle sessions with LOCK TABLES, and DDL in its last phase. */
static int look_at_locks(struct my *m, struct found *f, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r;

	if (m->mariadb || m->version < 80000)
		return 0;
	r = my_query(m, "SELECT DISTINCT t.PROCESSLIST_ID AS ID, t.PROCESSLIST_USER AS USER, t.PROCESSLIST_TIME AS TIME FROM "
			"performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.THREAD_ID = "
			"l.OWNER_THREAD_ID WHERE l.LOCK_STATUS = 'GRANTED' AND l.OBJECT_TYPE IN ('GLOBAL', 'BACKUP LOCK') AND "
			"l.LOCK_TYPE = 'INTENTION_EXCLUSIVE' AND t.PROCESSLIST_COMMAND = 'Sleep' AND t.PROCESSLIST_ID <> "
			"CONNECTION_ID()", "look for held locks", &res, err);
	if (r == -EACCES) {
		snap_error_clear(err);
		return snap_error_set(err, r, "look for held locks: GRANT SELECT ON performance_schema.* TO the account of "
					      "stillfs");
	}
	while (r == 0 && (row = mysql_fetch_row(res)))
		r = note(m, f, my_col(res, row, "ID"), my_col(res, row, "USER"), my_col(res, row, "TIME"), "", "", false, err);
	if (res)
		mysql_free_result(res);
	return r;
}

int my_blockers(struct my *m, bool wait, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
	uint64_t end = clock_boot_ns();
	struct found f;
	int r;

	if (wait && m->policy == MY_WAIT)
		end += m->wait_ms * NS_PER_MS;
	else if (wait && m->policy == MY_KILL)
		end += conf_num(m->d->conf, "db.lock_timeout") * NS_PER_MS; /* what was killed must still end */
	for (;;) {
		f = (struct found){ 0 };
		r = look_at_statements(m, &f, wait, err);
		if (r == 0)
			r = look_at_locks(m, &f, err);
		if (r < 0 || !f.n || m->policy == MY_IGNORE)
			return r;
		if (atomic_load(&m->severed))
			return snap_error_set(err, -ECONNABORTED, "look for long statements: given up");
		if (clock_boot_ns() >= end)
			break;
		(void)nanosleep(&pause, NULL);
	}
	return snap_error_set(err, -EAGAIN, "%u long statement%s would make the lock, and everybody behind it, wait: %s; "
					    "wait for it or end it, then take the snapshot again (db.blockers=%s)",
			      f.n, f.n == 1 ? "" : "s", f.names, conf_str(m->d->conf, "db.blockers"));
}
