"""The gate on a real mount: writers are parked, everything else flows, and nobody sees an error."""

import errno
import fcntl
import os
import signal
import subprocess
import termios
import threading
import time

import pytest

from stillfs import errno_of, process_state, wait_for


def parked(m):
    return int(m.status()["parked"])


class Writer(threading.Thread):
    """One pwrite in a thread; .done tells when it has returned."""

    def __init__(self, path, data, offset=0):
        super().__init__(daemon=True)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.data, self.offset, self.done, self.error = data, offset, False, None
        self.start()

    def run(self):
        try:
            assert os.pwrite(self.fd, self.data, self.offset) == len(self.data)
        except Exception as e:
            self.error = e
        self.done = True
        os.close(self.fd)


def test_a_write_waits_at_the_closed_gate_and_arrives_when_it_opens(mount):
    (mount.mnt / "f").write_bytes(b"old")
    with mount.closed():
        w = Writer(mount.mnt / "f", b"new")
        wait_for("the write to park", lambda: parked(mount) == 1)
        assert (mount.back / "f").read_bytes() == b"old"
        assert not w.done
    w.join(30)
    assert w.done and w.error is None
    assert (mount.back / "f").read_bytes() == b"new"


def test_every_modifying_operation_waits_and_every_other_one_flows(mount):
    d = mount.mnt
    (d / "f").write_bytes(b"data")
    (d / "dir").mkdir()
    os.symlink("f", d / "sym")
    fd = os.open(d / "f", os.O_RDWR)
    modifying = {
        "pwrite": lambda: os.pwrite(fd, b"x", 0),
        "truncate": lambda: os.truncate(d / "f", 2),
        "ftruncate": lambda: os.ftruncate(fd, 3),
        "open_trunc": lambda: os.close(os.open(d / "sym", os.O_WRONLY | os.O_TRUNC)),
        "create": lambda: os.close(os.open(d / "made", os.O_CREAT | os.O_WRONLY, 0o600)),
        "mkdir": lambda: os.mkdir(d / "dir" / "sub"),
        "chmod": lambda: os.chmod(d / "f", 0o600),
        "utime": lambda: os.utime(d / "f", (1, 1)),
        "setxattr": lambda: os.setxattr(d / "f", "user.a", b"b"),
        "fallocate": lambda: os.posix_fallocate(fd, 0, 8192),
    }
    done = {}
    with mount.closed():
        flowing = os.pread(fd, 4, 0), os.fstat(fd).st_size, os.readlink(d / "sym"), os.statvfs(d).f_bsize
        assert flowing[:3] == (b"data", 4, "f")
        os.fsync(fd)
        assert "f" in os.listdir(d)
        threads = []
        for n, (name, call) in enumerate(modifying.items()):
            t = threading.Thread(target=lambda name=name, call=call: done.__setitem__(name, call() or True), daemon=True)
            t.start()
            threads.append(t)
        # some queue behind others' inode lock in the kernel: at least one of them reaches the gate
        wait_for("operations to park", lambda: parked(mount) >= 3)
        time.sleep(0.3)
        assert not done, f"passed the closed gate: {done}"
    for t in threads:
        t.join(10)
    assert set(done) == set(modifying)
    os.close(fd)


def test_an_ioctl_is_refused_at_once_at_the_closed_gate(mount):
    """Every open() of Python's asks whether the file is a terminal."""
    (mount.mnt / "f").write_bytes(b"data")
    with mount.closed():
        with open(mount.mnt / "f", "rb") as f:
            assert errno_of(fcntl.ioctl, f, termios.TCGETS, b" " * 64) == "ENOTTY"
            assert f.read() == b"data"
        assert mount.gate() == "closed", "it waited for the deadline"


def test_reads_of_the_same_file_flow_while_a_write_to_it_is_parked(mount):
    (mount.mnt / "f").write_bytes(b"a" * 8192)
    with mount.closed():
        w = Writer(mount.mnt / "f", b"b" * 4096)
        wait_for("the write to park", lambda: parked(mount) == 1)
        fd = os.open(mount.mnt / "f", os.O_RDONLY)
        for _ in range(100):
            assert os.pread(fd, 8192, 0) == b"a" * 8192
        os.close(fd)
    w.join(30)
    assert w.error is None


