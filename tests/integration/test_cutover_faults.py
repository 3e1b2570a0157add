"""stillfs-cutover is killed at each of its steps (points cut.* of base/fault.h), servers are stopped and killed between
them: resume, abort and resolve end it, one server takes writes, and clients that wrote all the time lose nothing. Needs a
build with -Dfault_points=true."""

import os
import pathlib
import re
import signal

import pytest

import cutovers
from mariadb import MariaDB
from mysql import MySQL
from test_takeover_faults import Faults

SOURCES = pathlib.Path(__file__).parents[2] / "snapshot" / "cutover"
POINTS = [p for f in ("main", "steps", "ops") for p in re.findall(r'FAULT\("(cut\.[a-z_]+)"\)', (SOURCES / f"{f}.c").read_text())]
BACK = ("cut.unfencing", "cut.unfenced")
RESOLVE = ("cut.resolving", "cut.shut", "cut.reopening", "cut.reopened")
FORWARD = [p for p in POINTS if p not in BACK + RESOLVE]
BEFORE = ("cut.begun", "cut.fencing", "cut.fenced", "cut.final", "cut.caught_up", "cut.confirmed")

pytestmark = pytest.mark.skipif(not cutovers.PROGRAM.exists() or b"cut.fencing" not in cutovers.PROGRAM.read_bytes(),
                                reason="a build without fault points")


@pytest.fixture(scope="module", params=[MariaDB, MySQL] if os.environ.get("STILLFS_ALL") else [MariaDB], ids=lambda k: k.__name__)
def servers(request):
    s = cutovers.Site(request.param)
    s.faults = Faults(s.dir / "faults")
    s.env = {**os.environ, "STILLFS_FAULTS": str(s.faults.path)}
    yield s
    s.close()


@pytest.fixture
def site(servers):
    servers.settle()
    return servers


@pytest.fixture
def clients(site):
    c = cutovers.Clients(site)
    c.go_on(10)
    yield c
    c.stop()
    writable = [s for s in site.servers if site.writable(s)]
    assert len(writable) == 1
    c.assert_kept(writable[0])


def die_at(site, point, *args):
    site.faults.arm(point)
    code, _, err = site.call(*(args or site.sides()))
    assert code == -signal.SIGKILL and site.faults.killed() == 1, (code, err)
    assert sum(site.writable(s) for s in site.servers) < 2


@pytest.mark.parametrize("point", FORWARD)
def test_death_at_each_step_and_resume(site, clients, point):
    die_at(site, point)
    if point == "cut.retired":  # nothing was left to be done but its last line
        assert site.state()["state"] in ("open", "hooked")
    code, out, err = site.call("resume")
    assert code == 0, (out, err)
    assert site.writable(site.b) and not site.writable(site.a)
    clients.target = site.b
    clients.go_on(10, site.b)


@pytest.mark.parametrize("point", BEFORE + BACK)
def test_death_before_the_point_and_abort(site, clients, point):
    if point in BACK:
        die_at(site, "cut.fenced")
        die_at(site, point, "abort")
    else:
        die_at(site, point)
    code, out, err = site.call("abort")
    assert code == 0, (out, err)
    assert site.writable(site.a) and not site.writable(site.b)
    clients.go_on(10)


@pytest.mark.parametrize("point", RESOLVE)
def test_death_in_a_resolve_and_resolve_again(site, clients, point):
    die_at(site, "cut.sending")
    die_at(site, point, "resolve", "--writable", "A")
    code, _, err = site.call("resume")
    assert code == 1 and "resolve" in err, err
    code, out, err = site.call("resolve", "--writable", "A")
    assert code == 0, (out, err)
    assert site.writable(site.a) and not site.writable(site.b)


def test_b_stopped_after_the_point_is_uncertain_until_resolved(site, clients):
    die_at(site, "cut.sending", *site.sides(), "--timeout", "3")
    site.b.process.send_signal(signal.SIGSTOP)
    try:
        code, _, err = site.call("resume")
        assert code == 3 and "UNCERTAIN" in err, err
        assert not site.writable(site.a)
        code, _, err = site.call("resolve", "--writable", "A")  # B must be seen closed, or be down
        assert code == 3 and not site.writable(site.a), err
    finally:
        site.b.process.send_signal(signal.SIGCONT)
    code, _, err = site.call("resume")
    assert code == 1 and "resolve --writable A" in err, err
    code, _, err = site.call("abort")
    assert code == 1, err
    code, out, err = site.call("resolve", "--writable", "B")
    assert code == 0, (out, err)
    assert site.writable(site.b) and not site.writable(site.a)
    clients.target = site.b
    clients.go_on(10, site.b)


def test_b_killed_while_it_catches_up_gives_the_writes_back(site, clients):
    die_at(site, "cut.fenced")
    site.b.kill()
    code, _, err = site.call("resume")
    assert code == 1 and "A takes the writes as before" in err, err
    assert site.writable(site.a)
    site.b.start("--read-only=1")
    clients.go_on(10)


@pytest.mark.long
def test_a_stopped_while_it_is_fenced_is_told_and_aborted_later(site, clients):
    die_at(site, "cut.fencing", *site.sides(), "--timeout", "3")
    site.a.process.send_signal(signal.SIGSTOP)
    try:
        code, _, err = site.call("resume")
        assert code == 3 and "A IS STILL FENCED" in err, err
    finally:
        site.a.process.send_signal(signal.SIGCONT)
    code, _, err = site.call("abort")
    assert code == 0 and site.writable(site.a), err
    clients.go_on(10)


def test_a_killed_after_the_point_comes_back_fenced_and_b_takes_over(site, clients):
    die_at(site, "cut.sending")
    site.a.kill()
    site.a.start()
    assert not site.writable(site.a)
    code, _, err = site.call("resume")
    assert code == 0 and site.writable(site.b) and not site.writable(site.a), err
    clients.target = site.b
    clients.go_on(10, site.b)


def test_a_restarted_without_its_fence_after_the_point_is_not_joined_by_b(site, clients):
    die_at(site, "cut.sending", *site.sides(), "--no-persist")
    site.a.kill()
    site.a.start()  # it is open again
    assert site.writable(site.a)
    clients.go_on(5)
    code, _, err = site.call("resume")
    assert code == 3 and "UNCERTAIN" in err, err
    assert not site.writable(site.b)
    code, _, err = site.call("resolve", "--writable", "A")
    assert code == 0 and site.writable(site.a) and not site.writable(site.b), err


def test_b_is_opened_with_what_a_took_after_the_point(site, clients):
    """A was restarted without its fence, and B does not receive at first what it acknowledges."""
    word = "REPLICA" if site.kind is MySQL else "SLAVE"
    die_at(site, "cut.sending", *site.sides(), "--no-persist")
    site.b.query(f"STOP {word} IO_THREAD")
    site.a.kill()
    site.a.start()  # it is open again
    clients.go_on(5)
    code, _, err = site.call("resolve", "--writable", "B", "--catch-up", "1")
    assert code == 3 and "B has not executed all that A has within 1 s" in err and "--lose" in err, err
    assert not site.writable(site.a) and not site.writable(site.b)
    site.b.query(f"START {word} IO_THREAD")
    code, out, err = site.call("resolve", "--writable", "B", "--catch-up", "60")
    assert code == 0 and site.writable(site.b) and not site.writable(site.a), (out, err)
    clients.target = site.b
    clients.go_on(10, site.b)
