"""MariaDB on the mount: lock, position, refusals, and a set taken under load that restores."""

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from mariadb import MariaDB
from stillfs import STILLCTL, Mount, Scratch, run, wait_for


@pytest.fixture(scope="module")
def site():
    """One server on one mount for the module: starting them takes seconds."""
    scratch = Scratch(size_mb=900)
    sock = scratch.dir / "db" / "sock"
    m = Mount(scratch, db="mysql", db__socket=sock, db__blocker_age=1, db__blockers="refuse")
    db = MariaDB(scratch.dir / "db", m.mnt).start()
    db.query("CREATE DATABASE t")
    db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=InnoDB")
    db.query("CREATE TABLE t.m (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=MyISAM")
    db.query("INSERT INTO t.a (v) VALUES (1)")
    yield m, db
    db.stop()
    m.close()
    scratch.close()


@pytest.fixture
def make_server(make_mount):
    """A function that makes servers of a test's own; all end before its mounts do."""
    made = []

    def make(*args, **kw):
        made.append(MariaDB(*args, **kw))
        return made[-1]
    yield make
    for db in made:
        db.close()


@pytest.fixture
def other_scratch():
    s = Scratch(size_mb=330)
    yield s
    s.close()


def flat(text):
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def snapshot(m, name, code=0):
    r = m.write("snapshot", f"{name}\n")
    assert r == code, m.last_error() if r else "it was taken"
    return m.last_error()["message"] if code else flat(m.read(f"snapshots/{name}/position"))


def test_the_list_says_whether_the_server_still_has_the_logs(site):
    m, db = site

    def kept(*names):
        found = {s["name"]: s["binlogs"] for s in map(json.loads, m.read("list.json").splitlines())}
        return [found[n] for n in names]
    snapshot(m, "logs1")
    wait_for("a look", lambda: kept("logs1") == ["yes"])
    rows = {line.split()[0]: line.split()[-1] for line in m.read("list").splitlines()}
    assert (rows["NAME"], rows["logs1"]) == ("BINLOGS", "yes")
    db.query("FLUSH BINARY LOGS")
    snapshot(m, "logs2")
    wait_for("its look", lambda: kept("logs2") == ["yes"])  # or that one could be the one that sees the purge
    db.query(f"PURGE BINARY LOGS TO '{db.query('SHOW MASTER STATUS')[0][0]}'")
    start = time.monotonic()
    snapshot(m, "logs3")  # after which it looks again
    wait_for("the purge", lambda: kept("logs1", "logs2", "logs3") == ["no", "yes", "yes"])
    asked = "SHOW GLOBAL STATUS LIKE 'Com_show_binlogs'"
    before = db.query(asked)
    for _ in range(20):
        m.read("list")
        time.sleep(0.05)
    if time.monotonic() - start < 50:  # it looks once a minute, however often it is read
        assert db.query(asked) == before
    db.query("RESET MASTER")
    snapshot(m, "logs4")
    wait_for("the new logs", lambda: kept("logs4") == ["yes"])
    assert kept("logs1", "logs2", "logs3") == ["unknown"] * 3, "logs of the same names are other ones now"
    db.query("CREATE DATABASE after_reset")  # so that there is a GTID position for those that follow


def test_the_position_is_the_servers_and_nothing_of_ours_is_in_the_binlog(site):
    m, db = site
    before = db.query("SHOW MASTER STATUS")[0][:2]
    position = snapshot(m, "idle")
    assert db.query("SHOW MASTER STATUS")[0][:2] == before
    assert (position["binlog_file"], int(position["binlog_pos"])) == before
    assert position["gtid_binlog_pos"] == db.query("SELECT @@gtid_binlog_pos")[0][0]
    assert position["lock_method"] == "backup"
    assert position["server"] == "mariadb"


def test_the_lock_ends_before_the_trigger_and_is_really_held_at_the_position(site):
    m, db = site
    snapshot(m, "order")
    steps = [line.split()[1] for line in m.read("snapshots/order/log").splitlines()]
    assert steps.index("locked") < steps.index("drained") < steps.index("unlock_sent") < steps.index("trigger")
    assert float(m.read("snapshots/order/lock_ms")) > 0


def test_general_log_on_does_not_hang_the_unlock(site):
    m, db = site
    db.query("SET GLOBAL general_log=1")
    try:
        snapshot(m, "generallog")
        assert float(m.read("snapshots/generallog/lock_ms")) < 5000
    finally:
        db.query("SET GLOBAL general_log=0")


