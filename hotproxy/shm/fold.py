"""Folding: the counters of a process that is gone are added to the retired totals, exactly once.

There are two buffers of totals, and one word, `flips`, whose low bit says which is active:

    1  write into the inactive buffer: the active totals plus the slab, and the slab's serial as "included"
    2  flips += 1          one store; until here nothing has happened, from here on it has
    3  free the slab's entry in the directory

Killed before 2, the next fold writes the inactive buffer anew. Killed between 2 and 3, the slab is still listed but
its serial is in the active buffer's included word: readers leave it out, and `finish` frees it. One included serial is
enough, because no fold begins before the one before it is finished. A reader remembers `flips`, adds up, and starts
over when it has changed; as a count it can't return to a former value unnoticed.

The retired totals lie in chunks (a chunk covers a range of cells in both buffers), so that they can grow with the
schema.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.shm.directory import Entry, find, release
from hotproxy.shm.layout import (
    CHUNK_WORDS,
    MAX_CHUNKS,
    O_CHUNKS,
    O_CHUNKS_COMMITTED,
    O_FLIPS,
    O_INCLUDED,
    WORD_BYTES,
    ShmError,
    fence,
)
from hotproxy.shm.memory import SharedObject

_LARGEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of the retired totals, in both buffers."""

    shared: SharedObject
    first: int  # cell
    cells: int
    offsets: tuple[int, int]  # bytes, of buffer 0 and 1

    def read(self, buffer: int) -> list[int]:
        start = self.offsets[buffer] // WORD_BYTES
        values: list[int] = self.shared.words[start : start + self.cells].tolist()
        return values


def read_chunks(objects: Sequence[SharedObject]) -> list[Chunk]:
    """All chunks, in the order of their cells, without a gap. Raises ShmError where they make no sense."""
    chunks = []
    for shared in objects:
        count = shared.get(O_CHUNKS_COMMITTED)
        if not 0 <= count <= MAX_CHUNKS:
            raise ShmError(f"shared memory {shared.name} is corrupt: it claims {count} chunks")
        for index in range(count):
            at = O_CHUNKS // WORD_BYTES + index * CHUNK_WORDS
            first, cells, *offsets = shared.words[at : at + CHUNK_WORDS].tolist()
            if not 0 < cells < shared.size or not all(shared.holds(start, cells * WORD_BYTES) for start in offsets):
                raise ShmError(f"shared memory {shared.name} is corrupt: its chunk {index} lies outside of it")
            chunks.append(Chunk(shared, first, cells, (offsets[0], offsets[1])))
    chunks.sort(key=lambda chunk: chunk.first)
    expected = 0
    for chunk in chunks:
        if chunk.first != expected:
            raise ShmError(f"shared memory {objects[0].name} is corrupt: its chunks leave out cell {expected}")
        expected += chunk.cells
    return chunks


def add_chunk(shared: SharedObject, first: int, cells: int, offset: int) -> None:
    """A new chunk whose buffers lie one after the other at `offset`: zeroed, then listed."""
    size = cells * WORD_BYTES
    shared.map[offset : offset + 2 * size] = bytes(2 * size)
    count = shared.get(O_CHUNKS_COMMITTED)
    at = O_CHUNKS // WORD_BYTES + count * CHUNK_WORDS
    for index, value in enumerate((first, cells, offset, offset + size)):
        shared.words[at + index] = value
    fence()
    shared.put(O_CHUNKS_COMMITTED, count + 1)


def fold(objects: Sequence[SharedObject], entry: Entry, gauge_cells: Sequence[int]) -> None:
    """Add a dead process's slab to the totals and free it. `finish` must have been called before the first fold.

    `gauge_cells` are the cells that vanish with their process.
    """
    base = objects[0]
    flips = base.get(O_FLIPS)
    active, inactive = flips & 1, ~flips & 1
    values = entry.shared.words[entry.first_word : entry.first_word + entry.cells].tolist()
    for cell in gauge_cells:
        if cell < entry.cells:
            values[cell] = 0
    for chunk in read_chunks(objects):
        totals = chunk.read(active)
        more = values[chunk.first : chunk.first + chunk.cells]
        totals[: len(more)] = map(operator.add, totals, more)
        start = chunk.offsets[inactive] // WORD_BYTES
        chunk.shared.words[start : start + chunk.cells] = memoryview(_as_cells(totals))
    base.put(O_INCLUDED + inactive * WORD_BYTES, entry.serial)
    fence()
    base.put(O_FLIPS, flips + 1)
    release(entry)


def _as_cells(totals: list[int]) -> array[int]:
    try:
        return array("q", totals)
    except OverflowError:  # no process counts that far: its slab was overwritten, and that must not stop a supervisor
        return array("q", [max(-_LARGEST - 1, min(value, _LARGEST)) for value in totals])


def finish(objects: Sequence[SharedObject]) -> bool:
    """Free the slab of a fold that was interrupted after its flip. True when there was one."""
    base = objects[0]
    included = base.get(O_INCLUDED + (base.get(O_FLIPS) & 1) * WORD_BYTES)
    entry = find(objects, included) if included else None
    if entry is None:
        return False
    release(entry)
    return True
