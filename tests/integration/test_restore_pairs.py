"""stillctl restore of sets with several pairs: each pair's clone lies in a place of its own, and has a mount of its own."""

import contextlib
import fcntl
import os
import subprocess

import pytest

from stillfs import STILLCTL, Scratch, process_state, wait_for
from test_restore import ctl, everything, take


@pytest.fixture
def other():
    s = Scratch(size_mb=330)
    yield s
    s.close()


@pytest.fixture
def pairs(other, make_mount, scratch):
    """pairs(FS, OPTIONS): a started mount with a second pair, of FS/redo at m.redo; both have a file f."""
    def make(fs=scratch.fs, **options):
        m = make_mount(start=False, **options)
        m.redo = m.dir / "redo"
        m.redo.mkdir()
        (fs / "redo").mkdir()
        m.more_pairs = [(fs / "redo", m.redo)]
        m.start()
        (m.mnt / "f").write_text("data")
        (m.redo / "f").write_text("redo")
        return m
    return make


def set_of(m, fs, name="one"):
    """The set's directory in the place of the second pair."""
    return fs / "redo.snapshots" / name


@contextlib.contextmanager
def held(directory, how):
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def files_of(m):
    """Of both mounts, without the roots' times: those are of the position file."""
    both = everything(m.mnt), everything(m.redo)
    return [e | {".": e["."][:3]} for e in both]


def refused(r, *words):
    assert r.returncode == 1 and all(w in r.stderr for w in words) and "restored" not in r.stdout, r


def test_each_pair_of_a_set_is_really_restored(pairs):
    m = pairs()
    (m.redo / "sub").mkdir()
    (m.redo / "sub" / "g").write_text("g")
    take(m, "one")
    to = m.scratch.fs / "new"
    r = ctl(m, "restore", "one", "--to", to, "--verify")
    assert r.returncode == 0 and "5 files" in r.stdout, r  # two of them .stillfs-position
    assert sorted(p.name for p in to.iterdir()) == ["0-mnt", "1-redo"]
    assert not any(p.is_symlink() for p in to.iterdir())
    assert everything(to / "1-redo").keys() == {".", "f", "sub", "sub/g"}
    (to / "1-redo" / "f").write_text("mine")
    assert (set_of(m, m.scratch.fs) / "data/1-redo/f").read_text() == "redo"
    assert list(m.scratch.fs.glob("*restoring*")) == []


def test_pairs_on_several_filesystems_are_restored_with_copy_alone(pairs, other):
    m = pairs(other.fs)
    take(m, "one")
    to = m.scratch.fs / "new"
    refused(ctl(m, "restore", "one", "--to", to), "add --copy")
    assert not to.exists() and list(m.scratch.fs.glob("*restoring*")) == []
    r = ctl(m, "restore", "one", "--to", to, "--copy", "--verify")
    assert r.returncode == 0 and (to / "1-redo" / "f").read_text() == "redo" and not (to / "1-redo").is_symlink(), r
    refused(ctl(m, "restore", "one", "--to", other.fs / "redo.snapshots" / "x", "--copy"), "lies among the sets")


def test_verify_checks_what_was_restored(pairs, scratch):
    """sha256sum sees the file of the second pair in the new directory, where something else has changed it."""
    m = pairs()
    take(m, "one")
    tools = scratch.dir / "tools"
    tools.mkdir()
    (tools / "sha256sum").write_text("#!/bin/sh\necho changed > 1-redo/f\nexec /usr/bin/sha256sum \"$@\"\n")
    (tools / "sha256sum").chmod(0o755)
    r = subprocess.run([str(STILLCTL), "--dir", str(m.control), "restore", "one", "--to", str(scratch.fs / "new"), "--verify"],
                       capture_output=True, text=True, env=dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}"))
    refused(r, "not what the set's manifest says")
    assert not (scratch.fs / "new").exists()
    assert (set_of(m, scratch.fs) / "data/1-redo/f").read_text() == "redo"


def test_pairs_that_share_a_second_place_are_all_restored(make_mount, scratch):
    m = make_mount(start=False, local_dir=f"{scratch.fs}/a,local_dir={scratch.fs}/b,local_dir={scratch.fs}/b")
    for name in ("redo", "undo"):
        (scratch.fs / name).mkdir()
        (scratch.dir / name).mkdir()
        m.more_pairs.append((scratch.fs / name, scratch.dir / name))
    m.start()
    for d in (m.mnt, *(p for _, p in m.more_pairs)):
        (d / "f").write_text(d.name)
    take(m, "one")
    r = ctl(m, "restore", "one", "--to", scratch.fs / "new", "--verify")
    assert r.returncode == 0, r
    assert [(scratch.fs / "new" / d / "f").read_text() for d in ("0-mnt", "1-redo", "2-undo")] == ["mnt", "redo", "undo"]


