"""What administrators use sees the mount as it sees the native directory: rsync, tar, cp, du, find, lsof, fuser, setfacl;
many files; fstab."""

import os
import pathlib
import subprocess

import pytest

from stillfs import BUILD, is_gone, run, wait_for
from trees import differences, tree

MOUNT_HELPER = pathlib.Path(__file__).resolve().parents[3] / "tools" / "mount.stillfs"


def populate(d):
    """A tree with everything that the copies have to carry."""
    (d / "sub" / "deep").mkdir(parents=True)
    (d / "sub" / "data").write_bytes(os.urandom(300000))
    (d / "empty").touch()
    os.link(d / "sub" / "data", d / "hard")
    os.symlink("sub/data", d / "soft")
    os.mkfifo(d / "fifo")
    os.mknod(d / "null", 0o20666, os.makedev(1, 3))
    with open(d / "sparse", "wb") as f:
        f.truncate(50 << 20)
        f.seek(20 << 20)
        f.write(b"in the middle")
    (d / ("n" * 255)).write_text("long")
    (d / "ünï").write_text("x")
    os.setxattr(d / "empty", "user.note", b"value")
    os.setxattr(d / "empty", "trusted.note", b"value")
    run("setfacl", "-m", "u:1001:rw,g:2002:r", d / "sub" / "data")
    run("setfacl", "-d", "-m", "u:1001:rwx", d / "sub")
    os.chmod(d / "sub" / "deep", 0o2775)
    os.chown(d / "empty", 1001, 2002)
    os.utime(d / "hard", ns=(10 ** 18 + 7, 10 ** 18 + 123456789))


COPIES = {
    "rsync": lambda a, b: run("rsync", "-aHAX", "--numeric-ids", f"{a}/", f"{b}/"),
    "cp": lambda a, b: run("cp", "-a", "--reflink=auto", f"{a}/.", f"{b}/"),
    "tar": lambda a, b: subprocess.run(
        f"tar -C '{a}' --acls --xattrs --xattrs-include='*' --numeric-owner -Scf - . | tar -C '{b}' --acls --xattrs "
        "--xattrs-include='*' --numeric-owner -xpSf -", shell=True, check=True, capture_output=True),
}


@pytest.mark.parametrize("how", list(COPIES))
def test_copies_into_and_out_of_the_mount_carry_everything(shared_mount, how):
    native, mounted, out = (d / f"copy-{how}" for d in (shared_mount.scratch.fs / "native", shared_mount.mnt,
                                                        shared_mount.scratch.fs / "out"))
    for d in (native, mounted, out):
        d.mkdir(parents=True)
    populate(native)
    COPIES[how](native, mounted)
    COPIES[how](mounted, out)
    assert differences(tree(native), tree(mounted)) == differences(tree(native), tree(out)) == []
    for d in (mounted, out):
        assert os.stat(d / "hard").st_mtime_ns == os.stat(native / "hard").st_mtime_ns
        assert how == "rsync" or os.stat(d / "sparse").st_blocks < 10000, "the holes were filled"
    if how == "rsync":  # a second run finds nothing to do
        assert run("rsync", "-aHAX", "--numeric-ids", "-i", f"{native}/", f"{mounted}/") == ""


def test_du_find_and_stat_agree_with_the_backing(shared_mount):
    d, back = shared_mount.mnt / "agree", shared_mount.back / "agree"
    d.mkdir()
    populate(d)
    wait_for("files to be closed", lambda: shared_mount.status()["closing_files"] == "0")
    wait_for("du to agree", lambda: run("du", "-k", "-a", ".", cwd=d) == run("du", "-k", "-a", ".", cwd=back), 5)
    listing = ["find", ".", "-printf", "%P %i %n %m %U %G %s %y %l %T+ %C+\\n"]
    assert run(*listing, cwd=d) == run(*listing, cwd=back)
    (d / "newer").touch()
    assert run("find", ".", "-newer", "sub/data", "-type", "f", cwd=d) == run("find", ".", "-newer", "sub/data", "-type", "f",
                                                                              cwd=back)


def test_lsof_and_fuser_name_who_uses_the_mount(shared_mount):
    p = shared_mount.mnt / "held"
    with open(p, "w") as f:
        f.write("x")
        f.flush()
        assert str(os.getpid()) in run("lsof", "-t", p).split()
        found = subprocess.run(["fuser", str(p)], capture_output=True, text=True)
        assert str(os.getpid()) in found.stdout.split()
    assert subprocess.run(["fuser", str(p)], capture_output=True).returncode == 1


@pytest.mark.limit(900 if os.environ.get("STILLFS_ALL") else 60)
def test_a_directory_of_many_files_is_listed_whole_and_removed(shared_mount):
    n = int(os.environ.get("STILLFS_MANY_FILES", "100000" if os.environ.get("STILLFS_ALL") else "5000"))
    d = shared_mount.mnt / "many"
    d.mkdir()
    fd = os.open(d, os.O_RDONLY)
    for i in range(n):
        os.close(os.open(f"file-{i:07d}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.close(fd)
    names = os.listdir(d)
    assert len(names) == n and set(names) == {f"file-{i:07d}" for i in range(n)}
    status = shared_mount.status()
    assert int(status["node_fds"]) <= int(status["node_fds_limit"]) + 64
    run("rm", "-rf", d)
    assert not (shared_mount.back / "many").exists()


def test_mount_reads_fstabs_options(make_mount):
    """As mount(8) calls the helper for a line of fstab: with what it adds, and with what systemd reads in it."""
    m = make_mount(start=False)
    options = ",".join(["rw", "_netdev", "nofail", "noauto", "x-systemd.before=mariadb.service",
                        "x-systemd.requires-mounts-for=/data", "x-initrd.mount", "comment=orders"] +
                       [f"{k}={v}" for k, v in m.options.items()])
    r = subprocess.run([str(MOUNT_HELPER), str(m.back), str(m.mnt), "-n", "-o", options], capture_output=True, text=True,
                       env={**m.env, "STILLFS": str(BUILD / "fs" / "stillfs")})
    assert r.returncode == 0 and r.stderr == "", r.stderr
    m.keeper, m.daemon = int(m.status()["keeper_pid"]), int(m.status()["pid"])
    (m.mnt / "f").write_text("through fstab")
    assert (m.back / "f").read_text() == "through fstab"
    run("umount", m.mnt)
    wait_for("the end of stillfs", lambda: is_gone(m.keeper))
    r = subprocess.run([str(MOUNT_HELPER), str(m.back), str(m.mnt), "-o", "_netdev,no-such-option=1"], capture_output=True,
                       text=True, env={**m.env, "STILLFS": str(BUILD / "fs" / "stillfs")})
    assert r.returncode != 0 and "no-such-option" in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr
    assert pathlib.Path("/proc/mounts").read_text().count(f" {m.mnt} ") == 0
