/* snapshot/cutover/facts.c - what is asked of a server. See tool.h. Changes nothing there.
 * Called by: check.c and ops.c. Blocks: a few statements. Errors: -errno with the sentence. */
#include "snapshot/cutover/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void facts_free(struct facts *f)
{
	vbuf_free(&f->grants);
	gtid_free(f->executed);
	gtid_free(f->slave_pos);
	f->executed = f->slave_pos = NULL;
}

static struct gtid_set *read_set(struct my *m, const char *sql, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	struct gtid_set *s = NULL;
	int r = my_text(m, sql, "read the server's transactions", &text, err);

	if (r == 0)
		s = gtid_parse(m->mariadb ? GTID_MARIADB : GTID_MYSQL, vbuf_text(&text), err);
	else
		(void)snap_error_set(err, r, "read the server's transactions: out of memory");
	vbuf_free(&text);
	return s;
}

int facts_executed(struct my *m, struct gtid_set **all, struct gtid_set **pos, struct snap_error *err)
{
	struct gtid_set *state, *p;

	*all = NULL;
	if (!m->mariadb) {
		*all = read_set(m, "SELECT @@GLOBAL.gtid_executed", err);
		return *all ? 0 : err->code;
	}
	/* the position first: what it names is in the state by then */
	p = read_set(m, "SELECT @@GLOBAL.gtid_slave_pos", err);
	state = p ? read_set(m, "SELECT @@GLOBAL.gtid_binlog_state", err) : NULL;
	if (state)
		*all = gtid_union(state, p, err);
	gtid_free(state);
	if (*all && pos) {
		gtid_free(*pos);
		*pos = p;
	} else {
		gtid_free(p);
	}
	return *all ? 0 : err->code;
}

static bool on(const char *v)
{
	return strcasecmp(v, "ON") == 0 || strcmp(v, "1") == 0;
}

int facts_writable(struct my *m, bool *yes, struct snap_error *err)
{
	char ro[8] = "", super[8] = "";
	int r = my_variable(m, "read_only", ro, sizeof(ro), err);

	if (r == 0)
		r = my_variable(m, "super_read_only", super, sizeof(super), err);
	*yes = r == 0 && !on(ro) && !on(super);
	return r;
}

static void add_filter(struct link *l, const char *name, const char *value)
{
	size_t n = strlen(l->filter);

	(void)snprintf(l->filter + n, sizeof(l->filter) - n, "%s%s=%.60s", n ? ", " : "", name, value);
}

static const char *both(MYSQL_RES *res, MYSQL_ROW row, const char *now, const char *before)
{
	const char *v = my_col(res, row, now);

	return *v ? v : my_col(res, row, before);
}

static void read_row(struct my *m, MYSQL_RES *res, MYSQL_ROW row, struct link *l)
{
	const char *io = both(res, row, "Last_IO_Error", "Last_IO_Error"), *sql = my_col(res, row, "Last_SQL_Error");
	MYSQL_FIELD *f = mysql_fetch_fields(res);

	l->there = true;
	l->io = strcmp(both(res, row, "Replica_IO_Running", "Slave_IO_Running"), "Yes") == 0;
	l->sql = my_replica_sql_runs(res, row);
	l->gtid = my_replica_gtid(m, res, row);
	(void)snprintf(l->name, sizeof(l->name), "%.64s", my_replica_channel(m, res, row));
	(void)snprintf(l->lag, sizeof(l->lag), "%.20s", both(res, row, "Seconds_Behind_Source", "Seconds_Behind_Master"));
	(void)snprintf(l->host, sizeof(l->host), "%.290s", both(res, row, "Source_Host", "Master_Host"));
	(void)snprintf(l->port, sizeof(l->port), "%.15s", both(res, row, "Source_Port", "Master_Port"));
	(void)snprintf(l->delay, sizeof(l->delay), "%.20s", my_col(res, row, "SQL_Delay"));
	(void)snprintf(l->error, sizeof(l->error), "%.190s", *sql ? sql : io);
	for (unsigned i = 0; i < mysql_num_fields(res); i++)
		if (strncmp(f[i].name, "Replicate_", 10) == 0 && row[i] && *row[i])
			add_filter(l, f[i].name, row[i]);
}

/* By uuid on MySQL, by server_id on MariaDB; "" or "0" of a channel that has never connected. */
static const char *source_of(const struct my *m, MYSQL_RES *res, MYSQL_ROW row)
{
	return m->mariadb ? my_col(res, row, "Master_Server_Id") : both(res, row, "Source_UUID", "Master_UUID");
}

