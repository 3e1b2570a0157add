"""The change of a replica set's primary, by itself and as stillfs-cutover does it, against scripted mongods: nothing here has
met real ones."""

import os
import signal
import subprocess
import threading
import time

import pytest

import mongoset
from stillfs import BUILD

A, B, C = 0, 1, 2  # C is the favourite of the set's election


@pytest.fixture
def rs(tmp_path):
    s = mongoset.Set(tmp_path)
    yield s
    s.close()


def drive(s, what="run", a=A, b=B, lag=10, catch_up=5, elect=20, fail=""):
    """(outcome, its sentence, the lines before it)."""
    p = subprocess.run([BUILD / "tests/unit/snapshot/drive_mongo_cut", what, s.files[a], s.files[b], str(lag), str(catch_up),
                        str(elect), fail], stdout=subprocess.PIPE, text=True, timeout=110, check=True)
    lines = p.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("outcome "))
    return lines[at].split()[1], "\n".join(lines[at + 1:]), lines[:at]


def notes(lines):
    return [line.split()[1] for line in lines if line.startswith("note ")]


def frozen(s):
    return [m.which for m in s.members if m.frozen > time.monotonic()]


def test_the_named_member_becomes_the_primary_though_another_is_the_favourite(rs):
    outcome, error, lines = drive(rs)
    assert (outcome, error) == ("done", "")
    assert notes(lines) == ["freezing", "sending", "open"]
    assert rs.primary() == B
    assert frozen(rs) == [A]  # by its step down; the favourite may stand again
    order = [c for c in rs.members[C].calls if c == "replSetFreeze"]
    assert len(order) == 2 and "replSetStepDown" in rs.members[A].calls
    assert drive(rs, "look") == ("done", "", [])


def test_a_check_changes_nothing_and_names_who_is_kept_from_standing(rs):
    outcome, error, lines = drive(rs, "check")
    assert error == "" and rs.primary() == A and frozen(rs) == []
    assert f"ok rival: {rs.members[C].host} will be kept from standing for election" in lines
    assert not [c for m in rs.members for c in m.calls if c in ("replSetFreeze", "replSetStepDown")]


def spoil(s, how):
    a, b, c = s.members
    match how:
        case "lag":
            b.lag_s = 11
        case "priority":
            c.priority = 2
        case "zero":
            b.priority = 0
        case "arbiter":
            b.more["arbiterOnly"] = True
        case "delayed":
            b.more["secondaryDelaySecs"] = 3600
        case "down":
            b.role = "recovering"
        case "rival":
            c.serve = lambda command: None  # answers nobody, though the set believes in it
        case "set":
            b.set_name = "rs1"
        case "mongos":
            b.role = "mongos"
        case "action":
            a.faults["replSetGetConfig"] = {"mode": "error", "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized"}


@pytest.mark.parametrize("how, words", [
    ("lag", "11.0 s behind, more than --max-lag 10"), ("priority", "has priority 2, 127.0.0.1:"), ("zero", "priority 0"),
    ("arbiter", "an arbiter"), ("delayed", "3600 s behind by its configuration"), ("down", "no healthy secondary"),
    ("rival", "could be elected instead, and cannot be told not to"), ("set", "of the set rs0, --to of rs1"),
    ("mongos", "--to is a mongos"), ("action", "give the account the roles clusterManager and clusterMonitor")])
def test_what_forbids_it_is_named_and_nothing_is_changed(rs, how, words):
    spoil(rs, how)
    outcome, error, lines = drive(rs)
    assert outcome == "refused" and words in error + "\n".join(lines), (error, lines)
    assert notes(lines) == [] and rs.primary() == A and frozen(rs) == []


def test_wrong_sides_are_refused(rs):
    assert "is not it: name the primary" in drive(rs, a=B, b=C)[1]
    assert "the same member" in drive(rs, b=A)[1]
    rs.files[B].write_text("mysql://x\n")
    assert "no MongoDB URI" in drive(rs)[1]
    rs.files[B].chmod(0o644)
    assert "chmod 600" in drive(rs)[1]


def test_without_a_majority_it_is_refused(tmp_path):
    s = mongoset.Set(tmp_path, 5)
    try:
        for m in s.members[2:]:
            m.up = False
        outcome, error, lines = drive(s)
        assert outcome == "refused" and "only 2 of 5 votes" in error
        assert len([line for line in lines if line.startswith("warn ")]) == 3
    finally:
        s.close()


