r"""Where a request goes: cluster, endpoint, connection; and what comes back from there.

    decode_head --endpoint--> connecting --> waiting --response head--> responding --End--> over
                   ^             |  failed      |  a reused connection died before the first byte of a response
                   |             v              v
                   +------ next endpoint   once more, on a new connection, if that is safe        101 --> tunnel

Safe to send again is what never left (no byte of it was written) or what may be executed twice (RFC 9110 section
9.2.2), as long as all of its body is still held; the first 64 KiB are. POST and PATCH are therefore never sent again
once a byte has left.

Pressure runs backwards: when a side does not take what it is sent, the other one is not read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hotproxy.errors import (
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    LOCAL_CONNECT_FAILURE,
    NO_CLUSTER,
    NO_HEALTHY_UPSTREAM,
    RESPONSE_TIMEOUT,
    TLS_FAILURE,
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_RESET_AFTER_START,
    UPSTREAM_TERMINATION,
    Reason,
    Side,
)
from hotproxy.http.codec import Data, Event, RequestHead, ResponseHead, Trailers, Violation
from hotproxy.http.headers import Headers
from hotproxy.net.connection import Connection
from hotproxy.proxy import forwarding
from hotproxy.proxy.filter_chain import address_text
from hotproxy.proxy.held_body import HeldBody
from hotproxy.proxy.route import Route
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.tunnel import Tunnel
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.pool import PoolConnect, Pools
from hotproxy.upstream.upstream_connection import UpstreamConnection

if TYPE_CHECKING:
    from hotproxy.proxy.stream import Stream

# RFC 9110 section 9.2.2.
IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

# Envoy's details for a response that breaks off because it breaks the rules.
PROTOCOL_ERROR_AFTER_START: Final = Reason(
    Side.UPSTREAM,
    0,
    "UPE",
    "upstream_reset_after_response_started{protocol_error}",
    "upstream_cx_protocol_error",
)
_COUNTED_BY_THE_POOL: Final = frozenset((CONNECT_FAILURE, CONNECT_TIMEOUT))


class Router:
    """The upstream half of a stream."""

    __slots__ = (
        "_avoid", "_body_paused", "_cluster", "_connect_failures", "_endpoint", "_head", "_held", "_pending",
        "_pools", "_request_trailers", "_response_trailers", "_retried", "_runtime", "_stream", "_timeout_s",
        "_upstream", "_upstream_paused", "request_ended", "tunnel",
    )  # fmt: skip

    def __init__(self, stream: Stream, runtime: Runtime) -> None:
        self._stream = stream
        self._runtime = runtime
        self._pools: Pools = runtime.snapshot.pools
        self._head: RequestHead | None = None  # as it is sent upstream
        self._timeout_s = 0.0  # the route's, from the end of the request to the end of the response
        self._request_trailers: Headers | None = None
        self._response_trailers: Headers | None = None
        self._cluster: Cluster | None = None
        self._endpoint: Endpoint | None = None  # has us among its `active`
        self._pending: PoolConnect | None = None
        self._upstream: UpstreamConnection | None = None
        self._avoid: list[Endpoint] = []  # could not be reached
        self._connect_failures = 0
        self._retried = False  # sent again after a reused connection had died
        self._held = HeldBody(runtime.buffered)
        self._body_paused = False  # the client is not read
        self._upstream_paused = False  # the endpoint is not read
        self.request_ended = False
        self.tunnel: Tunnel | None = None  # after a 101

    # -- the request

    def decode_head(self, head: RequestHead, route: Route, path: bytes, target: bytes) -> None:
        """A request for a cluster; `path` and `target` are what `normalise` made of it."""
        info = self._stream.info
        cluster = self._runtime.snapshot.clusters.get(route.cluster or "")
        if cluster is None:
            self._stream.local_reply(NO_CLUSTER)
            return
        info.cluster = cluster.name
        head.target = route.rewrite(path, target)
        info.path = head.target.decode("latin-1")
        if route.host_rewrite is not None:
            head.headers.set(b"host", route.host_rewrite)
            info.authority = route.host_rewrite.decode("latin-1")
        self._timeout_s = route.timeout_s
        self._head = head
        self._cluster = cluster
        self._attempt()

    def decode_data(self, data: bytes) -> None:
        upstream = self._upstream
        if upstream is not None:
            self._held.offer(data)
            upstream.send_data(data)
            return
        self._held.add(data)
        if self._held.full:
            self._pause_body()

    def decode_end(self, trailers: Headers | None) -> None:
        self.request_ended = True
        self._request_trailers = trailers
        if self._upstream is not None:
            self._upstream.send_end(trailers)
        if self.tunnel is None:
            self._stream.downstream.arm_response_timer(self._timeout_s)

    def flush(self) -> None:
        """The end of a turn in which something may have come from downstream."""
        if self._upstream is not None:
            self._upstream.flush()

    # -- endpoint and connection

    def _attempt(self) -> None:
        """One endpoint more, which may have an idle connection."""
        cluster = self._cluster
        assert cluster is not None and self._head is not None
        endpoint = cluster.balancer.pick(self._avoid)
        if endpoint is None and self._avoid:
            endpoint = cluster.balancer.pick(())  # the only one there is, once more
        if endpoint is None:
            self._fail(NO_HEALTHY_UPSTREAM)
            return
        self._endpoint = endpoint
        endpoint.active += 1
        info = self._stream.info
        info.attempts += 1
        info.upstream_remote = endpoint.name
        preface = self._stream.downstream.preface(cluster) if cluster.proxy_protocol else b""
        # What has closed one idle connection has most likely closed the others too.
        upstream = self._pools.take(cluster, endpoint, self, preface) if not self._retried else None
        if upstream is not None:
            self._attach(upstream)
        else:
            self._connect(cluster, endpoint)

    def _connect(self, cluster: Cluster, endpoint: Endpoint) -> None:
        preface = self._stream.downstream.preface(cluster) if cluster.proxy_protocol else b""
        self._pending = self._pools.connect(cluster, endpoint, self, self._runtime, preface)
        self._pending.start()

    def on_pool_ready(self, upstream: UpstreamConnection) -> None:
        self._pending = None
        self._stream.info.upstream_connect_s = self._runtime.clock.now_s()
        self._attach(upstream)
        upstream.flush()

    def on_pool_failure(self, reason: Reason, error: str) -> None:
        cluster, endpoint = self._cluster, self._endpoint
        assert cluster is not None and endpoint is not None
        self._pending = None
        self._leave_endpoint()
        self._connect_failures += 1
        attempts = 2  # where we lack something ourselves: another endpoint may have an idle connection
        if reason is not LOCAL_CONNECT_FAILURE:
            self._avoid.append(endpoint)
            attempts = max(2, len(cluster.endpoints))
        if self._connect_failures < attempts:
            cluster.stats.upstream_rq_retry.inc()
            self._attempt()
            self.flush()
        elif reason is TLS_FAILURE:
            self._fail(_with_tls_error(reason, error))
        else:
            self._fail(reason)

    def _attach(self, upstream: UpstreamConnection) -> None:
        """Send what there is of the request."""
        cluster, head = self._cluster, self._head
        assert cluster is not None and head is not None
        self._upstream = upstream
        cluster.stats.upstream_rq_total.inc()
        cluster.stats.upstream_rq_active.add(1)
        if upstream.local is None:
            upstream.local = address_text(upstream.connection.sock.getsockname())
        self._stream.info.upstream_local = upstream.local
        upstream.send_head(head)
        for data in self._held.pieces:
            upstream.send_data(data)
        if self.request_ended:
            upstream.send_end(self._request_trailers)
        if not upstream.reused or self._held.full:
            self._held.drop()  # a new connection that dies is not the accident which justifies a second try
        if self._stream.downstream.pressed:
            self._pause_upstream()
        if not upstream.connection.pressed:
            self._resume_body()

    # -- the response

    def on_upstream_event(self, event: Event) -> None:
        stream = self._stream
        kind = type(event)
        if kind is Data:
            stream.encode_data(event.data)  # type: ignore[union-attr]
        elif isinstance(event, ResponseHead):
            self._on_head(event)
        elif isinstance(event, Trailers):
            self._response_trailers = event.headers
        elif isinstance(event, Violation):
            self._fail(PROTOCOL_ERROR_AFTER_START if stream.response_started else UPSTREAM_PROTOCOL_ERROR)
        else:
            self._on_end()

    def _on_head(self, head: ResponseHead) -> None:
        stream, cluster = self._stream, self._cluster
        assert cluster is not None
        info = stream.info
        now_s = self._runtime.clock.now_s()
        if not info.upstream_first_byte_s:
            info.upstream_first_byte_s = now_s
        self._held.drop()
        if head.status < 200:
            if head.status != 101:
                stream.encode_interim(head)
                return
            assert self._head is not None
            if not forwarding.was_offered(head.upgrade, self._head.upgrade):
                self._fail(UPSTREAM_PROTOCOL_ERROR)
                return
        since_s = info.request_complete_s or now_s
        info.upstream_service_time_ms = int((now_s - since_s) * 1000)
        cluster.stats.count_status(head.status)
        if self._retried or self._connect_failures:
            cluster.stats.upstream_rq_retry_success.inc()
        if head.status == 101:
            assert self._upstream is not None
            self.tunnel = Tunnel(stream, self, self._upstream)
            self.tunnel.begin(head)
        else:
            stream.encode_head(head)

    def _on_end(self) -> None:
        stream, upstream = self._stream, self._upstream
        assert upstream is not None and self._cluster is not None
        info = stream.info
        if info.request_complete_s:
            elapsed_s = self._runtime.clock.now_s() - info.request_complete_s
            self._cluster.stats.upstream_rq_time.record(int(elapsed_s * 1000))
        self._leave_upstream()
        if self.request_ended:
            upstream.flush()
            upstream.release()
        else:  # it has answered without waiting for the rest, which nobody wants now
            upstream.close()
        stream.encode_end(self._response_trailers)

    def on_upstream_turn_end(self) -> None:
        self._stream.downstream.on_upstream_turn_end()

    def on_upstream_raw(self, data: bytes) -> None:
        raise AssertionError("raw bytes without a tunnel")

    def on_upstream_eof(self) -> None:
        raise AssertionError("half an end without a tunnel")

    def on_upstream_lost(self, error: str) -> None:
        upstream, cluster = self._upstream, self._cluster
        assert upstream is not None and cluster is not None
        endpoint = self._endpoint
        assert endpoint is not None
        if self._may_send_again(upstream):
            self._leave_upstream()
            self._retried = True
            cluster.stats.upstream_rq_retry.inc()
            self._endpoint = endpoint
            endpoint.active += 1
            self._stream.info.attempts += 1
            self._connect(cluster, endpoint)
        elif self._stream.response_started:
            self._fail(UPSTREAM_RESET_AFTER_START)
        elif upstream.tls_error:
            self._fail(_with_tls_error(UPSTREAM_TERMINATION, upstream.tls_error))
        else:
            self._fail(UPSTREAM_TERMINATION)

    def _may_send_again(self, upstream: UpstreamConnection) -> bool:
        if not upstream.reused or upstream.responded or self._retried or not self._held.whole:
            return False
        head = self._head
        return upstream.untouched or (head is not None and head.method in IDEMPOTENT_METHODS)

    def on_internal_error(self) -> None:
        self._stream.on_internal_error()

    # -- pressure

    def on_upstream_pressure(self, high: bool) -> None:
        if high:
            self._pause_body()
        else:
            self._resume_body()
            self._stream.downstream.touch()

    def on_downstream_pressure(self, high: bool) -> None:
        if high:
            self._pause_upstream()
        elif self._upstream_paused:
            self._upstream_paused = False
            if self._upstream is not None:
                self._upstream.connection.read_enable()

    def _pause_upstream(self) -> None:
        if self._upstream is not None and not self._upstream_paused:
            self._upstream_paused = True
            self._upstream.connection.read_disable()

    def _pause_body(self) -> None:
        if not self._body_paused:
            self._body_paused = True
            self._stream.downstream.pause()

    def _resume_body(self) -> None:
        if self._body_paused:
            self._body_paused = False
            self._stream.downstream.resume()

    @property
    def upstream_connection(self) -> Connection | None:
        return self._upstream.connection if self._upstream is not None else None

    # -- ending

    def on_response_timeout(self) -> None:
        """The response is not complete `timeout_s` after the end of the request."""
        self._fail(RESPONSE_TIMEOUT)

    def _fail(self, reason: Reason) -> None:
        """Upstream has failed; counted here, where the cluster is known, and answered by the stream."""
        cluster = self._cluster
        assert cluster is not None
        self._close_upstream()
        if reason.counter and reason not in _COUNTED_BY_THE_POOL:
            cluster.stats.by_name(reason.counter).inc()
        if not self._stream.response_started:
            cluster.stats.count_status(reason.status)  # as Envoy does for what it answers in an endpoint's place
        self._stream.local_reply(reason)

    def cancel(self) -> None:
        """Nobody wants an answer any more."""
        if self._upstream is not None and self._cluster is not None:
            self._cluster.stats.upstream_rq_tx_reset.inc()
        self._close_upstream()

    def _close_upstream(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            self._leave_endpoint()
        upstream = self._upstream
        if upstream is not None:
            self._leave_upstream()
            upstream.close()

    def _leave_upstream(self) -> None:
        upstream = self._upstream
        assert upstream is not None and self._cluster is not None
        if self._upstream_paused:
            self._upstream_paused = False
            upstream.connection.read_enable()
        self._upstream = None
        self._cluster.stats.upstream_rq_active.add(-1)
        self._leave_endpoint()

    def _leave_endpoint(self) -> None:
        if self._endpoint is not None:
            self._endpoint.active -= 1
            self._endpoint = None

    def release_tunnel(self) -> None:
        """Both directions have ended; what is still to be sent arrives."""
        upstream = self._upstream
        assert upstream is not None
        self._leave_upstream()
        upstream.finish()

    def detach(self) -> None:
        """The stream is finished."""
        self._close_upstream()
        self._held.drop()
        self._resume_body()
        self.tunnel = None  # it knows us: a cycle


def _with_tls_error(reason: Reason, error: str) -> Reason:
    """With words that have no spaces: access logs are split at them."""
    opening = reason.details.removesuffix("}").removesuffix("|TLS_error")
    return replace(reason, details=f"{opening}|TLS_error:{error.replace(' ', '_')}}}")
