/* snapshot/hooks.c - the coordinator that runs the operator's executables: hook.pre before the lock, hook.locked
 * under it, hook.post when all is over. For engines that stillfs does not know.
 * Owns:      one process at a time, in a process group of its own; killed with its group at its deadline.
 * Called by: coord_group.c, on the database thread; sever from any.
 * Journal:   sets whose hook.post is due, a line each, so that it runs also after our own death; the oldest first.
 * Blocks:    up to hook.timeout, and for hook.locked up to a second, which is part of lock_ms.
 * Errors:    the hook's last line on stderr, and how it ended. Exit code 75 (EX_TEMPFAIL) is -EAGAIN. */
#include "snapshot/hooks.h"

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/journal.h"
#include "snapshot/program.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCKED_MS 1000u
#define OUTPUT_MAX 4096
#define POSTS_MAX 16u /* sets whose hook.post is due: more are those of a hook that fails each time */
#define ERRORS_MAX 1024
#define EX_TEMPFAIL_CODE 75

struct hooks {
	const struct door *d;
	_Atomic bool severed;
	char set[DOOR_NAME_MAX + 1];
	bool post_due;
	struct vbuf earlier; /* between prepare and finish: lines of sets before this one */
};

/* One call of a hook. */
struct call {
	struct hooks *h;
	const char *key, *word; /* hook.pre, pre */
	const char *set, *result;
	uint32_t max_ms;
	char out[OUTPUT_MAX], errs[ERRORS_MAX];
	size_t out_len, errs_len;
	bool cut; /* it said more than out holds */
};

/* ---- running one ---- */

static char *env_of(const char *key, const char *value)
{
	struct vbuf b = VBUF_INIT;
	char *text;

	vbuf_printf(&b, "%s=%s", key, value);
	text = strdup(vbuf_error(&b) ? "" : vbuf_text(&b));
	vbuf_free(&b);
	return text;
}

/* A list with newlines between, as pairs of door. */
static char *env_dirs(const char *key, const struct door *d, bool backing)
{
	struct vbuf b = VBUF_INIT;
	char *text;

	for (unsigned i = 0; i < d->n_pairs; i++)
		vbuf_printf(&b, "%s%s", i ? "\n" : "", backing ? d->pairs[i].backing : d->pairs[i].mountpoint);
	text = env_of(key, vbuf_text(&b));
	vbuf_free(&b);
	return text;
}

static int keep(void *arg, bool errs, const char *text, size_t n)
{
	struct call *c = arg;
	size_t room = sizeof(c->out) - 1 - c->out_len, part = n < room ? n : room;

	if (errs) {
		program_keep_end(c->errs, sizeof(c->errs), &c->errs_len, text, n);
		return 0;
	}
	memcpy(c->out + c->out_len, text, part); /* what is too much is dropped: of hook.locked alone it is asked for */
	c->cut |= part < n;
	c->out_len += part;
	c->out[c->out_len] = '\0';
	return 0;
}

static int why(void *arg)
{
	const struct call *c = arg;

	return atomic_load(&c->h->severed) ? -ECONNABORTED : 0;
}

