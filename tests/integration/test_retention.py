"""Retention, prune, pins and listings as a person at a shell uses them: through the files, on provider local and null."""

import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from stillfs import STILLCTL, is_gone, run, wait_for

EMPTY = "# no keep_* rule is set: an empty policy deletes nothing\n"


def take(m, *names, words="class=nightly"):
    for name in names:
        assert m.write("snapshot", f"{name} {words}\n") == 0, m.last_error()
        m.wait_state(name, "complete")
    wait_for("idle", lambda: m.status()["state"] == "idle")


def sets(m):
    return [json.loads(line)["name"] for line in m.read("list.json").splitlines()]


def plan(m):
    """{name: (action, why)} and the head of the plan."""
    lines = m.read("prune").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("ACTION"))
    head = dict(line.split(" ", 1) for line in lines[:at])
    rows = {}
    for line in lines[at + 1:]:
        cells = re.split(r"\s{2,}", line, maxsplit=5)
        rows[cells[1]] = cells[0], cells[-1]
    return head, rows


def settled(m):
    wait_for("the end of the prune", lambda: m.status()["prune_left"] == "0")
    wait_for("the removals", lambda: plan(m)[0]["removing"] == "0")


def events(m):
    fd = os.open(m.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    out = b""
    try:
        while True:
            out += os.read(fd, 65536)
    except BlockingIOError:
        return [json.loads(line) for line in out.splitlines() if line]
    finally:
        os.close(fd)


def change_records(m, change):
    """Rewrite the catalog of a stopped stillfs."""
    for path in (m.dir / "state" / "sets").glob("*.json"):
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))


def make_older(m, days):
    def change(r):
        r["created_ns"] -= days.get(r["name"], 0) * 86400 * 10**9
    m.stop()
    change_records(m, change)
    m.start()


# ---- the policy ----

def test_the_policy_is_written_line_by_line_and_survives(make_mount):
    m = make_mount()
    assert m.read("retention") == "policy\ntimezone UTC\n" + EMPTY
    assert m.write("retention", "keep_last 7\nnightly.keep_daily 14\ntimezone Europe/Berlin\n") == 0
    text = m.read("retention")
    assert text == "policy\ntimezone Europe/Berlin\nkeep_last 7\nnightly.keep_daily 14\n"
    run("sh", "-c", f"cd {m.control} && cat retention >{m.dir}/f && cat {m.dir}/f >retention")
    assert m.read("retention") == text
    m.stop()
    m.start()
    assert m.read("retention") == text
    assert m.write("retention", "-keep_last\n-nightly.keep_daily\n") == 0
    assert m.read("retention") == "policy\ntimezone Europe/Berlin\n" + EMPTY
    assert [e["rules"] for e in events(m) if e["type"] == "retention"] == [0]
    assert "retention changed: timezone Europe/Berlin, no rules" in m.read("prune.log")


def test_an_empty_policy_deletes_nothing_and_says_so(make_mount):
    m = make_mount()
    take(m, "a", "b")
    head, rows = plan(m)
    assert head["delete"] == "0" and head["empty"].startswith("no keep_* rule is set: nothing is deleted")
    assert m.write("retention", "max_age 1m\nmin_keep 1\n") == 0
    assert plan(m)[1]["a"] == ("keep", "max_age 1m, no keep_* rule applies to its class")
    assert m.write("prune", "apply\n") == errno.EINVAL
    assert m.last_error()["message"].startswith("prune: no keep_* rule is set, and an empty policy deletes nothing")
    assert sets(m) == ["a", "b"]


