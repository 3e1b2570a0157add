/* snapshot/exec.c - see exec.h. One mutex, one slot. */
#include "snapshot/exec.h"
#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct exec {
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	pthread_t thread;
	struct job *job; /* posted or running */
	bool stopping;
	char name[16];
};

static void job_unref(struct job *j) /* under lock */
{
	if (--j->refs)
		return;
	vbuf_free(&j->text);
	free(j);
}

static void *exec_run(void *arg)
{
	struct exec *x = arg;
	struct job *j;

	(void)pthread_setname_np(pthread_self(), x->name);
	(void)pthread_mutex_lock(&x->lock);
	for (;;) {
		while (!x->job && !x->stopping)
			(void)pthread_cond_wait(&x->work, &x->lock);
		if (!x->job)
			break;
		j = x->job;
		(void)pthread_mutex_unlock(&x->lock);
		j->start_ns = clock_boot_ns();
		j->fn(j);
		j->end_ns = clock_boot_ns();
		(void)pthread_mutex_lock(&x->lock);
		j->done = !j->abandoned; /* from here on nobody can abandon it any more */
		if (j->abandoned && j->orphan) {
			(void)pthread_mutex_unlock(&x->lock);
			j->orphan(j);
			(void)pthread_mutex_lock(&x->lock);
		}
		j->done = true;
		x->job = NULL;
		job_unref(j);
		(void)pthread_cond_broadcast(&x->done);
	}
	(void)pthread_mutex_unlock(&x->lock);
	return NULL;
}

struct exec *exec_new(const char *name)
{
	struct exec *x = calloc(1, sizeof(*x));
	pthread_condattr_t a;
	int r;

	if (!x)
		return NULL;
	for (unsigned i = 0; i < sizeof(x->name) - 1 && name[i]; i++)
		x->name[i] = name[i];
	(void)pthread_mutex_init(&x->lock, NULL);
	(void)pthread_condattr_init(&a);
	(void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&x->work, NULL);
	(void)pthread_cond_init(&x->done, &a);
	(void)pthread_condattr_destroy(&a);
	r = pthread_create(&x->thread, NULL, exec_run, x);
	if (r) {
		free(x);
		errno = r;
		return NULL;
	}
	return x;
}

int exec_free(struct exec *x)
{
	bool busy;

	if (!x)
		return 0;
	(void)pthread_mutex_lock(&x->lock);
	x->stopping = true;
	busy = x->job != NULL;
	(void)pthread_cond_signal(&x->work);
	(void)pthread_mutex_unlock(&x->lock);
	if (busy)
		return -EBUSY;
	(void)pthread_join(x->thread, NULL);
	(void)pthread_mutex_destroy(&x->lock);
	(void)pthread_cond_destroy(&x->work);
	(void)pthread_cond_destroy(&x->done);
	free(x);
	return 0;
}

struct job *job_new(void (*fn)(struct job *j), void *self, uint32_t max_ms)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	j->fn = fn;
	j->self = self;
	j->max_ms = max_ms;
	j->refs = 1;
	return j;
}

int exec_post(struct exec *x, struct job *j)
{
	int r = -EBUSY;

	(void)pthread_mutex_lock(&x->lock);
	if (!x->job && !x->stopping) {
		j->refs++;
		x->job = j;
		(void)pthread_cond_signal(&x->work);
		r = 0;
	}
	(void)pthread_mutex_unlock(&x->lock);
	return r;
}

int exec_wait(struct exec *x, struct job *j, uint64_t deadline_ns, const _Atomic int *abort_flag)
{
	struct timespec t;
	uint32_t ms;
	int r = 0;

	(void)pthread_mutex_lock(&x->lock);
	while (!j->done) {
		ms = clock_left_ms(deadline_ns);
		if (abort_flag && atomic_load(abort_flag))
			r = -ECANCELED;
		else if (!ms)
			r = -ETIMEDOUT;
		if (r < 0)
			break;
		if (ms > 100)
			ms = 100; /* BOOTTIME may run while MONOTONIC stands */
		(void)clock_gettime(CLOCK_MONOTONIC, &t);
		t.tv_nsec += (long)ms * 1000000;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		(void)pthread_cond_timedwait(&x->done, &x->lock, &t);
	}
	(void)pthread_mutex_unlock(&x->lock);
	return r;
}

void exec_kick(struct exec *x)
{
	(void)pthread_mutex_lock(&x->lock);
	(void)pthread_cond_broadcast(&x->done);
	(void)pthread_mutex_unlock(&x->lock);
}

void job_abandon(struct exec *x, struct job *j, bool *still)
{
	(void)pthread_mutex_lock(&x->lock);
	/* posted is running: refs 2. Never posted, or refused: nobody else knows it */
	j->abandoned = !j->done && j->refs > 1;
	*still = j->abandoned;
	job_unref(j);
	(void)pthread_mutex_unlock(&x->lock);
}

void job_drop(struct exec *x, struct job *j)
{
	bool still;

	if (j)
		job_abandon(x, j, &still);
}

bool exec_stuck(struct exec *x)
{
	bool stuck;

	(void)pthread_mutex_lock(&x->lock);
	stuck = x->job && x->job->abandoned;
	(void)pthread_mutex_unlock(&x->lock);
	return stuck;
}
