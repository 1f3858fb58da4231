"""How long the machine did not run somebody who wanted to run: a process that does nothing but look at the clock.

    python spin.py        runs until its stdin is closed, and prints the worst gap in ms

It sleeps for a millisecond at a time, so that it takes no CPU from those who are measured. A pause that a client sees
while this process had one of the same length says more about the machine than about the proxy.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.001


class SpinMonitor:
    """`worst_ms` is known at the end of the `with`."""

    def __init__(self) -> None:
        self.worst_ms = 0.0

    def __enter__(self) -> SpinMonitor:
        command = [sys.executable, str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"running\n"
        return self

    def __exit__(self, *_: object) -> None:
        output, _stderr = self._process.communicate()
        self.worst_ms = float(output)


def watch() -> float:
    worst_s, over = 0.0, False
    last_s = time.perf_counter()
    print("running", flush=True)
    while not over:
        over = bool(select.select([sys.stdin], [], [], PERIOD_S)[0])
        now_s = time.perf_counter()
        worst_s = max(worst_s, now_s - last_s - PERIOD_S)
        last_s = now_s
    return worst_s * 1e3


if __name__ == "__main__":
    print(f"{watch():.1f}")
