"""How much of what was written is still on its way: in the kernel, or on the wire and not confirmed."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios


def unacknowledged_bytes(sock: socket.socket) -> int:
    """What the peer's kernel has not confirmed yet (tcp(7), SIOCOUTQ). What was written to a unix socket is there."""
    if sock.family == socket.AF_UNIX:
        return 0
    (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
    return int(size)
