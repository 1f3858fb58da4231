"""Who gets ADOPT, RELEASE and SHUT for which socket, with children that only remember what they are told."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hotproxy.zygote.child import WORKER, Child
from hotproxy.zygote.seats import Seat, Seats


class Told:
    def __init__(self) -> None:
        self.messages: list[tuple[str, list[int]]] = []

    def post(self, kind: str, fields: dict[str, Any] | None = None, fds: object = ()) -> None:
        self.messages.append((kind, [wire[2] for wire in (fields or {}).get("sockets", [])]))


Sit = Callable[[int], Told]


@pytest.fixture
def seats() -> Iterator[Seats]:
    made = Seats(2, lambda name: name == "admin")
    sockets = [socket.socket() for _ in range(4)]
    wires = [["a", 0, slot, False, False] for slot in range(4)]
    made.take(wires, [os.dup(sock.fileno()) for sock in sockets])
    for sock in sockets:
        sock.close()
    yield made
    made.close_sockets()


@pytest.fixture
def sit(seats: Seats) -> Sit:
    def sit(slot: int) -> Told:
        seat = seat_of(seats, slot)
        told = Told()
        serial = len(seats.children)
        outbox: Any = told
        seat.child = Child(WORKER, slot, serial, 0, -1, outbox, 0.0, "accepting", seats.sockets_of(seat))
        seats.children[serial] = seat.child
        seats.rebalance()
        return told

    return sit


def seat_of(seats: Seats, slot: int) -> Seat:
    return next(seat for seat in seats if seat.role == WORKER and seat.slot == slot)


def leave(seats: Seats, slot: int) -> None:
    seat = seat_of(seats, slot)
    assert seat.child is not None
    del seats.children[seat.child.serial]
    seat.child = None


def test_a_surplus_of_sockets_is_shared(seats: Seats, sit: Sit) -> None:
    zero, one = sit(0), sit(1)
    assert [held.slot for held in seats.sockets_of(seat_of(seats, 0))] == [0, 2]
    assert [held.slot for held in seats.sockets_of(seat_of(seats, 1))] == [1, 3]
    assert zero.messages == one.messages == []


def test_a_neighbour_adopts_for_a_slot_that_is_down_and_gives_back_when_it_accepts(seats: Seats, sit: Sit) -> None:
    zero, _ = sit(0), sit(1)
    leave(seats, 1)
    seats.rebalance()
    assert zero.messages == []  # it is forked again at once: its queue waits
    seat_of(seats, 1).down = True
    seats.rebalance()
    assert zero.messages == [("ADOPT", [1]), ("ADOPT", [3])]
    seat_of(seats, 1).down = False
    seats.rebalance()
    assert len(zero.messages) == 2  # not before the other accepts
    assert sit(1).messages == []
    assert zero.messages[2:] == [("RELEASE", [1]), ("RELEASE", [3])]


def test_fewer_slots_adopt_and_more_slots_release(seats: Seats, sit: Sit) -> None:
    zero, one = sit(0), sit(1)
    new, leaving = seats.resize(1)
    assert new == [] and [seat.slot for seat in leaving] == [1]
    seats.rebalance()
    assert zero.messages == [("ADOPT", [1]), ("ADOPT", [3])]
    assert one.messages == []  # it is told to drain, and keeps what it has until then
    new, leaving = seats.resize(2)
    assert [seat.slot for seat in new] == [1] and leaving == []
    assert sit(1).messages == []
    assert zero.messages[2:] == [("RELEASE", [1]), ("RELEASE", [3])]


def test_a_removed_listener_is_shut_by_those_who_accept_on_it(seats: Seats, sit: Sit) -> None:
    zero, one = sit(0), sit(1)
    assert seats.shut([["a", 0, 0, True, False], ["a", 0, 2, True, False]]) == {0}
    assert zero.messages == [("SHUT", [0, 2])] and one.messages == []
    assert [held.slot for held in seats.sockets] == [1, 3]  # ours are closed


def test_the_control_process_has_its_own(seats: Seats) -> None:
    sock = socket.socket()
    seats.take([["admin", 0, 0, False, True]], [sock.detach()])
    control = next(seat for seat in seats if seat.role != WORKER)
    assert [held.listener for held in seats.sockets_of(control)] == ["admin"]
    assert "admin" not in {held.listener for held in seats.sockets_of(seat_of(seats, 0))}
