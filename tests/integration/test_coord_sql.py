"""The mysql coordinator on MariaDB and MySQL: blockers, privileges, positions, appliers, odd states of a server."""

import contextlib
import errno
import pathlib
import re
import shutil
import tempfile
import threading
import time

import pytest

import coordinators
import replication
from coordinators import Failed
from mysql import MySQL
from stillfs import wait_for


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def server(request):
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    scratch.chmod(0o755)
    s = coordinators.make(request.param, scratch)
    yield s
    s.close()
    shutil.rmtree(scratch)


@pytest.fixture
def drive(server):
    with contextlib.ExitStack() as made:
        def make(on=server, **options):
            d = on.drive(**options)
            made.callback(d.close)
            return d
        yield make


def run_all(d, lock_ms=5000):
    d("preflight 5000")
    d("prepare s 60000", 70)
    d(f"lock 2000 {lock_ms}")
    position = d.position()
    d("unlock 2000")
    d("finish 0 30000")
    return position


@contextlib.contextmanager
def statement(server, sql, user="root", end=False, **kw):
    """A statement that runs meanwhile. end: it is ended behind the block, so it can be longer than the block ever takes."""
    c = server.db.connect("t", user=user, **kw)
    error = []

    def work():
        try:
            with c.cursor() as cursor:
                cursor.execute(sql)
        except Exception as e:  # noqa: BLE001 - the test looks at it
            error.append(e)
    t = threading.Thread(target=work)
    t.start()
    start = time.monotonic()
    try:
        yield error
    finally:  # it must not run into the next test
        if end:
            server.db.query(f"KILL QUERY {c.thread_id()}")
        t.join(30)
        c.close()
    assert time.monotonic() - start < 30


LONG = "UPDATE t.a SET v = v + SLEEP({}) LIMIT 1"


def old(server, word, age=1):
    """Ids from the table that the coordinator looks at: MySQL's two tell a statement's age from clocks a moment apart."""
    table = "performance_schema.processlist" if server.mysql else "information_schema.PROCESSLIST"
    return [r[0] for r in server.db.query(f"SELECT ID FROM {table} WHERE INFO LIKE '{word}%' AND TIME >= {age}")]


def wait_old(server, word, age=1):
    wait_for("the statement", lambda: old(server, word, age))


@pytest.fixture
def rows(server):
    server.db.query("INSERT INTO t.a (v) VALUES (1)")
    return dict(db__lock="ftwrl")


def test_a_blocker_is_named_and_refused_without_its_text(server, drive, rows):
    d = drive(**rows)
    d("preflight 5000")
    with statement(server, LONG.format(25), end=True):
        wait_old(server, "UPDATE")
        with pytest.raises(Failed) as failed:
            d("prepare s 60000")
        assert failed.value.code == errno.EAGAIN
        assert re.search(r"1 long statement would make .* wait: UPDATE by root for \d+ s \(id \d+\)", failed.value.message)
        assert "SLEEP" not in failed.value.message
        server.db.query("INSERT INTO t.a (v) VALUES (2)")  # nobody waits behind us


def test_a_blocker_is_waited_for_and_recorded(server, drive, rows):
    d = drive(**{"db__blockers": "wait:20", **rows})
    with statement(server, LONG.format(8)):
        wait_old(server, "UPDATE")
        position = run_all(d)
    assert re.fullmatch(r"UPDATE by root for \d+ s \(id \d+\)", position["blocker"])


def test_a_blocker_is_killed_only_where_that_is_asked_for(server, drive, rows):
    server.db.query("CREATE USER IF NOT EXISTS app@localhost IDENTIFIED BY 'pw'")
    server.db.query("GRANT ALL ON t.* TO app@localhost")
    with statement(server, LONG.format(9)) as error:
        wait_old(server, "UPDATE")
        with pytest.raises(Failed) as failed:
            run_all(drive(**{"db__blockers": "kill-queries:app", **rows}))
        assert failed.value.code == errno.EAGAIN and "UPDATE by root" in failed.value.message
    assert not error
    with statement(server, LONG.format(20), user="app", password="pw") as error:
        wait_old(server, "UPDATE")
        position = run_all(drive(**{"db__blockers": "kill-queries:app", **rows}))
    assert position["blocker"].startswith("UPDATE by app") and position["blocker"].endswith(", killed")


