"""Another binary goes on with the mounts: no caller sees an error; what cannot go on is refused or taken back."""

import contextlib
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

import pytest

import stillfs
from stillfs import STILLCTL, Mount, wait_for
from test_takeover import assert_nothing_left, end_storms, storms
from test_takeover_many import few_files, open_many

TABLES = b"stillfs-tables=\0"


class Installed:
    """A binary of its own, that a mount is started from and that can be replaced as a package does it."""

    def __init__(self, scratch, monkeypatch):
        self.path = scratch.dir / "sbin" / "stillfs"
        self.path.parent.mkdir()
        self.data = stillfs.STILLFS.read_bytes()
        self.version = subprocess.run([stillfs.STILLFS, "--version"], capture_output=True, text=True).stdout.split()[1]
        self.other = self.version[:-1] + ("9" if self.version[-1] != "9" else "8")
        self.put(self.data)
        monkeypatch.setattr(stillfs, "STILLFS", self.path)

    def put(self, data):
        new = self.path.with_name("new")
        new.write_bytes(data)
        new.chmod(0o755)
        new.rename(self.path)

    def put_version(self):
        assert self.version.encode() + b"\0" in self.data
        self.put(self.data.replace(self.version.encode() + b"\0", self.other.encode() + b"\0"))


@pytest.fixture
def installed(scratch, monkeypatch):
    return Installed(scratch, monkeypatch)


@pytest.fixture
def mount(installed, make_mount):
    return make_mount(provider="null")


def upgrade(m):
    """stillctl's exit code and words."""
    r = subprocess.run([STILLCTL, "--dir", m.control, "upgrade"], capture_output=True, text=True, timeout=40)
    m.daemon = int(m.status()["pid"])
    return r.returncode, r.stdout + r.stderr


def assert_served_by(m, version, daemon=None):
    s = m.status()
    assert s["version"] == version and m.read("version") == f"stillfs {version}\n"
    assert int(s["keeper_pid"]) == m.keeper
    assert daemon is None or int(s["pid"]) == daemon
    (m.mnt / "still").write_text("here")
    assert (m.mnt / "still").read_text() == "here"


