"""Limits, to the byte, however the bytes arrive. Everything smaller is in the corpus."""

from __future__ import annotations

import itertools

import pytest
from http_corpus import run_request, run_response, text, whole

from hotproxy.http.head_parser import HeadParser
from hotproxy.http.syntax import MAX_HEAD_BYTES, MAX_REQUEST_LINE_BYTES, split_fields


def in_pieces(raw: bytes) -> list[bytes]:
    return [raw[i : i + 997] for i in range(0, len(raw), 997)]


def around_limits(raw: bytes) -> list[bytes]:
    """Byte by byte where it matters."""
    cuts = sorted(
        {0, len(raw)} | {i for limit in (MAX_REQUEST_LINE_BYTES, MAX_HEAD_BYTES) for i in range(limit - 4, limit + 5)}
    )
    return [raw[start:end] for start, end in itertools.pairwise(cuts)]


every_split = pytest.mark.parametrize("split", [whole, in_pieces, around_limits])


def head_of(size: int, filler: bytes = b"x") -> bytes:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    return start + filler * (size - len(start) - 4) + b"\r\n\r\n"


def line_of(size: int) -> bytes:
    """A request line of `size` bytes, CRLF included, and the rest of its head."""
    return b"GET /" + b"x" * (size - 16) + b" HTTP/1.1\r\n" + b"Host: a\r\n\r\n"


@every_split
def test_a_head_of_64_kib_is_accepted(parser: HeadParser, split):
    raw = head_of(MAX_HEAD_BYTES)
    assert len(raw) == MAX_HEAD_BYTES
    assert text(run_request(parser, split(raw))[0])[-1] == "end"


@every_split
@pytest.mark.parametrize("more", [1, 2, 3, 4, 5000])
def test_one_byte_more_is_431(parser: HeadParser, split, more: int):
    assert text(run_request(parser, split(head_of(MAX_HEAD_BYTES + more)))[0]) == ["violation http1.head_too_large 431"]


@every_split
def test_a_head_without_end_is_431(parser: HeadParser, split):
    assert text(run_request(parser, split(head_of(200_000)[:-4]))[0]) == ["violation http1.head_too_large 431"]


@every_split
def test_a_request_line_of_16_kib_is_accepted(parser: HeadParser, split):
    assert line_of(MAX_REQUEST_LINE_BYTES).index(b"\r\n") + 2 == MAX_REQUEST_LINE_BYTES
    assert text(run_request(parser, split(line_of(MAX_REQUEST_LINE_BYTES)))[0])[-1] == "end"


@every_split
@pytest.mark.parametrize("more", [1, 2, 60_000])
def test_a_longer_request_line_is_414(parser: HeadParser, split, more: int):
    raw = line_of(MAX_REQUEST_LINE_BYTES + more)
    assert text(run_request(parser, split(raw))[0]) == ["violation http1.request_line_too_long 414"]


@every_split
@pytest.mark.parametrize("position", range(MAX_REQUEST_LINE_BYTES - 3, MAX_REQUEST_LINE_BYTES + 4))
def test_the_cause_is_the_one_whose_byte_comes_first(parser: HeadParser, split, position: int):
    raw = bytearray(line_of(MAX_REQUEST_LINE_BYTES + 100))
    raw[position] = 0x0A
    cause = "bare_lf 400" if position <= MAX_REQUEST_LINE_BYTES else "request_line_too_long 414"
    assert text(run_request(parser, split(bytes(raw)))[0]) == [f"violation http1.{cause}"]


@every_split
@pytest.mark.parametrize("position", range(MAX_HEAD_BYTES - 3, MAX_HEAD_BYTES + 4))
def test_a_bare_lf_at_the_limit_of_the_head(parser: HeadParser, split, position: int):
    raw = bytearray(head_of(MAX_HEAD_BYTES + 100))
    raw[position] = 0x0A
    cause = "bare_lf 400" if position <= MAX_HEAD_BYTES else "head_too_large 431"
    assert text(run_request(parser, split(bytes(raw)))[0]) == [f"violation http1.{cause}"]


@every_split
def test_a_response_head_over_64_kib_is_refused(parser: HeadParser, split):
    raw = b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n"
    assert text(run_response(parser, "answers GET", split(raw))[0]) == ["violation http1.head_too_large 431"]


@every_split
def test_a_bare_lf_is_refused_before_the_head_has_ended(parser: HeadParser, split):
    """Otherwise a client that ends lines with LF would wait for the head timeout."""
    events, codec = run_request(parser, split(b"GET / HTTP/1.1\nHost: a\n"))
    assert text(events) == ["violation http1.bare_lf 400"]
    assert codec.buffered_bytes == 0


def test_hostile_whitespace_costs_no_quadratic_time():
    """A pattern for trailing whitespace took seconds for this head."""
    block = b"a: x" + b" " * 60_000 + b"y" + b"\t" * 5000 + b"\r\n"
    assert split_fields(block) == [(b"a", b"x" + b" " * 60_000 + b"y")]


def test_split_fields_takes_the_whitespace_around_values_away():
    assert split_fields(b"A: \t b c \t\r\nB:\r\nC:   \r\n") == [(b"A", b"b c"), (b"B", b""), (b"C", b"")]