class Inserts:
    """The application: one row after the other. stall(): the longest since the last question, one that goes on too."""

    def __init__(self, server):
        self.server, self.ended, self.n, self.worst, self.began = server, threading.Event(), 0, 0.0, time.monotonic()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        c = self.server.db.connect("t")
        with c.cursor() as cursor:
            while not self.ended.is_set():
                self.began = time.monotonic()
                cursor.execute("INSERT INTO a (v) VALUES (3)")
                self.worst = max(self.worst, time.monotonic() - self.began)
                self.n += 1
        c.close()

    def run_on(self):
        goal = self.n + 3
        wait_for("the application", lambda: self.n >= goal)

    def stall(self, call):
        self.run_on()
        self.worst = 0.0
        call()
        self.run_on()  # for the one that waited to say so
        return self.worst

    def stop(self):
        self.ended.set()
        self.thread.join()


BLOCKERS = {"UPDATE": "UPDATE t.b SET id = id + SLEEP(600)", "SELECT": "SELECT id, SLEEP(600) FROM t.b"}


@pytest.mark.parametrize("word", sorted(BLOCKERS))
def test_the_application_waits_as_db_blockers_says(server, drive, rows, word):
    """Ignoring a blocker makes everybody wait behind our lock, for db.lock_timeout and not for the blocker; no other does."""
    server.db.query("CREATE TABLE IF NOT EXISTS t.b (id INT PRIMARY KEY)")
    server.db.query("INSERT IGNORE INTO t.b VALUES (1)")
    app, stalls = Inserts(server), {}

    def refused(policy):
        def call():
            with pytest.raises(Failed) as failed:
                run_all(drive(**{"db__blockers": policy, "db__lock_timeout": 2, **rows}), 120000)
            assert failed.value.code == errno.EAGAIN
        return call
    try:
        with statement(server, BLOCKERS[word]) as error:
            wait_old(server, word)
            if word == "SELECT" and not server.mysql:
                ways = {}  # MariaDB's FTWRL passes by those that read
                run_all(drive(**{"db__blockers": "refuse", **rows}))
                server.db.query(f"KILL QUERY {blocker_id(server, word)}")
            else:
                ways = {p: refused(p) for p in ("ignore", "refuse", "wait:2")}
                ways["kill-queries"] = lambda: run_all(drive(**{"db__blockers": "kill-queries", **rows}))
            for policy, call in ways.items():
                stalls[policy] = app.stall(call)
        assert error or word == "SELECT", "the last one ended it"
    finally:
        app.stop()
    print(word, {p: f"{s * 1e3:.0f} ms" for p, s in stalls.items()})
    if stalls:
        assert stalls["ignore"] > 1, "the lock did make somebody wait, or this shows nothing"
        assert max(s for p, s in stalls.items() if p != "ignore") < stalls["ignore"]


def blocker_id(server, word):
    return old(server, word)[0]


def test_an_idle_session_with_lock_tables_ends_in_eagain_and_leaves_nothing(server, drive):
    c = server.db.connect("t")
    with c.cursor() as cursor:
        cursor.execute("LOCK TABLES a WRITE")
        d = drive(db__lock_timeout=1)
        with pytest.raises(Failed) as failed:
            run_all(d)
        assert failed.value.code == errno.EAGAIN
        if server.mysql:
            assert "an idle session with a lock by root" in failed.value.message
        cursor.execute("INSERT INTO a (v) VALUES (4)")
        cursor.execute("UNLOCK TABLES")
    c.close()
    server.released()
    run_all(d)


def test_each_missing_privilege_is_named_and_no_other(server, drive):
    wanted = ["RELOAD", "PROCESS"] + (["BACKUP_ADMIN", "REPLICATION CLIENT"] if server.mysql else
                                      ["BINLOG MONITOR", "SLAVE MONITOR"])
    db = server.db
    for missing in [*wanted, None]:
        db.query("DROP USER IF EXISTS weak@localhost")
        db.query("CREATE USER weak@localhost IDENTIFIED BY 'pw-secret'")
        for g in wanted:
            if g != missing:
                db.query(f"GRANT {g} ON *.* TO weak@localhost")
        if server.mysql:
            db.query("GRANT SELECT ON performance_schema.* TO weak@localhost")
        d = drive(db__defaults_file=db.defaults("weak", "pw-secret"))
        if missing:
            with pytest.raises(Failed) as failed:
                d("preflight 5000")
            assert failed.value.code == errno.EACCES
            assert failed.value.message.endswith(f"lacks privileges: GRANT {missing} ON *.* TO it"), failed.value.message
        else:
            run_all(d)
            assert all(line.startswith("ok ") for line in d("examine 5000"))


