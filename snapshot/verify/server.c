/* snapshot/verify/server.c - the command line of the throwaway server, made of the recorded layout and nothing else; and
 * its log. See verify_int.h. */
#include "snapshot/verify/verify_int.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_LINES_MAX 4000

/* Variables whose option has another name; "" when there is none. */
static const struct {
	const char *variable, *option;
} renamed[] = {
	{ "log_bin_basename", "log-bin" },
	{ "relay_log_basename", "relay-log" },
};

static const char *const paths[] = { "datadir", "innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory",
				     "aria_log_dir_path", "log_bin_basename", "log_bin_index", "relay_log_basename",
				     "relay_log_index", "relay_log_info_file" };

struct args {
	char **v;
	unsigned n;
	bool failed;
};

__attribute__((format(printf, 2, 3))) static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (a->n + 1 >= VERIFY_ARGS_MAX || vasprintf(&a->v[a->n], fmt, ap) < 0)
		a->failed = true;
	else
		a->v[++a->n] = NULL;
	va_end(ap);
}

static bool in_set(const struct vspec *s, const char *path)
{
	for (unsigned i = 0; i < s->n_pairs; i++) {
		size_t n = strlen(s->mountpoint[i]);

		if (strncmp(path, s->mountpoint[i], n) == 0 && (!path[n] || path[n] == '/'))
			return true;
	}
	return false;
}

static int check_path(const struct vspec *s, const char *name, const char *value, struct snap_error *err)
{
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (strcmp(name, paths[i]) == 0 && *value == '/' && !in_set(s, value))
			return snap_error_set(err, -EXDEV, "the server's %s is %s, which is not in the set: it lies outside the "
							   "mounts", name, value);
	return 0;
}

static int add_layout(const struct vspec *s, struct args *a, struct snap_error *err)
{
	cleanup_free char *copy = strdup(s->layout);
	char *save = NULL;
	int r = copy ? 0 : -ENOMEM;

	for (char *l = copy ? strtok_r(copy, "\n", &save) : NULL; l && r == 0; l = strtok_r(NULL, "\n", &save)) {
		const char *name = l + 7, *option;
		char *value;

		if (strncmp(l, "option ", 7) != 0 || !(value = strchr(name, ' ')))
			continue;
		*value++ = '\0';
		if (strcmp(name, "pid_file") == 0)
			continue; /* for add_relay_logs */
		r = check_path(s, name, value, err);
		option = name;
		for (size_t i = 0; i < sizeof(renamed) / sizeof(renamed[0]); i++)
			if (strcmp(name, renamed[i].variable) == 0)
				option = renamed[i].option;
		/* loose: names come and go between versions, and what is missing shows in the checks */
		add(a, "--loose-%s=%s", option, value);
	}
	return r;
}

/* MariaDB names relay logs after its pid file unless it is told, and does not start when the index of a connection's is not
 * there. */
static void add_relay_logs(const struct vspec *s, struct args *a)
{
	cleanup_free char *named = verify_value(s->layout, "option relay_log_basename"), *pid = verify_value(s->layout, "option pid_file");
	const char *name = pid && strrchr(pid, '/') ? strrchr(pid, '/') + 1 : pid;

	if (!named && name && *name)
		add(a, "--relay-log=%.*s-relay-bin", (int)strcspn(name, "."), name);
}

int server_args(const struct vspec *s, char *argv[VERIFY_ARGS_MAX], struct snap_error *err)
{
	cleanup_free char *kind = verify_value(s->layout, "server"), *id = verify_value(s->position, "server_id");
	cleanup_free char *log = verify_value(s->layout, "option log_bin_basename");
	static const char *const fixed[] = {
		"--socket=/tmp/s.sock", "--pid-file=/tmp/server.pid", "--log-error=/tmp/error.log", "--tmpdir=/tmp",
		"--skip-networking", "--skip-grant-tables", "--loose-skip-slave-start", "--loose-skip-replica-start",
		"--event-scheduler=DISABLED", "--innodb-buffer-pool-size=64M", "--loose-innodb-force-recovery=0",
		"--loose-innodb-buffer-pool-load-at-startup=OFF", "--loose-innodb-buffer-pool-dump-at-shutdown=OFF",
		"--loose-performance-schema=OFF", "--loose-myisam-recover-options=OFF", "--general-log=OFF",
		"--slow-query-log=OFF", "--max-connections=10", "--sync-binlog=0", "--innodb-flush-log-at-trx-commit=0",
	};
	struct args a = { .v = argv };
	int r;

	argv[0] = NULL;
	add(&a, "%s", s->server);
	add(&a, "--no-defaults");
	r = add_layout(s, &a, err);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		add(&a, "%s", fixed[i]);
	if (id)
		add(&a, "--server-id=%s", id);
	if (kind && strcmp(kind, "mariadb") == 0)
		add_relay_logs(s, &a);
	if (kind && strcmp(kind, "mysql") == 0) {
		add(&a, "--loose-mysqlx=OFF");
		add(&a, "--loose-secure-file-priv=NULL");
		add(&a, "--loose-log-error-verbosity=2");
		if (!log)
			add(&a, "--skip-log-bin");
	}
	return r < 0 ? r : a.failed ? snap_error_set(err, -ENOMEM, "the server's options: out of memory, or too many") : 0;
}

char *server_log(const struct vspec *s)
{
	static const char *const names[] = { "server.out", "error.log" };
	char path[PATH_MAX];
	cleanup_free char *line = NULL;
	cleanup_free char *before = NULL; /* what "Aborting" is about */
	char *first = NULL;
	size_t cap = 0;
	unsigned n = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		FILE *f;

		(void)snprintf(path, sizeof(path), "%.*s/tmp/%s", PATH_MAX - 32, s->work[0], names[i]);
		f = fopen(path, "re");
		while (f && getline(&line, &cap, f) > 0) {
			const char *at;

			line[strcspn(line, "\n")] = '\0';
			if (n++ < LOG_LINES_MAX)
				verify_log("server: %s", line);
			at = strstr(line, "[ERROR]");
			if (at && !first) {
				at += 7 + (at[7] == ' ');
				first = strdup(strcmp(at, "Aborting") == 0 && before ? before : at);
			}
			free(before);
			before = strdup(line);
		}
		if (f)
			(void)fclose(f);
	}
	return first;
}
