"""The config as the data path reads it: plain immutable values, scopes already resolved, nothing left to parse.

Plain slotted dataclasses, because every process keeps them: importing pydantic alone costs a generation 100-250 ms
and 19 MB before it serves. Every `*_s` is in seconds, and 0.0 means no limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hotproxy.config.address import Address

DEFAULT_DRAIN_TIMEOUT_S: Final = 30.0
# An answer within a restart takes milliseconds; a worker that needs seconds for it is as good as hung.
DEFAULT_HANDOFF_TIMEOUT_S: Final = 5.0
# How long a generation without a supervisor serves on: time for systemd to start a new one, several times over.
DEFAULT_ORPHAN_TIMEOUT_S: Final = 60.0
# Envoy's default for a route.
DEFAULT_TIMEOUT_S: Final = 15.0
# Envoy's stream_idle_timeout.
DEFAULT_STREAM_IDLE_TIMEOUT_S: Final = 300.0
# Envoy's idle_timeout of a connection manager, and of a TCP proxy.
DEFAULT_KEEPALIVE_TIMEOUT_S: Final = 3600.0
DEFAULT_TCP_IDLE_TIMEOUT_S: Final = 3600.0
# nginx waits 60 s, HAProxy recommends 5-10 s: enough for any client that is alive, short for one that drips bytes.
DEFAULT_REQUEST_HEADERS_TIMEOUT_S: Final = 10.0
DEFAULT_CONNECT_TIMEOUT_S: Final = 1.0
# Below the 75 s after which nginx, and the 65 s after which many a framework, closes an idle connection.
DEFAULT_UPSTREAM_IDLE_TIMEOUT_S: Final = 60.0
# The kernel takes min(backlog, net.core.somaxconn); 4096 is the latter's default since Linux 5.4.
DEFAULT_BACKLOG: Final = 4096
# One more endpoint when the first cannot be reached, as for HTTP.
DEFAULT_TCP_CONNECT_ATTEMPTS: Final = 2
# A handshake is two round trips; nginx waits 60 s, HAProxy as long as for a head.
DEFAULT_HANDSHAKE_TIMEOUT_S: Final = 10.0
# Of one worker and listener; each holds some 60 KiB until its client has proven itself.
DEFAULT_MAX_HANDSHAKES: Final = 1000
DEFAULT_MIN_VERSION: Final = "TLSv1.2"
DEFAULT_MAX_VERSION: Final = "TLSv1.3"

# Envoy's listener_filters_timeout: what must come before a connection begins, a PROXY header for instance.
DEFAULT_LISTENER_FILTERS_TIMEOUT_S: Final = 15.0

# What the TLVs of a PROXY header are called (proxy-protocol.txt of HAProxy, section 2.2), and every type there may be.
TLV_TYPES: Final = {
    "PP2_TYPE_ALPN": 0x01,
    "PP2_TYPE_AUTHORITY": 0x02,
    "PP2_TYPE_CRC32C": 0x03,
    "PP2_TYPE_NOOP": 0x04,
    "PP2_TYPE_UNIQUE_ID": 0x05,
    "PP2_TYPE_SSL": 0x20,
    "PP2_TYPE_NETNS": 0x30,
}
ALL_TLVS: Final = tuple(range(256))

ROUND_ROBIN: Final = "round_robin"
LEAST_REQUEST: Final = "least_request"
RANDOM: Final = "random"


@dataclass(frozen=True, slots=True)
class AccessLog:
    """One line per exchange. `format` is "json", a format string with %OPERATORS%, or None for Envoy's default."""

    path: str
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """An answer that sends the client elsewhere; what is None stays as in the request."""

    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    prefix_rewrite: str | None = None
    strip_query: bool = False
    status: int = 301


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """An answer that comes from the config itself."""

    status: int
    body: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One of `prefix` and `path` says what matches; one of `cluster`, `redirect` and `direct_response` what follows.

    `methods` empty: every method. `headers`: (name in lower case, exact value), all of which must be there.
    `client_subject` and `client_san` match what the client's certificate says, one of the latter.
    """

    name: str = ""
    prefix: str | None = None
    path: str | None = None
    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()
    client_subject: str | None = None
    client_san: tuple[str, ...] = ()
    cluster: str | None = None
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    prefix_rewrite: str | None = None
    host_rewrite: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    idle_timeout_s: float = DEFAULT_STREAM_IDLE_TIMEOUT_S
    upgrades: frozenset[str] = frozenset({"websocket"})


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """Routes for some hosts; the first that matches wins. `domains`, in lower case: an exact name, `*.suffix`, `*`."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class SniRoute:
    """The cluster, or one of several by weight, of TLS clients that ask for one of these names."""

    sni: tuple[str, ...]
    cluster: str = ""
    weighted_clusters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Tcp:
    """Bytes to a cluster. `cluster` or `weighted_clusters` are for whatever no route names; without either, nothing is.

    `max_connect_attempts` counts the first one too.
    """

    cluster: str = ""
    idle_timeout_s: float = DEFAULT_TCP_IDLE_TIMEOUT_S
    max_connect_attempts: int = DEFAULT_TCP_CONNECT_ATTEMPTS
    weighted_clusters: tuple[tuple[str, int], ...] = ()
    routes: tuple[SniRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """Probes on a connection on which nothing moves. 0: what the kernel says (net.ipv4.tcp_keepalive_*)."""

    keepalive_time_s: float = 0.0
    keepalive_interval_s: float = 0.0
    keepalive_probes: int = 0


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Of every TCP connection of a listener or a cluster. `tcp_defer_accept_s` is of listeners alone."""

    tcp_nodelay: bool = True
    tcp_keepalive: TcpKeepalive | None = None
    tcp_user_timeout_s: float = 0.0
    tcp_defer_accept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    """Whose PROXY headers are read: networks in canonical form, and "unix" for every client of a unix socket."""

    trusted: tuple[str, ...]
    required: bool = True


# Envoy's words for what becomes of x-forwarded-client-cert.
SANITIZE: Final = "sanitize"
SANITIZE_SET: Final = "sanitize_set"
APPEND_FORWARD: Final = "append_forward"
FORWARD_ONLY: Final = "forward_only"
ALWAYS_FORWARD_ONLY: Final = "always_forward_only"


@dataclass(frozen=True, slots=True)
class ForwardedCertificate:
    """What endpoints learn of a client's certificate: the mode, and the parts besides By and Hash."""

    details: str = SANITIZE_SET
    subject: bool = True
    uri: bool = True
    dns: bool = True
    cert: bool = False
    chain: bool = False


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of a certificate with its chain, and of its key."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """How a listener proves who it is, and whom it believes. `client_ca` None: clients need no certificate."""

    certificates: tuple[CertificateFiles, ...]
    client_ca: str | None = None
    require_client_certificate: bool = True
    client_san: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    min_version: str = DEFAULT_MIN_VERSION
    max_version: str = DEFAULT_MAX_VERSION
    cipher_suites: tuple[str, ...] = ()  # of TLS 1.2, OpenSSL's names; empty: the default list
    strict_sni: bool = False
    handshake_timeout_s: float = DEFAULT_HANDSHAKE_TIMEOUT_S
    max_handshakes: int = DEFAULT_MAX_HANDSHAKES


@dataclass(frozen=True, slots=True)
class ClusterTls:
    """How endpoints are reached by TLS. `ca` None: the system's; `sni` "": none is sent; `san` empty: the sni, or else
    the endpoint's address."""

    ca: str | None = None
    certificate: CertificateFiles | None = None
    sni: str = ""
    san: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    min_version: str = DEFAULT_MIN_VERSION
    max_version: str = DEFAULT_MAX_VERSION
    cipher_suites: tuple[str, ...] = ()
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """Where clients come in: HTTP when `tcp` is None, and then with at least one virtual host."""

    name: str
    addresses: tuple[Address, ...]
    access_log: AccessLog | None = None
    tcp: Tcp | None = None
    virtual_hosts: tuple[VirtualHost, ...] = ()
    request_headers_timeout_s: float = DEFAULT_REQUEST_HEADERS_TIMEOUT_S
    keepalive_timeout_s: float = DEFAULT_KEEPALIVE_TIMEOUT_S
    max_connections: int = 0  # 0 = no limit
    backlog: int = DEFAULT_BACKLOG
    proxy_protocol: ProxyProtocol | None = None
    listener_filters_timeout_s: float = DEFAULT_LISTENER_FILTERS_TIMEOUT_S
    socket_options: SocketOptions = SocketOptions()
    xff_num_trusted_hops: int = 0  # proxies in front of us that append to x-forwarded-for
    http2: bool = True  # without TLS: what a client begins with
    tls: ListenerTls | None = None
    forwarded_certificate: ForwardedCertificate = ForwardedCertificate()


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One place where a cluster is reached. It gets `weight` shares of the sum of all weights."""

    address: Address
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Cluster:
    """Endpoints that do the same job, and how one of them is chosen."""

    name: str
    endpoints: tuple[EndpointConfig, ...]
    type: str = "static"
    lb_policy: str = ROUND_ROBIN  # Envoy's default
    connect_timeout_s: float = DEFAULT_CONNECT_TIMEOUT_S
    idle_timeout_s: float = DEFAULT_UPSTREAM_IDLE_TIMEOUT_S
    proxy_protocol: int = 0  # 1 or 2: the version of the header that begins each connection; 0: none
    socket_options: SocketOptions = SocketOptions()
    tls: ClusterTls | None = None
    pass_through_tlvs: tuple[int, ...] = ()  # types of the TLVs that it takes over from the client's; ALL_TLVS


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin API over TCP, besides its unix socket."""

    address: Address


@dataclass(frozen=True, slots=True)
class Config:
    """Everything, after all includes. `workers` 0: one per CPU that this process may use."""

    workers: int = 0
    admin: Admin | None = None
    drain_timeout_s: float = DEFAULT_DRAIN_TIMEOUT_S
    handoff_timeout_s: float = DEFAULT_HANDOFF_TIMEOUT_S
    orphan_timeout_s: float = DEFAULT_ORPHAN_TIMEOUT_S
    listeners: tuple[Listener, ...] = ()
    clusters: tuple[Cluster, ...] = ()
