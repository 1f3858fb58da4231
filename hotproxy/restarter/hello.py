"""What a generation tells the supervisor in HELLO: how many slots, which sockets, how long things may take.

Both ends use these types; the supervisor checks every field, because a HELLO comes from code that is newer than it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Final, TypeVar

T = TypeVar("T")

MAX_SLOTS: Final = 1024
# Connections that one slot can have; a number beyond would not fit into a counter.
MAX_COUNT: Final = 1 << 31
# A year and more: what "no limit" is as a number, so that deadlines stay ordinary arithmetic everywhere.
NO_LIMIT_S: Final = 1e9
# All waves of a generation: what has not moved by then drains. 10,000 connections take about a second.
MOVE_S: Final = 30.0


class HelloError(Exception):
    """A HELLO that makes no sense; says where."""


@dataclass(frozen=True, slots=True)
class WantedAddress:
    """One address to listen on. `text` is how the config spells it: the key under which its sockets live on.

    `host` is numeric, or "" for every address of both families. `mode`, `owner`, `group` (numbers; -1: leave) are of
    unix sockets only.
    """

    text: str
    family: str  # "tcp" or "unix"
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = -1
    owner: int = -1
    group: int = -1


@dataclass(frozen=True, slots=True)
class WantedListener:
    """A listener's addresses. `shared`: one socket for all who accept, else one for each slot (SO_REUSEPORT)."""

    name: str
    addresses: tuple[WantedAddress, ...]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each step of this generation may take, in seconds; `drain_s` 0: no limit."""

    ready_s: float = 30.0  # HELLO to READY
    accept_s: float = 10.0  # ACCEPT_ON to ACCEPTING
    # A slot that is stopped (SIGSTOP, debugger) never answers, and must not hold up its successor.
    stop_accepting_s: float = 2.0  # ACCEPT_OFF to ACCEPT_STOPPED
    shut_s: float = 2.0  # SHUT to SHUT_DONE
    # One answer of the slot that takes connections. One that does not answer COMMIT for twice as long is killed.
    handoff_s: float = 5.0
    move_s: float = MOVE_S
    drain_s: float = 30.0  # DRAIN to gone
    # How long a generation without a supervisor serves on: time for systemd to start a new one, several times over.
    orphan_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Hello:
    """HELLO's fields, checked."""

    epoch: int
    slots: int
    listeners: tuple[WantedListener, ...]
    deadlines: Deadlines
    stats: list[Any]
    version: str
    protocol: int
    layout: int
    supervisor_digest: str
    codecs: dict[str, int]
    # Since these were added; a generation that does not say them is as it was before.
    compiled: bool = False  # some of the data path's code is ours and compiled
    pure: str = ""  # why none of it is, as the supervisor said when it started this generation
    fallback: str = ""  # why it runs the last good config: what is wrong with the one on disk

    def remarks(self) -> str:
        """What nobody who looks at `systemctl status` may overlook, as the end of a sentence."""
        broken = "; the config is BROKEN, the last good one runs instead" if self.fallback else ""
        return broken + (f"; nothing is compiled: {self.pure}" if self.pure else "")

    def to_wire(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "slots": self.slots, "stats": self.stats, "version": self.version,
            "protocol": self.protocol, "layout": self.layout, "supervisor_digest": self.supervisor_digest,
            "codecs": self.codecs, "deadlines": asdict(self.deadlines),
            "listeners": [asdict(listener) for listener in self.listeners],
            "compiled": self.compiled, "pure": self.pure, "fallback": self.fallback,
        }  # fmt: skip


def parse(wire: Mapping[str, Any]) -> Hello:
    """The fields of a HELLO frame (whose types `frames` has checked) as a Hello. Raises HelloError."""
    if not 1 <= wire["slots"] <= MAX_SLOTS:
        raise HelloError(f"{wire['slots']} slots, 1 to {MAX_SLOTS} are possible")
    listeners = tuple(_listener(each) for each in wire["listeners"])
    names = [listener.name for listener in listeners]
    if len(set(names)) != len(names):
        raise HelloError("two listeners have the same name")
    deadlines = _filled(Deadlines, wire["deadlines"])
    compiled, pure, fallback = wire.get("compiled", False), wire.get("pure", ""), wire.get("fallback", "")
    if not (isinstance(compiled, bool) and isinstance(pure, str) and isinstance(fallback, str)):
        raise HelloError("compiled is true or false, pure and fallback are texts")
    if not all(0.0 <= seconds <= NO_LIMIT_S for seconds in astuple(deadlines)):
        raise HelloError(f"impossible deadlines: {deadlines}")
    return Hello(
        wire["epoch"], wire["slots"], listeners, deadlines, wire["stats"], wire["version"],
        wire["protocol"], wire["layout"], wire["supervisor_digest"], wire["codecs"], compiled, pure, fallback,
    )  # fmt: skip


def _listener(wire: Any) -> WantedListener:
    listener = _filled(WantedListener, wire)
    addresses = tuple(_address(each) for each in listener.addresses)
    return WantedListener(listener.name, addresses, listener.shared)


def _address(wire: Any) -> WantedAddress:
    address = _filled(WantedAddress, wire)
    if address.family not in ("tcp", "unix"):
        raise HelloError(f"address {address.text!r} is of the unknown family {address.family!r}")
    possible = _is_path(address.path) if address.family == "unix" else _is_ip(address.host)
    numbers = (address.owner, address.group)
    if not (possible and 0 <= address.port <= 65535 and -1 <= address.mode <= 0o777):
        raise HelloError(f"address {address.text!r} can't be bound")
    if not all(-1 <= number < 1 << 32 for number in numbers):
        raise HelloError(f"address {address.text!r} has an impossible owner")
    return address


def _is_path(path: str) -> bool:
    # sockaddr_un.sun_path has 108 bytes with its closing NUL (unix(7)).
    return path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= 107


def _is_ip(host: str) -> bool:
    try:
        return not host or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,), "int": (int,), "bool": (bool,), "float": (int, float), "tuple[WantedAddress, ...]": (list, tuple),
}  # fmt: skip


def _filled(kind: type[T], wire: Any) -> T:
    """A dataclass from a map: unknown keys are ignored (a newer generation), wrong types refused."""
    if not isinstance(wire, dict):
        raise HelloError(f"{kind.__name__} is {type(wire).__name__}, not a map")
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in wire:
            continue
        value = wire[field.name]
        if not isinstance(value, _TYPES[str(field.type)]):
            raise HelloError(f"{kind.__name__}.{field.name} is {type(value).__name__}, not {field.type}")
        values[field.name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise HelloError(f"{kind.__name__}: {error}") from None
