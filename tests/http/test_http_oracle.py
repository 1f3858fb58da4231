"""h11 as the oracle: what it rejects we reject, and it reads what we forward as we meant it.

h11 is the most careful Python implementation of RFC 9112. Where we accept what it rejects, `ACCEPTED_ALL_THE_SAME` says
why. The other way round we are stricter on purpose; nothing is to be checked there.
"""

from __future__ import annotations

from pathlib import Path

import h11
import pytest
from http_corpus import (
    answers_of,
    case_name,
    expectation,
    forwarded_requests,
    forwarded_response,
    merged,
    question,
    raw_files,
    run_request,
    run_response,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.http.codec import Data, End, Event, RequestHead, ResponseHead, Trailers, Violation
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.http1_client import Http1ClientCodec

FILES = raw_files()
VALID = [path for path in FILES if path.parent.name == "valid"]

# Corpus messages that h11 rejects and we accept, and why.
ACCEPTED_ALL_THE_SAME = {
    "valid/empty-lines-before.request": "RFC 9112 section 2.2: a server should ignore them",
    "valid/pipelined-with-empty-line-between.request": "the same, behind a POST of an old client",
}

Message = tuple[object, ...]


def by_h11_server(raw: bytes) -> list[Message]:
    """The requests of a connection as (method, target, fields, body, trailers); RemoteProtocolError when it objects."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    connection.receive_data(raw)
    messages: list[list[object]] = []
    while True:
        if connection.their_state is h11.MUST_CLOSE:
            break  # it would call what follows unexpected; it is not looked at
        event = connection.next_event()
        if isinstance(event, h11.Request):
            messages.append([bytes(event.method), bytes(event.target), plain(event.headers), b"", []])
        elif isinstance(event, h11.Data):
            messages[-1][3] += bytes(event.data)  # type: ignore[operator]
        elif isinstance(event, h11.EndOfMessage):
            messages[-1][4] = plain(event.headers)
        elif event is h11.PAUSED and connection.their_state in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL):
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.their_state is not h11.DONE or connection.our_state is not h11.DONE:
                break
            connection.start_next_cycle()
        else:
            break
    return [tuple(message) for message in messages]


def by_h11_client(method: bytes, upgrade: bytes, raw: bytes) -> list[Message]:
    """The final response as (status, fields, body, trailers) and the interim ones before it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    fields = [("host", "a")] + ([("connection", "upgrade"), ("upgrade", upgrade.decode())] if upgrade else [])
    connection.send(h11.Request(method=method, target="/", headers=fields))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    messages: list[list[object]] = []
    while True:
        if connection.their_state is h11.MUST_CLOSE:
            break
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse | h11.Response):
            messages.append([event.status_code, plain(event.headers), b"", []])
        elif isinstance(event, h11.Data):
            messages[-1][2] += bytes(event.data)  # type: ignore[operator]
        elif isinstance(event, h11.EndOfMessage):
            messages[-1][3] = plain(event.headers)
        else:
            break
    return [tuple(message) for message in messages]


def plain(fields: object) -> list[tuple[bytes, bytes]]:
    """End-to-end fields, names in lower case: what must survive."""
    hop = (b"connection", b"content-length", b"transfer-encoding", b"upgrade")
    return [(bytes(name), bytes(value)) for name, value in fields if bytes(name) not in hop]  # type: ignore[attr-defined]


def ours(events: list[Event]) -> list[Message]:
    """Our events in the oracle's shape."""
    messages: list[list[object]] = []
    for event in events:
        if isinstance(event, RequestHead):
            fields = [(name.lower(), value) for name, value in event.headers]
            if not event.headers.has(b"host"):
                fields.append((b"host", b""))
            messages.append([event.method, event.target, fields, b"", []])
        elif isinstance(event, ResponseHead):
            messages.append([event.status, [(name.lower(), value) for name, value in event.headers], b"", []])
        elif isinstance(event, Data):
            messages[-1][-2] += event.data  # type: ignore[operator]
        elif isinstance(event, Trailers):
            messages[-1][-1] = [(name.lower(), value) for name, value in event.headers]
    return [tuple(message) for message in messages]


def rejects(path: Path) -> bool:
    words = answers_of(path).split()[1:]
    try:
        if path.suffix == ".request":
            by_h11_server(path.read_bytes())
        elif words[0] != "nothing":
            head = question(words)
            by_h11_client(head.method, head.upgrade, path.read_bytes())
    except h11.RemoteProtocolError:
        return True
    return False


