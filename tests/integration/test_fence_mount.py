"""The control file `fence`: up and down, over deaths of the daemon and of the server, and while a source feeds it."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import threading
import time

import pymysql
import pytest

import fences
import replication
from fences import READ_ONLY, insert, refused, settings
from mariadb import MariaDB
from mysql import MySQL
from stillfs import STILLCTL, Mount, Scratch, once_each, wait_for

ALL = bool(os.environ.get("STILLFS_ALL"))
KILLS = 10 if ALL else 2


class Site:
    """A server on a mount that may fence it, and a source that it replicates from."""

    def __init__(self, kind, stack, env=None):
        self.kind = kind
        self.scratch = Scratch(size_mb=900)
        stack.callback(self.scratch.close)
        d = self.scratch.dir / "server"
        self.slow = self.scratch.dir / "slow"
        hook = self.scratch.dir / "hook"
        hook.write_text(f"#!/bin/sh\nwhile [ -e {self.slow} ]; do sleep 0.1; done\n")
        hook.chmod(0o755)
        self.m = Mount(self.scratch, env=env and env(self.scratch.dir), db="mysql", db__socket=d / "sock", db__defaults_file=d / "stillfs.cnf", hook__pre=hook,
                       fence__allow="root@localhost", fence__mariadb_include=d / "conf.d", db__stop_replica="no")
        stack.callback(self.m.close)
        own = replication.GTID if kind == "mysql" else []
        self.server = fences.make(kind, self.scratch.dir, self.m.mnt, [*own, "--innodb-log-file-size=16M"] if kind == "mariadb" else own)
        stack.callback(self.server.close)
        self.server.defaults("stillfs")
        self.server.query({"mariadb": "GRANT RELOAD, BINLOG MONITOR, SLAVE MONITOR ON *.* TO stillfs@localhost",
                           "mysql": "GRANT RELOAD, BACKUP_ADMIN, REPLICATION CLIENT ON *.* TO stillfs@localhost"}[kind])
        self.before = settings(self.server)

    def fence(self):
        lines = self.m.read("fence").splitlines()
        return lines[0], lines[1:]

    def value(self, key):
        return next((x.split(" ", 1)[1] for x in self.fence()[1] if x.startswith(key + " ")), None)

    def wait(self, state, within_s=60):
        wait_for(f"fence {state}", lambda: self.fence()[0] == state, within_s)

    def write(self, text, code=0):
        r = self.m.write("fence", text)
        assert r == code, (r, self.m.last_error())

    def on(self):
        self.write("on\n")
        self.wait("on")

    def off(self, text="off\n"):
        self.write(text)
        self.wait("off")

    def events(self):
        with open(self.m.control / "events", "rb", buffering=0) as f:
            os.set_blocking(f.fileno(), False)
            data = b""
            with contextlib.suppress(BlockingIOError):
                while part := f.read(1 << 16):
                    data += part
        return [e["state"] for e in map(json.loads, data.decode().splitlines()) if e.get("type", e.get("event")) == "fence"]

    def journal(self):
        p = self.scratch.dir / "state" / "db-fence.journal"
        return p.read_text() if p.exists() else ""


@pytest.fixture(scope="module")
def sites():
    with once_each(Site) as get:
        yield get


@pytest.fixture(params=["mariadb", "mysql"])
def site(request, sites):
    s = sites(request.param)
    yield s
    if s.fence()[0] != "off":
        s.off("off force\n")
    assert settings(s.server) == s.before
    assert insert(s.server) == 0
    assert not s.journal()


class Hammer:
    """A client that writes whenever it can, and counts what was accepted."""

    def __init__(self, server, user):
        self.server, self.user, self.accepted, self.tried, self.end = server, user, 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.end.is_set():
            try:
                c = self.server.connect("app", user=self.user)
                while not self.end.is_set():
                    self.tried += 1
                    try:
                        c.cursor().execute("INSERT INTO t (v) VALUES (13)")
                        self.accepted += 1
                    except pymysql.OperationalError as e:
                        if e.args[0] != READ_ONLY:
                            raise
            except (pymysql.Error, OSError):
                time.sleep(0.005)

    def stop(self):
        self.end.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_on_and_off_through_the_control_file(site):
    m, server = site.m, site.server
    idle = server.connect("app", user="app", program_name="cron")
    assert site.fence() == ("off", []) and m.status()["fence"] == "off"
    site.on()
    assert insert(server) == READ_ONLY
    program = "cron" if site.kind == "mysql" else "-"
    assert site.value("ended_session") == f"app@localhost program={program} db=app" and site.value("ended") == "1"
    assert refused(lambda: idle.cursor().execute("SELECT 1"))
    assert m.status()["fence"] == "on"
    assert f'stillfs_fence{{name="{m.name}"}} 1\n' in m.read("metrics")
    assert "want on\n" in site.journal() and "done yes\n" in site.journal()
    if site.kind == "mysql":
        wait_for("the count of what was refused", lambda: int(site.value("refused")) > 0, 30)
    else:
        assert site.value("refused") == "-"
    assert m.write("snapshot", f"fenced-{site.kind}\n") == 0, m.last_error()  # snapshots go on
    site.write("on\n")  # again: it is looked after
    site.wait("on")
    site.off()
    assert site.events()[-2:] == ["on", "off"]
    assert f'stillfs_fence{{name="{m.name}"}} 0\n' in m.read("metrics")


def test_what_cannot_be_done_is_refused_with_a_sentence(site):
    for text, word in (("on hard now\n", "expected on"), ("up\n", "expected on, on hard"), ("on soft\n", "expected on"), ("\n", "expected"),
                       ("off force now\n", "expected"), ("retire\n", "has to be on")):
        site.write(text, errno.EINVAL)
        assert word in site.m.last_error()["message"], text
    site.server.query("CREATE USER writer@localhost")
    site.server.query(f"GRANT {'READ_ONLY ADMIN' if site.kind == 'mariadb' else 'SUPER'} ON *.* TO writer@localhost")
    try:
        site.write("on\n")
        site.wait("off")
        assert "writer@localhost" in site.value("error") and "fence.allow" in site.m.last_error()["message"]
        assert settings(site.server) == site.before and not site.journal()
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", "on"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and "writer@localhost" in out.stderr
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", "check"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and out.stdout.startswith("check writer@localhost has ")
    finally:
        site.server.query("DROP USER writer@localhost")
    for words, code in ((["check"], 0), (["on"], 0), (["retire"], 0), (["off"], 1), (["off", "force"], 0), (["away"], 2)):
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", *words], capture_output=True, text=True, timeout=90)
        assert out.returncode == code, (words, out)
        assert "retired" not in out.stderr or words == ["off"]


def test_not_beside_a_snapshot(site):
    site.slow.touch()
    t = threading.Thread(target=site.m.write, args=("snapshot", f"slow-{site.kind}\n"))
    t.start()
    try:
        wait_for("the snapshot", lambda: site.m.status()["state"] == "preparing", 30)
        site.write("on\n", errno.EBUSY)
        assert f"slow-{site.kind}" in site.m.last_error()["message"]
    finally:
        site.slow.unlink()
        t.join()
    assert site.fence()[0] == "off"


def test_it_is_put_up_again_when_somebody_opens_it(site):
    site.on()
    site.server.query("SET GLOBAL read_only=OFF")
    wait_for("the look", lambda: site.value("renewed") == "1" and site.fence()[0] == "on", 30)
    assert insert(site.server) == READ_ONLY
    assert site.events()[-2:] == ["lost", "renewed"]


def test_it_outlives_the_daemon_and_the_whole_stillfs(site):
    site.on()
    since, daemon = site.value("since"), int(site.m.status()["pid"])
    os.kill(daemon, signal.SIGKILL)
    wait_for("the next daemon", lambda: int(site.m.status()["pid"]) != daemon, 30)
    site.wait("on")
    assert site.value("since") == since and insert(site.server) == READ_ONLY
    site.off()


# super_read_only stops root too; on MariaDB an account that is let through may write
@pytest.mark.parametrize("site, user", [("mariadb", "app"), ("mysql", "root")], indirect=["site"])
def test_a_server_that_is_killed_takes_nothing_when_it_is_back(site, user):
    site.on()
    rows = site.server.query("SELECT COUNT(*) FROM app.t")
    hammer = Hammer(site.server, user)
    try:
        for _ in range(KILLS):
            site.server.kill()
            wait_for("that it is seen", lambda: site.fence()[0] == "on unreachable", 30)
            site.server.start()
            site.wait("on")
            tried = hammer.tried
            wait_for("the client", lambda: hammer.tried > tried + 10, 30)
    finally:
        hammer.stop()
    assert hammer.accepted == 0 and site.server.query("SELECT COUNT(*) FROM app.t") == rows
    assert site.value("renewed") == "0"


@pytest.mark.parametrize("site", ["mariadb"], indirect=True)
def test_hard_after_the_server_is_gone_and_back(site):
    """Up over SQL; the server dies, nobody shall start it; off takes back both, and what SQL has to undo when it answers."""
    site.on()
    site.write("on hard\n", errno.EBUSY)
    assert "has to be down" in site.m.last_error()["message"]
    site.server.kill()
    site.wait("on unreachable")
    site.write("on hard\n")
    site.wait("on hard")
    assert "hard yes\n" in site.journal() and "done yes\n" in site.journal()
    with pytest.raises(AssertionError):
        site.server.start()
    assert "ead-only file system" in site.server.log()
    site.write("on\n", errno.EBUSY)
    site.write("off\n")
    site.wait("turning off")
    wait_for("that the file of the fence is asked for", lambda: site.value("error"))
    site.server.start()
    site.wait("off")


def test_the_applier_goes_on(site, later_source):
    source, port = later_source(site.kind)
    server = site.server
    replication.attach(server, port)
    try:
        source.query("CREATE DATABASE IF NOT EXISTS feed")
        source.query("CREATE TABLE feed.f (id INT PRIMARY KEY)")
        replication.catch_up(source, server)
        up = int(server.query("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1])
        site.on()
        for i in range(100):
            source.query(f"INSERT INTO feed.f VALUES ({i})")
        replication.catch_up(source, server)
        assert server.query("SELECT COUNT(*) FROM feed.f") == ((100,),)
        assert replication.runs(server) and int(server.query("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1]) >= up
        assert insert(server) == READ_ONLY
        site.off()
    finally:
        server.query("STOP REPLICA" if site.kind == "mysql" else "STOP SLAVE")
        server.query("RESET REPLICA ALL" if site.kind == "mysql" else "RESET SLAVE ALL")


@pytest.fixture
def later_source(scratch):
    made = []

    def make(kind):
        port = replication.free_port()
        data = scratch.fs / "source"
        data.mkdir()
        s = (MariaDB if kind == "mariadb" else MySQL)(scratch.dir / "source", data, server_id=2,
                                                      options=replication.options(MariaDB if kind == "mariadb" else MySQL, port))
        made.append(s)
        s.start()
        replication.account(s)
        return s, port
    yield make
    for s in made:
        s.close()
