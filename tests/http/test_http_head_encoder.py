"""Heads as they are written, by both encoders."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.http import head_encoder, plain_headers
from hotproxy.http.headers import Headers
from hotproxy.http.kernel import Encode
from tests.kit.kernels import compiled

Encoding = tuple[Encode, type[Headers]]


@pytest.fixture(scope="module", params=["pure", "compiled"])
def encoding(request: pytest.FixtureRequest) -> Encoding:
    """An encoder, and the headers that it takes."""
    if request.param == "pure":
        return head_encoder.encode_head, plain_headers.Headers
    return compiled("hotproxy.http._kernel").encode_head, compiled("hotproxy.http._headers").Headers


def test_a_head(encoding: Encoding):
    encode, Headers = encoding
    headers = Headers([(b"A", b"b"), (b"Empty", b""), (b"x", b"\xff \t y")])
    assert encode(b"HTTP/1.1 200 ", headers, [b"Content-Length: 2"]) == (
        b"HTTP/1.1 200 \r\nA: b\r\nEmpty: \r\nx: \xff \t y\r\nContent-Length: 2\r\n\r\n"
    )
    assert encode(b"", Headers(), []) == b"\r\n\r\n"


TAME = [byte for byte in range(256) if byte not in b"\0\r\n"]
tame = st.lists(st.sampled_from(TAME), max_size=200).map(bytes)


@settings(max_examples=300, deadline=None)
@given(tame, st.lists(st.tuples(tame, tame), max_size=120), st.lists(tame, max_size=4))
def test_whatever_is_one_line_is_written(
    encoding: Encoding, start: bytes, fields: list[tuple[bytes, bytes]], lines: list[bytes]
):
    encode, Headers = encoding
    expected = [start, *(b"%b: %b" % field for field in fields), *lines, b"", b""]
    assert encode(start, Headers(fields), lines) == b"\r\n".join(expected)


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"\r\n", b"a\r\nX: y", b"x" * 100 + b"\n", b"\r" + b"x" * 100])
def test_whatever_would_be_more_than_one_line_is_refused(encoding: Encoding, bad: bytes):
    encode, Headers = encoding
    fine = (b"A", b"b")
    for arguments in (
        (b"GET " + bad, Headers([fine]), [b"c"]),
        (b"GET", Headers([fine, (bad, b"b"), fine]), [b"c"]),
        (b"GET", Headers([fine, (b"A", bad), fine]), [b"c"]),
        (b"GET", Headers([fine]), [b"c", bad]),
    ):
        with pytest.raises(ValueError, match="CR, LF or NUL inside a head"):
            encode(*arguments)


@pytest.mark.parametrize("wrong", ["text", None, bytearray(b"x"), 1])
def test_anything_but_bytes_is_a_type_error(wrong: object):
    """Only where it is compiled: there it would be memory that is not ours."""
    encode, Headers = compiled("hotproxy.http._kernel").encode_head, compiled("hotproxy.http._headers").Headers
    for arguments in ((wrong, Headers(), []), (b"", Headers(), [wrong]), (b"", wrong, []), (b"", Headers(), wrong)):
        with pytest.raises(TypeError):
            encode(*arguments)
