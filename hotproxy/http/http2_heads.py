"""Heads between HTTP/2 and the rest of the proxy: what a field list means, and what may not be in it.

RFC 9113 sections 8.2 and 8.3. As in HTTP/1 everything that two parties could read differently is refused and not
repaired, because the next hop may speak HTTP/1, where a name with a colon or a value with CR LF is another request.

    :method :scheme :authority :path    each once at most, before all fields; method, scheme and path are needed
    host                                must say the same as :authority, or stand in for it
    cookie                              joined into one field, "; " between (section 8.2.3)
    te                                  "trailers" and nothing else
    connection, keep-alive, proxy-connection, transfer-encoding, upgrade        refused (section 8.2.2)
"""

from __future__ import annotations

import re
from typing import Final

from hotproxy.http.body import kept_trailers
from hotproxy.http.codec import CHUNKED, HTTP_2, LENGTH, NO_BODY, RequestHead, ResponseHead, Violation
from hotproxy.http.headers import Headers
from hotproxy.http.hpack_fields import encode_fields, encode_status
from hotproxy.http.rules import UNCOUNTED, valid_host
from hotproxy.http.syntax import MAX_FIELDS, MAX_LENGTH, MAX_REQUEST_LINE_BYTES, TOKEN

# A method that speaks of its content owes a length even where there is none (RFC 9110 section 8.6).
_EXPECTS_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))
CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
_SPECIAL: Final = frozenset((b"content-length", b"cookie", b"expect", b"host", b"te", *CONNECTION_SPECIFIC))

# One look at all names, and one at all values, each closed by LF, which is in neither. A value has no white space
# around it (section 8.2.1); inside it HTTP/1 allows the same bytes.
_NAMES: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]++\n)*+")
_VALUES: Final = re.compile(rb"(?:(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?\n)*+")
_PATH: Final = re.compile(rb'/[!"$-~]*+')


def read_request(fields: list[tuple[bytes, bytes]], ended: bool) -> RequestHead | Violation:
    """The head as the rest of the proxy sees it; `ended`: no body follows."""
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name in pseudo:
            return Violation("http2.repeated_pseudo_header")
        pseudo[name] = value
        count += 1
    regular = fields[count:]
    lower = [name for name, _ in regular]
    violation = field_violation(regular) or _pseudo_violation(pseudo)
    if violation is not None:
        return violation
    method, path = pseudo[b":method"], pseudo[b":path"]
    authority = pseudo.get(b":authority")
    special = _SPECIAL.intersection(lower)
    length = -1
    if special:
        if not special.isdisjoint(CONNECTION_SPECIFIC):
            return Violation("http2.connection_specific_field")
        if b"cookie" in special and lower.count(b"cookie") > 1:
            _join_cookies(regular, lower)
        if b"host" in special:
            found = _host(regular, lower, authority)
            if isinstance(found, Violation):
                return found
            authority = found
        if b"te" in special and (lower.count(b"te") > 1 or _value(regular, lower, b"te").lower() != b"trailers"):
            return Violation("http2.invalid_te")
        if b"content-length" in special:
            declared = _content_length(regular, lower)
            if isinstance(declared, Violation):
                return declared
            length = declared
    if authority is None:
        return Violation("http2.missing_authority")
    if not valid_host(authority):
        return Violation("http2.invalid_authority")
    if len(lower) > MAX_FIELDS and len(lower) - len(UNCOUNTED.intersection(lower)) > MAX_FIELDS:
        return Violation("http2.too_many_fields", 431)
    if ended and length > 0:
        return Violation("http2.content_length_mismatch")
    regular.insert(0, (b"host", authority))
    lower.insert(0, b"host")
    if length < 0 and ended and method in _EXPECTS_CONTENT:
        length = 0
    framing = LENGTH if length >= 0 else NO_BODY if ended else CHUNKED
    expects = b"expect" in special and not ended and _value(regular, lower, b"expect").lower() == b"100-continue"
    headers = Headers(regular)
    return RequestHead(method, path, HTTP_2, headers, framing, max(0, length), True, b"", expects)


