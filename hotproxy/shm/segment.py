"""The supervisor's side of shared memory: it makes the segment, extends it, hands out slabs, and folds the dead.

There is one writer of all this at any time (the instance's lock file sees to that), it has one thread, and it may be
killed between any two stores: everything is written first and made valid by one last store, and whoever attaches
next finishes or forgets what was begun. Which parts of an arena are free is not stored anywhere: it is what the
directory and the chunks leave over.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from hotproxy.shm import directory, fold
from hotproxy.shm.cells import Slab, SlabPlace
from hotproxy.shm.directory import Entry
from hotproxy.shm.layout import (
    BASE_OBJECT_BYTES,
    CACHE_LINE_BYTES,
    CHUNK_CELLS,
    DIRECTORY_ENTRIES,
    INITIALIZING,
    MAX_CHUNKS,
    MAX_OBJECTS,
    O_BOOT_ID,
    O_CHUNKS_COMMITTED,
    O_CONCURRENCY,
    O_EPOCH,
    O_LAST_EPOCH,
    O_NEXT_SERIAL,
    O_NONCE,
    O_OBJECTS,
    O_SCHEMA_COMMITTED,
    O_STARTED_WALL_NS,
    O_STATE,
    O_STOPPED,
    O_SUPERVISOR_PID,
    O_SUPERVISOR_START,
    O_VERSION,
    S_BUFFERED_BYTES,
    S_CONNECTIONS,
    S_HEARTBEAT_NS,
    SCHEMA_BYTES,
    TAKEN,
    VERSION_BYTES,
    WORD_BYTES,
    ShmAbsent,
    ShmError,
    align,
    fence,
    object_name,
    segment_name,
    slab_bytes,
)
from hotproxy.shm.liveness import boot_id, is_alive, start_time
from hotproxy.shm.memory import (
    SharedObject,
    close_objects,
    open_objects,
    read_schema,
    remove_object,
    remove_segment,
)
from hotproxy.shm.schema import CELLS, Stat, encode_entry

__all__ = ["Segment", "Vitals", "segment_name"]

# A chained object has room for this many slabs, so that chains stay short: two generations of some workers each.
SLABS_PER_OBJECT: Final = 16


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process says of itself in its slab's head. `heartbeat_ns` is CLOCK_MONOTONIC, 0 before the first."""

    heartbeat_ns: int
    connections: int
    buffered_bytes: int


