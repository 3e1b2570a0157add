/* snapshot/prune_int.h - retention carried out: what the files of prune share, and their door to the engine.
 *   prune.c        the plan, and what may be deleted at all
 *   prune_run.c    carrying a plan out: journal, removals, log of runs
 *   prune_store.c  what state_dir keeps: policy, identity of the machine, journal, log
 *   prune_files.c  the control files retention, prune, prune.log
 *   holds.c        what holds a plan's sets at the provider, asked when somebody reads it
 * Locks: e->lock guards all of struct prune but `io`; io is taken before it, by whoever writes to state_dir. */
#ifndef STILLFS_SNAPSHOT_PRUNE_INT_H
#define STILLFS_SNAPSHOT_PRUNE_INT_H

#include "snapshot/engine_int.h"
#include "snapshot/retention.h"

#define PLAN_ID_LEN 16
#define BY_ORPHAN "delete --orphan"

struct orphan;

struct prune {
	struct ret_policy policy, configured;
	struct zone *zone; /* of the policy */
	bool configured_any; /* the configuration names rules */
	bool differs; /* the policy at the start was not the configuration's */
	bool damaged; /* state_dir/retention could not be read */
	bool foreign; /* state_dir belongs to another machine */
	int dirfd; /* state_dir */
	pthread_mutex_t io;
	char (*journal)[33]; /* ids of sets that a plan has condemned and that are not gone yet */
	size_t n_journal;
	char journal_plan[PLAN_ID_LEN + 1]; /* the plan that wrote it last */
	char earlier[PLAN_ID_LEN + 1]; /* the last plan that counted in a process before this one; "": none */
	char origin[33]; /* prune_origin */
	char run_id[PLAN_ID_LEN + 1]; /* the last run */
	struct timespec run_when;
	unsigned run_removed, run_failed, run_skipped; /* of the last run's sets; failed: tries */
	/* since the start, for metrics */
	uint64_t runs, removed, failed, skipped;
};

/* A plan over the sets of the catalog, and orphans at the provider. Valid while e->lock is held. */
struct plan {
	size_t n, n_delete;
	struct set **set;
	struct ret_set *in;
	struct ret_result *out;
	struct orphan *orphan; /* orphans.h */
	size_t n_orphans, n_orphans_delete;
	char id[PLAN_ID_LEN + 1];
};

/* prune.c; e->lock held */
int plan_make(struct engine *e, struct plan *pl, bool orphans, struct snap_error *err); /* orphans: with them */
void plan_free(struct plan *pl);
/* Why a set is kept: every reason, with commas. `policy keep` or, when it goes, why. */
void plan_reason(const struct engine *e, const struct plan *pl, size_t i, struct vbuf *out);
const char *prune_off(const struct engine *e); /* why nothing is pruned by itself; NULL: it is */

/* holds.c; e->lock held, but for holds_look */
void holds_ask(struct engine *e, const struct plan *pl); /* somebody reads this plan: at most one look a minute for a set */
uint64_t holds_due(const struct engine *e); /* CLOCK_BOOTTIME; UINT64_MAX: none is due */
void holds_look(struct engine *e); /* if it is due. The engine's thread, between runs; a request ends it early */
void holds_line(struct engine *e, const struct plan *pl, struct vbuf *out); /* "holds ...\n" of the plan's head, or nothing */

/* prune_run.c */
/* id NULL: the current plan. by: a literal. 0 also for a plan that a process before this one has made count: who asked
 * it had no answer. -EAGAIN it is another plan now; -EINVAL empty policy; -EPERM not adopted. */
int prune_apply(struct engine *e, const char *id, const char *by, struct snap_error *err);
int prune_force(struct engine *e, const char *name, struct snap_error *err); /* one set, the floor notwithstanding */

/* prune_store.c; no lock of the engine held */
int store_open(struct engine *e, struct prune *p, struct snap_error *err);
int store_policy(struct prune *p, const struct ret_policy *policy, struct snap_error *err);
int store_identity(struct prune *p, struct snap_error *err); /* this machine's from now on */
/* Journal: one line "ID" a set, and "plan ID", journal_plan's. Empty: removed. */
int store_journal(struct prune *p, char (*ids)[33], size_t n, struct snap_error *err);
void store_log(struct prune *p, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* one dated line */
bool store_logged(struct prune *p, const char *id); /* has the log's end said that this one is gone? */
void store_read_log(struct prune *p, struct vbuf *out);

/* prune_files.c */
int prune_show_policy(struct engine *e, const char *set, struct vbuf *out);
int prune_write_policy(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err);
int prune_show(struct engine *e, const char *set, struct vbuf *out);
int prune_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err);
int prune_show_log(struct engine *e, const char *set, struct vbuf *out);

#endif
