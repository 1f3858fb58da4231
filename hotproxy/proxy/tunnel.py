"""An upgraded connection: raw bytes both ways after a 101, each direction ends on its own.

No response timeout holds here, only the stream's idle timeout. Pressure and every abnormal end are the router's, as
before the switch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hotproxy.http.codec import Event, ResponseHead
from hotproxy.upstream.upstream_connection import UpstreamConnection

if TYPE_CHECKING:
    from hotproxy.proxy.connection_manager import ConnectionManager
    from hotproxy.proxy.router import Router
    from hotproxy.proxy.stream import Stream


class Tunnel:
    """Takes the router's place as the user of the upstream connection."""

    __slots__ = ("_manager", "_router", "_stream", "_upstream")

    def __init__(self, stream: Stream, router: Router, upstream: UpstreamConnection) -> None:
        self._stream = stream
        self._manager = cast("ConnectionManager", stream.downstream)  # only HTTP/1 knows a 101
        self._router = router
        self._upstream = upstream
        upstream.user = self

    def begin(self, head: ResponseHead) -> None:
        """Pass the 101 on, and what either side has sent behind it already."""
        stream, upstream, manager = self._stream, self._upstream, self._manager
        upstream.raw = True
        manager.arm_response_timer(0.0)  # `timeout` ends here
        stream.encode_upgrade(head)
        early = upstream.codec.take_buffered()
        if early:
            stream.encode_raw(early)
        early = manager.codec.take_buffered()
        if early:
            self.decode_raw(early)
        manager.update_crowded()  # a client that did not wait for the 101 may have sent more than we let wait
        upstream.flush()
        if manager.connection.read_closed:
            upstream.connection.shutdown_write()
        manager.on_upstream_turn_end()

    # -- from the client

    def decode_raw(self, data: bytes) -> None:
        self._stream.info.rx_bytes += len(data)
        self._upstream.send_raw(data)

    def on_downstream_eof(self) -> None:
        self._upstream.connection.shutdown_write()
        self._end_if_over()

    # -- from the endpoint

    def on_upstream_raw(self, data: bytes) -> None:
        self._stream.encode_raw(data)

    def on_upstream_turn_end(self) -> None:
        self._manager.on_upstream_turn_end()

    def on_upstream_eof(self) -> None:
        self._manager.connection.shutdown_write()
        self._manager.touch()
        self._end_if_over()

    def on_upstream_event(self, event: Event) -> None:
        raise AssertionError("a codec has looked into a tunnel")

    def on_upstream_lost(self, error: str) -> None:
        self._router.on_upstream_lost(error)

    def on_upstream_pressure(self, high: bool) -> None:
        self._router.on_upstream_pressure(high)

    def on_internal_error(self) -> None:
        self._router.on_internal_error()

    def _end_if_over(self) -> None:
        if self._upstream.connection.read_closed and self._manager.connection.read_closed:
            self._router.release_tunnel()
            self._stream.on_tunnel_end()
