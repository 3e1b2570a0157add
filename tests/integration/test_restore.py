"""stillctl restore: into a new directory with everything that a file is, in place with the database down, and what it says."""

import os
import pathlib
import shutil
import struct
import subprocess

import pytest

from mariadb import MariaDB
from stillfs import STILLCTL, Mount, Scratch, run


def ctl(m, *args):
    return subprocess.run([str(STILLCTL), "--dir", str(m.control), *map(str, args)], capture_output=True, text=True)


def take(m, name):
    assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
    m.wait_state(name, "complete", 40)


def everything(directory):
    """name -> kind, mode, owner, times, size, content or target, extended attributes."""
    out = {}
    for p in sorted([directory, *directory.rglob("*")]):
        st = p.lstat()
        what = os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else ""
        xattrs = {} if p.is_symlink() else {k: os.getxattr(p, k) for k in os.listxattr(p)}
        out[str(p.relative_to(directory))] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, what, xattrs)
    out.pop(".stillfs-position", None)
    return out


def odd_files(d):
    (d / "sub" / "deep").mkdir(parents=True)
    (d / "sub" / "deep" / "f").write_bytes(b"x" * 100000)
    (d / "one").write_text("1")
    os.link(d / "one", d / "sub" / "two")
    (d / "link").symlink_to("sub/deep/f")
    os.mkfifo(d / "pipe")
    os.setxattr(d / "one", "user.note", b"\x00\x01")
    os.chown(d / "sub", 1234, 4321)
    os.chmod(d / "sub", 0o2751)
    os.chown(d / "sub" / "deep" / "f", 1111, 2222)
    os.chmod(d / "sub" / "deep" / "f", 0o604)
    for p in (d / "one", d / "sub" / "deep" / "f", d / "sub" / "deep", d / "sub"):
        os.utime(p, ns=(10**18 + 7, 10**18 + 9))


def test_to_a_new_directory_everything_is_as_it_was(mount):
    m = mount
    odd_files(m.mnt)
    before = everything(m.mnt)
    take(m, "one")
    (m.mnt / "one").write_text("changed since")
    to = m.scratch.fs / "restored"
    r = ctl(m, "restore", "one", "--to", to, "--verify")
    assert r.returncode == 0 and f"restored one to {to}" in r.stdout, r
    after = everything(to)
    after["."], before["."] = after["."][:3], before["."][:3]
    assert after == before
    assert (to / "one").stat().st_ino == (to / "sub" / "two").stat().st_ino
    assert list(m.scratch.fs.glob("*restoring*")) == []
    (to / "one").write_text("mine")
    assert (pathlib.Path(os.readlink(m.control / "snapshots/one/data")) / "one").read_text() == "1"


def test_what_is_refused_says_why_and_leaves_nothing(mount):
    m = mount
    (m.mnt / "f").write_text("x")
    take(m, "one")
    (m.scratch.fs / "full").mkdir()
    (m.scratch.fs / "full" / "f").write_text("mine")
    for args, code, words in (
            (["one"], 2, "usage"), (["one", "--to"], 2, "unknown argument"), (["--to", "/x"], 2, "usage"),
            (["one", "--in-place", "--to", "/x"], 2, "usage"), (["one", "--what"], 2, "unknown argument"),
            (["none", "--to", m.scratch.fs / "x"], 1, "no such set: none"),
            (["one", "--to", "rel"], 1, "expected an absolute path"),
            (["one", "--to", m.scratch.fs / "none" / "x"], 1, "parent must exist"),
            (["one", "--to", m.scratch.fs / "full"], 1, "not an empty directory"),
            (["one", "--to", m.back / "x"], 1, "lies in the live one"), (["one", "--to", m.mnt / "x"], 1, "lies in the live one"),
            (["one", "--to", m.scratch.fs / "back.snapshots" / "x"], 1, "lies among the sets"),
            (["one", "--to", m.dir / "x"], 1, "add --copy")):
        r = ctl(m, "restore", *args)
        assert r.returncode == code and words in r.stderr and r.stdout == "", (args, r)
    assert (m.scratch.fs / "full" / "f").read_text() == "mine"
    assert not any("restoring" in p.name or p.name == "x" for d in (m.dir, m.scratch.fs, m.mnt) for p in d.iterdir())
    r = ctl(m, "restore", "one", "--to", m.dir / "x", "--copy")
    assert r.returncode == 0 and (m.dir / "x" / "f").read_text() == "x", r


def test_verify_refuses_a_set_that_has_changed(mount):
    m = mount
    (m.mnt / "f").write_text("x")
    take(m, "one")
    (pathlib.Path(os.readlink(m.control / "snapshots/one/data")) / "f").write_text("y")
    r = ctl(m, "restore", "one", "--to", m.scratch.fs / "x", "--verify")
    assert r.returncode == 1 and "nothing was restored" in r.stderr and not (m.scratch.fs / "x").exists(), r


