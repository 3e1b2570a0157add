/* snapshot/fence/keep.c - see keep.h.
 * Owns:      the journal "fence" in state_dir: what is wanted, since when, the fence's record, the sessions that ended.
 * Called by: engine.c (life, work), files.c's table (show and write).
 * Threads:   the calls into the side run on the database thread, and what they find is put in there, under k->lock, so
 *            that one which comes back late is not lost. Everything else: any.
 * Errors:    of a write: at once. Of the work: in the file, in last_error, and an event. */
#include "snapshot/fence/keep.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/engine_int.h"
#include "snapshot/fence/side.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MS 1000u
#define AGAIN_MS 5000u /* after one that failed half-way: each try ends sessions */
#define LOOK_MS 4000u /* of one look; the connection is cut then */
#define WORK_MS 60000u /* of on, until the sessions are gone */
#define SESSIONS_MAX 65536u /* bytes of the list */

enum todo { DO_NOTHING, DO_CHECK, DO_ON, DO_RETIRE, DO_OFF };
enum stand { IS_OFF, IS_TURNING_ON, IS_ON, IS_UNREACHABLE, IS_LOST, IS_HALF, IS_TURNING_OFF };

struct fence_keep {
	struct engine *e;
	const struct fence_side *side; /* NULL: there is nothing that can be fenced */
	void *self;
	_Atomic int stop; /* errno: stillfs stops */
	struct vbuf record; /* of the fence; the database thread's own */
	pthread_mutex_t lock;
	/* under lock: */
	enum todo asked;
	enum stand stand;
	bool want, retired, busy;
	uint64_t due_ns;
	char since[CLOCK_ISO_MAX], verified[CLOCK_ISO_MAX];
	struct snap_error last; /* of the last work that failed; code 0: none */
	struct vbuf sessions, notes, found; /* lines */
	unsigned n_ended, renewed;
	long long refused, denied, refused_at, denied_at; /* since the fence is up, and the server's count at the last look */
};

/* ---- small things ---- */

static const char *stand_name(enum stand s)
{
	static const char *const names[] = { "off", "turning on", "on", "on unreachable", "on lost", "on half", "turning off" };

	return names[s];
}

static void tell(struct fence_keep *k, const char *what, const struct snap_error *why)
{
	struct vbuf b = VBUF_INIT;

	vbuf_printf(&b, "\"state\":\"%s\"", what);
	if (why && why->code) {
		vbuf_puts(&b, ",\"error\":\"");
		vbuf_json(&b, why->msg);
		vbuf_puts(&b, "\"");
	}
	k->e->door.ops->event(k->e->door.fs, "fence", vbuf_text(&b));
	vbuf_free(&b);
}

static int save(struct fence_keep *k, const char *record, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	(void)pthread_mutex_lock(&k->lock);
	vbuf_printf(&b, "want %s\nsince %s\n%s", k->want ? "on" : "off", k->since, k->retired ? "retired yes\n" : "");
	vbuf_puts(&b, record);
	vbuf_puts(&b, vbuf_text(&k->sessions));
	(void)pthread_mutex_unlock(&k->lock);
	r = vbuf_error(&b) ? snap_error_set(err, -ENOMEM, "fence: journal: out of memory") :
			     journal_put(k->e->door.conf, "fence", vbuf_text(&b), err);
	vbuf_free(&b);
	FAULT("fence.saved");
	return r;
}

/* ---- what the side tells during a call ---- */

static int on_record(void *arg, const char *lines, struct snap_error *err)
{
	return save(arg, lines, err);
}

static void on_ended(void *arg, const struct fence_session *s)
{
	struct fence_keep *k = arg;

	(void)pthread_mutex_lock(&k->lock);
	k->n_ended++;
	if (k->sessions.len < SESSIONS_MAX)
		vbuf_printf(&k->sessions, "ended_session %s@%s program=%s db=%s\n", s->user, s->host, s->program, s->db);
	(void)pthread_mutex_unlock(&k->lock);
}

static void on_note(void *arg, const char *sentence)
{
	struct fence_keep *k = arg;

	log_warn("%s", sentence);
	(void)pthread_mutex_lock(&k->lock);
	vbuf_free(&k->notes);
	vbuf_printf(&k->notes, "note %s\n", sentence);
	(void)pthread_mutex_unlock(&k->lock);
}