def test_a_long_ddl_is_named_and_refused_before_locking(site):
    m, db = site
    db.query("CREATE OR REPLACE TABLE t.big (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    c = db.connect("t")
    t = threading.Thread(target=lambda: c.cursor().execute(
        "CREATE TABLE slow AS SELECT SLEEP(4) AS s"), daemon=True)
    t.start()
    time.sleep(2.2)
    message = snapshot(m, "blocked", errno.EAGAIN)
    assert "CREATE by root" in message and "SLEEP" not in message
    db.query("INSERT INTO a (v) VALUES (2)", "t")  # nothing is blocked behind us
    t.join(20)
    c.close()
    db.query("DROP TABLE t.slow")
    snapshot(m, "unblocked")


def test_a_lock_held_by_somebody_else_gives_up_and_leaves_nothing_blocked(site):
    m, db = site
    c = db.connect("t")
    with c.cursor() as cursor:
        cursor.execute("BACKUP STAGE START")
        start = time.monotonic()
        assert m.write("snapshot", "contended\n") == errno.EAGAIN
        assert time.monotonic() - start < 40
        db.query("INSERT INTO a (v) VALUES (3)", "t")
        cursor.execute("BACKUP STAGE END")
    c.close()
    snapshot(m, "free")


def test_killing_our_connection_before_a_snapshot_is_noticed(site):
    m, db = site
    snapshot(m, "kept")
    for row in db.query("SHOW PROCESSLIST"):
        if row[4] == "Sleep":
            db.query(f"KILL {row[0]}")
    snapshot(m, "reconnected")


def test_a_silent_holder_loses_its_lock_at_the_server(other_scratch, make_mount, make_server, scratch):
    """The daemon is stopped with the lock held: the server ends the session, and the set fails because of that.

    The moment is stretched by a second pair whose filesystem somebody froze with a write of ours in it, so that the
    drain, which the lock lasts for, does not end by itself.
    """
    other = other_scratch
    m = make_mount(start=False, provider="null", db="mysql", db__socket=scratch.dir / "db" / "sock",
                   drain_timeout="1500ms")
    (other.dir / "mnt").mkdir()
    (other.fs / "back").mkdir()
    m.more_pairs = [(other.fs / "back", other.dir / "mnt")]
    m.start()
    db = make_server(scratch.dir / "db", m.mnt).start()
    fd = os.open(other.dir / "mnt" / "f", os.O_CREAT | os.O_WRONLY)
    watch = db.connect()
    result = []
    sessions = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"
    run("fsfreeze", "-f", other.fs)
    try:
        writer = threading.Thread(target=os.write, args=(fd, b"x" * 100), daemon=True)
        writer.start()
        wait_for("a write in flight", lambda: m.status()["inflight"] != "0")
        t = threading.Thread(target=lambda: result.append(m.write("snapshot", "silent\n")), daemon=True)
        t.start()
        wait_for("the drain", lambda: m.gate() == "closing")
        os.kill(m.daemon, signal.SIGSTOP)
        with watch.cursor() as c:
            def count():
                c.execute(sessions)
                return c.fetchone()[0]
            assert count() == 2, "the lock's session is there, and the one of db.lock_patience, which never holds anything"
            wait_for("the server's end of it", lambda: count() == 1)
    finally:
        run("fsfreeze", "-u", other.fs)
        os.kill(m.daemon, signal.SIGCONT)
        t.join(20)
        writer.join(20)
        watch.close()
        os.close(fd)
    assert result == [errno.ENOLCK], m.last_error()
    assert "lock" in m.read("snapshots/silent/last_error")
    db.query("CREATE DATABASE afterwards")
    snapshot(m, "then")


def test_missing_privileges_name_the_grant(site, make_mount):
    m, db = site
    db.query("CREATE OR REPLACE USER weak@localhost IDENTIFIED BY 'pw-secret'")
    conf = db.defaults("weak", "pw-secret")
    other = make_mount(db="mysql", db__socket=db.socket, db__defaults_file=conf)
    message = snapshot(other, "weak", errno.EACCES)
    assert "GRANT RELOAD" in message and "weak@localhost" in message
    assert "pw-secret" not in other.log() + other.read("config") + other.read("status")


def test_doctor_shows_every_finding_by_stillctl(site, make_mount):
    m, db = site
    r = subprocess.run([STILLCTL, "-n", m.name, "doctor"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr
    assert r.stdout.splitlines()[0].startswith("ok server ") and "ok nothing would block the lock" in r.stdout
    db.query("CREATE OR REPLACE USER sick@localhost IDENTIFIED BY 'pw-secret'")
    other = make_mount(db="mysql", db__socket=db.socket, db__defaults_file=db.defaults("sick", "pw-secret"))
    r = subprocess.run([STILLCTL, "-n", other.name, "doctor"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1
    bad = [line for line in r.stdout.splitlines() if line.startswith("bad ")]
    assert any("GRANT RELOAD, PROCESS" in line for line in bad) and any("datadir" in line for line in bad), r.stdout
    assert other.write("doctor", "walk\n") == errno.EINVAL
    assert other.last_error()["message"] == "doctor: expected run"


def test_a_datadir_elsewhere_is_refused_with_the_list(site, make_mount):
    m, db = site
    other = make_mount(db="mysql", db__socket=db.socket)
    message = snapshot(other, "elsewhere", errno.EXDEV)
    assert "datadir" in message and "outside the mount" in message


def test_a_wrong_socket_is_refused(make_mount, scratch):
    m = make_mount(db="mysql", db__socket=scratch.dir / "none")
    message = snapshot(m, "nosocket", errno.ECONNREFUSED)
    assert "connect to the database" in message
    assert m.gate() == "open"


def test_a_redo_log_elsewhere_is_refused(make_mount, make_server, scratch):
    redo = scratch.dir / "redo"
    redo.mkdir()
    shutil.chown(redo, "mysql", "mysql")
    m = make_mount(db="mysql", db__socket=scratch.dir / "db" / "sock")
    make_server(scratch.dir / "db", m.mnt, options=[f"--innodb-log-group-home-dir={redo}"]).start()
    message = snapshot(m, "redo", errno.EXDEV)
    assert "innodb_log_group_home_dir" in message and "datadir" not in message


def test_a_server_started_before_the_mount_is_refused(make_mount, make_server, scratch):
    back = scratch.fs / "back"
    back.mkdir()
    m = make_mount(start=False, over=True, db="mysql", db__socket=scratch.dir / "db" / "sock")
    db = make_server(scratch.dir / "db", back).start()
    r = m.try_start()
    assert r.returncode == 1
    assert "open for writing" in r.stderr and "mariadbd(" in r.stderr
    db.stop()
    m.start()
    db.start()
    snapshot(m, "now")


def test_a_set_taken_under_load_restores_with_every_acknowledged_commit(site):
    m, db = site
    db.query("CREATE OR REPLACE TABLE t.load_ (w INT PRIMARY KEY, n INT)")
    db.query("INSERT INTO t.load_ VALUES (0,0),(1,0),(2,0),(3,0)")
    acked = [[] for _ in range(4)]
    stop = threading.Event()

    def write(w):
        c = db.connect("t")
        with c.cursor() as cursor:
            n = 0
            while not stop.is_set():
                n += 1
                cursor.execute(f"UPDATE load_ SET n={n} WHERE w={w}")
                acked[w].append((n, time.monotonic()))
        c.close()
    threads = [threading.Thread(target=write, args=(w,), daemon=True) for w in range(4)]
    for t in threads:
        t.start()
    time.sleep(1)
    asked = time.monotonic()
    position = snapshot(m, "load")
    time.sleep(0.5)
    stop.set()
    for t in threads:
        t.join(10)
    m.wait_state("load", "complete", 60)
    clone = m.scratch.fs / "restored"
    run("cp", "-a", "--reflink=always", os.readlink(m.control / "snapshots" / "load" / "data"), clone)
    second = MariaDB(m.dir / "db2", clone, server_id=2, install=False)
    try:
        second.start()
        there = dict(second.query("SELECT w, n FROM t.load_"))
        for w in range(4):
            assert there[w] >= max(n for n, at in acked[w] if at < asked)
        assert dict(second.query("SHOW BINARY LOGS"))[position["binlog_file"]] == int(position["binlog_pos"])
        assert second.query("SELECT @@gtid_binlog_pos")[0][0] == position["gtid_binlog_pos"]
        assert second.query("CHECK TABLE t.a, t.m, t.load_")[0][3] == "OK"
    finally:
        second.stop()
        shutil.rmtree(clone)


def test_crash_and_recovery_on_the_mount(site):
    m, db = site
    db.query("INSERT INTO t.a (v) VALUES (42)")
    count = db.query("SELECT COUNT(*) FROM t.a")
    db.process.kill()
    db.process.wait()
    db.start()
    assert db.query("SELECT COUNT(*) FROM t.a") == count
    snapshot(m, "aftercrash")
