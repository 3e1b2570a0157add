"""tests/harness/wiredtiger.py - wtdb.c, a database on Debian's libwiredtiger: built, driven, killed, verified."""

import pathlib
import queue
import subprocess
import threading
import time

from stillfs import run, wait_for

SOURCE = pathlib.Path(__file__).with_name("wtdb.c")
# every commit is in the log and on the device before it returns
CONFIG = "create,cache_size=16MB,log=(enabled=true,file_max=1MB),transaction_sync=(enabled=true,method=fsync)"


def build(directory):
    program = directory / "wtdb"
    run("gcc", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O2", "-g", "-pthread", "-o", program, SOURCE, "-lwiredtiger")
    return program


class WiredTiger:
    def __init__(self, program, home, config="", writers=4):
        self.program, self.home = program, pathlib.Path(home)
        self.home.mkdir(exist_ok=True)
        self.config = f"{CONFIG},{config}"
        self.acked = [(0, 0.0)] * writers  # the last n, and when its acknowledgement was read (monotonic)
        self.answers = queue.Queue()
        self.process = subprocess.Popen([str(program), str(self.home), self.config, str(writers)], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self.answer("open", 20)
        except AssertionError:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stdout:
            word, first, rest = line.split(" ", 2)
            if word == "ack":
                self.acked[int(first)] = (int(rest), time.monotonic())
            else:
                self.answers.put((word, first, int(rest)))

    def answer(self, command, within_s=30):
        """The number in the answer to `command`."""
        end = time.monotonic() + within_s
        while True:
            try:
                word, what, n = self.answers.get(timeout=0.05)
                assert (word, what) == ("ok", command), f"{word} {what} {n}"
                return n
            except queue.Empty:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < end, f"no answer to {command} within {within_s} s"

    def send(self, command):
        self.process.stdin.write(f"{command}\n")

    def do(self, command, within_s=30):
        self.send(command)
        return self.answer(command, within_s)

    def now(self):
        return [n for n, _ in self.acked]

    def wait(self, each=50, within_s=40):
        goal = [n + each for n in self.now()]

        def there():
            assert self.process.poll() is None, self.process.stderr.read()
            return all(n >= g for n, g in zip(self.now(), goal))
        wait_for(f"{each} commits of each writer", there, within_s)
        return self

    def end(self):
        """A clean end; the last acknowledged n of each writer."""
        if self.process.poll() is None:
            self.send("end")
        assert self.process.wait(40) == 0, self.process.stderr.read()
        self.reader.join(10)
        return self.now()

    def kill(self):
        """kill -9; the last acknowledged n of each writer, down to the last line of the pipe."""
        self.process.kill()
        self.process.wait()
        self.reader.join(10)
        return self.now()

    def rows(self, home=None, config=None):
        """Open it again, which recovers: {writer: (rows, last)}; every byte and the tree are checked."""
        text = run(self.program, "verify", home or self.home, self.config if config is None else f"{CONFIG},{config}", timeout=60)
        fields = [line.split() for line in text.splitlines() if line.startswith("rows ")]  # the library says more
        return {int(w): (int(count), int(last)) for _, w, count, last in fields}

    def check(self, atleast, home=None, config=None):
        """No gap, and each writer's last row is at least what was acknowledged; returns the last of each."""
        rows = self.rows(home, config)
        there = [rows.get(w, (0, 0)) for w in range(len(atleast))]
        assert all(count == last for count, last in there), f"gaps: {there}"
        assert all(last >= n for (_, last), n in zip(there, atleast)), f"lost: has {there}, acknowledged {atleast}"
        return [last for _, last in there]