static bool on_cancelled(void *arg)
{
	struct fence_keep *k = arg;
	bool wanted;

	(void)pthread_mutex_lock(&k->lock);
	wanted = k->want; /* off may be asked for while it is being put up */
	(void)pthread_mutex_unlock(&k->lock);
	return !wanted || atomic_load(&k->stop);
}

static struct fence_opts opts(struct fence_keep *k)
{
	return (struct fence_opts){ .max_ms = WORK_MS, .record = on_record, .ended = on_ended, .note = on_note,
				    .cancelled = on_cancelled, .arg = k };
}

/* ---- the database thread ---- */

static void count(struct fence_keep *k, bool first)
{
	long long refused, denied;

	k->side->counts(k->self, &refused, &denied);
	(void)pthread_mutex_lock(&k->lock);
	if (first) {
		k->refused = refused < 0 ? -1 : 0;
		k->denied = denied < 0 ? -1 : 0;
	} else { /* a server that was restarted counts from 0 */
		if (refused >= 0 && k->refused >= 0)
			k->refused += refused >= k->refused_at ? refused - k->refused_at : refused;
		if (denied >= 0 && k->denied >= 0)
			k->denied += denied >= k->denied_at ? denied - k->denied_at : denied;
	}
	k->refused_at = refused;
	k->denied_at = denied;
	(void)pthread_mutex_unlock(&k->lock);
}

static void stands(struct fence_keep *k, const char *event)
{
	char now[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&k->lock);
	k->stand = k->want ? IS_ON : k->stand; /* else off was asked for meanwhile */
	(void)snprintf(k->verified, sizeof(k->verified), "%s", clock_iso(clock_utc(), now));
	k->last = (struct snap_error){ 0 };
	(void)pthread_mutex_unlock(&k->lock);
	if (event)
		tell(k, event, NULL);
}

/* It did not work; what is changed by now stays in the journal, and the engine comes by again. */
static void failed(struct fence_keep *k, enum stand s, const char *event, const struct snap_error *why)
{
	bool news;

	(void)pthread_mutex_lock(&k->lock);
	news = k->stand != s || k->last.code != why->code;
	if (k->want || s == IS_OFF || s == IS_TURNING_OFF)
		k->stand = s;
	k->last = *why;
	(void)pthread_mutex_unlock(&k->lock);
	if (!news)
		return; /* the same, each second */
	log_error("%s", why->msg);
	k->e->door.ops->report(k->e->door.fs, "fence", why);
	tell(k, event, why);
}

static void turn_on(struct fence_keep *k, const char *event)
{
	struct snap_error why = { 0 };
	struct fence_opts o = opts(k);
	bool fresh = fence_record_state(vbuf_text(&k->record)) == FENCE_OFF;
	int r = k->side->on(k->self, &o, &k->record, &why);

	if (r == 0) {
		if (fresh)
			count(k, true);
		stands(k, event);
		return;
	}
	if (fresh && !k->record.len) { /* refused, and nothing changed */
		(void)pthread_mutex_lock(&k->lock);
		k->want = false;
		k->since[0] = '\0';
		(void)pthread_mutex_unlock(&k->lock);
		(void)journal_drop(k->e->door.conf, "fence", NULL); /* of a write that failed after all was written */
		failed(k, IS_OFF, "refused", &why);
		return;
	}
	failed(k, IS_HALF, "half", &why);
}

static void turn_off(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	struct fence_opts o = opts(k);
	int r = save(k, vbuf_text(&k->record), &why); /* off is wanted: a successor must not put it up again */

	if (r == 0)
		r = k->side->off(k->self, &o, &k->record, &why);
	if (r == 0)
		r = journal_drop(k->e->door.conf, "fence", &why);
	FAULT("fence.dropped");
	if (r < 0) {
		failed(k, IS_TURNING_OFF, "not off", &why);
		return;
	}
	(void)pthread_mutex_lock(&k->lock);
	k->retired = false;
	k->stand = IS_OFF;
	k->last = why;
	k->since[0] = k->verified[0] = '\0';
	vbuf_free(&k->notes);
	(void)pthread_mutex_unlock(&k->lock);
	tell(k, "off", NULL);
}