def test_doctor_names_every_finding(server, drive):
    db = server.db
    db.query("DROP USER IF EXISTS weak@localhost")
    db.query("CREATE USER weak@localhost IDENTIFIED BY 'pw'")
    d = server.drive(db__defaults_file=db.defaults("weak", "pw"), mount_dev=1)
    lines = d("examine 5000")
    d.close()
    bad = [line for line in lines if line.startswith("bad ")]
    assert any("GRANT RELOAD, PROCESS" in line for line in bad), lines
    assert any("datadir" in line for line in bad), lines
    assert lines[0].startswith("ok server "), lines


def test_a_prepared_xa_transaction_is_no_obstacle(server, drive):
    c = server.db.connect("t")
    with c.cursor() as cursor:
        for sql in ("XA START 'x'", "INSERT INTO a (v) VALUES (5)", "XA END 'x'", "XA PREPARE 'x'"):
            cursor.execute(sql)
        run_all(drive())
        cursor.execute("XA ROLLBACK 'x'")
    c.close()


def test_a_running_alter_is_waited_for(server, drive):
    server.db.query("CREATE TABLE IF NOT EXISTS t.b (id INT PRIMARY KEY)")
    with statement(server, "CREATE TABLE t.slow AS SELECT SLEEP(8) AS s"):
        wait_old(server, "CREATE")
        d = drive(db__blockers="wait:20")
        assert run_all(d)["blocker"].startswith("CREATE by root")
    server.db.query("DROP TABLE t.slow")


def test_a_server_that_is_down_fails_or_is_recorded_as_such(server, drive):
    server.db.stop()
    try:
        with pytest.raises(Failed) as failed:
            drive()("preflight 5000")
        assert failed.value.code == errno.ECONNREFUSED
        position = run_all(drive(db__when_down="crash-consistent"))
        assert position == {"server": "down", "lock_method": "none", "position": "unknown until verified"}
    finally:
        server.db.start()
    assert "binlog_file" in run_all(drive(db__when_down="crash-consistent"))


def test_without_a_lock_that_blocks_commits_no_position_is_claimed(server, drive):
    position = run_all(drive(db__lock="none"))
    assert position["position"] == "unknown until verified" and "binlog_file" not in position
    if server.mysql:
        position = run_all(drive(db__lock="backup"))
        assert position["lock_method"] == "instance" and position["position"] == "unknown until verified"


def test_a_wrong_policy_is_refused_with_the_choices(server, drive):
    with pytest.raises(Failed) as failed:
        drive(db__blockers="kill")
    assert failed.value.code == errno.EINVAL and "kill-queries[:USER]" in failed.value.message


