/* fs/core.c - joins the data side: slot pool, gate, tables, threads, mounts.
 * Owns:      struct core and all below it.
 * Called by: main.c; gate functions by the control tree.
 * Threads:   as core.h says. Blocks: core_mount and core_umount; the rest as gate.h says.
 * Errors:    -errno with the operator's sentence. */
#include "fs/oplog.h"
#include "fs/recover.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/statdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define RINGS_MS 10000u /* the longest that a backing may keep a dead daemon's I/O */

/* ---- hooks of the gate ---- */

static void on_resubmit(void *arg, struct gate_node *first)
{
	for (struct gate_node *n = first, *next; n; n = next) {
		next = n->next;
		lane_push((struct rq *)(void *)n);
	}
}

static void on_kill(void *arg, struct gate_node *n)
{
	struct rq *r = (struct rq *)(void *)n;

	r->gated = false; /* parked: not counted */
	rq_reply_err(r, EINTR, OPSTAT_TIMER);
}

static void on_tick(void *arg)
{
	balance_watch(arg);
	idlepoll_tick(arg);
}

/* ---- life ---- */

static unsigned lane_count(const struct conf *conf)
{
	unsigned n = (unsigned)conf_num(conf, "threads");

	if (!n) {
		n = (unsigned)get_nprocs();
		if (n > 8)
			n = 8;
	}
	return n > MAX_LANES ? MAX_LANES : n;
}

/* The operator's closing is his also when the daemon that did it has died. */
static void inherit_gate(struct core *c)
{
	struct gate_status s;

	if (!c->gate || !c->again)
		return;
	gate_get_status(c->gate, &s);
	c->op_ticket.gen = s.gen;
	c->op_closed = s.state == GATE_CLOSED && c->shm->gate_by == SHM_GATE_OPERATOR;
}

void core_inherit_held(struct core *c, int *held, size_t n)
{
	c->held = held;
	c->n_held = n;
}

void core_end_engines_hold(struct core *c)
{
	if (!atomic_load(&c->op_closed))
		(void)gate_open_any(c->gate);
}

struct core *core_new(const struct conf *conf, const struct tables *tab, struct door_pair *pairs,
		      unsigned n_pairs, bool again, struct snap_error *err)
{
	struct core *c = calloc(1, sizeof(*c));
	const struct gate_hooks hooks = { .arg = c, .resubmit = on_resubmit, .kill = on_kill,
					  .tick = on_tick };
	int r;

	if (!c) {
		snap_error_set(err, -ENOMEM, "start: out of memory");
		return NULL;
	}
	c->conf = conf;
	c->tab = tab;
	c->shm = tab->head;
	c->again = again;
	c->n_mnt = n_pairs;
	c->n_lanes = again ? c->shm->n_lanes : lane_count(conf);
	c->shm->n_lanes = c->n_lanes;
	c->control_dir = conf_str(conf, "control_dir");
	seal_init(&c->seal);
	c->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	(void)pthread_mutex_init(&c->pool_lock, NULL);
	c->gate = gate_new(c->shm, &hooks, conf_num(conf, "parked_bytes"));
	inherit_gate(c);
	c->nodes = nodes_over(tab, conf_num(conf, "fd_cache"));
	c->oplog = oplog_new(tab);
	r = c->gate && c->nodes && c->oplog && c->end_fd >= 0 ? pool_new(c, err) :
						     snap_error_set(err, -ENOMEM, "start: out of memory");
	for (unsigned i = 0; r == 0 && i < n_pairs; i++) {
		c->mnt[i] = (struct mnt){ .core = c, .idx = i, .pair = &pairs[i], .dev_fd = -1 };
		r = nodes_add_root(c->nodes, i, pairs[i].backing_fd);
		if (r < 0)
			snap_error_set(err, r, "stat %s: %s", pairs[i].backing, strerror(-r));
	}
	for (unsigned i = 0; i < MAX_LANES; i++) {
		c->lane[i].core = c;
		c->lane[i].idx = i;
		c->lane[i].efd = -1;
		for (unsigned k = 0; k < DOOR_MAX_PAIRS; k++)
			c->lane[i].fd[k] = -1;
	}
	if (r < 0) {
		core_free(c);
		return NULL;
	}
	return c;
}

static void stop_threads(struct core *c)
{
	uint64_t one = 1;

	atomic_store(&c->stopping, true);
	for (unsigned i = 0; i < c->n_lanes; i++) {
		struct lane *l = &c->lane[i];

		if (!l->runs)
			continue;
		if (write(l->efd, &one, sizeof(one)) < 0) {
			/* full counter: it is awake */
		}
		(void)pthread_join(l->thread, NULL);
		l->runs = false;
	}
	workers_stop(c->workers);
	c->workers = NULL;
	closer_stop(c->closer);
	c->closer = NULL;
	gate_stop(c->gate);
}

