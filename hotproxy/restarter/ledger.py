"""What the supervisor keeps in shared memory: the segment, everybody's slabs, and its own counters.

The segment is opened with the first HELLO, not before: a `hotproxy run` that fails over its config leaves the numbers
of the last run where they were.
"""

from __future__ import annotations

import encodings.ascii  # noqa: F401  # the boot id is read with it; Python would import it at that moment only
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from hotproxy.restarter.holders import parent_of
from hotproxy.restarter.log import NOTICE, log
from hotproxy.shm.bulk import no_collections
from hotproxy.shm.cells import Slab
from hotproxy.shm.directory import read_entries
from hotproxy.shm.layout import DRAINING, LIVE, ShmAbsent, ShmError, segment_name
from hotproxy.shm.memory import close_objects, open_objects, read_schema
from hotproxy.shm.schema import from_wire
from hotproxy.shm.segment import Segment
from hotproxy.shm.server_stats import (
    CONFIG_FALLBACK,
    CRASHED_IN_FLIGHT,
    HANDOFF_MOVED,
    HANDOFF_REFUSED,
    PURE_KERNEL,
    RESTARTS,
    RESTARTS_FAILED,
    WORKER_CRASHES,
    server_stats,
)

# Of layout.ROLES.
ZYGOTE: Final = "zygote"
WORKER: Final = "worker"
CONTROL: Final = "control"
# Who only looks may do so at the moment in which an entry changes hands.
LOOKS: Final = 3


