"""One request through the objects that serve, with nobody at either end: what they decide is what a worker decides.

    we, as the client --socketpair--> ConnectionManager, Stream, Router, Pools --socketpair--> we, as the endpoint

Everything is built by `worker/build.py`, as in a worker; only the kernel's sockets are pairs, connects come about or
fail as the rehearsal wants it, and the access log is a notebook. Nothing leaves this process, no time passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from hotproxy.clock import SystemClock, TimerWheel
from hotproxy.config import model
from hotproxy.errors import CONNECT_FAILURE
from hotproxy.http.codec import RequestHead
from hotproxy.net.poller import Poller
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.proxy.filter_chain import DownstreamConnection
from hotproxy.proxy.route import Misfit, Route, RouteTable
from hotproxy.proxy.snapshot import HttpListener, Snapshot, TcpListener
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.telemetry.tls_info import TlsInfo
from hotproxy.upstream.connect import ConnectOwner, ConnectRuntime
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.worker.build import build, declare_stats

# Turns of the loop that a request needs between two endpoints, and some more; each is a look at two descriptors.
_TURNS: Final = 16
# What a request or an answer of our own can have, many times over.
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A route in front of the one that matched."""

    number: int
    route: model.Route
    misfit: Misfit


@dataclass(slots=True)
class Rehearsal:
    """What became of the request. Bytes are as they would be on the wire."""

    virtual_host: model.VirtualHost | None = None
    path: str = ""  # normalised; "" when the request did not come as far as the routes
    passed_over: list[PassedOver] = field(default_factory=list)
    number: int = -1  # of the route in its virtual host
    route: model.Route | None = None
    endpoints: list[str] = field(default_factory=list)  # which were tried, in this order
    forwarded: bytes = b""
    answered: bytes = b""
    info: StreamInfo | None = None


def rehearse(config: model.Config, listener: str, request: bytes, peer: str, reachable: bool) -> Rehearsal:
    """Send `request` to a listener of `config` from the address `peer`; `reachable`: do connects come about?"""
    # Certificates may be elsewhere, and bytes that nobody sends need no encryption.
    listeners = tuple(replace(each, access_log=None, tls=None) for each in config.listeners)
    quiet = replace(config, listeners=listeners, clusters=tuple(replace(each, tls=None) for each in config.clusters))
    loop = asyncio.new_event_loop()
    result = Rehearsal()
    stage = _Stage(loop, result, reachable)
    poller = Poller(loop, stage.on_bug)
    slab = Slab.private(declare_stats(quiet))
    parts = build(quiet, slab, poller, TimerWheel(SystemClock), SystemClock, random.Random(), _ignore)
    runtime = parts.runtime
    target = runtime.snapshot.listeners[listener]
    if isinstance(target, HttpListener):
        hosts = next(each.virtual_hosts for each in config.listeners if each.name == listener)
        target = replace(target, routes=_Watched(hosts, result), access_log=_Notebook(result))
    else:
        target = replace(target, access_log=_Notebook(result))
    runtime.snapshot.pools.connector = stage.connect
    clusters, pools = runtime.snapshot.clusters, runtime.snapshot.pools
    runtime.snapshot = Snapshot({**runtime.snapshot.listeners, listener: target}, clusters, pools)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        connection: ConnectionManager | TcpProxy
        if isinstance(target, TcpListener):
            connection = TcpProxy(theirs, peer, target, stage, runtime)
        else:
            connection = ConnectionManager(theirs, peer, target, stage, runtime)
            if any(each.tls for each in config.listeners if each.name == listener):
                connection.tls = TlsInfo("TLSv1.3", "")
        connection.start()
        ours.send(request)  # a request larger than a socket's buffer was refused long before its end
        stage.run(_TURNS + 2 * max((len(each.endpoints) for each in config.clusters), default=0))
        result.answered = _read(ours)
        if isinstance(connection, TcpProxy):
            result.info = connection.info
        elif connection.stream is not None:
            result.info = connection.stream.info
        if result.info is None:  # written when the connection is over
            with contextlib.suppress(OSError):  # over already
                ours.shutdown(socket.SHUT_WR)
            stage.run(_TURNS)
        result.forwarded = stage.received()
        poller.close()
    stage.close()
    loop.close()
    return result