static void look(struct fence_keep *k, enum stand was)
{
	struct snap_error why = { 0 };
	int r = k->side->verify(k->self, vbuf_text(&k->record), &why);

	if (r == 0) {
		count(k, false);
		stands(k, was == IS_ON ? NULL : "verified");
		return;
	}
	if (r != -ESTALE) {
		failed(k, IS_UNREACHABLE, "unreachable", &why);
		return;
	}
	failed(k, IS_LOST, "lost", &why);
	if (on_cancelled(k))
		return;
	(void)pthread_mutex_lock(&k->lock);
	k->renewed++;
	(void)pthread_mutex_unlock(&k->lock);
	turn_on(k, "renewed");
}

static void look_who(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	struct fence_opts o = opts(k);
	struct vbuf found = VBUF_INIT;
	int r = k->side->check(k->self, &o, &found, &why);
	size_t n;

	if (r < 0 && !found.len)
		vbuf_printf(&found, "%s\n", why.msg);
	(void)pthread_mutex_lock(&k->lock);
	vbuf_free(&k->found);
	for (const char *p = vbuf_text(&found); *p; p += n) {
		n = strcspn(p, "\n") + 1; /* each line has one */
		vbuf_puts(&k->found, "check ");
		vbuf_add(&k->found, p, n);
	}
	if (r == 0)
		vbuf_puts(&k->found, "check ok\n");
	(void)pthread_mutex_unlock(&k->lock);
	vbuf_free(&found);
}

static void retire(struct fence_keep *k)
{
	struct snap_error why = { 0 };

	(void)pthread_mutex_lock(&k->lock);
	k->retired = true;
	(void)pthread_mutex_unlock(&k->lock);
	if (save(k, vbuf_text(&k->record), &why) == 0) {
		tell(k, "retired", NULL);
		return;
	}
	(void)pthread_mutex_lock(&k->lock);
	k->retired = false;
	k->last = why;
	(void)pthread_mutex_unlock(&k->lock);
	k->e->door.ops->report(k->e->door.fs, "fence", &why);
}

static void do_work(struct job *j)
{
	struct fence_keep *k = j->self;
	enum stand was;
	enum todo what;
	bool want;

	(void)pthread_mutex_lock(&k->lock);
	what = k->asked;
	k->asked = DO_NOTHING;
	want = k->want;
	was = k->stand;
	(void)pthread_mutex_unlock(&k->lock);
	if (what == DO_CHECK)
		look_who(k);
	else if (what == DO_RETIRE && want)
		retire(k);
	else if (!want && (what == DO_OFF || k->record.len))
		turn_off(k);
	else if (want && fence_record_state(vbuf_text(&k->record)) != FENCE_ON)
		turn_on(k, "on");
	else if (want)
		look(k, was);
	(void)pthread_mutex_lock(&k->lock);
	k->busy = false;
	k->due_ns = UINT64_MAX;
	if (k->want || k->record.len)
		k->due_ns = clock_boot_ns() + (k->stand == IS_HALF ? AGAIN_MS : POLL_MS) * NS_PER_MS;
	(void)pthread_mutex_unlock(&k->lock);
}

/* ---- the engine's thread ---- */

uint64_t fence_keep_due_ns(struct fence_keep *k)
{
	uint64_t due;

	(void)pthread_mutex_lock(&k->lock);
	due = !k->side || k->busy ? UINT64_MAX : k->asked != DO_NOTHING ? 0 : k->due_ns;
	(void)pthread_mutex_unlock(&k->lock);
	return due;
}

void fence_keep_work(struct fence_keep *k)
{
	bool slow;
	struct job *j;

	if (fence_keep_due_ns(k) > clock_boot_ns())
		return;
	j = job_new(do_work, k, WORK_MS);
	if (!j)
		return;
	(void)pthread_mutex_lock(&k->lock);
	k->busy = true;
	slow = k->asked != DO_NOTHING || k->stand != IS_ON;
	(void)pthread_mutex_unlock(&k->lock);
	if (exec_post(k->e->db_exec, j) < 0) {
		(void)pthread_mutex_lock(&k->lock);
		k->busy = false;
		k->due_ns = clock_boot_ns() + POLL_MS * NS_PER_MS; /* somebody's call is stuck there */
		(void)pthread_mutex_unlock(&k->lock);
	} else if (exec_wait(k->e->db_exec, j, clock_boot_ns() + (slow ? WORK_MS + LOOK_MS : LOOK_MS) * NS_PER_MS,
			     &k->stop) < 0) {
		k->side->sever(k->self);
		(void)exec_wait(k->e->db_exec, j, clock_boot_ns() + LOOK_MS * NS_PER_MS, NULL);
	}
	job_drop(k->e->db_exec, j);
}

