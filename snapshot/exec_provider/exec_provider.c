/* snapshot/exec_provider/exec_provider.c - the contract of provider.h, spoken with an executable: docs/exec-provider.md.
 * Owns:      nothing but a run's progress: the executable knows its sets by name and id.
 * Called by: the engine, through prov_exec, on its provider thread.
 * Blocks:    every call up to its deadline, and a second more when a killed process does not end.
 * Errors:    -errno with the sentence; what a script says on stderr is in it. */
#include "snapshot/exec_provider/exec_int.h"
#include "snapshot/exec_provider/script.h"
#include "base/clock.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPARE_MS 150u /* of trigger's time: the kill, and the answer's way back */
#define POLL_FIRST_MS 250u
#define POLL_MAX_MS 15000u
#define POLL_CALL_MS 20000u
#define REMOVE_MS 30000u

struct xrun {
	uint64_t next_ns;
	uint32_t pause_ms;
	struct prov_progress progress;
};

/* ---- life ---- */

/* As root runs it, nobody else may be able to change it. */
static int check_script(const char *path, struct snap_error *err)
{
	struct stat st;

	if (*path != '/')
		return snap_error_set(err, -EINVAL, "exec.script=%s: expected an absolute path", path);
	if (stat(path, &st) < 0)
		return snap_error_set(err, -errno, "exec.script %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
		return snap_error_set(err, -EACCES, "exec.script %s: not an executable file", path);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || st.st_mode & 022)
		return snap_error_set(err, -EPERM, "exec.script %s: others than root may change it; chown root, chmod go-w", path);
	return 0;
}

static void *exec_open(const struct door *d, struct snap_error *err)
{
	struct exec_prov *x;
	const char *path = conf_str(d->conf, "exec.script"), *t = conf_str(d->conf, "exec.option");

	for (; *t; t += strcspn(t, "\n"), t += *t == '\n')
		if (*t == '=' || strcspn(t, "=") >= strcspn(t, "\n")) {
			snap_error_set(err, -EINVAL, "exec.option=%.*s: expected KEY=VALUE", (int)strcspn(t, "\n"), t);
			return NULL;
		}
	if (check_script(path, err) < 0)
		return NULL;
	x = calloc(1, sizeof(*x));
	if (!x) {
		snap_error_set(err, -ENOMEM, "provider exec: out of memory");
		return NULL;
	}
	x->d = d;
	x->path = path;
	return x;
}

/* ---- the request ---- */

static void put(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

/* Lines KEYsepVALUE as an object. */
static struct json_object *pairs(const char *lines, char sep)
{
	struct json_object *o = json_object_new_object();
	char key[300];

	for (const char *p = lines; *p;) {
		size_t len = strcspn(p, "\n"), k = 0;

		while (k < len && p[k] != sep)
			k++;
		(void)snprintf(key, sizeof(key), "%.*s", (int)k, p);
		if (k < len)
			json_object_object_add(o, key, json_object_new_string_len(p + k + 1, (int)(len - k - 1)));
		p += len + (p[len] == '\n');
	}
	return o;
}

struct json_object *exec_request(const struct exec_prov *x, const char *verb, const char *name, const char *id, uint32_t max_ms)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	json_object_object_add(o, "contract", json_object_new_int(1));
	put(o, "verb", verb);
	put(o, "stillfs", x->d->name);
	if (name)
		put(o, "name", name);
	if (id)
		put(o, "id", id);
	json_object_object_add(o, "max_ms", json_object_new_int64(max_ms));
	for (unsigned i = 0; i < x->d->n_pairs; i++) {
		struct json_object *p = json_object_new_object();

		put(p, "backing", x->d->pairs[i].backing);
		put(p, "mountpoint", x->d->pairs[i].mountpoint);
		json_object_array_add(list, p);
	}
	json_object_object_add(o, "pairs", list);
	json_object_object_add(o, "options", pairs(conf_str(x->d->conf, "exec.option"), '='));
	return o;
}

