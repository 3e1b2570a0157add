/* tests/harness/wtdb.c - a database on libwiredtiger that is told what to do: wtdb HOME CONFIG WRITERS, or wtdb verify HOME CONFIG.
 * Writers commit (writer, 1), (writer, 2), ... with the log synced and say "ack WRITER N" once the commit has returned.
 * Commands, a line each on stdin, each answered by "ok COMMAND ..." or "error COMMAND ERRNO": checkpoint, compact,
 * thin (delete nine rows in ten of those committed so far), read (through a checkpoint, which is what mmap serves),
 * backup, backup-end, quiet (the writers end), end (all is closed cleanly).
 * verify: opens it, which recovers, checks every byte and the tree, and prints "rows WRITER COUNT LAST" for each writer.
 * Called by: tests/harness/wiredtiger.py, which builds it.  Threads: main and the writers, a session each.
 * Errors: printed; exit 1. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wiredtiger.h>

#define TABLE "table:t"
#define WRITERS_MAX 16
#define VALUE_MAX 4000

static WT_CONNECTION *conn;
static atomic_bool quiet;
static atomic_uint_fast64_t committed[WRITERS_MAX];

static void must(int r, const char *what)
{
	if (r == 0)
		return;
	fprintf(stderr, "wtdb: %s: %s\n", what, wiredtiger_strerror(r));
	_exit(1);
}

/* One write(2), so that lines of several threads do not mix and nothing is lost with the process. */
static void say(const char *format, ...)
{
	char line[256];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(1);
}

static uint64_t key_of(uint64_t writer, uint64_t n)
{
	return writer << 32 | n;
}

/* The value of a key: its length and each byte follow from it. */
static size_t value_of(uint64_t key, unsigned char *buf)
{
	size_t len = 100 + (key * 2654435761u >> 7) % (VALUE_MAX - 100);

	for (size_t i = 0; i < len; i++)
		buf[i] = (unsigned char)(key + i * 31 + (i >> 5));
	return len;
}

static WT_CURSOR *cursor_on(WT_SESSION *session, const char *uri, const char *config)
{
	WT_CURSOR *cursor = NULL;

	must(session->open_cursor(session, uri, NULL, config, &cursor), uri);
	return cursor;
}

static WT_SESSION *new_session(void)
{
	WT_SESSION *session = NULL;

	must(conn->open_session(conn, NULL, "isolation=snapshot", &session), "open_session");
	return session;
}

static void *writer(void *arg)
{
	uint64_t me = (uintptr_t)arg;
	WT_SESSION *session = new_session();
	WT_CURSOR *cursor = cursor_on(session, TABLE, NULL);
	unsigned char buf[VALUE_MAX];
	WT_ITEM value = { .data = buf };

	for (uint64_t n = 1; !atomic_load(&quiet); n++) {
		value.size = value_of(key_of(me, n), buf);
		must(session->begin_transaction(session, NULL), "begin");
		cursor->set_key(cursor, key_of(me, n));
		cursor->set_value(cursor, &value);
		must(cursor->insert(cursor), "insert");
		must(session->commit_transaction(session, NULL), "commit");
		atomic_store(&committed[me], n);
		say("ack %lu %lu\n", me, n);
	}
	return NULL;
}

/* Read what `cursor` sees; returns the number of rows; ends the program when a byte is wrong. */
static uint64_t read_all(WT_CURSOR *cursor, uint64_t *count, uint64_t *last)
{
	unsigned char buf[VALUE_MAX];
	WT_ITEM value;
	uint64_t key, rows = 0;
	int r;

	while ((r = cursor->next(cursor)) == 0) {
		must(cursor->get_key(cursor, &key), "get_key");
		must(cursor->get_value(cursor, &value), "get_value");
		if (value.size != value_of(key, buf) || memcmp(value.data, buf, value.size) != 0 ||
		    key >> 32 >= WRITERS_MAX) {
			fprintf(stderr, "wtdb: row %lu of writer %lu has wrong bytes\n", key & UINT32_MAX,
				key >> 32);
			_exit(1);
		}
		rows++;
		if (count)
			count[key >> 32]++;
		if (last)
			last[key >> 32] = key & UINT32_MAX;
	}
	if (r != WT_NOTFOUND)
		must(r, "next");
	return rows;
}

