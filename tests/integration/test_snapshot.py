"""Snapshots through the control files, with the local provider and with one that fails on demand."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from stillfs import STILLCTL, Scratch, run, wait_for


def tree(root):
    """{relative path: (kind, content or target, mode, mtime)} of a tree."""
    out = {}
    for dirpath, dirs, files in os.walk(root):
        for name in dirs + files:
            path = pathlib.Path(dirpath) / name
            st = path.lstat()
            rel = str(path.relative_to(root))
            if rel == ".stillfs-position":
                continue
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            out[rel] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns if not path.is_dir() else 0, what)
    return out


def fill(root):
    (root / "d" / "e").mkdir(parents=True)
    (root / "empty").touch()
    (root / "small").write_text("small")
    (root / "d" / "big").write_bytes(os.urandom(3 << 20))
    os.symlink("../small", root / "d" / "link")
    os.link(root / "small", root / "d" / "e" / "hard")
    (root / "odd \\ name\n").write_text("odd")
    os.mkfifo(root / "fifo", 0o640)
    os.chown(root / "d", 12, 34)
    os.chmod(root / "small", 0o4751)
    with open(root / "sparse", "wb") as f:
        f.truncate(1 << 28)
        f.seek(1 << 27)
        f.write(b"middle")


def data_of(m, name):
    return pathlib.Path(os.readlink(m.control / "snapshots" / name / "data"))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_local_set_is_the_tree_at_its_point(kind):
    scratch = Scratch(kind)
    from stillfs import Mount
    m = Mount(scratch)
    try:
        (m.mnt / "d").mkdir()
        os.rmdir(m.mnt / "d")
        os.mkdir(m.mnt / "t")
        fill(m.mnt / "t")
        before = {k: v for k, v in tree(m.mnt / "t").items() if "fifo" not in k}
        assert m.write("snapshot", 'one class=nightly description="a b" tag=k:v\n') == 0, m.last_error()
        (m.mnt / "t" / "small").write_text("changed after the point")
        m.wait_state("one", "complete")
        after = {k: v for k, v in tree(data_of(m, "one") / "t").items() if "fifo" not in k}
        assert after == before
        assert os.stat(data_of(m, "one") / "t" / "small").st_ino == \
            os.stat(data_of(m, "one") / "t" / "d" / "e" / "hard").st_ino
        run("sha256sum", "--quiet", "-c", "manifest.sha256", cwd=data_of(m, "one").parent)
        shared = subprocess.run(["xfs_io", "-r", "-c", "fiemap -v", str(data_of(m, "one") / "t" / "d" / "big")],
                                capture_output=True, text=True).stdout
        assert " 0x2" in shared, "extents are not shared: it was copied, not cloned: " + shared
        assert not (m.back / ".stillfs-position").exists()
        assert "set one" in (data_of(m, "one") / ".stillfs-position").read_text()
    finally:
        m.close()
        scratch.close()


def test_files_that_come_and_go_while_it_is_prepared_end_as_they_are_at_the_point(mount):
    stop = threading.Event()

    def churn():
        n = 0
        while not stop.is_set():
            n += 1
            (mount.mnt / f"f{n % 50}").write_bytes(b"x" * n)
            if n % 3 == 0:
                os.rename(mount.mnt / f"f{n % 50}", mount.mnt / f"g{n % 7}")
            if n % 5 == 0 and (mount.mnt / "g1").exists():
                os.unlink(mount.mnt / "g1")
                os.mkdir(mount.mnt / f"dir{n}")
    t = threading.Thread(target=churn, daemon=True)
    t.start()
    for i in range(10):
        assert mount.write("snapshot", f"s{i}\n") == 0, mount.last_error()
    stop.set()
    t.join(30)
    for i in range(10):
        mount.wait_state(f"s{i}", "complete")
        run("sha256sum", "--quiet", "-c", "manifest.sha256", cwd=data_of(mount, f"s{i}").parent)


def test_mkdir_returns_at_once_and_wait_tells_when_the_point_is_fixed(make_mount):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 500\n")
    os.mkdir(m.control / "snapshots" / "one")
    assert m.state("one") == "running"
    with pytest.raises(OSError) as e:
        os.mkdir(m.control / "snapshots" / "two")
    assert e.value.errno == errno.EBUSY
    assert "one is running" in m.last_error()["message"]
    assert m.read("snapshots/one/wait") == "fixed\n"
    assert m.gate() == "open"


def test_the_control_tree_answers_while_a_set_holds_the_gate(make_mount):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 2000\n")
    os.mkdir(m.control / "snapshots" / "one")
    wait_for("the hold", lambda: m.gate() == "closed")
    assert "one" in os.listdir(m.control / "snapshots")
    assert m.read("list") and m.read("status") and m.read("snapshots/one/log")
    with pytest.raises(OSError) as e:
        os.mkdir(m.control / "snapshots" / "two")
    assert e.value.errno == errno.EBUSY
    assert m.gate() == "closed", "an answer came only after the hold"


def test_the_lock_is_released_before_the_provider_is_called_and_the_gate_opened_after(make_mount):
    m = make_mount(provider="null")
    assert m.write("snapshot", "one\n") == 0
    steps = [line.split()[1] for line in m.read("snapshots/one/log").splitlines()]
    order = ["preflight_db", "preflight_provider", "presync", "locked", "drained", "unlock_sent", "trigger",
             "triggered", "gate_open"]
    assert [s for s in steps if s in order] == order


@pytest.mark.parametrize("call", ["preflight", "trigger", "poll"])
def test_a_failing_provider_fails_the_set_with_its_reason_and_holds_nothing(make_mount, call):
    m = make_mount(provider="null")
    m.null(f"{call} fail {errno.EDQUOT}\n")
    r = m.write("snapshot", "one\n")
    assert r == (0 if call == "poll" else errno.EDQUOT)
    m.wait_state("one", "failed")
    assert "told to fail" in m.read("snapshots/one/last_error")
    assert m.gate() == "open"
    wait_for("the discard", lambda: "discard" in [c[1] for c in m.null_calls()])
    wait_for("the run to end", lambda: m.status()["state"] == "idle")
    m.null("")
    assert m.write("snapshot", "two\n") == 0, m.last_error()


def test_abort_ends_a_hold_within_a_second(make_mount):
    m = make_mount(provider="null", gate_timeout=40)
    m.null("trigger hang\n")
    t = threading.Thread(target=lambda: results.append(m.write("snapshot", "one\n")), daemon=True)
    results = []
    t.start()
    wait_for("the hold", lambda: m.gate() == "closed")
    start = time.monotonic()
    assert m.write("abort", "1\n") == 0
    wait_for("the gate to open", lambda: m.gate() == "open")
    t.join(30)
    assert time.monotonic() - start < 20  # the hold's own end is at 40; the promise of 1 s is the bench's to print
    assert results == [errno.ECANCELED]
    assert "aborted by an operator" in m.read("snapshots/one/last_error")
    assert m.write("abort", "1\n") in (errno.ENOENT, 0)


def test_ctrl_c_before_the_trigger_aborts_and_after_it_does_not(make_mount):
    m = make_mount(provider="null")
    for call, state in (("preflight", "failed"), ("poll", "complete")):
        m.null(f"{call} delay_ms 1500\n")
        p = subprocess.Popen(["/bin/sh", "-c", f"echo {call} > {m.control}/snapshot"], stderr=subprocess.PIPE)
        wait_for(f"{call}", lambda: any(c[1] == call for c in m.null_calls()))
        if p.poll() is None:
            p.send_signal(signal.SIGINT)
        p.wait(30)
        m.wait_state(call, state)
        assert m.gate() == "open"
        wait_for("the provider to come back", lambda: m.status()["provider_call"] == "ok")


@pytest.mark.parametrize("text,code,words", [
    ("a/b\n", errno.EINVAL, "bad name"),
    ("-x\n", errno.EINVAL, "bad name"),
    ("x" * 65 + "\n", errno.EINVAL, "bad name"),
    ("one two\n", errno.EINVAL, "unknown word"),
    ("color=red\n", errno.EINVAL, "unknown word"),
    ("class=\n", errno.EINVAL, "class="),
    ("tag=novalue\n", errno.EINVAL, "tag="),
    ('description="open\n', errno.EINVAL, "quote"),
    ("one\ntwo\n", errno.EINVAL, "one line"),
])
def test_wrong_requests_are_refused_with_a_sentence_and_leave_nothing(shared_mount, text, code, words):
    before = os.listdir(shared_mount.control / "snapshots")
    assert shared_mount.write("snapshot", text) == code
    error = shared_mount.last_error()
    assert words in error["message"] and error["file"] == "snapshot" and error["errno"] == errno.errorcode[code]
    assert os.listdir(shared_mount.control / "snapshots") == before


def test_a_name_is_taken_once(mount):
    assert mount.write("snapshot", "one\n") == 0
    assert mount.write("snapshot", "one\n") == errno.EEXIST
    assert "exists" in mount.last_error()["message"]


def test_nothing_but_root_may_write(shared_mount):
    m = shared_mount
    script = f"echo > {m.control}/snapshot; echo open > {m.control}/gate; mkdir {m.control}/snapshots/x; cat {m.control}/version"
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script],
                       capture_output=True, text=True)
    assert r.stderr.count("ermission denied") == 3
    assert r.stdout.startswith("stillfs ")


def test_control_gid_may_write(make_mount):
    m = make_mount(control_gid=4242)
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=4242", "--clear-groups", "sh", "-c",
                        f"echo by-group > {m.control}/snapshot && mkdir {m.control}/snapshots/y"],
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def test_pinned_newest_and_unknown_sets_are_not_deleted(mount):
    for name in ("one", "two"):
        assert mount.write("snapshot", f"{name}\n") == 0
        mount.wait_state(name, "complete")
    assert mount.write("snapshots/one/pin", "yes\n") == 0
    for name, code, words in (("one", errno.EBUSY, "pinned"), ("two", errno.EBUSY, "newest complete"),
                              ("nope", errno.ENOENT, None)):
        with pytest.raises(OSError) as e:
            os.rmdir(mount.control / "snapshots" / name)
        assert e.value.errno == code
        if words:
            assert words in mount.last_error()["message"]
    assert mount.write("snapshots/one/pin", "maybe\n") == errno.EINVAL
    data = data_of(mount, "one")
    assert mount.write("snapshots/one/pin", "no\n") == 0
    os.rmdir(mount.control / "snapshots" / "one")
    assert not (mount.control / "snapshots" / "one").exists()
    wait_for("the data to go", lambda: not data.exists())


def test_rm_rf_removes_nothing(mount):
    assert mount.write("snapshot", "one\n") == 0
    mount.wait_state("one", "complete")
    data = data_of(mount, "one")
    r = subprocess.run(["rm", "-rf", str(mount.control / "snapshots" / "one")], capture_output=True)
    assert r.returncode != 0
    assert mount.state("one") == "complete" and data.exists()


def test_attributes_survive_a_restart(mount):
    assert mount.write("snapshot", "one pin\n") == 0
    mount.wait_state("one", "complete")
    assert mount.write("snapshots/one/description", "changed\n") == 0
    assert mount.write("snapshots/one/tags", "a:1\nb:2\n") == 0
    assert mount.write("snapshots/one/tags", "broken\n") == errno.EINVAL
    before = json.loads(mount.read("list.json"))
    mount.stop()
    mount.start()
    assert json.loads(mount.read("list.json")) == before
    assert mount.read("snapshots/one/tags") == "a:1\nb:2\n"
    assert mount.read("snapshots/one/description") == "changed\n"
    assert mount.read("snapshots/one/pin") == "yes\n"


def test_events_tell_each_step_and_tail_follows(mount):
    p = subprocess.Popen(["tail", "-n", "1", "-f", str(mount.control / "events")], stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    assert mount.write("snapshot", "one\n") == 0
    lines = []
    while not any('"step":"complete"' in line for line in lines):
        lines.append(p.stdout.readline())
    p.kill()
    p.wait()
    events = [json.loads(line) for line in lines]
    assert [e["seq"] for e in events] == sorted(e["seq"] for e in events)
    assert {"drained", "unlock_sent", "fixed"} <= {e.get("step") for e in events}


def test_what_somebody_changes_in_a_set_is_an_event(mount):
    assert mount.write("snapshot", "one description=old\n") == 0
    mount.wait_state("one", "complete")
    fd = os.open(mount.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    for name, text, result in (("pin", "yes\n", 0), ("pin", "yes\n", 0), ("pin", "maybe\n", errno.EINVAL), ("pin", "no\n", 0),
                               ("description", "old\n", 0), ("description", "new\n", 0), ("tags", "a:1\n", 0), ("tags", "a:1\n", 0)):
        assert mount.write(f"snapshots/one/{name}", text) == result
    said = [json.loads(line) for line in os.read(fd, 65536).decode().splitlines()]
    os.close(fd)
    assert [(e["set"], e["step"]) for e in said if e["type"] == "snapshot"] == \
        [("one", "pin"), ("one", "unpin"), ("one", "description"), ("one", "tags")]


def test_poll_waits_for_an_event(mount):
    import select
    fd = os.open(mount.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    while True:
        try:
            os.read(fd, 65536)
        except BlockingIOError:
            break
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(200) == []
    threading.Timer(0.3, lambda: mount.write("gate", "bogus\n")).start()
    assert poll.poll(5000)
    assert b'"type":"error"' in os.read(fd, 65536)
    os.close(fd)


def refused(make_mount, code, words, **options):
    m = make_mount(**options)
    before = tree(m.mnt)
    assert m.write("snapshot", "one\n") == code, m.last_error()
    assert words in m.last_error()["message"], m.last_error()
    assert m.state("one") == "failed" and m.gate() == "open"
    assert tree(m.mnt) == before
    return m


def test_a_provider_directory_on_another_filesystem_is_refused(make_mount, scratch):
    m = refused(make_mount, errno.EXDEV, "not on the filesystem", local_dir=scratch.dir / "elsewhere")
    assert not (scratch.dir / "elsewhere").exists()
    assert not (m.back / ".stillfs-position").exists()


def test_a_provider_directory_below_the_backing_is_refused(make_mount, scratch):
    (scratch.fs / "back").mkdir()
    refused(make_mount, errno.EINVAL, "below the backing", local_dir=scratch.fs / "back" / "sets")


def test_a_filesystem_without_clones_is_refused_and_copied_when_allowed():
    from stillfs import Mount
    scratch = Scratch("ext4")
    m = Mount(scratch)
    try:
        (m.mnt / "f").write_bytes(b"data" * 5000)
        assert m.write("snapshot", "one\n") == errno.EOPNOTSUPP
        assert "local_copy=yes" in m.last_error()["message"]
        m.stop()
        m.options["local_copy"] = "yes"
        m.start()
        assert m.write("snapshot", "two\n") == 0, m.last_error()
        m.wait_state("two", "complete")
        assert (data_of(m, "two") / "f").read_bytes() == b"data" * 5000
    finally:
        m.close()
        scratch.close()


def test_a_full_state_directory_refuses_the_snapshot_and_loses_nothing(make_mount, scratch):
    state = scratch.dir / "state"
    state.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", state)
    try:
        m = make_mount()
        assert m.write("snapshot", "before\n") == 0, m.last_error()
        m.wait_state("before", "complete")
        fd = os.open(state / "ballast", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError):
            while True:
                os.write(fd, b"x" * 4096)
        os.close(fd)
        assert m.write("snapshot", "full\n") == errno.ENOSPC
        assert m.gate() == "open"
        (state / "ballast").unlink()
        assert m.write("snapshot", "after\n") == 0, m.last_error()
        m.wait_state("after", "complete")
        m.stop()
        m.start()
        assert m.state("before") == "complete" and m.state("after") == "complete"
        m.close()
    finally:
        run("umount", state)


def test_several_pairs_are_one_set_under_one_gate(make_mount, scratch):
    for d in ("back", "redo"):
        (scratch.fs / d).mkdir()
    (scratch.dir / "redo-mnt").mkdir()
    m = make_mount(pair=f"{scratch.fs}/redo:{scratch.dir}/redo-mnt", local_dir=scratch.fs / "sets")
    redo = scratch.dir / "redo-mnt"
    try:
        (m.mnt / "a").write_text("a")
        (redo / "b").write_text("b")
        with m.closed():
            done = []
            t = threading.Thread(target=lambda: done.append((redo / "b").write_text("c")), daemon=True)
            t.start()
            wait_for("a write to the second mount to park", lambda: int(m.status()["parked"]) == 1)
        t.join(30)
        assert m.write("snapshot", "one\n") == 0, m.last_error()
        m.wait_state("one", "complete")
        data = data_of(m, "one")
        assert sorted(p.name for p in data.iterdir()) == ["0-mnt", "1-redo-mnt"]
        assert (data / "1-redo-mnt" / "b").read_text() == "c" and (data / "0-mnt" / "a").read_text() == "a"
        assert m.read("snapshots/one/volumes") == "2\n"
    finally:
        m.close()
        subprocess.run(["umount", "-f", str(redo)], capture_output=True)


def test_stillctl_works_through_the_control_files_alone(mount):
    def ctl(*args, code=0):
        r = subprocess.run([str(STILLCTL), "-n", mount.name, *args], capture_output=True, text=True)
        assert r.returncode == code, (args, r.stdout, r.stderr)
        return r.stdout + r.stderr
    assert "name one" in ctl("snapshot", "one", "description=two words", "tag=a:b", "pin")
    mount.wait_state("one", "complete")
    assert "two words" in ctl("show", "one") and "pin" in ctl("list")
    assert json.loads(ctl("--json", "show", "one"))["description"] == "two words"
    assert json.loads(ctl("--json", "status"))["gate"] == "open"
    assert "fixed" in ctl("wait", "one")
    assert "pinned" in ctl("delete", "one", code=1)
    assert "no such set" in ctl("delete", "nope", code=1)
    ctl("gate", "close", "timeout=5")
    assert "closed" in ctl("gate")
    ctl("gate", "open")
    assert "bad name" in ctl("snapshot", "a/b", code=1)
    assert "no snapshot is running" in ctl("abort", code=1)
    assert '"step":"complete"' in ctl("events")
    ctl("bogus", code=2)
    ctl("show", code=2)


def test_the_directory_of_sets_does_not_count_them(make_mount):
    """Each look-up below it asks for its attributes: `ls -l` of many sets would take time by their square."""
    m = make_mount(provider="null")
    assert m.write("snapshot", "one\n") == 0
    assert os.stat(m.control / "snapshots").st_nlink == 1
    assert run("find", m.control / "snapshots", "-mindepth", "1", "-maxdepth", "1", "-type", "d").split() == [str(m.control / "snapshots" / "one")]
