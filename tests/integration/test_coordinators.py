"""The conformance suite of coordinators: one contract, against every server.

Whatever happens at whichever step - the connection is cut, the server is killed or stopped, this process dies -, nothing
stays locked, every call comes back, and the next snapshot works.
"""

import errno
import os
import pathlib
import subprocess
import time

import pytest

import coordinators
from coordinators import Failed
from stillfs import once_each, scratch_dir

KINDS = ["mariadb", "mysql", "mysql-libmysqlclient", "mongodb"]
ALL = bool(os.environ.get("STILLFS_ALL"))
STEPS = ["preflight 5000", "prepare s 5000", "lock 2000 3000", "position 2000", "unlock 2000", "finish 0 5000"]
# The slow ones; the second client library of one server has no code of its own there.
STOPPED = [(k, n) for k in KINDS for n in range(1, len(STEPS)) if ALL or k in KINDS[:2] or (k == "mongodb" and n in (2, 4))]
KILLED = [(k, n) for k in KINDS for n in (2, 3, 4) if ALL or (k != "mysql-libmysqlclient" and n == 3)]


@pytest.fixture(scope="module")
def servers():
    """One server of each kind for the module, started when it is first asked for."""
    def make(kind, stack):
        server = coordinators.make(kind, scratch_dir(stack))
        stack.callback(server.close)
        return server
    with once_each(make) as get:
        yield get


@pytest.fixture(params=KINDS)
def server(request, servers):
    return servers(request.param)


@pytest.fixture
def drive(server):
    made = []

    def make(**options):
        made.append(server.drive(**options))
        return made[-1]
    yield make
    for d in made:
        d.close()


def whole_run(server, d):
    """One whole snapshot works, and holds what it says while it says so."""
    for step in STEPS[:3]:
        d(step)
    assert server.held()
    position = d.position()
    d("unlock 2000")
    assert not server.held()
    d("finish 0 5000")
    return position


def test_a_run_locks_records_and_releases(server, drive):
    position = whole_run(server, drive())
    assert position["mongodb_lock" if server.keeps_locks else "lock_method"] == server.method
    server.released()


def test_unlock_without_a_lock_is_harmless_and_twice_too(server, drive):
    d = drive()
    d("unlock 2000")
    whole_run(server, d)
    d("unlock 2000")


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_a_connection_cut_at_any_step_leaves_nothing_held(server, drive, done):
    d = drive()
    for step in STEPS[:done]:
        d(step)
    d.cut()
    time.sleep(0.05)
    lost = False
    for step in STEPS[done:]:
        try:
            d(step)
        except Failed as e:
            lost = lost or e.code in (errno.ENOLCK, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN)
            assert e.ms < 4000
    if 2 < done < 5 and not server.keeps_locks:
        assert lost, "a lock that was lost is told"
    server.released()
    whole_run(server, d)


@pytest.mark.parametrize("server,done", STOPPED, indirect=["server"])
def test_a_server_that_is_stopped_at_any_step_does_not_keep_us(server, drive, done):
    """The call hangs with the server; the cut ends it, and the server has let go once it runs again."""
    d = drive()
    for step in STEPS[:done]:
        d(step)
    server.stop()
    try:
        d.cut(300)
        start = time.monotonic()
        try:
            d(STEPS[done])
        except Failed as e:
            assert e.code
        assert time.monotonic() - start < 30, "the client library's own limits are longer"
    finally:
        server.cont()
    if done < 4:
        try:
            d("unlock 2000")
        except Failed as e:
            assert e.code == errno.ENOLCK
    d("finish 0 5000")
    server.released()
    whole_run(server, d)


@pytest.mark.parametrize("server,done", KILLED, indirect=["server"])
def test_a_server_killed_at_any_step_is_noticed_and_the_next_one_served(server, drive, done):
    d = drive()
    for step in STEPS[:done]:
        d(step)
    server.kill()
    codes = []
    for step in STEPS[done:5]:
        try:
            d(step)
        except Failed as e:
            codes.append(e.code)
            assert e.ms < 3000
    assert codes, "nothing was said about it"
    with pytest.raises(Failed) as failed:
        d("preflight 5000")
    assert failed.value.code in (errno.ECONNREFUSED, errno.ECONNRESET)
    server.start()
    whole_run(server, d)


def test_our_own_death_releases_the_lock(server, drive):
    d = drive()
    for step in STEPS[:3]:
        d(step)
    assert server.held()
    d.kill()
    if server.keeps_locks:
        assert server.held()
        drive()("recover 5000")
    server.released()


def test_a_holder_that_falls_silent_loses_its_lock(server, drive):
    if server.keeps_locks:
        return  # the journal ends it: test_our_own_death_releases_the_lock
    d = drive()
    for step in STEPS[:2]:
        d(step)
    d("lock 2000 1000")
    server.released()
    with pytest.raises(Failed) as failed:
        d("unlock 2000")
    assert failed.value.code == errno.ENOLCK


def test_a_hundred_runs_leave_no_session_behind(server, drive):
    d = drive()
    whole_run(server, d)
    fds = len(list(pathlib.Path(f"/proc/{d.process.pid}/fd").iterdir()))
    for _ in range(30):
        for step in STEPS:
            d(step)
    assert len(list(pathlib.Path(f"/proc/{d.process.pid}/fd").iterdir())) == fds


def test_both_client_libraries_are_told_apart(server):
    """The two builds really use two libraries."""
    program = server.argv[-1]
    if server.keeps_locks:
        return
    needed = subprocess.run(["readelf", "-d", str(program)], capture_output=True, text=True, check=True).stdout
    assert ("libmysqlclient" in needed) == ("libmysqlclient" in str(program))
    assert ("libmariadb" in needed) != ("libmysqlclient" in needed)
