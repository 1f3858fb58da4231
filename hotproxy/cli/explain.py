"""`hotproxy explain`: where a request would go, and why; the facts, gathered from a rehearsal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from hotproxy.cli import request as requests
from hotproxy.cli.chosen import Chosen, choose
from hotproxy.cli.main import Globals
from hotproxy.cli.rehearsal import Rehearsal, rehearse
from hotproxy.cli.story import tell
from hotproxy.config import model
from hotproxy.config.address import UNIX
from hotproxy.config.effective import duration_text
from hotproxy.config.suggestions import did_you_mean
from hotproxy.errors import DIRECT_RESPONSE, EXIT_OK, EXIT_REFUSED
from hotproxy.proxy.last_hop import LAST_HOP
from hotproxy.proxy.router import IDEMPOTENT_METHODS

# Who asks: x-forwarded-for says so.
CLIENT = "127.0.0.1:1024"


@click.command()
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'k: v'", help="A header of the request; repeatable.")
@click.option("-c", "--config", "path", metavar="FILE", help="A config that need not run; else the running instance's.")
@click.option("--listener", metavar="NAME", help="Who gets the request, where the URL's port does not tell.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def explain(
    globals_: Globals,
    method: str,
    url: str,
    headers: tuple[str, ...],
    path: str | None,
    listener: str | None,
    as_json: bool,
) -> None:
    """Show which listener, virtual host, route, cluster and endpoints a request would meet, and why.

    URL is http://host[:port]/path, or only a path with -H 'Host: …'. The request goes through the code that serves,
    but nothing is sent to anybody.

    Exits 0 when the request is forwarded or answered, 1 when it is refused.
    """
    asked = requests.parse(method, url, headers)
    chosen = choose(globals_, path)
    facts = gather(asked, chosen, listener)
    click.echo(json.dumps(facts, indent=2) if as_json else tell(facts))
    click.get_current_context().exit(EXIT_REFUSED if facts["outcome"] == "refused" else EXIT_OK)


def gather(asked: requests.Asked, chosen: Chosen, name: str | None) -> dict[str, Any]:
    """What `--json` prints. Raises HotproxyError when no listener, or more than one, would get the request."""
    config = chosen.config
    listener, why = requests.find_listener(asked, config, chosen.bound, name)
    peer = "" if all(address.family == UNIX for address in listener.addresses) else CLIENT
    seen = rehearse(config, listener.name, asked.encode(), peer, reachable=True)
    addresses = chosen.bound.get(listener.name) or [str(address) for address in listener.addresses]
    facts: dict[str, Any] = {
        "config": {"path": chosen.path, "note": chosen.note},
        "request": {"method": asked.method, "target": asked.target, "host": asked.authority},
        "listener": {"name": listener.name, "addresses": addresses, "why": why},
    }
    if listener.tcp is None:
        facts |= _routing(listener, asked, seen, chosen)
    facts["outcome"] = "forward" if seen.endpoints else _outcome(seen)
    if seen.answered and not seen.endpoints:
        facts["response"] = _response(seen, chosen)
    cluster = seen.route.cluster if seen.route else None
    if listener.tcp is not None and seen.info is not None:
        cluster = seen.info.cluster
    if cluster and seen.endpoints:
        found = next(each for each in config.clusters if each.name == cluster)
        unreached = rehearse(config, listener.name, asked.encode(), peer, reachable=False)
        facts["cluster"] = _cluster(found)
        facts["retries"] = _retries(asked, listener, unreached)
        if listener.tcp is None:
            facts["forwarded"] = _forwarded(asked, seen, chosen)
        facts["timeouts"] = _timeouts(listener, seen.route, found)
    return facts


def _routing(listener: model.Listener, asked: requests.Asked, seen: Rehearsal, chosen: Chosen) -> dict[str, Any]:
    hidden = chosen.hidden
    host, found = seen.virtual_host, seen.route
    passed = [
        {
            "number": each.number,
            "name": each.route.name,
            "match": _match(each.route, chosen),
            "part": each.misfit.part,
            "header": each.misfit.name,
            "wanted": hidden.header(each.misfit.name, each.misfit.wanted),
            "given": None if each.misfit.given is None else hidden.header(each.misfit.name, each.misfit.given),
        }
        for each in seen.passed_over
    ]
    facts: dict[str, Any] = {
        "virtual_host": None if host is None else {"name": host.name, "domains": list(host.domains)},
        "path": {"asked": asked.target.partition("?")[0], "matched": seen.path},
        "passed_over": passed,
        "route": None,
    }
    if found is not None:
        facts["route"] = {"number": seen.number, "name": found.name, "match": _match(found, chosen)}
    if host is None and seen.path:
        domains = [domain for each in listener.virtual_hosts for domain in each.domains]
        elsewhere = [
            other.name for other in chosen.config.listeners
            if other is not listener and any(asked.authority in each.domains for each in other.virtual_hosts)
        ]  # fmt: skip
        name = asked.authority.rpartition(":")[0] if asked.port else asked.authority
        facts["hosts"] = {"known": domains, "hint": did_you_mean(name, domains), "elsewhere": elsewhere}
    return facts


def _match(route: model.Route, chosen: Chosen) -> dict[str, Any]:
    kind, text = ("path", route.path) if route.path is not None else ("prefix", route.prefix or "")
    headers = {name: chosen.hidden.header(name, value) for name, value in route.headers}
    return {kind: chosen.hidden.text(text), "methods": sorted(route.methods), "headers": headers}


def _outcome(seen: Rehearsal) -> str:
    """Of a request that no endpoint would get. A route that redirects may still have been refused: a loop, say."""
    if seen.route is not None and seen.info is not None and seen.info.details == DIRECT_RESPONSE.details:
        return "direct_response" if seen.route.redirect is None else "redirect"
    if seen.info is not None and seen.info.details == LAST_HOP.details:
        return "last_hop"
    return "refused"


def _response(seen: Rehearsal, chosen: Chosen) -> dict[str, Any]:
    head, _, body = seen.answered.decode("latin-1").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = [line.partition(": ")[::2] for line in lines]
    info = seen.info
    return {
        "status": int(first.split(" ")[1]),
        "headers": [[name, chosen.hidden.header(name, value)] for name, value in pairs],
        "body": chosen.hidden.text(body.encode("latin-1").decode("utf-8", "replace")),
        "flags": list(info.flags) if info is not None else [],
        "details": info.details if info is not None else "",
    }


def _cluster(cluster: model.Cluster) -> dict[str, Any]:
    total = sum(endpoint.weight for endpoint in cluster.endpoints)
    endpoints = [
        {"address": str(each.address), "weight": each.weight, "share": round(each.weight / total, 4)}
        for each in cluster.endpoints
    ]
    return {"name": cluster.name, "lb_policy": cluster.lb_policy, "endpoints": endpoints}


def _forwarded(asked: requests.Asked, seen: Rehearsal, chosen: Chosen) -> dict[str, Any]:
    """The head as an endpoint gets it; beside each field what it was. Lines of one name are one field, in RFC 9110's
    eyes and here."""
    first, *lines = seen.forwarded.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    sent = _joined([("host", asked.authority), *asked.headers])
    gets = _joined([line.partition(": ")[::2] for line in lines])
    headers = []
    for name, value in gets.items():
        before = sent.get(name)
        change = "added" if before is None else "kept" if before == value else "changed"
        headers.append({"name": name, "value": chosen.hidden.header(name, value), "change": change})
        if change == "changed":
            headers[-1]["was"] = chosen.hidden.header(name, before or "")
    removed = sorted(sent.keys() - gets.keys())
    method, target, _ = first.split(" ")
    return {"endpoint": seen.endpoints[0], "method": method, "target": target, "headers": headers, "removed": removed}


def _joined(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in pairs:
        lower = name.lower()
        fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value
    return fields


def _retries(asked: requests.Asked, listener: model.Listener, unreached: Rehearsal) -> dict[str, Any]:
    facts: dict[str, Any] = {"connect_attempts": len(unreached.endpoints)}
    info = unreached.info
    if info is not None:
        facts["then"] = {"status": info.status, "flags": list(info.flags)}
    if listener.tcp is None:
        facts["replay_when_kept_connection_dies"] = asked.method.encode() in IDEMPOTENT_METHODS
    return facts


def _timeouts(listener: model.Listener, route: model.Route | None, cluster: model.Cluster) -> dict[str, str]:
    timeouts = {"connect": cluster.connect_timeout_s}
    if listener.tcp is not None:
        timeouts["idle"] = listener.tcp.idle_timeout_s
    if route is not None:
        timeouts |= {"response": route.timeout_s, "idle": route.idle_timeout_s}
        timeouts |= {"request_headers": listener.request_headers_timeout_s, "keepalive": listener.keepalive_timeout_s}
        timeouts["upstream_idle"] = cluster.idle_timeout_s
    return {name: duration_text(seconds) for name, seconds in timeouts.items()}
