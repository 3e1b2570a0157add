/* tests/harness/count_alloc.c - preloaded into stillfs by test_allocations.py: counts what threads of the data path
 * (lane-*), and for comparison workers, allocate, free and format (a log line is formatted, whatever happens to it).
 * The counts are in the file that COUNT_ALLOC_FILE names, mapped, so that the test reads them while stillfs runs. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum kind { OTHER, LANE, WORKER, KINDS };
enum what { ALLOC, FREE, FORMAT, THREADS, WHATS };

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

static _Atomic uint64_t nowhere[KINDS][WHATS];
static _Atomic uint64_t (*counts)[WHATS] = nowhere;
static int (*real_vsnprintf)(char *s, size_t cap, const char *fmt, va_list ap);
static __thread enum kind kind __attribute__((tls_model("initial-exec")));

static void count(enum what w)
{
	atomic_fetch_add_explicit(&counts[kind][w], 1, memory_order_relaxed);
}

__attribute__((constructor)) static void map_counts(void)
{
	const char *path = getenv("COUNT_ALLOC_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, sizeof(nowhere)) == 0)
		p = mmap(NULL, sizeof(nowhere), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		(void)close(fd);
	if (p != MAP_FAILED)
		counts = p;
	*(void **)&real_vsnprintf = dlsym(RTLD_NEXT, "vsnprintf");
}

/* A thread is what it calls itself, from then on. */
EXPORT int pthread_setname_np(pthread_t t, const char *name)
{
	char path[64];
	int fd, r = 0;

	if (!pthread_equal(t, pthread_self()))
		return 0; /* stillfs names no thread but the calling one */
	kind = strncmp(name, "lane-", 5) == 0 ? LANE : strcmp(name, "worker") == 0 ? WORKER : OTHER;
	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/comm", (int)gettid());
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, name, strlen(name)) < 0)
		r = -1;
	if (fd >= 0)
		(void)close(fd);
	count(THREADS);
	return r;
}

EXPORT void *malloc(size_t n)
{
	count(ALLOC);
	return __libc_malloc(n);
}

EXPORT void *calloc(size_t n, size_t size)
{
	count(ALLOC);
	return __libc_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t n)
{
	count(ALLOC);
	return __libc_realloc(p, n);
}

EXPORT void *memalign(size_t align, size_t n)
{
	count(ALLOC);
	return __libc_memalign(align, n);
}

EXPORT void *aligned_alloc(size_t align, size_t n)
{
	count(ALLOC);
	return __libc_memalign(align, n);
}

EXPORT int posix_memalign(void **out, size_t align, size_t n)
{
	count(ALLOC);
	*out = __libc_memalign(align, n);
	return *out ? 0 : 12;
}

EXPORT void free(void *p)
{
	if (p)
		count(FREE);
	__libc_free(p);
}

EXPORT int vsnprintf(char *s, size_t cap, const char *fmt, va_list ap)
{
	count(FORMAT);
	return real_vsnprintf(s, cap, fmt, ap);
}
