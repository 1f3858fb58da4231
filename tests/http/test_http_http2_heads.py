"""RFC 9113 sections 8.2 and 8.3: which field lists are requests, and what they mean."""

from __future__ import annotations

import pytest

from hotproxy.http.codec import CHUNKED, LENGTH, NO_BODY, RequestHead, Violation
from hotproxy.http.http2_heads import read_request, read_trailers
from tests.http.http2_corpus import MALFORMED, Fields, and_, put


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request(name: str) -> None:
    fields, details = MALFORMED[name]
    found = read_request(fields, True)
    assert isinstance(found, Violation) and found.details == f"http2.{details}"


def read(fields: Fields, ended: bool = True) -> RequestHead:
    head = read_request(fields, ended)
    assert isinstance(head, RequestHead), head.details
    return head


def test_the_authority_becomes_the_host() -> None:
    head = read(and_((b"accept", b"*/*")))
    assert (head.method, head.target, list(head.headers)) == (
        b"GET", b"/p?q", [(b"host", b"a.example"), (b"accept", b"*/*")],
    )  # fmt: skip


def test_a_host_stands_in_for_the_authority() -> None:
    assert list(read([*put(b":authority", None), (b"host", b"b:8080")]).headers) == [(b"host", b"b:8080")]


def test_a_host_that_says_the_same_goes() -> None:
    assert list(read(and_((b"host", b"A.example"))).headers) == [(b"host", b"a.example")]


def test_cookies_are_joined_where_the_first_one_stood() -> None:
    head = read(and_((b"cookie", b"a=1"), (b"x", b""), (b"cookie", b"b=2"), (b"cookie", b"c=3")))
    assert list(head.headers)[1:] == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"")]


def test_a_hundred_cookies_are_one_field() -> None:
    assert len(read(and_(*[(b"cookie", b"a=%d" % i) for i in range(150)])).headers) == 2


@pytest.mark.parametrize(
    ("method", "length", "ended", "framing"),
    [
        (b"GET", None, True, NO_BODY), (b"GET", None, False, CHUNKED), (b"GET", b"0", True, LENGTH),
        (b"POST", None, True, LENGTH), (b"POST", None, False, CHUNKED), (b"PUT", b"5", False, LENGTH),
        (b"DELETE", None, True, NO_BODY), (b"HEAD", None, True, NO_BODY),
    ],
)  # fmt: skip
def test_how_the_body_is_delimited_further_on(method: bytes, length: bytes | None, ended: bool, framing: int) -> None:
    fields = put(b":method", method)
    if length is not None:
        fields.append((b"content-length", length))
    head = read(fields, ended)
    assert (head.framing, head.content_length) == (framing, int(length or 0))
    assert not head.headers.has(b"content-length")


def test_what_stays() -> None:
    fields = ((b"te", b"trailers"), (b"expect", b"100-continue"), (b"trailer", b"x"), (b"x", "\u00e4 b".encode()))
    head = read(and_(*fields), False)
    assert list(head.headers)[1:] == list(fields) and head.expect_continue


def test_options_may_ask_the_whole_server() -> None:
    fields = put(b":method", b"OPTIONS")
    fields[3] = (b":path", b"*")
    assert read(fields).target == b"*"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([(b"x-sum", b"1"), (b"content-type", b"a")], [(b"x-sum", b"1")]),
        ([(b"x-forwarded-for", b"1")], []),
        ([(b":path", b"/")], "pseudo_header_in_trailers"),
        ([(b"content-length", b"1")], "forbidden_trailer"),
        ([(b"transfer-encoding", b"chunked")], "forbidden_trailer"),
        ([(b"host", b"b")], "forbidden_trailer"),
        ([(b"A", b"b")], "uppercase_field_name"),
        ([(b"a", b"b\r\n\r\n0")], "invalid_field_value"),
        ([(b"a", b"")] * 101, "too_many_fields"),
    ],
)
def test_trailers(fields: Fields, found: Fields | str) -> None:
    trailers = read_trailers(fields)
    assert (trailers.details.removeprefix("http2.") if isinstance(trailers, Violation) else list(trailers)) == found
