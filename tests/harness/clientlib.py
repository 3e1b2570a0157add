"""tests/harness/clientlib.py - stillfs built against MySQL's own client library, libmysqlclient of Debian sid.

Everything that links the library, by meson as with the other one (-Dmysql_client=mysql) and with every warning an error.
The programs are run by that release's loader. tests/run builds once and names the place (STILLFS_LIBMYSQLCLIENT); a single
test builds for itself, which takes half a minute.
"""

import atexit
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import roots

TOP = pathlib.Path(__file__).resolve().parents[2]
TARGETS = ["fs/stillfs", "snapshot/stillfs-ebs", "snapshot/stillfs-classic", "snapshot/stillfs-cutover",
           "tests/unit/snapshot/drive_mysql", "tests/unit/snapshot/drive_fence"]


def _root():
    root, reason = roots.make("mysqlclient-sid", "sid", ["libmysqlclient-dev"], "usr/include/mysql/mysql.h", variant="extract")
    assert root, f"no libmysqlclient: {reason}"
    return root, next(root.glob("usr/lib/*/libmysqlclient.so")).parent


def build(directory):
    """The build directory; its path has the library's name. Fails with the compiler's words."""
    root, lib = _root()
    (directory / "include").mkdir(parents=True)
    (directory / "include/mysql").symlink_to(root / "usr/include/mysql")  # without the root's other headers
    (directory / "mysqlclient.pc").write_text(
        "Name: mysqlclient\nDescription: MySQL client library\nVersion: 24\n"
        f"Cflags: -I{directory}/include/mysql -I{directory}/include\nLibs: {lib}/libmysqlclient.so -Wl,--allow-shlib-undefined\n")
    out = directory / "libmysqlclient"
    for argv in (["meson", "setup", out, TOP, "-Dwerror=true", "-Dtest_providers=true", "-Ddocs=disabled", "-Dmysql_client=mysql",
                  "-Ddebug=false", "-Doptimization=2"], ["ninja", "-C", out, *TARGETS]):
        r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, env={**os.environ, "PKG_CONFIG_PATH": str(directory)})
        assert r.returncode == 0, "\n".join((r.stdout + r.stderr).splitlines()[-40:])
    return out


@functools.cache
def _built():
    if "STILLFS_LIBMYSQLCLIENT" in os.environ:
        return pathlib.Path(os.environ["STILLFS_LIBMYSQLCLIENT"])
    directory = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    left_s = signal.alarm(0)  # not at the expense of the test that is the first to ask
    try:
        return build(directory)
    finally:
        signal.alarm(left_s)


def argv(target):
    """How a program of TARGETS is run."""
    root, lib = _root()
    return [next(p for p in sorted(root.glob("usr/lib/*/ld-linux-*.so.*"))), "--library-path", lib, _built() / target]