def test_the_deadline_opens_the_gate_by_itself(mount):
    assert mount.write("gate", "close timeout=0.5\n") == 0
    w = Writer(mount.mnt / "f", b"x")
    w.join(30)
    assert w.done and w.error is None
    assert mount.gate() == "open"
    assert int(mount.status()["gate_opened_by_deadline"]) == 1


def test_closing_twice_is_refused_and_changes_nothing(mount):
    with mount.closed():
        assert mount.write("gate", "close\n") == errno.EBUSY
        assert "closed already" in mount.last_error()["message"]
        assert mount.gate() == "closed"


@pytest.mark.parametrize("text", ["shut\n", "close timeout=0\n", "close timeout=51\n", "close timeout=x\n",
                                  "close timeout=1 now\n", "\n", "close timeout=-1\n"])
def test_wrong_gate_commands_are_refused_with_a_sentence(shared_mount, text):
    assert shared_mount.write("gate", text) == errno.EINVAL
    assert "expected" in shared_mount.last_error()["message"]
    assert shared_mount.gate() == "open"


SIGNALS = r"""
import os, signal, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
if sys.argv[2] == "alarm":
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, sys.argv[3] == "interrupt")
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
n = libc.pwrite(fd, b"z" * 4096, 4096, 0)
print(n, ctypes.get_errno(), flush=True)
"""


def start_signal_writer(m, *args):
    p = subprocess.Popen(["/usr/bin/python3", "-c", SIGNALS, str(m.mnt / "s"), *args], stdout=subprocess.PIPE, text=True)
    # creating the file would park: it exists
    assert p.stdout.readline() == "ready\n"
    wait_for("the write to park", lambda: parked(m) >= 1)
    return p


@pytest.mark.parametrize("restart", ["restart", "interrupt"])
def test_an_alarm_on_a_parked_writer_is_no_error(mount, restart):
    (mount.mnt / "s").write_bytes(b"")
    with mount.closed():
        p = start_signal_writer(mount, "alarm", restart)
        time.sleep(0.6)
        assert p.poll() is None
    assert p.communicate(timeout=30)[0] == "4096 0\n"


