"""tests/harness/cutovers.py - two servers that replicate, clients that write all the time, and stillfs-cutover."""

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

import pymysql

import fences
import replication
from mariadb import MariaDB
from mysql import MySQL
from stillfs import BUILD, wait_for

PROGRAM = BUILD / "snapshot" / "stillfs-cutover"
# What the account of a cut-over needs (docs/operations.md).
GRANTS = {
    MySQL: "RELOAD, PROCESS, SELECT, REPLICATION CLIENT, REPLICATION SLAVE, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, XA_RECOVER_ADMIN",
    MariaDB: "RELOAD, PROCESS, SELECT, BINLOG MONITOR, SLAVE MONITOR, REPLICATION MASTER ADMIN, READ_ONLY ADMIN, CONNECTION ADMIN, SUPER",
}


def ro(server, on):
    if isinstance(server, MySQL):
        server.query(f"SET GLOBAL super_read_only={int(on)}" if on else "SET GLOBAL read_only=0")
    else:
        server.query(f"SET GLOBAL read_only={int(on)}")


class Site:
    """a and b, which follow each other on MariaDB; b follows a on MySQL. b is read-only. An account for the cut-over, one
    for the clients; journal and defaults files below dir."""

    def __init__(self, kind):
        self.kind = kind
        self.program = [PROGRAM]
        self.names = {}  # of servers that are named otherwise than by their file
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
        self.dir.chmod(0o755)
        self.journal = self.dir / "journal"
        self.others = []
        self.servers = [self._server(i) for i in (1, 2)]
        self.a, self.b = self.servers
        for s in self.servers:
            self._accounts(s)
        replication.attach(self.b, self.a.port)
        if kind is MariaDB:
            replication.attach(self.a, self.b.port)
        self.a.query("CREATE DATABASE t")
        self.a.query("CREATE TABLE t.a (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, n INT)")
        replication.catch_up(self.a, self.b)
        ro(self.b, True)
        self.env = {}

    def add(self, i):
        """A server besides the two, with the accounts that they have."""
        s = self._server(i)
        self._accounts(s)
        self.others.append(s)
        return s

    def _server(self, i):
        port = replication.free_port()
        more = ["--auto-increment-increment=2", f"--auto-increment-offset={i}"]
        if self.kind is MariaDB:
            more += [f"--gtid-domain-id={i}"]
        more += self.more()
        data = self.datadir(i)
        kind = {MariaDB: fences.Included, MySQL: fences.Persisting}[self.kind]  # what is persisted counts
        s = kind(self.dir / f"s{i}", data, i, options=[*replication.options(self.kind, port), *more])
        s.port = port
        return s.start()

    def more(self):
        """Options of both servers."""
        return []

    def datadir(self, i):
        data = self.dir / f"data{i}"
        data.mkdir()
        return data

    def _accounts(self, s):
        replication.account(s)
        c = s.connect()
        with c.cursor() as cursor:
            for sql in ("SET SESSION sql_log_bin=0", "CREATE USER cut@'127.0.0.1' IDENTIFIED BY 'secret'",
                        f"GRANT {GRANTS[self.kind]} ON *.* TO cut@'127.0.0.1'", "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'p'",
                        "GRANT SELECT, INSERT, UPDATE, DELETE ON *.* TO app@'127.0.0.1'"):
                cursor.execute(sql)
        c.close()
        path = self.cnf(s)
        path.write_text(f"[client]\nhost=127.0.0.1\nport={s.port}\nuser=cut\npassword=secret\n")
        path.chmod(0o600)

    def cnf(self, s):
        return self.dir / f"server{s.server_id}.cnf"

    def named(self, s):
        return self.names.get(s.server_id, self.cnf(s))

    def argv(self, *args):
        return [str(x) for x in (*self.program, *args, "--journal", self.journal)]

    def sides(self, a=None, b=None):
        """--from, --to, and what every run here needs; limits that a machine with other work does not reach."""
        return ["--from", self.named(a or self.a), "--to", self.named(b or self.b), "--allow", "root@%,cut@127.0.0.1",
                "--timeout", "10", "--max-lag", "600", "--catch-up", "120", *(["--fence-include", (a or self.a).include] if self.kind is MariaDB else [])]

    def start(self, *args):
        return subprocess.Popen(self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env or None)

    def call(self, *args, within_s=120):
        p = self.start(*args)
        try:
            out, err = p.communicate(timeout=within_s)
        finally:
            p.kill()
        return p.returncode, out, err

    def run(self, *args):
        return self.call(*self.sides(), *args)

    def writable(self, s):
        """Is a client's write accepted? By the server's own word."""
        return s.query("SELECT @@GLOBAL.read_only")[0][0] == 0

    def state(self):
        code, out, err = self.call("status")
        assert code == 0, err
        return dict(line.split(" ", 1) for line in out.splitlines() if " " in line)

    def settle(self):
        """Whoever takes writes is a, the other follows it and is read-only; no fence is left over."""
        open_ = [s for s in self.servers if self.writable(s)]
        assert len(open_) == 1, [self.writable(s) for s in self.servers]
        self.a = open_[0]
        self.b = next(s for s in self.servers if s is not self.a)
        (self.dir / "moved").unlink(missing_ok=True)
        if not replication.status(self.b):
            replication.attach(self.b, self.a.port)
        if any(r["Replica_IO_Running"] == "No" for r in replication.status(self.b)):  # a MySQL tries ten times
            self.b.query("START REPLICA")
        wait_for("replication", lambda: all(r["Replica_IO_Running"] == "Yes" for r in replication.status(self.b)), 60)
        replication.catch_up(self.a, self.b)

    def close(self):
        for s in [*self.servers, *self.others]:
            if s.process:
                s.kill()  # a MySQL that is asked to end waits for its replica
            s.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Clients:
    """Threads that insert over connections they keep. They go to where `target` leads, and look there anew when a statement
    fails. Each acknowledged row is kept, with the server that acknowledged it and when. tags: of MySQL's GTIDs, in turn."""

    def __init__(self, site, threads=4, tags=()):
        self.site, self.target, self.ended, self.tags = site, site.a, threading.Event(), tags
        self.acked, self.attempts, self.lock = [], 0, threading.Lock()
        self.gaps = {}
        self.threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(threads)]
        for t in self.threads:
            t.start()

    def _connect(self):
        s = self.target
        c = pymysql.connect(host="127.0.0.1", port=s.port, user="app", password="p", database="t", autocommit=True,
                            connect_timeout=2, read_timeout=5, write_timeout=5)
        return s, c

    def _work(self, i):
        c, n, last = None, 0, time.monotonic()
        while not self.ended.is_set():
            try:
                if c is None:
                    s, c = self._connect()
                n += 1
                self.attempts += 1
                with c.cursor() as cursor:
                    if self.tags:
                        tag = self.tags[n % len(self.tags)]
                        cursor.execute("SET gtid_next=%s", (f"AUTOMATIC:{tag}" if tag else "AUTOMATIC",))
                    cursor.execute("INSERT INTO a (client, n) VALUES (%s, %s)", (i, n))
                    row = cursor.lastrowid
            except (pymysql.Error, OSError):
                with contextlib.suppress(Exception):
                    c.close()
                c = None
                time.sleep(0.01)
                continue
            now = time.monotonic()
            with self.lock:
                self.acked.append((i, n, row, s))
                self.gaps[i] = max(self.gaps.get(i, 0), now - last)
            last = now

    def count(self, s=None):
        with self.lock:
            return sum(1 for a in self.acked if s in (None, a[3]))

    def go_on(self, more=20, s=None):
        goal = self.count(s) + more
        wait_for("clients", lambda: self.count(s) >= goal, 60)

    def stop(self):
        self.ended.set()
        for t in self.threads:
            t.join(30)
        return self

    def assert_kept(self, server):
        """Every acknowledged row is on this server with its number, and no number was given out twice."""
        rows = {(c, n): i for i, c, n in server.query("SELECT id, client, n FROM t.a")}
        lost = [a[:3] for a in self.acked if rows.get((a[0], a[1])) != a[2]]
        assert not lost, f"{len(lost)} of {len(self.acked)} acknowledged rows are not there: {lost[:5]}"
        ids = [a[2] for a in self.acked]
        assert len(ids) == len(set(ids))


def hook_to(site, clients):
    """A hook that sends the clients to B, as a change of a virtual address does."""
    flag = site.dir / "moved"
    hook = site.dir / "hook"
    hook.write_text(f"#!/bin/sh\nenv | grep ^STILLFS > {flag}.env\ntouch {flag}\n")
    hook.chmod(0o755)

    def watch():
        while not clients.ended.is_set():
            if flag.exists():
                clients.target = site.b
                return
            time.sleep(0.002)
    threading.Thread(target=watch, daemon=True).start()
    return hook
