"""Certificates of a running worker: loaded anew when their files change, ticket keys turned when it is time.

A look costs one stat per file and second, through all symlinks, so that renamed files, certbot's links and Kubernetes'
swapped directories are all seen. What has changed must stay as it is from one look to the next: a certificate and its
key are two files, and nobody writes both at once. What can't be used is told once, and what there was stays in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hotproxy.clock import Clock
from hotproxy.config.certificate import CertificateError, Identity

LOOK_S: Final = 1.0


class Side(Protocol):
    """Who has certificates: `net.tls_server.ServerTls`, `net.tls_client.ClientTls`."""

    @property
    def changed(self) -> bool: ...

    def identities(self) -> list[Identity | None]: ...

    def reload(self) -> None: ...


class TicketUser(Protocol):
    def use_tickets(self) -> None: ...


class Keys(Protocol):
    """`net.tls_tickets.TicketKeys`."""

    def advance(self, wall_s: float) -> bool: ...


class Certificates:
    """Of one worker. `sides`: with how each is called, "listener 'web'"."""

    __slots__ = ("_clock", "_complain", "_keys", "_next_s", "_report", "_seen", "_sides", "_users")

    def __init__(
        self,
        sides: Sequence[tuple[str, Side]],
        clock: Clock,
        report: Callable[[str], None],
        complain: Callable[[str], None],
        keys: Keys | None = None,
        users: Sequence[TicketUser] = (),
    ) -> None:
        self._sides = sides
        self._clock = clock
        self._report = report
        self._complain = complain
        self._keys = keys
        self._users = users
        self._seen: dict[str, list[Identity | None]] = {}  # changed, and not yet for long enough
        self._next_s = clock.now_s() + LOOK_S

    def catch_up(self) -> None:
        """Whoever is forked later has inherited what the files held when the generation began."""
        for name, side in self._sides:
            if side.changed:
                self._reload(name, side)

    def tick(self) -> None:
        now_s = self._clock.now_s()
        if now_s < self._next_s or not self._sides:
            return
        self._next_s = now_s + LOOK_S
        for name, side in self._sides:
            if side.changed:
                self._settle(name, side)
            else:
                self._seen.pop(name, None)
        if self._keys is not None and self._keys.advance(self._clock.wall_s()):
            for user in self._users:
                user.use_tickets()

    def _settle(self, name: str, side: Side) -> None:
        identities = side.identities()
        if self._seen.get(name) != identities:
            self._seen[name] = identities
            return
        del self._seen[name]
        self._reload(name, side)

    def _reload(self, name: str, side: Side) -> None:
        try:
            side.reload()
        except CertificateError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self._complain(f"{name}: {error}{hint}; the certificates of before stay in use")
        else:
            self._report(f"{name}: certificates were loaded anew")
