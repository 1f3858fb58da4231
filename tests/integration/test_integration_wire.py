"""Bytes against a whole proxy: what is wrong is refused and never forwarded; what is right arrives as it must.

Each request is sent whole and byte by byte. The origin records every byte that it receives.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.origin import RecordingOrigin

CONFIG = """
workers: 1
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{origin}"]
"""
HOST = b"Host: a.example\r\n"
CLOSE = b"Connection: close\r\n"
# `Connection: close`, so that each request has a connection of its own, and `when_complete` sees one head only.
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


# With trailers or without.
LAST_CHUNK = re.compile(rb"(?:\A|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n\Z")


def when_complete(_: int, received: bytes) -> bytes | None:
    """Answer once the whole request is there."""
    head, blank, body = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    if b"Transfer-Encoding" in head or b"transfer-encoding" in head:
        return OK if LAST_CHUNK.search(body) else None
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return OK if len(body) >= int(length[1] if length else 0) else None


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Instance, int, RecordingOrigin]]:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    try:
        with RecordingOrigin(when_complete) as origin:
            with instance(directory, CONFIG.format(origin=origin.address)) as proxy:
                yield proxy, proxy.port("web"), origin
    finally:
        shutil.rmtree(directory)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\n" + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


WRONG: dict[str, tuple[bytes, int]] = {
    "both-lengths": (post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "both-lengths-reversed": (post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"), 400),
    "two-lengths": (post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"), 400),
    "length-list": (post(b"Content-Length: 3, 3", body=b"abc"), 400),
    "length-signed": (post(b"Content-Length: +3", body=b"abc"), 400),
    "length-negative": (post(b"Content-Length: -1"), 400),
    "length-hex": (post(b"Content-Length: 0x3", body=b"abc"), 400),
    "length-overflow": (post(b"Content-Length: 99999999999999999999"), 400),
    "length-empty": (post(b"Content-Length:"), 400),
    "coding-unknown": (post(b"Transfer-Encoding: gzip"), 501),
    "coding-twice": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    "coding-not-final": (post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), 400),
    "coding-obscured": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 501),
    "coding-tab": (post(b"Transfer-Encoding:\tchunked\x0b", body=b"0\r\n\r\n"), 400),
    "coding-in-1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bare-lf": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare-lf-in-field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare-cr": (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
    "nul": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "fold": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "space-before-colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "space-first": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "bad-name": (b"GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n", 400),
    "no-name": (b"GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n", 400),
    "no-colon": (b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two-hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "host-with-path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host-with-user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host-with-space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "two-spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space-in-target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad-method": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "version-1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "version-2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version-0.9": (b"GET /\r\n\r\n", 400),
    "tls": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 100 + b"\r\n\r\n", 400),
    "garbage": (b"\xff\xfe\x00\x01" * 20 + b"\r\n\r\n", 400),
    "chunk-size-hex": (post(b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk-size-signed": (post(b"Transfer-Encoding: chunked", body=b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk-size-long": (post(b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\n"), 400),
    "chunk-too-long": (post(b"Transfer-Encoding: chunked", body=b"3\r\nabcdef\r\n0\r\n\r\n"), 400),
    "chunk-bare-lf": (post(b"Transfer-Encoding: chunked", body=b"3\nabc\n0\n\n"), 400),
}
LARGE: dict[str, tuple[bytes, int]] = {
    "head-too-large": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "too-many-fields": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 101 + b"\r\n", 431),
}


def bodies_started(origin: RecordingOrigin) -> int:
    return sum(len(received) for received in origin.received)


@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte-by-byte"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(served: tuple[Instance, int, RecordingOrigin], name: str, pieces: int) -> None:
    refused_and_not_forwarded(served, *WRONG[name], pieces)


@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_refused(served: tuple[Instance, int, RecordingOrigin], name: str) -> None:
    refused_and_not_forwarded(served, *LARGE[name], 0)


def refused_and_not_forwarded(
    served: tuple[Instance, int, RecordingOrigin], request: bytes, status: int, pieces: int
) -> None:
    proxy, port, origin = served
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    before = proxy.stats()["http.web.downstream_cx_protocol_error"]
    answer = clients.exchange(port, request + smuggled, pieces)
    assert answer.startswith(b"HTTP/1.1 ") and answer.count(b"HTTP/1.1 ") == 1, answer
    got = int(answer.split(b" ")[1])
    assert got == status or (status == 0 and got in (400, 505)), answer
    assert b"connection: close" in answer.lower()
    assert not any(b"smuggled" in received for received in origin.received)
    whole = b"".join(origin.received)
    # A body may have begun to flow before its framing broke; then the origin must never see it end.
    assert b"0\r\n\r\n" not in whole or b"POST /p" not in whole
    eventually(lambda: proxy.stats()["http.web.downstream_cx_protocol_error"] == before + 1, "the error to be counted")


def test_a_path_that_climbs_above_the_root_is_refused(served: tuple[Instance, int, RecordingOrigin]) -> None:
    """No origin gets to see it, to resolve it to another place than the one that was routed."""
    _, port, origin = served
    for target in (b"/a/../../etc", b"/%2e%2e/etc", b"/.%2E/etc", b"/a/..//../../etc"):
        answer = clients.exchange(port, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 "), (target, answer)
    assert not any(b"etc" in received for received in origin.received)


def forwarded(served: tuple[Instance, int, RecordingOrigin], request: bytes, pieces: int) -> bytes:
    """What the origin received for it."""
    _, port, origin = served
    before = [len(received) for received in origin.received]
    answer = clients.exchange(port, request, pieces)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok"), answer
    new = [bytes(received[(before[n : n + 1] or [0])[0] :]) for n, received in enumerate(origin.received)]
    return b"".join(new)


@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte-by-byte"])
def test_what_arrives_is_what_was_sent_and_what_a_proxy_owes(
    served: tuple[Instance, int, RecordingOrigin], pieces: int
) -> None:
    request = (
        b"GET /a/b?c=%2F&d HTTP/1.1\r\nHost: A.Example:8080\r\nX-Empty:\r\nX-Forwarded-For: 6.6.6.6\r\n"
        b'Cookie: a=b; c="d"\r\nTE: trailers\r\nKeep-Alive: 1\r\nX-Hop: gone\r\nConnection: close, X-Hop\r\n\r\n'
    )
    got = forwarded(served, request, pieces)
    head, _, body = got.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"GET /a/b?c=%2F&d HTTP/1.1"
    fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines[1:]}
    assert len(fields) == len(lines) - 1, "no field twice"
    assert fields[b"host"] == b"A.Example:8080"
    assert fields[b"x-empty"] == b""
    assert fields[b"cookie"] == b'a=b; c="d"'
    assert fields[b"x-forwarded-for"] == b"127.0.0.1", "a client can't invent where it came from"
    assert fields[b"x-forwarded-proto"] == b"http"
    assert fields[b"via"] == b"1.1 hotproxy"
    assert re.fullmatch(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fields[b"x-request-id"])
    assert not fields.keys() & {b"x-hop", b"keep-alive", b"te"}
    assert body == b""


@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte-by-byte"])
def test_a_chunked_body_keeps_its_bytes(served: tuple[Instance, int, RecordingOrigin], pieces: int) -> None:
    request = b"POST /c HTTP/1.1\r\n" + HOST + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
    got = forwarded(served, request + b"3;ext=1\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\r\n", pieces)
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower() and b"content-length" not in head.lower()
    chunks = re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body.removesuffix(b"0\r\n\r\n"), re.S)
    assert b"".join(chunks) == b"abc0123456789"
    assert body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte-by-byte"])
def test_a_body_with_length_keeps_its_bytes(served: tuple[Instance, int, RecordingOrigin], pieces: int) -> None:
    request = b"POST /l HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: 11\r\n\r\nhello\r\n\r\n\0\xff"
    head, _, body = forwarded(served, request, pieces).partition(b"\r\n\r\n")
    assert b"content-length: 11" in head.lower() and b"transfer-encoding" not in head.lower()
    assert body == b"hello\r\n\r\n\0\xff"


def test_pipelined_requests_are_answered_in_order(served: tuple[Instance, int, RecordingOrigin]) -> None:
    _, port, _ = served
    ten = b"".join(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(10))
    last = b"GET /last HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    answer = clients.exchange(port, ten + last)
    assert answer.count(b"HTTP/1.1 200 ") == 11 and answer.endswith(b"\r\n\r\nok")


def test_http_1_0_clients(served: tuple[Instance, int, RecordingOrigin]) -> None:
    _, port, origin = served
    got = forwarded(served, b"GET / HTTP/1.0\r\n\r\n", 0)
    assert b"\r\nHost: " + origin.address.encode() + b"\r\n" in got, "many origins refuse an empty one"
    answer = clients.exchange(port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nok")
    assert b"transfer-encoding" not in answer.lower()
    kept = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = clients.exchange(port, kept + b"GET / HTTP/1.0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 2 and b"connection: keep-alive" in answer.lower()


BAD_RESPONSES: dict[str, bytes] = {
    "both-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nok",
    "coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no-status": b"HTTP/1.1 OK\r\n\r\n",
    "status-four-digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "garbage": b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n",
    "version": b"HTTP/3.0 200 OK\r\n\r\n",
    "many-1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200 + OK,
    "head-too-large": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.fixture(scope="module")
def bad_origin() -> Iterator[tuple[int, list[bytes]]]:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    answers: list[bytes] = []
    try:
        with RecordingOrigin(lambda _, received: answers[0] if received.endswith(b"\r\n\r\n") else None) as origin:
            with instance(directory, CONFIG.format(origin=origin.address)) as proxy:
                yield proxy.port("web"), answers
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_a_response_that_is_wrong_becomes_a_502(bad_origin: tuple[int, list[bytes]], name: str) -> None:
    port, answers = bad_origin
    answers[:] = [BAD_RESPONSES[name]]
    answer = clients.exchange(port, b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    final = answer[answer.rindex(b"HTTP/1.1 ") :]
    assert final.startswith(b"HTTP/1.1 502 "), answer
    assert b"ok" not in final.partition(b"\r\n\r\n")[2].split(b" ")


def test_two_responses_for_one_request_never_reach_the_next_one(bad_origin: tuple[int, list[bytes]]) -> None:
    port, answers = bad_origin
    answers[:] = [OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"]
    for _ in range(3):
        answer = clients.exchange(port, b"GET / HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ") and b"poison" not in answer
