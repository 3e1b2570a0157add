/* snapshot/mysql_pos.c - the position that a set records, read under the lock.
 * Own coordinates: binlog_*, gtid_*. Those of its sources, as far as they are executed: source_*. db.position_file
 * says which. Called by: the engine on its database thread, with the lock held and the gate open.
 * Errors:    -errno with the sentence; -EAGAIN when what a replica has executed has gaps. */
#include "snapshot/mysql_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STABLE_MS 2
#define STABLE_TRIES 100

/* A value without its line breaks, which MySQL has in long GTID sets. */
static void put_flat(struct vbuf *out, const char *key, const char *value)
{
	vbuf_printf(out, "%s ", key);
	for (; *value; value++)
		if (*value != '\n')
			vbuf_add(out, value, 1);
	vbuf_puts(out, "\n");
}

/* The columns of one row, each under its name; those without a value are left out. */
static int put_row(struct my *m, const char *sql, struct vbuf *out, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, sql, "read the position", &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	for (unsigned i = 0; row && i < mysql_num_fields(res); i++)
		if (row[i] && *row[i])
			put_flat(out, mysql_fetch_field_direct(res, i)->name, row[i]);
	mysql_free_result(res);
	return vbuf_error(out);
}

int my_flush_logs(struct my *m, struct snap_error *err)
{
	return my_exec(m, "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "flush the engines' logs", err);
}

/* The statement is gone from MySQL 8.4, its successor unknown before 8.2 and to MariaDB. */
static int binlog_position(struct my *m, struct vbuf *out, struct snap_error *err)
{
	const char *sql = !m->mariadb && m->version >= 80200 ? "SHOW BINARY LOG STATUS" : "SHOW MASTER STATUS";
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, sql, "read the binary log position", &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	if (row) {
		vbuf_printf(out, "binlog_file %s\nbinlog_pos %s\n", my_col(res, row, "File"),
			    my_col(res, row, "Position"));
		for (int i = 0; i < 2; i++) { /* what the log leaves out */
			const char *names = my_col(res, row, i ? "Binlog_Ignore_DB" : "Binlog_Do_DB");

			if (*names)
				put_flat(out, i ? "binlog_ignore_db" : "binlog_do_db", names);
		}
	} else
		r = snap_error_set(err, -EIO, "read the binary log position: log_bin is on but there is none");
	mysql_free_result(res);
	return r;
}

/* Who it is, and what it has executed, in one question: everybody waits for each. */
static int own_position(struct my *m, bool coordinates, struct vbuf *out, struct snap_error *err)
{
	char sql[256];
	bool has_uuid = !m->mariadb && m->version >= 50600;
	int r;

	(void)snprintf(sql, sizeof(sql), "SELECT @@GLOBAL.server_id AS server_id%s%s%s%s",
		       has_uuid ? ", @@GLOBAL.server_uuid AS server_uuid" : "",
		       coordinates && has_uuid ? ", @@GLOBAL.gtid_executed AS gtid_executed" : "",
		       coordinates && m->mariadb && m->log_bin ? ", @@GLOBAL.gtid_binlog_pos AS gtid_binlog_pos" : "",
		       coordinates && m->mariadb ? ", @@GLOBAL.gtid_current_pos AS gtid_current_pos" : "");
	r = put_row(m, sql, out, err);
	if (r < 0 || !coordinates)
		return r;
	if (m->log_bin)
		return binlog_position(m, out, err);
	vbuf_puts(out, "binlog off\n");
	return 0;
}

/* ---- replicas ---- */

int my_replica_rows(struct my *m, MYSQL_RES **res, struct snap_error *err)
{
	const char *sql = m->mariadb ? "SHOW ALL SLAVES STATUS" :
			  m->version >= 80022 ? "SHOW REPLICA STATUS" : "SHOW SLAVE STATUS";

	return my_query(m, sql, "read the replica position", res, err);
}

const char *my_replica_channel(const struct my *m, MYSQL_RES *res, MYSQL_ROW row)
{
	return my_col(res, row, m->mariadb ? "Connection_name" : "Channel_Name");
}

bool my_replica_gtid(const struct my *m, MYSQL_RES *res, MYSQL_ROW row)
{
	const char *how = my_col(res, row, m->mariadb ? "Using_Gtid" : "Auto_Position");

	return *how && strcmp(how, "No") != 0 && strcmp(how, "0") != 0;
}

static const char *either(MYSQL_RES *res, MYSQL_ROW row, const char *now, const char *before)
{
	const char *value = my_col(res, row, now);

	return *value ? value : my_col(res, row, before);
}

bool my_replica_sql_runs(MYSQL_RES *res, MYSQL_ROW row)
{
	return strcmp(either(res, row, "Replica_SQL_Running", "Slave_SQL_Running"), "Yes") == 0;
}

/* Several workers that may commit in another order than the source did: file and position are no point. */
static int may_have_gaps(struct my *m, bool *gaps, struct snap_error *err)
{
	char answer[8];
	int r;

	*gaps = false;
	/* MariaDB commits in the source's order within a domain, and gtid_slave_pos is by domain */
	if (m->mariadb || m->version < 50603)
		return 0;
	/* not by SHOW VARIABLES, which takes milliseconds on MySQL */
	r = my_value(m, m->version >= 80026 ? "SELECT @@GLOBAL.replica_parallel_workers > 0 AND NOT @@GLOBAL.replica_preserve_commit_order" :
			m->version >= 50705 ? "SELECT @@GLOBAL.slave_parallel_workers > 0 AND NOT @@GLOBAL.slave_preserve_commit_order" :
					      "SELECT @@GLOBAL.slave_parallel_workers > 0", NULL, answer, sizeof(answer), err);
	*gaps = r == 0 && strcmp(answer, "1") == 0;
	return r;
}

static void put_channel(struct my *m, MYSQL_RES *res, MYSQL_ROW row, struct vbuf *out)
{
	const char *channel = my_replica_channel(m, res, row);

	/* what it has executed, not what it has received */
	put_flat(out, "source_channel", *channel ? channel : "default");
	put_flat(out, "source_host", either(res, row, "Source_Host", "Master_Host"));
	vbuf_printf(out, "source_port %s\nsource_log_file %s\nsource_log_pos %s\nsource_auto_position %s\n",
		    either(res, row, "Source_Port", "Master_Port"),
		    either(res, row, "Relay_Source_Log_File", "Relay_Master_Log_File"),
		    either(res, row, "Exec_Source_Log_Pos", "Exec_Master_Log_Pos"),
		    my_replica_gtid(m, res, row) ? "yes" : "no");
}

/* All channels, once. *n: how many. */
static int read_channels(struct my *m, struct vbuf *out, unsigned *n, bool *runs, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	bool gaps = false;
	int r = my_replica_rows(m, &res, err);

	*n = 0;
	*runs = false;
	if (r < 0)
		return r;
	if (mysql_num_rows(res))
		r = may_have_gaps(m, &gaps, err);
	while (r == 0 && (row = mysql_fetch_row(res))) {
		bool sql_runs = my_replica_sql_runs(res, row);
		const char *failed = my_col(res, row, "Last_SQL_Errno");

		++*n;
		*runs = *runs || sql_runs;
		if (gaps && (sql_runs || (*failed && strcmp(failed, "0") != 0)))
			r = snap_error_set(err, -EAGAIN, "channel \"%.64s\": its applier is parallel without commit order and %s, so "
							 "what it has executed can have gaps: set replica_preserve_commit_order=ON, "
							 "or db.stop_replica=auto", my_replica_channel(m, res, row),
					   sql_runs ? "running" : "ended by an error");
		put_channel(m, res, row, out);
	}
	mysql_free_result(res);
	if (r == 0 && m->mariadb && *n)
		r = put_row(m, "SELECT @@GLOBAL.gtid_slave_pos AS gtid_slave_pos", out, err);
	return r;
}

/* An applier that has just committed says so a moment later: read until two readings are the same. */
static int replica_position(struct my *m, struct vbuf *out, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = STABLE_MS * 1000000 };
	struct vbuf a = VBUF_INIT, b = VBUF_INIT;
	bool runs = false, same = false;
	unsigned n = 0;
	int r = read_channels(m, &a, &n, &runs, err);

	for (int i = 0; r == 0 && runs && !same && i < STABLE_TRIES; i++) {
		(void)nanosleep(&pause, NULL);
		vbuf_free(&b);
		r = read_channels(m, &b, &n, &runs, err);
		same = r == 0 && strcmp(vbuf_text(&a), vbuf_text(&b)) == 0;
		if (r == 0 && !same) {
			struct vbuf t = a;

			a = b;
			b = t;
		}
	}
	if (r == 0 && n == 0 && strcmp(conf_str(m->d->conf, "db.position_file"), "source") == 0)
		r = snap_error_set(err, -EINVAL, "db.position_file=source: this server is no replica; use own or both");
	if (r == 0 && runs && !same)
		r = snap_error_set(err, -EAGAIN, "read the replica position: it moves under the lock; use db.stop_replica=yes");
	vbuf_puts(out, vbuf_text(&a));
	vbuf_free(&a);
	vbuf_free(&b);
	return r;
}

