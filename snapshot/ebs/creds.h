/* snapshot/ebs/creds.h - keys, region and endpoint, from where AWS's tools take them, in their order.
 * Threads:  one thread at a time, the provider's. Reads the environment.
 * Blocks:   up to the deadline; creds_get ends sooner when `stop`, which is asked within the call alone, says so.
 * Errors:   -errno with the sentence. A secret is in no sentence and no log, and is wiped when it goes. */
#ifndef STILLFS_SNAPSHOT_EBS_CREDS_H
#define STILLFS_SNAPSHOT_EBS_CREDS_H

#include "snapshot/ebs/key.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct creds_opts {
	const char *profile; /* "": AWS_PROFILE, else default */
	const char *region; /* "": environment, profile, metadata service */
	const char *endpoint; /* "": environment, profile, made from the region */
	bool fips, dualstack; /* also by environment */
	bool imds_v1; /* the old, unsafe way of the metadata service is allowed */
};

struct creds; /* body in creds_int.h */

struct creds *creds_new(const struct creds_opts *o, struct snap_error *err);
struct creds *creds_free(struct creds *c); /* NULL is harmless; wipes */

/* Keys that live for min_life_s more at least; cached, renewed before they expire. The pointer is valid until the next
 * call. NULL: *err says what was looked for: -EACCES none or refused, -ETIMEDOUT, -ECANCELED, -EINVAL a file. */
const struct aws_key *creds_get(struct creds *c, uint32_t min_life_s, uint64_t deadline_ns, bool (*stop)(void *arg),
				void *stop_arg, struct snap_error *err);
const struct aws_key *creds_held(const struct creds *c); /* what creds_get gave last, as it is; NULL: nothing */
void creds_forget(struct creds *c); /* they were refused: the next creds_get asks anew */
/* Region and endpoint of `service`, found once. Valid as long as c. */
int creds_region(struct creds *c, uint64_t deadline_ns, const char **out, struct snap_error *err);
int creds_endpoint(struct creds *c, const char *service, uint64_t deadline_ns, char *url, size_t cap,
		   struct snap_error *err);
const char *creds_ca_file(struct creds *c); /* AWS_CA_BUNDLE, profile; "" : the system's */
/* A path below /latest/ of the metadata service, e.g. "meta-data/instance-id". 0, -ENOENT, -errno. */
int creds_metadata(struct creds *c, const char *path, uint64_t deadline_ns, char *buf, size_t cap,
		   struct snap_error *err);

#endif
