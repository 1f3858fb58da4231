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

from hotproxy.http.http1_exchange import check_exchange, check_request
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.net.connection import Connection
from hotproxy.net.connection_state import ConnectionState
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.saved_state import read_state
from hotproxy.proxy import stream_moving
from hotproxy.proxy.filter_chain import DownstreamOwner
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener
from hotproxy.proxy.stream_moving import StreamRecord
from hotproxy.saved import (
    saved_bytes,
    saved_int,
    saved_seconds,
    saved_text,
    saved_version,
)

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


# -- the old side


def freeze(manager: ConnectionManager) -> bool:
    """See `DownstreamConnection.freeze`."""
    if manager._over or manager._frozen or manager._loaded or manager._pumping or manager._out:
        return False
    if not manager.connection.freeze():
        return False
    stream = manager.stream
    if stream is not None and not stream_moving.freeze(stream):
        manager.connection.thaw()
        return False
    manager._frozen = True
    manager._phase_timer.suspend()
    manager._idle_timer.suspend()
    manager._response_timer.suspend()
    return True


def socks(manager: ConnectionManager) -> list[socket.socket]:
    """See `DownstreamConnection.socks`."""
    return [manager.connection.sock] + (stream_moving.socks(manager.stream) if manager.stream is not None else [])


def thaw(manager: ConnectionManager) -> None:
    """See `DownstreamConnection.thaw`."""
    assert manager._frozen, "thaw without freeze"
    manager._frozen = False
    wheel = manager._runtime.wheel
    wheel.resume(manager._phase_timer, manager)
    wheel.resume(manager._idle_timer, manager)
    wheel.resume(manager._response_timer, manager)
    manager.connection.thaw()
    if manager.stream is not None:
        stream_moving.thaw(manager.stream)
    postponed, manager._postponed = manager._postponed, None
    if postponed is not None:
        manager.close(postponed)


def release(manager: ConnectionManager) -> None:
    """See `DownstreamConnection.release` and `discard`."""
    assert manager._frozen or manager._loaded, "a running connection cannot be let go"
    stream, manager.stream = manager.stream, None
    if stream is not None:
        stream_moving.release(stream)
    manager._over = True
    manager._frozen = False
    manager._phase_timer.drop()
    manager._idle_timer.drop()
    manager._response_timer.drop()
    manager.connection.leave()
    manager.listener.stats.downstream_cx_active.add(-1)
    manager.owner.on_connection_moved(manager)


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
        "stream": stream_moving.dump(manager.stream) if manager.stream is not None else None,
        "local": manager.local,
        "direct_peer": manager.direct_peer,
        "tlvs": manager.tlvs,
    }


class _Record(NamedTuple):
    peer: str
    connection: ConnectionState
    codec: Http1ServerCodec
    phase: int
    phase_deadline_s: float
    idle_deadline_s: float
    response_deadline_s: float
    sent: int
    stream: StreamRecord | None
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
    stream = None if record["stream"] is None else stream_moving.read(record["stream"], runtime)
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


def _check_stream(stream: StreamRecord, codec: Http1ServerCodec) -> None:
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
        manager.stream = stream_moving.build(stream, manager, manager.listener, runtime, socks[1:])
    return manager


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
    if manager.stream is not None:
        stream_moving.start(manager.stream)
