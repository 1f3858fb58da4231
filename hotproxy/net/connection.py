"""One established socket: owns the descriptor and every byte that is not yet sent.

No transport holds bytes that we cannot get back (a handoff must be able to take them along), so sockets are read
with `add_reader` + `recv` and written directly, with our own pending buffer behind `add_writer`.

    OPEN --close()--> CLOSED            at once, pending bytes are dropped
      \\--finish()--> FLUSHING --all sent--> LINGERING --peer's EOF, 64 KiB or 1 s--> CLOSED

Lingering (SHUT_WR, then read and discard) exists because closing a socket that still has unread bytes makes the
kernel send RST, which destroys the answer in the client's receive queue (RFC 9112 section 9.6).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol

from hotproxy.clock import Timer, TimerWheel

# One read: large enough that a bulk body costs one call per 64 KiB, small enough to be fair between connections.
READ_BYTES: Final = 64 * 1024
# Above HIGH the other side stops reading, below LOW it goes on; their distance keeps the switch from fluttering.
HIGH_WATERMARK_BYTES: Final = 256 * 1024
LOW_WATERMARK_BYTES: Final = 64 * 1024
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 64 * 1024

OPEN: Final = 0
FLUSHING: Final = 1
LINGERING: Final = 2
CLOSED: Final = 3


class Loop(Protocol):
    """What the data path needs of an event loop (uvloop's and asyncio's methods of these names)."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> object: ...

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove_writer(self, fd: int) -> object: ...

    def call_soon(self, callback: Callable[[], None]) -> object: ...


class ConnectionOwner(Protocol):
    """Whoever reads this connection. After `close()`, `finish()` or `on_lost` nothing more is called."""

    def on_data(self, data: bytes) -> None: ...

    def on_eof(self) -> None:
        """The peer will send no more; we may still write."""

    def on_lost(self, error: str) -> None:
        """Reset, or a write that failed: the descriptor is closed already. `error` is the errno's text."""

    def on_pressure(self, high: bool) -> None:
        """Unsent bytes rose above HIGH_WATERMARK_BYTES (True) or fell below LOW_WATERMARK_BYTES again (False)."""


class Gauge(Protocol):
    def add(self, amount: int) -> None: ...


