/* base/fault.c - see fault.h. Built with -Dfault_points=true only. */
#include "base/fault.h"

#ifdef STILLFS_FAULT_POINTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct fault_file *file;

void fault_setup(void)
{
	const char *path = getenv("STILLFS_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p;

	if (fd < 0)
		return;
	p = mmap(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)close(fd);
	file = p == MAP_FAILED ? NULL : p;
}

void fault_hit(const char *name)
{
	unsigned left;

	if (!file || strncmp(file->name, name, FAULT_NAME_MAX) != 0)
		return;
	(void)__atomic_add_fetch(&file->passed, 1, __ATOMIC_SEQ_CST);
	do {
		left = __atomic_load_n(&file->countdown, __ATOMIC_SEQ_CST);
		if (!left)
			return;
	} while (!__atomic_compare_exchange_n(&file->countdown, &left, left - 1, 0, __ATOMIC_SEQ_CST,
					      __ATOMIC_SEQ_CST));
	if (left > 1)
		return;
	(void)__atomic_add_fetch(&file->killed, 1, __ATOMIC_SEQ_CST);
	(void)kill(getpid(), SIGKILL);
	for (;;)
		(void)pause();
}

void fault_asked_by(unsigned pid)
{
	char task[48];

	(void)snprintf(task, sizeof(task), "/proc/self/task/%u", pid);
	if (pid && access(task, F_OK) == 0)
		abort();
}
#endif
