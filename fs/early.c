/* fs/early.c - which write is the last one before an fsync: binary logs, redo logs, Aria's log.
 * Owns:      the guesses, a few bits for each of EARLY_SLOTS slots.
 * Called by: data.c, for buffered writes and fsyncs.
 * Threads:   any lane. Blocks: never; allocates and logs nothing.
 *
 * Why: a log's write and its fsync are two messages through us, and natively one system call after the other. Whoever
 * begins writeback with the write has the device at work while the reply, the caller's fsync and the worker that serves
 * it are on their way (docs/performance.md). It changes nothing for durability: the fsync waits for that writeback,
 * writes what is dirty by then, and is told of its errors, as sync_file_range(2) waits for nothing and takes no error
 * away. What was written twice for it would cost a volume's operations: so only where the number of writes between two
 * fsyncs was the same a few times in a row, and only after the last one of them. */
#include "fs/early.h"

#define WRITES_MAX 7u /* more of them are no log's, as are larger ones */
#define SIZE_MAX_B 65536u
#define SURE 3u /* guesses in a row that were right */
#define SCORE_MAX 15u

struct guess {
	unsigned writes, before, score;
};

static struct guess guess_of(uint16_t v)
{
	return (struct guess){ .writes = v & 0xf, .before = v >> 4 & 0xf, .score = v >> 8 };
}

static uint16_t packed(struct guess g)
{
	return (uint16_t)(g.writes | g.before << 4 | g.score << 8);
}

/* Is it the group's last write? Of the large groups all are alike here, and none's. */
static bool expected(struct guess g)
{
	return g.score >= SURE && g.writes == g.before && g.writes <= WRITES_MAX;
}

bool early_written(struct early *e, uint64_t node, uint32_t size)
{
	_Atomic uint16_t *at = &e->slot[node % EARLY_SLOTS];
	struct guess g = guess_of(atomic_load_explicit(at, memory_order_relaxed));

	if (size > SIZE_MAX_B || g.writes >= WRITES_MAX)
		g.writes = WRITES_MAX + 1;
	else
		g.writes++;
	atomic_store_explicit(at, packed(g), memory_order_relaxed);
	return expected(g);
}

void early_begun(struct early *e, uint64_t node, uint64_t now_ns)
{
	atomic_store_explicit(&e->begun_ns[node % EARLY_SLOTS], now_ns, memory_order_relaxed);
}

static uint64_t take_begun(struct early *e, uint64_t node)
{
	_Atomic uint64_t *at = &e->begun_ns[node % EARLY_SLOTS];
	uint64_t ns = atomic_load_explicit(at, memory_order_relaxed);

	if (ns)
		atomic_store_explicit(at, 0, memory_order_relaxed);
	return ns;
}

uint64_t early_synced(struct early *e, uint64_t node, uint64_t now_ns)
{
	_Atomic uint16_t *at = &e->slot[node % EARLY_SLOTS];
	struct guess g = guess_of(atomic_load_explicit(at, memory_order_relaxed));
	bool sure = expected(g);
	uint64_t begun_ns = take_begun(e, node);

	if (!g.writes)
		return 0; /* of what was written directly, or by a mapping */
	if (g.writes != g.before || g.writes > WRITES_MAX)
		g.score /= 4; /* a habit outlives one exception */
	else if (g.score < SCORE_MAX)
		g.score++;
	g.before = g.writes;
	g.writes = 0;
	atomic_store_explicit(at, packed(g), memory_order_relaxed);
	return !sure ? 0 : begun_ns ? begun_ns : now_ns;
}
