"""File operations on the mount and on the native directory, side by side: same result, errno, bytes and attributes.
As root and as an unprivileged user."""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import pathlib
import socket
import stat
import struct
import subprocess
import sys

import pytest

from stillfs import STILLFS, Mount, Scratch, errno_of, wait_for

libc = ctypes.CDLL(None, use_errno=True)
UNPRIVILEGED = 65534


def sys_call(name, *args):
    """A libc call by name: result, or the errno's name."""
    r = getattr(libc, name)(*args)
    return errno.errorcode[ctypes.get_errno()] if r < 0 else r


def o(path, flags, mode=0o644):
    return os.open(path, flags, mode)


def attrs(path):
    st = os.lstat(path)
    return (stat.filemode(st.st_mode), st.st_nlink, st.st_uid, st.st_gid,
            st.st_size if not stat.S_ISDIR(st.st_mode) else 0, st.st_rdev)


def listing(d):
    return {str(p.relative_to(d)): attrs(p) for p in sorted(pathlib.Path(d).rglob("*"))}


# Each case gets an empty directory and returns what is to be compared; exceptions become errno names.

def case_create_flags(d):
    out = []
    for flags in (os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_EXCL, os.O_WRONLY | os.O_TRUNC, os.O_APPEND | os.O_RDWR,
                  os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH, os.O_CREAT | os.O_DIRECTORY, os.O_DSYNC | os.O_WRONLY,
                  os.O_SYNC | os.O_RDWR, os.O_NOATIME, os.O_DIRECT | os.O_RDWR, os.O_TMPFILE | os.O_RDWR):
        for name in ("f", "missing", "dir", "link", "dangling"):
            if not (d / "dir").exists():
                (d / "dir").mkdir()
                os.symlink("f", d / "link")
                os.symlink("nowhere", d / "dangling")
            r = errno_of(o, d / name, flags)
            if isinstance(r, int):
                os.close(r)
                r = "ok"
            out.append((flags, name, r))
    return out


def case_write_read(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT)
    out = [os.write(fd, b"hello"), os.pwrite(fd, b"J", 0), os.pread(fd, 10, 0), os.lseek(fd, 0, os.SEEK_END),
           os.pwrite(fd, b"x" * 100000, 1000000), os.fstat(fd).st_size, os.pread(fd, 4, 500000),
           errno_of(os.lseek, fd, -1, os.SEEK_SET), os.readv(fd, [bytearray(3)]), os.pread(fd, 10, 1 << 40)]
    os.close(fd)
    fd = o(d / "f", os.O_RDONLY)
    out.append(errno_of(os.write, fd, b"x"))
    os.close(fd)
    return out + [(d / "f").read_bytes()[:5]]


def case_append(d):
    a, b = o(d / "f", os.O_WRONLY | os.O_CREAT | os.O_APPEND), o(d / "f", os.O_WRONLY | os.O_APPEND)
    for i in range(20):
        os.write(a, b"a%d" % i)
        os.write(b, b"b%d" % i)
    os.close(a)
    os.close(b)
    return (d / "f").read_bytes()


def case_sparse_and_holes(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 5 << 40)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    out = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 1 << 20, os.SEEK_HOLE), os.fstat(fd).st_size,
           errno_of(os.lseek, fd, 1 << 30, os.SEEK_DATA)]
    os.close(fd)
    return out


def case_fallocate(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"y" * 65536)
    out = []
    for mode in (0, 1, 2 | 1, 0x10, 0x10 | 1, 2, 0x80):
        out.append((mode, sys_call("fallocate", fd, mode, ctypes.c_long(4096), ctypes.c_long(8192)),
                    os.fstat(fd).st_size))
    out.append(sys_call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(100000)))
    out += [os.fstat(fd).st_size, os.pread(fd, 16384, 0)]
    os.close(fd)
    return out


def case_truncate(d):
    (d / "f").write_bytes(b"0123456789")
    out = []
    for size in (5, 20, 0, 1):
        os.truncate(d / "f", size)
        out.append((d / "f").read_bytes())
    return out + [errno_of(os.truncate, d, 1), errno_of(os.truncate, d / "none", 1), errno_of(os.truncate, d / "f", -1)]


