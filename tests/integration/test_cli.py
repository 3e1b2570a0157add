"""What an operator does wrong, on the command line and in the control tree: an errno, a sentence, nothing lost."""

import errno
import os
import signal
import subprocess

from stillfs import run, wait_for


def big_set(m, name):
    """Take a set whose completion lasts: its digest has much to read."""
    with open(m.mnt / "big", "wb") as f:
        f.truncate(1 << 30)
    assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
    assert m.state(name) == "pending"


def interrupted_writer(m, name, when):
    """Ctrl-C on a writer of `snapshot`, while it waits."""
    p = subprocess.Popen(["/usr/bin/python3", "-c",
                          "import os,sys\nfd=os.open(sys.argv[1],os.O_WRONLY)\nos.write(fd,sys.argv[2].encode())",
                          str(m.control / "snapshot"), name], stderr=subprocess.DEVNULL)
    wait_for(when, lambda: os.path.isdir(m.control / "snapshots" / name))
    p.send_signal(signal.SIGINT)
    assert p.wait(10) != 0


# ---- who is aborted ----

def test_ctrl_c_on_one_snapshot_leaves_the_set_before_it_alone(make_mount):
    m = make_mount()
    for i in range(2000):
        (m.mnt / f"f{i}").touch()
    big_set(m, "first")
    interrupted_writer(m, "second", "second to begin")
    m.wait_state("second", "failed")
    assert "interrupted by its caller" in m.read("snapshots/second/last_error")
    m.wait_state("first", "complete", 30)


def test_abort_ends_the_running_snapshot_and_not_the_set_before_it(make_mount):
    m = make_mount()
    for i in range(2000):
        (m.mnt / f"f{i}").touch()
    big_set(m, "first")
    os.mkdir(m.control / "snapshots" / "second")
    assert m.write("abort", "1\n") == 0
    m.wait_state("second", "failed")
    m.wait_state("first", "complete", 30)


def test_abort_with_nothing_running_ends_the_completion(make_mount):
    m = make_mount()
    big_set(m, "first")
    assert m.write("abort", "1\n") == 0
    m.wait_state("first", "failed")
    assert "aborted by an operator" in m.read("snapshots/first/last_error")
    wait_for("the run to end", lambda: m.status()["state"] == "idle")
    assert m.write("abort", "1\n") == errno.ENOENT
    assert m.write("snapshot", "next\n") == 0, m.last_error()


def test_a_set_is_removed_also_after_an_aborted_snapshot(make_mount):
    m = make_mount(provider="null")
    m.null("preflight delay_ms 300\n")
    os.mkdir(m.control / "snapshots" / "gone")
    assert m.write("abort", "1\n") == 0
    m.wait_state("gone", "failed")
    wait_for("the provider to come back", lambda: m.status()["provider_call"] == "ok")
    os.rmdir(m.control / "snapshots" / "gone")
    wait_for("the removal", lambda: ("remove", "gone") in [c[1:] for c in m.null_calls()])
    wait_for("its event", lambda: '"step":"removed"' in events(m))


def events(m):
    fd = os.open(m.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    out = b""
    try:
        while True:
            out += os.read(fd, 65536)
    except BlockingIOError:
        return out.decode()
    finally:
        os.close(fd)


def test_a_mount_taken_away_by_hand_refuses_the_snapshot(make_mount, scratch):
    for d in ("back", "redo"):
        (scratch.fs / d).mkdir()
    redo = scratch.dir / "redo-mnt"
    redo.mkdir()
    m = make_mount(pair=f"{scratch.fs}/redo:{redo}", local_dir=scratch.fs / "sets")
    m.more_pairs = [(scratch.fs / "redo", redo)]
    run("umount", redo)
    assert m.write("snapshot", "one\n") == errno.ENODEV
    assert f"{redo} is not mounted any more" in m.last_error()["message"]
    assert m.state("one") == "failed" and m.gate() == "open"
