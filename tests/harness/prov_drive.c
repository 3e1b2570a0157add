/* tests/harness/prov_drive.c - one provider, driven by lines on stdin: for the conformance suite (test_providers.py).
 * prov_drive PROVIDER [pair=PATH] [KEY=VALUE]...; commands: preflight NAME ID, trigger MS, poll, resume NAME ID, discard, finish,
 * remove NAME ID, list, cancel 0|1, ref (is there one). One run at a time.
 * Answers: lines of text with a blank in front, then "= CODE MS MESSAGE". Ends at the end of its input, by close.
 * PROVIDER "fake" is fake_provider.c's, with the defect that STILLFS_FAKE_DEFECT names. */
#include "tests/harness/drive_answer.h"
#include "tests/harness/fake_provider.h"
#include "snapshot/ebs/ebs.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ID "00112233445566778899aabbccddeeff"

static struct {
	const struct prov_ops *ops;
	void *self;
	struct prov_run run;
	char name[80], id[80];
	bool cancel;
} at;

static bool cancelled(const struct prov_run *r)
{
	return at.cancel;
}

static int print_set(void *arg, const char *name, const char *id, bool complete)
{
	vbuf_printf(arg, "%s %s %d\n", name, id, complete);
	return 0;
}

static void begin(const char *name, const char *id, const struct door *d)
{
	(void)snprintf(at.name, sizeof(at.name), "%s", name);
	(void)snprintf(at.id, sizeof(at.id), "%s", id);
	at.run = (struct prov_run){ .name = at.name, .set_id = at.id, .lineage = ID, .class = "daily", .description = "d", .tags = "team:db\n",
				    .position = "binlog_file b.1\n", .created = clock_utc(), .door = d, .cancelled = cancelled };
}

static int call(const struct door *d, char *line, struct vbuf *out, struct snap_error *err)
{
	char word[16] = "", a[80] = "", b[80] = "";
	struct prov_progress p = { 0 };
	int r;

	(void)sscanf(line, "%15s %79s %79s", word, a, b);
	if (strcmp(word, "preflight") == 0 || strcmp(word, "resume") == 0) {
		begin(a, b, d);
		return *word == 'p' ? at.ops->preflight(at.self, &at.run, 10000, 30000, err) : at.ops->resume(at.self, &at.run, 5000, err);
	}
	if (strcmp(word, "trigger") == 0)
		return at.ops->trigger(at.self, &at.run, (uint32_t)strtoul(a, NULL, 10), err);
	if (strcmp(word, "poll") == 0) {
		r = at.ops->poll(at.self, &at.run, 200, &p, err);
		vbuf_printf(out, "%u %d\n", p.percent, p.complete);
		return r;
	}
	if (strcmp(word, "discard") == 0)
		return at.ops->discard(at.self, &at.run, err);
	if (strcmp(word, "remove") == 0)
		return at.ops->remove(at.self, a, b, 20000, err);
	if (strcmp(word, "list") == 0)
		return at.ops->list(at.self, print_set, out, 20000, err);
	if (strcmp(word, "finish") == 0)
		at.ops->finish(at.self, &at.run);
	else if (strcmp(word, "cancel") == 0)
		at.cancel = *a == '1';
	else if (strcmp(word, "ref") == 0)
		vbuf_printf(out, "%d\n", at.run.ref != NULL);
	else
		return snap_error_set(err, -EINVAL, "unknown command: %s", word);
	return 0;
}

static void answer(const struct door *d, char *line)
{
	struct vbuf out = VBUF_INIT;
	struct snap_error err = { 0 };
	uint64_t start = clock_boot_ns();
	int r = call(d, line, &out, &err);

	drive_answer(r, &out, &err, start);
}

static int add_pair(struct door *d, char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0 || d->n_pairs == DOOR_MAX_PAIRS)
		return -1;
	d->pairs[d->n_pairs++] = (struct door_pair){ .backing = path, .mountpoint = path, .backing_fd = fd, .backing_dev = st.st_dev };
	return 0;
}

static struct conf *options(struct door *d, int argc, char **argv, struct snap_error *err)
{
	static const struct conf_key own[] = {
		{ "local_dir", CONF_LIST, "", NULL, 0, 0, "", "" },   { "local_copy", CONF_BOOL, "no", NULL, 0, 0, "", "" },
		{ "exec.script", CONF_PATH, "", NULL, 0, 0, "", "" }, { "exec.option", CONF_LIST, "", NULL, 0, 0, "", "" },
		{ NULL, CONF_STRING, NULL, NULL, 0, 0, NULL, NULL },
	};
	static struct conf_key table[40];
	unsigned n = 0;
	struct conf *c;

	for (const struct conf_key *k = ebs_keys; k->name && n < 30; k++)
		table[n++] = *k;
	memcpy(table + n, own, sizeof(own));
	c = conf_new(table, err);
	for (int i = 2; c && i < argc; i++) {
		char *eq = strchr(argv[i], '=');
		int r = eq ? 0 : -EINVAL;

		if (r == 0) {
			*eq = '\0';
			r = strcmp(argv[i], "pair") == 0 ? add_pair(d, eq + 1) : conf_set(c, "drive", argv[i], eq + 1, err);
		}
		if (r < 0)
			return conf_free(c);
	}
	return c;
}

int main(int argc, char **argv)
{
	struct door d = { .name = "drive" };
	struct snap_error err = { 0 };
	struct conf *conf = argc > 1 ? options(&d, argc, argv, &err) : NULL;
	char line[512];

	log_setup(2, LOG_LEVEL_ERROR);
	d.conf = conf;
	at.ops = argc > 1 && strcmp(argv[1], "fake") == 0 ? &fake_provider : argc > 1 ? provider_find(argv[1]) : NULL;
	if (conf && at.ops)
		at.self = at.ops->open(&d, &err);
	if (!at.self) {
		printf("= %d 0 %s\n", err.code ? err.code : -EINVAL, err.msg);
		(void)conf_free(conf);
		return 1;
	}
	printf("= 0 0 open\n");
	(void)fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		answer(&d, line);
	at.ops->finish(at.self, &at.run);
	at.ops->close(at.self);
	(void)conf_free(conf);
	return 0;
}