UNDER_THE_LOCK = {
    "mariadb": ["BACKUP STAGE START", "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "BACKUP STAGE BLOCK_COMMIT",
                "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "SELECT", "SHOW MASTER STATUS", "SHOW ALL SLAVES STATUS", "BACKUP STAGE END"],
    "mysql": ["FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "LOCK INSTANCE FOR BACKUP", "FLUSH TABLES WITH READ LOCK",
              "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", "SELECT", "SHOW BINARY LOG STATUS", "SHOW REPLICA STATUS", "UNLOCK INSTANCE",
              "UNLOCK TABLES"],
}


def test_under_the_lock_no_more_is_asked_than_the_position_takes(server, drive):
    """What is flushed before it needs no flush under it, and the lock that everybody waits for goes last."""
    if not server.mysql:  # MySQL keeps a session's last ten statements by itself
        server.db.restart("--performance-schema=ON", "--performance-schema-consumer-events-statements-current=ON",
                          "--performance-schema-consumer-events-statements-history=ON",
                          "--performance-schema-events-statements-history-size=10", "--performance-schema-instrument=statement/%=ON")
    run_all(drive())
    said = [sql for (sql,) in server.db.query(
        "SELECT h.SQL_TEXT FROM performance_schema.events_statements_history h JOIN performance_schema.threads t ON t.THREAD_ID = "
        "h.THREAD_ID WHERE t.PROCESSLIST_ID <> CONNECTION_ID() AND h.SQL_TEXT IS NOT NULL ORDER BY h.EVENT_ID")]
    wanted = UNDER_THE_LOCK["mysql" if server.mysql else "mariadb"]
    assert [sql if sql in wanted else sql.split()[0] for sql in said[-len(wanted):]] == wanted
    assert "@@GLOBAL.gtid" in said[-len(wanted):][wanted.index("SELECT")]


@pytest.fixture(scope="module")
def pair(request, server):
    """A source and a replica of the server's kind."""
    kind = type(server.db)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    scratch.chmod(0o755)
    port = replication.free_port()
    (scratch / "data").mkdir()
    source = kind(scratch / "source", scratch / "data", 11, options=replication.options(kind, port)).start()
    (scratch / "rep").mkdir()
    other = coordinators.SQL.around(kind(scratch / "replica", scratch / "rep", 12,
                                         options=replication.options(kind, replication.free_port())).start(), scratch, server.argv)
    replication.account(source)
    replication.attach(other.db, port)
    source.query("CREATE DATABASE t")
    source.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    replication.catch_up(source, other.db)
    yield source, other, port
    other.close()
    source.close()
    shutil.rmtree(scratch)


def test_a_replica_records_what_it_has_executed_and_its_own(pair, drive):
    source, replica, port = pair
    source.query("INSERT INTO t.a (v) VALUES (1)")
    replication.catch_up(source, replica.db)
    where = source.query("SHOW BINARY LOG STATUS" if replica.mysql else "SHOW MASTER STATUS")[0][:2]
    both = run_all(drive(replica))
    assert (both["source_log_file"], int(both["source_log_pos"])) == where
    assert (both["source_host"], both["source_port"], both["source_auto_position"]) == ("127.0.0.1", str(port), "yes")
    assert "binlog_file" in both
    assert both["gtid_executed" if replica.mysql else "gtid_current_pos"].replace("\n", "") == replication.executed(replica.db)
    own = run_all(drive(replica, db__position_file="own"))
    assert "binlog_file" in own and "source_log_file" not in own and own["role"] == "replica" and "role" not in both
    src = run_all(drive(replica, db__position_file="source"))
    assert "binlog_file" not in src and "source_log_file" in src
    with pytest.raises(Failed) as failed:
        run_all(drive(db__position_file="source"))
    assert "no replica" in failed.value.message


def test_a_hundred_runs_leave_gtids_and_the_applier_as_they_were(pair, drive):
    source, replica, _ = pair
    before = replication.executed(replica.db), replica.db.query("SHOW BINARY LOGS")
    d = drive(replica)
    for _ in range(100):
        run_all(d)
    assert (replication.executed(replica.db), replica.db.query("SHOW BINARY LOGS")) == before
    assert replication.runs(replica.db)


def test_an_applier_that_was_stopped_is_started_again_also_after_our_death(pair, drive):
    source, replica, _ = pair
    d = drive(replica, db__stop_replica="yes")
    d("preflight 5000")
    d("prepare s 60000")
    assert not replication.runs(replica.db)
    assert "applier" in (replica.state / "db-mysql.journal").read_text()
    d("lock 2000 5000")
    d.kill()
    assert not replication.runs(replica.db)
    d = drive(replica, db__stop_replica="yes")
    d("recover 5000")
    wait_for("the applier", lambda: replication.runs(replica.db))
    assert not (replica.state / "db-mysql.journal").exists()
    run_all(d)
    wait_for("the applier", lambda: replication.runs(replica.db))


def test_file_and_position_replicas_are_stopped_and_gaps_refused(pair, drive):
    source, replica, port = pair
    where = source.query("SHOW BINARY LOG STATUS" if replica.mysql else "SHOW MASTER STATUS")[0][:2]
    replica.db.query("STOP REPLICA" if replica.mysql else "STOP SLAVE")
    replication.attach(replica.db, port, gtid=False, file=where[0], pos=where[1])
    d = drive(replica)
    d("preflight 5000")
    d("prepare s 60000")
    assert not replication.runs(replica.db), "auto: what it shows is not where commits are blocked"
    d("finish 0 5000")
    wait_for("the applier", lambda: replication.runs(replica.db))
    if replica.mysql:
        replica.db.query("STOP REPLICA SQL_THREAD")
        replica.db.query("SET GLOBAL replica_preserve_commit_order=0")
        replica.db.query("START REPLICA SQL_THREAD")
        unstopped = drive(replica, db__stop_replica="no")
        with pytest.raises(Failed) as failed:
            run_all(unstopped)
        unstopped("unlock 2000")
        assert failed.value.code == errno.EAGAIN and "can have gaps" in failed.value.message
        assert "source_log_pos" in run_all(drive(replica))
    replica.db.query("STOP REPLICA" if replica.mysql else "STOP SLAVE")
    replication.attach(replica.db, port)
