/* base/await.c - see await.h. */
#include "base/await.h"
#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 5u /* for stop */

static int result(int status)
{
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

int await_child(pid_t pid, uint64_t deadline_ns, const _Atomic int *stop, bool *ended)
{
	struct pollfd at = { .fd = pidfd_open(pid, 0), .events = POLLIN };
	int status = 0, r = 0;
	pid_t got = 0;

	while (r == 0) {
		uint32_t left_ms = clock_left_ms(deadline_ns);

		got = waitpid(pid, &status, WNOHANG);
		if (got == pid)
			break;
		if (got < 0 && errno != EINTR)
			r = -errno;
		else if (stop && atomic_load(stop))
			r = -ECANCELED;
		else if (!left_ms)
			r = -ETIMEDOUT;
		else
			(void)poll(&at, 1, at.fd < 0 ? 1 : left_ms < LOOK_MS ? (int)left_ms : (int)LOOK_MS);
	}
	if (at.fd >= 0)
		(void)close(at.fd);
	*ended = got == pid || r == -ECHILD;
	return got == pid ? result(status) : r;
}
