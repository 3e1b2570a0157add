"""tests/harness/trees.py - a tree of files as a dictionary, to be compared: names, kinds, owners, links, sizes, content."""

import hashlib
import os
import stat


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]


def xattrs(path):
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in sorted(os.listxattr(path, follow_symlinks=False))}


def tree(top, same_files=False, largest=64 << 20):
    """{relative path: what it is}. same_files: both trees are views of the same files, so that numbers, times and
    blocks have to be equal too. Content is read up to `largest` bytes."""
    out = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            item = [stat.filemode(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, xattrs(path)]
            if stat.S_ISREG(st.st_mode):
                item += [st.st_size, content(path) if st.st_size <= largest else ""]
            elif stat.S_ISLNK(st.st_mode):
                item += [os.readlink(path)]
            if same_files:
                item += [st.st_ino, st.st_mtime_ns, st.st_ctime_ns, st.st_blocks]
            out[os.path.relpath(path, top)] = item
    return out


def differences(a, b, most=20):
    """What differs between two trees, as lines."""
    lines = [f"{p}: {a.get(p)} != {b.get(p)}" for p in sorted(a.keys() | b.keys()) if a.get(p) != b.get(p)]
    return lines[:most]
