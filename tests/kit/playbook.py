"""Conversations over fake sockets: what each side says is a script, what each side receives is the result.

    play = Playbook(routes=[Route(prefix="/", cluster="api")])
    assert play(("down", GET), ("up", OK_HI)) == [("up", GET_FORWARDED), ("down", OK_HI_ANSWERED)]

Sides: "down" is the client, "up" the first connection to an endpoint, "up2" the second one ...; "origin" speaks on
the newest of them. What a side says or receives is bytes, or EOF, or RESET. ("time", seconds) lets time pass;
("window", side, bytes) says how much a side takes from now on (None: everything); ("handoff",), ("drain",) and
("deadline",) are what they say. The real `Connection`, codecs, timer wheel and statistics are at work; only the kernel
is played.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Sequence

import msgpack

from hotproxy.clock import TimerWheel
from hotproxy.config.address import Address
from hotproxy.config.model import Route, VirtualHost
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, DRAIN_DEADLINE, LOCAL_CONNECT_FAILURE
from hotproxy.net.connection import OPEN
from hotproxy.net.transfer import READ_BYTES
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.proxy.route import RouteTable
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener, Snapshot
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER, GAUGE
from hotproxy.telemetry.stats import ClusterStats, HttpStats, ListenerStats
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.load_balancer import RoundRobin
from hotproxy.upstream.pool import Pools
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge

EOF = "eof"
RESET = "reset"

# Outcomes of connects, in the order in which they are tried; after the last one, all of them succeed.
OK = "ok"
REFUSED = "refused"
TIMED_OUT = "timed out"
NO_DESCRIPTOR = "no descriptor"
HANGS = "hangs"

Step = tuple[object, ...]
Received = tuple[str, bytes | str]


class FakeSocket:
    """A descriptor without a kernel: what the peer has sent waits in `inbox`, what the peer receives is reported."""

    family = socket.AF_INET

    def __init__(self, fd: int, name: str, report: Callable[[str, bytes | str], None]) -> None:
        self.name = name
        self.inbox: list[bytes | str] = []
        self.window: int | None = None
        self.closed = False
        self.broken = False  # the peer has reset it
        self._fd = fd
        self._report = report
        self._shut = False
        self._reset_on_close = False

    @property
    def readable(self) -> bool:
        return bool(self.inbox)

    @property
    def writable(self) -> bool:
        return self.window is None or self.window > 0 or self.broken

    def fileno(self) -> int:
        return -1 if self.closed else self._fd

    def receive(self) -> bytes | None:
        assert not self.closed
        if not self.inbox:
            return None
        first = self.inbox[0]
        if first == EOF:
            return b""
        if first == RESET:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        assert isinstance(first, bytes)
        if len(first) > READ_BYTES:
            self.inbox[0] = first[READ_BYTES:]
        else:
            del self.inbox[0]
        return first[:READ_BYTES]

    def transmit(self, data: bytes) -> int:
        assert not self.closed and not self._shut
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        taken = data if self.window is None else data[: self.window]
        if not taken:
            return 0
        if self.window is not None:
            self.window -= len(taken)
        self._report(self.name, taken)
        return len(taken)

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR and not self.closed
        if self.broken:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self._shut = True
        self._report(self.name, EOF)

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._reset_on_close = True

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)

    def close(self) -> None:
        assert not self.closed, f"{self.name} is closed twice"
        self.closed = True
        if self._reset_on_close:
            self._report(self.name, RESET)
        elif not self._shut and not self.broken:
            self._report(self.name, EOF)


class FakeLoop:
    """Readiness by looking at fake sockets."""

    def __init__(self, sockets: dict[int, FakeSocket]) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self._soon: list[Callable[[], None]] = []
        self._sockets = sockets

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        del self.writers[fd]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def receive(self, fd: int) -> bytes | None:
        return self._sockets[fd].receive()

    def transmit(self, fd: int, data: bytes | bytearray) -> int:
        return self._sockets[fd].transmit(bytes(data))

    def is_quiet(self, fd: int) -> bool:
        return not self._sockets[fd].readable

    def run(self) -> None:
        """Until nothing is ready any more."""
        for _ in range(10_000):
            busy = bool(self._soon)
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()
            for fd, sock in list(self._sockets.items()):
                if fd in self.readers and sock.readable:
                    busy = True
                    self.readers[fd]()
                if fd in self.writers and sock.writable:
                    busy = True
                    self.writers[fd]()
            if not busy:
                return
        raise AssertionError("the loop spins")


class FakeConnect:
    """Stands in for `ConnectAttempt`: reports in the next turn what the script says."""

    def __init__(self, endpoint: Endpoint, play: Playbook, owner: object) -> None:
        self._endpoint = endpoint
        self._play = play
        self._owner = owner

    def start(self) -> None:
        self._play.connects_to.append(self._endpoint.name)
        self._play.loop.call_soon(self._report)

    def cancel(self) -> None:
        self._owner = None

    def _report(self) -> None:
        if self._owner is None:
            return
        outcome = self._play.outcomes.pop(0) if self._play.outcomes else OK
        if outcome == OK:
            self._owner.on_connected(self._play.new_socket())
        elif outcome == REFUSED:
            self._owner.on_connect_failed(CONNECT_FAILURE, "Connection refused")
        elif outcome == TIMED_OUT:
            self._owner.on_connect_failed(CONNECT_TIMEOUT, "Connection timed out")
        elif outcome == NO_DESCRIPTOR:
            self._owner.on_connect_failed(LOCAL_CONNECT_FAILURE, "Too many open files")


class _Clock(FakeClock):
    """Only monotonic time passes, so that every Date field is DATE."""

    def wall_s(self) -> float:
        return 1_700_000_000.0


class _Random(random.Random):
    """Makes request ids that can be compared."""

    def getrandbits(self, k: int) -> int:
        return 0


class _Log:
    def __init__(self) -> None:
        self.infos: list[StreamInfo] = []

    def log(self, info: StreamInfo) -> None:
        assert info not in self.infos, "a stream has finished twice"
        self.infos.append(info)


class Playbook:
    """One client's connection and everything behind it."""

    def __init__(
        self,
        routes: Sequence[Route] = (Route(prefix="/", cluster="api", name="all"),),
        endpoints: Sequence[str] = ("10.0.0.1:9000",),
        outcomes: Sequence[str] = (),
        peer: str = "10.1.1.1:5000",
        keepalive_timeout_s: float = 3600.0,
        request_headers_timeout_s: float = 10.0,
    ) -> None:
        self.clock = _Clock()
        self.outcomes = list(outcomes)
        self.connects_to: list[str] = []
        self.log = _Log()
        self.sockets: dict[int, FakeSocket] = {}
        self.closed = 0  # times that the listener was told
        self.received: list[Received] = []
        self._routes = routes
        self._endpoints = endpoints
        self._timeouts = (request_headers_timeout_s, keepalive_timeout_s)
        self._ups = 0
        self._stats = [*HttpStats.declare("web"), *ListenerStats.declare("web"), *ClusterStats.declare("api")]
        self._totals: dict[str, int] = {}
        self._build()
        self.client = self._socket("down")
        self.manager = ConnectionManager(self.client, peer, self.listener, self, self.runtime)  # type: ignore[arg-type]
        self.manager.start()

    def _build(self) -> None:
        """A worker of its own."""
        self.wheel = TimerWheel(self.clock)
        self.loop = FakeLoop(self.sockets)
        self.slab = Slab.private(self._stats)
        self.buffered = FakeGauge()
        self.http = HttpStats(self.slab, "web")
        self.upstream = ClusterStats(self.slab, "api")
        endpoints = [Endpoint(Address.parse(text)) for text in self._endpoints]
        cluster = Cluster("api", endpoints, RoundRobin(endpoints, _Random()), 1.0, 60.0, self.upstream)
        table = RouteTable([VirtualHost("any", ("*",), tuple(self._routes))])
        self.listener = HttpListener(
            "web", table, *self._timeouts, 0, self.http, ListenerStats(self.slab, "web"), self.log  # type: ignore[arg-type]
        )  # fmt: skip
        self.cluster = cluster
        self.pools = Pools(self._connector)
        snapshot = Snapshot({"web": self.listener}, {"api": cluster}, self.pools)
        self.runtime = Runtime(self.loop, self.wheel, self.clock, _Random(), self.buffered, snapshot)

    def _connector(self, endpoint: Endpoint, timeout_s: float, owner: object, runtime: object) -> FakeConnect:
        return FakeConnect(endpoint, self, owner)

    def _socket(self, name: str) -> FakeSocket:
        fd = 100 + len(self.sockets)
        sock = self.sockets[fd] = FakeSocket(fd, name, self._report)
        return sock

    def new_socket(self) -> FakeSocket:
        self._ups += 1
        return self._socket("up" if self._ups == 1 else f"up{self._ups}")

    def _report(self, name: str, what: bytes | str) -> None:
        last = self.received[-1] if self.received else ("", "")
        if last[0] == name and isinstance(what, bytes) and isinstance(last[1], bytes):
            self.received[-1] = (name, last[1] + what)
        else:
            self.received.append((name, what))

    def on_connection_closed(self, connection: object) -> None:
        self.closed += 1
        assert self.closed == 1, "the listener was told twice"

    # -- playing

    def __call__(self, *steps: Step) -> list[Received]:
        """Play these steps; returns what the sides have received meanwhile, in order, joined where it is one piece."""
        self.received = []
        self.loop.run()
        for step in steps:
            self._play(step)
            self.loop.run()
        return self.received

    def _play(self, step: Step) -> None:
        kind = step[0]
        if kind == "time":
            pass_time(self.clock, self.wheel, step[1])  # type: ignore[arg-type]
        elif kind == "window":
            self.side(step[1]).window = step[2]  # type: ignore[assignment]
        elif kind == "handoff":
            self.hand_off()
        elif kind == "drain":
            self.manager.drain()
        elif kind == "deadline":
            self.manager.close(DRAIN_DEADLINE)
        elif step[1] != b"":
            sock = self.side(kind)
            if step[1] == RESET:
                sock.broken = True
            sock.inbox.append(step[1])  # type: ignore[arg-type]

    def find(self, name: object) -> FakeSocket | None:
        """This side's socket, if there is one already."""
        if name == "origin":
            return max((sock for sock in self.sockets.values() if sock is not self.client), key=FakeSocket.fileno)
        return next((sock for sock in self.sockets.values() if sock.name == name), None)

    def side(self, name: object) -> FakeSocket:
        found = self.find(name)
        assert found is not None, f"nobody is called {name}"
        return found

    def is_read(self, name: str) -> bool:
        """Does anybody want to hear what this side says?"""
        return self.side(name).fileno() in self.loop.readers

    def hand_off(self) -> None:
        """Everything goes on in another process: all that it knows is the dump."""
        state = msgpack.unpackb(msgpack.packb(self.manager.dump()))
        socks = self.manager.sockets
        stream = self.manager.stream
        self.manager.connection.detach()
        if stream is not None and stream.router is not None:
            if stream.router._upstream is not None:
                stream.router._upstream.connection.detach()
            if stream.router._pending is not None:
                stream.router._pending.cancel()
        self.pools.drain()
        self._add_totals()
        self._build()
        self.manager = ConnectionManager.load(state, socks, self.listener, self, self.runtime)
        self.manager.start()

    def can_move(self) -> bool:
        """Is nothing breaking in this very moment (that ends by itself)?"""
        stream = self.manager.stream
        router = stream.router if stream is not None else None
        connections = [self.manager.connection]
        if router is not None and router._upstream is not None:
            connections.append(router._upstream.connection)
        return all(connection.state == OPEN for connection in connections)

    # -- looking

    def _add_totals(self) -> None:
        for stat in self._stats:
            if stat.kind == COUNTER:
                value = self.slab.counter(stat.name).value
                self._totals[stat.name] = self._totals.get(stat.name, 0) + value

    def count(self, name: str) -> int:
        """A counter, over all processes so far."""
        return self._totals.get(name, 0) + self.slab.counter(name).value

    def gauges(self) -> dict[str, int]:
        """Those that are not zero."""
        values = {stat.name: self.slab.gauge(stat.name).value for stat in self._stats if stat.kind == GAUGE}
        values["buffered"] = self.buffered.value
        return {name: value for name, value in values.items() if value}

    def ended(self) -> tuple[tuple[str, ...], str, int]:
        """Of the last stream that finished: flags, details, status."""
        info = self.log.infos[-1]
        return info.flags, info.details, info.status

    def end(self) -> None:
        """Everybody leaves; then nothing may be left: no gauge, no descriptor, no held byte, no unfinished stream."""
        self.loop.run()
        if not self.closed:
            self.client.broken = True
            self.manager.connection.abort("the test is over")
            self.loop.run()
        self.pools.drain()
        for sock in self.sockets.values():
            sock.window = None
        self.loop.run()
        pass_time(self.clock, self.wheel, 1.1)  # lingering
        self.loop.run()
        assert self.closed == 1, "the listener was not told that the connection is over"
        assert self.manager.stream is None
        open_ = [sock.name for sock in self.sockets.values() if not sock.closed]
        assert not open_, f"still open: {open_}"
        assert not self.loop.readers and not self.loop.writers
        assert self.gauges() == {}
        assert [endpoint.active for endpoint in self.cluster.endpoints] == [0] * len(self.cluster.endpoints)
        assert len(self.log.infos) == self.count("http.web.downstream_rq_total"), "streams begun and finished"
