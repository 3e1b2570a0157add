/* tests/unit/snapshot/test_verify_process.c - what the verifying process says, as the daemon hears it: lines of any legal length,
 * in whatever pieces they come; and none is dropped in silence. */
#include "tests/unit/snapshot/unit.h"
#include "base/clock.h"
#include "snapshot/verify/process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WITHIN_MS 20000u

/* verify.c's */
void verify_at(struct engine *e, unsigned percent, const char *detail)
{
}

void verify_wishes(struct engine *e, bool *cancel, bool *stop)
{
	*cancel = *stop = false;
}

static void write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len < 700 ? len : 700); /* in pieces that end nowhere */

		if (n <= 0)
			_exit(1);
		text += n;
		len -= (size_t)n;
	}
}

/* Follow a process that says this. */
static int hear(const struct vbuf *said, struct verdict *v, struct snap_error *err)
{
	int p[2], r;
	pid_t pid;

	*v = (struct verdict){ .position = VBUF_INIT };
	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (pid == 0) {
		(void)close(p[0]);
		write_all(p[1], said->data, said->len);
		_exit(0);
	}
	assert_true(pid > 0);
	(void)close(p[1]);
	r = process_follow(NULL, pid, p[0], clock_boot_ns() + WITHIN_MS * NS_PER_MS, false, v, err);
	(void)close(p[0]);
	return r;
}

static void put_set(struct vbuf *out, unsigned servers)
{
	for (unsigned i = 0; i < servers; i++)
		vbuf_printf(out, "%s%08x-71ca-11e1-9e33-c80aa9429562:1-%u", i ? "," : "", i, 1000000 + i);
}

static void a_position_of_many_servers_is_heard_whole(void **state)
{
	static const unsigned servers[] = { 1, 19, 20, 21, 60, 2000 };

	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
		struct vbuf said = VBUF_INIT, want = VBUF_INIT;
		struct snap_error err = { 0 };
		struct verdict v;

		vbuf_puts(&want, "binlog_file bin.000007\ngtid_executed ");
		put_set(&want, servers[i]);
		vbuf_puts(&want, "\nsource_channel two\n");
		vbuf_puts(&said, "progress 96 position\nposition binlog_file bin.000007\nposition gtid_executed ");
		put_set(&said, servers[i]);
		vbuf_puts(&said, "\nposition source_channel two\nresult yes all tables good\n");
		assert_int_equal(hear(&said, &v, &err), 0);
		assert_string_equal(vbuf_text(&v.position), vbuf_text(&want));
		assert_string_equal(v.word, "yes");
		assert_string_equal(v.text, "all tables good");
		vbuf_free(&v.position);
		vbuf_free(&want);
		vbuf_free(&said);
	}
}

static void what_is_no_line_of_ours_is_no_result(void **state)
{
	struct vbuf said = VBUF_INIT;
	struct snap_error err = { 0 };
	struct verdict v;

	vbuf_puts(&said, "position gtid_executed ");
	put_set(&said, 200000);
	vbuf_puts(&said, "\nresult yes all tables good\n");
	assert_int_equal(hear(&said, &v, &err), -EMSGSIZE);
	assert_says(err.msg, "a line of more than 4194304 bytes");
	vbuf_free(&v.position);
	vbuf_free(&said);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_position_of_many_servers_is_heard_whole),
		cmocka_unit_test(what_is_no_line_of_ours_is_no_result),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
