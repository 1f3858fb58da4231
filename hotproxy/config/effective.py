"""A config as hotproxy understands it, back to YAML: every default written out, every scope resolved into its routes.

What comes out loads to the same model. Left out is only what has no text of its own: an access log's default format.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from decimal import Decimal
from typing import Any, Final

import yaml

from hotproxy.config import model
from hotproxy.config.address import UNIX, Address
from hotproxy.config.scalars import duration_s
from hotproxy.config.secrets import Shown
from hotproxy.config.tls import DEFAULT_CIPHERS

AS_IT_IS: Final = Shown()


def effective_yaml(config: model.Config, show: Shown = AS_IT_IS) -> str:
    """The whole config; `show` is asked about every text that may hold a secret, and gives what is written for it."""
    return to_yaml(_config(config, show))


def config_digest(config: model.Config) -> str:
    """SHA-256 in hex: equal for configs that mean the same, whatever their files look like."""
    return hashlib.sha256(effective_yaml(config).encode()).hexdigest()


def to_yaml(tree: dict[str, Any]) -> str:
    """YAML of texts, numbers, lists and maps, whose texts are taken literally: a dollar begins no variable."""
    text: str = yaml.dump(_literal(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _literal(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {name: _literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value


def duration_text(seconds: float) -> str:
    """What `duration_s` reads as exactly `seconds`, in the largest unit that gives a whole number."""
    for unit, size_s in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)):
        count = round(seconds / size_s)
        text = f"{count}{unit}"
        if count > 0 and duration_s(text) == seconds:
            return text
    return f"{Decimal(repr(seconds)):f}s".replace(".0s", "s")


def _config(config: model.Config, show: Shown) -> dict[str, Any]:
    tree: dict[str, Any] = {"workers": config.workers or "auto"}
    if config.admin is not None:
        tree["admin"] = {"address": str(config.admin.address)}
    tree["drain_timeout"] = duration_text(config.drain_timeout_s)
    tree["handoff_timeout"] = duration_text(config.handoff_timeout_s)
    tree["orphan_timeout"] = duration_text(config.orphan_timeout_s)
    tree["listeners"] = [_listener(listener, show) for listener in config.listeners]
    tree["clusters"] = [_cluster(cluster, show) for cluster in config.clusters]
    return tree


def _listener(listener: model.Listener, show: Shown) -> dict[str, Any]:
    addresses = [_address(address, show) for address in listener.addresses]
    tree: dict[str, Any] = {"name": listener.name, "address": addresses[0] if len(addresses) == 1 else addresses}
    log = listener.access_log
    if log is not None:
        tree["access_log"] = {"path": show.text(log.path)} | (
            {} if log.format is None else {"format": show.format(log.format)}
        )
    if listener.tcp is not None:
        tree["tcp"] = {
            **_target(listener.tcp.cluster, listener.tcp.weighted_clusters),
            **_sni_routes(listener.tcp.routes),
            "idle_timeout": duration_text(listener.tcp.idle_timeout_s),
            "max_connect_attempts": listener.tcp.max_connect_attempts,
        }
    else:
        tree["request_headers_timeout"] = duration_text(listener.request_headers_timeout_s)
        tree["keepalive_timeout"] = duration_text(listener.keepalive_timeout_s)
        tree["xff_num_trusted_hops"] = listener.xff_num_trusted_hops
        tree["http2"] = listener.http2
        tree |= _forwarded_certificate(listener)
    tree["max_connections"] = listener.max_connections
    tree["backlog"] = listener.backlog
    if listener.proxy_protocol is not None:
        tree["proxy_protocol"] = {
            "trusted": list(listener.proxy_protocol.trusted),
            "required": listener.proxy_protocol.required,
        }
    tree["listener_filters_timeout"] = duration_text(listener.listener_filters_timeout_s)
    tree |= _socket_options(listener.socket_options)
    tree["tcp_defer_accept"] = duration_text(listener.socket_options.tcp_defer_accept_s)
    if listener.tls is not None:
        tree["tls"] = _listener_tls(listener.tls, show)
    if listener.tcp is None:
        names = Counter(host.name for host in listener.virtual_hosts)
        tree["virtual_hosts"] = [_virtual_host(host, names[host.name] > 1, show) for host in listener.virtual_hosts]
    return tree


def _forwarded_certificate(listener: model.Listener) -> dict[str, Any]:
    """Without `client_ca` there is nothing to choose, but whether to believe everybody."""
    rule = listener.forwarded_certificate
    tree: dict[str, Any] = {}
    knows_clients = listener.tls is not None and listener.tls.client_ca is not None
    if knows_clients or rule.details != model.SANITIZE_SET:
        tree["forward_client_cert_details"] = rule.details
    if knows_clients and rule.details in (model.SANITIZE_SET, model.APPEND_FORWARD):
        parts = {"subject": rule.subject, "uri": rule.uri, "dns": rule.dns, "cert": rule.cert, "chain": rule.chain}
        tree["set_current_client_cert_details"] = parts
    return tree


def _socket_options(options: model.SocketOptions) -> dict[str, Any]:
    tree: dict[str, Any] = {"tcp_nodelay": options.tcp_nodelay}
    keepalive = options.tcp_keepalive
    if keepalive is not None:
        tree["tcp_keepalive"] = {
            "keepalive_time": duration_text(keepalive.keepalive_time_s),
            "keepalive_interval": duration_text(keepalive.keepalive_interval_s),
            **({"keepalive_probes": keepalive.keepalive_probes} if keepalive.keepalive_probes else {}),
        }
    return tree | {"tcp_user_timeout": duration_text(options.tcp_user_timeout_s)}


def _target(cluster: str, weighted_clusters: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    if weighted_clusters:
        return {"weighted_clusters": dict(weighted_clusters)}
    return {"cluster": cluster} if cluster else {}


def _sni_routes(routes: tuple[model.SniRoute, ...]) -> dict[str, Any]:
    found = [{"sni": list(route.sni), **_target(route.cluster, route.weighted_clusters)} for route in routes]
    return {"routes": found} if found else {}


def _listener_tls(tls: model.ListenerTls, show: Shown) -> dict[str, Any]:
    tree: dict[str, Any] = {"certificates": [_certificate(pair, show) for pair in tls.certificates]}
    if tls.client_ca is not None:
        tree["client_ca"] = show.text(tls.client_ca)
        tree["require_client_certificate"] = tls.require_client_certificate
        if tls.client_san:
            tree["client_san"] = list(tls.client_san)
    tree |= _tls_rules(tls)
    tree["strict_sni"] = tls.strict_sni
    tree["handshake_timeout"] = duration_text(tls.handshake_timeout_s)
    tree["max_handshakes"] = tls.max_handshakes
    return tree


def _cluster_tls(tls: model.ClusterTls, show: Shown) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if tls.ca is not None:
        tree["ca"] = show.text(tls.ca)
    if tls.certificate is not None:
        tree["certificate"] = _certificate(tls.certificate, show)
    if tls.sni:
        tree["sni"] = tls.sni
    if tls.san:
        tree["san"] = list(tls.san)
    tree |= _tls_rules(tls)
    tree["insecure_skip_verify"] = tls.insecure_skip_verify
    return tree


def _tls_rules(tls: model.ListenerTls | model.ClusterTls) -> dict[str, Any]:
    tree: dict[str, Any] = {"alpn": list(tls.alpn)} if tls.alpn else {}
    tree |= {"min_version": tls.min_version, "max_version": tls.max_version}
    tree["cipher_suites"] = list(tls.cipher_suites or DEFAULT_CIPHERS)
    return tree


def _certificate(pair: model.CertificateFiles, show: Shown) -> dict[str, str]:
    return {"cert": show.text(pair.cert), "key": show.text(pair.key)}


def _address(address: Address, show: Shown) -> object:
    if address.family != UNIX:
        return str(address)
    tree = {
        "path": show.text(address.path),
        "mode": f"{address.mode:03o}",
        "owner": address.owner,
        "group": address.group,
    }
    return {name: value for name, value in tree.items() if value}


def _virtual_host(host: model.VirtualHost, shared: bool, show: Shown) -> dict[str, Any]:
    # A name that was left out is the first domain, and may be what another one was called on purpose.
    tree: dict[str, Any] = {} if shared and host.name == host.domains[0] else {"name": host.name}
    tree["domains"] = list(host.domains)
    for route in host.routes:
        if route.cluster is None:  # takes no timeouts of its own: those of its scope, the same for all of them
            tree["timeout"] = duration_text(route.timeout_s)
            tree["idle_timeout"] = duration_text(route.idle_timeout_s)
            break
    tree["routes"] = [_route(route, show) for route in host.routes]
    return tree


def _route(route: model.Route, show: Shown) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if route.path is not None:
        match["path"] = show.text(route.path)
    else:
        match["prefix"] = show.text(route.prefix or "")
    if route.methods:
        match["methods"] = sorted(route.methods)
    if route.headers:
        match["headers"] = {name: show.header(name, value) for name, value in route.headers}
    if route.client_subject is not None:
        match["client_subject"] = route.client_subject
    if route.client_san:
        match["client_san"] = list(route.client_san)
    tree: dict[str, Any] = {"name": route.name} if route.name else {}
    tree["match"] = match
    if route.redirect is not None:
        tree["redirect"] = _redirect(route.redirect, show)
    elif route.direct_response is not None:
        tree["direct_response"] = {
            "status": route.direct_response.status,
            "body": show.text(route.direct_response.body),
        }
    else:
        tree["cluster"] = route.cluster
        if route.prefix_rewrite is not None:
            tree["prefix_rewrite"] = show.text(route.prefix_rewrite)
        if route.host_rewrite is not None:
            tree["host_rewrite"] = show.text(route.host_rewrite)
        tree["timeout"] = duration_text(route.timeout_s)
        tree["idle_timeout"] = duration_text(route.idle_timeout_s)
        tree["upgrades"] = sorted(route.upgrades)
    return tree


def _redirect(redirect: model.Redirect, show: Shown) -> dict[str, Any]:
    texts = {
        "scheme": redirect.scheme,
        "host": redirect.host,
        "port": redirect.port,
        "path": redirect.path,
        "prefix_rewrite": redirect.prefix_rewrite,
    }
    given = {name: show.text(value) if isinstance(value, str) else value for name, value in texts.items() if value}
    return given | {"strip_query": redirect.strip_query, "status": redirect.status}


def _cluster(cluster: model.Cluster, show: Shown) -> dict[str, Any]:
    announces: dict[str, Any] = {}
    if cluster.pass_through_tlvs:
        every = cluster.pass_through_tlvs == model.ALL_TLVS
        tlvs = "all" if every else [f"{kind:#04x}" for kind in cluster.pass_through_tlvs]
        announces = {"proxy_protocol": {"version": f"v{cluster.proxy_protocol}", "pass_through_tlvs": tlvs}}
    elif cluster.proxy_protocol:
        announces = {"proxy_protocol": f"v{cluster.proxy_protocol}"}
    return {
        "name": cluster.name,
        "type": cluster.type,
        "lb_policy": cluster.lb_policy,
        "connect_timeout": duration_text(cluster.connect_timeout_s),
        "idle_timeout": duration_text(cluster.idle_timeout_s),
        **announces,
        **_socket_options(cluster.socket_options),
        "endpoints": [
            {
                "address": f"unix:{show.text(each.address.path)}" if each.address.family == UNIX else str(each.address),
                "weight": each.weight,
            }
            for each in cluster.endpoints
        ],
    } | ({} if cluster.tls is None else {"tls": _cluster_tls(cluster.tls, show)})
