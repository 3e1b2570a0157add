"""A cut-over between a server on a stillfs, named by that, and another one: it is the control file `fence` that keeps the one
closed, over deaths of the cut-over, of the daemon, of the server and of the whole stillfs; and back, with `off` by nobody
else's hand."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess

import pymysql
import pytest

import cutovers
import replication
from mariadb import MariaDB
from mysql import MySQL
from stillfs import Mount, Scratch, once_each, stop_process, wait_for
from test_cutover import client

KINDS = [MariaDB, MySQL] if os.environ.get("STILLFS_ALL") else [MariaDB]


class Site(cutovers.Site):
    """Server 1 is on a stillfs."""

    def __init__(self, kind, stack):
        self.scratch = Scratch(size_mb=900)
        stack.callback(self.scratch.close)
        stack.callback(lambda: self.m.close())
        super().__init__(kind)
        stack.callback(self.close)
        self.first = self.servers[0]

    def _accounts(self, s):
        super()._accounts(s)
        if self.kind is MySQL:  # as the daemon's account has them (docs/operations.md)
            c = s.connect()
            c.cursor().execute("SET SESSION sql_log_bin=0")
            c.cursor().execute("GRANT BACKUP_ADMIN, SYSTEM_USER, PERSIST_RO_VARIABLES_ADMIN ON *.* TO cut@'127.0.0.1'")
            c.close()

    def datadir(self, i):
        if i != 1:
            return super().datadir(i)
        self.m = Mount(self.scratch, db="mysql", db__defaults_file=self.dir / "server1.cnf", fence__allow="root@%",
                       fence__mariadb_include=self.dir / "s1/conf.d", db__stop_replica="no")
        self.names[1] = self.m.name
        return self.m.mnt

    def fence(self):
        return self.m.read("fence").splitlines()[0]

    def has(self, line):
        return line in self.m.read("fence").splitlines()

    def settle(self):
        super().settle()
        if self.a is not self.first:  # each test begins with A on the stillfs
            code, out, err = self.run()
            assert code == 0, (out, err)
            super().settle()
        assert self.fence() == "off"

    @contextlib.contextmanager
    def b_that_waits(self):
        """The applier of B waits, with something to apply."""
        c = self.b.connect("t")
        with c.cursor() as cursor:
            cursor.execute("LOCK TABLES a READ")
        self.a.query("INSERT INTO t.a (client, n) VALUES (50, 1)")
        try:
            yield
        finally:
            c.close()

    def killed_while_b_catches_up(self):
        with self.b_that_waits():
            p = self.start(*self.sides(), "--catch-up", "600")
            try:
                wait_for("the step", lambda: self.state().get("state") == "fenced" and self.fence() == "on", 60)
            finally:
                p.kill()
                p.communicate()


@pytest.fixture(scope="module")
def sites():
    with once_each(Site) as get:
        yield get


@pytest.fixture
def site(request, sites):
    s = sites(request.param)
    s.settle()
    return s


def pytest_generate_tests(metafunc):
    kinds = [MariaDB, MySQL] if metafunc.function is test_the_control_file_fences_a_and_is_taken_down_on_the_way_back else KINDS
    metafunc.parametrize("site", kinds, indirect=True, ids=lambda k: k.__name__)


def refused(s):
    with pytest.raises(pymysql.Error, match="read-only"):
        client(s).cursor().execute("INSERT INTO a (client, n) VALUES (99, 1)")


def test_the_control_file_fences_a_and_is_taken_down_on_the_way_back(site):
    code, out, err = site.run("--check")
    assert code == 0 and f"ok control: A is fenced by its stillfs, /run/stillfs/{site.m.name}, and by its options" in out, (out, err)
    clients = cutovers.Clients(site)
    try:
        clients.go_on(20)
        idle = [client(site.a) for _ in range(3)]
        code, out, err = site.run("--hook", cutovers.hook_to(site, clients))
        assert code == 0, (out, err)
        assert re.search(r"(?m)^ended app \S+ \S+ [3-9]$", out), out
        assert not re.search(r"(?m)^ended cut ", out), out
        clients.go_on(20, site.b)
    finally:
        clients.stop()
    clients.assert_kept(site.b)
    for c in idle:
        with pytest.raises(pymysql.Error):
            c.cursor().execute("SELECT 1")
    assert site.fence() == "on" and site.has("retired yes") and site.has("renewed 0")
    assert not list(site.journal.glob("*.fence"))  # one record, the daemon's
    assert site.m.write("fence", "off\n") != 0 and "retired" in site.m.last_error()["message"]
    refused(site.a)
    site.a.kill()
    site.a.start()
    refused(site.a)
    wait_for("that it is seen", lambda: site.fence() == "on")
    cutovers.Site.settle(site)
    code, out, err = site.run("--check")
    assert code == 0 and "ok control: B is fenced by its stillfs" in out and "and retired" in out, (out, err)
    code, out, err = site.run()
    assert code == 0, (out, err)
    assert site.fence() == "off" and site.writable(site.b) and not site.writable(site.a)
    assert not site.has("retired yes")


def test_a_server_that_its_stillfs_has_retired_is_reopened_as_that_stillfs(site):
    assert site.run()[0] == 0
    cutovers.ro(site.b, True)  # or two would be writable
    code, out, err = site.call("reopen", "--server", site.cnf(site.a), "--force")
    assert code == 1 and "name that stillfs (--server)" in err and site.fence() == "on", (out, err)
    code, out, err = site.call("reopen", "--server", site.named(site.a), "--force")
    assert code == 0 and site.fence() == "off" and site.writable(site.a), (out, err)


def test_a_fence_that_an_operator_put_up_is_not_taken_down(site):
    assert site.run()[0] == 0
    cutovers.Site.settle(site)
    assert site.m.write("fence", "off force\n") == 0
    wait_for("off", lambda: site.fence() == "off")
    cutovers.ro(site.b, True)
    assert site.m.write("fence", "on\n") == 0
    wait_for("on", lambda: site.fence() == "on")
    code, out, err = site.run()
    assert code == 1 and "bad control: B is fenced by its stillfs" in out and "write off there first" in out, (out, err)
    assert site.fence() == "on" and site.writable(site.a)
    assert site.m.write("fence", "off\n") == 0
    wait_for("off", lambda: site.fence() == "off")


def test_who_could_write_all_the_same_is_named_and_nothing_is_changed(site):
    privilege = "SUPER" if site.kind is MySQL else "READ ONLY ADMIN"
    site.a.query(f"GRANT {privilege} ON *.* TO app@'127.0.0.1'")
    try:
        code, out, err = site.run()
        assert code == 1 and "bad account: could write at A all the same: app@127.0.0.1 has" in out, (out, err)
        assert site.fence() == "off" and site.writable(site.a)
    finally:
        site.a.query(f"REVOKE {privilege} ON *.* FROM app@'127.0.0.1'")
        replication.catch_up(site.a, site.b)


def test_killed_while_b_catches_up_the_daemon_keeps_the_fence_and_abort_takes_it_down(site):
    site.killed_while_b_catches_up()
    site.a.kill()
    os.kill(int(site.m.status()["pid"]), signal.SIGKILL)
    site.a.start()
    refused(site.a)
    wait_for("the next daemon's look", lambda: site.fence() == "on")
    args = ("abort", "--from", site.cnf(site.a))
    code, _, err = site.call(*args)  # by another way it is not opened
    assert code == 3 and f"was fenced by the stillfs of /run/stillfs/{site.m.name}" in err, err
    assert site.fence() == "on"
    code, _, err = site.call("abort")
    assert code == 0, err
    assert site.fence() == "off" and site.writable(site.a) and not site.writable(site.b)


def test_killed_while_b_catches_up_and_resumed_over_a_restart_of_the_whole_stillfs(site):
    site.killed_while_b_catches_up()
    site.a.kill()  # a MySQL that is asked to end waits for its replica
    site.m.stop()
    code, _, err = site.call("resume")
    assert code == 3 and "A IS STILL FENCED" in err and f"/run/stillfs/{site.m.name}/config" in err, err
    site.m.start()
    site.a.start()
    refused(site.a)
    wait_for("the look", lambda: site.fence() == "on")
    code, out, err = site.call("resume")  # it had been given up
    assert code == 1 and site.writable(site.a) and site.fence() == "off", (out, err)


def test_a_daemon_that_does_not_answer_is_not_waited_for(site):
    site.killed_while_b_catches_up()
    daemon, keeper = int(site.m.status()["pid"]), int(site.m.status()["keeper_pid"])
    for pid in (keeper, daemon):
        stop_process(pid)
    try:
        code, _, err = site.call("abort", "--timeout", "3")
        assert code == 3 and "the daemon does not answer" in err, err
    finally:
        for pid in (daemon, keeper):
            os.kill(pid, signal.SIGCONT)
    code, _, err = site.call("abort")
    assert code == 0 and site.writable(site.a) and site.fence() == "off", err


def test_a_daemon_with_the_request_in_its_hands_does_not_keep_the_command(site):
    """Who waits for it then cannot be killed. Nor can who writes to a filesystem that is frozen: the tree lies on one here."""
    with contextlib.ExitStack() as stack:
        other = Scratch(size_mb=330)
        stack.callback(other.close)
        tree = other.fs / "tree"
        tree.mkdir()
        (tree / "config").write_text(site.m.read("config"))
        (tree / "fence").write_text("off\n")
        sides = site.sides()
        sides[1] = tree
        subprocess.run(["fsfreeze", "-f", other.fs], check=True)
        try:
            code, out, err = site.call(*sides, "--check", "--timeout", "3", within_s=60)
        finally:
            subprocess.run(["fsfreeze", "-u", other.fs], check=True)
        assert code == 1 and f"{tree}/fence: the daemon does not answer" in out + err, (out, err)


def test_ctrl_c_does_not_cut_a_control_file_short(site, tmp_path):
    """It goes to all of a terminal's foreground, and what is to be done with it is the command's to decide."""
    os.mkfifo(tmp_path / "config")  # whoever opens it waits
    sides = site.sides()
    sides[1] = tmp_path
    p = subprocess.Popen(site.argv(*sides, "--check", "--timeout", "3"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=site.env or None, start_new_session=True)
    try:
        children = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children")
        wait_for("somebody to open it", lambda: any("fifo" in pathlib.Path(f"/proc/{c}/wchan").read_text() or "wait_for_partner" in
                                                    pathlib.Path(f"/proc/{c}/wchan").read_text() for c in children.read_text().split()))
        os.killpg(p.pid, signal.SIGINT)
        out, err = p.communicate(timeout=60)
    finally:
        p.kill()
    assert f"{tmp_path}/config: the daemon does not answer" in out + err, (out, err)
