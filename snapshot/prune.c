/* snapshot/prune.c - the plan over the catalog, and what may be deleted at all. See prune.h, prune_int.h.
 * Called by: engine.c, engine_request.c, prune_run.c, prune_files.c. Threads: any, with the engine's lock held.
 * Blocks:    never, but for prune_open, which reads small files.
 * Errors:    -errno with the sentence. */
#include "snapshot/prune.h"
#include "snapshot/orphans.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hex.h"
#include "base/log.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the plan ---- */

static bool is_own(const struct engine *e, const struct set *s)
{
	return strcmp(s->lineage, catalog_lineage(e->cat)) == 0;
}

static bool by_other_provider(const struct engine *e, const struct set *s)
{
	return strcmp(s->provider, e->prov->name) != 0;
}

static struct ret_set judged(const struct engine *e, const struct set *s)
{
	return (struct ret_set){ .name = s->name, .class = s->class, .tags = s->tags, .created = s->created.tv_sec,
				 .seq = s->seq, .complete = s->state == SET_COMPLETE, .failed = s->state == SET_FAILED,
				 .pin = s->pin, .verified = set_is_verified(s), .held = (s->held && clock_boot_ns() < s->held_ns) || s->verifying || s->doubt || by_other_provider(e, s) };
}

/* What a plan says, and all that it was made of but the time. */
static int digest(const struct engine *e, struct plan *pl)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	unsigned char md[32];
	struct vbuf b = VBUF_INIT;
	int ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL);

	ret_print(&e->prune->policy, &b);
	for (size_t i = 0; i < pl->n; i++)
		vbuf_printf(&b, "%s %d %d %d %d %lld %s %d %llx %x %s\n", pl->set[i]->id, (int)pl->set[i]->state, pl->in[i].pin,
			    pl->in[i].verified, pl->in[i].held, (long long)pl->in[i].created, pl->in[i].class, pl->out[i].keep,
			    (unsigned long long)pl->out[i].rules, pl->out[i].why, pl->in[i].tags);
	for (size_t i = 0; i < pl->n_orphans; i++)
		vbuf_printf(&b, "orphan %s %d\n", pl->orphan[i].s->id, (int)pl->orphan[i].why);
	ok = ok && vbuf_error(&b) == 0 && EVP_DigestUpdate(c, vbuf_text(&b), b.len) && EVP_DigestFinal_ex(c, md, NULL);
	EVP_MD_CTX_free(c);
	vbuf_free(&b);
	if (ok)
		hex_put(pl->id, md, PLAN_ID_LEN / 2);
	return ok ? 0 : -ENOMEM;
}

int plan_make(struct engine *e, struct plan *pl, bool orphans, struct snap_error *err)
{
	size_t n = catalog_count(e->cat);
	struct set *s;
	int r = -ENOMEM;

	*pl = (struct plan){ 0 };
	pl->set = calloc(n + 1, sizeof(struct set *));
	pl->in = calloc(n + 1, sizeof(*pl->in));
	pl->out = calloc(n + 1, sizeof(*pl->out));
	if (pl->set && pl->in && pl->out) {
		for (size_t i = 0; (s = catalog_at(e->cat, i)) != NULL; i++)
			if (s->state != SET_DELETING && is_own(e, s)) {
				pl->set[pl->n] = s;
				pl->in[pl->n++] = judged(e, s);
			}
		r = ret_judge(&e->prune->policy, e->prune->zone, pl->in, pl->n, clock_utc().tv_sec, pl->out);
	}
	for (size_t i = 0; r == 0 && i < pl->n; i++)
		pl->n_delete += !pl->out[i].keep;
	if (r == 0 && orphans)
		r = orphans_judge(e, &pl->orphan, &pl->n_orphans, &pl->n_orphans_delete);
	if (r == 0)
		r = digest(e, pl);
	if (r < 0) {
		plan_free(pl);
		return snap_error_set(err, r, "prune: out of memory");
	}
	return 0;
}

