/* snapshot/verify/tables.c - what the recovered server says of its tables and of its position. See verify_int.h. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <mysql.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define QUERY_S 86400u /* the daemon's deadline comes first */
#define BAD_MAX 5

static MYSQL_RES *ask(MYSQL *c, const char *sql, struct snap_error *err)
{
	MYSQL_RES *res = mysql_real_query(c, sql, strlen(sql)) == 0 ? mysql_store_result(c) : NULL;

	if (!res)
		snap_error_set(err, -EIO, "the server answered %.60s with: %s", sql, mysql_error(c));
	return res;
}

static const char *col(MYSQL_RES *res, MYSQL_ROW row, const char *name)
{
	MYSQL_FIELD *f = mysql_fetch_fields(res);

	for (unsigned i = 0; i < mysql_num_fields(res); i++)
		if (strcasecmp(f[i].name, name) == 0)
			return row[i] ? row[i] : "";
	return "";
}

/* NULL: it ended, or does not let us in. */
static MYSQL *server_connect(pid_t pid, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 50000000 };
	unsigned io_s = QUERY_S;
	siginfo_t ended;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/root/tmp/s.sock", pid);
	for (;;) {
		MYSQL *c = mysql_init(NULL);

		if (!c) {
			snap_error_set(err, -ENOMEM, "connect: out of memory");
			return NULL;
		}
		(void)mysql_options(c, MYSQL_OPT_READ_TIMEOUT, &io_s);
		if (mysql_real_connect(c, NULL, "root", NULL, NULL, 0, path, 0))
			return c;
		mysql_close(c);
		memset(&ended, 0, sizeof(ended));
		if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 || ended.si_pid == pid) {
			snap_error_set(err, -ECONNREFUSED, "the server ended while it recovered the clone");
			return NULL;
		}
		(void)nanosleep(&pause, NULL);
	}
}

/* `db`.`table`, quoted. */
static void put_name(struct vbuf *out, const char *name)
{
	vbuf_puts(out, "`");
	for (; *name; name++)
		vbuf_add(out, *name == '`' ? "``" : name, *name == '`' ? 2 : 1);
	vbuf_puts(out, "`");
}

/* True: it is good, or its engine cannot tell. */
static bool check_one(MYSQL *c, const char *db, const char *table, struct snap_error *err)
{
	struct vbuf sql = VBUF_INIT;
	bool good = false, told = false;
	MYSQL_RES *res;
	MYSQL_ROW row;

	vbuf_puts(&sql, "CHECK TABLE ");
	put_name(&sql, db);
	vbuf_puts(&sql, ".");
	put_name(&sql, table);
	res = ask(c, vbuf_text(&sql), err);
	vbuf_free(&sql);
	while (res && (row = mysql_fetch_row(res))) {
		const char *type = col(res, row, "Msg_type"), *text = col(res, row, "Msg_text");

		told = true;
		good = strcasecmp(type, "error") != 0 &&
		       (strcasecmp(type, "status") != 0 || strcasecmp(text, "OK") == 0);
		if (strcasecmp(text, "OK") != 0)
			verify_log("check %s.%s: %s: %s", db, table, type, text);
		if (!good) {
			snap_error_set(err, -EBADMSG, "CHECK TABLE %s.%s: %s", db, table, text);
			break;
		}
	}
	if (res)
		mysql_free_result(res);
	return told && good;
}

static int check_all(MYSQL *c, size_t *tables, struct snap_error *err)
{
	MYSQL_RES *res = ask(c, "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE COALESCE(TABLE_TYPE, "
				"'') NOT IN ('VIEW', 'SYSTEM VIEW', 'SEQUENCE') AND TABLE_SCHEMA NOT IN "
				"('information_schema', 'performance_schema') ORDER BY 1, 2", err);
	size_t all = res ? (size_t)mysql_num_rows(res) : 0, done = 0, bad = 0;
	MYSQL_ROW row;

	while (res && (row = mysql_fetch_row(res)) && bad < BAD_MAX) {
		verify_progress(60 + (unsigned)(done * 35 / (all ? all : 1)), "check table %zu of %zu: %s.%s", done + 1, all,
				row[0], row[1]);
		bad += !check_one(c, row[0], row[1], err);
		done++;
	}
	if (res)
		mysql_free_result(res);
	*tables = done;
	verify_log("%zu tables checked, %zu of them bad", done, bad);
	return err->code ? err->code : bad ? snap_error_set(err, -EBADMSG, "%zu tables are bad", bad) : 0;
}

/* ---- the position ---- */

