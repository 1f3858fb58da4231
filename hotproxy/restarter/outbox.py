"""A channel that never refuses: what the other end can't take yet waits here, in order, with its descriptors.

A zygote or slot that is stopped (SIGSTOP, debugger) does not read. Whoever talks to it must neither block nor lose a
message; deadlines decide what becomes of it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull, ChannelStarved, FrameError, Message
from hotproxy.restarter.log import ERROR, log
from hotproxy.restarter.loop import Loop

# More than this many undelivered messages never happens to a process that lives; then it is as good as dead.
MAX_WAITING: Final = 1000
# When the kernel is out of descriptors or memory; descriptors in flight come free as fast as the others read.
RETRY_S: Final = 0.05


class Outbox:
    """Owns `channel`. `on_message` gets every message (and owns its descriptors), `on_closed` comes once, at EOF."""

    __slots__ = ("_loop", "_on_bad_frame", "_on_closed", "_on_message", "_waiting", "channel")

    def __init__(
        self,
        channel: Channel,
        loop: Loop,
        on_message: Callable[[Message], None],
        on_bad_frame: Callable[[FrameError], None],
        on_closed: Callable[[], None],
    ) -> None:
        self.channel = channel
        self._loop = loop
        self._waiting: deque[tuple[str, Mapping[str, Any], list[int]]] = deque()
        self._on_message = on_message
        self._on_bad_frame = on_bad_frame
        self._on_closed = on_closed
        loop.watch(channel, self.read)

    @property
    def open(self) -> bool:
        return self.channel.fileno() >= 0

    @property
    def waiting_fds(self) -> list[int]:
        """Descriptors that are to go out: whoever forks closes them in the child, where they would hide an end."""
        return [fd for _, _, fds in self._waiting for fd in fds]

    @property
    def unread(self) -> bool:
        """Whether something was posted that the other end has not read yet."""
        if not self.open:
            return False
        # SIOCOUTQ has TIOCOUTQ's number; for unix sockets it counts what the peer has not received (unix(7)).
        queued = fcntl.ioctl(self.channel.fileno(), termios.TIOCOUTQ, bytes(4))
        return bool(self._waiting) or struct.unpack("i", queued)[0] > 0

    def post(self, kind: str, fields: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> None:
        """Send now or as soon as it fits; to a channel that is closed, nothing."""
        if not self.open:
            return
        if not self._waiting:
            try:
                self.channel.send(kind, fields, fds)
                return
            except ChannelClosed:
                return  # EOF follows, with whatever the other end said before it
            except ChannelFull as full:
                self._wait(full)
        if len(self._waiting) < MAX_WAITING:
            try:
                self._waiting.append((kind, fields or {}, _copies(fds)))
            except OSError as error:  # its deadline decides what becomes of whoever waits for it
                log(ERROR, f"{kind} can't be kept for later and is lost: {error.strerror}")

    def read(self) -> None:
        """Everything that has arrived, to EAGAIN or EOF."""
        while self.open:
            try:
                message = self.channel.receive()
            except FrameError as error:
                self._on_bad_frame(error)
                continue
            except ChannelClosed:
                self.close()
                self._on_closed()
                return
            if message is None:
                return
            self._on_message(message)

    def close(self) -> None:
        """Lets go of the channel; `on_closed` is not called."""
        if not self.open:
            return
        self._loop.unwatch(self.channel)
        self.channel.close()
        while self._waiting:
            for fd in self._waiting.popleft()[2]:
                os.close(fd)

    def _wait(self, full: ChannelFull) -> None:
        if isinstance(full, ChannelStarved):  # the socket takes data: to wait for that would be to spin
            self._loop.watch_write(self.channel, None)
            self._loop.after(RETRY_S, self._flush)
        else:
            self._loop.watch_write(self.channel, self._flush)

    def _flush(self) -> None:
        if not self.open:
            return
        while self._waiting:
            kind, fields, fds = self._waiting[0]
            try:
                self.channel.send(kind, fields, fds)
            except ChannelFull as full:
                self._wait(full)
                return
            except ChannelClosed:
                break
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.watch_write(self.channel, None)


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        for copy in copies:
            os.close(copy)
        raise
    return copies
