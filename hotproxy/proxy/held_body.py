"""The beginning of a request's body, kept until it is clear that it will not have to be sent again."""

from __future__ import annotations

from typing import Final

from hotproxy.net.connection import Gauge

# Nearly every body that is not an upload fits. Also how much is read from a client before there is a connection to
# send it on; one read more (64 KiB) may come on top of it.
MAX_HELD_BYTES: Final = 64 * 1024


class HeldBody:
    """Pieces in order, counted among the worker's buffered bytes. `whole` turns False once something is missing."""

    __slots__ = ("_buffered", "pieces", "size_bytes", "whole")

    def __init__(self, buffered: Gauge) -> None:
        self._buffered = buffered
        self.pieces: list[bytes] = []
        self.size_bytes = 0
        self.whole = True  # `pieces` are all of the body that has come so far

    @property
    def full(self) -> bool:
        """More should not be read from the client before something has been sent."""
        return self.size_bytes >= MAX_HELD_BYTES

    def add(self, data: bytes) -> None:
        """Keep it whatever it takes: it has not been sent to anybody yet."""
        self.pieces.append(data)
        self.size_bytes += len(data)
        self._buffered.add(len(data))

    def offer(self, data: bytes) -> None:
        """Keep it if all of the body still fits; it is being sent anyway."""
        if not self.whole:
            return
        if self.size_bytes + len(data) <= MAX_HELD_BYTES:
            self.add(data)
        else:
            self.drop()

    def drop(self) -> None:
        """It will not be needed again."""
        self.whole = False
        if self.pieces:
            self._buffered.add(-self.size_bytes)
            self.pieces = []
            self.size_bytes = 0
