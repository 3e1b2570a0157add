"""Prune on provider ebs, against moto with its thousand foreign snapshots: only this lineage's go, a refused removal is
shown and tried again, another host of the same name with a lineage of its own touches nothing. What is locked, in use or being
restored is kept, with the reason, which a plan knows before anybody tries. Among thousands of another host of the same name, page by page and throttled, a policy removes
what it would remove alone."""

import errno
import os

import pytest

from cloud import cloud, make_cloud, snapshot  # noqa: F401
from stillfs import wait_for
from test_retention import make_older, plan, sets, settled


def take(m, names):
    """Sets of these names, one after the other; then all are complete, which is asked every second."""
    for name in names:
        assert snapshot(m, f"{name} class=nightly") == 0
    for name in names:
        m.wait_state(name, "complete")


def test_a_plan_removes_its_snapshots_and_no_others(cloud, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "ab")
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


def held(m, name):
    """It is a set again, and the plan and the log say why."""
    wait_for(f"{name} back", lambda: name in sets(m))
    action, why = plan(m)[1][name]
    assert action == "keep" and "cannot be removed: " in why, (action, why)
    said, = [line for line in m.read("prune.log").splitlines() if "Z skipped " in line and f" {name}: " in line]
    assert said.split(f" {name}: ")[1] in why
    return why


