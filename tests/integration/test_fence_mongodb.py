"""The fence of a MongoDB: step down and freeze, looked after and taken away, against scripted members of a set; nothing here has
met a real mongod."""

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time

import pytest

import fences
import mongoset
from fence_site import Site, prepare_opened
from fences import READ_ONLY, insert, settings
from mongod import Mongod
from stillfs import STILLCTL, Mount, is_gone, wait_for

A, B, C = 0, 1, 2  # C is the favourite of the set's election
CHANGES = ("replSetStepDown", "replSetFreeze")


class Mongo(Site):
    """A stillfs whose database is the member A."""

    def __init__(self, scratch, stack, n=3, env=None, **options):
        self.kind, self.scratch = "mongodb", scratch
        self.rs = mongoset.Set(scratch.dir, n)
        stack.callback(self.rs.close)
        self.a = self.rs.members[A]
        self.m = Mount(scratch, env=env, **{"provider": "null", "db": "mongodb", "db__mongodb_uri_file": self.rs.files[A], **options})
        stack.callback(self.m.close)

    def sent(self, which=A):
        return [c for c in self.rs.members[which].calls if c in CHANGES]

    def frozen(self):
        return [m.which for m in self.rs.members if m.frozen > time.monotonic()]

    def alone(self):
        """Nobody else is there; as if A were a majority by itself."""
        self.rs.fail(B, C)

    def refused(self, words):
        self.write("on\n")
        wait_for("the refusal", lambda: self.value("error"), 60)
        self.wait("off")
        assert words in self.value("error"), self.value("error")
        assert not self.journal() and self.frozen() == [] and self.m.status()["fence"] == "off"
        assert words in self.m.last_error()["message"]


@pytest.fixture
def stack():
    with contextlib.ExitStack() as s:
        yield s


@pytest.fixture
def make(scratch, stack):
    return lambda **options: Mongo(scratch, stack, **options)


@pytest.fixture
def site(make):
    return make()


# ---- up and down ----

def test_a_primary_steps_down_and_is_kept_from_being_elected(site):
    seen = []
    site.a.hears = lambda c: next(iter(c)) in CHANGES and seen.append((next(iter(c)), site.journal()))
    assert site.fence() == ("off", [])
    site.on()
    assert [s[0] for s in seen] == ["replSetStepDown", "replSetFreeze"]
    assert "want on\n" in seen[0][1] and f"server mongodb rs0 {site.rs.id} 0\n" in seen[0][1] and "done" not in seen[0][1]
    assert "done yes\n" in site.journal() and "was primary\n" in site.journal()
    wait_for("another primary", lambda: site.rs.primary() == C)
    site.alone()  # nobody else could be elected now
    wait_for("looks", lambda: site.a.calls[-3:] == ["hello"] * 3)
    assert site.a.elected == 0 and site.frozen() == [A]
    assert "does not make it the primary" in site.value("note")
    assert (site.value("refused"), site.value("denied"), site.value("renewed"), site.value("ended")) == ("-", "-", "0", "0")
    assert site.m.status()["fence"] == "on" and f'stillfs_fence_verified{{name="{site.m.name}"}} 1\n' in site.m.read("metrics")
    site.off()
    assert site.sent() == ["replSetStepDown", "replSetFreeze", "replSetFreeze"] and site.frozen() == []
    assert not site.journal() and site.events() == ["on", "off"]
    wait_for("that it can be elected again", lambda: site.rs.primary() == A)
    for which in (B, C):
        assert site.sent(which) == []


def test_a_secondary_is_frozen_and_no_more(make):
    site = make()
    site.a.role, site.rs.members[B].role = "secondary", "primary"
    site.on()
    assert site.sent() == ["replSetFreeze"] and "was secondary\n" in site.journal()
    assert site.value("note") is None and site.rs.primary() == B
    site.off()
    assert site.sent() == ["replSetFreeze"] * 2 and site.frozen() == []


