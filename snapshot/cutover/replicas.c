/* snapshot/cutover/replicas.c - the other replicas of A: who they are, whether they get what B writes, and the statements
 * that point each at B. See tool.h. Changes nothing on any server, and names no password: a replica keeps its own.
 * Called by: check.c before, report.c after. Blocks: a few statements. Errors: -errno with the sentence; what a server does
 * not tell our account is said, and is no failure.
 * Facts (tried on MariaDB 10.11, MySQL 9.7): MySQL's dump sessions carry the replica's uuid as a user variable; MariaDB does
 * not tell which session is which replica's. One that has left stays listed until its source sends it something. */
#include "snapshot/cutover/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX 64u /* a server with more of them is told so */

struct replica {
	char id[24], at[300], uuid[40], user[100], host[280]; /* "-": not told */
};

struct replicas {
	struct replica of[MAX];
	size_t n;
	unsigned left_out; /* beyond MAX */
	bool denied; /* the server names them to nobody without the privilege */
	struct replica session[MAX]; /* MariaDB: user and host of each dump session, B's among them */
	size_t sessions;
};

static void put(char *buf, size_t cap, const char *text)
{
	(void)snprintf(buf, cap, "%s", text && *text ? text : "-");
	for (char *p = buf; *p; p++)
		if ((unsigned char)*p <= ' ')
			*p = '_';
}

static struct replica *add(struct replica *of, size_t *n, unsigned *left_out)
{
	struct replica *r = *n < MAX ? &of[*n] : NULL;

	if (!r) {
		++*left_out;
		return NULL;
	}
	++*n;
	*r = (struct replica){ .id = "-", .at = "-", .uuid = "-", .user = "-", .host = "-" };
	return r;
}

/* Those that have registered. */
static int read_named(struct my *m, const struct facts *but, struct replicas *out, struct snap_error *err)
{
	struct snap_error why = { 0 };
	MYSQL_RES *res = NULL;
	MYSQL_ROW row;
	int r = my_query(m, !m->mariadb && m->version >= 80022 ? "SHOW REPLICAS" : "SHOW SLAVE HOSTS", "list the replicas", &res, &why);

	out->denied = r == -EACCES;
	if (r < 0)
		return out->denied ? 0 : snap_error_set(err, r, "%s", why.msg);
	while ((row = mysql_fetch_row(res))) {
		const char *uuid = my_col(res, row, m->version >= 80022 ? "Replica_UUID" : "Slave_UUID"), *host = my_col(res, row, "Host");
		const char *id = my_col(res, row, m->mariadb ? "Server_id" : "Server_Id");
		struct replica *x;
		char at[300];

		id = *id ? id : my_col(res, row, "Server_id");
		if (m->mariadb ? strcmp(id, but->server_id) == 0 : strcmp(uuid, but->uuid) == 0)
			continue;
		x = add(out->of, &out->n, &out->left_out);
		if (!x)
			continue;
		put(x->id, sizeof(x->id), id);
		put(x->uuid, sizeof(x->uuid), uuid);
		(void)snprintf(at, sizeof(at), "%.280s:%.10s", host, my_col(res, row, "Port"));
		put(x->at, sizeof(x->at), *host ? at : "");
	}
	mysql_free_result(res);
	return 0;
}

static void put_session(struct replica *x, const char *user, const char *host)
{
	const char *colon = strrchr(host, ':');

	put(x->user, sizeof(x->user), user);
	put(x->host, sizeof(x->host), host);
	if (colon && (size_t)(colon - host) < sizeof(x->host))
		x->host[colon - host] = '\0'; /* without its port */
}

/* MySQL: the session belongs to who has registered with its uuid, or to one that did not register. */
static void place_session(MYSQL_ROW row, const struct facts *but, struct replicas *out)
{
	const char *uuid = row[2] ? row[2] : "";
	struct replica *x = NULL;

	if (*uuid && strcmp(uuid, but->uuid) == 0)
		return;
	for (size_t i = 0; *uuid && i < out->n && !x; i++)
		if (strcmp(out->of[i].uuid, uuid) == 0)
			x = &out->of[i];
	x = x ? x : add(out->of, &out->n, &out->left_out);
	if (x)
		put_session(x, row[0], row[1] ? row[1] : "");
}

