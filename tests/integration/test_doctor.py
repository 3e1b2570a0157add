"""stillctl doctor: everything that a snapshot looks at before it begins, each finding a line, and nothing is left behind."""

import errno
import os
import stat
import subprocess

import pytest

from stillfs import STILLCTL, wait_for

SCRIPT = """#!/bin/sh
echo "$1" >>{log}
case $1 in preflight) {body} ;; esac
echo '{{}}'
"""


def doctor(m):
    r = subprocess.run([STILLCTL, "-n", m.name, "doctor"], capture_output=True, text=True, timeout=120)
    assert r.stderr == ""
    return r.returncode, [line for line in r.stdout.splitlines() if " kernel: " not in line]


@pytest.fixture
def hook(scratch):
    path = scratch.dir / "hook"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def script(scratch):
    def make(body):
        path = scratch.dir / "script"
        path.write_text(SCRIPT.format(log=scratch.dir / "verbs", body=body))
        path.chmod(stat.S_IRWXU)
        return path
    make.verbs = lambda: (scratch.dir / "verbs").read_text().split() if (scratch.dir / "verbs").exists() else []
    return make


def free(line):
    """Without the number, which moves."""
    return line.split(": ")[0] if line.startswith("ok backing ") else line


def test_all_is_well_and_nothing_is_taken(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook, hook__post=hook)
    code, lines = doctor(m)
    assert code == 0
    assert [free(line) for line in lines] == [
        "ok db=none", f"ok hook.pre: {hook}", f"ok hook.post: {hook}", f"ok mount {m.mnt}", f"ok backing {m.back}",
        "ok state_dir: a record can be written", "ok provider null: a set can be taken"]
    calls = [(c, a) for _, c, a in m.null_calls() if c in ("preflight", "trigger", "discard", "remove")]
    assert [c for c, _ in calls] == ["preflight", "discard"]
    assert calls[0][1].startswith("doctor-") and calls[0][1] == calls[1][1]
    assert os.listdir(m.control / "snapshots") == []


@pytest.mark.parametrize("takeover", ["yes", "no"])
def test_what_the_kernel_offers_is_shown_as_status_has_it(make_mount, takeover):
    m = make_mount(takeover=takeover)
    r = subprocess.run([STILLCTL, "-n", m.name, "doctor"], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, "nothing of it is bad"
    status = m.status()
    wanted = [f"{'note' if status[k].startswith('no: ') else 'ok'} kernel: {k} {status[k]}" for k in ("transport", "takeover", "shared_mmap")]
    assert [line for line in r.stdout.splitlines() if " kernel: " in line] == wanted
    assert takeover == "yes" or wanted[1] == "note kernel: takeover no: takeover=no; a death ends the mount cleanly"


def test_every_finding_is_shown_and_not_the_first_only(make_mount, hook):
    m = make_mount(provider="null", hook__pre=hook, hook__locked=hook.parent / "none", hook__post=hook)
    hook.chmod(0o644)
    in_the_way = m.dir / "state" / "sets" / "probe"
    in_the_way.mkdir()
    m.null(f"preflight fail {errno.ENOSPC}\ndiscard fail {errno.EIO}\n")
    code, lines = doctor(m)
    assert code == 1
    assert [line for line in lines if line.startswith("bad hook")] == [
        f"bad hook.pre: {hook} is no executable file: chmod +x it",
        f"bad hook.locked: {hook.parent / 'none'}: No such file or directory",
        f"bad hook.post: {hook} is no executable file: chmod +x it"]
    assert [line for line in lines if line.startswith("bad provider")] == [
        "bad provider null: null: preflight told to fail: No space left on device",
        "bad provider null: what the look made is left: null: discard told to fail: Input/output error"]
    assert any(line.startswith("bad state_dir: ") and "cannot be written: Is a directory" in line for line in lines), lines
    assert len([line for line in lines if line.startswith("bad ")]) == 6
    in_the_way.rmdir()
    m.null("")
    hook.chmod(0o755)
    (hook.parent / "none").symlink_to(hook)
    assert doctor(m)[0] == 0, "what was mended is seen at the next look"


def test_it_says_what_a_snapshot_would_say_and_leaves_no_clone(make_mount):
    m = make_mount(provider="local")
    (m.back / "file").write_text("x" * 5000)
    before = sorted(os.walk(m.back.parent))
    assert doctor(m)[0] == 0
    assert [p for p in sorted(os.walk(m.back.parent)) if ".partial-" in p[0]] == []
    assert [(a, b, c) for a, b, c in sorted(os.walk(m.back.parent)) if a == str(m.back)] == [p for p in before if p[0] == str(m.back)]
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    m.wait_state("one", "complete")
    assert doctor(m)[0] == 0 and sorted(os.listdir(m.control / "snapshots")) == ["one"]


def test_a_mount_that_was_taken_away_by_hand_is_a_finding(make_mount, scratch):
    for d in ("back", "redo"):
        (scratch.fs / d).mkdir()
    redo = scratch.dir / "redo-mnt"
    redo.mkdir()
    m = make_mount(provider="null", pair=f"{scratch.fs}/redo:{redo}")
    m.more_pairs = [(scratch.fs / "redo", redo)]
    assert doctor(m)[0] == 0
    subprocess.run(["umount", redo], check=True)
    code, lines = doctor(m)
    assert code == 1
    bad = [line for line in lines if line.startswith("bad ")]
    assert len(bad) == 1 and bad[0].startswith(f"bad mount: {redo} is not mounted any more"), lines


def test_a_script_that_refuses_is_quoted_and_asked_to_remove(make_mount, script):
    m = make_mount(provider="exec", exec__script=script("echo no permission to CreateThing >&2; exit 77"))
    code, lines = doctor(m)
    assert code == 1
    bad = [line for line in lines if line.startswith("bad ")]
    assert len(bad) == 1 and bad[0].startswith("bad provider exec: ") and bad[0].endswith("no permission to CreateThing")
    assert script.verbs()[-2:] == ["preflight", "remove"]


def test_a_snapshot_does_not_wait_for_a_look_that_is_slow(make_mount, scratch, script):
    """Its second preflight, the snapshot's, refuses: then the look has been ended, or it would never come."""
    m = make_mount(provider="exec", exec__script=script("test -e $0.second && exit 75; touch $0.second; sleep 600"))
    assert m.write("doctor", "run\n") == 0
    wait_for("the look at the provider", (scratch.dir / "script.second").exists)
    assert m.read("doctor") == "running\n"
    assert m.write("snapshot", "one\n") == errno.EAGAIN, m.last_error()
    last = wait_for("the look's end", lambda: [t for t in [m.read("doctor")] if t != "running\n"])[0].splitlines()[-1]
    assert last == "bad provider exec: not looked at to the end, a snapshot was asked for; look again"