def case_rename(d):
    for n in ("a", "b"):
        (d / n).write_text(n)
    (d / "dir1").mkdir()
    (d / "dir2").mkdir()
    (d / "dir2" / "x").touch()
    out = []
    at = -100
    for a, b, flags in (("a", "c", 0), ("b", "c", 1), ("b", "c", 2), ("c", "none", 2), ("dir1", "dir2", 0), ("dir1", "c", 0),
                        ("c", "dir1", 0), ("dir2", "dir2/sub", 0), ("none", "c", 0), ("b", "b", 0), ("b", "c", 4)):
        out.append((a, b, flags, sys_call("renameat2", at, bytes(d / a), at, bytes(d / b), flags)))
    return out + [(d / "c").read_text(), listing(d)]


def case_links(d):
    (d / "f").write_text("data")
    (d / "dir").mkdir()
    out = [errno_of(os.link, d / "f", d / "g"), errno_of(os.link, d / "f", d / "g"), errno_of(os.link, d / "dir", d / "h"),
           errno_of(os.symlink, "x" * 4000, d / "long"), len(os.readlink(d / "long")), errno_of(os.readlink, d / "f")]
    os.symlink("f", d / "s")
    out.append(errno_of(os.link, d / "s", d / "s2"))
    fd = o(d / "f", os.O_RDWR)
    os.unlink(d / "f")
    out += [os.fstat(fd).st_nlink, os.pread(fd, 9, 0)]
    os.unlink(d / "g")
    out += [os.fstat(fd).st_nlink, os.pread(fd, 9, 0), os.pwrite(fd, b"more", 4), os.pread(fd, 9, 0)]
    os.close(fd)
    return out + [listing(d)]


def case_tmpfile_linked(d):
    fd = o(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"tmp")
    out = [os.fstat(fd).st_nlink]
    out.append(sys_call("linkat", -100, f"/proc/self/fd/{fd}".encode(), -100, bytes(d / "now"), 0x400))
    out += [os.fstat(fd).st_nlink, (d / "now").read_bytes()]
    os.close(fd)
    return out + [listing(d)]


def case_remove(d):
    (d / "dir").mkdir()
    (d / "dir" / "f").touch()
    return [errno_of(os.rmdir, d / "dir"), errno_of(os.unlink, d / "dir"), errno_of(os.rmdir, d / "dir" / "f"),
            errno_of(os.unlink, d / "none"), errno_of(os.unlink, d / "dir" / "f"), errno_of(os.rmdir, d / "dir"), listing(d)]


def case_modes_and_owners(d):
    out = []
    for mask in (0, 0o022, 0o077):
        old = os.umask(mask)
        os.close(o(d / f"f{mask}", os.O_CREAT, 0o666))
        os.mkdir(d / f"d{mask}", 0o777)
        os.mkfifo(d / f"p{mask}", 0o666)
        os.umask(old)
    os.chmod(d / "d0", 0o2777)
    (d / "d0" / "inherits").touch()
    (d / "d0" / "subdir").mkdir()
    for mode in (0o4755, 0o2755, 0o1777, 0o000, 0o640):
        out.append(errno_of(os.chmod, d / "f0", mode))
    for uid, gid in ((1, 2), (-1, os.getgid()), (os.getuid(), -1)):
        out.append(errno_of(os.chown, d / "f0", uid, gid))
    os.symlink("f0", d / "s")
    out.append(errno_of(os.lchown, d / "s", os.getuid(), os.getgid()))
    return out + [listing(d)]


def case_suid_is_cleared_by_writing(d):
    (d / "f").write_text("x")
    os.chmod(d / "f", 0o6777)
    fd = o(d / "f", os.O_RDWR)
    os.pwrite(fd, b"y", 0)
    os.close(fd)
    return attrs(d / "f")[1:]  # the mode itself: see docs/limits.md


