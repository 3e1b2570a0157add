"""tests/harness/mongod.py - as much of a mongod as the coordinator speaks to: OP_MSG, and OP_QUERY for the handshake.

python3 mongod.py PORT DBPATH [ROLE]: answers on loopback. Its fsync lock is counted and outlives the connection that took
it, as the real one does; it ends with the process. Faults are set by the command {stillfsFault: COMMAND, mode: MODE,
times: N}: `drop` (the connection is closed instead of an answer, the command is carried out), `refuse` (closed, and not
carried out), `error` (ok: 0 with code and codeName of the fault), `stall` (seconds before the answer), `held` (of fsync: it
waits as long as it was told to, and does not get the lock).
"""

import contextlib
import datetime
import os
import pathlib
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time

import bson
from bson.timestamp import Timestamp

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013


def read_exactly(sock, n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read_message(sock):
    length, request, _, op = struct.unpack("<iiii", read_exactly(sock, 16))
    return request, op, read_exactly(sock, length - 16)


def message(request, op, body):
    return struct.pack("<iiii", 16 + len(body), 1, request, op) + body


class State:
    def __init__(self, dbpath, role):
        self.dbpath, self.role, self.locks, self.calls = dbpath, role, 0, []
        self.faults, self.mutex = {}, threading.Lock()

    def hello(self):
        reply = {"ismaster": self.role in ("primary", "standalone"), "isWritablePrimary": self.role in ("primary", "standalone"),
                 "helloOk": True, "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000,
                 "minWireVersion": 0, "maxWireVersion": 17, "ok": 1.0}
        if self.role != "standalone":
            reply.update(setName="rs0", me="127.0.0.1:1", hosts=["127.0.0.1:1"], secondary=self.role != "primary",
                         lastWrite={"opTime": {"ts": Timestamp(1700000000, 7), "t": 3},
                                    "lastWriteDate": datetime.datetime(2023, 11, 14)})
        if self.role == "hidden":
            reply["hidden"] = True
        if self.role == "mongos":
            reply["msg"] = "isdbgrid"
        return reply

    def answer(self, command):
        name = next(iter(command))
        if name in ("hello", "isMaster", "ismaster"):
            return self.hello()
        if name == "ping":
            return {"ok": 1.0}
        if name == "buildInfo":
            return {"version": "7.0.5", "ok": 1.0}
        if name == "getCmdLineOpts":
            return {"parsed": {"storage": {"dbPath": self.dbpath}}, "ok": 1.0}
        if name == "getParameter":
            return {"watchdogPeriodSeconds": self.faults.get("watchdog", -1), "ok": 1.0}
        if name == "connectionStatus":
            return {"authInfo": self.faults.get("auth", {"authenticatedUsers": []}), "ok": 1.0}
        if name == "currentOp":
            return {"inprog": [], **({"fsyncLock": True} if self.locks else {}), "ok": 1.0}
        if name == "fsync" and command.get("lock"):
            assert isinstance(command["fsyncLockAcquisitionTimeoutMillis"], int)
            self.locks += 1
            return {"info": "now locked against writes", "lockCount": bson.int64.Int64(self.locks), "ok": 1.0}
        if name == "fsyncUnlock":
            if not self.locks:
                return {"ok": 0.0, "errmsg": "fsyncUnlock called when not locked", "code": 20, "codeName": "IllegalOperation"}
            self.locks -= 1
            return {"info": "fsyncUnlock completed", "lockCount": bson.int64.Int64(self.locks), "ok": 1.0}
        if name == "replSetGetStatus":
            if self.role == "standalone":
                return {"ok": 0.0, "errmsg": "not running with --replSet", "code": 76, "codeName": "NoReplicationEnabled"}
            at = {"ts": Timestamp(1700000000, 7), "t": 3}
            return {"myState": 1, "optimes": {"appliedOpTime": at, "durableOpTime": at, "lastCommittedOpTime": at}, "ok": 1.0}
        if name == "stillfsState":
            return {"locks": self.locks, "calls": self.calls, "ok": 1.0}
        if name == "stillfsFault":
            if command["mode"] in ("watchdog", "auth"):
                self.faults[command["mode"]] = command["value"]
            else:
                self.faults[command["stillfsFault"]] = dict(command)
            return {"ok": 1.0}
        if name == "endSessions":
            return {"ok": 1.0}
        return {"ok": 0.0, "errmsg": f"no such command: '{name}'", "code": 59, "codeName": "CommandNotFound"}

    def serve(self, command):
        """The answer, or None: close the connection."""
        name = next(iter(command))
        with self.mutex:
            if not name.startswith("stillfs"):
                self.calls.append(name)
            fault = self.faults.get(name)
            if fault and fault.get("times", 1) <= 0:
                fault = None
            if fault:
                fault["times"] = fault.get("times", 1) - 1
        if fault and fault["mode"] == "stall":
            time.sleep(fault["seconds"])
        if fault and fault["mode"] == "held":
            time.sleep(command["fsyncLockAcquisitionTimeoutMillis"] / 1000)
            return {"ok": 0.0, "errmsg": "Fsync lock timed out", "code": 24, "codeName": "LockTimeout"}
        with contextlib.nullcontext() if name == "replSetStepDown" else self.mutex:  # it waits for others
            if fault and fault["mode"] == "refuse":
                return None
            if fault and fault["mode"] == "error":
                return {"ok": 0.0, "errmsg": fault["errmsg"], "code": fault["code"], "codeName": fault["codeName"]}
            reply = self.answer(command)
            return None if fault and fault["mode"] == "drop" else reply


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while True:
                request, op, body = read_message(self.request)
                if op == OP_QUERY:
                    end = body.index(b"\0", 4) + 1
                    reply = self.server.state.serve(bson.decode(body[end + 8:]))
                    if reply is None:
                        return
                    self.request.sendall(message(request, OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(reply)))
                else:
                    reply = self.server.state.serve(bson.decode(body[5:]))
                    if reply is None:
                        return
                    self.request.sendall(message(request, OP_MSG, struct.pack("<iB", 0, 0) + bson.encode(reply)))
        except (EOFError, OSError):
            return


class Mongod:
    """The responder as a process, as the suite sees it."""

    def __init__(self, directory, dbpath, role="standalone"):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.dbpath, self.role, self.process = dbpath, role, None
        self.uri_file = directory / "uri"
        self.uri_file.write_text(f"mongodb://127.0.0.1:{self.port}/\n")
        self.uri_file.chmod(0o600)

    def start(self):
        self.process = subprocess.Popen([sys.executable, __file__, str(self.port), str(self.dbpath), self.role])
        end = time.monotonic() + 30
        while True:
            try:
                self.command({"ping": 1})
                return self
            except OSError:
                assert time.monotonic() < end, "the responder does not answer"
                time.sleep(0.02)

    def command(self, command):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as s:
            s.sendall(message(1, OP_MSG, struct.pack("<iB", 0, 0) + bson.encode({**command, "$db": "admin"})))
            return bson.decode(read_message(s)[2][5:])

    def fault(self, name, mode, **more):
        self.command({"stillfsFault": name, "mode": mode, **more})

    def locks(self):
        return self.command({"stillfsState": 1})["locks"]

    def calls(self):
        return self.command({"stillfsState": 1})["calls"]

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        self.process = None


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.state = State(str(pathlib.Path(sys.argv[2])), sys.argv[3])
        server.serve_forever()
