"""stillctl's commands about keeping and deleting, its check for monitoring, completion, and the units of the timer."""

import errno
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess

import pytest

from stillfs import STILLCTL, wait_for
from test_retention import change_records, make_older, plan, sets, settled, take

TOP = pathlib.Path(__file__).resolve().parents[2]


def ctl(m, *args, stdin=""):
    return subprocess.run([str(STILLCTL), "--dir", str(m.control), *args], capture_output=True, text=True, input=stdin, timeout=60)


def test_retention_and_prune_by_command(make_mount):
    m = make_mount()
    take(m, "a", "b", "c")
    assert re.search(r'"hold_ms":\d+\.\d{3}[,}]', m.read("list.json")), m.read("list.json")
    r = ctl(m, "retention", "keep_last=2", "nightly.keep_daily 1", "keep_tag=why:law=1")
    assert (r.returncode, r.stdout) == (0, "policy\ntimezone UTC\nkeep_last 2\nkeep_tag why:law=1\nnightly.keep_daily 1\n"), r
    assert json.loads(ctl(m, "--json", "retention").stdout)["keep_last"] == "2"
    r = ctl(m, "retention", "keep_last=3", "keep_fast=2")
    assert r.returncode == 1 and r.stderr.startswith('stillctl: retention: "keep_fast": unknown')
    assert "keep_last 2\n" in ctl(m, "retention").stdout
    r = ctl(m, "retention", "-", stdin="keep_last 4\n-keep_tag\n")
    assert (r.returncode, r.stdout) == (0, "policy\ntimezone UTC\nkeep_last 4\nnightly.keep_daily 1\n"), r
    r = ctl(m, "retention", "-", stdin="keep_last 2\n" * 1000)
    assert r.returncode == 1 and "longer than a control file takes" in r.stderr
    ctl(m, "retention", "keep_last=2", "keep_tag=why:law=1")
    assert ctl(m, "prune").stdout == m.read("prune")
    p = json.loads(ctl(m, "--json", "prune").stdout)
    assert (p["plan"], p["delete"]) == (plan(m)[0]["plan"], "1")
    assert [(s["name"], s["action"], s["why"]) for s in p["sets"]][0] == ("a", "delete", "no rule keeps it")
    assert ctl(m, "pin", "a").returncode == 0
    r = ctl(m, "prune", "apply", p["plan"])
    assert r.returncode == 1 and "read prune again" in r.stderr
    assert ctl(m, "unpin", "a").returncode == 0
    assert ctl(m, "prune", "apply", p["plan"]).returncode == 0
    settled(m)
    assert sets(m) == ["b", "c"] and ": no rule keeps it, prune by an operator" in ctl(m, "prune", "log").stdout
    r = ctl(m, "delete", "c")
    assert r.returncode == 1 and "newest complete set" in r.stderr
    assert ctl(m, "delete", "--force", "c").returncode == 0
    assert ctl(m, "delete", "--force", "gone").returncode == 1
    for wrong in (("prune", "aply"), ("prune", "adopt", "x"), ("delete", "b", "c"), ("delete", "--force")):
        assert ctl(m, *wrong).returncode == 2, wrong


