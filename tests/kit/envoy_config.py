"""Envoy's config, as Envoy's own tree, in pieces: for tests and benchmarks, which each need other ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TYPE = "type.googleapis.com/envoy.extensions"
FILTERS = f"{TYPE}.filters"


def address(text: str) -> dict[str, Any]:
    host, _, port = text.partition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def cluster(name: str, endpoints: Sequence[str], **more: Any) -> dict[str, Any]:
    found = [{"endpoint": {"address": address(each)}} for each in endpoints]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]}
    return {"name": name, "type": "STATIC", "load_assignment": assignment, **more}


def route(prefix: str, cluster: str, **more: Any) -> dict[str, Any]:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster, **more}}


def virtual_host(name: str, domains: Sequence[str], routes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "domains": domains, "routes": routes}


def http_listener(
    name: str, where: str, virtual_hosts: Sequence[dict[str, Any]], *, reuse_port: bool = True, **more: Any
) -> dict[str, Any]:
    """`more` is for its connection manager."""
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": virtual_hosts},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}],
        **more,
    }
    return _listener(name, where, "http", manager, reuse_port)


def tcp_listener(name: str, where: str, cluster: str) -> dict[str, Any]:
    proxy = {"@type": f"{FILTERS}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": cluster}
    return _listener(name, where, "tcp", proxy, True)


def _listener(name: str, where: str, kind: str, config: dict[str, Any], reuse_port: bool) -> dict[str, Any]:
    chain = {"filters": [{"name": kind, "typed_config": config}]}
    return {"name": name, "address": address(where), "enable_reuse_port": reuse_port, "filter_chains": [chain]}


def document(
    listeners: Sequence[dict[str, Any]], clusters: Sequence[dict[str, Any]], admin_path: str = ""
) -> dict[str, Any]:
    """A whole config; the admin API on a unix socket, if it is to have one."""
    resources = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    return resources | ({"admin": {"address": {"pipe": {"path": admin_path}}}} if admin_path else {})
