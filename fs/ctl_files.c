/* fs/ctl_files.c - the one table of control files: name, mode, who renders, who parses.
 * Threads: control threads. Blocks: a write to `gate` up to drain_timeout; nothing else.
 * Errors:  -errno with the operator's sentence. */
#include "fs/ctl_int.h"
#include "base/clock.h"
#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int render_version(struct ctl *c, struct vbuf *out)
{
	vbuf_printf(out, "stillfs %s\n", STILLFS_VERSION);
	return 0;
}

static int render_config(struct ctl *c, struct vbuf *out)
{
	conf_render(c->d.conf, out);
	return 0;
}

static int render_gate(struct ctl *c, struct vbuf *out)
{
	static const char *const names[] = { "open", "closing", "closed" };
	struct gate_status s;

	core_gate_status(c->d.core, &s);
	if (s.state == GATE_OPEN)
		vbuf_puts(out, "open\n");
	else
		vbuf_printf(out, "%s %.1f\n", names[s.state], clock_left_ms(s.deadline_ns) / 1000.0);
	return 0;
}

/* "open" | "close" [" timeout=" SECONDS] */
static int write_gate(struct ctl *c, const char *text, size_t len, struct snap_error *err)
{
	uint64_t hold = conf_num(c->d.conf, "gate_timeout");
	char word[32] = "", arg[64] = "", rest[2];
	int n = sscanf(text, "%31s %63s %1s", word, arg, rest), r;
	char *end;

	if (!c->d.n_pairs)
		return snap_error_set(err, -EOPNOTSUPP, "gate: this is a catalog without a BACKING; there is nothing to hold");
	if (n == 1 && strcmp(word, "open") == 0) {
		r = core_gate_open(c->d.core, err);
		if (r == 0)
			ctl_event(c, "gate", "\"state\":\"open\",\"by\":\"operator\"");
		return r;
	}
	if ((n != 1 && n != 2) || strcmp(word, "close") != 0)
		return snap_error_set(err, -EINVAL, "gate: expected \"open\" or \"close [timeout=SECONDS]\"");
	if (n == 2) {
		double s = strncmp(arg, "timeout=", 8) == 0 ? strtod(arg + 8, &end) : -1;

		if (!(s > 0) || *end || s * 1000 > GATE_MAX_MS)
			return snap_error_set(err, -EINVAL, "gate: %s: expected timeout=SECONDS, more than 0 and at "
							    "most %u", arg, GATE_MAX_MS / 1000);
		hold = (uint64_t)(s * 1000 + 0.5);
	}
	r = ctl_upgrade_refuse(c, "gate", err);
	if (r == 0)
		r = core_gate_close(c->d.core, (uint32_t)hold, err);
	if (r == 0)
		ctl_event(c, "gate", "\"state\":\"closed\",\"by\":\"operator\"");
	return r;
}

static int render_last_error(struct ctl *c, struct vbuf *out)
{
	char when[CLOCK_ISO_MAX];

	(void)pthread_mutex_lock(&c->lock);
	if (!c->last.err.code)
		vbuf_puts(out, "none\n");
	else
		vbuf_printf(out, "time %s\nfile %s\nerrno %s\nmessage %s\n", clock_iso(c->last.when, when),
			    c->last.file,
			    strerrorname_np(-c->last.err.code) ? strerrorname_np(-c->last.err.code) : "?",
			    c->last.err.msg);
	(void)pthread_mutex_unlock(&c->lock);
	return 0;
}

/* Memory that the daemon has in use, the shared tables of the keeper included; 0: not known. proc(5), statm. */
static unsigned long resident_kib(void)
{
	char text[96], *end;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		(void)close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	(void)strtoul(text, &end, 10); /* the address space */
	return strtoul(end, NULL, 10) * (unsigned long)sysconf(_SC_PAGESIZE) / 1024;
}

