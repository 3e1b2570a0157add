/* tests/unit/snapshot/local_rig.h - the provider `local` over plain directories below a scratch one, and
 * the comparison of a clone with its tree. One world a process; test thread only. */
#ifndef STILLFS_TESTS_LOCAL_RIG_H
#define STILLFS_TESTS_LOCAL_RIG_H

#include "tests/unit/snapshot/unit.h"
#include "snapshot/local/local.h"

#define ID_A "0123456789abcdef0123456789abcdef"
#define ID_B "fedcba9876543210fedcba9876543210"
#define HOLD_MS 10000
#define RIG_PAIRS 3 /* directories a, b and c; the first alone is a pair unless a test says otherwise */

struct place {
	char dir[64], backing[RIG_PAIRS][96], snaps[96];
	struct conf *conf;
	struct door door;
	void *p;
	struct prov_run run;
	struct snap_error err;
	bool cancel;
};
extern struct place at;
extern unsigned synced; /* calls of syncfs */

int local_setup(void **state);
int local_teardown(void **state);
void give(const char *key, const char *value); /* an option, before the provider is opened */
void give_defaults(void);
void open_local(void);
bool cancelled(const struct prov_run *r);

/* The provider's calls; ok() fails the test with the sentence. */
void ok(int r);
int preflight(const char *name, const char *id);
void trigger(const char *name, const char *id); /* with its preflight */
void complete(void); /* polls to the end */
void take_local(const char *name, const char *id); /* all of it */
const char *list_sets(void); /* "[NAME ID.. complete]..." */

void path_of(char *buf, size_t cap, const char *a, const char *b); /* a/b */
int entries(const char *dir); /* how many; -1: it is not there */
void make_file(const char *rel, size_t bytes); /* in the first backing */
void make_dir(const char *rel);
void make_tree(void); /* every kind of thing, and names that need care */
unsigned count_tree(const char *a, const char *b); /* all of a is in b, the same; how many */
void assert_clone(const char *name, const char *sub, int pair); /* and nothing besides */
int sha256sum(const char *set); /* of its manifest; 0: all is well */

#endif
