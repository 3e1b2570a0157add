"""tests/harness/mariadb.py - a private Debian mariadbd for tests: own datadir, socket, log; stopped by pid."""

import os
import pathlib
import pwd
import shutil
import subprocess

import pymysql

from stillfs import run, wait_for


class MariaDB:
    def __init__(self, directory, datadir, server_id=1, install=True, options=()):
        self.dir, self.datadir, self.server_id = pathlib.Path(directory), pathlib.Path(datadir), server_id
        self.dir.mkdir(exist_ok=True)
        self.extra = list(options)
        user = pwd.getpwnam("mysql")
        for d in (self.dir, self.datadir):
            os.chown(d, user.pw_uid, user.pw_gid)
        self.socket = self.dir / "sock"
        self.process = None
        if install:
            run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.datadir}",
                "--auth-root-authentication-method=normal", "--skip-test-db", f"--tmpdir={self.dir}",
                *[o for o in self.extra if o.startswith("--innodb")])

    def start(self, *more):
        argv = ["mariadbd", "--no-defaults", f"--datadir={self.datadir}", f"--socket={self.socket}",
                f"--pid-file={self.dir}/pid", f"--log-error={self.dir}/error.log", f"--tmpdir={self.dir}",
                "--skip-networking", f"--server-id={self.server_id}", "--log-bin=binlog", "--sync-binlog=1",
                "--innodb-buffer-pool-size=32M", "--user=mysql", *self.extra, *more]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("the server", self._answers, 60)
        return self

    def _answers(self):
        assert self.process.poll() is None, (self.dir / "error.log").read_text()[-3000:]
        try:
            self.connect().close()
            return True
        except pymysql.Error:
            return False

    def connect(self, db=None, **kw):
        return pymysql.connect(unix_socket=str(self.socket), user=kw.pop("user", "root"), database=db, autocommit=True,
                               read_timeout=60, **kw)

    def query(self, sql, db=None):
        c = self.connect(db)
        try:
            with c.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            c.close()

    def defaults(self, user="root", password=None):
        path = self.dir / f"{user}.cnf"
        path.write_text(f"[client]\nuser={user}\n" + (f"password={password}\n" if password else ""))
        path.chmod(0o600)
        return path

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
