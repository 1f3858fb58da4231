"""What `explain` has found out, as a short story in the order in which a request meets things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

_LABEL: Final = 14
# Nobody reads more; `--json` has all of them.
_MAX_PASSED_OVER: Final = 20
_MAX_ENDPOINTS: Final = 20
_MAX_NAMES: Final = 10
_MARKS: Final = {"added": "+", "changed": "~", "kept": " "}
_TIMEOUTS: Final = {
    "connect": "connect", "response": "response", "idle": "nothing moves", "request_headers": "request head",
    "keepalive": "between requests", "upstream_idle": "unused connection to an endpoint",
}  # fmt: skip


def tell(facts: dict[str, Any]) -> str:
    """The facts of `explain.gather` for people."""
    request = facts["request"]
    lines = [f"{request['method']} {request['target']} for {request['host']}"]
    lines += [f"  {label:{_LABEL}}{text}".rstrip() for label, text in _chapters(facts)]
    return "\n".join(lines)


def _chapters(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    note = facts["config"]["note"]
    yield "config", f"{facts['config']['path']}{' ' + note if note else ''}"
    listener = facts["listener"]
    yield "listener", f"{listener['name']} ({', '.join(listener['addresses'])}): {listener['why']}"
    if "path" not in facts:
        yield "", "a tcp listener: it does not look for requests"
    elif facts["path"]["matched"]:
        yield from _routing(facts)
    if "cluster" in facts:
        yield from _upstream(facts)
    elif "response" in facts:
        yield from _answer(facts)


def _routing(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    host, path = facts["virtual_host"], facts["path"]
    if host is None:
        yield "virtual host", f"none has the domain '{facts['request']['host']}'"
        yield from _hosts(facts["hosts"])
        return
    yield "virtual host", f"{host['name']}, for {_some(host['domains'])}"
    if path["asked"] != path["matched"]:
        yield "path", f"{path['asked']} is compared as {path['matched']}"
    passed = facts["passed_over"]
    for each in _nearest(passed):
        yield f"routes[{each['number']}]", f"{_named(each)}{_match(each['match'])}: no, {_misfit(each, facts)}"
    if len(passed) > _MAX_PASSED_OVER:
        yield "", f"... and {len(passed) - _MAX_PASSED_OVER} more that do not match"
    route = facts["route"]
    if route is not None:
        yield f"routes[{route['number']}]", f"{_named(route)}{_match(route['match'])}: matches"
    else:
        yield "route", f"none of the {len(passed)} routes of '{host['name']}' matches"


def _nearest(passed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of many routes those that nearly matched: whose path does, and then whoever comes first."""
    by_nearness = sorted(passed, key=lambda each: each["part"] in ("path", "prefix"))
    return sorted(by_nearness[:_MAX_PASSED_OVER], key=lambda each: int(each["number"]))


def _hosts(hosts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "", f"{hosts['hint'] + ' ' if hosts['hint'] else ''}this listener has {_some(hosts['known'])}"
    if hosts["elsewhere"]:
        yield "", f"listener {', '.join(hosts['elsewhere'])} has that domain"


def _named(route: dict[str, Any]) -> str:
    return f"'{route['name']}', " if route["name"] else ""


def _match(match: dict[str, Any]) -> str:
    kind = "path" if "path" in match else "prefix"
    parts = [f"{kind} {match[kind]}"]
    if match["methods"]:
        parts.append(f"method {' '.join(match['methods'])}")
    parts += [f"header {name}: {value}" for name, value in match["headers"].items()]
    return ", ".join(parts)


def _misfit(each: dict[str, Any], facts: dict[str, Any]) -> str:
    if each["part"] == "header":
        given = f"'{each['header']}' is '{each['given']}'"
        return given if each["given"] is not None else f"there is no '{each['header']}'"
    if each["part"] == "client certificate":
        return f"the client's certificate must say {each['wanted']}"
    if each["part"] == "method":
        return f"the method is {facts['request']['method']}"
    return f"the path is {facts['path']['matched']}"


def _upstream(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cluster = facts["cluster"]
    endpoints = cluster["endpoints"]
    yield "cluster", f"{cluster['name']}, {cluster['lb_policy']}"
    for each in endpoints[:_MAX_ENDPOINTS]:
        share = f"  {each['share']:.0%}, weight {each['weight']}" if len(endpoints) > 1 else ""
        yield "endpoint", f"{each['address']}{share}"
    if len(endpoints) > _MAX_ENDPOINTS:
        yield "", f"... and {len(endpoints) - _MAX_ENDPOINTS} more"
    if "forwarded" in facts:
        yield from _forwarded(facts["forwarded"])
    timeouts = [f"{_TIMEOUTS[name]} {'none' if text == '0s' else text}" for name, text in facts["timeouts"].items()]
    for at in range(0, len(timeouts), 3):
        yield "" if at else "timeouts", ", ".join(timeouts[at : at + 3])
    retries = facts["retries"]
    then = retries.get("then")
    ends = f", then {then['status'] or 'closed'} {' '.join(then['flags'])}".rstrip() if then else ""
    yield "retries", f"no connection: {retries['connect_attempts']} attempts{ends}"
    if "replay_when_kept_connection_dies" in retries:
        again = "sent once more" if retries["replay_when_kept_connection_dies"] else "sent once more if none of it left"
        yield "", f"a kept connection ends before it answers: {again}"


def _forwarded(forwarded: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "forwarded", f"{forwarded['method']} {forwarded['target']} HTTP/1.1"
    for each in forwarded["headers"]:
        value = "(a new UUID for each request)" if each["name"] == "x-request-id" else each["value"]
        was = f"    (was {each['was']})" if "was" in each and each["name"] != "x-request-id" else ""
        yield "", f"{_MARKS[each['change']]} {each['name']}: {value}{was}"
    for name in forwarded["removed"]:
        yield "", f"- {name}"


def _answer(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    response = facts["response"]
    flags = f" {' '.join(response['flags'])}" if response["flags"] else ""
    details = f" ({response['details']})" if facts["outcome"] in ("refused", "last_hop") else ""
    what = {"redirect": "redirect", "direct_response": "answer", "last_hop": "answer"}.get(facts["outcome"], "refused")
    yield what, f"{response['status']}{flags}{details}"
    for name, value in response["headers"]:
        if name.lower() == "location":
            yield "", f"location: {value}"
    body = response["body"].splitlines()
    if body and facts["outcome"] == "direct_response":
        yield "", body[0][:100] + (" ..." if len(body) > 1 or len(body[0]) > 100 else "")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
