/* snapshot/classic/status.c - the position as the classic tool gave it: a line on stdout, and a file of four lines that
 * lies in the snapshot. On a replica it is what was executed of its source's log, not what was received. */
#include "snapshot/classic/classic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The value of a "key value" line; "" when there is none. The first of several channels. */
static const char *value(const char *position, const char *key, char *buf, size_t cap)
{
	size_t n = strlen(key);

	buf[0] = '\0';
	for (const char *p = position; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, n) == 0 && p[n] == ' ') {
			(void)snprintf(buf, cap, "%.*s", (int)strcspn(p + n + 1, "\n"), p + n + 1);
			break;
		}
	return buf;
}

static bool coordinates(const char *position, char file[512], char pos[32])
{
	bool replica = *value(position, "source_log_file", file, 512) != '\0';

	(void)value(position, replica ? "source_log_pos" : "binlog_pos", pos, 32);
	if (!replica)
		(void)value(position, "binlog_file", file, 512);
	return *file != '\0';
}

void status_print(const char *position)
{
	char file[512], pos[32];

	if (coordinates(position, file, pos))
		(void)printf("ec2-consistent-snapshot: master_log_file=\"%s\", master_log_pos=%s\n", file, pos);
}

int status_write(const char *path, const char *position, struct snap_error *err)
{
	char file[512], pos[32], db[256], not_db[256];
	struct vbuf text = VBUF_INIT;
	int fd, r = 0;

	if (!coordinates(position, file, pos))
		return snap_error_set(err, -ENOENT, "--mysql-master-status-file: the server has no position: log_bin is off and it is no "
						    "replica");
	vbuf_printf(&text, "master_log_file=\"%s\"\nmaster_log_pos=\"%s\"\nmaster_binlog_do_db=\"%s\"\nmaster_binlog_ignore_db=\"%s\"\n", file,
		    pos, value(position, "binlog_do_db", db, sizeof(db)), value(position, "binlog_ignore_db", not_db, sizeof(not_db)));
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0 || vbuf_error(&text) < 0 || write(fd, text.data, text.len) != (ssize_t)text.len || fsync(fd) < 0)
		r = snap_error_set(err, errno ? -errno : -EIO, "--mysql-master-status-file %s: %s", path, strerror(errno));
	if (fd >= 0)
		(void)close(fd);
	vbuf_free(&text);
	return r;
}
