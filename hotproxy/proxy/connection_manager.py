r"""One HTTP/1 connection of a client: its codec, one stream at a time, and the pauses between them.

    FIRST --byte--> HEAD --head--> BUSY --exchange over--> IDLE --byte--> HEAD ...
      |              |              | \--101--> a tunnel, BUSY until it ends
      \-- timeout ---+- 408         \--- answer without keep-alive, violation, lost ---> over

      FIRST  connected, nothing sent yet: as long as a head may take    IDLE  between requests: keepalive timeout
      HEAD   from its first byte: the request head timeout              BUSY  a stream is under way: its own timeouts
      FLUSH  as IDLE, while the client is slow to take the last answer

Pipelined requests wait in the codec as raw bytes, at most MAX_WAITING_BYTES; then the client is not read. What streams
write is collected and sent at the end of each turn, in one piece, so nothing is torn down inside a turn by a write.

**Draining loses nothing**: an idle connection stays open, because its client may be sending the next request at this
very moment, and closing then would reset it (the race of RFC 9112 section 9.3.1). The next answer says
`Connection: close`; a connection whose client never asks again is closed at the drain deadline.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from hotproxy.clock import Timer
from hotproxy.errors import REQUEST_HEADER_TIMEOUT, Reason, downstream_protocol_error
from hotproxy.http.codec import END, Data, End, Event, RequestHead, ResponseHead, Trailers, Violation
from hotproxy.http.headers import Headers
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.http.syntax import HTTP2_PREFACE
from hotproxy.net.connection import FLUSH_S, OPEN, Connection
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy import forwarding, http_moving
from hotproxy.proxy.downstream import Downstream
from hotproxy.proxy.filter_chain import DownstreamOwner, address_text
from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream import Stream
from hotproxy.proxy.tunnel import Tunnel

# Pipelined requests that are not looked at yet; as much as one read brings. The client may keep more in its socket.
MAX_WAITING_BYTES: Final = 64 * 1024
FIRST: Final = 0
HEAD: Final = 1
BUSY: Final = 2
IDLE: Final = 3
FLUSH: Final = 4


class ConnectionManager(Downstream):
    """The terminal of an HTTP listener's filter chain; a `DownstreamConnection` and the owner of its `Connection`."""

    __slots__ = (
        "_crowded", "_draining", "_frozen", "_idle_timer", "_loaded", "_next", "_out", "_over", "_phase",
        "_phase_timer", "_postponed", "_pumping", "_response_timer", "_runtime", "_sent", "_trailers", "_tx_counted",
        "codec", "connection", "listener", "owner", "stream",
    )  # fmt: skip

    kind: Final = "http1"

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
        announced: Announced | None = None,
        secure: TlsLoop | None = None,
    ) -> None:
        super().__init__()
        loop = runtime.loop if secure is None else secure
        self.connection = Connection(sock, self, loop, runtime.wheel, runtime.buffered)
        self.tls = secure.info if secure is not None else None
        self.codec = Http1ServerCodec()
        self.listener = listener
        self.owner = owner
        self.peer = peer
        self.local = address_text(sock.getsockname())
        if announced is not None and announced.known:
            self.peer, self.local = announced.remote, announced.local
            self.direct_peer, self.tlvs = peer or "@", announced.tlvs  # "@": a unix socket without a name
        self.client_host = forwarding.client_host(self.peer)
        self.stream: Stream | None = None
        self._runtime = runtime
        self._out: list[bytes] = []
        self._trailers: Headers | None = None  # of the request, until its End
        self._phase = FIRST
        # Reused for every stream: a timer of its own for each would stay in the wheel long after the stream.
        self._phase_timer = Timer(self, "phase")
        self._idle_timer = Timer(self, "stream_idle")
        self._response_timer = Timer(self, "response")
        self._crowded = False  # enough is waiting: not read
        self._draining = False
        self._pumping = False  # inside `_pump`: whoever ends a stream leaves the next one to it
        self._next = False  # a stream has ended meanwhile
        self._over = False
        self._loaded = False  # comes from a dump, and has not been started
        self._frozen = False  # on its way to another process
        self._postponed: Reason | None = None  # why it was to be closed meanwhile
        self._sent = 0  # tx_bytes when phase FLUSH was entered
        self._tx_counted = 0
        listener.stats.downstream_cx_active.add(1)

    # -- the listener's side

    def start(self) -> None:
        if self._loaded:
            http_moving.start(self)
            return
        self.listener.stats.downstream_cx_total.inc()
        self._enter(FIRST, self.listener.request_headers_timeout_s)
        self.connection.start()

    def drain(self) -> None:
        """The next answer says `Connection: close`; no idle connection is closed, see the top of this file."""
        self._draining = True

    def close(self, reason: Reason) -> None:
        """At once: the drain deadline."""
        if self._over:
            return
        if self._frozen:
            self._postponed = reason
        elif self.stream is not None:
            self.stream.abort(reason)
        else:
            self.listener.stats.by_name(reason.counter).inc()
            self._finish()

    # -- the connection's events

    def receive(self, data: bytes) -> None:
        self.connection.rx_bytes += len(data)
        self.on_data(data)

    def on_data(self, data: bytes) -> None:
        self.listener.stats.downstream_cx_rx_bytes_total.add(len(data))
        tunnel = self._tunnel()
        if tunnel is not None:
            tunnel.decode_raw(data)
            self._flush_upstream()
            self.touch()
        else:
            self._pump(data)

    def on_eof(self) -> None:
        """The client sends no more. What it has asked completely is still answered."""
        stream = self.stream
        tunnel = self._tunnel()
        if tunnel is not None:
            self.touch()
            tunnel.on_downstream_eof()
        elif stream is None:
            self._finish()
        elif not stream.request_read:
            self.stream = None
            stream.on_downstream_lost()
            self._finish()

    def on_lost(self, error: str) -> None:
        stream = self.stream
        self.stream = None
        if stream is not None:
            stream.on_downstream_lost()
        self._gone()

    def on_pressure(self, high: bool) -> None:
        self.pressed = high
        stream = self.stream
        if stream is not None:
            if stream.router is not None:
                stream.router.on_downstream_pressure(high)
            if not high:
                self.touch()
        elif not high:
            self._pump(b"")

    def on_timeout(self, timer: Timer) -> None:
        stream = self.stream
        if timer is self._idle_timer:
            if stream is not None:
                stream.on_idle_timeout()
        elif timer is self._response_timer:
            if stream is not None and stream.router is not None:
                stream.router.on_response_timeout()
        else:
            self._on_phase_timeout()

    def _on_phase_timeout(self) -> None:
        phase = self._phase
        if phase == HEAD:
            stream = self.stream = self._begin()
            stream.local_reply(REQUEST_HEADER_TIMEOUT)
        elif phase == FLUSH and (self.connection.tx_bytes != self._sent or not self.connection.pending_bytes):
            self._rest()
        else:
            self.listener.stats.downstream_cx_idle_timeout.inc()
            self._finish()

    # -- requests

    def _pump(self, data: bytes) -> None:
        """Handle what has been read, and every whole request behind it that can be handled now."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while True:
                self._next = False
                self._handle(self.codec.receive(data))
                # Whoever pipelines without reading the answers waits until it has read some.
                if self._over or not self._next or self.connection.pressed:
                    break
                data = b""
        except Exception:
            self._pumping = False
            self._on_internal_error()
            raise
        self._pumping = False
        if self._over:
            return
        self._flush_upstream()
        self.flush()
        self._settle()

    def _handle(self, events: list[Event]) -> None:
        if events and events[-1] is END and self.stream is not None:
            self.stream.request_complete()
        for event in events:
            if isinstance(event, RequestHead):
                stream = self.stream = self._begin()
                self._phase_timer.disarm()
                self._phase = BUSY
                if events[-1] is END:
                    stream.request_complete()
                stream.decode_head(event)
            elif isinstance(event, Violation):
                self._refuse(event)
            else:
                self._forward(event)

    def _forward(self, event: Event) -> None:
        stream = self.stream
        if stream is None:  # the rest of a request that has been answered already
            return
        if isinstance(event, Data):
            stream.decode_data(event.data)
        elif isinstance(event, Trailers):
            self._trailers = event.headers
        elif isinstance(event, End):
            trailers, self._trailers = self._trailers, None
            stream.decode_end(trailers)

    def _begin(self) -> Stream:
        runtime = self._runtime
        # The newest config of this listener; a stream keeps what it began with.
        listener = runtime.snapshot.listeners.get(self.listener.name)
        return Stream.begin(self, listener if isinstance(listener, HttpListener) else self.listener, runtime)

    def _refuse(self, violation: Violation) -> None:
        """Nothing after a violation can be trusted: answer, and close."""
        if self._over:
            return
        if violation.details == HTTP2_PREFACE and self._may_become_http2():
            self._become_http2(self.codec.take_buffered())
            return
        stream = self.stream = self.stream or self._begin()
        stream.local_reply(downstream_protocol_error(violation.details, violation.status))

    def _may_become_http2(self) -> bool:
        """With prior knowledge (RFC 9113 section 3.3): nothing was said before, and TLS would have agreed upon it."""
        return self.listener.http2 and self.tls is None and self.codec.buffered_bytes == self.connection.rx_bytes

    def _become_http2(self, data: bytes) -> None:
        """The same connection goes on as another object; its totals are counted already."""
        self._over = True
        for timer in (self._phase_timer, self._idle_timer, self._response_timer):
            timer.drop()
        self.listener.stats.downstream_cx_active.add(-1)
        other = Http2ConnectionManager.of(self, self.connection, self.listener, self.owner, self._runtime)
        self.owner.on_connection_becomes(self, other)
        other.begin(data)
        if self._draining:
            other.drain()

    def _on_internal_error(self) -> None:
        if self.stream is not None:
            self.stream.on_internal_error()
        else:
            self._finish()

    def _tunnel(self) -> Tunnel | None:
        stream = self.stream
        return stream.router.tunnel if stream is not None and stream.router is not None else None

    def _flush_upstream(self) -> None:
        if self.stream is not None and self.stream.router is not None:
            self.stream.router.flush()

    # -- what a stream asks of its connection

    def send_interim(self, head: ResponseHead) -> None:
        interim = self.codec.encode_head(head, False)
        if interim:
            self._out.append(interim)

    def send_head(self, head: ResponseHead, close: bool) -> None:
        """Requests that wait in the codec already are answered before we say `close`: they would be lost otherwise."""
        if not self.codec.buffered_bytes:
            if self._draining or self._runtime.draining:
                self.listener.stats.downstream_cx_drain_close.inc()
                close = True
            elif self.connection.read_closed:
                close = True  # nothing will follow
        self._out.append(self.codec.encode_head(head, close))

    def send_data(self, data: bytes) -> bool:
        encoded = self.codec.encode_data(data)
        if not encoded:
            return False
        self._out.append(encoded)
        return True

    def send_end(self, trailers: Headers | None) -> None:
        end = self.codec.encode_end(trailers)
        if end:
            self._out.append(end)

    def send_raw(self, data: bytes) -> None:
        self._out.append(data)

    def pause(self) -> None:
        self.connection.read_disable()

    def resume(self) -> None:
        self.connection.read_enable()

    @property
    def taken_bytes(self) -> int:
        return self.connection.tx_bytes

    @property
    def waiting_bytes(self) -> int:
        return self.connection.pending_bytes

    def flush(self) -> None:
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.connection.write(data)
            self._count_sent()

    def touch(self) -> None:
        stream = self.stream
        if stream is not None and not self._over:
            self._runtime.wheel.arm(self._idle_timer, stream.idle_timeout_s)

    def on_upstream_turn_end(self) -> None:
        self.flush()
        self.touch()

    def arm_response_timer(self, timeout_s: float) -> None:
        self._runtime.wheel.arm(self._response_timer, timeout_s)

    def disarm_stream_timers(self) -> None:
        self._idle_timer.disarm()
        self._response_timer.disarm()

    def on_stream_end(self, request_read: bool) -> None:
        self.stream = None
        self._trailers = None
        self.flush()
        if not request_read or not self.codec.keep_alive or self.connection.state != OPEN:
            self._finish()
            return
        self.codec.next_message()
        self._next = True
        if not self._pumping and not self.connection.pressed:
            self._pump(b"")
        elif not self._pumping:
            self._settle()

    def on_stream_aborted(self, ends_by_close: bool) -> None:
        """A client for which the end of the connection ends the body gets a reset."""
        self.stream = None
        if not ends_by_close:
            self._finish()
            return
        self.connection.reset()
        self._gone()

    # -- phases

    def _settle(self) -> None:
        """The end of a turn: which timeout holds from here, and whether the client may send more."""
        connection, codec = self.connection, self.codec
        if self.stream is not None:
            self.touch()
        elif connection.read_closed and not connection.pressed:
            self._finish()
            return
        elif connection.pressed or codec.between_messages:
            if self._phase != FIRST:
                self._rest()
        elif self._phase != HEAD:
            self._enter(HEAD, self.listener.request_headers_timeout_s)
        self.update_crowded()

    def update_crowded(self) -> None:
        """Without a stream, what is read would begin the next one: not while the client does not take its answers."""
        connection = self.connection
        crowded = connection.pressed if self.stream is None else self.codec.buffered_bytes >= MAX_WAITING_BYTES
        if crowded != self._crowded:
            self._crowded = crowded
            switch = connection.read_disable if crowded else connection.read_enable
            switch()

    def _rest(self) -> None:
        """Between requests."""
        if self.connection.pending_bytes:
            self._sent = self.connection.tx_bytes
            self._enter(FLUSH, FLUSH_S)
        else:
            self._enter(IDLE, self.listener.keepalive_timeout_s)

    def _enter(self, phase: int, timeout_s: float) -> None:
        self._phase = phase
        self._runtime.wheel.arm(self._phase_timer, timeout_s)

    # -- ending

    def _finish(self) -> None:
        """Close gracefully: what is written still arrives (the connection flushes and lingers by itself)."""
        if self._over:
            return
        self.flush()
        connection = self.connection
        self.listener.stats.downstream_cx_tx_bytes_total.add(connection.pending_bytes)
        connection.finish()
        self._gone()

    def _gone(self) -> None:
        assert self.stream is None, "a connection has ended with a stream on it"
        if self._over:
            return
        self._over = True
        self._out.clear()
        for timer in (self._phase_timer, self._idle_timer, self._response_timer):
            timer.drop()
        self._count_sent()
        stats = self.listener.stats
        stats.downstream_cx_active.add(-1)
        stats.downstream_cx_destroy.inc()
        pools = self._runtime.snapshot.pools
        if pools.has_clients:
            pools.leave(self.peer, self.local, self.tlvs)
        self.owner.on_connection_closed(self)

    def _count_sent(self) -> None:
        sent = self.connection.tx_bytes
        if sent != self._tx_counted:
            self.listener.stats.downstream_cx_tx_bytes_total.add(sent - self._tx_counted)
            self._tx_counted = sent

    # -- handoff: see http_moving

    def freeze(self) -> bool:
        return http_moving.freeze(self)

    def socks(self) -> list[socket.socket]:
        return http_moving.socks(self)

    def dump(self) -> dict[str, object]:
        return http_moving.dump(self)

    def thaw(self) -> None:
        http_moving.thaw(self)

    def release(self) -> None:
        http_moving.release(self)

    def discard(self) -> None:
        http_moving.release(self)

    @classmethod
    def load(
        cls,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
    ) -> ConnectionManager:
        return http_moving.load(cls, state, socks, listener, owner, runtime)
