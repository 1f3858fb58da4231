"""Connections on paper: the frames that workers of different versions exchange, byte for byte, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.restarter.frames import KINDS, MAX_FRAME_BYTES, FrameError, decode, encode
from hotproxy.worker import records
from hotproxy.worker.records import MAX_BATCH_BYTES, MAX_BATCH_FDS, Record, TooLarge

GOLDEN = Path(__file__).parent / "golden"
# Every frame of a handoff. Once released, a file here is never changed: a new version gets a new one, and an old one
# is read for as long as somebody may restart from it.
OFFERED = [["http1", "web", 2, b"\x81\xa1a\x01"], ["http1_idle", "", 1, b"\x80"]]
FRAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "give-1": ("GIVE", {"serial": 7, "pairs": [[1, 100], [2, 50]], "step_s": 5.0, "until_s": 1234.5}),
    "take-1": ("TAKE", {"serial": 8, "pair": 1, "step_s": 5.0, "until_s": 1239.5}),
    "offer-1": ("OFFER", {"wave": 3, "last": True, "records": OFFERED}),
    "taken-1": ("TAKEN", {"wave": 3}),
    "prepared-1": ("PREPARED", {"wave": 3, "refused": [0, 5]}),
    "commit-1": ("COMMIT", {"wave": 3}),
    "committed-1": ("COMMITTED", {"wave": 3}),
    "moved-1": ("MOVED", {"serial": 7, "pair": 1, "moved": 98, "refused": 2, "why": "no answer in 5 s"}),
    "stuck-1": ("STUCK", {"serial": 7, "pair": 1, "committed": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_what_they_have_always_been(name: str) -> None:
    kind, fields = FRAMES[name]
    golden = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert encode(kind, fields) == golden
    message = decode(golden)
    assert (message.kind, message.fields) == (kind, fields)


def test_every_kind_of_a_handoff_has_its_golden_frame() -> None:
    assert {kind for kind, _ in FRAMES.values()} <= set(KINDS)
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(FRAMES)


made = st.builds(
    Record, st.sampled_from(["http1", "tcp", "http1_idle"]), st.sampled_from(["web", "", "x" * 200]),
    st.binary(max_size=60_000), st.lists(st.integers(3, 1000), min_size=1, max_size=60),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(made, max_size=30))
def test_what_is_written_is_read_in_batches_that_fit(written: list[Record]) -> None:
    found: list[Record] = []
    for wires, fds in records.batches(written):
        assert len(fds) <= MAX_BATCH_FDS
        if len(wires) > 1:
            frame = encode("OFFER", {"wave": 1, "last": False, "records": wires})
            assert sum(len(wire[3]) for wire in wires) <= MAX_BATCH_BYTES and len(frame) <= MAX_FRAME_BYTES
        received = list(fds)
        found += records.read(wires, received)
        assert received == []
    assert found == written


@pytest.mark.parametrize(
    ("wires", "why"),
    [
        ([["http1", "web", 1]], "is no record"), ([["http1", "web", 1, "text"]], "is no record"),
        ([["http1", "web", 0, b""]], "is no record"), ([["http1", "web", True, b""]], "is no record"),
        ([7], "is no record"), ([["http1", "web", 2, b""]], "want 2 descriptors, 1 came"),
        ([], "want 0 descriptors, 1 came"),
    ],
)  # fmt: skip
def test_a_batch_that_makes_no_sense_is_refused_whole(wires: list[Any], why: str) -> None:
    fds = [99]
    with pytest.raises(FrameError, match=why):
        records.read(wires, fds)
    assert fds == [99], "still the message's to close"


def test_a_newer_giver_may_say_more() -> None:
    (record,) = records.read([["http1", "web", 1, b"\x80", "more"]], [99])
    assert record == Record("http1", "web", b"\x80", [99]) and records.state_of(record) == {}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_state_or_a_value_error(data: bytes) -> None:
    try:
        state = records.state_of(Record("http1", "web", data, []))
    except ValueError:
        return
    assert isinstance(state, dict)


def test_what_is_too_large_is_not_written() -> None:
    with pytest.raises(TooLarge):
        records.write("http1", "web", {"unsent": bytes(records.MAX_STATE_BYTES)}, [3])
    with pytest.raises(TooLarge):
        records.write("http1", "web", {}, [3] * (MAX_BATCH_FDS + 1))


def test_descriptors_of_a_record_that_nobody_wants_are_closed() -> None:
    reading, writing = os.pipe()
    records.close(Record("http1", "web", b"", [reading, writing]))
    for fd in (reading, writing):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
