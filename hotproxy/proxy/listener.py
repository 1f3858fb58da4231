"""Accepting: from the listening sockets of one listener to its open connections, and what holds them back.

    stopped --start_accepting()--> accepting --stop_accepting()--> stopped        nothing is closed: others accept here
                                       |---- worker full ----> paused ----> below the limit
                                       |-- no descriptor left --> paused --100 ms-->

A connection that is not accepted waits in the kernel's queue and loses nothing; so the limit of the whole worker and
lack of descriptors *pause*, and so do handshakes when `max_handshakes` are under way: until one is over, or the oldest
has had its time (PATIENCE_S) and is pushed out, so that clients who say nothing hold nobody up. `max_connections` of a
listener is a promise to what lies behind it, and *refuses*: accepted, closed, counted (`downstream_cx_overflow`).

Listening sockets are never handed to asyncio's servers, which close them. They are closed here only in `release` and
`leave`, where somebody else holds the same socket, and in `shut`, where the listener was removed from the config.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hotproxy.clock import Timer, TimerWheel
from hotproxy.errors import Reason
from hotproxy.net.loop import Loop
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy.filter_chain import DownstreamConnection, Terminal, address_text
from hotproxy.proxy.introduction import Introduction
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener, Secured, TcpListener
from hotproxy.proxy.tls_accept import Shaking

# Per turn and socket: a burst of clients must not starve those that are served (Envoy and nginx take all or one).
ACCEPTS_PER_TURN: Final = 16
PAUSE_S: Final = 0.1
# A handoff holds every descriptor twice for a moment, and each connection may have one towards its endpoint.
SHARE_OF_DESCRIPTORS: Final = 0.45

# A client that is there and willing needs two round trips, on the other side of the world 0.6 s.
PATIENCE_S: Final = 2.0

# accept(2): errors that belong to the one connection that was waiting; "treat them like EAGAIN by retrying".
_OF_THE_PEER: Final = frozenset(
    {
        errno.ECONNABORTED, errno.EINTR, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN, errno.ENONET,
        errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM, errno.ETIMEDOUT,
    }
)  # fmt: skip
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# What `_accept_one` met.
_TAKEN: Final = 0
_EMPTY: Final = 1
_OUT_OF_DESCRIPTORS: Final = 2


class AcceptLoop(Loop, Protocol):
    """A loop for listening sockets, which it can share with other processes."""

    def add_exclusive_reader(self, fd: int, callback: Callable[[], None]) -> None: ...

    def accept(self, listening: socket.socket) -> tuple[socket.socket, object] | None:
        """See `net.plain_transfer`."""


class Admission:
    """How many downstream connections this worker may hold; shared by its listeners.

    `limit` should be SHARE_OF_DESCRIPTORS of RLIMIT_NOFILE.
    """

    __slots__ = ("_full", "_listeners", "_reserve", "_timer", "_wheel", "limit", "open")

    def __init__(self, limit: int, wheel: TimerWheel) -> None:
        self.limit = limit
        self.open = 0
        self._wheel = wheel
        self._listeners: list[Listener] = []
        self._full = False
        self._timer = Timer(self, "accept pause")
        self._reserve = _open_reserve()

    def close(self) -> None:
        self._timer.drop()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    @property
    def paused(self) -> bool:
        return self._full or self._timer.armed

    def join(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def count_opened(self) -> None:
        self.open += 1
        if self.open >= self.limit and not self._full:
            self._full = True
            self._watch_again()

    def count_closed(self) -> None:
        self.open -= 1
        # A little below the limit, so that a full worker does not switch its sockets on and off per connection.
        if self._full and self.open < self.limit - self.limit // 64:
            self._full = False
            self._watch_again()

    def lacks_descriptors(self, sock: socket.socket) -> None:
        """accept() failed with EMFILE or its like: refuse one client now, so that it knows, and pause."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
            try:
                refused, _ = sock.accept()
            except OSError:  # another worker took it, or the system's own table is full
                pass
            else:
                refused.close()
            self._reserve = _open_reserve()
        self._wheel.arm(self._timer, PAUSE_S)
        self._watch_again()

    def on_timeout(self, timer: Timer) -> None:
        if self._reserve < 0:
            self._reserve = _open_reserve()
        self._watch_again()

    def _watch_again(self) -> None:
        for listener in self._listeners:
            listener.update_watching()


