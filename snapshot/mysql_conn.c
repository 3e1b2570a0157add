/* snapshot/mysql_conn.c - a connection to MariaDB or MySQL, and which of them it leads to.
 * Owns:      the connection of a struct my; never reconnects by itself (that would lose a lock without an error).
 * Called by: mysql.c for the coordinator; by what acts on a server alone through my_open_plain. my_sever from any thread.
 * Blocks:    up to the client library's timeouts (struct my_where).
 * Errors:    -errno with the sentence: -ECONNREFUSED no server, -EKEYREJECTED TLS, -EACCES the account. */
#include "snapshot/mysql_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* libmysqlclient keeps the socket elsewhere than libmariadb. */
static int socket_of(MYSQL *c)
{
#ifdef MARIADB_PACKAGE_VERSION
	return (int)mysql_get_socket(c);
#else
	return (int)c->net.fd;
#endif
}

static void set_sock(struct my *m, int sock)
{
	(void)pthread_mutex_lock(&m->lock);
	m->sock = sock;
	(void)pthread_mutex_unlock(&m->lock);
}

void my_disconnect(struct my *m)
{
	set_sock(m, -1);
	if (m->c)
		mysql_close(m->c); /* ends any lock */
	m->c = NULL;
	m->locked = m->instance_locked = false;
}

static int do_connect(struct my *m, struct snap_error *err)
{
	const struct my_where *w = &m->w;
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	int r;

	if (*w->defaults_file && access(w->defaults_file, R_OK) < 0)
		return snap_error_set(err, -errno, "db.defaults_file %s: %s", w->defaults_file, strerror(errno));
	m->c = mysql_init(NULL);
	if (!m->c)
		return snap_error_set(err, -ENOMEM, "connect to the database: out of memory");
	(void)mysql_options(m->c, MYSQL_OPT_CONNECT_TIMEOUT, &w->connect_s);
	(void)mysql_options(m->c, MYSQL_OPT_READ_TIMEOUT, &w->io_s);
	(void)mysql_options(m->c, MYSQL_OPT_WRITE_TIMEOUT, &w->io_s);
	if (*w->defaults_file)
		(void)mysql_options(m->c, MYSQL_READ_DEFAULT_FILE, w->defaults_file);
	(void)mysql_options(m->c, MYSQL_READ_DEFAULT_GROUP, "stillfs");
	my_tls_ask(m);
	if (mysql_real_connect(m->c, *w->host ? w->host : NULL, NULL, NULL, NULL, w->port, *w->socket ? w->socket : NULL, 0)) {
		r = my_tls_check(m, err);
	} else {
		r = my_tls_failed(m, err);
		r = r < 0 ? r : my_fail(m, "connect to the database", err);
	}
	if (r < 0) {
		my_disconnect(m);
		return r;
	}
	if (getsockopt(socket_of(m->c), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		peer.pid = 0;
	m->peer_pid = peer.pid;
	set_sock(m, socket_of(m->c));
	return 0;
}

static int identify(struct my *m, struct snap_error *err)
{
	unsigned a = 0, b = 0, c = 0;
	char text[128];
	int r = my_value(m, "SELECT VERSION()", NULL, text, sizeof(text), err);

	if (r < 0)
		return r;
	m->mariadb = strcasestr(text, "mariadb") != NULL;
	(void)sscanf(text, "%u.%u.%u", &a, &b, &c);
	m->version = a * 10000 + b * 100 + c;
	(void)pthread_mutex_lock(&m->lock);
	(void)snprintf(m->text, sizeof(m->text), "%s", text);
	(void)pthread_mutex_unlock(&m->lock);
	return 0;
}

int my_reach(struct my *m, struct snap_error *err)
{
	int r = 0;

	if (m->c && mysql_ping(m->c) != 0)
		my_disconnect(m); /* idle for too long, or the server was restarted */
	if (!m->c)
		r = do_connect(m, err);
	return r < 0 ? r : identify(m, err);
}

void my_sever(void *self)
{
	struct my *m = self;

	atomic_store(&m->severed, true);
	(void)pthread_mutex_lock(&m->lock);
	if (m->sock >= 0)
		(void)shutdown(m->sock, SHUT_RDWR); /* the server sees the end and drops the lock */
	(void)pthread_mutex_unlock(&m->lock);
	if (m->second)
		my_sever(m->second);
}

struct my *my_open_plain(const struct my_where *w, struct snap_error *err)
{
	struct my *m = calloc(1, sizeof(*m));

	if (!m || mysql_library_init(0, NULL, NULL) != 0) {
		free(m);
		snap_error_set(err, -ENOMEM, "database client library: out of memory");
		return NULL;
	}
	m->w = *w;
	m->sock = -1;
	(void)pthread_mutex_init(&m->lock, NULL);
	return m;
}

void my_close_plain(struct my *m)
{
	if (!m)
		return;
	my_disconnect(m);
	(void)pthread_mutex_destroy(&m->lock);
	free(m); /* the client library stays: it counts no users, and another connection may be open */
}
