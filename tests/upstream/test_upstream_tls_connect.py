"""A connect with a handshake behind it: what its owner hears, and what is counted."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.config import model
from hotproxy.config.address import Address
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, TLS_FAILURE, Reason
from hotproxy.net.tls_client import ClientTls
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.stats import UpstreamSslStats
from hotproxy.upstream.connect import ConnectAttempt
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.tls_connect import TlsConnect, UpstreamTls
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop
from tests.kit.tls import NAME, Files, Peer, benches


class Runtime:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = FakeLoop()
        self.wheel = TimerWheel(self.clock)
        self.buffered = FakeGauge()


class Bench:
    """A connect to a listening socket of ours, 1 s."""

    def __init__(self, files: Files, context: ssl.SSLContext | None = None, **settings: object) -> None:
        self.runtime = Runtime()
        self.listener = socket.create_server(("127.0.0.1", 0))
        slab = Slab.private(UpstreamSslStats.declare("api"))
        self.stats = UpstreamSslStats(slab, "api")
        config = model.ClusterTls(**({"ca": str(files.ca), "sni": NAME} | settings))  # type: ignore[arg-type]
        tls = UpstreamTls(ClientTls(config), self.stats)
        endpoint = Endpoint(Address.parse("{}:{}".format(*self.listener.getsockname())))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if context is None else context
        self.context.load_cert_chain(files.cert, files.key)
        self.heard: list[object] = []
        self.connect = TlsConnect(tls, endpoint, 1.0, self, self.runtime, ConnectAttempt)
        self.accepted: list[socket.socket] = []

    def on_connected(self, sock: socket.socket, secure: TlsLoop | None = None) -> None:
        self.heard.append("connected")
        assert secure is not None
        secure.forget(sock.fileno())
        sock.close()

    def on_connect_failed(self, reason: Reason, error: str) -> None:
        self.heard.append((reason, error))

    def start(self) -> None:
        self.connect.start()
        self.runtime.loop.run()

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        self.accepted.append(sock)
        self.runtime.loop.run()
        return sock

    def shake(self) -> None:
        peer = Peer(self.accept(), self.context)
        for _ in range(5):
            try:
                peer.step()
            except ssl.SSLError:
                pass
            said = peer.said()
            if said and not self.heard:
                peer.sock.sendall(said)
            self.runtime.loop.run()

    def counts(self) -> dict[str, int]:
        names = ("handshake", "connection_error", "session_reused", "fail_verify_error", "fail_verify_san")
        return {name: value for name in names if (value := getattr(self.stats, name).value)}

    def pass_time(self, seconds: float) -> None:
        pass_time(self.runtime.clock, self.runtime.wheel, seconds)
        self.runtime.loop.run()

    def close(self) -> None:
        self.connect.cancel()
        self.pass_time(2.0)
        for sock in [*self.accepted, self.listener]:
            sock.close()
        assert not self.runtime.loop.readers and not self.runtime.loop.writers


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
def make(files: Files) -> Iterator[Callable[..., Bench]]:
    with benches(Bench, files) as make:
        yield make


def test_connected_means_shaken(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.start()
    assert bench.heard == []
    bench.shake()
    assert bench.heard == ["connected"]
    assert bench.counts() == {"handshake": 1}


def test_nobody_listens(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listener.close()
    bench.start()
    assert bench.heard == [(CONNECT_FAILURE, "Connection refused")]
    assert bench.counts() == {}


def test_a_certificate_that_does_not_fit(make: Callable[..., Bench]) -> None:
    bench = make(sni="other.example")
    bench.start()
    bench.shake()
    ((reason, error),) = bench.heard  # type: ignore[misc]
    assert reason is TLS_FAILURE
    assert error.startswith("the peer's certificate is not accepted: Hostname mismatch")
    assert bench.counts() == {"fail_verify_error": 1}


def test_a_name_that_is_not_wanted(make: Callable[..., Bench]) -> None:
    bench = make(san=("other.example",))
    bench.start()
    bench.shake()
    assert bench.heard == [(TLS_FAILURE, "no name in the endpoint's certificate is in san")]
    assert bench.counts() == {"fail_verify_san": 1}


def test_connect_and_handshake_share_one_timeout(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.start()
    bench.accept()
    bench.pass_time(1.0)
    assert bench.heard == [(CONNECT_TIMEOUT, "the handshake took too long")]


def test_an_endpoint_that_hangs_up(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.start()
    bench.accept().close()
    bench.runtime.loop.run()
    ((reason, _error),) = bench.heard  # type: ignore[misc]
    assert reason is TLS_FAILURE
    assert bench.counts() == {}


@pytest.mark.parametrize("moment", ["connecting", "shaking"])
def test_cancelled_nothing_is_heard(make: Callable[..., Bench], moment: str) -> None:
    bench = make()
    bench.connect.start()
    if moment == "shaking":
        bench.runtime.loop.run()
        bench.accept()
    bench.connect.cancel()
    bench.runtime.loop.run()
    bench.pass_time(2.0)
    assert bench.heard == []


@pytest.mark.parametrize("moment", ["connecting", "shaking"])
def test_frozen_nothing_is_heard_until_it_thaws(make: Callable[..., Bench], moment: str) -> None:
    bench = make()
    bench.connect.start()
    if moment == "shaking":
        bench.runtime.loop.run()
    bench.connect.freeze()
    bench.runtime.loop.run()
    assert not bench.runtime.loop.readers and not bench.runtime.loop.writers
    bench.connect.thaw()
    bench.runtime.loop.run()
    bench.shake()
    assert bench.heard == ["connected"]
