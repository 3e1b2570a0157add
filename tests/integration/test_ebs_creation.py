"""Each way in which the request for a snapshot fails, on a mount: what the set says, what is left at EC2, and how long a client's
writes waited. That every other call x failure holds nothing is tests/unit/snapshot/test_ebs_failures.c's."""

import concurrent.futures
import contextlib
import errno
import os
import threading
import time

import pytest

from cloud import make_cloud, snapshot  # noqa: F401
from stillfs import Mount, Scratch, wait_for

GATE_S = 6
# the request's fault; those of the looks for its snapshots while the gate is closed; errno of the set; its words; how many
# snapshots were made; the longest stall that is allowed besides: a refusal opens the gate at once
TABLE = [
    ("throttled", [], errno.EAGAIN, "RequestLimitExceeded", 0, 3),
    ("denied", [], errno.EACCES, "UnauthorizedOperation", 0, 3),
    ("lost", ["denied"], errno.EIO, "nobody knows when its snapshots were begun", 1, 3),
    ("half", ["denied"], errno.EIO, "nobody knows when its snapshots were begun", 1, 3),
    ("late 20", ["denied"], errno.EIO, "nobody knows when its snapshots were begun", 1, GATE_S),
    ("500", [], errno.EIO, "nobody knows when its snapshots were begun", 0, GATE_S),
]
# of several volumes in one request: the same, but each makes two; and answers that are not what was asked for
SEVERAL = [(fault, looks, code, words, 2 * made, longest) for fault, looks, code, words, made, longest in TABLE] + [
    ("partial", [], errno.EIO, "EC2 made 0 snapshots of volume vol-", 2, 3),
    ("wrong", [], errno.EIO, "EC2 made 0 snapshots of volume vol-", 2, 3),
]


class Writer:
    """Writes and flushes, and remembers the longest time that took."""

    def __init__(self, path):
        self.longest, self.path, self.end = 0.0, path, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with open(self.path, "wb", buffering=0) as f:
            while not self.end.is_set():
                began = time.monotonic()
                os.pwrite(f.fileno(), b"x" * 100, 0)
                os.fsync(f.fileno())
                self.longest = max(self.longest, time.monotonic() - began)
                time.sleep(0.002)

    def take(self):
        value, self.longest = self.longest, 0.0
        return value

    def close(self):
        self.end.set()
        self.thread.join(30)


def fail_each(cloud, m, create, table):
    """Each row of the table: what the set says, what is left, how long writes waited."""
    writer = Writer(m.mnt / "file")
    try:
        for n, (fault, looks, code, words, made, longest) in enumerate(table):
            cloud.made.clear()
            cloud.calls.clear()
            cloud.faults[create], cloud.faults["DescribeSnapshots"] = [fault], ["", *looks]
            writer.take()
            assert snapshot(m, f"s{n}") != 0, fault
            stalled = writer.take()
            said = m.read(f"snapshots/s{n}/last_error")
            assert m.state(f"s{n}") == "failed" and words in said and m.last_error()["errno"].startswith(errno.errorcode[code]), (fault, said)
            assert len(cloud.made) == made and cloud.calls.count(create) == 1, (fault, cloud.calls)
            assert m.gate() == "open" and stalled < longest + 2, (fault, stalled)
            wait_for(f"the clean-up after {fault}", lambda: cloud.proxy.left() == 0, 60)
            assert not cloud.faults[create] and not cloud.faults["DescribeSnapshots"], "the fault was used"
            wait_for("quiet", lambda: m.status()["state"] == "idle", 60)
    finally:
        writer.close()


@pytest.mark.limit(180)
def test_each_failure_of_the_request_says_so_leaves_nothing_and_holds_no_longer_than_it_must(make_cloud):  # noqa: F811
    """Of one volume and of several, at the same time on two mounts: most of it is waiting for deadlines."""
    with contextlib.ExitStack() as made:
        work = []
        for create, table, devices in (("CreateSnapshot", TABLE, ["/dev/sdf"]), ("CreateSnapshots", SEVERAL, ["/dev/sdf", "/dev/sdg"])):
            scratch = Scratch()
            made.callback(scratch.close)
            cloud = make_cloud(scratch.dir / "cloud", {d: scratch.image for d in devices})
            m = Mount(scratch, env=cloud.env, gate_timeout=GATE_S, **cloud.options)
            made.callback(m.close)
            work.append((cloud, m, create, table))
        pool = made.enter_context(concurrent.futures.ThreadPoolExecutor())
        for done in [pool.submit(fail_each, *w) for w in work]:
            done.result()
