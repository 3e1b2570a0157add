"""A cut-over where A or B follows a third server, C, as well: refused while that applier runs, since what comes from C in the
meantime is more than A had; done with it stopped, and both have C's writes in the end."""

import pytest

import cutovers
import replication
import sources
from mariadb import MariaDB
from mysql import MySQL
from stillfs import wait_for
from test_cutover import assert_unchanged, bad


class Site(cutovers.Site):
    """C writes table t.c of its own; no one follows it at first."""

    def __init__(self, kind):
        super().__init__(kind)
        port = replication.free_port()
        (self.dir / "data3").mkdir()
        self.c = kind(self.dir / "s3", self.dir / "data3", 3, options=[*replication.options(kind, port), *sources.more(kind, 3)])
        self.c.port = port
        self.c.start()
        replication.account(self.c)
        self.c.query("CREATE DATABASE c")
        self.c.query("CREATE TABLE c.c (id INT AUTO_INCREMENT PRIMARY KEY)")

    def more(self):
        return ["--gtid-ignore-duplicates=1"] if self.kind is MariaDB else []  # C's writes come by two ways

    def attach(self, server):
        replication.attach(server, self.c.port, channel="c")
        wait_for("the channel from C", lambda: self.caught_up(server), 30)

    def caught_up(self, server):
        row = next(r for r in replication.status(server) if sources.name_of(r) == "c")
        assert not row["Last_SQL_Error"] and not row["Last_IO_Error"], (row["Last_SQL_Error"], row["Last_IO_Error"])
        return (row["Relay_Source_Log_File"], int(row["Exec_Source_Log_Pos"])) >= sources.where(self.c)

    def write(self):
        self.c.query("INSERT INTO c.c VALUES ()")

    def rows(self, server):
        return server.query("SELECT COUNT(*) FROM c.c")[0][0]

    def settle(self):
        for s in self.servers:
            if "c" in sources.appliers(s):
                sources.forget(s, "c")
        super().settle()

    def close(self):
        self.c.kill()
        self.c.close()
        super().close()


@pytest.fixture(scope="module", params=[MariaDB, MySQL], ids=["mariadb", "mysql"])
def sites(request):
    s = Site(request.param)
    yield s
    s.close()


@pytest.fixture
def site(sites):
    sites.settle()
    return sites


def named(site, out, level, who, other):
    return f'{level} channels: {who} follows others than {other}, by channel "c" from 127.0.0.1:{site.c.port}' in out


def test_a_channel_from_elsewhere_that_applies_is_refused_at_either_and_changes_nothing(site):
    site.attach(site.a)
    code, out, err = site.run()
    assert_unchanged(site, (code, out, err), "channels", f'A follows others than B, by channel "c" from 127.0.0.1:{site.c.port}')
    assert set(bad(out)) == {"channels"}
    site.attach(site.b)
    code, out, err = site.run()
    assert_unchanged(site, (code, out, err), "channels", "B follows others than A")
    assert named(site, out, "bad", "A", "B") and named(site, out, "bad", "B", "A")
    code, out, err = site.run("--check", "--accept", "channels")
    assert code == 0 and named(site, out, "warn", "A", "B") and named(site, out, "warn", "B", "A"), (out, err)


def test_what_comes_from_elsewhere_meanwhile_ends_the_cutover_and_the_writes_go_back(site):
    site.attach(site.a)
    c = site.b.connect("t")
    with c.cursor() as cursor:
        cursor.execute("LOCK TABLES a READ")  # B's applier waits
    site.a.query("INSERT INTO t.a (client, n) VALUES (70, 1)")
    p = site.start(*site.sides(), "--accept", "channels", "--catch-up", "600")
    try:
        wait_for("A's last transaction", lambda: " final " in site.state().get("step", ""), 60)
        site.write()
        wait_for("it at A", lambda: site.caught_up(site.a), 30)
        c.close()
        _, err = p.communicate(timeout=60)
        assert p.returncode == 1 and ("A has executed more although it was fenced" in err or "B has executed what A has not" in err), err
    finally:
        p.kill()
        p.wait()
        if c.open:
            c.close()
    assert site.writable(site.a) and not site.writable(site.b)
    replication.catch_up(site.a, site.b)


def test_with_that_applier_stopped_the_writes_go_over_and_both_get_what_comes_from_elsewhere(site):
    site.attach(site.a)
    site.write()
    site.attach(site.b)
    wait_for("C's rows", lambda: site.rows(site.a) == site.rows(site.b) == site.rows(site.c), 30)
    for s in site.servers:
        sources.applier(s, "STOP", "c")
    clients = cutovers.Clients(site)
    try:
        clients.go_on(20)
        site.write()
        code, out, err = site.run("--hook", cutovers.hook_to(site, clients))
        assert code == 0, (out, err)
        assert "warn channels: A follows others than B" in err + out and "warn channels: B follows others than A" in err + out, (out, err)
        clients.go_on(20, site.b)
    finally:
        clients.stop()
    clients.assert_kept(site.b)
    assert site.rows(site.a) == site.rows(site.b) == site.rows(site.c) - 1
    for s in site.servers:
        sources.applier(s, "START", "c")
    wait_for("C's rows", lambda: site.rows(site.a) == site.rows(site.b) == site.rows(site.c), 30)
