"""What a head means once its bytes are known to be valid: target, Host, framing, persistence, and what is hop-by-hop.

Every rule here keeps two parties from reading the same bytes differently. Where RFC 9112 lets a recipient repair
something (merge equal lengths, prefer Transfer-Encoding), it is refused instead: a repaired message is only as safe
as the guess of whoever looked at it before us.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from hotproxy.http.codec import (
    CHUNKED,
    HTTP_1_0,
    HTTP_1_1,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    Violation,
)
from hotproxy.http.headers import Headers
from hotproxy.http.syntax import MAX_FIELDS, MAX_LENGTH, TOKEN

# Never forwarded (RFC 9110 section 7.6.1). `Trailer` is not among them: trailers are forwarded.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
_MEANT_FOR_US: Final = HOP_BY_HOP | {b"expect"}
# What a hotproxy adds to a message does not count towards MAX_FIELDS, once each: the next hotproxy of a chain would
# refuse what the first one has let through.
UNCOUNTED: Final = HOP_BY_HOP | {b"date", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id"}

# A nominated field is removed, so nominating these would change what a message says or who is believed to have sent it
# ("hop-by-hop header abuse"). RFC 9110 section 7.6.1 forbids senders to nominate fields meant for all recipients;
# a message that does it is refused and not repaired.
NEVER_NOMINATED: Final = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"date",
        b"early-data",
        b"expect",
        b"forwarded",
        b"host",
        b"location",
        b"max-forwards",
        b"origin",
        b"range",
        b"set-cookie",
        b"transfer-encoding",
        b"via",
        b"x-real-ip",
        b"x-request-id",
    )
)
_NEVER_NOMINATED_PREFIXES: Final = (b"x-forwarded-", b"x-envoy-")

# uri-host [ ":" port ] of RFC 3986, without what nobody needs and parsers disagree about: sub-delims ("a,b" is two
# hosts merged), percent-encoding, an empty host, an empty port, userinfo.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]++|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
_PLAIN_HOST: Final = re.compile(rb"[A-Za-z0-9._~-]++(?::[0-9]{1,4})?")  # nearly all, at half the price
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)(.*)")

_ONE_KEEP_ALIVE: Final = frozenset((b"keep-alive",))
_ONE_CLOSE: Final = frozenset((b"close",))
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


def request_head(
    method: bytes, target: bytes, version: int, fields: list[tuple[bytes, bytes]]
) -> RequestHead | Violation:
    """The head as the rest of the proxy sees it. The arguments have valid syntax; `fields` is taken over."""
    lower = [name.lower() for name, _ in fields]
    if len(lower) > MAX_FIELDS and len(lower) - len(UNCOUNTED.intersection(lower)) > MAX_FIELDS:
        return Violation("http1.too_many_fields", 431)

    hosts = lower.count(b"host")
    if hosts == 1:
        if not valid_host(fields[lower.index(b"host")][1]):
            return Violation("http1.invalid_host")
    elif hosts:
        return Violation("http1.repeated_host")
    elif version == HTTP_1_1:
        return Violation("http1.missing_host")

    if method == b"CONNECT":  # a forward proxy's business: 501 and not 405, which would owe an Allow field
        return Violation("http1.connect_refused", 501)
    if target[0] != 0x2F:  # "/": origin-form, all but always
        authority, found = _other_target(method, target)
        if isinstance(found, Violation):
            return found
        target = found
        if authority:
            _replace_host(authority, fields, lower)

    special = _MEANT_FOR_US.intersection(lower)
    if not special:
        return RequestHead(method, target, version, Headers.from_parsed(fields, lower), keep_alive=version == HTTP_1_1)

    framing, length = NO_BODY, 0
    if b"content-length" in special or b"transfer-encoding" in special:
        declared = _framing(version, fields, lower)
        if isinstance(declared, Violation):
            return declared
        framing, length = declared

    options = _NO_OPTIONS
    if b"connection" in special:
        nominated = _connection_options(fields, lower)
        if isinstance(nominated, Violation):
            return nominated
        options = nominated

    upgrade = b""
    # A body and an upgrade together leave open where the new protocol begins; a server may ignore the wish
    # (RFC 9110 section 7.8), and must in HTTP/1.0.
    if b"upgrade" in options and version == HTTP_1_1 and (framing == NO_BODY or (framing == LENGTH and not length)):
        upgrade = _joined(b"upgrade", fields, lower)

    if b"te" in options and not upgrade and version == HTTP_1_1 and _takes_trailers(fields, lower):
        fields[lower.index(b"te")] = (b"TE", b"trailers")
        special -= {b"te"}
        options -= {b"te"}

    expect_continue = False
    # In HTTP/1.0 it must be ignored (RFC 9110 section 10.1.1), so it is not forwarded either: the origin would obey it.
    if b"expect" in special and version == HTTP_1_1:
        expect_continue = framing != NO_BODY and _joined(b"expect", fields, lower).lower() == b"100-continue"
        special -= {b"expect"}

    return RequestHead(
        method,
        target,
        version,
        _without(special | options, fields, lower),
        framing,
        length,
        _keep_alive(version, options),
        upgrade,
        expect_continue,
    )


def response_head(
    status: int, phrase: bytes, version: int, fields: list[tuple[bytes, bytes]], to_head: bool
) -> ResponseHead | Violation:
    """The head as the rest of the proxy sees it; `to_head`: it answers a HEAD request. `fields` is taken over."""
    lower = [name.lower() for name, _ in fields]
    if len(lower) > MAX_FIELDS and len(lower) - len(UNCOUNTED.intersection(lower)) > MAX_FIELDS:
        return Violation("http1.too_many_fields", 431)
    special = HOP_BY_HOP.intersection(lower)

    options = _NO_OPTIONS
    if b"connection" in special:
        nominated = _connection_options(fields, lower)
        if isinstance(nominated, Violation):
            return nominated
        options = nominated

    without_body = to_head or status == 304
    framing, length = NO_BODY if without_body else UNTIL_CLOSE, 0
    if b"content-length" in special or b"transfer-encoding" in special:
        declared = _framing(version, fields, lower)
        if isinstance(declared, Violation):
            return declared
        framing, length = declared
    if status < 200 or status == 204:
        # RFC 9112 section 6.1 forbids both. "Content-Length: 0" is sent all the same and harms nobody; an origin that
        # announces more may also send it, and those bytes would be read as the answer to somebody else's request.
        if framing == CHUNKED or length:
            return Violation("http1.body_not_allowed")
        framing = NO_BODY

    keep_alive = _keep_alive(version, options) and framing != UNTIL_CLOSE
    upgrade = _joined(b"upgrade", fields, lower) if b"upgrade" in options else b""
    headers = _without(special | options, fields, lower)
    return ResponseHead(status, phrase, version, headers, framing, length, keep_alive, upgrade)


def valid_host(value: bytes) -> bool:
    """Is this a host, or host:port, that every recipient reads the same way?"""
    if _PLAIN_HOST.fullmatch(value) is not None:
        return True
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    literal, port = match.groups()
    if port is not None and int(port) > 65535:
        return False
    if literal is not None:
        try:
            ipaddress.IPv6Address(literal.decode("ascii"))
        except ValueError:
            return False
    return True


def _other_target(method: bytes, target: bytes) -> tuple[bytes, bytes | Violation]:
    """(authority, origin-form or "*") of a target that does not begin with "/" (RFC 9112 sections 3.2.2 to 3.2.4)."""
    if target == b"*":
        return b"", target if method == b"OPTIONS" else Violation("http1.invalid_target")
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        return b"", Violation("http1.invalid_target")
    authority, rest = match.groups()
    if not valid_host(authority):
        return b"", Violation("http1.invalid_target_authority")
    if not rest:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, rest if rest[0] == 0x2F else b"/" + rest


def _replace_host(authority: bytes, fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> None:
    """RFC 9112 section 3.2.2: a proxy ignores the received Host and sends the target's authority instead."""
    if b"host" in lower:
        index = lower.index(b"host")
        fields[index] = (fields[index][0], authority)
    else:
        fields.insert(0, (b"Host", authority))
        lower.insert(0, b"host")


