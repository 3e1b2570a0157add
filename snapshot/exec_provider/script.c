/* snapshot/exec_provider/script.c - see script.h.
 * Owns:      one process at a time, in a process group of its own.
 * Called by: exec_provider.c. The request is a sealed piece of memory, so a process that does not read it does not matter;
 * nothing of it is in the arguments or in the environment, which others can read. */
#include "snapshot/exec_provider/script.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "snapshot/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ERRORS_MAX 1024
#define TICK_MS 5
#define CODE_STALE 65 /* sysexits.h: EX_DATAERR, EX_NOINPUT, EX_TEMPFAIL */
#define CODE_NODATA 66
#define CODE_AGAIN 75

struct child {
	pid_t pid;
	int out, errs; /* our ends */
	char said[ERRORS_MAX];
	size_t said_len;
	bool too_much;
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

static int spawn(const struct script_call *c, int in, int out, int errs, pid_t *pid)
{
	char *argv[] = { (char *)(uintptr_t)c->path, (char *)(uintptr_t)c->verb, NULL };
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LC_ALL=C.UTF-8";
	char *env[] = { path, lang, NULL };

	return program_spawn(c->path, argv, env, in, out, errs, pid);
}

static void take(struct script_call *c, struct child *k)
{
	char more[4096];
	ssize_t n;

	while ((n = read(k->out, more, sizeof(more))) > 0) {
		if (c->out.len + (size_t)n > SCRIPT_OUTPUT_MAX) {
			k->too_much = true;
			return;
		}
		vbuf_add(&c->out, more, (size_t)n);
	}
	while ((n = read(k->errs, more, sizeof(more))) > 0) { /* the end of it is what counts */
		size_t len = (size_t)n < sizeof(k->said) - 1 ? (size_t)n : sizeof(k->said) - 1;
		size_t keep = k->said_len + len < sizeof(k->said) ? k->said_len : sizeof(k->said) - 1 - len;

		memmove(k->said, k->said + k->said_len - keep, keep);
		memcpy(k->said + keep, more + (size_t)n - len, len);
		k->said_len = keep + len;
	}
	k->said[k->said_len] = '\0';
}

/* 0 with *status, or why it was killed. */
static int await(struct script_call *c, struct child *k, int *status)
{
	struct pollfd p[2] = { { .fd = k->out, .events = POLLIN }, { .fd = k->errs, .events = POLLIN } };
	uint64_t killed = 0;
	int r = 0;

	for (;;) {
		pid_t got = waitpid(k->pid, status, WNOHANG);

		take(c, k);
		if (got == k->pid) {
			(void)kill(-k->pid, SIGKILL); /* whom it left behind */
			return k->too_much ? -EMSGSIZE : r;
		}
		if (got < 0 && errno != EINTR)
			return -errno;
		if (r == 0 && k->too_much)
			r = -EMSGSIZE;
		else if (r == 0 && c->stop && c->stop(c->stop_arg))
			r = -ECANCELED;
		else if (r == 0 && clock_boot_ns() >= c->deadline_ns)
			r = -ETIMEDOUT;
		if (r < 0 && !killed) {
			(void)kill(-k->pid, SIGKILL);
			killed = clock_boot_ns();
		}
		if (killed && clock_boot_ns() >= killed + NS_PER_S)
			return r; /* in an uninterruptible call: left to itself */
		(void)poll(p, 2, TICK_MS);
		for (int i = 0; i < 2; i++)
			if (p[i].revents & POLLHUP)
				p[i].fd = -1;
	}
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
	cleanup_fd int in = request_fd(c->request);
	uint64_t begun = clock_boot_ns();
	struct child k = { .pid = -1 };
	int out[2], errs[2], status = 0, r;

	if (in < 0 || pipe2(out, O_CLOEXEC | O_NONBLOCK) < 0)
		return snap_error_set(err, -errno, "run %s: %s", c->path, strerror(errno));
	if (pipe2(errs, O_CLOEXEC | O_NONBLOCK) < 0) {
		r = -errno;
		(void)close(out[0]);
		(void)close(out[1]);
		return snap_error_set(err, r, "run %s: %s", c->path, strerror(-r));
	}
	(void)fcntl(out[1], F_SETFL, 0); /* the script's end may block */
	(void)fcntl(errs[1], F_SETFL, 0);
	r = spawn(c, in, out[1], errs[1], &k.pid);
	(void)close(out[1]);
	(void)close(errs[1]);
	k.out = out[0];
	k.errs = errs[0];
	if (r < 0) {
		snap_error_set(err, r, "run %s: %s", c->path, strerror(-r));
	} else {
		r = await(c, &k, &status);
		r = judge(c, &k, r, status, begun, err);
	}
	(void)close(k.out);
	(void)close(k.errs);
	return r;
}
