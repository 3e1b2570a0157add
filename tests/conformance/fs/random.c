/* tests/conformance/fs/random.c - fs_random [-s SEED] [-n OPERATIONS] [-d | -t] [-v] DIRECTORY [DIRECTORY]
 * Random operations, applied to two directories alike: each result, errno and byte that is read must be the same.
 * With one directory nothing is compared: several of these may work in it at once.
 * -d: only operations on open files (as fsx does). -t: only on names. -v: print each operation.
 * The same seed gives the same operations. Exit 0: all the same; 1: a difference, which is printed with the seed and
 * the number of the operation; 2: wrong arguments. */
#include "random.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned long seed = 1;

uint32_t rnd(struct world *w, uint32_t n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (uint32_t)(w->rng >> 11) % n;
}

const char *rnd_name(struct world *w)
{
	static const char *const dirs[] = { "", "", "", "d0/", "d1/", "d2/", "d0/d3/" };
	static char names[4][40];
	static unsigned turn;
	char *p = names[turn++ % 4];

	if (rnd(w, 6) == 0) /* one of the directories themselves */
		(void)snprintf(p, sizeof(names[0]), "%sd%u", rnd(w, 4) ? "" : "d0/", rnd(w, 4));
	else
		(void)snprintf(p, sizeof(names[0]), "%sf%u", dirs[rnd(w, 7)], rnd(w, 6));
	return p;
}

void doing(struct world *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(w->what, sizeof(w->what), fmt, ap);
	va_end(ap);
	if (w->verbose)
		(void)printf("%lu: %s\n", w->op, w->what);
}

void differ(struct world *w, const char *fmt, ...)
{
	va_list ap;

	(void)printf("seed %lu, operation %lu: %s: ", seed, w->op, w->what);
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)printf("\nagain with: fs_random -s %lu -n %lu%s DIRECTORY DIRECTORY\n", seed, w->op + 1,
		     w->data_only ? " -d" : w->trees_only ? " -t" : "");
	(void)fflush(stdout);
	_exit(1);
}

void same(struct world *w, const long r[SIDES], const int e[SIDES])
{
	if (w->verbose)
		(void)printf("    = %ld %s\n", r[0], e[0] ? strerrorname_np(e[0]) : "");
	if (w->sides > 1 && (r[0] != r[1] || e[0] != e[1]))
		differ(w, "%ld %s, %ld %s", r[0], e[0] ? strerrorname_np(e[0]) : "", r[1],
		       e[1] ? strerrorname_np(e[1]) : "");
}

void same_bytes(struct world *w, const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;

	if (w->sides < 2 || memcmp(a, b, n) == 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			differ(w, "byte %zu is %02x, %02x", i, x[i], y[i]);
}

static void *pages(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		exit(2);
	return p;
}

static void start(struct world *w, char **dirs, int n)
{
	w->sides = (unsigned)n;
	w->root = geteuid() == 0;
	w->rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	for (int i = 0; i < n; i++) {
		w->dir[i] = open(dirs[i], O_RDONLY | O_DIRECTORY);
		w->buf[i] = pages(IO_B);
		if (w->dir[i] < 0) {
			perror(dirs[i]);
			exit(2);
		}
		for (int d = 0; d < 3; d++) {
			char name[8];

			(void)snprintf(name, sizeof(name), "d%d", d);
			(void)mkdirat(w->dir[i], name, 0777);
		}
	}
	for (int i = 0; i < N_FDS; i++)
		w->f[i].fd[0] = w->f[i].fd[1] = -1;
}

int main(int argc, char **argv)
{
	static struct world w = { .n_ops = 1000 };
	int o;

	(void)signal(SIGPIPE, SIG_IGN); /* a fifo without a reader is a result, not the end */
	while ((o = getopt(argc, argv, "s:n:dtv")) != -1) {
		if (o == 's')
			seed = strtoul(optarg, NULL, 10);
		else if (o == 'n')
			w.n_ops = strtoul(optarg, NULL, 10);
		else if (o == 'd')
			w.data_only = true;
		else if (o == 't')
			w.trees_only = true;
		else if (o == 'v')
			w.verbose = true;
		else
			return 2;
	}
	if (argc - optind < 1 || argc - optind > SIDES) {
		(void)fprintf(stderr, "usage: fs_random [-s SEED] [-n OPERATIONS] [-d | -t] [-v] DIRECTORY [DIRECTORY]\n");
		return 2;
	}
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)umask(022);
	start(&w, argv + optind, argc - optind);
	for (; w.op < w.n_ops; w.op++) {
		if (w.data_only || (!w.trees_only && rnd(&w, 3)))
			random_data(&w);
		else
			random_tree(&w);
	}
	random_close_all(&w);
	(void)printf("%lu operations, seed %lu\n", w.op, seed);
	return 0;
}
