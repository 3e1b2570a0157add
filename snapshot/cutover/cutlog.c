/* snapshot/cutover/cutlog.c - see cutlog.h. Owns: the descriptors of the directory (which carries the lock) and of the
 * newest journal, and the text of the one that is read. Called by: stillfs-cutover. */
#include "snapshot/cutover/cutlog.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/vbuf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_MAX (64u << 20)

struct cutlog {
	char dir[512];
	int dirfd, fd; /* fd: of the newest, for writing; -1 */
	unsigned id, newest;
	bool broken;
	char *text; /* lines with NULs for blanks around what is pointed to */
	off_t good; /* bytes of whole lines */
	size_t n;
	struct cutlog_line *line;
};

/* CRC-32 of IEEE 802.3 */
static uint32_t crc32_of(const char *p, size_t n)
{
	uint32_t c = 0xffffffffu;

	while (n--) {
		c ^= (unsigned char)*p++;
		for (int k = 0; k < 8; k++)
			c = (c >> 1) ^ (0xedb88320u & (0u - (c & 1)));
	}
	return ~c;
}

static int fail(const struct cutlog *l, const char *what, int code, struct snap_error *err)
{
	return snap_error_set(err, -code, "journal of cut-overs %s: %s: %s", l->dir, what, strerror(code));
}

/* ---- reading ---- */

/* One whole line without its newline: into its parts, or false. */
static bool take_line(char *s, unsigned number, struct cutlog_line *out)
{
	char *mark = strrchr(s, '#'), *end, *time, *step;

	if (!mark || mark < s + 6 || strlen(mark) != 9 || mark[-1] != ' ')
		return false;
	if (strtoul(mark + 1, &end, 16) != crc32_of(s, (size_t)(mark - s)) || *end || strtoul(s, &end, 10) != number || *end != ' ')
		return false;
	mark[-1] = '\0';
	time = end + 1;
	step = strchr(time, ' ');
	if (!step)
		return false;
	*step++ = '\0';
	out->time = time;
	out->step = step;
	out->text = step + strcspn(step, " ");
	if (*out->text) {
		step[strcspn(step, " ")] = '\0';
		out->text++;
	}
	return true;
}

static void forget(struct cutlog *l)
{
	free(l->text);
	free(l->line);
	l->text = NULL;
	l->line = NULL;
	l->n = 0;
	l->good = 0;
}

/* A line that a crash tore has no newline: the rest of it is missing, or zeros. */
static int parse(struct cutlog *l, struct snap_error *err)
{
	size_t cap = 0;

	for (char *p = l->text, *nl; *p; p = nl + 1) {
		nl = strchr(p, '\n');
		if (!nl)
			return 0;
		if (l->n == cap) {
			struct cutlog_line *more = realloc(l->line, (cap = cap ? 2 * cap : 32) * sizeof(*more));

			if (!more)
				return fail(l, "read", ENOMEM, err);
			l->line = more;
		}
		*nl = '\0';
		if (!take_line(p, (unsigned)l->n + 1, &l->line[l->n]))
			return snap_error_set(err, -EIO, "journal %s/%u.journal: line %zu is damaged; look at it, and at both servers, then "
							 "move it away", l->dir, l->id, l->n + 1);
		l->n++;
		l->good = nl + 1 - l->text;
	}
	return 0;
}

