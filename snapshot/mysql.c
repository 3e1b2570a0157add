/* snapshot/mysql.c - the coordinator of MariaDB and MySQL: connection, lock, position, unlock.
 * Owns:      one connection, kept between snapshots and pinged before use; never reconnects by itself (a
 *            reconnect would lose the lock without an error).
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
#include <sys/socket.h>
#include <unistd.h>

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

static int my_fail(struct my *m, const char *what, struct snap_error *err)
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

int my_value(struct my *m, const char *sql, char *buf, size_t cap, struct snap_error *err)
{
	MYSQL_RES *res;
	MYSQL_ROW row;
	int r = my_query(m, sql, "database", &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	(void)snprintf(buf, cap, "%s", row && row[0] ? row[0] : "");
	mysql_free_result(res);
	return 0;
}

/* ---- connection ---- */

static void set_sock(struct my *m, int sock)
{
	(void)pthread_mutex_lock(&m->lock);
	m->sock = sock;
	(void)pthread_mutex_unlock(&m->lock);
}

static void disconnect(struct my *m)
{
	set_sock(m, -1);
	if (m->c)
		mysql_close(m->c); /* ends any lock */
	m->c = NULL;
	m->locked = false;
}

static unsigned seconds_up(uint64_t ms)
{
	return (unsigned)((ms + 999) / 1000);
}

