/* tests/unit/snapshot/test_catalog.c - the catalog after every kind of end: records half written, files of
 * others, a full disk, SIGKILL at any moment. Its syncs and renames are watched (--wrap). */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_renameat(int a, const char *from, int b, const char *to);
int __wrap_renameat(int a, const char *from, int b, const char *to);

static char dir[64], sets[80];
static char trace[256]; /* F: file synced, D: directory synced, R: renamed */
static int fail_fsync; /* errno of the next fsync of a file */

static void trace_add(char c)
{
	size_t n = strlen(trace);

	if (n + 1 < sizeof(trace))
		trace[n] = c;
}

int __wrap_fsync(int fd)
{
	struct stat st;

	trace_add(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? 'D' : 'F');
	if (fail_fsync && S_ISREG(st.st_mode)) {
		errno = fail_fsync;
		fail_fsync = 0;
		return -1;
	}
	return 0; /* SIGKILL leaves the page cache: no need to wait for a disk */
}

int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	trace_add('R');
	return __real_renameat(a, from, b, to);
}

static int setup(void **state)
{
	log_quiet();
	scratch_make(dir, sizeof(dir));
	(void)snprintf(sets, sizeof(sets), "%s/sets", dir);
	memset(trace, 0, sizeof(trace));
	fail_fsync = 0;
	return 0;
}

static int teardown(void **state)
{
	scratch_remove(dir);
	return 0;
}

static struct catalog *reopen(void)
{
	struct snap_error err = { 0 };
	struct catalog *c = catalog_open(dir, &err);

	if (!c)
		fail_msg("%s", err.msg);
	return c;
}

static struct set *add(struct catalog *c, const char *name)
{
	struct set *s = set_new();

	(void)snprintf(s->name, sizeof(s->name), "%s", name);
	assert_int_equal(catalog_add(c, s), 0);
	(void)snprintf(s->class, sizeof(s->class), "manual");
	s->state = SET_COMPLETE;
	return s;
}

static int save(struct catalog *c, const struct set *s, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	set_json(s, &b);
	assert_int_equal(vbuf_error(&b), 0);
	r = catalog_write(c, s->id, vbuf_text(&b), err);
	vbuf_free(&b);
	return r;
}

static void must_save(struct catalog *c, const struct set *s)
{
	struct snap_error err = { 0 };

	if (save(c, s, &err) < 0)
		fail_msg("%s", err.msg);
}

/* The record's file name. */
static const char *file_of(const struct set *s)
{
	static char name[64];

	(void)snprintf(name, sizeof(name), "%s.json", s->id);
	return name;
}

static void sets_come_back_in_order_of_creation(void **state)
{
	struct catalog *c = reopen();
	char ids[100][33], name[16], lineage[33];

	for (int i = 0; i < 100; i++) {
		struct set *s;

		(void)snprintf(name, sizeof(name), "s%d", (i * 37) % 100);
		s = add(c, name);
		must_save(c, s);
		memcpy(ids[i], s->id, 33);
		assert_int_equal(strspn(s->id, "0123456789abcdef"), 32);
		for (int k = 0; k < i; k++)
			assert_string_not_equal(ids[k], ids[i]);
	}
	(void)snprintf(lineage, sizeof(lineage), "%s", catalog_lineage(c));
	catalog_free(c);
	c = reopen();
	assert_int_equal(catalog_count(c), 100);
	assert_int_equal(catalog_bad(c), 0);
	assert_string_equal(catalog_lineage(c), lineage);
	for (size_t i = 0; i < 100; i++) {
		assert_string_equal(catalog_at(c, i)->id, ids[i]);
		assert_int_equal(catalog_at(c, i)->seq, i + 1);
		assert_string_equal(catalog_at(c, i)->lineage, lineage);
	}
	assert_null(catalog_at(c, 100));
	assert_int_equal(add(c, "next")->seq, 101);
	catalog_free(c);
}

