"""The mysql coordinator by TCP with TLS: what db.tls asks for is had, or nothing is connected, locked and held."""

import errno
import pathlib
import re
import shutil
import socket
import tempfile

import pytest

import clientlib
import coordinators
from coordinators import Failed
from mariadb import MariaDB
from stillfs import run, wait_for

PASSWORD = "of the test"
GRANTS = {"mariadb": "RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR", "mysql": "RELOAD, PROCESS, BACKUP_ADMIN, REPLICATION CLIENT"}
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def authority(d, name):
    run("openssl", "req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", d / f"{name}.key", "-out", d / f"{name}.pem")


def certificate(d, ca, alt, name="server"):
    """In NAME.key and NAME.pem."""
    run("openssl", "req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", d / f"{name}.key", "-out", d / f"{name}.csr")
    (d / "ext").write_text(f"subjectAltName={alt}\n")
    run("openssl", "x509", "-req", "-in", d / f"{name}.csr", "-CA", d / f"{ca}.pem", "-CAkey", d / f"{ca}.key", "-CAcreateserial",
        "-days", "2", "-extfile", d / "ext", "-out", d / f"{name}.pem")
    if name == "server":
        shutil.chown(d / "server.key", "mysql")


def start_with_tls(db, d):
    """On a port of the loopback, which is returned."""
    certificate(d, "ca", "IP:127.0.0.1")
    return on_a_port(db, f"--ssl-ca={d}/ca.pem", f"--ssl-cert={d}/server.pem", f"--ssl-key={d}/server.key")


def on_a_port(db, *options):
    for last in (False, False, False, True):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        try:
            db.restart("--skip-networking=0", "--bind-address=127.0.0.1", f"--port={port}", *options)
            return port
        except AssertionError:  # somebody took the port meanwhile
            if last or "in use" not in db.log():
                raise
    return None


