"""Verification of local sets: a good one passes, each kind of sabotage is found, nothing live is touched or left behind."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from mariadb import MariaDB
from mysql import MySQL, mysql_root
from stillfs import STILLCTL, Mount, Scratch, wait_for


def flat(text):
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


@pytest.fixture(scope="module")
def site():
    """A primary on a mount, with a second server as its source, and one good set."""
    with contextlib.ExitStack() as undo:
        scratch = Scratch(size_mb=1200)
        undo.callback(scratch.close)
        m = Mount(scratch, start=False, db="mysql", db__socket=scratch.dir / "db" / "sock")
        undo.callback(m.close)
        m.start()
        db = MariaDB(scratch.dir / "db", m.mnt, options=["--innodb-log-file-size=8M"]).start()
        undo.callback(db.stop)
        db.query("CREATE DATABASE t")
        db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v CHAR(200), KEY (v)) ENGINE=InnoDB")
        db.query("CREATE TABLE t.m (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=MyISAM")
        db.query("CREATE TABLE t.r (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=Aria")
        db.query("INSERT INTO t.a (v) SELECT CONCAT('row ', seq) FROM seq_1_to_3000", "t")
        db.query("INSERT INTO t.m (v) VALUES (1), (2)")
        flushed(db)
        db.query("CREATE EVENT t.e ON SCHEDULE EVERY 1 SECOND DO INSERT INTO t.m (v) VALUES (99)")
        take(m, "good")
        yield m, db


def flushed(db):
    """All pages are on the disk, and something is left to recover: a page that recovery makes from the log alone is not
    read, and a flipped byte in it does no harm."""
    db.stop()
    db.start()
    db.query("CREATE TABLE t.later (id INT PRIMARY KEY)")
    db.query("INSERT INTO t.later VALUES (1)")


def take(m, name, words=""):
    assert m.write("snapshot", f"{name} {words}\n") == 0, m.last_error()
    m.wait_state(name, "complete", 40)


def verify(m, name, within_s=50):
    """The first word of the result, and its sentence."""
    assert m.write("verify", f"{name}\n") == 0, m.last_error()
    wait_for("the end of the verification", lambda: m.read("verify") == "idle\n", within_s)
    words = m.read(f"snapshots/{name}/verified").strip().split(" ", 2)
    return words[0], words[2]


def log_of(m, name):
    return m.read(f"snapshots/{name}/verify.log")


def sets_dir(m):
    return pathlib.Path(f"{m.back}.snapshots")


def left_behind(m):
    """What a verification may not leave: directories beside the sets, processes, mounts."""
    out = [p.name for p in sets_dir(m).iterdir() if p.name.startswith(".")]
    for p in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if p.name.isdigit() and b"/tmp/s.sock" in (p / "cmdline").read_bytes():
                out.append(f"process {p.name}")
    return out + [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if ".verify-" in line]


def checksums(directory):
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(directory.rglob("*")) if p.is_file()}


def test_a_good_set_is_recovered_checked_and_leaves_nothing(site):
    m, db = site
    before = db.query("SHOW MASTER STATUS"), db.query("SHOW SLAVE HOSTS")
    clone = checksums(sets_dir(m) / "good" / "data")
    assert verify(m, "good")[0] == "yes", log_of(m, "good")
    log = log_of(m, "good")
    assert "Starting crash recovery" in log, "a server really recovered it"
    assert re.search(r"\d\d tables checked, 0 of them bad", log)
    p = flat(m.read("snapshots/good/position"))
    assert f"binary log: ends at {p['binlog_file']}:{p['binlog_pos']}, recorded" in log
    assert (db.query("SHOW MASTER STATUS"), db.query("SHOW SLAVE HOSTS")) == before
    assert checksums(sets_dir(m) / "good" / "data") == clone
    assert left_behind(m) == []
    assert m.read("snapshots/good/server").startswith(f"mountpoint {m.mnt}\nserver mariadb\n")
    assert json.loads(m.read("list.json").splitlines()[0])["verified"] == "yes"


def test_a_datadir_of_another_group_than_its_files(site):
    """As mariadb-install-db leaves it in a directory that root made. What the server changed before is tidied up at its start."""
    m, db = site
    group = os.stat(m.mnt).st_gid
    os.chown(m.mnt, -1, 0)
    try:
        db.query("CREATE TABLE t.g (id INT PRIMARY KEY)")
        take(m, "group")
        assert verify(m, "group")[0] == "yes", log_of(m, "group")
    finally:
        os.chown(m.mnt, -1, group)
        db.query("DROP TABLE t.g")


def test_list_shows_file_and_offset(site):
    m, _ = site
    position = flat(m.read("snapshots/good/position"))
    assert position["gtid_binlog_pos"] and f" {position['binlog_file']}:{position['binlog_pos']} " in m.read("list")


def test_the_result_survives_a_restart_and_an_unverified_set_says_no(site):
    m, db = site
    take(m, "never")
    verify(m, "good")
    before = m.read("snapshots/good/verified")
    db.stop()
    m.stop()
    m.start()
    db.start()
    assert m.read("snapshots/good/verified") == before and before.startswith("yes ")
    assert m.read("snapshots/never/verified") == "no\n"


@contextlib.contextmanager
def nothing_live_changes(m, db):
    """The database's files, what lies outside, the source's list of replicas and its log's end are as they were, and nothing
    is left behind."""
    outside = m.dir / "outside"

    def state():
        return (checksums(m.mnt / "t"), checksums(outside) if outside.exists() else {}, db.query("SHOW SLAVE HOSTS"),
                db.query("SHOW MASTER STATUS"))
    db.query("SET GLOBAL event_scheduler=OFF")
    before = state()
    yield
    assert state() == before
    assert left_behind(m) == []


def spoil(m, name, change, manifest=True):
    """A copy of the good set under a name of its own is taken, changed, and its manifest made anew: only the server can
    tell."""
    take(m, name)
    base = sets_dir(m) / name
    change(base / "data")
    if manifest:
        files = sorted(p for p in (base / "data").rglob("*") if p.is_file())
        (base / "manifest.sha256").write_text("".join(
            f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(base)}\n" for p in files))


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 0x40]))


def cut(path, size):
    os.truncate(path, size)


@pytest.mark.parametrize("name,change,words", [
    ("byte", lambda d: flip(d / "t" / "a.ibd", 5 * 16384 + 700), "t/a.ibd has changed since the set was taken"),
    ("missing", lambda d: (d / "t" / "a.ibd").unlink(), "t/a.ibd is in the manifest and missing"),
    ("added", lambda d: (d / "t" / "new.frm").write_text("x"), "t/new.frm is not in the manifest"),
    ("cutlog", lambda d: cut(d / "ib_logfile0", 40960), "ib_logfile0 has changed since the set was taken"),
])
def test_the_manifest_finds_a_changed_file(site, name, change, words):
    m, db = site
    spoil(m, name, change, manifest=False)
    with nothing_live_changes(m, db):
        word, sentence = verify(m, name)
    assert word == "failed" and words in sentence, sentence


def move_out(m, d):
    """The table's file to a live place outside, with the link that InnoDB keeps for it."""
    outside = m.dir / "outside" / "t"
    outside.mkdir(parents=True, exist_ok=True)
    shutil.move(d / "t" / "a.ibd", outside / "a.ibd")
    (d / "t" / "a.isl").write_text(str(outside / "a.ibd"))
    for p in (m.dir / "outside", outside, outside / "a.ibd", d / "t" / "a.isl"):
        shutil.chown(p, "mysql", "mysql")


