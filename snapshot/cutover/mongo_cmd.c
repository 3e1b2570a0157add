/* snapshot/cutover/mongo_cmd.c - the commands of stillfs-cutover for a MongoDB replica set: journal, hook and what the operator
 * is told around mongo.h. The set sees to it that there is one primary, so nothing is ever uncertain here but who it is, and
 * that can be asked at any time: resume and abort look, and go on from what they see.
 * Called by: main.c. Exit codes as there. */
#include "snapshot/cutover/args.h"
#include "snapshot/cutover/mongo.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ELECT_S 20 /* the default election timeout of a set is 10 s */

static int note(void *c, const char *step, const char *text, struct snap_error *err)
{
	return cutlog_add(((struct cut *)c)->log, step, text, err);
}

static bool cancelled(void *c)
{
	(void)c;
	return tool_stop != 0;
}

static struct mongo_cut plan(struct cut *c)
{
	return (struct mongo_cut){ .from = c->a.file, .to = c->b.file, .max_lag_s = c->o.max_lag_s,
				   .catch_up_s = c->o.catch_up_ms / 1000, .elect_s = ELECT_S, .note = note, .cancelled = cancelled, .c = c };
}

static void end(struct cut *c, const char *text)
{
	struct snap_error why = { 0 };

	if (cutlog_add(c->log, "end", text, &why) < 0)
		tool_say("stillctl: %s", why.msg);
}

/* The named member is the primary: the hook is due, once. */
static int arrived(struct cut *c, const struct mongo_cut *m, struct snap_error *err)
{
	(void)snprintf(c->a.host, sizeof(c->a.host), "%s", m->from_host);
	(void)snprintf(c->b.host, sizeof(c->b.host), "%s", m->to_host);
	FAULT("mongo.hook");
	if (!c->o.skip_hook && hook_run(c, err) < 0) {
		(void)cutlog_add(c->log, "hook_failed", err->msg, &(struct snap_error){ 0 });
		tool_say("stillctl: %s is the primary, but: %s; then stillctl cutover resume (--skip-hook: without the hook)", m->to_host,
			 err->msg);
		return 4;
	}
	end(c, "done");
	(void)printf("cutover %u done: %s is the primary of the set, %s follows it\n", cutlog_id(c->log), m->to_host, m->from_host);
	return 0;
}

static int tell(struct cut *c, const struct mongo_cut *m, enum mongo_outcome o, struct snap_error *err)
{
	switch (o) {
	case MONGO_DONE:
		return arrived(c, m, err);
	case MONGO_REFUSED:
		tool_say("stillctl: nothing was changed: %s", err->msg);
		return 1;
	case MONGO_STAYED:
		tool_say("stillctl: given up: %s", err->msg);
		return 1;
	case MONGO_OTHER:
		tool_say("stillctl: %s", err->msg);
		return 3;
	case MONGO_NONE:
	default:
		tool_say("stillctl: %s; then stillctl cutover resume", err->msg);
		return 3;
	}
}

static int run(struct cut *c, struct snap_error *err)
{
	struct mongo_cut m = plan(c);
	struct vbuf out = VBUF_INIT;
	enum mongo_outcome o;
	int r;

	if (!cutlog_ended(c->log)) { /* what the set says now may be its work */
		snap_error_set(err, -EEXIST, "cut-over %u has not ended: stillctl cutover resume, or abort", cutlog_id(c->log));
		return tell(c, &m, MONGO_REFUSED, err);
	}
	r = mongo_cut_check(&m, &out, err);
	tool_findings(&out, false);
	r = r < 0 ? r : hook_check(c->o.hook, err);
	if (r < 0)
		return tell(c, &m, MONGO_REFUSED, err);
	args_put(c, &out);
	r = vbuf_error(&out);
	r = r < 0 ? snap_error_set(err, r, "out of memory") : cutlog_begin(c->log, vbuf_text(&out), err);
	vbuf_free(&out);
	if (r < 0)
		return tell(c, &m, MONGO_REFUSED, err);
	FAULT("mongo.begun");
	o = mongo_cut_run(&m, &out, err);
	vbuf_free(&out);
	if (o == MONGO_REFUSED) /* what the check found has changed since */
		end(c, err->msg);
	return tell(c, &m, o, err);
}

/* After a run that did not come to its end. A primary that was asked to step down may still be waiting for a secondary. */
static int go_on(struct cut *c, const struct args *a, struct snap_error *err)
{
	struct mongo_cut m = plan(c);
	bool sent = cutlog_last(c->log, "sending") && !cutlog_last(c->log, "open");
	enum mongo_outcome o;

	if (sent)
		tool_say("stillctl: looking for up to %u s who becomes the primary", m.catch_up_s);
	o = mongo_cut_look(&m, sent ? m.catch_up_s : 0, err);

	if (a->command == CMD_ABORT && o == MONGO_DONE) {
		tool_say("stillctl: %s is the primary already: end it with stillctl cutover resume, or cut over the other way", m.to_host);
		return 4;
	}
	if (o == MONGO_DONE && !cutlog_last(c->log, "open") && cutlog_add(c->log, "open", m.to_host, err) < 0) {
		tool_say("stillctl: %s", err->msg);
		return 4;
	}
	if (o == MONGO_STAYED || o == MONGO_OTHER)
		end(c, err->msg);
	if (a->command == CMD_ABORT && o == MONGO_STAYED)
		return printf("cutover %u ended: %s\n", cutlog_id(c->log), err->msg) < 0;
	return tell(c, &m, o, err);
}

static int status(struct cut *c, struct snap_error *err)
{
	struct mongo_cut m = plan(c);
	enum mongo_outcome o;

	tool_journal(c, cutlog_ended(c->log) ? "ended" : "begun");
	o = mongo_cut_look(&m, 0, err);
	(void)printf("primary %s\n", o == MONGO_DONE ? m.to_host : o == MONGO_STAYED ? m.from_host : err->msg);
	return 0;
}

int mongo_command(struct cut *c, const struct args *a, struct snap_error *err)
{
	struct mongo_cut m = plan(c);
	struct vbuf out = VBUF_INIT;
	int r;

	if (!mongo_cut_is_uri(c->b.file)) {
		tool_say("stillctl: cutover: --from names a MongoDB, --to does not");
		return 2;
	}
	switch (a->command) {
	case CMD_CHECK:
		r = mongo_cut_check(&m, &out, err);
		tool_findings(&out, true);
		if (r < 0)
			tool_say("stillctl: %s", err->msg);
		return r < 0 ? 1 : 0;
	case CMD_RUN:
		return run(c, err);
	case CMD_STATUS:
		return status(c, err);
	case CMD_RESOLVE:
	case CMD_REOPEN:
		tool_say("stillctl: cutover: a replica set decides by itself who takes writes; resume or abort");
		return 1;
	case CMD_RESUME:
	case CMD_ABORT:
	default:
		if (!cutlog_ended(c->log))
			return go_on(c, a, err);
		tool_say("stillctl: no cut-over is under way in %s", c->o.journal);
		return 1;
	}
}
