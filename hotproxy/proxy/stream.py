"""One request with its response: what is counted, logged and answered for it, and that it ends exactly once.

decode_head .. decode_end      the request: its route, and on to the router unless the route is an answer itself
encode_head .. encode_end      the response, on to the client
local_reply                    an answer of our own instead, if none has begun
abort                          one that has begun and cannot be completed
finish                         the end of every road: stats, access log; nothing happens to a stream after it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hotproxy.errors import (
    DIRECT_RESPONSE,
    DOWNSTREAM_DISCONNECT,
    INTERNAL_ERROR,
    NO_ROUTE,
    REDIRECT,
    REQUEST_BODY_TIMEOUT,
    STREAM_IDLE_TIMEOUT,
    Reason,
    Side,
    downstream_protocol_error,
)
from hotproxy.http.codec import HTTP_1_0, HTTP_1_1, LENGTH, NO_BODY, RequestHead, ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.proxy import forwarding, last_hop
from hotproxy.proxy.route import normalise
from hotproxy.proxy.router import Router
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.trusted_hops import trusted_chain
from hotproxy.telemetry.stream_info import StreamInfo

if TYPE_CHECKING:
    from hotproxy.proxy.downstream import Downstream


class Stream:
    """Lives from the first event of a request until `finish()`; `downstream` is its client's side."""

    __slots__ = (
        "_ends_by_close", "_taken", "downstream", "finished", "idle_timeout_s", "info", "listener", "request_read",
        "response_started", "router", "runtime",
    )  # fmt: skip

    def __init__(self, downstream: Downstream, listener: HttpListener, runtime: Runtime, info: StreamInfo) -> None:
        self.downstream = downstream
        self.listener = listener
        self.runtime = runtime
        self.info = info
        self.router: Router | None = None  # None: no head was understood, or finished
        self.idle_timeout_s = 0.0  # the route's
        self.request_read = False  # its last byte has been read, though perhaps not been handled yet
        self.response_started = False
        self.finished = False
        self._ends_by_close = False  # the client takes the end of the connection for the end of the body
        self._taken = 0  # bytes that both sides had taken when the idle timer last fired

    @classmethod
    def begin(cls, downstream: Downstream, listener: HttpListener, runtime: Runtime) -> Stream:
        """A new one, counted as a request."""
        info = StreamInfo(runtime.clock.wall_s(), runtime.clock.now_s())
        info.listener = listener.name
        info.downstream_remote = downstream.peer
        info.downstream_local = downstream.local
        info.downstream_direct_remote = downstream.direct_peer
        info.tlvs = downstream.tlvs
        if downstream.tls is not None:
            info.tls = downstream.tls
            info.requested_server_name = downstream.tls.server_name
        info.protocol = downstream.protocol
        listener.stats.downstream_rq_total.inc()
        listener.stats.downstream_rq_active.add(1)
        return cls(downstream, listener, runtime, info)

    # -- towards upstream

    def decode_head(self, head: RequestHead) -> None:
        info = self.info
        if head.version == HTTP_1_0:
            info.protocol = "HTTP/1.0"
        info.method = head.method.decode("latin-1")
        info.original_path = info.path = head.target.decode("latin-1")
        info.authority = (head.headers.get(b"host") or b"").decode("latin-1")
        info.request_headers = head.headers
        self._route(head)

    def _route(self, head: RequestHead) -> None:
        """Answer the request ourselves, or give it to a router. Here its headers become those that are forwarded."""
        normal = normalise(head.target)
        if normal is None:
            self.local_reply(downstream_protocol_error("path_normalization_failed"))
            return
        path, target = normal
        authority = head.headers.get(b"host") or b""
        tls = self.downstream.tls
        # What a route looks at is what an endpoint would be told: nobody chooses one by saying who it is.
        received = head.headers.copy() if head.method in last_hop.COUNTED_METHODS else head.headers
        client_host, proto = self.downstream.client_host, b""
        if self.listener.xff_num_trusted_hops:
            client_host, proto = self._believe(head.headers)
        request_id = forwarding.new_request_id(self.runtime.random)
        not_a_loop = forwarding.decode_headers(head, client_host, request_id, tls, self.listener.certificate)
        if proto:
            head.headers.set(b"x-forwarded-proto", proto)
        route = self.listener.routes.find(authority, path, head, tls)
        if route is None:
            self.local_reply(NO_ROUTE)
            return
        self.idle_timeout_s = route.idle_timeout_s
        self.info.virtual_host = route.virtual_host
        self.info.route = route.name
        if head.upgrade:
            # What is not allowed is dropped like any other hop-by-hop field, as RFC 9110 section 7.8 lets us.
            upgradable = head.version == HTTP_1_1
            head.upgrade = forwarding.allowed_upgrade(head.upgrade, route.upgrades) if upgradable else b""
        if head.method in last_hop.COUNTED_METHODS and route.cluster is not None and self._ends_here(head, received):
            return
        if not not_a_loop:
            self.local_reply(forwarding.LOOP_DETECTED)
        elif route.redirect is not None:
            location = route.location(path, target, authority, head.headers.get(b"x-forwarded-proto") or b"http")
            self.local_reply(REDIRECT, route.redirect.status, extra=((b"location", location),))
        elif route.direct_response is not None:
            self.local_reply(DIRECT_RESPONSE, route.direct_response.status, route.direct_response.body)
        else:
            self.router = Router(self, self.runtime)
            self.router.decode_head(head, route, path, target)

    def _believe(self, headers: Headers) -> tuple[bytes, bytes]:
        """What trusted hops say: the value of x-forwarded-for, and the scheme, b"" where they don't. The log tells the
        client, and who has connected where nothing else says so."""
        connected_from = self.downstream.client_host
        chain = trusted_chain(headers, self.listener.xff_num_trusted_hops, connected_from)
        if chain is None:
            return connected_from, b""
        info = self.info
        info.downstream_direct_remote = info.downstream_direct_remote or info.downstream_remote or "@"
        info.downstream_remote = chain.client
        return chain.forwarded_for, chain.proto

    def _ends_here(self, head: RequestHead, received: Headers) -> bool:
        """A TRACE or OPTIONS that may not be forwarded any more, or not at all, is answered."""
        found = last_hop.check(head, received)
        if found is None:
            return False
        if isinstance(found, Reason):
            self.local_reply(found)
        else:
            self.local_reply(last_hop.LAST_HOP, 200, found.body, found.fields)
        return True

    def decode_data(self, data: bytes) -> None:
        self.info.rx_bytes += len(data)
        if self.router is not None:
            self.router.decode_data(data)

    def decode_end(self, trailers: Headers | None) -> None:
        if self.router is not None:
            self.router.decode_end(trailers)

    def request_complete(self) -> None:
        """The whole request has been read; its events may still be on their way."""
        self.request_read = True
        self.info.request_complete_s = self.runtime.clock.now_s()

    # -- towards downstream

    def encode_interim(self, head: ResponseHead) -> None:
        """100, 102, 103: straight on; the codec spares clients that would not understand."""
        self.downstream.send_interim(head)

    def encode_head(self, head: ResponseHead) -> None:
        """The final response of an endpoint."""
        forwarding.encode_headers(head, self.runtime.clock.wall_s())
        self.info.details = "via_upstream"
        self._send_head(head)

    def encode_upgrade(self, head: ResponseHead) -> None:
        """101: from now on `encode_raw`."""
        self.info.details = "via_upstream"
        self._send_head(head)
        self._ends_by_close = True

    def encode_data(self, data: bytes) -> None:
        if self.downstream.send_data(data):  # an answer to HEAD has none
            self.info.tx_bytes += len(data)

    def encode_raw(self, data: bytes) -> None:
        self.info.tx_bytes += len(data)
        self.downstream.send_raw(data)

    def encode_end(self, trailers: Headers | None) -> None:
        self.downstream.send_end(trailers)
        self.finish()
        self.downstream.on_stream_end(self.request_read)

    def _send_head(self, head: ResponseHead) -> None:
        info = self.info
        self.response_started = True
        self._ends_by_close = head.framing not in (LENGTH, NO_BODY) and info.protocol == "HTTP/1.0"
        info.status = head.status
        info.response_headers = head.headers
        info.response_first_byte_s = self.runtime.clock.now_s()
        # A client whose request is not read to its end cannot send another one on this connection: the rest would
        # have to be read and thrown away first, without any bound.
        self.downstream.send_head(head, not self.request_read)

    # -- ending

    def local_reply(
        self, reason: Reason, status: int = 0, body: str | bytes = "", extra: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer ourselves: `status` and `body` are the reason's unless given. Aborts when an answer has begun."""
        if self.finished:
            return
        if self.response_started:
            self.abort(reason)
            return
        self._blame(reason)
        if reason.side is Side.DOWNSTREAM:
            self.request_read = False  # whoever breaks the rules is not believed about where its next request begins
        if self.router is not None:
            self.router.cancel()
        status = status or reason.status
        content = body if isinstance(body, bytes) else (body or reason.body).encode()
        self._send_head(forwarding.local_head(status, content, self.runtime.clock.wall_s(), extra))
        if content and status not in forwarding.BODILESS:
            self.encode_data(content)
        self.encode_end(None)

    def abort(self, reason: Reason) -> None:
        """End without a complete response, so that the client notices: no last chunk, less than the length, a reset."""
        if self.finished:
            return
        self._blame(reason)
        if self.router is not None:
            self.router.cancel()
        self.finish()
        self.downstream.on_stream_aborted(self._ends_by_close)

    def on_downstream_lost(self, reason: Reason = DOWNSTREAM_DISCONNECT) -> None:
        """The client has gone, or (HTTP/2) has reset this stream: nobody is left to answer."""
        if self.finished:
            return
        self.listener.stats.downstream_rq_rx_reset.inc()
        self._blame(reason)
        if self.router is not None:
            self.router.cancel()
        self.finish()

    def on_tunnel_end(self) -> None:
        """Both directions of an upgraded connection have ended."""
        self.finish()
        self.downstream.on_stream_end(False)

    def on_idle_timeout(self) -> None:
        """Nothing has come from either side for `idle_timeout_s`."""
        if self._is_progressing():
            self.downstream.touch()
            return
        self.local_reply(STREAM_IDLE_TIMEOUT if self.request_read else REQUEST_BODY_TIMEOUT)

    def on_internal_error(self) -> None:
        """A bug of ours; the exception is on its way to the log."""
        self.request_read = False  # whatever was being handled is lost: nothing more on this connection
        self.local_reply(INTERNAL_ERROR)

    def _is_progressing(self) -> bool:
        """A slow reader: no events, because we hold data back for it, but bytes do leave."""
        taken, pending = self.downstream.taken_bytes, self.downstream.waiting_bytes
        upstream = self.router.upstream_connection if self.router is not None else None
        if upstream is not None:
            taken += upstream.tx_bytes
            pending += upstream.pending_bytes
        before, self._taken = self._taken, taken
        return pending > 0 and taken != before

    def _blame(self, reason: Reason) -> None:
        info = self.info
        if reason.flag != "-":
            info.flags += (reason.flag,)
        info.details = reason.details
        # What upstream has done is counted there, where its cluster is known.
        if reason.counter and reason.side is not Side.UPSTREAM:
            self.listener.stats.by_name(reason.counter).inc()

    def finish(self) -> None:
        """Exactly once for every stream."""
        assert not self.finished, "a stream has ended twice"
        self.finished = True
        self.downstream.disarm_stream_timers()
        info = self.info
        info.end_s = self.runtime.clock.now_s()
        stats = self.listener.stats
        stats.downstream_rq_active.add(-1)
        if info.status:
            stats.count_status(info.status)
            stats.downstream_rq_time.record(int((info.end_s - info.start_s) * 1000))
        if self.listener.access_log is not None:
            self.listener.access_log.log(info)
        router, self.router = self.router, None
        if router is not None:
            router.detach()
