"""How a stream moves to another process, with its router and the connection to an endpoint: a part of them, apart
because none of it is on the way of a request. Its connection moves with `http_moving` or `http2_moving`.

Between two turns a stream's router has a connection to an endpoint or waits for one; everything collected is written,
and all that was decoded has been passed on.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from hotproxy.http.codec import RequestHead
from hotproxy.http.headers import Headers
from hotproxy.http.http1_exchange import check_fields
from hotproxy.proxy.downstream import Downstream
from hotproxy.proxy.router import Router
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream import Stream
from hotproxy.proxy.tunnel import Tunnel
from hotproxy.saved import (
    MAX_COUNT,
    saved_bool,
    saved_byte_strings,
    saved_int,
    saved_list,
    saved_part,
    saved_seconds,
    saved_text,
    saved_texts,
)
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.upstream_connection import UpstreamConnection, UpstreamRecord, read_upstream

_STREAM_KEYS: Final = frozenset(
    ("info", "idle_timeout_s", "request_read", "response_started", "ends_by_close", "taken", "router")
)
_ROUTER_KEYS: Final = frozenset(
    (
        "cluster", "head", "timeout_s", "request_ended", "request_trailers", "response_trailers", "avoid",
        "connect_failures", "retried", "whole", "held", "upstream",
    )
)  # fmt: skip


# -- the old side


def freeze(stream: Stream) -> bool:
    """See `DownstreamConnection.freeze`."""
    router = stream.router
    return router is not None and _freeze_router(router)


def _freeze_router(router: Router) -> bool:
    if router._upstream is not None:
        return router._upstream.freeze()
    if router._pending is None:
        return False
    router._pending.freeze()
    return True


def socks(stream: Stream) -> list[socket.socket]:
    """The router's connection, if it has one."""
    upstream = stream.router.upstream_connection if stream.router is not None else None
    return [] if upstream is None else [upstream.sock]


def thaw(stream: Stream) -> None:
    router = stream.router
    if router is None:
        return
    if router._upstream is not None:
        router._upstream.thaw()
    elif router._pending is not None:
        router._pending.thaw()


def release(stream: Stream) -> None:
    """It lives on in another process."""
    router, stream.router = stream.router, None
    if router is not None:
        _leave_router(router)
    stream.finished = True
    stream.listener.stats.downstream_rq_active.add(-1)


def _leave_router(router: Router) -> None:
    """A connect under way has no other place to go: that one ends here, and is counted so."""
    pending, router._pending = router._pending, None
    if pending is not None:
        pending.cancel()
    upstream, router._upstream = router._upstream, None
    if upstream is not None:
        assert router._cluster is not None
        router._cluster.stats.upstream_rq_active.add(-1)
        upstream.leave()
    router._leave_endpoint()
    router._held.drop()
    router.tunnel = None  # it knows the router: a cycle


# -- the record


def dump(stream: Stream) -> dict[str, object]:
    assert stream.router is not None
    return {
        "info": stream.info.dump(),
        "idle_timeout_s": stream.idle_timeout_s,
        "request_read": stream.request_read,
        "response_started": stream.response_started,
        "ends_by_close": stream._ends_by_close,
        "taken": stream._taken,
        "router": _dump_router(stream.router),
    }


def _dump_router(router: Router) -> dict[str, object]:
    """A connect that is under way begins anew over there."""
    assert router._cluster is not None and router._head is not None
    return {
        "cluster": router._cluster.name,
        "head": router._head.dump(),
        "timeout_s": router._timeout_s,
        "request_ended": router.request_ended,
        "request_trailers": None if router._request_trailers is None else router._request_trailers.dump(),
        "response_trailers": None if router._response_trailers is None else router._response_trailers.dump(),
        "avoid": [endpoint.name for endpoint in router._avoid],
        "connect_failures": router._connect_failures,
        "retried": router._retried,
        "whole": router._held.whole,
        "held": list(router._held.pieces),
        "upstream": router._upstream.dump() if router._upstream is not None else None,
    }


class RouterRecord(NamedTuple):
    cluster: Cluster
    head: RequestHead
    timeout_s: float
    request_ended: bool
    request_trailers: Headers | None
    response_trailers: Headers | None
    avoid: list[str]
    connect_failures: int
    retried: bool
    whole: bool
    held: list[bytes]
    upstream: UpstreamRecord | None


