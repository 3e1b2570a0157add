"""A third server that follows A when the clients go to B: it is named before and after, gets B's writes by way of A, and follows
B once the statements of the report were run there."""

import re

import pytest

import cutovers
import replication
from mariadb import MariaDB
from mysql import MySQL
from stillfs import wait_for


@pytest.fixture(scope="module", params=[MariaDB, MySQL], ids=["mariadb", "mysql"])
def servers(request):
    s = cutovers.Site(request.param)
    s.third = s.add(3)
    yield s
    s.close()


@pytest.fixture
def site(servers):
    """The third follows whoever takes the writes, and the two follow each other."""
    servers.settle()
    if not replication.status(servers.a):
        replication.attach(servers.a, servers.b.port)
    stop(servers.third)
    replication.attach(servers.third, servers.a.port)
    wait_for("the third", lambda: follows(servers.third, servers.a), 60)
    replication.catch_up(servers.a, servers.third)
    return servers


def word(server):
    return "REPLICA" if isinstance(server, MySQL) else "SLAVE"


def stop(server):
    if replication.status(server):
        server.query(f"STOP {word(server)}")


def follows(server, source):
    return [s["Source_Port"] for s in replication.status(server) if s["Replica_IO_Running"] == "Yes"] == [source.port]


def insert(server, n):
    server.query(f"INSERT INTO t.a (client, n) VALUES (70, {n})")


def arrives(server, n):
    wait_for(f"row {n}", lambda: server.query(f"SELECT 1 FROM t.a WHERE client = 70 AND n = {n}"), 60)


def named(out):
    """{server_id: statements} of the report."""
    return dict(re.findall(r"(?m)^replica (\S+) \S+ repl \S+ (.*)$", out))


def test_another_replica_of_a_follows_b_after_the_statements_of_the_report(site):
    code, out, err = site.run("--check")
    assert code == 0 and "warn replicas: 1 more follows A: they get what B writes by way of A" in out, (out, err)
    insert(site.a, 1)
    code, out, err = site.run()
    assert code == 0 and list(named(out)) == ["3"], (out, err)
    assert "replicas_of_a get what B writes by way of A" in out and "PASSWORD" not in out and "repl'" not in out
    insert(site.b, 2)
    arrives(site.third, 2)
    for sql in named(out)["3"].rstrip(";").split("; "):
        site.third.query(sql)
    wait_for("the third at B", lambda: follows(site.third, site.b), 60)
    stop(site.a)  # nothing comes by way of it
    insert(site.b, 3)
    arrives(site.third, 3)
    replication.catch_up(site.b, site.third)
    assert replication.checksums(site.third, "t") == replication.checksums(site.b, "t")
    site.a.query(f"START {word(site.a)}")
    arrives(site.a, 3)
    n = 3

    def gone():
        nonlocal n
        n += 1
        insert(site.b, n)  # a source sees that one has left when it sends something
        code, out, err = site.call("status")
        assert code == 0, err
        return not named(out) and re.search(r"(?m)^follows_b 3 \S+ repl \S+$", out)
    wait_for("the third in the report", gone, 60)


def test_a_replica_that_gets_nothing_of_b_is_said_so(site):
    stop(site.a)
    site.a.query(f"RESET {word(site.a)} ALL")
    code, out, err = site.run("--check")
    assert code == 0 and "warn replicas: 1 more follows A, and get NOTHING of what B writes" in out, (out, err)
    code, out, err = site.run()
    assert code == 0 and "replicas_of_a get NOTHING of what B writes: A does not follow B" in out, (out, err)
    assert list(named(out)) == ["3"]


def test_an_account_that_b_has_not_is_named_before(site):
    c = site.a.connect()
    with c.cursor() as cursor:
        for sql in ("SET SESSION sql_log_bin=0", "CREATE USER other@'127.0.0.1' IDENTIFIED BY 'r'", "GRANT REPLICATION SLAVE ON *.* TO other@'127.0.0.1'"):
            cursor.execute(sql)
    c.close()
    stop(site.third)
    replication.attach(site.third, site.a.port, user="other")
    wait_for("the third", lambda: follows(site.third, site.a), 60)
    code, out, err = site.run("--check")
    assert code == 0 and "warn replicas: B has no account other with REPLICATION SLAVE, by which A is read from " in out, (out, err)


def test_a_server_that_does_not_name_its_replicas_is_told_what_it_takes(site):
    privilege = "REPLICATION SLAVE" if site.kind is MySQL else "REPLICATION MASTER ADMIN"
    site.a.query(f"REVOKE {privilege} ON *.* FROM cut@'127.0.0.1'")
    try:
        code, out, err = site.run("--check")
        assert code == 0 and f"warn replicas: A does not name its replicas to our account: GRANT {privilege} ON *.* TO it" in out, (out, err)
        assert "warn replicas: 1 more follows A" in out
    finally:
        site.a.query(f"GRANT {privilege} ON *.* TO cut@'127.0.0.1'")
        replication.catch_up(site.a, site.b)


@pytest.mark.parametrize("servers", [MySQL], indirect=True, ids=["mysql"])  # refused on MariaDB
def test_a_server_that_writes_nothing_it_replicates_into_its_binary_log_is_warned_of(site):
    site.a.kill()
    site.a.start("--log-replica-updates=OFF")
    wait_for("replication", lambda: follows(site.b, site.a) and follows(site.third, site.a), 90)
    try:
        code, out, err = site.run("--check")
        assert code == 0 and "warn updates: A does not write what it gets from B into its binary log" in out, (out, err)
        assert "get NOTHING of what B writes until they are pointed at B (A does not write what it gets from B" in out
    finally:
        site.a.kill()
        site.a.start()
