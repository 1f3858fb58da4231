"""Pipes through which bytes go from socket to socket without being copied (splice(2)). A few for a whole worker.

A pipe is borrowed for as long as there are bytes in it, which is mostly within one turn.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

# Large enough that a turn moves half a megabyte (measured on loopback: 470 KB), and what the kernel lets anybody have
# (fs.pipe-max-size).
PIPE_BYTES: Final = 1 << 20
# Below that, copying is as good: what a kernel gives that has no more room for this user (fs.pipe-user-pages-soft).
_MIN_BYTES: Final = 64 * 1024
# Pipes held by receivers that are slow at this moment. More of them are served by copying.
MAX_PIPES: Final = 16
_SET_SIZE: Final = 1031  # F_SETPIPE_SZ and F_GETPIPE_SZ of linux/fcntl.h
_GET_SIZE: Final = 1032


class Pipe:
    """Both ends, and how much there is room for."""

    __slots__ = ("read_fd", "size", "write_fd")

    def __init__(self, read_fd: int, write_fd: int, size: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.size = size

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """Made when they are needed, and kept."""

    __slots__ = ("_free", "_made", "_useless")

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._made = 0
        self._useless = False  # the kernel gives none, or only small ones

    def take(self) -> Pipe | None:
        """An empty one; None: copy."""
        if self._free:
            return self._free.pop()
        if self._useless or self._made >= MAX_PIPES:
            return None
        return self._make()

    def give_back(self, pipe: Pipe) -> None:
        """It is empty again."""
        self._free.append(pipe)

    def throw_away(self, pipe: Pipe) -> None:
        """There are bytes in it that nobody wants."""
        self._made -= 1
        pipe.close()

    def close(self) -> None:
        """The free ones; the others end with their connections."""
        while self._free:
            self.throw_away(self._free.pop())

    def _make(self) -> Pipe | None:
        try:
            read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no descriptor left now
            return None
        try:
            fcntl.fcntl(write_fd, _SET_SIZE, PIPE_BYTES)
        except OSError:  # EPERM: above a limit that an administrator has set lower
            pass
        pipe = Pipe(read_fd, write_fd, fcntl.fcntl(write_fd, _GET_SIZE))
        if pipe.size < _MIN_BYTES:
            self._useless = True
            pipe.close()
            return None
        self._made += 1
        return pipe
