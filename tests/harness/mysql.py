"""tests/harness/mysql.py - a private MySQL 9.7 of Debian sid for tests, on any Debian release.

Its packages are unpacked into a root file system of their own (roots.py) and the server is run from there by that
root's own dynamic loader, not by chroot: so it sees the same paths, mounts and processes as everybody else, and the
kernel shows it as `mysqld` because the loader has that name there.
"""

import os

import roots
from sqlserver import Server
from stillfs import run

NAME = "mysql-sid"
MYSQLD = "usr/sbin/mysqld"
LOADER = "usr/libexec/stillfs-tests/mysqld"


def mysql_root():
    """The root file system with mysqld; raises when it cannot be made: there is no other MySQL to test with."""
    root, reason = roots.make(NAME, "sid", ["mysql-server-core"], MYSQLD, variant="extract")
    assert root, f"no root with MySQL: {reason}"
    if not (root / LOADER).exists():
        (root / LOADER).parent.mkdir(parents=True, exist_ok=True)
        loader = next(p for p in sorted(root.glob("usr/lib/*/ld-linux-*.so.*")))
        new = root / f"{LOADER}.{os.getpid()}"
        os.link(loader, new)
        os.replace(new, root / LOADER)
    return root


class MySQL(Server):
    def program(self):
        """How the server is called, with what both its runs need."""
        root = mysql_root()
        libraries = next(root.glob("usr/lib/*/libc.so.6")).parent
        return [root / LOADER, "--library-path", f"{libraries}:{root}/usr/lib/mysql/private", root / MYSQLD,
                "--no-defaults", f"--basedir={root}/usr", f"--plugin-dir={root}/usr/lib/mysql/plugin",
                f"--lc-messages-dir={root}/usr/share/mysql", f"--datadir={self.datadir}", f"--tmpdir={self.dir}",
                f"--log-error={self.error_log}", "--secure-file-priv=", "--user=mysql"]

    def install(self):
        run(*self.program(), "--initialize-insecure", *[o for o in self.extra if o.startswith("--innodb")])

    def argv(self):
        return [*self.program(), f"--socket={self.socket}", f"--pid-file={self.dir}/pid", "--skip-networking",
                "--mysqlx=OFF", f"--server-id={self.server_id}", "--log-bin=binlog", "--sync-binlog=1",
                "--innodb-buffer-pool-size=32M"]
