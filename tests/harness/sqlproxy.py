"""tests/harness/sqlproxy.py - a real MariaDB or MySQL behind a door that the test keeps: each statement is shown to it before
the server gets it, each answer can be held back, and a connection can be cut.

Both sides speak the servers' protocol in the clear over Unix sockets, of which no more is read than where a packet
begins and which of them are statements."""

import pathlib
import socket
import threading


class Link:
    """One client's connection. said: its statements. heard: bytes of the server that were handed on. answers: cleared, they
    stay here."""

    def __init__(self, proxy, client):
        self.proxy, self.client, self.said, self.heard = proxy, client, [], 0
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(str(proxy.server))
        self.answers = threading.Event()
        self.answers.set()
        for work in (self._down, self._up):
            threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work):
        try:
            work()
        except OSError:
            pass
        self.cut()

    def _down(self):
        """From the server to the client, as it comes."""
        while data := self.server.recv(65536):
            self.answers.wait()
            self.client.sendall(data)
            self.heard += len(data)

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.client.recv(n - len(data))
            if not more:
                raise OSError("the client has gone")
            data += more
        return data

    def _up(self):
        while True:
            head = self._exactly(4)
            body = self._exactly(int.from_bytes(head[:3], "little"))
            if head[3] == 0 and body[:1] == b"\x03":
                sql = body[1:].lstrip(b"\0\1").decode()  # libmysqlclient counts its attributes first
                self.said.append(sql)
                answer = self.proxy.look(self, sql)
                if answer is not None:
                    self.client.sendall(answer)
                    continue
            self.server.sendall(head + body)

    def cut(self):
        self.answers.set()
        for s in (self.client, self.server):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def refusal(code, text):
    """The packet of an error, as the answer to a statement."""
    body = b"\xff" + code.to_bytes(2, "little") + b"#HY000" + text.encode()
    return len(body).to_bytes(3, "little") + b"\1" + body


class Proxy:
    """look(link, sql) is called in the link's own thread before the server gets the statement; what it returns, unless None,
    is the answer, and the server gets nothing."""

    def __init__(self, server, path):
        self.server, self.socket, self.links = server, pathlib.Path(path), []
        self.look = lambda link, sql: None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen(20)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                self.links.append(Link(self, client))
            except OSError:
                return

    def close(self):
        self.listener.close()
        for link in self.links:
            link.cut()
        self.socket.unlink()
