"""The secret of TLS sessions: the same for everybody in a period, and no way back."""

from __future__ import annotations

import pytest

from hotproxy.restarter.ticket_chain import PERIOD_S, SECRET_BYTES, TicketChain

NOW_S = 1_700_000_000.0


def test_processes_that_turn_it_at_other_times_have_the_same() -> None:
    first = TicketChain.new(NOW_S)
    second = TicketChain.from_wire(first.to_wire())
    assert first.advance(NOW_S + 3 * PERIOD_S)
    for step in range(1, 4):
        assert second.advance(NOW_S + step * PERIOD_S)
    assert first.to_wire() == second.to_wire()
    assert first.derive(b"a", 80) == second.derive(b"a", 80)


def test_within_a_period_and_before_it_nothing_changes() -> None:
    chain = TicketChain.new(NOW_S)
    before = chain.to_wire()
    assert not chain.advance(NOW_S)
    assert not chain.advance(NOW_S - 10 * PERIOD_S)  # a clock that was set back
    assert chain.to_wire() == before


def test_another_period_and_another_purpose_are_other_bytes() -> None:
    chain = TicketChain.new(NOW_S)
    found = {chain.derive(b"a", 80), chain.derive(b"b", 80)}
    chain.advance(NOW_S + PERIOD_S)
    found |= {chain.derive(b"a", 80), chain.derive(b"b", 80)}
    assert len(found) == 4
    assert {len(each) for each in found} == {80}
    assert chain.derive(b"a", 80).startswith(chain.derive(b"a", 16))


def test_two_supervisors_have_two() -> None:
    assert TicketChain.new(NOW_S).to_wire() != TicketChain.new(NOW_S).to_wire()


@pytest.mark.parametrize("wire", [None, [], [b"short", 1], ["x" * SECRET_BYTES, 1], [b"x" * SECRET_BYTES, "1"], {}])
def test_what_is_no_secret_is_refused(wire: object) -> None:
    with pytest.raises(ValueError):
        TicketChain.from_wire(wire)


def test_it_is_never_shown() -> None:
    chain = TicketChain(b"s" * SECRET_BYTES, 7)
    assert repr(chain) == str(chain) == "<TicketChain of period 7>"
