"""What the filesystem below refuses is refused through the mount alike: no space, reserved blocks, read-only,
I/O errors; limits of the caller bind him, those of the daemon do not."""

import errno
import fcntl
import mmap
import os
import pathlib
import re
import resource
import subprocess
import sys

import pytest

from stillfs import Mount, Scratch, errno_of, run, wait_for

USER = 65534


def as_user(call, uid=USER, before=lambda: None):
    """The result of a call made by that user in a child, as text; an OSError is its errno's name."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(w, str(errno_of(call)).encode())
        except BaseException as e:
            os.write(w, repr(e).encode())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        text = f.read().decode()
    os.waitpid(pid, 0)
    return text


def fill(path, limit=1 << 30, direct=False):
    """Write until it ends; what ended it, and how many MiB."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    done = 0
    try:
        while done < limit:
            done += os.write(fd, b"f" * (1 << 20))
        os.fsync(fd)
        return ["all", done >> 20]
    except OSError as e:
        return [errno.errorcode[e.errno], done >> 20]
    finally:
        os.close(fd)


def copy(path):
    f = os.open(path, os.O_RDWR)
    for i in range(64):  # what little is left for users goes first
        os.copy_file_range(f, f, 65536, 0, (512 << 20) + (i << 16))


def remounted(scratch, *options):
    run("mount", "-o", "remount," + ",".join(options), scratch.fs)


@pytest.fixture
def make_place():
    """make_place(kind, mkfs and mount options): a mount over a small filesystem."""
    made = []

    def make(kind="xfs", size_mb=400, mount_options="loop", mkfs=(), **options):
        s = Scratch(kind, size_mb)
        if mkfs or mount_options != "loop":
            run("umount", s.fs)
            run(f"mkfs.{kind}", "-q", "-f" if kind == "xfs" else "-F", *mkfs, s.image)
            run("mount", "-o", mount_options, s.image, s.fs)
        m = Mount(s, start=False, **options)
        made.append((m, s))
        (s.fs / "native").mkdir()
        for d in (s.fs / "native", m.back):
            d.chmod(0o777)
        m.start()
        return m
    yield make
    for m, s in made:
        try:
            m.close()
        finally:
            s.close()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_no_space_is_no_space(make_place, kind):
    m = make_place(kind)
    ends = []
    for d in (m.scratch.fs / "native", m.mnt):
        other = d / "g"
        other.write_bytes(b"")
        ends.append(as_user(lambda d=d: fill(d / "f")))
        fd = os.open(other, os.O_RDWR)
        ends[-1] += str(errno_of(os.posix_fallocate, fd, 0, 1 << 30))
        os.close(fd)
        wait_for("room", lambda d=d: [os.path.exists(d / n) and os.unlink(d / n) for n in "fg"] or True)
        os.sync()
    assert "ENOSPC" in ends[0] and [e.split(",")[0] for e in ends] == [ends[0].split(",")[0]] * 2, ends
    native, mounted = (int(e.split(",")[1].split("]")[0]) for e in ends)
    assert abs(native - mounted) <= 12, ends


def test_reserved_blocks_are_for_root_alone(make_place):
    m = make_place("ext4", mkfs=("-m", "20"))
    reserved = 60  # MiB, of 80
    user = int(as_user(lambda: fill(m.mnt / "f")).split(",")[1].strip(" ]"))
    left = os.statvfs(m.mnt)
    assert left.f_bavail * left.f_frsize < 1 << 20 and left.f_bfree * left.f_frsize >> 20 > reserved, "a user's writes took reserved blocks"
    fd = os.open(m.mnt / "f", os.O_RDWR)
    try:  # each way for a user to get blocks: buffered, direct, allocated, copied; and root's, which gets them
        buf = mmap.mmap(-1, 1 << 20)

        def direct():
            d = os.open(m.mnt / "f", os.O_RDWR | os.O_DIRECT)
            return os.pwritev(d, [buf], 512 << 20)
        os.chmod(m.mnt / "f", 0o666)
        assert as_user(direct) == "ENOSPC"
        assert as_user(lambda: os.posix_fallocate(os.open(m.mnt / "f", os.O_RDWR), 512 << 20, 30 << 20)) == "ENOSPC"
        assert as_user(lambda: copy(m.mnt / "f")) == "ENOSPC"
        assert os.pwrite(fd, b"r" * (20 << 20), 600 << 20) == 20 << 20
        os.fsync(fd)
    finally:
        os.close(fd)
    assert user > 250


