"""The provider ebs against moto with its signatures checked, through a proxy that copies the volume's image at the moment
of the request: what is in the snapshot, what is left after failures, how long the gate was closed."""

import errno
import subprocess
import time

import pytest

from stillfs import run, wait_for

CREATE = "CreateSnapshot"


@pytest.fixture
def orders(cloud, make_mount):
    return make_mount(env=cloud.env, **cloud.options)


def restored(cloud, snapshot, scratch):
    """{name: text} in the root of the snapshot's backing."""
    where = scratch.dir / "restored"
    where.mkdir(exist_ok=True)
    run("mount", "-o", "loop,nouuid", cloud.copies[snapshot], where)
    try:
        return {p.name: p.read_text() for p in (where / "back").iterdir()}
    finally:
        run("umount", where)


def test_a_snapshot_holds_what_was_written_before_and_nothing_later(cloud, orders, scratch):
    (orders.mnt / "before").write_text("1")
    assert orders.write("snapshot", "one\n") == 0, orders.last_error()
    (orders.mnt / "after").write_text("2")
    orders.wait_state("one", "complete")
    assert cloud.calls[:5] == ["DescribeInstances", "DescribeVolumes", "DescribeSnapshots", CREATE + " dry", CREATE]
    assert len(cloud.made) == 1
    files = restored(cloud, cloud.made[0], scratch)
    assert files["before"] == "1" and "after" not in files
    assert files[".stillfs-position"].startswith("set one\nid ")
    assert not (orders.back / ".stillfs-position").exists()


def test_after_a_long_preparation_the_connection_is_made_ready_again(cloud, make_mount, scratch):
    hook = scratch.dir / "hook"
    hook.write_text("#!/bin/sh\nsleep 4\n")
    hook.chmod(0o755)
    m = make_mount(env=cloud.env, hook__pre=hook, **cloud.options)
    assert m.write("snapshot", "one\n") == 0, m.last_error()
    assert cloud.calls[3:6] == [CREATE + " dry", CREATE + " dry", CREATE]
    assert "warm_provider" in m.read("snapshots/one/log")


def test_writes_wait_for_the_request_and_no_longer(cloud, orders):
    cloud.faults[CREATE] = ["late 1.0"]
    assert orders.write("snapshot", "one\n") == 0, orders.last_error()
    hold = float(orders.read("snapshots/one/hold_ms"))
    assert 1000 <= hold < 3000
    orders.wait_state("one", "complete")


def test_a_failed_request_fails_the_set_and_leaves_nothing(cloud, make_mount):
    """The others are test_ebs_creation.py's."""
    m = make_mount(env=cloud.env, gate_timeout=2, **cloud.options)
    cloud.faults[CREATE] = ["throttled"]
    assert m.write("snapshot", "one\n") == errno.EAGAIN
    assert m.state("one") == "failed" and "RequestLimitExceeded" in m.read("snapshots/one/last_error")
    assert m.gate() == "open" and not cloud.made
    (m.mnt / "goes on").write_text("x")


@pytest.mark.parametrize("fault", ["lost", "half"])
def test_a_lost_answer_is_found_by_its_tag_while_the_gate_is_closed(cloud, orders, fault):
    cloud.faults[CREATE] = [fault]
    assert orders.write("snapshot", "one\n") == 0, orders.last_error()
    assert cloud.calls.count(CREATE) == 1
    orders.wait_state("one", "complete")
    assert cloud.left() == 1


def test_an_answer_after_the_deadline_fails_the_set_and_its_snapshot_is_deleted(cloud, make_mount):
    m = make_mount(env=cloud.env, gate_timeout=1, **cloud.options)
    cloud.faults[CREATE] = ["late 1.5"]
    started = time.monotonic()
    assert m.write("snapshot", "one\n") in (errno.EIO, errno.ETIMEDOUT)
    assert time.monotonic() - started < 30
    assert m.state("one") == "failed"
    wait_for("the snapshot is deleted", lambda: cloud.left() == 0, 20)
    assert len(cloud.made) == 1 and cloud.calls.count(CREATE) == 1


def test_a_second_one_within_15_seconds_is_refused_with_the_gate_open(cloud, orders):
    assert orders.write("snapshot", "one\n") == 0, orders.last_error()
    assert orders.write("snapshot", "two\n") == errno.EAGAIN
    assert "AWS takes one in 15 s" in orders.read("snapshots/two/last_error")
    assert "drained" not in orders.read("snapshots/two/log")
    assert cloud.calls.count(CREATE) == 1


def test_rmdir_deletes_the_snapshots_of_its_set(cloud, orders):
    cloud.aged = True  # EC2 wants 15 s between two
    assert orders.write("snapshot", "one\n") == 0, orders.last_error()
    orders.wait_state("one", "complete")
    assert orders.write("snapshot", "two\n") == 0, orders.last_error()
    orders.wait_state("two", "complete")
    (orders.control / "snapshots" / "one").rmdir()
    wait_for("deletion", lambda: cloud.calls.count("DeleteSnapshot") == 1)
    time.sleep(0.2)
    assert cloud.left() == 1


def test_wrong_keys_are_refused_before_anything_is_held_and_shown_nowhere(cloud, make_mount):
    m = make_mount(env={**cloud.env, "AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}, **cloud.options)
    assert m.write("snapshot", "one\n") == errno.EACCES
    assert "AuthFailure" in m.read("snapshots/one/last_error") and "drained" not in m.read("snapshots/one/log")
    assert m.write("doctor", "run\n") == 0
    found = wait_for("the doctor", lambda: [t for t in [m.read("doctor")] if t != "running\n"])[0].splitlines()
    assert [line for line in found if line.startswith("bad ")] == found[-1:]
    assert found[-1].startswith("bad provider ebs: ") and "AuthFailure" in found[-1]
    shown = m.log() + "".join(m.read(f) for f in ("config", "status", "last_error", "list.json", "doctor"))
    assert "wrong-and-secret" not in shown and cloud.env["AWS_ACCESS_KEY_ID"] not in m.read("config")
    assert subprocess.run(["pgrep", "-f", "wrong-and-secret"], capture_output=True).stdout == b""
