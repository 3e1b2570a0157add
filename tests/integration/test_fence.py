"""The fence over a connection alone: no client writes any more, and afterwards everything is as it was."""

import errno
import itertools

import pytest

import fences
from fences import READ_ONLY, Cut, Fence, insert, refused, settings
from stillfs import once_each, scratch_dir

KINDS = ["mariadb", "mysql"]


@pytest.fixture(scope="module")
def servers():
    """One server of each kind for the module, started when it is first asked for."""
    def make(kind, stack):
        server = fences.make(kind, scratch_dir(stack))
        stack.callback(server.close)
        return server
    with once_each(make) as get:
        yield get


@pytest.fixture(params=KINDS)
def server(request, servers):
    s = servers(request.param)
    s.kind = request.param
    before = settings(s)
    yield s
    assert settings(s) == before, "a test left the fence up"


@pytest.fixture
def fence(server):
    f = Fence(server, allow="root@localhost")
    yield f
    assert f("off")[0] == 0
    f.record.unlink(missing_ok=True)


def test_a_client_is_refused_and_off_brings_everything_back(server, fence):
    before = settings(server)
    assert insert(server) == 0
    assert fence("on") == (0, "")
    assert insert(server) == READ_ONLY
    assert insert(server, "root") == (READ_ONLY if server.kind == "mysql" else 0)  # it is in fence.allow
    assert fence("verify") == (0, "")
    assert fence.lines()["done"] == "yes"
    assert fence("off") == (0, "")
    assert settings(server) == before and not fence.record.exists()
    assert insert(server) == 0


def test_sessions_end_and_are_named_and_those_let_through_stay(server, fence):
    idle = server.connect("app", user="app", program_name="worker")
    writing = server.connect("app", user="app")
    writing.begin()
    writing.cursor().execute("INSERT INTO t (v) VALUES (77)")
    operator = server.connect("app")
    assert fence("on") == (0, "")
    program = "worker" if server.kind == "mysql" else "-"
    assert sorted(fence.ended) == sorted([f"app@localhost program={program} db=app", "app@localhost program=- db=app"])
    for c in (idle, writing):
        assert refused(lambda: c.cursor().execute("SELECT 1")) in (2006, 2013, 1927, 1053)
    operator.cursor().execute("SELECT 1")
    assert server.query("SELECT COUNT(*) FROM app.t WHERE v = 77") == ((0,),)
    new = server.connect("app", user="app")
    new.cursor().execute("SELECT 1")  # to read it may come back
    assert fence("on") == (0, "") and len(fence.ended) == 1  # it was there when the fence was put up again
    operator.close()


def test_lock_tables_of_a_client_do_not_keep_the_fence_from_going_up(server, fence):
    holder = server.connect("app", user="app")
    holder.cursor().execute("LOCK TABLES t WRITE")
    assert fence("on") == (0, "")
    assert fence.ended == ["app@localhost program=- db=app"]


def test_lock_tables_of_an_operator_do_and_nothing_is_left_changed(server, fence):
    before = settings(server)
    holder = server.connect("app")
    holder.cursor().execute("LOCK TABLES t WRITE")
    code, sentence = fence("on", max_ms=1000)
    assert code == -errno.EAGAIN and "LOCK TABLES" in sentence
    assert "done" not in fence.lines()
    holder.close()
    assert fence("off") == (0, "")
    assert settings(server) == before


