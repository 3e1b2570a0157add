/* tests/conformance/fs/case_data.c - reading and writing: vectors, append, per-call flags, limits, copies within the
 * kernel (copy_file_range, splice, sendfile). */
#include "cases.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static void data_vectors(void)
{
	char a[3000], b[5000], c[10];
	struct iovec w[3] = { { a, sizeof(a) }, { b, sizeof(b) }, { c, 0 } };
	struct iovec r[2] = { { b, 100 }, { a, 3000 } };
	int fd = open("f", O_RDWR | O_CREAT, 0644), many = 5000;
	volatile uintptr_t bad = 16;

	pattern(a, sizeof(a), 1);
	pattern(b, sizeof(b), 2);
	(void)res("writev", writev(fd, w, 3));
	(void)res("pwritev", pwritev(fd, w, 2, 100000));
	(void)res("preadv", preadv(fd, r, 2, 2950));
	say("read", "%lx %lx", digest(b, 100), digest(a, 3000));
	(void)res("zero", writev(fd, w, 0));
	(void)res("negative", pwrite(fd, a, 1, -1));
	(void)res("badaddr-write", write(fd, (void *)bad, 10));
	(void)res("badaddr-read", pread(fd, (void *)bad, 10, 0));
	(void)res("iov-max", syscall(SYS_writev, fd, w, many));
	(void)res("far", pwrite(fd, a, 10, INT64_MAX - 20));
	(void)res("past-max", pwrite(fd, a, 10, INT64_MAX));
	(void)res("read-far", pread(fd, a, 10, 1l << 50));
	say_fstat("stat", fd);
}

static void data_rwf(void)
{
	char *p = aligned(8192);
	struct iovec v = { p, 4096 };
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	pattern(p, 4096, 4);
	(void)res("dsync", pwritev2(fd, &v, 1, 0, RWF_DSYNC));
	(void)res("sync", pwritev2(fd, &v, 1, 4096, RWF_SYNC));
	(void)res("append", pwritev2(fd, &v, 1, 0, RWF_APPEND));
	say_fstat("appended", fd);
	(void)res("hipri-read", preadv2(fd, &v, 1, 0, RWF_HIPRI));
	(void)res("at-offset", pwritev2(fd, &v, 1, -1, 0));
	(void)res("unknown", pwritev2(fd, &v, 1, 0, 1 << 20));
	(void)fcntl(fd, F_SETFL, O_DIRECT);
	(void)res("direct-dsync", pwritev2(fd, &v, 1, 8192, RWF_DSYNC));
	(void)res("direct-append", pwritev2(fd, &v, 1, 0, RWF_APPEND));
	say_content("content", "f");
}

static void data_nowait(void)
{
	char *p = aligned(4096);
	struct iovec v = { p, 4096 };
	int fd;

	make_file("f", 8192, 1);
	fd = open("f", O_RDWR);
	(void)pread(fd, p, 4096, 0);
	(void)res("write", pwritev2(fd, &v, 1, 0, RWF_NOWAIT));
}

static void data_append(void)
{
	int a = open("f", O_WRONLY | O_CREAT | O_APPEND, 0644), b = open("f", O_RDWR | O_APPEND), c = open("f", O_RDWR);
	char buf[200], *p = aligned(4096);

	for (int i = 0; i < 50; i++) {
		(void)write(i % 2 ? a : b, buf, (size_t)snprintf(buf, sizeof(buf), "line %d\n", i));
		if (i == 20)
			(void)ftruncate(c, 60);
		if (i == 30)
			(void)pwrite(c, "hole", 4, 300);
	}
	(void)res("position", lseek(a, 0, SEEK_CUR));
	(void)res("pwrite-appends", pwrite(b, "tail", 4, 0)); /* Linux appends whatever the offset */
	say_content("content", "f");
	for (int i = 0; i < 4; i++) /* several processes append whole lines */
		if (begin_child()) {
			for (int k = 0; k < 20; k++)
				(void)write(a, "0123456789abcdef", 16);
			end_as();
		}
	say_content("parallel", "f");
	(void)ftruncate(c, 4096);
	(void)fcntl(b, F_SETFL, O_APPEND | O_DIRECT);
	(void)lseek(b, 0, SEEK_SET); /* XFS looks at the position even though it appends */
	(void)res("direct", write(b, p, 4096));
	say_fstat("direct", b);
}

