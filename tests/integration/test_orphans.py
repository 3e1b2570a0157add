"""Orphans: what the provider has of this lineage and no record accounts for, on provider local, exec and ebs. Leftovers go by
orphan_age when it is certain whose they are; nothing else of them goes by itself."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import time

import pytest

from cloud import cloud, make_cloud, snapshot  # noqa: F401
from stillfs import STILLCTL, Mount, Scratch, run, wait_for
from test_exec import EXAMPLE
from test_retention import change_records, plan, sets, settled, take

DAY = 86400
LEFT = "left of a set that never became complete, and older than orphan_age"


def looked(m):
    """{name: (action, why)} of the orphans, with what the look at the provider finds that reading asks for."""
    wait_for("the look", lambda: m.read("prune") and m.status()["orphans"] != "looking")
    head, rows = plan(m)
    orphans = {n: (a, w.partition(": ")[2]) for n, (a, w) in rows.items() if w.startswith("orphan ")}
    assert head["orphans"] == m.status()["orphans"] == str(len(orphans))
    return orphans


def gauge(m):
    return {state: int(n) for state, n in re.findall(r'stillfs_orphans\{name="[^"]*",state="(\w+)"\} (\d+)', m.read("metrics"))}


class Local:
    """Clones beside the sets' own, as a stillfs of this state_dir left them."""

    def __init__(self, m):
        self.m, self.base = m, m.scratch.fs / "back.snapshots"

    def make(self, name, days, whole=False, origin=True, lineage=None):
        where = self.base / name
        shutil.copytree(self.base / "a", where)
        (where / "id").write_text(name.rpartition("-")[2] if name.startswith(".") else ident(name))
        if not whole:
            (where / "complete").unlink()
            (where / "data" / ".stillfs-position").unlink()  # as before the point: origin alone tells whose it is
        text = (where / "origin").read_text()
        if lineage:
            text = re.sub(r"lineage \w+", f"lineage {lineage}", text)
        if origin != "none":
            (where / "origin").write_text(text if origin is True else re.sub(r"origin \w+", f"origin {origin}", text))
        else:
            (where / "origin").unlink()
        os.utime(where / "id", (time.time() - days * DAY,) * 2)

    def names(self):
        return sorted(os.listdir(self.base))


def ident(name):
    return name.encode().hex()[:32].ljust(32, "0")


@pytest.fixture
def local(make_mount):
    m = make_mount(retention="keep_last 5")
    take(m, "a", "b")
    return Local(m)


def test_leftovers_go_by_their_rule_and_only_those_that_are_certain(local):
    m = local.m
    local.make("lost", 9)
    local.make(".partial-" + ident("x"), 9)
    local.make(".trash-" + ident("y"), 9)
    local.make("young", 3)
    local.make("whole", 9, whole=True)
    local.make("elsewhere", 9, origin="0" * 32)
    local.make("unmarked", 9, whole=True, origin="none")
    local.make("theirs", 9, lineage="e" * 32)
    (local.base / "a stranger").mkdir()
    before = looked(m)
    assert set(before) == {"lost", ".partial-" + ident("x"), ".trash-" + ident("y"), "young", "whole", "elsewhere", "unmarked"}
    assert {a for a, _ in before.values()} == {"keep"} and before["lost"][1] == "no orphan_age is set"
    assert m.write("prune", "apply\n") == 0 and len(local.names()) == 11
    assert m.write("retention", "orphan_age 1w\n") == 0
    rows = looked(m)
    go = {"lost", ".partial-" + ident("x"), ".trash-" + ident("y")}
    assert {n: row for n, row in rows.items() if row[0] == "delete"} == dict.fromkeys(go, ("delete", LEFT))
    assert rows["young"] == ("keep", "orphan_age 1w") and rows["whole"][1].startswith("complete, so its record was lost")
    assert rows["elsewhere"][1].startswith("nothing says that it was made by this stillfs on this machine")
    assert gauge(m) == {"complete": 2, "leftover": 5}
    run("promtool", "check", "metrics", input=m.read("metrics"))
    head = plan(m)[0]
    assert (head["keep"], head["delete"]) == ("6", "3")
    assert m.write("prune", f"apply {head['plan']}\n") == 0, m.last_error()
    settled(m)
    assert local.names() == ["a", "a stranger", "b", "elsewhere", "theirs", "unmarked", "whole", "young"]
    log = m.read("prune.log")
    assert len(re.findall(r"Z removed [0-9a-f]{32} \S+ class orphan created \S+: an orphan, older than orphan_age, prune by an operator$",
                          log, re.M)) == 3
    assert re.search(rf"Z end {head['plan']}: removed 3, skipped 0, failed 0$", log, re.M) and sets(m) == ["a", "b"]
    assert len(looked(m)) == 4 and len(list((m.dir / "state" / "sets").iterdir())) == 2
    assert m.write("prune", "apply\n") == 0 and len(local.names()) == 8


