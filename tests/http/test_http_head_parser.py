"""The conformance suite of the `HeadParser` seam: every implementation is a `parser` of conftest.py."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotproxy.http.codec import RequestHead, ResponseHead, Violation
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.syntax import split_fields

names = st.sampled_from([b"A", b"x-b", b"Cookie", b"Accept", b"X-Forwarded-For", b"!#$%&'*+-.^_`|~"])
values = st.text(st.characters(max_codepoint=255), max_size=12).map(lambda text: text.encode("latin-1"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=6))
@example([(b"A", b" \t b \t")])
def test_fields_come_out_as_they_went_in_or_not_at_all(parser: HeadParser, fields: list[tuple[bytes, bytes]]):
    block = b"".join(b"%b: %b\r\n" % field for field in fields)
    head = parser.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + block + b"\r\n")
    clean = all(all(byte == 9 or 32 <= byte != 127 for byte in value) for _, value in fields)
    if clean:
        assert isinstance(head, RequestHead)
        assert list(head.headers)[1:] == [(name, value.strip(b" \t")) for name, value in fields]
    elif not any(b"\r\n" in value for _, value in fields):
        assert isinstance(head, Violation)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_head_or_a_violation(parser: HeadParser, garbage: bytes):
    for head in (garbage, b"GET / HTTP/1.1\r\n" + garbage + b"\r\n\r\n", garbage + b" / HTTP/1.1\r\nHost: a\r\n\r\n"):
        assert isinstance(parser.parse_request(head), RequestHead | Violation)
    for head in (garbage, b"HTTP/1.1 200 OK\r\n" + garbage + b"\r\n\r\n", b"HTTP/1.1 " + garbage + b"\r\n\r\n"):
        assert isinstance(parser.parse_response(head, to_head=False), ResponseHead | Violation)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(names, values.filter(lambda value: all(b == 9 or 32 <= b != 127 for b in value))), max_size=6)
)
def test_the_slow_splitter_agrees(parser: HeadParser, fields: list[tuple[bytes, bytes]]):
    block = b"".join(b"%b:%b\r\n" % field for field in fields)
    head = parser.parse_response(b"HTTP/1.1 200 OK\r\n" + block + b"\r\n", to_head=False)
    assert isinstance(head, ResponseHead)
    assert list(head.headers) == split_fields(block)


def test_a_parser_keeps_nothing_between_heads(parser: HeadParser):
    first = parser.parse_request(b"GET /1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n")
    second = parser.parse_request(b"GET /2 HTTP/1.1\r\nHost: b\r\n\r\n")
    assert isinstance(first, RequestHead) and isinstance(second, RequestHead)
    assert (list(first.headers), list(second.headers)) == ([(b"Host", b"a"), (b"X", b"1")], [(b"Host", b"b")])
