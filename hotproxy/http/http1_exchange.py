"""What the two codecs of one exchange must have in common between two turns, if what was loaded is to be believed.

Each codec has checked its own record. But a record whose parts contradict each other would be found out in the middle
of a message, where nothing is left but to break it off: so it is refused while another process has the connection.
"""

from __future__ import annotations

from hotproxy.http.codec import CHUNKED, HTTP_1_1, LENGTH, NO_BODY, UNTIL_CLOSE, RequestHead
from hotproxy.http.headers import Headers
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec


def check_fields(*parts: bytes, fields: Headers | None = None) -> None:
    """What would split a head when it is sent."""
    text = b"".join(parts) + b"".join([name + value for name, value in fields or ()])
    if b"\r" in text or b"\n" in text or b"\0" in text:
        raise ValueError("CR, LF or NUL inside a head")


def check_request(server: Http1ServerCodec, head: RequestHead, ended: bool, held_bytes: int | None) -> None:
    """The request so far. `ended`: all of it has been passed on; `held_bytes`: of its body, None when not all is held.

    ValueError for a contradiction, as in the others here.
    """
    check_fields(head.method, head.target, head.upgrade, fields=head.headers)
    body = server.receiving
    if head.framing not in (NO_BODY, LENGTH, CHUNKED) or body.framing != head.framing:
        raise ValueError("the request's body is not delimited as its head says")
    if head.content_length < 0 or (head.framing != LENGTH and head.content_length):
        raise ValueError("the request's head has an impossible length")
    if server.is_raw:
        if not ended:
            raise ValueError("a tunnel behind a request that has not ended")
    elif ended != server.is_complete or server.is_between_requests:
        raise ValueError("the request has not come as far as the stream believes")
    if server.answering_head != (head.method == b"HEAD"):
        raise ValueError("the codec answers another method")
    if head.framing == LENGTH and (body.remaining > head.content_length or (body.remaining == 0) != ended):
        raise ValueError("the request's body has another length than announced")
    if held_bytes is not None and held_bytes != _received(head, body.remaining, held_bytes):
        raise ValueError("what is held of the request's body is not what has come of it")


def check_exchange(
    server: Http1ServerCodec, client: Http1ClientCodec, head: RequestHead, ended: bool, started: bool, raw: bool
) -> None:
    """The request on its way to an endpoint, and the response. `started`: its final head has been passed on."""
    if client.is_raw != raw or server.is_raw != raw:
        raise ValueError("only one side is a tunnel")
    if raw:
        return
    if client.request_sent != ended or client.awaits_head == started or not client.is_answering:
        raise ValueError("the exchange has not come as far as the stream believes")
    if client.to_head != (head.method == b"HEAD") or client.upgrade_wanted != bool(head.upgrade):
        raise ValueError("the codec has sent another request")
    out = client.sending
    if out.framing != head.framing or (head.framing == LENGTH and out.remaining != server.receiving.remaining):
        raise ValueError("the endpoint was promised another body")
    if started:
        _check_response(server, client)


def _check_response(server: Http1ServerCodec, client: Http1ClientCodec) -> None:
    """Some of it is still to come; a response without a body would be over."""
    body, out = client.receiving, server.sending
    if server.is_without_body or body.framing == NO_BODY:
        raise ValueError("a response without a body that has not ended")
    if body.framing == LENGTH:
        if out.framing != LENGTH or not 0 < body.remaining == out.remaining:
            raise ValueError("the client was promised another length")
    elif out.framing != (CHUNKED if server.client_version == HTTP_1_1 else UNTIL_CLOSE):
        raise ValueError("the client was promised another framing")


def _received(head: RequestHead, remaining: int, chunked_bytes: int) -> int:
    """Of the request's body; of a chunked one nobody knows."""
    if head.framing == CHUNKED:
        return chunked_bytes
    return head.content_length - remaining