def test_a_secondary_that_does_not_catch_up_leaves_the_primary(rs):
    rs.members[B].lag_s = 3
    rs.members[C].lag_s = 3
    outcome, error, lines = drive(rs, catch_up=1)
    assert outcome == "stayed" and "No electable secondaries" in error and "stays the primary" in error
    assert notes(lines) == ["freezing", "sending", "end"] and rs.primary() == A and frozen(rs) == []


def test_the_answer_of_the_step_down_may_be_lost(rs):
    rs.members[A].faults["replSetStepDown"] = {"mode": "drop"}
    assert drive(rs)[0] == "done" and rs.primary() == B


def test_a_step_down_that_never_arrived_leaves_the_primary_and_says_so(rs):
    rs.members[A].faults["replSetStepDown"] = {"mode": "refuse", "times": 9}
    outcome, error, lines = drive(rs, catch_up=1, elect=1)
    assert outcome == "stayed" and "is the primary still" in error
    assert rs.primary() == A and frozen(rs) == []


def test_a_freeze_that_is_refused_ends_it_before_the_step_down(rs):
    rs.members[C].faults["replSetFreeze"] = {"mode": "error", "code": 1, "codeName": "x", "errmsg": "no", "times": 1}
    outcome, error, lines = drive(rs)
    assert outcome == "stayed" and "replSetFreeze: no" in error
    assert "replSetStepDown" not in rs.members[A].calls and frozen(rs) == []


@pytest.mark.parametrize("fail", ["freezing", "sending", "cancel"])
def test_a_full_journal_or_a_wish_to_stop_ends_it_before_the_step_down(rs, fail):
    outcome, error, lines = drive(rs, fail=fail)
    assert outcome == "stayed" and ("journal is full" in error or "interrupted" in error)
    assert "replSetStepDown" not in rs.members[A].calls and frozen(rs) == [] and rs.primary() == A


def test_another_that_is_elected_is_named(rs):
    c = rs.members[C]
    whole = c.answer
    c.answer = lambda command: {"ok": 1.0} if "replSetFreeze" in command else whole(command)  # it lies
    outcome, error, lines = drive(rs, elect=1)
    assert outcome == "other" and f"{c.host} was elected, not {rs.members[B].host}" in error
    assert notes(lines)[-1] == "end" and drive(rs, "look")[0] == "other"


def test_nobody_elected_is_told_and_all_may_stand_again(rs):
    rs.members[B].electable = lambda: False
    catch = threading.Event()
    rs.members[A].step_down = lambda command: (setattr(rs.members[A], "role", "secondary"), catch.set(), {"ok": 1.0})[2]
    outcome, error, lines = drive(rs, elect=1)
    assert outcome == "none" and "nobody is seen to be the primary" in error and catch.is_set()
    assert C not in frozen(rs)


def test_the_account_reaches_every_member_and_no_output(rs):
    secret = "s3cr%40t"
    for m, path in zip(rs.members, rs.files):
        path.write_text(f"mongodb://u:{secret}@{m.host}/?authMechanism=PLAIN\n")
    outcome, error, lines = drive(rs)
    assert outcome == "done" and "s3cr" not in error + "".join(lines)
    assert [m.login for m in rs.members] == [b"\0u\0s3cr@t"] * 3


# ---- the command ----

