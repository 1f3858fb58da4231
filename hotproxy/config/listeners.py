"""The listeners section, nodes to model: addresses, access log, what a listener does with its connections."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
from typing import Final

from hotproxy.config import model, scalars, shapes
from hotproxy.config.address import UNIX, Address, AddressError, checked_unix_path
from hotproxy.config.clusters import parse_address, read_name
from hotproxy.config.fields import Fields, Reader
from hotproxy.config.names import Named
from hotproxy.config.routes import Scope, read_routing, read_virtual_hosts
from hotproxy.config.socket_options import read_socket_options
from hotproxy.config.tcp import read_tcp
from hotproxy.config.tls import read_listener_tls
from hotproxy.config.yaml_nodes import Mapping, Node, Sequence, absolute

# The admin API's sockets travel through a restart under these names.
_RESERVED_NAMES: Final = ("admin", "admin.unix")
# Of one worker. Far above what any RLIMIT_NOFILE allows.
_MAX_CONNECTIONS: Final = 10_000_000
_MAX_BACKLOG: Final = 65535
_HTTP_ONLY: Final = (
    "request_headers_timeout", "keepalive_timeout", "timeout", "idle_timeout", "xff_num_trusted_hops", "http2",
    "forward_client_cert_details", "set_current_client_cert_details",
)  # fmt: skip
_CERTIFICATE_DETAILS: Final = (
    model.SANITIZE, model.SANITIZE_SET, model.APPEND_FORWARD, model.FORWARD_ONLY, model.ALWAYS_FORWARD_ONLY,
)  # fmt: skip
# More than there are proxies in any row.
_MAX_HOPS: Final = 100


def read_listener(reader: Reader, node: Node, where: str) -> model.Listener | None:
    """One listener; None when it is no mapping or has no name (problems are collected)."""
    fields = reader.section(node, shapes.LISTENER, where)
    if fields is None:
        return None
    name = read_name(fields, reader.names.listeners)
    if name in _RESERVED_NAMES:
        fields.error(
            fields.get("name") or node, f"the name '{name}' is reserved for the admin API", "", fields.at("name")
        )
    addresses = _addresses(fields) if fields.need("address") else ()
    access_log = _access_log(fields)
    tcp: model.Tcp | None = None
    virtual_hosts: tuple[model.VirtualHost, ...] = ()
    kind = fields.exactly_one("virtual_hosts", "routes", "cluster", "tcp", later=("weighted_clusters",))
    if kind == "tcp":
        for other in _HTTP_ONLY:
            if fields.has(other):
                hint = "did you mean 'tcp: {idle_timeout: …}'?" if other == "idle_timeout" else ""
                fields.error(fields.key(other), f"'{other}' has no effect on a tcp listener", hint)
        tcp = read_tcp(fields)
    elif kind == "virtual_hosts":
        virtual_hosts = read_virtual_hosts(fields, Scope().inner(fields))
    elif kind is not None:
        routes = read_routing(fields, Scope().inner(fields))
        virtual_hosts = (model.VirtualHost(name="*", domains=("*",), routes=routes),)
    headers_timeout_s = fields.duration("request_headers_timeout", model.DEFAULT_REQUEST_HEADERS_TIMEOUT_S)
    keepalive_timeout_s = fields.duration("keepalive_timeout", model.DEFAULT_KEEPALIVE_TIMEOUT_S)
    max_connections = fields.integer("max_connections", 0, 0, _MAX_CONNECTIONS)
    backlog = fields.integer("backlog", model.DEFAULT_BACKLOG, 1, _MAX_BACKLOG)
    proxy_protocol = _proxy_protocol(fields, addresses)
    filters_timeout_s = fields.duration("listener_filters_timeout", model.DEFAULT_LISTENER_FILTERS_TIMEOUT_S)
    options = read_socket_options(fields, listens=True)
    tls = read_listener_tls(fields, http=kind != "tcp")
    certificate = model.ForwardedCertificate()
    if kind != "tcp":
        certificate = _forwarded_certificate(fields, knows_clients=tls is not None and tls.client_ca is not None)
    if name is None:
        return None
    return model.Listener(
        name=name,
        addresses=addresses,
        access_log=access_log,
        tcp=tcp,
        virtual_hosts=virtual_hosts,
        request_headers_timeout_s=headers_timeout_s,
        keepalive_timeout_s=keepalive_timeout_s,
        max_connections=max_connections,
        backlog=backlog,
        proxy_protocol=proxy_protocol,
        listener_filters_timeout_s=filters_timeout_s,
        socket_options=options,
        xff_num_trusted_hops=fields.integer("xff_num_trusted_hops", 0, 0, _MAX_HOPS),
        http2=fields.boolean("http2", True),
        tls=tls,
        forwarded_certificate=certificate,
    )


def _forwarded_certificate(fields: Fields, knows_clients: bool) -> model.ForwardedCertificate:
    """`knows_clients`: they may have certificates."""
    name, parts = "forward_client_cert_details", "set_current_client_cert_details"
    default = model.ForwardedCertificate()
    details = fields.choice(name, _CERTIFICATE_DETAILS, default.details)
    if not knows_clients and details in (model.APPEND_FORWARD, model.FORWARD_ONLY):
        fields.error(fields.key(name), f"'{details}' needs 'client_ca' in 'tls'", "", fields.at(name))
    elif details == model.ALWAYS_FORWARD_ONLY:
        message = "whoever connects can say that it is the holder of any certificate"
        fields.reader.problems.warning(fields.key(name), message, "", fields.at(name))
    section = fields.section(parts, shapes.CERTIFICATE_PARTS)
    if section is None:
        return dataclasses.replace(default, details=details)
    if not knows_clients:
        fields.error(fields.key(parts), f"'{parts}' needs 'client_ca' in 'tls'", "", fields.at(parts))
    elif details not in (model.SANITIZE_SET, model.APPEND_FORWARD):
        fields.error(fields.key(parts), f"'{parts}' has no effect with '{details}'", "", fields.at(parts))
    return model.ForwardedCertificate(
        details,
        section.boolean("subject", default.subject),
        section.boolean("uri", default.uri),
        section.boolean("dns", default.dns),
        section.boolean("cert", default.cert),
        section.boolean("chain", default.chain),
    )


def _proxy_protocol(fields: Fields, addresses: tuple[Address, ...]) -> model.ProxyProtocol | None:
    section = fields.section("proxy_protocol", shapes.PROXY_PROTOCOL)
    if section is None:
        return None
    trusted: dict[str, None] = {}
    if section.need("trusted"):
        for item, at in section.items("trusted", '["10.0.0.0/8"]'):
            network = fields.reader.value(item, scalars.network_or_unix, at)
            if network is None:
                continue
            if network in trusted:
                section.error(item, f"'{network}' is given twice", "", at)
            if network == "unix" and addresses and all(address.family != UNIX for address in addresses):
                section.error(item, "'unix' has no effect on a listener without a unix address", "", at)
            trusted[network] = None
    return model.ProxyProtocol(tuple(trusted), section.boolean("required", True))


def _access_log(fields: Fields) -> model.AccessLog | None:
    log = fields.section("access_log", shapes.ACCESS_LOG)
    if log is None or not log.need("path"):
        return None
    node = log.get("path")
    path = log.value("path", scalars.plain_text)
    text = log.value("format", fields.reader.log_format)
    if node is None or path is None:
        return None
    path = absolute(node, path)
    _need_directory(fields.reader, node, path, log.at("path"))
    if not fields.reader.offline and os.path.isdir(path):
        log.error(node, f"'{path}' is a directory", "give the path of a file", log.at("path"))
    return model.AccessLog(path, text)


def _addresses(fields: Fields) -> tuple[Address, ...]:
    node = fields.get("address")
    assert node is not None
    if isinstance(node, Sequence):
        found = [read_address(fields.reader, item, at) for item, at in fields.items("address")]
    else:
        found = [read_address(fields.reader, node, fields.at("address"), fields.key("address"))]
    return tuple(address for address in found if address is not None)


def read_address(reader: Reader, node: Node, where: str, key: Node | None = None) -> Address | None:
    """An address to listen on, noted down among those taken; None when it is unfit."""
    if isinstance(node, Mapping):
        address = _socket_file(reader, node, where)
    else:
        address = reader.value(node, lambda text: _listen_address(node, text), where, key)
    if address is None:
        return None
    reader.names.addresses.append((address, Named(str(address), node, where)))
    if address.family == UNIX:
        _need_directory(reader, node, address.path, where)
    return address


def _listen_address(node: Node, text: str) -> Address:
    address = parse_address(node, text)
    if address.is_name:
        hint = f"did you mean '127.0.0.1:{address.port}'?" if address.host == "localhost" else "give an IP address"
        raise AddressError(f"'{address.host}' is a name, and a listener needs an IP address", hint)
    return address


def _socket_file(reader: Reader, node: Mapping, where: str) -> Address | None:
    fields = reader.section(node, shapes.SOCKET_FILE, where)
    if fields is None or not fields.need("path"):
        return None
    path = fields.value("path", lambda text: checked_unix_path(os.path.normpath(absolute(node, text))))
    mode = fields.value("mode", scalars.file_mode)
    owner = _known(fields, "owner")
    group = _known(fields, "group")
    if path is None:
        return None
    address = Address(UNIX, path=path, owner=owner, group=group)
    return address if mode is None else Address(UNIX, path=path, mode=mode, owner=owner, group=group)


def _known(fields: Fields, name: str) -> str:
    """The user or group that a socket file is to belong to: a name of this machine, or a number."""
    text = fields.value(name, scalars.plain_text) or ""
    node = fields.get(name)
    if not text or node is None or fields.reader.offline or (text.isascii() and text.isdigit()):
        return text
    try:
        if name == "owner":
            pwd.getpwnam(text)
        else:
            grp.getgrnam(text)
    except KeyError:
        noun = "user" if name == "owner" else "group"
        fields.error(node, f"no {noun} '{text}' on this machine", "", fields.at(name))
    return text


def _need_directory(reader: Reader, node: Node, path: str, where: str) -> None:
    directory = os.path.dirname(path)
    if not reader.offline and not os.path.isdir(directory):
        reader.problems.error(node, f"the directory '{directory}' does not exist", "", where)
