/* snapshot/verify/verify.c - see verify.h: the queue, the process, its verdict in the set's record. */
#include "snapshot/verify/verify.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "snapshot/verify/verify_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_MAX (1u << 20) /* bytes of verify.log that are shown */
#define TICK_MS 100
#define CLEAN_TRIES 100 /* a killed server takes a moment to end */
#define CLEAN_TRIES_STOP 20 /* the next start cleans what is left then */

struct verify {
	pthread_t thread;
	pthread_cond_t work;
	/* under the engine's lock: */
	bool ended; /* the thread */
	struct set *running; /* kept by its `verifying` */
	unsigned percent;
	char detail[200];
	bool cancel;
};

/* What the process said. */
struct verdict {
	char line[1024];
	size_t len;
	char word[8], text[SNAP_ERROR_MAX];
	struct vbuf position;
};

/* ---- the order ---- */

static void put_lines(struct vbuf *out, const char *prefix, const char *lines)
{
	for (const char *l = lines; *l;) {
		size_t n = strcspn(l, "\n");

		vbuf_printf(out, "%s %.*s\n", prefix, (int)n, l);
		l += n + (l[n] == '\n');
	}
}

static void put_server(struct engine *e, const struct set *s, struct vbuf *out)
{
	static const char *const usual[] = { "/usr/sbin/mariadbd", "/usr/sbin/mysqld" };
	const char *conf_exe = conf_str(e->door.conf, "verify.server"), *conf_root = conf_str(e->door.conf, "verify.root");
	cleanup_free char *exe = verify_value(s->layout, "exe"), *root = verify_value(s->layout, "root");
	cleanup_free char *kind = verify_value(s->layout, "server");
	const char *last = kind && strcmp(kind, "mysql") == 0 ? usual[1] : usual[0];

	if (*conf_exe)
		vbuf_printf(out, "exe %s\n", conf_exe);
	else if (exe)
		vbuf_printf(out, "exe %s\n", exe);
	else if (access(last, X_OK) == 0)
		vbuf_printf(out, "exe %s\n", last);
	if (*conf_root || root)
		vbuf_printf(out, "root %s\n", *conf_root ? conf_root : root);
}

/* Lock held. */
static int make_order(struct engine *e, const struct set *s, struct vbuf *out)
{
	const struct door *d = &e->door;
	char data[PATH_MAX];
	unsigned n = 0;
	int r = e->prov->data_path(e->prov_self, s->name, data, sizeof(data));

	if (r < 0)
		return r;
	vbuf_printf(out, "set %s\nid %s\ndata %s\n", s->name, s->id, data);
	for (const char *l = s->layout; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, "mountpoint ", 11) == 0 && ++n)
			vbuf_printf(out, "%.*s\n", (int)strcspn(l, "\n"), l);
	for (unsigned i = 0; i < d->n_pairs; i++) {
		char *slash = strrchr(data, '/');

		if (!n)
			vbuf_printf(out, "mountpoint %s\n", d->pairs[i].mountpoint);
		vbuf_printf(out, "hide %s\nhide %s\n", d->pairs[i].backing, d->pairs[i].mountpoint);
		if (i == 0 && slash) { /* the sets themselves */
			*slash = '\0';
			slash = strrchr(data, '/');
			vbuf_printf(out, "hide %.*s\n", slash ? (int)(slash - data) : 0, data);
		}
	}
	put_server(e, s, out);
	put_lines(out, "layout", s->layout);
	put_lines(out, "position", s->position);
	return vbuf_error(out);
}

/* ---- the process ---- */

/* After fork of a process with threads: async-signal-safe calls only. */
__attribute__((noreturn)) static void child(int in, int out, pid_t parent)
{
	static char name[] = "stillfs", arg[] = "--verify-set", path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *argv[] = { name, arg, NULL }, *env[] = { path, NULL };
	sigset_t none;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		_exit(1);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(open("/dev/null", O_WRONLY), 2) < 0)
		_exit(1);
	(void)close_range(3, ~0u, 0);
	(void)execve("/proc/self/exe", argv, env);
	_exit(1);
}

