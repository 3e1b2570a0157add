"""The mongodb coordinator against the scripted responder; nothing here has met a real mongod, unless STILLFS_MONGOD names one."""

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import coordinators
from coordinators import Drive, Failed
from mariadb import MariaDB
from mongod import Mongod
from stillfs import wait_for

RUN = ["preflight 5000", "prepare s 5000", "lock 2000 3000"]


@pytest.fixture
def site():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    s = coordinators.Mongo(scratch)
    with contextlib.ExitStack() as made:
        def drive(**options):
            d = s.drive(**options)
            made.callback(d.close)
            return d
        yield s, drive
    s.close()
    shutil.rmtree(scratch)


def locked(d):
    for step in RUN:
        d(step)
    return d


def journal(s):
    return (s.state / "db-mongodb.journal").exists()


def test_a_lock_that_somebody_else_holds_is_refused_and_left_alone(site):
    s, drive = site
    s.db.command({"fsync": 1, "lock": True, "fsyncLockAcquisitionTimeoutMillis": 100})
    with pytest.raises(Failed) as failed:
        locked(drive())
    assert failed.value.code == errno.EBUSY and "somebody else" in failed.value.message
    assert s.db.locks() == 1 and not journal(s)


def test_somebody_who_locks_after_us_keeps_theirs(site):
    s, drive = site
    d = locked(drive())
    s.db.command({"fsync": 1, "lock": True, "fsyncLockAcquisitionTimeoutMillis": 100})
    d("unlock 2000")
    assert s.db.locks() == 1
    assert s.db.calls().count("fsyncUnlock") == 1


def test_a_lock_not_got_in_time_is_eagain_and_nothing_is_held(site):
    s, drive = site
    s.db.fault("fsync", "error", code=24, codeName="LockTimeout", errmsg="Fsync lock timed out")
    d = drive()
    with pytest.raises(Failed) as failed:
        locked(d)
    assert failed.value.code == errno.EAGAIN and "Fsync lock timed out" in failed.value.message
    assert s.db.locks() == 0 and not journal(s)
    locked(d)("unlock 2000")


def test_the_server_gives_up_before_we_do(site):
    """As the engine asks: db.lock_timeout, and the time of short tries, of which this lock has none."""
    s, drive = site
    d = drive()
    for step in RUN[:2]:
        d(step)
    s.db.fault("fsync", "held")
    with pytest.raises(Failed) as failed:
        d("lock 4000 3000")
    assert failed.value.code == errno.EAGAIN and "Fsync lock timed out" in failed.value.message
    assert s.db.locks() == 0 and not journal(s)


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
def test_a_lock_that_comes_after_all_is_released(site, dies):
    s, drive = site
    d = drive()
    for step in RUN[:2]:
        d(step)
    s.db.fault("fsync", "stall", seconds=4)
    with pytest.raises(Failed) as failed:
        d("lock 4000 3000")
    assert failed.value.code in (errno.ECONNRESET, errno.ECONNREFUSED)
    assert journal(s) and s.db.calls().count("fsync") == 1
    if dies:
        d.kill()
        d = drive()
    d("recover 5000" if dies else "finish -5 30000", 40)
    assert s.db.locks() == 0 and not journal(s)
    assert s.db.calls().count("fsyncUnlock") == 1


def test_a_lock_that_does_not_come_is_waited_for_before_it_is_forgotten(site):
    s, drive = site
    s.db.fault("fsync", "refuse")
    d = drive()
    with pytest.raises(Failed):
        locked(d)
    assert journal(s) and s.db.locks() == 0
    with pytest.raises(Failed) as failed:
        d("recover 500")
    assert failed.value.code == errno.EAGAIN and "may still come" in failed.value.message and journal(s)
    d("prepare t 60000", 70)  # the next run's, which must not share a lock with this one
    assert not journal(s)
    d("lock 2000 3000")
    d("unlock 2000")
    assert s.db.locks() == 0 and not journal(s)


def test_a_lock_whose_answer_was_lost_is_released(site):
    s, drive = site
    s.db.fault("fsync", "drop")
    with pytest.raises(Failed) as failed:
        locked(drive())
    assert failed.value.code in (errno.ECONNRESET, errno.ECONNREFUSED)
    assert s.db.locks() == 0 and not journal(s)


@pytest.mark.parametrize("mode,calls", [("drop", 1), ("refuse", 2)])
def test_an_unlock_whose_answer_was_lost_is_sent_again_only_when_it_is_still_locked(site, mode, calls):
    s, drive = site
    d = locked(drive())
    s.db.fault("fsyncUnlock", mode)
    d("unlock 2000")
    assert s.db.locks() == 0 and not journal(s)
    assert s.db.calls().count("fsyncUnlock") == calls


def test_the_next_process_ends_the_lock_of_a_dead_one_once(site):
    s, drive = site
    locked(drive()).kill()
    assert s.db.locks() == 1 and journal(s)
    d = drive()
    d("recover 5000")
    assert s.db.locks() == 0 and not journal(s)
    d("recover 5000")
    assert s.db.calls().count("fsyncUnlock") == 1


def test_a_server_restarted_under_the_lock_fails_the_set(site):
    s, drive = site
    d = locked(drive())
    s.db.kill()
    s.db.start()
    with pytest.raises(Failed) as failed:
        d("unlock 2000")
    assert failed.value.code == errno.ENOLCK
    d("finish 0 5000")
    assert not journal(s)


