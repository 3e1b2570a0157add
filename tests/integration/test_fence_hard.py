"""`on hard` of the control file `fence`, for a server that SQL cannot reach: nobody writes through the mount, whatever dies,
until off; and whoever has a file open is never hit."""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import subprocess
import threading
import time

import pytest

from mariadb import MariaDB
from stillfs import STILLCTL, is_gone, run, wait_for


def line(m):
    return m.read("fence").splitlines()[0]


def value(m, key):
    return next((x.split(" ", 1)[1] for x in m.read("fence").splitlines() if x.startswith(key + " ")), None)


def hard(m):
    assert m.write("fence", "on hard\n") == 0, m.last_error()
    wait_for("on hard", lambda: line(m) == "on hard" or value(m, "error"))
    assert line(m) == "on hard", m.read("fence")


def refused(m, word):
    """`on hard` is, and nothing of it stays."""
    assert m.write("fence", "on hard\n") == 0, m.last_error()
    wait_for("the refusal", lambda: line(m) == "off" and value(m, "error"))
    assert word in value(m, "error") and word in m.last_error()["message"]
    assert not (m.dir / "state" / "db-fence.journal").exists()
    (m.mnt / "later").write_text("x")
    (m.mnt / "later").unlink()


def off(m):
    assert m.write("fence", "off\n") == 0, m.last_error()
    wait_for("off", lambda: line(m) == "off")
    (m.mnt / "later").write_text("x")
    (m.mnt / "later").unlink()


def errno_at(call):
    try:
        r = call()
        if isinstance(r, int) and r > 2:
            os.close(r)
        return 0
    except OSError as e:
        return e.errno


