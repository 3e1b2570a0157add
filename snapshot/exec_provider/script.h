/* snapshot/exec_provider/script.h - one call of the operator's executable: a request on its stdin, its stdout collected,
 * its end awaited. Threads: any. Blocks up to the deadline, and a moment more while a killed process ends. */
#ifndef STILLFS_SNAPSHOT_EXEC_SCRIPT_H
#define STILLFS_SNAPSHOT_EXEC_SCRIPT_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stdint.h>

#define SCRIPT_OUTPUT_MAX (1u << 20) /* bytes; more is an error */

struct script_call {
	const char *path, *verb; /* its only argument */
	const char *request; /* text for stdin */
	uint64_t deadline_ns; /* CLOCK_BOOTTIME: killed then, with its process group */
	bool (*stop)(void *arg); /* or NULL: killed when true */
	void *stop_arg;
	struct vbuf out; /* filled; the caller frees it */
};

/* 0: it ended with code 0. Else: -ETIMEDOUT, -ECANCELED killed; -EAGAIN, -ESTALE, -ENODATA by its exit code (75, 65, 66);
 * -EMSGSIZE too much output; -EIO another code or a signal, the sentence with its last line on stderr; or why it could
 * not be started. */
int script_run(struct script_call *c, struct snap_error *err);

#endif