def case_times(d):
    (d / "f").touch()
    os.utime(d / "f", ns=(1234567890123456789, 987654321098765432))
    st = os.stat(d / "f")
    out = [st.st_atime_ns, st.st_mtime_ns]
    os.symlink("f", d / "s")
    os.utime(d / "s", (5, 6), follow_symlinks=False)
    out += [os.lstat(d / "s").st_mtime, os.stat(d / "f").st_mtime_ns]
    before = os.stat(d / "f").st_mtime_ns
    (d / "f").write_text("newer")
    return out + [os.stat(d / "f").st_mtime_ns > before, errno_of(os.utime, d / "none")]


def case_xattrs(d):
    (d / "f").touch()
    out = [errno_of(os.setxattr, d / "f", "user.a", b"1"), errno_of(os.setxattr, d / "f", "user.a", b"2", os.XATTR_CREATE),
           errno_of(os.setxattr, d / "f", "user.b", b"3", os.XATTR_REPLACE), errno_of(os.getxattr, d / "f", "user.a"),
           errno_of(os.getxattr, d / "f", "user.none"), errno_of(os.removexattr, d / "f", "user.none"),
           errno_of(os.setxattr, d / "f", "user.big", b"x" * 60000), errno_of(os.setxattr, d / "f", "bogus.a", b"1"),
           errno_of(os.setxattr, d / "f", "trusted.a", b"1")]
    return out + [sorted(os.listxattr(d / "f"))]


def case_readdir(d):
    names = {f"name-{i:05d}" for i in range(3000)}
    for n in names:
        (d / n).touch()
    seen = os.listdir(d)
    fd = os.open(d, os.O_RDONLY)
    first = [e.name for _, e in zip(range(10), os.scandir(d))]
    os.close(fd)
    for n in list(names)[:1500]:
        os.unlink(d / n)
    return [len(seen) == len(set(seen)), set(seen) == names, len(first), len(os.listdir(d))]


def case_names(d):
    out = []
    for n in ("x" * 255, "x" * 256, "ünïcødé", "new\nline", " ", "...", "-"):
        out.append((n, errno_of(lambda p: p.touch(), d / n)))
    deep = d
    for _ in range(12):
        deep = deep / ("y" * 250)
        deep.mkdir()
    (deep / "end").write_text("deep")
    return out + [(deep / "end").read_text(), len(os.listdir(d))]


def case_mmap(d):
    (d / "f").write_bytes(b"\0" * 16384)
    fd = o(d / "f", os.O_RDWR)
    with mmap.mmap(fd, 16384) as shared:
        shared[100:105] = b"hello"
        out = [os.pread(fd, 5, 100)]
        os.pwrite(fd, b"world", 200)
        out.append(shared[200:205])
        shared.flush()
    with mmap.mmap(fd, 16384, mmap.MAP_PRIVATE) as private:
        private[0:3] = b"abc"
        out.append(os.pread(fd, 3, 0))
    os.close(fd)
    ro = o(d / "f", os.O_RDONLY)
    with mmap.mmap(ro, 16384, prot=mmap.PROT_READ) as m:
        out.append(m[100:105])
    os.close(ro)
    return out + [(d / "f").read_bytes()]


def aligned(size, fill):
    buf = mmap.mmap(-1, size)
    buf[:] = fill * size
    return buf


