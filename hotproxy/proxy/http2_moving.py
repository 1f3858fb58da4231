"""How an HTTP/2 connection moves to another process, with all of its streams: a part of `Http2ConnectionManager`.

The codec has windows, HPACK table and what waits; each lane has its stream with router and upstream connection
(`stream_moving`), and its deadlines. All or nothing: if one of the streams can't move now, the connection can't.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from hotproxy.http import http2_saved
from hotproxy.http.http2_exchange import check_exchange, check_request
from hotproxy.http.http2_frames import MAX_STREAM_ID
from hotproxy.http.http2_server import Http2ServerCodec
from hotproxy.http.http2_stream import Http2Stream
from hotproxy.net.connection import Connection
from hotproxy.net.connection_state import ConnectionState
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.saved_state import read_state
from hotproxy.proxy import stream_moving
from hotproxy.proxy.filter_chain import DownstreamOwner
from hotproxy.proxy.http2_lane import Http2Lane
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream_moving import StreamRecord
from hotproxy.saved import (
    MAX_COUNT,
    saved_bool,
    saved_bytes,
    saved_int,
    saved_list,
    saved_part,
    saved_record,
    saved_seconds,
    saved_text,
)

if TYPE_CHECKING:
    from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager

KIND: Final = "http2"
DUMP_VERSION: Final = 1
_LAST_PHASE: Final = 3

_KEYS: Final = frozenset(
    (
        "kind", "version", "listener", "peer", "local", "direct_peer", "tlvs", "connection", "codec", "phase",
        "phase_deadline_s", "announced_drain", "lanes",
    )
)  # fmt: skip
_LANE_KEYS: Final = frozenset(
    ("id", "stream", "pressed", "given", "sent", "idle_deadline_s", "response_deadline_s")
)  # fmt: skip


# -- the old side


def freeze(manager: Http2ConnectionManager) -> bool:
    """See `DownstreamConnection.freeze`."""
    if manager._over or manager._frozen or manager._loaded or manager._pumping or manager._flushing:
        return False
    if not manager.connection.freeze():
        return False
    frozen: list[Http2Lane] = []
    for lane in manager.lanes.values():
        if lane.stream is not None and not stream_moving.freeze(lane.stream):
            for other in frozen:
                _thaw(other)
            manager.connection.thaw()
            return False
        frozen.append(lane)
    manager._frozen = True
    manager._phase_timer.suspend()
    for lane in frozen:
        lane.suspend()
    return True


def _thaw(lane: Http2Lane) -> None:
    if lane.stream is not None:
        stream_moving.thaw(lane.stream)


def socks(manager: Http2ConnectionManager) -> list[socket.socket]:
    """See `DownstreamConnection.socks`."""
    found = [manager.connection.sock]
    for lane in manager.lanes.values():
        if lane.stream is not None:
            found += stream_moving.socks(lane.stream)
    return found


def thaw(manager: Http2ConnectionManager) -> None:
    """See `DownstreamConnection.thaw`."""
    assert manager._frozen, "thaw without freeze"
    manager._frozen = False
    manager.runtime.wheel.resume(manager._phase_timer, manager)
    manager.connection.thaw()
    for lane in list(manager.lanes.values()):
        lane.go_on()
        _thaw(lane)
    postponed, manager._postponed = manager._postponed, None
    if postponed is not None:
        manager.close(postponed)
    elif manager._draining:
        manager.drain()


def release(manager: Http2ConnectionManager) -> None:
    """See `DownstreamConnection.release` and `discard`."""
    assert manager._frozen or manager._loaded, "a running connection cannot be let go"
    for lane in manager.lanes.values():
        stream, lane.stream = lane.stream, None
        if stream is not None:
            stream_moving.release(stream)
    manager._over = True
    manager._frozen = False
    manager.let_go()
    manager.connection.leave()
    manager.listener.stats.downstream_cx_active.add(-1)
    manager.listener.stats.downstream_cx_http2_active.add(-1)
    manager.owner.on_connection_moved(manager)


# -- the record


def dump(manager: Http2ConnectionManager) -> dict[str, object]:
    """See `DownstreamConnection.dump`; deadlines are absolute CLOCK_MONOTONIC seconds."""
    assert not manager._pumping and not manager._over
    manager._count_sent()
    return {
        "kind": KIND,
        "version": DUMP_VERSION,
        "listener": manager.listener.name,
        "peer": manager.peer,
        "local": manager.local,
        "direct_peer": manager.direct_peer,
        "tlvs": manager.tlvs,
        "connection": manager.connection.dump(),
        "codec": http2_saved.dump(manager.codec),
        "phase": manager._phase,
        "phase_deadline_s": manager._phase_timer.deadline_s,
        "announced_drain": manager._announced_drain,
        "lanes": [_dump_lane(lane) for lane in manager.lanes.values()],
    }


def _dump_lane(lane: Http2Lane) -> dict[str, object]:
    return {
        "id": lane.stream_id,
        "stream": stream_moving.dump(lane.stream) if lane.stream is not None else None,
        "pressed": lane.pressed,
        "given": lane._given,
        "sent": lane._sent,
        "idle_deadline_s": lane._idle_timer.deadline_s,
        "response_deadline_s": lane._response_timer.deadline_s,
    }


class _LaneRecord(NamedTuple):
    stream_id: int
    stream: StreamRecord | None
    pressed: bool
    given: int
    sent: int
    idle_deadline_s: float
    response_deadline_s: float


class _Record(NamedTuple):
    peer: str
    announced: Announced | None
    connection: ConnectionState
    codec: Http2ServerCodec
    phase: int
    phase_deadline_s: float
    announced_drain: bool
    lanes: list[_LaneRecord]


def _read(state: object, listener: HttpListener, runtime: Runtime) -> _Record:
    record = saved_record(state, KIND, DUMP_VERSION, _KEYS)
    if saved_text(record, "listener") != listener.name:
        raise ValueError("a connection of another listener")
    peer, announced = _read_client(record)
    codec = http2_saved.load(record["codec"])
    lanes = [_read_lane(lane, codec, runtime) for lane in saved_list(record, "lanes")]
    if sorted(lane.stream_id for lane in lanes) != sorted(codec.open_streams):
        raise ValueError("lanes: not those of the codec's streams")
    return _Record(
        peer,
        announced,
        read_state(record["connection"]),
        codec,
        saved_int(record, "phase", _LAST_PHASE),
        saved_seconds(record, "phase_deadline_s"),
        saved_bool(record, "announced_drain"),
        lanes,
    )


def _read_client(record: Mapping[str, object]) -> tuple[str, Announced | None]:
    """Who has connected, and whom it has announced, if it is a proxy."""
    peer, local, direct_peer = (
        saved_text(record, "peer"),
        saved_text(record, "local"),
        saved_text(record, "direct_peer"),
    )
    if not (peer.isprintable() and local.isprintable() and direct_peer.isprintable()):
        raise ValueError("peer, local or direct_peer: not an address")
    tlvs = saved_bytes(record, "tlvs")
    return (direct_peer, Announced(0, 0, True, peer, local, tlvs)) if direct_peer else (peer, None)


def _read_lane(state: object, codec: Http2ServerCodec, runtime: Runtime) -> _LaneRecord:
    record = saved_part(state, "lane", _LANE_KEYS)
    stream_id = saved_int(record, "id", MAX_STREAM_ID)
    stream = None if record["stream"] is None else stream_moving.read(record["stream"], runtime)
    known = codec.stream(stream_id)
    if known is None:
        raise ValueError("lane: of no stream")
    if stream is not None:
        _check_stream(stream, known)
    elif not known.ending:
        raise ValueError("lane: neither a stream nor a response that is complete")
    return _LaneRecord(
        stream_id,
        stream,
        saved_bool(record, "pressed"),
        saved_int(record, "given", MAX_COUNT),
        saved_int(record, "sent", MAX_COUNT),
        saved_seconds(record, "idle_deadline_s"),
        saved_seconds(record, "response_deadline_s"),
    )


def _check_stream(stream: StreamRecord, known: Http2Stream) -> None:
    """Do the parts of the record agree?"""
    router, started = stream.router, stream.response_started
    ended = router.request_ended
    if stream.request_read != ended:
        raise ValueError("request_read: it is passed on as soon as it is read")
    held_bytes = sum(map(len, router.held))
    if router.held and not router.whole:
        raise ValueError("held: a part of a body that is not held")
    check_request(known, router.head, ended, started, held_bytes if router.whole else None)
    upstream = router.upstream
    if upstream is not None:
        check_exchange(known, upstream.codec, router.head, ended, started)
        if upstream.raw:
            raise ValueError("a tunnel")
        if upstream.idle_deadline_s:
            raise ValueError("a busy connection that is idle")
    elif started or not router.whole:
        raise ValueError("an answer from nowhere, or a body that cannot be sent any more")


# -- the new side


def load(
    make: type[Http2ConnectionManager],
    state: dict[str, object],
    socks: Sequence[socket.socket],
    listener: HttpListener,
    owner: DownstreamOwner,
    runtime: Runtime,
) -> Http2ConnectionManager:
    """See `Terminal.load`. That the other generation was draining is part of a dump only where the client was told."""
    record = _read(state, listener, runtime)
    upstreams = [lane for lane in record.lanes if lane.stream is not None and lane.stream.router.upstream is not None]
    if len(socks) != 1 + len(upstreams):
        raise ValueError(f"{len(socks)} descriptors came with the connection")
    manager = make(socks[0], record.peer, listener, owner, runtime, record.announced)
    manager.connection = Connection.load(
        socks[0], record.connection, manager, runtime.loop, runtime.wheel, runtime.buffered
    )
    manager.codec = record.codec
    manager.codec.choked = manager.connection.pressed
    manager._loaded = True
    manager._phase = record.phase
    manager._phase_timer.deadline_s = record.phase_deadline_s  # armed by `start`
    manager._announced_drain = record.announced_drain
    manager._tx_counted = manager.connection.tx_bytes
    manager._buffered = record.codec.waiting_total
    runtime.buffered.add(manager._buffered)
    rest = list(socks[1:])
    for lane_record in record.lanes:
        _build_lane(lane_record, manager, rest)
    return manager


def _build_lane(record: _LaneRecord, manager: Http2ConnectionManager, socks: list[socket.socket]) -> None:
    lane = Http2Lane(manager)
    lane.stream_id = record.stream_id
    lane.pressed = record.pressed
    lane._given = record.given
    lane._sent = record.sent
    lane._idle_timer.deadline_s = record.idle_deadline_s
    lane._response_timer.deadline_s = record.response_deadline_s
    manager.lanes[record.stream_id] = lane
    if record.stream is not None:
        own = [socks.pop(0)] if record.stream.router.upstream is not None else []
        lane.stream = stream_moving.build(record.stream, lane, manager.listener, manager.runtime, own)


def start(manager: Http2ConnectionManager) -> None:
    """The first turn of a loaded connection; nothing of it may touch a timer, whose deadlines go on."""
    manager._loaded = False
    manager.listener.options.apply_again(manager.connection.sock)
    manager.runtime.wheel.resume(manager._phase_timer, manager)
    lanes = list(manager.lanes.values())
    for lane in lanes:
        lane.go_on()
    manager.connection.start()
    for lane in lanes:
        if lane.stream is not None:
            stream_moving.start(lane.stream)
