"""Heads as records: what moves with a stream."""

from __future__ import annotations

import msgpack
import pytest

from hotproxy.http.codec import CHUNKED, HTTP_1_0, HTTP_1_1, LENGTH, RequestHead, ResponseHead
from hotproxy.http.headers import Headers

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