def case_direct_io(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    out = [os.pwritev(fd, [aligned(8192, b"d")], 0), os.fstat(fd).st_size]
    buf = aligned(8192, b"\0")
    out += [os.preadv(fd, [buf], 0), bytes(buf[:4])]
    buffered = o(d / "f", os.O_RDWR)
    os.pwrite(buffered, b"buffered", 100)
    out += [os.preadv(fd, [buf], 0), bytes(buf[100:108])]
    os.pwritev(fd, [aligned(4096, b"e")], 0)
    out += [os.pread(buffered, 4, 100), errno_of(os.pwritev, fd, [aligned(4096, b"x")], 100)]
    os.close(fd)
    os.close(buffered)
    return out


def case_direct_by_fcntl(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"b" * 8192)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    buf = aligned(4096, b"\0")
    out = [os.preadv(fd, [buf], 4096), bytes(buf[:2]), os.pwritev(fd, [aligned(4096, b"c")], 0)]
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    out.append(os.pread(fd, 4097, 0))
    os.close(fd)
    return out


def case_copy_file_range(d):
    (d / "a").write_bytes(os.urandom(0) + b"0123456789" * 100000)
    src, dst = o(d / "a", os.O_RDONLY), o(d / "b", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < 1000000:
        n = os.copy_file_range(src, dst, 1000000 - done)
        if n == 0:
            break
        done += n
    os.close(src)
    os.close(dst)
    return [done, (d / "a").read_bytes() == (d / "b").read_bytes()]


def case_locks(d):
    (d / "f").write_bytes(b"x" * 100)
    script = ("import fcntl,sys,os\nf=open(sys.argv[1],'r+')\n"
              "def t(c,*a):\n  try:\n    c(*a); print('got')\n  except OSError as e: print(e.errno)\n"
              "t(fcntl.lockf,f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,0)\nt(fcntl.lockf,f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,50)\n"
              "t(fcntl.flock,f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n")
    with open(d / "f", "r+") as f:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = subprocess.run([sys.executable, "-c", script, str(d / "f")], capture_output=True, text=True).stdout
    after = subprocess.run([sys.executable, "-c", script, str(d / "f")], capture_output=True, text=True).stdout
    return [held, after]


def case_sync(d):
    fd = o(d / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x")
    dfd = os.open(d, os.O_RDONLY)
    out = [os.fsync(fd), os.fdatasync(fd), os.fsync(dfd), os.fdatasync(dfd), sys_call("syncfs", dfd),
           sys_call("sync_file_range", fd, ctypes.c_long(0), ctypes.c_long(1), 7)]
    os.close(fd)
    os.close(dfd)
    return out


def case_special_files(d):
    os.mkfifo(d / "fifo")
    fd = os.open(d / "fifo", os.O_RDWR | os.O_NONBLOCK)
    out = [os.write(fd, b"pipe"), os.read(fd, 10), errno_of(os.mknod, d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))]
    os.close(fd)
    os.chdir(d)  # paths of sockets are short
    s = socket.socket(socket.AF_UNIX)
    s.bind("sock")
    s.listen()
    c = socket.socket(socket.AF_UNIX)
    c.connect("sock")
    out.append(stat.S_ISSOCK(os.lstat("sock").st_mode))
    os.chdir("/")
    for x in (s, c):
        x.close()
    return out + [listing(d)]


def case_sticky_and_rights(d):
    (d / "closed").mkdir(0o700)
    (d / "closed" / "f").write_text("x")
    os.chmod(d / "closed", 0o000)
    (d / "ro").write_text("x")
    os.chmod(d / "ro", 0o444)
    out = [errno_of(os.listdir, d / "closed"), errno_of(lambda: (d / "closed" / "f").read_text()),
           errno_of(lambda: (d / "ro").write_text("y")), os.access(d / "ro", os.W_OK), os.access(d / "closed", os.X_OK)]
    os.chmod(d / "closed", 0o700)
    return out


CASES = {name[5:]: f for name, f in sorted(globals().items()) if name.startswith("case_")}


def in_child(case, directory, uid):
    """Run a case in a child of that user; its result as text."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.umask(0o022)
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            try:
                result = repr(CASES[case](directory))
            except Exception as e:
                result = f"{type(e).__name__}: {errno.errorcode.get(getattr(e, 'errno', 0), e)}"
            os.write(w, struct.pack("I", len(result)))
            view = memoryview(result.encode("utf-8", "backslashreplace"))
            while view:
                view = view[os.write(w, view):]
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        data = f.read()
    os.waitpid(pid, 0)
    return data[4:].decode()


@pytest.mark.parametrize("uid", [0, UNPRIVILEGED], ids=["root", "user"])
@pytest.mark.parametrize("case", list(CASES))
def test_the_mount_behaves_as_the_native_directory(shared_mount, case, uid):
    native, mounted = shared_mount.scratch.fs / "native", shared_mount.mnt
    results = []
    for base in (native, mounted):
        d = base / f"{case}-{uid}"
        d.mkdir(parents=True)
        os.chown(d, uid, uid)
        results.append(in_child(case, d, uid).replace(str(d), "DIR"))
    assert results[0] == results[1]
    # and what reached the backing is what the native directory has
    assert listing(shared_mount.back / f"{case}-{uid}") == listing(native / f"{case}-{uid}")


def test_the_control_link_is_hidden_resolves_and_cannot_be_made(shared_mount):
    m = shared_mount
    assert ".stillfs" not in os.listdir(m.mnt)
    assert (m.mnt / ".stillfs" / "version").read_text().startswith("stillfs ")
    for call in (lambda: os.unlink(m.mnt / ".stillfs"), lambda: os.mkdir(m.mnt / ".stillfs-position"),
                 lambda: os.rename(m.mnt / ".stillfs", m.mnt / "x")):
        with pytest.raises(OSError) as e:
            call()
        assert e.value.errno in (errno.EPERM, errno.EEXIST)


@pytest.mark.limit(300)
@pytest.mark.parametrize("many", [20_000, 1_000_000] if os.environ.get("STILLFS_ALL") else [20_000])
def test_a_walk_over_many_files_needs_few_descriptors(many):
    with contextlib.ExitStack() as made:
        s = Scratch(size_mb=400 + many // 400)
        made.callback(s.close)
        m = Mount(s, start=False, fd_cache=256)
        made.callback(m.close)
        m.start()
        walk_over_many(m, many)


def walk_over_many(m, many):
    for d in range(many // 1000):  # in the backing: what is counted is the walk
        (m.back / str(d)).mkdir()
        for i in range(1000):
            os.mknod(m.back / str(d) / str(i))
    most, known, before = 0, 0, int(m.status()["resident_kib"])
    assert before > 1000
    for d in range(many // 1000):
        for e in os.scandir(m.mnt / str(d)):
            e.stat()
        s = m.status()
        most, known = max(most, int(s["node_fds"])), max(known, int(s["nodes"]))
    assert known > many * 0.9, "the kernel forgot them meanwhile: this tested nothing"
    # a node has 96 bytes and its share of two tables; the rest is room for what a walk has in flight
    if not any(name in STILLFS.read_bytes() for name in (b"libasan", b"libtsan")):  # a sanitizer has memory of its own for each of ours
        assert int(s["resident_kib"]) - before < known * 200 / 1024 + 65536, (before, s["resident_kib"])
    assert s["node_fds_limit"] == "256"
    assert most <= 256 + 1000  # a readdirplus in flight
    wait_for("the closer", lambda: len(os.listdir(f"/proc/{m.daemon}/fd")) < 256 + 200, 5)
    with m.closed():  # the closer waits now
        for d in range(10):
            for i in range(1000):
                os.listxattr(m.mnt / str(d) / str(i))  # is asked of the daemon each time
        assert m.gate() == "closed"
        assert len(os.listdir(f"/proc/{m.daemon}/fd")) < 256 + 200


def test_all_is_forgotten_after_use(make_mount):
    m = make_mount(fd_cache=64)
    for i in range(2000):
        (m.mnt / f"f{i}").write_bytes(b"x")
    assert len(os.listdir(m.mnt)) == 2000
    for i in range(2000):
        os.stat(m.mnt / f"f{i}")
    status = m.status()
    assert int(status["nodes"]) >= 2000
    assert int(status["node_fds"]) <= 64 + 64, "the descriptor cache is not bounded"
    assert (m.mnt / "f7").read_bytes() == b"x"
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("2")
    wait_for("nodes to be forgotten", lambda: int(m.status()["nodes"]) < 100)
    fds = len(os.listdir(f"/proc/{m.daemon}/fd"))
    assert fds < 300, fds
