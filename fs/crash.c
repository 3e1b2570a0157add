/* fs/crash.c - see crash.h. In the handler: only what is async-signal-safe once backtrace(3) has been loaded. */
#include "fs/crash.h"
#include "base/log.h"

#include <execinfo.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define FRAMES 48
#define STACK_B 65536

static void on_crash(int sig)
{
	static const char head[] = "the daemon crashes; backtrace of its thread:\n";
	void *frame[FRAMES];
	int n = backtrace(frame, FRAMES);

	if (write(log_descriptor(), head, sizeof(head) - 1) > 0)
		backtrace_symbols_fd(frame, n, log_descriptor());
	(void)raise(sig); /* SA_RESETHAND: now with its own effect */
}

/* AddressSanitizer has a handler of its own, which says more. */
extern void __asan_init(void) __attribute__((weak));

void crash_setup(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	static char stack[STACK_B];
	const stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_handler = on_crash, .sa_flags = SA_RESETHAND | SA_NODEFER | SA_ONSTACK };
	void *frame[1];

	if (__asan_init)
		return;
	(void)backtrace(frame, 1); /* loads its library now */
	(void)sigaltstack(&alt, NULL); /* for this thread: others use their own stacks */
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		(void)sigaction(signals[i], &sa, NULL);
}