def test_a_config_that_differs_turns_auto_prune_off_until_somebody_looks(make_mount):
    m = make_mount(retention="keep_last 2", auto_prune="yes")
    assert m.status()["auto_prune"] == "on"
    assert m.write("retention", "keep_last 3\n") == 0
    assert m.status()["auto_prune"] == "on"
    m.stop()
    m.start()
    assert m.read("retention") == "policy\ntimezone UTC\nkeep_last 3\n"
    assert m.status()["auto_prune"].startswith("off: the retention written at run time is not the configuration's")
    take(m, "a", "b", "c", "d")
    assert sets(m) == ["a", "b", "c", "d"]
    assert m.write("retention", m.read("retention")) == 0
    assert m.status()["auto_prune"] == "on"
    take(m, "e")
    wait_for("what the policy keeps", lambda: sets(m) == ["c", "d", "e"])  # the prune begins a moment after the set is complete


def test_a_wrong_rule_in_the_configuration_refuses_the_start(make_mount):
    m = make_mount(start=False, retention="keep_lst 3")
    r = m.try_start()
    assert r.returncode != 0 and 'option retention: "keep_lst": unknown' in r.stderr


def test_a_damaged_policy_is_not_taken_for_an_empty_one(make_mount):
    m = make_mount(retention="keep_last 2", auto_prune="yes")
    m.stop()
    (m.dir / "state" / "retention").write_text("keep_last 1\nkeep_da")
    m.start()
    assert m.status()["auto_prune"] == "off: state_dir/retention was damaged; write the policy to retention"
    assert "keep_last 2" in m.read("retention")


# ---- the plan ----

def test_the_plan_names_every_rule_and_reading_changes_nothing(make_mount):
    m = make_mount(retention="keep_last 1")
    take(m, "old", "tagged", "pinned", "mid", "new")
    take(m, "hand", words="")
    assert m.write("snapshots/pinned/pin", "yes\n") == 0
    assert m.write("snapshots/tagged/tags", "why:audit\n") == 0
    assert m.write("retention", "keep_daily 1\nkeep_tag why\nkeep_within 5d\n") == 0
    make_older(m, {"old": 30, "tagged": 20, "pinned": 10, "mid": 9, "new": 1})
    head, rows = plan(m)
    assert rows == {"old": ("delete", "no rule keeps it"), "tagged": ("keep", "keep_tag why"), "pinned": ("keep", "pinned"),
                    "mid": ("delete", "no rule keeps it"), "new": ("keep", "keep_last 1, keep_daily 1, keep_within 5d"),
                    "hand": ("keep", "newest complete, no keep_* rule applies to its class")}
    assert (head["keep"], head["delete"]) == ("4", "2")
    again, _ = plan(m)
    assert again["plan"] == head["plan"] and len(sets(m)) == 6
    assert m.write("prune", f"apply {head['plan']}\n") == 0
    settled(m)
    wait_for("the last event", lambda: events(m)[-1].get("step") == "end")  # nothing is left before it is told
    assert sets(m) == ["tagged", "pinned", "new", "hand"]
    assert sorted(os.listdir(m.scratch.fs / "back.snapshots")) == ["hand", "new", "pinned", "tagged"]
    log = m.read("prune.log")
    assert re.search(rf"^\S+Z run {head['plan']} by an operator: delete 2, keep 4; policy timezone UTC, keep_last 1,", log, re.M)
    for name in ("old", "mid"):
        assert re.search(rf"^\S+Z removed [0-9a-f]{{32}} {name} class nightly created \S+Z: no rule keeps it, prune by an "
                         "operator$", log, re.M)
    assert re.search(rf"^\S+Z end {head['plan']}: removed 2, skipped 0, failed 0$", log, re.M)
    assert [e["step"] for e in events(m) if e["type"] == "prune"] == ["apply", "removed", "removed", "end"]
    assert plan(m)[0]["delete"] == "0"
    assert m.write("prune", "apply\n") == 0  # a second time deletes nothing more
    assert sets(m) == ["tagged", "pinned", "new", "hand"]