class Command:
    def __init__(self, s, directory):
        self.s, self.dir, self.process = s, directory, None
        self.hook = directory / "hook"
        self.hook.write_text(f"#!/bin/sh\necho \"$STILLFS_HOOK $STILLFS_FROM $STILLFS_TO\" >>{directory}/moved\n"
                             f"[ ! -e {directory}/broken ] || {{ echo no address; exit 3; }}\n")
        self.hook.chmod(0o755)

    def __call__(self, *args):
        """(exit code, stdout, stderr)"""
        self.process = subprocess.Popen([str(a) for a in (BUILD / "snapshot/stillfs-cutover", *args, "--journal", self.dir / "journal")],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = self.process.communicate(timeout=110)
        return self.process.returncode, out, err

    def run(self, *args):
        return self("--from", self.s.files[A], "--to", self.s.files[B], "--hook", self.hook, "--catch-up", 1, *args)

    def moved(self):
        f = self.dir / "moved"
        return f.read_text().splitlines() if f.exists() else []

    def state(self):
        code, out, err = self("status")
        assert code == 0, err
        return dict(line.split(" ", 1) for line in out.splitlines())

    def dies_at(self, which, command, before):
        """SIGKILL when that member is asked that, before or after it does it."""
        m = self.s.members[which]
        whole = m.answer

        def answer(asked):
            if next(iter(asked)) != command or self.process.poll() is not None:
                return whole(asked)
            reply = None if before else whole(asked)
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return reply
        m.answer = answer


@pytest.fixture
def command(rs, tmp_path):
    return Command(rs, tmp_path)


def test_the_command_runs_the_hook_once_and_tells_who_is_the_primary(rs, command):
    code, out, err = command.run()
    b = rs.members[B].host
    assert code == 0 and f"done: {b} is the primary of the set" in out, err
    assert command.moved() == [f"cutover {rs.members[A].host} {b}"]
    assert command.state()["state"] == "ended" and command.state()["primary"] == b
    code, out, err = command("resume")
    assert code == 1 and "no cut-over is under way" in err


def test_the_command_checks_without_a_journal(rs, command):
    code, out, err = command.run("--check")
    assert code == 0 and "ok lag:" in out and not (command.dir / "journal").exists()
    rs.members[C].priority = 3
    code, out, err = command.run("--check")
    assert code == 1 and "bad priority:" in out
    code, out, err = command.run()
    assert code == 1 and "bad priority:" in out and "nothing was changed" in err and rs.primary() == A
    assert command("resume")[0] == 1


@pytest.mark.parametrize("which, asked, before, primary", [
    (C, "replSetFreeze", True, A), (C, "replSetFreeze", False, A), (A, "replSetStepDown", True, A), (A, "replSetStepDown", False, B)])
def test_a_command_that_dies_is_taken_up_from_what_the_set_says(rs, command, which, asked, before, primary):
    command.dies_at(which, asked, before)
    assert command.run()[0] == -signal.SIGKILL
    code, out, err = command.run()
    assert code == 1 and "has not ended" in err
    code, out, err = command("resume")
    assert rs.primary() == primary
    assert (code, len(command.moved())) == ((0, 1) if primary == B else (1, 0)), err
    assert command.state()["state"] == "ended"


def test_abort_after_a_death_before_the_step_down(rs, command):
    command.dies_at(C, "replSetFreeze", False)
    assert command.run()[0] == -signal.SIGKILL
    code, out, err = command("abort")
    assert code == 0 and "is the primary still" in out and rs.primary() == A and command.state()["state"] == "ended"


def test_abort_after_the_change_is_refused(rs, command):
    (command.dir / "broken").touch()
    assert command.run()[0] == 4
    code, out, err = command("abort")
    assert code == 4 and "is the primary already" in err and command.state()["state"] == "begun"


def test_a_hook_that_fails_is_tried_again_or_left_out(rs, command):
    (command.dir / "broken").touch()
    code, out, err = command.run()
    assert code == 4 and "no address" in err and rs.primary() == B
    assert command("resume")[0] == 4 and len(command.moved()) == 2
    code, out, err = command("resume", "--skip-hook")
    assert code == 0 and len(command.moved()) == 2 and command.state()["state"] == "ended"


def test_nobody_seen_to_be_the_primary_is_resumed(rs, command):
    a, b, c = rs.members
    a.step_down = lambda asked: (setattr(a, "role", "secondary"), {"ok": 1.0})[1]  # and nobody is elected
    code, out, err = command.run()
    assert code == 3 and "nobody is seen to be the primary" in err and "then stillctl cutover resume" in err
    assert command.moved() == [] and command.state()["state"] == "begun"
    code, out, err = command.run()
    assert code == 1 and "has not ended" in err
    a.priority = c.priority = 0
    rs.elect()
    assert rs.primary() == B
    code, out, err = command("resume")
    assert code == 0 and f"done: {b.host} is the primary of the set" in out, err
    assert command.moved() == [f"cutover {a.host} {b.host}"] and command.state()["state"] == "ended"


def test_sides_of_two_kinds_and_words_of_the_other_kind_are_refused(rs, command):
    other = command.dir / "my.cnf"
    other.write_text("[client]\n")
    other.chmod(0o600)
    code, out, err = command("--from", rs.files[A], "--to", other)
    assert code == 2 and "--to does not" in err
    (command.dir / "broken").touch()
    assert command.run()[0] == 4
    code, out, err = command("resolve", "--writable", "B")
    assert code == 1 and "decides by itself" in err
