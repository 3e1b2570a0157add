/* fs/crash.h - a daemon that crashes leaves the place in the log. */
#ifndef STILLFS_FS_CRASH_H
#define STILLFS_FS_CRASH_H

/* From now on SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT write a backtrace of their thread to the log before the
 * process dies of them. On the daemon's main thread, once. */
void crash_setup(void);

#endif