def binlog_outside(m, d):
    outside = m.dir / "outside"
    outside.mkdir(exist_ok=True)
    for log in d.glob("binlog.0*"):
        shutil.copy(log, outside)
    text = (d / "binlog.index").read_text()
    (d / "binlog.index").write_text(text.replace("./", f"{outside}/"))
    for p in (outside, *outside.glob("binlog.*")):
        shutil.chown(p, "mysql", "mysql")


@pytest.mark.parametrize("name,change,words", [
    ("byte2", lambda m, d: flip(d / "t" / "a.ibd", 5 * 16384 + 700), "CHECK TABLE t.a: "),
    ("missing2", lambda m, d: (d / "t" / "a.ibd").unlink(), "CHECK TABLE t.a: "),
    ("cutlog2", lambda m, d: cut(d / "ib_logfile0", 40960), "log"),
    ("myisam2", lambda m, d: cut(d / "t" / "m.MYD", 3), "CHECK TABLE t.m"),
    ("cutbinlog2", lambda m, d: cut(max(d.glob("binlog.0*")), 300), "the binary log ends at"),
    ("tableout2", move_out, "CHECK TABLE t.a: "),
    ("binlogout2", binlog_outside, "outside/binlog.0"),
])
def test_the_server_finds_what_a_manifest_made_afterwards_hides(site, name, change, words):
    m, db = site
    spoil(m, name, lambda d: change(m, d))
    with nothing_live_changes(m, db):
        word, sentence = verify(m, name)
    assert word == "failed" and words in sentence, sentence + log_of(m, name)
    assert "manifest: " in log_of(m, name), "the manifest was good"


