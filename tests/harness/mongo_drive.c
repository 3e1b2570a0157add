/* tests/harness/mongo_drive.c - the change of a replica set's primary by itself (snapshot/cutover/mongo.h), for tests.
 * mongo_drive check|run|look FROM TO [MAX_LAG_S CATCH_UP_S ELECT_S [FAIL]]: prints the findings, "note STEP TEXT" for each line of
 * the journal, then "outcome WORD" and "error -ERRNO SENTENCE". FAIL: the step whose line the journal refuses, or
 * "cancel". */
#include "snapshot/cutover/mongo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *fails = "";

static int note(void *c, const char *step, const char *text, struct snap_error *err)
{
	(void)c;
	if (strcmp(fails, step) == 0)
		return snap_error_set(err, -ENOSPC, "the journal is full");
	printf("note %s %s\n", step, text);
	return 0;
}

static bool cancelled(void *c)
{
	(void)c;
	return strcmp(fails, "cancel") == 0;
}

int main(int argc, char **argv)
{
	static const char *const words[] = { "done", "refused", "stayed", "other", "none" };
	struct mongo_cut m = { .max_lag_s = 10, .catch_up_s = 5, .elect_s = 20, .note = note, .cancelled = cancelled };
	struct vbuf out = VBUF_INIT;
	struct snap_error err = { 0 };
	enum mongo_outcome o = MONGO_REFUSED;

	if (argc < 4)
		return 2;
	m.from = argv[2];
	m.to = argv[3];
	if (argc > 6) {
		m.max_lag_s = (uint32_t)atoi(argv[4]);
		m.catch_up_s = (uint32_t)atoi(argv[5]);
		m.elect_s = (uint32_t)atoi(argv[6]);
	}
	fails = argc > 7 ? argv[7] : "";
	if (strcmp(argv[1], "check") == 0)
		(void)mongo_cut_check(&m, &out, &err);
	else
		o = strcmp(argv[1], "run") == 0 ? mongo_cut_run(&m, &out, &err) : mongo_cut_look(&m, 0, &err);
	printf("%soutcome %s\n", vbuf_text(&out), words[o]);
	if (err.code)
		printf("error %d %s\n", err.code, err.msg);
	vbuf_free(&out);
	return 0;
}