/* Who reads the binary log now. */
static int read_sessions(struct my *m, const struct facts *but, struct replicas *out, struct snap_error *err)
{
	MYSQL_RES *res = NULL;
	struct replica *x;
	MYSQL_ROW row;
	int r = my_query(m, m->mariadb ? "SELECT USER, HOST, NULL FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'" :
			 "SELECT p.USER, p.HOST, CONVERT(v.VARIABLE_VALUE USING utf8mb4) FROM information_schema.PROCESSLIST p LEFT JOIN "
			 "performance_schema.threads t ON t.PROCESSLIST_ID = p.ID LEFT JOIN performance_schema.user_variables_by_thread v ON "
			 "v.THREAD_ID = t.THREAD_ID AND v.VARIABLE_NAME = 'slave_uuid' WHERE p.COMMAND LIKE 'Binlog Dump%'",
			 "list who reads the binary log", &res, err);

	if (r < 0)
		return r;
	while ((row = mysql_fetch_row(res))) {
		if (!m->mariadb) {
			place_session(row, but, out);
			continue;
		}
		x = add(out->session, &out->sessions, &out->left_out);
		if (x)
			put_session(x, row[0], row[1] ? row[1] : "");
	}
	mysql_free_result(res);
	return 0;
}

static bool same_session(const struct replica *a, const struct replica *b)
{
	return strcmp(a->user, b->user) == 0 && strcmp(a->host, b->host) == 0;
}

/* MariaDB: whose session is whose is known only where all come from one place by one account. */
static void pair_sessions(struct replicas *out)
{
	bool one = out->sessions > 0;

	for (size_t i = 1; i < out->sessions; i++)
		one = one && same_session(&out->session[0], &out->session[i]);
	for (size_t i = 0; one && i < out->n; i++) {
		(void)snprintf(out->of[i].user, sizeof(out->of[i].user), "%s", out->session[0].user);
		(void)snprintf(out->of[i].host, sizeof(out->of[i].host), "%s", out->session[0].host);
	}
	if (one && !out->denied && out->sessions <= out->n + 1) /* B's is the one more */
		out->sessions = 0; /* nothing more to tell */
}

/* Of this server, without `but`. */
static int replicas_read(struct my *m, const struct facts *but, struct replicas *out, struct snap_error *err)
{
	int r;

	memset(out, 0, sizeof(*out));
	r = read_named(m, but, out, err);
	r = r < 0 ? r : read_sessions(m, but, out, err);
	if (r == 0)
		pair_sessions(out);
	return r;
}

/* ---- before ---- */

static const char *privilege(const struct my *m)
{
	return m->mariadb ? m->version >= 100502 ? "REPLICATION MASTER ADMIN" : "REPLICATION SLAVE" : "REPLICATION SLAVE";
}

/* A replica comes to B with the account that it has. */
static void check_account(struct my *b, const struct replica *x, struct vbuf *out)
{
	char user[2 * sizeof(x->user) + 1], sql[400], there[8] = "";
	struct snap_error err = { 0 };

	if (strcmp(x->user, "-") == 0)
		return;
	(void)mysql_real_escape_string(b->c, user, x->user, strlen(x->user));
	(void)snprintf(sql, sizeof(sql), "SELECT 1 FROM mysql.user WHERE User = '%s' AND Repl_slave_priv = 'Y' LIMIT 1", user);
	if (my_value(b, sql, NULL, there, sizeof(there), &err) < 0)
		vbuf_printf(out, "warn replicas: whether B has the account %s, by which A is read from %s, is not known: %s\n", x->user, x->host,
			    err.msg);
	else if (!*there)
		vbuf_printf(out, "warn replicas: B has no account %s with REPLICATION SLAVE, by which A is read from %s: make it before a "
				 "replica that has it is pointed at B\n", x->user, x->host);
}

