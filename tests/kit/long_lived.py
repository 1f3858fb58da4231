"""Clients whose connections must survive; a program of its own. Each counts what it sees, and none connects anew.

    python long_lived.py '{"http": ["127.0.0.1", 8080], "tcp": …, "origin": …, "keepalive": 100, "websocket": 50,
                           "tcp_pairs": 50, "streams": 4, "uploads": 4, "slow": 2, "pace_s": 0.2}'

    keepalive   a request with a number of its own, again and again on one connection
    websocket   an upgrade, and then lines that come back            tcp_pairs   the same without HTTP
    streams     one endless answer, each byte compared               uploads     one endless request body
    slow        as streams, but read much more slowly than it comes: the proxy holds what is unsent

For proxies that cut connections: `"again": true` connects anew whoever was cut, `"length_s": 20` ends streams and
uploads after about so long and begins them anew, `"diary": true` adds when each of it was (diary.py).

Prints "running" when every connection has had its first answer, and runs until stdin is closed; then streams and
uploads are ended and compared, and one JSON object is printed:

    {"rounds": {kind: right answers}, "requests": on HTTP connections, "connections": …, "failures": {what: how often},
     "closes": answers with Connection: close, "answered": requests whose answer has begun,
     "worst_ms": {kind: the slowest answer, or longest gap in a stream}}
"""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import hashlib
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kit.diary import ASKED, IDLE, REFUSED, SENT_AWAY, WRONG, Diary, hand_in
from tests.kit.echo_origin import PACE_S, WEBSOCKET_ACCEPT, WEBSOCKET_KEY, pattern

ANSWER_TIMEOUT_S: Final = 30.0
UPLOAD_PIECE: Final = 2048
SLOW_READ: Final = 16 * 1024
SLOW_S: Final = 0.05
# Before whoever was cut or refused connects anew.
AGAIN_S: Final = 0.1


class Book:
    """What all clients have seen."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        self.wishes = wishes
        self.pace_s = float(wishes.get("pace_s", 0.2))
        self.rounds: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.worst_s: dict[str, float] = {}
        self.requests = self.answered = self.closes = self.first = self.number = 0
        self.again = bool(wishes.get("again"))
        self.length_s = float(wishes.get("length_s", 0))
        self.diary = Diary()
        self.clients: list[Client] = []
        self.connecting: set[asyncio.Task[None]] = set()
        self.stopping = False

    def took(self, kind: str, seconds: float) -> None:
        self.worst_s[kind] = max(self.worst_s.get(kind, 0.0), seconds)
        self.diary.answered(kind, seconds)

    def lost(self, kind: str, how: str, what: str) -> None:
        self.failures[f"{kind}: {what}"] += 1
        self.diary.lost(kind, how, what)

    async def connect(self, kind: type[Client], wait_s: float = 0.0) -> None:
        await asyncio.sleep(wait_s)
        if self.stopping:
            return
        self.number += 1
        client = kind(self, self.number)
        loop = asyncio.get_running_loop()
        host, port = self.wishes["tcp"] if kind is TcpPair else self.wishes["http"]
        try:
            if host == "unix":
                await loop.create_unix_connection(lambda: client, port)
            else:
                await loop.create_connection(lambda: client, host, port)
        except OSError as error:
            if not self.again:
                raise
            self.lost(kind.kind, REFUSED, f"connect: {error}")
            self.connect_again(kind, AGAIN_S)

    def connect_again(self, kind: type[Client], wait_s: float) -> None:
        task = asyncio.create_task(self.connect(kind, wait_s))
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)


class Client(asyncio.Protocol, abc.ABC):
    """One connection. `over`: it has had all that it wanted."""

    kind = ""
    path = b""

    def __init__(self, book: Book, number: int) -> None:
        self.book = book
        self.number = number
        self.received = b""
        self.over = False
        self.greeted = False
        self.resting = False  # between an answer and the next question
        self.asked_s = time.monotonic()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.book.clients.append(self)
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport
        self.begin()

    @abc.abstractmethod
    def begin(self) -> None:
        """It is connected."""

    def greet(self) -> None:
        self.book.first += not self.greeted
        self.greeted = True

    def write(self, data: bytes) -> None:
        self.asked_s = time.monotonic()
        self.transport.write(data)

    def answered(self) -> None:
        self.book.took(self.kind, time.monotonic() - self.asked_s)

    def end(self) -> None:
        self.over = True
        self.transport.close()
        self.renew()

    def renew(self, wait_s: float = 0.0) -> None:
        if self.book.again:
            self.book.clients.remove(self)
            self.book.connect_again(type(self), wait_s)

    def fail(self, what: str, how: str = WRONG) -> None:
        if not self.over:
            self.over = True
            self.book.lost(self.kind, how, what)
            self.greet()
            self.transport.abort()
            self.renew(AGAIN_S)

    def connection_lost(self, error: Exception | None) -> None:
        what = f"{error or 'EOF'} after {len(self.received)} bytes of an answer"
        self.fail(what, IDLE if self.resting else ASKED)


class Asking(Client):
    """One question after the other."""

    def begin(self) -> None:
        self.ask()

    @abc.abstractmethod
    def ask(self) -> None:
        """The next question."""

    def ask_later(self) -> None:
        """Spread, so that they don't ask in step."""
        self.book.rounds[self.kind] += 1
        self.greet()
        if self.book.stopping:
            self.end()
            return
        self.resting = True
        pace_s = self.book.pace_s * (0.75 + 0.5 * ((self.number + self.book.rounds[self.kind]) * 0.6180339887 % 1))
        asyncio.get_running_loop().call_later(pace_s, self.ask_now)

    def ask_now(self) -> None:
        if self.over:
            return
        if self.book.stopping:
            self.end()
            return
        self.resting = False
        self.ask()


