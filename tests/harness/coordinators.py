"""tests/harness/coordinators.py - what the conformance suite of coordinators drives, and the servers it runs against."""

import os
import re
import select
import signal
import subprocess
import time

import pymysql

import clientlib
from mariadb import MariaDB
from mongod import Mongod
from mysql import MySQL, mysql_root
from stillfs import BUILD, wait_for

UNIT = BUILD / "tests" / "unit" / "snapshot"


class Failed(Exception):
    """A call of the coordinator that failed: .code is its errno, .ms how long it took."""

    def __init__(self, code, ms, message):
        super().__init__(f"errno {code}: {message}")
        self.code, self.ms, self.message = code, ms, message


class Drive:
    """One coordinator in a process of its own (coord_drive.c)."""

    def __init__(self, argv, **options):
        text = [f"{k.replace('__', '.')}={v}" for k, v in options.items()]
        self.process = subprocess.Popen([str(a) for a in argv] + text, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        bufsize=0)
        self.ms, self.rest = 0.0, b""
        self._answer(10)

    def _answer(self, within_s):
        lines = []
        end = time.monotonic() + within_s
        while True:
            while b"\n" not in self.rest:
                left = end - time.monotonic()
                assert left > 0 and select.select([self.process.stdout], [], [], left)[0], f"no answer within {within_s} s"
                more = os.read(self.process.stdout.fileno(), 65536)
                assert more, f"it ended with {self.process.wait()}"
                self.rest += more
            line, self.rest = self.rest.split(b"\n", 1)
            line = line.decode()
            if line.startswith("= "):
                _, code, ms, *message = line.split(" ", 3)
                self.ms = float(ms)
                if int(code) < 0:
                    raise Failed(-int(code), self.ms, message[0] if message else "")
                self.result = int(code)
                return lines
            lines.append(line[1:])

    def __call__(self, command, within_s=15):
        self.process.stdin.write(f"{command}\n".encode())
        return self._answer(within_s)

    def send(self, command):
        """Without waiting for the answer: see answer()."""
        self.process.stdin.write(f"{command}\n".encode())

    def answer(self, within_s=15):
        return self._answer(within_s)

    def position(self):
        return dict(line.split(" ", 1) for line in self("position 2000"))

    def cut(self, after_ms=0):
        self(f"sever {after_ms}")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
                assert self.process.returncode == 0, "the driver's end (a sanitizer?)"
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


class SQL:
    """MariaDB or MySQL for the suite."""

    keeps_locks = False

    def __init__(self, scratch, server, drive, method):
        self.data = scratch / "data"
        self.data.mkdir()
        self.db = server(scratch / "db", self.data).start()
        self.db.query("CREATE DATABASE t")
        self.db.query("CREATE TABLE t.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
        self.argv, self.method, self.state = drive, method, scratch / "state"
        self.state.mkdir()
        self.mysql = server is MySQL

    @classmethod
    def around(cls, db, scratch, argv):
        """The same for a server that runs already."""
        s = cls.__new__(cls)
        s.db, s.data, s.argv, s.mysql, s.state = db, db.datadir, argv, isinstance(db, MySQL), scratch / "state"
        s.method = "ftwrl+instance" if s.mysql else "backup"
        s.state.mkdir()
        return s

    def drive(self, argv=None, **options):
        return Drive(argv or self.argv, state_dir=self.state, **{
            "db__socket": self.db.socket, "mount_dev": os.stat(self.data).st_dev, "db__blocker_age": 1,
            "db__blockers": "refuse", **options})

    def held(self):
        """Can nobody commit, or is DDL kept out?"""
        if self.mysql:
            return self.db.query("SELECT COUNT(*) FROM performance_schema.metadata_locks WHERE OBJECT_TYPE IN ('GLOBAL', "
                                 "'COMMIT', 'BACKUP LOCK') AND LOCK_TYPE = 'SHARED' AND LOCK_STATUS = 'GRANTED'")[0][0] > 0
        c = self.db.connect("t", init_command="SET SESSION lock_wait_timeout=0")
        try:
            with c.cursor() as cursor:
                cursor.execute("INSERT INTO a (v) VALUES (1)")
        except pymysql.OperationalError as e:
            assert e.args[0] in (1205, 4145), e
            return True
        finally:
            c.close()
        return False

    def stop(self):
        os.kill(self.db.process.pid, signal.SIGSTOP)

    def cont(self):
        os.kill(self.db.process.pid, signal.SIGCONT)

    def kill(self):
        self.db.kill()

    def start(self):
        self.db.start()

    def released(self):
        wait_for("the release of every lock", lambda: not self.held())

    def close(self):
        if self.db.process:
            self.cont()
        self.db.close()


class Mongo:
    """The scripted MongoDB for the suite: its lock outlives connections and us, so recover ends it."""

    keeps_locks = True

    def __init__(self, scratch):
        (scratch / "data").mkdir()
        self.data, self.state, self.method = scratch / "data", scratch / "state", "fsync"
        self.state.mkdir()
        self.argv = [UNIT / "drive_mongodb"]
        self.db = Mongod(scratch, self.data).start()

    def drive(self, **options):
        return Drive(self.argv, state_dir=self.state, db__mongodb_uri_file=self.db.uri_file,
                     **{"mount_dev": os.stat(self.data).st_dev, "db__mongodb_lock": "yes", "gate_timeout": 2,
                                     **options})

    def held(self):
        return self.db.locks() > 0

    def stop(self):
        self.db.signal(signal.SIGSTOP)

    def cont(self):
        self.db.signal(signal.SIGCONT)

    def kill(self):
        self.db.kill()

    def start(self):
        self.db.start()

    def released(self):
        wait_for("the release of every lock", lambda: not self.held())

    def close(self):
        self.db.kill()


def make(kind, scratch):
    if kind == "mongodb":
        return Mongo(scratch)
    if kind == "mariadb":
        return SQL(scratch, MariaDB, [UNIT / "drive_mysql"], "backup")
    mysql_root()
    if kind == "mysql":
        return SQL(scratch, MySQL, [UNIT / "drive_mysql"], "ftwrl+instance")
    assert kind == "mysql-libmysqlclient"
    return SQL(scratch, MySQL, clientlib.argv("tests/unit/snapshot/drive_mysql"), "ftwrl+instance")


def server_version(text):
    return re.match(r"[0-9.]+", text).group(0)