@pytest.mark.parametrize("change", ["pin", "unpin", "taken", "removed", "rule", "tags"])
def test_a_plan_is_refused_when_the_world_has_changed(make_mount, change):
    m = make_mount(retention="keep_last 2")
    take(m, "a", "b", "c", "d")
    if change == "unpin":
        assert m.write("snapshots/c/pin", "yes\n") == 0
    old = plan(m)[0]["plan"]
    if change in ("pin", "unpin"):
        assert m.write("snapshots/c/pin", "yes\n" if change == "pin" else "no\n") == 0
    elif change == "taken":
        take(m, "e")
    elif change == "removed":
        os.rmdir(m.control / "snapshots" / "b")
    elif change == "rule":
        assert m.write("retention", "keep_last 3\n") == 0
    else:
        assert m.write("snapshots/d/tags", "a:b\n") == 0
    before = sets(m)
    assert m.write("prune", f"apply {old}\n") == errno.EAGAIN
    assert re.fullmatch(rf"prune: the plan is [0-9a-f]{{16}} now, not {old}; read prune again", m.last_error()["message"])
    assert sets(m) == before


# ---- what is never deleted ----

def test_the_floor_holds_against_rmdir_and_only_force_passes_it(make_mount):
    m = make_mount(retention="keep_last 1")
    assert m.write("retention", "min_keep 3\n") == 0
    take(m, "a", "b", "c", "d", "e")
    assert m.write("snapshots/c/pin", "yes\n") == 0
    r = subprocess.run(f"rmdir {m.control}/snapshots/*", shell=True, capture_output=True, text=True)
    assert r.returncode == 1
    settled(m)
    assert sets(m) == ["c", "d", "e"]
    for name, words in (("e", "newest complete set, which is always kept"), ("d", "min_keep of the retention keeps it"),
                        ("c", "it is pinned")):
        with pytest.raises(OSError) as err:
            os.rmdir(m.control / "snapshots" / name)
        assert err.value.errno == errno.EBUSY and words in m.last_error()["message"]
    assert m.write("prune", "delete c force\n") == errno.EBUSY and "it is pinned" in m.last_error()["message"]
    assert m.write("prune", "delete e force\n") == 0
    settled(m)
    assert sets(m) == ["c", "d"]
    assert "delete --force" in m.read("prune.log")


def test_clumsy_hands_leave_the_floor_and_never_follow_data(make_mount):
    m = make_mount()
    (m.mnt / "ibdata").write_text("precious")
    take(m, "a", "b", "c")
    s = m.control / "snapshots"
    data = pathlib.Path(os.readlink(s / "a" / "data"))
    for command in (f"rm -rf {s}/a", f"rm -rf {s}/*/", f"find {s} -type f -delete", f"find {s} -type l -delete"):
        r = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert r.returncode != 0, command
        assert sets(m) == ["a", "b", "c"] and (data / "ibdata").read_text() == "precious", command
    # what find deletes are the directories themselves: rmdir, with its floor
    subprocess.run(["find", str(s), "-mindepth", "1", "-maxdepth", "1", "-delete"], capture_output=True)
    settled(m)
    assert sets(m) == ["c"]
    assert (m.scratch.fs / "back.snapshots" / "c" / "data" / "ibdata").read_text() == "precious"
    subprocess.run(["rm", "-rf", str(s / "c")], capture_output=True)
    assert (m.scratch.fs / "back.snapshots" / "c" / "data" / "ibdata").read_text() == "precious"
    # tmpfiles: what it would clean is refused one by one
    conf = m.dir / "tmpfiles.conf"
    conf.write_text(f"R {s}/*\nr {m.control}/list\n")
    subprocess.run(["systemd-tmpfiles", "--remove", str(conf)], capture_output=True, check=False)
    assert sets(m) == ["c"] and (m.mnt / "ibdata").read_text() == "precious"


