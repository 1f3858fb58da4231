"""Real sockets, real epolls: connections that move between two workers' loops in one process, by descriptors that were
passed as a handoff passes them. The client and the origin notice nothing."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from hotproxy.clock import SystemClock, TimerWheel
from hotproxy.config.address import Address
from hotproxy.config.model import Cluster, Config, EndpointConfig, Listener, Route, Tcp, VirtualHost
from hotproxy.net.poller import Poller
from hotproxy.proxy.filter_chain import DownstreamConnection
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER, GAUGE
from hotproxy.worker.build import build, declare_stats

PATIENCE_S = 20.0
ANY = (Address.parse("127.0.0.1:0"),)
WEB = Listener("web", ANY, virtual_hosts=(VirtualHost("all", ("*",), (Route(prefix="/", cluster="c"),)),))
DB = Listener("db", ANY, tcp=Tcp("c", idle_timeout_s=60.0, max_connect_attempts=1))


class Worker:
    """All that a worker has, but for its process."""

    def __init__(self, endpoint: str) -> None:
        config = Config(listeners=(WEB, DB), clusters=(Cluster("c", (EndpointConfig(Address.parse(endpoint)),)),))
        self.loop = asyncio.new_event_loop()
        self.bugs: list[Exception] = []
        self.poller = Poller(self.loop, lambda callback, error: self.bugs.append(error))
        clock = SystemClock()
        self.stats = declare_stats(config)
        self.slab = Slab.private(self.stats)
        wheel = TimerWheel(clock)
        self.parts = build(config, self.slab, self.poller, wheel, clock, random.Random(1), self.bugs.append)  # type: ignore[arg-type]

    def turn(self) -> None:
        self.loop.call_later(0.001, self.loop.stop)
        self.loop.run_forever()
        assert self.bugs == []

    def gauges(self) -> dict[str, int]:
        values = {stat.name: self.slab.gauge(stat.name).value for stat in self.stats if stat.kind == GAUGE}
        values["buffered"] = self.slab.buffered_bytes
        return {name: value for name, value in values.items() if value}

    def counters(self) -> dict[str, int]:
        values = {stat.name: self.slab.counter(stat.name).value for stat in self.stats if stat.kind == COUNTER}
        return {name: value for name, value in values.items() if value}

    def close(self) -> None:
        self.parts.runtime.snapshot.pools.drain()
        assert self.poller.watched == 0
        assert self.gauges() == {}
        self.parts.admission.close()
        self.poller.close()
        self.loop.close()


class Stage:
    """An origin, two workers, and clients that are accepted by the first one."""

    def __init__(self, family: str) -> None:
        self.origin = socket.create_server(("127.0.0.1", 0))
        self.origin.setblocking(False)
        endpoint = f"127.0.0.1:{self.origin.getsockname()[1]}"
        self.family = family
        self.old, self.new = Worker(endpoint), Worker(endpoint)
        self.ours: list[socket.socket] = [self.origin]

    def client(self, listener: str) -> socket.socket:
        """A connection to the old worker, as its listener would have accepted it."""
        if self.family == "unix":
            client, accepted = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                client = socket.create_connection(listening.getsockname())
                accepted, _ = listening.accept()
        for sock in (client, accepted):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.ours.append(client)
        owner = self.old.parts.listeners[listener]
        connection = owner._terminal(accepted, "10.0.0.1:5000", owner.config, owner, self.old.parts.runtime)
        owner.connections.add(connection)
        owner._admission.count_opened()
        owner.config.listener_stats.downstream_cx_total.inc()
        owner.config.listener_stats.downstream_cx_active.add(1)
        connection.start()
        return client

    def upstream(self) -> socket.socket:
        found: list[socket.socket] = []

        def accepted() -> bool:
            try:
                found.append(self.origin.accept()[0])
            except BlockingIOError:
                return False
            return True

        self.until(accepted)
        found[0].setblocking(False)
        found[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ours.append(found[0])
        return found[0]

    def until(self, true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline_s, "nothing more happens"
            self.old.turn()
            self.new.turn()

    def receive(self, sock: socket.socket, ending: bytes = b"", size: int = 0) -> bytes:
        """Until there is so much, or such an end; b"" for both: until the connection's."""
        got = bytearray()

        def complete() -> bool:
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                return False
            got.extend(data)
            if not data:
                return True
            return bool((ending and got.endswith(ending)) or (size and len(got) >= size))

        self.until(complete)
        return bytes(got)

    def move(self, commit: bool = True) -> None:
        """All that the old worker has goes to the new one, or comes back."""
        old, new = self.old, self.new
        before, counted = old.gauges(), new.counters()
        movable: list[Any] = []
        for listener in old.parts.listeners.values():
            for connection in list(listener.connections):
                assert connection.freeze()
                movable.append((listener.config.name, connection))
        movable += [("", idle) for idle in old.parts.runtime.snapshot.pools.freeze_idle(100)]
        assert old.poller.watched == 0
        assert old.gauges() == before
        loaded = []
        for name, connection in movable:
            state = msgpack.unpackb(msgpack.packb(connection.dump()))
            socks = passed(connection.socks())
            runtime = new.parts.runtime
            if name:
                assert state["listener"] == name
                loaded.append(new.parts.listeners[name].adopt(state, socks))
            else:
                loaded.append(runtime.snapshot.pools.load_idle(state, socks[0], runtime))
        assert new.gauges() == before and new.counters() == counted and new.poller.watched == 0
        counters = old.counters()
        for _, connection in movable if commit else []:
            connection.release()
        for each in loaded:
            each.start() if commit else each.discard()
        for _, connection in [] if commit else movable:
            connection.thaw()
        assert old.counters() == counters
        assert (old.gauges(), new.gauges()) == (({}, before) if commit else (before, {}))
        assert (old if commit else new).poller.watched == 0
        if commit:
            self.old, self.new = new, old

    @property
    def connections(self) -> list[DownstreamConnection]:
        return [each for listener in self.old.parts.listeners.values() for each in listener.connections]

    def close(self) -> None:
        for sock in self.ours:
            sock.close()
        self.until(lambda: self.old.poller.watched == 0 and not self.connections)
        for worker in (self.old, self.new):
            worker.close()


