"""hook.pre, hook.locked, hook.post: order, environment, deadlines, failures, and the journal of the one that is due."""

import errno
import os
import signal
import time

import pytest

from stillfs import is_gone, process_state, wait_for


@pytest.fixture
def hook(scratch):
    """A function that writes an executable; each appends its word and environment to `calls`."""
    calls = scratch.dir / "calls"

    def make(word, body=""):
        path = scratch.dir / f"hook-{word}"
        path.write_text(f"#!/bin/sh\necho {word} $1 set=$STILLFS_SET result=$STILLFS_RESULT hook=$STILLFS_HOOK "
                        f"name=$STILLFS_NAME mnt=$STILLFS_MOUNTPOINTS back=$STILLFS_BACKINGS >>{calls}\n{body}\n")
        path.chmod(0o755)
        return path
    make.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    return make


def steps(m, name):
    return [line.split()[1] for line in m.read(f"snapshots/{name}/log").splitlines()]


def words(hook):
    return [line.split()[0] for line in hook.calls()]


def test_all_three_run_in_order_with_the_documented_environment(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook("pre"), hook__locked=hook("locked", "echo wal 0/16B3748"),
                   hook__post=hook("post"))
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    m.wait_state("one", "complete")
    common = f"name={m.name} mnt={m.mnt} back={m.back}"
    assert hook.calls() == [f"pre pre set=one result= hook=pre {common}",
                            f"locked locked set=one result= hook=locked {common}",
                            f"post post set=one result=ok hook=post {common}"]
    assert "hook.wal 0/16B3748" in m.read("snapshots/one/position").splitlines()
    order = steps(m, "one")
    assert order.index("prepared") < order.index("locked") < order.index("drained") < order.index("gate_open") \
        < order.index("finished")


def test_a_failed_pre_fails_the_set_with_its_last_line_and_post_runs(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook("pre", "echo first >&2; echo no room here >&2; exit 3"),
                   hook__post=hook("post"))
    assert m.write("snapshot", "one\n") == errno.EIO
    assert m.last_error()["message"].endswith("hook-pre ended with code 3: no room here")
    assert words(hook) == ["pre", "post"] and "result=5 " in hook.calls()[1]
    assert "trigger" not in steps(m, "one")
    m.scratch.dir.joinpath("hook-pre").write_text("#!/bin/sh\nexit 75\n")
    assert m.write("snapshot", "two\n") == errno.EAGAIN


def test_locked_is_killed_after_a_second_with_its_children(make_mount, hook):
    pid = hook("pre").parent / "pid"
    m = make_mount(provider="null", hook__locked=hook("locked", f"sleep 600 & echo $! >{pid}; wait"))
    start = time.monotonic()
    assert m.write("snapshot", "one\n") == errno.ETIMEDOUT
    assert time.monotonic() - start < 60
    assert "had not ended after 1000 ms and was killed" in m.last_error()["message"]
    wait_for("the end of its child", lambda: is_gone(int(pid.read_text())))
    assert m.gate() == "open"


def test_a_failed_post_leaves_the_set_good_and_is_tried_again_at_the_next_start(make_mount, hook):
    flag = hook("pre").parent / "flag"
    m = make_mount(provider="null", hook__post=hook("post", f"test -e {flag} || exit 1"))
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    m.wait_state("one", "complete")
    assert m.last_error()["message"].endswith("hook-post ended with code 1")
    flag.touch()
    m.stop()
    m.start()
    wait_for("the second try", lambda: len(hook.calls()) == 2)
    assert "set=one result=unknown" in hook.calls()[1]
    wait_for("the journal's end", lambda: not list((m.dir / "state").glob("db-*.journal")))


def test_a_post_that_is_due_is_not_lost_behind_the_next_run(make_mount, hook):
    flag = hook("pre").parent / "flag"
    journal = lambda: (m.dir / "state" / "db-hook.journal").read_text().split()  # noqa: E731
    m = make_mount(provider="null", hook__pre=hook("pre"), hook__post=hook("post", f"test -e {flag} || exit 1"))
    for name, due in (("one", ["one"]), ("two", ["one", "two"])):
        assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
        m.wait_state(name, "complete")
        assert journal() == due
    assert [c.split()[2:4] for c in hook.calls() if c.startswith("post")] == [
        ["set=one", "result=ok"], ["set=one", "result=unknown"], ["set=two", "result=ok"]]
    flag.touch()
    assert m.write("snapshot", "three\n") == 0, m.last_error()
    wait_for("the journal's end", lambda: not list((m.dir / "state").glob("db-*.journal")))
    assert [c.split()[0:4:2] for c in hook.calls()[-4:]] == [["post", "set=one"], ["post", "set=two"], ["pre", "set=three"], ["post", "set=three"]]


