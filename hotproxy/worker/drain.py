"""How a worker comes to its end.

    serving --soft()--> soft: every HTTP/1 answer says Connection: close, still accepts (`hotproxy drain`)
       |  <--undo()----/
       \\--begin(deadline)--> leaving: accepts no more, connections end as soon as they can
       |                         |--the last one is gone, and what was closed is flushed--> over
       |                         \\--deadline--> the rest is closed (DRAIN_DEADLINE) --> over
       \\--orphaned()--> serving on for `orphan_timeout`, so that a new supervisor can be started, then leaving

Merely not accepting (ACCEPT_OFF) is none of this: connections live on as before.
"""

from __future__ import annotations

import math
from typing import Protocol

from hotproxy.clock import Clock
from hotproxy.config.model import DEFAULT_ORPHAN_TIMEOUT_S
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.restarter.log import WARNING, log
from hotproxy.worker.build import Parts


class Watching(Protocol):
    """The `Poller`."""

    @property
    def watched(self) -> int: ...


class Drain:
    """`tick()` is called by the worker's tick; `over` says that the process may exit."""

    __slots__ = (
        "_clock",
        "_cut",
        "_leave_at_s",
        "_orphan_s",
        "_parts",
        "_stored",
        "_timeout_s",
        "_watching",
        "deadline_s",
    )

    def __init__(
        self,
        parts: Parts,
        watching: Watching,
        clock: Clock,
        timeout_s: float,
        orphan_s: float = DEFAULT_ORPHAN_TIMEOUT_S,
        stored: bool = False,
    ) -> None:
        """`orphan_s`: how long an orphan serves on, and then `timeout_s`: how long its connections may take; others are
        given their deadline. 0 = no limit. `stored`: whoever is started next is passed the same sockets."""
        self._stored = stored
        self._orphan_s = orphan_s or math.inf
        self._parts = parts
        self._watching = watching
        self._clock = clock
        self._timeout_s = timeout_s
        self._cut = False
        self._leave_at_s = 0.0  # of an orphan
        self.deadline_s = 0.0  # CLOCK_MONOTONIC; 0: not leaving

    @property
    def leaving(self) -> bool:
        return self.deadline_s > 0.0

    @property
    def over(self) -> bool:
        """Nothing is left, or may be left. A connection that its listener has forgotten may still flush and linger:

        the loop watches it, and then watches more than the zygote's channel, which an orphan does not have any more.
        """
        if not self.leaving or self._parts.admission.open > 0:
            return False
        channels = 0 if self._leave_at_s else 1
        return self._cut or self._watching.watched <= channels

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

    def orphaned(self) -> None:
        """Nobody is left to tell us anything."""
        self._leave_at_s = self._clock.now_s() + self._orphan_s

    def tick(self) -> None:
        now_s = self._clock.now_s()
        if self._leave_at_s and now_s >= self._leave_at_s and not self.leaving:
            log(WARNING, f"no supervisor for {self._orphan_s:g} s: draining")
            for listener in self._parts.listeners.values():
                listener.shut_all(self._stored)  # what waits in a queue would be reset: nobody else holds these sockets
            self.begin(now_s + self._timeout_s if self._timeout_s > 0.0 else math.inf)
        if self.leaving and not self._cut and now_s >= self.deadline_s:
            self._cut = True
            for listener in self._parts.listeners.values():
                listener.close_connections(DRAIN_DEADLINE)
