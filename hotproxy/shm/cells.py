"""A process's own slab: where it lies, who writes there, and its counters, gauges and histograms by name.

Anything that two parts of a process count together must be the *same* Counter, for each keeps its own number:
`Slab.counter(name)` therefore always returns the same object for a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hotproxy.shm.kernel import Counter, Gauge, Histogram
from hotproxy.shm.layout import (
    S_BUFFERED_BYTES,
    S_CONNECTIONS,
    S_HEARTBEAT_NS,
    S_PID,
    S_SERIAL,
    S_START,
    SLAB_HEAD_BYTES,
    WORD_BYTES,
    ShmError,
    slab_bytes,
)
from hotproxy.shm.liveness import start_time
from hotproxy.shm.memory import SharedObject, close_objects, open_objects, read_schema
from hotproxy.shm.schema import COUNTER, GAUGE, HISTOGRAM, INSTANCE_GAUGE, Schema, Stat

# What is made here, for those who count.
__all__ = ["Counter", "Gauge", "Histogram", "Slab", "SlabPlace"]

_HEAD_WORDS = SLAB_HEAD_BYTES // WORD_BYTES


@dataclass(frozen=True, slots=True)
class SlabPlace:
    """Where a slab lies: which object of the segment, at which byte, how many cells, whose."""

    serial: int
    object: int
    offset: int
    cells: int

    def to_wire(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> SlabPlace:
        """Raises ShmError on anything that `to_wire` did not make."""
        values = [fields.get(name) for name in ("serial", "object", "offset", "cells")]
        if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
            raise ShmError(f"{dict(fields)!r} is not the place of a slab"[:200])
        return cls(*values)  # type: ignore[arg-type]


class Slab:
    """The cells of one process incarnation. Opened before the fork, claimed and written after it."""

    __slots__ = ("_cells", "_head", "_limit", "_made", "_shared", "schema", "serial")

    def __init__(self, schema: Schema, head: memoryview, cells: memoryview, shared: SharedObject | None = None) -> None:
        self.schema = schema
        self._limit = len(cells)
        self._shared = shared
        self._head = head
        self._cells = cells
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        self.serial: int = head[S_SERIAL]

    @classmethod
    def private(cls, stats: Sequence[Stat]) -> Slab:
        """One that nobody else sees, for unit tests and tools."""
        schema = Schema()
        for stat in schema.missing(stats):
            schema.append(stat)
        words = memoryview(bytearray(slab_bytes(schema.cells))).cast("q")
        return cls(schema, words[:_HEAD_WORDS], words[_HEAD_WORDS : _HEAD_WORDS + schema.cells])

    @classmethod
    def open(cls, segment: str, place: SlabPlace, known: Schema | None = None) -> Slab:
        """The slab that the supervisor laid out at `place`, mapped for writing.

        `known` is the `schema` of a slab opened earlier: reading it again takes 3 ms per thousand statistics, and
        a worker is to be forked again faster than that. Raises ShmError when the segment is gone or corrupt, or when
        somebody else's slab lies there.
        """
        schema = known if known is not None and known.cells >= place.cells else _load_schema(segment)
        shared = SharedObject.open(segment, place.object, writable=True)
        first = place.offset // WORD_BYTES
        size = SLAB_HEAD_BYTES + place.cells * WORD_BYTES
        if not shared.holds(place.offset, size, SLAB_HEAD_BYTES) or shared.words[first + S_SERIAL] != place.serial:
            shared.close()
            raise ShmError(f"there is no slab with serial {place.serial} at {place.offset} of {shared.name}")
        words = shared.words[first : first + size // WORD_BYTES]
        return cls(schema, words[:_HEAD_WORDS], words[_HEAD_WORDS:], shared)

    def claim(self) -> None:
        """Say who writes here. The first thing the forked child does: should the supervisor die before it learns the
        pid, its successor can still tell whether this slab's process lives."""
        pid = os.getpid()
        self._head[S_START] = start_time(pid) or 0
        self._head[S_PID] = pid

    def close(self) -> None:
        """Unmap. Counting in it afterwards is a ValueError: a parent that closes can't spoil its child's numbers."""
        for made in self._made.values():
            made.release()
        self._head.release()
        self._cells.release()
        if self._shared is not None:
            self._shared.close()

    def counter(self, name: str) -> Counter:
        """Raises KeyError for a name that is not in the schema."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Counter(self._cells, self._find(name, COUNTER))
        if not isinstance(made, Counter):
            raise TypeError(f"{name} is not a counter")
        return made

    def gauge(self, name: str) -> Gauge:
        """Raises KeyError for a name that is not in the schema."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Gauge(self._cells, self._find(name, GAUGE, INSTANCE_GAUGE))
        if not isinstance(made, Gauge):
            raise TypeError(f"{name} is not a gauge")
        return made

    def histogram(self, name: str) -> Histogram:
        """Raises KeyError for a name that is not in the schema."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Histogram(self._cells, self._find(name, HISTOGRAM))
        if not isinstance(made, Histogram):
            raise TypeError(f"{name} is not a histogram")
        return made

    def _find(self, name: str, *kinds: int) -> int:
        stat, cell = self.schema.find(name)
        if stat.kind not in kinds:
            raise TypeError(f"{name} has kind {stat.kind}")
        if cell >= self._limit:
            raise KeyError(name)  # younger than this slab
        return cell

    @property
    def heartbeat_ns(self) -> int:
        """When the process last said that it lives: CLOCK_MONOTONIC in nanoseconds, 0 before the first time."""
        value: int = self._head[S_HEARTBEAT_NS]
        return value

    @heartbeat_ns.setter
    def heartbeat_ns(self, value: int) -> None:
        self._head[S_HEARTBEAT_NS] = value

    @property
    def connections(self) -> int:
        """Downstream connections that the process holds."""
        value: int = self._head[S_CONNECTIONS]
        return value

    @connections.setter
    def connections(self, value: int) -> None:
        self._head[S_CONNECTIONS] = value

    @property
    def buffered_bytes(self) -> int:
        value: int = self._head[S_BUFFERED_BYTES]
        return value

    @buffered_bytes.setter
    def buffered_bytes(self, value: int) -> None:
        self._head[S_BUFFERED_BYTES] = value

    def buffered(self) -> Gauge:
        """`buffered_bytes` as a gauge, for those who add and subtract."""
        made = self._made.get("")
        if not isinstance(made, Gauge):
            made = self._made[""] = Gauge(self._head, S_BUFFERED_BYTES)
        return made


def _load_schema(segment: str) -> Schema:
    objects = open_objects(segment)
    try:
        return read_schema(objects)
    finally:
        close_objects(objects)
