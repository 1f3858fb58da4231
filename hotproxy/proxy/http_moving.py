"""How an HTTP connection moves to another process: what `ConnectionManager` does of `DownstreamConnection` for that.

A part of ConnectionManager, Stream and Router, apart because none of it is on the way of a request. `load` first reads
the whole record, which is where it may be refused, and then builds, where nothing can fail: so nothing is ever undone.

Between two turns a connection either has no stream, or one whose router has a connection to an endpoint or waits for
one; everything collected is written, and all that was decoded has been passed on.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from hotproxy.http.codec import RequestHead
from hotproxy.http.headers import Headers
from hotproxy.http.http1_exchange import check_exchange, check_fields, check_request
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.net.connection import Connection
from hotproxy.net.connection_state import ConnectionState
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.saved_state import read_state
from hotproxy.proxy.filter_chain import DownstreamOwner
from hotproxy.proxy.router import Router
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream import Stream
from hotproxy.proxy.tunnel import Tunnel
from hotproxy.saved import (
    MAX_COUNT,
    saved_bool,
    saved_byte_strings,
    saved_bytes,
    saved_int,
    saved_list,
    saved_part,
    saved_seconds,
    saved_text,
    saved_texts,
    saved_version,
)
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.upstream_connection import UpstreamConnection, UpstreamRecord, read_upstream

if TYPE_CHECKING:
    from hotproxy.proxy.connection_manager import ConnectionManager

KIND: Final = "http1"
DUMP_VERSION: Final = 2
_BUSY: Final = 2  # of ConnectionManager's phases
_LAST_PHASE: Final = 4

_KEYS: Final = frozenset(
    (
        "kind", "version", "listener", "peer", "connection", "codec", "phase", "phase_deadline_s", "idle_deadline_s",
        "response_deadline_s", "sent", "stream", "local", "direct_peer", "tlvs",
    )
)  # fmt: skip
_SHAPES: Final = {1: _KEYS - {"local", "direct_peer", "tlvs"}, DUMP_VERSION: _KEYS}
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


def freeze(manager: ConnectionManager) -> bool:
    """See `DownstreamConnection.freeze`."""
    if manager._over or manager._frozen or manager._loaded or manager._pumping or manager._out:
        return False
    if not manager.connection.freeze():
        return False
    stream = manager.stream
    if stream is not None and (stream.router is None or not _freeze_router(stream.router)):
        manager.connection.thaw()
        return False
    manager._frozen = True
    manager._phase_timer.suspend()
    manager._idle_timer.suspend()
    manager._response_timer.suspend()
    return True


def _freeze_router(router: Router) -> bool:
    if router._upstream is not None:
        return router._upstream.freeze()
    if router._pending is None:
        return False
    router._pending.freeze()
    return True


def socks(manager: ConnectionManager) -> list[socket.socket]:
    """See `DownstreamConnection.socks`."""
    router = manager.stream.router if manager.stream is not None else None
    upstream = router.upstream_connection if router is not None else None
    return [manager.connection.sock] if upstream is None else [manager.connection.sock, upstream.sock]


def thaw(manager: ConnectionManager) -> None:
    """See `DownstreamConnection.thaw`."""
    assert manager._frozen, "thaw without freeze"
    manager._frozen = False
    wheel = manager._runtime.wheel
    wheel.resume(manager._phase_timer, manager)
    wheel.resume(manager._idle_timer, manager)
    wheel.resume(manager._response_timer, manager)
    manager.connection.thaw()
    router = manager.stream.router if manager.stream is not None else None
    if router is not None:
        if router._upstream is not None:
            router._upstream.thaw()
        elif router._pending is not None:
            router._pending.thaw()
    postponed, manager._postponed = manager._postponed, None
    if postponed is not None:
        manager.close(postponed)


def release(manager: ConnectionManager) -> None:
    """See `DownstreamConnection.release` and `discard`."""
    assert manager._frozen or manager._loaded, "a running connection cannot be let go"
    stream, manager.stream = manager.stream, None
    if stream is not None:
        router, stream.router = stream.router, None
        if router is not None:
            _leave_router(router)
        stream.finished = True
        manager.listener.stats.downstream_rq_active.add(-1)
    manager._over = True
    manager._frozen = False
    manager._phase_timer.drop()
    manager._idle_timer.drop()
    manager._response_timer.drop()
    manager.connection.leave()
    manager.listener.stats.downstream_cx_active.add(-1)
    manager.owner.on_connection_moved(manager)


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


def dump(manager: ConnectionManager) -> dict[str, object]:
    """See `DownstreamConnection.dump`; deadlines are absolute CLOCK_MONOTONIC seconds."""
    assert not manager._out and not manager._pumping and not manager._over
    manager._count_sent()
    return {
        "kind": KIND,
        "version": DUMP_VERSION,
        "listener": manager.listener.name,
        "peer": manager.peer,
        "connection": manager.connection.dump(),
        "codec": manager.codec.dump(),
        "phase": manager._phase,
        "phase_deadline_s": manager._phase_timer.deadline_s,
        "idle_deadline_s": manager._idle_timer.deadline_s,
        "response_deadline_s": manager._response_timer.deadline_s,
        "sent": manager._sent,
        "stream": _dump_stream(manager.stream) if manager.stream is not None else None,
        "local": manager.local,
        "direct_peer": manager.direct_peer,
        "tlvs": manager.tlvs,
    }


def _dump_stream(stream: Stream) -> dict[str, object]:
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


class _RouterRecord(NamedTuple):
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


class _StreamRecord(NamedTuple):
    info: StreamInfo
    idle_timeout_s: float
    request_read: bool
    response_started: bool
    ends_by_close: bool
    taken: int
    router: _RouterRecord


class _Record(NamedTuple):
    peer: str
    connection: ConnectionState
    codec: Http1ServerCodec
    phase: int
    phase_deadline_s: float
    idle_deadline_s: float
    response_deadline_s: float
    sent: int
    stream: _StreamRecord | None
    announced: Announced | None
    direct_peer: str


def _read(state: object, listener: HttpListener, runtime: Runtime) -> _Record:
    record = saved_version(state, KIND, _SHAPES)
    if saved_text(record, "listener") != listener.name:
        raise ValueError("a connection of another listener")
    peer = saved_text(record, "peer")
    if not peer.isprintable():  # it becomes a field's value
        raise ValueError("peer: not an address")
    announced, direct_peer = (None, peer) if record["version"] == 1 else _read_announced(record, peer)
    connection = read_state(record["connection"])
    codec = Http1ServerCodec.load(record["codec"])
    phase = saved_int(record, "phase", _LAST_PHASE)
    stream = None if record["stream"] is None else _read_stream(record["stream"], runtime)
    if (phase == _BUSY) != (stream is not None):
        raise ValueError("phase: not that of a connection with a stream, or without one")
    if stream is not None:
        _check_stream(stream, codec)
    elif not codec.is_between_requests:
        raise ValueError("a request without a stream")
    elif connection["read_closed"] and not connection["pressed"]:
        raise ValueError("a connection that has ended")
    return _Record(
        peer,
        connection,
        codec,
        phase,
        saved_seconds(record, "phase_deadline_s"),
        saved_seconds(record, "idle_deadline_s"),
        saved_seconds(record, "response_deadline_s"),
        saved_int(record, "sent", connection["tx"]),
        stream,
        announced,
        direct_peer,
    )


def _read_announced(record: Mapping[str, object], peer: str) -> tuple[Announced | None, str]:
    """What a PROXY header has said, and the address of who sent it; None and the client's where there was none."""
    local, direct_peer = saved_text(record, "local"), saved_text(record, "direct_peer")
    tlvs = saved_bytes(record, "tlvs")
    if not local.isprintable() or not direct_peer.isprintable():
        raise ValueError("local or direct_peer: not an address")
    if not direct_peer:
        return None, peer
    return Announced(0, 0, True, peer, local, tlvs), direct_peer