def test_stillctl_waits_and_says_what_came_of_it(site):
    def ctl(*words):
        return subprocess.run([STILLCTL, "-n", site.m.name, "fence", *words], capture_output=True, text=True, timeout=90)
    out = ctl("check")
    assert (out.returncode, out.stdout) == (0, "check ok\n") and site.sent() == []
    out = ctl("on")
    assert out.returncode == 0 and out.stdout.startswith("on\n") and site.frozen() == [A]
    assert ctl("retire").returncode == 0
    out = ctl("off")
    assert out.returncode == 1 and "retired" in out.stderr and site.frozen() == [A]
    assert ctl("off", "force").returncode == 0 and site.frozen() == []
    site.a.more["arbiterOnly"] = True
    out = ctl("check")
    assert out.returncode == 1 and "is an arbiter" in out.stdout
    out = ctl("on")
    assert out.returncode == 1 and "is an arbiter" in out.stderr


# ---- it does not end by itself ----

def test_it_is_renewed_long_before_it_ends(make):
    site = make(fence__mongodb_freeze=10)
    site.on()
    site.alone()
    wait_for("renewals", lambda: len(site.a.left) > 4, 60)
    assert min(site.a.left[1:]) > 5 and site.a.elected == 0
    assert site.value("renewed") == "0" and site.fence()[0] == "on" and site.sent()[2:] == ["replSetFreeze"] * (len(site.sent()) - 2)


@pytest.mark.parametrize("down_s", [0, 2.5])
def test_a_restarted_server_is_frozen_again(site, down_s):
    site.on()
    site.rs.fail(B, C)
    site.a.restart(down_s, role="recovering")
    if down_s:
        wait_for("that it is missed", lambda: "unreachable" in site.events(), 30)
    wait_for("the freeze", lambda: site.frozen() == [A], 30)
    site.a.role = "secondary"
    site.rs.elect()
    site.wait("on")
    assert site.value("renewed") == "0" and site.a.elected == 0


def test_one_that_was_elected_all_the_same_steps_down_again(site):
    site.on()
    wait_for("another primary", lambda: site.rs.primary() == C)
    site.a.frozen = 0  # rs.freeze(0) by somebody
    site.rs.members[C].role, site.a.role = "secondary", "primary"
    wait_for("the look", lambda: site.value("renewed") == "1" and site.fence()[0] == "on", 30)
    assert site.a.role == "secondary" and site.frozen() == [A]
    assert [e for e in site.events() if e != "on"] == ["lost", "renewed"]
    site.a.frozen, site.a.role = 0, "primary"
    site.alone()
    site.wait("on half")  # nobody to hand it to
    assert "is the primary still" in site.value("error") and "No electable" in site.value("error")
    site.rs.members[C].up = True
    site.wait("on")
    assert site.a.role == "secondary" and site.frozen() == [A]
    site.off()


def test_it_outlives_the_daemon_and_the_whole_stillfs(site):
    site.on()
    since, daemon = site.value("since"), int(site.m.status()["pid"])
    os.kill(daemon, signal.SIGKILL)
    wait_for("the next daemon", lambda: int(site.m.status()["pid"]) != daemon, 30)
    site.wait("on")
    assert site.value("since") == since and site.sent().count("replSetStepDown") == 1
    site.m.stop()
    assert site.frozen() == [A]
    site.a.frozen = 0
    site.m.start()
    site.wait("on")
    assert site.value("since") == since and site.frozen() == [A]
    site.off()
    assert site.frozen() == [] and not site.journal()


def test_a_server_restarted_as_a_standalone_is_reported_and_cannot_be_fenced(site):
    site.on()
    site.a.set_name = None
    site.a.restart(role="standalone")
    site.wait("on lost")
    assert "standalone" in site.value("error") and site.value("renewed") == "0"
    assert f'stillfs_fence_verified{{name="{site.m.name}"}} 0\n' in site.m.read("metrics")
    assert site.events()[-1] == "lost"
    site.a.set_name = "rs0"
    site.a.restart()
    site.wait("on")
    assert site.frozen() == [A]
    site.a.set_name = None
    site.a.restart(role="standalone")
    site.off()  # it has forgotten all there was
    assert not site.journal()


