"""Nothing that arrives over HTTP/2 becomes another request over HTTP/1: every case against a whole proxy, and every
byte that its origin receives compared. Behind each case the same connection asks once more, and gets its answer.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.http2_corpus import BROKEN_OFF, FORWARDED, MALFORMED
from tests.integration.test_integration_wire import CONFIG, when_complete
from tests.kit.http2 import data, frames, headers, preface
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance
from tests.kit.origin import RecordingOrigin

MARKER = [(":method", "GET"), (":scheme", "http"), (":authority", "m"), (":path", "/marker")]
ADDED = re.compile(
    rb"(?:host: [^\r\n]+|x-forwarded-for: 127\.0\.0\.1|x-forwarded-proto: http|x-request-id: [-0-9a-f]{36}|"
    rb"via: 2 hotproxy)\r\n"
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Instance, int, RecordingOrigin]]:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    try:
        with RecordingOrigin(when_complete) as origin:
            with instance(directory, CONFIG.format(origin=origin.address)) as proxy:
                yield proxy, proxy.port("web"), origin
    finally:
        shutil.rmtree(directory)


class Answers:
    """What a connection has received: streams that have ended (or were reset), and those that were answered well."""

    def __init__(self) -> None:
        self.data = b""

    def read(self, sock: socket.socket, stream_id: int) -> None:
        while not self.has_ended(stream_id):
            more = sock.recv(65536)
            assert more, "the connection was closed"
            self.data += more

    def whole(self) -> list[tuple[int, int, int, bytes]]:
        at = 0
        while len(self.data) - at >= 9 and len(self.data) - at >= 9 + int.from_bytes(self.data[at : at + 3], "big"):
            at += 9 + int.from_bytes(self.data[at : at + 3], "big")
        return frames(self.data[:at])

    def has_ended(self, stream_id: int) -> bool:
        return any(
            number == stream_id and (kind == 3 or (kind in (0, 1) and flags & 1))
            for kind, flags, number, _ in self.whole()
        )


def ask(port: int, said: bytes) -> Answers:
    """The case on stream 1, then the marker on stream 3."""
    answers = Answers()
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        sock.sendall(preface() + said)
        if b"\0\0\4\3\0\0\0\0\1" not in said:  # a client that has reset it hears nothing more
            answers.read(sock, 1)
        sock.sendall(headers(3, MARKER))
        answers.read(sock, 3)
    return answers


def received(origin: RecordingOrigin, before: int) -> list[bytes]:
    """What each connection since then has brought, without what we add; the marker's is the last."""
    eventually(lambda: any(b"GET /marker" in each for each in origin.received[before:]), "the marker")
    return [ADDED.sub(b"", bytes(each)) for each in origin.received[before:] if each]


STATUS_200 = b"\x88"  # RFC 7541, appendix A: entry 8
MARKED = b"GET /marker HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_head_is_not_forwarded(name: str, served: tuple[Instance, int, RecordingOrigin]) -> None:
    _, port, origin = served
    fields, _ = MALFORMED[name]
    before = len(origin.received)
    ask(port, headers(1, fields))
    assert received(origin, before) == [MARKED]
    before = len(origin.received)
    ask(port, headers(1, fields, end=False) + data(1, b"body"))
    assert received(origin, before) == [MARKED]


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_a_request_that_breaks_off_is_not_completed(name: str, served: tuple[Instance, int, RecordingOrigin]) -> None:
    _, port, origin = served
    before = len(origin.received)
    ask(port, BROKEN_OFF[name])
    *broken, marker = received(origin, before)
    assert marker == MARKED and len(broken) <= 1
    for each in broken:
        head, _, body = each.partition(b"\r\n\r\n")
        assert b"inner" not in each and b"X-Sum" not in each
        if b"chunked" in head:
            assert body in (b"", b"2\r\nab\r\n")
        else:
            assert b"Content-Length: 3" in head and len(body) < 3


@pytest.mark.parametrize("name", FORWARDED)
def test_what_is_forwarded_is_one_request(name: str, served: tuple[Instance, int, RecordingOrigin]) -> None:
    _, port, origin = served
    said, line, fields, body = FORWARDED[name]
    before = len(origin.received)
    answers = ask(port, said)
    assert received(origin, before) == [line + b" HTTP/1.1\r\n" + fields + b"\r\n" + body, MARKED]
    *_, head = [payload for kind, _, number, payload in answers.whole() if (kind, number) == (1, 1)]
    assert head.lstrip(b"\x20").startswith(STATUS_200)


def test_there_are_enough_cases() -> None:
    assert len(MALFORMED) + len(BROKEN_OFF) + len(FORWARDED) >= 100