def edit_record(m, db, name, change):
    """Change a set's record while stillfs is down."""
    db.stop()
    m.stop()
    for path in (m.dir / "state" / "sets").glob("*.json"):
        record = json.loads(path.read_text())
        if record["name"] == name:
            change(record)
            path.write_text(json.dumps(record) + "\n")
    m.start()
    db.start()


def test_a_wrong_position_and_a_redo_log_outside_the_set_are_found(site):
    m, db = site
    take(m, "wrong")
    take(m, "redo")

    def position(record):
        file = flat(record["position"])["binlog_pos"]
        record["position"] = record["position"].replace(f"binlog_pos {file}", f"binlog_pos {int(file) + 1}")
    edit_record(m, db, "wrong", position)
    with nothing_live_changes(m, db):
        word, sentence = verify(m, "wrong")
    assert word == "failed" and "the binary log ends at" in sentence and "the record says" in sentence, sentence

    def redo(record):
        record["layout"] = record["layout"].replace("option innodb_log_group_home_dir ./",
                                                    "option innodb_log_group_home_dir /var/lib/redo")
    edit_record(m, db, "redo", redo)
    with nothing_live_changes(m, db):
        word, sentence = verify(m, "redo")
    assert word == "failed" and "innodb_log_group_home_dir is /var/lib/redo, which is not in the set" in sentence


def test_the_sandbox_has_no_interface_no_live_file_and_no_other_user(site):
    """What the server could see, from a program in its place."""
    m, db = site
    spy = m.dir / "bin" / "spy"
    spy.parent.mkdir(exist_ok=True)
    spy.write_text(f"""#!/bin/sh
    exec > /tmp/error.log 2>&1
    echo "[ERROR] interfaces: $(tail -n +3 /proc/net/dev | tr -d ' ' | cut -d: -f1 | tr '\\n' ' ')"
    echo user: $(cat /proc/self/uid_map) caps: $(grep CapEff /proc/self/status)
    echo processes: $(ls -d /proc/[0-9]*)
    echo live: $(ls {m.back} {m.dir}/db {sets_dir(m)} 2>&1)
    echo mounted: $(ls {m.mnt}/t | head -3)
    echo write: $(touch /usr/x /etc/x /x 2>&1)
    """)
    spy.chmod(0o755)
    m.dir.chmod(0o755)
    db.stop()
    m.stop()
    m.options["verify.server"] = spy
    m.start()
    try:
        word, sentence = verify(m, "good")
        log = log_of(m, "good")
    finally:
        m.stop()
        del m.options["verify.server"]
        m.start()
        db.start()
    assert "interfaces: lo" in sentence, "down, as in any new network namespace: " + log
    uid = pathlib.Path(m.mnt).stat().st_uid
    assert f"user: {uid} {uid} 1 caps: CapEff: 0000000000000000" in log, log
    assert "/proc/1 " in log and str(db.process and db.process.pid) not in re.search(r"processes: (.*)", log).group(1).split("/proc/")
    assert log.count("No such file or directory") >= 3, log
    assert "mounted: a.frm a.ibd" in log, log
    assert log.count("Read-only file system") == 3, log


