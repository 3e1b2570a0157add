"""What happens between two statements of the fence: clients that come, go and prepare, sessions that do not end, lists that
are not what they were; and XA transactions that are prepared."""

import contextlib
import errno
import socket
import struct
import threading

import pytest

import fences
from fences import READ_ONLY, Between, Fence, insert, refused, settings
from stillfs import once_each, scratch_dir, wait_for

LIST = "SHOW PROCESSLIST"
GONE = (2006, 2013, 1927, 1053, 4031)


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


def alive(connection):
    return refused(lambda: connection.cursor().execute("SELECT 1")) == 0


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


# ---- sessions ----

def test_a_client_that_comes_before_the_setting_and_after_a_listing_is_ended(server, fence):
    """LOCK TABLES have the sessions listed before the server is read-only: that list is not the last one."""
    came = []

    def come():
        came.append(server.connect("app", user="app", program_name="late"))
        came[0].begin()
    holder = server.connect("app", user="app")
    run(holder, "LOCK TABLES t WRITE")
    with between(server, setting(server), come, nth=2) as path:
        assert fence("on", socket=path) == (0, "")
    assert len(fence.ended) == 2 and refused(lambda: came[0].cursor().execute("SELECT 1")) in GONE


def test_a_client_that_comes_when_it_is_read_only_stays(server, fence):
    came = []
    idle = server.connect("app", user="app")
    with between(server, LIST, lambda: came.append(server.connect("app", user="app")), nth=2) as path:
        assert fence("on", socket=path) == (0, "")
    assert len(fence.ended) == 1 and not alive(idle) and alive(came[0])
    assert refused(lambda: came[0].cursor().execute("INSERT INTO t (v) VALUES (1)")) == READ_ONLY


def test_a_client_that_goes_by_itself_is_no_failure_and_was_not_ended(server, fence):
    idle = server.connect("app", user="app")

    def go():
        number = idle.thread_id()
        idle.close()
        wait_for("its end", lambda: number not in [row[0] for row in server.query(LIST)])
    with between(server, "KILL", go) as path:
        assert fence("on", socket=path) == (0, "")
    assert fence.ended == []


def test_who_is_not_logged_in_yet_is_ended_and_has_no_name(server, fence):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(str(server.socket))
    assert s.recv(1 << 12)  # its greeting
    wait_for("the session", lambda: "unauthenticated user" in [row[1] for row in server.query(LIST)])
    assert fence("on") == (0, "") and fence.ended == []
    while s.recv(1 << 12):
        pass
    s.close()


def test_who_reads_the_binary_log_stays(server, fence):
    server.query("CREATE USER dumper@localhost")
    server.query("GRANT REPLICATION SLAVE ON *.* TO dumper@localhost")
    c = server.connect(user="dumper")
    run(c, "SET @master_binlog_checksum='NONE', @source_binlog_checksum='NONE'")
    c._execute_command(0x12, struct.pack("<IHI", 4, 0, 77) + server.query("SHOW BINARY LOGS")[0][0].encode())  # COM_BINLOG_DUMP
    number = c.thread_id()

    def dumps():
        return any(row[0] == number and row[4] == "Binlog Dump" for row in server.query(LIST))
    wait_for("the dump", dumps)
    try:
        assert fence("on") == (0, "") and fence.ended == [] and dumps()
    finally:
        c._sock.close()
        assert fence("off")[0] == 0
        server.query("DROP USER dumper@localhost")


def test_what_was_ended_counts_until_its_transaction_is_gone(server, fence):
    """Here the server does not end it, and does not list it any more."""
    writing = server.connect("app", user="app")
    writing.begin()
    run(writing, "INSERT INTO t (v) VALUES (78)")
    number = writing.thread_id()
    hidden = f"SELECT * FROM information_schema.PROCESSLIST WHERE ID <> {number}"

    def hide():
        b.instead = ((LIST, hidden),)
    b = Between(server, LIST, hide, nth=2, instead=(("KILL", "DO 1"),))
    try:
        code, sentence = fence("on", socket=b.path, max_ms=1500)
        assert code == -errno.ETIMEDOUT and f"the transaction of session {number}" in sentence
    finally:
        b.close()
    assert "done" not in fence.lines()
    writing.rollback()
    assert fence("on") == (0, "")


