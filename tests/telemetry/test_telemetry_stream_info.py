"""The record of an exchange survives a handoff, and refuses what is not one."""

from __future__ import annotations

import msgpack
import pytest

from hotproxy.telemetry.stream_info import FIELDS, HeaderPairs, StreamInfo


def full() -> StreamInfo:
    info = StreamInfo(1_700_000_000.25, 10.0)
    for index, name in enumerate(FIELDS):
        value = getattr(info, name)
        if isinstance(value, str):
            setattr(info, name, f"text {index} \xff")
        elif isinstance(value, int):
            setattr(info, name, index)
        elif isinstance(value, float):
            setattr(info, name, index + 0.5)
    info.flags = ("UF", "URX")
    info.request_headers = HeaderPairs([(b"Host", b"a"), (b"X-Raw", b"\xff\x00"), (b"x-raw", b"second")])
    return info


def over_the_wire(values: list[object]) -> list[object]:
    unpacked: list[object] = msgpack.unpackb(msgpack.packb(values))
    return unpacked


def test_every_value_comes_back() -> None:
    info = full()
    copy = StreamInfo.load(over_the_wire(info.dump()))
    assert copy.dump() == info.dump()
    assert copy.flags == ("UF", "URX")
    assert copy.response_headers is None


def test_headers_that_moved_can_still_be_looked_up() -> None:
    copy = StreamInfo.load(over_the_wire(full().dump()))
    assert copy.request_headers is not None
    assert copy.request_headers.get(b"x-raw") == b"\xff\x00"
    assert copy.request_headers.get(b"x-none") is None


def test_an_empty_record_comes_back() -> None:
    assert StreamInfo.load(over_the_wire(StreamInfo().dump())).dump() == StreamInfo().dump()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "200"),
        ("start_s", 1),
        ("path", b"/"),
        ("flags", "UF"),
        ("flags", [1]),
        ("request_headers", b"x"),
        ("request_headers", [[b"a"]]),
        ("response_headers", [["a", "b"]]),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    values = full().dump()
    values[FIELDS.index(name)] = value
    with pytest.raises(ValueError):
        StreamInfo.load(values)


def test_a_dump_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError):
        StreamInfo.load(full().dump()[:-1])
