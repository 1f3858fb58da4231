"""The statistics of the data path: per listener, per HTTP listener, per TCP listener, per cluster.

The fields of each class *are* its table: the name of a field is the last part of the statistic's name, its type says
counter, gauge or histogram. `declare(name)` turns the table into the schema that shared memory needs, and
`Class(slab, name)` gives the same names to count with. Names, families and labels are Envoy's
(https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats and its siblings);
what Envoy does not have is an `OwnCounter`.
"""

from __future__ import annotations

import dataclasses
import http
from dataclasses import dataclass
from typing import ClassVar, Final

from hotproxy.shm.cells import Counter, Gauge, Histogram, Slab
from hotproxy.shm.schema import COUNTER, GAUGE, HISTOGRAM, INSTANCE_GAUGE, Stat

# A gauge of the whole instance, written by the control process only (membership): readers do not add it up.
InstanceGauge = Gauge
# A counter that Envoy does not have: its Prometheus family begins with `hotproxy_`.
OwnCounter = Counter

# Days until the first of all certificates that the config names expires; the control process writes it.
FIRST_EXPIRY: Final = Stat(
    "server.days_until_first_cert_expiring", INSTANCE_GAUGE, (), "envoy_server_days_until_first_cert_expiring"
)

_KINDS: Final = {
    "Counter": COUNTER,
    "OwnCounter": COUNTER,
    "Gauge": GAUGE,
    "InstanceGauge": INSTANCE_GAUGE,
    "Histogram": HISTOGRAM,
}

# Each registered code is a counter of its own; other codes count in their class only, so that an origin that makes
# up codes can't make up statistics. IANA, "Hypertext Transfer Protocol (HTTP) Status Code Registry".
STATUS_CODES: Final = tuple(sorted(int(status) for status in http.HTTPStatus))


class Scope:
    """What the tables below have in common. `scope` is the first part of their names."""

    __slots__ = ()

    scope: ClassVar[str]
    tag: ClassVar[str]  # Envoy's label for the listener or cluster
    part: ClassVar[str] = ""  # between name and statistic
    root: ClassVar[str] = ""  # what Envoy's families begin with in place of scope and part

    def __init__(self, slab: Slab, name: str) -> None:
        for last, kind, _, _ in _table(type(self)):
            full = f"{self.scope}.{name}.{self.part}{last}"
            if kind == COUNTER:
                setattr(self, last, slab.counter(full))
            elif kind == HISTOGRAM:
                setattr(self, last, slab.histogram(full))
            else:
                setattr(self, last, slab.gauge(full))

    @classmethod
    def declare(cls, name: str) -> list[Stat]:
        """The schema of one listener or cluster called `name`."""
        first = f"{cls.scope}.{name}.{cls.part}"
        own = (cls.tag, name)
        return [Stat(first + last, kind, (*tags, own), family) for last, kind, tags, family in _table(cls)]

    def by_name(self, counter: str) -> Counter:
        """The counter that a `Reason` names. Raises KeyError when this scope has no such counter."""
        found = getattr(self, counter, None)
        if not isinstance(found, Counter):
            raise KeyError(f"{type(self).__name__} has no counter {counter!r}")
        return found


_Row = tuple[str, int, tuple[tuple[str, str], ...], str]  # last part of the name, kind, tags before its own, family

# A config has hundreds of clusters, and one table for all of them.
_tables: dict[type[Scope], list[_Row]] = {}


def _table(scope: type[Scope]) -> list[_Row]:
    made = _tables.get(scope)
    if made is None:
        made = _tables[scope] = _read_table(scope)
    return made


