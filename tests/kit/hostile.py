"""An origin that breaks off, answers early, says too much or too little; and a client that checks whose answer it got.

The second part of a request's path says how it is to be answered, the third is a tag that the answer gives back.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import re
import socket
import struct
from typing import Final

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
STRAY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
CHUNKS: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
KEEP, CLOSE, RESET = "keep", "close", "reset"

# By name: what is sent ({} is the tag, {} in front of it its length), and what becomes of the connection.
ANSWERS: Final[dict[str, tuple[bytes, str]]] = {
    "plain": (OK + b"{}", KEEP),
    "then-closes": (OK + b"{}", CLOSE),
    "then-resets": (OK + b"{}", RESET),
    "says-close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n{}", CLOSE),
    "chunks": (CHUNKS + b"%x\r\n{}\r\n" + b"1\r\nz\r\n" * 2000 + b"0\r\n\r\n", KEEP),
    "large": (b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\nX-Length: %d\r\n\r\n{}", KEEP),
    "until-close": (b"HTTP/1.1 200 OK\r\nX-Length: %d\r\n\r\n{}", CLOSE),
    "until-reset": (b"HTTP/1.1 200 OK\r\nX-Length: %d\r\n\r\n{}", RESET),
    "http10": (b"HTTP/1.0 200 OK\r\nX-Length: %d\r\n\r\n{}", CLOSE),
    "hints": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + b"{}", KEEP),
    "hints-only": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", CLOSE),
    "204": (b"HTTP/1.1 204 No Content\r\nX-Length: %d\r\nX-Tag: {}\r\n\r\n", KEEP),
    "204-with-body": (b"HTTP/1.1 204 No Content\r\nX-Length: %d\r\nX-Tag: {}\r\n\r\n" + STRAY, KEEP),
    "304-with-body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\nX-Tag: {}\r\n\r\npoison", KEEP),
    "two-answers": (OK + b"{}" + STRAY, KEEP),
    "nothing": (b"", CLOSE),
    "nothing-reset": (b"", RESET),
    "half-a-head": (b"HTTP/1.1 200 OK\r\nCont", CLOSE),
    "half-a-head-reset": (b"HTTP/1.1 200 OK\r\nCont", RESET),
    "half-a-body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1%d\r\n\r\n{}", CLOSE),
    "half-a-chunk": (CHUNKS + b"f%x\r\n{}", RESET),
    "no-last-chunk": (CHUNKS + b"%x\r\n{}\r\n", CLOSE),
    "unasked-switch": (b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + STRAY, KEEP),
    "garbage": (b"\x16\x03\x01\x00\xff\r\n\r\n", CLOSE),
    "early": (OK + b"{}", KEEP),  # before the request's body is read
    "early-close": (OK + b"{}", CLOSE),
    "early-reset": (OK + b"{}", RESET),
}
# Whatever else happens on the connections: these are answered with 200 when the request may be sent twice.
RIGHT: Final = ("plain", "says-close", "chunks", "large", "until-close", "http10", "hints", "two-answers")


def reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes | None:
    """The body that `head` announces; None when it announces none."""
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    chunked = re.search(rb"(?i)\r\ntransfer-encoding: chunked", head)
    assert not (length and chunked), head
    if length:
        return await reader.readexactly(int(length[1]))
    if not chunked:
        return None
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readuntil(b"\r\n") == b"\r\n"
    return body


class HostileOrigin:
    """`posts` counts how often each POST has arrived."""

    def __init__(self) -> None:
        self.posts: collections.Counter[bytes] = collections.Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._exchange(reader, writer):
                await writer.drain()
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        _, kind, tag = target.split(b"/")
        self.posts[tag] += method == b"POST"
        if not kind.startswith(b"early"):
            await read_body(reader, head)
        content, end = ANSWERS[kind.decode()]
        if b"%" in content:
            content = (content % len(tag)).replace(b"{}", tag)
        if kind == b"large":
            content += b"y" * (600_000 - len(tag))
        if method == b"HEAD":  # with a body, which nobody may ever see
            content = b"HTTP/1.1 200 OK\r\nX-Tag: %b\r\nContent-Length: 6\r\n\r\npoison" % tag
        writer.write(content)
        if kind == b"early":
            await read_body(reader, head)
        if end == RESET:
            await asyncio.sleep(0.001)
            reset(writer)
        return end == KEEP


@dataclasses.dataclass(frozen=True)
class Request:
    method: bytes
    kind: str
    tag: bytes
    raw: bytes


class Outcome:
    """What clients have seen: answers by (kind, method, status), and everything that must never happen."""

    def __init__(self) -> None:
        self.answers: collections.Counter[tuple[str, bytes, int]] = collections.Counter()
        self.wrong: list[object] = []

    async def read_answer(self, reader: asyncio.StreamReader, request: Request) -> bool:
        """False: the connection ends with it."""
        status = 100
        while status < 200:
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
        body: bytes | None = b""
        if request.method != b"HEAD" and status not in (204, 304):
            body = await read_body(reader, head)
        last = body is None or b"\r\nConnection: close" in head
        if body is None:
            body = await reader.read()
        said = head if status in (204, 304) or request.method == b"HEAD" else body
        if b"poison" in head + body or (status < 400 and request.tag not in said):
            self.wrong.append((request, head, body[:100]))
        if status != 200 and request.kind in RIGHT and request.method in (b"GET", b"DELETE"):
            self.wrong.append((request, head, body[:100]))
        self.answers[request.kind, request.method, status] += 1
        return not last
