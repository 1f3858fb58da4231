r"""A connect with a handshake behind it, for whoever would otherwise have a `ConnectAttempt`. Both within one timeout.

start() --> connecting --connected--> shaking --done, permitted--> on_connected(sock, secure)
                |                        \----not verified, ...--> on_connect_failed(TLS_FAILURE, why)
                \---- as ConnectAttempt
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

from hotproxy.errors import CONNECT_TIMEOUT, TLS_FAILURE, Reason
from hotproxy.net.connection import Gauge
from hotproxy.net.tls_handshake import GONE, LATE, UNVERIFIED, HandshakeSide, TlsHandshake
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.telemetry.stats import UpstreamSslStats
from hotproxy.telemetry.tls_info import TlsInfo
from hotproxy.upstream.connect import ConnectOwner, ConnectRuntime
from hotproxy.upstream.endpoint import Endpoint

_NOT_PERMITTED: Final = "no name in the endpoint's certificate is in san"


class UpstreamSide(HandshakeSide, Protocol):
    def permits(self, info: TlsInfo) -> bool: ...


class ClusterSide(Protocol):
    """A cluster's side of TLS (`net.tls_client.ClientTls`)."""

    def to(self, endpoint: str, host: str) -> UpstreamSide: ...


class TlsRuntime(ConnectRuntime, Protocol):
    buffered: Gauge


class Connecting(Protocol):
    def start(self) -> None: ...

    def cancel(self) -> None: ...

    def freeze(self) -> None:
        """Report nothing until `thaw`, or for ever after a `cancel`."""

    def thaw(self) -> None: ...


class Connector(Protocol):
    """Makes connects: `ConnectAttempt`, or a fake."""

    def __call__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        owner: ConnectOwner,
        runtime: ConnectRuntime,
        preface: bytes = b"",
    ) -> Connecting: ...


class UpstreamTls:
    """What a cluster with TLS has besides."""

    __slots__ = ("side", "stats")

    def __init__(self, side: ClusterSide, stats: UpstreamSslStats) -> None:
        self.side = side
        self.stats = stats


class TlsConnect:
    """A `Connecting`, used once."""

    __slots__ = ("_attempt", "_deadline_s", "_endpoint", "_handshake", "_owner", "_runtime", "_side", "_stats")

    def __init__(
        self,
        tls: UpstreamTls,
        endpoint: Endpoint,
        timeout_s: float,
        owner: ConnectOwner,
        runtime: TlsRuntime,
        connector: Connector,
        preface: bytes = b"",
    ) -> None:
        self._endpoint = endpoint
        self._owner: ConnectOwner | None = owner
        self._runtime = runtime
        self._side = tls.side.to(endpoint.name, endpoint.address.host)
        self._stats = tls.stats
        self._deadline_s = runtime.wheel.clock.now_s() + timeout_s if timeout_s > 0.0 else 0.0
        self._attempt: Connecting | None = connector(endpoint, timeout_s, self, runtime, preface)
        self._handshake: TlsHandshake | None = None

    def start(self) -> None:
        assert self._attempt is not None
        self._attempt.start()

    def cancel(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.close()
        self._owner = None

    def freeze(self) -> None:
        if self._attempt is not None:
            self._attempt.freeze()
        if self._handshake is not None:
            self._handshake.freeze()

    def thaw(self) -> None:
        if self._attempt is not None:
            self._attempt.thaw()
        if self._handshake is not None:
            self._handshake.thaw()

    # -- the connect's owner

    def on_connected(self, sock: socket.socket, secure: TlsLoop | None = None) -> None:
        self._attempt = None
        runtime = self._runtime
        left_s = 0.0
        if self._deadline_s:
            left_s = max(0.001, self._deadline_s - runtime.wheel.clock.now_s())
        self._handshake = TlsHandshake(sock, self._side, self, runtime.loop, runtime.wheel, runtime.buffered)
        self._handshake.start(left_s)

    def on_connect_failed(self, reason: Reason, error: str) -> None:
        self._attempt = None
        self._let_go().on_connect_failed(reason, error)

    # -- the handshake's owner

    def on_secured(self, sock: socket.socket, secure: TlsLoop) -> None:
        stats = self._stats
        if not self._side.permits(secure.info):
            stats.fail_verify_san.inc()
            secure.forget(sock.fileno())
            sock.close()
            self._let_go().on_connect_failed(TLS_FAILURE, _NOT_PERMITTED)
            return
        stats.handshake.inc()
        if secure.info.reused:
            stats.session_reused.inc()
        self._let_go().on_connected(sock, secure)

    def on_handshake_failed(self, how: int, why: str) -> None:
        if how == LATE:
            self._let_go().on_connect_failed(CONNECT_TIMEOUT, why)
            return
        if how == UNVERIFIED:
            self._stats.fail_verify_error.inc()
        elif how != GONE:
            self._stats.connection_error.inc()
        self._let_go().on_connect_failed(TLS_FAILURE, why)

    def _let_go(self) -> ConnectOwner:
        owner, self._owner = self._owner, None
        assert owner is not None, "a connect was reported twice"
        self._handshake = None
        return owner
