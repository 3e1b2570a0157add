"""tests/harness/stillfs.py - a stillfs mount for tests: scratch filesystem, start, control files, kills, clean-up.

Everything is made below one scratch directory and taken back by Mount.close(), in any state.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

BUILD = pathlib.Path(os.environ.get("STILLFS_BUILD", pathlib.Path(__file__).parents[2] / "build"))
STILLFS = BUILD / "fs" / "stillfs"
STILLCTL = BUILD / "tools" / "stillctl"
SANITIZERS = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")


def run(*argv, **kw):
    return subprocess.run([str(a) for a in argv], check=True, text=True, capture_output=True, **kw).stdout


def wait_for(what, condition, within_s=30.0):
    """Poll until condition() is true and return its value; fails with `what`.

    No test waits less than half a minute: the machine may be busy, and who waits for what comes loses nothing.
    """
    within_s = max(within_s, 30.0)
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {within_s} s"
        time.sleep(0.01)


def stop_process(pid):
    """SIGSTOP, and until each of its threads has stopped, but the kernel's workers for its io_uring: on a busy machine that
    takes a while."""
    os.kill(pid, signal.SIGSTOP)

    def stopped(task):
        return process_state(f"{pid}/task/{task.name}") in ("T", "t") or (task / "comm").read_text().startswith("iou-wrk")
    wait_for("its threads to stop", lambda: all(stopped(t) for t in pathlib.Path(f"/proc/{pid}/task").iterdir()))


def process_state(pid):
    """One letter of /proc/PID/stat, "" when gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def is_gone(pid):
    return process_state(pid) in ("", "Z")


@contextlib.contextmanager
def once_each(make):
    """get(kind): what make(kind, stack) makes when it is first asked for; the stack is closed at the end."""
    made = {}
    with contextlib.ExitStack() as stack:
        def get(kind):
            if kind not in made:
                made[kind] = make(kind, stack)
            return made[kind]
        yield get


def scratch_dir(stack):
    """A directory that others may enter, gone with the stack."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    scratch.chmod(0o755)
    stack.callback(shutil.rmtree, scratch)
    return scratch


def is_mounted(path):
    """By the kernel's table: a filesystem that answers only with errors is no mount point to os.path."""
    real = os.path.realpath(path)
    return any(line.split()[4] == real for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines())


def unmount(path, within_s=20):
    """Until it is: a ring of a daemon that ended lets go of its files a little later."""
    end = time.monotonic() + within_s
    while is_mounted(path):
        r = subprocess.run(["umount", str(path)], capture_output=True, text=True)
        assert time.monotonic() < end, f"{path} stays busy: {r.stderr}"
        if r.returncode != 0:
            time.sleep(0.05)


class Scratch:
    """A directory with an image file's filesystem mounted on fs/."""

    def __init__(self, kind="xfs", size_mb=400):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test.", dir=os.environ.get("STILLFS_TEST_TMP", "/tmp")))
        self.dir.chmod(0o755)
        self.image, self.fs = self.dir / "image", self.dir / "fs"
        self.fs.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(size_mb << 20)
        if kind == "xfs":
            run("mkfs.xfs", "-q", "-m", "reflink=1", self.image)
        elif kind == "btrfs":
            run("mkfs.btrfs", "-q", self.image)
        else:
            run("mkfs.ext4", "-q", self.image)
        run("mount", "-o", "loop", self.image, self.fs)

    def close(self):
        unmount(self.fs, 30)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.dir)], check=True)


