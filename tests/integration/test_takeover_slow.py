"""The daemon dies within a call of its provider that takes long: an executable of provider exec that is left running, and
requests to EC2 that are accepted and not answered. What was begun is completed or taken back once, nothing is made twice,
nothing is left, and those who write to the mount notice nothing."""

import errno
import itertools
import json
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from cloud import Cloud, snapshot
from stillfs import Mount, Scratch, wait_for
from test_takeover import kill_daemon

# Keeps its sets as directories. A call that finds HOLD-VERB-WHEN takes it, and waits until what it made of it is gone.
SCRIPT = f"""#!{sys.executable}
import json, os, shutil, sys, time

verb, asked = sys.argv[1], json.load(sys.stdin)
top = asked["options"]["dir"]
path = os.path.join(top, "sets", "%s.%s" % (asked.get("name"), asked.get("id")))


def note(what):
    with open(os.path.join(top, "calls"), "a") as f:
        f.write("%s %s %s\\n" % (what, verb, asked.get("name")))


def hold(when):
    at = os.path.join(top, "hold-%s-%s" % (verb, when))
    try:
        os.rename(at, at + ".taken")
    except FileNotFoundError:
        return
    while os.path.exists(at + ".taken"):
        time.sleep(0.01)


note("begin")
hold("before")
answer = {{}}
if verb == "trigger":
    os.makedirs(path)
    shutil.copy(os.path.join(asked["pairs"][0]["backing"], "f"), path)
elif verb == "poll":
    answer = {{"complete": os.path.exists(os.path.join(path, "f"))}}
elif verb == "remove" and os.path.exists(path):
    shutil.rmtree(path)
hold("after")
note("end")
print(json.dumps(answer))
"""


class Storage:
    """What the script keeps, and where it is held."""

    def __init__(self, top):
        self.dir, self.script = top / "storage", top / "script"
        (self.dir / "sets").mkdir(parents=True)
        self.script.write_text(SCRIPT)
        self.script.chmod(stat.S_IRWXU)
        self.held = None

    def hold(self, verb, when):
        self.held = self.dir / f"hold-{verb}-{when}.taken"
        (self.dir / f"hold-{verb}-{when}").touch()

    def wait_held(self):
        wait_for("the call", self.held.exists)

    def release(self):
        self.held.unlink()

    def sets(self):
        return sorted(p.name.split(".")[0] for p in (self.dir / "sets").iterdir())

    def calls(self, *words):
        path = self.dir / "calls"
        return (path.read_text().splitlines() if path.exists() else []).count(" ".join(words))


class Writer:
    """Appends to a file on the mount, and knows how much."""

    def __init__(self, m, name):
        self.path, self.bytes, self.failure, self.stop = m.mnt / name, 0, None, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            with open(self.path, "ab", buffering=0) as f:
                while not self.stop.is_set():
                    assert f.write(b"x" * 100) == 100
                    self.bytes += 100
                    time.sleep(0.002)
        except (OSError, AssertionError) as e:
            self.failure = e

    def goes_on(self):
        before = self.bytes
        wait_for("the writer", lambda: self.failure or self.bytes > before)
        assert not self.failure

    def end(self):
        self.stop.set()
        self.thread.join(30)
        assert not self.failure and self.path.read_bytes() == b"x" * self.bytes


def record(m, name):
    return next((s for s in map(json.loads, m.read("list.json").splitlines()) if s["name"] == name), None)


class Asked(threading.Thread):
    """A snapshot that somebody waits for."""

    def __init__(self, m, name, ask=lambda m, name: m.write("snapshot", f"{name}\n")):
        super().__init__()
        self.m, self.what, self.ask, self.result = m, name, ask, None
        self.start()

    def run(self):
        self.result = self.ask(self.m, self.what)

    def answer(self):
        self.join(30)
        assert not self.is_alive(), "the writer of `snapshot` hangs"
        return self.result


# ---- exec


@pytest.fixture
def storage(scratch):
    return Storage(scratch.dir)


@pytest.fixture
def slow(make_mount, storage):
    m = make_mount(provider="exec", exec__script=storage.script, exec__option=f"dir={storage.dir}", gate_timeout=40)
    (m.mnt / "f").write_text("content")
    writer = Writer(m, "appended")
    yield m, storage, writer
    if storage.held and storage.held.exists():
        storage.release()
    writer.end()


