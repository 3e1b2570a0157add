/* snapshot/mongodb_link.c - see mongodb_link.h. */
#include "snapshot/mongodb_link.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONNECT_MS 1500
#define SERVER_UNAUTHORIZED 13

/* ---- life ---- */

static void library_end(void)
{
	mongoc_cleanup();
}

static void library_begin(void)
{
	mongoc_log_set_handler(NULL, NULL); /* it would write to stderr */
	mongoc_init();
	(void)atexit(library_end);
}

void mgl_begin(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	(void)pthread_once(&once, library_begin);
}

static int read_line(const char *option, const char *path, char *buf, size_t cap, struct snap_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return snap_error_set(err, -errno, "%s %s: %s", option, path, strerror(errno));
	n = fstat(fd, &st) < 0 ? -1 : read(fd, buf, cap - 1);
	(void)close(fd);
	if (n < 0)
		return snap_error_set(err, -EIO, "%s %s: cannot be read", option, path);
	if (st.st_mode & 077)
		return snap_error_set(err, -EPERM, "%s %s: others may read it: chmod 600 it", option, path);
	buf[n] = '\0';
	buf[strcspn(buf, "\r\n")] = '\0';
	return 0;
}

int mgl_uri(const char *option, const char *path, mongoc_uri_t **out, struct snap_error *err)
{
	char text[2048];
	bson_error_t e = { 0 };
	int r = read_line(option, path, text, sizeof(text), err);

	if (r < 0)
		return r;
	*out = mongoc_uri_new_with_error(text, &e);
	explicit_bzero(text, sizeof(text));
	if (!*out)
		return snap_error_set(err, -EINVAL, "%s: its first line is no MongoDB URI", option);
	(void)mongoc_uri_set_option_as_bool(*out, MONGOC_URI_DIRECTCONNECTION, true);
	(void)mongoc_uri_set_option_as_bool(*out, MONGOC_URI_SERVERSELECTIONTRYONCE, false);
	(void)mongoc_uri_set_option_as_int32(*out, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, CONNECT_MS);
	(void)mongoc_uri_set_option_as_int32(*out, MONGOC_URI_CONNECTTIMEOUTMS, CONNECT_MS);
	return 0;
}

mongoc_client_t *mgl_client(mongoc_uri_t *uri, int64_t answer_ms)
{
	mongoc_client_t *c;

	(void)mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SOCKETTIMEOUTMS, (int32_t)answer_ms);
	c = mongoc_client_new_from_uri(uri);
	if (c) {
		(void)mongoc_client_set_error_api(c, MONGOC_ERROR_API_VERSION_2);
		(void)mongoc_client_set_appname(c, "stillfs");
	}
	return c;
}

/* ---- commands ---- */

int mgl_command(mongoc_client_t *c, const bson_t *cmd, bson_t *reply, const char *what, const char *roles, int *code,
		struct snap_error *err)
{
	bson_error_t e = { 0 };

	if (code)
		*code = 0;
	if (!c) {
		bson_init(reply);
		return snap_error_set(err, -ENOTCONN, "%s: not connected to MongoDB", what);
	}
	if (mongoc_client_command_simple(c, "admin", cmd, NULL, reply, &e))
		return 0;
	if (e.domain == MONGOC_ERROR_SERVER || e.domain == MONGOC_ERROR_QUERY) {
		if (code)
			*code = (int)e.code;
		if (e.code == SERVER_UNAUTHORIZED)
			return snap_error_set(err, -EACCES, "%s: %s; give the account the roles %s on admin", what, e.message, roles);
		return snap_error_set(err, -EIO, "%s: %s (error %u)", what, e.message, e.code);
	}
	if (e.domain == MONGOC_ERROR_CLIENT && e.code == MONGOC_ERROR_CLIENT_AUTHENTICATE)
		return snap_error_set(err, -EACCES, "%s: %s; look at the file with the URI", what, e.message);
	return snap_error_set(err, e.domain == MONGOC_ERROR_SERVER_SELECTION ? -ECONNREFUSED : -ECONNRESET, "%s: %s", what,
			      e.message);
}

