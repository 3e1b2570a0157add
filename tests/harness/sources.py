"""tests/harness/sources.py - a replica of two sources, each over a channel (MariaDB: connection) of its own."""

import time

import replication
from mariadb import MariaDB
from mysql import MySQL

NAMES = ("one", "two")


def more(kind, server_id):
    """Two writable MariaDBs need a domain each."""
    return [f"--gtid-domain-id={server_id}"] if kind is MariaDB else []


def said(lines):
    """{channel: {key: value}} of a position's lines, and what is not of a channel under None."""
    found = {None: {}}
    at = found[None]
    for line in lines:
        key, value = line.split(" ", 1)
        if key == "source_channel":
            at = found.setdefault(value, {})
        elif not key.startswith("source_"):
            at = found[None]
        at[key] = value
    return found


def name_of(row):
    return row["Channel_Name"] if "Channel_Name" in row else row["Connection_name"]


def appliers(server):
    """{channel: does its applier run}"""
    return {name_of(r): r["Replica_SQL_Running"] == "Yes" for r in replication.status(server)}


def applier(server, verb, channel=""):
    server.query(f"{verb} REPLICA SQL_THREAD FOR CHANNEL '{channel}'" if isinstance(server, MySQL) else
                 f"{verb} SLAVE '{channel}' SQL_THREAD")


def replica(server, verb, channel=None):
    """Both threads; of one channel, or of all."""
    if isinstance(server, MySQL):
        server.query(f"{verb} REPLICA" + ("" if channel is None else f" FOR CHANNEL '{channel}'"))
    else:
        server.query(f"{verb} ALL SLAVES" if channel is None else f"{verb} SLAVE '{channel}'")


def forget(server, channel):
    """It follows this source no more."""
    replica(server, "STOP", channel)
    server.query(f"RESET REPLICA ALL FOR CHANNEL '{channel}'" if isinstance(server, MySQL) else f"RESET SLAVE '{channel}' ALL")


def where(source):
    """Its end: file and position."""
    return source.query("SHOW BINARY LOG STATUS" if isinstance(source, MySQL) else "SHOW MASTER STATUS")[0][:2]


def catch_up(source, server, channel):
    """Until this channel has executed all that its source has now; it may take as long as it likes, but not stand still."""
    want, seen, since = where(source), None, 0.0
    while True:
        row = next(r for r in replication.status(server) if name_of(r) == channel)
        assert not row["Last_SQL_Error"] and not row["Last_IO_Error"], (row["Last_SQL_Error"], row["Last_IO_Error"])
        at = (row["Relay_Source_Log_File"], int(row["Exec_Source_Log_Pos"]))
        if at >= want:
            return
        if at != seen:
            seen, since = at, time.monotonic()
        assert time.monotonic() - since < 60, f"channel {channel} stands at {at}, its source at {want}"
        time.sleep(0.05)
