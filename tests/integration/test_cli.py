"""What an operator does wrong, on the command line and in the control tree: an errno, a sentence, nothing lost."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import threading

import pytest

from stillfs import STILLCTL, STILLFS, Mount, Scratch, is_gone, run, wait_for


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


@pytest.fixture
def slow_second(scratch, make_mount):
    """A mount whose snapshot `second` lasts until it is ended."""
    hook = scratch.dir / "hook"
    hook.write_text('#!/bin/sh\n[ "$STILLFS_SET" != second ] || exec sleep 50\n')
    hook.chmod(0o755)
    return make_mount(hook__pre=hook)


# ---- who is aborted ----

def test_ctrl_c_on_one_snapshot_leaves_the_set_before_it_alone(slow_second):
    m = slow_second
    big_set(m, "first")
    interrupted_writer(m, "second", "second to begin")
    m.wait_state("second", "failed")
    assert "interrupted by its caller" in m.read("snapshots/second/last_error")
    m.wait_state("first", "complete", 30)


def test_abort_ends_the_running_snapshot_and_not_the_set_before_it(slow_second):
    m = slow_second
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


def test_abort_ends_a_drain_that_does_not_end(make_mount):
    """Somebody froze the filesystem with a write of ours in it, and the operator has given drains much time."""
    m = make_mount(provider="null", drain_timeout=10)
    fd = os.open(m.mnt / "f", os.O_CREAT | os.O_WRONLY)
    writer = threading.Thread(target=os.write, args=(fd, b"x" * 100), daemon=True)
    run("fsfreeze", "-f", m.scratch.fs)
    try:
        writer.start()
        wait_for("a write in flight", lambda: m.status()["inflight"] != "0")
        assert m.write("snapshot", "one nowait\n") == 0, m.last_error()
        wait_for("the drain", lambda: m.gate() == "closing")
        assert m.write("abort", "1\n") == 0
        m.wait_state("one", "failed")
        assert m.gate() == "open" and writer.is_alive()
    finally:
        run("fsfreeze", "-u", m.scratch.fs)
        writer.join(30)
        os.close(fd)
    assert m.read("snapshots/one/last_error") == "snapshot one: aborted by an operator\n"
    assert (m.back / "f").read_bytes() == b"x" * 100


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


# ---- the command line ----

@pytest.fixture(scope="module")
def site():
    """Directories for starts that are refused; nothing may be mounted by them."""
    s = Scratch()
    for d in ("back", "back/sub", "other", "mnt", "mnt2"):
        (s.fs / d).mkdir()
    (s.dir / "file").touch()
    yield s
    s.close()


def mounts(site):
    """Of this scratch directory, and its control trees."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if site.dir.name in line or site.dir.name[-8:] in line]


def start(site, options="", back="{fs}/back", mnt="{fs}/mnt"):
    def fill(text):
        return text.format(fs=site.fs, dir=site.dir)
    base = fill("name=test-{dir.name},state_dir={dir}/state,log_file={dir}/log")
    return subprocess.run([str(STILLFS), "-o", f"{base},{fill(options)}", fill(back), fill(mnt)], capture_output=True,
                          text=True, timeout=60)


@pytest.mark.parametrize("options,back,mnt,code,words", [
    ("bogus=1", "{fs}/back", "{fs}/mnt", 2, 'unknown option "bogus"'),
    ("bogus", "{fs}/back", "{fs}/mnt", 2, 'unknown option "bogus"'),
    ("gate_timout=3", "{fs}/back", "{fs}/mnt", 2, 'did you mean "gate_timeout"'),
    ("freeze", "{fs}/back", "{fs}/mnt", 2, "write freeze=VALUE"),
    ("ro", "{fs}/back", "{fs}/mnt", 2, "ro is not supported"),
    ("sync", "{fs}/back", "{fs}/mnt", 2, "sync is not supported"),
    ("name=", "{fs}/back", "{fs}/mnt", 2, 'name "": expected'),
    ("name=a/b", "{fs}/back", "{fs}/mnt", 2, 'name "a/b": expected'),
    ("provider=a\nb", "{fs}/back", "{fs}/mnt", 2, "provider=a?b: expected text without control characters"),
    ("pair=x", "{fs}/back", "{fs}/mnt", 2, "expected BACKING:MOUNTPOINT"),
    ("", "{fs}/none", "{fs}/mnt", 1, "No such file or directory; create the directory first"),
    ("", "{dir}/file", "{fs}/mnt", 1, "not a directory"),
    ("", "{dir}/file/x", "{fs}/mnt", 1, "BACKING {dir}/file/x: Not a directory\n"),
    ("", "{fs}/back", "{dir}/file", 1, "not a directory"),
    ("", "{fs}", "{fs}/back", 1, "one lies in the other"),
    ("", "{dir}", "{fs}/mnt", 1, "one lies in the other"),
    ("pair={fs}/back/sub:{fs}/mnt2", "{fs}/back", "{fs}/mnt", 1, "overlap"),
    ("control_dir={dir}/file", "{fs}/back", "{fs}/mnt", 1, "control_dir {dir}/file: not a directory"),
    ("state_dir={dir}/file", "{fs}/back", "{fs}/mnt", 1, "state_dir {dir}/file: not a directory"),
    ("state_dir={fs}/back/s", "{fs}/back", "{fs}/mnt", 1, "lies below"),
    ("log_file={dir}/none/log", "{fs}/back", "{fs}/mnt", 1, "open log_file {dir}/none/log: No such file"),
    ("freeze=yes", "{fs}/back", "{fs}/mnt", 1, "cannot be used with provider=local"),
    ("provider=zfs", "{fs}/back", "{fs}/mnt", 1, "provider=zfs: unknown; this build has: local, ebs, exec"),
    ("db=oracle", "{fs}/back", "{fs}/mnt", 1, "db=oracle: unknown"),
    ("db=mongodb", "{fs}/back", "{fs}/mnt", 1, "db=mongodb needs db.mongodb_uri_file"),
    ("local_dir=rel", "{fs}/back", "{fs}/mnt", 1, "expected an absolute path"),
])
def test_a_wrong_start_is_refused_with_a_sentence_and_leaves_nothing(site, options, back, mnt, code, words):
    before = mounts(site)
    r = start(site, options, back, mnt)
    assert (r.returncode, r.stdout) == (code, ""), r
    assert words.format(dir=site.dir, fs=site.fs) in r.stderr and r.stderr.count("\n") == 1, r.stderr
    assert mounts(site) == before
    assert not os.path.exists(f"/run/stillfs/test-{site.dir.name}")


