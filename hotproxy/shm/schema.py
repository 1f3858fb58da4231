"""The list of all statistics: names, kinds and tags, and which cells each of them has.

Inside a segment it is append-only: entry n never changes, so a reader of any age finds the cells of every name it
can read. An entry is 4 bytes of length (big-endian) and msgpack [name, kind, [[tag, value], ...], family].
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from hotproxy.shm.layout import ShmError

COUNTER: Final = 1  # only grows; survives its process
GAUGE: Final = 2  # the sum over living processes; vanishes with its process
HISTOGRAM: Final = 3  # like a counter
INSTANCE_GAUGE: Final = 4  # one value for the whole instance, written by the control process: never summed

# Values from 0 to 31 have a bucket each; above, 16 to the octave (error <= 6.25 %); the last one takes all from
# 2**24 - 2**19 up. In milliseconds that is 4.5 hours, longer than any exchange whose duration anybody compares.
HISTOGRAM_OCTAVES: Final = 20
HISTOGRAM_BUCKETS: Final = 16 + 16 * HISTOGRAM_OCTAVES
SUM_CELL: Final = HISTOGRAM_BUCKETS  # follows the buckets
CELLS: Final = {COUNTER: 1, GAUGE: 1, HISTOGRAM: HISTOGRAM_BUCKETS + 1, INSTANCE_GAUGE: 1}

# Far above any name made from a config; it bounds what one entry can take of the schema.
MAX_ENTRY_BYTES: Final = 4096

_LENGTH: Final = struct.Struct("!I")


class SchemaError(ShmError):
    """A statistic that can't be: nonsense on the wire, or a known name with another kind."""


class Stat(NamedTuple):
    """One statistic. `tags` and `family` are how Prometheus shows it: Envoy's label names, in Envoy's order.

    A tuple, because a config of a thousand clusters has 90,000 of them and each process of a reload makes them all: a
    frozen dataclass takes four times as long.
    """

    name: str
    kind: int
    tags: tuple[tuple[str, str], ...] = ()
    family: str = ""


def to_wire(stats: Iterable[Stat]) -> list[Any]:
    """As msgpack can carry it, and writes it: [[name, kind, [[tag, value], ...], family], ...]."""
    return list(stats)


def from_wire(entries: object, known: Schema | None = None) -> list[Stat]:
    """What `to_wire` made, without what `known` already has under the same name and kind: the next generation mostly
    declares what the last one did. Raises SchemaError on anything else."""
    if not isinstance(entries, list | tuple):
        raise SchemaError(f"statistics are a list, not {type(entries).__name__}")
    if known is None:
        return [_stat(entry) for entry in entries]
    return [_stat(entry) for entry in entries if not known.has_entry(entry)]


def _stat(entry: object) -> Stat:
    if not isinstance(entry, list | tuple) or len(entry) < 4:
        raise SchemaError("a statistic is a list of name, kind, tags and family")
    name, kind, tags, family, *_ = entry
    if not isinstance(name, str) or not name or "\n" in name:
        raise SchemaError("a statistic's name is a line of text")
    if not isinstance(kind, int) or kind not in CELLS:
        raise SchemaError(f"statistic {name[:80]!r} has the unknown kind {kind!r}"[:200])
    if not isinstance(family, str) or not isinstance(tags, list | tuple):
        raise SchemaError(f"statistic {name[:80]!r} has no valid tags and family")
    for tag in tags:
        pair = isinstance(tag, tuple | list) and len(tag) == 2
        if not pair or not isinstance(tag[0], str) or not isinstance(tag[1], str):
            raise SchemaError(f"statistic {name[:80]!r} has a tag that is not a pair of texts")
    return Stat(name, kind, tuple(map(tuple, tags)), family)


def encode_entry(stat: Stat) -> bytes:
    """The bytes of one entry, length included. Raises SchemaError when they are more than MAX_ENTRY_BYTES."""
    try:
        body: bytes = msgpack.packb(to_wire([stat])[0])
    except UnicodeEncodeError:
        raise SchemaError(f"statistic {stat.name[:80]!r} is not UTF-8") from None
    if len(body) > MAX_ENTRY_BYTES - _LENGTH.size:
        raise SchemaError(f"statistic {stat.name[:80]!r}... takes {len(body)} bytes, at most {MAX_ENTRY_BYTES}")
    return _LENGTH.pack(len(body)) + body


