/* snapshot/mysql_int.h - shared by the files of the MySQL coordinator: mysql.c (statements, preflight), mysql_conn.c
 * (connection), mysql_lock.c, mysql_patience.c (giving a statement up), mysql_pos.c (position), mysql_block.c (what would block the lock), mysql_replica.c (what
 * is changed around the hold), mysql_role.c (semi-sync, groups, clusters), mysql_check.c (privileges and paths),
 * mysql_tls.c; and by what acts on a server alone (fence/). Private to them; one thread at a time. */
#ifndef STILLFS_SNAPSHOT_MYSQL_INT_H
#define STILLFS_SNAPSHOT_MYSQL_INT_H

#include "snapshot/coord_mysql.h"

#include <mysql.h>
#include <pthread.h>
#include <stdatomic.h>

/* MY_BACKUP: MariaDB's stages. MY_INSTANCE: MySQL's LOCK INSTANCE FOR BACKUP alone, which keeps DDL out and no
 * commit. MY_FTWRL on MySQL 8 and later has it as well. */
enum my_method { MY_NONE, MY_FTWRL, MY_BACKUP, MY_INSTANCE };
enum my_policy { MY_WAIT, MY_REFUSE, MY_KILL, MY_IGNORE };

/* Where a server is and how long it may take; strings are borrowed, "" when not given. */
struct my_where {
	const char *defaults_file, *socket, *host, *tls; /* tls: auto, required, verify */
	unsigned port; /* with host; 0: the library's default */
	unsigned connect_s, io_s; /* seconds; io_s above the server's lock_wait_timeout of the session */
};

struct my {
	const struct door *d; /* NULL: a connection by itself (my_open_plain), no coordinator's */
	struct my_where w;
	MYSQL *c; /* NULL: not connected */
	bool mariadb, log_bin, down; /* down: it may be, by db.when_down */
	bool lazy_log; /* MariaDB with innodb_flush_log_at_trx_commit=0: FLUSH ENGINE LOGS does nothing there */
	unsigned version; /* 101119 = 10.11.19 */
	enum my_method method;
	bool locked, instance_locked;
	struct coord_lock told; /* began: when the statement was sent that makes others wait */
	struct my *second; /* a connection by itself that ends what this one waits for; never NULL in a coordinator's */
	char id[24]; /* of this session at the server, for the second */
	char impatient[SNAP_ERROR_MAX]; /* why nothing can be given up; "" when it can. mutex */
	enum my_policy policy; /* of db.blockers */
	uint32_t wait_ms;
	char kill_user[80]; /* "" any */
	struct vbuf blockers; /* lines for the record */
	struct vbuf journal; /* what is changed now: "applier CHANNEL", "desync", "lazy_log" */
	int peer_pid; /* of the server on a Unix socket, 0: unknown */
	_Atomic bool severed;
	pthread_mutex_t lock; /* sock, text, impatient */
	int sock; /* for sever; -1 */
	char text[128]; /* for status */
	struct vbuf layout; /* of the last preflight */
};

/* ---- mysql.c ---- */

/* Run a statement that gives no rows. -errno with the sentence "WHAT: server's message". */
int my_exec(struct my *m, const char *sql, const char *what, struct snap_error *err);
/* Run a query, keep its result. res is freed by the caller. */
int my_query(struct my *m, const char *sql, const char *what, MYSQL_RES **res, struct snap_error *err);
/* A column by name, "" when missing or NULL. Names differ between servers, places too. */
const char *my_col(MYSQL_RES *res, MYSQL_ROW row, const char *name);
int my_errno(unsigned mysql_code); /* MySQL error -> -errno */
/* The first value of a query, cut to cap; "" when there is none. column: its name, NULL: the first one. */
int my_value(struct my *m, const char *sql, const char *column, char *buf, size_t cap, struct snap_error *err);
/* The first column of the first row, appended whole: a GTID set may be large. Nothing for NULL and for no row. */
int my_text(struct my *m, const char *sql, const char *what, struct vbuf *out, struct snap_error *err);
/* A global variable, "" when this server has none of that name. */
int my_variable(struct my *m, const char *name, char *buf, size_t cap, struct snap_error *err);
int my_status_value(struct my *m, const char *like, char *buf, size_t cap, struct snap_error *err);
int my_fail(struct my *m, const char *what, struct snap_error *err); /* what the server said of the last call */
int my_connect(struct my *m, struct snap_error *err); /* my_reach, and how it is locked */