def test_accounts_that_could_still_write_are_named_until_locked_or_let_through(server, fence):
    privilege = "READ_ONLY ADMIN" if server.kind == "mariadb" else "SYSTEM_VARIABLES_ADMIN"
    before = settings(server)
    fence.allow = ""
    server.query("CREATE ROLE writers")
    server.query(f"GRANT {privilege} ON *.* TO writers")
    server.query("CREATE USER direct@'10.%'")
    server.query(f"GRANT {privilege} ON *.* TO direct@'10.%'")
    server.query("CREATE USER by_role@localhost")
    server.query("GRANT writers TO by_role@localhost")
    try:
        code, sentence = fence("on")
        assert code == -errno.EPERM and "by_role@localhost" in sentence and "fence.allow" in sentence
        assert fence("check")[0] == -errno.EPERM
        assert [x.split(" has ")[0] for x in fence.found] == ["by_role@localhost", "direct@10.%", "root@localhost"]
        assert settings(server) == before and not fence.record.exists()
        server.query("ALTER USER direct@'10.%' ACCOUNT LOCK")
        fence.allow = "root@localhost"
        assert fence("check")[0] == -errno.EPERM and len(fence.found) == 1
        fence.allow = "'root'@'localhost', by_role@local%"
        assert fence("check") == (0, "") and not fence.found
    finally:
        for user in ("by_role@localhost", "direct@'10.%'"):
            server.query(f"DROP USER {user}")
        server.query("DROP ROLE writers")


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)  # super_read_only stops them
def test_a_routine_that_runs_as_a_writer_is_named(server, fence):
    server.query("CREATE USER writer@localhost")
    server.query("GRANT READ_ONLY ADMIN, INSERT, EXECUTE ON *.* TO writer@localhost")
    server.query("CREATE DEFINER=writer@localhost PROCEDURE app.p() INSERT INTO app.t (v) VALUES (5)")
    server.query("ALTER USER writer@localhost ACCOUNT LOCK")
    try:
        assert fence("on")[0] == -errno.EPERM
        assert fence("check")[0] == -errno.EPERM
        assert fence.found == ["routine app.p runs as writer@localhost, which has READ ONLY ADMIN"]
        fence.allow += ",writer@localhost"
        assert fence("on") == (0, "")
        c = server.connect("app", user="app")
        assert refused(lambda: c.cursor().execute("CALL p()")) == 0, "the server stops it: it need not be named"
        c.close()
    finally:
        server.query("DROP PROCEDURE app.p")
        server.query("DROP USER writer@localhost")


def test_what_everybody_has_by_a_role_is_named(server, fence):
    if server.kind == "mariadb":
        server.query("GRANT READ_ONLY ADMIN ON *.* TO PUBLIC")
        undo, who = "REVOKE READ_ONLY ADMIN ON *.* FROM PUBLIC", "PUBLIC@ has READ ONLY ADMIN"
    else:
        server.query("CREATE ROLE everybody")
        server.query("GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO everybody")
        server.query("SET GLOBAL mandatory_roles='`everybody`'")
        undo, who = "SET GLOBAL mandatory_roles=''", "everybody@% has SUPER or SYSTEM_VARIABLES_ADMIN, and everybody has it by mandatory_roles"
    try:
        assert fence("check")[0] == -errno.EPERM and who in fence.found, fence.found
        if server.kind == "mysql":
            server.query("SET GLOBAL mandatory_roles='`everybody`@`%`'")
            assert fence("check")[0] == -errno.EPERM and who in fence.found, fence.found
    finally:
        server.query(undo)
        if server.kind == "mysql":
            server.query("DROP ROLE everybody")


@pytest.mark.parametrize("server", ["mysql"], indirect=True)
def test_what_was_persisted_otherwise_than_set_is_so_again(server, fence):
    server.query("SET PERSIST event_scheduler=ON")
    server.query("SET GLOBAL event_scheduler=OFF")
    server.query("SET PERSIST_ONLY read_only=ON")
    before = settings(server)
    try:
        assert fence("on") == (0, "") and settings(server) != before
        assert fence("off") == (0, "") and settings(server) == before
        assert before["persisted"] == {"event_scheduler": "ON", "read_only": "ON"} and before["read_only"] == "OFF"
    finally:
        server.query("RESET PERSIST")
        server.query("SET GLOBAL event_scheduler=ON")


