r"""One handshake on one descriptor, either side: from the first byte to a `TlsLoop`, or to words about what went wrong.

    start() --> shaking --done, all of it sent--> on_secured(sock, loop)       the socket is the owner's from then on
                   |-----failed, too late, gone--> on_handshake_failed(...)    the descriptor is closed, alert first
                   \---- close() ---------------> (nothing more is called)

OpenSSL is fed one whole record at a time, and none behind the last one of the handshake: what the peer has sent along
with it belongs to the record layer, whoever that is by then.

Nothing is reported from inside `start()`.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final, Protocol

from hotproxy.clock import Timer, TimerWheel
from hotproxy.net.connection import Connection, Gauge
from hotproxy.net.loop import Loop
from hotproxy.net.openssl_records import OpensslRecords
from hotproxy.net.tls_errors import NO_CERTIFICATE, TlsError, in_words, is_verification
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.net.tls_records import CHANGE_CIPHER_SPEC, NO_RECORD, first_record
from hotproxy.telemetry.tls_info import TlsInfo

# How it failed, for whoever counts.
BROKEN: Final = 0  # the peer broke the rules, or said that we do
UNVERIFIED: Final = 1  # its certificate is not accepted
NO_PEER_CERTIFICATE: Final = 2
LATE: Final = 3
GONE: Final = 4  # it closed or reset the connection

TIMED_OUT: Final = "the handshake took too long"
_LEFT: Final = "the peer closed the connection during the handshake"


class HandshakeSide(Protocol):
    """Who we are in it: a listener's or a cluster's certificates and rules."""

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject: ...

    def info(self, done: ssl.SSLObject) -> TlsInfo:
        """Raises TlsError: the peer's certificate can't be read."""


class HandshakeOwner(Protocol):
    """Whoever waits for it. One of the two is called, at most once; never from inside `start`."""

    def on_secured(self, sock: socket.socket, secure: TlsLoop) -> None: ...

    def on_handshake_failed(self, how: int, why: str) -> None: ...


class TlsHandshake:
    """Used once. The descriptor is ours from `start` until one of the owner's methods is called."""

    __slots__ = (
        "_fd", "_incoming", "_loop", "_out", "_outgoing", "_owner", "_reading", "_received", "_side", "_sock", "_ssl",
        "_buffered", "_done", "_frozen", "_spoken", "_timer", "_wheel", "_writing",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        side: HandshakeSide,
        owner: HandshakeOwner,
        loop: Loop,
        wheel: TimerWheel,
        buffered: Gauge,
        received: bytes = b"",
    ) -> None:
        """`received`: what was read of the descriptor already."""
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._side = side
        self._owner: HandshakeOwner | None = owner
        self._loop = loop
        self._wheel = wheel
        self._buffered = buffered
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl: ssl.SSLObject | None = side.wrap(self._incoming, self._outgoing)
        self._received = bytearray(received)  # not fed to OpenSSL
        self._out = b""  # not taken by the kernel
        self._spoken = False  # OpenSSL was asked at least once
        self._done = False
        self._frozen = False
        self._reading = False
        self._writing = False
        self._timer = Timer(self, "handshake")

    def start(self, timeout_s: float) -> None:
        self._wheel.arm(self._timer, timeout_s)
        self._reading = True
        self._loop.add_reader(self._fd, self._on_readable)
        self._loop.call_soon(self._begin)

    def close(self) -> None:
        """Give up, without a word. Safe at any time."""
        sock = self._let_go()
        if sock is not None:
            sock.close()

    def freeze(self) -> None:
        """Report nothing until `thaw`; nothing is read or sent meanwhile."""
        self._timer.suspend()
        if self._sock is not None:
            self._frozen = True
            self._reading = False
            self._writing = False
            self._loop.forget(self._fd)

    def thaw(self) -> None:
        if self._sock is None:
            return
        self._frozen = False
        self._wheel.resume(self._timer, self)
        if not self._done:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)
        self._loop.call_soon(self._begin)

    # -- events

    def _begin(self) -> None:
        """A client speaks first; a server may have bytes already."""
        shaking = self._ssl
        if shaking is None or self._frozen:
            return
        if self._received or self._out or not shaking.server_side:
            self._step()

    def _on_readable(self) -> None:
        if not self._reading:
            return
        try:
            data = self._loop.receive(self._fd)
        except OSError as error:
            self._fail(GONE, error.strerror or str(error))
            return
        if data is None:
            return
        if not data:
            self._fail(GONE, _LEFT)
            return
        self._received += data
        self._step()

    def _on_writable(self) -> None:
        if self._writing and self._flush() and self._done:
            self._finish()

    def on_timeout(self, timer: Timer) -> None:
        self._fail(LATE, TIMED_OUT)

    # -- steps

    def _step(self) -> None:
        """As far as the records go that are here."""
        shaking = self._ssl
        assert shaking is not None
        try:
            # Not asked before there is something for it, but for a client's first words: "I want more" is an exception.
            while not self._done and (self._feed() or not (shaking.server_side or self._spoken)):
                self._spoken = True
                try:
                    shaking.do_handshake()
                    self._done = True
                except ssl.SSLWantReadError:
                    pass
        except ssl.SSLError as error:
            self._flush()
            self._fail(_how(error), in_words(error))
            return
        if self._flush() and self._done:
            self._finish()
        elif self._done and self._reading:  # what follows is the record layer's
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _feed(self) -> bool:
        """One record to OpenSSL; what is none goes there too, for the alert and the words.

        A change_cipher_spec with the one behind it: alone it only makes OpenSSL ask for more, which Python tells by an
        exception, at 20 us.
        """
        received = self._received
        size = first_record(received)
        if size == 0:
            return False
        if size == NO_RECORD:
            size = len(received)
        elif received[0] == CHANGE_CIPHER_SPEC and size < len(received) and received[size] != CHANGE_CIPHER_SPEC:
            size += max(0, first_record(received[size:]))
        self._incoming.write(received[:size])
        del received[:size]
        return True

    def _flush(self) -> bool:
        """Has the kernel taken all that we have to say? False also when the connection is broken, which is told."""
        if self._sock is None:
            return False
        self._out += self._outgoing.read()
        if self._out:
            try:
                sent = self._loop.transmit(self._fd, self._out)
            except OSError as error:
                self._fail(GONE, error.strerror or str(error))
                return False
            self._out = self._out[sent:]
        if self._out and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._on_writable)
        elif not self._out and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)
        return not self._out

    def _finish(self) -> None:
        handshaken, owner, sock = self._ssl, self._owner, self._sock
        assert handshaken is not None
        try:
            info = self._side.info(handshaken)
        except TlsError as error:
            self._fail(UNVERIFIED, str(error))
            return
        if owner is None or sock is None:
            return
        records = OpensslRecords(handshaken, self._incoming, self._outgoing)
        # Still watched: whoever reads next mostly says so at once, and the kernel needs not hear of it twice.
        secure = TlsLoop(self._loop, self._fd, records, bytes(self._received), info, self._reading)
        self._drop()
        try:
            owner.on_secured(sock, secure)
        finally:
            secure.settle()

    def _fail(self, how: int, why: str) -> None:
        owner = self._owner
        unsent = self._out
        sock = self._let_go()
        if sock is None:
            return
        if how in (GONE, LATE):
            sock.close()
        else:
            # The alert must arrive: with bytes unread, close() would reset the connection and destroy it.
            last = Connection(sock, Mute(), self._loop, self._wheel, self._buffered)
            last.write(unsent)
            last.finish()
        if owner is not None:
            owner.on_handshake_failed(how, why)

    def _let_go(self) -> socket.socket | None:
        """Out of the loop; all cycles are broken."""
        sock = self._sock
        self._drop()
        if sock is not None:
            self._loop.forget(self._fd)
        return sock

    def _drop(self) -> None:
        self._sock = None
        self._owner = None
        self._ssl = None
        self._timer.drop()
        self._reading = False
        self._writing = False


class Mute:
    """Owns a connection that only has to end."""

    __slots__ = ()

    def on_data(self, data: bytes) -> None:
        pass

    def on_eof(self) -> None:
        pass

    def on_lost(self, error: str) -> None:
        pass

    def on_pressure(self, high: bool) -> None:
        pass


def _how(error: ssl.SSLError) -> int:
    if is_verification(error):
        return UNVERIFIED
    return NO_PEER_CERTIFICATE if in_words(error) == NO_CERTIFICATE else BROKEN
