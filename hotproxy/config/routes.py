"""Virtual hosts and routes, nodes to model; the settings of outer scopes are resolved here, the nearest one wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hotproxy.config import model, scalars, shapes, tls
from hotproxy.config.clusters import use_cluster
from hotproxy.config.fields import NOT_YET, Fields, Reader
from hotproxy.config.names import Named
from hotproxy.config.references import place, refuse_duplicates
from hotproxy.config.yaml_nodes import Mapping, Node

_REDIRECT_STATUSES: Final = ("301", "302", "303", "307", "308")
# RFC 9110 section 6.4.1: these have no content.
_BODYLESS: Final = (204, 205, 304)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a listener or virtual host sets for the routes inside it; times in seconds."""

    timeout_s: float = model.DEFAULT_TIMEOUT_S
    idle_timeout_s: float = model.DEFAULT_STREAM_IDLE_TIMEOUT_S

    def inner(self, fields: Fields) -> Scope:
        """This scope with what `fields` set on top."""
        timeout_s = fields.duration("timeout", self.timeout_s)
        return Scope(timeout_s, fields.duration("idle_timeout", self.idle_timeout_s))


def read_virtual_hosts(fields: Fields, scope: Scope) -> tuple[model.VirtualHost, ...]:
    """The `virtual_hosts` of a listener. A domain belongs to one of them."""
    domains: list[Named] = []
    names: list[Named] = []
    found = []
    for item, where in fields.items("virtual_hosts", "[{domains: [...], routes: [...]}]"):
        host = _virtual_host(fields.reader, item, where, scope, domains, names)
        if host is not None:
            found.append(host)
    refuse_duplicates("domain", domains, fields.reader.problems)
    refuse_duplicates("virtual host", names, fields.reader.problems)
    return tuple(found)


def _virtual_host(
    reader: Reader, node: Node, where: str, scope: Scope, domains: list[Named], names: list[Named]
) -> model.VirtualHost | None:
    fields = reader.section(node, shapes.VIRTUAL_HOST, where)
    if fields is None:
        return None
    own: list[str] = []
    if fields.need("domains"):
        for item, at in fields.items("domains", '["*"]'):
            domain = reader.value(item, scalars.domain, at)
            if domain is not None:
                own.append(domain)
                domains.append(Named(domain, item, at))
    name = fields.value("name", scalars.free_name)
    name_node = fields.get("name")
    if name is not None and name_node is not None:
        names.append(Named(name, name_node, fields.at("name")))
    routes: tuple[model.Route, ...] = ()
    if fields.exactly_one("routes", "cluster", later=("weighted_clusters",)) is not None:
        routes = read_routing(fields, scope.inner(fields))
    return model.VirtualHost(name or (own[0] if own else ""), tuple(own), routes)


def read_routing(fields: Fields, scope: Scope) -> tuple[model.Route, ...]:
    """The routes of a section that has either `routes` or a `cluster` for everything."""
    if fields.has("cluster"):
        cluster = use_cluster(fields)
        route = model.Route(prefix="/", cluster=cluster, timeout_s=scope.timeout_s, idle_timeout_s=scope.idle_timeout_s)
        return (route,)
    found = []
    shadows = _Shadows(fields.reader)
    for item, where in fields.items("routes", "[{match: {prefix: /}, cluster: ...}]"):
        route_fields = fields.reader.section(item, shapes.ROUTE, where)
        if route_fields is None:
            continue
        read = _route(route_fields, scope)
        shadows.meet(route_fields, read)
        found.append(read)
    return tuple(found)


def _route(fields: Fields, scope: Scope) -> model.Route:
    match = fields.section("match", shapes.MATCH) if fields.need("match") else None
    prefix = path = None
    methods: frozenset[str] = frozenset()
    headers: tuple[tuple[str, str], ...] = ()
    subject: str | None = None
    sans: tuple[str, ...] = ()
    if match is not None:
        kind = match.exactly_one("prefix", "path", later=("regex", "query", "grpc"))
        prefix = match.value("prefix", scalars.path_prefix) if kind == "prefix" else None
        path = match.value("path", scalars.whole_path) if kind == "path" else None
        methods = frozenset(_texts(match, "methods", "[GET]"))
        headers = _headers(match)
        subject = match.value("client_subject", scalars.plain_text)
        sans = tls.texts(match, "client_san", tls.san)
    cluster = redirect = direct_response = None
    action = fields.exactly_one("cluster", "redirect", "direct_response", later=("weighted_clusters",))
    if action == "cluster":
        cluster = use_cluster(fields)
    elif action == "redirect":
        redirect = _redirect(fields)
    elif action == "direct_response":
        direct_response = _direct_response(fields)
    if action in ("redirect", "direct_response"):
        fields.only_with("cluster", "prefix_rewrite", "host_rewrite", "timeout", "idle_timeout", "upgrades")
    inner = scope.inner(fields)
    upgrades = model.Route().upgrades
    if fields.has("upgrades"):
        upgrades = frozenset(_upgrades(fields))
    return model.Route(
        name=fields.value("name", scalars.free_name) or "",
        prefix=prefix,
        path=path,
        methods=methods,
        headers=headers,
        client_subject=subject,
        client_san=sans,
        cluster=cluster,
        redirect=redirect,
        direct_response=direct_response,
        prefix_rewrite=fields.value("prefix_rewrite", scalars.url_path),
        host_rewrite=fields.value("host_rewrite", scalars.host_and_port),
        timeout_s=inner.timeout_s,
        idle_timeout_s=inner.idle_timeout_s,
        upgrades=upgrades,
    )