def test_removal_waits_for_a_restore(mount):
    """The lock that a restore holds: a deleted set's data stays until it is gone."""
    import fcntl
    m = mount
    (m.mnt / "f").write_text("x")
    take(m, "one")
    take(m, "two")
    data = pathlib.Path(os.readlink(m.control / "snapshots/one/data"))
    fd = os.open(data.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    os.rmdir(m.control / "snapshots" / "one")
    from stillfs import wait_for
    wait_for("the refusal", lambda: "being restored" in m.read("last_error"))
    assert (data / "f").read_text() == "x"
    os.close(fd)


def test_in_place_makes_the_mount_as_it_was_and_keeps_what_it_was_before(mount):
    m = mount
    odd_files(m.mnt)
    (m.mnt / "big").write_bytes(os.urandom(3 << 20))
    os.chown(m.mnt, 1000, 1001)
    os.chmod(m.mnt, 0o750)
    before = everything(m.mnt)
    take(m, "one")
    (m.mnt / "one").write_text("changed since")
    with open(m.mnt / "big", "r+b") as f:
        f.seek(2 << 20)
        f.write(b"other")
        f.truncate(4 << 20)
    shutil.rmtree(m.mnt / "sub")
    (m.mnt / "sub").write_text("a file where a directory was")
    (m.mnt / "new").mkdir()
    (m.mnt / "new" / "x").write_text("x")
    (m.mnt / "link").unlink()
    changed = everything(m.mnt)
    with open(m.mnt / "one") as f:
        r = ctl(m, "restore", "one", "--in-place")
        assert r.returncode == 1 and "files are open in the mount" in r.stderr, r
    assert everything(m.mnt) == changed
    r = ctl(m, "restore", "one", "--in-place")
    assert r.returncode == 0 and "restored one in place" in r.stdout, r.stderr
    after = everything(m.mnt)
    now = dict(after)
    after["."], before["."] = after["."][:3], before["."][:3]  # its time is that of the position file
    assert {k: v for k, v in after.items() if k != "sub/two"} == {k: v for k, v in before.items() if k != "sub/two"}
    assert after["sub/two"][4] == "1".encode()
    kept = next(p for p in (m.control / "snapshots").iterdir() if p.name.startswith("before-restore-"))
    assert (kept / "pin").read_text() == "yes\n" and f"set {kept.name}, pinned" in r.stdout
    data = pathlib.Path(os.readlink(kept / "data"))
    assert (data / "one").read_text() == "changed since" and (data / "new" / "x").read_text() == "x"
    assert everything(data)["."][:3] == changed["."][:3]
    assert everything(m.back) == now


def test_a_state_that_cannot_be_kept_is_not_restored_over_and_leaves_no_set(make_mount, scratch):
    hook, full = scratch.dir / "hook", scratch.dir / "full"
    hook.write_text(f"#!/bin/sh\n[ ! -e {full} ] || {{ echo the tape is full >&2; exit 1; }}\n")
    hook.chmod(0o755)
    m = make_mount(hook__pre=hook)
    (m.mnt / "f").write_text("1")
    take(m, "one")
    (m.mnt / "f").write_text("2")
    full.touch()
    before = everything(m.mnt)
    r = ctl(m, "restore", "one", "--in-place")
    assert r.returncode == 1 and "the tape is full" in r.stderr and "nothing was restored" in r.stderr, r
    assert everything(m.mnt) == before
    assert os.listdir(m.control / "snapshots") == ["one"]
    full.unlink()
    assert ctl(m, "restore", "one", "--in-place").returncode == 0
    assert (m.mnt / "f").read_text() == "1"


def acl(*named):
    """An ACL as the kernel has it, with these users besides owner, group and others."""
    entries = [(1, 7, -1), *((2, 7, uid) for uid in named), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)


def attributes(directory):
    """name -> mode and extended attributes, of the root too."""
    all_of = (p for p in [directory, *directory.rglob("*")] if p.name != ".stillfs-position")
    return {str(p.relative_to(directory)): (p.stat().st_mode, {k: os.getxattr(p, k) for k in os.listxattr(p)}) for p in all_of}


def test_directories_have_the_attributes_that_they_had_and_no_others(mount):
    m = mount
    for d in ("sub", "sub/plain", "bare"):
        (m.mnt / d).mkdir()
        (m.mnt / d / "f").write_text(d)
    for d in ("", "sub"):
        os.setxattr(m.mnt / d, "user.note", b"of " + d.encode())
        os.setxattr(m.mnt / d, "trusted.note", b"x" * 5000)
        os.setxattr(m.mnt / d, "system.posix_acl_default", acl(1234))
        os.setxattr(m.mnt / d, "system.posix_acl_access", acl(1234, 5678))
    before = attributes(m.mnt)
    assert before["."][1]["user.note"] == b"of " and before["bare"][1] == {}
    take(m, "one")
    for d in ("", "sub"):
        os.removexattr(m.mnt / d, "user.note")
        os.removexattr(m.mnt / d, "system.posix_acl_default")
    for d in ("", "bare", "bare/f", "sub/plain"):
        os.setxattr(m.mnt / d, "user.later", b"1")
    os.setxattr(m.mnt / "bare", "system.posix_acl_default", acl(99))
    os.setxattr(m.mnt / "bare" / "f", "system.posix_acl_access", acl(99))
    (m.mnt / "sub" / "plain" / "f").unlink()
    parent = m.scratch.fs / "parent"
    parent.mkdir()
    os.setxattr(parent, "system.posix_acl_default", acl(77))
    r = ctl(m, "restore", "one", "--to", parent / "new")
    assert r.returncode == 0 and attributes(parent / "new") == before, r
    r = ctl(m, "restore", "one", "--in-place")
    assert r.returncode == 0 and attributes(m.mnt) == before, r


@pytest.fixture
def failing(mount, scratch):
    """failing(CALL, DIR, ARGUMENT...): stillctl, for which CALL about DIR fails with EIO."""
    if "san.so" in run("ldd", STILLCTL):
        pytest.skip("a sanitizer wants to be the first library")
    library = scratch.dir / "fail_dir.so"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library,
                    pathlib.Path(__file__).parents[1] / "harness" / "fail_dir.c"], check=True)

    def ctl_failing(call, directory, *args):
        env = dict(os.environ, LD_PRELOAD=str(library), FAIL_CALL=call, FAIL_DIR=str(directory))
        return subprocess.run([str(STILLCTL), "--dir", str(mount.control), *map(str, args)], capture_output=True, text=True, env=env)
    return ctl_failing


