"""stillfs-cutover between real servers over TCP, with clients that write all the time over connections they keep: no
acknowledged row is lost, the old server accepts none afterwards, no number is given out twice; what is in the way is
refused and changes nothing; a failure before the point gives the writes back."""

import re
import signal

import pymysql
import pytest

import clientlib
import cutovers
import replication
from mariadb import MariaDB
from mysql import MySQL
from stillfs import STILLCTL, run, wait_for


@pytest.fixture(scope="module", params=[MariaDB, MySQL], ids=["mariadb", "mysql"])
def servers(request):
    s = cutovers.Site(request.param)
    yield s
    s.close()


@pytest.fixture
def site(servers):
    servers.settle()
    return servers


def client(s):
    return pymysql.connect(host="127.0.0.1", port=s.port, user="app", password="p", database="t", autocommit=True)


def bad(out):
    """{name: sentence} of what a check found to be bad."""
    return dict(re.findall(r"(?m)^bad ([a-z-]+): (.*)$", out))


def assert_unchanged(site, run_result, name, words):
    code, out, err = run_result
    assert code == 1, (out, err)
    assert words in bad(out).get(name, ""), out
    assert site.writable(site.a) and "nothing was changed" in err


def test_clients_go_from_one_server_to_the_other_and_back(site, capsys):
    code, out, err = site.run("--check")
    assert code == 0 and not bad(out), (out, err)
    assert site.writable(site.a) and not site.writable(site.b)
    clients = cutovers.Clients(site)
    stalls = []
    try:
        for _ in range(2):
            clients.go_on(40)
            with clients.lock:
                clients.gaps.clear()
            idle = [client(site.a) for _ in range(3)]
            hook = cutovers.hook_to(site, clients)
            code, out, err = site.run("--hook", hook)
            assert code == 0, (out, err)
            assert re.search(r"(?m)^ended app \S+ \S+ [3-9]$", out), out
            assert f"STILLFS_TO_NAME={site.cnf(site.b)}\n" in (site.dir / "moved.env").read_text()
            assert not site.writable(site.a) and site.writable(site.b)
            for c in (*idle, client(site.a)):
                with pytest.raises(pymysql.Error):
                    c.cursor().execute("INSERT INTO a (client, n) VALUES (99, 1)")
            clients.go_on(40, site.b)
            stalls.append(max(clients.gaps.values()))
            site.settle()
    finally:
        clients.stop()
    clients.assert_kept(site.a)
    assert site.a.query("SELECT COUNT(*) FROM t.a WHERE client = 99")[0][0] == 0
    state = site.state()
    assert state["state"] == "ended" and state["running"] == "no" and state["A"].endswith("is read-only")
    with capsys.disabled():
        print(f"\n{site.kind.__name__}: clients that reconnect stalled {stalls[0] * 1000:.0f} ms and {stalls[1] * 1000:.0f} ms")


def test_what_is_in_the_way_is_refused_and_changes_nothing(site):
    cutovers.ro(site.b, False)
    assert_unchanged(site, site.run(), "writes", "B is not read-only")
    c = site.b.connect("t")
    with c.cursor() as cursor:
        cursor.execute("STOP REPLICA" if site.kind is MySQL else "STOP SLAVE")
    c.close()
    cutovers.ro(site.b, True)
    assert_unchanged(site, site.run(), "replication", "receiver does not run, applier does not run")
    site.b.query("START REPLICA" if site.kind is MySQL else "START SLAVE")
    wait_for("the replica", lambda: replication.runs(site.b), 30)
    privilege = "SUPER" if site.kind is MySQL else "READ ONLY ADMIN"
    site.a.query(f"GRANT {privilege} ON *.* TO app@'127.0.0.1'")
    assert_unchanged(site, site.run(), "account", "app@127.0.0.1 has SUPER" if site.kind is MySQL else "app@127.0.0.1 has READ ONLY ADMIN")
    site.a.query(f"REVOKE {privilege} ON *.* FROM app@'127.0.0.1'")
    replication.catch_up(site.a, site.b)
    code, out, err = site.call(*site.sides(b=site.a))
    assert code == 1 and "the same server" in bad(out)["identity"], (out, err)


def test_a_transaction_that_only_b_has_is_refused_and_named(site):
    word = "REPLICA" if site.kind is MySQL else "SLAVE"
    if replication.status(site.a):
        site.a.query(f"STOP {word}")
    cutovers.ro(site.b, False)
    site.b.query("CREATE TABLE t.only_b (n INT)")
    cutovers.ro(site.b, True)
    own = f"{site.b.server_id}-{site.b.server_id}-" if site.kind is MariaDB else site.b.query("SELECT @@server_uuid")[0][0]
    try:
        assert_unchanged(site, site.run(), "transactions", own)
    finally:
        if replication.status(site.a):
            site.a.query(f"START {word}")
        else:
            replication.attach(site.a, site.b.port)
        wait_for("the table", lambda: site.a.query("SHOW TABLES FROM t LIKE 'only_b'"), 30)
        site.a.query("DROP TABLE t.only_b")
        replication.catch_up(site.a, site.b)


