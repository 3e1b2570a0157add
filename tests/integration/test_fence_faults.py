"""The daemon dies at each step of a fence that goes up or comes down (points fence.* of base/fault.h): its successor ends
what was begun, no client writes behind a fence that says on, and everything is as before once it says off. Needs a build
with -Dfault_points=true."""

import contextlib
import errno
import os
import pathlib
import re
import time

import pytest

import test_fence_hard as fence_hard
from fence_site import Site
from fences import READ_ONLY, insert, settings
from stillfs import STILLFS, once_each, wait_for
from test_fence_mongodb import Mongo
from test_takeover_faults import Faults

SOURCES = pathlib.Path(__file__).parents[2] / "snapshot" / "fence"
POINTS = sorted({p for f in SOURCES.glob("*.c") for p in re.findall(r'FAULT\("([a-z_.]+)"\)', f.read_text())})
DOWN = {"fence.unpersisted", "fence.opened", "fence.dropped", "fence.saved"}
HARD = {"fence.sealed", "fence.unsealed"}  # of on hard
MONGODB = {p for p in POINTS if p.startswith("fence.mongodb_")}
UP = set(POINTS) - HARD - MONGODB - {"fence.unpersisted", "fence.opened", "fence.dropped"}
# The journal is written before the first change and after the last. MySQL includes nothing.
EACH = ("fence.unpersisted", "fence.opened")  # of MySQL for each variable
CASES = [(kind, command, point, nth)
         for kind in ("mariadb", "mysql") for command, points in (("on", sorted(UP)), ("off", sorted(DOWN)))
         for point in points
         for nth in ((1, 2) if (point, command) == ("fence.saved", "on") or (kind == "mysql" and command == "off" and point in EACH)
                     else (1,))
         if not (kind == "mysql" and point == "fence.included")]
if not os.environ.get("STILLFS_ALL"):
    CASES = [c for c in CASES if c[0] == "mariadb"]
MONGODB_CASES = [("on", "fence.recorded", 1), ("on", "fence.mongodb_stepped", 1), ("on", "fence.mongodb_frozen", 1), ("on", "fence.recorded", 2),
                 ("off", "fence.saved", 1), ("off", "fence.mongodb_thawed", 1), ("off", "fence.dropped", 1)]

pytestmark = pytest.mark.skipif(b"journal.valid" not in STILLFS.read_bytes(), reason="a build without fault points")


@pytest.fixture(scope="module")
def sites():
    def make(kind, stack):
        s = Site(kind, stack, env=lambda d: {"STILLFS_FAULTS": str(Faults(d / "faults").path)})
        s.server.query("SET GLOBAL event_scheduler=ON")  # its point is passed where there is something to stop
        s.before = settings(s.server)
        return s
    with once_each(make) as get:
        yield get


def lives_s(pid):
    started = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def test_every_point_has_a_case():
    assert {c[2] for c in CASES} | HARD | {c[1] for c in MONGODB_CASES} == set(POINTS)
    assert MONGODB <= {c[1] for c in MONGODB_CASES}


@pytest.mark.parametrize("kind, command, point, nth", CASES)
def test_death_at_each_step(sites, kind, command, point, nth):
    site = sites(kind)
    faults = Faults(site.scratch.dir / "faults")
    restarts, daemon = int(site.m.status()["restarts"]), int(site.m.status()["pid"])
    wait_for("that it is no daemon that dies at once", lambda: lives_s(daemon) > 2)  # five of those end the mount
    if command == "off":
        site.on()
    faults.arm(point, nth)
    site.write(command + "\n")
    wait_for(f"death at {point}", faults.killed, 60)
    wait_for("the take-over", lambda: int(site.m.status()["restarts"]) == restarts + 1, 60)
    site.wait(command)
    if command == "on":
        assert insert(site.server) == READ_ONLY and "done yes\n" in site.journal()
        assert settings(site.server)["event_scheduler"] == "OFF"
        site.off()
    assert settings(site.server) == site.before
    assert insert(site.server) == 0 and not site.journal()
    assert faults.killed() == 1


@pytest.mark.parametrize("command, point, nth", MONGODB_CASES)
def test_death_at_each_step_of_a_mongodb(scratch, command, point, nth):
    with contextlib.ExitStack() as stack:
        faults = Faults(scratch.dir / "faults")
        site = Mongo(scratch, stack, env={"STILLFS_FAULTS": str(faults.path)})
        if command == "off":
            site.on()
        faults.arm(point, nth)
        site.write(command + "\n")
        wait_for(f"death at {point}", faults.killed, 60)
        wait_for("the take-over", lambda: site.m.status()["restarts"] == "1", 60)
        site.wait(command)
        assert site.a.role == "secondary" and site.sent().count("replSetStepDown") == 1
        if command == "on":
            assert site.frozen() == [0] and "done yes\n" in site.journal() and "was primary\n" in site.journal()
            site.off()
        assert site.frozen() == [] and not site.journal()


@pytest.mark.parametrize("command, point, after", [("on hard", "fence.sealed", "off"), ("on hard", "fence.saved", "on hard"),
                                                   ("off", "fence.saved", "off"), ("off", "fence.unsealed", "off")])
def test_death_at_each_step_of_a_hard_one(make_mount, scratch, command, point, after):
    faults = Faults(scratch.dir / "faults")
    m = make_mount(env={"STILLFS_FAULTS": str(faults.path)})
    (m.mnt / "f").write_text("old")
    if command == "off":
        fence_hard.hard(m)
    faults.arm(point)
    with contextlib.suppress(OSError):
        m.write("fence", command + "\n")
    wait_for(f"death at {point}", faults.killed)
    wait_for("the take-over", lambda: m.status()["restarts"] == "1")
    wait_for(after, lambda: fence_hard.line(m) == after)
    assert fence_hard.errno_at(lambda: os.open(m.mnt / "f", os.O_RDWR)) == (errno.EROFS if after == "on hard" else 0)
    fence_hard.off(m)
    assert not (m.dir / "state" / "db-fence.journal").exists()
