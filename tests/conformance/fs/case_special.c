/* tests/conformance/fs/case_special.c - fifos, sockets, device nodes, programs, inotify. */
#include "cases.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>

static void special_fifo(void)
{
	int r, w;
	char b[10];

	(void)res("mkfifo", mkfifo("p", 0640));
	(void)res("taken", mkfifo("p", 0640));
	say_stat("p", "p");
	r = ok("reader", open("p", O_RDONLY | O_NONBLOCK));
	w = ok("writer", open("p", O_WRONLY));
	(void)res("write", write(w, "pipe", 4));
	(void)res("read", read(r, b, 10));
	(void)res("empty", read(r, b, 10));
	(void)res("seek", lseek(r, 0, SEEK_SET));
	(void)link("p", "p2");
	(void)unlink("p");
	say_stat("p2", "p2");
	(void)close(w);
	(void)res("eof", read(r, b, 10));
	if (begin_child()) { /* the other end comes later */
		w = open("p2", O_WRONLY);
		(void)write(w, "late", 4);
		end_as();
	}
	(void)res("late", read(r, b, 10));
}

static void special_socket(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), n;
	char b[10];

	(void)strcpy(a.sun_path, "sock");
	(void)res("bind", bind(s, (struct sockaddr *)&a, sizeof(a)));
	(void)res("listen", listen(s, 5));
	say_stat("sock", "sock");
	(void)res("connect", connect(c, (struct sockaddr *)&a, sizeof(a)));
	n = ok("accept", accept(s, NULL, NULL));
	(void)res("send", write(c, "hello", 5));
	(void)res("receive", read(n, b, 10));
	(void)ok("open", open("sock", O_RDWR));
	(void)ok("bind-taken", bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)));
	(void)res("rename", rename("sock", "sock2"));
	(void)strcpy(a.sun_path, "sock2");
	(void)res("connect-renamed", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)));
	(void)chmod("sock2", 0);
	if (getuid() == 0 && begin_as(1001, 1001, 0, NULL)) {
		(void)res("connect-closed", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)));
		end_as();
	}
	(void)unlink("sock2");
	(void)res("connect-gone", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof(a)));
}

static void special_devices(void)
{
	char b[10] = "xxxxxxxxx";
	int fd;

	(void)res("char", mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	say_stat("null", "null");
	(void)res("zero", mknod("zero", S_IFCHR | 0644, makedev(1, 5)));
	(void)res("block", mknod("loop", S_IFBLK | 0600, makedev(7, 200)));
	say_stat("loop", "loop");
	(void)res("socket", mknod("s", S_IFSOCK | 0600, 0));
	(void)res("regular", mknod("r", S_IFREG | 0604, 0));
	say_stat("r", "r");
	(void)res("dir", mknod("d", S_IFDIR | 0755, 0));
	(void)res("nothing", mknod("n", 0644, 0));
	say_stat("n", "n");
	fd = ok("open-null", open("null", O_RDWR));
	(void)res("write-null", write(fd, b, 10));
	(void)res("read-null", read(fd, b, 10));
	fd = ok("open-zero", open("zero", O_RDONLY));
	(void)res("read-zero", read(fd, b, 10));
	say("zeroes", "%d", b[3]);
	(void)ok("open-block", open("loop", O_RDONLY | O_NONBLOCK));
}

static int run_program(const char *path, int fd)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		static char *const argv[] = { (char *)(uintptr_t) "true", NULL };
		static char *const env[] = { NULL };

		if (fd >= 0)
			(void)fexecve(fd, argv, env);
		else
			(void)execv(path, argv);
		_exit(100 + (errno == ETXTBSY) + 2 * (errno == EACCES));
	}
	(void)waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void special_exec(void)
{
	static char buf[4 << 20];
	int in = open("/bin/true", O_RDONLY), out = open("prog", O_RDWR | O_CREAT, 0755), fd;
	ssize_t n = read(in, buf, sizeof(buf));

	if (n <= 0 || write(out, buf, (size_t)n) != n)
		die("copy");
	say("busy", "%d", run_program("./prog", -1)); /* open for writing */
	(void)close(out);
	say("runs", "%d", run_program("./prog", -1));
	fd = open("prog", O_RDONLY | O_CLOEXEC);
	say("fexecve", "%d", run_program(NULL, fd));
	(void)chmod("prog", 0644);
	say("no-x", "%d", run_program("./prog", -1));
	make_file("script", 0, 1);
	out = open("script", O_WRONLY | O_TRUNC);
	(void)write(out, "#!/bin/sh\nexit 7\n", 17);
	(void)close(out);
	(void)chmod("script", 0755);
	say("script", "%d", run_program("./script", -1));
}

