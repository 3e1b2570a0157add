/* tests/unit/snapshot/local_rig.c - see local_rig.h. No test pulls a plug, so nothing waits for the disk:
 * linked with --wrap for fsync and syncfs. */
#include "tests/unit/snapshot/local_rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

int __wrap_fsync(int fd);
int __wrap_syncfs(int fd);


static const struct conf_key table[] = {
	{ "local_dir", CONF_LIST, "", NULL, 0, 0, "", "" },
	{ "local_copy", CONF_BOOL, "yes", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

struct place at;

unsigned synced;

/* No test here pulls a plug: the machine's disk need not be waited for. */
int __wrap_fsync(int fd)
{
	return 0;
}

int __wrap_syncfs(int fd)
{
	synced++;
	return 0;
}

bool cancelled(const struct prov_run *r)
{
	return at.cancel;
}

void give_defaults(void)
{
	conf_free(at.conf);
	at.conf = conf_new(table, NULL);
	at.door.conf = at.conf;
}

int local_setup(void **state)
{
	struct stat st;

	log_quiet();
	memset(&at, 0, sizeof(at));
	scratch_make(at.dir, sizeof(at.dir));
	at.door = (struct door){ .name = "test", .n_pairs = 1 };
	give_defaults();
	(void)snprintf(at.snaps, sizeof(at.snaps), "%s/a.snapshots", at.dir);
	for (int i = 0; i < RIG_PAIRS; i++) {
		struct door_pair *p = &at.door.pairs[i];

		(void)snprintf(at.backing[i], sizeof(at.backing[i]), "%s/%c", at.dir, 'a' + i);
		assert_int_equal(mkdir(at.backing[i], 0700), 0);
		assert_int_equal(stat(at.backing[i], &st), 0);
		p->backing = p->mountpoint = at.backing[i];
		p->backing_fd = open(at.backing[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		p->backing_dev = st.st_dev;
	}
	return 0;
}

int local_teardown(void **state)
{
	if (at.run.ref)
		prov_local.finish(at.p, &at.run);
	if (at.p)
		prov_local.close(at.p);
	for (int i = 0; i < RIG_PAIRS; i++)
		(void)close(at.door.pairs[i].backing_fd);
	conf_free(at.conf);
	scratch_remove(at.dir);
	return 0;
}

void give(const char *key, const char *value)
{
	assert_int_equal(conf_set(at.conf, "test", key, value, NULL), 0);
}

void open_local(void)
{
	at.p = prov_local.open(&at.door, &at.err);
	if (!at.p)
		fail_msg("%s", at.err.msg);
}

int preflight(const char *name, const char *id)
{
	if (!at.p)
		open_local();
	snap_error_clear(&at.err);
	at.run = (struct prov_run){ .name = name, .set_id = id, .lineage = ID_B, .door = &at.door, .cancelled = cancelled };
	return prov_local.preflight(at.p, &at.run, HOLD_MS, 1000, &at.err);
}

void ok(int r)
{
	if (r < 0)
		fail_msg("%d: %s", r, at.err.msg);
}

void trigger(const char *name, const char *id)
{
	ok(preflight(name, id));
	ok(prov_local.trigger(at.p, &at.run, 1000, &at.err));
}

void complete(void)
{
	struct prov_progress p = { 0 };
	unsigned last = 0;

	for (int i = 0; !p.complete; i++) {
		ok(prov_local.poll(at.p, &at.run, 0, &p, &at.err)); /* the smallest slices */
		assert_true(p.percent >= last && (p.percent < 100) == !p.complete);
		last = p.percent;
		assert_true(i < 10000);
	}
	prov_local.finish(at.p, &at.run);
}

void take_local(const char *name, const char *id)
{
	trigger(name, id);
	complete();
}

/* How many entries dir has; -1: it is not there. */
int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = -2; /* . and .. */

	if (!d)
		return -1;
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}

void path_of(char *buf, size_t cap, const char *a, const char *b)
{
	(void)snprintf(buf, cap, "%s/%s", a, b);
}

void make_file(const char *rel, size_t bytes)
{
	char path[512];
	FILE *f;

	path_of(path, sizeof(path), at.backing[0], rel);
	f = fopen(path, "we");
	assert_non_null(f);
	for (size_t i = 0; i < bytes; i++)
		assert_true(fputc((int)(i * 31 % 251), f) >= 0);
	assert_int_equal(fclose(f), 0);
}

void make_dir(const char *rel)
{
	char path[512];

	path_of(path, sizeof(path), at.backing[0], rel);
	assert_int_equal(mkdir(path, 0755), 0);
}

/* ---- equality ---- */

static const char *cmp_a, *cmp_b;
static unsigned compared;

static void same_bytes(const char *a, const char *b)
{
	FILE *fa = fopen(a, "re"), *fb = fopen(b, "re");
	int ca, cb;

	if (!fa || !fb)
		fail_msg("open %s, %s", a, b);
	do {
		ca = fgetc(fa);
		cb = fgetc(fb);
		if (ca != cb)
			fail_msg("%s and %s differ", a, b);
	} while (ca != EOF);
	(void)fclose(fa);
	(void)fclose(fb);
}

static int compare_one(const char *path, const struct stat *s, int kind, struct FTW *f)
{
	char other[1024], ta[256] = "", tb[256] = "";
	struct stat o;

	(void)snprintf(other, sizeof(other), "%s%s", cmp_b, path + strlen(cmp_a));
	if (S_ISSOCK(s->st_mode)) {
		assert_int_equal(lstat(other, &o), -1); /* a server makes its socket anew */
		return 0;
	}
	compared++;
	if (lstat(other, &o) < 0)
		fail_msg("%s is missing", other);
	if (o.st_mode != s->st_mode || o.st_uid != s->st_uid || o.st_gid != s->st_gid ||
	    o.st_mtim.tv_sec != s->st_mtim.tv_sec || o.st_mtim.tv_nsec != s->st_mtim.tv_nsec)
		fail_msg("attributes of %s differ", other);
	if (S_ISREG(s->st_mode)) {
		assert_int_equal(o.st_size, s->st_size);
		assert_int_equal(o.st_nlink, s->st_nlink);
		same_bytes(path, other);
	}
	if (S_ISLNK(s->st_mode)) {
		assert_int_equal(readlink(path, ta, sizeof(ta) - 1), readlink(other, tb, sizeof(tb) - 1));
		assert_string_equal(ta, tb);
	}
	return 0;
}

unsigned count_tree(const char *a, const char *b)
{
	cmp_a = a;
	cmp_b = b;
	compared = 0;
	assert_int_equal(nftw(a, compare_one, 16, FTW_PHYS), 0);
	return compared;
}

static int count_one(const char *path, const struct stat *s, int kind, struct FTW *f)
{
	compared++;
	return 0;
}

/* The clone is the tree: nothing is missing, nothing is there besides. */
void assert_clone(const char *name, const char *sub, int pair)
{
	char clone[256];
	unsigned n;

	(void)snprintf(clone, sizeof(clone), "%s/%s/%s", at.snaps, name, sub);
	n = count_tree(at.backing[pair], clone);
	compared = 0;
	assert_int_equal(nftw(clone, count_one, 16, FTW_PHYS), 0);
	assert_int_equal(compared, n);
}

/* Every kind of thing, and names that need care. */
void make_tree(void)
{
	const struct timespec old[2] = { { 1000000000, 123456789 }, { 1000000000, 987654321 } };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int d = at.door.pairs[0].backing_fd, fd, s;

	make_dir("sub");
	make_dir("sub/deep");
	make_dir("empty");
	make_file("data.ibd", 1200000); /* more than one slice */
	make_file("zero", 0);
	make_file("sub/deep/x", 5000);
	make_file("a name with blanks", 10);
	make_file("line\nfeed", 11);
	make_file("back\\slash", 12);
	make_file("\xc3\xa9\xff", 13);
	fd = openat(d, "sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 5 << 20), 0);
	assert_int_equal(pwrite(fd, "middle", 6, 2 << 20), 6);
	(void)close(fd);
	assert_int_equal(linkat(d, "data.ibd", d, "sub/second name", 0), 0);
	assert_int_equal(linkat(d, "data.ibd", d, "third", 0), 0);
	assert_int_equal(symlinkat("../nowhere", d, "dangling"), 0);
	assert_int_equal(mkfifoat(d, "pipe", 0640), 0);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)snprintf(un.sun_path, sizeof(un.sun_path), "%.90s/s", at.backing[0]);
	assert_int_equal(bind(s, (const struct sockaddr *)&un, sizeof(un)), 0);
	(void)close(s);
	assert_int_equal(fchmodat(d, "zero", 0440, 0), 0);
	assert_int_equal(fchmodat(d, "sub/deep", 02751, 0), 0);
	if (geteuid() == 0)
		assert_int_equal(fchownat(d, "sub/deep/x", 1234, 5678, 0), 0);
	assert_int_equal(utimensat(d, "data.ibd", old, 0), 0);
	assert_int_equal(utimensat(d, "sub/deep", old, 0), 0);
	assert_int_equal(utimensat(d, "dangling", old, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(utimensat(d, ".", old, 0), 0);
}

int sha256sum(const char *set)
{
	char cmd[300];

	(void)snprintf(cmd, sizeof(cmd), "cd %s/%s && sha256sum -c --quiet --strict manifest.sha256 >/dev/null 2>&1",
		       at.snaps, set);
	return system(cmd);
}

static char listed[512];

static int list_one(void *arg, const char *name, const char *id, bool done)
{
	size_t n = strlen(listed);

	(void)snprintf(listed + n, sizeof(listed) - n, "[%s %.4s %s]", name, id, done ? "complete" : "partial");
	return 0;
}

const char *list_sets(void)
{
	listed[0] = '\0';
	ok(prov_local.list(at.p, list_one, NULL, 1000, &at.err));
	return listed;
}
