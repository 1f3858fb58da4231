"""The clusters section, nodes to model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from hotproxy.config import model, scalars, shapes
from hotproxy.config.address import UNIX, Address, AddressError
from hotproxy.config.fields import NOT_YET, Fields, Reader
from hotproxy.config.names import Named
from hotproxy.config.proxy_header import read_proxy_header
from hotproxy.config.socket_options import read_socket_options
from hotproxy.config.tls import read_cluster_tls
from hotproxy.config.yaml_nodes import Mapping, Node, absolute

_LATER_TYPES: Final = ("strict_dns", "logical_dns", "srv")
_LATER_POLICIES: Final = ("ring_hash", "maglev", "peak_ewma")
_POLICIES: Final = (model.ROUND_ROBIN, model.LEAST_REQUEST, model.RANDOM)
# Smooth weighted round robin adds weights up; a million is finer than any share anyone needs.
_MAX_WEIGHT: Final = 1_000_000


def read_cluster(reader: Reader, node: Node, where: str) -> model.Cluster | None:
    """One cluster; None when it is no mapping or has no name (problems are collected)."""
    fields = reader.section(node, shapes.CLUSTER, where)
    if fields is None:
        return None
    name = read_name(fields, reader.names.clusters)
    fields.choice("type", ("static",), "static", _LATER_TYPES)
    endpoints: dict[str, model.EndpointConfig] = {}
    if fields.need("endpoints"):
        for item, at in fields.items("endpoints", '["127.0.0.1:9000"]'):
            endpoint = _endpoint(reader, item, at)
            if endpoint is None:
                continue
            key = str(endpoint.address)
            if key in endpoints:
                reader.problems.error(item, f"the endpoint '{key}' is given twice", "give it a 'weight' instead", at)
            endpoints[key] = endpoint
    lb_policy = fields.choice("lb_policy", _POLICIES, model.ROUND_ROBIN, _LATER_POLICIES)
    connect_timeout_s = fields.duration("connect_timeout", model.DEFAULT_CONNECT_TIMEOUT_S)
    idle_timeout_s = fields.duration("idle_timeout", model.DEFAULT_UPSTREAM_IDLE_TIMEOUT_S)
    proxy_protocol, tlvs = read_proxy_header(fields)
    options = read_socket_options(fields, listens=False)
    tls = read_cluster_tls(fields)
    _need_name(fields, tls, endpoints.values())
    if name is None:
        return None
    return model.Cluster(
        name=name,
        endpoints=tuple(endpoints.values()),
        lb_policy=lb_policy,
        connect_timeout_s=connect_timeout_s,
        idle_timeout_s=idle_timeout_s,
        proxy_protocol=proxy_protocol,
        socket_options=options,
        tls=tls,
        pass_through_tlvs=tlvs,
    )


def _need_name(fields: Fields, tls: model.ClusterTls | None, endpoints: Iterable[model.EndpointConfig]) -> None:
    """A unix socket has no name that its certificate could show."""
    if tls is None or tls.sni or tls.san or tls.insecure_skip_verify:
        return
    if any(endpoint.address.family == UNIX for endpoint in endpoints):
        message = "a unix socket has no name that its certificate could show"
        fields.error(fields.key("tls"), message, "give 'sni' or 'san'", fields.at("tls"))


def read_name(fields: Fields, into: list[Named]) -> str | None:
    """The section's `name`, noted down in `into`; None when it is missing or unfit."""
    if not fields.need("name"):
        return None
    name = fields.value("name", scalars.stat_name)
    node = fields.get("name")
    if name is not None and node is not None:
        into.append(Named(name, node, fields.where))
    return name


def use_cluster(fields: Fields) -> str | None:
    """The section's `cluster`, noted down as a reference; None when it is missing or unfit."""
    name = fields.value("cluster", scalars.plain_text)
    node = fields.get("cluster")
    if name is not None and node is not None:
        fields.reader.names.cluster_uses.append(Named(name, node, fields.at("cluster")))
    return name


def parse_address(node: Node, text: str) -> Address:
    """An address in a config file: a relative socket path belongs to the file's directory. Raises AddressError."""
    path = text.removeprefix("unix:")
    if path != text and path and not path.startswith(("/", "@")):
        text = f"unix:{os.path.normpath(absolute(node, path))}"
    return Address.parse(text)


def _endpoint(reader: Reader, node: Node, where: str) -> model.EndpointConfig | None:
    if not isinstance(node, Mapping):
        address = reader.value(node, lambda text: _endpoint_address(node, text), where)
        return None if address is None else model.EndpointConfig(address)
    fields = reader.section(node, shapes.ENDPOINT, where)
    if fields is None:
        return None
    address = fields.value("address", lambda text: _endpoint_address(node, text)) if fields.need("address") else None
    weight = fields.integer("weight", 1, 1, _MAX_WEIGHT)
    return None if address is None else model.EndpointConfig(address, weight)


def _endpoint_address(node: Node, text: str) -> Address:
    address = parse_address(node, text)
    if address.family == UNIX:
        return address
    if address.is_name:
        hint = f"type 'strict_dns' is {NOT_YET}: give an IP address"
        raise AddressError(f"'{address.host}' is a name, and a static cluster takes IP addresses", hint)
    if address.host in ("", "0.0.0.0", "::"):
        raise AddressError(f"nothing can be reached at '{text}'", f"did you mean '127.0.0.1:{address.port}'?")
    if "%" in address.host:
        raise AddressError(f"'{address.host}' has a zone", "an endpoint is an address without one")
    if address.port == 0:
        raise AddressError("port 0 is out of range", "from 1 to 65535")
    return address