class KeepAlive(Asking):
    kind = "keepalive"

    def ask(self) -> None:
        self.received = b""
        self.book.requests += 1
        self.asked = b"%d-%d" % (self.number, self.book.requests)
        self.write(b"GET /load HTTP/1.1\r\nHost: a\r\nX-Number: %s\r\n\r\n" % self.asked)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank or not body.endswith(b"\n"):
            return
        if not head.startswith(b"HTTP/1.1 200") or body != self.asked + b"\n":
            self.fail(f"a wrong answer: {head.splitlines()[0]!r} {body[:40]!r}")
            return
        self.book.answered += 1
        self.answered()
        self.received = b""
        if b"\r\nconnection: close" in head.lower():
            self.book.closes += 1
            self.book.lost(self.kind, SENT_AWAY, "Connection: close")
            self.book.rounds[self.kind] += 1
            self.greet()
            self.end()
        else:
            self.ask_later()


class TcpPair(Asking):
    kind = "tcp_pairs"
    round = 0

    def ask(self) -> None:
        self.received = b""
        self.round += 1
        self.asked = b"%d %d %s\n" % (self.number, self.round, b"x" * (self.number % 200))
        self.write(self.asked)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.asked.startswith(self.received):
            self.fail(f"{self.received[:40]!r} came back for {self.asked[:40]!r}")
        elif self.received == self.asked:
            self.answered()
            self.received = b""
            self.ask_later()


class WebSocket(TcpPair):
    kind = "websocket"

    def begin(self) -> None:
        self.book.requests += 1
        self.asked = b""
        self.write(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % WEBSOCKET_KEY
        )

    def data_received(self, data: bytes) -> None:
        if self.round:
            # Lines are ASCII: this is a close frame (RFC 6455, section 5.5.1), with which a proxy may say that it ends.
            if data.startswith(b"\x88"):
                self.fail("a close frame", IDLE if self.resting else ASKED)
                return
            super().data_received(data)
            return
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            if self.received.startswith(b"HTTP/1.1 101") and WEBSOCKET_ACCEPT in self.received:
                self.book.answered += 1
                self.ask()
            else:
                self.fail(f"no upgrade: {self.received[:60]!r}")


