"""Signals to who waits in a write to `snapshot`: one that he survives is no error, one that asks him to end aborts his set."""

import errno
import os
import signal
import subprocess
import time

import pytest

from stillfs import wait_for

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
