"""A deterministic event loop over real descriptors: nothing happens but in `turn()`.

It behaves as `hotproxy.net.poller.Poller`: level-triggered, a reset peer (POLLERR) calls whoever is registered. A
descriptor that was closed while registered fails the test.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from hotproxy.net.transfer import accept, is_quiet, receive, transmit

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

    def add_exclusive_reader(self, fd: int, callback: Callback) -> None:
        self.add_reader(fd, callback)

    def add_writer(self, fd: int, callback: Callback) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_soon(self, callback: Callback) -> None:
        self.soon.append(callback)

    def accept(self, listening: socket.socket) -> tuple[socket.socket, object] | None:
        return accept(listening)

    def receive(self, fd: int) -> bytes | None:
        return receive(fd)

    def transmit(self, fd: int, data: bytes | bytearray) -> int:
        return transmit(fd, data)

    def is_quiet(self, fd: int) -> bool:
        return is_quiet(fd)

    def half_close(self, sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)

    def forget(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)

    def is_movable(self, fd: int) -> bool:
        return True

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
            reader = self.readers.get(fd)
            if reader is not None and mask != select.POLLOUT:
                reader()
            writer = self.writers.get(fd)
            if writer is not None and mask != select.POLLIN:
                writer()
        return bool(soon or events)

    def run(self, turns: int = 1000) -> int:
        """Turn until nothing is ready; how many turns that took. Fails when it spins."""
        for count in range(turns):
            if not self.turn():
                return count
        raise AssertionError(f"still busy after {turns} turns: readers {self.readers}, writers {self.writers}")


class WatchedLoop(FakeLoop):
    """Counts how often a descriptor begins or ceases to be read: each time a system call."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add_reader(self, fd: int, callback: Callback) -> None:
        self.changes += fd not in self.readers
        super().add_reader(fd, callback)

    def remove_reader(self, fd: int) -> bool:
        self.changes += fd in self.readers
        return super().remove_reader(fd)

    def forget(self, fd: int) -> None:
        self.changes += fd in self.readers
        super().forget(fd)
