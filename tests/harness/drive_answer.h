/* tests/harness/drive_answer.h - what the drivers of conformance suites (coord_drive.c, prov_drive.c) answer to a line. */
#ifndef STILLFS_TESTS_DRIVE_ANSWER_H
#define STILLFS_TESTS_DRIVE_ANSWER_H

#include "base/clock.h"
#include "base/error.h"
#include "base/vbuf.h"

#include <stdio.h>
#include <string.h>

/* On stdout: the lines of *out with a blank in front, then "= CODE MS MESSAGE". start_ns: of the call. Frees *out. */
static inline void drive_answer(int r, struct vbuf *out, const struct snap_error *err, uint64_t start_ns)
{
	char *save = NULL;

	for (char *l = !out->data ? NULL : strtok_r(out->data, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		printf(" %s\n", l);
	printf("= %d %.1f %s\n", r, (double)(clock_boot_ns() - start_ns) / 1e6, err->code ? err->msg : "");
	(void)fflush(stdout);
	vbuf_free(out);
}

#endif
