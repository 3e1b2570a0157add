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
#include "snapshot/ebs_tool/tool.h"

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
static volatile pid_t sandbox; /* its init, for the signal handler */
static char said[8], said_text[SNAP_ERROR_MAX]; /* the result */

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
	else if (strcmp(key, "volumes") == 0)
		(void)snprintf(s->volumes, sizeof(s->volumes), "%s", value);
	else if (strcmp(key, "ebs") == 0 && s->n_ebs < sizeof(s->ebs) / sizeof(s->ebs[0]))
		s->ebs[s->n_ebs++] = strdup(value);
	else if (strcmp(key, "clean") == 0)
		s->clean = true;
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
	if (strlen(s->id) != 32 || (s->data[0] != '/' && s->volumes[0] != '/'))
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

/* Without what makes a server that server. */
/* The server's: a datadir that was made by root keeps root's group, and its files have another, which a server in a sandbox of one
 * group could not give to what it makes. */
static gid_t files_group(const char *datadir, const struct stat *dir)
{
	static const char *const first[] = { "ibdata1", "aria_log_control", "mysql.ibd", "mysql" };
	char path[PATH_MAX];
	struct stat st;

	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if ((size_t)snprintf(path, sizeof(path), "%s/%s", datadir, first[i]) < sizeof(path) &&
		    lstat(path, &st) == 0 && st.st_uid == dir->st_uid)
			return st.st_gid;
	return dir->st_gid;
}

int verify_settle(struct vspec *s, unsigned i, struct snap_error *err)
{
	cleanup_free char *datadir = verify_value(s->layout, "option datadir");
	size_t n = strlen(s->mountpoint[i]);
	static char path[PATH_MAX];
	struct stat st;

	if (!datadir || strncmp(datadir, s->mountpoint[i], n) != 0 || (datadir[n] && datadir[n] != '/'))
		return 0;
	(void)snprintf(path, sizeof(path), "%.*s/p%u%s", PATH_MAX / 2, s->work[i], i, datadir + n);
	if (stat(path, &st) < 0)
		return snap_error_set(err, -errno, "the datadir %s is not in the set: %s", datadir, strerror(errno));
	s->uid = st.st_uid;
	s->gid = files_group(path, &st);
	(void)strncat(path, "/auto.cnf", sizeof(path) - strlen(path) - 1);
	(void)unlink(path); /* its server's own identity */
	return 0;
}

static int make_room(const struct vspec *s, struct snap_error *err)
{
	int r = make_dir(s->work[0], "", 0711, NULL);

	r = r < 0 ? r : make_dir(s->work[0], "root", 0755, NULL);
	r = r < 0 ? r : make_dir(s->work[0], "tmp", 01777, NULL);
	return r < 0 ? snap_error_set(err, r, "make directories in %s: %s", s->work[0], strerror(-r)) : 0;
}

