"""Processes of a benchmark: each pinned to a CPU, weighed with its descendants, and ended by PID whatever happens."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

from bench.startup import memory_kib

PATIENCE_S = 20.0
NOT_STARTED_S = 0.001


class Tree:
    """One started command and whatever it forks, also what outlives the process that forked it."""

    def __init__(self, command: list[str], cpu: int, log: Path) -> None:
        with open(log, "ab") as out, pinned(cpu):
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.log = log
        # Not by its number later: another process may have it by then.
        self._seen = {psutil.Process(self.process.pid)}

    def wait_until(self, condition: Callable[[], object]) -> None:
        """SystemExit with the command's own words when it fails first, or takes too long.

        Whoever makes a daemon ends at once, and well.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() not in (None, 0) or time.monotonic() > deadline_s:
                raise SystemExit(
                    f"bench: {self.process.args!r} does not serve:\n{self.log.read_text(errors='replace')}"
                )
            time.sleep(NOT_STARTED_S)

    def adopt(self, pid: int) -> None:
        """A daemon, which is nobody's child any more, belongs to it too."""
        self._seen.add(psutil.Process(pid))

    def members(self) -> list[psutil.Process]:
        alive = [process for process in self._seen if process.is_running()]
        for pid in descendants([process.pid for process in alive]):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen.add(psutil.Process(pid))
        return [process for process in self._seen if process.is_running()]

    def cpu_s(self) -> float:
        """User and system time of all threads of all members, by the scheduler's own account (in ns, not in ticks)."""
        return sum(_thread_ns(process.pid) for process in self.members()) / 1e9

    def private_bytes(self) -> int:
        fields = ("Private_Dirty", "Private_Clean")
        return sum(memory_kib(process.pid, *fields) for process in self.members()) * 1024

    def end(self) -> None:
        """TERM, and KILL for what is still there; nothing that this command forked stays behind."""
        known = self.members()
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        known += self.members()
        for process in known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(known, 5)
        self.process.wait(5)


def descendants(pids: Iterable[int]) -> list[int]:
    """Children of these, their children, and so on. One look at /proc: psutil takes one for each process."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # pid (name) state parent: the name may have any character in it, brackets too
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = []
    waiting = list(pids)
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _thread_ns(pid: int) -> int:
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(path.read_text().split()[0])
    return total


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Whatever is started inside runs on this CPU only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class OtherWork:
    """How many CPUs everything but this benchmark has used since the beginning, on average."""

    def __init__(self) -> None:
        self._began_s, self._busy_s, self._own_s = time.monotonic(), _busy_s(), _own_s()

    def cpus(self) -> float:
        """Right once the benchmark's processes have ended: those that run are not counted as its own."""
        other_s = _busy_s() - self._busy_s - (_own_s() - self._own_s)
        return max(0.0, other_s / (time.monotonic() - self._began_s))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _own_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def two_cpus() -> tuple[int, int]:
    """(for the proxy, for load and origin)"""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: two CPUs are needed, one for the proxy and one for load and origin")
    return allowed[-1], allowed[0]