def test_with_db_lock_none_the_position_is_filled_in(site):
    m, db = site
    db.stop()
    m.stop()
    m.options["db.lock"] = "none"
    m.start()
    db.start()
    try:
        take(m, "nolock")
        assert "position unknown until verified" in m.read("snapshots/nolock/position")
        assert verify(m, "nolock")[0] == "yes", log_of(m, "nolock")
        p = flat(m.read("snapshots/nolock/position"))
        assert "position" not in p and p["position_from"] == "verify"
        assert (p["binlog_file"], int(p["binlog_pos"])) == db.query("SHOW MASTER STATUS")[0][:2]
        assert p["gtid_binlog_pos"] == db.query("SELECT @@gtid_binlog_pos")[0][0]
    finally:
        db.stop()
        m.stop()
        del m.options["db.lock"]
        m.start()
        db.start()


def slow_server(m):
    """A server that never answers."""
    path = m.dir / "bin" / "slow"
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\nsleep 1000\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def slow(site):
    m, db = site
    db.stop()
    m.stop()
    m.options["verify.server"] = slow_server(m)
    m.start()
    yield m
    m.stop()
    del m.options["verify.server"]
    m.start()
    db.start()


def sandbox_pids(m, name="good"):
    """The verifying process first, then its init."""
    out, comm = [], "verify-" + m.read(f"snapshots/{name}/id")[:8]
    for p in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if p.name.isdigit() and (p / "comm").read_text().strip() == comm:
                spaces = next(line for line in (p / "status").read_text().splitlines() if line.startswith("NSpid"))
                out.append((len(spaces.split()), int(p.name)))
    return [pid for _, pid in sorted(out)]


def test_cancel_ends_it_and_the_set_stays_as_it_was(slow):
    m = slow
    before = json.loads(m.read("list.json").splitlines()[0])["verified"]
    assert m.write("verify", "good\n") == 0
    wait_for("the sandbox", lambda: "running 50" in m.read("verify"), 20)
    assert re.match(r"good running 50 recovery by .*/slow", m.read("verify"))
    assert m.write("verify", "good\n") == errno.EBUSY
    with pytest.raises(OSError) as e:
        os.rmdir(m.control / "snapshots" / "good")
    assert e.value.errno == errno.EBUSY and "being verified" in m.last_error()["message"]
    assert m.write("verify", "cancel\n") == 0
    wait_for("the end", lambda: m.read("verify") == "idle\n", 20)
    assert "cancelled by an operator" in m.read("snapshots/good/verified")
    assert json.loads(m.read("list.json").splitlines()[0])["verified"] == before
    wait_for("the end of all processes", lambda: sandbox_pids(m) == [], 20)
    assert left_behind(m) == []
    assert m.write("verify", "cancel\n") == errno.ENOENT