/* Its source's coordinates are not wanted, but that it has one tells whose copy this is. */
static int own_role(struct my *m, struct vbuf *out, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	int r = my_replica_rows(m, &res, err);

	if (r < 0)
		return r;
	if (mysql_num_rows(res))
		vbuf_puts(out, "role replica\n");
	mysql_free_result(res);
	return 0;
}

int my_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct my *m = self;
	const char *which = conf_str(m->d->conf, "db.position_file");
	static const char *const methods[] = { "none", "ftwrl", "backup", "instance" };
	int r;

	if (m->down) {
		/* it is down, and a crash-consistent set was asked for: db.when_down */
		vbuf_puts(out, "server down\nlock_method none\nposition unknown until verified\n");
		return 0;
	}
	vbuf_printf(out, "server %s\nserver_version %s\nlock_method %s%s\n", m->mariadb ? "mariadb" : "mysql", m->text,
		    methods[m->method], m->method == MY_FTWRL && m->instance_locked ? "+instance" : "");
	vbuf_puts(out, vbuf_text(&m->blockers));
	if (m->method == MY_NONE || m->method == MY_INSTANCE) {
		/* commits go on between reading and the gate: only the recovered clone knows */
		vbuf_puts(out, "position unknown until verified\n");
		return 0;
	}
	r = my_flush_logs(m, err);
	if (r == 0)
		r = own_position(m, strcmp(which, "source") != 0, out, err);
	r = r < 0 ? r : strcmp(which, "own") != 0 ? replica_position(m, out, err) : own_role(m, out, err);
	return r < 0 ? r : vbuf_error(out);
}
