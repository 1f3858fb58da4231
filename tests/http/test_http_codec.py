"""Heads as records: what moves with a stream."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from hotproxy.http.codec import CHUNKED, HTTP_1_0, HTTP_1_1, LENGTH, RequestHead, ResponseHead
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec

REQUEST = RequestHead(b"PUT", b"/", HTTP_1_1, Headers([(b"Host", b"a")]), CHUNKED, 0, False, b"websocket", True)
RESPONSE = ResponseHead(200, b"OK", HTTP_1_0, Headers([(b"A", b"\xff")]), LENGTH, 2**62, True, b"h2c")


@pytest.mark.parametrize("head", [REQUEST, RESPONSE], ids=["request", "response"])
def test_a_head_survives_msgpack(head: RequestHead | ResponseHead):
    loaded = type(head).load(msgpack.unpackb(msgpack.packb(head.dump())))
    assert type(loaded) is type(head) and loaded.dump() == head.dump()


@pytest.mark.parametrize("state", [None, [], REQUEST.dump()[:-1], RESPONSE.dump()[:-1], [*REQUEST.dump()[:-1], 1], {}])
@pytest.mark.parametrize("kind", [RequestHead, ResponseHead])
def test_other_shapes_are_refused(kind: type[RequestHead | ResponseHead], state: object):
    with pytest.raises(ValueError):
        kind.load(state)


def test_a_request_is_no_response():
    with pytest.raises(ValueError):
        ResponseHead.load(REQUEST.dump())


CODECS = pytest.mark.parametrize("kind", [Http1ServerCodec, Http1ClientCodec], ids=["server", "client"])


@CODECS
@pytest.mark.parametrize("change", [{"version": 2}, {"version": None}, {"kind": "http2"}, {"version": "1"}])
def test_another_version_or_kind_is_refused(parser: HeadParser, kind: Any, change: dict[str, object]):
    """The connection then stays in the generation that knows it, and drains."""
    with pytest.raises(ValueError, match="version"):
        kind.load(kind(parser).dump() | change)


@CODECS
def test_every_value_of_a_dump_is_looked_at(parser: HeadParser, kind: Any):
    for name in kind(parser).dump():
        for nonsense in (None, "x", -1, 10**30, [], {"framing": 9}):
            with pytest.raises(ValueError):
                kind.load(kind(parser).dump() | {name: nonsense})
        with pytest.raises(ValueError):
            kind.load({other: value for other, value in kind(parser).dump().items() if other != name})
