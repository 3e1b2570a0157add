/* snapshot/mysql_patience.c - db.lock_patience: a statement that everybody waits behind is given up when it is not granted
 * soon. The server ends it when it is told to by KILL QUERY from a second connection, which may end its own account's
 * statements without any privilege.
 * Owns:      the second connection, kept as the first one is.
 * Called by: mysql.c and mysql_lock.c on the database thread; my_sever, from any, cuts both connections.
 * Blocks:    as said, then up to the server's lock_wait_timeout for the answer.
 * Errors:    -EAGAIN given up. Without a second connection nothing is given up, and status says why. */
#include "snapshot/mysql_int.h"

#include "base/clock.h"

#include <errno.h>
#include <mysqld_error.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static void set_impatient(struct my *m, const char *why)
{
	(void)pthread_mutex_lock(&m->lock);
	(void)snprintf(m->impatient, sizeof(m->impatient), "%s", why);
	(void)pthread_mutex_unlock(&m->lock);
}

int my_kill_query(struct my *m, const char *id, const char *what, bool *killed, struct snap_error *err)
{
	char sql[64];
	int r;

	(void)snprintf(sql, sizeof(sql), "KILL QUERY %.20s", id);
	r = my_exec(m, sql, what, err);
	*killed = r == 0;
	if (r < 0 && m->c && mysql_errno(m->c) == ER_NO_SUCH_THREAD) { /* it has ended by itself */
		snap_error_clear(err);
		return 0;
	}
	return r;
}

/* An id means something to its own server only, and a name may lead to one of several. */
static int same_server(struct my *m, struct snap_error *err)
{
	static const char who[] = "SELECT CONCAT_WS(' ', @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.socket, @@GLOBAL.datadir, "
				  "@@GLOBAL.server_id)";
	struct vbuf a = VBUF_INIT, b = VBUF_INIT;
	int r = my_text(m, who, "ask the server who it is", &a, err);

	if (r == 0)
		r = my_text(m->second, who, "ask the server who it is", &b, err);
	if (r == 0 && (m->peer_pid != m->second->peer_pid || strcmp(vbuf_text(&a), vbuf_text(&b)) != 0))
		r = snap_error_set(err, -EXDEV, "a second connection leads to another server than the first");
	vbuf_free(&a);
	vbuf_free(&b);
	return r;
}

void my_patience_warm(struct my *m)
{
	struct snap_error why = { 0 };
	int r;

	if (!conf_num(m->d->conf, "db.lock_patience") || (m->method != MY_FTWRL && m->method != MY_BACKUP)) {
		my_disconnect(m->second);
		set_impatient(m, "off");
		return;
	}
	r = my_reach(m->second, &why);
	if (r == 0) /* as long as the first one may be idle, too */
		r = my_exec(m->second, "SET SESSION wait_timeout=28800", "set the session's timeouts", &why);
	if (r == 0)
		r = same_server(m, &why);
	if (r == 0)
		r = my_value(m, "SELECT CONNECTION_ID()", NULL, m->id, sizeof(m->id), &why);
	if (r < 0)
		my_disconnect(m->second);
	set_impatient(m, r < 0 ? why.msg : "");
}

bool my_patience_ready(struct my *m)
{
	if (!m->second->c)
		return false;
	if (mysql_ping(m->second->c) == 0)
		return true;
	set_impatient(m, mysql_error(m->second->c));
	my_disconnect(m->second);
	return false;
}

/* Is there an answer, or an end of the connection? */
static bool answered(const struct my *m, uint64_t until_ns)
{
	struct pollfd p = { .fd = m->sock, .events = POLLIN }; /* this thread is the one that sets it */
	uint64_t now;
	int n;

	do {
		struct timespec left = { 0 };

		now = clock_boot_ns();
		if (now < until_ns)
			left = (struct timespec){ .tv_sec = (time_t)((until_ns - now) / NS_PER_S),
						  .tv_nsec = (long)((until_ns - now) % NS_PER_S) };
		n = ppoll(&p, 1, &left, NULL);
	} while (n < 0 && errno == EINTR);
	return n != 0; /* an error of poll: the answer is waited for */
}

/* The end that we asked for may have met the statement, or come after it. MariaDB 10.11 and MySQL 9.7 drop one that meets
 * a session between two statements; of one that meets the last moments of a statement nothing is known, and it must not be
 * left for our next one. A statement that does nothing takes it; the second connection has had its answer, so none is
 * on its way. */
static int take_kill(struct my *m, const char *what, struct snap_error *err)
{
	struct snap_error why = { 0 };

	if (my_exec(m, "DO 0", what, &why) == 0 || mysql_errno(m->c) == ER_QUERY_INTERRUPTED)
		return 0;
	return snap_error_set(err, why.code, "%s", why.msg);
}

int my_ask(struct my *m, const char *sql, const char *what, uint64_t until_ns, bool *given_up, struct snap_error *err)
{
	struct snap_error why = { 0 };
	bool killed = false;
	int r;

	*given_up = false;
	if (!until_ns || !m->c)
		return my_exec(m, sql, what, err);
	if (mysql_send_query(m->c, sql, strlen(sql)) != 0)
		return my_fail(m, what, err);
	if (!answered(m, until_ns) && my_kill_query(m->second, m->id, "give the lock up", &killed, &why) < 0) {
		/* it is waited for as without patience, and so are the next ones */
		set_impatient(m, why.msg);
		my_disconnect(m->second);
		killed = true; /* it may have been heard all the same */
	}
	r = mysql_read_query_result(m->c) == 0 ? 0 : my_fail(m, what, err);
	*given_up = killed && r < 0 && mysql_errno(m->c) == ER_QUERY_INTERRUPTED;
	why = (struct snap_error){ 0 };
	if (killed && take_kill(m, what, &why) < 0 && (r == 0 || *given_up)) {
		*given_up = false;
		snap_error_clear(err);
		r = snap_error_set(err, why.code, "%s", why.msg);
	}
	return r;
}
