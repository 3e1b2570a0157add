/* snapshot/ebs/sigv4.h - AWS Signature Version 4 of a POST, with OpenSSL's HMAC. Pure: the time is an argument, so
 * that a clock that is off can be corrected (libcurl's own signing takes the host's clock and before 8.3 sends a date
 * given to it twice), and nothing secret is left in memory that is not ours to wipe. */
#ifndef STILLFS_SNAPSHOT_EBS_SIGV4_H
#define STILLFS_SNAPSHOT_EBS_SIGV4_H

#include "snapshot/ebs/http.h"

struct sigv4_key {
	const char *key_id, *secret;
	const char *region, *service;
};

#define SIGV4_DATE_MAX 17 /* 20150830T123600Z and NUL */
#define SIGV4_AUTH_MAX 1024

void sigv4_date(int64_t utc, char buf[SIGV4_DATE_MAX]);
/* The value of Authorization. headers: every header that is to be signed, sorted by name, names in lower case, host and
 * x-amz-date among them; values without blanks around. query: canonical, "" for none. 0; -ENAMETOOLONG, -ENOMEM. */
int sigv4_sign(const struct sigv4_key *k, const char *date, const char *method, const char *path, const char *query,
	       const struct http_header *headers, size_t n, const char *body, size_t body_len,
	       char auth[SIGV4_AUTH_MAX]);

#endif
