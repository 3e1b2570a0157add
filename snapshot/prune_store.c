/* snapshot/prune_store.c - what state_dir keeps for prune: the policy, whose machine this is, the journal, the log.
 * Owns:      the files retention, identity, prune.journal, prune.log of state_dir.
 * Called by: prune.c, prune_run.c, prune_files.c. Threads: any, with struct prune's io held.
 * Blocks:    small files, synced; never on a backing that can be frozen. The engine's lock is not held.
 * Errors:    -errno with the sentence; a log that cannot be written is said in the daemon's. */
#include "snapshot/prune_int.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/hex.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOG_MAX (1u << 20) /* then it becomes prune.log.1 */
#define N_LOGS 2
static const char *const log_names[N_LOGS] = { "prune.log.1", "prune.log" };

static char *read_file(int dir, const char *name, int *error)
{
	cleanup_fd int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	char *text;
	ssize_t n;

	*error = 0;
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > (off_t)(64 * LOG_MAX)) {
		*error = fd < 0 ? errno : EFBIG;
		return NULL;
	}
	text = malloc((size_t)st.st_size + 1);
	n = text ? read(fd, text, (size_t)st.st_size) : -1;
	if (n < 0) {
		*error = text ? errno : ENOMEM;
		free(text);
		return NULL;
	}
	text[n] = '\0';
	return text;
}

/* ---- whose machine ---- */

static void identity_line(struct vbuf *out, const char *key, const char *path)
{
	char buf[128] = "";
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	if (n > 0)
		buf[strcspn(buf, " \n")] = '\0';
	if (n > 0 && *buf)
		vbuf_printf(out, "%s %s\n", key, buf);
}

static void identity(struct vbuf *out)
{
	identity_line(out, "machine_id", "/etc/machine-id");
	identity_line(out, "product_uuid", "/sys/class/dmi/id/product_uuid"); /* of the instance, on EC2 */
}

/* Of the machine, and the stillfs by its name and state_dir: a copy of state_dir elsewhere has another one. */
static void make_origin(const struct engine *e, struct prune *p)
{
	struct vbuf b = VBUF_INIT;
	unsigned char md[32];

	identity(&b);
	if (b.len) {
		vbuf_printf(&b, "name %s\nstate_dir %s\n", e->door.name, conf_str(e->door.conf, "state_dir"));
		if (vbuf_error(&b) == 0 && EVP_Digest(vbuf_text(&b), b.len, md, NULL, EVP_sha256(), NULL))
			hex_put(p->origin, md, sizeof(p->origin) / 2);
	}
	vbuf_free(&b);
}

/* The same machine: no key that both know differs. */
static bool same_machine(const char *a, const char *b)
{
	while (*a) {
		size_t key = strcspn(a, " \n"), len = strcspn(a, "\n");

		for (const char *p = b; *p;) {
			size_t l = strcspn(p, "\n");

			if (strncmp(p, a, key + 1) == 0 && (l != len || strncmp(p, a, len) != 0))
				return false;
			p += l + (p[l] == '\n');
		}
		a += len + (a[len] == '\n');
	}
	return true;
}

int store_identity(struct prune *p, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	identity(&b);
	r = vbuf_error(&b);
	if (r == 0)
		r = catalog_put_file(p->dirfd, "identity", vbuf_text(&b));
	vbuf_free(&b);
	return r < 0 ? snap_error_set(err, r, "write identity into state_dir: %s", strerror(-r)) : 0;
}

static int load_identity(struct prune *p, struct snap_error *err)
{
	int error;
	cleanup_free char *text = read_file(p->dirfd, "identity", &error);
	struct vbuf b = VBUF_INIT;

	if (!text && error == ENOENT)
		return store_identity(p, err);
	identity(&b);
	p->foreign = !text || !same_machine(text, vbuf_text(&b));
	vbuf_free(&b);
	return 0;
}

/* ---- the policy ---- */

int store_policy(struct prune *p, const struct ret_policy *policy, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	ret_print(policy, &b);
	r = vbuf_error(&b);
	if (r == 0)
		r = catalog_put_file(p->dirfd, "retention", vbuf_text(&b));
	vbuf_free(&b);
	return r < 0 ? snap_error_set(err, r, "retention: write state_dir/retention: %s; nothing was changed", strerror(-r)) : 0;
}

static int load_policy(struct engine *e, struct prune *p, struct snap_error *err)
{
	const char *conf = conf_str(e->door.conf, "retention");
	cleanup_free char *text = NULL;
	struct snap_error own = { 0 };
	struct vbuf b = VBUF_INIT;
	int error, r = 0;

	ret_init(&p->configured);
	if (*conf) {
		vbuf_printf(&b, "%s\n", conf);
		r = vbuf_error(&b);
		if (r == 0)
			r = ret_edit(&p->configured, "option retention", vbuf_text(&b), b.len, err);
		p->configured_any = true;
	}
	vbuf_free(&b);
	if (r < 0)
		return r;
	p->policy = p->configured;
	text = read_file(p->dirfd, "retention", &error);
	if (!text && error == ENOENT)
		return 0;
	ret_init(&p->policy);
	if (!text || ret_edit(&p->policy, "state_dir/retention", text, strlen(text), &own) < 0) {
		log_error("%s; nothing is pruned by itself", text ? own.msg : "state_dir/retention cannot be read");
		p->damaged = true;
		p->policy = p->configured;
	}
	p->differs = !p->damaged && p->configured_any && !ret_equal(&p->policy, &p->configured);
	return 0;
}