def die_in_trigger(m, storage, writer, when):
    storage.hold("trigger", when)
    asked = Asked(m, "one")
    storage.wait_held()
    assert m.gate() == "closed"
    kill_daemon(m)
    assert asked.answer() == errno.ESHUTDOWN
    assert m.gate() == "open" and m.state("one") == "failed"
    assert "before the consistency point was fixed" in m.read("snapshots/one/last_error")
    writer.goes_on()
    wait_for("its removal", lambda: storage.calls("end", "remove", "one"))


def test_a_script_that_has_made_its_set_when_the_daemon_dies_leaves_nothing(slow):
    m, storage, writer = slow
    die_in_trigger(m, storage, writer, "after")
    assert storage.sets() == []
    assert m.write("snapshot", "two\n") == 0, m.last_error()  # beside the call that still runs
    m.wait_state("two", "complete")
    storage.release()
    wait_for("its end", lambda: storage.calls("end", "trigger", "one"))
    assert storage.sets() == ["two"] and storage.calls("begin", "trigger", "one") == 1
    assert record(m, "one")["leftover"]  # looked for once more: it could have come later


@pytest.mark.long  # waits for the second look, two minutes after the first
@pytest.mark.limit(240)
def test_a_script_that_makes_its_set_after_the_daemons_death_leaves_nothing_for_good(slow):
    m, storage, writer = slow
    die_in_trigger(m, storage, writer, "before")
    storage.release()
    wait_for("its end", lambda: storage.calls("end", "trigger", "one"))
    assert storage.sets() == ["one"] and record(m, "one")["leftover"]
    wait_for("the second removal", lambda: storage.sets() == [], 180)
    wait_for("its record", lambda: not record(m, "one")["leftover"])
    assert storage.calls("begin", "trigger", "one") == 1


def test_a_script_that_is_asked_for_progress_when_the_daemon_dies_is_asked_again(slow):
    m, storage, writer = slow
    storage.hold("poll", "after")
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    storage.wait_held()
    assert m.state("one") == "pending"
    kill_daemon(m)
    m.wait_state("one", "complete")
    storage.release()
    wait_for("its end", lambda: storage.calls("begin", "poll", "one") == storage.calls("end", "poll", "one"))
    writer.goes_on()
    assert m.read("snapshots/one/log").count(" resumed\n") == 1
    assert storage.sets() == ["one"] and storage.calls("begin", "trigger", "one") == 1
    assert storage.calls("begin", "remove", "one") == 0 and m.state("one") == "complete"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_script_that_removes_a_set_when_the_daemon_dies_removes_no_other(slow, when):
    m, storage, writer = slow
    for name in ("one", "two"):
        assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
        m.wait_state(name, "complete")
    storage.hold("remove", when)
    (m.control / "snapshots" / "one").rmdir()
    storage.wait_held()
    kill_daemon(m)
    wait_for("the removal", lambda: storage.sets() == ["two"])
    assert os.listdir(m.control / "snapshots") == ["two"]
    wait_for("another one of this name", lambda: m.write("snapshot", "one\n") == 0)
    m.wait_state("one", "complete")
    storage.release()
    wait_for("its end", lambda: storage.calls("end", "remove", "one") == 2)
    writer.goes_on()
    assert storage.sets() == ["one", "two"] and m.state("one") == m.state("two") == "complete"


# ---- ebs


@pytest.fixture(scope="module")
def site(moto_of_module, later):
    """An instance with two volumes, below one mount."""
    scratch = Scratch()
    later(scratch.close)
    second = scratch.dir / "second"
    second.touch()
    os.truncate(second, 1 << 20)
    cloud = Cloud(moto_of_module, scratch.dir / "cloud", {"/dev/sdf": scratch.image, "/dev/sdg": second})
    later(cloud.close)
    later(cloud.proxy.released.set)
    m = Mount(scratch, start=False, env=cloud.env, gate_timeout=40, **cloud.options)
    later(m.close)
    m.start()
    return m, cloud


names = (f"set{k}" for k in itertools.count())  # one that failed is kept in mind for two minutes


def left(cloud):
    """Snapshots that EC2 still has."""
    return set(cloud.made) - set(cloud.proxy.deleted)


def delete(m, name):
    assert m.write("prune", f"delete {name} force\n") == 0, m.last_error()