void plan_free(struct plan *pl)
{
	free(pl->set);
	free(pl->in);
	free(pl->out);
	free(pl->orphan);
	*pl = (struct plan){ 0 };
}

void plan_reason(const struct engine *e, const struct plan *pl, size_t i, struct vbuf *out)
{
	static const struct {
		unsigned bit;
		const char *text;
	} why[] = {
		{ RET_BY_PIN, "pinned" }, { RET_BY_NEWEST, "newest complete" }, { RET_BY_VERIFIED, "newest verified" },
		{ RET_BY_RUNNING, "not complete yet" }, { RET_BY_FUTURE, "created in the future" },
		{ RET_BY_NO_RULE, "no keep_* rule applies to its class" }, { RET_BY_FAILED, "failed, and no failed_age applies" },
	};
	const struct ret_result *o = &pl->out[i];
	const struct set *s = pl->set[i];
	const char *sep = "";

	if (!o->keep) {
		vbuf_puts(out, s->state == SET_FAILED ? "failed, and older than failed_age" : "no rule keeps it");
		return;
	}
	for (unsigned k = 0; k < e->prune->policy.n; k++)
		if (o->rules >> k & 1) {
			vbuf_puts(out, sep);
			ret_rule_print(&e->prune->policy.rule[k], out);
			sep = ", ";
		}
	for (size_t k = 0; k < sizeof(why) / sizeof(why[0]); k++)
		if (o->why & why[k].bit) {
			vbuf_printf(out, "%s%s", sep, why[k].text);
			sep = ", ";
		}
	if (o->why & RET_BY_HELD && s->verifying)
		vbuf_printf(out, "%sbeing verified", sep);
	else if (o->why & RET_BY_HELD && s->doubt)
		vbuf_printf(out, "%sfailed, and it may be complete elsewhere; only rmdir removes it", sep);
	else if (o->why & RET_BY_HELD && s->held)
		vbuf_printf(out, "%scannot be removed: %s", sep, s->held);
	else if (o->why & RET_BY_HELD)
		vbuf_printf(out, "%smade by provider=%s", sep, s->provider);
}

/* ---- what may be deleted ---- */

bool prune_foreign(const struct engine *e)
{
	return e->prune->foreign;
}

static int refuse_floor(struct engine *e, const struct set *s, const char *what, struct snap_error *err)
{
	struct plan pl;
	int r = plan_make(e, &pl, false, err);

	for (size_t i = 0; r == 0 && i < pl.n; i++) {
		if (pl.set[i] != s || !pl.out[i].floor)
			continue;
		if (pl.out[i].why & RET_BY_NEWEST)
			r = snap_error_set(err, -EBUSY, "%s: it is the newest complete set, which is always kept; take a newer one "
							"first", what);
		else if (pl.out[i].why & RET_BY_VERIFIED)
			r = snap_error_set(err, -EBUSY, "%s: it is the newest verified set, which is always kept; verify a newer one "
							"first", what);
		else
			r = snap_error_set(err, -EBUSY, "%s: min_keep of the retention keeps it; take newer ones first", what);
	}
	plan_free(&pl);
	return r;
}

int prune_may_delete(struct engine *e, const struct set *s, bool force, const char *what, struct snap_error *err)
{
	if (s->state == SET_RUNNING || s->state == SET_PENDING)
		return snap_error_set(err, -EBUSY, "%s: it is not complete yet: wait for it; a write to abort would fail all that are not complete", what);
	if (!is_own(e, s))
		return snap_error_set(err, -EPERM, "%s: it belongs to another lineage, %s; sets are deleted where they were taken", what,
				      s->lineage);
	if (prune_foreign(e))
		return snap_error_set(err, -EPERM, "%s: state_dir comes from another machine, whose sets these may be; when they are "
						   "this one's, `echo adopt > prune`", what);
	if (by_other_provider(e, s))
		return snap_error_set(err, -EOPNOTSUPP, "%s: it was made by provider=%s, which alone can remove its data; start stillfs "
							"with that", what, s->provider);
	if (s->pin)
		return snap_error_set(err, -EBUSY, "%s: it is pinned; `echo no > snapshots/%s/pin` first", what, s->name);
	if (s->verifying)
		return snap_error_set(err, -EBUSY, "%s: it is being verified; `echo cancel > verify` first", what);
	return force ? 0 : refuse_floor(e, s, what, err);
}