def test_stop_and_continue_on_a_parked_writer_is_no_error(mount):
    (mount.mnt / "s").write_bytes(b"")
    with mount.closed():
        p = start_signal_writer(mount, "none")
        os.kill(p.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(p.pid, signal.SIGCONT)
        time.sleep(0.3)
        assert parked(mount) == 1
    assert p.communicate(timeout=30)[0] == "4096 0\n"


def test_sigkill_frees_a_parked_writer_while_the_gate_stays_closed(mount):
    (mount.mnt / "s").write_bytes(b"")
    with mount.closed():
        p = start_signal_writer(mount, "none")
        p.kill()
        assert p.wait(30) == -signal.SIGKILL
        assert mount.gate() == "closed"
        assert parked(mount) == 0
    assert (mount.back / "s").read_bytes() == b""


def test_1100_writers_are_parked_while_reads_flow_and_every_byte_arrives(mount):
    size, n = 4096, 1100
    (mount.mnt / "many").write_bytes(b"\0" * size * n)
    (mount.mnt / "other").write_bytes(b"r" * 65536)
    fd = os.open(mount.mnt / "many", os.O_RDWR)
    errors = []

    def write(i):
        try:
            assert os.pwrite(fd, i.to_bytes(4, "little") * (size // 4), i * size) == size
        except Exception as e:
            errors.append(e)
    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(n)]
    with mount.closed(30):
        for t in threads:
            t.start()
        wait_for("1100 writers to park", lambda: parked(mount) >= n, 20)
        for name in ("other", "many"):
            rfd = os.open(mount.mnt / name, os.O_RDONLY)
            for k in range(200):
                assert len(os.pread(rfd, 4096, (k % 16) * 4096)) == 4096
            os.close(rfd)
        assert (mount.back / "many").read_bytes() == b"\0" * size * n
        assert mount.gate() == "closed"
    for t in threads:
        t.join(20)
    os.close(fd)
    assert not errors
    data = (mount.back / "many").read_bytes()
    assert all(data[i * size:(i + 1) * size] == i.to_bytes(4, "little") * (size // 4) for i in range(n))


def fio(m, name, *more):
    return subprocess.Popen(["fio", f"--directory={m.mnt}", f"--name={name}", f"--filename={name}", "--size=16m", "--bs=4k",
                             "--direct=1", "--ioengine=libaio", "--minimal", *more],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_asynchronous_reads_flow_while_1100_asynchronous_writes_are_parked(mount):
    """They share a limit in the kernel (max_background), which must not keep the reads out."""
    for name in ("written", "read"):
        (mount.mnt / name).write_bytes(os.urandom(16 << 20))
    writer = fio(mount, "written", "--rw=randwrite", "--iodepth=1100", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                 "--loops=4")
    try:
        wait_for("writes", lambda: int(mount.status()["ops_write"]) > 100)
        with mount.closed(30):
            wait_for("1,100 writes to park", lambda: parked(mount) >= 1100, 20)
            before = int(mount.status()["ops_read"])
            reader = fio(mount, "read", "--rw=randread", "--iodepth=32", "--time_based", "--runtime=1")
            out = reader.communicate(timeout=20)[0]
            assert reader.returncode == 0, out
            assert int(mount.status()["ops_read"]) - before > 32, "the reads did not flow"
            assert mount.gate() == "closed" and parked(mount) >= 1100
        out = writer.communicate(timeout=50)[0]
        assert writer.returncode == 0, out
    finally:
        mount.write("gate", "open\n")
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("engine,direct", [("libaio", 1), ("io_uring", 1), ("psync", 0), ("mmap", 0)])
def test_live_writers_lose_and_reorder_nothing_while_the_gate_opens_and_closes(mount, engine, direct):
    fio = subprocess.Popen(["fio", f"--directory={mount.mnt}", "--name=v", f"--ioengine={engine}", f"--direct={direct}",
                            "--iodepth=16", "--rw=randwrite", "--bs=4k", "--size=24m", "--numjobs=2", "--loops=4",
                            "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--minimal", "--thinktime=200"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    closings = 0
    while fio.poll() is None and closings < 12:
        time.sleep(0.1)
        r = mount.write("gate", "close timeout=5\n")
        if r == 0:
            closings += 1
            time.sleep(0.1)
            mount.write("gate", "open\n")
        else:
            assert r == errno.ETIMEDOUT, mount.last_error()
    out = fio.communicate(timeout=60)[0]
    assert fio.returncode == 0, out
    assert closings >= 3
    status = mount.status()
    assert int(status["parked_total"]) > 0, "no write ever met the closed gate: the test proves nothing"
    assert int(status["ops_direct" if direct else "ops_buffered"]) > 1000, "the other descriptor was used"


def test_the_control_tree_answers_at_once_during_a_hold(mount):
    with mount.closed(20):
        w = Writer(mount.mnt / "f", b"x") if (mount.mnt / "f").exists() else None
        for name in ("status", "list", "gate", "config", "version", "last_error"):
            assert mount.read(name)
        assert "status" in os.listdir(mount.control)
        assert w is None or not w.done


def test_closed_files_are_closed_in_the_backing_only_after_the_gate_opens(mount):
    fd = os.open(mount.mnt / "f", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"x" * 100)
    os.unlink(mount.mnt / "f")
    with mount.closed():
        os.close(fd)
        wait_for("the close to be put off", lambda: int(mount.status()["closing_files"]) >= 1)
    wait_for("the close", lambda: int(mount.status()["closing_files"]) == 0)
    wait_for("no open file", lambda: int(mount.status()["open_files"]) == 0)


def test_a_parked_writer_sleeps_interruptibly_and_holds_no_cpu(mount):
    (mount.mnt / "s").write_bytes(b"")
    with mount.closed():
        p = start_signal_writer(mount, "none")
        assert process_state(p.pid) == "S"
    p.communicate(timeout=30)