@pytest.fixture
def orders(site):
    """The site with nothing taken; afterwards nothing is left at EC2, which takes one snapshot of a volume in 15 seconds."""
    m, cloud = site
    cloud.proxy.released.clear()
    cloud.calls.clear()
    cloud.forms.clear()
    cloud.made.clear()
    name = next(names)
    writer = Writer(m, name)
    yield m, cloud, writer, name
    cloud.proxy.released.set()
    writer.end()
    for name in os.listdir(m.control / "snapshots"):
        if m.state(name) == "complete":
            delete(m, name)
    wait_for("the deletion", lambda: not left(cloud), 60)


def hold(cloud, action, kind):
    cloud.faults[action].append(kind)
    cloud.proxy.holding.clear()


def wait_held(cloud):
    wait_for("the request", lambda: cloud.proxy.holding)


def die_in_request(m, cloud, writer, name, kind):
    hold(cloud, "CreateSnapshots", kind)
    asked = Asked(m, name, snapshot)
    wait_held(cloud)
    assert m.gate() == "closed"
    kill_daemon(m)
    assert "the daemon died while it was taken" in asked.answer()
    assert m.gate() == "open" and m.state(name) == "failed"
    writer.goes_on()


def test_snapshots_that_ec2_accepted_before_the_daemon_died_are_found_by_their_tag_and_deleted(orders):
    m, cloud, writer, name = orders
    die_in_request(m, cloud, writer, name, "held")
    assert len(cloud.made) == 2
    wait_for("the deletion", lambda: not left(cloud), 60)
    looked = cloud.sent("DescribeSnapshots")[-1]
    assert looked["Filter.1.Name"] == "tag:stillfs:id" and looked["Filter.1.Value.1"] == record(m, name)["id"]
    assert record(m, name)["leftover"]  # looked for once more
    assert snapshot(m, f"{name}-next") == 0, m.last_error()  # while the lost request still waits for nobody
    m.wait_state(f"{name}-next", "complete", 60)
    cloud.proxy.released.set()
    assert len(cloud.sent("CreateSnapshots")) == 2 and len(left(cloud)) == 2 and len(cloud.made) == 4


@pytest.mark.long  # waits for the second look, two minutes after the first
@pytest.mark.limit(240)
def test_snapshots_that_ec2_accepts_after_the_daemons_death_are_deleted_by_the_second_look(orders):
    m, cloud, writer, name = orders
    die_in_request(m, cloud, writer, name, "early")
    wait_for("the first look", lambda: cloud.sent("DescribeSnapshots")[-1].get("Filter.1.Value.1") == record(m, name)["id"])
    assert not cloud.made
    cloud.proxy.released.set()
    wait_for("the late ones", lambda: len(left(cloud)) == 2)
    wait_for("the deletion", lambda: not left(cloud), 180)
    wait_for("its record", lambda: not record(m, name)["leftover"])
    assert len(cloud.sent("CreateSnapshots")) == 1


def test_a_daemon_that_dies_while_it_asks_for_progress_has_a_successor_that_asks_again(orders):
    m, cloud, writer, name = orders
    cloud.proxy.pending = True
    assert snapshot(m, name) == 0, m.last_error()
    hold(cloud, "DescribeSnapshots", "held")
    wait_held(cloud)
    assert m.state(name) == "pending"
    cloud.proxy.pending = False
    kill_daemon(m)
    m.wait_state(name, "complete", 60)
    cloud.proxy.released.set()
    writer.goes_on()
    assert m.read(f"snapshots/{name}/log").count(" resumed\n") == 1
    assert len(cloud.sent("CreateSnapshots")) == 1 and len(left(cloud)) == 2 and not cloud.sent("DeleteSnapshot")


@pytest.mark.parametrize("kind", ["held", "early"])
def test_a_daemon_that_dies_while_it_deletes_has_a_successor_that_deletes_the_rest(orders, kind):
    m, cloud, writer, name = orders
    assert snapshot(m, name) == 0, m.last_error()
    m.wait_state(name, "complete", 60)
    hold(cloud, "DeleteSnapshot", kind)
    delete(m, name)
    wait_held(cloud)
    kill_daemon(m)
    wait_for("the deletion", lambda: not left(cloud), 60)
    cloud.proxy.released.set()
    writer.goes_on()
    assert {f["SnapshotId"] for f in cloud.sent("DeleteSnapshot")} == set(cloud.made)
    assert name not in os.listdir(m.control / "snapshots")
