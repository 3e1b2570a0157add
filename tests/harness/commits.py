"""tests/harness/commits.py - SQL clients that commit numbered rows and remember which commits were acknowledged."""

import threading
import time

import pymysql

from stillfs import wait_for

ERRORS = (pymysql.Error, OSError)


class Commits:
    """`clients` threads, each inserting (client, 1), (client, 2), ... into `table`, a transaction each.

    A client ends at stop(), or at its first error, which is what a crash of the server is to it.
    """

    def __init__(self, server, table="t.commits", clients=4, engine="InnoDB", pad=200):
        self.table = table
        self.acked = [(0, 0.0)] * clients  # the last n, and when its acknowledgement arrived (monotonic)
        self.pad, self._stop = pad, threading.Event()
        server.query(f"CREATE DATABASE IF NOT EXISTS {table.split('.')[0]}")
        server.query(f"CREATE TABLE {table} (client INT, n INT, pad VARCHAR(4000), PRIMARY KEY (client, n)) ENGINE={engine}")
        connections = [server.connect() for _ in range(clients)]
        self.threads = [threading.Thread(target=self._run, args=(i, c), daemon=True) for i, c in enumerate(connections)]
        for t in self.threads:
            t.start()

    def _run(self, client, connection):
        n = 0
        try:
            with connection.cursor() as cursor:
                while not self._stop.is_set():
                    n += 1
                    cursor.execute(f"INSERT INTO {self.table} VALUES (%s, %s, %s)", (client, n, "x" * self.pad))
                    self.acked[client] = (n, time.monotonic())
            connection.close()
        except ERRORS:
            pass

    def wait(self, each=50, within_s=30):
        """Until every client has that many commits more."""
        goal = [n + each for n, _ in self.acked]
        wait_for(f"{each} commits of each client", lambda: all(a[0] >= g for a, g in zip(self.acked, goal)), within_s)
        return self

    def now(self):
        return [n for n, _ in self.acked]

    def stop(self):
        """The last acknowledged n of each client."""
        self._stop.set()
        for t in self.threads:
            t.join(30)
            assert not t.is_alive(), "a client hangs"
        return self.now()

    def check(self, server, atleast):
        """Each client's rows are 1..m without a gap, m >= what was acknowledged; returns m of each."""
        rows = {client: (count, last) for client, count, last in server.query(
            f"SELECT client, COUNT(*), MAX(n) FROM {self.table} GROUP BY client")}
        there = [rows.get(client, (0, 0)) for client in range(len(atleast))]
        assert all(count == last for count, last in there), f"gaps: {there}"
        assert all(last >= n for (_, last), n in zip(there, atleast)), f"lost: has {there}, acknowledged {atleast}"
        return [last for _, last in there]