def test_failed_sets_go_by_their_own_rule(make_mount):
    m = make_mount(provider="null", retention="keep_last 2")
    take(m, "a")
    m.null("trigger fail 5\n")
    for name in ("x", "y"):
        assert m.write("snapshot", f"{name} class=nightly\n") == errno.EIO
    wait_for("idle", lambda: m.status()["state"] == "idle")
    m.null("")
    take(m, "b")
    make_older(m, {"x": 9, "a": 10})
    assert plan(m)[1]["x"] == ("keep", "failed, and no failed_age applies")
    assert m.write("retention", "failed_age 7d\n") == 0
    assert plan(m)[1] == {"a": ("keep", "keep_last 2"), "x": ("delete", "failed, and older than failed_age"),
                          "y": ("keep", "failed_age 1w"), "b": ("keep", "keep_last 2, newest complete")}
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["a", "y", "b"]
    assert ": failed, and older than failed_age, prune by an operator" in m.read("prune.log")


def test_auto_prune_runs_after_success_and_not_after_failure(make_mount):
    m = make_mount(provider="null", retention="keep_last 2", auto_prune="yes")
    take(m, "a", "b")
    assert m.write("retention", "keep_last 1\n") == 0
    m.null("trigger fail 5\n")
    assert m.write("snapshot", "bad class=nightly\n") == errno.EIO
    wait_for("idle", lambda: m.status()["state"] == "idle")
    assert sets(m) == ["a", "b", "bad"]
    m.null("")
    take(m, "c")
    wait_for("the prune", lambda: sets(m) == ["bad", "c"])
    settled(m)
    assert "by auto_prune: delete 2, keep 2" in m.read("prune.log")