const char *prune_off(const struct engine *e)
{
	const struct prune *p = e->prune;

	if (p->foreign)
		return "state_dir comes from another machine; write adopt to prune";
	if (p->damaged)
		return "state_dir/retention was damaged; write the policy to retention";
	if (p->differs)
		return "the retention written at run time is not the configuration's; write to retention, or make them the same";
	if (!conf_bool(e->door.conf, "auto_prune"))
		return "auto_prune=no";
	return ret_empty(&p->policy) ? "the policy is empty" : NULL;
}

void prune_status(struct engine *e, struct vbuf *out)
{
	const char *off = prune_off(e);
	const struct prune *p = e->prune;
	char when[CLOCK_ISO_MAX];

	vbuf_printf(out, "auto_prune %s%s\n", off ? "off: " : "on", off ? off : "");
	vbuf_printf(out, "retention_rules %u\n", p->policy.n);
	if (p->run_when.tv_sec)
		vbuf_printf(out, "last_prune %s %s removed %u skipped %u failed %u\n", clock_iso(p->run_when, when), p->run_id, p->run_removed,
			    p->run_skipped, p->run_failed);
	else
		vbuf_puts(out, "last_prune none\n");
	vbuf_printf(out, "prune_left %zu\norphans ", p->n_journal);
	orphans_count(e, out);
	vbuf_puts(out, "\n");
}

const char *prune_origin(const struct engine *e)
{
	return e->prune ? e->prune->origin : "";
}

/* ---- life ---- */

/* What an unfinished prune has condemned goes on being removed, but what was pinned since. Lock held. */
static size_t condemn_again(struct engine *e)
{
	struct prune *p = e->prune;
	struct set *s;
	size_t n = 0, at;

	for (size_t k = 0; k < p->n_journal; k++) {
		for (at = 0; (s = catalog_at(e->cat, at)) != NULL && strcmp(p->journal[k], s->id) != 0;)
			at++;
		if (!s || s->pin || s->verifying || s->state == SET_RUNNING || s->state == SET_PENDING)
			continue;
		if (s->state != SET_DELETING)
			s->gone_from = s->state;
		s->gone_by = "a prune that the end of stillfs interrupted";
		s->state = SET_DELETING;
		memmove(p->journal[n++], s->id, sizeof(s->id));
	}
	return n;
}

int prune_resume(struct engine *e, struct snap_error *err)
{
	struct prune *p = e->prune;
	size_t n, had;
	int r = 0;

	(void)pthread_mutex_lock(&p->io);
	(void)pthread_mutex_lock(&e->lock);
	had = p->n_journal;
	n = p->foreign ? had : condemn_again(e);
	p->n_journal = n;
	(void)pthread_mutex_unlock(&e->lock);
	if (had)
		log_info("prune: %zu sets of an interrupted run are still to be removed%s", n, p->foreign ? ", once this machine adopts them" : "");
	FAULT("prune.resumed");
	if (n < had)
		r = store_journal(p, p->journal, n, err);
	(void)pthread_mutex_unlock(&p->io);
	return r;
}

int prune_open(struct engine *e, struct snap_error *err)
{
	struct prune *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return snap_error_set(err, -ENOMEM, "prune: out of memory");
	p->dirfd = -1;
	(void)pthread_mutex_init(&p->io, NULL);
	e->prune = p;
	r = store_open(e, p, err);
	return r == 0 ? prune_resume(e, err) : r;
}

void prune_free(struct prune *p)
{
	if (!p)
		return;
	if (p->dirfd >= 0)
		(void)close(p->dirfd);
	zone_free(p->zone);
	free(p->journal);
	(void)pthread_mutex_destroy(&p->io);
	free(p);
}
