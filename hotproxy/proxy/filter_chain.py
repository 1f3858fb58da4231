"""What a listener and the connections that it accepts know of each other.

An accepted socket goes to its listener's terminal: `HttpTerminal` for HTTP, `TcpProxy` for TCP; that of a trusted
proxy by way of an `Introduction`, and one that speaks TLS by way of a `Shaking`. The listener sees only this interface;
it starts them, tells them to leave, and is told once when each of them is gone.

A connection that moves to another process:

    old side   running --freeze()--> frozen --dump(), socks()-->  sent  --release()--> gone, without having ended
                  ^---------------------------- thaw() --------------/
    new side              Terminal.load() --> loaded --start()--> running
                                                 \\---discard()---> gone, as if it had never been loaded

Gauges move with it: `load` adds what `release` takes away. Totals stay where they were counted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hotproxy.errors import Reason
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.net.unix_text import unix_text

RuntimeT = TypeVar("RuntimeT", contravariant=True)
ListenerT = TypeVar("ListenerT", contravariant=True)


class DownstreamConnection(Protocol):
    """One accepted connection with all that hangs on it. Its owner is told exactly once that it is over."""

    @property
    def kind(self) -> str:
        """ "http1", "http2", "tcp", or "proxy_protocol" before it is one of these: who can `load` what `dump` gives."""

    def start(self) -> None:
        """Begin to read. Everything may happen from here on, the end included."""

    def drain(self) -> None:
        """This generation leaves: come to an end soon, without breaking anything. May end at once; may come twice."""

    def close(self, reason: Reason) -> None:
        """End at once, whatever is in progress."""

    def dump(self) -> dict[str, object]:
        """The state as msgpack values, `kind` and `version` included, without the descriptors.

        Of a frozen connection. Counts what has been sent and was not counted yet; nothing else changes by it.
        """

    def freeze(self) -> bool:
        """Stop: no descriptor is watched and no timer runs, nothing is sent, counted or lost. Outside of any turn.

        False, and nothing has happened: it cannot move now. It is about to end by itself (flushing, lingering, or a
        side that broke in this very turn), is frozen already, or was loaded and has not been started yet.
        A connect that is under way goes on in the kernel; it counts again after `thaw`, and ends with `release`: over
        there another one is begun. `drain` and `close` of a frozen connection take effect when it thaws.
        """

    def socks(self) -> list[socket.socket]:
        """Of a frozen connection: its descriptors in the order of `load`, the client's first. They remain its own."""

    def thaw(self) -> None:
        """Undo `freeze`: read what has come meanwhile, send what waits, with the deadlines of before."""

    def release(self) -> None:
        """The move is committed: let go of a frozen connection, which lives on in another process.

        Its descriptors are closed without a byte on the wire, its gauges go down; it has not ended, so that nothing is
        counted or logged as an end. The owner hears `on_connection_moved`.
        """

    def discard(self) -> None:
        """Undo `load`, before `start`. As `release`: the other process still has the connection, and goes on."""


class TerminalConnection(DownstreamConnection, Protocol):
    """One that a `Terminal` has made."""

    def receive(self, data: bytes) -> None:
        """Behind `start`: what was read from the descriptor before it was this connection's."""


class DownstreamOwner(Protocol):
    """The listener, seen from a connection. One of the three is called, exactly once."""

    def on_connection_closed(self, connection: DownstreamConnection) -> None:
        """The last thing a connection does."""

    def on_connection_moved(self, connection: DownstreamConnection) -> None:
        """Released or discarded: it goes on in another process."""

    def on_connection_becomes(self, connection: DownstreamConnection, other: DownstreamConnection) -> None:
        """It goes on as another object, which speaks another protocol: nothing has ended."""


class Terminal(Protocol[ListenerT, RuntimeT]):
    """What ends the chain: the class of a kind of connection.

    `peer` is the address of who has connected, as text: `10.0.0.1:1234`, `[::1]:1234`, "" for a unix socket;
    `announced` is what it has said about its client, if it is a proxy that is believed; `secure` is what reads and
    writes the descriptor in the worker's loop's place, where the listener has TLS.
    """

    def __call__(
        self,
        sock: socket.socket,
        peer: str,
        listener: ListenerT,
        owner: DownstreamOwner,
        runtime: RuntimeT,
        announced: Announced | None = None,
        secure: TlsLoop | None = None,
    ) -> TerminalConnection: ...

    def load(
        self,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: ListenerT,
        owner: DownstreamOwner,
        runtime: RuntimeT,
    ) -> DownstreamConnection:
        """The connection that `dump` described, with its gauges counted and nothing else; not started.

        ValueError for a kind, version or shape that it does not know, or that cannot live here (its cluster is gone).
        Nothing is counted then, and the descriptors are the caller's as before.
        """


def address_text(address: object) -> str:
    """A socket's address as people write it; IPv4 clients of a dual-stack socket as IPv4; "" for a nameless one."""
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        if ":" not in host:
            return f"{host}:{port}"
        if host.startswith("::ffff:") and "." in host:
            return f"{host[7:]}:{port}"
        return f"[{host}]:{port}"
    if isinstance(address, bytes):  # an abstract unix socket
        return unix_text("@" + address[1:].decode("utf-8", "replace"))
    # The path of a unix socket is any bytes: what is not UTF-8 is not packed into a record either.
    return unix_text(os.fsencode(str(address)).decode("utf-8", "replace")) if address else ""
