/* snapshot/fence/fence.c - puts the fence up, and looks whether it stands. fence_off.c takes it down. See fence.h.
 * Owns:      nothing but a call's own lists; the record is the caller's.
 * Called by: whoever keeps the record, one thread at a time for each connection.
 * Blocks:    fence_on up to max_ms. The server's lock_wait_timeout of our session bounds each statement that waits.
 * Errors:    -errno with the sentence; what is changed by then is in the record. */
#include "snapshot/fence/fence_int.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_WAIT_S "2" /* everybody stands behind us while we wait: let them on in between */

const char *const fence_mysql_vars[] = { "super_read_only", "read_only", "event_scheduler", NULL };

bool fence_is_on(const char *value)
{
	return strcmp(value, "OFF") != 0 && strcmp(value, "0") != 0 && strcmp(value, "DISABLED") != 0 && *value;
}

/* Which server this is, over restarts. MariaDB has no uuid of its own in all its versions. */
static int identity(struct my *m, char *buf, size_t cap, struct snap_error *err)
{
	return my_value(m, m->mariadb ? "SELECT CONCAT('mariadb ', @@server_id, ':', @@hostname, ':', @@datadir)" :
					"SELECT CONCAT('mysql ', @@server_uuid)", NULL, buf, cap, err);
}

int fence_same_server(struct my *m, const char *record, struct snap_error *err)
{
	char here[512], there[512];
	int r = identity(m, here, sizeof(here), err);

	if (r < 0 || !fence_record_get(record, "server", there, sizeof(there)) || strcmp(here, there) == 0)
		return r;
	return snap_error_set(err, -EXDEV, "fence: the connection leads to %s, and the record is of %s: nothing was changed", here, there);
}

/* ---- can it be done? ---- */

static int check_kind(struct my *m, struct snap_error *err)
{
	char value[128] = "";
	int r;

	if (m->version < (m->mariadb ? 100402u : 80000u))
		return snap_error_set(err, -EOPNOTSUPP, "fence: %s: needs MariaDB 10.4.2 or MySQL 8.0, where accounts can be locked and "
							"settings persist", m->text);
	r = my_variable(m, m->mariadb ? "wsrep_on" : "group_replication_group_name", value, sizeof(value), err);
	if (r < 0 || !*value || (m->mariadb && !fence_is_on(value)))
		return r;
	return snap_error_set(err, -EOPNOTSUPP, "fence: this server is a member of a %s, whose other members would go on to accept writes "
						"and which sets read_only itself: take it out of that first",
			      m->mariadb ? "Galera cluster" : "replication group");
}

int fence_open_session(struct my *m, struct snap_error *err)
{
	int r = my_reach(m, err);

	if (r == 0)
		r = my_exec(m, "SET SESSION lock_wait_timeout=" LOCK_WAIT_S ", autocommit=1", "set the session's timeouts", err);
	return r < 0 ? r : check_kind(m, err);
}

/* tell: what does not keep it from going up is told, too. */
static int preflight(struct my *m, const struct fence_opts *o, bool tell, struct vbuf *found, struct snap_error *err)
{
	char line[200];
	unsigned n = 0, xa = 0;
	int r = fence_allow_check(o->allow, err);

	if (r == 0)
		r = fence_open_session(m, err);
	if (r == 0)
		r = fence_privileges(m, err);
	if (r == 0)
		r = fence_accounts(m, o->allow, found, err);
	if (r == 0)
		r = fence_xa_preflight(m, o, tell, found, &xa, err);
	if (r < 0 || !found->len)
		return r;
	for (const char *p = vbuf_text(found); *p; p += strcspn(p, "\n") + 1)
		n++;
	(void)snprintf(line, sizeof(line), "%.*s", (int)(strcspn(vbuf_text(found), "\n") < 180 ? strcspn(vbuf_text(found), "\n") : 180),
		       vbuf_text(found));
	return snap_error_set(err, -EPERM, "fence: %u could write all the same: %s%s; %s%s%s%s", n, line,
			      n > 1 ? ", and more (stillctl fence check)" : "", n > xa ? "ALTER USER ... ACCOUNT LOCK, " : "",
			      n > xa && m->mariadb ? "ALTER PROCEDURE ... SQL SECURITY INVOKER, " : "",
			      n > xa ? "or list the account in fence.allow" : "",
			      !xa ? "" : n > xa ? "; XA COMMIT or XA ROLLBACK what is prepared" : "XA COMMIT or XA ROLLBACK it (XA RECOVER)");
}

int fence_check(struct my *m, const struct fence_opts *o, struct vbuf *found, struct snap_error *err)
{
	return preflight(m, o, true, found, err);
}

/* ---- verify ---- */

static void differs(struct vbuf *out, const char *what)
{
	vbuf_printf(out, "%s%s", out->len ? ", " : "", what);
}

static int look_variable(struct my *m, const char *name, bool want, struct vbuf *out, struct snap_error *err)
{
	char value[64], text[128];
	int r = my_variable(m, name, value, sizeof(value), err);

	(void)snprintf(text, sizeof(text), "%s is %s", name, value);
	if (r == 0 && fence_is_on(value) != want)
		differs(out, text);
	return r;
}

