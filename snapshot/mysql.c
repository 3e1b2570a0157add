/* snapshot/mysql.c - the coordinator of MariaDB and MySQL: its statements, session and preflight.
 * Owns:      one connection (mysql_conn.c), kept between snapshots and pinged before use.
 * Called by: the engine on its database thread; sever from any.
 * Blocks:    up to the client library's timeouts, which are above the server's own.
 * Errors:    -errno with the sentence; never the text of a statement of others, which may hold secrets. */
#include "snapshot/mysql_int.h"

#include <errmsg.h>
#include <errno.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S 5
#define IO_S 30 /* the library's own limit; the engine's are shorter, and kept by sever */

/* ---- statements ---- */

int my_errno(unsigned code)
{
	switch (code) {
	case CR_SERVER_GONE_ERROR:
	case CR_SERVER_LOST:
		return -ECONNRESET;
	case CR_CONNECTION_ERROR:
	case CR_CONN_HOST_ERROR:
		return -ECONNREFUSED;
	case ER_LOCK_WAIT_TIMEOUT:
	case ER_QUERY_INTERRUPTED:
		return -EAGAIN;
	case ER_ACCESS_DENIED_ERROR:
	case ER_SPECIFIC_ACCESS_DENIED_ERROR:
	case ER_DBACCESS_DENIED_ERROR:
	case ER_TABLEACCESS_DENIED_ERROR:
		return -EACCES;
	default:
		return -EIO;
	}
}

int my_fail(struct my *m, const char *what, struct snap_error *err)
{
	return snap_error_set(err, my_errno(mysql_errno(m->c)), "%s: %s (error %u)", what, mysql_error(m->c),
			      mysql_errno(m->c));
}

int my_exec(struct my *m, const char *sql, const char *what, struct snap_error *err)
{
	MYSQL_RES *res;

	if (!m->c)
		return snap_error_set(err, -ENOTCONN, "%s: not connected to the database", what);
	if (mysql_real_query(m->c, sql, strlen(sql)) != 0)
		return my_fail(m, what, err);
	res = mysql_store_result(m->c);
	if (res)
		mysql_free_result(res);
	return 0;
}

int my_query(struct my *m, const char *sql, const char *what, MYSQL_RES **res, struct snap_error *err)
{
	if (!m->c)
		return snap_error_set(err, -ENOTCONN, "%s: not connected to the database", what);
	if (mysql_real_query(m->c, sql, strlen(sql)) != 0)
		return my_fail(m, what, err);
	*res = mysql_store_result(m->c);
	return *res ? 0 : my_fail(m, what, err);
}

const char *my_col(MYSQL_RES *res, MYSQL_ROW row, const char *name)
{
	unsigned n = mysql_num_fields(res);
	MYSQL_FIELD *f = mysql_fetch_fields(res);

	for (unsigned i = 0; i < n; i++)
		if (strcasecmp(f[i].name, name) == 0)
			return row[i] ? row[i] : "";
	return "";
}

int my_value(struct my *m, const char *sql, const char *column, char *buf, size_t cap, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, sql, "database", &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	(void)snprintf(buf, cap, "%s", !row ? "" : column ? my_col(res, row, column) : row[0] ? row[0] : "");
	mysql_free_result(res);
	return 0;
}

int my_text(struct my *m, const char *sql, const char *what, struct vbuf *out, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, sql, what, &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	if (row && row[0])
		vbuf_puts(out, row[0]);
	mysql_free_result(res);
	return vbuf_error(out);
}

int my_variable(struct my *m, const char *name, char *buf, size_t cap, struct snap_error *err)
{
	char sql[128];

	(void)snprintf(sql, sizeof(sql), "SHOW GLOBAL VARIABLES LIKE '%.60s'", name);
	return my_value(m, sql, "Value", buf, cap, err);
}

int my_status_value(struct my *m, const char *name, char *buf, size_t cap, struct snap_error *err)
{
	char sql[128];

	(void)snprintf(sql, sizeof(sql), "SHOW GLOBAL STATUS LIKE '%.60s'", name);
	return my_value(m, sql, "Value", buf, cap, err);
}

/* ---- connection ---- */

