"""Reading a segment: by any process, at any time, with the proxy alive, busy folding, killed or stopped.

A reader only maps read-only and never waits for anybody. What it reads is consistent: the retired totals and the
slabs that they do not include, taken while `flips` stood still (see `fold`). Whatever the bytes are, it ends in a
`Reading` or in a `ShmError` of one sentence.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.shm.directory import Entry, read_entries
from hotproxy.shm.fold import read_chunks
from hotproxy.shm.layout import (
    DRAINING,
    LIVE,
    O_CONCURRENCY,
    O_EPOCH,
    O_FLIPS,
    O_INCLUDED,
    O_LAST_EPOCH,
    O_OBJECTS,
    O_STARTED_WALL_NS,
    O_STATE,
    O_STOPPED,
    O_SUPERVISOR_PID,
    O_SUPERVISOR_START,
    O_VERSION,
    S_BUFFERED_BYTES,
    S_CONNECTIONS,
    S_HEARTBEAT_NS,
    SLAB_HEAD_BYTES,
    VERSION_BYTES,
    WORD_BYTES,
    ShmError,
    fence,
)
from hotproxy.shm.liveness import is_alive
from hotproxy.shm.memory import SharedObject, close_objects, open_chained, open_objects, read_schema
from hotproxy.shm.schema import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    HISTOGRAM_BUCKETS,
    INSTANCE_GAUGE,
    SUM_CELL,
    Schema,
    Stat,
    bucket_bounds,
)

__all__ = ["HistogramValue", "ProcessInfo", "Reading", "ShmError", "read"]

# A fold takes well under a millisecond, as does an attempt; to be interrupted this often, somebody must fold
# without a pause for seconds.
MAX_ATTEMPTS: Final = 10_000
# What makes no sense may be half of a change; what still makes none after so many looks is corrupt.
MAX_FAULTS: Final = 20


@dataclass(frozen=True, slots=True)
class HistogramValue:
    """All recorded values: how many, their sum, and `buckets` as (largest value counted there, how many), without
    the empty ones, in ascending order. In the statistic's unit."""

    count: int
    sum: int
    buckets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process incarnation that has a slab. `pid` is 0 while nobody knows it; `heartbeat_ns` is CLOCK_MONOTONIC."""

    serial: int
    epoch: int
    role: str
    slot: int
    pid: int
    alive: bool
    heartbeat_ns: int
    connections: int
    buffered_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A segment at one moment. `stats` has a Stat for each name in `values`."""

    values: dict[str, int | HistogramValue]
    stats: dict[str, Stat]
    processes: list[ProcessInfo]
    epoch: int  # of the generation that accepts
    last_epoch: int  # the highest ever given out
    supervisor_pid: int
    supervisor_alive: bool
    state: int  # layout.LIVE ...
    stopped: bool  # by a clean stop
    started_wall_s: float
    concurrency: int
    version: str


def read(name: str, owner_uid: int | None = None, wall_s: Callable[[], float] = time.time) -> Reading:
    """Read the segment called `name` (see `layout.segment_name`).

    It must belong to `owner_uid`, to the calling user or to root (root reads everything). Raises ShmAbsent when there
    is none, ShmError when it is truncated, corrupt, of another layout or not readable.
    """
    objects = open_objects(name, owner_uid=owner_uid)
    try:
        faults = 0
        for _ in range(MAX_ATTEMPTS):
            flips = objects[0].get(O_FLIPS)
            try:
                open_chained(objects, name, writable=False, owner_uid=owner_uid)
                slabs = _read_cells(objects, flips)
                schema = read_schema(objects)
            except ShmError:
                faults += 1
                if faults == MAX_FAULTS:
                    raise
                continue
            fence()
            if objects[0].get(O_FLIPS) == flips and objects[0].get(O_OBJECTS) == len(objects):
                return _add_up(objects[0], schema, slabs, wall_s())
        raise ShmError(f"shared memory {name} changes faster than it can be read")
    finally:
        close_objects(objects)


@dataclass(frozen=True, slots=True)
class _Slabs:
    """Copies of the cells: the retired totals, and of each slab that they do not include its head and its cells."""

    retired: list[int]
    slabs: list[tuple[Entry, list[int], list[int]]]


def _read_cells(objects: Sequence[SharedObject], flips: int) -> _Slabs:
    active = flips & 1
    fence()
    retired: list[int] = []
    for chunk in read_chunks(objects):
        retired += chunk.read(active)
    included = objects[0].get(O_INCLUDED + active * WORD_BYTES)
    head_words = SLAB_HEAD_BYTES // WORD_BYTES
    slabs = []
    for shared in objects:
        for entry in read_entries(shared):
            if entry.serial != included:
                start = entry.first_word
                words = shared.words[start - head_words : start + entry.cells].tolist()
                slabs.append((entry, words[:head_words], words[head_words:]))
    return _Slabs(retired, slabs)


