/* snapshot/fence/side_sql.c - the fence of the MariaDB or MySQL that db.* leads to.
 * Owns:      a connection of its own, so that the coordinator's is not in the middle of something.
 * Called by: fence/keep_work.c, see side.h. */
#include "snapshot/fence/side.h"
#include "snapshot/mysql_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S 5
#define IO_S 15 /* above the lock_wait_timeout of the fence's session */

struct side {
	const struct conf *conf;
	struct my *m;
};

static void *side_open(const struct conf *c, struct snap_error *err)
{
	const struct my_where w = { .defaults_file = conf_str(c, "db.defaults_file"), .socket = conf_str(c, "db.socket"), .host = "",
				    .tls = conf_str(c, "db.tls"), .connect_s = CONNECT_S, .io_s = IO_S };
	struct side *s;

	if (fence_allow_check(conf_str(c, "fence.allow"), err) < 0)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s) {
		snap_error_set(err, -ENOMEM, "fence: out of memory");
		return NULL;
	}
	s->conf = c;
	s->m = my_open_plain(&w, err);
	if (!s->m) {
		free(s);
		return NULL;
	}
	return s;
}

static void side_close(void *self)
{
	struct side *s = self;

	if (s)
		my_close_plain(s->m);
	free(s);
}

static void side_sever(void *self)
{
	struct side *s = self;

	my_sever(s->m);
}

static void fill(const struct side *s, struct fence_opts *o)
{
	o->allow = conf_str(s->conf, "fence.allow");
	o->include_dir = conf_str(s->conf, "fence.mariadb_include");
	o->persist = conf_bool(s->conf, "fence.persist");
	o->xa_stays = strcmp(conf_str(s->conf, "fence.xa"), "allow") == 0;
}

static int side_check(void *self, struct fence_opts *o, struct vbuf *found, struct snap_error *err)
{
	struct side *s = self;

	fill(s, o);
	return fence_check(s->m, o, found, err);
}

static int side_on(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	struct side *s = self;

	fill(s, o);
	return fence_on(s->m, o, record, err);
}

static int side_off(void *self, struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	struct side *s = self;

	fill(s, o);
	return fence_off(s->m, o, record, err);
}

static int side_verify(void *self, const char *record, struct snap_error *err)
{
	struct side *s = self;

	return fence_verify(s->m, record, err);
}

/* A number that the server may not have, or not show us. */
static long long number(struct my *m, const char *sql, const char *column)
{
	struct snap_error ignored = { 0 };
	char value[32];

	return my_value(m, sql, column, value, sizeof(value), &ignored) < 0 || !*value ? -1 : strtoll(value, NULL, 10);
}

static void side_counts(void *self, long long *refused, long long *denied)
{
	struct side *s = self;

	*refused = *denied = -1;
	if (s->m->mariadb) {
		*denied = number(s->m, "SHOW GLOBAL STATUS LIKE 'Access_denied_errors'", "Value");
		return; /* it does not count what it refuses because of read_only */
	}
	*refused = number(s->m, "SELECT SUM(SUM_ERROR_RAISED) FROM performance_schema.events_errors_summary_global_by_error WHERE "
				"ERROR_NUMBER = 1290", NULL);
	*denied = number(s->m, "SELECT SUM(SUM_ERROR_RAISED) FROM performance_schema.events_errors_summary_global_by_error WHERE "
			       "ERROR_NUMBER IN (1045, 1698, 3118)", NULL); /* password, plugin, account locked */
}

const struct fence_side fence_side_sql = {
	.open = side_open,
	.close = side_close,
	.sever = side_sever,
	.check = side_check,
	.on = side_on,
	.off = side_off,
	.verify = side_verify,
	.counts = side_counts,
};