/* The clone of the clone. */
static int clone_again(struct vspec *s, struct snap_error *err)
{
	char name[16];
	int r = verify_remove_places(s, err); /* a killed one's */

	for (unsigned i = 0; r == 0 && i < s->n_pairs; i++) {
		struct reflink rl = { 0 };
		cleanup_fd int src = open(s->src[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		cleanup_fd int dst = -1;

		verify_progress(45, "clone %u of %u", i + 1, s->n_pairs);
		(void)snprintf(name, sizeof(name), "p%u", i);
		r = src < 0 ? -errno : make_dir(s->work[i], "", 0711, NULL);
		r = r < 0 ? r : make_dir(s->work[i], name, 0700, &dst);
		if (r < 0)
			return snap_error_set(err, r, "make %s: %s", s->work[i], strerror(-r));
		r = reflink_tree(src, dst, s->src[i], &rl, err);
		if (r == 0)
			r = verify_settle(s, i, err);
	}
	return r < 0 ? r : make_room(s, err);
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
	if (tool_stop) { /* what was seen since then may come of it */
		word = "error";
		snap_error_clear(&line);
		snap_error_set(&line, -ECANCELED, "ended by a signal");
	}
	(void)snprintf(said, sizeof(said), "%s", word);
	(void)snprintf(said_text, sizeof(said_text), "%s", line.msg);
	verify_log("result: %s: %s", word, line.msg);
	printf("result %s %s\n", word, line.msg);
	return 0;
}

static bool bringing; /* the volumes: AWS's answers say nothing about the set */

/* What the record or the host lacks says nothing about the set. */
static int verdict(const struct snap_error *err, int r)
{
	bool bad = bringing ? r == -EBADMSG : r == -EBADMSG || r == -ESTALE || r == -ENOENT || r == -EXDEV || r == -ECONNREFUSED || r == -EIO;

	return result(bad ? "failed" : "error", "%s", err->code ? err->msg : strerror(-r));
}

static int bring(struct vspec *s, struct snap_error *err)
{
	int r;

	bringing = true;
	r = make_room(s, err);
	r = r < 0 ? r : volumes_bring(s, err);
	bringing = r < 0;
	return r;
}

static int try_server(struct vspec *s, size_t files)
{
	char *argv[VERIFY_ARGS_MAX];
	struct snap_error err = { 0 };
	cleanup_free char *first = NULL;
	size_t tables = 0;
	pid_t pid = -1;
	int status = 0, r = server_args(s, argv, &err);

	if (r == 0 && s->volumes[0])
		r = bring(s, &err);
	else if (r == 0)
		r = clone_again(s, &err);
	for (unsigned i = 0; r == 0 && argv[i]; i++)
		verify_log("argument: %s", argv[i]);
	verify_progress(50, "recovery by %s", s->server);
	if (r == 0)
		r = sandbox_start(s, argv, &pid, &err);
	for (unsigned i = 0; argv[i]; i++)
		free(argv[i]);
	sandbox = pid;
	if (r == 0 && tool_stop)
		(void)kill(pid, SIGKILL); /* the signal came before its handler knew the pid */
	if (r == 0)
		r = tables_check(s, pid, &tables, &err);
	sandbox = -1;
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
	if (!s->volumes[0] && verify_remove_places(s, &err) < 0)
		verify_log("%s", err.msg);
	if (r < 0)
		return verdict(&err, r);
	if (s->volumes[0])
		return result("yes", "%u volumes of its snapshots recovered by %s, %zu tables good, position as recorded%s", volumes_count(),
			      s->server, tables, strstr(s->position, "position unknown") ? " by this verification" : "");
	return result("yes", "%zu files as recorded, recovered by %s, %zu tables good, position as recorded%s", files,
		      s->server, tables, strstr(s->position, "position unknown") ? " by this verification" : "");
}

static int open_log(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_TRUNC, 0600);

	log_file = fd < 0 ? NULL : fdopen(fd, "we");
	if (!log_file)
		return result("error", "%s: %s", path, strerror(errno)), -EIO;
	(void)dup2(fd, 2); /* the sandbox's own failures */
	return 0;
}

static void name_process(const struct vspec *s)
{
	char name[16];

	(void)snprintf(name, sizeof(name), "verify-%.8s", s->id);
	(void)prctl(PR_SET_NAME, name, 0, 0, 0);
}

/* ---- on volumes of its own ---- */

static void on_signal(int sig)
{
	tool_stop = sig;
	if (sandbox > 0)
		(void)kill(sandbox, SIGKILL);
}

static int on_volumes(struct vspec *s)
{
	struct sigaction sa = { .sa_handler = on_signal }, ignore = { .sa_handler = SIG_IGN };
	struct snap_error err = { 0 };
	static char path[PATH_MAX];
	int r;

	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGPIPE, &ignore, NULL); /* the daemon may be gone: what was made is removed all the same */
	for (unsigned i = 0; i < s->n_pairs; i++)
		(void)snprintf(s->work[i], PATH_MAX, "%.*s/%s", PATH_MAX - 64, s->volumes, s->id);
	name_process(s);
	r = volumes_begin(s, &err);
	if (r == -EBUSY) /* that one says how it ends */
		return s->clean ? 0 : result("error", "%s", err.msg);
	(void)snprintf(path, sizeof(path), "%.*s/%s.log", PATH_MAX - 64, s->volumes, s->id);
	if (r < 0 || s->clean) {
		if (r < 0)
			printf("left %s\n", err.msg);
		return s->clean ? 0 : result("error", "%s", err.msg);
	}
	r = open_log(path);
	verify_log("set %s, id %s", s->set, s->id);
	if (r == 0 && !strstr(s->layout, "server "))
		r = result("error", "the set has no server that could be started on it, and no manifest");
	else if (r == 0 && !s->server)
		r = result("error", "the server's program is not known: name it with verify.server");
	else if (r == 0)
		r = try_server(s, 0);
	if (strcmp(said, "yes") == 0 || strcmp(said, "failed") == 0)
		volumes_record(s, said, said_text);
	verify_progress(98, "removing its volumes");
	if (volumes_end(s, &err) < 0) {
		verify_log("%s", err.msg);
		printf("left %s\n", err.msg);
	}
	return 0;
}

static int verify(struct vspec *s)
{
	struct snap_error err = { 0 };
	cleanup_fd int dir = -1;
	static char path[PATH_MAX];
	size_t files = 0;
	int r = read_spec(s, &err);

	if (r == 0 && s->volumes[0])
		return on_volumes(s);
	if (r == 0)
		r = verify_find_places(s, &err);
	if (r < 0)
		return verdict(&err, r);
	dir = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || flock(dir, LOCK_SH | LOCK_NB) < 0)
		return result("error", "%s: %s", s->dir, strerror(errno));
	(void)snprintf(path, sizeof(path), "%.*s/verify.log", PATH_MAX - 16, s->dir);
	if (open_log(path) < 0)
		return 0;
	verify_log("set %s, id %s", s->set, s->id);
	name_process(s);
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