static int look_persisted(struct my *m, const char *record, const char *name, struct vbuf *out, struct snap_error *err)
{
	char sql[192], key[64], value[64], text[128];
	int r;

	(void)snprintf(key, sizeof(key), "persisted_%s", name);
	if (!fence_record_get(record, key, value, sizeof(value)))
		return 0;
	(void)snprintf(sql, sizeof(sql), "SELECT VARIABLE_VALUE FROM performance_schema.persisted_variables WHERE VARIABLE_NAME = '%s'", name);
	r = my_value(m, sql, NULL, value, sizeof(value), err);
	(void)snprintf(text, sizeof(text), "%s is not persisted as ON", name);
	if (r == 0 && !fence_is_on(value))
		differs(out, text);
	return r;
}

/* Is everything that the record names as it has to be? */
static int look(struct my *m, const char *record, struct snap_error *err)
{
	struct vbuf out = VBUF_INIT;
	char path[1024];
	int r = look_variable(m, m->mariadb ? "read_only" : "super_read_only", true, &out, err);

	if (r == 0)
		r = look_variable(m, "event_scheduler", false, &out, err);
	if (r == 0 && !m->mariadb)
		r = look_persisted(m, record, "super_read_only", &out, err);
	if (r == 0 && !m->mariadb)
		r = look_persisted(m, record, "read_only", &out, err);
	if (r == 0 && fence_record_get(record, "include", path, sizeof(path)) && !fence_include_there(path)) {
		differs(&out, path);
		vbuf_puts(&out, " is gone");
	}
	if (r == 0 && (out.len || vbuf_error(&out)))
		r = snap_error_set(err, -ESTALE, "fence: it is not as it was put up: %s", vbuf_text(&out));
	vbuf_free(&out);
	return r;
}

int fence_verify(struct my *m, const char *record, struct snap_error *err)
{
	int r;

	if (fence_record_state(record) != FENCE_ON)
		return snap_error_set(err, -ESTALE, "fence: it is %s", *record ? "only half up" : "off");
	r = my_reach(m, err);
	if (r == 0)
		r = fence_same_server(m, record, err);
	return r < 0 ? r : look(m, record, err);
}

/* ---- on ---- */

static int save(struct fence_run *f, struct snap_error *err)
{
	int r = vbuf_error(f->record);

	if (r < 0)
		return snap_error_set(err, r, "fence: record: out of memory");
	r = f->o->record(f->o->arg, vbuf_text(f->record), err);
	f->saved = f->saved || r == 0;
	FAULT("fence.recorded");
	return r;
}

static int note_old(struct fence_run *f, const char *variable, struct snap_error *err)
{
	char value[64];
	int r = my_variable(f->m, variable, value, sizeof(value), err);

	if (r == 0 && *value)
		fence_record_add(f->record, variable, value);
	return r;
}

/* "persisted_NAME VALUE", "-" when nothing is persisted. */
static int note_persisted(struct fence_run *f, const char *variable, struct snap_error *err)
{
	char sql[192], key[64], value[64];
	int r;

	(void)snprintf(sql, sizeof(sql), "SELECT VARIABLE_VALUE FROM performance_schema.persisted_variables WHERE VARIABLE_NAME = '%s'",
		       variable);
	(void)snprintf(key, sizeof(key), "persisted_%s", variable);
	r = my_value(f->m, sql, NULL, value, sizeof(value), err);
	if (r == 0)
		fence_record_add(f->record, key, *value ? value : "-");
	if (r == -EACCES) {
		snap_error_clear(err);
		return snap_error_set(err, r, "fence: read what is persisted: GRANT SELECT ON performance_schema.* TO the account of stillfs");
	}
	return r;
}

/* A statement that waits behind LOCK TABLES of sessions, which are to be ended anyway. */
static int set_past_locks(struct fence_run *f, const char *sql, struct snap_error *err)
{
	struct snap_error why;
	char who[128] = "";
	unsigned left;
	int r;

	for (;;) {
		why = (struct snap_error){ 0 };
		r = my_exec(f->m, sql, "make the server read-only", &why);
		if (r == 0)
			break;
		if (r != -EAGAIN)
			return snap_error_set(err, r, "fence: %s", why.msg);
		if (f->o->cancelled && f->o->cancelled(f->o->arg))
			return snap_error_set(err, -ECANCELED, "fence: given up before the server was read-only");
		if (clock_boot_ns() >= f->end_ns)
			return snap_error_set(err, -EAGAIN, "fence: the server does not become read-only, somebody holds LOCK TABLES or a "
							    "global read lock; end that session (or leave it out of fence.allow) and try again");
		f->limit = 0;
		r = fence_sessions_once(f, &left, who, err);
		if (r < 0)
			return r;
	}
	f->limit = 0; /* whoever is there now may have begun before */
	FAULT("fence.set");
	return 0;
}

