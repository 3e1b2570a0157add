/* tests/bench/copies.c - what 1 MiB into a file in memory costs whose source nobody has touched since the last time, or was
 * just written on another CPU, or on this one: a device on memory reads from what the data path has landed there.
 *   copies FILE      FILE on a tmpfs, 512 MiB, removed afterwards
 * Threads: two, on CPUs 0 and 1, in turn. Errors: printed; exit 1. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIZE (1u << 20)
#define TIMES 800
#define FILE_MIB 512
#define BUFFERS 4

enum who { NOBODY, OTHER, SELF, WAYS };

static const char *const names[WAYS] = { "untouched", "just written on the other CPU", "just written on this CPU" };
static unsigned char from[SIZE], buffer[BUFFERS][SIZE];
static _Atomic int turn;
static enum who writer;

static void die(const char *what)
{
	fprintf(stderr, "copies: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void on_cpu(int n)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(n, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("two CPUs are needed");
}

static void await_turn(int n)
{
	while (atomic_load(&turn) != n)
		(void)sched_yield();
}

static void *other(void *arg)
{
	on_cpu(0);
	for (int i = 0; i < TIMES; i++) {
		await_turn(2 * i);
		if (writer == OTHER)
			memcpy(buffer[i % BUFFERS], from, SIZE);
		atomic_store(&turn, 2 * i + 1);
	}
	return arg;
}

static double one_way(int fd, enum who who)
{
	double us = 0, begin;
	pthread_t t;

	writer = who;
	atomic_store(&turn, 0);
	if (pthread_create(&t, NULL, other, NULL) != 0)
		die("start a thread");
	for (int i = 0; i < TIMES; i++) {
		await_turn(2 * i + 1);
		if (who == SELF)
			memcpy(buffer[i % BUFFERS], from, SIZE);
		begin = now_us();
		if (pwrite(fd, buffer[i % BUFFERS], SIZE, (off_t)(i % FILE_MIB) * SIZE) != SIZE)
			die("write");
		us += now_us() - begin;
		atomic_store(&turn, 2 * i + 2);
	}
	(void)pthread_join(t, NULL);
	return us / TIMES;
}

int main(int argc, char **argv)
{
	int fd;

	if (argc != 2) {
		fputs("usage: copies FILE\n", stderr);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		die(argv[1]);
	(void)unlink(argv[1]);
	on_cpu(1);
	(void)one_way(fd, NOBODY); /* its pages are made */
	for (int round = 0; round < 3; round++)
		for (enum who w = NOBODY; w < WAYS; w++)
			printf("%-30s %6.1f us\n", names[w], one_way(fd, w));
	return 0;
}
