"""A connection of a trusted proxy before it has said who its client is: reads the PROXY header, and nothing else.

    waiting --whole header--> introduced: the terminal of the listener takes the descriptor, and what came behind it
       |    \\--no header, and none is required--> the same, with all that came
       \\-- a broken header, none, the end, or too late --> closed

A `DownstreamConnection` of its own, so that half a header moves to another process like anything else.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Protocol

from hotproxy.clock import Timer
from hotproxy.errors import Reason
from hotproxy.net import proxy_protocol
from hotproxy.net.connection import Connection
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.saved_state import read_state
from hotproxy.proxy.filter_chain import DownstreamOwner
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener, TcpListener
from hotproxy.saved import saved_bool, saved_bytes, saved_record, saved_seconds, saved_text

KIND: Final = "proxy_protocol"
DUMP_VERSION: Final = 1
_KEYS: Final = frozenset(
    ("kind", "version", "listener", "peer", "required", "connection", "received", "deadline_s")
)  # fmt: skip


class IntroductionOwner(DownstreamOwner, Protocol):
    """The listener."""

    def on_introduced(
        self, introduction: Introduction, sock: socket.socket, announced: Announced | None, rest: bytes
    ) -> None:
        """The last thing an introduction does. The descriptor is the owner's; `rest` was read from it already."""


class Introduction:
    """`peer` is the proxy's own address."""

    __slots__ = (
        "_connection", "_frozen", "_listener", "_loaded", "_owner", "_postponed", "_received", "_required", "_runtime",
        "_timer", "peer",
    )  # fmt: skip

    kind: Final = "proxy_protocol"

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        required: bool,
        listener: HttpListener | TcpListener,
        owner: IntroductionOwner,
        runtime: Runtime,
    ) -> None:
        self.peer = peer
        self._required = required
        self._listener = listener
        self._owner: IntroductionOwner | None = owner
        self._runtime = runtime
        self._connection = Connection(sock, self, runtime.loop, runtime.wheel, runtime.buffered)
        self._received = b""
        self._timer = Timer(self, "introduction")
        self._loaded = False  # comes from a dump, and has not been started
        self._frozen = False  # on its way to another process
        self._postponed = False  # it was to be closed meanwhile

    def start(self) -> None:
        if self._loaded:
            self._loaded = False
            self._listener.options.apply_again(self._connection.sock)
            self._runtime.wheel.resume(self._timer, self)
        else:
            self._runtime.wheel.arm(self._timer, self._listener.filters_timeout_s)
        self._connection.start()

    # -- the connection's events

    def on_data(self, data: bytes) -> None:
        self._received += data
        self._runtime.buffered.add(len(data))
        found = proxy_protocol.parse(self._received)
        if found is None:
            return
        stats = self._listener.proxy_stats  # None: the config has no PROXY protocol any more
        whole = isinstance(found, Announced)
        if stats is not None:
            if found.version:
                stats.count_header(found.version, whole)
            else:
                (stats.not_found_disallowed if self._required else stats.not_found_allowed).inc()
        if isinstance(found, Announced):
            self._introduce(found, found.size)
        elif found.version or self._required:
            self._end()
        else:
            self._introduce(None, 0)

    def on_eof(self) -> None:
        """Nothing that ends here was a header, nor anything that a terminal would answer."""
        self._end()

    def on_lost(self, error: str) -> None:
        self._end()

    def on_pressure(self, high: bool) -> None:
        raise AssertionError("nothing is ever written")

    def on_timeout(self, timer: Timer) -> None:
        self._listener.listener_stats.downstream_pre_cx_timeout.inc()
        self._end()

    # -- ending

    def _introduce(self, announced: Announced | None, size: int) -> None:
        rest = self._received[size:]
        sock = self._connection.sock
        self._connection.detach()
        self._let_go().on_introduced(self, sock, announced, rest)

    def drain(self) -> None:
        """Its terminal will know."""

    def close(self, reason: Reason) -> None:
        if self._frozen:
            self._postponed = True
        elif self._owner is not None:
            self._end()

    def _end(self) -> None:
        self._connection.close()
        self._let_go().on_connection_closed(self)

    def _let_go(self) -> IntroductionOwner:
        owner, self._owner = self._owner, None
        assert owner is not None, "a connection ended twice"
        self._timer.drop()
        self._runtime.buffered.add(-len(self._received))
        self._received = b""
        return owner

    # -- handoff: see `DownstreamConnection`

    def freeze(self) -> bool:
        if self._frozen or self._loaded or not self._connection.freeze():
            return False
        self._timer.suspend()
        self._frozen = True
        return True

    def socks(self) -> list[socket.socket]:
        return [self._connection.sock]

    def dump(self) -> dict[str, object]:
        return {
            "kind": KIND,
            "version": DUMP_VERSION,
            "listener": self._listener.name,
            "peer": self.peer,
            "required": self._required,
            "connection": self._connection.dump(),
            "received": self._received,
            "deadline_s": self._timer.deadline_s,
        }

    def thaw(self) -> None:
        assert self._frozen, "thaw without freeze"
        self._frozen = False
        self._runtime.wheel.resume(self._timer, self)
        self._connection.thaw()
        if self._postponed:
            self._end()

    def release(self) -> None:
        assert self._frozen or self._loaded, "a running connection cannot be let go"
        self._frozen = False
        self._connection.leave()
        self._let_go().on_connection_moved(self)

    def discard(self) -> None:
        self.release()

    @classmethod
    def load(
        cls,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: HttpListener | TcpListener,
        owner: IntroductionOwner,
        runtime: Runtime,
    ) -> Introduction:
        """Also where the config wants no header any more: this proxy was going to send one."""
        record = saved_record(state, KIND, DUMP_VERSION, _KEYS)
        if saved_text(record, "listener") != listener.name:
            raise ValueError("a connection of another listener")
        peer = saved_text(record, "peer")
        if not peer.isprintable():
            raise ValueError("peer: not an address")
        connection = read_state(record["connection"])
        if connection["read_closed"] or connection["write_closed"] or connection["pending"]:
            raise ValueError("connection: not one that waits for a header")
        received = saved_bytes(record, "received")
        if proxy_protocol.parse(received) is not None:
            raise ValueError("received: not half a header")
        required, deadline_s = saved_bool(record, "required"), saved_seconds(record, "deadline_s")
        if len(socks) != 1:
            raise ValueError(f"{len(socks)} descriptors came with the connection")
        introduction = cls(socks[0], peer, required, listener, owner, runtime)
        introduction._loaded = True
        introduction._connection = Connection.load(
            socks[0], connection, introduction, runtime.loop, runtime.wheel, runtime.buffered
        )
        introduction._received = received
        runtime.buffered.add(len(received))
        introduction._timer.deadline_s = deadline_s  # armed by `start`
        return introduction
