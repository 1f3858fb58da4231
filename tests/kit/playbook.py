"""Conversations over fake sockets: what each side says is a script, what each side receives is the result.

    play = Playbook(routes=[Route(prefix="/", cluster="api")])
    assert play(("down", GET), ("up", OK_HI)) == [("up", GET_FORWARDED), ("down", OK_HI_ANSWERED)]

Sides: "down" is the client, "up" the first connection to an endpoint, "up2" the second one ...; "origin" speaks on
the newest of them. What a side says or receives is bytes, or EOF, or RESET. ("time", seconds) lets time pass;
("window", side, bytes) says how much a side takes from now on (None: everything); ("handoff",) to another process,
("rollback",) of one that fails before it is committed, ("drain",) and ("deadline",) are what they say. The real
`Connection`, codecs, timer wheel and statistics are at work; only the kernel is played.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from hotproxy.clock import TimerWheel
from hotproxy.config.address import Address
from hotproxy.config.model import Route, VirtualHost
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, DRAIN_DEADLINE, LOCAL_CONNECT_FAILURE
from hotproxy.net.connection import OPEN
from hotproxy.net.proxy_protocol import Announced
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager
from hotproxy.proxy.route import RouteTable
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener, Snapshot
from hotproxy.proxy.stream import Stream
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
from tests.kit.fake_sockets import EOF as EOF  # as its users know it
from tests.kit.fake_sockets import RESET as RESET
from tests.kit.fake_sockets import FakeLoop, FakeSocket
from tests.kit.handoff import Handoff

# Outcomes of connects, in the order in which they are tried; after the last one, all of them succeed.
OK = "ok"
REFUSED = "refused"
TIMED_OUT = "timed out"
NO_DESCRIPTOR = "no descriptor"
HANGS = "hangs"

Step = tuple[object, ...]
Received = tuple[str, bytes | str]


class FakeConnect:
    """Stands in for `ConnectAttempt`: reports in the next turn what the script says."""

    def __init__(self, endpoint: Endpoint, play: Playbook, owner: object, preface: bytes) -> None:
        self._endpoint = endpoint
        self._play = play
        self._owner = owner
        self._preface = preface
        self._frozen = False
        self._reported = False

    def start(self) -> None:
        self._play.connects_to.append(self._endpoint.name)
        self._play.loop.call_soon(self._report)

    def cancel(self) -> None:
        self._owner = None

    def freeze(self) -> None:
        self._frozen = True

    def thaw(self) -> None:
        self._frozen = False
        self._play.loop.call_soon(self._report)

    def _report(self) -> None:
        if self._owner is None or self._frozen or self._reported:
            return
        self._reported = True
        outcome = self._play.outcomes.pop(0) if self._play.outcomes else OK
        if outcome == OK:
            sock = self._play.new_socket()
            if self._preface:
                sock.transmit(self._preface)
            self._owner.on_connected(sock)
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


ENDS: Final = (
    ("http.web.downstream_cx_total", "http.web.downstream_cx_destroy"),
    ("cluster.api.upstream_cx_total", "cluster.api.upstream_cx_destroy"),
)
STATS: Final = (*HttpStats.declare("web"), *ListenerStats.declare("web"), *ClusterStats.declare("api"))


class Worker:
    """What one process has."""

    def __init__(
        self,
        play: Playbook,
        endpoints: list[Endpoint],
        routes: RouteTable,
        request_headers_timeout_s: float,
        keepalive_timeout_s: float,
    ) -> None:
        self.wheel = TimerWheel(play.clock)
        self.loop = FakeLoop(play.sockets)
        self.slab = Slab.private(list(STATS))
        self.buffered = FakeGauge()
        self.http = HttpStats(self.slab, "web")
        self.upstream = ClusterStats(self.slab, "api")
        timeouts = (request_headers_timeout_s, keepalive_timeout_s)
        self.listener = HttpListener(
            "web", routes, *timeouts, 0, self.http, ListenerStats(self.slab, "web"), play.log,  # type: ignore[arg-type]
            xff_num_trusted_hops=play.trusted_hops, http2=play.http2,
        )  # fmt: skip
        balancer = RoundRobin(endpoints, _Random())
        self.cluster = Cluster(
            "api", endpoints, balancer, 1.0, 60.0, self.upstream, play.proxy_protocol,
            pass_through_tlvs=play.pass_through_tlvs,
        )  # fmt: skip
        self.pools = Pools(play.connector)
        snapshot = Snapshot({"web": self.listener}, {"api": self.cluster}, self.pools)
        self.runtime = Runtime(self.loop, self.wheel, play.clock, _Random(), self.buffered, snapshot)

    def gauges(self) -> dict[str, int]:
        """Those that are not zero."""
        values = {stat.name: self.slab.gauge(stat.name).value for stat in STATS if stat.kind == GAUGE}
        values["buffered"] = self.buffered.value
        values["active"] = sum(endpoint.active for endpoint in self.cluster.endpoints)
        return {name: value for name, value in values.items() if value}

    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        values = {stat.name: self.slab.counter(stat.name).value for stat in STATS if stat.kind == COUNTER}
        return {name: value for name, value in values.items() if value}


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
        proxy_protocol: int = 0,
        announced: Announced | None = None,
        trusted_hops: int = 0,
        pass_through_tlvs: frozenset[int] = frozenset(),
        http2: bool = True,
    ) -> None:
        self.clock = _Clock()
        self.trusted_hops = trusted_hops
        self.http2 = http2
        self.proxy_protocol = proxy_protocol
        self.pass_through_tlvs = pass_through_tlvs
        self.outcomes = list(outcomes)
        self.connects_to: list[str] = []
        self.log = _Log()
        self.sockets: dict[int, FakeSocket] = {}
        self.closed = 0  # times that the listener was told
        self.moved: list[object] = []  # the connections that it was told have moved
        self.received: list[Received] = []
        self._routes = routes
        self.endpoints = endpoints
        self._timeouts = (request_headers_timeout_s, keepalive_timeout_s)
        self._ups = 0
        self._fds = 0
        self._totals: dict[str, int] = {}
        self._use(self.new_worker())
        self.client = self._socket("down")
        self.manager: ConnectionManager | Http2ConnectionManager = ConnectionManager(
            self.client, peer, self.listener, self, self.runtime, announced  # type: ignore[arg-type]
        )  # fmt: skip
        self.manager.start()

    def new_worker(self) -> Worker:
        """A process of its own, for this playbook's client."""
        endpoints = [Endpoint(Address.parse(text)) for text in self.endpoints]
        table = RouteTable([VirtualHost("any", ("*",), tuple(self._routes))])
        return Worker(self, endpoints, table, *self._timeouts)

    def _use(self, worker: Worker) -> None:
        """From now on it is this one that serves."""
        self.worker = worker
        self.wheel, self.loop, self.slab, self.buffered = worker.wheel, worker.loop, worker.slab, worker.buffered
        self.http, self.upstream = worker.http, worker.upstream
        self.listener, self.cluster, self.pools, self.runtime = (
            worker.listener, worker.cluster, worker.pools, worker.runtime
        )  # fmt: skip

    def connector(
        self, endpoint: Endpoint, timeout_s: float, owner: object, runtime: object, preface: bytes = b""
    ) -> FakeConnect:
        return FakeConnect(endpoint, self, owner, preface)

    def _new_fd(self) -> int:
        self._fds += 1
        return 100 + self._fds

    def _socket(self, name: str) -> FakeSocket:
        fd = self._new_fd()
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

    def on_connection_moved(self, connection: object) -> None:
        self.moved.append(connection)

    def on_connection_becomes(self, connection: object, other: Http2ConnectionManager) -> None:
        assert connection is self.manager
        self.manager = other

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
        elif kind == "rollback":
            self.give_back()
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
            origins = [sock for sock in self.sockets.values() if sock.name != "down"]
            return max(origins, key=lambda sock: (not sock.closed, sock.peer.number), default=None)
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
        Handoff(self).commit()

    def give_back(self) -> None:
        """The other process fails before the move is committed: everything goes on in this one."""
        Handoff(self).roll_back()

    def dup(self, socks: Sequence[FakeSocket]) -> list[FakeSocket]:
        """As another process gets them."""
        copies = []
        for sock in socks:
            fd = self._new_fd()
            copies.append(sock.dup(fd))
            self.sockets[fd] = copies[-1]
        return copies

    def move_to(self, worker: Worker, manager: ConnectionManager | Http2ConnectionManager) -> None:
        """The old process has let go of everything."""
        self._add_totals()
        for fd, sock in list(self.sockets.items()):
            if sock.closed and sock.peer.copies:
                del self.sockets[fd]
        self._use(worker)
        self.manager = manager
        self.client = self.side("down")

    def streams(self) -> list[Stream]:
        """Those that are under way."""
        manager = self.manager
        if isinstance(manager, ConnectionManager):
            return [manager.stream] if manager.stream is not None else []
        return [lane.stream for lane in manager.lanes.values() if lane.stream is not None]

    def can_move(self) -> bool:
        """Is nothing breaking in this very moment (that ends by itself)?"""
        connections = [self.manager.connection]
        for stream in self.streams():
            if stream.router is not None and stream.router._upstream is not None:
                connections.append(stream.router._upstream.connection)
        return all(connection.state == OPEN for connection in connections)

    # -- looking

    def _add_totals(self) -> None:
        for name, value in self.worker.counters().items():
            self._totals[name] = self._totals.get(name, 0) + value

    def count(self, name: str) -> int:
        """A counter, over all processes so far."""
        return self._totals.get(name, 0) + self.slab.counter(name).value

    def counts(self) -> dict[str, int]:
        """All counters that are not zero, over all processes so far."""
        return {stat.name: count for stat in STATS if stat.kind == COUNTER and (count := self.count(stat.name))}

    def gauges(self) -> dict[str, int]:
        """Those that are not zero."""
        return self.worker.gauges()

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
        assert not self.streams()
        open_ = [sock.name for sock in self.sockets.values() if not sock.closed]
        assert not open_, f"still open: {open_}"
        assert not self.loop.readers and not self.loop.writers
        assert self.gauges() == {}
        for begun, over in ENDS:
            assert self.count(begun) == self.count(over), begun
        assert len(self.log.infos) == self.count("http.web.downstream_rq_total"), "streams begun and finished"
