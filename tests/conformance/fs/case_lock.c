/* tests/conformance/fs/case_lock.c - POSIX locks, open file description locks, flock, leases. */
#include "cases.h"

#include <signal.h>
#include <sys/file.h>

static int posix_lock(int fd, int cmd, int type, off_t start, off_t len)
{
	struct flock l = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
	int r = fcntl(fd, cmd, &l);

	if (r == 0 && (cmd == F_GETLK || cmd == F_OFD_GETLK))
		say("found", "type %d %ld+%ld %s", l.l_type, l.l_start, l.l_len, l.l_pid > 0 ? "pid" : l.l_pid ? "ofd" : "none");
	return r;
}

static void lock_posix(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), ro = open("f", O_RDONLY);

	(void)pwrite(fd, "0123456789", 10, 0);
	(void)res("write", posix_lock(fd, F_SETLK, F_WRLCK, 0, 10));
	(void)res("read-elsewhere", posix_lock(fd, F_SETLK, F_RDLCK, 100, 0));
	(void)res("wrlck-on-rdonly", posix_lock(ro, F_SETLK, F_WRLCK, 50, 10));
	if (begin_child()) {
		int mine = open("f", O_RDWR);

		(void)res("child-write", posix_lock(mine, F_SETLK, F_WRLCK, 5, 1));
		(void)res("child-read", posix_lock(mine, F_SETLK, F_RDLCK, 200, 1));
		(void)res("child-between", posix_lock(mine, F_SETLK, F_WRLCK, 10, 10));
		(void)res("child-get", posix_lock(mine, F_GETLK, F_WRLCK, 0, 1));
		(void)res("child-get-free", posix_lock(mine, F_GETLK, F_WRLCK, 20, 1));
		end_as();
	}
	(void)res("deadlock-free", posix_lock(fd, F_SETLKW, F_WRLCK, 10, 10));
	(void)res("split", posix_lock(fd, F_SETLK, F_UNLCK, 3, 2));
	if (begin_child()) {
		(void)res("in-gap", posix_lock(open("f", O_RDWR), F_SETLK, F_WRLCK, 3, 2));
		(void)res("beside", posix_lock(open("f", O_RDWR), F_SETLK, F_WRLCK, 5, 1));
		end_as();
	}
	(void)close(ro); /* closing any descriptor drops them all */
	if (begin_child()) {
		(void)res("after-close", posix_lock(open("f", O_RDWR), F_SETLK, F_WRLCK, 0, 0));
		end_as();
	}
	(void)res("negative", posix_lock(fd, F_SETLK, F_WRLCK, -5, 1));
	(void)res("dir", posix_lock(open(".", O_RDONLY), F_SETLK, F_RDLCK, 0, 1));
}

static void lock_ofd(void)
{
	int a = open("f", O_RDWR | O_CREAT, 0644), b = open("f", O_RDWR);

	(void)res("a", posix_lock(a, F_OFD_SETLK, F_WRLCK, 0, 100));
	(void)res("b", posix_lock(b, F_OFD_SETLK, F_WRLCK, 50, 1));
	(void)res("b-get", posix_lock(b, F_OFD_GETLK, F_WRLCK, 50, 1));
	(void)res("posix-against", posix_lock(b, F_SETLK, F_WRLCK, 50, 1));
	if (begin_child()) {
		(void)res("inherited", posix_lock(a, F_OFD_SETLK, F_WRLCK, 0, 200));
		end_as();
	}
	(void)res("b-far", posix_lock(b, F_OFD_SETLK, F_RDLCK, 300, 10));
	(void)close(dup(a)); /* unlike POSIX locks */
	(void)res("b-still", posix_lock(b, F_OFD_SETLK, F_WRLCK, 50, 1));
	(void)close(a);
	(void)res("b-after", posix_lock(b, F_OFD_SETLK, F_WRLCK, 50, 1));
}

static void lock_flock(void)
{
	int a = open("f", O_RDWR | O_CREAT, 0644), b = open("f", O_RDONLY), d = open(".", O_RDONLY);

	(void)res("a-shared", flock(a, LOCK_SH));
	(void)res("b-shared", flock(b, LOCK_SH | LOCK_NB));
	(void)res("b-upgrade", flock(b, LOCK_EX | LOCK_NB));
	(void)res("a-unlock", flock(a, LOCK_UN));
	(void)res("b-again", flock(b, LOCK_EX | LOCK_NB));
	(void)res("a-blocked", flock(a, LOCK_SH | LOCK_NB));
	(void)res("posix-apart", posix_lock(a, F_SETLK, F_WRLCK, 0, 0));
	(void)res("dir", flock(d, LOCK_EX | LOCK_NB));
	(void)unlink("f");
	(void)close(b);
	(void)res("unlinked", flock(a, LOCK_EX | LOCK_NB));
}

static volatile sig_atomic_t broken;

static void on_io(int sig)
{
	broken = sig;
}

static void lock_lease(void)
{
	int fd, other;

	make_file("f", 1, 1);
	fd = open("f", O_RDONLY);
	(void)signal(SIGIO, on_io);
	(void)res("read", fcntl(fd, F_SETLEASE, F_RDLCK));
	(void)res("get", fcntl(fd, F_GETLEASE));
	other = open("f", O_RDONLY);
	(void)res("unbroken", broken);
	(void)res("write-nonblock", open("f", O_WRONLY | O_NONBLOCK));
	(void)res("broken", broken == SIGIO);
	(void)res("unlock", fcntl(fd, F_SETLEASE, F_UNLCK));
	(void)close(other);
	(void)close(fd);
	fd = open("f", O_RDWR);
	(void)res("write-lease", fcntl(fd, F_SETLEASE, F_WRLCK));
	(void)res("read-on-rdwr", fcntl(fd, F_SETLEASE, F_RDLCK));
}

/* A waiter gets the lock when the holder ends. */
static void lock_wait(void)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), p[2];
	char b;
	pid_t pid;

	if (pipe(p) < 0)
		die("pipe");
	pid = fork();
	if (pid == 0) {
		(void)posix_lock(fd, F_SETLK, F_WRLCK, 0, 0);
		(void)write(p[1], "x", 1);
		(void)usleep(50000);
		_exit(0);
	}
	(void)res("holder", read(p[0], &b, 1));
	(void)res("busy", posix_lock(fd, F_SETLK, F_WRLCK, 0, 0));
	(void)res("waited", posix_lock(fd, F_SETLKW, F_WRLCK, 0, 0));
}

const struct fs_case cases_lock[] = { { "lock_posix", lock_posix, ANYBODY },
				      { "lock_ofd", lock_ofd, ANYBODY },
				      { "lock_flock", lock_flock, ANYBODY },
				      { "lock_lease", lock_lease, ANYBODY },
				      { "lock_wait", lock_wait, ANYBODY },
				      { NULL, NULL, ANYBODY } };
