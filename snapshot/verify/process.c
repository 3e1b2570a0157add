/* snapshot/verify/process.c - the verifying process as the daemon sees it: started, listened to, ended. See process.h. */
#include "snapshot/verify/process.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_MS 100
#define UNDO_MS 300000u /* for removing volumes after a cancel or the deadline; what is left then is in the journal */
#define LEAVE_MS 2000u /* stillfs stops: the process is left to itself */
#define LINE_MAX_B (4u << 20) /* a GTID set has some 50 bytes for each server that ever wrote */

/* After fork of a process with threads: async-signal-safe calls only. */
__attribute__((noreturn)) static void child(int in, int out, pid_t parent, bool remote)
{
	static char name[] = "stillfs", arg[] = "--verify-set", path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *argv[] = { name, arg, NULL }, *own[] = { path, NULL }, **env = remote ? environ : own;
	sigset_t none;

	/* on volumes it still has to remove what it made, and needs nobody for that */
	(void)prctl(PR_SET_PDEATHSIG, remote ? SIGTERM : SIGKILL, 0, 0, 0);
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

pid_t process_spawn(const struct vbuf *order, bool remote, int *from, struct snap_error *err)
{
	cleanup_fd int in = -1;
	pid_t parent = getpid(), pid = -1;
	int a[2] = { -1, -1 }, b[2] = { -1, -1 };

	if (pipe2(a, O_CLOEXEC) == 0 && pipe2(b, O_CLOEXEC) == 0) {
		(void)fcntl(a[1], F_SETPIPE_SZ, 1 << 20);
		pid = fork();
	}
	if (pid == 0)
		child(a[0], b[1], parent, remote);
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
	else if (strcmp(line, "left") == 0)
		(void)snprintf(v->left, sizeof(v->left), "%s", text);
	else if (strcmp(line, "result") == 0 && sscanf(text, "%7s %n", v->word, &n) == 1)
		(void)snprintf(v->text, sizeof(v->text), "%s", text + n);
	else if (strcmp(line, "progress") == 0 && sscanf(text, "%u %n", &percent, &n) == 1) {
		verify_at(e, percent > 99 ? 99 : percent, text + n);
	}
}

/* What there is to read. False: the end. After a line that is none of ours, or out of memory, nothing is believed. */
static bool take_some(struct engine *e, struct verdict *v, int fd)
{
	char more[4096], *nl, *at;
	ssize_t n = read(fd, more, sizeof(more));
	size_t had = v->line.len; /* without a line's end */

	if (n <= 0)
		return n < 0 && errno == EINTR;
	if (!v->too_long)
		vbuf_add(&v->line, more, (size_t)n);
	if (v->too_long || vbuf_error(&v->line))
		return true;
	for (at = v->line.data; (nl = memchr(at + had, '\n', v->line.len - had - (size_t)(at - v->line.data))); at = nl + 1) {
		*nl = '\0';
		take_line(e, v, at);
		had = 0;
	}
	v->line.len -= (size_t)(at - v->line.data);
	memmove(v->line.data, at, v->line.len + 1);
	v->too_long = v->line.len > LINE_MAX_B;
	return true;
}

/* Is all that it said in the verdict? */
static int heard(const struct verdict *v, struct snap_error *err)
{
	if (v->too_long)
		return snap_error_set(err, -EMSGSIZE, "the verifying process said a line of more than %u bytes", LINE_MAX_B);
	return vbuf_error(&v->line) || vbuf_error(&v->position) ? snap_error_set(err, -ENOMEM, "out of memory") : 0;
}

/* -ECANCELED, -ESHUTDOWN, -ETIMEDOUT: it has to end now; 0. */
static int must_end(struct engine *e, uint64_t deadline, struct snap_error *err)
{
	bool cancel = false, stop = false;

	verify_wishes(e, &cancel, &stop);
	if (stop)
		return snap_error_set(err, -ESHUTDOWN, "stillfs is stopping");
	if (cancel)
		return snap_error_set(err, -ECANCELED, "cancelled by an operator");
	return clock_boot_ns() < deadline ? 0 : snap_error_set(err, -ETIMEDOUT, "not done within verify.timeout");
}

int process_follow(struct engine *e, pid_t pid, int fd, uint64_t deadline, bool remote, struct verdict *v, struct snap_error *err)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool open = true, ended = false;
	uint64_t kill_ns = 0;
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
		if (ended)
			break;
		if (r == 0 && (r = must_end(e, deadline, err)) < 0) {
			(void)kill(pid, remote ? SIGTERM : SIGKILL); /* and with it its sandbox */
			kill_ns = clock_boot_ns() + (r == -ESHUTDOWN ? LEAVE_MS : UNDO_MS) * NS_PER_MS;
		}
		if (r == 0 || !remote || clock_boot_ns() < kill_ns)
			continue;
		if (r == -ESHUTDOWN)
			break; /* it goes on alone; should it die, its journal tells the next stillfs */
		(void)kill(pid, SIGKILL);
		kill_ns = UINT64_MAX;
	}
	r = r == 0 ? heard(v, err) : r;
	vbuf_free(&v->line);
	return r;
}
