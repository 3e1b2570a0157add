/* snapshot/mysql_check.c - what must hold before the database is locked: privileges, and every path the server
 * writes on our mounts.
 * Called by mysql.c's preflight: gate open, nothing held. May resolve paths below the mounts. */
#include "snapshot/mysql_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- privileges ---- */

/* Is the privilege among those granted on everything? */
bool my_has_grant(const char *grants, const char *privilege)
{
	size_t n = strlen(privilege);

	if (strstr(grants, "ALL PRIVILEGES"))
		return true;
	for (const char *p = grants; (p = strcasestr(p, privilege)); p += n)
		if ((p == grants || p[-1] == ' ' || p[-1] == ',') && (p[n] == ',' || p[n] == ' ' || p[n] == '\n'))
			return true;
	return false;
}

/* One privilege, or another that contains it; "" ends the list of those. */
struct need {
	const char *name, *or_else;
	bool when;
};

/* What this server calls them, and when they are needed. */
static unsigned needs(const struct my *m, bool replica, struct need n[6])
{
	bool names = m->mariadb && m->version >= 100502, dynamic = !m->mariadb && m->version >= 80000;
	bool may_stop = replica && strcmp(conf_str(m->d->conf, "db.stop_replica"), "no") != 0;
	bool kills = m->policy == MY_KILL;

	n[0] = (struct need){ "RELOAD", "", true };
	n[1] = (struct need){ "PROCESS", "", true };
	n[2] = (struct need){ "BACKUP_ADMIN", "", dynamic };
	n[3] = names ? (struct need){ "BINLOG MONITOR", "SUPER", m->log_bin } :
		       (struct need){ "REPLICATION CLIENT", "SUPER", true };
	n[4] = names ? (struct need){ "REPLICATION SLAVE ADMIN", "SUPER", may_stop } :
		       (struct need){ dynamic ? "REPLICATION_SLAVE_ADMIN" : "SUPER", "SUPER", may_stop };
	n[5] = names ? (struct need){ "CONNECTION ADMIN", "SUPER", kills } :
		       (struct need){ dynamic ? "CONNECTION_ADMIN" : "SUPER", "SUPER", kills };
	return 6;
}

/* The rows of SHOW GRANTS that are for everything; with those of active roles. */
int my_all_grants(struct my *m, struct vbuf *out, struct snap_error *err)
{
	char role[256] = "NONE", sql[320] = "SHOW GRANTS";
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = 0;

	if (!m->mariadb && m->version >= 80000)
		r = my_value(m, "SELECT CURRENT_ROLE()", NULL, role, sizeof(role), err);
	if (r == 0 && strcmp(role, "NONE") != 0)
		(void)snprintf(sql, sizeof(sql), "SHOW GRANTS FOR CURRENT_USER() USING %s", role);
	if (r == 0)
		r = my_query(m, sql, "read our privileges", &res, err);
	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res)))
		if (row[0] && strstr(row[0], " ON *.* "))
			vbuf_printf(out, "%.*s\n", (int)(strstr(row[0], " ON *.* ") - row[0]), row[0]);
	mysql_free_result(res);
	return 0;
}

static bool is_replica(struct my *m)
{
	struct snap_error ignored = { 0 };
	MYSQL_RES *res = NULL;
	bool is;

	if (my_replica_rows(m, &res, &ignored) < 0)
		return false; /* the missing privilege is named anyway */
	is = mysql_num_rows(res) > 0;
	mysql_free_result(res);
	return is;
}

int my_check_grants(struct my *m, struct snap_error *err)
{
	struct vbuf all = VBUF_INIT, missing = VBUF_INIT;
	char user[128] = "";
	bool desync = false;
	struct need n[9];
	unsigned count;
	int r = my_all_grants(m, &all, err);

	if (r == 0)
		r = my_value(m, "SELECT CURRENT_USER()", NULL, user, sizeof(user), err);
	if (r == 0 && strcmp(conf_str(m->d->conf, "db.galera"), "desync") == 0)
		r = my_galera(m, &desync, err);
	count = needs(m, r == 0 && is_replica(m), n);
	/* 10.5.2 to 10.5.8 had it under another name; SUPER has both */
	n[count++] = (struct need){ "SUPER", "", desync || (m->lazy_log && m->method != MY_NONE) };
	n[count++] = (struct need){ "SLAVE MONITOR", "SUPER", m->mariadb && m->version >= 100508 };
	for (unsigned i = 0; r == 0 && i < count; i++)
		if (n[i].when && !my_has_grant(vbuf_text(&all), n[i].name) && !(*n[i].or_else && my_has_grant(vbuf_text(&all), n[i].or_else)))
			vbuf_printf(&missing, "%s%s", missing.len ? ", " : "", n[i].name);
	if (r == 0 && missing.len)
		r = snap_error_set(err, -EACCES, "the database account %s lacks privileges: GRANT %s ON *.* TO it", user,
				   vbuf_text(&missing));
	vbuf_free(&all);
	vbuf_free(&missing);
	return r;
}

/* ---- paths ---- */

struct paths {
	struct my *m;
	char datadir[1024], root[64]; /* the server's own view of the tree */
	char bad[360];
	size_t len;
	unsigned n_bad;
};

static bool on_a_mount(const struct my *m, uint64_t dev)
{
	for (unsigned i = 0; i < m->d->n_pairs; i++)
		if (m->d->pairs[i].mount_dev == dev)
			return true;
	return false;
}

