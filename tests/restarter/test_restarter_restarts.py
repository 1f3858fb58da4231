"""Who has to go before another generation is started, on a clock that the test moves."""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hotproxy.restarter.generation import State
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.moves import Move
from hotproxy.restarter.restarts import HEALTHY_S, MAX_LIVE, ROOM_S, Outcome, Restarts


class FakePlane:
    """Generations without processes. `time_s` is the loop's clock."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.loop = Loop(selectors.DefaultSelector(), lambda: self.time_s)
        self.restarts = Restarts(self.loop, self)
        self.live: list[Any] = []
        self.expired: list[int] = []
        self.asked: list[bool] = []
        self.outcomes: list[Outcome] = []

    def start_generation(self, asked: bool) -> Any:
        self.asked.append(asked)
        epoch = self.live[-1].epoch + 1 if self.live else 1
        self.live.append(SimpleNamespace(epoch=epoch, state=State.STARTING, drains_since_s=0.0, why=""))
        return self.live[-1]

    def live_generations(self) -> list[Any]:
        return list(self.live)

    def expire(self, live: Any) -> None:
        self.expired.append(live.epoch)

    def abort(self, live: Any, why: str) -> None: ...

    def restart_began(self) -> None: ...

    def restart_ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def serve(self) -> None:
        """What was started accepts; who accepted drains."""
        for each in self.live[:-1]:
            if each.state is State.ACTIVE:
                each.state, each.drains_since_s = State.DRAINING, self.time_s
        self.live[-1].state = State.ACTIVE
        self.restarts.serves(self.live[-1], ())

    def leave(self, epoch: int) -> None:
        self.live = [each for each in self.live if each.epoch != epoch]
        self.restarts.gone()

    def pass_time(self, seconds: float) -> None:
        self.time_s += seconds
        self.loop.at(self.time_s, lambda: None)
        self.loop.turn()


@pytest.fixture
def plane() -> Iterator[FakePlane]:
    made = FakePlane()
    for _ in range(MAX_LIVE):
        made.restarts.request()
        made.serve()
    yield made
    made.loop.close()


def test_in_a_burst_of_reloads_the_oldest_has_a_moment_to_drain(plane: FakePlane) -> None:
    """Its keep-alive clients were cut off before they were told anything."""
    plane.restarts.request()
    plane.pass_time(ROOM_S * 0.9)
    assert plane.expired == [] and plane.live[-1].epoch == MAX_LIVE
    plane.leave(1)  # by itself
    assert plane.live[-1].epoch == MAX_LIVE + 1
    plane.pass_time(ROOM_S)
    assert plane.expired == []


def test_then_it_must_end(plane: FakePlane) -> None:
    plane.restarts.request()
    plane.restarts.request()
    plane.pass_time(ROOM_S)
    assert plane.expired == [1]
    plane.leave(1)
    assert plane.live[-1].epoch == MAX_LIVE + 1


def test_one_that_has_drained_long_enough_goes_at_once(plane: FakePlane) -> None:
    plane.pass_time(ROOM_S)
    plane.restarts.request()
    assert plane.expired == [1]


def test_a_stop_meanwhile_starts_nothing(plane: FakePlane) -> None:
    plane.restarts.request()
    plane.restarts.close()
    plane.pass_time(ROOM_S)
    plane.leave(1)
    assert plane.expired == [] and plane.live[-1].epoch == MAX_LIVE


def test_a_zygote_that_soon_dies_is_started_afresh_ever_more_patiently(plane: FakePlane) -> None:
    """Without this, one that dies of serving is started again and again, as fast as Python can."""

    def afresh_after() -> float:
        epoch, began_s = plane.live[-1].epoch, plane.time_s
        plane.live = [SimpleNamespace(epoch=epoch, state=State.ORPHANED, drains_since_s=0.0, why="")]
        plane.restarts.replace()
        plane.pass_time(0.0)
        while plane.live[-1].epoch == epoch:
            plane.pass_time(0.5)
        waited_s = plane.time_s - began_s
        plane.serve()
        return waited_s

    assert [afresh_after() for _ in range(7)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    plane.pass_time(HEALTHY_S)
    assert [afresh_after() for _ in range(2)] == [0.0, 1.0]


def test_a_restart_that_somebody_asks_for_replaces_it_as_well(plane: FakePlane) -> None:
    """It was started afresh once more, up to 30 s after a good reload."""
    plane.live = [SimpleNamespace(epoch=MAX_LIVE, state=State.ORPHANED, drains_since_s=0.0, why="")]
    plane.restarts.replace()
    plane.restarts.request()
    plane.serve()
    plane.pass_time(60.0)
    assert plane.live[-1].epoch == MAX_LIVE + 1


def test_only_what_somebody_asks_for_must_be_what_is_on_disk(plane: FakePlane) -> None:
    """A replacement may fall back on the last good config, and goes without compiled code; a reload does neither."""
    plane.live = plane.live[-1:]
    plane.asked.clear()
    assert plane.restarts.replace() and not plane.restarts.replace()
    plane.pass_time(0.0)
    plane.restarts.request()  # waits for its turn
    plane.serve()
    plane.serve()
    assert plane.asked == [False, True]


def test_a_restart_ends_when_all_have_yielded_to_it_and_no_other_one(plane: FakePlane) -> None:
    """An orphan and the generation that replaced it yield together. The first ended the restart, and the second one the
    next restart, before that had served at all."""
    for epoch in (1, 2):
        plane.leave(epoch)
    before = len(plane.outcomes)
    plane.restarts.request()
    plane.restarts.serves(plane.live[-1], [1, 7])
    plane.restarts.yielded(1, moved(10, 1, 20))
    plane.restarts.yielded(5, moved(1000, 0, 1))
    assert len(plane.outcomes) == before and plane.restarts.running
    plane.restarts.yielded(7, moved(5, 0, 30))
    assert len(plane.outcomes) == before + 1 and not plane.restarts.running
    outcome = plane.outcomes[-1]
    assert (outcome.moved, outcome.refused, outcome.move_ms) == (15, 1, 30)
    assert outcome.reason.endswith("ms, 15 connections moved in 30 ms, 1 drains")
    plane.restarts.request()
    plane.restarts.yielded(7, moved(10, 1, 20))
    assert len(plane.outcomes) == before + 1 and plane.restarts.running


def test_who_has_no_patience_is_answered_while_connections_still_move(plane: FakePlane) -> None:
    """`reload --timeout 3` gave up on the supervisor, though the new generation served long since."""
    for epoch in (1, 2):
        plane.leave(epoch)
    answers: list[tuple[bool, str]] = []
    caller: Any = SimpleNamespace(answer=lambda ok, reason, data=None: answers.append((ok, reason)))
    plane.restarts.request(caller, 3.0)
    plane.restarts.serves(plane.live[-1], [3])
    plane.pass_time(2.0)
    assert answers == []
    plane.pass_time(2.0)
    assert answers == [(True, "generation 3 -> 4 serves; connections still move after 3 s")]
    plane.restarts.yielded(3, moved(5, 0, 4000))
    assert len(answers) == 1 and plane.outcomes[-1].moved == 5


def moved(count: int, refused: int, ms: int) -> Move:
    return Move((), list, lambda _: None, 0.0, 30.0, moved=count, refused=refused, ms=ms)
