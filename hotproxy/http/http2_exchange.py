"""What a stream of HTTP/2 and the codec towards its endpoint must have in common between two turns: see
`http1_exchange`, which is the same for a client of HTTP/1.
"""

from __future__ import annotations

from hotproxy.http.codec import CHUNKED, HTTP_2, LENGTH, NO_BODY, RequestHead
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_exchange import check_fields
from hotproxy.http.http2_stream import UNKNOWN, Http2Stream


def check_request(stream: Http2Stream, head: RequestHead, ended: bool, started: bool, held_bytes: int | None) -> None:
    """The request so far. `ended`: all of it has been passed on; `started`: the final head of the answer has;
    `held_bytes`: of its body, None when not all is held.

    ValueError for a contradiction, as in the other one here.
    """
    check_fields(head.method, head.target, head.upgrade, fields=head.headers)
    if head.version != HTTP_2 or head.upgrade or head.framing not in (NO_BODY, LENGTH, CHUNKED):
        raise ValueError("the request's head is not one of HTTP/2")
    if stream.remote_ended != ended or stream.head_sent != started or stream.ending:
        raise ValueError("the exchange has not come as far as the stream believes")
    if stream.answering_head != (head.method == b"HEAD"):
        raise ValueError("the codec answers another method")
    if head.framing != LENGTH:
        if stream.remaining != UNKNOWN or head.content_length or (head.framing == NO_BODY and not ended):
            raise ValueError("the request's body is not delimited as its head says")
        received = held_bytes if head.framing == CHUNKED else 0
    else:
        if not 0 <= stream.remaining <= head.content_length or (ended and stream.remaining):
            raise ValueError("the request's body has another length than announced")
        received = head.content_length - stream.remaining
    if held_bytes is not None and held_bytes != received:
        raise ValueError("what is held of the request's body is not what has come of it")


def check_exchange(
    stream: Http2Stream, client: Http1ClientCodec, head: RequestHead, ended: bool, started: bool
) -> None:
    """The request on its way to an endpoint, and the response."""
    if client.is_raw or client.upgrade_wanted:
        raise ValueError("a tunnel that nobody has asked for")
    if client.request_sent != ended or client.awaits_head == started or not client.is_answering:
        raise ValueError("the exchange has not come as far as the stream believes")
    if client.to_head != (head.method == b"HEAD"):
        raise ValueError("the codec has sent another request")
    out = client.sending
    if out.framing != head.framing or (head.framing == LENGTH and out.remaining != stream.remaining):
        raise ValueError("the endpoint was promised another body")
    if not started:
        return
    body = client.receiving
    if stream.without_body or body.framing == NO_BODY:
        raise ValueError("a response without a body that has not ended")
    if (stream.to_send if stream.to_send != UNKNOWN else 0) != (body.remaining if body.framing == LENGTH else 0):
        raise ValueError("the client was promised another length")