def _check_stream(stream: _StreamRecord, codec: Http1ServerCodec) -> None:
    """Do the parts of the record agree?"""
    router, upstream = stream.router, stream.router.upstream
    ended = router.request_ended
    if stream.request_read != ended:
        raise ValueError("request_read: it is passed on as soon as it is read")
    held_bytes = sum(map(len, router.held))
    if router.held and not router.whole:
        raise ValueError("held: a part of a body that is not held")
    check_request(codec, router.head, ended, held_bytes if router.whole else None)
    if upstream is not None:
        raw = upstream.raw
        check_exchange(codec, upstream.codec, router.head, ended, stream.response_started, raw)
        if raw and not stream.response_started:
            raise ValueError("a tunnel without an answer")
        if upstream.idle_deadline_s:
            raise ValueError("a busy connection that is idle")
    elif stream.response_started or not router.whole:
        raise ValueError("an answer from nowhere, or a body that cannot be sent any more")


def _read_stream(state: object, runtime: Runtime) -> _StreamRecord:
    record = saved_part(state, "stream", _STREAM_KEYS)
    info = StreamInfo.load(saved_list(record, "info"))
    if info.start_s > runtime.clock.now_s():
        raise ValueError("a stream that has not begun yet")
    return _StreamRecord(
        info,
        saved_seconds(record, "idle_timeout_s"),
        saved_bool(record, "request_read"),
        saved_bool(record, "response_started"),
        saved_bool(record, "ends_by_close"),
        saved_int(record, "taken", MAX_COUNT),
        _read_router(record["router"], runtime),
    )


