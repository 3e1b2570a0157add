/* snapshot/classic/main.c - the program stillfs-classic, see classic.h: the sequence.
 * Owns:      the filesystems' descriptors, the run.
 * Called by: tools/ec2-consistent-snapshot, with the request in a file in memory.
 * Blocks:    preflight up to a minute; what is frozen is thawed by --snapshot-timeout whatever happens here.
 * Errors:    a sentence on stderr; exit code 1, 2 for wrong usage.
 *
 * While something is frozen nothing is printed and no file is touched: stdout may be a file there. */
#include "snapshot/classic/classic.h"
#include "snapshot/classic/guard.h"
#include "snapshot/catalog.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PREFLIGHT_MS 60000u
#define COMMAND_MS 300000u /* a lock's life, when a command of the operator runs under it */
#define LOCK_SPARE_MS 15000u
#define ANSWER_SPARE_MS 200u /* of the freeze's deadline, for the way back */
#define LATE_MS (NEW_S * 1000) /* how long what a lost request made is looked for: nobody comes later for it */

volatile int classic_stop;

static struct {
	struct classic_ask ask;
	bool debug, quiet;
	unsigned n_fs, n_frozen;
	int fd[GUARD_MAX];
	const char *fs[GUARD_MAX]; /* the frozen ones come first */
	struct conf *conf;
	struct door all, frozen; /* pairs of all filesystems, and of those that are frozen */
	struct guard *guard;
	struct dbs *dbs;
	void *ebs;
	struct prov_run run;
	char name[DOOR_NAME_MAX + 1], id[33], lineage[33];
	struct vbuf tags, position;
	uint64_t locking_ns; /* when the databases' locks were asked for */
	bool status_written;
	char **given; /* the environment as it came: keys that we put into our own are not for what we start */
} at;

extern char **environ;

static void on_signal(int sig)
{
	classic_stop = sig;
}

static bool cancelled(const struct prov_run *r)
{
	return classic_stop;
}

void classic_say(const char *fmt, ...)
{
	va_list ap;

	if (at.quiet)
		return;
	va_start(ap, fmt);
	(void)fputs("ec2-consistent-snapshot: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
}

#define DEBUG(...) (at.debug ? classic_say(__VA_ARGS__) : (void)0)

/* A test has the program die here. */
static void step(const char *name)
{
#ifdef STILLFS_TEST_PROVIDERS
	const char *die = getenv("STILLFS_CLASSIC_DIE");

	if (die && strcmp(die, name) == 0)
		(void)kill(getpid(), SIGKILL);
#endif
}

/* ---- what is there ---- */

static int open_one(const char *path, bool freeze, struct snap_error *err)
{
	struct stat st, root = { 0 };
	struct door_pair p;
	int fd;

	if (at.n_fs == DOOR_MAX_PAIRS)
		return snap_error_set(err, -E2BIG, "more than %d filesystems", DOOR_MAX_PAIRS);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || stat("/", &root) < 0)
		return snap_error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (freeze && st.st_dev == root.st_dev)
		return snap_error_set(err, -EINVAL, "%s is on the root filesystem, which cannot be frozen without hanging this machine: put the "
						    "database on a filesystem of its own", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return snap_error_set(err, -EBUSY, "%s: another ec2-consistent-snapshot is at work there", path);
	p = (struct door_pair){ .backing = path, .mountpoint = path, .backing_fd = fd, .backing_dev = st.st_dev, .mount_dev = st.st_dev };
	at.all.pairs[at.all.n_pairs++] = p;
	if (freeze)
		at.frozen.pairs[at.frozen.n_pairs++] = p;
	at.fd[at.n_fs] = fd;
	at.fs[at.n_fs++] = path;
	at.n_frozen += freeze;
	return 0;
}

/* Several names of one filesystem are one. */
static bool known(const char *path)
{
	struct stat st;

	for (unsigned i = 0; stat(path, &st) == 0 && i < at.n_fs; i++)
		if (at.all.pairs[i].backing_dev == st.st_dev)
			return true;
	return false;
}

static int open_filesystems(struct snap_error *err)
{
	static const char *const kinds[] = { "freeze-filesystem", "no-freeze-filesystem" };
	int r = 0;

	for (unsigned k = 0; k < 2; k++)
		for (unsigned i = 0; r == 0 && i < ask_count(&at.ask, kinds[k]); i++)
			if (!known(ask_at(&at.ask, kinds[k], i)))
				r = open_one(ask_at(&at.ask, kinds[k], i), k == 0, err);
	return r;
}

/* The same for each run of this machine over the same filesystem or volume, so that its sets can be listed and pruned. */
static int make_lineage(void)
{
	const char *first = at.n_fs ? at.fs[0] : ask_at(&at.ask, "volume", 0);
	char text[800] = "", id[80] = "";
	unsigned char md[32];
	int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, id, sizeof(id) - 1) <= 0)
		(void)gethostname(id, sizeof(id) - 1);
	if (fd >= 0)
		(void)close(fd);
	(void)snprintf(text, sizeof(text), "ec2-consistent-snapshot %s %.600s", id, first ? first : "");
	if (!EVP_Digest(text, strlen(text), md, NULL, EVP_sha256(), NULL))
		return -ENOMEM;
	hex_put(at.lineage, md, sizeof(at.lineage) / 2);
	return 0;
}