@contextlib.contextmanager
def mapped(path):
    """Without a descriptor, which Python's own mapping would keep."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    fd = os.open(path, os.O_RDONLY)
    at = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    os.close(fd)
    assert at not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
    try:
        yield
    finally:
        libc.munmap(at, 4096)


@pytest.fixture
def m(make_mount):
    m = make_mount()
    (m.mnt / "f").write_text("old")
    (m.mnt / "d").mkdir()
    yield m
    if line(m) != "off":
        off(m)


def changes(mnt):
    """Everything that would change the backing, by name."""
    f = mnt / "f"
    return {
        "create": lambda: os.open(mnt / "new", os.O_CREAT | os.O_WRONLY), "write": lambda: os.open(f, os.O_WRONLY),
        "read-write": lambda: os.open(f, os.O_RDWR), "append": lambda: os.open(f, os.O_WRONLY | os.O_APPEND),
        "truncate on open": lambda: os.open(f, os.O_RDONLY | os.O_TRUNC), "truncate": lambda: os.truncate(f, 0),
        "unlink": lambda: os.unlink(f), "rename": lambda: os.rename(f, mnt / "g"), "link": lambda: os.link(f, mnt / "g"),
        "symlink": lambda: os.symlink("f", mnt / "s"), "mkdir": lambda: os.mkdir(mnt / "e"), "rmdir": lambda: os.rmdir(mnt / "d"),
        "mknod": lambda: os.mknod(mnt / "n"), "chmod": lambda: os.chmod(f, 0o600), "chown": lambda: os.chown(f, 1, 1),
        "utime": lambda: os.utime(f, (1, 1)), "setxattr": lambda: os.setxattr(f, "user.a", b"b"),
        "tmpfile": lambda: os.open(mnt, os.O_TMPFILE | os.O_RDWR),
    }


def tree(back):
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_mtime_ns, p.lstat().st_ctime_ns)
                  for p in [back, *back.rglob("*")])


def test_nothing_changes_any_more_and_off_undoes_it(m):
    before = tree(m.back)
    hard(m)
    assert m.status()["fence"] == "on hard" and f'stillfs_fence_verified{{name="{m.name}"}} 1\n' in m.read("metrics")
    for name, call in changes(m.mnt).items():
        assert errno_at(call) == errno.EROFS, name
    assert (m.mnt / "f").read_text() == "old" and os.listdir(m.mnt / "d") == []
    assert tree(m.back) == before
    wait_for("the sentence", lambda: m.last_error().get("message", "").startswith("fence: "))
    assert f"({os.getpid()}) was refused" in m.last_error()["message"] and "fence off" in m.last_error()["message"]
    wait_for("the count", lambda: int(value(m, "refused")) > 0)
    off(m)
    for name, call in changes(m.mnt).items():
        assert errno_at(call) in (0, errno.ENOENT), name  # some of them undo others


def test_it_is_refused_while_a_process_has_a_file_open(m):
    with open(m.mnt / "f"):  # to read is enough: it has not ended
        refused(m, f"({os.getpid()}) {m.mnt}/f")
    with open(m.back / "f"):  # beside the mount
        refused(m, f"({os.getpid()}) {m.back}/f")
    with mapped(m.mnt / "f"):  # no descriptor: /proc/PID/fd does not show it
        refused(m, "a mapping")
    d = os.open(m.mnt / "d", os.O_RDONLY | os.O_DIRECTORY)  # nobody writes by that
    hard(m)
    os.close(d)
    r = subprocess.run([STILLCTL, "-n", m.name, "fence", "off"], capture_output=True, text=True, timeout=60)
    assert (r.returncode, r.stdout) == (0, "off\n")
    with m.closed():
        assert m.write("fence", "on hard\n") == 0
        wait_for("the refusal", lambda: line(m) == "off" and value(m, "error"))
    assert "gate" in value(m, "error")
    for words, code in ((("on", "hard"), 0), (("on",), 1), (("check",), 1), (("retire",), 0), (("off",), 1), (("off", "force"), 0)):
        r = subprocess.run([STILLCTL, "-n", m.name, "fence", *words], capture_output=True, text=True, timeout=60)
        assert r.returncode == code, (words, r)


def test_it_outlives_daemon_keeper_and_mount(m):
    hard(m)
    since = value(m, "since")

    def still():
        assert line(m) == "on hard" and value(m, "since") == since
        assert errno_at(lambda: os.open(m.mnt / "f", os.O_RDWR)) == errno.EROFS
        assert errno_at(lambda: os.unlink(m.mnt / "f")) == errno.EROFS
        assert (m.mnt / "f").read_text() == "old"

    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the next daemon", lambda: m.status()["restarts"] == "1")
    still()
    m.stop()
    m.start()
    still()
    os.kill(m.keeper, signal.SIGKILL)
    wait_for("the daemon's end", lambda: is_gone(m.daemon))
    run("umount", m.mnt)
    run("umount", m.control)
    m.start()
    still()
    off(m)
    m.stop()
    m.start()
    assert line(m) == "off"
    (m.mnt / "f").write_text("new")


class Opener:
    """Opens a file of the mount for writing, writes, closes, all the time; counts what came of it."""

    def __init__(self, path):
        self.path, self.accepted, self.refused, self.broken, self.end = path, 0, 0, [], threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.end.is_set():
            try:
                fd = os.open(self.path, os.O_RDWR)
            except OSError as e:
                self.refused += e.errno == errno.EROFS
                if e.errno not in (errno.EROFS, errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED):
                    self.broken.append(e)
                continue
            self.accepted += 1
            try:
                os.pwrite(fd, b"x", 0)
                time.sleep(0.0005)
                os.pwrite(fd, b"y", 1)
            except OSError as e:
                self.broken.append(e)
            os.close(fd)

    def stop(self):
        self.end.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_who_has_a_file_open_is_never_hit(m):
    """Asked for beside somebody who opens and closes: refused, or nobody has a file open from then on."""
    opener = Opener(m.mnt / "f")
    try:
        for _ in range(20):
            assert m.write("fence", "on hard\n") == 0, m.last_error()
            wait_for("an outcome", lambda: line(m) == "on hard" or (line(m) == "off" and value(m, "error")))
            if line(m) == "off":
                continue
            accepted, tried = opener.accepted, opener.refused
            wait_for("who is refused", lambda: opener.refused > tried + 5)
            assert opener.accepted <= accepted + 1  # counted a moment after the open
            off(m)
    finally:
        opener.stop()
    assert not opener.broken


def test_nobody_slips_in_while_it_is_mounted_again(m):
    """The file is there only below the mount."""
    hard(m)
    for _ in range(3):
        m.stop()
        opener = Opener(m.mnt / "f")
        try:
            m.start()
            wait_for("who is refused", lambda: opener.refused)
        finally:
            opener.stop()  # before the mount ends, which somebody who opens all the time keeps busy
            if is_gone(m.keeper):
                m.start()
        assert opener.accepted == 0 and not opener.broken


def test_a_server_that_runs_is_left_alone_and_one_that_is_down_stays_down(m):
    server = MariaDB(m.dir / "server", m.mnt / "d", options=["--innodb-log-file-size=16M"])
    try:
        server.start()
        refused(m, "mariadbd(")
        server.query("CREATE DATABASE app")
        server.stop()
        hard(m)
        start = subprocess.run([str(a) for a in (*server.argv(), *server.extra)], capture_output=True, text=True, timeout=60)
        assert start.returncode
        assert "ead-only file system" in server.error_log.read_text() + start.stderr
        off(m)
        server.start()
        assert ("app",) in server.query("SHOW DATABASES")
    finally:
        server.close()
