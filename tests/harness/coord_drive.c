/* tests/harness/coord_drive.c - one coordinator, driven by lines on stdin: for the conformance suite (test_coordinators.py).
 * coord_drive NAME STATE_DIR [KEY=VALUE]...; commands: preflight MS, prepare SET MS, lock MS LOCK_MS, position MS,
 * told (how the last lock went), unlock MS, finish RESULT MS, recover MS, examine MS, sever AFTER_MS (another thread cuts the next call), status.
 * Answers: lines of text with a blank in front, then "= CODE MS MESSAGE". Ends at the end of its input, by close. */
#include "snapshot/coordinator.h"
#include "tests/harness/drive_answer.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct conf_key table[] = {
	{ "state_dir", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "gate_timeout", CONF_MS, "10", NULL, 100, 50000, "", "" },
	{ "db.defaults_file", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.socket", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.tls", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ "db.lock", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ "db.lock_timeout", CONF_MS, "2", NULL, 100, 30000, "", "" },
	{ "db.lock_patience", CONF_MS, "8ms", NULL, 0, 1000, "", "" },
	{ "db.blockers", CONF_STRING, "wait:30", NULL, 0, 0, "", "" },
	{ "db.blocker_age", CONF_MS, "5", NULL, 100, 3600000, "", "" },
	{ "db.stop_replica", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ "db.position_file", CONF_STRING, "both", NULL, 0, 0, "", "" },
	{ "db.binlog_outside", CONF_BOOL, "no", NULL, 0, 0, "", "" },
	{ "db.when_down", CONF_STRING, "fail", NULL, 0, 0, "", "" },
	{ "db.semi_sync_timeout", CONF_MS, "10", NULL, 100, 3600000, "", "" },
	{ "db.galera", CONF_STRING, "refuse", NULL, 0, 0, "", "" },
	{ "db.group_primary", CONF_STRING, "refuse", NULL, 0, 0, "", "" },
	{ "db.mongodb_uri_file", CONF_PATH, "", NULL, 0, 0, "", "" },
	{ "db.mongodb_lock", CONF_STRING, "auto", NULL, 0, 0, "", "" },
	{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
};

extern const struct coord_ops COORDINATOR;

static struct {
	void *self;
	uint64_t cut_ns; /* 0: not asked for */
	pthread_mutex_t lock;
	pthread_cond_t change;
} at = { .lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER };

static void *cutter(void *arg)
{
	(void)pthread_mutex_lock(&at.lock);
	for (;;) {
		const struct timespec pause = { .tv_nsec = 1000000 };
		uint64_t when = at.cut_ns;

		if (!when) {
			(void)pthread_cond_wait(&at.change, &at.lock);
			continue;
		}
		(void)pthread_mutex_unlock(&at.lock);
		while (clock_boot_ns() < when)
			(void)nanosleep(&pause, NULL);
		COORDINATOR.sever(at.self);
		(void)pthread_mutex_lock(&at.lock);
		at.cut_ns = 0;
	}
	return NULL;
}

static int call(char *line, struct vbuf *out, struct snap_error *err)
{
	const struct coord_ops *c = &COORDINATOR;
	char word[16] = "", set[64] = "";
	unsigned a = 5000, b = 5000;
	struct coord_lock told;

	(void)sscanf(line, "%15s", word);
	if (strcmp(word, "prepare") == 0) {
		(void)sscanf(line, "%*s %63s %u", set, &a);
		return c->prepare ? c->prepare(at.self, "a-set", a, err) : 0;
	}
	(void)sscanf(line, "%*s %u %u", &a, &b);
	if (strcmp(word, "preflight") == 0)
		return c->preflight(at.self, a, err);
	if (strcmp(word, "lock") == 0)
		return c->lock(at.self, a, b, err);
	if (strcmp(word, "told") == 0) {
		c->lock_told(at.self, &told);
		vbuf_printf(out, "given_up %u\nlongest_ms %g\n", told.given_up, (double)told.longest_ns / 1e6);
		return 0;
	}
	if (strcmp(word, "position") == 0)
		return c->position(at.self, a, out, err);
	if (strcmp(word, "unlock") == 0)
		return c->unlock(at.self, a, err);
	if (strcmp(word, "finish") == 0)
		return c->finish ? c->finish(at.self, (int)a, b, err) : 0;
	if (strcmp(word, "recover") == 0)
		return c->recover ? c->recover(at.self, a, err) : 0;
	if (strcmp(word, "examine") == 0)
		return c->examine(at.self, a, out, err);
	if (strcmp(word, "status") == 0) {
		c->status(at.self, out);
		return 0;
	}
	if (strcmp(word, "sever") != 0)
		return snap_error_set(err, -EINVAL, "unknown command: %s", word);
	(void)pthread_mutex_lock(&at.lock);
	at.cut_ns = clock_boot_ns() + a * NS_PER_MS;
	(void)pthread_cond_signal(&at.change);
	(void)pthread_mutex_unlock(&at.lock);
	return 0;
}

static void answer(char *line)
{
	struct vbuf out = VBUF_INIT;
	struct snap_error err = { 0 };
	uint64_t start = clock_boot_ns();
	int r = call(line, &out, &err);

	drive_answer(r, &out, &err, start);
}

int main(int argc, char **argv)
{
	struct snap_error err = { 0 };
	struct conf *conf = conf_new(table, &err);
	struct door d = { .name = "drive", .conf = conf };
	char line[512];
	pthread_t t;

	for (int i = 1; conf && i < argc; i++) {
		char *eq = strchr(argv[i], '=');

		if (!eq)
			return 2;
		*eq = '\0';
		if (strncmp(argv[i], "mount_dev", 9) == 0) /* of a path that counts as on the mount */
			d.pairs[d.n_pairs++] = (struct door_pair){ .backing = "/nowhere", .mountpoint = "/nowhere", .backing_fd = -1,
								   .mount_dev = strtoull(eq + 1, NULL, 0) };
		else if (conf_set(conf, "drive", argv[i], eq + 1, &err) < 0)
			break;
	}
	if (!err.code)
		at.self = COORDINATOR.open(&d, &err);
	if (!at.self) {
		printf("= %d 0 %s\n", err.code, err.msg);
		conf_free(conf);
		return 1;
	}
	if (pthread_create(&t, NULL, cutter, NULL) != 0)
		return 1;
	printf("= 0 0 open\n");
	(void)fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		answer(line);
	(void)pthread_mutex_lock(&at.lock); /* no cut while it is closed */
	COORDINATOR.close(at.self);
	conf_free(conf);
	return 0;
}