static int read_one(struct cutlog *l, unsigned id, struct snap_error *err)
{
	cleanup_fd int fd = -1;
	struct stat st;
	char name[32];
	size_t at = 0;
	ssize_t n = 1;

	forget(l);
	l->id = id;
	(void)snprintf(name, sizeof(name), "%u.journal", id);
	fd = openat(l->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fail(l, name, errno, err);
	if (st.st_size > (off_t)FILE_MAX)
		return fail(l, name, EFBIG, err);
	l->text = calloc(1, (size_t)st.st_size + 1);
	if (!l->text)
		return fail(l, name, ENOMEM, err);
	while (at < (size_t)st.st_size && n > 0) {
		n = read(fd, l->text + at, (size_t)st.st_size - at);
		at += n > 0 ? (size_t)n : 0;
	}
	return n < 0 ? fail(l, name, errno, err) : parse(l, err);
}

static unsigned find_newest(int dirfd)
{
	int fd = dup(dirfd);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	unsigned newest = 0;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char *end;
		unsigned long n = strtoul(e->d_name, &end, 10);

		if (e->d_name[0] != '0' && strcmp(end, ".journal") == 0 && n > newest && n < UINT32_MAX)
			newest = (unsigned)n;
	}
	if (d)
		(void)closedir(d);
	return newest;
}

/* ---- opening ---- */

static int make_dir(const char *path)
{
	char part[512];

	for (const char *s = path + 1;; s++) {
		if (*s && *s != '/')
			continue;
		(void)snprintf(part, sizeof(part), "%.*s", (int)(s - path), path);
		if (mkdir(part, *s ? 0755 : 0700) < 0 && errno != EEXIST)
			return -errno;
		if (!*s)
			return 0;
	}
}

static int open_all(struct cutlog *l, bool write, struct snap_error *err)
{
	int r = write ? make_dir(l->dir) : 0;
	bool held = false;

	if (r < 0)
		return fail(l, "make it", -r, err);
	l->dirfd = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (l->dirfd < 0)
		return errno == ENOENT ? 0 : fail(l, "open", errno, err);
	/* a reader that looks whether somebody is at work holds it for a moment */
	for (int i = 0; write && (held = flock(l->dirfd, LOCK_EX | LOCK_NB) == 0) == false && errno == EWOULDBLOCK && i < 20; i++)
		(void)nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	if (write && !held)
		return errno == EWOULDBLOCK ? snap_error_set(err, -EBUSY, "another cut-over is at work with journal %s; stillctl cutover "
									  "status shows it", l->dir) :
					      fail(l, "lock", errno, err);
	l->newest = find_newest(l->dirfd);
	return l->newest ? read_one(l, l->newest, err) : 0;
}

struct cutlog *cutlog_open(const char *dir, bool write, struct snap_error *err)
{
	struct cutlog *l = calloc(1, sizeof(*l));

	if (!l || *dir != '/' || strlen(dir) >= sizeof(l->dir)) {
		snap_error_set(err, l ? -EINVAL : -ENOMEM, "journal of cut-overs %.100s: %s", dir,
			       l ? "an absolute path is expected" : "out of memory");
		free(l);
		return NULL;
	}
	(void)snprintf(l->dir, sizeof(l->dir), "%s", dir);
	l->dirfd = l->fd = -1;
	return open_all(l, write, err) < 0 ? cutlog_close(l) : l;
}

struct cutlog *cutlog_close(struct cutlog *l)
{
	if (!l)
		return NULL;
	forget(l);
	if (l->fd >= 0)
		(void)close(l->fd);
	if (l->dirfd >= 0)
		(void)close(l->dirfd); /* and the lock */
	free(l);
	return NULL;
}

bool cutlog_busy(const struct cutlog *l)
{
	if (l->dirfd < 0)
		return false;
	if (flock(l->dirfd, LOCK_SH | LOCK_NB) < 0)
		return true;
	(void)flock(l->dirfd, LOCK_UN);
	return false;
}

/* ---- what is there ---- */

unsigned cutlog_id(const struct cutlog *l)
{
	return l->n || l->id != l->newest ? l->id : 0; /* a file without a whole line never began */
}

size_t cutlog_lines(const struct cutlog *l)
{
	return l->n;
}

struct cutlog_line cutlog_line(const struct cutlog *l, size_t i)
{
	return l->line[i];
}

