#!/usr/bin/python3
"""tests/harness/runner.py WORK [--all] - what tests/run runs: builds, C test programs, pytest; counts what ran.

Called by tests/run, which has installed the packages and removes WORK.  Everything that a test mounts or starts is
below WORK, so that a run that is interrupted can be cleaned up from the mount table alone.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILDS = {
    "plain": [],
    "asan": ["-Db_sanitize=address,undefined", "-Db_lundef=false"],
    "tsan": ["-Db_sanitize=thread", "-Db_lundef=false"],
}
FAULTS_BUILD = ["-Dfault_points=true"]
# Death between any two stores of the tables and steps of a snapshot: a build of its own, so that the product is tested
# as it is shipped.
FAULTS = ["tests/integration/test_takeover_faults.py", "tests/integration/test_takeover_snapshot.py"]
UNIT_LIMIT_S = 120
# What the builds with sanitizers run against real mounts: every operation, and the gate.
CONFORMANCE = ["tests/integration/test_files.py", "tests/integration/test_gate.py", "tests/conformance/fs/test_cases.py"]
ENV = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=66",
}


class Interrupted(Exception):
    pass


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, what, passed, failed, skipped=0, seconds=0.0):
        self.passed, self.failed, self.skipped = self.passed + passed, self.failed + failed, self.skipped + skipped
        print(f"{what}: {passed} passed, {failed} failed, {skipped} skipped ({seconds:.1f} s)", flush=True)


def build(work, name, count):
    """The build directory, or None with the failure counted."""
    directory = work / name
    steps = (["meson", "setup", directory, TOP, "-Dwerror=true", "-Dtest_providers=true", "-Ddocs=enabled",
              *BUILDS.get(name, FAULTS_BUILD)], ["ninja", "-C", directory])
    start = time.monotonic()
    for argv in steps:
        r = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        if r.returncode:
            print("\n".join((r.stdout + r.stderr).splitlines()[-40:]))
            count.add(f"build {name}", 0, 1)
            return None
    count.add(f"build {name}", 1, 0, seconds=time.monotonic() - start)
    return directory


def c_programs(directory, name, count):
    """Every cmocka program of the build."""
    programs = sorted(p for p in (directory / "tests").rglob("test_*") if p.is_file() and os.access(p, os.X_OK))
    if not programs:
        count.add(f"{name} unit", 0, 1)
    for program in programs:
        start = time.monotonic()
        try:
            r = subprocess.run([str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", timeout=UNIT_LIMIT_S, env={**os.environ, **ENV})
            output, code = r.stdout, r.returncode
        except subprocess.TimeoutExpired as e:
            output, code = (e.stdout or b"").decode(errors="replace") + f"\nnot done in {UNIT_LIMIT_S} s", -1
        ok = len(re.findall(r"^\[ +OK \] ", output, re.M))
        bad = len(re.findall(r"^\[  FAILED  \] \w+$", output, re.M))
        skipped = len(re.findall(r"^\[  SKIPPED \] ", output, re.M)) // 2
        if code != 0 or ok + bad + skipped == 0:  # a program that ran nothing proves nothing
            bad = max(bad, 1)
        if bad:
            print(output[-20000:])
        count.add(f"{name} {program.name}", ok, bad, skipped, time.monotonic() - start)


def pytest(work, what, paths, count, directory):
    report = work / f"{what.replace(' ', '-')}.xml"
    argv = ["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", f"--junitxml={report}",
            "--rootdir", str(TOP), *[p if p.startswith("--") else str(TOP / p) for p in paths]]
    env = {**os.environ, **ENV, "STILLFS_BUILD": str(directory), "STILLFS_TEST_TMP": str(work), "PYTHONDONTWRITEBYTECODE": "1"}
    start = time.monotonic()
    child = subprocess.Popen(argv, env=env, cwd=work, start_new_session=True)
    try:
        code = child.wait()
    except Interrupted:
        os.kill(child.pid, signal.SIGINT)  # fixtures close what they opened
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    passed = failed = skipped = 0
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {e.tag for e in case}
            if kinds & {"failure", "error"}:
                failed += 1
            elif "skipped" in kinds:
                skipped += 1
            else:
                passed += 1
    if (code != 0 and failed == 0) or passed + failed + skipped == 0:
        failed += 1
    count.add(what, passed, failed, skipped, time.monotonic() - start)


def clean(work):
    """Take back mounts below WORK, and their control trees, that a killed test left."""
    def left():
        lines = pathlib.Path("/proc/mounts").read_text().splitlines()
        points = [line.split()[1] for line in lines]
        names = {p.name for p in pathlib.Path("/run/stillfs").glob("test-*")} if points else set()
        ours = {f"/run/stillfs/{n}" for n in names if any(n.endswith(d.name[-8:]) for d in work.glob("stillfs-test.*"))}
        return [p for p in points if p.startswith(f"{work}/") or p in ours]
    for _ in range(50):
        points = left()
        if not points:
            return True
        for point in reversed(points):
            subprocess.run(["umount", "-f", point], capture_output=True)
        time.sleep(0.1)
    print("still mounted:", *left())
    return False


def run(work, all_, count):
    for name in BUILDS:
        directory = build(work, name, count)
        if not directory:
            continue
        c_programs(directory, name, count)
        if name == "plain":
            pytest(work, "lint", ["tests/lint"], count, directory)
        everything = name == "plain" or all_
        pytest(work, f"{name} {'integration' if everything else 'conformance'}",
               ["tests/integration", "tests/conformance", *[f"--ignore={TOP / f}" for f in FAULTS]] if everything else CONFORMANCE, count, directory)
    directory = build(work, "faults", count)
    if directory:
        pytest(work, "fault points", FAULTS, count, directory)
    if all_:
        other_release(work, "trixie", count)


def other_release(work, suite, count):
    start = time.monotonic()
    r = subprocess.run([str(TOP / "tests" / "debian"), suite], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(work)})
    print(r.stdout, end="")
    found = re.search(r"^(\d+) passed, (\d+) failed$", r.stdout, re.M)
    passed, failed = map(int, found.groups()) if found else (0, 1)
    count.add(f"Debian {suite}", passed, failed if failed or r.returncode == 0 else 1, seconds=time.monotonic() - start)


def main():
    work, all_ = pathlib.Path(sys.argv[1]), "--all" in sys.argv[2:]
    count = Count()

    def interrupted(*_):
        raise Interrupted
    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(s, interrupted)
    if all_:
        os.environ["STILLFS_ALL"] = "1"
    for argv in (["modprobe", "fuse"], ["modprobe", "loop"]):
        subprocess.run(argv, capture_output=True)
    try:
        run(work, all_, count)
    except Interrupted:
        count.failed += 1
        print("interrupted")
    if not clean(work):
        count.failed += 1
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped")
    return 0 if count.failed == 0 and count.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
