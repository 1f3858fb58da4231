r"""Hot restarts, one at a time: who asked, which generation it is about, and how it ended.

idle --request--> (room: at most 3 live) --> starting --it serves, its predecessor yielded--> idle
  ^                                             \--it failed----------------------------------/
a request while one runs is queued, depth one: the config that is read last wins, all who asked get its outcome
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hotproxy.restarter.commands import Caller
from hotproxy.restarter.generation import State
from hotproxy.restarter.live import LiveGeneration
from hotproxy.restarter.log import ERROR, NOTICE, log
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.moves import Move, what_moved

# Two that accept and one that still drains; before a fourth is started the oldest must be gone.
MAX_LIVE: Final = 3
# The oldest has had at least so long to drain before it is cut off: a burst of reloads waits a moment, and its
# keep-alive clients get their `Connection: close` instead of a reset.
ROOM_S: Final = 1.0
# A generation whose zygote died is started afresh at once; when that fails, or its zygote soon dies too, again after
# 1 s, 2 s ... 30 s. One that lived for HEALTHY_S did not die of its birth.
HEALTHY_S: Final = 10.0
REPLACE_S: Final = 1.0
REPLACE_MAX_S: Final = 30.0


class Plane(Protocol):
    """What the restarts need of the supervisor."""

    # Or why it can't even be started. `asked`: somebody wants what is on disk now, and hears when it can't be.
    def start_generation(self, asked: bool) -> LiveGeneration | str: ...

    def live_generations(self) -> list[LiveGeneration]: ...  # oldest first

    def expire(self, live: LiveGeneration) -> None: ...

    def abort(self, live: LiveGeneration, why: str) -> None: ...

    def restart_began(self) -> None: ...

    def restart_ended(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    reason: str
    duration_ms: int
    moved: int = 0  # connections that the new generation went on with
    refused: int = 0  # those that stayed, and drain
    move_ms: int = 0  # how long all of that took

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Outcome:
        """Raises KeyError."""
        return cls(
            bool(wire["ok"]), str(wire["reason"]), wire["ms"], wire["moved"], wire["refused"], wire["move_ms"]
        )  # fmt: skip

    def to_wire(self) -> dict[str, Any]:
        return {
            "ok": self.ok, "reason": self.reason, "moved": self.moved, "refused": self.refused,
            "move_ms": self.move_ms, "ms": self.duration_ms,
        }  # fmt: skip


@dataclass(slots=True)
class Restart:
    began_s: float
    asked: bool = True  # False: the first start, and a generation that is started afresh
    callers: list[Caller] = field(default_factory=list)
    timeout_s: float = 0.0  # 0: the generation's own deadlines alone
    generation: LiveGeneration | None = None
    predecessor: int = 0  # its epoch; 0: none
    patience: Alarm | None = None
    serves: bool = False
    waits_for: set[int] = field(default_factory=set)  # predecessors that have not yielded yet
    moved: int = 0
    refused: int = 0
    move_ms: int = 0


class Restarts:
    """Single-flight. `last` is how the last one ended."""

    def __init__(self, loop: Loop, plane: Plane) -> None:
        self._loop = loop
        self._plane = plane
        self._current: Restart | None = None
        self._queued: Restart | None = None
        self._replacing: Alarm | None = None
        self._room: Alarm | None = None
        self._replace_s = 0.0
        self._served_s = 0.0  # since when the one that serves does
        self._closed = False
        self._started = False  # the first start is no restart
        self._held = False  # it is not known yet what an earlier supervisor left
        self.last: Outcome | None = None

    @property
    def running(self) -> bool:
        return self._current is not None

    @property
    def busy(self) -> bool:
        """A restart runs, waits, or is about to begin."""
        return self._current is not None or self._queued is not None or self._replacing is not None or self._held

    def request(self, caller: Caller | None = None, timeout_s: float = 0.0, asked: bool = True) -> None:
        if self._closed:
            if caller is not None:
                caller.answer(False, "the supervisor is stopping")
            return
        if self._current is None:
            self._current = Restart(self._loop.now_s(), asked)
            restart = self._current
        else:
            if self._queued is None:
                self._queued = Restart(self._loop.now_s())
            restart = self._queued
        if caller is not None:
            restart.callers.append(caller)
        # The least patient of those who asked together decides.
        restart.timeout_s = min(restart.timeout_s or timeout_s, timeout_s or restart.timeout_s)
        if restart is self._current and not self._held:
            self._begin(restart)

    def hold(self) -> None:
        """Whatever is asked for waits until `release`."""
        self._held = True

    def release(self, serves: bool) -> None:
        """`serves`: a generation of an earlier supervisor does, so that nothing need be started."""
        self._held = False
        if serves:
            self._started = True
            self._served_s = self._loop.now_s()
        if self._current is not None:
            self._begin(self._current)
        elif not serves:
            self.request(asked=False)

    def replace(self) -> bool:
        """The accepting generation lost its zygote, or crashes: start it afresh, unless a restart does that anyway.
        False when one is on its way already."""
        if self._current is not None or self._closed or self._replacing is not None or self._held:
            return False
        if self._loop.now_s() - self._served_s >= HEALTHY_S:
            self._replace_s = 0.0
            self._served_s = math.inf  # once for each that served
        self._replacing = self._loop.after(self._replace_s, self._replace_now)
        self._replace_s = min(max(self._replace_s * 2, REPLACE_S), REPLACE_MAX_S)
        return True

    def serves(self, live: LiveGeneration, predecessors: Iterable[int]) -> None:
        """`live` accepts. The restart ends when those who did before (their epochs) have yielded to it."""
        restart = self._current
        if restart is not None and restart.generation is live:
            self._served_s = self._loop.now_s()
            if self._replacing is not None:  # somebody asked for a restart before it was due
                self._replacing.cancel()
                self._replacing = None
            restart.waits_for = set(predecessors)
            restart.serves = True
            self._end_if_alone(restart)

    def yielded(self, epoch: int, move: Move | None = None) -> None:
        """A predecessor has given away all that it could, and accepts nothing any more."""
        restart = self._current
        if restart is not None and epoch in restart.waits_for:
            restart.waits_for.discard(epoch)
            if move is not None:
                restart.moved += move.moved
                restart.refused += move.refused
                restart.move_ms = max(restart.move_ms, move.ms)
            self._end_if_alone(restart)

    def _end_if_alone(self, restart: Restart) -> None:
        if restart.serves and not restart.waits_for and restart.generation is not None:
            self._end(restart, True, _change(restart))

    def failed(self, live: LiveGeneration) -> None:
        if self._current is not None and self._current.generation is live:
            self._end(self._current, False, live.why)

    def _look_for_room(self) -> None:
        self._room = None
        self.gone()

    def gone(self) -> None:
        """A generation has left: there may be room for the one that waits."""
        if self._current is not None and self._current.generation is None and not self._held:
            self._begin(self._current)

    def close(self) -> None:
        """The supervisor stops: nothing is started any more, who waits is told."""
        self._closed = True
        if self._replacing is not None:
            self._replacing.cancel()
        for restart in (self._current, self._queued):
            for caller in restart.callers if restart else ():
                caller.answer(False, "the supervisor is stopping")
            if restart is not None and restart.patience is not None:
                restart.patience.cancel()
        self._current = self._queued = None

    def _replace_now(self) -> None:
        self._replacing = None
        if self._current is None:
            self.request(asked=False)

    def _begin(self, restart: Restart) -> None:
        live = self._plane.live_generations()
        if len(live) >= MAX_LIVE:
            leaving = [each for each in live if each.state not in (State.ACTIVE, State.ORPHANED)]
            oldest = (leaving or live)[0]
            wait_s = oldest.drains_since_s + ROOM_S - self._loop.now_s()
            if wait_s > 0.0:
                if self._room is None:
                    self._room = self._loop.after(wait_s, self._look_for_room)
                return
            log(NOTICE, f"generation {oldest.epoch} must end now: {len(live)} are alive, and another one is asked for")
            self._plane.expire(oldest)
            return
        self._plane.restart_began()
        restart.began_s = self._loop.now_s()
        accepting = [each.epoch for each in live if each.state in (State.ACTIVE, State.ORPHANED)]
        restart.predecessor = accepting[-1] if accepting else 0
        started = self._plane.start_generation(restart.asked)
        if isinstance(started, str):
            self._end(restart, False, started)
            return
        restart.generation = started
        if restart.timeout_s > 0.0:
            restart.patience = self._loop.after(restart.timeout_s, lambda: self._out_of_patience(restart))

    def _out_of_patience(self, restart: Restart) -> None:
        if self._current is not restart or restart.generation is None:
            return
        if restart.serves:  # too late to refuse anything, and what still moves needs nobody who waits
            for caller in restart.callers:
                caller.answer(True, f"{_change(restart)} serves; connections still move after {restart.timeout_s:g} s")
            restart.callers.clear()
        else:
            self._plane.abort(restart.generation, f"it does not serve within the {restart.timeout_s:g} s given")

    def _end(self, restart: Restart, ok: bool, text: str) -> None:
        duration_ms = round((self._loop.now_s() - restart.began_s) * 1000)
        if restart.patience is not None:
            restart.patience.cancel()
        what = what_moved(restart.moved, restart.refused, restart.move_ms)
        reason = f"{text} ok in {duration_ms} ms{what}" if ok else text
        what = "restart" if self._started else "start"
        log(NOTICE if ok else ERROR, f"{what}: {reason}" if ok else f"{what} refused: {reason}")
        outcome = Outcome(ok, reason, duration_ms, restart.moved, restart.refused, restart.move_ms)
        self._current = None
        if self._started:
            self.last = outcome
        self._started = True
        self._plane.restart_ended(outcome)
        for caller in restart.callers:
            caller.answer(ok, reason, {"last_restart": outcome.to_wire()})
        if self._queued is not None and not self._closed:
            self._current, self._queued = self._queued, None
            self._begin(self._current)


def _change(restart: Restart) -> str:
    epoch = restart.generation.epoch if restart.generation is not None else 0
    return f"generation {restart.predecessor} -> {epoch}" if restart.predecessor else f"generation {epoch}"
