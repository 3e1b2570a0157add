"""Verification of a set of provider ebs: on volumes of its own, with a server in namespaces of its own. Two volumes, a real
MariaDB. A good set passes, sabotage is found, and whatever fails or dies, nothing stays at the provider unaccounted."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import time

import pytest

from cloud import BY_ID, Cloud, snapshot, tags_of
from mariadb import MariaDB
from stillfs import STILLCTL, Mount, Scratch, wait_for
from test_ebs_mariadb import fake_sysfs
from test_verify import flip, flushed, log_of, sandbox_pids, slow_server


class Site:
    """A MariaDB with its redo log on a volume of its own, and one good set."""

    def __init__(self, made, moto):
        s = {name: Scratch(size_mb=480 if name == "data" else 330) for name in ("data", "redo")}
        for one in s.values():
            made.callback(one.close)
        self.cloud = cloud = Cloud(moto, s["data"].dir / "cloud", {"/dev/sdf": s["data"].image, "/dev/sdg": s["redo"].image})
        made.callback(cloud.close)
        fake_sysfs(s["data"].dir / "sys", {s[name].fs: v for name, v in zip(s, cloud.volumes)})
        redo = s["data"].dir / "redo"
        redo.mkdir()
        (s["redo"].fs / "back").mkdir()
        options = {k: v for k, v in cloud.options.items() if k != "ebs__volumes"}
        self.m = Mount(s["data"], start=False, env={**cloud.env, "STILLFS_TEST_SYSFS": str(s["data"].dir / "sys")}, db="mysql",
                       db__socket=s["data"].dir / "db" / "sock", gate_timeout=45, auto_verify="yes", **options)
        self.m.more_pairs = [(s["redo"].fs / "back", redo)]
        made.callback(self.m.close)
        self.m.start()
        user = pwd.getpwnam("mysql")
        os.chown(redo, user.pw_uid, user.pw_gid)
        self.db = MariaDB(s["data"].dir / "db", self.m.mnt, options=[f"--innodb-log-group-home-dir={redo}", "--innodb-log-file-size=8M"])
        made.callback(self.db.stop)
        self.db.start()
        self.db.query("CREATE DATABASE t")
        self.db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v CHAR(200), KEY (v)) ENGINE=InnoDB")
        self.db.query("INSERT INTO t.a (v) SELECT CONCAT('row ', seq) FROM seq_1_to_3000", "t")
        flushed(self.db)
        assert snapshot(self.m, "good") == 0
        self.m.wait_state("good", "complete")
        self.snaps = list(cloud.made)
        self.verifying = self.m.dir / "state" / "verify"


@pytest.fixture(scope="module")
def site(moto_of_module):
    with contextlib.ExitStack() as made:
        yield Site(made, moto_of_module)


def begin(m, name="good"):
    assert m.write("verify", f"{name}\n") == 0, m.last_error()


def result(m, name="good"):
    """The first word of the result, and its sentence."""
    wait_for("the end of the verification", lambda: m.read("verify").startswith("idle\n"), 60)
    words = m.read(f"snapshots/{name}/verified").strip().split(" ", 2)
    return words[0], words[2]


def verified(m, name="good"):
    return next(r for r in map(json.loads, m.read("list.json").splitlines()) if r["name"] == name)["verified"]


def nothing_is_left(site):
    """At the provider, attached here, mounted, running, in state_dir (but for logs)."""
    m, cloud = site.m, site.cloud
    links = [p.name for p in BY_ID.iterdir()] if BY_ID.exists() else []
    out = [*cloud.volumes_left(), *(v for v in cloud.proxy.volume_images if "nvme-Amazon_Elastic_Block_Store_" + v.replace("-", "") in links)]
    out += [p.name for p in site.verifying.iterdir() if p.suffix != ".log"]
    out += [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if "/state/verify/" in line]
    return out + sandbox_pids(m)


def all_is_gone(site):
    wait_for("the removal of all that was made", lambda: nothing_is_left(site) == [])
    assert site.m.read("verify") == "idle\n"
    assert not site.cloud.sent("DeleteSnapshot")


def test_a_good_set_is_recovered_on_volumes_of_its_own(site):
    m, cloud = site.m, site.cloud
    r = subprocess.run([str(STILLCTL), "--dir", str(m.control), "verify", "good"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and re.match(r"good: yes \S+ 2 volumes of its snapshots recovered by \S+, \d\d tables good, position as recorded$",
                                          r.stdout.strip()), (r, log_of(m, "good"))
    log, position = log_of(m, "good"), dict(line.split(" ", 1) for line in m.read("snapshots/good/position").splitlines())
    assert "Starting crash recovery" in log, "a server really recovered it"
    assert f"binary log: ends at {position['binlog_file']}:{position['binlog_pos']}, recorded" in log
    made = cloud.sent("CreateVolume")
    assert sorted(f["SnapshotId"] for f in made) == sorted(site.snaps)
    marks = {tags_of(f)["stillfs:verification"] for f in made}
    assert "auto_verify=yes has no effect with provider=ebs" in m.log()
    assert len(marks) == 1 and all(tags_of(f)["stillfs:restored-from"] == m.read("snapshots/good/id").strip() for f in made)
    assert [f["Device"] for f in cloud.sent("AttachVolume")] == ["/dev/sdh", "/dev/sdi"], "those that the instance has not"
    all_is_gone(site)
    tagged, = [f for f in cloud.sent("CreateTags") if f["Tag.1.Key"] == "stillfs:verified"]
    assert {tagged["ResourceId.1"], tagged["ResourceId.2"]} == set(site.snaps) and tagged["Tag.1.Value"].startswith("yes ")
    elsewhere = subprocess.run([str(STILLCTL), "--provider", "ebs", "--region", "us-east-1", "show", "good"], capture_output=True, text=True,
                               env=cloud.elsewhere(), timeout=60)
    assert re.search(r"verified +yes 20.*tables good", elsewhere.stdout), elsewhere


@contextlib.contextmanager
def image_of(site, snapshot_id):
    """A snapshot's file system, to be spoilt."""
    where = site.m.dir / "spoil"
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,nouuid", str(site.cloud.copies[snapshot_id]), str(where)], check=True)
    try:
        yield where / "back"
    finally:
        subprocess.run(["umount", str(where)], check=True)


