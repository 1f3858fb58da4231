"""What no section can see alone: names given twice, addresses that clash, clusters that do not exist."""

from __future__ import annotations

from collections.abc import Iterable

from hotproxy.config.address import UNIX, Address
from hotproxy.config.collector import Collector
from hotproxy.config.names import Named, Names
from hotproxy.config.suggestions import did_you_mean
from hotproxy.config.yaml_nodes import Node

# Listening there means every address of that family; "" is dual-stack.
_EVERY_V4 = "0.0.0.0"
_EVERY_V6 = "::"


def check_references(names: Names, problems: Collector, complete: bool) -> None:
    """`complete` False: some file could not be read, so what it would have defined must not be called missing."""
    refuse_duplicates("listener", names.listeners, problems)
    refuse_duplicates("cluster", names.clusters, problems)
    _refuse_clashes(names.addresses, problems)
    if not complete:
        return
    known = {named.text for named in names.clusters}
    for use in names.cluster_uses:
        if use.text not in known:
            hint = did_you_mean(use.text, known) or ("" if known else "no cluster is defined")
            problems.error(use.node, f"unknown cluster '{use.text}'", hint, use.where)


def refuse_duplicates(noun: str, given: Iterable[Named], problems: Collector) -> None:
    """A problem at every second use of a name."""
    seen: dict[str, Named] = {}
    for named in given:
        first = seen.setdefault(named.text, named)
        if first is not named:
            message = f"the {noun} '{named.text}' is defined twice"
            problems.error(named.node, message, f"first at {place(first.node)}", named.where)


def place(node: Node) -> str:
    """`file:line:column`, as a reader can jump to it."""
    return f"{node.source.name}:{node.line + 1}:{node.column + 1}"


def _refuse_clashes(claims: Iterable[tuple[Address, Named]], problems: Collector) -> None:
    """The kernel lets one socket have an address; `0.0.0.0:80` and `:80` also stand for every single one."""
    by_place: dict[tuple[str, object], list[tuple[Address, Named]]] = {}
    for address, named in claims:
        if address.family != UNIX and address.port == 0:  # the kernel chooses a free one
            continue
        key: tuple[str, object] = (address.family, address.path if address.family == UNIX else address.port)
        earlier = by_place.setdefault(key, [])
        for other, first in earlier:
            if _overlap(address, other):
                message = f"the address '{address}' is taken"
                if str(address) != str(other):
                    message += f": '{other}' covers it" if _covers(other, address) else f": it covers '{other}'"
                problems.error(named.node, message, f"first at {place(first.node)}", named.where)
                break
        earlier.append((address, named))


def _overlap(a: Address, b: Address) -> bool:
    """Same family and same port or path already."""
    return a.family == UNIX or a.host == b.host or _covers(a, b) or _covers(b, a)


def _covers(a: Address, b: Address) -> bool:
    if a.host == "":
        return True
    is_v6 = ":" in b.host
    return (a.host == _EVERY_V4 and b.host != "" and not is_v6) or (a.host == _EVERY_V6 and is_v6)
