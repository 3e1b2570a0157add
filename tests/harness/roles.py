"""tests/harness/roles.py - servers on a mount and beside it, under load; sets taken of them, started, compared with their
record, and made replicas from it."""

import contextlib
import os
import random
import threading

import replication
from mysql import MySQL, mysql_root
from stillfs import Mount, Scratch, run, wait_for


class Load:
    """Autoincrement inserts, deletes and counter updates. tags: of MySQL's GTIDs, another one for each round; "": none."""

    def __init__(self, server, threads=3, database="t", tags=()):
        self.server, self.database, self.tags = server, database, tags
        self.ended, self.error, self.n = threading.Event(), [], 0
        self.threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(threads)]
        for t in self.threads:
            t.start()

    def _work(self, i):
        rnd = random.Random(i)
        try:
            c = self.server.connect(self.database)
            with c.cursor() as cursor:
                while not self.ended.is_set():
                    if self.tags:
                        tag = rnd.choice(self.tags)
                        cursor.execute("SET gtid_next=%s", (f"AUTOMATIC:{tag}" if tag else "AUTOMATIC",))
                    cursor.execute("INSERT INTO a (v) VALUES (%s)", (rnd.randrange(1000),))
                    cursor.execute("UPDATE counters SET n = n + 1 WHERE id = %s", (i,))
                    if rnd.random() < 0.3:
                        cursor.execute("DELETE FROM a WHERE id = %s", (cursor.lastrowid,))
                    self.n += 1
            c.close()
        except Exception as e:  # noqa: BLE001 - raised by stop()
            self.error.append(e)

    def run_for(self, more, within_s=20):
        goal = self.n + more
        wait_for("load", lambda: self.n >= goal or self.error, within_s)

    def stop(self):
        self.ended.set()
        for t in self.threads:
            t.join(20)
        if self.error:
            raise self.error[0]


def schema(server, database="t"):
    server.query(f"CREATE DATABASE {database}")
    server.query(f"CREATE TABLE {database}.a (id INT AUTO_INCREMENT PRIMARY KEY, v INT)")
    server.query(f"CREATE TABLE {database}.counters (id INT PRIMARY KEY, n INT)")
    server.query(f"INSERT INTO {database}.counters VALUES (0,0),(1,0),(2,0)")


@contextlib.contextmanager
def site(kind, extra=(), **options):
    """A mount, and a function that makes servers that all end before it does."""
    if kind is MySQL:  # a verification starts it in that root
        options = {"verify__root": mysql_root(), "verify__server": "/usr/sbin/mysqld", **options}
    scratch = Scratch(size_mb=1500)
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.close)
        m = Mount(scratch, start=False, **{"db": "mysql", "db__socket": scratch.dir / "a" / "sock", "db__blocker_age": 60, **options})
        stack.callback(m.close)
        m.start()

        def make(name, datadir, server_id, install=True, more=()):
            port = replication.free_port()
            datadir.mkdir(exist_ok=True)
            s = kind(scratch.dir / name, datadir, server_id, install=install,
                     options=[*replication.options(kind, port), *extra, *more])
            s.port = port
            stack.callback(s.close)
            s.start()
            stack.callback(lambda: s.process and s.kill())  # a MySQL that is asked to end waits for its replicas
            return s
        yield m, make, scratch


def take_lines(m, name="one"):
    """The lines of the position."""
    assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
    m.wait_state(name, "complete", 40)
    return m.read(f"snapshots/{name}/position").splitlines()


def take(m, name="one"):
    return dict(line.split(" ", 1) for line in take_lines(m, name))


def verify(m, name="one"):
    """By a server on a copy of it, as an operator has it verified."""
    assert m.write("verify", f"{name}\n") == 0, m.last_error()
    wait_for("the end of the verification", lambda: m.read("verify") == "idle\n", 60)
    log = m.read(f"snapshots/{name}/verify.log")
    assert m.read(f"snapshots/{name}/verified").startswith("yes "), m.read(f"snapshots/{name}/verified") + log[-2000:]
    return log


def clone_of(m, scratch, sub, name="one"):
    clone = scratch.fs / f"restored-{name}"
    run("cp", "-a", "--reflink=always", os.readlink(m.control / "snapshots" / name / "data"), clone)
    data = clone / sub
    with contextlib.suppress(FileNotFoundError):
        (data / "auto.cnf").unlink()  # a server of its own
    return data


def assert_equals_the_record(clone, position, outside=False):
    mysql = isinstance(clone, MySQL)
    if not outside:
        # the restarted server begins another file; the last before it ends where the record says
        sizes = {row[0]: int(row[1]) for row in clone.query("SHOW BINARY LOGS")}
        assert sizes[position["binlog_file"]] == int(position["binlog_pos"])
        assert max(f for f in sizes if sizes[f] and f <= position["binlog_file"]) == position["binlog_file"]
    if mysql and not outside:
        assert replication.executed(clone).replace("\n", "") == position["gtid_executed"]
    elif not outside:
        assert clone.query("SELECT @@gtid_binlog_pos")[0][0] == position["gtid_binlog_pos"]


def follow(clone, source, gtid):
    """Make the clone a strict replica from the recorded position, and let it catch up."""
    mysql = isinstance(clone, MySQL)
    clone.query("STOP REPLICA" if mysql else "STOP ALL SLAVES")
    clone.query("RESET REPLICA ALL" if mysql else "RESET SLAVE ALL")
    if not mysql:
        clone.query(f"SET GLOBAL gtid_slave_pos='{gtid}'")
    replication.attach(clone, source.port)
    replication.catch_up(source, clone)
