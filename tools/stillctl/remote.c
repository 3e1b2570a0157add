/* tools/stillctl/remote.c - --provider ebs: a stillfs that serves the catalog alone, for the time of one command. It runs
 * in a process of its own below a temporary directory; the command runs in a child, so that whatever ends it, this
 * process stops that stillfs and takes the directory away. See ctl.h. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"
#include "version.h"

#define STOP_TRIES 200 /* x 50 ms */
#define START_TRIES 1200

static char base[64];
static pid_t served;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)remove(path);
	return 0;
}

static void stop(void)
{
	const struct timespec tick = { .tv_nsec = 50000000 };
	int i = 0;

	if (served > 0)
		(void)kill(served, SIGTERM);
	for (; served > 0 && i < STOP_TRIES && waitpid(served, NULL, WNOHANG) == 0; i++)
		(void)nanosleep(&tick, NULL);
	(void)nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* In the child: a stillfs that ends, cleanly, when this command does, whatever ends it. */
static void serve(const char *path, char **argv)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGTERM, SIG_DFL);
	if (getppid() != 1)
		(void)execv(path, argv);
	fprintf(stderr, "stillctl: cannot start %s: %s\n", path, strerror(errno));
	_exit(1);
}

/* False: it has ended, and said why. */
static bool answers(void)
{
	const struct timespec tick = { .tv_nsec = 50000000 };
	static char version[PATH_MAX];

	(void)snprintf(version, sizeof(version), "%.4000s/version", ctl_dir);
	for (int i = 0; i < START_TRIES; i++) {
		if (access(version, F_OK) == 0)
			return true;
		if (waitpid(served, NULL, WNOHANG) != 0) {
			served = 0;
			return false;
		}
		(void)nanosleep(&tick, NULL);
	}
	return ctl_fail("it does not answer within a minute: ", ctl_dir) == 0;
}

static int start(const struct ctl_remote *r)
{
	char path[PATH_MAX], options[1200], name[40];
	char *argv[] = { path, (char *)(uintptr_t) "-f", (char *)(uintptr_t) "-o", options, (char *)(uintptr_t) "--catalog-only",
			 name, NULL };

	if (ctl_program("stillfs", path, sizeof(path)) != 0)
		return 1;
	(void)snprintf(base, sizeof(base), "/tmp/stillctl.XXXXXX");
	if (!mkdtemp(base))
		return ctl_fail("cannot make a directory in /tmp: ", strerror(errno));
	(void)snprintf(name, sizeof(name), "catalog-%d", (int)getpid());
	(void)snprintf(ctl_dir, sizeof(ctl_dir), "%s/tree", base);
	(void)snprintf(options, sizeof(options), "provider=%.64s,state_dir=%s/state,control_dir=%.80s,log_level=error%s%.64s%s%.64s", r->provider,
		       base, ctl_dir, r->region ? ",ebs.region=" : "", r->region ? r->region : "", r->lineage ? ",lineage=" : "",
		       r->lineage ? r->lineage : "");
	served = fork();
	if (served == 0)
		serve(path, argv);
	if (served > 0 && answers() && ctl_rescan_wait(false) == 0)
		return 0;
	stop(); /* the sentence is there */
	return 1;
}

int ctl_run_remote(const struct ctl_remote *r, const struct command *c, int argc, char **argv)
{
	int status = 0;
	pid_t pid;

	if (geteuid() != 0) {
		(void)ctl_fail("--provider starts a stillfs, for which it must be root", "");
		return -1;
	}
	(void)signal(SIGINT, SIG_IGN); /* the command gets it, and this waits for its end */
	(void)signal(SIGTERM, SIG_IGN);
	if (start(r) != 0)
		return -1;
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
		(void)signal(SIGINT, SIG_DFL);
		(void)signal(SIGTERM, SIG_DFL);
		exit(c->run(argc, argv));
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	stop();
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