def _open_reserve() -> int:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none left now; tried again after the pause
        return -1


class Acceptor:
    """One listening socket. `shared`: other workers accept on the very same socket (unix sockets, systemd's)."""

    __slots__ = ("address_index", "is_tcp", "listener", "listening", "shared", "slot", "sock", "watched")

    def __init__(
        self, listener: Listener, sock: socket.socket, address_index: int, slot: int, listening: bool, shared: bool
    ) -> None:
        sock.setblocking(False)
        self.listener = listener
        self.sock = sock
        self.address_index = address_index
        self.slot = slot
        self.listening = listening
        self.shared = shared
        self.is_tcp = sock.family != socket.AF_UNIX
        self.watched = False

    @property
    def may_listen_again(self) -> bool:
        """So that a new backlog counts. Never where siblings have the same socket: one of them may have shut it, and it
        would be open again, with nobody there."""
        return not self.shared and bool(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def on_readable(self) -> None:
        if self.watched:
            self.listener.accept_from(self)


class Listener:
    """The sockets and the open connections of one listener in this worker."""

    __slots__ = (
        "_acceptors", "_admission", "_backlog", "_crowd_timer", "_crowded", "_loop", "_runtime", "_shaking",
        "_terminal", "accepting", "config", "connections",
    )  # fmt: skip

    def __init__(
        self,
        config: HttpListener | TcpListener,
        backlog: int,
        terminal: Terminal[HttpListener | TcpListener, Runtime],
        admission: Admission,
        loop: AcceptLoop,
        runtime: Runtime,
    ) -> None:
        self.config = config
        self.connections: set[DownstreamConnection] = set()
        self.accepting = False
        self._backlog = backlog
        self._terminal = terminal
        self._admission = admission
        self._loop = loop
        self._runtime = runtime
        self._acceptors: list[Acceptor] = []
        self._shaking: dict[Shaking, None] = {}  # in the order in which they began
        self._crowded = False  # as many handshakes as there may be
        self._crowd_timer = Timer(self, "crowd")
        admission.join(self)

    # -- sockets ------------------------------------------------------------------------------------------------

    def add_socket(self, sock: socket.socket, address_index: int, slot: int, listening: bool, shared: bool) -> None:
        """A socket to accept on, at once if this listener accepts already; the descriptor is ours from now on.

        Once more the same one, from a supervisor that took over from a zygote and does not know who has what: nothing.
        Raises OSError when it can't listen; then it is closed, and the others are as they were.
        """
        if self._of(address_index, slot):
            sock.close()
            return
        acceptor = Acceptor(self, sock, address_index, slot, listening, shared)
        self._acceptors.append(acceptor)
        if self.accepting:
            try:
                self.start_accepting()
            except OSError:
                self._drop(acceptor)
                raise

    def start_accepting(self) -> None:
        """Accept on every socket. Raises OSError when one cannot listen (somebody else took the address).

        A socket that is only bound listens now and is watched at once: one that listens without being accepted from
        takes its share of the clients into nowhere.
        """
        self.accepting = True
        for acceptor in self._acceptors:
            if acceptor.is_tcp:
                self.config.options.apply_listening(acceptor.sock)
            if not acceptor.listening or acceptor.may_listen_again:
                acceptor.sock.listen(self._backlog)
                acceptor.listening = True
        self.update_watching()

    def stop_accepting(self) -> None:
        """Watch nothing, close nothing: there may be clients in the queues, and another process accepts them."""
        self.accepting = False
        self.update_watching()

    def update_watching(self) -> None:
        wanted = self.accepting and not self._admission.paused and not self._crowded
        for acceptor in self._acceptors:
            if acceptor.watched == wanted:
                continue
            acceptor.watched = wanted
            if not wanted:
                self._loop.remove_reader(acceptor.sock.fileno())
            elif acceptor.shared:
                self._loop.add_exclusive_reader(acceptor.sock.fileno(), acceptor.on_readable)
            else:
                self._loop.add_reader(acceptor.sock.fileno(), acceptor.on_readable)

    def release(self, address_index: int, slot: int) -> None:
        """Stop accepting on this socket and close our copy: the slot that it belongs to accepts again."""
        for acceptor in self._of(address_index, slot):
            self._drop(acceptor)

    def leave(self) -> None:
        """Close our copies of all sockets: whoever accepts now has its own."""
        self.accepting = False
        for acceptor in list(self._acceptors):
            self._drop(acceptor)

    def shut(self, address_index: int, slot: int) -> None:
        """The listener is gone from the config: serve who waits, refuse who comes, and let go.

        Between the last accept and `shutdown`, which every copy of the socket feels at once, a client may slip in;
        therefore once more.
        """
        for acceptor in self._of(address_index, slot):
            self._shut(acceptor)

    def shut_all(self, stored: bool = False) -> None:
        """As `shut`, where nobody else is left to accept what waits.

        A shared socket may be systemd's, others may be `stored` there, and whoever is started next gets the very same:
        those are let go as they are.
        """
        for acceptor in list(self._acceptors):
            if acceptor.shared or stored:
                self._accept_all(acceptor)
                self._drop(acceptor)
            else:
                self._shut(acceptor)

    def _shut(self, acceptor: Acceptor) -> None:
        if acceptor.listening:
            self._accept_all(acceptor)
            try:
                acceptor.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # ENOTCONN: another holder was first, which accepting may have found (EBADF)
                pass
            if acceptor in self._acceptors:
                self._accept_all(acceptor)
        self._drop(acceptor)

    def _of(self, address_index: int, slot: int) -> list[Acceptor]:
        return [a for a in self._acceptors if a.address_index == address_index and a.slot == slot]

    def _drop(self, acceptor: Acceptor) -> None:
        if acceptor not in self._acceptors:  # accepting has found it shut
            return
        self._acceptors.remove(acceptor)
        if acceptor.watched:
            acceptor.watched = False
            self._loop.remove_reader(acceptor.sock.fileno())
        acceptor.sock.close()

    # -- accepting ----------------------------------------------------------------------------------------------

    def accept_from(self, acceptor: Acceptor) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._admission.paused or self._crowded:
                return
            met = self._accept_one(acceptor)
            if met == _EMPTY:
                return
            if met == _OUT_OF_DESCRIPTORS:
                self.config.listener_stats.downstream_cx_accept_failed.inc()
                self._admission.lacks_descriptors(acceptor.sock)
                return

    def _accept_all(self, acceptor: Acceptor) -> None:
        while self._accept_one(acceptor) == _TAKEN:
            pass

    def _accept_one(self, acceptor: Acceptor) -> int:
        stats = self.config.listener_stats
        # Before it is ours: a worker that is killed in between would hold a client that nobody knows of.
        stats.downstream_cx_active.add(1)
        try:
            accepted = self._loop.accept(acceptor.sock)
        except OSError as error:
            stats.downstream_cx_active.add(-1)
            return self._failed_to_accept(acceptor, error)
        if accepted is None:
            stats.downstream_cx_active.add(-1)
            return _EMPTY
        sock, address = accepted
        if 0 < self.config.max_connections <= len(self.connections):
            stats.downstream_cx_active.add(-1)
            stats.downstream_cx_overflow.inc()
            sock.close()
            return _TAKEN
        if acceptor.is_tcp:
            self.config.options.apply(sock)
        connection = self._connection(sock, address_text(address), acceptor.is_tcp)
        self.connections.add(connection)
        self._admission.count_opened()
        stats.downstream_cx_total.inc()
        connection.start()
        return _TAKEN

    def _failed_to_accept(self, acceptor: Acceptor, error: OSError) -> int:
        if error.errno in _OF_THE_PEER:
            return _TAKEN
        if error.errno in _EXHAUSTED:
            return _OUT_OF_DESCRIPTORS
        if error.errno == errno.EINVAL:  # shut down by another holder; it would report EPOLLHUP for ever
            self._drop(acceptor)
            return _EMPTY
        raise error

    def _connection(self, sock: socket.socket, peer: str, is_tcp: bool) -> DownstreamConnection:
        config = self.config
        proxies = config.proxy_protocol
        if proxies is not None and proxies.trusts(peer, is_tcp):
            return Introduction(sock, peer, proxies.required, config, self, self._runtime)
        if config.secured is not None:
            return self._shake(sock, peer, config.secured)
        return self._terminal(sock, peer, config, self, self._runtime)

    def on_introduced(
        self, introduction: Introduction, sock: socket.socket, announced: Announced | None, rest: bytes
    ) -> None:
        """The same connection goes on as another object: nothing is counted."""
        self.connections.remove(introduction)
        secured = self.config.secured
        if secured is not None:
            shaking = self._shake(sock, introduction.peer, secured, announced, rest)
            self.connections.add(shaking)
            shaking.start()
            return
        connection = self._terminal(sock, introduction.peer, self.config, self, self._runtime, announced)
        self.connections.add(connection)
        connection.start()
        if rest:
            connection.receive(rest)

    # -- handshakes ---------------------------------------------------------------------------------------------

    def _shake(
        self, sock: socket.socket, peer: str, secured: Secured, announced: Announced | None = None, rest: bytes = b""
    ) -> Shaking:
        tls = secured.tls
        shaking = Shaking(
            sock, peer, self.config.name, tls, secured.stats, secured.failures, self, self._runtime, announced, rest
        )
        self._shaking[shaking] = None
        if len(self._shaking) >= tls.max_handshakes:
            self._make_room(tls.max_handshakes)
        return shaking

    def _make_room(self, limit: int) -> None:
        """As many handshakes are under way as may be; more where PROXY headers were awaited when there was room."""
        while len(self._shaking) >= limit:
            oldest = next(iter(self._shaking))
            left_s = oldest.started_s + PATIENCE_S - self._runtime.clock.now_s()
            if left_s > 0.0:
                self._crowded = True
                self._runtime.wheel.arm(self._crowd_timer, left_s)
                self.update_watching()
                return
            oldest.push_out()

    def on_timeout(self, timer: Timer) -> None:
        if self._crowded and self.config.secured is not None:
            self._make_room(self.config.secured.tls.max_handshakes)

    def on_secured(self, shaking: Shaking, sock: socket.socket, secure: TlsLoop) -> None:
        """The same connection goes on as another object: nothing is counted."""
        self.connections.remove(shaking)
        self._over(shaking)
        connection = self._terminal(sock, shaking.peer, self.config, self, self._runtime, shaking.announced, secure)
        self.connections.add(connection)
        connection.start()

    def on_shaking_failed(self, shaking: Shaking) -> None:
        self._over(shaking)
        self.on_connection_closed(shaking)

    def _over(self, shaking: Shaking) -> None:
        del self._shaking[shaking]
        if self._crowded:
            self._crowded = False
            self._crowd_timer.disarm()
            self.update_watching()

    # -- ended --------------------------------------------------------------------------------------------------

    def on_connection_closed(self, connection: DownstreamConnection) -> None:
        self.connections.remove(connection)
        self._admission.count_closed()
        stats = self.config.listener_stats
        stats.downstream_cx_active.add(-1)
        stats.downstream_cx_destroy.inc()

    def on_connection_becomes(self, connection: DownstreamConnection, other: DownstreamConnection) -> None:
        self.connections.remove(connection)
        self.connections.add(other)

    # -- handoff ------------------------------------------------------------------------------------------------

    def adopt(self, state: dict[str, object], socks: Sequence[socket.socket]) -> DownstreamConnection:
        """A connection that another process has dumped: loaded, one of ours from now on; whoever calls starts it.

        ValueError as `Terminal.load`. Neither limit refuses it: it was accepted long ago.
        """
        connection: DownstreamConnection
        if state.get("kind") == Introduction.kind:
            connection = Introduction.load(state, socks, self.config, self, self._runtime)
        else:
            connection = self._terminal.load(state, socks, self.config, self, self._runtime)
        self.connections.add(connection)
        self._admission.count_opened()
        self.config.listener_stats.downstream_cx_active.add(1)
        return connection

    def on_connection_moved(self, connection: DownstreamConnection) -> None:
        """It has not ended: no `downstream_cx_destroy`."""
        self.connections.remove(connection)
        self._admission.count_closed()
        self.config.listener_stats.downstream_cx_active.add(-1)

    # -- leaving ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Ask every connection to come to an end."""
        for connection in list(self.connections):
            connection.drain()

    def close_connections(self, reason: Reason) -> None:
        """End every connection now."""
        for connection in list(self.connections):
            connection.close(reason)
