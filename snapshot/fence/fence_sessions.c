/* snapshot/fence/fence_sessions.c - ends the sessions of a server that is being fenced.
 * Owns:      the list of ended ids in struct fence_run.
 * Called by: fence.c once the server is read-only, or when LOCK TABLES of others keep it from becoming so.
 * Blocks:    until the ended ones are gone, up to the run's end.
 * Errors:    -EACCES a session of an account above ours; -ETIMEDOUT one that does not end (it rolls back). */
#include "snapshot/fence/fence_int.h"
#include "base/clock.h"

#include <errno.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* An ended session is mostly gone in a millisecond, which its client waits; one that rolls back may take minutes. */
#define POLL_FIRST_MS 1u
#define POLL_LAST_MS 100u
#define COPY_MS 110u /* of transactions_left */

struct row {
	uint64_t id;
	const char *user, *command, *db;
	char host[256]; /* without the port */
};

static void read_row(MYSQL_RES *res, MYSQL_ROW r, struct row *s)
{
	const char *host = my_col(res, r, "Host"), *colon = strrchr(host, ':');
	size_t n = strlen(host);

	if (colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1))
		n = (size_t)(colon - host);
	s->id = strtoull(my_col(res, r, "Id"), NULL, 10);
	s->user = my_col(res, r, "User");
	s->command = my_col(res, r, "Command");
	s->db = my_col(res, r, "db");
	(void)snprintf(s->host, sizeof(s->host), "%.*s", (int)n, host);
}

/* Replication in both directions, the server's own threads, and who is let through. */
static bool exempt(const struct row *s, uint64_t own, const char *allow)
{
	static const char *const users[] = { "system user", "event_scheduler", "mysql.session", "mysql.sys", NULL };
	static const char *const commands[] = { "Daemon", "Binlog Dump", "Binlog Dump GTID", "Slave_IO", "Slave_SQL",
						"Slave_worker", "Group Replication Data Stream subscription", NULL };

	if (s->id == own)
		return true;
	for (int i = 0; users[i]; i++)
		if (strcmp(s->user, users[i]) == 0)
			return true;
	for (int i = 0; commands[i]; i++)
		if (strcasecmp(s->command, commands[i]) == 0)
			return true;
	return fence_allowed(allow, s->user, s->host);
}

static bool was_ended(const struct fence_run *f, uint64_t id)
{
	for (size_t i = 0; i < f->n_ended; i++)
		if (f->ended[i] == id)
			return true;
	return false;
}

/* What clients call themselves, asked for once: a question for each would double the time until all are ended. */
struct names {
	MYSQL_RES *res;
	struct name {
		uint64_t id;
		const char *program;
	} *of; /* sorted; the texts are res's */
	size_t n;
};

static int by_id(const void *a, const void *b)
{
	uint64_t x = ((const struct name *)a)->id, y = ((const struct name *)b)->id;

	return (x > y) - (x < y);
}

/* None on a server without performance_schema, and when there is no memory for them: they are for the report alone. */
static void names_read(struct fence_run *f, struct names *n)
{
	struct snap_error ignored = { 0 };
	MYSQL_ROW row;

	if (my_query(f->m, "SELECT PROCESSLIST_ID, ATTR_VALUE FROM performance_schema.session_connect_attrs WHERE ATTR_NAME = 'program_name'",
		     "read the sessions' programs", &n->res, &ignored) < 0)
		return;
	n->of = calloc(mysql_num_rows(n->res) + 1, sizeof(*n->of));
	while (n->of && (row = mysql_fetch_row(n->res)))
		if (row[0] && row[1] && *row[1])
			n->of[n->n++] = (struct name){ strtoull(row[0], NULL, 10), row[1] };
	if (n->of)
		qsort(n->of, n->n, sizeof(*n->of), by_id);
}

static const char *program_of(const struct names *n, uint64_t id)
{
	const struct name key = { id, NULL }, *found = n->n ? bsearch(&key, n->of, n->n, sizeof(key), by_id) : NULL;

	return found ? found->program : "-";
}

static void names_free(struct names *n)
{
	if (n->res)
		mysql_free_result(n->res);
	free(n->of);
}