def no_file_system(site, data, redo):
    with open(site.cloud.copies[data], "r+b") as f:
        f.write(bytes(4096))


def flipped(site, data, redo):
    with image_of(site, data) as d:
        flip(d / "t" / "a.ibd", 5 * 16384 + 700)


def cut_log(site, data, redo):
    with image_of(site, redo) as d:
        os.truncate(d / "ib_logfile0", 40960)


@pytest.mark.parametrize("change,words", [(flipped, "CHECK TABLE t.a"), (cut_log, "log"), (no_file_system, "the xfs of /dev/loop")])
def test_sabotage_is_found_and_said_in_the_tags(site, change, words):
    m, cloud, name = site.m, site.cloud, change.__name__.replace("_", "-")
    cloud.proxy.aged = True
    assert snapshot(m, f"{name} class=nightly") == 0
    m.wait_state(name, "complete")
    cloud.proxy.aged = False
    assert m.read("verify") == "idle\n" and m.read(f"snapshots/{name}/verified") == "no\n", "auto_verify is not for these"
    change(site, *sorted(cloud.made[-2:], key=lambda s: -os.path.getsize(cloud.copies[s])))
    begin(m, name)
    word, sentence = result(m, name)
    assert word == "failed" and words in sentence, sentence + log_of(m, name)
    all_is_gone(site)
    assert cloud.sent("CreateTags")[-1]["Tag.1.Value"].startswith("failed ")


NO = "AWS answered UnauthorizedOperation"


@pytest.mark.parametrize("action,faults,words", [
    ("DescribeSnapshots", ["denied"], f"DescribeSnapshots: {NO}"), ("DescribeInstances", ["denied"], f"DescribeInstances: {NO}"),
    ("CreateVolume", ["", "denied"], f"CreateVolume: {NO}"), ("CreateVolume", ["", "lost"], "2 volumes of its snapshots recovered by"),
    ("DescribeVolumes", ["denied"], f"DescribeVolumes: {NO}"), ("AttachVolume", ["", "denied"], f"AttachVolume: {NO}"),
    ("AttachVolume", ["lost"], "AttachVolume: "), ("CreateTags", ["denied"], "2 volumes of its snapshots recovered by"),
    ("CreateVolume", ["code InvalidSnapshot.NotFound"], "CreateVolume: "),
], ids=lambda v: "".join(v) if isinstance(v, list) else None)
def test_whatever_the_provider_refuses_nothing_stays(site, action, faults, words):
    m, cloud = site.m, site.cloud
    before = verified(m)
    cloud.faults[action] = list(faults)
    begin(m)
    word, sentence = result(m)
    assert words in sentence and word == ("yes" if "recovered" in words else before), "what says nothing about the set leaves it as it was"
    assert not cloud.faults[action]
    all_is_gone(site)
    if action == "CreateTags":
        assert "the result is in this host's catalog and not in the set's tags: CreateTags" in log_of(m, "good")


