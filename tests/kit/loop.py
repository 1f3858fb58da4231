"""A deterministic event loop over real descriptors: nothing happens but in `turn()`.

It behaves as uvloop does where that hurts: when a descriptor reports an error (POLLERR, a reset peer), each of its
callbacks is run once and its registrations are gone. A descriptor that was closed while registered fails the test.
"""

from __future__ import annotations

import select
from collections.abc import Callable

Callback = Callable[[], None]


class FakeLoop:
    def __init__(self) -> None:
        self.readers: dict[int, Callback] = {}
        self.writers: dict[int, Callback] = {}
        self.soon: list[Callback] = []

    def add_reader(self, fd: int, callback: Callback) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def add_writer(self, fd: int, callback: Callback) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_soon(self, callback: Callback) -> None:
        self.soon.append(callback)

    def turn(self) -> bool:
        """One turn, in the order of descriptors, never waiting. False: nothing was ready."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        poll = select.poll()
        for fd in self.readers.keys() | self.writers.keys():
            mask = (select.POLLIN if fd in self.readers else 0) | (select.POLLOUT if fd in self.writers else 0)
            poll.register(fd, mask)
        events = sorted(poll.poll(0))
        for fd, mask in events:
            assert not mask & select.POLLNVAL, f"descriptor {fd} was closed while it was registered"
            failed = bool(mask & select.POLLERR)
            reader, writer = self.readers.get(fd), self.writers.get(fd)
            if failed:
                self.readers.pop(fd, None)
                self.writers.pop(fd, None)
            readable = mask & (select.POLLIN | select.POLLHUP | select.POLLERR)
            if reader is not None and readable and (failed or self.readers.get(fd) == reader):
                reader()
            writable = mask & (select.POLLOUT | select.POLLHUP | select.POLLERR)
            if writer is not None and writable and (failed or self.writers.get(fd) == writer):
                writer()
        return bool(soon or events)

    def run(self, turns: int = 1000) -> int:
        """Turn until nothing is ready; how many turns that took. Fails when it spins."""
        for count in range(turns):
            if not self.turn():
                return count
        raise AssertionError(f"still busy after {turns} turns: readers {self.readers}, writers {self.writers}")
