"""The secret of TLS sessions in a zygote: kept for those who are forked later, and turned by the clock, so that nobody
finds yesterday's in this process."""

from __future__ import annotations

import time

from hotproxy.restarter.log import WARNING, log
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.ticket_chain import TURN_S, TicketChain


class Tickets:
    """`chain` None: the supervisor is older than they are."""

    __slots__ = ("_loop", "chain")

    def __init__(self, loop: Loop) -> None:
        self.chain: TicketChain | None = None
        self._loop = loop

    def take(self, wire: object) -> None:
        """What SOCKETS says, None for nothing."""
        if wire is None:
            return
        first = self.chain is None
        try:
            self.chain = TicketChain.from_wire(wire)
        except ValueError as error:
            log(WARNING, f"the supervisor's ticket secret is of no use: {error}")
        if first:
            self._turn()

    def _turn(self) -> None:
        if self.chain is not None:
            self.chain.advance(time.time())
            self._loop.after(TURN_S, self._turn)
