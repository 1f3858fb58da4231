"""Reading back what a `dump()` wrote. Every value is looked at, for other code may have written it: what is not as it
should be is a ValueError, and the connection stays where it is and drains.

The errors name the value but do not show it: it may be a client's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

T = TypeVar("T")

# Bytes and occurrences: half of what a cell of shared memory holds, so that sums of two do not wrap.
MAX_COUNT: Final = (1 << 62) - 1
# Seconds, of either clock: the end of the year 9999, behind which the calendar's functions fail.
MAX_SECONDS: Final = 253_402_300_799.0


def saved_record(state: object, kind: str, version: int, keys: frozenset[str]) -> Mapping[str, object]:
    """A record with exactly these keys, of which "version" is one (and "kind" perhaps another)."""
    if not isinstance(state, dict):
        raise ValueError(f"{kind}: {_type(state)} is no record")
    if state.get("version") != version or state.get("kind", kind) != kind:
        raise ValueError(
            f"{kind}: a record of kind {_brief(state.get('kind'))}, version {_brief(state.get('version'))}"
        )
    if state.keys() != keys:
        raise ValueError(f"{kind}: the record is of another shape, though its version is {version}")
    return state


def saved_version(state: object, kind: str, shapes: Mapping[int, frozenset[str]]) -> Mapping[str, object]:
    """A `saved_record` of any of these versions, each with its keys; of none of them, it is judged by the last."""
    version = state.get("version") if isinstance(state, dict) else None
    if not isinstance(version, int) or version not in shapes:
        version = max(shapes)
    return saved_record(state, kind, version, shapes[version])


def saved_part(state: object, name: str, keys: frozenset[str]) -> Mapping[str, object]:
    """A part of a record, with the record's version; exactly these keys."""
    if not isinstance(state, dict) or state.keys() != keys:
        raise ValueError(f"{name}: another shape than expected")
    return state


def saved_int(state: Mapping[str, object], name: str, highest: int) -> int:
    """A number from 0 to `highest`."""
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}: {_type(value)} is no number")
    if not 0 <= value <= highest:
        raise ValueError(f"{name}: {value} is not a number up to {highest}")
    return value


def saved_bool(state: Mapping[str, object], name: str) -> bool:
    return _of_type(state, name, bool, "a truth value")


def saved_bytes(state: Mapping[str, object], name: str) -> bytes:
    return _of_type(state, name, bytes, "a byte string")


def saved_text(state: Mapping[str, object], name: str) -> str:
    return _of_type(state, name, str, "text")


def saved_list(state: Mapping[str, object], name: str) -> list[object]:
    return _of_type(state, name, list, "a list")


def saved_seconds(state: Mapping[str, object], name: str) -> float:
    """A time or a duration; 0.0 is none. Neither negative nor infinite: a timer wheel has no bucket for that."""
    value = state.get(name)
    if not isinstance(value, float):
        raise ValueError(f"{name}: {_type(value)} is no time")
    if not 0.0 <= value <= MAX_SECONDS:
        raise ValueError(f"{name}: {value} is no time of this world")
    return value


def saved_texts(state: Mapping[str, object], name: str) -> list[str]:
    return _all_of_type(state, name, str, "text")


def saved_byte_strings(state: Mapping[str, object], name: str) -> list[bytes]:
    return _all_of_type(state, name, bytes, "byte strings")


def _of_type(state: Mapping[str, object], name: str, kind: type[T], what: str) -> T:
    value = state.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name}: {_type(value)} is not {what}")
    return value


def _all_of_type(state: Mapping[str, object], name: str, kind: type[T], what: str) -> list[T]:
    values = saved_list(state, name)
    found = [value for value in values if isinstance(value, kind)]
    if len(found) != len(values):
        raise ValueError(f"{name}: not only {what}")
    return found


def _type(value: object) -> str:
    return type(value).__name__


def _brief(value: object) -> str:
    return repr(value)[:40]
