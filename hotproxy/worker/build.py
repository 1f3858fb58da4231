"""The composition root: from a config and a slab to the objects that serve. The only file that knows all classes.

`declare_stats`, `check_buildable` and `load_tls` run in the zygote, so that whatever can't be built fails the
generation before it forks anything; `build` runs in each worker.
"""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from hotproxy.clock import Clock, TimerWheel
from hotproxy.config import model
from hotproxy.config.certificate import CertificateError
from hotproxy.net.poller import Poller
from hotproxy.net.socket_options import SocketOptions
from hotproxy.net.tls_client import ClientTls
from hotproxy.net.tls_server import ServerTls
from hotproxy.net.tls_tickets import TicketKeys
from hotproxy.proxy.filter_chain import Terminal
from hotproxy.proxy.http_terminal import HttpTerminal
from hotproxy.proxy.listener import SHARE_OF_DESCRIPTORS, Admission, Listener
from hotproxy.proxy.route import RouteTable
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener, Secured, Snapshot, TcpListener
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.proxy.tcp_routes import ClusterChoice, TcpRoutes
from hotproxy.proxy.trusted_proxies import TrustedProxies
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER, Stat
from hotproxy.telemetry.access_log import AccessLog
from hotproxy.telemetry.failure_log import FailureLog
from hotproxy.telemetry.log_format import LogFormat
from hotproxy.telemetry.log_sink import LogSinks
from hotproxy.telemetry.stats import (
    FIRST_EXPIRY,
    AccessLogStats,
    ClusterStats,
    HttpStats,
    ListenerStats,
    ProxyProtocolStats,
    SslStats,
    TcpStats,
    UpstreamSslStats,
)
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.load_balancer import POLICIES
from hotproxy.upstream.pool import Pools
from hotproxy.upstream.tls_connect import UpstreamTls
from hotproxy.worker.certificates import Certificates, Side

# Below this a worker would refuse clients for no good reason; such a limit is a mistake, and EMFILE is handled.
_MIN_CONNECTIONS: Final = 16

# Exceptions in a worker: bugs of ours, each with a traceback in the log. 0 is the only good value.
INTERNAL_ERRORS: Final = Stat("server.internal_errors", COUNTER, (), "hotproxy_server_internal_errors")

_Terminal = Terminal[HttpListener | TcpListener, Runtime]


@dataclass(slots=True)
class Parts:
    """What `worker/main.py` drives."""

    runtime: Runtime
    listeners: dict[str, Listener]
    admission: Admission
    logs: LogSinks
    certificates: Certificates


@dataclass(slots=True)
class TlsSides:
    """By listener and by cluster. Loaded before a worker is forked, which inherits them: it starts although the files
    are broken by then."""

    listeners: dict[str, ServerTls]
    clusters: dict[str, ClientTls]


def declare_stats(config: model.Config) -> list[Stat]:
    """Every statistic that workers of this config write."""
    stats = [INTERNAL_ERRORS]
    for listener in config.listeners:
        stats += ListenerStats.declare(listener.name)
        stats += HttpStats.declare(listener.name) if listener.tcp is None else TcpStats.declare(listener.name)
        if listener.proxy_protocol is not None:
            stats += ProxyProtocolStats.declare(listener.name)
        if listener.tls is not None:
            stats += SslStats.declare(listener.name)
        if listener.access_log is not None:
            stats += AccessLogStats.declare(listener.name)
    for cluster in config.clusters:
        stats += ClusterStats.declare(cluster.name)
        if cluster.tls is not None:
            stats += UpstreamSslStats.declare(cluster.name)
    if any(each.tls for each in config.listeners) or any(each.tls for each in config.clusters):
        stats.append(FIRST_EXPIRY)
    return stats


def check_buildable(config: model.Config) -> None:
    """Build what can be built without processes. Raises ValueError with a sentence for the user."""
    for listener in config.listeners:
        RouteTable(listener.virtual_hosts)
    for cluster in config.clusters:
        for endpoint in cluster.endpoints:
            try:
                Endpoint(endpoint.address, endpoint.weight)
            except ValueError as error:
                raise ValueError(f"cluster '{cluster.name}': {error}") from None


def load_tls(config: model.Config) -> TlsSides:
    """Raises ValueError as `check_buildable`."""
    sides = TlsSides({}, {})
    name = ""
    try:
        for listener in config.listeners:
            if listener.tls is not None:
                name = f"listener '{listener.name}'"
                sides.listeners[listener.name] = ServerTls(listener.name, listener.tls)
        for cluster in config.clusters:
            if cluster.tls is not None:
                name = f"cluster '{cluster.name}'"
                sides.clusters[cluster.name] = ClientTls(cluster.tls)
    except CertificateError as error:
        raise ValueError(f"{name}: {error}") from None
    return sides


