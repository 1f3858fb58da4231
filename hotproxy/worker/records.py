"""How connections are written down for the way to another worker: a record for each, a batch of records for each OFFER.

    record   [kind, listener, number of descriptors, state]     state: msgpack of what `dump()` gave, version inside
    batch    as many as fit into one frame, with their descriptors behind each other in the frame's own

`kind` says who can load it: "http1", "http2" or "tcp", a client's connection, or "proxy_protocol" before it is one of
these; "http1_idle", one to an endpoint, whose `listener` is "". A state that does not fit into a frame travels in a
memfd (`restarter/frames.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from hotproxy.restarter.frames import MAX_FDS, MAX_MEMFD_BYTES, FrameError

# One descriptor of a frame is left for a memfd.
MAX_BATCH_FDS: Final = MAX_FDS - 1
# Below a frame's 128 KiB with its envelope: many small states in a frame, a large one in a frame of its own.
MAX_BATCH_BYTES: Final = 100 * 1024
# What one state may have; unsent bytes are held back at 256 KiB, so that more than a megabyte is a bug.
MAX_STATE_BYTES: Final = MAX_MEMFD_BYTES - 64 * 1024


class TooLarge(ValueError):
    """This connection can't be written down."""


@dataclass(slots=True)
class Record:
    """One connection. `fds` are the giver's own, or, where it was received, the taker's to close."""

    kind: str
    listener: str
    state: bytes
    fds: list[int]


def write(kind: str, listener: str, state: dict[str, object], fds: list[int]) -> Record:
    """Raises TooLarge."""
    packed: bytes = msgpack.packb(state)
    if len(packed) > MAX_STATE_BYTES or len(fds) > MAX_BATCH_FDS:
        raise TooLarge(f"a {kind} connection of {len(packed)} bytes and {len(fds)} descriptors")
    return Record(kind, listener, packed, fds)


def batches(records: Sequence[Record]) -> Iterator[tuple[list[list[Any]], list[int]]]:
    """OFFER's `records` and descriptors, in order."""
    wires: list[list[Any]] = []
    fds: list[int] = []
    size = 0
    for record in records:
        if wires and (size + len(record.state) > MAX_BATCH_BYTES or len(fds) + len(record.fds) > MAX_BATCH_FDS):
            yield wires, fds
            wires, fds, size = [], [], 0
        wires.append([record.kind, record.listener, len(record.fds), record.state])
        fds.extend(record.fds)
        size += len(record.state)
    if wires:
        yield wires, fds


def read(wires: Sequence[Any], fds: list[int]) -> list[Record]:
    """The records of an OFFER; `fds` is emptied: they are the records' now. Raises FrameError, and then it is not."""
    total = 0
    for wire in wires:
        if not isinstance(wire, list) or [type(value) for value in wire[:4]] != [str, str, int, bytes] or wire[2] < 1:
            raise FrameError(f"{wire!r:.80} is no record of a connection")
        total += wire[2]
    if total != len(fds):
        raise FrameError(f"the records want {total} descriptors, {len(fds)} came")
    records = []
    at = 0
    for kind, listener, count, state, *_ in wires:
        records.append(Record(kind, listener, state, fds[at : at + count]))
        at += count
    fds.clear()
    return records


def state_of(record: Record) -> dict[str, object]:
    """What `dump()` gave. Raises ValueError."""
    try:
        state = msgpack.unpackb(record.state)
    except Exception as error:  # msgpack raises a dozen unrelated types, ValueError and RecursionError among them
        raise ValueError(f"its state is not msgpack: {type(error).__name__}") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("its state is no map with text keys")
    return state


def close(record: Record) -> None:
    """The received descriptors of a record that nobody wants."""
    while record.fds:
        os.close(record.fds.pop())