def read_trailers(fields: list[tuple[bytes, bytes]]) -> Headers | Violation:
    """A request's trailer section; empty when nothing of it is forwarded."""
    if any(name[:1] == b":" for name, _ in fields):
        return Violation("http2.pseudo_header_in_trailers")
    violation = field_violation(fields)
    if violation is not None:
        return violation
    if len(fields) > MAX_FIELDS:
        return Violation("http2.too_many_fields", 431)
    kept = kept_trailers(fields)
    return Violation("http2.forbidden_trailer") if kept is None else Headers(kept)


def field_violation(fields: list[tuple[bytes, bytes]]) -> Violation | None:
    """What is wrong with the names and values of what follows the pseudo-header fields."""
    names = b"".join([name + b"\n" for name, _ in fields])
    values = b"".join([value + b"\n" for _, value in fields])
    count = len(fields)
    if _NAMES.fullmatch(names) is not None and names.count(b"\n") == count and values.count(b"\n") == count:
        return None if _VALUES.fullmatch(values) is not None else Violation("http2.invalid_field_value")
    for name, _ in fields:
        if name[:1] == b":":
            return Violation("http2.pseudo_header_after_field" if name in _PSEUDO else "http2.unknown_pseudo_header")
        if name != name.lower():
            return Violation("http2.uppercase_field_name")
        if TOKEN.fullmatch(name) is None:
            return Violation("http2.invalid_field_name")
    return Violation("http2.invalid_field_value")


def _pseudo_violation(pseudo: dict[bytes, bytes]) -> Violation | None:
    if not pseudo.keys() <= _PSEUDO:
        return Violation("http2.unknown_pseudo_header")
    method = pseudo.get(b":method")
    if method is None:
        return Violation("http2.missing_method")
    if TOKEN.fullmatch(method) is None:
        return Violation("http2.invalid_method")
    if method == b"CONNECT":  # a forward proxy's business, as in HTTP/1
        return Violation("http2.connect_refused", 501)
    scheme = pseudo.get(b":scheme")
    if scheme is None:
        return Violation("http2.missing_scheme")
    if scheme not in (b"http", b"https"):  # others are a gateway's business; and "http:/x" is no scheme
        return Violation("http2.invalid_scheme")
    path = pseudo.get(b":path")
    if path is None:
        return Violation("http2.missing_path")
    if _PATH.fullmatch(path) is None and not (path == b"*" and method == b"OPTIONS"):
        return Violation("http2.invalid_path")
    if len(path) > MAX_REQUEST_LINE_BYTES:
        return Violation("http2.path_too_long", 414)
    return None


def _join_cookies(fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> None:
    joined = b"; ".join([value for name, value in fields if name == b"cookie"])
    index = lower.index(b"cookie")
    for other in range(len(lower) - 1, index, -1):
        if lower[other] == b"cookie":
            del lower[other], fields[other]
    fields[index] = (b"cookie", joined)


def _host(fields: list[tuple[bytes, bytes]], lower: list[bytes], authority: bytes | None) -> bytes | Violation:
    """Takes the host field out; section 8.3.1: one that differs from :authority makes the request malformed."""
    if lower.count(b"host") > 1:
        return Violation("http2.repeated_host")
    index = lower.index(b"host")
    host = fields[index][1]
    if authority is not None and host.lower() != authority.lower():
        return Violation("http2.host_differs")
    del fields[index], lower[index]
    return host if authority is None else authority


def _content_length(fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> int | Violation:
    """Takes the field out. The rules of HTTP/1: digits, once."""
    if lower.count(b"content-length") > 1:
        return Violation("http2.repeated_content_length")
    index = lower.index(b"content-length")
    value = fields[index][1]
    if not value.isdigit():
        return Violation("http2.invalid_content_length")
    if len(value) > 19 or int(value) > MAX_LENGTH:
        return Violation("http2.content_length_overflow")
    del fields[index], lower[index]
    return int(value)


def _value(fields: list[tuple[bytes, bytes]], lower: list[bytes], name: bytes) -> bytes:
    return fields[lower.index(name)][1]


# -- sending


def response_block(head: ResponseHead) -> bytes:
    """A response's field block. What belongs to an HTTP/1 connection was taken off by the codec that received it."""
    block = encode_status(head.status) + encode_fields(head.headers)
    if head.framing == LENGTH and head.status >= 200 and head.status != 204:
        block += encode_fields(((b"content-length", b"%d" % head.content_length),))
    return block


def trailer_block(trailers: Headers) -> bytes:
    return encode_fields(trailers)
