/* snapshot/mysql_int.h - shared by mysql.c (lock and position) and mysql_check.c (preflight). */
#ifndef STILLFS_SNAPSHOT_MYSQL_INT_H
#define STILLFS_SNAPSHOT_MYSQL_INT_H

#include "snapshot/coord_mysql.h"

#include <mysql.h>
#include <pthread.h>

enum my_method { MY_NONE, MY_FTWRL, MY_BACKUP };

struct my {
	const struct door *d;
	MYSQL *c; /* NULL: not connected */
	bool mariadb, log_bin;
	unsigned version; /* 101119 = 10.11.19 */
	enum my_method method;
	bool locked;
	int peer_pid; /* of the server on a Unix socket, 0: unknown */
	pthread_mutex_t lock; /* sock, text */
	int sock; /* for sever; -1 */
	char text[128]; /* for status */
};

/* One row of a result, by column name. */
struct my_row {
	MYSQL_RES *res;
	MYSQL_ROW row;
};

/* Run a statement that gives no rows. -errno with the sentence "WHAT: server's message". */
int my_exec(struct my *m, const char *sql, const char *what, struct snap_error *err);
/* Run a query, keep its result. res is freed by the caller. */
int my_query(struct my *m, const char *sql, const char *what, MYSQL_RES **res, struct snap_error *err);
/* A column by name, "" when missing or NULL. Names differ between servers, places too. */
const char *my_col(MYSQL_RES *res, MYSQL_ROW row, const char *name);
int my_errno(unsigned mysql_code); /* MySQL error -> -errno */
/* One value of a query, cut to cap; "" when there is none. */
int my_value(struct my *m, const char *sql, char *buf, size_t cap, struct snap_error *err);

/* mysql_check.c */
int my_check_grants(struct my *m, struct snap_error *err);
int my_check_blockers(struct my *m, struct snap_error *err);
int my_check_paths(struct my *m, struct snap_error *err);

#endif
