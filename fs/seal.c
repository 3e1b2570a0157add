/* fs/seal.c - see seal.h.
 * Owns:      the core's struct seal.
 * Called by: the lanes, for each request while it is set; the engine, through the door.
 * Threads:   any. What is set under the node table's lock and at a closed gate holds for every thread afterwards: an open
 *            either has its slot before and is counted, or gets EROFS; what the gate has admitted is waited for.
 * Errors:    -errno with the sentence. */
#include "fs/core_int.h"
#include "fs/mount_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RELEASED_MS 2000u /* the kernel tells of the last close a moment after it */
#define POLL_MS 20u
#define DRAIN_MS 2000u
#define HOLD_MS 5000u

void seal_init(struct seal *s)
{
	(void)pthread_mutex_init(&s->lock, NULL);
}

void core_seal(struct core *c)
{
	nodes_seal_set(c->nodes, true);
	atomic_store(&c->seal.on, true);
}

/* ---- the lanes ---- */

static bool changes(const struct rq *r)
{
	size_t len = r->len - sizeof(struct fuse_in_header);
	const void *args = rq_args_const(r);
	struct fuse_open_in in;

	if (gate_classify(r->opcode, args, len) == GATE_MODIFY)
		return true;
	if (r->opcode != FUSE_OPEN || len < sizeof(in))
		return false;
	memcpy(&in, args, sizeof(in));
	return (in.flags & O_ACCMODE) != O_RDONLY;
}

/* The first since it was asked for: later the process may be gone. */
static void note_who(struct seal *s, uint32_t pid)
{
	char comm[32];

	if (pthread_mutex_trylock(&s->lock) != 0)
		return;
	if (!s->named) {
		check_comm((int32_t)pid, comm, sizeof(comm)); /* on a lane: without memory of its own */
		if (pid)
			(void)snprintf(s->who, sizeof(s->who), "%s(%u)", *comm ? comm : "-", pid);
		else
			(void)snprintf(s->who, sizeof(s->who), "a process of another pid namespace");
		s->named = true;
	}
	(void)pthread_mutex_unlock(&s->lock);
}

bool seal_refuses(struct lane *l, struct rq *r)
{
	struct seal *s = &l->core->seal;

	if (!changes(r))
		return false;
	atomic_fetch_add_explicit(&s->refused, 1, memory_order_relaxed);
	note_who(s, rq_head(r)->pid);
	rq_reply_err(r, -EROFS, l->idx);
	return true;
}

/* ---- the engine ---- */

uint64_t seal_refused(void *fs, char *who, size_t cap)
{
	struct seal *s = &((struct core *)fs)->seal;

	(void)pthread_mutex_lock(&s->lock);
	(void)snprintf(who, cap, "%s", s->named ? s->who : "");
	s->named = false;
	(void)pthread_mutex_unlock(&s->lock);
	return atomic_load(&s->refused);
}

/* Processes that have files open are named; the table knows of those that no /proc shows. */
static int nothing_open(struct core *c, struct snap_error *err)
{
	const int32_t own[] = { c->shm->keeper_pid, c->shm->daemon_pid };
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000 };
	uint64_t until = clock_boot_ns() + RELEASED_MS * NS_PER_MS, n;
	struct snap_error why = { 0 };
	int r = check_open(c->mnt[0].pair, c->n_mnt, own, sizeof(own) / sizeof(own[0]), &why);

	if (r < 0)
		return snap_error_set(err, r, "fence: on hard: %.360s; stop them first; a server that runs is fenced with \"on\"", why.msg);
	while ((n = nodes_open_files(c->nodes)) && clock_boot_ns() < until)
		(void)nanosleep(&pause, NULL);
	if (!n)
		return 0;
	return snap_error_set(err, -EBUSY, "fence: on hard: %lu file%s open through the mount, by nobody that /proc shows: a loop device, an NFS "
					   "server, a mapping, another pid namespace; end that first", n, n == 1 ? " is" : "s are");
}

/* At a closed gate nothing is in flight, and nobody gets an error for it: who comes meanwhile waits, and is refused then. */
static int set(struct core *c, struct snap_error *err)
{
	struct gate_ticket t;
	int r = gate_close(c->gate, DRAIN_MS, HOLD_MS, NULL, &t);
	uint64_t n;

	if (r == -EBUSY)
		return snap_error_set(err, r, "fence: on hard: the gate is closed already: open it (stillctl gate open), then ask again");
	if (r < 0)
		return snap_error_set(err, r, "fence: on hard: operations in flight did not end within %u ms: ask again", DRAIN_MS);
	n = nodes_seal(c->nodes);
	atomic_store(&c->seal.refused, 0);
	atomic_store(&c->seal.on, n == 0);
	if (gate_open(c->gate, &t) < 0 && n == 0) { /* somebody may have been let in before the seal was seen */
		(void)seal_door(c, false, NULL);
		return snap_error_set(err, -ETIMEDOUT, "fence: on hard: the gate was opened meanwhile: ask again");
	}
	if (n)
		return snap_error_set(err, -EBUSY, "fence: on hard: a file was opened at this very moment; stop who did, then ask again");
	return 0;
}

int seal_door(void *fs, bool on, struct snap_error *err)
{
	struct core *c = fs;
	int r;

	if (!on) {
		atomic_store(&c->seal.on, false);
		nodes_seal_set(c->nodes, false);
		return 0;
	}
	if (seal_stands(&c->seal))
		return 0;
	if (!c->n_mnt)
		return snap_error_set(err, -EINVAL, "fence: on hard: this stillfs mounts nothing");
	r = nothing_open(c, err);
	return r < 0 ? r : set(c, err);
}
