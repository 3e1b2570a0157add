/* snapshot/verify/verify.c - see verify.h: the queue, the process, its verdict in the set's record. */
#include "snapshot/verify/verify.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "snapshot/prune.h"
#include "snapshot/verify/process.h"
#include "snapshot/verify/verify_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MAX (1u << 20) /* bytes of verify.log that are shown */
#define LOOK_MS 60000u

struct verify {
	pthread_t thread;
	pthread_cond_t work;
	/* under the engine's lock: */
	bool ended; /* the thread */
	struct set *running; /* kept by its `verifying` */
	unsigned percent;
	char detail[200];
	bool cancel;
	struct vbuf left; /* lines of clean_volumes */
	/* the thread's own: */
	uint64_t clean_ns; /* when to look again for volumes that are left */
};

void verify_at(struct engine *e, unsigned percent, const char *detail)
{
	(void)pthread_mutex_lock(&e->lock);
	e->verify->percent = percent;
	(void)snprintf(e->verify->detail, sizeof(e->verify->detail), "%s", detail);
	(void)pthread_mutex_unlock(&e->lock);
}

void verify_wishes(struct engine *e, bool *cancel, bool *stop)
{
	(void)pthread_mutex_lock(&e->lock);
	*cancel = e->verify->cancel;
	*stop = e->stopping;
	(void)pthread_mutex_unlock(&e->lock);
}

static bool on_volumes(const struct engine *e)
{
	return e->prov->features & PROV_VOLUMES;
}

/* ---- the verdict ---- */

/* 0 or -ENOMEM: the record's is as it was. */
static int fill_position(struct set *s, const struct vbuf *found)
{
	static const char unknown[] = "position unknown until verified\n";
	const char *at = strstr(s->position, unknown);
	struct vbuf b = VBUF_INIT;

	int r;

	if (!at || !found->len)
		return 0;
	vbuf_add(&b, s->position, (size_t)(at - s->position));
	vbuf_printf(&b, "%sposition_from verify\n%s", vbuf_text(found), at + sizeof(unknown) - 1);
	r = vbuf_error(&b);
	if (r == 0)
		r = set_text(&s->position, vbuf_text(&b));
	vbuf_free(&b);
	return r;
}

static void record(struct engine *e, struct set *s, struct verdict *v, struct snap_error *err, uint64_t start)
{
	bool known = err->code == 0 && v->word[0];
	char text[SNAP_ERROR_MAX];

	if (!known && !err->code)
		snap_error_set(err, -EIO, "the verifying process ended without a result");
	(void)snprintf(text, sizeof(text), "%s", known ? v->text : err->msg);
	(void)pthread_mutex_lock(&e->lock);
	if (known && strcmp(v->word, "yes") == 0 && fill_position(s, &v->position) < 0) {
		known = false;
		(void)snprintf(text, sizeof(text), "out of memory for the position that was found; verify it again");
	} else if (known && strcmp(v->word, "yes") == 0) {
		s->verified = VERIFIED_YES;
	} else if (known && strcmp(v->word, "files") == 0) {
		s->verified = VERIFIED_FILES;
	} else if (known && strcmp(v->word, "failed") == 0) {
		s->verified = VERIFIED_FAILED;
	} /* else nobody knows: it stays as it was */
	s->verified_at = clock_utc();
	(void)set_text(&s->verified_note, text);
	(void)pthread_mutex_unlock(&e->lock);
	snap_error_clear(err);
	if (!known || strcmp(v->word, "failed") == 0 || strcmp(v->word, "error") == 0) {
		snap_error_set(err, -EIO, "verify %s: %s", s->name, text);
		log_error("%s", err->msg);
		e->door.ops->report(e->door.fs, "verify", err);
		snap_error_clear(err);
	}
	if (engine_save(e, s, err) < 0)
		e->door.ops->report(e->door.fs, "verify", err);
	engine_event(e, s, known && strcmp(v->word, "yes") == 0 ? "verified" : known && strcmp(v->word, "files") == 0 ?
								 "verified_files" : "verify_failed",
		     (double)(clock_boot_ns() - start) / 1e6);
}

static void verify_one(struct engine *e, struct set *s)
{
	struct vbuf order = VBUF_INIT;
	struct verdict v = { .position = VBUF_INIT };
	struct snap_error err = { 0 };
	uint64_t start = clock_boot_ns(), deadline = start + conf_num(e->door.conf, "verify.timeout") * NS_PER_MS;
	bool remote = on_volumes(e);
	struct vspec *place = calloc(1, sizeof(*place));
	int fd = -1, r;
	bool there;
	pid_t pid;

	(void)pthread_mutex_lock(&e->lock);
	there = remote || (place && clean_find_place(e, s, place));
	r = there ? order_make(e, s, &order) : -ENOENT;
	(void)pthread_mutex_unlock(&e->lock);
	engine_event(e, s, "verify", -1);
	if (r < 0)
		snap_error_set(&err, r, "its data: %s", strerror(-r));
	pid = r < 0 ? -1 : process_spawn(&order, remote, &fd, &err);
	if (pid > 0) {
		(void)process_follow(e, pid, fd, deadline, remote, &v, &err);
		(void)close(fd);
		if (!remote)
			clean_set(e, place);
	}
	record(e, s, &v, &err, start);
	vbuf_free(&order);
	vbuf_free(&v.position);
	free(place);
}

