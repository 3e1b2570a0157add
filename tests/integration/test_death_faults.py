"""What a daemon leaves when it dies in the midst of a look or of a refusal; needs a build with -Dfault_points=true."""

import pathlib
import shutil
import subprocess
import time

import pytest

from stillfs import STILLFS, wait_for
from test_takeover import assert_nothing_left
from test_takeover_faults import Faults

pytestmark = pytest.mark.skipif(b"journal.valid" not in STILLFS.read_bytes(), reason="a build without fault points")


@pytest.fixture
def rig(make_mount, scratch):
    faults = Faults(scratch.dir / "faults")
    m = make_mount(env={"STILLFS_FAULTS": str(faults.path)}, provider="null", fd_cache=64)
    return m, faults


def stale_root(m, faults):
    """The root's attributes must be asked for again, and nothing else is on its way."""
    faults.arm("lane.read", 1 << 30)
    (m.mnt / "x").touch()

    def settled():
        before = faults.passed()
        time.sleep(0.3)
        return before and faults.passed() == before
    wait_for("the requests of touch", settled)


def test_a_snapshot_waits_for_no_answer_of_its_own_daemon(rig):
    """A thread of the daemon that waits for the daemon cannot die, and the keeper would wait for it for ever."""
    m, faults = rig
    stale_root(m, faults)
    faults.arm("lane.read")
    asker = subprocess.Popen(["dd", f"of={m.control}/snapshot", "status=none"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    asker.stdin.write(b"a\n")
    asker.stdin.close()
    wait_for("the fault", faults.killed)
    wait_for("the daemon's end", lambda: not pathlib.Path(f"/proc/{m.daemon}").exists())
    asker.wait()
    wait_for("the take-over", lambda: m.status()["restarts"] == "1")
    assert m.write("snapshot", "b\n") == 0, m.last_error()
    shutil.rmtree(m.mnt, ignore_errors=True)
    assert_nothing_left(m)


def test_doctor_asks_its_own_daemon_nothing(rig):
    m, faults = rig
    stale_root(m, faults)
    faults.arm("lane.read", 1000)
    assert m.write("doctor", "run\n") == 0
    text = wait_for("doctor", lambda: m.read("doctor").replace("running\n", ""))
    assert f"ok mount {m.mnt}" in text
    assert faults.passed() == 0


def test_an_upgrade_that_a_dying_daemon_has_asked_for_is_carried_out(rig):
    m, faults = rig
    faults.arm("upgrade.wanted")
    assert m.write("upgrade", "start\n") == 0, m.last_error()
    assert faults.killed() == 1
    wait_for("the upgrade", lambda: m.status()["upgrade"].startswith("done "))
    (m.mnt / "f").write_text("x")
    assert m.write("snapshot", "a\n") == 0, m.last_error()
