"""Every case of fs_cases (main.c and case_*.c beside this file) on the native directory and on the mount, line by line.

An intended difference is in INTENDED with what the mount answers, and in docs/limits.md with the reason."""

import difflib
import fnmatch
import os
import pathlib
import re
import subprocess

import pytest

from stillfs import BUILD, Mount, Scratch, wait_for
from trees import differences, tree

PROGRAM = BUILD / "tests" / "conformance" / "fs" / "fs_cases"
LIMITS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "limits.md"
UNPRIVILEGED = 65534
LIMIT_S = 55

# "case key" as a pattern -> (what the mount says instead, words of docs/limits.md)
INTENDED = {
    "alloc_collapse collapse*": (r"EOPNOTSUPP|size=65536 blocks=some|data 0-65536|65536 bytes \w+", "COLLAPSE_RANGE"),
    "alloc_insert insert*": (r"EOPNOTSUPP|size=65536 blocks=some|data 0-65536|65536 bytes \w+", "INSERT_RANGE"),
    "alloc_unshare unshare*": (r"EOPNOTSUPP|size=65536 blocks=some|data 0-65536|65536 bytes \w+", "UNSHARE_RANGE"),
    "attr_rules read-noatime": (r"a\+ m= c=", "F_SETFL"),
    "attr_statfs pathconf-size": (r"32", "_PC_FILESIZEBITS"),
    "data_direct_memory odd-memory": (r"4096", "alignment of memory"),
    "data_nowait write": (r"EOPNOTSUPP", "RWF_NOWAIT"),
    "data_seek far": (r"9223372036854775807", "largest file"),
    "mmap_size tail-now": (r"119", "beyond the end of a file"),
}


# one filesystem is enough for a build with sanitizers
KINDS = ["xfs"] if BUILD.name in ("asan", "tsan") else ["xfs", "ext4"]


@pytest.fixture(scope="module", params=KINDS)
def place(request):
    """One mount over a filesystem of that kind."""
    s = Scratch(request.param)
    m = Mount(s, start=False)
    try:
        m.start()
        yield m
    finally:
        m.close()
        s.close()


def run_cases(directory, uid, *cases):
    directory.mkdir(parents=True)
    r = subprocess.run([str(PROGRAM), "-u", str(uid), str(directory), *cases], capture_output=True, text=True,
                       errors="backslashreplace", timeout=LIMIT_S)
    assert r.returncode == 0, r.stderr
    return r.stdout.splitlines()


def groups(lines):
    """{case: its lines}"""
    out = {}
    for line in lines:
        out.setdefault(line.split(" ", 1)[0], []).append(line)
    return out


def intended(line):
    """The mount's answer in this line is one that docs/limits.md names."""
    name, value = " ".join(line.split(" ", 2)[:2]), line.split(" ", 2)[2]
    return any(fnmatch.fnmatch(name, p) and re.fullmatch(v, value) for p, (v, _) in INTENDED.items())


def compare(native, mounted):
    """The differences that are not intended, as lines."""
    bad = []
    a, b = groups(native), groups(mounted)
    for case in a.keys() | b.keys():
        marks = [d for d in difflib.ndiff(a.get(case, []), b.get(case, [])) if d[0] in "+-"]
        added = [d[2:] for d in marks if d[0] == "+"]
        if marks and not (added and all(intended(line) for line in added)):
            bad += marks
    return bad


@pytest.mark.parametrize("uid", [0, UNPRIVILEGED], ids=["root", "user"])
def test_every_case_gives_the_same_results(place, uid):
    native, mounted = place.scratch.fs / f"native-{uid}", place.mnt / f"cases-{uid}"
    results = [run_cases(d, uid) for d in (native, mounted)]
    assert len(results[0]) > (2000 if uid == 0 else 1300), "cases did not run"
    assert not [line for line in results[0] if " died " in line or (" killed " in line and not line.startswith("data_fsize_limit "))]
    bad = compare(*results)
    assert not bad, "\n".join(bad)
    # and what is left is the same on the mount (its caches), in the backing and natively
    backing = place.back / f"cases-{uid}"

    def settled():
        return differences(tree(mounted, same_files=True), tree(backing, same_files=True))
    wait_for("the mount to show what the backing has", lambda: not settled() or None, 5)
    same = [d for d in differences(tree(native), tree(backing)) if not d.startswith(("alloc_", "mmap_size", "data_direct_memory", "dir_changes"))]
    assert not same, "\n".join(same)


def test_each_intended_difference_is_documented():
    text = LIMITS.read_text()
    for pattern, (_, words) in INTENDED.items():
        assert words in text, f"{pattern}: docs/limits.md does not say {words!r}"


def test_a_difference_is_found():
    native = ["a x 1", "a y ok", "mmap_size tail-now 0"]
    assert compare(native, ["a x 1", "a y ok", "mmap_size tail-now 119"]) == []
    assert compare(native, ["a x 1", "a y EIO", "mmap_size tail-now 0"]) == ["- a y ok", "+ a y EIO"]
    assert compare(native, ["a x 1", "a y ok", "mmap_size tail-now 7"]) == ["- mmap_size tail-now 0",
                                                                           "+ mmap_size tail-now 7"]
    assert compare(native, ["a x 1", "a y ok"]) == ["- mmap_size tail-now 0"]


def test_numbers_and_devices_are_consistent(place):
    d = place.mnt / "numbers"
    d.mkdir()
    (d / "f").write_text("x")
    (d / "sub").mkdir()
    devices = {os.stat(p).st_dev for p in (place.mnt, d, d / "f", d / "sub")}
    assert devices == {os.stat(place.mnt).st_dev} and os.stat(place.back).st_dev not in devices
    for p in ("numbers", "numbers/f", "numbers/sub"):
        assert os.stat(place.mnt / p).st_ino == os.stat(place.back / p).st_ino
        assert os.stat(place.mnt / p).st_nlink == os.stat(place.back / p).st_nlink
