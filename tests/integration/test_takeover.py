"""The daemon dies and its users do not notice: every operation happens exactly once, no error, no lost byte, nothing
left behind. Deaths come by SIGKILL at random moments and, in builds with fault points, between any two stores of
the shared tables."""

import contextlib
import errno
import mmap
import os
import pathlib
import random
import select
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from mariadb import MariaDB
from stillfs import STILLFS, Mount, Scratch, is_gone, process_state, run, wait_for

LONG = bool(os.environ.get("STILLFS_ALL"))
SANITIZED = any(name in STILLFS.read_bytes() for name in (b"libasan", b"libtsan"))
DEATHS = int(os.environ.get("STILLFS_DEATHS", "3" if not LONG else "20" if SANITIZED else "200"))
pytestmark = pytest.mark.limit(60 + 3 * DEATHS)


def kill_daemon(m):
    """One death, and wait for the successor."""
    s = m.status()
    os.kill(int(s["pid"]), signal.SIGKILL)
    wait_for("the take-over", lambda: m.status()["restarts"] == str(int(s["restarts"]) + 1), 20)
    m.daemon = int(m.status()["pid"])


def deaths(m, n=DEATHS, within=0.5):
    for _ in range(n):
        time.sleep(1.05 + random.random() * within)
        kill_daemon(m)


def forget_all(m):
    """Have the kernel forget what nobody uses, and return what the daemon still knows."""
    run("sync", "-f", m.mnt)

    def settled():
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("2\n")
        s = m.status()
        return s if s["closing_files"] == "0" and s["open_files"] == "0" and s["nodes"] == "0" else None
    return wait_for("every file to be forgotten", settled, 20)


def assert_nothing_left(m, fds_before=None):
    s = forget_all(m)
    assert (s["nodes"], s["lookups"], s["node_fds"], s["open_files"]) == ("0", "0", "0", "0")
    assert s["inflight"] == "0" and s["parked"] == "0"
    if fds_before is not None:
        assert descriptors(m) == fds_before


def descriptors(m):
    """What the daemon has open, by what it is. A sanitizer opens more at its own time: nothing is said of it then."""
    if b"libasan" in STILLFS.read_bytes() or b"libtsan" in STILLFS.read_bytes():
        return []
    base = pathlib.Path(f"/proc/{m.status()['pid']}/fd")
    kinds = []
    for fd in base.iterdir():
        try:
            kinds.append(os.readlink(fd).split(":")[0])
        except OSError:
            pass
    return sorted(kinds)


# ---- the simplest


def test_a_write_in_a_killed_daemon_completes(mount):
    assert mount.status()["takeover"] == "yes"
    with open(mount.mnt / "f", "wb", buffering=0) as f:
        f.write(b"one")
        os.kill(mount.daemon, signal.SIGSTOP)
        t = threading.Thread(target=f.write, args=(b"two",))
        t.start()
        time.sleep(0.2)
        os.kill(mount.daemon, signal.SIGKILL)
        t.join(10)
        assert not t.is_alive()
    assert (mount.mnt / "f").read_bytes() == b"onetwo"
    s = mount.status()
    assert s["restarts"] == "1" and "signal 9" in s["last_death"]
    assert_nothing_left(mount)


def test_descriptors_and_lookups_are_back_to_the_start(mount):
    before = descriptors(mount)
    for _ in range(3):
        (mount.mnt / "d").mkdir()
        files = [open(mount.mnt / "d" / str(i), "w") for i in range(50)]
        list(os.scandir(mount.mnt / "d"))
        kill_daemon(mount)
        for f in files:
            f.write("x")
            f.close()
        shutil.rmtree(mount.mnt / "d")
        time.sleep(1.05)
    assert_nothing_left(mount, before)


