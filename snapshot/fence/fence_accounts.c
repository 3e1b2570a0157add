/* snapshot/fence/fence_accounts.c - who could write on a server that is read-only, and whether our own account can make
 * it so.
 * Called by: fence.c, nothing changed yet. Blocks: for a few reads of the grant tables.
 * Errors:    -errno with the sentence; the accounts are the caller's to judge. */
#include "snapshot/fence/fence_int.h"

#include <errno.h>
#include <mysqld_error.h>
#include <stdio.h>
#include <string.h>

/* MariaDB keeps an account's rights as a number: bit 33 is READ ONLY ADMIN, bit 15 SUPER, which had the former in it before
 * 10.11, as it still has for accounts that were written down by such a server (tried on 10.11: sql/privilege.h). */
#define MARIADB_DIRECT                                                                                                     \
	"SELECT User AS u, Host AS h FROM mysql.global_priv WHERE CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) & "        \
	"8589934592 <> 0 OR (CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) & 32768 <> 0 AND "                             \
	"COALESCE(CAST(JSON_VALUE(Priv, '$.version_id') AS UNSIGNED), 0) < 101100)"
#define MARIADB_ALL                                                                                                        \
	"WITH RECURSIVE w (u, h) AS (" MARIADB_DIRECT " UNION SELECT r.User, r.Host FROM mysql.roles_mapping r JOIN w ON "  \
	"w.h = '' AND r.Role = w.u) "
/* a role is no one who logs in; PUBLIC is everybody */
#define MARIADB_ACCOUNTS                                                                                                   \
	MARIADB_ALL "SELECT DISTINCT w.u, w.h, 'READ ONLY ADMIN' AS what FROM w JOIN mysql.global_priv g ON g.User = w.u "  \
		    "AND g.Host = w.h WHERE (COALESCE(JSON_VALUE(g.Priv, '$.is_role'), '0') NOT IN ('1', 'true') AND "     \
		    "COALESCE(JSON_VALUE(g.Priv, '$.account_locked'), '0') NOT IN ('1', 'true')) OR w.u = 'PUBLIC' "       \
		    "ORDER BY 1, 2"
/* whoever may call it writes; a locked definer changes nothing about that */
#define MARIADB_ROUTINES                                                                                                   \
	MARIADB_ALL "SELECT DISTINCT w.u, w.h, p.db, p.name FROM w JOIN mysql.proc p ON p.definer = CONVERT(CONCAT(w.u, "   \
		    "IF(w.h = '', '', '@'), w.h) USING utf8) COLLATE utf8_bin WHERE p.security_type = 'DEFINER' ORDER BY 3, 4"

#define MYSQL_ALL                                                                                                          \
	"WITH RECURSIVE w (u, h) AS (SELECT User, Host FROM mysql.user WHERE Super_priv = 'Y' UNION SELECT USER, HOST FROM " \
	"mysql.global_grants WHERE PRIV = 'SYSTEM_VARIABLES_ADMIN' UNION SELECT e.TO_USER, e.TO_HOST FROM "                 \
	"mysql.role_edges e JOIN w ON e.FROM_USER = w.u AND e.FROM_HOST = w.h) "
/* a role is a locked account; one in mandatory_roles is everybody's */
#define MYSQL_ACCOUNTS                                                                                                     \
	MYSQL_ALL "SELECT DISTINCT w.u, w.h, 'SUPER or SYSTEM_VARIABLES_ADMIN' AS what FROM w JOIN mysql.user g ON g.User = " \
		  "w.u AND g.Host = w.h WHERE g.account_locked = 'N' UNION SELECT DISTINCT w.u, w.h, 'SUPER or "           \
		  "SYSTEM_VARIABLES_ADMIN, and everybody has it by mandatory_roles' FROM w WHERE "                         \
		  "FIND_IN_SET(CONCAT(w.u, '@', w.h), REPLACE(REPLACE(REPLACE(@@GLOBAL.mandatory_roles, '`', ''), '''', ''), "  \
		  "' ', '')) OR (w.h = '%' AND FIND_IN_SET(w.u, REPLACE(REPLACE(REPLACE(@@GLOBAL.mandatory_roles, '`', ''), " \
		  "'''', ''), ' ', ''))) ORDER BY 1, 2"

