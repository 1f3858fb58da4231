"""The client's side of one stream on an HTTP/2 connection.

    free --begin()--> busy --response complete--> (flushing: its window is shut) --> free
                        \\--- reset, aborted --------------------------------------/

A lane is used again for the next stream of its connection, because its timers would stay in the wheel long after one:
there are as many as streams have ever been open at once. What a stream asks of it goes to the connection's codec under
the stream's number; pressure and timeouts are the stream's own, so that one that stalls stalls nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from hotproxy.clock import Timer
from hotproxy.http.codec import ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.http.http2_frames import CANCEL, INTERNAL_ERROR
from hotproxy.net.connection import FLUSH_S
from hotproxy.proxy.downstream import Downstream
from hotproxy.proxy.stream import Stream

if TYPE_CHECKING:
    from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager

# Data that waits for one stream's window. One read of an endpoint (64 KiB) may come on top; with 100 streams that is
# what a client that opens no window can make us hold.
HIGH_WATERMARK_BYTES: Final = 32 * 1024
LOW_WATERMARK_BYTES: Final = 8 * 1024


class Http2Lane(Downstream):
    """See `Downstream`. `stream_id` is 0 while it is free; `stream` is None then, and while it flushes."""

    __slots__ = ("_given", "_idle_timer", "_manager", "_response_timer", "_sent", "stream", "stream_id", "trailers")

    def __init__(self, manager: Http2ConnectionManager) -> None:
        super().__init__()
        self.peer = manager.peer
        self.local = manager.local
        self.direct_peer = manager.direct_peer
        self.tlvs = manager.tlvs
        self.client_host = manager.client_host
        self.tls = manager.tls
        self.protocol = "HTTP/2"
        self.stream_id = 0
        self.stream: Stream | None = None
        self.trailers: Headers | None = None  # of the request, until its End
        self._manager = manager
        self._given = 0  # bytes of the response's body so far
        self._sent = 0  # `taken_bytes` when flushing began
        self._idle_timer = Timer(self, "stream_idle")
        self._response_timer = Timer(self, "response")

    def begin(self, stream_id: int, stream: Stream) -> None:
        self.stream_id = stream_id
        self.stream = stream
        self.trailers = None
        self.pressed = False
        self._given = 0

    def end(self) -> None:
        """Free again."""
        self.stream_id = 0
        self.stream = None
        self.trailers = None
        self.disarm_stream_timers()

    # -- sending

    def send_interim(self, head: ResponseHead) -> None:
        self._manager.codec.encode_interim(self.stream_id, head)

    def send_head(self, head: ResponseHead, close: bool) -> None:
        """`close` says nothing here: the codec resets what is left of a request when its response is complete."""
        self._manager.on_response()
        self._manager.codec.encode_head(self.stream_id, head)

    def send_data(self, data: bytes) -> bool:
        codec = self._manager.codec
        if not codec.encode_data(self.stream_id, data):
            return False
        self._given += len(data)
        if not self.pressed and codec.waiting_bytes(self.stream_id) > HIGH_WATERMARK_BYTES:
            self._press(True)
        return True

    def send_end(self, trailers: Headers | None) -> None:
        self._manager.codec.encode_end(self.stream_id, trailers)

    def send_raw(self, data: bytes) -> None:
        _no_tunnel()

    # -- pressure

    def pause(self) -> None:
        self._manager.codec.hold(self.stream_id)

    def resume(self) -> None:
        self._manager.codec.release(self.stream_id)
        self._manager.end_turn()

    @property
    def taken_bytes(self) -> int:
        """While the socket takes nothing, no stream's data moves: then what the connection sends is progress."""
        connection = self._manager.connection
        taken = self._given - self._manager.codec.waiting_bytes(self.stream_id)
        return taken + connection.tx_bytes if connection.pressed else taken

    @property
    def waiting_bytes(self) -> int:
        return self._manager.codec.waiting_bytes(self.stream_id)

    def on_relieved(self) -> None:
        """Some of what waited has left."""
        if self.stream is None:
            if not self._manager.codec.is_open(self.stream_id):
                self._manager.free(self)
        else:
            self.touch()
            if self.pressed and self.waiting_bytes < LOW_WATERMARK_BYTES:
                self._press(False)

    def _press(self, high: bool) -> None:
        self.pressed = high
        stream = self.stream
        if stream is not None and stream.router is not None:
            stream.router.on_downstream_pressure(high)

    # -- time

    def touch(self) -> None:
        stream = self.stream
        if stream is not None:
            self._manager.runtime.wheel.arm(self._idle_timer, stream.idle_timeout_s)

    def arm_response_timer(self, timeout_s: float) -> None:
        self._manager.runtime.wheel.arm(self._response_timer, timeout_s)

    def disarm_stream_timers(self) -> None:
        self._idle_timer.disarm()
        self._response_timer.disarm()

    def on_timeout(self, timer: Timer) -> None:
        stream = self.stream
        if stream is None:
            self._on_flush_timeout()
        elif timer is self._idle_timer:
            stream.on_idle_timeout()
        elif stream.router is not None:
            stream.router.on_response_timeout()
        self._manager.end_turn()

    def _on_flush_timeout(self) -> None:
        """The response is complete, and its client takes nothing of it."""
        if self.taken_bytes != self._sent:
            self._flush()
            return
        self._manager.stats.tx_flush_timeout.inc()
        self._manager.codec.reset(self.stream_id, CANCEL)
        self._manager.free(self)

    def _flush(self) -> None:
        self._sent = self.taken_bytes
        self._manager.runtime.wheel.arm(self._idle_timer, FLUSH_S)

    # -- turns and ends

    def on_upstream_turn_end(self) -> None:
        self.touch()
        self._manager.end_turn()

    def on_stream_end(self, request_read: bool) -> None:
        self.stream = None
        self.pressed = False
        if self._manager.codec.is_open(self.stream_id):
            self._flush()
        else:
            self._manager.free(self)
        self._manager.end_turn()

    def on_stream_aborted(self, ends_by_close: bool) -> None:
        if self._manager.codec.is_open(self.stream_id):
            self._manager.codec.reset(self.stream_id, INTERNAL_ERROR)
        self._manager.free(self)
        self._manager.end_turn()

    # -- moving: see http2_moving

    def suspend(self) -> None:
        self._idle_timer.suspend()
        self._response_timer.suspend()

    def go_on(self) -> None:
        """After `suspend`, or of a lane that was loaded: with the deadlines of before."""
        wheel = self._manager.runtime.wheel
        wheel.resume(self._idle_timer, self)
        wheel.resume(self._response_timer, self)

    def drop(self) -> None:
        """The connection is gone."""
        self.stream = None
        self._idle_timer.drop()
        self._response_timer.drop()


def _no_tunnel() -> NoReturn:
    raise AssertionError("no request over HTTP/2 asks for another protocol")