class Mount:
    """stillfs over scratch/fs/back at scratch/mnt (over=True: over-mount)."""

    def __init__(self, scratch, name=None, over=False, start=True, env=None, program=None, **options):
        self.scratch, self.program = scratch, program or STILLFS
        self.dir = scratch.dir
        self.back = scratch.fs / "back"
        self.back.mkdir(exist_ok=True)
        self.mnt = self.back if over else self.dir / "mnt"
        self.mnt.mkdir(exist_ok=True)
        self.name = name or f"test-{os.getpid()}-{self.dir.name[-8:]}"
        self.control = pathlib.Path("/run/stillfs") / self.name
        self.options = {"name": self.name, "state_dir": self.dir / "state", "log_file": self.dir / "log"}
        self.options.update({k.replace("__", "."): v for k, v in options.items()})
        self.null_ctl, self.null_log = self.dir / "null.ctl", self.dir / "null.log"
        self.env = dict(os.environ, STILLFS_NULL_CTL=str(self.null_ctl), STILLFS_NULL_LOG=str(self.null_log),
                        **(env or {}))
        for name in SANITIZERS:  # stderr of a detached daemon goes nowhere: reports go to files, which close() reads
            self.env[name] = ":".join(filter(None, (self.env.get(name), f"log_path={self.dir}/sanitizer")))
        self.more_pairs = []
        self.keeper = self.daemon = None
        if start:
            self.start()

    def argv(self):
        text = ",".join([f"{k}={v}" for k, v in self.options.items()] + [f"pair={b}:{p}" for b, p in self.more_pairs])
        return [str(self.program), "-o", text, str(self.back), str(self.mnt)]

    def try_start(self):
        return subprocess.run(self.argv(), capture_output=True, text=True, env=self.env, timeout=90)

    def start(self):
        result = self.try_start()
        assert result.returncode == 0, result.stderr + self.log()
        status = self.status()
        self.keeper, self.daemon = int(status["keeper_pid"]), int(status["pid"])

    def log(self):
        path = self.dir / "log"
        return path.read_text() if path.exists() else ""

    # control files

    def read(self, name):
        return (self.control / name).read_text()

    def status(self):
        return dict(line.split(" ", 1) for line in self.read("status").splitlines() if " " in line)

    def write(self, name, text):
        """Write one command; 0 or the errno."""
        fd = None
        try:
            fd = os.open(self.control / name, os.O_WRONLY)
            os.write(fd, text.encode())
            return 0
        except OSError as e:
            return e.errno
        finally:
            if fd is not None:
                os.close(fd)

    def last_error(self):
        return dict(line.split(" ", 1) for line in self.read("last_error").splitlines() if " " in line)

    def gate(self):
        return self.read("gate").split()[0]

    def state(self, name):
        return self.read(f"snapshots/{name}/state").strip()

    def wait_state(self, name, state, within_s=15):
        wait_for(f"{name} {state}", lambda: self.state(name) == state, within_s)

    @contextlib.contextmanager
    def closed(self, timeout=20):
        """The gate closed by the operator."""
        assert self.write("gate", f"close timeout={timeout}\n") == 0, self.last_error()
        try:
            yield
        finally:
            self.write("gate", "open\n")

    def null(self, text):
        self.null_ctl.write_text(text)

    def null_calls(self):
        """[(ns, call, argument)] of the null provider, in order."""
        if not self.null_log.exists():
            return []
        return [(int(a), b, c) for a, b, c in (line.split() for line in self.null_log.read_text().splitlines())]

    # end

    def stop(self, within_s=20):
        os.kill(self.keeper, signal.SIGTERM)
        wait_for("end of stillfs", lambda: is_gone(self.keeper), within_s)

    def close(self):
        if self.keeper and not is_gone(self.keeper):
            try:
                self.stop()
            except (AssertionError, OSError):
                for pid in (self.daemon, self.keeper):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                wait_for("death of stillfs", lambda: is_gone(self.keeper))
        for path in (self.control, self.mnt, *(p for _, p in self.more_pairs)):
            while subprocess.run(["umount", "-f", str(path)], capture_output=True).returncode == 0 and \
                    path != self.back:
                pass
        with contextlib.suppress(OSError):
            self.control.rmdir()
        reports = sorted(self.dir.glob("sanitizer.*"))
        text = "\n".join(p.read_text(errors="replace") for p in reports)
        for p in reports:
            p.unlink()
        assert not text, f"a sanitizer reported:\n{text[:8000]}"


def errno_of(call, *args, **kw):
    """The result of a call, or its errno as a negative number's name."""
    try:
        return call(*args, **kw)
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
