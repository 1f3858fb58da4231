"""Time: the clock everything is given, and the one coarse timer wheel of a worker.

A worker has tens of thousands of timeouts of which almost none ever fires, so arming must cost nothing: a
`Timer` is armed by writing its deadline, and sits in one bucket of the wheel until that bucket comes round; a
timer that was re-armed meanwhile simply moves on to a later bucket (Varghese & Lauck 1987, hashed wheel).
"""

from __future__ import annotations

import time
from typing import Final, Protocol

# 50 ms: far below the shortest timeout anyone configures (connect_timeout 250 ms), far above the loop's turn.
TICK_S: Final = 0.05
# 512 buckets of 50 ms: one turn is 25.6 s, so a 5 minute idle timer is looked at a dozen times in its life.
BUCKETS: Final = 512


class Clock(Protocol):
    """Monotonic time in seconds (CLOCK_MONOTONIC: comparable between processes of one boot) and wall time."""

    def now_s(self) -> float: ...

    def wall_s(self) -> float: ...


class SystemClock:
    """The kernel's clocks."""

    @staticmethod
    def now_s() -> float:
        return time.monotonic()

    @staticmethod
    def wall_s() -> float:
        return time.time()


class TimerOwner(Protocol):
    """Whoever wants to hear that a deadline has passed."""

    def on_timeout(self, timer: Timer) -> None: ...


class Timer:
    """One deadline of one owner. `kind` is the owner's own word for it; deadlines are CLOCK_MONOTONIC seconds."""

    __slots__ = ("owner", "kind", "deadline_s", "_bucket", "_filed_s")

    def __init__(self, owner: TimerOwner, kind: str) -> None:
        self.owner: TimerOwner | None = owner
        self.kind = kind
        self.deadline_s = 0.0  # 0: not armed
        self._bucket = -1  # where the wheel will meet it; -1: nowhere
        self._filed_s = 0.0  # the deadline that chose that bucket

    @property
    def armed(self) -> bool:
        return self.deadline_s > 0.0

    def disarm(self) -> None:
        self.deadline_s = 0.0

    def drop(self) -> None:
        """For good: also lets go of the owner, so that no cycle outlives a connection."""
        self.deadline_s = 0.0
        self.owner = None

    def suspend(self) -> None:
        """Keep the deadline, and do not fire until `TimerWheel.resume`."""
        self.owner = None


class TimerWheel:
    """Fires timers at most one tick (50 ms) late, never early. `advance()` is called once per tick."""

    __slots__ = ("clock", "_buckets", "_tick", "_start_s")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._buckets: list[list[Timer]] = [[] for _ in range(BUCKETS)]
        self._start_s = clock.now_s()
        self._tick = 0  # the last tick that was handled

    def arm(self, timer: Timer, delay_s: float) -> None:
        """(Re-)arm relative to now; a delay of 0 or less means no limit and disarms."""
        if delay_s <= 0.0:
            timer.deadline_s = 0.0
            return
        self.arm_at(timer, self.clock.now_s() + delay_s)

    def arm_at(self, timer: Timer, deadline_s: float) -> None:
        """(Re-)arm at an absolute CLOCK_MONOTONIC deadline in seconds (how a dump carries it)."""
        timer.deadline_s = deadline_s
        if timer._bucket >= 0 and timer._filed_s <= deadline_s:
            return  # its bucket comes round no later than the new deadline, and moves it on then
        self._file(timer)

    def resume(self, timer: Timer, owner: TimerOwner) -> None:
        """After `suspend`: as if it had run all the time. What has come due meanwhile fires with the next tick."""
        timer.owner = owner
        if timer.deadline_s > 0.0:
            self.arm_at(timer, timer.deadline_s)

    def _file(self, timer: Timer) -> None:
        tick = int((timer.deadline_s - self._start_s) / TICK_S) + 1
        bucket = max(tick, self._tick + 1) % BUCKETS
        timer._filed_s = timer.deadline_s
        if timer._bucket != bucket:  # an entry left behind in another bucket is stale, and dropped when it is met
            timer._bucket = bucket
            self._buckets[bucket].append(timer)

    def advance(self) -> None:
        """Handle every tick that has passed; owners are called for the deadlines that lie behind us."""
        now_s = self.clock.now_s()
        target = int((now_s - self._start_s) / TICK_S)
        # After a pause longer than one turn, every bucket once is enough.
        for tick in range(max(self._tick + 1, target - BUCKETS + 1), target + 1):
            self._tick = tick
            bucket = tick % BUCKETS
            timers = self._buckets[bucket]
            if timers:
                self._buckets[bucket] = []
                self._visit_all(timers, bucket, now_s)

    def _visit_all(self, timers: list[Timer], bucket: int, now_s: float) -> None:
        visited = 0
        try:
            for timer in timers:
                visited += 1
                self._visit(timer, bucket, now_s)
        finally:
            # An owner that raises (our bug) must not take the other timers with it: they get the next turn.
            self._buckets[bucket].extend(timers[visited:])

    def _visit(self, timer: Timer, bucket: int, now_s: float) -> None:
        if timer._bucket != bucket:
            return
        timer._bucket = -1
        deadline_s = timer.deadline_s
        if deadline_s == 0.0 or timer.owner is None:
            return
        if deadline_s > now_s:
            self._file(timer)
            return
        timer.deadline_s = 0.0
        timer.owner.on_timeout(timer)