@pytest.mark.parametrize("action", ["DetachVolume", "DeleteVolume"])
def test_what_cannot_be_removed_is_named_and_removed_later(site, action):
    m, cloud = site.m, site.cloud
    cloud.faults[action] = ["denied"] * 200
    begin(m)
    assert result(m)[0] == "yes"
    wait_for("the list of what is left", lambda: "left " in m.read("verify"))
    left = cloud.volumes_left()
    line = m.read("verify").splitlines()[1]
    assert len(left) == 2 and all(v in line for v in left) and f"{action}: AWS answered UnauthorizedOperation" in line, line
    assert all(v in m.last_error()["message"] for v in left)
    cloud.faults[action].clear()
    begin(m)  # looks first; so does each start, and stillfs once a minute
    assert result(m)[0] == "yes"
    all_is_gone(site)


@pytest.fixture(scope="module")
def slow(site):
    """A server that never answers; with it all that dies does so while volumes are attached and mounted."""
    m = site.m
    site.db.stop()
    m.stop()
    m.options["verify.server"] = slow_server(m)
    m.start()
    return site


def in_the_middle(m):
    begin(m)
    wait_for("the sandbox", lambda: "running 50" in m.read("verify"))
    wait_for("its init", lambda: len(sandbox_pids(m)) >= 2)
    assert len(list(BY_ID.glob("nvme-Amazon_Elastic_Block_Store_vol*"))) == 2


def test_cancel_removes_all_and_the_set_stays_as_it_was(slow):
    m = slow.m
    before = verified(m)
    in_the_middle(m)
    assert m.write("verify", "cancel\n") == 0
    assert result(m) == (before, "cancelled by an operator")
    all_is_gone(slow)


def test_a_volume_whose_creation_was_not_answered_is_found_by_its_mark(slow):
    m, cloud = slow.m, slow.cloud
    cloud.proxy.released.clear()
    cloud.faults["CreateVolume"] = ["held"]
    begin(m)
    wait_for("the request", lambda: "CreateVolume" in cloud.proxy.holding)
    assert m.write("verify", "cancel\n") == 0
    wait_for("the list of what may be left", lambda: "an answer to CreateVolume was lost" in m.read("verify"))
    cloud.proxy.released.set()
    assert not cloud.volumes_left()
    journal, = slow.verifying.glob("*.journal")
    os.utime(journal, (1, 1))  # a minute later
    begin(m)
    wait_for("the sandbox", lambda: "running 50" in m.read("verify"))
    assert m.write("verify", "cancel\n") == 0
    result(m)
    all_is_gone(slow)


@pytest.mark.parametrize("victim", ["verifier", "daemon", "all", "all but a verifier that sleeps"])
def test_whatever_dies_what_was_made_is_removed(slow, victim):
    m = slow.m
    in_the_middle(m)
    verifier = sandbox_pids(m)[0]
    if victim == "verifier":
        os.kill(verifier, signal.SIGKILL)
        assert "ended without a result" in result(m)[1]
    elif victim == "daemon":
        restarts = int(m.status()["restarts"])
        os.kill(int(m.status()["pid"]), signal.SIGKILL)
        wait_for("a successor", lambda: int(m.status()["restarts"]) > restarts)
        m.daemon = int(m.status()["pid"])
    else:
        os.kill(verifier, signal.SIGSTOP)
        m.stop()
        if victim == "all":
            os.kill(verifier, signal.SIGKILL)
            assert len(slow.cloud.volumes_left()) == 2
            m.start()
        else:  # its journal is locked: who comes after it leaves its volumes to it, look after look
            m.start()
            time.sleep(5)
            assert len(slow.cloud.volumes_left()) == 2
            os.kill(verifier, signal.SIGKILL)
    all_is_gone(slow)
