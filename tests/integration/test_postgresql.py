"""PostgreSQL by hooks: docs/examples/hook-postgresql with Debian's server on the mount, and the set starts."""

import os
import pathlib
import pwd
import shutil
import subprocess
import threading

import pytest

from stillfs import run, wait_for

EXAMPLE = pathlib.Path(__file__).parents[2] / "docs" / "examples" / "hook-postgresql"


class Postgres:
    def __init__(self, directory, data):
        self.bin = max(pathlib.Path("/usr/lib/postgresql").glob("*"), key=lambda p: float(p.name)) / "bin"
        self.dir, self.data = directory, data
        self.dir.mkdir(exist_ok=True)
        self.user = pwd.getpwnam("postgres")
        os.chown(self.dir, self.user.pw_uid, self.user.pw_gid)
        self.process = None

    def as_postgres(self, *argv):
        return run("setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups", *argv,
                   cwd=self.dir)

    def init(self):
        self.data.mkdir(exist_ok=True)
        os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        self.as_postgres(self.bin / "initdb", "-D", self.data, "-A", "trust", "-E", "UTF8", "--no-sync")
        return self

    def start(self):
        log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(
            ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups",
             str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.dir), "-c", "listen_addresses=",
             "-c", "shared_buffers=16MB"], stdout=log, stderr=log, cwd=self.dir)
        log.close()
        wait_for("postgres", lambda: subprocess.run([str(self.bin / "pg_isready"), "-q", "-h", str(self.dir)]).returncode == 0, 30)
        return self

    def query(self, sql):
        return run("psql", "-XAtq", "-h", self.dir, "-U", "postgres", "-c", sql, "postgres").strip()

    def stop(self):
        if self.process:
            self.process.send_signal(2)  # fast shutdown
            self.process.wait(30)
        self.process = None


@pytest.fixture
def servers():
    made = []
    yield made
    for s in made:
        s.stop()
        shutil.rmtree(s.dir, ignore_errors=True)


def test_a_set_of_a_busy_server_starts_with_all_that_was_committed(make_mount, scratch, servers):
    hook = scratch.dir / "hook"
    settings = scratch.dir / "settings"
    hook.write_text(f"#!/bin/sh\nexport STILLFS_POSTGRESQL_ENV={settings}\nexec {EXAMPLE} \"$@\"\n")
    hook.chmod(0o755)
    settings.write_text(f"PGHOST={scratch.dir / 'pg'}\nPGUSER=postgres\n")
    m = make_mount(hook__pre=hook, hook__locked=hook)
    db = Postgres(scratch.dir / "pg", m.mnt / "data").init()
    servers.append(db)
    db.start()
    db.query("CREATE TABLE t (n INT PRIMARY KEY)")
    acked, stop = [], threading.Event()

    def write():
        while not stop.is_set():
            n = len(acked) + 1
            db.query(f"INSERT INTO t VALUES ({n})")
            acked.append(n)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_for("some rows", lambda: len(acked) > 10)
        before = len(acked)
        assert m.write("snapshot", "one\n") == 0, m.last_error()
    finally:
        stop.set()
        writer.join(20)
    m.wait_state("one", "complete")
    position = dict(line.split(" ", 1) for line in m.read("snapshots/one/position").splitlines())
    assert position["hook.server"] == "postgresql"
    assert position["hook.system_identifier"] == db.query("SELECT system_identifier FROM pg_control_system()")
    clone = scratch.fs / "restored"
    run("cp", "-a", "--reflink=always", os.readlink(m.control / "snapshots" / "one" / "data"), clone)
    (clone / "data" / "postmaster.pid").unlink()
    second = Postgres(scratch.dir / "pg2", clone / "data")
    servers.append(second)
    second.start()
    rows = [int(n) for n in second.query("SELECT n FROM t ORDER BY n").splitlines()]
    assert rows == list(range(1, len(rows) + 1)) and len(rows) >= before
    lsn = second.query(f"SELECT pg_current_wal_lsn() >= '{position['hook.flushed_lsn']}'::pg_lsn")
    assert lsn == "t"


def test_a_server_that_is_down_fails_the_set_with_its_message(make_mount, scratch):
    settings = scratch.dir / "settings"
    settings.write_text(f"PGHOST={scratch.dir}/nowhere\nPGUSER=postgres\n")
    hook = scratch.dir / "hook"
    hook.write_text(f"#!/bin/sh\nSTILLFS_POSTGRESQL_ENV={settings} exec {EXAMPLE} \"$@\"\n")
    hook.chmod(0o755)
    m = make_mount(hook__pre=hook)
    assert m.write("snapshot", "one\n") != 0
    assert "hook.pre" in m.last_error()["message"] and "ended with code 2" in m.last_error()["message"]
