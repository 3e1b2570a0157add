"""tests/harness/litedb.py PATH WRITER [PRAGMA...] - one process that writes to a SQLite database in WAL mode: rows
(WRITER, 1), (WRITER, 2), ..., a transaction each, "N" on stdout when it is committed; ends when stdin ends.

Called by: tests/integration/test_engines_sqlite.py, several at once on one database.
"""

import os
import select
import sqlite3
import sys


def main():
    path, writer, pragmas = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    db = sqlite3.connect(path, timeout=50, isolation_level=None)
    for p in pragmas:
        db.execute(f"PRAGMA {p}")
    n = 0
    # a pause, so that a checkpoint finds its moment and the log does not fill the filesystem
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        n += 1
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (writer, n, bytes([n % 251]) * (100 + n * 37 % 3000)))
        db.execute("UPDATE total SET n = n + 1")
        db.execute("COMMIT")
        os.write(1, f"{n}\n".encode())


if __name__ == "__main__":
    main()
