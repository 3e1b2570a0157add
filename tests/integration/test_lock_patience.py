"""db.lock_patience on MariaDB and MySQL: a lock that is not had soon is given up and tried again, in every order of events.

Between the coordinator and the real server stands a door that the test keeps (sqlproxy.py), so that orders which are a
matter of microseconds can be made."""

import contextlib
import errno
import threading

import pymysql
import pytest

import coordinators
from coordinators import Failed
from sqlproxy import Proxy, refusal
from stillfs import once_each, scratch_dir, wait_for

LOCKS = {"mysql": "FLUSH TABLES WITH READ LOCK", "ftwrl": "FLUSH TABLES WITH READ LOCK", "backup": "BACKUP STAGE BLOCK_COMMIT"}
RELEASES = {"mysql": "UNLOCK TABLES", "ftwrl": "UNLOCK TABLES", "backup": "BACKUP STAGE END"}
KINDS = [*LOCKS, "mysql-libmysqlclient"]


class Door:
    """One server, how it is locked, and the door in front of it."""

    def __init__(self, kind, server, directory):
        self.kind, self.server = kind.split("-")[0], server
        self.lock, self.release = LOCKS[self.kind], RELEASES[self.kind]
        self.proxy = Proxy(server.db.socket, directory / f"door-{kind}")

    def drive(self, **options):
        self.proxy.links.clear()
        return self.server.drive(db__socket=self.proxy.socket, db__blockers="ignore", **{
            "db__lock": "ftwrl" if self.kind == "ftwrl" else "auto", "db__lock_patience": "30ms", **options})

    def first(self):
        """The connection that locks; the other one is the second."""
        return next(link for link in self.proxy.links if any(sql.startswith("SET SESSION lock_wait_timeout") for sql in link.said))

    def said(self, *which):
        return [sql for sql in self.first().said if sql.startswith(which)]

    def kills(self):
        return [sql for link in self.proxy.links for sql in link.said if sql.startswith("KILL")]


@pytest.fixture(scope="module")
def doors():
    """Each server once, MariaDB for both ways to lock it."""
    def server(kind, stack):
        directory = scratch_dir(stack)
        s = coordinators.make(kind, directory)
        stack.callback(s.close)
        s.db.query("CREATE TABLE t.slow (v INT) ENGINE=MyISAM")  # BACKUP STAGE waits for such a statement, not for InnoDB's
        s.db.query("INSERT INTO t.slow VALUES (1)")
        return s, directory

    with once_each(server) as get:
        made = {}

        def door(kind):
            if kind not in made:
                s, directory = get(kind if kind.startswith("mysql") else "mariadb")
                made[kind] = Door(kind, s, directory)
            return made[kind]
        yield door
        for d in made.values():
            d.proxy.close()


@pytest.fixture(params=KINDS)
def door(request, doors):
    d = doors(request.param)
    d.proxy.look = lambda link, sql: None
    yield d
    d.server.released()


@pytest.fixture
def ready(door):
    """A coordinator just before its lock."""
    with contextlib.ExitStack() as made:
        def make(**options):
            d = door.drive(**options)
            made.callback(d.close)
            d("preflight 5000")
            d("prepare s 5000")
            return d
        yield make


def ends_well(door, d):
    """It is locked, says where, and lets go."""
    assert door.server.held()
    assert "binlog_file" in d.position()
    d("unlock 2000")
    assert not door.server.held()
    d("finish 0 5000")


def given_up(d):
    """How many tries were given up by the last lock, as the driver tells after each."""
    told = dict(line.split(" ", 1) for line in d("told"))
    return int(told["given_up"]), float(told["longest_ms"])


class Blocker:
    """A statement that every kind of lock waits for, until close()."""

    def __init__(self, server):
        self.db = server.db
        self.c = self.db.connect("t")
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        wait_for("the statement", lambda: self.db.query("SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'UPDATE slow%'"))

    def _work(self):
        with contextlib.suppress(pymysql.Error):
            self.c.cursor().execute("UPDATE slow SET v = v + SLEEP(600)")

    def close(self):
        if self.thread.is_alive():
            self.db.query(f"KILL QUERY {self.c.thread_id()}")
            self.thread.join(30)
            self.c.close()