# ---- what cannot be done ----

def spoil(site, how):
    a, b, c = site.rs.members
    match how:
        case "standalone":
            a.set_name, a.role = None, "standalone"
        case "mongos":
            a.role = "mongos"
        case "arbiter":
            a.more["arbiterOnly"] = True
        case "only one":
            b.priority, c.more["arbiterOnly"] = 0, True
        case "all down":
            b.up = c.up = False
        case "lag":
            b.lag_s = c.lag_s = 3
        case "no set yet":
            a.set_name, a.role = None, "recovering"
            hello = a.hello
            a.hello = lambda: {**{k: v for k, v in hello().items() if k not in ("setName", "hosts", "me")}, "isreplicaset": True}
        case "action":
            a.faults["auth"] = {"authenticatedUsers": [{"user": "u", "db": "admin"}],
                                "authenticatedUserPrivileges": [{"actions": ["replSetGetStatus", "replSetGetConfig"]}]}
        case "command":
            a.faults["replSetStepDown"] = {"times": 100, **mongoset.NOT_AUTHORIZED}
        case "state":
            a.faults["replSetGetStatus"] = {"times": 100, **mongoset.NOT_AUTHORIZED}
        case "uri":
            site.rs.files[A].chmod(0o644)
        case "down":
            a.up = False


@pytest.mark.parametrize("how, words, stepped", [
    ("standalone", "runs standalone", 0), ("mongos", "leads to a mongos", 0), ("arbiter", "is an arbiter", 0),
    ("only one", "no other member of the set rs0 can be elected", 0), ("all down", "is healthy", 0),
    ("lag", "No electable secondaries caught up", 1), ("no set yet", "no configuration of its replica set", 0),
    ("action", "lacks on the cluster: replSetStateChange: db.grantRolesToUser(USER, [{role: \"clusterManager\"", 0),
    ("command", "give the account the roles clusterManager", 1), ("state", "give the account the roles clusterManager", 0),
    ("uri", "chmod 600", 0), ("down", "ask MongoDB for its role", 0)])
def test_what_cannot_be_fenced_is_refused_with_a_sentence_and_nothing_is_changed(site, how, words, stepped):
    spoil(site, how)
    role = site.a.role
    site.refused(words)
    assert site.a.role == role and site.sent() == ["replSetStepDown"] * stepped


def test_a_secondary_can_be_frozen_while_the_others_are_down(site):
    site.a.role = "secondary"
    site.a.frozen = time.monotonic() + 3600
    site.alone()
    site.a.frozen = 0
    site.on()
    assert site.sent() == ["replSetFreeze"]


