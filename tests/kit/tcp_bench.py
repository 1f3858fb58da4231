"""A TCP pipe, driven turn by turn between a real client socket and a real endpoint, in one process or several."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable

import msgpack

from hotproxy.clock import TimerWheel
from hotproxy.config.address import Address
from hotproxy.net.connection import FLUSH_S, LINGER_S
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.socket_options import DEFAULT, SocketOptions
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import Snapshot, TcpListener
from hotproxy.proxy.tcp_proxy import CONNECTING, TcpProxy
from hotproxy.proxy.tcp_routes import TcpRoutes
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER
from hotproxy.telemetry.stats import ClusterStats, ListenerStats, TcpStats
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.pool import Pools
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.handoff import add
from tests.kit.loop import FakeLoop

IDLE_S = 60.0


class Log:
    def __init__(self) -> None:
        self.lines: list[object] = []

    def log(self, info) -> None:
        self.lines.append(info)


class FirstOf:
    """A balancer without chance."""

    def __init__(self, endpoints) -> None:
        self.endpoints = endpoints

    def pick(self, avoid):
        return next((endpoint for endpoint in self.endpoints if endpoint not in avoid), None)


class Process:
    """What one worker has: a loop, stats and a snapshot; the owner of its connections."""

    def __init__(
        self,
        clock: FakeClock,
        endpoints: list[str],
        attempts: int = 3,
        cluster: str = "db",
        routes: TcpRoutes | None = None,
        proxy_protocol: int = 0,
        options: SocketOptions = DEFAULT,
        pass_through_tlvs: frozenset[int] = frozenset(),
    ) -> None:
        stats = ListenerStats.declare("in") + TcpStats.declare("in") + ClusterStats.declare("db")
        slab = self.slab = Slab.private(stats)
        self.declared = [stat for stat in stats if stat.kind == COUNTER]
        self.clock = clock
        self.wheel = TimerWheel(clock)
        self.loop = FakeLoop()
        self.gauge = FakeGauge()
        self.log = Log()
        self.tcp_stats = TcpStats(slab, "in")
        self.stats = ClusterStats(slab, "db")
        self.endpoints = [Endpoint(Address.parse(text), 1, options) for text in endpoints]
        self.listener = TcpListener(
            "in",
            cluster,
            IDLE_S,
            attempts,
            0,
            self.tcp_stats,
            ListenerStats(slab, "in"),
            self.log,
            routes=routes,
            options=options,
        )
        balancer = FirstOf(self.endpoints)
        known = Cluster(
            "db", self.endpoints, balancer, 1.0, 60.0, self.stats, proxy_protocol, pass_through_tlvs=pass_through_tlvs
        )
        snapshot = Snapshot({"in": self.listener}, {"db": known}, Pools())
        self.runtime = Runtime(self.loop, self.wheel, clock, random.Random(1), self.gauge, snapshot)
        self.ended: list[TcpProxy] = []
        self.moved: list[TcpProxy] = []

    def on_connection_closed(self, connection: TcpProxy) -> None:
        self.ended.append(connection)

    def on_connection_moved(self, connection: TcpProxy) -> None:
        self.moved.append(connection)

    def gauges(self) -> dict[str, int]:
        """Those that are not zero."""
        values = {
            "buffered": self.gauge.value,
            "upstream_cx_active": self.stats.upstream_cx_active.value,
            "endpoints": sum(endpoint.active for endpoint in self.endpoints),
        }
        return {name: value for name, value in values.items() if value}

    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        return {stat.name: value for stat in self.declared if (value := self.slab.counter(stat.name).value)}

    def assert_clean(self) -> None:
        pipes = self.runtime.pipes
        assert pipes._made == len(pipes._free), "a pipe was lost"
        pipes.close()
        assert not self.loop.readers and not self.loop.writers
        assert self.gauge.value == 0
        assert self.stats.upstream_cx_active.value == 0
        assert [endpoint.active for endpoint in self.endpoints] == [0] * len(self.endpoints)


class TcpBench:
    def __init__(
        self,
        family: str = "tcp",
        endpoints: int = 1,
        attempts: int = 3,
        cluster: str = "db",
        routes: TcpRoutes | None = None,
        proxy_protocol: int = 0,
        announced: Announced | None = None,
        pass_through_tlvs: frozenset[int] = frozenset(),
    ) -> None:
        self.clock = FakeClock()
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(endpoints)]
        self.texts = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in self.listeners]
        # Of every process alike.
        self.routes, self.proxy_protocol, self.pass_through_tlvs = routes, proxy_protocol, pass_through_tlvs
        self.process = Process(
            self.clock, self.texts, attempts, cluster, routes, proxy_protocol, pass_through_tlvs=pass_through_tlvs
        )
        if family == "tcp":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                self.client = socket.create_connection(listener.getsockname())
                ours, _ = listener.accept()
            # What is said in two pieces arrives in two, and not when the first one is acknowledged.
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.client, ours = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        ours.setblocking(False)
        self.client.settimeout(5)
        process = self.process
        self.proxy = TcpProxy(ours, "10.0.0.1:5000", process.listener, process, process.runtime, announced)
        self.upstream: socket.socket | None = None
        self.processes = [self.process]
        self.moved_away = False  # to a process that is not among them

    def start(self) -> None:
        self.proxy.start()

    def connect(self) -> socket.socket:
        """Let the proxy connect; the endpoint's end of it."""
        self.turn()
        self.listeners[0].settimeout(5)
        self.upstream, _ = self.listeners[0].accept()
        self.upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.upstream.settimeout(5)
        self.turn()
        return self.upstream

    def turn(self) -> None:
        self.process.loop.run()

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.process.wheel, seconds)
        self.turn()

    def move(self, commit: bool = True, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Hand the connection to another process, by way of msgpack; or have it back from there."""
        old, before = self.process, self.process.gauges()
        assert self.proxy.freeze()
        assert not self.proxy.freeze()
        assert not old.loop.readers and not old.loop.writers
        assert old.gauges() == before
        state = msgpack.unpackb(msgpack.packb(self.proxy.dump()))
        counters = old.counters()
        new = Process(
            self.clock, self.texts, routes=self.routes, proxy_protocol=self.proxy_protocol,
            pass_through_tlvs=self.pass_through_tlvs,
        )  # fmt: skip
        socks = [sock.dup() for sock in self.proxy.socks()]
        loaded = TcpProxy.load(state, socks, new.listener, new, new.runtime)
        connects = state["up"] is None and self.proxy.state == CONNECTING
        connecting = {"upstream_cx_active": 1, "endpoints": 1} if connects else {}
        assert add(new.gauges(), connecting) == before
        assert not new.loop.readers and not new.loop.writers
        assert not loaded.freeze()
        meanwhile()
        old.loop.run()
        old.wheel.advance()
        new.loop.run()
        new.wheel.advance()
        assert old.counters() == counters and new.counters() == {}
        if not commit:
            loaded.discard()
            assert new.moved == [loaded]
            new.assert_clean()
            self.proxy.thaw()
            if old.ended:  # by whoever wanted that meanwhile
                return
            assert old.gauges() == before
        else:
            self.proxy.release()
            assert old.moved == [self.proxy]
            old.assert_clean()
            self.proxy, self.process = loaded, new
            self.processes.append(new)
            self.proxy.start()
            assert new.gauges() == before
        destroyed = {"cluster.db.upstream_cx_destroy": 1} if commit and connects else {}
        assert old.counters() == add(counters, destroyed)

    @property
    def info(self):
        (line,) = self.process.log.lines
        return line

    def close(self) -> None:
        for sock in (self.client, self.upstream, *self.listeners):
            if sock is not None:
                sock.close()
        self.turn()
        self.pass_time(FLUSH_S + LINGER_S + 1)
        for process in self.processes:
            process.assert_clean()
        if self.moved_away:
            return
        assert self.process.ended == [self.proxy]
        assert len(self.process.log.lines) == 1
        begun, over = (
            sum(process.counters().get(f"cluster.db.upstream_cx_{name}", 0) for process in self.processes)
            for name in ("total", "destroy")
        )
        assert begun == over


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
