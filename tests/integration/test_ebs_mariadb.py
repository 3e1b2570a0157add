"""MariaDB with redo log and binary log on volumes of their own, under one gate: one atomic set, found, restored and started
by somebody who has nothing but keys."""

import contextlib
import os
import pwd
import subprocess

import pytest

from cloud import make_cloud, snapshot  # noqa: F401
from commits import Commits
from mariadb import MariaDB
from stillfs import STILLCTL, Mount, Scratch, run

PARTS = ("data", "redo", "binlog")


def fake_sysfs(top, volumes):
    """What sysfs shows on an instance where each of these file systems lies on its EBS volume: {path: volume}."""
    for i, (path, volume) in enumerate(volumes.items(), 1):
        dev = os.stat(path).st_dev
        disk = top / "devices" / f"nvme{i}n1"
        (disk / "device").mkdir(parents=True)
        (disk / "slaves").mkdir()
        (disk / "device" / "model").write_text("Amazon Elastic Block Store\n")
        (disk / "device" / "serial").write_text(volume.replace("-", "") + "\n")
        link = top / "dev" / "block" / f"{os.major(dev)}:{os.minor(dev)}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(disk)


@pytest.fixture
def site(make_cloud):  # noqa: F811
    with contextlib.ExitStack() as made:
        s = {name: Scratch(size_mb=480 if name == "data" else 330) for name in PARTS}
        for one in s.values():
            made.callback(one.close)
        cloud = make_cloud(s["data"].dir / "cloud", {f"/dev/sd{c}": s[name].image for c, name in zip("fgh", PARTS)})
        fake_sysfs(s["data"].dir / "sys", {s[name].fs: v for name, v in zip(PARTS, cloud.volumes)})
        points = {name: s["data"].dir / name for name in ("redo", "binlog")}
        for name, point in points.items():
            point.mkdir()
            (s[name].fs / "back").mkdir()
        options = {k: v for k, v in cloud.options.items() if k != "ebs__volumes"}
        m = Mount(s["data"], start=False, env={**cloud.env, "STILLFS_TEST_SYSFS": str(s["data"].dir / "sys")}, db="mysql",
                  db__socket=s["data"].dir / "db" / "sock", gate_timeout=45, **options)
        m.more_pairs = [(s[name].fs / "back", points[name]) for name in points]
        made.callback(m.close)
        m.start()
        user = pwd.getpwnam("mysql")
        for point in points.values():
            os.chown(point, user.pw_uid, user.pw_gid)
        db = MariaDB(s["data"].dir / "db", m.mnt, options=[f"--innodb-log-group-home-dir={points['redo']}",
                                                           f"--log-bin={points['binlog']}/binlog"])
        made.callback(db.stop)
        yield m, db.start(), cloud
        for mounted in ("there", "there.1", "there.2"):
            subprocess.run(["umount", str(m.dir / mounted)], capture_output=True)


def test_redo_and_binlog_on_their_own_volumes_are_one_set_that_another_machine_starts(site):
    m, db, cloud = site
    load = Commits(db, clients=4).wait(30)
    acked = load.now()
    assert snapshot(m, "three tag=team:db") == 0
    load.wait(30)
    load.stop()
    m.wait_state("three", "complete")
    position = dict(line.split(" ", 1) for line in m.read("snapshots/three/position").splitlines())
    assert len(cloud.made) == 3 and cloud.calls.count("CreateSnapshots") == 1 and "CreateSnapshot" not in cloud.calls
    tags = [f for f in cloud.sent("CreateTags") if f["Tag.1.Key"] == "stillfs:member"]
    assert sorted(f["Tag.1.Value"] for f in tags) == ["1 of 3", "2 of 3", "3 of 3"]

    there = m.dir / "there"
    r = subprocess.run([str(STILLCTL), "restore", "three", "--provider", "ebs", "--region", "us-east-1", "--attach", "/dev/sdp", "--mount",
                        str(there)], capture_output=True, text=True, env=cloud.elsewhere(), timeout=60)
    assert r.returncode == 0, r
    paths = dict(line.split(" ")[1:] for line in r.stdout.splitlines() if line.startswith("path "))
    assert paths == {str(m.mnt): f"{there}/back", str(m.dir / "redo"): f"{there}.1/back", str(m.dir / "binlog"): f"{there}.2/back"}
    assert "skip-replica-start" in r.stderr and position["binlog_pos"] in r.stderr
    binlogs = paths[str(m.dir / "binlog")]
    assert os.path.getsize(f"{binlogs}/{position['binlog_file']}") == int(position["binlog_pos"])

    again = MariaDB(m.dir / "db2", paths[str(m.mnt)], server_id=2, install=False,
                    options=[f"--innodb-log-group-home-dir={paths[str(m.dir / 'redo')]}", f"--log-bin={binlogs}/binlog"])
    try:
        again.start()
        has = load.check(again, acked)
        assert sum(has) < sum(load.now()), "nothing was committed after the point"
        files = [name for name, *_ in db.query("SHOW BINARY LOGS") if name >= position["binlog_file"]]
        sql = run("mariadb-binlog", f"--start-position={position['binlog_pos']}", *[m.dir / "binlog" / f for f in files])
        subprocess.run(["mariadb", "--no-defaults", f"--socket={again.socket}", "-uroot"], input=sql, text=True, check=True, timeout=60)
        assert again.query("CHECKSUM TABLE t.commits") == db.query("CHECKSUM TABLE t.commits")
    finally:
        again.close()
