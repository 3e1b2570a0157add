"""tests/conftest.py - fixtures and the time limit of every test. `tests/run` calls pytest with it."""

import contextlib
import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "harness"))

from ec2 import Moto, Proxy, moto_root  # noqa: E402
from stillfs import Mount, Scratch  # noqa: E402

# libmongoc names its counters in /dev/shm by the process: those of one that was killed stay, and the next process of that
# number warns on stderr.
os.environ.setdefault("MONGOC_DISABLE_SHM", "1")
LIMIT_S = int(os.environ.get("STILLFS_TEST_LIMIT", "120"))


class OutOfTime(Exception):
    """Not TimeoutError: that is an OSError, which tests of errno catch."""


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): the time limit of this test, where it is not the usual one")
    config.addinivalue_line("markers", "long: waits for minutes; a part of `tests/run --all` alone")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("STILLFS_ALL"):
        return
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("long")])
    items[:] = [i for i in items if not i.get_closest_marker("long")]


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


@pytest.fixture(scope="module")
def ec2_root():
    left = signal.alarm(0)  # its making, once on a machine, is bounded by itself
    path, reason = moto_root()
    signal.alarm(max(left, LIMIT_S))
    if not path:
        pytest.skip(f"no root with moto: {reason}")
    return path


@pytest.fixture(scope="module")
def moto_of_module(ec2_root):
    m = Moto(ec2_root)
    yield m
    m.close()


@pytest.fixture
def moto(moto_of_module):
    """The module's, as if it had just been started."""
    moto_of_module.reset()
    return moto_of_module


@pytest.fixture
def cloud(moto, scratch):
    """moto with an instance that has one data volume, whose image is the scratch file system's."""
    instance = moto.ec2("RunInstances", ImageId="ami-12c6146b", MinCount=1, MaxCount=1).find(".//instanceId").text
    volume = moto.ec2("CreateVolume", AvailabilityZone="us-east-1a", Size=1).find("volumeId").text
    moto.ec2("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    key, secret = moto.user()
    copies = scratch.dir / "copies"
    copies.mkdir()
    proxy = Proxy(moto, {volume: (scratch.image, copies)})
    proxy.options = {"provider": "ebs", "ebs__volumes": volume, "ebs__region": "us-east-1", "ebs__instance": instance,
                     "ebs__endpoint": proxy.url}
    proxy.env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_EC2_METADATA_DISABLED": "true",
                 "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    proxy.volume = volume
    moto.check_signatures()
    yield proxy
    proxy.close()
