"""The record in tags: what a set's snapshots carry, and the catalog that is made from it alone."""

import errno
import json
import os
import subprocess

from cloud import cloud, make_cloud, snapshot, tags_of  # noqa: F401
from stillfs import STILLCTL, STILLFS, wait_for


def sets(m):
    return {s["name"]: s for s in map(json.loads, m.read("list.json").splitlines())}


def rescan(m, text="\n"):
    r = m.write("rescan", text)
    if r == 0:
        wait_for("rescan", lambda: "state running" not in m.read("rescan"), 20)
    return r


def take(m, request):
    name = request.split()[0]
    assert snapshot(m, request) == 0
    m.wait_state(name, "complete")


def test_tags_carry_the_record_and_a_lost_catalog_comes_back_from_them(cloud, make_mount, scratch):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one class=daily description=\"before the upgrade\" tag=team:db tag=Name:mine pin")
    made = tags_of(cloud.sent("CreateSnapshot")[0])
    assert made["stillfs:members"] == "1" and made["stillfs:member"] == "1 of 1" and made["stillfs:pin"] == "yes"
    assert made["stillfs:pair.0"] == f"{m.mnt};fs=xfs;sub=/back;volume={cloud.volumes[0]}"
    assert made["team"] == "db" and made["Name"] == "mine" and sum(k.startswith("stillfs:") for k in made) <= 20
    later = [tags_of(f, "Tag") for f in cloud.sent("CreateTags")]
    assert later == [{"stillfs:times": f"lock_ms {before(m, 'lock_ms')} hold_ms {before(m, 'hold_ms')}"}]
    before_ = sets(m)["one"]
    lineage = m.status()["lineage"]
    m.stop()
    subprocess.run(["rm", "-rf", str(m.dir / "state")], check=True)
    m.start()
    assert m.read("list").count("\n") == 1 and m.status()["lineage"] != lineage
    assert rescan(m) == 0
    assert m.read("rescan").splitlines() == ["state done", "found 0", "added 0", "changed 0", "missing 0", f"other_lineage {lineage} 1"]
    wait_for("it in the list of all", lambda: f"{lineage}  other" in m.read("list.all"))
    assert rescan(m, f"lineage={lineage}\n") == 0
    assert "added 1" in m.read("rescan") and m.status()["lineage"] == lineage
    after = sets(m)["one"]
    same = ("name", "id", "class", "lineage", "state", "created", "pin", "volumes", "size", "description", "provider", "position")
    assert {k: after[k] for k in same} == {k: before_[k] for k in same}
    assert sorted(after["tags"].splitlines()) == ["Name:mine", "team:db"]
    assert abs(after["hold_ms"] - before_["hold_ms"]) < 0.1
    assert rescan(m) == 0 and "added 0" in m.read("rescan")
    m.stop()
    m.start()
    assert sets(m)["one"]["state"] == "complete"


def test_the_set_whose_image_is_started_keeps_its_snapshots_and_comes_back(cloud, make_mount):  # noqa: F811
    """state_dir on a volume of the set: in the set's own image its record says `running`."""
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one")
    taken = sets(m)["one"]
    m.stop()
    path = m.dir / "state" / "sets" / f"{taken['id']}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "position": "", "hold_ms": None, "lock_ms": None}))
    m.start()
    assert sets(m)["one"]["state"] == "failed" and sets(m)["one"]["doubt"] is True
    assert m.status()["removals_left"] == "0"
    assert rescan(m) == 0
    assert "changed 1" in m.read("rescan")
    after = sets(m)["one"]
    assert (after["state"], after["position"], "doubt" in after) == ("complete", taken["position"], False)
    assert abs(after["hold_ms"] - taken["hold_ms"]) < 0.1 and m.read("snapshots/one/last_error") == "none\n"
    assert cloud.sent("DeleteSnapshot") == []


def before(m, name):
    return m.read(f"snapshots/one/{name}").strip()