def test_an_event_scheduler_that_is_disabled_is_left_alone(server, fence):
    """It cannot be set, and a MariaDB that is told to stop it by a file while it is disabled by its command line has one."""
    server.restart("--event-scheduler=DISABLED")
    try:
        before = settings(server)
        assert fence("on") == (0, "") and insert(server) == READ_ONLY
        server.restart("--event-scheduler=DISABLED")
        assert fence("verify") == (0, "")
        assert fence("off") == (0, "") and settings(server) == before and before["event_scheduler"] == "DISABLED"
    finally:
        server.restart()


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_the_file_is_that_of_the_record_and_ours_alone(server, fence):
    assert fence("on") == (0, "")
    ours = server.include / "zz-stillfs-fence.cnf"
    text = ours.read_text()
    assert ours.stat().st_mode & 0o777 == 0o644
    fence.include = server.dir  # the option was changed meanwhile
    assert fence("verify") == (0, "") and fence("on") == (0, "") and not (server.dir / ours.name).exists()
    ours.write_text("# mine now\n" + text)
    code, sentence = fence("off")
    assert code == -errno.EEXIST and "written anew by somebody else" in sentence and ours.exists()
    assert insert(server) == READ_ONLY, "it was opened although a restart would close it"
    ours.write_text(text)
    assert fence("off") == (0, "") and not ours.exists()


def test_what_was_before_is_what_is_after(server, fence):
    mysql = server.kind == "mysql"
    server.query("SET GLOBAL event_scheduler=OFF")
    server.query("SET GLOBAL read_only=ON")
    if mysql:
        server.query("SET PERSIST event_scheduler=OFF")
    before = settings(server)
    try:
        assert fence("on") == (0, "")
        assert settings(server) != before
        assert fence("off") == (0, "")
        assert settings(server) == before
        assert before["read_only"] == "ON" and before["event_scheduler"] == "OFF"
        assert insert(server) == READ_ONLY
    finally:
        server.query("SET GLOBAL read_only=OFF")
        server.query(f"SET GLOBAL event_scheduler={'ON' if mysql else 'OFF'}")
        if mysql:
            server.query("RESET PERSIST event_scheduler")


def test_it_says_what_is_not_as_it_was_put_up_and_puts_it_up_again(server, fence):
    server.query("SET GLOBAL event_scheduler=ON")
    before = settings(server)
    assert fence("on") == (0, "")
    server.query("SET GLOBAL read_only=OFF")
    server.query("SET GLOBAL event_scheduler=ON")
    if server.kind == "mariadb":
        next(server.include.iterdir()).unlink()
    else:
        server.query("RESET PERSIST super_read_only")
    code, sentence = fence("verify")
    assert code == -errno.ESTALE and "read_only is OFF" in sentence and "event_scheduler is ON" in sentence
    assert "zz-stillfs-fence.cnf is gone" in sentence or "super_read_only is not persisted" in sentence
    record = fence.lines()
    assert fence("on") == (0, "")
    assert fence.lines() == record and fence("verify") == (0, "")
    assert fence("off") == (0, "")
    assert settings(server) == before
    server.query(f"SET GLOBAL event_scheduler={'OFF' if server.kind == 'mariadb' else 'ON'}")


@pytest.mark.parametrize("answer_lost", [False, True], ids=["never-sent", "answer-lost"])
@pytest.mark.parametrize("command", ["on", "off"])
def test_a_connection_that_ends_at_any_statement_leaves_a_state_that_is_told(server, fence, command, answer_lost):
    """And whatever that is, `off` brings back what was before, and `on` goes on."""
    server.query("SET GLOBAL event_scheduler=ON")
    before = settings(server)
    for nth in itertools.count(1):
        if command == "off":
            assert fence("on") == (0, "")
        cut = Cut(server, nth, answer_lost)
        code, sentence = fence(command, socket=cut.path)
        cut.close()
        if code == 0:
            break
        assert code in (-errno.ECONNRESET, -errno.ECONNREFUSED, -errno.EIO) and sentence, (nth, code, sentence)
        if settings(server) != before:
            assert fence.lines(), f"changed at statement {nth}, and no record says so"
        if nth % 2:
            assert fence("on") == (0, ""), nth
            assert insert(server) == READ_ONLY
        assert fence("off") == (0, ""), nth
        assert settings(server) == before, nth
    assert nth > 5
    assert fence("off") == (0, "")
    server.query(f"SET GLOBAL event_scheduler={'OFF' if server.kind == 'mariadb' else 'ON'}")