static unsigned seconds_up(uint64_t ms)
{
	return (unsigned)((ms + 999) / 1000);
}

/* How this server is locked. */
static int choose_method(struct my *m, struct snap_error *err)
{
	const char *want = conf_str(m->d->conf, "db.lock");
	bool stages = m->mariadb && m->version >= 100401;
	char value[8];
	int r = my_value(m, "SELECT @@GLOBAL.log_bin", NULL, value, sizeof(value), err);

	if (r < 0)
		return r;
	m->log_bin = strcmp(value, "1") == 0;
	r = my_variable(m, "innodb_flush_log_at_trx_commit", value, sizeof(value), err);
	if (r < 0)
		return r;
	m->lazy_log = m->mariadb && strcmp(value, "0") == 0;
	if (strcmp(want, "none") == 0)
		m->method = MY_NONE;
	else if (strcmp(want, "backup") == 0)
		m->method = m->mariadb ? MY_BACKUP : MY_INSTANCE;
	else
		m->method = strcmp(want, "auto") == 0 && stages ? MY_BACKUP : MY_FTWRL;
	if ((m->method == MY_BACKUP && !stages) || (m->method == MY_INSTANCE && m->version < 80000))
		return snap_error_set(err, -EOPNOTSUPP, "db.lock=backup: %s has neither BACKUP STAGE nor LOCK INSTANCE FOR BACKUP; "
							"use auto or ftwrl", m->text);
	return 0;
}

/* What keeps the lock short and the server from writing a log for our own statements: UNLOCK would
 * wait at the closed gate for its own log line. */
static int set_session(struct my *m, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	char sql[96], value[8];
	int r;

	(void)snprintf(sql, sizeof(sql), "SET SESSION lock_wait_timeout=%u, wait_timeout=28800",
		       seconds_up(conf_num(m->d->conf, "db.lock_timeout")));
	r = my_exec(m, sql, "set the session's timeouts", err);
	if (r < 0)
		return r;
	(void)my_exec(m, "SET SESSION long_query_time=3600", "slow log", &ignored);
	snap_error_clear(&ignored);
	if (m->mariadb)
		(void)my_exec(m, "SET SESSION slow_query_log=0", "slow log", &ignored);
	snap_error_clear(&ignored);
	if (my_exec(m, "SET SESSION sql_log_off=1", "general log", &ignored) == 0)
		return 0;
	r = my_value(m, "SELECT @@GLOBAL.general_log", NULL, value, sizeof(value), err);
	if (r == 0 && strcmp(value, "1") == 0)
		r = snap_error_set(err, -EACCES, "the general log is on and this account may not turn it off for its own "
						 "session, so UNLOCK would wait for the gate: turn general_log off, or GRANT "
						 "%s ON *.* TO it", m->mariadb ? "SUPER" : m->version >= 80014 ?
						 "SESSION_VARIABLES_ADMIN" : "SUPER");
	return r;
}

/* Down as a server that is not there, not as one that does not answer or knows us not. */
static bool is_down(int code)
{
	return code == -ECONNREFUSED;
}

int my_connect(struct my *m, struct snap_error *err)
{
	int r = my_reach(m, err);

	return r < 0 ? r : choose_method(m, err);
}

static int my_preflight(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct my *m = self;
	struct snap_error why = { 0 };
	int r;

	atomic_store(&m->severed, false);
	m->down = false;
	r = my_connect(m, &why);
	if (is_down(r) && strcmp(conf_str(m->d->conf, "db.when_down"), "crash-consistent") == 0) {
		m->down = true;
		return 0;
	}
	if (r < 0)
		return snap_error_set(err, r, "%s", why.msg);
	r = set_session(m, err);
	if (r == 0)
		r = my_check_grants(m, err);
	if (r == 0)
		r = my_check_paths(m, err);
	if (r == 0)
		r = my_check_role(m, err);
	if (r == -EACCES)
		my_disconnect(m); /* what is granted now is for new sessions */
	if (r == 0)
		my_patience_warm(m);
	vbuf_free(&m->layout);
	return r < 0 ? r : my_read_layout(m, &m->layout, err);
}

static void my_layout(void *self, struct vbuf *out)
{
	const struct my *m = self;

	vbuf_puts(out, vbuf_text(&m->layout));
}