@pytest.mark.parametrize("kind", ["other name", "other set", "no set", "nothing", "relative"])
def test_a_link_that_leads_elsewhere_is_refused(pairs, scratch, kind):
    m = pairs()
    take(m, "one")
    take(m, "two")
    link = scratch.fs / "back.snapshots/one/data/1-redo"
    link.unlink()
    if kind == "other name":
        link.symlink_to(set_of(m, scratch.fs, "two") / "data/1-redo")
    elif kind == "other set":
        os.rename(set_of(m, scratch.fs), scratch.fs / "away")
        os.rename(set_of(m, scratch.fs, "two"), set_of(m, scratch.fs))
        link.symlink_to(set_of(m, scratch.fs) / "data/1-redo")
    elif kind == "no set":
        link.symlink_to(scratch.fs / "redo")
    elif kind == "relative":
        link.symlink_to("../../../redo.snapshots/one/data/1-redo")
    for how in (["--to", scratch.fs / "new"], ["--in-place"]):
        refused(ctl(m, "restore", "one", *how), "1-redo" if kind != "other set" else "redo.snapshots/one")
    assert not (scratch.fs / "new").exists() and (m.redo / "f").read_text() == "redo"
    assert len(os.listdir(m.control / "snapshots")) == 2


def test_every_pairs_data_is_held(pairs, other):
    """The mkdir of the new directory waits on a frozen filesystem, so the set is found and held by then."""
    m = pairs()
    take(m, "one")
    take(m, "two")
    subprocess.run(["fsfreeze", "-f", other.fs], check=True)
    try:
        p = subprocess.Popen([str(STILLCTL), "--dir", str(m.control), "restore", "one", "--to", str(other.fs / "new"), "--copy"])
        wait_for("the restore to stand", lambda: process_state(p.pid) == "D")
        os.rmdir(m.control / "snapshots" / "one")
        wait_for("the refusal", lambda: "being restored" in m.read("last_error"))
        assert (set_of(m, m.scratch.fs) / "data/1-redo/f").read_text() == "redo"
        assert m.state("one") == "complete"  # nothing of it has gone
    finally:
        subprocess.run(["fsfreeze", "-u", other.fs], check=True)
    assert p.wait(60) == 0
    assert (other.fs / "new/1-redo/f").read_text() == "redo"


def test_a_set_that_is_being_removed_is_not_restored(pairs, scratch):
    m = pairs()
    take(m, "one")
    with held(set_of(m, scratch.fs), fcntl.LOCK_EX):
        for how in (["--to", scratch.fs / "new"], ["--in-place"]):
            refused(ctl(m, "restore", "one", *how), "redo.snapshots/one", "cannot be held")
    assert not (scratch.fs / "new").exists() and os.listdir(m.control / "snapshots") == ["one"]


def test_data_that_goes_meanwhile_does_not_empty_the_mount(pairs, scratch):
    """Somebody removes it by hand while the state as it is is being kept."""
    hook = scratch.dir / "hook"
    hook.write_text(f"#!/bin/sh\n[ ! -e {scratch.dir}/go ] || rm -rf {scratch.fs}/redo.snapshots/one\n")
    hook.chmod(0o755)
    m = pairs(hook__pre=hook)
    take(m, "one")
    before = files_of(m)
    (scratch.dir / "go").touch()
    refused(ctl(m, "restore", "one", "--in-place"), "1-redo", "nothing was restored")
    assert files_of(m) == before


def test_the_state_that_is_kept_has_its_roots_owners_and_modes(pairs):
    m = pairs()
    for i, d in enumerate((m.mnt, m.redo)):
        os.chown(d, 1000 + i, 2000 + i)
        os.chmod(d, 0o750 + i)
    take(m, "one")
    (m.redo / "f").write_text("later")
    before = files_of(m)
    assert ctl(m, "restore", "one", "--in-place").returncode == 0
    kept = next(n for n in os.listdir(m.control / "snapshots") if n.startswith("before-restore-"))
    r = ctl(m, "restore", kept, "--in-place")
    assert r.returncode == 0, r
    assert files_of(m) == before


def again(m, *pairs):
    """The same stillfs with other pairs."""
    m.stop()
    (m.back, m.mnt), *m.more_pairs = pairs
    m.start()


@pytest.mark.parametrize("how", ["one", "swapped", "moved", "more"])
def test_a_set_of_other_pairs_is_not_restored_in_place(pairs, scratch, how):
    m = pairs(local_dir=scratch.fs / "sets")
    take(m, "one")
    first, second = (m.back, m.mnt), (scratch.fs / "redo", m.redo)
    (scratch.dir / "third").mkdir()
    (scratch.fs / "third").mkdir()
    third = (scratch.fs / "third", scratch.dir / "third")
    again(m, *{"one": (first,), "swapped": (second, first), "moved": (first, (second[0], third[1])),
               "more": (first, second, third)}[how])
    before = {d: everything(d) for d in (m.mnt, *(p for _, p in m.more_pairs))}
    r = ctl(m, "restore", "one", "--in-place")
    refused(r, f"the set is of {first[1]}, {second[1]}, and the mount of", ", ".join(str(d) for d in before), "nothing was changed")
    assert {d: everything(d) for d in before} == before
    assert os.listdir(m.control / "snapshots") == ["one"]


def test_a_set_of_one_pair_goes_where_its_mountpoint_has_moved(mount):
    m = mount
    (m.mnt / "f").write_text("1")
    take(m, "one")
    (m.dir / "moved").mkdir()
    again(m, (m.back, m.dir / "moved"))
    (m.mnt / "f").write_text("2")
    r = ctl(m, "restore", "one", "--in-place")
    assert r.returncode == 0 and (m.mnt / "f").read_text() == "1", r