def test_a_filesystem_that_becomes_read_only_says_so(make_place):
    m = make_place("ext4")
    for d in (m.scratch.fs / "native", m.mnt):
        (d / "f").write_text("x")
    wait_for("files to be closed", lambda: m.status()["open_files"] == "0" and m.status()["closing_files"] == "0")
    remounted(m.scratch, "ro")
    try:
        got = []
        for d in (m.scratch.fs / "native", m.mnt):
            got.append([errno_of(c) for c in (
                lambda: os.open(d / "f", os.O_WRONLY), lambda: os.open(d / "new", os.O_CREAT | os.O_WRONLY),
                lambda: os.mkdir(d / "dir"), lambda: os.unlink(d / "f"), lambda: os.rename(d / "f", d / "g"),
                lambda: os.chmod(d / "f", 0o600), lambda: os.utime(d / "f", (1, 1)), lambda: os.truncate(d / "f", 0),
                lambda: os.setxattr(d / "f", "user.a", b"1"), lambda: os.link(d / "f", d / "h"),
                lambda: os.symlink("f", d / "s"), lambda: (d / "f").read_text())])
        assert got[0] == got[1] == ["EROFS"] * 11 + ["x"]
    finally:
        remounted(m.scratch, "rw")


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_input_output_errors_reach_the_caller(make_place, kind):
    m = make_place(kind)
    got = []
    open_ = [os.open(d / "f", os.O_RDWR | os.O_CREAT) for d in (m.scratch.fs / "native", m.mnt)]
    for fd in open_:
        os.write(fd, b"x" * 4096)
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(m.scratch.fs)], check=True, capture_output=True)
    for fd, d in zip(open_, (m.scratch.fs / "native", m.mnt)):
        got.append([errno_of(c) for c in (
            lambda: os.pwrite(fd, b"y", 0), lambda: os.fsync(fd), lambda: os.fdatasync(fd), lambda: os.ftruncate(fd, 1),
            lambda: os.posix_fallocate(fd, 0, 100000), lambda: os.open(d / "new", os.O_CREAT | os.O_WRONLY),
            lambda: os.mkdir(d / "dir"))])
        os.close(fd)
    assert got[0] == got[1] and got[0][1] in ("EIO", "EROFS"), got