def _add_up(base: SharedObject, schema: Schema, cells: _Slabs, now_s: float) -> Reading:
    layout = list(zip(schema.stats, schema.cell_of, strict=True))
    totals = [0] * schema.cells
    _add(totals, cells.retired)
    living = {cell: 0 for stat, cell in layout if stat.kind == GAUGE}  # only of processes that still run
    instance_cells = [cell for stat, cell in layout if stat.kind == INSTANCE_GAUGE]
    speaker: tuple[tuple[bool, bool, int], list[int]] | None = None
    epoch = base.get(O_EPOCH)
    processes = []
    for entry, head, values in cells.slabs:
        alive = entry.alive()
        _add(totals, values)
        if alive:
            for cell in living:
                if cell < entry.cells:
                    living[cell] += values[cell]
            if entry.role == "control":
                # Who speaks for the instance: one that has published, of the generation that accepts, the newest.
                published = any(values[cell] for cell in instance_cells if cell < entry.cells)
                rank = (published, entry.epoch == epoch, entry.serial)
                if speaker is None or rank > speaker[0]:
                    speaker = rank, values
        processes.append(_process(entry, head, alive))
    values_by_name: dict[str, int | HistogramValue] = {}
    for stat, cell in layout:
        if stat.kind == COUNTER:
            values_by_name[stat.name] = totals[cell]
        elif stat.kind == HISTOGRAM:
            values_by_name[stat.name] = _histogram(totals, cell)
        elif stat.kind == GAUGE:
            values_by_name[stat.name] = living[cell]
        else:
            values_by_name[stat.name] = speaker[1][cell] if speaker is not None and cell < len(speaker[1]) else 0
    stats = {stat.name: stat for stat in schema.stats}
    reading = Reading(
        values_by_name,
        stats,
        processes,
        epoch,
        base.get(O_LAST_EPOCH),
        base.get(O_SUPERVISOR_PID),
        is_alive(base.get(O_SUPERVISOR_PID), base.get(O_SUPERVISOR_START)),
        base.get(O_STATE),
        base.get(O_STOPPED) != 0,
        base.get(O_STARTED_WALL_NS) / 1e9,
        base.get(O_CONCURRENCY),
        base.map[O_VERSION : O_VERSION + VERSION_BYTES].rstrip(b"\0").decode("utf-8", "replace"),
    )
    for name, value in _server_values(reading, now_s).items():
        reading.values[name] = value
        reading.stats[name] = Stat(name, INSTANCE_GAUGE, (), f"envoy_{name.replace('.', '_')}")
    return reading


def _add(totals: list[int], values: list[int]) -> None:
    # A slab is as long as the schema was at its birth; the retired totals are longer, in reserve.
    common = min(len(totals), len(values))
    totals[:common] = map(operator.add, totals[:common], values)


def _process(entry: Entry, head: list[int], alive: bool) -> ProcessInfo:
    return ProcessInfo(
        entry.serial,
        entry.epoch,
        entry.role,
        entry.slot,
        entry.pid,
        alive,
        head[S_HEARTBEAT_NS],
        head[S_CONNECTIONS],
        head[S_BUFFERED_BYTES],
    )


def _histogram(totals: list[int], first: int) -> HistogramValue:
    counts = totals[first : first + HISTOGRAM_BUCKETS]
    buckets = tuple((bucket_bounds(bucket)[1], count) for bucket, count in enumerate(counts) if count)
    return HistogramValue(sum(counts), totals[first + SUM_CELL], buckets)


def _server_values(reading: Reading, now_s: float) -> dict[str, int]:
    """Envoy's `server.*` as far as the head tells them. An instance without any living process is not live, has no
    uptime, and keeps the rest of what it last said."""
    running = not reading.stopped and (
        reading.supervisor_alive or any(process.alive and process.role == "worker" for process in reading.processes)
    )
    return {
        "server.uptime": max(0, int(now_s - reading.started_wall_s)) if running else 0,
        "server.live": int(running and reading.state == LIVE),
        "server.state": reading.state if running else DRAINING,
        "server.concurrency": reading.concurrency,
        "server.hot_restart_epoch": reading.epoch,
        "server.hot_restart_generation": reading.epoch,
        "server.version": _version_number(reading.version),
        "server.total_connections": sum(process.connections for process in reading.processes if process.alive),
    }


def _version_number(text: str) -> int:
    """Envoy's is a number too: "1.2.3" becomes 10203; what is no version becomes 0."""
    parts = text.split(".")[:3]
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 5 for part in parts):
        return 0
    major, minor, patch = map(int, parts)
    return major * 10_000 + minor * 100 + patch