/* ---- mysql_conn.c ---- */
/* A connection by itself, without a coordinator and without a journal: for what acts on a server alone. Not connected yet.
 * *w is copied, its strings are borrowed. NULL: out of memory. */
struct my *my_open_plain(const struct my_where *w, struct snap_error *err);
void my_close_plain(struct my *m); /* harmless on NULL */
/* Connected afterwards, server and version known: pings what stands, else connects. Never in the middle of something. */
int my_reach(struct my *m, struct snap_error *err);
void my_disconnect(struct my *m); /* ends any lock */
/* Any thread: a call in progress ends soon, and so does the session at the server. my_reach makes another. */
void my_sever(void *self);

/* ---- mysql_lock.c ---- */
int my_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err);
void my_lock_told(void *self, struct coord_lock *out);
int my_unlock(void *self, uint32_t max_ms, struct snap_error *err);

/* ---- mysql_patience.c ---- */
/* Gate open, nothing held: connect the second connection, to the same server. When that fails, m->impatient says why, and
 * nothing is given up. */
void my_patience_warm(struct my *m);
bool my_patience_ready(struct my *m); /* just before the lock: does it stand still? */
/* Run a statement that makes others wait, and gives no rows. until_ns: CLOCK_BOOTTIME when it is given up, 0: never.
 * -EAGAIN with *given_up: it was ended by us, and what it had taken is to be released. 0: granted, also just after we asked
 * for its end, of which nothing is left. */
int my_ask(struct my *m, const char *sql, const char *what, uint64_t until_ns, bool *given_up, struct snap_error *err);
/* End the statement of a session, by its id. 0 also when that session is gone. */
int my_kill_query(struct my *m, const char *id, const char *what, bool *killed, struct snap_error *err);

/* ---- mysql_pos.c ---- */
/* What was committed is in the engines' logs afterwards, also of servers that do not flush at each commit. */
int my_flush_logs(struct my *m, struct snap_error *err);
int my_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err);
/* SHOW ... STATUS of all channels, and the names of its columns on this server. */
int my_replica_rows(struct my *m, MYSQL_RES **res, struct snap_error *err);
const char *my_replica_channel(const struct my *m, MYSQL_RES *res, MYSQL_ROW row);
bool my_replica_gtid(const struct my *m, MYSQL_RES *res, MYSQL_ROW row); /* its coordinates are GTIDs */
bool my_replica_sql_runs(MYSQL_RES *res, MYSQL_ROW row);

/* ---- mysql_logs.c ---- */
int my_logs(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err);

/* ---- mysql_block.c ---- */
int my_parse_blockers(struct my *m, struct snap_error *err);
/* wait: as db.blockers says; else -EAGAIN at once when there is one. Ends at sever. */
int my_blockers(struct my *m, bool wait, struct snap_error *err);

/* ---- mysql_role.c ---- */
int my_check_role(struct my *m, struct snap_error *err); /* what a hold would do to others: a source, a group, a cluster */
/* -EAGAIN: commits are going to wait for replicas that are not there, and the lock for the commits. For doctor. */
int my_check_semi_source(struct my *m, struct snap_error *err);
/* *in_flow: it is a Galera node whose queue makes the cluster wait. */
int my_galera(struct my *m, bool *in_flow, struct snap_error *err);

/* ---- mysql_replica.c ---- */
int my_prepare(void *self, const char *set, uint32_t max_ms, struct snap_error *err);
int my_finish(void *self, int result, uint32_t max_ms, struct snap_error *err);
int my_recover(void *self, uint32_t max_ms, struct snap_error *err);

/* ---- mysql_tls.c: db.tls ---- */
void my_tls_ask(struct my *m); /* before the connect */
int my_tls_check(struct my *m, struct snap_error *err); /* after it: -EKEYREJECTED: asked for, and the session is plain */
int my_tls_failed(struct my *m, struct snap_error *err); /* after one that failed: -EKEYREJECTED, 0: TLS is not why */

/* ---- mysql_check.c ---- */
int my_check_grants(struct my *m, struct snap_error *err);
/* What is granted on everything to our account, roles included: the heads of GRANT ... ON *.*, a line each. */
int my_all_grants(struct my *m, struct vbuf *out, struct snap_error *err);
bool my_has_grant(const char *grants, const char *privilege); /* ALL PRIVILEGES has every one */
int my_check_paths(struct my *m, struct snap_error *err);
/* mysql_layout.c: "key value" lines, see coordinator.h */
int my_read_layout(struct my *m, struct vbuf *out, struct snap_error *err);

#endif
