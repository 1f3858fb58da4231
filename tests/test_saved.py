"""Reading records back: every value is of its type and within its bounds, or refused with its name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hotproxy.saved import (
    MAX_SECONDS,
    saved_bool,
    saved_byte_strings,
    saved_bytes,
    saved_int,
    saved_list,
    saved_part,
    saved_record,
    saved_seconds,
    saved_text,
    saved_texts,
)

State = dict[str, object]


def test_what_is_there_is_read() -> None:
    state: State = {"kind": "x", "version": 1, "n": 5, "b": True, "raw": b"r", "s": 1.5, "t": "text"}
    assert saved_record(state, "x", 1, frozenset(state)) == state
    assert saved_part(state, "x", frozenset(state)) == state
    assert saved_int(state, "n", 5) == 5
    assert saved_bool(state, "b") is True
    assert saved_bytes(state, "raw") == b"r"
    assert saved_seconds(state, "s") == 1.5
    assert saved_text(state, "t") == "text"
    lists: State = {"any": [1, "a"], "texts": ["a", "b"], "bytes": [b"a"], "none": []}
    assert saved_list(lists, "any") == [1, "a"]
    assert saved_texts(lists, "texts") == ["a", "b"]
    assert saved_byte_strings(lists, "bytes") == [b"a"]
    assert saved_texts(lists, "none") == saved_byte_strings(lists, "none") == []


@pytest.mark.parametrize("value", [None, True, -1, 6, "5", b"5", 5.0])
def test_numbers_are_numbers_within_bounds(value: object) -> None:
    with pytest.raises(ValueError, match="n: "):
        saved_int({"n": value}, "n", 5)


@pytest.mark.parametrize("value", [None, 1, True, "1.0", -0.1, math.inf, math.nan, MAX_SECONDS * 2])
def test_times_are_of_this_world(value: object) -> None:
    """Of another one the timer wheel finds no bucket: an OverflowError when it is armed."""
    with pytest.raises(ValueError, match="deadline_s: "):
        saved_seconds({"deadline_s": value}, "deadline_s")


READERS = [saved_bool, saved_bytes, saved_text, saved_list, saved_texts, saved_byte_strings, saved_seconds]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("state", [{}, {"x": 1}, {"x": None}, {"x": object()}, {"x": [1, "a", b"b"]}])
def test_other_types_are_refused(read: Callable[[State, str], object], state: State) -> None:
    if read is saved_list and "x" in state and isinstance(state["x"], list):
        return
    with pytest.raises(ValueError, match="x: "):
        read(state, "x")


KEYS = frozenset(("kind", "version", "a"))


@pytest.mark.parametrize(
    "state",
    [
        None, [], {}, {"kind": "x", "version": 1}, {"kind": "x", "version": 1, "a": 1, "b": 2}, {"version": 1, "a": 1},
        {"kind": "y", "version": 1, "a": 1}, {"kind": "x", "version": 2, "a": 1}, {"kind": "x", "version": "1", "a": 1},
        {"kind": None, "version": 1, "a": 1}, {"kind": "x" * 1000, "version": b"v" * 1000, "a": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_another_kind_version_or_shape_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match=r"^x: ") as refused:
        saved_record(state, "x", 1, KEYS)
    assert len(str(refused.value)) < 200


def test_an_error_shows_no_value() -> None:
    """It goes to the log, and may be a client's password."""
    secret: State = {"x": b"secret", "y": "secret"}
    for read in (saved_bool, saved_seconds, saved_list):
        for name in secret:
            with pytest.raises(ValueError) as refused:
                read(secret, name)
            assert "secret" not in str(refused.value)