static void data_fsize_limit(void)
{
	struct rlimit l = { 10000, 10000 };
	static char buf[8192];
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	if (setrlimit(RLIMIT_FSIZE, &l) < 0)
		die("setrlimit");
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)res("first", write(fd, buf, 8192));
	(void)res("short", write(fd, buf, 8192));
	(void)res("over", write(fd, buf, 8192));
	(void)res("pwrite-over", pwrite(fd, buf, 10, 20000));
	(void)res("truncate", ftruncate(fd, 20000));
	(void)res("truncate-path", truncate("f", 20000));
	(void)res("fallocate", fallocate(fd, 0, 0, 20000));
	(void)res("fallocate-keep", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
	(void)fcntl(fd, F_SETFL, O_DIRECT);
	(void)res("direct-over", pwrite(fd, aligned(4096), 4096, 12288));
	say_fstat("stat", fd);
	if (begin_child()) {
		(void)fcntl(fd, F_SETFL, 0);
		(void)signal(SIGXFSZ, SIG_DFL);
		(void)pwrite(fd, buf, 10, 20000);
		say("survived", "SIGXFSZ");
		end_as();
	}
}

static void data_copy_range(void)
{
	loff_t in = 10, out = 5;
	int a, b, ro, ap;

	make_file("a", 300000, 1);
	make_file("b", 100, 2);
	a = open("a", O_RDWR);
	b = open("b", O_RDWR);
	(void)res("offsets", copy_file_range(a, &in, b, &out, 1000, 0));
	say("moved", "%ld %ld", in, out);
	(void)res("positions", copy_file_range(a, NULL, b, NULL, 5000, 0));
	(void)res("at", lseek(b, 0, SEEK_CUR));
	in = 299990;
	(void)res("end", copy_file_range(a, &in, b, NULL, 5000, 0));
	(void)res("past-end", copy_file_range(a, &in, b, NULL, 5000, 0));
	(void)res("flags", copy_file_range(a, NULL, b, NULL, 10, 1));
	in = 0, out = 100;
	(void)res("overlap", copy_file_range(a, &in, a, &out, 1000, 0));
	in = 0, out = 200000;
	(void)res("same-file", copy_file_range(a, &in, a, &out, 1000, 0));
	ro = open("b", O_RDONLY);
	(void)res("to-rdonly", copy_file_range(a, NULL, ro, NULL, 10, 0));
	ap = open("b", O_WRONLY | O_APPEND);
	(void)res("to-append", copy_file_range(a, NULL, ap, NULL, 10, 0));
	(void)res("from-wronly", copy_file_range(ap, NULL, b, NULL, 10, 0));
	(void)res("to-dir", copy_file_range(a, NULL, open(".", O_RDONLY), NULL, 10, 0));
	(void)res("zero", copy_file_range(a, NULL, b, NULL, 0, 0));
	say_content("a", "a");
	say_content("b", "b");
}

static void data_splice(void)
{
	int p[2], s[2], a, b;
	loff_t off = 1000;
	char buf[5000];

	make_file("a", 200000, 1);
	make_file("b", 10, 2);
	a = open("a", O_RDONLY);
	b = open("b", O_RDWR);
	if (pipe(p) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, s) < 0)
		die("pipe");
	(void)res("from-file", splice(a, &off, p[1], NULL, 4096, 0));
	(void)res("to-file", splice(p[0], NULL, b, NULL, 4096, 0));
	(void)res("sendfile-file", sendfile(b, a, NULL, 50000));
	off = 777;
	(void)res("sendfile-socket", sendfile(s[0], a, &off, 5000));
	(void)res("received", recv(s[1], buf, 5000, MSG_WAITALL));
	say("bytes", "%lx", digest(buf, 5000));
	(void)res("sendfile-end", sendfile(b, a, NULL, 1 << 20));
	(void)res("vmsplice-write", write(p[1], buf, 5000));
	off = 3;
	(void)res("to-file-at", splice(p[0], NULL, b, &off, 5000, SPLICE_F_MOVE));
	(void)res("to-append", splice(p[0], NULL, open("b", O_WRONLY | O_APPEND), NULL, 10, SPLICE_F_NONBLOCK));
	say_content("b", "b");
}

