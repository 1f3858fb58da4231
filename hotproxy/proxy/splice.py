"""Bulk from one connection of a TCP proxy to the other without copying it: socket, pipe, socket (splice(2)).

    copying --mostly large reads--> splicing: readable --into the pipe, and out of it--> readable ...
       ^                                 |            \\--not all of it was taken--> blocked: the sender is not read
       \\---settle(): what is in the pipe is read, and waits like any unsent bytes---/

So nothing but this file knows of pipes: whoever wants to move, end or half-close a connection settles it first.
`bench/bulk.py` measures it beside HAProxy.
"""

from __future__ import annotations

import errno
import os
from typing import Final, Protocol

from hotproxy.net.connection import OPEN, Connection, Gauge
from hotproxy.net.pipes import Pipe, Pipes

_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
# A kind of socket that is read otherwise, or no memory for it now. All other errors are the socket's own.
_CANNOT: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOMEM})


class SpliceOwner(Protocol):
    def on_spliced(self) -> None:
        """Bytes have moved; the connections have counted them."""


class Splice:
    """One direction. Takes what `source` could read, as its `bypass`."""

    __slots__ = ("_blocked", "_buffered", "_in_pipe", "_owner", "_pipe", "_pipes", "_source", "_target")

    def __init__(
        self, source: Connection, target: Connection, pipes: Pipes, buffered: Gauge, owner: SpliceOwner
    ) -> None:
        self._source = source
        self._target = target
        self._pipes = pipes
        self._buffered = buffered
        self._owner: SpliceOwner | None = owner
        self._pipe: Pipe | None = None  # while there are bytes in it
        self._in_pipe = 0
        self._blocked = False
        source.bypass = self

    def pump(self) -> bool:
        """`source` is readable: pass on what there is. False: it is to read itself (an end, no pipe)."""
        if self._pipe is not None or self._target.state != OPEN or self._target.pending_bytes:
            return False
        size = self._fill()
        if size > 0:
            self._push()
        return size >= 0

    def on_writable(self) -> None:
        """`target` takes bytes again. A sender that is ahead of it has more for it by now: read at once, without the
        four calls that it takes to watch the other side and this one in turn."""
        self._push()
        if self._blocked and self._pipe is None and (self._target.state != OPEN or self._fill() <= 0):
            self._unblock()

    def _fill(self) -> int:
        """Into an empty pipe: how many bytes; 0: there are none now; -1: `source` is to read itself."""
        pipe = self._pipes.take()
        if pipe is None:
            return -1
        try:
            size = os.splice(self._source.fd, pipe.write_fd, pipe.size, flags=_FLAGS)
        except BlockingIOError:
            self._pipes.give_back(pipe)
            return 0
        except OSError as error:
            self._pipes.give_back(pipe)
            if error.errno in _CANNOT:
                return -1
            # The kernel tells it once: whoever read now would find an ordinary end.
            self._source.break_off(error)
            return 0
        if not size:
            self._pipes.give_back(pipe)
            return -1
        self._source.rx_bytes += size
        self._pipe = pipe
        self._count(size)
        return size

    def _push(self) -> None:
        """Out of the pipe, as much as is taken."""
        pipe, target = self._pipe, self._target
        if pipe is None:
            return
        try:
            sent = os.splice(pipe.read_fd, target.fd, self._in_pipe, flags=_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._throw_away()
            target.break_off(error)
            return
        target.tx_bytes += sent
        self._count(-sent)
        if not self._in_pipe:
            self._pipe = None
            self._pipes.give_back(pipe)
        elif not self._blocked:
            self._blocked = True
            self._source.read_disable()
            target.feed(self)
        if self._owner is not None:
            self._owner.on_spliced()

    def _count(self, size: int) -> None:
        """What is in a pipe waits here, like what is in a buffer."""
        self._in_pipe += size
        self._buffered.add(size)

    def settle(self) -> None:
        """Over: what is in the pipe becomes unsent bytes of `target`."""
        self._source.bypass = None
        pipe = self._pipe
        data = b""
        if pipe is not None:
            while len(data) < self._in_pipe:
                data += os.read(pipe.read_fd, self._in_pipe)
            self._pipe = None
            self._count(-len(data))
            self._pipes.give_back(pipe)
        self._unblock()
        self._owner = None
        if data:
            self._target.write(data)

    def drop(self) -> None:
        """Over: nobody wants what is in the pipe."""
        self._source.bypass = None
        self._owner = None
        self._throw_away()

    def _throw_away(self) -> None:
        pipe, self._pipe = self._pipe, None
        self._count(-self._in_pipe)
        if pipe is not None:
            self._pipes.throw_away(pipe)
        self._unblock()

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._target.stop_feeding()
            self._source.read_enable()