def test_a_list_of_transactions_that_is_old_is_not_believed(server, fence):
    """As above; and who reads the list all the time has the server show what it had when he began."""
    end, begun = threading.Event(), threading.Event()

    def read():
        c = server.connect()
        while not end.is_set():
            run(c, "SELECT * FROM information_schema.INNODB_TRX")
            begun.set()
    reader = threading.Thread(target=read, daemon=True)
    wait_for("no transaction", lambda: not server.query("SELECT * FROM information_schema.INNODB_TRX"))
    reader.start()
    assert begun.wait(30)
    writing = server.connect("app", user="app")
    writing.begin()
    run(writing, "INSERT INTO t (v) VALUES (79)")
    hidden = f"SELECT * FROM information_schema.PROCESSLIST WHERE ID <> {writing.thread_id()}"

    def hide():
        b.instead = ((LIST, hidden),)
    b = Between(server, LIST, hide, nth=2, instead=(("KILL", "DO 1"),))
    try:
        code, sentence = fence("on", socket=b.path, max_ms=1500)
        assert code == -errno.ETIMEDOUT and ("INNODB_TRX all the time" in sentence or "the transaction of session" in sentence), sentence
        end.set()
        reader.join(30)
        writing.rollback()
        assert fence("on") == (0, "")
    finally:
        end.set()
        b.close()


def test_a_list_of_sessions_without_our_own_is_not_believed(server, fence):
    none = "SELECT * FROM information_schema.PROCESSLIST WHERE USER <> 'stillfs'"
    with between(server, instead=((LIST, none),)) as path:
        code, sentence = fence("on", socket=path)
    assert code == -errno.EIO and "lacks our own" in sentence and "done" not in fence.lines()


@mysql  # MariaDB ends any session for who has CONNECTION ADMIN
def test_a_session_above_our_account_is_named_with_what_to_do(server, fence):
    server.query("CREATE USER above@localhost")
    server.query("GRANT SYSTEM_USER ON *.* TO above@localhost")
    server.query("REVOKE SYSTEM_USER ON *.* FROM stillfs@localhost")
    try:
        above = server.connect(user="above")
        code, sentence = fence("on")
        assert code == -errno.EACCES and "above@localhost may not be ended" in sentence and "CONNECTION_ADMIN, SYSTEM_USER" in sentence
        assert insert(server) == READ_ONLY and "done" not in fence.lines()
        assert fence("off")[0] == 0
        server.query("GRANT SYSTEM_USER ON *.* TO stillfs@localhost")
        assert fence("on") == (0, "") and fence.ended == ["above@localhost program=- db=-"] and not alive(above)
    finally:
        assert fence("off")[0] == 0
        server.query("GRANT SYSTEM_USER ON *.* TO stillfs@localhost")
        server.query("DROP USER above@localhost")


def test_a_fence_that_was_up_goes_up_again_beside_a_new_writer(server, fence):
    assert fence("on") == (0, "")
    server.query("SET GLOBAL read_only=OFF")
    if server.kind == "mysql":
        server.query("SET GLOBAL super_read_only=OFF")
    server.query("CREATE USER new@localhost")
    server.query(f"GRANT {'READ_ONLY ADMIN' if server.kind == 'mariadb' else 'SUPER'} ON *.* TO new@localhost")
    try:
        assert fence("on") == (0, "") and "new@localhost" in fence.notes[0] and "could write all the same" in fence.notes[0]
        assert insert(server) == READ_ONLY
    finally:
        assert fence("off")[0] == 0
        server.query("DROP USER new@localhost")


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
