/* fs/idlepoll.c - while operations come, idle CPUs poll instead of halting (option idle_poll).
 * Owns:      a descriptor of the kernel's request for a latency, which holds while it is open
 *            (Documentation/power/pm_qos_interface.rst: /dev/cpu_dma_latency, 32 bits, microseconds). A successor closes
 *            a dead daemon's with all that no table names.
 * Called by: the gate timer, each tick.
 * Threads:   that one; status reads the state.
 * Blocks:    never; allocates and logs nothing.
 * Errors:    what open or write said is in status; it is tried again when the load comes again.
 *
 * Why: waking a CPU that a guest has halted takes its hypervisor tens of microseconds, and a request through a daemon has two
 * to four such wake-ups more than natively (docs/performance.md). A lane cannot look for its next event in their
 * place: the workers of the block layer and the callers need a CPU that is awake, too, and wait for one that looks. The
 * kernel's idle loop is there for nobody's cost but the host's, which sees a CPU in full use: so only where it is asked
 * for, and only under load. */
#include "fs/core_int.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define DEVICE "/dev/cpu_dma_latency"
#define LOOK_NS (50 * NS_PER_MS)
#define ON_PER_S 500u /* operations: below that there is little to gain */
#define OFF_PER_S 250u
#define OFF_AFTER 20u /* looks */

void idlepoll_init(struct core *c)
{
	c->idlepoll.wanted = conf_bool(c->conf, "idle_poll");
}

static void stop(struct idlepoll *p)
{
	if (atomic_exchange(&p->on, false))
		(void)close(p->fd);
}

void idlepoll_free(struct core *c)
{
	stop(&c->idlepoll);
}

static uint64_t operations(const struct core *c)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < c->n_lanes; i++) {
		const struct lane *l = &c->lane[i];

		n += l->n_read + l->n_write + l->n_fsync + l->n_falloc + l->n_meta;
	}
	return n;
}

static void ask(struct idlepoll *p)
{
	int fd = open(DEVICE, O_WRONLY | O_CLOEXEC);
	int32_t none_us = 0;
	int e = 0;

	if (fd < 0 || write(fd, &none_us, sizeof(none_us)) != (ssize_t)sizeof(none_us))
		e = errno;
	atomic_store(&p->error, e);
	p->fd = fd;
	atomic_store(&p->on, fd >= 0);
	if (e)
		stop(p);
}

void idlepoll_tick(struct core *c)
{
	struct idlepoll *p = &c->idlepoll;
	uint64_t now, n, per_s;

	if (!p->wanted)
		return;
	now = balance_now_ns();
	if (now - p->looked_ns < LOOK_NS)
		return;
	n = operations(c);
	per_s = p->looked_ns ? (n - p->seen) * NS_PER_S / (now - p->looked_ns) : 0;
	p->looked_ns = now;
	p->seen = n;
	p->slow = per_s >= OFF_PER_S ? 0 : p->slow + 1;
	if (!atomic_load(&p->on) && per_s >= ON_PER_S)
		ask(p);
	else if (p->slow >= OFF_AFTER)
		stop(p);
}

void idlepoll_status(const struct core *c, struct vbuf *out)
{
	const struct idlepoll *p = &c->idlepoll;
	int e = atomic_load(&p->error);

	if (!p->wanted)
		vbuf_puts(out, "idle_poll no\n");
	else if (e)
		vbuf_printf(out, "idle_poll no: " DEVICE ": %s\n", strerror(e));
	else
		vbuf_printf(out, "idle_poll %s\n", atomic_load(&p->on) ? "on" : "off: few operations");
}
