/* snapshot/cutover/ops_fence.c - the fences of both sides, for ops.c. See tool.h.
 * Two ways. A side that is a stillfs (side.control) is fenced by its control file, and the record of that is its daemon's
 * (control.c). Any other is fenced over the connection, and the record is ours: SERVER.fence, by the server's identity, as it
 * outlives the cut-over. The journal says which way a side went, so that a resume does not take the other.
 * Owns:      the files SERVER.fence in the journal's directory. Called by: ops.c.
 * Blocks:    a fence up to --fence-timeout, anything else for a few statements. Errors: -errno with the sentence; -EXDEV the
 *            side was fenced by a stillfs, and is named otherwise now. */
#include "snapshot/cutover/tool.h"
#include "snapshot/catalog.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- records of our own ---- */

static void record_name(const struct side *s, char name[200])
{
	(void)snprintf(name, 200, "%.180s.fence", s->id);
}

static int read_record(struct cut *c, const struct side *s, struct vbuf *out, struct snap_error *err)
{
	char path[720], name[200], buf[1024];
	cleanup_fd int fd = -1;
	ssize_t n;

	record_name(s, name);
	(void)snprintf(path, sizeof(path), "%s/%s", c->o.journal, name);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : snap_error_set(err, -errno, "%s: %s", path, strerror(errno));
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		vbuf_add(out, buf, (size_t)n);
	return n < 0 ? snap_error_set(err, -errno, "%s: %s", path, strerror(errno)) : vbuf_error(out);
}

struct at {
	struct cut *c;
	struct side *s;
};

static int put_record(void *arg, const char *lines, struct snap_error *err)
{
	struct at *at = arg;
	cleanup_fd int dir = open(at->c->o.journal, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[200];
	int r;

	record_name(at->s, name);
	if (dir < 0)
		r = -errno;
	else if (*lines)
		r = catalog_put_file(dir, name, lines);
	else
		r = (unlinkat(dir, name, 0) < 0 && errno != ENOENT) || fsync(dir) < 0 ? -errno : 0;
	return r < 0 ? snap_error_set(err, r, "record of the fence of %s: %s/%s: %s", at->s->word, at->c->o.journal, name, strerror(-r)) : 0;
}

static void ended(void *arg, const struct fence_session *s)
{
	report_session(((struct at *)arg)->c, s);
}

static void say_note(void *arg, const char *sentence)
{
	tool_say("%s: %s", ((struct at *)arg)->s->word, sentence);
}

static bool stop(void *arg)
{
	return tool_stop;
}

static struct fence_opts fence_of(struct at *at)
{
	const struct opts *o = &at->c->o;

	return (struct fence_opts){ .allow = o->allow, .include_dir = o->include_dir, .persist = !o->no_persist, .max_ms = o->fence_ms,
				    .record = put_record, .ended = ended, .note = say_note, .arg = at };
}

/* ---- both ways ---- */

/* By which tree. When the cut-over has ended it is a reopen that asks, whose server may have been either side of it, or none. */
static const char *fenced_by(const struct cut *c, const struct side *s)
{
	const char *servers = cutlog_last(c->log, "servers");
	char a[sizeof(s->id)] = "", b[sizeof(s->id)] = "";

	if (!cutlog_ended(c->log))
		return control_by(c, s->word);
	(void)sscanf(servers ? servers : "", "%159s %159s", a, b);
	return strcmp(s->id, a) == 0 ? control_by(c, "A") : strcmp(s->id, b) == 0 ? control_by(c, "B") : NULL;
}

/* 1: by its control file, 0: over the connection. The side was reached. */
static int way(const struct cut *c, const struct side *s, struct snap_error *err)
{
	const char *by = fenced_by(c, s), *option = cutlog_ended(c->log) ? "server" : *s->word == 'A' ? "from" : "to";

	if (by && strcmp(by, s->control) != 0)
		return snap_error_set(err, -EXDEV, "%s was fenced by the stillfs of %.200s, which keeps it fenced, and is named otherwise now: "
						   "name that stillfs (--%s), or start it", s->word, by, option);
	return *s->control != '\0';
}

int ops_fence_up(struct cut *c, struct side *s, bool may_stop, struct snap_error *err)
{
	struct at at = { c, s };
	struct fence_opts o = fence_of(&at);
	struct vbuf record = VBUF_INIT;
	int r = side_reach(s, &c->o, err), by_control = r < 0 ? r : way(c, s, err);

	r = by_control < 0 ? by_control : r;
	if (by_control > 0) {
		r = control_on(c, s, may_stop, err);
		if (r == 0)
			control_sessions(c, s);
		return r;
	}
	o.cancelled = may_stop ? stop : NULL;
	r = r < 0 ? r : read_record(c, s, &record, err);
	r = r < 0 ? r : fence_on(s->m, &o, &record, err);
	vbuf_free(&record);
	return r;
}

/* An operator's own fence is not for us to take down. */
static int control_down(struct cut *c, struct side *s, struct snap_error *err)
{
	char state[24];
	bool retired;
	int r = control_state(c, s, state, &retired, err);

	if (r == 0 && strcmp(state, "off") != 0 && !retired && !control_by(c, s->word) && !c->o.force)
		return snap_error_set(err, -EPERM, "%s: %s/fence is %s, and no cut-over has put that up: write off there first", s->word,
				      s->control, state);
	return r < 0 ? r : control_off(c, s, err);
}

int ops_fence_down(struct cut *c, struct side *s, struct snap_error *err)
{
	struct at at = { c, s };
	const struct fence_opts o = fence_of(&at);
	struct vbuf record = VBUF_INIT;
	int r = side_reach(s, &c->o, err), by_control = r < 0 ? r : way(c, s, err);

	r = by_control < 0 ? by_control : r;
	if (by_control > 0)
		r = control_down(c, s, err);
	r = r < 0 ? r : side_reach(s, &c->o, err);
	/* one of ours may lie below it, from a time when the side was named by a file: it was put up first */
	r = r < 0 ? r : read_record(c, s, &record, err);
	if (r == 0 && record.len)
		r = fence_off(s->m, &o, &record, err);
	r = r < 0 ? r : put_record(&at, vbuf_text(&record), err);
	vbuf_free(&record);
	return r;
}

int ops_fence_stands(struct cut *c, struct side *s, struct snap_error *err)
{
	struct vbuf record = VBUF_INIT;
	int r = side_reach(s, &c->o, err), by_control = r < 0 ? r : way(c, s, err);

	r = by_control < 0 ? by_control : r;
	if (by_control > 0)
		return control_stands(c, s, err);
	r = r < 0 ? r : read_record(c, s, &record, err);
	r = r < 0 ? r : fence_verify(s->m, vbuf_text(&record), err);
	vbuf_free(&record);
	return r;
}