def test_a_removal_that_fails_is_shown_and_stops_no_other(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c", "d")
    m.null("remove fail 5\n")
    assert m.write("prune", "apply\n") == 0
    wait_for("each to be tried", lambda: len([c for c in m.null_calls() if c[1] == "remove"]) >= 3)
    wait_for("the failures", lambda: plan(m)[1]["c"][0] == "removing" and "told to fail" in plan(m)[1]["c"][1])
    assert {c[2] for c in m.null_calls() if c[1] == "remove"} == {"a", "b", "c"}
    assert sets(m) == ["d"] and m.status()["prune_left"] == "3"
    assert "null: remove told to fail" in m.last_error()["message"]
    assert m.read("prune.log").count("it is tried again") == 3
    m.null("")
    take(m, "e", words="class=other")  # the engine is awake
    os.rmdir(m.control / "snapshots" / "d")
    m.stop()
    m.start()
    settled(m)
    assert sets(m) == ["e"]
    assert m.read("prune.log").count("Z removed ") == 4


def test_what_cannot_be_removed_now_is_a_set_again_and_skipped_with_the_reason(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c")
    m.null(f"remove fail {errno.EBUSY}\n")
    assert m.write("prune", "apply\n") == 0
    wait_for("both to be back", lambda: sets(m) == ["a", "b", "c"])
    wait_for("the end", lambda: m.status()["prune_left"] == "0")
    head, rows = plan(m)
    assert head["delete"] == "0"
    assert rows["a"][0] == "keep" and rows["a"][1].startswith("cannot be removed: null: remove told to fail")
    log = m.read("prune.log")
    assert log.count("Z skipped ") == 2 and re.search(r"Z end [0-9a-f]{16}: removed 0, skipped 2, failed 0$", log, re.M), log
    assert re.fullmatch(r"\S+Z [0-9a-f]{16} removed 0 skipped 2 failed 0", m.status()["last_prune"])
    assert not (m.dir / "state" / "prune.journal").exists()


def test_what_failed_to_go_in_another_way_is_no_set_again(make_mount):
    """A part of it may have gone."""
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c")
    m.null(f"remove fail {errno.EPERM}\n")
    assert m.write("prune", "apply\n") == 0
    wait_for("both failures", lambda: m.read("prune.log").count("Z failed ") == 2)
    assert sets(m) == ["c"] and {n: row[0] for n, row in plan(m)[1].items()} == {"a": "removing", "b": "removing", "c": "keep"}
    assert m.status()["prune_left"] == "2" and " skipped " not in m.read("prune.log")


@pytest.mark.parametrize("provider", ["null", "local"])
def test_the_newest_verified_set_goes_by_force_only(make_mount, provider):
    m = make_mount(provider=provider, retention="keep_last 1")
    take(m, "older", "proof", "b", "c")
    m.stop()
    change_records(m, lambda r: r.update(verified="yes" if r["name"] in ("older", "proof") else "no"))
    m.start()
    assert {n: why for n, (action, why) in plan(m)[1].items() if action == "keep"} == \
        {"proof": "newest verified", "c": "keep_last 1, newest complete"}
    assert m.write("prune", "apply\n") == 0, m.last_error()
    settled(m)
    assert sets(m) == ["proof", "c"]
    with pytest.raises(OSError) as e:
        os.rmdir(m.control / "snapshots" / "proof")
    message = "it is the newest verified set, which is always kept; verify a newer one first"
    assert e.value.errno == errno.EBUSY and m.last_error()["message"] == f"rmdir snapshots/proof: {message}"
    r = subprocess.run([STILLCTL, "--dir", m.control, "delete", "proof"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and message in r.stderr
    assert sets(m) == ["proof", "c"]
    run(STILLCTL, "--dir", m.control, "delete", "--force", "proof")
    settled(m)
    assert sets(m) == ["c"]


# ---- whose sets ----

def test_a_cloned_host_prunes_nothing_until_it_adopts(make_mount):
    m = make_mount(provider="null", retention="keep_last 1", auto_prune="yes")
    assert m.write("retention", "keep_last 3\n") == 0
    take(m, "a", "b")
    m.stop()
    path = m.dir / "state" / "identity"
    assert path.read_text().startswith(("machine_id ", "product_uuid "))
    path.write_text(re.sub(r"(?m)^(\w+) .*", r"\1 of-the-machine-it-was-cloned-from", path.read_text()))
    m.start()
    assert m.write("retention", "keep_last 1\n") == 0
    assert m.status()["auto_prune"] == "off: state_dir comes from another machine; write adopt to prune"
    take(m, "c")
    assert m.write("prune", "apply\n") == errno.EPERM
    assert "`echo adopt > prune`" in m.last_error()["message"]
    with pytest.raises(OSError) as e:
        os.rmdir(m.control / "snapshots" / "a")
    assert e.value.errno == errno.EPERM
    assert m.write("prune", "delete a force\n") == errno.EPERM
    assert sets(m) == ["a", "b", "c"] and [c for c in m.null_calls() if c[1] == "remove"] == []
    assert m.write("prune", "adopt\n") == 0
    assert m.write("prune", "adopt\n") == errno.EEXIST
    assert m.status()["auto_prune"] == "on"
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["c"]
    m.stop()
    m.start()
    assert m.status()["auto_prune"] == "on"


def be_a_clone(m):
    """state_dir as another machine left it. stillfs is stopped."""
    path = m.dir / "state" / "identity"
    path.write_text(re.sub(r"(?m)^(\w+) .*", r"\1 of-the-machine-it-was-cloned-from", path.read_text()))


def asked(m, call, name):
    return (call, name) in [c[1:] for c in m.null_calls()]


DOUBT = "begun, and nobody here knows whether its point was fixed"


def test_a_cloned_host_takes_nothing_up_and_removes_nothing_until_it_adopts(make_mount):
    """The image was taken in the midst: the original has completed `begun` and `late`, and finishes its prune itself."""
    m = make_mount(provider="null", retention="keep_last 9")
    take(m, "condemned", "begun")
    m.null("poll pending\n")
    assert m.write("snapshot", "late class=nightly\n") == 0, m.last_error()
    ids = {r["name"]: r["id"] for r in map(json.loads, m.read("list.json").splitlines())}
    m.stop()
    change_records(m, lambda r: r.update(state="running") if r["name"] == "begun" else None)
    be_a_clone(m)
    (m.dir / "state" / "prune.journal").write_text(f"{ids['condemned']}\nplan 0123456789abcdef\n")
    m.null("")
    m.start()
    take(m, "own")
    assert [c for c in m.null_calls() if c[1] in ("remove", "discard", "resume")] == []
    assert [m.state(n) for n in ("condemned", "begun", "late", "own")] == ["complete", "failed", "pending", "complete"]
    assert m.read("snapshots/begun/last_error").startswith(DOUBT)
    assert "`echo adopt > prune`" in m.read("snapshots/late/progress") + m.log()
    assert m.write("abort", "x\n") == errno.EPERM
    assert m.last_error()["message"].startswith("abort: late is pending since state_dir was on another machine")
    assert m.state("late") == "pending"
    assert m.write("prune", "adopt\n") == 0
    m.wait_state("late", "complete")
    settled(m)
    assert sets(m) == ["begun", "late", "own"] and asked(m, "remove", "condemned") and asked(m, "resume", "late")
    assert not asked(m, "remove", "begun") and m.state("begun") == "failed"
    (m.control / "snapshots" / "begun").rmdir()
    wait_for("its removal", lambda: asked(m, "remove", "begun"))


def test_a_set_that_an_image_says_is_running_is_not_removed_by_itself(make_mount):
    """state_dir on a volume of the set: the set's own image says so of it, and may be started on the same machine."""
    m = make_mount(provider="null", retention="keep_last 9")
    assert m.write("retention", "failed_age 1d\n") == 0, m.last_error()
    take(m, "one", "two")
    m.stop()
    change_records(m, lambda r: r.update(state="running", created_ns=r["created_ns"] - 9 * 86400 * 10**9) if r["name"] == "one" else None)
    m.start()
    for _ in range(2):
        assert m.state("one") == "failed" and m.read("snapshots/one/last_error").startswith(DOUBT)
        assert plan(m)[1]["one"] == ("keep", "failed, and it may be complete elsewhere; only rmdir removes it")
        assert m.write("prune", "apply\n") == 0
        take(m, "three" if "three" not in sets(m) else "four")
        assert not asked(m, "remove", "one")
        m.stop()
        m.start()
    (m.control / "snapshots" / "one").rmdir()
    wait_for("its removal", lambda: asked(m, "remove", "one"))


def test_sets_of_another_lineage_are_seen_and_not_touched(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c")
    m.stop()

    def change(r):
        if r["name"] == "a":
            r["lineage"] = "0" * 32
    change_records(m, change)
    m.start()
    assert sets(m) == ["a", "b", "c"]
    assert set(plan(m)[1]) == {"b", "c"}
    with pytest.raises(OSError) as e:
        os.rmdir(m.control / "snapshots" / "a")
    assert e.value.errno == errno.EPERM and "it belongs to another lineage, 0000" in m.last_error()["message"]
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sets(m) == ["a", "c"]


# ---- a death in the midst ----

def test_a_prune_cut_by_death_at_any_moment_is_finished_and_nothing_else_goes(make_mount):
    m = make_mount(provider="null", retention="keep_last 3")
    m.null("remove delay_ms 3\n")
    kept = []
    for round_ in range(int(os.environ.get("STILLFS_PRUNE_DEATHS", "12"))):
        names = [f"r{round_}n{i}" for i in range(8)]
        take(m, *names)
        head, rows = plan(m)
        gone = {n for n, (action, _) in rows.items() if action == "delete"}
        kept = [n for n in sets(m) if n not in gone]
        removed_before = m.read("prune.log").count("Z removed ")
        pid = subprocess.Popen(["sh", "-c", f"echo apply {head['plan']} >{m.control}/prune"], stderr=subprocess.DEVNULL)
        time.sleep(0.002 * round_)
        os.kill(m.daemon, signal.SIGKILL)
        pid.wait(20)
        wait_for("a new daemon", lambda: m.status()["restarts"] == "1")
        m.daemon = int(m.status()["pid"])
        wait_for("what is condemned to be gone", lambda: m.status()["prune_left"] == "0", 20)
        if gone & set(sets(m)):  # it had died before the plan counted: all of them are there
            assert gone < set(sets(m))
            assert m.write("prune", f"apply {head['plan']}\n") == 0
            settled(m)
        settled(m)
        assert sets(m) == kept
        log = m.read("prune.log")
        assert log.count("Z removed ") - removed_before == len(gone)
        assert not (m.dir / "state" / "prune.journal").exists()
        m.stop()
        m.start()
        assert sets(m) == kept


def test_what_was_pinned_after_a_death_is_not_deleted_by_the_old_plan(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c")
    m.null("remove fail 5\n")
    assert m.write("prune", "apply\n") == 0
    wait_for("the journal", lambda: (m.dir / "state" / "prune.journal").exists())
    wait_for("the tries", lambda: m.read("prune.log").count("it is tried again") == 2)
    m.stop()

    def pin(r):
        r["pin"] = True
    change_records(m, pin)
    m.null("")
    m.start()
    settled(m)
    assert sets(m) == ["a", "b", "c"]
    assert m.write("snapshots/a/pin", "no\n") == 0
    m.stop()
    m.start()
    settled(m)
    assert sets(m) == ["a", "b", "c"]  # the old plan is no more


# ---- listing ----

def test_the_table_is_aligned_and_says_what_is_pinned_and_verified(make_mount):
    m = make_mount()
    take(m, "a", "a-much-longer-name")
    assert m.write("snapshots/a/pin", "yes\n") == 0
    m.stop()

    def verified(r):
        r["verified"] = "yes" if r["name"] == "a" else "no"
        r["position"] = "binlog_file mariadb-bin.000123\nbinlog_pos 4711\n" if r["name"] == "a" else ""
    change_records(m, verified)
    m.start()
    lines = m.read("list").splitlines()
    columns = lines[0].split()
    assert columns == "NAME CLASS CREATED AGE STATE VOL SIZE LOCK_MS HOLD_MS PIN POSITION VERIFIED BINLOGS".split()
    assert [line.split()[0] for line in lines[1:]] == ["a", "a-much-longer-name"]
    assert [line.split()[9:] for line in lines[1:]] == [["pin", "mariadb-bin.000123:4711", "yes", "unknown"],
                                                    ["-", "-", "no", "-"]]
    assert [json.loads(line)["binlogs"] for line in m.read("list.json").splitlines()] == ["unknown", None]
    for column in ("CLASS", "CREATED", "STATE", "PIN", "POSITION", "VERIFIED", "BINLOGS"):
        at = lines[0].index(column)
        assert all(line[at - 1] == " " and line[at] != " " for line in lines), column


def test_directories_have_the_times_of_their_sets_and_keep_their_numbers(make_mount):
    m = make_mount()
    take(m, "first", "second", "third")
    make_older(m, {"first": 30, "second": 8})
    s = m.control / "snapshots"
    inos = {n: os.stat(s / n).st_ino for n in sets(m)}
    assert len(set(inos.values())) == 3
    assert run("ls", "-t", s).split() == ["third", "second", "first"]
    assert sorted(run("find", s, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-mtime", "+7").split()) == \
        [f"{s}/first", f"{s}/second"]
    assert run("sh", "-c", f"grep -l complete {s}/*/state").split() == [f"{s}/{n}/state" for n in ("first", "second", "third")]
    os.rmdir(s / "second")
    settled(m)
    take(m, "fourth")
    m.stop()
    m.start()
    assert {n: os.stat(s / n).st_ino for n in ("first", "third")} == {n: inos[n] for n in ("first", "third")}
    assert os.stat(s / "fourth").st_ino not in inos.values()
