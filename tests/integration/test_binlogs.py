"""The column BINLOGS on a MySQL 9.7 that is a replica: its own logs, whatever its source keeps; with a server that is down or
hangs the listings say so and never wait."""

import json
import os
import signal
import time

import pytest

import replication
from mysql import MySQL
from stillfs import Mount, Scratch, run, wait_for


@pytest.fixture(scope="module")
def site(later):
    """A source, and its replica on a mount."""
    scratch = Scratch(size_mb=1500)
    later(scratch.close)
    m = Mount(scratch, start=False, db="mysql", db__socket=scratch.dir / "db" / "sock")
    later(m.close)
    m.start()
    for d in ("source-data", "source"):
        (scratch.dir / d).mkdir()
    port = replication.free_port()
    source = MySQL(scratch.dir / "source", scratch.dir / "source-data", 11, options=replication.options(MySQL, port))
    run("cp", "-a", scratch.dir / "source-data", m.mnt / "data")
    (m.mnt / "data" / "auto.cnf").unlink(missing_ok=True)
    db = MySQL(scratch.dir / "db", m.mnt / "data", 12, install=False, options=replication.options(MySQL, replication.free_port()))
    later(source.close)
    later(db.close)
    source.start()
    db.start()
    replication.account(source)
    replication.attach(db, port)
    source.query("CREATE DATABASE t")
    replication.catch_up(source, db)
    return m, source, db


def kept(m):
    return {s["name"]: s["binlogs"] for s in map(json.loads, m.read("list.json").splitlines())}


def taken(m, name):
    assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
    return dict(line.split(" ", 1) for line in m.read(f"snapshots/{name}/position").splitlines() if " " in line)


def log_of(server):
    return server.query("SHOW BINARY LOG STATUS")[0][0]


def purge(server):
    server.query("FLUSH BINARY LOGS")
    server.query(f"PURGE BINARY LOGS TO '{log_of(server)}'")


def another_daemon(m):
    """One that has not looked yet."""
    restarts = int(m.status()["restarts"])
    time.sleep(2)  # one that died young would count towards giving up
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("a new daemon", lambda: int(m.status()["restarts"]) == restarts + 1)
    m.daemon = int(m.status()["pid"])


def test_a_replica_is_asked_for_its_own_logs_not_its_sources(site):
    m, source, db = site
    first = taken(m, "r1")
    assert first["source_log_file"] == log_of(source) and first["binlog_file"] == log_of(db)
    wait_for("a look", lambda: kept(m) == {"r1": "yes"})
    purge(source)
    source.query("CREATE TABLE t.a (id INT PRIMARY KEY)")
    replication.catch_up(source, db)
    assert taken(m, "r2")["source_log_file"] > first["source_log_file"]  # a look follows
    wait_for("a look", lambda: kept(m) == {"r1": "yes", "r2": "yes"})
    purge(db)
    taken(m, "r3")
    wait_for("the purge", lambda: kept(m) == {"r1": "no", "r2": "no", "r3": "yes"})


def unknown_and_why(m):
    """What the look failed with, how often the listings could be read meanwhile; all they say is `unknown`."""
    readings = 0

    def failed():
        nonlocal readings
        assert set(kept(m).values()) == {"unknown"} and m.read("list").count("unknown\n") == len(kept(m)) > 0
        readings += 1
        return "failed: " in m.status()["binlogs_looked"]
    wait_for("the look", failed)
    assert set(kept(m).values()) == {"unknown"}
    return m.status()["binlogs_looked"].partition("failed: ")[2], readings


def test_with_a_server_that_hangs_the_list_says_unknown_and_does_not_wait(site):
    m, source, db = site
    before = {**kept(m), "h1": taken(m, "h1") and "yes"}
    wait_for("a look", lambda: kept(m)["h1"] == "yes")
    os.kill(db.process.pid, signal.SIGSTOP)
    try:
        another_daemon(m)
        why, readings = unknown_and_why(m)
        assert why == "no answer in time" and readings > 3, "while that took its seconds"
    finally:
        os.kill(db.process.pid, signal.SIGCONT)
    wait_for("the call to be back", lambda: m.status()["database_call"] == "ok")
    before["h2"] = taken(m, "h2") and "yes"
    wait_for("a look", lambda: kept(m) == before)


def test_with_a_server_that_is_down_the_list_says_unknown_and_why(site):
    m, source, db = site
    taken(m, "d1")
    wait_for("a look", lambda: kept(m)["d1"] == "yes")
    before = kept(m)
    db.stop()
    another_daemon(m)
    assert "connect" in unknown_and_why(m)[0]
    db.start()
    before["d2"] = taken(m, "d2") and "yes"
    wait_for("a look", lambda: kept(m) == before)