@pytest.mark.parametrize("role", ["standalone", "primary", "secondary", "hidden"])
def test_position_of_each_role(role):
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    s = coordinators.Mongo(scratch)
    s.db.kill()
    s.db.role = role
    s.db.start()
    d = s.drive()
    try:
        position = locked(d).position()
        d("unlock 2000")
        assert position["mongodb_role"] == role and position["mongodb"] == f"7.0.5 {role}"
        if role == "standalone":
            assert "mongodb_set" not in position and "mongodb_applied" not in position
        else:
            assert position["mongodb_set"] == "rs0"
            assert {position[k] for k in ("mongodb_applied", "mongodb_durable", "mongodb_committed", "mongodb_last_write")} == \
                {"1700000000:7"}
    finally:
        d.close()
        s.close()
        shutil.rmtree(scratch)


def test_without_the_lock_nothing_is_locked_and_no_position_claimed(site):
    s, drive = site
    position = locked(d := drive(db__mongodb_lock="none")).position()
    assert s.db.locks() == 0 and not journal(s)
    assert position["mongodb_lock"] == "none" and position["mongodb_position"] == "unknown until verified"
    d("unlock 2000")


def test_refusals_before_anything_is_held(site):
    s, drive = site

    def refused(code, words, **options):
        with pytest.raises(Failed) as failed:
            drive(**options)("preflight 5000")
        assert failed.value.code == code and words in failed.value.message, failed.value.message
    refused(errno.EXDEV, f"dbPath {s.data}", mount_dev=1)
    s.db.fault("x", "watchdog", value=1)
    refused(errno.EINVAL, "mongod's watchdog ends it when its storage hangs for 1 s")
    s.db.fault("x", "watchdog", value=-1)
    s.db.fault("x", "auth", value={"authenticatedUsers": [{"user": "u", "db": "admin"}],
                                   "authenticatedUserPrivileges": [{"actions": ["fsync"]}]})
    refused(errno.EACCES, "hostManager")
    s.db.fault("currentOp", "error", code=13, codeName="Unauthorized", errmsg="not authorized")
    s.db.fault("x", "auth", value={"authenticatedUsers": []})
    refused(errno.EACCES, "clusterMonitor and hostManager")
    s.db.uri_file.chmod(0o644)
    refused(errno.EPERM, "chmod 600")
    s.db.uri_file.chmod(0o600)
    s.db.uri_file.write_text("mongodb://a,b/?secret-option=pw\n")
    with pytest.raises(Failed) as failed:
        drive()("preflight 5000")
    assert failed.value.code == errno.EINVAL and "pw" not in failed.value.message
    with pytest.raises(Failed) as failed:
        Drive(s.argv, state_dir=s.state)
    assert "db.mongodb_uri_file" in failed.value.message


def test_two_databases_under_one_gate_are_locked_in_order_and_all_released(make_mount, scratch):
    data = scratch.dir / "mongo"
    data.mkdir()
    m = make_mount(start=False, provider="null", db="mysql+mongodb", db__socket=scratch.dir / "db" / "sock",
                   db__mongodb_uri_file=data / "uri", db__mongodb_lock="yes")
    (m.back / "mongo").mkdir()
    (m.back / "maria").mkdir()
    m.start()
    mongo = Mongod(data, m.mnt / "mongo").start()
    db = MariaDB(scratch.dir / "db", m.mnt / "maria").start()
    try:
        assert m.write("snapshot", "one\n") == 0, m.last_error()
        m.wait_state("one", "complete")
        position = m.read("snapshots/one/position")
        assert position.index("mongodb_lock fsync") < position.index("lock_method backup")
        assert mongo.locks() == 0
        db.query("CREATE DATABASE afterwards")
        mongo.signal(19)  # SIGSTOP: the gate is not even closed
        assert m.write("snapshot", "stopped\n") != 0
        assert m.gate() == "open"
        mongo.signal(18)
        db.query("CREATE DATABASE still")
        wait_for("idle", lambda: m.status()["database_call"] == "ok" and m.status()["state"] == "idle")
        m.null("trigger hang\n")
        assert m.write("snapshot", "dies nowait\n") == 0
        wait_for("the hold", lambda: m.gate() == "closed")
        os.kill(m.daemon, 9)
        wait_for("a new daemon's release", lambda: mongo.locks() == 0 and m.gate() == "open")
        db.query("CREATE DATABASE again")
        m.daemon = int(m.status()["pid"])
    finally:
        db.close()
        mongo.kill()


@pytest.mark.skipif(not os.environ.get("STILLFS_MONGOD"), reason="STILLFS_MONGOD names no mongod: Debian has none")
def test_a_real_mongod_is_locked_recorded_and_released(make_mount, scratch):
    port = Mongod(scratch.dir, "/nowhere").port
    m = make_mount(start=False, db="mongodb", db__mongodb_uri_file=scratch.dir / "uri", db__mongodb_lock="yes")
    m.start()
    (m.mnt / "db").mkdir()
    (scratch.dir / "uri").write_text(f"mongodb://127.0.0.1:{port}/\n")
    server = subprocess.Popen([os.environ["STILLFS_MONGOD"], "--dbpath", str(m.mnt / "db"), "--port", str(port), "--bind_ip",
                               "127.0.0.1"], stdout=subprocess.DEVNULL)
    try:
        wait_for("a set", lambda: m.write("snapshot", "one\n") == 0, 60)
        assert "mongodb_lock fsync" in m.read("snapshots/one/position")
        assert m.write("snapshot", "two\n") == 0, m.last_error()
    finally:
        server.terminate()
        server.wait(30)
