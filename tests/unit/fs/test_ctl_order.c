/* tests/unit/fs/test_ctl_order.c - the control tree's files keep their numbers, or SHM_VERSION says that they do not. */
#include "fs/ctl_int.h"
#include "fs/shm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* FNV-1a, of each name with its final NUL. */
static uint32_t add(uint32_t sum, const struct cfile *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (size_t k = 0; k <= strlen(t[i].name); k++)
			sum = (sum ^ (unsigned char)t[i].name[k]) * 16777619u;
	return sum;
}

/* An open file of the control tree is its number to the kernel, and to the daemon of another binary that takes over. */
static void another_order_of_the_files_needs_another_version(void **state)
{
	struct ctl *c = calloc(1, sizeof(*c));
	struct snap_error err = { 0 };
	uint32_t sum;

	assert_non_null(c);
	assert_int_equal(ctl_files_init(c, &err), 0);
	sum = add(add(2166136261u, c->root, c->n_root), c->set, c->n_set);
	free(c);
	if (sum != SHM_CONTROL_ORDER)
		fail_msg("the control tree's files or their order have changed: raise SHM_VERSION (%u now), and SHM_CONTROL_ORDER becomes 0x%08xu",
			 SHM_VERSION, sum);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_order_of_the_files_needs_another_version),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
