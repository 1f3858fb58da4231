"""Where a TRACE or an OPTIONS ends."""

from __future__ import annotations

import pytest

from hotproxy.errors import Reason
from hotproxy.http.codec import CHUNKED, HTTP_1_0, HTTP_1_1, LENGTH, NO_BODY, RequestHead
from hotproxy.http.headers import Headers
from hotproxy.proxy import last_hop


def head(*values: bytes, method: bytes = b"TRACE", version: int = HTTP_1_1, framing: int = NO_BODY) -> RequestHead:
    fields = [(b"Host", b"h"), *((b"Max-Forwards", value) for value in values)]
    return RequestHead(method, b"/", version, Headers(fields), framing)


def check(request: RequestHead) -> last_hop.Answer | Reason | None:
    return last_hop.check(request, request.headers)


@pytest.mark.parametrize(
    ("value", "forwarded"), [(b"1", b"0"), (b"10", b"9"), (b"256", b"255"), (b"257", b"255"), (b"9" * 5000, b"255")]
)
def test_counted_down(value: bytes, forwarded: bytes) -> None:
    request = head(value)
    assert check(request) is None
    assert request.headers.get_all(b"max-forwards") == [forwarded]


def test_without_a_limit_it_goes_on() -> None:
    request = head()
    assert check(request) is None
    assert list(request.headers) == [(b"Host", b"h")]


@pytest.mark.parametrize("values", [[b""], [b"x"], [b"-1"], [b"1, 2"], [b"1", b"1"]])
def test_what_is_no_number_is_refused(values: list[bytes]) -> None:
    assert check(head(*values)) is last_hop.INVALID_MAX_FORWARDS


def test_a_trace_has_no_body() -> None:
    assert check(head(framing=CHUNKED)) is last_hop.TRACE_WITH_BODY
    assert check(head(framing=LENGTH)) is None  # "Content-Length: 0"
    assert check(head(method=b"OPTIONS", framing=CHUNKED)) is None


def test_a_trace_is_given_back_without_credentials() -> None:
    request = head(b"0", version=HTTP_1_0)
    for name in (b"Cookie", b"authorization", b"Proxy-Authorization"):
        request.headers.add(name, b"secret")
    assert check(request) == (
        b"TRACE / HTTP/1.0\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
        ((b"content-type", b"message/http"),),
    )


def test_it_is_given_back_as_it_came() -> None:
    received = head(b"0")
    ours = head(b"0")
    ours.headers.set(b"x-request-id", b"ID")
    answer = last_hop.check(ours, received.headers)
    assert isinstance(answer, last_hop.Answer) and b"request-id" not in answer.body


def test_options_is_answered_with_nothing() -> None:
    assert check(head(b"000", method=b"OPTIONS")) == (b"", ())
