/* snapshot/ebs/ec2_error.h - what an error code of AWS means: a table. Pure. */
#ifndef STILLFS_SNAPSHOT_EBS_EC2_ERROR_H
#define STILLFS_SNAPSHOT_EBS_EC2_ERROR_H

#include <stdbool.h>

enum ec2_kind {
	EC2_FATAL, /* asking again gives the same answer */
	EC2_THROTTLED, /* refused for now: repeat with long pauses */
	EC2_TRANSIENT, /* the server failed: repeat; a creation may have been carried out */
	EC2_SKEW, /* the host's clock is off: correct it once */
	EC2_EXPIRED, /* keys too old: get new ones */
};

struct ec2_error {
	int code; /* -errno */
	enum ec2_kind kind;
	const char *hint; /* what to do, or NULL */
};

/* code: of the error answer, "" when it had none; status: of HTTP. */
struct ec2_error ec2_error_of(const char *code, long status);

#endif
