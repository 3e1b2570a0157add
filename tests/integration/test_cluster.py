"""Servers that others wait for: semi-synchronous sources and replicas, members of a group, Galera nodes.

What the coordinator refuses and with which words, what it changes around the hold, and that a hold does to the others
what is said of it.
"""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import signal
import tempfile
import threading
import time

import pytest

import coordinators
import replication
from coordinators import Failed
from mariadb import MariaDB
from mysql import MySQL, mysql_root
from stillfs import Mount, Scratch, wait_for

DRIVE = [coordinators.UNIT / "drive_mysql"]
KINDS = {"mariadb": MariaDB, "mysql": MySQL}


@contextlib.contextmanager
def scratch_dir():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextlib.contextmanager
def driven(sql, **options):
    d = sql.drive(**options)
    try:
        yield d
    finally:
        d.close()


def run_all(d):
    d("preflight 5000")
    d("prepare s 60000", 70)
    d("lock 2000 5000")
    position = d.position()
    d("unlock 2000")
    d("finish 0 30000")
    return position


def refused(sql, code, **options):
    with driven(sql, **options) as d:
        with pytest.raises(Failed) as failed:
            d("preflight 5000")
        assert failed.value.code == code, failed.value
        assert any(line.startswith("bad replication, group and cluster: ") for line in d("examine 5000"))
    return failed.value.message


# ---- semi-synchronous replication ----

def semi_sync(kind, role):
    """Options of a source or of a replica; what is not built in is loaded."""
    source, replica = ("source", "replica") if kind is MySQL else ("master", "slave")
    load = ["--plugin-load-add=semisync_source.so;semisync_replica.so"] if kind is MySQL else []
    return [*load, f"--rpl-semi-sync-{source if role == 'source' else replica}-enabled=1", f"--rpl-semi-sync-{source}-timeout=60000"]


class Pair:
    """A semi-synchronous source and its replica, each on a mount of its own."""

    def __init__(self, kind, stack):
        self.mysql, self.port = kind is MySQL, replication.free_port()
        self.word = "source" if self.mysql else "master"
        made = []
        for n, name in enumerate(("source", "replica")):
            scratch = Scratch()
            stack.callback(scratch.close)
            m = Mount(scratch, provider="null")
            stack.callback(m.close)
            (m.mnt / "d").mkdir()
            s = kind(scratch.dir / "db", m.mnt / "d", n + 1, options=[
                *replication.options(kind, replication.free_port() if n else self.port), *semi_sync(kind, name)])
            stack.callback(s.close)
            s.start()
            stack.callback(s.kill)  # nobody needs its files any more
            made.append((s, m, coordinators.SQL.around(s, scratch.dir / "db", DRIVE)))
        (self.source, self.source_mount, self.at_source), (self.replica, self.replica_mount, self.at_replica) = made
        replication.account(self.source)
        replication.attach(self.replica, self.port)
        self.source.query("CREATE DATABASE t")
        self.source.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
        replication.catch_up(self.source, self.replica)
        wait_for("semi-synchronous replication", lambda: self.status("clients") == "1" and self.status("status") == "ON")

    def status(self, what):
        return self.source.query(f"SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_{self.word}_{what}'")[0][1]

    def set_timeout(self, ms):
        self.source.query(f"SET GLOBAL rpl_semi_sync_{self.word}_timeout={ms}")

    def part(self):
        """The source has no replica any more, and knows it."""
        self.replica.query(f"STOP {'REPLICA' if self.mysql else 'SLAVE'} IO_THREAD")
        for i, in self.source.query("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"):
            self.source.query(f"KILL {i}")
        wait_for("the source to see it", lambda: self.status("clients") == "0")

    def join(self):
        self.replica.query(f"START {'REPLICA' if self.mysql else 'SLAVE'} IO_THREAD")
        wait_for("the replica", lambda: self.status("clients") == "1")


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def pair(request):
    if request.param == "mysql":
        mysql_root()
    with contextlib.ExitStack() as stack:
        yield Pair(KINDS[request.param], stack)


def test_a_hold_that_could_outlast_the_sources_patience_is_refused_on_a_replica(pair):
    message = refused(pair.at_replica, errno.EINVAL, gate_timeout=5, db__semi_sync_timeout=5)
    assert f"set gate_timeout below the source's rpl_semi_sync_{pair.word}_timeout, and db.semi_sync_timeout to that" in message
    assert "gate_timeout=5 s" in message and "db.semi_sync_timeout=5 s" in message
    with driven(pair.at_replica, gate_timeout=4, db__semi_sync_timeout=5) as d:
        assert "source_log_file" in run_all(d)
        assert all(line.startswith("ok ") for line in d("examine 5000"))
    pair.part()  # now the source does not wait for it
    try:
        with driven(pair.at_replica, gate_timeout=5, db__semi_sync_timeout=5) as d:
            run_all(d)
    finally:
        pair.join()


