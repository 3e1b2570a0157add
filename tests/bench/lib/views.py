"""tests/bench/lib/views.py - the directories that are compared: native, native again (the control), a stillfs mount,
a mount of another build (other), and the floor (tests/bench/floor.c), also with eight buffers (floor8); pinned and other-pinned are the same mounts with each
data thread bound to a CPU.  Each has .path, the native directory .back behind it, .begin(), which a run calls first,
.threads(): {thread name: ns on a CPU}, and .cpu_s(): CPU seconds of the whole daemon."""

import contextlib
import os
import pathlib
import shutil
import types

from device import Helper, process_s, thread_ns
from stillfs import STILLFS, Mount

PINNED = {"pinned": "mount", "other-pinned": "other"}
ALL = ("native", "control", "mount", "pinned", "other", "other-pinned", "floor", "floor8")


class Native:
    def __init__(self, path, back=None):
        self.path, self.back = path, back or path

    def begin(self):
        pass

    def threads(self):
        return {}

    def cpu_s(self):
        return 0.0

    def close(self):
        pass


class Stillfs(Native):
    def __init__(self, scratch, options, program=STILLFS):
        self.mount = Mount(scratch, program=program, **options)
        super().__init__(self.mount.mnt, self.mount.back)

    def bind(self, each):
        """Each data thread on a CPU of its own, or all of them where the scheduler likes."""
        cpus = sorted(os.sched_getaffinity(0))
        for tid, (name, _) in thread_ns(self.mount.daemon).items():
            if name.startswith("lane-"):
                os.sched_setaffinity(int(tid), {cpus[int(name[5:]) % len(cpus)]} if each else cpus)

    def begin(self):
        self.bind(False)

    def cpu_s(self):
        return process_s(self.mount.daemon)

    def threads(self):
        """By name; threads of one name get a number, in the order they were made."""
        found, count = {}, {}
        for pid in (self.mount.daemon, self.mount.keeper):
            for _, (name, ns) in sorted(thread_ns(pid).items(), key=lambda kv: int(kv[0])):
                count[name] = count.get(name, 0) + 1
                found[f"{name}#{count[name]}"] = ns
        return found

    def close(self):
        self.mount.close()


class Pinned(Native):
    """The mount of another view, its data threads bound."""

    def __init__(self, of):
        super().__init__(of.path, of.back)
        self.of, self.threads, self.cpu_s = of, of.threads, of.cpu_s

    def begin(self):
        self.of.bind(True)


class Floor(Native):
    def __init__(self, volume, buffers=1):
        self.helper = Helper(volume.build / "tests" / "bench" / "floor", ["-b", str(buffers)], volume.dir / f"floor{buffers}")
        super().__init__(self.helper.mountpoint, volume.fs / "back")
        self.volume = volume

    def preloaded(self):
        """Environment of a program that works on .back: native, with the messages and locks that FUSE costs (dbfloor.c)."""
        lib = shutil.copy(self.volume.build / "tests" / "bench" / "dbfloor.so", self.volume.dir)  # for a user who sees no build
        return {**os.environ, "LD_PRELOAD": lib, "STILLFS_FLOOR": str(self.path), "STILLFS_FLOOR_OF": str(self.back)}

    def threads(self):
        return {f"{name}-{tid}": ns for tid, (name, ns) in thread_ns(self.helper.pid).items()}

    def cpu_s(self):
        return process_s(self.helper.pid)

    def close(self):
        self.helper.close()


def parse_options(text):
    """a=1,b.c=2 as Mount takes it."""
    return {k.replace(".", "__"): v for k, _, v in (o.partition("=") for o in text.split(",") if o)}


def needed(names, other):
    """The names, each once and a mount before its pinned view. AssertionError: `other` asks for another build."""
    found = list(dict.fromkeys(n for name in names for n in (PINNED.get(name), name) if n))
    assert other or "other" not in found, "other: name its build with --other"
    return found


def other_place(volume):
    """Where the other build's mount lies: a second server may not have the same directory."""
    place = types.SimpleNamespace(dir=volume.dir / "other", fs=volume.fs / "other")
    for d in (place.dir, place.fs, place.fs / "back"):
        d.mkdir(exist_ok=True)
        d.chmod(0o755)
    return place


@contextlib.contextmanager
def opened(volume, names, mount_options="", other=None, other_options=""):
    """{name: view} over volume.fs/back, and over fs/other/back that of the build in `other`; closed in any case."""
    back = volume.fs / "back"
    back.mkdir(exist_ok=True)
    back.chmod(0o755)
    with contextlib.ExitStack() as stack:
        views = {}
        for name in needed(names, other):
            if name == "mount":
                views[name] = Stillfs(volume, parse_options(mount_options))
            elif name == "other":
                views[name] = Stillfs(other_place(volume), parse_options(other_options),
                                      pathlib.Path(other) / "fs" / "stillfs")
            elif name in PINNED:
                views[name] = Pinned(views[PINNED[name]])
            elif name in ("floor", "floor8"):
                views[name] = Floor(volume, 8 if name == "floor8" else 1)
            else:
                views[name] = Native(back)
            stack.callback(views[name].close)
        yield views