def test_whatever_throws_doubt_on_it_keeps_a_leftover(local):
    m = local.m
    local.make("lost", 9)
    assert m.write("retention", "orphan_age 1w\n") == 0
    assert looked(m) == {"lost": ("delete", LEFT)}

    def restarted(change):
        m.stop()
        change()
        m.start()
        return looked(m)["lost"]
    record = m.dir / "state" / "sets" / f"{'d' * 32}.json"
    assert restarted(lambda: record.write_text("junk"))[1].startswith("a damaged record lies aside")
    assert restarted(lambda: None)[1].startswith("a damaged record lies aside")  # it lies there still
    record.with_name(record.name + ".bad").unlink()
    local.make("later", 0)
    assert restarted(lambda: change_records(m, lambda r: r.update(state="failed")))[1] == "there is no complete set to count its age from"
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert "lost" in local.names()
    text = (m.dir / "state" / "identity").read_text()
    restarted(lambda: (m.dir / "state" / "identity").write_text(re.sub(r"(?m)^(\w+) .*", r"\1 another", text)))
    assert m.write("prune", "apply\n") == errno.EPERM == m.write("prune", f"delete {ident('lost')} orphan\n")
    assert {"lost", "later"} <= set(local.names())


def test_a_person_removes_an_orphan_by_its_id(local):
    m = local.m
    local.make("whole", 1, whole=True)
    local.make("theirs", 9, lineage="e" * 32)
    assert set(looked(m)) == {"whole"}
    for name, says in (("theirs", "no orphan of this lineage with the id"), ("a", "no orphan of this lineage")):
        sid = ident(name) if name == "theirs" else m.read("snapshots/a/id").strip()
        assert m.write("prune", f"delete {sid} orphan\n") == errno.ENOENT and says in m.last_error()["message"]
    assert m.write("prune", f"delete {ident('whole')} orphn\n") == errno.EINVAL
    run(STILLCTL, "--dir", m.control, "delete", "--orphan", ident("whole"))
    settled(m)
    assert local.names() == ["a", "b", "theirs"] and looked(m) == {}
    assert re.search(rf"Z removed {ident('whole')} whole class orphan created \S+: an orphan, delete --orphan$", m.read("prune.log"), re.M)


def test_auto_prune_looks_for_leftovers_after_a_set(make_mount):
    m = make_mount(retention="keep_last 5", auto_prune="yes")
    take(m, "a")
    assert m.write("retention", "orphan_age 1d\n") == 0
    local = Local(m)
    local.make("lost", 9)
    local.make("whole", 9, whole=True)
    take(m, "b")
    wait_for("the leftover to go", lambda: local.names() == ["a", "b", "whole"])
    settled(m)
    assert "by auto_prune: delete 1, keep 3" in m.read("prune.log") and sets(m) == ["a", "b"]


def test_sets_and_leftovers_go_in_one_plan_each_once(local):
    m = local.m
    take(m, "c", "d")
    local.make("lost", 9)
    assert m.write("retention", "orphan_age 1w\nkeep_last 1\n") == 0
    assert looked(m) == {"lost": ("delete", LEFT)}  # that look has seen the sets, too
    gone = {m.read(f"snapshots/{n}/id").strip() for n in "abc"} | {ident("lost")}
    head = plan(m)[0]
    assert m.write("prune", f"apply {head['plan']}\n") == 0
    settled(m)
    wait_for("the end", lambda: "Z end " in m.read("prune.log"))
    log = m.read("prune.log")
    assert sorted(re.findall(r"Z removed (\w+) ", log)) == sorted(gone) and f"end {head['plan']}: removed 4, skipped 0, failed 0" in log
    assert local.names() == ["d"] == sets(m) and len(list((m.dir / "state" / "sets").iterdir())) == 1


@pytest.mark.parametrize("line,says", [("orphan_age 59m", "orphan_age 59m: expected 1h or more"),
                                       ("nightly.orphan_age 2d", "orphans have no class"), ("orphan_age 7", "expected a number with m, h")])
def test_a_wrong_rule_is_refused(mount, line, says):
    assert mount.write("retention", f"{line}\n") == errno.EINVAL and says in mount.last_error()["message"]


# ---- exec ----

@pytest.fixture
def exec_mount():
    with contextlib.ExitStack() as made:
        scratch = Scratch(kind="btrfs")
        made.callback(scratch.close)
        run("btrfs", "subvolume", "create", scratch.fs / "back")
        script = scratch.dir / "script"
        script.write_text(EXAMPLE.read_text())
        script.chmod(0o755)
        m = Mount(scratch, start=False, provider="exec", exec__script=script, exec__option=f"dir={scratch.fs}/sets", retention="keep_last 9")
        made.callback(m.close)
        m.start()
        m.script, m.base = script, scratch.fs / "sets"
        yield m


