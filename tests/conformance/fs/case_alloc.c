/* tests/conformance/fs/case_alloc.c - fallocate in each mode, truncation, holes, what they do to size and blocks. */
#include "cases.h"

#include <linux/falloc.h>

static void say_shape(const char *key, int fd)
{
	struct stat st;
	off_t at = 0;

	if (fstat(fd, &st) < 0)
		die("fstat");
	say(key, "size=%ld blocks=%s", st.st_size, st.st_blocks ? "some" : "none");
	for (int i = 0; i < 8; i++) { /* the map of data and holes */
		off_t data = lseek(fd, at, SEEK_DATA), hole;

		if (data < 0)
			break;
		hole = lseek(fd, data, SEEK_HOLE);
		say(key, "data %ld-%ld", data, hole);
		at = hole;
	}
}

static void alloc_one(const char *what, int mode)
{
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
	char *p = malloc(65536), key[40];

	pattern(p, 65536, 5);
	(void)pwrite(fd, p, 65536, 0);
	(void)fsync(fd);
	(void)res(what, fallocate(fd, mode, 8192, 16384));
	(void)snprintf(key, sizeof(key), "%s-shape", what);
	say_shape(key, fd);
	say_content(key, "f");
	(void)snprintf(key, sizeof(key), "%s-odd", what);
	(void)res(key, fallocate(fd, mode, 100, 5000));
	say_content(key, "f");
	(void)snprintf(key, sizeof(key), "%s-end", what);
	(void)res(key, fallocate(fd, mode, 61440, 16384));
	say_shape(key, fd);
	(void)snprintf(key, sizeof(key), "%s-past", what);
	(void)res(key, fallocate(fd, mode, 1 << 20, 65536));
	say_shape(key, fd);
	say_content(key, "f");
	(void)close(fd);
	free(p);
}

static void alloc_modes(void)
{
	alloc_one("plain", 0);
	alloc_one("keep", FALLOC_FL_KEEP_SIZE);
	alloc_one("punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	alloc_one("zero", FALLOC_FL_ZERO_RANGE);
	alloc_one("zero-keep", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
	alloc_one("punch-alone", FALLOC_FL_PUNCH_HOLE);
	alloc_one("unknown", 0x400);
	alloc_one("punch-zero", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
}

/* FUSE's kernel side answers these by itself. */
static void alloc_collapse(void)
{
	alloc_one("collapse", FALLOC_FL_COLLAPSE_RANGE);
}

static void alloc_insert(void)
{
	alloc_one("insert", FALLOC_FL_INSERT_RANGE);
}

static void alloc_unshare(void)
{
	alloc_one("unshare", FALLOC_FL_UNSHARE_RANGE);
}

static void alloc_errors(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), ro = open("f", O_RDONLY), ap = open("f", O_WRONLY | O_APPEND);

	(void)mkdir("d", 0755);
	(void)mkfifo("p", 0644);
	(void)res("negative", fallocate(fd, 0, -1, 10));
	(void)res("zero-length", fallocate(fd, 0, 0, 0));
	(void)res("rdonly", fallocate(ro, 0, 0, 10));
	(void)res("append", fallocate(ap, 0, 0, 10000));
	(void)res("append-punch", fallocate(ap, 3, 0, 100));
	(void)res("dir", fallocate(open("d", O_RDONLY), 0, 0, 10));
	(void)res("fifo", fallocate(open("p", O_RDWR), 0, 0, 10));
	(void)res("overflow", fallocate(fd, 0, INT64_MAX, INT64_MAX));
	(void)res("too-far", fallocate(fd, 0, INT64_MAX - 4096, 4095));
	(void)res("posix", -posix_fallocate(fd, 0, 200000));
	(void)res("posix-rdonly", -posix_fallocate(ro, 0, 10));
	say_shape("shape", fd);
	(void)res("no-space", fallocate(fd, 0, 0, 1ll << 40));
	(void)ftruncate(fd, 0); /* ext4 keeps what it got, and a size of it */
}

static void alloc_truncate(void)
{
	struct stat a, b;
	int fd, ro, p;

	make_file("f", 20000, 7);
	fd = open("f", O_RDWR);
	ro = open("f", O_RDONLY);
	(void)mkfifo("p", 0644);
	(void)mkdir("d", 0755);
	(void)res("shrink", ftruncate(fd, 5001));
	(void)res("grow", ftruncate(fd, 20000));
	say_content("zeroes", "f");
	(void)res("rdonly", ftruncate(ro, 1));
	(void)res("path", truncate("f", 7));
	say_content("path", "f");
	(void)res("negative", ftruncate(fd, -1));
	(void)res("too-large", ftruncate(fd, INT64_MAX));
	(void)ftruncate(fd, 7);
	(void)res("dir", truncate("d", 0));
	(void)res("fifo", truncate("p", 0));
	p = open("p", O_RDWR);
	(void)res("fifo-fd", ftruncate(p, 0));
	(void)res("missing", truncate("none", 0));
	(void)chmod("f", 0444);
	(void)res("mode-path", truncate("f", 3));
	(void)res("mode-fd", ftruncate(fd, 5));
	/* times: truncate() to the same size leaves them alone, ftruncate() does not */
	(void)fstat(fd, &a);
	(void)usleep(20000);
	(void)chmod("f", 0644);
	(void)res("same-path", truncate("f", 5));
	(void)fstat(fd, &b);
	say("same-path-mtime", "%s", a.st_mtim.tv_nsec == b.st_mtim.tv_nsec ? "left" : "changed");
	(void)res("same-fd", ftruncate(fd, 5));
	(void)fstat(fd, &b);
	say("same-fd-mtime", "%s", a.st_mtim.tv_nsec == b.st_mtim.tv_nsec ? "left" : "changed");
	(void)usleep(20000);
	(void)fstat(fd, &a);
	(void)close(open("f", O_WRONLY | O_TRUNC));
	(void)fstat(fd, &b);
	say("trunc-mtime", "%s", a.st_mtim.tv_nsec == b.st_mtim.tv_nsec ? "left" : "changed");
	(void)usleep(20000);
	(void)close(open("f", O_WRONLY | O_TRUNC)); /* empty already */
	(void)fstat(fd, &a);
	say("trunc-empty-mtime", "%s", a.st_mtim.tv_nsec == b.st_mtim.tv_nsec ? "left" : "changed");
}

static void alloc_sparse(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char b[16] = "";

	(void)res("truncate-6T", ftruncate(fd, 6ll << 40));
	(void)res("write-5T", pwrite(fd, "terabyte", 8, 5ll << 40));
	(void)res("read-5T", pread(fd, b, 16, 5ll << 40));
	say("bytes", "%.8s", b);
	(void)res("punch-5T", fallocate(fd, 3, 5ll << 40, 4096));
	(void)res("read-punched", pread(fd, b, 16, 5ll << 40));
	say("zero", "%d", b[0]);
	say_shape("shape", fd);
	(void)res("shrink", ftruncate(fd, 1));
	say_shape("shrunk", fd);
}

const struct fs_case cases_alloc[] = { { "alloc_modes", alloc_modes, ANYBODY },
				       { "alloc_collapse", alloc_collapse, ANYBODY },
				       { "alloc_insert", alloc_insert, ANYBODY },
				       { "alloc_unshare", alloc_unshare, ANYBODY },
				       { "alloc_errors", alloc_errors, ANYBODY },
				       { "alloc_truncate", alloc_truncate, ANYBODY },
				       { "alloc_sparse", alloc_sparse, ANYBODY },
				       { NULL, NULL, ANYBODY } };
