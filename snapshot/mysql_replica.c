/* snapshot/mysql_replica.c - what is changed on a server around the hold and changed back: an applier stopped, a
 * Galera node out of flow control.
 * Owns:      the journal "mysql": a line for each change, on disk before the change, and until it is undone, also through later runs.
 * Called by: the engine on its database thread, gate open, nothing locked.
 * Blocks:    for an applier to end its transaction, and for db.blockers.
 * Errors:    -errno with the sentence. What could not be changed back stays in the journal. */
#include "snapshot/mysql_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STOP_MS 20000u

/* ---- changing, and changing back ---- */

static bool is_noted(const struct vbuf *journal, const char *line, size_t len)
{
	for (const char *p = vbuf_text(journal); *p; p += strcspn(p, "\n") + 1)
		if (strncmp(p, line, len) == 0)
			return true;
	return false;
}

/* The line is on disk before the change. An earlier run may have left the same one. */
static int journal_add(struct my *m, const char *what, const char *name, struct snap_error *err)
{
	struct vbuf line = VBUF_INIT;
	bool noted;

	if (strchr(name, '\n'))
		return snap_error_set(err, -EINVAL, "channel \"%.64s\": the journal of the mysql coordinator cannot hold a name with a line "
						    "break: give the channel another, or set db.stop_replica=no", name);
	vbuf_printf(&line, "%s %s\n", what, name);
	noted = is_noted(&m->journal, vbuf_text(&line), line.len);
	if (!noted)
		vbuf_add(&m->journal, vbuf_text(&line), line.len);
	if (vbuf_error(&line))
		m->journal.error = vbuf_error(&line);
	vbuf_free(&line);
	if (vbuf_error(&m->journal))
		return snap_error_set(err, -ENOMEM, "journal of the mysql coordinator: out of memory");
	return journal_put(m->d->conf, "mysql", vbuf_text(&m->journal), err);
}

/* A channel's name as a literal; it comes from the server or from our own journal. MySQL takes a statement without one for
 * all channels, also those that somebody else has stopped; it knows channels from 5.7.6 on. */
static int applier_sql(struct my *m, const char *verb, const char *channel, char *sql, size_t cap, struct snap_error *err)
{
	const char *word = m->mariadb || m->version < 80022 ? "SLAVE" : "REPLICA";
	char quoted[2 * 192 + 1];
	size_t n = strlen(channel);

	if (n > 191)
		return snap_error_set(err, -ENAMETOOLONG, "channel \"%.64s...\": its name is too long", channel);
	(void)mysql_real_escape_string(m->c, quoted, channel, (unsigned long)n);
	if (m->mariadb)
		(void)snprintf(sql, cap, "%s %s '%s' SQL_THREAD", verb, word, quoted);
	else if (m->version < 50706)
		(void)snprintf(sql, cap, "%s %s SQL_THREAD", verb, word);
	else
		(void)snprintf(sql, cap, "%s %s SQL_THREAD FOR CHANNEL '%s'", verb, word, quoted);
	return 0;
}

static int applier(struct my *m, const char *verb, const char *channel, struct snap_error *err)
{
	char sql[512], what[160];
	int r = applier_sql(m, verb, channel, sql, sizeof(sql), err);

	(void)snprintf(what, sizeof(what), "%s the applier of channel \"%.64s\"", strcmp(verb, "STOP") == 0 ? "stop" : "start",
		       channel);
	return r < 0 ? r : my_exec(m, sql, what, err);
}

static bool is_there(struct my *m, const char *channel)
{
	struct snap_error ignored = { 0 };
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	bool found = false;

	if (my_replica_rows(m, &res, &ignored) < 0)
		return true; /* it may be */
	while (!found && (row = mysql_fetch_row(res)))
		found = strcmp(my_replica_channel(m, res, row), channel) == 0;
	mysql_free_result(res);
	return found;
}

/* Somebody may have taken the channel away meanwhile, which servers say in many ways; of MySQL's without a name with one
 * that stands for a damaged one, too. */