static void check_accounts(struct my *b, const struct replica *of, size_t n, struct vbuf *out)
{
	for (size_t i = 0, k; i < n; i++) {
		for (k = 0; k < i && strcmp(of[k].user, of[i].user) != 0; k++)
			;
		if (k == i) /* each once */
			check_account(b, &of[i], out);
	}
}

/* What others that stay at A get of B's writes; `by`: why not. */
static bool passes_on(const struct facts *a, const struct link *a_of_b, const char **by)
{
	bool updates = strcasecmp(a->log_updates, "ON") == 0 || strcmp(a->log_updates, "1") == 0;

	*by = !a_of_b->there ? "A does not follow B" : "A does not write what it gets from B into its binary log";
	return a_of_b->there && updates;
}

void replicas_check(struct cut *c, const struct facts *a, const struct facts *b, const struct link *a_of_b, struct vbuf *out)
{
	struct replicas *x = calloc(1, sizeof(*x));
	struct snap_error err = { 0 };
	const char *by;
	size_t n;

	if (!x || replicas_read(c->a.m, b, x, &err) < 0) {
		vbuf_printf(out, "warn replicas: who else follows A is not known: %s\n", x ? err.msg : "out of memory");
		free(x);
		return;
	}
	if (x->denied)
		vbuf_printf(out, "warn replicas: A does not name its replicas to our account: GRANT %s ON *.* TO it\n", privilege(c->a.m));
	n = x->n ? x->n : x->sessions > 1 ? x->sessions - 1 : 0; /* B's is one of them */
	if (!n && !x->denied)
		vbuf_puts(out, "ok replicas: A has no other replica than B\n");
	if (n && passes_on(a, a_of_b, &by))
		vbuf_printf(out, "warn replicas: %zu more follow%s A: they get what B writes by way of A, as long as A follows B; the report has the "
				 "statements that point them at B\n", n + x->left_out, n + x->left_out == 1 ? "s" : "");
	else if (n)
		vbuf_printf(out, "warn replicas: %zu more follow%s A, and get NOTHING of what B writes until they are pointed at B (%s); the report "
				 "has the statements\n", n + x->left_out, n + x->left_out == 1 ? "s" : "", by);
	check_accounts(c->b.m, x->of, x->n, out);
	if (n) /* else the only one is B's */
		check_accounts(c->b.m, x->session, x->sessions, out);
	free(x);
}

/* ---- after ---- */

static bool loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

/* Where other servers reach B: as A does, as B says, as we do, its host's name. */
static int address(struct cut *c, const struct link *a_of_b, char host[300], char port[16], struct snap_error *err)
{
	const char *info = mysql_get_host_info(c->b.m->c), *via = info ? strstr(info, " via TCP") : NULL;
	int r;

	if (a_of_b->there && *a_of_b->host) {
		(void)snprintf(host, 300, "%s", a_of_b->host);
		(void)snprintf(port, 16, "%s", a_of_b->port);
		return 0;
	}
	r = my_variable(c->b.m, "report_host", host, 300, err);
	r = r < 0 ? r : my_variable(c->b.m, *host ? "report_port" : "port", port, 16, err);
	if (r < 0 || *host)
		return r;
	if (via)
		(void)snprintf(host, 300, "%.*s", (int)(via - info < 299 ? via - info : 299), info);
	return via && !loopback(host) ? 0 : my_variable(c->b.m, "hostname", host, 300, err);
}

static void statements(struct cut *c, const char *host, const char *port, struct vbuf *out)
{
	bool source = !c->a.m->mariadb && c->a.m->version >= 80023;
	char quoted[700];

	(void)mysql_real_escape_string(c->b.m->c, quoted, host, strnlen(host, 300));
	if (source)
		vbuf_printf(out, "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_HOST='%s', SOURCE_PORT=%s, SOURCE_AUTO_POSITION=1; "
				 "START REPLICA;", quoted, port);
	else
		vbuf_printf(out, "STOP SLAVE; CHANGE MASTER TO MASTER_HOST='%s', MASTER_PORT=%s, %s; START SLAVE;", quoted, port,
			    c->a.m->mariadb ? "MASTER_USE_GTID=slave_pos" : "MASTER_AUTO_POSITION=1");
}