int mgl_simple(mongoc_client_t *c, const char *name, bson_t *reply, const char *what, const char *roles, int *code,
	       struct snap_error *err)
{
	bson_t cmd = BSON_INITIALIZER;
	int r;

	(void)bson_append_int32(&cmd, name, -1, 1);
	r = mgl_command(c, &cmd, reply, what, roles, code, err);
	bson_destroy(&cmd);
	return r;
}

/* The privileges as the server shows them. */
static int lacking(const char *privileges, const char *const *actions, const char *role, struct snap_error *err)
{
	char quoted[64], names[200] = "";
	size_t n = 0;

	for (int i = 0; actions[i]; i++) {
		(void)snprintf(quoted, sizeof(quoted), "\"%.60s\"", actions[i]);
		if (!strstr(privileges, quoted) && n < sizeof(names))
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "", actions[i]);
	}
	return n == 0 || strstr(privileges, "\"anyAction\"") ?
		       0 :
		       snap_error_set(err, -EACCES, "MongoDB: the account lacks on the cluster: %s: db.grantRolesToUser(USER, [{role: \"%s\", "
						    "db: \"admin\"}])", names, role);
}

int mgl_actions(mongoc_client_t *c, const char *const *actions, const char *role, struct snap_error *err)
{
	bson_t cmd = BSON_INITIALIZER, reply;
	bson_iter_t i, users;
	char *text;
	int r;

	(void)BSON_APPEND_INT32(&cmd, "connectionStatus", 1);
	(void)BSON_APPEND_BOOL(&cmd, "showPrivileges", true);
	r = mgl_command(c, &cmd, &reply, "read our privileges", role, NULL, err);
	if (r == 0 && mgl_find(&reply, "authInfo.authenticatedUsers", &i) && bson_iter_recurse(&i, &users) && bson_iter_next(&users)) {
		text = bson_as_relaxed_extended_json(&reply, NULL);
		r = lacking(text ? text : "", actions, role, err);
		bson_free(text);
	}
	bson_destroy(&cmd);
	bson_destroy(&reply);
	return r;
}

int mgl_hello(mongoc_client_t *c, bson_t *reply, struct snap_error *err)
{
	static const char what[] = "ask MongoDB for its role";
	struct snap_error first = { 0 };
	int code = 0, r = mgl_simple(c, "hello", reply, what, "clusterMonitor", &code, &first);

	if (r < 0 && code) { /* before 4.4.2 */
		bson_destroy(reply);
		return mgl_simple(c, "isMaster", reply, what, "clusterMonitor", NULL, err);
	}
	return r < 0 ? snap_error_set(err, r, "%s", first.msg) : 0;
}

const char *mgl_role(const bson_t *h)
{
	if (mgl_true(h, "hidden"))
		return "hidden";
	if (!*mgl_text(h, "setName"))
		return "standalone";
	return mgl_true(h, "isWritablePrimary") || mgl_true(h, "ismaster") ? "primary" :
	       mgl_true(h, "secondary") ? "secondary" : "other";
}

/* ---- documents ---- */

bool mgl_find(const bson_t *b, const char *path, bson_iter_t *out)
{
	bson_iter_t i;

	return bson_iter_init(&i, b) && bson_iter_find_descendant(&i, path, out);
}

int64_t mgl_number(const bson_t *b, const char *path, int64_t def)
{
	bson_iter_t i;

	return mgl_find(b, path, &i) && (BSON_ITER_HOLDS_INT32(&i) || BSON_ITER_HOLDS_INT64(&i) || BSON_ITER_HOLDS_DOUBLE(&i)) ?
		       bson_iter_as_int64(&i) : def;
}

bool mgl_true(const bson_t *b, const char *path)
{
	bson_iter_t i;

	return mgl_find(b, path, &i) && bson_iter_as_bool(&i);
}

const char *mgl_text(const bson_t *b, const char *path)
{
	bson_iter_t i;

	return mgl_find(b, path, &i) && BSON_ITER_HOLDS_UTF8(&i) ? bson_iter_utf8(&i, NULL) : "";
}