static void a_record_is_synced_before_it_is_renamed(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");

	memset(trace, 0, sizeof(trace));
	must_save(c, s);
	assert_string_equal(trace, "FRD");
	assert_int_equal(catalog_unlink(c, s->id, NULL), 0);
	assert_string_equal(trace, "FRDD");
	assert_int_equal(catalog_unlink(c, s->id, NULL), 0); /* gone already */
	catalog_free(c);
}

static void a_sync_that_fails_leaves_the_old_record(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	struct snap_error err = { 0 };

	must_save(c, s);
	s->pin = true;
	memset(trace, 0, sizeof(trace));
	fail_fsync = EIO;
	assert_int_equal(save(c, s, &err), -EIO);
	assert_says(err.msg, ".json: Input/output error");
	assert_string_equal(trace, "F");
	catalog_free(c);
	c = reopen();
	assert_false(catalog_at(c, 0)->pin);
	catalog_free(c);
}

static void what_a_crash_leaves_is_tidied(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "kept");
	char *text;

	must_save(c, s);
	text = file_get(sets, file_of(s));
	file_put(sets, ".0123456789abcdef0123456789abcdef.json.tmp", "{\"name\":\"half");
	file_put(sets, ".probe.tmp", "");
	file_put(sets, "README", "somebody's note"); /* no record, no temporary file: not ours to touch */
	catalog_free(c);
	c = reopen();
	assert_int_equal(catalog_count(c), 1);
	assert_int_equal(catalog_bad(c), 0);
	assert_string_equal(catalog_at(c, 0)->name, "kept");
	assert_false(file_there(sets, ".0123456789abcdef0123456789abcdef.json.tmp"));
	assert_false(file_there(sets, ".probe.tmp"));
	assert_true(file_there(sets, "README"));
	catalog_free(c);
	free(text);
}

/* Each of these under a record's name. */
static const char *const garbage[] = {
	"", "\n", "{", "null", "[]", "17", "\"text\"", "{}", "\xff\xfe\x00", "not json",
	"{\"name\":\"a\",\"id\":\"0123456789abcdef0123456789abcdef\"}",
	/* whole, but: a name that leaves its directory; no state; another state; no seq; a seq too large */
	"{\"name\":\"../a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"seq\":9,\"state\":\"complete\"}",
	"{\"name\":\"a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"seq\":9}",
	"{\"name\":\"a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"seq\":9,\"state\":\"done\"}",
	"{\"name\":\"a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"state\":\"complete\"}",
	"{\"name\":\"a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"seq\":1099511627776,\"state\":\"complete\"}",
	"{\"name\":5,\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"I\",\"seq\":9,\"state\":\"complete\"}",
	"{\"name\":\"a\",\"id\":\"I\",\"class\":\"manual\",\"lineage\":\"short\",\"seq\":9,\"state\":\"complete\"}",
};

static void with_id(char *out, size_t cap, const char *text, const char *id)
{
	const char *at;
	size_t n = 0;

	while ((at = strstr(text, "\"I\""))) {
		n += (size_t)snprintf(out + n, cap - n, "%.*s\"%s\"", (int)(at - text), text, id);
		text = at + 3;
	}
	(void)snprintf(out + n, cap - n, "%s", text);
}

static void what_is_no_record_is_set_aside_and_counted(void **state)
{
	unsigned n = sizeof(garbage) / sizeof(garbage[0]);
	char id[33], name[64], bad[64], text[512];
	struct catalog *c = reopen();

	must_save(c, add(c, "kept"));
	catalog_free(c);
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(id, sizeof(id), "%032x", i + 1);
		(void)snprintf(name, sizeof(name), "%s.json", id);
		with_id(text, sizeof(text), garbage[i], id);
		file_put(sets, name, text);
	}
	c = reopen();
	assert_int_equal(catalog_count(c), 1);
	assert_int_equal(catalog_bad(c), n);
	assert_non_null(catalog_find(c, "kept"));
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "%032x.json", i + 1);
		(void)snprintf(bad, sizeof(bad), "%032x.json.bad", i + 1);
		assert_false(file_there(sets, name));
		assert_true(file_there(sets, bad));
	}
	catalog_free(c);
	c = reopen(); /* set aside once, not at every start */
	assert_int_equal(catalog_bad(c), 0);
	assert_int_equal(catalog_count(c), 1);
	catalog_free(c);
}

