"""The transport: how many lanes fetch, and that no request is left behind when that changes."""

import os
import subprocess
import threading
import time

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
