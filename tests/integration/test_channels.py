"""A replica of several sources, MySQL's by channels and MariaDB's by named connections: each source's executed position is in
the record under its name, and a clone made a replica of each from there catches up with both; appliers that a snapshot
stopped run again, those alone, also after a death."""

import contextlib
import os
import signal
import threading

import pytest

import coordinators
import replication
import roles
import sources
from mariadb import MariaDB
from mysql import MySQL
from sources import NAMES
from stillfs import STILLCTL, once_each, run, scratch_dir, wait_for

DRIVE = [coordinators.UNIT / "drive_mysql"]
KINDS = [MariaDB, MySQL]


# ---- the coordinator alone ----

class Three:
    """Two sources and who follows both: the first by a channel without a name, the second by `two`."""

    def __init__(self, kind, stack):
        d = scratch_dir(stack)
        made = []
        for i in (1, 2, 3):
            port = replication.free_port()
            (d / f"data{i}").mkdir()
            s = kind(d / f"s{i}", d / f"data{i}", i, options=[*replication.options(kind, port), *sources.more(kind, i)])
            s.port = port
            stack.callback(s.close)
            s.start()
            stack.callback(s.kill)
            made.append(s)
        self.first, self.second, self.db = made
        self.sql = coordinators.SQL.around(self.db, d, DRIVE)
        for s in made[:2]:
            replication.account(s)
        replication.attach(self.db, self.first.port)
        replication.attach(self.db, self.second.port, channel="two")

    def settle(self):
        sources.replica(self.db, "START")
        wait_for("both channels", lambda: all(r["Replica_IO_Running"] == "Yes" for r in replication.status(self.db)))
        self.expect(one=True, two=True)

    def expect(self, one, two):
        assert sources.appliers(self.db) == {"": one, "two": two}

    def first_by_file(self, yes):
        sources.replica(self.db, "STOP", "")
        file, pos = sources.where(self.first)
        replication.attach(self.db, self.first.port, gtid=not yes, file=file, pos=pos)


@pytest.fixture(scope="module")
def threes():
    with once_each(Three) as get:
        yield get


@pytest.fixture(params=KINDS, ids=lambda k: k.__name__)
def three(request, threes):
    t = threes(request.param)
    t.settle()
    return t


@contextlib.contextmanager
def driven(three, **options):
    d = three.sql.drive(**options)
    try:
        yield d
    finally:
        d.close()


def prepare(d):
    d("preflight 5000")
    d("prepare s 60000", 70)


def test_every_applier_is_stopped_and_started_again_also_after_our_death(three):
    with driven(three, db__stop_replica="yes") as d:
        prepare(d)
        three.expect(one=False, two=False)
        d("lock 2000 5000")
        found = sources.said(d("position 2000"))
        assert set(found) == {None, "default", "two"}
        assert [found[n]["source_port"] for n in ("default", "two")] == [str(three.first.port), str(three.second.port)]
        d("unlock 2000")
        d("finish 0 30000")
        three.expect(one=True, two=True)
        prepare(d)
        d.kill()
    three.expect(one=False, two=False)
    with driven(three, db__stop_replica="yes") as d:
        d("recover 5000")
        three.expect(one=True, two=True)


@pytest.mark.parametrize("stopped", ["", "two"])
def test_an_applier_that_somebody_else_has_stopped_stays_so(three, stopped):
    sources.applier(three.db, "STOP", stopped)
    left = {"one": stopped != "", "two": stopped != "two"}
    with driven(three, db__stop_replica="yes") as d:
        prepare(d)
        three.expect(one=False, two=False)
        d("finish 0 30000")
        three.expect(**left)
        prepare(d)
        d.kill()
    with driven(three, db__stop_replica="yes") as d:
        d("recover 5000")
    three.expect(**left)


def test_only_the_channel_that_follows_by_file_and_position_rests(three):
    three.first_by_file(True)
    try:
        with driven(three) as d:
            prepare(d)
            three.expect(one=False, two=True)
            d("finish 0 30000")
            three.expect(one=True, two=True)
    finally:
        three.first_by_file(False)


