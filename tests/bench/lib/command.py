"""tests/bench/lib/command.py - what every measuring command does: options, packages, build, clean end.

A command imports it first; it makes tests/harness importable and sets STILLFS_BUILD for it."""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TOP / "tests" / "harness"))
sys.dont_write_bytecode = True


class Failed(Exception):
    """Said in one line; exit code 1."""


def say(text=""):
    print(text, flush=True)


def parser(description, plot=False, **defaults):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--build", metavar="DIR", default=os.environ.get("STILLFS_BUILD"),
                   help="a build made with -Dtest_providers=true --buildtype=release; without it one is made")
    p.add_argument("--json", metavar="FILE", help="write all figures there")
    if plot:
        p.add_argument("--plot", metavar="FILE", help="draw the ratios there, a PNG by gnuplot")
    p.add_argument("--rounds", type=int, default=defaults.get("rounds", 3), help="rounds of each comparison")
    p.add_argument("--mount-opts", metavar="K=V,...", default="", help="options of the stillfs mount")
    return p


def two_builds(p):
    """What a command takes that can compare two builds, or one with other options."""
    p.add_argument("--other", metavar="DIR", help="the build of the views `other` and `other-pinned`")
    p.add_argument("--other-opts", metavar="K=V,...", default="", help="options of its mount")


def pieces(p):
    """What a command takes that can measure in pieces; tests/bench/report puts them together."""
    p.add_argument("--within", type=float, metavar="SECONDS", help="begin no run after that but the first, and report what there is")


def make_build(directory):
    for argv in (["meson", "setup", directory, TOP, "--buildtype=release", "-Dtest_providers=true", "-Ddocs=disabled"],
                 ["ninja", "-C", directory]):
        r = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        if r.returncode:
            raise Failed("the build failed\n" + (r.stdout + r.stderr)[-3000:])


def packages(*groups):
    if subprocess.run([str(TOP / "tools" / "install-deps"), *groups]).returncode:
        raise Failed("packages are missing")


def look(body, arguments):
    """body(arguments), which only reads what was measured before."""
    try:
        return body(arguments) or 0
    except (Failed, OSError) as e:
        print(f"{pathlib.Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        return 1


def main(body, arguments, groups=("build", "bench")):
    """Run body(arguments); its contexts clean up whatever ends it."""
    def interrupted(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, interrupted)
    made = None
    try:
        if os.geteuid() != 0:
            raise Failed("it mounts filesystems: run it as root")
        packages(*groups)
        if not arguments.build:
            made = tempfile.mkdtemp(prefix="stillfs-build.", dir=os.environ.get("STILLFS_BENCH_TMP", "/tmp"))
            say("building ...")
            make_build(made)
            arguments.build = made
        os.environ["STILLFS_BUILD"] = arguments.build
        return body(arguments) or 0
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Failed as e:
        print(f"{pathlib.Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as e:
        print(f"{' '.join(map(str, e.cmd))}: exit {e.returncode}\n{e.stderr or ''}", file=sys.stderr)
        return 1
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
