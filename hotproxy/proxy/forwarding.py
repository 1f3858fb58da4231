"""What becomes of headers on their way through: pure rules, no I/O.

No hop in front of hotproxy is trusted, unless the listener says how many are (`trusted_hops`): every client is what
Envoy calls an external one at the edge (`use_remote_address: true`, `preserve_external_request_id: false`):

    towards upstream     via                      "1.1 hotproxy" appended, with the version that was received
                         x-forwarded-for          the client's address, replaced; removed for a unix socket; with
                                                  trusted hops what they say, and the last of them appended
                         x-forwarded-proto        replaced; with trusted hops theirs
                         x-forwarded-client-cert  as `client_certificate` says: replaced or removed, by default
                         x-envoy-*                removed
                         x-request-id             always a new one (a UUID, version 4)
                         x_forwarded_for …        removed, as all fields that only an underscore tells from these or
                                                  from the framing: CGI, WSGI, PHP and others see no difference
                         proxy                    removed: CGI makes HTTP_PROXY of it, and the origin's own requests
                                                  would go where the client likes (CVE-2016-5385)
                         early-data               kept (RFC 8470 section 5.1: an intermediary must not remove it); no
                                                  early data is accepted here, so it is never added
    towards downstream   via                      "1.1 hotproxy" appended
                         date                     added when the origin sent none (RFC 9110 section 6.6.1)
                         server                   the origin's, untouched; "hotproxy" on our own answers
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from hotproxy.config.model import ALWAYS_FORWARD_ONLY, ForwardedCertificate
from hotproxy.errors import Reason, Side
from hotproxy.http.codec import HTTP_1_0, HTTP_1_1, HTTP_2, LENGTH, NO_BODY, RequestHead, ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.proxy.client_certificate import DEFAULT, forward_certificate
from hotproxy.telemetry.tls_info import TlsInfo

_VIA: Final = {HTTP_1_0: b"1.0 hotproxy", HTTP_1_1: b"1.1 hotproxy", HTTP_2: b"2 hotproxy"}
# 16 passes through hotproxy: chains of three or four are in use; a cluster that points at its own listener would
# otherwise run in circles until the head is too large or the descriptors are used up.
_MAX_PASSES: Final = 16
LOOP_DETECTED: Final = Reason(Side.LOCAL, 508, "-", "via_loop", body="request loop detected")

_NEVER_IMITATED: Final = (b"content-length", b"transfer-encoding", b"x-envoy-", b"x-forwarded-", b"x-request-id")

# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5: an answer of our own with this status has no content.
BODILESS: Final = frozenset((204, 205, 304))

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# The first two bits of the 17th digit are the variant of RFC 9562, section 4.1; the 13th digit is the version.
_VARIANT: Final = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}


def decode_headers(
    head: RequestHead,
    client_host: bytes,
    request_id: bytes,
    tls: TlsInfo | None = None,
    certificate: ForwardedCertificate = DEFAULT,
) -> bool:
    """Make a client's request one of ours, in place. False: it has been here too often (LOOP_DETECTED)."""
    headers = head.headers
    headers.remove_prefixed(b"x-envoy-")
    headers.remove_lookalikes(_NEVER_IMITATED)
    if tls is None and certificate.details != ALWAYS_FORWARD_ONLY:
        headers.remove(b"x-forwarded-client-cert")
    else:
        forward_certificate(headers, tls, certificate)
    headers.remove(b"proxy")
    if client_host:
        headers.set(b"x-forwarded-for", client_host)
    else:
        headers.remove(b"x-forwarded-for")
    headers.set(b"x-forwarded-proto", b"http" if tls is None else b"https")
    headers.set(b"x-request-id", request_id)
    return _append_via(headers, head.version)


def encode_headers(head: ResponseHead, wall_s: float) -> None:
    """Make an origin's final response one of ours, in place."""
    headers = head.headers
    _append_via(headers, head.version)
    if not headers.has(b"date"):
        headers.add(b"date", http_date(int(wall_s)))


def local_head(status: int, body: bytes, wall_s: float, extra: Iterable[tuple[bytes, bytes]] = ()) -> ResponseHead:
    """The head of an answer of our own, with Envoy's fields in Envoy's order; the codec writes the length."""
    headers = Headers(extra)
    if status in BODILESS:
        body = b""
    if body and not headers.has(b"content-type"):
        headers.add(b"content-type", b"text/plain")
    headers.add(b"date", http_date(int(wall_s)))
    headers.add(b"server", b"hotproxy")
    framing = NO_BODY if status in (204, 304) else LENGTH
    return ResponseHead(status, _PHRASES.get(status, b""), HTTP_1_1, headers, framing, len(body))


def allowed_upgrade(value: bytes, allowed: frozenset[bytes]) -> bytes:
    """Of an Upgrade field's protocols those that the route allows; b"" if none is, and the field goes."""
    protocols = [protocol.strip() for protocol in value.split(b",")]
    return b", ".join([protocol for protocol in protocols if protocol.lower().partition(b"/")[0] in allowed])


def was_offered(chosen: bytes, offered: bytes) -> bool:
    """May an origin switch to these protocols of its Upgrade field (RFC 9110 section 7.8)? `offered`: the request's."""
    allowed = {protocol.strip().lower() for protocol in offered.split(b",")}
    return all(protocol.strip().lower() in allowed for protocol in chosen.split(b","))


def client_host(peer: str) -> bytes:
    """The address without its port and brackets, for x-forwarded-for; b"" for a unix socket."""
    host, colon, port = peer.rpartition(":")
    if not colon or not port.isdigit() or host.startswith(("/", "@", "./")):
        return b""
    return host.strip("[]").encode()


def new_request_id(random_: random.Random) -> bytes:
    """A UUID of version 4 as text."""
    text = random_.getrandbits(128).to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}".encode()


@lru_cache(maxsize=2)
def http_date(wall_s: int) -> bytes:
    """IMF-fixdate (RFC 9110 section 5.6.7), made once a second."""
    now = time.gmtime(wall_s)
    return (
        f"{_DAYS[now.tm_wday]}, {now.tm_mday:02} {_MONTHS[now.tm_mon - 1]} {now.tm_year} "
        f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} GMT"
    ).encode()


def _append_via(headers: Headers, version: int) -> bool:
    via = headers.get_all(b"via")
    if not via:
        headers.add(b"via", _VIA[version])
        return True
    joined = b", ".join(via)
    headers.set(b"via", joined + b", " + _VIA[version])
    return joined.count(b" hotproxy") < _MAX_PASSES
