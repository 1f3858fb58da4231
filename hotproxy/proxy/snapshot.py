"""The live form of the config: listeners, routes and clusters as one immutable whole, replaced by one assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from hotproxy.config.model import DEFAULT_LISTENER_FILTERS_TIMEOUT_S, ForwardedCertificate
from hotproxy.http.codec import RequestHead
from hotproxy.net.socket_options import DEFAULT as DEFAULT_OPTIONS
from hotproxy.net.socket_options import SocketOptions
from hotproxy.proxy.client_certificate import DEFAULT as DEFAULT_CERTIFICATE
from hotproxy.proxy.route import Route
from hotproxy.proxy.tcp_routes import TcpRoutes
from hotproxy.proxy.tls_accept import DownstreamTls, HandshakeLog
from hotproxy.proxy.trusted_proxies import TrustedProxies
from hotproxy.telemetry.stats import HttpStats, ListenerStats, ProxyProtocolStats, SslStats, TcpStats
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.telemetry.tls_info import TlsInfo
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.pool import Pools


class Routes(Protocol):
    """Where a request goes (`route.RouteTable`)."""

    def find(self, authority: bytes, path: bytes, head: RequestHead, tls: TlsInfo | None) -> Route | None: ...


class ExchangeLog(Protocol):
    """Told once of every exchange (TCP: every connection) that is over (`telemetry.access_log.AccessLog`)."""

    def log(self, info: StreamInfo) -> None: ...


@dataclass(frozen=True, slots=True)
class Secured:
    """What a listener with TLS has besides."""

    tls: DownstreamTls
    stats: SslStats
    failures: HandshakeLog


@dataclass(frozen=True, slots=True)
class HttpListener:
    """A listener whose connections speak HTTP. Times in seconds, 0.0 = no limit."""

    name: str
    routes: Routes
    request_headers_timeout_s: float
    keepalive_timeout_s: float
    max_connections: int  # of this worker; 0 = no limit
    stats: HttpStats
    listener_stats: ListenerStats
    access_log: ExchangeLog | None
    filters_timeout_s: float = DEFAULT_LISTENER_FILTERS_TIMEOUT_S
    options: SocketOptions = DEFAULT_OPTIONS
    proxy_protocol: TrustedProxies | None = None
    proxy_stats: ProxyProtocolStats | None = None  # where there is `proxy_protocol`
    xff_num_trusted_hops: int = 0
    secured: Secured | None = None
    certificate: ForwardedCertificate = DEFAULT_CERTIFICATE
    http2: bool = True  # clients may begin with HTTP/2's preface where there is no TLS


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A listener that carries bytes to `cluster`, or to one that `routes` choose."""

    name: str
    cluster: str
    idle_timeout_s: float
    max_connect_attempts: int
    max_connections: int
    stats: TcpStats
    listener_stats: ListenerStats
    access_log: ExchangeLog | None
    filters_timeout_s: float = DEFAULT_LISTENER_FILTERS_TIMEOUT_S
    options: SocketOptions = DEFAULT_OPTIONS
    proxy_protocol: TrustedProxies | None = None
    proxy_stats: ProxyProtocolStats | None = None
    routes: TcpRoutes | None = None
    secured: Secured | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Reached through `Runtime.snapshot`. Pools and stats are keyed by name and outlive a snapshot."""

    listeners: Mapping[str, HttpListener | TcpListener]
    clusters: Mapping[str, Cluster]
    pools: Pools  # keep-alive connections by endpoint