def test_nobody_but_root_may_start(site):
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(STILLFS), str(site.fs / "back"),
                        str(site.fs / "mnt")], capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (1, "stillfs: stillfs must be started by root\n")


def test_a_filesystem_inside_the_backing_is_refused(site):
    inner = site.fs / "other" / "inner"
    inner.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", inner)
    try:
        r = start(site, "", "{fs}/other")
        assert r.returncode == 1 and f"another filesystem is mounted inside it, on {inner}" in r.stderr, r
    finally:
        run("umount", inner)


@pytest.fixture
def odd():
    """A mount whose paths hold what separates words elsewhere."""
    s = Scratch()
    m = Mount(s, start=False)
    m.back, m.mnt = s.fs / "b k,x", s.dir / "m p,x"
    for d in (m.back, m.back / "sub", m.mnt, s.dir / "mnt2", s.dir / "new\nline"):
        d.mkdir()
    m.start()
    yield m
    m.close()
    s.close()


def test_paths_with_blanks_and_commas_work_and_one_backing_has_one_gate(odd):
    (odd.mnt / "f").write_text("x")
    assert (odd.back / "f").read_text() == "x"
    assert odd.write("snapshot", "one\n") == 0, odd.last_error()
    odd.wait_state("one", "complete")
    assert (odd.scratch.fs / "b k,x.snapshots" / "one" / "data" / "f").read_text() == "x"
    (odd.scratch.fs / "plain").mkdir()
    before = mounts(odd.scratch)
    for back, mnt, words in (
            (odd.back, odd.mnt, "a stillfs is mounted there already"),
            (odd.back, odd.dir / "mnt2", "BACKING is served by the stillfs that is mounted on"),
            (odd.back / "sub", odd.dir / "mnt2", "BACKING is served by"),
            (odd.mnt / "sub", odd.dir / "mnt2", "BACKING lies inside"),
            (odd.scratch.fs / "plain", odd.mnt / "sub", "MOUNTPOINT lies inside"),
            (odd.scratch.fs / "plain", odd.dir / "new\nline", "control character")):
        r = start(odd.scratch, "", str(back), str(mnt))
        assert r.returncode == 1 and words in r.stderr and r.stderr.count("\n") == 1, (r, words)
    assert mounts(odd.scratch) == before


