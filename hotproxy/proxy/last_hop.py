"""Where a TRACE or an OPTIONS ends: Max-Forwards counts the hops that it may still take (RFC 9110 section 7.6.2).

TRACE is forwarded like any method (Envoy and HAProxy do so too; a route with `methods` keeps it out), but never with a
body. Whoever answers it gives back the request as it was received; our own answer leaves out what a script in a browser
must not get to see: the client's credentials.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hotproxy.errors import Reason, Side, downstream_protocol_error
from hotproxy.http.codec import HTTP_1_1, LENGTH, NO_BODY, RequestHead
from hotproxy.http.headers import Headers

COUNTED_METHODS: Final = frozenset((b"OPTIONS", b"TRACE"))
LAST_HOP: Final = Reason(Side.LOCAL, 200, "-", "max_forwards_reached")
TRACE_WITH_BODY: Final = downstream_protocol_error("trace_with_body")
INVALID_MAX_FORWARDS: Final = downstream_protocol_error("invalid_max_forwards")

# "The recipient's maximum supported value": no chain is that long, and whoever sends more may mean "no limit".
_MOST: Final = 255
_NEVER_REFLECTED: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


class Answer(NamedTuple):
    """What the last hop says: a body, and the fields that describe it."""

    body: bytes
    fields: tuple[tuple[bytes, bytes], ...]


def check(head: RequestHead, received: Headers) -> Answer | Reason | None:
    """Of a request with one of COUNTED_METHODS: its answer, why it is refused, or None: it goes on, counted down.

    `received`: its fields before any became ours."""
    is_trace = head.method == b"TRACE"
    # RFC 9110 section 9.3.8. An origin that does not expect a body there would take it for the next request.
    if is_trace and not (head.framing == NO_BODY or (head.framing == LENGTH and not head.content_length)):
        return TRACE_WITH_BODY
    values = head.headers.get_all(b"max-forwards")
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or not value.isdigit():
        return INVALID_MAX_FORWARDS
    left = min(int(value), _MOST + 1) if len(value) < 10 else _MOST + 1
    if left:
        head.headers.set(b"max-forwards", b"%d" % (left - 1))
        return None
    if is_trace:
        return Answer(_reflected(head, received), ((b"content-type", b"message/http"),))
    return Answer(b"", ())


def _reflected(head: RequestHead, received: Headers) -> bytes:
    version = b"1.1" if head.version == HTTP_1_1 else b"1.0"
    lines = [b"%b %b HTTP/%b" % (head.method, head.target, version)]
    lines += [b"%b: %b" % (name, value) for name, value in received if name.lower() not in _NEVER_REFLECTED]
    return b"\r\n".join(lines) + b"\r\n\r\n"
