"""The table: every pair is there, no state is a trap, and the stories that it tells."""

from __future__ import annotations

import itertools

import pytest

from hotproxy.restarter.generation import ACCEPTING_STATES, TRANSITIONS, Action, Event, State, step

ON_TRIAL = (State.STARTING, State.WARMING, State.OPENING)


def walk(*events: Event) -> tuple[State, list[Action]]:
    state, done = State.STARTING, []
    for event in events:
        state, actions = step(state, event)
        done += actions
    return state, done


def test_every_event_has_an_answer_in_every_state() -> None:
    assert set(TRANSITIONS) == set(itertools.product(State, Event))


@pytest.mark.parametrize("state", State)
def test_no_state_is_a_trap(state: State) -> None:
    """Whatever happened, a deadline and the death of all processes lead to the end."""
    for event in (Event.RETIRE, Event.DEADLINE, Event.DEADLINE, Event.DEADLINE, Event.ZYGOTE_DIED, Event.EMPTY):
        state, _ = step(state, event)
    assert state is State.GONE


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_what_is_done_fits_where_it_leads(state: State, event: Event) -> None:
    after, actions = step(state, event)
    assert (Action.FORGET in actions) == (after is State.GONE and state is not State.GONE)
    assert (Action.FAIL in actions) == (state in ON_TRIAL and after in (State.FAILED, State.DRAINING))
    assert (Action.KILL in actions) == (after is State.FAILED and state is not State.FAILED)
    if state is State.GONE:
        assert after is State.GONE and not {Action.KILL, Action.FORGET, Action.FAIL} & set(actions)
    if state is State.OPENING and after is not State.ACTIVE:
        assert Action.KILL not in actions, "it may hold connections"


@pytest.mark.parametrize("event", [each for each in Event if each is not Event.HELLO])
def test_a_beginner_that_breaks_the_rules_is_killed(event: Event) -> None:
    after, actions = step(State.STARTING, event)
    assert after is State.FAILED and Action.FAIL in actions


def test_a_whole_life() -> None:
    state, done = walk(
        Event.HELLO, Event.READY, Event.ACCEPTING, Event.RETIRE, Event.ACCEPT_STOPPED, Event.SHUT_DONE, Event.MOVED,
        Event.ZYGOTE_DIED, Event.EMPTY,
    )  # fmt: skip
    assert state is State.GONE
    assert done == [
        Action.GIVE_SOCKETS, Action.ACCEPT_ON, Action.SUCCEED, Action.ACCEPT_OFF, Action.SHUT, Action.DROP_REMOVED,
        Action.MOVE, Action.DRAIN, Action.YIELDED, Action.FORGET,
    ]  # fmt: skip


def test_a_dead_zygote_leaves_slots_that_yield_like_all_others() -> None:
    state, done = walk(Event.HELLO, Event.READY, Event.ACCEPTING, Event.ZYGOTE_DIED)
    assert state is State.ORPHANED and done[-1] is Action.REPLACE
    assert step(state, Event.RETIRE) == step(State.ACTIVE, Event.RETIRE)


def test_the_successor_never_waits_for_one_that_is_gone() -> None:
    for state in (State.YIELDING, State.SHUTTING, State.MOVING):
        after, actions = step(state, Event.EMPTY)
        assert after is State.GONE and Action.YIELDED in actions


def test_who_accepts_is_told_to_stop() -> None:
    for state in ACCEPTING_STATES:
        if state is not State.YIELDING:
            assert Action.ACCEPT_OFF in step(state, Event.RETIRE)[1]
