"""What was acknowledged as durable is on the disk: after the daemon's death, and after a power failure (the image of the
filesystem is copied at that moment and mounted)."""

import array
import contextlib
import fcntl
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from stillfs import is_gone, run, wait_for

FIEMAP = 0xC020660B
DELAYED = 0x4  # FIEMAP_EXTENT_DELALLOC: not on the disk yet


def undurable(path):
    """Bytes of a file in the backing that have no place on the disk yet."""
    buf = array.array("Q", [0] * 4 + [0] * (7 * 64))
    buf[1] = (1 << 63) - 1
    as32 = array.array("I", buf.tobytes())
    as32[6] = 64  # fm_extent_count
    fd = os.open(path, os.O_RDONLY)
    try:
        raw = bytearray(as32.tobytes())
        fcntl.ioctl(fd, FIEMAP, raw)
    finally:
        os.close(fd)
    n = int.from_bytes(raw[20:24], "little")
    extents = [raw[32 + 56 * i:88 + 56 * i] for i in range(n)]
    return sum(int.from_bytes(e[16:24], "little") for e in extents if int.from_bytes(e[40:44], "little") & DELAYED)


def by_flag(flags, call=lambda fd: os.write(fd, b"x" * 65536)):
    def write(p):
        fd = os.open(p, os.O_RDWR | os.O_CREAT | flags)
        call(fd)
        os.close(fd)
    return write


def by_call(call):
    return by_flag(0, lambda fd: (os.write(fd, b"x" * 65536), call(fd)))


def by_write(flags):
    return by_flag(0, lambda fd: os.pwritev(fd, [b"x" * 65536], 0, flags))


def by_msync(p):
    fd = os.open(p, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 65536)
    with mmap.mmap(fd, 65536) as m:
        m[:] = b"x" * 65536
        m.flush()
    os.close(fd)


SYNCED = {"O_DSYNC": by_flag(os.O_DSYNC), "O_SYNC": by_flag(os.O_SYNC), "RWF_DSYNC": by_write(os.RWF_DSYNC),
          "RWF_SYNC": by_write(os.RWF_SYNC), "fsync": by_call(os.fsync), "fdatasync": by_call(os.fdatasync), "msync": by_msync}


@pytest.mark.parametrize("how", list(SYNCED))
def test_what_is_to_be_durable_is_on_the_disk_when_the_call_returns(shared_mount, how):
    m = shared_mount
    os.sync()  # so that nobody else's flush does it meanwhile
    name = f"plain-{how}"
    plain = os.open(m.mnt / name, os.O_WRONLY | os.O_CREAT)
    os.write(plain, b"x" * 65536)
    SYNCED[how](m.mnt / how)
    assert undurable(m.back / how) == 0 and (m.back / how).stat().st_size == 65536
    if undurable(m.back / name) == 0:  # the kernel's own writeback came between: look at it once more
        os.pwrite(plain, b"y" * 65536, 1 << 20)
    assert undurable(m.back / name) > 0, "the measure does not show what is not durable"
    os.close(plain)


WRITER = """import os, sys
# Record i is written at i * 4096, made durable, and then said to be.
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | (os.O_DIRECT if sys.argv[2] == "direct" else 0))
import mmap
buf = mmap.mmap(-1, 4096)
try:
    for i in range(1 << 20):
        buf[:] = i.to_bytes(8, "little") * 512
        os.pwritev(fd, [buf], i * 4096)
        os.fdatasync(fd)
        os.write(1, b"%d\\n" % i)
except OSError as e:
    os.write(1, b"end %d\\n" % e.errno)
"""


@pytest.mark.limit(300 if os.environ.get("STILLFS_ALL") else 60)
def test_what_was_synced_survives_the_daemons_death_and_a_power_failure(make_mount, tmp_path_factory):
    m = make_mount(takeover="no")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(m.mnt / f"log{i}-{kind}"), kind], stdout=subprocess.PIPE,
                                text=True) for i in range(2) for kind in ("direct", "buffered")]
    said = [[] for _ in writers]
    threads = [threading.Thread(target=lambda p=p, s=s: s.extend(p.stdout)) for p, s in zip(writers, said)]
    for t in threads:
        t.start()
    wait_for("records of each", lambda: all(len(s) > 20 for s in said), 30)
    os.kill(m.daemon, signal.SIGKILL)
    wait_for("the keeper's end", lambda: is_gone(m.keeper))
    for p, t in zip(writers, threads):
        p.wait(20)
        t.join(20)
    # the power fails: nothing more reaches the image. (It is on a loop device; its own cache is below ours.)
    copy, place = m.dir / "copy", m.dir / "after"
    place.mkdir()
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(m.scratch.image), str(copy)], check=True)
    run("mount", "-o", "loop,nouuid", copy, place)
    try:
        for i, (p, lines) in enumerate(zip(writers, said)):
            assert lines[-1].startswith("end "), lines[-1]
            name = pathlib.Path(p.args[3]).name
            for where in (m.back, place / "back"):
                data = (where / name).read_bytes()
                for k in range(len(lines) - 1):
                    assert data[k * 4096:(k + 1) * 4096] == k.to_bytes(8, "little") * 512, f"{where}/{name}: record {k}"
    finally:
        run("umount", place)


def test_fio_verifies_what_parallel_jobs_wrote_buffered_while_the_daemon_dies(make_mount):
    """With O_DIRECT: tests/integration/test_takeover.py."""
    m = make_mount()
    seconds = int(os.environ.get("STILLFS_FIO_SECONDS", "60" if os.environ.get("STILLFS_ALL") else "4"))
    fio = subprocess.Popen(
        ["fio", "--name=verify", f"--directory={m.mnt}", "--numjobs=3", "--size=8m", "--bsrange=4k-64k", "--rw=randwrite",
         "--direct=0", "--ioengine=psync", "--fsync=32", "--verify=crc32c", "--verify_fatal=1",
         "--verify_backlog=256", "--do_verify=1", f"--loops={seconds * 2}", "--norandommap=0", "--rate=12m", "--minimal"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=m.dir)
    deaths = 0
    with contextlib.closing(fio.stdout):
        end = time.monotonic() + seconds
        while fio.poll() is None and time.monotonic() < end:
            time.sleep(1.1)  # five that live for less than a second end the mount
            if fio.poll() is None:
                daemon = int(m.status()["pid"])
                os.kill(daemon, signal.SIGKILL)
                wait_for("a successor", lambda: int(m.status()["pid"]) != daemon)
                deaths += 1
        out = fio.stdout.read()
    assert fio.wait(40) == 0, out[-3000:]
    assert deaths >= 2, "fio was done before the daemon died"
    assert "verify" in out
