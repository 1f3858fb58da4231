"""Who accepts on which socket, and how long a slot that keeps dying waits. No processes here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

# A slot that lived so long did not die of its birth; the next death starts from the beginning.
HEALTHY_S: Final = 10.0
BACK_OFF_S: Final = 0.1
BACK_OFF_MAX_S: Final = 5.0


def acceptor(socket_slot: int, slots: int, down: Collection[int]) -> int | None:
    """The slot that accepts on the socket number `socket_slot`; None when every slot is down.

    More sockets than slots: they were not closed when the number of slots shrank, because they may have a queue; the
    slots share them, for good. A slot that is down: its neighbour takes its share.
    """
    for distance in range(slots):
        slot = (socket_slot + distance) % slots
        if slot not in down:
            return slot
    return None


class BackOff:
    """Of one slot: the first death costs nothing, the next ones 100 ms, 200 ms ... 5 s."""

    __slots__ = ("_next_s",)

    def __init__(self) -> None:
        self._next_s = 0.0

    def after_death(self, lived_s: float) -> float:
        """How long to wait before the next fork, in seconds."""
        if lived_s >= HEALTHY_S:
            self._next_s = 0.0
        wait_s = self._next_s
        self._next_s = min(max(wait_s * 2, BACK_OFF_S), BACK_OFF_MAX_S)
        return wait_s