def test_list_all_shows_other_lineages_and_orphans_which_nothing_touches(make_mount):
    m = make_mount(retention="keep_last 1")
    take(m, "a", "b", "c")
    own, base = m.status()["lineage"], m.scratch.fs / "back.snapshots"
    assert m.status()["list_all_looked"] == "never"
    m.stop()
    for path in (m.dir / "state" / "sets").glob("*.json"):
        if json.loads(path.read_text())["name"] == "b":
            path.unlink()
    for name, lineage in (("theirs", "e" * 32), ("who", None)):
        shutil.copytree(base / "a", base / name)
        (base / name / "id").write_text(name.encode().hex().ljust(32, "0"))
        if not lineage:
            (base / name / "origin").unlink()
        text = (base / "a" / "data" / ".stillfs-position").read_text()
        assert f"lineage {own}\n" in text
        (base / name / "data" / ".stillfs-position").write_text(text.replace(f"lineage {own}\n", f"lineage {lineage}\n" if lineage else ""))
    (base / "a stranger").mkdir()
    m.start()
    there = {"a": ("complete", own, "own"), "c": ("complete", own, "own"), "b": ("complete", own, "orphan"),
             "theirs": ("complete", "e" * 32, "other"), "who": ("complete", "-", "unknown")}

    def shown(text):
        rows = [line.split() for line in text.splitlines()]
        assert rows[0] == "NAME CLASS CREATED AGE STATE VOL SIZE POSITION LINEAGE WHOSE".split()
        return {r[0]: (r[4], r[8], r[9]) for r in rows[1:]}
    r = ctl(m, "list", "--all")
    assert (r.returncode, r.stderr, shown(r.stdout)) == (0, "", there)
    assert {s["name"]: s["whose"] for s in map(json.loads, ctl(m, "--json", "list", "--all").stdout.splitlines())} == \
        {n: whose for n, (_, _, whose) in there.items()}
    assert sets(m) == ["a", "c"] and ctl(m, "list", "--al").returncode == 2
    looked = m.status()["list_all_looked"]
    for name in ("b", "theirs", "who"):
        with pytest.raises(OSError) as e:
            os.rmdir(m.control / "snapshots" / name)
        assert e.value.errno == errno.ENOENT
        assert m.write("prune", f"delete {name} force\n") == errno.ENOENT
    assert m.write("prune", "apply\n") == 0
    settled(m)
    assert sorted(os.listdir(base)) == ["a stranger", "b", "c", "theirs", "who"]
    del there["a"]
    assert shown(m.read("list.all")) == there, "what has gone is not taken for an orphan"
    if m.status()["list_all_looked"] != "looking":  # else a minute has passed
        assert m.status()["list_all_looked"] == looked


def test_list_all_says_when_the_provider_cannot_tell(make_mount):
    m = make_mount(provider="null")
    take(m, "a")
    r = ctl(m, "list", "--all")
    assert (r.returncode, r.stderr) == (1, "stillctl: only what the catalog has: provider null tells of no other sets\n")
    assert m.read("list.all").splitlines()[1].split()[0] == "a"


def test_a_set_that_is_not_there_is_said_in_the_same_words_by_every_command(mount):
    for command in (("show",), ("wait",), ("delete",), ("pin",), ("unpin",), ("restore", "--in-place")):
        r = ctl(mount, command[0], "nobody", *command[1:])
        assert (r.returncode, r.stderr) == (1, "stillctl: no such set: nobody\n"), command
    assert ctl(mount, "doctor", "now").stderr == "stillctl: usage: stillctl doctor\n"
    assert ctl(mount, "show").stderr == "stillctl: usage: stillctl show NAME\n"


def test_check_ends_with_the_codes_of_monitoring(make_mount):
    m = make_mount(provider="null")
    assert ctl(m, "check").returncode == 2
    take(m, "a", "b")
    r = ctl(m, "check", "--max-age", "26h")
    assert r.returncode == 0 and re.fullmatch(r"OK: b is the newest complete set, 0m \| age=\d+s;;93600\n", r.stdout), r
    r = ctl(m, "check", "--max-verified-age", "8d")
    assert r.returncode == 1 and "no set is verified" in r.stdout
    make_older(m, {"a": 9, "b": 2})
    r = ctl(m, "check")
    assert r.returncode == 2 and r.stdout.startswith("CRITICAL: b is the newest complete set, 2d; that is too old |")
    assert ctl(m, "check", "--max-age", "3d").returncode == 0
    m.stop()

    def verified(record):
        if record["name"] == "a":
            record["verified"] = "yes"
    change_records(m, verified)
    m.start()
    if '"verified":"yes"' in m.read("list.json"):
        assert ctl(m, "check", "--max-age", "3d", "--max-verified-age", "10d").returncode == 0
        assert ctl(m, "check", "--max-age", "3d", "--max-verified-age", "8d").returncode == 1
    m.null("trigger fail 5\n")
    assert m.write("snapshot", "bad\n") != 0
    r = ctl(m, "check", "--max-age", "3d")
    assert r.returncode == 1 and "bad, the last one, has failed" in r.stdout
    j = json.loads(ctl(m, "--json", "check", "--max-age", "3d").stdout)
    assert (j["status"], j["code"]) == ("WARNING", 1) and 2 * 86400 <= j["age"] < 2 * 86400 + 600
    for wrong in (("--max-age",), ("--max-age", "soon"), ("--max-age", "0"), ("--bogus", "1h")):
        r = ctl(m, "check", *wrong)
        assert r.returncode == 3 and r.stdout.startswith("UNKNOWN: usage"), wrong
    r = subprocess.run([str(STILLCTL), "--dir", str(m.dir / "nothing"), "check"], capture_output=True, text=True)
    assert r.returncode == 3 and r.stdout == "UNKNOWN: no stillfs answers\n"


