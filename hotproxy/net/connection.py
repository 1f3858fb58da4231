"""One established socket: owns the descriptor and every byte that is not yet sent.

No transport holds bytes that we cannot get back (a handoff must be able to take them along), so sockets are read
with `add_reader` + `recv` and written directly, with our own pending buffer behind `add_writer`.

    OPEN --close()--> CLOSED                    at once, pending bytes are dropped
      |\\--finish()--> FLUSHING --all sent--> LINGERING --peer's EOF, 8 MiB or 1 s--> CLOSED
      |                   \\--- no byte taken for 60 s, or no proper end ---> reset, CLOSED
      |---read failed---> CLOSED, on_lost
      \\---write failed-> BROKEN --next turn: what had arrived is read--> CLOSED, on_lost

Lingering (SHUT_WR, then read and discard) exists because closing a socket that still has unread bytes makes the
kernel send RST, which destroys the answer in the client's receive queue (RFC 9112 section 9.6).

`write` never calls `on_lost`: owners write from within `on_data`, and would find everything torn down under their
feet. A failed write is told in the next turn, after what the peer had sent before it hung up: an origin that answers
early and resets (it does not want the rest of the body) is heard.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from hotproxy.clock import TICK_S, Timer, TimerWheel
from hotproxy.net.bypass import Bypass, Feeder
from hotproxy.net.connection_state import DUMP_VERSION, HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES, ConnectionState
from hotproxy.net.loop import Loop
from hotproxy.net.send_queue import unacknowledged_bytes

LINGER_S: Final = 1.0
# What can be under way when the peer learns of our answer: its window, which net.ipv4.tcp_rmem bounds by 6 MiB.
LINGER_BYTES: Final = 8 * 1024 * 1024
# A peer that takes nothing for this long gets no more: nginx's send_timeout, also between two writes.
FLUSH_S: Final = 60.0
# After a failed write: more than the largest receive queue (net.ipv4.tcp_rmem: 6 MiB), so that all of it is read.
_LAST_READS: Final = 128

OPEN: Final = 0
BROKEN: Final = 1
FLUSHING: Final = 2
LINGERING: Final = 3
CLOSED: Final = 4

# struct linger: on, 0 seconds. close() then sends RST (socket(7)).
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ConnectionOwner(Protocol):
    """Whoever reads this connection. After `close()`, `finish()` or `on_lost` nothing more is called."""

    def on_data(self, data: bytes) -> None: ...

    def on_eof(self) -> None:
        """The peer will send no more; we may still write."""

    def on_lost(self, error: str) -> None:
        """Reset, or a write that failed: the descriptor is closed already. `error` is the errno's text.

        At most once, and never from inside a call of the owner's own.
        """

    def on_pressure(self, high: bool) -> None:
        """Unsent bytes rose above HIGH_WATERMARK_BYTES (True) or fell below LOW_WATERMARK_BYTES again (False).

        Strictly in turns, beginning with True. True comes from inside `write`; a True that is never taken back ends
        with the connection.
        """


class Gauge(Protocol):
    def add(self, amount: int) -> None: ...


class Connection:
    """A connected, non-blocking socket. Reading starts with `start()`; `read_disable` and `read_enable` count."""

    __slots__ = (
        "_buffered", "_discarded", "_done", "_error", "_feeder", "_give_up_s", "_loop", "_pending", "_proper",
        "_read_disabled", "_reading", "_shut_after_flush", "_started", "_timer", "_wheel", "_writing", "bypass", "fd",
        "owner", "pressed", "read_closed", "rx_bytes", "sock", "state", "tx_bytes", "write_closed",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, owner: ConnectionOwner, loop: Loop, wheel: TimerWheel, buffered: Gauge
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.owner: ConnectionOwner | None = owner
        self.state = OPEN
        self.rx_bytes = 0
        self.tx_bytes = 0  # what the kernel has taken
        self.read_closed = False  # the peer's EOF was read
        self.write_closed = False  # our SHUT_WR was sent
        self.pressed = False  # on_pressure(True) was the last word
        self.bypass: Bypass | None = None
        self._loop = loop
        self._wheel = wheel
        self._buffered = buffered
        # Deleting from the front of a bytearray moves its start, and copies only when it has halved: O(1) a byte.
        self._pending = bytearray()
        self._read_disabled = 0
        self._started = False
        self._reading = False
        self._writing = False
        self._shut_after_flush = False
        self._discarded = 0
        self._error = ""
        self._timer: Timer | None = None
        self._done: Callable[[], None] | None = None
        self._proper = True  # ends with FIN
        self._give_up_s = 0.0
        self._feeder: Feeder | None = None

    # -- reading ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read (and to send what a `load` brought along)."""
        self._started = True
        if self._pending and self.state == OPEN:
            self._want_write()
        self._update_reading()

    def read_disable(self) -> None:
        self._read_disabled += 1
        if self._reading and self.state <= BROKEN:
            self._update_reading()

    def read_enable(self) -> None:
        self._read_disabled -= 1
        assert self._read_disabled >= 0, "read_enable without read_disable"
        if self._read_disabled == 0:
            self._update_reading()

    def _update_reading(self) -> None:
        if self.state > BROKEN:
            return
        wanted = self._started and self._read_disabled == 0 and not self.read_closed
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self.fd, self._on_readable)
            else:
                self._loop.remove_reader(self.fd)

    def _on_readable(self) -> None:
        if not self._reading:
            return
        bypass = self.bypass
        if bypass is not None and self.state == OPEN and bypass.pump():
            return
        try:
            data = self._loop.receive(self.fd)
        except OSError as error:
            self._lost(self._error or error.strerror or str(error))
            return
        if data is None:
            return
        owner = self.owner
        assert owner is not None
        if data:
            self.rx_bytes += len(data)
            owner.on_data(data)
        elif self.state == BROKEN:
            self._lost(self._error)
        else:
            self.read_closed = True
            self._update_reading()
            owner.on_eof()

    # -- writing ------------------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Nothing has arrived that was not read, not even an end that the loop has not told us about yet."""
        return self._loop.is_quiet(self.fd)

    @property
    def pending_bytes(self) -> int:
        """Accepted by `write` and not yet taken by the kernel."""
        return len(self._pending)

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes; keep the rest. Ignored once we are closing or after `shutdown_write`."""
        if self.state != OPEN or self.write_closed or self._shut_after_flush or not data:
            return
        sent = 0
        if not self._pending:
            try:
                sent = self._loop.transmit(self.fd, data)
            except OSError as error:
                self.break_off(error)
                return
            self.tx_bytes += sent
            if sent == len(data):
                return
        self._pending += memoryview(data)[sent:]
        self._buffered.add(len(data) - sent)
        self._want_write()
        if not self.pressed and len(self._pending) > HIGH_WATERMARK_BYTES:
            self.pressed = True
            if self.owner is not None:
                self.owner.on_pressure(True)

    def shutdown_write(self) -> None:
        """Half-close: SHUT_WR once everything pending is sent."""
        if self.state != OPEN or self.write_closed or self._shut_after_flush:
            return
        if self._pending:
            self._shut_after_flush = True
        else:
            self._shut()

    def _shut(self) -> None:
        self._shut_after_flush = False
        self.write_closed = True
        try:
            self._loop.half_close(self.sock)
        except OSError:  # ENOTCONN: the peer has reset it meanwhile; reading will tell
            pass

    def _want_write(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self.fd, self._on_writable)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self.fd)

    def feed(self, feeder: Feeder) -> None:
        """Call `on_writable` whenever the kernel takes bytes, until `stop_feeding`."""
        self._feeder = feeder
        self._want_write()

    def stop_feeding(self) -> None:
        self._feeder = None
        if not self._pending:
            self._stop_writing()

    def runs_in(self, loop: Loop) -> bool:
        """With no other loop between the descriptor and the owner, its bytes are the owner's."""
        return self._loop is loop

    def _on_writable(self) -> None:
        if not self._writing:
            return
        feeder = self._feeder
        if feeder is not None:
            feeder.on_writable()
            return
        try:
            sent = self._loop.transmit(self.fd, self._pending)
        except OSError as error:
            self.break_off(error)
            return
        if not sent:
            return
        self.tx_bytes += sent
        self._buffered.add(-sent)
        del self._pending[:sent]
        if not self._pending:
            self._stop_writing()
            if self._shut_after_flush:
                self._shut()
            if self.state == FLUSHING:
                self._flushed()
                return
        elif self.state == FLUSHING:
            self._arm(FLUSH_S)
            return
        if self.pressed and len(self._pending) < LOW_WATERMARK_BYTES:
            self.pressed = False
            if self.owner is not None:
                self.owner.on_pressure(False)

    def break_off(self, error: OSError) -> None:
        """A write has failed, ours or a feeder's."""
        if self.state == FLUSHING:
            self.close()
            return
        self.state = BROKEN
        self._error = error.strerror or str(error)
        self._stop_writing()
        self._drop_pending()
        self._loop.call_soon(self._report_break)

    def _report_break(self) -> None:
        for _ in range(_LAST_READS):
            # The owner may disable reading or close from inside on_data.
            if self.state != BROKEN or not self._reading:
                break
            try:
                data = self._loop.receive(self.fd)
            except OSError:
                break
            if not data:
                break
            self.rx_bytes += len(data)
            if self.owner is not None:
                self.owner.on_data(data)
        if self.state == BROKEN:
            self._lost(self._error)

    # -- ending -------------------------------------------------------------------------------------------------

    def finish(self, done: Callable[[], None] | None = None, proper: bool = True) -> None:
        """Close gracefully: send what is pending, then linger. The owner hears nothing more, but for `done`.

        Not `proper`: it is not all that there should be; it arrives, and then a reset. `done` is called once, when the
        descriptor is closed (at once, if it is already): until then this worker must not exit, for the kernel would
        reset a socket that has unread bytes.
        """
        if self.state == BROKEN:
            self.close()
        if self.state != OPEN:
            if done is not None:
                done()
            return
        self._done = done
        self._proper = proper
        self.owner = None
        self.state = FLUSHING
        if self._pending:
            if self._reading:
                self._reading = False
                self._loop.remove_reader(self.fd)
            self._want_write()
            self._arm(FLUSH_S)
        else:
            self._flushed()

    def _flushed(self) -> None:
        if self._proper or self.write_closed:
            self._begin_lingering()
        else:
            self._give_up_s = self._wheel.clock.now_s() + FLUSH_S
            self._reset_once_sent()

    def _reset_once_sent(self) -> None:
        """A reset takes away what the kernel has not sent yet, or what was lost on its way: it waits for that."""
        if unacknowledged_bytes(self.sock) and self._wheel.clock.now_s() < self._give_up_s:
            self._arm(TICK_S)
        else:
            self.reset()

    def _begin_lingering(self) -> None:
        if not self.write_closed:
            self._shut()
        if self.read_closed:
            self.close()
            return
        self.state = LINGERING
        self._arm(LINGER_S)
        self._reading = True
        self._loop.add_reader(self.fd, self._discard)

    def _discard(self) -> None:
        if self.state != LINGERING:
            return
        try:
            data = self._loop.receive(self.fd)
        except OSError:
            data = b""
        if data is None:
            return
        self._discarded += len(data)
        if not data or self._discarded >= LINGER_BYTES:
            self.close()

    def _arm(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = Timer(self, "close")
        self._wheel.arm(self._timer, delay_s)

    def on_timeout(self, timer: Timer) -> None:
        if self.state != FLUSHING:
            self.close()
        elif self._pending:  # nobody is to take the part that was sent for all
            self.reset()
        else:
            self._reset_once_sent()

    def close(self) -> None:
        """Close at once, whatever is pending. Safe to call twice."""
        if self.state == CLOSED:
            return
        done = self._done
        self.leave()
        if done is not None:
            done()

    def reset(self) -> None:
        """Close at once, and let the peer see that it was no proper end. A unix socket knows no reset: it ends."""
        if self.state == CLOSED:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:  # EINVAL: the peer has reset it already
            pass
        self.close()

    def abort(self, error: str) -> None:
        """Close at once and tell the owner, as if the peer had gone: the way out when the owner itself has failed."""
        if self.state != CLOSED:
            self._lost(error)

    def detach(self) -> None:
        """Leave the event loop and let go of everything but the descriptor, which a handoff has taken over."""
        self.state = CLOSED
        self.owner = None
        self.bypass = None
        self._feeder = None
        self._done = None
        self._reading = False
        self._writing = False
        self._loop.forget(self.fd)
        self._drop_pending()
        if self._timer is not None:
            self._timer.drop()

    def _drop_pending(self) -> None:
        if self._pending:
            self._buffered.add(-len(self._pending))
            self._pending = bytearray()

    def _lost(self, error: str) -> None:
        owner = self.owner
        self.close()
        if owner is not None:
            owner.on_lost(error)

    # -- handoff ------------------------------------------------------------------------------------------------

    def freeze(self) -> bool:
        """Leave the event loop with everything kept: nothing is read, sent or told until `thaw`. False: it can't move.

        The owner writes nothing meanwhile. Whatever is not OPEN ends by itself.
        """
        if self.state != OPEN or not self._loop.is_movable(self.fd):
            return False
        self._started = False
        self._update_reading()
        self._stop_writing()
        return True

    def thaw(self) -> None:
        """Go on: what came meanwhile is read, what waits is sent."""
        self.start()

    def leave(self) -> None:
        """Close our copy of the descriptor: the connection lives on in another process, which hears nothing of it."""
        self.detach()
        self.sock.close()

    def dump(self) -> ConnectionState:
        """Everything but the descriptor, as msgpack values. In state OPEN only: other states end by themselves.

        Causes of a disabled reader are the owner's, and come back with the owner.
        """
        assert self.state == OPEN, "only an open connection can move"
        return {
            "version": DUMP_VERSION,
            "rx": self.rx_bytes,
            "tx": self.tx_bytes,
            "read_closed": self.read_closed,
            "write_closed": self.write_closed,
            "shut_after_flush": self._shut_after_flush,
            "pressed": self.pressed,
            "pending": bytes(self._pending),
        }

    @classmethod
    def load(
        cls,
        sock: socket.socket,
        state: ConnectionState,
        owner: ConnectionOwner,
        loop: Loop,
        wheel: TimerWheel,
        buffered: Gauge,
    ) -> Connection:
        """A connection as `dump` described it and `saved_state.read_state` found it good; reading enabled, not started.

        `pressed` tells the owner whether the other side must stay disabled; `on_pressure(False)` will come.
        """
        connection = cls(sock, owner, loop, wheel, buffered)
        connection.rx_bytes = state["rx"]
        connection.tx_bytes = state["tx"]
        connection.read_closed = state["read_closed"]
        connection.write_closed = state["write_closed"]
        connection.pressed = state["pressed"]
        connection._shut_after_flush = state["shut_after_flush"]
        connection._pending += state["pending"]
        buffered.add(len(connection._pending))
        return connection
