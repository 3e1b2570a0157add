/* tests/conformance/fs/random.h - what the parts of fs_random share: two directories, in which the same operations are
 * made one after the other and must give the same results. */
#ifndef STILLFS_TESTS_RANDOM_H
#define STILLFS_TESTS_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SIDES 2
#define N_FDS 10
#define N_MAPS 4
#define MAP_B (256u << 10) /* largest offset that is written through a mapping */
#define FILE_B (1u << 20)
#define IO_B (128u << 10)

struct both { /* one open file of each directory */
	int fd[SIDES]; /* -1: not open */
	int flags;
};

struct mapping {
	char *at[SIDES]; /* NULL: not mapped */
	int fd[SIDES];
};

struct world {
	unsigned sides; /* 1: nothing to compare with */
	int dir[SIDES];
	uint64_t rng;
	unsigned long op, n_ops; /* the number of the running one */
	bool verbose, root, trees_only, data_only;
	struct both f[N_FDS];
	struct mapping m[N_MAPS];
	char *buf[SIDES]; /* IO_B each, page aligned */
	char what[256]; /* the running operation, for the report */
};

uint32_t rnd(struct world *w, uint32_t n); /* 0 .. n - 1 */
const char *rnd_name(struct world *w); /* a path below the directory; valid until the fourth call from now */
/* Name the operation. */
void doing(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The results of the call on both sides, each with errno as it was; ends the program when they differ. */
void same(struct world *w, const long r[SIDES], const int e[SIDES]);
/* n bytes that both sides gave. */
void same_bytes(struct world *w, const void *a, const void *b, size_t n);
void differ(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

/* The operations, chosen by the caller's weights. */
void random_data(struct world *w); /* random_data.c: on open files */
void random_tree(struct world *w); /* random_tree.c: on names */
void random_close_all(struct world *w);

/* Make one call on each side: `call` may use `i`, `dir` and `buf`. */
#define EACH(w, call)                                    \
	do {                                             \
		long r_[SIDES] = { 0 };                  \
		int e_[SIDES] = { 0 };                   \
		for (unsigned i = 0; i < (w)->sides; i++) { \
			int dir = (w)->dir[i];           \
			char *buf = (w)->buf[i];         \
			(void)dir, (void)buf;            \
			errno = 0;                       \
			r_[i] = (long)(call);            \
			e_[i] = r_[i] < 0 ? errno : 0;   \
		}                                        \
		same(w, r_, e_);                         \
	} while (0)

#endif