def test_a_new_version_goes_on(mount, installed):
    assert mount.read("upgrade") == "none\n" == mount.status()["upgrade"] + "\n"
    with open(mount.mnt / "f", "w") as f, open(mount.mnt / "gone", "w+") as gone:
        gone.write("unlinked")
        gone.flush()
        os.unlink(mount.mnt / "gone")
        installed.put_version()
        old = mount.daemon
        assert upgrade(mount) == (0, f"upgraded from {installed.version} to {installed.other}\n")
        f.write("written by the new one")
        gone.seek(0)
        assert gone.read() == "unlinked"
    assert mount.daemon != old
    assert_served_by(mount, installed.other)
    s = mount.status()
    assert s["restarts"] == "0" and s["last_death"] == "none"
    assert s["upgrade"].startswith("done ") and f"from {installed.version} to {installed.other}" in s["upgrade"]
    events = os.open(mount.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    assert f'"type":"upgrade","from":"{installed.version}","to":"{installed.other}"' in os.read(events, 65536).decode()
    os.close(events)
    assert (mount.mnt / "f").read_text() == "written by the new one"
    installed.put(installed.data)  # and back, by what is the new keeper now
    assert upgrade(mount) == (0, f"upgraded from {installed.other} to {installed.version}\n")
    os.kill(mount.daemon, signal.SIGKILL)
    wait_for("the take-over", lambda: mount.status()["restarts"] == "1")
    assert_served_by(mount, installed.version)
    assert mount.write("snapshot", "after\n") == 0
    shutil.rmtree(mount.mnt, ignore_errors=True)
    assert_nothing_left(mount)


def test_nobody_under_load_notices(mount, installed):
    fio = subprocess.Popen(["fio", "--name=v", f"--directory={mount.mnt}", "--size=32m", "--bs=4k-256k", "--rw=randrw",
                            "--ioengine=libaio", "--iodepth=16", "--numjobs=2", "--direct=1", "--verify=crc32c",
                            "--verify_fatal=1", "--time_based", "--runtime=5", "--verify_backlog=64"],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    threads = storms(mount, 3)
    try:
        for n in range(3):
            time.sleep(1)
            installed.put_version() if n % 2 == 0 else installed.put(installed.data)
            code, words = upgrade(mount)
            assert code == 0, words
        out = fio.communicate(timeout=40)[0]
    finally:
        end_storms(mount, threads)  # and removes all files
    assert fio.returncode == 0 and "err= 0" in out, out[-3000:]
    shutil.rmtree(mount.mnt, ignore_errors=True)
    assert_nothing_left(mount)


def test_more_open_files_than_the_caller_of_stillfs_may_have(installed, make_mount):
    m = make_mount(start=False)
    few_files(m)
    with contextlib.ExitStack() as stack:
        files = open_many(m, stack)
        installed.put_version()
        assert upgrade(m) == (0, f"upgraded from {installed.version} to {installed.other}\n")
        for f in files:
            assert f.write(b"x") == 1
    assert_served_by(m, installed.other)
    shutil.rmtree(m.mnt, ignore_errors=True)
    assert_nothing_left(m)


def test_other_tables_are_refused(mount, installed):
    at = installed.data.index(TABLES) + len(TABLES)
    old = installed.data[at]
    installed.put(installed.data[:at] + bytes([77]) + installed.data[at + 1:])
    daemon = mount.daemon
    code, words = upgrade(mount)
    assert code == 1
    assert f"its tables have version 77, the running daemon's {old}: unmount and mount again; {installed.version} goes on" in words
    assert_served_by(mount, installed.version, daemon)
    assert mount.status()["upgrade"].startswith("failed ")


@pytest.mark.parametrize("what,words", [
    ("dies", "its trial was killed by signal 6"),
    ("old", "it does not know how to take over"),
    ("hangs", "its trial did not end within 5000 ms"),
    ("is silent", "its trial did not end within 5000 ms"),
    ("gone", "start it: No such file or directory"),
    ("no program", "start it: Exec format error")])
def test_a_binary_that_does_not_start_is_refused(mount, installed, what, words):
    scripts = {"dies": "#!/bin/sh\nkill -6 $$\n", "old": "#!/bin/sh\nexit 2\n", "hangs": "#!/bin/sh\nexec sleep 60\n",
               "is silent": "#!/bin/sh\necho 9.9.9\nexec sleep 60 >&- 2>&-\n",
               "no program": "nothing"}
    if what == "gone":
        installed.path.unlink()
    else:
        installed.put(scripts[what].encode())
    daemon = mount.daemon
    code, said = upgrade(mount)
    assert code == 1 and words in said and f"{installed.version} goes on" in said
    assert_served_by(mount, installed.version, daemon)
    installed.put_version()
    assert upgrade(mount)[0] == 0
    assert_served_by(mount, installed.other)


def test_what_was_tried_is_what_goes_on(mount, installed):
    """A package is installed between the trial and the exec."""
    installed.put_version()
    real = installed.path.with_name("real")
    installed.path.rename(real)
    bad = installed.path.with_name("bad")
    bad.write_bytes(b"nothing")
    bad.chmod(0o755)
    installed.put(f"#!/bin/sh\n[ ! -e {bad} ] || mv {bad} {installed.path}\nexec {real} \"$@\"\n".encode())
    assert upgrade(mount) == (0, f"upgraded from {installed.version} to {installed.other}\n")
    assert not bad.exists()
    assert_served_by(mount, installed.other)
    for pid in mount.keeper, mount.daemon:
        assert pathlib.Path(f"/proc/{pid}/comm").read_text() == "stillfs\n"


def test_a_daemon_that_does_not_come_up_is_taken_back(mount, installed, scratch):
    """What the old one agreed on with the kernel is not what the new one would: known only when its daemon starts."""
    stop, failures = threading.Event(), []

    def write():
        try:
            with open(mount.mnt / "w", "wb", buffering=0) as f:
                while not stop.is_set():
                    assert f.write(b"x" * 16384) == 16384
                    f.seek(0)
        except (OSError, AssertionError) as e:
            failures.append(e)
    t = threading.Thread(target=write)
    t.start()
    state = mount.dir / "state"
    try:
        # a daemon looks into its state directory when it starts, and refuses what is none; so would the old one: so it
        # is put right when the new one has failed
        installed.put_version()
        os.rename(state, mount.dir / "aside")
        state.write_text("")
        assert mount.write("upgrade", "start\n") == 0
        wait_for("the new one to fail", lambda: "goes on" in mount.log(), 20)
        state.unlink()
        os.rename(mount.dir / "aside", state)
        wait_for("the old one", lambda: mount.status()["upgrade"].startswith("failed "), 20)
    finally:
        stop.set()
        t.join(20)
    mount.daemon = int(mount.status()["pid"])
    assert not failures and not t.is_alive()
    assert_served_by(mount, installed.version)


def test_not_at_a_closed_gate_and_not_in_a_snapshot(mount, installed):
    installed.put_version()
    daemon = mount.daemon
    with mount.closed():
        code, words = upgrade(mount)
        assert (code, words) == (1, "stillctl: upgrade: the gate is not open; try again when it is\n")
    mount.null("trigger delay_ms 1500\n")
    assert mount.write("snapshot", "slow nowait\n") == 0
    wait_for("the snapshot", lambda: mount.status()["state"] != "idle")
    code, words = upgrade(mount)
    assert code == 1 and ("a snapshot is running" in words or "the gate is not open" in words)
    mount.wait_state("slow", "complete")
    assert_served_by(mount, installed.version, daemon)
    assert upgrade(mount)[0] == 0
    assert mount.state("slow") == "complete"


def test_not_while_doctor_looks_and_no_doctor_meanwhile(mount, installed):
    installed.put_version()
    daemon = mount.daemon
    mount.null("preflight hang\n")
    assert mount.write("doctor", "run\n") == 0
    wait_for("the look", lambda: any(c == "preflight" for _, c, _ in mount.null_calls()))
    code, words = upgrade(mount)
    assert (code, words) == (1, "stillctl: upgrade: a snapshot is running, or doctor is looking; try again when that has ended\n")
    mount.null("")
    wait_for("doctor's end", lambda: mount.read("doctor") != "running\n")
    assert_served_by(mount, installed.version, daemon)
    installed.put(b"#!/bin/sh\nexec sleep 60\n")  # its trial takes long
    assert mount.write("upgrade", "start\n") == 0
    assert mount.write("doctor", "run\n") == errno.EBUSY
    assert mount.last_error()["message"] == "doctor: an upgrade is under way; try again in a moment"
    assert mount.write("upgrade", "start\n") == errno.EBUSY
    wait_for("the trial's end", lambda: mount.status()["upgrade"].startswith("failed "))
    assert mount.write("doctor", "run\n") == 0


def test_not_where_nobody_can_take_over(installed, make_mount):
    m = make_mount(takeover="no")
    assert upgrade(m) == (1, "stillctl: upgrade: a new daemon cannot take over here (`takeover` in status says why); "
                          "stop stillfs and start it again\n")
    assert m.write("upgrade", "now\n") == 22
    assert m.last_error()["message"] == 'upgrade: expected "start"'
