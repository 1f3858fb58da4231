"""Reading back what a codec's `dump()` wrote. Every value is looked at: other code may have written it."""

from __future__ import annotations

from collections.abc import Mapping

VERSION = 1


def check_version(state: Mapping[str, object], kind: str) -> None:
    """ValueError for a record of another kind or version; the connection then stays where it is and drains."""
    if state.get("kind") != kind or state.get("version") != VERSION:
        raise ValueError(f"{kind}: a record of kind {state.get('kind')!r}, version {state.get('version')!r}")


def saved_int(state: Mapping[str, object], name: str, highest: int) -> int:
    """A number from 0 to `highest`."""
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise ValueError(f"{name}: {value!r} is not a number up to {highest}")
    return value


def saved_bool(state: Mapping[str, object], name: str) -> bool:
    value = state.get(name)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: {value!r} is not a truth value")
    return value


def saved_bytes(state: Mapping[str, object], name: str) -> bytes:
    value = state.get(name)
    if not isinstance(value, bytes):
        raise ValueError(f"{name}: {value!r} is not a byte string")
    return value


def saved_map(state: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = state.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {value!r} is not a map")
    return value