@pytest.mark.parametrize("victim", ["daemon", "verifier"])
def test_whatever_dies_nothing_is_left(slow, victim):
    m = slow
    assert m.write("verify", "good\n") == 0
    wait_for("the sandbox", lambda: "running 50" in m.read("verify"), 20)
    wait_for("its init", lambda: len(sandbox_pids(m)) >= 2, 20)
    if victim == "daemon":
        os.kill(int(m.status()["pid"]), signal.SIGKILL)
        wait_for("a successor", lambda: m.status()["restarts"] == "1", 20)
        m.daemon = int(m.status()["pid"])
    else:
        os.kill(sandbox_pids(m)[0], signal.SIGKILL)
        wait_for("its end", lambda: m.read("verify") == "idle\n", 20)
        assert "ended without a result" in m.read("snapshots/good/verified")
    wait_for("the end of all processes", lambda: sandbox_pids(m) == [], 20)
    wait_for("the removal of its files", lambda: left_behind(m) == [], 20)


def test_verify_refuses_what_it_cannot_do(site):
    m, db = site
    for text, code, words in (("none\n", errno.ENOENT, "no such set"), ("a b\n", errno.EINVAL, "expected a set's name"),
                              ("../x\n", errno.EINVAL, "expected a set's name"), ("\n", errno.EINVAL, "expected")):
        assert m.write("verify", text) == code and words in m.last_error()["message"]


def test_auto_verify_takes_scheduled_sets_only(site):
    m, db = site
    db.stop()
    m.stop()
    m.options["auto_verify"] = "yes"
    m.start()
    db.start()
    try:
        take(m, "byhand")
        take(m, "sched", "class=nightly")
        wait_for("the verification", lambda: m.read("snapshots/sched/verified").startswith("yes "), 40)
        assert m.read("snapshots/byhand/verified") == "no\n"
    finally:
        db.stop()
        m.stop()
        del m.options["auto_verify"]
        m.start()
        db.start()


def test_without_a_database_the_files_are_checked(mount):
    (mount.mnt / "f").write_text("x")
    take(mount, "files")
    word, sentence = verify(mount, "files")
    assert word == "files" and "2 files as recorded" in sentence
    (pathlib.Path(f"{mount.back}.snapshots") / "files" / "data" / "f").write_text("y")
    assert verify(mount, "files")[0] == "failed"


def test_stillctl_verify_says_the_result_by_its_exit_code(site):
    m, db = site
    r = subprocess.run([str(STILLCTL), "--dir", str(m.control), "verify", "good"], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.startswith("good: yes "), r
    take(m, "bad")
    flip(sets_dir(m) / "bad" / "data" / "t" / "a.ibd", 5 * 16384 + 700)
    r = subprocess.run([str(STILLCTL), "--dir", str(m.control), "verify", "bad"], capture_output=True, text=True)
    assert r.returncode == 1 and "stillctl: bad: failed " in r.stderr and "verify.log" in r.stderr, r


@pytest.fixture
def mysql_site():
    root = mysql_root()
    s = Scratch(size_mb=1400)
    m = Mount(s, start=False, db="mysql", db__socket=s.dir / "db" / "sock", verify__root=root,
              verify__server="/usr/sbin/mysqld")
    m.start()
    db = MySQL(s.dir / "db", m.mnt, options=["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]).start()
    yield m, db
    db.stop()
    m.close()
    s.close()


def test_mysql_from_a_root_of_its_own_is_recovered_and_its_sabotage_found(mysql_site):
    m, db = mysql_site
    db.query("CREATE DATABASE t")
    db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v CHAR(200), KEY (v))")
    db.query("INSERT INTO t.a (v) VALUES " + ", ".join(f"('row {i}')" for i in range(3000)))
    flushed(db)
    take(m, "good")
    uuid = (m.mnt / "auto.cnf").read_text()
    assert verify(m, "good")[0] == "yes", log_of(m, "good")
    p = flat(m.read("snapshots/good/position"))
    assert f"gtid_executed {p['gtid_executed']}" in log_of(m, "good") and p["server"] == "mysql"
    assert (sets_dir(m) / "good" / "data" / "auto.cnf").read_text() == uuid
    spoil(m, "page", lambda d: flip(d / "t" / "a.ibd", 6 * 16384 + 700))
    word, sentence = verify(m, "page")
    assert word == "failed", sentence
    assert left_behind(m) == []