def decode_entries(data: bytes) -> list[Stat]:
    """The entries of one object's schema, in order. Raises SchemaError where the bytes are no schema."""
    stats: list[Stat] = []
    unpack = msgpack.unpackb
    position, end = 0, len(data)
    while position < end:
        if end - position < _LENGTH.size:
            raise SchemaError(f"the schema is corrupt: it ends inside the entry at byte {position}")
        (length,) = _LENGTH.unpack_from(data, position)
        start = position + _LENGTH.size
        if not 0 < length <= end - start:
            raise SchemaError(f"the schema is corrupt: the entry at byte {position} claims {length} bytes")
        try:
            entry = unpack(data[start : start + length], use_list=False)
        except Exception as error:  # msgpack raises a dozen unrelated types on bad input
            raise SchemaError(f"the schema is corrupt at byte {position}: {type(error).__name__}") from None
        stats.append(_stat(entry))
        position = start + length
    return stats


class Schema:
    """Statistics in order, and the first cell of each."""

    __slots__ = ("_index", "cell_of", "cells", "stats")

    def __init__(self, stats: Sequence[Stat] = ()) -> None:
        self.stats: list[Stat] = []
        self.cell_of: list[int] = []  # in the order of `stats`
        self.cells = 0  # of all of them together
        self._index: dict[str, int] = {}
        for stat in stats:
            self.append(stat)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def has_entry(self, entry: object) -> bool:
        """Whether this piece of a wire form names a statistic that is here, with its kind."""
        if not isinstance(entry, list | tuple) or len(entry) < 4 or not isinstance(entry[0], str):
            return False
        index = self._index.get(entry[0])
        return index is not None and self.stats[index].kind == entry[1]

    def append(self, stat: Stat) -> None:
        """Raises SchemaError when its name is there already."""
        if stat.name in self._index:
            raise SchemaError(f"the schema is corrupt: {stat.name[:80]!r} is in it twice")
        self._index[stat.name] = len(self.stats)
        self.stats.append(stat)
        self.cell_of.append(self.cells)
        self.cells += CELLS[stat.kind]

    def find(self, name: str) -> tuple[Stat, int]:
        """A statistic and its first cell. Raises KeyError."""
        index = self._index[name]
        return self.stats[index], self.cell_of[index]

    def missing(self, stats: Iterable[Stat]) -> list[Stat]:
        """Those of `stats` that are not here yet, each once. Raises SchemaError when a known name has another kind."""
        new: dict[str, Stat] = {}
        for stat in stats:
            known = new.get(stat.name)
            if known is None and stat.name in self._index:
                known = self.stats[self._index[stat.name]]
            if known is None:
                new[stat.name] = stat
            elif known.kind != stat.kind:
                raise SchemaError(
                    f"statistic {stat.name!r} has kind {known.kind} in shared memory, and now comes as {stat.kind}"
                )
        return list(new.values())

    def gauge_cells(self) -> list[int]:
        """The cells that vanish with their process."""
        return [
            cell for stat, cell in zip(self.stats, self.cell_of, strict=True) if stat.kind in (GAUGE, INSTANCE_GAUGE)
        ]


def bucket_of(value: int) -> int:
    """The histogram bucket that counts `value`."""
    if value < 32:
        return value if value > 0 else 0
    octave = value.bit_length() - 5
    if octave >= HISTOGRAM_OCTAVES:
        return HISTOGRAM_BUCKETS - 1
    return (octave << 4) + (value >> octave)


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """The smallest and the largest value that a bucket counts; the last one really has no upper end."""
    if bucket < 32:
        return bucket, bucket
    octave = (bucket >> 4) - 1
    lower = (bucket - (octave << 4)) << octave
    return lower, lower + (1 << octave) - 1
