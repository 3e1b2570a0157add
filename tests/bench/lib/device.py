"""tests/bench/lib/device.py - the filesystem under a measurement: XFS on a loop device over memory, plain or with a
cloud volume's latency and limits (tests/bench/blockdev.c)."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

from stillfs import run, unmount

PROFILES = {
    "raw": None,  # no latency of its own: the worst case for any overhead
    "lat400": ["latency_us=400"],
    "iops3000": ["latency_us=400", "iops=3000", "mbps=125"],
    "iops16000": ["latency_us=400", "iops=16000", "mbps=1000"],
}


def thread_ns(pid):
    """{thread id: (name, nanoseconds on a CPU)} of a process."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            name = (task / "comm").read_text().strip()
            found[task.name] = (name, int((task / "schedstat").read_text().split()[0]))
    return found


def process_s(pid):
    """CPU seconds of a process; threads that have ended, such as the kernel's workers for its io_uring, are in it."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Helper:
    """A program of ours that mounts itself, says "ready" and ends when it is unmounted."""

    def __init__(self, program, options, mountpoint):
        self.mountpoint = pathlib.Path(mountpoint)
        self.mountpoint.mkdir(exist_ok=True)
        self.process = subprocess.Popen([str(program), *options, str(mountpoint)], stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)  # Ctrl-C is for us: what lies on it goes first
        line = self.process.stdout.readline()
        assert line == "ready\n", f"{program} did not start"

    @property
    def pid(self):
        return self.process.pid

    def close(self):
        unmount(self.mountpoint)
        try:
            return self.process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Interrupts:
    """The loop device hands each request to a kernel worker, where a volume has a controller and an interrupt: neither waits
    for a CPU behind the program that wrote, as such a worker does, by milliseconds once both CPUs are busy. So the workers
    that any CPU may run, which are the loop device's, are real-time ones while a volume is open, as the device under them is,
    alike for all that is compared. The kernel makes new ones as it needs them: they are looked for once a second."""

    def __init__(self):
        self.raised, self.end = set(), threading.Event()
        self.look()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def look(self):
        for pid in map(int, pathlib.Path("/proc/2/task/2/children").read_text().split()):
            with contextlib.suppress(OSError):  # it has ended
                name = pathlib.Path(f"/proc/{pid}/comm").read_text()
                if name.startswith("kworker/u") and os.sched_getscheduler(pid) == os.SCHED_OTHER:
                    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
                    self.raised.add(pid)

    def _watch(self):
        while not self.end.wait(1):
            self.look()

    def close(self):
        self.end.set()
        self.thread.join()
        for pid in self.raised:
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("kworker/u"):
                    os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


class Volume:
    """dir/fs: XFS on the profile's device.  The device is fast until arm(), so that files are laid out quickly."""

    def __init__(self, build, profile, size_mb=4096):
        self.profile, self.build = profile, pathlib.Path(build)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-bench.", dir=os.environ.get("STILLFS_BENCH_TMP", "/tmp")))
        self.dir.chmod(0o755)
        self.fs, self.memory = self.dir / "fs", self.dir / "memory"
        self.fs.mkdir()
        self.memory.mkdir()
        self.device = self.loop = self.interrupts = None
        try:
            self._open(size_mb)
        except BaseException:
            self.close()
            raise

    def _open(self, size_mb):
        options = PROFILES[self.profile]
        if options is None:
            run("mount", "-t", "tmpfs", "-o", f"size={size_mb + 64}m", "bench", self.memory)
            with open(self.memory / "image", "wb") as f:
                f.truncate(size_mb << 20)
        else:
            program = self.build / "tests" / "bench" / "blockdev"
            assert program.exists(), f"{program} is missing: build with -Dtest_providers=true"
            self.device = Helper(program, [f"size_mb={size_mb}", "armed=0", *options], self.memory)
        self.loop = run("losetup", "-f", "--show", "--direct-io=on", self.memory / "image").strip()
        # no volatile cache, as such volumes have none: flushes cost nothing
        pathlib.Path(f"/sys/block/{self.loop[5:]}/queue/write_cache").write_text("write through")
        run("mkfs.xfs", "-q", "-K", "-m", "reflink=1", self.loop)
        run("mount", self.loop, self.fs)
        self.interrupts = Interrupts()

    def arm(self):
        if self.device:
            os.kill(self.device.pid, signal.SIGUSR1)

    def cool(self):
        """Have the kernel forget the filesystem's pages and names; nothing of it may be open."""
        unmount(self.fs)
        run("mount", self.loop, self.fs)

    def cpu_ns(self):
        return sum(ns for _, ns in thread_ns(self.device.pid).values()) if self.device else 0

    def requests(self):
        """Reads and writes that the device has done, as the block layer counts them."""
        v = pathlib.Path(f"/sys/block/{self.loop[5:]}/stat").read_text().split()
        return int(v[0]), int(v[4])

    def close(self):
        """Returns what the device says at its end."""
        said = ""
        if self.interrupts:
            self.interrupts.close()
        unmount(self.fs)
        if self.loop:
            run("losetup", "-d", self.loop)
        if self.device:
            said = self.device.close()
        unmount(self.memory)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.dir)], check=True)
        return said.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        said = self.close()
        if said:
            print(f"device {self.profile}: {said}")
