/* snapshot/fence/fence_off.c - takes the fence down: what the record says, and no more. See fence.h.
 * Owns:      nothing; the record is the caller's, and stays as it is until all of it is taken back.
 * Called by: whoever keeps the record, one thread at a time for each connection.
 * Blocks:    for a few statements.
 * Errors:    -errno with the sentence; the same call again goes on. */
#include "snapshot/fence/fence_int.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Values come from a file: only what a server could have said. */
static bool word_ok(const char *v)
{
	return *v && strlen(v) < 32 && v[strspn(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789")] == '\0';
}

static int bad_record(const char *key, const char *value, struct snap_error *err)
{
	return snap_error_set(err, -EINVAL, "fence: the record says \"%.60s %.60s\", which no server has: set that one by hand, and take the line "
					    "out", key, value);
}

static int set_back(struct my *m, const char *verb, const char *variable, const char *value, struct snap_error *err)
{
	char sql[160], what[96];

	if (!word_ok(value))
		return bad_record(variable, value, err);
	(void)snprintf(sql, sizeof(sql), "SET %s %s=%s", verb, variable, value);
	(void)snprintf(what, sizeof(what), "fence: set %s back to %s", variable, value);
	return my_exec(m, sql, what, err);
}

/* One variable of MySQL; never writable for a moment in between. */
static int back_mysql(struct my *m, const char *record, const char *variable, struct snap_error *err)
{
	char sql[96], key[64], old[64], persisted[64];
	bool was_persisted;
	int r = 0;

	if (!fence_record_get(record, variable, old, sizeof(old)))
		return 0;
	(void)snprintf(key, sizeof(key), "persisted_%s", variable);
	was_persisted = fence_record_get(record, key, persisted, sizeof(persisted));
	if (was_persisted && strcmp(persisted, "-") == 0) {
		(void)snprintf(sql, sizeof(sql), "RESET PERSIST IF EXISTS %s", variable);
		r = my_exec(m, sql, "fence: take back what was persisted", err);
	} else if (was_persisted && fence_is_on(persisted) == fence_is_on(old)) {
		return set_back(m, "PERSIST", variable, persisted, err);
	} else if (was_persisted) {
		r = set_back(m, "PERSIST_ONLY", variable, persisted, err);
	}
	FAULT("fence.unpersisted");
	if (r == 0 && strcmp(old, "DISABLED") != 0) /* that cannot be set, and was not */
		r = set_back(m, "GLOBAL", variable, old, err);
	FAULT("fence.opened");
	return r;
}

static int off_mariadb(struct my *m, const char *record, struct snap_error *err)
{
	char value[1024];
	int r = 0;

	if (fence_record_get(record, "include", value, sizeof(value)))
		r = fence_include_remove(value, err);
	FAULT("fence.unpersisted");
	if (r == 0 && fence_record_get(record, "read_only", value, sizeof(value)))
		r = set_back(m, "GLOBAL", "read_only", value, err);
	FAULT("fence.opened");
	if (r == 0 && fence_record_get(record, "event_scheduler", value, sizeof(value)))
		r = set_back(m, "GLOBAL", "event_scheduler", value, err);
	return r;
}

int fence_off(struct my *m, const struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	const char *lines = vbuf_text(record);
	int r;

	if (!*lines)
		return 0;
	r = fence_open_session(m, err);
	if (r == 0)
		r = fence_same_server(m, lines, err);
	if (r == 0 && m->mariadb)
		r = off_mariadb(m, lines, err);
	for (int i = 0; r == 0 && !m->mariadb && fence_mysql_vars[i]; i++)
		r = back_mysql(m, lines, fence_mysql_vars[i], err);
	if (r == 0)
		vbuf_free(record);
	return r;
}
