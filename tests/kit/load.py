"""A load of HTTP/1.1 clients that counts every outcome; a program of its own: it shares no interpreter with a test.

    python load.py HOST PORT --new-rate 1000 --keepalive 200 --pace 0.4      runs until its stdin is closed
    python load.py unix PATH …

Clients of two kinds: *new* ones connect, ask once and read to the end, so many a second from a fixed schedule (a slow
answer does not slow the schedule); *keep-alive* ones ask again and again on one connection, `pace` seconds apart, and
connect anew only when an answer said `Connection: close`. Each request carries a number of its own, and the origin must
give it back. On stdout, at the end, one JSON object:

    {"ok": right answers, "requests": requests sent whole, "connects": …, "closes": keep-alive connections that
     ended after `Connection: close`, "failures": {what: how often}, "worst_ms": slowest answer, "statuses": {…}}

`--diary` adds when each of it was: see diary.py.
"""

from __future__ import annotations

import argparse
import collections
import errno
import heapq
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kit.diary import ASKED, IDLE, REFUSED, SENT_AWAY, WRONG, Diary, hand_in

HOW: Final = {"connecting": REFUSED, "waiting": ASKED, "thinking": IDLE}
ANSWER_TIMEOUT_S: Final = 20.0
MAX_OPEN: Final = 4000


class Client:
    """One connection."""

    __slots__ = ("asked_s", "keepalive", "number", "received", "sock", "state")

    def __init__(self, sock: socket.socket, keepalive: bool) -> None:
        self.sock = sock
        self.keepalive = keepalive
        self.state = "connecting"
        self.received = b""
        self.asked_s = time.monotonic()
        self.number = 0

    @property
    def kind(self) -> str:
        return "keep-alive" if self.keepalive else "new"