/* Writing to a program that runs. */
static void special_text_busy(void)
{
	static char buf[4 << 20];
	int in = open("/bin/sleep", O_RDONLY), out = open("prog", O_RDWR | O_CREAT, 0755), status, p[2];
	ssize_t n = read(in, buf, sizeof(buf));
	pid_t pid;

	if (n <= 0 || write(out, buf, (size_t)n) != n || pipe2(p, O_CLOEXEC) < 0)
		die("copy");
	(void)close(out);
	pid = fork();
	if (pid == 0) {
		(void)execl("./prog", "sleep", "20", NULL);
		_exit(1);
	}
	(void)close(p[1]);
	(void)res("started", read(p[0], buf, 1)); /* closed by exec */
	(void)ok("write", open("prog", O_WRONLY));
	(void)ok("truncate", truncate("prog", 0));
	(void)res("unlink", unlink("prog"));
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
}

static void special_inotify(void)
{
	static _Alignas(8) char buf[16384];
	int i = inotify_init1(IN_NONBLOCK), fd, w;
	ssize_t n;

	(void)mkdir("d", 0755);
	w = inotify_add_watch(i, "d", IN_ALL_EVENTS);
	fd = open("d/f", O_RDWR | O_CREAT, 0644);
	(void)write(fd, "x", 1);
	(void)pread(fd, buf, 1, 0);
	(void)ftruncate(fd, 0);
	(void)fchmod(fd, 0600);
	(void)close(fd);
	(void)rename("d/f", "d/g");
	(void)link("d/g", "d/h");
	(void)setxattr("d/g", "user.i", "1", 1, 0);
	(void)mkdir("d/sub", 0755);
	(void)unlink("d/g");
	(void)unlink("d/h");
	(void)rmdir("d/sub");
	(void)rmdir("d");
	n = read(i, buf, sizeof(buf));
	for (char *p = buf; n > 0 && p < buf + n;) {
		const struct inotify_event *e = (const void *)p;

		say("event", "%x %s", e->mask, e->len ? e->name : "");
		p += sizeof(*e) + e->len;
	}
	say("watch", "%d", w);
}

static void special_ioctl(void)
{
	int fd, n = -1;

	make_file("f", 100, 1);
	fd = open("f", O_RDWR);
	(void)res("tty", isatty(fd));
	(void)res("fionread", ioctl(fd, FIONREAD, &n));
	say("left", "%d", n);
	(void)res("fioclex", ioctl(fd, FIOCLEX));
	say("cloexec", "%d", fcntl(fd, F_GETFD));
	(void)res("winsize", ioctl(fd, TIOCGWINSZ, &n));
	{
		struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT };

		(void)res("poll", poll(&p, 1, 0));
		say("revents", "%x", p.revents);
	}
}

const struct fs_case cases_special[] = { { "special_fifo", special_fifo, ANYBODY },
					 { "special_socket", special_socket, ANYBODY },
					 { "special_devices", special_devices, ANYBODY },
					 { "special_exec", special_exec, ANYBODY },
					 { "special_text_busy", special_text_busy, ANYBODY },
					 { "special_inotify", special_inotify, ANYBODY },
					 { "special_ioctl", special_ioctl, ANYBODY },
					 { NULL, NULL, ANYBODY } };