def _texts(fields: Fields, name: str, example: str) -> list[str]:
    read = [(fields.reader.value(item, scalars.method, at), item) for item, at in fields.items(name, example)]
    return [text for text, _ in read if text is not None]


def _upgrades(fields: Fields) -> list[str]:
    """Names of the Upgrade header; matched without regard to case (RFC 9110 section 7.8)."""
    items = fields.items("upgrades", "[websocket]", empty=True)
    found = [fields.reader.value(item, scalars.upgrade, at) for item, at in items]
    return [text for text in found if text is not None]


def _headers(match: Fields) -> tuple[tuple[str, str], ...]:
    node = match.get("headers")
    if node is None or node.broken:
        return ()
    if not isinstance(node, Mapping):
        match.error(
            match.key("headers"),
            "'headers' must be a mapping",
            "write 'headers: {x-name: \"value\"}'",
            match.at("headers"),
        )
        return ()
    found: dict[str, str] = {}
    for name, (key, value) in node.entries.items():
        where = f"{match.at('headers')}.{name[:60]}"
        try:
            lower = scalars.header_name(name)
        except scalars.ScalarError as error:
            match.error(key, str(error), error.hint, where)
            continue
        if lower in found:
            match.error(
                key, f"the header '{lower}' is given twice", "the case of a header's name does not matter", where
            )
        if isinstance(value, Mapping):
            match.error(value, f"a header matcher other than an exact value is {NOT_YET}", "", where)
            continue
        text = match.reader.value(value, scalars.header_value, where, key)
        if text is not None:
            found[lower] = text
    return tuple(found.items())


def _redirect(fields: Fields) -> model.Redirect | None:
    redirect = fields.section("redirect", shapes.REDIRECT)
    if redirect is None:
        return None
    if redirect.has("path") and redirect.has("prefix_rewrite"):
        second = [name for name in redirect.node.entries if name in ("path", "prefix_rewrite")][1]
        redirect.error(redirect.key(second), "a redirect takes only one of 'path' or 'prefix_rewrite'")
    changes = ("scheme", "host", "port", "path", "prefix_rewrite", "strip_query", "regex_rewrite")
    if not any(redirect.has(name) for name in changes):
        message = "this redirect leads to where it came from"
        redirect.error(redirect.node, message, "give it a 'path', 'host', 'scheme', 'port' or 'prefix_rewrite'")
    scheme = redirect.choice("scheme", ("http", "https"), "") or None
    port = redirect.integer("port", 0, 1, 65535) or None
    return model.Redirect(
        scheme=scheme,
        host=redirect.value("host", scalars.host_without_port),
        port=port,
        path=redirect.value("path", scalars.url_path_and_query),
        prefix_rewrite=redirect.value("prefix_rewrite", scalars.url_path),
        strip_query=redirect.boolean("strip_query", False),
        status=int(redirect.choice("status", _REDIRECT_STATUSES, "301")),
    )


def _direct_response(fields: Fields) -> model.DirectResponse | None:
    response = fields.section("direct_response", shapes.DIRECT_RESPONSE)
    if response is None or not response.need("status"):
        return None
    status = response.integer("status", 200, 200, 599)
    body = response.value("body", scalars.any_text) or ""
    if body and status in _BODYLESS:
        response.error(response.key("body"), f"an answer with status {status} has no body", "", response.at("body"))
    return model.DirectResponse(status, body)


class _Shadows:
    """Finds routes that no request can reach because an earlier one takes them all; linear in the text matched."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._prefixes: dict[str, Node] = {}
        self._paths: dict[str, Node] = {}

    def meet(self, fields: Fields, route: model.Route) -> None:
        """Warn when `route` is out of reach; remember what it takes."""
        text = route.prefix if route.prefix is not None else route.path
        if text is None:
            return
        at = fields.key("match")
        first = self._paths.get(text) if route.path is not None else None
        if first is None:
            first = next(
                (self._prefixes[text[:n]] for n in range(1, len(text) + 1) if text[:n] in self._prefixes), None
            )
        if first is not None:
            message = f"no request reaches this route: an earlier one takes all of '{text}'"
            self._reader.problems.warning(at, message, f"see {place(first)}", fields.where)
        if not (route.methods or route.headers or route.client_subject or route.client_san):
            (self._paths if route.path is not None else self._prefixes).setdefault(text, at)
