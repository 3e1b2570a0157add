/* snapshot/ebs/creds_int.h - shared by creds.c (chain, cache), creds_where.c (region, endpoint), creds_fetch.c (metadata
 * service, container, process) and creds_role.c (STS). */
#ifndef STILLFS_SNAPSHOT_EBS_CREDS_INT_H
#define STILLFS_SNAPSHOT_EBS_CREDS_INT_H

#include "snapshot/ebs/creds.h"
#include "snapshot/ebs/ec2.h"
#include "snapshot/ebs/ini.h"

struct creds {
	char *profile_opt, *region_opt, *endpoint_opt;
	bool fips, dualstack, imds_v1;
	struct ini *config, *shared;
	struct http *http; /* metadata service, container */
	struct ec2 *sts;
	struct aws_key key;
	bool have_key;
	char region[64];
	char imds_token[512];
	uint64_t imds_token_end_ns;
	/* of the call that runs; stop: of creds_get alone, NULL outside of it */
	uint64_t deadline_ns;
	bool (*stop)(void *arg);
	void *stop_arg;
};

const char *creds_env(const char *name); /* "" when it is not set */
bool creds_true(const char *text);
const char *creds_profile(const struct creds *c);
/* A setting of a profile: credentials file, then config file. "" when it is not there. */
const char *creds_setting(const struct creds *c, const char *profile, const char *key);
/* The section of a profile in the config file: "default" or "profile NAME". */
void creds_section(const char *profile, char *buf, size_t cap);
int creds_time(const char *text, int64_t *utc); /* ISO 8601; -EINVAL */
/* Keys from the JSON of metadata service, container or process. who: for the sentence. -EACCES, -EBADMSG. */
int creds_json(const char *text, const char *who, struct aws_key *out, struct snap_error *err);

/* creds_fetch.c. -ENOENT: this source is not there (no sentence); else *err. */
int creds_container(struct creds *c, struct aws_key *out, struct snap_error *err);
int creds_imds(struct creds *c, struct aws_key *out, struct snap_error *err);
/* creds_process.c */
int creds_process(struct creds *c, const char *command, struct aws_key *out, struct snap_error *err);
/* creds_role.c */
int creds_assume(struct creds *c, const char *profile, const struct aws_key *source, struct aws_key *out,
		 struct snap_error *err);
int creds_web_identity(struct creds *c, const char *arn, const char *token_file, const char *session, struct aws_key *out,
		       struct snap_error *err);

#endif
