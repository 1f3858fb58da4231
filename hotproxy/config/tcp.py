"""The tcp section of a listener, nodes to model: one cluster, several by weight, or by the server name of clients."""

from __future__ import annotations

from typing import Final

from hotproxy.config import model, scalars, shapes
from hotproxy.config.clusters import use_cluster
from hotproxy.config.fields import Fields, describe
from hotproxy.config.names import Named
from hotproxy.config.references import refuse_duplicates
from hotproxy.config.scalars import ScalarError
from hotproxy.config.yaml_nodes import Mapping

_MAX_ATTEMPTS: Final = 100
_MAX_WEIGHT: Final = 1_000_000


def read_tcp(listener: Fields) -> model.Tcp | None:
    """The listener's `tcp`; None when it is no mapping (problems are collected)."""
    tcp = listener.section("tcp", shapes.TCP)
    if tcp is None:
        return None
    routes = _routes(tcp)
    if not tcp.has("routes") or tcp.has("cluster") or tcp.has("weighted_clusters"):
        tcp.exactly_one("cluster", "weighted_clusters")
    return model.Tcp(
        cluster=use_cluster(tcp) or "",
        idle_timeout_s=tcp.duration("idle_timeout", model.DEFAULT_TCP_IDLE_TIMEOUT_S),
        max_connect_attempts=tcp.integer("max_connect_attempts", model.DEFAULT_TCP_CONNECT_ATTEMPTS, 1, _MAX_ATTEMPTS),
        weighted_clusters=_weighted_clusters(tcp),
        routes=routes,
    )


def _routes(tcp: Fields) -> tuple[model.SniRoute, ...]:
    found = []
    names: list[Named] = []
    for item, where in tcp.items("routes", "[{sni: [db.example.com], cluster: db}]"):
        route = tcp.reader.section(item, shapes.SNI_ROUTE, where)
        if route is None:
            continue
        route.exactly_one("cluster", "weighted_clusters")
        own: list[str] = []
        if route.need("sni"):
            for name_node, at in route.items("sni", "[db.example.com]"):
                name = tcp.reader.value(name_node, scalars.server_name, at)
                if name is not None:
                    own.append(name)
                    names.append(Named(name, name_node, at))
        found.append(model.SniRoute(tuple(own), use_cluster(route) or "", _weighted_clusters(route)))
    refuse_duplicates("server name", names, tcp.reader.problems)
    return tuple(found)


def _weighted_clusters(fields: Fields) -> tuple[tuple[str, int], ...]:
    node = fields.get("weighted_clusters")
    if node is None or node.broken:
        return ()
    where = fields.at("weighted_clusters")
    if not isinstance(node, Mapping):
        hint = "write 'weighted_clusters: {db-new: 1, db: 9}'"
        fields.error(node, f"'weighted_clusters' must be a mapping, not {describe(node)}", hint, where)
        return ()
    found = []
    for name, (key, value) in node.entries.items():
        at = f"{where}.{name[:60]}"
        weight = fields.reader.value(value, _weight, at, key)
        fields.reader.names.cluster_uses.append(Named(name, key, at))
        if weight is not None:
            found.append((name, weight))
    _need_weight(fields, node, found, where)
    return tuple(found)


def _need_weight(fields: Fields, node: Mapping, found: list[tuple[str, int]], where: str) -> None:
    if not node.entries:
        fields.error(node, "'weighted_clusters' is empty", "", where)
    elif found and not any(weight for _, weight in found):
        fields.error(node, "all weights are 0", "", where)


def _weight(text: str) -> int:
    try:
        return scalars.whole_number(text, 0, _MAX_WEIGHT)
    except ScalarError as error:
        raise ScalarError(str(error), error.hint or "a weight is a share of the sum of all weights") from None