static void a_record_cut_at_any_byte_is_never_half_read(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	char *text, name[64], bad[160];
	size_t len;

	must_save(c, s);
	(void)snprintf(name, sizeof(name), "%s", file_of(s));
	(void)snprintf(bad, sizeof(bad), "%s/%s.bad", sets, name);
	text = file_get(sets, name);
	catalog_free(c);
	for (len = strlen(text) - 1; len > 0; len -= len > 7 ? 7 : 1) {
		text[len] = '\0';
		file_put(sets, name, text);
		c = reopen();
		assert_int_equal(catalog_count(c), 0);
		assert_int_equal(catalog_bad(c), 1);
		catalog_free(c);
		assert_int_equal(unlink(bad), 0);
	}
	free(text);
}

static void copies_and_twins_are_set_aside(void **state)
{
	struct catalog *c = reopen();
	struct set *a = add(c, "a"), *twin;
	char *text;

	must_save(c, a);
	text = file_get(sets, file_of(a));
	file_put(sets, "copy.json", text); /* would be deleted with its twin's data */
	twin = add(c, "a");
	must_save(c, twin); /* two sets of one name */
	catalog_free(c);
	c = reopen();
	assert_int_equal(catalog_count(c), 1);
	assert_int_equal(catalog_bad(c), 2);
	assert_true(file_there(sets, "copy.json.bad"));
	catalog_free(c);
	free(text);
}

static void a_record_under_another_name_is_set_aside(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	char from[160], to[160];

	must_save(c, s);
	(void)snprintf(from, sizeof(from), "%s/%s", sets, file_of(s));
	(void)snprintf(to, sizeof(to), "%s/%032x.json", sets, 7);
	catalog_free(c);
	assert_int_equal(rename(from, to), 0);
	c = reopen();
	assert_int_equal(catalog_count(c), 0);
	assert_int_equal(catalog_bad(c), 1);
	catalog_free(c);
}

static void a_link_in_a_records_place_is_not_followed(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	char from[160], to[200];

	must_save(c, s);
	(void)snprintf(from, sizeof(from), "%s/%s", sets, file_of(s));
	(void)snprintf(to, sizeof(to), "%s/elsewhere", dir);
	catalog_free(c);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(symlink(to, from), 0);
	c = reopen();
	assert_int_equal(catalog_count(c), 0);
	assert_int_equal(catalog_bad(c), 1);
	catalog_free(c);
}

