"""tests/bench/lib/views.py - the directories that are compared: native, native again (the control), a stillfs mount,
and the floor (tests/bench/floor.c).  Each has .path and .threads(): {thread name: ns on a CPU}."""

import contextlib

from device import Helper, thread_ns
from stillfs import Mount

ALL = ("native", "control", "mount", "floor")


class Native:
    def __init__(self, path):
        self.path = path

    def threads(self):
        return {}

    def close(self):
        pass


class Stillfs(Native):
    def __init__(self, volume, options):
        self.mount = Mount(volume, **options)
        super().__init__(self.mount.mnt)

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


class Floor(Native):
    def __init__(self, volume):
        self.helper = Helper(volume.build / "tests" / "bench" / "floor", [], volume.dir / "floor")
        super().__init__(self.helper.mountpoint)

    def threads(self):
        return {f"{name}-{tid}": ns for tid, (name, ns) in thread_ns(self.helper.pid).items()}

    def close(self):
        self.helper.close()


def parse_options(text):
    """a=1,b.c=2 as Mount takes it."""
    return {k.replace(".", "__"): v for k, _, v in (o.partition("=") for o in text.split(",") if o)}


@contextlib.contextmanager
def opened(volume, names, mount_options=""):
    """{name: view} over volume.fs/back, closed at the end in any case."""
    back = volume.fs / "back"
    back.mkdir(exist_ok=True)
    back.chmod(0o755)
    with contextlib.ExitStack() as stack:
        views = {}
        for name in names:
            if name == "mount":
                views[name] = Stillfs(volume, parse_options(mount_options))
            elif name == "floor":
                views[name] = Floor(volume)
            else:
                views[name] = Native(back)
            stack.callback(views[name].close)
        yield views
