/* tests/unit/fs/gate_fixture.c - see gate_fixture.h. gate.c's open(2) is wrapped by the linker. */
#include "gate_fixture.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int __wrap_open64(const char *path, int flags, ...);

static int status_file(const char *pending, const char *shared)
{
	static char text[12000], groups[11 * 1000 + 1]; /* the gate timer alone looks */
	int fd = memfd_create("status", MFD_CLOEXEC), n;

	for (int i = 0; i < 1000; i++) /* of somebody whose groups come from a directory service */
		(void)snprintf(groups + 11 * i, 12, "%010u ", 1000000000u + (unsigned)i);
	n = snprintf(text, sizeof(text), "Name:\tdb\nState:\tS (sleeping)\nGroups:\t%s\nSigQ:\t1/1\nSigPnd:\t%s\nShdPnd:\t%s\n"
					 "SigBlk:\t%s\n", groups, pending, shared, "ffffffffffffffff");
	if (fd < 0 || write(fd, text, (size_t)n) != n || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	return fd;
}

int __wrap_open64(const char *path, int flags, ...)
{
	static const char none[] = "0000000000000000", alarm[] = "0000000000002000", kill[] = "0000000000000100";
	unsigned pid = 0;

	if (sscanf(path, "/proc/%u/status", &pid) != 1)
		abort(); /* the gate opens nothing else */
	switch (pid) {
	case PID_SURVIVES:
		return status_file(alarm, alarm);
	case PID_KILLED:
		return status_file(none, kill);
	case PID_THREAD_KILLED:
		return status_file(kill, none);
	case PID_UNREADABLE:
		errno = EACCES;
		return -1;
	default:
		errno = ENOENT;
		return -1;
	}
}

static void on_resubmit(void *arg, struct gate_node *first)
{
	struct gate_fixture *f = arg;

	(void)pthread_mutex_lock(&f->lock);
	f->back_ns = clock_boot_ns();
	for (struct gate_node *n = first; n && f->n_back < NOTED_MAX; n = n->next)
		f->back[f->n_back++] = n;
	(void)pthread_mutex_unlock(&f->lock);
}

static void on_kill(void *arg, struct gate_node *n)
{
	struct gate_fixture *f = arg;

	(void)pthread_mutex_lock(&f->lock);
	if (f->n_killed < NOTED_MAX)
		f->killed[f->n_killed++] = n;
	(void)pthread_mutex_unlock(&f->lock);
}

int gate_fixture_up(void **state)
{
	struct gate_fixture *f = calloc(1, sizeof(*f));
	struct gate_hooks hooks = { .arg = f, .resubmit = on_resubmit, .kill = on_kill };

	if (!f || pthread_mutex_init(&f->lock, NULL))
		return -1;
	f->g = gate_new(&f->shm, &hooks, BUDGET_B);
	*state = f;
	return f->g ? gate_start(f->g) : -1;
}

int gate_fixture_down(void **state)
{
	struct gate_fixture *f = *state;

	gate_stop(f->g);
	gate_free(f->g);
	(void)pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

unsigned gate_fixture_back(struct gate_fixture *f)
{
	unsigned n;

	(void)pthread_mutex_lock(&f->lock);
	n = f->n_back;
	(void)pthread_mutex_unlock(&f->lock);
	return n;
}

unsigned gate_fixture_killed(struct gate_fixture *f)
{
	unsigned n;

	(void)pthread_mutex_lock(&f->lock);
	n = f->n_killed;
	(void)pthread_mutex_unlock(&f->lock);
	return n;
}

struct gate_status gate_fixture_status(struct gate_fixture *f)
{
	struct gate_status s;

	gate_get_status(f->g, &s);
	return s;
}
