"""A clock that stands still until told to move."""

from __future__ import annotations

from hotproxy.clock import TICK_S, TimerWheel


class FakeClock:
    """Monotonic and wall time in seconds; both move by `advance` only."""

    def __init__(self, now_s: float = 1000.0, wall_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._wall_s = wall_s

    def now_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        self._wall_s += seconds


def pass_time(clock: FakeClock, wheel: TimerWheel, seconds: float) -> None:
    """Move the clock tick by tick as a worker would, firing what comes due (and one tick more: timers are coarse)."""
    remaining = seconds
    while remaining > 0:
        step = min(TICK_S, remaining)
        clock.advance(step)
        wheel.advance()
        remaining -= step
    clock.advance(TICK_S * 1.01)  # a sum of ticks may fall short of a whole one by a rounding error
    wheel.advance()
