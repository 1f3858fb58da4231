"""The query of death: a request that makes compiled code crash, and comes again until every worker has met it.

Python raises an exception where C code crashes. So a generation whose workers die of crash signals, again and again, is
started afresh with no compiled code of ours in it (HOTPROXY_KERNEL=pure, decision 16).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from typing import Final

# What the kernel, or an abort() in C code, says of memory and instructions. Not SIGKILL, which is said by people and by
# the kernel about memory that ran out.
CRASH_SIGNALS: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
# One may be a cosmic ray, two may be one client that tried again.
CRASHES: Final = 3
WINDOW_S: Final = 60.0


class CrashSignals:
    """Of one generation. `why` is not empty once its workers have crashed too often."""

    __slots__ = ("_at_s", "why")

    def __init__(self) -> None:
        self._at_s: deque[float] = deque(maxlen=CRASHES)
        self.why = ""

    def count(self, status: int, now_s: float) -> bool:
        """A worker has died with this wait status: True when that was one too many."""
        try:
            number = -os.waitstatus_to_exitcode(status)
        except (ValueError, OverflowError):  # somebody says so in a message
            return False
        if number not in CRASH_SIGNALS:
            return False
        self._at_s.append(now_s)
        within_s = now_s - self._at_s[0]
        if len(self._at_s) < CRASHES or within_s > WINDOW_S:
            return False
        name = signal.Signals(number).name
        self.why = f"{CRASHES} workers crashed within {within_s:.0f} s, the last one by {name}"
        return True
