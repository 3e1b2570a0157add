/* snapshot/mongodb_link.h - one direct connection to a mongod and what it answers: shared by the coordinator (mongodb.c), the
 * fence (fence/side_mongodb.c) and the change of a replica set's primary (cutover/mongo.c).
 * Ownership: clients, URIs and replies are the caller's. Threads: one at a time for each client.
 * Blocks:    by the time-outs of the URI: 1.5 s to connect, for answers what the caller sets.
 * Errors:    -errno with the sentence; never the URI, which has the password. */
#ifndef STILLFS_SNAPSHOT_MONGODB_LINK_H
#define STILLFS_SNAPSHOT_MONGODB_LINK_H

#include "base/error.h"

#include <mongoc/mongoc.h>
#include <stdbool.h>

#define MGL_ANSWER_MS 1500 /* above the longest wait that a command asks of the server */

/* Before anything else; as often as one likes. */
void mgl_begin(void);
/* The first line of the file is the URI. `option`: what names the file, for sentences. Others must not be able to read it
 * (-EPERM). Set to one mongod, never another of its set, and no rest after a refused connection. */
int mgl_uri(const char *option, const char *path, mongoc_uri_t **out, struct snap_error *err);
/* NULL: the library refuses the URI. Connects at the first command. answer_ms: how long to wait for any answer. */
mongoc_client_t *mgl_client(mongoc_uri_t *uri, int64_t answer_ms);
/* Run a command on admin. reply is the caller's (bson_destroy) in any case. The sentence starts with `what`.
 * *code: the server's error, 0 when it is none of the server's. roles: what the account may lack, for the sentence. */
int mgl_command(mongoc_client_t *c, const bson_t *cmd, bson_t *reply, const char *what, const char *roles, int *code,
		struct snap_error *err);
int mgl_simple(mongoc_client_t *c, const char *name, bson_t *reply, const char *what, const char *roles, int *code,
	       struct snap_error *err); /* {name: 1} */
/* With accounts in use: may ours do all of these on the cluster? -EACCES names what is missing, and the role that has it. */
int mgl_actions(mongoc_client_t *c, const char *const *actions, const char *role, struct snap_error *err);
/* hello, or isMaster before 4.4.2 */
int mgl_hello(mongoc_client_t *c, bson_t *reply, struct snap_error *err);
const char *mgl_role(const bson_t *hello); /* hidden, standalone, primary, secondary, other */

/* Members of a document; path may have dots. */
bool mgl_find(const bson_t *b, const char *path, bson_iter_t *out);
int64_t mgl_number(const bson_t *b, const char *path, int64_t def); /* of any BSON type, or def */
bool mgl_true(const bson_t *b, const char *path);
const char *mgl_text(const bson_t *b, const char *path); /* "" when it is no text; lives as long as b */

#endif
