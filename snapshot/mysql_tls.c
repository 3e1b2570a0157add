/* snapshot/mysql_tls.c - db.tls: an encrypted connection and a checked certificate, whatever the defaults file says.
 * Called by: mysql_conn.c around its connect, on the database thread. Blocks: never.
 * Errors:    -EKEYREJECTED no TLS, or not with the server that it should be; never taken for a server that is down.
 * Facts (libmariadb 3.3.20, libmysqlclient 9.7): the defaults file is read by the connect, after our options.
 * libmariadb takes ssl-verify-server-cert from it with a value only ("=1", "=0"), knows no ssl-mode, and goes on in
 * the clear with a server that has no TLS. libmysqlclient reads neither of the two from a file. */
#include "snapshot/mysql_int.h"

#include <errmsg.h>
#include <errno.h>
#include <string.h>

static bool asks(const struct my *m, const char *mode)
{
	return strcmp(m->w.tls, mode) == 0;
}

#ifdef MARIADB_PACKAGE_VERSION
void my_tls_ask(struct my *m)
{
	const my_bool yes = 1;

	if (asks(m, "auto"))
		return;
	(void)mysql_options(m->c, MYSQL_OPT_SSL_ENFORCE, &yes);
	if (asks(m, "verify"))
		(void)mysql_options(m->c, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes);
}

/* Has the file taken it back? */
static bool verified(const struct my *m)
{
	my_bool yes = 0;

	return mysql_get_option(m->c, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes) == 0 && yes;
}
#else
void my_tls_ask(struct my *m)
{
	const unsigned mode = asks(m, "verify") ? SSL_MODE_VERIFY_IDENTITY : SSL_MODE_REQUIRED;

	if (!asks(m, "auto"))
		(void)mysql_options(m->c, MYSQL_OPT_SSL_MODE, &mode);
}

static bool verified(const struct my *m)
{
	return true; /* no file takes it back */
}
#endif

static const char *file_of(const struct my *m)
{
	const char *file = m->w.defaults_file;

	return *file ? file : "the client library's own defaults file";
}

static int no_tls(struct my *m, struct snap_error *err)
{
	return snap_error_set(err, -EKEYREJECTED, "connect to the database: db.tls=%s, and the server that %s leads to speaks no "
						  "TLS: give it ssl-cert and ssl-key, or set db.tls=auto",
			      m->w.tls, file_of(m));
}

int my_tls_failed(struct my *m, struct snap_error *err)
{
	if (!asks(m, "auto") && m->c->server_capabilities && !(m->c->server_capabilities & CLIENT_SSL))
		return no_tls(m, err);
	if (mysql_errno(m->c) != CR_SSL_CONNECTION_ERROR)
		return 0;
	return snap_error_set(err, -EKEYREJECTED, "connect to the database by TLS: %s (error %u): ssl-ca in %s must name the "
						  "certificate of the authority that signed the server's, which must be made "
						  "for the host that is connected to; ssl-cert and ssl-key there, if any, must "
						  "be readable and belong together", mysql_error(m->c),
			      mysql_errno(m->c), file_of(m));
}

int my_tls_check(struct my *m, struct snap_error *err)
{
	if (!asks(m, "auto") && !mysql_get_ssl_cipher(m->c))
		return no_tls(m, err);
	if (!asks(m, "verify") || verified(m))
		return 0;
	return snap_error_set(err, -EKEYREJECTED, "connect to the database: db.tls=verify, and %s turns that off: take "
						  "ssl-verify-server-cert out of it, or write ssl-verify-server-cert=1", file_of(m));
}