/* ---- life ---- */

struct fence_keep *fence_keep_open(struct engine *e, struct snap_error *err)
{
	struct fence_keep *k = calloc(1, sizeof(*k));

	if (!k) {
		snap_error_set(err, -ENOMEM, "fence: out of memory");
		return NULL;
	}
	k->e = e;
	k->due_ns = UINT64_MAX;
	k->refused = k->denied = -1;
	(void)pthread_mutex_init(&k->lock, NULL);
	k->side = fence_side_find(e->door.conf);
	if (k->side) {
		k->self = k->side->open(e->door.conf, err);
		if (!k->self) {
			k->side = NULL;
			fence_keep_free(k);
			return NULL;
		}
	}
	return k;
}

void fence_keep_free(struct fence_keep *k)
{
	if (!k)
		return;
	if (k->side)
		k->side->close(k->self);
	vbuf_free(&k->record);
	vbuf_free(&k->sessions);
	vbuf_free(&k->notes);
	vbuf_free(&k->found);
	(void)pthread_mutex_destroy(&k->lock);
	free(k);
}

int fence_keep_load(struct fence_keep *k, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	char value[32] = "";
	int r = journal_get(k->e->door.conf, "fence", &text, err);

	if (r < 0 || !text.len) {
		vbuf_free(&text);
		return r;
	}
	(void)fence_record_get(vbuf_text(&text), "want", value, sizeof(value));
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		r = snap_error_set(err, -EINVAL, "fence: the journal of the fence in state_dir says neither want on nor want off: look at it");
	else if (!k->side)
		r = snap_error_set(err, -EINVAL, "fence: state_dir says that a database is fenced, and db= names none that can be: start with "
						 "db=mysql, and take the fence down first");
	k->want = strcmp(value, "on") == 0;
	k->retired = fence_record_get(vbuf_text(&text), "retired", value, sizeof(value));
	(void)fence_record_get(vbuf_text(&text), "since", k->since, sizeof(k->since));
	for (const char *p = vbuf_text(&text); r == 0 && *p;) {
		size_t n = strcspn(p, "\n") + 1;
		bool session = strncmp(p, "ended_session ", 14) == 0;

		if (strncmp(p, "want ", 5) != 0 && strncmp(p, "since ", 6) != 0 && strncmp(p, "retired ", 8) != 0)
			vbuf_add(session ? &k->sessions : &k->record, p, n);
		k->n_ended += session;
		p += n;
	}
	k->stand = !k->want ? IS_TURNING_OFF : fence_record_state(vbuf_text(&k->record)) == FENCE_ON ? IS_UNREACHABLE : IS_TURNING_ON;
	k->due_ns = 0;
	if (r == 0)
		log_info("fence: an earlier process left it %s", stand_name(k->stand));
	vbuf_free(&text);
	return r;
}

void fence_keep_stop(struct fence_keep *k)
{
	atomic_store(&k->stop, ESHUTDOWN);
	if (k->side)
		k->side->sever(k->self);
}

/* ---- the control file ---- */

const char *fence_keep_state(struct fence_keep *k)
{
	const char *name;

	(void)pthread_mutex_lock(&k->lock);
	name = stand_name(k->stand);
	(void)pthread_mutex_unlock(&k->lock);
	return name;
}

static void put_count(struct vbuf *out, const char *key, long long n)
{
	if (n < 0)
		vbuf_printf(out, "%s -\n", key);
	else
		vbuf_printf(out, "%s %lld\n", key, n);
}

int fence_keep_show(struct engine *e, const char *set, struct vbuf *out)
{
	struct fence_keep *k = e->fence;

	(void)pthread_mutex_lock(&k->lock);
	vbuf_printf(out, "%s\n", k->asked == DO_ON && k->stand == IS_OFF ? "turning on" : stand_name(k->stand));
	if (k->since[0])
		vbuf_printf(out, "since %s\n", k->since);
	if (k->verified[0])
		vbuf_printf(out, "verified %s\n", k->verified);
	if (k->retired)
		vbuf_puts(out, "retired yes\n");
	if (k->want || k->stand != IS_OFF) {
		vbuf_printf(out, "ended %u\n", k->n_ended);
		put_count(out, "refused", k->refused);
		put_count(out, "denied", k->denied);
		vbuf_printf(out, "renewed %u\n", k->renewed);
	}
	if (k->last.code)
		vbuf_printf(out, "error %s\n", k->last.msg);
	vbuf_puts(out, vbuf_text(&k->notes));
	vbuf_puts(out, vbuf_text(&k->sessions));
	vbuf_puts(out, vbuf_text(&k->found));
	(void)pthread_mutex_unlock(&k->lock);
	return 0;
}