class _HeadWord:
    """One number in the base object's page 0, as an attribute."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __get__(self, segment: Segment, owner: type[Segment]) -> int:
        return segment.objects[0].get(self._offset)

    def __set__(self, segment: Segment, value: int) -> None:
        segment.objects[0].put(self._offset, value)


class Segment:
    """All objects of one instance, mapped for writing."""

    state = _HeadWord(O_STATE)  # layout.LIVE ...
    epoch = _HeadWord(O_EPOCH)  # of the generation that accepts; 0 before the first
    last_epoch = _HeadWord(O_LAST_EPOCH)  # the highest ever given out
    concurrency = _HeadWord(O_CONCURRENCY)  # worker slots
    stopped = _HeadWord(O_STOPPED)  # 1 after a clean stop
    supervisor_pid = _HeadWord(O_SUPERVISOR_PID)
    supervisor_start = _HeadWord(O_SUPERVISOR_START)
    started_wall_ns = _HeadWord(O_STARTED_WALL_NS)

    def __init__(self, name: str, objects: list[SharedObject]) -> None:
        self.name = name
        self.objects = objects
        self.schema = read_schema(objects)

    @classmethod
    def create(
        cls,
        name: str,
        version: str = "",
        size_bytes: int = BASE_OBJECT_BYTES,
        schema_bytes: int = SCHEMA_BYTES,
        entries: int = DIRECTORY_ENTRIES,
    ) -> Segment:
        """A new, empty segment that belongs to the calling process. Raises ShmError when one of that name exists."""
        boot, nonce = boot_id(), secrets.randbits(62)
        base = SharedObject.create(name, 0, nonce, boot, schema_bytes, entries, size_bytes - schema_bytes)
        base.put(O_OBJECTS, 1)
        base.put(O_NEXT_SERIAL, 1)
        segment = cls(name, [base])
        segment._belong_to_me(version)
        base.publish()
        return segment

    @classmethod
    def attach(cls, name: str) -> Segment:
        """The existing segment of that name, with an interrupted fold finished.

        Raises ShmAbsent, or ShmError when it is truncated, corrupt, of another layout, or another user's.
        """
        objects = open_objects(name, writable=True)
        try:
            fold.read_chunks(objects)
            fold.finish(objects)
            return cls(name, objects)
        except BaseException:
            close_objects(objects)
            raise

    @classmethod
    def open_or_create(cls, name: str, version: str = "", log: Callable[[str], None] | None = None) -> Segment:
        """What a supervisor begins with: the segment of a crashed one, its dead folded, so that counters go on; or a
        new one. `log` is told why an old one was not kept.

        Raises ShmError when it belongs to a supervisor that still runs, or when none can be made.
        """
        try:
            segment = cls.attach(name)
            try:
                why = segment._why_not_mine()
                if not why:
                    segment._belong_to_me(version)
                    segment.fold_the_dead()
                    return segment
            except BaseException:
                segment.close()
                raise
            segment.close()
        except _InUse:
            raise
        except ShmAbsent:
            why = ""
        except ShmError as error:
            why = str(error)
        if why and log is not None:
            log(f"a new shared-memory segment is made: {why}")
        remove_segment(name)
        return cls.create(name, version)

    @classmethod
    def resume(cls, name: str) -> Segment | None:
        """The segment of a supervisor that was killed, or was this process before an execve, as it is: nothing is
        folded yet, because its generations may know more of their dead. None where there is none to go on with.

        Raises ShmError when it belongs to a supervisor that still runs.
        """
        try:
            segment = cls.attach(name)
        except ShmError:
            return None  # `open_or_create` says why, if there is anything to say
        try:
            if not segment._why_not_mine():
                return segment
        except BaseException:
            segment.close()
            raise
        segment.close()
        return None

    def _why_not_mine(self) -> str:
        """Why this existing segment can't be continued; "" when it can."""
        base = self.objects[0]
        if self.stopped:
            return f"{self.name} is what an instance left that was stopped"
        if base.map[O_BOOT_ID : O_BOOT_ID + 16] != boot_id():
            return f"{self.name} is from before the machine was started"
        pid = self.supervisor_pid
        if pid != os.getpid() and is_alive(pid, self.supervisor_start):
            raise _InUse(f"shared memory {self.name} belongs to the running supervisor {pid}")
        return ""

    def _belong_to_me(self, version: str) -> None:
        if self.take_over():
            self.state = INITIALIZING
            self.started_wall_ns = time.time_ns()
        self.stopped = 0
        self.version = version

    def take_over(self) -> bool:
        """The calling process is its supervisor from now on. False when it was already: one that has replaced its own
        code by execve is the same process."""
        pid = os.getpid()
        start = start_time(pid) or 0
        if (self.supervisor_pid, self.supervisor_start) == (pid, start):
            return False
        self.supervisor_pid = pid
        self.supervisor_start = start
        return True

    @property
    def version(self) -> str:
        """Of the running code, as text."""
        data: bytes = self.objects[0].map[O_VERSION : O_VERSION + VERSION_BYTES]
        return data.rstrip(b"\0").decode("utf-8", "replace")

    @version.setter
    def version(self, text: str) -> None:
        data = text.encode()[:VERSION_BYTES]
        self.objects[0].map[O_VERSION : O_VERSION + VERSION_BYTES] = data.ljust(VERSION_BYTES, b"\0")

    def add_stats(self, stats: Iterable[Stat]) -> None:
        """Append what the schema does not have yet.

        Raises SchemaError, and adds nothing, when a known name comes with another kind; ShmError when /dev/shm is full.
        """
        missing = self.schema.missing(stats)
        entries = [encode_entry(stat) for stat in missing]
        # The totals first: a slab may count in a cell as soon as the schema has it.
        self._cover(self.schema.cells + sum(CELLS[stat.kind] for stat in missing))
        shared = self._schema_end()
        begun = 0  # of `missing`, the first that is not committed
        length = 0  # of those from there on
        for index, entry in enumerate(entries):
            if shared.get(O_SCHEMA_COMMITTED) + length + len(entry) > shared.schema_capacity:
                self._commit(shared, b"".join(entries[begun:index]), missing[begun:index])
                begun, length = index, 0
                if shared.number + 1 == len(self.objects):
                    self._chain(sum(map(len, entries[index:])), 0, 0)
                shared = self.objects[shared.number + 1]
            length += len(entry)
        self._commit(shared, b"".join(entries[begun:]), missing[begun:])

    def _schema_end(self) -> SharedObject:
        """The object that the next entry goes to: entries never go back to an earlier one, so their order is kept."""
        begun = [shared for shared in self.objects if shared.get(O_SCHEMA_COMMITTED)]
        return begun[-1] if begun else self.objects[0]

    def _commit(self, shared: SharedObject, data: bytes, stats: list[Stat]) -> None:
        committed = shared.get(O_SCHEMA_COMMITTED)
        shared.map[shared.schema + committed : shared.schema + committed + len(data)] = data
        fence()
        shared.put(O_SCHEMA_COMMITTED, committed + len(data))
        for stat in stats:
            self.schema.append(stat)

    def _cover(self, cells: int) -> None:
        """Make the retired totals as long as the schema will be."""
        covered = sum(chunk.cells for chunk in fold.read_chunks(self.objects))
        if cells > covered:
            count = align(cells - covered, CHUNK_CELLS)
            shared, offset = self._find_room(2 * count * WORD_BYTES, for_slab=False)
            fold.add_chunk(shared, covered, count, offset)

    def allocate_slab(self, epoch: int, role: str, slot: int, counts: bool = True) -> SlabPlace:
        """A zeroed slab with a cell for all of the schema (or none), for a process that is about to be forked.

        `role` is one of layout.ROLES. Raises ShmError when /dev/shm is full.
        """
        cells = self.schema.cells if counts else 0
        shared, offset = self._find_room(slab_bytes(cells), for_slab=True)
        index = directory.free_index(shared)
        assert index is not None, "_find_room looked for one"
        base = self.objects[0]
        serial = base.get(O_NEXT_SERIAL)
        base.put(O_NEXT_SERIAL, serial + 1)  # before its use: a serial is never given out twice
        directory.reserve(shared, index, serial, epoch, role, slot, offset, cells)
        return SlabPlace(serial, shared.number, offset, cells)

    def activate_slab(self, serial: int, pid: int) -> None:
        """The process that has this slab was forked and is `pid`. A serial that is gone already is no error."""
        entry = directory.find(self.objects, serial)
        if entry is not None:
            directory.take(entry, pid, start_time(pid) or 0)

    def own_slab(self, role: str = "supervisor") -> Slab:
        """The calling process's own slab: the one it already has (it survived an execve), or a new one."""
        pid = os.getpid()
        for entry in self.entries():
            known = entry.state == TAKEN and entry.role == role and entry.pid == pid and entry.alive()
            if known and entry.cells >= self.schema.cells:
                return Slab.open(self.name, _place(entry))
        place = self.allocate_slab(0, role, 0)
        self.activate_slab(place.serial, pid)
        return Slab.open(self.name, place)

    def entries(self) -> list[Entry]:
        """Every slab that is in use."""
        return [entry for shared in self.objects for entry in directory.read_entries(shared)]

    def vitals(self, serial: int) -> Vitals | None:
        """What the process with this slab says of itself; None when the slab is gone."""
        entry = directory.find(self.objects, serial)
        if entry is None:
            return None
        return Vitals(entry.head(S_HEARTBEAT_NS), entry.head(S_CONNECTIONS), entry.head(S_BUFFERED_BYTES))

    def total(self, serial: int, prefix: str, suffix: str) -> int:
        """The sum of one process's single-cell statistics with such names; 0 when its slab is gone."""
        entry = directory.find(self.objects, serial)
        if entry is None:
            return 0
        words, first = entry.shared.words, entry.first_word
        return sum(
            words[first + cell]
            for stat, cell in zip(self.schema.stats, self.schema.cell_of, strict=True)
            if cell < entry.cells and stat.name.startswith(prefix) and stat.name.endswith(suffix)
        )

    def fold(self, serial: int) -> bool:
        """Add a dead process's counters to the totals; its gauges vanish, its slab is free. The process must be gone
        for good (or never have been forked). False when this serial was folded before."""
        entry = directory.find(self.objects, serial)
        if entry is None:
            return False
        fold.fold(self.objects, entry, self.schema.gauge_cells())
        return True

    def fold_the_dead(self, but: Collection[int] = ()) -> int:
        """Fold every slab whose process is gone, and say how many; not those whose serial is in `but`. One whose
        process nobody knows is kept: it may have been forked a moment ago."""
        dead = [entry.serial for entry in self.entries() if entry.serial not in but and not entry.alive()]
        return sum(self.fold(serial) for serial in dead)

    def _find_room(self, size: int, for_slab: bool) -> tuple[SharedObject, int]:
        """`size` free bytes on a cache line in an object that can also list what goes there."""
        for shared in self.objects:
            if for_slab:
                listable = directory.free_index(shared) is not None
            else:
                listable = shared.get(O_CHUNKS_COMMITTED) < MAX_CHUNKS
            offset = self._gap(shared, size) if listable else None
            if offset is not None:
                return shared, offset
        # Retired totals come in two buffers, each as long as the slabs that will follow it.
        shared = self._chain(0, size, SLABS_PER_OBJECT * (size if for_slab else size // 2))
        return shared, shared.arena

    def _gap(self, shared: SharedObject, size: int) -> int | None:
        """First fit: tens of slabs and chunks, so nothing cleverer pays."""
        used = [(entry.offset, slab_bytes(entry.cells)) for entry in directory.read_entries(shared)]
        for chunk in fold.read_chunks(self.objects):
            if chunk.shared is shared:
                used += [(offset, chunk.cells * WORD_BYTES) for offset in chunk.offsets]
        position = shared.arena
        for offset, length in sorted(used):
            if offset - position >= size:
                return position
            position = max(position, align(offset + length, CACHE_LINE_BYTES))
        return position if shared.holds(position, size) else None

    def _chain(self, schema_bytes: int, arena_bytes: int, spare_bytes: int) -> SharedObject:
        """One object more, listed in the base when it is complete. Where /dev/shm is small (a container's has 64 MiB),
        it does without `spare_bytes`."""
        base = self.objects[0]
        number = len(self.objects)
        if number == MAX_OBJECTS:
            raise ShmError(f"shared memory {self.name} has {number} objects already, more are not possible")
        remove_object(object_name(self.name, number))  # one that a killed supervisor made and did not list
        nonce, boot = base.get(O_NONCE), base.map[O_BOOT_ID : O_BOOT_ID + 16]
        schema_bytes = max(SCHEMA_BYTES, schema_bytes)
        ample = max(BASE_OBJECT_BYTES, arena_bytes + spare_bytes)
        try:
            shared = SharedObject.create(self.name, number, nonce, boot, schema_bytes, DIRECTORY_ENTRIES, ample)
        except ShmError:
            if not spare_bytes:
                raise
            shared = SharedObject.create(self.name, number, nonce, boot, schema_bytes, DIRECTORY_ENTRIES, arena_bytes)
        shared.publish()
        fence()
        base.put(O_OBJECTS, number + 1)
        self.objects.append(shared)
        return shared

    def mark_stopped(self) -> None:
        """A clean stop: nobody counts any more; the next start makes a new segment. Fold everything before it."""
        self.stopped = 1

    def close(self) -> None:
        """Unmap; what is there stays."""
        close_objects(self.objects)

    def unlink(self) -> None:
        """Remove it from /dev/shm. Processes that have mapped it can go on counting, unread."""
        remove_segment(self.name)


class _InUse(ShmError):
    """A running supervisor owns the segment."""


def _place(entry: Entry) -> SlabPlace:
    return SlabPlace(entry.serial, entry.shared.number, entry.offset, entry.cells)
