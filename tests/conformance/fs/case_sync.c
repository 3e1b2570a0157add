/* tests/conformance/fs/case_sync.c - fsync, fdatasync, syncfs and their kin on everything that can be opened. */
#include "cases.h"

#include <sys/mman.h>
#include <sys/socket.h>

static void sync_all(const char *what, int fd)
{
	char key[64];

	(void)snprintf(key, sizeof(key), "%s-fsync", what);
	(void)res(key, fsync(fd));
	(void)snprintf(key, sizeof(key), "%s-fdatasync", what);
	(void)res(key, fdatasync(fd));
	(void)snprintf(key, sizeof(key), "%s-syncfs", what);
	(void)res(key, syncfs(fd));
	(void)snprintf(key, sizeof(key), "%s-range", what);
	(void)res(key, sync_file_range(fd, 0, 4096, 7));
	(void)snprintf(key, sizeof(key), "%s-fadvise", what);
	(void)res(key, -posix_fadvise(fd, 0, 4096, POSIX_FADV_DONTNEED));
}

static void sync_everything(void)
{
	int fd;

	make_file("f", 10000, 1);
	(void)mkdir("d", 0755);
	(void)mkfifo("p", 0644);
	sync_all("rdwr", open("f", O_RDWR));
	sync_all("rdonly", open("f", O_RDONLY));
	sync_all("wronly", open("f", O_WRONLY));
	sync_all("direct", open("f", O_RDWR | O_DIRECT));
	sync_all("dir", open("d", O_RDONLY));
	sync_all("fifo", open("p", O_RDWR | O_NONBLOCK));
	sync_all("path", open("f", O_PATH));
	fd = open(".", O_TMPFILE | O_RDWR, 0600);
	(void)pwrite(fd, "x", 1, 0);
	sync_all("tmpfile", fd);
	fd = open("f", O_RDWR);
	(void)unlink("f");
	sync_all("unlinked", fd);
	sync_all("bad", 999);
}

static void sync_flags(void)
{
	int d = open("d", O_RDWR | O_CREAT | O_DSYNC, 0644), s = open("s", O_RDWR | O_CREAT | O_SYNC, 0644);
	char *p = aligned(4096);

	pattern(p, 4096, 1);
	for (int i = 0; i < 5; i++) {
		(void)res("dsync", pwrite(d, p, 4096, i * 4096));
		(void)res("sync", write(s, p, 1000));
	}
	(void)res("dsync-truncate", ftruncate(d, 100));
	(void)res("dsync-fallocate", fallocate(d, 0, 0, 65536));
	(void)fcntl(d, F_SETFL, O_DIRECT);
	say("getfl", "%o", fcntl(d, F_GETFL));
	(void)res("direct-dsync", pwrite(d, p, 4096, 8192));
	say_content("d", "d");
	say_content("s", "s");
}

static void sync_msync(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char *m;

	(void)ftruncate(fd, 16384);
	m = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		die("mmap");
	memset(m + 100, 'm', 9000);
	(void)res("async", msync(m, 16384, MS_ASYNC));
	(void)res("sync", msync(m, 16384, MS_SYNC));
	(void)res("invalidate", msync(m, 16384, MS_SYNC | MS_INVALIDATE));
	(void)res("unaligned", msync(m + 1, 16384, MS_SYNC));
	(void)res("fsync", fsync(fd));
	say_content("content", "f");
	(void)res("madvise", madvise(m, 16384, MADV_DONTNEED));
	say("after", "%c%c", m[100], m[9099]);
	(void)res("madvise-remove", madvise(m, 8192, MADV_REMOVE));
	say_content("removed", "f");
	(void)res("madvise-populate", madvise(m, 8192, MADV_POPULATE_READ));
	(void)res("mlock", mlock(m, 4096));
}

const struct fs_case cases_sync[] = { { "sync_everything", sync_everything, ANYBODY },
				      { "sync_flags", sync_flags, ANYBODY },
				      { "sync_msync", sync_msync, ANYBODY },
				      { NULL, NULL, ANYBODY } };