static void a_damaged_lineage_is_not_replaced(void **state)
{
	struct snap_error err = { 0 };
	char *text;

	catalog_free(reopen());
	file_put(dir, "lineage", "half");
	assert_null(catalog_open(dir, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_says(err.msg, "the file lineage holds no lineage id; restore it, or remove it");
	text = file_get(dir, "lineage");
	assert_string_equal(text, "half");
	free(text);
}

static void a_state_directory_that_is_not_there_is_said(void **state)
{
	struct snap_error err = { 0 };

	assert_null(catalog_open("/nowhere/at/all", &err));
	assert_int_equal(err.code, -ENOENT);
	assert_string_equal(err.msg, "open state_dir /nowhere/at/all: No such file or directory");
	snap_error_clear(&err);
	file_put(dir, "sets", "a file");
	assert_null(catalog_open(dir, &err));
	assert_int_equal(err.code, -ENOTDIR);
}

/* A limit of file size stands for a full disk: a write stops in the middle. */
static void a_full_disk_leaves_the_old_record(void **state)
{
	struct rlimit old, small = { 100, RLIM_INFINITY };
	struct snap_error err = { 0 }, probe = { 0 };
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	int r, p;

	must_save(c, s);
	s->pin = true;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	r = save(c, s, &err);
	p = catalog_probe(c, &probe);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	(void)signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(r, -EFBIG);
	assert_says(err.msg, ".json: File too large");
	assert_int_equal(p, -EFBIG);
	assert_says(probe.msg, "cannot be written: File too large; make room or mend it, then take the snapshot again");
	assert_int_equal(catalog_probe(c, NULL), 0);
	catalog_free(c);
	c = reopen();
	assert_int_equal(catalog_count(c), 1);
	assert_int_equal(catalog_bad(c), 0);
	assert_false(catalog_at(c, 0)->pin);
	catalog_free(c);
}

static void a_directory_that_vanished_is_an_error(void **state)
{
	struct catalog *c = reopen();
	struct set *s = add(c, "a");
	struct snap_error err = { 0 };

	assert_int_equal(rmdir(sets), 0);
	assert_int_equal(save(c, s, &err), -ENOENT);
	snap_error_clear(&err);
	assert_int_equal(catalog_probe(c, &err), -ENOENT);
	assert_says(err.msg, "cannot be written: No such file or directory");
	catalog_free(c);
}

/* ---- text in and out ---- */

static const char *const nasty[] = {
	"", " ", "plain", "two\nlines\n", "\"quoted\" and \\back\\slashed\\", "tab\tand\rreturn", "</script>", "/a//b",
	"\x01\x02\x1f\x7f", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "{\"state\":\"complete\"}", "%s%n%d", "\\u0000",
};

static void every_text_survives_the_record(void **state)
{
	for (size_t i = 0; i < sizeof(nasty) / sizeof(nasty[0]); i++) {
		struct set *s = set_new(), *back = NULL;
		struct vbuf b = VBUF_INIT;

		(void)snprintf(s->name, sizeof(s->name), "a");
		(void)snprintf(s->class, sizeof(s->class), "c");
		(void)snprintf(s->id, sizeof(s->id), "%032x", 1);
		(void)snprintf(s->lineage, sizeof(s->lineage), "%032x", 2);
		s->seq = (1ull << 40) - 1;
		s->state = (enum set_state)(i % 5);
		s->created = (struct timespec){ 1893456000, 999999999 };
		s->size_b = UINT64_MAX;
		s->lock_ms = 0;
		s->hold_ms = 0.125, s->given_up = 3;
		s->error_code = -ETIMEDOUT;
		assert_int_equal(set_text(&s->description, nasty[i]), 0);
		assert_int_equal(set_text(&s->tags, nasty[i]), 0);
		assert_int_equal(set_text(&s->position, nasty[i]), 0);
		assert_int_equal(set_text(&s->error, nasty[i]), 0);
		vbuf_puts(&s->log, nasty[i]);
		set_json(s, &b);
		assert_null(strchr(vbuf_text(&b), '\n')); /* list.json: one set a line */
		assert_int_equal(set_from_json(vbuf_text(&b), &back), 0);
		assert_string_equal(back->description, nasty[i]);
		assert_string_equal(back->tags, nasty[i]);
		assert_string_equal(back->position, nasty[i]);
		assert_string_equal(back->error, nasty[i]);
		assert_string_equal(vbuf_text(&back->log), nasty[i]);
		assert_int_equal(back->state, s->state);
		assert_int_equal(back->seq, s->seq);
		assert_int_equal(back->created.tv_sec, s->created.tv_sec);
		assert_int_equal(back->created.tv_nsec, s->created.tv_nsec);
		assert_true(back->size_b == UINT64_MAX);
		assert_true(back->lock_ms >= 0 && back->lock_ms <= 0);
		assert_true(back->hold_ms > 0.1249 && back->hold_ms < 0.1251);
		assert_true(back->drain_ms < 0 && back->given_up == 3 && back->given_up_ms < 0); /* < 0: did not happen */
		assert_int_equal(back->error_code, -ETIMEDOUT);
		set_free(s);
		set_free(back);
		vbuf_free(&b);
	}
}

/* ---- SIGKILL ---- */

#define KILLS 40
#define WRITERS_SETS 4

/* Writes records for ever: generation g in `description`, and a log as long as g says. */
static void write_for_ever(void)
{
	struct snap_error err = { 0 };
	struct catalog *c = catalog_open(dir, &err);
	static char log[4001];

	if (!c)
		_exit(1);
	memset(log, 'x', 4000);
	for (unsigned g = 0;; g++)
		for (size_t i = 0; i < catalog_count(c); i++) {
			struct set *s = catalog_at(c, i);
			struct vbuf b = VBUF_INIT;
			char text[32];

			(void)snprintf(text, sizeof(text), "%u", g % 4000);
			(void)set_text(&s->description, text);
			vbuf_free(&s->log);
			vbuf_add(&s->log, log, g % 4000);
			set_json(s, &b);
			if (catalog_write(c, s->id, vbuf_text(&b), &err) < 0)
				_exit(2);
			vbuf_free(&b);
		}
}

static void sigkill_at_any_moment_leaves_whole_records(void **state)
{
	struct catalog *c = reopen();
	unsigned seed = 20260101, rewritten = 0;
	char lineage[33], name[8];

	for (int i = 0; i < WRITERS_SETS; i++) {
		(void)snprintf(name, sizeof(name), "s%d", i);
		must_save(c, add(c, name));
	}
	(void)snprintf(lineage, sizeof(lineage), "%s", catalog_lineage(c));
	catalog_free(c);
	for (int k = 0; k < KILLS; k++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0)
			write_for_ever();
		(void)usleep((useconds_t)(2000 + rand_r(&seed) % 20000));
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status)); /* it was at work: no error had ended it */
		c = reopen();
		assert_int_equal(catalog_bad(c), 0);
		assert_int_equal(catalog_count(c), WRITERS_SETS);
		assert_string_equal(catalog_lineage(c), lineage);
		for (size_t i = 0; i < WRITERS_SETS; i++) {
			const struct set *s = catalog_at(c, i);

			assert_int_equal(s->seq, i + 1);
			/* of one generation, whichever */
			assert_int_equal(s->log.len, strtoul(s->description, NULL, 10));
			rewritten += s->log.len > 0;
		}
		catalog_free(c);
	}
	assert_true(rewritten > KILLS); /* the writers got to work */
}