class _Stage:
    """The endpoints, and the listener's side of the connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, result: Rehearsal, reachable: bool) -> None:
        self._loop = loop
        self._result = result
        self._reachable = reachable
        self._sockets: list[socket.socket] = []
        self._bug: Exception | None = None

    def connect(
        self, endpoint: Endpoint, timeout_s: float, owner: ConnectOwner, runtime: ConnectRuntime, preface: bytes = b""
    ) -> _Connect:
        return _Connect(self, endpoint, owner)

    def begin(self, endpoint: Endpoint, owner: ConnectOwner) -> None:
        self._result.endpoints.append(endpoint.name)
        if not self._reachable:
            self._loop.call_soon(owner.on_connect_failed, CONNECT_FAILURE, "rehearsed")
            return
        ours, theirs = socket.socketpair()
        self._sockets += [ours, theirs]
        for end in (ours, theirs):
            end.setblocking(False)
        self._loop.call_soon(owner.on_connected, theirs)

    def on_connection_closed(self, connection: DownstreamConnection) -> None:
        """It has no listener that keeps count."""

    def on_connection_moved(self, connection: DownstreamConnection) -> None:
        """There is nowhere to move to."""

    def on_connection_becomes(self, connection: DownstreamConnection, other: DownstreamConnection) -> None:
        """A rehearsed request is HTTP/1."""

    def on_bug(self, callback: Callable[[], None], error: Exception) -> None:
        self._bug = error

    def run(self, turns: int) -> None:
        for _ in range(turns):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()
            if self._bug is not None:
                raise self._bug

    def received(self) -> bytes:
        return b"".join(_read(sock) for sock in self._sockets[::2])

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


class _Connect:
    """A connect that comes about, or fails, in the next turn."""

    def __init__(self, stage: _Stage, endpoint: Endpoint, owner: ConnectOwner) -> None:
        self._stage = stage
        self._endpoint = endpoint
        self._owner = owner

    def start(self) -> None:
        self._stage.begin(self._endpoint, self._owner)

    def cancel(self) -> None:
        """Nobody cancels while the rehearsal runs: no time passes, and the client stays."""

    def freeze(self) -> None:
        """Nor does it move."""

    def thaw(self) -> None:
        """As `freeze`."""


class _Watched:
    """The listener's routes, which tell what was asked of them."""

    __slots__ = ("_result", "_table")

    def __init__(self, virtual_hosts: tuple[model.VirtualHost, ...], result: Rehearsal) -> None:
        self._table = RouteTable(virtual_hosts)
        self._result = result

    def find(self, authority: bytes, path: bytes, head: RequestHead, tls: TlsInfo | None) -> Route | None:
        found = self._table.find(authority, path, head, tls)
        result = self._result
        result.path = path.decode("latin-1")
        host = result.virtual_host = self._table.virtual_host(authority)
        for number, config in enumerate(host.routes if host is not None else ()):
            if found is not None and config is found.config:
                result.number, result.route = number, config
                break
            misfit = Route(config, "").misfit(path, head)
            assert misfit is not None, "a route in front of the one that was found matches"
            result.passed_over.append(PassedOver(number, config, misfit))
        return found


class _Notebook:
    """An access log for one exchange."""

    __slots__ = ("_result",)

    def __init__(self, result: Rehearsal) -> None:
        self._result = result

    def log(self, info: StreamInfo) -> None:
        self._result.info = info


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(_READ_BYTES)
    except OSError:  # nothing has come
        return b""


def _ignore(text: str) -> None:
    """A log file's complaints; there is none."""
