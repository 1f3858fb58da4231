"""A connection without a socket: what was written is a list, what arrives is pushed by the test."""

from __future__ import annotations

from collections.abc import Callable

from hotproxy.net.connection import CLOSED, FLUSHING, OPEN, ConnectionOwner


class FakeGauge:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> None:
        self.value += amount


class FakeConnection:
    """Has the methods and attributes of `hotproxy.net.connection.Connection` that owners use."""

    def __init__(self, owner: ConnectionOwner | None = None) -> None:
        self.owner = owner
        self.state = OPEN
        self.writes: list[bytes] = []
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.read_closed = False
        self.write_closed = False
        self.started = False
        self.read_disabled = 0
        self.pending_bytes = 0  # set by the test to play a slow reader
        self.done: Callable[[], None] | None = None

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    # -- what an owner calls

    def start(self) -> None:
        self.started = True

    def read_disable(self) -> None:
        self.read_disabled += 1

    def read_enable(self) -> None:
        self.read_disabled -= 1
        assert self.read_disabled >= 0, "read_enable without read_disable"

    def write(self, data: bytes) -> None:
        if self.state == OPEN and not self.write_closed and data:
            self.writes.append(data)
            self.tx_bytes += len(data)

    def shutdown_write(self) -> None:
        if self.state == OPEN:
            self.write_closed = True

    def finish(self, done: Callable[[], None] | None = None) -> None:
        """Flushing ends when the test calls `close()`."""
        if self.state == OPEN:
            self.state = FLUSHING
            self.owner = None
            self.done = done
        elif done is not None:
            done()

    def close(self) -> None:
        self.state = CLOSED
        self.owner = None
        done, self.done = self.done, None
        if done is not None:
            done()

    # -- what a test does

    def push(self, data: bytes) -> None:
        """The peer has sent this."""
        assert self.read_disabled == 0, "data was pushed while reading is disabled"
        assert self.owner is not None, "data was pushed to a connection that is closed"
        self.rx_bytes += len(data)
        self.owner.on_data(data)

    def push_eof(self) -> None:
        self.read_closed = True
        assert self.owner is not None
        self.owner.on_eof()

    def lose(self, error: str = "Connection reset by peer") -> None:
        owner, self.owner = self.owner, None
        self.state = CLOSED
        assert owner is not None
        owner.on_lost(error)

    def press(self, high: bool) -> None:
        assert self.owner is not None
        self.owner.on_pressure(high)