@pytest.mark.parametrize("path", VALID, ids=case_name)
def test_what_h11_rejects_we_reject(path: Path):
    assert rejects(path) == (case_name(path) in ACCEPTED_ALL_THE_SAME)


@pytest.mark.parametrize("path", VALID, ids=case_name)
def test_h11_reads_what_we_forward_as_we_meant_it(parser: HeadParser, path: Path):
    answers = answers_of(path)
    if path.suffix == ".request":
        events, _ = run_request(parser, whole(path.read_bytes()))
        assert by_h11_server(forwarded_requests(parser, events)) == ours(events)
    elif expectation(path)[-2:-1] == ["end"]:
        events, _ = run_response(parser, answers, whole(path.read_bytes()))
        head = question(answers.split()[1:])
        assert by_h11_client(head.method, head.upgrade, forwarded_response(parser, answers, events)) == ours(events)


# Hostile heads from pieces that have something to do with each other, so that many of them are nearly right.
lines = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"content-length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length : 5",
        b"Content-Length:+5",
        b"Content-Length: 0x5",
        b"Content-Length:\x0b5",
        b"Content-Length: 5\r",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding\t: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: x,chunked",
        b" folded",
        b"\tfolded",
        b"Host: b",
        b"Host:",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Connection: X-A, keep-alive",
        b"X-A: 1",
        b"X-A:\t2 ",
        b"X\0: 1",
        b"X: \0",
        b"X: a\rb",
        b"X: a\nb",
        b": x",
        b"X",
        b"",
        b"X: \xff\x80",
        b"Expect: 100-continue",
    ]
)
endings = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n"])
starts = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST / HTTP/1.1",
        b"POST /a?b HTTP/1.0",
        b"POST http://b/x HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"OPTIONS * HTTP/1.1",
        b"G\0T / HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET /",
    ]
)
bodies = st.sampled_from(
    [
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"05\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
)
fields = st.lists(st.tuples(lines, endings), max_size=5)


def assembled(start: bytes, host: bool, parts: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    block = b"".join(line + ending for line, ending in parts)
    return start + b"\r\n" + (b"Host: a\r\n" if host else b"") + block + b"\r\n" + body


@settings(max_examples=1500, deadline=None)
@given(starts, st.booleans(), fields, bodies)
def test_hostile_requests(parser: HeadParser, start: bytes, host: bool, parts: list[tuple[bytes, bytes]], body: bytes):
    raw = assembled(start, host, parts, body)
    events, _ = run_request(parser, whole(raw))
    if not any(isinstance(event, Violation) for event in events):
        try:
            by_h11_server(raw)
        except h11.RemoteProtocolError as objection:
            # We accepted what it rejects; right only for empty lines between requests (`ACCEPTED_ALL_THE_SAME`).
            assert str(objection) == "no request line received"
    events = complete(events)
    sent = forwarded_requests(parser, events)
    assert by_h11_server(sent) == ours(events)
    if all(event.headers.has(b"host") for event in events if isinstance(event, RequestHead)):
        again, _ = run_request(parser, whole(sent))  # the next hotproxy in the row
        assert ours(again) == ours(events)


responses = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/2 200",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 101 Switching Protocols",
    ]
)


@settings(max_examples=1500, deadline=None)
@given(responses, fields, bodies, st.sampled_from(["answers GET eof", "answers HEAD eof"]))
def test_hostile_responses(
    parser: HeadParser, start: bytes, parts: list[tuple[bytes, bytes]], body: bytes, answers: str
):
    raw = assembled(start, False, parts, body)
    events, client = run_response(parser, answers, whole(raw))
    assert isinstance(client, Http1ClientCodec)
    if not events or not isinstance(events[-1], End):
        return
    method = answers.split()[1].encode()
    by_h11_client(method, b"", raw)  # raises RemoteProtocolError where we accepted what it rejects
    assert by_h11_client(method, b"", forwarded_response(parser, answers, events)) == ours(events)


def complete(events: list[Event]) -> list[Event]:
    """Up to the last `End`: what is forwarded whole."""
    ends = [index for index, event in enumerate(events) if isinstance(event, End)]
    return merged(events[: ends[-1] + 1]) if ends else []
