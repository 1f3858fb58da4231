"""What becomes of headers on their way through."""

from __future__ import annotations

import random
import uuid

import pytest

from hotproxy.http.codec import HTTP_1_0, HTTP_1_1, LENGTH, NO_BODY, RequestHead, ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.proxy import forwarding

WALL_S = 784111777.0  # RFC 9110's own example: Sun, 06 Nov 1994 08:49:37 GMT
SUNDAY = b"Sun, 06 Nov 1994 08:49:37 GMT"


def forwarded(*fields: tuple[bytes, bytes], client: bytes = b"10.0.0.9", version: int = HTTP_1_1) -> list[object]:
    head = RequestHead(b"GET", b"/", version, Headers(fields))
    assert forwarding.decode_headers(head, client, b"ID")
    return list(head.headers)


OURS = [
    (b"x-forwarded-for", b"10.0.0.9"),
    (b"x-forwarded-proto", b"http"),
    (b"x-request-id", b"ID"),
    (b"via", b"1.1 hotproxy"),
]


def test_a_plain_request() -> None:
    assert forwarded((b"Host", b"a")) == [(b"Host", b"a"), *OURS]


def test_what_a_client_claims_about_itself_is_replaced_or_removed() -> None:
    claims = (
        (b"X-Forwarded-For", b"1.1.1.1"),
        (b"x-forwarded-for", b"2.2.2.2"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Client-Cert", b"Hash=1"),
        (b"X-Envoy-Internal", b"true"),
        (b"x-envoy-upstream-rq-timeout-ms", b"1"),
        (b"X-Request-Id", b"mine"),
        (b"not-x-envoy-a", b"stays"),
    )
    assert forwarded(*claims) == [
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-forwarded-proto", b"http"),
        (b"x-request-id", b"ID"),
        (b"not-x-envoy-a", b"stays"),
        (b"via", b"1.1 hotproxy"),
    ]


def test_an_underscore_is_no_way_around_that() -> None:
    """A CGI or WSGI origin reads `X_Forwarded_For` and `X-Forwarded-For` from the same variable."""
    imitations = (b"X_Forwarded_For", b"x-forwarded_proto", b"X_REQUEST_ID", b"X_Envoy_Internal", b"Content_Length")
    fields = [(name, b"1") for name in imitations]
    assert forwarded(*fields, (b"my_field", b"stays")) == [(b"my_field", b"stays"), *OURS]


def test_over_a_unix_socket_there_is_no_address() -> None:
    assert forwarded((b"x-forwarded-for", b"1.1.1.1"), client=b"") == OURS[1:]


def test_via_is_appended_with_the_version_that_was_received() -> None:
    fields = forwarded((b"Via", b"1.0 a"), (b"via", b"1.1 b (c)"), version=HTTP_1_0)
    assert fields[0] == (b"via", b"1.0 a, 1.1 b (c), 1.0 hotproxy")


def test_a_request_that_has_passed_too_often_goes_in_circles() -> None:
    head = RequestHead(b"GET", b"/", HTTP_1_1, Headers())
    passes = 0
    while forwarding.decode_headers(head, b"10.0.0.9", b"ID"):
        passes += 1
    assert passes == 16


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([], [(b"via", b"1.1 hotproxy"), (b"date", SUNDAY)]),
        (
            [(b"Date", b"x"), (b"Server", b"nginx"), (b"Via", b"1.1 y")],
            [(b"Date", b"x"), (b"Server", b"nginx"), (b"via", b"1.1 y, 1.1 hotproxy")],
        ),
    ],
)
def test_responses(sent: list[tuple[bytes, bytes]], received: list[tuple[bytes, bytes]]) -> None:
    head = ResponseHead(200, b"OK", HTTP_1_1, Headers(sent))
    forwarding.encode_headers(head, WALL_S)
    assert list(head.headers) == received


def test_an_answer_of_our_own() -> None:
    head = forwarding.local_head(503, b"no healthy upstream", WALL_S, [(b"location", b"/")])
    assert (head.status, head.phrase, head.framing, head.content_length) == (503, b"Service Unavailable", LENGTH, 19)
    assert list(head.headers) == [
        (b"location", b"/"),
        (b"content-type", b"text/plain"),
        (b"date", SUNDAY),
        (b"server", b"hotproxy"),
    ]


def test_an_answer_of_our_own_without_a_body() -> None:
    empty, no_content = forwarding.local_head(404, b"", WALL_S), forwarding.local_head(204, b"", WALL_S)
    assert (empty.framing, empty.content_length, no_content.framing) == (LENGTH, 0, NO_BODY)
    assert not empty.headers.has(b"content-type")


@pytest.mark.parametrize(
    ("value", "allowed", "left"),
    [
        (b"websocket", {b"websocket"}, b"websocket"),
        (b"WebSocket", {b"websocket"}, b"WebSocket"),
        (b"h2c", {b"websocket"}, b""),
        (b"h2c, websocket", {b"websocket"}, b"websocket"),
        (b"foo/2, bar", {b"foo", b"bar"}, b"foo/2, bar"),
        (b"websocket", set(), b""),
        (b"", {b"websocket"}, b""),
    ],
)
def test_upgrades_that_a_route_allows(value: bytes, allowed: set[bytes], left: bytes) -> None:
    assert forwarding.allowed_upgrade(value, frozenset(allowed)) == left


@pytest.mark.parametrize(
    ("chosen", "offered", "fine"),
    [
        (b"websocket", b"websocket", True),
        (b"WebSocket", b"h2c, websocket", True),
        (b"a, b", b"b,a", True),
        (b"h2c", b"websocket", False),
        (b"websocket, h2c", b"websocket", False),
        (b"", b"websocket", False),
    ],
)
def test_an_origin_may_switch_only_to_what_was_offered(chosen: bytes, offered: bytes, fine: bool) -> None:
    assert forwarding.was_offered(chosen, offered) is fine


@pytest.mark.parametrize("status", sorted(forwarding.BODILESS))
def test_an_answer_of_our_own_without_a_body_by_its_status(status: int) -> None:
    head = forwarding.local_head(status, b"text", 0.0)
    assert (head.content_length, head.headers.has(b"content-type")) == (0, False)


@pytest.mark.parametrize(
    ("peer", "host"),
    [("10.0.0.1:1234", b"10.0.0.1"), ("[::1]:1234", b"::1"), ("", b""), ("/run/a.sock", b""), ("@a:1", b"")],
)
def test_the_address_of_a_client(peer: str, host: bytes) -> None:
    assert forwarding.client_host(peer) == host


def test_request_ids_are_uuids_of_version_4() -> None:
    random_ = random.Random(1)
    ids = {forwarding.new_request_id(random_) for _ in range(1000)}
    parsed = [uuid.UUID(text.decode()) for text in ids]
    assert len(ids) == 1000
    assert {(value.version, value.variant) for value in parsed} == {(4, uuid.RFC_4122)}
    assert all(str(value).encode() in ids for value in parsed)
