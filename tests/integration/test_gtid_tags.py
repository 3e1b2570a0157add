"""MySQL's tagged GTIDs (8.3 and later): a set taken while several tags are written is where its record says, and a replica
attached there catches up; a cut-over between servers whose transactions have tags, and one with a tag on B alone refused."""

import re

import pytest

import cutovers
import replication
from mysql import MySQL
from roles import Load, assert_equals_the_record, clone_of, follow, schema, site, take, verify
from stillfs import wait_for
from test_cutover import assert_unchanged

TAGS = ("", "blue", "Red_2", "_")
OTHER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def tags_of(gtids):
    """What follows a colon and is no interval."""
    return set(re.findall(r":([a-z_][a-z0-9_]*)", gtids.replace("\n", "")))


def another(server, gtid):
    """A transaction that came from elsewhere: the set has two sources then, each on a line of its own."""
    c = server.connect("t")
    with c.cursor() as cursor:
        cursor.execute(f"SET gtid_next='{gtid}'")
        cursor.execute("INSERT INTO a (v) VALUES (0)")
        cursor.execute("SET gtid_next='AUTOMATIC'")
    c.close()


def test_a_set_taken_under_tags_is_where_its_record_says_and_a_replica_follows_from_there():
    with site(MySQL) as (m, make, scratch):
        a = make("a", m.mnt / "d", 1)
        replication.account(a)
        schema(a)
        another(a, f"{OTHER}:theirs:5")
        load = Load(a, tags=TAGS)
        load.run_for(60)
        position = take(m)
        load.run_for(20)
        load.stop()
        assert tags_of(position["gtid_executed"]) == {"blue", "red_2", "_", "theirs"}
        verify(m)
        clone = make("c", clone_of(m, scratch, "d"), 3, install=False, more=["--skip-replica-start"])
        assert_equals_the_record(clone, position)
        # from the record alone, as by hand
        clone.query("RESET BINARY LOGS AND GTIDS")
        clone.query(f"SET GLOBAL gtid_purged='{position['gtid_executed']}'")
        follow(clone, a, position["gtid_executed"])
        sums = replication.checksums(a, "t")
        wait_for("equal tables", lambda: replication.checksums(clone, "t") == sums)
        assert replication.executed(clone) == replication.executed(a)
        assert replication.runs(clone)


class Site(cutovers.Site):
    def _accounts(self, s):
        super()._accounts(s)
        c = s.connect()
        c.cursor().execute("SET SESSION sql_log_bin=0")
        c.cursor().execute("GRANT TRANSACTION_GTID_TAG, SESSION_VARIABLES_ADMIN ON *.* TO app@'127.0.0.1'")
        c.close()


@pytest.fixture(scope="module")
def servers():
    s = Site(MySQL)
    yield s
    s.close()


@pytest.fixture
def pair(servers):
    servers.settle()
    return servers


def write(server, tag, sql):
    c = server.connect("t")
    with c.cursor() as cursor:
        cursor.execute("SET gtid_next=%s", (f"AUTOMATIC:{tag}",))
        cursor.execute(sql)
    c.close()


def test_clients_go_from_one_server_to_the_other_and_back_when_transactions_have_tags(pair):
    clients = cutovers.Clients(pair, tags=TAGS)
    try:
        for _ in range(2):
            clients.go_on(40)
            code, out, err = pair.run("--hook", cutovers.hook_to(pair, clients))
            assert code == 0, (out, err)
            assert not pair.writable(pair.a) and pair.writable(pair.b)
            clients.go_on(40, pair.b)
            pair.settle()
    finally:
        clients.stop()
    clients.assert_kept(pair.a)
    ids = [s.query("SELECT @@server_uuid")[0][0] for s in pair.servers]
    executed = replication.executed(pair.a).replace("\n", "").split(",")
    assert all(any(e.startswith(i) and tags_of(e) >= {"blue", "red_2", "_"} for e in executed) for i in ids), executed


def test_what_b_lacks_is_waited_for_under_its_tag(pair):
    c = pair.b.connect("t")
    try:
        with c.cursor() as cursor:
            cursor.execute("LOCK TABLES a READ")  # the applier waits
        write(pair.a, "late", "INSERT INTO a (client, n) VALUES (60, 1)")
        code, out, err = pair.run("--catch-up", "1")
        assert code == 1 and "B has not executed all that A had within 1 s" in err, err
        assert pair.writable(pair.a) and not pair.writable(pair.b)
        code, out, _ = pair.run("--check")
        assert re.search(r"(?m)^ok transactions: B has nothing that A has not, and lacks [0-9a-f-]{36}:late:1 now$", out), out
    finally:
        c.close()
    replication.catch_up(pair.a, pair.b)


def test_a_transaction_under_a_tag_that_only_b_has_is_refused_and_named(pair):
    if replication.status(pair.a):  # after a cut-over and back each follows the other
        pair.a.query("STOP REPLICA")
    cutovers.ro(pair.b, False)
    write(pair.b, "stray", "CREATE TABLE only_b (n INT)")
    cutovers.ro(pair.b, True)
    own = pair.b.query("SELECT @@server_uuid")[0][0]
    try:
        assert_unchanged(pair, pair.run(), "transactions", f"B has executed what A has not: {own}:stray:1;")
    finally:
        if replication.status(pair.a):
            pair.a.query("START REPLICA")
        else:
            replication.attach(pair.a, pair.b.port)
        wait_for("the table", lambda: pair.a.query("SHOW TABLES FROM t LIKE 'only_b'"), 30)
        pair.a.query("DROP TABLE t.only_b")
        replication.catch_up(pair.a, pair.b)