void core_free(struct core *c)
{
	if (!c)
		return;
	if (c->gate)
		stop_threads(c);
	for (unsigned i = 0; i < c->n_lanes; i++) {
		for (unsigned k = 0; k < c->n_mnt; k++)
			if (c->lane[i].fd[k] >= 0 && c->lane[i].fd[k] != c->mnt[k].dev_fd)
				(void)close(c->lane[i].fd[k]);
		if (c->lane[i].efd >= 0)
			(void)close(c->lane[i].efd);
	}
	for (unsigned i = 0; i < c->n_mnt; i++)
		session_close(&c->mnt[i]);
	nodes_free(c->nodes);
	oplog_free(c->oplog);
	gate_free(c->gate);
	pool_free(c);
	balance_free(c);
	idlepoll_free(c);
	if (c->end_fd >= 0)
		(void)close(c->end_fd);
	(void)pthread_mutex_destroy(&c->pool_lock);
	free(c);
}

/* A descriptor of each mount for each lane. Without clones (an old kernel) all lanes share one. */
static void clone_fds(struct core *c)
{
	for (unsigned k = 0; k < c->n_mnt; k++) {
		if (c->again) {
			for (unsigned i = 0; i < c->n_lanes; i++)
				c->lane[i].fd[k] = c->shm->lane_fd[i][k];
			continue;
		}
		c->shm->mnt[k].dev_fd = c->mnt[k].dev_fd;
		for (unsigned i = 0; i < c->n_lanes; i++) {
			int fd = i ? session_clone(&c->mnt[k]) : c->mnt[k].dev_fd;

			if (fd < 0)
				fd = c->mnt[k].dev_fd;
			c->lane[i].fd[k] = c->shm->lane_fd[i][k] = fd;
		}
	}
}

static void set_takeover(struct core *c)
{
	bool can = true;

	for (unsigned k = 0; k < c->n_mnt; k++)
		can = can && c->mnt[k].offered & PROTO_HAS_RESEND && c->shm->mnt[k].init_len;
	c->shm->takeover = !conf_bool(c->conf, "takeover") ? SHM_TAKEOVER_OPTION :
			   can ? SHM_TAKEOVER_YES :
				 SHM_TAKEOVER_KERNEL;
}

static int start_all(struct core *c, struct snap_error *err)
{
	int r;

	balance_init(c);
	idlepoll_init(c);
	r = gate_start(c->gate);
	if (r < 0)
		return snap_error_set(err, r, "start the gate timer: %s", strerror(-r));
	c->closer = closer_start(c);
	c->workers = c->closer ? workers_start(c) : NULL;
	if (!c->workers)
		return snap_error_set(err, -errno, "start worker threads: %s", strerror(errno));
	for (unsigned k = 0; k < c->n_mnt; k++) {
		r = c->again ? session_resume(&c->mnt[k], err) : session_open(c, &c->mnt[k], err);
		if (r < 0)
			return r;
	}
	clone_fds(c);
	if (!c->again)
		set_takeover(c);
	r = c->again ? recover_wait_rings(c->shm, RINGS_MS) : 0;
	if (r < 0)
		return snap_error_set(err, r, "take over: I/O of the dead daemon did not end within %u ms", RINGS_MS);
	if (c->again)
		recover_resend(c->shm);
	for (unsigned i = 0; i < c->n_lanes; i++) {
		r = lane_start(&c->lane[i]);
		if (r < 0)
			return snap_error_set(err, r,
					      "start io_uring of thread %u: %s; see "
					      "/proc/sys/kernel/io_uring_disabled",
					      i, strerror(-r));
	}
	atomic_store(&c->balance.all_run, true);
	return 0;
}

int core_mount(struct core *c, struct snap_error *err)
{
	int r = start_all(c, err), e;
	uint64_t dev;

	for (unsigned k = 0; c->again && k < c->n_mnt; k++)
		c->mnt[k].pair->mount_dev = c->shm->mnt[k].mount_dev;
	if (c->again)
		return r;
	for (unsigned k = 0; r == 0 && k < c->n_mnt; k++) {
		e = statdev(c->mnt[k].pair->mountpoint, &dev, NULL);
		if (e < 0)
			r = snap_error_set(err, e, "stat %s after mounting: %s",
					   c->mnt[k].pair->mountpoint, strerror(-e));
		else
			c->shm->mnt[k].mount_dev = c->mnt[k].pair->mount_dev = dev;
	}
	if (r == 0)
		return 0;
	for (unsigned k = c->n_mnt; k-- > 0;)
		if (c->mnt[k].mounted) /* nobody uses it yet; force also ends a connection nobody serves */
			(void)umount2(c->mnt[k].pair->mountpoint, MNT_FORCE | MNT_DETACH);
	return r;
}

