/* fs/procsig.h - what an interrupted caller is about to do. FUSE_INTERRUPT comes for any signal, once, and does not name
 * it; the kernel keeps the signal pending until the request is answered, so /proc shows it: signal(7), proc(5).
 * Threads: any. Blocks: reads one file of /proc. Allocates nothing. */
#ifndef STILLFS_FS_PROCSIG_H
#define STILLFS_FS_PROCSIG_H

#include <stdint.h>

enum procsig {
	PROCSIG_GOES_ON, /* it survives, and may make its call again at once: SIGCHLD, SIGALRM, SIGWINCH, a stop, ... */
	PROCSIG_ASKED, /* somebody wants it to end (SIGINT, SIGTERM, SIGHUP, SIGQUIT, or what ends it by default), but a
			  handler or a debugger may have it go on */
	PROCSIG_DIES, /* SIGKILL is pending, which is also how a signal shows that ends it without a handler; or gone */
};

/* Of thread `pid`, as the request names it; 0, which no /proc shows: PROCSIG_GOES_ON. */
enum procsig procsig_of(uint32_t pid);

#endif
