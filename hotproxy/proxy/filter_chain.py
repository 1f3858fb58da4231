"""What a listener and the connections that it accepts know of each other.

An accepted socket goes to its listener's terminal: `ConnectionManager` for HTTP, `TcpProxy` for TCP. The listener
sees only this interface; it starts them, tells them to leave, and is told once when each of them is gone.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol, TypeVar

from hotproxy.errors import Reason

RuntimeT = TypeVar("RuntimeT", contravariant=True)
ListenerT = TypeVar("ListenerT", contravariant=True)


class DownstreamConnection(Protocol):
    """One accepted connection with all that hangs on it. Its owner is told exactly once that it is over."""

    @property
    def kind(self) -> str:
        """ "http1" or "tcp": who can `load` what `dump` gives."""

    def start(self) -> None:
        """Begin to read. Everything may happen from here on, the end included."""

    def drain(self) -> None:
        """This generation leaves: come to an end soon, without breaking anything. May end at once; may come twice."""

    def close(self, reason: Reason) -> None:
        """End at once, whatever is in progress."""

    def dump(self) -> dict[str, object]:
        """The state as msgpack values, `kind` and `version` included, without the descriptors."""


class DownstreamOwner(Protocol):
    """The listener, seen from a connection."""

    def on_connection_closed(self, connection: DownstreamConnection) -> None:
        """Exactly once, as the last thing a connection does."""


class Terminal(Protocol[ListenerT, RuntimeT]):
    """What ends the chain: the class of a kind of connection.

    `peer` is the client's address as text: `10.0.0.1:1234`, `[::1]:1234`, "" for a unix socket.
    """

    def __call__(
        self, sock: socket.socket, peer: str, listener: ListenerT, owner: DownstreamOwner, runtime: RuntimeT
    ) -> DownstreamConnection: ...

    def load(
        self,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: ListenerT,
        owner: DownstreamOwner,
        runtime: RuntimeT,
    ) -> DownstreamConnection:
        """The connection that `dump` described; ValueError for a kind or version it does not know."""


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
        return "@" + address[1:].decode("utf-8", "replace")
    return str(address) if address else ""