def leave(m, name, days, **changes):
    """A leftover of the script's: as after preflight, and days old."""
    where = m.base / name
    where.mkdir()
    whose = json.loads((m.base / "a" / "whose").read_text())
    (where / "whose").write_text(json.dumps({**whose, "created": int(time.time() - days * DAY), **changes}))
    (where / "id").write_text(ident(name))


def test_a_script_that_tells_whose_they_are_has_its_leftovers_removed(exec_mount):
    m = exec_mount
    take(m, "a")
    leave(m, "old", 9)
    leave(m, "young", 3)
    leave(m, "theirs", 9, lineage="e" * 32)
    leave(m, "unmarked", 9, origin="")
    leave(m, "undated", 9, created=None)
    shown = run(STILLCTL, "--dir", m.control, "list", "--all")
    assert {line.split()[0]: line.split()[-1] for line in shown.splitlines()[1:]} == \
        {"a": "own", "old": "orphan", "young": "orphan", "theirs": "other", "unmarked": "orphan", "undated": "orphan"}
    assert m.write("retention", "orphan_age 1w\n") == 0
    rows = looked(m)
    assert {n for n, row in rows.items() if row[0] == "delete"} == {"old"} and rows["young"] == ("keep", "orphan_age 1w")
    assert rows["undated"][1] == "it has no time, or one in the future" and rows["unmarked"][1].startswith("nothing says that")
    good = m.script.read_text()
    m.script.write_text(good.replace("    def remove(self):\n", f"    def remove(self):\n        time.sleep(60 if os.path.exists('{m.dir}/hang') else 0)\n"))
    (m.dir / "hang").touch()
    assert m.write("prune", "apply\n") == 0
    wait_for("the removal", lambda: plan(m)[1]["old"][0] == "removing")
    record = m.dir / "state" / "sets" / f"{ident('old')}.json"
    wait_for("its record", lambda: record.exists() and json.loads(record.read_text())["state"] == "deleting")
    time.sleep(2)  # a daemon that has lived
    os.kill(m.daemon, signal.SIGKILL)
    (m.dir / "hang").unlink()
    wait_for("a new daemon", lambda: m.status()["restarts"] == "1")
    m.daemon = int(m.status()["pid"])
    settled(m)
    assert sorted(os.listdir(m.base)) == ["a", "theirs", "undated", "unmarked", "young"] and not record.exists()
    assert m.read("prune.log").count(f"Z removed {ident('old')} old ") == 1 and sets(m) == ["a"]
    assert set(looked(m)) == {"young", "unmarked", "undated"}


# ---- ebs ----

def test_snapshots_of_a_set_that_failed_and_has_no_record_go(cloud, moto, make_mount):  # noqa: F811
    cloud.proxy.aged = True
    m = make_mount(env=cloud.env, retention="keep_last 9", **cloud.options)
    for name in "abcd":
        assert snapshot(m, f"{name} class=nightly") == 0
        m.wait_state(name, "complete")
    ids = {n: m.read(f"snapshots/{n}/id").strip() for n in "abc"}
    made = dict(zip("abcd", cloud.made))
    m.stop()
    for n in "abc":
        (m.dir / "state" / "sets" / f"{ids[n]}.json").unlink()
    moto.check_signatures(False)
    old = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 9 * DAY))
    for n, tags in {"a": {"failed": "the set failed", "created": old}, "b": {"created": old}, "c": {"failed": "the set failed"}}.items():
        for key, value in tags.items():
            moto.ec2("CreateTags", ResourceId__1=made[n], Tag__1__Key=f"stillfs:{key}", Tag__1__Value=value)
    moto.check_signatures()
    m.start()
    assert m.write("retention", "orphan_age 1w\n") == 0
    rows = looked(m)
    assert {n: row[0] for n, row in rows.items()} == {"a": "delete", "b": "keep", "c": "keep"}
    assert rows["a"][1] == LEFT and rows["c"][1] == "orphan_age 1w" and rows["b"][1].startswith("complete, so its record was lost")
    cloud.proxy.holds[made["a"]] = "locked"
    assert m.write("prune", "apply\n") == 0
    wait_for("the refusal", lambda: "is locked" in plan(m)[1]["a"][1])
    assert plan(m)[1]["a"][0] == "removing" and "Z failed " in m.read("prune.log") and not cloud.sent("DeleteSnapshot")
    cloud.proxy.holds.clear()
    m.stop()
    m.start()
    settled(m)
    assert [f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")] == [made["a"]] and sets(m) == ["d"]
    assert set(looked(m)) == {"b", "c"}
