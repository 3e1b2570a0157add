"""tests/bench/lib/sqlload.py - MariaDB and MySQL clients in processes of their own (threads of one Python would stall each
other), which note when each statement began and ended, in seconds of CLOCK_BOOTTIME, the daemon's own clock."""

import multiprocessing
import signal
import time


def boottime():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _insert(number, n):
    return "INSERT INTO ins (client, n, pad) VALUES (%s, %s, %s)", (number, n, "x" * 150)


def _select(number, n):
    return "SELECT pad FROM point WHERE id=%s", (n * 7919 % 1000 + 1,)


def _client(server, number, statement, stop, out):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = server.connect("bench")
    cursor = connection.cursor()
    spans, error, n = [], None, 0
    try:
        while not stop.is_set():
            n += 1
            sql, args = statement(number, n)
            start = boottime()
            cursor.execute(sql, args)
            cursor.fetchall()
            spans.append((start, boottime()))
    except Exception as e:
        error = f"client {number}: {type(e).__name__}: {e}"
    out.send((spans, error))
    out.close()


class Load:
    """`writers` clients that insert one row a transaction, `readers` that select one row by its key."""

    def __init__(self, server, writers, readers):
        self.context = multiprocessing.get_context("fork")
        self.stop = self.context.Event()
        self.clients = []
        for number in range(writers + readers):
            here, there = self.context.Pipe(duplex=False)
            statement = _insert if number < writers else _select
            p = self.context.Process(target=_client, args=(server, number, statement, self.stop, there), daemon=True)
            p.start()
            there.close()
            self.clients.append((p, here, number < writers))

    @staticmethod
    def tables(server):
        server.query("CREATE DATABASE bench")
        server.query("CREATE TABLE ins (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, n BIGINT, pad VARCHAR(200))"
                     " ENGINE=InnoDB", "bench")
        server.query("CREATE TABLE point (id INT PRIMARY KEY, pad VARCHAR(200)) ENGINE=InnoDB", "bench")
        server.query("INSERT INTO point WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000) "
                     "SELECT n, REPEAT('p', 150) FROM s", "bench")

    def end(self):
        """(spans of all writers, spans of all readers, errors)"""
        self.stop.set()
        writes, reads, errors = [], [], []
        for process, pipe, writer in self.clients:
            try:
                spans, error = pipe.recv()
            except EOFError:
                spans, error = [], f"client {process.pid} died"
            (writes if writer else reads).extend(spans)
            errors += [error] if error else []
            process.join(30)
        self.clients = []
        return writes, reads, errors

    def close(self):
        self.stop.set()
        for process, pipe, _ in self.clients:
            process.terminate()
            process.join(10)
            pipe.close()
        self.clients = []