/* MariaDB: who reads A's log, where it cannot be said which of them is which server. */
static void print_sessions(const struct replicas *x)
{
	for (size_t i = 0; i < x->sessions; i++)
		(void)printf("reads_a %s %s\n", x->session[i].user, x->session[i].host);
}

static void print_at_a(struct cut *c, const struct replicas *x, const struct facts *a, const struct link *a_of_b, struct snap_error *err)
{
	struct vbuf sql = VBUF_INIT;
	char host[300] = "", port[16] = "";
	const char *by;

	if (x->denied)
		tool_say("A does not name its replicas to our account: GRANT %s ON *.* TO it", privilege(c->a.m));
	print_sessions(x);
	if ((!x->n && x->sessions < 2) || address(c, a_of_b, host, port, err) < 0)
		return;
	statements(c, host, port, &sql);
	if (passes_on(a, a_of_b, &by))
		(void)printf("replicas_of_a get what B writes by way of A, as long as A follows B\n");
	else
		(void)printf("replicas_of_a get NOTHING of what B writes: %s\n", by);
	for (size_t i = 0; i < x->n; i++)
		(void)printf("replica %s %s %s %s %s\n", x->of[i].id, x->of[i].at, x->of[i].user, x->of[i].host, vbuf_text(&sql));
	if (!x->n) /* not named: B's own session is one of those above */
		(void)printf("replica - - - - %s\n", vbuf_text(&sql));
	if (x->left_out)
		tool_say("A: %u more replicas are not shown", x->left_out);
	if (vbuf_error(&sql))
		(void)snap_error_set(err, -ENOMEM, "out of memory");
	vbuf_free(&sql);
}

static int identify(struct my *m, struct facts *f, struct snap_error *err)
{
	int r = my_variable(m, "server_id", f->server_id, sizeof(f->server_id), err);

	r = r < 0 ? r : my_variable(m, "server_uuid", f->uuid, sizeof(f->uuid), err);
	return r < 0 ? r : my_variable(m, m->mariadb || m->version < 80026 ? "log_slave_updates" : "log_replica_updates", f->log_updates,
				       sizeof(f->log_updates), err);
}

static int print(struct cut *c, struct replicas *x, struct snap_error *err)
{
	struct facts a = { 0 }, b = { 0 };
	struct link a_of_b = { 0 };
	int r = side_reach(&c->a, &c->o, err);

	r = r < 0 ? r : side_reach(&c->b, &c->o, err);
	r = r < 0 ? r : identify(c->a.m, &a, err);
	r = r < 0 ? r : identify(c->b.m, &b, err);
	r = r < 0 ? r : facts_link(c->a.m, &b, &a_of_b, err);
	r = r < 0 ? r : replicas_read(c->a.m, &b, x, err);
	if (r == 0)
		print_at_a(c, x, &a, &a_of_b, err);
	r = r < 0 ? r : err->code;
	r = r < 0 ? r : replicas_read(c->b.m, &a, x, err);
	for (size_t i = 0; r == 0 && i < x->n; i++)
		(void)printf("follows_b %s %s %s %s\n", x->of[i].id, x->of[i].at, x->of[i].user, x->of[i].host);
	return r;
}

void replicas_print(struct cut *c)
{
	const char *end = cutlog_last(c->log, "end");
	struct replicas *x = calloc(1, sizeof(*x));
	struct snap_error err = { 0 };

	if (!x)
		tool_say("the other replicas of A: out of memory");
	else if (cutlog_last(c->log, "open") && !(end && strcmp(end, "resolved A") == 0) && print(c, x, &err) < 0)
		tool_say("the other replicas of A are not known: %s", err.msg);
	free(x);
}
