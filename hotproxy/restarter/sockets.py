r"""The listening sockets, from the first bind to the last close: they outlive every generation.

A socket is known by its *identity* (the address as the config spells it; with port 0 also the listener) and its slot.
So a reload finds it again, whatever the listener is called by then, and `127.0.0.1:0` keeps the port it got.

    acquire   a generation's listeners: what is here already, and what is new, bound but not listening
    commit    the generation accepts: what it was not given is handed back as removed
    readopt   it is of an earlier supervisor, and brings its sockets along
    discard   it failed: what it brought and nobody listens on is closed; the rest is for its predecessor, or shut down

Sockets that systemd listens on (`activate`) are found by their address, and nothing here ever shuts them down.

Nothing listens here: a socket that listens while nobody accepts takes its share of the connections (95 of 200
were seen) and answers none. The slot calls listen() immediately before it accepts.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hotproxy.restarter.activation import bound_to, is_bound_to, listening_socket
from hotproxy.restarter.bind import BindRefused, OursAsker, UnixPath, bind_tcp, bind_unix
from hotproxy.restarter.hello import Hello, HelloError, WantedAddress, WantedListener
from hotproxy.restarter.log import WARNING, log

Identity = str

SO_COOKIE: Final = 57  # asm-generic/socket.h; Python has no name for it


@dataclass(slots=True, eq=False)
class OwnedSocket:
    """One socket. `path` is set for unix sockets of ours. `kept`: systemd holds it too, and clients wait in it for our
    next start: never shut down."""

    identity: Identity
    slot: int
    shared: bool
    sock: socket.socket
    path: UnixPath | None = None
    kept: bool = False
    stored: bool = False  # in systemd's descriptor store (`store`)

    @property
    def listening(self) -> bool:
        """Asked of the kernel, because a slot that died may or may not have called listen()."""
        return bool(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def to_wire(self) -> list[Any]:
        """For the next version of this supervisor, which gets the descriptor too."""
        path = [self.path.path, self.path.staged, *self.path.inode] if self.path is not None else None
        return [self.sock.fileno(), self.identity, self.slot, self.shared, path, self.kept, self.stored]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> OwnedSocket:
        """Raises ValueError, TypeError, OSError."""
        fd, identity, slot, shared, path, kept, stored, *_ = wire
        sock = socket.socket(fileno=fd)
        os.set_inheritable(fd, False)
        where = UnixPath(path[0], path[1], (path[2], path[3])) if path is not None else None
        return cls(identity, slot, shared, sock, where, kept, stored)

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of a unix socket's file, by which the next supervisor knows that it is this socket's."""
        return self.path.inode if self.path is not None else (0, 0)

    def close(self) -> None:
        self.sock.close()
        if self.path is not None:
            self.path.remove()

    def shut(self) -> None:
        """No connection can arrive any more, whoever holds a copy; then close. Again: nothing."""
        if self.sock.fileno() < 0:
            return
        if self.kept:
            self.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EINVAL):  # it never listened, or was shut down already
                raise
        self.close()


@dataclass(slots=True)
class Lease:
    """What one generation was given. `names`: identity -> (listener, address index), in its own words."""

    names: dict[Identity, tuple[str, int]] = field(default_factory=dict)
    sockets: list[OwnedSocket] = field(default_factory=list)
    created: list[OwnedSocket] = field(default_factory=list)
    carried: list[tuple[UnixPath, WantedAddress]] = field(default_factory=list)  # their mode and owner may be new

    def wire(self, owned: OwnedSocket) -> list[Any]:
        """How a message to this generation names the socket."""
        listener, index = self.names[owned.identity]
        return [listener, index, owned.slot, owned.listening, owned.shared]


