"""The one record of an exchange: what the stats, the access log and the last line of a bug report are made of.

The name and the meaning of its fields are Envoy's StreamInfo. Times are CLOCK_MONOTONIC seconds, 0.0 = has not
happened; `start_wall_s` is the only wall-clock time. Text that came from a peer (method, authority, paths, user agent,
x-forwarded-for, request id) is the bytes of the wire decoded as latin-1, so that nothing is lost before the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from hotproxy.saved import MAX_COUNT, MAX_SECONDS
from hotproxy.telemetry.tls_info import TlsInfo


class HeadersView(Protocol):
    """What the log sees of a head's fields (`http.headers.Headers`, or a `HeaderPairs` after a handoff)."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of that name (given in lower case), or None."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...


class HeaderPairs:
    """Fields that came with a dump: enough for the log, without an import of the codec's class."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self.pairs = pairs

    def get(self, name: bytes) -> bytes | None:
        """The first value of that name (given in lower case), or None."""
        for key, value in self.pairs:
            if key.lower() == name:
                return value
        return None

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)


FIELDS: Final = (  # the order of `dump()`: new ones come last
        "start_wall_s", "start_s", "request_complete_s", "upstream_first_byte_s", "response_first_byte_s", "end_s",
        "protocol", "method", "authority", "path", "original_path", "user_agent", "x_forwarded_for", "request_id",
        "status", "flags", "details", "rx_bytes", "tx_bytes",
        "downstream_remote", "downstream_local", "upstream_remote", "upstream_local",
        "listener", "virtual_host", "route", "cluster", "attempts", "upstream_connect_s", "upstream_service_time_ms",
        "request_headers", "response_headers",
        "downstream_direct_remote", "tlvs", "requested_server_name",
)  # fmt: skip
# What the records of version 1 have.
_FIRST_FIELDS: Final = 32
_HEADERS: Final = ("request_headers", "response_headers")


class StreamInfo:
    """Plain attributes, filled on the way, read once by `finish()`; `dump()` carries it across a handoff.

    But for `tls`: a connection that has it does not move.
    """

    __slots__ = (*FIELDS, "tls")

    def __init__(self, start_wall_s: float = 0.0, start_s: float = 0.0) -> None:
        self.start_wall_s = start_wall_s
        self.start_s = start_s
        self.request_complete_s = 0.0  # last byte of the request read
        self.upstream_first_byte_s = 0.0  # first byte of the response read from upstream
        self.response_first_byte_s = 0.0  # first byte of the response written downstream
        self.end_s = 0.0
        self.protocol = ""  # "HTTP/1.1", "HTTP/1.0"; "" for TCP
        self.method = ""
        self.authority = ""
        self.path = ""  # as sent upstream
        self.original_path = ""  # as the client sent it
        self.user_agent = ""
        self.x_forwarded_for = ""
        self.request_id = ""
        self.status = 0  # 0: nothing was answered
        self.flags: tuple[str, ...] = ()  # Envoy's response flags
        self.details = ""
        self.rx_bytes = 0  # body bytes from downstream (TCP: all bytes)
        self.tx_bytes = 0  # body bytes to downstream (TCP: all bytes)
        self.downstream_remote = ""  # "10.0.0.1:1234", "[::1]:1234", "" for a unix socket without a name
        self.downstream_local = ""
        self.upstream_remote = ""
        self.upstream_local = ""
        self.listener = ""
        self.virtual_host = ""
        self.route = ""
        self.cluster = ""
        self.attempts = 0
        self.upstream_connect_s = 0.0
        self.upstream_service_time_ms = -1  # -1: no upstream answered
        self.request_headers: HeadersView | None = None  # for %REQ()%: the fields the log may name; None for TCP
        self.response_headers: HeadersView | None = None  # for %RESP()%; None until an answer has begun
        self.downstream_direct_remote = ""  # of the proxy that has announced its client; "" where nobody has
        self.tlvs = b""  # of its PROXY header, as they came (`proxy_tlvs`)
        self.requested_server_name = ""  # SNI of a TLS client
        self.tls: TlsInfo | None = None  # of the client's connection

    def dump(self) -> list[object]:
        """The values in the order of `FIELDS`, msgpack's types only. The version is that of the connection."""
        values: list[object] = [getattr(self, name) for name in FIELDS]
        for name in _HEADERS:
            values[FIELDS.index(name)] = _pairs(getattr(self, name))
        return values

    @classmethod
    def load(cls, values: list[object]) -> StreamInfo:
        """The inverse of `dump()`, also of an older one; ValueError for another number of values, or another shape."""
        if len(values) not in (_FIRST_FIELDS, len(FIELDS)):
            raise ValueError(f"stream info: {len(values)} values")
        info = cls()
        for name, value in zip(FIELDS, values, strict=False):
            if name in _HEADERS:
                setattr(info, name, _view(value))
            elif name == "flags":
                info.flags = _flags(value)
            elif type(value) is not type(getattr(info, name)):
                raise ValueError(f"stream info: {name} is {type(value).__name__}, not as it was dumped")
            elif isinstance(value, int | float) and not _is_possible(name, value):
                raise ValueError(f"stream info: {name} is {value}")
            else:
                setattr(info, name, value)
        return info


_HIGHEST: Final = {"status": 999}


def _is_possible(name: str, value: int | float) -> bool:
    """Is it a number that logs and histograms can work with?"""
    if isinstance(value, float):
        return 0.0 <= value <= MAX_SECONDS
    return (-1 if name == "upstream_service_time_ms" else 0) <= value <= _HIGHEST.get(name, MAX_COUNT)


def _pairs(headers: HeadersView | None) -> list[list[bytes]] | None:
    if headers is None:
        return None
    return [[name, value] for name, value in headers]


def _view(value: object) -> HeaderPairs | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f"stream info: headers are {type(value).__name__}, not a list of pairs")
    pairs: list[tuple[bytes, bytes]] = []
    for pair in value:
        match pair:
            case [bytes() as name, bytes() as content]:
                pairs.append((name, content))
            case _:
                raise ValueError("stream info: a header is not a pair of bytes")
    return HeaderPairs(pairs)


def _flags(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(flag, str) for flag in value):
        raise ValueError("stream info: flags are not a list of text")
    return tuple(value)