def passed(socks: list[socket.socket]) -> list[socket.socket]:
    """As another process gets them."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        socket.send_fds(here, [b"x"], [sock.fileno() for sock in socks])
        _, fds, _, _ = socket.recv_fds(there, 1, len(socks))
    return [socket.socket(fileno=fd) for fd in fds]


@pytest.fixture(params=["tcp", "unix"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    descriptors = len(os.listdir("/proc/self/fd"))
    made = Stage(request.param)
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors


COMMIT = pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@COMMIT
def test_keep_alive_and_a_warm_pool(stage: Stage, commit: bool) -> None:
    client = stage.client("web")
    upstream = None
    for _ in range(3):
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        upstream = upstream or stage.upstream()
        assert stage.receive(upstream, b"\r\n\r\n").startswith(b"GET / ")
        upstream.sendall(ANSWER)
        assert stage.receive(client, b"hello").startswith(b"HTTP/1.1 200")
        stage.move(commit)


@COMMIT
def test_a_request_at_each_of_its_stations(stage: Stage, commit: bool) -> None:
    client = stage.client("web")
    client.sendall(b"POST / HTTP/1.1\r\nHo")
    stage.old.turn()
    stage.move(commit)
    client.sendall(b"st: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
    upstream = stage.upstream()
    got = stage.receive(upstream, b"2\r\nab\r\n")
    stage.move(commit)
    client.sendall(b"cde\r\n0\r\n\r\n")
    got += stage.receive(upstream, b"0\r\n\r\n")
    assert got.endswith(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
    stage.move(commit)
    upstream.sendall(ANSWER[:-3])
    got = stage.receive(client, b"he")
    stage.move(commit)
    upstream.sendall(ANSWER[-3:])
    assert (got + stage.receive(client, b"llo")).endswith(b"\r\n\r\nhello")


@COMMIT
def test_a_tunnel_and_a_pipe(stage: Stage, commit: bool) -> None:
    web, db = stage.client("web"), stage.client("db")
    db.sendall(b"select")
    of_db = stage.upstream()
    assert stage.receive(of_db, b"select")
    web.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    of_web = stage.upstream()
    stage.receive(of_web, b"\r\n\r\n")
    of_web.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    stage.receive(web, b"\r\n\r\n")
    for number in range(3):
        stage.move(commit)
        for client, upstream in ((web, of_web), (db, of_db)):
            client.sendall(b"ping%d" % number)
            assert stage.receive(upstream, b"%d" % number) == b"ping%d" % number
            upstream.sendall(b"pong%d" % number)
            assert stage.receive(client, b"%d" % number) == b"pong%d" % number
    for client, upstream in ((web, of_web), (db, of_db)):
        client.shutdown(socket.SHUT_WR)
        assert stage.receive(upstream) == b""
    stage.move(commit)
    for client, upstream in ((web, of_web), (db, of_db)):
        upstream.sendall(b"bye")
        upstream.close()
        assert stage.receive(client) == b"bye"


def test_a_slow_reader_gets_every_byte_through_a_row_of_moves(stage: Stage) -> None:
    data = random.Random(8).randbytes(6_000_000)
    client = stage.client("web")
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream = stage.upstream()
    stage.receive(upstream, b"\r\n\r\n")
    left = memoryview(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    got = bytearray()
    moves = 0

    def more() -> bool:
        nonlocal left, moves
        try:
            left = left[upstream.send(left[:200_000]) :]
        except BlockingIOError:
            pass
        if stage.old.slab.buffered_bytes and moves < 10:
            moves += 1
            stage.move(commit=moves % 3 != 0)
        try:
            got.extend(client.recv(100_000))
        except BlockingIOError:
            pass
        return len(got) > len(data) and got.endswith(data[-1000:])

    stage.until(more)
    assert got[got.index(b"\r\n\r\n") + 4 :] == data
    assert moves == 10


@COMMIT
def test_what_arrives_meanwhile_and_a_reset_are_seen_by_whoever_has_it(stage: Stage, commit: bool) -> None:
    client = stage.client("web")
    client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream = stage.upstream()
    stage.receive(upstream, b"\r\n\r\n")
    (connection,) = stage.connections
    assert connection.freeze()
    upstream.sendall(ANSWER)
    client.sendall(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
    for _ in range(5):
        stage.old.turn()
    with pytest.raises(BlockingIOError):
        client.recv(1)
    connection.thaw()
    stage.move(commit)
    assert stage.receive(client, b"hello")
    assert stage.receive(upstream, b"\r\n\r\n").startswith(b"GET /next ")
    stage.move(commit)
    upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    upstream.close()
    again = stage.upstream()  # a connection that was in use before: the request is sent once more
    assert stage.receive(again, b"\r\n\r\n").startswith(b"GET /next ")
    again.sendall(ANSWER)
    assert stage.receive(client, b"hello")
