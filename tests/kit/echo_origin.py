"""An origin for connections that live long; a program of its own.

    python echo_origin.py [UNIX_PATH]     prints {"http": port, "tcp": port}; runs until stdin is closed

HTTP: `GET /load` gives back X-Number; `GET /ws` with Upgrade is answered 101, and then everything comes back;
`GET /stream` is an endless body (chunked) of the pattern below, a piece every few milliseconds, until somebody asks for
`/end`; its last 64 bytes are the SHA-256 of all before them; `GET /stream/100` ends after a hundred pieces.
`POST /upload` (chunked) is answered with the SHA-256 of its body and its length. TCP: everything comes back.
`GET /answered`: how many requests each path has got.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import random
import sys
from typing import Final

import uvloop

PATTERN: Final = random.Random(2).randbytes(1 << 20)
PIECE: Final = 4096
PACE_S: Final = 0.01
# A new generation has few idle connections at first: thousands of clients may need one at once. Whom the kernel can't
# queue waits for its retransmissions, half a minute and more when the machine is busy.
BACKLOG: Final = 16_384
# RFC 6455, section 1.3: what clients ask with, and the only right answer; HAProxy looks at both.
WEBSOCKET_KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
WEBSOCKET_ACCEPT: Final = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

answered: collections.Counter[str] = collections.Counter()
ended = False


def pattern(at: int, length: int) -> bytes:
    """The bytes of an endless stream from `at` on."""
    at %= len(PATTERN)
    found = PATTERN[at : at + length]
    return found if len(found) == length else found + pattern(0, length - len(found))


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Http(asyncio.Protocol):
    """One connection; `upload` while a body comes in, `raw` after a 101."""

    def __init__(self) -> None:
        self.received = b""
        self.raw = False
        self.upload: hashlib._Hash | None = None
        self.length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        if self.raw:
            self.transport.write(data)
            return
        self.received += data
        while self.upload is not None or b"\r\n\r\n" in self.received:
            if not self.take():
                return

    def take(self) -> bool:
        """One chunk, or one head; False when it is not all there."""
        if self.upload is not None:
            return self.take_chunk()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
        path = head.split(b" ")[1].decode()
        answered[path] += 1
        self.answer(path, fields.get(b"x-number", b"").strip())
        return not self.raw

    def take_chunk(self) -> bool:
        line, found, rest = self.received.partition(b"\r\n")
        size = int(line, 16) if found else 0
        if not found or len(rest) < size + 2:
            return False
        self.received = rest[size + 2 :]
        assert self.upload is not None
        if size:
            self.upload.update(rest[:size])
            self.length += size
        else:
            self.body(f"{self.upload.hexdigest()} {self.length}\n".encode())
            self.upload, self.length = None, 0
        return True

    def answer(self, path: str, number: bytes) -> None:
        global ended
        if path == "/ws":
            self.raw = True
            rest, self.received = self.received, b""
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                b"Sec-WebSocket-Accept: %s\r\n\r\n" % WEBSOCKET_ACCEPT
            )
            self.transport.write(rest)
        elif path.startswith("/stream"):
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            pieces = path.removeprefix("/stream").lstrip("/")
            self.stream(0, hashlib.sha256(), int(pieces) * PIECE if pieces else None)
        elif path == "/upload":
            self.upload = hashlib.sha256()
        elif path == "/answered":
            self.body(json.dumps(answered).encode())
        else:
            ended = ended or path == "/end"
            self.body(number + b"\n")

    def body(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))

    def stream(self, at: int, digest: hashlib._Hash, end: int | None) -> None:
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() < 1 << 20:
            data = pattern(at, PIECE)
            digest.update(data)
            at += PIECE
            self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        if ended or at == end:
            self.transport.write(b"40\r\n%s\r\n0\r\n\r\n" % digest.hexdigest().encode())
        else:
            asyncio.get_running_loop().call_later(PACE_S, self.stream, at, digest, end)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    http = await loop.create_server(Http, "127.0.0.1", 0, backlog=BACKLOG)
    tcp = await loop.create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
    if len(sys.argv) > 1:
        await loop.create_unix_server(Http, sys.argv[1], backlog=BACKLOG)
    ports = {name: server.sockets[0].getsockname()[1] for name, server in (("http", http), ("tcp", tcp))}
    print(json.dumps(ports), flush=True)
    closed = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: sys.stdin.buffer.read1(1) or closed.set())
    await closed.wait()


if __name__ == "__main__":
    uvloop.run(serve())
