"""The two tables of a handoff, played against each other in every order of messages, timeouts and deaths."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest

from hotproxy.worker.handoff_states import GIVING, TAKING, Do, Giving, Heard, Taking

SAYS = {Do.SAY_TAKEN: Heard.TAKEN, Do.SAY_PREPARED: Heard.PREPARED, Do.COMMITTED: Heard.COMMITTED}


@dataclass(frozen=True)
class World:
    """One wave of two parts, two processes, and what is on its way between them."""

    giver: Giving = Giving.IDLE
    taker: Taking = Taking.WAITING
    to_taker: tuple[Heard, ...] = ()
    to_giver: tuple[Heard, ...] = ()
    parts: int = 2
    giver_has: str = "mine"  # mine, frozen, released
    taker_has: str = "nothing"  # nothing, loaded, active
    ever_active: bool = False
    giver_alive: bool = True
    taker_alive: bool = True
    giver_heard_the_end: bool = False
    taker_heard_the_end: bool = False
    garbage: int = 1
    timeouts: int = 3
    stuck: bool = False

    @property
    def giver_open(self) -> bool:
        return self.giver_alive and self.giver is not Giving.DONE

    @property
    def taker_open(self) -> bool:
        return self.taker_alive and self.taker is not Taking.DONE


def giver_hears(world: World, heard: Heard) -> World:
    state, actions = GIVING[world.giver, heard]
    taker_open = world.taker_open
    world = replace(world, giver=state)
    for action in actions:
        if action is Do.OFFER:
            said = Heard.LAST_OFFER if world.parts == 1 else Heard.OFFER
            world = replace(world, parts=world.parts - 1, giver_has="frozen")
            world = replace(world, to_taker=(*world.to_taker, said)) if taker_open else world
        elif action is Do.COMMIT:
            world = replace(world, to_taker=(*world.to_taker, Heard.COMMIT)) if taker_open else world
        elif action is Do.RELEASE:
            world = replace(world, giver_has="released")
        elif action is Do.THAW:
            world = replace(world, giver_has="mine")
        elif action is Do.STUCK:
            world = replace(world, stuck=True)
        elif action is Do.NEXT:
            world = giver_hears(world, Heard.NOTHING)
    return world


def taker_hears(world: World, heard: Heard) -> World:
    state, actions = TAKING[world.taker, heard]
    giver_open = world.giver_open
    world = replace(world, taker=state)
    for action in actions:
        if action in SAYS:
            world = replace(world, to_giver=(*world.to_giver, SAYS[action])) if giver_open else world
            if action is Do.COMMITTED:
                world = replace(world, taker_has="active", ever_active=True)
        elif action is Do.LOAD:
            world = replace(world, taker_has="loaded")
        elif action is Do.DISCARD:
            world = replace(world, taker_has="nothing")
    return world


def next_worlds(world: World) -> list[World]:
    found = []
    if world.giver_open:
        if world.giver is Giving.IDLE and world.giver_has == "mine":
            found.append(giver_hears(world, Heard.WAVE))
        if world.to_giver and not (world.to_giver[0] is Heard.TAKEN and not world.parts):
            found.append(giver_hears(replace(world, to_giver=world.to_giver[1:]), world.to_giver[0]))
        elif not world.to_giver and not world.taker_open and not world.giver_heard_the_end:
            found.append(giver_hears(replace(world, giver_heard_the_end=True), Heard.GONE))
        if world.timeouts:
            found.append(giver_hears(replace(world, timeouts=world.timeouts - 1), Heard.TIMEOUT))
        found.append(giver_hears(world, Heard.STOP))
        found.append(replace(world, giver_alive=False))
    if world.taker_open:
        if world.to_taker:
            found.append(taker_hears(replace(world, to_taker=world.to_taker[1:]), world.to_taker[0]))
        elif not world.giver_open and not world.taker_heard_the_end:
            found.append(taker_hears(replace(world, taker_heard_the_end=True), Heard.GONE))
        if world.timeouts:
            found.append(taker_hears(replace(world, timeouts=world.timeouts - 1), Heard.TIMEOUT))
        found.append(taker_hears(world, Heard.STOP))
        found.append(replace(world, taker_alive=False))
    if world.garbage:
        fewer = replace(world, garbage=0)
        if world.taker_open:
            found.append(replace(fewer, to_giver=(*world.to_giver, Heard.NONSENSE)))
        if world.giver_open:
            found.append(replace(fewer, to_taker=(*world.to_taker, Heard.NONSENSE)))
    return [each for each in found if each != world]


def all_worlds() -> set[World]:
    seen = {World()}
    queue = [World()]
    while queue:
        for world in next_worlds(queue.pop()):
            if world not in seen:
                seen.add(world)
                queue.append(world)
    return seen


@pytest.fixture(scope="module")
def worlds() -> set[World]:
    return all_worlds()


def test_every_event_has_an_answer_in_every_state() -> None:
    assert set(GIVING) == set(itertools.product(Giving, Heard))
    assert set(TAKING) == set(itertools.product(Taking, Heard))


def test_the_model_meets_what_can_happen(worlds: set[World]) -> None:
    """If it did not, the tests below would hold for nothing."""
    assert {world.giver for world in worlds} == set(Giving)
    assert {world.taker for world in worlds} == set(Taking)
    assert any(world.ever_active and not world.giver_alive for world in worlds)
    assert any(world.giver_has == "mine" and not world.taker_alive and world.to_taker for world in worlds)
    assert len(worlds) > 1_000


def test_a_wave_never_has_two_owners(worlds: set[World]) -> None:
    """Not even one after the other: what the taker has begun to serve, the giver never takes back."""
    bad = [world for world in worlds if world.ever_active and world.giver_has == "mine"]
    assert not bad, bad[0]


def test_a_wave_is_let_go_only_when_somebody_has_it(worlds: set[World]) -> None:
    bad = [world for world in worlds if world.giver_has == "released" and not world.ever_active]
    assert not bad, bad[0]


def test_a_giver_that_lives_never_ends_with_a_wave_of_nobody(worlds: set[World]) -> None:
    over = [world for world in worlds if world.giver is Giving.DONE and world.giver_alive]
    assert over and not [world for world in over if world.giver_has == "frozen"]


def test_nobody_waits_for_ever(worlds: set[World]) -> None:
    """Where no message, end or death moves a giver on, the taker is one that it has asked to be killed, or will."""
    for world in worlds:
        waits = world.giver_open and world.giver_has == "frozen"
        if waits and not world.to_giver and world.taker_open and not world.to_taker and not world.timeouts:
            uncertain = world.giver in (Giving.COMMITTING, Giving.LAST)
            after = giver_hears(world, Heard.TIMEOUT)
            assert after.stuck if uncertain else after.giver is Giving.DONE


def test_a_taker_whose_giver_is_dead_keeps_nothing_that_was_not_committed(worlds: set[World]) -> None:
    over = [world for world in worlds if world.taker is Taking.DONE]
    assert over and not [world for world in over if world.taker_has == "loaded"]
