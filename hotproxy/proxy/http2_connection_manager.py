r"""One HTTP/2 connection of a client: its codec, a lane for each stream, and what happens where there is none.

    FIRST --preface and SETTINGS--> IDLE <--no stream-- BUSY --a field section begins--> HEAD (as long as one may take)
                                        \---stream----> BUSY

      FIRST, HEAD   the request head timeout: GOAWAY, closed       IDLE   the keepalive timeout: GOAWAY, closed
      BUSY          the streams' own timeouts

What the streams send is collected by the codec and written at the end of a turn, in one piece. A client that does not
read is told no more than HIGH_WATERMARK_BYTES of data, and what the protocol makes us say besides is bounded: whoever
lets MAX_UNREAD_BYTES of it wait is flooding us.

**Draining loses nothing**: GOAWAY in two steps (RFC 9113 section 6.8), so that requests which are under way are served;
then the connection ends with its last stream.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hotproxy.clock import Timer
from hotproxy.errors import DOWNSTREAM_RESET, REQUEST_HEADER_TIMEOUT, Reason, downstream_protocol_error
from hotproxy.http.codec import Data, End, RequestHead, Reset, Trailers, Violation
from hotproxy.http.http2_frames import NO_ERROR
from hotproxy.http.http2_server import Http2ServerCodec
from hotproxy.net.connection import Connection
from hotproxy.net.connection_state import HIGH_WATERMARK_BYTES
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy import forwarding, http2_moving
from hotproxy.proxy.downstream import Downstream
from hotproxy.proxy.filter_chain import DownstreamOwner, address_text
from hotproxy.proxy.http2_lane import Http2Lane
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream import Stream

# 100 heads are all that a well-behaved client can leave unread beside data; origins may send 8 KiB each (nginx's
# proxy_buffer_size, Apache's LimitRequestFieldSize).
MAX_UNREAD_BYTES: Final = HIGH_WATERMARK_BYTES + 1024 * 1024

FIRST: Final = 0
IDLE: Final = 1
BUSY: Final = 2
HEAD: Final = 3

_FLOODS: Final = {
    "http2.too_many_glitches": "inbound_glitches_flood",
    "http2.too_many_resets": "inbound_resets_flood",
    "http2.header_list_too_large": "header_overflow",
    "http2.header_block_too_large": "header_overflow",
}


class Http2ConnectionManager:
    """A `DownstreamConnection`, and the owner of its `Connection`. Made where ALPN or the first bytes have said so."""

    __slots__ = (
        "_announced_drain", "_buffered", "_draining", "_flushing", "_free", "_frozen", "_loaded", "_over", "_phase",
        "_phase_timer", "_postponed", "_pumping", "_touched", "_tx_counted", "client_host", "codec", "connection",
        "direct_peer", "lanes", "listener", "local", "owner", "peer", "runtime", "stats", "tls", "tlvs",
    )  # fmt: skip

    kind: Final = "http2"

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
        announced: Announced | None = None,
        secure: TlsLoop | None = None,
        connection: Connection | None = None,
    ) -> None:
        """`connection`: one that is under way already, whose owner we become."""
        if connection is None:
            loop = runtime.loop if secure is None else secure
            connection = Connection(sock, self, loop, runtime.wheel, runtime.buffered)
        connection.owner = self
        self.connection = connection
        self.tls = secure.info if secure is not None else None
        self.codec = Http2ServerCodec()
        self.listener = listener
        self.stats = listener.stats.http2
        self.owner = owner
        self.runtime = runtime
        self.peer = peer
        self.local = address_text(sock.getsockname())
        self.direct_peer = ""
        self.tlvs = b""
        if announced is not None and announced.known:
            self.peer, self.local = announced.remote, announced.local
            self.direct_peer, self.tlvs = peer or "@", announced.tlvs
        self.client_host = forwarding.client_host(self.peer)
        self.lanes: dict[int, Http2Lane] = {}
        self._free: list[Http2Lane] = []
        self._touched: list[Http2Lane] = []  # of this turn: something has come for them
        self._phase = FIRST
        self._phase_timer = Timer(self, "phase")
        self._draining = False
        self._announced_drain = False  # counted, and the client was told
        self._pumping = False  # inside a turn, whose end flushes
        self._flushing = False
        self._over = False
        self._loaded = False  # comes from a dump, and has not been started
        self._frozen = False  # on its way to another process
        self._postponed: Reason | None = None  # why it was to be closed meanwhile
        self._buffered = 0  # what we have counted of what waits in the codec
        self._tx_counted = 0
        listener.stats.downstream_cx_active.add(1)
        listener.stats.downstream_cx_http2_active.add(1)

    @classmethod
    def of(
        cls,
        client: Downstream,
        connection: Connection,
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
    ) -> Http2ConnectionManager:
        """Of one that began as HTTP/1, whose client is this: `begin` it."""
        made = cls(connection.sock, client.peer, listener, owner, runtime, connection=connection)
        made.local, made.direct_peer, made.tlvs = client.local, client.direct_peer, client.tlvs
        made._tx_counted = connection.tx_bytes
        return made

    # -- the listener's side

    def start(self) -> None:
        if self._loaded:
            http2_moving.start(self)
            return
        self.listener.stats.downstream_cx_total.inc()
        self.begin(b"")
        self.connection.start()

    def begin(self, data: bytes) -> None:
        """We speak first; but what has been read already was counted."""
        self.listener.stats.downstream_cx_http2_total.inc()
        self._enter(FIRST, self.listener.request_headers_timeout_s)
        self.codec.greet()
        self._pump(data)

    def drain(self) -> None:
        """See the top of this file."""
        self._draining = True
        if not self._frozen and not self._loaded and not self._over:
            self._say_goodbye()
            self.end_turn()

    def close(self, reason: Reason) -> None:
        """At once: the drain deadline."""
        if self._over:
            return
        if self._frozen:
            self._postponed = reason
            return
        self.listener.stats.by_name(reason.counter).inc()
        self._end(reason)

    # -- the connection's events

    def receive(self, data: bytes) -> None:
        self.connection.rx_bytes += len(data)
        self.on_data(data)

    def on_data(self, data: bytes) -> None:
        self.listener.stats.downstream_cx_rx_bytes_total.add(len(data))
        self._pump(data)

    def _pump(self, data: bytes) -> None:
        """A turn: what comes of this data, for all streams."""
        self._pumping = True
        try:
            for stream_id, event in self.codec.receive(data, self.runtime.clock.now_s()):
                self._handle(stream_id, event)
        except Exception:
            self._on_internal_error()
            raise
        self._pumping = False
        touched = self._touched
        if touched:
            self._touched = []
            for lane in touched:
                stream = lane.stream
                if stream is not None:
                    if stream.router is not None:
                        stream.router.flush()
                    lane.touch()
        self.end_turn()

    def on_eof(self) -> None:
        """The client sends no more. What it has asked completely is still answered."""
        self._pumping = True
        for lane in list(self.lanes.values()):
            stream = lane.stream
            if stream is not None and not stream.request_read:
                stream.on_downstream_lost()
                self.codec.reset(lane.stream_id, NO_ERROR)
                self.free(lane)
        self._pumping = False
        self.end_turn()

    def on_lost(self, error: str) -> None:
        self._pumping = True
        for lane in list(self.lanes.values()):
            stream, lane.stream = lane.stream, None
            if stream is not None:
                stream.on_downstream_lost()
        self._gone()

    def on_pressure(self, high: bool) -> None:
        self.codec.choked = high
        if not high:
            self.end_turn()

    def on_timeout(self, timer: Timer) -> None:
        stats = self.listener.stats
        if self._phase == HEAD:
            stats.downstream_rq_header_timeout.inc()
        else:
            stats.downstream_cx_idle_timeout.inc()
        self._end(REQUEST_HEADER_TIMEOUT)

    # -- requests

    def _handle(self, stream_id: int, event: RequestHead | Data | Trailers | End | Violation | Reset) -> None:
        if isinstance(event, RequestHead):
            lane = self._begin(stream_id)
            stream = lane.stream
            assert stream is not None
            if self.codec.has_request_ended(stream_id):
                stream.request_complete()
            self._touch(lane)
            stream.decode_head(event)
            return
        if stream_id == 0:
            assert isinstance(event, Violation)
            self._refuse(event)
            return
        known = self.lanes.get(stream_id)
        if known is None:
            if isinstance(event, Violation):
                known = self._begin(stream_id)
            else:  # the rest of a request that has been answered already
                return
        self._forward(known, event)

    def _forward(self, lane: Http2Lane, event: Data | Trailers | End | Violation | Reset) -> None:
        stream = lane.stream
        if isinstance(event, Reset):
            self._reset(lane, event)
        elif stream is None:
            return
        elif isinstance(event, Data):
            self._touch(lane)
            stream.decode_data(event.data)
        elif isinstance(event, Trailers):
            lane.trailers = event.headers
        elif isinstance(event, End):
            if not stream.request_read:
                stream.request_complete()
            self._touch(lane)
            stream.decode_end(lane.trailers)
        else:
            stream.local_reply(downstream_protocol_error(event.details, event.status))

    def _touch(self, lane: Http2Lane) -> None:
        touched = self._touched
        if not touched or touched[-1] is not lane:
            touched.append(lane)

    def _begin(self, stream_id: int) -> Http2Lane:
        # The newest config of this listener; a stream keeps what it began with.
        listener = self.runtime.snapshot.listeners.get(self.listener.name)
        lane = self._free.pop() if self._free else Http2Lane(self)
        chosen = listener if isinstance(listener, HttpListener) else self.listener
        lane.begin(stream_id, Stream.begin(lane, chosen, self.runtime))
        chosen.stats.downstream_rq_http2_total.inc()
        self.lanes[stream_id] = lane
        if self._phase != BUSY:
            self._phase = BUSY
            self._phase_timer.disarm()
        return lane

    def _reset(self, lane: Http2Lane, event: Reset) -> None:
        stream = lane.stream
        if stream is None:  # complete, and nobody wants to read it
            self.free(lane)
        elif event.details:
            stream.abort(downstream_protocol_error(event.details, 0))
            return
        else:
            stream.on_downstream_lost(DOWNSTREAM_RESET)
            self.free(lane)
        self.stats.rx_reset.inc()

    def _refuse(self, violation: Violation) -> None:
        """The connection is broken: what its streams still wait for is lost, and the codec has said why."""
        counter = _FLOODS.get(violation.details)
        if counter is not None:
            self.stats.by_name(counter).inc()
        reason = downstream_protocol_error(violation.details, violation.status)
        self.listener.stats.by_name(reason.counter).inc()
        self._abort_all(reason)
        self._finish()

    def _end(self, reason: Reason) -> None:
        """Of everything, in good order."""
        self._abort_all(reason)
        self._close(NO_ERROR)

    def _abort_all(self, reason: Reason) -> None:
        """Every stream that is under way, for a reason that was counted."""
        pumping, self._pumping = self._pumping, True
        for lane in list(self.lanes.values()):
            if lane.stream is not None:
                lane.stream.abort(replace(reason, counter=""))
        self._pumping = pumping

    def _on_internal_error(self) -> None:
        """A bug of ours, on its way to the log. Nobody knows how far it has come: the connection goes."""
        for lane in list(self.lanes.values()):
            if lane.stream is not None:
                lane.stream.on_internal_error()
        self._pumping = False
        self._close(NO_ERROR)

    # -- what lanes ask

    def free(self, lane: Http2Lane) -> None:
        """Its stream is over, for both sides."""
        if lane.stream_id:
            del self.lanes[lane.stream_id]
            lane.end()
            self._free.append(lane)

    def on_response(self) -> None:
        """A final head is about to be sent."""
        if self._draining or self.runtime.draining:
            self._say_goodbye()

    def end_turn(self) -> None:
        """Write what was collected, and see where the connection stands; unless a turn is going on."""
        if self._pumping or self._over or self._frozen or self._flushing:
            return
        self._flushing = True
        self.flush()
        self._flushing = False
        self._settle()

    def flush(self) -> None:
        """As much as the socket takes, and no more data than it takes."""
        connection, codec = self.connection, self.codec
        while True:
            data = codec.take_output(0 if connection.pressed else HIGH_WATERMARK_BYTES)
            if data:
                connection.write(data)
            relieved = codec.take_relieved()
            for stream_id in relieved:
                lane = self.lanes.get(stream_id)
                if lane is not None:
                    lane.on_relieved()
            if not data:
                break
        self._count_sent()
        waiting = codec.waiting_total
        if waiting != self._buffered:
            self.runtime.buffered.add(waiting - self._buffered)
            self._buffered = waiting

    # -- phases

    def _settle(self) -> None:
        """The end of a turn: is it over, and which timeout holds from here?"""
        codec, connection = self.codec, self.connection
        if connection.pending_bytes > MAX_UNREAD_BYTES:
            self.stats.outbound_control_flood.inc()
            self._abort_all(downstream_protocol_error("http2.outbound_control_flood"))
            self._finish()
        elif not self.lanes and (codec.is_over or connection.read_closed):
            self._finish()
        elif codec.in_head:
            if self._phase != HEAD:
                self._enter(HEAD, self.listener.request_headers_timeout_s)
        elif self.lanes:
            if self._phase != BUSY:
                self._phase = BUSY
                self._phase_timer.disarm()
        elif self._phase != IDLE and codec.is_greeted:
            self._enter(IDLE, self.listener.keepalive_timeout_s)

    def _enter(self, phase: int, timeout_s: float) -> None:
        self._phase = phase
        self.runtime.wheel.arm(self._phase_timer, timeout_s)

    # -- ending

    def _say_goodbye(self) -> None:
        if not self._announced_drain:
            self._announced_drain = True
            self.listener.stats.downstream_cx_drain_close.inc()
            self.stats.goaway_sent.inc()
            self.codec.go_away()

    def _close(self, code: int) -> None:
        """With a last word that says which requests were looked at."""
        if not self._over:
            self.codec.close(code)
            self._finish()

    def _finish(self) -> None:
        """Close gracefully: what is written still arrives (the connection flushes and lingers by itself)."""
        if self._over:
            return
        self._flushing = True
        self.flush()
        connection = self.connection
        self.listener.stats.downstream_cx_tx_bytes_total.add(connection.pending_bytes)
        connection.finish()
        self._gone()

    def _gone(self) -> None:
        if self._over:
            return
        self._over = True
        self._count_sent()
        self.let_go()
        stats = self.listener.stats
        stats.downstream_cx_active.add(-1)
        stats.downstream_cx_http2_active.add(-1)
        stats.downstream_cx_destroy.inc()
        pools = self.runtime.snapshot.pools
        if pools.has_clients:
            pools.leave(self.peer, self.local, self.tlvs)
        self.owner.on_connection_closed(self)

    def let_go(self) -> None:
        """Of timers, and of what was counted as held."""
        self._phase_timer.drop()
        for lane in (*self.lanes.values(), *self._free):
            lane.drop()
        self.lanes.clear()
        self._free.clear()
        self._touched.clear()
        self.runtime.buffered.add(-self._buffered)
        self._buffered = 0

    def _count_sent(self) -> None:
        sent = self.connection.tx_bytes
        if sent != self._tx_counted:
            self.listener.stats.downstream_cx_tx_bytes_total.add(sent - self._tx_counted)
            self._tx_counted = sent
        resets = self.codec.resets_sent
        if resets:
            self.codec.resets_sent = 0
            self.stats.tx_reset.add(resets)

    # -- handoff: see http2_moving

    def freeze(self) -> bool:
        return http2_moving.freeze(self)

    def socks(self) -> list[socket.socket]:
        return http2_moving.socks(self)

    def dump(self) -> dict[str, object]:
        return http2_moving.dump(self)

    def thaw(self) -> None:
        http2_moving.thaw(self)

    def release(self) -> None:
        http2_moving.release(self)

    def discard(self) -> None:
        http2_moving.release(self)

    @classmethod
    def load(
        cls,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
    ) -> Http2ConnectionManager:
        return http2_moving.load(cls, state, socks, listener, owner, runtime)
