/* snapshot/mongodb_int.h - shared by mongodb.c (connections, preflight, position) and mongodb_lock.c. Private to them;
 * database thread only but for sever. Protocol facts: the manual of MongoDB (fsync, fsyncUnlock, hello,
 * replSetGetStatus, currentOp) and the server's source (fsync.cpp). */
#ifndef STILLFS_SNAPSHOT_MONGODB_INT_H
#define STILLFS_SNAPSHOT_MONGODB_INT_H

#include "snapshot/coord_mongodb.h"
#include "snapshot/mongodb_link.h"

#include <pthread.h>
#include <stdatomic.h>

/* A lock can keep a new connection from authenticating: those that end it stand before it is taken. */
enum mg_conn { MG_MAIN, MG_UNLOCK, MG_SPARE, MG_CONNS };

struct mg {
	const struct door *d;
	mongoc_client_t *c[MG_CONNS]; /* NULL: not connected */
	bool fsync; /* db.mongodb_lock=yes */
	bool locked;
	bool shared; /* somebody else has the lock as well */
	bool answered; /* of the lock that the journal speaks of; else it may still come */
	uint64_t clear_ns; /* since when the server has been seen without it, CLOCK_BOOTTIME; 0: not yet */
	_Atomic bool severed;
	pthread_mutex_t lock; /* text */
	char text[96]; /* version and role, for status */
};

/* Run a command on admin. reply is the caller's (bson_destroy) in any case. -errno, the sentence starting with `what`.
 * *code: the server's error, 0 when it is none of the server's. */
int mg_command(struct mg *m, enum mg_conn k, const bson_t *cmd, bson_t *reply, const char *what, int *code,
	       struct snap_error *err);
int mg_simple(struct mg *m, enum mg_conn k, const char *name, bson_t *reply, const char *what, int *code,
	      struct snap_error *err); /* {name: 1} */
int mg_connect(struct mg *m, struct snap_error *err); /* all of them; pings those that stand */
void mg_disconnect(struct mg *m);

/* mongodb_lock.c */
int mg_is_locked(struct mg *m, enum mg_conn k, bool *is, struct snap_error *err);
int mg_lock(void *self, uint32_t max_ms, uint32_t lock_ms, struct snap_error *err);
int mg_unlock(void *self, uint32_t max_ms, struct snap_error *err);
int mg_recover(void *self, uint32_t max_ms, struct snap_error *err);

#endif
