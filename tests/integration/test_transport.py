"""The transport: how many lanes fetch, and that no request is left behind when that changes."""

import subprocess
import time


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
