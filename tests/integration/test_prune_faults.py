"""The daemon dies at each step of a `prune apply` of several sets (points prune.*, clean.*, catalog.* and local.* of
base/fault.h), on provider null and local: the prune is finished by the successor, no set is removed twice or forgotten,
what was pinned or is the floor stays, and prune.log tells each removal once. Needs a build with -Dfault_points=true."""

import errno
import json
import os
import pathlib
import re
import signal
import threading

import pytest

from stillfs import STILLFS, wait_for
from test_retention import change_records, plan, sets, settled, take
from test_takeover_faults import Faults

SOURCES = pathlib.Path(__file__).parents[2] / "snapshot"
FILES = (*SOURCES.glob("prune*.c"), SOURCES / "engine_clean.c", SOURCES / "catalog.c", SOURCES / "local" / "remove.c")
POINTS = sorted({p for f in FILES for p in re.findall(r'FAULT\("([a-z_.]+)"\)', f.read_text())})
IN_RESUME = "prune.resumed"
BEFORE = ("prune.planned", "catalog.written")  # the plan did not count yet
# Passed for each set: met at the first one and at the last.
EACH = ("clean.", "catalog.unlinked", "local.", "prune.log", "prune.struck", "prune.settled")
# How often the provider is asked once more than there are sets: it had done its part of one, and the record was there
# still, or might be, as the engine's thread goes on by itself.
AGAIN = {"clean.removed": (1,), "clean.logged": (1,), "prune.begun": (0, 1), "prune.log": (0, 1)}
CASES = [(provider, p, nth) for provider in ("null", "local") for p in POINTS for nth in ((1, 3) if p.startswith(EACH) else (1,))
         if p != IN_RESUME and (provider == "local" or not p.startswith("local."))]

pytestmark = pytest.mark.skipif(b"journal.valid" not in STILLFS.read_bytes(), reason="a build without fault points")


class Site:
    """A mount whose oldest set is the newest verified one, and the ids of all sets there ever were."""

    def __init__(self, scratch, make_mount, provider):
        self.faults = Faults(scratch.dir / "faults")
        self.provider, self.ids, self.local, self.restarts = provider, {}, scratch.fs / "sets", 0
        options = {"local_dir": self.local} if provider == "local" else {}
        self.m = make_mount(env={"STILLFS_FAULTS": str(self.faults.path)}, provider=provider, retention="keep_last 2", **options)
        (self.m.mnt / "f").write_text("x" * 10000)
        take(self.m, "proof")
        self.m.stop()
        change_records(self.m, lambda r: r.update(verified="yes"))
        self.m.start()

    def records(self):
        """{id: record} of the catalog as it is on disk; anything else in there is wrong."""
        out = {}
        for path in (self.m.dir / "state" / "sets").iterdir():
            assert path.suffix == ".json" and not path.name.startswith("."), path.name
            out[path.stem] = json.loads(path.read_text())
            assert out[path.stem]["id"] == path.stem
        return out

    def prepare(self):
        """Six sets more, the oldest of them pinned: (what is to stay, what is to go)."""
        names = [f"n{i}" for i in range(6)]
        take(self.m, *names)
        assert self.m.write(f"snapshots/{names[0]}/pin", "yes\n") == 0, self.m.last_error()
        stay, go = ["proof", names[0], *names[4:]], names[1:4]
        head, rows = plan(self.m)
        assert [n for n, (action, _) in rows.items() if action == "delete"] == go
        assert rows["proof"] == ("keep", "newest verified") and rows[names[0]] == ("keep", "pinned")
        self.plan = head["plan"]
        self.ids.update((i, r["name"]) for i, r in self.records().items())
        return stay, go

    def taken_over(self):
        self.restarts += 1
        wait_for("the take-over", lambda: int(self.m.status()["restarts"]) == self.restarts)
        self.m.daemon = int(self.m.status()["pid"])

    def asked(self):
        """Provider null: the names that the provider was asked to remove, in order."""
        return [c[2] for c in self.m.null_calls() if c[1] == "remove"]

    def assert_done(self, stay, go, again):
        settled(self.m)
        wait_for("the journal's end", lambda: not (self.m.dir / "state" / "prune.journal").exists())
        assert sets(self.m) == stay
        assert {r["name"]: r["state"] for r in self.records().values()} == dict.fromkeys(stay, "complete")
        assert {i: r["name"] for i, r in self.records().items()}.items() <= self.ids.items()
        log = self.m.read("prune.log")
        told = re.findall(r"(?m)^\S+Z removed ([0-9a-f]{32}) (\S+) ", log)
        assert sorted(told) == sorted(x for x in self.ids.items() if x[0] not in self.records())
        assert not re.search(r"(?m)^\S+Z (failed|skipped) ", log)
        ends = re.findall(r"(?m)^\S+Z end .*$", log)
        assert all(re.search(r"Z end ([0-9a-f]{16}|of an interrupted run): removed \d+, skipped 0, failed 0$", e) for e in ends), ends
        if self.provider == "null":
            asked = self.asked()
            assert set(asked) == set(go)
            assert len(asked) - len(go) in again, asked
        else:
            assert sorted(os.listdir(self.local)) == sorted(stay)
            for name in stay:
                assert (self.m.control / "snapshots" / name / "data" / "f").read_text() == "x" * 10000

    def assert_name_is_free(self, stay, name):
        """A set of a name that went can be taken, and is not touched by what is left of the old prune."""
        before = self.asked()
        take(self.m, name)
        settled(self.m)
        assert sets(self.m) == [*stay, name] and self.asked() == before


@pytest.fixture
def site(request, scratch, make_mount):
    return Site(scratch, make_mount, request.param)


@pytest.mark.parametrize("site,point,nth", CASES, indirect=["site"])
def test_death_at_each_step_of_a_prune(site, point, nth):
    stay, go = site.prepare()
    site.faults.arm(point, nth)
    by_id = site.provider == "null"
    command = f"apply {site.plan}\n" if by_id else "apply\n"
    result = site.m.write("prune", command)
    wait_for(f"death at {point}", site.faults.killed)
    site.taken_over()
    assert result == 0, site.m.last_error()
    site.assert_done(stay, go, AGAIN.get(point, (0,)))
    again = errno.EAGAIN if by_id and point in BEFORE else 0  # then it was the successor who made it count
    assert site.m.write("prune", command) == again, "asked again by hand: a plan that a dead daemon made count is done"
    assert sets(site.m) == stay
    assert site.m.write("prune", "apply 0123456789abcdef\n") == errno.EAGAIN
    site.assert_name_is_free(stay, go[-1])


@pytest.mark.parametrize("site", ["null", "local"], indirect=True)
def test_death_while_an_interrupted_prune_is_taken_up(site):
    """The first daemon dies when the plan counts, its successor while it reads what is left of that."""
    stay, go = site.prepare()
    site.faults.arm("prune.counts")
    result = []
    writer = threading.Thread(target=lambda: result.append(site.m.write("prune", f"apply {site.plan}\n")))
    os.kill(site.m.keeper, signal.SIGSTOP)  # so that the next point is armed before there is a successor
    try:
        writer.start()
        wait_for("the first death", site.faults.killed)
        site.faults.arm(IN_RESUME)
    finally:
        os.kill(site.m.keeper, signal.SIGCONT)
    wait_for("the second death", site.faults.killed)
    site.restarts += 1
    site.taken_over()
    writer.join(30)
    assert result == [0], site.m.last_error()
    site.assert_done(stay, go, (0,))
    site.assert_name_is_free(stay, go[-1])
