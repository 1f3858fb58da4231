"""The secret behind TLS session tickets: made once by the supervisor, the same in every process, replaced twice a day.

    secret of period n --HMAC--> secret of period n+1 ...        forward only: nobody who has one finds those before it

So that a client's session goes on with whatever worker and generation it meets next. It travels over inherited
socketpairs only, as two fields of SOCKETS; it is never written anywhere and never logged. Each process turns its own
wheel by the clock of the machine, so that a rotation needs no message.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

# A ticket lives for two hours (OpenSSL's default). At a rotation a client makes one full handshake; and whoever takes
# the secret out of a process's memory can read sessions that were resumed within the period at most.
PERIOD_S: Final = 12 * 3600.0
SECRET_BYTES: Final = 32
# How often a process that has nothing else to do with it turns the secret.
TURN_S: Final = 600.0


class TicketChain:
    """The secret of the current period. `wall_s` is the time of day, in seconds since 1970."""

    __slots__ = ("_secret", "period")

    def __init__(self, secret: bytes, period: int) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret of {len(secret)} bytes")
        self._secret = secret
        self.period = period

    @classmethod
    def new(cls, wall_s: float) -> TicketChain:
        return cls(os.urandom(SECRET_BYTES), _period(wall_s))

    def advance(self, wall_s: float) -> bool:
        """To the period of now; True: there is another secret. A clock that was set back changes nothing."""
        wanted = _period(wall_s)
        moved = wanted > self.period
        while self.period < wanted:
            self._secret = self.derive(b"next period", SECRET_BYTES)
            self.period += 1
        return moved

    def derive(self, purpose: bytes, size: int) -> bytes:
        """Bytes that belong to this secret and this purpose: HKDF-Expand with SHA-256 (RFC 5869 section 2.3)."""
        block, made = b"", b""
        while len(made) < size:
            counter = bytes((len(made) // 32 + 1,))
            block = hmac.digest(self._secret, block + purpose + counter, hashlib.sha256)
            made += block
        return made[:size]

    def to_wire(self) -> list[object]:
        return [self._secret, self.period]

    @classmethod
    def from_wire(cls, wire: object) -> TicketChain:
        """Raises ValueError."""
        if not isinstance(wire, list) or [type(value) for value in wire] != [bytes, int]:
            raise ValueError("not a ticket chain")
        return cls(wire[0], wire[1])

    def __repr__(self) -> str:
        return f"<TicketChain of period {self.period}>"  # never its secret


def _period(wall_s: float) -> int:
    return int(wall_s // PERIOD_S)
