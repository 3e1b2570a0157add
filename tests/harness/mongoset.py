"""tests/harness/mongoset.py - a replica set of scripted mongods (mongod.py) in threads of the test: which of them is the
primary, who is frozen, who lags, and an election after a step down. As the manual describes it, no more.
"""

import base64
import datetime
import threading
import time

import bson
import mongod
from bson.timestamp import Timestamp

ELECTION_S = 0.1
T0 = datetime.datetime(2026, 1, 1)
NOT_AUTHORIZED = {"mode": "error", "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized"}


class Member(mongod.State):
    def __init__(self, which, set_):
        super().__init__("/data/db", "secondary")
        self.set, self.which, self.set_name = set_, which, "rs0"
        self.priority, self.lag_s, self.frozen, self.up, self.more = 1, 0, 0, True, {}
        self.login = None
        self.server = None
        self.process = bson.ObjectId()
        self.left = []  # of the last freeze, whenever the next one came
        self.hung = threading.Event()
        self.hears = lambda command: None  # before it is carried out
        self.elected = 0

    @property
    def host(self):
        return f"127.0.0.1:{self.server.server_address[1]}"

    def hello(self):
        reply = super().hello()
        if self.set_name:
            reply.update(setName=self.set_name, me=self.host, hosts=[m.host for m in self.set.members],
                         topologyVersion={"processId": self.process, "counter": bson.int64.Int64(1)})
        if self.more.get("arbiterOnly"):
            reply.update(arbiterOnly=True, secondary=False)
        primary = next((m for m in self.set.members if m.role == "primary"), None)
        return {**reply, **({"primary": primary.host} if primary else {})}

    def serve(self, command):
        if not self.up:
            return None
        process = self.process
        while self.hung.is_set() and process is self.process:
            time.sleep(0.01)
        self.hears(command)
        reply = super().serve(command)
        return reply if process is self.process else None  # the one that was asked is gone

    def step_down(self, command):
        if self.role != "primary":
            return error(10107, "not primary so can't step down")
        end = time.monotonic() + command["secondaryCatchUpPeriodSecs"]
        while not any(m.electable() for m in self.set.members if m is not self):
            if time.monotonic() > end:
                return error(262, "No electable secondaries caught up as of now")
            time.sleep(0.01)
        self.role, self.frozen = "secondary", time.monotonic() + command["replSetStepDown"]
        threading.Timer(ELECTION_S, self.set.elect).start()
        return {"ok": 1.0}

    def freeze(self, seconds):
        now = time.monotonic()
        if self.role == "primary":
            return error(95, "cannot freeze node when primary or running for election. state: Primary")
        if seconds:
            self.left.append(self.frozen - now)
        self.frozen = max(self.frozen, now + seconds) if seconds else now
        return {"ok": 1.0}

    def electable(self):
        return self.up and self.priority > 0 and self.lag_s <= 0 and self.frozen < time.monotonic() and self.role == "secondary"

    def restart(self, down_s=0.0, role="secondary"):
        """Another process: it is no primary, and knows of no freeze."""
        self.up = False
        was_primary, self.role, self.frozen = self.role == "primary", role, 0
        time.sleep(down_s)
        self.process = bson.ObjectId()
        self.up = True
        if was_primary:
            self.set.elect()

    def answer(self, command):
        name = next(iter(command))
        if self.set_name is None:
            return super().answer(command)
        if name == "replSetGetConfig":
            return {"config": {"_id": "rs0", "settings": {"replicaSetId": self.set.id}, "members": [
                {"_id": m.which, "host": m.host, "priority": float(m.priority), "votes": 1, **m.more}
                for m in self.set.members]}, "ok": 1.0}
        if name == "replSetGetStatus":
            return {"set": "rs0", "members": [
                {"name": m.host, "health": 1.0 if m.up else 0.0, **({"self": True} if m is self else {}),
                 "stateStr": "(not reachable/healthy)" if not m.up else m.role.upper(),
                 "optimeDate": T0 - datetime.timedelta(seconds=m.lag_s), "optime": {"ts": Timestamp(1, 1), "t": 1}}
                for m in self.set.members], "ok": 1.0}
        if name == "replSetFreeze":
            return self.freeze(command[name])
        if name == "saslStart":
            payload = command["payload"]  # libmongoc sends that of PLAIN as text
            self.login = base64.b64decode(payload) if isinstance(payload, str) else bytes(payload)
            return {"conversationId": 1, "done": True, "payload": b"", "ok": 1.0}
        if name == "replSetStepDown":
            return self.step_down(command)
        return super().answer(command)


def error(code, text):
    return {"ok": 0.0, "errmsg": text, "code": code, "codeName": "x"}


class Set:
    """members[0] begins as the primary; the last one is the election's favourite."""

    def __init__(self, directory, n=3):
        self.id, self.open = bson.ObjectId(), True
        self.members = [Member(i, self) for i in range(n)]
        self.files = []
        for m in self.members:
            m.server = mongod.socketserver.ThreadingTCPServer(("127.0.0.1", 0), mongod.Handler)
            m.server.daemon_threads, m.server.state = True, m
            threading.Thread(target=m.server.serve_forever, args=(0.02,), daemon=True).start()
            path = directory / f"uri{m.which}"
            path.write_text(f"mongodb://{m.host}/\n")
            path.chmod(0o600)
            self.files.append(path)
        self.members[0].role = "primary"

    def elect(self):
        if any(m.role == "primary" and m.up for m in self.members) or not self.open:
            return
        able = [m for m in self.members if m.electable()]
        if able:
            able[-1].elected += 1
            able[-1].role = "primary"
        else:
            threading.Timer(ELECTION_S, self.elect).start()

    def fail(self, *which):
        """These are gone; the rest elects, as if it were a majority."""
        for i in which:
            self.members[i].up, self.members[i].role = False, "secondary"
        self.elect()

    def primary(self):
        return next((m.which for m in self.members if m.role == "primary"), None)

    def close(self):
        self.open = False
        for m in self.members:
            m.hung.clear()
            m.server.shutdown()
            m.server.server_close()
