r"""An accepted connection while it shakes hands: in its listener's set like any other, until it is one of the others.

    start() --> shaking --done, client permitted--> on_secured: the listener makes its terminal of it
                   \----failed, late, closed------> on_connection_closed, counted, and told in the log

It never moves to another process: a handshake takes less time than a move, and its secrets belong to OpenSSL.
"""

from __future__ import annotations

import socket
from typing import Final, NoReturn, Protocol

from hotproxy.errors import Reason
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_handshake import GONE, LATE, NO_PEER_CERTIFICATE, UNVERIFIED, HandshakeSide, TlsHandshake
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy.runtime import Runtime
from hotproxy.telemetry.stats import SslStats
from hotproxy.telemetry.tls_info import TlsInfo

_NOT_PERMITTED: Final = "no name in the client's certificate is in client_san"


class HandshakeLog(Protocol):
    """Told what clients did wrong (`telemetry.failure_log.FailureLog`)."""

    def tell(self, text: str) -> None: ...


class DownstreamTls(HandshakeSide, Protocol):
    """A listener's side of TLS (`net.tls_server.ServerTls`)."""

    handshake_timeout_s: float
    max_handshakes: int

    def permits(self, info: TlsInfo) -> bool: ...


class SecuringOwner(Protocol):
    """The listener, seen from here. One of the two is called, exactly once."""

    def on_secured(self, shaking: Shaking, sock: socket.socket, secure: TlsLoop) -> None: ...

    def on_shaking_failed(self, shaking: Shaking) -> None: ...


class Shaking:
    """A `DownstreamConnection` that is not there for long."""

    __slots__ = ("_failures", "_handshake", "_name", "_owner", "_stats", "_tls", "announced", "peer", "started_s")

    kind: Final = "tls_handshake"

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        name: str,
        tls: DownstreamTls,
        stats: SslStats,
        failures: HandshakeLog,
        owner: SecuringOwner,
        runtime: Runtime,
        announced: Announced | None = None,
        received: bytes = b"",
    ) -> None:
        """`announced`: what a PROXY header has said; `received`: what came behind it already."""
        self.peer = peer
        self.announced = announced
        self.started_s = runtime.clock.now_s()
        self._name = name
        self._tls = tls
        self._stats = stats
        self._failures = failures
        self._owner: SecuringOwner | None = owner
        self._handshake: TlsHandshake | None = TlsHandshake(
            sock, tls, self, runtime.loop, runtime.wheel, runtime.buffered, received
        )

    def start(self) -> None:
        assert self._handshake is not None
        self._handshake.start(self._tls.handshake_timeout_s)

    def on_secured(self, sock: socket.socket, secure: TlsLoop) -> None:
        owner = self._let_go()
        info = secure.info
        if not self._tls.permits(info):
            self._stats.fail_verify_san.inc()
            self._tell(_NOT_PERMITTED)
            secure.forget(sock.fileno())
            sock.close()
            owner.on_shaking_failed(self)
            return
        self._stats.handshake.inc()
        if info.reused:
            self._stats.session_reused.inc()
        owner.on_secured(self, sock, secure)

    def on_handshake_failed(self, how: int, why: str) -> None:
        stats = self._stats
        if how == UNVERIFIED:
            stats.fail_verify_error.inc()
        elif how == NO_PEER_CERTIFICATE:
            stats.fail_verify_no_cert.inc()
        elif how == LATE:
            stats.handshake_timeout.inc()
        if how not in (LATE, GONE):
            stats.connection_error.inc()
        self._tell(why)
        self._let_go().on_shaking_failed(self)

    def push_out(self) -> None:
        """Others may be waiting, and this one has had its time."""
        self._stats.handshake_timeout.inc()
        self._tell("the handshake took too long, with max_handshakes under way")
        self._end()

    def close(self, reason: Reason) -> None:
        self._end()

    def drain(self) -> None:
        """It goes on; what it becomes says `Connection: close`."""

    def _end(self) -> None:
        if self._owner is None:
            return
        if self._handshake is not None:
            self._handshake.close()
        self._let_go().on_shaking_failed(self)

    def _let_go(self) -> SecuringOwner:
        owner, self._owner = self._owner, None
        assert owner is not None, "a handshake ended twice"
        self._handshake = None
        return owner

    def _tell(self, why: str) -> None:
        announced = self.announced
        client = announced.remote if announced is not None and announced.known else self.peer
        self._failures.tell(f"listener '{self._name}': TLS with {client or 'a local client'} failed: {why}")

    # -- handoff: it is refused

    def freeze(self) -> bool:
        return False

    def dump(self) -> dict[str, object]:
        return _never()

    def socks(self) -> list[socket.socket]:
        return _never()

    def thaw(self) -> None:
        _never()

    def release(self) -> None:
        _never()

    def discard(self) -> None:
        _never()


def _never() -> NoReturn:
    raise AssertionError("a handshake does not move")