static int end_one(struct fence_run *f, const struct row *s, const char *program, struct snap_error *err)
{
	struct snap_error why = { 0 };
	char sql[64];
	uint64_t *more;
	int r;

	if (f->n_ended == f->cap_ended) {
		more = realloc(f->ended, (f->cap_ended + 256) * sizeof(*more));
		if (!more)
			return snap_error_set(err, -ENOMEM, "fence: list of ended sessions: out of memory");
		f->ended = more;
		f->cap_ended += 256;
	}
	(void)snprintf(sql, sizeof(sql), "KILL CONNECTION %llu", (unsigned long long)s->id);
	r = my_exec(f->m, sql, "end a session", &why);
	if (r < 0 && mysql_errno(f->m->c) == ER_NO_SUCH_THREAD)
		return 0; /* it has gone by itself */
	if (r < 0 && mysql_errno(f->m->c) == ER_KILL_DENIED_ERROR)
		return snap_error_set(err, -EACCES, "fence: session %llu of %s@%s may not be ended by our account: GRANT %s ON *.* TO it, or "
						    "list that one in fence.allow", (unsigned long long)s->id, s->user, s->host,
				      f->m->mariadb ? "CONNECTION ADMIN" : "CONNECTION_ADMIN, SYSTEM_USER");
	if (r < 0)
		return snap_error_set(err, r, "%s", why.msg);
	f->ended[f->n_ended++] = s->id;
	if (f->o->ended && strcmp(s->user, "unauthenticated user") != 0)
		f->o->ended(f->o->arg, &(struct fence_session){ .id = s->id, .user = s->user, .host = s->host, .program = program,
								.db = *s->db ? s->db : "-" });
	return 0;
}

int fence_sessions_once(struct fence_run *f, unsigned *left, char who[128], struct snap_error *err)
{
	uint64_t own = mysql_thread_id(f->m->c), highest = 0;
	bool seen = false, asked = false;
	struct names names = { 0 };
	MYSQL_RES *res = NULL;
	struct row s;
	MYSQL_ROW row;
	int r = my_query(f->m, "SHOW PROCESSLIST", "list the sessions", &res, err);

	*left = 0;
	while (r == 0 && (row = mysql_fetch_row(res))) {
		read_row(res, row, &s);
		seen = seen || s.id == own;
		highest = s.id > highest ? s.id : highest;
		if (exempt(&s, own, f->o->allow) || (f->limit && s.id > f->limit))
			continue;
		if (!(*left)++)
			(void)snprintf(who, 128, "%llu of %.40s@%.40s", (unsigned long long)s.id, s.user, s.host);
		if (was_ended(f, s.id))
			continue;
		if (!asked)
			names_read(f, &names);
		asked = true;
		r = end_one(f, &s, program_of(&names, s.id), err);
	}
	names_free(&names);
	if (res)
		mysql_free_result(res);
	if (r == 0 && !seen)
		r = snap_error_set(err, -EIO, "fence: the server's list of sessions lacks our own, so it cannot be trusted");
	f->limit = f->limit ? f->limit : highest;
	return r;
}

/* A transaction of our own, which writes nothing: what lists the transactions and lacks it is of before. */
static int begin_own(struct my *m, struct snap_error *err)
{
	int r = my_exec(m, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "fence: begin a transaction", err);

	return r < 0 ? r : my_exec(m, "START TRANSACTION WITH CONSISTENT SNAPSHOT", "fence: begin a transaction", err);
}

/* Transactions of what was ended. A session leaves the list of sessions only afterwards, but nobody promises that. The list
 * is a copy of InnoDB's, renewed only when nobody has read it for 100 ms. */
static int transactions_left(struct fence_run *f, unsigned *left, char who[128], struct snap_error *err)
{
	uint64_t id, own = mysql_thread_id(f->m->c);
	struct snap_error ignored = { 0 };
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	bool old = true;
	int r = begin_own(f->m, err), end;

	r = r < 0 ? r : my_query(f->m, "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX", "list the transactions", &res, err);
	while (r == 0 && (row = mysql_fetch_row(res))) {
		id = strtoull(row[0] ? row[0] : "0", NULL, 10);
		old = old && id != own;
		if (was_ended(f, id) && !(*left)++)
			(void)snprintf(who, 128, "the transaction of session %.20s", row[0]);
	}
	if (res)
		mysql_free_result(res);
	end = my_exec(f->m, "COMMIT", "fence: end a transaction", r < 0 ? &ignored : err);
	if (r == 0 && end == 0 && old && !(*left)++)
		(void)snprintf(who, 128, "somebody reads INNODB_TRX all the time, which keeps it old");
	return r < 0 ? r : end;
}

int fence_sessions_end(struct fence_run *f, struct snap_error *err)
{
	unsigned left, ms = POLL_FIRST_MS;
	char who[128] = "";
	int r;

	for (;;) {
		r = fence_sessions_once(f, &left, who, err);
		if (r == 0 && !left) {
			r = transactions_left(f, &left, who, err);
			ms = COPY_MS; /* sooner it would say the same */
		}
		if (r < 0 || !left)
			return r;
		if (f->o->cancelled && f->o->cancelled(f->o->arg))
			return snap_error_set(err, -ECANCELED, "fence: given up while sessions were ending; the server is read-only");
		if (clock_boot_ns() >= f->end_ns)
			return snap_error_set(err, -ETIMEDOUT, "fence: %u ended session%s not gone yet (%s); the server is read-only and goes "
							       "on ending them: ask for the fence again", left,
					      left == 1 ? " is" : "s are", who);
		(void)nanosleep(&(struct timespec){ .tv_nsec = (long)ms * 1000000 }, NULL);
		ms = ms * 2 < POLL_LAST_MS ? ms * 2 : POLL_LAST_MS;
	}
}
