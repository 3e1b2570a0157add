/* fs/core.c - joins the data side: slot pool, gate, tables, threads, mounts; and the door to the engine.
 * Owns:      struct core and all below it.
 * Called by: main.c; core_door_ops' functions by the engine; gate functions by the control tree.
 * Threads:   as core.h says. Blocks: core_mount and core_umount; the rest as gate.h says.
 * Errors:    -errno with the operator's sentence. */
#include "fs/oplog.h"
#include "fs/recover.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

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

static void shm_add_fd(struct core *c, int fd)
{
	uint32_t n = atomic_load(&c->shm->n_dev_fds);

	if (n < SHM_MAX_DEV_FDS) {
		atomic_store(&c->shm->dev_fds[n], fd);
		atomic_store(&c->shm->n_dev_fds, n + 1);
	}
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
		shm_add_fd(c, c->mnt[k].dev_fd);
		c->shm->mnt[k].dev_fd = c->mnt[k].dev_fd;
		for (unsigned i = 0; i < c->n_lanes; i++) {
			int fd = i ? session_clone(&c->mnt[k]) : c->mnt[k].dev_fd;

			if (fd < 0)
				fd = c->mnt[k].dev_fd;
			else if (i)
				shm_add_fd(c, fd);
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
	struct stat st;
	int r = start_all(c, err);

	for (unsigned k = 0; c->again && k < c->n_mnt; k++)
		c->mnt[k].pair->mount_dev = c->shm->mnt[k].mount_dev;
	if (c->again)
		return r;
	for (unsigned k = 0; r == 0 && k < c->n_mnt; k++) {
		if (stat(c->mnt[k].pair->mountpoint, &st) < 0)
			r = snap_error_set(err, -errno, "stat %s after mounting: %s",
					   c->mnt[k].pair->mountpoint, strerror(errno));
		else
			c->shm->mnt[k].mount_dev = c->mnt[k].pair->mount_dev = st.st_dev;
	}
	if (r == 0)
		return 0;
	for (unsigned k = c->n_mnt; k-- > 0;)
		if (c->mnt[k].mounted) /* nobody uses it yet; force also ends a connection nobody serves */
			(void)umount2(c->mnt[k].pair->mountpoint, MNT_FORCE | MNT_DETACH);
	return r;
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
		if (umount2(mp, MNT_EXPIRE) < 0 && errno == EBUSY)
			return snap_error_set(err, -EBUSY, "unmount %s: it is in use; stop its users first",
					      mp);
	}
	c->shm->ending = 1;
	for (unsigned k = c->n_mnt; k-- > 0;) {
		const char *mp = c->mnt[k].pair->mountpoint;

		if (!c->mnt[k].mounted)
			continue;
		/* EINVAL: it is not mounted any more: taken away from outside, or by MNT_EXPIRE's second
		 * call */
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

/* ---- the door ---- */

static int door_gate_close(void *fs, uint32_t drain_ms, uint32_t hold_ms, const _Atomic int *abort_flag,
			   struct gate_ticket *t)
{
	return gate_close(((struct core *)fs)->gate, drain_ms, hold_ms, abort_flag, t);
}

static uint32_t door_gate_left_ms(void *fs, const struct gate_ticket *t)
{
	return gate_left_ms(((struct core *)fs)->gate, t);
}

static int door_gate_open(void *fs, const struct gate_ticket *t)
{
	return gate_open(((struct core *)fs)->gate, t);
}

/* Ask the keeper and wait for its answer: want is odd for freeze, even for thaw. */
static int ask_keeper(struct core *c, uint32_t want, uint32_t max_ms)
{
	struct shm_freeze *f = &c->shm->freeze;
	uint64_t give_up = clock_boot_ns() + max_ms * NS_PER_MS;
	uint32_t seen;

	atomic_store(&f->want, want);
	shm_wake(&f->want);
	while ((seen = atomic_load(&f->done)) != want) {
		if (clock_boot_ns() > give_up)
			return -ETIMEDOUT;
		shm_wait(&f->done, seen, 10);
	}
	return atomic_load(&f->result);
}

static int door_thaw(void *fs, struct snap_error *err)
{
	struct core *c = fs;
	uint32_t want = atomic_load(&c->shm->freeze.want);
	int r;

	if (!(want & 1))
		return 0;
	r = ask_keeper(c, want + 1, 5000);
	gate_set_frozen(c->gate, false);
	if (r < 0)
		snap_error_set(err, r, "thaw the backing: %s",
			       r == -ETIMEDOUT ? "the keeper had thawed it before" : strerror(-r));
	return r;
}

static int door_freeze(void *fs, uint32_t max_ms, struct snap_error *err)
{
	struct core *c = fs;
	struct shm_freeze *f = &c->shm->freeze;
	uint32_t want = atomic_load(&f->want);
	int64_t at;
	int r;

	if (gate_is_open(c->gate) || want & 1)
		return snap_error_set(err, -EINVAL, "freeze the backing: the gate is not closed");
	gate_set_frozen(c->gate, true); /* first: no fsync may reach the frozen filesystem */
	atomic_store(&f->deadline_ns, clock_boot_ns() + max_ms * NS_PER_MS);
	r = ask_keeper(c, want + 1, max_ms);
	if (r == 0)
		return 0;
	at = atomic_load(&f->sysfail);
	snap_error_set(err, r, r == -EBUSY ? "freeze %s: somebody else has frozen it; thaw it (fsfreeze -u) "
					     "and try again" :
			       r == -ETIMEDOUT ? "freeze %s: not done in time; it is thawed again" :
						 "freeze %s: refused by the kernel; set freeze=no",
		       c->mnt[at >= 0 && at < c->n_mnt ? at : 0].pair->backing);
	(void)door_thaw(c, NULL);
	gate_set_frozen(c->gate, false);
	return r;
}

void core_door_ops(struct core *c, struct door_ops *ops, void **fs)
{
	*ops = (struct door_ops){
		.gate_close = door_gate_close,
		.gate_left_ms = door_gate_left_ms,
		.gate_open = door_gate_open,
		.freeze = door_freeze,
		.thaw = door_thaw,
		.seal = seal_door,
		.refused = seal_refused,
	};
	*fs = c;
}

/* ---- status ---- */

static const char *takeover_reason(const struct core *c)
{
	switch ((enum shm_takeover)c->shm->takeover) {
	case SHM_TAKEOVER_YES:
		return "yes";
	case SHM_TAKEOVER_OPTION:
		return "no: takeover=no; a death ends the mount cleanly";
	case SHM_TAKEOVER_UNKNOWN:
	case SHM_TAKEOVER_KERNEL:
		break;
	}
	return "no: this kernel cannot resend requests (Linux 6.9); a death ends the mount cleanly";
}

void core_status(struct core *c, struct vbuf *out)
{
	static const char *const states[] = { "open", "closing", "closed" };
	uint64_t nodes, fds, lookups, files, n[8] = { 0 }, spin[2] = { 0 };
	const struct inplace *p = &c->lane[0].inplace;
	struct gate_status s;

	gate_get_status(c->gate, &s);
	node_counts(c->nodes, &nodes, &fds, &lookups, &files);
	for (unsigned i = 0; i < c->n_lanes; i++) {
		const struct lane *l = &c->lane[i];

		n[0] += l->n_read;
		n[1] += l->n_write;
		n[2] += l->n_fsync;
		n[3] += l->n_falloc;
		n[4] += l->n_direct;
		n[5] += l->n_buffered;
		n[6] += l->n_meta;
		n[7] += l->n_early;
	}
	vbuf_printf(out, "gate %s\n", states[s.state]);
	if (s.state != GATE_OPEN)
		vbuf_printf(out, "gate_left_ms %u\n", clock_left_ms(s.deadline_ns));
	vbuf_printf(out, "gate_opened_by_deadline %lu\n", s.opened_by_deadline);
	vbuf_printf(out, "inflight %lu\nparked %lu\nparked_bytes %lu\nparked_peak %lu\nparked_total %lu\n",
		    s.inflight, s.parked, s.parked_bytes, s.parked_peak, s.parked_total);
	vbuf_printf(out, "parked_limit %lu\nparked_bytes_limit %lu\n", conf_num(c->conf, "max_parked"),
		    conf_num(c->conf, "parked_bytes"));
	vbuf_printf(out, "slots_left %u\n", pool_count(c));
	vbuf_printf(out, "transport dev\ntransport_threads %u\ntransport_threads_active %u\ntransport_policy %s\n",
		    c->n_lanes, atomic_load(&c->balance.n_active), balance_policy_name(c));
	for (unsigned i = 0; i < c->n_lanes; i++) {
		spin[0] += c->lane[i].spin.n_hits;
		spin[1] += c->lane[i].spin.n_misses;
	}
	vbuf_printf(out, "spin_hits %lu\nspin_misses %lu\nspare_cpu %s\nample_cpu %s\n", spin[0], spin[1],
		    atomic_load(&c->balance.spare_cpu) ? "yes" : "no", atomic_load(&c->balance.ample_cpu) ? "yes" : "no");
	vbuf_printf(out, "inplace_calls %lu\ninplace_waited %lu\ninplace_beside %lu\ninplace_syncs %lu\ninplace_slow %lu\ninplace_stuck_ms %lu\n",
		    p->n_calls, p->n_waited, p->n_beside, p->n_syncs, p->n_slow, inplace_stuck_ms(&c->lane[0]));
	idlepoll_status(c, out);
	vbuf_printf(out, "takeover %s\n", takeover_reason(c));
	vbuf_printf(out, "shared_mmap %s\n",
		    c->mnt[0].allow_mmap ? "yes" : "no: this kernel allows none on direct opens (Linux 6.6)");
	vbuf_printf(out, "ops_read %lu\nops_write %lu\nops_fsync %lu\nops_fallocate %lu\n", n[0], n[1], n[2],
		    n[3]);
	vbuf_printf(out, "ops_direct %lu\nops_buffered %lu\nops_meta %lu\nearly_writebacks %lu\n", n[4], n[5], n[6], n[7]);
	vbuf_printf(out, "nodes %lu\nlookups %lu\nnode_fds %lu\nnode_fds_limit %lu\nopen_files %lu\nclosing_files %lu\n", nodes,
		    lookups, fds, conf_num(c->conf, "fd_cache"), files, c->closer ? closer_waiting(c->closer) : 0);
	for (unsigned k = 0; k < c->n_mnt; k++)
		vbuf_printf(out, "backing %s\nmountpoint %s\nhandles %s\n", c->mnt[k].pair->backing,
			    c->mnt[k].pair->mountpoint,
			    nodes_handles(c->nodes, k) ?
				    "yes" :
				    "no: this filesystem has none, a descriptor is kept for each known file");
	vbuf_printf(out, "freeze %s\n", atomic_load(&c->shm->freeze.state) ? "frozen" : "thawed");
}