@pytest.fixture
def in_the_way(door):
    with contextlib.ExitStack() as made:
        def make():
            b = Blocker(door.server)
            made.callback(b.close)
            return b
        yield make


def after_its_answer(link, call):
    """In a thread, once the server's next answer has been handed on."""
    before = link.heard

    def work():
        wait_for("the answer", lambda: link.heard > before)
        call()
    threading.Thread(target=work, daemon=True).start()


def test_a_lock_that_is_had_in_time_is_asked_for_once(door, ready):
    d = ready(db__lock_patience="1s")
    d("lock 4000 5000")
    assert len(door.said(door.lock)) == 1 and not door.kills() and given_up(d) == (0, 0)
    ends_well(door, d)


class Application:
    """Statements that this kind of lock stops, one after the other. n: how many are done."""

    def __init__(self, door):
        self.n, self.ended = 0, threading.Event()
        self.c = door.server.db.connect("t")
        # BACKUP STAGE waits before it stops commits: it stops DDL then. That takes its time on a busy disk
        self.statements = ["CREATE TABLE app (n INT)", "DROP TABLE app"] if door.kind == "backup" else ["INSERT INTO app_rows VALUES (1)"]
        if door.kind != "backup":
            door.server.db.query("CREATE TABLE IF NOT EXISTS t.app_rows (n INT)")
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        while not self.ended.is_set():
            for sql in self.statements:
                self.c.cursor().execute(sql)
                self.n += 1

    def goes_on(self):
        """The one that waited is done: all tries together have 2 s, also on a busy machine."""
        goal = self.n + 1
        wait_for("the application", lambda: self.n >= goal)

    def close(self):
        self.ended.set()
        self.thread.join(30)
        self.c.close()


def test_the_application_goes_on_between_the_tries(door, ready, in_the_way):
    """What each try makes wait is let go; the lock is had once nothing is in its way."""
    d = ready(db__lock_timeout=25)
    blocker = in_the_way()
    app = Application(door)
    try:
        app.goes_on()
        d.send("lock 27000 5000")
        for tries in (1, 2):
            wait_for("the end of a try", lambda n=tries: len(door.said(door.release)) >= n)
            app.goes_on()
        blocker.close()
        d.answer(60)
        tries, longest = given_up(d)
        assert tries == len(door.said(door.lock)) - 1 == len(door.kills()) >= 2 and longest >= 30
        assert door.server.held()
        d("unlock 2000")
        app.goes_on()
    finally:
        app.close()


def test_an_account_ends_its_own_statement_without_any_privilege_for_it(door, ready, in_the_way):
    db = door.server.db
    grants = {"mysql": ["RELOAD, PROCESS, BACKUP_ADMIN, REPLICATION CLIENT ON *.*", "SELECT ON performance_schema.*"]}
    db.query("DROP USER IF EXISTS least@localhost")
    db.query("CREATE USER least@localhost IDENTIFIED BY 'pw'")
    for grant in grants.get(door.kind, ["RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR ON *.*"]):
        db.query(f"GRANT {grant} TO least@localhost")
    d = ready(db__lock_timeout=25, db__defaults_file=db.defaults("least", "pw"))
    blocker = in_the_way()
    d.send("lock 27000 5000")
    wait_for("the end of a try", lambda: door.said(door.release))
    blocker.close()
    d.answer(60)
    assert given_up(d)[0] >= 1 and "db_lock_patience on" in d("status")
    ends_well(door, d)


def test_one_granted_as_it_is_given_up_is_kept_and_the_kill_meets_nothing(door, ready):
    """The answer is on its way when patience ends: the server is told to end a session that does nothing."""
    d = ready()

    def look(link, sql):
        if sql == door.lock:
            link.answers.clear()
        elif sql.startswith("KILL"):
            wait_for("the lock, granted before the kill", door.server.held)
            after_its_answer(link, door.first().answers.set)

    door.proxy.look = look
    d("lock 4000 5000")
    assert len(door.said(door.lock)) == 1 and len(door.kills()) == 1 and given_up(d) == (0, 0)
    assert door.first().said[-1] == "DO 0"
    ends_well(door, d)