static void data_large(void)
{
	size_t n = 3u << 20;
	char *p = aligned(n + 8192);
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	pattern(p, n, 9);
	(void)res("write", pwrite(fd, p, n, 12345));
	(void)memset(p, 0, n);
	(void)res("read", pread(fd, p, n, 12345));
	say("same", "%lx", digest(p, n));
	(void)fcntl(fd, F_SETFL, O_DIRECT);
	pattern(p + 512, n, 10);
	(void)res("direct", pwrite(fd, p, n, 1 << 20));
	(void)res("direct-offset-memory", pwrite(fd, p + 512, n, 8 << 20)); /* memory at a sector, not at a page */
	(void)memset(p, 0, n);
	(void)res("direct-read", pread(fd, p + 512, n, 8 << 20));
	say("direct-same", "%lx", digest(p + 512, n));
	say_fstat("stat", fd);
	(void)fcntl(fd, F_SETFL, 0);
	say_content("content", "f");
}

static void data_direct_memory(void)
{
	char *p = aligned(16384);
	int fd = open("f", O_RDWR | O_CREAT | O_DIRECT, 0644);

	(void)res("odd-memory", pwrite(fd, p + 1, 4096, 0));
}

static void data_seek(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);

	(void)pwrite(fd, "x", 1, 1 << 20);
	(void)ftruncate(fd, 8 << 20);
	(void)pwrite(fd, "y", 1, 4 << 20);
	(void)fsync(fd);
	(void)res("end", lseek(fd, -5, SEEK_END));
	(void)res("cur", lseek(fd, 100, SEEK_CUR));
	(void)res("negative", lseek(fd, -1, SEEK_SET));
	(void)res("whence", lseek(fd, 0, 77));
	(void)res("data0", lseek(fd, 0, SEEK_DATA));
	(void)res("hole-in-data", lseek(fd, 1 << 20, SEEK_HOLE));
	(void)res("data2", lseek(fd, 2 << 20, SEEK_DATA));
	(void)res("hole-at-end", lseek(fd, (8 << 20) - 1, SEEK_HOLE));
	(void)res("data-at-end", lseek(fd, (8 << 20) - 1, SEEK_DATA));
	(void)res("data-past", lseek(fd, 9 << 20, SEEK_DATA));
	(void)res("hole-past", lseek(fd, 9 << 20, SEEK_HOLE));
	(void)res("data-negative", lseek(fd, -3, SEEK_DATA));
	(void)res("far", lseek(fd, INT64_MAX, SEEK_SET));
	(void)ftruncate(fd, 5ll << 40);
	(void)pwrite(fd, "z", 1, (5ll << 40) - 10);
	(void)res("tera-data", lseek(fd, 1ll << 40, SEEK_DATA));
	(void)res("tera-hole", lseek(fd, 0, SEEK_HOLE));
	say_fstat("tera", fd);
}

const struct fs_case cases_data[] = { { "data_vectors", data_vectors, ANYBODY },
				      { "data_rwf", data_rwf, ANYBODY },
				      { "data_nowait", data_nowait, ANYBODY },
				      { "data_append", data_append, ANYBODY },
				      { "data_fsize_limit", data_fsize_limit, ANYBODY },
				      { "data_copy_range", data_copy_range, ANYBODY },
				      { "data_splice", data_splice, ANYBODY },
				      { "data_large", data_large, ANYBODY },
				      { "data_direct_memory", data_direct_memory, ANYBODY },
				      { "data_seek", data_seek, ANYBODY },
				      { NULL, NULL, ANYBODY } };