def test_the_callers_descriptors_do_not_live_as_long_as_the_mount(make_mount, scratch):
    """A script that mounts below `flock` would hold its lock until the mount ends."""
    m = make_mount(start=False)
    lock = scratch.dir / "lock"
    r = subprocess.run(["flock", str(lock), *m.argv()], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    m.keeper, m.daemon = int(m.status()["keeper_pid"]), int(m.status()["pid"])
    assert subprocess.run(["flock", "-n", str(lock), "true"]).returncode == 0


def test_mounting_again_at_once_after_umount_works(mount):
    for _ in range(5):
        run("umount", mount.mnt)
        mount.start()
        (mount.mnt / "f").write_text("x")


def test_a_second_one_of_the_same_name_is_refused(mount):
    (mount.scratch.fs / "b2").mkdir()
    (mount.dir / "m2").mkdir()
    r = subprocess.run([*mount.argv()[:-2], str(mount.scratch.fs / "b2"), str(mount.dir / "m2")], capture_output=True,
                       text=True, timeout=60)
    assert r.returncode == 1 and f"another stillfs of this name is running ({mount.dir}/state/lock" in r.stderr


def test_a_dead_mount_is_named_as_one(mount):
    with open(mount.mnt / "f", "w") as f:
        os.kill(mount.keeper, signal.SIGKILL)  # and its daemon dies with it: nobody unmounts
        wait_for("the daemon's end", lambda: is_gone(mount.daemon))
        with pytest.raises(OSError):
            f.write("x")
            f.flush()
        r = mount.try_start()
        assert r.returncode == 1 and f"a dead mount is there; run `umount {mount.mnt}` first" in r.stderr
        r = ctl(mount, "status")
        assert r.returncode == 1 and "has died" in r.stderr
        with pytest.raises(OSError):
            f.close()
    run("umount", mount.mnt)
    run("umount", mount.control)
    mount.start()


# ---- stillctl and texts ----

def ctl(m, *args):
    return subprocess.run([str(STILLCTL), "--dir", str(m.control), *args], capture_output=True, text=True)


def test_stillctl_says_what_is_wrong_with_its_own_arguments(shared_mount):
    for args, code, words in ((["-n", "nope", "status"], 1, "no stillfs answers in /run/stillfs/nope"),
                              (["--dir"], 2, "a value is missing after --dir"),
                              (["-n"], 2, "a value is missing after -n"),
                              (["--bogus"], 2, "unknown option")):
        r = subprocess.run([str(STILLCTL), *args], capture_output=True, text=True)
        assert (r.returncode, r.stdout) == (code, "") and words in r.stderr, r
    for args, code, words in ((["snapshot", "a" * 9000 + "= x"], 1, "longer than a control file takes"),
                              (["snapshot", *[f"tag={i}:{'b' * 200}" for i in range(60)]], 1, "longer than"),
                              (["events", "-x"], 2, "unknown argument"),
                              (["gate", "close", "5"], 1, "expected timeout=SECONDS"),
                              (["show", "../.."], 1, "not a set's name")):
        r = ctl(shared_mount, *args)
        assert r.returncode == code and words in r.stderr, r


def test_what_is_no_utf8_is_refused_and_json_always_parses(mount):
    assert mount.write("snapshot", 'one description="caf\u00e9" tag=k:\u00e9\n') == 0, mount.last_error()
    mount.wait_state("one", "complete")
    for name, text in (("snapshot", b"two description=caf\xe9\n"), ("snapshot", b"two tag=k:\xff\n"),
                       ("snapshots/one/description", b"\xe9\n"), ("snapshots/one/tags", b"k:\xff\n")):
        fd = os.open(mount.control / name, os.O_WRONLY)
        with pytest.raises(OSError) as e:
            os.write(fd, text)
        os.close(fd)
        assert e.value.errno == errno.EINVAL and "UTF-8" in mount.last_error()["message"]
    assert json.loads((mount.control / "list.json").read_bytes())["description"] == "caf\u00e9"


def test_a_sentence_is_one_line_whatever_the_name_is(shared_mount):
    with pytest.raises(OSError) as e:
        os.mkdir(bytes(shared_mount.control / "snapshots") + b"/a\nb\xff")
    assert e.value.errno == errno.EINVAL
    assert shared_mount.last_error()["message"].startswith("mkdir snapshots/a?b?: bad name")


def test_names_in_the_control_tree_are_neither_made_nor_moved(shared_mount):
    m = shared_mount
    for call, args in ((os.rename, ("status", "x")), (os.symlink, ("a", "b")), (os.mkfifo, ("pipe",)),
                       (os.mkdir, ("dir",)), (os.rmdir, ("snapshots",)), (os.unlink, ("gate",))):
        before = m.read("last_error")
        paths = [str(m.control / a) for a in args]
        with pytest.raises(OSError) as e:
            call(*paths)
        assert e.value.errno == errno.EPERM, call
        assert m.last_error()["errno"] == "EPERM" and m.read("last_error") != before


def test_wait_can_be_read_a_byte_at_a_time(shared_mount):
    assert shared_mount.write("snapshot", "bytes\n") == 0, shared_mount.last_error()
    fd = os.open(shared_mount.control / "snapshots" / "bytes" / "wait", os.O_RDONLY)
    assert b"".join(iter(lambda: os.read(fd, 1), b"")) == b"fixed\n"
    os.close(fd)


def test_a_directory_that_a_killed_one_left_is_taken_back(mount):
    mount.stop()
    mount.control.mkdir()
    mount.start()
    mount.stop()
    assert not mount.control.exists()


def test_every_file_and_every_key_of_status_is_documented(shared_mount):
    m = shared_mount
    text = (pathlib.Path(__file__).parents[2] / "docs" / "control-files.md").read_text()
    assert m.write("snapshot", "documented\n") == 0, m.last_error()
    names = [f"{n}/" if (m.control / n).is_dir() else n for n in os.listdir(m.control)]
    names += os.listdir(m.control / "snapshots" / "documented") + [line.split()[0] for line in m.read("status").splitlines()]
    assert [n for n in names if f"`{n}`" not in text] == []
