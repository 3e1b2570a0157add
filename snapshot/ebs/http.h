/* snapshot/ebs/http.h - one HTTP(S) request at a time, with a deadline, over a connection that is kept warm.
 * Threads:  a handle is one thread's at a time; different handles are independent.
 * Blocks:   http_do until the answer, its deadline, or a moment after `stop` says so.
 * Errors:   -errno with the sentence; any HTTP status is an answer, not an error. Never a header or a body in a
 *           sentence: they may hold secrets.
 * Redirects are not followed, answers are limited in size, and a request is sent once: libcurl's own repetition on
 * a connection that died is switched off, because a creation must not be repeated. */
#ifndef STILLFS_SNAPSHOT_EBS_HTTP_H
#define STILLFS_SNAPSHOT_EBS_HTTP_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http; /* body in http.c */

struct http_header {
	const char *name, *value;
};

struct http_req {
	const char *method; /* "GET", "PUT", "POST" */
	const char *url; /* http: or https: */
	const struct http_header *headers;
	size_t n_headers;
	const char *body; /* NULL: none */
	size_t body_len;
	const char *ca_file; /* NULL or "": the system's */
	bool direct; /* no proxy, whatever the environment says (metadata service) */
	size_t max_body; /* of the answer; 0: 8 MiB */
	uint64_t deadline_ns; /* CLOCK_BOOTTIME */
	bool (*stop)(void *arg); /* or NULL */
	void *stop_arg;
};

struct http_resp {
	long status; /* 0: no answer */
	char *body; /* NUL-terminated, malloc'ed; http_resp_free wipes it */
	size_t len;
	int64_t date_utc; /* the server's Date in seconds, 0: none */
	double retry_after_s; /* < 0: none said */
	bool sent; /* some of the request went out: without an answer nobody knows whether it was carried out */
	bool fresh; /* a new connection was made for it */
};

struct http *http_new(struct snap_error *err); /* NULL: -ENOMEM, -ENOSYS libcurl too old */
struct http *http_free(struct http *h); /* NULL is harmless; returns NULL */
/* 0: out->status is the answer's. -ETIMEDOUT, -ECANCELED, -ECONNREFUSED, -EHOSTUNREACH (also: name unknown),
 * -ECONNRESET (also torn), -EPROTO (no HTTP, bad certificate), -EFBIG. *out is filled in any case; free it. */
int http_do(struct http *h, const struct http_req *q, struct http_resp *out, struct snap_error *err);
void http_resp_free(struct http_resp *r);

#endif
