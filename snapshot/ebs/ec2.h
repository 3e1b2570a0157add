/* snapshot/ebs/ec2.h - calls of AWS query APIs (EC2, STS): form, signature, answer, error codes, repetition.
 * Threads:  one thread at a time, the provider's.
 * Blocks:   up to the deadline of the call.
 * Errors:   -errno with the sentence; never a header, a body or a secret in it. */
#ifndef STILLFS_SNAPSHOT_EBS_EC2_H
#define STILLFS_SNAPSHOT_EBS_EC2_H

#include "snapshot/ebs/http.h"
#include "snapshot/ebs/xml.h"
#include "base/vbuf.h"

struct aws_key; /* key.h */

/* Where a client speaks to, and as whom. Strings are borrowed. */
struct ec2_peer {
	const char *url; /* https://ec2.REGION.amazonaws.com/ */
	const char *region;
	const char *service; /* "ec2", "sts" */
	const char *version; /* of the API */
	const char *ca_file; /* "" : the system's */
	const struct aws_key *key; /* NULL: unsigned */
};

struct ec2; /* one connection */

struct ec2 *ec2_new(struct snap_error *err);
struct ec2 *ec2_free(struct ec2 *c); /* NULL is harmless */

/* What is known of a call that failed. */
enum ec2_fate {
	EC2_DONE, /* it did not fail */
	EC2_REFUSED, /* the server said no, or never got it: nothing was made */
	EC2_UNKNOWN, /* it may have been carried out */
};

struct ec2_call {
	const char *action; /* "DescribeVolumes" */
	const struct vbuf *form; /* of ec2_arg, without Action and Version */
	bool once; /* creates something: never repeated, but for a clock that was off (a refusal) */
	uint64_t deadline_ns;
	bool (*stop)(void *arg); /* or NULL */
	void *stop_arg;
	/* filled: */
	enum ec2_fate fate;
	char code[64]; /* of the error, "" */
	unsigned tries;
};

/* "&NAME=VALUE", the value encoded; the name may hold numbers: ec2_arg(b, v, "Tag.%u.Key", 1). */
void ec2_arg(struct vbuf *form, const char *value, const char *name, ...) __attribute__((format(printf, 3, 4)));
/* The Host of an endpoint as it is sent, and signed: without the port that the scheme implies. -EINVAL: not
 * http[s]://HOST[:PORT][/]. */
int ec2_host(const char *url, char *buf, size_t cap);
/* Send it and wait; what may be repeated is, with growing pauses, until the deadline. 0: *out is the answer, to be freed
 * with xml_free. -EAGAIN throttled or a limit; -EACCES not allowed or keys refused; -ENOENT; -EBUSY; -EINVAL; -EIO the
 * provider failed; -ETIMEDOUT, -ECANCELED, -ECONNRESET ... of http.h. */
int ec2_send(struct ec2 *c, const struct ec2_peer *p, struct ec2_call *call, struct xml **out, struct snap_error *err);
/* Every page of a describing call: fn(arg, root) for each; fn < 0 ends it. form is not changed. */
int ec2_pages(struct ec2 *c, const struct ec2_peer *p, struct ec2_call *call,
	      int (*fn)(void *arg, const struct xml_elem *root, struct snap_error *err), void *arg,
	      struct snap_error *err);
/* Seconds that the server's clock is ahead of ours, as its last answer said. */
int64_t ec2_skew(const struct ec2 *c);
bool ec2_was_fresh(const struct ec2 *c); /* the last call made a new connection */

#endif
