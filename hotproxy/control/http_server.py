"""A small HTTP/1.1 server over h11 and asyncio, for answers that are asked for by people and scrapers.

h11 costs nine times nginx's CPU per request, so it is not on the data path; here its strictness is worth more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

import h11

READ_BYTES = 64 * 1024
# A request to the admin API is a line and a few fields; whoever sends more wants something else.
MAX_BODY_BYTES = 1024 * 1024
# Also for a client that takes nothing of its answer.
IDLE_TIMEOUT_S = 60.0
# No descriptor is left: the listening socket stays readable, and looking at it again at once would burn a CPU.
PAUSE_S = 0.1
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
STATUSES = frozenset(HTTPStatus)
# Of a target in absolute form, as a client sends it to a proxy. Not urlsplit: `//[` is a ValueError to it.
ORIGIN = re.compile(r"https?://[^/?]*", re.IGNORECASE)
LINGER_S = 1.0
LINGER_BYTES = 16 * MAX_BODY_BYTES


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is percent-decoded and without the query; a parameter given twice has its last value.

    `local`: it came over the unix socket, which only the proxy's user and group can connect to.
    """

    method: str
    path: str
    query: dict[str, str]
    local: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes | Iterable[str] = b""  # pieces of text are sent chunked, as they come
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = field(default=())


Answer = Callable[[Request], Awaitable[Reply]]


class HttpServer:
    """Accepts on sockets that it is given, and never closes one of those."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._open: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()

    def start_accepting(self, sockets: Iterable[socket.socket]) -> None:
        for sock in sockets:
            self._listening.append(sock)
            self._watch(sock)

    def stop_accepting(self) -> None:
        while self._listening:
            self._loop.remove_reader(self._listening.pop().fileno())

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._listening:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop accepting; answers under way may finish within `grace_s` seconds."""
        self.stop_accepting()
        for task in self._open - self._answering:
            task.cancel()
        if self._answering:
            await asyncio.wait(self._answering, timeout=grace_s)
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError as error:  # taken by another process, or reset meanwhile: the next turn tells
            if error.errno in EXHAUSTED:
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(PAUSE_S, self._watch, listening)
            return
        task = self._loop.create_task(self._serve(sock))
        self._open.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._answering.discard(task)

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # asyncio sets it only on sockets that were made with an explicit protocol number; without it a second write
            # waits for the client's delayed acknowledgement, 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader(limit=READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, sock)
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            await self._conversation(reader, writer, sock.family == socket.AF_UNIX)
        except (ConnectionError, TimeoutError, h11.LocalProtocolError):
            transport.abort()  # the client went away in the middle, or takes nothing: closing would wait for it
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _conversation(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: bool) -> None:
        connection = h11.Connection(h11.SERVER)
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                request = await asyncio.wait_for(_receive(connection, reader, local), IDLE_TIMEOUT_S)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    status = error.error_status_hint
                    await _send(connection, writer, "GET", Reply(status, f"{error}\n".encode()), close=True)
                    await _linger(reader, writer)
                return
            if request is None:
                return
            self._answering.add(task)
            reply = await self._answer(request)
            await _send(connection, writer, request.method, reply)
            self._answering.discard(task)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closing while the client still sends would be a RST, which destroys the answer on its side (RFC 9112, 9.6)."""
    writer.write_eof()
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0 and (data := await reader.read(READ_BYTES)):
                left -= len(data)


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader, local: bool) -> Request | None:
    """The next request, its body read and discarded; None at the end of the connection."""
    request: Request | None = None
    body_bytes = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            path, _, tail = ORIGIN.sub("", event.target.decode("latin-1")).partition("?")
            query = {name: values[-1] for name, values in parse_qs(tail, keep_blank_values=True).items()}
            request = Request(event.method.decode("latin-1"), unquote(path), query, local)
        elif isinstance(event, h11.Data):
            body_bytes += len(event.data)
            if body_bytes > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            return request
        else:  # ConnectionClosed, or PAUSED behind an upgrade nobody offers
            return None


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, method: str, reply: Reply, close: bool = False
) -> None:
    headers = [("date", formatdate(usegmt=True)), ("server", "hotproxy"), ("content-type", reply.content_type)]
    headers += reply.headers
    if close:
        headers.append(("connection", "close"))
    whole = reply.body if isinstance(reply.body, bytes) else None
    if whole is not None:
        headers.append(("content-length", str(len(whole))))
    reason = HTTPStatus(reply.status).phrase if reply.status in STATUSES else ""
    writer.write(connection.send(h11.Response(status_code=reply.status, headers=headers, reason=reason)) or b"")
    if method != "HEAD" and reply.status not in (204, 304):
        pieces = [whole] if whole is not None else (piece.encode() for piece in reply.body)  # type: ignore[union-attr]
        for piece in pieces:
            if piece:
                writer.write(connection.send(h11.Data(data=piece)) or b"")
                await asyncio.wait_for(writer.drain(), IDLE_TIMEOUT_S)
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await asyncio.wait_for(writer.drain(), IDLE_TIMEOUT_S)