static int do_connect(struct my *m, struct snap_error *err)
{
	const char *file = conf_str(m->d->conf, "db.defaults_file");
	const char *socket_path = conf_str(m->d->conf, "db.socket");
	unsigned connect_s = 5, io_s = seconds_up(conf_num(m->d->conf, "db.lock_timeout")) + 3;
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	if (*file && access(file, R_OK) < 0)
		return snap_error_set(err, -errno, "db.defaults_file %s: %s", file, strerror(errno));
	m->c = mysql_init(NULL);
	if (!m->c)
		return snap_error_set(err, -ENOMEM, "connect to the database: out of memory");
	(void)mysql_options(m->c, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s);
	(void)mysql_options(m->c, MYSQL_OPT_READ_TIMEOUT, &io_s);
	(void)mysql_options(m->c, MYSQL_OPT_WRITE_TIMEOUT, &io_s);
	if (*file)
		(void)mysql_options(m->c, MYSQL_READ_DEFAULT_FILE, file);
	(void)mysql_options(m->c, MYSQL_READ_DEFAULT_GROUP, "stillfs");
	if (!mysql_real_connect(m->c, NULL, NULL, NULL, NULL, 0, *socket_path ? socket_path : NULL, 0)) {
		int r = my_fail(m, "connect to the database", err);

		disconnect(m);
		return r;
	}
	if (getsockopt((int)mysql_get_socket(m->c), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		peer.pid = 0;
	m->peer_pid = peer.pid;
	set_sock(m, (int)mysql_get_socket(m->c));
	return 0;
}

static int identify(struct my *m, struct snap_error *err)
{
	const char *want = conf_str(m->d->conf, "db.lock");
	char text[128], log_bin[8];
	unsigned a = 0, b = 0, c = 0;
	int r = my_value(m, "SELECT VERSION()", text, sizeof(text), err);

	if (r == 0)
		r = my_value(m, "SELECT @@GLOBAL.log_bin", log_bin, sizeof(log_bin), err);
	if (r < 0)
		return r;
	m->mariadb = strcasestr(text, "mariadb") != NULL;
	(void)sscanf(text, "%u.%u.%u", &a, &b, &c);
	m->version = a * 10000 + b * 100 + c;
	m->log_bin = strcmp(log_bin, "1") == 0;
	if (strcmp(want, "none") == 0)
		m->method = MY_NONE;
	else if (strcmp(want, "ftwrl") == 0)
		m->method = MY_FTWRL;
	else
		m->method = m->mariadb && m->version >= 100401 ? MY_BACKUP : MY_FTWRL;
	if (strcmp(want, "backup") == 0 && m->method != MY_BACKUP)
		return snap_error_set(err, -EOPNOTSUPP, "db.lock=backup: %s has no BACKUP STAGE; use auto or ftwrl", text);
	(void)pthread_mutex_lock(&m->lock);
	(void)snprintf(m->text, sizeof(m->text), "%s", text);
	(void)pthread_mutex_unlock(&m->lock);
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
	r = my_value(m, "SELECT @@GLOBAL.general_log", value, sizeof(value), err);
	if (r == 0 && strcmp(value, "1") == 0)
		r = snap_error_set(err, -EACCES, "the general log is on and this account may not turn it off for its own "
						 "session, so UNLOCK would wait for the gate: turn general_log off, or GRANT "
						 "SUPER ON *.* to it");
	return r;
}

static int my_preflight(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct my *m = self;
	int r = 0;

	if (m->c && mysql_ping(m->c) != 0)
		disconnect(m); /* idle for too long, or the server was restarted */
	if (!m->c)
		r = do_connect(m, err);
	if (r == 0)
		r = identify(m, err);
	if (r == 0)
		r = set_session(m, err);
	if (r == 0)
		r = my_check_grants(m, err);
	if (r == 0)
		r = my_check_paths(m, err);
	if (r == 0 && m->method != MY_NONE)
		r = my_check_blockers(m, err);
	return r;
}

/* ---- the lock ---- */

static int my_unlock(void *self, uint32_t max_ms, struct snap_error *err);

static int my_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	struct snap_error ignored = { 0 };
	struct my *m = self;
	char sql[96];
	int r;

	if (m->method == MY_NONE)
		return 0;
	(void)snprintf(sql, sizeof(sql), "SET SESSION wait_timeout=%u", seconds_up(lock_ms));
	r = my_exec(m, sql, "lock the database", err);
	if (r < 0)
		return r;
	if (m->method == MY_FTWRL) {
		r = my_exec(m, "FLUSH TABLES WITH READ LOCK", "lock the database", err);
		m->locked = r == 0; /* one that timed out holds nothing */
	} else {
		r = my_exec(m, "BACKUP STAGE START", "lock the database", err);
		m->locked = r == 0;
		/* the stages between are passed through by the server, in order */
		if (r == 0)
			r = my_exec(m, "BACKUP STAGE BLOCK_COMMIT", "lock the database", err);
	}
	if (r < 0)
		(void)my_unlock(m, max_ms, &ignored); /* nothing may stay blocked behind a half-taken lock */
	return r;
}

/* The statement is gone from MySQL 8.4, its successor unknown before 8.2 and to MariaDB. */
static int binlog_position(struct my *m, struct vbuf *out, struct snap_error *err)
{
	const char *sql = !m->mariadb && m->version >= 80200 ? "SHOW BINARY LOG STATUS" : "SHOW MASTER STATUS";
	MYSQL_RES *res;
	MYSQL_ROW row;
	int r = my_query(m, sql, "read the binary log position", &res, err);

	if (r < 0)
		return r;
	row = mysql_fetch_row(res);
	if (row) {
		const char *set = my_col(res, row, "Executed_Gtid_Set");

		vbuf_printf(out, "binlog_file %s\nbinlog_pos %s\n", my_col(res, row, "File"),
			    my_col(res, row, "Position"));
		if (*set) {
			vbuf_puts(out, "gtid_executed ");
			for (; *set; set++)
				if (*set != '\n')
					vbuf_add(out, set, 1);
			vbuf_puts(out, "\n");
		}
	} else {
		r = snap_error_set(err, -EIO, "read the binary log position: log_bin is on but there is none");
	}
	mysql_free_result(res);
	return r;
}

/* What a replica has executed of each of its sources: not what it has received. */
static int replica_position(struct my *m, struct vbuf *out, struct snap_error *err)
{
	const char *sql = m->mariadb ? "SHOW ALL SLAVES STATUS" :
			  m->version >= 80022 ? "SHOW REPLICA STATUS" : "SHOW SLAVE STATUS";
	MYSQL_RES *res;
	MYSQL_ROW row;
	int r = my_query(m, sql, "read the replica position", &res, err);

	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res))) {
		const char *channel = my_col(res, row, m->mariadb ? "Connection_name" : "Channel_Name");
		const char *file = my_col(res, row, "Relay_Source_Log_File");
		const char *pos = my_col(res, row, "Exec_Source_Log_Pos");

		if (!*file) {
			file = my_col(res, row, "Relay_Master_Log_File");
			pos = my_col(res, row, "Exec_Master_Log_Pos");
		}
		vbuf_printf(out, "source_channel %s\nsource_log_file %s\nsource_log_pos %s\n",
			    *channel ? channel : "default", file, pos);
	}
	mysql_free_result(res);
	return 0;
}