/* ---- the journal ---- */

int store_journal(struct prune *p, char (*ids)[33], size_t n, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	int r;

	if (!n) {
		r = unlinkat(p->dirfd, "prune.journal", 0) < 0 && errno != ENOENT ? -errno : 0;
		FAULT("prune.emptied");
		if (r == 0 && fsync(p->dirfd) < 0)
			r = -errno;
	} else {
		for (size_t i = 0; i < n; i++)
			vbuf_printf(&b, "%s\n", ids[i]);
		vbuf_printf(&b, "plan %s\n", p->journal_plan);
		r = vbuf_error(&b);
		if (r == 0)
			r = catalog_put_file(p->dirfd, "prune.journal", vbuf_text(&b));
		vbuf_free(&b);
	}
	return r < 0 ? snap_error_set(err, r, "prune: write state_dir/prune.journal: %s", strerror(-r)) : 0;
}

static void copy_plan(char plan[PLAN_ID_LEN + 1], const char *text)
{
	if (strspn(text, "0123456789abcdef") == PLAN_ID_LEN)
		(void)snprintf(plan, PLAN_ID_LEN + 1, "%.*s", PLAN_ID_LEN, text);
}

/* The plan of the log's last run: when its journal is empty already, only the log knows of it. */
static void last_run(struct prune *p)
{
	for (size_t i = N_LOGS; i-- > 0 && !*p->earlier;) {
		int error;
		cleanup_free char *text = read_file(p->dirfd, log_names[i], &error);

		for (char *s = text; s && (s = strstr(s, "Z run ")) != NULL; s += 6)
			copy_plan(p->earlier, s + 6);
	}
}

static int load_journal(struct prune *p, struct snap_error *err)
{
	int error;
	cleanup_free char *text = read_file(p->dirfd, "prune.journal", &error);
	const char *s = text;
	size_t n = 0;

	if (!text && error == ENOENT)
		last_run(p);
	if (!text)
		return error == ENOENT ? 0 : snap_error_set(err, -error, "read state_dir/prune.journal: %s", strerror(error));
	p->journal = calloc(strlen(text) / 33 + 1, sizeof(*p->journal));
	if (!p->journal)
		return snap_error_set(err, -ENOMEM, "read state_dir/prune.journal: out of memory");
	for (; strspn(s, "0123456789abcdef") == 32; s += 32 + (s[32] == '\n')) {
		memcpy(p->journal[n], s, 32);
		p->journal[n++][32] = '\0';
	}
	p->n_journal = n;
	if (strncmp(s, "plan ", 5) == 0)
		copy_plan(p->earlier, s + 5);
	memcpy(p->journal_plan, p->earlier, sizeof(p->journal_plan));
	return 0;
}

int store_open(struct engine *e, struct prune *p, struct snap_error *err)
{
	const char *dir = conf_str(e->door.conf, "state_dir");
	int r;

	p->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p->dirfd < 0)
		return snap_error_set(err, -errno, "open state_dir %s: %s", dir, strerror(errno));
	make_origin(e, p);
	r = load_policy(e, p, err);
	if (r == 0)
		r = load_identity(p, err);
	if (r == 0)
		r = load_journal(p, err);
	if (r == 0) {
		p->zone = zone_load(p->policy.timezone, err);
		r = p->zone ? 0 : err->code;
	}
	return r;
}

/* ---- the log ---- */

void store_log(struct prune *p, const char *fmt, ...)
{
	cleanup_fd int fd = openat(p->dirfd, "prune.log", O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	char when[CLOCK_ISO_MAX], line[1200];
	struct stat st;
	size_t n;
	va_list ap;

	n = (size_t)snprintf(line, sizeof(line), "%s ", clock_iso(clock_utc(), when));
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	if (fd < 0 || write(fd, line, n) != (ssize_t)n || fsync(fd) < 0)
		log_error("write state_dir/prune.log: %s; it would have said: %.900s", strerror(errno), line);
	FAULT("prune.log");
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > (off_t)LOG_MAX)
		(void)renameat(p->dirfd, "prune.log", p->dirfd, "prune.log.1");
}

bool store_logged(struct prune *p, const char *id)
{
	char want[64];
	bool found = false;

	(void)snprintf(want, sizeof(want), " removed %s ", id);
	for (size_t i = N_LOGS; i-- > 0 && !found;) {
		int error;
		cleanup_free char *text = read_file(p->dirfd, log_names[i], &error);

		found = text && strstr(text, want);
	}
	return found;
}

void store_read_log(struct prune *p, struct vbuf *out)
{
	for (size_t i = 0; i < N_LOGS; i++) {
		int error;
		cleanup_free char *text = read_file(p->dirfd, log_names[i], &error);

		if (text)
			vbuf_puts(out, text);
	}
}