@pytest.mark.parametrize("call,where", [("fstatat", "set"), ("readdir", "set"), ("readdir", "mount"), ("readdir", "removed")])
def test_a_disk_that_fails_removes_nothing_and_is_no_success(mount, failing, call, where):
    m = mount
    for name in "abc":
        (m.mnt / "sub").mkdir(exist_ok=True)
        (m.mnt / "sub" / name).write_text(name)
    take(m, "one")
    for d in ("sub", "new"):
        (m.mnt / d).mkdir(exist_ok=True)
        for name in "xyz":
            (m.mnt / d / name).write_text(name)
    directory = {"set": "/one/data/sub", "mount": m.mnt / "sub", "removed": m.mnt / "new"}[where]
    r = failing(call, directory, "restore", "one", "--in-place")
    assert r.returncode == 1 and "Input/output error" in r.stderr and "half restored" in r.stderr, r
    assert all((m.mnt / "sub" / name).read_text() == name for name in "abc")
    r = ctl(m, "restore", "one", "--in-place")
    assert r.returncode == 0 and sorted(os.listdir(m.mnt / "sub")) == ["a", "b", "c"] and not (m.mnt / "new").exists(), r


@pytest.fixture
def server():
    s = Scratch(size_mb=900)
    m = Mount(s, start=False, db="mysql", db__socket=s.dir / "db" / "sock")
    m.start()
    db = MariaDB(s.dir / "db", m.mnt).start()
    yield m, db
    db.stop()
    m.close()
    s.close()


def test_a_replica_starts_from_the_statement_that_restore_prints(server):
    m, db = server
    db.query("CREATE DATABASE t")
    db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    db.query("INSERT INTO t.a (v) VALUES (1), (2)")
    take(m, "one")
    db.query("INSERT INTO t.a (v) VALUES (3)")
    r = ctl(m, "restore", "one", "--to", m.scratch.fs / "new")
    assert r.returncode == 0, r
    assert "not verified" in r.stdout and "server_id of its own; that of the set is 1" in r.stdout
    p = dict(line.split(" ", 1) for line in m.read("snapshots/one/position").splitlines())
    assert f"SET GLOBAL gtid_slave_pos = '{p['gtid_binlog_pos']}'" in r.stdout
    assert f"MASTER_LOG_FILE='{p['binlog_file']}', MASTER_LOG_POS={p['binlog_pos']}, MASTER_USE_GTID=no;" in r.stdout
    db2 = MariaDB(m.dir / "db2", m.scratch.fs / "new", server_id=2, install=False)
    try:
        db2.start("--skip-slave-start")
        assert db2.query("SELECT v FROM t.a ORDER BY id") == ((1,), (2,))
        for statement in r.stdout.split("server it was taken from:")[1].split(";\n")[:1]:
            db2.query(" ".join(statement.split()))
        assert db2.query("SELECT @@gtid_slave_pos")[0][0] == p["gtid_binlog_pos"]
        replay = subprocess.run(["mariadb-binlog", "--no-defaults", f"--start-position={p['binlog_pos']}",
                                 str(m.mnt / p["binlog_file"])], capture_output=True, check=True).stdout
        run_sql = subprocess.run(["mariadb", "--no-defaults", "-uroot", f"--socket={db2.socket}"], input=replay,
                                 capture_output=True)
        assert run_sql.returncode == 0, run_sql
        assert db2.query("CHECKSUM TABLE t.a") == db.query("CHECKSUM TABLE t.a")
    finally:
        db2.stop()
