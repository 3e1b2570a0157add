/* snapshot/ebs/key.h - keys to AWS's APIs. Who holds one wipes it (explicit_bzero) when it goes. */
#ifndef STILLFS_SNAPSHOT_EBS_KEY_H
#define STILLFS_SNAPSHOT_EBS_KEY_H

#include <stdint.h>

struct aws_key {
	char id[132], secret[256], token[4096]; /* token "": long-lived keys */
	int64_t expires_utc; /* 0: never */
	char source[64]; /* for people: "environment", "instance role", ... */
};

#endif