def test_nothing_is_changed_that_could_not_be_recorded(server, fence):
    before = settings(server)
    code, sentence = fence("on", fail_at=1)
    assert (code, sentence) == (-errno.ENOSPC, "record: no space")
    assert settings(server) == before
    code, sentence = fence("on", fail_at=2)  # it is up, and that cannot be written down
    assert code == -errno.ENOSPC and "done" not in fence.lines()
    assert insert(server) == READ_ONLY


def test_a_record_of_another_server_changes_nothing(server, fence):
    assert fence("on") == (0, "")
    fenced, good = settings(server), fence.record.read_text()
    fence.record.write_text(good.replace("server m", "server x"))
    for command in ("off", "on", "verify"):
        code, sentence = fence(command)
        assert code == -errno.EXDEV and "record is of" in sentence
    fence.record.write_text(good.replace("read_only OFF", "read_only OFF; DROP DATABASE app"))
    code, sentence = fence("off")
    assert code == -errno.EINVAL and "no server has" in sentence
    assert settings(server)["read_only"] == fenced["read_only"] == "ON"
    fence.record.write_text(good)
    assert fence("off") == (0, "")


def test_a_missing_privilege_is_named(server, fence):
    need = "READ_ONLY ADMIN" if server.kind == "mariadb" else "CONNECTION_ADMIN"
    server.query(f"REVOKE {need} ON *.* FROM stillfs@localhost")
    code, sentence = fence("on")
    server.query(f"GRANT {need} ON *.* TO stillfs@localhost")
    assert code == -errno.EACCES and f"GRANT {need} ON *.*" in sentence
    assert not fence.record.exists()


def test_nothing_of_it_is_in_the_binary_log(server, fence):
    sql = "SHOW BINARY LOG STATUS" if server.kind == "mysql" else "SHOW MASTER STATUS"
    before = server.query(sql)
    assert fence("on") == (0, "")
    assert fence("off") == (0, "")
    assert server.query(sql) == before


@pytest.mark.parametrize("persist", [True, False], ids=["persisted", "not-persisted"])
def test_a_server_that_is_killed_starts_read_only_if_it_is_persisted(server, fence, persist):
    fence.persist = persist
    assert fence("on") == (0, "")
    rows = server.query("SELECT COUNT(*) FROM app.t")
    server.kill()
    server.start()
    code, sentence = fence("verify")
    assert code == (0 if persist else -errno.ESTALE), sentence
    if persist:
        assert insert(server) == READ_ONLY
        assert server.query("SELECT COUNT(*) FROM app.t") == rows
    assert fence("on") == (0, "")  # and it can be put up again
    assert insert(server) == READ_ONLY
    assert fence("off") == (0, "")
    assert insert(server) == 0


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)  # MySQL persists by SQL
def test_mariadb_needs_a_directory_to_persist_in(server, fence):
    fence.include = ""
    code, sentence = fence("on")
    assert code == -errno.EINVAL and "fence.mariadb_include" in sentence and "fence.persist=no" in sentence
    fence.include = server.include
    (server.include / "zz-stillfs-fence.cnf").write_text("# mine\n")
    code, sentence = fence("on")
    (server.include / "zz-stillfs-fence.cnf").unlink()
    assert code == -errno.EEXIST and "not written by a fence" in sentence
    assert not fence.record.exists()
