/* snapshot/exec_provider/script.c - see script.h.
 * Owns:      one process at a time, in a process group of its own.
 * Called by: exec_provider.c. The request is a sealed piece of memory, so a process that does not read it does not matter;
 * nothing of it is in the arguments or in the environment, which others can read. */
#include "snapshot/exec_provider/script.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "snapshot/program.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ERRORS_MAX 1024
#define CODE_STALE 65 /* sysexits.h: EX_DATAERR, EX_NOINPUT, EX_TEMPFAIL */
#define CODE_NODATA 66
#define CODE_AGAIN 75

struct child {
	struct script_call *c;
	char said[ERRORS_MAX];
	size_t said_len;
};

static int request_fd(const char *text)
{
	int fd = memfd_create("stillfs-request", MFD_CLOEXEC);
	size_t len = strlen(text);

	if (fd >= 0 && (write(fd, text, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET) != 0)) {
		(void)close(fd);
		return -1;
	}
	return fd;
}

static int hear(void *arg, bool errs, const char *text, size_t n)
{
	struct child *k = arg;

	if (errs) /* the end of it is what counts */
		program_keep_end(k->said, sizeof(k->said), &k->said_len, text, n);
	else if (k->c->out.len + n > SCRIPT_OUTPUT_MAX)
		return -EMSGSIZE;
	else
		vbuf_add(&k->c->out, text, n);
	return 0;
}

static int why(void *arg)
{
	const struct script_call *c = ((const struct child *)arg)->c;

	return c->stop && c->stop(c->stop_arg) ? -ECANCELED : 0;
}

static int judge(const struct script_call *c, struct child *k, int r, int status, uint64_t begun, struct snap_error *err)
{
	const char *said = program_last_line(k->said), *colon = *said ? ": " : "";
	unsigned ms = (unsigned)((clock_boot_ns() - begun) / NS_PER_MS);
	int code;

	if (r == -ETIMEDOUT)
		return snap_error_set(err, r, "%s %s had not ended after %u ms and was killed%s%s", c->path, c->verb, ms, colon, said);
	if (r == -EMSGSIZE)
		return snap_error_set(err, r, "%s %s wrote more than %u bytes", c->path, c->verb, SCRIPT_OUTPUT_MAX);
	if (r < 0)
		return snap_error_set(err, r, "%s %s was killed: the run was given up", c->path, c->verb);
	if (WIFSIGNALED(status))
		return snap_error_set(err, -EIO, "%s %s was ended by signal %d%s%s", c->path, c->verb, WTERMSIG(status), colon, said);
	code = WEXITSTATUS(status);
	if (!code)
		return vbuf_error(&c->out) ? snap_error_set(err, -ENOMEM, "%s %s: out of memory", c->path, c->verb) : 0;
	return snap_error_set(err, code == CODE_AGAIN ? -EAGAIN : code == CODE_STALE ? -ESTALE : code == CODE_NODATA ? -ENODATA : -EIO,
			      "%s %s ended with code %d%s%s", c->path, c->verb, code, colon, said);
}

int script_run(struct script_call *c, struct snap_error *err)
{
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LC_ALL=C.UTF-8";
	char *argv[] = { (char *)(uintptr_t)c->path, (char *)(uintptr_t)c->verb, NULL };
	char *env[] = { path, lang, NULL };
	cleanup_fd int in = request_fd(c->request);
	uint64_t begun = clock_boot_ns();
	struct child k = { .c = c };
	struct program p = { .path = c->path, .argv = argv, .env = env, .in = in, .alone = true, .deadline_ns = c->deadline_ns,
			     .why = why, .said = hear, .arg = &k };
	int r = in < 0 ? -errno : program_run(&p);

	if (!p.ran)
		return snap_error_set(err, r, "run %s: %s", c->path, strerror(-r));
	return judge(c, &k, r, p.status, begun, err);
}