static int run_hook(struct hooks *h, struct call *c, struct snap_error *err)
{
	const char *path = conf_str(h->d->conf, c->key), *said;
	char *argv[] = { (char *)(uintptr_t)path, (char *)(uintptr_t)c->word, NULL };
	char *env[] = { env_of("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
			env_of("STILLFS_HOOK", c->word),
			env_of("STILLFS_NAME", h->d->name),
			env_of("STILLFS_SET", c->set),
			env_of("STILLFS_RESULT", c->result),
			env_dirs("STILLFS_MOUNTPOINTS", h->d, false),
			env_dirs("STILLFS_BACKINGS", h->d, true),
			NULL };
	struct program p = { .path = path, .argv = argv, .env = env, .in = -1, .why = why, .said = keep, .arg = c,
			     .deadline_ns = clock_boot_ns() + c->max_ms * NS_PER_MS };
	int status, r = 0;

	c->h = h;
	if (*path)
		r = program_run(&p);
	for (int i = 0; env[i]; i++)
		free(env[i]);
	if (!*path)
		return 0;
	if (!p.ran)
		return snap_error_set(err, r, "%s: run %s: %s", c->key, path, strerror(-r));
	status = p.status;
	said = program_last_line(c->errs);
	if (r == -ETIMEDOUT)
		return snap_error_set(err, r, "%s: %s had not ended after %u ms and was killed", c->key, path, c->max_ms);
	if (r < 0)
		return snap_error_set(err, r, "%s: %s was killed: the run was given up", c->key, path);
	if (WIFSIGNALED(status))
		return snap_error_set(err, -EIO, "%s: %s was ended by signal %d", c->key, path, WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return snap_error_set(err, WEXITSTATUS(status) == EX_TEMPFAIL_CODE ? -EAGAIN : -EIO,
				      "%s: %s ended with code %d%s%s", c->key, path, WEXITSTATUS(status),
				      *said ? ": " : "", said);
	return 0;
}

/* ---- the contract ---- */

static void *hook_open(const struct door *d, struct snap_error *err)
{
	struct hooks *h = calloc(1, sizeof(*h));

	if (!h)
		snap_error_set(err, -ENOMEM, "hooks: out of memory");
	else
		h->d = d;
	return h;
}

/* As root runs it, nobody else may be able to change it. */
static int check(struct hooks *h, const char *key, struct snap_error *err)
{
	const char *path = conf_str(h->d->conf, key);
	struct stat st;

	if (!*path)
		return 0;
	if (stat(path, &st) < 0)
		return snap_error_set(err, -errno, "%s: %s: %s", key, path, strerror(errno));
	if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
		return snap_error_set(err, -EACCES, "%s: %s is no executable file: chmod +x it", key, path);
	if (st.st_uid != 0 || st.st_mode & 022)
		return snap_error_set(err, -EPERM, "%s: %s can be written by others than root, who runs it: chown root and "
						   "chmod go-w it", key, path);
	return 0;
}

static int hook_preflight(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct hooks *h = self;
	int r = check(h, "hook.pre", err);

	atomic_store(&h->severed, false);
	if (r == 0)
		r = check(h, "hook.locked", err);
	if (r == 0)
		r = check(h, "hook.post", err);
	return r;
}

static int hook_examine(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	static const char *const keys[] = { "hook.pre", "hook.locked", "hook.post" };
	struct hooks *h = self;
	struct snap_error why;
	int bad = 0;

	for (int i = 0; i < 3; i++) {
		why = (struct snap_error){ 0 };
		if (check(h, keys[i], &why) < 0) {
			vbuf_printf(out, "bad %s\n", why.msg);
			bad++;
		} else if (*conf_str(h->d->conf, keys[i])) {
			vbuf_printf(out, "ok %s: %s\n", keys[i], conf_str(h->d->conf, keys[i]));
		}
	}
	return bad;
}

static uint32_t limit(const struct hooks *h, uint32_t max_ms)
{
	uint64_t own = conf_num(h->d->conf, "hook.timeout");

	return own < max_ms ? (uint32_t)own : max_ms;
}

static int post(struct hooks *h, const char *set, const char *result, uint32_t max_ms, struct snap_error *err)
{
	struct call c = { .key = "hook.post", .word = "post", .set = set, .result = result, .max_ms = limit(h, max_ms) };

	return run_hook(h, &c, err);
}

/* The journal: lines, and set ("": none). */
static int note(struct hooks *h, const struct vbuf *lines, const char *set, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	vbuf_puts(&b, vbuf_text(lines));
	if (b.len && b.data[b.len - 1] != '\n')
		vbuf_puts(&b, "\n");
	vbuf_puts(&b, set);
	r = vbuf_error(&b) ? snap_error_set(err, -ENOMEM, "hooks: out of memory") :
	    b.len ? journal_put(h->d->conf, "hook", vbuf_text(&b), err) : journal_drop(h->d->conf, "hook", err);
	vbuf_free(&b);
	return r;
}

static void first_line(const struct vbuf *lines, char set[DOOR_NAME_MAX + 1])
{
	size_t n = strcspn(vbuf_text(lines), "\n");

	(void)snprintf(set, DOOR_NAME_MAX + 1, "%.*s", (int)(n < DOOR_NAME_MAX ? n : DOOR_NAME_MAX), vbuf_text(lines));
}

static void cut_first(struct vbuf *lines)
{
	size_t n = strcspn(lines->data, "\n");

	n += lines->data[n] == '\n';
	lines->len -= n;
	memmove(lines->data, lines->data + n, lines->len + 1);
}

/* Earlier sets' turns, in their order, up to the first that fails or the end of the time; what is left of the lines stays in
 * them and in the journal. */
static int post_earlier(struct hooks *h, struct vbuf *lines, uint32_t max_ms, struct snap_error *err)
{
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	char set[DOOR_NAME_MAX + 1];
	int r = 0;

	while (r == 0 && lines->len) {
		uint32_t left_ms = clock_left_ms(end);

		first_line(lines, set);
		if (!left_ms)
			r = snap_error_set(err, -ETIMEDOUT, "hook.post: the turn of %s and of those after it comes later", set);
		else
			r = *set ? post(h, set, "unknown", left_ms, err) : 0;
		if (r == 0) {
			cut_first(lines);
			r = note(h, lines, "", err);
		}
	}
	return r;
}

/* Of a hook that always fails the oldest sets are forgotten. */
static void keep_newest(struct vbuf *lines)
{
	char set[DOOR_NAME_MAX + 1];
	unsigned n = 0;

	for (const char *p = vbuf_text(lines); *p; p++)
		n += *p == '\n' || !p[1];
	for (; n >= POSTS_MAX; n--) {
		first_line(lines, set);
		log_warn("hook.post: %s has been due for too long, and is given up: %u sets after it are due as well", set, n - 1);
		cut_first(lines);
	}
}

static int hook_prepare(void *self, const char *set, uint32_t max_ms, struct snap_error *err)
{
	struct hooks *h = self;
	struct call c = { .key = "hook.pre", .word = "pre", .set = h->set, .result = "", .max_ms = limit(h, max_ms) };
	struct snap_error why = { 0 };
	int r = 0;

	(void)snprintf(h->set, sizeof(h->set), "%s", set);
	vbuf_free(&h->earlier);
	if (*conf_str(h->d->conf, "hook.post")) {
		r = journal_get(h->d->conf, "hook", &h->earlier, err);
		/* no set fails for want of an earlier one's end: that is tried again, and reported, between runs */
		if (r == 0 && post_earlier(h, &h->earlier, limit(h, max_ms), &why) < 0)
			log_warn("%s; it is still due", why.msg);
		keep_newest(&h->earlier);
		if (r == 0)
			r = note(h, &h->earlier, h->set, err);
		if (r < 0)
			return r;
		h->post_due = true;
	}
	return run_hook(h, &c, err);
}

static int hook_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err)
{
	return 0;
}

/* "key value" lines of its output become hook.key lines of the position. */
static int put_lines(char *text, struct vbuf *out, struct snap_error *err)
{
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t key = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_");

		if (key == 0 || line[key] != ' ')
			return snap_error_set(err, -EINVAL, "hook.locked: its output is not lines of KEY VALUE, with keys of "
							    "a-z, 0-9 and _");
		vbuf_printf(out, "hook.%s\n", line);
	}
	return vbuf_error(out);
}