static char *value_of(MYSQL *c, const char *sql, struct snap_error *err)
{
	MYSQL_RES *res = ask(c, sql, err);
	MYSQL_ROW row = res ? mysql_fetch_row(res) : NULL;
	char *v = row ? strdup(row[0] ? row[0] : "") : NULL;
	char *to = v;

	if (res)
		mysql_free_result(res);
	for (const char *p = v; p && *p; p++) /* a GTID set comes in lines */
		if (*p != '\n')
			*to++ = *p;
	if (to)
		*to = '\0';
	return v;
}

/* The binary log's end: the last file but the one that this server began. */
static int binlog_end(MYSQL *c, char file[512], char pos[32], const char *want, char want_size[32], struct snap_error *err)
{
	MYSQL_RES *res = ask(c, "SHOW BINARY LOGS", err);
	char last[512] = "", last_size[32] = "";
	MYSQL_ROW row;

	if (!res)
		return err->code;
	while ((row = mysql_fetch_row(res))) {
		(void)snprintf(file, 512, "%s", last);
		(void)snprintf(pos, 32, "%s", last_size);
		(void)snprintf(last, sizeof(last), "%s", row[0]);
		(void)snprintf(last_size, sizeof(last_size), "%s", row[1]);
		if (want && strcmp(row[0], want) == 0)
			(void)snprintf(want_size, 32, "%s", row[1]);
	}
	mysql_free_result(res);
	return 0;
}

/* GTID sets are equal when each is part of the other: the record has them on one line, and without what needs quoting, tags
 * too. MariaDB's lists are compared as sorted text by the server's own order, which is by domain. */
