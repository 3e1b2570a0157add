/* snapshot/fence/keep_hard.c - see keep.h: `on hard`, for a server that SQL cannot reach: the backings are sealed (base/door.h)
 * while nobody has a file open, and the journal has every later process seal them before it mounts.
 * Called by: keep_work.c, on the engine's thread.
 * Blocks:    for a look through /proc and a few seconds; file I/O.
 * Errors:    in the file, in last_error, and an event. */
#include "snapshot/fence/keep_int.h"
#include "base/fault.h"
#include "base/log.h"
#include "snapshot/journal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TELL_MS 10000u /* between two reports of refused operations: a service manager may start a server each second */

int fence_keep_sealed(const struct conf *c, struct snap_error *err)
{
	struct vbuf text = VBUF_INIT;
	char want[8] = "", hard[8] = "";
	int r = journal_get(c, "fence", &text, err);

	(void)fence_keep_head(&text, NULL);
	(void)fence_record_get(vbuf_text(&text), "want", want, sizeof(want));
	(void)fence_record_get(vbuf_text(&text), "hard", hard, sizeof(hard));
	vbuf_free(&text);
	return r < 0 ? r : strcmp(want, "on") == 0 && strcmp(hard, "yes") == 0;
}

static void set_hard(struct fence_keep *k, bool hard)
{
	(void)pthread_mutex_lock(&k->lock);
	k->hard = hard;
	(void)pthread_mutex_unlock(&k->lock);
}

static int seal(struct fence_keep *k, bool on, struct snap_error *err)
{
	return k->e->door.ops->seal(k->e->door.fs, on, err);
}

/* What was there before stays: over SQL it may be up already, of a server that is gone now. */
static void refuse(struct fence_keep *k, const struct snap_error *why)
{
	if (k->record.len) {
		fence_keep_failed(k, IS_UNREACHABLE, "refused", why);
		return;
	}
	(void)pthread_mutex_lock(&k->lock);
	k->want = false;
	k->since[0] = '\0';
	(void)pthread_mutex_unlock(&k->lock);
	fence_keep_failed(k, IS_OFF, "refused", why);
}

static void hard_on(struct fence_keep *k)
{
	struct snap_error why = { 0 };

	if (seal(k, true, &why) < 0) {
		refuse(k, &why);
		return;
	}
	FAULT("fence.sealed");
	/* after it: a journal that says so is obeyed before anybody could be asked whether he has files open */
	set_hard(k, true);
	if (fence_keep_save(k, vbuf_text(&k->record), &why) < 0) {
		set_hard(k, false);
		(void)seal(k, false, NULL);
		/* of a write that failed after all was written */
		if (k->record.len)
			(void)fence_keep_save(k, vbuf_text(&k->record), &(struct snap_error){ 0 });
		else
			(void)journal_drop(k->e->door.conf, "fence", NULL);
		refuse(k, &why);
		return;
	}
	(void)pthread_mutex_lock(&k->lock);
	k->stand = k->want ? IS_HARD : k->stand; /* else off was asked for meanwhile */
	k->refused = 0;
	k->denied = -1;
	k->told_ns = 0;
	(void)pthread_mutex_unlock(&k->lock);
	fence_keep_tell(k, "on hard", NULL);
}

static void hard_off(struct fence_keep *k)
{
	struct snap_error why = { 0 };
	int r = fence_keep_save(k, vbuf_text(&k->record), &why); /* off is wanted: a successor must not seal */

	if (r == 0)
		r = seal(k, false, &why);
	if (r == 0 && !k->record.len)
		r = journal_drop(k->e->door.conf, "fence", &why);
	FAULT("fence.unsealed");
	if (r < 0) {
		fence_keep_failed(k, IS_TURNING_OFF, "not off", &why);
		return;
	}
	set_hard(k, false);
	if (!k->record.len)
		fence_keep_is_off(k);
}

/* Who wants to write is told where he looks: EROFS alone says little. */
static void hard_look(struct fence_keep *k)
{
	uint64_t now = clock_boot_ns(), refused;
	struct snap_error why = { 0 };
	char who[64];
	bool news;

	if (now < k->told_ns)
		return;
	refused = k->e->door.ops->refused(k->e->door.fs, who, sizeof(who));
	(void)pthread_mutex_lock(&k->lock);
	k->stand = k->want ? IS_HARD : k->stand;
	news = (long long)refused > k->refused;
	k->refused = (long long)refused;
	(void)pthread_mutex_unlock(&k->lock);
	if (!news)
		return;
	k->told_ns = now + TELL_MS * NS_PER_MS;
	snap_error_set(&why, -EROFS, "fence: %s was refused: this stillfs is fenced hard since %s; if it may take writes again: stillctl fence off",
		       *who ? who : "somebody", k->since);
	log_warn("%s", why.msg);
	k->e->door.ops->report(k->e->door.fs, "fence", &why);
}

bool fence_hard_work(struct fence_keep *k)
{
	enum todo what;
	bool want, left;

	(void)pthread_mutex_lock(&k->lock);
	what = k->asked;
	want = k->want;
	left = k->stand == IS_TURNING_OFF && !k->record.len; /* nothing over SQL; so it is when an earlier process died in hard_off */
	if (what != DO_HARD && !k->hard && !left) {
		(void)pthread_mutex_unlock(&k->lock);
		return false;
	}
	k->asked = DO_NOTHING;
	(void)pthread_mutex_unlock(&k->lock);
	if (!want)
		hard_off(k);
	else if (what == DO_HARD)
		hard_on(k);
	else if (what == DO_RETIRE)
		fence_keep_retire(k);
	else
		hard_look(k);
	fence_keep_again(k);
	return true;
}
