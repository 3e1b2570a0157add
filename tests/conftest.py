"""tests/conftest.py - fixtures and the time limit of every test. `tests/run` calls pytest with it."""

import contextlib
import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "harness"))

from stillfs import Mount, Scratch  # noqa: E402

LIMIT_S = int(os.environ.get("STILLFS_TEST_LIMIT", "60"))


class OutOfTime(Exception):
    """Not TimeoutError: that is an OSError, which tests of errno catch."""


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): the time limit of this test, where it is not the usual one")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    own = item.get_closest_marker("limit")  # of a long test, in seconds
    limit = max(own.args[0], LIMIT_S) if own else LIMIT_S

    def out_of_time(*_):
        raise OutOfTime(f"{item.nodeid}: not done within {limit} s")
    old = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.fixture
def scratch():
    s = Scratch()
    yield s
    s.close()


@pytest.fixture
def make_mount(scratch):
    """A function that starts mounts over the scratch filesystem; all are closed afterwards."""
    with contextlib.ExitStack() as made:  # closes all, whatever one of them says
        def make(start=True, **options):
            m = Mount(scratch, start=False, **options)
            made.callback(m.close)
            if start:
                m.start()
            return m
        yield make


@pytest.fixture
def mount(make_mount):
    return make_mount()


@pytest.fixture(scope="module")
def later():
    """later(CALL): to be done after the module's tests, the last one first, also when a fixture fails half-way."""
    with contextlib.ExitStack() as made:
        yield made.callback


@pytest.fixture(scope="module")
def shared_mount():
    """One mount for a module's tests that leave nothing behind."""
    with contextlib.ExitStack() as made:
        s = Scratch()
        made.callback(s.close)
        m = Mount(s, start=False)
        made.callback(m.close)
        m.start()
        yield m
