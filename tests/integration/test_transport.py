"""The transport: how many lanes fetch, and that no request is left behind when that changes."""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from stillfs import wait_for


def test_no_request_is_left_unread_while_lanes_come_and_go(make_mount):
    """A wake-up that one lane takes may stand for requests of others: a lane that retires must not leave them."""
    m = make_mount(threads=4)
    fio = subprocess.Popen(["fio", f"--directory={m.mnt}", "--name=log", "--filename=log", "--size=16m", "--rw=write",
                            "--bs=4k", "--ioengine=psync", "--fdatasync=1", "--numjobs=4", "--time_based",
                            "--runtime=12", "--minimal"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        standing, seen = 0, -1
        while fio.poll() is None:
            now = int(m.status()["ops_fsync"])
            # thousands in a second, once they have begun; the control tree's own requests wake nobody here
            standing = standing + 1 if now == seen and now else 0
            assert standing < 3, "requests wait and nobody reads them"
            seen = now
            time.sleep(1)
        assert fio.returncode == 0 and seen > 0
    finally:
        (m.mnt / "wake").touch()  # whoever hangs goes on, so that the mount can end
        fio.kill()
        fio.wait()


def policies_of(m):
    """How the kernel schedules the data threads of the mount's daemon."""
    task = pathlib.Path(f"/proc/{m.daemon}/task")
    return {os.sched_getscheduler(int(t.name)) for t in task.iterdir() if (t / "comm").read_text().startswith("lane-")}


def test_lanes_are_scheduled_as_batch(mount):
    """A wake-up of theirs does not push aside who runs: fewer switches, and fuller batches."""
    assert mount.status()["transport_policy"] == "batch"
    assert policies_of(mount) == {os.SCHED_BATCH}


def test_lanes_keep_the_policy_that_the_daemon_was_started_under(make_mount):
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        m = make_mount()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    assert m.status()["transport_policy"] == "rr"
    assert policies_of(m) == {os.SCHED_RR}


def inplace(m):
    return int(m.status()["inplace_calls"])


def test_a_single_caller_is_served_by_the_lane_itself(mount):
    """Metadata, buffered writes and fsync, and nobody else there: no other thread has to be woken."""
    before = inplace(mount)
    fd = os.open(mount.mnt / "f", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for i in range(200):
            os.pwrite(fd, b"x" * 4096, i * 4096)
            os.fdatasync(fd)
    finally:
        os.close(fd)
    for i in range(100):
        (mount.mnt / f"d{i}").mkdir()
    assert inplace(mount) - before >= 100
    assert (mount.back / "f").read_bytes() == b"x" * 4096 * 200
    assert len(list(mount.back.glob("d*"))) == 100


def stall(m, name):
    """Make a directory on the frozen backing, and read a file meanwhile. True: the lane itself sat in the call."""
    alone = threading.Thread(target=(m.mnt / name).mkdir)
    subprocess.run(["fsfreeze", "-f", m.scratch.fs], check=True)
    try:
        alone.start()
        time.sleep(0.3)
        stalled, stuck_ms = alone.is_alive(), int(m.status()["inplace_stuck_ms"])
        reader = subprocess.run(["timeout", "15", "cat", m.mnt / "other"], capture_output=True)
    finally:
        subprocess.run(["fsfreeze", "-u", m.scratch.fs], check=True)
    alone.join()
    assert (reader.returncode, reader.stdout) == (0, b"there")
    assert stalled and (m.back / name).is_dir()
    return stuck_ms >= 100


def test_a_stalled_call_in_place_holds_back_nobody_else(mount):
    """A backing frozen by somebody else stops the call that the lane has made; the guard has another lane go on."""
    (mount.mnt / "other").write_bytes(b"there")
    for i in range(20):  # on a busy machine another lane may be fetching just then
        for k in range(10):
            (mount.mnt / f"warm{i}.{k}").mkdir()
        if stall(mount, f"stalls{i}"):
            return
        # lanes are counted while they work
        wait_for("one lane to fetch", lambda: os.utime(mount.mnt / "other") or mount.status()["transport_threads_active"] == "1")
    raise AssertionError("no call was made in place")


def latency_devices(m):
    """How often this daemon asks the kernel for idle CPUs that do not halt."""
    fds = pathlib.Path(f"/proc/{m.daemon}/fd")
    found = 0
    for fd in fds.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(fd) == "/dev/cpu_dma_latency"
    return found


def test_idle_cpus_poll_while_operations_come_and_halt_afterwards(make_mount):
    """A successor takes the dead daemon's request back, and asks anew."""
    if not os.path.exists("/dev/cpu_dma_latency"):
        pytest.skip("this kernel has no cpu_dma_latency")
    m = make_mount(idle_poll="yes")
    assert latency_devices(m) == 0 and m.status()["idle_poll"] == "off: few operations"
    stop, paths = threading.Event(), [m.mnt / f"f{i}" for i in range(4)]

    def write(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        while not stop.is_set():
            os.pwrite(fd, b"x" * 4096, 0)
        os.close(fd)
    writers = [threading.Thread(target=write, args=(p,)) for p in paths]
    for w in writers:
        w.start()
    try:
        wait_for("idle CPUs to poll", lambda: m.status()["idle_poll"] == "on")
        assert latency_devices(m) == 1
        time.sleep(2)
        first = m.daemon
        os.kill(first, signal.SIGKILL)
        wait_for("another daemon", lambda: m.status()["pid"] != str(first))
        m.daemon = int(m.status()["pid"])
        wait_for("the next one to ask", lambda: m.status()["idle_poll"] == "on")
        assert latency_devices(m) == 1
    finally:
        stop.set()
        for w in writers:
            w.join()
    wait_for("idle CPUs to halt again", lambda: m.status()["idle_poll"] == "off: few operations")
    assert latency_devices(m) == 0


def test_idle_cpus_are_left_alone_by_default(mount):
    for i in range(3000):
        os.utime(mount.mnt, (i, i))
    assert mount.status()["idle_poll"] == "no" and latency_devices(mount) == 0