def _read_table(scope: type[Scope]) -> list[_Row]:
    rows = []
    for field in dataclasses.fields(scope):  # type: ignore[arg-type]
        if field.name.startswith("_"):
            continue
        last: str = field.name
        tags: tuple[tuple[str, str], ...] = ()
        if last[-2:] == "xx":  # downstream_rq_2xx -> family downstream_rq_xx, class 2
            tags = (("envoy_response_code_class", last[-3]),)
            last = f"{last[:-3]}xx"
        root = scope.root or f"{scope.scope}_{scope.part.replace('.', '_')}"
        family = f"{'hotproxy' if field.type == 'OwnCounter' else 'envoy'}_{root}{last}"
        rows.append((field.name, _KINDS[str(field.type)], tags, family))
    return rows


@dataclass(init=False, slots=True)
class ListenerStats(Scope):
    """Connections as they are accepted, whatever they carry."""

    scope: ClassVar[str] = "listener"
    tag: ClassVar[str] = "envoy_listener_address"  # Envoy's value is the address; ours is the listener's name

    downstream_cx_total: Counter
    downstream_cx_active: Gauge
    downstream_cx_destroy: Counter
    downstream_cx_overflow: Counter  # refused: max_connections
    downstream_cx_accept_failed: OwnCounter  # accept() had no descriptor or memory left (EMFILE, ENFILE, ...)
    downstream_pre_cx_timeout: Counter  # no whole PROXY header or ClientHello within listener_filters_timeout


@dataclass(init=False, slots=True)
class ProxyVersionStats(Scope):
    """The headers of one version."""

    scope: ClassVar[str] = "proxy_proto"
    tag: ClassVar[str] = "envoy_proxy_protocol_prefix"

    found: Counter
    error: Counter


class ProxyVersion1Stats(ProxyVersionStats):
    __slots__ = ()

    part: ClassVar[str] = "versions.v1."


class ProxyVersion2Stats(ProxyVersionStats):
    __slots__ = ()

    part: ClassVar[str] = "versions.v2."


@dataclass(init=False, slots=True)
class ProxyProtocolStats(Scope):
    """What trusted proxies have said about their clients; the connection of each `error` and `disallowed` is closed."""

    scope: ClassVar[str] = "proxy_proto"
    tag: ClassVar[str] = "envoy_proxy_protocol_prefix"

    not_found_disallowed: Counter
    not_found_allowed: Counter
    _versions: dict[int, ProxyVersionStats]

    def __init__(self, slab: Slab, name: str) -> None:
        Scope.__init__(self, slab, name)
        self._versions = {1: ProxyVersion1Stats(slab, name), 2: ProxyVersion2Stats(slab, name)}

    @classmethod
    def declare(cls, name: str) -> list[Stat]:
        own: list[Stat] = Scope.declare.__func__(cls, name)  # type: ignore[attr-defined]
        return own + ProxyVersion1Stats.declare(name) + ProxyVersion2Stats.declare(name)

    def count_header(self, version: int, found: bool) -> None:
        """A whole header, or one that broke the rules of its version."""
        versions = self._versions[version]
        (versions.found if found else versions.error).inc()


@dataclass(init=False, slots=True)
class SslStats(Scope):
    """The handshakes of one listener. Its names are `listener.<name>.ssl.<statistic>`."""

    scope: ClassVar[str] = "listener"
    tag: ClassVar[str] = "envoy_listener_address"
    part: ClassVar[str] = "ssl."

    handshake: Counter  # that have come about
    connection_error: Counter  # a peer broke the rules, or said that we do
    session_reused: Counter
    fail_verify_error: Counter  # a certificate that is not accepted
    fail_verify_no_cert: Counter
    fail_verify_san: Counter  # client_san does not name it
    handshake_timeout: OwnCounter  # `handshake_timeout`, or pushed out by others when there were `max_handshakes`


