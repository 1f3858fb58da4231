"""Sockets without a kernel, and the loop that watches them: what a peer says is put into an inbox, what it receives is
reported. Descriptors can be dup'ed, as a handoff does: the connection ends with its last copy.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from hotproxy.net.transfer import READ_BYTES

EOF = "eof"
RESET = "reset"


class FakePeer:
    """The other end of a connection, and what the kernel holds of it for all descriptors."""

    def __init__(self, name: str, number: int, report: Callable[[str, bytes | str], None]) -> None:
        self.name = name
        self.number = number
        self.report = report
        self.inbox: list[bytes | str] = []
        self.window: int | None = None
        self.broken = False  # the peer has reset it
        self.copies = 0
        self.shut = False
        self.reset_on_close = False


class FakeSocket:
    """A descriptor without a kernel: what the peer has sent waits in `inbox`, what the peer receives is reported."""

    family = socket.AF_INET

    def __init__(
        self, fd: int, name: str, report: Callable[[str, bytes | str], None], peer: FakePeer | None = None
    ) -> None:
        self.peer = FakePeer(name, fd, report) if peer is None else peer
        self.peer.copies += 1
        self.name = name
        self.inbox = self.peer.inbox
        self.closed = False
        self._fd = fd

    def dup(self, fd: int) -> FakeSocket:
        """Another descriptor of the same connection."""
        return FakeSocket(fd, self.name, self.peer.report, self.peer)

    @property
    def window(self) -> int | None:
        """How much the peer takes from now on; None: everything."""
        return self.peer.window

    @window.setter
    def window(self, size: int | None) -> None:
        self.peer.window = size

    @property
    def broken(self) -> bool:
        return self.peer.broken

    @broken.setter
    def broken(self, broken: bool) -> None:
        self.peer.broken = broken

    @property
    def readable(self) -> bool:
        return bool(self.inbox)

    @property
    def writable(self) -> bool:
        return self.window is None or self.window > 0 or self.broken

    def fileno(self) -> int:
        return -1 if self.closed else self._fd

    def receive(self) -> bytes | None:
        assert not self.closed
        if not self.inbox:
            return None
        first = self.inbox[0]
        if first == EOF:
            return b""
        if first == RESET:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        assert isinstance(first, bytes)
        if len(first) > READ_BYTES:
            self.inbox[0] = first[READ_BYTES:]
        else:
            del self.inbox[0]
        return first[:READ_BYTES]

    def transmit(self, data: bytes) -> int:
        assert not self.closed and not self.peer.shut
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        taken = data if self.window is None else data[: self.window]
        if not taken:
            return 0
        if self.window is not None:
            self.window -= len(taken)
        self.peer.report(self.name, taken)
        return len(taken)

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR and not self.closed
        if self.broken:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self.peer.shut = True
        self.peer.report(self.name, EOF)

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.peer.reset_on_close = True

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)

    def close(self) -> None:
        assert not self.closed, f"{self.name} is closed twice"
        self.closed = True
        peer = self.peer
        peer.copies -= 1
        if peer.copies:
            return
        if peer.reset_on_close:
            peer.report(self.name, RESET)
        elif not peer.shut and not peer.broken:
            peer.report(self.name, EOF)


class FakeLoop:
    """Readiness by looking at fake sockets."""

    def __init__(self, sockets: dict[int, FakeSocket]) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self._soon: list[Callable[[], None]] = []
        self._sockets = sockets

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        del self.writers[fd]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def receive(self, fd: int) -> bytes | None:
        return self._sockets[fd].receive()

    def transmit(self, fd: int, data: bytes | bytearray) -> int:
        return self._sockets[fd].transmit(bytes(data))

    def is_quiet(self, fd: int) -> bool:
        return not self._sockets[fd].readable

    def half_close(self, sock: FakeSocket) -> None:
        sock.shutdown(socket.SHUT_WR)

    def forget(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)

    def is_movable(self, fd: int) -> bool:
        return True

    def run(self) -> None:
        """Until nothing is ready any more."""
        for _ in range(10_000):
            busy = bool(self._soon)
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()
            for fd, sock in list(self._sockets.items()):
                if fd in self.readers and sock.readable:
                    busy = True
                    self.readers[fd]()
                if fd in self.writers and sock.writable:
                    busy = True
                    self.writers[fd]()
            if not busy:
                return
        raise AssertionError("the loop spins")
