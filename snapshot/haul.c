/* snapshot/haul.c - all sets that the provider's own records tell of, collected on its thread. See list.h.
 * Called by: rescan.c and stock.c on the engine's thread. Blocks: as long as the provider lists, up to max_ms; an abort ends
 * the wait. Errors: -errno with the sentence. */
#include "snapshot/list.h"
#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int keep(void *arg, struct set *s)
{
	struct haul *h = arg;

	if (h->n == h->cap) {
		struct set **more = realloc(h->v, (h->cap + 256) * sizeof(*more));

		if (!more)
			return -ENOMEM;
		h->v = more;
		h->cap += 256;
	}
	h->v[h->n++] = s;
	return 0;
}

void haul_free(struct haul *h)
{
	for (size_t i = 0; h && i < h->n; i++)
		set_free(h->v[i]);
	if (h)
		free(h->v);
	free(h);
}

static void do_scan(struct job *j)
{
	struct engine *e = j->self;
	struct haul *h = j->arg;

	j->result = e->prov->scan(e->prov_self, h->lineage, h->name, keep, h, j->max_ms, &j->err);
}

static void drop_haul(struct job *j)
{
	haul_free(j->arg);
}

struct haul *haul_in(struct engine *e, const char *lineage, const char *name, uint32_t max_ms, const char *what, struct snap_error *err)
{
	struct haul *h = calloc(1, sizeof(*h));
	struct job *j = h ? job_new(do_scan, e, max_ms) : NULL;
	bool still = false;
	int r = j ? 0 : -ENOMEM;

	if (j) {
		(void)snprintf(h->lineage, sizeof(h->lineage), "%s", lineage);
		(void)snprintf(h->name, sizeof(h->name), "%s", name);
		j->arg = h;
		j->orphan = drop_haul;
		r = exec_post(e->prov_exec, j);
	}
	if (r == 0) {
		r = exec_wait(e->prov_exec, j, clock_boot_ns() + max_ms * NS_PER_MS, &e->abort_flag);
		if (r == 0 && j->result < 0)
			r = snap_error_set(err, j->result, "%s: %s", what, j->err.msg);
		job_abandon(e->prov_exec, j, &still);
	} else {
		job_drop(e->prov_exec, j);
	}
	if (r == 0)
		return h;
	snap_error_set(err, r, "%s: %s", what, r == -EBUSY ? "the provider is busy with a call that has not come back" : strerror(-r));
	if (!still)
		haul_free(h);
	return NULL;
}

struct set *haul_take(struct haul *h, const char *id)
{
	for (size_t i = 0; h && i < h->n; i++)
		if (strcmp(h->v[i]->id, id) == 0) {
			struct set *s = h->v[i];

			h->v[i] = h->v[--h->n];
			return s;
		}
	return NULL;
}

void haul_forget(struct haul *h, const char *id)
{
	struct set *s;

	while ((s = haul_take(h, id)) != NULL)
		set_free(s);
}
