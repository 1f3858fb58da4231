"""A listener with one connection of a trusted proxy, in one process or several; its terminal notes what it is given."""

from __future__ import annotations

import random
import socket

import msgpack

from hotproxy.clock import TimerWheel
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.proxy.listener import Admission, Listener
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import Snapshot, TcpListener
from hotproxy.proxy.trusted_proxies import TrustedProxies
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER
from hotproxy.telemetry.stats import ListenerStats, ProxyProtocolStats, TcpStats
from hotproxy.upstream.pool import Pools
from tests.kit.clock import FakeClock
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop

TIMEOUT_S = 15.0
STATS = ListenerStats.declare("web") + TcpStats.declare("web") + ProxyProtocolStats.declare("web")


class FakeTerminal:
    """Writes down what it is given."""

    kind = "tcp"

    def __init__(self, sock, peer, listener, owner, runtime, announced=None):
        self.sock, self.peer, self.owner, self.announced = sock, peer, owner, announced
        self.heard = []

    def start(self):
        self.heard.append("start")

    def receive(self, data):
        self.heard.append(data)

    def end(self):
        self.sock.close()
        self.owner.on_connection_closed(self)

    @classmethod
    def load(cls, state, socks, listener, owner, runtime):
        raise ValueError("another kind")


class Process:
    """One listener on a port of its own."""

    def __init__(self, clock: FakeClock, trusted=("127.0.0.0/8",), required: bool = True, wanted: bool = True) -> None:
        self.slab = Slab.private(STATS)
        self.clock = clock
        self.wheel = TimerWheel(clock)
        self.loop = FakeLoop()
        self.buffered = FakeGauge()
        stats = ListenerStats(self.slab, "web")
        config = TcpListener(
            "web", "c", 0.0, 1, 0, TcpStats(self.slab, "web"), stats, None, TIMEOUT_S,
            proxy_protocol=TrustedProxies(trusted, required) if wanted else None,
            proxy_stats=ProxyProtocolStats(self.slab, "web") if wanted else None,
        )  # fmt: skip
        runtime = Runtime(self.loop, self.wheel, clock, random.Random(1), self.buffered, Snapshot({}, {}, Pools()))
        self.admission = Admission(100, self.wheel)
        self.listener = Listener(config, 16, FakeTerminal, self.admission, self.loop, runtime)

    def counts(self) -> dict[str, int]:
        """Counters that are not zero, without what a test does anyway."""
        return {
            stat.name.removeprefix("proxy_proto.web.").removeprefix("listener.web."): value
            for stat in STATS
            if stat.kind == COUNTER and (value := self.slab.counter(stat.name).value)
        }

    @property
    def only(self):
        (connection,) = self.listener.connections
        return connection

    def end(self) -> None:
        for connection in list(self.listener.connections):
            if isinstance(connection, FakeTerminal):
                connection.end()
            else:
                connection.close(DRAIN_DEADLINE)
        self.listener.leave()
        self.admission.close()
        assert self.admission.open == 0 and self.buffered.value == 0
        assert not self.loop.readers and not self.loop.writers
        assert self.slab.gauge("listener.web.downstream_cx_active").value == 0


class Bench:
    def __init__(self, **options) -> None:
        self.clock = FakeClock()
        self.options = options
        self.process = Process(self.clock, **options)
        self.processes = [self.process]
        server = socket.create_server(("127.0.0.1", 0))
        self.process.listener.add_socket(server, 0, 0, True, False)
        self.process.listener.start_accepting()
        self.client = socket.create_connection(server.getsockname())
        self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.settimeout(5)
        self.run()

    def run(self) -> None:
        self.process.loop.run()

    def say(self, data: bytes) -> None:
        if data:
            self.client.sendall(data)
        self.run()

    def move(self, commit: bool = True, **options) -> None:
        """To another process, by way of msgpack; or back."""
        old, connection = self.process, self.process.only
        assert connection.freeze() and not connection.freeze()
        assert connection.socks()[0].fileno() not in old.loop.readers
        state = msgpack.unpackb(msgpack.packb(connection.dump()))
        new = Process(self.clock, **{**self.options, **options})
        self.processes.append(new)
        loaded = new.listener.adopt(state, [sock.dup() for sock in connection.socks()])
        assert new.buffered.value == old.buffered.value and not loaded.freeze() and not new.loop.readers
        if commit:
            connection.release()
            assert not old.listener.connections
            self.process = new
            loaded.start()
        else:
            loaded.discard()
            assert not new.listener.connections
            connection.thaw()

    @property
    def heard(self):
        """What the terminal has: its peer, the two ends that were announced, and bytes behind the header."""
        terminal = self.process.only
        assert terminal.heard.pop(0) == "start"
        announced = terminal.announced
        ends = (announced.remote, announced.local) if announced is not None and announced.known else None
        return terminal.peer, ends, b"".join(terminal.heard)

    @property
    def us(self) -> str:
        return "{}:{}".format(*self.client.getsockname())

    def counts(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for process in self.processes:
            for name, value in process.counts().items():
                total[name] = total.get(name, 0) + value
        del total["downstream_cx_total"]
        return total

    def is_closed(self) -> bool:
        """The client was hung up on, with a reset or without."""
        assert not self.process.listener.connections
        try:
            return self.client.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.end()
