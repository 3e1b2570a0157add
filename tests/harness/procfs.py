"""tests/harness/procfs.py - what /proc tells of how a process uses its files."""

import pathlib
import struct

AIO_MAGIC = 0xa10a10a1  # of the kernel's struct aio_ring (fs/aio.c): id, nr, head, tail, magic


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def descriptors(pid):
    """[(target, fdinfo's fields)]"""
    found = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            text = (fd.parents[1] / "fdinfo" / fd.name).read_text()
            found.append((str(fd.readlink()), dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)))
        except FileNotFoundError:  # closed meanwhile
            pass
    return found


def open_flags_below(pid, directory):
    """{path below directory: the flags of each descriptor that the process has on it, sorted}"""
    found = {}
    for target, info in descriptors(pid):
        if target.startswith(f"{directory}/"):
            found.setdefault(target[len(f"{directory}/"):], []).append(int(info["flags"], 8))
    return {name: sorted(flags) for name, flags in found.items()}


def asynchronous_io(pid):
    """{"io_uring": requests submitted, "libaio": requests completed}, without the interfaces it has not set up.

    Of io_uring the kernel's counters of its queue; of libaio the head and tail of the rings that it maps.
    """
    seen = {}
    for target, info in descriptors(pid):
        if target == "anon_inode:[io_uring]":
            seen["io_uring"] = seen.get("io_uring", 0) + int(info["CachedSqHead"])
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            if "/[aio]" in line:
                memory.seek(int(line.split("-", 1)[0], 16))
                _, _, head, tail, magic = struct.unpack("5I", memory.read(20))
                assert magic == AIO_MAGIC, hex(magic)
                seen["libaio"] = seen.get("libaio", 0) + max(head, tail)
    return seen
