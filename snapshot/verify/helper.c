/* snapshot/verify/helper.c - the process that verifies one set: manifest, clone of the clone, throwaway server, checks.
 * Owns:      BASE/.verify-ID, the set's verify.log.
 * Called by: fs/main.c, as `stillfs --verify-set`, which snapshot/verify.c starts: the set comes as lines on stdin,
 *            progress and result go as lines to stdout: "progress PERCENT TEXT", "position KEY VALUE",
 *            "result yes|files|failed|error SENTENCE". failed: the set is bad; error: nobody can tell.
 * Errors:    always a result line, exit code 0, unless it is killed. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/reflink.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static FILE *log_file;

void verify_log(const char *fmt, ...)
{
	char when[CLOCK_ISO_MAX];
	va_list ap;

	if (!log_file)
		return;
	fprintf(log_file, "%s ", clock_iso(clock_utc(), when));
	va_start(ap, fmt);
	(void)vfprintf(log_file, fmt, ap);
	va_end(ap);
	fputc('\n', log_file);
	(void)fflush(log_file);
}

void verify_progress(unsigned percent, const char *fmt, ...)
{
	static uint64_t last;
	static unsigned last_percent;
	char text[200];
	va_list ap;

	if (percent == last_percent && clock_boot_ns() - last < 100 * NS_PER_MS)
		return;
	last = clock_boot_ns();
	last_percent = percent;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ')
			*p = '?';
	printf("progress %u %s\n", percent, text);
}

/* ---- the order ---- */

static void take_line(struct vspec *s, struct vbuf *layout, struct vbuf *position, const char *key, const char *value)
{
	if (strcmp(key, "set") == 0)
		(void)snprintf(s->set, sizeof(s->set), "%s", value);
	else if (strcmp(key, "id") == 0)
		(void)snprintf(s->id, sizeof(s->id), "%s", value);
	else if (strcmp(key, "data") == 0)
		(void)snprintf(s->data, sizeof(s->data), "%s", value);
	else if (strcmp(key, "mountpoint") == 0 && s->n_pairs < DOOR_MAX_PAIRS)
		s->mountpoint[s->n_pairs++] = strdup(value);
	else if (strcmp(key, "hide") == 0 && s->n_hide < sizeof(s->hide) / sizeof(s->hide[0]))
		s->hide[s->n_hide++] = strdup(value);
	else if (strcmp(key, "exe") == 0)
		s->server = strdup(value);
	else if (strcmp(key, "root") == 0)
		s->root = strdup(value);
	else if (strcmp(key, "layout") == 0)
		vbuf_printf(layout, "%s\n", value);
	else if (strcmp(key, "position") == 0)
		vbuf_printf(position, "%s\n", value);
}

static int read_spec(struct vspec *s, struct snap_error *err)
{
	struct vbuf layout = VBUF_INIT, position = VBUF_INIT;
	cleanup_free char *line = NULL;
	size_t cap = 0;
	char *space;

	while (getline(&line, &cap, stdin) > 0) {
		line[strcspn(line, "\n")] = '\0';
		space = strchr(line, ' ');
		if (space)
			*space++ = '\0';
		take_line(s, &layout, &position, line, space ? space : "");
	}
	s->layout = strdup(vbuf_text(&layout));
	s->position = strdup(vbuf_text(&position));
	vbuf_free(&layout);
	vbuf_free(&position);
	if (!s->root)
		s->root = strdup("/");
	if (!s->layout || !s->position || !s->root)
		return snap_error_set(err, -ENOMEM, "out of memory");
	if (strlen(s->id) != 32 || s->data[0] != '/')
		return snap_error_set(err, -EINVAL, "not a set");
	return 0;
}

/* ---- places ---- */

