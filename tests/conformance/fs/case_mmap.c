/* tests/conformance/fs/case_mmap.c - mappings agree with read and write, buffered and direct, of every opener. */
#include "cases.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define SIZE 65536
#define PAGE 4096

static char *map(int fd, int prot, int flags)
{
	char *m = mmap(NULL, SIZE, prot, flags, fd, 0);

	if (m == MAP_FAILED)
		die("mmap");
	return m;
}

static char *pick;

static char *direct_byte(int fd, off_t at)
{
	if (!pick)
		pick = aligned(PAGE);
	(void)pread(fd, pick, PAGE, at & ~(off_t)(PAGE - 1));
	return pick + at % PAGE;
}

/* Every pair of writer and reader among: buffered, direct, shared mapping; each with openers of its own. */
static void mmap_openers(void)
{
	int ro, buf, dir;
	char *m_ro, *m_buf, *m_dir, *page = aligned(PAGE), key[40];

	make_file("f", SIZE, 1);
	ro = open("f", O_RDONLY); /* before any writer: may be cached */
	m_ro = map(ro, PROT_READ, MAP_SHARED);
	say("first", "%lx", digest(m_ro, SIZE));
	buf = open("f", O_RDWR);
	dir = open("f", O_RDWR | O_DIRECT);
	m_buf = map(buf, PROT_READ | PROT_WRITE, MAP_SHARED);
	m_dir = map(dir, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (unsigned i = 0; i < 40; i++) {
		off_t at = (off_t)(i * 5 % 16) * PAGE;
		char c = (char)('a' + i % 26), b = 0;

		memset(page, c, PAGE);
		switch (i % 5) {
		case 0:
			(void)pwrite(buf, page, PAGE, at);
			break;
		case 1:
			(void)pwrite(dir, page, PAGE, at);
			break;
		case 2:
			memset(m_buf + at, c, PAGE);
			break;
		case 3:
			memset(m_dir + at, c, PAGE);
			break;
		default:
			(void)pwrite(buf, page, 100, at + 50);
			break;
		}
		(void)snprintf(key, sizeof(key), "step%u", i);
		(void)pread(buf, &b, 1, at + 60);
		say(key, "%c %c %c %c %c %c", b, m_ro[at + 60], m_buf[at + 60], m_dir[at + 60], *direct_byte(dir, at + 60),
		    *direct_byte(buf, at + 60));
		(void)pread(ro, &b, 1, at + 60);
		say(key, "ro %c", b);
	}
	(void)msync(m_buf, SIZE, MS_SYNC);
	say_content("content", "f");
	say("end", "%lx %lx %lx", digest(m_ro, SIZE), digest(m_buf, SIZE), digest(m_dir, SIZE));
}

static void mmap_private(void)
{
	int fd;
	char *p, *q;

	make_file("f", SIZE, 2);
	fd = open("f", O_RDWR);
	p = map(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	memset(p, 'p', PAGE);
	(void)pwrite(fd, "WRITTEN", 7, 0);
	(void)pwrite(fd, "WRITTEN", 7, PAGE);
	say("own", "%.7s %.7s", p, p + PAGE);
	q = map(fd, PROT_READ, MAP_PRIVATE);
	say("other", "%.7s", q);
	say_content("content", "f");
	if (begin_child()) {
		memset(p, 'c', PAGE);
		say("child", "%.3s", p);
		end_as();
	}
	say("parent", "%.3s", p);
}

static void mmap_rights(void)
{
	int ro, wo, ap;

	make_file("f", SIZE, 3);
	ro = open("f", O_RDONLY);
	wo = open("f", O_WRONLY);
	ap = open("f", O_RDWR | O_APPEND);
	(void)ok("ro-shared-write", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("ro-private-write", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("wo-shared", mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, wo, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("append-shared", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ap, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("exec", mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, ro, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("sync", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, ap, 0) == MAP_FAILED ? -1 : 0);
	(void)ok("unaligned", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ro, 100) == MAP_FAILED ? -1 : 0);
	(void)ok("dir", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open(".", O_RDONLY), 0) == MAP_FAILED ? -1 : 0);
}

static sigjmp_buf back;

static void on_bus(int sig)
{
	siglongjmp(back, sig);
}

static void touch(const char *key, volatile char *p, bool write_it)
{
	int sig = sigsetjmp(back, 1);

	if (sig == 0) {
		if (write_it)
			*p = 'w';
		say(key, "%d", *p);
	} else {
		say(key, "signal %d", sig);
	}
}

static void mmap_size(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char *m;

	(void)signal(SIGBUS, on_bus);
	(void)ftruncate(fd, 6000);
	m = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	touch("inside", m + 5000, true);
	touch("tail-of-page", m + 7000, true); /* never reaches the file */
	touch("past", m + 2 * PAGE, false);
	(void)ftruncate(fd, 3 * PAGE);
	touch("grown", m + 2 * PAGE + 5, true);
	touch("tail-now", m + 7000, false);
	(void)ftruncate(fd, 100);
	touch("shrunk", m + PAGE, false);
	touch("shrunk-first", m + 50, true);
	(void)ftruncate(fd, 2 * PAGE);
	touch("zeroes", m + 5000, false);
	(void)fallocate(fd, 3, 0, PAGE);
	touch("punched", m + 50, false);
	(void)pwrite(fd, "append", 6, 3 * PAGE);
	touch("appended", m + 3 * PAGE, false);
	say_content("content", "f");
}

/* A mapping outlives its descriptor and its name; what is written through it is not lost. */
static void mmap_outlives(void)
{
	int fd, keep;
	char *m;

	make_file("f", SIZE, 4);
	fd = open("f", O_RDWR);
	keep = open("f", O_RDONLY);
	m = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	(void)close(fd);
	memset(m, 'o', 3 * PAGE);
	(void)munmap(m, SIZE);
	say_content("unmapped", "f");
	fd = open("f", O_RDWR | O_DIRECT);
	m = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	(void)close(fd);
	(void)unlink("f");
	m[0] = 'u';
	(void)res("msync", msync(m, SIZE, MS_SYNC));
	{
		char b = 0;

		(void)pread(keep, &b, 1, 0);
		say("keep", "%c", b);
	}
	say_fstat("stat", keep);
}

/* Writing from and to a mapping of the very file. */
static void mmap_self(void)
{
	int fd, dir;
	char *m;

	make_file("f", SIZE, 5);
	fd = open("f", O_RDWR);
	dir = open("f", O_RDWR | O_DIRECT);
	m = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	(void)res("from-own", pwrite(fd, m + PAGE, PAGE, 3 * PAGE));
	(void)res("to-own", pread(fd, m + 5 * PAGE, PAGE, PAGE));
	say("same", "%d %d", memcmp(m + PAGE, m + 3 * PAGE, PAGE), memcmp(m + PAGE, m + 5 * PAGE, PAGE));
	(void)res("direct-from-own", pwrite(dir, m + PAGE, PAGE, 7 * PAGE));
	(void)res("same-page", pwrite(fd, m + 8 * PAGE, PAGE, 8 * PAGE));
	say("direct-same", "%d", memcmp(m + PAGE, m + 7 * PAGE, PAGE));
	say_content("content", "f");
}

const struct fs_case cases_mmap[] = { { "mmap_openers", mmap_openers, ANYBODY },
				      { "mmap_private", mmap_private, ANYBODY },
				      { "mmap_rights", mmap_rights, ANYBODY },
				      { "mmap_size", mmap_size, ANYBODY },
				      { "mmap_outlives", mmap_outlives, ANYBODY },
				      { "mmap_self", mmap_self, ANYBODY },
				      { NULL, NULL, ANYBODY } };
