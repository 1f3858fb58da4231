"""What peers do wrong before there is an exchange to log, as lines of the process's own log; never more than a few a
second, for anybody can make us write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hotproxy.clock import Clock

# Enough to see what is going on, and 860,000 a day when somebody does his worst.
LINES_A_SECOND: Final = 10


class FailureLog:
    """Shared by the listeners of a worker."""

    __slots__ = ("_clock", "_left_out", "_lines", "_report", "_second")

    def __init__(self, report: Callable[[str], None], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def tell(self, text: str) -> None:
        second = int(self._clock.now_s())
        if second != self._second:
            self._second = second
            self._lines = 0
        self._lines += 1
        if self._lines > LINES_A_SECOND:
            self._left_out += 1
            return
        if self._left_out:
            text += f" ({self._left_out} others like it were not logged)"
            self._left_out = 0
        self._report(text)