/* ---- by name ---- */

static const char *numbered(unsigned i)
{
	static char name[32];

	(void)snprintf(name, sizeof(name), "nightly-%06u", i);
	return name;
}

static void each_of_many_is_found_by_its_name(void **state)
{
	enum { MANY = 3000 };
	struct catalog *c = reopen();
	static struct set *s[MANY];
	struct set *again;

	assert_null(catalog_find(c, "none")); /* of an empty one, too */
	for (unsigned i = 0; i < MANY; i++)
		s[i] = add(c, numbered(i));
	for (unsigned i = 0; i < MANY; i++)
		assert_ptr_equal(catalog_find(c, numbered(i)), s[i]);
	assert_null(catalog_find(c, numbered(MANY)));
	for (unsigned i = 0; i < MANY; i += 2)
		catalog_drop(c, s[i]);
	for (unsigned i = 0; i < MANY; i++)
		assert_ptr_equal(catalog_find(c, numbered(i)), i % 2 ? s[i] : NULL);
	s[7]->state = SET_DELETING;
	assert_null(catalog_find(c, numbered(7)));
	again = add(c, numbered(7)); /* the name is free while the data goes */
	assert_ptr_equal(catalog_find(c, numbered(7)), again);
	catalog_drop(c, s[7]);
	assert_ptr_equal(catalog_find(c, numbered(7)), again);
	catalog_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(sets_come_back_in_order_of_creation),
		T(a_record_is_synced_before_it_is_renamed),
		T(a_sync_that_fails_leaves_the_old_record),
		T(what_a_crash_leaves_is_tidied),
		T(what_is_no_record_is_set_aside_and_counted),
		T(a_record_cut_at_any_byte_is_never_half_read),
		T(copies_and_twins_are_set_aside),
		T(a_record_under_another_name_is_set_aside),
		T(a_link_in_a_records_place_is_not_followed),
		T(a_damaged_lineage_is_not_replaced),
		T(a_state_directory_that_is_not_there_is_said),
		T(a_full_disk_leaves_the_old_record),
		T(a_directory_that_vanished_is_an_error),
		T(every_text_survives_the_record),
		T(sigkill_at_any_moment_leaves_whole_records),
		T(each_of_many_is_found_by_its_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
