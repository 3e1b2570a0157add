"""provider=exec with the btrfs script of docs/examples on a loop image: a set from the point to its removal, a death while
it is pending, a hold that ends by itself when the script hangs; and stillctl provider-test."""

import errno
import os
import pathlib
import signal
import subprocess
import time

import pytest

from stillfs import STILLCTL, Scratch, is_gone, run, wait_for

EXAMPLE = pathlib.Path(__file__).parents[2] / "docs/examples/stillfs-btrfs"


@pytest.fixture
def scratch():
    s = Scratch(kind="btrfs")
    run("btrfs", "subvolume", "create", s.fs / "back")
    yield s
    s.close()


@pytest.fixture
def script(scratch):
    """A copy that a test can change; root's alone."""
    path = scratch.dir / "script"
    path.write_text(EXAMPLE.read_text())
    path.chmod(0o755)
    return path


@pytest.fixture
def btrfs(make_mount, scratch, script):
    def make(**options):
        return make_mount(provider="exec", exec__script=script, exec__option=f"dir={scratch.fs}/sets", **options)
    return make


def sets(scratch):
    where = scratch.fs / "sets"
    return sorted(p.name for p in where.iterdir()) if where.exists() else []


@pytest.mark.parametrize("args,words", [(("relative", "/b"), "not an absolute path of an executable: relative"),
                                        (("/bin/sh", "b"), "BACKING is not an absolute path: b"),
                                        (("/bin/sh", "/b", "novalue"), "an option is KEY=VALUE: novalue")])
def test_provider_test_called_wrongly_is_a_usage_error(args, words):
    r = subprocess.run([STILLCTL, "provider-test", *args], capture_output=True, text=True, timeout=60)
    assert r.returncode == 2 and words in r.stderr, r


def test_a_set_is_a_subvolume_of_its_point_and_goes_with_rmdir(btrfs, scratch):
    m = btrfs()
    (m.mnt / "before").write_text("1")
    assert m.write("snapshot", 'one tag=team:db description="nightly"\n') == 0, m.last_error()
    (m.mnt / "after").write_text("2")
    m.wait_state("one", "complete")
    clone = scratch.fs / "sets/one/0"
    assert (clone / "before").read_text() == "1" and not (clone / "after").exists()
    assert (clone / ".stillfs-position").read_text().startswith("set one\nid ")
    assert m.read("snapshots/one/volumes") == "1\n"
    assert m.write("snapshot", "two\n") == 0, m.last_error()
    m.wait_state("two", "complete")
    (m.control / "snapshots" / "one").rmdir()
    wait_for("the removal", lambda: sets(scratch) == ["two"])


def test_a_death_while_pending_is_followed_by_the_next_daemon(btrfs, script):
    m = btrfs(takeover="no")
    good = script.read_text()
    script.write_text(good.replace('return {"complete": True,', 'return {"complete": False,'))
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the keeper to end", lambda: is_gone(m.keeper), 15)
    m.start()
    assert m.state("one") == "pending"
    script.write_text(good)
    m.wait_state("one", "complete", 20)


def test_the_gate_opens_when_the_script_hangs_and_nothing_is_left(btrfs, scratch, script):
    m = btrfs(gate_timeout=2)
    good = script.read_text()
    script.write_text(good.replace("    def trigger(self):\n", "    def trigger(self):\n        import time; time.sleep(60)\n"))
    began = time.monotonic()
    assert m.write("snapshot", "one\n") == errno.ETIMEDOUT
    assert time.monotonic() - began < 30
    (m.mnt / "f").write_text("flows")
    assert "trigger had not ended after" in m.read("snapshots/one/last_error") and m.gate() == "open"
    assert float(m.read("snapshots/one/hold_ms")) < 2500
    wait_for("the removal", lambda: sets(scratch) == [])


def test_what_cannot_work_is_refused_with_the_scripts_words(btrfs, scratch):
    m = btrfs()
    (scratch.fs / "sets" / "one").mkdir(parents=True)
    assert m.write("snapshot", "one\n") == errno.EIO
    assert "exists already and belongs to no set; move it away" in m.last_error()["message"]
    assert m.state("one") == "failed" and sets(scratch) == ["one"]


def test_options_are_checked_at_the_start(make_mount, scratch, script):
    for path, says in (("/nonexistent", "exec.script /nonexistent: No such file"), ("", "expected an absolute path")):
        m = make_mount(start=False, provider="exec", exec__script=path)
        r = m.try_start()
        assert r.returncode == 1 and says in r.stderr
    script.chmod(0o757)
    r = make_mount(start=False, provider="exec", exec__script=script).try_start()
    assert r.returncode == 1 and "others than root may change it" in r.stderr


def provider_test(script, scratch):
    return subprocess.run([STILLCTL, "provider-test", script, scratch.fs / "back", f"dir={scratch.fs}/sets"], capture_output=True,
                          text=True, timeout=50)


def test_the_example_keeps_the_contract(scratch, script):
    r = provider_test(script, scratch)
    assert r.returncode == 0, r.stdout + r.stderr
    assert r.stdout.count("ok  ") == len(r.stdout.splitlines()) == 19 and sets(scratch) == []


def test_a_script_that_tells_less_or_what_is_not_so_is_noted(scratch, script):
    text = script.read_text()
    told = ', **self.read(path, "whose")'
    assert told in text
    script.write_text(text.replace(told, ""))
    r = provider_test(script, scratch)
    assert r.returncode == 0 and r.stdout.count("note    list does not tell lineage, origin and created") == 2, r.stdout
    script.write_text(text.replace('("lineage", "origin", "class")', '("lineage", "class")'))
    r = provider_test(script, scratch)
    assert r.returncode == 1 and "FAILED  list tells lineage, origin and created of a set that is complete" in r.stdout


@pytest.mark.parametrize("old,new,says", [
    ("fail(FOREIGN,", "fail(0,", "remove with another id: 65"),
    ("            return {}\n        for n", "            fail(1, 'none')\n        for n", "remove of a set that is not there: 0"),
    ('"complete": True', '"done": True', "poll until complete"),
    ('return {"sets": out}', 'return {"list": out}', "list shows it as complete"),
    ("fail(NOT_THERE,", "fail(1,", "poll of a set that is not there: 66"),
])
def test_a_script_that_breaks_the_contract_is_told_where(scratch, script, old, new, says):
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    r = provider_test(script, scratch)
    assert r.returncode == 1
    assert f"FAILED  {says}" in r.stdout