static bool is_own(const char *own, const char *user, const char *host)
{
	size_t n = strlen(user);

	return strncmp(own, user, n) == 0 && own[n] == '@' && strcmp(own + n + 1, host) == 0;
}

static int read_grants(struct my *m, const char *sql, const char *what, MYSQL_RES **res, struct snap_error *err)
{
	int r = my_query(m, sql, what, res, err);

	if (r != -EACCES)
		return r;
	snap_error_clear(err);
	return snap_error_set(err, r, "%s: GRANT SELECT ON mysql.* TO the account of stillfs", what);
}

/* Whoever made an account or a routine chose its name, and a finding is a line. */
static void add_line(struct vbuf *found, struct vbuf *line)
{
	vbuf_line(found, vbuf_text(line));
	vbuf_puts(found, "\n");
	vbuf_free(line);
}

static int routines(struct my *m, const char *allow, struct vbuf *found, struct snap_error *err)
{
	struct vbuf line = VBUF_INIT;
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = read_grants(m, MARIADB_ROUTINES, "look for routines that run as another account", &res, err);

	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res)))
		if (!fence_allowed(allow, row[0], row[1])) {
			vbuf_printf(&line, "routine %s.%s runs as %s@%s, which has READ ONLY ADMIN", row[2], row[3], row[0], row[1]);
			add_line(found, &line);
		}
	mysql_free_result(res);
	return 0;
}

int fence_accounts(struct my *m, const char *allow, struct vbuf *found, struct snap_error *err)
{
	struct vbuf line = VBUF_INIT;
	MYSQL_RES *res = NULL;
	char own[512];
	MYSQL_ROW row;
	int r = my_value(m, "SELECT CURRENT_USER()", NULL, own, sizeof(own), err);

	if (r == 0)
		r = read_grants(m, m->mariadb ? MARIADB_ACCOUNTS : MYSQL_ACCOUNTS, "look for accounts that could still write", &res,
				err);
	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res)))
		if (!is_own(own, row[0], row[1]) && !fence_allowed(allow, row[0], row[1])) {
			vbuf_printf(&line, "%s@%s has %s", row[0], row[1], row[2]);
			add_line(found, &line);
		}
	mysql_free_result(res);
	if (m->mariadb)
		r = routines(m, allow, found, err);
	return r < 0 ? r : vbuf_error(found);
}

/* What it takes to put the fence up and down, by this server's names. */
int fence_privileges(struct my *m, struct snap_error *err)
{
	static const char *const mysql[] = { "SYSTEM_VARIABLES_ADMIN", "CONNECTION_ADMIN", "PROCESS", "XA_RECOVER_ADMIN", NULL };
	static const char *const mariadb[] = { "READ_ONLY ADMIN", "CONNECTION ADMIN", "PROCESS", NULL };
	const char *const *need;
	bool super = m->mariadb ? m->version < 101100 : true; /* SUPER has the first two in it */
	struct vbuf grants = VBUF_INIT, missing = VBUF_INIT;
	char own[512] = "", scheduler[16] = "";
	int r = my_all_grants(m, &grants, err);

	if (r == 0)
		r = my_value(m, "SELECT CURRENT_USER()", NULL, own, sizeof(own), err);
	if (r == 0)
		r = my_variable(m, "event_scheduler", scheduler, sizeof(scheduler), err);
	super = super && my_has_grant(vbuf_text(&grants), "SUPER");
	need = m->mariadb ? mariadb : mysql;
	for (int i = 0; r == 0 && need[i]; i++)
		if (!my_has_grant(vbuf_text(&grants), need[i]) && !(super && i < 2))
			vbuf_printf(&missing, "%s%s", missing.len ? ", " : "", need[i]);
	if (r == 0 && m->mariadb && strcmp(scheduler, "ON") == 0 && !my_has_grant(vbuf_text(&grants), "SUPER"))
		vbuf_printf(&missing, "%sSUPER (for event_scheduler)", missing.len ? ", " : "");
	if (r == 0 && missing.len)
		r = snap_error_set(err, -EACCES, "the database account %s lacks privileges for the fence: GRANT %s ON *.* TO it", own,
				   vbuf_text(&missing));
	vbuf_free(&grants);
	vbuf_free(&missing);
	return r;
}