const char *cutlog_last(const struct cutlog *l, const char *step)
{
	for (size_t i = l->n; i > 0; i--)
		if (strcmp(l->line[i - 1].step, step) == 0)
			return l->line[i - 1].text;
	return NULL;
}

bool cutlog_ended(const struct cutlog *l)
{
	return !l->n || strcmp(l->line[l->n - 1].step, "end") == 0;
}

int cutlog_select(struct cutlog *l, unsigned id, struct snap_error *err)
{
	if (l->dirfd < 0 || id == 0 || id > l->newest)
		return snap_error_set(err, -ENOENT, "journal of cut-overs %s: there is no %u", l->dir, id);
	return read_one(l, id, err);
}

/* ---- writing ---- */

static int open_newest(struct cutlog *l, int flags, struct snap_error *err)
{
	char name[32];

	(void)snprintf(name, sizeof(name), "%u.journal", l->newest);
	l->fd = openat(l->dirfd, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
	if (l->fd < 0)
		return fail(l, name, errno, err);
	return (flags & O_CREAT) && fsync(l->dirfd) < 0 ? fail(l, "sync", errno, err) : 0;
}

static int append(struct cutlog *l, const struct vbuf *b, struct snap_error *err)
{
	size_t at = 0;

	if (ftruncate(l->fd, l->good) < 0) /* of a torn line */
		return fail(l, "cut a torn line off", errno, err);
	while (at < b->len) {
		ssize_t n = pwrite(l->fd, b->data + at, b->len - at, l->good + (off_t)at);

		if (n <= 0) {
			int code = n < 0 ? errno : ENOSPC;

			if (ftruncate(l->fd, l->good) == 0)
				return fail(l, "write", code, err);
			l->broken = true;
			return fail(l, "write", ESTALE, err);
		}
		at += (size_t)n;
	}
	if (fsync(l->fd) < 0) {
		l->broken = true;
		return snap_error_set(err, -ESTALE, "journal of cut-overs %s: sync: %s; whether the step is on the disk is not known", l->dir,
				      strerror(errno));
	}
	return 0;
}

int cutlog_add(struct cutlog *l, const char *step, const char *text, struct snap_error *err)
{
	struct vbuf b = VBUF_INIT;
	char now[CLOCK_ISO_MAX];
	int r = 0;

	if (l->broken)
		return snap_error_set(err, -ESTALE, "journal of cut-overs %s: a sync failed, so it is not known what is on the disk", l->dir);
	vbuf_printf(&b, "%zu %s %s%s%s", l->n + 1, clock_iso(clock_utc(), now), step, *text ? " " : "", text);
	for (size_t i = 0; i < b.len; i++)
		if ((unsigned char)b.data[i] < 0x20 || b.data[i] == 0x7f)
			b.data[i] = ' ';
	vbuf_puts(&b, " ");
	if (vbuf_error(&b) == 0)
		vbuf_printf(&b, "#%08" PRIx32 "\n", crc32_of(b.data, b.len));
	if (vbuf_error(&b))
		r = fail(l, "write", ENOMEM, err);
	if (r == 0 && l->fd < 0)
		r = open_newest(l, 0, err);
	if (r == 0)
		r = append(l, &b, err);
	vbuf_free(&b);
	if (r == 0 && read_one(l, l->newest, err) < 0) {
		l->broken = true;
		r = -ESTALE;
	}
	return r;
}

int cutlog_begin(struct cutlog *l, const char *text, struct snap_error *err)
{
	int r;

	if (!cutlog_ended(l))
		return snap_error_set(err, -EEXIST, "cut-over %u has not ended: stillctl cutover status shows where it is; end it with "
						    "resume, abort or resolve", l->id);
	if (l->n || !l->newest)
		l->newest++;
	l->id = l->newest;
	forget(l);
	if (l->fd >= 0)
		(void)close(l->fd);
	l->fd = -1;
	r = open_newest(l, O_CREAT, err);
	return r < 0 ? r : cutlog_add(l, "begin", text, err);
}
