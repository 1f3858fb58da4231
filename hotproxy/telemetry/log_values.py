"""Where the values of an access log come from: one small function per value of the record, "" or ABSENT if not set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hotproxy.telemetry import proxy_tlvs
from hotproxy.telemetry.stream_info import HeadersView, StreamInfo

ABSENT: Final = -1


def _field(headers: HeadersView | None, name: bytes) -> str:
    if headers is None:
        return ""
    value = headers.get(name)
    return value.decode("latin-1") if value else ""


def method(info: StreamInfo) -> str:
    return info.method


def path(info: StreamInfo) -> str:
    return info.path or info.original_path


def original_path(info: StreamInfo) -> str:
    """Envoy sets x-envoy-original-path only when it rewrote the path; a client's own field of that name is not it."""
    return info.original_path if info.path and info.path != info.original_path else ""


def client_path(info: StreamInfo) -> str:
    """X-ENVOY-ORIGINAL-PATH?:PATH in one step, because every default line has it."""
    return info.original_path or info.path


def authority(info: StreamInfo) -> str:
    return info.authority


def scheme(info: StreamInfo) -> str:
    return _field(info.request_headers, b"x-forwarded-proto")


def user_agent(info: StreamInfo) -> str:
    return info.user_agent or _field(info.request_headers, b"user-agent")


def x_forwarded_for(info: StreamInfo) -> str:
    return info.x_forwarded_for or _field(info.request_headers, b"x-forwarded-for")


def request_id(info: StreamInfo) -> str:
    return info.request_id or _field(info.request_headers, b"x-request-id")


def protocol(info: StreamInfo) -> str:
    return info.protocol


def upstream_service_time(info: StreamInfo) -> int:
    return info.upstream_service_time_ms


def upstream_service_time_text(info: StreamInfo) -> str:
    return str(info.upstream_service_time_ms) if info.upstream_service_time_ms >= 0 else ""


def status(info: StreamInfo) -> int:
    """0: no answer was begun, or TCP (as Envoy prints it)."""
    return info.status


def status_text(info: StreamInfo) -> str:
    return str(info.status) if info.status else ""


def response_flags(info: StreamInfo) -> str:
    flags = info.flags
    return ",".join(flags) if flags and flags != ("-",) else ""


def details(info: StreamInfo) -> str:
    return info.details


def rx_bytes(info: StreamInfo) -> int:
    return info.rx_bytes


def tx_bytes(info: StreamInfo) -> int:
    return info.tx_bytes


def attempts(info: StreamInfo) -> int:
    return info.attempts


def _ms(start_s: float, end_s: float) -> int:
    """Whole milliseconds, cut as Envoy cuts them; the µs keeps 0.030000000001 - 0.02 from being 9 ms."""
    if start_s == 0.0 or end_s == 0.0:
        return ABSENT
    return max(0, math.floor((end_s - start_s) * 1000.0 + 0.001))


def duration_ms(info: StreamInfo) -> int:
    return _ms(info.start_s, info.end_s)


def request_duration_ms(info: StreamInfo) -> int:
    return _ms(info.start_s, info.request_complete_s)


def response_duration_ms(info: StreamInfo) -> int:
    return _ms(info.start_s, info.upstream_first_byte_s)


def response_tx_duration_ms(info: StreamInfo) -> int:
    return _ms(info.upstream_first_byte_s, info.end_s)


def listener(info: StreamInfo) -> str:
    return info.listener


def virtual_host(info: StreamInfo) -> str:
    return info.virtual_host


def route(info: StreamInfo) -> str:
    return info.route


def cluster(info: StreamInfo) -> str:
    return info.cluster


def downstream_remote(info: StreamInfo) -> str:
    return info.downstream_remote


def downstream_direct_remote(info: StreamInfo) -> str:
    return info.downstream_direct_remote or info.downstream_remote


def downstream_local(info: StreamInfo) -> str:
    return info.downstream_local


def requested_server_name(info: StreamInfo) -> str:
    return info.requested_server_name


def upstream_remote(info: StreamInfo) -> str:
    return info.upstream_remote


def upstream_local(info: StreamInfo) -> str:
    return info.upstream_local


class HostOf:
    """`…_WITHOUT_PORT`: "10.0.0.1:80" is 10.0.0.1, "[::1]:80" is ::1, a path stays a path (it has no port)."""

    __slots__ = ("_get",)

    def __init__(self, get: Callable[[StreamInfo], str]) -> None:
        self._get = get

    def get(self, info: StreamInfo) -> str:
        address = self._get(info)
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal() or "/" in address:
            return address
        return host[1:-1] if host.startswith("[") else host


class PortOf:
    """`…_PORT`; absent when the address has none."""

    __slots__ = ("_get",)

    def __init__(self, get: Callable[[StreamInfo], str]) -> None:
        self._get = get

    def get(self, info: StreamInfo) -> int:
        address = self._get(info)
        port = address.rpartition(":")[2]
        return int(port) if port != address and port.isdecimal() and "/" not in address else ABSENT


class Constant:
    """`%HOSTNAME%`: does not change while the process lives."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get(self, info: StreamInfo) -> str:
        return self._value


class Field:
    """`%REQ(name)%` and `%RESP(name)%` of any field."""

    __slots__ = ("_name", "_response")

    def __init__(self, name: bytes, response: bool) -> None:
        self._name = name  # lower case
        self._response = response

    def get(self, info: StreamInfo) -> str:
        return _field(info.response_headers if self._response else info.request_headers, self._name)


class Tlv:
    """`%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:key)%`: a TLV of the PROXY header, as it came."""

    __slots__ = ("_in_ssl", "_kind")

    def __init__(self, kind: int, in_ssl: bool) -> None:
        self._kind = kind
        self._in_ssl = in_ssl

    def get(self, info: StreamInfo) -> str:
        if not info.tlvs:
            return ""
        found = (
            proxy_tlvs.find_in_ssl(info.tlvs, self._kind) if self._in_ssl else proxy_tlvs.find(info.tlvs, self._kind)
        )
        return found.decode("latin-1")


class Either:
    """`%REQ(A?B)%`: A, or B when A is not set."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Callable[[StreamInfo], str], second: Callable[[StreamInfo], str]) -> None:
        self._first = first
        self._second = second

    def get(self, info: StreamInfo) -> str:
        return self._first(info) or self._second(info)