class StreamRecord(NamedTuple):
    info: StreamInfo
    idle_timeout_s: float
    request_read: bool
    response_started: bool
    ends_by_close: bool
    taken: int
    router: RouterRecord


def read(state: object, runtime: Runtime) -> StreamRecord:
    """What `dump` gave, with every value looked at; ValueError for what this code does not know."""
    record = saved_part(state, "stream", _STREAM_KEYS)
    info = StreamInfo.load(saved_list(record, "info"))
    if info.start_s > runtime.clock.now_s():
        raise ValueError("a stream that has not begun yet")
    return StreamRecord(
        info,
        saved_seconds(record, "idle_timeout_s"),
        saved_bool(record, "request_read"),
        saved_bool(record, "response_started"),
        saved_bool(record, "ends_by_close"),
        saved_int(record, "taken", MAX_COUNT),
        _read_router(record["router"], runtime),
    )


def _read_router(state: object, runtime: Runtime) -> RouterRecord:
    record = saved_part(state, "router", _ROUTER_KEYS)
    name = saved_text(record, "cluster")
    cluster = runtime.snapshot.clusters.get(name)
    if cluster is None:
        raise ValueError(f"the cluster {name} is no longer there")
    upstream = record["upstream"]
    return RouterRecord(
        cluster,
        RequestHead.load(record["head"]),
        saved_seconds(record, "timeout_s"),
        saved_bool(record, "request_ended"),
        _read_trailers(record["request_trailers"]),
        _read_trailers(record["response_trailers"]),
        saved_texts(record, "avoid"),
        saved_int(record, "connect_failures", MAX_COUNT),
        saved_bool(record, "retried"),
        saved_bool(record, "whole"),
        saved_byte_strings(record, "held"),
        None if upstream is None else read_upstream(upstream, cluster),
    )


def _read_trailers(state: object) -> Headers | None:
    if state is None:
        return None
    fields = Headers.load(state)
    check_fields(fields=fields)
    return fields


# -- the new side


def build(
    record: StreamRecord,
    downstream: Downstream,
    listener: HttpListener,
    runtime: Runtime,
    socks: Sequence[socket.socket],
) -> Stream:
    """With the router's connection, if it has one, on the first of `socks`; counted, not started."""
    stream = Stream(downstream, listener, runtime, record.info)
    stream.idle_timeout_s = record.idle_timeout_s
    stream.request_read = record.request_read
    stream.response_started = record.response_started
    stream._ends_by_close = record.ends_by_close
    stream._taken = record.taken
    stream.router = _build_router(record.router, stream, runtime, socks)
    listener.stats.downstream_rq_active.add(1)
    return stream


def _build_router(record: RouterRecord, stream: Stream, runtime: Runtime, socks: Sequence[socket.socket]) -> Router:
    router = Router(stream, runtime)
    cluster = router._cluster = record.cluster
    router._head = record.head
    router._timeout_s = record.timeout_s
    router.request_ended = record.request_ended
    router._request_trailers = record.request_trailers
    router._response_trailers = record.response_trailers
    router._avoid = [endpoint for endpoint in cluster.endpoints if endpoint.name in record.avoid]
    router._connect_failures = record.connect_failures
    router._retried = record.retried
    for data in record.held:
        router._held.add(data)
    router._held.whole = record.whole
    if record.upstream is None:
        stream.info.attempts = max(0, stream.info.attempts - 1)  # the one that was under way is begun anew
        return router
    upstream = UpstreamConnection.load(record.upstream, socks[0], cluster, router, router._pools, runtime)
    router._upstream = upstream
    router._endpoint = upstream.endpoint
    upstream.endpoint.active += 1
    cluster.stats.upstream_rq_active.add(1)
    if upstream.raw:
        router.tunnel = Tunnel(stream, router, upstream)
    return router


def start(stream: Stream) -> None:
    """The first turn of a loaded one."""
    router = stream.router
    assert router is not None
    upstream = router._upstream
    if upstream is None:
        if router._held.full:
            router._pause_body()
        router._attempt()
        router.flush()
        return
    upstream.endpoint.options.apply_again(upstream.connection.sock)
    upstream.thaw()
    if upstream.connection.pressed:
        router._pause_body()
    if stream.downstream.pressed:
        router._pause_upstream()
