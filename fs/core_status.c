/* fs/core_status.c - what `status` says of the data side.
 * Owns:      nothing.
 * Called by: the control tree and metrics, through core_status. Threads: any. Blocks: never for long: for locks of the gate, the nodes and the closer.
 * Errors:    none. */
#include "fs/core_int.h"
#include "base/clock.h"

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
	vbuf_printf(out, "inplace_calls %lu\ninplace_waited %lu\ninplace_beside %lu\ninplace_beside_syncs %lu\ninplace_slow %lu\ninplace_stuck_ms %lu\n",
		    p->n_calls, p->n_waited, p->n_beside, p->n_beside_syncs, p->n_slow, inplace_stuck_ms(&c->lane[0]));
	idlepoll_status(c, out);
	vbuf_printf(out, "takeover %s\n", takeover_reason(c));
	vbuf_printf(out, "parallel_dirops %s\n", c->mnt[0].parallel_dirops ? "yes" : "no: this kernel has none");
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
