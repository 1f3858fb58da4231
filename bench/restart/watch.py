"""Beside a trial: what the proxy's processes weigh together, and when those that are to leave are gone."""

from __future__ import annotations

import statistics
import threading
import time

import psutil

from bench.restart.systems.system import System
from bench.startup import memory_kib

# A restart of the fastest of them takes a quarter of a second; after it the old processes change by the second.
LOOK_S = 0.1
CALM_S = 0.5
BUSY_S = 3.0


class Watch:
    """A thread that looks at the processes of a system every tenth of a second; less often when nothing happens."""

    def __init__(self, system: System) -> None:
        self.weights: list[tuple[float, int]] = []  # (when_s, sum of PSS in KiB)
        self.restarts: list[Departure] = []
        self._system = system
        self._busy_until_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def busy(self) -> None:
        """A restart begins now: look closely for a while."""
        self._busy_until_s = time.monotonic() + BUSY_S

    def follow(self, began_s: float, leaving: list[psutil.Process]) -> None:
        """From now on: when are these gone?"""
        self.restarts.append(Departure(began_s, set(leaving)))

    def all_gone(self) -> bool:
        return all(each.gone_s is not None for each in self.restarts)

    def steady_kib(self, until_s: float) -> float:
        return statistics.median([kib for when, kib in self.weights if when < until_s] or [0])

    def peak_kib(self) -> int:
        return max((kib for _, kib in self.weights), default=0)

    def _look_again(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(LOOK_S if time.monotonic() < self._busy_until_s else CALM_S)

    def look(self) -> None:
        present = self._system.processes()
        now_s = time.monotonic()
        self.weights.append((now_s, sum(weigh(process) for process in present)))
        for each in list(self.restarts):
            each.look(now_s, set(present))


class Departure:
    """The processes that are to be gone because of one restart. `gone_s`: since its beginning."""

    def __init__(self, began_s: float, leaving: set[psutil.Process]) -> None:
        self.began_s = began_s
        self.leaving = leaving
        self.gone_s: float | None = None

    def look(self, now_s: float, present: set[psutil.Process]) -> None:
        if self.gone_s is None and not self.leaving & present:
            self.gone_s = now_s - self.began_s

    def within(self, cap_s: float) -> float:
        """As long as it took, at most `cap_s`, which stands for "longer than that"."""
        return cap_s if self.gone_s is None else min(self.gone_s, cap_s)


def weigh(process: psutil.Process) -> int:
    """0 for one that has ended meanwhile."""
    try:
        return memory_kib(process.pid, "Pss")
    except OSError:
        return 0
