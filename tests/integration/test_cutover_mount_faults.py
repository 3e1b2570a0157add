"""stillfs-cutover is killed between a command that it writes into the control file `fence` of a side that is a stillfs, and
what comes of it: resume and abort go by what the daemon says. Needs a build with -Dfault_points=true."""

import os
import signal

import pytest

import cutovers
import test_cutover_mount
from stillfs import once_each
from test_cutover_mount import KINDS
from test_takeover_faults import Faults

pytestmark = pytest.mark.skipif(not cutovers.PROGRAM.exists() or b"cut.asked" not in cutovers.PROGRAM.read_bytes(),
                                reason="a build without fault points")


class Site(test_cutover_mount.Site):
    def __init__(self, kind, stack):
        super().__init__(kind, stack)
        self.faults = Faults(self.dir / "faults")
        self.env = {**os.environ, "STILLFS_FAULTS": str(self.faults.path)}

    def die_at(self, point):
        self.faults.arm(point)
        code, _, err = self.call(*self.sides())
        assert code == -signal.SIGKILL and self.faults.killed() == 1, (code, err)
        assert sum(self.writable(s) for s in self.servers) < 2

    def go_back(self):
        """B is the one on the stillfs, which keeps it fenced and retired."""
        assert self.run()[0] == 0
        cutovers.Site.settle(self)


@pytest.fixture(scope="module")
def sites():
    with once_each(Site) as get:
        yield get


@pytest.fixture(params=KINDS, ids=lambda k: k.__name__)
def site(request, sites):
    s = sites(request.param)
    s.settle()
    return s


@pytest.mark.parametrize("way", ["resume", "abort"])
@pytest.mark.parametrize("point", ["cut.fencing", "cut.asked", "cut.fenced", "cut.confirmed"])
def test_death_on_the_way(site, point, way):
    site.die_at(point)
    code, out, err = site.call(way)
    assert code == 0, (out, err)
    there = way == "resume"
    assert site.writable(site.b) == there and site.writable(site.a) != there
    assert site.fence() == ("on" if there else "off") and site.has("retired yes") == there


@pytest.mark.parametrize("point", ["cut.sending", "cut.sent", "cut.asked_off", "cut.retired"])
def test_death_on_the_way_back(site, point):
    site.go_back()
    site.die_at(point)
    code, out, err = site.call("resume")
    assert code == 0, (out, err)
    assert site.writable(site.b) and not site.writable(site.a) and site.fence() == "off"


def test_b_that_was_shut_by_a_resolve_is_reopened_though_a_is_on_a_stillfs(site):
    """The newest journal says by which stillfs A was fenced, which is not this one's."""
    site.die_at("cut.sent")
    assert site.call("resolve", "--writable", "A")[0] == 0
    assert site.writable(site.a) and not site.writable(site.b)
    cutovers.ro(site.a, True)  # or two would be writable
    code, out, err = site.call("reopen", "--server", site.named(site.b), "--force")
    assert code == 0 and site.writable(site.b), (out, err)


def test_b_that_was_shut_by_a_resolve_is_retired_until_the_next_cut_over(site):
    site.go_back()
    site.die_at("cut.sent")
    code, out, err = site.call("resolve", "--writable", "A")
    assert code == 0, (out, err)
    assert site.writable(site.a) and not site.writable(site.b) and site.fence() == "on" and site.has("retired yes")
    cutovers.Site.settle(site)
    assert site.run()[0] == 0
    assert site.writable(site.b) and site.fence() == "off"