static int render_status(struct ctl *c, struct vbuf *out)
{
	vbuf_printf(out, "name %s\nversion %s\n", c->d.name, STILLFS_VERSION);
	engine_status(c->engine, out);
	core_status(c->d.core, out);
	vbuf_printf(out, "control_dir %s\n", c->d.control_dir);
	vbuf_printf(out, "pid %d\nkeeper_pid %d\nrestarts %u\n", (int)getpid(),
		    atomic_load(&c->d.shm->keeper_pid), atomic_load(&c->d.shm->restarts));
	vbuf_printf(out, "last_death %s\nupgrade ", c->d.shm->last_death[0] ? c->d.shm->last_death : "none");
	(void)ctl_upgrade_render(c, out);
	vbuf_printf(out, "resident_kib %lu\n", resident_kib());
	vbuf_printf(out, "uptime_s %llu\n",
		    (unsigned long long)((clock_boot_ns() - c->start_ns) / NS_PER_S));
	(void)pthread_mutex_lock(&c->lock);
	vbuf_printf(out, "last_error %s\n", c->last.err.code ? c->last.err.msg : "none");
	(void)pthread_mutex_unlock(&c->lock);
	return 0;
}

/* The root's files in the order of the listing; those without functions are the engine's, by name. */
static const struct cfile root_files[] = {
	{ "version", FILE_PLAIN, 0444, render_version, NULL, NULL },
	{ "status", FILE_PLAIN, 0444, render_status, NULL, NULL },
	{ "config", FILE_PLAIN, 0444, render_config, NULL, NULL },
	{ "gate", FILE_PLAIN, 0644, render_gate, write_gate, NULL },
	{ "snapshot", FILE_SNAPSHOT, 0644, NULL, NULL, NULL },
	{ "abort", FILE_PLAIN, 0200, NULL, NULL, NULL },
	{ "list", FILE_PLAIN, 0444, NULL, NULL, NULL },
	{ "list.json", FILE_PLAIN, 0444, NULL, NULL, NULL },
	{ "metrics", FILE_PLAIN, 0444, ctl_render_metrics, NULL, NULL },
	{ "events", FILE_EVENTS, 0444, NULL, NULL, NULL },
	{ "last_error", FILE_PLAIN, 0444, render_last_error, NULL, NULL },
	{ "upgrade", FILE_PLAIN, 0644, ctl_upgrade_render, ctl_upgrade_write, NULL },
};

const struct cfile *ctl_find(const struct cfile *t, unsigned n, const char *name, unsigned *index)
{
	for (unsigned i = 0; i < n; i++)
		if (strcmp(t[i].name, name) == 0) {
			*index = i;
			return &t[i];
		}
	return NULL;
}

static mode_t with_group(const struct ctl *c, mode_t m)
{
	return c->gid && m & 0200 ? m | 0020 : m;
}

int ctl_files_init(struct ctl *c, struct snap_error *err)
{
	unsigned i, at;

	for (i = 0; i < sizeof(root_files) / sizeof(root_files[0]); i++)
		c->root[c->n_root++] = root_files[i];
	for (const struct engine_file *f = engine_root_files; f->name; f++) {
		if (!ctl_find(c->root, c->n_root, f->name, &at)) {
			at = c->n_root++;
			if (at >= CTL_MAX_FILES)
				return snap_error_set(err, -E2BIG, "control tree: too many files");
			c->root[at] = (struct cfile){ .name = f->name, .mode = f->write ? 0644 : 0444 };
		}
		c->root[at].ef = f;
	}
	for (const struct engine_file *f = engine_set_files; f->name; f++) {
		if (c->n_set + 2 >= CTL_MAX_FILES)
			return snap_error_set(err, -E2BIG, "control tree: too many files");
		c->set[c->n_set++] = (struct cfile){ .name = f->name, .mode = f->write ? 0644 : 0444, .ef = f };
	}
	c->set[c->n_set++] = (struct cfile){ .name = "wait", .kind = FILE_WAIT, .mode = 0444 };
	c->set[c->n_set++] = (struct cfile){ .name = "data", .kind = FILE_DATA, .mode = 0777 };
	for (i = 0; i < c->n_root; i++)
		c->root[i].mode = with_group(c, c->root[i].mode);
	for (i = 0; i + 1 < c->n_set; i++)
		c->set[i].mode = with_group(c, c->set[i].mode);
	return 0;
}