static int make_run(struct snap_error *err)
{
	const char *description = ask_at(&at.ask, "description", 0);
	char when[32];
	struct tm tm;

	if (catalog_random_id(at.id) < 0 || make_lineage() < 0)
		return snap_error_set(err, -EIO, "no random numbers");
	at.run.created = clock_utc();
	(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", gmtime_r(&at.run.created.tv_sec, &tm));
	(void)snprintf(at.name, sizeof(at.name), "classic-%s-%d", when, (int)getpid());
	at.run.name = at.name;
	at.run.set_id = at.id;
	at.run.lineage = at.lineage;
	at.run.class = "classic";
	at.run.description = description ? description : "ec2-consistent-snapshot";
	at.run.tags = "";
	at.run.position = "";
	at.run.lock_ms = -1;
	at.run.door = &at.all;
	at.run.cancelled = cancelled;
	if (ask_tags(&at.ask, &at.tags, err) < 0)
		return err->code ? err->code : -ENOMEM;
	at.run.tags = vbuf_text(&at.tags);
	return 0;
}

/* ---- commands ---- */

static int keep_environment(struct snap_error *err)
{
	size_t n = 0;

	while (environ[n])
		n++;
	at.given = calloc(n + 1, sizeof(*at.given));
	if (!at.given)
		return snap_error_set(err, -ENOMEM, "out of memory");
	memcpy(at.given, environ, n * sizeof(*at.given)); /* setenv replaces the strings, and leaves them as they are */
	return 0;
}

static int command(const char *what, const char *text, struct snap_error *err)
{
	char **own = environ;
	int status;

	if (!text)
		return 0;
	DEBUG("%s: %s", what, text);
	(void)fflush(stdout);
	environ = at.given;
	status = system(text);
	environ = own;
	return status == 0 ? 0 : snap_error_set(err, -EIO, "%s failed: %s", what, text);
}

/* The servers that are stopped meanwhile. */
static int stop_servers(bool start, struct snap_error *err)
{
	const char *init = ask_last(&at.ask, "mongo-init");
	char text[600];
	int r = 0;

	if (ask_last(&at.ask, "mysql-stop"))
		r = command(start ? "--mysql-stop: the start" : "--mysql-stop: the stop",
			    start ? "service mysql start || service mariadb start || service mysqld start" : "mysqladmin shutdown", err);
	if (ask_last(&at.ask, "mongo-stop") && (r == 0 || start)) {
		(void)snprintf(text, sizeof(text), "%.500s %s", init ? init : "/etc/init.d/mongod", start ? "start" : "stop");
		r = command("--mongo-stop", text, err) || r ? -EIO : 0;
	}
	return r;
}

/* ---- the sequence ---- */

static int preflight(struct snap_error *err)
{
	bool mysql = ask_last(&at.ask, "mysql") || ask_last(&at.ask, "percona");
	int r;

	at.frozen.conf = at.all.conf = at.conf;
	at.frozen.name = at.all.name = "ec2-consistent-snapshot";
	at.ebs = prov_ebs.open(&at.all, err);
	if (!at.ebs)
		return err->code;
	at.dbs = dbs_open(&at.frozen, mysql && !ask_last(&at.ask, "mysql-stop"), ask_last(&at.ask, "mongo") && !ask_last(&at.ask, "mongo-stop"),
			  err);
	if (!at.dbs)
		return err->code;
	r = prov_ebs.preflight(at.ebs, &at.run, ask_ms(&at.ask, "snapshot-timeout", 10), PREFLIGHT_MS, err);
	for (unsigned i = 0; r == 0 && i < at.n_fs; i++)
		(void)syncfs(at.fd[i]); /* before anything waits */
	return r == 0 ? dbs_preflight(at.dbs, err) : r;
}

/* Databases locked, position known and written where it was asked for. */
static int lock(struct snap_error *err)
{
	const char *file = ask_last(&at.ask, "mysql-master-status-file"), *pre = ask_last(&at.ask, "pre-freeze-command");
	const char *tries = ask_last(&at.ask, "lock-tries");
	uint32_t life = ask_ms(&at.ask, "snapshot-timeout", 10) + LOCK_SPARE_MS + (pre ? COMMAND_MS : 0);
	int r = stop_servers(false, err);

	at.locking_ns = clock_boot_ns();
	if (r == 0)
		r = dbs_lock(at.dbs, tries ? (unsigned)strtoul(tries, NULL, 10) : 60, ask_ms(&at.ask, "lock-sleep", 5), life, &at.position, err);
	step("locked");
	if (r < 0)
		return r;
	at.run.position = vbuf_text(&at.position);
	if (!at.quiet)
		status_print(at.run.position);
	if (file) {
		at.status_written = true;
		r = status_write(file, at.run.position, err);
	}
	step("status");
	return r == 0 ? command("--pre-freeze-command", pre, err) : r;
}

static double since_ms(uint64_t ns)
{
	return (double)(clock_boot_ns() - ns) / 1e6;
}

/* Frozen, asked for, thawed. hold_ms is the time between. */
static int hold(struct snap_error *err)
{
	uint64_t deadline = clock_boot_ns() + ask_ms(&at.ask, "snapshot-timeout", 10) * NS_PER_MS, began;
	struct snap_error late = { 0 };
	int r, thawed;

	for (unsigned i = 0; i < at.n_fs; i++)
		(void)syncfs(at.fd[i]);
	(void)fflush(stdout);
	r = guard_freeze(at.guard, deadline, err);
	began = clock_boot_ns();
	step("frozen");
	if (r == 0 && at.n_frozen && dbs_unlock_frozen(at.dbs))
		at.run.lock_ms = since_ms(at.locking_ns);
	step("unlocked");
	if (r == 0 && clock_left_ms(deadline) <= ANSWER_SPARE_MS)
		r = snap_error_set(err, -ETIMEDOUT, "the freeze took all of --snapshot-timeout");
	if (r == 0)
		r = prov_ebs.trigger(at.ebs, &at.run, clock_left_ms(deadline) - ANSWER_SPARE_MS, err);
	step("triggered");
	thawed = guard_thaw(at.guard, &late);
	at.run.hold_ms = since_ms(began);
	step("thawed");
	return r < 0 ? r : thawed < 0 ? snap_error_set(err, thawed, "%s", late.msg) : 0;
}

static int tag_one(void *arg, const char *key, const char *value, struct snap_error *err)
{
	const struct snap *s = arg;
	struct api a = { .e = at.ebs, .stop = &at.run, .deadline_ns = clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS };
	static struct snaps one;

	one.n = 1;
	one.v[0] = *s;
	return api_tag_all(&a, &one, 0, 1, key, value, err);
}

/* Ids in the order of the volumes that were given; tags that could not go into the request. */
static int tell(struct snap_error *err)
{
	struct api a = { .e = at.ebs, .stop = &at.run, .deadline_ns = clock_boot_ns() + PREFLIGHT_MS * NS_PER_MS };
	struct erun *er = at.run.ref;
	unsigned given = ask_count(&at.ask, "volume");
	struct snap_error ignored = { 0 };
	int r = 0;

	for (unsigned i = 0; i < (given ? given : er->snaps.n); i++)
		for (unsigned k = 0; k < er->snaps.n; k++) {
			if (given ? strcmp(er->snaps.v[k].volume, ask_at(&at.ask, "volume", i)) != 0 : k != i)
				continue;
			if (!at.quiet)
				(void)puts(er->snaps.v[k].id);
			if (r == 0)
				r = ask_later(&at.ask, i, tag_one, &er->snaps.v[k], err);
		}
	(void)fflush(stdout);
	if (*er->progress.note)
		classic_say("warning: %s", er->progress.note);
	if (at.run.lock_ms >= 0)
		DEBUG("databases locked for %.1f ms, filesystems held for %.1f ms", at.run.lock_ms, at.run.hold_ms);
	if (tags_later(&a, &at.run, er, &ignored) < 0)
		DEBUG("times are not in the tags: %s", ignored.msg);
	return r < 0 ? snap_error_set(err, r, "the snapshots are good, but not all tags are on them: %s", err->code ? err->msg : strerror(-r)) : 0;
}

/* Delete what the failed attempt made. Nothing is held any more, and a program that ends cannot look later. */
static void take_back(void)
{
	const struct erun *er = at.run.ref;
	struct snap_error left = { 0 };

	if (er->sent && !er->sure)
		DEBUG("looking for what the lost request made, for up to %u s", LATE_MS / 1000);
	if (ebs_discard_within(at.ebs, &at.run, LATE_MS, &left) < 0)
		classic_say("warning: the failed attempt may leave snapshots that nobody deletes: %s; delete snapshots with the tag "
			    "stillfs:id=%s", left.msg, at.id);
}

/* Everything undone, whatever happened. */
static int after(int r, struct snap_error *err)
{
	const char *file = ask_last(&at.ask, "mysql-master-status-file");
	struct snap_error why = { 0 };
	int one;

	if (at.status_written && unlink(file) < 0 && errno != ENOENT)
		classic_say("warning: %s: %s", file, strerror(errno));
	one = command("--post-thaw-command", ask_last(&at.ask, "post-thaw-command"), &why);
	if (at.dbs) {
		int lost = dbs_unlock(at.dbs, r, &why);

		if (at.run.lock_ms < 0 && dbs_any(at.dbs))
			at.run.lock_ms = since_ms(at.locking_ns);
		if (r == 0 && lost < 0)
			r = snap_error_set(err, lost, "%s", why.msg);
	}
	if (stop_servers(true, &why) < 0 && one == 0)
		one = -EIO;
	if (r < 0 && at.run.ref) {
		take_back();
	} else if (r == 0) {
		r = tell(err);
		prov_ebs.finish(at.ebs, &at.run);
	}
	return r == 0 && one < 0 ? snap_error_set(err, one, "the snapshots are good, but %s", why.msg) : r;
}

static int take(struct snap_error *err)
{
	int r = open_filesystems(err);

	if (r == 0)
		at.guard = guard_start(at.n_frozen, at.fd, at.fs, err);
	if (r == 0 && !at.guard)
		return err->code;
	if (r == 0)
		r = make_run(err);
	if (r == 0) {
		at.conf = ask_conf(&at.ask, err);
		r = at.conf ? preflight(err) : err->code;
	}
	step("preflight");
	if (r < 0) { /* nothing is held, no command has run */
		struct snap_error ignored = { 0 };

		if (at.dbs)
			(void)dbs_unlock(at.dbs, r, &ignored);
		if (at.run.ref)
			take_back(); /* nothing, but for an endpoint that carries dry runs out */
		return r;
	}
	r = lock(err);
	if (r == 0)
		r = classic_stop ? snap_error_set(err, -ECANCELED, "interrupted") : hold(err);
	return after(r, err);
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };
	struct snap_error err = { 0 };
	int r;

	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	log_setup(2, LOG_LEVEL_ERROR);
	r = ask_read(argc == 2 ? atoi(argv[1]) : -1, &at.ask, &err);
	at.debug = ask_last(&at.ask, "debug");
	at.quiet = ask_last(&at.ask, "quiet");
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		(void)sigaction(signals[i], &sa, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	if (r == 0)
		r = keep_environment(&err);
	if (r == 0)
		r = take(&err);
	at.guard = guard_end(at.guard);
	at.dbs = dbs_free(at.dbs);
	if (at.ebs)
		prov_ebs.close(at.ebs);
	conf_free(at.conf);
	vbuf_free(&at.tags);
	vbuf_free(&at.position);
	free(at.given);
	if (r < 0)
		(void)fprintf(stderr, "ec2-consistent-snapshot: %s\n", err.code ? err.msg : strerror(-r));
	return r == 0 ? 0 : r == -EINVAL && !at.ebs ? 2 : 1;
}