@pytest.mark.parametrize("gone", ["", "two"])
def test_a_channel_that_is_gone_by_then_holds_up_nothing(three, gone):
    with driven(three, db__stop_replica="yes") as d:
        prepare(d)
        sources.forget(three.db, gone)
        d("finish 0 30000")
    try:
        assert sources.appliers(three.db) == {"two" if gone == "" else "": True}
    finally:
        replication.attach(three.db, three.first.port if gone == "" else three.second.port, channel=gone)


def test_what_an_earlier_run_left_stopped_is_started_by_the_end_of_the_next(three):
    """The first's finish could start `two` and not the other, and nobody has recovered since."""
    with driven(three, db__stop_replica="yes") as d:
        prepare(d)
        d.kill()
    sources.applier(three.db, "START", "two")
    journal = three.sql.state / "db-mysql.journal"
    with driven(three, db__stop_replica="yes") as d:
        prepare(d)
        assert sorted(journal.read_text().splitlines()) == ["applier ", "applier two"]
        d("finish 0 30000")
        three.expect(one=True, two=True)
        assert not journal.exists()


def test_what_could_not_be_undone_stays_in_the_journal_alone(three):
    sources.applier(three.db, "STOP", "two")
    journal = three.sql.state / "db-mysql.journal"
    journal.write_text("applier two\nsomething else\n")
    with driven(three, db__stop_replica="yes") as d:
        with pytest.raises(coordinators.Failed) as e:
            d("recover 5000")
        assert 'unknown line "something else"' in str(e.value)
        three.expect(one=True, two=True)
        assert journal.read_text() == "something else\n"
        journal.unlink()


# ---- sets taken under load ----

class Fed:
    """A replica on a mount, `a`, of two sources that write all the time; stop: its db.stop_replica."""

    def __init__(self, kind_and_stop, stack):
        self.kind, self.stop = kind_and_stop
        self.mount, self.make, self.scratch = stack.enter_context(roles.site(
            self.kind, db__stop_replica=self.stop, db__blockers="ignore", db__lock_timeout=30))
        self.sources = {}
        self.a = self.make("a", self.mount.mnt / "d", 3, more=sources.more(self.kind, 3))
        for i, name in enumerate(NAMES, 1):
            s = self.make(name, self.scratch.dir / f"data-{name}", i, more=sources.more(self.kind, i))
            replication.account(s)
            roles.schema(s, f"t_{name}")
            replication.attach(self.a, s.port, channel=name)
            self.sources[name] = s
        self.loads = []
        self.caught_up()

    def caught_up(self, server=None):
        for name, s in self.sources.items():
            sources.catch_up(s, server or self.a, name)

    @contextlib.contextmanager
    def load(self):
        loads = [roles.Load(s, 2, f"t_{name}") for name, s in self.sources.items()]
        try:
            for x in loads:
                x.run_for(30)
            yield lambda: [x.run_for(20) for x in loads]
        finally:
            for x in loads:
                x.stop()

    def all_run(self):
        return sources.appliers(self.a) == dict.fromkeys(NAMES, True)

    def equal(self, server):
        """Each source's tables, there."""
        self.caught_up(server)
        for name, s in self.sources.items():
            want = replication.checksums(s, f"t_{name}")
            wait_for("equal tables", lambda n=name, w=want: replication.checksums(server, f"t_{n}") == w)


@pytest.fixture(scope="module")
def feds():
    with once_each(Fed) as get:
        yield get


@pytest.fixture(params=[(k, s) for k in KINDS for s in ("auto", "yes")], ids=lambda p: f"{p[0].__name__}-{p[1]}")
def fed(request, feds):
    return feds(request.param)


