"""Conversations with a client. What is received is in the corpus; here is what is sent, and who may stay."""

from __future__ import annotations

from typing import Any

import pytest
from http_corpus import text

from hotproxy.http.codec import (
    CHUNKED,
    HTTP_1_1,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    ServerCodec,
    Violation,
)
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.http1_server import Http1ServerCodec


def asked(parser: HeadParser, raw: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> Http1ServerCodec:
    codec = Http1ServerCodec(parser)
    assert not isinstance(codec.receive(raw)[-1], Violation)
    return codec


GET_10 = b"GET / HTTP/1.0\r\n\r\n"
GET_10_KEEP = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def head(framing: int = NO_BODY, length: int = 0, status: int = 200, **more: Any) -> ResponseHead:
    return ResponseHead(status, b"OK", HTTP_1_1, Headers([(b"A", b"b")]), framing, length, **more)


def test_it_is_a_server_codec(parser: HeadParser):
    codec: ServerCodec = Http1ServerCodec(parser)
    assert codec.between_messages


# (request, head, close) -> (lines of ours, "ab" on the wire, the end, may it stay)
CASES: list[tuple[str, bytes, ResponseHead, bool, list[bytes], bytes, bytes, bool]] = [
    ("1.1 length", b"", head(LENGTH, 2), False, [b"Content-Length: 2"], b"ab", b"", True),
    ("1.1 chunked", b"", head(CHUNKED), False, [b"Transfer-Encoding: chunked"], b"2\r\nab\r\n", b"0\r\n\r\n", True),
    (
        "1.1 until close",
        b"",
        head(UNTIL_CLOSE),
        False,
        [b"Transfer-Encoding: chunked"],
        b"2\r\nab\r\n",
        b"0\r\n\r\n",
        True,
    ),
    ("1.1 no body", b"", head(), False, [b"Content-Length: 0"], b"", b"", True),
    ("1.1 drained", b"", head(LENGTH, 2), True, [b"Content-Length: 2", b"Connection: close"], b"ab", b"", False),
    ("1.1 close", GET_CLOSE, head(LENGTH, 2), False, [b"Content-Length: 2", b"Connection: close"], b"ab", b"", False),
    ("1.0 length", GET_10, head(LENGTH, 2), False, [b"Content-Length: 2", b"Connection: close"], b"ab", b"", False),
    ("1.0 chunked", GET_10, head(CHUNKED), False, [b"Connection: close"], b"ab", b"", False),
    (
        "1.0 kept",
        GET_10_KEEP,
        head(LENGTH, 2),
        False,
        [b"Content-Length: 2", b"Connection: keep-alive"],
        b"ab",
        b"",
        True,
    ),
    ("1.0 kept, chunked", GET_10_KEEP, head(CHUNKED), False, [b"Connection: close"], b"ab", b"", False),
    ("1.0 kept, until close", GET_10_KEEP, head(UNTIL_CLOSE), False, [b"Connection: close"], b"ab", b"", False),
    (
        "1.0 kept, drained",
        GET_10_KEEP,
        head(LENGTH, 2),
        True,
        [b"Content-Length: 2", b"Connection: close"],
        b"ab",
        b"",
        False,
    ),
    (
        "1.0 kept, no body",
        GET_10_KEEP,
        head(),
        False,
        [b"Content-Length: 0", b"Connection: keep-alive"],
        b"",
        b"",
        True,
    ),
    ("HEAD length", HEAD, head(LENGTH, 2), False, [b"Content-Length: 2"], b"", b"", True),
    ("HEAD chunked", HEAD, head(CHUNKED), False, [b"Transfer-Encoding: chunked"], b"", b"", True),
    ("HEAD unknown", HEAD, head(), False, [], b"", b"", True),
    ("204", b"", head(LENGTH, 0, 204), False, [], b"", b"", True),
    ("204 chunked", b"", head(CHUNKED, 0, 204), False, [], b"", b"", True),
    ("304 length", b"", head(LENGTH, 9, 304), False, [b"Content-Length: 9"], b"", b"", True),
    ("304 unknown", b"", head(NO_BODY, 0, 304), False, [], b"", b"", True),
]


@pytest.mark.parametrize(
    ("request_", "response", "close", "lines", "data", "end", "stays"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_framing_and_persistence(
    parser: HeadParser,
    request_: bytes,
    response: ResponseHead,
    close: bool,
    lines: list[bytes],
    data: bytes,
    end: bytes,
    stays: bool,
):
    codec = asked(parser, request_ or b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    expected = b"\r\n".join([b"HTTP/1.1 %d OK" % response.status, b"A: b", *lines, b"", b""])
    assert codec.encode_head(response, close) == expected
    if data:
        assert codec.encode_data(b"ab") == data
    elif response.framing != NO_BODY:
        assert codec.encode_data(b"ab") == b""  # a local reply is built without looking at the method
    assert codec.encode_end() == end
    assert codec.keep_alive is stays


def test_interim_heads_go_to_those_who_know_them(parser: HeadParser):
    interim = ResponseHead(103, b"Early Hints", HTTP_1_1, Headers([(b"Link", b"</a>")]))
    assert asked(parser).encode_head(interim, False) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert asked(parser, GET_10).encode_head(interim, False) == b""


def test_trailers_go_out_behind_chunks(parser: HeadParser):
    codec = asked(parser)
    codec.encode_head(head(CHUNKED), False)
    assert codec.encode_end(Headers([(b"X-Sum", b"1")])) == b"0\r\nX-Sum: 1\r\n\r\n"


def test_after_101_the_rest_is_raw(parser: HeadParser):
    codec = asked(parser, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81early")
    switching = ResponseHead(101, b"Switching Protocols", HTTP_1_1, Headers(), upgrade=b"websocket")
    assert codec.encode_head(switching, True).endswith(b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert codec.receive(b" later") == []
    assert codec.take_buffered() == b"\x81early later"
    assert codec.take_buffered() == b""
    assert not codec.keep_alive


def test_a_426_says_what_is_wanted_even_when_the_connection_ends(parser: HeadParser):
    answer = head(status=426, upgrade=b"websocket")
    assert asked(parser).encode_head(answer, True).endswith(b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n")


def test_an_upgrade_is_not_offered_with_other_answers(parser: HeadParser):
    assert b"pgrade" not in asked(parser).encode_head(head(upgrade=b"h2c"), False)


def test_the_answer_to_a_violation_closes(parser: HeadParser):
    codec = Http1ServerCodec(parser)
    assert text(codec.receive(b"GET / HTTP/1.1\r\nHost : a\r\n\r\nmore")) == ["violation http1.space_before_colon 400"]
    answer = ResponseHead(400, b"Bad Request", HTTP_1_1, Headers(), LENGTH, 2)
    assert (
        codec.encode_head(answer, False)
        == b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    )
    assert codec.encode_data(b"no") == b"no"
    assert not codec.keep_alive
    assert codec.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == []
    assert codec.buffered_bytes == 0


def test_a_violation_after_a_head_request_is_answered_with_a_body(parser: HeadParser):
    """The method of the request before was still remembered: the 400 had a length, no body, and the client waited."""
    codec = asked(parser, HEAD)
    codec.encode_head(head(LENGTH, 2), False)
    codec.next_message()
    assert isinstance(codec.receive(b"garbage\r\n\r\n")[-1], Violation)
    codec.encode_head(head(LENGTH, 2, 400), True)
    assert codec.encode_data(b"no") == b"no"


def test_a_pipelined_successor_waits_raw(parser: HeadParser):
    codec = asked(parser, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n")
    assert codec.buffered_bytes == len(b"GET /2 HTTP/1.1\r\n")
    assert not codec.between_messages
    assert codec.receive(b"Host: a\r\n\r\n") == []
    codec.encode_head(head(), False)
    codec.next_message()
    assert not codec.between_messages
    (second, _) = codec.receive(b"")
    assert isinstance(second, RequestHead)
    assert second.target == b"/2"


def test_between_messages_ends_with_the_first_byte(parser: HeadParser):
    codec = Http1ServerCodec(parser)
    codec.receive(b"\r\n")
    assert codec.between_messages  # an empty line is no request
    codec.receive(b"G")
    assert not codec.between_messages


def test_next_message_before_the_request_has_ended_is_a_bug(parser: HeadParser):
    codec = asked(parser, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
    with pytest.raises(ValueError, match="not ended"):
        codec.next_message()


@pytest.mark.parametrize(
    "raw", [b"G", b"GET / HTTP/1.1\r\n", b"\r", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na"]
)
def test_eof_inside_a_message_is_a_violation(parser: HeadParser, raw: bytes):
    codec = Http1ServerCodec(parser)
    codec.receive(raw)
    assert text(codec.receive_eof())[-1] == "violation http1.unexpected_eof 400"


def test_eof_between_messages_is_nothing(parser: HeadParser):
    assert Http1ServerCodec(parser).receive_eof() == []
    assert asked(parser).receive_eof() == []  # half-closed: the answer is still wanted


def test_eof_is_remembered_for_a_successor_that_is_cut_short(parser: HeadParser):
    codec = asked(parser, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2")
    assert codec.receive_eof() == []
    codec.encode_head(head(), False)
    codec.next_message()
    assert text(codec.receive(b"")) == ["violation http1.unexpected_eof 400"]


@pytest.mark.parametrize("value", [b"x\r\nSet-Cookie: evil=1", b"x\n", b"x\r", b"\0"])
def test_splitting_the_response_is_refused(parser: HeadParser, value: bytes):
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        asked(parser).encode_head(ResponseHead(200, b"OK", HTTP_1_1, Headers([(b"Location", value)])), False)
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        asked(parser).encode_head(ResponseHead(200, value, HTTP_1_1, Headers()), False)


def test_a_response_moves_in_the_middle(parser: HeadParser):
    """Every step of sending, with a dump and a load between all of them."""
    for request_, response in (
        (b"", head(CHUNKED)),
        (b"", head(LENGTH, 4)),
        (GET_10, head(CHUNKED)),
        (HEAD, head(LENGTH, 4)),
    ):
        stays, moves = (
            asked(parser, request_ or HEAD.replace(b"HEAD", b"GET")),
            asked(parser, request_ or HEAD.replace(b"HEAD", b"GET")),
        )
        steps = (
            lambda c, r=response: c.encode_head(r, False),
            lambda c: c.encode_data(b"ab"),
            lambda c: c.encode_data(b"cd"),
            lambda c: c.encode_end(),
        )
        for step in steps:
            state = moves.dump()
            moves = Http1ServerCodec.load(state, parser)
            assert moves.dump() == state
            assert step(moves) == step(stays)
            assert moves.dump() == stays.dump()
        assert moves.keep_alive is stays.keep_alive


def test_a_short_request_may_come_behind_the_rest_of_a_long_one(parser: HeadParser):
    codec = Http1ServerCodec(parser)
    assert codec.receive(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200) == []
    codec.receive(b"\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    codec.encode_head(head(), False)
    codec.next_message()
    assert text(codec.receive(b""))[-1] == "end"
