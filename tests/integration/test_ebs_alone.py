"""The classic tool's command line on a plain file system: databases locked, frozen by a guard that survives the program,
snapshotted, and nothing stays frozen or locked, whenever the program dies."""

import contextlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from cloud import cloud, make_cloud, tags_of  # noqa: F401
from commits import Commits
from mariadb import MariaDB
from mongod import Mongod
from stillfs import BUILD, is_gone, run, wait_for

EXPEDITED = pathlib.Path("/sys/kernel/rcu_expedited")
CLASSIC = BUILD / "tools" / "ec2-consistent-snapshot"
PASSWORD = "p#a\"ss'w\\or d;x"


@pytest.fixture
def env(cloud, scratch):  # noqa: F811
    env = {**cloud.elsewhere(), "HOME": str(scratch.dir)}
    return {k: v for k, v in env.items() if not k.startswith("AWS_ACCESS") and not k.startswith("AWS_SECRET")}


@pytest.fixture
def keys(cloud):  # noqa: F811
    return ["--aws-access-key-id", cloud.env["AWS_ACCESS_KEY_ID"], "--aws-secret-access-key", cloud.env["AWS_SECRET_ACCESS_KEY"],
            "--region", "us-east-1"]


@pytest.fixture(autouse=True)
def thawed(scratch):
    """A test that fails must not leave the machine with a frozen file system."""
    yield
    subprocess.run(["fsfreeze", "-u", str(scratch.fs)], capture_output=True)


@pytest.fixture
def db(scratch):
    (scratch.fs / "mysql").mkdir()
    server = MariaDB(scratch.dir / "db", scratch.fs / "mysql")
    yield server.start()
    subprocess.run(["fsfreeze", "-u", str(scratch.fs)], capture_output=True)
    server.close()


def account(db):
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    db.query(f"CREATE USER backup@localhost IDENTIFIED BY '{quoted}'")
    db.query("GRANT RELOAD, BINLOG MONITOR, SLAVE MONITOR, PROCESS, CONNECTION ADMIN ON *.* TO backup@localhost")
    return ["--mysql", "--mysql-socket", db.socket, "--mysql-username", "backup", "--mysql-password", PASSWORD]


