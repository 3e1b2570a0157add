"""tests/harness/replication.py - sources and replicas of private servers, over loopback TCP; tables compared by checksum."""

import socket

from mysql import MySQL
from stillfs import wait_for


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def networked(port):
    """Options of a server that listens on loopback as well."""
    return ["--skip-networking=0", f"--port={port}", "--bind-address=127.0.0.1"]


GTID = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]


def options(kind, port, *more):
    return [*networked(port), *(GTID if kind is MySQL else ["--gtid-strict-mode=1", "--log-slave-updates=1"]), *more]


def account(source):
    """The account replicas come with; not in the binary log, as every server has its own."""
    c = source.connect()
    with c.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin=0")
        cursor.execute("CREATE USER IF NOT EXISTS repl@'127.0.0.1' IDENTIFIED BY 'r'")
        cursor.execute("GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'")
    c.close()


def attach(replica, port, gtid=True, file=None, pos=None, channel="", user="repl"):
    """Make `replica` one of the source at `port`, and start it."""
    if isinstance(replica, MySQL):
        where = "SOURCE_AUTO_POSITION=1" if gtid else f"SOURCE_AUTO_POSITION=0, SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={pos}"
        end = f" FOR CHANNEL '{channel}'"
        replica.query(f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='{user}', "
                      f"SOURCE_PASSWORD='r', GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, {where}{end}")
        replica.query(f"START REPLICA{end}")
    else:
        name = f" '{channel}'" if channel else ""
        where = "MASTER_USE_GTID=slave_pos" if gtid else f"MASTER_USE_GTID=no, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={pos}"
        replica.query(f"CHANGE MASTER{name} TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='{user}', "
                      f"MASTER_PASSWORD='r', MASTER_CONNECT_RETRY=1, {where}")
        replica.query(f"START SLAVE{name}")


def status(replica):
    """The rows of its channels, as dictionaries with MySQL's names."""
    sql = "SHOW REPLICA STATUS" if isinstance(replica, MySQL) else "SHOW ALL SLAVES STATUS"
    c = replica.connect()
    try:
        with c.cursor() as cursor:
            cursor.execute(sql)
            names = [d[0].replace("Slave", "Replica").replace("Master", "Source") for d in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
    finally:
        c.close()


def runs(replica):
    return all(s["Replica_SQL_Running"] == "Yes" for s in status(replica))


def executed(server):
    return server.query("SELECT @@GLOBAL.gtid_executed" if isinstance(server, MySQL) else "SELECT @@GLOBAL.gtid_current_pos")[0][0]


def catch_up(source, replica, within_s=90):
    """Until the replica has executed all that the source has now; an applier that fails is told, and what it does when time is up."""
    want = source.query("SHOW BINARY LOG STATUS" if isinstance(source, MySQL) else "SHOW MASTER STATUS")[0][:2]

    def there():
        for s in status(replica):
            assert not s["Last_SQL_Error"], s["Last_SQL_Error"]
            if (s["Relay_Source_Log_File"], int(s["Exec_Source_Log_Pos"])) >= want:
                return True
        return False
    try:
        wait_for("the replica", there, within_s)
    except AssertionError as e:
        told = ("IO_Running", "IO_State", "Last_IO_Error", "SQL_Running", "SQL_Running_State", "Log_File", "Log_Pos", "Gtid")
        raise AssertionError(f"{e}; wanted {want}, has " + "; ".join(
            ", ".join(f"{k}={v}" for k, v in s.items() if any(t in k for t in told)) for s in status(replica))) from None


def checksums(server, database):
    tables = [row[0] for row in server.query("SHOW TABLES", database)]
    return dict(server.query("CHECKSUM TABLE " + ", ".join(sorted(tables)), database))
