"""Signals to who waits in a write to `snapshot`: one that he survives is no error, one that asks him to end aborts his set.
And to who waits in a read of `wait` or `events`, which any signal ends."""

import errno
import os
import signal
import subprocess
import time

import pytest

from stillfs import wait_for
from test_takeover import descriptors, kill_daemon

WRITER = r"""
import ctypes, os, signal, sys
number, restart, text, state = sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
if int(number):
    signal.signal(int(number), lambda *_: None)
    signal.siginterrupt(int(number), restart != "restart")
fd = os.open(sys.argv[1], os.O_WRONLY)
print("ready", flush=True)
n = libc.write(fd, text.encode(), len(text)), ctypes.get_errno()
print(*n, open(state).read().strip())
"""
# Reads again and again, and is interrupted each millisecond; says how often each result came, and each that is no EINTR.
READER = r"""
import collections, ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
fd = os.open(sys.argv[1], os.O_RDONLY)
buf = ctypes.create_string_buffer(1 << 16)
if sys.argv[1].endswith("events"):
    os.read(fd, 1 << 20)
print("ready", flush=True)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
n = 0
while n < int(sys.argv[2]):
    r = libc.read(fd, buf, len(buf))
    if r == -1 and ctypes.get_errno() == errno.EINTR:
        n += 1
        continue
    print(r if r >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
    if r <= 0:
        break
signal.setitimer(signal.ITIMER_REAL, 0)
print("done", n, flush=True)
"""
SLOTS = 1024  # requests that the control tree can have waiting: one that is not given back is missed after so many
PYTHON = r"""
import os, signal, sys
signal.signal(int(sys.argv[2]), lambda *_: None)
fd = os.open(sys.argv[1], os.O_WRONLY)
print("ready", flush=True)
print(os.write(fd, sys.argv[3].encode()), flush=True)
"""


def start(m, program, *args):
    p = subprocess.Popen(["/usr/bin/python3", "-c", program, str(m.control / "snapshot"), *map(str, args),
                          str(m.control / "snapshots" / "one" / "state")],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    return p


def until_called(m, call):
    wait_for(call, lambda: call in [c[1] for c in m.null_calls()])


def many(p, number):
    for _ in range(8):
        p.send_signal(number)
        time.sleep(0.05)


@pytest.mark.parametrize("restart", ["restart", "interrupt"])
@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGWINCH], ids=lambda n: n.name)
def test_a_signal_whose_handler_returns_is_no_error(make_mount, number, restart):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 1000\n")
    p = start(m, WRITER, int(number), restart, "one\n")
    until_called(m, "trigger")
    many(p, number)
    assert m.state("one") == "running", "the signals came too late"
    out, errors = p.communicate(timeout=20)
    assert out in ("4 0 pending\n", "4 0 complete\n"), errors
    m.wait_state("one", "complete")
    assert os.listdir(m.control / "snapshots") == ["one"]
    assert m.status()["last_error"] == "none"


def test_a_program_that_repeats_what_was_interrupted_does_not_meet_its_own_set(make_mount):
    """Python repeats a system call that fails with EINTR (PEP 475)."""
    m = make_mount(provider="null")
    m.null("trigger delay_ms 1000\n")
    p = start(m, PYTHON, int(signal.SIGCHLD), "one\n")
    until_called(m, "trigger")
    many(p, signal.SIGCHLD)
    assert p.communicate(timeout=20) == ("4\n", "")
    m.wait_state("one", "complete")
    assert m.status()["last_error"] == "none"


