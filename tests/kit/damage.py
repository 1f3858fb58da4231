"""Records in which one value is another: of the same type, of another one, missing, or one too many."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]


def places(record: object, at: Path = ()) -> Iterator[Path]:
    """Where a record has values, at any depth."""
    parts: list[tuple[str | int, object]] = []
    if isinstance(record, dict):
        parts = list(record.items())
    elif isinstance(record, list):
        parts = list(enumerate(record))
    for key, value in parts:
        yield (*at, key)
        yield from places(value, (*at, key))


def value_at(record: Any, place: Path) -> object:
    for key in place:
        record = record[key]
    return record


def replaced(record: Any, place: Path, value: object) -> Any:
    """A copy with another value there; the value `...` stands for none at all."""
    changed = part = copy.deepcopy(record)
    for key in place[:-1]:
        part = part[key]
    if value is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return changed


ANY = st.one_of(
    st.just(...), st.none(), st.booleans(), st.integers(-2, 1 << 63), st.floats(), st.binary(max_size=20),
    st.text(max_size=20), st.lists(st.none(), max_size=2), st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip


def damaged(value: object) -> st.SearchStrategy[object]:
    """Something else: mostly what could have been meant."""
    if isinstance(value, bool):
        near: st.SearchStrategy[object] = st.just(not value)
    elif isinstance(value, int):
        near = st.one_of(st.integers(-1, 5), st.integers(value - 2, value + 2), st.integers(0, (1 << 62) - 1))
    elif isinstance(value, float):
        near = st.one_of(
            st.floats(value - 2, value + 2), st.floats(0, 1e12), st.sampled_from([math.inf, math.nan, 0.0])
        )
    elif isinstance(value, bytes):
        near = st.one_of(
            st.just(value[:-1]), st.just(value + b"x"), st.just(b""), st.binary(max_size=8), st.just(bytes(70_000)),
            st.sampled_from([b"\r\n", b"GET / HTTP/1.1\r\n\r\n", b"a: b\r\nc"]),
        )  # fmt: skip
    elif isinstance(value, str):
        near = st.one_of(st.text(max_size=8), st.sampled_from(["", "a\r\nb", "\x00", "€", "unix:/x", "1.2.3.4:5"]))
    elif isinstance(value, list):
        near = st.sampled_from([[], value[:-1], value + value, [*value, None]])
    elif isinstance(value, dict):
        near = st.sampled_from([{}, {**value, "more": 1}])
    else:
        near = st.sampled_from([{}, [], b"", "", [[b"a", b"b"]], [[b"a", b"b\r\nc"]]])
    return st.one_of(near, near, near, ANY).filter(lambda other: not (type(other) is type(value) and other == value))
