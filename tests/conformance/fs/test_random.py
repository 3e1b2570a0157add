"""Random operations on two directories, natively and on the mount: each result and byte the same, the trees afterwards
too. A failure prints the seed, the operation and the command that repeats it.

`STILLFS_RANDOM=100 pytest tests/conformance/fs/test_random.py`: that many seeds a test, from a random one on."""

import os
import random
import signal
import subprocess
import threading
import time

import pytest

from stillfs import BUILD, wait_for
from trees import differences, tree

PROGRAM = BUILD / "tests" / "conformance" / "fs" / "fs_random"
LONG = int(os.environ.get("STILLFS_RANDOM", "100" if os.environ.get("STILLFS_ALL") else "0"))
OPERATIONS = 2000
pytestmark = pytest.mark.limit(60 + 15 * LONG)


def seeds(few):
    if not LONG:
        return range(1, few + 1)
    first = random.SystemRandom().randrange(1, 1 << 30)
    return range(first, first + LONG)


def differ(mount, name, seed, *options):
    """Nothing, or what differs, for one seed."""
    native, mounted, backing = mount.scratch.fs / f"n-{name}", mount.mnt / name, mount.back / name
    native.mkdir()
    mounted.mkdir()
    r = subprocess.run([str(PROGRAM), "-s", str(seed), "-n", str(OPERATIONS), *options, str(native), str(mounted)],
                       capture_output=True, text=True, errors="replace")
    if r.returncode != 0:
        return r.stdout[-2000:] + r.stderr[-2000:]
    found = differences(tree(native), tree(mounted))

    def views():
        return differences(tree(mounted, same_files=True), tree(backing, same_files=True))
    end = time.monotonic() + 5  # blocks of files that were just closed settle
    while not found and views() and time.monotonic() < end:
        time.sleep(0.1)
    found = found or views()
    subprocess.run(["rm", "-rf", str(native), str(mounted)], check=True)
    return f"seed {seed} {' '.join(options)}: " + "\n".join(found) if found else None


@pytest.mark.parametrize("options", [[], ["-d"], ["-t"]], ids=["all", "data", "names"])
def test_random_operations_give_the_same_results(shared_mount, options):
    for seed in seeds(4):
        found = differ(shared_mount, f"{seed}{''.join(options)}", seed, *options)
        assert not found, found


def test_random_operations_give_the_same_results_while_the_daemon_dies(make_mount):
    m = make_mount()
    deaths = 0
    for seed in seeds(2):
        found = []
        t = threading.Thread(target=lambda: found.append(differ(m, f"death-{seed}", seed, "-n", str(5 * OPERATIONS))))
        t.start()
        while t.is_alive():
            t.join(0.1)
            daemon = int(m.status()["pid"])
            if t.is_alive() and deaths < 30 * (LONG or 1):
                os.kill(daemon, signal.SIGKILL)
                deaths += 1
                wait_for("a successor", lambda: int(m.status()["pid"]) != daemon)
                time.sleep(1)  # five that live for less than a second end the mount
        assert found == [None], found[0]
    assert deaths >= 1


def test_many_at_once_in_one_directory_leave_the_same_on_both_sides(make_mount):
    m = make_mount(fd_cache=64)
    (m.mnt / "d").mkdir()
    for seed in seeds(2):
        running = [subprocess.Popen([str(PROGRAM), "-s", str(seed * 10 + i), "-n", str(OPERATIONS), str(m.mnt / "d")],
                                    stdout=subprocess.PIPE, text=True) for i in range(4)]
        for p in running:
            out, _ = p.communicate(timeout=50)
            assert p.returncode == 0, out
    wait_for("files to be closed", lambda: m.status()["open_files"] == "0")
    time.sleep(1.1)  # what is cached of files that were open for writing, see fs/ops.h
    found = differences(tree(m.mnt / "d", same_files=True), tree(m.back / "d", same_files=True))
    assert not found, "\n".join(found)
    assert len(tree(m.back / "d")) > 5


def test_a_difference_is_found_and_names_what_repeats_it(scratch):
    a, b = scratch.fs / "a", scratch.fs / "b"
    a.mkdir()
    b.mkdir()
    (b / "f1").mkdir()  # what the other has not
    r = subprocess.run([str(PROGRAM), "-s", "7", "-n", "500", str(a), str(b)], capture_output=True, text=True)
    assert r.returncode == 1 and r.stdout.startswith("seed 7, operation "), r.stdout
    assert "again with: fs_random -s 7 -n " in r.stdout
