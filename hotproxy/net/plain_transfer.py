"""Bytes from and to connected, non-blocking sockets, by descriptor. Compiled: `_transfer`; chosen in `transfer`.

No exception for a socket that has nothing or takes nothing now: on the data path that is an ordinary answer.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

# One read: large enough that a bulk body costs one call per 64 KiB, small enough to be fair between connections.
READ_BYTES: Final = 64 * 1024

_ANYTHING: Final = select.POLLIN | select.POLLRDHUP


def accept(listening: socket.socket) -> tuple[socket.socket, object] | None:
    """The next client of a non-blocking TCP or unix socket, non-blocking too, and its address as Python's sockets tell
    it; None: nobody waits. OSError as accept(2)."""
    try:
        sock, address = listening.accept()
    except BlockingIOError:
        return None
    sock.setblocking(False)
    return sock, address


def receive(fd: int) -> bytes | None:
    """What has arrived, at most READ_BYTES; b"" at the peer's end; None: nothing now. OSError when it is broken."""
    try:
        return os.read(fd, READ_BYTES)
    except (BlockingIOError, InterruptedError):
        return None


def transmit(fd: int, data: bytes | bytearray) -> int:
    """How many bytes the kernel has taken, 0 if none now. OSError when the connection is broken."""
    try:
        return os.write(fd, data)  # Python ignores SIGPIPE
    except (BlockingIOError, InterruptedError):
        return 0


def is_quiet(fd: int) -> bool:
    """Has nothing arrived, no byte, no end and no error? Takes nothing away."""
    poll = select.poll()
    poll.register(fd, _ANYTHING)
    return not poll.poll(0)
