"""What survives: the daemon's death, a frozen backing, somebody else's freeze, SIGTERM below a database."""

import errno
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

from stillfs import Mount, Scratch, is_gone, process_state, run, wait_for


def frozen(path):
    """Is the filesystem frozen? A second freeze says so."""
    r = subprocess.run(["fsfreeze", "-f", str(path)], capture_output=True, text=True)
    if r.returncode == 0:
        run("fsfreeze", "-u", path)
        return False
    return True


@pytest.fixture
def null_mount(make_mount, scratch):
    def make(start=True, **options):
        options.setdefault("takeover", "no")
        return make_mount(start, provider="null", **options)
    return make


def writer(path):
    p = subprocess.Popen(["/usr/bin/python3", "-c",
                          "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY|os.O_APPEND)\nprint('ready',flush=True)\n"
                          "os.write(fd,b'x'*100)\nprint('done',flush=True)", str(path)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    return p


def assert_ended_cleanly(m, writers=()):
    """Nobody hangs, nothing stays frozen or mounted."""
    for p in writers:
        p.communicate(timeout=30)
        assert p.returncode != 0  # ENOTCONN or ECONNABORTED, not a hang
    wait_for("the keeper to end", lambda: is_gone(m.keeper), 15)
    assert not os.path.ismount(m.mnt)
    assert not frozen(m.scratch.fs)
    assert "the daemon died: " in m.log() and "signal 9" in m.log()


def test_kill_of_the_daemon_with_parked_writers_ends_everything(make_mount):
    mount = make_mount(takeover="no")
    (mount.mnt / "f").write_bytes(b"")
    mount.write("gate", "close timeout=30\n")
    writers = [writer(mount.mnt / "f") for _ in range(5)]
    wait_for("the writers to be parked", lambda: mount.status()["parked"] != "0")
    os.kill(mount.daemon, signal.SIGKILL)
    assert_ended_cleanly(mount, writers)


def start_frozen_hold(m, name="held"):
    """A snapshot that hangs in the provider with the backing frozen."""
    m.null("trigger hang\n")
    assert m.write("snapshot", f"{name} nowait\n") == 0, m.last_error()
    wait_for("the freeze", lambda: m.status()["freeze"] == "frozen")


def test_kill_of_the_daemon_thaws_the_backing(null_mount):
    m = null_mount(freeze="yes", gate_timeout=40)
    start_frozen_hold(m)
    assert frozen(m.scratch.fs)
    os.kill(m.daemon, signal.SIGKILL)
    assert_ended_cleanly(m)
    assert "thawing the backing" in m.log()


def test_kill_of_the_daemon_with_a_thread_blocked_on_the_frozen_filesystem_thaws_it(null_mount):
    m = null_mount(freeze="yes", gate_timeout=40)
    m.null("trigger write\n")
    assert m.write("snapshot", "held nowait\n") == 0
    wait_for("the freeze", lambda: m.status()["freeze"] == "frozen")

    def blocked():
        tasks = os.listdir(f"/proc/{m.daemon}/task")
        return any(process_state(f"{m.daemon}/task/{t}") == "D" for t in tasks)
    wait_for("a thread to block on the frozen filesystem", blocked)
    os.kill(m.daemon, signal.SIGKILL)
    assert_ended_cleanly(m)


def test_stopped_daemon_does_not_keep_the_backing_frozen(null_mount):
    m = null_mount(freeze="yes", gate_timeout=40)
    start_frozen_hold(m)
    os.kill(m.daemon, signal.SIGSTOP)
    try:
        wait_for("the thaw", lambda: not frozen(m.scratch.fs), 5)
    finally:
        os.kill(m.daemon, signal.SIGCONT)
    m.null("")
    wait_for("the set to fail", lambda: m.state("held") == "failed", 15)
    assert "thaw" in m.read("snapshots/held/last_error")


def test_the_deadline_thaws_and_opens_when_the_provider_hangs(null_mount):
    m = null_mount(freeze="yes", gate_timeout=1)
    (m.mnt / "f").write_bytes(b"")
    start_frozen_hold(m)
    p = writer(m.mnt / "f")
    assert p.communicate(timeout=30)[0] == "done\n"
    assert not frozen(m.scratch.fs)
    m.wait_state("held", "failed")
    assert m.gate() == "open"
    wait_for("the run to end", lambda: m.status()["state"] == "idle")
    assert m.status()["provider_call"] == "stuck"
    assert m.write("snapshot", "next\n") == errno.EBUSY
    assert "has not come back" in m.last_error()["message"]
    m.null("")
    wait_for("the provider to come back", lambda: m.status()["provider_call"] == "ok")
    assert m.write("snapshot", "next\n") == 0, m.last_error()


def test_freeze_is_really_used_and_ends_with_the_hold(null_mount):
    m = null_mount(freeze="yes")
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    log = m.read("snapshots/one/log")
    steps = [line.split()[1] for line in log.splitlines()]
    assert steps.index("drained") < steps.index("frozen") < steps.index("trigger") < steps.index("thawed") \
        < steps.index("gate_open")
    assert not frozen(m.scratch.fs)


def test_a_filesystem_that_does_not_answer_holds_back_no_other_start(make_mount):
    """Who has files of the backing open is asked of every process; one has files of a mount whose daemon is stopped."""
    stuck = make_mount()
    held = os.open(stuck.mnt / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(held, b"x", 0)  # its attributes must be asked for again
    other = Scratch()
    m = Mount(other, start=False)
    os.kill(stuck.daemon, signal.SIGSTOP)
    try:
        started = subprocess.run(["timeout", "-k", "1", "20", *m.argv()], capture_output=True, text=True)
    finally:
        os.kill(stuck.daemon, signal.SIGCONT)
        os.close(held)
    try:
        assert started.returncode == 0, started.stderr
        status = m.status()
        m.keeper, m.daemon = int(status["keeper_pid"]), int(status["pid"])
        (m.mnt / "g").write_bytes(b"y")
        assert (m.back / "g").read_bytes() == b"y"
    finally:
        m.close()
        other.close()


def in_foreground(m):
    """Its own parent, with the log on a pipe whose reader may go: (process, the read end)."""
    m.options["log_file"] = ""
    r, w = os.pipe()
    argv = m.argv()
    p = subprocess.Popen([argv[0], "-f", *argv[1:]], env=m.env, stdout=w, stderr=w)
    os.close(w)
    wait_for("the mount", lambda: (m.control / "status").exists())
    m.keeper, m.daemon = p.pid, int(m.status()["pid"])
    return p, r


def test_a_log_that_nobody_reads_keeps_nothing_frozen(make_mount):
    m = make_mount(start=False, provider="null", freeze="yes", gate_timeout=40)
    p, log = in_foreground(m)
    start_frozen_hold(m)
    os.close(log)
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the thaw", lambda: not frozen(m.scratch.fs))
    wait_for("the take-over", lambda: m.status()["restarts"] == "1")
    m.null("")
    m.stop()
    assert p.wait() == 0


def test_a_caller_that_ignores_its_childrens_end_hides_no_death(make_mount):
    m = make_mount(start=False)
    plain = m.argv
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    m.argv = lambda: ["/usr/bin/python3", "-c", ignore, *plain()]
    m.start()
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the take-over", lambda: is_gone(m.daemon) and not os.path.exists(f"/proc/{m.daemon}") and keeper_has_another(m))
    assert m.status()["restarts"] == "1"


def keeper_has_another(m):
    """Asked of /proc: where nobody serves, a read of the control tree would not return."""
    children = pathlib.Path(f"/proc/{m.keeper}/task/{m.keeper}/children").read_text().split()
    return bool(children) and str(m.daemon) not in children


def tmpfs_instead(m):
    """Takes the mount away, and puts another filesystem there."""
    run("umount", m.mnt)
    run("mount", "-t", "tmpfs", "none", m.mnt)
    (m.mnt / "theirs").touch()


@pytest.mark.parametrize("death", [False, True])
def test_what_is_mounted_there_by_then_is_left_alone(null_mount, death):
    m = null_mount()
    m.null("preflight hang\n")
    assert m.write("snapshot", "stuck nowait\n") == 0  # so that the end takes a while
    wait_for("the call", lambda: any(c == "preflight" for _, c, _ in m.null_calls()))
    tmpfs_instead(m)
    try:
        if death:
            os.kill(m.daemon, signal.SIGKILL)
        wait_for("the end", lambda: is_gone(m.keeper))
        assert (m.mnt / "theirs").exists()
    finally:
        subprocess.run(["umount", m.mnt])


def test_a_mount_that_was_moved_away_keeps_nothing_from_stopping(null_mount):
    """Somebody has it elsewhere: its connection lives, and there is nothing at its place to unmount."""
    m = null_mount()
    other = m.dir / "other"
    other.mkdir()
    run("mount", "--bind", m.mnt, other)
    try:
        run("umount", m.mnt)
        assert not os.path.ismount(m.mnt)
        m.stop()
    finally:
        subprocess.run(["umount", "-l", other])


def test_of_two_pairs_the_one_that_is_gone_is_left_alone(null_mount, scratch):
    m = null_mount(start=False)
    (scratch.fs / "back2").mkdir()
    (scratch.dir / "mnt2").mkdir()
    m.more_pairs = [(scratch.fs / "back2", scratch.dir / "mnt2")]
    m.start()
    tmpfs_instead(m)
    try:
        m.stop()
        assert (m.mnt / "theirs").exists()
        assert not os.path.ismount(scratch.dir / "mnt2")
    finally:
        subprocess.run(["umount", m.mnt])


def test_a_crash_dumps_no_tables(mount):
    """They are sparse, of many GiB: a dump would fill them."""
    maps = pathlib.Path(f"/proc/{mount.daemon}/smaps").read_text()
    flags = re.findall(r"/memfd:stillfs-(\w+) .*?\nVmFlags: ([^\n]*)\n", maps, re.S)
    assert {"nodes", "files", "hash", "requests", "descriptors"} <= {name for name, _ in flags}
    assert [name for name, f in flags if "dd" not in f.split() and name != "head"] == []


def test_somebody_elses_freeze_fails_the_snapshot_and_is_left_alone(null_mount):
    m = null_mount(freeze="yes", gate_timeout=2, presync_timeout=2)
    run("fsfreeze", "-f", m.scratch.fs)
    try:
        # presync and the position file would block on it: the run must end all the same
        assert m.write("snapshot", "x\n") != 0
        assert m.gate() == "open"
        assert frozen(m.scratch.fs), "somebody else's freeze was thawed"
    finally:
        run("fsfreeze", "-u", m.scratch.fs)
    (m.mnt / "g").write_bytes(b"works")


def test_sigterm_below_a_user_goes_on_serving_and_names_it(mount):
    with open(mount.mnt / "f", "w") as f:
        os.kill(mount.keeper, signal.SIGTERM)
        wait_for("the refusal", lambda: mount.status()["last_error"] != "none")
        error = mount.status()["last_error"]
        assert f"({os.getpid()})" in error and "goes on being served" in error
        f.write("still here")
        f.flush()
        os.fsync(f.fileno())
        assert (mount.back / "f").read_text() == "still here"
        assert mount.write("snapshot", "after\n") == 0, mount.last_error()
    mount.stop()
    assert not os.path.ismount(mount.mnt)


def test_sigterm_opens_the_gate_and_parked_writers_succeed(mount):
    (mount.mnt / "f").write_bytes(b"")
    mount.write("gate", "close timeout=40\n")
    p = writer(mount.mnt / "f")
    wait_for("the writer to park", lambda: int(mount.status()["parked"]) == 1)
    os.kill(mount.keeper, signal.SIGTERM)
    assert p.communicate(timeout=30)[0] == "done\n"
    wait_for("the end", lambda: is_gone(mount.keeper))
    assert (mount.back / "f").read_bytes() == b"x" * 100


def test_unmounting_from_outside_ends_the_program(mount):
    run("umount", mount.mnt)
    wait_for("the end", lambda: is_gone(mount.keeper))
    assert not mount.control.exists()


def test_a_stop_during_a_hold_unwinds_it(null_mount):
    m = null_mount(gate_timeout=40)
    m.null("trigger delay_ms 3000\n")
    t = threading.Thread(target=lambda: m.write("snapshot", "x\n"), daemon=True)
    t.start()
    wait_for("the hold", lambda: m.gate() == "closed")
    m.stop(15)
    t.join(30)
    assert not t.is_alive()
    assert not os.path.ismount(m.mnt)


def test_sets_left_half_way_are_failed_at_the_next_start(null_mount):
    m = null_mount(gate_timeout=40)
    m.null("trigger hang\n")
    assert m.write("snapshot", "half nowait\n") == 0
    wait_for("the hold", lambda: m.gate() == "closed")
    (m.back / ".stillfs-position").stat()
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the keeper to end", lambda: is_gone(m.keeper), 15)
    m.null("")
    m.start()
    assert m.state("half") == "failed"
    assert "ended before the consistency point" in m.read("snapshots/half/last_error")
    assert not (m.back / ".stillfs-position").exists()
    wait_for("its removal", lambda: ("remove", "half") in [c[1:] for c in m.null_calls()])