static int same_gtid(MYSQL *c, bool mariadb, const char *key, const char *want, const char *found, struct snap_error *err)
{
	struct vbuf sql = VBUF_INIT;
	cleanup_free char *same = NULL;

	if (mariadb || strspn(want, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-:, ") != strlen(want))
		return strcmp(want, found) == 0 ? 0 : snap_error_set(err, -ESTALE, "%s is %s, the record says %s", key, found,
								    want);
	vbuf_printf(&sql, "SELECT GTID_SUBSET('%s', '%s') AND GTID_SUBSET('%s', '%s')", want, found, found, want);
	same = value_of(c, vbuf_text(&sql), err);
	vbuf_free(&sql);
	if (!same)
		return err->code;
	return strcmp(same, "1") == 0 ? 0 : snap_error_set(err, -ESTALE, "%s is %s, the record says %s", key, found, want);
}

static int check_gtid(const struct vspec *s, MYSQL *c, bool mariadb, bool fill, const char *key, struct snap_error *err)
{
	cleanup_free char *want = verify_value(s->position, key), *found = NULL;
	char sql[64];

	if (!want && !fill)
		return 0;
	(void)snprintf(sql, sizeof(sql), "SELECT @@GLOBAL.%s", key);
	found = value_of(c, sql, err);
	if (!found)
		return err->code;
	if (fill) {
		if (*found)
			printf("position %s %s\n", key, found);
		return 0;
	}
	verify_log("%s %s", key, found);
	return same_gtid(c, mariadb, key, want, found, err);
}

/* Where the record speaks of this channel; NULL: nowhere. Of all keys the next one is then this channel's. */
static const char *recorded(const char *position, const char *channel)
{
	static const char key[] = "source_channel ";
	size_t n = strlen(channel);

	for (const char *p = position; (p = strstr(p, key)); p += sizeof(key) - 1) {
		const char *name = p + sizeof(key) - 1;

		if ((p == position || p[-1] == '\n') && strncmp(name, channel, n) == 0 && name[n] == '\n')
			return p;
	}
	return NULL;
}

/* By GTID it is the sets that count, which are compared beside: an applier that ran has not written down where it was in the
 * source's files. */
static int same_source(const char *position, const char *channel, const char *file, const char *pos, struct snap_error *err)
{
	const char *at = recorded(position, channel);
	cleanup_free char *gtid = NULL, *want_file = NULL, *want_pos = NULL;

	if (!at)
		return strstr(position, "source_channel ") ?
			       snap_error_set(err, -ESTALE, "it follows a source by channel %s, which the record has not", channel) : 0;
	gtid = verify_value(at, "source_auto_position");
	want_file = verify_value(at, "source_log_file");
	want_pos = verify_value(at, "source_log_pos");
	if (gtid && strcmp(gtid, "yes") == 0)
		return 0;
	if (want_file && want_pos && strcmp(want_file, file) == 0 && strcmp(want_pos, pos) == 0)
		return 0;
	return snap_error_set(err, -ESTALE, "the executed position of source %s is %s:%s, the record says %s:%s", channel, file, pos,
			      want_file ? want_file : "", want_pos ? want_pos : "");
}

/* What a replica had executed of its sources, by the clone's own record. */
static int check_sources(const struct vspec *s, MYSQL *c, bool mariadb, bool fill, struct snap_error *err)
{
	const char *sql = mariadb ? "SHOW ALL SLAVES STATUS" : "SHOW REPLICA STATUS";
	struct snap_error ignored = { 0 };
	MYSQL_RES *res = ask(c, sql, &ignored);
	MYSQL_ROW row;
	int r = 0;

	if (!res && !mariadb)
		res = ask(c, "SHOW SLAVE STATUS", &ignored);
	if (!res)
		return 0; /* with skip-grant-tables some versions know no replica */
	while (r == 0 && (row = mysql_fetch_row(res))) {
		const char *channel = col(res, row, mariadb ? "Connection_name" : "Channel_Name");
		const char *file = col(res, row, "Relay_Source_Log_File"), *pos = col(res, row, "Exec_Source_Log_Pos");

		channel = *channel ? channel : "default";
		if (!*file) {
			file = col(res, row, "Relay_Master_Log_File");
			pos = col(res, row, "Exec_Master_Log_Pos");
		}
		verify_log("source %s: %s:%s", channel, file, pos);
		if (fill)
			printf("position source_channel %s\nposition source_log_file %s\nposition source_log_pos %s\n", channel, file, pos);
		else
			r = same_source(s->position, channel, file, pos, err);
	}
	mysql_free_result(res);
	return r;
}

static int check_position(const struct vspec *s, MYSQL *c, bool mariadb, struct snap_error *err)
{
	cleanup_free char *want_file = verify_value(s->position, "binlog_file");
	cleanup_free char *want_pos = verify_value(s->position, "binlog_pos");
	cleanup_free char *log_bin = value_of(c, "SELECT @@GLOBAL.log_bin", err);
	bool fill = strstr(s->position, "position unknown until verified") != NULL;
	char file[512] = "", pos[32] = "", size[32] = "";
	int r = log_bin ? 0 : err->code;

	verify_progress(96, "position");
	if (r == 0 && strcmp(log_bin, "1") == 0)
		r = binlog_end(c, file, pos, want_file, size, err);
	if (r == 0 && fill && *file)
		printf("position binlog_file %s\nposition binlog_pos %s\n", file, pos);
	if (r == 0 && want_file && want_pos) {
		verify_log("binary log: ends at %s:%s, recorded %s:%s", file, pos, want_file, want_pos);
		if (strcmp(want_file, file) != 0 || strcmp(want_pos, pos) != 0)
			r = snap_error_set(err, -ESTALE, "the binary log ends at %s:%s, the record says %s:%s", file, pos,
					   want_file, want_pos);
	}
	if (r == 0)
		r = mariadb ? check_gtid(s, c, true, fill, "gtid_binlog_pos", err) :
			      check_gtid(s, c, false, fill, "gtid_executed", err);
	if (r == 0 && mariadb)
		r = check_gtid(s, c, true, fill, "gtid_slave_pos", err);
	return r < 0 ? r : check_sources(s, c, mariadb, fill, err);
}

/* The same kind, the same series, not older than what wrote the files. */
static int check_version(const struct vspec *s, const char *found, struct snap_error *err)
{
	cleanup_free char *want = verify_value(s->layout, "server_version");
	unsigned a[3] = { 0 }, b[3] = { 0 };

	if (!want)
		return 0;
	(void)sscanf(want, "%u.%u.%u", &a[0], &a[1], &a[2]);
	(void)sscanf(found, "%u.%u.%u", &b[0], &b[1], &b[2]);
	verify_log("server %s, the files were written by %s", found, want);
	if ((strcasestr(want, "mariadb") == NULL) != (strcasestr(found, "mariadb") == NULL) || a[0] != b[0] ||
	    a[1] != b[1] || b[2] < a[2])
		return snap_error_set(err, -ENOEXEC, "%s is %s, the set was taken of %s: name one of that series, not older, "
						     "with verify.server", s->server, found, want);
	return 0;
}

int tables_check(const struct vspec *s, pid_t pid, size_t *tables, struct snap_error *err)
{
	MYSQL *c = server_connect(pid, err);
	cleanup_free char *version = c ? value_of(c, "SELECT VERSION()", err) : NULL;
	bool mariadb = version && strcasestr(version, "mariadb");
	int r = version ? check_version(s, version, err) : err->code;

	if (r == 0)
		r = check_position(s, c, mariadb, err); /* before CHECK TABLE can write anything */
	if (r == 0)
		r = check_all(c, tables, err);
	if (c)
		mysql_close(c);
	return r;
}
