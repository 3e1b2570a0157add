"""tests/harness/fence_site.py - a server on a mount whose control file may fence it, a source that feeds it, and clients.
"""

import contextlib
import itertools
import json
import os
import threading
import time

import pymysql

import fences
import replication
from fences import READ_ONLY, insert, refused, settings
from mariadb import MariaDB
from mysql import MySQL
from stillfs import Mount, Scratch, wait_for


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


@contextlib.contextmanager
def as_before(site):
    """A test's use of a site that others use as well: afterwards the fence is off, and has left nothing."""
    yield site
    if site.fence()[0] != "off":
        site.off("off force\n")
    assert settings(site.server) == site.before
    assert insert(site.server) == 0
    assert not site.journal()


def prepare_opened(server, name):
    """Opens a fenced MySQL and leaves a prepared transaction there, before the look that comes each second."""
    def call():
        c = server.connect("app")
        with c.cursor() as cursor:
            for sql in ("SET GLOBAL read_only=OFF", f"XA START '{name}'", "INSERT INTO t (v) VALUES (7)", f"XA END '{name}'",
                        f"XA PREPARE '{name}'"):
                cursor.execute(sql)
        c.close()
    wait_for("a transaction before the look", lambda: not refused(call), 30)


class Hammer:
    """A client that writes whenever it can, and counts what was accepted, what was refused, and how often it lost its
    connection."""

    def __init__(self, server, user, pause=0.0):
        self.server, self.user, self.pause, self.end = server, user, pause, threading.Event()
        self.accepted = self.refused = self.lost = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.end.is_set():
            try:
                c = self.server.connect("app", user=self.user)
                while not self.end.wait(self.pause):
                    try:
                        c.cursor().execute("INSERT INTO t (v) VALUES (13)")
                        self.accepted += 1
                    except pymysql.OperationalError as e:
                        if e.args[0] != READ_ONLY:
                            raise
                        self.refused += 1
            except (pymysql.Error, OSError):
                self.lost += 1
                time.sleep(0.005)

    def stop(self):
        self.end.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


DOMAINS = itertools.count(2)


class Source:
    """A server that the site's replicates from, with clients that write to it all the time."""

    def __init__(self, site, directory, writers=2):
        kind = MariaDB if site.kind == "mariadb" else MySQL
        port = replication.free_port()
        (directory / "source-data").mkdir()
        domain = [f"--gtid-domain-id={next(DOMAINS)}"] if kind is MariaDB else []
        self.server = kind(directory / "source", directory / "source-data", server_id=2, options=[*replication.options(kind, port), *domain])
        self.replica, self.writers, self.failed, self.end = site.server, writers, [], threading.Event()
        self.threads = []
        try:
            self.server.start()
            replication.account(self.server)
            self.server.query("CREATE DATABASE feed")
            self.server.query("CREATE TABLE feed.f (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
            self._forget_an_earlier_one()
            replication.attach(self.replica, port)
            replication.catch_up(self.server, self.replica)
        except BaseException:
            self.close()
            raise

    def _forget_an_earlier_one(self):
        """Of a test before this one, on the same site."""
        c = self.replica.connect()
        with c.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin=0")
            cursor.execute("DROP DATABASE IF EXISTS feed")
            if isinstance(self.replica, MariaDB):
                cursor.execute("SET GLOBAL gtid_slave_pos=''")
        c.close()

    def feed(self):
        self.threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(self.writers)]
        for t in self.threads:
            t.start()

    def _write(self, n):
        try:
            c = self.server.connect("feed")
            while not self.end.wait(0.01):
                c.cursor().execute(f"INSERT INTO f (v) VALUES ({n})")
                c.cursor().execute("UPDATE f SET v = v + 10 WHERE id = LAST_INSERT_ID()")
        except (pymysql.Error, OSError) as e:
            self.failed.append(repr(e))

    def writes(self):
        assert not self.failed, self.failed
        return True

    def rest(self):
        """No more is written to it; the replica has what was."""
        self.end.set()
        for t in self.threads:
            t.join(30)
        self.writes()
        replication.catch_up(self.server, self.replica)

    def close(self):
        self.end.set()
        for t in self.threads:
            t.join(30)
        self.server.close()
        if self.replica.process:
            mysql = isinstance(self.replica, MySQL)
            self.replica.query("STOP REPLICA" if mysql else "STOP SLAVE")
            self.replica.query("RESET REPLICA ALL" if mysql else "RESET SLAVE ALL")