def build(
    config: model.Config,
    slab: Slab,
    poller: Poller,
    wheel: TimerWheel,
    clock: Clock,
    random_: random.Random,
    report: Callable[[str], None],
    complain: Callable[[str], None] | None = None,
    tls: TlsSides | None = None,
    tickets: TicketKeys | None = None,
) -> Parts:
    """Everything of one worker, not accepting yet. OSError when an access log can't be opened. `tls`: of this very
    config, if that has any."""
    sides = tls or TlsSides({}, {})
    logs = LogSinks(report, clock)
    failures = FailureLog(report, clock)
    if tickets is not None:
        for serving in sides.listeners.values():
            serving.share_sessions(tickets)
    secured = {name: Secured(side, SslStats(slab, name), failures) for name, side in sides.listeners.items()}
    listeners = {each.name: _listener(each, slab, logs, secured.get(each.name)) for each in config.listeners}
    upstream = {name: UpstreamTls(side, UpstreamSslStats(slab, name)) for name, side in sides.clusters.items()}
    clusters = {each.name: _cluster(each, slab, random_, upstream.get(each.name)) for each in config.clusters}
    snapshot = Snapshot(listeners, clusters, Pools())
    runtime = Runtime(poller, wheel, clock, random_, slab.buffered(), snapshot)
    admission = Admission(connection_limit(), wheel)
    accepting = {
        listener.name: Listener(
            listeners[listener.name],
            listener.backlog,
            cast(_Terminal, HttpTerminal() if listener.tcp is None else TcpProxy),
            admission,
            poller,
            runtime,
        )
        for listener in config.listeners
    }
    named: list[tuple[str, Side]] = [(f"listener '{name}'", side) for name, side in sides.listeners.items()]
    named += [(f"cluster '{name}'", side) for name, side in sides.clusters.items()]
    certificates = Certificates(named, clock, report, complain or report, tickets, list(sides.listeners.values()))
    certificates.catch_up()
    return Parts(runtime, accepting, admission, logs, certificates)


def connection_limit() -> int:
    """How many downstream connections a worker may hold, by its limit on descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20  # the kernel's own ceiling, fs.nr_open
    return max(_MIN_CONNECTIONS, int(soft * SHARE_OF_DESCRIPTORS))


def _listener(
    config: model.Listener, slab: Slab, logs: LogSinks, secured: Secured | None
) -> HttpListener | TcpListener:
    access_log = None
    if config.access_log is not None:
        sink = logs.open(config.access_log.path)
        log_format = LogFormat.compile(config.access_log.format)
        access_log = AccessLog(log_format, sink, AccessLogStats(slab, config.name))
    listener_stats = ListenerStats(slab, config.name)
    options = SocketOptions(config.socket_options)
    trusted = proxy_stats = None
    if config.proxy_protocol is not None:
        trusted = TrustedProxies(config.proxy_protocol.trusted, config.proxy_protocol.required)
        proxy_stats = ProxyProtocolStats(slab, config.name)
    if config.tcp is not None:
        return TcpListener(
            name=config.name,
            cluster=config.tcp.cluster,
            idle_timeout_s=config.tcp.idle_timeout_s,
            max_connect_attempts=config.tcp.max_connect_attempts,
            max_connections=config.max_connections,
            stats=TcpStats(slab, config.name),
            listener_stats=listener_stats,
            access_log=access_log,
            filters_timeout_s=config.listener_filters_timeout_s,
            options=options,
            proxy_protocol=trusted,
            proxy_stats=proxy_stats,
            routes=_tcp_routes(config.tcp),
            secured=secured,
        )
    return HttpListener(
        name=config.name,
        routes=RouteTable(config.virtual_hosts),
        request_headers_timeout_s=config.request_headers_timeout_s,
        keepalive_timeout_s=config.keepalive_timeout_s,
        max_connections=config.max_connections,
        stats=HttpStats(slab, config.name),
        listener_stats=listener_stats,
        access_log=access_log,
        filters_timeout_s=config.listener_filters_timeout_s,
        options=options,
        proxy_protocol=trusted,
        proxy_stats=proxy_stats,
        xff_num_trusted_hops=config.xff_num_trusted_hops,
        secured=secured,
        certificate=config.forwarded_certificate,
        http2=config.http2,
    )


def _tcp_routes(config: model.Tcp) -> TcpRoutes | None:
    """None: everything goes to the one cluster."""
    if not config.routes and not config.weighted_clusters:
        return None
    by_name: dict[str, ClusterChoice] = {}
    for route in config.routes:
        choice = _choice(route.cluster, route.weighted_clusters)
        by_name.update(dict.fromkeys(route.sni, choice))
    has_rest = config.cluster or config.weighted_clusters
    return TcpRoutes(by_name, _choice(config.cluster, config.weighted_clusters) if has_rest else None)


def _choice(cluster: str, weighted_clusters: tuple[tuple[str, int], ...]) -> ClusterChoice:
    return ClusterChoice(weighted_clusters or ((cluster, 1),))


def _cluster(config: model.Cluster, slab: Slab, random_: random.Random, tls: UpstreamTls | None) -> Cluster:
    options = SocketOptions(config.socket_options)
    endpoints = tuple(Endpoint(endpoint.address, endpoint.weight, options) for endpoint in config.endpoints)
    return Cluster(
        name=config.name,
        endpoints=endpoints,
        balancer=POLICIES[config.lb_policy](endpoints, random_),
        connect_timeout_s=config.connect_timeout_s,
        idle_timeout_s=config.idle_timeout_s,
        stats=ClusterStats(slab, config.name),
        proxy_protocol=config.proxy_protocol,
        tls=tls,
        pass_through_tlvs=frozenset(config.pass_through_tlvs),
    )