static int on_mysql(struct fence_run *f, struct snap_error *err)
{
	const char *verb = "GLOBAL";
	char sql[96], value[16] = "";
	int r = 0;

	if (f->o->persist) {
		r = my_value(f->m, "SELECT @@GLOBAL.persisted_globals_load", NULL, value, sizeof(value), err);
		if (r == 0 && fence_is_on(value))
			verb = "PERSIST";
		else if (r == 0 && f->o->note)
			f->o->note(f->o->arg, "fence: persisted_globals_load is off on this server: the fence does not outlive a restart of it "
					      "by itself; put super_read_only=ON into its configuration");
	}
	for (int i = 0; r == 0 && fence_mysql_vars[i]; i++) {
		r = note_old(f, fence_mysql_vars[i], err);
		if (r == 0 && strcmp(verb, "PERSIST") == 0)
			r = note_persisted(f, fence_mysql_vars[i], err);
	}
	if (r == 0)
		r = save(f, err);
	if (r == 0 && fence_record_get(vbuf_text(f->record), "event_scheduler", value, sizeof(value)) &&
	    strcmp(value, "DISABLED") != 0) {
		(void)snprintf(sql, sizeof(sql), "SET %s event_scheduler=OFF", verb);
		r = my_exec(f->m, sql, "fence: stop the event scheduler", err);
		FAULT("fence.scheduler");
	}
	(void)snprintf(sql, sizeof(sql), "SET %s super_read_only=ON", verb);
	if (r == 0)
		r = set_past_locks(f, sql, err);
	/* else a persisted read_only=OFF would clear it at the start */
	if (r == 0 && strcmp(verb, "PERSIST") == 0)
		r = my_exec(f->m, "SET PERSIST read_only=ON", "fence: persist read_only", err);
	return r;
}

static int on_mariadb(struct fence_run *f, struct snap_error *err)
{
	char value[64] = "", path[1024], old[1024];
	int r = my_variable(f->m, "event_scheduler", value, sizeof(value), err);

	if (r == 0 && f->o->persist) {
		if (!*f->o->include_dir)
			return snap_error_set(err, -EINVAL, "fence: MariaDB persists nothing by SQL: set fence.mariadb_include=DIR to a directory "
							    "that its configuration includes, or fence.persist=no for a fence that a "
							    "restart of the server opens");
		r = fence_include_path(f->o->include_dir, path, sizeof(path), err);
		if (r == 0 && fence_record_get(vbuf_text(f->record), "include", old, sizeof(old)))
			(void)snprintf(path, sizeof(path), "%s", old);
		else if (r == 0)
			fence_record_add(f->record, "include", path);
	}
	if (r == 0 && strcmp(value, "ON") == 0)
		fence_record_add(f->record, "event_scheduler", value);
	if (r == 0)
		r = note_old(f, "read_only", err);
	if (r == 0)
		r = save(f, err);
	if (r == 0 && f->o->persist)
		r = fence_include_write(path, strcmp(value, "DISABLED") != 0, err);
	FAULT("fence.included");
	if (r == 0 && strcmp(value, "ON") == 0)
		r = my_exec(f->m, "SET GLOBAL event_scheduler=OFF", "fence: stop the event scheduler", err);
	FAULT("fence.scheduler");
	return r < 0 ? r : set_past_locks(f, "SET GLOBAL read_only=ON", err);
}

/* The connection stands, and the record is this server's. */
static int put_up(struct fence_run *f, struct snap_error *err)
{
	char id[512];
	int r = identity(f->m, id, sizeof(id), err);

	fence_record_add(f->record, "server", id);
	if (r == 0)
		r = f->m->mariadb ? on_mariadb(f, err) : on_mysql(f, err);
	if (r == 0)
		r = fence_sessions_end(f, err);
	FAULT("fence.ended");
	if (r == 0)
		r = fence_xa_left(f->m, f->o, err);
	if (r == 0)
		r = look(f->m, vbuf_text(f->record), err);
	if (r < 0)
		return r;
	fence_record_add(f->record, "done", "yes");
	return save(f, err);
}

int fence_on(struct my *m, const struct fence_opts *o, struct vbuf *record, struct snap_error *err)
{
	struct fence_run f = { .m = m, .o = o, .record = record, .end_ns = clock_boot_ns() + o->max_ms * NS_PER_MS };
	bool fresh = fence_record_state(vbuf_text(record)) == FENCE_OFF;
	struct snap_error who = { 0 };
	struct vbuf found = VBUF_INIT;
	int r = preflight(m, o, false, &found, fresh ? err : &who);

	if (r == -EPERM && !fresh) { /* a fence that was up is not left down for that */
		r = 0;
		if (o->note)
			o->note(o->arg, who.msg);
	} else if (r < 0 && !fresh) {
		r = snap_error_set(err, r, "%s", who.msg);
	}
	if (r == 0)
		r = fence_same_server(m, vbuf_text(record), err);
	if (r == 0) { /* what is put up again may fail half-way too; the first save has it on disk */
		fence_record_drop(record, "done");
		r = put_up(&f, err);
	}
	if (r < 0 && fresh && !f.saved)
		vbuf_free(record);
	free(f.ended);
	vbuf_free(&found);
	return r;
}
