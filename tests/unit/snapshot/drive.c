/* tests/unit/snapshot/drive.c - see drive.h. */
#include "tests/unit/snapshot/drive.h"
#include "snapshot/begun.h"
#include "snapshot/engine_int.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int rig_setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	log_quiet();
	r->param = *state;
	fake_setup(&r->f);
	*state = r;
	return 0;
}

int rig_teardown(void **state)
{
	struct rig *r = *state;

	for (int c = 0; c < ON_CALLS; c++)
		fake_release((enum fake_call)c);
	if (r->e)
		rig_stop(r);
	fake_teardown(&r->f);
	free(r);
	return 0;
}

struct CMUnitTest rig_test(const char *name, CMUnitTestFunction fn, const void *param)
{
	return (struct CMUnitTest){ .name = name, .test_func = fn, .setup_func = rig_setup,
				    .teardown_func = rig_teardown, .initial_state = (void *)(uintptr_t)param };
}

void rig_start(struct rig *r)
{
	struct snap_error err = { 0 };

	r->e = engine_new(&r->f.door, &err);
	if (!r->e)
		fail_msg("engine_new: %s", err.msg);
	assert_int_equal(engine_start(r->e, &err), 0);
}

static bool stopped(void *arg)
{
	return engine_stop(arg, 1000) == 0;
}

void rig_stop(struct rig *r)
{
	wait_until(stopped, r->e, "the engine to stop");
	engine_free(r->e);
	r->e = NULL;
}

struct patience {
	sem_t over;
	pthread_t thread;
};

static void *patience_ends(void *arg)
{
	const struct timespec end = { .tv_sec = time(NULL) + 30 };
	struct patience *p = arg;

	while (sem_timedwait(&p->over, &end) < 0)
		if (errno == ETIMEDOUT) {
			fake_clock_run();
			return NULL;
		}
	return NULL;
}

int rig_stop_at_a_standstill(struct rig *r, uint32_t max_ms)
{
	struct patience p;
	int ret;

	fake_clock_hold();
	assert_int_equal(sem_init(&p.over, 0, 0), 0);
	assert_int_equal(pthread_create(&p.thread, NULL, patience_ends, &p), 0);
	ret = engine_stop(r->e, max_ms);
	(void)sem_post(&p.over);
	(void)pthread_join(p.thread, NULL);
	(void)sem_destroy(&p.over);
	fake_clock_run();
	return ret;
}

static void done(void *arg, int result, const struct snap_error *err)
{
	struct asker *a = arg;

	if (atomic_load(&a->answers) == 0)
		(void)snprintf(a->msg, sizeof(a->msg), "%s", err ? err->msg : "");
	atomic_store(&a->result, result);
	atomic_fetch_add(&a->answers, 1);
}

int ask(struct rig *r, const char *text, struct asker *a)
{
	memset(a, 0, sizeof(*a));
	snap_error_clear(&r->err);
	return engine_snapshot(r->e, text, strlen(text), done, a, &a->id, &r->err);
}

int ask_wait(struct rig *r, const char *set, struct asker *a)
{
	memset(a, 0, sizeof(*a));
	snap_error_clear(&r->err);
	return engine_wait(r->e, set, done, a, &a->id, &r->err);
}

static bool answered(void *arg)
{
	struct asker *a = arg;

	return atomic_load(&a->answers) > 0;
}

int answer_of(struct asker *a)
{
	wait_until(answered, a, "an answer");
	assert_int_equal(atomic_load(&a->answers), 1);
	return atomic_load(&a->result);
}

char *show(struct rig *r, const char *set, const char *file)
{
	const struct engine_file *f = set ? engine_set_files : engine_root_files;
	struct vbuf b = VBUF_INIT;
	char *text = NULL;

	if (!set && strcmp(file, "status") == 0) {
		engine_status(r->e, &b);
		text = strdup(vbuf_text(&b));
	}
	for (; !text && f->name; f++)
		if (strcmp(f->name, file) == 0 && f->render(r->e, set, &b) == 0)
			text = strdup(vbuf_text(&b));
	vbuf_free(&b);
	return text;
}

int put(struct rig *r, const char *set, const char *file, const char *text)
{
	const struct engine_file *f = set ? engine_set_files : engine_root_files;

	while (f->name && strcmp(f->name, file) != 0)
		f++;
	snap_error_clear(&r->err);
	return f->write(r->e, set, text, strlen(text), &r->err);
}

struct want {
	struct rig *r;
	const char *set, *text;
};

static bool has_state(void *arg)
{
	const struct want *w = arg;
	char *now = show(w->r, w->set, "state");
	bool is = now && strncmp(now, w->text, strlen(w->text)) == 0;

	free(now);
	return is;
}

void until_state(struct rig *r, const char *set, const char *state)
{
	struct want w = { r, set, state };

	wait_until(has_state, &w, state);
}

static bool is_idle(void *arg)
{
	char *s = show(arg, NULL, "status");
	bool idle = strstr(s, "state idle\n") && strstr(s, "provider_call ok\n") && strstr(s, "database_call ok\n");

	free(s);
	return idle;
}

void until_idle(struct rig *r)
{
	wait_until(is_idle, r, "idle");
}

void take(struct rig *r, const char *name, const char *words)
{
	struct asker a;
	char text[512];
	int ret;

	(void)snprintf(text, sizeof(text), "%s %s\n", name, words);
	ret = ask(r, text, &a);
	if (ret < 0)
		fail_msg("snapshot %s: %s", name, r->err.msg);
	ret = answer_of(&a);
	if (ret < 0)
		fail_msg("snapshot %s failed: %s", name, a.msg);
	until_state(r, name, "complete");
	until_idle(r);
}

/* As if the process had died while the set's record said so. */
void die_and_restart(struct rig *r, const char *set, const char *as)
{
	char *id = show(r, set, "id"), *text, *at, file[80], path[160];
	static char now[1 << 16];

	id[32] = '\0';
	rig_stop(r);
	(void)snprintf(file, sizeof(file), "%s.json", id);
	(void)snprintf(path, sizeof(path), "%s/sets", r->f.state);
	text = file_get(path, file);
	at = strstr(text, "\"state\":\"");
	assert_non_null(at);
	(void)snprintf(now, sizeof(now), "%.*s\"state\":\"%s%s", (int)(at - text), text, as, strchr(at + 9, '"'));
	file_put(path, file, now);
	free(text);
	if (strcmp(as, "running") == 0)
		assert_int_equal(begun_note(id), 0); /* which outlives a death */
	free(id);
	rig_start(r);
}

void assert_nothing_held(struct rig *r)
{
	assert_false(fake_gate_closed());
	assert_false(fake_locked());
	assert_false(fake_frozen());
	assert_false(file_there(r->f.backing, POSITION_FILE));
	assert_string_equal(fake_violations(), "");
}
