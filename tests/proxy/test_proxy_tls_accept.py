"""A listener with TLS: what becomes of accepted connections that shake hands, and of those that do not."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.config import model
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.net.tls_server import ServerTls
from hotproxy.proxy.listener import PATIENCE_S, Admission, Listener
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import Secured, Snapshot, TcpListener
from hotproxy.proxy.trusted_proxies import TrustedProxies
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.failure_log import FailureLog
from hotproxy.telemetry.stats import ListenerStats, ProxyProtocolStats, SslStats, TcpStats
from hotproxy.upstream.pool import Pools
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop
from tests.kit.tls import NAME, Files, Peer, benches, client_context


class Terminal:
    """A connection that does nothing but exist."""

    kind = "tcp"

    def __init__(self, sock, peer, listener, owner, runtime, announced=None, secure=None):
        self.sock, self.peer, self.owner, self.secure = sock, peer, owner, secure
        self.started = False

    def start(self) -> None:
        self.started = True

    def close(self, reason) -> None:
        self.secure.forget(self.sock.fileno())
        self.sock.close()
        self.owner.on_connection_closed(self)


class Bench:
    def __init__(self, files: Files, limit: int = 1000, trusted: bool = False, **settings: object) -> None:
        stats = (ListenerStats, TcpStats, SslStats, ProxyProtocolStats)
        slab = Slab.private([each for kind in stats for each in kind.declare("web")])
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = FakeLoop()
        self.log: list[str] = []
        self.stats, self.ssl = ListenerStats(slab, "web"), SslStats(slab, "web")
        pair = model.CertificateFiles(str(files.cert), str(files.key))
        tls = ServerTls("web", model.ListenerTls((pair,), **settings))  # type: ignore[arg-type]
        secured = Secured(tls, self.ssl, FailureLog(self.log.append, self.clock))
        config = TcpListener(
            "web", "c", 0.0, 1, 0, TcpStats(slab, "web"), self.stats, None, secured=secured,
            proxy_protocol=TrustedProxies(["127.0.0.0/8"], required=True) if trusted else None,
            proxy_stats=ProxyProtocolStats(slab, "web"),
        )  # fmt: skip
        runtime = Runtime(self.loop, self.wheel, self.clock, random.Random(1), FakeGauge(), Snapshot({}, {}, Pools()))
        self.admission = Admission(limit, self.wheel)
        self.listener = Listener(config, 128, Terminal, self.admission, self.loop, runtime)  # type: ignore[arg-type]
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.listener.add_socket(self.sock.dup(), 0, 0, True, shared=False)
        self.listener.start_accepting()
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        self.clients.append(socket.create_connection(self.sock.getsockname(), timeout=5))
        self.loop.run()
        return self.clients[-1]

    def shake(self, context: ssl.SSLContext | None = None) -> Peer:
        peer = Peer(self.connect(), context or client_context())
        for _ in range(6):
            try:
                done = peer.step()
            except ssl.SSLError:
                done = True
            peer.sock.sendall(peer.said())
            self.loop.run()
            if done:
                break
        return peer

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.wheel, seconds)
        self.loop.run()

    @property
    def terminals(self) -> list[Terminal]:
        return [each for each in self.listener.connections if isinstance(each, Terminal)]  # type: ignore[misc]

    def counts(self) -> dict[str, int]:
        names = ("handshake", "connection_error", "session_reused", "fail_verify_error", "fail_verify_no_cert",
                 "fail_verify_san", "handshake_timeout")  # fmt: skip
        return {name: value for name in names if (value := getattr(self.ssl, name).value)}

    def close(self) -> None:
        self.listener.close_connections(DRAIN_DEADLINE)
        self.listener.leave()
        self.admission.close()
        self.pass_time(2.0)  # whoever lingers
        for sock in [*self.clients, self.sock]:
            sock.close()
        self.loop.run()
        assert not self.loop.readers and not self.loop.writers
        assert self.stats.downstream_cx_active.value == self.admission.open == 0
        assert self.stats.downstream_cx_total.value == self.stats.downstream_cx_destroy.value


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
def make(files: Files) -> Iterator[Callable[..., Bench]]:
    with benches(Bench, files) as make:
        yield make


def test_a_handshake_becomes_a_connection(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.shake()
    (terminal,) = bench.terminals
    assert terminal.started
    assert isinstance(terminal.secure, TlsLoop)
    assert terminal.secure.info.server_name == NAME
    assert terminal.peer == "{}:{}".format(*bench.clients[0].getsockname())
    assert bench.counts() == {"handshake": 1}
    assert (bench.stats.downstream_cx_total.value, bench.stats.downstream_cx_active.value) == (1, 1)
    assert bench.log == []


def test_what_a_client_did_wrong_is_told_and_counted(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.connect().sendall(b"GET / HTTP/1.1\r\n\r\n")
    bench.loop.run()
    bench.shake(client_context(number=1))
    host, port = bench.clients[0].getsockname()
    assert bench.log[0] == f"listener 'web': TLS with {host}:{port} failed: plain HTTP was sent to a TLS port"
    assert bench.log[1].endswith("failed: the peer refused (unknown ca): it does not know the CA of our certificate")
    assert bench.counts() == {"connection_error": 2}
    assert bench.stats.downstream_cx_destroy.value == 2


def test_a_client_that_a_proxy_has_announced_is_told_by_its_own_address(make: Callable[..., Bench]) -> None:
    bench = make(trusted=True)
    bench.connect().sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\nGET / HTTP/1.1\r\n\r\n")
    bench.loop.run()
    assert bench.log == ["listener 'web': TLS with 192.0.2.7:5000 failed: plain HTTP was sent to a TLS port"]


def test_a_client_that_says_nothing_is_closed(make: Callable[..., Bench]) -> None:
    bench = make(handshake_timeout_s=5.0)
    client = bench.connect()
    bench.pass_time(5.0)
    assert client.recv(1) == b""
    assert bench.counts() == {"handshake_timeout": 1}
    assert bench.log[0].endswith("failed: the handshake took too long")


def test_clients_without_the_right_certificate(make: Callable[..., Bench], files: Files, tmp_path: Path) -> None:
    bench = make(client_ca=str(files.ca), client_san=("ann.example",))
    bench.shake()
    bench.shake(client_context(files=Files(tmp_path, "ann.example", number=1)))
    bob = bench.shake(client_context(files=Files(tmp_path, "bob.example")))
    bob.take_in()
    assert bob.ended
    assert bench.terminals == []
    bench.shake(client_context(files=Files(tmp_path, "ann.example")))
    assert len(bench.terminals) == 1
    assert bench.counts() == {
        "handshake": 1,
        "fail_verify_no_cert": 1,
        "fail_verify_error": 1,
        "fail_verify_san": 1,
    }
    assert [line.partition("failed: ")[2][:40] for line in bench.log] == [
        "the peer gave no certificate",
        "the peer's certificate is not accepted: ",
        "no name in the client's certificate is i",
    ]


def test_as_many_handshakes_as_may_be_put_the_others_off(make: Callable[..., Bench]) -> None:
    """They wait in the kernel's queue, and lose nothing."""
    bench = make(max_handshakes=2)
    first, _second = bench.connect(), bench.connect()
    third = bench.connect()
    assert len(bench.listener.connections) == 2
    first.close()
    bench.loop.run()
    assert len(bench.listener.connections) == 2  # the third is in
    peer = Peer(third, client_context())
    for _ in range(4):
        peer.step()
        third.sendall(peer.said())
        bench.loop.run()
    assert len(bench.terminals) == 1