def test_a_commit_that_waits_for_a_replica_is_found_before_the_lock_waits_behind_it(pair):
    error = []

    def work():
        try:
            pair.source.query("INSERT INTO t.a (v) VALUES (1)")
        except Exception as e:  # noqa: BLE001 - looked at below
            error.append(e)
    os.kill(pair.replica.process.pid, signal.SIGSTOP)
    t = threading.Thread(target=work)
    try:
        t.start()
        wait_for("a commit that waits", lambda: pair.source.query(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for semi-sync ACK%' AND TIME >= 2")[0][0])
        for policy in ("refuse", "kill-queries"):  # what is in the log already cannot be ended
            with driven(pair.at_source, db__blocker_age=3600, db__blockers=policy) as d:
                d("preflight 5000")
                with pytest.raises(Failed) as failed:
                    d("prepare s 60000")
            assert failed.value.code == errno.EAGAIN
            assert re.search(r"INSERT by root for \d+ s \(id \d+, waits for a replica's acknowledgement\)", failed.value.message)
        with driven(pair.at_source, db__blockers="ignore", db__lock_timeout=1) as d:
            d("preflight 5000")
            d("prepare s 60000")
            with pytest.raises(Failed) as failed:
                d("lock 2000 5000")
            assert failed.value.code == errno.EAGAIN, "it does wait, or the look beforehand is for nothing"
    finally:
        os.kill(pair.replica.process.pid, signal.SIGCONT)
        t.join()
    assert not error
    with driven(pair.at_source) as d:
        run_all(d)


def test_doctor_tells_of_a_source_whose_replicas_are_away(pair):
    def lines():
        with driven(pair.at_source) as d:
            return [line for line in d("examine 5000") if "replicas of a semi-synchronous source acknowledge" in line]
    assert lines() == ["ok replicas of a semi-synchronous source acknowledge"]
    pair.part()
    try:
        assert lines() == ["bad replicas of a semi-synchronous source acknowledge: this server is a semi-synchronous source with 0 "
                           "of 1 replicas that acknowledge: its next commit waits for "
                           f"rpl_semi_sync_{pair.word}_timeout=60 s, and the lock behind it for db.lock_timeout=2 s only: start "
                           f"the replicas, or set rpl_semi_sync_{pair.word}_enabled=OFF"]
        with driven(pair.at_source) as d:
            run_all(d)  # no commit waits yet
        pair.set_timeout(1000)
        assert lines() == ["ok replicas of a semi-synchronous source acknowledge"]
    finally:
        pair.set_timeout(60000)
        pair.join()


class Writer:
    """Commits one row after the other."""

    def __init__(self, server):
        self.n, self.longest, self.began, self.error, self.ended = 0, 0.0, time.monotonic(), [], threading.Event()
        self.server = server
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        try:
            c = self.server.connect("t")
            with c.cursor() as cursor:
                while not self.ended.is_set():
                    self.began = time.monotonic()
                    cursor.execute("INSERT INTO a (v) VALUES (1)")
                    self.longest = max(self.longest, time.monotonic() - self.began)
                    self.n += 1
            c.close()
        except Exception as e:  # noqa: BLE001 - raised by stop()
            self.error.append(e)

    def run_for(self, more):
        goal = self.n + more
        wait_for("the writer", lambda: self.n >= goal or self.error)

    def stop(self):
        self.ended.set()
        self.thread.join(60)
        if self.error:
            raise self.error[0]


def test_during_a_hold_no_commit_of_a_source_waits_for_its_replica(pair):
    """So its timeout has nothing to do with gate_timeout there."""
    w, m = Writer(pair.source), pair.source_mount
    w.run_for(20)
    with m.closed():
        wait_for("the writer at the gate", lambda: int(m.status()["parked"]) > 0)
        wait_for("the answer to what was written before it closed", lambda: pair.status("wait_sessions") == "0")
        for _ in range(20):
            assert pair.status("wait_sessions") == "0"
    w.run_for(20)
    w.stop()
    assert (pair.status("status"), pair.status("no_tx")) == ("ON", "0")


def test_during_a_hold_of_its_replica_a_source_waits_until_its_timeout(pair):
    w, m = Writer(pair.source), pair.replica_mount
    w.run_for(20)
    with m.closed():
        wait_for("a commit that waits", lambda: pair.status("wait_sessions") == "1")
    w.run_for(20)
    assert (pair.status("status"), pair.status("no_tx")) == ("ON", "0"), "it was opened in time"
    pair.set_timeout(500)
    w.run_for(20)  # one that waited already does so for as long as before
    with m.closed():
        wait_for("the source to give up", lambda: pair.status("status") == "OFF")
        w.run_for(5)
    w.stop()
    pair.set_timeout(60000)


# ---- Galera ----

PROVIDER = "/usr/lib/galera/libgalera_smm.so"


def galera(port, address="gcomm://"):
    return ["--wsrep-on=ON", f"--wsrep-provider={PROVIDER}", f"--wsrep-cluster-address={address}", "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2", "--wsrep-node-address=127.0.0.1", "--wsrep-sst-method=rsync",
            f"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{port};ist.recv_addr=127.0.0.1:{replication.free_port()};"
            "gcache.size=16M;gcs.fc_limit=4"]


def wsrep(server, what):
    return server.query(f"SHOW GLOBAL STATUS LIKE 'wsrep_{what}'")[0][1]


@pytest.fixture(scope="module")
def node():
    with scratch_dir() as scratch:
        (scratch / "data").mkdir()
        db = MariaDB(scratch / "db", scratch / "data", options=galera(replication.free_port())).start()
        wait_for("the cluster", lambda: wsrep(db, "ready") == "ON")
        yield coordinators.SQL.around(db, scratch, DRIVE)
        db.kill()
        db.close()


def test_a_galera_node_is_refused_unless_it_may_be_desynced(node):
    assert "db.galera=desync" in refused(node, errno.EPERM)


def test_a_galera_node_is_out_of_flow_control_for_the_hold_only(node):
    with driven(node, db__galera="desync") as d:
        d("preflight 5000")
        assert wsrep(node.db, "local_state_comment") == "Synced"
        d("prepare s 5000")
        assert wsrep(node.db, "local_state_comment") == "Donor/Desynced"
        assert (node.state / "db-mysql.journal").read_text() == "desync now\n"
        d("lock 2000 5000")
        assert "binlog_file" in d.position()
        d("unlock 2000")
        assert wsrep(node.db, "local_state_comment") == "Donor/Desynced", "the gate is closed for longer than the lock"
        d("finish 0 5000")
        wait_for("the node", lambda: wsrep(node.db, "local_state_comment") == "Synced")
        assert not (node.state / "db-mysql.journal").exists()


def test_a_galera_node_is_put_back_after_our_death(node):
    d = node.drive(db__galera="desync")
    d("preflight 5000")
    d("prepare s 5000")
    d("lock 2000 5000")
    d.kill()
    d.close()
    assert wsrep(node.db, "local_state_comment") == "Donor/Desynced"
    with driven(node, db__galera="desync") as d:
        d("recover 5000")
        wait_for("the node", lambda: wsrep(node.db, "local_state_comment") == "Synced")
        run_all(d)


def test_a_node_that_somebody_else_desynced_stays_so(node):
    node.db.query("SET GLOBAL wsrep_desync=ON")
    try:
        with driven(node, db__galera="desync") as d:
            run_all(d)
        assert node.db.query("SELECT @@GLOBAL.wsrep_desync")[0][0] == 1
    finally:
        node.db.query("SET GLOBAL wsrep_desync=OFF")


def test_the_privilege_to_desync_is_asked_for_beforehand(node):
    node.db.query("CREATE USER weak@localhost IDENTIFIED BY 'pw'")
    node.db.query("GRANT RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR ON *.* TO weak@localhost")
    with driven(node, db__galera="desync", db__defaults_file=node.db.defaults("weak", "pw")) as d:
        with pytest.raises(Failed) as failed:
            d("preflight 5000")
        assert failed.value.code == errno.EACCES and failed.value.message.endswith("lacks privileges: GRANT SUPER ON *.* TO it")
        node.db.query("GRANT SUPER ON *.* TO weak@localhost")
        run_all(d)


# ---- group replication ----

@pytest.fixture(scope="module")
def member():
    mysql_root()
    port = replication.free_port()
    with scratch_dir() as scratch:
        (scratch / "data").mkdir()
        db = MySQL(scratch / "db", scratch / "data", options=[
            *replication.options(MySQL, replication.free_port()), "--plugin-load-add=group_replication.so", "--report-host=127.0.0.1",
            *(f"--loose-group-replication-{o}" for o in (
                "group-name=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "start-on-boot=OFF", f"local-address=127.0.0.1:{port}",
                f"group-seeds=127.0.0.1:{port}", "bootstrap-group=ON", "ip-allowlist=127.0.0.1"))]).start()
        yield coordinators.SQL.around(db, scratch, DRIVE)
        db.kill()  # to leave its group first takes it some 15 s
        db.close()


def test_a_primary_of_a_group_is_refused_unless_allowed(member):
    def state():
        return member.db.query("SELECT MEMBER_STATE, MEMBER_ROLE FROM performance_schema.replication_group_members")
    with driven(member) as d:
        run_all(d)  # it is no member yet
    member.db.query("START GROUP_REPLICATION")
    member.db.query("CREATE DATABASE t")
    wait_for("the member", lambda: state() == (("ONLINE", "PRIMARY"),))
    message = refused(member, errno.EPERM)
    assert "primary of its group" in message and "db.group_primary=allow" in message
    with driven(member, db__group_primary="allow") as d:
        position = run_all(d)
    assert "aaaaaaaa-aaaa" in position["gtid_executed"]
    assert state() == (("ONLINE", "PRIMARY"),)
    member.db.query("CREATE USER weak@localhost IDENTIFIED BY 'pw'")
    member.db.query("GRANT RELOAD, PROCESS, BACKUP_ADMIN, REPLICATION CLIENT ON *.* TO weak@localhost")
    with driven(member, db__defaults_file=member.db.defaults("weak", "pw")) as d:
        with pytest.raises(Failed) as failed:
            d("preflight 5000")
    assert failed.value.code == errno.EACCES and "GRANT SELECT ON performance_schema.*" in failed.value.message