static int hook_position(void *self, uint32_t max_ms, struct vbuf *out, struct snap_error *err)
{
	struct hooks *h = self;
	struct call c = { .key = "hook.locked", .word = "locked", .set = h->set, .result = "",
			  .max_ms = max_ms < LOCKED_MS ? max_ms : LOCKED_MS };
	int r = run_hook(h, &c, err);

	if (r == 0 && c.cut)
		return snap_error_set(err, -EMSGSIZE, "hook.locked: it wrote more than %d bytes, which a position may not have; print less",
				      OUTPUT_MAX - 1);
	return r < 0 ? r : put_lines(c.out, out, err);
}

static int hook_unlock(void *self, uint32_t max_ms, struct snap_error *err)
{
	return 0;
}

static int hook_finish(void *self, int result, uint32_t max_ms, struct snap_error *err)
{
	struct hooks *h = self;
	char text[16] = "ok";
	int r;

	if (!h->post_due)
		return 0;
	h->post_due = false;
	if (result < 0)
		(void)snprintf(text, sizeof(text), "%d", -result);
	atomic_store(&h->severed, false); /* a run that was given up still has its end */
	r = post(h, h->set, text, max_ms, err);
	return r < 0 ? r : note(h, &h->earlier, "", err);
}

static int hook_recover(void *self, uint32_t max_ms, struct snap_error *err)
{
	struct hooks *h = self;
	struct vbuf lines = VBUF_INIT;
	int r = journal_get(h->d->conf, "hook", &lines, err);

	atomic_store(&h->severed, false);
	r = r < 0 ? r : post_earlier(h, &lines, max_ms, err);
	vbuf_free(&lines);
	return r;
}

static void hook_close(void *self)
{
	struct hooks *h = self;

	if (h)
		vbuf_free(&h->earlier);
	free(h);
}

static void hook_sever(void *self)
{
	struct hooks *h = self;

	atomic_store(&h->severed, true);
}

static void hook_status(void *self, struct vbuf *out)
{
}

const struct coord_ops coord_hook = {
	.name = "hook",
	.open = hook_open,
	.close = hook_close,
	.preflight = hook_preflight,
	.lock = hook_lock,
	.position = hook_position,
	.unlock = hook_unlock,
	.sever = hook_sever,
	.status = hook_status,
	.prepare = hook_prepare,
	.finish = hook_finish,
	.recover = hook_recover,
	.examine = hook_examine,
};
