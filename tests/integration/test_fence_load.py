"""The fence holds: minutes under load while a source feeds the fenced server, and over kills of the server with clients that
may nearly everything. `--all`: ten minutes, and ten kills; else a slice of the same."""

import os
import time

import pytest

import replication
from fence_site import Hammer, Site, Source, as_before
from stillfs import once_each, wait_for

SLICE_S, LONG_S = 12, int(os.environ.get("STILLFS_FENCE_LOAD_S", "600"))
# Whom only the fence stops. On MariaDB SUPER has nothing of READ ONLY ADMIN any more; on MySQL root is stopped too, and as
# it is let through by fence.allow its session is not even ended.
MAY_ALL = {"mariadb": "boss", "mysql": "root"}


@pytest.fixture(scope="module")
def sites():
    def make(kind, stack):
        s = Site(kind, stack)
        s.server.query("CREATE USER boss@localhost")
        s.server.query("GRANT SUPER ON *.* TO boss@localhost")
        s.server.query("GRANT ALL ON app.* TO boss@localhost")
        return s
    with once_each(make) as get:
        yield get


@pytest.fixture(params=["mariadb", "mysql"])
def site(request, sites):
    with as_before(sites(request.param)) as s:
        if s.kind == "mysql":
            s.server.query("DROP USER IF EXISTS boss@localhost")  # its SUPER could switch the fence off: on would be refused
        yield s


@pytest.fixture
def source(site, scratch):
    s = Source(site, scratch.dir)
    yield s
    s.close()


def own_transactions(site, source):
    """What the server has that is not the source's: of its own clients."""
    if site.kind == "mariadb":
        return site.server.query("SELECT @@GLOBAL.gtid_binlog_pos")[0][0]
    theirs = source.server.query("SELECT @@GLOBAL.server_uuid")[0][0]
    return [s for s in replication.executed(site.server).replace("\n", "").split(",") if not s.startswith(theirs)]


def applied(site, source):
    """The source's transactions at the server, and at the source."""
    if site.kind == "mariadb":
        return site.server.query("SELECT @@GLOBAL.gtid_slave_pos")[0][0], source.server.query("SELECT @@GLOBAL.gtid_binlog_pos")[0][0]
    theirs = replication.executed(source.server)
    return site.server.query(f"SELECT IF(GTID_SUBSET('{theirs}', @@GLOBAL.gtid_executed), '{theirs}', @@GLOBAL.gtid_executed)")[0][0], theirs


def uptime(server):
    return int(server.query("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1])


def fed(server):
    return server.query("SELECT COUNT(*) FROM feed.f")[0][0]


def under_load(site, source, seconds):
    server, hammers = site.server, []
    rows = server.query("SELECT COUNT(*), MAX(id) FROM app.t")
    source.feed()
    site.on()
    own, up, pid, began, at_first = own_transactions(site, source), uptime(server), server.process.pid, time.monotonic(), fed(server)
    hammers = [Hammer(server, user, pause=0.01) for user in ("app", MAY_ALL[site.kind])]
    try:
        before = at_first
        while time.monotonic() < began + seconds:
            wait_for("rows of the source", lambda: source.writes() and fed(server) > before)
            before, now = fed(server), uptime(server)
            assert now >= up, "the server was started anew"
            up = now
            assert site.fence()[0] == "on" and site.value("renewed") == "0", site.fence()
            assert replication.runs(server), replication.status(server)
            time.sleep(min(1, seconds / 20))
    finally:
        for h in hammers:
            h.stop()
    source.rest()
    assert [h.accepted for h in hammers] == [0, 0] and all(h.refused > seconds for h in hammers), vars(hammers[0])
    assert not any(h.lost for h in hammers), "a client was disconnected: the fence had ended its sessions before it came"
    assert server.process.pid == pid and server.process.poll() is None and uptime(server) >= seconds
    wait_for("that nothing is behind", lambda: all(s["Seconds_Behind_Source"] == 0 for s in replication.status(server)))
    here, there = applied(site, source)
    assert here == there and own_transactions(site, source) == own
    assert replication.checksums(server, "feed") == replication.checksums(source.server, "feed")
    assert server.query("SELECT COUNT(*), MAX(id) FROM app.t") == rows
    if site.kind == "mysql":
        wait_for("their count", lambda: int(site.value("refused")) >= sum(h.refused for h in hammers))
    print(f"{site.kind}: {seconds} s, {fed(server) - at_first} rows of the source applied, {[h.refused for h in hammers]} writes refused, "
          f"uptime {uptime(server)} s")


def test_a_source_feeds_it_and_no_client_writes(site, source):
    under_load(site, source, SLICE_S)


@pytest.mark.long
@pytest.mark.limit(LONG_S + 240)
def test_ten_minutes_a_source_feeds_it_and_no_client_writes(site, source):
    under_load(site, source, LONG_S)


def next_look(site):
    last = site.value("verified")
    wait_for("a look", lambda: site.value("verified") not in (last, None))


def over_kills(site, kills):
    server = site.server
    site.on()
    rows = server.query("SELECT COUNT(*), MAX(id) FROM app.t")
    hammers = [Hammer(server, user) for user in ("app", MAY_ALL[site.kind])]
    try:
        for _ in range(kills):
            tried = [h.refused for h in hammers]
            server.kill()
            wait_for("that it is seen", lambda: site.fence()[0] == "on unreachable")
            server.start()
            site.wait("on")
            wait_for("the clients", lambda: all(h.refused > n + 10 for h, n in zip(hammers, tried)))
    finally:
        for h in hammers:
            h.stop()
    assert [h.accepted for h in hammers] == [0, 0] and server.query("SELECT COUNT(*), MAX(id) FROM app.t") == rows
    assert site.value("renewed") == "0"
    if site.kind == "mysql":  # over restarts, which have the server count from 0; what came right before a kill is lost
        next_look(site)
        counted = int(site.value("refused"))
        next_look(site)
        next_look(site)
        assert 0 < int(site.value("refused")) == counted <= sum(h.refused for h in hammers)
    print(f"{site.kind}: {kills} kills, {[h.refused for h in hammers]} writes refused, 0 accepted")


def test_a_server_that_is_killed_takes_nothing_when_it_is_back(site):
    over_kills(site, 2)


@pytest.mark.long
@pytest.mark.limit(400)
def test_a_server_that_is_killed_ten_times_takes_nothing(site):
    over_kills(site, 10)
