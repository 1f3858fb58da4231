"""How a TCP connection moves to another process: what `TcpProxy` does of `DownstreamConnection` for that.

A part of TcpProxy, apart because no byte passes through it. As in `http_moving`, the whole record is read before
anything is built.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from hotproxy.config.address import Address
from hotproxy.net.connection import Connection
from hotproxy.net.connection_state import ConnectionState
from hotproxy.net.saved_state import read_state
from hotproxy.proxy.filter_chain import DownstreamOwner
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import TcpListener
from hotproxy.saved import (
    MAX_COUNT,
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
from hotproxy.upstream.endpoint import Endpoint

if TYPE_CHECKING:
    from hotproxy.proxy.tcp_proxy import TcpProxy

KIND: Final = "tcp"
DUMP_VERSION: Final = 2

# The states of a TcpProxy in which it can move; in the others it ends by itself.
HELLO: Final = 0
CONNECTING: Final = 1
PIPING: Final = 2
DONE: Final = 4
# What is held for a client while we connect: one read. Protocols in which the client speaks first send far less.
EARLY_BYTES: Final = 64 * 1024

_KEYS: Final = frozenset(
    (
        "kind", "version", "listener", "info", "endpoint", "tried", "early", "idle_deadline_s", "moved", "counted",
        "down", "up",
    )
)  # fmt: skip
# Version 1 had fewer values in `info`, and knew no routes.
_SHAPES: Final = {1: _KEYS, DUMP_VERSION: _KEYS}
_COUNTED_KEYS: Final = frozenset(("down_rx", "down_tx", "up_rx", "up_tx"))


# -- the old side


def freeze(proxy: TcpProxy) -> bool:
    """See `DownstreamConnection.freeze`."""
    down, up = proxy._down.connection, proxy._up.connection
    if proxy.state > PIPING or proxy._frozen or proxy._loaded or down is None:
        return False
    proxy._down.settle()
    proxy._up.settle()
    if not down.freeze():
        return False
    if up is not None and not up.freeze():
        down.thaw()
        return False
    if proxy._attempt is not None:
        proxy._attempt.freeze()
    proxy._idle.suspend()
    proxy._frozen = True
    return True


def socks(proxy: TcpProxy) -> list[socket.socket]:
    """See `DownstreamConnection.socks`."""
    return [leg.connection.sock for leg in (proxy._down, proxy._up) if leg.connection is not None]


def thaw(proxy: TcpProxy) -> None:
    """See `DownstreamConnection.thaw`."""
    assert proxy._frozen, "thaw without freeze"
    proxy._frozen = False
    proxy._runtime.wheel.resume(proxy._idle, proxy)
    for leg in (proxy._down, proxy._up):
        if leg.connection is not None:
            leg.connection.thaw()
    if proxy._attempt is not None:
        proxy._attempt.thaw()
    postponed, proxy._postponed = proxy._postponed, None
    if postponed is not None:
        proxy.close(postponed)


def release(proxy: TcpProxy) -> None:
    """See `DownstreamConnection.release` and `discard`.

    A connect under way has no other place to go: that one ends here, and is counted so.
    """
    assert proxy._frozen or proxy._loaded, "a running connection cannot be let go"
    owner, proxy._owner = proxy._owner, None
    assert owner is not None
    proxy._frozen = False
    proxy._leave_endpoint(moved=proxy._up.connection is not None)
    proxy._stop_connecting()
    for leg in (proxy._down, proxy._up):
        if leg.connection is not None:
            leg.connection.leave()
    proxy.state = DONE
    proxy._let_go()
    owner.on_connection_moved(proxy)


# -- the record


def dump(proxy: TcpProxy) -> dict[str, object]:
    """See `DownstreamConnection.dump`. One that is connecting will connect anew where it is loaded."""
    down, up = proxy._down.connection, proxy._up.connection
    assert down is not None and proxy.state <= PIPING
    proxy._count()
    counted = proxy._meter.counted
    return {
        "kind": KIND,
        "version": DUMP_VERSION,
        "listener": proxy._listener.name,
        "info": proxy.info.dump(),
        "endpoint": proxy._endpoint.name if up is not None and proxy._endpoint is not None else "",
        "tried": [endpoint.name for endpoint in proxy._tried],
        "early": bytes(proxy._early),
        "idle_deadline_s": proxy._idle.deadline_s,
        "moved": proxy._moved,
        "counted": {"down_rx": counted[0], "down_tx": counted[1], "up_rx": counted[2], "up_tx": counted[3]},
        "down": down.dump(),
        "up": up.dump() if up is not None else None,
    }


class _Record(NamedTuple):
    info: StreamInfo
    endpoint: Endpoint | None
    tried: list[str]
    early: bytes
    idle_deadline_s: float
    moved: int
    counted: list[int]
    down: ConnectionState
    up: ConnectionState | None


def _read(state: object, listener: TcpListener, runtime: Runtime) -> _Record:
    record = saved_version(state, KIND, _SHAPES)
    if saved_text(record, "listener") != listener.name:
        raise ValueError("a connection of another listener")
    info = StreamInfo.load(saved_list(record, "info"))
    down = read_state(record["down"])
    up = None if record["up"] is None else read_state(record["up"])
    counted = saved_part(record["counted"], "counted", _COUNTED_KEYS)
    early = saved_bytes(record, "early")
    if early and up is not None:
        raise ValueError("bytes that wait for an endpoint which is there")
    return _Record(
        info,
        None if up is None else _find_endpoint(saved_text(record, "endpoint"), info.cluster, runtime),
        saved_texts(record, "tried"),
        early,
        saved_seconds(record, "idle_deadline_s"),
        saved_int(record, "moved", MAX_COUNT),
        # Never more than what was moved: a counter that went down would be taken for a restart of the instance.
        [
            saved_int(counted, "down_rx", down["rx"]),
            saved_int(counted, "down_tx", down["tx"]),
            saved_int(counted, "up_rx", up["rx"] if up is not None else 0),
            saved_int(counted, "up_tx", up["tx"] if up is not None else 0),
        ],
        down,
        up,
    )


def _find_endpoint(name: str, cluster_name: str, runtime: Runtime) -> Endpoint | None:
    """The config may no longer have it, but its connection goes on; counted by its cluster, if that is left."""
    cluster = runtime.snapshot.clusters.get(cluster_name)
    if cluster is None:
        return None
    known = next((endpoint for endpoint in cluster.endpoints if endpoint.name == name), None)
    return known or Endpoint(Address.parse(name))


def apply_options(proxy: TcpProxy) -> None:
    """What the config of today wants of the two sockets."""
    down, up = proxy._down.connection, proxy._up.connection
    if down is not None:
        proxy._listener.options.apply_again(down.sock)
    if up is not None and proxy._endpoint is not None:
        proxy._endpoint.options.apply_again(up.sock)


def _cluster_now(info: StreamInfo, listener: TcpListener, runtime: Runtime) -> str:
    """Of a connection that has none yet, by the config of today; what was chosen stays as long as it exists."""
    if listener.routes is None:
        return listener.cluster
    if info.cluster in runtime.snapshot.clusters:
        return info.cluster
    return listener.routes.pick(info.requested_server_name, runtime.random)


# -- the new side


def load(
    make: type[TcpProxy],
    state: dict[str, object],
    socks: Sequence[socket.socket],
    listener: TcpListener,
    owner: DownstreamOwner,
    runtime: Runtime,
) -> TcpProxy:
    """See `Terminal.load`."""
    record = _read(state, listener, runtime)
    if len(socks) != (1 if record.up is None else 2):
        raise ValueError(f"{len(socks)} descriptors came with the connection")
    loop, wheel, buffered = runtime.loop, runtime.wheel, runtime.buffered
    proxy = make(socks[0], "", listener, owner, runtime)
    proxy._loaded = True
    proxy.info = info = record.info
    if record.up is not None:  # the cluster that it was connected by
        proxy.use_cluster(info.cluster)
    elif info.cluster:
        info.attempts = max(0, info.attempts - 1)  # the one that was under way is begun anew
        proxy.use_cluster(_cluster_now(info, listener, runtime))
        proxy.state = CONNECTING
    down = proxy._down.connection = Connection.load(socks[0], record.down, proxy._down, loop, wheel, buffered)
    if record.up is not None:
        up = proxy._up.connection = Connection.load(socks[1], record.up, proxy._up, loop, wheel, buffered)
        proxy.state = PIPING
        if up.pressed:
            down.read_disable()
        if down.pressed:
            up.read_disable()
        if record.endpoint is not None and proxy._cluster is not None:
            proxy._use(record.endpoint, proxy._cluster)
    proxy._meter.counted = record.counted
    endpoints = proxy._cluster.endpoints if proxy._cluster is not None else ()
    proxy._tried = [endpoint for endpoint in endpoints if endpoint.name in record.tried]
    proxy._early += record.early
    buffered.add(len(record.early))
    if len(record.early) >= EARLY_BYTES:
        proxy._early_disabled = True
        down.read_disable()
    proxy._moved = record.moved
    proxy._idle.deadline_s = record.idle_deadline_s  # armed by `start`
    return proxy
