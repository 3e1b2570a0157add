/* tests/unit/fs/gate_fixture.h - a gate without a transport: what came back and who was killed is noted.
 * Callers' /proc/PID/status files are made up: the kernel gives no process ids this high. */
#ifndef STILLFS_TESTS_GATE_FIXTURE_H
#define STILLFS_TESTS_GATE_FIXTURE_H

#include "fs/gate.h"
#include "fs/shm.h"

#include <pthread.h>

#define BUDGET_B 10000u
#define NOTED_MAX 64u

enum fake_pid {
	PID_SURVIVES = 9000001, /* SIGALRM is pending */
	PID_KILLED, /* SIGKILL is pending for the process */
	PID_THREAD_KILLED, /* SIGKILL is pending for the thread */
	PID_GONE, /* no such process */
	PID_UNREADABLE, /* its status cannot be opened */
};

struct gate_fixture {
	struct gate *g;
	struct shm_head shm;
	pthread_mutex_t lock;
	/* under lock: */
	struct gate_node *back[NOTED_MAX], *killed[NOTED_MAX];
	unsigned n_back, n_killed;
	uint64_t back_ns; /* when the last ones came back */
};

int gate_fixture_up(void **state); /* the gate and its timer */
int gate_fixture_down(void **state);
unsigned gate_fixture_back(struct gate_fixture *f); /* how many came back */
unsigned gate_fixture_killed(struct gate_fixture *f);
struct gate_status gate_fixture_status(struct gate_fixture *f);

/* True as soon as `condition` is; false when it is not within a minute, which only a gate that fails takes. */
#define SOON(condition) \
	({ \
		uint64_t end_ = clock_boot_ns() + 60 * NS_PER_S; \
		while (!(condition) && clock_boot_ns() < end_) \
			(void)usleep(200); \
		(condition); \
	})

#endif