/* What is mounted there by now? 0: ours, as far as is known; -ENOENT: not ours. */
static int look_at_mount(struct core *c, unsigned k)
{
	uint64_t id;

	if (!c->mnt[k].mounted || atomic_load(&c->mnt[k].gone))
		return -ENOENT;
	/* a path that leads nowhere: umount2 says why */
	return statdev_mount(c->mnt[k].pair->mountpoint, &id) == 0 && id != c->shm->mnt[k].mount_id ? -ENOENT : 0;
}

int core_umount(struct core *c, struct snap_error *err)
{
	(void)gate_open_any(c->gate);
	/* Ask all before taking one away: MNT_EXPIRE answers EAGAIN for a mount that nobody uses and
	 * leaves it mounted. */
	for (unsigned k = 0; k < c->n_mnt; k++) {
		const char *mp = c->mnt[k].pair->mountpoint;

		if (!c->mnt[k].mounted || atomic_load(&c->mnt[k].gone))
			continue;
		if (look_at_mount(c, k) < 0) {
			if (!statdev_is_mountpoint(mp))
				continue; /* moved away, or taken away where somebody else still has it */
			return snap_error_set(err, -EBUSY, "unmount %s: something else is mounted over it; umount that first", mp);
		}
		if (umount2(mp, MNT_EXPIRE) < 0 && errno == EBUSY)
			return snap_error_set(err, -EBUSY, "unmount %s: it is in use; stop its users first",
					      mp);
	}
	c->shm->ending = 1;
	for (unsigned k = c->n_mnt; k-- > 0;) {
		const char *mp = c->mnt[k].pair->mountpoint;

		if (!c->mnt[k].mounted)
			continue;
		/* taken away from outside, or by MNT_EXPIRE's second call, and perhaps somebody else's is there by now */
		if (look_at_mount(c, k) < 0) {
			c->mnt[k].mounted = false;
			continue;
		}
		/* EINVAL: as above, a moment ago */
		if (umount2(mp, 0) < 0 && errno != EINVAL) {
			snap_error_set(err, -errno, "unmount %s: %s", mp, strerror(errno));
			c->shm->ending = 0;
			return err->code;
		}
		c->mnt[k].mounted = false;
	}
	stop_threads(c);
	return 0;
}

bool core_ended(struct core *c)
{
	return atomic_load(&c->ended) == c->n_mnt;
}

int core_end_fd(struct core *c)
{
	return c->end_fd;
}

/* ---- the operator's gate ---- */

int core_gate_close(struct core *c, uint32_t hold_ms, struct snap_error *err)
{
	uint32_t drain = (uint32_t)conf_num(c->conf, "drain_timeout");
	int r = gate_close(c->gate, drain, hold_ms, NULL, &c->op_ticket);

	if (r == -EBUSY)
		return snap_error_set(err, r, "close the gate: it is closed already; see `gate` and `status`");
	if (r == -EINVAL)
		return snap_error_set(err, r, "close the gate: timeout must be 0.001 to %u s",
				      GATE_MAX_MS / 1000);
	if (r < 0)
		return snap_error_set(err, r,
				      "close the gate: operations in flight did not end within %u ms; it is "
				      "open again; try later or raise drain_timeout",
				      drain);
	FAULT("gate.closed");
	c->shm->gate_by = SHM_GATE_OPERATOR;
	FAULT("gate.by");
	atomic_store(&c->op_closed, true);
	return 0;
}

int core_gate_open(struct core *c, struct snap_error *err)
{
	struct gate_status s;

	gate_get_status(c->gate, &s);
	if (s.state == GATE_OPEN)
		return 0;
	if (!atomic_load(&c->op_closed) || s.gen != c->op_ticket.gen)
		return snap_error_set(err, -EBUSY,
				      "open the gate: a snapshot holds it; write to `abort` to end that");
	atomic_store(&c->op_closed, false);
	(void)gate_open(c->gate, &c->op_ticket);
	return 0;
}

void core_gate_status(struct core *c, struct gate_status *out)
{
	gate_get_status(c->gate, out);
}
