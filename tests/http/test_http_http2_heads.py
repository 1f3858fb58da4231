"""RFC 9113 sections 8.2 and 8.3: which field lists are requests, and what they mean."""

from __future__ import annotations

import pytest

from hotproxy.http.codec import CHUNKED, LENGTH, NO_BODY, RequestHead, Violation
from hotproxy.http.http2_heads import read_request, read_trailers

Fields = list[tuple[bytes, bytes]]

GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/p?q")]


def put(name: bytes, value: bytes | None) -> Fields:
    """GET with this pseudo-header field, or (None) without."""
    return [field for field in ((n, value if n == name else v) for n, v in GET) if field[1] is not None]  # type: ignore[misc]


def and_(*fields: tuple[bytes, bytes]) -> Fields:
    return [*GET, *fields]


MALFORMED: dict[str, tuple[Fields, str]] = {
    "no method": (put(b":method", None), "missing_method"),
    "no scheme": (put(b":scheme", None), "missing_scheme"),
    "no path": (put(b":path", None), "missing_path"),
    "no authority": (put(b":authority", None), "missing_authority"),
    "nothing": ([], "missing_method"),
    "two methods": ([GET[0], *GET], "repeated_pseudo_header"),
    "two paths": ([*GET, GET[3]], "repeated_pseudo_header"),
    "two authorities": ([*GET, GET[2]], "repeated_pseudo_header"),
    "a status": ([*GET, (b":status", b"200")], "unknown_pseudo_header"),
    "a protocol": ([*GET, (b":protocol", b"websocket")], "unknown_pseudo_header"),
    "an empty pseudo name": ([*GET, (b":", b"1")], "unknown_pseudo_header"),
    "an upper-case pseudo": ([*GET, (b":Path", b"/")], "unknown_pseudo_header"),
    "a path behind a field": ([*GET[:3], (b"a", b"b"), GET[3]], "pseudo_header_after_field"),
    "an unknown one behind a field": (and_((b"a", b"b"), (b":x", b"1")), "unknown_pseudo_header"),
    "an empty method": (put(b":method", b""), "invalid_method"),
    "a method with a space": (put(b":method", b"GET /x HTTP/1.1"), "invalid_method"),
    "a method with CR LF": (put(b":method", b"GET\r\nX: y"), "invalid_method"),
    "connect": (put(b":method", b"CONNECT"), "connect_refused"),
    "a strange scheme": (put(b":scheme", b"ftp"), "invalid_scheme"),
    "a scheme with a path": (put(b":scheme", b"http://evil/"), "invalid_scheme"),
    "an empty path": (put(b":path", b""), "invalid_path"),
    "a path without slash": (put(b":path", b"p"), "invalid_path"),
    "an absolute path": (put(b":path", b"http://b.example/"), "invalid_path"),
    "a star for GET": (put(b":path", b"*"), "invalid_path"),
    "a path with a space": (put(b":path", b"/a b"), "invalid_path"),
    "a path that is a request": (put(b":path", b"/ HTTP/1.1\r\nHost: b\r\n\r\nGET /"), "invalid_path"),
    "a path with a tab": (put(b":path", b"/a\tb"), "invalid_path"),
    "a path with NUL": (put(b":path", b"/a\0b"), "invalid_path"),
    "a path with LF": (put(b":path", b"/a\n"), "invalid_path"),
    "a path with a fragment": (put(b":path", b"/a#b"), "invalid_path"),
    "a path of UTF-8": (put(b":path", "/\u00e4".encode()), "invalid_path"),
    "a long path": (put(b":path", b"/" + b"a" * 16_400), "path_too_long"),
    "an empty authority": (put(b":authority", b""), "invalid_authority"),
    "userinfo": (put(b":authority", b"me@a.example"), "invalid_authority"),
    "two hosts": (put(b":authority", b"a.example,b.example"), "invalid_authority"),
    "an authority with a path": (put(b":authority", b"a.example/x"), "invalid_authority"),
    "an authority with CR LF": (put(b":authority", b"a\r\nX: y"), "invalid_authority"),
    "an authority with a space": (put(b":authority", b"a b"), "invalid_authority"),
    "a port too large": (put(b":authority", b"a:65536"), "invalid_authority"),
    "another host": (and_((b"host", b"b.example")), "host_differs"),
    "two host fields": (and_((b"host", b"a.example"), (b"host", b"a.example")), "repeated_host"),
    "an upper-case name": (and_((b"X-A", b"b")), "uppercase_field_name"),
    "one upper-case letter": (and_((b"x-aA", b"b")), "uppercase_field_name"),
    "an empty name": (and_((b"", b"b")), "invalid_field_name"),
    "a name with a space": (and_((b"x a", b"b")), "invalid_field_name"),
    "a name with a space behind": (and_((b"content-length ", b"1")), "invalid_field_name"),
    "a name with a colon": (and_((b"x:y", b"b")), "invalid_field_name"),
    "a name with CR LF": (and_((b"x\r\ny", b"b")), "invalid_field_name"),
    "a name with LF": (and_((b"x\ny", b"b")), "invalid_field_name"),
    "a name with NUL": (and_((b"x\0", b"b")), "invalid_field_name"),
    "a name that is a line": (and_((b"transfer-encoding: chunked\r\nx", b"b")), "invalid_field_name"),
    "a name of Latin-1": (and_((b"\xe4", b"b")), "invalid_field_name"),
    "a value with CR LF": (and_((b"x", b"a\r\ntransfer-encoding: chunked")), "invalid_field_value"),
    "a value with LF": (and_((b"x", b"a\nb")), "invalid_field_value"),
    "a value that ends with LF": (and_((b"x", b"a\n")), "invalid_field_value"),
    "a value with CR": (and_((b"x", b"a\rb")), "invalid_field_value"),
    "a value with NUL": (and_((b"x", b"a\0b")), "invalid_field_value"),
    "a value with DEL": (and_((b"x", b"a\x7f")), "invalid_field_value"),
    "a value behind a space": (and_((b"x", b" a")), "invalid_field_value"),
    "a value before a tab": (and_((b"x", b"a\t")), "invalid_field_value"),
    "a value of a space": (and_((b"x", b" ")), "invalid_field_value"),
    "connection": (and_((b"connection", b"close")), "connection_specific_field"),
    "keep-alive": (and_((b"keep-alive", b"1")), "connection_specific_field"),
    "proxy-connection": (and_((b"proxy-connection", b"keep-alive")), "connection_specific_field"),
    "transfer-encoding": (and_((b"transfer-encoding", b"chunked")), "connection_specific_field"),
    "transfer-encoding, empty": (and_((b"transfer-encoding", b"")), "connection_specific_field"),
    "upgrade": (and_((b"upgrade", b"websocket")), "connection_specific_field"),
    "te: gzip": (and_((b"te", b"gzip")), "invalid_te"),
    "te: trailers, gzip": (and_((b"te", b"trailers, gzip")), "invalid_te"),
    "two te": (and_((b"te", b"trailers"), (b"te", b"trailers")), "invalid_te"),
    "a length with a sign": (and_((b"content-length", b"+1")), "invalid_content_length"),
    "a length of text": (and_((b"content-length", b"1x")), "invalid_content_length"),
    "an empty length": (and_((b"content-length", b"")), "invalid_content_length"),
    "a length and another": (and_((b"content-length", b"1, 1")), "invalid_content_length"),
    "two lengths": (and_((b"content-length", b"1"), (b"content-length", b"1")), "repeated_content_length"),
    "a huge length": (and_((b"content-length", b"9" * 20)), "content_length_overflow"),
    "a length and no body": (and_((b"content-length", b"3")), "content_length_mismatch"),
    "a hundred and one fields": (and_(*[(b"x-%d" % i, b"") for i in range(101)]), "too_many_fields"),
}


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