class Load:
    def __init__(self, host: str, port: str, new_rate: float, keepalive: int, pace_s: float) -> None:
        families = {"unix": socket.AF_UNIX, "::1": socket.AF_INET6}
        self.family = families.get(host, socket.AF_INET)
        self.address = port if host == "unix" else (host, int(port))
        self.new_rate = new_rate
        self.keepalive = keepalive
        self.pace_s = pace_s
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.due: list[tuple[float, int, Client]] = []  # keep-alive clients that think
        self.failures: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.ok = self.requests = self.connects = self.closes = self.numbers = self.open_new = 0
        self.worst_s = 0.0
        self.stopping = False
        self.diary = Diary()

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, object]:
        self.epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        for _ in range(self.keepalive):
            self.connect(keepalive=True)
        began_s, started = time.monotonic(), 0
        checked_s = began_s
        print("running", flush=True)
        while not self.stopping or any(client.state != "thinking" for client in self.clients.values()):
            now_s = time.monotonic()
            if not self.stopping:
                while started < (now_s - began_s) * self.new_rate and self.open_new < MAX_OPEN:
                    self.connect(keepalive=False)
                    started += 1
                while self.due and self.due[0][0] <= now_s:
                    client = heapq.heappop(self.due)[2]
                    if client.state == "thinking":
                        self.ask(client)
            if now_s - checked_s > 1.0:
                checked_s = now_s
                self.find_late(now_s)
            for fd, event in self.epoll.poll(0.005):
                if fd == sys.stdin.fileno():
                    if not sys.stdin.buffer.read1(1):
                        self.stopping = True
                        self.epoll.unregister(fd)
                elif client := self.clients.get(fd):
                    self.on_event(client, event)
        for client in list(self.clients.values()):
            self.close(client)
        return {
            "ok": self.ok,
            "requests": self.requests,
            "connects": self.connects,
            "closes": self.closes,
            "failures": dict(self.failures),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "worst_ms": round(self.worst_s * 1e3, 1),
        }

    def find_late(self, now_s: float) -> None:
        for client in list(self.clients.values()):
            if client.state != "thinking" and now_s - client.asked_s > ANSWER_TIMEOUT_S:
                self.fail(client, f"no answer in {ANSWER_TIMEOUT_S:g}s ({client.state})")

    # -- one client ---------------------------------------------------------------------------------------------

    def connect(self, keepalive: bool) -> None:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        client = Client(sock, keepalive)
        self.clients[sock.fileno()] = client
        self.open_new += not keepalive
        self.connects += 1
        error = sock.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            self.fail(client, f"connect: {errno.errorcode[error]}")
            return
        self.epoll.register(sock.fileno(), select.EPOLLOUT)

    def ask(self, client: Client) -> None:
        self.numbers += 1
        client.number = self.numbers
        client.received = b""
        client.state = "waiting"
        client.asked_s = time.monotonic()
        last = b"" if client.keepalive else b"Connection: close\r\n"
        request = b"GET /load HTTP/1.1\r\nHost: load.test\r\nX-Number: %d\r\n%s\r\n" % (client.number, last)
        try:
            sent = client.sock.send(request)
        except OSError as error:
            self.fail(client, f"send: {errno.errorcode.get(error.errno or 0, error)}")
            return
        if sent != len(request):
            self.fail(client, "send: short")
            return
        self.requests += 1
        self.epoll.modify(client.sock.fileno(), select.EPOLLIN)

    def on_event(self, client: Client, event: int) -> None:
        if client.state == "connecting":
            error = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.fail(client, f"connect: {errno.errorcode[error]}")
            else:
                self.ask(client)
            return
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(client, f"receive while {client.state}: {errno.errorcode.get(error.errno or 0, error)}")
            return
        if not data:
            self.fail(client, f"EOF while {client.state} after {len(client.received)} bytes")
            return
        client.received += data
        self.on_received(client)

    def on_received(self, client: Client) -> None:
        head, blank, body = client.received.partition(b"\r\n\r\n")
        if not blank:
            return
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        length = int(fields.get(b"content-length", b"-1"))
        if len(body) < length or length < 0:
            if length < 0:
                self.fail(client, "an answer without Content-Length", WRONG)
            return
        status = int(head.split(b" ", 2)[1])
        self.statuses[status] += 1
        took_s = time.monotonic() - client.asked_s
        self.worst_s = max(self.worst_s, took_s)
        if status != 200:
            self.fail(client, f"status {status}: {body[:80]!r}", WRONG)
            return
        if body != b"%d\n" % client.number:
            self.fail(client, f"wrong body {body[:40]!r} for {client.number}", WRONG)
            return
        self.ok += 1
        self.diary.answered(client.kind, took_s)
        if not client.keepalive:
            self.close(client)
        elif fields.get(b"connection", b"").lower() == b"close":
            self.closes += 1
            self.diary.lost(client.kind, SENT_AWAY)
            self.close(client)
            if not self.stopping:
                self.connect(keepalive=True)
        else:
            client.state = "thinking"
            # Spread, so that they don't ask in step: golden-ratio steps within half a pace.
            pace_s = self.pace_s * (0.75 + 0.5 * (client.number * 0.6180339887 % 1))
            heapq.heappush(self.due, (time.monotonic() + pace_s, client.number, client))

    def fail(self, client: Client, what: str, how: str = "") -> None:
        self.failures[f"{client.kind}: {what}"] += 1
        self.diary.lost(client.kind, how or HOW[client.state], what)
        self.close(client)
        if client.keepalive and not self.stopping:
            self.connect(keepalive=True)

    def close(self, client: Client) -> None:
        if client.state != "closed":
            client.state = "closed"
            self.open_new -= not client.keepalive
            del self.clients[client.sock.fileno()]
            client.sock.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port")
    parser.add_argument("--new-rate", type=float, default=0.0)
    parser.add_argument("--keepalive", type=int, default=0)
    parser.add_argument("--pace", type=float, default=0.4)
    parser.add_argument("--diary", action="store_true")
    arguments = parser.parse_args()
    load = Load(arguments.host, arguments.port, arguments.new_rate, arguments.keepalive, arguments.pace)
    counts = load.run()
    hand_in(counts | load.diary.page() if arguments.diary else counts)


if __name__ == "__main__":
    main()
