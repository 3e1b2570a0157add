/* tests/unit/fs/test_gate_ops.c - what each operation of linux/fuse.h does to the backing. Built by
 * opcodes.py: FUSE_OPCODES(X) calls X for every name of enum fuse_opcode of this machine's header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/gate.h"
#include "fs/proto.h"
#include "opcodes.h"

#include <fcntl.h>
#include <string.h>

/* design.md, section 4. Written by name, apart from the table under test. */
static const char *const modify[] = {
	"FUSE_WRITE", "FUSE_FALLOCATE", "FUSE_SETATTR", "FUSE_CREATE", "FUSE_MKNOD", "FUSE_MKDIR", "FUSE_SYMLINK",
	"FUSE_LINK", "FUSE_UNLINK", "FUSE_RMDIR", "FUSE_RENAME", "FUSE_RENAME2", "FUSE_SETXATTR", "FUSE_REMOVEXATTR",
	"FUSE_COPY_FILE_RANGE", "FUSE_TMPFILE",
};
static const char *const sync_[] = { "FUSE_FSYNC", "FUSE_FSYNCDIR", "FUSE_SYNCFS" };
static const char *const flow[] = {
	"FUSE_IOCTL", "FUSE_LOOKUP", "FUSE_FORGET", "FUSE_GETATTR", "FUSE_READLINK", "FUSE_OPEN", "FUSE_READ", "FUSE_STATFS",
	"FUSE_RELEASE", "FUSE_GETXATTR", "FUSE_LISTXATTR", "FUSE_FLUSH", "FUSE_INIT", "FUSE_OPENDIR", "FUSE_READDIR",
	"FUSE_RELEASEDIR", "FUSE_GETLK", "FUSE_SETLK", "FUSE_SETLKW", "FUSE_ACCESS", "FUSE_INTERRUPT", "FUSE_BMAP",
	"FUSE_DESTROY", "FUSE_POLL", "FUSE_NOTIFY_REPLY", "FUSE_BATCH_FORGET", "FUSE_READDIRPLUS", "FUSE_LSEEK",
	"FUSE_SETUPMAPPING", "FUSE_REMOVEMAPPING", "FUSE_STATX",
};
/* CUSE is no filesystem's */
static const char *const unknown[] = { "CUSE_INIT", "CUSE_INIT_BSWAP_RESERVED", "FUSE_INIT_BSWAP_RESERVED" };

static const struct {
	const char *name;
	uint32_t op;
} all[] = {
#define ENTRY(n) { #n, n },
	FUSE_OPCODES(ENTRY)
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool among(const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], name) == 0)
			return true;
	return false;
}

static void every_opcode_of_the_header_is_classified_as_designed(void **state)
{
	struct fuse_open_in none = { 0 };

	assert_true(COUNT(all) >= 45);
	for (size_t i = 0; i < COUNT(all); i++) {
		int is = (int)gate_classify(all[i].op, &none, sizeof(none));

		if (among(all[i].name, modify, COUNT(modify)) || among(all[i].name, unknown, COUNT(unknown)))
			assert_int_equal(is, GATE_MODIFY);
		else if (among(all[i].name, sync_, COUNT(sync_)))
			assert_int_equal(is, GATE_SYNC);
		else if (among(all[i].name, flow, COUNT(flow)))
			assert_int_equal(is, GATE_FLOW);
		else
			fail_msg("%s is new in linux/fuse.h: say in gate_ops.c and here what it does", all[i].name);
	}
}

static void operations_newer_than_the_header_are_known(void **state)
{
	assert_int_equal(gate_classify(51, NULL, 0), GATE_MODIFY); /* TMPFILE */
	assert_int_equal(gate_classify(52, NULL, 0), GATE_FLOW); /* STATX */
}

static void an_open_modifies_only_when_it_truncates(void **state)
{
	struct fuse_open_in in = { .flags = O_RDWR };

	assert_int_equal(gate_classify(FUSE_OPEN, &in, sizeof(in)), GATE_FLOW);
	in.flags = O_WRONLY | O_APPEND | O_DIRECT | O_SYNC;
	assert_int_equal(gate_classify(FUSE_OPEN, &in, sizeof(in)), GATE_FLOW);
	in.flags = O_WRONLY | O_TRUNC;
	assert_int_equal(gate_classify(FUSE_OPEN, &in, sizeof(in)), GATE_MODIFY);
	in.flags = O_RDONLY | O_TRUNC;
	assert_int_equal(gate_classify(FUSE_OPEN, &in, sizeof(in)), GATE_MODIFY);
	assert_int_equal(gate_classify(FUSE_OPENDIR, &in, sizeof(in)), GATE_FLOW);
}

static void a_request_cut_short_is_not_read_beyond_its_end(void **state)
{
	unsigned char short_[sizeof(struct fuse_open_in) - 1];

	memset(short_, 0xff, sizeof(short_)); /* O_TRUNC is set, but there is no whole struct */
	assert_int_equal(gate_classify(FUSE_OPEN, short_, sizeof(short_)), GATE_FLOW);
	assert_int_equal(gate_classify(FUSE_OPEN, NULL, 0), GATE_FLOW);
	assert_int_equal(gate_classify(FUSE_WRITE, NULL, 0), GATE_MODIFY);
}

static void an_opcode_nobody_knows_modifies(void **state)
{
	static const uint32_t ops[] = { 0, 7, 19, 53, 63, 64, 255, 4095, 4096, 1u << 20, UINT32_MAX };

	for (size_t i = 0; i < COUNT(ops); i++)
		assert_int_equal(gate_classify(ops[i], NULL, 0), GATE_MODIFY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_opcode_of_the_header_is_classified_as_designed),
		cmocka_unit_test(operations_newer_than_the_header_are_known),
		cmocka_unit_test(an_open_modifies_only_when_it_truncates),
		cmocka_unit_test(a_request_cut_short_is_not_read_beyond_its_end),
		cmocka_unit_test(an_opcode_nobody_knows_modifies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