def read_until_it_ends(path):
    """How many bytes, and how it ended."""
    done, fd = 0, os.open(path, os.O_RDONLY)
    try:
        while more := os.pread(fd, 1 << 20, done):
            done += len(more)
        return done, "end"
    except OSError as e:
        return done, errno.errorcode[e.errno]
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_bad_block_in_the_middle_is_no_end_of_the_file(make_place, kind):
    """The kernel reads ahead in large pieces: what is good of one is read, and then there is an error, as natively. A short
    answer would be the end of the file to it, from then on."""
    m = make_place(kind)
    back, size = m.back / "f", 1 << 20
    m.close()
    back.write_bytes(b"g" * size)
    m.start()  # nobody has written to it through this mount: reads are the page cache's
    remounted(m.scratch, "ro")
    [[first, _]] = re.findall(r"^ +0: +0\.\. +\d+: +(\d+)\.\. +(\d+):", run("filefrag", "-e", "-b4096", back), re.M)
    good = (size // 2) + (64 << 10)
    os.truncate(m.scratch.image, int(first) * 4096 + good)  # the device has nothing there any more
    got = []
    for path in (back, m.mnt / "f"):
        with open(back, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        got.append(read_until_it_ends(path))
    assert [end for _, end in got] == ["EIO", "EIO"] and all(size // 2 <= n <= good for n, _ in got), got
    assert (m.mnt / "f").stat().st_size == size


def test_the_limits_of_the_daemon_bind_nobody(make_place):
    m = make_place()
    m.close()
    m.keeper = None
    argv = ["prlimit", "--fsize=100000:", "--nofile=200:", *m.argv()]
    r = subprocess.run(argv, capture_output=True, text=True, env=m.env)
    assert r.returncode == 0, r.stderr
    m.keeper, m.daemon = int(m.status()["keeper_pid"]), int(m.status()["pid"])
    (m.mnt / "big").write_bytes(b"b" * 300000)
    assert (m.back / "big").stat().st_size == 300000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, 6000 if soft < 6000 else resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        fds = [os.open(m.mnt / f"many{i}", os.O_RDWR | os.O_CREAT) for i in range(5000)]
        assert int(m.status()["open_files"]) >= 5000
        for fd in fds:
            os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_the_backings_nosuid_nodev_and_noexec_hold_on_the_mount(make_place):
    m = make_place(mount_options="loop,nosuid,nodev,noexec")
    options = run("findmnt", "-n", "-o", "OPTIONS", m.mnt).strip().split(",")
    assert {"nosuid", "nodev", "noexec"} <= set(options), options
    (m.mnt / "prog").write_text("#!/bin/sh\nexit 0\n")
    os.chmod(m.mnt / "prog", 0o755)
    assert errno_of(lambda: subprocess.run([str(m.mnt / "prog")])) == "EACCES"
    os.mknod(m.mnt / "null", 0o20666, os.makedev(1, 3))
    assert errno_of(lambda: os.open(m.mnt / "null", os.O_RDWR)) == "EACCES"


LOCKER = """import fcntl, os, sys
f = os.open(sys.argv[1], os.O_RDWR)
for name, lock in (("posix", lambda: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)),
                   ("flock", lambda: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB))):
    try:
        lock()
        print(name, "got")
    except BlockingIOError:
        print(name, "refused")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_second_server_on_the_bare_backing_gets_no_lock(make_place):
    m = make_place()
    first = os.open(m.mnt / "ibdata1", os.O_RDWR | os.O_CREAT)

    def lock(path):
        return subprocess.run([sys.executable, "-c", LOCKER, str(path)], capture_output=True, text=True, input="").stdout
    fcntl.lockf(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert lock(m.mnt / "ibdata1") == lock(m.back / "ibdata1") == "posix refused\nflock refused\n"
    fcntl.lockf(first, fcntl.LOCK_UN)
    fcntl.flock(first, fcntl.LOCK_UN)
    assert lock(m.mnt / "ibdata1") == "posix got\nflock got\n", "users of the mount share it among themselves"
    os.close(first)
    wait_for("the close", lambda: lock(m.back / "ibdata1") == "posix got\nflock got\n")
    # the other way round: it was there first
    other = subprocess.Popen([sys.executable, "-c", LOCKER, str(m.back / "ibdata1")], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "posix got\n"
        assert other.stdout.readline() == "flock got\n"
        assert errno_of(os.open, m.mnt / "ibdata1", os.O_RDWR) == "EBUSY"
        assert errno_of(os.open, m.mnt / "ibdata1", os.O_WRONLY) == "EBUSY"
        os.close(os.open(m.mnt / "ibdata1", os.O_RDONLY))
    finally:
        other.communicate()
    os.close(os.open(m.mnt / "ibdata1", os.O_RDWR))


def test_a_filesystem_mounted_inside_the_backing_is_refused_by_name(make_place):
    m = make_place()
    m.stop()
    m.keeper = None
    inner = m.back / "inner"
    inner.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "none", inner)
    try:
        r = m.try_start()
        assert r.returncode == 1 and str(inner) in r.stderr and "mounted inside it" in r.stderr, r.stderr
    finally:
        run("umount", inner)
    m.start()
    assert pathlib.Path(m.mnt / "inner").is_dir()