def test_who_says_nothing_holds_nobody_up(make: Callable[..., Bench]) -> None:
    bench = make(max_handshakes=2)
    silent = [bench.connect(), bench.connect()]
    waiting = bench.connect()
    bench.pass_time(PATIENCE_S)
    assert silent[0].recv(1) == b""
    peer = Peer(waiting, client_context())
    for _ in range(4):
        peer.step()
        waiting.sendall(peer.said())
        bench.loop.run()
    assert len(bench.terminals) == 1
    assert bench.counts() == {"handshake": 1, "handshake_timeout": 2}  # with the third one, they were two again
    assert bench.log[0].endswith("the handshake took too long, with max_handshakes under way")


def test_those_whose_proxy_header_came_late_are_not_more_for_long(make: Callable[..., Bench]) -> None:
    """They were accepted when there was room."""
    bench = make(max_handshakes=2, trusted=True)
    clients = [bench.connect() for _ in range(5)]
    for client in clients:
        client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n")
    bench.loop.run()
    assert len(bench.listener.connections) == 5
    bench.pass_time(PATIENCE_S)
    assert len(bench.listener.connections) == 1
    assert bench.counts() == {"handshake_timeout": 4}


def test_a_generation_that_leaves_closes_them_at_its_deadline(make: Callable[..., Bench]) -> None:
    bench = make()
    client = bench.connect()
    (shaking,) = bench.listener.connections
    assert not shaking.freeze()
    bench.listener.drain()
    assert len(bench.listener.connections) == 1
    bench.listener.close_connections(DRAIN_DEADLINE)
    assert client.recv(1) == b""
