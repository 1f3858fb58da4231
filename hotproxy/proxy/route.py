"""Which route a request takes: virtual host by authority, then the first route that matches path, method and headers.

Paths are compared normalised (RFC 3986 section 6.2.2): the query is left out, percent-encoded unreserved characters are
decoded, dot segments resolved. `%2F` stays what it is, a character inside a segment, and is never a separator; empty
segments (`//`) are kept, because origins tell them apart. Refused with 400: a path that climbs above the root, and one
with a backslash, which is no character of a URI, and which some origins (and Envoy) take for a slash.

What is *forwarded* is the client's own spelling, byte for byte, as long as it has no dot segments; with dot segments it
is the normalised path, so that the origin cannot resolve them to another place than the route that was chosen.

Thousands of routes cost little: routes are found by exact path and by the prefixes that exist (one dictionary per
length of prefix), and only those that match are put in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.config import model
from hotproxy.http.codec import RequestHead
from hotproxy.net.tls_peer import is_named
from hotproxy.telemetry.tls_info import PeerCertificate, TlsInfo

# RFC 1035 section 2.3.4: a name has at most 255 bytes. Longer ones only match "*": every label costs a look-up.
_MAX_HOST_BYTES: Final = 255
_BACKSLASH: Final = 0x5C
_PERCENT: Final = 0x25
_TRIPLET: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a route does not match: `part` of it ("path", "prefix", "method", "header", "client certificate") wants
    `wanted`.

    For a header, `given` is what the request says, None for nothing.
    """

    part: str
    name: str
    wanted: str
    given: str | None = None


class Route:
    """One route, compiled: texts are bytes, inherited settings are resolved. Times in seconds, 0.0 = no limit."""

    __slots__ = (
        "client_san", "client_subject", "cluster", "config", "direct_response", "headers", "host_rewrite",
        "idle_timeout_s", "methods", "name", "path", "prefix", "prefix_rewrite", "redirect", "timeout_s", "upgrades",
        "virtual_host",
    )  # fmt: skip

    def __init__(self, config: model.Route, virtual_host: str) -> None:
        self.config = config
        self.name = config.name
        self.virtual_host = virtual_host
        self.path = None if config.path is None else config.path.encode()
        self.prefix = (config.prefix or "").encode()
        self.methods = frozenset(method.encode() for method in config.methods)
        self.headers = tuple((name.encode(), value.encode()) for name, value in config.headers)
        self.client_subject = config.client_subject
        self.client_san = config.client_san
        self.cluster = config.cluster
        self.redirect = config.redirect
        self.direct_response = config.direct_response
        self.prefix_rewrite = None if config.prefix_rewrite is None else config.prefix_rewrite.encode()
        self.host_rewrite = None if config.host_rewrite is None else config.host_rewrite.encode()
        self.timeout_s = config.timeout_s
        self.idle_timeout_s = config.idle_timeout_s
        self.upgrades = frozenset(protocol.lower().encode() for protocol in config.upgrades)

    def accepts(self, head: RequestHead, tls: TlsInfo | None) -> bool:
        """Do method, headers and the client's certificate match too?

        A field that came in several lines counts as joined by commas (RFC 9110).
        """
        if self.methods and head.method not in self.methods:
            return False
        for name, value in self.headers:
            values = head.headers.get_all(name)
            if not values or b",".join(values) != value:
                return False
        if self.client_subject is None and not self.client_san:
            return True
        return self._knows(tls.peer if tls is not None else None)

    def _knows(self, peer: PeerCertificate | None) -> bool:
        if peer is None or (self.client_subject is not None and peer.subject != self.client_subject):
            return False
        return not self.client_san or is_named(peer, self.client_san)

    def misfit(self, path: bytes, head: RequestHead) -> Misfit | None:
        """What `accepts` and the look-up by path only answer with no: the first thing that does not fit."""
        if self.path is not None:
            if path != self.path:
                return Misfit("path", "", self.path.decode())
        elif not path.startswith(self.prefix):
            return Misfit("prefix", "", self.prefix.decode())
        if self.methods and head.method not in self.methods:
            return Misfit("method", "", " ".join(sorted(method.decode() for method in self.methods)))
        for name, value in self.headers:
            values = head.headers.get_all(name)
            if not values or b",".join(values) != value:
                given = b",".join(values).decode("latin-1") if values else None
                return Misfit("header", name.decode(), value.decode(), given)
        wanted = [text for text in (self.client_subject, *self.client_san) if text is not None]
        return Misfit("client certificate", "", " ".join(wanted)) if wanted else None

    def rewrite(self, path: bytes, target: bytes) -> bytes:
        """The target to forward, of the normalised `path` and the `target` that `normalise` returned."""
        if self.prefix_rewrite is None or target == b"*":  # `OPTIONS *` asks about the server, not about a path
            return target
        rest = b"" if self.path is not None else path[len(self.prefix) :]
        rewritten = self.prefix_rewrite + rest
        # A target is never empty, nor can it begin with anything but a slash (RFC 9112 section 3.2.1).
        return (rewritten if rewritten.startswith(b"/") else b"/" + rewritten) + _query(target)

    def location(self, path: bytes, target: bytes, authority: bytes, scheme: bytes) -> bytes:
        """Where a redirect leads, an absolute URL built as Envoy's RedirectAction does:

        what the redirect does not set is the request's; a port of its own replaces the request's; the scheme's default
        port goes when the scheme changes; a query inside `path` wins over the request's, and `strip_query` spares it.
        """
        redirect = self.redirect
        assert redirect is not None
        to_scheme = redirect.scheme.encode() if redirect.scheme else scheme
        host, port = _split_authority(authority)
        if redirect.host:
            host, port = redirect.host.encode(), b""
        elif to_scheme != scheme and port == _DEFAULT_PORTS.get(scheme):
            port = b""
        if redirect.port:
            port = str(redirect.port).encode()
        query = b"" if redirect.strip_query else _query(target)
        if redirect.path:
            to_path = redirect.path.encode()
            if b"?" in to_path:
                query = b""
        elif redirect.prefix_rewrite is not None:
            to_path = redirect.prefix_rewrite.encode() + (b"" if self.path is not None else path[len(self.prefix) :])
        else:
            to_path = b"/" if target == b"*" else target.partition(b"?")[0]
        if not host:  # HTTP/1.0 without Host: RFC 9110 section 10.2.2 allows a relative reference
            return to_path + query
        return to_scheme + b"://" + host + (b":" + port if port else b"") + to_path + query


