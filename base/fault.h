/* base/fault.h - fault points: places where a test lets the daemon die, one store apart. They exist only with
 * -Dfault_points=true. The test arms one through a file (STILLFS_FAULTS) that is mapped shared, so that a point
 * strikes once and not again in the successor. */
#ifndef STILLFS_BASE_FAULT_H
#define STILLFS_BASE_FAULT_H

#ifdef STILLFS_FAULT_POINTS
#define FAULT_NAME_MAX 32
/* The file: which point, at which pass it kills (0: disarmed), how often it was passed since. */
struct fault_file {
	char name[FAULT_NAME_MAX];
	unsigned countdown, passed, killed;
};
void fault_setup(void); /* once, before the first daemon */
void fault_hit(const char *name);
/* Aborts when a thread of this process has asked this process's own mount: it could not be killed while it waits. */
void fault_asked_by(unsigned pid);
#define FAULT(name) fault_hit(name)
#define FAULT_ASKED_BY(pid) fault_asked_by(pid)
#else
#define FAULT(name) ((void)0)
#define FAULT_ASKED_BY(pid) ((void)0)
#endif

#endif
