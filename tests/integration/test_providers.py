"""One conformance suite over all providers: local, exec, ebs against moto, null, and a fake that is right. The same suite
must find each of the fake's defects."""

import contextlib
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from cloud import make_cloud  # noqa: F401
from coordinators import Drive, Failed
from stillfs import BUILD, Scratch, wait_for

DRIVE = BUILD / "tests" / "unit" / "snapshot" / "drive_provider"
ID, OTHER = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
DEFECTS = ["preflight takes", "deaf to cancel", "complete at once in list", "percent falls", "resumes nothing", "resumes another's",
           "no sentence", "discard leaks", "discard leaves", "remove once only", "removes another's", "remove leaves", "listed twice"]
# a whole provider in few lines: the contract's JSON, a set is a directory
SCRIPT = """#!%s -I
import json, os, shutil, sys
q = json.load(sys.stdin)
top, verb, answer = q["options"]["dir"], q["verb"], {}
if verb == "list":
    sets = [os.path.join(top, n) for n in sorted(os.listdir(top))]
    answer = {"sets": [{"name": os.path.basename(p), "id": open(p + "/id").read(), "complete": os.path.exists(p + "/done")} for p in sets]}
elif verb != "preflight":
    p = os.path.join(top, q["name"])
    there = os.path.isdir(p)
    if there and open(p + "/id").read() != q["id"]:
        sys.exit(65)
    if verb == "trigger":
        os.mkdir(p)
        open(p + "/id", "w").write(q["id"])
    elif verb == "poll":
        if not there:
            sys.exit(66)
        open(p + "/done", "w")
        answer = {"complete": True, "percent": 100}
    elif verb == "remove" and there:
        shutil.rmtree(p)
print(json.dumps(answer))
"""


class Driven(Drive):
    """A failure is an answer here: code (0 or -errno) and message."""

    code, message = 0, ""

    def __call__(self, command, within_s=60):
        self.code, self.message = 0, ""
        try:
            return super().__call__(command, within_s)
        except Failed as e:
            self.code, self.message, self.ms = -e.code, e.message, e.ms
            return []


class Provider:
    """How to drive one, and what it can show. remembers: its own storage knows the sets."""

    def __init__(self, name, remembers=True, env=None, **options):
        self.name, self.remembers, self.env, self.options = name, remembers, env or {}, options

    @contextlib.contextmanager
    def drive(self):
        old = dict(os.environ)
        os.environ.update(self.env)
        try:
            d = Driven([DRIVE, self.name], **self.options)
        finally:
            os.environ.clear()
            os.environ.update(old)
        try:
            yield d
        finally:
            d.close()


@pytest.fixture
def make_provider(request, make_cloud):  # noqa: F811
    with contextlib.ExitStack() as made:
        def make(kind, defect=""):
            s = Scratch()
            made.callback(s.close)
            back = s.fs / "back"
            back.mkdir()
            (back / "file").write_text("x" * 5000)
            if kind == "local":
                return Provider("local", pair=back)
            if kind == "null":
                return Provider("null", remembers=False, pair=back)
            if kind == "exec":
                script, sets = s.dir / "script", s.dir / "sets"
                sets.mkdir()
                script.write_text(SCRIPT % sys.executable)
                script.chmod(stat.S_IRWXU)
                return Provider("exec", pair=back, exec__script=script, exec__option=f"dir={sets}")
            if kind == "ebs":
                c = make_cloud(s.dir / "cloud", {"/dev/sdf": s.image})
                options = {k: v for k, v in c.options.items() if k != "provider"}
                return Provider("ebs", env=c.env, pair=back, **options)
            sets = s.dir / "sets"
            sets.mkdir()
            return Provider("fake", env={"STILLFS_FAKE_DIR": str(sets), "STILLFS_FAKE_DEFECT": defect}, pair=back)
        yield make


def ok(d, line):
    lines = d(line)
    assert d.code == 0, (line, d.code, d.message)
    return lines


def refused(d, line, *codes):
    """It fails with one of these, and says why."""
    d(line)
    assert d.code < 0 and (not codes or d.code in codes), (line, d.code, d.message)
    assert len(d.message) > 5, f"{line}: no sentence"


def follow(d):
    last = [0]

    def done():
        percent, complete = map(int, ok(d, "poll")[0].split())
        assert last[0] <= percent <= 100, f"percent {last[0]}, then {percent}"
        last[0] = percent
        return complete
    wait_for("completion", done, 60)


def listed(d):
    found = [line.split() for line in ok(d, "list")]
    assert len({(n, i) for n, i, _ in found}) == len(found), f"listed twice: {found}"
    return {(n, i): c == "1" for n, i, c in found}


def nothing_is_there_before(p, d):
    refused(d, f"resume none {ID}") if p.remembers else ok(d, f"resume none {ID}")
    ok(d, "finish")
    assert ok(d, "ref") == ["0"]
    ok(d, f"remove none {ID}")
    assert listed(d) == {}


