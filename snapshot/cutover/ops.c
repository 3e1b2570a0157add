/* snapshot/cutover/ops.c - the operations of the steps (steps.h) over SQL. See tool.h.
 * Owns:      nothing; the fences are ops_fence.c's. Called by: steps.c.
 * Blocks:    each statement up to --timeout, a fence up to its own limit. Every operation connects anew when its connection
 *            is dead, and never sends a statement twice by itself. Errors: -errno with the sentence. */
#include "snapshot/cutover/tool.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GONE_MS 5000u

static int op_note(void *arg, const char *step, const char *text, struct snap_error *err)
{
	struct cut *c = arg;
	int r = cutlog_add(c->log, step, text, err);

	tool_say(r < 0 ? "%s %.400s (not written down)" : "%s %.400s", step, text);
	return r;
}

static int op_fence(void *arg, struct snap_error *err)
{
	struct cut *c = arg;

	return ops_fence_up(c, &c->a, true, err);
}

static int op_unfence(void *arg, struct snap_error *err)
{
	struct cut *c = arg;
	bool yes = false;
	int r = ops_fence_down(c, &c->a, err);

	r = r < 0 ? r : facts_writable(c->a.m, &yes, err);
	if (r == 0 && !yes)
		r = snap_error_set(err, -EIO, "A is read-only although its fence was taken away: it was so before; SET GLOBAL read_only=OFF there "
					      "if it is to take writes");
	return r;
}

static int op_final(void *arg, struct vbuf *set, struct snap_error *err)
{
	struct gtid_set *all = NULL, *pos = NULL;
	struct cut *c = arg;
	int r = side_reach(&c->a, &c->o, err);

	r = r < 0 ? r : facts_executed(c->a.m, &all, &pos, err);
	if (r == 0)
		gtid_print(all, set);
	vbuf_free(&c->a_slave_pos);
	if (r == 0 && pos)
		gtid_print(pos, &c->a_slave_pos);
	gtid_free(all);
	gtid_free(pos);
	return r < 0 ? r : vbuf_error(set);
}

/* What `has` lacks of `all`, and the other way round, without what is older than a replica's beginning. */
static int differences(struct cut *c, const struct gtid_set *all, const struct gtid_set *has, const struct gtid_set *pos,
		       struct gtid_set **missing, struct gtid_set **extra, struct snap_error *err)
{
	struct gtid_set *a_pos = c->b.m->mariadb ? gtid_parse(GTID_MARIADB, vbuf_text(&c->a_slave_pos), err) : NULL;

	*missing = gtid_subtract(all, has, err);
	*extra = *missing ? gtid_subtract(has, all, err) : NULL;
	if (*extra && pos && c->a.strict)
		gtid_drop_before(*missing, pos, all);
	if (*extra && a_pos && c->b.strict)
		gtid_drop_before(*extra, a_pos, has);
	gtid_free(a_pos);
	return *extra ? 0 : err->code;
}

static int op_compare(void *arg, const char *set, bool *behind, struct snap_error *err)
{
	struct gtid_set *all = NULL, *has = NULL, *pos = NULL, *missing = NULL, *extra = NULL;
	struct vbuf t = VBUF_INIT;
	struct cut *c = arg;
	int r = c->b.m && c->b.m->c ? 0 : side_reach(&c->b, &c->o, err); /* asked often: a dead connection says so itself */

	if (r == 0) {
		all = gtid_parse(c->b.m->mariadb ? GTID_MARIADB : GTID_MYSQL, set, err);
		r = all ? facts_executed(c->b.m, &has, &pos, err) : err->code;
	}
	r = r < 0 ? r : differences(c, all, has, pos, &missing, &extra, err);
	*behind = r < 0 || !gtid_empty(missing);
	if (r == 0 && !gtid_empty(extra)) {
		gtid_print(extra, &t);
		r = snap_error_set(err, -EEXIST, "B has executed what A has not: %.200s", vbuf_text(&t));
		vbuf_free(&t);
	}
	gtid_free(all);
	gtid_free(has);
	gtid_free(pos);
	gtid_free(missing);
	gtid_free(extra);
	return r;
}

static int op_confirm(void *arg, const char *set, struct snap_error *err)
{
	struct gtid_set *now = NULL, *then = NULL, *more = NULL;
	struct vbuf t = VBUF_INIT;
	struct cut *c = arg;
	int r = ops_fence_stands(c, &c->a, err);

	if (r == -ESTALE)
		r = -EPERM;
	if (r < 0 || !set)
		return r;
	r = facts_executed(c->a.m, &now, NULL, err);
	then = r == 0 ? gtid_parse(c->a.m->mariadb ? GTID_MARIADB : GTID_MYSQL, set, err) : NULL;
	more = then ? gtid_subtract(now, then, err) : NULL;
	r = more ? 0 : err->code;
	if (r == 0 && !gtid_empty(more)) {
		gtid_print(more, &t);
		r = snap_error_set(err, -EPERM, "A has executed more although it was fenced: %.200s; who wrote that?", vbuf_text(&t));
		vbuf_free(&t);
	}
	gtid_free(now);
	gtid_free(then);
	gtid_free(more);
	return r;
}

/* With it a resolve ends a statement that is still on its way. */
static int note_session(struct cut *c, struct snap_error *err)
{
	char text[40] = "";
	int r = my_value(c->b.m, "SELECT CONNECTION_ID()", NULL, text, sizeof(text), err);

	return r < 0 ? r : cutlog_add(c->log, "connection", text, err);
}

