"""Which fields exist, section by section: the table behind reading, "did you mean" and the reference's test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of section. `noun` names it in messages; `later` are fields of the product that this version lacks."""

    noun: str
    fields: tuple[str, ...]
    later: frozenset[str] = frozenset()
    example: str = ""  # for those who wrote something else than a mapping


_SCOPED_LATER: Final = ("retry", "request_headers", "response_headers", "filters")

_SOCKET_OPTIONS: Final = ("tcp_nodelay", "tcp_keepalive", "tcp_user_timeout")

CONFIG: Final = Shape(
    "the config",
    (
        "workers",
        "admin",
        "drain_timeout",
        "handoff_timeout",
        "orphan_timeout",
        "env_files",
        "include",
        "listeners",
        "clusters",
    ),
)
INCLUDED: Final = Shape("an included file", ("listeners", "clusters"))
ADMIN: Final = Shape("the admin section", ("address",), example='{address: "127.0.0.1:9901"}')
LISTENER: Final = Shape(
    "a listener",
    (
        "name", "address", "access_log", "virtual_hosts", "routes", "cluster", "tcp", "request_headers_timeout",
        "keepalive_timeout", "timeout", "idle_timeout", "max_connections", "backlog", "proxy_protocol",
        "listener_filters_timeout", *_SOCKET_OPTIONS, "tcp_defer_accept", "xff_num_trusted_hops",
        "http2", "tls", "forward_client_cert_details", "set_current_client_cert_details",
    ),
    frozenset({"weighted_clusters", *_SCOPED_LATER}),
)  # fmt: skip
CERTIFICATE_PARTS: Final = Shape(
    "a set_current_client_cert_details section", ("subject", "uri", "dns", "cert", "chain"), example="{cert: true}"
)
PROXY_PROTOCOL: Final = Shape("a proxy_protocol section", ("trusted", "required"), example='{trusted: ["10.0.0.0/8"]}')
ACCESS_LOG: Final = Shape("an access log", ("path", "format"), example="{path: /dev/stdout}")
LISTENER_TLS: Final = Shape(
    "a listener's tls section",
    (
        "certificates", "client_ca", "require_client_certificate", "client_san", "alpn", "min_version", "max_version",
        "cipher_suites", "strict_sni", "handshake_timeout", "max_handshakes",
    ),
    example="{certificates: [{cert: a.pem, key: a.key}]}",
)  # fmt: skip
CLUSTER_TLS: Final = Shape(
    "a cluster's tls section",
    (
        "ca", "certificate", "sni", "san", "alpn", "min_version", "max_version", "cipher_suites",
        "insecure_skip_verify",
    ),
    example="{sni: api.internal}",
)  # fmt: skip
CERTIFICATE: Final = Shape("a certificate", ("cert", "key"), example="{cert: a.pem, key: a.key}")
TCP: Final = Shape(
    "a tcp section",
    ("cluster", "weighted_clusters", "routes", "idle_timeout", "max_connect_attempts"),
    example="{cluster: db}",
)
TCP_KEEPALIVE: Final = Shape(
    "a tcp_keepalive section",
    ("keepalive_time", "keepalive_interval", "keepalive_probes"),
    example="{keepalive_time: 60s}",
)
SNI_ROUTE: Final = Shape("a route of a tcp section", ("sni", "cluster", "weighted_clusters"))
SOCKET_FILE: Final = Shape("a unix address", ("path", "mode", "owner", "group"))
VIRTUAL_HOST: Final = Shape(
    "a virtual host",
    ("name", "domains", "routes", "cluster", "timeout", "idle_timeout"),
    frozenset({"weighted_clusters", *_SCOPED_LATER}),
)
ROUTE: Final = Shape(
    "a route",
    (
        "name", "match", "cluster", "redirect", "direct_response", "prefix_rewrite", "host_rewrite", "timeout",
        "idle_timeout", "upgrades",
    ),
    frozenset({"weighted_clusters", "regex_rewrite", "stateful_session", "hash_policy", *_SCOPED_LATER}),
)  # fmt: skip
MATCH: Final = Shape(
    "a route match",
    ("prefix", "path", "methods", "headers", "client_subject", "client_san"),
    frozenset({"regex", "query", "grpc", "fraction"}),
    "{prefix: /}",
)
REDIRECT: Final = Shape(
    "a redirect",
    ("scheme", "host", "port", "path", "prefix_rewrite", "strip_query", "status"),
    frozenset({"regex_rewrite"}),
    "{path: /new}",
)
DIRECT_RESPONSE: Final = Shape("a direct response", ("status", "body"), example="{status: 200}")
CLUSTER: Final = Shape(
    "a cluster",
    (
        "name", "type", "endpoints", "lb_policy", "connect_timeout", "idle_timeout", "proxy_protocol",
        *_SOCKET_OPTIONS, "tls",
    ),
    frozenset({"http2", "health_check", "outlier_detection", "circuit_breakers", "slow_start"}),
)  # fmt: skip
PROXY_HEADER: Final = Shape(
    "a cluster's proxy_protocol section", ("version", "pass_through_tlvs"), example="{version: v2}"
)
ENDPOINT: Final = Shape("an endpoint", ("address", "weight"), frozenset({"priority", "zone", "metadata"}))

ALL: Final = (
    CONFIG, INCLUDED, ADMIN, LISTENER, CERTIFICATE_PARTS, PROXY_PROTOCOL, ACCESS_LOG, LISTENER_TLS, CLUSTER_TLS,
    CERTIFICATE, TCP, TCP_KEEPALIVE, SNI_ROUTE, SOCKET_FILE, VIRTUAL_HOST, ROUTE, MATCH, REDIRECT, DIRECT_RESPONSE,
    CLUSTER, PROXY_HEADER, ENDPOINT,
)  # fmt: skip
