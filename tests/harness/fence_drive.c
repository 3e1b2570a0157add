/* tests/harness/fence_drive.c - the fence over a connection alone, for tests/integration/test_fence.py.
 * fence_drive DEFAULTS_FILE SOCKET RECORD_FILE ALLOW INCLUDE_DIR PERSIST XA MAX_MS FAIL_AT COMMAND; command: check, on, off,
 * verify. FAIL_AT: the record cannot be written at that time, 0: never. Prints "ended ...", "note ...", "found ..." and
 * at last "= CODE MESSAGE". */
#include "snapshot/fence/fence.h"
#include "snapshot/mysql_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	const char *file;
	int fail_at, n;
} at;

static int record(void *arg, const char *lines, struct snap_error *err)
{
	FILE *f;

	if (++at.n == at.fail_at)
		return snap_error_set(err, -ENOSPC, "record: no space");
	f = fopen(at.file, "w");
	if (!f || fputs(lines, f) < 0 || fclose(f) != 0)
		return snap_error_set(err, -EIO, "record: %s", at.file);
	return 0;
}

static void ended(void *arg, const struct fence_session *s)
{
	printf("ended %s@%s program=%s db=%s\n", s->user, s->host, s->program, s->db);
}

static void note(void *arg, const char *sentence)
{
	printf("note %s\n", sentence);
}

int main(int argc, char **argv)
{
	struct fence_opts o = { .record = record, .ended = ended, .note = note };
	struct vbuf lines = VBUF_INIT, found = VBUF_INIT;
	struct my_where w = { .host = "", .tls = "auto", .connect_s = 5, .io_s = 20 };
	struct snap_error err = { 0 };
	char buf[4096];
	struct my *m;
	size_t n;
	FILE *f;
	int r = -EINVAL;

	if (argc != 11)
		return 2;
	w.defaults_file = argv[1];
	w.socket = argv[2];
	at.file = argv[3];
	o.allow = argv[4];
	o.include_dir = argv[5];
	o.persist = strcmp(argv[6], "yes") == 0;
	o.xa_stays = strcmp(argv[7], "allow") == 0;
	o.max_ms = (uint32_t)atoi(argv[8]);
	at.fail_at = atoi(argv[9]);
	f = fopen(at.file, "r");
	while (f && (n = fread(buf, 1, sizeof(buf), f)) > 0)
		vbuf_add(&lines, buf, n);
	if (f)
		(void)fclose(f);
	m = my_open_plain(&w, &err);
	if (!m)
		return 1;
	if (strcmp(argv[10], "check") == 0)
		r = fence_check(m, &o, &found, &err);
	else if (strcmp(argv[10], "on") == 0)
		r = fence_on(m, &o, &lines, &err);
	else if (strcmp(argv[10], "off") == 0)
		r = fence_off(m, &o, &lines, &err);
	else if (strcmp(argv[10], "verify") == 0)
		r = my_reach(m, &err) < 0 ? err.code : fence_verify(m, vbuf_text(&lines), &err);
	if (r == 0 && strcmp(argv[10], "off") == 0)
		(void)unlink(at.file);
	for (const char *p = vbuf_text(&found), *end; *p; p = end + 1) {
		end = strchrnul(p, '\n');
		printf("found %.*s\n", (int)(end - p), p);
	}
	printf("= %d %s\n", r, err.msg);
	my_close_plain(m);
	vbuf_free(&lines);
	vbuf_free(&found);
	return 0;
}
