"""A replica of several sources, MySQL's by channels and MariaDB's by named connections: appliers that a snapshot stopped run
again, those alone, also after a death."""

import contextlib

import pytest

import coordinators
import replication
import sources
from mariadb import MariaDB
from mysql import MySQL
from stillfs import once_each, scratch_dir, wait_for

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