def test_a_stop_lets_the_set_go_on_and_the_writer_has_its_answer_when_it_goes_on(make_mount):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 600\n")
    p = start(m, WRITER, 0, "restart", "one\n")
    until_called(m, "trigger")
    p.send_signal(signal.SIGSTOP)
    m.wait_state("one", "complete")
    p.send_signal(signal.SIGCONT)
    assert p.communicate(timeout=20) == ("4 0 complete\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda n: n.name)
def test_who_is_asked_to_end_and_goes_on_has_eintr_when_his_set_has_failed(make_mount, number):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 1000\n")
    p = start(m, WRITER, int(number), "restart", "one\n")
    until_called(m, "trigger")
    m.null("")
    p.send_signal(number)
    assert p.communicate(timeout=20) == (f"-1 {errno.EINTR} failed\n", "")
    assert "interrupted by its caller" in m.read("snapshots/one/last_error")
    wait_for("the call", lambda: m.status()["provider_call"] == "ok")
    assert m.write("snapshot", "two\n") == 0, m.last_error()


@pytest.mark.parametrize("first", [None, signal.SIGUSR1], ids=["alone", "after_one_that_it_survives"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda n: n.name)
def test_who_is_killed_is_gone_at_once_and_his_set_aborted(make_mount, number, first):
    """The kernel tells of a request's first signal alone."""
    m = make_mount(provider="null")
    m.null("trigger hang\n")
    p = start(m, WRITER, int(first or 0), "restart", "one\n")
    until_called(m, "trigger")
    if first:
        many(p, first)
        assert m.state("one") == "running"
    p.send_signal(number)
    assert p.wait(10) == -number
    m.wait_state("one", "failed")
    assert "interrupted by its caller" in m.read("snapshots/one/last_error")
    m.null("")


def test_a_killed_reader_of_wait_aborts_nothing(make_mount):
    m = make_mount(provider="null")
    m.null("trigger delay_ms 600\n")
    os.mkdir(m.control / "snapshots" / "one")
    p = subprocess.Popen(["cat", str(m.control / "snapshots" / "one" / "wait")], stdout=subprocess.DEVNULL)
    until_called(m, "trigger")
    p.kill()
    assert p.wait(30) == -signal.SIGKILL
    m.wait_state("one", "complete")


# ---- readers


def read_on(m, name, count):
    p = subprocess.Popen(["/usr/bin/python3", "-c", READER, str(m.control / name), str(count)], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    return p


def hang(m, name):
    m.null("trigger hang\n")
    assert m.write("snapshot", f"{name} nowait\n") == 0, m.last_error()
    wait_for("the hold", lambda: ("trigger", name) in [c[1:] for c in m.null_calls()])


def test_signals_end_reads_of_wait_and_nothing_is_left_of_them(make_mount):
    m = make_mount(provider="null", gate_timeout=50)
    hang(m, "one")
    before = descriptors(m)
    assert read_on(m, "snapshots/one/wait", SLOTS + 100).communicate(timeout=60)[0] == f"done {SLOTS + 100}\n"
    assert descriptors(m) == before and m.state("one") == "running", "a reader's signal is no abort"
    m.null("")
    m.wait_state("one", "complete")
    assert m.read("snapshots/one/wait") == "fixed\n"


def test_signals_end_reads_of_wait_in_the_successor_too(make_mount):
    m = make_mount(provider="null", gate_timeout=50)
    hang(m, "one")
    p = read_on(m, "snapshots/one/wait", 1 << 30)
    kill_daemon(m)
    m.null("")
    out = p.communicate(timeout=60)[0].splitlines()
    assert out[0] == "ESHUTDOWN" and out[1].startswith("done "), out  # its set has failed with the daemon
    hang(m, "two")
    assert read_on(m, "snapshots/two/wait", SLOTS + 100).communicate(timeout=60)[0] == f"done {SLOTS + 100}\n"
    m.null("")
    m.wait_state("two", "complete")


def test_signals_end_reads_of_events_also_while_daemons_die(mount):
    before = descriptors(mount)
    p = read_on(mount, "events", 2 * SLOTS + 500)
    kill_daemon(mount)
    time.sleep(1.05)
    kill_daemon(mount)
    out = p.communicate(timeout=60)[0].splitlines()
    assert out[-1] == f"done {2 * SLOTS + 500}" and all(int(n) > 0 for n in out[:-1]), out  # events of take-overs
    assert len(out) in (2, 3), out
    wait_for("the descriptors of before", lambda: descriptors(mount) == before)