static pid_t spawn(const struct vbuf *order, int *from, struct snap_error *err)
{
	cleanup_fd int in = -1;
	pid_t parent = getpid(), pid = -1;
	int a[2] = { -1, -1 }, b[2] = { -1, -1 };

	if (pipe2(a, O_CLOEXEC) == 0 && pipe2(b, O_CLOEXEC) == 0) {
		(void)fcntl(a[1], F_SETPIPE_SZ, 1 << 20);
		pid = fork();
	}
	if (pid == 0)
		child(a[0], b[1], parent);
	if (pid < 0)
		snap_error_set(err, -errno, "start the verification: %s", strerror(errno));
	else if (write(a[1], vbuf_text(order), order->len) != (ssize_t)order->len)
		log_warn("verify: its order could not be written"); /* it fails for want of it, and says so */
	for (int i = 0; i < 2; i++)
		if (a[i] >= 0)
			(void)close(a[i]);
	if (b[1] >= 0)
		(void)close(b[1]);
	if (pid < 0 && b[0] >= 0)
		(void)close(b[0]);
	*from = b[0];
	return pid;
}

static void take_line(struct engine *e, struct verdict *v, char *line)
{
	char *text = strchr(line, ' ');
	unsigned percent;
	int n = 0;

	if (!text)
		return;
	*text++ = '\0';
	if (strcmp(line, "position") == 0)
		vbuf_printf(&v->position, "%s\n", text);
	else if (strcmp(line, "result") == 0 && sscanf(text, "%7s %n", v->word, &n) == 1)
		(void)snprintf(v->text, sizeof(v->text), "%s", text + n);
	else if (strcmp(line, "progress") == 0 && sscanf(text, "%u %n", &percent, &n) == 1) {
		(void)pthread_mutex_lock(&e->lock);
		e->verify->percent = percent > 99 ? 99 : percent;
		(void)snprintf(e->verify->detail, sizeof(e->verify->detail), "%s", text + n);
		(void)pthread_mutex_unlock(&e->lock);
	}
}

/* What there is to read. False: the end. */
static bool take_some(struct engine *e, struct verdict *v, int fd)
{
	ssize_t n = read(fd, v->line + v->len, sizeof(v->line) - 1 - v->len);
	char *nl;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	v->len += (size_t)n;
	v->line[v->len] = '\0';
	while ((nl = strchr(v->line, '\n'))) {
		*nl++ = '\0';
		take_line(e, v, v->line);
		v->len -= (size_t)(nl - v->line);
		memmove(v->line, nl, v->len + 1);
	}
	if (v->len == sizeof(v->line) - 1)
		v->len = 0; /* longer than any line of ours */
	return true;
}

/* Follow it to its end; at the deadline, a cancel or our own stop, end it. */
static int follow(struct engine *e, pid_t pid, int fd, struct verdict *v, struct snap_error *err)
{
	uint64_t deadline = clock_boot_ns() + conf_num(e->door.conf, "verify.timeout") * NS_PER_MS;
	const struct timespec pause = { .tv_nsec = 5000000 };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool open = true, cancel, stop, ended = false;
	int r = 0;

	/* its end counts, not the pipe's: somebody else could hold that open */
	while (!ended) {
		ended = waitpid(pid, NULL, WNOHANG) == pid;
		if (open && !ended && poll(&p, 1, TICK_MS) > 0)
			open = take_some(e, v, fd);
		while (open && ended && poll(&p, 1, 0) > 0)
			open = take_some(e, v, fd);
		if (!open && !ended)
			(void)nanosleep(&pause, NULL);
		(void)pthread_mutex_lock(&e->lock);
		cancel = e->verify->cancel;
		stop = e->stopping;
		(void)pthread_mutex_unlock(&e->lock);
		if (ended || r < 0 || (!cancel && !stop && clock_boot_ns() < deadline))
			continue;
		r = stop ? -ESHUTDOWN : cancel ? -ECANCELED : -ETIMEDOUT;
		(void)kill(pid, SIGKILL); /* and with it its sandbox */
		snap_error_set(err, r, "%s", stop ? "stillfs is stopping" : cancel ? "cancelled by an operator" :
							  "not done within verify.timeout");
	}
	return r;
}

/* What a killed one left on the disk. */
static void clean(struct engine *e, const struct vspec *place)
{
	const struct timespec pause = { .tv_nsec = TICK_MS * 1000000 };
	struct snap_error err = { 0 };
	bool stop = false;

	for (int i = 0; i < CLEAN_TRIES && !(stop && i >= CLEAN_TRIES_STOP); i++) {
		snap_error_clear(&err);
		if (verify_remove_places(place, &err) == 0)
			return;
		(void)nanosleep(&pause, NULL);
		(void)pthread_mutex_lock(&e->lock);
		stop = e->stopping;
		(void)pthread_mutex_unlock(&e->lock);
	}
	e->door.ops->report(e->door.fs, "verify", &err);
}