static struct json_object *run_request(const struct exec_prov *x, const char *verb, const struct prov_run *r, uint32_t max_ms)
{
	struct json_object *o = exec_request(x, verb, r->name, r->set_id, max_ms);

	put(o, "lineage", r->lineage);
	put(o, "origin", r->origin ? r->origin : "");
	put(o, "class", r->class);
	put(o, "description", r->description);
	json_object_object_add(o, "tags", pairs(r->tags, ':'));
	json_object_object_add(o, "position", pairs(r->position, ' '));
	return o;
}

static bool stopped(void *arg)
{
	const struct prov_run *r = arg;

	return r->cancelled(r);
}

/* Takes o. 0 and the answer, an object, in *out (to be put back). */
int exec_call(const struct exec_prov *x, const char *verb, struct json_object *o, uint32_t max_ms, const struct prov_run *stop,
		struct json_object **out, struct snap_error *err)
{
	struct script_call c = { .path = x->path, .verb = verb, .deadline_ns = clock_boot_ns() + max_ms * NS_PER_MS,
				 .request = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
				 .stop = stop ? stopped : NULL, .stop_arg = (void *)(uintptr_t)stop };
	int r = check_script(x->path, err);

	*out = NULL;
	if (r == 0)
		r = script_run(&c, err);
	if (r == 0) {
		*out = json_tokener_parse(vbuf_text(&c.out));
		if (!json_object_is_type(*out, json_type_object)) {
			json_object_put(*out);
			*out = NULL;
			r = snap_error_set(err, -EPROTO, "%s %s: its output is no JSON object", x->path, verb);
		}
	}
	json_object_put(o);
	vbuf_free(&c.out);
	return r;
}

/* ---- the contract ---- */

static int exec_preflight(void *self, struct prov_run *r, uint32_t hold_ms, uint32_t max_ms, struct snap_error *err)
{
	struct json_object *o, *out;
	int ret;

	r->ref = calloc(1, sizeof(struct xrun));
	if (!r->ref)
		return snap_error_set(err, -ENOMEM, "provider exec: out of memory");
	o = run_request(self, "preflight", r, max_ms);
	json_object_object_add(o, "hold_ms", json_object_new_int64(hold_ms));
	ret = exec_call(self, "preflight", o, max_ms, r, &out, err);
	json_object_put(out);
	return ret;
}

static int exec_trigger(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	uint32_t ms = max_ms > 2 * SPARE_MS ? max_ms - SPARE_MS : max_ms / 2;
	struct json_object *out;
	int ret = exec_call(self, "trigger", run_request(self, "trigger", r, ms), ms, r, &out, err);

	json_object_put(out);
	return ret;
}

uint64_t exec_number(struct json_object *o, const char *key, uint64_t max)
{
	int64_t n = json_object_get_int64(json_object_object_get(o, key));

	return n < 0 ? 0 : (uint64_t)n > max ? max : (uint64_t)n;
}

static int read_progress(const struct exec_prov *x, struct json_object *o, struct prov_progress *p, struct snap_error *err)
{
	struct json_object *done = json_object_object_get(o, "complete");
	const char *detail = json_object_get_string(json_object_object_get(o, "detail"));

	if (!json_object_is_type(done, json_type_boolean))
		return snap_error_set(err, -EPROTO, "%s poll: `complete` is missing in its output, true or false", x->path);
	*p = (struct prov_progress){ .complete = json_object_get_boolean(done), .size_b = exec_number(o, "size", INT64_MAX),
				     .volumes = (unsigned)exec_number(o, "volumes", 1000), .percent = (unsigned)exec_number(o, "percent", 99) };
	if (p->complete)
		p->percent = 100;
	(void)snprintf(p->detail, sizeof(p->detail), "%s", detail ? detail : "");
	for (char *c = p->detail; *c; c++)
		*c = (unsigned char)*c < 0x20 ? ' ' : *c;
	return 0;
}