class Ledger:
    """Methods raise ShmError where they say so; those that only count or look do nothing before `admit`."""

    def __init__(self, instance: str, instance_dir: Path) -> None:
        self.segment_name = segment_name(instance, str(instance_dir.parent))
        self._segment: Segment | None = None
        self._own: Slab | None = None
        self._last_epoch = -1
        self._strangers: set[int] = set()  # pids that a supervisor before this one left behind
        self._settled = False

    def next_epoch(self) -> int:
        """Above every epoch that this segment has seen, so that a generation after a crash is no namesake."""
        if self._last_epoch < 0:
            self._last_epoch = self._epoch_of_the_dead()
        self._last_epoch += 1
        if self._segment is not None:
            self._segment.last_epoch = self._last_epoch
        return self._last_epoch

    def admit(self, stats: list[Any], version: str) -> None:
        """Make room for a generation's statistics. Raises ShmError (SchemaError)."""
        with no_collections():
            declared = from_wire(stats, self._segment.schema if self._segment is not None else None)
        if self._segment is None:
            self._use(Segment.open_or_create(self.segment_name, version, lambda text: log(NOTICE, text)))
            self._settled = True
        self._open.add_stats(declared)

    def resume(self) -> dict[int, int]:
        """Go on with what an earlier supervisor left, if zygotes of it live: pid -> epoch of each. Until `settle`
        nobody is folded who is not named. Raises ShmError when another supervisor runs."""
        segment = Segment.resume(self.segment_name)
        if segment is None:
            return {}
        zygotes = {entry.process: entry.epoch for entry in segment.entries() if entry.role == ZYGOTE and entry.alive()}
        if not zygotes:
            segment.close()
            return {}
        segment.take_over()
        self._last_epoch = segment.last_epoch
        self._use(segment)
        return zygotes

    def uptime_s(self) -> float:
        """How long there have been generations that serve, whichever supervisor had them."""
        return time.time() - self._open.started_wall_ns / 1e9

    def look(self) -> int:
        """How many slabs there are; nothing is changed. Raises ShmError when what is there can't be read."""
        for attempt in range(LOOKS):
            try:
                return self._look()
            except ShmAbsent:
                return 0
            except ShmError:
                if attempt + 1 == LOOKS:
                    raise
        raise AssertionError("unreachable")

    def _look(self) -> int:
        objects = open_objects(self.segment_name)
        try:
            read_schema(objects)
            return sum(len(read_entries(shared)) for shared in objects)
        finally:
            close_objects(objects)

    def settle(self, but: Collection[int]) -> None:
        """All who come back are back. The dead are folded, except those in `but` (serials), whose deaths are told."""
        self._settled = True
        self._open.fold_the_dead(but)

    def _use(self, segment: Segment) -> None:
        self._segment = segment
        segment.last_epoch = max(self._last_epoch, segment.last_epoch)
        self._strangers = {
            entry.process for entry in segment.entries() if entry.alive() and entry.process not in (0, os.getpid())
        }
        segment.add_stats(server_stats())
        self._own = segment.own_slab()

    def allocate(self, epoch: int, role: str, slot: int) -> tuple[int, dict[str, int]]:
        """A slab for a process that is about to be forked: its serial, and its place. Raises ShmError."""
        place = self._open.allocate_slab(epoch, role, slot)
        return place.serial, place.to_wire()

    def activate(self, serial: int, pid: int) -> None:
        self._open.activate_slab(serial, pid)

    def adopted(self, pids: Collection[int]) -> None:
        """They are no strangers any more: a generation of ours has them."""
        self._strangers.difference_update(pids)

    def enlist(self, epoch: int, pid: int) -> int:
        """A zygote, so that the next supervisor knows whom to wait for: the serial of its entry, which counts nothing.
        Raises ShmError."""
        place = self._open.allocate_slab(epoch, ZYGOTE, 0, counts=False)
        self._open.activate_slab(place.serial, pid)
        return place.serial

    def of_epoch(self, epoch: int) -> tuple[int, set[int]]:
        """The serial of a generation's zygote (0: none), and those of its children."""
        entries = [entry for entry in self._open.entries() if entry.epoch == epoch]
        zygote = next((entry.serial for entry in entries if entry.role == ZYGOTE), 0)
        return zygote, {entry.serial for entry in entries if entry.role in (WORKER, CONTROL)}

    def fold_unborn(self, serials: Collection[int]) -> None:
        """Those of `serials` that no process has, nor will have."""
        for entry in self._open.entries():
            if entry.serial in serials and (entry.process == 0 or not entry.alive()):
                self._open.fold(entry.serial)

    def fold(self, serial: int) -> None:
        self._open.fold(serial)

    def fold_strangers(self) -> None:
        """Processes that are not our children tell nobody when they end: looked for while there are any."""
        if not self._strangers or not self._settled or self._segment is None:
            return
        for entry in self._segment.entries():
            if entry.process in self._strangers and not entry.alive():
                self._segment.fold(entry.serial)
        self._strangers &= {entry.process for entry in self._segment.entries()}

    @property
    def strangers(self) -> set[int]:
        """Pids of living processes that a supervisor before this one left behind."""
        self.fold_strangers()
        return self._strangers

    def is_survivor(self, pid: int) -> bool:
        """True for a process that a killed supervisor left, and for the zygote of one."""
        return pid in self._strangers or any(parent_of(each) == pid for each in self._strangers)

    def serving(self, epoch: int, slots: int, version: str) -> None:
        """The generation that accepts from now on."""
        segment = self._open
        segment.version = version
        segment.epoch = epoch
        segment.concurrency = slots
        segment.state = LIVE

    def peculiar(self, fallback: bool, pure: bool) -> None:
        """What is not as it should be with the generation that accepts from now on."""
        if self._own is not None:
            self._own.gauge(CONFIG_FALLBACK).set(int(fallback))
            self._own.gauge(PURE_KERNEL).set(int(pure))

    def draining(self, drains: bool) -> None:
        if self._segment is not None:
            self._segment.state = DRAINING if drains else LIVE

    def count_restart(self, ok: bool) -> None:
        self._count(RESTARTS if ok else RESTARTS_FAILED)

    def count_crash(self, serial: int) -> None:
        """A worker has crashed, and is not folded yet. What is counted differs from what clients have seen by no more
        than the connections that it held."""
        self._count(WORKER_CRASHES)
        if self._segment is not None:
            held = self._segment.total(serial, "listener.", ".downstream_cx_active")
            self._count(CRASHED_IN_FLIGHT, max(held, 0))

    def count_moved(self, moved: int, refused: int) -> None:
        self._count(HANDOFF_MOVED, moved)
        self._count(HANDOFF_REFUSED, refused)

    def heartbeat_ns(self, serial: int) -> int:
        vitals = self._segment.vitals(serial) if self._segment is not None else None
        return vitals.heartbeat_ns if vitals is not None else 0

    def connections(self, serial: int) -> int:
        vitals = self._segment.vitals(serial) if self._segment is not None else None
        return vitals.connections if vitals is not None else 0

    def close(self) -> None:
        """A clean stop: the segment stays, marked, for `hotproxy stats`."""
        if self._segment is None or self._own is None:
            return
        own = self._own.serial
        self._own.close()
        self._segment.fold(own)
        self._segment.fold_the_dead()
        self._segment.epoch = 0
        self._segment.mark_stopped()
        self._segment.close()
        self._segment = self._own = None

    @property
    def _open(self) -> Segment:
        assert self._segment is not None, "no generation was admitted yet"
        return self._segment

    def _count(self, name: str, amount: int = 1) -> None:
        if self._own is not None:
            self._own.counter(name).add(amount)

    def _epoch_of_the_dead(self) -> int:
        try:
            segment = Segment.attach(self.segment_name)
        except ShmError:
            return 0  # none, or one that `admit` will replace and say why
        epoch = 0 if segment.stopped else segment.last_epoch
        segment.close()
        return epoch
