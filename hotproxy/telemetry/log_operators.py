"""What the operators of an access log mean: each takes one value out of the record and prints it.

Every operator prints twice: as text, where an absent value is `-`, and as JSON, where it is `null`. Values that
came from a client or an endpoint are printed so that no byte of theirs can end the line or a quoted value.
Names and meaning: https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quote
from typing import Final, Protocol

from hotproxy.telemetry import log_values as values
from hotproxy.telemetry import tls_values
from hotproxy.telemetry.stream_info import StreamInfo


class Operator(Protocol):
    """One `%NAME%` of a format, compiled."""

    def text(self, info: StreamInfo) -> str: ...

    def json(self, info: StreamInfo) -> str: ...

    @property
    def raw(self) -> Callable[[StreamInfo], str]:
        """The value as it is, "" when absent. Where it is tame (`plain_line`), `text` prints the same."""


class Number:
    """A number; `log_values.ABSENT` when it was not measured."""

    __slots__ = ("_get",)

    def __init__(self, get: Callable[[StreamInfo], int]) -> None:
        self._get = get

    def text(self, info: StreamInfo) -> str:
        return self.raw(info) or "-"

    def raw(self, info: StreamInfo) -> str:
        value = self._get(info)
        return str(value) if value >= 0 else ""

    def json(self, info: StreamInfo) -> str:
        value = self._get(info)
        return str(value) if value >= 0 else "null"


class Text:
    """A name from the config or an address: ours, but not necessarily tame (a unix socket's path may hold anything)."""

    __slots__ = ("raw",)

    def __init__(self, get: Callable[[StreamInfo], str]) -> None:
        self.raw = get

    def text(self, info: StreamInfo) -> str:
        return escape(self.raw(info))

    def json(self, info: StreamInfo) -> str:
        value = self.raw(info)
        if not value:
            return "null"
        return quote(value if value.isascii() else _readable(value))


class Wire:
    """A value that came from a peer: the bytes of the wire, as text decoded as latin-1 (so nothing is lost)."""

    __slots__ = ("_get", "_limit", "raw")

    def __init__(self, get: Callable[[StreamInfo], str], limit: int = 0) -> None:
        self._get = get
        self._limit = limit  # characters; 0 = all
        self.raw = self._beginning if limit else get

    def text(self, info: StreamInfo) -> str:
        value = self._get(info)
        if not value.isascii():
            value = from_wire(value)
        return escape(value[: self._limit] if self._limit else value)

    def json(self, info: StreamInfo) -> str:
        value = self._get(info)
        if not value:
            return "null"
        if not value.isascii():
            value = _readable(from_wire(value))
        return quote(value)

    def _beginning(self, info: StreamInfo) -> str:
        return self._get(info)[: self._limit]


def escape(value: str) -> str:
    r"""One printable word sequence: quotes, backslashes, controls and lone bytes as `\xNN` (as nginx does); "" is "-".

    Valid UTF-8 stays readable, but characters that are invisible or change the direction or the line (U+2028,
    U+202E) do not pass.
    """
    if value.isprintable() and '"' not in value and "\\" not in value:
        return value or "-"
    return "".join([char if char.isprintable() and char not in '"\\' else _hex(char) for char in value])


def _hex(char: str) -> str:
    return "".join([f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")])


def from_wire(value: str) -> str:
    """The wire's bytes, given as latin-1 text, as UTF-8 where they are, with surrogates for the bytes that are not."""
    try:
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value  # has been decoded as UTF-8 already


def _readable(value: str) -> str:
    r"""For JSON: bytes that are no UTF-8 become the text `\xNN`. Lone surrogates would be JSON that few can read."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# The pseudo-fields and those the record holds; every other name is looked up in the head's fields.
REQUEST_FIELDS: Final[dict[str, Callable[[StreamInfo], str]]] = {
    ":METHOD": values.method,
    ":PATH": values.path,
    ":AUTHORITY": values.authority,
    ":SCHEME": values.scheme,
    "HOST": values.authority,
    "USER-AGENT": values.user_agent,
    "X-ENVOY-ORIGINAL-PATH": values.original_path,
    "X-FORWARDED-FOR": values.x_forwarded_for,
    "X-REQUEST-ID": values.request_id,
}
RESPONSE_FIELDS: Final[dict[str, Callable[[StreamInfo], str]]] = {
    ":STATUS": values.status_text,
    "X-ENVOY-UPSTREAM-SERVICE-TIME": values.upstream_service_time_text,
}


def _address(name: str, get: Callable[[StreamInfo], str]) -> dict[str, Operator]:
    return {
        f"{name}_ADDRESS": Text(get),
        f"{name}_ADDRESS_WITHOUT_PORT": Text(values.HostOf(get).get),
        f"{name}_PORT": Number(values.PortOf(get).get),
    }


# Operators without argument.
OPERATORS: Final[dict[str, Operator]] = {
    "PROTOCOL": Wire(values.protocol),
    "RESPONSE_CODE": Number(values.status),
    "RESPONSE_CODE_DETAILS": Text(values.details),
    "RESPONSE_FLAGS": Text(values.response_flags),
    "BYTES_RECEIVED": Number(values.rx_bytes),
    "BYTES_SENT": Number(values.tx_bytes),
    "DURATION": Number(values.duration_ms),
    "REQUEST_DURATION": Number(values.request_duration_ms),
    "RESPONSE_DURATION": Number(values.response_duration_ms),
    "RESPONSE_TX_DURATION": Number(values.response_tx_duration_ms),
    "ROUTE_NAME": Text(values.route),
    "UPSTREAM_HOST": Text(values.upstream_remote),
    "UPSTREAM_CLUSTER": Text(values.cluster),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": Number(values.attempts),
    "REQUESTED_SERVER_NAME": Wire(values.requested_server_name),
    "DOWNSTREAM_TLS_VERSION": Text(tls_values.version),
    "DOWNSTREAM_TLS_CIPHER": Text(tls_values.cipher),
    "DOWNSTREAM_PEER_SUBJECT": Text(tls_values.subject),
    "DOWNSTREAM_PEER_ISSUER": Text(tls_values.issuer),
    "DOWNSTREAM_PEER_SERIAL": Text(tls_values.serial),
    "DOWNSTREAM_PEER_FINGERPRINT_256": Text(tls_values.fingerprint),
    "DOWNSTREAM_PEER_URI_SAN": Text(tls_values.uris),
    "DOWNSTREAM_PEER_DNS_SAN": Text(tls_values.dns_names),
    "DOWNSTREAM_PEER_CERT_V_END": Text(tls_values.not_after),
    "HOSTNAME": Text(values.Constant(socket.gethostname()).get),
    **_address("DOWNSTREAM_REMOTE", values.downstream_remote),
    # Who has connected to us, where a proxy has announced who its client is.
    **_address("DOWNSTREAM_DIRECT_REMOTE", values.downstream_direct_remote),
    **_address("DOWNSTREAM_LOCAL", values.downstream_local),
    **_address("UPSTREAM_REMOTE", values.upstream_remote),
    **_address("UPSTREAM_LOCAL", values.upstream_local),
}