/* 0 also when the script could not say: *known tells. */
static int ask(const struct exec_prov *x, const struct prov_run *r, struct xrun *xr, bool *known, struct snap_error *err)
{
	struct snap_error why = { 0 };
	struct json_object *out;
	int ret = exec_call(x, "poll", run_request(x, "poll", r, POLL_CALL_MS), POLL_CALL_MS, r, &out, &why);

	*known = ret == 0;
	if (ret == 0)
		ret = read_progress(x, out, &xr->progress, err);
	else if (ret == -ENODATA || ret == -ESTALE || (ret == -EIO && !r->cancelled(r)))
		snap_error_set(err, ret, "%s", why.msg);
	else {
		ret = 0;
		if (!r->cancelled(r))
			(void)snprintf(xr->progress.detail, sizeof(xr->progress.detail), "progress unknown: %.230s", why.msg);
	}
	json_object_put(out);
	return ret;
}

static int exec_poll(void *self, struct prov_run *r, uint32_t max_ms, struct prov_progress *out, struct snap_error *err)
{
	const struct timespec tick = { .tv_nsec = 10000000 };
	uint64_t end = clock_boot_ns() + max_ms * NS_PER_MS;
	struct xrun *xr = r->ref;
	bool known;
	int ret = 0;

	while (clock_boot_ns() < xr->next_ns && clock_boot_ns() < end && !r->cancelled(r))
		(void)nanosleep(&tick, NULL);
	if (clock_boot_ns() >= xr->next_ns && !r->cancelled(r)) {
		ret = ask(self, r, xr, &known, err);
		xr->pause_ms = !xr->pause_ms ? POLL_FIRST_MS : xr->pause_ms * 3 / 2 < POLL_MAX_MS ? xr->pause_ms * 3 / 2 : POLL_MAX_MS;
		xr->next_ns = clock_boot_ns() + xr->pause_ms * NS_PER_MS;
	}
	*out = xr->progress;
	return ret;
}

/* The script is asked for the set's progress: it knows it, or it does not. */
static int exec_resume(void *self, struct prov_run *r, uint32_t max_ms, struct snap_error *err)
{
	struct xrun *xr = r->ref ? r->ref : calloc(1, sizeof(*xr));
	bool known = false;
	int ret;

	if (!xr)
		return snap_error_set(err, -EAGAIN, "provider exec: out of memory");
	r->ref = xr;
	ret = ask(self, r, xr, &known, err);
	if (ret < 0)
		return ret;
	return known ? 0 : snap_error_set(err, -EAGAIN, "%s", *xr->progress.detail ? xr->progress.detail : "the slice was ended");
}

static void exec_finish(void *self, struct prov_run *r)
{
	free(r->ref);
	r->ref = NULL;
}

static int exec_remove(void *self, const char *name, const char *id, uint32_t max_ms, struct snap_error *err)
{
	struct json_object *out;
	int ret = exec_call(self, "remove", exec_request(self, "remove", name, id, max_ms), max_ms, NULL, &out, err);

	json_object_put(out);
	return ret;
}

static int exec_discard(void *self, struct prov_run *r, struct snap_error *err)
{
	exec_finish(self, r);
	return exec_remove(self, r->name, r->set_id, REMOVE_MS, err);
}

const struct prov_ops prov_exec = {
	.name = "exec",
	.features = PROV_SYNC_FIRST | PROV_REMOTE | PROV_SCAN_LISTS,
	.open = exec_open,
	.close = free,
	.preflight = exec_preflight,
	.trigger = exec_trigger,
	.poll = exec_poll,
	.resume = exec_resume,
	.discard = exec_discard,
	.finish = exec_finish,
	.remove = exec_remove,
	.list = exec_list,
	.scan = exec_scan,
};
