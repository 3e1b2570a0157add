"""tests/harness/mariadb.py - a private Debian mariadbd for tests."""

from sqlserver import Server
from stillfs import run


class MariaDB(Server):
    def install(self):
        # --force: without /etc/hosts it would refuse for want of "localhost"
        run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.datadir}", "--force",
            "--auth-root-authentication-method=normal", "--skip-test-db", f"--tmpdir={self.dir}",
            *[o for o in self.extra if o.startswith("--innodb")])

    def argv(self):
        return ["mariadbd", "--no-defaults", f"--datadir={self.datadir}", f"--socket={self.socket}",
                f"--pid-file={self.dir}/pid", f"--log-error={self.error_log}", f"--tmpdir={self.dir}",
                "--skip-networking", f"--server-id={self.server_id}", "--log-bin=binlog", "--sync-binlog=1",
                "--innodb-buffer-pool-size=32M", "--user=mysql"]
