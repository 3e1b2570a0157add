/* tests/unit/snapshot/test_coord_group.c - several coordinators under one gate: order, and all released whatever fails. */
#include "tests/unit/snapshot/unit.h"
#include "snapshot/coordinator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct conf_key table[] = {
	{ "db", CONF_STRING, "mysql,mongodb", NULL, 0, 0, "", "" },
	{ "db.lock_timeout", CONF_MS, "2", NULL, 100, 30000, "", "" },
	{ "hook.pre", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "hook.locked", CONF_PATH, "/some/hook", NULL, 0, 0, "", "" },
	{ "hook.post", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

/* What was called, as "mongodb.lock mysql.lock ...". fails: a call in the same words that fails once. */
static struct {
	char tape[2048];
	const char *fails;
	int code;
	int open;
	uint32_t lock_ms[3]; /* given to each lock */
	unsigned locks;
} at;

static int call(const char *who, const char *what, struct snap_error *err)
{
	char text[64];

	(void)snprintf(text, sizeof(text), "%s.%s", who, what);
	(void)snprintf(at.tape + strlen(at.tape), sizeof(at.tape) - strlen(at.tape), "%s%s", at.tape[0] ? " " : "", text);
	if (!at.fails || strcmp(at.fails, text) != 0)
		return 0;
	return snap_error_set(err, at.code, "%s: told to fail", text);
}

static void part_close(void *self)
{
	at.open--;
}

#define PART(who)                                                                                                     \
	static void *who##_open(const struct door *d, struct snap_error *err)                                         \
	{                                                                                                             \
		at.open++;                                                                                            \
		return &at;                                                                                           \
	}                                                                                                             \
	static int who##_preflight(void *c, uint32_t ms, struct snap_error *err)                                      \
	{                                                                                                             \
		return call(#who, "preflight", err);                                                                  \
	}                                                                                                             \
	static int who##_lock(void *c, uint32_t ms, uint32_t lock_ms, struct snap_error *err)                         \
	{                                                                                                             \
		at.lock_ms[at.locks++ % 3] = ms;                                                                      \
		return call(#who, "lock", err);                                                                       \
	}                                                                                                             \
	static void who##_lock_told(void *c, struct coord_lock *out)                                                  \
	{                                                                                                             \
		*out = (struct coord_lock){ 1000 + strlen(#who), (unsigned)strlen(#who), 7 };                         \
	}                                                                                                             \
	static int who##_position(void *c, uint32_t ms, struct vbuf *out, struct snap_error *err)                     \
	{                                                                                                             \
		vbuf_puts(out, #who " here\n");                                                                       \
		return call(#who, "position", err);                                                                   \
	}                                                                                                             \
	static int who##_unlock(void *c, uint32_t ms, struct snap_error *err)                                         \
	{                                                                                                             \
		return call(#who, "unlock", err);                                                                     \
	}                                                                                                             \
	static void who##_sever(void *c)                                                                              \
	{                                                                                                             \
		(void)call(#who, "sever", NULL);                                                                      \
	}                                                                                                             \
	static void who##_status(void *c, struct vbuf *out)                                                           \
	{                                                                                                             \
	}                                                                                                             \
	static int who##_prepare(void *c, const char *set, uint32_t ms, struct snap_error *err)                       \
	{                                                                                                             \
		return call(#who, "prepare", err);                                                                    \
	}                                                                                                             \
	static int who##_finish(void *c, int result, uint32_t ms, struct snap_error *err)                             \
	{                                                                                                             \
		return call(#who, "finish", err);                                                                     \
	}                                                                                                             \
	static const struct coord_ops who##_ops = {                                                                   \
		.name = #who, .open = who##_open, .close = part_close, .preflight = who##_preflight,                  \
		.lock = who##_lock, .lock_told = who##_lock_told, .position = who##_position, .unlock = who##_unlock, .sever = who##_sever,         \
		.status = who##_status, .prepare = who##_prepare, .finish = who##_finish,                             \
	}

PART(mongodb);
PART(mysql);
PART(hook);

const struct coord_ops *coordinator_find(const char *name)
{
	static const struct coord_ops *const all[] = { &hook_ops, &mysql_ops, &mongodb_ops };

	for (size_t i = 0; i < 3; i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

struct rig {
	struct conf *conf;
	struct door door;
	void *self;
	struct snap_error err;
};

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	memset(&at, 0, sizeof(at));
	r->conf = conf_new(table, &r->err);
	r->door.conf = r->conf;
	r->self = coord_group.open(&r->door, &r->err);
	assert_non_null(r->self);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	if (r->self)
		coord_group.close(r->self);
	assert_int_equal(at.open, 0);
	conf_free(r->conf);
	free(r);
	return 0;
}

static void the_order_is_fixed_whatever_the_option_says(void **state)
{
	struct rig *r = *state;
	struct vbuf out = VBUF_INIT;

	assert_int_equal(coord_group.preflight(r->self, 1000, &r->err), 0);
	assert_int_equal(coord_group.prepare(r->self, "s", 1000, &r->err), 0);
	assert_int_equal(coord_group.lock(r->self, 1000, 1000, &r->err), 0);
	assert_int_equal(coord_group.position(r->self, 1000, &out, &r->err), 0);
	assert_int_equal(coord_group.unlock(r->self, 1000, &r->err), 0);
	assert_int_equal(coord_group.finish(r->self, 0, 1000, &r->err), 0);
	assert_string_equal(at.tape, "mongodb.preflight mysql.preflight hook.preflight "
				     "hook.prepare mysql.prepare mongodb.prepare "
				     "mongodb.lock mysql.lock hook.lock "
				     "mongodb.position mysql.position hook.position "
				     "hook.unlock mysql.unlock mongodb.unlock "
				     "mongodb.finish mysql.finish hook.finish");
	assert_string_equal(vbuf_text(&out), "mongodb here\nmysql here\nhook here\n");
	vbuf_free(&out);
}

/* Only the first may let the application run between tries: the others would do so with the first one locked. */
static void the_first_of_them_tells_and_has_the_time_for_tries(void **state)
{
	struct rig *r = *state;
	struct coord_lock told;

	assert_int_equal(coord_group.lock(r->self, 4000, 1000, &r->err), 0);
	assert_true(at.lock_ms[0] > 2000);
	assert_int_equal(at.lock_ms[1], 2000); /* db.lock_timeout */
	assert_int_equal(at.lock_ms[2], 2000);
	coord_group.lock_told(r->self, &told);
	assert_int_equal(told.began_ns, 1000 + strlen("mongodb"));
	assert_int_equal(told.given_up, strlen("mongodb"));
	assert_int_equal(coord_group.unlock(r->self, 1000, &r->err), 0);
}

static void a_second_lock_that_fails_releases_the_first(void **state)
{
	struct rig *r = *state;

	at.fails = "mysql.lock";
	at.code = -EAGAIN;
	assert_int_equal(coord_group.lock(r->self, 1000, 1000, &r->err), -EAGAIN);
	assert_string_equal(r->err.msg, "mysql.lock: told to fail");
	assert_string_equal(at.tape, "mongodb.lock mysql.lock mongodb.unlock");
	assert_int_equal(coord_group.unlock(r->self, 1000, &r->err), 0);
	assert_string_equal(at.tape, "mongodb.lock mysql.lock mongodb.unlock");
}

static void a_lost_lock_fails_the_set_and_the_others_are_released(void **state)
{
	struct rig *r = *state;

	assert_int_equal(coord_group.lock(r->self, 1000, 1000, &r->err), 0);
	at.fails = "mysql.unlock";
	at.code = -ENOLCK;
	assert_int_equal(coord_group.unlock(r->self, 1000, &r->err), -ENOLCK);
	assert_string_equal(strstr(at.tape, "hook.unlock"), "hook.unlock mysql.unlock mongodb.unlock");
}

static void a_failed_prepare_is_finished_for_those_that_began(void **state)
{
	struct rig *r = *state;

	at.fails = "mysql.prepare";
	at.code = -EAGAIN;
	assert_int_equal(coord_group.prepare(r->self, "s", 1000, &r->err), -EAGAIN);
	assert_int_equal(coord_group.finish(r->self, -EAGAIN, 1000, &r->err), 0);
	assert_string_equal(at.tape, "hook.prepare mysql.prepare mysql.finish hook.finish");
}

static void sever_reaches_all(void **state)
{
	struct rig *r = *state;

	coord_group.sever(r->self);
	assert_string_equal(at.tape, "mongodb.sever mysql.sever hook.sever");
}

static void wrong_lists_are_refused(void **state)
{
	static const struct {
		const char *db, *says;
	} bad[] = {
		{ "mysql,oracle", "db=oracle: unknown; this build has: none, mysql, mongodb" },
		{ "mysql+mysql", "db: mysql is named twice" },
		{ "hook", "db=hook: unknown; hooks are set by hook.pre, hook.locked and hook.post" },
		{ "mysql,", "db=: unknown; this build has: none, mysql, mongodb" },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct conf *c = conf_new(table, NULL);
		struct door d = { .conf = c };

		snap_error_clear(&r->err);
		assert_int_equal(conf_set(c, "-o", "db", bad[i].db, &r->err), 0);
		assert_null(coord_group.open(&d, &r->err));
		assert_int_equal(r->err.code, -EINVAL);
		assert_string_equal(r->err.msg, bad[i].says);
		conf_free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_order_is_fixed_whatever_the_option_says, setup, teardown),
		cmocka_unit_test_setup_teardown(the_first_of_them_tells_and_has_the_time_for_tries, setup, teardown),
		cmocka_unit_test_setup_teardown(a_second_lock_that_fails_releases_the_first, setup, teardown),
		cmocka_unit_test_setup_teardown(a_lost_lock_fails_the_set_and_the_others_are_released, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failed_prepare_is_finished_for_those_that_began, setup, teardown),
		cmocka_unit_test_setup_teardown(sever_reaches_all, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_lists_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