static int op_open(void *arg, struct snap_error *err)
{
	struct cut *c = arg;
	const char *sql;
	int r = side_reach(&c->b, &c->o, err);

	r = r < 0 ? r : note_session(c, err);
	FAULT("cut.connection");
	r = r < 0 ? r : ops_fence_down(c, &c->b, err); /* of an earlier cut-over the other way */
	if (r == 0 && *c->b.control) /* it is another one since */
		r = note_session(c, err);
	sql = c->b.m->mariadb || c->b.m->version < 80000 ? "SET GLOBAL read_only=OFF" :
							   "SET PERSIST super_read_only=OFF, PERSIST read_only=OFF";
	return r < 0 ? r : my_exec(c->b.m, sql, "make B writable", err);
}

static int op_is_open(void *arg, bool *yes, struct snap_error *err)
{
	struct cut *c = arg;
	int r = side_reach(&c->b, &c->o, err);

	return r < 0 ? r : facts_writable(c->b.m, yes, err);
}

/* A session of ours that a lost answer left behind: its statement must not come after what is done now. */
static int end_session(struct cut *c, const char *id, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + GONE_MS * NS_PER_MS;
	const struct timespec pause = { .tv_nsec = 20000000 };
	struct snap_error ignored = { 0 };
	char sql[200], kill_sql[64], there[8];
	int r;

	(void)snprintf(sql, sizeof(sql), "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = %.20s AND ID <> CONNECTION_ID() AND USER = "
					 "SUBSTRING_INDEX(USER(), '@', 1)", id);
	(void)snprintf(kill_sql, sizeof(kill_sql), "KILL %.20s", id);
	for (;;) {
		there[0] = '\0';
		r = my_value(c->b.m, sql, NULL, there, sizeof(there), err);
		if (r < 0 || !*there)
			return r;
		if (clock_boot_ns() >= end)
			return snap_error_set(err, -ETIMEDOUT, "B: our session %.20s, which was to make it writable, does not end: KILL it", id);
		snap_error_clear(&ignored);
		(void)my_exec(c->b.m, kill_sql, "end a session of ours", &ignored);
		(void)nanosleep(&pause, NULL);
	}
}

static int op_shut(void *arg, struct snap_error *err)
{
	struct cut *c = arg;
	int r = side_reach(&c->b, &c->o, err);

	for (size_t i = 0; r == 0 && i < cutlog_lines(c->log); i++)
		if (strcmp(cutlog_line(c->log, i).step, "connection") == 0)
			r = end_session(c, cutlog_line(c->log, i).text, err); /* digits: the line's checksum is ours */
	r = r < 0 ? r : ops_fence_up(c, &c->b, false, err);
	r = r < 0 ? r : ops_fence_stands(c, &c->b, err);
	return r < 0 || !*c->b.control ? r : control_retire(c, &c->b, err); /* as a later cut-over is to know whose fence it is */
}

static int op_extra(void *arg, struct snap_error *err)
{
	struct gtid_set *a = NULL, *b = NULL, *pos = NULL, *more = NULL;
	struct vbuf t = VBUF_INIT;
	struct cut *c = arg;
	int r = side_reach(&c->a, &c->o, err);

	r = r < 0 ? r : side_reach(&c->b, &c->o, err);
	r = r < 0 ? r : facts_executed(c->b.m, &b, NULL, err);
	r = r < 0 ? r : facts_executed(c->a.m, &a, &pos, err);
	more = r == 0 ? gtid_subtract(b, a, err) : NULL;
	if (r == 0 && !more)
		r = err->code;
	if (r == 0 && pos && c->b.strict)
		gtid_drop_before(more, pos, b);
	if (r == 0 && !gtid_empty(more)) {
		gtid_print(more, &t);
		r = snap_error_set(err, -EEXIST, "B has taken writes that A has not: %.160s; bring them to A (let it replicate from B), or "
						 "--lose them", vbuf_text(&t));
		vbuf_free(&t);
	}
	gtid_free(a);
	gtid_free(b);
	gtid_free(pos);
	gtid_free(more);
	return r;
}

static int op_hook(void *arg, struct snap_error *err)
{
	return hook_run(arg, err);
}

/* Its fence stays up, and its record with it; a stillfs marks it itself. */
static int op_retire(void *arg, struct snap_error *err)
{
	struct cut *c = arg;
	struct facts b = { .grants = VBUF_INIT };
	struct link l = { 0 };
	int r = ops_fence_stands(c, &c->a, err);

	if (r == -ESTALE) { /* it was restarted: up again */
		snap_error_clear(err);
		r = ops_fence_up(c, &c->a, false, err);
	}
	if (r == 0 && *c->a.control)
		r = control_retire(c, &c->a, err);
	r = r < 0 ? r : side_reach(&c->b, &c->o, err);
	r = r < 0 ? r : facts_read(&c->b, &b, err);
	r = r < 0 ? r : facts_link(c->a.m, &b, &l, err);
	if (r == 0)
		r = cutlog_add(c->log, "retired", !l.there ? "A does not follow B" : l.io && l.sql ? "A follows B" : "A's channel from B does not run",
			       err);
	facts_free(&b);
	return r;
}

static bool op_cancelled(void *arg)
{
	return tool_stop;
}

static uint64_t op_now(void *arg)
{
	return clock_boot_ns() / NS_PER_MS;
}

static void op_pause(void *arg, uint32_t ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	(void)nanosleep(&t, NULL);
}

const struct steps_ops ops_sql = {
	.note = op_note, .fence = op_fence, .unfence = op_unfence, .final = op_final, .compare = op_compare, .confirm = op_confirm,
	.open = op_open, .is_open = op_is_open, .shut = op_shut, .extra = op_extra, .hook = op_hook, .retire = op_retire,
	.cancelled = op_cancelled, .now_ms = op_now, .pause = op_pause,
};
