"""tests/harness/ec2.py - a stand-in for EC2 on loopback: moto, and before it a proxy that makes snapshots real.

moto keeps the records and checks signatures.  The proxy copies the image that plays a volume at the moment of
CreateSnapshot(s): that is the point in time.  It can be told to delay, to fail and to lose answers.  moto runs in a
root file system of its own (roots.py).
"""

import collections
import http.client
import http.server
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree

import roots


def moto_root():
    """The root file system with moto, made when it is missing; None with a reason when it cannot be made."""
    return roots.make("moto-trixie", "trixie", ["python3-moto", "python3-flask", "python3-flask-cors"], "usr/bin/moto_server")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Moto:
    """The server. One serves a module's tests: reset() forgets everything between two of them."""

    def __init__(self, root):
        self.port, self.keys = free_port(), None
        self.child = subprocess.Popen(["chroot", str(root), "/usr/bin/python3", "-m", "moto.server", "-H", "127.0.0.1", "-p",
                                       str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 40
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end and self.child.poll() is None, "moto does not start"
                time.sleep(0.1)

    def close(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def post(self, path, body, headers):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        c.request("POST", path, body, headers)
        r = c.getresponse()
        answer = r.read()
        c.close()
        assert r.status == 200, answer
        return answer.decode()

    def call(self, service, version, action, **form):
        """An unsigned call, while signatures are not checked yet; the answer without namespaces."""
        scope = f"Credential=x/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=x"
        body = urllib.parse.urlencode({"Action": action, "Version": version, **{k.replace("__", "."): v for k, v in form.items()}})
        text = self.post("/", body, {"Content-Type": "application/x-www-form-urlencoded", "Host": f"{service}.us-east-1.amazonaws.com",
                                     "Authorization": f"AWS4-HMAC-SHA256 {scope}"})
        return ElementTree.fromstring(re.sub(r'xmlns="[^"]*"', "", text))

    def ec2(self, action, **form):
        return self.call("ec2", "2016-11-15", action, **form)

    def reset(self):
        self.check_signatures(False)
        self.post("/moto-api/reset", "", {})
        self.keys = None

    def user(self):
        """(id, secret) of a user who may do anything."""
        if self.keys:
            return self.keys

        def iam(action, **form):
            return self.call("iam", "2010-05-08", action, UserName="host", **form)
        iam("CreateUser")
        iam("PutUserPolicy", PolicyName="all", PolicyDocument='{"Version":"2012-10-17","Statement":'
            '[{"Effect":"Allow","Action":"*","Resource":"*"}]}')
        key = iam("CreateAccessKey")
        self.keys = key.find(".//AccessKeyId").text, key.find(".//SecretAccessKey").text
        return self.keys

    def check_signatures(self, wanted=True):
        self.post("/moto-api/reset-auth", "0" if wanted else "inf", {"Content-Type": "text/plain"})


class Proxy:
    """url; calls: actions in order; faults[ACTION]: kinds to be used up: "lost", "late N", "throttled", "denied", "half",
    "500", "code C": refused with that code; of CreateSnapshots also "partial": one is not named in the answer, "wrong": one is of
    another volume; "held": done, and not answered until `released` is set; "early": not even passed on until then.
    `holding`: actions that were met by these two.  Of DescribeVolumes "as STATE": what is available is in that state, "gone": none.
    pending: snapshots are not completed yet; away: every connection is cut; aged: snapshots were made long ago (a volume may be
    snapshotted once in 15 s).  holds: {snapshot: "locked", "image" or "restore"}, what keeps it from being deleted.
    shy: DescribeSnapshots does not show one that is younger than so many seconds.
    page: DescribeSnapshots answers so many at once, and begins with a page that is empty.  foreign: (NAME, N): N snapshots of
    another host, whose stillfs has this name, too, and whose sets have ours' names."""

    def __init__(self, moto, images):
        self.moto, self.images = moto, images  # volume id -> (image, directory of copies)
        self.calls, self.copies, self.made = [], {}, []
        self.faults = collections.defaultdict(list)
        self.holds, self.page, self.foreign = {}, 0, ("", 0)
        self.shy, self.born = 0, {}
        self.pending = self.away = self.aged = False
        self.released, self.holding = threading.Event(), []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the body waits for the head's acknowledgment, which comes 40 ms late

            def log_message(self, *_):
                pass

            def do_POST(self):
                proxy.serve(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def left(self):
        """How many snapshots moto still has: those made and not deleted."""
        return len(self.made) - self.calls.count("DeleteSnapshot")

    @staticmethod
    def cut(handler):
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def forward(self, handler, body):
        c = http.client.HTTPConnection("127.0.0.1", self.moto.port, timeout=30)
        c.putrequest("POST", "/", skip_host=True, skip_accept_encoding=True)
        for k, v in handler.headers.items():
            c.putheader(k, v)
        c.endheaders(body)
        r = c.getresponse()
        answer = r.status, r.read()
        c.close()
        return answer

    def copy(self, answer):
        """The point in time: copy the image of each volume that moto says it has snapshotted."""
        text = re.sub(rb'xmlns="[^"]*"', b"", answer)
        for e in ElementTree.fromstring(text).iter():
            snap, volume = e.findtext("snapshotId"), e.findtext("volumeId")
            if snap and volume:
                image, where = self.images[volume]
                self.copies[snap] = where / f"{snap}.img"
                subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(image), str(self.copies[snap])], check=True)
                self.made.append(snap)
                self.born[snap] = time.monotonic()

    def held(self, form):
        """The answer to a question about what holds snapshots: moto knows nothing of locks, and its volumes are made at once. None:
        it is another question."""
        action = form["Action"]
        kind = {"DescribeLockedSnapshots": "locked", "DescribeImages": "image", "DescribeVolumes": "restore"}.get(action)
        asked = [v for k, v in form.items() if k.startswith("SnapshotId." if kind == "locked" else "Filter.1.Value.")]
        if not kind or (kind != "locked" and form.get("Filter.1.Name") not in ("block-device-mapping.snapshot-id", "snapshot-id")):
            return None
        items = "".join("<item>" + {
            "locked": f"<snapshotId>{s}</snapshotId><lockState>governance</lockState>",
            "image": "<imageId>ami-0123456789abcdef0</imageId><blockDeviceMapping><item><ebs><snapshotId>" + s
                     + "</snapshotId></ebs></item></blockDeviceMapping>",
            "restore": f"<volumeId>vol-0fedcba9876543210</volumeId><snapshotId>{s}</snapshotId><status>creating</status>"}[kind]
            + "</item>" for s in asked if self.holds.get(s) == kind)
        name = {"locked": "snapshotSet", "image": "imagesSet", "restore": "volumeSet"}[kind]
        return f"<{action}Response><{name}>{items}</{name}></{action}Response>".encode()

    def with_foreign(self, form, items):
        name, n = self.foreign
        wanted = {form[f"Filter.{i}.Name"]: form[f"Filter.{i}.Value.1"] for i in range(1, 5) if f"Filter.{i}.Name" in form}
        tags = {"stillfs:name": name, "stillfs:lineage": "f0" * 16, "stillfs:members": "1", "stillfs:class": "nightly",
                "stillfs:created": "2001-01-01T00:00:00.000Z", "stillfs:attempt": "e0" * 16}
        if any(k == "volume-id" or (k.startswith("tag:") and tags.get(k[4:]) != v) for k, v in wanted.items()):
            return items
        for i in range(n):
            one = {**tags, "stillfs:set": "abcdefgh"[i % 8], "stillfs:id": f"{i:032x}"}
            text = "".join(f"<item><key>{k}</key><value>{v}</value></item>" for k, v in one.items())
            items.append(ElementTree.fromstring(f"<item><snapshotId>snap-f{i:016x}</snapshotId><volumeId>vol-0fedcba9876543210</volumeId>"
                                                f"<status>completed</status><volumeSize>1</volumeSize><tagSet>{text}</tagSet></item>"))
        return items

    def paged(self, form, answer):
        items = ElementTree.fromstring(re.sub(rb'xmlns="[^"]*"', b"", answer)).findall("snapshotSet/item")
        items = self.with_foreign(form, items)
        begin = int(form.get("NextToken", -self.page))
        end = begin + self.page
        text = b"".join(ElementTree.tostring(i) for i in items[max(begin, 0):max(end, 0)])
        more = f"<nextToken>{end}</nextToken>".encode() if end < len(items) or begin < 0 else b""
        return b"<DescribeSnapshotsResponse><snapshotSet>" + text + b"</snapshotSet>" + more + b"</DescribeSnapshotsResponse>"

    def without_new(self, answer):
        root = ElementTree.fromstring(re.sub(rb'xmlns="[^"]*"', b"", answer))
        for s in root.iter("snapshotSet"):
            for i in s.findall("item"):
                if time.monotonic() - self.born.get(i.findtext("snapshotId"), -self.shy) < self.shy:
                    s.remove(i)
        return ElementTree.tostring(root)

    def wait_released(self, action):
        self.holding.append(action)
        self.released.wait(300)

    def serve(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if self.away:
            self.cut(handler)
            return
        form = dict(urllib.parse.parse_qsl(body.decode()))
        action = form["Action"]
        dry = form.get("DryRun") == "true"
        self.calls.append(action + (" dry" if dry else ""))
        fault = self.faults[action].pop(0) if self.faults[action] and not dry else ""
        if fault == "throttled":
            status, answer = 503, (b"<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message>"
                                   b"</Error></Errors></Response>")
        elif fault == "denied":
            status, answer = 403, (b"<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message>"
                                   b"</Error></Errors></Response>")
        elif fault.startswith("code "):
            status, answer = 400, (f"<Response><Errors><Error><Code>{fault[5:]}</Code><Message>no</Message></Error></Errors>"
                                   f"</Response>").encode()
        elif fault == "500":
            status, answer = 500, b"<html>oops"
        elif self.held(form) is not None:
            status, answer = 200, self.held(form)
        else:
            if fault == "early":
                self.wait_released(action)
            status, answer = self.forward(handler, body)
            if status == 200 and action.startswith("CreateSnapshot") and not dry:
                self.copy(answer)
        if self.shy and action == "DescribeSnapshots" and status == 200:
            answer = self.without_new(answer)
        if self.page and action == "DescribeSnapshots" and status == 200:
            answer = self.paged(form, answer)
        if fault == "held":
            self.wait_released(action)
        if fault.startswith("late "):
            time.sleep(float(fault.split()[1]))
        if fault == "partial":
            first = answer.index(b"<item>")
            answer = answer[:first] + answer[answer.index(b"<item>", answer.index(b"</tagSet>", first)):]
        if fault == "wrong":
            answer = re.sub(rb"<volumeId>[^<]*", b"<volumeId>vol-0fedcba9876543210", answer, count=1)
        if fault.startswith("as "):
            answer = re.sub(rb"<status>available", b"<status>" + fault[3:].encode(), answer)
        if fault == "gone":
            answer = b"<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"
        if fault == "half":
            answer = answer[:len(answer) // 2]
        if self.pending and action == "DescribeSnapshots":
            answer = re.sub(rb"<status>completed</status>", b"<status>pending</status>", answer)
            answer = re.sub(rb"<progress>100%</progress>", b"<progress>41%</progress>", answer)
        if self.aged:
            answer = re.sub(rb"<startTime>\d{4}", b"<startTime>2001", answer)
        if fault == "lost":
            self.cut(handler)
            return
        try:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
        except OSError:
            handler.close_connection = True
