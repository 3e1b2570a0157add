/* snapshot/cutover/tool.h - stillfs-cutover: the two servers of a cut-over over SQL, and what is known of them. stillctl(8)
 * starts it. One process, one thread. Errors: -errno with the sentence; main.c prints it.
 * Everything on disk lies in the journal's directory: N.journal (cutlog.h), N.sessions (who was ended at A), and
 * SERVER.fence (the record of a fence that is up, by the server's identity, as it outlives the cut-over). */
#ifndef STILLFS_SNAPSHOT_CUTOVER_TOOL_H
#define STILLFS_SNAPSHOT_CUTOVER_TOOL_H

#include "snapshot/cutover/cutlog.h"
#include "snapshot/cutover/gtid.h"
#include "snapshot/cutover/steps.h"
#include "snapshot/fence/fence.h"
#include "snapshot/mysql_int.h"

/* What is asked of one server, once. */
struct facts {
	bool mariadb;
	unsigned version;
	char text[128], id[160]; /* id: for file names, the same over restarts */
	char server_id[24], uuid[40], domain[24]; /* uuid: MySQL; domain: MariaDB */
	char gtid_mode[16], strict[8], log_bin[8], log_updates[8];
	char increment[12], offset[12], read_only[8], super_read_only[8], events[12], semi_sync[8];
	char binlog_filter[200]; /* what its binary log leaves out */
	unsigned prepared_xa, clients; /* transactions; sessions of clients that are not ours */
	struct vbuf grants;
	struct gtid_set *executed, *slave_pos; /* slave_pos: MariaDB, else NULL */
};

/* A channel by which one follows the other. */
struct link {
	bool there, io, sql, gtid;
	char name[70], lag[24], error[200], filter[200], delay[24];
	char others[300]; /* its channels from elsewhere */
	bool others_run; /* an applier of those */
	char host[300], port[16]; /* where it finds it */
};

struct side {
	const char *word; /* "A", "B" */
	char given[512], file[512], socket[256], tls[16]; /* --from or --to, and what it leads to */
	char host[320]; /* as shown: HOST:PORT or the socket */
	char control[600]; /* of a stillfs that can fence it: its control tree; else "" */
	char persist[8], include[500]; /* of such a one: fence.persist, fence.mariadb_include */
	struct snap_error lost; /* code: a stillfs whose control tree did not answer when the side was named */
	struct my *m;
	char id[160]; /* "" until it was reached */
	bool strict; /* MariaDB: gtid_strict_mode */
};

struct opts {
	char journal[500], hook[500], allow[1024], include_dir[500], accept[256];
	uint32_t max_lag_s, catch_up_ms, hook_ms, io_s, fence_ms;
	bool no_persist, skip_hook, other_down, lose, force, json;
};

struct cut {
	struct opts o;
	struct side a, b;
	struct cutlog *log;
	struct vbuf a_slave_pos; /* MariaDB: of A when its final set was read */
};

extern volatile int tool_stop; /* SIGINT, SIGTERM */
void tool_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* on stderr */
/* On stdout, lines of a preflight: all, or what is not "ok". *out is freed. */
void tool_findings(struct vbuf *out, bool all);
void tool_journal(const struct cut *c, const char *state); /* the cut-over that is read, a line for each step */

/* side.c */
/* FILE: a defaults file with [client] and [stillfs]. NAME or a directory: the control tree of a stillfs. -ENOENT, -EINVAL.
 * s->given is kept after a failure, and side_reach looks again. */
int side_name(struct side *s, const char *word, const char *given, struct snap_error *err);
/* Connected, and known by its identity. io_s bounds every answer. */
int side_reach(struct side *s, const struct opts *o, struct snap_error *err);
void side_close(struct side *s);

/* facts.c */
int facts_read(struct side *s, struct facts *f, struct snap_error *err);
void facts_free(struct facts *f);
/* gtid_executed; MariaDB: gtid_binlog_state together with gtid_slave_pos. *pos (may be NULL): gtid_slave_pos alone. */
int facts_executed(struct my *m, struct gtid_set **all, struct gtid_set **pos, struct snap_error *err);
/* How `of` follows the server with these facts; not there is no error. */
int facts_link(struct my *of, const struct facts *source, struct link *l, struct snap_error *err);
/* Its word on whether clients may write. */
int facts_writable(struct my *m, bool *yes, struct snap_error *err);

/* compare.c: pure. One "ok|warn|bad NAME: TEXT" line for each finding; returns how many are bad. */
unsigned compare_facts(const struct facts *a, const struct facts *b, const struct link *b_of_a, const struct link *a_of_b,
		       const struct opts *o, struct vbuf *out);
bool compare_accepted(const char *list, const char *name);

/* check.c: the whole preflight. Changes nothing. Returns how many findings are bad. */
unsigned check_all(struct cut *c, struct vbuf *out);

/* replicas.c: others that follow A. Lines of the preflight; lines of the report once B takes writes, with the statements that
 * point each at B. */
void replicas_check(struct cut *c, const struct facts *a, const struct facts *b, const struct link *a_of_b, struct vbuf *out);
void replicas_print(struct cut *c);

/* ops.c */
extern const struct steps_ops ops_sql; /* over struct cut */

/* ops_fence.c: as the steps' fence, unfence and confirm, of either side */
int ops_fence_up(struct cut *c, struct side *s, bool may_stop, struct snap_error *err);
int ops_fence_down(struct cut *c, struct side *s, struct snap_error *err);
int ops_fence_stands(struct cut *c, struct side *s, struct snap_error *err);

/* control.c: the control file fence of s->control. All end in --fence-timeout. */
int control_read(const struct side *s, const char *name, uint32_t max_ms, struct vbuf *out, struct snap_error *err); /* any file */
int control_on(struct cut *c, struct side *s, bool may_stop, struct snap_error *err);
int control_off(struct cut *c, struct side *s, struct snap_error *err); /* also of a retired one */
int control_stands(const struct cut *c, struct side *s, struct snap_error *err);
int control_retire(struct cut *c, struct side *s, struct snap_error *err);
int control_check(const struct cut *c, struct side *s, struct vbuf *found, struct snap_error *err);
int control_state(const struct cut *c, const struct side *s, char state[24], bool *retired, struct snap_error *err);
void control_sessions(struct cut *c, const struct side *s); /* into the report */
const char *control_by(const struct cut *c, const char *word); /* the tree that this cut-over fenced "A" or "B" by; NULL: none */

/* hook.c: the operator's program, which moves addresses and proxies. */
int hook_check(const char *path, struct snap_error *err);
int hook_run(struct cut *c, struct snap_error *err);

/* report.c */
void report_session(struct cut *c, const struct fence_session *s); /* append one that was ended */
void report_sessions(struct cut *c, const char *lines); /* all of them, as a control file fence has them */
void report_print(struct cut *c); /* who was ended, and who is at A now or was refused since */

#endif
