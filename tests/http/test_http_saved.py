from __future__ import annotations

from typing import Any

import pytest

from hotproxy.http.head_parser import HeadParser
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.http.saved import check_version, saved_bool, saved_bytes, saved_int, saved_map

CODECS = pytest.mark.parametrize("kind", [Http1ServerCodec, Http1ClientCodec], ids=["server", "client"])


def test_what_is_there_is_read():
    state: dict[str, object] = {"kind": "x", "version": 1, "n": 5, "b": True, "raw": b"r", "map": {"a": 1}}
    check_version(state, "x")
    assert saved_int(state, "n", 5) == 5
    assert saved_bool(state, "b") is True
    assert saved_bytes(state, "raw") == b"r"
    assert saved_map(state, "map") == {"a": 1}


@pytest.mark.parametrize("value", [None, True, -1, 6, "5", b"5", 5.0])
def test_numbers_are_numbers_within_bounds(value: object):
    with pytest.raises(ValueError):
        saved_int({"n": value}, "n", 5)


@pytest.mark.parametrize("read", [saved_bool, saved_bytes, saved_map])
@pytest.mark.parametrize("state", [{}, {"x": 1}, {"x": "text"}, {"x": None}])
def test_other_types_are_refused(read: Any, state: dict[str, object]):
    with pytest.raises(ValueError):
        read(state, "x")


@CODECS
@pytest.mark.parametrize("change", [{"version": 2}, {"version": None}, {"kind": "http2"}, {"version": "1"}])
def test_another_version_or_kind_is_refused(parser: HeadParser, kind: Any, change: dict[str, object]):
    """The connection then stays in the generation that knows it, and drains."""
    with pytest.raises(ValueError, match="version"):
        kind.load(kind(parser).dump() | change)


@CODECS
def test_every_value_of_a_dump_is_looked_at(parser: HeadParser, kind: Any):
    for name in kind(parser).dump():
        for nonsense in (None, "x", -1, 10**30, [], {"framing": 9}):
            with pytest.raises(ValueError):
                kind.load(kind(parser).dump() | {name: nonsense})
        with pytest.raises(ValueError):
            kind.load({other: value for other, value in kind(parser).dump().items() if other != name})