/* ---- the thread ---- */

static struct set *next_one(struct engine *e)
{
	struct set *s;

	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
		if (s->verifying)
			return s;
	return NULL;
}

/* Volumes that a verification could not remove, or that it left when it died. Said when it changes. */
static void look_for_left(struct engine *e)
{
	struct vbuf left = VBUF_INIT;
	struct snap_error err = { 0 };
	uint64_t due;
	bool news, foreign;

	(void)pthread_mutex_lock(&e->lock);
	foreign = prune_foreign(e);
	(void)pthread_mutex_unlock(&e->lock);
	if (foreign) { /* the verification may be running, over there */
		e->verify->clean_ns = clock_boot_ns() + LOOK_MS * NS_PER_MS;
		return;
	}
	due = clean_volumes(e, &left);
	(void)pthread_mutex_lock(&e->lock);
	news = left.len && strcmp(vbuf_text(&left), vbuf_text(&e->verify->left)) != 0;
	vbuf_free(&e->verify->left);
	e->verify->left = left;
	if (news)
		snap_error_set(&err, -EBUSY, "verify: %.900s", vbuf_text(&left));
	(void)pthread_mutex_unlock(&e->lock);
	e->verify->clean_ns = due;
	if (!news)
		return;
	log_warn("%s", err.msg);
	e->door.ops->report(e->door.fs, "verify", &err);
}

static void *verify_run(void *arg)
{
	struct engine *e = arg;
	struct set *s;

	(void)pthread_setname_np(pthread_self(), "verify");
	clean_all(e);
	(void)pthread_mutex_lock(&e->lock);
	while (!e->stopping) {
		s = next_one(e);
		if (clock_boot_ns() >= e->verify->clean_ns) {
			(void)pthread_mutex_unlock(&e->lock);
			look_for_left(e);
			(void)pthread_mutex_lock(&e->lock);
			continue;
		}
		if (!s) {
			engine_wait_on(e, &e->verify->work, e->verify->clean_ns, LOOK_MS);
			continue;
		}
		e->verify->running = s;
		e->verify->cancel = false;
		e->verify->percent = 0;
		(void)snprintf(e->verify->detail, sizeof(e->verify->detail), "starting");
		(void)pthread_mutex_unlock(&e->lock);
		verify_one(e, s);
		(void)pthread_mutex_lock(&e->lock);
		s->verifying = false;
		e->verify->running = NULL;
		e->verify->clean_ns = 0; /* what it left is there: its journal */
	}
	e->verify->ended = true;
	(void)pthread_cond_broadcast(&e->ended);
	(void)pthread_mutex_unlock(&e->lock);
	return NULL;
}

int verify_start(struct engine *e, struct snap_error *err)
{
	struct verify *v = calloc(1, sizeof(*v));
	pthread_condattr_t a;
	int r;

	if (!v)
		return snap_error_set(err, -ENOMEM, "start the verifier: out of memory");
	if (conf_bool(e->door.conf, "auto_verify") && !e->prov->data_path)
		log_warn("auto_verify=yes has no effect with provider=%s: verify its sets from a timer, better on another host", e->prov->name);
	(void)pthread_condattr_init(&a);
	(void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC); /* as engine_wait_on */
	(void)pthread_cond_init(&v->work, &a);
	(void)pthread_condattr_destroy(&a);
	e->verify = v;
	r = pthread_create(&v->thread, NULL, verify_run, e);
	if (r == 0)
		return 0;
	e->verify = NULL;
	(void)pthread_cond_destroy(&v->work);
	free(v);
	return snap_error_set(err, -r, "start the verifier: %s", strerror(r));
}

bool verify_stop(struct engine *e, uint64_t deadline_ns)
{
	struct verify *v = e->verify;

	if (!v)
		return true;
	(void)pthread_mutex_lock(&e->lock);
	(void)pthread_cond_signal(&v->work);
	(void)pthread_mutex_unlock(&e->lock);
	if (!engine_await_end(e, &v->ended, deadline_ns))
		return false;
	(void)pthread_join(v->thread, NULL);
	e->verify = NULL;
	(void)pthread_cond_destroy(&v->work);
	vbuf_free(&v->left);
	free(v);
	return true;
}

/* ---- what others ask ---- */

