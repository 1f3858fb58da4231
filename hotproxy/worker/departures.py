"""What a worker can give away: its clients' connections, and the idle ones to endpoints, frozen wave by wave.

A connection that can't move at this moment (it is closing, or a user's filter is in the middle of something) gets a
second chance when all others have gone. What is left after that stays, and drains.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from hotproxy.proxy.filter_chain import DownstreamConnection


class Movable(Protocol):
    """A frozen connection of either side of the proxy."""

    @property
    def kind(self) -> str: ...

    def dump(self) -> dict[str, object]: ...

    def socks(self) -> list[socket.socket]: ...

    def thaw(self) -> None: ...

    def release(self) -> None: ...


class HoldsConnections(Protocol):
    """The `Listener`."""

    @property
    def connections(self) -> set[DownstreamConnection]: ...


class HoldsIdle(Protocol):
    """The `Pools`."""

    def freeze_idle(self, limit: int) -> Iterable[Movable]: ...

    @property
    def idle_count(self) -> int: ...


class Departure:
    """One frozen connection and the listener that it came in by; "" for an idle upstream one."""

    __slots__ = ("connection", "listener", "movable")

    def __init__(self, listener: str, movable: Movable, connection: DownstreamConnection | None = None) -> None:
        self.listener = listener
        self.movable = movable
        self.connection = connection  # the same, if it is a client's


class Departures:
    """All that is here, shared out among those who take. One for each worker, while it gives.

    `left` is how many clients' connections are still here, frozen ones included: who gives looks at it at the end.
    """

    __slots__ = (
        "_idle_offers", "_listeners", "_on_bug", "_pinned", "_pools", "_returned", "_second_look", "_seen", "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        listeners: Mapping[str, HoldsConnections],
        pools: HoldsIdle,
        returned: set[DownstreamConnection],
        on_bug: Callable[[str, Exception], None],
    ) -> None:
        """`returned`: who came back before. They stay; whoever comes back this time is added. `on_bug`: an exception of
        ours in one connection; the others go on."""
        self._on_bug = on_bug
        self._listeners = listeners
        self._pools = pools
        self._waiting: Iterator[tuple[str, DownstreamConnection]] | None = None
        self._pinned: set[DownstreamConnection] = set()
        self._returned = returned
        self._seen = set(returned)
        self._second_look = False
        # Those that are refused are idle again, and would be offered again: so each that there is counts once, and one
        # for each client, whose request may end meanwhile.
        self._idle_offers = self.idle + self.left

    @property
    def left(self) -> int:
        return sum(len(listener.connections) for listener in self._listeners.values())

    def freeze(self, limit: int) -> list[Departure]:
        """Up to `limit` more of the clients' connections, frozen; none: what is left can't move."""
        frozen: list[Departure] = []
        while len(frozen) < limit:
            found = next(self._waiting, None) if self._waiting is not None else None
            if found is None:
                if not self._look_again():
                    break
                continue
            name, connection = found
            if connection not in self._listeners[name].connections:
                continue  # it has ended meanwhile
            if self._freeze(connection):
                frozen.append(Departure(name, connection, connection))
            elif not self._second_look:
                self._pinned.add(connection)
        return frozen

    def _freeze(self, connection: DownstreamConnection) -> bool:
        try:
            return connection.freeze()
        except Exception as error:
            self._on_bug("a connection can't be frozen", error)
            return False

    def take_back(self, departure: Departure) -> None:
        """Its wave has failed, perhaps because of it: nobody else shall die of the same."""
        if departure.connection is not None:
            self._returned.add(departure.connection)

    def freeze_idle(self, limit: int) -> list[Departure]:
        """Up to `limit` idle connections to endpoints."""
        frozen = [Departure("", movable) for movable in self._pools.freeze_idle(min(limit, self._idle_offers))]
        self._idle_offers -= len(frozen)
        return frozen

    @property
    def idle(self) -> int:
        return self._pools.idle_count

    def _look_again(self) -> bool:
        """What has come since (from a worker that gave to this one), and once more what was pinned. False: nothing."""
        fresh = [
            (name, connection)
            for name, listener in self._listeners.items()
            for connection in listener.connections
            if connection not in self._seen
        ]
        self._second_look = not fresh
        if not fresh:
            fresh = [
                (name, connection)
                for name, listener in self._listeners.items()
                for connection in listener.connections
                if connection in self._pinned
            ]
            self._pinned.clear()
        self._seen.update(connection for _, connection in fresh)
        self._waiting = iter(fresh)
        return bool(fresh)
