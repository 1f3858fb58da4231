"""What clients of HTTP/2 may say that the next hop, which speaks HTTP/1, could take for something else."""

from __future__ import annotations

from hotproxy.http.http2_frames import DATA, END_STREAM, PADDED, RST_STREAM, frame
from tests.kit.http2 import data, headers

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

# Bodies and trailers that are not what their head says: frames of stream 1.
POST: Fields = put(b":method", b"POST")
THREE: Fields = [*POST, (b"content-length", b"3")]
INNER = b"0\r\n\r\nGET /inner HTTP/1.1\r\nHost: b\r\n\r\n"

# The head has been forwarded when they are found out: the endpoint's connection is closed inside the request.
BROKEN_OFF: dict[str, bytes] = {
    "more than announced": headers(1, THREE, end=False) + data(1, b"abcd", end=True),
    "more than announced, in pieces": headers(1, THREE, end=False) + data(1, b"ab") + data(1, b"cd", end=True),
    "an announced body and a request": headers(1, THREE, end=False) + data(1, b"abc" + INNER, end=True),
    "less than announced": headers(1, THREE, end=False) + data(1, b"ab", end=True),
    "nothing of what was announced": headers(1, THREE, end=False) + data(1, b"", end=True),
    "trailers in place of the rest": headers(1, THREE, end=False) + data(1, b"ab") + headers(1, [(b"x", b"y")]),
    "trailers without an end": headers(1, POST, end=False) + data(1, b"ab") + headers(1, [(b"x", b"y")], end=False),
    "a second head": headers(1, POST, end=False) + data(1, b"ab") + headers(1, GET),
    "a pseudo-header in trailers": headers(1, POST, end=False) + headers(1, [(b":path", b"/x")]),
    "a length in trailers": headers(1, POST, end=False) + headers(1, [(b"content-length", b"5")]),
    "a coding in trailers": headers(1, POST, end=False) + headers(1, [(b"transfer-encoding", b"chunked")]),
    "a host in trailers": headers(1, POST, end=False) + headers(1, [(b"host", b"b")]),
    "an upper-case trailer": headers(1, POST, end=False) + headers(1, [(b"X-Sum", b"1")]),
    "a trailer with CR LF": headers(1, POST, end=False) + headers(1, [(b"x", b"1\r\n\r\nGET /inner HTTP/1.1")]),
    "a trailer whose name is a request": headers(1, POST, end=False) + headers(1, [(b"x\r\n\r\nget /", b"1")]),
    "a trailer with NUL": headers(1, POST, end=False) + headers(1, [(b"x", b"a\0b")]),
    "an empty trailer name": headers(1, POST, end=False) + headers(1, [(b"", b"1")]),
    "a reset inside the body": headers(1, THREE, end=False) + data(1, b"ab") + frame(RST_STREAM, 0, 1, bytes(4)),
    "data behind trailers": headers(1, POST, end=False) + headers(1, [(b"x", b"y")]) + data(1, b"more", end=True),
}

# What goes on, and how it arrives: request line, fields (but for those that we add), and the rest.
CHUNKED = b"Transfer-Encoding: chunked\r\n"
FORWARDED: dict[str, tuple[bytes, bytes, bytes, bytes]] = {
    "a request": (headers(1, GET), b"GET /p?q", b"", b""),
    "a length of 0": (headers(1, and_((b"content-length", b"0"))), b"GET /p?q", b"Content-Length: 0\r\n", b""),
    "no body where one is usual": (headers(1, POST), b"POST /p?q", b"Content-Length: 0\r\n", b""),
    "a body of its length": (
        headers(1, THREE, end=False) + data(1, b"abc", end=True),
        b"POST /p?q",
        b"Content-Length: 3\r\n",
        b"abc",
    ),
    "a body of its length, ended by an empty frame": (
        headers(1, THREE, end=False) + data(1, b"abc") + data(1, b"", end=True),
        b"POST /p?q",
        b"Content-Length: 3\r\n",
        b"abc",
    ),
    "padding is no body": (
        headers(1, THREE, end=False) + frame(DATA, PADDED | END_STREAM, 1, b"\x04abcGET "),
        b"POST /p?q",
        b"Content-Length: 3\r\n",
        b"abc",
    ),
    "a body that is a request": (
        headers(1, POST, end=False) + data(1, INNER, end=True),
        b"POST /p?q",
        CHUNKED,
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
    ),
    "a body for GET": (
        headers(1, GET, end=False) + data(1, INNER, end=True),
        b"GET /p?q",
        CHUNKED,
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
    ),
    "an empty body": (headers(1, POST, end=False) + data(1, b"", end=True), b"POST /p?q", CHUNKED, b"0\r\n\r\n"),
    "trailers": (
        headers(1, POST, end=False) + data(1, b"a") + headers(1, [(b"x-sum", b"1"), (b"x-other", b"")]),
        b"POST /p?q",
        CHUNKED,
        b"1\r\na\r\n0\r\nx-sum: 1\r\nx-other: \r\n\r\n",
    ),
    "trailers that would route or vouch are dropped": (
        headers(1, POST, end=False) + headers(1, [(b"x-forwarded-for", b"1"), (b"authorization", b"x"), (b"te", b"x")]),
        b"POST /p?q",
        CHUNKED,
        b"0\r\n\r\n",
    ),
    "cookies": (
        headers(1, and_((b"cookie", b"a=1"), (b"cookie", b"b=2"))),
        b"GET /p?q",
        b"cookie: a=1; b=2\r\n",
        b"",
    ),
    "te": (headers(1, and_((b"te", b"trailers"))), b"GET /p?q", b"te: trailers\r\nConnection: TE\r\n", b""),
    "an empty value": (headers(1, and_((b"x", b""))), b"GET /p?q", b"x: \r\n", b""),
    "a value with a tab inside": (headers(1, and_((b"x", b"a\tb"))), b"GET /p?q", b"x: a\tb\r\n", b""),
    "a value of Latin-1": (headers(1, and_((b"x", b"\xe4"))), b"GET /p?q", b"x: \xe4\r\n", b""),
    "a value that looks like a field": (headers(1, and_((b"x", b"y: z"))), b"GET /p?q", b"x: y: z\r\n", b""),
    "a list that looks like chunked": (headers(1, and_((b"trailer", b"x"))), b"GET /p?q", b"trailer: x\r\n", b""),
    "names with underscores like ours": (
        headers(1, and_((b"content_length", b"5"), (b"transfer_encoding", b"chunked"), (b"a_b", b"1"))),
        b"GET /p?q",
        b"a_b: 1\r\n",
        b"",
    ),
    "who the client says it is": (
        headers(1, and_((b"x-forwarded-for", b"1.2.3.4"), (b"x-envoy-internal", b"true"), (b"proxy", b"x"))),
        b"GET /p?q",
        b"",
        b"",
    ),
    "a host beside the authority": (headers(1, and_((b"host", b"a.example"))), b"GET /p?q", b"", b""),
    "a strange path": (headers(1, put(b":path", b"/a%00%0d%0a?;='\"<>")), b"GET /a%00%0d%0a?;='\"<>", b"", b""),
    "a path with two slashes": (headers(1, put(b":path", b"//b.example/x")), b"GET //b.example/x", b"", b""),
    "a strange method": (headers(1, put(b":method", b"PURGE")), b"PURGE /p?q", b"", b""),
    "a lower-case method": (headers(1, put(b":method", b"get")), b"get /p?q", b"", b""),
}