/* Lock held. False: it has no data here. */
static bool find_place(struct engine *e, const struct set *s, struct vspec *v)
{
	struct snap_error ignored = { 0 };
	static char none[1];

	memset(v, 0, sizeof(*v));
	memcpy(v->id, s->id, sizeof(v->id));
	for (const char *l = s->layout; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL)
		if (strncmp(l, "mountpoint ", 11) == 0 && v->n_pairs < DOOR_MAX_PAIRS)
			v->mountpoint[v->n_pairs++] = none; /* only their number counts */
	while (v->n_pairs < e->door.n_pairs && !strstr(s->layout, "mountpoint "))
		v->mountpoint[v->n_pairs++] = none;
	return e->prov->data_path && e->prov->data_path(e->prov_self, s->name, v->data, sizeof(v->data)) == 0 &&
	       verify_find_places(v, &ignored) == 0;
}

/* ---- the verdict ---- */

static void fill_position(struct set *s, const struct vbuf *found)
{
	static const char unknown[] = "position unknown until verified\n";
	const char *at = strstr(s->position, unknown);
	struct vbuf b = VBUF_INIT;

	if (!at || !found->len)
		return;
	vbuf_add(&b, s->position, (size_t)(at - s->position));
	vbuf_printf(&b, "%sposition_from verify\n%s", vbuf_text(found), at + sizeof(unknown) - 1);
	if (vbuf_error(&b) == 0)
		(void)set_text(&s->position, vbuf_text(&b));
	vbuf_free(&b);
}

static void record(struct engine *e, struct set *s, struct verdict *v, struct snap_error *err, uint64_t start)
{
	bool known = err->code == 0 && v->word[0];
	char text[SNAP_ERROR_MAX];

	if (!known && !err->code)
		snap_error_set(err, -EIO, "the verifying process ended without a result");
	(void)snprintf(text, sizeof(text), "%s", known ? v->text : err->msg);
	(void)pthread_mutex_lock(&e->lock);
	if (known && strcmp(v->word, "yes") == 0) {
		s->verified = VERIFIED_YES;
		fill_position(s, &v->position);
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
	uint64_t start = clock_boot_ns();
	struct vspec *place = calloc(1, sizeof(*place));
	int fd = -1, r;
	bool there;
	pid_t pid;

	(void)pthread_mutex_lock(&e->lock);
	there = place && find_place(e, s, place);
	r = there ? make_order(e, s, &order) : -ENOENT;
	(void)pthread_mutex_unlock(&e->lock);
	engine_event(e, s, "verify", -1);
	if (r < 0)
		snap_error_set(&err, r, "its data: %s", strerror(-r));
	pid = r < 0 ? -1 : spawn(&order, &fd, &err);
	if (pid > 0) {
		(void)follow(e, pid, fd, &v, &err);
		(void)close(fd);
		clean(e, place);
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

/* An earlier daemon may have died with a verification. */
static void clean_all(struct engine *e)
{
	struct vspec *v = calloc(1, sizeof(*v));
	bool there = true;

	for (size_t i = 0; v && there; i++) {
		struct set *s;
		struct stat st;

		(void)pthread_mutex_lock(&e->lock);
		s = e->stopping ? NULL : catalog_at(e->cat, i);
		there = s != NULL;
		if (s && (s->state != SET_COMPLETE || !find_place(e, s, v)))
			v->n_pairs = 0;
		(void)pthread_mutex_unlock(&e->lock);
		if (there && v->n_pairs && stat(v->work[0], &st) == 0)
			clean(e, v);
	}
	free(v);
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
		if (!s) {
			(void)pthread_cond_wait(&e->verify->work, &e->lock);
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
	}
	e->verify->ended = true;
	(void)pthread_cond_broadcast(&e->ended);
	(void)pthread_mutex_unlock(&e->lock);
	return NULL;
}

int verify_start(struct engine *e, struct snap_error *err)
{
	struct verify *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return snap_error_set(err, -ENOMEM, "start the verifier: out of memory");
	(void)pthread_cond_init(&v->work, NULL);
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
	else if (!e->prov->data_path)
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

int verify_render_log(struct engine *e, const char *set, struct vbuf *out)
{
	char path[PATH_MAX], buf[4096], *slash;
	cleanup_fd int fd = -1;
	size_t all = 0;
	ssize_t n;

	if (!e->prov->data_path || e->prov->data_path(e->prov_self, set, path, sizeof(path) - 16) < 0 ||
	    !(slash = strrchr(path, '/')))
		return 0;
	memcpy(slash, "/verify.log", 12);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	while (fd >= 0 && all < LOG_MAX && (n = read(fd, buf, sizeof(buf))) > 0) {
		vbuf_add(out, buf, (size_t)n);
		all += (size_t)n;
	}
	return 0;
}
