"""One non-blocking connect, without a task: the owner is called when it has come about, or why it has not.

    start() --> connecting --writable, no error--> on_connected(sock)        the socket is the owner's from then on,
                    |                                                        and the `preface` has been sent
                    |------ error, or timeout ---> on_connect_failed(...)    the descriptor is closed
                    \\------ cancel() -----------> (nothing more is called)

Nothing is ever reported from inside `start()`, even if the kernel answers at once (unix sockets, a closed port on
loopback, no descriptor left): an owner that tries the next endpoint would otherwise recurse through all of them.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, Protocol

from hotproxy.clock import TICK_S, Timer, TimerWheel
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, LOCAL_CONNECT_FAILURE, Reason
from hotproxy.net.loop import Loop
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.upstream.endpoint import Endpoint

_KIND: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
# The connect goes on in the background. EINTR is among them by POSIX; Linux does not give it to non-blocking sockets.
_IN_PROGRESS: Final = frozenset({0, errno.EINPROGRESS, errno.EINTR, errno.EALREADY})
# Ours to lack. Not EADDRNOTAVAIL (ports are used up towards one endpoint, the next one has its own), and not
# EAFNOSUPPORT (it stays so for all endpoints of this family): there the next endpoint is the right answer.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ConnectOwner(Protocol):
    """Whoever waits. Exactly one of the two is called, or none after `cancel()`."""

    def on_connected(self, sock: socket.socket, secure: TlsLoop | None = None) -> None:
        """`secure`: what reads and writes the descriptor in the worker's loop's place, behind a handshake."""

    def on_connect_failed(self, reason: Reason, error: str) -> None:
        """`reason` is CONNECT_FAILURE, CONNECT_TIMEOUT, TLS_FAILURE, or LOCAL_CONNECT_FAILURE: the endpoint has heard
        nothing of it.

        `error` is the text for the log: "Connection refused".
        """


class ConnectRuntime(Protocol):
    """What a connect needs of the worker's `Runtime`."""

    loop: Loop
    wheel: TimerWheel


class ConnectAttempt:
    """To one endpoint, at most `timeout_s` seconds (0 = as long as the kernel tries). Used once."""

    __slots__ = (
        "_code", "_frozen", "_loop", "_owner", "_preface", "_sock", "_timer", "_watched", "_wheel", "deadline_s",
        "endpoint",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        owner: ConnectOwner,
        runtime: ConnectRuntime,
        preface: bytes = b"",
    ) -> None:
        """`preface`: a PROXY header. It comes before everything else, a handshake of TLS too."""
        self.endpoint = endpoint
        self.deadline_s = runtime.wheel.clock.now_s() + timeout_s if timeout_s > 0.0 else 0.0
        self._owner: ConnectOwner | None = owner
        self._preface = preface
        self._loop = runtime.loop
        self._wheel = runtime.wheel
        self._sock: socket.socket | None = None
        self._timer = Timer(self, "connect")
        self._code = 0  # why it failed at once
        self._watched = False  # the loop tells when it is connected
        self._frozen = False

    def start(self) -> None:
        family = self.endpoint.family
        try:
            sock = socket.socket(family, _KIND)
        except OSError as error:  # EMFILE, ENFILE, ENOBUFS; EAFNOSUPPORT where IPv6 is switched off
            self._fail_soon(error.errno or errno.EIO)
            return
        self._sock = sock
        if family != socket.AF_UNIX:
            self.endpoint.options.apply(sock)
        if self.deadline_s:
            self._wheel.arm_at(self._timer, self.deadline_s)
        self._connect(sock)

    def cancel(self) -> None:
        """Forget it: nothing is called any more. Safe at any time, also after the end and from inside the owner."""
        self._owner = None
        self._close()

    def freeze(self) -> None:
        """Report nothing until `thaw`; the kernel goes on connecting."""
        self._frozen = True
        self._timer.suspend()
        if self._sock is not None and self._watched:
            self._loop.remove_writer(self._sock.fileno())

    def thaw(self) -> None:
        self._frozen = False
        self._wheel.resume(self._timer, self)
        if self._code:
            self._loop.call_soon(self._report_failure)
        elif self._sock is not None and self._watched:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def _connect(self, sock: socket.socket) -> None:
        try:
            code = sock.connect_ex(self.endpoint.sockaddr)
        except OSError as error:  # a path too long for sockaddr_un; connect_ex returns every errno of the kernel
            code = error.errno or errno.EINVAL
        if code in _IN_PROGRESS:
            # Also when it is connected already: it is writable at once, and reported in the next turn.
            self._watched = True
            self._loop.add_writer(sock.fileno(), self._on_writable)
        elif code == errno.EAGAIN and self.endpoint.family == socket.AF_UNIX:
            # unix(7): the listener's queue is full, and nothing tells us when it no longer is.
            retry_s = self._wheel.clock.now_s() + TICK_S
            self._wheel.arm_at(self._timer, min(retry_s, self.deadline_s) if self.deadline_s else retry_s)
        else:
            self._fail_soon(code)

    def _on_writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0 and _is_connected_to_itself(sock):
            code = errno.ECONNREFUSED
        if code:
            self._fail(CONNECT_FAILURE, os.strerror(code))
            return
        if self._preface:
            error = _send_whole(sock, self._preface)
            if error:
                self._fail(CONNECT_FAILURE, error)
                return
        self._loop.remove_writer(sock.fileno())
        self._sock = None
        self._timer.drop()
        owner, self._owner = self._owner, None
        if owner is None:
            sock.close()
        else:
            owner.on_connected(sock)

    def on_timeout(self, timer: Timer) -> None:
        sock = self._sock
        if sock is None:
            return
        if self.deadline_s and self._wheel.clock.now_s() >= self.deadline_s:
            self._fail(CONNECT_TIMEOUT, os.strerror(errno.ETIMEDOUT))
        else:
            self._connect(sock)

    def _fail_soon(self, code: int) -> None:
        self._close()
        self._code = code
        self._loop.call_soon(self._report_failure)

    def _report_failure(self) -> None:
        if self._frozen:
            return
        reason = LOCAL_CONNECT_FAILURE if self._code in _EXHAUSTED else CONNECT_FAILURE
        self._fail(reason, os.strerror(self._code))

    def _fail(self, reason: Reason, error: str) -> None:
        self._close()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.on_connect_failed(reason, error)

    def _close(self) -> None:
        sock, self._sock = self._sock, None
        self._timer.drop()
        if sock is not None:
            self._loop.remove_writer(sock.fileno())
            sock.close()


def _send_whole(sock: socket.socket, preface: bytes) -> str:
    """Why it could not be sent, "" if it was: the buffer of a new socket is empty, and has room for any header."""
    try:
        sent = sock.send(preface)
    except OSError as error:  # reset in this very moment
        return error.strerror or str(error)
    return "" if sent == len(preface) else "no room for the PROXY header"


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """TCP's simultaneous open with oneself: on loopback, when the kernel picks the very port that nobody listens on."""
    if sock.family == socket.AF_UNIX:
        return False
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # reset in this very moment; reading will tell
        return False