static int start_applier(struct my *m, const char *channel, struct snap_error *err)
{
	struct snap_error why = { 0 };
	int r = applier(m, "START", channel, &why);

	return r == 0 || !is_there(m, channel) ? 0 : snap_error_set(err, r, "%s", why.msg);
}

static int undo_line(struct my *m, const char *line, struct snap_error *err)
{
	if (strncmp(line, "applier ", 8) == 0)
		return start_applier(m, line + 8, err);
	if (strncmp(line, "lazy_log ", 9) == 0)
		return my_exec(m, "SET GLOBAL innodb_flush_log_at_trx_commit=0", "set innodb_flush_log_at_trx_commit back", err);
	if (strncmp(line, "desync ", 7) == 0)
		return my_exec(m, "SET GLOBAL wsrep_desync=0", "put the Galera node back into flow control", err);
	return snap_error_set(err, -EINVAL, "journal of the mysql coordinator: unknown line \"%.64s\"", line);
}

/* Undo each line; the connection stands. What could not be undone goes to left. */
static int undo(struct my *m, const char *lines, struct vbuf *left, struct snap_error *err)
{
	char line[256];
	int r = 0, one;

	while (*lines) {
		size_t n = strcspn(lines, "\n");

		(void)snprintf(line, sizeof(line), "%.*s", (int)(n < sizeof(line) ? n : sizeof(line) - 1), lines);
		one = undo_line(m, line, err);
		if (one < 0)
			vbuf_printf(left, "%.*s\n", (int)n, lines);
		lines += n + (lines[n] == '\n');
		r = r ? r : one;
	}
	return r;
}

/* The journal keeps what is still to be undone, and that alone: the rest may be somebody else's wish by the next try. */
static int undo_all(struct my *m, const char *lines, struct snap_error *err)
{
	struct vbuf left = VBUF_INIT;
	struct snap_error own = { 0 };
	int r;

	atomic_store(&m->severed, false);
	r = my_connect(m, err);
	if (r < 0)
		return r;
	r = undo(m, lines, &left, err);
	if (r == 0)
		r = journal_drop(m->d->conf, "mysql", err);
	else if (vbuf_error(&left) == 0 && journal_put(m->d->conf, "mysql", vbuf_text(&left), &own) < 0)
		log_warn("%s", own.msg); /* all of it is tried again */
	vbuf_free(&left);
	return r;
}

int my_finish(void *self, int result, uint32_t max_ms, struct snap_error *err)
{
	struct my *m = self;
	int r;

	if (!m->journal.len)
		return 0;
	r = undo_all(m, vbuf_text(&m->journal), err);
	vbuf_free(&m->journal); /* recover reads it from the disk */
	return r;
}

int my_recover(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct vbuf lines = VBUF_INIT;
	struct my *m = self;
	int r = journal_get(m->d->conf, "mysql", &lines, err);

	if (r == 0 && lines.len)
		r = undo_all(m, vbuf_text(&lines), err);
	vbuf_free(&lines);
	return r;
}

/* ---- prepare ---- */

/* Must this applier rest during the hold? Parallel without commit order, or file and position as coordinates:
 * what the server shows of these is not the point where commits are blocked. */
static int must_stop(struct my *m, MYSQL_RES *res, MYSQL_ROW row, bool *stop, struct snap_error *err)
{
	const char *policy = conf_str(m->d->conf, "db.stop_replica");
	char temps[16], order[8] = "", workers[16] = "0";
	int r;

	*stop = false;
	if (!my_replica_sql_runs(res, row) || strcmp(policy, "no") == 0)
		return 0;
	*stop = strcmp(policy, "yes") == 0 || !my_replica_gtid(m, res, row);
	if (*stop)
		return 0;
	r = my_status_value(m, !m->mariadb && m->version >= 80026 ? "Replica_open_temp_tables" : "Slave_open_temp_tables", temps,
			    sizeof(temps), err);
	if (r == 0 && !m->mariadb)
		r = my_variable(m, m->version >= 80026 ? "replica_parallel_workers" : "slave_parallel_workers", workers,
				sizeof(workers), err);
	if (r == 0 && !m->mariadb)
		r = my_variable(m, m->version >= 80026 ? "replica_preserve_commit_order" : "slave_preserve_commit_order", order,
				sizeof(order), err);
	*stop = r == 0 && (strcmp(temps, "0") != 0 || (!m->mariadb && strcmp(workers, "0") != 0 && strcmp(order, "ON") != 0 &&
						       strcmp(order, "1") != 0));
	return r;
}

