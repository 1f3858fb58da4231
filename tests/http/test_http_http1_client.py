"""Conversations with an origin. What is received is in the corpus; here is what is sent, and when it is reusable."""

from __future__ import annotations

import pytest
from http_corpus import text

from hotproxy.http.codec import CHUNKED, HTTP_1_0, HTTP_1_1, LENGTH, UNTIL_CLOSE, ClientCodec, RequestHead
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.http1_client import Http1ClientCodec

GET = RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"hOsT", b"a")]))
POST_LENGTH = RequestHead(b"POST", b"/", HTTP_1_1, Headers([(b"Host", b"a")]), LENGTH, 4)
POST_CHUNKED = RequestHead(b"POST", b"/", HTTP_1_1, Headers([(b"Host", b"a")]), CHUNKED)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"


def sent(parser: HeadParser, head: RequestHead = GET) -> Http1ClientCodec:
    codec = Http1ClientCodec(parser)
    codec.encode_head(head)
    return codec


def test_it_is_a_client_codec(parser: HeadParser):
    codec: ClientCodec = Http1ClientCodec(parser)
    assert codec.between_messages
    assert codec.reusable


def test_requests_as_they_go_out(parser: HeadParser):
    assert Http1ClientCodec(parser).encode_head(GET) == b"GET / HTTP/1.1\r\nhOsT: a\r\n\r\n"
    codec = Http1ClientCodec(parser)
    assert codec.encode_head(POST_LENGTH) == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    assert (codec.encode_data(b"abcd"), codec.encode_end(Headers([(b"X", b"y")]))) == (b"abcd", b"")
    codec = Http1ClientCodec(parser)
    assert codec.encode_head(POST_CHUNKED) == b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert codec.encode_data(b"0123456789abcdef") == b"10\r\n0123456789abcdef\r\n"
    assert codec.encode_end(Headers([(b"X", b"y")])) == b"0\r\nX: y\r\n\r\n"


def test_a_1_0_request_goes_on_as_1_1_with_a_host(parser: HeadParser):
    head = RequestHead(b"GET", b"/", HTTP_1_0, Headers(), keep_alive=False)
    assert Http1ClientCodec(parser).encode_head(head) == b"GET / HTTP/1.1\r\nHost: \r\n\r\n"
    assert Http1ClientCodec(parser).encode_head(head, b"10.0.0.1:80") == b"GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n"


def test_what_the_client_wants_for_its_connection_is_not_the_origins_business(parser: HeadParser):
    head = RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"Host", b"a")]), keep_alive=False)
    assert b"onnection" not in Http1ClientCodec(parser).encode_head(head)


def test_reusable_needs_both_messages(parser: HeadParser):
    codec = sent(parser)
    assert not codec.reusable
    codec.receive(OK)
    assert not codec.reusable  # answered early; our request has not ended
    codec.encode_end()
    assert codec.reusable
    codec.next_message()
    assert codec.between_messages
    assert codec.encode_head(GET)


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (OK, True),
        (OK[:-1], False),
        (OK + b"x", False),
        (OK.replace(b"1.1", b"1.0"), False),
        (OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), False),
        (OK.replace(b"1.1", b"1.0").replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n"), True),
        (b"HTTP/1.1 200 OK\r\n\r\nab", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
    ],
)
def test_reusable_after(parser: HeadParser, answer: bytes, reusable: bool):
    codec = sent(parser)
    codec.encode_end()
    codec.receive(answer)
    assert codec.reusable is reusable
    if not reusable:
        with pytest.raises(ValueError, match="again"):
            codec.next_message()


def test_an_idle_connection_that_ends_or_speaks_is_not_reusable(parser: HeadParser):
    codec = Http1ClientCodec(parser)
    assert codec.receive_eof() == []
    assert not codec.reusable
    codec = sent(parser)
    codec.encode_end()
    codec.receive(OK)
    codec.next_message()
    assert text(codec.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")) == ["violation http1.unexpected_data 400"]
    assert not codec.reusable
    assert codec.receive(b"more") == []


def test_between_messages_tells_whether_anything_was_answered(parser: HeadParser):
    """The pool's question after an EOF: a connection that died before the first byte may be retried."""
    codec = sent(parser)
    assert codec.between_messages
    codec.receive(b"H")
    assert not codec.between_messages
    codec = sent(parser)
    codec.receive(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not codec.between_messages


def test_two_requests_at_once_are_a_bug(parser: HeadParser):
    with pytest.raises(ValueError, match="under way"):
        sent(parser).encode_head(GET)


def test_a_request_cannot_last_until_close(parser: HeadParser):
    with pytest.raises(ValueError, match="cannot end"):
        Http1ClientCodec(parser).encode_head(RequestHead(b"POST", b"/", HTTP_1_1, Headers(), UNTIL_CLOSE))


@pytest.mark.parametrize("bad", [b"a\r\nX: y", b"a\n", b"a\0"])
def test_splitting_the_request_is_refused(parser: HeadParser, bad: bytes):
    for head in (
        RequestHead(b"GET", b"/" + bad, HTTP_1_1, Headers([(b"Host", b"a")])),
        RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"Host", bad)])),
        RequestHead(bad, b"/", HTTP_1_1, Headers([(b"Host", b"a")])),
        RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"Host", b"a")]), upgrade=bad),
    ):
        codec = Http1ClientCodec(parser)
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            codec.encode_head(head)
        assert codec.reusable  # nothing went out


def test_interim_responses_are_counted_per_request(parser: HeadParser):
    codec = Http1ClientCodec(parser)
    for _ in range(3):
        codec.encode_head(GET)
        codec.encode_end()
        events = codec.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8 + OK)
        assert text(events)[-2:] == ["data ab", "end"]
        codec.next_message()


def test_a_head_after_many_interim_ones_may_come_in_pieces(parser: HeadParser):
    codec = sent(parser)
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + OK
    events = [event for i in range(len(raw)) for event in codec.receive(raw[i : i + 1])]
    assert [line.split()[:2] for line in text(events) if line.startswith("response")] == [["response", "103"]] * 3 + [
        ["response", "200"]
    ]


@pytest.mark.parametrize("head", [GET, POST_LENGTH, POST_CHUNKED])
def test_a_request_moves_in_the_middle(parser: HeadParser, head: RequestHead):
    stays, moves = Http1ClientCodec(parser), Http1ClientCodec(parser)
    steps = [lambda c: c.encode_head(head)]
    if head is not GET:
        steps += [lambda c: c.encode_data(b"ab"), lambda c: c.encode_data(b"cd")]
    steps += [
        lambda c: c.encode_end(),
        lambda c: text(c.receive(OK)),
        lambda c: c.next_message(),
        lambda c: c.encode_head(head),
    ]
    for step in steps:
        state = moves.dump()
        moves = Http1ClientCodec.load(state, parser)
        assert moves.dump() == state
        assert step(moves) == step(stays)
        assert moves.dump() == stays.dump()


def test_a_short_head_may_come_behind_the_rest_of_a_long_one(parser: HeadParser):
    """How far the interim head had been searched was applied to the next one, whose end then was not seen."""
    codec = sent(parser)
    assert codec.receive(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 200) == []
    assert text(codec.receive(b"\r\n\r\n" + OK))[-2:] == ["data ab", "end"]