/* k->lock held. */
static int ask_on(struct fence_keep *k, struct snap_error *err)
{
	char now[CLOCK_ISO_MAX];

	if (k->stand == IS_TURNING_OFF)
		return snap_error_set(err, -EBUSY, "fence: it is being taken down; read fence until it says off");
	k->asked = DO_ON;
	if (k->want)
		return 0; /* looked after at once */
	k->want = true;
	k->stand = IS_TURNING_ON;
	k->last = (struct snap_error){ 0 };
	k->n_ended = k->renewed = 0;
	k->refused = k->denied = -1;
	vbuf_free(&k->sessions);
	(void)snprintf(k->since, sizeof(k->since), "%s", clock_iso(clock_utc(), now));
	return 0;
}

static int ask_off(struct fence_keep *k, bool force, struct snap_error *err)
{
	if (k->retired && !force)
		return snap_error_set(err, -EPERM, "fence: this server is retired, another one has taken its place: write \"off force\" if it "
						   "must take writes again");
	if (k->stand == IS_OFF && !k->want)
		return 0;
	k->asked = DO_OFF;
	k->want = false;
	k->stand = IS_TURNING_OFF;
	k->last = (struct snap_error){ 0 };
	return 0;
}

static int ask(struct fence_keep *k, const char *word, const char *arg, struct snap_error *err)
{
	static const char expected[] = "fence: expected on, off, off force, retire or check";

	if (strcmp(word, "on") == 0 && strcmp(arg, "hard") == 0)
		return snap_error_set(err, -EOPNOTSUPP, "fence: \"on hard\" is not there: a server that SQL cannot reach is stopped, and kept from "
							"starting, by its service manager");
	if (*arg && (strcmp(word, "off") != 0 || strcmp(arg, "force") != 0))
		return snap_error_set(err, -EINVAL, "%s", expected);
	if (strcmp(word, "off") == 0)
		return ask_off(k, *arg != '\0', err);
	if (k->asked != DO_NOTHING)
		return snap_error_set(err, -EBUSY, "fence: the last command is still being carried out; read fence until it is done");
	if (strcmp(word, "on") == 0)
		return ask_on(k, err);
	if (strcmp(word, "retire") == 0 && (!k->want || k->stand != IS_ON))
		return snap_error_set(err, -EINVAL, "fence: retire: the fence is %s, and has to be on", stand_name(k->stand));
	if (strcmp(word, "retire") != 0 && strcmp(word, "check") != 0)
		return snap_error_set(err, -EINVAL, "%s", expected);
	k->asked = *word == 'r' ? DO_RETIRE : DO_CHECK;
	if (*word == 'c')
		vbuf_free(&k->found);
	return 0;
}

int fence_keep_write(struct engine *e, const char *set, const char *text, size_t len, struct snap_error *err)
{
	struct fence_keep *k = e->fence;
	char word[16] = "", arg[16] = "", rest[2];
	int n = sscanf(text, "%15s %15s %1s", word, arg, rest), r = 0;

	if (n < 1 || n > 2)
		return snap_error_set(err, -EINVAL, "fence: expected on, off, off force, retire or check");
	if (!k->side)
		return snap_error_set(err, -EOPNOTSUPP, "fence: db=%s: only MariaDB and MySQL can be fenced (db=mysql)",
				      conf_str(e->door.conf, "db"));
	(void)pthread_mutex_lock(&e->lock);
	if (e->stopping)
		r = snap_error_set(err, -ESHUTDOWN, "fence: stillfs is stopping");
	else if (e->running)
		r = snap_error_set(err, -EBUSY, "fence: snapshot %s is before its consistency point; wait for it (cat snapshots/%s/wait)",
				   e->running->name, e->running->name);
	(void)pthread_mutex_lock(&k->lock);
	if (r == 0)
		r = ask(k, word, arg, err);
	(void)pthread_mutex_unlock(&k->lock);
	(void)pthread_cond_signal(&e->work);
	(void)pthread_mutex_unlock(&e->lock);
	return r;
}
