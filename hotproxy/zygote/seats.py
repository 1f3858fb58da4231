"""The places of a generation: who sits there, and which of them accepts on which socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotproxy.restarter.loop import Alarm
from hotproxy.zygote.child import CONTROL, WORKER, Child
from hotproxy.zygote.program import HeldSocket
from hotproxy.zygote.slots import BackOff, acceptor


@dataclass(slots=True, eq=False)
class Seat:
    """A slot, or the control process, whether somebody sits there or not."""

    role: str
    slot: int
    child: Child | None = None
    predecessor: Child | None = None  # sits here until `child` accepts, and then leaves (`worker recycle`)
    down: bool = False  # waits before it is forked again; a neighbour accepts for it
    asked: bool = False  # for shared memory
    back_off: BackOff = field(default_factory=BackOff)
    alarm: Alarm | None = None

    def __str__(self) -> str:
        return f"{self.role} {self.slot}" if self.role == WORKER else self.role

    @property
    def sitting(self) -> list[Child]:
        return [child for child in (self.predecessor, self.child) if child is not None]

    def stay_empty(self) -> None:
        self.asked = False
        if self.alarm is not None:
            self.alarm.cancel()


class Seats:
    """All seats, sockets and children. `children` has those too that leave because there are fewer slots now."""

    def __init__(self, slots: int, is_control: Callable[[str], bool]) -> None:
        self._is_control = is_control
        self._seats = [Seat(CONTROL, 0), *(Seat(WORKER, slot) for slot in range(slots))]
        self.sockets: list[HeldSocket] = []
        self.children: dict[int, Child] = {}  # by serial

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats)

    @property
    def slots(self) -> int:
        return sum(seat.role == WORKER for seat in self._seats)

    @property
    def workers(self) -> list[Child]:
        return [child for child in self.children.values() if child.role == WORKER]

    def take(self, wires: Sequence[Any], fds: Sequence[int], inodes: Sequence[Any] = ()) -> None:
        """Sockets of the supervisor; the descriptors are ours now."""
        for number, ((listener, index, slot, _, shared, *_), fd) in enumerate(zip(wires, fds, strict=True)):
            held = HeldSocket(listener, index, slot, shared, socket.socket(fileno=fd))
            if number < len(inodes):
                held.inode = (inodes[number][0], inodes[number][1])
            self.sockets.append(held)

    def waiting(self, role: str, slot: int) -> Seat | None:
        """The seat that has asked for shared memory."""
        return next((each for each in self if each.role == role and each.slot == slot and each.asked), None)

    def of(self, child: Child) -> Seat | None:
        return next((each for each in self if each.child is child), None)

    def all_are(self, state: str) -> bool:
        return all(seat.child is not None and seat.child.state == state for seat in self)

    def resize(self, slots: int) -> tuple[list[Seat], list[Seat]]:
        """Other slots from now on: the seats that are new, and those that are no more."""
        new = [Seat(WORKER, slot) for slot in range(self.slots, slots)]
        leaving = [seat for seat in self if seat.role == WORKER and seat.slot >= slots]
        self._seats = [*(seat for seat in self if seat not in leaving), *new]
        for seat in leaving:
            seat.stay_empty()
            for child in seat.sitting:
                child.leaving = True
        return new, leaving

    def sockets_of(self, seat: Seat) -> list[HeldSocket]:
        """What whoever is forked for this seat accepts on."""
        if seat.role == CONTROL:
            return [held for held in self.sockets if self._is_control(held.listener)]
        down, slots = self._down() - {seat.slot}, self.slots
        return [
            held
            for held in self.sockets
            if not self._is_control(held.listener) and (held.shared or acceptor(held.slot, slots, down) == seat.slot)
        ]

    def rebalance(self) -> None:
        """Every socket to the slot whose it is: ADOPT first, then RELEASE, so that it is never nobody's."""
        down, slots = self._down(), self.slots
        by_slot = {seat.slot: seat.child for seat in self if seat.role == WORKER and seat.child is not None}
        for held in self.sockets:
            if held.shared or self._is_control(held.listener):
                continue
            slot = acceptor(held.slot, slots, down)
            owner = by_slot.get(slot) if slot is not None else None
            if owner is None or owner.state != "accepting":
                continue  # it gets it when it is forked; until it accepts, whoever has it keeps it
            if held not in owner.sockets:
                owner.sockets.append(held)
                owner.outbox.post("ADOPT", {"sockets": [held.wire()]}, [held.sock.fileno()])
            for other in self.children.values():
                if other is not owner and held in other.sockets and not other.leaving:
                    other.sockets.remove(held)
                    other.outbox.post("RELEASE", {"sockets": [held.wire()]})

    def shut(self, wires: Sequence[Any]) -> set[int]:
        """Removed listeners: the slots take what waits there. The serials of those who will say SHUT_DONE."""
        named = [held for held in self.sockets if held.named_in(wires)]
        asked = set()
        for child in self.workers:
            mine = [held.wire() for held in child.sockets if held in named]
            if mine:
                asked.add(child.serial)
                child.outbox.post("SHUT", {"sockets": mine})
        self._close(named)
        return asked

    def close_sockets(self) -> None:
        self._close(list(self.sockets))

    def stay_empty(self) -> None:
        """Nobody is forked any more."""
        for seat in self:
            seat.stay_empty()

    def tell_all(self, kind: str, fields: dict[str, Any] | None = None) -> None:
        for child in self.children.values():
            child.outbox.post(kind, fields)

    def tell_control(self, kind: str) -> None:
        for child in self.children.values():
            if child.role == CONTROL:
                child.outbox.post(kind)

    def kill_all(self) -> None:
        for child in self.children.values():
            child.kill()

    def _close(self, sockets: list[HeldSocket]) -> None:
        """Our copies: a removed listener lives as long as anybody holds one."""
        for held in sockets:
            self.sockets.remove(held)
            held.sock.close()

    def _down(self) -> set[int]:
        return {seat.slot for seat in self if seat.role == WORKER and seat.down}