class Stream(Client):
    """Compares every byte at once; at the end the origin's own digest, and ours."""

    kind = "streams"

    def begin(self) -> None:
        self.book.requests += 1
        self.at = 0
        self.body: bytes | None = None
        self.tail = b""
        self.digest = hashlib.sha256()
        pieces = b"/%d" % (self.book.length_s / PACE_S) if self.book.length_s else b""
        self.write(b"GET /stream%s HTTP/1.1\r\nHost: a\r\n\r\n" % pieces)

    def data_received(self, data: bytes) -> None:
        self.answered()
        self.asked_s = time.monotonic()
        self.received += data
        if self.body is None:
            head, blank, rest = self.received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
                self.fail(f"no stream: {head[:60]!r}")
                return
            self.book.answered += 1
            self.body, self.received = b"", rest
        while not self.over and self.take():
            pass

    def take(self) -> bool:
        line, found, rest = self.received.partition(b"\r\n")
        size = int(line, 16) if found else 0
        if not found or len(rest) < size + 2:
            return False
        self.received = rest[size + 2 :]
        if not size:
            self.end_of_stream()
            return False
        self.check(rest[:size])
        return True

    def check(self, data: bytes) -> None:
        """The last 64 bytes are no part of the pattern: they are kept until we know that something follows."""
        data = self.tail + data
        data, self.tail = data[:-64], data[-64:]
        if data != pattern(self.at, len(data)):
            self.fail(f"a wrong byte between {self.at} and {self.at + len(data)}")
            return
        self.digest.update(data)
        self.at += len(data)
        self.greet()

    def end_of_stream(self) -> None:
        if self.tail != self.digest.hexdigest().encode():
            self.fail("the digest is another one")
            return
        self.book.rounds[self.kind] += 1
        self.end()


class Slow(Stream):
    kind = "slow"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.pause()

    def pause(self) -> None:
        if not self.over and not self.book.stopping:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(SLOW_S, self.resume)

    def resume(self) -> None:
        if not self.over:
            self.transport.resume_reading()
            if self.book.stopping:
                return
            asyncio.get_running_loop().call_later(SLOW_S / 10, self.pause)


class Upload(Client):
    kind = "uploads"

    def begin(self) -> None:
        self.book.requests += 1
        self.at = 0
        self.digest = hashlib.sha256()
        self.began_s = time.monotonic()
        self.write(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.push()
        self.greet()

    def push(self) -> None:
        if self.over:
            return
        if self.book.stopping or 0 < self.book.length_s < time.monotonic() - self.began_s:
            self.write(b"0\r\n\r\n")
            return
        if self.transport.get_write_buffer_size() < 1 << 18:
            data = pattern(self.at, UPLOAD_PIECE)
            self.at += len(data)
            self.digest.update(data)
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        asyncio.get_running_loop().call_later(0.01, self.push)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank or not body.endswith(b"\n"):
            return
        if not head.startswith(b"HTTP/1.1 200") or body != f"{self.digest.hexdigest()} {self.at}\n".encode():
            self.fail(f"another body arrived: {head.splitlines()[0]!r} {body[-20:]!r}, sent {self.at}")
            return
        self.book.answered += 1
        self.answered()
        self.book.rounds[self.kind] += 1
        self.end()


KINDS: Final[dict[str, type[Client]]] = {
    kind.kind: kind for kind in (KeepAlive, WebSocket, TcpPair, Stream, Slow, Upload)
}


async def live(wishes: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    book = Book(wishes)
    for kind, client in KINDS.items():
        for _ in range(wishes.get(kind, 0)):
            await book.connect(client)
    wanted = book.number
    while book.first < wanted:
        await asyncio.sleep(0.01)
    print("running", flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: sys.stdin.buffer.read1(1) or closed.set())
    while not closed.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), 1.0)
        late(book)
    loop.remove_reader(sys.stdin)
    book.stopping = True
    if wishes.get("streams") or wishes.get("slow"):
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{wishes['origin']}/end").read())
    while book.connecting or not all(client.over for client in book.clients):
        await asyncio.sleep(0.05)
        late(book)
    counts = {
        "rounds": dict(book.rounds),
        "requests": book.requests,
        "answered": book.answered,
        "connections": book.number,
        "closes": book.closes,
        "failures": dict(book.failures),
        "worst_ms": {kind: round(seconds * 1e3, 1) for kind, seconds in book.worst_s.items()},
    }
    return counts | book.diary.page() if wishes.get("diary") else counts


def late(book: Book) -> None:
    now_s = time.monotonic()
    for client in list(book.clients):
        waits = client.received or (client.kind in ("keepalive", "websocket", "tcp_pairs") and not client.over)
        if waits and not client.over and now_s - client.asked_s > ANSWER_TIMEOUT_S + book.pace_s * 2:
            client.fail(f"no answer in {ANSWER_TIMEOUT_S:g} s", ASKED)


if __name__ == "__main__":
    hand_in(uvloop.run(live(json.loads(sys.argv[1]))))
