"""Who accepts on which socket, and how long a dying slot waits."""

from __future__ import annotations

import itertools

import pytest

from hotproxy.zygote.slots import BackOff, acceptor


@pytest.mark.parametrize(("sockets", "slots"), list(itertools.product(range(1, 6), range(1, 6))))
def test_every_socket_is_accepted_on_and_every_slot_has_one_of_its_own(sockets: int, slots: int) -> None:
    owners = [acceptor(number, slots, ()) for number in range(sockets)]
    assert None not in owners
    assert owners[:slots] == list(range(min(sockets, slots)))


def test_a_neighbour_accepts_for_one_that_is_down() -> None:
    assert [acceptor(number, 3, {1}) for number in range(3)] == [0, 2, 2]
    assert [acceptor(number, 3, {1, 2}) for number in range(3)] == [0, 0, 0]
    assert acceptor(0, 2, {0, 1}) is None


def test_the_first_death_costs_nothing_the_next_ones_ever_more() -> None:
    back_off = BackOff()
    waits = [back_off.after_death(lived_s=0.1) for _ in range(9)]
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert back_off.after_death(lived_s=10.0) == 0.0
    assert back_off.after_death(lived_s=0.1) == pytest.approx(0.1)