def test_a_post_that_always_fails_is_due_for_the_newest_sets_alone(make_mount, hook):
    """What is due must not grow for as long as nobody looks, nor keep a snapshot waiting once it is mended."""
    flag = hook("pre").parent / "flag"
    m = make_mount(provider="null", hook__pre=hook("pre"), hook__post=hook("post", f"test -e {flag} || exit 1"))
    names = [f"s{i}" for i in range(20)]
    for name in names:
        assert m.write("snapshot", f"{name}\n") == 0, m.last_error()
        m.wait_state(name, "complete")
    assert (m.dir / "state" / "db-hook.journal").read_text().split() == names[-16:]
    assert "hook.post: s3 has been due for too long, and is given up" in (m.dir / "log").read_text()
    before = len(hook.calls())
    flag.touch()
    assert m.write("snapshot", "last\n") == 0, m.last_error()
    wait_for("the journal's end", lambda: not list((m.dir / "state").glob("db-*.journal")))
    assert [c.split()[2] for c in hook.calls()[before:] if c.startswith("post")] == [f"set={n}" for n in [*names[-16:], "last"]]


def test_post_runs_after_the_death_of_the_daemon_in_the_hold(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook("pre"), hook__post=hook("post"))
    m.null("trigger hang\n")
    pid = os.fork()
    if pid == 0:
        m.write("snapshot", "one\n")
        os._exit(0)
    wait_for("the hold", lambda: m.gate() == "closed")
    os.kill(m.daemon, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for("hook.post by the new daemon", lambda: words(hook) == ["pre", "post"])
    assert "set=one result=unknown" in hook.calls()[1]
    m.daemon = int(wait_for("status", lambda: m.status().get("pid")))
    assert process_state(m.daemon) != ""


def test_an_abort_ends_a_hook_that_hangs(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook("pre", "sleep 600"), hook__timeout=200)
    assert m.write("snapshot", "one nowait\n") == 0
    wait_for("the hook", lambda: words(hook) == ["pre"])
    start = time.monotonic()
    assert m.write("abort", "now\n") == 0
    m.wait_state("one", "failed")
    assert time.monotonic() - start < 60  # it would last ten minutes


@pytest.mark.parametrize("mode,code,says", [(0o644, errno.EACCES, "chmod +x"), (0o777, errno.EPERM, "chmod go-w")])
def test_a_file_that_is_no_safe_executable_is_refused(make_mount, hook, mode, code, says):
    path = hook("pre")
    path.chmod(mode)
    m = make_mount(provider="null", hook__pre=path)
    assert m.write("snapshot", "one\n") == code
    assert says in m.last_error()["message"]
    assert not hook.calls()


def test_output_that_is_no_position_fails_the_set(make_mount, hook):
    m = make_mount(provider="null", hook__locked=hook("locked", "echo 'Not A Key'"))
    assert m.write("snapshot", "one\n") == errno.EINVAL
    assert "lines of KEY VALUE" in m.last_error()["message"]


@pytest.mark.parametrize("length,code", [(4095, 0), (4096, errno.EMSGSIZE)])
def test_a_position_is_recorded_whole_or_not_at_all(make_mount, hook, length, code):
    lines = f"wal 0/16B3748\nlast {'9' * (length - len('wal 0/16B3748') - 7)}\n"
    (hook("pre").parent / "position").write_text(lines)
    assert len(lines) == length
    m = make_mount(provider="null", hook__locked=hook("locked", f"cat {hook('pre').parent / 'position'}"))
    assert m.write("snapshot", "one\n") == code
    if code:
        assert m.last_error()["message"] == "hook.locked: it wrote more than 4095 bytes, which a position may not have; print less"
        assert "hook." not in m.read("snapshots/one/position") and m.gate() == "open"
        return
    m.wait_state("one", "complete")
    assert [s for s in m.read("snapshots/one/position").splitlines() if s.startswith("hook.")] == [f"hook.{s}" for s in lines.splitlines()]


def test_a_hook_may_say_more_than_a_pipe_holds_and_its_last_line_counts(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook("pre", "set -e\nhead -c 300000 /dev/zero\nhead -c 300000 /dev/zero >&2\n"
                                                   "echo >&2; echo no room here >&2; exit 3"))
    assert m.write("snapshot", "one\n") == errno.EIO
    assert m.last_error()["message"].endswith("hook-pre ended with code 3: no room here")