def _read_router(state: object, runtime: Runtime) -> _RouterRecord:
    record = saved_part(state, "router", _ROUTER_KEYS)
    name = saved_text(record, "cluster")
    cluster = runtime.snapshot.clusters.get(name)
    if cluster is None:
        raise ValueError(f"the cluster {name} is no longer there")
    upstream = record["upstream"]
    return _RouterRecord(
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


def load(
    make: type[ConnectionManager],
    state: dict[str, object],
    socks: Sequence[socket.socket],
    listener: HttpListener,
    owner: DownstreamOwner,
    runtime: Runtime,
) -> ConnectionManager:
    """See `Terminal.load`. That the other generation was draining is not part of a dump."""
    record = _read(state, listener, runtime)
    stream = record.stream
    if len(socks) != (2 if stream is not None and stream.router.upstream is not None else 1):
        raise ValueError(f"{len(socks)} descriptors came with the connection")
    manager = make(socks[0], record.direct_peer, listener, owner, runtime, record.announced)
    manager.connection = Connection.load(
        socks[0], record.connection, manager, runtime.loop, runtime.wheel, runtime.buffered
    )
    manager.pressed = manager.connection.pressed
    manager.codec = record.codec
    manager._loaded = True
    manager._phase = record.phase
    manager._phase_timer.deadline_s = record.phase_deadline_s  # armed by `start`
    manager._idle_timer.deadline_s = record.idle_deadline_s
    manager._response_timer.deadline_s = record.response_deadline_s
    manager._sent = record.sent
    manager._tx_counted = manager.connection.tx_bytes
    if stream is not None:
        manager.stream = _build_stream(stream, manager, runtime, socks)
    return manager


def _build_stream(
    record: _StreamRecord, manager: ConnectionManager, runtime: Runtime, socks: Sequence[socket.socket]
) -> Stream:
    stream = Stream(manager, manager.listener, runtime, record.info)
    stream.idle_timeout_s = record.idle_timeout_s
    stream.request_read = record.request_read
    stream.response_started = record.response_started
    stream._ends_by_close = record.ends_by_close
    stream._taken = record.taken
    stream.router = _build_router(record.router, stream, runtime, socks)
    manager.listener.stats.downstream_rq_active.add(1)
    return stream


def _build_router(record: _RouterRecord, stream: Stream, runtime: Runtime, socks: Sequence[socket.socket]) -> Router:
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
    upstream = UpstreamConnection.load(record.upstream, socks[1], cluster, router, router._pools, runtime)
    router._upstream = upstream
    router._endpoint = upstream.endpoint
    upstream.endpoint.active += 1
    cluster.stats.upstream_rq_active.add(1)
    if upstream.raw:
        router.tunnel = Tunnel(stream, router, upstream)
    return router


def start(manager: ConnectionManager) -> None:
    """The first turn of a loaded connection; nothing of it may touch a timer, whose deadlines go on."""
    manager._loaded = False
    manager.listener.options.apply_again(manager.connection.sock)
    wheel = manager._runtime.wheel
    wheel.resume(manager._phase_timer, manager)
    wheel.resume(manager._idle_timer, manager)
    wheel.resume(manager._response_timer, manager)
    manager.connection.start()
    manager.update_crowded()
    router = manager.stream.router if manager.stream is not None else None
    if router is None:
        return
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
    if manager.connection.pressed:
        router._pause_upstream()
