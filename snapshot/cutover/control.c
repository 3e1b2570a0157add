/* snapshot/cutover/control.c - the fence of a side that is a stillfs: its control file `fence`. See tool.h.
 * Owns:      a child process for each file of a control tree: a daemon that hangs must not hang a cut-over, and whose
 *            request it has in its hands cannot even be killed. No record of a fence: that is the daemon's, in its own
 *            journal, which also puts it up again after a restart of the server or of itself. The cut-over's journal says
 *            "fence_by SIDE TREE" before the first command is written.
 * Called by: ops_fence.c, check.c, report.c.
 * Blocks:    each command up to --fence-timeout, each file up to --timeout.
 * Errors:    -errno with the sentence: -EPERM the daemon refused; -ETIMEDOUT it is not done, or the daemon does not answer;
 *            -ESTALE the fence does not stand. */
#include "snapshot/cutover/tool.h"
#include "base/await.h"
#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 2u
#define BUSY_MS 20u

/* ---- one file, with a deadline ---- */

/* The child's: async-signal-safe calls only. It keeps neither the journal's lock nor a session. */
static _Noreturn void in_child(const char *path, const char *line, int out)
{
	char buf[4096];
	ssize_t n, done;
	int fd;

	if (dup2(out, 0) < 0 || close_range(1, ~0u, 0) < 0)
		_exit(errno & 255);
	fd = open(path, (*line ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
	n = fd < 0 ? -1 : *line ? write(fd, line, strlen(line)) : read(fd, buf, sizeof(buf));
	while (n > 0 && !*line) {
		for (ssize_t at = 0; at < n; at += done) {
			done = write(0, buf + at, (size_t)(n - at));
			if (done < 0)
				_exit(errno & 255);
		}
		n = read(fd, buf, sizeof(buf));
	}
	if (n < 0 || close(fd) < 0) /* before the pipe's end */
		_exit(errno & 255);
	_exit(0);
}

/* What it says, until it is done. */
static int take_all(int fd, uint64_t end, struct vbuf *out)
{
	struct pollfd at = { .fd = fd, .events = POLLIN };
	char buf[4096];
	ssize_t n = 1;

	while (n > 0) {
		uint64_t now = clock_boot_ns();
		int r = now < end ? poll(&at, 1, (int)((end - now) / NS_PER_MS) + 1) : 0;

		if (r == 0)
			return -ETIMEDOUT;
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r < 0)
			continue;
		n = read(fd, buf, sizeof(buf));
		if (n > 0 && out)
			vbuf_add(out, buf, (size_t)n);
	}
	return n < 0 ? -errno : 0;
}

/* Writes the line, or reads the file ("") into out. */
static int transfer(const struct side *s, const char *name, const char *line, uint32_t max_ms, struct vbuf *out)
{
	static pid_t stuck[2]; /* one process, one caller */
	pid_t *left = &stuck[*s->word == 'B'], pid;
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	sigset_t all, before;
	bool ended = false;
	char path[700];
	int p[2], r;

	if (*left && waitpid(*left, NULL, WNOHANG) == 0)
		return -ETIMEDOUT; /* an earlier call is stuck in there */
	*left = 0;
	(void)snprintf(path, sizeof(path), "%.560s/%.60s", s->control, name);
	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	(void)sigfillset(&all); /* Ctrl-C is for us: the child gets it too, and would cut short what it does */
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		in_child(path, line, p[1]);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	r = pid < 0 ? -errno : 0;
	(void)close(p[1]);
	r = r < 0 ? r : take_all(p[0], end, out);
	(void)close(p[0]);
	r = r < 0 ? r : await_child(pid, end, NULL, &ended);
	if (pid > 0 && !ended) {
		(void)kill(pid, SIGKILL);
		*left = pid;
	}
	return r;
}

int control_read(const struct side *s, const char *name, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	int r = transfer(s, name, "", max_ms, &text);

	r = r < 0 ? r : vbuf_error(&text);
	if (r == 0)
		vbuf_puts(out, vbuf_text(&text));
	vbuf_free(&text);
	return r < 0 ? snap_error_set(err, r, "%s: %s/%s: %s", s->word, s->control, name, r == -ETIMEDOUT ? "the daemon does not answer" :
													       strerror(-r)) : 0;
}

/* The text behind "KEY " in flat-keyed lines; "" when it is not there. */
static const char *value_of(const struct vbuf *text, const char *key, char *buf, size_t cap)
{
	buf[0] = '\0';
	(void)fence_record_get(vbuf_text(text), key, buf, cap);
	return buf;
}

/* ---- the control file fence ---- */

struct seen {
	char state[24], error[300];
	bool retired, checked;
};

static int look(const struct cut *c, const struct side *s, struct seen *seen, struct vbuf *text, struct snap_error *err)
{
	char yes[8];
	int r = control_read(s, "fence", c->o.io_s * 1000, text, err);

	memset(seen, 0, sizeof(*seen));
	if (r < 0)
		return r;
	(void)snprintf(seen->state, sizeof(seen->state), "%.*s", (int)strcspn(vbuf_text(text), "\n"), vbuf_text(text));
	(void)value_of(text, "error", seen->error, sizeof(seen->error));
	seen->retired = strcmp(value_of(text, "retired", yes, sizeof(yes)), "yes") == 0;
	seen->checked = fence_record_get(vbuf_text(text), "check", yes, sizeof(yes));
	return 0;
}

static int look_only(const struct cut *c, const struct side *s, struct seen *seen, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	int r = look(c, s, seen, &text, err);

	vbuf_free(&text);
	return r;
}

static void pause_ms(uint32_t ms)
{
	const struct timespec t = { .tv_nsec = (long)ms * 1000000 };

	(void)nanosleep(&t, NULL);
}

/* Written, or refused; a snapshot before its consistency point is waited for. */
static int command(const struct cut *c, const struct side *s, const char *line, bool may_stop, uint64_t end, struct snap_error *err)
{
	struct vbuf last = VBUF_INIT;
	char why[300];
	int r;

	for (;;) {
		r = transfer(s, "fence", line, c->o.io_s * 1000, NULL);
		if (r != -EBUSY || clock_boot_ns() >= end)
			break;
		if (may_stop && tool_stop)
			return snap_error_set(err, -ECANCELED, "interrupted before %s was fenced", s->word);
		pause_ms(BUSY_MS);
	}
	if (r == 0)
		return 0;
	if (control_read(s, "last_error", c->o.io_s * 1000, &last, &(struct snap_error){ 0 }) < 0 || r == -ETIMEDOUT)
		vbuf_free(&last);
	(void)value_of(&last, "message", why, sizeof(why));
	vbuf_free(&last);
	return snap_error_set(err, r, "%s: write %.10s into %s/fence: %s", s->word, line, s->control, *why ? why : r == -ETIMEDOUT ?
			      "the daemon does not answer" : strerror(-r));
}

static int not_done(const struct side *s, const char *what, const struct seen *seen, struct snap_error *err)
{
	return snap_error_set(err, -ETIMEDOUT, "%s: %s/fence is not %s in time but %s%s%s", s->word, s->control, what, seen->state,
			      *seen->error ? ": " : "", seen->error);
}

const char *control_by(const struct cut *c, const char *word)
{
	const char *tree = NULL;

	for (size_t i = 0; i < cutlog_lines(c->log); i++) {
		const struct cutlog_line l = cutlog_line(c->log, i);

		if (strcmp(l.step, "fence_by") == 0 && strncmp(l.text, word, 1) == 0 && l.text[1] == ' ')
			tree = l.text + 2;
	}
	return tree;
}

static int note_by(struct cut *c, const struct side *s, struct snap_error *err)
{
	char text[700];

	if (control_by(c, s->word))
		return 0;
	(void)snprintf(text, sizeof(text), "%s %s", s->word, s->control);
	return cutlog_add(c->log, "fence_by", text, err);
}

/* Until the control file says so, told by `done`; what: the word for that. */
static int await(const struct cut *c, const struct side *s, bool (*done)(const struct seen *), const char *what, bool may_stop, uint64_t end,
		 struct seen *seen, struct snap_error *err)
{
	for (;;) {
		int r = look_only(c, s, seen, err);

		if (r < 0 || done(seen))
			return r;
		if (may_stop && tool_stop)
			return snap_error_set(err, -ECANCELED, "interrupted while %s was being fenced", s->word);
		if (clock_boot_ns() >= end)
			return not_done(s, what, seen, err);
		pause_ms(POLL_MS);
	}
}

static bool is_off(const struct seen *seen)
{
	return strcmp(seen->state, "off") == 0;
}

static bool is_on_or_refused(const struct seen *seen)
{
	return strcmp(seen->state, "on") == 0 || is_off(seen);
}

static bool is_retired(const struct seen *seen)
{
	return seen->retired;
}

int control_on(struct cut *c, struct side *s, bool may_stop, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + c->o.fence_ms * NS_PER_MS;
	struct seen seen;
	int r;

	side_close(s); /* the daemon ends every session of a client, and is not to name ours */
	r = note_by(c, s, err);
	r = r < 0 ? r : command(c, s, "on\n", may_stop, end, err);
	FAULT("cut.asked");
	r = r < 0 ? r : await(c, s, is_on_or_refused, "on", may_stop, end, &seen, err);
	if (r == 0 && is_off(&seen))
		r = snap_error_set(err, -EPERM, "%s was not fenced: %s", s->word, *seen.error ? seen.error : "somebody wrote off");
	return r;
}

int control_off(struct cut *c, struct side *s, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + c->o.fence_ms * NS_PER_MS;
	struct seen seen;
	int r = look_only(c, s, &seen, err);

	if (r < 0 || is_off(&seen))
		return r;
	side_close(s); /* it may still be going up, and sessions be ended */
	r = command(c, s, "off force\n", false, end, err); /* retired: by whom it is opened is the steps' to decide */
	FAULT("cut.asked_off");
	return r < 0 ? r : await(c, s, is_off, "off", false, end, &seen, err);
}

/* The daemon looks each second; what it says is believed together with the server's own word. */
int control_stands(const struct cut *c, struct side *s, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + c->o.io_s * NS_PER_S;
	struct seen seen;
	bool open = true;
	int r;

	for (;;) {
		r = look_only(c, s, &seen, err);
		if (r < 0 || strcmp(seen.state, "on") == 0)
			break;
		if (strncmp(seen.state, "on", 2) != 0 || strcmp(seen.state, "on lost") == 0 || clock_boot_ns() >= end)
			return snap_error_set(err, -ESTALE, "%s: %s/fence is %s%s%s", s->word, s->control, seen.state, *seen.error ? ": " : "",
					      seen.error);
		pause_ms(BUSY_MS);
	}
	r = r < 0 ? r : facts_writable(s->m, &open, err);
	if (r == 0 && open)
		r = snap_error_set(err, -ESTALE, "%s is not read-only although its stillfs says that it is fenced", s->word);
	return r;
}

int control_retire(struct cut *c, struct side *s, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + c->o.fence_ms * NS_PER_MS;
	struct seen seen;
	int r = look_only(c, s, &seen, err);

	if (r < 0 || seen.retired)
		return r;
	r = command(c, s, "retire\n", false, end, err);
	return r < 0 ? r : await(c, s, is_retired, "retired", false, end, &seen, err);
}

/* Lines "WHO has WHAT" of accounts that could write all the same; none: it can be fenced. */
int control_check(const struct cut *c, struct side *s, struct vbuf *found, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + c->o.fence_ms * NS_PER_MS;
	struct vbuf text = VBUF_INIT;
	struct seen seen;
	size_t n;
	int r = command(c, s, "check\n", false, end, err);

	while (r == 0) {
		vbuf_free(&text);
		r = look(c, s, &seen, &text, err);
		if (r < 0 || seen.checked)
			break;
		if (clock_boot_ns() >= end)
			r = not_done(s, "checked", &seen, err);
		else
			pause_ms(BUSY_MS);
	}
	for (const char *p = vbuf_text(&text); r == 0 && *p; p += n + (p[n] == '\n')) {
		n = strcspn(p, "\n");
		if (n > 6 && strncmp(p, "check ", 6) == 0 && strncmp(p, "check ok\n", 9) != 0) {
			vbuf_add(found, p + 6, n - 6);
			vbuf_puts(found, "\n");
		}
	}
	vbuf_free(&text);
	return r;
}

int control_state(const struct cut *c, const struct side *s, char state[24], bool *retired, struct snap_error *err)
{
	struct seen seen;
	int r = look_only(c, s, &seen, err);

	(void)snprintf(state, 24, "%s", seen.state);
	*retired = seen.retired;
	return r;
}

/* "ended_session USER@HOST program=P db=D", each that the daemon has ended since it is fenced. */
void control_sessions(struct cut *c, const struct side *s)
{
	struct vbuf text = VBUF_INIT;
	struct snap_error ignored = { 0 };

	if (control_read(s, "fence", c->o.io_s * 1000, &text, &ignored) == 0)
		report_sessions(c, vbuf_text(&text));
	vbuf_free(&text);
}
