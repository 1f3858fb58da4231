"""A cluster with two endpoints, played: who uses its pools, and what the endpoints hear."""

from __future__ import annotations

import random
from types import SimpleNamespace

from hotproxy.clock import TimerWheel
from hotproxy.config.address import Address
from hotproxy.errors import Reason
from hotproxy.http.codec import END, HTTP_1_1, Event, RequestHead
from hotproxy.http.headers import Headers
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.stats import ClusterStats
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.connect import ConnectOwner, ConnectRuntime
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.load_balancer import RoundRobin
from hotproxy.upstream.pool import Pools
from hotproxy.upstream.upstream_connection import UpstreamConnection
from tests.kit.clock import FakeClock
from tests.kit.connection import FakeGauge
from tests.kit.fake_sockets import EOF, FakeLoop, FakeSocket

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class User:
    """Takes what comes, and notes it."""

    def __init__(self) -> None:
        self.upstream: UpstreamConnection | None = None
        self.heard: list[object] = []

    def on_pool_ready(self, upstream: UpstreamConnection) -> None:
        self.upstream = upstream

    def on_pool_failure(self, reason: Reason, error: str) -> None:
        self.heard.append(reason)

    def on_upstream_event(self, event: Event) -> None:
        self.heard.append(event)

    def on_upstream_raw(self, data: bytes) -> None:
        self.heard.append(data)

    def on_upstream_turn_end(self) -> None:
        pass

    def on_upstream_eof(self) -> None:
        self.heard.append(EOF)

    def on_upstream_lost(self, error: str) -> None:
        self.heard.append(error)

    def on_upstream_pressure(self, high: bool) -> None:
        self.heard.append(high)

    def on_internal_error(self) -> None:
        self.heard.append("bug")


class Attempt:
    """A connect whose outcome the test gives to its owner."""

    def __init__(self, owner: ConnectOwner) -> None:
        self.owner = owner
        self.started = self.cancelled = self.frozen = False

    def start(self) -> None:
        self.started = True

    def cancel(self) -> None:
        self.cancelled = True

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False


class World:
    """One cluster with two endpoints, and its pools."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.sockets: dict[int, FakeSocket] = {}
        self.loop = FakeLoop(self.sockets)
        self.buffered = FakeGauge()
        self.stats = ClusterStats(Slab.private(ClusterStats.declare("api")), "api")
        self.endpoints = [Endpoint(Address.parse(f"10.0.0.{number}:1")) for number in (1, 2)]
        balancer = RoundRobin(self.endpoints, random.Random(1))
        self.cluster = Cluster("api", self.endpoints, balancer, 1.0, 60.0, self.stats)
        self.snapshot = SimpleNamespace(clusters={"api": self.cluster})
        self.attempts: list[Attempt] = []
        self.said: list[tuple[str, bytes | str]] = []
        self.pools = Pools(self.connector)

    def connector(
        self, endpoint: Endpoint, timeout_s: float, owner: ConnectOwner, runtime: ConnectRuntime, preface: bytes = b""
    ) -> Attempt:  # fmt: skip
        self.attempts.append(Attempt(owner))
        return self.attempts[-1]

    def connected(self, endpoint: int = 0) -> tuple[User, UpstreamConnection, FakeSocket]:
        """A new connection, busy with a request."""
        user = User()
        self.pools.connect(self.cluster, self.endpoints[endpoint], user, self).start()
        fd = 10 + len(self.sockets)
        sock = self.sockets[fd] = FakeSocket(fd, f"up{fd}", lambda name, what: self.said.append((name, what)))
        self.attempts[-1].owner.on_connected(sock)  # type: ignore[arg-type]
        assert user.upstream is not None
        self.ask(user.upstream)
        return user, user.upstream, sock

    def ask(self, upstream: UpstreamConnection) -> None:
        upstream.send_head(RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"host", b"a")])))
        upstream.send_end(None)
        upstream.flush()

    def idle(self, endpoint: int = 0) -> tuple[UpstreamConnection, FakeSocket]:
        """A connection that has answered and waits in the pool."""
        user, upstream, sock = self.connected(endpoint)
        sock.inbox.append(ANSWER)
        self.loop.run()
        assert user.heard[-1] is END
        upstream.release()
        return upstream, sock

    def take(self, endpoint: int = 0) -> UpstreamConnection | None:
        return self.pools.take(self.cluster, self.endpoints[endpoint], User())