Found = tuple[int, Route]  # the route's number in its virtual host: the lowest wins


class _VirtualHost:
    """The routes of one virtual host, by exact path and by length of prefix."""

    __slots__ = ("_exact", "_prefixes", "config")

    def __init__(self, config: model.VirtualHost) -> None:
        self.config = config
        self._exact: dict[bytes, list[Found]] = {}
        by_length: dict[int, dict[bytes, list[Found]]] = {}
        for number, route_config in enumerate(config.routes):
            route = Route(route_config, config.name)
            if route.path is not None:
                self._exact.setdefault(route.path, []).append((number, route))
            else:
                by_prefix = by_length.setdefault(len(route.prefix), {})
                by_prefix.setdefault(route.prefix, []).append((number, route))
        self._prefixes = sorted(by_length.items())

    def find(self, path: bytes, head: RequestHead, tls: TlsInfo | None) -> Route | None:
        candidates: list[Found] = []
        exact = self._exact.get(path)
        if exact is not None:
            candidates += exact
        size = len(path)
        for length, by_prefix in self._prefixes:
            if length > size:
                break
            found = by_prefix.get(path[:length])
            if found is not None:
                candidates += found
        if len(candidates) > 1:
            candidates.sort(key=_number)
        for _, route in candidates:
            if route.accepts(head, tls):
                return route
        return None


class RouteTable:
    """All virtual hosts of a listener; immutable."""

    __slots__ = ("_any", "_exact", "_suffixes")

    def __init__(self, virtual_hosts: Sequence[model.VirtualHost]) -> None:
        self._exact: dict[bytes, _VirtualHost] = {}
        self._suffixes: dict[bytes, _VirtualHost] = {}  # ".example.com" for "*.example.com"
        self._any: _VirtualHost | None = None
        for config in virtual_hosts:
            host = _VirtualHost(config)
            for domain in config.domains:
                if domain == "*":
                    self._any = host
                elif domain.startswith("*."):
                    self._suffixes[_host_name(domain[1:].encode())] = host
                else:
                    self._exact[_host_name(domain.encode())] = host

    def find(self, authority: bytes, path: bytes, head: RequestHead, tls: TlsInfo | None = None) -> Route | None:
        """The route for the Host field's value and a normalised path; None: the answer is 404, NR."""
        host = self._exact.get(authority) if self._exact else None
        if host is None:
            host = self._by_name(authority) if self._exact or self._suffixes else self._any
        return None if host is None else host.find(path, head, tls)

    def virtual_host(self, authority: bytes) -> model.VirtualHost | None:
        """Whose routes `find` looks at."""
        host = self._by_name(authority)
        return None if host is None else host.config

    def _by_name(self, authority: bytes) -> _VirtualHost | None:
        name = _host_name(authority)
        host = self._exact.get(name)
        if host is None and self._suffixes and len(name) <= _MAX_HOST_BYTES:
            dot = name.find(b".")
            while dot >= 0 and host is None:  # from the left: the longest suffix comes first
                host = self._suffixes.get(name[dot:])
                dot = name.find(b".", dot + 1)
        return self._any if host is None else host


def normalise(target: bytes) -> tuple[bytes, bytes] | None:
    """`(path to match, target to forward)`, see the top of this file; None for a path that is refused."""
    path = target.partition(b"?")[0]
    # Numbers and `find`: `b"x" in bytes` asks whether b"x" is a number, and drops the exception that says no (0.2 us).
    if _BACKSLASH in path:
        return None
    if _PERCENT in path:
        path = _TRIPLET.sub(_decode_unreserved, path)
    if path.find(b"/.") < 0:
        return path, target
    segments: list[bytes] = []
    last = b""
    for last in path.split(b"/")[1:]:
        if last == b"..":
            if not segments:
                return None
            segments.pop()
        elif last != b".":
            segments.append(last)
    if last in (b".", b".."):
        segments.append(b"")
    resolved = b"/" + b"/".join(segments)
    return (path, target) if resolved == path else (resolved, resolved + _query(target))


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    code = int(match[1], 16)
    return bytes((code,)) if code in _UNRESERVED else match[0]


def _query(target: bytes) -> bytes:
    """The query with its question mark, or b""."""
    mark = target.find(b"?")
    return b"" if mark < 0 else target[mark:]


def _split_authority(authority: bytes) -> tuple[bytes, bytes]:
    """`(host, port)`; the port is b"" when there is none. Brackets of an IPv6 address stay."""
    colon = authority.rfind(b":")
    if colon < 0 or authority.endswith(b"]"):
        return authority, b""
    return authority[:colon], authority[colon + 1 :]


def _host_name(authority: bytes) -> bytes:
    """The host as it is compared: without port, in lower case, without the root's trailing dot."""
    return _split_authority(authority)[0].lower().removesuffix(b".")


def _number(found: Found) -> int:
    return found[0]