static int make_dir(const char *base, const char *name, mode_t mode, int *fd)
{
	static char path[PATH_MAX];

	(void)snprintf(path, sizeof(path), "%.*s%s%s", PATH_MAX - 32, base, *name ? "/" : "", name);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (chmod(path, mode) < 0)
		return -errno;
	if (fd && (*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return -errno;
	return 0;
}

/* The clone of the clone, without what makes a server that server. */
static int clone_again(struct vspec *s, struct snap_error *err)
{
	cleanup_free char *datadir = verify_value(s->layout, "option datadir");
	static char path[PATH_MAX];
	char name[16];
	struct stat st;
	int r = verify_remove_places(s, err); /* a killed one's */

	for (unsigned i = 0; r == 0 && i < s->n_pairs; i++) {
		struct reflink rl = { 0 };
		cleanup_fd int src = open(s->src[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		cleanup_fd int dst = -1;
		size_t n = strlen(s->mountpoint[i]);

		verify_progress(45, "clone %u of %u", i + 1, s->n_pairs);
		(void)snprintf(name, sizeof(name), "p%u", i);
		r = src < 0 ? -errno : make_dir(s->work[i], "", 0711, NULL);
		r = r < 0 ? r : make_dir(s->work[i], name, 0700, &dst);
		if (r < 0)
			return snap_error_set(err, r, "make %s: %s", s->work[i], strerror(-r));
		r = reflink_tree(src, dst, s->src[i], &rl, err);
		if (r < 0 || !datadir || strncmp(datadir, s->mountpoint[i], n) != 0)
			continue;
		if (fstatat(dst, datadir[n] == '/' && datadir[n + 1] ? datadir + n + 1 : ".", &st, 0) < 0)
			return snap_error_set(err, -errno, "the datadir %s is not in the set: %s", datadir, strerror(errno));
		s->uid = st.st_uid;
		s->gid = st.st_gid;
		(void)snprintf(path, sizeof(path), "%.*s/%s%s/auto.cnf", PATH_MAX / 2, s->work[i], name, datadir + n);
		(void)unlink(path); /* its server's own identity */
	}
	if (r == 0 && (r = make_dir(s->work[0], "root", 0755, NULL)) < 0)
		snap_error_set(err, r, "make %s/root: %s", s->work[0], strerror(-r));
	if (r == 0 && (r = make_dir(s->work[0], "tmp", 01777, NULL)) < 0)
		snap_error_set(err, r, "make %s/tmp: %s", s->work[0], strerror(-r));
	return r;
}

/* ---- the verdict ---- */

__attribute__((format(printf, 2, 3))) static int result(const char *word, const char *fmt, ...)
{
	struct snap_error line = { 0 };
	char text[SNAP_ERROR_MAX];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snap_error_set(&line, -EIO, "%s", text); /* one line of text */
	verify_log("result: %s: %s", word, line.msg);
	printf("result %s %s\n", word, line.msg);
	return 0;
}

/* What the record or the host lacks says nothing about the set. */
static int verdict(const struct snap_error *err, int r)
{
	bool bad = r == -EBADMSG || r == -ESTALE || r == -ENOENT || r == -EXDEV || r == -ECONNREFUSED || r == -EIO;

	return result(bad ? "failed" : "error", "%s", err->code ? err->msg : strerror(-r));
}

static int try_server(struct vspec *s, size_t files)
{
	char *argv[VERIFY_ARGS_MAX];
	struct snap_error err = { 0 };
	cleanup_free char *first = NULL;
	size_t tables = 0;
	pid_t pid = -1;
	int status = 0, r = server_args(s, argv, &err);

	if (r == 0)
		r = clone_again(s, &err);
	for (unsigned i = 0; r == 0 && argv[i]; i++)
		verify_log("argument: %s", argv[i]);
	verify_progress(50, "recovery by %s", s->server);
	if (r == 0)
		r = sandbox_start(s, argv, &pid, &err);
	if (r == 0)
		r = tables_check(s, pid, &tables, &err);
	if (pid > 0) {
		(void)kill(pid, SIGKILL); /* init of its PID namespace: all of it ends */
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (r == -ECONNREFUSED && WIFEXITED(status) && WEXITSTATUS(status) >= SANDBOX_FAILED) {
		snap_error_clear(&err);
		r = snap_error_set(&err, -ECHILD, "the server could not be started in its sandbox; verify.log says why");
	}
	if (pid > 0)
		first = server_log(s);
	if (first && (r == 0 || r == -ECONNREFUSED)) {
		snap_error_clear(&err);
		r = snap_error_set(&err, -EIO, "the server's log has an error: %s", first);
	}
	if (verify_remove_places(s, &err) < 0)
		verify_log("%s", err.msg);
	if (r < 0)
		return verdict(&err, r);
	return result("yes", "%zu files as recorded, recovered by %s, %zu tables good, position as recorded%s", files,
		      s->server, tables, strstr(s->position, "position unknown") ? " by this verification" : "");
}

static int verify(struct vspec *s)
{
	struct snap_error err = { 0 };
	cleanup_fd int dir = -1;
	static char path[PATH_MAX];
	char name[16];
	size_t files = 0;
	int r = read_spec(s, &err), fd;

	if (r == 0)
		r = verify_find_places(s, &err);
	if (r < 0)
		return verdict(&err, r);
	dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || flock(dir, LOCK_SH | LOCK_NB) < 0)
		return result("error", "%s: %s", s->dir, strerror(errno));
	(void)snprintf(path, sizeof(path), "%.*s/verify.log", PATH_MAX - 16, s->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	log_file = fd < 0 ? NULL : fdopen(fd, "we");
	if (!log_file)
		return result("error", "%s: %s", path, strerror(errno));
	(void)dup2(fd, 2); /* the sandbox's own failures */
	verify_log("set %s, id %s", s->set, s->id);
	(void)snprintf(name, sizeof(name), "verify-%.8s", s->id);
	(void)prctl(PR_SET_NAME, name, 0, 0, 0);
	r = manifest_check(s, &files, &err);
	if (r < 0)
		return verdict(&err, r);
	verify_log("manifest: %zu files as recorded", files);
	if (!*s->layout || !strstr(s->layout, "server "))
		return result("files", "%zu files as recorded; the set has no server that could be started on it", files);
	if (!s->server)
		return result("error", "the server's program is not known: name it with verify.server");
	return try_server(s, files);
}

int engine_helper(void)
{
	static struct vspec s;

	(void)setpriority(PRIO_PROCESS, 0, 19);
	(void)syscall(SYS_ioprio_set, 1, 0, 3 << 13); /* this process, class idle */
	(void)umask(0077);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	return verify(&s);
}