static void add_other(struct my *m, MYSQL_RES *res, MYSQL_ROW row, struct link *l)
{
	const char *source = source_of(m, res, row);
	bool known = *source && strcmp(source, "0") != 0, runs = my_replica_sql_runs(res, row);
	size_t n = strlen(l->others);

	(void)snprintf(l->others + n, sizeof(l->others) - n, "%s\"%.64s\" from %.80s:%.8s%s", n ? ", " : "", my_replica_channel(m, res, row),
		       both(res, row, "Source_Host", "Master_Host"), both(res, row, "Source_Port", "Master_Port"),
		       !runs ? " (applier stopped)" : known ? "" : " (not reached yet)");
	l->others_run = l->others_run || (runs && known);
}

int facts_link(struct my *of, const struct facts *source, struct link *l, struct snap_error *err)
{
	const char *id = of->mariadb ? source->server_id : source->uuid;
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_replica_rows(of, &res, err);

	memset(l, 0, sizeof(*l));
	while (r == 0 && (row = mysql_fetch_row(res)))
		if (!l->there && strcmp(source_of(of, res, row), id) == 0)
			read_row(of, res, row, l);
		else
			add_other(of, res, row, l);
	if (res)
		mysql_free_result(res);
	return r;
}

static int count(struct my *m, const char *sql, unsigned *n, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	int r = my_query(m, sql, "ask the server", &res, err);

	*n = r == 0 ? (unsigned)mysql_num_rows(res) : 0;
	if (res)
		mysql_free_result(res);
	return r;
}

static int read_binlog_filter(struct my *m, struct facts *f, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, !m->mariadb && m->version >= 80200 ? "SHOW BINARY LOG STATUS" : "SHOW MASTER STATUS",
			 "read what the binary log leaves out", &res, err);

	row = r == 0 ? mysql_fetch_row(res) : NULL;
	if (row)
		(void)snprintf(f->binlog_filter, sizeof(f->binlog_filter), "%.90s%s%.90s", my_col(res, row, "Binlog_Do_DB"),
			       *my_col(res, row, "Binlog_Do_DB") && *my_col(res, row, "Binlog_Ignore_DB") ? " / " : "",
			       my_col(res, row, "Binlog_Ignore_DB"));
	if (res)
		mysql_free_result(res);
	return r;
}

int facts_read(struct side *s, struct facts *f, struct snap_error *err)
{
	const struct {
		const char *name;
		char *buf;
		size_t cap;
	} v[] = {
		{ "server_id", f->server_id, sizeof(f->server_id) }, { "server_uuid", f->uuid, sizeof(f->uuid) },
		{ "gtid_domain_id", f->domain, sizeof(f->domain) }, { "gtid_mode", f->gtid_mode, sizeof(f->gtid_mode) },
		{ "gtid_strict_mode", f->strict, sizeof(f->strict) }, { "log_bin", f->log_bin, sizeof(f->log_bin) },
		{ s->m->mariadb || s->m->version < 80026 ? "log_slave_updates" : "log_replica_updates", f->log_updates, sizeof(f->log_updates) },
		{ "auto_increment_increment", f->increment, sizeof(f->increment) },
		{ "auto_increment_offset", f->offset, sizeof(f->offset) }, { "read_only", f->read_only, sizeof(f->read_only) },
		{ "super_read_only", f->super_read_only, sizeof(f->super_read_only) },
		{ "event_scheduler", f->events, sizeof(f->events) },
		{ s->m->mariadb ? "rpl_semi_sync_master_enabled" : "rpl_semi_sync_source_enabled", f->semi_sync, sizeof(f->semi_sync) },
	};
	int r = 0;

	f->mariadb = s->m->mariadb;
	f->version = s->m->version;
	(void)snprintf(f->text, sizeof(f->text), "%s", s->m->text);
	(void)snprintf(f->id, sizeof(f->id), "%s", s->id);
	for (size_t i = 0; r == 0 && i < sizeof(v) / sizeof(v[0]); i++)
		r = my_variable(s->m, v[i].name, v[i].buf, v[i].cap, err);
	r = r < 0 ? r : read_binlog_filter(s->m, f, err);
	r = r < 0 ? r : count(s->m, "XA RECOVER", &f->prepared_xa, err);
	r = r < 0 ? r : count(s->m, "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN "
				    "('Binlog Dump', 'Binlog Dump GTID', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker', 'Connect') AND "
				    "USER NOT IN ('system user', 'event_scheduler')", &f->clients, err);
	r = r < 0 ? r : my_all_grants(s->m, &f->grants, err);
	return r < 0 ? r : facts_executed(s->m, &f->executed, &f->slave_pos, err);
}
