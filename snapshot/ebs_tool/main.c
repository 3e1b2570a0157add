/* snapshot/ebs_tool/main.c - the program stillfs-ebs: arguments, options, the members of a set. See tool.h. */
#include "snapshot/ebs_tool/tool.h"
#include "base/hex.h"
#include "version.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_TRIES 30

static void on_signal(int sig)
{
	tool_stop = sig;
}

/* The snapshots' ids, as soon as all are described. */
static int list(struct tool *t, int argc, char **argv, struct snap_error *err)
{
	struct members *ms = calloc(1, sizeof(*ms));
	struct snap_error why = { 0 };
	unsigned want = 1;
	int r = -ENOMEM;

	t->pending_too = true;
	for (int i = 0; ms && i < LIST_TRIES && !tool_stop; i++) {
		set_free(ms->set);
		memset(ms, 0, sizeof(*ms));
		snap_error_clear(&why);
		r = tool_members(t, ms, &why);
		for (unsigned k = 0; k < ms->n_tags; k++)
			if (strcmp(ms->ours[k][0], "stillfs:members") == 0)
				want = (unsigned)strtoul(ms->ours[k][1], NULL, 10);
		if ((r == 0 && ms->n >= want) || (r < 0 && r != -ENOENT))
			break;
		tool_sleep_ms(500);
	}
	for (unsigned i = 0; r == 0 && i < ms->n; i++)
		(void)printf("snapshot %s %s\n", ms->m[i].snap, ms->m[i].was);
	if (ms)
		set_free(ms->set);
	free(ms);
	return r < 0 ? snap_error_set(err, r, "%s", why.code ? why.msg : strerror(-r)) : 0;
}

/* ---- the command ---- */

static int option(struct tool *t, char *text, struct snap_error *err)
{
	char *eq = strchr(text, '=');

	if (!eq)
		return snap_error_set(err, -EINVAL, "-o %.100s: expected OPTION=VALUE", text);
	*eq = '\0';
	return conf_set(t->conf, "-o", text, eq + 1, err);
}

int main(int argc, char **argv)
{
	int (*command)(struct tool *t, int c, char **v, struct snap_error *err) = NULL;
	static struct tool t;
	struct sigaction sa = { .sa_handler = on_signal };
	struct snap_error err = { 0 };
	int i = 2, r = 0;

	(void)signal(SIGCHLD, SIG_DFL); /* ignored by who started us, the end of our children would not be seen */
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
		return printf("stillfs-ebs %s\n", STILLFS_VERSION) < 0;
	if (argc > 1)
		command = strcmp(argv[1], "restore") == 0 ? tool_restore : strcmp(argv[1], "copy") == 0 ? tool_copy :
			  strcmp(argv[1], "list") == 0 ? list : NULL;
	if (!command) {
		tool_say("stillfs-ebs is started by stillctl restore and stillctl copy; see stillctl(8)");
		return 2;
	}
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	t.conf = conf_new(ebs_keys, &err);
	r = t.conf ? 0 : err.code;
	for (; r == 0 && i + 1 < argc && (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--id") == 0); i += 2) {
		if (argv[i][1] == 'o')
			r = option(&t, argv[i + 1], &err);
		else
			t.id = argv[i + 1];
	}
	if (r == 0 && (!t.id || !hex_is(t.id, 32)))
		r = snap_error_set(&err, -EINVAL, "--id: expected the 32 hexadecimal digits of a set");
	t.door.conf = t.conf;
	t.door.name = "stillfs";
	t.run.cancelled = tool_cancelled;
	if (r == 0) {
		t.e = prov_ebs.open(&t.door, &err);
		r = t.e ? command(&t, argc - i, argv + i, &err) : err.code;
	}
	if (r < 0)
		tool_say("stillctl: %s", err.code ? err.msg : strerror(-r));
	if (t.e)
		prov_ebs.close(t.e);
	conf_free(t.conf);
	return r == 0 ? 0 : err.code == -EINVAL ? 2 : 1;
}