def alone(env, *args, **more):
    return subprocess.Popen([str(CLASSIC), *map(str, args)], env={**env, **more}, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def finished(env, *args, **more):
    p = alone(env, *args, **more)
    out, err = p.communicate(timeout=60)
    return p.returncode, out, err


def guards(fs=None):
    """Pids of guard processes; with fs those that hold it open: others may test beside this one."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if p.read_text() == "freeze-guard\n" and (not fs or str(fs) in {os.readlink(f) for f in (p.parent / "fd").iterdir()}):
                found.append(int(p.parent.name))
    return found


def guard_of(pid):
    for g in guards():
        with contextlib.suppress(OSError):
            if f"PPid:\t{pid}\n" in pathlib.Path(f"/proc/{g}/status").read_text():
                return g
    return 0


def is_frozen(fs):
    """Whether a file cannot be made there within a moment; leaves none."""
    p = subprocess.Popen(["sh", "-c", f": > {fs}/probe && rm {fs}/probe"])
    try:
        return p.wait(1.5) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        wait_for("the file", lambda: p.poll() is not None, 60)


@contextlib.contextmanager
def copy_of(cloud, snapshot, where):  # noqa: F811
    where.mkdir()
    run("mount", "-o", "loop,nouuid", cloud.copies[snapshot], where)
    try:
        yield where
    finally:
        run("umount", where)


def test_the_old_line_runs_on_a_plain_file_system_and_the_snapshot_holds_what_was_committed(cloud, scratch, env, keys, db):  # noqa: F811
    status = scratch.fs / "mysql" / "master-status"
    load = Commits(db, clients=4).wait(30)
    acked = load.now()
    cloud.faults["CreateSnapshot"] = ["late 1.0"]
    p = alone(env, "-d", *keys, "--description", "D", "--tag", "team=db;a=b c", "--xfs-filesystem", scratch.fs, *account(db),
              "--mysql-master-status-file", status, cloud.volumes[0])
    wait_for("the request", lambda: cloud.sent("CreateSnapshot"), 50)
    shown = "".join(pathlib.Path(f"/proc/{q}/{f}").read_text(errors="replace") for q in (p.pid, guard_of(p.pid)) for f in ("cmdline", "environ"))
    assert cloud.env["AWS_SECRET_ACCESS_KEY"] not in shown and PASSWORD not in shown
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, (out, err)
    said = re.fullmatch(r'ec2-consistent-snapshot: master_log_file="(\S+)", master_log_pos=(\d+)\n(snap-\w+)\n', out)
    assert said and said.group(3) == cloud.made[0], (out, err)
    assert "warning: secrets on the command line" in err and PASSWORD not in err
    load.wait(20)
    load.stop()
    assert not status.exists() and guards(scratch.fs) == []
    form, = cloud.sent("CreateSnapshot")
    tags = tags_of(form)
    assert form["Description"] == "D" and tags["team"] == "db" and tags["a"] == "b c" and tags["stillfs:class"] == "classic"
    assert f"binlog_pos {said.group(2)};" in tags["stillfs:position.0"] + ";"
    with copy_of(cloud, cloud.made[0], scratch.dir / "there") as there:
        text = (there / "mysql" / "master-status").read_text()
        assert text == (f'master_log_file="{said.group(1)}"\nmaster_log_pos="{said.group(2)}"\nmaster_binlog_do_db=""\n'
                        'master_binlog_ignore_db=""\n')
        assert os.path.getsize(there / "mysql" / said.group(1)) == int(said.group(2))
        again = MariaDB(scratch.dir / "db2", there / "mysql", server_id=2, install=False).start()
        try:
            has = load.check(again, acked)
            assert sum(has) < sum(load.now()), "nothing was committed after the point"
        finally:
            again.close()


def test_the_lock_is_released_while_the_file_system_is_still_frozen(cloud, scratch, env, keys, db):  # noqa: F811
    """So that what waits for the API's answer waits for the file system alone, and reads go on."""
    args = account(db)
    cloud.faults["CreateSnapshot"] = ["late 3.0"]
    p = alone(env, *keys, "--freeze-filesystem", scratch.fs, *args, cloud.volumes[0])
    wait_for("the request", lambda: cloud.sent("CreateSnapshot"), 50)
    held = [s for _, user, *_, s in db.query("SELECT ID, USER, STATE FROM information_schema.PROCESSLIST") if user == "backup"]
    locks = db.query("SELECT COUNT(*) FROM information_schema.METADATA_LOCK_INFO") if db.query(
        "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME='METADATA_LOCK_INFO' AND PLUGIN_STATUS='ACTIVE'") else None
    assert held and locks in (None, ((0,),))
    assert db.query("SELECT 1") == ((1,),) and p.poll() is None
    assert is_frozen(scratch.fs), "it waits for the answer"
    assert p.wait(60) == 0
    p.communicate()


def test_kill_9_at_each_step_leaves_nothing_frozen_and_nothing_locked(cloud, scratch, env, keys, db):  # noqa: F811
    load = Commits(db, clients=2).wait(10)
    args = [*keys, "--freeze-filesystem", scratch.fs, *account(db), "--mysql-master-status-file", scratch.fs / "mysql" / "status",
            cloud.volumes[0]]
    expedited = EXPEDITED.exists() and EXPEDITED.read_text()  # the kernel's switch, which guards turn for the length of a freeze
    for step in ("preflight", "locked", "status", "frozen", "unlocked", "triggered"):
        code, out, err = finished(env, *args, STILLFS_CLASSIC_DIE=step)
        assert code == -signal.SIGKILL, (step, code, out, err)
        load.wait(20)
        assert not is_frozen(scratch.fs), step
        db.query(f"CREATE TABLE t.{step} (a INT)")
        wait_for(f"the guard to end after {step}", lambda: not guards(scratch.fs), 30)
    load.stop()
    assert len(cloud.made) == 1
    wait_for("the switch as it was", lambda: not expedited or EXPEDITED.read_text() in (expedited, "0\n"))


def test_the_guards_death_fails_the_run_and_the_program_thaws(cloud, scratch, env, keys):  # noqa: F811
    cloud.faults["CreateSnapshot"] = ["late 3.0"]
    p = alone(env, *keys, "--freeze-filesystem", scratch.fs, cloud.volumes[0])
    wait_for("the request", lambda: cloud.sent("CreateSnapshot"), 50)
    os.kill(guard_of(p.pid), signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and out == "" and "the guard process was killed while the filesystems were frozen" in err
    assert not is_frozen(scratch.fs) and cloud.proxy.left() == 0


def test_the_deadline_thaws_while_the_program_is_stopped_and_the_snapshot_is_no_good(cloud, scratch, env, keys):  # noqa: F811
    cloud.faults["CreateSnapshot"] = ["late 2.0"]
    p = alone(env, *keys, "--freeze-filesystem", scratch.fs, "--snapshot-timeout", "6", cloud.volumes[0])
    wait_for("the request", lambda: cloud.sent("CreateSnapshot"), 50)
    os.kill(p.pid, signal.SIGSTOP)
    try:
        assert is_frozen(scratch.fs)
        wait_for("the thaw", lambda: not is_frozen(scratch.fs), 50)
    finally:
        os.kill(p.pid, signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and out == "" and re.search("thawed before the snapshot's answer|no answer to CreateSnapshot", err), err
    wait_for("the clean-up", lambda: cloud.proxy.left() == 0, 30)


def test_what_a_lost_request_made_is_deleted_also_when_it_shows_up_late(cloud, scratch, env, keys):  # noqa: F811
    """Nobody comes later for it: this program has no daemon."""
    cloud.faults["CreateSnapshot"], cloud.proxy.shy = ["lost"], 13
    code, out, err = finished(env, *keys, "--freeze-filesystem", scratch.fs, "--snapshot-timeout", "2", cloud.volumes[0])
    assert code == 1 and out == "" and "no answer to CreateSnapshot" in err, (code, out, err)
    assert len(cloud.made) == 1 and cloud.proxy.left() == 0, err
    assert "warning" not in err.replace("warning: secrets on the command line", ""), err


def test_what_cannot_be_deleted_is_marked_as_failed_and_named(cloud, scratch, env, keys):  # noqa: F811
    cloud.faults["CreateSnapshot"], cloud.proxy.shy = ["lost"], 4
    cloud.faults["DeleteSnapshot"] = ["code OperationNotPermitted"]
    code, out, err = finished(env, *keys, "--freeze-filesystem", scratch.fs, "--snapshot-timeout", "2", cloud.volumes[0])
    snapshot, = cloud.made
    assert code == 1 and out == "" and cloud.proxy.deleted == [], (code, out, err)
    assert {"ResourceId.1": snapshot, "Tag.1.Key": "stillfs:failed"}.items() <= cloud.sent("CreateTags")[-1].items(), err
    form, = cloud.sent("CreateSnapshot")
    assert re.search(f"warning: .*{snapshot}.*; delete snapshots with the tag stillfs:id={tags_of(form)['stillfs:id']}", err), err


def test_a_signal_ends_it_with_everything_undone(cloud, scratch, env, keys, db):  # noqa: F811
    marks = [scratch.dir / "pre", scratch.dir / "post"]
    cloud.faults["CreateSnapshot"] = ["late 5.0"]
    p = alone(env, *keys, "--freeze-filesystem", scratch.fs, *account(db), "--pre-freeze-command", f"touch {marks[0]}",
              "--post-thaw-command", f"touch {marks[1]}", cloud.volumes[0])
    wait_for("the request", lambda: cloud.sent("CreateSnapshot"), 50)
    began = time.monotonic()
    p.send_signal(signal.SIGTERM)
    wait_for("the thaw", lambda: not is_frozen(scratch.fs), 30)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and "snap-" not in out and marks[0].exists() and marks[1].exists(), (out, err)
    assert time.monotonic() - began < 55
    db.query("CREATE DATABASE after")
    wait_for("the clean-up", lambda: cloud.proxy.left() == 0, 30)
    assert guards(scratch.fs) == []


def test_several_volumes_are_one_request_and_ids_come_in_the_order_of_the_line(make_cloud, scratch, env):  # noqa: F811
    c = make_cloud(scratch.dir / "cloud2", {"/dev/sdf": scratch.image, "/dev/sdg": scratch.image})
    env = {**c.elsewhere(), "HOME": str(scratch.dir)}
    a, b = c.volumes
    code, out, err = finished(env, "--region", "us-east-1", "--freeze-filesystem", scratch.fs, "--tag", "who=b:x", "--tag", "who=a;k:y=1",
                              b, a)
    assert code == 0, err
    assert len(c.made) == 2 and "CreateSnapshot" not in c.calls and c.calls.count("CreateSnapshots") == 1
    of = {f["Tag.1.Key"] + "=" + f["Tag.1.Value"]: f["ResourceId.1"] for f in c.sent("CreateTags")}
    assert out.split() == [of["who=b:x"], of["who=a"]] and of["k:y=1"] == of["who=a"]


def test_keys_from_files_and_the_account_from_my_cnf(cloud, scratch, env, db):  # noqa: F811
    account(db)
    key, secret = cloud.env["AWS_ACCESS_KEY_ID"], cloud.env["AWS_SECRET_ACCESS_KEY"]
    for name, text in (("id", key + "\n"), ("secret", secret + "\n"), ("both", f"{key}\n{secret}\n"), (".awssecret", f"{key}\n{secret}\n")):
        (scratch.dir / name).write_text(text)
    (scratch.dir / ".my.cnf").write_text(f'[client]\nuser=root\nsocket={db.socket}\n')
    for n, where in enumerate((["--aws-access-key-id-file", scratch.dir / "id", "--aws-secret-access-key-file", scratch.dir / "secret"],
                               ["--aws-credentials-file", scratch.dir / "both"], [])):
        cloud.faults["DescribeSnapshots"] = ["denied"]  # each of them comes as far as this
        code, out, err = finished(env, *where, "--region", "us-east-1", "--freeze-filesystem", scratch.fs, "--mysql", cloud.volumes[0])
        assert code == 1 and "DescribeSnapshots" in err and cloud.calls.count("DescribeVolumes") == n + 1, (where, err)
    code, out, err = finished(env, "--region", "us-east-1", "--freeze-filesystem", scratch.fs, "--mysql", cloud.volumes[0])
    assert code == 0 and cloud.made[0] in out, err
    code, out, err = finished(env, "--aws-access-key-id", key, "--aws-secret-access-key", "wrong", "--region", "us-east-1", "--freeze-filesystem",
                              scratch.fs, cloud.volumes[0])
    assert code == 1 and "AuthFailure" in err and not is_frozen(scratch.fs), err


def test_keys_from_options_and_files_are_not_in_the_environment_of_what_is_started(cloud, scratch, env, keys):  # noqa: F811
    """A server that an init script starts would keep them in its /proc/PID/environ. What is in the caller's own environment stays."""
    key, secret = cloud.env["AWS_ACCESS_KEY_ID"], cloud.env["AWS_SECRET_ACCESS_KEY"]
    tools, both = scratch.dir / "tools", scratch.dir / "both"
    tools.mkdir()
    both.write_text(f"{key}\n{secret}\n")
    for name in ("mysqladmin", "service"):
        (tools / name).write_text(f"#!/bin/sh\nenv > {scratch.dir}/{name}\n")
        (tools / name).chmod(0o755)
    own = {"AWS_ACCESS_KEY_ID": "OWN", "AWS_SECRET_ACCESS_KEY": "OWNSECRET", "AWS_SESSION_TOKEN": "OWNTOKEN"}
    line = ["--region", "us-east-1", "--mysql", "--mysql-stop", "--freeze-filesystem", scratch.fs, "--pre-freeze-command", f"env > {scratch.dir}/pre",
            "--post-thaw-command", f"env > {scratch.dir}/post", cloud.volumes[0]]
    cloud.proxy.aged = True  # a volume may be snapshotted once in 15 s
    for more, has in (({}, set()), (own, {f"{k}={v}" for k, v in own.items()})):
        for where in (["--aws-credentials-file", both], keys):
            code, out, err = finished(env, *where, *line, PATH=f"{tools}:{os.environ['PATH']}", **more)
            assert code == 0 and out.split() == cloud.made[-1:], (where, code, out, err)
            for name in ("pre", "post", "mysqladmin", "service"):
                seen = (scratch.dir / name).read_text()
                assert secret not in seen and key not in seen, name
                assert {v for v in seen.splitlines() if v.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION"))} == has, name
                (scratch.dir / name).unlink()


def test_mongodbs_lock_which_outlives_its_taker_is_released_by_the_next_run(cloud, scratch, env, keys):  # noqa: F811
    (scratch.fs / "mongo").mkdir()
    mongod = Mongod(scratch.dir, scratch.fs / "mongo").start()
    try:
        args = [*keys, "--mongo", "--mongo-host", "127.0.0.1", "--mongo-port", mongod.port, "--freeze-filesystem", scratch.fs, cloud.volumes[0]]
        assert finished(env, *args, STILLFS_CLASSIC_DIE="frozen")[0] == -signal.SIGKILL
        assert mongod.locks() == 1 and not is_frozen(scratch.fs)
        wait_for("the guard to end, and its lock with it", lambda: not guards(scratch.fs))
        code, out, err = finished(env, *args)
        assert code == 0 and out.split() == cloud.made, (out, err)
        assert mongod.locks() == 0
    finally:
        mongod.kill()


def test_servers_that_are_stopped_are_started_again_also_after_a_failure(cloud, scratch, env, keys):  # noqa: F811
    log, tools = scratch.dir / "log", scratch.dir / "tools"
    tools.mkdir()
    for name in ("mysqladmin", "service", "init"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} $* >> {log}\n")
        (tools / name).chmod(0o755)
    cloud.faults["CreateSnapshot"] = ["denied"]
    code, _, err = finished(env, *keys, "--mysql", "--mysql-stop", "--mongo-stop", "--mongo-init", tools / "init", "--freeze-filesystem",
                            scratch.fs, cloud.volumes[0], PATH=f"{tools}:{os.environ['PATH']}")
    assert code == 1 and "CreateSnapshot" in err
    assert log.read_text().splitlines() == ["mysqladmin shutdown", "init stop", "service mysql start", "init start"]
    assert not is_frozen(scratch.fs) and cloud.made == []


def test_a_real_server_is_stopped_for_the_snapshot_and_started_again(cloud, scratch, env, keys, db):  # noqa: F811
    """mysqladmin is the real one, with the account of ~/.my.cnf, as the classic tool's; `service` is what an init system would do.
    The snapshot needs no recovery, whatever was committed is in it, and the server is there again."""
    tools, status = scratch.dir / "tools", []
    tools.mkdir()
    (tools / "service").write_text(f"""#!/bin/sh
echo "$*" >> {scratch.dir}/log
[ $1 = mariadb ] || exit 1
setsid {shlex.join(map(str, db.argv()))} > /dev/null 2>&1 < /dev/null &
until mysqladmin --defaults-file={scratch.dir}/.my.cnf ping > /dev/null 2>&1; do sleep 0.1; done
""")
    (tools / "service").chmod(0o755)
    (scratch.dir / ".my.cnf").write_text(f"[client]\nuser=root\nsocket={db.socket}\n")
    db.query("CREATE DATABASE t")
    db.query("CREATE TABLE t.t (a INT) ENGINE=InnoDB SELECT seq AS a FROM seq_1_to_1000", db="t")
    copy = cloud.proxy.copy

    def copied(answer):
        status.append((db.process.poll(), db.socket.exists()))
        copy(answer)
    cloud.proxy.copy = copied
    code, out, err = finished(env, *keys, "--mysql", "--mysql-stop", "--freeze-filesystem", scratch.fs, cloud.volumes[0],
                              PATH=f"{tools}:{os.environ['PATH']}")
    server = int((scratch.dir / "db" / "pid").read_text())
    try:
        assert code == 0 and out.split() == cloud.made, (out, err)
        assert status == [(0, False)], "it had ended before the request"
        assert (scratch.dir / "log").read_text() == "mysql start\nmariadb start\n"
        assert db.query("SELECT COUNT(*) FROM t.t") == ((1000,),)
    finally:
        os.kill(server, signal.SIGTERM)
        wait_for("the server's end", lambda: is_gone(server), 60)
    with copy_of(cloud, cloud.made[0], scratch.dir / "there") as there:
        again = MariaDB(scratch.dir / "db2", there / "mysql", server_id=2, install=False).start()
        try:
            assert again.query("SELECT COUNT(*) FROM t.t") == ((1000,),)
            assert "crash recovery" not in again.log().lower() and "ready for connections" in again.log()
        finally:
            again.close()


def test_no_try_at_the_lock_is_no_lock(cloud, scratch, env, keys, db):  # noqa: F811
    """Nothing is taken, and no position is shown, of a server that was not locked; also when stillfs-classic is started with it."""
    options = [*keys, *account(db), "--freeze-filesystem", scratch.fs]
    for tries in ("0", "0.5", "1.5", "00", "."):
        code, out, err = finished(env, *options, "--lock-tries", tries, cloud.volumes[0])
        assert (code, out) == (2, "") and f"--lock-tries: expected a whole number from 1 to 3600: {tries}" in err, (tries, code, out, err)
    for name in ("--snapshot-timeout", "--lock-timeout"):
        code, out, err = finished(env, *options, name, "1.2.3", cloud.volumes[0])
        assert (code, out) == (2, "") and "expected seconds" in err, (name, code, out, err)
    code, out, err = finished(env, *options, "--snapshot-timeout", "0.0", cloud.volumes[0])
    assert (code, out) == (2, "") and "--snapshot-timeout: expected seconds, more than 0 and up to 3600: 0.0" in err, (code, out, err)
    fd = os.memfd_create("options", 0)
    words = [*options, "--lock-tries", "0", "--volume", cloud.volumes[0]]
    for name, value in pairs(words):
        os.write(fd, f"{name[2:]}\0{value}\0".encode())
    r = subprocess.run([str(BUILD / "snapshot" / "stillfs-classic"), str(fd)], pass_fds=[fd], env=env, capture_output=True, text=True)
    os.close(fd)
    assert (r.returncode, r.stdout) == (1, "") and "no try at the lock" in r.stderr, r
    assert cloud.made == []


def pairs(words):
    """(option, value) of a command line."""
    for i, w in enumerate(words):
        if str(w).startswith("--"):
            yield w, "" if i + 1 == len(words) or str(words[i + 1]).startswith("--") else words[i + 1]


def test_what_is_refused_takes_nothing(cloud, scratch, env, keys, db):  # noqa: F811
    plain = [*keys, "--freeze-filesystem", scratch.fs]
    for args, code, words in [
            ([*keys, "--freeze-filesystem", "/", cloud.volumes[0]], 2, "is on the root filesystem"),
            ([*keys, "--freeze-filesystem", scratch.dir / "none", cloud.volumes[0]], 1, "No such file or directory"),
            ([*plain, "--pre-freeze-command", "exit 3", cloud.volumes[0]], 1, "--pre-freeze-command failed: exit 3"),
            ([*plain, "--percona", "--mysql-master-status-file", "f", cloud.volumes[0]], 2, "exclude each other"),
            ([*plain, "--tag", "a=b", "--tag", "c=d", cloud.volumes[0]], 2, "once for each volume id"),
            ([*plain, "--lock-timeout", "soon", cloud.volumes[0]], 2, "expected seconds"),
            ([*plain, "--mysql", "--mysql-socket", "/nonexistent", cloud.volumes[0]], 1, "connect to the database"),
            ([*plain, "vol-0123456789abcdef0"], 1, "is not attached to this instance"),
            ([*plain, "-n", cloud.volumes[0]], 0, f"would freeze {scratch.fs}")]:
        r, out, err = finished(env, *args)
        assert r == code and words in err and out == "", (args, r, out, err)
    run("fsfreeze", "-f", scratch.fs)
    try:
        r, _, err = finished(env, *plain, cloud.volumes[0])
        assert r == 1 and "somebody else has frozen it" in err
        assert is_frozen_now(scratch.fs)
    finally:
        run("fsfreeze", "-u", scratch.fs)
    assert cloud.made == [] and guards(scratch.fs) == []


def is_frozen_now(fs):
    """As an administrator's freeze, which stays: a second one is refused."""
    return subprocess.run(["fsfreeze", "-f", str(fs)], capture_output=True).returncode != 0