def test_rescan_refuses_what_it_cannot_do(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one")
    assert rescan(m, "lineage=x\n") == errno.EINVAL and "expected nothing, or lineage=" in m.last_error()["message"]
    assert rescan(m, f"lineage={'0' * 32}\n") == errno.EBUSY
    assert "has sets of its own lineage" in m.last_error()["message"]
    cloud.faults["DescribeSnapshots"] = ["denied"]
    assert rescan(m) == 0
    assert m.read("rescan").startswith("state failed\nmessage rescan: DescribeSnapshots: AWS answered UnauthorizedOperation")


def test_rescan_is_refused_where_the_provider_keeps_no_records(mount):
    assert mount.write("rescan", "\n") == errno.EOPNOTSUPP
    assert "provider local keeps no records" in mount.last_error()["message"]


def test_what_cannot_be_tagged_afterwards_is_no_failure_and_is_shown(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    cloud.faults["CreateTags"] = ["denied"]
    take(m, "one")
    assert "note: times are not in the tags: CreateTags: AWS answered UnauthorizedOperation" in m.read("snapshots/one/log")


def test_a_pin_goes_into_the_tags(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one")
    assert m.write("snapshots/one/pin", "yes\n") == 0
    wait_for("the tag", lambda: {"stillfs:pin": "yes"} in [tags_of(f, "Tag") for f in cloud.sent("CreateTags")])


def test_40_tags_of_the_users_and_a_long_position_stay_within_the_limits(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one " + " ".join(f"tag=k{i}:v{i}" for i in range(40)))
    made = tags_of(cloud.sent("CreateSnapshot")[0])
    assert len(made) <= 45 and sum(k.startswith("k") for k in made) == 25
    assert made["stillfs:tags"].startswith("25 of 40 kept sha256:")


# ---- without a BACKING ----

def catalog_only(cloud, directory, name, **options):  # noqa: F811
    text = ",".join(f"{k}={v}" for k, v in {"provider": "ebs", "ebs.region": "us-east-1", "ebs.endpoint": cloud.proxy.url,
                                            "state_dir": directory / "other-state", "control_dir": directory / "other",
                                            "log_file": directory / "other-log", **options}.items())
    return subprocess.run([str(STILLFS), "-o", text, "--catalog-only", name], capture_output=True, text=True,
                          env={**os.environ, **cloud.env}, timeout=60)


def test_another_host_serves_the_catalog_without_a_backing(cloud, make_mount, scratch):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one tag=team:db")
    r = catalog_only(cloud, scratch.dir, "elsewhere")
    assert r.returncode == 0, r.stderr
    tree = scratch.dir / "other"
    try:
        wait_for("rescan", lambda: "state done" in (tree / "rescan").read_text())
        assert (tree / "snapshots" / "one" / "state").read_text() == "complete\n"
        assert (tree / "snapshots" / "one" / "id").read_text() == m.read("snapshots/one/id")
        for name, text, words in (("snapshot", "two\n", "catalog without a BACKING"), ("gate", "close\n", "nothing to hold")):
            with open(tree / name, "wb", buffering=0) as f:
                try:
                    f.write(text.encode())
                    raise AssertionError("it took it")
                except OSError as e:
                    assert e.errno == errno.EOPNOTSUPP
            assert words in (tree / "last_error").read_text()
    finally:
        subprocess.run(["kill", dict(line.split(" ", 1) for line in (tree / "status").read_text().splitlines())["keeper_pid"]], check=True)
    wait_for("its end", lambda: not tree.exists())


def test_catalog_only_refuses_what_has_no_records_and_what_is_no_catalog(cloud, scratch):  # noqa: F811
    for options, name, code, words in (({"provider": "local"}, "x", 1, "provider=local keeps no records"), ({"lineage": "abc"}, "x", 1, "lineage=abc: expected 32"),
                                       ({"pair": "/a:/b"}, "x", 2, "no BACKING and no pair")):
        r = catalog_only(cloud, scratch.dir, name, **options)
        assert r.returncode == code and words in r.stderr and r.stderr.count("\n") == 1, r


def test_a_host_that_may_only_take_says_who_may_delete(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, gate_timeout=1, **cloud.options)
    cloud.faults["CreateSnapshot"] = ["late 1.5"]
    cloud.faults["DeleteSnapshot"] = ["denied"] * 3
    assert snapshot(m, "late")
    wait_for("its mark", lambda: any(tags_of(f, "Tag").get("stillfs:failed") for f in cloud.sent("CreateTags")), 20)
    wait_for("the provider", lambda: m.status()["provider_call"] == "ok", 20)
    (m.control / "snapshots" / "late").rmdir()
    wait_for("the refusal", lambda: "not delete them" in m.last_error().get("message", ""), 20)
    assert "stillctl prune apply --provider ebs --region us-east-1 --lineage ID" in m.last_error()["message"]
    r = catalog_only(cloud, m.dir, "elsewhere")
    assert r.returncode == 0, r.stderr
    tree = m.dir / "other"
    wait_for("rescan", lambda: "state done" in (tree / "rescan").read_text())
    state = (tree / "snapshots" / "late" / "state").read_text()
    why = (tree / "snapshots" / "late" / "last_error").read_text()
    subprocess.run(["kill", dict(line.split(" ", 1) for line in (tree / "status").read_text().splitlines())["keeper_pid"]], check=True)
    assert state == "failed\n" and why.startswith("marked as failed: the set failed")
    wait_for("its end", lambda: not tree.exists())


def test_check_judges_what_the_provider_has_of_one_lineage_or_says_that_it_cannot(cloud, make_mount):  # noqa: F811
    """Never what a stillfs of this host says, which has another provider perhaps."""
    def ctl(*args):
        return subprocess.run([str(STILLCTL), "--provider", "ebs", "--region", "us-east-1", *map(str, args)], capture_output=True, text=True,
                              env=cloud.elsewhere(), timeout=55)
    m = make_mount(env=cloud.env, **cloud.options)
    take(m, "one")
    lineage = m.status()["lineage"]
    r = ctl("--lineage", lineage, "check")
    assert r.returncode == 0 and r.stdout.startswith("OK: one is the newest complete set, "), r
    r = ctl("--lineage", lineage, "check", "--max-verified-age", "1d")
    assert r.returncode == 1 and "no set is verified" in r.stdout, r
    r = ctl("--lineage", "f0" * 16, "--dir", m.control, "check")
    assert r.returncode == 2 and r.stdout.startswith("CRITICAL: there is no complete set"), r
    r = ctl("check")
    assert r.returncode == 3 and r.stdout.startswith("UNKNOWN: check --provider needs --lineage ID: "), r
    for args in (("provider-test", "/bin/true", m.dir), ("cutover", "status")):
        r = ctl(*args)
        assert r.returncode == 2 and f"--provider is not for {args[0]}" in r.stderr and r.stdout == "", r
    cloud.faults["DescribeSnapshots"] = ["denied"] * 9
    r = ctl("--lineage", lineage, "check")
    assert r.returncode == 3 and r.stdout.startswith("UNKNOWN: the catalog of ebs could not be read"), r