def assert_channels(fed, clone, found):
    """The record's channels are those of the clone, which stood there when it was copied."""
    assert set(found) == {None, *NAMES}
    for name, s in fed.sources.items():
        assert (found[name]["source_host"], found[name]["source_port"]) == ("127.0.0.1", str(s.port))
        assert found[name]["source_auto_position"] == "yes"
    if fed.stop == "yes":  # an applier that runs writes down where it is from time to time
        rows = {sources.name_of(r): r for r in replication.status(clone)}
        assert {n: (rows[n]["Relay_Source_Log_File"], str(rows[n]["Exec_Source_Log_Pos"])) for n in NAMES} == \
            {n: (found[n]["source_log_file"], found[n]["source_log_pos"]) for n in NAMES}
    if fed.kind is MariaDB:
        assert clone.query("SELECT @@gtid_slave_pos")[0][0] == found[None]["gtid_slave_pos"]


def assert_the_places_are_one(fed, found):
    """MariaDB tells which GTIDs are before a file's position: as far as the record has them of this source."""
    pos = dict((g.split("-", 1)[0], g) for g in found[None]["gtid_slave_pos"].split(","))
    for i, name in enumerate(NAMES, 1):
        c = found[name]
        assert fed.sources[name].query(f"SELECT BINLOG_GTID_POS('{c['source_log_file']}', {c['source_log_pos']})")[0][0] == pos[str(i)]


def follow_the_advice(fed, clone, name):
    """What `stillctl restore` says for this channel, with the account filled in."""
    to = fed.scratch.fs / f"new-{name}"
    said = run(STILLCTL, "--dir", fed.mount.control, "restore", "one", "--to", to).split(f"own source (channel {name}):\n")[1].split("To make it")[0]
    for sql in said.split(";\n"):
        if "CHANGE" in sql or "SET GLOBAL" in sql:
            account = sql.replace("USER='...'", "USER='repl'").replace("PASSWORD='...'", "PASSWORD='r'")
            clone.query(account.replace("SOURCE_USER", "GET_SOURCE_PUBLIC_KEY=1, SOURCE_USER"))
    sources.replica(clone, "START", name)


def test_each_sources_place_is_in_the_record_and_a_clone_follows_each_from_there(fed):
    with fed.load() as go_on:
        lines = roles.take_lines(fed.mount)
        go_on()
        assert fed.all_run()
    found = sources.said(lines)
    clone = fed.make("c", roles.clone_of(fed.mount, fed.scratch, "d"), 4, install=False,
                     more=["--skip-replica-start" if fed.kind is MySQL else "--skip-slave-start", *sources.more(fed.kind, 4)])
    roles.assert_equals_the_record(clone, found[None])
    assert_channels(fed, clone, found)
    roles.verify(fed.mount)
    for name in NAMES:
        sources.forget(clone, name)
    if fed.kind is MariaDB and fed.stop == "yes":
        assert_the_places_are_one(fed, found)
    for name, s in fed.sources.items():
        if fed.stop == "yes":
            replication.attach(clone, s.port, gtid=False, file=found[name]["source_log_file"],
                               pos=found[name]["source_log_pos"], channel=name)
        else:
            follow_the_advice(fed, clone, name)
    fed.equal(clone)
    fed.equal(fed.a)
    assert sources.appliers(clone) == dict.fromkeys(NAMES, True)


@pytest.mark.parametrize("fed", [(k, "yes") for k in KINDS], indirect=True, ids=lambda p: p[0].__name__)
def test_every_applier_runs_again_after_the_daemons_death(fed):
    m, c = fed.mount, fed.a.connect("t_one")
    with c.cursor() as cursor:
        cursor.execute("LOCK TABLES a WRITE")  # the lock waits, with the appliers stopped
        t = threading.Thread(target=m.write, args=("snapshot", "dead\n"))  # until its point is fixed, or the death
        t.start()
        wait_for("the appliers' end", lambda: not any(sources.appliers(fed.a).values()), 60)
        os.kill(int(m.status()["pid"]), signal.SIGKILL)
        wait_for("both appliers", fed.all_run, 60)
    c.close()
    t.join(60)
    with fed.load():
        pass
    fed.equal(fed.a)