def _framing(version: int, fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> tuple[int, int] | Violation:
    """(framing, length) of a message that declares one (RFC 9112 section 6)."""
    lengths = lower.count(b"content-length")
    if b"transfer-encoding" in lower:
        if lengths:
            return Violation("http1.conflicting_framing")
        if version == HTTP_1_0:  # section 6.1: "MUST treat the message as if the framing is faulty"
            return Violation("http1.transfer_encoding_in_http10")
        return _transfer_encoding(_joined(b"transfer-encoding", fields, lower))
    if lengths > 1:
        # RFC 9110 section 8.6 allows to merge equal ones. No client sends two; whoever did, and whoever let it pass,
        # may have looked at one of them only.
        return Violation("http1.repeated_content_length")
    value = fields[lower.index(b"content-length")][1]
    if not value.isdigit():  # bytes: ASCII digits only, at least one; no sign, comma, space, 0x
        return Violation("http1.invalid_content_length")
    if len(value) > 19 or int(value) > MAX_LENGTH:
        return Violation("http1.content_length_overflow")
    return LENGTH, int(value)


def _transfer_encoding(value: bytes) -> tuple[int, int] | Violation:
    """Exactly one `chunked` (RFC 9112 section 6.1): we decode nothing else, and forward no coding unknown to us."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if codings == [b"chunked"]:
        return CHUNKED, 0
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in codings]
    if any(TOKEN.fullmatch(name) is None for name in names):
        return Violation("http1.invalid_transfer_encoding")
    if b"chunked" in names[:-1] or codings[-1] != names[-1] == b"chunked":  # repeated, not final, or with parameters
        return Violation("http1.invalid_transfer_encoding")
    return Violation("http1.unsupported_transfer_encoding", 501)


def _connection_options(fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> frozenset[bytes] | Violation:
    """The options of all Connection fields, in lower case (RFC 9110 section 7.6.1)."""
    value = _joined(b"connection", fields, lower).lower()
    if value == b"keep-alive":
        return _ONE_KEEP_ALIVE
    if value == b"close":
        return _ONE_CLOSE
    options = []
    for part in value.split(b","):
        option = part.strip(b" \t")
        if not option:  # empty list elements are allowed (RFC 9110 section 5.6.1)
            continue
        if TOKEN.fullmatch(option) is None:
            return Violation("http1.invalid_connection")
        if option in NEVER_NOMINATED or option.startswith(_NEVER_NOMINATED_PREFIXES):
            return Violation("http1.forbidden_nomination")
        options.append(option)
    return frozenset(options)


def _takes_trailers(fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> bool:
    """Does the client want trailers (RFC 9110 section 10.1.4)? Those are forwarded, so that may be told to the origin.

    The transfer codings beside it are between the client and us. Two TE fields are not worth an answer.
    """
    if lower.count(b"te") != 1:
        return False
    value = fields[lower.index(b"te")][1].lower()
    return value == b"trailers" or b"trailers" in [part.strip(b" \t") for part in value.split(b",")]


def _keep_alive(version: int, options: frozenset[bytes]) -> bool:
    """RFC 9112 section 9.3. HTTP/1.0 persists only on request: we are its origin, not a proxy it may be blind to."""
    if b"close" in options:
        return False
    return version == HTTP_1_1 or b"keep-alive" in options


def _joined(name: bytes, fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> bytes:
    """The values of all fields of this name, as one list (RFC 9110 section 5.3); b"" without any."""
    if lower.count(name) == 1:
        return fields[lower.index(name)][1]
    return b", ".join([field[1] for field, other in zip(fields, lower, strict=True) if other == name])


def _without(names: frozenset[bytes], fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> Headers:
    """The fields that go on; takes the others out of both lists."""
    # Intersected first: a head may nominate thousands of names, but it has a hundred fields at most.
    for name in names.intersection(lower):
        while name in lower:
            index = lower.index(name)
            del fields[index], lower[index]
    return Headers.from_parsed(fields, lower)
