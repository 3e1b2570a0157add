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

import clientlib

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILDS = {
    "plain": [],
    "asan": ["-Db_sanitize=address,undefined", "-Db_lundef=false"],
    "tsan": ["-Db_sanitize=thread", "-Db_lundef=false"],
}
FAULTS_BUILD = ["-Dfault_points=true"]
# Death between any two stores of the tables, steps of a snapshot and of a prune: a build of its own, so that the product
# is tested as it is shipped.
FAULTS = ["tests/integration/test_takeover_faults.py", "tests/integration/test_takeover_snapshot.py",
          "tests/integration/test_prune_faults.py", "tests/integration/test_cutover_faults.py",
          "tests/integration/test_fence_faults.py", "tests/integration/test_cutover_mount_faults.py",
          "tests/integration/test_death_faults.py"]
UNIT_LIMIT_S = 120
# What the builds with sanitizers run against real mounts: every operation, the gate, and writes made at once.
CONFORMANCE = ["tests/integration/test_files.py", "tests/integration/test_gate.py", "tests/integration/test_writeback.py",
               "tests/conformance/fs/test_cases.py"]
AT_ONCE = 3
# One after the other at the end: they empty the machine's caches, measure ratios or look for what others leave.
ALONE = [f"tests/{f}.py" for f in (
    "conformance/fs/test_tools", "integration/test_bench", "integration/test_files", "integration/test_takeover",
    "integration/test_takeover_load", "integration/test_snapshot", "integration/test_coordinators", "integration/test_transport",
    "integration/test_verify", "integration/test_writeback")]
# First, as the last ones to end are waited for.
LONG = [f"tests/{f}.py" for f in (
    "integration/test_takeover_faults", "integration/test_fence_mongodb", "integration/test_pending", "integration/test_coord_sql", "integration/test_gate",
    "integration/test_takeover_snapshot", "conformance/fs/test_cases", "integration/test_ebs", "integration/test_roles",
    "integration/test_engines_mysql", "integration/test_cluster", "integration/test_fence_load", "integration/test_ebs_creation",
    "integration/test_prune_faults",
    "integration/test_mariadb", "integration/test_cutover_faults", "integration/test_fence", "integration/test_signals")]
ENV = {
    "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "MONGOC_DISABLE_SHM": "1",
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


def build_with_libmysqlclient(work, count):
    start = time.monotonic()
    try:
        os.environ["STILLFS_LIBMYSQLCLIENT"] = str(clientlib.build(work / "client"))
        count.add("build libmysqlclient", 1, 0, seconds=time.monotonic() - start)
    except AssertionError as e:
        print(e)
        count.add("build libmysqlclient", 0, 1)


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


class Session:
    """One pytest process over `paths`; several may run at a time."""

    def __init__(self, work, what, paths, directory, log=None):
        self.report = work / f"{what.replace(' ', '-')}.xml"
        argv = ["/usr/bin/python3", "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", f"--junitxml={self.report}",
                "--rootdir", str(TOP), *[p if p.startswith("--") else str(TOP / p) for p in paths]]
        env = {**os.environ, **ENV, "STILLFS_BUILD": str(directory), "STILLFS_TEST_TMP": str(work),
               "PYTHONDONTWRITEBYTECODE": "1"}
        self.start = time.monotonic()
        self.child = subprocess.Popen(argv, env=env, cwd=work, start_new_session=True, stdout=log, stderr=log)

    def end(self):
        os.kill(self.child.pid, signal.SIGINT)  # fixtures close what they opened
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def result(self):
        """passed, failed, skipped, seconds; a process that says that it failed and names no test is a failure."""
        passed = failed = skipped = 0
        if self.report.exists():
            for case in ElementTree.parse(self.report).iter("testcase"):
                kinds = {e.tag for e in case}
                if kinds & {"failure", "error"}:
                    failed += 1
                elif "skipped" in kinds:
                    skipped += 1
                else:
                    passed += 1
        if (self.child.returncode != 0 and failed == 0) or passed + failed + skipped == 0:
            failed += 1
        return passed, failed, skipped, time.monotonic() - self.start


def pytest(work, what, paths, count, directory):
    session = Session(work, what, paths, directory)
    try:
        session.child.wait()
    except Interrupted:
        session.end()
        raise
    count.add(what, *session.result())


def finished(session, what, log, count):
    log.seek(0)
    print(f"---- {what}\n{log.read()}", end="")
    log.close()
    count.add(what, *session.result())


def short(path):
    return path.removeprefix("tests/").removesuffix(".py").replace("/", "-")


def jobs(directories, all_):
    """(what, file, build directory) of all pytest processes; each file is one, and runs on one build at a time."""
    tests = [str(p.relative_to(TOP)) for d in ("integration", "conformance/fs") for p in sorted((TOP / "tests" / d).glob("test_*.py"))]
    out = []
    for name, directory in directories.items():
        for f in FAULTS if name == "faults" else [t for t in tests if t not in FAULTS] if name == "plain" or all_ else CONFORMANCE:
            out.append((f"{name} {short(f)}", f, directory))
    return sorted(out, key=lambda job: LONG.index(job[1]) if job[1] in LONG else len(LONG))


def side_by_side(work, todo, at_once, count):
    """A process for each job, `at_once` of them at a time: most tests wait most of their time."""
    running = []
    try:
        while todo or running:
            while todo and len(running) < at_once:
                what, path, directory = todo.pop(0)
                log = open(work / f"{what.replace(' ', '-')}.log", "w+", errors="replace")
                running.append((Session(work, what, [path], directory, log), what, log))
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for one in [r for r in running if r[0].child.poll() is not None]:
                running.remove(one)
                finished(*one, count)
    except Interrupted:
        for session, _, _ in running:
            session.end()
        raise


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
    directories = {name: d for name in (*BUILDS, "faults") if (d := build(work, name, count))}
    build_with_libmysqlclient(work, count)
    for name in BUILDS:
        if name in directories:
            c_programs(directories[name], name, count)
    if "plain" in directories:
        pytest(work, "lint", ["tests/lint"], count, directories["plain"])
    todo = jobs(directories, all_)
    side_by_side(work, [j for j in todo if j[1] not in ALONE], AT_ONCE, count)
    side_by_side(work, [j for j in todo if j[1] in ALONE], 1, count)
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
