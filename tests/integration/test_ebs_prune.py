"""Prune on provider ebs, against moto with its thousand foreign snapshots: only this lineage's go, a refused removal is
shown and tried again, another host of the same name with a lineage of its own touches nothing."""

import time

from cloud import cloud, make_cloud, snapshot  # noqa: F401
from stillfs import wait_for
from test_retention import plan, sets, settled


def test_a_plan_removes_its_snapshots_and_no_others(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    assert snapshot(m, "a class=nightly") == 0
    m.wait_state("a", "complete")
    time.sleep(15.5)  # a volume can be snapshotted once in 15 s
    assert snapshot(m, "b class=nightly") == 0
    m.wait_state("b", "complete")
    head, rows = plan(m)
    assert {n: r[0] for n, r in rows.items()} == {"a": "delete", "b": "keep"}
    cloud.faults["DeleteSnapshot"] = ["denied"]
    assert m.write("prune", f"apply {head['plan']}\n") == 0
    wait_for("the call", lambda: "DeleteSnapshot" in cloud.calls, 20)
    wait_for("the refusal", lambda: "tries 1" in m.read("prune"), 10)
    assert "may take snapshots and not delete them" in plan(m)[1]["a"][1]
    assert plan(m)[1]["a"][0] == "removing" and sets(m) == ["b"] and m.status()["prune_left"] == "1"
    m.stop()
    m.start()
    settled(m)
    assert sets(m) == ["b"]
    assert [f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")] == [cloud.made[0]]
    assert m.read("prune.log").count("Z removed ") == 1
    m.stop()
    (m.dir / "state").rename(m.dir / "state-of-the-first")
    m.start()  # another host of the same name: a lineage of its own
    assert m.write("rescan", "\n") == 0
    wait_for("rescan", lambda: "state running" not in m.read("rescan"), 20)
    assert set(plan(m)[1]) == set() and m.write("prune", "apply\n") == 0
    settled(m)
    assert cloud.calls.count("DeleteSnapshot") == 2