/* With temporary tables open the applier is in the middle of something: let it go on, and stop it elsewhere. */
static int wait_for_temps(struct my *m, const char *channel, struct snap_error *err)
{
	const char *name = !m->mariadb && m->version >= 80026 ? "Replica_open_temp_tables" : "Slave_open_temp_tables";
	const struct timespec pause = { .tv_nsec = 200000000 };
	uint64_t end = clock_boot_ns() + STOP_MS * NS_PER_MS;
	char temps[16] = "";
	int r = my_status_value(m, name, temps, sizeof(temps), err);

	while (r == 0 && *temps && strcmp(temps, "0") != 0) {
		if (atomic_load(&m->severed))
			return snap_error_set(err, -ECONNABORTED, "wait for temporary tables of the applier: given up");
		if (clock_boot_ns() >= end)
			return snap_error_set(err, -EAGAIN, "channel \"%.64s\": its applier had temporary tables open (%s) for %u s, "
							    "and a set would lack them; try later", channel, temps,
					      STOP_MS / 1000);
		r = applier(m, "START", channel, err);
		(void)nanosleep(&pause, NULL);
		if (r == 0)
			r = applier(m, "STOP", channel, err);
		if (r == 0)
			r = my_status_value(m, name, temps, sizeof(temps), err);
	}
	return r;
}

static int stop_appliers(struct my *m, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_replica_rows(m, &res, err);
	bool stop;

	if (r < 0)
		return r;
	while (r == 0 && (row = mysql_fetch_row(res))) {
		const char *channel = my_replica_channel(m, res, row);

		r = must_stop(m, res, row, &stop, err);
		if (r < 0 || !stop)
			continue;
		r = journal_add(m, "applier", channel, err);
		if (r == 0)
			r = applier(m, "STOP", channel, err);
		if (r == 0)
			r = wait_for_temps(m, channel, err);
	}
	mysql_free_result(res);
	return r;
}

int my_prepare(void *self, const char *set, uint32_t max_ms, struct snap_error *err)
{
	struct my *m = self;
	bool in_flow = false;
	int r = 0;

	vbuf_free(&m->journal);
	vbuf_free(&m->blockers);
	if (m->down)
		return 0;
	/* what an earlier run changed and nobody could change back: its lines stay in front of ours, and finish tries again */
	r = journal_get(m->d->conf, "mysql", &m->journal, err);
	if (r == 0 && m->journal.len && m->journal.data[m->journal.len - 1] != '\n')
		vbuf_puts(&m->journal, "\n");
	if (r == 0 && m->method != MY_NONE)
		r = my_blockers(m, true, err);
	if (r == 0 && (m->method == MY_FTWRL || m->method == MY_BACKUP))
		r = stop_appliers(m, err);
	if (r == 0 && m->lazy_log && m->method != MY_NONE) {
		/* tried on 10.11: with 0 the log of what was committed stays in memory, and no statement flushes it */
		r = journal_add(m, "lazy_log", "0", err);
		if (r == 0)
			r = my_exec(m, "SET GLOBAL innodb_flush_log_at_trx_commit=1", "have commits written out for the hold", err);
	}
	if (r == 0)
		r = my_galera(m, &in_flow, err);
	if (r == 0 && in_flow) {
		r = journal_add(m, "desync", "now", err);
		if (r == 0)
			r = my_exec(m, "SET GLOBAL wsrep_desync=1", "take the Galera node out of flow control", err);
	}
	return r;
}