def test_a_kill_that_is_refused_leaves_the_lock_to_be_waited_for(door, ready, in_the_way):
    d = ready(db__lock_timeout=20)
    blocker = in_the_way()
    door.proxy.look = lambda link, sql: refusal(1095, "You are not owner of thread") if sql.startswith("KILL") else None
    d.send("lock 22000 5000")
    wait_for("the kill", door.kills)
    blocker.close()
    d.answer(30)
    assert len(door.said(door.lock)) == 1 and given_up(d) == (0, 0)
    assert "db_lock_patience give the lock up: You are not owner of thread (error 1095)" in d("status")
    ends_well(door, d)
    d("preflight 5000")
    assert "db_lock_patience on" in d("status")


def test_a_second_connection_that_is_lost_leaves_the_lock_to_be_waited_for(door, ready, in_the_way):
    d = ready(db__lock_timeout=20)
    blocker = in_the_way()

    def look(link, sql):
        if sql.startswith("KILL"):
            link.cut()
            raise OSError
    door.proxy.look = look
    d.send("lock 22000 5000")
    wait_for("the kill", door.kills)
    blocker.close()
    d.answer(30)
    assert len(door.said(door.lock)) == 1 and given_up(d) == (0, 0)
    ends_well(door, d)


@pytest.mark.parametrize("where", ["lock", "kill", "DO 0", "release", "pause"])
def test_a_connection_that_is_lost_in_a_try_fails_and_leaves_nothing(door, ready, in_the_way, where):
    d = ready()
    blocker = in_the_way()

    def look(link, sql):
        at = {"lock": door.lock, "kill": "KILL", "DO 0": "DO 0", "release": door.release, "pause": door.release}[where]
        if sql.startswith(at):
            if where == "pause":
                after_its_answer(link, link.cut)
            else:
                door.first().cut()
                if where != "kill":
                    raise OSError

    door.proxy.look = look
    with pytest.raises(Failed) as failed:
        d("lock 4000 5000")
    assert failed.value.code != errno.EAGAIN, failed.value
    blocker.close()
    door.server.released()
    door.proxy.look = lambda link, sql: None
    for step in ("unlock 2000", "finish 0 5000", "preflight 5000", "prepare s 5000", "lock 4000 5000"):
        d(step)
    ends_well(door, d)


def test_when_all_tries_are_used_up_the_last_waits_for_lock_timeout(door, ready, in_the_way):
    d = ready(db__lock_timeout=1)
    blocker = in_the_way()
    with pytest.raises(Failed) as failed:
        d("lock 3000 5000", 30)
    assert failed.value.code == errno.EAGAIN and "1205" in failed.value.message, failed.value
    tries, longest = given_up(d)
    assert tries == len(door.said(door.lock)) - 1 == len(door.kills()) >= 2
    assert longest < failed.value.ms / 2
    blocker.close()
    door.server.released()


def test_no_time_for_tries_and_no_patience_wait_at_once(door, ready, in_the_way):
    for options, ms in (({}, 1000), ({"db__lock_patience": 0}, 4000)):
        d = ready(db__lock_timeout=1, **options)
        blocker = in_the_way()
        with pytest.raises(Failed) as failed:
            d(f"lock {ms} 5000", 30)
        assert failed.value.code == errno.EAGAIN
        assert len(door.said(door.lock)) == 1 and not door.kills()
        assert f"db_lock_patience {'off' if options else 'on'}" in d("status")
        blocker.close()


def test_sever_ends_it_wherever_it_is(door, ready, in_the_way):
    for after_ms in (10, 50, 100, 300):
        d = ready(db__lock_timeout=25)
        blocker = in_the_way()
        d.cut(after_ms)
        with pytest.raises(Failed):
            d("lock 27000 5000")
        assert d.ms < 20000, "cut, and not waited for"
        blocker.close()
        door.server.released()