def test_b_that_does_not_catch_up_gives_the_writes_back(site):
    clients = cutovers.Clients(site)
    c = site.b.connect("t")
    try:
        clients.go_on(20)
        with c.cursor() as cursor:
            cursor.execute("LOCK TABLES a READ")  # the applier waits
        clients.go_on(20)
        code, _, err = site.run("--catch-up", "1")
        assert code == 1 and "B has not executed all that A had within 1 s" in err, err
        assert site.writable(site.a) and not site.writable(site.b)
        clients.go_on(20)
        assert site.state()["state"] == "ended"
    finally:
        c.close()
        clients.stop()
    clients.assert_kept(site.a)
    replication.catch_up(site.a, site.b)


def test_an_interrupt_while_b_catches_up_gives_the_writes_back(site):
    c = site.b.connect("t")
    with c.cursor() as cursor:
        cursor.execute("LOCK TABLES a READ")
    site.a.query("INSERT INTO t.a (client, n) VALUES (50, 1)")
    p = site.start(*site.sides(), "--catch-up", "600")
    try:
        wait_for("the step", lambda: site.state().get("state") == "fenced" and not site.writable(site.a), 60)
        code, _, err = site.run()
        assert code == 1 and "another cut-over is at work" in err, err
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        assert p.returncode == 1 and "interrupted" in err, err
    finally:
        p.kill()
        p.wait()
        c.close()
    assert site.writable(site.a)
    replication.catch_up(site.a, site.b)


def test_a_hook_that_fails_is_run_again(site):
    flag, hook = site.dir / "flag", site.dir / "hook"
    hook.write_text(f"#!/bin/sh\n[ -e {flag} ] || {{ echo no address; exit 3; }}\n")
    hook.chmod(0o755)
    code, _, err = site.run("--hook", hook)
    assert code == 4 and "ended with code 3: no address" in err, err
    assert site.writable(site.b) and not site.writable(site.a)
    code, _, err = site.call("abort")
    assert code == 1 and "no way back" in err, err
    flag.write_text("")
    code, out, err = site.call("resume")
    assert code == 0 and "B (" in out, (out, err)
    code, _, err = site.call("resume")
    assert code == 1 and "no cut-over is under way" in err


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604])
def test_a_file_with_a_password_is_its_owners_alone(site, mode):
    site.cnf(site.b).chmod(mode)
    try:
        code, out, err = site.run("--check")
    finally:
        site.cnf(site.b).chmod(0o600)
    assert code == 1 and "chmod 600" in err and str(site.cnf(site.b)) in err, (out, err)


def test_a_retired_server_is_reopened_only_by_force(site):
    assert site.run()[0] == 0
    args = ("reopen", "--server", site.cnf(site.a))
    code, _, err = site.call(*args)
    assert code == 1 and "--force" in err and not site.writable(site.a)
    cutovers.ro(site.b, True)  # or two would be writable
    code, _, err = site.call(*args, "--force")
    assert code == 0 and site.writable(site.a), err


def test_a_retired_server_stays_closed_when_it_is_restarted(site):
    assert site.run()[0] == 0
    site.a.kill()
    site.a.start()
    assert not site.writable(site.a)
    with pytest.raises(pymysql.Error, match="read-only"):
        client(site.a).cursor().execute("INSERT INTO a (client, n) VALUES (99, 2)")


@pytest.mark.parametrize("servers", [MySQL], indirect=True, ids=["mysql"])  # it has not MariaDB's usual way to log in
def test_mysqls_own_client_library_does_it_as_well(site):
    site.program = clientlib.argv("snapshot/stillfs-cutover")
    try:
        for _ in range(2):
            idle = client(site.a)
            code, out, err = site.run()
            assert code == 0 and re.search(r"(?m)^ended app \S+ \S+ 1$", out), (out, err)
            with pytest.raises(pymysql.Error):
                idle.cursor().execute("SELECT 1")
            assert site.writable(site.b) and not site.writable(site.a)
            site.settle()
    finally:
        site.program = [cutovers.PROGRAM]


def test_stillctl_starts_it(site):
    assert "cutover 0" in run(STILLCTL, "cutover", "status", "--journal", site.dir / "nothing")