def complete(m, *words):
    script = f"source {TOP}/tools/stillctl.bash-completion; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; " \
             '_stillctl; echo "${COMPREPLY[@]}"'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_completion_in_bash_offers_sets_rules_and_the_plan(make_mount):
    m = make_mount()
    take(m, "alpha", "beta")
    assert complete(m, "stillctl", "-n", m.name, "pin", "a") == ["alpha"]
    assert complete(m, "stillctl", "-n", m.name, "retention", "keep_w") == ["keep_weekly=", "keep_within="]
    assert complete(m, "stillctl", "-n", m.name, "prune", "''") == ["apply", "adopt", "log", plan(m)[0]["plan"]]
    assert "retention" in complete(m, "stillctl", "re")


def zsh_line(m, typed):
    """What an interactive zsh has in its line after `typed`, in which a tab completes; a widget of its own writes it down."""
    d = m.dir / "zsh"
    (d / "functions").mkdir(parents=True, exist_ok=True)
    (d / "functions" / "_stillctl").write_text((TOP / "tools" / "stillctl.zsh-completion").read_text())
    (d / "line").unlink(missing_ok=True)
    (d / ".zshrc").write_text(f"""fpath=({d}/functions $fpath)
autoload -Uz compinit && compinit -u -D
tell() {{ print -r -- $BUFFER > {d}/part && mv {d}/part {d}/line }}
zle -N tell
bindkey '^X' tell
print > {d}/ready
""")
    (d / "ready").unlink(missing_ok=True)
    pid, fd = pty.fork()
    if pid == 0:
        os.execve("/usr/bin/zsh", ["zsh", "-d", "-i"], {"ZDOTDIR": str(d), "TERM": "dumb", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    try:
        os.set_blocking(fd, False)
        sent = False

        def told():
            nonlocal sent
            try:
                os.read(fd, 65536)  # what it shows: not looked at, but it must not block
            except BlockingIOError:
                pass
            if not sent and (d / "ready").exists():
                os.write(fd, typed.encode() + b"\x18")
                sent = True
            return (d / "line").exists()
        wait_for("zsh's line", told)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
    return (d / "line").read_text().rstrip("\n")


def test_completion_in_zsh_offers_commands_sets_rules_and_the_plan(make_mount):
    m = make_mount()
    take(m, "alpha", "beta")
    assert zsh_line(m, "stillctl upg\t") == "stillctl upgrade "
    assert zsh_line(m, f"stillctl -n {m.name} pin a\t") == f"stillctl -n {m.name} pin alpha "
    assert zsh_line(m, f"stillctl -n {m.name} retention keep_we\t") == f"stillctl -n {m.name} retention keep_weekly="
    number = plan(m)[0]["plan"]
    assert zsh_line(m, f"stillctl -n {m.name} prune {number[:4]}\t") == f"stillctl -n {m.name} prune {number} "
    assert zsh_line(m, f"stillctl -n {m.name} pin nobody\t") == f"stillctl -n {m.name} pin nobody"


@pytest.mark.parametrize("unit", ["stillfs-snapshot@.service", "stillfs-snapshot@.timer"])
def test_the_units_of_the_timer_are_good(unit, tmp_path):
    """systemd's own check, with a program that it finds as it finds stillctl: below /usr/local or not, as it was installed."""
    units = tmp_path / "units"
    units.mkdir()
    for name in ("stillfs-snapshot@.service", "stillfs-snapshot@.timer"):
        text = (TOP / "tools" / "systemd" / name).read_text()
        assert name.endswith(".timer") or "\nExecStart=stillctl " in text
        (units / name.replace("@", "@x")).write_text(text.replace("=stillctl ", "=true "))
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", str(units / unit.replace("@", "@x"))], capture_output=True, text=True,
                       env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"})
    assert [line for line in r.stderr.splitlines() if "stillfs" in line] == [], r.stderr
    assert "Persistent=true" in (TOP / "tools/systemd/stillfs-snapshot@.timer").read_text()