def what_is_only_prepared_leaves_nothing(p, d):
    ok(d, f"preflight one {ID}")
    there = listed(d)  # what trigger will need may be made beforehand
    assert ("one", ID) not in there and not any(there.values()), "preflight has taken something"
    ok(d, "discard")
    assert ok(d, "ref") == ["0"], "discard frees the run"
    assert listed(d) == {}


def a_cancelled_run_ends_soon_and_leaves_nothing(p, d):
    ok(d, f"preflight one {ID}")
    d("cancel 1")
    if p.name != "null":
        refused(d, "trigger 10000")
        assert d.ms < 5000, f"cancelled, and took {d.ms} ms"
    d("cancel 0")
    ok(d, "discard")
    assert listed(d) == {}


def a_set_lives_and_is_removed(p, d):
    ok(d, f"preflight one {ID}")
    ok(d, "trigger 10000")
    if p.remembers and p.name != "ebs":  # moto's snapshots are complete when they are born
        assert not listed(d).get(("one", ID)), "complete before it was followed"
    follow(d)
    ok(d, "finish")
    assert ok(d, "ref") == ["0"]
    if p.remembers:
        assert listed(d) == {("one", ID): True}


def another_process_takes_it_up(p, d):
    ok(d, f"resume one {ID}")
    follow(d)
    ok(d, "finish")
    if p.remembers:
        refused(d, f"resume one {OTHER}")
        ok(d, "finish")


def others_are_left_alone(p, d):
    if not p.remembers:
        return
    d(f"remove one {OTHER}")  # a refusal, or there is nothing of that id
    assert d.code in (0, -116), (d.code, d.message)
    if p.name == "fake":
        assert d.code == -116
    assert listed(d) == {("one", ID): True}, "it removed another's set"


def removal_is_whole_and_can_be_repeated(p, d):
    ok(d, f"remove one {ID}")
    assert listed(d) == {}, "remove left it"
    ok(d, f"remove one {ID}")


def a_failed_run_is_discarded(p, d):
    ok(d, f"preflight two {OTHER}")
    ok(d, "trigger 10000")
    ok(d, "discard")
    assert ok(d, "ref") == ["0"] and listed(d) == {}, "discard left it"


def conform(p):
    with p.drive() as d:
        nothing_is_there_before(p, d)
        what_is_only_prepared_leaves_nothing(p, d)
        a_cancelled_run_ends_soon_and_leaves_nothing(p, d)
        a_set_lives_and_is_removed(p, d)
    with p.drive() as d:
        another_process_takes_it_up(p, d)
        others_are_left_alone(p, d)
        removal_is_whole_and_can_be_repeated(p, d)
        a_failed_run_is_discarded(p, d)


@pytest.mark.parametrize("kind", ["local", "null", "exec", "ebs", "fake"])
def test_the_provider_keeps_its_contract(make_provider, kind):
    conform(make_provider(kind))


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_suite_finds_the_defect(make_provider, defect):
    text = pathlib.Path(__file__).parents[1].joinpath("harness", "fake_provider.c").read_text()
    assert text.count(f'defect("{defect}")') >= 1
    with pytest.raises(AssertionError):
        conform(make_provider("fake", defect))


def test_two_hosts_with_one_name_and_lineage_leave_each_others_sets_alone(make_cloud):  # noqa: F811
    """As a machine and its clone, or one that was set up under a name that is taken: sets of one name, told apart by their ids."""
    with contextlib.closing(Scratch()) as s:
        (s.fs / "back").mkdir()
        c = make_cloud(s.dir / "cloud", {"/dev/sdf": s.image, "/dev/sdg": s.image})
        options = {k: v for k, v in c.options.items() if k not in ("provider", "ebs__volumes")}
        a, b = (Provider("ebs", env=c.env, pair=s.fs / "back", ebs__volumes=v, **options) for v in c.volumes)
        with a.drive() as first, b.drive() as second:
            for d, set_id in ((first, ID), (second, OTHER)):
                ok(d, f"preflight nightly {set_id}")
                ok(d, "trigger 10000")
            for d in (first, second):
                follow(d)
                ok(d, "finish")
                assert listed(d) == {("nightly", ID): True, ("nightly", OTHER): True}
            ok(second, f"remove nightly {OTHER}")
            assert listed(first) == {("nightly", ID): True}
            ok(first, f"resume nightly {ID}")
            follow(first)
            refused(second, f"resume nightly {OTHER}")


def test_every_provider_is_in_the_suite():
    registry = (pathlib.Path(__file__).parents[2] / "snapshot" / "registry.c").read_text()
    assert {w for w in ("local", "ebs", "exec", "null") if f"&prov_{w}," in registry} == {"local", "ebs", "exec", "null"}
    assert registry.count("&prov_") == 4
    assert subprocess.run([DRIVE, "none"], capture_output=True, text=True).stdout.startswith("= -22")
