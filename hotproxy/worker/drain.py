"""How a worker comes to its end.

    serving --soft()--> soft: every HTTP/1 answer says Connection: close, still accepts (`hotproxy drain`)
       |  <--undo()----/
       \\--begin(deadline)--> leaving: accepts no more, connections end as soon as they can
                                 |--the last one is gone--> over
                                 \\--deadline--> the rest is closed (DRAIN_DEADLINE) --> over

Merely not accepting (ACCEPT_OFF) is none of this: connections live on as before.
"""

from __future__ import annotations

from hotproxy.clock import Clock
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.worker.build import Parts


class Drain:
    """`tick()` is called by the worker's tick; `over` says that the process may exit."""

    __slots__ = ("_clock", "_cut", "_parts", "deadline_s")

    def __init__(self, parts: Parts, clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._cut = False
        self.deadline_s = 0.0  # CLOCK_MONOTONIC; 0: not leaving

    @property
    def leaving(self) -> bool:
        return self.deadline_s > 0.0

    @property
    def over(self) -> bool:
        return self.leaving and self._parts.admission.open == 0

    def soft(self) -> None:
        self._parts.runtime.draining = True

    def undo(self) -> None:
        """Only what `soft` did: nobody returns from leaving, the sockets are gone."""
        if not self.leaving:
            self._parts.runtime.draining = False

    def begin(self, deadline_s: float) -> None:
        """Leave by `deadline_s`. Once more: the earlier deadline counts."""
        if self.leaving:
            self.deadline_s = min(self.deadline_s, deadline_s)
            return
        self.deadline_s = max(deadline_s, 1e-9)
        self._parts.runtime.draining = True
        for listener in self._parts.listeners.values():
            listener.leave()
        self._parts.runtime.snapshot.pools.drain()
        for listener in self._parts.listeners.values():
            listener.drain()

    def tick(self) -> None:
        if self.leaving and not self._cut and self._clock.now_s() >= self.deadline_s:
            self._cut = True
            for listener in self._parts.listeners.values():
                listener.close_connections(DRAIN_DEADLINE)