/* Each check by itself; what failed is said with what to do. */
static int my_examine(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	static const struct {
		const char *what;
		int (*check)(struct my *m, struct snap_error *err);
	} checks[] = { { "session settings", set_session }, { "privileges of the account", my_check_grants },
		       { "every path the server writes is on the mount", my_check_paths },
		       { "replication, group and cluster", my_check_role },
		       { "replicas of a semi-synchronous source acknowledge", my_check_semi_source } };
	struct my *m = self;
	struct snap_error why = { 0 };
	int bad = 0;

	atomic_store(&m->severed, false);
	if (my_connect(m, &why) < 0) {
		vbuf_printf(out, "bad server: %s\n", why.msg);
		return 1;
	}
	vbuf_printf(out, "ok server %s answers\n", m->text);
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		why = (struct snap_error){ 0 };
		if (checks[i].check(m, &why) == 0) {
			vbuf_printf(out, "ok %s\n", checks[i].what);
		} else {
			vbuf_printf(out, "bad %s: %s\n", checks[i].what, why.msg);
			bad++;
		}
	}
	my_patience_warm(m);
	if (m->second->c) {
		vbuf_puts(out, "ok a lock that takes long can be given up\n");
	} else if (strcmp(m->impatient, "off") != 0) {
		vbuf_printf(out, "bad db.lock_patience: a second connection: %s\n", m->impatient);
		bad++;
	}
	why = (struct snap_error){ 0 };
	vbuf_free(&m->blockers);
	if (m->method != MY_NONE && my_blockers(m, false, &why) < 0) {
		vbuf_printf(out, "bad the lock: %s\n", why.msg);
		bad++;
	} else {
		vbuf_puts(out, "ok nothing would block the lock\n");
	}
	return bad;
}

static void my_status(void *self, struct vbuf *out)
{
	struct my *m = self;

	(void)pthread_mutex_lock(&m->lock);
	vbuf_printf(out, "db_server %s\ndb_connection %s\n", m->text[0] ? m->text : "not contacted yet",
		    m->sock >= 0 ? "open" : "closed");
	vbuf_printf(out, "db_lock_patience %s\n", m->impatient[0] ? m->impatient : "on");
	(void)pthread_mutex_unlock(&m->lock);
}

static void *my_open(const struct door *d, struct snap_error *err)
{
	struct my *m = calloc(1, sizeof(*m));

	if (!m || mysql_library_init(0, NULL, NULL) != 0) {
		free(m);
		snap_error_set(err, -ENOMEM, "database client library: out of memory");
		return NULL;
	}
	m->d = d;
	m->sock = -1;
	m->w = (struct my_where){ .defaults_file = conf_str(d->conf, "db.defaults_file"), .socket = conf_str(d->conf, "db.socket"),
				  .tls = conf_str(d->conf, "db.tls"), .host = "", .connect_s = CONNECT_S,
				  .io_s = IO_S + seconds_up(conf_num(d->conf, "db.lock_timeout")) };
	(void)snprintf(m->impatient, sizeof(m->impatient), "not tried yet");
	m->second = my_open_plain(&m->w, err);
	if (!m->second || my_parse_blockers(m, err) < 0) {
		my_close_plain(m->second);
		free(m);
		return NULL;
	}
	(void)pthread_mutex_init(&m->lock, NULL);
	return m;
}

static void my_close(void *self)
{
	struct my *m = self;

	my_disconnect(m);
	my_close_plain(m->second);
	vbuf_free(&m->blockers);
	vbuf_free(&m->journal);
	vbuf_free(&m->layout);
	(void)pthread_mutex_destroy(&m->lock);
	free(m);
	mysql_library_end();
}

const struct coord_ops coord_mysql = {
	.name = "mysql",
	.open = my_open,
	.close = my_close,
	.preflight = my_preflight,
	.lock = my_lock,
	.lock_told = my_lock_told,
	.position = my_position,
	.unlock = my_unlock,
	.sever = my_sever,
	.status = my_status,
	.layout = my_layout,
	.prepare = my_prepare,
	.finish = my_finish,
	.recover = my_recover,
	.examine = my_examine,
	.logs = my_logs,
};