int verify_ask(struct engine *e, const char *name, struct snap_error *err)
{
	struct set *s;
	int r = 0;

	(void)pthread_mutex_lock(&e->lock);
	s = catalog_find(e->cat, name);
	if (!s)
		r = snap_error_set(err, -ENOENT, "verify %.70s: no such set", name);
	else if (!e->prov->data_path && !on_volumes(e))
		r = snap_error_set(err, -EOPNOTSUPP, "verify %s: provider=%s has no data here; restore it and start a server on "
						     "it", name, e->prov->name);
	else if (s->state != SET_COMPLETE)
		r = snap_error_set(err, -EAGAIN, "verify %s: it is %s; only complete sets can be verified", name,
				   set_state_name(s->state));
	else if (s->verifying)
		r = snap_error_set(err, -EBUSY, "verify %s: it is being verified, or waits for it", name);
	else
		s->verifying = true;
	if (r == 0)
		(void)pthread_cond_signal(&e->verify->work);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}

void verify_completed(struct engine *e, struct set *s)
{
	(void)pthread_mutex_lock(&e->lock);
	if (e->verify && conf_bool(e->door.conf, "auto_verify") && e->prov->data_path && s->state == SET_COMPLETE &&
	    strcmp(s->class, "manual") != 0) {
		s->verifying = true;
		(void)pthread_cond_signal(&e->verify->work);
	}
	(void)pthread_mutex_unlock(&e->lock);
}

/* All, or the one of this name. -ENOENT: there is none. */
static int cancel(struct engine *e, const char *name, struct snap_error *err)
{
	struct set *s;
	bool any = false;

	(void)pthread_mutex_lock(&e->lock);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		if (!s->verifying || (*name && strcmp(s->name, name) != 0))
			continue;
		any = true;
		if (s == e->verify->running)
			e->verify->cancel = true;
		else
			s->verifying = false;
	}
	(void)pthread_mutex_unlock(&e->lock);
	return any ? 0 : snap_error_set(err, -ENOENT, "verify: nothing to cancel");
}

int verify_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	char word[DOOR_NAME_MAX + 2] = "", name[DOOR_NAME_MAX + 2] = "", rest[2];
	int n = sscanf(text, "%65s %65s %1s", word, name, rest);

	if (n >= 1 && n <= 2 && strcmp(word, "cancel") == 0)
		return cancel(e, name, err);
	if (n != 1 || !set_name_ok(word))
		return snap_error_set(err, -EINVAL, "verify: expected a set's name, or \"cancel [NAME]\"");
	return verify_ask(e, word, err);
}

/* Lock held. */
static void put_running(const struct engine *e, const struct set *s, struct vbuf *out)
{
	if (s == e->verify->running)
		vbuf_printf(out, "running %u %s\n", e->verify->percent, e->verify->detail);
	else
		vbuf_puts(out, "queued\n");
}

int verify_render(struct engine *e, const char *set, struct vbuf *out)
{
	bool any = false;
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++) {
		if (!s->verifying)
			continue;
		vbuf_printf(out, "%s ", s->name);
		put_running(e, s, out);
		any = true;
	}
	(void)pthread_mutex_unlock(&e->lock);
	if (!any)
		vbuf_puts(out, "idle\n");
	(void)pthread_mutex_lock(&e->lock);
	vbuf_puts(out, vbuf_text(&e->verify->left));
	(void)pthread_mutex_unlock(&e->lock);
	return 0;
}

int verify_render_set(struct engine *e, const char *set, struct vbuf *out)
{
	char when[CLOCK_ISO_MAX];
	struct set *s;

	(void)pthread_mutex_lock(&e->lock);
	s = catalog_find(e->cat, set);
	if (s && s->verifying)
		put_running(e, s, out);
	else if (s && s->verified_at.tv_sec)
		vbuf_printf(out, "%s %s %s\n", set_verified_name(s->verified), clock_iso(s->verified_at, when),
			    s->verified_note);
	else if (s)
		vbuf_puts(out, "no\n");
	(void)pthread_mutex_unlock(&e->lock);
	return s ? 0 : -ENOENT;
}

/* Where its log is. */
static bool log_path(struct engine *e, const char *name, char path[PATH_MAX])
{
	char dir[PATH_MAX], *slash;
	const struct set *s;

	if (on_volumes(e)) {
		order_dir(e, dir);
		(void)pthread_mutex_lock(&e->lock);
		s = catalog_find(e->cat, name);
		(void)snprintf(path, PATH_MAX, "%.*s/%s.log", PATH_MAX - 64, dir, s ? s->id : "");
		(void)pthread_mutex_unlock(&e->lock);
		return s;
	}
	if (!e->prov->data_path || e->prov->data_path(e->prov_self, name, path, PATH_MAX - 16) < 0 || !(slash = strrchr(path, '/')))
		return false;
	memcpy(slash, "/verify.log", 12);
	return true;
}

int verify_render_log(struct engine *e, const char *set, struct vbuf *out)
{
	char path[PATH_MAX], buf[4096];
	cleanup_fd int fd = -1;
	size_t all = 0;
	ssize_t n;

	if (!log_path(e, set, path))
		return 0;
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	while (fd >= 0 && all < LOG_MAX && (n = read(fd, buf, sizeof(buf))) > 0) {
		vbuf_add(out, buf, (size_t)n);
		all += (size_t)n;
	}
	return 0;
}