@dataclass(init=False, slots=True)
class Http2Stats(Scope):
    """The HTTP/2 connections of one listener. Its names are `http.<name>.http2.<statistic>`."""

    scope: ClassVar[str] = "http"
    tag: ClassVar[str] = "envoy_http_conn_manager_prefix"
    part: ClassVar[str] = "http2."
    root: ClassVar[str] = "http2_"

    rx_reset: Counter  # streams that the client has reset
    tx_reset: Counter  # RST_STREAM frames that we have sent, for whatever reason
    tx_flush_timeout: Counter  # a complete response of which the client took nothing for a minute
    goaway_sent: Counter  # because we leave
    header_overflow: Counter  # header lists too large to be decoded
    outbound_control_flood: Counter  # the client makes us answer, and does not read
    inbound_glitches_flood: OwnCounter  # frames that do nothing and cost something: PING, SETTINGS, empty DATA ...
    inbound_resets_flood: OwnCounter  # streams begun and reset


@dataclass(init=False, slots=True)
class HttpStats(Scope):
    """One HTTP listener: its connections, its requests, and what became of them."""

    scope: ClassVar[str] = "http"
    tag: ClassVar[str] = "envoy_http_conn_manager_prefix"

    downstream_cx_total: Counter
    downstream_cx_active: Gauge
    downstream_cx_destroy: Counter
    downstream_cx_rx_bytes_total: Counter
    downstream_cx_tx_bytes_total: Counter
    downstream_cx_protocol_error: Counter
    downstream_cx_idle_timeout: Counter
    downstream_cx_drain_close: Counter
    downstream_cx_http2_total: Counter
    downstream_cx_http2_active: Gauge
    downstream_rq_total: Counter
    downstream_rq_http2_total: Counter
    downstream_rq_active: Gauge
    downstream_rq_completed: Counter
    downstream_rq_1xx: Counter
    downstream_rq_2xx: Counter
    downstream_rq_3xx: Counter
    downstream_rq_4xx: Counter
    downstream_rq_5xx: Counter
    downstream_rq_rx_reset: Counter  # the client left before its answer was complete
    downstream_rq_idle_timeout: Counter
    downstream_rq_header_timeout: Counter
    downstream_rq_internal_error: OwnCounter  # our own bug, answered with 500
    downstream_rq_time: Histogram  # ms, from the request's first byte to the response's last
    no_route: Counter
    no_cluster: Counter
    rq_direct_response: Counter
    rq_redirect: Counter
    _http2: Http2Stats
    _classes: dict[int, Counter]

    def __init__(self, slab: Slab, name: str) -> None:
        Scope.__init__(self, slab, name)  # not super(): slots=True makes a second class of this name
        self._http2 = Http2Stats(slab, name)
        self._classes = {digit: self.by_name(f"downstream_rq_{digit}xx") for digit in range(1, 6)}

    @classmethod
    def declare(cls, name: str) -> list[Stat]:
        own: list[Stat] = Scope.declare.__func__(cls, name)  # type: ignore[attr-defined]
        return own + Http2Stats.declare(name)

    @property
    def http2(self) -> Http2Stats:
        return self._http2

    def count_status(self, code: int) -> None:
        """A response is complete: `downstream_rq_completed` and its class."""
        self.downstream_rq_completed.inc()
        counter = self._classes.get(code // 100)
        if counter is not None:
            counter.inc()


@dataclass(init=False, slots=True)
class TcpStats(Scope):
    """One TCP listener."""

    scope: ClassVar[str] = "tcp"
    tag: ClassVar[str] = "envoy_tcp_prefix"

    downstream_cx_total: Counter
    downstream_cx_rx_bytes_total: Counter
    downstream_cx_tx_bytes_total: Counter
    downstream_cx_no_route: Counter  # no route fits, or its cluster does not exist
    client_hello_too_large: OwnCounter
    downstream_cx_drain_close: OwnCounter  # cut at the drain deadline
    idle_timeout: Counter


_CODE_TAGS: Final = tuple(("envoy_response_code", str(code)) for code in STATUS_CODES)


class _Codes(dict[int, Counter | None]):
    """A cluster's counter of each registered code, None for other codes. Made when a code first comes: of the 62 most
    clusters meet three, and 62 objects for each of a thousand clusters are most of a worker's start."""

    __slots__ = ("_name", "_slab")

    def __init__(self, slab: Slab, name: str) -> None:
        super().__init__()
        self._slab = slab
        self._name = name

    def __missing__(self, code: int) -> Counter | None:
        # A number of a status line has three digits: at most a thousand entries.
        made = self._slab.counter(f"cluster.{self._name}.upstream_rq_{code}") if code in STATUS_CODES else None
        self[code] = made
        return made


@dataclass(init=False, slots=True)
class ClusterStats(Scope):
    """One cluster: connections to its endpoints, requests to it, and who is in it."""

    scope: ClassVar[str] = "cluster"
    tag: ClassVar[str] = "envoy_cluster_name"

    upstream_cx_total: Counter
    upstream_cx_active: Gauge
    upstream_cx_destroy: Counter
    upstream_cx_connect_fail: Counter
    upstream_cx_connect_timeout: Counter
    upstream_cx_connect_local_fail: OwnCounter  # socket() or connect() had no descriptor or memory left; a fail as well
    upstream_cx_connect_attempts_exceeded: Counter
    upstream_cx_none_healthy: Counter
    upstream_cx_idle_timeout: Counter
    upstream_cx_protocol_error: Counter
    upstream_cx_rx_bytes_total: Counter
    upstream_cx_tx_bytes_total: Counter
    upstream_rq_total: Counter
    upstream_rq_active: Gauge
    upstream_rq_completed: Counter
    upstream_rq_1xx: Counter
    upstream_rq_2xx: Counter
    upstream_rq_3xx: Counter
    upstream_rq_4xx: Counter
    upstream_rq_5xx: Counter
    upstream_rq_pending_total: Counter
    upstream_rq_pending_active: Gauge
    upstream_rq_retry: Counter
    upstream_rq_retry_success: Counter
    upstream_rq_timeout: Counter
    upstream_rq_rx_reset: Counter
    upstream_rq_tx_reset: Counter
    upstream_rq_time: Histogram  # ms, from the request's last byte to the response's last
    membership_total: InstanceGauge
    membership_healthy: InstanceGauge
    _classes: dict[int, Counter]
    _codes: _Codes

    def __init__(self, slab: Slab, name: str) -> None:
        Scope.__init__(self, slab, name)
        self._classes = {digit: self.by_name(f"upstream_rq_{digit}xx") for digit in range(1, 6)}
        self._codes = _Codes(slab, name)

    @classmethod
    def declare(cls, name: str) -> list[Stat]:
        first, own = f"cluster.{name}.upstream_rq_", (cls.tag, name)
        codes = [Stat(first + tag[1], COUNTER, (tag, own), "envoy_cluster_upstream_rq") for tag in _CODE_TAGS]
        return Scope.declare.__func__(cls, name) + codes  # type: ignore[attr-defined, no-any-return]

    def count_status(self, code: int) -> None:
        """A response is complete: `upstream_rq_completed`, its class, and its code when that is a registered one."""
        self.upstream_rq_completed.inc()
        counter = self._classes.get(code // 100)
        if counter is not None:
            counter.inc()
        counter = self._codes[code]
        if counter is not None:
            counter.inc()


@dataclass(init=False, slots=True)
class UpstreamSslStats(Scope):
    """The handshakes with the endpoints of one cluster. Its names are `cluster.<name>.ssl.<statistic>`."""

    scope: ClassVar[str] = "cluster"
    tag: ClassVar[str] = "envoy_cluster_name"
    part: ClassVar[str] = "ssl."

    handshake: Counter
    connection_error: Counter
    session_reused: Counter
    fail_verify_error: Counter
    fail_verify_san: Counter


@dataclass(init=False, slots=True)
class AccessLogStats(Scope):
    """The access log of one listener; Envoy counts this for its gRPC access log, with these words."""

    scope: ClassVar[str] = "access_logs"
    tag: ClassVar[str] = "envoy_listener_address"

    logs_written: OwnCounter
    logs_dropped: OwnCounter  # the reader of the log was too slow, or the disk full