static int put_value(struct my *m, const char *key, const char *sql, struct vbuf *out, struct snap_error *err)
{
	char value[4096];
	int r = my_value(m, sql, value, sizeof(value), err);

	if (r == 0 && *value)
		vbuf_printf(out, "%s %s\n", key, value);
	return r;
}

static int my_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	static const char *const methods[] = { "none", "ftwrl", "backup" };
	struct my *m = self;
	int r = 0;

	vbuf_printf(out, "server %s\nserver_version %s\nlock_method %s\n", m->mariadb ? "mariadb" : "mysql", m->text,
		    methods[m->method]);
	if (m->method == MY_NONE) {
		/* commits go on between reading and the gate: only the recovered clone knows */
		vbuf_puts(out, "position unknown until verified\n");
		return 0;
	}
	/* the engines' logs out of their buffers: servers that do not flush at each commit */
	r = my_exec(m, "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "flush the engines' logs", err);
	if (r == 0 && m->log_bin)
		r = binlog_position(m, out, err);
	if (r == 0 && m->mariadb && m->log_bin)
		r = put_value(m, "gtid_binlog_pos", "SELECT @@GLOBAL.gtid_binlog_pos", out, err);
	if (r == 0 && m->mariadb)
		r = put_value(m, "gtid_current_pos", "SELECT @@GLOBAL.gtid_current_pos", out, err);
	if (r == 0 && m->mariadb)
		r = put_value(m, "gtid_slave_pos", "SELECT @@GLOBAL.gtid_slave_pos", out, err);
	if (r == 0)
		r = put_value(m, "server_id", "SELECT @@GLOBAL.server_id", out, err);
	if (r == 0 && !m->mariadb)
		r = put_value(m, "server_uuid", "SELECT @@GLOBAL.server_uuid", out, err);
	if (r == 0)
		r = replica_position(m, out, err);
	return r < 0 ? r : vbuf_error(out);
}

static int my_unlock(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct my *m = self;
	int r;

	if (!m->locked)
		return 0;
	m->locked = false;
	r = my_exec(m, m->method == MY_BACKUP ? "BACKUP STAGE END" : "UNLOCK TABLES", "unlock the database", NULL);
	if (r == 0)
		return 0;
	/* a dead connection, or a stage that was not ours any more: the server has let go by itself */
	snap_error_set(err, -ENOLCK, "unlock the database: the lock was lost before (%s); the position may not belong "
				     "to the image", m->c ? mysql_error(m->c) : "connection cut");
	disconnect(m);
	return -ENOLCK;
}

static void my_sever(void *self)
{
	struct my *m = self;

	(void)pthread_mutex_lock(&m->lock);
	if (m->sock >= 0)
		(void)shutdown(m->sock, SHUT_RDWR); /* the server sees the end and drops the lock */
	(void)pthread_mutex_unlock(&m->lock);
}

static void my_status(void *self, struct vbuf *out)
{
	struct my *m = self;

	(void)pthread_mutex_lock(&m->lock);
	vbuf_printf(out, "db_server %s\ndb_connection %s\n", m->text[0] ? m->text : "not contacted yet",
		    m->sock >= 0 ? "open" : "closed");
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
	(void)pthread_mutex_init(&m->lock, NULL);
	return m;
}

static void my_close(void *self)
{
	struct my *m = self;

	disconnect(m);
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
	.position = my_position,
	.unlock = my_unlock,
	.sever = my_sever,
	.status = my_status,
};
