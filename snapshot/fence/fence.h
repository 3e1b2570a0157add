/* snapshot/fence/fence.h - the fence: no client of a MariaDB or MySQL server can write, until it is taken away.
 * Acts over a connection alone (my_open_plain, snapshot/mysql_int.h) and has no files of its own but the one that MariaDB
 * needs to start read-only: where the record lies is the caller's. The record is "key value\n" lines, one for each thing
 * that is changed, holding what it was before; on disk (fence_opts.record) before the statement is sent.
 * Threads:  one at a time for each struct my; my_sever from any ends a call.
 * Blocks:   fence_on up to max_ms; the others for a few statements. Nothing of it enters the binary log.
 * Errors:   -errno with the sentence: -EPERM accounts that could still write, -EACCES our account lacks privileges,
 *           -EOPNOTSUPP a server or a role that this cannot be done for, -EAGAIN LOCK TABLES of others, -ETIMEDOUT
 *           sessions that do not end, -EBUSY XA transactions that were prepared meanwhile, -ESTALE it is not as the record says, -EXDEV the record is another server's,
 *           -ECANCELED, -ECONNREFUSED, -ECONNRESET. After a failure of fence_on the record says what is changed by now:
 *           fence_on with it goes on, fence_off takes it back.
 * Facts (tried on MariaDB 10.11, MySQL 9.7): both settings wait behind LOCK TABLES of others, as long as
 * lock_wait_timeout; a transaction that was open before cannot commit afterwards (1290). read_only=OFF on MySQL
 * clears super_read_only. On MariaDB a routine with SQL SECURITY DEFINER writes when its definer may. */
#ifndef STILLFS_SNAPSHOT_FENCE_H
#define STILLFS_SNAPSHOT_FENCE_H

#include "base/error.h"
#include "base/vbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct my; /* snapshot/mysql_int.h */

/* A session that was ended; strings are valid during the call, "-" when the server does not tell. */
struct fence_session {
	uint64_t id;
	const char *user, *host, *program, *db;
};

struct fence_opts {
	/* "user@host,user@host": accounts that may be able to write, and whose sessions stay. The host may hold % and _ as
	 * in an account's name. "" none. */
	const char *allow;
	const char *include_dir; /* MariaDB: a directory whose *.cnf the server reads; "" none */
	bool persist; /* also over a restart of the server; without it fence_verify finds out, and fence_on mends */
	bool xa_stays; /* prepared XA transactions that any account could commit do not keep the fence from going up */
	uint32_t max_ms; /* of fence_on: at least 1000 */
	/* Replace the record. On disk when it returns 0; a failure ends the call before anything more is changed. Required. */
	int (*record)(void *arg, const char *lines, struct snap_error *err);
	void (*ended)(void *arg, const struct fence_session *s); /* may be NULL */
	void (*note)(void *arg, const char *sentence); /* what the operator has to know, no failure; may be NULL */
	bool (*cancelled)(void *arg); /* asked between statements; may be NULL */
	void *arg;
};

/* Can this server be fenced, and who could write all the same? One line each in `found`: "ACCOUNT has PRIVILEGE ...".
 * MySQL: SUPER or SYSTEM_VARIABLES_ADMIN, which could switch it off (super_read_only stops everybody else).
 * MariaDB: READ ONLY ADMIN, on servers before 10.11 also SUPER, and routines that run as such an account. By roles too.
 * And prepared XA transactions, where XA COMMIT is no write to the server (fence_xa.c): "prepared XA transaction NAME ...".
 * Not counted: locked accounts, the server's own, ours, and those of `allow`. -EPERM when there is one. */
int fence_check(struct my *m, const struct fence_opts *o, struct vbuf *found, struct snap_error *err);
/* fence_check, then put the fence up: event scheduler off, the server read-only, persisted; every session ended but
 * replication's, the server's own, ours and those of `allow`; back when none is left that could still commit, nothing is
 * prepared that anybody could, and the server said that it is read-only. *record: "" for a new fence; else what an earlier call left, which this one goes on
 * with: values that it holds are not taken anew. So it also puts up again what a restart took away; until all of that is
 * done the record says half again. *record is "" still when
 * it failed before anything was changed. */
int fence_on(struct my *m, const struct fence_opts *o, struct vbuf *record, struct snap_error *err);
/* Take back what the record says and no more; again and again with the same record if need be. *record is empty on 0. */
int fence_off(struct my *m, const struct fence_opts *o, struct vbuf *record, struct snap_error *err);
/* Is everything as fence_on left it? -ESTALE: the sentence names what differs. Changes nothing. */
int fence_verify(struct my *m, const char *record, struct snap_error *err);

/* ---- the record (fence_record.c); pure ---- */

enum fence_state { FENCE_OFF, FENCE_HALF, FENCE_ON };
enum fence_state fence_record_state(const char *record); /* HALF: something is changed, not everything */
/* The value of a line; false: there is none. A longer value is cut. */
bool fence_record_get(const char *record, const char *key, char *buf, size_t cap);
void fence_record_add(struct vbuf *record, const char *key, const char *value); /* a line that is there is kept as it is */
void fence_record_drop(struct vbuf *record, const char *key); /* harmless when there is none; allocates nothing */
/* Is this account, or a session of this user from this host, in the list? */
bool fence_allowed(const char *list, const char *user, const char *host);
/* -EINVAL: an entry is not USER@HOST. */
int fence_allow_check(const char *list, struct snap_error *err);

#endif