def accounts(db, kind):
    for user, require in (("secure", "REQUIRE SSL"), ("plain", "")):
        db.query(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' {require}")
        db.query(f"GRANT {GRANTS[kind]} ON *.* TO {user}@'127.0.0.1'")
        if kind == "mysql":
            db.query(f"GRANT SELECT ON performance_schema.* TO {user}@'127.0.0.1'")


def defaults(path, port, user, *lines):
    path.write_text("\n".join(["[client]", "host=127.0.0.1", f"port={port}", f"user={user}", f"password={PASSWORD}", *lines, ""]))
    path.chmod(0o600)
    return path


class Site:
    """A server, and what connects to it."""

    def __init__(self, kind, scratch):
        self.kind, self.dir = kind, scratch
        for name in ("ca", "other"):
            authority(scratch, name)
        self.sql = coordinators.make(kind, scratch)
        self.db = self.sql.db
        self.port = start_with_tls(self.db, scratch)
        accounts(self.db, kind)
        self.drives = {"libmariadb": self.sql.argv}
        if self.sql.mysql:
            self.drives["libmysqlclient"] = clientlib.argv("tests/unit/snapshot/drive_mysql")

    def show(self, alt):
        """Another certificate of the running server."""
        certificate(self.dir, "ca", alt)
        self.db.query("ALTER INSTANCE RELOAD TLS" if self.sql.mysql else "FLUSH SSL")

    def drive(self, client, tls, *lines, user="secure"):
        return self.sql.drive(argv=self.drives[client], db__socket="", db__tls=tls, db__when_down="crash-consistent",
                              db__defaults_file=defaults(self.dir / "client.cnf", self.port, user, *lines))

    def refused(self, client, tls, *lines, user="plain"):
        """The sentence; nothing is held, no session is left, and it is not taken for a server that is down."""
        d = self.drive(client, tls, *lines, user=user)
        try:
            with pytest.raises(Failed) as failed:
                d("preflight 5000")
            assert not self.sql.held()
            wait_for("the session's end", lambda: self.sessions(user) == 0)
            assert failed.value.code == errno.EKEYREJECTED, failed.value
        finally:
            d.close()
        return failed.value.message

    def accepted(self, client, tls, *lines, user="plain"):
        d = self.drive(client, tls, *lines, user=user)
        try:
            d("preflight 5000")
            wait_for("the lock's session and the one that may give it up", lambda: self.sessions(user) == 2)
        finally:
            d.close()

    def sessions(self, user):
        return self.db.query(f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{user}'")[0][0]

    def ciphers(self, user):
        """MySQL: of each session of the user, as the server sees it."""
        return [c for c, in self.db.query(
            "SELECT s.VARIABLE_VALUE FROM performance_schema.status_by_thread s JOIN performance_schema.threads t USING (THREAD_ID) "
            f"WHERE t.PROCESSLIST_USER = '{user}' AND s.VARIABLE_NAME = 'Ssl_cipher'")]


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def site(request):
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-test."))
    scratch.chmod(0o755)
    s = Site(request.param, scratch)
    yield s
    s.sql.close()
    shutil.rmtree(scratch)


@pytest.mark.parametrize("tls", ["required", "verify"])
def test_a_lock_and_a_position_are_taken_by_tls(site, tls):
    for client in site.drives:
        d = site.drive(client, tls, *([f"ssl-ca={site.dir}/ca.pem"] if tls == "verify" else []))
        d("preflight 5000")
        if site.sql.mysql:
            wait_for("its sessions alone", lambda: len(site.ciphers("secure")) == 2)
            assert all(c.startswith("TLS_") for c in site.ciphers("secure"))
        d("prepare s 60000", 70)
        d("lock 2000 5000")
        assert site.sql.held()
        assert re.fullmatch(r"binlog\.\d+", d.position()["binlog_file"])
        d("unlock 2000")
        assert not site.sql.held()
        d("finish 0 30000")
        d.close()


def test_a_certificate_of_our_own_is_shown_to_a_server_that_wants_one(site):
    d = site.dir
    for name, ca in (("client", "ca"), ("stranger", "other")):
        certificate(d, ca, "DNS:client.invalid", name)
    site.db.query(f"CREATE USER known@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' REQUIRE SUBJECT '/CN=client'")
    site.db.query(f"GRANT {GRANTS[site.kind]} ON *.* TO known@'127.0.0.1'")
    if site.sql.mysql:
        site.db.query("GRANT SELECT ON performance_schema.* TO known@'127.0.0.1'")

    def mine(name):
        return [f"ssl-ca={d}/ca.pem", f"ssl-cert={d}/{name}.pem", f"ssl-key={d}/{name}.key"]
    for client in site.drives:
        for tls in ("auto", "required", "verify"):
            site.accepted(client, tls, *mine("client"), user="known")
        for lines, codes in ((mine("client")[:1], {errno.EACCES}), (mine("stranger"), {errno.EKEYREJECTED, errno.ECONNRESET}),
                             ([*mine("client")[:2], f"ssl-key={d}/stranger.key"], {errno.EKEYREJECTED}),
                             ([*mine("client")[:2], f"ssl-key={d}/none.key"], {errno.EKEYREJECTED})):
            drive = site.drive(client, "verify", *lines, user="known")
            with pytest.raises(Failed) as failed:
                drive("preflight 5000")
            drive.close()
            assert failed.value.code in codes, failed.value
            assert failed.value.code != errno.EKEYREJECTED or "must be readable and belong together" in failed.value.message
            assert PASSWORD not in failed.value.message


def test_a_connection_by_tls_that_is_cut_under_the_lock_holds_nothing(site):
    for client in site.drives:
        d = site.drive(client, "verify", f"ssl-ca={site.dir}/ca.pem")
        d("preflight 5000")
        d("prepare s 60000", 70)
        d("lock 2000 20000")
        assert site.sql.held()
        d.cut()
        site.sql.released()
        with pytest.raises(Failed) as failed:
            d("unlock 2000")
        assert failed.value.code == errno.ENOLCK
        d("finish -5 30000")
        d("preflight 5000")
        d.close()


@pytest.mark.parametrize("tls", ["auto", "verify"])
def test_a_wrong_authority_is_refused_with_what_to_do(site, tls):
    """By db.tls, or by libmariadb alone with the option in the file."""
    for client in site.drives:
        if tls == "auto" and client == "libmysqlclient":
            continue  # it verifies nothing then
        verify = "ssl-verify-server-cert=1" if tls == "auto" else "ssl-verify-server-cert"
        message = site.refused(client, tls, f"ssl-ca={site.dir}/other.pem", verify)
        assert re.fullmatch(rf"connect to the database by TLS: .*certificate.* \(error 2026\): ssl-ca in {site.dir}/client.cnf must "
                            "name the certificate of the authority that signed the server's, which must be made for the host "
                            "that is connected to; ssl-cert and ssl-key there, if any, must be readable and belong together",
                            message), message


def test_a_certificate_of_another_host_is_refused_where_it_is_verified(site):
    site.show("DNS:elsewhere.invalid")
    try:
        for client in site.drives:
            for more in ([], ["ssl-verify-server-cert"]):
                message = site.refused(client, "verify", f"ssl-ca={site.dir}/ca.pem", *more)
                assert "must be made for the host that is connected to" in message
            site.accepted(client, "required", f"ssl-ca={site.dir}/ca.pem")
    finally:
        site.show("IP:127.0.0.1")
    for client in site.drives:
        site.accepted(client, "verify", f"ssl-ca={site.dir}/ca.pem")


def test_a_file_that_turns_the_check_off_is_refused(site):
    """libmariadb takes the file for more than what the program says; libmysqlclient does not read that from it."""
    lines = [f"ssl-ca={site.dir}/ca.pem", "ssl-verify-server-cert=0"]
    assert site.refused("libmariadb", "verify", *lines) == (
        f"connect to the database: db.tls=verify, and {site.dir}/client.cnf turns that off: take ssl-verify-server-cert out of it, "
        "or write ssl-verify-server-cert=1")
    site.accepted("libmariadb", "verify", lines[0], "ssl-verify-server-cert=1")
    if site.sql.mysql:
        site.accepted("libmysqlclient", "verify", *lines)


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(site):
    site.port = on_a_port(site.db, "--tls-version=" if site.sql.mysql else "--skip-ssl")
    try:
        for client in site.drives:
            for tls in ("required", "verify"):
                assert site.refused(client, tls, f"ssl-ca={site.dir}/ca.pem") == (
                    f"connect to the database: db.tls={tls}, and the server that {site.dir}/client.cnf leads to speaks no TLS: "
                    "give it ssl-cert and ssl-key, or set db.tls=auto")
        if not site.sql.mysql:
            site.accepted("libmariadb", "auto", f"ssl-ca={site.dir}/ca.pem")  # as the library does: in the clear
    finally:
        site.port = start_with_tls(site.db, site.dir)


def test_a_set_is_taken_by_tls_and_with_a_wrong_authority_none(make_mount, scratch):
    d = scratch.dir
    for name in ("ca", "other"):
        authority(d, name)
    path = d / "client.cnf"
    m = make_mount(db="mysql", db__tls="verify", db__defaults_file=path, db__blockers="refuse")
    db = MariaDB(d / "db", m.mnt)
    try:
        port = start_with_tls(db, d)
        accounts(db, "mariadb")
        defaults(path, port, "secure", f"ssl-ca={d}/other.pem")
        assert m.write("snapshot", "wrong\n") == errno.EKEYREJECTED
        message = m.last_error()["message"]
        assert f"ssl-ca in {path} must name the certificate of the authority" in message, message
        assert m.read("gate").split()[0] == "open"
        db.query("CREATE TABLE mysql.after_it (id INT)")  # nobody waits
        defaults(path, port, "secure", f"ssl-ca={d}/ca.pem")
        assert m.write("snapshot", "right\n") == 0, m.last_error()
        assert "binlog_file binlog.0000" in m.read("snapshots/right/position")
        assert float(m.read("snapshots/right/lock_ms")) > 0
        assert PASSWORD not in m.log()
    finally:
        db.close()
