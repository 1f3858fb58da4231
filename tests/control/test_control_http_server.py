"""The small server of the admin API, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket

import pytest

from hotproxy.control import http_server
from hotproxy.control.http_server import MAX_BODY_BYTES, HttpServer, Reply, Request


async def echo(request: Request) -> Reply:
    if request.path == "/pieces":
        return Reply(200, iter(["one\n", "", "two\n"]))
    body = json.dumps([request.method, request.path, request.query]).encode()
    return Reply(200, body, "application/json", headers=[("x-extra", "1")])


def converse(sent: bytes) -> bytes:
    """Everything that the server says to a client that sends this and then half-closes."""

    async def run() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            server = HttpServer(echo)
            server.start_accepting([listening])
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(sent)
            writer.write_eof()
            received = await reader.read()
            writer.close()
            await server.close()
            assert listening.fileno() >= 0, "the listening socket is not the server's to close"
            return received

    return asyncio.run(run())


def test_a_request_with_query_and_the_answer_with_its_fields() -> None:
    answer = converse(b"GET /a%20b?x=1&y=&x=2 HTTP/1.1\r\nhost: a\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"x-extra: 1" in head and b"content-type: application/json" in head and b"server: hotproxy" in head
    assert json.loads(body) == ["GET", "/a b", {"x": "2", "y": ""}]


def test_two_requests_on_one_connection_and_head_without_body() -> None:
    answer = converse(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\nGET /pieces HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith(b"4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n")
    assert re.search(rb"content-length: 17\r\n\r\nHTTP/1.1", answer), answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1) + b"x" * 2_000_000, 413),
    ],
    ids=["no-request", "no-host", "tls", "long-body"],
)
def test_what_is_wrong_is_answered_and_closed(sent: bytes, status: int) -> None:
    assert converse(sent).startswith(b"HTTP/1.1 %d " % status)


def test_any_target_is_a_path() -> None:
    """`//[` was no URL to the parser, and its exception ended the conversation without an answer."""
    for target, path in ((b"//[", "//["), (b"http://a:1/x", "/x"), (b"/a?b://c", "/a"), (b"*", "*")):
        answer = converse(b"GET %s HTTP/1.1\r\nhost: a\r\n\r\n" % target)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])[1] == path


class Exhausted:
    """A listening socket in a process that has no descriptor left, the first time."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.accepts = 0

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        if self.accepts == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()


def test_without_descriptors_it_pauses_and_goes_on() -> None:
    """The socket stays readable, so the process spun on accept() until a descriptor became free."""

    async def run() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            server = HttpServer(echo)
            exhausted = Exhausted(listening)
            server.start_accepting([exhausted])  # type: ignore[list-item]
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await server.close()
            return exhausted.accepts

    assert asyncio.run(run()) == 2


def test_a_client_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It held its task, its socket and its answer for as long as it liked."""
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT_S", 0.05)

    async def endless(request: Request) -> Reply:
        return Reply(200, ("x" * 65536 for _ in range(1000)))

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
            listening.setblocking(False)
            server = HttpServer(endless)
            server.start_accepting([listening])
            client.connect(listening.getsockname())
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while not server._open:
                await asyncio.sleep(0)
            await asyncio.wait(server._open)
            assert not server._open

    asyncio.run(asyncio.wait_for(run(), 10))