def test_what_is_locked_in_use_or_being_restored_is_kept_with_the_reason(cloud, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "abcdef")
    cloud.proxy.holds.update(zip(cloud.made, ("locked", "image", "restore")))
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["a", "b", "c", "f"] and [f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")] == cloud.made[3:5]
    assert "is locked (governance)" in held(m, "a")
    assert "is in use by the image ami-" in held(m, "b")
    assert "is being restored: volume vol-" in held(m, "c")
    assert m.read("prune.log").count("Z removed ") == 2 and "Z failed " not in m.read("prune.log")
    os.rmdir(m.control / "snapshots" / "a")  # by hand: asked again at once
    wait_for("the second refusal", lambda: m.read("prune.log").count("Z skipped ") == 4)
    wait_for("a", lambda: "a" in sets(m))
    assert m.last_error()["message"].endswith("nothing of the set was deleted") and m.state("a") == "complete"
    cloud.proxy.holds.clear()
    os.rmdir(m.control / "snapshots" / "a")
    settled(m)
    m.stop()
    m.start()  # the next time: what held them is asked again
    assert [plan(m)[1][n][0] for n in "bcf"] == ["delete", "delete", "keep"] and m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["f"] and sorted(f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")) == sorted(cloud.made[:5])


def test_who_may_not_ask_says_so_once_and_goes_by_the_deletions_answer(cloud, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "abc")
    for action in ("DescribeLockedSnapshots", "DescribeImages", "DescribeVolumes"):
        cloud.faults[action] = ["denied"]
    cloud.faults["DeleteSnapshot"] = ["code InvalidSnapshot.InUse"]
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["a", "c"] and "InvalidSnapshot.InUse" in held(m, "a")
    assert m.log().count("this host may not ask whether a snapshot is ") == 3, m.log()
    assert cloud.calls.count("DescribeLockedSnapshots") == cloud.calls.count("DescribeImages") == 1


QUESTIONS = ("DescribeLockedSnapshots", "DescribeImages", "DescribeVolumes")


def told(m):
    """The plan, once the provider has been asked what it holds."""
    wait_for("the provider's answer", lambda: plan(m)[0]["holds"] != "looking", 30)
    return plan(m)


def asked(cloud):  # noqa: F811
    return [cloud.calls.count(q) for q in QUESTIONS[:2]]


def test_a_plan_says_what_holds_a_set_before_anybody_tries(cloud, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "abcde")
    cloud.proxy.holds.update(zip(cloud.made, ("locked", "image", "restore")))
    assert asked(cloud) == [0, 0], "only for somebody who reads the plan"
    head, rows = plan(m)
    assert head["holds"] == "looking" and [rows[n][0] for n in "abcde"] == ["delete"] * 4 + ["keep"]
    head2, rows = told(m)
    assert head2["holds"] == "3" and [rows[n][0] for n in "abcde"] == ["keep"] * 3 + ["delete", "keep"]
    for n, why in zip("abc", ("is locked (governance)", "is in use by the image ami-", "is being restored: volume vol-")):
        assert "cannot be removed: " in rows[n][1] and why in rows[n][1]
    assert asked(cloud) == [1, 1] and not cloud.sent("DeleteSnapshot"), "one question for all sets"
    told(m)
    assert asked(cloud) == [1, 1], "at most once a minute"
    assert m.write("prune", f"apply {head['plan']}\n") == errno.EAGAIN, "another plan since"
    assert m.write("prune", f"apply {head2['plan']}\n") == 0
    settled(m)
    assert sets(m) == list("abce") and [f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")] == cloud.made[3:4]
    assert "Z skipped " not in m.read("prune.log")
    cloud.proxy.holds.clear()
    m.stop()
    m.start()
    head, rows = told(m)
    assert head["holds"] == "0" and [rows[n][0] for n in "abce"] == ["delete"] * 3 + ["keep"]


def test_a_question_about_what_is_held_holds_up_no_snapshot(cloud, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "ab")
    cloud.proxy.holds[cloud.made[0]] = "locked"
    cloud.proxy.released.clear()
    cloud.faults["DescribeImages"] = ["held"]
    assert plan(m)[0]["holds"] == "looking"
    wait_for("the question", lambda: "DescribeImages" in cloud.proxy.holding)
    assert snapshot(m, "c class=nightly") == 0 and "DescribeImages" in cloud.proxy.holding, "while it is not answered"
    cloud.proxy.released.set()
    m.wait_state("c", "complete")
    head, rows = told(m)  # it is asked again, after the snapshot
    assert head["holds"] == "1" and [rows[n][0] for n in "abc"] == ["keep", "delete", "keep"]


@pytest.mark.parametrize("fault,words", [("denied", "0"), ("code InvalidParameterValue", "unknown: DescribeLockedSnapshots: ")])
def test_what_cannot_be_asked_keeps_no_set(cloud, make_mount, fault, words):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 1", **cloud.options)
    take(m, "ab")
    for q in QUESTIONS:
        cloud.faults[q] = [fault]
    plan(m)
    head, rows = told(m)
    assert head["holds"].startswith(words) and rows["a"][0] == "delete", (head, rows)
    assert m.log().count("this host may not ask whether a snapshot is ") == (3 if fault == "denied" else 0)


def test_a_policy_among_thousands_of_a_host_of_the_same_name_page_by_page_and_throttled(cloud, make_mount):  # noqa: F811
    proxy = cloud.proxy
    proxy.aged, proxy.page = True, 4
    m = make_mount(env=cloud.env, **cloud.options)
    proxy.foreign = m.name, 3000
    take(m, "abcdef")
    made = dict(zip("abcdef", cloud.made))
    make_older(m, {"a": 40, "b": 33, "c": 20, "d": 8, "e": 1})
    assert m.write("snapshots/b/pin", "yes\n") == 0 and m.write("retention", "keep_last 1\nkeep_daily 2\nkeep_within 9d\n") == 0

    def rescan():
        assert m.write("rescan", "\n") == 0
        wait_for("rescan", lambda: "state running" not in m.read("rescan"), 60)
        return m.read("rescan").splitlines()
    assert "found 6" in rescan() and sets(m) == list("abcdef")
    rows = plan(m)[1]
    assert {n for n, row in rows.items() if row[0] == "delete"} == set("ac") and "pinned" in rows["b"][1], rows
    cloud.faults["DescribeSnapshots"] = ["throttled"]
    cloud.faults["DeleteSnapshot"] = ["throttled", "500", "throttled"]
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == list("bdef") and not cloud.faults["DeleteSnapshot"]
    assert sorted(f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")) == sorted(made[n] for n in "ac")
    assert m.read("prune.log").count("Z removed ") == 2 and "Z failed " not in m.read("prune.log")
    lineage = m.status()["lineage"]
    m.stop()
    (m.dir / "state").rename(m.dir / "state-of-the-first")
    m.start()  # another host of the name: it sees them all, and none is its own
    proxy.page = 400
    assert {f"other_lineage {lineage} 4", f"other_lineage {'f0' * 16} 3000"} <= set(rescan())
    assert m.write("retention", "keep_last 1\n") == 0 and m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == [] and len(cloud.sent("DeleteSnapshot")) == 2
