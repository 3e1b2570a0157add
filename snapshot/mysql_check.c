/* snapshot/mysql_check.c - what must hold before the database is locked: privileges, and every path the server
 * writes on our mounts.
 * Called by mysql.c's preflight: gate open, nothing held. Paths below the mounts are walked by a child (child.h). */
#include "snapshot/mysql_int.h"
#include "base/clock.h"
#include "base/statdev.h"
#include "snapshot/child.h"

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

#define PATHS_MAX 1024
#define LOOK_MS 10000u

struct paths {
	struct my *m;
	char datadir[1024], root[64]; /* the server's own view of the tree */
	size_t n;
	char *full[PATHS_MAX], *shown[PATHS_MAX]; /* as we reach it; "what path" as the server says */
	uint64_t devs[PATHS_MAX];
};

static bool on_a_mount(const struct my *m, uint64_t dev)
{
	for (unsigned i = 0; i < m->d->n_pairs; i++)
		if (m->d->pairs[i].mount_dev == dev)
			return true;
	return false;
}

/* A path the server writes; relative ones are relative to the datadir. */
static int add_path(struct paths *p, const char *what, const char *path, struct snap_error *err)
{
	struct vbuf full = VBUF_INIT, shown = VBUF_INIT;
	size_t i = p->n;

	if (!*path || i == PATHS_MAX)
		return 0;
	vbuf_printf(&full, "%s%s%s%s", p->root, *path == '/' ? "" : p->datadir, *path == '/' ? "" : "/", path);
	vbuf_printf(&shown, "%s %s", what, path);
	if (vbuf_error(&full) == 0 && vbuf_error(&shown) == 0) {
		p->full[i] = strdup(vbuf_text(&full));
		p->shown[i] = strdup(vbuf_text(&shown));
		p->n++;
	}
	vbuf_free(&full);
	vbuf_free(&shown);
	return i < p->n && p->full[i] && p->shown[i] ? 0 : snap_error_set(err, -ENOMEM, "look at the server's paths: out of memory");
}

/* All of them at once, by a child: names below our mounts are asked of this daemon. */
static int check_added(struct paths *p, struct snap_error *err)
{
	char bad[360] = "";
	unsigned n_bad = 0;
	size_t len = 0;
	int r = child_devs(p->full, p->devs, p->n, clock_boot_ns() + LOOK_MS * NS_PER_MS, err), n;

	for (size_t i = 0; r == 0 && i < p->n; i++) {
		if (on_a_mount(p->m, p->devs[i]) || n_bad++ >= 8 || len >= sizeof(bad))
			continue;
		n = snprintf(bad + len, sizeof(bad) - len, "%s%s", len ? ", " : "", p->shown[i]);
		len += n > 0 ? (size_t)n : 0;
	}
	if (r == 0 && n_bad)
		r = snap_error_set(err, -EXDEV, "the server writes outside the mount: %s; a snapshot would lack that: give "
						"each such directory a pair of its own (-o pair=BACKING:MOUNTPOINT)", bad);
	return r;
}

static void free_paths(struct paths *p)
{
	for (size_t i = 0; i < p->n; i++) {
		free(p->full[i]);
		free(p->shown[i]);
	}
	free(p);
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
	for (size_t i = 0; r == 0 && i < sizeof(names) / sizeof(names[0]); i++) { /* datadir first */
		mysql_data_seek(res, 0);
		while (r == 0 && (row = mysql_fetch_row(res))) {
			if (strcmp(row[0], names[i]) != 0 || !row[1])
				continue;
			if (i >= 5 && conf_bool(p->m->d->conf, "db.binlog_outside"))
				continue;
			if (i == 0)
				(void)snprintf(p->datadir, sizeof(p->datadir), "%s", row[1]);
			r = add_path(p, names[i], row[1], err);
		}
	}
	mysql_free_result(res);
	return r;
}

/* Tables with a DATA DIRECTORY of their own. Column names changed over the years: try both. */
static int check_tablespaces(struct paths *p, struct snap_error *err)
{
	static const char *const sql[] = {
		"SELECT DISTINCT FILENAME AS P FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '/%' "
		"LIMIT 1000",
		"SELECT DISTINCT PATH AS P FROM information_schema.INNODB_DATAFILES WHERE PATH LIKE '/%' LIMIT 1000",
		"SELECT DISTINCT PATH AS P FROM information_schema.INNODB_SYS_DATAFILES WHERE PATH LIKE '/%' LIMIT 1000",
	};
	MYSQL_RES *res;
	MYSQL_ROW row;
	int r = 0;

	for (size_t i = 0; i < sizeof(sql) / sizeof(sql[0]); i++) {
		struct snap_error ignored = { 0 };

		if (my_query(p->m, sql[i], "read the tablespaces", &res, &ignored) < 0)
			continue;
		while (r == 0 && (row = mysql_fetch_row(res)))
			r = add_path(p, "table", my_col(res, row, "P"), err);
		mysql_free_result(res);
		break;
	}
	return r;
}

/* A server that was started before the mount covered its files writes past the gate. */
static int check_descriptors(struct my *m, struct snap_error *err)
{
	char dir[64], link[128], target[1024];
	struct dirent *e;
	uint64_t dev;
	unsigned type;
	int r = 0;
	DIR *d;

	if (m->peer_pid <= 0)
		return 0; /* TCP: the path check has to do */
	(void)snprintf(dir, sizeof(dir), "/proc/%d/fd", m->peer_pid);
	d = opendir(dir);
	while (d && r == 0 && (e = readdir(d))) {
		ssize_t n;

		(void)snprintf(link, sizeof(link), "%s/%.40s", dir, e->d_name);
		if (e->d_name[0] == '.' || statdev(link, &dev, &type) < 0 || !S_ISREG(type))
			continue;
		n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		for (unsigned i = 0; r == 0 && i < m->d->n_pairs; i++) {
			const char *b = m->d->pairs[i].backing;
			size_t len = strlen(b);

			if (m->d->pairs[i].backing_dev == m->d->pairs[i].mount_dev)
				continue; /* nothing is mounted over it: there is no gate to pass by */
			if (dev == m->d->pairs[i].backing_dev && strncmp(target, b, len) == 0 &&
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
	struct paths *p = calloc(1, sizeof(*p));
	uint64_t dev;
	int r;

	if (!p)
		return snap_error_set(err, -ENOMEM, "look at the server's paths: out of memory");
	p->m = m;
	if (m->peer_pid > 0)
		(void)snprintf(p->root, sizeof(p->root), "/proc/%d/root", m->peer_pid);
	if (p->root[0] && statdev(p->root, &dev, NULL) < 0)
		p->root[0] = '\0';
	r = check_variables(p, err);
	if (r == 0)
		r = check_tablespaces(p, err);
	if (r == 0)
		r = check_added(p, err);
	free_paths(p);
	return r < 0 ? r : check_descriptors(m, err);
}