# ---- data under load


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
def test_fio_verifies_every_block_over_deaths(mount, engine):
    secs = int(DEATHS * 1.4) + 4
    p = subprocess.Popen(["fio", "--name=v", f"--directory={mount.mnt}", "--size=32m", "--bs=4k-64k", "--rw=randrw",
                          f"--ioengine={engine}", "--iodepth=16", "--numjobs=2", "--direct=1", "--verify=crc32c",
                          "--verify_fatal=1", "--time_based", f"--runtime={secs}", "--verify_backlog=64"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1)
    deaths(mount)
    out = p.communicate(timeout=secs + 30)[0]
    assert p.returncode == 0, out[-3000:]
    assert "err= 0" in out
    shutil.rmtree(mount.mnt, ignore_errors=True)
    assert_nothing_left(mount)


def test_appends_land_once_and_whole(mount):
    stop = threading.Event()
    counts, failures = [0] * 4, []

    def append(k):
        fd = os.open(mount.mnt / f"log{k % 2}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            while not stop.is_set():
                assert os.write(fd, struct.pack("<II", k, counts[k]) * 16) == 128
                counts[k] += 1
                if LONG:
                    time.sleep(0.001)  # 200 deaths long: the filesystem has 400 MB
        except (OSError, AssertionError) as e:
            failures.append(e)
        finally:
            os.close(fd)
    threads = [threading.Thread(target=append, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    deaths(mount)
    stop.set()
    for t in threads:
        t.join(10)
    assert not failures
    seen = [[] for _ in range(4)]
    for log in range(2):
        data = (mount.mnt / f"log{log}").read_bytes()
        assert len(data) % 128 == 0
        for at in range(0, len(data), 128):
            record = data[at:at + 128]
            assert record == record[:8] * 16
            k, n = struct.unpack("<II", record[:8])
            seen[k].append(n)
    for k in range(4):
        assert seen[k] == list(range(counts[k])), f"writer {k}"
    assert_nothing_left(mount)


def test_mapped_pages_are_written_over_deaths(mount):
    path = mount.mnt / "map"
    path.write_bytes(bytes(1 << 20))
    stop, value = threading.Event(), [0]
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as area:
        def dirty():
            while not stop.is_set():
                value[0] += 1
                for at in range(0, len(area), 4096):
                    area[at:at + 8] = struct.pack("<Q", value[0])
                area.flush()
        t = threading.Thread(target=dirty)
        t.start()
        deaths(mount)
        stop.set()
        t.join(20)
        assert not t.is_alive()
    for data in (path.read_bytes(), (mount.back / "map").read_bytes()):
        for at in range(0, len(data), 4096):
            assert struct.unpack("<Q", data[at:at + 8])[0] == value[0]
    assert_nothing_left(mount)


# ---- names: a model in each thread's own directory says what must be there


class Storm(threading.Thread):
    """Makes, renames, links, removes and describes names below `top`, each call checked at once."""

    def __init__(self, top, seed):
        super().__init__()
        self.top, self.rng, self.names, self.failure = top, random.Random(seed), {}, None
        self.stop, self.done, self.serial = threading.Event(), 0, 0
        self.held = []

    def run(self):
        try:
            while not self.stop.is_set():
                self.one()
                self.done += 1
            for f in self.held:
                os.close(f)
        except BaseException as e:  # noqa: BLE001 - told by the test
            self.failure = e

    def free(self):
        self.serial += 1
        return f"n{self.serial}"

    def some(self, kind=None):
        names = [n for n, v in self.names.items() if kind is None or v[0] == kind]
        return self.rng.choice(names) if names else None

    def one(self):
        op = self.rng.choice(("create", "create", "mkdir", "symlink", "rename", "replace", "exchange", "link", "unlink",
                              "unlink", "xattr", "missing", "list", "open"))
        getattr(self, "do_" + op)()

    def do_create(self):
        n = self.free()
        fd = os.open(self.top / n, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
        os.write(fd, n.encode())
        os.close(fd)
        self.names[n] = ("file", n)

    def do_mkdir(self):
        n = self.free()
        os.mkdir(self.top / n)
        self.names[n] = ("dir", None)

    def do_symlink(self):
        n = self.free()
        os.symlink("to-" + n, self.top / n)
        self.names[n] = ("link", "to-" + n)

    def do_rename(self):
        n = self.some()
        if n:
            new = self.free()
            os.rename(self.top / n, self.top / new)
            self.names[new] = self.names.pop(n)

    def do_replace(self):
        a, b = self.some("file"), self.some("file")
        if a and a != b:
            os.rename(self.top / a, self.top / b)
            if self.names[a][1] != self.names[b][1]:  # two names of one file: nothing happens
                self.names[b] = self.names.pop(a)

    def do_exchange(self):
        a, b = self.some(), self.some()
        if a and a != b:
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            r = libc.renameat2(-100, bytes(self.top / a), -100, bytes(self.top / b), 2)
            assert r == 0, os.strerror(ctypes.get_errno())
            self.names[a], self.names[b] = self.names[b], self.names[a]

    def do_link(self):
        n = self.some("file")
        if n:
            new = self.free()
            os.link(self.top / n, self.top / new)
            self.names[new] = self.names[n]

    def do_unlink(self):
        n = self.some()
        if n:
            (os.rmdir if self.names[n][0] == "dir" else os.unlink)(self.top / n)
            del self.names[n]

    def do_xattr(self):
        n = self.some("file")
        if n:
            path = self.top / n
            name = "user." + self.free()
            os.setxattr(path, name, b"v", os.XATTR_CREATE)
            with pytest.raises(FileExistsError):
                os.setxattr(path, name, b"w", os.XATTR_CREATE)
            assert os.getxattr(path, name) == b"v"
            os.removexattr(path, name)
            with pytest.raises(OSError) as e:
                os.removexattr(path, name)
            assert e.value.errno == errno.ENODATA

    def do_missing(self):
        with pytest.raises(FileNotFoundError):
            os.stat(self.top / self.free())

    def do_list(self):
        assert sorted(os.listdir(self.top)) == sorted(self.names)

    def do_open(self):
        n = self.some("file")
        if n and len(self.held) < 20:
            self.held.append(os.open(self.top / n, self.rng.choice((os.O_RDONLY, os.O_RDWR))))
        elif self.held:
            os.close(self.held.pop(self.rng.randrange(len(self.held))))

    def check(self, root):
        assert sorted(os.listdir(root)) == sorted(self.names)
        inodes = {}
        for n, (kind, content) in self.names.items():
            if kind == "file":
                assert (root / n).read_text() == content
                inodes.setdefault(content, set()).add(os.stat(root / n).st_ino)
                assert os.stat(root / n).st_nlink == sum(v == (kind, content) for v in self.names.values())
            elif kind == "link":
                assert os.readlink(root / n) == content
            else:
                assert os.listdir(root / n) == []
        assert all(len(i) == 1 for i in inodes.values())


def storms(m, n=4):
    result = []
    for k in range(n):
        top = m.mnt / f"storm{k}"
        top.mkdir()
        result.append(Storm(top, random.random()))
    for s in result:
        s.start()
    return result


def end_storms(m, threads):
    for s in threads:
        s.stop.set()
    for s in threads:
        s.join(20)
        assert not s.is_alive(), "an operation hangs"
        if s.failure:
            raise s.failure
        s.check(s.top)
        s.check(m.back / s.top.name)
    shutil.rmtree(m.mnt, ignore_errors=True)
    threads.clear()


def test_a_storm_of_names_over_deaths(mount):
    before = descriptors(mount)
    threads = storms(mount)
    deaths(mount)
    end_storms(mount, threads)
    assert_nothing_left(mount, before)


# ---- the gate, the control tree, snapshots


def test_an_operators_closed_gate_stays_closed_with_its_deadline(mount):
    (mount.mnt / "f").write_bytes(b"")
    begun = time.monotonic()
    assert mount.write("gate", "close timeout=6\n") == 0
    end = time.monotonic() + 6
    done = []
    threads = [threading.Thread(target=lambda k=k: ((mount.mnt / f"new{k}").write_text("x"), done.append(k)))
               for k in range(8)]
    for t in threads:
        t.start()
    wait_for("the writers to be parked", lambda: int(mount.status()["parked"]) >= 1)
    kill_daemon(mount)
    assert mount.gate() == "closed"
    left = float(mount.read("gate").split()[1])
    assert abs(left - (end - time.monotonic())) < 2
    assert not done
    wait_for("the writers to be parked again", lambda: int(mount.status()["parked"]) >= 1)
    for t in threads:
        t.join(10)
    assert sorted(done) == list(range(8))
    assert time.monotonic() >= begun + 5.9
    assert mount.gate() == "open" and mount.status()["gate_opened_by_deadline"] == "1"


def test_an_operators_closed_gate_can_be_opened_in_the_successor(mount):
    assert mount.write("gate", "close timeout=30\n") == 0
    kill_daemon(mount)
    assert mount.write("gate", "close timeout=30\n") == errno.EBUSY
    assert mount.write("gate", "open\n") == 0
    (mount.mnt / "f").write_bytes(b"x")


@pytest.mark.parametrize("step", ["preflight", "trigger", "poll"])
def test_a_snapshot_without_a_point_fails_with_the_daemon_and_the_next_one_works(make_mount, step):
    m = make_mount(provider="null", gate_timeout=20)
    m.null(f"{step} hang\n")
    result = []
    t = threading.Thread(target=lambda: result.append(m.write("snapshot", "one\n")))
    t.start()
    wait_for("the step", lambda: any(c[1] == step for c in m.null_calls()))
    kill_daemon(m)
    m.null("")  # after it: the call must not come back before the daemon dies
    t.join(20)
    assert not t.is_alive()
    if step == "poll":  # its point was fixed, and its writer answered, before
        assert result == [0]
    else:
        assert result == [errno.ESHUTDOWN], m.last_error()
        assert "the daemon died while it was taken" in m.last_error()["message"]
    assert m.gate() == "open"
    m.wait_state("one", "complete" if step == "poll" else "failed")
    (m.mnt / "f").write_text("flows")
    assert m.write("snapshot", "two\n") == 0, m.last_error()
    assert sorted(os.listdir(m.control / "snapshots")) == ["one", "two"]


def test_a_frozen_backing_is_thawed_and_served_again(make_mount):
    m = make_mount(provider="null", freeze="yes", gate_timeout=40)
    m.null("trigger hang\n")
    assert m.write("snapshot", "one nowait\n") == 0
    wait_for("the freeze", lambda: m.status()["freeze"] == "frozen")
    kill_daemon(m)
    m.null("")
    assert m.status()["freeze"] == "thawed" and m.state("one") == "failed"
    (m.mnt / "f").write_text("flows")
    assert m.write("snapshot", "two\n") == 0, m.last_error()


def test_open_control_files_and_event_readers_go_on(mount):
    with open(mount.control / "status") as status, open(mount.control / "events", "rb", buffering=0) as events:
        listing = os.open(mount.control, os.O_RDONLY)
        head = events.read(1 << 16)
        assert b'"type":"start"' in head
        lines = []
        t = threading.Thread(target=lambda: lines.append(events.read(1 << 16)))
        t.start()  # waits in the daemon
        time.sleep(0.1)
        kill_daemon(mount)
        t.join(10)
        assert b'"type":"takeover","restarts":1,' in lines[0]
        assert b'"type":"start"' not in lines[0], "the stream began anew"
        assert "restarts 1\n" in status.read()
        assert "status" in os.listdir(listing)
        os.close(listing)


def test_a_poller_of_events_is_woken_in_the_successor(mount):
    with open(mount.control / "events", "rb", buffering=0) as events:
        events.read(1 << 16)
        p = select.poll()
        p.register(events, select.POLLIN)
        assert p.poll(0) == []
        seen = []
        t = threading.Thread(target=lambda: seen.append(p.poll(15000)))
        t.start()
        time.sleep(0.2)
        kill_daemon(mount)
        t.join(16)
        assert seen and seen[0] and seen[0][0][1] == select.POLLIN
        assert b"takeover" in events.read(1 << 16)


# ---- a database


def test_a_database_under_load_does_not_notice(make_mount, scratch):
    m = make_mount(db="mysql", db__socket=scratch.dir / "db" / "sock")
    db = MariaDB(scratch.dir / "db", m.mnt).start()
    try:
        db.query("CREATE DATABASE t")
        db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, w INT, n INT) ENGINE=InnoDB")
        stop, counts, failures = threading.Event(), [0] * 4, []

        def write(k):
            try:
                with db.connect() as c:
                    c.autocommit(True)
                    cursor = c.cursor()
                    while not stop.is_set():
                        cursor.execute(f"INSERT INTO t.a (w, n) VALUES ({k}, {counts[k]})")
                        counts[k] += 1
            except Exception as e:  # noqa: BLE001 - told below
                failures.append(e)
        threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        deaths(m)
        assert m.write("snapshot", "after\n") == 0, m.last_error()
        stop.set()
        for t in threads:
            t.join(30)
        assert not failures
        for k in range(4):
            assert [r[0] for r in db.query(f"SELECT n FROM t.a WHERE w={k} ORDER BY id")] == list(range(counts[k]))
        assert db.query("CHECK TABLE t.a")[0][3] == "OK"
    finally:
        db.close()

# ---- where it ends


def test_a_daemon_that_dies_again_and_again_ends_cleanly(mount):
    f = open(mount.mnt / "f", "wb", buffering=0)
    begun, killed = time.monotonic(), set()
    while not is_gone(mount.keeper):
        for pid in children(mount.keeper):
            with_error(os.kill, pid, signal.SIGKILL)
            killed.add(pid)
        assert time.monotonic() - begun < 40, "it goes on for ever"
        time.sleep(0.005)
    with pytest.raises(OSError) as e:
        f.write(b"x")
    assert e.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    with_error(f.close)
    assert 5 <= len(killed) <= 6  # the first one may have been old enough
    assert "5 daemons in a row died within 1000 ms or before they served: given up" in mount.log()


def children(pid):
    return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] \
        if os.path.exists(f"/proc/{pid}/task/{pid}/children") else []


def with_error(call, *args):
    try:
        call(*args)
    except OSError:
        pass


def test_takeover_no_says_so_and_ends(make_mount):
    m = make_mount(takeover="no")
    assert m.status()["takeover"] == "no: takeover=no; a death ends the mount cleanly"
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the keeper to end", lambda: is_gone(m.keeper), 15)
    assert not os.path.ismount(m.mnt)


@pytest.mark.skipif(b"libasan" in STILLFS.read_bytes(), reason="AddressSanitizer has a handler of its own")
def test_a_crash_leaves_its_place_in_the_log(mount):
    os.kill(mount.daemon, signal.SIGSEGV)
    wait_for("the take-over", lambda: mount.status()["restarts"] == "1", 10)
    assert "signal 11" in mount.status()["last_death"]
    assert "the daemon crashes; backtrace" in mount.log()


@pytest.mark.limit(180)
def test_a_sync_that_hangs_with_the_dead_daemons_child_holds_nobody(scratch, monkeypatch):
    """A child of the daemon sits in syncfs(2) of a device that does not answer, as a snapshot's presync does. It may not keep
    the dead daemon's rings, for whose end the successor waits."""
    with contextlib.ExitStack() as made:
        outer = Scratch(kind="ext4", size_mb=400)
        made.callback(outer.close)
        monkeypatch.setenv("STILLFS_TEST_TMP", str(outer.fs))
        inner = Scratch(size_mb=330)
        made.callback(inner.close)
        m = Mount(scratch, start=False, provider="null")
        made.callback(m.close)
        (inner.dir / "mnt").mkdir()
        (inner.fs / "back").mkdir()
        m.more_pairs = [(inner.fs / "back", inner.dir / "mnt")]
        m.start()
        (inner.dir / "mnt" / "dirty").write_bytes(os.urandom(1 << 20))
        run("fsfreeze", "-f", outer.fs)
        try:
            assert m.write("snapshot", "one nowait\n") == 0
            tasks = pathlib.Path(f"/proc/{m.daemon}/task")
            wait_for("the sync", lambda: any(process_state(child) == "D" for t in tasks.glob("*/children")
                                             for child in t.read_text().split()))
            os.kill(m.daemon, signal.SIGKILL)
            wait_for("the take-over", lambda: m.status()["restarts"] == "1")
            m.daemon = int(m.status()["pid"])
            (m.mnt / "f").write_text("goes on")
            assert m.gate() == "open" and "did not end" not in m.log()
        finally:
            run("fsfreeze", "-u", outer.fs)
        m.wait_state("one", "failed")
