"""What happens between two statements of the fence; and XA transactions that are prepared."""

import contextlib
import errno

import pytest

import fences
from fences import READ_ONLY, Between, Fence, insert, refused, settings
from stillfs import once_each, scratch_dir, wait_for

LIST = "SHOW PROCESSLIST"


@pytest.fixture(scope="module")
def servers():
    def make(kind, stack):
        server = fences.make(kind, scratch_dir(stack))
        stack.callback(server.close)
        return server
    with once_each(make) as get:
        yield get


def end_clients(server):
    left = [row[0] for row in server.query(LIST) if row[1] not in ("root", "event_scheduler", "system user")]
    for number in left:
        refused(lambda: server.query(f"KILL {number}"))
    return left


@pytest.fixture(params=["mariadb", "mysql"])
def server(request, servers):
    s = servers(request.param)
    s.kind = request.param
    wait_for("the end of an earlier test's clients", lambda: not end_clients(s))
    before = settings(s)
    yield s
    assert settings(s) == before, "a test left the fence up"


@pytest.fixture
def fence(server):
    f = Fence(server, allow="root@localhost")
    yield f
    assert f("off")[0] == 0
    f.record.unlink(missing_ok=True)


mariadb = pytest.mark.parametrize("server", ["mariadb"], indirect=True)
mysql = pytest.mark.parametrize("server", ["mysql"], indirect=True)


def setting(server):
    return "SET GLOBAL read_only=ON" if server.kind == "mariadb" else "SET PERSIST super_read_only=ON"


def run(connection, *statements):
    for sql in statements:
        connection.cursor().execute(sql)


@contextlib.contextmanager
def between(*args, **kw):
    b = Between(*args, **kw)
    try:
        yield b.path
    finally:
        b.close()


# ---- XA transactions ----

def prepare(server, name, value):
    c = server.connect("app", user="app")
    run(c, f"XA START {name}", f"INSERT INTO t (v) VALUES ({value})", f"XA END {name}", f"XA PREPARE {name}")
    c.close()


NAMES = ["'a-1'", "'a','b',7", "X'00FF27',X'27',1"]


@pytest.fixture
def prepared(server):
    assert not server.query("XA RECOVER")
    for n, name in enumerate(NAMES):
        prepare(server, name, 900 + n)
    wait_for("their sessions' end", lambda: "app" not in [row[1] for row in server.query(LIST)])
    yield
    left(server)


def left(server):
    """None, afterwards."""
    for name in NAMES:
        refused(lambda: server.query(f"XA ROLLBACK {name}"))
    assert not server.query("XA RECOVER")


@mysql
def test_a_prepared_transaction_keeps_the_fence_down_as_anybody_could_commit_it(server, fence, prepared):
    before = settings(server)
    code, sentence = fence("on")
    assert code == -errno.EPERM and "3 could write all the same: prepared XA transaction " in sentence and "XA ROLLBACK" in sentence
    assert "fence.allow" not in sentence and settings(server) == before and not fence.record.exists()
    assert fence("check")[0] == -errno.EPERM
    assert sorted(fence.found) == sorted(f"prepared XA transaction {n}: any account can commit it" for n in NAMES)
    for line in fence.found:  # the name is one that the server takes
        server.query("XA ROLLBACK " + line.removeprefix("prepared XA transaction ").removesuffix(": any account can commit it"))
    assert fence("check") == (0, "") and fence("on") == (0, "") and not fence.notes


@mysql
def test_it_may_be_let_stay_and_then_it_can_be_committed(server, fence, prepared):
    """What is feared: if a server refuses this one day, the fence need not ask."""
    server.query("CREATE USER nobody@localhost")
    fence.xa = "allow"
    try:
        assert fence("on") == (0, "") and "3 prepared XA transactions stay" in fence.notes[0] and "ANY account" in fence.notes[0]
        nobody = server.connect(user="nobody")
        run(nobody, "XA COMMIT 'a-1'")
        assert server.query("SELECT COUNT(*) FROM app.t WHERE v = 900") == ((1,),)
    finally:
        assert fence("off")[0] == 0
        server.query("DROP USER nobody@localhost")


@mariadb
def test_a_prepared_transaction_stays_as_the_server_refuses_its_commit(server, fence, prepared):
    assert fence("check") == (0, "") and "3 prepared XA transactions stay" in fence.notes[0] and not fence.found
    assert fence("on") == (0, "") and len(fence.notes) == 1 and "only accounts with READ ONLY ADMIN" in fence.notes[0]
    client = server.connect("app", user="app")
    for command in ("COMMIT", "ROLLBACK"):
        assert refused(lambda: client.cursor().execute(f"XA {command} 'a-1'")) == READ_ONLY
    assert len(server.query("XA RECOVER")) == 3


def test_one_that_is_prepared_after_the_preflight_is_found(server, fence):
    """Before the server is read-only, and after its sessions were counted as none that has anything prepared."""
    c = server.connect("app", user="app")
    run(c, "XA START 'late'", "INSERT INTO t (v) VALUES (950)", "XA END 'late'")
    with between(server, setting(server), lambda: run(c, "XA PREPARE 'late'")) as path:
        code, sentence = fence("on", socket=path)
    try:
        if server.kind == "mariadb":
            assert code == 0 and "1 prepared XA transaction stays" in fence.notes[0]
        else:
            assert code == -errno.EBUSY and "the first: 'late'" in sentence and "XA ROLLBACK" in sentence
            assert "done" not in fence.lines() and insert(server, "root") == READ_ONLY  # half up: it can be gone on with
            server.query("XA ROLLBACK 'late'")
            assert fence("on") == (0, "")
    finally:
        assert fence("off")[0] == 0
        refused(lambda: server.query("XA ROLLBACK 'late'"))
    assert not server.query("XA RECOVER")