def test_a_single_mongod_of_its_own_process_is_refused(make_mount, scratch):
    db = Mongod(scratch.dir, "/data/db").start()
    try:
        m = make_mount(provider="null", db="mongodb", db__mongodb_uri_file=db.uri_file)
        out = subprocess.run([STILLCTL, "-n", m.name, "fence", "on"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and "runs standalone" in out.stderr and "on hard" in out.stderr
        assert "replSetStepDown" not in db.calls() and "replSetFreeze" not in db.calls()
    finally:
        db.kill()


def test_another_server_than_the_one_that_was_fenced_is_let_be(site, scratch):
    site.on()
    (scratch.dir / "other").mkdir()
    other = mongoset.Set(scratch.dir / "other")
    mine = site.rs.files[A].read_text()
    try:
        site.rs.files[A].write_text(f"mongodb://{other.members[A].host}/\n")
        site.a.restart(0.5)  # the connection ends: the file is read anew
        site.a.up = False
        site.wait("on unreachable")
        wait_for("that it is seen", lambda: "and the record is of mongodb rs0" in (site.value("error") or ""), 30)
        assert "nothing was changed" in site.value("error")
        site.write("off\n")
        wait_for("that it is seen", lambda: "and the record is of mongodb rs0" in (site.value("error") or ""), 30)
        assert site.fence()[0] == "turning off" and site.journal()
        assert not [c for c in other.members[A].calls if c in CHANGES]
    finally:
        site.rs.files[A].write_text(mine)
        other.close()
    site.a.up = True
    site.wait("off")


def test_a_database_more_or_less_in_the_configuration_is_told(site):
    site.on()
    site.m.stop()
    options = dict(site.m.options)
    site.m.options["db"] = "none"
    out = site.m.try_start()
    assert out.returncode != 0 and "take the fence down first" in out.stderr + site.m.log()
    site.m.options.update(db="mysql+mongodb")
    site.m.start()
    wait_for("that it is told", lambda: "has nothing of" in (site.value("error") or ""), 30)
    site.write("off\n")
    wait_for("that it is told", lambda: site.fence()[0] == "turning off" and "has nothing of" in (site.value("error") or ""), 30)
    site.m.stop()
    site.m.options.update(options)
    site.m.start()
    site.wait("off")
    assert site.frozen() == [] and not site.journal()


# ---- answers that do not come ----

@pytest.mark.parametrize("mode", ["drop", "refuse"])
@pytest.mark.parametrize("command", ["replSetStepDown", "replSetFreeze"])
def test_an_answer_lost_on_the_way_up(site, command, mode):
    site.a.faults[command] = {"mode": mode}
    site.write("on\n")
    site.wait("on")
    assert site.a.role == "secondary" and site.frozen() == [A] and site.value("error") is None
    assert (site.events() == ["on"]) == ((command, mode) == ("replSetStepDown", "drop"))  # else half before
    wait_for("another primary", lambda: site.rs.primary() == C)
    site.off()
    assert site.frozen() == [] and not site.journal()


@pytest.mark.parametrize("mode", ["drop", "refuse"])
def test_an_answer_lost_on_the_way_down(site, mode):
    site.on()
    site.a.faults["replSetFreeze"] = {"mode": mode}
    site.off()
    assert site.frozen() == [] and not site.journal()


def test_off_while_a_step_down_waits_for_a_secondary(make):
    site = make()
    waits = threading.Event()
    site.a.hears = lambda c: next(iter(c)) == "replSetStepDown" and waits.set()
    for m in site.rs.members[1:]:
        m.lag_s = 3
    site.write("on\n")
    assert waits.wait(30)
    site.write("off\n")
    site.wait("off")
    assert site.a.role == "primary" and site.frozen() == [] and not site.journal()


def test_a_server_that_hangs_holds_up_nothing_else(site):
    site.on()
    site.a.hung.set()
    site.wait("on unreachable")
    begin = time.monotonic()
    for i in range(3):  # looked for each second, in between the engine does what it is asked
        assert site.m.write("snapshot", f"s{i}\n") != 0
        assert site.m.gate() == "open"
    assert time.monotonic() - begin < 60
    site.write("off\n")
    wait_for("that it is told", lambda: site.value("error"), 60)
    assert site.fence()[0] == "turning off" and site.journal()
    site.write("on\n", errno.EBUSY)
    site.a.hung.clear()
    site.wait("off")
    assert site.frozen() == [] and not site.journal()


def test_one_that_hangs_at_the_step_down_is_bounded_and_gone_on_with(site):
    heard = threading.Event()

    def hears(command):
        if next(iter(command)) == "replSetStepDown" and not heard.is_set():
            heard.set()
            site.a.hung.set()
            while site.a.hung.is_set():
                time.sleep(0.01)
    site.a.hears = hears
    site.write("on\n")
    assert heard.wait(30)
    site.wait("on half")
    assert site.value("error") and "want on\n" in site.journal()
    site.a.hung.clear()
    site.wait("on")
    assert site.a.role == "secondary" and site.frozen() == [A]
    site.off()


def test_a_stop_while_the_server_hangs(site):
    site.on()
    site.a.hung.set()
    site.wait("on unreachable")
    keeper = site.m.keeper
    site.m.stop(60)
    assert is_gone(keeper) and "want on\n" in site.journal()
    site.a.hung.clear()
    site.m.start()
    site.wait("on")


# ---- both under one mount ----

@pytest.fixture
def both(request, scratch, stack):
    d = scratch.dir / "server"
    site = Mongo(scratch, stack, db="mysql+mongodb", db__socket=d / "sock", db__defaults_file=d / "stillfs.cnf",
                 fence__allow="root@localhost", fence__mariadb_include=d / "conf.d")
    site.server = fences.make(getattr(request, "param", "mariadb"), scratch.dir, site.m.mnt)
    stack.callback(site.server.close)
    site.server.defaults("stillfs")
    site.before = settings(site.server)
    return site


def test_two_databases_are_fenced_together_or_not_at_all(both):
    site = both
    site.on()
    assert insert(site.server) == READ_ONLY and site.frozen() == [A]
    assert "mongodb.server mongodb rs0 " in site.journal() and "mysql.read_only OFF\n" in site.journal()
    assert site.journal().count("\ndone yes\n") == 1
    daemon = int(site.m.status()["pid"])
    os.kill(daemon, signal.SIGKILL)
    wait_for("the next daemon", lambda: int(site.m.status()["pid"]) != daemon, 30)
    site.wait("on")
    reader = site.server.connect("app", user="app")
    site.a.frozen, site.a.role, site.rs.members[C].role = 0, "primary", "secondary"
    wait_for("the look", lambda: site.value("renewed") == "1" and site.fence()[0] == "on", 30)
    assert reader.cursor().execute("SELECT 1") and site.frozen() == [A]  # the MariaDB's was let be
    site.server.query("SET GLOBAL read_only=OFF")
    wait_for("the look", lambda: site.value("renewed") == "2" and site.fence()[0] == "on", 30)
    assert insert(site.server) == READ_ONLY
    site.a.hung.set()
    site.wait("on unreachable")
    site.server.query("SET GLOBAL read_only=OFF")  # one that hangs does not keep the other open
    wait_for("the other's", lambda: insert(site.server) == READ_ONLY, 60)
    site.a.hung.clear()
    site.wait("on")
    site.off()
    assert insert(site.server) == 0 and site.frozen() == [] and settings(site.server) == site.before and not site.journal()


@pytest.mark.parametrize("both", ["mysql"], indirect=True)
def test_one_of_two_whose_renewal_fails_keeps_both_half(both):
    site = both
    site.on()
    prepare_opened(site.server, "since")
    site.wait("on half")
    seen, end = set(), time.monotonic() + 7  # it is tried again each 5 s
    while time.monotonic() < end:
        seen.add((site.fence()[0], "prepared XA transaction" in (site.value("error") or ""), "\ndone yes\n" in site.journal()))
        time.sleep(0.05)
    assert seen == {("on half", True, False)} and site.frozen() == [A]
    site.server.query("XA ROLLBACK 'since'")
    site.wait("on")
    assert site.journal().count("\ndone yes\n") == 1
    site.off()


def test_one_of_two_that_is_refused_leaves_the_other_as_it_was(both):
    site = both
    site.a.more["arbiterOnly"] = True
    site.refused("is an arbiter")
    del site.a.more["arbiterOnly"]
    assert settings(site.server) == site.before and insert(site.server) == 0
    site.server.query("CREATE USER writer@localhost")
    site.server.query("GRANT READ_ONLY ADMIN ON *.* TO writer@localhost")
    site.refused("writer@localhost")
    assert site.sent() == []
    site.server.query("DROP USER writer@localhost")
    site.server.include.rename(site.server.include.with_name("away"))  # no look beforehand sees that
    site.refused("conf.d")
    assert site.sent()[0] == "replSetStepDown" and site.frozen() == [] and insert(site.server) == 0
    site.server.include.with_name("away").rename(site.server.include)
    assert settings(site.server) == site.before