/* A path the server writes; relative ones are relative to the datadir. */
static void check_path(struct paths *p, const char *what, const char *path)
{
	char full[2048];
	struct stat st = { 0 };
	int n;

	if (!*path)
		return;
	(void)snprintf(full, sizeof(full), "%s%s%s%s", p->root, *path == '/' ? "" : p->datadir,
		       *path == '/' ? "" : "/", path);
	if (stat(full, &st) < 0) {
		char *slash = strrchr(full, '/'); /* a base name: its directory counts */

		if (slash)
			*slash = '\0';
		if (stat(full, &st) < 0)
			st.st_dev = 0;
	}
	if (on_a_mount(p->m, st.st_dev))
		return;
	if (p->n_bad++ < 8 && p->len < sizeof(p->bad)) {
		n = snprintf(p->bad + p->len, sizeof(p->bad) - p->len, "%s%s %s", p->len ? ", " : "", what, path);
		p->len += n > 0 ? (size_t)n : 0;
	}
}

static int check_variables(struct paths *p, struct snap_error *err)
{
	static const char *const names[] = { "datadir", "innodb_data_home_dir", "innodb_log_group_home_dir",
					     "innodb_undo_directory", "aria_log_dir_path", "log_bin_basename",
					     "relay_log_basename" };
	MYSQL_RES *res;
	MYSQL_ROW row;
	int r = my_query(p->m, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('datadir', 'innodb_data_home_dir', "
			       "'innodb_log_group_home_dir', 'innodb_undo_directory', 'aria_log_dir_path', "
			       "'log_bin_basename', 'relay_log_basename')",
			 "read the server's paths", &res, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) { /* datadir first */
		mysql_data_seek(res, 0);
		while ((row = mysql_fetch_row(res))) {
			if (strcmp(row[0], names[i]) != 0 || !row[1])
				continue;
			if (i >= 5 && conf_bool(p->m->d->conf, "db.binlog_outside"))
				continue;
			if (i == 0)
				(void)snprintf(p->datadir, sizeof(p->datadir), "%s", row[1]);
			check_path(p, names[i], row[1]);
		}
	}
	mysql_free_result(res);
	return 0;
}

/* Tables with a DATA DIRECTORY of their own. Column names changed over the years: try both. */
static void check_tablespaces(struct paths *p)
{
	static const char *const sql[] = {
		"SELECT DISTINCT FILENAME AS P FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '/%' "
		"LIMIT 1000",
		"SELECT DISTINCT PATH AS P FROM information_schema.INNODB_DATAFILES WHERE PATH LIKE '/%' LIMIT 1000",
		"SELECT DISTINCT PATH AS P FROM information_schema.INNODB_SYS_DATAFILES WHERE PATH LIKE '/%' LIMIT 1000",
	};
	MYSQL_RES *res;
	MYSQL_ROW row;

	for (size_t i = 0; i < sizeof(sql) / sizeof(sql[0]); i++) {
		struct snap_error ignored = { 0 };

		if (my_query(p->m, sql[i], "read the tablespaces", &res, &ignored) < 0)
			continue;
		while ((row = mysql_fetch_row(res)))
			check_path(p, "table", my_col(res, row, "P"));
		mysql_free_result(res);
		return;
	}
}

/* A server that was started before the mount covered its files writes past the gate. */
static int check_descriptors(struct my *m, struct snap_error *err)
{
	char dir[64], link[128], target[1024];
	struct dirent *e;
	struct stat st;
	int r = 0;
	DIR *d;

	if (m->peer_pid <= 0)
		return 0; /* TCP: the path check has to do */
	(void)snprintf(dir, sizeof(dir), "/proc/%d/fd", m->peer_pid);
	d = opendir(dir);
	while (d && r == 0 && (e = readdir(d))) {
		ssize_t n;

		(void)snprintf(link, sizeof(link), "%s/%.40s", dir, e->d_name);
		if (e->d_name[0] == '.' || stat(link, &st) < 0 || !S_ISREG(st.st_mode))
			continue;
		n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		for (unsigned i = 0; r == 0 && i < m->d->n_pairs; i++) {
			const char *b = m->d->pairs[i].backing;
			size_t len = strlen(b);

			if (m->d->pairs[i].backing_dev == m->d->pairs[i].mount_dev)
				continue; /* nothing is mounted over it: there is no gate to pass by */
			if (st.st_dev == m->d->pairs[i].backing_dev && strncmp(target, b, len) == 0 &&
			    target[len] == '/')
				r = snap_error_set(err, -EBUSY, "the database server (pid %d) has %s open in the backing "
								"itself: it was started before the mount, and its writes pass "
								"by the gate; restart it", m->peer_pid, target);
		}
	}
	if (d)
		(void)closedir(d);
	return r;
}

int my_check_paths(struct my *m, struct snap_error *err)
{
	struct paths p = { .m = m };
	struct stat st;
	int r;

	if (m->peer_pid > 0)
		(void)snprintf(p.root, sizeof(p.root), "/proc/%d/root", m->peer_pid);
	if (p.root[0] && stat(p.root, &st) < 0)
		p.root[0] = '\0';
	r = check_variables(&p, err);
	if (r < 0)
		return r;
	check_tablespaces(&p);
	if (p.n_bad)
		return snap_error_set(err, -EXDEV, "the server writes outside the mount: %s; a snapshot would lack that: give "
						   "each such directory a pair of its own (-o pair=BACKING:MOUNTPOINT)", p.bad);
	return check_descriptors(m, err);
}
