"""tests/harness/sqlserver.py - what mariadb.py and mysql.py share: a private server with its own datadir, socket, log.

The server runs as the user mysql, listens on its socket only, and is ended by its pid.
"""

import os
import pathlib
import pwd
import shutil
import subprocess

import pymysql

from stillfs import wait_for


class Server:
    """A subclass has install(), which makes the datadir, and argv(), which starts the server."""

    START_LIMIT_S = 60

    def __init__(self, directory, datadir, server_id=1, install=True, options=()):
        self.dir, self.datadir, self.server_id = pathlib.Path(directory), pathlib.Path(datadir), server_id
        self.dir.mkdir(exist_ok=True)
        self.extra = list(options)
        self.env = None  # its own, else ours
        user = pwd.getpwnam("mysql")
        for d in (self.dir, self.datadir):
            os.chown(d, user.pw_uid, user.pw_gid)
        self.socket, self.error_log = self.dir / "sock", self.dir / "error.log"
        self.process = None
        if install:
            self.install()

    def install(self):
        raise NotImplementedError

    def argv(self):
        raise NotImplementedError

    def launch(self, *more):
        """Start it without waiting."""
        self.process = subprocess.Popen([str(a) for a in (*self.argv(), *self.extra, *more)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env)
        return self

    def start(self, *more):
        self.launch(*more)
        wait_for("the server", self._answers, self.START_LIMIT_S)
        return self

    def log(self):
        return self.error_log.read_text(errors="replace") if self.error_log.exists() else ""

    def _answers(self):
        assert self.process.poll() is None, self.log()[-3000:]
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

    def kill(self):
        """kill -9: a crash of the server."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def restart(self, *more):
        self.stop()
        return self.start(*more)

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
