"""A set of provider ebs on another host: found with nothing but keys, made into volumes, attached, mounted, copied.
The volumes are loop devices, see tests/harness/cloud.py."""

import contextlib
import glob
import os
import pathlib
import shutil
import subprocess

import pytest

from cloud import cloud, make_cloud, snapshot, tags_of  # noqa: F401
from stillfs import STILLCTL, wait_for
from test_takeover import children


def cmdlines():
    for p in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield p.read_bytes()


def cmdline(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def ctl(cloud, *args, env=None):  # noqa: F811
    return subprocess.run([str(STILLCTL), "--provider", "ebs", "--region", "us-east-1", *map(str, args)], capture_output=True, text=True,
                          env={**cloud.elsewhere(), **(env or {})}, timeout=55)


@pytest.fixture
def taken(cloud, make_mount, scratch):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    (m.mnt / "before").write_text("1")
    assert snapshot(m, "one") == 0
    (m.mnt / "after").write_text("2")
    m.wait_state("one", "complete")
    yield m
    for path in (scratch.dir / "there", scratch.dir / "there.1"):
        subprocess.run(["umount", str(path)], capture_output=True)
    wait_for("the end of all directories of commands, also of those of others who test", lambda: not glob.glob("/tmp/stillctl.*"))


def left(cloud):  # noqa: F811
    """Volumes that were made and are there."""
    return len(cloud.sent("CreateVolume")) - len(cloud.sent("DeleteVolume"))


def test_another_machine_lists_shows_and_restores_with_nothing_but_keys(cloud, taken, scratch):  # noqa: F811
    r = ctl(cloud, "list")
    assert r.returncode == 0 and "one   manual" in r.stdout and " complete " in r.stdout, r
    r = ctl(cloud, "show", "one", "--lineage", taken.status()["lineage"])
    assert r.returncode == 0 and taken.read("snapshots/one/id").strip() in r.stdout, r
    there = scratch.dir / "there"
    r = ctl(cloud, "restore", "one", "--az", "us-east-1a", "--type", "io2", "--iops", 4000, "--init-rate", 200, "--attach", "/dev/sdg",
            "--mount", there, "--read-all", "--delete-on-termination")
    assert r.returncode == 0, r
    made, = cloud.sent("CreateVolume")
    volume = cloud.sent("AttachVolume")[0]["VolumeId"]
    assert (made["SnapshotId"], made["VolumeType"], made["Iops"], made["VolumeInitializationRate"], made["AvailabilityZone"]) == \
        (cloud.made[0], "io2", "4000", "200", "us-east-1a")
    assert made["ClientToken"] and tags_of(made)["stillfs:restored-from"] == taken.read("snapshots/one/id").strip()
    assert cloud.sent("ModifyInstanceAttribute")[0]["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    loop = cloud.proxy.loops[volume][0]
    assert r.stdout.splitlines() == [f"path {taken.mnt} {there}/back", f"volume {cloud.made[0]} {volume} {loop}"]
    assert "100 %" in r.stderr
    assert (there / "back" / "before").read_text() == "1" and not (there / "back" / "after").exists()


def test_directories_that_found_no_room_in_the_tags_are_told_of(cloud, make_mount, scratch):  # noqa: F811
    """When the set is taken, and when it is restored: the others lie on the volumes, and nothing says where."""
    m = make_mount(start=False, env=cloud.env, **cloud.options)
    for i in range(1, 8):
        (scratch.fs / f"b{i}").mkdir()
        (m.dir / f"m{i}").mkdir()
        m.more_pairs.append((scratch.fs / f"b{i}", m.dir / f"m{i}"))
    m.start()
    assert snapshot(m, "one pin") == 0
    m.wait_state("one", "complete")
    form, = cloud.sent("CreateSnapshot")
    tags = tags_of(form)
    n = sum(k.startswith("stillfs:pair.") for k in tags)
    assert n == 6 and tags["stillfs:pair.5"].endswith(";of=8") and sum(k.startswith("stillfs:") for k in tags) <= 20, tags
    assert "where 2 of the 8 directories lie is not in the tags" in m.read("snapshots/one/log"), m.read("snapshots/one/log")
    there = scratch.dir / "there"
    r = ctl(cloud, "restore", "one", "--az", "us-east-1a", "--attach", "/dev/sdg", "--mount", there)
    try:
        assert r.returncode == 0 and r.stdout.count("path ") == 6, r
        assert "the set has 8 directories, and its tags say where 6 of them are: the others are not named above" in r.stderr, r
    finally:
        for line in r.stdout.splitlines():
            if line.startswith("path "):
                subprocess.run(["umount", line.split()[2]], capture_output=True)
        for path in (there, *(scratch.dir / f"there.{i}" for i in range(8))):
            subprocess.run(["umount", str(path)], capture_output=True)


def test_a_command_that_is_killed_leaves_no_stillfs(cloud, taken):  # noqa: F811
    p = subprocess.Popen([str(STILLCTL), "--provider", "ebs", "--region", "us-east-1", "events", "--follow"], env=cloud.elsewhere(),
                         stdout=subprocess.DEVNULL)
    base = wait_for("its tree", lambda: [d for d in map(pathlib.Path, glob.glob("/tmp/stillctl.*")) if (d / "tree" / "version").exists()
                                         and any(f"{d}/state".encode() in cmdline(c) for c in children(p.pid))])[0]
    served = f"{base}/state".encode()
    try:
        wait_for("the command", lambda: len(children(p.pid)) == 2)
    finally:
        p.kill()
        p.wait()
    wait_for("the end of its stillfs", lambda: not (base / "tree").exists())
    wait_for("its processes' end", lambda: not [c for c in cmdlines() if served in c])
    shutil.rmtree(base)


def test_what_a_failed_restore_made_is_deleted_and_nothing_else(cloud, taken, scratch):  # noqa: F811
    there = scratch.dir / "there"
    bad = scratch.dir / "bin"
    bad.mkdir()
    (bad / "mount").write_text("#!/bin/sh\necho no >&2; exit 32\n")
    (bad / "mount").chmod(0o755)
    r = ctl(cloud, "restore", "one", "--attach", "/dev/sdg", "--mount", there, env={"PATH": f"{bad}:{os.environ['PATH']}"})
    assert r.returncode == 1 and "mount failed, see above" in r.stderr, r
    volume = cloud.sent("AttachVolume")[0]["VolumeId"]
    assert [f["VolumeId"] for f in cloud.sent("DetachVolume") + cloud.sent("DeleteVolume")] == [volume, volume]
    cloud.faults["AttachVolume"] = ["denied"]
    r = ctl(cloud, "restore", "one", "--attach", "/dev/sdg")
    assert r.returncode == 1 and "AttachVolume: AWS answered UnauthorizedOperation" in r.stderr and left(cloud) == 0, r
    assert not cloud.sent("DeleteSnapshot") and len(cloud.sent("DetachVolume")) == 1


def test_a_volume_whose_key_may_not_be_used_is_reported_and_the_rest_deleted(cloud, taken):  # noqa: F811
    """AWS makes it, and then it fails or goes away again."""
    for answers, words in ((["as creating", "gone"], "has gone again"), (["as creating", "as error"], "failed")):
        cloud.faults["DescribeVolumes"] = answers
        r = ctl(cloud, "restore", "one", "--attach", "/dev/sdg")
        assert r.returncode == 1 and words in r.stderr and "allow kms:CreateGrant" in r.stderr and left(cloud) == 0, r
    assert not cloud.sent("AttachVolume")
    r = ctl(cloud, "restore", "one", "--attach", "/dev/sdg")
    assert r.returncode == 0 and "the volumes stay when the instance ends (DeleteOnTermination false)" in r.stderr, r


def test_restore_refuses_what_cannot_work_before_anything_is_made(cloud, taken):  # noqa: F811
    for args, code, words in ((["none"], 1, "no such set: none"), (["one", "--bogus"], 2, "unknown argument --bogus"),
                              (["one", "--mount", "/x"], 2, "need --attach DEVICE"), (["one", "--iops", "x"], 2, "--iops x: expected a number"),
                              (["one", "--attach", "/dev/sdg", "--az", "us-east-1b"], 2, "this instance is in us-east-1a"),
                              (["one", "--attach", "sdg"], 2, "expected a name like /dev/sdg")):
        r = ctl(cloud, "restore", *args)
        assert r.returncode == code and words in r.stderr, r
    assert not cloud.sent("CreateVolume")


def test_a_set_is_copied_with_its_record_and_listed_there(cloud, taken):  # noqa: F811
    r = ctl(cloud, "copy", "one", "--to-region", "us-west-2", "--kms-key", "alias/backup")
    assert r.returncode == 0, r
    form, = cloud.sent("CopySnapshot")
    assert (form["SourceRegion"], form["SourceSnapshotId"], form["KmsKeyId"], form["Encrypted"]) == \
        ("us-east-1", cloud.made[0], "alias/backup", "true")
    tags = tags_of(form)
    assert tags["stillfs:copied-from"] == f"us-east-1 {cloud.made[0]}" and tags["stillfs:volume"] == cloud.volumes[0]
    assert tags["stillfs:id"] == taken.read("snapshots/one/id").strip() and tags["stillfs:member"] == "1 of 1"
    r = subprocess.run([str(STILLCTL), "--provider", "ebs", "--region", "us-west-2", "list"], capture_output=True, text=True,
                       env=cloud.elsewhere(), timeout=50)
    assert r.returncode == 0 and "one   manual" in r.stdout and " complete " in r.stdout, r
    r = ctl(cloud, "copy", "one", "--to-region", "us-west-2")
    assert r.returncode == 1 and "us-west-2 has 1 snapshots of this set already" in r.stderr, r
    r = ctl(cloud, "copy", "one", "--to-region", "us-east-1")
    assert r.returncode == 2 and "the set is in us-east-1 already" in r.stderr, r
