"""Who has stopped breathing: a process whose heartbeat cell stands still for 30 s is killed, and forked anew.

It may hang in our own code, or be stopped (SIGSTOP, a debugger): its connections are lost either way, and its share of
new ones would be. Time is counted in our own ticks, so that a machine that slept, or a supervisor that was itself
stopped, kills nobody when it wakes.
"""

from __future__ import annotations

from typing import Final

TICK_S: Final = 1.0
# Far above any garbage collection or page-in, below the patience of a balancer's health check times three.
LATE_TICKS: Final = 30
# A worker moves its cell 20 times a second.
STILL_TICKS: Final = 3


class Heartbeats:
    """`tick` with every process's cell, once per `TICK_S`; answers the serials of those who are late."""

    __slots__ = ("_late_ticks", "_seen")

    def __init__(self, late_ticks: int = LATE_TICKS) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # serial -> (cell, ticks since it moved)
        self._late_ticks = late_ticks

    def stands_still(self, serial: int, ticks: int = STILL_TICKS) -> bool:
        """Whether its cell has not moved for so long: not late yet, but whoever waits for it may think so."""
        return self._seen.get(serial, (0, 0))[1] >= min(ticks, self._late_ticks)

    def tick(self, cells: dict[int, int]) -> list[int]:
        late = []
        seen = {}
        for serial, cell in cells.items():
            before, ticks = self._seen.get(serial, (-1, 0))
            ticks = ticks + 1 if cell == before else 0
            if ticks >= self._late_ticks:
                late.append(serial)
                ticks = 0
            seen[serial] = (cell, ticks)
        self._seen = seen
        return late