class Connection:
    """A connected, non-blocking socket. Reading starts with `start()`; `read_disable` and `read_enable` count."""

    __slots__ = (
        "sock", "fd", "owner", "state", "rx_bytes", "tx_bytes", "read_closed", "write_closed",
        "_loop", "_wheel", "_buffered", "_pending", "_read_disabled", "_reading", "_writing", "_high",
        "_shut_after_flush", "_discarded", "_linger", "_done",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, owner: ConnectionOwner, loop: Loop, wheel: TimerWheel, buffered: Gauge
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.owner: ConnectionOwner | None = owner
        self.state = OPEN
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.read_closed = False  # the peer's EOF was read
        self.write_closed = False  # our SHUT_WR was sent
        self._loop = loop
        self._wheel = wheel
        self._buffered = buffered
        self._pending = bytearray()
        self._read_disabled = 0
        self._reading = False
        self._writing = False
        self._high = False
        self._shut_after_flush = False
        self._discarded = 0
        self._linger: Timer | None = None
        self._done: Callable[[], None] | None = None

    # -- reading ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read (and to send what a `load` brought along)."""
        if self._pending:
            self._want_write()
        self._update_reading()

    def read_disable(self) -> None:
        self._read_disabled += 1
        self._update_reading()

    def read_enable(self) -> None:
        self._read_disabled -= 1
        assert self._read_disabled >= 0, "read_enable without read_disable"
        self._update_reading()

    def _update_reading(self) -> None:
        wanted = self._read_disabled == 0 and not self.read_closed and self.state == OPEN
        if wanted and not self._reading:
            self._loop.add_reader(self.fd, self._on_readable)
        elif not wanted and self._reading:
            self._loop.remove_reader(self.fd)
        self._reading = wanted

    def _on_readable(self) -> None:
        if not self._reading:
            return
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        owner = self.owner
        assert owner is not None
        if data:
            self.rx_bytes += len(data)
            owner.on_data(data)
            return
        self.read_closed = True
        self._update_reading()
        owner.on_eof()

    # -- writing ------------------------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes; keep the rest. Ignored once we are closing."""
        if self.state != OPEN or self.write_closed or not data:
            return
        sent = 0
        if not self._pending:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
            self.tx_bytes += sent
            if sent == len(data):
                return
        self._pending += data[sent:] if sent else data
        self._buffered.add(len(data) - sent)
        self._want_write()
        if not self._high and len(self._pending) > HIGH_WATERMARK_BYTES:
            self._high = True
            if self.owner is not None:
                self.owner.on_pressure(True)

    def shutdown_write(self) -> None:
        """Half-close: SHUT_WR once everything pending is sent."""
        if self.state != OPEN or self.write_closed or self._shut_after_flush:
            return
        self._shut_after_flush = True
        if not self._pending:
            self._shut()

    def _shut(self) -> None:
        self._shut_after_flush = False
        self.write_closed = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer has reset it meanwhile; reading will tell
            pass

    def _want_write(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.fd, self._on_writable)

    def _on_writable(self) -> None:
        if not self._writing:
            return
        try:
            sent = self.sock.send(self._pending)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        self.tx_bytes += sent
        self._buffered.add(-sent)
        del self._pending[:sent]
        if not self._pending:
            self._writing = False
            self._loop.remove_writer(self.fd)
            if self._shut_after_flush:
                self._shut()
            if self.state == FLUSHING:
                self._begin_lingering()
                return
        if self._high and len(self._pending) < LOW_WATERMARK_BYTES:
            self._high = False
            if self.owner is not None:
                self.owner.on_pressure(False)

    # -- ending -------------------------------------------------------------------------------------------------

    def finish(self, done: Callable[[], None] | None = None) -> None:
        """Close gracefully: send what is pending, then linger. The owner hears nothing more, but for `done`.

        `done` is called once, when the descriptor is closed: until then this worker must not exit.
        """
        if self.state != OPEN:
            return
        self.owner = None
        self._done = done
        self.state = FLUSHING
        self._update_reading()
        # A reader that never reads must not hold us for ever: flushing has the linger deadline renewed by progress
        # at most through the kernel's own TCP_USER_TIMEOUT; the owner's idle timer is gone by now.
        self._linger = Timer(self, "linger")
        if self._pending:
            self._wheel.arm(self._linger, 60.0)
        else:
            self._begin_lingering()

    def _begin_lingering(self) -> None:
        assert self._linger is not None
        if not self.write_closed:
            self._shut()
        if self.read_closed:
            self.close()
            return
        self.state = LINGERING
        self._wheel.arm_at(self._linger, self._wheel.clock.now_s() + LINGER_S)
        self._loop.add_reader(self.fd, self._discard)
        self._reading = True

    def _discard(self) -> None:
        if self.state != LINGERING:
            return
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._discarded += len(data)
        if not data or self._discarded >= LINGER_BYTES:
            self.close()

    def on_timeout(self, timer: Timer) -> None:
        self.close()

    def close(self) -> None:
        """Close at once, whatever is pending. Safe to call twice."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self.owner = None
        self.detach()
        if self._pending:
            self._buffered.add(-len(self._pending))
            self._pending.clear()
        if self._linger is not None:
            self._linger.drop()
        self.sock.close()
        done, self._done = self._done, None
        if done is not None:
            done()

    def detach(self) -> None:
        """Leave the event loop (always before the descriptor is closed or passed on: a dup keeps epoll entries alive)."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)

    def _lost(self, error: str) -> None:
        owner = self.owner
        self.close()
        if owner is not None:
            owner.on_lost(error)

    # -- handoff ------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, object]:
        """Everything but the descriptor, as msgpack values. Valid in state OPEN."""
        return {
            "rx": self.rx_bytes,
            "tx": self.tx_bytes,
            "read_closed": self.read_closed,
            "write_closed": self.write_closed,
            "shut_after_flush": self._shut_after_flush,
            "pending": bytes(self._pending),
        }