class SocketTable:
    """All of them. `is_ours(pid)` says whether a process belongs to this instance (one that a dead supervisor left)."""

    def __init__(self, is_ours: OursAsker, on_shut: Callable[[OwnedSocket], None] = lambda owned: None) -> None:
        self._is_ours = is_ours
        self._on_shut = on_shut
        self._sockets: dict[tuple[Identity, int], OwnedSocket] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def activate(self, name: str, fd: int) -> None:
        """A socket that systemd listens on, passed as `name`. Raises HotproxyError for one that can't be served."""
        sock = listening_socket(name, fd)
        identity = f"{name} {bound_to(sock)}"  # no address: a name has no colon in it
        slot = len(self._of(identity))  # with ReusePort= there may be several
        self._sockets[identity, slot] = OwnedSocket(identity, slot, True, sock, kept=True)

    def acquire(self, hello: Hello) -> Lease:
        """The sockets that `hello` asks for. Raises BindRefused; then nothing has changed."""
        lease = Lease()
        places: dict[tuple[str, int], str] = {}
        try:
            for listener in hello.listeners:
                for index, address in enumerate(listener.addresses):
                    # "localhost:80" and "127.0.0.1:80": the kernel would give each of them half of the connections.
                    place = (address.host, address.port)
                    if address.port and places.setdefault(place, address.text) != address.text:
                        raise BindRefused(f"{address.text} of listener '{listener.name}' is {places[place]} as well")
                    identity, shared = self._identity_of(listener, address)
                    if identity in lease.names:
                        other = lease.names[identity][0]
                        raise BindRefused(f"listeners '{other}' and '{listener.name}' both want {address.text}")
                    lease.names[identity] = (listener.name, index)
                    try:
                        self._acquire_address(lease, identity, address, 1 if shared else hello.slots, shared)
                    except BindRefused as refused:
                        raise BindRefused(f"listener '{listener.name}': {refused}") from None
            self._refuse_idle(lease)
        except BindRefused:
            for owned in lease.created:
                self._forget(owned)
                owned.close()
            raise
        return lease

    def grow(self, lease: Lease, hello: Hello, slots: int) -> list[OwnedSocket]:
        """More slots for a generation that accepts already; answers the sockets that are new to it."""
        had = lease.sockets
        before = set(map(id, had))
        created = len(lease.created)
        lease.sockets = []
        try:
            for listener in hello.listeners:
                for address in listener.addresses:
                    identity, shared = self._identity_of(listener, address)
                    if not shared:
                        self._acquire_address(lease, identity, address, slots, False)
                    else:
                        lease.sockets += self._of(identity)
        except BindRefused:
            for owned in lease.created[created:]:
                self._forget(owned)
                owned.close()
            del lease.created[created:]
            lease.sockets = had
            raise
        return [owned for owned in lease.sockets if id(owned) not in before]

    def readopt(self, hello: Hello, found: Sequence[tuple[Any, socket.socket, tuple[int, int]]]) -> Lease:
        """What a generation of an earlier supervisor was given, from what it still holds: how its messages name each
        socket (`Lease.wire`), the socket, and the inode of a unix socket's file. Raises HelloError.

        The same socket that two generations bring is one. Where another is known under its name already (bound before
        this generation came back), it stays out of the table: its generation alone knows it, and `strays` has it.
        """
        lease = Lease()
        wanted = {
            (listener.name, index): (_identity(listener.name, address), address)
            for listener in hello.listeners
            for index, address in enumerate(listener.addresses)
        }
        for name, (identity, _) in wanted.items():
            lease.names.setdefault(identity, name)
        known = {_cookie(owned.sock): owned for owned in self._sockets.values()}
        for (listener, index, slot, _, shared), sock, inode in found:
            if (listener, index) not in wanted:
                raise HelloError(f"it holds a socket of listener {listener!r}, which it does not name")
            identity, address = wanted[listener, index]
            owned = known.get(_cookie(sock))
            if owned is not None:
                sock.close()
                lease.names.setdefault(owned.identity, (listener, index))
            else:
                path = UnixPath(address.path, inode=inode) if address.family == "unix" else None
                owned = OwnedSocket(identity, slot, shared, sock, path)
                self._sockets.setdefault((identity, slot), owned)
            lease.sockets.append(owned)
        return lease

    def strays(self, lease: Lease) -> list[OwnedSocket]:
        """Those that no other generation was given: another socket has their name."""
        return [owned for owned in lease.sockets if self._sockets.get((owned.identity, owned.slot)) is not owned]

    def commit(self, lease: Lease) -> list[OwnedSocket]:
        """The generation accepts. Answers the sockets that it was not given; they are still open."""
        lease.created.clear()
        for owned in lease.sockets:
            if owned.path is not None:
                owned.path.publish()
        for path, address in lease.carried:
            try:
                path.set_access(address)
            except OSError as error:
                log(WARNING, f"mode and owner of {address.text} stay as they were: {error.strerror}")
        lease.carried.clear()
        return self.without(lease)

    def discard(self, lease: Lease, names: Iterable[Identity]) -> list[OwnedSocket]:
        """The generation failed. Answers those that a predecessor with `names` must adopt.

        `names` are given when the generation was told to accept already. Then a socket of theirs is adopted even while
        it does not listen: its slot may call listen() any moment, and would take a queue with it when it leaves.
        """
        adopted = []
        known = set(names)
        for owned in lease.created:
            if owned.identity in known:
                adopted.append(owned)
            else:
                self.shut(owned)
        lease.created.clear()
        return adopted

    def without(self, lease: Lease) -> list[OwnedSocket]:
        """All but those of this generation."""
        given = set(map(id, lease.sockets))
        return [owned for owned in self._sockets.values() if id(owned) not in given]

    def put(self, owned: OwnedSocket) -> None:
        """One of the last version of this supervisor."""
        self._sockets[owned.identity, owned.slot] = owned

    def all(self) -> list[OwnedSocket]:
        return list(self._sockets.values())

    def shut(self, owned: OwnedSocket) -> None:
        self._on_shut(owned)
        self._forget(owned)
        owned.shut()

    def close(self) -> None:
        """At the supervisor's end: no file of a unix socket is left, but for those that the next start is passed."""
        for owned in list(self._sockets.values()):
            if owned.stored:
                self._forget(owned)
                owned.sock.close()
            else:
                self.shut(owned)

    def bound(self, lease: Lease, listener: str) -> list[str]:
        """The addresses of a listener as they are bound: "127.0.0.1:40123", "unix:/run/x.sock"."""
        found: dict[str, None] = {}
        for owned in lease.sockets:
            if lease.names.get(owned.identity, ("", 0))[0] == listener and owned.sock.fileno() >= 0:
                found[bound_text(owned)] = None
        return list(found)

    def _acquire_address(
        self, lease: Lease, identity: Identity, address: WantedAddress, slots: int, shared: bool
    ) -> None:
        here = self._of(identity)
        lease.sockets += here
        lease.carried += [(owned.path, address) for owned in here if owned.path is not None]
        port = here[0].sock.getsockname()[1] if here and address.family == "tcp" else address.port
        taken = {owned.slot for owned in here}
        for slot in range(slots):
            if slot in taken:
                continue
            if address.family == "unix":
                sock, path = bind_unix(address, self._is_ours)
                owned = OwnedSocket(identity, slot, True, sock, path)
            else:
                first = not here and slot == 0
                sock = bind_tcp(address, port, self._is_ours if first and port != 0 else None)
                port = sock.getsockname()[1]
                owned = OwnedSocket(identity, slot, shared, sock)
            self._sockets[identity, slot] = owned
            lease.sockets.append(owned)
            lease.created.append(owned)

    def _identity_of(self, listener: WantedListener, address: WantedAddress) -> tuple[Identity, bool]:
        """Under which identity its sockets are known, and whether all slots share them."""
        for owned in self._sockets.values():
            if owned.kept and is_bound_to(owned.sock, address):
                return owned.identity, True
        return _identity(listener.name, address), listener.shared or address.family == "unix"

    def _refuse_idle(self, lease: Lease) -> None:
        """systemd goes on listening whatever we do: its clients would wait for ever. Raises BindRefused."""
        idle = [owned.identity for owned in self._sockets.values() if owned.kept and owned.identity not in lease.names]
        if idle:
            raise BindRefused(f"systemd listens on {', '.join(idle)}, and no listener has this address")

    def _of(self, identity: Identity) -> list[OwnedSocket]:
        found = [owned for owned in self._sockets.values() if owned.identity == identity]
        return sorted(found, key=lambda owned: owned.slot)

    def _forget(self, owned: OwnedSocket) -> None:
        if self._sockets.get((owned.identity, owned.slot)) is owned:
            del self._sockets[owned.identity, owned.slot]


def _cookie(sock: socket.socket) -> bytes:
    """What no two sockets of this machine have in common, and all copies of one do (socket(7), SO_COOKIE)."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


def _identity(listener: str, address: WantedAddress) -> Identity:
    if address.family == "tcp" and address.port == 0:
        return f"{listener}/{address.text}"  # every ":0" is a port of its own
    return address.text


def bound_text(owned: OwnedSocket) -> str:
    return f"unix:{owned.path.path}" if owned.path is not None else bound_to(owned.sock)
