"""tests/harness/fences.py - servers to fence, their settings, and the fence over a connection alone (fence_drive.c).

Both servers read a configuration: with --no-defaults MariaDB would read no included directory, and MySQL nothing of
what is persisted.
"""

import os
import pathlib
import socket
import subprocess
import threading

import pymysql

from mariadb import MariaDB
from mysql import MySQL

BUILD = pathlib.Path(os.environ.get("STILLFS_BUILD", "build"))
DRIVER = BUILD / "tests/unit/snapshot/drive_fence"
READ_ONLY = 1290
SETTINGS = ("read_only", "super_read_only", "event_scheduler")


class Persisting(MySQL):
    def program(self):
        (self.dir / "my.cnf").write_text("[mysqld]\n")
        return [a if a != "--no-defaults" else f"--defaults-file={self.dir}/my.cnf" for a in super().program()]


class Included(MariaDB):
    def argv(self):
        self.include = self.dir / "conf.d"
        self.include.mkdir(exist_ok=True)
        (self.dir / "my.cnf").write_text(f"[mariadbd]\nread_only=OFF\n!includedir {self.include}\n")
        return [a if a != "--no-defaults" else f"--defaults-file={self.dir}/my.cnf" for a in super().argv()]


def make(kind, scratch, datadir=None, options=()):
    data = datadir or scratch / "data"
    data.mkdir(exist_ok=True)
    server = (Included if kind == "mariadb" else Persisting)(scratch / "server", data, options=options)
    server.include = getattr(server, "include", "")
    server.start()
    for account in [f"root@{h[0]}" for h in server.query("SELECT Host FROM mysql.user WHERE User='root'") if h[0] != "localhost"]:
        server.query(f"DROP USER '{account.split('@')[0]}'@'{account.split('@')[1]}'")
    server.query("CREATE DATABASE app")
    server.query("CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    server.query("CREATE USER app@localhost")
    server.query("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, LOCK TABLES, EXECUTE ON app.* TO app@localhost")
    server.query("CREATE USER stillfs@localhost")
    for grant in grants(kind):
        server.query(f"GRANT {grant} TO stillfs@localhost")
    return server


def grants(kind):
    """As docs/operations.md has them."""
    if kind == "mariadb":
        return ["PROCESS, READ_ONLY ADMIN, CONNECTION ADMIN, SUPER ON *.*", "SELECT ON mysql.*"]
    return ["PROCESS, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, SYSTEM_USER, PERSIST_RO_VARIABLES_ADMIN, XA_RECOVER_ADMIN ON *.*", "SELECT ON mysql.*",
            "SELECT ON performance_schema.*"]


def settings(server):
    """What a fence changes: settings, what is persisted, the included file."""
    names = "', '".join(SETTINGS)
    found = dict(server.query(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ('{names}')"))
    if isinstance(server, MySQL):
        found["persisted"] = dict(server.query("SELECT * FROM performance_schema.persisted_variables"))
    else:
        found["included"] = sorted(p.name for p in server.include.iterdir())
    return found


def refused(call):
    """The error number that the server answers with; 0: it took it."""
    try:
        call()
        return 0
    except pymysql.Error as e:
        return e.args[0]


def insert(server, user="app"):
    def call():
        c = server.connect("app", user=user)
        try:
            with c.cursor() as cursor:
                cursor.execute("INSERT INTO t (v) VALUES (1)")
        finally:
            c.close()
    return refused(call)


class Cut:
    """A socket in front of a server's that ends the connection at the n-th statement: before the server has it, or
    after, so that only the answer is lost. Counts the statements."""

    def __init__(self, server, nth, answer_lost):
        self.server, self.nth, self.answer_lost, self.seen = server, nth, answer_lost, 0
        self.path = server.dir / "cut"
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            while True:
                threading.Thread(target=self._pump, args=(self.listener.accept()[0],), daemon=True).start()
        except OSError:
            pass

    def _pump(self, client):
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(str(self.server.socket))
        threading.Thread(target=self._back, args=(upstream, client), daemon=True).start()
        while data := client.recv(1 << 16):
            statement = len(data) > 5 and data[3] == 0 and data[4] == 3  # COM_QUERY
            self.seen += statement
            if statement:
                data = self._sees(data)
            if statement and self.seen == self.nth:
                if self.answer_lost:
                    self.lost = True  # before it is sent: _back ends the connection when the server has done it
                    upstream.sendall(data)
                    return
                for s in (client, upstream):
                    s.shutdown(socket.SHUT_RDWR)
                return
            upstream.sendall(data)
        upstream.close()

    lost = False

    def _sees(self, data):
        return data

    def _back(self, upstream, client):
        try:
            while (data := upstream.recv(1 << 16)) and not self.lost:
                client.sendall(data)
            if self.lost:
                client.shutdown(socket.SHUT_RDWR)
                upstream.close()
        except OSError:
            pass

    def close(self):
        self.listener.close()


class Between(Cut):
    """Calls then() in front of the nth statement that begins with `word`, which waits for it; or has the server get what
    `instead` says in place of all those: (word, statement) pairs."""

    def __init__(self, server, word="", then=None, nth=1, instead=()):
        self.word, self.then, self.left, self.instead, self.failed = word.encode(), then, nth, instead, None
        super().__init__(server, 0, False)

    def _sees(self, data):
        sql = data[5:]
        if self.then and sql.startswith(self.word):
            self.left -= 1
            if self.left == 0:
                try:
                    self.then()
                except BaseException as e:  # told by close(): this is a thread of ours
                    self.failed = e
        for word, other in self.instead:
            if sql.startswith(word.encode()):
                sql = other.encode()
                return (len(sql) + 1).to_bytes(3, "little") + data[3:5] + sql
        return data

    def close(self):
        super().close()
        assert self.failed is None, self.failed
        assert not self.then or self.left <= 0, f"no such statement: {self.word}"


class Fence:
    """The library over a connection alone; the record is a file."""

    def __init__(self, server, allow="", persist=True, include=None):
        self.server, self.allow, self.persist, self.xa = server, allow, persist, "refuse"
        self.include = server.include if include is None else include
        self.record = server.dir / "record"
        self.ended, self.notes, self.found = [], [], []

    def __call__(self, command, socket=None, fail_at=0, max_ms=20000):
        """The code and the sentence."""
        out = subprocess.run([str(a) for a in (DRIVER, self.server.defaults("stillfs"), socket or self.server.socket, self.record,
                                               self.allow, self.include, "yes" if self.persist else "no", self.xa, max_ms, fail_at, command)],
                             capture_output=True, text=True, timeout=90)
        assert out.returncode == 0, out
        lines = out.stdout.splitlines()
        self.ended = [x.split(" ", 1)[1] for x in lines if x.startswith("ended ")]
        self.notes = [x.split(" ", 1)[1] for x in lines if x.startswith("note ")]
        self.found = [x.split(" ", 1)[1] for x in lines if x.startswith("found ")]
        _, code, *sentence = lines[-1].split(" ", 2)
        return int(code), "".join(sentence)

    def lines(self):
        return dict(x.split(" ", 1) for x in self.record.read_text().splitlines()) if self.record.exists() else {}
