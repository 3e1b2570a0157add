/* tests/unit/snapshot/http_server.h - a scripted HTTP or HTTPS server on loopback, in a thread of the test: it plays
 * steps in their order, whichever connection a request comes on, and records what it was sent. */
#ifndef STILLFS_TESTS_HTTP_SERVER_H
#define STILLFS_TESTS_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hs_kind {
	HS_REPLY, /* status, headers and body */
	HS_RAW, /* `body` as it stands, then the end of the connection */
	HS_LOST, /* take the whole request, answer nothing and end the connection */
	HS_STALL, /* take it and answer nothing, connection open */
	HS_TORN, /* a reply that ends in the middle of its body */
};

struct hs_step {
	enum hs_kind kind;
	int status; /* 0: 200 */
	const char *body; /* NULL: "" */
	const char *headers; /* more of them, each ended by "\r\n"; NULL: none */
	const char *expect; /* what the request must hold, or the test fails; NULL: anything */
	unsigned delay_ms; /* before the answer */
	bool end; /* close after the reply */
	bool forever; /* for all requests from here on; counts as played */
};

struct hs; /* the server */

/* tls: with a certificate for 127.0.0.1, made at the start, that is its own authority. Plays steps[0..n), then answers
 * 599 to whatever comes. */
struct hs *hs_start(bool tls, const struct hs_step *steps, size_t n);
/* Ends it; fails the test when a step was not played, unless `unplayed` allows it. */
void hs_stop(struct hs *s, bool unplayed);
unsigned hs_port(const struct hs *s);
const char *hs_url(const struct hs *s); /* "http://127.0.0.1:PORT/" */
bool hs_write_ca(struct hs *s, const char *path); /* of a tls server, in PEM */
/* What it was sent. */
unsigned hs_count(struct hs *s);
const char *hs_request(struct hs *s, unsigned i); /* head and body */
unsigned hs_connection(struct hs *s, unsigned i); /* on which connection, from 0 */
uint64_t hs_time_ns(struct hs *s, unsigned i); /* CLOCK_MONOTONIC */

#endif