static int do_thin(WT_SESSION *session, uint64_t *deleted)
{
	WT_CURSOR *cursor = cursor_on(session, TABLE, NULL);
	int r = 0;

	*deleted = 0;
	for (uint64_t w = 0; w < WRITERS_MAX && r == 0; w++) {
		uint64_t end = atomic_load(&committed[w]);

		for (uint64_t n = 1; n < end && r == 0; n++) {
			if (n % 10 == 0)
				continue;
			cursor->set_key(cursor, key_of(w, n));
			r = cursor->remove(cursor);
			*deleted += r == 0;
		}
	}
	(void)cursor->close(cursor);
	return r;
}

static int do_read(WT_SESSION *session, uint64_t *rows)
{
	WT_CURSOR *cursor = NULL;
	int r = session->open_cursor(session, TABLE, NULL, "checkpoint=WiredTigerCheckpoint", &cursor);

	if (r == 0) {
		*rows = read_all(cursor, NULL, NULL);
		r = cursor->close(cursor);
	}
	return r;
}

/* The backup cursor: while it is open, its files and the log stay as they are. */
static int do_backup(WT_SESSION *session, WT_CURSOR **backup, uint64_t *files)
{
	int r = session->open_cursor(session, "backup:", NULL, NULL, backup);

	*files = 0;
	while (r == 0 && (r = (*backup)->next(*backup)) == 0)
		++*files;
	return r == WT_NOTFOUND ? 0 : r;
}

static void answer(const char *command, int r, uint64_t n)
{
	if (r)
		say("error %s %d\n", command, r);
	else
		say("ok %s %lu\n", command, n);
}

static void serve(WT_SESSION *session)
{
	WT_CURSOR *backup = NULL;
	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		uint64_t n = 0;
		int r = ENOSYS;

		line[strcspn(line, "\n")] = '\0';
		if (!strcmp(line, "end"))
			return;
		if (!strcmp(line, "checkpoint")) {
			r = session->checkpoint(session, "force");
		} else if (!strcmp(line, "compact")) {
			r = session->compact(session, TABLE, NULL);
		} else if (!strcmp(line, "thin")) {
			r = do_thin(session, &n);
		} else if (!strcmp(line, "read")) {
			r = do_read(session, &n);
		} else if (!strcmp(line, "backup")) {
			r = do_backup(session, &backup, &n);
		} else if (!strcmp(line, "backup-end") && backup) {
			r = backup->close(backup);
			backup = NULL;
		} else if (!strcmp(line, "quiet")) {
			atomic_store(&quiet, true);
			r = 0;
		}
		answer(line, r, n);
	}
}

static void verify(void)
{
	uint64_t count[WRITERS_MAX] = { 0 }, last[WRITERS_MAX] = { 0 };
	WT_SESSION *session = new_session();
	WT_CURSOR *cursor = cursor_on(session, TABLE, NULL);

	(void)read_all(cursor, count, last);
	must(cursor->close(cursor), "close");
	must(session->verify(session, TABLE, NULL), "verify");
	for (unsigned w = 0; w < WRITERS_MAX; w++)
		if (count[w])
			say("rows %u %lu %lu\n", w, count[w], last[w]);
}

int main(int argc, char **argv)
{
	bool verifies = argc == 4 && !strcmp(argv[1], "verify");
	unsigned long writers = argc == 4 && !verifies ? strtoul(argv[3], NULL, 10) : 0;
	pthread_t threads[WRITERS_MAX];
	WT_SESSION *session;

	if (argc != 4 || writers > WRITERS_MAX) {
		fprintf(stderr, "usage: wtdb HOME CONFIG WRITERS | wtdb verify HOME CONFIG\n");
		return 2;
	}
	must(wiredtiger_open(argv[verifies ? 2 : 1], NULL, argv[verifies ? 3 : 2], &conn), "wiredtiger_open");
	if (verifies) {
		verify();
		must(conn->close(conn, NULL), "close");
		return 0;
	}
	session = new_session();
	must(session->create(session, TABLE, "key_format=Q,value_format=u"), "create");
	say("ok open 0\n");
	for (uintptr_t w = 0; w < writers; w++)
		must(pthread_create(&threads[w], NULL, writer, (void *)w), "thread");
	serve(session);
	atomic_store(&quiet, true);
	for (unsigned long w = 0; w < writers; w++)
		(void)pthread_join(threads[w], NULL);
	must(conn->close(conn, NULL), "close");
	say("ok end 0\n");
	return 0;
}
